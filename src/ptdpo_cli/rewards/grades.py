"""A verdict on each response: extract, compare, check again, look at the form, add the reward's terms."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.rewards import workers
from ptdpo_cli.rewards.extract import extract
from ptdpo_cli.rewards.format import after_thought, format_reward
from ptdpo_cli.rewards.functions import Call, call_functions
from ptdpo_cli.rewards.published import published
from ptdpo_cli.rewards.refusals import is_refusal
from ptdpo_cli.rewards.shaping import overlong_penalty, repetition_penalty
from ptdpo_cli.rewards.verify import contradicts, decide, decimals, expression, malformed, n_values

_MAX_CHECKED_CHARACTERS = 200     # longer texts are no numbers, and there is nothing to learn from a time-out
# Two such texts are the same number exactly if they are the same text, so that comparing them is a check of its own.
_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,30}")


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


class Overlong(Protocol):
    """`reward.overlong` of a recipe, its max_tokens filled in."""

    weight: float
    max_tokens: int
    buffer_tokens: int


class Repetition(Protocol):
    """`reward.repetition` of a recipe."""

    weight: float
    ngram: int


class RewardFunction(Protocol):
    """One of `reward.functions` of a recipe."""

    function: str
    weight: float


def grade_all(
    responses: Sequence[Response],
    *,
    extraction: Sequence[str] = ("boxed",),
    accuracy_weight: float = 0.9,
    format_weight: float = 0.1,
    overlong: Overlong | None = None,
    repetition: Repetition | None = None,
    functions: Sequence[RewardFunction] = (),
    time_limit_s: float = 5.0,
    by_published: bool = False,
    reads: str = "answer",
    quote: Callable[[list[Response]], list[str | None]] | None = None,
) -> list[Grade]:
    """Grade responses, in order: R = accuracy_weight · accuracy + format_weight · format + Σ weight · term.

    A truncated response has given no answer, whatever stands in it so far, and what stands in a thought is none; with
    reads="text" the text alone decides. The format is judged on its own. `quote` is called once, with the responses
    that ended, do not decline, and say something after their thought that no rule reads (None: still no answer).
    `by_published` adds the verdict by the data set's own rule, which no reward depends on.

    Errors: UsageError for an answer of a problem that nothing can be compared with, even if nothing was extracted;
    PtdpoError when a function of the user fails, with function and row.
    """
    found = [
        None
        if response.is_truncated and reads == "answer"
        else extract(
            response.text, extraction, choices=response.problem.choices, answer_type=response.problem.answer_type,
            n_values=n_values(response.problem.answer, response.problem.answer_type),
            reads=reads,
        )
        for response in responses
    ]
    if quote is not None and (unread := [i for i, one in enumerate(found) if one is None and _may_say(responses[i])]):
        for index, text in zip(unread, quote([responses[i] for i in unread]), strict=True):
            found[index] = None if text is None else (text, "model")
    texts = [None if one is None else one[0] for one in found]
    verdicts = _verdicts(responses, texts, time_limit_s)
    agreed = _second_checks(responses, texts, verdicts, time_limit_s)
    theirs: Sequence[float | None] = [None] * len(responses)
    if by_published:
        theirs = published([(response.text, response.problem) for response in responses], time_limit_s=time_limit_s)
    grades = []
    for response, one, outcome, agrees, by_rule in zip(responses, found, verdicts, agreed, theirs, strict=True):
        if one is None and outcome != "right":
            outcome = _why_no_answer(response)
        accuracy, format_ = float(outcome == "right"), format_reward(response.text)
        extracted, way = one or (None, None)
        grades.append(
            Grade(
                extracted, accuracy, format_, accuracy_weight * accuracy + format_weight * format_, way, outcome,
                agrees, by_rule,
            )
        )  # fmt: skip
    return _with_terms(responses, grades, overlong, repetition, functions, time_limit_s)


def grade(text: str, answer: str, *, truncated: bool, answer_type: str = "integer", **weights: float) -> Grade:
    """Grade one response to a problem of which only the answer matters.

    Source: arXiv 2606.07000, Table 3. Errors: as `grade_all` has them.
    """
    problem = Problem("", "", (), answer, answer_type=answer_type)
    return grade_all([Response(problem, text, truncated, 0)], **weights)[0]


def _verdicts(responses: Sequence[Response], texts: Sequence[str | None], time_limit_s: float) -> list[str]:
    """right, wrong, timeout or error of each; what needs algebra is asked for in one batch."""
    said = [
        decide(text, response.problem.answer, response.problem.answer_type, response.problem.choices,
               response.problem.precision)
        for response, text in zip(responses, texts, strict=True)
    ]  # fmt: skip
    unsaid = [index for index, one in enumerate(said) if one is None]
    tasks = [("equal", expression(texts[index]), expression(responses[index].problem.answer)) for index in unsaid]
    outcomes = ["right" if one else "wrong" for one in said]
    for index, (response, text) in enumerate(zip(responses, texts, strict=True)):
        if text is not None and response.problem.answer_type == "choice" and outcomes[index] == "wrong" \
                and contradicts(text, response.problem.choices):
            outcomes[index] = "contradiction"
    for index, result in zip(unsaid, workers.ask(tasks, time_limit_s=time_limit_s), strict=True):
        outcomes[index] = ("right" if result.value else "wrong") if result.status == "ok" else result.status
    return outcomes


def _second_checks(
    responses: Sequence[Response], texts: Sequence[str | None], verdicts: Sequence[str], time_limit_s: float
) -> list[bool | None]:
    """Whether math-verify, or the equality of two plain integers, says of a number what `verdicts` say."""
    agreed: list[bool | None] = [None] * len(texts)
    asked, tasks = [], []
    for index, (response, text) in enumerate(zip(responses, texts, strict=True)):
        problem = response.problem
        if text is None or problem.answer_type not in ("integer", "float"):
            continue
        if text == problem.answer or (_PLAIN_INTEGER.fullmatch(text) and _PLAIN_INTEGER.fullmatch(problem.answer)):
            is_same = text == problem.answer
            if is_same or problem.precision is None:
                agreed[index] = is_same == (verdicts[index] == "right")
                continue
        n_decimals = decimals(problem.answer, problem.precision) if problem.answer_type == "float" else 0
        is_rounded = problem.answer_type == "float" and (problem.precision is not None or n_decimals > 0)
        if len(text) <= _MAX_CHECKED_CHARACTERS and not malformed(text):
            asked.append(index)
            texts_of_both = (_without_signs(text), _without_signs(problem.answer))
            tasks.append(("number", *texts_of_both, n_decimals if is_rounded else None))
    for index, result in zip(asked, workers.ask(tasks, time_limit_s=time_limit_s), strict=True):
        if result.status == "ok" and result.value is not None:
            agreed[index] = result.value == (verdicts[index] == "right")
    return agreed


def _without_signs(text: str) -> str:
    """A number as math-verify reads it: that % and ° are units and no factors, or 2e3 a number, is convention."""
    text = re.sub(r"\\?[%$€]|°|\^\{?\\circ\}?|\\,", "", expression(text))
    return re.sub(r"(?<=[0-9])[eE]([+-]?[0-9]+)", r"\\cdot 10^{\1}", text)


def _may_say(response: Response) -> bool:
    """Whether a response that no rule reads may have an answer in it."""
    says = (after_thought(response.text) or "").strip()
    return bool(says) and not response.is_truncated and not is_refusal(response.text)


def _why_no_answer(response: Response) -> str:
    if response.is_truncated:
        return "truncated"
    return "refused" if is_refusal(response.text) else "no_answer"


def _with_terms(
    responses: Sequence[Response],
    grades: list[Grade],
    overlong: Overlong | None,
    repetition: Repetition | None,
    functions: Sequence[RewardFunction],
    time_limit_s: float,
) -> list[Grade]:
    if not (overlong or repetition or functions):
        return grades
    weights = {one.function: 0.0 for one in functions}
    for one in functions:
        weights[one.function] += one.weight
    calls, counts = [], defaultdict(int)
    for response, verdict in zip(responses, grades, strict=True):
        problem_id = response.problem.problem_id
        row = f"{problem_id}/{counts[problem_id]}"
        counts[problem_id] += 1
        calls.append(Call(row, response.text, response.problem, verdict.extracted, verdict.accuracy, response.tokens))
    names = list(weights)
    theirs = call_functions(names, calls, time_limit_s=time_limit_s) if names else [{} for _ in calls]
    whole = []
    for response, verdict, values in zip(responses, grades, theirs, strict=True):
        terms = dict(values)
        if overlong:
            weights["overlong"] = overlong.weight
            terms["overlong"] = overlong_penalty(
                response.tokens, max_tokens=overlong.max_tokens, buffer_tokens=overlong.buffer_tokens
            )
        if repetition:
            weights["repetition"] = repetition.weight
            terms["repetition"] = repetition_penalty(response.text, ngram=repetition.ngram)
        reward = verdict.reward + sum(weights[name] * value for name, value in terms.items())
        whole.append(replace(verdict, reward=reward, terms=terms))
    return whole
