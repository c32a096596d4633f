"""vLLM and the transformers engine on tiny random models of each Qwen family, and on a policy with an adapter."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from families import QWEN, TEXTS, contexts
from ptdpo_cli.engines import Request, Sampling, draw_seed, open_engine
from ptdpo_cli.engines.hf import HfEngine
from ptdpo_cli.models.inputs import build_prompts
from ptdpo_cli.models.load import load_policy
from ptdpo_cli.models.logprobs import response_logprobs
from ptdpo_cli.models.lora import AdapterSettings, add_adapter
from ptdpo_cli.models.tiny import build_tiny
from ptdpo_cli.recipe import load_recipe

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]
AGREE = 1e-4  # nats; float32 sums in another order
RECIPE = (
    "rollout.engine=vllm", "vllm.enforce_eager=true", "vllm.kv_cache_gib=0.1", "vllm.max_images=3",
    "prompt.max_prompt_tokens=600", "rollout.max_new_tokens=32", "eval.max_new_tokens=32",
)
KEPT = []  # an engine that is collected takes every other's process groups down


@pytest.fixture(scope="module", params=QWEN)
def folder(request, tmp_path_factory):
    """A model with random weights; heads of 32, the least that vLLM's attention on a CPU takes."""
    path = tmp_path_factory.mktemp(request.param)
    for part in build_tiny(0, TEXTS, family=request.param, layers=2):
        part.save_pretrained(path)
    return path


def compare(policy, folder):
    """Equal tokens, and log-probs that are the trainer's, for 0, 1 and 3 pictures in one batch."""
    engine = open_engine(load_recipe(None, [*RECIPE, f"model.path={folder}"]), policy)
    KEPT.append(engine)
    prompts = build_prompts(policy, contexts(), instruction="", max_tokens=600, max_pixels=10**6)
    requests = [Request(p, draw_seed(p.problem_id, g)) for p in prompts for g in range(3)]
    for sampling in (Sampling(24, temperature=0.0), Sampling(24, temperature=0.8, top_p=0.95, top_ids=10)):
        samples = engine.sample(requests, sampling)
        forced = response_logprobs(
            policy,
            [r.prompt for r in requests],
            [s.token_ids_T for s in samples],
            temperature=sampling.temperature or 1.0,
            tokens_per_batch=16_384,
            logits_per_chunk=10**8,
        )
        for ours, theirs, own in zip(samples, HfEngine(policy).sample(requests, sampling), forced, strict=True):
            assert np.abs(ours.logprobs_T - own).max() < AGREE
            assert ours.token_ids_T.tolist() == theirs.token_ids_T.tolist()


def test_each_family_agrees(folder):
    compare(load_policy(folder), folder)


def test_an_adapter_is_sampled_merged(folder):
    """An adapter that changes much: vLLM gets the weights with its share added."""
    policy = add_adapter(load_policy(folder), AdapterSettings(4, 32.0), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    compare(policy, folder)
