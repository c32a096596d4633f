"""The metrics that the authors of benchmarks publish, against values worked out by hand."""

import json

import pytest

import public
from ptdpo_cli.datasets import (
    dynamath,
    hallusionbench,
    logicvista,
    mathverse,
    mathvision,
    mathvista,
    mmmu,
    mmstar,
    we_math,
)
from ptdpo_cli.datasets.catalog import ADAPTERS


def verdicts(rows, accuracy):
    """Rows of an evaluation: problems with a verdict each."""
    return [{"problem_id": p.problem_id, "family": p.family, "category": p.category, "metadata": p.metadata,
             "accuracy": value} for p, value in zip(rows, accuracy, strict=True)]


def composite(id_, steps, whole):
    """The rows of one We-Math problem: verdicts on its steps, and on the whole."""
    verdict = {str(k): value for k, value in enumerate(steps, 1)} | {"multi": whole}
    return [{"family": f"we-math/{len(steps)}steps/{id_}", "metadata": {"steps": len(steps), "step": step},
             "accuracy": value} for step, value in verdict.items()]


WE_MATH = [
    *composite(1, (1, 1), 1),           # CM both ways
    *composite(2, (1, 0), 1),           # RM strict, CM loose
    *composite(3, (0, 0), 1),           # RM both ways
    *composite(4, (1, 1), 0),           # IG
    *composite(1, (1, 0, 1), 1),        # RM strict, CM loose; another problem than the first
    *composite(2, (1, 1, 1), 0),        # IG
    *composite(3, (0, 1, 1), 0),        # IK
    *composite(4, (1, 1, 1), 1),        # CM both ways
]


def test_we_math():
    """Eight composites. Strict: CM 2, RM 3, IG 2, IK 1; loose: CM 4, RM 1, IG 2, IK 1.

    Score strict = (8 − 0.5·2 − 3 − 1) / 8 = 3/8; loose = (8 − 1 − 1 − 1) / 8 = 5/8. RM rate strict = 3/5, loose = 1/5.
    One-step accuracy: 5 of 8 two-step steps and 10 of 12 three-step steps are right, 15/20. Wholes: 3/4 and 2/4.
    """
    scores = we_math.scores(WE_MATH)
    assert scores["strict"] == {
        "Score": 3 / 8, "CM": 2, "RM": 3, "IG": 2, "IK": 1,
        "CM rate": 2 / 8, "RM rate": 3 / 5, "IG rate": 2 / 8, "IK rate": 1 / 8}
    assert scores["loose"] == {
        "Score": 5 / 8, "CM": 4, "RM": 1, "IG": 2, "IK": 1,
        "CM rate": 4 / 8, "RM rate": 1 / 5, "IG rate": 2 / 8, "IK rate": 1 / 8}
    assert scores["accuracy"] == {"one-step": 15 / 20, "two-step": 3 / 4, "three-step": 2 / 4}
    assert (scores["composites"], scores["incomplete"]) == (8, 0)


def test_we_math_in_any_order_and_with_missing_rows():
    """Without its second step, and with an unjudged whole, two of the eight are incomplete; the order is no matter.

    Left of strict: CM 1 (the fourth of three steps), RM 2 (the second and third of two), IG 2, IK 1;
    Score = (6 − 0.5·2 − 2 − 1) / 6 = 2/6.
    """
    rows = []
    for row in WE_MATH:
        match row["family"], row["metadata"]["step"]:
            case "we-math/2steps/1", "2":
                continue
            case "we-math/3steps/1", "multi":
                row = row | {"accuracy": None}
        rows.append(row)
    scores = we_math.scores(rows[::-1])
    assert (scores["composites"], scores["incomplete"]) == (6, 2)
    assert [scores["strict"][name] for name in ("CM", "RM", "IG", "IK")] == [1, 2, 2, 1]
    assert scores["strict"]["Score"] == 2 / 6


def test_we_math_of_a_sample_has_no_score():
    """Steps alone are no composites: every rate would be a share of nothing."""
    scores = we_math.scores([row for row in WE_MATH if row["metadata"]["step"] == "1"])
    assert (scores["composites"], scores["incomplete"]) == (0, 8)
    assert scores["strict"]["Score"] is None and scores["loose"]["RM rate"] is None
    assert scores["accuracy"] == {"one-step": 6 / 8, "two-step": None, "three-step": None}


def variants(question, right, subject="algebra", level="high school", count=10):
    return [{"family": f"dynamath/{question}", "accuracy": float(k < right),
             "metadata": {"variant": f"variant{k + 1}", "subject": subject, "knowledge_level": level}}
            for k in range(count)]


def test_dynamath():
    """Three questions with 10, 9 and 5 of their ten variants right: average 24/30, worst case 1/3, robustness 5/12."""
    rows = variants(1, 10) + variants(2, 9) + variants(3, 5, "statistics", "undergraduate")
    scores = dynamath.scores(rows)
    assert scores["average"] == pytest.approx(24 / 30) and scores["worst case"] == pytest.approx(1 / 3)
    assert scores["reasoning robustness"] == pytest.approx((1 / 3) / (24 / 30)) == pytest.approx(5 / 12)
    assert scores["average by subject"] == {"algebra": pytest.approx(19 / 20), "statistics": 0.5}
    assert scores["worst case by subject"] == {"algebra": 0.5, "statistics": 0.0}
    assert scores["worst case by level"] == {"high school": 0.5, "undergraduate": 0.0}
    assert (scores["questions"], scores["incomplete"]) == (3, 0)


def test_dynamath_counts_questions_that_lack_a_variant():
    """Of nine variants, or of ten with one unjudged, the worst is not known; one variant alone has no worst case."""
    rows = variants(1, 10) + variants(2, 9, count=9) + variants(3, 10)
    rows[-1] = rows[-1] | {"accuracy": None}
    scores = dynamath.scores(rows)
    assert (scores["worst case"], scores["questions"], scores["incomplete"]) == (1.0, 1, 2)
    alone = dynamath.scores(variants(1, 1, count=1))
    assert (alone["average"], alone["worst case"], alone["reasoning robustness"]) == (1.0, None, None)
    assert dynamath.scores(variants(1, 0))["reasoning robustness"] is None       # 0 / 0


def asked(category, part, set_, figure, question, accuracy):
    names = ("category", "subcategory", "set_id", "figure_id", "question_id")
    return {"metadata": dict(zip(names, (category, part, set_, figure, question), strict=True)), "accuracy": accuracy,
            "family": f"hallusionbench/{category}/{part}/{set_}", "category": category}


HALLUSION = [
    asked("VD", "ocr", "0", "0", "0", 1), asked("VD", "ocr", "0", "0", "1", 1),
    asked("VD", "ocr", "0", "1", "0", 1), asked("VD", "ocr", "0", "1", "1", 0),
    asked("VS", "ocr", "0", "0", "0", 0),           # no figure: in no fAcc
    asked("VS", "ocr", "0", "1", "0", 1),
    asked("VS", "chart", "0", "1", "0", 1), asked("VS", "chart", "0", "1", "1", 1),
]


def test_hallusionbench():
    """Eight questions, 6 right: aAcc 6/8.

    Figures: VD ocr 0/0 right, 0/1 wrong; VS ocr 0/1 right; VS chart 0/1 right; VS ocr 0/0 is none: fAcc 3/4.
    Question pairs: VD ocr 0/0 right (both figures), 0/1 wrong; VS ocr 0/0 wrong (the one without a figure);
    VS chart 0/0 right, 0/1 right: qAcc 3/5. Without the category in the keys qAcc would be 2/4.
    """
    scores = hallusionbench.scores(HALLUSION)
    assert scores["all"] == {"aAcc": 6 / 8, "fAcc": 3 / 4, "qAcc": 3 / 5}
    assert scores["VD"] == {"aAcc": 3 / 4, "fAcc": 1 / 2, "qAcc": 1 / 2}
    assert scores["VS"] == {"aAcc": 3 / 4, "fAcc": 1.0, "qAcc": 2 / 3}
    assert scores["VS ocr"] == {"aAcc": 1 / 2, "fAcc": 1.0, "qAcc": 0.0}
    assert list(scores) == ["all", "VD", "VS", "VD ocr", "VS ocr", "VS chart"]


def test_hallusionbench_leaves_out_what_is_unjudged():
    """The wrong answer of VD ocr 0/1 unjudged: aAcc 6/7; that figure and that pair are out: fAcc 3/3, qAcc 3/4."""
    rows = [row | {"accuracy": None} if k == 3 else row for k, row in enumerate(HALLUSION)]
    assert hallusionbench.scores(rows)["all"] == {"aAcc": 6 / 7, "fAcc": 1.0, "qAcc": 3 / 4}


def test_mathvista(tmp_path):
    """Six rows of which 1, 2, 4 and 6 are right; geometry has rows 1, 3, 5, 6, arithmetic row 4, algebra row 1."""
    public.write_mirror(tmp_path, "mathvista")
    rows = [mathvista.problem(*row) for row in public.rows(tmp_path, "mathvista", "testmini")]
    scores = mathvista.scores(verdicts(rows, [1, 1, 0, 1, 0, 1]))
    assert scores["average"] == pytest.approx(4 / 6)
    assert scores["skills"] == {"algebraic reasoning": 1.0, "arithmetic reasoning": 1.0, "geometry reasoning": 0.5,
                                "statistical reasoning": 1.0}
    assert scores["category"] == {"general-vqa": 1.0, "math-targeted-vqa": pytest.approx(3 / 5)}
    assert scores["question_type"] == {"free_form": 0.5, "multi_choice": 1.0}
    assert scores["answer_type"] == {"float": 1.0, "integer": 0.0, "list": 0.0, "text": 1.0}
    assert scores["task"] == {"geometry problem solving": pytest.approx(4 / 6)}
    assert list(scores) == ["average", "question_type", "answer_type", "language", "source", "category", "task",
                            "context", "grade", "skills"]


def test_mathverse(tmp_path):
    """Seven rows; Text Dominant has rows 1 (right) and 6 (wrong), Vision Only rows 5 (wrong) and 7 (unjudged)."""
    public.write_mirror(tmp_path, "mathverse")
    rows = public.problems(tmp_path, "mathverse", "testmini")[:7]
    scores = mathverse.scores(verdicts(rows, [1, 1, 0, 1, 0, 0, None]))
    assert scores["average"] == 3 / 6
    assert scores["problem_version"] == {"Text Dominant": 0.5, "Text Lite": 1.0, "Vision Dominant": 1.0,
                                         "Vision Intensive": 0.0, "Vision Only": 0.0}
    assert scores["subfield"] == {"Angle": 3 / 5, "Length": 0.0}


def test_by_subject(tmp_path):
    """MATH-Vision by level, MMMU by discipline, LogicVista by skill: a row with two skills counts for both."""
    def scored(module, split, accuracy):
        name = module.CARD.name
        public.write_mirror(tmp_path, name)
        return module.scores(verdicts(public.problems(tmp_path, name, split)[:len(accuracy)], accuracy))

    assert scored(mathvision, "test", [1, 0, 1, 0, 1])["level"] == {"1": 1.0, "2": 0.0, "4": 1.0, "5": 0.0}
    assert scored(mmmu, "validation", [1, 0, 1, 1, 0])["discipline"] == {
        "Art & Design": 0.0, "Business": 1.0, "Science": 0.5, "Tech & Engineering": 1.0}
    assert scored(logicvista, "test", [1, 1, 0, 1, 0]) == {
        "Overall": 3 / 5, "inductive": 1.0, "deductive": 1.0, "numerical": 0.0, "spatial": 0.5, "mechanical": 0.0}


def test_mmstar_is_a_mean_over_capabilities():
    """Math has 1 of 3 right, coarse perception 1 of 1: the mean over the two is 2/3, over the rows 2/4."""
    rows = [{"metadata": {"category": c, "l2_category": part}, "accuracy": a} for c, part, a in (
        ("math", "geometry", 1), ("math", "geometry", 0), ("math", "numeric", 0), ("coarse perception", "topic", 1))]
    scores = mmstar.scores(rows)
    assert scores["average"] == pytest.approx(2 / 3) and scores["accuracy"] == 0.5
    assert scores["l2_category"] == {"geometry": 0.5, "numeric": 0.0, "topic": 1.0}


@pytest.mark.parametrize("name", [name for name, module in ADAPTERS.items() if hasattr(module, "scores")])
def test_of_rows_without_verdicts_there_is_no_score(tmp_path, name):
    """Unjudged rows leave None, never a number and never an error; JSON can hold it all."""
    public.write_mirror(tmp_path, name)
    module = ADAPTERS[name]
    rows = public.problems(tmp_path, name, module.CARD.test)
    scores = module.scores(verdicts(rows, [None] * len(rows)))

    def numbers(value):
        return [n for part in value.values() for n in numbers(part)] if isinstance(value, dict) else [value]

    assert not [n for n in numbers(scores) if isinstance(n, float)]
    json.dumps(scores, allow_nan=False)
