import io
import re
import sys
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ptdpo_cli.datasets import digit_grid
from ptdpo_cli.errors import UsageError
from ptdpo_cli.hints.regions import hint_from_regions


def test_the_same_arguments_give_the_same_problems_and_other_seeds_others():
    first, again = (digit_grid.load("test", seed=3, count=40) for _ in range(2))
    assert first == again
    assert first[:10] == digit_grid.load("test", seed=3, count=10)
    other = digit_grid.load("test", seed=4, count=40)
    assert all(a.images != b.images for a, b in zip(first, other, strict=True))
    assert first[7].problem_id == "digit-grid/test/000007"


def test_a_training_set_is_made_in_seconds():
    digit_grid.load("train", count=1)    # reads and turns the scans, once
    started = time.monotonic()
    digit_grid.load("train", count=512)
    assert time.monotonic() - started < 2


def test_splits_share_no_scan():
    seen = {split: {ink.tobytes() for ink in digit_grid.scans(split)[0][:, 0]} for split in digit_grid.SPLITS}
    assert {split: len(inks) for split, inks in seen.items()} == digit_grid.SPLITS
    assert not seen["train"] & seen["validation"] and not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


@pytest.mark.parametrize("split", list(digit_grid.SPLITS))
def test_no_answer_is_frequent_enough_to_guess(split):
    answers = Counter(problem.answer for problem in digit_grid.load(split, count=1000))
    assert answers.most_common(1)[0][1] / 1000 < 0.15


def test_answer_and_solution_follow_from_the_digits_in_the_cells():
    for problem, grid in digit_grid.load_with_grids("validation", count=3 * len(digit_grid.KINDS)):
        named = {digit_grid.CELLS[i] for i in digit_grid.KINDS[problem.category].cells(grid)}
        assert {region.label for region in problem.regions} == named
        digits = [grid.digits[digit_grid.CELLS.index(region.label)] for region in problem.regions]
        assert problem.answer == str(sum(digits))
        read = re.findall(r"([a-z-]+) (\d)(?: makes (\d+))?", problem.solution.removeprefix("<think>"))
        assert [(label, int(digit)) for label, digit, _ in read] == [
            (region.label, digit) for region, digit in zip(problem.regions, digits, strict=True)
        ]
        assert [int(total) for *_, total in read[1:]] == np.cumsum(digits)[1:].tolist()
        assert problem.solution.endswith(f"</think>\\boxed{{{problem.answer}}}")


def test_the_hint_names_the_cells_and_no_digit():
    problem = digit_grid.load("train", count=1)[0]
    hint = hint_from_regions(problem).text
    assert hint == "Look only at top-left, top, top-right. Read each digit, then add them."


def test_the_picture_shows_the_grid():
    kinds = [name for name, kind in digit_grid.KINDS.items() if kind.visual]
    for problem, grid in digit_grid.load_with_grids("test", count=20, kinds=kinds):
        pixels = np.asarray(Image.open(io.BytesIO(problem.images[0])), dtype=float)
        assert pixels.shape == (48, 48, 3)
        for i in range(9):
            x0, y0, x1, y1 = (round(48 * side) for side in digit_grid._box(i))
            ground = pixels[y0:y1, x0:x1].reshape(-1, 3).max(axis=0)    # the least inked pixel
            nearest = min(digit_grid.COLOURS, key=lambda name: np.abs(ground - digit_grid.COLOURS[name]).sum())
            assert nearest == grid.colours[i]
        asked = problem.category.split()[0]
        assert sum(colour == asked for colour in grid.colours) == 3


def test_visual_kinds_mean_other_cells_in_other_pictures():
    for name, kind in digit_grid.KINDS.items():
        meant = {tuple(r.label for r in p.regions) for p in digit_grid.load("train", count=60, kinds=[name])}
        assert (len(meant) > 4) == kind.visual


def test_random_cells_ignore_the_question():
    problem, grid = digit_grid.load_with_grids("train", count=1)[0]
    rng = np.random.default_rng(0)
    drawn = [digit_grid.random_cells(problem, grid, rng) for _ in range(300)]
    assert all(other.question == problem.question for other in drawn)
    assert {len(other.regions) for other in drawn} == {3, 4}
    firsts = Counter(other.regions[0].label for other in drawn)
    assert set(firsts) == set(digit_grid.CELLS) and max(firsts.values()) < 60


def test_a_mistaken_solution_is_right_for_some_other_kind():
    rng = np.random.default_rng(0)
    for problem, grid in digit_grid.load_with_grids("train", count=60):
        meant = {name: kind.cells(grid) for name, kind in digit_grid.KINDS.items()}
        wrong = digit_grid.mistaken(problem, grid, rng)
        cells = tuple(digit_grid.CELLS.index(region.label) for region in wrong.regions)
        assert cells in meant.values() and cells != meant[problem.category]
        assert (wrong.question, wrong.images) == (problem.question, problem.images)


def test_a_wrong_split_or_kind_is_a_usage_error():
    with pytest.raises(UsageError, match="no such split"):
        digit_grid.load("dev")
    with pytest.raises(UsageError, match="middle kingdom"):
        digit_grid.load("test", kinds=["middle kingdom"])


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digit_grid._handwriting.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"pip install 'ptdpo\[demo\]'"):
            digit_grid.load("test", count=1)
    finally:
        digit_grid._handwriting.cache_clear()
