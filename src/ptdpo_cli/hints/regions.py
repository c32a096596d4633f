"""Source `regions`: where to look, by the names and boxes that the data set itself gives."""

from __future__ import annotations

from ptdpo_cli.artifacts.schemas import Hint, Problem, Salient
from ptdpo_cli.hints.sources import Draft, join_drafts, look_at
from ptdpo_cli.hints.steps import draft_from_steps


def draft_from_regions(problem: Problem) -> Draft:
    """The data set's regions of a problem; they lie on its first picture."""
    if not problem.regions:
        return Draft(fault="the data set names no regions")
    labels = [region.label for region in problem.regions]
    return Draft(look_at(labels), regions=tuple(Salient(0, region.label, region.box) for region in problem.regions))


def hint_from_regions(problem: Problem) -> Hint:
    """The hint of the sources `regions+steps`, from what the data set says in so many words."""
    return join_drafts(problem, {
        "regions": draft_from_regions(problem), "steps": draft_from_steps(problem, read="steps"),
    })
