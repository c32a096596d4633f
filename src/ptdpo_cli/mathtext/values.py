r"""What an answer is: a value with its unit, a named value, a ratio, an interval, a point, several values, or a text.

    2\sqrt{3} cm     Scalar with a unit             7; 10  ·  $7$ $10$      Several, in this order
    AB = 5           Named                          7 or 11  ·  \pm 3       Several, in any order
    2:3              Ratio                          ①③④  ·  1.3.4.          Statements
    (1, 2]  ·  {1}   Bracketed                      x < 1  ·  y = 2x        Relation
    (0,1) \cup [3,4] Union                          anything else           Text

Every answer is read whole: what no rule covers makes it a Text, and a Text equals only the same words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ptdpo_cli.mathtext import expression
from ptdpo_cli.mathtext.expression import Node
from ptdpo_cli.mathtext.units import Unit


@dataclass(frozen=True, slots=True)
class Scalar:
    """One expression with the unit behind it; `text` is how it is written, without the unit."""

    node: Node
    unit: Unit | None = None
    text: str = field(default="", compare=False)

    @property
    def is_closed(self) -> bool:
        """Whether it has a value: no names stand in it."""
        return not expression.symbols(self.node)


@dataclass(frozen=True, slots=True)
class Named:
    """A value with the name of what it is: "AB = 5", "Area = 4 cm^2", "x \\in (0, 1)"; the name is a tree or a text."""

    name: Node | str
    value: Value
    also: Value | None = None       # what stands before the last "≈"


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or inequality of expressions: sides, and the signs between them (= < ≤ ≠ …)."""

    sides: tuple[Node, ...]
    signs: tuple[str, ...]
    texts: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Bracketed:
    """Items in brackets: a point, an interval, a set; the brackets are those that are written."""

    left: str
    items: tuple[Value, ...]
    right: str


@dataclass(frozen=True, slots=True)
class Union:
    """Intervals or sets joined by ∪."""

    parts: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    """2:3, 1:2:3."""

    terms: tuple[Scalar, ...]
    is_time: bool = False


@dataclass(frozen=True, slots=True)
class Several:
    """Two or more values: `order` says whether it counts, `any_one` that each of them alone is an answer."""

    items: tuple[Value, ...]
    order: bool
    any_one: bool = False
    word: str = field(default="", compare=False)        # "and", "or", or nothing


@dataclass(frozen=True, slots=True)
class Statements:
    """The numbers of those statements that are meant: ①③, (1)(3), 1.3."""

    numbers: frozenset[int]
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Text:
    """Words, or what is not read as mathematics."""

    text: str


Value = Scalar | Named | Relation | Bracketed | Union | Ratio | Several | Statements | Text


def is_closed(value: Value) -> bool:
    """Whether a value says what it is without a name that stands for another value."""
    match value:
        case Scalar():
            return value.is_closed
        case Several() | Bracketed():
            return all(is_closed(one) for one in value.items)
        case Ratio() | Statements() | Text():
            return not isinstance(value, Text) or bool(re.fullmatch(r"[^\W\d_]{3,}(?: [^\W\d_]+)*", value.text))
        case Union():
            return all(is_closed(one) for one in value.parts)
    return False


def values_in(value: Value) -> Iterator[Value]:
    """The values that several values are, one after the other; a single one is itself."""
    if isinstance(value, Several):
        for item in value.items:
            yield from values_in(item)
    elif isinstance(value, Named) and isinstance(value.value, Several):
        for item in value.value.items:
            yield Named(value.name, item)
    else:
        yield value
