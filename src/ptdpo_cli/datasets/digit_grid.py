"""digit-grid: add up some of the handwritten digits in a 3×3 grid. Made on the spot, no download, no network.

The digits are scikit-learn's `load_digits` (1,797 scans of 8×8 pixels, UCI ML repository, CC BY 4.0), drawn on a ground
of three coloured stripes. A question names a set of cells in words ("the falling diagonal", "the red stripe"); the
answer is the sum of the digits there, which can hardly be guessed. For `visual` kinds only the picture says which cells
are meant. The tiny base is shown the right cells of the `taught` kinds; what the `untaught` ones mean it has to learn.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ptdpo_cli.artifacts.schemas import Problem, Region
from ptdpo_cli.datasets.cards import Card, Split
from ptdpo_cli.errors import UsageError

SPLITS = {"train": 1200, "validation": 300, "test": 297}    # digit scans that only this split draws from
COUNTS = {"train": 4096, "validation": 512, "test": 1024}
CARD = Card(
    name="digit-grid", hub="", splits={name: Split(rows, ()) for name, rows in COUNTS.items()}, license="CC-BY-4.0",
    purpose="train and test", scoring="integer", train="train", test="test", notes="drawn on the spot, in any number",
)
CELL = 16                                                   # pixels; a scan is enlarged from 8 to 16
CELLS = ("top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right")
COLOURS = {"red": (255, 150, 140), "green": (150, 225, 140), "blue": (145, 180, 255), "yellow": (255, 235, 120)}
QUESTIONS = (
    "Add up the digits in the {}.",
    "What is the sum of the {}?",
    "What do the digits of the {} add up to?",
)
STEPS = ("Read each digit, then add them.",)
POSES = 8                                                   # ways a training scan is turned and shifted


@dataclasses.dataclass(frozen=True)
class Grid:
    """A picture's content, cell by cell in reading order: `digits` (9,) in 0…9 and `colours` (9,) by name."""

    digits: tuple[int, ...]
    colours: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A set of cells that questions name: in which words, and which cells of a given grid they are."""

    name: str
    wordings: tuple[str, ...]
    cells: Callable[[Grid], tuple[int, ...]]
    taught: bool = False
    visual: bool = False


def _fixed(name: str, cells: Sequence[int], *others: str, taught: bool = False) -> Kind:
    return Kind(name, (name, *others), lambda grid: tuple(cells), taught=taught)


def _stripe(colour: str, *, taught: bool = False) -> Kind:
    def cells(grid: Grid) -> tuple[int, ...]:
        return tuple(i for i, ground in enumerate(grid.colours) if ground == colour)

    return Kind(f"{colour} stripe", (f"{colour} stripe", f"{colour} cells"), cells, taught=taught, visual=True)


KINDS = {kind.name: kind for kind in (
    _fixed("top row", (0, 1, 2), "first row", taught=True),
    _fixed("middle row", (3, 4, 5), "second row", taught=True),
    _fixed("left column", (0, 3, 6), "first column", taught=True),
    _fixed("middle column", (1, 4, 7), "second column", taught=True),
    _fixed("falling diagonal", (0, 4, 8), "main diagonal", taught=True),
    _fixed("corners", (0, 2, 6, 8), "four corners", taught=True),
    _fixed("top-left block", (0, 1, 3, 4), "top-left square", taught=True),
    _fixed("bottom-right block", (4, 5, 7, 8), "bottom-right square", taught=True),
    _fixed("tent", (1, 6, 8), "roof", taught=True),
    _stripe("blue", taught=True),
    _stripe("green", taught=True),
    _fixed("bottom row", (6, 7, 8), "last row"),
    _fixed("right column", (2, 5, 8), "last column"),
    _fixed("rising diagonal", (2, 4, 6), "other diagonal"),
    _fixed("edges", (1, 3, 5, 7), "four sides"),
    _fixed("top-right block", (1, 2, 4, 5), "top-right square"),
    _fixed("bottom-left block", (3, 4, 6, 7), "bottom-left square"),
    _fixed("vee", (0, 2, 7), "wedge"),
    _stripe("red"),
    _stripe("yellow"),
)}
# What "red" means for a region is not learned from tutoring in a demo's time (figures: docs/results/tiny.md), so these
# two stripes are left out unless named. Blue and green ones, which the base was taught, need the picture as well.
DEFAULT_KINDS = tuple(name for name, kind in KINDS.items() if kind.taught or not kind.visual)


def load(
    split: str, *, seed: int = 0, count: int | None = None, kinds: Sequence[str] | None = None
) -> list[Problem]:
    """The split's problems, kind after kind in turn: a pure function of its arguments; about 0.3 ms each.

    Splits share no digit scan. `count` defaults to 4,096 (train), 512 (validation) or 1,024 (test).
    """
    return [problem for problem, _ in load_with_grids(split, seed=seed, count=count, kinds=kinds)]


def load_with_grids(
    split: str, *, seed: int = 0, count: int | None = None, kinds: Sequence[str] | None = None
) -> list[tuple[Problem, Grid]]:
    """`load`, each problem together with what its picture shows."""
    if split not in SPLITS:
        raise UsageError("digit-grid has no such split", expected=" | ".join(SPLITS), found=split)
    unknown = [name for name in kinds or () if name not in KINDS]
    if unknown:
        raise UsageError("digit-grid has no such kind", expected=", ".join(KINDS), found=", ".join(unknown))
    names = tuple(kinds or DEFAULT_KINDS)
    return [_draw(split, seed, i, KINDS[names[i % len(names)]]) for i in range(count or COUNTS[split])]


def solve(problem: Problem, grid: Grid, cells: Sequence[int]) -> Problem:
    """The problem with `cells` taken for the ones meant: regions, worked solution and answer follow from them."""
    regions = tuple(Region(CELLS[i], _box(i)) for i in cells)
    total, chain = 0, []
    for i in cells:
        total += grid.digits[i]
        chain.append(f"{CELLS[i]} {grid.digits[i]} makes {total}" if chain else f"{CELLS[i]} {total}")
    solution = f"<think> {', '.join(chain)}</think>\\boxed{{{total}}}"
    return dataclasses.replace(problem, regions=regions, steps=STEPS, answer=str(total), solution=solution)


def random_cells(problem: Problem, grid: Grid, rng: np.random.Generator) -> Problem:
    """The problem solved for three or four cells drawn without regard to the question.

    With a hint that names the same cells this teaches a base to do what the hint says.
    """
    return solve(problem, grid, rng.permutation(9)[:rng.integers(3, 5)].tolist())


def mistaken(problem: Problem, grid: Grid, rng: np.random.Generator) -> Problem:
    """The problem solved for the cells of some other kind: the name taken for another one's.

    Without a hint this teaches a base to be unsure which cells are meant rather than surely wrong. A base that is sure
    cannot be tutored: the gradient of the divergence is proportional to the student's own probability of a token.
    """
    right = KINDS[problem.category].cells(grid)
    sets = [kind.cells(grid) for kind in KINDS.values()]
    sets = [cells for cells in sets if cells and cells != right]
    return solve(problem, grid, sets[rng.integers(len(sets))])


def read_all(problem: Problem, grid: Grid, rng: np.random.Generator) -> Problem:
    """Another question about the same picture: all nine digits, cell by cell in random order (for warm-up)."""
    solution = "<think> " + ", ".join(f"{CELLS[i]} {grid.digits[i]}" for i in rng.permutation(9)) + "</think>"
    return dataclasses.replace(problem, question="Read the digits.", solution=solution, answer="", regions=(), steps=())


def scans(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The split's handwriting: ink (scans, poses, 16, 16) in 0…1 and digit (scans,); one pose except in training."""
    inks, digits = _handwriting()
    start = sum(size for name, size in SPLITS.items() if list(SPLITS).index(name) < list(SPLITS).index(split))
    part = slice(start, start + SPLITS[split])
    return (_poses(split) if split == "train" else inks[part, None]), digits[part]


def picture(grid: Grid, inks: np.ndarray) -> np.ndarray:
    """Draw the grid: `inks` (9, 16, 16) in 0…1 → RGB (48, 48, 3) uint8, dark ink on the cells' grounds."""
    grounds = np.array([COLOURS[colour] for colour in grid.colours], dtype=np.float32)
    cells = grounds[:, None, None, :] * (1 - 0.9 * inks[..., None])
    return cells.reshape(3, 3, CELL, CELL, 3).transpose(0, 2, 1, 3, 4).reshape(3 * CELL, 3 * CELL, 3).astype(np.uint8)


def random_pictures(
    split: str, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grids of random digits on grounds random cell by cell: RGB (count, 48, 48, 3) uint8, and what each cell holds.

    The digit and the index into `COLOURS`, both (count · 9,) in reading order.
    """
    inks, digits = scans(split)
    chosen, poses = rng.integers(len(digits), size=(count, 9)), rng.integers(inks.shape[1], size=(count, 9))
    colours = rng.integers(len(COLOURS), size=(count, 9))
    names = list(COLOURS)
    pixels = [
        picture(Grid((), tuple(names[i] for i in colours[k])), inks[chosen[k], poses[k]]) for k in range(count)
    ]
    return np.stack(pixels), digits[chosen].ravel(), colours.ravel()


def _draw(split: str, seed: int, index: int, kind: Kind) -> tuple[Problem, Grid]:
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    inks, digits = scans(split)
    chosen = rng.integers(len(digits), size=9)
    grid = Grid(tuple(digits[chosen].tolist()), _stripes(kind, rng))
    poses = rng.integers(inks.shape[1], size=9)
    problem = Problem(
        problem_id=f"digit-grid/{split}/{index:06d}",
        question=rng.choice(QUESTIONS).format(rng.choice(kind.wordings)),
        images=(_png(picture(grid, inks[chosen, poses])),),
        answer="",
        category=kind.name,
        source="digit-grid",
        split=split,
        license="CC-BY-4.0",
    )
    return solve(problem, grid, kind.cells(grid)), grid


def _stripes(kind: Kind, rng: np.random.Generator) -> tuple[str, ...]:
    """Three rows or three columns, each of another colour; the one that the question asks for is among them."""
    asked = kind.name.split()[0]
    names = list(COLOURS)
    while True:
        colours = [names[i] for i in rng.permutation(len(names))[:3]]
        if asked in colours or asked not in COLOURS:
            break
    across = rng.random() < 0.5
    return tuple(colours[i // 3 if across else i % 3] for i in range(9))


def _box(cell: int) -> tuple[float, float, float, float]:
    row, column = divmod(cell, 3)
    return column / 3, row / 3, (column + 1) / 3, (row + 1) / 3


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@functools.cache
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    """All scans in a fixed shuffled order: ink (1797, 16, 16) in 0…1 and digit (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError(
            "digit-grid draws its digits from scikit-learn, which is not installed",
            hint="pip install 'ptdpo[demo]'",
        ) from error
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    small = [Image.fromarray((scan * (255 / 16)).astype(np.uint8)) for scan in data.images[order]]
    inks = np.stack([np.asarray(scan.resize((CELL, CELL), Image.Resampling.BICUBIC)) for scan in small])
    return inks.astype(np.float32) / 255, data.target[order]


@functools.cache
def _poses(split: str) -> np.ndarray:
    """Training scans as they are, and turned, scaled and shifted a little, so that 1,200 of them last longer."""
    inks, _ = _handwriting()
    rng = np.random.default_rng(1)
    posed = np.empty((SPLITS[split], POSES, CELL, CELL), dtype=np.float32)
    posed[:, 0] = inks[:SPLITS[split]]
    for i in range(SPLITS[split]):
        scan = Image.fromarray((inks[i] * 255).astype(np.uint8))
        for pose in range(1, POSES):
            angle, scale = rng.uniform(-0.2, 0.2), rng.uniform(0.9, 1.1)
            cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
            shift_x, shift_y = rng.uniform(-1.2, 1.2, size=2)
            middle = (CELL - 1) / 2
            matrix = (cos, sin, middle - cos * middle - sin * middle + shift_x,
                      -sin, cos, middle + sin * middle - cos * middle + shift_y)
            turned = scan.transform((CELL, CELL), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            posed[i, pose] = np.asarray(turned, dtype=np.float32) / 255
    return posed
