"""Exact coarse distributions on a fixed support, and the divergences between them.

Shapes: N packed response tokens, V vocabulary, S support ids, C = S + 1 categories (the last is the tail).

The tail, all tokens outside the support as one, is a category like any other, so a divergence knows nothing of top-K.
Merging categories can only lose information: every divergence here is a lower bound of the one over the vocabulary, and
equals it when the support is the vocabulary. Without the tail the mass on the support would be free, and the minimum
elsewhere than at student = teacher.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

_LOG_ZERO = -1e4    # nats; exp(−1e4) is exactly 0 in float64 too, and unlike −inf it can be subtracted from itself


def coarse_logprobs(logits_NV: Tensor, support_NS: Tensor) -> Tensor:
    """Log-probabilities of the support ids and, in the last column, of all other tokens together.

        log p_v = z_v − log Σ_u exp z_u   for v in S,        log p_tail = log Σ_{u not in S} p_u

    The tail is summed from its own logits, not taken as 1 − Σ_S p: it keeps its full relative precision however small
    it is, and so does the gradient. That gradient is exact for every token of the vocabulary.

    Source: PTD-PO, arXiv 2606.07000, eqs. 14-16.
    Shapes: logits_NV (already divided by the temperature; may hold −inf), support_NS (distinct ids; −1 is padding)
    -> logprobs_NC, C = S + 1.  Unit: nats; a row's exp sums to 1.  Padded columns, and an empty tail, are −inf.
    Errors: ValueError if an input is not 2-D or the rows differ in number; IndexError (torch) for an id >= V.
    By hand: p = (0.6, 0.3, 0.1), S = (0)  ->  exp = (0.6, 0.4).
    Differs from the paper in: 1) S is whatever was stored (top-K of the sampler and of the teacher) and not the current
    student's top-K: equal for an on-policy step, and exact for any S; 2) float32 at least, whatever the logits are.
    """
    if logits_NV.ndim != 2 or support_NS.ndim != 2 or logits_NV.shape[0] != support_NS.shape[0]:
        found = f"{tuple(logits_NV.shape)} and {tuple(support_NS.shape)}"
        raise ValueError(f"logits and support must be (N, V) and (N, S), found {found}")
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    is_padding_NS = support_NS < 0
    ids_NS = support_NS.long()
    support_logits_NS = logits_NV.gather(1, ids_NS.clamp(min=0)).to(dtype).masked_fill(is_padding_NS, -torch.inf)
    # The rest of the vocabulary, and one more token that as good as never occurs: padding points at it, and the tail is
    # never empty, for logsumexp has no gradient where all is −inf.
    log_nothing = torch.finfo(dtype).min / 2
    rest_NV = pad(logits_NV.to(dtype), (0, 1), value=log_nothing)
    rest_NV.scatter_(1, ids_NS.masked_fill(is_padding_NS, logits_NV.shape[1]), log_nothing)
    tail_logit_N1 = rest_NV.logsumexp(dim=1, keepdim=True)
    logprobs_NC = torch.cat([support_logits_NS, tail_logit_N1], dim=1).log_softmax(dim=1)
    return logprobs_NC.masked_fill(logprobs_NC < log_nothing / 2, -torch.inf)


def jensen_shannon(student_logprobs_NC: Tensor, teacher_logprobs_NC: Tensor, *, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon divergence of the student p and the teacher q; the teacher is a constant.

        D = beta KL(q || m) + (1 − beta) KL(p || m),   m = beta q + (1 − beta) p,        0 < beta < 1
        D = KL(q || p)  for beta = 0,                  D = KL(p || q)  for beta = 1

    The gradient flows through p as a weight, as an argument, and inside m:

        ∂D/∂log p_v = (1 − beta) p_v log(p_v / m_v)

    and from there to the logits of the student's coarse distribution, with c = KL(p || m) and beta = 1/2:

        v in S:  1/2 p_v (log(p_v / m_v) − c)          u not in S:  1/2 p_u (log(p_tail / m_tail) − c)

    Source: PTD-PO, arXiv 2606.07000, eqs. 13, 17 and 41-43; for any beta: GKD, arXiv 2306.13649, section 2.
    Shapes: student_logprobs_NC, teacher_logprobs_NC over the same categories -> divergence_N.
    Unit: nats; 0 <= D <= ln 2 for beta = 1/2, and in general D <= −beta ln beta − (1 − beta) ln(1 − beta).
    Errors: ValueError if the shapes differ or beta is outside [0, 1].
    By hand: p = (0.9, 0.1), q = (0.6, 0.4), m = (0.75, 0.25)  ->  1/2 (0.0725 + 0.0541) = 0.0633.
    Differs from the paper in: a category that is −inf on both sides (padding, a masked token) counts 0. The paper's
    released code detaches the weight p and not m, which makes the gradient 0 everywhere; here it is as in eqs. 41-42.
    """
    _check_same_shape(student_logprobs_NC, teacher_logprobs_NC)
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], found {beta}")
    teacher_logprobs_NC = teacher_logprobs_NC.detach()
    if beta == 0:
        return kl_divergence(p_logprobs_NC=teacher_logprobs_NC, q_logprobs_NC=student_logprobs_NC)
    if beta == 1:
        return kl_divergence(p_logprobs_NC=student_logprobs_NC, q_logprobs_NC=teacher_logprobs_NC)
    p_NC, q_NC = (_at_least_float32(x).clamp(min=_LOG_ZERO) for x in (student_logprobs_NC, teacher_logprobs_NC))
    m_NC = torch.logaddexp(q_NC + math.log(beta), p_NC + math.log(1 - beta))
    return (beta * q_NC.exp() * (q_NC - m_NC) + (1 - beta) * p_NC.exp() * (p_NC - m_NC)).sum(dim=1)


def kl_divergence(*, p_logprobs_NC: Tensor, q_logprobs_NC: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q); the arguments name the direction, "forward" and "reverse" do not.

        KL(p || q) = Σ_v p_v (log p_v − log q_v)

    Source: PTD-PO, arXiv 2606.07000, eqs. 4 and 17.
    Shapes: p_logprobs_NC, q_logprobs_NC over the same categories -> divergence_N.  Unit: nats, 0 <= KL.
    Errors: ValueError if the shapes differ.
    By hand: p = (0.6, 0.4), q = (0.9, 0.1)  ->  0.6 ln(2/3) + 0.4 ln 4 = 0.3112.
    Differs from the paper in: nothing. A category with p = 0 counts 0 and passes no gradient, whatever q is there; one
    with p > 0 and q = 0 makes the divergence infinite.
    """
    _check_same_shape(p_logprobs_NC, q_logprobs_NC)
    p_NC, q_NC = _at_least_float32(p_logprobs_NC), _at_least_float32(q_logprobs_NC)
    is_empty_NC = p_NC.exp() == 0
    p_NC, q_NC = p_NC.masked_fill(is_empty_NC, 0), q_NC.masked_fill(is_empty_NC, 0)    # 0 − 0, and no −inf in sight
    return (p_NC.exp() * (p_NC - q_NC)).sum(dim=1)


def _check_same_shape(a_NC: Tensor, b_NC: Tensor) -> None:
    if a_NC.shape != b_NC.shape or a_NC.ndim != 2:
        found = f"{tuple(a_NC.shape)} and {tuple(b_NC.shape)}"
        raise ValueError(f"log-probs must be (N, C) over the same categories, found {found}")


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
