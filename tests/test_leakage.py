"""The leak check: what must be refused, and what must pass although it looks alike."""

import time

import pytest

from ptdpo_cli.hints.leakage import find_leak

QUESTION = "Add up the digits in the top row."

LEAKS = [
    # hint, answer, words of the reason, the span it is found at, options
    ("", "7", "empty", ""),
    (" \n ", "7", "empty", ""),
    ("Look left. " * 200, "7", "longer than", None),
    ("Look at the top, look at the top, look at the top, look at the top.", "7", "repeats", None),
    ("very very very very small", "7", "repeats", "very very very very"),
    ("Look " + "!" * 30, "7", "repeats", "!" * 16),
    # the answer as a number
    ("Count until you have 7.", "7", "contains the answer", "7"),
    ("Count until you have seven.", "7", "contains the answer", "seven"),
    ("SEVEN cells matter.", "7", "contains the answer", "SEVEN"),
    ("There are 7cm left.", "7", "contains the answer", "7"),
    ("Think of $7$ first.", "7", "contains the answer", "7"),
    ("Go 07 steps.", "7", "contains the answer", "07"),
    ("About 7.0 units.", "7", "contains the answer", "7.0"),
    ("Go to −7 on the axis.", "-7", "contains the answer", "7"),
    ("It lies near minus seven.", "-7", "contains the answer", "seven"),
    ("Expect twelve dots.", "12", "contains the answer", "twelve"),
    ("Expect twenty-one dots.", "21", "contains the answer", "twenty-one"),
    ("Expect twenty one dots.", "21", "contains the answer", "twenty one"),
    ("Expect two hundred and seven dots.", "207", "contains the answer", "two hundred and seven"),
    ("Try two three times.", "3", "contains the answer", "three"),
    ("Expect two thousand three hundred.", "2300", "contains the answer", "two thousand three hundred"),
    ("About 1,234 people.", "1234", "contains the answer", "1,234"),
    ("About 1234 people.", "1,234", "contains the answer", "1234"),
    ("One half is shaded.", "1/2", "contains the answer", "One half"),
    ("Three quarters are shaded.", "0.75", "contains the answer", "Three quarters"),
    (r"Shade \frac{3}{4} of it.", "3/4", "contains the answer", r"\frac{3}{4}"),
    ("Shade 6/8 of it.", r"\frac{3}{4}", "contains the answer", "6/8"),
    ("Shade 50% of it.", "1/2", "contains the answer", "50%"),
    ("Shade 50 percent of it.", "50", "contains the answer", "50 percent"),
    ("It is 12 long.", "12 cm", "contains the answer", "12"),
    ("It is 12 long.", "x = 12", "contains the answer", "12"),
    ("Try 4 for the second.", "3, 4", "contains the answer", "4"),
    ("Try four for it.", "x = 3 or x = 4", "contains the answer", "four"),
    ("There is only one cell.", "1", "contains the answer", "one"),
    # the answer as text
    ("Look for the Red   Triangle.", "red triangle", "contains the answer", "Red   Triangle"),
    (r"Look for the \text{red} $triangle$.", r"\text{red triangle}", "contains the answer", r"red} $triangle"),
    (r"Use 2 \pi here.", r"2\pi", "contains the answer", r"2 \pi"),
    # choices
    ("Option B fits.", "B", "names the option", "Option B"),
    ("It must be (B).", "B", "names the option", "(B)"),
    ("Compare with B carefully.", "(B)", "names the option", "B"),
    ("I would pick A).", "A", "names the option", "A)"),
    ("Choose option A here.", "A", "names the option", "option A"),
    ("Look for the square.", "B", "contains the answer", "square", {"choices": ("circle", "square")}),
    ("Take choice B now.", "square", "names the option", "choice B", {"choices": ("circle", "square")}),
    ("It has 12 dots.", "B", "contains the answer", "12", {"choices": ("10", "12")}),
    # verdicts
    ("Yes, the lines meet.", "yes", "verdict", "Yes"),
    ("No, the lines are apart.", "no", "verdict", "No"),
    ("Is it so? Yes!", "No", "verdict", "Yes"),
    ("That is true here.", "True", "verdict", "true"),
    # results and solution phrases
    ("Add 3+4=7 first.", "12", "states a result", "=7"),
    ("Then x = 5 follows.", "12", "states a result", "= 5"),
    ("The first two give nine.", "12", "states a result", "give nine"),
    ("The sum is nine.", "12", "states a result", "sum is nine"),
    ("They add up to 9.", "12", "states a result", "add up to 9"),
    ("Here 3+4=7.", "7", "states a result", "=7", {"question": "Is the length 7 or 8?"}),
    ("It comes out as 4.", "4", "states a result", "comes out as 4", {"question": "Add the four corners."}),
    ("The answer is obvious.", "12", "announces", "answer is"),
    ("Final answer: see above.", "12", "announces", "Final answer"),
    (r"Write \boxed{x}.", "12", "announces", r"\boxed"),
    ("We get a dozen.", "12", "announces", "We get"),
    ("First find 9 then go on.", "12", "intermediate", "9", {"steps_results": ("9",)}),
    ("First find nine then go on.", "12", "intermediate", "nine", {"steps_results": ("9",)}),
]

INNOCENT = [
    ("Look only at top left, top, top right. Read each digit, then add them.", "12"),
    ("Look only at top-left, left, center. Read each digit, then add them.", "3"),
    ("Compare the two cells on the left.", "12"),
    ("Read the first row, then the second, then the 3rd.", "1"),
    ("The second and the third column matter, not the 7th.", "7"),
    ("Read one of the cells in the row.", "1"),
    ("Read each one, one by one, from the top one to the other one.", "1"),
    ("Go through them one at a time; no one is hidden behind another one.", "1"),
    ("Add all of them.", "12"),
    ("Use the 7 cells of the row.", "7", {"question": "What do the 7 cells add up to?"}),
    ("Use the seven cells of the row.", "7", {"question": "What do the 7 cells add up to?"}),
    ("Since x = 5, follow the line.", "12", {"question": "If x = 5, what is y?"}),
    ("Ignore cell x7 and figure_7.", "7"),
    ("Read 17 and 70 and 7.5 and 1,007 as distractors.", "7"),
    ("A line from the corner helps. I mean the long one.", "A"),
    ("Look at the angle at B.", "B", {"question": "In the triangle, which angle at B is larger? (A) left (B) right"}),
    ("Compare the circle with its neighbour.", "B", {"choices": ("circle", "square")}),
    ("There is no other cell of that colour, so no need to look further.", "no"),
    ("Look at the squares' sides.", "square"),
    ("The infrared part matters.", "red"),
    ("Half of the picture is empty; the left half matters.", "12"),
    ("Go left, then left again, then left.", "12"),
    ("The hint holds no number at all", "red"),
    ("Follow the path, follow its arrows, follow its end.", "12"),
    ("There are three circles; compare them.", "12"),
    ("What is asked is a length, so measure it.", "12"),
]


@pytest.mark.parametrize("case", LEAKS, ids=lambda case: f"{case[0][:40]}|{case[1]}")
def test_a_leak_is_found_with_its_reason_and_place(case):
    hint, answer, reason, where, *options = case
    leak = find_leak(hint, answer, **({"question": QUESTION} | (options[0] if options else {})))
    assert leak is not None and reason in leak.reason
    assert where is None or hint[slice(*leak.span)] == where


@pytest.mark.parametrize("case", INNOCENT, ids=lambda case: f"{case[0][:40]}|{case[1]}")
def test_an_innocent_hint_passes(case):
    hint, answer, *options = case
    assert find_leak(hint, answer, **({"question": QUESTION} | (options[0] if options else {}))) is None


def test_the_length_limit_is_exact():
    words = " ".join(f"w{i:06d}" for i in range(300))
    assert find_leak(words[:2048], "12") is None
    assert find_leak(words[:2049], "12").span == (2048, 2049)


@pytest.mark.parametrize("unit", ["1", "1,", "one ", "one hundred ", "= ", "\\", "${", "a", "1/", "{\\text{", "and "])
def test_hostile_hints_take_little_time(unit):
    hint = (unit * 2048)[:2048]
    start = time.perf_counter()
    for answer in ("12", "red triangle", "B", "no", "one two three, four; five"):
        find_leak(hint, answer, question=hint, choices=("red", hint), steps_results=(hint, "9"))
    assert time.perf_counter() - start < 2
