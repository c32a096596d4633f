"""Forwards that score given responses, without ever holding (B, T, V).

Shapes: N packed response tokens (rows in order), H hidden, V vocabulary, S support ids, C = S + 1.
Everything is float32 before the first exponential; vision tokens are out of every distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from transformers import Cache

from ptdpo_cli.errors import PtdpoError
from ptdpo_cli.models.inputs import Batch, Prompt, SharedPrompts, build_batch, picture_inputs
from ptdpo_cli.models.load import Policy


def read_prompts(model, prompts: SharedPrompts) -> tuple[torch.Tensor, Cache, torch.Tensor]:
    """Run each distinct prompt once -> hidden_BH at its last token, keys and values per row, mask_BL.

    The prompt's last position predicts the first response token. The gradient passes through keys and values.
    """
    output = model.model(**prompts.inputs, use_cache=True)
    rows = prompts.prompt_of_B
    output.past_key_values.batch_select_indices(rows)
    hidden_BH = output.last_hidden_state[rows, prompts.last_P[rows]]
    return hidden_BH, output.past_key_values, prompts.inputs["attention_mask"][rows]


def response_hidden(model, batch: Batch) -> torch.Tensor:
    """Last hidden states at the positions that predict response tokens, packed -> hidden_NH."""
    if model.training and model.is_gradient_checkpointing:
        return _recomputable_hidden(model, batch)
    first_BH, cache, mask_BL = read_prompts(model, batch.prompts)
    n_read = batch.mask_BT.shape[1] - 1
    rest = model.model(
        input_ids=batch.response_ids_BT[:, :-1],
        attention_mask=torch.cat([mask_BL, batch.mask_BT[:, :-1].long()], 1),
        position_ids=batch.prompts.response_positions(0, n_read),
        past_key_values=cache,
        use_cache=True,
    )
    return torch.cat([first_BH[:, None], rest.last_hidden_state], 1)[batch.mask_BT]


def _recomputable_hidden(model, batch: Batch) -> torch.Tensor:
    """The same in one forward without a cache, every row with a prompt of its own -> hidden_NH.

    Gradient checkpointing runs each layer again in the backward pass, which a cache does not survive.
    """
    rows, shared = batch.prompts.prompt_of_B, batch.prompts
    n_read = batch.mask_BT.shape[1] - 1
    inputs = {"input_ids": batch.response_ids_BT[:, :-1], "attention_mask": batch.mask_BT[:, :-1].long()}
    inputs = {name: torch.cat([shared.inputs[name][rows], rest], 1) for name, rest in inputs.items()}
    positions = shared.inputs["position_ids"][..., rows, :]
    inputs["position_ids"] = torch.cat([positions, shared.response_positions(0, n_read)], -1)
    if "mm_token_type_ids" in shared.inputs:
        types_BL = shared.inputs["mm_token_type_ids"][rows]
        inputs["mm_token_type_ids"] = torch.cat([types_BL, types_BL.new_zeros(len(rows), n_read)], 1)
    pictures = picture_inputs([shared.distinct[row] for row in rows.tolist()])
    inputs |= {name: tensor.to(model.device) for name, tensor in pictures.items()}
    hidden_BLH = model.model(**inputs, use_cache=False).last_hidden_state
    first_BH = hidden_BLH[torch.arange(len(rows), device=rows.device), shared.last_P[rows]]
    rest_BTH = hidden_BLH[:, shared.inputs["input_ids"].shape[1] :]
    return torch.cat([first_BH[:, None], rest_BTH], 1)[batch.mask_BT]


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


def in_token_batches(
    prompts: Sequence[Prompt], lengths: Sequence[int], tokens_per_batch: int, *, shared: bool = True
) -> list[list[int]]:
    """Indices of rows in batches whose padded tokens (distinct prompts and responses) stay within a budget.

    `shared=False` counts a prompt for each of its rows, as gradient checkpointing reads it.
    Rows of one prompt stay neighbours, prompts of like length go together; a row over the budget is a batch of its own.
    Every index occurs once; the order is deterministic.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i].problem_id, lengths[i], i)):
        grown = [*batches[-1], index] if batches else [index]
        if batches and padded_tokens(prompts, lengths, grown, shared=shared) <= tokens_per_batch:
            batches[-1] = grown
        else:
            batches.append([index])
    return batches


def padded_tokens(prompts: Sequence[Prompt], lengths: Sequence[int], rows: Sequence[int], *, shared: bool) -> int:
    """Tokens, pads included, that a batch of these rows puts through the model."""
    distinct = {id(prompts[i]): len(prompts[i]) for i in rows}
    n_prompts = len(distinct) if shared else len(rows)
    return n_prompts * max(distinct.values()) + len(rows) * max(lengths[i] for i in rows)


ScoreChunk = Callable[[torch.Tensor, slice], None]


@torch.no_grad()
def for_each_chunk(model, batch: Batch, score: ScoreChunk, *, media_ids, temperature, logits_per_chunk) -> None:
    """One forward without gradient; `score(logits_nV, where)` sees the response logits chunk by chunk."""
    hidden_NH = response_hidden(model, batch)
    for where in chunks(len(hidden_NH), model.config.get_text_config().vocab_size, logits_per_chunk):
        score(response_logits(model, hidden_NH[where], media_ids=media_ids, temperature=temperature), where)


def _unguarded(rows: int, tokens: int) -> AbstractContextManager:
    return nullcontext()


def score_responses(
    policy: Policy,
    prompts: Sequence[Prompt],
    responses: Sequence[np.ndarray],
    score: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, ...]],
    *,
    beside: Sequence[np.ndarray] | None = None,
    temperature: float,
    tokens_per_batch: int,
    logits_per_chunk: int,
    guard: Callable[[int, int], AbstractContextManager] = _unguarded,
) -> list[tuple[np.ndarray, ...]]:
    """`score(logits_nV, ids_n, beside_nK)` over every response token, without gradient -> its results per response.

    `beside` has rows of whole numbers for the tokens of each response, which `score` gets with them; `guard(rows,
    tokens)` surrounds each batch's forward.
    """
    results: list = [None] * len(responses)
    lengths = [len(response) for response in responses]
    for indices in in_token_batches(prompts, lengths, tokens_per_batch):
        batch = build_batch(
            policy.model,
            [prompts[i] for i in indices],
            [responses[i] for i in indices],
            pad_id=policy.tokenizer.pad_token_id,
        )
        beside_NK = None if beside is None else torch.from_numpy(np.concatenate([beside[i] for i in indices])).long()
        parts: list = []

        def score_chunk(logits_nV, where, ids_N=batch.response_ids_N, beside_NK=beside_NK, parts=parts):
            beside_nK = None if beside_NK is None else beside_NK[where].to(logits_nV.device)
            parts.append(score(logits_nV, ids_N[where], beside_nK))

        longest = max(len(prompts[i]) for i in indices) + max(lengths[i] for i in indices)
        with guard(len(indices), longest):
            for_each_chunk(
                policy.model,
                batch,
                score_chunk,
                media_ids=policy.media_ids,
                temperature=temperature,
                logits_per_chunk=logits_per_chunk,
            )
        for index, row in zip(indices, _by_response(parts, [lengths[i] for i in indices]), strict=True):
            results[index] = row
    return results


@torch.no_grad()
def contrast_responses(
    policy: Policy,
    prompts: Sequence[Prompt],
    others: Sequence[Prompt],
    responses: Sequence[np.ndarray],
    contrast: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]],
    *,
    temperature: float,
    tokens_per_batch: int,
    logits_per_chunk: int,
    guard: Callable[[int, int], AbstractContextManager] = _unguarded,
) -> list[tuple[np.ndarray, ...]]:
    """`contrast(logits_nV, other_logits_nV, ids_n)` over every token of responses that are read below either prompt,
    without gradient -> its results per response.

    The two forwards come one after the other, and a chunk's logits are made from the hidden states of both: together
    they hold at most `logits_per_chunk` numbers.
    """
    results: list = [None] * len(responses)
    lengths = [len(response) for response in responses]
    longer = [max(pair, key=len) for pair in zip(prompts, others, strict=True)]
    settings = {"media_ids": policy.media_ids, "temperature": temperature}
    vocabulary = policy.model.config.get_text_config().vocab_size
    for indices in in_token_batches(longer, lengths, tokens_per_batch):
        longest = max(len(longer[i]) for i in indices) + max(lengths[i] for i in indices)
        with guard(len(indices), longest):
            hidden = []
            for side in (prompts, others):
                batch = build_batch(
                    policy.model,
                    [side[i] for i in indices],
                    [responses[i] for i in indices],
                    pad_id=policy.tokenizer.pad_token_id,
                )
                hidden.append(response_hidden(policy.model, batch))
            ids_N, parts = batch.response_ids_N, []
            for where in chunks(len(ids_N), vocabulary, logits_per_chunk // 2):
                logits = (response_logits(policy.model, hidden_NH[where], **settings) for hidden_NH in hidden)
                parts.append(contrast(*logits, ids_N[where]))
        for index, row in zip(indices, _by_response(parts, [lengths[i] for i in indices]), strict=True):
            results[index] = row
    return results


def _by_response(parts: list[tuple[torch.Tensor, ...]], lengths: Sequence[int]) -> list[tuple[np.ndarray, ...]]:
    """The results of a batch's chunks, cut again where its responses end."""
    columns = [_stack([part[c].cpu().numpy() for part in parts]) for c in range(len(parts[0]))]
    ends = np.cumsum(lengths)[:-1]
    return list(zip(*(np.split(column, ends) for column in columns), strict=True))


def response_logprobs(
    policy: Policy, prompts: Sequence[Prompt], responses: Sequence[np.ndarray], *, who: str = "policy", **settings
) -> list[np.ndarray]:
    """A policy's log-probs of given responses, by teacher forcing -> logprobs_T of each; settings as above."""

    def score(logits_nV, ids_n, _):
        require_finite(logits_nV, policy.media_ids, who=who)
        return (token_logprobs(logits_nV, ids_n),)

    return [logprobs_T for (logprobs_T,) in score_responses(policy, prompts, responses, score, **settings)]


def _stack(parts: list[np.ndarray]) -> np.ndarray:
    """Chunks one after the other, though their supports differ in width: ids pad with −1, log-probs with −inf."""
    if len(parts) == 1 or parts[0].ndim == 1:
        return np.concatenate(parts)
    width = max(p.shape[1] for p in parts)
    if np.issubdtype(parts[0].dtype, np.integer):
        return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=-1) for p in parts])
    return np.concatenate([np.insert(p, [p.shape[1] - 1] * (width - p.shape[1]), -np.inf, axis=1) for p in parts])
