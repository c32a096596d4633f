"""The chain on a GPU: are its numbers those of a CPU in float32, how many tokens a second, how much memory.

    python benchmarks/gpu.py [--iterations 3]                 writes benchmarks/results/gpu.json; needs a CUDA device
    python benchmarks/gpu.py --device cpu --small --out FILE  the same code at toy size, to see that it runs

Two models: the shipped one with tiny.yaml, and a Qwen3-VL of 330 M parameters built from a config with random weights
and the published vocabulary of 151,936, whose logits are what fills memory. Both go through rollout, score-ref and
update; the first iteration warms up and is not counted. Beside the measured peak stands what `ptdpo estimate` says.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from ptdpo_cli.cli import _quiet_libraries
from ptdpo_cli.engines.hf import HfEngine
from ptdpo_cli.models.load import TINY_BASE, load_policy
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.doctor import trainer_logprobs
from ptdpo_cli.stages.estimate import estimate, lengths_of
from ptdpo_cli.stages.rollout import make_rollouts, plan_rollout, read_rollouts
from ptdpo_cli.stages.score_ref import make_scores, plan_score_ref
from ptdpo_cli.stages.train import train_iteration
from ptdpo_cli.stages.train_state import load_state
from ptdpo_cli.stages.workspace import Workspace

ROOT = Path(__file__).parents[1]
DTYPES = ("float32", "bfloat16")
COMPARED = 8    # rollouts whose log-probs are computed again on the CPU
MEDIUM = {
    "text_config": {"vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 12,
                    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True,
                                        "mrope_section": [12, 10, 10]}},
    "vision_config": {"depth": 6, "hidden_size": 384, "intermediate_size": 1536, "num_heads": 6, "patch_size": 16,
                      "out_hidden_size": 1024, "num_position_embeddings": 256, "deepstack_visual_indexes": [1, 3]},
}
TOY = {"text_config": {"vocab_size": 4096}, "vision_config": {"patch_size": 16}}
SETTINGS = ["train.trackers=[]", "data.count=256", "train.updates_per_iteration=1", "train.kl_weight=0.01"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="toy sizes, for a CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(
            "no CUDA device here: run this on a machine with one.\n"
            "`python benchmarks/gpu.py --device cpu --small --out FILE` runs the same code on this CPU."
        )
    torch.backends.cudnn.allow_tf32 = False     # the patches of a picture go through a convolution; float32 means it
    _quiet_libraries()
    folder = Path(tempfile.mkdtemp())
    try:
        models = {name: model(name, folder, args) for name in ("tiny", "medium")}
    finally:
        shutil.rmtree(folder)
    result = {"machine": machine(args.device), "models": models}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def machine(device: str) -> dict:
    about = {
        "date": date.today().isoformat(),
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "device": device,
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        about |= {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return about


def model(name: str, folder: Path, args) -> dict:
    """Correctness in both dtypes, then speed and memory in both."""
    path = "tiny-base" if name == "tiny" else str(random_model(folder / "medium", TOY if args.small else MEDIUM))
    size = {"tiny": (16, 64), "medium": (8, 512)}[name] if not args.small else (4, 12)
    settings = [*SETTINGS, f"model.path={path}", f"rollout.problems_per_iteration={size[0]}",
                f"rollout.max_new_tokens={size[1]}", "prompt.max_prompt_tokens=1024"]
    found = {}
    for dtype in DTYPES:
        recipe = load_recipe(ROOT / "recipes" / "tiny.yaml", [*settings, f"model.dtype={dtype}",
                                                              f"model.device={args.device}"])
        found[dtype] = one(recipe, folder / f"run-{name}-{dtype}", args)
    return found


def random_model(folder: Path, changes: dict) -> Path:
    """The shipped model's tokenizer and processor around another architecture, pictures scaled to 256 × 256 pixels."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    shutil.copytree(TINY_BASE, folder, ignore=shutil.ignore_patterns("manifest.json", "model.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    for section, values in changes.items():
        config[section] |= values
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "processor_config.json").read_text())
    for section in ("image_processor", "video_processor"):
        processor[section] |= {"patch_size": 16, "size": {"shortest_edge": 256 * 256, "longest_edge": 256 * 256}}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    torch.manual_seed(0)
    made = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    made.save_pretrained(folder)
    return folder


def one(recipe, run: Path, args) -> dict:
    """One dtype of one model: iterations of the three stages, and the log-probs against the CPU's."""
    work = Workspace(recipe, run)
    policy, reference, hints = work.policy(recipe.model.path), work.reference, work.hints(make=True)
    book = work.book(policy, work.problems, hints)
    state, engine = load_state(recipe, policy), HfEngine(policy)
    rollouts = sample(recipe, work, book, policy, engine, 0)
    agreement = against_cpu(recipe, policy, book, rollouts)
    rows: list[dict] = []
    for iteration in range(args.iterations + 1):
        parts = {}
        with measured(args.device) as parts["rollout"]:
            rollouts = sample(recipe, work, book, policy, engine, iteration)
        with measured(args.device) as parts["score_ref"]:
            plan = plan_score_ref(recipe, run, rollouts, hints, reference)
            scores = make_scores(recipe, plan, book, reference, rollouts, force=True)
        policy.model.train()
        with measured(args.device) as parts["update"]:
            train_iteration(recipe, state, book, rollouts, scores)
        policy.model.eval()
        tokens = {"rollout": rollouts.manifest.counts["tokens"], "update": rollouts.manifest.counts["tokens"],
                  "score_ref": rollouts.manifest.counts["tokens"] + scores.manifest.counts["gated_tokens"]}
        for phase, part in parts.items():
            part["tokens_per_s"] = tokens[phase] / part["seconds"]
        rows.append(parts)
    needed = estimate(recipe, lengths=lengths_of(run, recipe))
    return {
        "parameters": needed["model"]["parameters"],
        "response_tokens": tokens["rollout"],
        "against_float32_cpu": agreement,
        "stages": {phase: mean([row[phase] for row in rows[1:]]) for phase in rows[0]},
        "estimated_bytes": {phase: needed["memory_bytes"]["always"] + needed["memory_bytes"][f"in_{phase}"]
                            for phase in rows[0]},
        "estimated_flops": needed["flops"],
    }


def sample(recipe, work, book, policy, engine, iteration: int):
    plan = plan_rollout(recipe, work.run, work.problems, policy.hashes, iteration=iteration)
    return make_rollouts(recipe, plan, book, engine, policy, force=True)


def against_cpu(recipe, policy, book, rollouts) -> dict[str, float]:
    """log p of the same tokens by the sampler and the trainer here, and by the same weights on the CPU in float32."""
    there = load_policy(recipe.model.path, device="cpu")
    chosen = next(read_rollouts(rollouts))[:COMPARED]
    prompts = book.students(r.problem_id for r in chosen)
    pairs = list(zip(prompts, chosen, strict=True))
    on_cpu = [trainer_logprobs(recipe, there, prompt, rollout) for prompt, rollout in pairs]
    here = [trainer_logprobs(recipe, policy, prompt, rollout) for prompt, rollout in pairs]
    sampler = np.concatenate([rollout.sampler_logprobs_T for rollout in chosen])
    there_N, here_N = np.concatenate(on_cpu), np.concatenate(here)
    differences = {"trainer": here_N - there_N, "sampler": sampler - there_N, "sampler_to_trainer": sampler - here_N}
    return {f"{who}_{what}_nats": float(take(np.abs(d))) for who, d in differences.items()
            for what, take in (("max", np.max), ("mean", np.mean))}


class measured:
    """Seconds, and on a GPU the most bytes that torch had allocated, of what happens inside."""

    def __init__(self, device: str):
        self.is_gpu, self.device = device.startswith("cuda"), device
        self.found: dict[str, float | None] = {}

    def __enter__(self) -> dict:
        if self.is_gpu:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        self.started = time.perf_counter()
        return self.found

    def __exit__(self, *exception) -> None:
        if self.is_gpu:
            torch.cuda.synchronize(self.device)
        self.found["seconds"] = time.perf_counter() - self.started
        self.found["peak_bytes"] = torch.cuda.max_memory_allocated(self.device) if self.is_gpu else None


def mean(rows: list[dict]) -> dict:
    return {name: None if rows[0][name] is None else float(np.mean([row[name] for row in rows])) for name in rows[0]}


if __name__ == "__main__":
    main()
