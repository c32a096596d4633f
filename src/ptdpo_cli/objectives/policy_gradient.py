"""The policy-gradient loss and the KL to the reference, per token. Shapes: B sequences, T response tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

_MAX_LOG_RATIO = 20.0    # nats; exp(20) = 5e8: far beyond any clip range, and far from overflow
_MAX_KL = 10.0           # nats per token; one outlier token must not outweigh the batch


def clipped_surrogate(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    ratio: Literal["token", "sequence"] = "token",
    mask_BT: Tensor,
    dual_clip: float | None = None,
) -> Tensor:
    """The clipped policy-gradient loss of each token (to be minimised).

        loss = max(−A ρ, −A clip(ρ, 1 − clip_low, 1 + clip_high)),   and at most −A · dual_clip where A < 0
        ρ_t  = exp(log π − log π_old)                                           ratio="token"
        ρ_t  = exp(sg(mean_t(log π − log π_old)) + log π − sg(log π))           ratio="sequence"

    With "sequence" every token of a sequence has the value of the sequence ratio, and passes its own gradient.

    Source: PPO, arXiv 1707.06347, eq. 7; arXiv 2606.07000, eqs. 1-3; unequal bounds: DAPO, arXiv 2503.14476;
    dual clip: arXiv 1912.09729; sequence ratio: GSPO-token, arXiv 2507.18071.
    Shapes: logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT (True: a response token) -> loss_BT.
    Unit: of the advantage.  Masked positions have loss 0 and gradient 0, whatever stands in them.
    Errors: ValueError if the shapes differ, for an unknown ratio, or for dual_clip <= 1.
    By hand: A = 1, ρ = 1.5, clip_high 0.2: −1.2 without gradient; A = −1, ρ = 1.5: +1.5; A = −1, ρ = 9, c = 3: +3.
    Differs from the paper in: 1) no mean over tokens: the caller divides by the tokens of the whole optimizer step;
    2) the log-ratio of a token is clamped to ±20; 3) arXiv 2606.07000 has one ε_c and no dual clip, and its released
    code uses 0.2 / 0.3 with dual clip 3.
    """
    if not logprobs_BT.shape == old_logprobs_BT.shape == advantages_BT.shape == mask_BT.shape:
        shapes = [tuple(x.shape) for x in (logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT)]
        raise ValueError(f"logprobs, old_logprobs, advantages and mask must have one shape, found {shapes}")
    if ratio not in ("token", "sequence"):
        raise ValueError(f'ratio must be "token" or "sequence", found {ratio!r}')
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip must be greater than 1, found {dual_clip}")
    mask_BT = mask_BT.bool()
    log_ratio_BT = _masked_difference(logprobs_BT, old_logprobs_BT.detach(), mask_BT)
    if ratio == "sequence":
        tokens_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
        mean_B1 = log_ratio_BT.detach().sum(dim=1, keepdim=True) / tokens_B1
        log_ratio_BT = mean_B1 + (log_ratio_BT - log_ratio_BT.detach())
    ratio_BT = log_ratio_BT.exp()
    advantages_BT = advantages_BT.masked_fill(~mask_BT, 0)
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    loss_BT = torch.maximum(-advantages_BT * ratio_BT, -advantages_BT * clipped_BT)
    if dual_clip is not None:
        bounded_BT = torch.minimum(loss_BT, -advantages_BT * dual_clip)
        loss_BT = torch.where(advantages_BT < 0, bounded_BT, loss_BT)
    return loss_BT


def truncated_importance_weights(
    logprobs_BT: Tensor, sampler_logprobs_BT: Tensor, *, cap: float, mask_BT: Tensor
) -> Tensor:
    """The weight of each token's policy-gradient loss when another engine than the trainer sampled it; no gradient.

        w = min(exp(log π_old − log π_sampler), cap)

    π_old and π_sampler are the same weights, computed by the trainer and by the sampler.

    Source: "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (Yao et al., 2025), truncated
    importance sampling, per token; as in TRL (huggingface/trl#3867).
    Shapes: logprobs_BT, sampler_logprobs_BT, mask_BT (True: a response token) -> weights_BT.  0 <= w <= cap.
    Masked positions have weight 0, whatever stands in them.
    Errors: ValueError if the shapes differ, or for cap < 1.
    By hand: π_old = 1/2, π_sampler = 1/4: w = 2; with cap 1.5: 1.5; π_old = 1/4, π_sampler = 1/2: 0.5.
    Differs from the paper in: the log-ratio is clamped to ±20.
    """
    if not logprobs_BT.shape == sampler_logprobs_BT.shape == mask_BT.shape:
        shapes = [tuple(x.shape) for x in (logprobs_BT, sampler_logprobs_BT, mask_BT)]
        raise ValueError(f"logprobs, sampler_logprobs and mask must have one shape, found {shapes}")
    if cap < 1:
        raise ValueError(f"cap must be at least 1, found {cap}")
    mask_BT = mask_BT.bool()
    log_ratio_BT = _masked_difference(logprobs_BT.detach(), sampler_logprobs_BT.detach(), mask_BT)
    return log_ratio_BT.exp().clamp(max=cap).masked_fill(~mask_BT, 0)


def k3(logprobs_BT: Tensor, reference_logprobs_BT: Tensor, *, mask_BT: Tensor) -> Tensor:
    """The low-variance estimate of KL(π || π_ref) at each sampled token; never negative.

        d = log π_ref − log π,   k3 = exp(d) − d − 1

    Source: GRPO, arXiv 2402.03300, eq. 4; the estimator "k3" of Schulman, "Approximating KL divergence" (2020).
    Shapes: logprobs_BT, reference_logprobs_BT, mask_BT (True: a response token) -> kl_BT.  Unit: nats, 0 <= k3 <= 10.
    The tokens must be samples of π: with the arguments swapped this estimates no divergence. The value estimates
    KL(π || π_ref); the gradient, the samples held fixed, is on average that of KL(π_ref || π).
    Errors: ValueError if the shapes differ.
    By hand: log π = ln 1/2, log π_ref = ln 1/4: d = −0.6931, k3 = 0.5 + 0.6931 − 1 = 0.1931.
    Differs from the paper in: d is clamped to ±20 and k3 to 10; a clamped token passes no gradient. Masked positions
    have value 0 and gradient 0, whatever stands in them.
    """
    if not logprobs_BT.shape == reference_logprobs_BT.shape == mask_BT.shape:
        shapes = [tuple(x.shape) for x in (logprobs_BT, reference_logprobs_BT, mask_BT)]
        raise ValueError(f"logprobs, reference_logprobs and mask must have one shape, found {shapes}")
    d_BT = _masked_difference(reference_logprobs_BT.detach(), logprobs_BT, mask_BT.bool())
    return (torch.expm1(d_BT) - d_BT).clamp(max=_MAX_KL)


def _masked_difference(a_BT: Tensor, b_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """a − b within ±20, and 0 without gradient where masked, be it −inf − (−inf)."""
    dtype = torch.promote_types(torch.promote_types(a_BT.dtype, b_BT.dtype), torch.float32)
    difference_BT = (a_BT.to(dtype) - b_BT.to(dtype)).masked_fill(~mask_BT, 0)
    return difference_BT.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
