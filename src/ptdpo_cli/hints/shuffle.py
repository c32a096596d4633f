"""Source `shuffled`: each problem gets another one's hint. What such hints do, any words of that length do."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import numpy as np

# Problems among which hints change hands at least: fewer, and a hint could be guessed; more, and lengths differ.
_SMALLEST_BLOCK = 16


def deal(texts: Mapping[str, str], rng: np.random.Generator) -> dict[str, str | None]:
    """problem_id -> another problem's text of like length; every text is dealt once, to nobody who had the same.

    None where more than half of the texts are one and the same, for those of them that would get it again.
    """
    ids = [sorted(texts)[i] for i in rng.permutation(len(texts))]
    ids.sort(key=lambda problem_id: (len(texts[problem_id]), texts[problem_id]))        # equal texts lie side by side
    dealt: dict[str, str | None] = {}
    for block in _blocks([list(same) for _, same in groupby(ids, key=texts.__getitem__)]):
        longest_run, size = max(map(len, block)), sum(map(len, block))
        # A turn by at least the longest run of equal texts, and by as much less than all, moves each text off itself.
        turn = int(rng.integers(longest_run, max(size - longest_run, longest_run) + 1))
        members = [problem_id for run in block for problem_id in run]
        for i, problem_id in enumerate(members):
            other = texts[members[(i + turn) % size]]
            dealt[problem_id] = other if other != texts[problem_id] else None
    return dealt


def _blocks(runs: list[list[str]]) -> list[list[list[str]]]:
    """Neighbouring runs of equal texts in blocks, of which no run is more than half, as far as that can be."""
    blocks: list[list[list[str]]] = [[]]
    for run in runs:
        if _is_block(blocks[-1]):
            blocks.append([])
        blocks[-1].append(run)
    while len(blocks) > 1 and not _is_block(blocks[-1]):
        last = blocks.pop()
        blocks[-1] = blocks[-1] + last
    return [block for block in blocks if block]


def _is_block(runs: list[list[str]]) -> bool:
    size = sum(map(len, runs))
    return size >= _SMALLEST_BLOCK and 2 * max(map(len, runs), default=0) <= size
