"""Sources that reveal the answer, and controls: the same artifact as any hint, read by the same stages."""

import re
import shutil

import numpy as np
import pytest

from command import TINY, done, jsonl, png, refused
from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.hints import privileged
from ptdpo_cli.hints.shuffle import deal
from ptdpo_cli.stages import build_hints

SOURCES = {
    "steps": "hint", "solution": "revealing", "answer": "revealing", "rationale": "revealing", "none": "control",
    "generic": "control", "shuffled": "control",
}
FROM_SOLUTION = ("--set", "hints.steps.read=solution")


def rows_of(path) -> list[dict]:
    return Artifact.open(path).table("hints").to_pylist()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(run, source -> its hints) of digit-grid: all sources of this file, `shuffled` of `regions+steps`."""
    run = tmp_path_factory.mktemp("made") / "run"
    done("build-hints", *TINY, "--run", run)
    return run, {source: done("build-hints", *TINY, "--run", run, "--source", source, *(
        FROM_SOLUTION if source == "steps" else
        ("--set", f"hints.shuffle={default_hints(run)}") if source == "shuffled" else ()
    )).path for source in SOURCES}


def default_hints(run):
    paths = [path for path in (run / "hints").iterdir() if path.is_dir()]
    (path,) = [path for path in paths if Artifact.open(path).manifest.section["source"] == "regions+steps"]
    return path


def problems_of(run) -> dict[str, dict]:
    return {row["problem_id"]: row for row in Artifact.open(run / "problems").table("problems").to_pylist()}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_makes_one_hint_per_problem(made, source):
    run, paths = made
    problems = problems_of(run)
    rows = rows_of(paths[source])
    assert [row["problem_id"] for row in rows] == list(problems)
    assert {row["role"] for row in rows} == {SOURCES[source]} and {row["source"] for row in rows} == {source}
    for row in rows:
        problem, text = problems[row["problem_id"]], row["hint"]
        total = re.search(r"boxed\{(\d+)\}", problem["solution"])[1]
        if source == "none":
            assert text is None and row["fault"] and row["refusal"] is None
        elif source == "solution":
            assert text.endswith(f"\\boxed{{{total}}}") and "think>" not in text
        elif source == "rationale":
            assert text == problem["solution"].split("</think>")[0].removeprefix("<think>").strip()
        elif source == "answer":
            assert text == f"The answer is {total}."
        elif source == "steps":
            assert row["steps"][-1] == "Add them." and not re.search(r"\d", text)
        elif source == "generic":
            assert text.startswith("Look closely")


def test_shuffled_hints_are_the_others(made):
    run, paths = made
    own = {row["problem_id"]: row for row in rows_of(default_hints(run))}
    shuffled = rows_of(paths["shuffled"])
    assert sorted(row["hint"] or row["refused"] for row in shuffled) == sorted(row["hint"] for row in own.values())
    for row in shuffled:
        assert (row["hint"] or row["refused"]) != own[row["problem_id"]]["hint"]
        assert row["regions"] == [] and row["steps"] == [] and row["spatial"] == ""
    lengths = [(len(row["hint"] or row["refused"]), len(own[row["problem_id"]]["hint"])) for row in shuffled]
    assert np.mean([abs(ours - theirs) for ours, theirs in lengths]) < 8
    assert Artifact.open(paths["shuffled"]).manifest.inputs["hints"] == Artifact.open(default_hints(run)).content_hash


def test_parts_deal_the_same_hints(made, tmp_path, monkeypatch):
    monkeypatch.setattr(build_hints, "_SHARD_ROWS", 16)
    run, _ = made
    whole = tmp_path / "whole"
    shutil.copytree(run / "problems", whole / "problems")
    shutil.copytree(default_hints(run), whole / "hints" / default_hints(run).name)
    shutil.copytree(whole, tmp_path / "parts")
    flags = (*TINY, "--source", "shuffled")
    expected = done("build-hints", *flags, "--run", whole).path         # of the only hints there
    for index in (1, 0):
        done("build-hints", *flags, "--run", tmp_path / "parts", "--shard", f"{index}/2")
    done("merge", tmp_path / "parts" / "hints")
    assert rows_of(tmp_path / "parts" / "hints" / expected.name) == rows_of(expected)
    first = done("build-hints", *flags, "--run", whole, "--limit", 8).path
    assert rows_of(first) == rows_of(expected)[:8]


def test_a_shuffled_hint_with_the_answer_in_it_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    rows = [{"problem": "How many dots?", "answer": str(i + 40), "images": ["a.png"],
             "steps": [f"Look at panel {(i + 1) % 20 + 40}."]} for i in range(20)]
    file, run = jsonl(tmp_path / "mine.jsonl", *rows), tmp_path / "run"
    done("build-hints", "--data", file, "--run", run, "--source", "steps")
    flags = ("--source", "shuffled", "--set", "hints.max_refused=1")
    path = done("build-hints", "--data", file, "--run", run, *flags).path
    for row, mine in zip(rows_of(path), rows, strict=True):
        holds_answer = mine["answer"] in (row["hint"] or row["refused"])
        assert (row["hint"] is None) == holds_answer and bool(row["refusal"]) == holds_answer


def test_which_hints_are_shuffled(made, tmp_path):
    run, paths = made
    refused(3, "build-hints", *TINY, "--run", tmp_path / "new", "--source", "shuffled",
            says=("no hints to shuffle", "ptdpo build-hints", "hints.shuffle=DIR"))
    said = refused(3, "build-hints", *TINY, "--run", run, "--source", "shuffled", says=("2 hints to shuffle",))
    assert f"--set hints.shuffle={run / 'hints'}" in said and "regions+steps" in said and "(steps)" in said
    flags = ("--source", "shuffled", "--set", f"hints.shuffle={paths['steps']}", "--set", "data.count=20")
    refused(3, "build-hints", *TINY, *flags, "--run", tmp_path / "other", says=("of other problems",))
    shown = done("build-hints", *TINY, "--run", run, "--source", "shuffled", "--dry-run",
                 "--set", f"hints.shuffle={paths['steps']}")
    assert "40 hints pass the leak check" in shown.out


@pytest.mark.parametrize("seed", range(5))
def test_deal_is_a_derangement(seed):
    rng = np.random.default_rng(seed)
    kinds = [f"Look only at cell {'x' * rng.integers(1, 40)} {i}." for i in range(rng.integers(2, 60))]
    texts = {f"p{i}": kinds[rng.integers(len(kinds))] for i in range(400)}
    dealt = deal(texts, np.random.default_rng(seed))
    assert dealt == deal(dict(reversed(texts.items())), np.random.default_rng(seed))     # whatever their order
    assert dealt != deal(texts, np.random.default_rng(seed + 100))
    assert all(dealt[problem_id] != text for problem_id, text in texts.items())
    if max(list(texts.values()).count(kind) for kind in kinds) <= 200:
        assert sorted(dealt.values()) == sorted(texts.values())


def test_deal_where_most_say_the_same():
    texts = {str(i): "same" if i < 8 else f"other {i}" for i in range(10)}
    dealt = deal(texts, np.random.default_rng(0))
    assert sum(text is None for text in dealt.values()) == 6 and all(dealt[i] != texts[i] for i in texts)
    assert deal({"a": "x", "b": "x"}, np.random.default_rng(0)) == {"a": None, "b": None}
    assert deal({"a": "x"}, np.random.default_rng(0)) == {"a": None} and deal({}, np.random.default_rng(0)) == {}


def test_like_lengths_change_hands():
    rng = np.random.default_rng(3)
    texts = {str(i): "".join(rng.choice(list("abc"), rng.integers(10, 400))) for i in range(1000)}
    dealt = deal(texts, rng)
    assert max(abs(len(dealt[i]) - len(text)) for i, text in texts.items()) < 30


@pytest.mark.parametrize("source", ["solution", "answer", "rationale", "generic", "shuffled", "steps"])
def test_teachers_read_them_like_any_hint(made, tmp_path, source):
    run, paths = made
    here = tmp_path / "run"
    shutil.copytree(run, here)
    mine = (*TINY, "--run", here, "--set", f"hints.source={source}", "--set", f"hints.shuffle={default_hints(here)}",
            *FROM_SOLUTION)
    if source != "shuffled":
        mine = (*mine, "--set", "hints.shuffle=null")
    rollouts = done("rollout", *mine).path
    scores = done("score-ref", *mine).path
    inputs = Artifact.open(scores).manifest.inputs
    assert inputs["hints"] == Artifact.open(paths[source]).content_hash
    assert any(row["is_gated"] for row in Artifact.open(scores).table("scores").to_pylist())
    if source == "shuffled":
        assert done("train", *mine, "--rollouts", rollouts, "--scores", scores).path.is_dir()


def test_without_hints_there_is_nothing_to_tutor_with(made, tmp_path):
    says = ("hints.source is none", "teacher.context=none", "train.distill_weight=0")
    here = (*TINY, "--run", tmp_path / "run", "--set", "hints.source=none")
    refused(2, "train", *here, "--dry-run", says=says)
    assert not (tmp_path / "run").exists()
    refused(2, "train", *here, says=says)
    small = ("--set", "train.iterations=1")
    assert done("train", *here, *small, "--set", "teacher.context=none").path.is_dir()


# ---- what a data set can serve ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["steps", "solution", "rationale", "attention+steps"])
def test_a_data_set_without_solutions(tmp_path, source):
    (tmp_path / "a.png").write_bytes(png())
    file = jsonl(tmp_path / "mine.jsonl", {"problem": "How many?", "answer": "7", "images": ["a.png"]})
    here = ("build-hints", "--data", file, "--run", tmp_path / "run", "--source", source)
    says = ("no problem of", "`solution`", "attention, expert, answer", "--source")
    refused(2, *here, "--dry-run", says=says)
    assert not (tmp_path / "run").exists()
    refused(2, *here, says=says)
    assert not (tmp_path / "run" / "hints").exists() and not (tmp_path / "run" / "recipe.yaml").exists()
    done("build-hints", "--data", file, "--run", tmp_path / "run", "--source", "answer")


def test_by_default_a_data_set_without_anything_goes_without_hints_and_is_told(tmp_path):
    """`ptdpo build-hints --data mathvista` asks for no source by name."""
    file = jsonl(tmp_path / "mine.jsonl", {"problem": "How many?", "answer": "7", "images": []})
    here = ("--data", file, "--run", tmp_path / "run")
    can = "this data set can serve attention, expert, answer, generic: `--source attention`"
    assert can in done("build-hints", *here, "--dry-run").out
    ended = done("build-hints", *here)
    assert can in ended.err and "0 hints for 1 problems, 0 refused" in ended.err
    (row,) = Artifact.open(ended.path).table("hints").to_pylist()
    assert row["hint"] is None and "the data set names no regions" in row["fault"]


def test_one_problem_without_a_solution_is_a_fault_of_its_own(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    solved = "The bar for May is 4. The bar for June is 3. The sum is 4 + 3 = 7."
    rows = [{"problem": "How many?", "answer": "7", "images": ["a.png"], **more} for more in ({"solution": solved}, {})]
    file = jsonl(tmp_path / "mine.jsonl", *rows)
    for source in ("steps", "solution", "rationale"):
        path = done("build-hints", "--data", file, "--run", tmp_path / "run", "--source", source).path
        first, second = rows_of(path)
        assert first["hint"] and first["fault"] is None
        assert second["hint"] is None and "solution" in second["fault"] and second["refusal"] is None


# ---- the texts -------------------------------------------------------------------------------------------------------


def problem(solution: str | None, answer: str = "12", **more) -> Problem:
    return Problem("p", "?", (), answer, solution=solution, **more)


def test_solution_and_answer():
    assert privileged.draft_from_solution(problem("3 · 4 = 12.")).text == "3 · 4 = 12."
    assert privileged.draft_from_solution(problem("Three times four.")).text == "Three times four.\nThe answer is 12."
    lettered = problem("It has three sides.", "B", choices=("square", "triangle"))
    assert privileged.draft_from_answer(lettered).text == "The answer is B (triangle)."
    assert privileged.draft_from_solution(lettered).text == "It has three sides.\nThe answer is B (triangle)."
    for draft in (privileged.draft_from_solution, privileged.draft_from_rationale):
        assert draft(problem(None)).fault and not draft(problem(None)).text


@pytest.mark.parametrize(("solution", "rationale"), [
    ("<think> top 3, left 9 makes 12</think>\\boxed{12}", "top 3, left 9 makes 12"),
    ("He sold 12 clips.\n#### 12", "He sold 12 clips."),
    ("Three rows of four. So the answer is 12.", "Three rows of four."),
    ("Three rows of 1.5. Therefore the answer is: $\\boxed{12}$.", "Three rows of 1.5."),
    ("Three rows.\nFinal answer: 12\n\\boxed{12}", "Three rows."),
    ("It has three sides. The correct option is B. <answer>B</answer>", "It has three sides."),
    ("The answer is hidden at first. Count the rows.", "The answer is hidden at first. Count the rows."),
    ("\\boxed{12}", ""),
])
def test_rationale(solution, rationale):
    draft = privileged.draft_from_rationale(problem(solution))
    assert draft.text == rationale and bool(draft.fault) == (not rationale)
