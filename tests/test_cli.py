"""The command line: help, what goes to stdout and what to stderr, doing things once, dry runs, no torch before work."""

import importlib.metadata
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from command import TINY, done, ptdpo, refused
from ptdpo_cli import cli
from ptdpo_cli.artifacts.schemas import SCHEMA_VERSIONS
from ptdpo_cli.artifacts.store import Artifact, artifact_paths
from ptdpo_cli.recipe import load_recipe

COMMANDS = sorted(typer.main.get_command(cli.app).commands)
STAGES = ("build-hints", "rollout", "score-ref", "train", "eval")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A trained and evaluated run of one iteration; the tests below read it or repeat its commands."""
    run = tmp_path_factory.mktemp("cli") / "run"
    for stage in STAGES:
        done(stage, *here(run))
    return run


def here(run: Path) -> tuple:
    return (*TINY, "--run", run, "--set", "train.iterations=1", "--set", "train.keep_iterations=1")


def options_of(command: str) -> set[str]:
    return {name for parameter in typer.main.get_command(cli.app).commands[command].params for name in parameter.opts}


def snapshot(run: Path) -> dict:
    return {str(p.relative_to(run)): p.stat().st_mtime_ns for p in run.rglob("*")} if run.exists() else {}


# --- help and version -------------------------------------------------------------------------------------------------


def test_the_commands_are_those_of_the_design():
    assert set(COMMANDS) >= {*STAGES, "sft", "compare", "status", "verify", "show", "stages", "demo"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(command):
    shown = done(command, "--help")
    assert shown.err == "" and "Usage: ptdpo" in shown.out
    example = re.search(r"Example: `?(ptdpo [^`\n│]+)`?", " ".join(shown.out.split()))
    assert example, shown.out
    words = example[1].split()
    assert words[1] == command
    options = options_of(command)
    assert {word for word in words if word.startswith("-")} <= options
    assert "--json" in options
    assert done(command, "-h").out == shown.out


def test_every_option_says_what_it_does():
    for name, command in typer.main.get_command(cli.app).commands.items():
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


def test_stages_share_their_options():
    for stage in (*STAGES, "sft"):
        assert options_of(stage) >= {"--recipe", "--run", "--set", "--dry-run", "--json", "--force", "-q", "-v"}, stage


def test_no_command_prints_the_help():
    shown = done()
    assert "build-hints" in shown.out and shown.err == ""
    assert done("--help").out.split() == shown.out.split()


def test_version():
    assert done("--version").out == f"ptdpo {importlib.metadata.version('ptdpo')}\n"


def test_stages_lists_every_kind_of_artifact():
    stages = done("stages", "--json").json["stages"]
    assert [stage["number"] for stage in stages] == list(range(6))
    assert {stage["name"] for stage in stages} == {*STAGES, "sft"}
    # Problems are made by whatever needs them first, and utility by `ptdpo hints score`, beside the flow.
    assert {stage["writes"] for stage in stages} | {"problems", "utility"} == set(SCHEMA_VERSIONS)
    assert {kind for stage in stages for kind in stage["reads"]} <= set(SCHEMA_VERSIONS)
    assert all(stage["schema_version"] == SCHEMA_VERSIONS[stage["writes"]] for stage in stages)
    text = done("stages").out
    assert all(stage["name"] in text for stage in stages)


# --- stdout and stderr ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_command_again_is_already_done_and_force_makes_the_same_content(stage, run):
    command = (stage, *here(run))
    if stage == "score-ref":
        command = (*command, "--rollouts", artifact_paths(run / "rollouts")[0])
    before = snapshot(run)
    again = done(*command)
    assert again.out.count("\n") == 1 and again.path.is_dir()
    assert f"already done: {again.path} (--force makes it again)" in again.err
    before.pop("recipe.yaml"), before.pop(".", None)
    after = snapshot(run)
    assert {name: after[name] for name in before} == before
    content = Artifact.open(again.path).content_hash
    forced = done(*command, "--force", "--json")
    assert forced.json | {"path": str(again.path), "content_hash": content, "already_done": False} == forced.json
    assert "already done" not in forced.err
    assert Artifact.open(again.path).content_hash == content


@pytest.mark.parametrize("command", [
    *((stage,) for stage in STAGES), ("status",), ("verify",), ("show",), ("compare",), ("stages",),
    *((stage, "--dry-run") for stage in STAGES),
], ids=" ".join)
def test_json_is_one_object_and_nothing_else_on_stdout(command, run):
    if command[0] in STAGES:
        words = (*command, *here(run))
    else:
        words = (*command, *{"status": (run,), "verify": (run,), "show": (run / "hints",),
                             "compare": (run / "evals", run / "evals")}.get(command[0], ()))
    shown = done(*words, "--json")
    assert isinstance(json.loads(shown.out), dict) and shown.out.count("\n") == 1
    if len(command) == 1 and command[0] in STAGES:
        assert {"path", "kind", "content_hash", "counts", "already_done"} <= shown.json.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_quiet_leaves_the_path_alone(stage, run):
    shown = done(stage, *here(run), "-q")
    assert shown.err == "" and shown.path.is_dir() and shown.out == f"{shown.path}\n"


def test_a_log_gets_lines_and_no_bar(tmp_path):
    shown = done("build-hints", *here(tmp_path / "run"), "--limit", 5)
    assert shown.err.splitlines() == [
        "build-hints: 0/5 building hints", "build-hints: 5/5 building hints",
        "5 hints for 5 problems, 0 refused"]
    assert done("build-hints", *here(tmp_path / "run2"), "--force", "-q").err == ""


def test_an_error_leaves_stdout_empty_under_json_too(tmp_path):
    said = refused(3, "show", tmp_path, "--json")
    assert said == refused(3, "show", tmp_path)


def test_limit_is_the_first_problems_and_another_artifact(run):
    for stage, count in (("build-hints", "problems"), ("rollout", "problems"), ("eval", "problems")):
        part = done(stage, *here(run), "--limit", 2, "--json").json
        assert part["counts"][count] == 2
        assert part["path"] != done(stage, *here(run)).out.strip()
    first = [row["problem_id"] for row in Artifact.open(part["path"]).table("evals").to_pylist()]
    whole = Artifact.open(done("eval", *here(run)).path).table("evals").to_pylist()
    assert set(first) == {row["problem_id"] for row in whole[:24]} & set(first) and len(set(first)) == 2


def test_the_run_remembers_its_recipe(run):
    here(run)
    stored = load_recipe(run / "recipe.yaml")
    assert stored.train.iterations == 1 and stored.data.count == 40
    assert done("build-hints", "--run", run, "--json").json["already_done"]
    assert done("eval", "--run", run, "--json").json["already_done"]


# --- dry runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_dry_run_shows_the_recipe_and_touches_nothing(stage, run):
    command = (stage, *here(run), "--dry-run")
    if stage == "score-ref":
        command = (*command, "--rollouts", artifact_paths(run / "rollouts")[0])
    before = snapshot(run)
    shown = done(*command)
    assert snapshot(run) == before
    resolved, _, checks = shown.out.partition("\nok  ")
    assert yaml.safe_load(resolved)["train"]["iterations"] == 1
    assert "problems from digit-grid" in checks and "nothing was written" in checks
    found = done(*command, "--json").json
    assert found["stage"] == stage and found["recipe"]["train"]["iterations"] == 1 and found["checks"]


@pytest.mark.parametrize("stage", ["build-hints", "rollout", "train"])
def test_a_dry_run_does_not_even_make_the_folder(stage, tmp_path):
    done(stage, *here(tmp_path / "run"), "--dry-run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["score-ref", "eval"])
def test_a_dry_run_of_what_has_nothing_to_read_fails_and_makes_nothing(stage, tmp_path):
    refused(3, stage, *here(tmp_path / "run"), "--dry-run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("stage", "overrides", "code", "says"), [
    ("train", ["train.updates_per_iteration=5"], 1, "more updates per iteration than problems"),
    ("train", ["train.keep_iterations=1000000000"], 1, "the disk is too small"),
    ("rollout", ["prompt.max_prompt_tokens=20"], 2, "too long"),
    ("rollout", ["rollout.max_new_tokens=2048"], 2, "longer than the model's positions"),
    ("rollout", ["model.path=/none"], 2, "cannot load"),
    ("eval", ["eval.split=tset"], 2, "tset"),
    ("build-hints", ["data.kinds=[top raw]"], 2, "top raw"),
])
def test_a_dry_run_fails_where_the_run_would(stage, overrides, code, says, run):
    before = snapshot(run)
    words = [word for override in overrides for word in ("--set", override)]
    refused(code, stage, *here(run), *words, "--dry-run", says=(says,))
    assert snapshot(run) == before
    if "disk" not in says:
        refused(code, stage, *here(run), *words, says=(says,))


# --- processes of their own -------------------------------------------------------------------------------------------


HEAVY = """
import sys
from ptdpo_cli import cli
try:
    cli.main()
except SystemExit:
    pass
print("heavy:", sorted({"torch", "transformers", "accelerate", "datasets"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"], ["stages", "--json"],
                                       ["train", "--set", "xyzzy=1"], ["status", "."]], ids=" ".join)
def test_what_does_no_work_imports_no_torch(arguments):
    ended = subprocess.run([sys.executable, "-c", HEAVY, *arguments], capture_output=True, text=True)
    assert ended.stderr.rstrip().endswith("heavy: []"), ended.stderr


def in_a_terminal(*arguments: str, **environment) -> str:
    """What a command writes to a terminal of 100 columns."""
    master, slave = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    process = subprocess.Popen([sys.executable, "-m", "ptdpo_cli", *arguments], stdout=slave, stderr=slave,
                               env=clean | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment)
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:     # Linux ends a terminal without writers so
        pass
    process.wait()
    os.close(master)
    return shown.decode()


def test_colour_in_a_terminal_unless_no_color():
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    coloured = in_a_terminal("train", "--set", "xyzzy=1")
    assert colour.search(coloured) and "unknown key xyzzy" in coloured
    plain = in_a_terminal("train", "--set", "xyzzy=1", NO_COLOR="1")
    assert not colour.search(plain) and "unknown key xyzzy" in plain


def test_a_closed_pipe_is_no_traceback():
    process = subprocess.Popen([sys.executable, "-m", "ptdpo_cli", "stages", "--json"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()


def test_a_hint_names_ptdpo_however_it_was_started(tmp_path):
    ended = subprocess.run([sys.executable, "-m", "ptdpo_cli", "nope"], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2 and "`ptdpo --help`" in ended.stderr and ended.stdout == ""
    assert ptdpo("nope").err == ended.stderr
