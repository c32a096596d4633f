"""A sampler that differs from the trainer: what is measured, what the weights do, and when they are used at all."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from ptdpo_cli.stages import update
from ptdpo_cli.stages.mismatch import correct_mismatch, mismatch_metrics
from test_update import Setting

# Float32 sums in the same order, scaled by a constant.
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def setting(recipes, tmp_path_factory):
    from conftest import SMALL
    from ptdpo_cli.recipe import load_recipe

    plain = ["train.distill_weight=0", "train.kl_weight=0", "train.mismatch_correction=on"]
    made = Setting(load_recipe(recipes / "tiny.yaml", [*SMALL, *plain]), tmp_path_factory.mktemp("run"), "float32")
    made.rows = [dataclasses.replace(row, advantage=(-1.0, 0.5, 2.0)[i % 3]) for i, row in enumerate(made.rows)]
    return made


def shifted(rows, nats: float):
    """The same rollouts from a sampler that gave every token `nats` less than the trainer does."""
    return [
        dataclasses.replace(
            row,
            rollout=dataclasses.replace(row.rollout, sampler_logprobs_T=row.rollout.sampler_logprobs_T - nats),
        )
        for row in rows
    ]


def corrected(setting, rows, engine="vllm", **train):
    recipe = setting.recipe.model_copy(update={"train": setting.recipe.train.model_copy(update=train)})
    return correct_mismatch(recipe, setting.policy, rows, engine=engine, temperature=1.0)


def gradient(setting, rows, **train) -> torch.Tensor:
    _, gradients = setting.gradients(rows, **train)
    return torch.cat([g.flatten() for g in gradients.values()])


@pytest.mark.parametrize(("ratio", "cap", "weight"), [(1.5, 2.0, 1.5), (0.5, 2.0, 0.5), (1.5, 1.2, 1.2)])
def test_the_gradient_is_weighted_by_the_truncated_ratio(setting, ratio, cap, weight):
    """With one ratio for all tokens, the step's gradient is that of matching engines times the weight."""
    rows, metrics = corrected(setting, shifted(setting.rows, math.log(ratio)), mismatch_cap=cap)
    assert metrics["mismatch/ratio_mean"] == pytest.approx(ratio, rel=1e-4)
    assert metrics["mismatch/capped"] == float(ratio > cap)
    plain, weighted = gradient(setting, setting.rows), gradient(setting, rows, mismatch_cap=cap)
    assert (weighted - weight * plain).abs().max() < ROUNDING * plain.abs().max() + 1e-7


def test_without_correction_a_mismatch_distorts_the_clipping(setting):
    """The fault that the correction mends: every ratio starts beyond the clip, and gradients vanish or explode."""
    rows = shifted(setting.rows, math.log(1.5))
    clipped, _ = setting.gradients(rows)
    mended, _ = setting.gradients(corrected(setting, rows)[0])
    assert clipped["clip_fraction"] > 0.3 and mended["clip_fraction"] == 0


def test_auto_is_on_only_for_another_engine_that_differs(setting):
    rows = shifted(setting.rows, 0.01)
    assert corrected(setting, rows, engine="hf", mismatch_correction="auto") == (rows, {})
    assert corrected(setting, rows, mismatch_correction=False) == (rows, {})
    same, metrics = corrected(setting, setting.rows, mismatch_correction="auto")
    assert same == setting.rows and metrics["mismatch/corrected"] == 0 and metrics["mismatch/max"] < 1e-4
    differing, metrics = corrected(setting, rows, mismatch_correction="auto")
    assert metrics["mismatch/corrected"] == 1 and all(r.trainer_logprobs_T is not None for r in differing)


def test_agreeing_engines_give_the_same_step(setting):
    """Correction on, nothing to correct: weights of 1, and the gradient of the uncorrected step."""
    rows, _ = corrected(setting, setting.rows)
    plain, weighted = gradient(setting, setting.rows), gradient(setting, rows)
    assert (weighted - plain).abs().max() < 1e-4 * plain.abs().max()


def test_metrics_by_hand():
    metrics = mismatch_metrics(np.log([0.5, 0.25, 0.9]), np.log([0.25, 0.5, 0.3]), cap=2.5)
    assert metrics["mismatch/ratio_mean"] == pytest.approx((2 + 0.5 + 3) / 3)
    assert metrics["mismatch/capped"] == pytest.approx(1 / 3)
    assert metrics["mismatch/max"] == pytest.approx(math.log(3))
    k3 = [1 - math.log(2), -0.5 + math.log(2), 2 - math.log(3)]
    assert metrics["mismatch/kl"] == pytest.approx(sum(k3) / 3)


def test_training_mode_and_gradients_stay_as_they_were(setting):
    setting.policy.model.train()
    setting.policy.model.zero_grad()
    corrected(setting, setting.rows)
    assert setting.policy.model.training
    assert all(p.grad is None for p in setting.policy.model.parameters())
    setting.policy.model.eval()


def test_the_old_logprobs_are_the_trainers_where_there_are_some(setting):
    row = setting.rows[0]
    own = row.rollout.sampler_logprobs_T + 1
    assert row.old_logprobs_T is row.rollout.sampler_logprobs_T
    assert update.Row.old_logprobs_T.fget(dataclasses.replace(row, trainer_logprobs_T=own)) is own
