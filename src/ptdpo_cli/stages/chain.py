"""chain: the jobs that Slurm runs for some iterations of a recipe, and their submission.

    build-hints ─▶ rollout-0 ─▶ merge-rollouts-0 ─▶ score-ref-0 ─▶ merge-scores-0 ─▶ train-0 ─▶ rollout-1 … ─▶ eval-N

A job is a stage's run.sbatch with the recipe's resources written into it: RUN/slurm/<job>.sbatch. Every job but a
merge starts when the one before it has succeeded; when that fails, Slurm cancels the rest. A merge also starts when
tasks of its array have failed: it says which parts are missing, and fails for them.

What is finished is not submitted, nor what is still in the queue: RUN/slurm/jobs.jsonl says which jobs were submitted.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ptdpo_cli.errors import PtdpoError, UsageError
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages import iterations as lookup
from ptdpo_cli.stages.build_hints import needs_reference
from ptdpo_cli.stages.contracts import STAGES
from ptdpo_cli.stages.problems import plan_eval_problems, plan_problems

# Stages that run a model: the others ask for no GPU unless the recipe says so for them.
_WITH_MODEL = {"rollout", "score-ref", "train", "eval"}
_MARK = "set -euo pipefail\n"       # in each run.sbatch, below its #SBATCH lines


@dataclass(frozen=True)
class ChainJob:
    """One job: `after` must have succeeded, `parts` only ended; `tasks` are the array's numbers, None for no array."""

    name: str
    stage: str
    arguments: tuple[str, ...] = ()
    after: str | None = None
    parts: str | None = None
    tasks: tuple[int, ...] | None = None
    shards: int = 1


@dataclass(frozen=True)
class Finished:
    """What of a chain is there: the newest policy, and of the iteration that follows it rollouts, scores and parts."""

    hints: bool = False
    iteration: int = 0
    rollouts: bool = False
    scores: bool = False
    evals: bool = False
    rollout_parts: frozenset[int] = frozenset()
    score_parts: frozenset[int] = frozenset()
    eval_parts: frozenset[int] = frozenset()


def find_finished(recipe: Recipe, run: Path, iterations: int) -> Finished:
    """What a chain would find, by manifests alone: no model is loaded, so that a login node can do it."""
    problems = plan_problems(recipe, run).finished()
    if problems is None:
        return Finished()
    found = Finished(hints=bool(lookup.finished(run, "hints", lookup.are_hints_of(recipe, run, problems))))
    policies = lookup.policies_by_iteration(recipe, run, problems)
    iteration = max((i for i in policies if i <= iterations), default=0)
    weights = policies[iteration][0].manifest.extra["weights"] if iteration else None
    found = replace(found, iteration=iteration)
    if iteration == iterations:
        return _find_evals(recipe, run, weights, found)
    are_rollouts = lookup.are_rollouts_of(recipe, run, problems, iteration, sampler=weights)
    rollouts = lookup.finished(run, "rollouts", are_rollouts)
    if not rollouts:
        return replace(found, rollout_parts=_tasks_done(recipe, run, "rollout", "rollouts", are_rollouts))
    are_scores = lookup.are_scores_of(recipe, rollouts[0])
    scores = lookup.finished(run, "scores", are_scores)
    tasks = _tasks_done(recipe, run, "score-ref", "scores", are_scores)
    return replace(found, rollouts=True, scores=bool(scores), score_parts=tasks)


def _find_evals(recipe: Recipe, run: Path, weights: str, found: Finished) -> Finished:
    problems = plan_eval_problems(recipe, run).finished()
    if problems is None:
        return found
    are_evals = lookup.are_evals_of(recipe, run, problems, weights)
    evals = lookup.finished(run, "evals", are_evals)
    return replace(found, evals=bool(evals), eval_parts=_tasks_done(recipe, run, "eval", "evals", are_evals))


def _tasks_done(recipe: Recipe, run: Path, stage: str, kind: str, belongs: lookup.Belongs) -> frozenset[int]:
    """The tasks of a stage's array that have nothing left to do: each process of a task makes a part of its own."""
    shards, each = shards_of(recipe, stage) or 0, processes(recipe, stage)
    parts = lookup.finished_parts(run, kind, belongs, count=shards * each)
    return frozenset(task for task in range(shards) if parts >= set(range(task * each, (task + 1) * each)))


def shards_of(recipe: Recipe, stage: str) -> int | None:
    """Tasks of a stage's array; None for one job without parts."""
    own = getattr(recipe.slurm.stages, stage.replace("-", "_")).shards
    return own or (recipe.slurm.shards if stage in ("rollout", "score-ref") else None)


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan_chain(recipe: Recipe, run: Path, iterations: int, done: Finished) -> list[ChainJob]:
    """The jobs that are still to do, each after those it needs."""
    jobs: list[ChainJob] = []

    def add(stage: str, number: int | None, kind: str, parts: frozenset[int] = frozenset()) -> None:
        """The jobs of one stage: one, or an array and its merge."""
        last = jobs[-1].name if jobs else None
        name = stage if number is None else f"{stage}-{number}"
        arguments = () if number is None else ("--iteration", str(number))
        count = shards_of(recipe, stage) if stage != "train" else None
        if count is None:
            jobs.append(ChainJob(name, stage, arguments, after=last))
            return
        tasks = tuple(index for index in range(count) if index not in parts)
        if tasks:
            jobs.append(ChainJob(name, stage, arguments, after=last, tasks=tasks, shards=count))
        merge = f"merge-{kind}" if number is None else f"merge-{kind}-{number}"
        jobs.append(ChainJob(merge, "merge", (kind,), after=last, parts=name if tasks else None))

    reads_hints = recipe.needs_teacher and recipe.teacher.context != "none"
    if reads_hints and not done.hints and done.iteration < iterations:
        add("build-hints", None, "hints")
    for i in range(done.iteration, iterations):
        is_first = i == done.iteration
        if not (is_first and done.rollouts):
            add("rollout", i, "rollouts", done.rollout_parts if is_first else frozenset())
        if recipe.needs_scores and not (is_first and done.scores):
            add("score-ref", i, "scores", done.score_parts if is_first else frozenset())
        add("train", i, "policy")
    if not done.evals:
        add("eval", iterations, "evals", done.eval_parts)
    return jobs


# --- scripts ----------------------------------------------------------------------------------------------------------


def job_script(job: ChainJob, recipe: Recipe, recipe_file: Path, run: Path) -> str:
    """The stage's run.sbatch with this job's options below its own, which they override, and its arguments."""
    asks = _resources(recipe, job.stage)
    log = run / "logs" / "slurm" / (f"{job.name}-%a.log" if job.tasks is not None else f"{job.name}.log")
    options = [f'--job-name="ptdpo-{job.name}"', f'--output="{log}"']
    values = {"partition": "partition", "account": "account", "qos": "qos", "gpus": "gpus-per-node",
              "cpus": "cpus-per-task", "mem": "mem", "time": "time"}
    options += [f"--{option}={asks[key]}" for key, option in values.items() if asks[key]]
    if job.tasks is not None:
        options.append(f"--array={','.join(map(str, job.tasks))}")
    options += asks["flags"] or []
    count = processes(recipe, job.stage)
    # Behind `--`: torchrun takes `--run` for an abbreviation of its own --run-path.
    command = f"torchrun --standalone --nproc-per-node={count} -m -- ptdpo_cli" if count > 1 else "ptdpo"
    words = " ".join(filter(None, [asks["container"], command]))
    merged = [shlex.quote(str(run / one)) for one in job.arguments] if job.stage == "merge" else job.arguments
    above = [
        *(f"#SBATCH {option}" for option in options),
        "set -eo pipefail       # `module` and `activate` do not bear -u",
        f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        f"export RECIPE={shlex.quote(str(recipe_file))} RUN={shlex.quote(str(run))} SHARDS={job.shards}",
        f"export PTDPO={shlex.quote(words)}",
        *([f"export OMP_NUM_THREADS={max(1, (asks['cpus'] or 1) // count)}"] if count > 1 else []),
        *(asks["setup"] or []),
        f"set -- {' '.join(merged)}",
    ]
    head, _, body = template(job.stage).partition(_MARK)
    return head + "\n".join(above) + "\n" + _MARK + body


def processes(recipe: Recipe, stage: str) -> int:
    """How many processes a job has: one per GPU; where vLLM spreads one copy over the GPUs, one."""
    if not _runs_a_model(recipe, stage):
        return 1
    is_spread = stage in ("rollout", "eval") and recipe.rollout.engine == "vllm" and recipe.vllm.tensor_parallel > 1
    return 1 if is_spread else max(1, _resources(recipe, stage)["gpus"] or 0)


def _runs_a_model(recipe: Recipe, stage: str) -> bool:
    return stage in _WITH_MODEL or (stage == "build-hints" and needs_reference(recipe))


def _resources(recipe: Recipe, stage: str) -> dict:
    """What a stage's jobs ask for: its own keys over those of all."""
    common = recipe.slurm.model_dump(exclude={"stages"})
    if not _runs_a_model(recipe, stage):
        common["gpus"] = None
    own = getattr(recipe.slurm.stages, stage.replace("-", "_")).model_dump()
    return common | {key: value for key, value in own.items() if value is not None}


def stages_folder() -> Path:
    """`stages/` of the checkout, or the copy inside an installed wheel."""
    here = Path(__file__).resolve()
    return next(p for p in (here.parents[1] / "sbatch", here.parents[3] / "stages") if p.is_dir())


def template(stage: str) -> str:
    if stage == "merge":
        return (stages_folder() / "merge.sbatch").read_text()
    number = next(one.number for one in STAGES if one.name == stage)
    return (stages_folder() / f"{number}-{stage}" / "run.sbatch").read_text()


# --- submission -------------------------------------------------------------------------------------------------------


def run_chain(recipe: Recipe, recipe_file: Path, run: Path, iterations: int, *, is_dry: bool, say) -> dict:
    """Writes the scripts of what is missing and submits them; each job with its number, script and sbatch line.

    Errors: UsageError without sbatch or iterations; PtdpoError when the queue refuses a job, after the others of this
    submission were cancelled.
    """
    if iterations < 1:
        raise UsageError("a chain has at least one iteration", found=iterations, hint="`stages/chain.sh RECIPE RUN 2`")
    for stage in ("train", "merge"):
        if getattr(recipe.slurm.stages, stage).shards:
            raise UsageError(f"slurm.stages.{stage}.shards: {stage} is one job", hint="leave it out")
    if not is_dry:
        _require("sbatch", "squeue", "scancel")
    run, recipe_file = run.absolute(), recipe_file.absolute()
    jobs = plan_chain(recipe, run, iterations, find_finished(recipe, run, iterations))
    folder = run / "slurm"
    for path in (folder, run / "logs" / "slurm"):
        path.mkdir(parents=True, exist_ok=True)
    queued = _in_the_queue(folder) if shutil.which("squeue") else {}
    numbers: dict[str, str] = {}        # job -> its number in the queue
    new: list[str] = []
    rows = []
    for job in jobs:
        script = folder / f"{job.name}.sbatch"
        needs = [name for name in (job.after, job.parts) if name]
        command = ["sbatch", "--parsable", "--kill-on-invalid-dep=yes", *_dependency(job, numbers), str(script)]
        # One that waits for a job which now comes under another number is submitted again, too.
        is_queued = job.name in queued and not set(needs) & set(new)
        if is_queued:
            numbers[job.name] = queued[job.name]
        else:
            script.write_text(job_script(job, recipe, recipe_file, run))
            if is_dry:
                numbers[job.name] = f"${job.name}"
            else:
                _scancel([queued[job.name]] if job.name in queued else [])
                numbers[job.name] = _submit(command, folder, job, [numbers[name] for name in new])
                say(f"submitted {job.name} as {numbers[job.name]}")
            new.append(job.name)
        rows.append({
            "job": job.name,
            "number": numbers[job.name] if is_queued or not is_dry else None,
            "state": "queued before" if is_queued else "not submitted" if is_dry else "submitted",
            "after": needs,
            "tasks": list(job.tasks) if job.tasks is not None else None,
            "script": str(script),
            "command": shlex.join(command),
        })
    return {"run": str(run), "iterations": iterations, "jobs": rows}


def _dependency(job: ChainJob, numbers: dict[str, str]) -> list[str]:
    conditions = [f"afterok:{numbers[job.after]}"] if job.after else []
    conditions += [f"afterany:{numbers[job.parts]}"] if job.parts else []
    return [f"--dependency={','.join(conditions)}"] if conditions else []


def _submit(command: list[str], folder: Path, job: ChainJob, before: list[str]) -> str:
    """The number of the job, written down; when the queue refuses it, nothing of this submission stays."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        _scancel(before)
        raise PtdpoError(
            f"the queue refuses {job.name}",
            found=" ".join(done.stderr.split()) or f"sbatch ended with {done.returncode}",
            hint=(f"cancelled again: {', '.join(before)}; " if before else "nothing was submitted; ")
            + "mend `slurm:` in the recipe and submit again"
            + " (a limit on the number of jobs: fewer iterations first, more of them later go on from there)",
        )
    number = done.stdout.strip().partition(";")[0]
    line = {"job": job.name, "number": number, "submitted_utc": datetime.now(UTC).isoformat(timespec="seconds")}
    with (folder / "jobs.jsonl").open("a") as file:
        file.write(json.dumps(line | {"command": shlex.join(command)}) + "\n")
    return number


def _in_the_queue(folder: Path) -> dict[str, str]:
    """Job -> number, of those submitted for this run that wait or run."""
    path = folder / "jobs.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if not lines:
        return {}
    done = subprocess.run(
        ["squeue", "--noheader", "--user", str(os.getuid()), "--format=%F %T"], capture_output=True, text=True
    )
    if done.returncode:
        raise PtdpoError("squeue does not answer", found=" ".join(done.stderr.split()),
                         hint="without it nothing is submitted, lest a job runs twice; try again")
    alive = {number for number, state in map(str.split, done.stdout.splitlines()) if state != "COMPLETING"}
    return {line["job"]: line["number"] for line in lines if line["number"] in alive}


def _scancel(numbers: list[str]) -> None:
    if numbers:
        subprocess.run(["scancel", *numbers], check=False)


def _require(*commands: str) -> None:
    if missing := [name for name in commands if shutil.which(name) is None]:
        raise UsageError(
            f"{missing[0]} is not there",
            expected="Slurm's commands, as on a login node",
            hint="go to one, or see with `--dry-run` what would be submitted; "
            "without Slurm `ptdpo train` runs the loop in one process",
        )


def render_chain(result: dict, console: Console) -> None:
    """One line per job, and the sbatch lines."""
    if not result["jobs"]:
        console.print(f"everything is finished in {result['run']}", markup=False)
        return
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("job", "number", "array", "after", "state"):
        table.add_column(title)
    for row in result["jobs"]:
        tasks = "" if row["tasks"] is None else ",".join(map(str, row["tasks"]))
        table.add_row(row["job"], row["number"] or "", tasks, ", ".join(row["after"]), row["state"])
    console.print(table)
    for row in result["jobs"]:
        if row["state"] != "queued before":
            console.print(row["command"], markup=False)
