"""The user's own problems, from JSONL, JSON, Parquet, a folder of those, or a folder made by `save_to_disk`.

JSON is read by the standard library and Parquet by pyarrow, not by the builders of `datasets`: those copy the file into
a cache, fix one type per column from the first rows (so answers 3 and "x" in one file fail), and lose the line number
that an error must name. Only folders saved by `datasets` are opened with it. Nothing is ever downloaded.

Rows are counted from 1, as lines are.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ptdpo_cli.artifacts.schemas import Problem, Region
from ptdpo_cli.datasets.images import MAX_PIXELS, decode_rgb, read_image_file
from ptdpo_cli.errors import UsageError

# What a column may be called; where a file has several of one line, the first is taken.
COLUMNS = {
    "question": ("problem", "question", "prompt"),
    "images": ("images", "image"),
    "answer": ("answer", "ground_truth"),
    "problem_id": ("problem_id", "id", "pid"),
    "category": ("category",),
    "solution": ("solution",),
    "regions": ("regions",),
    "steps": ("steps",),
}
SUFFIXES = (".jsonl", ".json", ".parquet")
SHOWN_FAULTS = 10

_PLACEHOLDER = re.compile(r" ?<image(?:[_ ]\d+)?>")
_CONTROL_TOKEN = re.compile(r"<\|[a-zA-Z0-9_]+\|>")         # <|image_pad|>, <|vision_start|>, <|im_end|>, ...
_MEDIA_NAME = re.compile(r"image|img|picture|photo|video|audio", re.IGNORECASE)
_SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?$")
_SPLITS = ("train", "validation", "valid", "val", "dev", "test")

Row = tuple[int, str, dict | UsageError]                    # number, where ("mine.jsonl, line 3"), values or fault


def load_path(path, *, split: str | None = None, columns: dict | None = None, image_root=None,
              limit: int | None = None, max_pixels: int = MAX_PIXELS) -> list[Problem]:
    """The problems in a data file or folder, in file order, the first `limit` rows if given.

    `columns` says what a column is called here, as in {"answer": "label"}; {"images": None} says that there are none.
    Every image is decoded once, so that a broken one stops the first stage and not the fifth.
    Errors: UsageError with all faults of the data together, each naming its file and row.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise UsageError("the number of rows to load must be positive", found=limit)
    root = Path(image_root) if image_root is not None else (path if path.is_dir() else path.parent)
    if not root.is_dir() and path.exists():
        raise UsageError("image_root is not a folder", found=root)

    faults: list[UsageError] = []
    read_images = _image_reader(root, max_pixels)
    problems, seen = [], {}
    n_rows = 0
    for file in _data_files(path, split):
        remaining = None if limit is None else limit - n_rows
        if remaining == 0:
            break
        names, read = _table(file, remaining)
        roles = _roles(names, columns or {}, file.name) if names else {}
        for number, where, row in islice(read([name for name in roles.values() if name]), remaining):
            n_rows += 1
            if isinstance(row, UsageError):
                faults.append(row)
                continue
            values = {role: row.get(name) for role, name in roles.items() if name}
            problem = _problem(values, where, f"{file.stem}/{number:06d}", read_images, faults,
                               source=path.name, split=split or "")
            if problem is None:
                continue
            if problem.problem_id in seen:
                faults.append(UsageError(f"{where}: the problem id is taken", expected="a different id in every row",
                                         found=f"{problem.problem_id!r}, already in {seen[problem.problem_id]}"))
            seen[problem.problem_id] = where
            problems.append(problem)
    if faults:
        raise _together(faults, path)
    if not problems:
        raise UsageError(f"no rows in {path}", hint="give a file with at least one problem")
    return problems


# Files and tables

def _data_files(path: Path, split: str | None) -> list[Path]:
    """The data files of one split, in name order; a folder made by `save_to_disk` counts as one file."""
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in _children(path.parent)], n=1)
        raise UsageError(f"no such file or folder: {path}",
                         hint=f"did you mean {path.parent / near[0]}?" if near else None)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UsageError("this data format is not read", expected=", ".join(SUFFIXES), found=path.name)
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        return [path / _choose(splits, split, path)]
    if (path / "state.json").is_file():
        return [path]

    files = [p for p in _children(path) if p.suffix in SUFFIXES]
    kinds = sorted({p.suffix for p in files})
    if len(kinds) != 1:
        raise UsageError(f"{path} must hold data files of one kind", expected=f"only one of {', '.join(SUFFIXES)}",
                         found=", ".join(kinds) or "no data file", hint="give the path of the data file itself")
    sets: dict[str, list[Path]] = {}
    for file in files:
        sets.setdefault(_SHARD.sub("", file.stem), []).append(file)
    if len(sets) == 1 and not (split and next(iter(sets)) in _SPLITS):
        return files                                        # shards of one set under any name
    return sets[_choose(list(sets), split, path)]


def _children(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []


def _choose(names: list[str], split: str | None, path: Path) -> str:
    if split is None and len(names) == 1:
        return names[0]
    if split not in names:      # never load them all: train and test would be mixed without a word
        what = f"{path} holds several sets" if split is None else f"{path} has no split {split!r}"
        raise UsageError(what, expected=f"a split, one of: {', '.join(sorted(names))}", found=split)
    return split


def _table(file: Path, limit: int | None) -> tuple[list[str], Callable[[list[str]], Iterable[Row]]]:
    """The column names, and a function from the wanted columns to the rows."""
    try:
        if file.is_dir():
            return _saved_table(file)
        if file.suffix == ".parquet":
            return _parquet_table(file)
        rows = _json_lines(file, limit) if file.suffix == ".jsonl" else _json_list(file)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UsageError(f"{file} cannot be read as {file.suffix or 'a saved data set'}",
                         found=str(error).splitlines()[0][:200]) from error
    names = list(dict.fromkeys(name for _, _, row in rows if isinstance(row, dict) for name in row))
    return names, lambda wanted: rows


def _json_lines(file: Path, limit: int | None) -> list[Row]:
    rows: list[Row] = []
    with file.open("rb") as lines:
        for line_number, line in enumerate(lines, 1):
            if len(rows) == limit:
                break
            if not line.strip():
                continue
            where = f"{file.name}, line {line_number}"
            try:
                row = _object(json.loads(line.rstrip()), where)     # bytes: a byte order mark is skipped
            except (ValueError, RecursionError) as error:
                row = _invalid_json(where, error, "a .jsonl file holds one JSON object per line")
            rows.append((len(rows) + 1, where, row))
    return rows


def _json_list(file: Path) -> list[Row]:
    try:
        rows = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _invalid_json(file.name, error, "a file with one JSON object per line is named .jsonl") from error
    if not isinstance(rows, list):
        raise UsageError(f"{file.name}: a .json file holds one list of rows", found=type(rows).__name__)
    numbered = ((number, f"{file.name}, row {number}", row) for number, row in enumerate(rows, 1))
    return [(number, where, _object(row, where)) for number, where, row in numbered]


def _object(row, where: str) -> dict | UsageError:
    return row if isinstance(row, dict) else UsageError(f"{where}: a row is a JSON object", found=type(row).__name__)


def _invalid_json(where: str, error: Exception, hint: str) -> UsageError:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return UsageError(f"{where}: invalid JSON", found=f"{error.msg} at {line}column {error.colno}", hint=hint)
    return UsageError(f"{where}: invalid JSON", found=str(error)[:120], hint=hint)      # not UTF-8, or nested too deep


def _parquet_table(file: Path):
    parquet = pq.ParquetFile(file)

    def read(wanted):
        return _numbered(parquet.iter_batches(batch_size=256, columns=wanted), file.name)
    return parquet.schema_arrow.names, read


def _saved_table(folder: Path):
    # Here, because it takes seconds to import and only a saved folder needs it.
    from datasets import load_from_disk

    saved = load_from_disk(str(folder))

    def read(wanted):       # the Arrow format leaves images encoded, as {"bytes", "path"}
        return _numbered(saved.select_columns(wanted).with_format("arrow").iter(batch_size=256), folder.name)
    return saved.column_names, read


def _numbered(batches, name: str) -> Iterator[Row]:
    try:
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield number, f"{name}, row {number}", row
    except (OSError, pa.ArrowException) as error:           # a damaged page shows only when it is reached
        raise UsageError(f"{name} is damaged", found=str(error).splitlines()[0][:200]) from error


def _roles(names: list[str], columns: dict, file: str) -> dict[str, str | None]:
    """Which column plays which role, {"question": "problem", ...}; None where the file has none."""
    chosen = {}
    for key, name in columns.items():
        role = next((role for role, known in COLUMNS.items() if key == role or key in known), None)
        if role is None:
            near = difflib.get_close_matches(key, COLUMNS, n=1)
            raise UsageError(f"columns names an unknown role {key!r}", expected=", ".join(COLUMNS),
                             hint=f"did you mean {near[0]}?" if near else None)
        if name is not None and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise UsageError(f"{file} has no column {name!r} for {role}", found=f"columns {', '.join(names)}",
                             hint=f"did you mean {near[0]}?" if near else None)
        chosen[role] = name
    roles = {role: chosen[role] if role in chosen else next((k for k in known if k in names), None)
             for role, known in COLUMNS.items()}

    missing = [role for role in ("question", "answer") if roles[role] is None]
    if missing:
        unused = [name for name in names if name not in roles.values()]
        near = {role: difflib.get_close_matches(role, unused, n=1, cutoff=0.5) for role in missing}
        examples = ", ".join(f"{role}: {(near[role] or ['<column>'])[0]}" for role in missing)
        raise UsageError(f"{file} has no column for {' and '.join(missing)}",
                         expected="; ".join(f"{role} as {' or '.join(COLUMNS[role])}" for role in missing),
                         found=f"columns {', '.join(names)}", hint=f"name it with data.columns {{{examples}}}")
    lookalikes = [name for name in names if _MEDIA_NAME.search(name)]
    if roles["images"] is None and "images" not in chosen and lookalikes:
        raise UsageError(f"{file} has no images column, yet a column that looks like one",      # else text only, unsaid
                         expected="images or image", found=", ".join(lookalikes),
                         hint=f"name it with data.columns {{images: {lookalikes[0]}}}, or say {{images: null}}")
    return roles


# Rows

def _problem(values: dict, where: str, default_id: str, read_images, faults: list, *, source: str, split: str):
    """One row as a Problem, or None after adding its faults."""
    before = len(faults)

    def attempt(function, *args):
        try:
            return function(*args)
        except UsageError as fault:
            faults.append(fault)

    images = attempt(read_images, values.get("images"), where)
    problem_id = attempt(_text, values.get("problem_id"), "problem id", where)
    question = attempt(_question, values.get("question"), images, where)
    answer = attempt(_answer, values.get("answer"), where)
    category = attempt(_text, values.get("category"), "category", where)
    solution = attempt(_text, values.get("solution"), "solution", where)
    regions = attempt(_regions, values.get("regions"), where)
    steps = attempt(_steps, values.get("steps"), where)
    if len(faults) > before:
        return None
    return Problem(problem_id or default_id, question, images, answer, category or "", solution or None, regions, steps,
                   answer_type=_answer_type(answer), source=source, split=split)


def _text(value, name: str, where: str) -> str | None:
    """A stripped string, a number as a string, or None; control tokens and broken Unicode are refused."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UsageError(f"{where}: the {name} is not finite", expected="text or a finite number", found=value)
        return str(value)
    if not isinstance(value, str):
        raise UsageError(f"{where}: the {name} has the wrong type", expected="text or a number",
                         found=f"{type(value).__name__} {_short(value)}")
    if token := _CONTROL_TOKEN.search(value):
        raise UsageError(f"{where}: the {name} holds a control token of the model", expected="plain text",
                         found=token.group(), hint="remove it; images are given in the images column")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: the {name} is not valid Unicode", found=str(error)) from error
    return value.strip()


def _question(value, images: tuple[bytes, ...] | None, where: str) -> str:
    """The question without its image placeholders, which must be none, or one for each image."""
    text = _text(value, "question", where)
    if not text:
        raise UsageError(f"{where}: the question is empty", expected="text")
    marks = [mark.strip() for mark in _PLACEHOLDER.findall(text)]
    numbered = {mark for mark in marks if mark != "<image>"}        # <image_1> twice is one image named twice
    n_named = marks.count("<image>") + len(numbered)
    if marks and images is not None and n_named != len(images):
        raise UsageError(f"{where}: image placeholders and images differ in number",
                         expected=f"{len(images)} placeholders, as many as images, or none", found=", ".join(marks[:8]))
    question = _PLACEHOLDER.sub("", text).strip()
    if not question:
        raise UsageError(f"{where}: the question is only a placeholder", expected="text", found=_short(text))
    return question


def _answer(value, where: str) -> str:
    answer = _text(value, "answer", where)
    if not answer:
        raise UsageError(f"{where}: the answer is empty", expected="text or a number")
    return answer


def _answer_type(answer: str) -> str:
    if re.fullmatch(r"[+-]?[0-9]+", answer):                # int() would also take 1_000 and other scripts' digits
        return "integer"
    try:
        return "float" if math.isfinite(float(answer)) and "_" not in answer else "text"
    except ValueError:
        return "text"


def _regions(value, where: str) -> tuple[Region, ...]:
    if not isinstance(value, list | None):
        raise UsageError(f"{where}: regions has the wrong type", expected="a list", found=type(value).__name__)
    return tuple(_region(region, where) for region in value or ())


def _region(value, where: str) -> Region:
    try:
        label, box = value["label"], tuple(float(edge) for edge in value["box"])
        x0, y0, x1, y1 = box
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{where}: a region has the wrong form", expected='{"label": text, "box": [x0, y0, x1, y1]}',
                         found=_short(value)) from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise UsageError(f"{where}: a region's box is not inside the image",
                         expected="0 <= x0 < x1 <= 1, the same for y", found=list(box),
                         hint="boxes are fractions of the image's width and height, not pixels")
    if not isinstance(label, str) or not label.strip():
        raise UsageError(f"{where}: a region has no label", expected="text", found=_short(value))
    return Region(_text(label, "region label", where), box)


def _steps(value, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | None):
        raise UsageError(f"{where}: steps has the wrong type", expected="a list of texts", found=type(value).__name__)
    return tuple(filter(None, (_text(step, "step", where) for step in value or ())))


def _image_reader(root: Path, max_pixels: int):
    """A function from a row's images value to encoded bytes; each file is read, and each picture decoded, once."""
    by_path: dict[str, bytes] = {}
    decoded: set[bytes] = set()

    def one(value, where: str) -> bytes:
        if isinstance(value, dict):                         # the Image feature of `datasets`: bytes, else the path
            path, data = value.get("path"), value.get("bytes")
        else:
            path, data = (value, None) if isinstance(value, str) else (None, value)
        if data is None and isinstance(path, str):
            if path not in by_path:
                by_path[path] = read_image_file(path, root, where=where)
            where, data = f"{where} ({_short(path, quote=False)})", by_path[path]
        if not isinstance(data, bytes):
            raise UsageError(f"{where}: the image has the wrong type",
                             expected='a path, bytes, or {"bytes", "path"}', found=_short(value))
        digest = hashlib.sha256(data).digest()
        if digest not in decoded:
            decode_rgb(data, where=where, max_pixels=max_pixels)
            decoded.add(digest)
        return data

    def read_images(value, where: str) -> tuple[bytes, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            return (one(value, where),)
        return tuple(one(item, f"{where}, image {k}") for k, item in enumerate(value, 1))
    return read_images


def _together(faults: list[UsageError], path: Path) -> UsageError:
    if len(faults) == 1:
        return faults[0]
    lines = []
    for fault in faults[:SHOWN_FAULTS]:
        details = [f"{name} {value}" for name, value in (("expected", fault.expected), ("found", fault.found))
                   if value is not None]
        lines.append(f"  {fault.what}" + (f" ({'; '.join(details)})" if details else ""))
    if len(faults) > SHOWN_FAULTS:
        lines.append(f"  and {len(faults) - SHOWN_FAULTS} more")
    hints = list(dict.fromkeys(fault.hint for fault in faults if fault.hint))
    return UsageError("\n".join([f"{len(faults)} faults in {path}", *lines]), hint="\nhint: ".join(hints[:3]) or None)


def _short(value, *, quote: bool = True) -> str:
    text = repr(value) if quote else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
