"""One optimizer step: loss = GRPO + λ · Σ_gated JSD / N_gated + β · KL to the reference, and its gradient.

Every sum is divided by a count over the whole step, handed in before the first backward: how the rows are cut into
micro-batches, padded or ordered changes nothing.

Shapes: B rows, T response tokens (padded), N packed response tokens, S support ids, C = S + 1, V vocabulary, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from ptdpo_cli.errors import PtdpoError
from ptdpo_cli.models.inputs import Batch, Prompt, build_batch
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.logprobs import (
    chunks,
    entropy,
    in_token_batches,
    response_hidden,
    response_logits,
    token_logprobs,
)
from ptdpo_cli.models.parallel import ALONE, Ranks, look_at_nothing
from ptdpo_cli.objectives import (
    clipped_surrogate,
    coarse_logprobs,
    jensen_shannon,
    k3,
    truncated_importance_weights,
)
from ptdpo_cli.recipe import Train
from ptdpo_cli.stages.memory import memory_for
from ptdpo_cli.stages.rollout import Rollout
from ptdpo_cli.stages.score_ref import Score

# A divergence this large with a gradient this small relative to it is not learning, it is a fault.
_POSITIVE_DIVERGENCE = 1e-6
_ZERO_GRADIENT = 1e-9
_MEMORY_KEYS = (
    "train.tokens_per_micro_batch or train.logits_per_chunk, or set train.gradient_checkpointing=true "
    "or lora.rank"
)


@dataclass(frozen=True)
class Row:
    """One rollout with all that the loss needs of it."""

    prompt: Prompt
    rollout: Rollout
    score: Score | None
    advantage: float
    is_group_gated: bool
    trainer_logprobs_T: np.ndarray | None = None  # of the policy that sampled; None: the sampler's are taken for them

    @property
    def old_logprobs_T(self) -> np.ndarray:
        return self.rollout.sampler_logprobs_T if self.trainer_logprobs_T is None else self.trainer_logprobs_T

    @property
    def n_tokens(self) -> int:
        return len(self.rollout.token_ids_T)

    @property
    def is_gated(self) -> bool:
        return self.score is not None and self.score.support_TS is not None

    def ungated(self) -> Row:
        """The same without the teacher's scores."""
        if self.score is None:
            return self
        return replace(self, score=replace(self.score, support_TS=None, teacher_logprobs_TC=None))


@dataclass(frozen=True)
class Denominators:
    """Counts over the whole optimizer step, one per term of the loss."""

    tokens: int
    rows: int
    gated_tokens: int
    gated_tokens_of: dict[str, int]  # problem_id -> gated tokens of its group
    problems: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Denominators:
        gated_of: dict[str, int] = {}
        for row in rows:
            if row.is_gated:
                problem_id = row.rollout.problem_id
                gated_of[problem_id] = gated_of.get(problem_id, 0) + row.n_tokens
        return cls(
            sum(row.n_tokens for row in rows),
            len(rows),
            sum(gated_of.values()),
            gated_of,
            len({row.rollout.problem_id for row in rows}),
        )

    def over(self, ranks: Ranks) -> Denominators:
        """The counts of all ranks; a problem's rows are never split over ranks."""
        peers = ranks.gather(
            (self.tokens, self.rows, self.gated_tokens, self.problems), doing="counting the tokens of a step"
        )
        tokens, rows, gated_tokens, problems = (sum(column) for column in zip(*peers, strict=True))
        return Denominators(tokens, rows, gated_tokens, self.gated_tokens_of, problems)


def accumulate_gradients(
    policy: Policy,
    rows: Sequence[Row],
    train: Train,
    *,
    temperature: float,
    module: torch.nn.Module | None = None,
    ranks: Ranks = ALONE,
    blank: Row | None = None,
) -> dict[str, float]:
    """Add the gradient of the step's loss to the parameters, micro-batch by micro-batch, and return its metrics.

    Among several ranks `rows` are this rank's, `module` is what `parallel.share` gave, and the metrics are those of
    all. Ranks go through equally many micro-batches, for they wait for each other in every layer: one that has none
    left takes `blank` again, with a weight of zero.
    Errors: PtdpoError when a loss is not finite, or the distillation term is positive with a gradient of zero.
    """
    module = module or LossModel(policy.model, policy.media_ids)
    whole = Denominators.of(rows).over(ranks)
    batches = in_token_batches(
        [row.prompt for row in rows],
        [row.n_tokens for row in rows],
        train.tokens_per_micro_batch,
        shared=not train.gradient_checkpointing,
    )
    most = max(ranks.gather(len(batches), doing="counting micro-batches"))
    totals: dict[str, float] = {}
    tokenwise: dict[str, list[np.ndarray]] = {}
    for number in range(most):
        is_blank = number >= len(batches)
        part = [blank] if is_blank else [rows[i] for i in batches[number]]
        # Peers average their gradients, and the loss is a sum over all of them.
        weight = 0 if is_blank else ranks.world
        longest = max(len(row.prompt) for row in part) + max(row.n_tokens for row in part)
        with (
            memory_for("the update", rows=len(part), tokens=longest, keys=_MEMORY_KEYS),
            _synchronised(module, number == most - 1),
        ):
            sums, values = _micro_batch(policy, module, part, whole, train, temperature, weight)
        for name, value in {} if is_blank else sums.items():
            totals[name] = totals.get(name, 0.0) + value
        for name, value in {} if is_blank else values.items():
            tokenwise.setdefault(name, []).append(value)
    return _metrics(*_of_all(ranks, totals, tokenwise), whole, train)


def _synchronised(module: torch.nn.Module, is_last: bool):
    """DDP's gradients travel once, with the last micro-batch."""
    is_ddp = isinstance(module, torch.nn.parallel.DistributedDataParallel)
    return module.no_sync() if is_ddp and not is_last else nullcontext()


def _of_all(ranks: Ranks, totals: dict[str, float], tokenwise: dict[str, list[np.ndarray]]):
    """Sums and values per token of all ranks."""
    joined: dict[str, float] = {}
    values: dict[str, list[np.ndarray]] = {}
    for sums, arrays in ranks.gather((totals, tokenwise), doing="an update"):
        for name, value in sums.items():
            joined[name] = joined.get(name, 0.0) + value
        for name, parts in arrays.items():
            values.setdefault(name, []).extend(parts)
    return joined, {name: np.concatenate(parts) for name, parts in values.items()}


def _micro_batch(policy, module, rows: list[Row], whole: Denominators, train: Train, temperature: float, weight: float):
    responses = [row.rollout.token_ids_T for row in rows]
    batch = build_batch(policy.model, [row.prompt for row in rows], responses, pad_id=policy.tokenizer.pad_token_id)
    gated_N, support_GS, teacher_GC, weights_G = _gated_tokens(rows, whole, train, policy.model)

    def terms_of(*scores):
        return _terms(rows, batch.mask_BT, whole, train, teacher_GC, weights_G, *scores)

    loss, hidden_NH, gradients, sums, values = module(
        batch, terms_of, gated_N, support_GS, temperature, train.logits_per_chunk
    )
    (weight * loss).backward()
    if weight:
        gradients["policy_gradient"] = hidden_NH.grad / weight - sum(gradients.values())
    sums |= {f"squared_gradient_{name}": float(g.double().square().sum()) for name, g in gradients.items()}
    return sums, {name: value.float().cpu().numpy() for name, value in values.items()}


def _terms(rows, mask_BT, whole, train, teacher_GC, weights_G, logprobs_N, entropy_N, student_GC):
    """The terms of the loss, already divided; further sums; and values per token."""
    logprobs_BT = _padded(logprobs_N, mask_BT)
    old_BT = _padded(_packed(rows, lambda row: row.old_logprobs_T, logprobs_N), mask_BT)
    sampler_BT = _padded(_packed(rows, lambda row: row.rollout.sampler_logprobs_T, logprobs_N), mask_BT)
    advantages_BT = torch.tensor([row.advantage for row in rows]).to(logprobs_BT)[:, None].expand_as(logprobs_BT)

    loss_BT = clipped_surrogate(
        logprobs_BT,
        old_BT,
        advantages_BT,
        clip_low=train.clip_low,
        clip_high=train.clip_high,
        ratio=train.ratio,
        mask_BT=mask_BT,
        dual_clip=train.dual_clip,
    )
    if any(row.trainer_logprobs_T is not None for row in rows):
        loss_BT = loss_BT * truncated_importance_weights(old_BT, sampler_BT, cap=train.mismatch_cap, mask_BT=mask_BT)
    if train.reduction == "sequence":
        policy_gradient = (loss_BT.sum(1) / mask_BT.sum(1)).sum() / whole.rows
    else:
        policy_gradient = loss_BT.sum() / whole.tokens
    terms = {"policy_gradient": policy_gradient}
    values = {"entropy": entropy_N, "log_ratio": (logprobs_N - sampler_BT[mask_BT]).detach()}
    sums = {"clipped_tokens": _clipped(logprobs_BT, old_BT, advantages_BT, mask_BT, train)}

    if len(weights_G):
        divergence_G = jensen_shannon(student_GC, teacher_GC, beta=train.distill_beta)
        terms["distill"] = train.distill_weight * (divergence_G * weights_G).sum()
        values |= {"divergence": divergence_G.detach(), **_student_on_teacher_top(student_GC, teacher_GC)}
    if train.kl_weight > 0:
        reference_BT = _padded(_packed(rows, lambda row: row.score.reference_logprobs_T, logprobs_N), mask_BT)
        in_kl_B1 = torch.tensor([train.kl_in_gated_groups or not row.is_group_gated for row in rows])[:, None]
        kl_BT = k3(logprobs_BT, reference_BT, mask_BT=mask_BT & in_kl_B1.to(mask_BT.device))
        terms["kl"] = train.kl_weight * kl_BT.sum() / whole.tokens
        sums["kl_nats"] = float(kl_BT.detach().sum())
    return terms, sums, values


class LossModel(torch.nn.Module):
    """A micro-batch's forward up to the loss, so that DDP and FSDP2 see a single module called once."""

    def __init__(self, model: torch.nn.Module, media_ids: Sequence[int], *, is_shared: bool = False):
        super().__init__()
        self.model = model
        self.media_ids = list(media_ids)
        # Peers wait for each other in every layer: a micro-batch without pictures has to pass through the same ones.
        self.always_looks = is_shared

    def forward(self, batch: Batch, terms_of, gated_N, support_GS, temperature: float, logits_per_chunk: int):
        """-> loss, hidden_NH, gradients of its terms but the policy gradient at hidden_NH, sums, values per token.

        At the last hidden states every term's gradient is cheap to tell apart; the policy gradient's is what the others
        leave of `hidden_NH.grad` after the backward. They are taken here, where FSDP2 has the head's weights at hand.
        """
        hidden_NH = response_hidden(self.model, batch)
        if self.always_looks and "pixel_values" not in batch.prompts.inputs:
            hidden_NH = hidden_NH + 0 * look_at_nothing(self.model)
        terms, sums, values = terms_of(
            *self._head(hidden_NH, batch.response_ids_N, gated_N, support_GS, temperature, logits_per_chunk)
        )
        gradients = {
            name: torch.autograd.grad(term, hidden_NH, retain_graph=True)[0]
            for name, term in terms.items()
            if name != "policy_gradient"
        }
        hidden_NH.retain_grad()  # only now: it would also keep the gradients asked for above
        sums |= {f"loss_{name}": float(term.detach()) for name, term in terms.items()}
        return sum(terms.values()), hidden_NH, gradients, sums, values

    def _head(self, hidden_NH, ids_N, gated_N, support_GS, temperature, logits_per_chunk):
        """Per-token numbers from the hidden states; (N, V) exists for one chunk at a time, forward and backward.

        -> logprobs_N, entropy_N (no gradient), student_GC on the support of the gated tokens.
        """
        slices = list(chunks(len(hidden_NH), self.model.config.get_text_config().vocab_size, logits_per_chunk))
        if len(slices) == 1:
            logits_NV = self._logits(hidden_NH, temperature)
            return *self._of_tokens(logits_NV, ids_N), coarse_logprobs(logits_NV[gated_N], support_GS)

        # Each chunk is computed again in its backward and then forgotten. It is cut by what the terms of the loss need:
        # each is differentiated by itself, and what a recomputation holds that its term does not ask for would stay.
        def tokens(hidden_nH, ids_n):
            return self._of_tokens(self._logits(hidden_nH, temperature), ids_n)

        def coarse(hidden_gH, support_gS):
            return coarse_logprobs(self._logits(hidden_gH, temperature), support_gS)

        first_gated = torch.cat([gated_N.new_zeros(1, dtype=torch.long), gated_N.long().cumsum(0)]).tolist()
        parts = []
        for where in slices:
            support_gS = support_GS[first_gated[where.start] : first_gated[where.stop]]
            of_all = checkpoint(tokens, hidden_NH[where], ids_N[where], use_reentrant=False)
            of_gated = checkpoint(coarse, hidden_NH[where][gated_N[where]], support_gS, use_reentrant=False)
            parts.append((*of_all, of_gated))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _logits(self, hidden_nH, temperature):
        return response_logits(self.model, hidden_nH, media_ids=self.media_ids, temperature=temperature)

    def _of_tokens(self, logits_nV, ids_n):
        with torch.no_grad():
            entropy_n = entropy(logits_nV)
        return token_logprobs(logits_nV, ids_n), entropy_n


def _gated_tokens(rows: list[Row], whole: Denominators, train: Train, model):
    """Which packed tokens are gated, with their support, the teacher's log-probs and their weight in the loss.

    -> gated_N, support_GS (−1 pads), teacher_GC (−inf pads before the tail), weights_G; G gated tokens here.
    """
    device, dtype = model.device, torch.promote_types(model.dtype, torch.float32)
    gated_N = torch.cat([torch.full((row.n_tokens,), row.is_gated) for row in rows]).to(device)
    gated = [row for row in rows if row.is_gated]
    if train.distill_weight == 0 or not gated:
        empty = torch.zeros(0, 0, device=device)
        return torch.zeros_like(gated_N), empty.long(), empty.new_zeros(0, 1), empty.new_zeros(0)
    width = max(row.score.support_TS.shape[1] for row in gated)
    n_tokens = sum(row.n_tokens for row in gated)
    support_GS = np.full((n_tokens, width), -1, np.int64)
    teacher_GC = np.full((n_tokens, width + 1), -np.inf, np.float32)
    weights_G = np.empty(n_tokens)
    start = 0
    for row in gated:
        stop, own = start + row.n_tokens, row.score.support_TS.shape[1]
        support_GS[start:stop, :own] = row.score.support_TS
        teacher_GC[start:stop, :own] = row.score.teacher_logprobs_TC[:, :-1]
        teacher_GC[start:stop, -1] = row.score.teacher_logprobs_TC[:, -1]
        weights_G[start:stop] = 1 / _share(row, whole, train)
        start = stop
    return (
        gated_N,
        torch.from_numpy(support_GS).to(device),
        torch.from_numpy(teacher_GC).to(device, dtype),
        torch.from_numpy(weights_G).to(device, dtype),
    )


def _share(row: Row, whole: Denominators, train: Train) -> int:
    """What a gated token's divergence is divided by: eq. 11, or eq. 80 per problem."""
    if train.distill_reduction == "token":
        return whole.gated_tokens
    return whole.problems * whole.gated_tokens_of[row.rollout.problem_id]


@torch.no_grad()
def _clipped(logprobs_BT, old_BT, advantages_BT, mask_BT, train: Train) -> float:
    """Tokens whose clip is active: outside the range on the side that the advantage pushes to."""
    log_ratio_BT = (logprobs_BT - old_BT) * mask_BT
    if train.ratio == "sequence":
        log_ratio_BT = (log_ratio_BT.sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True)).expand_as(mask_BT)
    ratio_BT = log_ratio_BT.exp()
    high_BT = (advantages_BT > 0) & (ratio_BT > 1 + train.clip_high)
    low_BT = (advantages_BT < 0) & (ratio_BT < 1 - train.clip_low)
    return float(((high_BT | low_BT) & mask_BT).sum())


@torch.no_grad()
def _student_on_teacher_top(student_GC: torch.Tensor, teacher_GC: torch.Tensor) -> dict[str, torch.Tensor]:
    """The student's probability of the teacher's best support token, and where the two disagree on the best one."""
    teacher_top_G1 = teacher_GC[:, :-1].argmax(1, keepdim=True)
    disagree_G = teacher_top_G1[:, 0] != student_GC[:, :-1].argmax(1)
    return {"student_on_teacher_top": student_GC.gather(1, teacher_top_G1)[:, 0].exp(), "disagrees": disagree_G}


def _metrics(
    totals: dict[str, float], values: dict[str, np.ndarray], whole: Denominators, train: Train
) -> dict[str, float]:
    loss = sum(value for name, value in totals.items() if name.startswith("loss_"))
    if not np.isfinite(loss):
        raise PtdpoError(
            "the loss is not finite", found=f"{loss}", hint="lower train.learning_rate; the last checkpoint is whole"
        )
    metrics = {"loss": loss} | {
        name.replace("loss_", "loss/"): v for name, v in totals.items() if name.startswith("loss_")
    }
    for name, value in totals.items():
        if name.startswith("squared_gradient_"):
            metrics[name.replace("squared_gradient_", "grad_norm/")] = float(np.sqrt(value))
    metrics["entropy"] = float(values["entropy"].mean())
    metrics["clip_fraction"] = totals["clipped_tokens"] / whole.tokens
    metrics["sampler_mismatch"] = float(np.abs(values["log_ratio"]).mean())
    if "kl_nats" in totals:
        metrics["kl"] = totals["kl_nats"] / whole.tokens
    metrics["gated_tokens"] = whole.gated_tokens
    if "divergence" in values:
        _require_gradient(totals)
        metrics |= _divergence_metrics(values)
    return metrics


def _require_gradient(totals: dict[str, float]) -> None:
    value, norm = totals["loss_distill"], np.sqrt(totals["squared_gradient_distill"])
    if value > _POSITIVE_DIVERGENCE and norm <= _ZERO_GRADIENT * value:
        raise PtdpoError(
            "the distillation term is positive but its gradient is zero: it would be logged and teach nothing",
            expected="a gradient norm above 0",
            found=f"term {value:.3g}, gradient norm {norm:.3g}",
            hint="a changed divergence detaches the student, or the student gives the teacher's tokens no probability "
            "at all; look at distill/student_on_teacher_top in metrics.jsonl",
        )


def _divergence_metrics(values: dict[str, np.ndarray]) -> dict[str, float]:
    disagrees = values["disagrees"].astype(bool)
    metrics = {
        "distill/jsd": float(values["divergence"].mean()),
        "distill/share_above_0.6": float((values["divergence"] > 0.6).mean()),
        "distill/student_on_teacher_top": float(np.median(values["student_on_teacher_top"])),
        "distill/disagreement": float(disagrees.mean()),
    }
    if disagrees.any():
        metrics["distill/student_on_teacher_top_where_they_disagree"] = float(
            np.median(values["student_on_teacher_top"][disagrees])
        )
    return metrics


def _padded(values_N: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Packed tokens back to (B, T), zeros on padding; differentiable."""
    return values_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, values_N)


def _packed(rows: list[Row], of, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([of(row) for row in rows])).to(like)
