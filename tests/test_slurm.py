"""The chain on a real Slurm of one node: arrays, a killed task, a requeued one, failures, and submitting again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

import cluster as slurm
from command import RECIPES, done
from conftest import SMALL
from ptdpo_cli.recipe import load_recipe

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[1]
SMALLER = ("train.iterations=2", "rollout.problems_per_iteration=4", "eval.count=4", "eval.samples=1")
JOBS = [
    "build-hints",
    *(f"{job}-{i}" for i in (0, 1) for job in ("rollout", "merge-rollouts", "score-ref", "merge-scores", "train")),
    "eval-2",
]


@pytest.fixture(scope="module")
def cluster():
    if absent := slurm.missing():
        pytest.fail(f"no {', '.join(absent)}: apt-get install {slurm.PACKAGES}")
    # Sockets have short names: not in pytest's own folder.
    with tempfile.TemporaryDirectory(prefix="ptdpo-") as folder, slurm.Cluster(Path(folder) / "c") as one:
        yield one


@pytest.fixture
def recipe(tmp_path):
    """A recipe file for one CPU per job: `recipe(train={"partition": "gpu"})` changes what single stages ask for."""

    def write(*overrides: str, **stages: dict) -> Path:
        tree = load_recipe(RECIPES / "tiny.yaml", [*SMALL, *SMALLER, *overrides]).model_dump(mode="json")
        tree["slurm"] = {"cpus": 1, "mem": "500M", "time": "00:10:00", "stages": stages}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
        return tmp_path / "recipe.yaml"

    return write


def chain(cluster, *arguments: object) -> subprocess.CompletedProcess:
    """stages/chain.sh, as on a login node."""
    path = f"{Path(sys.executable).parent}:{cluster.environment['PATH']}"
    return subprocess.run(
        [ROOT / "stages" / "chain.sh", *map(str, arguments)],
        env=cluster.environment | {"PATH": path},
        text=True,
        capture_output=True,
    )


def submit(cluster, recipe: Path, run: Path, *more: object) -> list[dict]:
    ended = chain(cluster, recipe, run, 2, "--shards", 2, "--json", *more)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)["jobs"]


def numbers(jobs: list[dict]) -> dict[str, str]:
    return {job["job"]: job["number"] for job in jobs}


def queue(cluster) -> list[str]:
    return cluster.run("squeue", "-h", "-o", "%F").split()


def log(run: Path, name: str) -> str:
    path = run / "logs" / "slurm" / f"{name}.log"
    return path.read_text() if path.is_file() else ""


def at_work(cluster) -> str:
    """The commands of ptdpo that run in jobs of this cluster."""
    found, ours = [], f"SLURM_CONF={cluster.environment['SLURM_CONF']}\0".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            if ours in (folder / "environ").read_bytes() and "ptdpo" in {Path(word).name for word in words}:
                found.append(" ".join(words))
        except OSError:     # gone
            continue
    return "\n".join(found)


def by_hand(recipe: Path, run: Path) -> Path:
    """The same chain as separate commands, without Slurm and without parts; its last policy."""
    here = ("--recipe", recipe, "--run", run, "-q")
    done("build-hints", *here)
    for i in range(2):
        for command in ("rollout", "score-ref", "train"):
            policy = done(command, *here, "--iteration", i).path
    done("eval", *here, "--iteration", 2)
    return policy


def test_a_chain_with_a_requeued_and_a_killed_task_ends_as_one_by_hand(cluster, recipe, tmp_path):
    run, file = tmp_path / "run", recipe()
    first = submit(cluster, file, run)
    assert [job["job"] for job in first] == JOBS and all(job["state"] == "submitted" for job in first)

    # One task of the rollouts is told that its time is almost up: it is queued again and goes on.
    task = f"{numbers(first)['rollout-0']}_1"
    slurm.wait_for(lambda: "--shard 1/2" in at_work(cluster))
    cluster.run("scancel", "--batch", "--signal=USR1", task)
    slurm.wait_for(lambda: "Restarts=1" in cluster.run("scontrol", "show", "job", task))

    # One task of the scores is cancelled: the merge says so and fails, and all that comes after is cancelled.
    task = f"{numbers(first)['score-ref-0']}_1"
    slurm.wait_for(lambda: cluster.state(task) == "RUNNING")
    cluster.run("scancel", task)
    slurm.wait_for(lambda: not queue(cluster))
    states = {name: cluster.state(number) for name, number in numbers(first).items() if "rollout-0" not in name}
    assert states["build-hints"] == "COMPLETED" and states["merge-scores-0"] == "FAILED"
    assert {states[name] for name in JOBS[JOBS.index("train-0") :]} == {"CANCELLED"}
    assert cluster.state(numbers(first)["merge-rollouts-0"]) == "COMPLETED"
    said = log(run, "merge-scores-0")
    assert "missing 1/2" in said and "--iteration 0 --shard 1/2" in said and "--array=1" in said, said

    # Again: only what is missing, and twice in a row nothing twice.
    second = submit(cluster, file, run)
    assert [job["job"] for job in second] == JOBS[JOBS.index("score-ref-0") :]
    assert second[0]["tasks"] == [1] and all(job["state"] == "submitted" for job in second)
    third = submit(cluster, file, run)
    assert {job["state"] for job in third} == {"queued before"}
    assert set(numbers(third).items()) <= set(numbers(second).items())
    slurm.wait_for(lambda: not queue(cluster))
    assert submit(cluster, file, run) == []

    expected = by_hand(file, tmp_path / "hand")
    made = run / "policy" / expected.name
    for name in ("model.safetensors", "trainer.safetensors"):
        assert (made / name).read_bytes() == (expected / name).read_bytes()
    (evals,) = (tmp_path / "hand" / "evals").iterdir()
    ours, theirs = (json.loads((one / "manifest.json").read_text()) for one in (run / "evals" / evals.name, evals))
    assert ours["content_hash"] == theirs["content_hash"]
    assert not list(run.rglob("*.parts")) and not list(run.rglob("*.lock"))
    requeued = log(run, "rollout-0-1")       # both starts of the task in one log
    assert "terminated" in requeued or requeued.count("rollout:") > 1, requeued


def test_a_failed_stage_stops_all_that_comes_after(cluster, recipe, tmp_path):
    run = tmp_path / "run"
    jobs = submit(cluster, recipe("data.name=nowhere.jsonl"), run)
    slurm.wait_for(lambda: not queue(cluster))
    states = [cluster.state(number) for number in numbers(jobs).values()]
    assert states == ["FAILED"] + ["CANCELLED"] * (len(JOBS) - 1)
    assert "nowhere.jsonl" in log(run, "build-hints")
    assert [path.name for path in (run / "logs" / "slurm").iterdir()] == ["build-hints.log"]       # nothing else ran


def test_a_dry_run_submits_nothing(cluster, recipe, tmp_path):
    jobs = submit(cluster, recipe(), tmp_path / "run", "--dry-run")
    assert [job["job"] for job in jobs] == JOBS and {job["state"] for job in jobs} == {"not submitted"}
    assert not queue(cluster) and not (tmp_path / "run" / "slurm" / "jobs.jsonl").exists()
    for job in jobs:
        assert subprocess.run(["bash", "-n", job["script"]]).returncode == 0
        # sbatch itself reads every line, and starts nothing.
        assert subprocess.run(["sbatch", "--test-only", job["script"]], env=cluster.environment).returncode == 0


def test_what_the_queue_refuses_is_said_in_its_words_and_nothing_stays(cluster, recipe, tmp_path):
    file = recipe(train={"partition": "nosuch"}, build_hints={"flags": ["--hold"]})
    ended = chain(cluster, file, tmp_path / "run", 2, "--shards", 2)
    assert ended.returncode == 1 and "the queue refuses train-0" in ended.stderr
    assert "invalid partition specified: nosuch" in ended.stderr and "cancelled again" in ended.stderr
    slurm.wait_for(lambda: not queue(cluster))
    ended = chain(cluster, recipe(build_hints={"account": "a", "flags": ["--mem=900T"]}), tmp_path / "run", 2)
    assert ended.returncode == 1 and "the queue refuses build-hints" in ended.stderr
    assert "nothing was submitted" in ended.stderr and not queue(cluster)


def test_preemption_and_requeue_by_slurm(cluster, recipe, tmp_path):
    """`scontrol requeue` sends TERM, as preemption does: the task saves, is started again and succeeds."""
    run, file = tmp_path / "run", recipe()
    environment = cluster.environment | {"PATH": f"{Path(sys.executable).parent}:{cluster.environment['PATH']}"}
    command = ["sbatch", "--parsable", "--mem=500M", "--cpus-per-task=1", f"--output={tmp_path}/log"]
    script = ROOT / "stages" / "1-build-hints" / "run.sbatch"
    environment |= {"RECIPE": str(file), "RUN": str(run)}
    ended = subprocess.run([*command, script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    number = ended.stdout.strip()
    slurm.wait_for(lambda: "build-hints" in at_work(cluster))
    cluster.run("scontrol", "requeue", number)
    slurm.wait_for(lambda: cluster.state(number) == "COMPLETED")
    assert "Restarts=1" in cluster.run("scontrol", "show", "job", number)
    (hints,) = (run / "hints").iterdir()
    assert (hints / "manifest.json").is_file() and str(hints) in (tmp_path / "log").read_text()
