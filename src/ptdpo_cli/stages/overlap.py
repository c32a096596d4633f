"""overlap: test problems that are in the training set, and the list of training problems to leave out.

Test sets are read first and their pictures kept as hashes and small greys; training pictures are compared as they
come and not kept. What a match says depends on how common it is: a question that goes with many pictures, or a
picture that goes with many questions, says little alone. Such matches are called weak: listed, and not excluded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from rich.text import Text as Line

from ptdpo_cli.artifacts.manifest import MANIFEST
from ptdpo_cli.artifacts.problems import Problems, read_problems
from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.artifacts.store import Artifact, artifact_paths
from ptdpo_cli.datasets import cards, default_split, look_at
from ptdpo_cli.datasets.images import decode_rgb
from ptdpo_cli.datasets.similarity import PictureIndex, Text, is_near, jaccard, look, near_texts, normalise
from ptdpo_cli.errors import UsageError
from ptdpo_cli.stages.show import draw_cell, tile

MIN_WORDS = 8           # a shorter question that two different pictures share says nothing
TEMPLATE = 3            # problems of one set that one question matches, from which on it is a template
STOCK = 50              # problems of one set that one picture goes with, above which it is a logo or an empty frame
LISTED, LISTED_WEAK = 50, 3     # pairs of one test problem in pairs.jsonl
PAIRS_PER_SHEET = 40
_CONSIDERED = 200       # training problems behind one weak match from which the listed ones are chosen

_CAPTION, _FONT = 24, 13


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept of a problem: its texts and pictures are numbers in the pool of its side."""

    problem_id: str
    question: str
    answer: str
    text: int
    pictures: tuple[int, ...]
    family: str

    @property
    def identity(self) -> object:
        """What makes it another problem than one with the same question."""
        return self.family or self.pictures or self.text


@dataclass(slots=True)
class Side:
    """The training set, or the test sets together: rows by set, and each different text and picture once."""

    rows: list[list[Row]] = field(default_factory=list)
    texts: dict[Text, int] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)      # by sha256
    seen: list = field(default_factory=list)                    # of each picture what `examine` found; None: unreadable


@dataclass(frozen=True, slots=True)
class Pair:
    """A training and a test problem that may be one; `weak` says why that is not certain."""

    train: int
    test: int
    text: str | None            # same, near
    image: str | None           # same, near, alike: the same hash but other details; stock: a picture of many problems
    jaccard: float
    hamming: int | None
    weak: str | None

    @property
    def kind(self) -> str:
        if self.text and self.image in ("same", "near", "stock"):
            return "text+image"
        return "text" if self.text else "image"

    @property
    def rank(self) -> tuple:
        """The most certain first."""
        kinds = ("text+image", "image", "text")
        return (self.weak is not None, not (self.text and self.image), kinds.index(self.kind), -self.jaccard,
                64 if self.hamming is None else self.hamming, self.train)


def audit(train: str, tests: Sequence[str], out: Path, *, split: str | None = None, test_split: str | None = None,
          data_root: str | None = None, columns: dict | None = None, text: float = 0.8, image: int = 4,
          is_strict: bool = False, sheets: int = 5, progress: Callable = lambda done, total, what: None) -> dict:
    """Compare every test set with the training set and write pairs.jsonl, exclude.jsonl, summary.json and sheets.

    `text` is the Jaccard similarity from which on questions match, `image` the Hamming distance up to which pictures
    do. The same input gives the same bytes. Errors: UsageError for a set that cannot be read, or a missing library.
    """
    _require_libraries()
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", expected="a folder", hint="give another one with --out")
    source = open_set(train, split, "train", data_root, columns)
    test_sources = [open_set(name, test_split, "test", data_root, columns) for name in tests]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        test_side = Side()
        for name, problems in zip(tests, test_sources, strict=True):
            _scan(test_side, name, problems, lambda data, sha256: look(data), pool, progress)
        shown = {sha256: number for sha256, number in test_side.pictures.items()
                 if test_side.seen[number] is not None and test_side.seen[number].hash is not None}
        readable = {number: one for number, one in enumerate(test_side.seen) if one is not None}
        index, numbers = PictureIndex(list(readable.values()), image), list(readable)

        def compare(data: bytes, sha256: str) -> tuple[bool, list]:
            one = look(data)
            return one.hash is None, [
                (numbers[k], distance, "same" if numbers[k] == shown.get(sha256) else likeness)
                for k, distance, likeness in index.find(one)]
        train_side = Side()
        _scan(train_side, train, source, compare, pool, progress)

    text_links = defaultdict(list)
    for train_text, test_text, similarity in near_texts(list(train_side.texts), list(test_side.texts), text):
        text_links[test_text].append((train_text, similarity))
    matcher = _Matcher(train_side, test_side, text_links, text, is_strict)
    found = [list(matcher.pairs_of(number)) for number in range(len(tests))]
    return _write(out, train, tests, train_side, test_side, found, matcher.excluded, [source, *test_sources], sheets,
                  {"text": text, "image": image, "strict": is_strict})


def open_set(name: str, split: str | None, purpose: Literal["train", "test"], data_root: str | None,
             columns: dict | None) -> Iterable[Problem]:
    """The problems of a data set by name, of a file or folder, or of a `problems` artifact.

    Rows that are no problem are passed over, and counted; pictures are left undecoded, since each is decoded here.
    """
    path = Path(name)
    if (path / MANIFEST).is_file() or (path.is_dir() and artifact_paths(path)):
        problems = read_problems(Artifact.open(path, kind="problems"))
    else:
        columns = None if name in cards() else columns
        problems = look_at(name, split=split or default_split(name, purpose), root=data_root, columns=columns,
                           decode=False)
    if not len(problems):
        raise UsageError(f"{name} has no problems", hint=f"`ptdpo data check {name}` says what is wrong with its rows")
    return problems


def render_overlap(result: dict, console: Console) -> None:
    """One line per test set: how many of its problems are in the training set, and how they were found."""
    train = result["train"]
    table = Table(title=f"found in {train['name']}, {train['problems']:,} problems", title_justify="left")
    for name in ("test set", "problems", "text+image", "image", "text", "found", "share", "weak"):
        table.add_column(name, justify="left" if name == "test set" else "right")
    for test in result["tests"]:
        found = test["found"]
        table.add_row(Line(test["name"]), *(f"{value:,}" for value in (
            test["problems"], found["text+image"], found["image"], found["text"], found["total"])),
            f"{test['share']:.2%}", f"{test['weak']:,}")
    console.print(table)
    for one in (train, *result["tests"]):
        if one["bad_rows"]:
            console.print(Line(f"{one['name']}: rows that are no problems, passed over: {one['bad_rows']:,}"))
        if one["unreadable"]:
            console.print(Line(f"{one['name']}: unreadable pictures, not compared: {one['unreadable']:,}"))
    console.print(Line(f"{result['excluded']:,} training problems to exclude; {result['pairs']:,} pairs listed in "
                       f"{Path(result['out']) / 'pairs.jsonl'}"))
    for sheet in result["sheets"]:
        console.print(Line(f"pairs side by side: {sheet}"))


# Reading

def _require_libraries() -> None:
    try:
        import datasketch  # noqa: F401
        import imagehash  # noqa: F401
    except ImportError as error:
        raise UsageError(f"`ptdpo data overlap` needs {error.name}", expected="the extra `audit`",
                         hint="pip install 'ptdpo[audit]'") from None


def _scan(side: Side, name: str, problems: Iterable[Problem], examine: Callable, pool, progress: Callable) -> None:
    """Add a set to its side. Pictures are examined by threads while the next problems are read, few ahead."""
    rows, waiting = [], deque()
    total = len(problems) if hasattr(problems, "__len__") else 0
    for number, problem in enumerate(problems, 1):
        pictures = []
        for data in problem.images:
            sha256 = hashlib.sha256(data).hexdigest()
            if sha256 not in side.pictures:
                side.pictures[sha256] = len(side.pictures)
                waiting.append(pool.submit(_examined, examine, data, sha256))
            pictures.append(side.pictures[sha256])
        while len(waiting) > 64:
            side.seen.append(waiting.popleft().result())
        text = side.texts.setdefault(normalise(problem.question), len(side.texts))
        rows.append(Row(problem.problem_id, problem.question, problem.answer, text, tuple(dict.fromkeys(pictures)),
                        problem.family))
        progress(number, total or number, name)
    side.seen += [one.result() for one in waiting]
    side.rows.append(rows)


def _examined(examine: Callable, data: bytes, sha256: str):
    try:
        return examine(data, sha256)
    except UsageError:      # counted, and said; its problem is still compared by its question
        return None


# Matching

class _Matcher:
    """The pairs of each test set, and `excluded`: of every training problem found its most certain pair."""

    def __init__(self, train: Side, tests: Side, text_links: dict, threshold: float, is_strict: bool):
        self._train, self._tests, self._text_links = train.rows[0], tests, text_links
        self._train_texts, self._test_texts = list(train.texts), list(tests.texts)
        self._threshold, self._most = threshold, None if is_strict else _CONSIDERED
        self._is_strict = is_strict
        self._by_text, self._by_picture = _groups(self._train)
        self._picture_links = defaultdict(list)     # test picture → (training picture, distance, likeness)
        for number, seen in enumerate(train.seen):
            for test_picture, distance, likeness in seen[1] if seen else ():
                self._picture_links[test_picture].append((number, distance, likeness))
        self.excluded: dict[int, tuple[tuple, Pair, int]] = {}

    def pairs_of(self, test_set: int) -> Iterator[Pair]:
        """The pairs to list, test problem by test problem, the most certain first."""
        rows = self._tests.rows[test_set]
        by_text, by_picture = _groups(rows)
        matched = defaultdict(list)                 # training text → the rows of this set that it matches
        for text in by_text:
            for train_text, _ in self._text_links.get(text, ()):
                matched[train_text] += by_text[text][:_CONSIDERED]
        templates = {text for text, found in matched.items() if _is_template(rows[k] for k in found)}
        for number, row in enumerate(rows):
            pairs = sorted(self._pairs(number, row, by_picture, templates), key=lambda pair: pair.rank)
            for pair in pairs:
                if pair.weak is None or self._is_strict:
                    best = self.excluded.get(pair.train)
                    if best is None or pair.rank < best[0]:
                        self.excluded[pair.train] = (pair.rank, pair, test_set)
            strong = [pair for pair in pairs if pair.weak is None]
            yield from strong[:LISTED]
            yield from pairs[len(strong) :][:LISTED_WEAK]

    def _pairs(self, number: int, row: Row, by_picture: dict, templates: set) -> Iterator[Pair]:
        pictures = self._picture_partners(row, by_picture)
        links = self._text_links.get(row.text, ())
        matched = (self._train[k] for text, _ in links for k in islice(self._by_text[text], _CONSIDERED))
        is_template = _is_template(matched)
        partners = dict.fromkeys(pictures)
        for text, _ in links:
            is_common = is_template or text in templates
            partners |= dict.fromkeys(islice(self._by_text[text], self._most if is_common else None))
        for k in partners:
            other = self._train[k]
            likeness, distance = pictures.get(k, (None, None))
            one, two = self._train_texts[other.text], self._test_texts[row.text]
            similarity = jaccard(one.words, two.words)
            text = None
            if one.words and similarity >= self._threshold and is_near(one, two):
                text = "same" if one.words == two.words else "near"
            weak = _weakness(text, likeness, is_template or other.text in templates, min(one.n_words, two.n_words),
                             bool(row.pictures or other.pictures))
            if text or likeness:
                yield Pair(k, number, text, likeness, similarity, distance, weak)

    def _picture_partners(self, row: Row, by_picture: dict) -> dict[int, tuple[str, int]]:
        """Training problems with a picture like one of these: how like, at which distance; the most alike counts."""
        order = ("same", "near", "stock", "alike")
        found: dict[int, tuple[str, int]] = {}
        for picture in row.pictures:
            for train_picture, distance, likeness in self._picture_links.get(picture, ()):
                problems = self._by_picture[train_picture]
                if likeness != "alike" and max(len(problems), len(by_picture[picture])) > STOCK:
                    likeness = "stock"
                most = None if likeness in ("same", "near") else self._most
                for k in islice(problems, most):
                    if k not in found or (order.index(likeness), distance) < (order.index(found[k][0]), found[k][1]):
                        found[k] = (likeness, distance)
        return found


def _weakness(text: str | None, image: str | None, is_template: bool, words: int, has_pictures: bool) -> str | None:
    """Why a match is not certain; None: it is."""
    if image in ("same", "near"):
        return None
    if text is None:
        return "other details" if image == "alike" else "stock picture"
    if text == "same" and (image == "stock" or not has_pictures):
        return None             # nothing else could tell them apart
    if words < MIN_WORDS and has_pictures:
        return "short question"
    return "template" if is_template else None


def _is_template(rows: Iterable[Row]) -> bool:
    different = set()
    for row in rows:
        different.add(row.identity)
        if len(different) >= TEMPLATE:
            return True
    return False


def _groups(rows: list[Row]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Row numbers by text, and by picture."""
    by_text, by_picture = defaultdict(list), defaultdict(list)
    for number, row in enumerate(rows):
        by_text[row.text].append(number)
        for picture in row.pictures:
            by_picture[picture].append(number)
    return by_text, by_picture


# Writing

def _write(out: Path, train: str, tests: Sequence[str], train_side: Side, test_side: Side, found: list[list[Pair]],
           excluded: dict, sources: list, sheets: int, settings: dict) -> dict:
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("pairs-[0-9][0-9][0-9].png"):
        old.unlink()
    rows = train_side.rows[0]
    with (out / "pairs.jsonl").open("w") as lines:
        for name, test_rows, pairs in zip(tests, test_side.rows, found, strict=True):
            lines.writelines(_line(_described(pair, rows, test_rows, name)) for pair in pairs)
    with (out / "exclude.jsonl").open("w") as lines:
        for number in sorted(excluded):
            _, pair, test = excluded[number]
            other = test_side.rows[test][pair.test].problem_id
            lines.write(_line({"problem_id": rows[number].problem_id,
                               "because": f"{pair.kind}: {tests[test]} {other}, {_figures(pair)}"}))
    # An artifact has none: they were left out when it was made.
    bad_rows = [len(getattr(source, "bad_rows", ())) + len(getattr(source, "left_out", ())) for source in sources]
    drawn = _draw(out, tests, found, sources, sheets)
    summary = {
        **settings,
        "train": {"name": train, "bad_rows": bad_rows[0]} | _counts(train_side, rows, lambda seen: seen[0]),
        "tests": [
            {"name": name, "bad_rows": bad} | _counts(test_side, test_rows, lambda seen: seen.hash is None)
            | _found(pairs, len(test_rows))
            for name, bad, test_rows, pairs in zip(tests, bad_rows[1:], test_side.rows, found, strict=True)],
        "pairs": sum(map(len, found)), "excluded": len(excluded),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary | {"out": str(out), "exclude": str(out / "exclude.jsonl"), "sheets": drawn}


def _line(values: dict) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _described(pair: Pair, rows: list[Row], test_rows: list[Row], name: str) -> dict:
    train, test = rows[pair.train], test_rows[pair.test]
    return {
        "train_id": train.problem_id, "test_id": test.problem_id, "test_set": name,
        "kind": pair.kind, "weak": pair.weak, "text": pair.text, "image": pair.image,
        "jaccard": round(pair.jaccard, 4), "hamming": pair.hamming,
        "train_question": train.question, "test_question": test.question,
        "train_answer": train.answer, "test_answer": test.answer,
    }


def _figures(pair: Pair) -> str:
    hamming = f", hamming {pair.hamming}" if pair.hamming is not None else ""
    return f"jaccard {pair.jaccard:.2f}{hamming}" + (f" ({pair.weak})" if pair.weak else "")


def _counts(side: Side, rows: list[Row], is_blank: Callable) -> dict:
    seen = [side.seen[number] for number in dict.fromkeys(number for row in rows for number in row.pictures)]
    return {"problems": len(rows), "pictures": len(seen), "unreadable": sum(one is None for one in seen),
            "blank": sum(one is not None and bool(is_blank(one)) for one in seen)}


def _found(pairs: list[Pair], problems: int) -> dict:
    """Test problems by the most certain way in which they were found; `weak` are those with weak pairs only."""
    best = {}
    for pair in pairs:
        best.setdefault(pair.test, pair)        # the first of a problem is its most certain
    kinds = Counter(pair.kind for pair in best.values() if pair.weak is None)
    total = kinds.total()
    return {"found": {kind: kinds[kind] for kind in ("text+image", "image", "text")} | {"total": total},
            "share": total / problems, "weak": len(best) - total}


def _draw(out: Path, tests: Sequence[str], found: list[list[Pair]], sources: list, sheets: int) -> list[str]:
    """Sheets of pairs, first those that a person has to judge: the least certain ones, then the best of the weak."""
    chosen = [(number, pair) for number, pairs in enumerate(found) for pair in pairs]
    chosen.sort(key=lambda one: (one[1].weak is not None, _certainty(one[1]) * (1 if one[1].weak is None else -1)))
    chosen = chosen[: sheets * PAIRS_PER_SHEET]
    if not chosen:
        return []
    train = _pick(sources[0], {pair.train for _, pair in chosen})
    test = [_pick(problems, {pair.test for number, pair in chosen if number == k})
            for k, problems in enumerate(sources[1:])]
    paths = []
    for start in range(0, len(chosen), PAIRS_PER_SHEET):
        paths.append(str(out / f"pairs-{start // PAIRS_PER_SHEET:03d}.png"))
        cells = [_draw_pair(pair, train[pair.train], test[number][pair.test], tests[number])
                 for number, pair in chosen[start : start + PAIRS_PER_SHEET]]
        tile(cells, min(2, len(cells))).save(paths[-1], format="PNG", compress_level=3)
    return paths


def _certainty(pair: Pair) -> float:
    """0…2: from the question and from the picture, what each has to say."""
    return (pair.jaccard if pair.text else 0) + (1 - pair.hamming / 64 if pair.hamming is not None else 0)


def _pick(problems: Iterable[Problem], wanted: set[int]) -> dict[int, Problem]:
    """These problems by their place; a set without an index is read again up to the last of them."""
    if isinstance(problems, Problems):
        return {number: problems[number] for number in sorted(wanted)}
    numbered = enumerate(islice(problems, max(wanted, default=-1) + 1))
    return {number: problem for number, problem in numbered if number in wanted}


def _draw_pair(pair: Pair, train: Problem, test: Problem, name: str) -> Image.Image:
    """Left the training problem, right the test problem, above them what they have in common."""
    both = tile([draw_cell(_readable(train)), draw_cell(_readable(test))], 2)
    cell = Image.new("RGB", (both.width, both.height + 2 * _CAPTION), "white")
    cell.paste(both, (0, 2 * _CAPTION))
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(size=_FONT)
    draw.rectangle((0, 0, cell.width, 2 * _CAPTION - 4), fill="mistyrose" if pair.weak is None else "whitesmoke")
    draw.text((8, 4), f"{pair.kind}   {_figures(pair)}", fill="black", font=font)
    for left, words in ((8, f"train {train.problem_id}"), (both.width // 2 + 8, f"{name} {test.problem_id}")):
        draw.text((left, _CAPTION), words[-44:], fill="dimgray", font=font)
    return cell


def _readable(problem: Problem) -> Problem:
    def is_readable(data: bytes) -> bool:
        try:
            decode_rgb(data, where=problem.problem_id)
        except UsageError:
            return False
        return True
    return replace(problem, images=tuple(data for data in problem.images if is_readable(data)))
