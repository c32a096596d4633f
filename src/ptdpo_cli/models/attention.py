"""Where a frozen model looks: attention of chosen text rows over image tokens, without any full attention matrix.

Hooks on q and k recompute the softmax for the chosen rows of a forward that runs with sdpa, and keep the columns of
image tokens. A content-free question is packed behind prompt and response in the same sequence: under the mask it sees
the pictures and itself, as if it stood in the question's place, so that its map costs no second forward.

Shapes: B sequences, L padded tokens, T response tokens, F tokens of the content-free question, R chosen rows, C image
tokens, H heads, K key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from ptdpo_cli.errors import PtdpoError, UsageError
from ptdpo_cli.models.inputs import Prompt, share_prompts
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.logprobs import chunks, require_finite, response_logits, token_logprobs
from ptdpo_cli.models.prompt import user_message

# A question that asks for nothing, in few tokens. Source: the content-free input of arXiv 2102.09690.
CONTENT_FREE = "N/A"
# Of each of question and response, evenly spread.
MAX_ROWS = 128
# Attention weights held at once, of some sequences of a batch (8 MB).
_WEIGHTS_AT_ONCE = 2**21
_LOGITS_PER_CHUNK = 2**24
# A share of attention below this is rounding; it must not make a divergence large.
_FLOOR = 1e-9


@dataclass(frozen=True, eq=False)
class Reading:
    """Prompt, response and content-free question as one sequence, and the rows whose attention counts."""

    prompt: Prompt
    response_ids_T: np.ndarray
    free_ids_F: np.ndarray
    rows_R: np.ndarray          # of prompt and response

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response_ids_T) + len(self.free_ids_F)


def read_with(
    policy: Policy, prompt: Prompt, response: str, *, question: bool, response_counts: bool, instruction: str
) -> Reading:
    """The reading of a prompt with pictures and of a response to it.

    Rows of the question: where the prompt differs from the same prompt with the content-free question, so that
    template and instruction do not count. Rows of the response: those that predict its tokens, from the prompt's last
    one on; there the model looks for what it is about to say.

    Errors: UsageError for a response with media tokens, or where there is nothing to read.
    """
    messages = user_message(CONTENT_FREE, len(prompt.images), instruction=instruction)
    free_text = policy.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    free_text = free_text.rpartition(policy.processor.image_token)[2]
    free_ids_F = np.array(policy.tokenizer(free_text, add_special_tokens=False).input_ids)
    response_ids_T = np.array(policy.tokenizer(response, add_special_tokens=False).input_ids, dtype=np.int64)

    if set(policy.media_ids) & set(response_ids_T.tolist()):
        raise UsageError(f"the solution of problem {prompt.problem_id} holds a media token")
    start = _after_pictures(prompt)
    asked, free = prompt.token_ids_L[start:].tolist(), free_ids_F.tolist()
    before = _common(asked, free)
    after = _common(asked[before:][::-1], free[before:][::-1])
    rows = [np.arange(start + before, len(prompt) - after)] if question else []
    rows += [len(prompt) - 1 + np.arange(len(response_ids_T))] if response_counts else []
    rows = [_spread(some, MAX_ROWS) for some in rows if len(some)]
    if not rows:
        raise UsageError(f"problem {prompt.problem_id} has no text whose attention could be read")
    return Reading(prompt, response_ids_T, free_ids_F, np.concatenate(rows))


def _after_pictures(prompt: Prompt) -> int:
    return int(prompt.type_ids_L.nonzero().max()) + 1


def _common(one: list[int], other: list[int]) -> int:
    """How many tokens two texts have in common at their start."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _spread(rows: np.ndarray, limit: int) -> np.ndarray:
    return rows if len(rows) <= limit else rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Readings as the model reads them, right-padded, with rows and columns to look at: R = Q text rows, then F of the
    content-free question. `is_row_BQ` and `is_image_BC` are False where there is only padding.
    """

    inputs: dict[str, torch.Tensor]
    rows_BR: torch.Tensor
    is_row_BQ: torch.Tensor
    free_weights_BF: torch.Tensor       # a mean over the content-free rows
    columns_BC: torch.Tensor
    is_image_BC: torch.Tensor


def pack(readings: Sequence[Reading], *, pad_id: int, device) -> PackedBatch:
    """A batch in which each content-free question sees what stands before the end of its pictures, and itself.

    Position i sees position j iff j ≤ i and (i < n or j < e or j ≥ n): e the end of the pictures, n of the response.
    Pads stand last, so no token sees one.
    """
    sequences = [_sequence(reading) for reading in readings]
    inputs = share_prompts(sequences, pad_id, device).inputs
    length = inputs["input_ids"].shape[1]
    end_B11 = torch.tensor([_after_pictures(reading.prompt) for reading in readings], device=device)[:, None, None]
    text_B11 = torch.tensor([len(one) - len(one.free_ids_F) for one in readings], device=device)[:, None, None]
    i, j = torch.arange(length, device=device)[:, None], torch.arange(length, device=device)
    inputs["attention_mask"] = ((j <= i) & ((i < text_B11) | (j < end_B11) | (j >= text_B11)))[:, None]
    rows_BQ, is_row_BQ = _pad([one.rows_R for one in readings])
    rows_BF, is_free_BF = _pad([np.arange(len(one) - len(one.free_ids_F), len(one)) for one in readings])
    columns_BC, is_image_BC = _pad([one.prompt.type_ids_L.eq(1).nonzero()[:, 0].numpy() for one in readings])
    return PackedBatch(
        inputs,
        torch.cat([rows_BQ, rows_BF], 1).to(device),
        is_row_BQ.to(device),
        (is_free_BF / is_free_BF.sum(1, keepdim=True)).to(device),
        columns_BC.to(device),
        is_image_BC.to(device),
    )


def _sequence(reading: Reading) -> Prompt:
    """The three texts as one prompt: the response goes on where the prompt ends, the other where its pictures end."""
    prompt, n_response, n_free = reading.prompt, len(reading.response_ids_T), len(reading.free_ids_F)
    positions_3L, start = prompt.positions_3L, _after_pictures(prompt)
    ids = torch.from_numpy(np.concatenate([reading.response_ids_T, reading.free_ids_F])).long()
    return replace(
        prompt,
        token_ids_L=torch.cat([prompt.token_ids_L, ids]),
        type_ids_L=torch.cat([prompt.type_ids_L, torch.zeros_like(ids)]),
        positions_3L=torch.cat([
            positions_3L,
            positions_3L.max() + 1 + torch.arange(n_response).expand(len(positions_3L), -1),
            positions_3L[:, start : start + 1] + torch.arange(n_free),
        ], 1),
    )


def _pad(rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ragged rows with zeros behind, and which entries are real."""
    lengths_B1 = np.array([len(row) for row in rows])[:, None]
    is_real = np.arange(lengths_B1.max()) < lengths_B1
    padded = np.zeros(is_real.shape, rows[0].dtype)
    padded[is_real] = np.concatenate(rows)
    return torch.from_numpy(padded), torch.from_numpy(is_real)


# --- attention of rows ------------------------------------------------------------------------------------------------


def attention_of_rows(
    query_BRHD: torch.Tensor, key_BLKD: torch.Tensor, visible_BRL: torch.Tensor, *, scaling: float
) -> torch.Tensor:
    """softmax(scaling · q kᵀ) of some rows over all visible keys, in float32 or better -> attention_BHRL."""
    B, R, H, D = query_BRHD.shape
    K = key_BLKD.shape[2]
    query = (query_BRHD * scaling).view(B, R, K, H // K, D).permute(0, 2, 3, 1, 4).reshape(B, K, -1, D)
    scores = (query @ key_BLKD.permute(0, 2, 3, 1)).view(B, H, R, -1)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores.masked_fill_(~visible_BRL[:, None], float("-inf")).softmax(-1)


def rotate(x_BLHD: torch.Tensor, cos_BLD: torch.Tensor, sin_BLD: torch.Tensor) -> torch.Tensor:
    """Rotary positions: x cos + (−x₂, x₁) sin, x₁ and x₂ the halves of a head; cos and sin hold M-RoPE's sections."""
    first, second = x_BLHD.chunk(2, -1)
    return x_BLHD * cos_BLD[:, :, None] + torch.cat([-second, first], -1) * sin_BLD[:, :, None]


@dataclass(frozen=True, eq=False)
class Layer:
    """What one layer's attention is made of, positions applied; values and output of the rows where asked for."""

    query_BRHD: torch.Tensor
    key_BLKD: torch.Tensor
    value_BLKD: torch.Tensor | None = None
    output_BLX: torch.Tensor | None = None      # o_proj's input, X = H · D


@contextmanager
def watching(
    model, batch: PackedBatch, see: Callable[[Layer], None], *, with_values: bool = False
) -> Iterator[None]:
    """Inside, every forward of the batch hands each layer's queries and keys to `see`, in order of layers.

    The hooks go when the block ends, however it ends. Inside, attention is torch's sdpa: flash-attn takes no mask of
    this kind, and eager takes it as numbers.
    """
    with ExitStack() as stack:
        implementation = model.config._attn_implementation
        if implementation != "sdpa":
            model.set_attn_implementation("sdpa")
            stack.callback(model.set_attn_implementation, implementation)
        for layer in _layers(model):
            for handle in _watch(layer, batch, see, with_values):
                stack.callback(handle.remove)
        yield


def require_readable(policy: Policy) -> None:
    """Errors: UsageError for a model whose attention or picture grids are not built as this module reads them."""
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "scaling")
    missing = [part for part in parts if not all(hasattr(layer, part) for layer in _layers(policy.model))]
    missing += [] if hasattr(policy.processor.image_processor, "merge_size") else ["picture grids"]
    if missing:
        raise UsageError(
            f"attention of models of type {policy.model.config.model_type} cannot be read",
            expected=f"layers with self_attn and, in it, {', '.join(parts)}; a processor that gives picture grids",
            found=f"no {', '.join(missing)}",
            hint="take another source of hints: `--source regions+steps`",
        )


def _layers(model) -> list[torch.nn.Module]:
    body = model.model
    return [getattr(layer, "self_attn", None) for layer in getattr(body, "language_model", body).layers]


def _watch(attention: torch.nn.Module, batch: PackedBatch, see, with_values: bool) -> list:
    seen: dict[str, torch.Tensor] = {}
    row_BR = torch.arange(len(batch.rows_BR), device=batch.rows_BR.device)[:, None], batch.rows_BR
    last = "output" if with_values else "key"

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.view(*projected.shape[:2], -1, attention.head_dim)

    def take(name: str, tensor: torch.Tensor) -> None:
        seen[name] = tensor
        if last in seen and "query" in seen and "key" in seen:
            see(Layer(seen["query"], seen["key"], seen.get("value"), seen.get("output")))
            seen.clear()

    def positions(module, args, kwargs):
        seen["cos"], seen["sin"] = kwargs["position_embeddings"]

    def query(module, args, output):
        take("query", rotate(heads(output)[row_BR], seen["cos"][row_BR], seen["sin"][row_BR]))

    def key(module, args, output):
        take("key", rotate(heads(output), seen["cos"], seen["sin"]))

    handles = [
        attention.register_forward_pre_hook(positions, with_kwargs=True),
        getattr(attention, "q_norm", attention.q_proj).register_forward_hook(query),
        getattr(attention, "k_norm", attention.k_proj).register_forward_hook(key),
    ]
    if with_values:
        handles += [
            attention.v_proj.register_forward_hook(lambda module, args, output: take("value", heads(output))),
            attention.o_proj.register_forward_pre_hook(lambda module, args: take("output", args[0])),
        ]
    return handles


def image_attention(model, batch: PackedBatch, layer: Layer, sequences: slice) -> torch.Tensor:
    """Attention of the chosen rows of some sequences over their image tokens -> attention_BHRC; 0 at padding."""
    rows_BR, columns_BC = batch.rows_BR[sequences], batch.columns_BC[sequences]
    visible_BLL = batch.inputs["attention_mask"][sequences, 0]
    sequence_B1 = torch.arange(len(rows_BR), device=rows_BR.device)[:, None]
    attention_BHRL = attention_of_rows(
        layer.query_BRHD[sequences], layer.key_BLKD[sequences], visible_BLL[sequence_B1, rows_BR],
        scaling=_scaling(model),
    )
    index_BHRC = columns_BC[:, None, None].expand(*attention_BHRL.shape[:3], -1)
    return attention_BHRL.gather(-1, index_BHRC) * batch.is_image_BC[sequences][:, None, None]


def _scaling(model) -> float:
    return _layers(model)[0].scaling


def some_at_a_time(batch: PackedBatch, layer: Layer) -> Iterator[slice]:
    """Slices of the batch whose attention weights, all keys included, are few enough to hold at once."""
    B, R, H, _ = layer.query_BRHD.shape
    step = max(1, _WEIGHTS_AT_ONCE // (R * H * layer.key_BLKD.shape[1]))
    return (slice(start, min(start + step, B)) for start in range(0, B, step))


# --- maps -------------------------------------------------------------------------------------------------------------


def evidence(
    attention_BHRC: torch.Tensor,
    is_row_BQ: torch.Tensor,
    free_weights_BF: torch.Tensor,
    *,
    gradient_BHQC: torch.Tensor | None = None,
) -> torch.Tensor:
    """What each row of one layer looks at for what it says -> evidence_BQC ≥ 0, summed over heads.

    e_r(c) = Σ_h m_hr KL(p_hr ‖ b_h) · max(0, a_hr(c) − m_hr b_h(c)) [· max(0, ∂ log p(response) / ∂a_hr(c))]
    b_h(c) = ½ p°_h(c) + ½ Σ_r a_hr(c) / Σ_r m_hr

    a_hr(c) is the attention of row r in head h to image token c, m_hr = Σ_c a_hr(c) its image mass, p_hr = a_hr / m_hr
    where on the pictures it looks, and p°_h the same of the mean content-free row. b_h is where the head looks anyway:
    whatever is asked, and whatever word of this text is said. So a row and head count by how much they look at the
    pictures, times how far (nats) from that they look; attention sinks are in b_h and go with it.

    Source: the content-free map is that of arXiv 2502.17422 (there a ratio of maps, without weights of heads).
    """
    text_BHQC, free_BHFC = attention_BHRC.split([is_row_BQ.shape[1], free_weights_BF.shape[1]], 2)
    text_BHQC = text_BHQC * is_row_BQ[:, None, :, None]
    free_BHC = torch.einsum("bhfc,bf->bhc", free_BHFC, free_weights_BF.to(free_BHFC.dtype))
    mass_BHQ = text_BHQC.sum(-1)
    anyway_BHC = 0.5 * _shares(free_BHC) + 0.5 * _shares(text_BHQC.sum(2))
    where_BHQC = _shares(text_BHQC)
    gain_BHQ = torch.xlogy(where_BHQC, where_BHQC).sum(-1)
    gain_BHQ -= (where_BHQC @ anyway_BHC.clamp_min(_FLOOR).log()[..., None])[..., 0]
    found_BHQC = (text_BHQC - mass_BHQ[..., None] * anyway_BHC[:, :, None]).clamp_min_(0)
    if gradient_BHQC is not None:
        found_BHQC = found_BHQC * gradient_BHQC.clamp_min(0)
    return torch.einsum("bhq,bhqc->bqc", mass_BHQ * gain_BHQ.clamp_min_(0), found_BHQC)


def _shares(attention_C: torch.Tensor) -> torch.Tensor:
    """Attention over image tokens as shares of its sum (last axis)."""
    return attention_C / attention_C.sum(-1, keepdim=True).clamp_min(_FLOOR)


def look(policy: Policy, readings: Sequence[Reading], *, gradient: bool = False) -> list[list[np.ndarray]]:
    """One forward over some readings -> map_HW of each picture of each of them, summing to 1 over a problem.

        map(c) ∝ max_r Σ_layers e_r(c)

    The maximum over rows, because each step of a solution looks somewhere else: a mean would rank a place by how many
    words go by while it is looked at. A map has a cell per image token, in the picture's rows and columns. Where the
    text draws the model's attention nowhere, it is flat. With `gradient` there is a backward pass too, through all
    layers but no parameter.
    """
    model = policy.model
    batch = pack(readings, pad_id=policy.tokenizer.pad_token_id, device=model.device)
    evidence_BQC = torch.zeros(*batch.is_row_BQ.shape, batch.columns_BC.shape[1], device=model.device)

    def see(layer: Layer, gradient_of: Callable[[slice], torch.Tensor | None] = lambda some: None) -> None:
        for some in some_at_a_time(batch, layer):
            attention_BHRC = image_attention(model, batch, layer, some)
            evidence_BQC[some] += evidence(
                attention_BHRC, batch.is_row_BQ[some], batch.free_weights_BF[some], gradient_BHQC=gradient_of(some)
            ).to(evidence_BQC.dtype)

    if gradient:
        layers, gradients = _with_gradients(policy, batch, readings)
        with torch.no_grad():
            for layer, output_BLX in zip(layers, gradients, strict=True):
                see(layer, lambda some, layer=layer, of=output_BLX: attention_gradient(batch, layer, of, some))
    else:
        with torch.no_grad(), watching(model, batch, see):
            model.model(**batch.inputs, use_cache=False)
    map_BC = evidence_BQC.amax(1)
    if not bool(torch.isfinite(map_BC).all()):
        raise PtdpoError(
            "the reference's attention holds NaN or inf",
            hint="the weights are damaged or the dtype is too narrow; try `--set model.dtype=float32`",
        )
    merge = policy.processor.image_processor.merge_size
    return [
        _on_grids(values_C[is_image_C], reading.prompt.image_grid_thw.numpy() // [1, merge, merge])
        for values_C, is_image_C, reading in zip(map_BC.cpu().numpy(), batch.is_image_BC.cpu().numpy(), readings,
                                                 strict=True)
    ]


def _on_grids(values_C: np.ndarray, grid_thw: np.ndarray) -> list[np.ndarray]:
    """Image tokens stand picture by picture, each in raster order of its merged grid."""
    total = values_C.sum(dtype=np.float64)
    values_C = values_C / total if total > 0 else np.full(len(values_C), 1 / len(values_C))
    parts = np.split(values_C.astype(np.float32), np.cumsum(grid_thw.prod(1))[:-1])
    return [part.reshape(height, width) for part, (_, height, width) in zip(parts, grid_thw, strict=True)]


# --- gradient ---------------------------------------------------------------------------------------------------------


def _with_gradients(
    policy: Policy, batch: PackedBatch, readings: Sequence[Reading]
) -> tuple[list[Layer], tuple[torch.Tensor, ...]]:
    """The layers of a forward, and ∂ log p(response) / ∂(o_proj's input) of each."""
    model, layers = policy.model, []
    embeddings = model.get_input_embeddings()
    with torch.enable_grad(), watching(model, batch, layers.append, with_values=True):
        # All parameters are frozen: the graph begins at the embedded tokens.
        start = embeddings.register_forward_hook(lambda module, args, output: output.requires_grad_())
        try:
            hidden_BLX = model.model(**batch.inputs, use_cache=False).last_hidden_state
        finally:
            start.remove()
    rows = [(b, len(one.prompt) - 1 + t) for b, one in enumerate(readings) for t in range(len(one.response_ids_T))]
    at = torch.tensor(rows, device=model.device).T
    ids_N = torch.from_numpy(np.concatenate([one.response_ids_T for one in readings])).to(model.device)
    hidden_NX = hidden_BLX[at[0], at[1]]
    outside = _gradient_of_logprob(policy, hidden_NX.detach(), ids_N)
    return layers, torch.autograd.grad(hidden_NX, [layer.output_BLX for layer in layers], outside)


def _gradient_of_logprob(policy: Policy, hidden_NX: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
    """∂ Σ log p(token) / ∂ hidden_NX, some tokens at a time: their logits are never all there."""
    gradient_NX = torch.empty_like(hidden_NX)
    for where in chunks(len(hidden_NX), policy.model.config.get_text_config().vocab_size, _LOGITS_PER_CHUNK):
        with torch.enable_grad():
            hidden_nX = hidden_NX[where].requires_grad_()
            logits_nV = response_logits(policy.model, hidden_nX, media_ids=policy.media_ids, temperature=1.0)
            require_finite(logits_nV.detach(), policy.media_ids, who="reference")
            (gradient_NX[where],) = torch.autograd.grad(token_logprobs(logits_nV, ids_N[where]).sum(), hidden_nX)
    return gradient_NX


def attention_gradient(
    batch: PackedBatch, layer: Layer, output_gradient_BLX: torch.Tensor, sequences: slice
) -> torch.Tensor:
    """∂ log p(response) / ∂a = ⟨∂ log p / ∂(a row's output of a head), v of a column⟩ -> gradient_BHQC."""
    rows_BQ, columns_BC = batch.rows_BR[sequences, : batch.is_row_BQ.shape[1]], batch.columns_BC[sequences]
    value_BLKD = layer.value_BLKD[sequences]
    B, _, K, D = value_BLKD.shape
    sequence_B1 = torch.arange(B, device=rows_BQ.device)[:, None]
    output_BQKGD = output_gradient_BLX[sequences][sequence_B1, rows_BQ].view(B, rows_BQ.shape[1], K, -1, D)
    value_BCKD = value_BLKD[sequence_B1, columns_BC]
    gradient = torch.einsum("bqkgd,bckd->bkgqc", output_BQKGD, value_BCKD)
    return gradient.flatten(1, 2).to(torch.promote_types(gradient.dtype, torch.float32))
