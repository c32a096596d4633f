"""problems: the normalised problem table of a run, with every picture stored once.

Made by whichever stage first needs it; all later stages read it instead of the data set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ptdpo_cli.artifacts.images import image_hash
from ptdpo_cli.artifacts.problems import problems_table
from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.artifacts.store import Artifact, Writer, sha256_of_file
from ptdpo_cli.datasets import cards, default_split, is_for_test, load_problems
from ptdpo_cli.datasets.hub import mirror_files
from ptdpo_cli.datasets.reading import BadRow, Loaded, describe, read_ids
from ptdpo_cli.errors import UsageError
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.rewards import check_answers
from ptdpo_cli.stages.plan import Plan

BAD_ROWS = "bad_rows.jsonl"
LEFT_OUT = "left_out.jsonl"         # rows of a public set whose source is broken
EXCLUDE = "exclude"     # among a plan's inputs: the hash of the list of ids to leave out
# What one shard holds at most; its pictures are in memory several times over while it is written.
_SHARD_ROWS = 2048
_SHARD_BYTES = 32 * 2**20
# Where these lie is no part of what they are; the files count with their hashes.
_PLACES = {"root", "exclude"}

Say = Callable[[str], None]


def plan_problems(recipe: Recipe, run: Path) -> Plan:
    """The training problems; a local file counts with the hash of its bytes, so an edited file is another input."""
    data = recipe.data
    plan = _plan(recipe, run, data.model_dump() | {"split": data.split or default_split(data.name, "train")})
    if data.exclude is not None:
        read_ids(data.exclude)
        plan.inputs[EXCLUDE] = sha256_of_file(Path(data.exclude))
    return plan


def plan_eval_problems(recipe: Recipe, run: Path) -> Plan:
    """The problems to evaluate on; none is excluded from them.

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
    name = settings.data or data.name
    split = settings.split or default_split(name, "test")
    changed = {"name": name, "split": split, "count": settings.count}
    if name != data.name:       # what was said of the training data need not mean anything here
        changed |= {"kinds": None} | ({"columns": None, "image_root": None} if name in cards() else {})
    return _plan(recipe, run, data.model_dump() | changed)


def _plan(recipe: Recipe, run: Path, section: dict) -> Plan:
    inputs = _file_hashes(section["name"], section["split"], section["root"])
    section = {key: value for key, value in section.items() if key not in _PLACES}
    return Plan(run, "problems", "problems", section, inputs=inputs, seed=recipe.seed)


def make_problems(recipe: Recipe, plan: Plan, *, force: bool = False, say: Say = lambda text: None) -> Artifact:
    """Load, check and store the problems of a plan, unless they are already there."""
    if not force and (done := plan.finished()):
        return done
    problems = load(recipe, plan, say=say)
    with plan.writer(force=force) as writer:
        known: set[str] = set()
        for shard, part in enumerate(_shards(problems)):
            if writer.has_shard(shard):
                known.update(image_hash(data) for problem in part for data in problem.images)
                continue
            rows, images = problems_table(part, known)
            known.update(images.column("sha256").to_pylist())
            writer.write_shard(shard, tables={"problems": rows, "images": images}, counts={"problems": len(rows)})
        return writer.finish(counts=_store_left_out(problems, writer))


def _shards(problems: Iterable[Problem]) -> Iterator[list[Problem]]:
    """The problems in their order, cut where a shard has enough rows or enough bytes of pictures."""
    part: list[Problem] = []
    size = 0
    for problem in problems:
        more = sum(map(len, problem.images))
        if part and (len(part) == _SHARD_ROWS or size + more > _SHARD_BYTES):
            yield part
            part, size = [], 0
        part.append(problem)
        size += more
    if part:
        yield part


def _store_left_out(problems: Loaded, writer: Writer) -> dict[str, int]:
    """What was left out, and why; nothing where nothing was."""
    counts = {}
    for rows, file, name in ((problems.bad_rows, BAD_ROWS, "skipped"), (problems.left_out, LEFT_OUT, "left_out")):
        if rows:
            _store_rows(rows, writer, file)
            counts[name] = len(rows)
    if problems.excluded:
        counts["excluded"] = len(problems.excluded)
    return counts


def _store_rows(rows: list[BadRow], writer: Writer, file: str) -> None:
    (writer.path / file).write_text("".join(json.dumps(row.to_dict(), ensure_ascii=True) + "\n" for row in rows))
    writer.add_file(file)


def load(recipe: Recipe, plan: Plan, *, say: Say = lambda text: None) -> Loaded:
    """The problems themselves, read and checked; nothing is written. `say` is told what was left out."""
    section = plan.section
    name, split = section["name"], section["split"]
    exclude = recipe.data.exclude if EXCLUDE in plan.inputs else None
    try:
        problems = load_problems(
            name,
            split=split,
            on_bad_row=section["on_bad_row"],
            exclude=read_ids(exclude) if exclude is not None else (),
            **reading_options(recipe, section),
        )
    except UsageError as fault:
        mend = "" if name in cards() else "mend it, and "
        fault.hint = fault.hint or f"{mend}check with `ptdpo data check {name}`"
        raise
    if problems.bad_rows:
        first = problems.bad_rows[0]
        say(f"{len(problems.bad_rows):,} bad rows of {name} left out (data.on_bad_row is skip), the first: "
            f"{first.where}: {first.faults[0].what}")
    if problems.left_out:
        first = problems.left_out[0]
        say(f"{len(problems.left_out):,} rows of {name} left out, for their source is broken, the first: "
            f"{first.where}: {describe(first.faults[0])}; `ptdpo data check {name}` names all")
    if problems.excluded:
        say(f"{len(problems.excluded):,} problems left out by {exclude}")
    if problems.unmatched:
        say(f"warning: {len(problems.unmatched):,} ids of {exclude} are of no problem, the first: "
            f"{problems.unmatched[0]}")
    return problems


def reading_options(recipe: Recipe, section: Mapping | None = None) -> dict:
    """How a recipe, or the section of a plan, has data read, whatever split of it."""
    section = recipe.data.model_dump() if section is None else section
    same = {name: section[name] for name in ("count", "kinds", "columns", "image_root", "fetch_urls")}
    return same | {
        "seed": recipe.seed, "root": recipe.data.root, "max_pixels": section["max_image_pixels"], "check": check_answers
    }


def warn_of_test_data(plan: Plan, say: Say) -> None:
    """Training on problems that others are evaluated on is allowed, and said."""
    name, split = plan.section["name"], plan.section["split"]
    if is_for_test(name, split):
        say(f"warning: {name} {split} is for evaluation: after training on it, scores on {name} are void")


def _file_hashes(name: str, split: str, root: str | None) -> dict[str, str]:
    """Content hashes of a data set's own files; pictures named by path are hashed when they are stored."""
    path = Path(name)
    if (card := cards().get(name)) is not None:
        files = mirror_files(card, split, root) if card.hub and root is not None else []
        path = Path(root or ".")
    elif path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".jsonl", ".json", ".parquet", ".arrow"))
    else:
        files = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:       # hashlib releases the GIL
        hashes = list(pool.map(sha256_of_file, files))
    names = [file.name if path.is_file() else str(file.relative_to(path)) for file in files]
    return dict(zip(names, hashes, strict=True))
