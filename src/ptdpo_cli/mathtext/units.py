"""Units of measure: one table of how they are written, what they measure, and how much of it they are."""

from __future__ import annotations

import re
from collections import defaultdict
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
                names = f"{short}l", f"{short}L", f"{prefix}{stem}", f"{prefix}{stem}s"
                add("length^3", Fraction(factor) / 1000, *names)
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
    add("length^3", "0.003785411784", "gal", "gallon", "gallons")
    add("length^3", "1e-6", "cc")
    add("length^2", 10**4, "ha", "hectare", "hectares")
    add("time", "0.001", "ms", "millisecond", "milliseconds")
    add("time", 1, "s", "sec", "secs", "second", "seconds")
    add("time", 60, "min", "mins", "minute", "minutes")
    add("time", 3600, "h", "hr", "hrs", "hour", "hours")
    add("time", 86400, "d", "day", "days")
    add("time", 7 * 86400, "week", "weeks")
    add("months", 1, "month", "months")
    add("months", 12, "yr", "yrs", "year", "years")
    add("length · time^-1", Fraction(1609344, 3600000), "mph")
    add("length · time^-1", Fraction(1000, 3600), "kph", "kmph")
    add("energy", 3600000, "kWh")
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
POWER_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}


def _folded() -> dict[str, Unit]:
    """Units by their spelling in small letters, where that is one unit's alone: "km" for KM, and nothing for MHZ."""
    found = defaultdict(set)
    for name, unit in UNITS.items():
        if len(name) > 2 or name in ("cm", "mm", "km"):
            found[name.lower()].add(unit)
    return {name: units.pop() for name, units in found.items() if len(units) == 1}


_FOLDED = _folded()


def unit_named(name: str) -> Unit | None:
    """The unit of this spelling; words in any case, symbols in their own."""
    return UNITS.get(name) or _FOLDED.get(name.lower())


_FACTOR = re.compile(
    r"(\\degree ?[CF]?|\\[A-Za-z]+ ?[A-Za-z]*|[A-Za-z]+|[$€£¥¢%])\.?"
    r"(?: ?\^ ?\{? ?(-?[1-9]) ?\}?|([23])(?![0-9A-Za-z]))?"
)
_BELOW = re.compile(r"/ ?\(([^()/]{1,30})\)$")      # J/(kg K): whatever stands behind a stroke is below it
_SEPARATOR = re.compile(r" ?(?:(/|\bper\b|\bp\.?(?= ))|\\cdot|\*|-| ) ?|")


def unit_of(text: str) -> Unit | None:
    r"""The unit that a whole text is, in plain spelling: "cm", "cm^2", "square metres", "km/h", "m s^{-1}", "kg m^2".

    None for everything else. Text dress is taken off before (`spelling.plain`).
    """
    text = _BELOW.sub(r"/\1", " ".join(text.replace("{", "").replace("}", "").split()))
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
        if match[3] and unit.dimension != "length":     # cm2 is cm^2
            return None
        if power := match[2] or match[3]:
            unit = raised(unit, int(power))
        found = unit if found is None and sign == 1 else times(found or Unit("", Fraction(1)), unit, sign)
        position = match.end()
        if position == len(text):
            break
        separator = _SEPARATOR.match(text, position)
        if not separator[0] or separator.end() == len(text):
            return None
        sign = -1 if separator[1] else sign
        position = separator.end()
    return found


def raised(unit: Unit, power: int) -> Unit:
    """A unit to a power: cm to 2 is cm². A volume is a length to 3: ml is cm³."""
    return Unit(_joined({name: one * power for name, one in _powers(unit.dimension).items()}), unit.factor**power)


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
