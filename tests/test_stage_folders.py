"""stages/: each README says what `ptdpo stages --json` says, and each run.sbatch runs the command of its name."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import SMALL
from ptdpo_cli.stages.contracts import STAGES

FOLDER = Path(__file__).parents[1] / "stages"
TITLES = ["reads", "writes", "schema version", "needs"]
NAMES = [f"{stage.number}-{stage.name}" for stage in STAGES]

# In place of ptdpo: says with what it was called; on TERM it takes a moment, as saving does, and ends with 143.
FAKE_PTDPO = """#!/usr/bin/env bash
trap 'sleep 0.3; exit 143' TERM
printf '%s\\n' "$@" > called
while [[ -e wait ]]; do sleep 0.05; done
exit "${CODE:-0}"
"""


def script(stage) -> Path:
    return FOLDER / f"{stage.number}-{stage.name}" / "run.sbatch"


def contract(readme: str) -> dict[str, str]:
    """The one row of the table that starts with `| reads |`."""
    lines = readme.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| reads |"))
    titles, row = ([cell.strip() for cell in lines[i].strip("|").split("|")] for i in (start, start + 2))
    return dict(zip(titles, row, strict=True))


def test_one_folder_per_stage_and_no_other():
    assert sorted(path.name for path in FOLDER.iterdir() if path.is_dir()) == NAMES


def test_readmes_say_what_the_command_says(capsys):
    from ptdpo_cli.cli import app

    app(["stages", "--json"], standalone_mode=False)
    for stage in json.loads(capsys.readouterr().out)["stages"]:
        name = f"{stage['number']}-{stage['name']}"
        readme = (FOLDER / name / "README.md").read_text()
        reads = ", ".join(stage["reads"]) or "a data set"
        expected = [reads, stage["writes"], str(stage["schema_version"]), stage["needs"]]
        assert readme.startswith(f"# {name}\n")
        assert contract(readme) == dict(zip(TITLES, expected, strict=True))
        assert f"    ptdpo {stage['name']} --recipe " in readme and f"sbatch stages/{name}/run.sbatch" in readme


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
def test_scripts_are_bash_with_what_a_requeue_needs(stage):
    assert subprocess.run(["bash", "-n", script(stage)]).returncode == 0 and os.access(script(stage), os.X_OK)
    options = re.findall(r"^#SBATCH (\S+)", script(stage).read_text(), re.MULTILINE)
    assert {f"--job-name=ptdpo-{stage.name}", "--open-mode=append", "--requeue", "--signal=B:USR1@120"} <= set(options)


def test_scripts_differ_in_their_command_and_defaults_alone():
    """So that it is enough to send signals to one of them."""
    def body(stage) -> str:
        text = script(stage).read_text().partition("set -euo pipefail")[2]
        text = text.replace(f"$PTDPO {stage.name} ", "$PTDPO STAGE ")
        return re.sub(r"^(RECIPE|RUN)=.*", r"\1", text, flags=re.MULTILINE)

    assert len({body(stage) for stage in STAGES}) == 1


@pytest.fixture
def fakes(tmp_path):
    """A folder with a fake ptdpo and a fake scontrol, and the environment that finds them first."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ptdpo").write_text(FAKE_PTDPO)
    (tmp_path / "bin" / "scontrol").write_text('#!/usr/bin/env bash\necho "$@" > scontrol-called\n')
    for file in (tmp_path / "bin").iterdir():
        file.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") and k not in ("RECIPE", "RUN")}
    return tmp_path, environment | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def arguments(folder: Path) -> list[str]:
    return (folder / "called").read_text().splitlines()


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
def test_scripts_call_their_stage_and_pass_everything_on(fakes, stage):
    folder, environment = fakes
    subprocess.run(["bash", script(stage)], cwd=folder, env=environment, check=True)
    command, _, recipe, _, run = arguments(folder)
    assert command == stage.name and (FOLDER.parent / recipe).is_file() and run.startswith("runs/")
    changed = environment | {"RECIPE": "my recipe.yaml", "RUN": "my run", "CODE": "3"}
    done = subprocess.run(["bash", script(stage), "--set", "a.b=1 2"], cwd=folder, env=changed)
    assert done.returncode == 3
    assert arguments(folder) == [stage.name, "--recipe", "my recipe.yaml", "--run", "my run", "--set", "a.b=1 2"]


def test_a_task_of_an_array_makes_its_part(fakes):
    """Of as many as SHARDS says: when two of four tasks are submitted again, Slurm counts two."""
    folder, environment = fakes
    environment |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "2"}
    subprocess.run(["bash", script(STAGES[2]), "-q"], cwd=folder, env=environment | {"SHARDS": "4"}, check=True)
    assert arguments(folder)[-3:] == ["--shard", "3/4", "-q"]
    environment["SLURM_ARRAY_TASK_ID"] = "1"
    subprocess.run(["bash", script(STAGES[2])], cwd=folder, env=environment, check=True)
    assert arguments(folder)[-2:] == ["--shard", "1/2"]


def test_merge_script_joins_a_run_or_what_it_is_told(fakes):
    folder, environment = fakes
    merge = FOLDER / "merge.sbatch"
    assert os.access(merge, os.X_OK) and os.access(FOLDER / "chain.sh", os.X_OK)
    subprocess.run(["bash", merge], cwd=folder, env=environment | {"RUN": "my run"}, check=True)
    assert arguments(folder) == ["merge", "my run"]
    subprocess.run(["bash", merge, "my run/scores"], cwd=folder, env=environment, check=True)
    assert arguments(folder) == ["merge", "my run/scores"]


def test_several_processes_are_told_directly_and_requeued(fakes):
    """torchrun ends with 1 whatever its processes end with: that they saved is known from the signal alone."""
    folder, environment = fakes
    (folder / "wait").touch()
    torchrun = folder / "bin" / "torchrun"
    torchrun.write_text("#!/usr/bin/env bash\ntrap : TERM\n\"${@:2}\" &\nwait $!\necho $? > worker\nexit 1\n")
    torchrun.chmod(0o755)
    environment |= {"SLURM_JOB_ID": "17", "PTDPO": "torchrun --standalone ptdpo"}
    job = subprocess.Popen(["bash", script(STAGES[4])], cwd=folder, env=environment)
    wait_for(lambda: (folder / "called").exists() and arguments(folder))
    time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=20) == 143
    assert (folder / "worker").read_text() == "143\n" and (folder / "scontrol-called").read_text() == "requeue 17\n"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signals_reach_the_command_and_only_the_time_limit_requeues(fakes, number):
    folder, environment = fakes
    (folder / "wait").touch()
    job = subprocess.Popen(["bash", script(STAGES[2])], cwd=folder, env=environment | {"SLURM_JOB_ID": "17"})
    wait_for(lambda: (folder / "called").exists() and arguments(folder))
    time.sleep(0.2)                     # until the traps of both are set
    job.send_signal(number)
    assert job.wait(timeout=20) == 143
    requeued = folder / "scontrol-called"
    assert requeued.read_text() == "requeue 17\n" if number == signal.SIGUSR1 else not requeued.exists()


def test_a_command_that_ends_by_itself_is_not_requeued(fakes):
    """The signal came, and the work was done before it mattered."""
    folder, environment = fakes
    (folder / "bin" / "ptdpo").write_text("#!/usr/bin/env bash\ntrap '' TERM\n> called\nsleep 1\n")
    job = subprocess.Popen(["bash", script(STAGES[2])], cwd=folder, env=environment | {"SLURM_JOB_ID": "17"})
    wait_for((folder / "called").exists)
    time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=20) == 0 and not (folder / "scontrol-called").exists()


@pytest.mark.slow
def test_the_scripts_make_a_chain(tmp_path):
    """Outside Slurm, with the real command: each stage first dry, which writes nothing, then for real."""
    settings = [word for override in SMALL for word in ("--set", override)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"RUN": str(tmp_path / "run"), "PATH": path}
    more = {"train": ["--rollouts", str(tmp_path / "run"), "--scores", str(tmp_path / "run")]}

    def run(stage, *options: str) -> str:
        command = ["bash", script(stage), *settings, *more.get(stage.name, ()), *options]
        done = subprocess.run(command, cwd=FOLDER.parent, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def files() -> list[Path]:
        return sorted(tmp_path.rglob("*"))

    for stage in STAGES:
        before = files()
        run(stage, "--dry-run")
        assert files() == before
        if stage.name != "sft":         # minutes
            path = Path(run(stage).strip())
            assert path.parent.name == stage.writes and (path / "manifest.json").is_file()
        if stage.name == "train":
            more["eval"] = ["--policy", str(path)]


def wait_for(condition) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)
