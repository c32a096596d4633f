"""What hints can be made of without a model: what the data set says, and what was answered right before."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow.compute as pc

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import ArtifactError, UsageError
from ptdpo_cli.hints.sources import parse_sources
from ptdpo_cli.recipe import Hints, Recipe

# What these sources read of a problem; the other sources can serve any problem.
_COLUMNS = ("regions", "steps", "solution")
_READ_BY = {"regions": ("regions",), "solution": ("solution",), "rationale": ("solution",)}


def right_rollouts(rollouts: Artifact) -> dict[str, str]:
    """problem_id -> text of its shortest right rollout (accuracy 1, not cut; the first of several), if it has one."""
    best: dict[str, tuple[int, str]] = {}
    for shard in range(rollouts.shards()):
        table = rollouts.shard_table("rollouts", shard)
        is_right = pc.and_(pc.equal(table["accuracy"], 1.0), pc.not_equal(table["finish_reason"], "length"))
        rows = table.filter(is_right).select(["problem_id", "response_tokens", "text"])
        for problem_id, tokens, text in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            if problem_id not in best or tokens < best[problem_id][0]:
                best[problem_id] = (tokens, text)
    return {problem_id: text for problem_id, (_, text) in best.items()}


def open_rollouts(recipe: Recipe, problems: Artifact | None = None) -> Artifact | None:
    """The rollouts of `hints.steps.rollouts`; None where none are named.

    Errors: UsageError when they are to be read and none are named; ArtifactError when they are of other problems.
    """
    settings = recipe.hints.steps
    if settings.rollouts is None:
        if settings.read == "rollouts":
            raise UsageError(
                "hints.steps.read is rollouts, but no rollouts are named",
                hint="`--set hints.steps.rollouts=RUN/rollouts`; `ptdpo rollout` makes them",
            )
        return None
    rollouts = Artifact.open(settings.rollouts, kind="rollouts")
    if problems is not None:
        sampled, ours = rollouts.table("rollouts")["problem_id"], problems.table("problems")["problem_id"]
        if not pc.any(pc.is_in(sampled, value_set=pc.unique(ours))).as_py():
            raise ArtifactError(
                f"the rollouts in {rollouts.path} are of other problems",
                expected=f"ids such as {ours[0]}",
                found=sampled[0] if len(sampled) else "no rollouts",
                hint="name rollouts of this recipe's data: `--set hints.steps.rollouts=RUN/rollouts`",
            )
    return rollouts


def columns_of(problems: Artifact) -> set[str]:
    """Of the columns that hints are made of, those in which at least one problem has something."""
    table = problems.table("problems")
    sizes = {
        name: (pc.utf8_length if name == "solution" else pc.list_value_length)(table[name]) for name in _COLUMNS
    }
    return {name for name, size in sizes.items() if pc.any(pc.greater(size, 0)).as_py()}


def columns_in(problems: Iterable[Problem]) -> set[str]:
    """The same of problems that are no artifact yet."""
    problems = list(problems)
    return {name for name in _COLUMNS if any(getattr(problem, name) for problem in problems)}


def require_columns(recipe: Recipe, found: set[str], *, say: Callable[[str], None]) -> None:
    """Refuse sources that work on the data set alone where no problem has anything for any of them.

    The default source was not asked for by name: there it is said, and the problems go without hints.
    Errors: UsageError, with what was looked for and which sources this data set can serve.
    """
    looked_for = {name: _columns_read(name, recipe) for name in parse_sources(recipe.hints.source)}
    looked_for = {name: columns for name, columns in looked_for.items() if columns}
    if not looked_for or any(found & set(columns) for columns in looked_for.values()):
        return
    sources, columns = " and ".join(looked_for), sorted({one for many in looked_for.values() for one in many})
    served = [name for name in ("steps", *_READ_BY) if found & set(_columns_read(name, recipe))]
    what = f"no problem of {recipe.data.name} has anything to make hints of by {sources}"
    can = f"this data set can serve {', '.join([*served, 'attention', 'expert', 'answer', 'generic'])}"
    if recipe.hints.source == Hints.model_fields["source"].default:
        say(f"{what}; {can}: `--source {(served or ['attention'])[0]}`")
        return
    raise UsageError(
        what,
        expected=f"something in the column {' or '.join(f'`{name}`' for name in columns)} of at least one problem",
        found=f"of {', '.join(_COLUMNS)}: {', '.join(sorted(found)) or 'none'}",
        hint=f"{can}: `--source {(served or ['attention'])[0]}`; other names of columns: `--columns solution=NAME`"
        + ("; right rollouts: `--set hints.steps.rollouts=RUN/rollouts`" if "steps" in looked_for else ""),
    )


def _columns_read(name: str, recipe: Recipe) -> tuple[str, ...]:
    """Which columns a source cannot do without one of; none for a source that serves any problem."""
    if name != "steps":
        return _READ_BY.get(name, ())
    settings = recipe.hints.steps
    if settings.rollouts and settings.read in ("auto", "rollouts"):
        return ()
    return {"auto": ("steps", "solution"), "steps": ("steps",), "solution": ("solution",)}.get(settings.read, ())
