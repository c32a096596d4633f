"""Means of verdicts that the data sets' own metrics are made of.

Rows are those of one answer to each problem: dicts with `accuracy` (0 or 1; None: unjudged), `family`, `category` and
`metadata`. An unjudged row counts in no mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

Rows = Sequence[Mapping]


def mean_accuracy(rows: Rows) -> float | None:
    """The mean over the rows that have a verdict; None if none has."""
    verdicts = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    return sum(verdicts) / len(verdicts) if verdicts else None


def grouped(rows: Rows, key: Callable[[Mapping], object]) -> dict:
    """The rows by key, in the order in which the keys first occur."""
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def accuracy_by(rows: Rows, key: Callable[[Mapping], object]) -> dict[str, float | None]:
    """The mean accuracy of each group, by the group's name in sorted order."""
    groups = grouped(rows, key)
    return {str(name): mean_accuracy(groups[name]) for name in sorted(groups, key=str)}


def all_right(groups: Mapping[object, Rows]) -> float | None:
    """The share of groups whose rows are all right, of those that are fully judged; None if there is none."""
    judged = [rows for rows in groups.values() if all(row["accuracy"] is not None for row in rows)]
    return sum(all(row["accuracy"] == 1 for row in rows) for rows in judged) / len(judged) if judged else None
