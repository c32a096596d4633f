"""Sources that give the answer away on purpose, as some methods do, and the controls that say nothing of a problem."""

from __future__ import annotations

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.hints.sources import Draft


def draft_from_solution(problem: Problem) -> Draft:
    """OPSD's privilege: the worked solution, and the answer."""
    return Draft(text=problem.solution) if problem.solution else Draft(fault="the data set has no solution")


def draft_from_answer(problem: Problem) -> Draft:
    """The answer alone."""
    return Draft(text=f"The answer is {problem.answer}.")


def draft_from_rationale(problem: Problem) -> Draft:
    """OmniOPSD's privilege: the reasoning without a line that only repeats the answer."""
    return Draft(text=problem.solution) if problem.solution else Draft(fault="the data set has no rationale")
