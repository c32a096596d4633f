"""Sampler against trainer: how far apart their log-probs of the same tokens are, and the correction of what that does.

The rollouts are samples of the sampler's distribution, which another engine in another precision computes a little
otherwise than the trainer. Where the two differ, the update takes the trainer's own log-probs as the old ones and
weighs each token by the truncated ratio of the two (`objectives.truncated_importance_weights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.logprobs import response_logprobs
from ptdpo_cli.models.parallel import ALONE, Ranks
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.update import Row

# Nats, mean over tokens. Below it two engines differ by rounding in float32 (1e-6); bfloat16 makes 1e-2.
_AGREE = 1e-4


def correct_mismatch(
    recipe: Recipe, policy: Policy, rows: Sequence[Row], *, engine: str, temperature: float, ranks: Ranks = ALONE
) -> tuple[list[Row], dict[str, float]]:
    """This rank's rows with the trainer's log-probs where they are to be used, and the metrics over all ranks.

    To be called before the iteration's first update: the policy must still be the one that sampled.
    """
    mode = recipe.train.mismatch_correction
    if mode is False or (mode == "auto" and engine == "hf"):
        return list(rows), {}
    was_training = policy.model.training
    policy.model.eval()
    trainer = response_logprobs(
        policy,
        [row.prompt for row in rows],
        [row.rollout.token_ids_T for row in rows],
        temperature=temperature,
        tokens_per_batch=recipe.train.tokens_per_micro_batch,
        logits_per_chunk=recipe.train.logits_per_chunk,
    )
    policy.model.train(was_training)
    pairs = [(own, row.rollout.sampler_logprobs_T) for own, row in zip(trainer, rows, strict=True)]
    pairs = [pair for peer in ranks.gather(pairs, doing="comparing sampler and trainer") for pair in peer]
    trainer_N, sampler_N = (np.concatenate(column) for column in zip(*pairs, strict=True))
    metrics = mismatch_metrics(trainer_N, sampler_N, cap=recipe.train.mismatch_cap)
    is_corrected = mode is True or metrics["mismatch/mean"] > _AGREE
    metrics["mismatch/corrected"] = float(is_corrected)
    if not is_corrected:
        return list(rows), metrics
    return [replace(row, trainer_logprobs_T=own) for row, own in zip(rows, trainer, strict=True)], metrics


def mismatch_metrics(trainer_N: np.ndarray, sampler_N: np.ndarray, *, cap: float) -> dict[str, float]:
    """Of log π_old − log π_sampler over the sampled tokens; `kl` estimates KL(sampler ‖ trainer) (k3), in nats."""
    log_ratio_N = np.clip(trainer_N.astype(np.float64) - sampler_N, -20, 20)
    ratio_N = np.exp(log_ratio_N)
    return {
        "mismatch/mean": float(np.abs(log_ratio_N).mean()),
        "mismatch/max": float(np.abs(log_ratio_N).max()),
        "mismatch/kl": float((np.expm1(log_ratio_N) - log_ratio_N).mean()),
        "mismatch/ratio_mean": float(ratio_N.mean()),
        "mismatch/capped": float((ratio_N > cap).mean()),
    }
