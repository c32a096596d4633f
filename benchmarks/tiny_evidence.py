"""PTD-PO against GRPO on digit-grid, and the controls that show what teaches: writes docs/results/tiny.{md,json,png}.

    python benchmarks/tiny_evidence.py            everything, two runs at a time with one thread each; resumes
    python benchmarks/tiny_evidence.py --write    only the page and the picture, from the runs that are there

1. Each method's learning rate is chosen on validation problems over one grid, with a seed that is not used again.
2. Five seeds per method from one base: the same problems, rollouts and optimizer steps.
3. One seed per control: another problem's hint, no picture for the teacher, no hint for the teacher.
4. One seed of each method on all kinds, with the two that tutoring does not teach in this time.
Test problems show handwriting that no training or validation problem shows; they are looked at once, in steps 2 to 4.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np

from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.datasets.digit_grid import DEFAULT_KINDS, KINDS
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.metrics import metrics_file, read_metrics
from ptdpo_cli.stages.report import draw_curves
from ptdpo_cli.stages.summary import by_problem

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "evidence"
METHODS = {"GRPO": ROOT / "recipes/baselines/tiny-grpo.yaml", "PTD-PO": ROOT / "recipes/tiny.yaml"}
LEARNING_RATES = (2e-5, 5e-5, 1e-4, 2e-4)
SELECTION_SEED = 100
SEEDS = (0, 1, 2, 3, 4)
CONTROLS = ("shuffled", "blind", "none")
MODES = ("greedy", "sampled")


def ptdpo(*arguments: object) -> dict:
    """One command, one thread; its JSON."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ptdpo_cli", *map(str, arguments), "--json", "-q"],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}\n{done.stderr}")
    return json.loads(done.stdout)


def run(method: str, seed: int, rate: float, *, split: str, context: str = "hint", kinds: Sequence[str] = ()) -> dict:
    """Train and evaluate one arm; what is finished is not done again."""
    folder = RUNS / f"{method.lower()}-{context}-lr{rate:g}-seed{seed}{'-all-kinds' if kinds else ''}"
    data = ["--set", f"data.kinds=[{', '.join(kinds)}]"] if kinds else []
    options = ["--recipe", METHODS[method], "--run", folder, *data]
    for setting in (f"seed={seed}", f"train.learning_rate={rate}", f"teacher.context={context}", "train.trackers=[]"):
        options += ["--set", setting]
    started = time.perf_counter()
    policy = ptdpo("train", *options)["path"]
    print(f"{folder.name}: trained in {time.perf_counter() - started:.0f} s", flush=True)
    # One set of problems for all seeds: the training seed must not choose the test.
    place = RUNS / f"eval-{split}" / folder.name
    evaluated = ptdpo(
        "eval", "--recipe", METHODS[method], "--run", place, "--policy", policy, "--split", split, *data
    )  # fmt: skip
    print(
        f"{folder.name}: {split} greedy {evaluated['summary']['greedy']['accuracy']:.3f}, "
        f"sampled {evaluated['summary']['sampled']['accuracy']:.3f}",
        flush=True,
    )
    return {"folder": str(folder), "eval": evaluated["path"], "summary": evaluated["summary"]}


def evaluate_base(kinds: Sequence[str]) -> dict:
    data = ["--set", f"data.kinds=[{', '.join(kinds)}]"] if kinds else []
    place = RUNS / "eval-test" / f"base{'-all-kinds' if kinds else ''}"
    return ptdpo("eval", "--recipe", METHODS["GRPO"], "--run", place, "--policy", "tiny-base", "--split", "test", *data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="only write the page from finished runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (one thread each)")
    args = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    results = json.loads((RUNS / "results.json").read_text()) if args.write else measure(args.jobs)
    (RUNS / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    write_page(results)


def measure(jobs: int) -> dict:
    with ThreadPoolExecutor(jobs) as pool:
        grid = {
            (m, rate): pool.submit(run, m, SELECTION_SEED, rate, split="validation")
            for rate in LEARNING_RATES
            for m in METHODS
        }
        # Sampled accuracy: what the objective maximises, and with a smaller error than greedy answers.
        validation = {
            m: {rate: grid[m, rate].result()["summary"]["sampled"]["accuracy"] for rate in LEARNING_RATES}
            for m in METHODS
        }
        chosen = {m: max(rates, key=rates.get) for m, rates in validation.items()}
        print(f"learning rates chosen on validation: {chosen}", flush=True)
        arms = {m: [pool.submit(run, m, seed, chosen[m], split="test") for seed in SEEDS] for m in METHODS}
        controls = {
            c: pool.submit(run, "PTD-PO", SEEDS[0], chosen["PTD-PO"], split="test", context=c) for c in CONTROLS
        }
        everything = {m: pool.submit(run, m, SEEDS[0], chosen[m], split="test", kinds=tuple(KINDS)) for m in METHODS}
        base = {name: pool.submit(evaluate_base, kinds) for name, kinds in (("base", ()), ("all", tuple(KINDS)))}
        return {
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread per run, {jobs} runs at a time",
            "validation": {m: {f"{rate:g}": a for rate, a in rates.items()} for m, rates in validation.items()},
            "chosen": chosen,
            "arms": {m: [future.result() for future in futures] for m, futures in arms.items()},
            "controls": {c: future.result() for c, future in controls.items()},
            "base": base["base"].result()["summary"],
            "all_kinds": {"base": base["all"].result()["summary"]}
            | {m: f.result()["summary"] for m, f in everything.items()},
        }


def per_problem(evaluation: str, mode: str) -> dict[str, float]:
    rows = Artifact.open(evaluation, kind="evals").table("evals").to_pylist()
    return {problem_id: answered.accuracy for problem_id, answered in by_problem(rows, mode).items()}


def lead(arms: Sequence[dict], others: Sequence[dict], mode: str, *, resamples: int = 10_000) -> dict:
    """Arms − others, mean over seeds, with a 95 % interval that draws seeds and problems anew (both are samples)."""
    pairs = [(per_problem(a["eval"], mode), per_problem(b["eval"], mode)) for a, b in zip(arms, others, strict=True)]
    difference_SP = np.array([[ours[p] - theirs[p] for p in sorted(theirs)] for ours, theirs in pairs])
    random = np.random.default_rng(0)
    n_seeds, n_problems = difference_SP.shape
    draws = []
    for _ in range(resamples):
        seeds = random.integers(n_seeds, size=n_seeds)
        weights_P = np.bincount(random.integers(n_problems, size=n_problems), minlength=n_problems) / n_problems
        draws.append(difference_SP[seeds].mean(0) @ weights_P)
    return {
        "difference": float(difference_SP.mean()),
        "interval": [float(x) for x in np.quantile(draws, [0.025, 0.975])],
        "per_seed": difference_SP.mean(1).round(4).tolist(),
    }


def write_page(results: dict) -> None:
    out = ROOT / "docs" / "results"
    out.mkdir(parents=True, exist_ok=True)
    logs = {
        m: [read_metrics(metrics_file(Path(arm["folder"]))) for arm in arms]
        for m, arms in results["arms"].items()
    }
    logs |= {
        f"control: {c}": [read_metrics(metrics_file(Path(arm["folder"])))]
        for c, arm in results["controls"].items()
    }
    draw_curves(
        {m: logs[m] for m in METHODS},
        out / "tiny-curves.png",
        title="training problems; line: mean of 5 seeds, band: their range",
    )
    draw_curves(logs, out / "tiny-controls.png", title="the same, with the controls (one seed each)")
    leads = {mode: lead(results["arms"]["PTD-PO"], results["arms"]["GRPO"], mode) for mode in MODES}
    summary = {
        "leads": leads,
        "accuracy": {
            m: {mode: [arm["summary"][mode]["accuracy"] for arm in arms] for mode in MODES}
            for m, arms in results["arms"].items()
        },
        "controls": {
            c: {mode: arm["summary"][mode]["accuracy"] for mode in MODES} for c, arm in results["controls"].items()
        },
        "base": {mode: results["base"][mode]["accuracy"] for mode in MODES},
        "train_seconds": {m: [seconds(lines) for lines in logs[m]] for m in METHODS},
        **{key: results[key] for key in ("date", "machine", "validation", "chosen")},
    }
    (out / "tiny.json").write_text(json.dumps(summary, indent=1) + "\n")
    (out / "tiny.md").write_text(page(results, summary, logs))
    print(f"wrote {out / 'tiny.md'}")


def seconds(lines: list[dict]) -> float:
    return sum(line["seconds/total"] for line in lines)


def page(results: dict, summary: dict, logs: dict) -> str:
    first, settings = results["arms"]["PTD-PO"][0]["summary"], load_recipe(METHODS["PTD-PO"])
    lines = [
        "# PTD-PO against GRPO on digit-grid",
        "",
        f"Made by `make evidence` ({summary['date']}; {summary['machine']}). Both methods start from the shipped base and see the same",
        f"problems in the same order, {len(logs['GRPO'][0])} iterations of {settings.rollout.problems_per_iteration} problems × "
        f"{settings.rollout.rollouts_per_problem} rollouts, {settings.train.updates_per_iteration} updates each; seeds 0–{len(SEEDS) - 1}.",
        f"{first['problems']} test problems with handwriting that training and validation do not show; always answering",
        f"{first['majority_answer']!r} would score {first['majority_share']:.3f}.",
        "",
        "| test accuracy | greedy, mean of seeds | per seed | sampled T = 1 | per seed |",
        "| --- | --- | --- | --- | --- |",
        f"| base | {summary['base']['greedy']:.3f} | | {summary['base']['sampled']:.3f} | |",
    ]
    for m, accuracy in summary["accuracy"].items():
        cells = [f"{np.mean(accuracy[mode]):.3f} | {' '.join(f'{a:.3f}' for a in accuracy[mode])}" for mode in MODES]
        lines.append(f"| {m}, lr {summary['chosen'][m]:g} | {' | '.join(cells)} |")
    for c, accuracy in summary["controls"].items():
        what = {
            "shuffled": "another problem's hint",
            "blind": "teacher without the picture",
            "none": "teacher without a hint",
        }[c]
        lines.append(f"| control: {what} | {accuracy['greedy']:.3f} | 1 seed | {accuracy['sampled']:.3f} | 1 seed |")
    lines += ["", "PTD-PO − GRPO (95 % interval over seeds and problems):", ""]
    for mode, d in summary["leads"].items():
        lines.append(
            f"- {mode}: **{d['difference']:+.3f}** ({d['interval'][0]:+.3f} – {d['interval'][1]:+.3f}); per seed {d['per_seed']}"
        )
    lines += ["", "![curves](tiny-curves.png)", "", "![controls](tiny-controls.png)", "", "## By kind of question", ""]
    lines += category_table(results)
    lines += ["", "## What tutoring barely taught in this time", ""]
    lines += [
        "Regions of the untaught colours, on which the right cells depend on the picture. One seed each, trained on all 20 kinds;",
        "sampled accuracy. The demo's mix leaves these two out.",
        "",
        "| | " + " | ".join(results["all_kinds"]) + " |",
        "| --- |" + " --- |" * len(results["all_kinds"]),
    ]
    for name in (name for name in KINDS if name not in DEFAULT_KINDS):
        cells = [f"{s['sampled']['categories'][name]['accuracy']:.3f}" for s in results["all_kinds"].values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cells = [f"{s['sampled']['accuracy']:.3f}" for s in results["all_kinds"].values()]
    lines.append(f"| all 20 kinds | {' | '.join(cells)} |")
    lines += ["", "## Learning rates", "", "Sampled accuracy on validation, seed 100, one run each:", ""]
    rates = list(next(iter(summary["validation"].values())))
    lines += ["| | " + " | ".join(rates) + " |", "| --- |" + " --- |" * len(rates)]
    lines += [
        f"| {m} | " + " | ".join(f"{a:.3f}" for a in by_rate.values()) + " |"
        for m, by_rate in summary["validation"].items()
    ]
    lines += ["", "## Cost", "", "Seconds of training per seed (two runs side by side):", ""]
    lines += [f"- {m}: {' '.join(f'{s:.0f}' for s in summary['train_seconds'][m])}" for m in METHODS]
    last = {m: [run[-20:] for run in logs[m]] for m in METHODS}
    lines += [
        "",
        "Mean of the last 20 iterations, all seeds:",
        "",
        "| | entropy | all-fail groups | accuracy of rollouts |",
        "| --- | --- | --- | --- |",
    ]
    for m, runs in last.items():
        cells = [
            f"{np.mean([line[key] for run in runs for line in run]):.3f}"
            for key in ("entropy", "groups/all_fail", "accuracy")
        ]
        lines.append(f"| {m} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def category_table(results: dict) -> list[str]:
    columns = {
        "base": [results["base"]],
        **{m: [arm["summary"] for arm in arms] for m, arms in results["arms"].items()},
    }
    lines = [
        "Sampled accuracy, mean of seeds. The base was shown the right cells of the taught kinds only; `picture` kinds need it.",
        "",
        "| kind | | " + " | ".join(columns) + " |",
        "| --- | --- |" + " --- |" * len(columns),
    ]
    for name in results["base"]["sampled"]["categories"]:
        kind = KINDS[name]
        marks = ", ".join(filter(None, ["taught" if kind.taught else "untaught", "picture" if kind.visual else ""]))
        cells = [
            f"{np.mean([s['sampled']['categories'][name]['accuracy'] for s in summaries]):.3f}"
            for summaries in columns.values()
        ]
        lines.append(f"| {name} | {marks} | {' | '.join(cells)} |")
    for title, is_taught in (("all taught", True), ("all untaught", False)):
        cells = []
        for summaries in columns.values():
            chosen = [
                c["accuracy"]
                for s in summaries
                for n, c in s["sampled"]["categories"].items()
                if KINDS[n].taught == is_taught
            ]
            cells.append(f"{np.mean(chosen):.3f}")
        lines.append(f"| **{title}** | | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
