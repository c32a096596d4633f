"""From rows to problems that can be relied on: every picture is decoded once, and no picture is kept.

A reader is a function that goes through a data set from its beginning and makes a `Row` at a time. It is called once
to look at everything, and again whenever the problems are needed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from ptdpo_cli.artifacts.schemas import ANSWER_TYPES, Problem
from ptdpo_cli.datasets.images import MAX_PIXELS, decode_rgb
from ptdpo_cli.errors import UsageError

SHOWN_FAULTS = 10

_CONTROL_TOKEN = re.compile(r"<\|[a-zA-Z0-9_]+\|>")         # <|image_pad|>, <|vision_start|>, <|im_end|>, ...

# The problems of some whose answers nothing could be compared with, and why; it sees no questions and no pictures.
Check = Callable[[Sequence[Problem]], Iterable[tuple[Problem, UsageError]]]
_CHECKED_TOGETHER = 4096        # answers that are checked at once, for some checks ask other processes


class LeftOut(UsageError):
    """Why a row of a public set is left out: the source itself is broken there.

    It is no fault of the user's and stops nothing; such rows are counted and named.
    """


@dataclass(frozen=True, slots=True)
class Row:
    """A row as a problem, or what keeps it from being one: faults, or the reason why it is left out.

    `where` is what a person calls it: "mine.jsonl, line 3"; `files` are the names of its pictures, where they have any.
    """

    where: str
    problem_id: str
    problem: Problem | None
    faults: tuple[UsageError, ...] = ()
    files: tuple[str | None, ...] = ()
    left_out: LeftOut | None = None


Reader = Callable[[], Iterator[Row]]


def rows_of(problems: Sequence[Problem]) -> Reader:
    """A reader of problems that are there already."""
    return lambda: (Row(problem.problem_id, problem.problem_id, problem) for problem in problems)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no problem, counted from 1 over the whole data set, and everything that is wrong with it.

    Rows that are left out are told in the same way.
    """

    row: int
    where: str
    problem_id: str
    faults: tuple[UsageError, ...]

    def to_dict(self) -> dict:
        return {"row": self.row, "where": self.where, "problem_id": self.problem_id,
                "reasons": [describe(fault) for fault in self.faults]}


class Loaded(Sequence[Problem]):
    """Problems that were looked at and are made anew whenever they are gone through; none is held.

    The `bad_rows`, those that are `left_out` because their source is broken, and the `excluded` are not among them;
    `unmatched` are ids to exclude that no row has.
    """

    def __init__(self, reader: Reader, count: int, bad_rows: list[BadRow], left_out: list[BadRow],
                 excluded: dict[int, str], unmatched: list[str]):
        self._reader = reader
        self._count = count
        self._passed_over = {row.row for row in (*bad_rows, *left_out)} | excluded.keys()
        self.bad_rows = bad_rows
        self.left_out = left_out
        self.excluded = list(excluded.values())
        self.unmatched = unmatched

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Problem]:
        for number, row in enumerate(self._reader(), 1):
            if number in self._passed_over:
                continue
            if row.problem is None:
                fault = row.left_out or row.faults[0]
                raise UsageError("the data has changed while it was read", found=describe(fault),
                                 hint="run the same command again")
            yield row.problem

    def __getitem__(self, index):
        """Reads from the beginning: for a slice or a look at one, not for going through."""
        if isinstance(index, slice):
            return list(islice(self, *index.indices(len(self))))
        return next(islice(self, range(len(self))[index], None))


def examine(reader: Reader, *, count: int | None = None, check: Check | None = None, exclude: Collection[str] = (),
            max_pixels: int = MAX_PIXELS, decode: bool = True, public_hint: str | None = None) -> Loaded:
    """Go through the first `count` rows and find every fault; rows with an id in `exclude` are passed over.

    `public_hint` is for rows that the user did not write: what can be done about a fault there, in place of mending it;
    a reference that the check finds unfit then leaves its row out.

    Pictures are decoded by several threads (Pillow lets go of the interpreter's lock), each one once however many rows
    have it. In memory are the rows in flight, the ids, and a hash of each picture.
    """
    threads = min(8, os.cpu_count() or 1)
    flying: deque = deque()
    verdicts: dict[bytes, UsageError | None] = {}           # by the hash of a picture
    decoding: dict[bytes, Future] = {}
    seen: dict[str, str] = {}
    exclude = frozenset(exclude)
    bad_rows: dict[int, BadRow] = {}
    left_out: dict[int, BadRow] = {}
    excluded: dict[int, str] = {}
    asked: dict[int, tuple[Row, int]] = {}      # by the identity of what is checked
    n_rows = 0

    def rows() -> Iterator[Row]:
        return islice(reader(), count)

    def is_bad(number: int, row: Row, faults: Sequence[UsageError]) -> None:
        if faults:
            earlier = bad_rows[number].faults if number in bad_rows else ()
            bad_rows[number] = BadRow(number, row.where, row.problem_id, (*earlier, *faults))

    def told(fault: UsageError) -> UsageError:
        return fault if public_hint is None else hinted(fault, public_hint)

    def leave_out(number: int, row: Row, reason: UsageError) -> None:
        left_out[number] = BadRow(number, row.where, row.problem_id, (reason,))

    def check_answers() -> None:
        while flying:           # what else is wrong with a row comes first
            land()
        stubs = [row.problem for row, _ in asked.values()]
        for problem, fault in check(stubs) if check is not None else ():
            row, number = asked[id(problem)]
            if public_hint is None:
                is_bad(number, row, [fault])
            elif number not in bad_rows:
                leave_out(number, row, fault)
        asked.clear()

    def land() -> None:
        number, row, faults, pictures = flying.popleft()
        for k, digest in enumerate(pictures, 1):
            if digest in decoding:
                verdicts[digest] = decoding.pop(digest).result()
            if fault := verdicts[digest]:
                faults.append(located(told(fault), image_name(k, *row.files[k - 1 : k])))
        is_bad(number, row, faults)

    with ThreadPoolExecutor(threads) as pool:
        for number, row in enumerate(rows(), 1):
            n_rows = number
            if row.problem_id in exclude:
                excluded[number] = row.problem_id
                continue
            if row.left_out is not None:
                leave_out(number, row, row.left_out)
                continue
            faults = list(row.faults)
            pictures = []
            if row.problem is not None:
                faults += map(told, faults_of(row.problem))
                for data in row.problem.images if decode else ():
                    digest = hashlib.sha256(data).digest()
                    pictures.append(digest)
                    if digest not in verdicts and digest not in decoding:
                        decoding[digest] = pool.submit(_decoding_fault, data, max_pixels)
            if row.problem_id in seen:
                faults.append(told(UsageError("the problem id is taken", expected="a different id in every row",
                                              found=f"{row.problem_id!r}, already in {seen[row.problem_id]}")))
            elif row.problem_id:
                seen[row.problem_id] = row.where
            row = replace(row, problem=None if row.problem is None else _without_bulk(row.problem))
            if row.problem is not None and row.problem.answer.strip() and row.problem.answer_type in ANSWER_TYPES:
                asked[id(row.problem)] = row, number
            flying.append((number, row, faults, pictures))
            if len(flying) > 4 * threads:
                land()
            if len(asked) >= _CHECKED_TOGETHER:
                check_answers()
        check_answers()
    bad, broken = ([found[number] for number in sorted(found)] for found in (bad_rows, left_out))
    good = n_rows - len(bad) - len(broken) - len(excluded)
    return Loaded(rows, good, bad, broken, excluded, sorted(exclude - set(excluded.values())))


def _without_bulk(problem: Problem) -> Problem:
    return replace(problem, question="", images=(), solution=None)


def _decoding_fault(data: bytes, max_pixels: int) -> UsageError | None:
    try:
        decode_rgb(data, max_pixels=max_pixels)
    except UsageError as fault:
        return fault
    return None


def faults_of(problem: Problem) -> list[UsageError]:
    """What is wrong with a problem, whichever data set it is from; its pictures are not looked at."""
    texts = {"problem id": problem.problem_id, "question": problem.question, "answer": problem.answer}
    expected = {"answer": "text or a number"}
    faults = [UsageError(f"the {name} is empty", expected=expected.get(name, "text"))
              for name, text in texts.items() if not text.strip()]
    more = {"category": problem.category, "solution": problem.solution or "", "family": problem.family,
            "region label": " ".join(region.label for region in problem.regions), "step": " ".join(problem.steps),
            "choice": " ".join(problem.choices)}
    faults += filter(None, (_text_fault(name, text) for name, text in (texts | more).items() if text))
    if problem.answer_type not in ANSWER_TYPES:
        faults.append(UsageError("unknown answer type", expected=" | ".join(ANSWER_TYPES), found=problem.answer_type,
                                 hint=did_you_mean(problem.answer_type, ANSWER_TYPES)))
    return faults


def _text_fault(name: str, text: str) -> UsageError | None:
    if "<|" in text and (token := _CONTROL_TOKEN.search(text)):
        return UsageError(f"the {name} holds a control token of the model", expected="plain text",
                          found=token.group(), hint="remove it; images are given in the images column")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return UsageError(f"the {name} is not valid Unicode", found=str(error))
    return None


# Faults as text

def located(fault: UsageError, where: str) -> UsageError:
    return UsageError(f"{where}: {fault.what}", expected=fault.expected, found=fault.found, hint=fault.hint)


def hinted(fault: UsageError, hint: str | None) -> UsageError:
    return UsageError(fault.what, expected=fault.expected, found=fault.found, hint=hint)


def image_name(k: int, file: str | None = None) -> str:
    """What a person calls the k-th picture of a row, from 1."""
    return f"image {k} ({short(file, quote=False)})" if file else f"image {k}"


def describe(fault: UsageError) -> str:
    """A fault in one line."""
    details = [f"{name} {value}" for name, value in (("expected", fault.expected), ("found", fault.found))
               if value is not None]
    return fault.what + (f" ({'; '.join(details)})" if details else "")


def together(bad_rows: Iterable[BadRow], name: object) -> UsageError:
    """All faults as one error: the first ten with their rows, then how many more."""
    faults = [located(fault, bad.where) for bad in bad_rows for fault in bad.faults]
    if len(faults) == 1:
        return faults[0]
    lines = [f"  {describe(fault)}" for fault in faults[:SHOWN_FAULTS]]
    if len(faults) > SHOWN_FAULTS:
        lines.append(f"  and {len(faults) - SHOWN_FAULTS:,} more")
    hints = list(dict.fromkeys(fault.hint for fault in faults if fault.hint))
    return UsageError("\n".join([f"{len(faults):,} faults in {name}", *lines]), hint="\nhint: ".join(hints[:3]) or None)


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]}?" if near else None


def short(value, *, quote: bool = True) -> str:
    """A value as an error message shows it."""
    text = repr(value) if quote else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


# Ids to leave out

def read_ids(file: str | Path) -> set[str]:
    """The problem ids of a file: in each line an object with a `problem_id`, or the id itself."""
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the list of problems to exclude cannot be read: {file}", found=str(error)[:200],
                         hint="give the file that `ptdpo data overlap` wrote, or one id in each line") from None
    return {_id(line.strip(), f"{file}, line {number}") for number, line in enumerate(lines, 1) if line.strip()}


def _id(line: str, where: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        problem_id = json.loads(line)["problem_id"]
    except (ValueError, KeyError):
        problem_id = None
    if not isinstance(problem_id, str | int) or isinstance(problem_id, bool):
        raise UsageError(f"{where} names no problem", expected='{"problem_id": "…"} or an id', found=short(line),
                         hint="give the file that `ptdpo data overlap` wrote, or one id in each line")
    return str(problem_id)
