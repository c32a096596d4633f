"""Numbers in running text, in any spelling: digits, words, fractions, roots, multiples of π, percentages, with units.

Signs are left out: a hint that says 7 gives −7 away.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from operator import add, mul, sub, truediv
from typing import NamedTuple

from ptdpo_cli.mathtext.units import POWER_WORDS, Unit, raised, times
from ptdpo_cli.mathtext.units import UNITS as ALL_UNITS

Span = tuple[int, int]
# A rational number; or ("π", q) for q·π, or ("√", q) for the root of q. Two spellings of one number are equal.
Value = int | Fraction | tuple[str, Fraction]


class Number(NamedTuple):
    """A number and where it stands: the values it can mean ("50 %" is 50 and 1/2), its unit if it has one.

    `decimals` is set where it is written as a decimal fraction, which may be rounded.
    """

    values: frozenset[Value]
    start: int
    end: int
    unit: Unit | None = None
    decimals: int = 0
    is_fraction: bool = False       # made of two numbers: a/b, "a out of b", a percentage
    terms: tuple[Number, ...] = ()  # what it was calculated from: "3 of the 4", "42 − 24", "2 h 15 min"

    @property
    def span(self) -> Span:
        return self.start, self.end


# ---- words and units -------------------------------------------------------------------------------------------------

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORD_VALUES = {word: i for i, word in enumerate(_ONES)} | {word: 10 * (i + 2) for i, word in enumerate(_TENS)}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100,
}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
ORDINAL = rf"(?:{'|'.join(_ORDINALS)}|[0-9]{{1,2}}(?:st|nd|rd|th))\b"
_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


# In prose a single letter is a name or an article more often than a unit; those that follow numbers stay.
_NOT_IN_PROSE = frozenset(["A", "C", "F", "J", "K", "L", "M", "N", "T", "V", "W", "d", "p", "t"])
UNITS = {name: unit for name, unit in ALL_UNITS.items() if name not in _NOT_IN_PROSE and unit.dimension in (
    "length", "length^3", "mass", "time", "angle", "temperature", "temperature in °F", "count",
    "money in $", "money in €", "money in £",
)} | {
    "°": ALL_UNITS["degree"], r"\circ": ALL_UNITS["degree"], "°c": ALL_UNITS["Celsius"], "°f": ALL_UNITS["Fahrenheit"],
}
_UNIT = re.compile(
    r"[\s$-]{0,2}(?:\^\s?\{?)?(?:\\(?:text|mathrm)\s?\{)?\s?(?:(square|sq\.?|cubic|cu\.?)\s)?"
    r"(\\circ|\\degree|[A-Za-z]{1,11}|°[CF]?|[$€£¢])(?![A-Za-z])"
    r"(?:\s?(?:\^\s?\{?([23])\}?|([²³])))?(?:\s?(?:/|\b(?:an?|per)\b)\s?(h|hour|hr|s|second|min|minute)\b)?",
)
_POWERS = POWER_WORDS | {"2": 2, "3": 3, "²": 2, "³": 3}


def unit_at(text: str, start: int) -> tuple[Unit | None, int]:
    """The unit that begins here, after a space at most, and where it ends; (None, start) where there is none."""
    match = _UNIT.match(text, start)
    unit = match and (UNITS.get(match[2]) or UNITS.get(match[2].lower()))
    if not unit:
        return None, start
    if power := _POWERS.get((match[1] or match[3] or match[4] or "").rstrip(".").lower()):
        unit = raised(unit, power)
    if match[5]:
        unit = times(unit, UNITS[match[5].lower()], -1)
    return unit, match.end()


# ---- the search ------------------------------------------------------------------------------------------------------

_SMALL = rf"(?:(?:{'|'.join(_TENS)})(?:[\s-]+(?:{'|'.join(_ONES[1:10])})\b)?|{'|'.join(_ONES)})\b"      # 0…99
_PART = "|".join(sorted(_PARTS, key=len, reverse=True))
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_VULGAR = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"
_SPACE = "\\s\u00a0\u2009\u202f"
_DIGITS = (
    rf"[0-9]{{1,3}}(?:[,{_SPACE}'’][0-9]{{3}}(?![0-9]))++(?:\.[0-9]++)?"       # 1,234.5 and 1 234
    r"|[0-9]++(?:\.[0-9]++)?|\.[0-9]++"
)
_FRAC = (
    r"\\[dtc]?frac\s*+(?:\{(?P<top>[^{}]{0,16}+(?:\{[0-9]{1,9}\})?)\}\s*+\{(?P<bottom>[0-9]{1,9})\}"
    r"|(?P<above>[0-9])(?P<below>[0-9]))"
)
_ROOT = (
    r"(?:\\sqrt\s?\{?|√\s?[({]?|\b(?:sqrt|root)\s?\(|\b(?:square\s+)?root\s+(?:of\s+)?)"
    rf"(?P<root>[0-9]{{1,9}}|{_SMALL})[)}}]?"
)
_NUMBER = re.compile(
    rf"""
    (?<![A-Za-z0-9_^]) (?<!\^\{{) (?<![0-9]\.) (?P<digits>{_DIGITS}) (?! st\b|nd\b|rd\b|th\b|[0-9]|-?[Dd]\b )
        (?P<power> \^\{{?[0-9]{{1,2}}\}}? | [⁰¹²³⁴⁵⁶⁷⁸⁹]{{1,2}} )?
        (?: [eE](?P<e>[+-]?[0-9]{{1,2}})(?![0-9A-Za-z]) | [\s-](?P<parts>{_PART})s\b )?
    | \b (?P<words> (?: {_SMALL} | (?:hundred|thousand)\b (?: [\s-]+ (?:and\s+)? {_SMALL} )? )
         (?: [\s-]+ (?:hundred|thousand)\b (?: [\s-]+ (?:and\s+)? {_SMALL} )? )* )
      (?: [\s-]+ (?P<part>{_PART})s? \b )?
    | \b (?: an?\s+ (?P<one_part>half|quarter|(?:third|fourth|fifth|sixth|eighth|tenth)(?=\s+of\b|[,.;)]|\Z))
          | (?P<half>half) (?=\s+(?:of|as)\b) | (?P<a_dozen>dozen) ) \b (?!-)
    | \b (?P<an_hour>an?) (?=\s+[a-z]{{1,9}}\s+and\s+an?\s+(?:half|quarter)\b)
    | \b (?P<a_single>an?\s+single) \b | \b (?P<none>none) \b | \b(?P<a_pair>a\s+(?:pair|couple))\s+of\b
    | (?P<vulgar>[{_VULGAR}]) | {_FRAC}
    | (?P<radical>{_ROOT}) | (?P<pi>\\pi(?![A-Za-z])|π|\bpi\b)
    | (?<![A-Za-z0-9_]) (?P<roman>(?-i:[IVXLC]{{2,6}})) (?![A-Za-z0-9_])
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Where a number may begin; the pattern above is tried there alone.
_BEGINS = re.compile(rf"([A-Za-z]+)|\.?[0-9][0-9.]*|[\\√π{_VULGAR}]")
_FIRST_WORDS = {
    *_WORD_VALUES, "hundred", "thousand", "a", "an", "half", "dozen", "none", "pi", "sqrt", "root", "square",
}
_ROMAN_ENDS = {first + last for first in _ROMAN for last in _ROMAN}
_ENDS_PLAINLY = re.compile(r"(?:[.,;:?!]?(?:\s(?=[A-Z(])|\Z)|[.;:?!]\s)")     # nothing behind it can belong to a number
_MIXED = re.compile(
    rf"\s+(?P<over>[0-9]{{1,3}}/[0-9]{{1,3}})(?![0-9])|\s?(?P<vulgar>[{_VULGAR}])|\s?{_FRAC}"
    rf"|\s+and\s+(?:an?\s+|(?P<times>{_SMALL})[\s-]+)(?P<part>{_PART})s?\b",
    re.IGNORECASE,
)
_HOURS = re.compile(r"\s+([A-Za-z]+)\s+and\s+an?\s+(half|quarter)\b", re.IGNORECASE)      # "an hour and a half"
_SCALE = re.compile(r"\s+(dozen|hundred|thousand|million|billion)\b", re.IGNORECASE)
_TEN_TO = re.compile(r"\s?(?:×|\\times|\*|·|\\cdot)\s?10\s?(?:\^\s?\{?([+-]?[0-9]{1,2})\}?|([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]{1,3}))")
_TO_THE = re.compile(r"\s+(squared|cubed)\b", re.IGNORECASE)
_TIMES_ROOT = re.compile(
    rf"\s?(?:[·*×]|\\cdot|\\times|times(?:\s+the)?)?\s?(?:{_ROOT}|(?P<pi>\\pi(?![A-Za-z])|π|\bpi\b))", re.IGNORECASE
)
_OVER = re.compile(r"\s?[/⁄]\s?([0-9]{1,9})(?![0-9]*\.?[0-9])")
_DECIMAL_COMMA = re.compile(r",([0-9]{1,2})(?![0-9]|,[0-9])")
_PERCENT = re.compile(r"\s*(?:\\?%|percent\b|per\s+cent\b)", re.IGNORECASE)
_OF = re.compile(r"\s+(?:(?:out\s+)?of|in)\s+(?:the\s+|every\s+)?", re.IGNORECASE)
_OPERATOR = re.compile(
    r"[^\S\n]?(?P<sign>[×*·+−]|\\times|\\cdot|times|plus|minus|\s-)[^\S\n]?", re.IGNORECASE
)
_OPERATIONS = {
    **dict.fromkeys(("×", "*", "·", "times", "cdot"), mul),
    **dict.fromkeys(("+", "plus"), add),
    **dict.fromkeys(("−", "-", "minus"), sub),
}
_JOINS = re.compile(r"\s+(to|and|from|by)\s+", re.IGNORECASE)
_VERB = re.compile(r"\b(add|subtract|take|multiply|divide)\s+\Z", re.IGNORECASE)
_TASKS = {
    "add": (("to", "and"), add), "subtract": (("from",), sub), "take": (("from",), sub),
    "multiply": (("by", "and"), mul), "divide": (("by",), truediv),
}
_AND_THEN = re.compile(r"\s?[A-Za-z]{1,8}\.?,?(?:\s+and)?\s+", re.IGNORECASE)
_OF_A = re.compile(r"\s+of\s+an?\b", re.IGNORECASE)
_CURRENCIES = tuple("$€£")
_MAX_DIGITS = 40
# "one" counts only where it is said how many there are; elsewhere it is a pronoun ("each one") or an article.
_COUNTS_ONE = re.compile(
    r"(?:\b(?:only|exactly|just|is|are|be|was|were|equals?|gives?|has|have|holds?|contains?|leaves?|to)|[=≈:])\s*$",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"\s+(?:of|another|after|by|at|more|or|side|end|corner|such|way|step|place|direction)\b", re.IGNORECASE
)
_WHICH_HALF = re.compile(
    r"\b(?:left|right|upper|lower|top|bottom|first|second|other|this|each|either|which)[\s-]+\Z", re.IGNORECASE
)
_NO_NONE = re.compile(r"\s+other\b", re.IGNORECASE)


@lru_cache(maxsize=1024)
def numbers_in(text: str) -> tuple[Number, ...]:
    """Every number in the text, in order; what two of them make ("3 out of 4", "9 × 2") stands behind them."""
    found: list[Number] = []
    end = 0
    for candidate in _BEGINS.finditer(text):
        start = candidate.start()
        if start < end:
            continue
        if (word := candidate[1]) and word.lower() not in _FIRST_WORDS and word[0] + word[-1] not in _ROMAN_ENDS:
            continue
        match = _NUMBER.match(text, start)
        if match is None:
            continue
        end = match.end()
        number = _read(match, text)
        if number is None:
            continue
        both = _joined(found[-1], number, text) if found else None
        found += [number, both] if both else [number]
        end = number.end
    return tuple(found)


def _read(match: re.Match, text: str) -> Number | None:
    start, end = match.span()
    decimals, is_fraction, more = 0, False, set()
    if digits := match["digits"]:
        if len(digits) > _MAX_DIGITS:
            return None
        if digits.isdigit() and match.end("digits") == end and text[start - 1 : start] not in _CURRENCIES \
                and _ENDS_PLAINLY.match(text, end):
            return Number(frozenset({int(digits)}), start, end)
        plain = digits if digits.isdigit() else re.sub(rf"[,{_SPACE}'’]", "", digits)
        value = Fraction(int(plain)) if digits.isdigit() else Fraction(plain)
        decimals = len(plain.partition(".")[2])
        if plain != digits:     # "1, 234" may also be two numbers, but "12 000" is meant as one
            more.add(Fraction(re.match(r"[0-9]+", digits)[0]))
        if (power := match["power"]) and value < 1000:
            more.add(value ** int(power.strip("^{}").translate(_SUPERSCRIPTS)))
        if match["e"]:
            value *= Fraction(10) ** int(match["e"])
        elif match["parts"]:
            value, is_fraction = value / _PARTS[match["parts"].lower()], True
        elif "." not in digits and (comma := _DECIMAL_COMMA.match(text, end)):
            more.add(Fraction(f"{plain}.{comma[1]}"))
    elif words := match["words"]:
        if words.lower() == "one" and not match["part"] and not _is_count(text, start, end):
            hours = _HOURS.match(text, end)
            if not hours and not _TIMES_ROOT.match(text, end) and not _SCALE.match(text, end) \
                    and not _MIXED.match(text, end) and not _unit_of(text, end):
                return None
        value = Fraction(_word_value(words), _PARTS[match["part"].lower()] if match["part"] else 1)
        is_fraction = match["part"] is not None
    elif match["an_hour"]:
        value = Fraction(1)
    elif part := match["one_part"] or match["half"]:
        if match["half"] and _WHICH_HALF.search(text, max(0, start - 12), start):
            return None
        value, is_fraction = Fraction(1, _PARTS[part.lower()]), True
    elif match["a_dozen"]:
        value = Fraction(12)
        if half := re.search(r"\bhalf\s+an?\s+$", text[max(0, start - 12) : start], re.IGNORECASE):
            value, start = Fraction(6), start - len(half[0])
    elif match["a_single"]:
        value = Fraction(1)
    elif match["a_pair"]:
        value = Fraction(2)
    elif match["none"]:
        if _NO_NONE.match(text, end):
            return None
        value = Fraction(0)
    elif match["vulgar"]:
        value, is_fraction = _vulgar(match["vulgar"]), True
    elif match["root"]:
        below, end = _over(text, end)
        return Number(frozenset({_root(Fraction(1), match["root"], below)}), start, end)
    elif match["pi"]:
        below, end = _over(text, end)
        return Number(frozenset({("π", 1 / below)}), start, end)
    elif match["roman"]:
        value = Fraction(_roman_value(match["roman"]))
        return Number(frozenset({value}), start, end) if value else None
    else:
        return _latex_fraction(match, start, end)
    if (mixed := _MIXED.match(text, end)) and value.denominator == 1 and not more:
        value, end, is_fraction = value + _fraction_of(mixed), mixed.end(), True
    elif (hours := _HOURS.match(text, end)) and (unit := UNITS.get(hours[1].lower())):
        return Number(frozenset({value + Fraction(1, _PARTS[hours[2].lower()])}), start, hours.end(), unit)
    if scale := _SCALE.match(text, end):
        value, end = value * _SCALES[scale[1].lower()], scale.end()
    if ten := _TEN_TO.match(text, end):
        value *= Fraction(10) ** int(ten[1] or ten[2].translate(_SUPERSCRIPTS))
        end, decimals = ten.end(), 0
    if power := _TO_THE.match(text, end):
        more.add(value ** (2 if power[1].lower() == "squared" else 3))
        end = power.end()
    if root := _TIMES_ROOT.match(text, end):
        below, end = _over(text, root.end())
        number = ("π", value / below) if root["pi"] else _root(value, root["root"], below)
        return Number(frozenset({number}), start, end)
    below, after = _over(text, end)
    if after > end and not decimals:
        value, end, is_fraction, more = value / below, after, True, set()
    values = {value, *more}
    if percent := _PERCENT.match(text, end):
        return Number(frozenset(values | {one / 100 for one in values}), start, percent.end(), None, decimals, True)
    unit = _unit_of(text, end)
    if unit is None and text[start - 1 : start] in _CURRENCIES and text[end : end + 1] != "$":
        unit = UNITS[text[start - 1]]
    return Number(frozenset(values), start, end, unit, decimals, is_fraction)


def _unit_of(text: str, end: int) -> Unit | None:
    """The unit of a number that ends here, which "3/4 of a mile" has too."""
    of = _OF_A.match(text, end)
    return unit_at(text, of.end() if of else end)[0]


def _is_count(text: str, start: int, end: int) -> bool:
    counts = _COUNTS_ONE.search(text[max(0, start - 12) : start])
    return bool(counts) and (counts[0].strip().lower() in ("only", "exactly") or not _PRONOUN.match(text, end))


def _joined(first: Number, second: Number, text: str) -> Number | None:
    """What two neighbours make: "3 of the 4" a fraction, "42 − 24" a difference, "2 h 15 min" a time."""
    if second.start - first.end > 16:
        return None
    one, other = (next((v for v in number.values if not isinstance(v, tuple)), None) for number in (first, second))
    if one is None or not other:
        return None
    unit, is_fraction = None, False
    if _OF.fullmatch(text, first.end, second.start):
        if one > other:
            return None
        value, is_fraction = Fraction(one) / other, True
    elif sign := _OPERATOR.fullmatch(text, first.end, second.start):
        value = abs(_OPERATIONS[sign["sign"].lower().strip("\\ ")](one, other))
    elif first.unit and second.unit and first.unit.dimension == second.unit.dimension \
            and first.unit.factor > second.unit.factor and _AND_THEN.fullmatch(text, first.end, second.start):
        value, unit = one * first.unit.factor / second.unit.factor + other, second.unit
    elif (word := _JOINS.fullmatch(text, first.end, second.start)) \
            and (verb := _VERB.search(text[max(0, first.start - 12) : first.start])):
        words, operation = _TASKS[verb[1].lower()]
        if word[1].lower() not in words:
            return None
        value = abs(operation(Fraction(one), other))
    else:
        return None
    return Number(frozenset({value}), first.start, second.end, unit, 0, is_fraction, (first, second))


def _word_value(words: str) -> int:
    """"two hundred and seven" -> 207"""
    total = group = 0
    for word in re.findall(r"[a-z]+", words.lower()):
        if word == "thousand":
            total, group = total + max(group, 1) * 1000, 0
        elif word == "hundred":
            group = max(group, 1) * 100
        else:
            group += _WORD_VALUES.get(word, 0)      # "and"
    return total + group


def _whole(text: str) -> Fraction:
    return Fraction(text) if text[0].isdigit() else Fraction(_word_value(text))


def _vulgar(sign: str) -> Fraction:
    return Fraction(unicodedata.numeric(sign)).limit_denominator(10)


def _fraction_of(mixed: re.Match) -> Fraction:
    """The part behind the whole of a mixed number."""
    if mixed["over"]:
        above, below = mixed["over"].split("/")
        return Fraction(int(above), int(below) or 1)
    if mixed["vulgar"]:
        return _vulgar(mixed["vulgar"])
    if mixed["part"]:
        return Fraction(_word_value(mixed["times"]) if mixed["times"] else 1, _PARTS[mixed["part"].lower()])
    number = _latex_fraction(mixed, 0, 0)
    return next((v for v in number.values if not isinstance(v, tuple)), Fraction(0)) if number else Fraction(0)


def _latex_fraction(match: re.Match, start: int, end: int) -> Number | None:
    above, below = match["top"] or match["above"], int(match["bottom"] or match["below"] or 0)
    inner = numbers_in(above) if above and "frac" not in above else []
    if len(inner) != 1 or not below:
        return None
    values = {_divided(value, below) for value in inner[0].values}
    return Number(frozenset(values), start, end, None, 0, True)


def _divided(value: Value, below: int) -> Value:
    if not isinstance(value, tuple):
        return Fraction(value) / below
    sign, inside = value
    return sign, inside / (below if sign == "π" else below**2)


def _root(times: Fraction, inside: str, below: Fraction | int) -> Value:
    """The root as ("√", q), or a rational number where it is one."""
    square = times**2 * _whole(inside) / Fraction(below) ** 2
    above, under = math.isqrt(square.numerator), math.isqrt(square.denominator)
    is_whole = above**2 == square.numerator and under**2 == square.denominator
    return Fraction(above, under) if is_whole else ("√", square)


def _over(text: str, end: int) -> tuple[Fraction, int]:
    """What is divided by behind a number: (1, end) where nothing is."""
    over = _OVER.match(text, end)
    return (Fraction(over[1]), over.end()) if over and int(over[1]) else (Fraction(1), end)


def _roman_value(text: str) -> int:
    """"XIV" -> 14; 0 for what is no such numeral."""
    values = [_ROMAN[letter] for letter in text]
    total = sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))
    return total if 0 < total < 400 and re.fullmatch(r"C{0,3}(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})", text) else 0


def ordinal_value(word: str) -> int:
    """"third" and "3rd" -> 3"""
    return int(re.match(r"[0-9]+", word)[0]) if word[0].isdigit() else _ORDINALS.index(word.lower()) + 1


# ---- equality --------------------------------------------------------------------------------------------------------


def is_same(found: Number, wanted: Number) -> bool:
    """Whether two numbers are equal: by value, in another unit, or one as the other rounded."""
    if not found.values.isdisjoint(wanted.values):
        return True
    if found.unit and wanted.unit and _scaled(found) & _scaled(wanted):
        return True
    return _is_rounded(found, wanted) or _is_rounded(wanted, found)


def _scaled(number: Number) -> set[tuple[str, Fraction]]:
    """The number in the first unit of its dimension."""
    dimension, factor = number.unit
    return {(dimension, value * factor) for value in number.values if not isinstance(value, tuple)}


def _is_rounded(short: Number, exact: Number) -> bool:
    """Whether `short` has at least two decimals, or three figures, and is `exact` rounded to them."""
    if not short.decimals or short.is_fraction:
        return False
    for value in short.values:
        if not isinstance(value, tuple) and (short.decimals >= 2 or value >= 10):
            allowed = Fraction(1, 2) / 10**short.decimals
            if any(abs(size(other) - float(value)) <= allowed and size(other) > allowed for other in exact.values):
                return True
    return False


def size(value: Value) -> float:
    """The value as a float; infinite where it is too large for one."""
    try:
        if not isinstance(value, tuple):
            return float(value)
        return math.pi * float(value[1]) if value[0] == "π" else math.sqrt(value[1])
    except OverflowError:
        return math.inf


def words_of_time(hour: int, minute: int) -> Iterator[str]:
    """How a time of day is said: "quarter to four", "half past two"."""
    names = {15: "quarter past", 30: "half past", 45: "quarter to"}
    if minute in names and 1 <= hour <= 24:
        said = ((hour - 1 + (minute == 45)) % 12) + 1
        yield from (f"{names[minute]} {_ONES[said]}", f"{names[minute]} {said}")
