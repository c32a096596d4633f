"""The answer type that the form of a reference gives it."""

from __future__ import annotations

import re

from ptdpo_cli.mathtext import expression
from ptdpo_cli.mathtext.spelling import spelt
from ptdpo_cli.mathtext.values import Bracketed, Named, Ratio, Scalar, Several, Statements, Text, Union, Value

_INTEGER = re.compile(r"[-+ ]*[0-9](?:[0-9 ]*[0-9])?")
_DECIMAL = re.compile(r"[-+ ]*(?:[0-9 ]*\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)")
_HALF_OPEN = (("(", "]"), ("[", ")"), ("[", "]"))
# What `mathtext` declines and math-verify may read.
_ALGEBRA = re.compile(
    r"\\(?:i?int|oint|sum|prod|lim|begin|det|max|min|gcd|lcm|bmod|pmod|mod|lfloor|lceil|overline|dot)(?![a-zA-Z])"
)
_WORD = re.compile(r"(?<![A-Za-z\\{])[A-Za-z]{4,}(?![A-Za-z}])")
_UPRIGHT = re.compile(r"\\text\{[^{}]*\}")


def type_of(value: Value) -> str:
    """The answer type of what is read: a Scalar with a unit is a `quantity`, a Text of sums an `expression`."""
    match value:
        case Scalar() if value.unit is not None:
            return "quantity"
        case Scalar() if expression.is_literal(value.node):
            is_integer, is_decimal = _INTEGER.fullmatch(value.text), _DECIMAL.fullmatch(value.text)
            return "integer" if is_integer else "float" if is_decimal else "expression"
        case Named():
            return "named"
        case Ratio():
            return "ratio"
        case Statements():
            return "statements"
        case Several():
            return "blanks" if value.order else "alternatives"
        case Union():
            return "interval"
        case Bracketed() if (value.left, value.right) in _HALF_OPEN and len(value.items) == 2:
            return "interval"
        case Text() if not needs_algebra(value.text):
            return "text"
    return "expression"


def needs_algebra(text: str) -> bool:
    """Whether a text is mathematics of a kind that is declined here: a sum, an integral, a limit, a matrix."""
    spelling = spelt(text)
    return _ALGEBRA.search(spelling) is not None and not has_words(spelling)


def has_words(text: str) -> bool:
    """Whether a text holds words, which math-verify would read as products of their letters."""
    return _WORD.search(_UPRIGHT.sub(" words ", text)) is not None
