"""Advantages relative to the other rollouts of the same problem. Shapes: P problems, G rollouts per problem."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def group_advantages(rewards_PG: Tensor, *, scale: Literal["std", "none"] = "std", eps: float = 1e-6) -> Tensor:
    """How much better each rollout is than its group, in units of the group's spread.

        A_i = (R_i − mean R) / (std R + eps)       scale="std", std unbiased (divides by G − 1)
        A_i =  R_i − mean R                        scale="none"

    Source: GRPO, arXiv 2402.03300, section 4.1.2; arXiv 2606.07000, eq. 2. scale="none": Dr. GRPO, arXiv 2503.20783.
    Shapes: rewards_PG -> advantages_PG.  Unit: none (std) or reward (none).
    Errors: ValueError if rewards_PG is not 2-D or the group is empty; ValueError for an unknown scale.
    By hand: R = (1, 0, 0, 0), mean 1/4, std 1/2  ->  A = (1.5, −0.5, −0.5, −0.5).
    Differs from the paper in: 1) a group of one has no spread: mean 0 and std 1 are used, so that A = R / (1 + eps);
    2) a group of equal rewards gives exactly 0, where rounding of the mean over eps would leave a spurious signal.
    """
    if rewards_PG.ndim != 2 or rewards_PG.shape[1] == 0:
        raise ValueError(f"rewards_PG must have shape (problems, rollouts >= 1), found {tuple(rewards_PG.shape)}")
    if scale not in ("std", "none"):
        raise ValueError(f'scale must be "std" or "none", found {scale!r}')
    rewards_PG = rewards_PG.to(torch.promote_types(rewards_PG.dtype, torch.float32))
    if rewards_PG.shape[1] == 1:
        return rewards_PG / (1 + eps) if scale == "std" else rewards_PG
    # Measured from the first rollout: mean and std do not care, and equal rewards become exact zeros.
    shifted_PG = rewards_PG - rewards_PG[:, :1]
    centred_PG = shifted_PG - shifted_PG.mean(dim=1, keepdim=True)
    return centred_PG / (shifted_PG.std(dim=1, keepdim=True) + eps) if scale == "std" else centred_PG
