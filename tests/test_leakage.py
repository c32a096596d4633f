"""The leak check: what must be refused, and what must pass although it looks alike."""

from __future__ import annotations

import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.hints.leakage import MAX_WORDS, Leak, find_flags, find_leak, leak_of
from ptdpo_cli.hints.numbers import is_same, numbers_in
from ptdpo_cli.hints.results import MAX_RESULTS, decisive_results

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


# --- the cases judged by hand -----------------------------------------------------------------------------------------


def judged_cases() -> list[tuple[str, str, Problem, str]]:
    """(verdict, hint, problem, note) of every line of tests/answers/hint_leaks.tsv."""
    cases = []
    for line in (Path(__file__).parent / "answers" / "hint_leaks.tsv").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            verdict, hint, answer, question, choices, solution, note = (
                cell.replace("⏎", "\n") for cell in line.split("\t")
            )
            texts = tuple(choices.split("|")) if choices else ()
            cases.append((verdict, hint, Problem("p", question, (), answer, choices=texts, solution=solution), note))
    return cases


def test_the_judged_cases():
    """At least 99 % of the leaks are caught, and at most 3 % of the innocents refused; the misses are printed.

    Today there are none. Who adds a case that the rules judge wrong, or a rule that costs one, writes its hint here.
    """
    known_misses: set[str] = set()
    refused, totals, misses = Counter(), Counter(), set()
    for verdict, hint, problem, note in judged_cases():
        leak = leak_of(hint, problem)
        totals[verdict] += 1
        refused[verdict] += leak is not None
        if (leak is not None) != (verdict == "leak"):
            reason = leak and (leak.reason, hint[slice(*leak.span)])
            misses |= {hint} if verdict != "beyond" else set()
            print(f"{verdict}: {hint!r} answer {problem.answer!r} ({note}): {reason}")
    print({verdict: f"{refused[verdict]} of {n} refused" for verdict, n in totals.items()})
    assert totals.keys() == {"leak", "ok", "beyond"}
    assert totals["leak"] + totals["ok"] >= 300 and min(totals["leak"], totals["ok"]) >= 120
    assert refused["leak"] >= 0.99 * totals["leak"]
    assert refused["ok"] <= 0.03 * totals["ok"]
    assert misses == known_misses


def test_every_case_stands_there_once_and_marks_what_the_hint_holds():
    cases = judged_cases()
    keys = Counter((hint, problem.question, problem.answer) for _, hint, problem, _ in cases)
    assert [key for key, n in keys.items() if n > 1] == []
    for verdict, hint, problem, _ in cases:
        if verdict == "leak" and (leak := leak_of(hint, problem)):
            start, end = leak.span
            assert 0 <= start < end <= len(hint) or (leak.reason == "the hint is empty" and (start, end) == (0, 0))


# --- numbers ----------------------------------------------------------------------------------------------------------

SAME = [
    ("12", "12.0 · 12.00 · 24/2 · 1.2e1 · 1.2 × 10^1 · 12 000/1000 · twelve · a dozen · XII · one dozen"),
    ("1/2", r"0.5 · ½ · 50 % · 50 per cent · \frac{1}{2} · \tfrac12 · one half · 3 out of 6 · 2/4 · 1 in 2"),
    ("2.5", r"2 1/2 · 2½ · 2\frac{1}{2} · two and a half · 5/2 · 2,5 · five halves · 2.50"),
    (r"3\sqrt{2}", "3√2 · 3 root 2 · three times the square root of two · 3*sqrt(2) · √18 · 4.24 · 4.243"),
    (r"36\pi", r"36π · 36 pi · 36\pi · 113.1 · 113.097"),
    (r"\frac{\sqrt{3}}{2}", r"√3/2 · 0.866 · \sqrt{3}/2"),
    ("12 cm", "0.12 m · 120 mm · 12cm · 12 centimetres · 12 centimeters"),
    ("90 minutes", "1.5 hours · an hour and a half · 1 h 30 min · 90 min"),
    ("240 cm^2", "240 cm² · 240 square centimetres · 0.024 m² · 0.024 square metres"),
    ("90 km/h", "25 m/s · 25 metres per second · 1.5 km/min · 90 kilometres an hour"),
    ("$18", "1800 cents · 18 dollars · $18.00"),
    ("1250000", "1.25 million · 1,250,000 · 1 250 000 · one and a quarter million"),
    ("207", "two hundred and seven · two hundred seven · 207.0"),
    ("120", "a hundred and twenty · 1.2e2 · 10 dozen"),
    ("18", "42 − 24 · 42 - 24 · 9 × 2 · multiply 9 by 2 · subtract 24 from 42"),
    ("36", "six squared · 6^2 · 6²"),
]
OTHER = [
    ("12", "12.5 · 1.2 · 120 · x12 · 12th · 3 · twelfth"),
    ("1/2", "the left half · upper half of it · 1.2 · a half-hearted"),
    ("3", "3D · 3rd · x^3 · a_3"),
    ("12 cm", "0.12 cm · 12.2 m"),
    ("0.333", "0.3 · 0.34"),
    ("1", "each one · one of them · the top one"),
]


@pytest.mark.parametrize("wanted, spellings", SAME, ids=[wanted for wanted, _ in SAME])
def test_spellings_of_one_number(wanted, spellings):
    (number, *_) = numbers_in(wanted)
    missed = [text for text in spellings.split(" · ") if not any(is_same(one, number) for one in numbers_in(text))]
    assert missed == []


@pytest.mark.parametrize("wanted, spellings", OTHER, ids=[wanted for wanted, _ in OTHER])
def test_what_only_looks_like_a_number(wanted, spellings):
    (number, *_) = numbers_in(wanted)
    assert [text for text in spellings.split(" · ") if any(is_same(one, number) for one in numbers_in(text))] == []


def test_a_number_knows_where_it_stands():
    text = "First 3 of the 4 parts, then 2 1/2 cm."
    assert [text[one.start : one.end] for one in numbers_in(text)] == ["3", "4", "3 of the 4", "2 1/2"]
    assert numbers_in(text)[2].values == {Fraction(3, 4)} and numbers_in(text)[3].unit.dimension == "length"


# --- results of a solution, flags -------------------------------------------------------------------------------------


def test_decisive_results_are_those_that_the_solution_finds():
    solution = "The angles sum to 180°. 50 + 60 = 110. So angle C = 180 - 110 = 70 degrees."
    assert decisive_results(solution, "Angle A is 50°, angle B is 60°.") == ("70 degrees", "110")
    assert decisive_results("The cards show 5, 8 and 9, so 5 + 8 + 9 = 22.") == ("22", "9", "8", "5")
    assert decisive_results("V = 1/3 · π · 3² · 4 = 12π.", "")[0] == "12π"
    weights = "It shows 650 g. 1 kg = 1000 g, and 1000 - 650 = 350 g."
    assert decisive_results(weights, "How much is missing to 1 kg?") == ("350 g", "650", "650 g")
    assert decisive_results("Cut it, then look left.") == decisive_results(None) == decisive_results("") == ()


def test_only_the_last_results_are_kept():
    found = decisive_results(" ".join(f"Step: = {n}." for n in range(1000, 1100)))
    assert found == tuple(str(n) for n in range(1099, 1099 - MAX_RESULTS, -1))


def test_flags():
    solution = "It has 12 rows of 31 seats and 44 more, so 12 × 31 + 44 = 416."
    assert find_flags("Look at the left side, then count every seat of one row.") == ()
    assert find_flags("Think about it.") == ("names no place", "shorter than 8 words")
    assert find_flags("See the top row: 12, 31 and 44 are what you need there.", "", solution) == (
        "shares three or more numbers with the solution",
    )
    assert find_flags("See the top row: 12, 31 and 44 are what you need there.", "12 rows?", solution) == ()
    assert find_flags("Look at the left side. " * 31) == ("longer than 150 words",)


def test_the_limit_of_words_is_exact():
    words = " ".join(f"w{i}" for i in range(MAX_WORDS))
    assert find_leak(words, "12") is None
    leak = find_leak(f"{words} more", "12")
    assert leak == Leak(f"the hint is longer than {MAX_WORDS} words", (len(words) + 1, len(words) + 5))


@pytest.mark.parametrize(
    "unit", ["1 ", "= 1 + ", "one half ", "9 × ", "is 3 and ", "\\frac{1}{2}", ". ", "√2 ", "1/0 ", "9" * 50]
)
def test_hostile_solutions_take_little_time(unit):
    solution = (unit * 20_000)[:20_000]
    start = time.process_time()
    results = decisive_results(solution, solution[:2000])
    find_leak("Look at the 17 cells there.", "12", question=solution[:5000], steps_results=results)
    find_flags("Look at the 17 cells there.", solution[:5000], solution)
    assert time.process_time() - start < 4


def test_a_hint_that_the_question_holds_is_one_that_the_student_reads():
    problem = Problem("p", "How many? Look at the left edge. Count the dots there.", (), "12")
    assert leak_of("Look at the left edge. Count the dots there.", problem).reason == "the question holds the hint"
    spatial = leak_of("Look at the left edge. Then add.", problem, spatial="Look at the left edge.")
    assert (spatial.reason, spatial.span) == ("the question holds the hint", (0, 22))
    assert leak_of("Look at the left edge. Then add.", problem) is None
    assert leak_of("Look at 12 dots.", problem).reason == "the hint contains the answer"
