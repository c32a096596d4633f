"""Seconds of one iteration, PTD-PO and GRPO in turn in one process: ratio, parts, and the distance from the FLOP bound.

    python benchmarks/iteration.py [--iterations 150] [--threads 2]      writes benchmarks/results/iteration.json

16 problems × 8 rollouts of at most 64 tokens on the shipped model, all stages included, artifacts written. The machine
is shared and noisy: the ratio of two arms that take turns says more than either time.
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
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.train import Loop, _iterate, remove_artifacts
from ptdpo_cli.stages.train_state import new_state
from ptdpo_cli.stages.workspace import Workspace

ROOT = Path(__file__).parents[1]
RECIPES = {"GRPO": ROOT / "recipes/baselines/tiny-grpo.yaml", "PTD-PO": ROOT / "recipes/tiny.yaml"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    _quiet_libraries()
    folder = Path(tempfile.mkdtemp())
    try:
        arms = {name: arm(path, folder / name.lower()) for name, path in RECIPES.items()}
        lines: dict[str, list[dict]] = {name: [] for name in arms}
        for _ in range(args.iterations):
            for name, (loop, state, engine) in arms.items():
                metrics, artifacts = _iterate(loop, state, engine, None)
                remove_artifacts(loop.run, artifacts)
                lines[name].append(metrics)
    finally:
        shutil.rmtree(folder)
    parameters = sum(p.numel() for p in arms["GRPO"][1].policy.model.model.language_model.parameters())
    result = {name: summary(rows, parameters, args.threads) for name, rows in lines.items()}
    result["ratio_ptdpo_to_grpo"] = result["PTD-PO"]["seconds"]["total"] / result["GRPO"]["seconds"]["total"]
    result |= {
        "iterations": args.iterations,
        "threads": args.threads,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "matmul_gflops": matmul_gflops(),
        "load_average": os.getloadavg(),
    }
    for name in arms:
        bound = result[name]["gflop"] / result["matmul_gflops"]
        result[name]["bound_seconds"] = bound
        result[name]["times_the_bound"] = result[name]["seconds"]["total"] / bound
    out = ROOT / "benchmarks" / "results" / "iteration.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def arm(path: Path, run: Path):
    recipe = load_recipe(path, ["train.trackers=[]"])
    work = Workspace(recipe, run)
    hints = work.hints(make=True)
    policy = work.policy(recipe.model.path)
    reference = work.reference if recipe.needs_scores else None
    loop = Loop(
        recipe,
        run,
        policy.hashes,
        work.problems,
        hints,
        reference,
        work.book(reference or policy, work.problems, hints),
    )
    return loop, new_state(recipe, policy), HfEngine(policy)


def summary(rows: list[dict], parameters: int, threads: int) -> dict:
    parts = ("rollout", "score_ref", "update", "total")
    tokens = float(np.mean([row["tokens"] for row in rows]))
    gated = float(np.mean([row.get("gated_tokens", 0) for row in rows]))
    # 2 FLOP per parameter and token: once to sample, once forward and twice backward to train, once for the teacher.
    return {
        "seconds": {part: float(np.mean([row[f"seconds/{part}"] for row in rows])) for part in parts},
        "response_tokens": tokens,
        "gated_tokens": gated,
        "gflop": 2 * parameters * (tokens * 4 + gated) / 1e9,
    }


def matmul_gflops() -> float:
    """What this machine's float32 matmul reaches at a size that suits it."""
    a = torch.randn(1024, 1024)
    a @ a
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    return 20 * 2 * 1024**3 / (time.perf_counter() - started) / 1e9


if __name__ == "__main__":
    main()
