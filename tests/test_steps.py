"""Steps from solutions: what they must say, what they must never say, on solutions of many kinds written by hand."""

import json
import random
import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from command import TINY, done, jsonl, png, refused
from ptdpo_cli.artifacts.schemas import ROLLOUTS, Problem
from ptdpo_cli.artifacts.store import Artifact, Writer
from ptdpo_cli.datasets import digit_grid
from ptdpo_cli.hints.clauses import clauses_of, is_english, undress
from ptdpo_cli.hints.leakage import find_leak
from ptdpo_cli.hints.steps import draft_from_steps, steps_from_text
from ptdpo_cli.stages.step_hints import right_rollouts

CASES = [json.loads(line) for line in (Path(__file__).parent / "hints" / "solutions.jsonl").read_text().splitlines()]
IMPERATIVES = re.compile(
    "Add|Apply|Calculate|Check|Combine|Compare|Compute|Connect|Count|Divide|Draw|Evaluate|Examine|Express|Factor|Find"
    "|Follow|Identify|Locate|Look|Measure|Multiply|Read|Recall|Set|Solve|Split|Substitute|Subtract|Use|Write"
)
WHOLE_WORD = r"(?<![\w.]){}(?!\w)"


def steps_of(case: dict) -> tuple[str, ...]:
    return draft_from_steps(problem_of(case), read="solution").steps


def problem_of(case: dict, **changes) -> Problem:
    fields = {"solution": case["solution"], "choices": tuple(case["choices"])} | changes
    return Problem("p", case["question"], (), case["answer"], **fields)


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case['kind']}" for i, case in enumerate(CASES)])
def test_a_solution_written_by_hand(case):
    draft = draft_from_steps(problem_of(case), read="solution")
    text = " ".join(draft.steps)
    assert not [words for words in case["must"] if words.lower() not in text.lower()], draft
    assert not [words for words in case["must_not"] if re.search(WHOLE_WORD.format(re.escape(words)), text)], draft
    if case.get("fault"):
        assert draft.steps == () and draft.fault
        return
    assert 2 <= len(draft.steps) <= 6 and not draft.fault
    assert find_leak(text, case["answer"], question=case["question"], choices=case["choices"]) is None
    for step in draft.steps:
        assert IMPERATIVES.fullmatch(step.split()[0]) and step.endswith(".") and len(step.split()) <= 25, step
        assert find_leak(step, case["answer"], question=case["question"], choices=case["choices"]) is None
        assert not re.search(r"[\\${}□=]\s*$|[\\{}□]", step), step
        for number in re.findall(r"\d+", re.sub(r"angle \d|_\w+", "", step)):
            assert number in re.findall(r"\d+", case["question"]), step


def test_there_are_enough_of_them():
    assert len(CASES) >= 60 and len({case["kind"] for case in CASES}) >= 10


@pytest.mark.parametrize(("solution", "step"), [
    ("The triangle's area is 12.", "Find the triangle's area."),
    ("x = 18 - 7 = 11.", "Find x from the difference of 18 and 7."),
    ("y = 28 - 5 = 23.", "Find y from a difference."),
    ("Using the Pythagorean theorem, AC = sqrt(9+16) = 5.", "Use the Pythagorean theorem to find AC."),
    (r"By the Pythagorean theorem, $AC = \sqrt{AB^2+BC^2} = 5$.", "Use the Pythagorean theorem to find AC."),
    ("The bar for 2010 is 40.", "Read the bar for 2010."),
    ("There is a 3 in the top row.", "Read what is in the top row."),
    ("In the top row is 3, which makes 11.", "Read what is in the top row."),
    ("The top bar shows 3, and now the total is 11.", "Read the top bar."),
    ("I read 3 at the left end.", "Read what is at the left end."),
    ("The number 7 stands under the bridge.", "Read what is under the bridge."),
    ("There are 5 red cells in the picture.", "Count the red cells in the picture."),
    ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.", "Find how many clips Natalia sold in May."),
    ("Tom has 9 apples left.", "Find how many apples Tom has left."),
    ("The mean is found by adding all values and dividing by their number.",
     "Find the mean by adding all values and dividing by their number."),
    ("We first need to count the shaded cells, which gives 31.", "Count the shaded cells."),
    ("Adding both areas gives 40.", "Add both areas."),
    (r"Since $AB \parallel CD$, $\angle A = \angle C$.", "Use that AB ∥ CD."),
    (r"$\angle A + \angle B + \angle C = 180^\circ$.", "Use the sum of angle A, angle B and angle C."),
    ("3y + 4 = 19.", "Set up an equation for y."),
    ("From the graph, the speed is 20 m/s.", "Read the speed from the graph."),
    ("Car B has a speed of 15 m/s.", "Find the speed of car B."),
    (r"The area of the circle is $\pi r^2$, so the formula is $A = \pi r^2$.", "Use A = π r²."),
    ("- **Identify the legend:** it has 4 colours", "Identify the legend."),
    ("Step 2: Compare the two slices.", "Compare the two slices."),
])
def test_what_came_out_becomes_what_to_do(solution, step):
    """With a last computation behind it, which is dropped."""
    text = f"{solution}\nRead the label of the door.\nSo the total is 99."
    found = steps_from_text(text, answer="99", question="What is the total of 18, 7 and the bar for 2010?")
    assert step in found and "Read the label of the door." in found


@pytest.mark.parametrize("clause", [
    "It is 12.", "This gives us a nice picture.", "3 + 4 = 7", "Hmm, wait.", "The correct option is B.", "So 5.",
    r"\unknownmacro{x} = 5", "The animal is a whale.", "Is it a cat?", "I think the area is 5.",
])
def test_in_doubt_a_clause_is_left_out(clause):
    assert steps_from_text(f"{clause}\nRead the label of the door.\nThe total is 99.", answer="99") == (
        "Read the label of the door.",
    )


def test_the_last_computation_goes_and_its_means_stay():
    text = "Find the legs.\nUsing the Pythagorean theorem, AC = 13."
    assert steps_from_text(text, answer="13") == ("Find the legs.", "Use the Pythagorean theorem.")


def test_where_the_verdict_is_asked_for_nothing_is_asserted():
    text = "Check whether f(-x) equals f(x).\nCompute f(-x).\nSince f(-x) = f(x), f is even.\nThe answer is yes."
    assert steps_from_text(text, answer="yes", question="Is f even?") == (
        "Check whether f(-x) equals f(x).", "Compute f(-x).", "Check whether f(-x) = f(x).",
    )
    parallel = "Draw the diagonal.\nSince AB and CD are parallel, the figure is a square.\nIt is true."
    assert "Check whether AB and CD are parallel." in steps_from_text(parallel, answer="true")
    assert "Use that AB and CD are parallel." in steps_from_text(parallel, answer="4")


def test_what_the_leak_check_finds_is_left_out():
    text = "Read the label of the door.\nCompare shape B with the pattern.\nCount the dots.\nFour of them are red."
    assert steps_from_text(text, answer="B") == ("Read the label of the door.", "Count the dots.")
    assert len(steps_from_text(text, answer="D")) == 3
    repeated = "Count the red red red red red dots.\nRead the label of the door.\nFour of them are red."
    assert steps_from_text(repeated, answer="D") == ("Read the label of the door.",)


def test_readings_of_one_form_go_together():
    """One reading happens to equal the answer: left out alone it would stand out, and evidence would be missing."""
    readings = "\n".join(f"The bar for {name} is {value}." for name, value in (("May", 4), ("June", 6), ("July", 8)))
    found = steps_from_text(f"{readings}\nThe mean is 18/3 = 6.", answer="6")
    assert found == ("Read the bar for May.", "Read the bar for June.", "Read the bar for July.")
    named = "Compare the slices.\nThe slice for Peru is 7.\nThe slice for Chile is 9.\nSo Chile has the larger slice."
    assert steps_from_text(named, answer="Chile") == ("Compare the slices.",)


def test_at_most_as_many_steps_as_asked_for():
    text = "\n".join(f"The bar for {name} is {i + 40}." for i, name in enumerate("ABCDEFGHIJ")) + "\nThe sum is 99."
    for most in (2, 3, 6):
        found = steps_from_text(text, answer="99", max_steps=most)
        assert 2 <= len(found) <= most
    assert "Read the bar for A, then the bar for B." in steps_from_text(text, answer="99", max_steps=6)


def test_steps_of_digit_grid_name_the_cells_in_order():
    for problem in digit_grid.load("train", count=200):
        steps = draft_from_steps(problem, read="solution").steps
        assert steps == (f"Read {', '.join(region.label for region in problem.regions)}.", "Add them.")


def test_readings_in_sentences_are_no_list():
    told = "The left bar shows 3. The middle bar shows 8, and now the total is 11. The right bar is 2, so it is 13."
    steps = steps_from_text(f"{told} The answer is 13.", answer="13", question="Add up the bars.")
    assert steps == ("Read the left bar.", "Read the middle bar.", "Find the total.", "Read the right bar.")


def test_which_text_is_read():
    case = next(case for case in CASES if case["kind"] == "chart")
    own = ("Do this.", "Do that 5.")
    rollout = "<think>The bar for May is 4. The bar for June is 34. The difference is 30.</think>\\boxed{30}"
    of_rollout = ("Read the bar for May.", "Read the bar for June.")
    both = problem_of(case, steps=own)
    assert draft_from_steps(both).steps == draft_from_steps(both, read="steps").steps == own      # as they are
    assert draft_from_steps(both, read="solution").steps == steps_of(case)
    assert draft_from_steps(both, read="rollouts", rollout=rollout).steps == of_rollout
    bare = problem_of(case, solution=None)
    assert draft_from_steps(bare, rollout=rollout).steps == of_rollout
    assert draft_from_steps(problem_of(case, solution="x = 7"), rollout=rollout).steps == of_rollout
    faults = {draft_from_steps(bare, read=read).fault for read in ("auto", "steps", "solution", "rollouts")}
    assert len(faults) == 4 and all(faults)


def test_another_language_is_a_fault():
    texts = {
        False: ("求三角形的面积，因为底是6，高是4。", "Площадь треугольника равна двенадцати.",
                "La base del triángulo es 6 y la altura es 4.", "Der Winkel bei A ist 50 Grad und der bei B ist 60.",
                "On calcule la longueur de la base et on ajoute les deux côtés."),
        True: (r"$x^2 + y^2 = \pi r^2$", "x = 5", "The area is αβ.", "Weng earns 0.2 per minute.", ""),
    }
    for expected, many in texts.items():
        for text in many:
            assert is_english(text) == expected, text
    draft = draft_from_steps(Problem("p", "?", (), "12", solution=texts[False][0]), read="solution")
    assert "not in English" in draft.fault


@pytest.mark.parametrize(("latex", "plain"), [
    (r"$\frac{AB}{CD} = \sqrt{x+1}$", "AB/CD = √(x+1)"),
    (r"$\angle{ABC} = 40^{\circ}$", "angle ABC = 40°"),
    (r"\(\triangle ABC \cong \triangle DEF\)", "triangle ABC ≅ triangle DEF"),
    (r"$\text{Area} = \pi r^{2}$", "Area = π r²"),
    (r"$\overline{AB} \perp \overline{CD}$", "AB ⊥ CD"),
    ("In Rt△ABC", "In right triangle ABC"),
    ("sold <<48/2=24>>24 clips", "sold 24 clips"),
])
def test_dress_is_removed(latex, plain):
    assert " ".join(undress(latex).split()) == plain


def test_no_text_is_too_strange_and_none_takes_long():
    """Seeded noise, and texts at which a careless pattern would never end."""
    pieces = ["\\frac{", "}", "{", "$", "\\boxed{", "<think>", "</think>", "1,", "= ", "the area of ", " is ", "\n",
              "2x", "∠", "since ", ", ", "we have ", "\\angle ", "(", ")", "AB ", "and ", "<answer>", "So ", "12", ".",
              "²", "é"]
    rng = random.Random(7)
    for _ in range(300):
        text = "".join(rng.choices(pieces, k=rng.randrange(60)))
        answer = rng.choice(["12", "AB", "B", "", "x = 2", "1/0"])
        found = steps_from_text(text, answer=answer, question="the area of 2x", choices=("AB", "12"))
        assert len(found) <= 6, text
    start = time.perf_counter()
    for unit in (*pieces, "a ", "the ", "is 1 ", "a = ", "1 + ", "(1 ", "word1 ", "{{", "there are 1 "):
        clauses_of(unit * 5000)
        steps_from_text(unit * 5000, answer="12")
    assert time.perf_counter() - start < 20


# ---- right rollouts as a source --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """A run with rollouts of four problems of digit-grid."""
    run = tmp_path_factory.mktemp("sampled") / "run"
    return run, done("rollout", *TINY, "--run", run).path


def test_steps_of_the_shortest_right_rollout(sampled):
    run, path = sampled
    rows = Artifact.open(path).table("rollouts").to_pylist()
    right = [row for row in rows if row["accuracy"] == 1 and row["finish_reason"] == "stop"]
    assert right and len({row["problem_id"] for row in right}) < 40
    flags = ("--source", "steps", "--set", "hints.steps.read=rollouts", "--set", f"hints.steps.rollouts={path}")
    hints = done("build-hints", *TINY, "--run", run, *flags).path
    made = {row["problem_id"]: row for row in Artifact.open(hints).table("hints").to_pylist()}
    assert Artifact.open(hints).manifest.inputs["rollouts"] == Artifact.open(path).content_hash
    for problem_id, row in made.items():
        of_it = [one for one in right if one["problem_id"] == problem_id]
        if not of_it:
            assert row["hint"] is None and "no rollout of the problem is right" in row["fault"]
            continue
        shortest = min(of_it, key=lambda one: one["response_tokens"])["text"]
        cells = re.findall(r"((?:top|bottom|left|right|center)[a-z-]*) \d", shortest)
        assert row["steps"] == [f"Read {', '.join(cells)}.", "Add them."]


def test_of_right_rollouts_the_shortest_and_of_equals_the_first(tmp_path):
    rows = [("p", 1.0, "length", 2, "cut"), ("p", 0.0, "stop", 3, "wrong"), ("p", 1.0, "stop", 9, "long"),
            ("p", 1.0, "stop", 5, "short"), ("p", 1.0, "stop", 5, "as short"), ("q", 0.0, "stop", 1, "wrong")]
    names = ("problem_id", "accuracy", "finish_reason", "response_tokens", "text")
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=ROLLOUTS)
    tensors = {"offsets": np.zeros(7, np.int64), "token_ids": np.zeros(0, np.int32),
               "sampler_logprobs": np.zeros(0, np.float32), "sampler_top_ids": np.zeros((0, 0), np.int32)}
    with Writer(tmp_path, "rollouts", key="0" * 64, stage="rollout", section={}, inputs={}) as writer:
        writer.write_shard(0, tables={"rollouts": table.slice(0, 3)}, tensors={"rollouts": tensors}, counts={})
        writer.write_shard(1, tables={"rollouts": table.slice(3)}, tensors={"rollouts": tensors}, counts={})
        rollouts = writer.finish()
    assert right_rollouts(rollouts) == {"p": "short"}


def test_rollouts_that_are_not_there_or_of_other_problems(sampled, tmp_path):
    _, path = sampled
    reads = ("--source", "steps", "--set", "hints.steps.read=rollouts")
    refused(2, "build-hints", *TINY, "--run", tmp_path / "a", *reads, says=("hints.steps.rollouts=RUN/rollouts",))
    file = jsonl(tmp_path / "mine.jsonl", {"problem": "How many?", "answer": "7", "images": ["a.png"]})
    (tmp_path / "a.png").write_bytes(png())
    named = (*reads, "--set", f"hints.steps.rollouts={path}")
    refused(3, "build-hints", "--data", file, "--run", tmp_path / "b", *named, says=("of other problems",))
