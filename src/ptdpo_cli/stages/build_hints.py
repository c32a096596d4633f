"""build-hints: what the teacher may read beside a problem, in words, free of the answer.

Reads the problems, and what its sources need: the frozen reference, rollouts, an expert, other hints. Writes one hint
per problem, or none with the reason; a refused one is kept beside its reason, where no teacher reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from ptdpo_cli.artifacts.hints import hint_row, map_tensors, read_hints
from ptdpo_cli.artifacts.manifest import MANIFEST
from ptdpo_cli.artifacts.parts import Part
from ptdpo_cli.artifacts.problems import read_problems
from ptdpo_cli.artifacts.schemas import HINTS, Hint, Problem
from ptdpo_cli.artifacts.store import Artifact, artifact_paths
from ptdpo_cli.engines import draw_seed
from ptdpo_cli.errors import ArtifactError, PtdpoError, UsageError
from ptdpo_cli.hints import privileged
from ptdpo_cli.hints.leakage import find_flags, leak_of
from ptdpo_cli.hints.regions import draft_from_regions
from ptdpo_cli.hints.shuffle import deal
from ptdpo_cli.hints.sources import SOURCES, Draft, Source, join_drafts, parse_sources, role_of
from ptdpo_cli.hints.steps import draft_from_steps
from ptdpo_cli.models.load import Policy
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.expert_hints import expert_sections, expert_source, spent, with_rewritten_steps
from ptdpo_cli.stages.plan import Plan, Progress, no_progress
from ptdpo_cli.stages.step_hints import open_rollouts, right_rollouts

# A shard is what a killed stage repeats at most: more where a hint costs nothing.
_SHARD_ROWS = 1024
_COSTLY_SHARD_ROWS = 64
_COSTLY = {"attention", "expert"}


def needs_reference(recipe: Recipe) -> bool:
    """Whether hints of this recipe are made with the frozen reference."""
    return "attention" in parse_sources(recipe.hints.source)


def asks_a_model(recipe: Recipe) -> bool:
    """Whether these hints cost more than reading the problems."""
    names = parse_sources(recipe.hints.source)
    return bool(_COSTLY & set(names)) or ("steps" in names and recipe.hints.steps.expert)


def plan_build_hints(
    recipe: Recipe,
    run: Path,
    problems: Artifact,
    *,
    reference: dict[str, str] | None = None,
    limit: int | None = None,
) -> Plan:
    """What to make of which sources; `reference` are the model's hashes where `needs_reference`.

    Errors: UsageError for a source that there is not or that lacks its settings; ArtifactError for what it reads.
    """
    names = parse_sources(recipe.hints.source)
    settings = recipe.hints.model_dump(include={"source", "audit"}) | {"limit": limit}
    inputs = {"problems": problems.manifest.content_hash}
    if "attention" in names:
        settings["attention"] = recipe.hints.attention.model_dump(exclude={"tokens_per_batch"})
        settings["prompt"] = recipe.prompt.model_dump()
    if "steps" in names:
        settings["steps"] = recipe.hints.steps.model_dump()
        if rollouts := open_rollouts(recipe, problems):
            inputs["rollouts"] = rollouts.content_hash
    settings |= expert_sections(recipe.hints)
    if "generic" in names:
        settings["generic"] = recipe.hints.generic
    if "shuffled" in names:
        inputs["hints"] = hints_to_shuffle(recipe, run, problems).content_hash
    return Plan(
        run, "hints", "build-hints", settings, inputs=inputs,
        seed=recipe.seed if "shuffled" in names else None, model=reference if "attention" in names else None,
    )


def make_hints(
    recipe: Recipe,
    plan: Plan,
    problems: Artifact,
    *,
    reference: Callable[[], Policy] | None = None,
    force: bool = False,
    part: Part | None = None,
    progress: Progress = no_progress,
) -> Artifact:
    """One hint per problem; one that gives the answer away is refused, and the problem goes without.

    `reference` opens the frozen model, where a source needs it.
    """
    if not force and (done := plan.finished(part)):
        return done
    names = parse_sources(recipe.hints.source)
    size = _COSTLY_SHARD_ROWS if asks_a_model(recipe) else _SHARD_ROWS
    rows = read_problems(problems)[: plan.section["limit"]]
    sources: dict[str, Source] = {}
    with plan.writer(force=force, part=part) as writer:
        for shard, start in enumerate(range(0, len(rows), size)):
            progress(start, len(rows), "building hints")
            if writer.needs_shard(shard):
                sources = sources or {name: _open_source(name, recipe, plan.run, reference) for name in names}
                hints = hints_of(rows[start : start + size], sources, audit=recipe.hints.audit)
                writer.write_shard(
                    shard,
                    tables={"hints": pa.Table.from_pylist([hint_row(hint) for hint in hints], schema=HINTS)},
                    tensors={"hints": map_tensors(hints)} if any(hint.maps for hint in hints) else None,
                    counts=_counts(hints) | spent(hints, recipe.hints.expert),
                )
        progress(len(rows), len(rows), "building hints")
        return writer.finish()


def hints_of(problems: Sequence[Problem], sources: dict[str, Source], *, audit: bool) -> list[Hint]:
    """The hints that these sources make of these problems, each audited unless it is meant to reveal."""
    drafts = {name: source(problems) for name, source in sources.items()}
    hints = [
        join_drafts(problem, {name: of_all[i] for name, of_all in drafts.items()})
        for i, problem in enumerate(problems)
    ]
    return [
        checked(hint, problem) if audit and hint.role != "revealing" else hint
        for hint, problem in zip(hints, problems, strict=True)
    ]


def preview_hints(recipe: Recipe, run: Path, problems: Sequence[Problem]) -> list[Hint] | None:
    """The hints of these problems, without an artifact; None where a model would have to be asked."""
    if asks_a_model(recipe):
        return None
    names = parse_sources(recipe.hints.source)
    return hints_of(problems, {name: _open_source(name, recipe, run, None) for name in names}, audit=recipe.hints.audit)


def each(draft: Callable[[Problem], Draft]) -> Source:
    """A source that looks at one problem at a time."""
    return lambda problems: [draft(problem) for problem in problems]


def _open_source(name: str, recipe: Recipe, run: Path, reference: Callable[[], Policy] | None) -> Source:
    settings = recipe.hints
    audit = checked if settings.audit else _unchecked
    if name == "regions":
        return each(draft_from_regions)
    if name == "steps":
        rollouts = open_rollouts(recipe)
        right = right_rollouts(rollouts) if rollouts else {}
        how = {"read": settings.steps.read, "max_steps": settings.steps.max_steps}
        steps = each(lambda problem: draft_from_steps(problem, rollout=right.get(problem.problem_id), **how))
        return with_rewritten_steps(steps, recipe, run, audit) if settings.steps.expert else steps
    if name == "expert":
        return expert_source(recipe, run, audit)
    if name == "none":
        return each(lambda problem: Draft(fault="a control without hints"))
    if name == "generic":
        return each(lambda problem: Draft(text=settings.generic))
    if name == "attention":
        from ptdpo_cli.stages.attention_hints import attention_source

        return attention_source(recipe, reference())
    if name in ("solution", "answer", "rationale"):
        return each(getattr(privileged, f"draft_from_{name}"))
    return each(partial(_shuffled, _deal(hints_to_shuffle(recipe, run), recipe.seed)))


def hints_to_shuffle(recipe: Recipe, run: Path, problems: Artifact | None = None) -> Artifact:
    """The hints that `shuffled` deals out anew: those that the recipe names, or the only ones in the run.

    Errors: ArtifactError when there are none or several, or when they are of other problems.
    """
    if recipe.hints.shuffle:
        hints = Artifact.open(recipe.hints.shuffle, kind="hints")
    else:
        paths = [path for path in artifact_paths(run / "hints") if (path / MANIFEST).is_file()]
        found = [hints for hints in map(Artifact.open, paths)
                 if role_of(parse_sources(hints.manifest.section["source"])) == "hint"]
        if len(found) != 1:
            raise ArtifactError(
                f"{len(found) or 'no'} hints to shuffle in {run}",
                expected="one finished artifact of hints that are no control and reveal nothing",
                found="; ".join(f"{one.path.name} ({one.manifest.section['source']})" for one in found) or None,
                hint=f"name one: `--set hints.shuffle={found[0].path}`" if found else
                f"make them first: `ptdpo build-hints --run {run} --source regions+steps`, or name others: "
                "`--set hints.shuffle=DIR`",
            )
        hints = found[0]
    if problems is not None and hints.manifest.inputs["problems"] != problems.content_hash:
        raise ArtifactError(
            f"{hints.path} holds hints of other problems",
            expected=f"problems {problems.content_hash[:8]}",
            found=f"problems {hints.manifest.inputs['problems'][:8]}",
            hint="name hints of this recipe's data: `--set hints.shuffle=DIR`",
        )
    return hints


def _deal(hints: Artifact, seed: int) -> dict[str, str | None]:
    """problem_id -> the text that it gets; the same for every shard, because all hints are dealt at once."""
    texts = {problem_id: hint.text for problem_id, hint in read_hints(hints).items()}
    return deal(texts, np.random.default_rng(draw_seed(seed, "shuffled-hints")))


def _shuffled(dealt: dict[str, str | None], problem: Problem) -> Draft:
    if problem.problem_id not in dealt:
        return Draft(fault="the problem has no hint among those that are shuffled")
    text = dealt[problem.problem_id]
    return Draft(text=text) if text else Draft(fault="no other hint says anything else")


def checked(hint: Hint, problem: Problem) -> Hint:
    """The hint, or in place of its text the reason why it was refused, with what it said kept apart."""
    if hint.text is None:
        return hint
    leak = leak_of(hint.text, problem, spatial=hint.spatial)
    if leak is None:
        return replace(hint, flags=find_flags(hint.text, problem.question, problem.solution))
    refusal = f"{leak.reason}: {hint.text[slice(*leak.span)]!r}"
    return replace(hint, text=None, spatial="", steps=(), refusal=refusal, refused=hint.text, span=leak.span)


def _unchecked(hint: Hint, problem: Problem) -> Hint:
    return hint


def require_hints(counts: dict[str, int], *, source: str = "", max_refused: float = 1.0) -> None:
    """Refuse to tutor with an empty set of hints, or with what is left of one of which too much was refused."""
    if source == "none":
        raise UsageError(
            "hints.source is none, so there is nothing to tutor with",
            expected="hints, for a teacher that reads them (teacher.context: hint)",
            hint="the arm whose teacher reads no hint is `--set teacher.context=none`, the one without a teacher "
            "`--set train.distill_weight=0`",
        )
    if not counts["hints"]:
        raise UsageError(
            "no problem has a hint, so there is nothing to tutor with",
            expected="problems with regions or steps to make hints of, free of the answer",
            found=f"0 hints for {counts['problems']} problems, {counts['refused']} refused",
            hint="give your data the columns `regions` or `steps` (`ptdpo show RUN/hints` says why one was refused), "
            "take another source (`ptdpo build-hints --source attention`), "
            "or train without a teacher: `--set train.distill_weight=0`",
        )
    require_few_refused(counts, max_refused)


def require_few_refused(counts: dict[str, int], max_refused: float, *, where: Path | str = "DIR") -> None:
    """Errors: PtdpoError when more than this share of the hints that were made was refused."""
    made = counts["hints"] + counts["refused"]
    if counts["refused"] > max_refused * made:
        raise PtdpoError(
            f"{counts['refused']} of {made} hints were refused",
            expected=f"at most {max_refused:.0%} (hints.max_refused)",
            hint=f"`ptdpo hints audit {where}` lists them with their reasons; another source, a better prompt, or "
            "`--set hints.max_refused=1` to go on with what is left",
        )


def list_sources() -> list[dict]:
    """What `hints.source` may name."""
    return [{"name": name, **asdict(about)} for name, about in SOURCES.items()]


def render_sources(sources: list[dict], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("source", "role", "needs", "says"):
        table.add_column(title)
    for one in sources:
        table.add_row(one["name"], one["role"], one["needs"], one["says"])
    console.print(table)
    console.print("\njoin them with +: ptdpo build-hints --data DATA --source attention+steps")


def _counts(hints: Sequence[Hint]) -> dict[str, int]:
    return {
        "problems": len(hints),
        "hints": sum(hint.text is not None for hint in hints),
        "refused": sum(hint.refusal is not None for hint in hints),
        **{
            name: total
            for name in ("requests", "prompt_tokens", "completion_tokens")
            if (total := sum(getattr(hint.cost, name) for hint in hints))
        },
    }
