"""chain: which jobs are planned, what their scripts hold, and what is submitted; with commands in place of Slurm's."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from command import RECIPES, TINY, done, refused
from conftest import SMALL
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.chain import ChainJob, Finished, find_finished, job_script, plan_chain

RECIPE = RECIPES / "tiny.yaml"
SHARDED = ("slurm.shards=2",)
ITERATION = ("rollout", "merge-rollouts", "score-ref", "merge-scores", "train")


def plan(*overrides: str, iterations: int = 2, **there) -> list[ChainJob]:
    return plan_chain(load_recipe(RECIPE, overrides), Path("run"), iterations, Finished(**there))


def names(jobs: list[ChainJob]) -> list[str]:
    return [job.name for job in jobs]


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_the_whole_chain():
    jobs = plan(*SHARDED)
    assert names(jobs) == ["build-hints", *(f"{name}-{i}" for i in (0, 1) for name in ITERATION), "eval-2"]
    by_name = {job.name: job for job in jobs}
    assert by_name["rollout-1"] == ChainJob("rollout-1", "rollout", ("--iteration", "1"), "train-0", None, (0, 1), 2)
    # A merge waits for its array however it ends, and for what the array itself waited for to have succeeded.
    assert by_name["merge-rollouts-1"] == ChainJob("merge-rollouts-1", "merge", ("rollouts",), "train-0", "rollout-1")
    assert by_name["score-ref-1"].after == "merge-rollouts-1" and by_name["eval-2"].after == "train-1"
    assert by_name["eval-2"].arguments == ("--iteration", "2")


def test_without_shards_nothing_is_merged():
    assert names(plan(iterations=1)) == ["build-hints", "rollout-0", "score-ref-0", "train-0", "eval-1"]


def test_a_recipe_gets_the_jobs_that_it_needs():
    assert names(plan("train.distill_weight=0", iterations=1)) == ["rollout-0", "train-0", "eval-1"]
    controls = plan("teacher.context=none", iterations=1)
    assert names(controls) == ["rollout-0", "score-ref-0", "train-0", "eval-1"]
    sharded = plan("slurm.stages.eval.shards=3", "slurm.stages.build_hints.shards=2", iterations=1)
    assert names(sharded)[:2] == ["build-hints", "merge-hints"] and names(sharded)[-2:] == ["eval-1", "merge-evals-1"]
    assert sharded[-2].tasks == (0, 1, 2) and sharded[-1].after == "train-0" and sharded[-1].parts == "eval-1"


def test_what_is_there_is_not_planned():
    assert names(plan(*SHARDED, hints=True, iteration=1, rollouts=True)) == [
        "score-ref-1", "merge-scores-1", "train-1", "eval-2"]
    assert names(plan(*SHARDED, hints=True, rollouts=True, scores=True))[:2] == ["train-0", "rollout-1"]
    assert names(plan(*SHARDED, iteration=2)) == ["eval-2"] and plan(*SHARDED, iteration=2, evals=True) == []
    some = plan(*SHARDED, hints=True, rollout_parts=frozenset({0}))
    assert some[0].tasks == (1,) and some[0].shards == 2 and some[1].parts == "rollout-0"
    every = plan(*SHARDED, hints=True, rollout_parts=frozenset({0, 1}))
    assert names(every)[0] == "merge-rollouts-0" and every[0].after is None and every[0].parts is None
    assert plan(*SHARDED, hints=True, rollout_parts=frozenset({0}))[5].tasks == (0, 1)      # of the next iteration


def test_what_is_there_is_found(tmp_path):
    run, settings = tmp_path / "run", (*TINY, "-q")
    recipe = load_recipe(RECIPE, [*SMALL, *SHARDED])
    assert find_finished(recipe, run, 2) == Finished()
    done("build-hints", *settings, "--run", run)
    done("rollout", *settings, "--run", run, "--iteration", 0, "--shard", "1/2")
    assert find_finished(recipe, run, 2) == Finished(hints=True, rollout_parts=frozenset({1}))
    done("rollout", *settings, "--run", run, "--iteration", 0)
    done("score-ref", *settings, "--run", run, "--iteration", 0, "--shard", "0/2")
    assert find_finished(recipe, run, 2) == Finished(hints=True, rollouts=True, score_parts=frozenset({0}))
    on_two_gpus = load_recipe(RECIPE, [*SMALL, "slurm.shards=1", "slurm.gpus=2"])      # one task, two parts
    assert find_finished(on_two_gpus, run, 2).score_parts == frozenset()
    done("score-ref", *settings, "--run", run, "--iteration", 0, "--shard", "1/2")
    assert find_finished(on_two_gpus, run, 2).score_parts == {0}
    done("merge", run)
    assert find_finished(recipe, run, 2).scores
    done("train", *settings, "--run", run, "--iteration", 0)
    assert find_finished(recipe, run, 2) == Finished(hints=True, iteration=1)
    done("eval", *settings, "--run", run, "--iteration", 1)
    assert find_finished(recipe, run, 1) == Finished(hints=True, iteration=1, evals=True)
    other = load_recipe(RECIPE, [*SMALL, *SHARDED, "rollout.temperature=0.5"])
    assert find_finished(other, run, 2) == Finished(hints=True)


# --- the scripts ------------------------------------------------------------------------------------------------------


def script(job: ChainJob, *overrides: str, run: str = "/runs/my run") -> str:
    return job_script(job, load_recipe(RECIPE, overrides), Path("/recipes/a.yaml"), Path(run))


def options(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_a_script_asks_for_what_the_recipe_says():
    job = ChainJob("rollout-0", "rollout", ("--iteration", "0"), tasks=(1, 3), shards=4)
    text = script(job, "slurm.gpus=2", "slurm.time='01:00:00'", "slurm.flags=[--constraint=h100]",
                  "slurm.stages.rollout.gpus=1", "slurm.account=me", "slurm.setup=['module load x']")
    assert {"--gpus-per-node=1", "--time=01:00:00", "--constraint=h100", "--account=me", "--array=1,3",
            '--job-name="ptdpo-rollout-0"', '--output="/runs/my run/logs/slurm/rollout-0-%a.log"'} <= set(options(text))
    assert text.index("--time=04:00:00") < text.index("--time=01:00:00") < text.index("\nset -")     # the last counts
    assert "export RECIPE=/recipes/a.yaml RUN='/runs/my run' SHARDS=4\n" in text
    assert text.index("\nmodule load x\n") < text.index("\nset -- --iteration 0\n") < text.index("\n$PTDPO rollout")


def test_only_stages_with_a_model_ask_for_a_gpu():
    gpu = "slurm.gpus=2"
    assert "--gpus-per-node=2" in options(script(ChainJob("eval-2", "eval"), gpu))
    for job in (ChainJob("build-hints", "build-hints"), ChainJob("merge-scores-0", "merge", ("scores",))):
        assert not [option for option in options(script(job, gpu)) if "gpus" in option]
    looking = script(ChainJob("build-hints", "build-hints"), gpu, "hints.source=attention+steps")
    assert "--gpus-per-node=2" in options(looking) and "torchrun" in looking
    assert "set -- '/runs/my run/scores'\n" in script(ChainJob("merge-scores-0", "merge", ("scores",)))


def test_several_gpus_run_under_torchrun_and_a_container_comes_first():
    job = ChainJob("train-0", "train", ("--iteration", "0"))
    rollout = ChainJob("rollout-0", "rollout")
    assert "--nproc-per-node=4" in script(rollout, "slurm.gpus=4")
    vllm = ("slurm.gpus=4", "rollout.engine=vllm")
    assert "--nproc-per-node=4" in script(rollout, *vllm)
    assert "export PTDPO=ptdpo\n" in script(rollout, *vllm, "vllm.tensor_parallel=4")       # one spread engine
    assert "export PTDPO=ptdpo\n" in script(job, "slurm.gpus=1")
    text = script(job, "slurm.stages.train.gpus=8", "slurm.cpus=32", "slurm.container=apptainer exec --nv a.sif")
    assert ("export PTDPO='apptainer exec --nv a.sif torchrun --standalone --nproc-per-node=8 -m -- ptdpo_cli'\n"
            "export OMP_NUM_THREADS=4\n") in text


def test_torchrun_takes_the_command_as_it_is():
    """Its parser, as it would see the words of the script: `--run` is none of its own options."""
    from torch.distributed.run import get_args_parser

    text = script(ChainJob("train-0", "train", ("--iteration", "0")), "slurm.gpus=2")
    (line,) = [line for line in text.splitlines() if line.startswith("export PTDPO=")]
    words = shlex.split(line)[1].removeprefix("PTDPO=").split()
    command = ["train", "--recipe", "a.yaml", "--run", "runs/a", "--iteration", "0"]
    found = get_args_parser().parse_args([*words[1:], *command])
    assert found.training_script == "ptdpo_cli" and found.module and found.training_script_args == command


# --- submission -------------------------------------------------------------------------------------------------------

SBATCH = """#!/usr/bin/env bash
if [[ $REFUSE && ${@: -1} == *$REFUSE* ]]; then echo "sbatch: error: Batch job submission failed: full" >&2; exit 1; fi
number=$(($(wc -l < sbatch-called) + 1))
echo "$@" >> sbatch-called
echo $number
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with sbatch, squeue (which says what `squeue` holds) and scancel, in front of all other commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(SBATCH)
    (folder / "squeue").write_text("#!/usr/bin/env bash\ncat queue\n")
    (folder / "scancel").write_text('#!/usr/bin/env bash\necho "$@" >> cancelled\n')
    for file in folder.iterdir():
        file.chmod(0o755)
    for name in ("queue", "sbatch-called", "cancelled"):
        (tmp_path / name).touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("REFUSE", "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chain(*more: object) -> list[dict]:
    return done("chain", RECIPE, "run", 1, "--shards", 2, "--json", "-q", *more).json["jobs"]


def test_jobs_are_submitted_with_what_they_wait_for(slurm):
    jobs = chain()
    assert [job["number"] for job in jobs] == [str(n) for n in range(1, 8)]
    waits = [line.split()[2] for line in (slurm / "sbatch-called").read_text().splitlines()]
    assert waits[1:] == ["--dependency=afterok:1", "--dependency=afterok:1,afterany:2", "--dependency=afterok:3",
                         "--dependency=afterok:3,afterany:4", "--dependency=afterok:5", "--dependency=afterok:6"]
    assert all("--kill-on-invalid-dep=yes" in job["command"] for job in jobs)
    lines = [json.loads(line) for line in (slurm / "run/slurm/jobs.jsonl").read_text().splitlines()]
    assert [(line["job"], line["number"]) for line in lines] == [(job["job"], job["number"]) for job in jobs]
    for job in jobs:
        assert subprocess.run(["bash", "-n", job["script"]]).returncode == 0


def test_what_waits_in_the_queue_is_not_submitted_again(slurm):
    chain()
    (slurm / "queue").write_text("".join(f"{n} PENDING\n" for n in range(1, 8)) + "99 RUNNING\n")
    assert {job["state"] for job in chain()} == {"queued before"}
    # The array is gone, and the merge that still waits for its old number has to wait for the new one.
    (slurm / "queue").write_text("1 RUNNING\n2 COMPLETING\n3 PENDING\n4 PENDING\n")
    again = chain()
    assert [job["number"] for job in again] == ["1", *(str(n) for n in range(8, 14))]
    assert "afterok:1,afterany:8" in again[2]["command"]
    assert (slurm / "cancelled").read_text() == "3\n4\n"


def test_a_queue_that_refuses_leaves_nothing_behind(slurm, monkeypatch):
    monkeypatch.setenv("REFUSE", "score-ref-0")
    says = ("the queue refuses score-ref-0", "Batch job submission failed: full", "cancelled again: 1, 2, 3")
    refused(1, "chain", RECIPE, "run", 1, "--shards", 2, "-q", says=says)
    assert (slurm / "cancelled").read_text() == "1 2 3\n"
    monkeypatch.setenv("REFUSE", "build-hints")
    refused(1, "chain", RECIPE, "run", 1, "-q", says=("nothing was submitted",))


def test_a_squeue_without_an_answer_submits_nothing(slurm):
    chain()
    (slurm / "bin" / "squeue").write_text("#!/usr/bin/env bash\necho 'Unable to contact the controller' >&2; exit 1\n")
    refused(1, "chain", RECIPE, "run", 1, says=("squeue does not answer", "Unable to contact"))
    assert len((slurm / "sbatch-called").read_text().splitlines()) == 7


def test_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    refused(2, "chain", RECIPE, "run", 1, says=("sbatch is not there", "--dry-run", "ptdpo train"))
    assert not (tmp_path / "run").exists()
    ended = done("chain", RECIPE, "run", 1, "--shards", 2, "--dry-run")
    assert "afterok:$build-hints" in ended.out and "merge-scores-0" in ended.out
    assert sorted(path.name for path in (tmp_path / "run" / "slurm").iterdir())[0] == "build-hints.sbatch"
    assert not (tmp_path / "run" / "slurm" / "jobs.jsonl").exists()


def test_faults_of_the_command(tmp_path):
    refused(2, "chain", RECIPE, tmp_path / "run", 0, "--dry-run", says=("at least one iteration",))
    tree = yaml.safe_load(RECIPE.read_text()) | {"slurm": {"stages": {"train": {"gpuz": 1}}}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    refused(2, "chain", tmp_path / "a.yaml", tmp_path / "run", 1, says=("unknown key slurm.stages.train.gpuz", "gpus"))
    tree["slurm"] = {"stages": {"train": {"shards": 2}}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    refused(2, "chain", tmp_path / "a.yaml", tmp_path / "run", 1, "--dry-run", says=("train is one job",))
