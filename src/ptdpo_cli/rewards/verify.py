"""Whether an extracted answer is the right one: numbers by value, anything else by its normalised text.

Nothing is evaluated: a number is what one regular expression says it is, and every check is linear in the text.
"""

from __future__ import annotations

import re
from fractions import Fraction

from ptdpo_cli.errors import UsageError

ANSWER_TYPES = ("integer", "float", "text")

_MAX_NUMBER_CHARACTERS = 64     # no answer is longer, and Python's int() is quadratic in the digits
_MINUS_SIGNS = str.maketrans({"−": "-", "–": "-", "‐": "-", "－": "-", "﹣": "-"})
_DECORATION = re.compile(r"\\[(),;!\[\]]|\\(?:left|right|displaystyle)(?![A-Za-z])|\\[$%]|[$%°]|\^\{?\\circ\}?|\\ ")
_WORDING = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,|\{,\}| )(?=[0-9]{3}(?![0-9]))")
_DECIMAL = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,2}))?")
_RATIO = re.compile(r"([+-]?)(?:\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}|([0-9]+)/([0-9]+))")


def verify(extracted: str | None, answer: str, answer_type: str = "integer") -> bool:
    """True if `extracted` says what `answer` says.

    integer   the same number: "07", "7.0", "$7$", "7." and "+7" are 7, "1,234" is 1234, "−3" is -3
    float     the number that `answer` is when rounded to the decimals `answer` has: 3.14159 is "3.14", 3.1 is not
    text      the same text but for case, spaces, LaTeX dress, a final full stop, brackets around a letter; or, where
              both are numbers, the same number

    Errors: UsageError if `answer` is empty, is not a number where its type says so, or the type is unknown.
    """
    gold = normalise(answer)
    if not gold:
        raise UsageError("a problem has an empty answer", expected="text or a number", found=repr(answer))
    if answer_type not in ANSWER_TYPES:
        raise UsageError("unknown answer type", expected=" | ".join(ANSWER_TYPES), found=repr(answer_type))
    gold_value = number(gold)
    if gold_value is None and answer_type != "text":
        raise UsageError(
            f"the answer of a problem of type {answer_type} is not a number",
            expected="a number such as 12, -3.5 or 3/4",
            found=repr(answer),
            hint="give the problem the answer_type `text`",
        )
    if extracted is None:
        return False
    found = normalise(extracted)
    found_value = number(found)
    if gold_value is None or found_value is None:
        return answer_type == "text" and found == gold
    if answer_type == "float" and (decimals := _decimals(gold)) > 0:
        return abs(found_value - gold_value) < Fraction(1, 2 * 10**decimals)
    return found_value == gold_value


def normalise(text: str) -> str:
    """The text in lower case without LaTeX dress, spaces, thousands separators, % and °, and a final full stop."""
    text = _WORDING.sub(r"\1", text.translate(_MINUS_SIGNS))
    text = _DECORATION.sub("", text)
    text = re.sub(r"\s+", " ", text.casefold()).strip()
    text = re.sub(r"(?<![0-9]) | (?![0-9])", "", text)      # "1 2" is not 12, but "1 234" is 1234
    text = _THOUSANDS.sub("", text)
    text = text if text.endswith("..") else text.removesuffix(".")
    return text[1:-1] if re.fullmatch(r"\([^()]\)|\{[^{}]*\}", text) else text


def number(text: str) -> Fraction | None:
    r"""The exact value of a normalised decimal number or ratio ("-1.5", "2e3", "3/4", "\frac{3}{4}"), else None."""
    if len(text) > _MAX_NUMBER_CHARACTERS:
        return None
    if match := _RATIO.fullmatch(text):
        sign, *parts = (part for part in match.groups() if part is not None)
        return Fraction(int(sign + parts[0]), int(parts[1])) if int(parts[1]) else None
    match = _DECIMAL.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    return Fraction(text)


def _decimals(text: str) -> int:
    """Digits after the decimal point of a normalised number, an exponent taken into account; 0 for a ratio."""
    match = _DECIMAL.fullmatch(text)
    return len(match[3] or "") - int(match[4] or 0) if match else 0
