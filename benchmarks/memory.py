"""Peak memory of one backward pass with and without gradient checkpointing and LoRA: benchmarks/results/memory.json.

python benchmarks/memory.py

A random Qwen3-VL of 12 layers in float32; 16 rows of 4 prompts with a picture, responses of 384 tokens; one thread,
each variant in a process of its own.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from datetime import date
from pathlib import Path

OUT = Path(__file__).parent / "results" / "memory.json"
VARIANTS = {
    "plain": {},
    "gradient checkpointing": {"checkpointing": True},
    "LoRA, rank 8": {"rank": 8},
    "LoRA, rank 8, gradient checkpointing": {"rank": 8, "checkpointing": True},
}


def measure(checkpointing: bool = False, rank: int = 0) -> dict:
    """One forward and backward after a warm-up of one row; the process's peak above what it had before."""
    import numpy as np
    import torch
    from PIL import Image

    from ptdpo_cli.models.inputs import Context, build_batch, build_prompts
    from ptdpo_cli.models.load import Policy
    from ptdpo_cli.models.logprobs import response_hidden
    from ptdpo_cli.models.lora import AdapterSettings, add_adapter
    from ptdpo_cli.models.tiny import build_tiny

    torch.set_num_threads(1)
    model, processor = build_tiny(0, ["How many red shapes?"] * 4, layers=12, hidden_size=256, intermediate_size=768)
    policy = Policy(model.train(), processor, "random", {})
    if rank:
        policy = add_adapter(policy, AdapterSettings(rank, 2.0 * rank), seed=0)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    contexts = [Context(str(i), "How many?", (_png(Image, np, i),)) for i in range(4)]
    prompts = build_prompts(policy, contexts, instruction="", max_tokens=2000, max_pixels=10**6)
    answer = np.arange(384, dtype=np.int32) % 200
    pad = processor.tokenizer.pad_token_id

    def step(rows: list, response) -> None:
        response_hidden(model, build_batch(model, rows, [response] * len(rows), pad_id=pad)).square().mean().backward()

    step(prompts[:1], answer[:8])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step([prompt for prompt in prompts for _ in range(4)], answer)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_parameters = sum(p.numel() for p in model.parameters())
    return {"peak_mb_above_start": round((peak - before) / 1e3), "parameters": n_parameters}


def _png(image, np, seed: int) -> bytes:
    import io

    data = io.BytesIO()
    image.fromarray(np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


def main() -> None:
    found = {}
    for name, settings in VARIANTS.items():
        command = [sys.executable, __file__, json.dumps(settings)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found[name] = json.loads(ended.stdout.splitlines()[-1])
    result = {
        "backward_pass": found,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(OUT.read_text())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(**json.loads(sys.argv[1]))))
    else:
        main()
