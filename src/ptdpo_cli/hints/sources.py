"""What hints can be made of: the sources by name, what each is for, and how several make one hint.

A source is a function: problems in, one draft for each out. `stages/build_hints.py` joins the drafts of a problem's
sources into its hint, which the leak audit then passes or refuses.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ptdpo_cli.artifacts.schemas import FREE, Cost, Hint, Problem, Salient
from ptdpo_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Draft:
    """What one source has to say of one problem: where to look (sentences), what to do (short imperatives), or, of a
    source that has no such parts, `text`. With nothing to say, `fault` says why.
    """

    spatial: str = ""
    steps: tuple[str, ...] = ()
    text: str = ""
    regions: tuple[Salient, ...] = ()
    maps: tuple[np.ndarray, ...] = ()           # map_HW, one per picture
    fault: str = ""
    cost: Cost = FREE


Source = Callable[[Sequence[Problem]], list[Draft]]

@dataclass(frozen=True, slots=True)
class About:
    """What a source is for (see schemas.ROLES), what it needs, and what its hints say."""

    role: str
    needs: str
    says: str


SOURCES = {
    "regions": About("hint", "column regions", "where to look, in its words"),
    "steps": About("hint", "steps, solution or rollouts", "what to do, as imperatives"),
    "attention": About("hint", "pictures and the model", "where the frozen model looks"),
    "expert": About("hint", "an endpoint", "both, by a strong model"),
    "solution": About("revealing", "column solution", "the worked solution and answer"),
    "answer": About("revealing", "nothing", "the answer alone"),
    "rationale": About("revealing", "column solution", "the reasoning, no answer line"),
    "none": About("control", "nothing", "nothing"),
    "shuffled": About("control", "other hints", "another problem's hint"),
    "generic": About("control", "nothing", "the same words for all"),
}


def parse_sources(source: str) -> tuple[str, ...]:
    """The names in "attention+steps", in order.

    Errors: UsageError for a name that there is not, one that occurs twice, or a control that is not alone.
    """
    names = tuple(name.strip() for name in source.split("+"))
    for name in names:
        if name not in SOURCES:
            near = difflib.get_close_matches(name, SOURCES, n=1)
            raise UsageError(
                f"hints.source: there is no source {name!r}", expected=", ".join(SOURCES),
                hint=f"did you mean {near[0]}?" if near else "join several with +: `--source attention+steps`",
            )
    if len(set(names)) < len(names) or (len(names) > 1 and any(SOURCES[name].role == "control" for name in names)):
        raise UsageError(
            f"hints.source: {source} cannot be joined", expected="each source once, and a control alone",
            hint="`--source attention+steps`",
        )
    return names


def role_of(names: Sequence[str]) -> str:
    """hint, revealing or control; with one source that reveals, all of it does."""
    roles = {SOURCES[name].role for name in names}
    return "revealing" if "revealing" in roles else roles.pop() if len(roles) == 1 else "hint"


def join_drafts(problem: Problem, drafts: dict[str, Draft]) -> Hint:
    """The hint that the drafts of a problem's sources (name -> draft, in order) make together.

    Its text is what the sources have in whole sentences: where to look first, then the steps.
    """
    spatial = " ".join(draft.spatial for draft in drafts.values() if draft.spatial)
    steps = tuple(dict.fromkeys(step for draft in drafts.values() for step in draft.steps))
    text = " ".join(filter(None, [spatial, *steps, *(draft.text for draft in drafts.values())]))
    fault = "; ".join(f"{name}: {draft.fault}" for name, draft in drafts.items() if draft.fault)
    costs = [draft.cost for draft in drafts.values()]
    spent = (sum(getattr(cost, name) for cost in costs) for name in ("requests", "prompt_tokens", "completion_tokens"))
    return Hint(
        problem.problem_id,
        text or None,
        spatial,
        steps,
        source="+".join(drafts),
        role=role_of(tuple(drafts)),
        fault=fault or None,
        regions=tuple(region for draft in drafts.values() for region in draft.regions),
        maps=next((draft.maps for draft in drafts.values() if draft.maps), ()),
        cost=Cost(next((cost.expert for cost in costs if cost.expert), ""), *spent),
    )


def look_at(labels: Sequence[str]) -> str:
    """The sentence that names some regions; empty when there is none."""
    return f"Look only at {', '.join(labels)}." if labels else ""
