"""Rule-based rewards: extract the answer, compare it, look at the format."""

from __future__ import annotations

from dataclasses import dataclass

from ptdpo_cli.rewards.extract import extract_boxed
from ptdpo_cli.rewards.format import format_reward
from ptdpo_cli.rewards.verify import verify

__all__ = ["Grade", "extract_boxed", "format_reward", "grade", "verify"]


@dataclass(frozen=True, slots=True)
class Grade:
    """What a response is worth: `extracted` is None when no answer could be read; the rest is in 0…1."""

    extracted: str | None
    accuracy: float
    format: float
    reward: float


def grade(
    text: str,
    answer: str,
    *,
    truncated: bool,
    answer_type: str = "integer",
    accuracy_weight: float = 0.9,
    format_weight: float = 0.1,
) -> Grade:
    """Grade a response: reward = accuracy_weight · accuracy + format_weight · format.

    A truncated response has given no answer, whatever stands in a box so far. The format is judged on its own.

    Source: arXiv 2606.07000, Table 3. Errors: UsageError for an empty or unfit `answer`, even if nothing was extracted.
    """
    extracted = None if truncated else extract_boxed(text)
    accuracy = float(verify(extracted, answer, answer_type))
    format_ = format_reward(text)
    return Grade(extracted, accuracy, format_, accuracy_weight * accuracy + format_weight * format_)
