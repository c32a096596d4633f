"""Units of measure: one table of how they are written, what they measure, and how much of it they are."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """What a number is of, and how much of it: cm is ("length", 1/100), cm² ("length^2", 1/10000)."""

    dimension: str
    factor: Fraction


def _table() -> dict[str, Unit]:
    """Every spelling of a unit that stands alone. Case has a meaning: MW is no mW, though "CM" is found as cm."""
    found: dict[str, Unit] = {}

    def add(dimension: str, factor, *names: str) -> None:
        found.update({name: Unit(dimension, Fraction(factor)) for name in names})

    prefixes = (
        ("", "", "1"), ("kilo", "k", "1e3"), ("deci", "d", "0.1"), ("centi", "c", "0.01"), ("milli", "m", "0.001"),
        ("micro", "\\mu ", "1e-6"), ("nano", "n", "1e-9"), ("mega", "M", "1e6"), ("giga", "G", "1e9"),
    )
    whole = {name for name, *_ in prefixes[:5]}
    for prefix, short, factor in prefixes:
        for stem in ("metre", "meter"):
            add("length", factor, f"{short}m", f"{prefix}{stem}", f"{prefix}{stem}s")
        if prefix in whole:
            for stem in ("litre", "liter"):
                add("volume", factor, f"{short}l", f"{short}L", f"{prefix}{stem}", f"{prefix}{stem}s")
        if prefix not in ("deci", "centi"):
            add("mass", factor, f"{short}g", f"{prefix}gram", f"{prefix}grams")
            for dimension, symbol, name in (
                ("force", "N", "newton"), ("energy", "J", "joule"), ("power", "W", "watt"), ("voltage", "V", "volt"),
                ("current", "A", "ampere"), ("resistance", "\\Omega", "ohm"), ("frequency", "Hz", "hertz"),
                ("pressure", "Pa", "pascal"), ("charge", "C", "coulomb"), ("capacitance", "F", "farad"),
                ("amount", "mol", "mole"), ("magnetic field", "T", "tesla"), ("data rate", "bps", "bit per second"),
            ):
                add(dimension, factor, f"{short}{symbol}", f"{prefix}{name}", f"{prefix}{name}s")
    for name in ("Gm", "Mm", "Gg", "Mg", "nT", "GT", "kT", "MT", "MF", "GF", "kF"):     # other things, or nothing
        found.pop(name, None)
    add("length", "0.0254", "in", "inch", "inches")
    add("length", "0.3048", "ft", "foot", "feet")
    add("length", "0.9144", "yd", "yds", "yard", "yards")
    add("length", "1609.344", "mi", "mile", "miles")
    add("mass", "453.59237", "lb", "lbs", "pound", "pounds")
    add("mass", "28.349523125", "oz", "ounce", "ounces")
    add("mass", 10**6, "t", "ton", "tons", "tonne", "tonnes")
    add("volume", "3.785411784", "gal", "gallon", "gallons")
    add("volume", "0.001", "cc")
    add("area", 10**4, "ha", "hectare", "hectares")
    add("time", "0.001", "ms", "millisecond", "milliseconds")
    add("time", 1, "s", "sec", "secs", "second", "seconds")
    add("time", 60, "min", "mins", "minute", "minutes")
    add("time", 3600, "h", "hr", "hrs", "hour", "hours")
    add("time", 86400, "d", "day", "days")
    add("time", 7 * 86400, "week", "weeks")
    add("months", 1, "month", "months")
    add("months", 12, "yr", "yrs", "year", "years")
    add("speed", Fraction(1609344, 3600000), "mph")
    add("speed", Fraction(1, 3) * Fraction(10, 12), "kph", "kmph")
    add("charge", 1, "C")
    add("voltage", 1, "volt", "volts")
    add("current", 1, "amp", "amps")
    add("pressure", 101325, "atm")
    add("concentration", 1, "M")
    add("money in $", 1, "$", "dollar", "dollars", "USD")
    add("money in $", "0.01", "cent", "cents", "¢")
    add("money in €", 1, "€", "euro", "euros", "EUR")
    add("money in £", 1, "£", "GBP")
    add("money in £", "0.01", "pence", "p")
    add("money in ¥", 1, "¥", "yuan", "RMB", "CNY", "yen")
    add("angle", 1, r"\degree", "deg", "degree", "degrees", r"\degree T")
    add("angle in rad", 1, "rad", "radian", "radians")
    add("temperature", 1, r"\degree C", "Celsius", "degrees Celsius", "degree Celsius")
    add("temperature in °F", 1, r"\degree F", "Fahrenheit", "degrees Fahrenheit")
    add("temperature in K", 1, "K", "kelvin", "kelvins")
    add("percent", 1, "%", "percent", "per cent", "pct")
    add("count", 1, "unit", "units")
    for word, more in (
        ("person", "people persons"), ("student", "students"), ("piece", "pieces"), ("set", "sets"), ("time", "times"),
        ("point", "points"), ("way", "ways"), ("block", "blocks"), ("square", "squares"), ("triangle", "triangles"),
        ("tree", "trees"), ("book", "books"), ("car", "cars"), ("box", "boxes"), ("household", "households"),
    ):
        add(f"count of {word}", 1, word, *more.split())
    return found


UNITS = _table()
# A letter that may as well be a variable: it counts as a unit where it is set upright, or in running text.
LETTERS = frozenset(name for name in UNITS if len(name) == 1 and name.isalpha())
_FOLDED = {name.lower(): unit for name, unit in reversed(UNITS.items()) if len(name) > 2 or name in ("cm", "mm", "km")}
POWER_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}


def unit_named(name: str) -> Unit | None:
    """The unit of this spelling; words in any case, symbols in their own."""
    return UNITS.get(name) or _FOLDED.get(name.lower())


_FACTOR = re.compile(r"(\\degree ?[CF]?|\\[A-Za-z]+ ?[A-Za-z]*|[A-Za-z]+|[$€£¥¢%])\.?(?: ?\^ ?\{? ?(-?[1-9]) ?\}?)?")
_SEPARATOR = re.compile(r" ?(?:(/|\bper\b|\bp\.?(?= ))|\\cdot|\*|-| ) ?|")


_SQUARED = re.compile(r"(?<=[A-Za-z]{2})()([23])(?![0-9])")       # cm2


def unit_of(text: str) -> Unit | None:
    r"""The unit that a whole text is, in plain spelling: "cm", "cm^2", "square metres", "km/h", "m s^{-1}", "kg m^2".

    None for everything else. Text dress is taken off before (`spelling.plain`).
    """
    text = " ".join(_SQUARED.sub(r"\1^\2", text.replace("{", "").replace("}", "")).split())
    if not text or len(text) > 60:
        return None
    if (whole := unit_named(text)) is not None:
        return whole
    words = text.replace(".", "").split(" ", 1)
    if words[0].lower() in POWER_WORDS and len(words) == 2:
        inner = unit_of(words[1])
        return inner and raised(inner, POWER_WORDS[words[0].lower()])
    above, per, below = text.partition(" per ")
    if per:
        one, other = unit_of(above), unit_of(below)
        return one and other and times(one, other, -1)
    if text.endswith((" squared", " cubed")):
        inner = unit_of(text.rpartition(" ")[0])
        return inner and raised(inner, 2 if text.endswith("squared") else 3)
    position, found, sign = 0, None, 1
    while position < len(text):
        match = _FACTOR.match(text, position)
        unit = match and unit_named(match[1].strip())
        if unit is None:
            return None
        if match[2]:
            unit = raised(unit, int(match[2]))
        elif match.end() < len(text) and text[match.end()] in "23" and not text[match.end():match.end() + 2].isalnum():
            return None
        found = unit if found is None and sign == 1 else times(found or Unit("", Fraction(1)), unit, sign)
        position = match.end()
        if position == len(text):
            break
        separator = _SEPARATOR.match(text, position)
        if not separator[0]:
            return None
        sign = -1 if separator[1] else sign
        position = separator.end()
    return found


def raised(unit: Unit, power: int) -> Unit:
    """A unit to a power: cm to 2 is cm². A volume is a length to 3: ml is cm³."""
    return Unit(_joined({unit.dimension: power}), unit.factor**power)


def times(one: Unit, other: Unit, sign: int = 1) -> Unit:
    """A unit times another: kW·h; with sign −1 one divided by the other: km/h."""
    powers = _powers(one.dimension)
    for name, power in _powers(other.dimension).items():
        powers[name] = powers.get(name, 0) + sign * power
    return Unit(_joined(powers), one.factor * other.factor**sign)


def _powers(dimension: str) -> dict[str, int]:
    parts = [part.partition("^") for part in dimension.split(" · ") if part]
    return {name: int(power or 1) for name, _, power in parts}


def _joined(powers: dict[str, int]) -> str:
    return " · ".join(f"{name}^{power}" if power != 1 else name for name, power in sorted(powers.items()) if power)
