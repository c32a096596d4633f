"""Outcomes, gold answers, terms of the reward, functions of the user, published rules."""

import random
import re
from pathlib import Path

import pytest
import yaml

from ptdpo_cli.artifacts.schemas import ANSWER_TYPES, OUTCOMES, Problem
from ptdpo_cli.errors import PtdpoError, UsageError
from ptdpo_cli.recipe import Overlong, Recipe, Repetition, RewardFunction
from ptdpo_cli.rewards import (
    Response,
    check_answer,
    check_answers,
    check_functions,
    extract,
    grade_all,
    published,
    verify,
    workers,
)
from ptdpo_cli.rewards.shaping import overlong_penalty, repetition_penalty
from ptdpo_cli.stages.doctor import grader
from ptdpo_cli.stages.grading import grade_by
from ptdpo_cli.stages.rollout import Rollout
from ptdpo_cli.stages.train import batch_metrics

ALL = ("boxed", "tag", "phrase", "letter")


def one(text: str, answer: str, answer_type: str = "text", *, truncated: bool = False, tokens: int = 0, **settings):
    names = ("choices", "precision", "source", "problem_id")
    given = {"problem_id": "p"} | {name: settings.pop(name) for name in names if name in settings}
    problem = Problem(question="q", images=(), answer=answer, answer_type=answer_type, **given)
    return grade_all([Response(problem, text, truncated, tokens)], **settings)[0]


# --- extraction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "ways", "expected"), [
    ("\\boxed{1} <answer>2</answer>", ("boxed", "tag"), ("1", "boxed")),
    ("\\boxed{1} <answer>2</answer>", ("tag", "boxed"), ("2", "tag")),
    ("The answer is 3. <answer>2</answer>", ("boxed", "phrase", "tag"), ("3", "phrase")),
    ("<ANSWER> 4 </ANSWER>", ("tag",), ("4", "tag")),
    ("<answer>4", ("tag",), None),
    ("</answer>4<answer>", ("tag",), None),
    ("The final answer is $\\boxed{5}$", ("phrase",), ("5", "phrase")),
    ("Final answer:\n\n**6**", ("phrase",), ("6", "phrase")),
    ("The answer to the question is 7.5 cm. Good.", ("phrase",), ("7.5 cm", "phrase")),
    ("answer = 8", ("phrase",), ("8", "phrase")),
    ("The answers differ.", ("phrase",), None),
    ("B", ("letter",), None),                                   # no choice was asked for
])
def test_ways_are_tried_in_their_order(text, ways, expected):
    assert extract(text, ways) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("B", "B"), ("(B)", "B"), ("B.", "B"), ("B)", "B"), ("**B**", "B"), ("Option B", "B"), ("Choice (B)", "B"),
    ("B: 12 cm", "B"), ("\\text{B}", "B"), ("b", "B"), ("So x = 4.\n\nB", "B"), ("B\nBecause x is 4.", "B"),
    ("So it must be (B), as said.", "B"), ("- B", "B"), ("J", "J"),
    ("A triangle has three sides", None), ("A", "A"), ("a triangle", None), ("I think so", None),
    ("A. 1\nB. 2\nC. 3", None), ("A. 1\nB. 2\nC. 3\n\nB", "B"), ("(A) or (B)", None), ("K", None), ("", None),
    ("Because", None), ("E", None),
])
def test_letters(text, expected):
    """Four options, except for J, of which no options are known."""
    choices = () if expected == "J" else ("w", "x", "y", "z")
    found = extract(text, ("letter",), choices=choices, answer_type="choice")
    assert (found and found[0]) == expected


# --- outcomes ---------------------------------------------------------------------------------------------------------


def test_outcomes_say_why():
    cases = {
        "right": one("\\boxed{yes}", "yes"),
        "wrong": one("\\boxed{no}", "yes"),
        "no_answer": one("It is so.", "yes", extraction=ALL),
        "truncated": one("\\boxed{yes}", "yes", truncated=True),
        "refused": one("I'm sorry, but I can't help with that.", "yes", extraction=ALL),
    }
    assert {name: grade.outcome for name, grade in cases.items()} == {name: name for name in cases}
    assert set(cases) < set(OUTCOMES)
    assert [grade.accuracy for grade in cases.values()] == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("text", [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I can’t assist with this request.",
    "I cannot answer this question.",
    "I cannot see the image.",
    "I am unable to view images.",
    "As an AI language model, I am not able to look at pictures.",
    "<think>A picture?</think>I can't see any picture here. Please provide the image.",
    "There seems to be a problem: no image was provided.",
    "抱歉，我无法查看图片。",
])
def test_refusals(text):
    assert one(text, "7", "integer", extraction=ALL).outcome == "refused"


@pytest.mark.parametrize("text", [
    "Sorry, let me compute again: 3 + 4.",
    "I can't find an error in this.",
    "We cannot divide by zero, so x is not 0.",
    "The triangle cannot be drawn.",
    "<think>I cannot see the image.</think>It is a cat",
    "It cannot be seen from the image.",
    "",
])
def test_innocents(text):
    assert one(text, "7", "integer", extraction=ALL).outcome == "no_answer"


def test_a_refusal_with_an_answer_is_an_answer():
    assert one("I cannot see the image well, but \\boxed{7}", "7", "integer").outcome == "right"


# --- gold answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "answer_type", "choices"), [
    ("", "text", ()), ("  ", "choice", ()), ("$", "expression", ()), ("nan", "float", ()), ("NaN", "integer", ()),
    ("nan", "choice", ()), ("12 cm", "integer", ()), ("B", "float", ()), ("7", "number", ()), (None, "text", ()),
    (7, "integer", ()), ("E", "choice", ("a", "b", "c", "d")), ("K", "choice", ()), ("AB", "choice", ()),
    ("40", "choice", ()), ("a cat", "choice", ("a cat", "a dog")), ("[]", "list", ()), ("{}", "set", ()),
    ("\\frac{1}{2", "expression", ()), ("1}", "expression", ()), ("(" * 40 + ")" * 40, "expression", ()),
    ("1" * 2000, "expression", ()),
])
def test_an_answer_that_nothing_equals_is_an_error(answer, answer_type, choices):
    with pytest.raises(UsageError):
        check_answer(answer, answer_type, choices)


def test_answers_that_math_verify_cannot_read_are_listed():
    fit = [Problem("a", "", (), "\\frac{1}{2}", answer_type="expression"), Problem("b", "", (), "7")]
    unfit = [
        Problem("c", "", (), "\\frac{1}{2", answer_type="expression"),
        Problem("d", "", (), "\\sqrt{}^{", answer_type="expression"),
        Problem("e", "", (), "===", answer_type="expression"),
        Problem("f", "", (), "?", answer_type="integer"),
    ]
    found = check_answers([*fit, *unfit])
    assert sorted(problem.problem_id for problem, _ in found) == ["c", "d", "e", "f"]
    assert all(isinstance(error, UsageError) and error.what and error.found for _, error in found)


def test_doctor_s_grader_knows_every_type():
    rows = [
        Problem("1", "", (), "B", answer_type="choice", choices=("3", "4", "5")),
        Problem("2", "", (), "A", answer_type="choice"),
        Problem("3", "", (), "12"),
        Problem("4", "", (), "3.14", answer_type="float", precision=2),
        Problem("5", "", (), "\\frac{\\sqrt{3}}{2}", answer_type="expression"),
        Problem("6", "", (), "[1, 2]", answer_type="list"),
        Problem("7", "", (), "A, C", answer_type="set"),
        Problem("8", "", (), "{1, 2}", answer_type="set"),
        Problem("9", "", (), "yes", answer_type="text"),
        Problem("10", "", (), "isosceles", answer_type="text"),
        Problem("11", "", (), "x = 5", answer_type="expression"),
        Problem("12", "", (), "4 \\text{ cm}^2", answer_type="quantity"),
        Problem("13", "", (), "AB = 5", answer_type="named"),
        Problem("14", "", (), "$2:3$", answer_type="ratio"),
        Problem("15", "", (), "(1, 2]", answer_type="interval"),
        Problem("16", "", (), "$7$ $10$", answer_type="blanks"),
        Problem("17", "", (), "7 or 11", answer_type="alternatives"),
        Problem("18", "", (), "①③", answer_type="statements"),
    ]
    assert {row.answer_type for row in rows} == set(ANSWER_TYPES)
    check = grader(rows)
    assert check.verdict == "ok", check.found


# --- the second check -------------------------------------------------------------------------------------------------


def test_the_second_check_by_hand():
    assert one("\\boxed{7}", "7", "integer").agreed is True            # the same text
    assert one("\\boxed{8}", "7", "integer").agreed is True            # both say wrong
    assert one("\\boxed{\\frac{14}{2}}", "7", "integer").agreed is True
    assert one("\\boxed{3+4}", "7", "integer").agreed is False         # a sum is no number to the exact rule
    assert one("\\boxed{3.14159}", "3.14", "float").agreed is True
    assert one("\\boxed{3.149}", "3.14", "float").agreed is True
    assert one("\\boxed{3.13}", "3.1", "float", precision=1).agreed is True
    assert one("no box", "7", "integer").agreed is None
    assert one("\\boxed{yes}", "yes").agreed is None


def test_the_second_check_sees_a_verifier_that_is_wrong(monkeypatch):
    """Planted: the exact rule takes everything for right."""
    monkeypatch.setattr("ptdpo_cli.rewards.grades.decide", lambda *_: True)
    wrong = one("\\boxed{8.25}", "7.25", "float")
    assert wrong.accuracy == 1 and wrong.agreed is False
    assert one("\\boxed{8}", "7", "integer").agreed is False


def test_agreement_and_time_outs_are_metrics():
    def rollout(outcome: str, agreed: bool | None) -> Rollout:
        return Rollout("p/0", "p", [0], None, None, 0.0, 0.0, "stop", outcome, agreed)

    metrics = batch_metrics([rollout("wrong", True), rollout("wrong", True), rollout("wrong", False),
                             rollout("timeout", None)])
    assert metrics["verifier/agreement"] == pytest.approx(2 / 3) and metrics["outcome/timeout"] == 0.25
    plain = batch_metrics([rollout("wrong", None), rollout("right", None)])
    assert "verifier/agreement" not in plain and "outcome/timeout" not in plain


def test_numbers_against_an_independent_rule():
    """Random decimals and fractions, against Python's own exact arithmetic on what was typed."""
    from fractions import Fraction

    rng = random.Random(0)
    right = 0
    for _ in range(2000):
        a, b, scale = rng.randint(-300, 300), rng.randint(1, 12), rng.choice([1, 10, 100])
        value = Fraction(a, scale)
        said = rng.choice([value, value, value + Fraction(1, 100 * b)])
        form = rng.choice(["frac", "ratio", "decimal"])
        if form == "decimal" and 1000 % said.denominator:
            form = "ratio"
        n, d = abs(said.numerator), said.denominator
        sign = "-" if said < 0 else ""
        text = {"frac": f"{sign}\\frac{{{n}}}{{{d}}}", "ratio": f"{sign}{n}/{d}",
                "decimal": f"{sign}{n * (1000 // d if 1000 % d == 0 else 1) / 1000:.3f}"}[form]
        expected = said == value
        right += expected
        assert verify(text, f"{a}/{scale}", "float") == expected, (text, a, scale)
    assert 0 < right < 2000


# --- terms ------------------------------------------------------------------------------------------------------------


def test_overlong_by_hand():
    """DAPO, eq. 13, with L_max = 20480 and L_cache = 4096, and a small one."""
    values = {0: 0.0, 16384: 0.0, 18432: -0.5, 20480: -1.0, 30000: -1.0}
    assert {n: overlong_penalty(n, max_tokens=20480, buffer_tokens=4096) for n in values} == values
    assert overlong_penalty(85, max_tokens=100, buffer_tokens=20) == -0.25


def test_repetition_by_hand():
    assert repetition_penalty("a b a b a", ngram=2) == -0.5
    assert repetition_penalty("a b c d", ngram=2) == 0.0
    assert repetition_penalty("a a a a a", ngram=1) == pytest.approx(-0.8)
    assert repetition_penalty("A b  a\nB", ngram=2) == pytest.approx(-1 / 3)      # ab, ba, ab
    assert repetition_penalty("a", ngram=4) == 0.0 and repetition_penalty("", ngram=4) == 0.0


def test_the_reward_is_the_weighted_sum():
    """0.9 · 1 + 0.1 · 1 + 2 · (−0.5) + 0.4 · (−0.5) = −0.2"""
    text = "a b a b a</think>\\boxed{7}"
    grade = one(text, "7", "integer", tokens=90, overlong=Overlong(weight=2.0, max_tokens=100, buffer_tokens=20),
                repetition=Repetition(weight=0.4, ngram=2))
    # words: a b a b a</think>\boxed{7}: ab ba ab b(a…): one of four repeats
    assert grade.terms == {"overlong": -0.5, "repetition": -0.25}
    assert grade.reward == pytest.approx(0.9 + 0.1 - 1.0 - 0.1)
    assert one(text, "7", "integer").reward == 1.0 and one(text, "7", "integer").terms == {}


def test_a_recipe_s_terms_count_in_a_rollout_and_not_in_an_evaluation():
    reward = Recipe.model_validate({"reward": {"overlong": {"buffer_tokens": 10}}}).reward
    response = Response(Problem("p", "", (), "7"), "</think>\\boxed{7}", False, 45)
    (rolled,) = grade_by(reward, [response], extraction=("boxed",), max_new_tokens=50)
    assert rolled.terms == {"overlong": -0.5} and rolled.reward == 0.5
    (evaluated,) = grade_by(reward, [response], extraction=("boxed",))
    assert evaluated.terms == {} and evaluated.reward == 1.0


FUNCTIONS = """
def brevity(response: str, problem: dict) -> float:
    return -len(response) / 100

def sees(response, problem):
    expected = {"problem_id": "q1", "question": "How many?", "answer": "7", "answer_type": "integer",
                "choices": [], "category": "counting", "source": "mine", "metadata": {"level": 3},
                "extracted": "7", "accuracy": 1.0, "tokens": 12}
    assert problem == expected, problem
    return True

def raises(response, problem): return 1 / (response != "bad")
def infinite(response, problem): return float("inf")
def text(response, problem): return "1"
def hangs(response, problem):
    while response == "bad": pass
    return 0.0
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    workers.close_all()     # those of another test have its folder's module
    return lambda *names: [RewardFunction(function=f"my_rewards:{name}", weight=0.5) for name in names]


def test_functions_of_the_user_see_the_problem_and_add_to_the_reward(functions):
    problem = Problem("q1", "How many?", (b"picture",), "7", category="counting", source="mine", metadata={"level": 3})
    text = "</think>\\boxed{7}"
    (grade,) = grade_all([Response(problem, text, False, 12)], functions=functions("brevity", "sees"))
    assert grade.terms == {"my_rewards:brevity": -len(text) / 100, "my_rewards:sees": 1.0}
    assert grade.reward == pytest.approx(1.0 + 0.5 * (1.0 - len(text) / 100))


@pytest.mark.parametrize(("name", "found"), [
    ("raises", "ZeroDivisionError"), ("infinite", "inf"), ("text", "'1'"), ("hangs", None),
])
def test_what_a_function_does_wrong_names_it_and_the_row(functions, name, found):
    problems = [Problem("q1", "", (), "7"), Problem("q1", "", (), "7"), Problem("q2", "", (), "7")]
    texts = ["good", "bad", "good"] if name in ("raises", "hangs") else ["bad"]
    responses = [Response(problem, text, False, 1) for problem, text in zip(problems, texts, strict=False)]
    with pytest.raises(PtdpoError) as raised:
        grade_all(responses, functions=functions(name), time_limit_s=1.0)
    assert raised.value.exit_code == 1
    assert f"my_rewards:{name}" in raised.value.what and ("q1/1" if len(texts) > 1 else "q1/0") in raised.value.what
    assert found is None or found in raised.value.found


@pytest.mark.parametrize("name", ["brevity", "my_rewards:", ":brevity", "my_rewards:no_such", "nowhere:f", "a b:c"])
def test_a_function_that_is_not_there_is_found_before_work_starts(functions, name):
    with pytest.raises(UsageError):
        check_functions([name])
    check_functions(["my_rewards:brevity"])
    check_functions([])


# --- published rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "answer_type", "choices", "precision", "answer", "text", "expected"), [
    # MathVista: the letter's option, else the nearest one, noise or not; numbers rounded
    ("mathvista", "choice", ("red", "blue"), None, "B", "\\boxed{B}", 1.0),
    ("mathvista", "choice", ("red", "blue"), None, "B", "\\boxed{A}", 0.0),
    ("mathvista", "choice", ("red", "blue"), None, "B", "\\boxed{bluish}", 1.0),
    ("mathvista", "choice", ("red", "blue"), None, "A", "\\boxed{xyz}", 1.0),
    ("mathvista", "integer", (), None, "7", "\\boxed{7.9}", 1.0),
    ("mathvista", "float", (), 1, "5.2", "The answer is 5.18", 1.0),
    ("mathvista", "float", (), 1, "5.2", "The answer is 5.3", 0.0),
    ("mathvista", "list", (), None, "[1, 2]", "\\boxed{[1, 2]}", 1.0),
    ("mathvista", "list", (), None, "[1, 2]", "\\boxed{1, 2}", 0.0),
    # MathVision: letter or option, free values by algebra
    ("mathvision", "choice", ("3", "4", "5"), None, "C", "\\boxed{5}", 1.0),
    ("mathvision", "choice", ("3", "4", "5"), None, "C", "\\boxed{(c)}", 1.0),
    ("mathvision", "choice", ("3", "4", "5"), None, "C", "\\boxed{4}", 0.0),
    ("mathvision", "expression", (), None, "2\\sqrt{2}", "\\boxed{\\sqrt{8}}", 1.0),
    # MMMU: last bracketed letter; the reference inside the key part
    ("mmmu", "choice", ("x", "y", "z"), None, "C", "Not (A). It is (C).", 1.0),
    ("mmmu", "choice", ("x", "y", "z"), None, "A", "A cat is here", 1.0),
    ("mmmu", "choice", ("x", "y", "z"), None, "B", "nothing named", 0.0),
    ("mmmu", "text", (), None, "mitochondrion", "So the answer is the mitochondrion of the cell", 1.0),
    ("mmmu", "text", (), None, "no", "The answer is north", 1.0),
    ("mmmu", "float", (), None, "8.06", "V is 8.061 V", 1.0),
    ("mmmu", "float", (), None, "8.06", "V is 8.1 V", 0.0),
    # MMMU-Pro: first the one letter behind the last "Answer:", wherever it stands there; then MMMU's
    ("mmmu-pro", "choice", tuple("abcdefghij"), None, "J", "\\boxed{J}", 1.0),
    ("mmmu-pro", "choice", tuple("abcdefghij"), None, "J", "It is not (A).\nAnswer: J", 1.0),
    ("mmmu", "choice", tuple("abcdefghij"), None, "J", "It is not (A).\nAnswer: J", 0.0),
    ("mmmu-pro", "choice", tuple("abcdefghij"), None, "J", "Answer: J\nNo. Answer: **$C$**", 0.0),
    ("mmmu-pro", "choice", tuple("abcdefghij"), None, "C", "Answer: J\nNo. Answer: **$C$**", 1.0),
    ("mmmu-pro", "choice", tuple("abcdefghij"), None, "E", "Answer: Everything", 1.0),
    ("mmmu-pro", "choice", tuple("abcdefghij"), None, "C", "Of all (C). Answer: A or B", 1.0),
    ("mmmu-pro", "choice", tuple("abcdefghij"), None, "B", "Answer: A or B ", 1.0),
    ("mmmu-pro", "choice", tuple("xyz"), None, "C", "I take (C). Answer: D", 1.0),
    ("mmmu-pro", "choice", tuple("xyz"), None, "B", "\\boxed{C} Answer: B", 1.0),
    ("mmmu-pro", "choice", tuple("xyz"), None, "C", "\\boxed{C} Answer: none", 1.0),
    ("mmmu-pro", "choice", tuple("xyz"), None, "A", "Answer: none", 0.0),
    ("mmmu-pro", "choice", tuple("xyz"), None, "C", "<think>Answer: B</think>(C)", 1.0),
    ("mmmu-pro", "choice", tuple("xyz"), None, "B", "<think>Answer: B</think>It is this one.", 0.0),
    ("mmmu-pro", "choice", tuple("xyz"), None, "C", "Cats", 0.0),
    ("mmmu-pro", "choice", tuple("xyz"), None, "B", "answer: b", 0.0),
    # LogicVista: sets of letters
    ("logicvista", "set", (), None, "A, C", "\\boxed{CA}", 1.0),
    ("logicvista", "set", (), None, "A, C", "\\boxed{A}", 0.0),
    # DynaMath: 0.001, π, containment
    ("dynamath", "float", (), 3, "3.142", "\\boxed{3.1428}", 1.0),
    ("dynamath", "float", (), 3, "3.142", "\\boxed{3.144}", 0.0),
    ("dynamath", "float", (), 3, "6.283", "\\boxed{2π}", 1.0),
    ("dynamath", "choice", (), None, "B", "\\boxed{(B)}", 1.0),
    ("dynamath", "text", (), None, "even", "\\boxed{e}", 1.0),
    ("dynamath", "text", (), None, "even", "\\boxed{odd}", 0.0),
    # MMStar: how the response begins
    ("mmstar", "choice", (), None, "A", "The answer is A, clearly", 1.0),
    ("mmstar", "choice", (), None, "A", "All of them", 1.0),
    ("mmstar", "choice", (), None, "A", "Clearly A", 0.0),
    # HallusionBench: yes or no, not both
    ("hallusionbench", "text", (), None, "yes", "Yes, it is.", 1.0),
    ("hallusionbench", "text", (), None, "yes", "Yes, there is no doubt", 0.0),
    ("hallusionbench", "text", (), None, "0", "\\boxed{no}", 1.0),
    # We-Math, mathruler
    ("we-math", "choice", (), None, "B", "<Thought>..\n<Answer>: B. 12", 1.0),
    ("we-math", "choice", (), None, "B", "<Answer>: C", 0.0),
    ("geometry3k", "expression", (), None, "2 \\sqrt { 3 }", "\\boxed{2\\sqrt{3}}", 1.0),
    ("papo-virl39k", "float", (), None, "0.5", "\\boxed{1/2}", 1.0),
    ("papo-mmk12", "choice", (), None, "D", "<think>\\boxed{D}", 1.0),
    ("mmk12", "choice", (), None, "D", "The answer is D", 0.0),
    # none
    ("mathverse", "choice", (), None, "D", "\\boxed{D}", None),
    ("my-file.jsonl", "integer", (), None, "7", "\\boxed{7}", None),
])
def test_published_rules(source, answer_type, choices, precision, answer, text, expected):
    problem = Problem("p", "", (), answer, answer_type=answer_type, choices=choices, precision=precision, source=source)
    assert published([(text, problem)]) == [expected]


def test_the_published_verdict_stands_beside_the_accuracy():
    grade = one("\\boxed{bluish}", "B", "choice", choices=("red", "blue"), source="mathvista", by_published=True)
    assert (grade.accuracy, grade.published) == (0.0, 1.0)
    assert one("\\boxed{bluish}", "B", "choice", choices=("red", "blue"), source="mathvista").published is None


def test_published_rules_ask_for_all_algebra_at_once(monkeypatch):
    def of(answer: str, source: str = "geometry3k") -> Problem:
        return Problem("p", "", (), answer, answer_type="expression", source=source)

    batches, ask = [], workers.ask
    monkeypatch.setattr(workers, "ask", lambda tasks, **limits: batches.append(len(tasks)) or ask(tasks, **limits))
    said = [("\\boxed{(x+1)(x-1)}", of("x^2-1")), ("\\boxed{x^2}", of("x^2-1")), ("\\boxed{7}", of("7")),
            ("\\boxed{7}", of("7", "elsewhere")), ("\\boxed{\\sqrt{8}}", of("2\\sqrt{2}"))]
    assert published(said) == [1.0, 0.0, 1.0, None, 1.0]
    assert batches == [3]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text()
    code, settings = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)[1] for kind in ("python", "yaml"))
    (tmp_path / "my_rewards.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    workers.close_all()
    reward = Recipe.model_validate(yaml.safe_load(settings)).reward
    response = Response(Problem("p", "", (), "7"), "x" * 983 + "</think>\\boxed{7}", False, 45)
    (grade,) = grade_by(reward, [response], extraction=("boxed",), max_new_tokens=50)
    assert grade.terms == {"my_rewards:brevity": -0.5} and grade.reward == pytest.approx(0.9)


def test_the_page_names_every_type_and_outcome():
    page = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text()
    assert all(f"| `{name}` |" in page for name in (*ANSWER_TYPES, *OUTCOMES, *ALL))
