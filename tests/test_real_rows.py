"""Real rows of public sets, which lie beside the repository where they are there: each loads, or is left out by name.

Nothing of them is in the repository; without them these tests are skipped.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets.cards import Place
from ptdpo_cli.datasets.catalog import ADAPTERS
from ptdpo_cli.datasets.options import LETTERS
from ptdpo_cli.datasets.reading import LeftOut, faults_of
from ptdpo_cli.rewards import published

ROWS = Path(__file__).parents[2] / "shared" / "realdata"
pytestmark = pytest.mark.skipif(not ROWS.is_dir(), reason=f"no real rows in {ROWS}")

PICTURE = {"bytes": b"a picture", "path": None}
# File, data set, split, and the columns that the file lacks.
FILES = [
    ("mathverse_text_only.jsonl", "mathverse", "text-only", {"image": None}),
    ("mathvision_rows.jsonl", "mathvision", "test", {"decoded_image": PICTURE, "solution": None}),
    ("logicvista_rows.jsonl", "logicvista", "test", {"image": PICTURE, "reasoning": None}),
    ("hallusionbench_rows.jsonl", "hallusionbench", "all", {"image": PICTURE}),
    ("k12.jsonl", "mmk12", "train", {"image": None, "subject": "math"}),
]


def read(file):
    return [json.loads(line) for line in (ROWS / file).open()]


@pytest.mark.parametrize(("file", "name", "split", "more"), FILES)
def test_every_row_loads_or_is_left_out(file, name, split, more):
    table = ADAPTERS[name].CARD.splits[split].tables[0]
    found, reasons = [], Counter()
    for number, row in enumerate(read(file), 1):
        try:
            problem = ADAPTERS[name].problem(row | more, Place(split, table, number))
        except LeftOut as reason:
            reasons[reason.what] += 1
            continue
        assert faults_of(problem) == [], row
        texts = "\n".join([problem.question, problem.answer, *problem.choices])
        assert "<image" not in texts and not set(texts) & set("\a\b\t\v\f掳"), row
        if problem.answer_type in ("choice", "set") and problem.choices:
            assert set(problem.answer) - set(", ") <= set(LETTERS[:len(problem.choices)]), row
        if problem.answer_type in ("choice", "set") and name == "mathvision":
            assert all(choice in problem.question for choice in problem.choices), row
        found.append(problem)
    assert len({problem.problem_id for problem in found}) == len(found) > 200
    # References that nobody can read are few.
    assert sum(reasons.values()) <= 0.1 * len(found), reasons


def test_options_of_multiple_choice_rows_are_read():
    """Of the rows whose options stand in the question."""
    adapter = ADAPTERS["mathverse"]
    place = Place("text-only", adapter.CARD.splits["text-only"].tables[0], 1)
    rows = [row for row in read("mathverse_text_only.jsonl") if row["question_type"] == "multi-choice"]
    found = [adapter.problem(row, place) for row in rows]
    assert sum(problem.choices == () for problem in found) <= 1         # options that are empty
    assert {problem.answer_type for problem in found} == {"choice", "set"}


def test_references_and_options_as_mmmu_has_them():
    """Real references with options that were seen beside them, in MMMU's own layout."""
    adapter = ADAPTERS["mmmu"]
    place = Place("validation", adapter.CARD.splits["validation"].tables[0], 1)
    choices = {row["id"].removeprefix("mmmu/"): row["choices"] for row in read("responses_mmmu.jsonl")}
    pictures = {f"image_{k}": PICTURE if k == 1 else None for k in range(1, 8)}
    answers = read("mmmu_val_answers.jsonl")
    for row in answers:
        is_choice = row["question_type"] == "multiple-choice"
        options = choices.get(row["id"]) or (list("pqrstuvwxyz") if is_choice else [])
        gold = row["ground_truth"]
        problem = adapter.problem(pictures | {
            "id": row["id"], "question": "Which? <image 1>", "options": repr(options), "explanation": "",
            "question_type": "multiple-choice" if is_choice else "open", "topic_difficulty": "Easy",
            "answer": gold if isinstance(gold, str) else repr(gold)}, place)
        if is_choice:
            assert (problem.answer, problem.answer_type) == (gold, "choice") and problem.choices == tuple(options)
    assert len(answers) == 450


@pytest.mark.parametrize(("file", "name", "split"), [
    ("responses_mmmupro.jsonl", "mmmu-pro", "standard-10"), ("responses_mathvision.jsonl", "mathvision", "test")])
def test_options_as_they_are(file, name, split):
    """The options of real rows come out as they went in, and the letter stays."""
    adapter = ADAPTERS[name]
    place = Place(split, adapter.CARD.splits[split].tables[0], 1)
    rows = [row for row in read(file) if row["choices"]]
    for row in rows:
        options = row["choices"] if name == "mathvision" else repr(row["choices"])
        more = {f"image_{k}": PICTURE if k == 1 else None for k in range(1, 8)} | {"decoded_image": PICTURE}
        problem = adapter.problem(more | {
            "id": row["id"], "question": "Which?", "options": options, "answer": row["gold"], "subject": "",
            "level": 1, "solution": None}, place)
        assert problem.answer == row["gold"]
        if not any("<image" in choice or choice.startswith(("(", "A.")) for choice in row["choices"]):
            assert problem.choices == tuple(row["choices"])
    assert rows


def test_mmmu_pro_is_scored_as_its_authors_score_it():
    """But for responses in which their evaluator finds no letter: it draws one, and ours calls them wrong."""
    rows = read("responses_mmmupro.jsonl")
    said = [(row["response"], Problem(row["id"], "", (), row["gold"], answer_type="choice",
                                      choices=tuple(row["choices"]), source="mmmu-pro")) for row in rows]
    differ = [row for row, verdict in zip(rows, published(said), strict=True) if bool(verdict) != row["official"]]
    assert all(row["official"] and row["response"].startswith("I'm sorry") for row in differ), differ
    assert len(differ) <= 0.01 * len(rows)
