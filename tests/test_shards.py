"""--shard and merge: n tasks make what one makes, byte for byte; what is missing, foreign or damaged is named."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command import TINY, done, flip, refused
from ptdpo_cli.artifacts import store
from ptdpo_cli.artifacts.lock import Lock
from ptdpo_cli.artifacts.parts import Part, part_dir, parts_dir
from ptdpo_cli.artifacts.store import Artifact, artifact_paths, lock_file, partial_dir
from ptdpo_cli.errors import LockedError, PtdpoError, UsageError
from ptdpo_cli.stages import build_hints, copies
from ptdpo_cli.stages import merge as merging
from ptdpo_cli.stages.plan import made_by_one
from ptdpo_cli.stages.status import status

# Shards of each stage in this recipe: 40 problems in 16s, 8 in 2s, as the rollouts, 12 in 4s.
UNITS = {"hints": 3, "rollouts": 4, "scores": 4, "evals": 3}
SETTINGS = (*TINY, *("--set", "rollout.problems_per_iteration=8"), *("--set", "eval.problems_per_shard=4"), "-q")
COMMANDS = {"hints": "build-hints", "rollouts": "rollout", "scores": "score-ref", "evals": "eval"}
OPTIONS = {"hints": (), "rollouts": ("--iteration", 0), "scores": ("--iteration", 0), "evals": ("--iteration", 0)}


def make(run: Path, kind: str, *more: object) -> Path:
    return done(COMMANDS[kind], *SETTINGS, "--run", run, *OPTIONS[kind], *more).path


def contents(path: Path) -> dict[str, bytes]:
    """All files of an artifact but its manifest, which says when it was made."""
    return {p.name: p.read_bytes() for p in path.rglob("*") if p.name != "manifest.json"}


@pytest.fixture(autouse=True)
def small_hint_shards(monkeypatch):
    monkeypatch.setattr(build_hints, "_SHARD_ROWS", 16)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that was made without shards."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_hints, "_SHARD_ROWS", 16)
        for kind in UNITS:
            make(run, kind)
    return run


@pytest.fixture
def run(whole, tmp_path):
    """The same run without what is to be made in parts: `run("scores")` lacks the scores."""

    def without(*kinds: str) -> Path:
        shutil.copytree(whole, tmp_path / "run")
        for kind in kinds:
            shutil.rmtree(tmp_path / "run" / kind)
        return tmp_path / "run"

    return without


def only(run: Path, kind: str) -> Path:
    (path,) = artifact_paths(run / kind)
    return path


# --- the same artifact ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_joined_are_what_one_task_makes(whole, run, kind, count):
    there = run(kind)
    for index in reversed(range(count)):
        path = make(there, kind, "--shard", f"{index}/{count}")
        assert path.name == f"{index}-of-{count}" and path.parent.name.endswith(".parts")
    (row,) = [row for row in status(there) if row["kind"] == kind]
    assert row["state"] == "unfinished" and row["parts"] == [{"of": count, "finished": count}]
    joined = done("merge", there / kind, "--json").json["artifacts"]
    assert [row["parts"] for row in joined] == [count]
    path, expected = only(there, kind), only(whole, kind)
    assert contents(path) == contents(expected) and len(contents(path)) >= UNITS[kind]
    ours, theirs = Artifact.open(path).manifest, Artifact.open(expected).manifest
    assert ours.content_hash == theirs.content_hash and ours.extra == theirs.extra and "--shard" not in ours.command
    assert not parts_dir(path).exists() and not partial_dir(path).exists() and not lock_file(path).exists()
    done("verify", there)


def test_merging_again_and_a_part_of_what_is_whole_change_nothing(run):
    there = run("rollouts")
    for index in range(2):
        make(there, "rollouts", "--shard", f"{index}/2")
    assert make(there, "rollouts", "--shard", "0/2").name == "0-of-2"       # finished: nothing to do
    done("merge", there)
    before = sorted(there.rglob("*"))
    again = done("merge", there, "--json").json["artifacts"]
    assert {row["kind"] for row in again} >= set(UNITS) and all(row["already_done"] for row in again)
    assert make(there, "rollouts", "--shard", "1/2") == only(there, "rollouts")
    assert sorted(there.rglob("*")) == before


def test_a_limit_counts_before_the_parts(whole, run):
    there = run("rollouts")
    expected = contents(make(there, "rollouts", "--limit", 5))
    shutil.rmtree(there / "rollouts")
    for index in range(2):
        make(there, "rollouts", "--limit", 5, "--shard", f"{index}/2")
    done("merge", there / "rollouts")
    assert contents(only(there, "rollouts")) == expected and len(expected) == 6       # 3 shards of 2 files


def test_force_makes_a_part_again_and_merge_takes_it(whole, run):
    there = run()
    first = only(there, "evals")
    make(there, "evals", "--shard", "0/2", "--force")
    assert Artifact.open(there / "evals").path == first     # the parts confuse nobody
    assert [row["state"] for row in status(there) if row["kind"] == "evals"] == ["finished", "unfinished"]
    joined = done("merge", there / "evals", "--json").json["artifacts"]
    assert joined[0]["already_done"] and not parts_dir(first).exists()      # it says what the whole says
    make(there, "evals", "--shard", "0/2", "--force")
    make(there, "evals", "--shard", "1/2", "--force")
    assert done("merge", there / "evals", "--json").json["artifacts"][0]["parts"] == 2
    assert contents(only(there, "evals")) == contents(only(whole, "evals"))


def test_the_next_stage_reads_the_whole_and_no_part(run):
    there = run("rollouts")
    part = make(there, "rollouts", "--shard", "0/2")
    command = ("score-ref", *SETTINGS, "--run", there)
    refused(3, *command, says=("is not finished", "1 of 2 parts", "ptdpo merge"))
    refused(3, *command, "--iteration", 0, says=("no rollouts of iteration 0", "1 of 2 parts", "ptdpo merge"))
    refused(3, *command, "--rollouts", part, says=("is part 0/2", "ptdpo merge"))


# --- what is missing, foreign, damaged --------------------------------------------------------------------------------


def test_missing_parts_are_named_with_the_command_that_makes_them(run):
    there = run("rollouts")
    make(there, "rollouts", "--shard", "1/4")
    make(there, "rollouts", "--shard", "2/4")
    error = refused(3, "merge", there, says=("2 of 4 parts", "missing 0/4, 3/4", "--array=0,3", "SHARDS=4"))
    commands = [line.strip(" `") for line in error.splitlines() if "--shard" in line]
    assert len(commands) == 2 and commands[1].endswith("--iteration 0 --shard 3/4")
    assert not (only(there, "rollouts") / "manifest.json").exists()
    make(there, "rollouts", "--shard", "0/4")
    make(there, "rollouts", "--shard", "3/4")
    done("merge", there)


def test_parts_of_another_n_do_not_count(whole, run):
    there = run("rollouts")
    make(there, "rollouts", "--shard", "0/2")
    make(there, "rollouts", "--shard", "1/3")
    refused(3, "merge", there, says=("all parts of one N", "1 of 2 parts, 1 of 3 parts", "missing 1/2"))
    make(there, "rollouts", "--shard", "1/2")
    done("merge", there)
    assert contents(only(there, "rollouts")) == contents(only(whole, "rollouts"))
    assert not parts_dir(only(there, "rollouts")).exists()


def test_a_part_of_other_inputs_is_refused(run, tmp_path):
    there = run("rollouts")
    make(there, "rollouts", "--shard", "0/2")
    shutil.move(parts_dir(only(there, "rollouts")), tmp_path / "aside.parts")
    foreign = make(there, "rollouts", "--shard", "1/2", "--set", "rollout.temperature=0.5")
    path = there / "rollouts" / foreign.parent.name
    shutil.copytree(tmp_path / "aside.parts" / "0-of-2", path / "0-of-2")
    refused(3, "merge", there, says=("other inputs", "input_key"))
    shutil.rmtree(path / "0-of-2")
    shutil.copytree(path / "1-of-2", path / "0-of-2")
    refused(3, "merge", there, says=("another part than its name says",))


def test_a_damaged_part_is_named_with_its_command(whole, run):
    there = run("scores")
    parts = [make(there, "scores", "--shard", f"{index}/2") for index in range(2)]
    flip(parts[1] / "scores-00003.safetensors")
    error = refused(3, "merge", there / "scores", says=("1-of-2 is damaged", "scores-00003.safetensors"))
    assert "--shard 1/2 --force" in error
    make(there, "scores", "--shard", "1/2", "--force")
    done("merge", there / "scores")
    assert contents(only(there, "scores")) == contents(only(whole, "scores"))


def test_what_is_whole_is_joined_although_something_else_is_not(run):
    there = run("scores", "evals")
    make(there, "scores", "--shard", "0/2")
    make(there, "evals", "--shard", "0/1")
    refused(3, "merge", there, says=("missing 1/2",))
    assert (only(there, "evals") / "manifest.json").is_file()


def test_nothing_to_merge(tmp_path):
    refused(3, "merge", tmp_path, says=("nothing to join", "--shard"))


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/2", "0/0"])
def test_a_shard_that_is_none(tmp_path, text):
    with pytest.raises(UsageError, match="--shard takes"):
        Part.parse(text)
    if text != "-1/2":
        refused(2, "rollout", *TINY, "--run", tmp_path / "run", "--shard", text, "--dry-run")
        assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_part_checks_and_writes_nothing(tmp_path):
    for kind in ("hints", "rollouts"):
        ended = done(COMMANDS[kind], *SETTINGS, "--run", tmp_path / "run", "--shard", "1/2", "--dry-run", "--json")
        assert ended.json["checks"] and not (tmp_path / "run").exists()


# --- many at once, and killed -----------------------------------------------------------------------------------------


def start(*arguments: object, log: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "ptdpo_cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log.open("w"))


def wait_for(condition) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_tasks_that_start_at_once_make_the_problems_once(whole, tmp_path):
    """All of them meet a process that is making the problems; when it is gone, one of them does."""
    run, logs = tmp_path / "run", [tmp_path / f"{index}.log" for index in range(2)]
    settings = SETTINGS[:-1]        # without -q
    done("build-hints", *settings, "--run", tmp_path / "other")     # in this process, for the name of the problems
    problems = run / "problems" / only(tmp_path / "other", "problems").name
    with Lock(lock_file(problems)):
        tasks = [start("rollout", *settings, "--run", run, "--shard", f"{i}/2", log=log) for i, log in enumerate(logs)]
        wait_for(lambda: all("waiting: another process is writing" in log.read_text() for log in logs))
    for task, log in zip(tasks, logs, strict=True):
        assert task.wait(timeout=120) == 0, log.read_text()
    done("merge", run)
    assert contents(only(run, "rollouts")) == contents(only(whole, "rollouts"))
    assert contents(problems) == contents(whole / "problems" / problems.name)


def test_waiting_for_another_process_has_an_end():
    said, calls = [], []

    def make() -> str:
        calls.append(len(calls))
        if len(calls) < 3:
            raise LockedError("another process is writing a", found="pid 1")
        return "made"

    assert made_by_one(make, said.append) == "made" and said == ["waiting: another process is writing a (pid 1)"]
    calls.clear()
    with pytest.raises(LockedError):
        made_by_one(make, said.append, patience_s=-1)


def test_a_killed_part_goes_on_where_it_was(whole, tmp_path):
    """kill -9 after its first shard of two; the finished shard is not sampled again."""
    there = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(there / "rollouts")
    task = start("rollout", *SETTINGS, "--run", there, "--shard", "1/2", log=tmp_path / "log")
    wait_for(lambda: list(there.glob("rollouts/*.parts/1-of-2.partial/shard-*.json")))
    task.send_signal(signal.SIGKILL)
    task.wait()
    (first,) = there.glob("rollouts/*.parts/1-of-2.partial/rollouts-00001.parquet")
    before = first.stat().st_mtime_ns
    path = make(there, "rollouts", "--shard", "1/2")
    assert [p.name for p in sorted(path.glob("*.parquet"))] == ["rollouts-00001.parquet", "rollouts-00003.parquet"]
    assert task.returncode == -signal.SIGKILL and (path / first.name).stat().st_mtime_ns == before
    make(there, "rollouts", "--shard", "0/2")
    done("merge", there)
    assert contents(only(there, "rollouts")) == contents(only(whole, "rollouts"))


class Killed(BaseException):
    """As if the process ended here."""


# Where a merge is cut short: object, name of the function, and the call at which it happens; with what is there then.
MOMENTS = {
    "linking": (store.Writer, "take_shards", lambda calls, _: calls == 2, False),
    "before the manifest": (merging, "sum_counts", lambda calls, _: calls == 1, False),
    "before the swap": (store, "_finish_swap", lambda calls, _: calls == 2, False),
    "removing manifests": (Path, "unlink", lambda _, path: path.match("*.parts/1-of-2/manifest.json"), True),
    "removing parts": (shutil, "rmtree", lambda _, path: Path(path).name.endswith(".parts"), True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_merge_killed_at_any_step_leaves_nothing_half(whole, run, monkeypatch, moment):
    there = run("evals")
    for index in range(2):
        make(there, "evals", "--shard", f"{index}/2")
    path, calls = only(there, "evals"), []
    place, name, is_the_one, is_whole = MOMENTS[moment]
    real = getattr(place, name)

    def die(first, *rest, **named):
        calls.append(first)
        if is_the_one(len(calls), first):
            raise Killed
        return real(first, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, die)
        with pytest.raises(Killed):
            merging.merge(there / "evals")
    assert (path / "manifest.json").is_file() == is_whole
    if is_whole:
        assert Artifact.open(there / "evals").path == path
    done("merge", there / "evals")
    assert contents(path) == contents(only(whole, "evals")) and not parts_dir(path).exists()
    done("verify", there)


def test_a_stage_after_a_killed_merge_does_not_write_into_the_parts(run, monkeypatch):
    """Links share their bytes: a whole run over what the merge left must not change the part's files."""
    there = run("rollouts")
    parts = [make(there, "rollouts", "--shard", f"{index}/2") for index in range(2)]
    before = [contents(part) for part in parts]
    path = only(there, "rollouts")
    partial_dir(path).mkdir()
    for part in parts:
        for file in part.glob("rollouts-*"):
            os.link(file, partial_dir(path) / file.name)
    inodes = {file.name: file.stat().st_ino for part in parts for file in part.glob("rollouts-*")}
    whole = make(there, "rollouts")
    assert [contents(part) for part in parts] == before
    assert all((whole / name).stat().st_ino != inode for name, inode in inodes.items())


def test_a_part_that_is_being_made_again_is_not_joined(run):
    there = run("evals")
    for index in range(2):
        make(there, "evals", "--shard", f"{index}/2")
    with Lock(lock_file(part_dir(only(there, "evals"), Part(2, 1)))):
        refused(4, "merge", there / "evals", says=("1-of-2", f"pid {os.getpid()}"))
    done("merge", there / "evals")


# --- iterations -------------------------------------------------------------------------------------------------------


def chain(run: Path, iterations: int, *more: object) -> Path:
    """The separate commands, by the number of the iteration alone."""
    options = (*SETTINGS, "--run", run, *more)
    done("build-hints", *options)
    for i in range(iterations):
        done("rollout", *options, "--iteration", i)
        done("score-ref", *options, "--iteration", i)
        policy = done("train", *options, "--iteration", i).path
    return policy


def weights(path: Path) -> bytes:
    return (path / "model.safetensors").read_bytes()


def test_a_chain_needs_no_hashes_and_equals_the_loop(tmp_path):
    two = ("--set", "train.iterations=2")
    policy = chain(tmp_path / "chain", 2, *two)
    looped = done("train", *SETTINGS, *two, "--run", tmp_path / "loop").path
    assert weights(policy) == weights(looped)
    by_number = ("eval", *SETTINGS, *two, "--run", tmp_path / "chain", "--json")
    assert done(*by_number, "--iteration", 2).json["path"] == done(*by_number, "--policy", policy).json["path"]
    assert done(*by_number, "--iteration", 1).json["path"] != done(*by_number, "--iteration", 2).json["path"]
    # Loop and chain in one run: the same weights are no ambiguity.
    done("train", *SETTINGS, *two, "--run", tmp_path / "chain")
    assert done(*by_number, "--iteration", 2).json["already_done"]


def test_what_an_iteration_lacks_is_said_with_its_command(run):
    there = run("scores", "evals")
    options = (*SETTINGS, "--run", there)
    for dry in ((), ("--dry-run",)):
        refused(3, "rollout", *options, "--iteration", 1, *dry,
                says=("policy after 1 iteration", "train --iteration 0"))
        refused(3, "score-ref", *options, "--iteration", 1, *dry, says=("policy after 1 iteration",))
        refused(3, "train", *options, "--iteration", 0, *dry, says=("scores of the rollouts of iteration 0",
                                                                     "score-ref --iteration 0"))
        refused(3, "eval", *options, "--iteration", 3, *dry, says=("policy after 3 iterations", "train --iteration 2"))
        refused(3, "train", *options, "--iteration", 0, "--set", "rollout.temperature=0.7", *dry,
                says=("rollouts of iteration 0", "others in"))
    refused(2, "train", *options, "--iteration", 0, "--rollouts", there / "rollouts", says=("--rollouts",))
    refused(2, "eval", *options, "--iteration", 0, "--policy", "tiny-base", says=("--policy",))


def test_an_iteration_of_another_base_or_other_problems_is_not_taken(tmp_path):
    """A recipe with another model, or another seed, does not go on from this one's policies."""
    policy = chain(tmp_path / "run", 1)
    other = ("rollout", *SETTINGS, "--run", tmp_path / "run", "--iteration", 1, "--dry-run")
    assert str(policy) in "\n".join(done(*other, "--json").json["checks"])
    base = shutil.copytree(policy, tmp_path / "base")
    (base / "manifest.json").unlink()
    refused(3, *other, "--set", f"model.path={base}", says=("no policy after 1 iteration",))
    refused(3, *other, "--set", "seed=1", says=("not finished",))


def test_two_that_differ_are_refused(tmp_path):
    """The same recipe twice from rollouts of one and of another limit: which of the two is the first iteration?"""
    run = tmp_path / "run"
    options = (*SETTINGS, "--run", run)
    chain(run, 1)
    done("rollout", *options, "--iteration", 0, "--limit", 4)
    error = refused(3, "score-ref", *options, "--iteration", 0, says=("several rollouts of iteration 0", "--rollouts"))
    assert error.count(str(run / "rollouts" / "v1-")) == 2


def test_commands_at_the_same_number_see_the_same_key(run):
    """`--iteration 0` is what a command does without it."""
    there = run()
    before = sorted(there.glob("*/v*"))
    for kind in ("rollouts", "scores"):
        done(COMMANDS[kind], *SETTINGS, "--run", there)
    assert sorted(there.glob("*/v*")) == before


# --- copies of an engine ----------------------------------------------------------------------------------------------


def test_copies_of_a_command_make_its_parts(tmp_path):
    words = ("rollout", *TINY, "--run", tmp_path / "copies", "--shard", "0/9", "--shard=1/9")
    assert copies.run_copies([str(word) for word in words], 2, 1, None) is None
    joined = done("merge", tmp_path / "copies" / "rollouts", "--json").json["artifacts"][0]
    alone = done("rollout", *TINY, "--run", tmp_path / "alone", "--json").json
    assert joined["parts"] == 2 and joined["content_hash"] == alone["content_hash"]


def test_a_copy_that_fails_is_named(tmp_path, capfd):
    words = ("rollout", *TINY, "--run", tmp_path / "copies", "--set", "xyzzy=1")
    with pytest.raises(PtdpoError, match="2 of 2 copies") as failed:
        copies.run_copies([str(word) for word in words], 2, 1, Part(3, 1))
    assert "copy 1 with exit code 2" in str(failed.value) and "unknown key xyzzy" in capfd.readouterr().err


def test_every_copy_has_gpus_of_its_own(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert copies.gpus_of_copies(2, 2) == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert copies.gpus_of_copies(2, 2) == ["4,5", "6,7"] and copies.gpus_of_copies(3, 1) == ["4", "5", "6"]
    with pytest.raises(UsageError, match="too many"):
        copies.gpus_of_copies(3, 2)
