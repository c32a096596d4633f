"""Source `attention`: from maps of where a model looks to regions, and to words for them.

Shapes: H rows and W columns of a picture's patch grid; boxes are (x0, y0, x1, y1) in 0…1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ptdpo_cli.artifacts.schemas import Problem, Region, Salient
from ptdpo_cli.hints.sources import Draft, look_at

Box = tuple[float, float, float, float]

# A map is flat whose highest cell has less than this times the mean of all cells.
_LEAST_PEAK = 1.25
# Cells of a grid no finer than this have names of their own, and neighbours are not joined.
_NAMED_CELLS = 3
# From this many cells a side on one cell is smaller than what words can name, and a lone spike is no region.
_FINE_GRID = 8
_LARGE, _SMALL = 0.6, 0.2       # of a picture's side
_OVERLAP = 0.5                  # IoU from which on a region is the data set's
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def draft_from_maps(
    problem: Problem, maps: Sequence[np.ndarray], *, max_regions: int, threshold: float
) -> Draft:
    """Where the maps (map_HW, one per picture) say that a model looks, in words; the maps are kept."""
    regions = tuple(
        Salient(one.image, name_region(one, n_images=len(maps), known=problem.regions), one.box, one.score)
        for one in salient_regions(maps, max_regions, threshold)
    )
    if not regions:
        return Draft(fault="the model looks at no part of the picture more than at the rest", maps=tuple(maps))
    # In reading order, not by salience: what is named in another order in every hint is harder to learn.
    in_order = sorted(regions, key=lambda one: (one.image, one.box[1], one.box[0]))
    return Draft(look_at(list(dict.fromkeys(one.label for one in in_order))), regions=regions, maps=tuple(maps))


def salient_regions(maps: Sequence[np.ndarray], max_regions: int, threshold: float) -> list[Salient]:
    """The regions of some pictures that hold most, the most salient first, without labels; none where maps are flat.

    A region is a set of neighbouring cells of at least `threshold` of the highest cell of all pictures; its score is
    its own highest cell, as a share of that one. On a grid of at most 3×3 each cell is a region. A set that fills less
    than half of its box is cut in two: a box must not point at what lies between.
    """
    maps = [_smooth(map_HW) if min(map_HW.shape) >= _FINE_GRID else np.asarray(map_HW) for map_HW in maps]
    cells = np.concatenate([map_HW.ravel() for map_HW in maps]).astype(np.float64)
    top = cells.max()
    if not np.isfinite(cells).all() or top <= 0 or top < _LEAST_PEAK * cells.mean():
        return []
    found = []
    for image, map_HW in enumerate(maps):
        is_high_HW = map_HW >= threshold * top
        is_high_HW &= map_HW > 0
        for rows, columns in _regions(is_high_HW):
            inside = map_HW[rows, columns]
            height, width = map_HW.shape
            box = columns.start / width, rows.start / height, columns.stop / width, rows.stop / height
            found.append((float(inside.max() / top), float(inside.sum()), Salient(image, "", box)))
    found.sort(key=lambda one: one[:2], reverse=True)       # a stable sort: else in reading order
    return [Salient(one.image, "", one.box, score) for score, _, one in found[:max_regions]]


def _smooth(map_HW: np.ndarray) -> np.ndarray:
    """The mean over 3×3 neighbours, edges repeated."""
    height, width = map_HW.shape
    padded = np.pad(map_HW, 1, mode="edge")
    return sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9


def _regions(is_high_HW: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Boxes (rows, columns) around the sets of neighbouring cells."""
    cells = set(zip(*(axis.tolist() for axis in is_high_HW.nonzero()), strict=True))
    if max(is_high_HW.shape) <= _NAMED_CELLS:
        yield from ((slice(row, row + 1), slice(column, column + 1)) for row, column in sorted(cells))
        return
    for start in sorted(cells):
        if start in cells:
            yield from _boxes(_take_connected(cells, start))


def _take_connected(cells: set[tuple[int, int]], start: tuple[int, int]) -> np.ndarray:
    """The cells that hang together with one of them by their sides, taken out of the set -> (n, 2)."""
    cells.remove(start)
    taken = [start]
    for row, column in taken:       # grows while it is walked through
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if near in cells:
                cells.remove(near)
                taken.append(near)
    return np.array(taken)


def _boxes(cells_n2: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """The box around some cells, or of each half of them where they fill too little of it."""
    low, high = cells_n2.min(0), cells_n2.max(0) + 1
    sides = high - low
    if 2 * len(cells_n2) >= sides.prod():
        yield slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))
        return
    axis = int(sides.argmax())
    is_first = cells_n2[:, axis] < low[axis] + sides[axis] / 2
    yield from _boxes(cells_n2[is_first])
    yield from _boxes(cells_n2[~is_first])


# --- words ------------------------------------------------------------------------------------------------------------


def name_region(region: Salient, *, n_images: int, known: Sequence[Region] = ()) -> str:
    """What to call a region: the data set's label where it lies on one (they are of the first picture), else its place.

    Which picture is said as an ordinal ("of the second picture"), which no audit takes for an answer.
    """
    overlaps = {one.label: _iou(region.box, one.box) for one in known if region.image == 0}
    nearest = max(overlaps, key=overlaps.get, default=None)
    name = nearest if nearest is not None and overlaps[nearest] >= _OVERLAP else place(region.box)
    if n_images == 1:
        return name
    number = region.image
    of = f"the {_ORDINALS[number]} picture" if number < len(_ORDINALS) else f"picture {number + 1}"
    return f"{name} of {of}"


def place(box: Box) -> str:
    """Words for where a box lies: one of nine positions, with coordinates if it is small; or halves if it is large."""
    x0, y0, x1, y1 = box
    x, y, width, height = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    along = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    if width > _LARGE and height > _LARGE:
        return "most of the picture"
    if height > _LARGE:
        return f"the {_side(x, 'left', 'right')} half" if width > 1 / 3 else f"the {across or 'middle'} column"
    if width > _LARGE:
        return f"the {_side(y, 'top', 'bottom')} half" if height > 1 / 3 else f"the {along or 'middle'} row"
    position = "-".join(filter(None, (along, across))) or "center"
    return f"{position} around ({x:.2f}, {y:.2f})" if width < _SMALL and height < _SMALL else position


def _side(middle: float, low: str, high: str) -> str:
    return low if middle < 0.45 else high if middle > 0.55 else "middle"


def _iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (one, other))
    return both / (areas - both) if areas > both else 0.0
