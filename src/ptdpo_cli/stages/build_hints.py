"""build-hints: what the teacher may read beside a problem, in words, free of the answer.

Reads the problems; writes one hint per problem, or none with the reason why it was refused.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ptdpo_cli.artifacts.parts import Part
from ptdpo_cli.artifacts.problems import read_problems
from ptdpo_cli.artifacts.schemas import HINTS, Hint, Problem
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import UsageError
from ptdpo_cli.hints.leakage import find_leak
from ptdpo_cli.hints.regions import hint_from_regions
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.plan import Plan, Progress, no_progress

_SHARD_ROWS = 1024


def plan_build_hints(recipe: Recipe, run: Path, problems: Artifact, *, limit: int | None = None) -> Plan:
    section = recipe.hints.model_dump() | {"limit": limit}
    return Plan(run, "hints", "build-hints", section, inputs={"problems": problems.manifest.content_hash})


def make_hints(
    plan: Plan,
    problems: Artifact,
    *,
    force: bool = False,
    part: Part | None = None,
    progress: Progress = no_progress,
) -> Artifact:
    """One hint per problem; a hint that gives the answer away is refused and the problem goes without."""
    if not force and (done := plan.finished(part)):
        return done
    rows = read_problems(problems)[: plan.section["limit"]]
    with plan.writer(force=force, part=part) as writer:
        for shard, start in enumerate(range(0, len(rows), _SHARD_ROWS)):
            progress(start, len(rows), "building hints")
            if writer.needs_shard(shard):
                chosen = rows[start : start + _SHARD_ROWS]
                hints = [checked(hint_from_regions(problem), problem) for problem in chosen]
                table = pa.Table.from_pylist([_row(hint) for hint in hints], schema=HINTS)
                writer.write_shard(
                    shard,
                    tables={"hints": table},
                    counts={
                        "problems": len(hints),
                        "hints": sum(hint.text is not None for hint in hints),
                        "refused": sum(hint.refusal is not None for hint in hints),
                    },
                )
        progress(len(rows), len(rows), "building hints")
        return writer.finish()


def checked(hint: Hint, problem: Problem) -> Hint:
    """The hint, or the reason why it was refused in place of its text."""
    if hint.text is None:
        return hint
    leak = find_leak(hint.text, problem.answer, question=problem.question, choices=problem.choices)
    if leak is None:
        return hint
    return Hint(hint.problem_id, None, source=hint.source, refusal=f"{leak.reason}: {hint.text[slice(*leak.span)]!r}")


def read_hints(artifact: Artifact) -> dict[str, str]:
    """problem_id -> hint text, for the problems that have one."""
    table = artifact.table("hints").select(["problem_id", "hint"])
    return {row["problem_id"]: row["hint"] for row in table.to_pylist() if row["hint"] is not None}


def require_hints(counts: dict[str, int]) -> None:
    """Refuse to tutor with an empty set of hints: every gated rollout would go without a teacher."""
    if not counts["hints"]:
        raise UsageError(
            "no problem has a hint, so there is nothing to tutor with",
            expected="problems with regions or steps to make hints of, free of the answer",
            found=f"0 hints for {counts['problems']} problems, {counts['refused']} refused as leaks",
            hint="give your data the columns `regions` or `steps` (`ptdpo show RUN/hints` says why one was refused), "
            "or train without a teacher: `--set train.distill_weight=0`",
        )


def _row(hint: Hint) -> dict:
    return {
        "problem_id": hint.problem_id,
        "hint": hint.text,
        "spatial": hint.spatial,
        "steps": list(hint.steps),
        "source": hint.source,
        "refusal": hint.refusal,
    }
