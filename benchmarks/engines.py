"""Agreement and speed of the two engines on the shipped base: benchmarks/results/engines.json.

make bench-vllm

64 problems × 8 rollouts of at most 64 tokens, one thread, both engines in one process, so that their ratio means
something on a busy machine. Log-probs are held against teacher forcing with the trainer's own forward.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from ptdpo_cli.engines import Engine, Request, Sample, Sampling, draw_seed, open_engine
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.logprobs import response_logprobs
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.workspace import Workspace

OUT = Path(__file__).parent / "results" / "engines.json"
RECIPE = Path(__file__).parents[1] / "recipes" / "tiny.yaml"
VLLM = ("vllm.enforce_eager=true", "vllm.kv_cache_gib=0.5", "teacher.top_k=100")
SETTINGS = (Sampling(64, 1.0, 0.99, 100), Sampling(64, 1.0, 1.0, 0))


def measure(engine: Engine, policy: Policy, requests: list[Request], sampling: Sampling) -> tuple[dict, list[Sample]]:
    """Speed of the second of two passes, and how far its log-probs are from the trainer's."""
    engine.sample(requests, sampling)  # start and warm up
    started = time.perf_counter()
    samples = engine.sample(requests, sampling)
    seconds = time.perf_counter() - started
    trainer = response_logprobs(
        policy,
        [request.prompt for request in requests],
        [sample.token_ids_T for sample in samples],
        temperature=sampling.temperature,
        tokens_per_batch=16_384,
        logits_per_chunk=50_000_000,
    )
    apart_N = np.abs(np.concatenate(trainer) - np.concatenate([sample.logprobs_T for sample in samples]))
    n_tokens = sum(len(sample.token_ids_T) for sample in samples)
    return {
        "tokens_per_s": round(n_tokens / seconds),
        "mean_difference": float(apart_N.mean()),
        "largest_difference": float(apart_N.max()),
    }, samples


def main() -> None:
    torch.set_num_threads(1)
    results, kept = [], []
    for dtype in ("float32", "bfloat16"):
        recipe = load_recipe(RECIPE, ["data.count=64", f"model.dtype={dtype}", "rollout.engine=vllm", *VLLM])
        with tempfile.TemporaryDirectory() as run:
            work = Workspace(recipe, Path(run))
            policy, problems = work.policy(recipe.model.path), work.problems
            book = work.book(policy, problems)
            requests = [
                Request(prompt, draw_seed(0, "benchmark", prompt.problem_id, g))
                for prompt in book.students(book.problems)
                for g in range(8)
            ]
        hf = recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"engine": "hf"})})
        engines = {"hf": open_engine(hf, policy), "vllm": open_engine(recipe, policy)}
        kept += engines.values()  # vLLM takes every engine's process groups down with the first that is collected
        for sampling in SETTINGS:
            texts = {}
            for name, engine in engines.items():
                found, samples = measure(engine, policy, requests, sampling)
                texts[name] = [tuple(sample.token_ids_T) for sample in samples]
                setting = {"engine": name, "dtype": dtype, "top_p": sampling.top_p, "k": sampling.top_ids}
                results.append(setting | found)
            same = sum(a == b for a, b in zip(*texts.values(), strict=True))
            results[-1] |= {"equal_texts": f"{same} of {len(requests)}"}
            print(json.dumps(results[-2:]), flush=True)
    about = {"date": date.today().isoformat(), "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread"}
    OUT.write_text(json.dumps({**about, "torch": torch.__version__, "results": results}, indent=1) + "\n")
    os._exit(0)  # vLLM's own end would take seconds and speak


if __name__ == "__main__":
    main()
