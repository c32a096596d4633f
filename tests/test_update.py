"""One optimizer step: what its loss and gradient may and may not depend on, in float64 on the shipped base."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch

import ptdpo_cli.stages.update as update
from ptdpo_cli.engines.hf import HfEngine
from ptdpo_cli.errors import PtdpoError
from ptdpo_cli.models.load import load_policy
from ptdpo_cli.stages.rollout import make_rollouts, plan_rollout, read_rollouts
from ptdpo_cli.stages.score_ref import make_scores, plan_score_ref, read_scores
from ptdpo_cli.stages.train import iteration_rows, train_iteration
from ptdpo_cli.stages.train_state import new_state
from ptdpo_cli.stages.workspace import Workspace

# Sums of 1e5 float64 terms in another order.
ROUNDING = 1e-10
# Enough groups that some fail, some pass and some do both.
VARIED = (
    "data.kinds=[corners, bottom row, tent, edges, vee]",
    "rollout.problems_per_iteration=8",
    "rollout.rollouts_per_problem=6",
    "rollout.problems_per_shard=8",
)


class Setting:
    """A batch of real rollouts with scores, and the policy that made them, in float64."""

    def __init__(self, recipe, run, dtype="float64"):
        self.recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": dtype})})
        self.work = Workspace(self.recipe, run)
        self.policy = load_policy("tiny-base", dtype=dtype)
        self.hints = self.work.hints(make=True)
        self.book = self.work.book(self.policy, self.work.problems, self.hints)
        plan = plan_rollout(self.recipe, run, self.work.problems, self.policy.hashes)
        self.rollouts = make_rollouts(self.recipe, plan, self.book, HfEngine(self.policy), self.policy)
        plan = plan_score_ref(self.recipe, run, self.rollouts, self.hints, self.policy)
        self.scores = make_scores(self.recipe, plan, self.book, self.policy, self.rollouts)
        groups = list(read_rollouts(self.rollouts))
        flat = [r for group in groups for r in group]
        self.rows = iteration_rows(
            self.recipe, self.book, flat, [s for g in read_scores(self.scores, groups) for s in g]
        )

    def gradients(self, rows=None, **train):
        """The step's metrics and the gradient of every parameter."""
        self.policy.model.zero_grad()
        settings = self.recipe.train.model_copy(update=train)
        metrics = update.accumulate_gradients(self.policy, rows or self.rows, settings, temperature=1.0)
        return metrics, {n: p.grad.clone() for n, p in self.policy.model.named_parameters()}


@pytest.fixture(scope="module")
def float64_throughout():
    """The model's RMSNorm and vision RoPE round to float32 inside; that alone would differ by 1e-8."""
    from transformers.models.qwen3_vl import modeling_qwen3_vl as model

    def norm(self, hidden):
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def rope(q, k, cos, sin):
        cos, sin = cos.unsqueeze(-2).double(), sin.unsqueeze(-2).double()
        return tuple((x * cos + model.rotate_half(x) * sin).to(x.dtype) for x in (q, k))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.Qwen3VLTextRMSNorm, "forward", norm)
        patch.setattr(model, "apply_rotary_pos_emb_vision", rope)
        yield


@pytest.fixture(scope="module")
def setting(float64_throughout, recipes, tmp_path_factory):
    from conftest import SMALL
    from ptdpo_cli.recipe import load_recipe

    recipe = load_recipe(recipes / "tiny.yaml", [*SMALL, "train.kl_weight=0.05", *VARIED])
    made = Setting(recipe, tmp_path_factory.mktemp("update"))
    # What the base happens to get right must not decide what is tested: advantages of both signs, for all.
    made.rows = [dataclasses.replace(row, advantage=(-1.0, 0.5, 2.0)[i % 3]) for i, row in enumerate(made.rows)]
    assert any(row.is_gated for row in made.rows) and any(row.advantage for row in made.rows)
    return made


def largest_difference(a: dict, b: dict) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_micro_batches_do_not_matter(setting):
    whole, gradient = setting.gradients()
    for tokens in (60, 150, 400):
        parts, cut = setting.gradients(tokens_per_micro_batch=tokens)
        assert parts["loss"] == pytest.approx(whole["loss"], abs=ROUNDING)
        assert largest_difference(gradient, cut) < ROUNDING
        for name in whole:
            if name.startswith("grad_norm"):
                assert parts[name] == pytest.approx(whole[name], rel=1e-8), name


def test_chunks_of_the_vocabulary_do_not_matter(setting):
    whole, gradient = setting.gradients()
    parts, cut = setting.gradients(logits_per_chunk=7 * 430)
    assert parts["loss"] == pytest.approx(whole["loss"], abs=ROUNDING)
    assert largest_difference(gradient, cut) < ROUNDING


def test_order_of_rows_does_not_matter(setting):
    whole, gradient = setting.gradients()
    rows = list(setting.rows)
    random.Random(0).shuffle(rows)
    shuffled, other = setting.gradients(rows)
    assert shuffled["loss"] == pytest.approx(whole["loss"], abs=ROUNDING)
    assert largest_difference(gradient, other) < ROUNDING


def test_padding_does_not_matter(setting):
    """A step of short rows alone, against the same rows beside a very long one whose weight is nothing."""
    rows = [dataclasses.replace(row, advantage=1.0, score=None) for row in setting.rows[:4]]
    longest = max(setting.rows, key=lambda row: row.n_tokens)
    ids = np.concatenate([longest.rollout.token_ids_T] * 3)
    still = dataclasses.replace(
        longest,
        advantage=0.0,
        score=None,
        rollout=dataclasses.replace(
            longest.rollout, token_ids_T=ids, sampler_logprobs_T=np.zeros(len(ids), np.float32)
        ),
    )
    alone, gradient = setting.gradients(rows, kl_weight=0.0, distill_weight=0.0)
    beside, padded = setting.gradients([*rows, still], kl_weight=0.0, distill_weight=0.0)
    scale = sum(r.n_tokens for r in rows) / (sum(r.n_tokens for r in rows) + len(ids))
    assert beside["loss"] == pytest.approx(alone["loss"] * scale, abs=ROUNDING)
    assert largest_difference({n: g * scale for n, g in gradient.items()}, padded) < ROUNDING


def test_loss_equals_the_formula_written_out(setting):
    """Row by row through a plain, unpadded, uncached forward, dense in float64: GRPO + λ JSD + β k3."""
    train, policy, rows = setting.recipe.train, setting.policy, setting.rows
    n_tokens = sum(row.n_tokens for row in rows)
    n_gated = sum(row.n_tokens for row in rows if row.is_gated)
    expected = 0.0
    for row in rows:
        ids = torch.from_numpy(row.rollout.token_ids_T).long()
        logp = plain_forward(policy, row.prompt, ids).log_softmax(1)
        own = logp[torch.arange(len(ids)), ids]
        ratio = (own - torch.from_numpy(row.rollout.sampler_logprobs_T)).exp()
        a = row.advantage
        surrogate = torch.maximum(-a * ratio, -a * ratio.clamp(1 - train.clip_low, 1 + train.clip_high))
        if a < 0:
            surrogate = torch.minimum(surrogate, torch.tensor(-a * train.dual_clip))
        expected += surrogate.sum() / n_tokens
        d = torch.from_numpy(row.score.reference_logprobs_T).double() - own
        expected += train.kl_weight * (d.exp() - d - 1).sum() / n_tokens
        if row.is_gated:
            expected += train.distill_weight * dense_jsd(row, logp).sum() / n_gated
    metrics, _ = setting.gradients()
    # The stored teacher is float32.
    assert metrics["loss"] == pytest.approx(float(expected), abs=2e-6)


def dense_jsd(row, logp_TV):
    jsd = []
    for t, (ids, teacher) in enumerate(zip(row.score.support_TS, row.score.teacher_logprobs_TC, strict=True)):
        ids = torch.from_numpy(ids[ids >= 0]).long()
        q = torch.from_numpy(np.exp(teacher[np.isfinite(teacher)].astype(np.float64)))
        on_support = logp_TV[t, ids].exp()
        p = torch.cat([on_support, 1 - on_support.sum().unsqueeze(0)])
        m = (p + q) / 2
        jsd.append((q * (q / m).log() + p * (p / m).log()).sum() / 2)
    return torch.stack(jsd)


@torch.no_grad()
def plain_forward(policy, prompt, ids):
    """Logits of the response tokens from one ordinary call of the whole model, positions left to the model."""
    tokens = torch.cat([prompt.token_ids_L, ids])[None]
    types = torch.cat([prompt.type_ids_L, torch.zeros_like(ids)])[None]
    logits = (
        policy.model(
            input_ids=tokens,
            mm_token_type_ids=types,
            attention_mask=torch.ones_like(tokens),
            pixel_values=prompt.pixel_values.to(policy.model.dtype),
            image_grid_thw=prompt.image_grid_thw,
            use_cache=False,
        )
        .logits[0, len(prompt) - 1 : -1]
        .double()
    )
    logits[:, policy.media_ids] = -torch.inf
    return logits


def test_no_weight_is_grpo_bit_for_bit(recipes, tmp_path, small_recipe):
    """λ = 0 with scores at hand, and no gated rollout at all, both give the very gradients of GRPO."""
    made = Setting(small_recipe("train.kl_weight=0.0", *VARIED), tmp_path, "float32")
    bare = [dataclasses.replace(row, score=None) for row in made.rows]
    _, grpo = made.gradients(bare, distill_weight=0.0)
    _, weightless = made.gradients(distill_weight=0.0)
    _, nothing_gated = made.gradients(bare, distill_weight=5.0)
    _, tutored = made.gradients(distill_weight=5.0)
    for name in grpo:
        assert torch.equal(grpo[name], weightless[name]) and torch.equal(grpo[name], nothing_gated[name]), name
    assert any(not torch.equal(grpo[name], tutored[name]) for name in grpo)


def test_a_divergence_without_gradient_stops_the_run(setting, monkeypatch):
    """The released code's variant: p detached as a weight and kept inside m, positive and dead."""

    def released(student_logprobs_NC, teacher_logprobs_NC, *, beta):
        p, q = student_logprobs_NC.clamp(min=-1e4), teacher_logprobs_NC.clamp(min=-1e4)
        m = torch.logaddexp(p, q) - np.log(2)
        return 0.5 * (p.detach().exp() * (p - m) + q.exp() * (q - m)).sum(1)

    monkeypatch.setattr(update, "jensen_shannon", released)
    with pytest.raises(PtdpoError, match="its gradient is zero"):
        setting.gradients()


def test_group_reduction_weighs_problems_equally(setting):
    """Eq. 80: with one gated problem in the step, the token mean of its group over the number of problems."""
    gated = [row for row in setting.rows if row.is_gated]
    one = gated[0].rollout.problem_id
    rows = [row if row.rollout.problem_id == one else dataclasses.replace(row, score=None) for row in setting.rows]
    token, _ = setting.gradients(rows, kl_weight=0.0)
    group, _ = setting.gradients(rows, kl_weight=0.0, distill_reduction="group")
    problems = len({row.rollout.problem_id for row in rows})
    assert group["loss/distill"] == pytest.approx(token["loss/distill"] / problems)


def test_kl_can_leave_gated_groups_out(setting):
    """Against a reference 0.1 nats away everywhere, k3 = e^0.1 − 1.1 at each token that counts."""
    rows = [
        dataclasses.replace(
            row,
            score=dataclasses.replace(row.score, reference_logprobs_T=row.rollout.sampler_logprobs_T + np.float32(0.1)),
        )
        for row in setting.rows
    ]
    share = sum(row.n_tokens for row in rows if not row.is_group_gated) / sum(row.n_tokens for row in rows)
    assert 0 < share < 1
    assert setting.gradients(rows)[0]["kl"] == pytest.approx(np.exp(0.1) - 1.1, rel=1e-4)
    assert setting.gradients(rows, kl_in_gated_groups=False)[0]["kl"] == pytest.approx(
        (np.exp(0.1) - 1.1) * share, rel=1e-4
    )


def test_training_moves_the_policy_and_counts(tmp_path, small_recipe):
    made = Setting(small_recipe("train.updates_per_iteration=2", *VARIED), tmp_path, "float32")
    state = new_state(made.recipe, made.policy)
    before = {n: p.detach().clone() for n, p in made.policy.model.named_parameters()}
    metrics = train_iteration(made.recipe, state, made.book, made.rollouts, made.scores)
    assert (state.iteration, state.updates) == (1, 2)
    assert any(not torch.equal(before[n], p) for n, p in made.policy.model.named_parameters())
    assert 0 <= metrics["accuracy"] <= 1 and metrics["groups/all_fail"] + metrics["groups/all_pass"] <= 1
