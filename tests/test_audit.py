"""hints audit: from hints to rates, worked out by hand; the probe against a reference that is made to say things."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from command import TINY, done, jsonl, png, refused
from ptdpo_cli.artifacts.schemas import Hint, Problem
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.engines import Sample
from ptdpo_cli.hints.leakage import leak_of
from ptdpo_cli.stages.audit import Audited, against_chance, ask_reference, audit, marked, render_audit, summarise
from ptdpo_cli.stages.build_hints import checked
from ptdpo_cli.stages.workspace import Workspace


def one(problem_id: str, text: str | None, answer: str = "7", *, was_refused: bool = False, **more) -> Audited:
    hint = Hint(problem_id, None if was_refused else text, source=more.pop("source", "regions+steps"),
                role=more.pop("role", "hint"), refused=text if was_refused else None)
    problem = Problem(problem_id, more.pop("question", "How many?"), (), answer, **more)
    return Audited(hint, problem, text, leak_of(text, problem))


def shown(result: dict, width: int = 80) -> str:
    out = io.StringIO()
    render_audit(result, Console(file=out, width=width, highlight=False))
    return out.getvalue()


# --- rates ------------------------------------------------------------------------------------------------------------

AUDITED = [
    one("a", "Look at the left side and count every cell of it."),
    one("b", "Look at the left side, there are seven cells."),
    one("c", "Look at the top: 7 cells.", was_refused=True),
    one("d", "The answer is obvious from the left side.", was_refused=True),
    one("e", "Look at the right side and count every cell of it.", was_refused=True),
    one("f", "The answer is 7.", role="revealing", source="answer"),
    one("g", "Think.", role="control", source="generic"),
]
ROWS = [entry.hint for entry in AUDITED] + [Hint("h", None, fault="the data set has no steps")]


def test_rates_worked_out_by_hand():
    found = summarise(ROWS, AUDITED)
    assert (found["problems"], found["audited"], found["refused"]) == (8, 6, 4)     # f is meant to reveal, h has none
    assert (found["refused_now"], found["passed_now"]) == (2, 1)                    # b and g; e
    assert [(row["reason"], row["hints"], row["share"]) for row in found["reasons"]] == [
        ("the hint contains the answer", 2, pytest.approx(2 / 6)),
        ("the hint announces a solution", 1, pytest.approx(1 / 6)),
        ("the hint says nothing", 1, pytest.approx(1 / 6)),
    ]
    assert found["reasons"][0]["example"] == {"problem_id": "b", "text": AUDITED[1].text, "span": [33, 38]}
    assert [(row["name"], row["hints"], row["leaks"]) for row in found["sources"]] == [
        ("regions+steps", 5, 3), ("answer", 1, 1), ("generic", 1, 1),
    ]
    assert [(row["name"], row["leaks"], row["share"]) for row in found["roles"]] == [
        ("hint", 3, 3 / 5), ("revealing", 1, 1.0), ("control", 1, 1.0),
    ]
    assert found["faults"] == [{"fault": "the data set has no steps", "problems": 1, "share": 1 / 8}]


def test_what_a_person_sees_says_all_of_it_in_80_columns():
    long = one("a" * 70, "Look " + "at the corner, " * 40 + "and then there are seven cells left of it.")
    rows = [*ROWS, *(Hint(f"x{n}", None, fault=f"expert: no reply within 600 s, attempt {n} " + "x" * 60)
                     for n in range(12))]
    result = summarise(rows, [*AUDITED, long]) | {"refused_file": "RUN/audit/v1-refused.jsonl", "probe": {
        "samples": 4, "too_long": 3, "roles": {
            "hint": against_chance([AUDITED[0].problem, AUDITED[1].problem], [["7"], ["8"]], [[True], [False]], seed=0)
            | {"always_right": [{"problem_id": "a", "answer": "7" * 90, "text": "x " * 99}]},
        },
    }}
    text = shown(result)
    for line in text.splitlines():
        assert len(line) <= 80 or line.endswith("a)"), line        # ids are not cut
    for words in ("5 of 7 hints refused (71.4%)", "the hint contains the answer", "‹seven›", "meant to reveal: 1 of 1",
                  "the data set has no steps", "other reasons", "3 hints left out of the probe",
                  "3 of them had passed", "1 pass now that had been refused", "the answer in each of 4 samples"):
        assert words in text, words


def test_no_hint_at_all_is_no_division_by_zero():
    result = summarise([Hint("a", None)], []) | {"refused_file": "x", "probe": {"samples": 1, "too_long": 0,
                                                                               "roles": {}}}
    assert "0 of 0 hints refused" in shown(result) and "no hint to read" in shown(result)


def test_an_excerpt_marks_the_span_within_its_width():
    text = "a " * 100 + "there are seven of\nthem" + " b" * 100
    start = text.index("seven")
    line = marked(text, (start, start + 5))
    assert "are ‹seven› of them" in line.plain and len(line.plain) <= 74 and line.plain[0] == line.plain[-1] == "…"
    assert marked("seven", (0, 5)).plain == "‹seven›"
    assert len(marked("x" * 4000, (0, 4000)).plain) <= 74


# --- the check that build-hints makes ---------------------------------------------------------------------------------


def test_checked_uses_the_solution_and_sets_flags():
    problem = Problem("p", "What is the area?", (), "40", solution="The base is 8. Area = 8 × 5 = 40.")
    leaking = checked(Hint("p", "First find that the base is 8 cm."), problem)
    assert leaking.text is None and leaking.refusal.startswith("the hint contains an intermediate result")
    assert leaking.refused[slice(*leaking.span)] == "8"
    assert checked(Hint("p", "Multiply both."), problem).flags == ("names no place", "shorter than 8 words")
    of_options = Problem("p", "Which? A. oil B. water", (), "A", answer_type="choice")
    assert checked(Hint("p", "See the oil at the top."), of_options).text is None


# --- the probe --------------------------------------------------------------------------------------------------------


def integers(*answers: str, **more) -> list[Problem]:
    return [Problem(str(n), "?", (), answer, **more) for n, answer in enumerate(answers)]


def test_chance_worked_out_by_hand():
    """Others of 0: 2, 1; of 1: 1, 1; of 2: 1, 2. Chance: 0 says 1, 1: 1/2; 1 says 1, nothing: 1/2; 2 says 2, 3: 1/4."""
    found = against_chance(
        integers("1", "2", "1"), [["1", "1"], ["1", None], ["2", "3"]], [[True, True], [False, False], [False, False]],
        seed=0,
    )
    assert found["says"] == pytest.approx(1 / 3) and found["chance"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)
    assert found["difference"] == pytest.approx(1 / 3 - 5 / 12) and found["is_exact"] and found["alone"] == 0


def test_a_model_that_always_says_the_most_frequent_answer_reads_nothing():
    problems = integers(*["5"] * 30, *"123678" * 5)
    is_right = [[problem.answer == "5"] for problem in problems]
    found = against_chance(problems, [["5"]] * 60, is_right, seed=0, resamples=500)
    assert found["says"] == 0.5 and found["chance"] == pytest.approx(0.5) and abs(found["difference"]) < 1e-9
    assert found["interval"][0] < 0 < found["interval"][1]


def test_only_answers_of_one_type_are_compared():
    problems = [*integers("1", "2"), Problem("t", "?", (), "1", answer_type="text")]
    found = against_chance(problems, [["1"], ["1"], ["1"]], [[True], [False], [True]], seed=0, resamples=50)
    assert found["alone"] == 1 and found["says"] == 0.5 and found["chance"] == 0.5
    lonely = against_chance(problems[2:], [["1"]], [[True]], seed=0)
    assert lonely["says"] is None and lonely["alone"] == 1


def test_families_widen_the_interval():
    answers = [str(n % 40) for n in range(40)]
    is_right = [[n < 20] for n in range(40)]
    said = [[answer] if right else ["99"] for answer, (right,) in zip(answers, is_right, strict=True)]
    single = against_chance(integers(*answers), said, is_right, seed=1)["interval"]
    families = [replace(problem, family=str(n // 10)) for n, problem in enumerate(integers(*answers))]
    joined = against_chance(families, said, is_right, seed=1)["interval"]
    assert joined[1] - joined[0] > 1.5 * (single[1] - single[0])


def test_with_too_many_pairs_others_are_drawn(monkeypatch):
    monkeypatch.setattr("ptdpo_cli.stages.audit._MAX_VERDICTS", 400)
    answers = [str(n % 50) for n in range(200)]
    said = [[str((7 * n) % 50)] for n in range(200)]
    exact_share = 1 / 50
    found = against_chance(integers(*answers), said, [[False]] * 200, seed=0, resamples=50)
    assert not found["is_exact"] and found["chance"] == pytest.approx(exact_share, abs=0.02)


class Parrot:
    """An engine that says the number which its prompt holds, in a box; without one it says 0."""

    def __init__(self, policy):
        self.policy, self.prompts = policy, []

    def sample(self, requests, sampling):
        self.prompts += [request.prompt for request in requests]
        return [self._say("".join(c for c in request.prompt.text if c.isdigit()) or "0") for request in requests]

    def _say(self, number: str) -> Sample:
        ids = np.array(self.policy.tokenizer(f"\\boxed{{{number}}}")["input_ids"], np.int32)
        return Sample(ids, np.zeros(len(ids), np.float32), np.zeros((len(ids), 0), np.int32), "stop")

    def release(self): ...


@pytest.fixture(scope="module")
def tiny():
    from ptdpo_cli.models.load import load_policy

    return load_policy("tiny-base", dtype="float32", device="cpu")


def test_what_is_planted_is_found(tiny, small_recipe):
    """Revealing hints are read in each sample; the others hold no number, so that 0 is said, which is nobody's answer.

    A refused hint is not asked about. Neither question nor picture gets in.
    """
    recipe = small_recipe("eval.problems_per_shard=3")
    digits = ["1", "2", "3", "4", "5", "6"]
    revealing = [one(f"r{n}", f"The answer is {n}.", n, role="revealing", question="top row") for n in digits]
    plain = [one(f"h{n}", "Look only at the top left, then add them.", n, question="top row") for n in digits]
    leaking = [one("x", "The digits add up to 9.", "9")]
    engine = Parrot(tiny)
    found = ask_reference(recipe, tiny, engine, [*revealing, *plain, *leaking], samples=2)
    control, hints = found["roles"]["revealing"], found["roles"]["hint"]
    assert (control["says"], control["chance"], control["difference"]) == (1.0, 0.0, 1.0)
    assert control["interval"] == [1.0, 1.0] and len(control["always_right"]) == 6
    assert (hints["says"], hints["chance"], hints["always_right"]) == (0.0, 0.0, [])
    assert hints["hints"] == 6 and found["too_long"] == 0 and found["samples"] == 2
    assert len(engine.prompts) == 2 * 12
    assert all("top row" not in prompt.text and not prompt.n_image_tokens for prompt in engine.prompts)
    assert any("The answer is 3." in prompt.text and "Give the final answer." in prompt.text
               for prompt in engine.prompts)


def test_a_hint_that_no_prompt_holds_is_counted(tiny, small_recipe):
    recipe = small_recipe("prompt.max_prompt_tokens=40")
    rows = [one("long", "Look at the left of the cell. Then look at the top right. " + "Read the digit there, then " * 3
                + "add them.", "5"), one("a", "Read it.", "5"), one("b", "Add them.", "6")]
    found = ask_reference(recipe, tiny, Parrot(tiny), rows, samples=1)
    assert found["too_long"] == 1 and found["roles"]["hint"]["hints"] == 2


# --- from the command line --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """Hints of a user's own steps: two pass, two leak, one problem has none."""
    folder = tmp_path_factory.mktemp("audit")
    rows = [
        {"problem": "How many red cells?", "images": ["p.png"], "answer": "4", "steps": ["Look at the red cells.",
                                                                                        "Count them one by one."]},
        {"problem": "How many blue cells?", "images": ["p.png"], "answer": "12",
         "steps": ["There are twelve of them."]},
        {"problem": "How wide is it?", "images": ["p.png"], "answer": "30", "steps": ["Look at the 15 cm on top."],
         "solution": "Half of it is 15, so it is 2 × 15 = 30 wide."},
        {"problem": "How tall is it?", "images": ["p.png"], "answer": "31", "steps": ["Read the scale on the left."]},
        {"problem": "How deep is it?", "images": ["p.png"], "answer": "32", "steps": []},
    ]
    rows = [{"solution": None, **row} for row in rows]
    (folder / "p.png").write_bytes(png())
    data = jsonl(folder / "own.jsonl", *rows)
    path = done("build-hints", *TINY, "--data", data, "--run", folder / "run", "--source", "steps",
                "--set", "data.count=null", "--set", "hints.max_refused=1").path
    return path, data


def test_rates_from_the_command_line(own_run, tmp_path):
    path, _ = own_run
    found = done("hints", "audit", path, "--json", *TINY).json
    assert (found["problems"], found["audited"], found["refused"]) == (5, 4, 2)
    assert found["refused_now"] == found["passed_now"] == 0 and found["probe"] is None
    assert {row["reason"] for row in found["reasons"]} == {
        "the hint contains the answer", "the hint contains an intermediate result"}
    assert sum(row["problems"] for row in found["faults"]) == 1
    default = path.parent.parent / "audit" / f"{path.name}-refused.jsonl"
    lines = [json.loads(line) for line in default.read_text().splitlines()]
    assert found["refused_file"] == str(default) and len(lines) == 2
    assert lines[0].keys() == {"problem_id", "category", "source", "reason", "span", "text"}
    assert [line["text"][slice(*line["span"])] for line in lines] == ["twelve", "15"]
    own = tmp_path / "deep" / "er" / "mine.jsonl"
    text = done("hints", "audit", path, "--out", own, "--limit", 2, *TINY).out
    assert "1 of 2 hints refused (50.0%)" in text and "‹twelve›" in text and len(own.read_text().splitlines()) == 1


def test_hints_that_were_not_audited_are_judged_by_the_present_rules(own_run, tmp_path):
    _, data = own_run
    path = done("build-hints", *TINY, "--data", data, "--run", tmp_path, "--source", "steps",
                "--set", "data.count=null", "--set", "hints.audit=false").path
    found = done("hints", "audit", path, "--json", *TINY).json
    assert (found["refused"], found["refused_now"], found["passed_now"]) == (2, 2, 0)


def test_hints_whose_problems_are_gone_are_refused(own_run, tmp_path):
    path, _ = own_run
    run = tmp_path / "run"
    shutil.copytree(path.parent.parent, run)
    shutil.rmtree(run / "problems")
    refused(3, "hints", "audit", run / "hints" / path.name, *TINY, says=("not in its run", "problems"))


def test_hints_for_other_problems_are_refused(own_run, monkeypatch, small_recipe):
    """As a damaged or mixed run has them: the ids do not fit the data."""
    from ptdpo_cli.errors import ArtifactError
    from ptdpo_cli.stages import audit as module

    others = {"z": Problem("z", "?", (), "1")}
    monkeypatch.setattr(module, "_problems_by_id", lambda hints: others)
    with pytest.raises(ArtifactError, match="problems that its data set does not have"):
        audit(small_recipe(), Artifact.open(own_run[0]))


def test_the_probe_with_the_shipped_model(tmp_path, small_recipe):
    """The sources `answer` and `regions+steps`: whatever the model reads, the same twice, and chance within 0 and 1.

    Its 480 tokens were never used to say "the answer is", so that nothing is promised of what it reads.
    """
    recipe = small_recipe("data.count=12", "eval.max_new_tokens=24")
    for source, role in (("answer", "revealing"), ("regions+steps", "hint")):
        hints = recipe.hints.model_copy(update={"source": source})
        work = Workspace(recipe.model_copy(update={"hints": hints}), tmp_path)
        artifact = work.make_hints(work.plan_hints())
        first, again = (audit(recipe, artifact, probe=2) for _ in range(2))
        assert first["probe"] == again["probe"]
        found = first["probe"]["roles"][role]
        assert first["probe"]["roles"].keys() == {role} and found["hints"] == 12 and found["alone"] == 0
        assert 0 <= found["chance"] <= 1 and found["interval"][0] <= found["difference"] <= found["interval"][1]
        if role == "revealing":
            assert first["audited"] == first["refused"] == 0 and first["roles"][0]["leaks"] == 12
