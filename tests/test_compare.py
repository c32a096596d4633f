"""`ptdpo compare`: against a paired bootstrap of ten lines; families, several evaluations, what is left out."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from command import done as run_command
from command import ptdpo, refused
from ptdpo_cli.artifacts.schemas import EVALS
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.stages import report
from ptdpo_cli.stages.compare import compare
from ptdpo_cli.stages.plan import Plan
from ptdpo_cli.stages.summary import SUITE

PROBLEMS = "a" * 64


def stored(run: Path, rows: list[dict], *, problems: str = PROBLEMS, judge: dict | None = None, **settings) -> Artifact:
    """An evaluation with these rows; what they do not say is empty."""
    section = {"eval": settings, "judge": judge}
    plan = Plan(run, "evals", "eval", section, inputs={"problems": problems}, seed=0)
    rest = {"extracted": "7", "answer": "7", "finish_reason": "stop", "source": "made-up", "family": ""}
    rows = [rest | row for row in rows]
    with plan.writer() as writer:
        writer.write_shard(0, tables={"evals": pa.Table.from_pylist(rows, schema=EVALS)}, counts={"answers": len(rows)})
        return writer.finish()


def rows_of(accuracies: dict[str, list[float | None]], sample: int = 0, *, family=lambda _: "", **more) -> list[dict]:
    """problem -> the accuracies of its samples, the first of them number `sample` (−1: a greedy one)."""
    return [
        {"problem_id": name, "sample": sample + i, "accuracy": accuracy, "family": family(name), **more}
        for name, values in accuracies.items()
        for i, accuracy in enumerate(values)
    ]


def reference(rows_a: list[dict], rows_b: list[dict], resamples: int, seed: int) -> tuple[float, np.ndarray]:
    """The paired bootstrap over families, written from its definition; knows nothing of the package."""
    means = []
    for rows in (rows_a, rows_b):
        by_problem = defaultdict(list)
        for row in rows:
            by_problem[row["problem_id"]].append(row["accuracy"])
        means.append({name: np.mean(values) for name, values in by_problem.items()})
    families = defaultdict(list)
    for row in {row["problem_id"]: row for row in rows_a}.values():
        families[row["family"] or row["problem_id"]].append(means[1][row["problem_id"]] - means[0][row["problem_id"]])
    families, rng = list(families.values()), np.random.default_rng(seed)
    draws = [np.concatenate([families[i] for i in rng.integers(len(families), size=len(families))]).mean()
             for _ in range(resamples)]
    return np.mean(np.concatenate(families)), np.quantile(draws, [0.025, 0.975])


def drawn(seed: int, chance: float, problems: int = 60, size: int = 3) -> list[dict]:
    """Four samples per problem, families of `size`, of which this policy finds some easier than others."""
    rng = np.random.default_rng(seed)
    easy = rng.random(problems // size) - 0.5
    verdicts = {f"p{i}": list(map(float, rng.random(4) < chance + 0.6 * easy[i // size])) for i in range(problems)}
    return rows_of(verdicts, family=lambda name: f"f{int(name[1:]) // size}")


def test_it_is_the_paired_bootstrap_over_families(tmp_path):
    a, b = drawn(1, 0.4), drawn(2, 0.55)
    (found,) = compare([stored(tmp_path / "a", a), stored(tmp_path / "b", b)])["comparisons"]
    difference, interval = reference(a, b, resamples=20_000, seed=7)
    assert found["sampled"]["difference"] == pytest.approx(difference, abs=1e-12)
    assert found["sampled"]["interval"] == pytest.approx(interval, abs=0.006)     # 4 errors of a quantile of 10,000
    alone = [[row | {"family": ""} for row in rows] for rows in (a, b)]
    _, narrow = reference(*alone, resamples=20_000, seed=7)
    assert np.ptp(interval) > np.ptp(narrow) + 0.012         # with problems in place of families it would be seen
    (as_problems,) = compare([stored(tmp_path / f"{i}", rows) for i, rows in enumerate(alone)])["comparisons"]
    assert as_problems["sampled"]["interval"] == pytest.approx(narrow, abs=0.006)
    assert "greedy" not in found and found["sampled"]["problems"] == 60


def test_three_families_by_all_their_draws(tmp_path):
    """27 equally likely draws give the interval exactly, 8 sign patterns the p-value."""
    a = {"p": [0.0], "q": [0.0], "r": [1.0], "s": [0.0], "t": [0.0]}
    b = {"p": [1.0], "q": [1.0], "r": [0.0], "s": [1.0], "t": [0.0]}
    family = {"p": "f", "q": "f", "r": "", "s": "g", "t": "g"}
    (found,) = compare(
        [stored(tmp_path / n, rows_of(v, -1, family=family.get)) for n, v in (("a", a), ("b", b))]
    )["comparisons"]
    groups = [[1.0, 1.0], [-1.0], [1.0, 0.0]]
    means = [np.mean(np.concatenate([groups[i] for i in draw])) for draw in itertools.product(range(3), repeat=3)]
    exact = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    assert found["greedy"]["interval"] == pytest.approx(exact, abs=1e-12)
    sums = [abs(np.dot(signs, [2, -1, 1])) for signs in itertools.product([-1, 1], repeat=3)]
    assert found["greedy"]["p_value"] == pytest.approx(np.mean([s >= 2 for s in sums]), abs=0.02)
    assert (found["greedy"]["accuracy_a"], found["greedy"]["accuracy_b"]) == (0.2, pytest.approx(0.6))


def test_the_words_and_letters(tmp_path):
    paths = [stored(tmp_path / f"{seed}", drawn(seed, chance)).path for seed, chance in ((1, 0.4), (2, 0.6), (3, 0.4))]
    two = run_command("compare", *paths[:2])
    assert two.out.startswith(f"A  {paths[0]}\nB  {paths[1]}\n")
    assert re.search(r"problems +A +B +B − A +95 % interval +p *\n", two.out)
    assert re.search(r"sampled +60 +0\.\d{3} +0\.\d{3} +\+0\.\d{3} +\+0\.\d{3} – \+0\.\d{3} +0\.\d+", two.out)
    assert re.search(r"sampled: \d+ problems show a difference of 0\.\d{3} with power 0.8; these 60 show one", two.out)
    assert "Holm" not in two.out and "left out" not in two.out and "warning" not in two.out
    three = run_command("compare", *paths)
    assert f"C  {paths[2]}" in three.out and "C − A" in three.out and three.out.count("Holm") == 2
    found = run_command("compare", *paths, "--json").json
    assert found["baseline"] == str(paths[0]) and [c["b"] for c in found["comparisons"]] == [str(p) for p in paths[1:]]
    assert found["comparisons"][0]["sampled"]["difference"] == (
        run_command("compare", *paths[:2], "--json").json["comparisons"][0]["sampled"]["difference"])


def test_p_values_of_several_comparisons_are_adjusted_row_by_row(tmp_path):
    evals = [stored(tmp_path / f"{seed}", drawn(seed, chance)) for seed, chance in enumerate((0.4, 0.5, 0.6, 0.4))]
    rows = [one["sampled"] for one in compare(evals, resamples=999)["comparisons"]]
    by_size = sorted(rows, key=lambda row: row["p_value"])
    assert by_size[0]["p_holm"] == pytest.approx(min(1, 3 * by_size[0]["p_value"]))
    assert by_size[1]["p_holm"] == pytest.approx(min(1, max(by_size[0]["p_holm"], 2 * by_size[1]["p_value"])))
    assert all(row["p_holm"] >= row["p_value"] for row in rows)
    assert "p_holm" not in compare(evals[:2], resamples=99)["comparisons"][0]["sampled"]


def test_how_many_problems_a_difference_needs(tmp_path):
    """Differences of +1 in 6 of 40 problems and −1 in 2: mean 0.1, deviation √(40/39 · (8/40 − 0.01))."""
    signs = [1] * 6 + [-1] * 2 + [0] * 32
    a = {f"p{i}": [float(sign < 0)] for i, sign in enumerate(signs)}
    b = {f"p{i}": [float(sign > 0)] for i, sign in enumerate(signs)}
    paths = [stored(tmp_path / name, rows_of(v, -1)).path for name, v in (("a", a), ("b", b))]
    deviation = np.sqrt(40 / 39 * (8 / 40 - 0.1**2))
    row = run_command("compare", *paths, "--json").json["comparisons"][0]["greedy"]
    assert row["deviation"] == pytest.approx(deviation)
    assert row["problems_needed"] == np.ceil((2.80158 * deviation / 0.1) ** 2) == 153
    assert row["visible_difference"] == pytest.approx(2.80158 * deviation / np.sqrt(40), rel=1e-4)
    wanted = run_command("compare", *paths, "--difference", "0.02", "--json").json
    assert wanted["wanted_difference"] == 0.02
    assert wanted["comparisons"][0]["greedy"]["problems_needed"] == np.ceil((2.80158 * deviation / 0.02) ** 2)
    text = run_command("compare", *paths, "--difference", "0.02").out
    assert "greedy: 3,824 problems show a difference of 0.020 with power 0.8; these 40 show one of 0.196" in text
    same = run_command("compare", paths[0], paths[0]).out
    assert "no number of problems show a difference of 0.000" in same


def test_what_one_side_lacks_is_left_out_and_said(tmp_path):
    a = rows_of({"p": [1.0, 0.0], "q": [0.0], "r": [None, None], "s": [1.0], "t": [1.0]}) + rows_of({"p": [1.0]}, -1)
    b = rows_of({"p": [1.0], "q": [1.0, None], "r": [1.0], "u": [0.0], "v": [0.0], "t": [None]})
    one, other = (stored(tmp_path / name, rows) for name, rows in (("a", a), ("b", b)))
    (found,) = compare([one, other])["comparisons"]
    assert "greedy" not in found                                            # B has none
    row = found["sampled"]
    assert (row["problems"], row["only_a"], row["only_b"], row["unjudged"]) == (2, 1, 2, 2)
    assert row["difference"] == pytest.approx(((1 - 0.5) + (1 - 0)) / 2)     # p and q
    text = " ".join(run_command("compare", one.path, other.path).out.split())
    assert "sampled: left out 1 answered by A alone, 2 answered by B alone, 2 without a verdict on one side" in text


def test_nothing_in_common_is_an_empty_table_and_no_crash(tmp_path):
    one, other = (stored(tmp_path / n, rows_of({"p": [v]})) for n, v in (("a", None), ("b", 1.0)))
    assert compare([one, other])["comparisons"][0].keys() == {"a", "b", "differs"}
    assert run_command("compare", one.path, other.path).code == 0


def test_one_problem_has_no_deviation(tmp_path):
    one, other = (stored(tmp_path / n, rows_of({"p": [v]})) for n, v in (("a", 0.0), ("b", 1.0)))
    row = compare([one, other])["comparisons"][0]["sampled"]
    assert row["deviation"] is row["problems_needed"] is row["visible_difference"] is None
    assert "power" not in run_command("compare", one.path, other.path).out


def test_benchmarks_and_their_means(tmp_path):
    """B is better by 1/4 in the first benchmark, by 3/4 in the last, as good elsewhere; sizes differ."""
    gains = {source: {0: 1, 8: 3}.get(i, 0) for i, source in enumerate(SUITE["overall"])}

    def rows(gain):
        found = []
        for i, source in enumerate(SUITE["overall"]):
            right = {f"{source}-{j}": [float(gain and j % 4 < gains[source])] for j in range(8 * (1 + i % 2))}
            found += rows_of(right, -1, source=source)
        return found

    one, other = (stored(tmp_path / name, rows(gain)) for name, gain in (("a", 0), ("b", 1)))
    (found,) = compare([one, other], resamples=2000)["comparisons"]
    greedy = found["greedy"]
    assert {s: row["difference"] for s, row in greedy["benchmarks"].items()} == {s: g / 4 for s, g in gains.items()}
    means = {name: row["difference"] for name, row in greedy["averages"].items()}
    assert means == pytest.approx({"general": 0.25 / 5, "vision-dependent": 0.75 / 4, "overall": 1.0 / 9})
    assert greedy["difference"] == pytest.approx((8 * 0.25 + 8 * 0.75) / 104)
    text = run_command("compare", one.path, other.path).out
    for line in (r"^ greedy +104 ", r"^   mmk12 +8 +0.000 +0.250 +\+0.250", r"^   overall +104 .* \+0.111 "):
        assert re.search(line, text, re.MULTILINE), (line, text)


def test_other_rules_are_a_warning_and_other_problems_an_error(tmp_path):
    rows = rows_of({"p": [1.0], "q": [0.0]})
    judge = {"model": "some-judge", "answer_types": ["text"], "url": "http://one"}
    plain = stored(tmp_path / "a", rows, extraction=["boxed"], judge=None, blind=False).path
    others = [
        stored(tmp_path / "b", rows, extraction=["boxed", "letter"], judge=None, blind=False).path,
        stored(tmp_path / "c", rows, extraction=["boxed"], judge=judge, blind=False).path,
        stored(tmp_path / "d", rows, extraction=["boxed"], judge=None, blind=True).path,
    ]
    text = " ".join(run_command("compare", plain, *others).out.split())
    assert "warning: answers are looked for in different ways in A (boxed) and B (boxed, letter)" in text
    assert "warning: A and C have different judges (rules alone, some-judge)" in text
    assert "warning: D is blind, the other is not" in text and text.count("warning: ") == 3
    # Where a judge runs is no difference; an evaluation from before these settings had the box and no judge.
    moved = stored(tmp_path / "e", rows, extraction=["boxed"], judge=judge | {"url": "http://two"}).path
    assert "warning: " not in run_command("compare", others[1], moved).out
    assert "warning: " not in run_command("compare", plain, stored(tmp_path / "f", rows).path).out
    elsewhere = stored(tmp_path / "g", rows, problems="b" * 64).path
    refused(3, "compare", plain, others[0], elsewhere, says=("different problems", "same split, count and seed"))
    assert ptdpo("compare", plain).code == 2


def test_the_picture(tmp_path, monkeypatch):
    paths = [stored(tmp_path / f"{seed}", drawn(seed, 0.5)).path for seed in range(3)]
    out = tmp_path / "new" / "compare.png"
    assert run_command("compare", *paths, "--out", out, "--json").json["picture"] == str(out)
    image = Image.open(out)
    assert image.format == "PNG" and min(image.size) > 200
    colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    wanted = [tuple(bytes.fromhex(code[1:])) for code in report.COLOURS]
    assert set(wanted[:2]) <= colours and not set(wanted[2:]) & colours        # B and C
    refused(2, "compare", *paths, "--out", tmp_path / "compare.doc", says=(".png, .pdf or .svg",))
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    refused(2, "compare", *paths, "--out", out, says=("need matplotlib", "pip install 'ptdpo[demo]'"))
    assert run_command("compare", *paths).code == 0
