"""The Hugging Face engine: samples from a policy in this process, with one private random stream per request.

Each distinct prompt is read once and its keys and values serve all its samples, exactly as in scoring and training
(`models/logprobs.py`), and tokens are drawn as in `engines/draw.py`.

Shapes: B requests of a batch, V vocabulary, T response tokens, K top ids, L prompt tokens, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ptdpo_cli.engines import Request, Sample, Sampling
from ptdpo_cli.engines.draw import choose, uniforms
from ptdpo_cli.models.inputs import share_prompts
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.logprobs import read_prompts, require_finite, response_logits


class HfEngine:
    """Samples from a policy held in this process."""

    def __init__(self, policy: Policy):
        self.policy = policy

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        policy, model = self.policy, self.policy.model
        shared = share_prompts([r.prompt for r in requests], policy.tokenizer.pad_token_id, model.device)
        hidden_BH, cache, mask_BL = read_prompts(model, shared)
        eos = torch.tensor(policy.eos_ids, device=model.device)
        uniforms_BT = torch.from_numpy(np.stack([uniforms(r.seed, sampling.max_new_tokens) for r in requests]))
        steps, has_ended_B = [], torch.zeros(len(requests), dtype=torch.bool, device=model.device)
        for step in range(sampling.max_new_tokens):
            # One temperature for the draw and for the log-prob that is recorded; 0 is greedy at temperature 1.
            temperature = sampling.temperature or 1.0
            logits_BV = response_logits(model, hidden_BH, media_ids=policy.media_ids, temperature=temperature)
            require_finite(logits_BV, policy.media_ids, who="policy")
            logprobs_BV = logits_BV.log_softmax(1)
            ids_B1 = choose(logprobs_BV, uniforms_BT[:, step], sampling)[:, None]
            k = min(sampling.top_ids, logprobs_BV.shape[1] - len(policy.media_ids))
            steps.append(
                (ids_B1.cpu(), logprobs_BV.gather(1, ids_B1).cpu(), logprobs_BV.topk(k, 1).indices.int().cpu())
            )
            has_ended_B |= torch.isin(ids_B1[:, 0], eos)
            if bool(has_ended_B.all()):
                break
            mask_BL = torch.cat([mask_BL, torch.ones_like(ids_B1)], 1)
            output = model.model(
                input_ids=ids_B1,
                attention_mask=mask_BL,
                position_ids=shared.response_positions(step, step + 1),
                past_key_values=cache,
                use_cache=True,
            )
            hidden_BH = output.last_hidden_state[:, 0]
        return _samples(steps, policy.eos_ids)

    def release(self) -> None:
        """Nothing to give back: this engine samples from the policy itself."""


def _samples(steps: list[tuple[torch.Tensor, ...]], eos_ids: list[int]) -> list[Sample]:
    """Rows cut after their first end token; those without one ran out of tokens."""
    ids_BT, logprobs_BT = (torch.cat([s[i] for s in steps], 1).numpy() for i in (0, 1))
    top_BTK = torch.stack([s[2] for s in steps], 1).numpy()
    found = []
    for ids_T, logprobs_T, top_TK in zip(ids_BT.astype(np.int32), logprobs_BT, top_BTK, strict=True):
        ends = np.flatnonzero(np.isin(ids_T, eos_ids))
        length = int(ends[0]) + 1 if len(ends) else len(ids_T)
        reason = "stop" if len(ends) else "length"
        found.append(Sample(ids_T[:length], logprobs_T[:length], top_TK[:length], reason))
    return found
