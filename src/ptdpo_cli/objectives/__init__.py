"""The objective as pure functions of tensors: no configuration, no files, nothing but torch.

    L  =  sum(clipped_surrogate · mask) / N  +  c · sum(k3 · mask) / N  +  λ · sum(D over gated tokens) / N_gated

Each function returns one value per token and never a mean: the caller sums, then divides by the number of tokens of the
whole optimizer step (all ranks, all micro-batches), so that the split into micro-batches cannot change the gradient.

Shape suffixes, one letter per axis: P problems, G rollouts per problem, B = P·G sequences, T response tokens,
N packed response tokens, V vocabulary, S support ids, C = S + 1 categories (the last is the tail).
"""

from ptdpo_cli.objectives.advantages import group_advantages
from ptdpo_cli.objectives.divergence import coarse_logprobs, jensen_shannon, kl_divergence
from ptdpo_cli.objectives.gate import distill_mask
from ptdpo_cli.objectives.policy_gradient import clipped_surrogate, k3, truncated_importance_weights

__all__ = [
    "clipped_surrogate",
    "coarse_logprobs",
    "distill_mask",
    "group_advantages",
    "jensen_shannon",
    "k3",
    "kl_divergence",
    "truncated_importance_weights",
]
