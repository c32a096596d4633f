"""What runs inside vLLM's worker: the draw of each token, and the loading of weights from a folder.

vLLM's own sampler cannot record what we compare. Its raw log-probs are at temperature 1 with media tokens in, its
processed ones are renormalised over the nucleus, and neither names the top-K of the whole distribution once top_p has
cut it. So a logits processor, vLLM's official place for such things, draws the token itself (`engines/draw.py`) and
hands on the log-probs with the sign of the drawn one turned: it alone is ≥ 0, so vLLM's greedy choice takes it, and
the recorded numbers are exact. Run with `temperature=0` and `logprobs_mode="processed_logits"`.

Shapes: B requests of a batch, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import safe_open
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from ptdpo_cli.engines import Sampling
from ptdpo_cli.engines.draw import choose, uniforms

# Rows that are drawn at once: what a row of 150,000 logits is sorted and summed in takes 6 MB.
_ROWS = 64


@dataclass
class _Row:
    """A request in the batch: its settings, its stream of uniform numbers, and the tokens it has so far."""

    sampling: Sampling
    media_ids: list[int]
    uniforms_T: np.ndarray
    output_ids: list[int]  # vLLM's own list, which grows


class DrawToken(LogitsProcessor):
    """Draws the next token of every request; the one entry ≥ 0 that it leaves in a row is minus its log-prob."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool):
        self.rows: dict[int, _Row] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self.rows, batch_update, _new_row)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if not self.rows:  # vLLM's own warm-up
            return logits
        rows = [self.rows[index] for index in range(len(logits))]
        uniforms_B = torch.tensor(
            [r.uniforms_T[min(len(r.output_ids), len(r.uniforms_T) - 1)] for r in rows], dtype=torch.float64
        )
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            logits[part] = draw(logits[part], uniforms_B[part], rows[start].sampling, rows[start].media_ids)
        return logits


def draw(logits_BV: torch.Tensor, uniforms_B: torch.Tensor, sampling: Sampling, media_ids: list[int]) -> torch.Tensor:
    """Log-probs at the temperature, media tokens at −inf, the drawn token's with its sign turned -> marked_BV."""
    scaled_BV = logits_BV / (sampling.temperature or 1.0)
    scaled_BV[:, media_ids] = float("-inf")
    logprobs_BV = scaled_BV.log_softmax(1)
    ids_B1 = choose(logprobs_BV, uniforms_B, sampling)[:, None]
    return logprobs_BV.scatter(1, ids_B1, -logprobs_BV.gather(1, ids_B1))


def request_settings(sampling: Sampling, seed: int, media_ids: list[int]) -> dict:
    """What a request carries to its row, as vLLM's `extra_args`."""
    return {
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
        "media_ids": media_ids,
    }


def _new_row(params: SamplingParams, _, output_ids: list[int]) -> _Row:
    settings = params.extra_args
    sampling = Sampling(settings["max_new_tokens"], settings["temperature"], settings["top_p"])
    stream_T = uniforms(settings["seed"], settings["max_new_tokens"])
    return _Row(sampling, settings["media_ids"], stream_T, output_ids)


class FolderWeights:
    """Extends vLLM's worker: every worker of a tensor-parallel engine reads the new weights from one folder."""

    def reload_from(self, folder: str) -> None:
        self.reload_weights(weights_iterator=_tensors(Path(folder)))


def _tensors(folder: Path):
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                yield name, tensors.get_tensor(name)
