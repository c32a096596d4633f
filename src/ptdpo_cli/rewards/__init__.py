"""Rule-based rewards: extract the answer, compare it, look at the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.rewards.extract import extract_boxed
from ptdpo_cli.rewards.format import format_reward
from ptdpo_cli.rewards.verify import ANSWER_TYPES, verify

__all__ = ["Grade", "Response", "check_answer", "extract_boxed", "format_reward", "grade", "grade_all", "verify"]


@dataclass(frozen=True, slots=True)
class Response:
    """What a policy said to a problem, and in how many tokens; a truncated one reached the token limit."""

    problem: Problem
    text: str
    is_truncated: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class Grade:
    """What a response is worth: `extracted` is None when no answer could be read; `outcome` is one of OUTCOMES.

    `agreed` says whether a second, independent check of a number agrees (None: none was made), `published` is the
    verdict by the data set's own rule (None: it has none), `terms` the other terms of the reward before their weights.
    """

    extracted: str | None
    accuracy: float | None
    format: float
    reward: float
    extracted_by: str | None = None
    outcome: str = "wrong"
    agreed: bool | None = None
    published: float | None = None
    terms: dict[str, float] = field(default_factory=dict)


def grade_all(
    responses: Sequence[Response],
    *,
    extraction: Sequence[str] = ("boxed",),
    accuracy_weight: float = 0.9,
    format_weight: float = 0.1,
) -> list[Grade]:
    """Grade responses, in order."""
    grades = []
    for response in responses:
        problem = response.problem
        extracted = None if response.is_truncated else extract_boxed(response.text)
        accuracy = float(verify(extracted, problem.answer, problem.answer_type))
        format_ = format_reward(response.text)
        reward = accuracy_weight * accuracy + format_weight * format_
        outcome = "right" if accuracy else "truncated" if response.is_truncated else "wrong"
        if extracted is None and not response.is_truncated:
            outcome = "no_answer"
        way = None if extracted is None else "boxed"
        grades.append(Grade(extracted, accuracy, format_, reward, way, outcome))
    return grades


def check_answer(answer: str, answer_type: str, choices: Sequence[str] = ()) -> None:
    """Refuse a gold answer that no response could be compared with: UsageError."""
    verify(None, answer, answer_type if answer_type in ANSWER_TYPES else "text")


def grade(text: str, answer: str, *, truncated: bool, answer_type: str = "integer", **weights: float) -> Grade:
    """Grade one response to a problem of which only the answer matters.

    A truncated response has given no answer, whatever stands in a box so far. The format is judged on its own.

    Source: arXiv 2606.07000, Table 3. Errors: UsageError for an empty or unfit `answer`, even if nothing was extracted.
    """
    problem = Problem("", "", (), answer, answer_type=answer_type)
    return grade_all([Response(problem, text, truncated, 0)], **weights)[0]
