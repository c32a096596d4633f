"""References as data sets write them, and what kind of answer each is."""

from __future__ import annotations

import re

from ptdpo_cli.datasets.options import LETTERS, letter_of, one_letter, options_in
from ptdpo_cli.datasets.reading import short
from ptdpo_cli.errors import UsageError
from ptdpo_cli.mathtext import read, spelt, squeezed
from ptdpo_cli.mathtext.kinds import type_of
from ptdpo_cli.mathtext.values import Scalar
from ptdpo_cli.mathtext.wrapping import boxed_parts, unwrapped

_DOLLARS = re.compile(
    r"(?:\$\$([^$]+)\$\$|\$([^$]+)\$|\\\(((?:(?!\\\)).)+)\\\)|\\\[((?:(?!\\\]).)+)\\\])\.?", re.DOTALL
)
_MINUS_SIGNS = str.maketrans("−–－﹣", "----")
_NUMERAL = re.compile(r"[-+]?[0-9., ]+(?:[eE][-+]?[0-9]+)?")
_MAX_WORDS = 30         # of an answer; a longer one is an explanation
_REASONS = re.compile(
    r"\b(?:therefore|because|since|hence|thus|so that|we (?:get|have|find|obtain|know)|yields?|yielding|substitut\w+"
    r"|simplif\w+|multiply|the answer is)\b|[∵∴]|因为|所以|因此", re.IGNORECASE,
)
_MIN_WORDS = 8          # of a text in which a reason makes it a solution


class WorkedSolution(UsageError):
    """A reference that is a worked solution or an explanation: no rule can compare an answer with it."""


def unboxed(text: str) -> str:
    r"""The content of an answer that is one `\boxed{…}`, nested braces included; any other answer as it is.

    Several boxes with commas or "and" between them stay as they are: they are several values.
    Errors: UsageError for a box that never closes, and for text beside the box.
    """
    text = text.strip()
    if not re.search(r"\\(?:boxed|fbox)\s*\{", text):
        return text
    boxes = boxed_parts(text)
    if boxes is None:
        is_open = text.count("{") > text.count("}")
        raise UsageError("the box around the answer never closes" if is_open else "the answer is more than its box",
                         expected=r"\boxed{…} alone", found=short(text))
    return boxes[0].strip() if len(boxes) == 1 else text


def valued(text: str) -> tuple[str, str]:
    """A free-form reference, undressed, and its type by its form, as docs/rewards.md lists them.

    Dollars, `<answer>` tags, "####" and a box around the whole are taken off; a single letter A to J is a `choice`.
    Errors: UsageError for an empty reference, WorkedSolution for one that explains.
    """
    answer = undressed(unwrapped(text.strip()))
    if not squeezed(answer):
        raise UsageError("the answer is empty", expected="text or a number", found=short(text))
    if boxed_parts(answer) is not None:
        answer = undressed(unboxed(answer))
    elif is_solution(answer):
        raise WorkedSolution("the answer is a worked solution", expected="the answer alone", found=short(text),
                             hint="give the answer in the column of answers, and this text as the `solution`")
    if re.fullmatch(r"\(?[A-J]\)?\.?", answer):
        return answer.strip("()."), "choice"
    value = read(answer)
    answer_type = type_of(value)
    if answer_type in ("integer", "float") and isinstance(value, Scalar):
        written = answer.translate(_MINUS_SIGNS).rstrip(".")
        written = written if _NUMERAL.fullmatch(written) else value.text      # "= 5", "about 5", "{5}"
        return "".join(written.split()), answer_type
    return answer, answer_type


def is_solution(text: str) -> bool:
    """Whether a text explains: it gives reasons, or has more words than any answer."""
    n_words = len(re.findall(r"[^\W\d_]{2,}", spelt(text)))
    return n_words > _MAX_WORDS or (n_words >= _MIN_WORDS and _REASONS.search(text) is not None)


def undressed(text: str) -> str:
    """A reference without the spaces and the dollars around it, where it says the same without them."""
    text = text.strip()
    match = _DOLLARS.fullmatch(text)
    inner = next(filter(None, match.groups())).strip() if match else text
    return inner if inner and read(inner) == read(text) else text


def choice_or_value(text: str, question: str) -> tuple[str, str, tuple[str, ...]]:
    """(answer, type, choices) where a data set does not say whether a question is multiple choice.

    A single capital letter is a choice, and so is the text of one of the options that the question ends with.
    """
    choices = options_in(question)
    letter = one_letter(undressed(text))
    if letter is not None:
        return letter, "choice", choices if letter in LETTERS[:len(choices)] else ()
    if choices:
        try:
            return letter_of(text, choices), "choice", choices
        except UsageError:
            pass                    # a question may list things by letter and still ask for a value
    return *valued(text), ()
