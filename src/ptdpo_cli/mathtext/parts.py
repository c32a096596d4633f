r"""What a reference is made of, none of which may pass for the whole, and how else it may be written.

Both are made from the text by plain rules, and not by what the comparison takes for equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ptdpo_cli.mathtext import expression
from ptdpo_cli.mathtext.expression import Node
from ptdpo_cli.mathtext.reading import read, split_at, split_at_signs
from ptdpo_cli.mathtext.spelling import CIRCLED, spelt
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
)

_MAX_PARTS = 12
_NUMBER = re.compile(r"(?<![0-9.])[0-9]+(?:\.[0-9]+)?(?![0-9]|\.[0-9])")
_CIRCLES = {number: circle for circle, number in CIRCLED.items()}


def parts(text: str) -> list[str]:
    r"""Proper parts of a reference: single values, sides of an equation, blanks, coordinates, a unit without its value.

    By hand: of "4\sqrt{3}" 4 and 3; of "7; 10" 7 and 10; of "y = 2x" "y" and "2x"; of "5 cm" nothing, for the value
    alone is an answer, and of "AB = 5" AB.
    """
    value = read(text)
    found = dict.fromkeys(part.strip() for part in _parts(value, spelt(text)))
    whole = _squeezed(text)
    return [part for part in found if part and _squeezed(part) != whole][:_MAX_PARTS]


def _parts(value: Value, text: str) -> Iterator[str]:
    match value:
        case Scalar():
            yield from _of_expression(value)
        case Named():
            has_name = "=" in text and value.name       # 24 * 24 = 576 has none
            name = split_at_signs(text.replace("$", " "))[0] if has_name else ""
            if name.strip() and not isinstance(read(name), Text):
                yield name
            yield from _parts(value.value, "")
        case Relation():
            yield from value.texts
            for side in value.texts:
                yield from _NUMBER.findall(side)
        case Several() if not value.any_one:
            for item in value.items:
                yield from _texts_of(item)
        case Bracketed() | Union() if len(items := value.items if isinstance(value, Bracketed) else value.parts) > 1:
            for item in items:
                yield from _texts_of(item)
        case Ratio():
            yield from (term.text for term in value.terms)
        case Statements() if len(value.numbers) > 1:
            yield from map(str, sorted(value.numbers))


def _texts_of(value: Value) -> Iterator[str]:
    if isinstance(value, Scalar | Statements | Text):
        yield value.text


def _of_expression(value: Scalar) -> Iterator[str]:
    """Numbers and groups of an expression whose value is another one."""
    if expression.is_literal(value.node) and _NUMBER.fullmatch(value.text.strip("+- ")):
        return
    whole = _float(value.node)
    for part in (*_NUMBER.findall(value.text), *re.findall(r"\{([^{}]{1,40})\}", value.text)):
        try:
            other = _float(expression.parse(part))
        except expression.Unreadable:
            continue
        if whole is None or other is None or abs(whole - other) > 1e-9 * max(1.0, abs(whole)):
            yield part


def _float(node: Node) -> float | None:
    value = expression.real_value(node)
    return None if value is None else float(value)


def spellings(text: str) -> list[str]:
    r"""Other natural spellings of a reference, each of which says the same.

    By hand: "\frac{1}{2}" also "\dfrac{1}{2}", "5 cm" also "5" and "5 \text{ cm}", "7; 10" also "7, 10", "7 or 11" also
    "11, 7", "AB = 5" also "5", "1+2n" also "2n+1", "①③" also "(1)(3)".
    """
    value, spelling = read(text), spelt(text)
    found = [text.strip(), spelling.replace("$", " ")] if not isinstance(value, Several) else [text.strip()]
    if r"\frac" in spelling:
        found.append(spelling.replace("$", " ").replace(r"\frac", r"\dfrac"))
    found += _spellings(value)
    return list(dict.fromkeys(one.strip() for one in found if one.strip()))


def _spellings(value: Value) -> Iterator[str]:
    match value:
        case Scalar():
            yield f"{{{value.text}}}"
            yield value.text
            if value.unit is None and (turned := _turned_sum(value.text)):
                yield turned
        case Named(value=Scalar() as inner):
            yield inner.text
        case Several():
            texts = [text for item in value.items for text in _texts_of(item)]
            if len(texts) == len(value.items):
                yield from texts if value.any_one else [", ".join(texts)]
                if not value.order and not value.any_one:
                    yield ", ".join(reversed(texts))
                    yield r" \text{ or } ".join(texts)
        case Ratio():
            yield " : ".join(term.text for term in value.terms)
        case Statements():
            yield "".join(_CIRCLES[number] for number in sorted(value.numbers))
            yield "".join(f"({number})" for number in sorted(value.numbers))
        case Bracketed(left="(", right=")"):
            texts = [text for item in value.items for text in _texts_of(item)]
            if len(texts) == len(value.items):
                yield rf"\left( {' , '.join(texts)} \right)"


_SUMMANDS = re.compile(r"(?<=[A-Za-z0-9)}\]]) ?\+ ?(?=[A-Za-z0-9\\(])")


def _turned_sum(text: str) -> str | None:
    """2n + 1 for 1 + 2n; None where a text is no sum of two terms."""
    terms = split_at(text, _SUMMANDS)
    return f"{terms[1]}+{terms[0]}" if len(terms) == 2 and "-" not in text and r"\pm" not in text else None


def _squeezed(text: str) -> str:
    return re.sub(r"[\s$.]+", "", spelt(text))
