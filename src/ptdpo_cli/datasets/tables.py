"""Rows of a data file: JSONL, JSON, Parquet, or a folder made by `save_to_disk`; a few of them in memory at a time.

JSON is read by the standard library and Parquet by pyarrow, not by the builders of `datasets`: those copy the file into
a cache, fix one type per column from the first rows (so answers 3 and "x" in one file fail), and lose the line number
that an error must name. Only folders saved by `datasets` are opened with it.

Rows are counted from 1, as lines are.

Numbers of Parquet and Arrow come as they were meant: 3.14 of a float32 column is 3.14 and not the double nearest to it,
and a column of floating-point numbers that are all whole, gaps aside, holds whole numbers: pandas makes such a column
of integers with a gap. Numbers of JSON stay as they are written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ptdpo_cli.errors import UsageError

_BATCH = 32             # rows that are Python objects at once: pictures among them
# Page by page: pyarrow would otherwise fetch whole row groups, and those may hold gigabytes of pictures.
_PAGEWISE = {"pre_buffer": False, "buffer_size": 2**20}
_EXACT = 2.0**53        # beyond it a double does not tell one whole number from the next

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
        rows = (lambda: _json_lines(file)) if file.suffix == ".jsonl" else _json_rows(file)
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

    def batches(wanted):    # the Arrow format leaves images encoded, as {"bytes", "path"}
        return data.select_columns(wanted).with_format("arrow").iter(batch_size=_BATCH)
    return data.column_names, _arrow_rows(batches, data.features.arrow_schema, name)


def _parquet_table(file: Path) -> Table:
    def batches(wanted):
        with pq.ParquetFile(file, **_PAGEWISE) as parquet:
            yield from parquet.iter_batches(batch_size=_BATCH, columns=wanted, use_threads=False)
    schema = pq.read_schema(file)
    return schema.names, _arrow_rows(batches, schema, file.name)


def _arrow_rows(batches: Callable[[list[str]], Iterable], schema: pa.Schema, name: str):
    """A function from the wanted columns to their rows, with numbers as they were meant."""

    @cache
    def reader(column: str) -> Callable | None:
        kind = schema.field(column).type
        if pa.types.is_floating(kind) and all(map(_are_whole, (batch.column(0) for batch in batches([column])))):
            return _whole_number
        return _shortest(kind)

    def read(wanted: list[str]) -> Iterator[RawRow]:
        try:
            here = [column for column in wanted if column in schema.names]
            readers = [(column, change) for column in here if (change := reader(column)) is not None]
            rows = (row for batch in batches(wanted) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                for column, change in readers:
                    row[column] = change(row[column])
                yield number, f"{name}, row {number}", row
        except (OSError, pa.ArrowException) as error:       # a damaged page shows only when it is reached
            raise UsageError(f"{name} is damaged", found=str(error).splitlines()[0][:200]) from error
    return read


def _are_whole(column: pa.Array) -> bool:
    values = pc.cast(pc.drop_null(column), pa.float64())
    exact = pc.and_(pc.equal(values, pc.floor(values)), pc.less_equal(pc.abs(values), _EXACT))
    return pc.all(pc.or_(pc.is_nan(values), exact), min_count=0).as_py()


def _whole_number(value) -> int | None:
    return None if value is None or math.isnan(value) else int(value)       # NaN is the gap


def _shortest(kind: pa.DataType) -> Callable | None:
    """How values of this type are read: narrow floats as the shortest decimal that is they; None: as they are."""
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return partial(_shortest_decimal, np.float32 if pa.types.is_float32(kind) else np.float16)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _shortest(kind.value_type)
        return inner and (lambda values: None if values is None else [inner(value) for value in values])
    if pa.types.is_struct(kind):
        inner = {field.name: change for field in kind if (change := _shortest(field.type)) is not None}
        return (lambda values: None if values is None else values | {
            name: change(values[name]) for name, change in inner.items()}) if inner else None
    return None


def _shortest_decimal(kind: type, value) -> float | None:
    return None if value is None else float(str(kind(value)))


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


def _json_rows(file: Path) -> Callable[[], Iterator[RawRow]]:
    """A list of rows, or an object of rows by id; such a row gets its id, unless it has one."""
    try:
        rows = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        fault = _invalid_json(error, "a file with one JSON object per line is named .jsonl")
        raise UsageError(f"{file.name}: {fault.what}", found=fault.found, hint=fault.hint) from error
    if isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values()):
        rows = [{"id": key} | row for key, row in rows.items()]
    if not isinstance(rows, list):
        raise UsageError(f"{file.name}: a .json file holds one list of rows, or an object of rows by their ids",
                         found=type(rows).__name__)
    return lambda: ((n, f"{file.name}, row {n}", _object(row)) for n, row in enumerate(rows, 1))


def _object(row) -> dict | UsageError:
    return row if isinstance(row, dict) else UsageError("a row is a JSON object", found=type(row).__name__)


def _invalid_json(error: Exception, hint: str) -> UsageError:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return UsageError("invalid JSON", found=f"{error.msg} at {line}column {error.colno}", hint=hint)
    return UsageError("invalid JSON", found=str(error)[:120], hint=hint)      # not UTF-8, or nested too deep
