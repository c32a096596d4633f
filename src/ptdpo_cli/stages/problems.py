"""problems: the normalised problem table of a run, with every picture stored once.

Made by whichever stage first needs it; all later stages read it instead of the data set.
"""

from __future__ import annotations

from pathlib import Path

from ptdpo_cli.artifacts.problems import problems_table
from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.artifacts.store import Artifact, sha256_of_file
from ptdpo_cli.datasets import load_problems
from ptdpo_cli.errors import UsageError
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.plan import Plan

# Rows of one Parquet shard; the pictures of a shard lie beside it.
_SHARD_ROWS = 2048


def plan_problems(recipe: Recipe, run: Path) -> Plan:
    """The training problems; a local file counts with the hash of its bytes, so an edited file is another input."""
    return _plan(recipe, run, recipe.data.model_dump() | {"split": recipe.data.split or "train"})


def plan_eval_problems(recipe: Recipe, run: Path) -> Plan:
    """The problems to evaluate on.

    Errors: UsageError when they would be the training problems under another name: one file has no splits.
    """
    data, settings = recipe.data, recipe.eval
    if settings.data is None and Path(data.name).is_file() and (settings.split or "test") != (data.split or "train"):
        raise UsageError(
            "this would evaluate on the training file",
            expected="held-out problems",
            found=data.name,
            hint="`ptdpo eval --data HELD_OUT_FILE`, or `--split train` if it is the training problems that you mean",
        )
    changed = {"name": settings.data or data.name, "split": settings.split or "test", "count": settings.count}
    return _plan(recipe, run, data.model_dump() | changed)


def _plan(recipe: Recipe, run: Path, section: dict) -> Plan:
    return Plan(run, "problems", "problems", section, inputs=_file_hashes(section["name"]), seed=recipe.seed)


def make_problems(recipe: Recipe, plan: Plan, *, force: bool = False) -> Artifact:
    """Load, check and store the problems of a plan, unless they are already there."""
    if not force and (done := plan.finished()):
        return done
    problems = load(recipe, plan)
    with plan.writer(force=force) as writer:
        for shard, start in enumerate(range(0, len(problems), _SHARD_ROWS)):
            if not writer.has_shard(shard):
                rows, images = problems_table(problems[start : start + _SHARD_ROWS])
                writer.write_shard(shard, tables={"problems": rows, "images": images}, counts={"problems": len(rows)})
        return writer.finish()


def load(recipe: Recipe, plan: Plan) -> list[Problem]:
    """The problems themselves, read and checked; nothing is written."""
    section = plan.section
    try:
        return load_problems(
            section["name"],
            split=section["split"],
            seed=recipe.seed,
            count=section["count"],
            kinds=section["kinds"],
            columns=section["columns"],
            image_root=section["image_root"],
            max_pixels=section["max_image_pixels"],
        )
    except UsageError as fault:
        fault.hint = fault.hint or f"mend it, and check with `ptdpo build-hints --data {section['name']} --dry-run`"
        raise


def _file_hashes(name: str) -> dict[str, str]:
    """Content hashes of a local data set's own files; pictures named by path are hashed when they are stored."""
    path = Path(name)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".jsonl", ".json", ".parquet", ".arrow"))
    else:
        files = []
    return {file.name if path.is_file() else str(file.relative_to(path)): sha256_of_file(file) for file in files}
