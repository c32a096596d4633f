"""Where the reference looks, and what it costs to see it: benchmarks/results/attention.json.

python benchmarks/attention.py

Evidence: digit-grid's test problems with the shipped model; the needed cells are those of the problem's regions.
Cost: the forward that also reads attention, against a plain one of the same prompts and responses (without cache, and
without the content-free question), both on one thread. Seconds are the process's own, alternately in one process,
medians; memory is the peak of a process that does one or the other, weights and libraries included and without.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from datetime import date
from pathlib import Path

OUT = Path(__file__).parent / "results" / "attention.json"
SEED = 0
READ = {
    "question": ("question",), "question and solution": ("question", "solution"), "solution": ("solution",),
    "answer": ("answer",), "question and answer": ("question", "answer"),
}
WITH_GRADIENT = ("solution",)
MODELS = ("tiny-base", "qwen3_vl", "qwen2_5_vl")


# --- evidence ---------------------------------------------------------------------------------------------------------


def evidence(count: int) -> dict:
    """Of each way to read: needed cells against others, named cells against needed ones, by kinds taught or not."""
    import numpy as np

    from ptdpo_cli.datasets import digit_grid
    from ptdpo_cli.models.load import load_policy
    from ptdpo_cli.recipe import load_recipe
    from ptdpo_cli.stages.attention_hints import attention_source

    policy = load_policy("tiny-base", device="cpu")
    policy.model.requires_grad_(False)
    problems = digit_grid.load("test", seed=SEED, count=count, kinds=list(digit_grid.KINDS))
    result = {}
    for name, read in READ.items():
        for gradient in (False, True) if name in WITH_GRADIENT else (False,):
            recipe = load_recipe(
                Path(__file__).parents[1] / "recipes" / "tiny.yaml",
                [f"hints.attention.read=[{', '.join(read)}]", f"hints.attention.gradient={str(gradient).lower()}"],
            )
            groups = defaultdict(list)
            for problem, draft in zip(problems, attention_source(recipe, policy)(problems), strict=True):
                needed = [digit_grid.CELLS.index(region.label) for region in problem.regions]
                cells = draft.maps[0].ravel()
                named = {region.label for region in draft.regions}
                row = (
                    cells[needed].mean(), np.delete(cells, needed).mean(), len(named), len(needed),
                    len(named & {region.label for region in problem.regions}),
                )
                taught = "taught" if digit_grid.KINDS[problem.category].taught else "untaught"
                for group in ("all", taught, problem.category):
                    groups[group].append(row)
            result[name + (" x gradient" if gradient else "")] = {group: summary(np.array(rows))
                                                                  for group, rows in groups.items()}
    return result


def summary(rows) -> dict:
    needed, others, n_named, n_needed, n_both = rows.sum(0)
    return {
        "problems": len(rows), "ratio": round(float(needed / others), 2),
        "precision": round(float(n_both / max(1, n_named)), 2), "recall": round(float(n_both / n_needed), 2),
        "regions": round(float(n_named / len(rows)), 2),
    }


# --- cost -------------------------------------------------------------------------------------------------------------


def workload(name: str):
    """(policy, readings): the shipped model and its problems, or a random one with pictures of 500 tokens and more."""
    import numpy as np
    import torch
    from PIL import Image

    from ptdpo_cli.datasets import digit_grid
    from ptdpo_cli.models.attention import read_with
    from ptdpo_cli.models.inputs import Context, build_prompts
    from ptdpo_cli.models.load import Policy, load_policy
    from ptdpo_cli.models.tiny import build_tiny

    torch.set_num_threads(1)
    if name == "tiny-base":
        policy, instruction = load_policy("tiny-base", device="cpu"), ""
        problems = digit_grid.load("test", seed=SEED, count=128)
        contexts = [Context(problem.problem_id, problem.question, problem.images) for problem in problems]
        solutions = [problem.solution for problem in problems]
    else:
        random, instruction = np.random.default_rng(SEED), "Reason step by step, then put the final answer in a box."
        question = "Which of the shapes is the largest, and how many of the others would fit in it? "
        solution = "The largest is the square, of side four. The circle has a radius of one, so four of them fit. "
        model, processor = build_tiny(
            SEED, [question, solution, instruction] * 4, family=name, hidden_size=768, layers=8, heads=12,
            intermediate_size=2048, vision_size=192, vision_layers=4, vocabulary=600,
        )
        processor.image_processor.size = {"shortest_edge": 32 * 32, "longest_edge": 512 * 512}
        policy, contexts = Policy(model, processor, "random", {}), []
        for i in range(4):
            data = io.BytesIO()
            pixels = random.integers(0, 256, (352 + 16 * i, 384, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(data, "PNG")
            contexts.append(Context(str(i), question, (data.getvalue(),)))
        solutions = [solution * (2 + i) for i in range(4)]
    policy.model.requires_grad_(False)
    prompts = build_prompts(policy, contexts, instruction=instruction, max_tokens=4096, max_pixels=10**7)
    return policy, [
        read_with(policy, prompt, solution, question=False, response_counts=True, instruction=instruction)
        for prompt, solution in zip(prompts, solutions, strict=True)
    ]


def plain(policy, readings) -> None:
    """Prompts and responses, nothing else, as one padded batch."""
    import numpy as np
    import torch

    from ptdpo_cli.models.attention import _sequence
    from ptdpo_cli.models.inputs import share_prompts

    sequences = [_sequence(replace(reading, free_ids_F=np.zeros(0, np.int64))) for reading in readings]
    with torch.no_grad():
        inputs = share_prompts(sequences, policy.tokenizer.pad_token_id, policy.model.device).inputs
        policy.model.model(**inputs, use_cache=False)


def seconds(name: str, repeats: int) -> dict:
    from ptdpo_cli.models.attention import look

    policy, readings = workload(name)
    took: dict[str, list[float]] = {"plain": [], "attention": []}
    for _ in range(repeats + 1):
        for way, forward in (("plain", plain), ("attention", look)):
            start = time.process_time()
            forward(policy, readings)
            took[way].append(time.process_time() - start)
    medians = {way: statistics.median(times[1:]) for way, times in took.items()}
    return {
        "parameters_M": round(sum(p.numel() for p in policy.model.parameters()) / 1e6, 1),
        "sequences": len(readings),
        "image_tokens": readings[0].prompt.n_image_tokens,
        "text_tokens": sum(len(one) - len(one.free_ids_F) - one.prompt.n_image_tokens for one in readings),
        "content_free_tokens": len(readings[0].free_ids_F),
        "rows": sum(len(one.rows_R) for one in readings),
        "seconds": {way: round(value, 3) for way, value in medians.items()},
        "throughput_ratio": round(medians["plain"] / medians["attention"], 2),
        "ratios": sorted(round(a / b, 2) for a, b in zip(took["plain"][1:], took["attention"][1:], strict=True)),
    }


def peak(name: str, way: str) -> dict:
    """Peak resident memory of one forward after a warm-up of one sequence, in MB."""
    from ptdpo_cli.models.attention import look

    policy, readings = workload(name)
    forward = {"plain": plain, "attention": look}[way]
    forward(policy, readings[:1])
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    Path("/proc/self/clear_refs").write_text("5")       # the peak is counted from here
    forward(policy, readings)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"before": before, "peak": int(status["VmHWM"].split()[0]) / 1024}


def cost(name: str, repeats: int) -> dict:
    def alone(*arguments: str) -> dict:
        done = subprocess.run(
            [sys.executable, __file__, "--only", name, *arguments], check=True, capture_output=True, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        return json.loads(done.stdout.splitlines()[-1])

    result = alone("--repeats", str(repeats))
    memory = {way: alone("--way", way) for way in ("plain", "attention")}
    peaks = {way: one["peak"] for way, one in memory.items()}
    grown = {way: one["peak"] - one["before"] for way, one in memory.items()}
    return result | {
        "peak_MB": {way: round(value) for way, value in peaks.items()},
        "forward_MB": {way: round(value) for way, value in grown.items()},
        "memory_ratio": round(peaks["attention"] / peaks["plain"], 3),
        "forward_memory_ratio": round(grown["attention"] / grown["plain"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=("plain", "attention"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(peak(args.only, args.way) if args.way else seconds(args.only, args.repeats)))
        return
    result = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before",
        "seed": SEED,
        "cost": {name: cost(name, args.repeats) for name in MODELS},
        "evidence": evidence(args.problems),
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
