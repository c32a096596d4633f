"""Which rollouts get the distillation term. Shapes: P problems, G rollouts per problem."""

from __future__ import annotations

from typing import Literal

from torch import Tensor


def distill_mask(
    accuracy_PG: Tensor, *, max_group_accuracy: float = 1.0, rollouts: Literal["failed", "all"] = "failed"
) -> Tensor:
    """True for the rollouts to distil: the failed ones of each group that solves its problem too rarely.

        F = {i : mean_j r_j < max_group_accuracy  and  r_i = 0},     r_i = [accuracy_i = 1]

    Source: PTD-PO, arXiv 2606.07000, eqs. 6-8 and 79.
    Shapes: accuracy_PG -> mask_PG (bool).  The mask keeps what it marks.
    Errors: ValueError if accuracy_PG is not 2-D or the group is empty; ValueError for an unknown `rollouts`.
    By hand: G = 5, max_group_accuracy 0.2: 0 of 5 correct opens the gate, 1 of 5 does not (0.2 < 0.2 is false).
    Differs from the paper in: nothing; rollouts="all" is its ablation "all trajectories", where the rollouts of a group
    at or above the threshold stay out all the same.
    """
    if accuracy_PG.ndim != 2 or accuracy_PG.shape[1] == 0:
        raise ValueError(f"accuracy_PG must have shape (problems, rollouts >= 1), found {tuple(accuracy_PG.shape)}")
    if rollouts not in ("failed", "all"):
        raise ValueError(f'rollouts must be "failed" or "all", found {rollouts!r}')
    is_correct_PG = accuracy_PG == 1
    # One rounding in float64, as for the literal in a recipe: 1/5 is then the very number 0.2, and not below it.
    group_accuracy_P1 = is_correct_PG.sum(dim=1, keepdim=True).double() / accuracy_PG.shape[1]
    is_open_P1 = group_accuracy_P1 < max_group_accuracy
    return is_open_P1 & ~is_correct_PG if rollouts == "failed" else is_open_P1.expand_as(is_correct_PG)
