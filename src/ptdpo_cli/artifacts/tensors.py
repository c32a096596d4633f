"""Ragged tensors: the values of all rows end to end (N), and where each of the R rows begins (offsets, R + 1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Offsets (R + 1) int64 of rows with these lengths (R): row r is values[offsets[r] : offsets[r + 1]]."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)


def split(values: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    """The rows of `values` (N, …) as R views; ValueError when the offsets do not cover it from 0 to N in order."""
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(values) or np.any(np.diff(offsets) < 0):
        raise ValueError(f"offsets do not cut {len(values)} values into rows")
    return [values[start:stop] for start, stop in pairwise(offsets)]


def join(rows: Sequence[np.ndarray], *, dtype: type, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(values, offsets) of these rows; with `width` each row is (T, width). No rows give no values of that type."""
    empty = np.zeros((0,) if width is None else (0, width), dtype)
    values = np.concatenate([empty, *(np.asarray(row, dtype) for row in rows)])
    return values, offsets_of([len(row) for row in rows])
