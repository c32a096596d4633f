"""The user's own problems, from files in columns of our names, EasyR1's, ShareGPT's, or names that the user maps."""

from __future__ import annotations

import ast
import json
import math
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ptdpo_cli.artifacts.schemas import Problem, Region
from ptdpo_cli.datasets.answers import unboxed, undressed, valued
from ptdpo_cli.datasets.fields import is_no_picture
from ptdpo_cli.datasets.images import fetch_image, read_image_file
from ptdpo_cli.datasets.layout import data_files
from ptdpo_cli.datasets.mending import mended
from ptdpo_cli.datasets.options import LETTERS
from ptdpo_cli.datasets.reading import Reader, Row, did_you_mean, image_name, located, short
from ptdpo_cli.datasets.tables import RawRow, open_table
from ptdpo_cli.errors import UsageError
from ptdpo_cli.mathtext.wrapping import unwrapped

# What a column may be called; where a file has several of one line, the first is taken.
COLUMNS = {
    "question": ("problem", "question", "prompt"),
    "images": ("images", "image"),
    "answer": ("answer", "ground_truth"),
    "conversation": ("conversations", "messages"),
    "problem_id": ("problem_id", "id", "pid"),
    "category": ("category",),
    "solution": ("solution",),
    "regions": ("regions",),
    "steps": ("steps",),
    "choices": ("choices",),
    "answer_type": ("answer_type",),
    "precision": ("precision",),
    "family": ("family",),
    "source": ("source",),
    "license": ("license",),
    "split": ("split",),
    "metadata": ("metadata",),
}

_PLACEHOLDER = re.compile(r" ?<image(?:[_ ]\d+)?>")
_MEDIA_NAME = re.compile(r"image|img|picture|photo|video|audio", re.IGNORECASE)
_LETTER = re.compile(r"[\[(]?([A-Z])[\])]?[.:]?")
_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def read_path(path, *, split: str | None = None, columns: dict | None = None, image_root=None,
              fetch_urls: bool = False) -> Reader:
    """A reader of a data file or folder, in file order.

    `columns` says what a column is called here, as in {"answer": "label"}; {"images": None} says that there are none.
    Errors: UsageError, at once, for a path, a split, a file or a column that is not there.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else (path if path.is_dir() else path.parent)
    if not root.is_dir() and path.exists():
        raise UsageError("image_root is not a folder", found=root)
    opened = []
    for file in data_files(path, split):
        names, read = open_table(file)
        roles = _roles(names, columns or {}, file.name) if names else {}
        opened.append((file, roles, read))
    read_file = partial(read_image_file, root=root)
    read_image = partial(picture_bytes, read=fetching(read_file) if fetch_urls else read_file)

    def reader():
        for file, roles, read in opened:
            for row in read([name for name in roles.values() if name]):
                yield _row(row, roles, file.stem, read_image, {"source": path.name, "split": split or ""})
    return reader


def _roles(names: list[str], columns: dict, file: str) -> dict[str, str | None]:
    """Which column plays which role, {"question": "problem", ...}; None where the file has none."""
    chosen = {}
    for key, name in columns.items():
        role = next((role for role, known in COLUMNS.items() if key == role or key in known), None)
        if role is None:
            raise UsageError(f"columns names an unknown role {key!r}", expected=", ".join(COLUMNS),
                             hint=did_you_mean(key, COLUMNS))
        if name is not None and name not in names:
            raise UsageError(f"{file} has no column {name!r} for {role}", found=f"columns {', '.join(names)}",
                             hint=did_you_mean(name, names))
        chosen[role] = name
    roles = {role: chosen[role] if role in chosen else next((k for k in known if k in names), None)
             for role, known in COLUMNS.items()}
    if roles["question"] is not None and "conversation" not in chosen:
        roles["conversation"] = None

    missing = [role for role in ("question", "answer") if roles[role] is None and roles["conversation"] is None]
    if missing:
        unused = [name for name in names if name not in roles.values()]
        near = {role: _nearest(role, unused) for role in missing}
        examples = ",".join(f"{role}={near[role] or 'COLUMN'}" for role in missing)
        raise UsageError(f"{file} has no column for {' and '.join(missing)}",
                         expected="; ".join(f"{role} as {' or '.join(COLUMNS[role])}" for role in missing),
                         found=f"columns {', '.join(names)}", hint=f"name it with `--columns {examples}`")
    lookalikes = [name for name in names if _MEDIA_NAME.search(name) and name not in roles.values()]
    if roles["images"] is None and "images" not in chosen and lookalikes:
        raise UsageError(f"{file} has no images column, yet a column that looks like one",      # else text only, unsaid
                         expected="images or image", found=", ".join(lookalikes),
                         hint=f"name it with `--columns images={lookalikes[0]}`, or say `--columns images=`")
    return roles


def _nearest(role: str, names: list[str]) -> str | None:
    hint = did_you_mean(role, names, cutoff=0.5)
    return hint and hint.removeprefix("did you mean ").removesuffix("?")


# Rows

def _row(row: RawRow, roles: dict, stem: str, read_image: Callable, origin: dict) -> Row:
    number, where, values = row
    if isinstance(values, UsageError):
        return Row(where, "", None, (values,))
    values = {role: values.get(name) for role, name in roles.items() if name}
    faults: list[UsageError] = []

    def attempt(function, *args):
        try:
            return function(*args)
        except UsageError as fault:
            faults.append(fault)

    own_id = attempt(_text, values.get("problem_id"), "problem id")
    where = f"{where} ({short(own_id, quote=False)})" if own_id else where
    problem_id = own_id or f"{stem}/{number:06d}"
    said = attempt(_conversation, values.get("conversation"), values.get("images")) if "conversation" in values else {}
    values = values | {role: value for role, value in (said or {}).items() if values.get(role) is None}
    if said is None:
        return Row(where, problem_id, None, tuple(faults))

    given = values.get("images") if isinstance(values.get("images"), list | None) else [values["images"]]
    pictures = [value for value in given or () if not is_no_picture(value)]
    images = [attempt(_picture, value, k, read_image) for k, value in enumerate(pictures, 1)]
    question = attempt(_question, values.get("question"), len(images))
    answer = attempt(_text, values.get("answer"), "answer") or ""
    choices = attempt(_choices, values.get("choices"))
    given_type = attempt(_text, values.get("answer_type"), "answer type")
    if not faults:
        answer, answer_type = attempt(_typed, answer, given_type, choices) or ("", "")
    fields = {name: attempt(read, values[name]) for name, read in _PARTS.items() if values.get(name) is not None}
    fields |= {name: text for name in _TEXTS if (text := attempt(_text, values.get(name), name))}
    if faults:
        return Row(where, problem_id, None, tuple(faults))
    if answer_type in ("choice", "set") and choices:
        question = with_choices(question, choices)
    problem = Problem(problem_id, question, tuple(images), answer, answer_type=answer_type, choices=choices,
                      **origin | fields)
    return Row(where, problem_id, problem, files=tuple(map(_file, pictures)))


def _text(value, name: str) -> str | None:
    """A stripped string without what copying did to it, a number as a string, or None."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UsageError(f"the {name} is not finite", expected="text or a finite number", found=value)
        return str(value)
    if not isinstance(value, str):
        raise UsageError(f"the {name} has the wrong type", expected="text or a number",
                         found=f"{type(value).__name__} {short(value)}")
    return mended(value).strip()


def _question(value, n_images: int) -> str:
    """The question without its image placeholders, which must be none, or one for each image."""
    text = _text(value, "question") or ""
    marks = [mark.strip() for mark in _PLACEHOLDER.findall(text)]
    numbered = {mark for mark in marks if mark != "<image>"}        # <image_1> twice is one image named twice
    n_named = marks.count("<image>") + len(numbered)
    if marks and n_named != n_images:
        raise UsageError("image placeholders and images differ in number",
                         expected=f"{n_images} placeholders, as many as images, or none", found=", ".join(marks[:8]))
    question = _PLACEHOLDER.sub("", text).strip()
    if text and not question:
        raise UsageError("the question is only a placeholder", expected="text", found=short(text))
    return question


def _choices(value) -> tuple[str, ...]:
    """Options as a list of texts, or as a string that holds a list."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value) if value.strip() else []
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise UsageError("choices cannot be read", expected='a list of texts, or "[\'a\', \'b\']"',
                             found=short(value)) from None
    if not isinstance(value, list | tuple | None):
        raise UsageError("choices has the wrong type", expected="a list of texts", found=type(value).__name__)
    choices = tuple(_text(choice, "choice") or "" for choice in value or ())
    if len(choices) > len(LETTERS):
        raise UsageError("there are more choices than letters", expected=f"at most {len(LETTERS)}", found=len(choices))
    return choices


def _typed(answer: str, given: str | None, choices: tuple[str, ...]) -> tuple[str, str]:
    """The answer and its type: what the row says, else a letter where there are choices, else by its form.

    With choices the answer may be a letter or an option's text; it becomes the letter.
    """
    if not answer:
        return answer, given or "text"                      # said to be empty elsewhere
    answer = undressed(unboxed(unwrapped(answer)))
    if given not in (None, "", "choice"):
        return answer, given
    if given != "choice" and not choices:
        return valued(answer)
    if not choices:
        return answer, "choice"
    letters = LETTERS[: len(choices)]
    match = _LETTER.fullmatch(answer.upper())
    by_letter = {match[1]} if match and match[1] in letters else set()
    same = [_same_text(answer, choice, letter) for choice, letter in zip(choices, letters, strict=True)]
    by_text = {letter for letter, is_same in zip(letters, same, strict=True) if is_same}
    if len(by_letter | by_text) == 1:
        return (by_letter | by_text).pop(), "choice"
    what = "the answer could be several of the choices" if by_letter | by_text else "the answer is none of the choices"
    raise UsageError(what, expected=f"a letter A to {letters[-1]}, or the text of one choice", found=short(answer),
                     hint="give the row an answer_type if it is no letter")


def _same_text(answer: str, choice: str, letter: str) -> bool:
    """Whether an answer is an option's text, whether or not the option begins with its own letter."""
    bare = re.sub(rf"^\(?{letter}[).:]\s*", "", choice)
    return answer.casefold() in (choice.casefold(), bare.casefold())


def with_choices(question: str, choices: tuple[str, ...]) -> str:
    """The question with its options below, where it does not name all of them already."""
    if all(choice and choice in question for choice in choices):
        return question
    options = [choice if re.match(rf"\(?{letter}[).:]", choice) else f"({letter}) {choice}"
               for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, "Choices:", *options])


def _precision(value) -> int | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or not 0 <= value <= 30:
        raise UsageError("precision is no number of decimals", expected="an integer from 0 to 30", found=short(value))
    return int(value)


def _metadata(value) -> dict:
    if value is None:
        return {}
    try:
        if not isinstance(value, dict):
            raise ValueError(f"{type(value).__name__} {short(value)}")
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError("metadata has the wrong type", expected="an object of plain JSON values",
                         found=str(error)[:120]) from None


def _regions(value) -> tuple[Region, ...]:
    if not isinstance(value, list | None):
        raise UsageError("regions has the wrong type", expected="a list", found=type(value).__name__)
    return tuple(_region(region) for region in value or ())


def _region(value) -> Region:
    try:
        label, box = value["label"], tuple(float(edge) for edge in value["box"])
        x0, y0, x1, y1 = box
    except (KeyError, TypeError, ValueError):
        raise UsageError("a region has the wrong form", expected='{"label": text, "box": [x0, y0, x1, y1]}',
                         found=short(value)) from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise UsageError("a region's box is not inside the image",
                         expected="0 <= x0 < x1 <= 1, the same for y", found=list(box),
                         hint="boxes are fractions of the image's width and height, not pixels")
    if not isinstance(label, str) or not label.strip():
        raise UsageError("a region has no label", expected="text", found=short(value))
    return Region(label.strip(), box)


def _steps(value) -> tuple[str, ...]:
    if not isinstance(value, list | None):
        raise UsageError("steps has the wrong type", expected="a list of texts", found=type(value).__name__)
    return tuple(filter(None, (_text(step, "step") for step in value or ())))


_TEXTS = ("category", "solution", "family", "source", "license", "split")
_PARTS = {"regions": _regions, "steps": _steps, "precision": _precision, "metadata": _metadata}


# Conversations

def _conversation(turns, images) -> dict:
    """Question, answer and images of one question and its answer, as ShareGPT or as chat messages have them.

    What the system says is left out: the recipe has the instruction. Pictures within the messages count where there is
    no images column; where there is one, they are its placeholders.
    """
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise UsageError("the conversation has the wrong type", expected='a list of {"from", "value"} or '
                         '{"role", "content"}', found=short(turns))
    said: dict[str, list[str]] = {"system": [], "user": [], "assistant": []}
    pictures: list = []
    for turn in turns:
        speaker = turn.get("from") or turn.get("role")
        if _SPEAKERS.get(speaker) is None:
            raise UsageError("a turn of the conversation is by nobody we know", expected=", ".join(_SPEAKERS),
                             found=short(speaker))
        said[_SPEAKERS[speaker]].append(_said(turn.get("value") or turn.get("content") or "", pictures))
    if len(said["user"]) != 1:
        raise UsageError("the conversation is not one question and its answer", expected="one turn of the user",
                         found=f"{len(said['user'])} of them", hint="make one row of each question")
    given = [picture for picture in pictures if picture is not None]
    if given and images is None and len(given) != len(pictures):
        raise UsageError("only some images of the conversation are given", found=f"{len(given)} of {len(pictures)}")
    return {"question": said["user"][0], "answer": (said["assistant"] or [None])[-1], "images": given or None}


def _said(content, pictures: list) -> str:
    """The text of a turn; an image part becomes a placeholder, and what it holds is added to `pictures`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise UsageError("a turn of the conversation has the wrong type", expected="text, or a list of parts",
                         found=short(content))
    texts = []
    for part in content:
        if part.get("type") in ("image", "image_url"):
            url = part.get("image_url")
            value = url.get("url") if isinstance(url, dict) else url
            pictures.append(next((v for v in (part.get("image"), value, part.get("path")) if v is not None), None))
            texts.append("<image>")
        else:
            texts.append(_text(part.get("text"), "text of a turn") or "")
    return "\n".join(texts)


# Pictures

def _picture(value, k: int, read_image: Callable[[object], bytes]) -> bytes:
    try:
        return read_image(value)
    except UsageError as fault:
        raise located(fault, image_name(k, _file(value))) from None


def _file(value) -> str | None:
    path = value.get("path") if isinstance(value, dict) else value
    return path if isinstance(path, str) else None


def fetching(read: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """The same function of a path, but http and https addresses are fetched, each once: from then on it is a file."""
    folder = tempfile.TemporaryDirectory(prefix="ptdpo-")   # goes with the function
    files: dict[str, Path] = {}

    def read_or_fetch(path: str) -> bytes:
        if not path.lower().startswith(("http://", "https://")):
            return read(path)
        if path not in files:
            data = fetch_image(path)
            file = Path(folder.name) / str(len(files))
            file.write_bytes(data)
            files[path] = file
        return files[path].read_bytes()
    return read_or_fetch


def picture_bytes(value, read: Callable[[str], bytes]) -> bytes:
    """The encoded bytes of a picture given as bytes, a path, or as the Image feature of `datasets` keeps it.

    `read` is for paths.
    """
    if isinstance(value, dict):                             # bytes, else the path
        path, data = value.get("path"), value.get("bytes")
    else:
        path, data = (value, None) if isinstance(value, str) else (None, value)
    if data is None and isinstance(path, str):
        return read(path)
    if not isinstance(data, bytes):
        raise UsageError("the image has the wrong type", expected='a path, bytes, or {"bytes", "path"}',
                         found=short(value))
    return data
