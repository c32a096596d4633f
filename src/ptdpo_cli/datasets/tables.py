"""Rows of a data file: JSONL, JSON, Parquet, or a folder made by `save_to_disk`; a few of them in memory at a time.

JSON is read by the standard library and Parquet by pyarrow, not by the builders of `datasets`: those copy the file into
a cache, fix one type per column from the first rows (so answers 3 and "x" in one file fail), and lose the line number
that an error must name. Only folders saved by `datasets` are opened with it.

Rows are counted from 1, as lines are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ptdpo_cli.errors import UsageError

_BATCH = 32             # rows that are Python objects at once: pictures among them
# Page by page: pyarrow would otherwise fetch whole row groups, and those may hold gigabytes of pictures.
_PAGEWISE = {"pre_buffer": False, "buffer_size": 2**20}

# Number in the file, where ("mine.jsonl, line 3"), values or fault.
RawRow = tuple[int, str, dict | UsageError]
Table = tuple[list[str], Callable[[list[str]], Iterable[RawRow]]]


def open_table(file: Path) -> Table:
    """The column names, and a function from the wanted columns to the rows, which begins anew at every call."""
    try:
        if file.is_dir():
            return saved_table(file)
        if file.suffix == ".parquet":
            return _parquet_table(file)
        rows = (lambda: _json_lines(file)) if file.suffix == ".jsonl" else _json_list(file)
        names = dict.fromkeys(name for _, _, row in rows() if isinstance(row, dict) for name in row)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UsageError(f"{file} cannot be read as {file.suffix or 'a saved data set'}",
                         found=str(error).splitlines()[0][:200]) from error
    return list(names), lambda wanted: rows()


def saved_table(saved) -> Table:
    """Of a data set of `datasets`, or the folder of one."""
    # Here, because it takes seconds to import and only a saved folder needs it.
    from datasets import load_from_disk

    name = saved.name if isinstance(saved, Path) else "the data set"
    data = load_from_disk(str(saved)) if isinstance(saved, Path) else saved

    def read(wanted):       # the Arrow format leaves images encoded, as {"bytes", "path"}
        return _numbered(data.select_columns(wanted).with_format("arrow").iter(batch_size=_BATCH), name)
    return data.column_names, read


def _parquet_table(file: Path) -> Table:
    def read(wanted):
        with pq.ParquetFile(file, **_PAGEWISE) as parquet:
            yield from _numbered(parquet.iter_batches(batch_size=_BATCH, columns=wanted, use_threads=False), file.name)
    return pq.read_schema(file).names, read


def _numbered(batches, name: str) -> Iterator[RawRow]:
    try:
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield number, f"{name}, row {number}", row
    except (OSError, pa.ArrowException) as error:           # a damaged page shows only when it is reached
        raise UsageError(f"{name} is damaged", found=str(error).splitlines()[0][:200]) from error


def _json_lines(file: Path) -> Iterator[RawRow]:
    number = 0
    with file.open("rb") as lines:
        for line_number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            number += 1
            where = f"{file.name}, line {line_number}"
            try:
                row = _object(json.loads(line.rstrip()))    # bytes: a byte order mark is skipped
            except (ValueError, RecursionError) as error:
                row = _invalid_json(error, "a .jsonl file holds one JSON object per line")
            yield number, where, row


def _json_list(file: Path) -> Callable[[], Iterator[RawRow]]:
    try:
        rows = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        fault = _invalid_json(error, "a file with one JSON object per line is named .jsonl")
        raise UsageError(f"{file.name}: {fault.what}", found=fault.found, hint=fault.hint) from error
    if not isinstance(rows, list):
        raise UsageError(f"{file.name}: a .json file holds one list of rows", found=type(rows).__name__)
    return lambda: ((n, f"{file.name}, row {n}", _object(row)) for n, row in enumerate(rows, 1))


def _object(row) -> dict | UsageError:
    return row if isinstance(row, dict) else UsageError("a row is a JSON object", found=type(row).__name__)


def _invalid_json(error: Exception, hint: str) -> UsageError:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return UsageError("invalid JSON", found=f"{error.msg} at {line}column {error.colno}", hint=hint)
    return UsageError("invalid JSON", found=str(error)[:120], hint=hint)      # not UTF-8, or nested too deep
