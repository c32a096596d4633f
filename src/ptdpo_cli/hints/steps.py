"""Source `steps`: what to do, without what comes out."""

from __future__ import annotations

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.hints.sources import Draft


def draft_from_steps(
    problem: Problem, *, read: str = "auto", rollout: str | None = None, max_steps: int = 6
) -> Draft:
    """The data set's own steps as they are."""
    if problem.steps:
        return Draft(steps=problem.steps)
    return Draft(fault="the data set has no steps")
