"""What is known of a public data set before any of it is read: its card, as plain data.

An adapter is a module with

    CARD: Card
    problem(row, place) -> Problem          one row of the public layout, pictures as they stand in it
    scores(rows) -> dict                    optional: the metrics that the data set's authors publish

`problem` raises LeftOut for a row whose source is broken, UsageError for one that is not laid out as the card says, and
KeyError for a column that the row lacks, without saying where: the reader adds that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a data set's repository: a config and split as `datasets` names them, or files by a pattern.

    `archive` is a zip in the repository (or a pattern of several) with the pictures, where rows name them by a path.
    `clone` is the file in a clone of the authors' own repository, whose layout is another one.
    """

    config: str | None = None
    split: str = "train"
    files: str | None = None
    archive: str | None = None
    source: str | None = None       # the benchmark that its problems count for; None: the card's name
    clone: str | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """A part that a user can name, of `rows` rows: its tables, read one after the other."""

    rows: int | None
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """A public data set: where it lies, how large it is, under which licence, what for, and how it is scored.

    `train` and `test` name the splits that are taken where a command names none; None: it is not for that. `key` is the
    column that names a row; `repository` is where on GitHub the authors publish the rows, if a clone of it can be read.
    """

    name: str
    hub: str
    splits: Mapping[str, Split]
    license: str
    purpose: Literal["train", "test", "train and test"]
    scoring: str
    train: str | None = None
    test: str | None = None
    notes: str = ""
    key: str | None = None
    repository: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands: the split as the user names it, the table that it is in, its number there from 1."""

    split: str
    table: Table
    number: int
