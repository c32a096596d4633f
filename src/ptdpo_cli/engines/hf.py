"""The Hugging Face engine: `generate` with one private random stream per request.

`generate` itself runs greedily; the draw happens in a logits processor, by inverting the distribution function at one
uniform number per token from the request's own generator. So neither order nor batch mates change a sample's draws.

Shapes: B requests of a batch, V vocabulary, T response tokens, K top ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from ptdpo_cli.engines import Request, Sample, Sampling
from ptdpo_cli.models.inputs import picture_inputs
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.logprobs import require_finite


class HfEngine:
    """Samples from a policy held in this process."""

    def __init__(self, policy: Policy):
        self.policy = policy

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        model, policy = self.policy.model, self.policy
        draw = _SeededDraw([r.seed for r in requests], sampling, policy.media_ids)
        ids_BL = model.generate(
            **_left_padded(policy, requests),
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=policy.eos_ids,
            pad_token_id=policy.tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList([draw]),
            use_cache=True,
        )
        n_new = len(draw.logprobs)
        return draw.samples(ids_BL[:, -n_new:].cpu(), policy.eos_ids)


class _SeededDraw(LogitsProcessor):
    """Chooses each row's next token from its own stream, and records log-prob and top-K ids on the way."""

    def __init__(self, seeds: list[int], sampling: Sampling, media_ids: list[int]):
        self.sampling = sampling
        self.media_ids = torch.tensor(media_ids, dtype=torch.long)
        self.uniforms_BT = np.stack(
            [np.random.Generator(np.random.Philox(s)).random(sampling.max_new_tokens) for s in seeds]
        )
        self.top_p = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None
        self.logprobs: list[torch.Tensor] = []
        self.top_ids: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        logits_BV = logits_BV.float().index_fill(1, self.media_ids.to(logits_BV.device), float("-inf"))
        require_finite(logits_BV, self.media_ids.tolist(), who="policy")
        logprobs_BV = (logits_BV / (self.sampling.temperature or 1.0)).log_softmax(-1)
        chosen_B = logprobs_BV.argmax(-1) if self.sampling.temperature == 0 else self._draw(logprobs_BV)
        self.logprobs.append(logprobs_BV.gather(1, chosen_B[:, None])[:, 0].cpu())
        if self.sampling.top_ids:
            k = min(self.sampling.top_ids, logprobs_BV.shape[1] - len(self.media_ids))
            self.top_ids.append(logprobs_BV.topk(k, -1).indices.int().cpu())
        return torch.full_like(logprobs_BV, float("-inf")).scatter_(1, chosen_B[:, None], 0.0)

    def _draw(self, logprobs_BV: torch.Tensor) -> torch.Tensor:
        if self.top_p is not None:
            logprobs_BV = self.top_p(None, logprobs_BV)
        cumulative_BV = logprobs_BV.double().exp().cumsum(-1)
        uniform_B = torch.from_numpy(self.uniforms_BT[:, len(self.logprobs)]).to(cumulative_BV.device)
        # `right` steps over tokens of probability 0; the product stays below the total, so the index is in range.
        return torch.searchsorted(cumulative_BV, uniform_B[:, None] * cumulative_BV[:, -1:], right=True)[:, 0]

    def samples(self, ids_BT: torch.Tensor, eos_ids: list[int]) -> list[Sample]:
        ids_BT = ids_BT.int().numpy()
        logprobs_BT = torch.stack(self.logprobs, 1).numpy()
        k = self.top_ids[0].shape[1] if self.top_ids else 0
        top_BTK = torch.stack(self.top_ids, 1).numpy() if k else np.zeros((*ids_BT.shape, 0), np.int32)
        found = []
        for ids_T, logprobs_T, top_TK in zip(ids_BT, logprobs_BT, top_BTK, strict=True):
            ends = np.flatnonzero(np.isin(ids_T, eos_ids))
            length = int(ends[0]) + 1 if len(ends) else len(ids_T)
            reason = "stop" if len(ends) else "length"
            found.append(Sample(ids_T[:length], logprobs_T[:length], top_TK[:length], reason))
        return found


def _left_padded(policy: Policy, requests: Sequence[Request]) -> dict[str, torch.Tensor]:
    prompts = [r.prompt for r in requests]
    device, width = policy.model.device, max(map(len, prompts))
    ids_BL = torch.full((len(prompts), width), policy.tokenizer.pad_token_id)
    types_BL = torch.zeros((len(prompts), width), dtype=torch.long)
    mask_BL = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids_BL[row, width - len(prompt) :] = prompt.token_ids_L
        types_BL[row, width - len(prompt) :] = prompt.type_ids_L
        mask_BL[row, width - len(prompt) :] = 1
    inputs = {"input_ids": ids_BL, "attention_mask": mask_BL, "mm_token_type_ids": types_BL} | picture_inputs(prompts)
    return {name: tensor.to(device) for name, tensor in inputs.items()}
