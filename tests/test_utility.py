"""What hints are worth: figures by hand, divergences in float64, planted engines, kills and parts, hints.min_gain."""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from rich.console import Console

import families
from command import TINY, done, jsonl, ptdpo, refused
from ptdpo_cli.artifacts.hints import read_maps
from ptdpo_cli.artifacts.parts import Part
from ptdpo_cli.artifacts.schemas import HINTS, UTILITY, Hint
from ptdpo_cli.artifacts.store import Artifact, artifact_paths, partial_dir
from ptdpo_cli.engines import Sample
from ptdpo_cli.engines.hf import HfEngine
from ptdpo_cli.errors import ArtifactError, PtdpoError, UsageError
from ptdpo_cli.models import logprobs
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.merge import merge
from ptdpo_cli.stages.rollout import make_rollouts, plan_rollout
from ptdpo_cli.stages.score_ref import make_scores, plan_score_ref
from ptdpo_cli.stages.utility import distribution_changes, make_utility, measure, plan_utility
from ptdpo_cli.stages.utility_summary import draw_utility, recovery_titles, render_utility, summarise_utility
from ptdpo_cli.stages.workspace import Workspace
from ptdpo_cli.statistics import bootstrap_interval, paired_difference

# Two kinds that the shipped model knows, and two that it does not: a hint helps with these.
FEW = ("data.count=10", "data.kinds=[top row, corners, edges, vee]")


def row(problem_id: str, plain: int, hinted: int, n: int = 4, **more) -> dict:
    """A row of `utility`; what a test does not say is that of a hint that is read and changes no length."""
    found = {
        "problem_id": problem_id, "category": "", "data_source": "made-up", "hint_source": "steps", "family": "",
        "samples": n, "plain_correct": plain, "hinted_correct": hinted, "plain_tokens": 10.0, "hinted_tokens": 10.0,
        "kl": 0.05, "nll_change": 0.05,
    } | more  # fmt: skip
    assert found.keys() == set(UTILITY.names)
    return found


def shown(summary: dict, width: int = 80) -> str:
    out = io.StringIO()
    render_utility(summary, Console(file=out, width=width, highlight=False))
    return out.getvalue()


class Planted:
    """An engine that answers right with probability 0 or 1, as `is_right(prompt, number of the sample)` says."""

    def __init__(self, work: Workspace, is_right, *, stop_at: int | None = None):
        self.answers = {problem.problem_id: problem.answer for problem in work.book(work.reference, work.problems)
                        .problems.values()}
        self.tokenizer, self.is_right, self.stop_at, self.calls = work.reference.tokenizer, is_right, stop_at, 0

    def sample(self, requests, sampling):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        seen: dict[str, int] = {}
        found = []
        for request in requests:
            name = request.prompt.problem_id
            number = seen[name] = seen.get(name, -1) + 1
            value = int(self.answers[name]) + (not self.is_right(request.prompt, number))
            ids = self.tokenizer(f"\\boxed{{{value}}}", add_special_tokens=False)["input_ids"]
            ids = np.array([*ids, self.tokenizer.eos_token_id], np.int32)
            top = np.tile(np.arange(sampling.top_ids, dtype=np.int32), (len(ids), 1))
            found.append(Sample(ids, np.zeros(len(ids), np.float32), top, "stop"))
        return found

    def release(self) -> None:
        pass


def is_hinted(prompt, number: int = 0) -> bool:
    return "Look only at" in prompt.text


@pytest.fixture
def opened(small_recipe, tmp_path):
    """A run with a few problems and their hints: `work, hints = opened(overrides…)`."""

    def make(*overrides: str, run: Path | None = None):
        work = Workspace(small_recipe(*FEW, *overrides), run or tmp_path / "run")
        hints = work.make_hints(work.plan_hints())
        work.store_recipe()
        return work, hints

    return make


def score(work: Workspace, hints: Artifact, *, engine=None, samples=4, limit=None, **how) -> Artifact:
    plan = plan_utility(work.recipe, work.run, hints, work.reference.hashes, samples=samples, limit=limit)
    book = work.book(work.reference, work.problems, hints)
    return make_utility(work.recipe, plan, book, engine or HfEngine(work.reference), work.reference, **how)


def rows_of(artifact: Artifact) -> list[dict]:
    return artifact.table("utility").to_pylist()


# --- figures by hand --------------------------------------------------------------------------------------------------

# Families: p and q hang together. Without a hint two problems fail throughout, q and s.
ROWS = [
    row("p", 2, 4, category="x", family="f", kl=0.2, nll_change=0.1, hinted_tokens=20.0),
    row("q", 0, 3, category="x", family="f", kl=0.4),
    row("r", 4, 3, category="y", hint_source="expert", kl=0.0),
    row("s", 0, 0, category="y", plain_tokens=30.0),
]


def test_figures_worked_out_by_hand():
    summary = summarise_utility(ROWS, seed=3, resamples=500)
    whole = summary["all"]
    assert summary["samples"] == 4 and whole["problems"] == 4
    assert whole["plain"]["accuracy"]["mean"] == pytest.approx((0.5 + 0 + 1 + 0) / 4)
    assert whole["hinted"]["accuracy"]["mean"] == pytest.approx((1 + 0.75 + 0.75 + 0) / 4)
    assert whole["gain"]["difference"] == pytest.approx((0.5 + 0.75 - 0.25 + 0) / 4)
    assert {name: whole["gain"][name] for name in ("better", "same", "worse")} == {"better": 2, "same": 1, "worse": 1}
    # p: of its 6 pairs 1 holds no right answer; r: of 4 samples with the hint 1 is wrong, so every pair holds one.
    assert whole["plain"]["pass_at_k"] == pytest.approx({"1": 0.375, "2": (5 / 6 + 0 + 1 + 0) / 4, "4": 0.5})
    assert whole["hinted"]["pass_at_k"] == pytest.approx({"1": 0.625, "2": 0.75, "4": 0.75})
    assert whole["all_fail"]["problems"] == 2
    assert whole["all_fail"]["counts"] == {"unrecovered": 1, "below_half": 0, "half_or_more": 1, "all_pass": 0}
    assert whole["all_fail"]["shares"]["half_or_more"] == whole["all_fail"]["recovered"]["mean"] == 0.5
    assert whole["kl"]["mean"] == pytest.approx(0.65 / 4) and whole["nll_change"]["mean"] == pytest.approx(0.25 / 4)
    assert whole["tokens_change"]["mean"] == pytest.approx((10 - 20) / 4)
    assert list(summary["categories"]) == ["x", "y"] and summary["categories"]["x"]["problems"] == 2
    assert list(summary["hint_sources"]) == ["steps", "expert"]
    assert summary["hint_sources"]["expert"]["all_fail"] == {
        "problems": 0, "counts": dict.fromkeys(whole["all_fail"]["counts"], 0), "shares": None, "recovered": None,
    }  # fmt: skip
    json.dumps(summary, allow_nan=False)


def test_the_interval_of_the_gain_draws_families():
    clusters = [("f",), ("f",), ("r",), ("s",)]
    plain, hinted = [0.5, 0, 1, 0], [1, 0.75, 0.75, 0]
    expected = paired_difference(plain, hinted, clusters=clusters, resamples=500, seed=3)
    whole = summarise_utility(ROWS, seed=3, resamples=500)["all"]
    assert {name: whole["gain"][name] for name in expected} == expected
    expected = bootstrap_interval([0.2, 0.4, 0.0, 0.05], clusters=clusters, resamples=500, seed=3)
    assert whole["kl"]["interval"] == pytest.approx(list(expected))
    alone = summarise_utility([one | {"family": ""} for one in ROWS], seed=3, resamples=500)["all"]
    assert alone["gain"]["interval"] != whole["gain"]["interval"]


@pytest.mark.parametrize(("n", "titles"), [
    (1, ["0", "1"]), (2, ["0", "1", "2"]), (5, ["0", "1–2", "3–4", "5"]), (8, ["0", "1–3", "4–7", "8"]),
    (16, ["0", "1–7", "8–15", "16"]),
])  # fmt: skip
def test_the_classes_of_recovery_hold_every_count_once(n, titles):
    """For n = 16 they are the paper's: unrecovered, 1–7, 8–15, all 16."""
    assert list(recovery_titles(n).values()) == titles
    summary = summarise_utility([row(str(c), 0, c, n) for c in range(n + 1)], seed=0, resamples=10)
    counts = summary["all"]["all_fail"]["counts"]
    sizes = {name: int(t.split("–")[-1]) - int(t.split("–")[0]) + 1 for name, t in recovery_titles(n).items()}
    assert counts == dict.fromkeys(counts, 0) | sizes and sum(counts.values()) == n + 1


def test_two_benchmarks_keep_their_categories_apart():
    rows = [row("p", 0, 1, category="x"), row("q", 0, 1, category="x", data_source="other")]
    summary = summarise_utility(rows, seed=0, resamples=10)
    assert list(summary["categories"]) == ["made-up: x", "other: x"] and list(summary["benchmarks"]) == ["made-up",
                                                                                                         "other"]


def test_warnings_are_given_where_they_are_due_and_nowhere_else():
    def warned(rows):
        return "\n".join(summarise_utility(rows, seed=0, resamples=200)["warnings"])

    good = [row(f"{i}", 0, 4) for i in range(30)]
    assert warned(good) == ""
    assert "29 problems fail all 4 samples without a hint: too few" in warned(good[1:])
    assert "nothing to recover" in warned([row(f"{i}", 2, 4) for i in range(40)])
    mixed = [row(f"{i}", 0, i % 2) for i in range(30)] + [row(f"w{i}", 4, 3) for i in range(14)]
    assert "includes 0" in warned(mixed) and "lower" not in warned(mixed)
    worse = good[:2] + [row(f"w{i}", 4, 1, category="y") for i in range(40)]
    assert "accuracy is lower with these hints than without, by 0.667" in warned(worse)
    assert "includes 0" not in warned(worse) and "lower accuracy in y" in warned(worse)
    many = [row(f"{i}/{j}", 4, 1, category=f"c{i}") for i in range(7) for j in range(3)]
    assert "lower accuracy in c0, c1, c2, c3, c4 and 2 more" in warned(many)
    unread = [one | {"kl": 2e-4} for one in good]
    assert "hardly reads" in warned(unread) and "2.0e-04 nats" in warned(unread)


def test_tables_are_readable_at_80_columns():
    more = [row(f"{i}", i % 5, 4, category=f"a category of some length {i % 3}", family="") for i in range(30)]
    text = shown(summarise_utility(ROWS + more, seed=3, resamples=200))
    assert max(map(len, text.splitlines())) <= 80
    for line in (r"x +2 +0.250 +0.875 +\+0.625", r"all +34 ", r"right of 4 with the hint +all-fail +0 +1 +2–3 +4",
                 r"KL +ΔNLL", r"steps +33 ", r"expert +1 ", r"pass@k, hinted: 1: 0.\d+", r"raises accuracy of 26"):
        assert re.search(line, text), (line, text)


def test_tables_say_the_same_of_a_summary_that_was_read_back():
    """A manifest sorts its keys by their spelling: 16 comes before 2."""
    summary = summarise_utility([row(f"{i}", i, 16, 16) for i in range(17)], seed=0, resamples=50)
    read_back = json.loads(json.dumps(summary, sort_keys=True))
    assert list(read_back["all"]["plain"]["pass_at_k"]) != list(summary["all"]["plain"]["pass_at_k"])
    assert shown(read_back) == shown(summary) and re.search(r"hinted: 1: .*, 2: .*, 8: .*, 16: ", shown(read_back))


# --- divergences ------------------------------------------------------------------------------------------------------


def logprobs_by_hand(policy, prompt, ids: torch.Tensor, temperature: float) -> np.ndarray:
    """log softmax in float64 of one plain call of a float64 model; image tokens have no probability."""
    tokens = torch.cat([prompt.token_ids_L, ids])[None]
    with torch.no_grad():
        logits = policy.model(
            input_ids=tokens,
            mm_token_type_ids=torch.cat([prompt.type_ids_L, torch.zeros_like(ids)])[None],
            attention_mask=torch.ones_like(tokens),
            pixel_values=prompt.pixel_values.to(policy.model.dtype),
            image_grid_thw=prompt.image_grid_thw,
            use_cache=False,
        ).logits[0, len(prompt) - 1 : -1]
    logits = np.delete(logits.numpy() / temperature, policy.media_ids, axis=1)
    exps = np.exp(logits - logits.max(1, keepdims=True))
    return np.log(exps / exps.sum(1, keepdims=True))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_and_nll_are_those_of_a_full_softmax_in_float64(opened, temperature):
    work, hints = opened(f"rollout.temperature={temperature}", "data.count=4")
    reference, book = work.reference, work.book(work.reference, work.problems, hints)
    ids = list(book.problems)
    plain, hinted = book.students(ids), book.teachers(ids)
    rng = np.random.default_rng(5)
    allowed = np.setdiff1d(np.arange(len(reference.tokenizer)), reference.media_ids)
    answers = [Sample(rng.choice(allowed, n).astype(np.int32), np.zeros(n), None, "stop") for n in (1, 7, 3, 12)]
    found = distribution_changes(work.recipe, reference, plain, hinted, answers)
    exact = replace(reference, model=copy.deepcopy(reference.model).double())
    largest = []
    for one, other, answer, (kl_T, change_T) in zip(plain, hinted, answers, found, strict=True):
        tokens = torch.from_numpy(answer.token_ids_T).long()
        log_p, log_q = (logprobs_by_hand(exact, prompt, tokens, temperature) for prompt in (one, other))
        assert kl_T.dtype == change_T.dtype == np.float32
        by_hand = (np.exp(log_p) * (log_p - log_q)).sum(1)
        assert kl_T == pytest.approx(by_hand, rel=1e-3, abs=2e-5)
        largest.append(by_hand.max())
        columns = [int(t) - sum(m < t for m in reference.media_ids) for t in tokens]
        rows = np.arange(len(tokens))
        by_hand = log_p[rows, columns] - log_q[rows, columns]
        assert change_T == pytest.approx(by_hand, rel=1e-4, abs=2e-4)
        largest.append(np.abs(by_hand).max())
    assert min(largest[2:]) > 0.1       # the first answer has a single token


def test_batches_and_chunks_do_not_matter_and_hold_no_more_than_they_may(opened, monkeypatch):
    work, hints = opened()
    book = work.book(work.reference, work.problems, hints)
    ids, engine = list(book.problems)[:5], HfEngine(work.reference)
    vocabulary, largest = work.reference.model.config.get_text_config().vocab_size, []
    make_logits = logprobs.response_logits

    def watched(*arguments, **settings):
        logits_nV = make_logits(*arguments, **settings)
        largest.append(logits_nV.numel())
        return logits_nV

    expected = measure(work.recipe, book, engine, work.reference, ids, samples=2)
    monkeypatch.setattr(logprobs, "response_logits", watched)
    for tokens, logits in ((1, 10), (300, 14 * vocabulary), (10_000, 10**9)):
        train = work.recipe.train.model_copy(update={"tokens_per_micro_batch": tokens, "logits_per_chunk": logits})
        largest.clear()
        found = measure(work.recipe.model_copy(update={"train": train}), book, engine, work.reference, ids, samples=2)
        for one, other in zip(found, expected, strict=True):
            assert {k: v for k, v in one.items() if k not in ("kl", "nll_change")} == {
                k: v for k, v in other.items() if k not in ("kl", "nll_change")
            }
            assert [one["kl"], one["nll_change"]] == pytest.approx([other["kl"], other["nll_change"]], abs=2e-5)
        assert max(largest) <= max(vocabulary, logits / 2)


def test_a_hint_that_says_nothing_changes_nothing(opened):
    """The same prompt twice: the same random numbers give the same answers, and the divergence is 0."""
    work, hints = opened("rollout.temperature=2.0")
    book = work.book(work.reference, work.problems, hints)
    book.hints = {problem_id: Hint(problem_id, "", source="empty") for problem_id in book.problems}
    rows = measure(work.recipe, book, HfEngine(work.reference), work.reference, list(book.problems), samples=4)
    assert any(0 < one["plain_correct"] < 4 for one in rows)
    for one in rows:
        assert one["plain_correct"] == one["hinted_correct"] and one["plain_tokens"] == one["hinted_tokens"]
        assert one["kl"] == pytest.approx(0, abs=1e-6) and one["nll_change"] == pytest.approx(0, abs=1e-6)


def test_broken_logits_stop_the_stage(opened):
    work, hints = opened()
    engine = Planted(work, is_hinted)
    with torch.no_grad():
        work.reference.model.lm_head.weight[7] = float("nan")
    with pytest.raises(PtdpoError, match="the reference's logits hold NaN or inf"):
        score(work, hints, engine=engine)


# --- planted engines, kills, parts ------------------------------------------------------------------------------------


def test_an_engine_that_is_right_with_a_hint_alone_recovers_everything(opened):
    work, hints = opened()
    found = score(work, hints, engine=Planted(work, is_hinted))
    whole = found.manifest.extra["summary"]["all"]
    assert whole["gain"]["difference"] == 1 and whole["gain"]["interval"] == [1, 1] and whole["gain"]["better"] == 10
    assert whole["all_fail"]["problems"] == 10 and whole["all_fail"]["shares"]["all_pass"] == 1
    assert whole["plain"]["pass_at_k"]["4"] == 0 and whole["hinted"]["pass_at_k"]["1"] == 1
    counts = {"problems": 10, "answers": 80, "plain_correct": 0, "hinted_correct": 40, "skipped": 0}
    assert found.manifest.counts == counts and found.manifest.stage == "hints-score"
    assert found.manifest.inputs == {"problems": work.problems.content_hash, "hints": hints.content_hash}
    contrary = score(work, hints, engine=Planted(work, lambda *of: not is_hinted(*of)), force=True)
    whole = contrary.manifest.extra["summary"]["all"]
    assert whole["gain"]["difference"] == -1 and whole["gain"]["worse"] == 10 and whole["all_fail"]["problems"] == 0
    partly = score(work, hints, engine=Planted(work, lambda prompt, i: is_hinted(prompt) and i < 3), force=True)
    assert partly.manifest.extra["summary"]["all"]["all_fail"]["counts"]["half_or_more"] == 10


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir() if p.name != "manifest.json"}


def test_killed_and_resumed_and_in_parts_it_is_the_same(opened, tmp_path):
    work, hints = opened("rollout.problems_per_shard=2", "data.count=7")
    whole = score(work, hints, samples=2)
    assert whole.shards() == 4
    for name in ("killed", "parts"):
        shutil.copytree(work.run, tmp_path / name)
        shutil.rmtree(tmp_path / name / "utility")
    other = Workspace(work.recipe, tmp_path / "killed")

    class Killed(HfEngine):
        calls = 0

        def sample(self, requests, sampling):
            Killed.calls += 1
            if Killed.calls == 6:       # without the hint, and with it: in the middle of the third shard
                raise KeyboardInterrupt
            return super().sample(requests, sampling)

    with pytest.raises(KeyboardInterrupt):
        score(other, hints, engine=Killed(other.reference), samples=2)
    assert len(list(partial_dir(tmp_path / "killed" / "utility" / whole.path.name).glob("shard-*.json"))) == 2
    resumed = score(other, hints, engine=Killed(other.reference), samples=2)
    assert Killed.calls == 6 + 4        # what was finished is not done again
    assert contents(resumed.path) == contents(whole.path) and resumed.content_hash == whole.content_hash
    other = Workspace(work.recipe, tmp_path / "parts")
    for index in (1, 0):
        part = score(other, hints, part=Part(2, index), samples=2)
        assert "summary" not in part.manifest.extra
    merge(tmp_path / "parts")
    (path,) = artifact_paths(tmp_path / "parts" / "utility")
    assert contents(path) == contents(whole.path) and Artifact.open(path).content_hash == whole.content_hash


def test_what_the_key_depends_on(opened, small_recipe, tmp_path):
    work, hints = opened()

    def key(*overrides, samples=4, limit=None, hashes=work.reference.hashes):
        recipe = small_recipe(*FEW, *overrides)
        return plan_utility(recipe, work.run, hints, hashes, samples=samples, limit=limit).key

    same = ("rollout.problems_per_iteration=8", "rollout.rollouts_per_problem=6", "teacher.top_k=50",
            "reward.format_weight=0", "hints.min_gain=0", "train.logits_per_chunk=9")  # fmt: skip
    assert {key(one) for one in same} == {key()}
    other = ("rollout.temperature=0.5", "rollout.top_p=0.5", "rollout.max_new_tokens=9", "teacher.context=shuffled",
             "reward.extraction=[boxed, phrase]", "prompt.instruction=Think.", "seed=5")  # fmt: skip
    keys = [key(), key(samples=5), key(limit=3), key(hashes=work.reference.hashes | {"weights": "0" * 64}),
            *(key(one) for one in other)]
    assert len(set(keys)) == 4 + len(other)


def test_without_a_hint_or_a_teacher_there_is_nothing_to_measure(opened):
    work, hints = opened("hints.source=none")
    with pytest.raises(UsageError, match="no problem has a hint"):
        score(work, hints)
    work, hints = opened("teacher.context=none")
    with pytest.raises(UsageError, match="reads no hints"):
        score(work, hints)


# --- hints.min_gain ---------------------------------------------------------------------------------------------------


def planted_gains(work: Workspace, hints: Artifact) -> tuple[Planted, dict[str, float]]:
    """An engine by which the problems' hints have, in turn, the gains +1, 0, −0.5 and +0.5."""
    ids = work.problems.table("problems")["problem_id"].to_pylist()
    right = {"plain": (0, 4, 4, 2), "hinted": (4, 4, 2, 4)}     # of four samples

    def is_right(prompt, number):
        side = "hinted" if is_hinted(prompt) else "plain"
        return number < right[side][ids.index(prompt.problem_id) % 4]

    return Planted(work, is_right), {
        name: (right["hinted"][i % 4] - right["plain"][i % 4]) / 4 for i, name in enumerate(ids)
    }


@pytest.mark.parametrize("min_gain", [-0.5, 0.0, 0.5, 0.75, 1.0])
def test_exactly_the_hints_of_too_small_a_gain_are_dropped(opened, min_gain):
    work, hints = opened(f"hints.min_gain={min_gain}")
    engine, gains = planted_gains(work, hints)
    measured = score(work, hints, engine=engine)
    kept = work.hints()
    dropped = {name for name, gain in gains.items() if gain < min_gain}
    before, after = ({one["problem_id"]: one for one in a.table("hints").to_pylist()} for a in (hints, kept))
    assert list(after) == list(before)
    for name, one in after.items():
        if name not in dropped:
            assert one == before[name]
        else:
            assert one["hint"] is None and one["steps"] == [] and one["refused"] == before[name]["hint"]
            shares = {0.0: "1.00 with it, 1.00", -0.5: "0.50 with it, 1.00", 0.5: "1.00 with it, 0.50"}
            assert one["refusal"] == f"does not help: {shares[gains[name]]} without"
    assert kept.manifest.counts == {"problems": 10, "hints": 10 - len(dropped), "refused": 0, "dropped": len(dropped)}
    assert kept.manifest.stage == "keep-helpful" and kept.content_hash != hints.content_hash
    assert kept.manifest.inputs == {"problems": work.problems.content_hash, "hints": hints.content_hash,
                                    "utility": measured.content_hash}  # fmt: skip
    assert work.hints(make=True).content_hash == work.hints(kept.path).content_hash == kept.content_hash


def test_a_dropped_problem_gets_plain_grpo(opened):
    """score-ref reads failed rollouts of the problems whose hints help, and of no other."""
    work, hints = opened("hints.min_gain=0.5", "rollout.problems_per_iteration=10")
    engine, gains = planted_gains(work, hints)
    score(work, hints, engine=engine)
    kept = work.hints()
    book = work.book(work.reference, work.problems, kept)
    plan = plan_rollout(work.recipe, work.run, work.problems, work.reference.hashes)
    failing = Planted(work, lambda prompt, number: False)
    rollouts = make_rollouts(work.recipe, plan, book, failing, work.reference)
    plan = plan_score_ref(work.recipe, work.run, rollouts, kept, work.reference)
    assert plan.hint_hash == kept.content_hash
    scores = make_scores(work.recipe, plan, book, work.reference, rollouts).table("scores").to_pylist()
    gated = {one["rollout_id"].rpartition("/")[0] for one in scores if one["is_gated"]}
    assert gated == {name for name, gain in gains.items() if gain >= 0.5} and 0 < len(gated) < 10


def test_dropped_hints_are_not_refused_ones(opened):
    """hints.max_refused is about leaks: nine dropped of ten are no reason to stop."""
    work, hints = opened("hints.min_gain=1", "hints.max_refused=0.1")
    ids = work.problems.table("problems")["problem_id"].to_pylist()
    helped = Planted(work, lambda prompt, number: is_hinted(prompt) and prompt.problem_id == ids[3])
    score(work, hints, engine=helped)
    assert work.hints().manifest.counts["dropped"] == 9


def test_maps_of_the_hints_stay(opened):
    work, hints = opened("hints.min_gain=0.5")
    table = hints.table("hints")
    plan = replace(work.plan_hints(), section={"source": "with maps"})
    tensors = {"map_offsets": np.array([0, 6]), "map_values": np.arange(6, dtype=np.float32),
               "map_shapes": np.array([[2, 3]], np.int32), "map_of": np.array([[4, 0]], np.int32)}  # fmt: skip
    with plan.writer() as writer:
        writer.write_shard(0, tables={"hints": table.cast(pa.schema(HINTS))}, tensors={"hints": tensors})
        mapped = writer.finish(counts=hints.manifest.counts)
    score(work, mapped, engine=planted_gains(work, mapped)[0])
    kept = work.hints(mapped.path)
    assert kept.manifest.counts["dropped"] == 5
    (found,) = read_maps(kept)[table["problem_id"][4].as_py()]
    assert np.array_equal(found, np.arange(6).reshape(2, 3))


def test_hints_that_were_not_all_measured_are_neither_kept_nor_dropped(opened, tmp_path):
    work, hints = opened("hints.min_gain=0")
    with pytest.raises(ArtifactError, match="were not measured") as unmeasured:
        work.hints(make=True)
    assert f"`ptdpo hints score {hints.path}`" in unmeasured.value.hint
    engine = planted_gains(work, hints)[0]
    score(work, hints, engine=engine, limit=9)
    with pytest.raises(ArtifactError, match="some of these hints were not measured") as some:
        work.hints()
    assert some.value.expected.startswith("10 of") and some.value.found.startswith("9 ")
    assert f"`ptdpo hints score {hints.path}`" in some.value.hint
    score(work, hints, engine=engine)
    assert work.hints().manifest.counts["dropped"] == 2
    elsewhere, _ = opened("hints.min_gain=0", "rollout.temperature=0.5")        # measured at another temperature
    with pytest.raises(ArtifactError, match="were not measured"):
        elsewhere.hints()
    placed, _ = opened("hints.min_gain=0", "rollout.problems_per_shard=5")      # only cut otherwise
    assert placed.hints().content_hash == work.hints().content_hash
    score(work, hints, engine=engine, samples=2)
    with pytest.raises(ArtifactError, match="several measurements"):
        work.hints()


def test_no_hint_that_helps_is_nothing_to_tutor_with(opened):
    work, hints = opened("hints.min_gain=0.25")
    score(work, hints, engine=Planted(work, lambda prompt, number: True))
    with pytest.raises(UsageError, match="no hint helps"):
        work.hints()


def test_without_the_key_nothing_changes(opened):
    work, hints = opened()
    score(work, hints, engine=Planted(work, lambda *of: not is_hinted(*of)))
    assert work.hints().content_hash == work.hints(hints.path).content_hash == hints.content_hash


# --- from the command line --------------------------------------------------------------------------------------------

SETTINGS = (*TINY, *(word for one in FEW for word in ("--set", one)))


def snapshot(run: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_from_hints_to_training_without_those_that_do_not_help(tmp_path):
    run, picture = tmp_path / "run", tmp_path / "new" / "utility.png"
    hints = done("build-hints", *SETTINGS, "--run", run).path
    ended = ptdpo("hints", "score", run / "hints", "--n", 4, "--out", picture, "--json")
    assert ended.code == 0, ended.err
    whole = ended.json["summary"]["all"]
    assert whole["hinted"]["accuracy"]["mean"] > whole["plain"]["accuracy"]["mean"] + 0.2
    assert whole["gain"]["interval"][0] > 0 and whole["kl"]["mean"] > 0.1
    assert "question only" in ended.err and re.search(r"all +10 +0\.\d+ +\d\.\d+ +\+0\.\d+", ended.err), ended.err
    assert ended.json["picture"] == str(picture) and min(Image.open(picture).size) > 500
    again = ptdpo("hints", "score", hints, "--n", 4, "--json")
    assert again.json["already_done"] and again.json["content_hash"] == ended.json["content_hash"]

    training = ("--run", run, "--set", "hints.min_gain=0.1", "--set", "train.iterations=1")
    before = snapshot(run)
    dry = done("train", *SETTINGS, *training, "--dry-run").out
    dropped = whole["gain"]["same"] + whole["gain"]["worse"]
    assert 0 < dropped < 10 and f"{dropped} of 10 are dropped" in dry and snapshot(run) == before
    trained = ptdpo("train", *SETTINGS, *training)
    assert trained.code == 0 and f"{dropped} of 10 hints are dropped" in trained.err
    helpful = [Artifact.open(path) for path in artifact_paths(run / "hints") if path != hints]
    assert [one.manifest.counts["dropped"] for one in helpful] == [dropped]
    assert Artifact.open(trained.path).manifest.inputs["hints"] == helpful[0].content_hash
    done("verify", run)


def test_a_dry_run_says_what_is_missing_and_touches_nothing(tmp_path):
    run = tmp_path / "run"
    done("build-hints", *SETTINGS, "--run", run)
    before = snapshot(run)
    says = ("these hints were not measured", "ptdpo hints score")
    refused(3, "train", *SETTINGS, "--run", run, "--set", "hints.min_gain=0", "--dry-run", says=says)
    assert snapshot(run) == before


def test_controls_say_nothing_of_a_problem(tmp_path):
    """The same words for every problem: what is left of the gain is what any longer prompt gives."""
    done("build-hints", *SETTINGS, "--run", tmp_path / "generic", "--source", "generic")
    whole = done("hints", "score", tmp_path / "generic" / "hints", "--n", 4, "--json").json["summary"]["all"]
    assert whole["gain"]["difference"] < 0.1 and whole["problems"] == 10
    done("build-hints", *SETTINGS, "--run", tmp_path / "none", "--source", "none")
    refused(2, "hints", "score", tmp_path / "none" / "hints", says=("no problem has a hint",))


def test_prompts_that_are_too_long_are_left_out_and_counted(tmp_path):
    """A hint that its teacher cannot read was looked at: it is neither missing nor dropped."""
    long = ["Look at the picture very " + "very " * 60 + "slowly."]
    plain = {"problem": "How many dots?", "images": [], "answer": "4", "solution": None, "regions": None}
    data = jsonl(tmp_path / "mine.jsonl", *(plain | {"steps": steps} for steps in (["Look at it."], long, ["Count."])))
    settings = ("prompt.instruction=''", "prompt.max_prompt_tokens=120", "rollout.max_new_tokens=3",
                "hints.audit=false", f"model.path={families.folder('qwen3_vl')}")  # fmt: skip
    mine = ("--data", data, "--run", tmp_path / "run", *(word for one in settings for word in ("--set", one)))
    hints = done("build-hints", *mine, "--set", "prompt.too_long=skip").path
    ended = ptdpo("hints", "score", hints, "--n", 2, "--json")
    assert ended.code == 0 and "1 problems left out: their prompts are too long" in ended.err, ended.err
    assert ended.json["counts"]["problems"] == 2 and ended.json["counts"]["skipped"] == 1
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml", ["hints.min_gain=-1"])
    counts = Workspace(recipe, tmp_path / "run").hints().manifest.counts
    assert counts["hints"] == 3 and counts["dropped"] == 0
    again = ptdpo("hints", "score", hints, "--n", 2, "--set", "prompt.too_long=refuse", "--json")
    assert again.json["counts"]["skipped"] == 1     # the hint is refused, whatever the recipe says of prompts


def test_a_picture_that_cannot_be_drawn_is_refused_before_anything_is_measured(tmp_path):
    run = tmp_path / "run"
    hints = done("build-hints", *SETTINGS, "--run", run).path
    refused(2, "hints", "score", hints, "--out", tmp_path / "u.jpg", says=("u.jpg is no name for a picture", "u.png"))
    assert not (run / "utility").exists()


def test_other_problems_and_other_pictures_are_refused(tmp_path, monkeypatch):
    run = tmp_path / "run"
    done("build-hints", *SETTINGS, "--run", run)
    refused(3, "hints", "score", run / "hints", "--set", "data.count=11", says=("was made from other problems",))
    summary = summarise_utility(ROWS, seed=0, resamples=50)
    with pytest.raises(UsageError, match="is no name for a picture"):
        draw_utility(summary, tmp_path / "utility.doc")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UsageError, match="need matplotlib") as missing:
        draw_utility(summary, tmp_path / "utility.png")
    assert "ptdpo[demo]" in missing.value.hint
