"""Sources that give the answer away on purpose, as some methods do."""

from __future__ import annotations

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.hints.clauses import without_answer, without_tags
from ptdpo_cli.hints.sources import Draft

_NO_SOLUTION = Draft(fault="the problem has no solution")


def draft_from_solution(problem: Problem) -> Draft:
    """The worked solution, and the answer where the solution does not hold it.

    Source: OPSD (arXiv 2601.18734); the baseline of that name in arXiv 2606.07000.
    """
    if not problem.solution:
        return _NO_SOLUTION
    text = without_tags(problem.solution)
    return Draft(text=text if problem.answer in text else f"{text}\n{_answer(problem)}")


def draft_from_answer(problem: Problem) -> Draft:
    """The answer alone.

    Source: RLSD (arXiv 2604.03128).
    """
    return Draft(text=_answer(problem)) if problem.answer else Draft(fault="the problem has no answer")


def draft_from_rationale(problem: Problem) -> Draft:
    """The reasoning without the sentences at its end that announce the answer.

    Source: OmniOPSD (arXiv 2606.15920). Differs from the paper in: the data set's solution, not GPT-4o's rationale.
    """
    if not problem.solution:
        return _NO_SOLUTION
    text = without_answer(problem.solution)
    return Draft(text=text) if text else Draft(fault="the solution is nothing but the answer")


def _answer(problem: Problem) -> str:
    """With the text of the option, where the answer is its letter."""
    letter = problem.answer.strip()
    position = ord(letter) - ord("A") if len(letter) == 1 else -1
    said = f" ({problem.choices[position]})" if 0 <= position < len(problem.choices) else ""
    return f"The answer is {problem.answer}{said}."
