"""How alike two problems are: their questions by words, their pictures by what they show.

Questions are compared as normalised text; sketches (MinHash) only propose pairs, and the exact Jaccard similarity of
the shingle sets decides. Pictures are compared by a perceptual hash of 64 bits; those of a small distance are looked
at again on a grid of 64 x 64 greys, because drawings that differ in one label have one hash.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
from PIL import Image

from ptdpo_cli.datasets.images import decode_rgb
from ptdpo_cli.mathtext import spelt

# Text

PERMUTATIONS = 128      # of a MinHash
# Texts near one text that are listed: more of them can only be more of the same template.
MAX_NEIGHBOURS = 200

_PLACEHOLDER = re.compile(r"<image(?:[_ ]?\d+)?>", re.IGNORECASE)
_OPTION = re.compile(r"(?<!\w)(?:\(([A-J])\)|([A-J])[.):、])")
_CHOICES = re.compile(r"\b(?:choices|options)\s*:", re.IGNORECASE)
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt\s*\{([^{}]*)\}")
# How something looks, and not what it is; other dress is taken off by `spelt`.
_DRESS = re.compile(r"\\(?:text|begin|end|overline|vec|widehat|degree)(?![a-zA-Z])")
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_COMMANDS = {"times": "*", "cdot": "*", "div": "/", "leq": "<=", "geq": ">=", "perp": "perpendicular"}
_DEGREES = re.compile(r"\bdegrees?\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_])|(?<=[^\W\d_])-(?=[^\W\d_]{2})")
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"      # written without spaces: each sign is a word
_TOKEN = re.compile(rf"\d+(?:\.\d+)?|[{_CJK}]|(?:(?![{_CJK}])[^\W\d_])+|[-+*/=<>]")
_NAME = re.compile(r"(?<![A-Za-z])[A-Z]{2,4}(?![A-Za-z])")
_ARTICLES = frozenset("ai")     # a, I: words of one letter


@dataclass(frozen=True, slots=True)
class Text:
    """A question without its dress: words, numbers and signs, joined by spaces; and what must agree in a near match."""

    words: str
    numbers: tuple[str, ...]
    names: frozenset[str]

    @property
    def n_words(self) -> int:
        return sum(token[0].isalnum() for token in self.words.split())


def normalise(question: str) -> Text:
    """The question in lower case and NFKC, without LaTeX dress, punctuation, image placeholders and option letters.

    Numbers, signs of arithmetic and relations stay. Names are single letters and runs of two to four capitals: x, AB.
    """
    plain = _PLACEHOLDER.sub(" ", unicodedata.normalize("NFKC", question))
    plain = spelt(_CHOICES.sub(" ", _without_option_letters(plain)), max_characters=len(question) * 4)
    while plain != (inner := _ROOT.sub(r" sqrt \1 ", _FRACTION.sub(r" \1 / \2 ", plain))):
        plain = inner       # from the innermost braces outwards
    plain = _COMMAND.sub(lambda found: f" {_COMMANDS.get(found[1], found[1])} ", _DRESS.sub(" ", plain))
    plain = plain.replace("\\%", " percent ").replace("%", " percent ").replace("⁄", "/")
    tokens = _TOKEN.findall(_HYPHEN.sub(" ", _THOUSANDS.sub("", _DEGREES.sub(" ", plain.lower()))))
    names = {token for token in tokens if len(token) == 1 and "a" <= token <= "z"} - _ARTICLES
    return Text(" ".join(tokens), tuple(sorted(token for token in tokens if token[0].isdigit())),
                frozenset(names | {name.lower() for name in _NAME.findall(plain)}))


def shingles(words: str) -> frozenset[str]:
    """The words of a normalised text and its pairs of neighbours: one changed word in n changes 3 of 2n - 1."""
    tokens = words.split()
    return frozenset(tokens) | {f"{a} {b}" for a, b in pairwise(tokens)}


def jaccard(a: str, b: str) -> float:
    """|A ∩ B| / |A ∪ B| of the shingles of two normalised texts, 0…1; 0 if both are empty."""
    one, other = shingles(a), shingles(b)
    return len(one & other) / len(one | other) if one or other else 0.0


def is_near(a: Text, b: Text) -> bool:
    """Whether two texts may be one question: the same numbers, each as often, and the same names.

    In a long question a changed number changes few shingles, and yet it makes another problem.
    """
    return a.words == b.words or (a.numbers == b.numbers and a.names == b.names)


def near_texts(train: Sequence[Text], test: Sequence[Text], threshold: float) -> Iterator[tuple[int, int, float]]:
    """(train index, test index, Jaccard similarity) of all pairs that `is_near` and whose similarity is ≥ `threshold`.

    A pair at the threshold is missed with a probability below 0.5 % (see `bands`), equal texts never; a test text
    with more than MAX_NEIGHBOURS neighbours has the first of them.
    """
    from datasketch import MinHash, MinHashLSH

    def sketches(texts):
        return MinHash.generator(([s.encode() for s in shingles(text.words)] for text in texts),
                                 num_perm=PERMUTATIONS)

    index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))
    for number, (text, sketch) in enumerate(zip(test, sketches(test), strict=True)):
        if text.words:      # the sketch of nothing would equal that of every other nothing
            index.insert(number, sketch, check_duplication=False)
    exact = lru_cache(maxsize=100_000)(shingles)
    found = np.zeros(len(test), int)
    for number, (text, sketch) in enumerate(zip(train, sketches(train), strict=True)):
        for other in sorted(index.query(sketch)) if text.words else ():
            if found[other] >= MAX_NEIGHBOURS or not is_near(text, test[other]):
                continue
            one, two = exact(text.words), exact(test[other].words)
            similarity = len(one & two) / len(one | two)
            if similarity >= threshold:
                found[other] += 1
                yield number, other, similarity


def bands(threshold: float, *, missed: float = 0.005) -> tuple[int, int]:
    """(b bands, r rows) of a locality-sensitive hash: the most rows with which a pair at the threshold is found.

    A pair of similarity s shares a band with probability 1 - (1 - s^r)^b; more rows propose fewer wrong pairs.
    Source: Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4.2.
    """
    fits = [r for r in range(1, PERMUTATIONS // 2 + 1) if (1 - threshold**r) ** (PERMUTATIONS // r) <= missed]
    rows = max(fits, default=1)
    return PERMUTATIONS // rows, rows


def _without_option_letters(question: str) -> str:
    """Without "A.", "(A)", "A:", … where at least A and B follow each other: one alone may be a point's name."""
    run: list[re.Match] = []
    for found in _OPTION.finditer(question):
        letter = found[1] or found[2]
        if letter == chr(ord("A") + len(run)):
            run.append(found)
        elif letter == "A" and len(run) == 1:
            run = [found]
    if len(run) < 2:
        return question
    edges = [0, *(edge for found in run for edge in found.span()), len(question)]
    return " ".join(question[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))


# Pictures

SIDE = 64               # of the grid of greys
# Greys of 255 by which one cell may differ: rescaling and JPEG change it by up to 23, another label mostly by more.
TOLERANCE = 24
BLANK = 2.0             # standard deviation of the greys, of 255, below which a picture shows nothing
ASPECT = 0.08           # by which the logarithms of width / height may differ: two pixels of a side of 24
MAX_LOOKED_AT = 256     # pictures of one hash that are looked at again
MAX_LINKS = 100         # pictures that one picture is said to be like

Likeness = Literal["same", "near", "alike"]


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture looks like: its perceptual hash (None: it is blank), its shape, and SIDE x SIDE greys."""

    hash: int | None
    width: int
    height: int
    greys: np.ndarray


def look(data: bytes, *, where: str = "") -> Look:
    """Decode a picture and look at it: upright, alpha over white, a large JPEG at a reduced size.

    The hash is ImageHash's `phash` (8 x 8 lowest frequencies against their median) of the greys.
    Errors: UsageError if it cannot be read.
    """
    from imagehash import phash

    image = decode_rgb(data, where=where, least=3 * SIDE)
    # As good here as Lanczos and twice as fast; a box would lose every other rescaled drawing.
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.HAMMING)
    greys = np.asarray(grey)
    bits = None if greys.std() < BLANK else int(str(phash(grey)), 16)
    return Look(bits, *image.size, greys)


class PictureIndex:
    """Pictures to be found again: `find` gives those that one looks like.

    Memory: 4 kB a picture.
    """

    def __init__(self, looks: Sequence[Look], max_distance: int):
        shown = [number for number, one in enumerate(looks) if one.hash is not None]
        self._numbers = shown
        self._looks = [looks[number] for number in shown]
        self._hashes = np.array([one.hash for one in self._looks], np.uint64)
        self._max_distance = max_distance

    def find(self, one: Look) -> list[tuple[int, int, Likeness]]:
        """(number, Hamming distance, likeness) of the pictures within `max_distance` bits, the most alike first.

        "near": the same picture, perhaps rescaled or compressed again; "alike": the same hash, yet other details.
        """
        if one.hash is None:
            return []
        distances = np.bitwise_count(self._hashes ^ np.uint64(one.hash))
        close = np.flatnonzero(distances <= self._max_distance)
        close = close[np.argsort(distances[close], kind="stable")][:MAX_LOOKED_AT]
        found = [(self._numbers[k], int(distances[k]), "near" if is_same_view(one, self._looks[k]) else "alike")
                 for k in close]
        return sorted(found, key=lambda link: (link[2] != "near", link[1], link[0]))[:MAX_LINKS]


def is_same_view(a: Look, b: Look) -> bool:
    """Whether two pictures show the same thing in the same place: shape, and every cell of their greys.

    Small pictures have no 64 x 64 details: a cell is at least three pixels of the smaller one.
    """
    if abs(np.log(a.width / a.height) - np.log(b.width / b.height)) > ASPECT:
        return False
    pixels = min(a.width, a.height, b.width, b.height)
    cells = next((n for n in (64, 32, 16) if pixels >= 3 * n), 8)
    return bool(np.abs(_coarser(a.greys, cells) - _coarser(b.greys, cells)).max() <= TOLERANCE)


def _coarser(greys: np.ndarray, cells: int) -> np.ndarray:
    size = SIDE // cells
    return greys.reshape(cells, size, cells, size).mean(axis=(1, 3), dtype=np.float32)
