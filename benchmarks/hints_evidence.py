"""Do made hints help, before training and in it? Writes docs/results/hints.{md,json,png}.

    python benchmarks/hints_evidence.py            everything, two runs at a time with one thread each; resumes
    python benchmarks/hints_evidence.py --write    only the page and the picture, from the runs that are there

1. Hints of each source on the training problems of digit-grid, and attention+steps on a file as a user would have it
   (the same pictures and questions, solutions in prose, no regions): the audit, and the frozen base with and without.
2. Three seeds of training per arm, from one base, with the same problems, rollouts and steps: no hints (GRPO), the data
   set's own annotation, made hints (attention+steps), and another problem's hints.
The test problems show handwriting that no training problem shows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
from tiny_evidence import METHODS, ROOT, lead, ptdpo

from ptdpo_cli.datasets import digit_grid
from ptdpo_cli.stages.metrics import metrics_file, read_metrics
from ptdpo_cli.stages.report import draw_curves

RUNS = ROOT / "runs" / "evidence-hints"
RECIPE = METHODS["PTD-PO"]
SEEDS = (0, 1, 2)
MODES = ("greedy", "sampled")
MADE = "attention+steps"
# What is scored before training, and what of it is trained with.
SOURCES = ("regions+steps", MADE, "attention", "steps", "generic", "shuffled", "answer", "solution")
ARMS = {"no hints": None, "annotation": "regions+steps", "made": MADE, "shuffled": "shuffled"}
SCORED, SAMPLES = 512, 8


def settings(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="only write the page from finished runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (one thread each)")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), help="train only these, write no page")
    args = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    if args.arms != list(ARMS):
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda work: train(*work), [(arm, seed) for seed in SEEDS for arm in args.arms]))
        return
    results = json.loads((RUNS / "results.json").read_text()) if args.write else measure(args.jobs)
    (RUNS / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    write_page(results)


def measure(jobs: int) -> dict:
    with ThreadPoolExecutor(jobs) as pool:
        made = score(MADE)      # first: it is what `shuffled` deals out
        scored = {MADE: made} | {name: pool.submit(score, name) for name in SOURCES if name != MADE}
        own = pool.submit(score_own_data)
        arms = {arm: [pool.submit(train, arm, seed) for seed in SEEDS] for arm in ARMS}
        base = pool.submit(
            ptdpo, "eval", "--recipe", RECIPE, "--run", RUNS / "eval" / "base", "--policy", "tiny-base",
            "--split", "test",
        )
        return {
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread per run, {jobs} runs at a time",
            "scored": {name: scored[name] if name == MADE else scored[name].result() for name in SOURCES},
            "own": own.result(),
            "arms": {arm: [future.result() for future in futures] for arm, futures in arms.items()},
            "base": base.result()["summary"],
        }


def build(source: str, run: Path, *more: str) -> dict:
    shuffle = settings(f"hints.shuffle={build(MADE, run, *more)['path']}") if source == "shuffled" else []
    given = [*settings("hints.max_refused=1"), *shuffle, *more]
    return ptdpo("build-hints", "--recipe", RECIPE, "--run", run, "--source", source, *given)


def score(source: str, run: Path = RUNS / "score", *more: str) -> dict:
    """Make the hints, audit them, and ask the frozen base with and without them."""
    started = time.perf_counter()
    hints = build(source, run, *more)
    audit = ptdpo("hints", "audit", hints["path"])
    utility = ptdpo("hints", "score", hints["path"], "--n", SAMPLES, "--limit", SCORED)
    print(f"{source}: scored in {time.perf_counter() - started:.0f} s", flush=True)
    return {"counts": hints["counts"], "audit": audit, "utility": utility["summary"]}


def score_own_data() -> dict:
    """What a user has: pictures in a folder, and a file of questions, answers and solutions in prose."""
    folder = RUNS / "own"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mine.jsonl").open("w") as file:
        for i, (problem, grid) in enumerate(digit_grid.load_with_grids("train", seed=7, count=SCORED)):
            (folder / f"{i:04d}.png").write_bytes(problem.images[0])
            row = {"problem": problem.question, "answer": problem.answer, "images": [f"{i:04d}.png"],
                   "category": problem.category, "solution": in_prose(problem, grid)}
            file.write(json.dumps(row) + "\n")
    return score(MADE, folder / "run", "--data", str(folder / "mine.jsonl"))


def in_prose(problem, grid: digit_grid.Grid) -> str:
    """The worked solution as a person might write it."""
    cells = digit_grid.KINDS[problem.category].cells(grid)
    sentences, total = [], 0
    for n, i in enumerate(cells):
        total += grid.digits[i]
        shown = f"The digit in the {digit_grid.CELLS[i]} cell is {grid.digits[i]}"
        sentences.append(f"{shown}." if n == 0 else f"{shown}, so the sum becomes {total}.")
    return " ".join([*sentences, f"Therefore, the answer is {total}."])


def train(arm: str, seed: int) -> dict:
    """Train and evaluate one arm; what is finished is not done again."""
    source, folder = ARMS[arm], RUNS / f"{arm.replace(' ', '-')}-seed{seed}"
    options = ["--recipe", RECIPE if source else METHODS["GRPO"], "--run", folder]
    options += settings(f"seed={seed}", "train.trackers=[]", "hints.max_refused=1")
    if source == "shuffled":
        others = ptdpo("build-hints", *options, "--source", MADE)["path"]
        options += settings("hints.source=shuffled", f"hints.shuffle={others}")
    elif source:
        options += settings(f"hints.source={source}")
    started = time.perf_counter()
    policy = ptdpo("train", *options)["path"]
    evaluated = ptdpo(
        "eval", "--recipe", RECIPE, "--run", RUNS / "eval" / folder.name, "--policy", policy, "--split", "test"
    )
    accuracy = {mode: evaluated["summary"][mode]["accuracy"] for mode in MODES}
    print(f"{folder.name}: {time.perf_counter() - started:.0f} s, {accuracy}", flush=True)
    return {"folder": str(folder), "eval": evaluated["path"], "summary": evaluated["summary"]}
