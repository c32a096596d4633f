"""What every adapter reads from a row: texts, lists, pictures, and the marks that stand for pictures in a text.

A row is a dict as pyarrow gives it. One that is laid out otherwise than the card says is a UsageError that does not say
where, a column that it lacks a KeyError, and one whose source is broken a LeftOut. The reader says the rest.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ptdpo_cli.datasets.cards import Card, Place
from ptdpo_cli.datasets.mending import mended
from ptdpo_cli.datasets.reading import LeftOut, short
from ptdpo_cli.errors import UsageError

READ_THE_PICTURE = "Answer the question shown in the image."

Found = TypeVar("Found")

_MARK = re.compile(r"( ?)<image(?:[_ ]?([0-9]+))?>")
_ALONE = re.compile(r"^(?:[ \t]*<image(?:[_ ]?[0-9]+)?>)+[ \t]*$", re.MULTILINE)
_RUN_AHEAD = re.compile(r"(?:\s*<image(?:[_ ]?[0-9]+)?>){2,}|(?:\s*<image>)+")
_RUN_BEHIND = re.compile(r"(?<=[.?!:;)\]])(?:\s*<image(?:[_ ]?[0-9]+)?>)+\s*$")
_REFERS = re.compile(r"\b(?:in|of|from|by|on|at|to|with|using|see)$", re.IGNORECASE)
_SPECIFIES = re.compile(r"\b(?:the|this|given|following|above)$", re.IGNORECASE)


def origin(card: Card, place: Place) -> dict[str, str]:
    """The fields of a problem that say where it is from."""
    return {"source": place.table.source or card.name, "split": place.split, "license": card.license}


def first_of(row: Mapping, *names: str) -> str:
    """The first of these columns that a row has: the layouts of a set call the same thing differently."""
    return next((name for name in names if name in row), names[0])


def text(row: Mapping, name: str, default: str | None = None) -> str:
    """A column's text, mended and stripped; a number as text. Empty, null or blank is `default`.

    Errors: LeftOut where that is nothing, for a number that is not finite, and for broken Unicode; UsageError for
    another type.
    """
    return as_text(row[name], name, default)


def as_text(value, name: str, default: str | None = None) -> str:
    """`text` of a value that is not a column of its own."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise LeftOut(f"the {name} is not finite", expected="text or a finite number", found=value)
        return str(value)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"the {name} has the wrong type", expected="text or a number",
                         found=f"{type(value).__name__} {short(value)}")
    stripped = mended(value or "").strip()                  # a form feed that was a command is no space
    if not stripped:
        if default is None:
            raise LeftOut(f"the {name} is empty", expected="text")
        return default
    try:
        stripped.encode()
    except UnicodeEncodeError as error:
        raise LeftOut(f"the {name} is not valid Unicode", found=str(error)) from error
    return stripped


def reference(read: Callable[[str], Found], value: str) -> Found:
    """What `read` makes of a reference. Errors: LeftOut where it cannot be read: nobody but its source can mend it."""
    try:
        return read(value)
    except UsageError as fault:
        raise LeftOut(fault.what, expected=fault.expected, found=fault.found) from None


def integer(row: Mapping, name: str) -> int | None:
    """A column's whole number, which some tables keep as a float; None for null and NaN."""
    value = row[name]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise UsageError(f"the {name} is no whole number", expected="an integer, or null", found=short(value))
    return int(value)


def texts(row: Mapping, name: str) -> tuple[str, ...]:
    """A column that holds a list of texts, or null for none; a list in a list is the list."""
    value = row[name]
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UsageError(f"the column {name!r} has the wrong type", expected="a list of texts", found=short(value))
    return tuple(as_text(item, f"{name}, item {k}", "") for k, item in enumerate(_only_list(value), 1))


def _only_list(value: list) -> list:
    while len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    return value


def written_list(row: Mapping, name: str) -> tuple[str, ...]:
    """A column whose text is a Python list, such as "['2', '$3']"; a list stays one, and a list in a list is the list.

    Read as a literal, never evaluated. Errors: LeftOut if the text is anything else than a list of texts or numbers.
    """
    value = row[name]
    if not isinstance(value, str):
        return texts(row, name)
    parsed = literal(value)
    items = _only_list(parsed) if isinstance(parsed, list) else None
    if items is None or not all(isinstance(item, (str, int, float)) for item in items):
        raise LeftOut(f"the column {name!r} holds no list", expected="a string such as \"['2', '3']\"",
                      found=short(value))
    return tuple(mended(str(item)).strip() for item in items)


def literal(value: str):
    """The Python literal that a text is, or None where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                 # of backslashes that are no escapes
            return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def from_json(value, name: str):
    """What a JSON text says. Errors: UsageError if the value is no text, or no JSON."""
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the {name} is no JSON text", found=f"{short(value)}: {error}"[:200]) from error


# Pictures

def pictures(row: Mapping, name: str) -> tuple:
    """The pictures in a column, as they stand there: one, a list of them, or none for null and an empty text."""
    value = row[name]
    return tuple(item for item in (value if isinstance(value, list) else [value]) if not is_no_picture(item))


def picture(row: Mapping, name: str) -> tuple:
    """The one picture in a column. Errors: UsageError if there is none."""
    found = pictures(row, name)
    if len(found) != 1:
        raise UsageError(f"the column {name!r} should hold one picture", found=f"{len(found)}")
    return found


def numbered_pictures(row: Mapping) -> dict[int, object]:
    """The pictures of the columns image_1 … image_7, by number; those that are null are left out."""
    return {k: row[f"image_{k}"] for k in range(1, 8) if not is_no_picture(row[f"image_{k}"])}


def is_no_picture(value) -> bool:
    """Whether a value in a column of pictures stands for none: null, an empty text, or an Image feature of neither."""
    if isinstance(value, dict) and value.get("bytes") is None:
        value = value.get("path") if value.keys() <= {"bytes", "path"} else value
    return value is None or (isinstance(value, str) and not value.strip())


# Marks

def worded(value: str, numbers: Sequence[int]) -> str:
    """The text without the marks that stand for pictures: `<image>`, `<image 2>`, `<image_2>`, `<image2>`.

    The pictures come before the text, so a mark that only places one goes. With several pictures a mark inside the text
    says which one is meant, and becomes "image 2"; with one picture it becomes "the image" where a preposition needs
    it. `numbers` is how the data set numbers the pictures, in their order: (1, 4) where image_2 and image_3 are null.
    If the marks have other numbers, but as many as there are pictures, they are taken in their order; one picture shows
    all that a text names by number.
    Errors: LeftOut if there are more marks than pictures, or one names a picture that is not there.
    """
    marks = list(_MARK.finditer(value))
    named = sorted({int(mark[2]) for mark in marks if mark[2]})
    n_bare = sum(not mark[2] for mark in marks)
    shows_all = len(numbers) == 1 and len(named) > 1 and not n_bare
    if shows_all:
        numbers = named
    if n_bare + len(named) > len(numbers):
        raise LeftOut("there are more image placeholders than images",
                      expected=f"at most {len(numbers)}", found=", ".join(mark[0].strip() for mark in marks[:8]))
    if not set(named) <= set(numbers):
        if len(named) != len(numbers):
            raise LeftOut("a placeholder names an image that the row lacks", found=f"image {named[-1]}",
                          expected=", ".join(f"image {n}" for n in numbers))
        numbers = named
    position = {number: number if shows_all else k for k, number in enumerate(numbers, 1)}
    runs = [*_ALONE.finditer(value), *filter(None, (_RUN_AHEAD.match(value), _RUN_BEHIND.search(value)))]
    loose = {mark.start() for run in runs for mark in _MARK.finditer(value, *run.span())}
    n_seen = 0

    def word(mark: re.Match) -> str:
        nonlocal n_seen
        n_seen += not mark[2]
        before, after = value[max(0, mark.start() - 16):mark.start()], value[mark.end():mark.end() + 1]
        if len(numbers) == 1:
            if _REFERS.search(before):
                return " the image"
            if _SPECIFIES.search(before):
                return " image"
            return mark[1] if before.endswith(" ") else ""
        if mark.start() in loose:
            return ""
        ahead = " " if mark[1] or before[-1:].isalnum() else ""
        behind = " " if after.isalnum() or after == "<" else ""
        return f"{ahead}image {position[int(mark[2])] if mark[2] else n_seen}{behind}"

    return re.sub(r"\n{3,}", "\n\n", _MARK.sub(word, value)).strip()


def naming(value: str, numbers: Sequence[int] | None) -> str:
    """The text with each mark as words, "image 2": an option that is a picture. None: the numbers cannot be checked.

    Pictures that a row numbers from 1 on may show more than a data set has columns for: a number beyond them stays.
    Errors: LeftOut if a mark names a picture that is not there, or has no number though there are several.
    """
    def word(mark: re.Match) -> str:
        if numbers is None:
            return f"{mark[1]}image {mark[2] or 1}"
        number = int(mark[2]) if mark[2] else numbers[0] if len(numbers) == 1 else None
        if number in numbers:
            return f"{mark[1]}image {numbers.index(number) + 1}"
        if number is None or not numbers or tuple(numbers) != tuple(range(1, len(numbers) + 1)) or number < 1:
            raise LeftOut("an option names an image that the row lacks", found=short(value),
                          expected=", ".join(f"image {n}" for n in numbers) or "no images")
        return f"{mark[1]}image {number}"

    return _MARK.sub(word, value).strip()


def question(value: str, numbers: Sequence[int]) -> str:
    """`worded`, of a question; one of which nothing but marks is left is in the picture."""
    return worded(value, numbers) or READ_THE_PICTURE


def turns(messages, name: str) -> list[tuple[str, object]]:
    """(speaker, content) of chat messages, in the words of OpenAI (role, content) or of ShareGPT (from, value)."""
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise UsageError(f"{name} holds no messages", expected='a list of {"role", "content"} or {"from", "value"}',
                         found=short(messages))
    return [(str(turn.get("role") or turn.get("from") or ""), turn.get("content", turn.get("value")))
            for turn in messages]
