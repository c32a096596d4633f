"""Whether one value says what another says."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from ptdpo_cli.mathtext import expression
from ptdpo_cli.mathtext.expression import Node
from ptdpo_cli.mathtext.spelling import plain, spelt
from ptdpo_cli.mathtext.units import Unit, unit_of
from ptdpo_cli.mathtext.values import (
    Bracketed,
    Named,
    Ratio,
    Relation,
    Scalar,
    Several,
    Statements,
    Text,
    Union,
    Value,
    values_in,
)

_MAX_COMPARISONS = 4000
_TURNED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "=", "≠": "≠", "∥": "∥", "⊥": "⊥", "≅": "≅", "∼": "∼"}


def same(found: Value, gold: Value) -> bool:
    """Whether `found` says what `gold` says, the whole of it and nothing else.

    A name or a unit that `found` leaves out is understood; one that differs from gold's makes it another answer.
    """
    match gold:
        case Several():
            return _same_several(found, gold)
        case Named():
            return _same_named(found, gold)
    if isinstance(found, Named):
        if found.also is not None and same(Named(found.name, found.also), gold):
            return True
        if isinstance(gold, Relation):
            one, other = intervals(found), intervals(gold)
            if one is not None and other is not None:
                return _same_intervals(one, other) and _same_variable(found, gold)
            return _same_relation(found, gold)
        return _is_label(found.name, gold) and same(found.value, gold)
    match gold:
        case Text():
            return isinstance(found, Text | Scalar) and same_words(found.text, gold.text)
        case Statements():
            return _same_statements(found, gold)
        case Ratio():
            return _same_ratio(found, gold)
        case Scalar() if isinstance(found, Scalar) or intervals(gold) is None:
            return _same_scalar(found, gold)
    if (one := intervals(gold)) is not None and (other := intervals(found)) is not None:
        if isinstance(gold, Bracketed) and isinstance(found, Bracketed):
            return (found.left, found.right) == (gold.left, gold.right) and _all_same(found.items, gold.items)
        return _same_intervals(other, one) and _same_variable(found, gold)
    match gold:
        case Bracketed():
            return _same_bracketed(found, gold)
        case Relation():
            return _same_relation(found, gold)
        case Union():
            return isinstance(found, Union) and _matched(found.parts, gold.parts, same)
    return False


# --- several ----------------------------------------------------------------------------------------------------------


def _all_same(found: Sequence[Value], gold: Sequence[Value]) -> bool:
    return len(found) == len(gold) and all(map(same, found, gold))


def _matched(found: Sequence[Value], gold: Sequence[Value], is_same: Callable[[Value, Value], bool]) -> bool:
    """Whether each value has its partner on the other side, in any order; one that is given twice counts once."""
    if len(found) * len(gold) > _MAX_COMPARISONS:
        return False
    return all(any(is_same(one, other) for other in gold) for one in found) \
        and all(any(is_same(one, other) for one in found) for other in gold)


def _same_several(found: Value, gold: Several) -> bool:
    if gold.any_one:
        return any(same(found, one) for one in gold.items)
    if isinstance(found, Bracketed) and found.left == "{" and not gold.order:
        return _matched(found.items, gold.items, same)
    is_named = isinstance(found, Named) and isinstance(found.value, Several | Bracketed)
    if is_named and not any(isinstance(one, Named) for one in gold.items):
        return _same_several(found.value, gold)
    is_nested = any(isinstance(one, Several) for one in gold.items)
    if isinstance(found, Several) and is_nested and _all_same(found.items, gold.items):
        return True
    ours, theirs = list(values_in(found)), list(values_in(gold))
    if isinstance(found, Bracketed) and (found.left, found.right) == ("(", ")") and (
            gold.order or all(isinstance(one, Named) for one in gold.items)):
        ours = list(found.items)
        return _all_same(ours, theirs)
    if not isinstance(found, Several) and len(ours) == 1:
        one, other = intervals(gold), intervals(found)
        return one is not None and other is not None and _same_intervals(other, one)
    if None not in (one := intervals(found), other := intervals(gold)):
        return _same_intervals(one, other) and _same_variable(found, gold)
    if _all_same(ours, theirs):
        return True
    if all(isinstance(one, Named) for one in theirs) and all(isinstance(one, Named) for one in ours):
        return len(ours) == len(theirs) and _matched(ours, theirs, _same_and_same_name)
    if isinstance(found, Several) and found.order and any(isinstance(one, Several) for one in found.items):
        return False
    return not gold.order and _matched(ours, theirs, same)


def _same_and_same_name(found: Value, gold: Value) -> bool:
    return same_name(found.name, gold.name) and same(found.value, gold.value)


# --- names ------------------------------------------------------------------------------------------------------------


def _same_named(found: Value, gold: Named) -> bool:
    if isinstance(found, Named):
        if found.also is not None and _same_named(Named(found.name, found.also), gold):
            return True
        return same_name(found.name, gold.name) and same(found.value, gold.value)
    if isinstance(found, Relation):
        relation = _as_relation(gold)
        return _same_relation(found, relation) if isinstance(relation, Relation) else same(found, gold.value)
    return same(found, gold.value)


def same_name(one: Node | str, other: Node | str) -> bool:
    """Whether two names may mean one thing: a word beside a letter may, two different letters do not."""
    if not one or not other:
        return True
    if isinstance(one, str) and isinstance(other, str):
        return _same_wording(one.casefold(), other.casefold())
    if isinstance(one, str) or isinstance(other, str):
        return True
    is_function = one[0].startswith("call ") or other[0].startswith("call ")       # sin A is neither cos A nor A
    if is_function or (one[0] == other[0] and one[0] in ("symbol", "·", "/", "call", "abs")):
        return expression.same(one, other)
    return True


def _same_wording(one: str, other: str) -> bool:
    """"Area of sector" and "sector area", "S.A." and "surface area"; not "area" and "perimeter"."""
    if squeezed(one) == squeezed(other) or (one[0] == other[0] == "("):
        return True
    ours, theirs = (set(re.findall(r"[a-z]{3,}", name)) for name in (one, other))
    return ":" not in one + other and (bool(ours & theirs) or not ours or not theirs)


def _is_label(name: Node | str, gold: Value) -> bool:
    """Whether a name before an answer may be left out: not where the answer itself holds it."""
    if isinstance(name, str) or not isinstance(gold, Scalar):
        return True
    return not expression.symbols(name) & expression.symbols(gold.node)


def _as_relation(named: Named) -> Value:
    if isinstance(named.name, tuple) and isinstance(named.value, Scalar):
        return Relation((named.name, named.value.node), ("=",))
    return named.value


# --- one value --------------------------------------------------------------------------------------------------------


def same_unit(found: Unit | None, gold: Unit | None) -> Fraction | None:
    """What a value in the found unit is to be multiplied by; None where the units measure different things."""
    if found is None or gold is None or found == gold:
        return Fraction(1)
    if "count" in found.dimension or "count" in gold.dimension:
        both = {found.dimension.partition(" of ")[0], gold.dimension.partition(" of ")[0]}
        return Fraction(1) if len(both) == 1 and ("count" in (found.dimension, gold.dimension)) else None
    return found.factor / gold.factor if found.dimension == gold.dimension else None


_PERCENT = "percent"


_LETTERS_BEHIND = re.compile(r"(.*\S) *((?<![A-Za-z\\])[A-Za-z]{1,4}(?:\^\{?[23]\}?)?)", re.DOTALL)


def _same_in_unit(found: Scalar, gold: Scalar) -> bool:
    r"""9\sqrt{6} N for a force: the letters behind, which might be variables, are gold's unit."""
    match = _LETTERS_BEHIND.fullmatch(found.text) if found.unit is None and not found.is_closed else None
    unit = match and unit_of(match[2])
    if not unit:
        return False
    try:
        return same_quantity(Scalar(expression.parse(match[1]), unit, match[1]), gold)
    except expression.Unreadable:
        return False


def _same_scalar(found: Value, gold: Scalar) -> bool:
    match found:
        case Scalar():
            return same_quantity(found, gold) or (gold.unit is not None and _same_in_unit(found, gold))
        case Relation():        # f(x) = x + 1 for x + 1
            name, *_, last = found.sides
            is_named = set(found.signs) == {"="} and name[0] in ("symbol", "call")
            own = expression.symbols(gold.node) - expression.symbols(last)
            is_open = gold.unit is None and not gold.is_closed
            return is_named and is_open and not expression.symbols(name) & own and expression.same(last, gold.node)
        case Ratio(terms=(one, other)) if gold.is_closed and gold.unit is None and not found.is_time:
            return expression.same(("/", one.node, other.node), gold.node)
        case Bracketed(left="{", items=(one,)):
            return same(one, gold)
        case Text():
            return bool(gold.text) and gold.unit is None and same_words(found.text, gold.text)
    return False


def same_quantity(found: Scalar, gold: Scalar) -> bool:
    """Whether two scalars are equal, with their units; a percentage may also be given as the part that it is."""
    ours, theirs = found.node, gold.node
    is_percent = found.unit is not None and found.unit.dimension == _PERCENT, \
        gold.unit is not None and gold.unit.dimension == _PERCENT
    if is_percent[0] != is_percent[1]:
        if (gold.unit if is_percent[0] else found.unit) is not None:
            return False
        if is_percent[0]:       # 75% for 3/4, and 50% for 50 where the sign is a unit
            is_whole = expression.is_literal(theirs) and _is_whole(theirs)
            return expression.same(("/", ours, ("number", Fraction(100))), theirs) or \
                (is_whole and expression.same(ours, theirs))
        return expression.same(ours, ("/", theirs, ("number", Fraction(100)))) or expression.same(ours, theirs)
    if None not in (found.unit, gold.unit) and {found.unit.dimension, gold.unit.dimension} == {"angle", "angle in rad"}:
        half_turn = ("/", ("number", Fraction(180)), ("pi",))
        ours, theirs = (("·", one, half_turn) if unit.dimension == "angle in rad" else one
                        for one, unit in ((ours, found.unit), (theirs, gold.unit)))
        return expression.same(ours, theirs)
    factor = same_unit(found.unit, gold.unit)
    if factor is None:
        return False
    if _has_arrows(ours) and not _has_arrows(theirs) and len(expression.symbols(theirs)) > 1:
        ours = _without_arrows(ours)        # gold's vectors are in bold
    return expression.same(ours if factor == 1 else ("·", ours, ("number", factor)), theirs)


def _has_arrows(node: Node) -> bool:
    return any(name.startswith("vec ") for name in expression.symbols(node))


def _without_arrows(node: Node) -> Node:
    if node[0] == "symbol":
        return ("symbol", node[1].removeprefix("vec "))
    return tuple(_without_arrows(part) if isinstance(part, tuple) else part for part in node)


def _is_whole(node: Node) -> bool:
    value = expression.exact(node)
    return value is not None and value.denominator == 1


def _same_ratio(found: Value, gold: Ratio) -> bool:
    if gold.is_time:
        return isinstance(found, Ratio) and len(found.terms) == len(gold.terms) and all(
            expression.exact(one.node) == expression.exact(other.node)
            for one, other in zip(found.terms, gold.terms, strict=True))
    match found:
        case Ratio() if len(found.terms) == len(gold.terms):
            first, reference = found.terms[0].node, gold.terms[0].node
            return all(
                expression.same(("·", one.node, reference), ("·", other.node, first))
                for one, other in zip(found.terms, gold.terms, strict=True)
            ) and not expression.same(first, ("number", Fraction(0)))
        case Text() if to := re.fullmatch(r"([0-9.]{1,20}) to ([0-9.]{1,20})", plain(found.text)):
            return _same_ratio(Ratio(tuple(Scalar(expression.parse(one)) for one in to.groups())), gold)
        case Scalar(unit=None) if len(gold.terms) == 2:
            return expression.same(found.node, ("/", gold.terms[0].node, gold.terms[1].node))
    return False


def _same_statements(found: Value, gold: Statements) -> bool:
    if isinstance(found, Statements):
        return found.numbers == gold.numbers
    if isinstance(found, Several | Bracketed):
        numbers = [expression.exact(one.node) if isinstance(one, Scalar) else None for one in found.items]
        return None not in numbers and set(numbers) == gold.numbers
    return isinstance(found, Scalar) and expression.exact(found.node) in gold.numbers and len(gold.numbers) == 1


# --- words ------------------------------------------------------------------------------------------------------------


def words(text: str) -> str:
    """A text as words are compared: in small letters, and as `squeezed`."""
    return squeezed(text).casefold()


def squeezed(text: str) -> str:
    """A text without quotes, a final stop, a bracketed letter's brackets, and spaces but those between digits."""
    text = plain(text).strip(' "`')
    text = text.strip("'") if text[:1] == "'" else text     # A' and 30'' keep their marks
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(?<![0-9]) | (?![0-9])", "", text)
    text = text if text.endswith("..") else text.rstrip(".,;")
    return text[1:-1] if re.fullmatch(r"\([^()]\)|\{[^{}]*\}", text) else text


_ARTICLE = re.compile(r"\W{0,3}(?:an?|the) (?=[a-z]{3})", re.IGNORECASE)


def same_words(found: str, gold: str) -> bool:
    """Whether two texts are the same; case means nothing in words, and much among signs and single letters."""
    ours, theirs = (squeezed(_ARTICLE.sub("", text)) for text in (found, gold))
    if not theirs or ours == theirs:
        return bool(theirs)
    if ours.casefold() == theirs.casefold():
        return not _CASE_MATTERS.search(plain(gold))
    return same_formula(found, gold)


def same_formula(found: str, gold: str) -> bool:
    """Whether two texts are the same chemical formula, in whichever dress."""
    formula = _chemical(gold)
    return formula is not None and formula == _chemical(found)


_ELEMENTS = frozenset(
    [
        "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca",
        "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Ag",
        "Cd", "Sn", "Sb", "I", "Xe", "Cs", "Ba", "W", "Pt", "Au", "Hg", "Pb", "Bi", "U",
    ]
)


def _chemical(text: str) -> str | None:
    """A chemical formula without its dress, "H2SO4" for "\\mathrm{H_2SO_4}"; None for any other text."""
    bare = re.sub(r"\\text|[$_\s]", "", spelt(text))
    bare = re.sub(r"[{}]", "", re.sub(r"\^\{([^{}]*)\}", r"^<\1>", bare))
    if not re.fullmatch(r"(?:[A-Z][a-z]?|[0-9n()\[\]<>^+\-])+", bare) or len(bare) < 2:
        return None
    elements = set(re.findall("[A-Z][a-z]?", bare))
    return bare if elements and elements <= _ELEMENTS else None


_CASE_MATTERS = re.compile(
    r"[\\=<>^_+*/|]|(?<![^\W\d_])(?!(?:no|up|in|on|at|of|to|is|it|by|or|an|am|pm)(?![^\W\d_])"
    r"|(?:No|Up|In|On|At|Of|To|Is|It|By|Or|An)(?![^\W\d_]))"
    r"[^\W\d_]{1,2}(?![^\W\d_])"
)


# --- intervals and relations ------------------------------------------------------------------------------------------

Interval = tuple[Node, bool, Node, bool]        # from, is it in, to, is it in
_INFINITY = ("infinity",)
_MINUS_INFINITY = ("neg", _INFINITY)


def intervals(value: Value) -> list[Interval] | None:
    """The intervals that a value is, in its own order: (1, 2], x > 1, 0 < x < 1, and unions of these."""
    match value:
        case Named(value=Bracketed() | Union()):
            return intervals(value.value)
        case Bracketed(items=(Scalar() as low, Scalar() as high)) if value.left in "([" and value.right in ")]":
            if low.is_closed and high.is_closed:
                return [(low.node, value.left == "[", high.node, value.right == "]")]
        case Union():
            parts = [intervals(one) for one in value.parts]
            return None if None in parts else [one for part in parts for one in part]
        case Scalar(node=("symbol", "R")):
            return [(_MINUS_INFINITY, False, _INFINITY, False)]
        case Several(order=False, word="and"):
            return _both(value)
        case Several(order=False):
            parts = [intervals(one) for one in value.items]
            is_relation = all(isinstance(one, Relation) for one in value.items)
            return None if None in parts or not is_relation else [one for part in parts for one in part]
        case Relation():
            return _interval_of(value)
    return None


def _both(value: Several) -> list[Interval] | None:
    """x > -2 and x < 5: from the one to the other."""
    if len(value.items) == 2 and all(isinstance(one, Relation) for one in value.items):
        for one, other in (value.items, value.items[::-1]):
            if other.signs == ("≠",) and (whole := intervals(one)) is not None and len(whole) == 1:
                return _without_point(whole[0], other.sides[1])
    parts = [intervals(one) if isinstance(one, Relation) else None for one in value.items]
    if len(parts) != 2 or None in parts or any(len(one) != 1 for one in parts):
        return None
    (one,), (other,) = sorted(parts, key=lambda part: part[0][0] == _MINUS_INFINITY)
    if one[2] != _INFINITY or other[0] != _MINUS_INFINITY:
        return None
    return [(one[0], one[1], other[2], other[3])]


def _without_point(whole: Interval, point: Node) -> list[Interval] | None:
    """x > -1 and x ≠ 0: two intervals; None where the point is not inside."""
    low, middle, high = (expression.real_value(node) for node in (whole[0], point, whole[2]))
    if middle is None or (low is not None and middle <= low) or (high is not None and middle >= high):
        return None
    return [(whole[0], whole[1], point, False), (point, False, whole[2], whole[3])]


def _interval_of(relation: Relation) -> list[Interval] | None:
    sides, signs = relation.sides, relation.signs
    if len(sides) == 2 and not expression.symbols(sides[0]) and expression.symbols(sides[1]):
        sides, signs = sides[::-1], (_TURNED.get(signs[0], ""),)
    if len(sides) == 2 and sides[0][0] in ("symbol", "call") and not expression.symbols(sides[1]):
        if signs[0] in "<≤":
            return [(_MINUS_INFINITY, False, sides[1], signs[0] == "≤")]
        if signs[0] in ">≥":
            return [(sides[1], signs[0] == "≥", _INFINITY, False)]
    is_between = len(sides) == 3 and sides[1][0] in ("symbol", "call")
    if is_between and not expression.symbols(sides[0]) | expression.symbols(sides[2]):
        if signs[0] in "<≤" and signs[1] in "<≤":
            return [(sides[0], signs[0] == "≤", sides[2], signs[1] == "≤")]
        if signs[0] in ">≥" and signs[1] in ">≥":
            return [(sides[2], signs[1] == "≥", sides[0], signs[0] == "≥")]
    return None


def _same_intervals(found: list[Interval], gold: list[Interval]) -> bool:
    def is_same(one: Interval, other: Interval) -> bool:
        bounds = (one[0], other[0]), (one[2], other[2])
        return (one[1], one[3]) == (other[1], other[3]) and all(expression.same(*pair) for pair in bounds)

    return len(found) == len(gold) and _matched(found, gold, is_same)


def _same_variable(found: Value, gold: Value) -> bool:
    ours, theirs = _variable(found), _variable(gold)
    return ours is None or theirs is None or ours == theirs


def _variable(value: Value) -> Node | None:
    if isinstance(value, Several):
        value = value.items[0]
    if isinstance(value, Relation):
        return next((side for side in value.sides if expression.symbols(side)), None)
    return value.name if isinstance(value, Named) and isinstance(value.name, tuple) else None


def _same_bracketed(found: Value, gold: Bracketed) -> bool:
    if isinstance(found, Bracketed):
        if (found.left, found.right) != (gold.left, gold.right):
            return False
        if gold.left == "{":
            return _matched(found.items, gold.items, same)
        return _all_same(found.items, gold.items)
    if gold.left == "{":
        items = list(values_in(found))
        return not isinstance(found, Relation) and _matched(items, gold.items, same)
    if (gold.left, gold.right) == ("(", ")") and isinstance(found, Several):      # 3, 4 or x = 3, y = 4 for (3, 4)
        return _all_same(list(values_in(found)), gold.items)
    return False


def _same_relation(found: Value, gold: Relation) -> bool:
    if isinstance(found, Named):
        found = _as_relation(found)
    if not isinstance(found, Relation) or len(found.sides) != len(gold.sides):
        return False
    if len(gold.sides) > 2:
        turned = tuple(_TURNED[sign] for sign in reversed(found.signs))
        return any(
            signs == gold.signs and all(map(expression.same, sides, gold.sides))
            for sides, signs in ((found.sides, found.signs), (found.sides[::-1], turned))
        )
    if {found.sides[0][0], gold.sides[0][0]} == {"symbol", "call"} and _is_y_of_x(found, gold):
        found = replace(found, sides=(gold.sides[0], found.sides[1]))
    if gold.signs[0] in "∥⊥≅∼":
        return found.signs == gold.signs and any(
            all(map(expression.same, sides, gold.sides)) for sides in (found.sides, found.sides[::-1]))
    if found.signs == gold.signs == ("=",) and found.sides[0] != found.sides[1] and expression.same(*gold.sides):
        return expression.same(*found.sides) and expression.same(found.sides[0], gold.sides[0])     # an identity
    sign = expression.proportional(_difference(found), _difference(gold))
    if sign == 0 and found.signs == gold.signs == ("=",):
        sign = expression.proportional(*(expression.fraction(_difference(one))[0] for one in (found, gold)))
    if sign == 0:
        return False
    ours = found.signs[0] if sign > 0 else _TURNED.get(found.signs[0])
    return ours == gold.signs[0]


def _is_y_of_x(one: Relation, other: Relation) -> bool:
    """Whether one begins with y and the other with f(x)."""
    function = one.sides[0] if one.sides[0][0] == "call" else other.sides[0]
    symbol = other.sides[0] if function is one.sides[0] else one.sides[0]
    return symbol == ("symbol", "y") and len(function) == 3 and function[2][0] == "symbol"


def _difference(relation: Relation) -> Node:
    return ("+", relation.sides[0], ("neg", relation.sides[1]))
