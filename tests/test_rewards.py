"""Answer extraction, verification and the format reward: the spellings a model really writes, and hostile ones."""

import random
import re
import time

import pytest

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets.answers import valued
from ptdpo_cli.errors import UsageError
from ptdpo_cli.rewards import Grade, Response, extract_boxed, format_reward, grade, grade_all, verify
from ptdpo_cli.rewards.extract import WAYS, extract


@pytest.mark.parametrize(("text", "expected"), [
    (r"\boxed{7}", "7"),
    (r"<think>7 + 5</think>\boxed{12}", "12"),
    (r"7 + 5</think>So \boxed{ 12 }.", "12"),                           # <think> stood in the prompt
    (r"<think>\boxed{3}</think>\boxed{4}", "4"),
    (r"<think>\boxed{3}</think>none", None),                            # a box in the thought is no answer
    (r"<think>\boxed{3}", None),                                        # truncated thought
    (r"a</think>\boxed{1}<think>\boxed{2}", None),                      # a second thought, truncated
    (r"a</think>\boxed{1}</think>\boxed{2}", "2"),
    (r"\boxed{1} no, \boxed{2}", "2"),                                  # the last one counts
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{a\}b}", r"a\}b"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\boxed {5}", "5"),
    (r"\boxed{5", None),                                                # truncated box
    (r"\boxed{1} then \boxed{2", None),
    (r"\boxed{}", ""),
    ("12", None),
    ("", None),
])
def test_extract_boxed(text, expected):
    assert extract_boxed(text) == expected


@pytest.mark.parametrize(("extracted", "answer", "answer_type"), [
    ("7", "7", "integer"), ("07", "7", "integer"), ("7", "07", "integer"), (" 7 ", "7", "integer"),
    ("7.", "7", "integer"), ("7.0", "7", "integer"), ("3", "3.0", "integer"), ("$7$", "7", "integer"),
    (r"\(7\)", "7", "integer"),
    ("+7", "7", "integer"), ("1,234", "1234", "integer"), ("1{,}234", "1234", "integer"), ("1 234", "1234", "integer"),
    ("-3", "-3", "integer"), ("−3", "-3", "integer"), ("–3", "−3", "integer"), (r"\text{7}", "7", "integer"),
    (r"60^\circ", "60", "integer"), ("60°", "60", "integer"), (r"25\%", "25", "integer"), ("-0", "0", "integer"),
    ("6/2", "3", "integer"), ("{7}", "7", "integer"), ("1234567", "1,234,567", "integer"),
    ("3.14159", "3.14", "float"), ("3.14", "3.14", "float"), ("2", "2.0", "float"), (r"\frac{1}{4}", "0.25", "float"),
    (".5", "0.5", "float"), ("1e3", "1000", "float"), ("-0.333", "-0.33", "float"), ("1/3", "1/3", "float"),
    ("2,500", "2.5e3", "float"), (r"\dfrac{2}{4}", "1/2", "float"),
    ("B", "b", "text"), ("(B)", "B", "text"), ("B.", "B", "text"), (r"\text{Top left}", "top  left", "text"),
    ("Yes", "yes", "text"), ("4.0", "4", "text"), ("{4}", "4", "text"), (r"2\pi", r"2 \pi", "text"),
])
def test_verify_accepts(extracted, answer, answer_type):
    assert verify(extracted, answer, answer_type)


@pytest.mark.parametrize(("extracted", "answer", "answer_type"), [
    (None, "7", "integer"), ("", "7", "integer"), ("8", "7", "integer"), ("-7", "7", "integer"), ("70", "7", "integer"),
    ("7 or 8", "7", "integer"), ("3+4", "7", "integer"), ("7.01", "7", "integer"), ("1,23", "123", "integer"),
    ("7/0", "7", "integer"), ("0x7", "7", "integer"), ("٧", "7", "integer"), ("seven", "7", "integer"),
    ("1_0", "10", "integer"), ("1 2", "12", "integer"), ("1\n2", "12", "integer"),
    (".", "0", "integer"), ("-", "0", "integer"), ("e5", "0", "integer"), ("nan", "0", "float"), ("inf", "1", "float"),
    ("3.1", "3.14", "float"), ("3.145", "3.14", "float"), ("3.4", "3", "float"), ("2600", "2.5e3", "float"),
    ("A", "B", "text"), ("AB", "B", "text"), ("top left corner", "top left", "text"), ("5", "4", "text"),
    ("", "a", "text"), ("1, 2", "12", "text"),
    ("__import__('os').getcwd()", "7", "integer"),
])
def test_verify_rejects(extracted, answer, answer_type):
    assert not verify(extracted, answer, answer_type)


def test_an_unfit_answer_is_an_error_and_not_a_wrong_response():
    unfit = (("", "text"), ("  ", "integer"), ("$", "text"), ("12 cm", "integer"), ("B", "float"), ("7", "number"))
    for answer, answer_type in unfit:
        with pytest.raises(UsageError):
            verify("7", answer, answer_type)
        with pytest.raises(UsageError):
            grade("no box", answer, truncated=False, answer_type=answer_type)


def test_the_format_reward_equals_the_regular_expression():
    pattern = re.compile(r".*</think>.*\\boxed\{.*\}.*", re.DOTALL)
    pieces = ["</think>", "<think>", "\\boxed{", "}", "{", " ", "\n", "<", "/", ">", "think", "7", "< / think >"]
    rng = random.Random(0)
    seen = set()
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 9)))
        expected = float(bool(pattern.fullmatch(re.sub(r"\s*(<|>|/)\s*", r"\1", text))))
        assert format_reward(text) == expected, text
        seen.add(expected)
    assert seen == {0.0, 1.0}


@pytest.mark.parametrize(("text", "expected"), [
    ("<think>a</think>\\boxed{7}", 1.0),
    ("a\n</think>\n\nSo\n\\boxed{7}\n", 1.0),
    ("< / think > \\boxed{}", 1.0),
    ("\\boxed{7}</think>", 0.0),
    ("<think>\\boxed{7}", 0.0),
    ("</think>7", 0.0),
    ("</think>\\boxed{7", 0.0),
    ("", 0.0),
])
def test_format_reward(text, expected):
    assert format_reward(text) == expected


ANSWERS = {
    "choice": "A", "set": "A, C", "list": "1, 2", "integer": "7", "float": "7.5", "expression": "x", "text": "no",
    "quantity": "5 cm", "named": "AB = 5", "ratio": "2:3", "interval": "(0, 1]", "blanks": "7; 10",
    "alternatives": "7 or 11", "statements": "①③",
}


@pytest.mark.parametrize("unit", [
    "\\boxed{", "\\boxed{}", "</think>",
    " ", "\n", "{", "}", "9", "9 ", "1,000", "\\", "\\text{", "<", "$", "(", "/", ".",
    "<answer>", "</answer>", "answer is ", "the answer ", "answer: ", "A", "A ", "A, ", "(A) ", "A.\n", "**", "and ",
    ", ", "[", "=", "x = ", "\\pm ", "cm", " cm", "I can't ", "as an AI ", "答案", "\\(", "yes ", "-", "\\frac",
    "\\text{", "\\frac{", "there are ", "there are 5 ", "Therefore ", "A. ", "(1)", "①", "is A. ", "\\begin{cases}",
    "1:",
    "cm ", "5 cm. ", "\\sin ", "x^", "|", "'", "\\overline{", "\\]", "]", "(A) x\n", "answer of ", "the answer, ",
    "\\\\",
    "$1$ ", '"answer": "', "<b>", "<sup>", "≈", "of ", "is ", "A or B ", "√(", "five ", "a. b! ", "not ", "；",
])
def test_hostile_text_takes_linear_time(unit):
    text = unit * (200_000 // len(unit))
    start = time.perf_counter()
    grade("</think>" + text, "7", truncated=False)
    grade("</think>\\boxed{" + text + "}", "7", truncated=False, answer_type="float")
    grade("</think>\\boxed{" + text, "seven", truncated=False, answer_type="text")
    text = text[:40_000]
    at_once = [f"\\boxed{{{text}}}", f"<answer>{text}</answer>", f"\\boxed{{{text[:1900]}}}", text[:390]]
    in_prose = [text, f"the answer is {text}", f"{text}\nSo it is 5"]
    for answer_type, answer in ANSWERS.items():
        choices = ("5 cm", "yes", "none of these", "5") if answer_type == "choice" else ()
        problem = Problem("p", "", (), answer, answer_type=answer_type, choices=choices)
        said = at_once + in_prose if answer_type in ("choice", "set", "integer", "expression") else at_once
        grade_all([Response(problem, one, False, 0) for one in said], extraction=WAYS, time_limit_s=0.5)
    assert time.perf_counter() - start < 4      # quadratic time would be far more


def test_a_response_of_a_megabyte_is_read_in_seconds():
    rng = random.Random(0)
    pieces = ["\\boxed{", "}", "the answer is ", "B. ", "Therefore, ", "5 cm", "$x$", "\n", " and ", "<answer>", "1, 2"]
    text = "".join(rng.choices(pieces, k=200_000))[:1_000_000]
    start = time.perf_counter()
    for answer_type, answer in ANSWERS.items():
        grade_all([Response(Problem("p", "", (), answer, answer_type=answer_type), text, False, 0)], extraction=WAYS)
    assert len(text) > 900_000 and time.perf_counter() - start < 30


@pytest.mark.parametrize("text", [
    "1" * 100_000, "x+" * 50_000 + "x", "the line rises " * 7000, "7; " * 33_000, "(1) x " * 16_000, "\\frac{" * 16_000,
    "#### x" + " " * 100_000 + "x", "#### x" + "\n" * 100_000 + "x", "{" * 1000 + "1", "\\boxed{" * 500, "$" * 999,
    "\\frac{1}{2", "(" * 1500,
    "\\begin{cases} x=1", "\\left( 1", "\\text{cm", "\x00", "7\x00", "5\x07cm", "\x1b[31m7", "\u202e7", "7\ud7ff",
    "\r\n", "}{", "\\",
])
def test_a_hostile_reference_is_read_or_refused_in_an_instant(text):
    """100,000 characters, open braces, control characters: an answer as text or a UsageError, never a crash."""
    start = time.perf_counter()
    for answer_type in ANSWERS:
        try:
            assert not verify("41", text, answer_type)
        except UsageError as error:
            assert error.found and len(str(error)) < 5000
    try:
        answer, answer_type = valued(text)
        assert not verify("41", answer, answer_type)
    except UsageError:
        pass
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("ways", [("boxed", "letter"), ("letter", "boxed"), ("bare", "boxed"), ("phrase", "boxed")])
def test_a_correction_leaves_a_box_alone_in_any_order_of_the_ways(ways):
    assert extract("\\boxed{B} Wait, no, that is wrong.", ways, answer_type="expression") == ("B", "boxed")
    assert extract("It is B. Wait, no, that is wrong.", (ways[0],), answer_type="choice") is None


def test_options_that_repeat():
    twice = ("5 cm", "7 cm", "5 cm", "9 cm")
    assert verify("A", "A", "choice", twice) and not verify("C", "A", "choice", twice)
    assert verify("5 cm", "A", "choice", twice) and verify("5 cm", "C", "choice", twice)
    assert not verify("7 cm", "A", "choice", twice) and not verify("B", "A", "choice", twice)
    assert not verify("A. 7 cm", "A", "choice", twice) and verify("C. 5 cm", "C", "choice", twice)
    assert all(verify("x", letter, "choice", ("x",) * 4 + ("y",)) == (letter != "E") for letter in "ABCDE")


def test_grade_by_hand():
    boxed = {"extracted_by": "boxed", "agreed": True}
    assert grade("a</think>\\boxed{7}", "7", truncated=False) == Grade("7", 1.0, 1.0, 1.0, outcome="right", **boxed)
    assert grade("\\boxed{7}", "7", truncated=False) == Grade("7", 1.0, 0.0, 0.9, outcome="right", **boxed)
    assert grade("a</think>\\boxed{8}", "7", truncated=False) == Grade("8", 0.0, 1.0, 0.1, outcome="wrong", **boxed)
    assert grade("a", "7", truncated=False) == Grade(None, 0.0, 0.0, 0.0, outcome="no_answer")
    weighted = grade("a</think>\\boxed{7}", "7", truncated=False, accuracy_weight=0.5, format_weight=0.25)
    assert weighted.reward == 0.75


def test_a_truncated_response_has_given_no_answer():
    assert grade("a</think>\\boxed{7} and", "7", truncated=True) == Grade(
        None, 0.0, 1.0, 0.1, outcome="truncated"
    )
