"""The stages together: loop against separate commands, kills, contexts, refusals, a policy that others can open."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ptdpo_cli.artifacts.hints import read_hints
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.engines import Request, Sampling
from ptdpo_cli.engines.hf import HfEngine
from ptdpo_cli.errors import ArtifactError, PtdpoError
from ptdpo_cli.models.load import load_policy
from ptdpo_cli.stages import score_ref as scoring
from ptdpo_cli.stages.metrics import read_metrics
from ptdpo_cli.stages.rollout import make_rollouts, plan_rollout, problems_of_iteration, read_rollouts
from ptdpo_cli.stages.score_ref import make_scores, plan_score_ref, read_scores, teacher_scores, union
from ptdpo_cli.stages.train import plan_update, run_loop, train_iteration, update_once
from ptdpo_cli.stages.train_state import load_state
from ptdpo_cli.stages.workspace import Workspace


def loop(recipe, run: Path) -> Artifact:
    artifact, _ = run_loop(Workspace(recipe, run), None, force=False, warn=print, say=lambda text: None)
    return artifact


def sample(work, policy, problems=None):
    book = work.book(policy, work.problems, work.hints(make=True))
    plan = plan_rollout(work.recipe, work.run, work.problems, policy.hashes)
    return book, make_rollouts(work.recipe, plan, book, HfEngine(policy), policy)


def test_loop_and_chain_end_in_equal_bits(tmp_path, small_recipe):
    """Three iterations in one process, and as nine calls that know only what lies on disk."""
    recipe = small_recipe("train.kl_weight=0.01", "train.updates_per_iteration=2")
    in_process = loop(recipe, tmp_path / "loop")
    path = recipe.model.path
    for _ in range(recipe.train.iterations):
        work = Workspace(recipe, tmp_path / "chain")
        policy = work.policy(path)
        iteration = json.loads((Path(path) / "trainer.json").read_text())["iteration"] if path != "tiny-base" else 0
        book = work.book(policy, work.problems, work.hints(make=True))
        plan = plan_rollout(recipe, work.run, work.problems, policy.hashes, iteration=iteration)
        rollouts = make_rollouts(recipe, plan, book, HfEngine(policy), policy)
        plan = plan_score_ref(recipe, work.run, rollouts, work.hints(), work.reference)
        scores = make_scores(recipe, plan, book, work.reference, rollouts)
        state = load_state(recipe, policy)
        artifact, _ = update_once(
            recipe, plan_update(recipe, work.run, policy, rollouts, scores), book, state, rollouts, scores
        )
        path = str(artifact.path)
    assert artifact.manifest.extra["weights"] == in_process.manifest.extra["weights"]
    for name in ("model.safetensors", "trainer.safetensors"):
        assert (artifact.path / name).read_bytes() == (in_process.path / name).read_bytes()


def test_killed_at_random_moments_it_ends_as_if_unbroken(tmp_path, small_recipe):
    """kill -9 twenty times, at moments spread over the whole run; weights, files and content hash as without."""
    recipe = small_recipe("train.iterations=6")
    unbroken = loop(recipe, tmp_path / "whole")
    started = time.perf_counter()
    loop(recipe, tmp_path / "timed")
    whole_s = time.perf_counter() - started
    seed = 20
    print(f"seed {seed}")
    moments, killed = random.Random(seed), 0
    while killed < 20:
        child = os.fork()
        if child == 0:  # forked, not spawned: the imports are done, so the kill falls into the work
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            loop(recipe, tmp_path / "broken")
            os._exit(0)
        time.sleep(moments.uniform(0, whole_s / 8))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            break
    broken = loop(recipe, tmp_path / "broken")
    print(f"killed {killed} times")
    assert killed >= 10, "the run ended before it could be killed often enough to mean something"
    assert broken.manifest.content_hash == unbroken.manifest.content_hash
    assert (broken.path / "model.safetensors").read_bytes() == (unbroken.path / "model.safetensors").read_bytes()
    timeless = [
        [{k: v for k, v in line.items() if not k.startswith("seconds") and k != "tokens_per_s"} for line in lines]
        for lines in (read_metrics(tmp_path / run / "logs" / "metrics.jsonl") for run in ("whole", "broken"))
    ]
    assert timeless[0] == timeless[1] and len(timeless[0]) == recipe.train.iterations
    kept = {kind: len(list((tmp_path / "broken" / kind).glob("v*"))) for kind in ("rollouts", "scores")}
    assert kept == {"rollouts": recipe.train.keep_iterations, "scores": recipe.train.keep_iterations}


def test_a_terminated_loop_saves_the_last_whole_iteration(tmp_path, small_recipe):
    recipe = small_recipe("train.iterations=400", "train.checkpoint_every=1000")
    child = os.fork()
    if child == 0:
        from ptdpo_cli import signals
        from ptdpo_cli.errors import Terminated

        signals.install()
        try:
            loop(recipe, tmp_path)
        except Terminated as error:
            os._exit(error.exit_code)
        os._exit(99)
    metrics = tmp_path / "logs" / "metrics.jsonl"
    while len(read_metrics(metrics)) < 2:
        time.sleep(0.02)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    (policy,) = [Artifact.open(p, kind="policy") for p in (tmp_path / "policy").glob("v*") if p.suffix == ""]
    assert policy.manifest.counts["iteration"] == len(read_metrics(metrics)) >= 2


def test_a_longer_run_goes_on_from_the_shorter_one(tmp_path, small_recipe):
    loop(small_recipe("train.iterations=2"), tmp_path / "run")
    longer = loop(small_recipe("train.iterations=4"), tmp_path / "run")
    at_once = loop(small_recipe("train.iterations=4"), tmp_path / "other")
    assert longer.manifest.content_hash == at_once.manifest.content_hash


def test_stock_transformers_open_the_policy_and_say_the_same(tmp_path, small_recipe):
    from transformers import AutoModelForImageTextToText

    artifact = loop(small_recipe("train.iterations=1"), tmp_path)
    stock = AutoModelForImageTextToText.from_pretrained(artifact.path)
    work = Workspace(small_recipe(), tmp_path)
    policy = work.policy(artifact.path)
    prompts = work.book(policy, work.problems).students(list(p.problem_id for p in _problems(work))[:6])
    ours = HfEngine(policy).sample([Request(p, 0) for p in prompts], Sampling(64, temperature=0.0))
    for prompt, answer in zip(prompts, ours, strict=True):
        ids = stock.generate(
            input_ids=prompt.token_ids_L[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            mm_token_type_ids=prompt.type_ids_L[None],
            pixel_values=prompt.pixel_values,
            image_grid_thw=prompt.image_grid_thw,
            max_new_tokens=64,
            do_sample=False,
        )
        assert ids[0, len(prompt) :].tolist() == answer.token_ids_T.tolist()


def _problems(work):
    from ptdpo_cli.artifacts.problems import read_problems

    return read_problems(work.problems)


def test_sampler_log_probs_are_those_of_a_plain_forward(tmp_path, small_recipe):
    from test_update import plain_forward

    work = Workspace(small_recipe(), tmp_path)
    policy = load_policy("tiny-base")
    book, rollouts = sample(work, policy)
    for group in read_rollouts(rollouts):
        for rollout in group[:3]:
            (prompt,) = book.students([rollout.problem_id])
            ids = torch.from_numpy(rollout.token_ids_T).long()
            logp = plain_forward(policy, prompt, ids).log_softmax(1)[torch.arange(len(ids)), ids]
            assert np.abs(logp.numpy() - rollout.sampler_logprobs_T).max() < 1e-4


def test_one_temperature_for_sampler_and_scorer(tmp_path, small_recipe):
    """At τ = 0.7 the reference, which is the sampler here, gives the sampled tokens the sampler's log-probs."""
    recipe = small_recipe("rollout.temperature=0.7", "train.kl_weight=0.1")
    work = Workspace(recipe, tmp_path)
    policy = load_policy("tiny-base")
    book, rollouts = sample(work, policy)
    scores = make_scores(
        recipe, plan_score_ref(recipe, tmp_path, rollouts, work.hints(), policy), book, policy, rollouts
    )
    groups = list(read_rollouts(rollouts))
    for group, scored in zip(groups, read_scores(scores, groups), strict=True):
        for rollout, score in zip(group, scored, strict=True):
            assert np.abs(score.reference_logprobs_T - rollout.sampler_logprobs_T).max() < 1e-4
    metrics = train_iteration(recipe, load_state(recipe, policy), book, rollouts, scores)
    assert metrics["sampler_mismatch"] < 1e-5


def test_a_sample_does_not_depend_on_its_neighbours(tmp_path, small_recipe):
    work = Workspace(small_recipe(), tmp_path)
    policy = load_policy("tiny-base")
    prompts = work.book(policy, work.problems).students([p.problem_id for p in _problems(work)][:4])
    requests = [Request(p, seed) for seed, p in enumerate(prompts)]
    together = HfEngine(policy).sample(requests, Sampling(32))
    reverse = HfEngine(policy).sample(requests[::-1], Sampling(32))[::-1]
    alone = [HfEngine(policy).sample([r], Sampling(32))[0] for r in requests]
    for a, b, c in zip(together, reverse, alone, strict=True):
        assert a.token_ids_T.tolist() == b.token_ids_T.tolist() == c.token_ids_T.tolist()


def test_vision_tokens_are_never_sampled(tmp_path, small_recipe):
    """Even from a model that wants nothing else."""
    work = Workspace(small_recipe(), tmp_path)
    policy = load_policy("tiny-base")
    with torch.no_grad():
        head = policy.model.lm_head.weight
        head[policy.media_ids] = 50 * head.mean(0)
    prompts = work.book(policy, work.problems).students([p.problem_id for p in _problems(work)][:4])
    samples = HfEngine(policy).sample([Request(p, i) for i, p in enumerate(prompts)], Sampling(32, 1.0, 1.0, 10))
    for s in samples:
        assert not np.isin(s.token_ids_T, policy.media_ids).any()
        assert not np.isin(s.top_ids_TK, policy.media_ids).any()


def test_the_hint_is_in_the_teacher_s_prompt_and_nowhere_else(tmp_path, small_recipe):
    work = Workspace(small_recipe(), tmp_path)
    policy = load_policy("tiny-base")
    hints = read_hints(work.hints(make=True))
    book = work.book(policy, work.problems, work.hints(make=True))
    for problem_id, hint in list(hints.items())[:20]:
        (student,), (teacher,) = book.students([problem_id]), book.teachers([problem_id])
        assert hint.text in teacher.text and hint.text not in student.text
        assert teacher.text.replace(f"\n\n{hint.text}", "") == student.text
        decoded = policy.tokenizer.decode(student.token_ids_L)
        assert not any(sentence in decoded for sentence in hint.text.split(". "))
        assert student.n_image_tokens == teacher.n_image_tokens == 9
        # M-RoPE: after the picture the text goes on from its largest coordinate, in both prompts.
        for prompt in (student, teacher):
            assert int(prompt.positions_3L.max()) == len(prompt) - 1 - (9 - 3)


def test_another_picture_gives_another_teacher_score(tmp_path, small_recipe):
    work = Workspace(small_recipe(), tmp_path)
    policy = load_policy("tiny-base")
    book, artifact = sample(work, policy)
    rollouts = [r for group in read_rollouts(artifact) for r in group][:4]
    teachers = book.teachers([r.problem_id for r in rollouts])
    scores = teacher_scores(work.recipe, policy, teachers, rollouts, temperature=1.0)
    turned = [
        type(p)(
            p.problem_id,
            p.token_ids_L,
            p.type_ids_L,
            p.positions_3L,
            p.pixel_values.flip(0),
            p.image_grid_thw,
            p.text,
            p.images,
        )
        for p in teachers
    ]
    others = teacher_scores(work.recipe, policy, turned, rollouts, temperature=1.0)
    for a, b, rollout in zip(scores, others, rollouts, strict=True):
        assert len(a.sampled_logprobs_T) == len(b.sampled_logprobs_T) == len(rollout.token_ids_T)
        assert np.abs(a.sampled_logprobs_T - b.sampled_logprobs_T).max() > 0.1


def test_a_teacher_without_a_hint_is_the_student(tmp_path, small_recipe):
    """The same context and the same weights: the divergence is 0, and so is its gradient at every support."""
    recipe = small_recipe("teacher.context=none")
    work = Workspace(recipe, tmp_path)
    policy = load_policy("tiny-base")
    book, rollouts = sample(work, policy)
    scores = make_scores(recipe, plan_score_ref(recipe, tmp_path, rollouts, None, policy), book, policy, rollouts)
    policy.model.train()
    from ptdpo_cli.stages.train import iteration_rows
    from ptdpo_cli.stages.update import accumulate_gradients

    groups = list(read_rollouts(rollouts))
    flat_scores = [s for g in read_scores(scores, groups) for s in g]
    rows = [row for row in iteration_rows(recipe, book, [r for g in groups for r in g], flat_scores) if row.is_gated]
    metrics = accumulate_gradients(policy, rows, recipe.train, temperature=1.0)
    assert abs(metrics["distill/jsd"]) < 1e-6
    assert metrics["grad_norm/distill"] < 1e-5


def test_supports_hold_both_top_ks_and_exact_log_probs(tmp_path, small_recipe):
    from test_update import plain_forward

    work = Workspace(small_recipe(), tmp_path)
    policy = load_policy("tiny-base")
    book, artifact = sample(work, policy)
    rollouts = [r for group in read_rollouts(artifact) for r in group]
    hints = work.hints()
    scores = make_scores(
        work.recipe, plan_score_ref(work.recipe, tmp_path, artifact, hints, policy), book, policy, artifact
    )
    flat = [s for g in read_scores(scores, list(read_rollouts(artifact))) for s in g]
    gated = [(r, s) for r, s in zip(rollouts, flat, strict=True) if s.support_TS is not None]
    assert gated and all(r.accuracy == 0 for r, _ in gated)
    assert {r.rollout_id for r, _ in gated} == {r.rollout_id for r in rollouts if r.accuracy == 0}
    for rollout, score in gated[:5]:
        (prompt,) = book.teachers([rollout.problem_id])
        logp = plain_forward(policy, prompt, torch.from_numpy(rollout.token_ids_T).long()).log_softmax(1).numpy()
        for t, ids in enumerate(score.support_TS):
            kept = ids[ids >= 0]
            best = set(np.argsort(-logp[t])[: work.recipe.teacher.top_k])
            assert set(rollout.sampler_top_ids_TK[t]) <= set(kept)
            assert len(best - set(kept)) <= 1  # two ids may tie at the boundary in float32
            assert np.abs(score.teacher_logprobs_TC[t, :-1][ids >= 0] - logp[t, kept]).max() < 1e-3
            mass = np.exp(score.teacher_logprobs_TC[t].astype(float)).sum()
            assert mass == pytest.approx(1, abs=1e-5)


def test_union_of_supports():
    first, second = torch.tensor([[3, 1], [5, 6]]), torch.tensor([[1, 3], [2, 6]])
    assert union(first, second).tolist() == [[1, 3, -1], [2, 5, 6]]


@pytest.mark.parametrize("context", ["shuffled", "blind"])
def test_control_teachers(tmp_path, small_recipe, context):
    recipe = small_recipe(f"teacher.context={context}")
    work = Workspace(recipe, tmp_path)
    book = work.book(load_policy("tiny-base"), work.problems, work.hints(make=True))
    for problem_id in list(book.problems)[:10]:
        (teacher,) = book.teachers([problem_id])
        if context == "blind":
            assert teacher.n_image_tokens == 0 and book.hints[problem_id].text in teacher.text
        else:
            assert teacher.n_image_tokens == 9 and book.hints[problem_id].text not in teacher.text
            assert "Look only at" in teacher.text


def test_a_uniform_teacher_and_broken_logits_stop_the_stage(tmp_path, small_recipe):
    work = Workspace(small_recipe(), tmp_path)
    policy = load_policy("tiny-base")
    book, artifact = sample(work, policy)
    plan = plan_score_ref(work.recipe, tmp_path, artifact, work.hints(), policy)
    with torch.no_grad():
        policy.model.lm_head.weight.zero_()
    with pytest.raises(PtdpoError, match="the teacher is uniform"):
        make_scores(work.recipe, plan, book, policy, artifact)
    with torch.no_grad():
        policy.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(PtdpoError, match="NaN or inf"):
        make_scores(work.recipe, plan, book, policy, artifact)


def test_image_tokens_must_match_image_features(tmp_path, small_recipe, monkeypatch):
    work = Workspace(small_recipe(), tmp_path)
    policy = load_policy("tiny-base")
    one_short = lambda self, inputs, image_idx, **kwargs: self.image_token * 8  # noqa: E731
    monkeypatch.setattr(type(policy.processor), "replace_image_token", one_short)
    book = work.book(policy, work.problems)
    with pytest.raises(PtdpoError, match="image tokens and image features differ in number"):
        book.students(list(book.problems)[:1])


def test_train_refuses_what_does_not_belong_together(tmp_path, small_recipe):
    recipe = small_recipe()
    work = Workspace(recipe, tmp_path)
    policy = load_policy("tiny-base")
    book, rollouts = sample(work, policy)
    scores = make_scores(
        recipe, plan_score_ref(recipe, tmp_path, rollouts, work.hints(), policy), book, policy, rollouts
    )
    other = make_rollouts(
        recipe,
        plan_rollout(recipe, tmp_path, work.problems, policy.hashes, iteration=1),
        book,
        HfEngine(policy),
        policy,
    )
    with pytest.raises(ArtifactError, match="made from other rollouts"):
        plan_update(recipe, tmp_path, policy, other, scores)
    with pytest.raises(ArtifactError, match="needs scores"):
        plan_update(recipe, tmp_path, policy, rollouts, None)
    with torch.no_grad():
        policy.model.lm_head.weight += 1
    from dataclasses import replace

    from ptdpo_cli.models.load import weights_hash

    moved = replace(policy, hashes={**policy.hashes, "weights": weights_hash(policy.model)})
    with pytest.raises(ArtifactError, match="another policy than the one to update"):
        plan_update(recipe, tmp_path, moved, rollouts, scores)
    retokenised = replace(policy, hashes={**policy.hashes, "tokenizer": "0" * 64})
    with pytest.raises(ArtifactError, match="another tokenizer"):
        plan_update(recipe, tmp_path, retokenised, rollouts, scores)
    with pytest.raises(ArtifactError, match="another sampler top-K"):
        plan_score_ref(small_recipe("teacher.top_k=30"), tmp_path, rollouts, work.hints(), policy)


def test_problem_order_is_whole_epochs():
    ids = [f"p{i}" for i in range(10)]
    first_epoch = [p for i in range(3) for p in problems_of_iteration(ids, i, per_iteration=3, seed=0)]
    assert len(set(first_epoch)) == 9
    assert problems_of_iteration(ids, 1, per_iteration=3, seed=0) == first_epoch[3:6]
    assert [p for i in range(3, 6) for p in problems_of_iteration(ids, i, per_iteration=3, seed=0)] != first_epoch
    assert len(problems_of_iteration(ids, 7, per_iteration=64, seed=0)) == 10


def test_a_gate_without_hints_stays_shut(tmp_path, small_recipe):
    work = Workspace(small_recipe(), tmp_path)
    policy = load_policy("tiny-base")
    book, artifact = sample(work, policy)
    group = next(read_rollouts(artifact))
    book.hints = {}
    assert not any(scoring.gate(work.recipe, book, group))


def test_metrics_reach_tensorboard(tmp_path, small_recipe):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop(small_recipe("train.iterations=2", "train.trackers=[tensorboard]"), tmp_path)
    lines = read_metrics(tmp_path / "logs" / "metrics.jsonl")
    (events,) = (tmp_path / "logs" / "ptdpo").glob("events*")
    curves = EventAccumulator(str(events)).Reload()
    assert [event.value for event in curves.Scalars("reward")] == pytest.approx([line["reward"] for line in lines])
    wanted = {
        "reward", "accuracy", "entropy", "distill/jsd", "distill/share_above_0.6", "distill/student_on_teacher_top",
        "groups/all_fail", "groups/informative", "groups/all_pass", "grad_norm/policy_gradient", "grad_norm/distill",
        "grad_norm/total", "clip_fraction", "response_tokens", "truncated", "tokens_per_s",
    }  # fmt: skip
    assert wanted <= set(curves.Tags()["scalars"]) and wanted <= set(lines[0])


def test_a_tracker_that_is_not_installed_is_refused_at_once(tmp_path, small_recipe, monkeypatch):
    import importlib.util

    from ptdpo_cli.errors import UsageError

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find_spec(name, *a))
    with pytest.raises(UsageError, match="wandb is not installed"):
        loop(small_recipe("train.trackers=[wandb]"), tmp_path)


def test_no_library_can_swallow_a_termination():
    """`except Exception` in a processor would turn what lands in it into a ValueError, or into nothing."""
    from ptdpo_cli import signals
    from ptdpo_cli.errors import Terminated

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signals.install()
    try:
        with pytest.raises(Terminated):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Exception as error:
                raise ValueError("Unable to create tensor") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_silenced_divergence_is_warned_of():
    from ptdpo_cli.stages.train import _warn_if_silenced

    said = []
    assert not _warn_if_silenced({"distill/share_above_0.6": 0.1}, 1, said.append) and not said
    assert not _warn_if_silenced({}, 1, said.append)     # nothing gated
    assert _warn_if_silenced({"distill/share_above_0.6": 0.5}, 2, said.append)
    assert "50%" in said[0] and "the gradient vanishes" in said[0]
