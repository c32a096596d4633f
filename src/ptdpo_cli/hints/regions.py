"""Hints from a data set's own regions and steps: where to look, then what to do, in words."""

from __future__ import annotations

from ptdpo_cli.artifacts.schemas import Hint, Problem


def hint_from_regions(problem: Problem) -> Hint:
    """Spatial guidance from the region labels, then the solution's steps; `text` is None when there are neither."""
    spatial = f"Look only at {', '.join(region.label for region in problem.regions)}." if problem.regions else ""
    text = " ".join(filter(None, [spatial, *problem.steps]))
    return Hint(problem.problem_id, text or None, spatial, problem.steps, source="regions+steps")
