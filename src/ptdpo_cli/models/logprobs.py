"""Forwards that score given responses, without ever holding (B, T, V).

Shapes: N packed response tokens (rows in order), H hidden, V vocabulary, S support ids, C = S + 1.
Everything is float32 before the first exponential; vision tokens are out of every distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ptdpo_cli.errors import PtdpoError
from ptdpo_cli.models.inputs import Batch


def response_hidden(model, batch: Batch) -> torch.Tensor:
    """Last hidden states at the positions that predict response tokens -> hidden_NH."""
    output = model.model(**batch.model_inputs, use_cache=False)
    return output.last_hidden_state[batch.predicts_BL]


def response_logits(model, hidden_NH: torch.Tensor, *, media_ids: list[int], temperature: float) -> torch.Tensor:
    """logits / τ in float32 (float64 stays) with vision tokens at −inf -> logits_NV."""
    logits_NV = model.lm_head(hidden_NH)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)) / temperature
    if media_ids:
        logits_NV = logits_NV.index_fill(1, torch.tensor(media_ids, device=logits_NV.device), float("-inf"))
    return logits_NV


def token_logprobs(logits_NV: torch.Tensor, token_ids_N: torch.Tensor) -> torch.Tensor:
    """log p of the given tokens: z_t − logsumexp(z) -> logprobs_N, in nats."""
    return logits_NV.gather(1, token_ids_N[:, None])[:, 0] - logits_NV.logsumexp(1)


def entropy(logits_NV: torch.Tensor) -> torch.Tensor:
    """Entropy of each row's full distribution -> entropy_N, in nats; masked tokens count 0."""
    logprobs_NV = logits_NV.log_softmax(1)
    return -(logprobs_NV.exp() * logprobs_NV.clamp_min(torch.finfo(logprobs_NV.dtype).min)).sum(1)


def chunks(n_tokens: int, vocabulary: int, logits_per_chunk: int) -> Iterator[slice]:
    """Slices over packed tokens such that a slice's logits hold at most `logits_per_chunk` numbers."""
    step = max(1, logits_per_chunk // vocabulary)
    for start in range(0, n_tokens, step):
        yield slice(start, min(start + step, n_tokens))


def require_finite(logits_NV: torch.Tensor, media_ids: list[int], *, who: str) -> None:
    """Refuse NaN and +inf anywhere, and −inf outside the masked vision tokens: such scores would train garbage."""
    n_bad = int((~torch.isfinite(logits_NV)).sum()) - len(media_ids) * len(logits_NV)
    if n_bad or bool(torch.isnan(logits_NV).any()):
        raise PtdpoError(
            f"the {who}'s logits hold NaN or inf",
            expected="finite numbers",
            found=f"{max(n_bad, 1)} of {logits_NV.numel()} entries",
            hint="the weights are damaged or the dtype is too narrow; try `--set model.dtype=float32`",
        )


def in_token_batches(lengths: list[int], tokens_per_batch: int) -> list[list[int]]:
    """Indices grouped so that padded size (rows × longest) stays within a budget; like lengths go together.

    A single row over the budget gets a batch of its own. Every index occurs once; the order is deterministic.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        # Sorted by length, so the newest row is the longest of its batch.
        if batches and (len(batches[-1]) + 1) * lengths[index] <= tokens_per_batch:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


ScoreChunk = Callable[[torch.Tensor, slice], None]


@torch.no_grad()
def for_each_chunk(model, batch: Batch, score: ScoreChunk, *, media_ids, temperature, logits_per_chunk) -> None:
    """One forward without gradient; `score(logits_nV, where)` sees the response logits chunk by chunk."""
    hidden_NH = response_hidden(model, batch)
    for where in chunks(len(hidden_NH), model.config.get_text_config().vocab_size, logits_per_chunk):
        score(response_logits(model, hidden_NH[where], media_ids=media_ids, temperature=temperature), where)
