"""How a token is drawn, the same in every engine: one uniform number per token, out of the request's own stream.

Shapes: B rows, V vocabulary, T response tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import TopPLogitsWarper

from ptdpo_cli.engines import Sampling


def uniforms(seed: int, n_tokens: int) -> np.ndarray:
    """The request's stream of numbers in 0…1 -> uniforms_T, float64."""
    return np.random.Generator(np.random.Philox(seed)).random(n_tokens)


def choose(logprobs_BV: torch.Tensor, uniforms_B: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The next token of each row by inverting its distribution function (greedy: the best one) -> ids_B.

    Neither order nor batch mates change a row's draw. `logprobs_BV` are at the sampling temperature.
    """
    if sampling.temperature == 0:
        return logprobs_BV.argmax(1)
    if sampling.top_p < 1:
        logprobs_BV = TopPLogitsWarper(sampling.top_p)(None, logprobs_BV)
    cumulative_BV = logprobs_BV.double().exp().cumsum(1)
    # `right` steps over tokens of probability 0; the product stays below the total, so the index is in range.
    aims_B1 = uniforms_B[:, None].to(cumulative_BV.device) * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, aims_B1, right=True)[:, 0]
