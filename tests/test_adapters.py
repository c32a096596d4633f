"""Every public data set's rows become the problems that are written out here by hand; bad rows say what is wrong.

The rows are read from Parquet and JSONL in the layout of the public repositories (tests/public.py).
"""

import dataclasses
import json
import re
import time
import zipfile
from pathlib import Path

import pytest

import public
from ptdpo_cli.artifacts.schemas import ANSWER_TYPES, Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import choice_or_value, unboxed, valued
from ptdpo_cli.datasets.cards import Card, Place, Table
from ptdpo_cli.datasets.catalog import ADAPTERS
from ptdpo_cli.datasets.mending import mended
from ptdpo_cli.datasets.options import (
    chosen,
    chosen_inside,
    letter_of,
    listed,
    one_letter,
    options_in,
    options_of,
    unlabelled,
)
from ptdpo_cli.datasets.reading import LeftOut
from ptdpo_cli.errors import UsageError
from public import problems


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("mirror")
    for name in ADAPTERS:
        public.write_mirror(root, name)
    return root


def failure(function, *args, **kwargs) -> str:
    with pytest.raises(UsageError) as caught:
        function(*args, **kwargs)
    assert caught.value.exit_code == 2
    return str(caught.value)


def shown(problem: Problem) -> tuple:
    """What most tests compare: id, question, answer, type, choices."""
    return (problem.problem_id, problem.question, problem.answer, problem.answer_type, problem.choices)


def seeds(problem: Problem) -> list[int]:
    """Which of the made pictures a problem has."""
    return [int(image["path"].removesuffix(".png")) for image in problem.images]


# --- cards ------------------------------------------------------------------------------------------------------------

# The rows of the public splits, as their cards or their readers give them.
ROWS = {
    "mathvista": {"testmini": 1000, "test": 5141},
    "mathverse": {"testmini": 3940, "text-only": 788},
    "mathvision": {"test": 3040, "testmini": 304},
    "mmmu": {"dev": 150, "validation": 900, "test": 10500},
    "mmmu-pro": {"standard-10": 1730, "standard-4": 1730, "vision": 1730},
    "we-math": {"testmini": 1740},
    "logicvista": {"test": 448},
    "dynamath": {f"variant{k}": 501 for k in range(1, 11)} | {"all": 5010},
    "mmstar": {"val": 1500},
    "hallusionbench": {"image": 951, "non_image": 178, "all": 1129},
    "geometry3k": {"train": 2101, "validation": 300, "test": 601},
    "mmk12": {"train": 15616, "test": 2000},
    "virl39k": {"train": 38870},
    "papo-virl39k": {"train": 38870},
    "papo-mmk12": {"test": 2000},
    "papo-eval": {"mmk12": 2000, "geometry3k": 601, "mathverse": 2180, "mathvista": 1000, "we-math": 1740,
                  "mmmu-pro": 1730, "counting": 200, "mathverse-v": 1308, "logicvista": 447, "all": 11206},
    "mm-eureka": {"train": None},
}
DEFAULTS = {        # (train, test)
    "mathvista": (None, "testmini"), "mathverse": (None, "testmini"), "mathvision": (None, "test"),
    "mmmu": (None, "validation"), "mmmu-pro": (None, "standard-10"), "we-math": (None, "testmini"),
    "logicvista": (None, "test"), "dynamath": (None, "all"), "mmstar": (None, "val"),
    "hallusionbench": (None, "image"), "geometry3k": ("train", "test"), "mmk12": ("train", "test"),
    "virl39k": ("train", None), "papo-virl39k": ("train", None), "papo-mmk12": (None, "test"),
    "papo-eval": (None, "all"), "mm-eureka": ("train", None),
}


def test_the_splits_and_their_rows():
    cards = {name: module.CARD for name, module in ADAPTERS.items()}
    assert {name: {split: part.rows for split, part in card.splits.items()} for name, card in cards.items()} == ROWS


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_card_is_whole(name):
    card = ADAPTERS[name].CARD
    assert isinstance(card, Card) and card.name == name and re.fullmatch(r"[\w-]+/[\w.-]+", card.hub)
    assert (card.train, card.test) == DEFAULTS[name]
    assert all(split in card.splits for split in (card.train, card.test) if split)
    assert card.purpose == " and ".join(p for p, split in (("train", card.train), ("test", card.test)) if split)
    assert card.license and card.scoring
    assert all(part.tables for part in card.splits.values())


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_every_problem_owes_its_readers(root, name):
    card = ADAPTERS[name].CARD
    withheld = {("mathvista", "test"), ("mmmu", "test")}
    for split in card.splits:
        if (name, split) in withheld:
            continue
        found = problems(root, name, split)
        assert found
        assert len({problem.problem_id for problem in found}) == len(found)
        for problem in found:
            assert problem.problem_id.startswith(f"{name}/")
            assert problem.question and problem.answer and problem.answer_type in ANSWER_TYPES
            assert "<image" not in problem.question and "\\boxed" not in problem.answer
            assert problem.split == split and problem.license == card.license
            assert problem.source == (problem.problem_id.rpartition("/")[0] if name == "papo-eval" else name)
            assert json.loads(json.dumps(problem.metadata)) == problem.metadata
            assert isinstance(problem.images, tuple) and isinstance(problem.choices, tuple)
            if problem.choices and problem.answer_type == "choice":
                assert "A" <= problem.answer <= "ABCDEFGHIJ"[len(problem.choices) - 1]


def test_ids_differ_over_all_data_sets(root):
    """Parts of a set that another split repeats keep their ids; nothing else shares one."""
    ids = [problem.problem_id for name, module in ADAPTERS.items()
           for split in {"mathvision": ["test"]}.get(name, module.CARD.splits)
           if split != "all" and (name, split) not in {("mathvista", "test"), ("mmmu", "test")}
           for problem in problems(root, name, split)]
    assert len(set(ids)) == len(ids) > 90


# --- one set after the other ------------------------------------------------------------------------------------------


def test_mathvista(root):
    """The text of an option becomes its letter; the picture is the decoded one; floats keep the row's precision."""
    letter, no, count, money, years, mass = problems(root, "mathvista", "testmini")
    assert letter == Problem(
        problem_id="mathvista/1", question="Find $m\\angle H$\nChoices:\nA. 82\nB. 83\nC. 97\nD. 98",
        images=(public.image(1),), answer="C", answer_type="choice", choices=("82", "83", "97", "98"),
        category="math-targeted-vqa", source="mathvista", split="testmini", license="cc-by-sa-4.0",
        metadata={
            "question_type": "multi_choice", "answer_type": "text", "language": "english", "source": "Geometry3K",
            "category": "math-targeted-vqa", "task": "geometry problem solving", "context": "geometry diagram",
            "grade": "high school", "skills": ["geometry reasoning", "algebraic reasoning"],
        })
    assert (no.answer, no.choices, no.category) == ("B", ("Yes", "No"), "general-vqa")
    assert (count.answer, count.answer_type, count.precision, count.choices) == ("2", "integer", None, ())
    assert (money.answer, money.answer_type, money.precision) == ("1.50", "float", 2)
    assert money.question == "How much money does Luca need? (Unit: $)\nGive the number with 2 decimal places."
    assert (years.answer, years.answer_type) == ("[2007, 2008]", "list")
    assert mass.question.endswith("(Unit: kg)\nGive the number with 1 decimal place.") and mass.precision == 1


def test_mathverse(root):
    """Five versions of a problem are one family; where the question is in the picture the text says so."""
    dominant, lite, _, _, seen, length, seen_length, *_ = problems(root, "mathverse", "testmini")
    assert dominant == Problem(
        problem_id="mathverse/1",
        question="As shown in the figure, AB ∥ CD, ∠1 = 35°. Find ∠2.\nChoices:\nA:145°\nB:35°\nC:55°\nD:125°",
        images=(public.image(101),), answer="B", answer_type="choice", choices=("145°", "35°", "55°", "125°"),
        category="Plane Geometry", source="mathverse", split="testmini", license="MIT", family="mathverse/1",
        metadata={"problem_version": "Text Dominant", "subject": "Plane Geometry", "subfield": "Angle"})
    assert lite.question.startswith("Find ∠2.") and lite.family == "mathverse/1"
    assert shown(seen) == ("mathverse/5", "Answer the question shown in the image.", "B", "choice", ())
    assert (seen.family, seen.metadata["problem_version"], seeds(seen)) == ("mathverse/1", "Vision Only", [105])
    assert (length.answer, length.answer_type, length.family) == ("2 \\sqrt { 221 }", "expression", "mathverse/2")
    assert (seen_length.answer_type, seen_length.question) == ("expression", "Answer the question shown in the image.")

    text_only, number = problems(root, "mathverse", "text-only")
    assert (text_only.problem_id, text_only.family, text_only.images) == ("mathverse/text-only/1", "mathverse/1", ())
    assert (number.answer, number.answer_type) == ("4.5", "float")


def test_mathverse_references_in_every_form(root):
    """An option's text, letters on lines, letter and text; options in the picture, or of a free-form question."""
    circle, square, equal, wide, tall, angle = problems(root, "mathverse", "testmini")[7:]
    assert shown(circle)[1:] == ("Answer the question shown in the image.", "B", "choice", ("True", "False"))
    assert shown(square)[2:] == ("B", "choice", ("True", "False"))
    assert shown(equal)[2:] == ("A, C", "set", ("1", "2", "1.0")) and "\nA:1\nB:2\nC:1.0" in equal.question
    assert shown(wide)[2:] == ("B", "choice", ("4cm", "5cm"))
    assert shown(tall)[2:] == ("B", "choice", ("4cm", "5cm"))
    assert angle.answer == "35°"
    row, place = next(public.rows(root, "mathverse", "testmini"))
    seen = row | {"problem_version": "Vision Only", "question": "", "question_for_eval": ""}
    assert shown(ADAPTERS["mathverse"].problem(seen | {"answer": "(C)"}, place))[2:] == ("C", "choice", ())
    assert shown(ADAPTERS["mathverse"].problem(seen | {"answer": "12"}, place))[2:] == ("12", "integer", ())


def test_mathvision(root):
    """A letter where there are options, else the value; options that are bare letters are in the picture."""
    digits, bike, net, area, x, *_ = problems(root, "mathvision", "test")
    assert digits == Problem(
        problem_id="mathvision/4", question="How many different digits can you find in this picture?",
        images=(public.image(204),), answer="6", answer_type="integer", category="counting", source="mathvision",
        split="test", license="MIT", metadata={"subject": "counting", "level": 1})
    assert shown(bike)[1:] == ("Which bike is most expensive?\nChoices: A, B, C, D, E", "A", "choice", tuple("ABCDE"))
    assert shown(net)[1:] == ("Which of image 1 and image 2 is a net?\nChoices:\nA. the first\nB. the second", "B",
                              "choice", ("the first", "the second"))
    assert (area.answer, area.answer_type, area.solution) == ("\\frac{3}{4}", "expression", "Half of a square.")
    assert (x.answer, x.choices, x.solution) == ("C", ("$1$", "$2$", "$3$"), None)


def test_mathvision_questions_in_the_picture_and_damaged_references(root):
    seen, lands, faces, grey, half, left, twice = problems(root, "mathvision", "test")[5:]
    assert shown(seen)[1:] == ("Answer the question shown in the image.", "15", "integer", ())
    assert shown(lands)[1:] == (
        "Where does it land after\n\nthat?\nChoices:\nA. image 2\nB. image 3\nC. image 4", "B", "choice",
        ("image 2", "image 3", "image 4"))
    assert shown(faces)[1:] == ("Which side faces image 2?", "C", "choice", ()) and len(faces.images) == 1
    assert (grey.answer, half.answer) == ("\\frac{5}{7}", "\\frac{1}{8}")
    assert shown(left)[1:] == ("Which is left?\nChoices: A, B, C", "C", "choice", ("A", "B", "C"))
    assert shown(twice)[1:] == ("Find 2x.\nChoices:\nA. $2$\nB. $4$", "B", "choice", ("$2$", "$4$"))


def test_mmmu(root):
    """Options are a string that holds a list; pictures come in columns that are mostly null."""
    baxter, painter, compared, mean, cells, fits, older, beyond, lamp = problems(root, "mmmu", "validation")
    assert baxter == Problem(
        problem_id="mmmu/validation_Accounting_1",
        question="Baxter has a sales budget. Its break-even point is\nChoices:\nA. $63,020\nB. $58,410\nC. $71,320\n"
                 "D. it's unknown",
        images=(public.image(301),), answer="C", answer_type="choice",
        choices=("$63,020", "$58,410", "$71,320", "it's unknown"), solution="Add them.", category="Accounting",
        source="mmmu", split="validation", license="Apache-2.0",
        metadata={"subject": "Accounting", "discipline": "Business", "answers": [], "topic_difficulty": "Easy"})
    assert shown(painter)[1:] == (
        "Which one is by image 1's painter?\nChoices:\nA. image 2\nB. image 3", "B", "choice", ("image 2", "image 3"))
    assert (painter.category, seeds(painter)) == ("Art_Theory", [302, 303, 304])
    # image_2 is null, so the row's third image is the second one that the model sees.
    assert compared.question.startswith("Compare image 1 with image 2.") and seeds(compared) == [305, 306]
    assert shown(mean)[1:] == ("What is the mean in the image?", "24/7", "expression", ())
    assert mean.metadata["answers"] == ["24/7", "3.429"]
    assert shown(cells)[1:] == ("How many cells?", "12", "integer", ())
    # A list in a list; one picture for all that are named; a number beyond the pictures; a letter without options.
    assert shown(fits)[2:] == ("C", "choice", ("red", "green", "blue", "grey"))
    assert shown(older)[1:] == ("Which one is older?\nChoices:\nA. image 2\nB. image 3", "B", "choice",
                                ("image 2", "image 3"))
    assert (beyond.choices, len(beyond.images)) == (("image 1", "image 2", "image 3"), 2)
    assert shown(lamp)[1:] == ("Which lamp goes out?", "B", "choice", ())


def test_mmmu_pro(root):
    """Letters go to J; in the split vision the picture has the question and the options."""
    cost, design, *_ = problems(root, "mmmu-pro", "standard-10")
    ten = tuple(f"{k} dollars" for k in range(1, 11))
    assert (cost.problem_id, cost.answer, cost.choices) == ("mmmu-pro/standard-10/test_Accounting_42", "J", ten)
    assert cost.question.endswith("\nI. 9 dollars\nJ. 10 dollars") and cost.family == "mmmu-pro/test_Accounting_42"
    assert design.question == "Which is it?\nChoices:\nA. image 1\nB. image 2\nC. neither"
    assert (design.category, seeds(design)) == ("Design", [402, 403])
    four = problems(root, "mmmu-pro", "standard-4")[0]
    assert (four.problem_id, four.answer, four.family) == ("mmmu-pro/standard-4/test_Accounting_42", "D", cost.family)
    seen, other = problems(root, "mmmu-pro", "vision")
    assert shown(seen) == (
        "mmmu-pro/vision/test_Accounting_42",
        "Answer the multiple-choice question shown in the image with the letter of the right option.",
        "J", "choice", ten)
    assert (seeds(seen), seen.family, other.choices) == ([406], cost.family, ("image 1", "none"))


def test_we_math(root):
    """One string holds the options; a problem of two steps and one of three with the same ID are two families."""
    first, second, whole, *_, last, letters, damaged = problems(root, "we-math", "testmini")
    assert first == Problem(
        problem_id="we-math/1/2steps_1",
        question="There is a circular flower bed. Question 1: its area is (  ) m²?\nChoices:\nA. 200.96\nB. 3215.36\n"
                 "C. 6280\nD. 32\nE. No correct answer",
        images=(public.image(501),), answer="B", answer_type="choice",
        choices=("200.96", "3215.36", "6280", "32", "No correct answer"), category="Area of Circles",
        source="we-math", split="testmini", license="cc-by-nc-4.0", family="we-math/2steps/1",
        metadata={"steps": 2, "step": "1"})
    assert (second.choices, second.answer, second.category) == (("3", "4"), "A", "Perimeter")
    assert (whole.family, whole.metadata) == (first.family, {"steps": 2, "step": "multi"})
    assert (last.family, last.choices) == ("we-math/3steps/1", ("(1, 2)", "(2; 1)", "No correct answer"))
    assert letters.choices == ("A", "B", "D", "No correct answer")
    assert shown(damaged)[2:] == ("B", "choice", ("30 m", "40 m", "50 m", "No correct answer"))


def test_logicvista(root):
    """Several letters are a set, in order; options may be in the picture alone."""
    sequence, statements, gears, series, orders, much = problems(root, "logicvista", "test")
    assert (sequence.answer, sequence.answer_type, sequence.choices) == ("D", "choice", ("A", "B", "C", "D", "E"))
    assert (sequence.solution, sequence.category) == ("It turns by 90°.", "inductive")
    assert (statements.answer, statements.answer_type, statements.choices) == ("A, C", "set", ("all", "some", "none"))
    assert (gears.answer, gears.answer_type, gears.choices) == ("A, C", "set", ())
    assert gears.metadata == {"skill": "mechanical, spatial"}
    assert (series.answer, series.answer_type, series.choices) == ("B", "choice", ())
    assert (orders.answer, orders.answer_type, orders.solution) == ("12", "integer", None)
    assert (much.answer, much.choices) == ("D", ("1,200", "1,400", "1,500", "1,700"))


def test_dynamath(root):
    """Ten tables of variants; the question joins them."""
    period, continuous, colour, nodes = problems(root, "dynamath", "variant3")
    assert period == Problem(
        problem_id="dynamath/variant3/1", question="The period is 3. What is the frequency?",
        images=(public.image(731),), answer="0.333", answer_type="float", precision=3, family="dynamath/1",
        category="analytic geometry", source="dynamath", split="variant3", license="Apache-2.0",
        metadata={"variant": "variant3", "subject": "analytic geometry", "knowledge_level": "high school"})
    assert (continuous.answer, continuous.choices) == ("A", ("yes", "no", "cannot tell"))
    assert (colour.answer, colour.answer_type, colour.precision) == ("dark red", "text", None)
    assert (nodes.answer, nodes.answer_type, nodes.precision) == ("3", "float", 3)

    everything = problems(root, "dynamath", "all")
    assert len(everything) == 40 and {problem.split for problem in everything} == {"all"}
    assert sorted(p.problem_id for p in everything if p.family == "dynamath/1") == sorted(
        f"dynamath/variant{k}/1" for k in range(1, 11))


def test_mmstar(root):
    book, x, star, untold = problems(root, "mmstar", "val")
    assert (book.problem_id, book.answer) == ("mmstar/0", "A")
    assert book.choices == ("The suitcase is on the book.", "The suitcase is beneath the cat.",
                            "The suitcase is beneath the bed.", "none")
    assert book.metadata == {"category": "coarse perception", "l2_category": "image scene and topic"}
    assert x.choices == ("4.5 cm", "6 cm", "7.5 cm", "8 cm")
    assert shown(star)[1:] == ("What does it show?\nA. a cell\nB. a star\nC. a map", "B", "choice",
                               ("a cell", "a star", "a map"))
    assert shown(untold)[2:] == ("C", "choice", ())


def test_hallusionbench(root):
    """0 is no and 1 is yes; the rows without a picture run as well."""
    yes, no, first, _ = problems(root, "hallusionbench", "image")
    assert yes == Problem(
        problem_id="hallusionbench/VD/ocr/0/0/0", question="Does it say 'no'?\nAnswer yes or no.",
        images=(public.image(901),), answer="yes", answer_type="text", category="VD", source="hallusionbench",
        split="image", license="BSD-3-Clause", family="hallusionbench/VD/ocr/0",
        metadata={"category": "VD", "subcategory": "ocr", "set_id": "0", "figure_id": "0", "question_id": "0"})
    assert (no.answer, no.family, seeds(no)) == ("no", yes.family, [902])
    blind = problems(root, "hallusionbench", "non_image")
    assert [(p.images, p.answer, p.family) for p in blind] == [((), "yes", first.family), ((), "no", first.family)]
    assert len(problems(root, "hallusionbench", "all")) == 6


def test_geometry3k_in_both_revisions(root):
    old = problems(root, "geometry3k", "train")
    assert [(p.problem_id, p.question, p.answer, p.answer_type) for p in old] == [
        ("geometry3k/train/1", "Find $x$.", "3", "integer"),
        ("geometry3k/train/2", "Find the area.", "2 \\sqrt { 221 }", "expression"),
        ("geometry3k/train/3", "Find y to the nearest tenth.", "4.5", "float"),
        ("geometry3k/train/4", "Find z.", "\\frac { 3 } { 4 }", "expression"),
    ]
    new = problems(root, "geometry3k", "test")[0]      # ground_truth is the letter B, and the question asks for a value
    assert shown(new) == ("geometry3k/test/2401", "Find x.", "58", "integer", ("29", "58", "61", "122"))


def test_mmk12(root):
    """Free answers to train on, letters to test on, with the options inside the question."""
    half, count, angle, _ = problems(root, "mmk12", "train")
    assert shown(half) == ("mmk12/train/a1", "As shown in the figure, find $$AB$$.", "\\frac{1}{2}", "expression", ())
    assert (count.answer_type, angle.answer_type, half.category) == ("integer", "quantity", "math")
    right, gas, nucleus = problems(root, "mmk12", "test")
    assert shown(right)[2:] == ("C", "choice", ("the first", "the second", "both", "neither"))
    assert right.category == "physics"
    assert (gas.answer, gas.choices) == ("B", ("O2", "CO2", "N2", "H2"))
    assert (nucleus.answer, nucleus.answer_type, nucleus.choices) == ("D", "choice", ())


def test_virl39k(root):
    r"""References lose their boxes, nested braces and all; paths stay paths; a pass rate of −1 or null is none."""
    ratio, letter, two, count, longer = problems(root, "virl39k", "train")
    assert ratio == Problem(
        problem_id="virl39k/Processed-1", question="Find the ratio.", images=("images/Processed-1-0.jpg",),
        answer="\\frac{1}{\\sqrt{2}}", answer_type="expression", category="(GradeSchool) Geometric", source="virl39k",
        split="train", license="MIT",
        metadata={"PassRate_32BTrained": 0.5, "PassRate_7BBase": 0.25, "source": "Processed"})
    assert (letter.answer, letter.choices) == ("B", ("1", "2", "3"))
    assert (letter.metadata["PassRate_32BTrained"], letter.metadata["PassRate_7BBase"]) == (1.0, None)
    assert (two.question, two.answer_type) == ("Which diagram is symmetric? Compare them.", "text")
    assert two.images == ("images/Processed-3-0.jpg", "images/Processed-3-1.jpg")
    assert (count.metadata["PassRate_32BTrained"], count.metadata["PassRate_7BBase"]) == (None, 0.0)
    assert (longer.answer, longer.answer_type, longer.choices) == ("B", "choice", ("left", "right"))


def test_papo_virl39k(root):
    """Marks may be numbered, and options written in several ways, or not at all."""
    angle, area, count, untold, larger, added = problems(root, "papo-virl39k", "train")
    assert shown(angle) == ("papo-virl39k/1", "In the figure, find x.\nA. 30°\nB. 45°\nC. 60°\nD. 90°", "C", "choice",
                            ("30°", "45°", "60°", "90°"))
    assert shown(area)[1:] == ("As shown in the image, the area is", "\\frac{25}{2}", "expression", ())
    assert shown(count)[2:] == ("C", "choice", ("2", "3", "4"))       # the reference is "4", an option's text
    assert shown(untold)[2:] == ("B", "choice", ())
    assert (larger.question, seeds(larger)) == ("Compare image 1 with image 2. Which is larger?", [1305, 1306])
    assert shown(added)[1:3] == ("Compare image 1 and image 2, then add them.", "7")


def test_papo_mmk12(root):
    found = problems(root, "papo-mmk12", "test")
    assert [p.answer for p in found] == list("ABCD") and found[0].choices == ("one", "two", "three", "four")
    assert found[0].problem_id == "papo-mmk12/1" and found[0].split == "test"


def test_papo_eval(root):
    """Nine parts, each a benchmark of its own; PAPO's instruction goes; a question may be in the picture alone."""
    found = {problem.problem_id: problem for problem in problems(root, "papo-eval", "all")}
    assert {problem.source for problem in found.values()} == {f"papo-eval/{part}" for part in ROWS["papo-eval"]} - {
        "papo-eval/all"}
    first = found["papo-eval/mmk12/PAPO_MMK12_0"]
    assert first == Problem(
        problem_id="papo-eval/mmk12/PAPO_MMK12_0", question="Which?\nA. one\nB. two\nC. three",
        images=("PAPO_MMK12/PAPO_MMK12_0_0.png",), answer="B", answer_type="choice", choices=("one", "two", "three"),
        category="mmk12", source="papo-eval/mmk12", split="all", license="unknown")
    vista = found["papo-eval/mathvista/AI4Math_MathVista_0"]
    assert (vista.answer, vista.choices) == ("B", ("Yes", "No"))
    assert found["papo-eval/mathvista/AI4Math_MathVista_1"].answer_type == "integer"
    seen = found["papo-eval/mmmu-pro/MMMU_MMMU_Pro_0"]
    assert shown(seen)[1:] == ("Answer the question shown in the image.", "J", "choice", ())
    assert found["papo-eval/we-math/We_Math_0"].choices == ("3", "4", "No correct answer")
    assert found["papo-eval/geometry3k/hiyouga_geometry3k_1"].answer == "2 \\sqrt { 5 }"


@pytest.mark.parametrize("row", [
    {"conversations": [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "3"}]},
    {"messages": None, "problem": "<image>How many?", "answer": "\\boxed{3}"},
])
def test_papo_eval_in_its_other_forms(row):
    table = ADAPTERS["papo-eval"].CARD.splits["counting"].tables[0]
    problem = ADAPTERS["papo-eval"].problem(row | {"images": ["images/x/1.png"]}, Place("counting", table, 5))
    assert shown(problem) == ("papo-eval/counting/5", "How many?", "3", "integer", ())
    assert problem.images == ("x/1.png",)


def test_mm_eureka(root):
    """A message is JSON inside JSON; addresses of files become paths inside the zips; a blank picture is none."""
    cats, letter, text, half, blank = problems(root, "mm-eureka", "train")
    inside = "inspire/hdd/global_user/shaowenqi-shaowenqi/mengfanqing/OpenRLHF-InternVL/dataset/report_data"
    assert (cats.question, cats.answer, cats.images) == ("How many cats are there?", "3", (f"{inside}/K12/cats.png",))
    assert shown(letter) == ("mm-eureka/1", "Find $x$.\nA. 1\nB. 2\nC. 3", "B", "choice", ("1", "2", "3"))
    assert letter.images == (f"{inside}/MMPR/images/x.png",)
    assert (text.question, text.answer, text.images) == ("What is 1 + 1?", "2", ())
    assert (half.question, half.answer, half.images) == ("Find $$AB$$.", "\\frac{1}{2}", (f"{inside}/K12/ab.png",))
    assert (blank.question, blank.images) == ("What is 2 + 2?", ())


def test_the_pictures_that_rows_name_are_in_the_zips(root):
    """What an adapter gives as a path is the name of a member of the table's archive."""
    for name in ("virl39k", "papo-eval", "mm-eureka"):
        folder = root / ADAPTERS[name].CARD.hub
        for split, part in ADAPTERS[name].CARD.splits.items():
            for table in part.tables:
                archives = folder.glob(table.archive)
                members = {member for archive in archives for member in zipfile.ZipFile(archive).namelist()}
                rows = [row for row in public.rows(root, name, split) if row[1].table == table]
                named = {path for row in rows for path in ADAPTERS[name].problem(*row).images}
                assert named and named <= members


# --- bad rows ---------------------------------------------------------------------------------------------------------

BAD = [
    ("mathvista", "test", {}, "the answer is withheld", "only the split testmini has answers"),
    ("mathvista", "testmini", {"answer": None}, "the answer is withheld"),
    ("mathvista", "testmini", {"answer": "96"}, "none of the options", "82; 83; 97; 98", "'96'"),
    ("mathvista", "testmini", {"decoded_image": None}, "'decoded_image' should hold one picture"),
    ("mathvista", "testmini", {"question_type": "free_form", "answer_type": "list"}, "of type list is none", "'97'"),
    ("mathvista", "testmini", {"question_type": "free_form", "answer_type": "float", "precision": 0.5},
     "the precision is no whole number"),
    ("mathverse", "testmini", {"question": ""}, "the question is empty", "the version is 'Text Dominant'"),
    ("mathverse", "testmini", {"answer": "40°"}, "none of the options"),
    ("mathverse", "testmini", {"answer": "B. 145°"}, "none of the options", "'B. 145°'"),
    ("mathverse", "testmini", {"problem_index": "629"}, "a name, and the question asks for an amount"),
    ("mathverse", "testmini", {"question_type": "free-form", "answer": "{5}{6}"}, "has lost a LaTeX command"),
    ("mathvision", "test", {"answer": None}, "the answer is empty"),
    ("mathvision", "test", {"options": ["1", "2"], "answer": "F"}, "no letter of an option", "A to B"),
    ("mathvision", "test", {"options": "['1', '2']"}, "the column 'options' has the wrong type", "a list of texts"),
    ("mmmu", "validation", {"options": "__import__('os').system('true')"}, "the column 'options' holds no list"),
    ("mmmu", "validation", {"options": "['a', "}, "the column 'options' holds no list"),
    ("mmmu", "validation", {"options": "['a']"}, "fewer than two options"),
    ("mmmu", "validation", {"answer": "E"}, "no letter of an option", "A to D"),
    ("mmmu", "validation", {"answer": "?"}, "the answer is withheld"),
    ("mmmu", "validation", {"id": "validation_Alchemy_1"}, "no subject of MMMU", "validation_Alchemy_1"),
    ("mmmu", "validation", {"options": "['<image>', 'x', 'y']", "image_2": public.image(1)},
     "names an image that the row lacks"),
    ("mmmu", "validation", {"options": "[['a'], ['b']]"}, "the column 'options' holds no list"),
    ("mmmu", "validation",
     {"question": "<image 1>, <image 4>?", "image_2": public.image(1), "image_3": public.image(2)},
     "names an image that the row lacks"),
    ("mmmu", "validation", {"question": "<image 1> and <image>"}, "more image placeholders than images"),
    ("mmmu-pro", "standard-10", {"answer": "K"}, "no letter of an option", "A to J"),
    ("mmmu-pro", "vision", {"image": None}, "'image' should hold one picture"),
    ("we-math", "testmini", {"key": "2steps_3"}, "the key is none of We-Math's"),
    ("we-math", "testmini", {"option": "200.96;3215.36"}, "the options cannot be told apart"),
    ("we-math", "testmini", {"option": "A. 1; B. 2; B. 3; D. 4"}, "the options cannot be told apart"),
    ("we-math", "testmini", {"answer": "F"}, "no letter of an option", "A to E"),
    ("we-math", "testmini", {"image_path": {"bytes": None, "path": None}}, "should hold one picture"),
    ("logicvista", "test", {"answer": " "}, "the answer is empty"),
    ("logicvista", "test", {"question": "<image> or <image>?"}, "more image placeholders than images"),
    ("dynamath", "variant3", {"ground_truth": float("nan")}, "the ground_truth is not finite"),
    ("dynamath", "variant3", {"answer_type": "multiple choice"}, "no letter of an option"),
    ("mmstar", "val", {"answer": ["A"]}, "the answer has the wrong type", "list ['A']"),
    ("hallusionbench", "image", {"gt_answer": "2"}, "neither yes nor no", '"0" for no, "1" for yes'),
    ("geometry3k", "train", {"problem": "<image><image>Find x."}, "more image placeholders than images", "at most 1"),
    ("geometry3k", "train", {"answer": "\\boxed{3"}, "never closes"),
    ("mmk12", "train", {"answer": "$$ $$"}, "the answer is empty"),
    ("virl39k", "train", {"answer": "\\boxed{\\frac{1}{2}"}, "never closes"),
    ("virl39k", "train", {"answer": "\\boxed{1}, so \\boxed{2}"}, "more than its box"),
    ("papo-virl39k", "train", {"problem": "<image>\ud800"}, "not valid Unicode"),
    ("papo-mmk12", "test", {"images": []}, "more image placeholders than images", "at most 0"),
    ("papo-eval", "mmk12", {"messages": [{"role": "user", "content": "Q"}]}, "no turn of the assistant in messages"),
    ("papo-eval", "mmk12", {"messages": "Q"}, "messages holds no messages"),
    ("mm-eureka", "train", {"message": "[{'role': 'user'}]"}, "the message is no JSON text"),
    ("mm-eureka", "train", {"message": "[]"}, "there is no question in message"),
    ("mm-eureka", "train", {"message": "3"}, "message holds no messages"),
]


@pytest.mark.parametrize(("name", "split", "change", "expected"), [(*case[:3], case[3:]) for case in BAD])
def test_a_bad_row_says_what_is_wrong(root, name, split, change, expected):
    row, place = next(public.rows(root, name, split))
    message = failure(ADAPTERS[name].problem, row | change, place)
    assert all(part in message for part in expected), message


# What is no fault of the source: another layout, a column of another type, a picture that is not there.
LAID_OUT_OTHERWISE = (
    "the answer is withheld", "should hold one picture", "has the wrong type", "is no whole number",
    "no subject of MMMU", "none of We-Math's", "no turn of the assistant", "holds no messages", "is no JSON text",
    "there is no question in",
)


@pytest.mark.parametrize(("name", "split", "change", "expected"), [(*case[:3], case[3:]) for case in BAD])
def test_a_row_is_left_out_only_where_its_source_is_broken(root, name, split, change, expected):
    row, place = next(public.rows(root, name, split))
    with pytest.raises(UsageError) as caught:
        ADAPTERS[name].problem(row | change, place)
    is_layout = any(part in str(caught.value) for part in LAID_OUT_OTHERWISE)
    assert isinstance(caught.value, LeftOut) != is_layout
    assert is_layout or "mend" not in (caught.value.hint or "")


# Columns that a row may lack: of another revision or layout, or not read at all.
SPARE = {
    "mathvista": {"image", "decoded_image", "query", "precision"},
    "mathverse": {"query_wo", "query_cot", "question_for_eval"}, "mathvision": {"image", "decoded_image"},
    "mmmu": {"img_type", "subfield"}, "mmmu-pro": {"explanation", "img_type", "topic_difficulty"},
    "we-math": {"split", "question number", "knowledge concept description"},
    "logicvista": {"broad_capability", "specific_capability", "imagesource", "sourcelink", "liscenced"},
    "dynamath": {"image", "decoded_image"}, "mmstar": {"meta_info"},
    "hallusionbench": {"visual_input", "sample_note", "gt_answer_details", "filename"},
    "virl39k": {"PassRate_32BTrained", "PassRate_7BBase"}, "papo-eval": {"id"},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_missing_column_is_a_key_error(root, name):
    """The reader says which one it is, and which is like it; so its name is all that the error needs."""
    row, place = next(public.rows(root, name, next(iter(ADAPTERS[name].CARD.splits))))
    instead = {("papo-eval", "messages"): "problem", ("papo-eval", "images"): "image",
               ("mm-eureka", "message"): "conversations", ("papo-virl39k", "images"): "image",
               ("papo-mmk12", "images"): "image"}
    for column in row:
        less = {key: value for key, value in row.items() if key != column}
        if column in SPARE.get(name, ()):
            ADAPTERS[name].problem(less, place)
            continue
        with pytest.raises(KeyError) as caught:
            ADAPTERS[name].problem(less, place)
        assert caught.value.args[0] == instead.get((name, column), column)


# --- texts of options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [
    ("Find x.\nA. 1\nB. 2\nC. 3", ("1", "2", "3")),
    ("Find x.\nA.1\nB.2", ("1", "2")),
    ("Find x.\n(A) 1/2\n(B) 3\n(C) 4", ("1/2", "3", "4")),
    ("Find x.\nChoices:\nA:145°\nB:35°", ("145°", "35°")),
    ("Find x.\nA) left\nB) right", ("left", "right")),
    ("Which?\nOptions: A: on the book., B: beneath it., C: red", ("on the book.", "beneath it.", "red")),
    ("Which? A. 5 cm B. 10 cm C. 20 cm", ("5 cm", "10 cm", "20 cm")),
    ("Please choose from the options A. 5 cm; B. 10 cm", ("5 cm", "10 cm")),
    ("How much? (A) 3,690 (B)18,250(C)7 (D)9", ("3,690", "18,250", "7", "9")),
    ("Let f(A) = 1, f(B) = 2 and f(C) = 3.", ()),
    ("Find A.\nA. 1\nB. 2\nC. 3\nD. A. and B.", ("1", "2", "3", "A. and B.")),
    ("In △ABC, BC = 3 at point E. What is AB?\nA. 1\nB. 2", ("1", "2")),
    ("Find x.\nA. 1\nB. 2\nThink about it.", ("1", "2")),
    ("Walk from point A. to B. and stop", ()),                      # two labels in a sentence are no options
    ("Which figure comes next?", ()),
    ("Select from A, B, C and D.", ()),
    ("Find x.\nA. 1\nC. 3", ()),                                    # B is missing
    ("Find x.\nA.\nB.\nC.", ()),                                    # the options are in the picture
    ("The U.S.A. and Plan B: which?", ()),
])
def test_options_inside_a_question(text, expected):
    assert options_in(text) == expected


def test_options_of_a_string_that_is_nothing_else():
    assert options_of("A. 200.96;B. 3215.36;C. 6280;D. 32; E. No correct answer") == (
        "200.96", "3215.36", "6280", "32", "No correct answer")
    assert options_of("A. (1, 2); B. x; y") == ("(1, 2)", "x; y")
    assert options_of("A. A; B. B; C. C; D. E; E. No correct answer") == ("A", "B", "C", "E", "No correct answer")
    for text in ("A. 3; B. 4; C 5; D. 6", "A. 3 B. 4；C. 5;D. 6", "A. 3B. 4; C. 5; D. 6", "A. 3; B 4; C. 5; D 6",
                 "A: 3; B: 4; C: 5; D: 6", "(A) 3 (B) 4 (C) 5 (D) 6", "A、3；B、4；C、5；D、6"):
        assert options_of(text) == ("3", "4", "5", "6"), text
    assert options_of("A. x > 3; x < 2; B. x; C. none") == ("x > 3; x < 2", "x", "none")
    for text in ("first A. 1; B. 2", "A. ;B. 2", "A. 5", "5; 6; 7", "A. 1; B. 2; B. 3; D. 4", ""):
        assert "cannot be told apart" in failure(options_of, text)


def test_letters():
    assert [one_letter(text) for text in ("B", "(B)", "B.", " B: ", "[B]", "b", "AB", "")] == ["B"] * 5 + [None] * 3
    assert unlabelled(("A. 1", "B) 2")) == ("1", "2") and unlabelled(("(A)", "(B)")) == ("A", "B")
    assert unlabelled(("A. 1", "2")) == ("A. 1", "2") and unlabelled(("(B)", "(A)")) == ("(B)", "(A)")
    assert letter_of("No", ("no", "No")) == "B"                     # to the character first
    assert letter_of("the  First", ("second", "The first")) == "B"
    assert "none of the options" in failure(letter_of, "3", ("1", "2"))
    assert letter_of("B. 50°", ("40°", "50°")) == "B" and letter_of("$5$", ("4", "5")) == "B"
    assert "none of the options" in failure(letter_of, "A. 50°", ("40°", "50°"))     # the letter of another
    assert "none of the options" in failure(letter_of, "delta", ("Delta", "DELTA"))  # which of them?
    assert listed("Which?", ()) == "Which?"
    assert listed("Which?", ("x", "y")) == "Which?\nChoices:\nA. x\nB. y"
    assert listed("Which?", ("A", "B")) == "Which?\nChoices: A, B"


@pytest.mark.parametrize(("answer", "choices", "expected"), [
    ("B", (), ("B", "choice")), ("(b)", ("1", "2"), ("B", "choice")), ("J", (), ("J", "choice")),
    ("$\\text{B}$", (), ("B", "choice")), ("**C**", (), ("C", "choice")), ("Option B", (), ("B", "choice")),
    ("B. 50°", ("40°", "50°"), ("B", "choice")), ("(B) 50°", (), ("B", "choice")),
    ("50°", ("40°", "50°"), ("B", "choice")), ("B: 50 degrees", ("40°", "50°"), ("B", "choice")),
    ("No", ("Yes", "No"), ("B", "choice")), ("Q", ("P", "Q"), ("B", "choice")), ("a", ("x", "a"), ("B", "choice")),
    ("A\nC", (), ("A, C", "set")), ("C, A", ("1", "2", "3"), ("A, C", "set")), ("(A) and (D)", (), ("A, D", "set")),
    ("A, B, and D", (), ("A, B, D", "set")), ("B and C", ("A and B", "B and C"), ("B", "choice")),
])
def test_what_a_reference_chooses(answer, choices, expected):
    assert chosen(answer, choices) == expected


@pytest.mark.parametrize(("answer", "choices", "message"), [
    ("C", ("1", "2"), "A to B"), ("A, D", ("1", "2"), "A to B"), ("12", (), "no letter of an option"),
    ("B. 40°", ("40°", "50°"), "none of the options"), ("C. 40", ("40°", "50°"), "A to B"),
    ("Bob", (), "no letter of an option"), ("", ("1",), "none of"),
])
def test_what_a_reference_does_not_choose(answer, choices, message):
    with pytest.raises(LeftOut, match=message):
        chosen(answer, choices)


def test_a_letter_beyond_what_a_question_lists_has_its_options_in_the_picture():
    question = "Which?\nA. left\nB. right"
    assert chosen_inside("B. right", question) == ("B", "choice", ("left", "right"))
    assert chosen_inside("A, B", question) == ("A, B", "set", ("left", "right"))
    assert chosen_inside("D", question) == ("D", "choice", ())
    assert chosen_inside("A, D", question) == ("A, D", "set", ())
    with pytest.raises(LeftOut):
        chosen_inside("B. left", question)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [
    ("\x0crac{1}{2}", "\\frac{1}{2}"), ("\x08eta + \x07lpha", "\\beta + \\alpha"), ("\x0bec{a}", "\\vec{a}"),
    ("3\times4", "3\\times4"), ("\text{ cm}", "\\text{ cm}"), ("\triangle ABC", "\\triangle ABC"),
    ("2\rightarrow 3", "2\\rightarrow 3"), ("\rho", "\\rho"),
    ("$x \neq 0$", "$x \\neq 0$"), ("(1)\neq y", "(1)\\neq y"),
    ("x \notin A", "x \\notin A"), ("35掳", "35°"), ("118掳T", "118°T"), ("鈭燗BC", "∠ABC"), ("5 cm虏", "5 cm²"),
    ("5Â°", "5°"), ("2Ã—3", "2×3"), ("xâ‰¤3", "x≤3"),
])
def test_what_copying_did_is_undone(text, expected):
    assert mended(text) == expected


@pytest.mark.parametrize("text", [
    "a\tan apple", "a page\x0cnext page", "a\x0crace", "Use\neq 1", "first\nequal", "see\neq b", "a table\text here",
    "9米", "不能计算", "路 10 掳 米", "É Ã propos", "\\frac{1}{2} \\neq 35°", "x\nu = 3",
])
def test_what_may_be_meant_stays(text):
    assert mended(text) == text


def test_a_form_feed_is_no_space():
    """Stripped first, the reference would be "rac{5}{7}"."""
    assert fields.as_text(" \x0crac{5}{7} ", "answer") == "\\frac{5}{7}"
    assert fields.written_list({"options": "['\\frac{1}{2}', '2']"}, "options") == ("\\frac{1}{2}", "2")


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [
    ("12", ("12", "integer")), ("-3", ("-3", "integer")), ("−4", ("-4", "integer")), ("1,234", ("1,234", "integer")),
    ("$7$", ("7", "integer")), ("0.50", ("0.50", "float")), (".5", (".5", "float")), ("-2.0", ("-2.0", "float")),
    ("\\frac{1}{2}", ("\\frac{1}{2}", "expression")), ("2/3", ("2/3", "expression")), ("x=3", ("x=3", "named")),
    ("25\\%", ("25\\%", "quantity")), ("2\\pi", ("2\\pi", "expression")),
    ("$$3\\sqrt{2}$$", ("3\\sqrt{2}", "expression")),
    ("\\sin 30^\\circ", ("\\sin 30^\\circ", "expression")), ("(1, 2)", ("(1, 2)", "expression")),
    ("Rectangles", ("Rectangles", "text")), ("5 cm", ("5 cm", "quantity")), ("12:30", ("12:30", "ratio")),
    ("5\\text{ cm}", ("5\\text{ cm}", "quantity")), ("45°", ("45°", "quantity")),
    ("2020-01-01", ("2020-01-01", "text")),
    ("3√2", ("3√2", "expression")), ("√(x+1)", ("√(x+1)", "expression")), ("2√3 cm", ("2√3 cm", "quantity")),
    ("-2≤x<1", ("-2≤x<1", "expression")), ("≥3", ("≥3", "text")), ("√", ("√", "text")),
    ("12,34", ("12,34", "alternatives")), ("x", ("x", "expression")), ("红色", ("红色", "text")),
    ("<answer>5</answer>", ("5", "integer")), ("#### 12", ("12", "integer")), ("\\boxed{3}", ("3", "integer")),
    ("\\boxed{3}, \\boxed{4}", ("\\boxed{3}, \\boxed{4}", "blanks")), ("$$7$$ $$10$$", ("$$7$$ $$10$$", "blanks")),
    ("7 or 11", ("7 or 11", "alternatives")), ("2:3", ("2:3", "ratio")), ("(1, 2]", ("(1, 2]", "interval")),
    ("1.3.4.", ("1.3.4.", "statements")), ("①③", ("①③", "statements")), ("50%", ("50%", "quantity")),
    ("A", ("A", "choice")),
    ("Area $=4 \\mathrm{~cm}^{2}$", ("Area $=4 \\mathrm{~cm}^{2}$", "named")),
    ("4$\\sqrt{3}$", ("4$\\sqrt{3}$", "expression")),
    ("\\sum_{k=1}^{n} k^2", ("\\sum_{k=1}^{n} k^2", "expression")), ("1.5e3", ("1.5e3", "float")),
    ("2n+1.", ("2n+1.", "expression")),
])
def test_the_type_of_a_free_answer(text, expected):
    assert valued(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("\\boxed{3}", "3"), ("$\\boxed{3}$.", "3"), ("\\boxed {\\frac{1}{\\sqrt{2}}}", "\\frac{1}{\\sqrt{2}}"),
    ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"), ("3", "3"), ("no box", "no box"),
])
def test_boxes(text, expected):
    assert unboxed(text) == expected


def test_an_options_text_is_its_letter_only_where_there_are_options():
    question = "Which?\nA. left\nB. right"
    assert choice_or_value("right", question) == ("B", "choice", ("left", "right"))
    assert choice_or_value("$A$", question) == ("A", "choice", ("left", "right"))
    assert choice_or_value("C", question) == ("C", "choice", ())         # so these are not its options
    assert choice_or_value("7", question) == ("7", "integer", ())
    assert choice_or_value("right", "Which side?") == ("right", "text", ())


# --- marks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "numbers", "expected"), [
    ("<image>Find x.", (1,), "Find x."),
    ("Find x. <image>", (1,), "Find x."),
    ("In the figure <image 1>, AB = 3.", (1,), "In the figure, AB = 3."),
    ("What is in <image 1>?", (1,), "What is in the image?"),
    ("What does the <image1> show?", (1,), "What does the image show?"),
    ("As shown in <image_4>, x", (1,), "As shown in the image, x"),
    ("<image_4> See <image_4>.", (1,), "See the image."),
    ("No marks", (1, 2), "No marks"),
    ("<image><image> Which?", (1, 2), "Which?"),
    ("<image 1><image 2>Which?", (1, 2), "Which?"),
    ("Which? <image> <image>", (1, 2), "Which?"),
    ("First\n<image 1>\n<image 2>\nWhich?", (1, 2), "First\n\nWhich?"),
    ("Compare <image> and <image>.", (1, 2), "Compare image 1 and image 2."),
    ("<image 2> differs from <image 1> how?", (1, 2), "image 2 differs from image 1 how?"),
    ("Compare <image 1> with <image 4>.", (1, 4), "Compare image 1 with image 2."),
    ("Compare <image_3> with <image_7>.", (1, 2), "Compare image 1 with image 2."),
    ("Only <image 2> counts.", (1, 2, 3), "Only image 2 counts."),
    ("Compare <image 2> with <image 5>.", (1,), "Compare image 2 with image 5."),       # one picture shows both
    ("<image1>\nWhich follows?\n<image2>", (1,), "Which follows?"),
])
def test_marks_become_words_or_go(text, numbers, expected):
    assert fields.worded(text, numbers) == expected


@pytest.mark.parametrize(("text", "numbers", "message"), [
    ("<image>Find x.", (), "more image placeholders than images"),
    ("<image> <image>", (1,), "more image placeholders than images"),
    ("<image 1> <image 2> <image 3>", (1, 2), "more image placeholders than images"),
    ("<image 1> and <image>", (1,), "more image placeholders than images"),
    ("<image 1> and <image 2>", (), "more image placeholders than images"),
    ("Only <image 5> counts.", (1, 2), "names an image that the row lacks"),
])
def test_marks_that_do_not_fit_the_pictures(text, numbers, message):
    assert message in failure(fields.worded, text, numbers)


def test_a_text_of_marks_alone_takes_no_time():
    """Twenty thousand marks, or labels, are read in time that grows with the text and not with its square."""
    started = time.perf_counter()
    assert fields.worded("<image 1> x " * 20_000, (1, 2)).startswith("image 1 x image 1 x")
    assert options_in("A. " * 20_000) == options_in("(A)" * 20_000) == ()
    assert time.perf_counter() - started < 5


def test_options_that_are_pictures():
    assert fields.naming("<image 4>", (1, 4)) == "image 2"
    assert fields.naming("left of <image>", (1,)) == "left of image 1"
    assert fields.naming("<image 3>", None) == "image 3"
    assert fields.naming("<image 2>", (1,)) == "image 2" and fields.naming("<image 8>", (1, 2)) == "image 8"
    for text, numbers in (("<image>", (1, 2)), ("<image 1>", ()), ("<image 2>", (1, 4))):
        assert "an option names an image that the row lacks" in failure(fields.naming, text, numbers)


def test_a_question_of_marks_alone_is_in_the_picture():
    assert fields.question("<image1>", (1,)) == fields.question("<image>\n<image>", (1, 2)) == fields.READ_THE_PICTURE


def test_no_picture_in_its_several_forms():
    for value in (None, "", " ", [], [None, ""], {"bytes": None, "path": None}, {"bytes": None, "path": ""}):
        assert fields.pictures({"image": value}, "image") == ()
    assert fields.pictures({"image": ["a.png", ""]}, "image") == ("a.png",)


def test_problems_keep_their_place(root):
    row, place = next(public.rows(root, "papo-virl39k", "train"))
    moved = ADAPTERS["papo-virl39k"].problem(row, dataclasses.replace(place, number=31207))
    assert moved.problem_id == "papo-virl39k/31207"
    assert place == Place("train", Table(split="train"), 1)


def test_the_page_says_what_the_cards_say():
    """docs/datasets.md has a row for each card."""
    page = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text()
    for name, module in ADAPTERS.items():
        card = module.CARD
        splits = ", ".join(f"{split} {part.rows:,}" if part.rows else split for split, part in card.splits.items())
        if name == "dynamath":
            splits = "variant1 … variant10 501 each, all 5,010"
        assert f"\n| `{name}` | {card.hub} | {splits} | {card.license} | {card.purpose} |\n" in page, name
