"""A reference proves itself: in a box it is right, no proper part of it is, and its other spellings are."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.errors import UsageError
from ptdpo_cli.mathtext import read, spelt
from ptdpo_cli.mathtext.kinds import has_words
from ptdpo_cli.mathtext.parts import parts, spellings
from ptdpo_cli.mathtext.values import Text
from ptdpo_cli.rewards import workers
from ptdpo_cli.rewards.choices import letters_of, options_of
from ptdpo_cli.rewards.verify import check_answer, decide, expression, malformed


def check_answers(
    problems: Iterable[Problem], *, time_limit_s: float = 5.0
) -> list[tuple[Problem, UsageError]]:
    """The problems whose answers are unfit, with what is wrong: none, one that nothing reads, or a failed proof."""
    unfit, asked = [], []
    for problem in problems:
        try:
            _check_signs(problem)
            check_answer(problem.answer, problem.answer_type, problem.choices)
        except UsageError as error:
            unfit.append((problem, error))
        else:
            value = read(problem.answer) if problem.answer_type == "expression" else None
            if isinstance(value, Text) and not has_words(spelt(value.text)):
                asked.append(problem)
            elif found := failures(problem):
                unfit.append((problem, UsageError(
                    "the answer of a problem fails its own proof",
                    expected="right in a box, in its other spellings too, and no part of it right",
                    found=f"{problem.answer!r} as {problem.answer_type}: {'; '.join(found[:3])}",
                    hint="write it in another way, or give the problem another answer_type",
                )))
    tasks = [("parse", expression(problem.answer), "") for problem in asked]
    for problem, result in zip(asked, workers.ask(tasks, time_limit_s=time_limit_s), strict=True):
        if result.value is not True:
            why = f"took longer than {time_limit_s:g} s to read" if result.status == "timeout" else "cannot be read"
            unfit.append((problem, UsageError(
                f"the answer of a problem of type expression {why}",
                expected="mathematics that is read whole",
                found=repr(problem.answer),
                hint="mend it, or give the problem the answer_type `text`",
            )))
    return unfit


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _check_signs(problem: Problem) -> None:
    """Refuse what careless copying leaves behind: control characters, and LaTeX whose braces do not close."""
    answer = problem.answer
    if isinstance(answer, str) and (control := _CONTROL.search(answer)):
        raise UsageError("the answer of a problem holds a control character", expected="plain text",
                         found=f"{control[0]!r} in {answer[:60]!r}", hint="write the row again, without it")
    if isinstance(answer, str) and "\\" in answer and len(answer) <= 1000 and (fault := malformed(answer)):
        raise UsageError(f"the answer of a problem of type {problem.answer_type} {fault}", found=repr(answer),
                         hint="mend it")


def failures(problem: Problem) -> list[str]:
    """What is wrong with how an answer would be compared; empty where nothing is.

    What only math-verify can compare is not asked here. The answer is one that `check_answer` lets pass.
    """
    answer, answer_type, choices = problem.answer, problem.answer_type, problem.choices

    def verdict(text: str) -> bool | None:
        return decide(text, answer, answer_type, choices, problem.precision)

    if answer_type == "choice":
        return _of_choice(problem, verdict)
    found = [] if verdict(answer) is not False else ["the answer itself in a box is wrong"]
    if answer_type in ("list", "set"):
        return found
    found += [f"{text!r}, a part of it, is right" for text in parts(answer) if verdict(text) is True]
    if answer_type != "text":
        found += [f"{text!r}, another spelling of it, is wrong" for text in spellings(answer) if verdict(text) is False]
    return found


def _of_choice(problem: Problem, verdict) -> list[str]:
    """The letter is right and no other; a text of an option is, unless two options have it or it is itself a letter."""
    gold = problem.answer.strip("().:{}[] ").upper()
    letters = letters_of(problem.choices)
    found = [] if verdict(problem.answer) else ["the answer itself in a box is wrong"]
    if not problem.choices:
        return found
    options = options_of(tuple(problem.choices))
    for letter, option in zip(letters, options, strict=True):
        if letter != gold and verdict(letter):
            found.append(f"{letter!r}, another letter, is right")
        is_unique = sum(other.exact.casefold() == option.exact.casefold() for other in options) == 1
        if not is_unique or len(option.exact) < 2:
            continue
        if verdict(option.text) != (letter == gold):
            found.append(f"{option.text!r}, the text of {letter}, is {'wrong' if letter == gold else 'right'}")
    return found
