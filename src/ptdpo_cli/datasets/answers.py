"""References as data sets write them, and what kind of answer each is."""

from __future__ import annotations

import re

from ptdpo_cli.mathtext.braces import closing_brace
from ptdpo_cli.datasets.options import LETTERS, letter_of, one_letter, options_in
from ptdpo_cli.datasets.reading import short
from ptdpo_cli.errors import UsageError

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_INTEGER = re.compile(r"[+-]?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)")
_MATHEMATICAL = re.compile(r"[0-9=+*/^<>√π∞-]|\\[a-zA-Z]")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "lg", "exp", "pi", "sqrt", "arcsin", "arccos",
              "arctan", "lim", "max", "min"}
_UNREADABLE = re.compile(r"[0-9]:[0-9]|[0-9]{4}-[0-9]|^[<>≤≥]|[°√]")    # times, dates, half a relation, bare signs
_ROOT = re.compile(r"√\s*(?:([0-9]+|[a-zA-Z])|[({]([^(){}]+)[)}])")
_DOLLARS = re.compile(r"(\$\$|\$)([^$]+)\1")
_MINUS_SIGNS = str.maketrans("−–－﹣", "----")


def unboxed(text: str) -> str:
    r"""The content of an answer that is one `\boxed{…}`, nested braces included; any other answer as it is.

    Errors: UsageError for a box that never closes, and for text or further boxes beside the box.
    """
    text = text.strip()
    match = _BOX.search(text)
    if match is None:
        return text
    end = closing_brace(text, match.end())
    if end is None:
        raise UsageError("the box around the answer never closes", expected=r"\boxed{…}", found=short(text))
    if (text[:match.start()] + text[end + 1:]).strip(" $."):
        raise UsageError("the answer is more than one box", expected=r"\boxed{…} alone", found=short(text))
    return text[match.end():end].strip()


def valued(text: str) -> tuple[str, str]:
    """A free-form reference, undressed, and its type by its form.

    integer      digits: "12", "-3", "1,234"
    float        digits with a point: "0.50"
    expression   anything else that is mathematics throughout: LaTeX, "2/3", "x=3", "25%"; the signs √, ≤ and ≥ become
                 LaTeX, for math-verify reads "3√2" as 3
    text         the rest: words, units, times, names of angles
    """
    answer = undressed(text)
    if not answer:
        raise UsageError("the answer is empty", expected="text or a number", found=short(text))
    number = answer.translate(_MINUS_SIGNS)
    if _INTEGER.fullmatch(number):
        return number, "integer"
    if _DECIMAL.fullmatch(number):
        return number, "float"
    latex = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", answer)
    words = {word.lower() for word in _WORD.findall(_COMMAND.sub(" ", latex))} - _FUNCTIONS
    if words or _UNREADABLE.search(latex) or not _MATHEMATICAL.search(latex):
        return answer, "text"
    return latex.replace("≤", r"\leq ").replace("≥", r"\geq "), "expression"


def undressed(text: str) -> str:
    """A reference without the spaces and the dollars around it."""
    text = text.strip()
    match = _DOLLARS.fullmatch(text)
    return match[2].strip() if match else text


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
