"""The summary of an evaluation, worked out by hand on small tables; Table 1, blind runs, and the same file twice."""

from __future__ import annotations

import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from command import TINY, done
from ptdpo_cli.artifacts.manifest import VOLATILE
from ptdpo_cli.artifacts.schemas import EVALS
from ptdpo_cli.artifacts.store import Artifact, artifact_paths
from ptdpo_cli.datasets import catalog
from ptdpo_cli.errors import UsageError
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.evaluate import plan_eval
from ptdpo_cli.stages.summary import SUITE, summarise
from ptdpo_cli.stages.summary_tables import render_summary
from ptdpo_cli.stages.workspace import Workspace
from ptdpo_cli.statistics import bootstrap_interval

RECIPE = Recipe.model_validate({"seed": 3, "eval": {"bootstrap_resamples": 500}})


def answer(problem_id, sample, accuracy, extracted="7", **more) -> dict:
    """A row of `evals`; what a test does not say is that of a right or wrong answer in a box."""
    row = {
        "problem_id": problem_id, "category": "", "sample": sample, "text": "", "finish_reason": "stop",
        "response_tokens": 10, "extracted": extracted, "answer": "7", "accuracy": accuracy, "format": 1.0,
        "source": "made-up", "family": "", "answer_type": "integer", "metadata": "{}", "extracted_by": "boxed",
        "outcome": "right" if accuracy else "wrong", "agreed": None, "published": None, "judge": None,
        "reader": None,
    } | more
    assert row.keys() == set(EVALS.names)
    return row


def unread(problem_id, sample, outcome="no_answer", **more) -> dict:
    return answer(problem_id, sample, 0.0, None, extracted_by=None, outcome=outcome, **more)


def shown(summary: dict, width: int = 200) -> str:
    out = io.StringIO()
    render_summary(summary, Console(file=out, width=width, highlight=False))
    return out.getvalue()


# --- one benchmark ----------------------------------------------------------------------------------------------------

# Three problems of two families, four samples each and a greedy answer.
ROWS = [
    answer("p", -1, 1.0, category="x", family="f"),
    answer("q", -1, 0.0, "3", category="x", family="f"),
    unread("r", -1, "truncated", finish_reason="length", category="y", answer="8"),
    *(answer("p", n, a, e, category="x", family="f", agreed=n > 0, published=1.0, response_tokens=30)
      for n, (a, e) in enumerate([(1.0, "7.0"), (1.0, " 7"), (0.0, "3"), (0.0, "3.")])),
    *(answer("q", n, a, e, category="x", family="f", published=0.0)
      for n, (a, e) in enumerate([(1.0, "7"), (0.0, "3"), (0.0, "4"), (0.0, "5")])),
    unread("r", 0, "refused", category="y", answer="8"),
    unread("r", 1, "timeout", category="y", answer="8"),
    answer("r", 2, None, "9", outcome="unjudged", category="y", answer="8", extracted_by="tag"),
    answer("r", 3, 0.0, "9", category="y", answer="8", extracted_by="tag"),
]


def test_a_table_worked_out_by_hand():
    """p: 2 of 4 right, a tie of 7 against 3; q: 1 of 4, four answers once each; r: 0 of 3, for one has no verdict."""
    summary = summarise(ROWS, RECIPE)
    assert summary["problems"] == 3 and summary["blind"] is False and summary["averages"] == {}
    assert (summary["majority_answer"], summary["majority_share"]) == ("7", pytest.approx(2 / 3))
    sampled, greedy = summary["sampled"], summary["greedy"]
    assert summary["benchmarks"]["made-up"]["sampled"] == sampled
    assert sampled["samples_per_problem"] == 4 and sampled["problems"] == 3 and sampled["answers"] == 12
    assert sampled["accuracy"] == pytest.approx((1 / 2 + 1 / 4 + 0) / 3)
    # Of p's 6 pairs 1 holds no right answer, of q's 3; r has three verdicts, too few for four.
    pass_at = {"1": (1 / 2 + 1 / 4 + 0) / 3, "2": (5 / 6 + 1 / 2 + 0) / 3, "4": (1 + 1) / 2}
    assert sampled["pass_at_k"] == pytest.approx(pass_at)
    assert sampled["maj_at_n"] == pytest.approx((1 / 2 + 1 / 4 + 0) / 3)
    assert sampled["best_at_n"] == pytest.approx(2 / 3)
    assert sampled["published"] == 0.5 and greedy["published"] is None
    rates = {
        "extraction_failures": 2 / 12, "truncated": 0, "refused": 1 / 12, "timeout": 1 / 12, "error": 0,
        "unjudged": 1 / 12, "unjudged_answers": 1, "unscored": 3 / 12, "checked_twice": 4, "agreement": 3 / 4,
        "reader_failed": 0, "response_tokens": (4 * 30 + 8 * 10) / 12,
    }
    assert {name: sampled[name] for name in rates} == pytest.approx(rates)
    assert sampled["extracted_by"] == pytest.approx({"boxed": 8 / 12, "tag": 2 / 12})
    assert greedy["accuracy"] == pytest.approx(1 / 3) and greedy["truncated"] == pytest.approx(1 / 3)
    assert greedy["samples_per_problem"] == 1 and greedy["pass_at_k"] == {} and greedy["agreement"] is None
    assert summary["extraction_failures"] == pytest.approx(3 / 15)
    json.dumps(summary, allow_nan=False)


def test_intervals_draw_families():
    """p and q hang together, r is alone: two clusters, whose four draws have the means 3/8, 1/4, 1/4 and 0."""
    sampled = summarise(ROWS, RECIPE)["sampled"]
    assert sampled["interval"] == pytest.approx([0.0, 3 / 8])
    alone = [row | {"family": ""} for row in ROWS]
    by_hand = bootstrap_interval([1 / 2, 1 / 4, 0], resamples=500, seed=3)
    assert summarise(alone, RECIPE)["sampled"]["interval"] == list(by_hand) != sampled["interval"]


def test_categories_have_their_own_figures():
    categories = summarise(ROWS, RECIPE)["sampled"]["categories"]
    assert list(categories) == ["x", "y"]
    assert categories["x"]["accuracy"] == pytest.approx(3 / 8) and categories["x"]["interval"] == [3 / 8, 3 / 8]
    assert categories["y"]["accuracy"] == 0 and categories["y"]["problems"] == 1
    assert categories["y"]["unjudged"] == pytest.approx(1 / 4)


def test_pass_at_k_stands_in_the_order_of_k():
    """Also where it comes from a manifest, whose keys are sorted by spelling: 1, 16, 2, …"""
    summary = summarise(ROWS, RECIPE)
    summary["sampled"]["pass_at_k"] = {"1": 0.1, "16": 0.5, "2": 0.2, "4": 0.3, "8": 0.4}
    assert "pass@k, sampled: 1: 0.100, 2: 0.200, 4: 0.300, 8: 0.400, 16: 0.500" in shown(summary)


def test_the_tables_of_one_benchmark():
    text = shown(summarise(ROWS, RECIPE))
    for line in (
        r"x +2 +0.500 +0.375", r"all +3 +0.333 +0.250", r"95 % interval .*0.000 – 0.375",
        r"majority of n +– +0.250", r"best of n +– +0.667", r"by the published rule +– +0.500",
        r"no answer read +33.3% +16.7%", r"truncated +33.3% +0.0%", r"refused +0.0% +8.3%",
        r"verdict failed +0.0% +8.3%", r"unjudged +0.0% +8.3%", r"second check agrees +– +75.0%",
        r"response tokens +10 +17", r"pass@k, sampled: 1: 0.250, 2: 0.444, 4: 1.000",
        r"answers read by boxed 66.7%, tag 13.3%", r"without a verdict, which count in no score: 1",
        r"always answering '7' would score 0.667", r"doubtful, greedy: .*: made-up 33.3%",
        r"doubtful, sampled: .*: made-up 25.0%",
    ):
        assert re.search(line, text), (line, text)
    assert "blind" not in text


def test_a_zero_is_a_figure_and_what_did_not_happen_is_no_line():
    rows = [answer("p", n, 0.0, "3", published=0.0, agreed=False) for n in (-1, 0, 1)]
    text = shown(summarise(rows, RECIPE))
    for line in (r"published rule +0.000 +0.000", r"majority of n +– +0.000", r"second check agrees +0.0% +0.0%",
                 r"no answer read +0.0% +0.0%"):
        assert re.search(line, text), (line, text)
    assert not re.search("refused|failed|unjudged|a verdict|doubtful", text)


@pytest.mark.parametrize(("unscored", "is_said"), [(1, False), (2, True)])
def test_a_score_is_doubtful_above_a_tenth_of_unscored_answers(unscored, is_said):
    """A judge that reads what no rule could has scored it; a refusal is no answer."""
    rows = [answer(f"p{i}", -1, 1.0, None if i < 5 else "7") for i in range(10 - unscored)]
    rows += [unread(f"q{i}", -1, "refused") for i in range(unscored)]
    summary = summarise(rows, RECIPE)
    assert summary["greedy"]["unscored"] == unscored / 10
    assert ("doubtful" in shown(summary)) == is_said


def test_no_verdict_at_all_is_no_score():
    rows = [answer(p, n, None, "9", outcome="unjudged") for p in "pq" for n in (-1, 0, 1)]
    summary = summarise(rows, RECIPE)
    for mode in ("greedy", "sampled"):
        one = summary[mode]
        assert one["accuracy"] is one["interval"] is one["maj_at_n"] is one["best_at_n"] is None
        assert one["pass_at_k"] == {} and one["unjudged"] == 1
    assert re.search(r"all +2 +– +–", shown(summary)) and "count in no score: 6" in shown(summary)
    json.dumps(summary, allow_nan=False)


def test_one_answer_and_none():
    summary = summarise([answer("p", 0, 1.0)], RECIPE)
    assert "greedy" not in summary and summary["sampled"]["interval"] == [1.0, 1.0]
    assert re.search(r"all +1 +1.000", shown(summary))
    with pytest.raises(UsageError, match="every prompt was too long"):
        summarise([], RECIPE)


def test_rows_of_an_older_evaluation():
    """Columns that came later are missing there; the scores are the same."""
    later = ("source", "family", "answer_type", "metadata", "extracted_by", "outcome", "agreed", "published", "judge")
    old = [{name: value for name, value in row.items() if name not in later} for row in ROWS]
    ours, theirs = (summarise(rows, RECIPE)["sampled"] for rows in (ROWS, old))
    for name in ("accuracy", "pass_at_k", "maj_at_n", "extraction_failures"):
        assert ours[name] == theirs[name]


# --- several benchmarks -----------------------------------------------------------------------------------------------


def suite(shares: dict[str, float], problems: int = 20) -> list[dict]:
    """Greedy answers of which exactly this share is right, by benchmark; benchmarks are of different sizes."""
    return [
        answer(f"{source}-{i}", -1, float(i < share * n), source=source, answer="AB"[i % 2], answer_type="choice")
        for number, (source, share) in enumerate(shares.items())
        for n in [problems * (1 + number % 3)]
        for i in range(n)
    ]


SHARES = dict(zip(SUITE["overall"], (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), strict=True))


def test_the_averages_of_table_1_count_every_benchmark_the_same():
    summary = summarise(suite(SHARES), RECIPE)
    averages = {name: one["greedy"]["accuracy"] for name, one in summary["averages"].items()}
    assert averages == pytest.approx({"general": 0.3, "vision-dependent": 0.75, "overall": 0.5})
    assert summary["greedy"]["accuracy"] != pytest.approx(0.5, abs=0.01)         # over problems, for sizes differ
    # The nine means are independent, each with variance p (1 − p) / n.
    deviation = np.sqrt(sum(p * (1 - p) / (20 * (1 + i % 3)) for i, p in enumerate(SHARES.values()))) / 9
    low, high = summary["averages"]["overall"]["greedy"]["interval"]
    assert (high - low) == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert SUITE["general"].keys() | SUITE["vision-dependent"].keys() == SUITE["overall"].keys()
    assert len(SUITE["general"]) == 5 and len(SUITE["vision-dependent"]) == 4


@pytest.mark.parametrize("width", [200, 80])
def test_table_1(width):
    """The figures stand below their headings, in one table or in two."""
    lines = shown(summarise(suite(SHARES), RECIPE), width).splitlines()
    found = {}
    for number, line in enumerate(lines):
        if "MMK12" in line or "MMMU-Pro" in line:
            greedy, majority = lines[number + 2].split()[1:], lines[number + 3].split()[1:]
            headings = line.split()
            assert len(headings) == len(greedy) == len(majority) and set(majority) == {"50.0"}
            found |= {(name, headings[:i].count(name)): greedy[i] for i, name in enumerate(headings)}
            if width == 80:
                found[headings[0], "average"] = greedy[headings.index("Avg")]
    expected = {(heading, 0): f"{100 * SHARES[source]:.1f}" for source, heading in SUITE["overall"].items()}
    assert (expected | {("Overall", 0): "50.0"}).items() <= found.items()
    if width == 200:
        assert (found["Avg", 0], found["Avg", 1]) == ("30.0", "75.0")
    else:
        assert (found["MMK12", "average"], found["MMMU-Pro", "average"]) == ("30.0", "75.0")
    assert "General" in "".join(lines) and "dependent" in "".join(lines)


def test_a_part_of_the_suite_has_no_overall():
    general = {source: share for source, share in SHARES.items() if source in SUITE["general"]}
    summary = summarise(suite(general), RECIPE)
    assert list(summary["averages"]) == ["general"]
    text = shown(summary, 80)
    assert re.search(r"greedy +– +– +– +– +– +–", text) and re.search(r"greedy +10.0 .* 30.0", text)


def test_other_benchmarks_have_their_mean_and_no_table_1():
    text = shown(summary := summarise(suite({"a/one": 0.5, "a/two": 0.1}), RECIPE))
    assert summary["averages"]["overall"]["greedy"]["accuracy"] == pytest.approx(0.3)
    assert re.search(r"one +20 +0.500", text) and re.search(r"overall +0.300", text) and "General" not in text


def test_answers_of_many_kinds_beside_each_other():
    """A value, a letter and a list: each benchmark has its own majority, and no category of one is another's."""
    rows = [
        *(answer(f"a{i}", -1, 1.0, source="a", answer=gold, category="c") for i, gold in enumerate(["7", "7", "8"])),
        *(answer(f"b{i}", -1, 0.0, source="b", answer="B", answer_type="choice", category="c") for i in range(2)),
        answer("c", -1, None, None, source="c", answer="[1, 2]", answer_type="list", outcome="unjudged"),
    ]
    summary = summarise(rows, RECIPE)
    majorities = [one["majority_answer"] for one in summary["benchmarks"].values()]
    assert majorities == ["7", "B", "[1, 2]"]
    assert summary["benchmarks"]["b"]["greedy"]["categories"]["c"]["accuracy"] == 0
    assert summary["averages"]["overall"]["greedy"] == {"accuracy": None, "interval": None}     # c has no verdict
    assert shown(summary)


@pytest.mark.parametrize("width", [80, 120])
def test_tables_keep_to_the_terminal_and_names_stay_whole(width):
    rows = [row | extra for row in suite(SHARES) for extra in (
        {"published": 1.0, "agreed": True, "outcome": "timeout"},
        {"sample": 0, "outcome": "refused", "extracted": None},
        {"sample": 1, "accuracy": None, "outcome": "error"})]
    lines = shown(summarise(rows, RECIPE), width).splitlines()
    assert max(map(len, lines)) <= width
    for source in SHARES:
        row = re.compile(rf" {source.removeprefix('papo-eval/')}  +[0-9]")
        assert sum(bool(row.match(line)) for line in lines) == 3, source


# --- the metrics of a data set's authors ------------------------------------------------------------------------------


def test_own_metrics_read_one_set_of_answers_at_a_time(monkeypatch):
    """Samples are averaged, greedy stands alone; an answer without a verdict is handed on as such."""
    seen = []

    def scores(rows):
        seen.append({row["problem_id"]: row["accuracy"] for row in rows})
        assert all(row.keys() == {"problem_id", "family", "category", "metadata", "accuracy"} for row in rows)
        assert all(row["metadata"]["step"] == row["problem_id"] for row in rows)
        families = {row["family"] for row in rows}
        whole = [all(row["accuracy"] for row in rows if row["family"] == family) for family in families]
        return {"worst": float(np.mean(whole)), "more": {"rows": len(rows), "never": float("nan"), "first": None}}

    monkeypatch.setitem(catalog.ADAPTERS, "dyna", SimpleNamespace(scores=scores))
    verdicts = {
        ("f", -1): (1, 1), ("g", -1): (1, 0), ("f", 0): (1, 1), ("g", 0): (1, 1), ("f", 1): (0, 1), ("g", 1): (1, None),
    }
    rows = [
        answer(f"{family}{i}", sample, accuracy, family=family, source="dyna", metadata=f'{{"step": "{family}{i}"}}')
        for (family, sample), pair in verdicts.items()
        for i, accuracy in enumerate(pair)
    ]
    summary = summarise(rows, RECIPE)
    assert seen == [
        {"f0": 1, "f1": 1, "g0": 1, "g1": 0}, {"f0": 1, "f1": 1, "g0": 1, "g1": 1},
        {"f0": 0, "f1": 1, "g0": 1, "g1": None},
    ]
    rest = {"more": {"rows": 4, "never": None, "first": None}}
    assert summary["greedy"]["own"] == {"worst": 0.5} | rest and summary["sampled"]["own"] == {"worst": 0.5} | rest
    json.dumps(summary, allow_nan=False)
    for line in (r"worst +0.500 +0.500", r"more: rows +4 +4 *\n", r"more: never +– +–"):
        assert re.search(line, shown(summary)), line
    assert summarise(ROWS, RECIPE)["greedy"]["own"] is None


def test_a_file_that_only_names_a_benchmark_has_no_metrics_of_its_own():
    """The rows of the real MathVista say which skills they need; these do not."""
    rows = [answer("a", -1, 1.0, source="mathvista"), answer("b", -1, 0.0, source="mathvista")]
    summary = summarise(rows, RECIPE)
    assert summary["greedy"]["own"] is None and summary["greedy"]["accuracy"] == 0.5


# --- the tiny model ---------------------------------------------------------------------------------------------------


def evaluate(run, *more):
    return done("eval", *TINY, "--run", run, "--policy", "tiny-base", *more)


def test_the_same_evaluation_twice_gives_the_same_file(tmp_path):
    first, second = (evaluate(tmp_path / name).path for name in ("one", "two"))
    assert first.name == second.name
    names = sorted(p.name for p in first.iterdir())
    assert names == sorted(p.name for p in second.iterdir()) and "evals-00000.parquet" in names
    for name in names:
        a, b = ((path / name).read_bytes() for path in (first, second))
        if name == "manifest.json":
            a, b = (json.loads(text) for text in (a, b))
            assert a["extra"]["summary"]["problems"] == 12 and a["content_hash"] == b["content_hash"]
            for field in VOLATILE | {"checksum"}:
                a.pop(field), b.pop(field)
        assert a == b, name


def test_an_evaluation_alone_leaves_the_recipe_for_regrade_and_never_replaces_another(tmp_path):
    evals = evaluate(tmp_path / "run").path
    assert done("regrade", evals, "--dry-run", "--json").json["changed"] == 0
    (tmp_path / "run" / "recipe.yaml").write_text("seed: 7\n")
    evaluate(tmp_path / "run", "--set", "eval.samples=1")
    assert (tmp_path / "run" / "recipe.yaml").read_text() == "seed: 7\n"


def test_a_blind_evaluation_sees_no_picture(tmp_path, small_recipe):
    seeing, blind = evaluate(tmp_path), evaluate(tmp_path, "--blind")
    assert seeing.path != blind.path and len(artifact_paths(tmp_path / "evals")) == 2
    assert "blind: the pictures were left out" in blind.err and "blind" not in seeing.err
    assert re.search("always answering '[0-9]+' would score 0", seeing.err)
    manifests = [Artifact.open(one.path).manifest for one in (seeing, blind)]
    assert [m.extra["summary"]["blind"] for m in manifests] == [False, True]
    assert manifests[0].inputs == manifests[1].inputs
    texts = [[row["text"] for row in Artifact.open(one.path).table("evals").to_pylist()] for one in (seeing, blind)]
    assert len(texts[0]) == len(texts[1]) and texts[0] != texts[1]
    assert "no image tokens" in evaluate(tmp_path, "--blind", "--dry-run").out


def test_a_blind_book_has_no_image_tokens_and_the_key_says_so(tmp_path, small_recipe):
    recipe = small_recipe()
    work = Workspace(recipe, tmp_path)
    policy, problems = work.policy("tiny-base"), work.eval_problems()
    books = [work.book(policy, problems, blind=blind) for blind in (False, True)]
    ids = list(books[0].problems)[:4]
    for seeing, blind in zip(*(book.students(ids) for book in books), strict=True):
        assert seeing.n_image_tokens > 0 and seeing.images
        assert blind.n_image_tokens == 0 and blind.pixel_values is None and not blind.images
        question = books[0].problems[seeing.problem_id].question
        assert question in seeing.text and question in blind.text
    # The teacher of a run whose recipe evaluates blind still sees.
    assert all(prompt.n_image_tokens for prompt in work.book(policy, problems).teachers(ids))
    recipes = [small_recipe(f"eval.blind={blind}") for blind in ("true", "false")]
    assert len({plan_eval(recipe, tmp_path, problems, policy.hashes).directory for recipe in recipes}) == 2
