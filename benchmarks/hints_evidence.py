"""Do made hints help, before training and in it? Writes docs/results/hints.{md,json,png}.

    python benchmarks/hints_evidence.py            everything, two runs at a time with one thread each; resumes
    python benchmarks/hints_evidence.py --write    only the page and the picture, from the runs that are there

1. Hints of each source on the training problems of digit-grid, and attention+steps on files as a user would have them
   (the same pictures and questions, solutions in three wordings, no regions): the audit, and the frozen base with and without.
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
# The base was taught one form of hint, that of digit-grid's own steps. Its recipe puts all hints that say where to look
# into this form; here they are left alone, except where own data is measured both ways.
AS_THEY_ARE = "teacher.hint_template={{ hint }}"


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
        own = {kind: pool.submit(score_own_data, kind) for kind in SOLUTIONS}
        arms = {arm: [pool.submit(train, arm, seed) for seed in SEEDS] for arm in ARMS}
        base = pool.submit(
            ptdpo, "eval", "--recipe", RECIPE, "--run", RUNS / "eval" / "base", "--policy", "tiny-base",
            "--split", "test",
        )
        return {
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread per run, {jobs} runs at a time",
            "scored": {name: scored[name] if name == MADE else scored[name].result() for name in SOURCES},
            "own": {kind: future.result() for kind, future in own.items()},
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
    utility = worth(hints["path"], AS_THEY_ARE)
    print(f"{source}: scored in {time.perf_counter() - started:.0f} s", flush=True)
    return {"path": hints["path"], "counts": hints["counts"], "audit": audit, "utility": utility}


def worth(hints: str, *overrides: str) -> dict:
    return ptdpo("hints", "score", hints, "--n", SAMPLES, "--limit", SCORED, *settings(*overrides))["summary"]


def score_own_data(kind: str) -> dict:
    """What a user has: pictures in a folder, and a file of questions, answers and solutions."""
    folder = RUNS / f"own-{kind.replace(' ', '-')}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mine.jsonl").open("w") as file:
        for i, (problem, grid) in enumerate(digit_grid.load_with_grids("train", seed=7, count=SCORED)):
            (folder / f"{i:04d}.png").write_bytes(problem.images[0])
            row = {"problem": problem.question, "answer": problem.answer, "images": [f"{i:04d}.png"],
                   "category": problem.category, "solution": SOLUTIONS[kind](problem, grid)}
            file.write(json.dumps(row) + "\n")
    scored = score(MADE, folder / "run", "--data", str(folder / "mine.jsonl"))
    return scored | {"in_taught_form": worth(scored["path"])}


def told(problem, grid: digit_grid.Grid, *, cell: str, then: str, end: str) -> str:
    """The worked solution as a person might write it, sentence by sentence."""
    sentences, total = [], 0
    for i in digit_grid.KINDS[problem.category].cells(grid):
        total += grid.digits[i]
        shown = cell.format(cell=digit_grid.CELLS[i], digit=grid.digits[i])
        sentences.append(f"{shown}{then.format(total=total)}." if sentences else f"{shown}.")
    return " ".join([*sentences, end.format(total=total)])


PROSE = {
    "cell": "The digit in the {cell} cell is {digit}", "then": ", so the sum becomes {total}",
    "end": "Therefore, the answer is {total}.",
}
OTHER_PROSE = {
    "cell": "At the {cell} we see {digit}", "then": ", which makes {total}", "end": "In all that is {total}.",
}
SOLUTIONS = {
    "short": lambda problem, grid: problem.solution,
    "prose": lambda problem, grid: told(problem, grid, **PROSE),
    "other prose": lambda problem, grid: told(problem, grid, **OTHER_PROSE),
}


def train(arm: str, seed: int) -> dict:
    """Train and evaluate one arm; what is finished is not done again."""
    source, folder = ARMS[arm], RUNS / f"{arm.replace(' ', '-')}-seed{seed}"
    options = ["--recipe", RECIPE if source else METHODS["GRPO"], "--run", folder]
    options += settings(f"seed={seed}", "train.trackers=[]", "hints.max_refused=1", AS_THEY_ARE)
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


def write_page(results: dict) -> None:
    out = ROOT / "docs" / "results"
    logs = {arm: [read_metrics(metrics_file(Path(one["folder"]))) for one in of] for arm, of in results["arms"].items()}
    draw_curves(logs, out / "hints-curves.png", title="training problems; line: mean of 3 seeds, band: their range")
    leads = {
        f"{arm} − {other}": {mode: lead(results["arms"][arm], results["arms"][other], mode) for mode in MODES}
        for arm, other in (("made", "no hints"), ("made", "annotation"), ("made", "shuffled"))
    }
    kept = {
        "date": results["date"], "machine": results["machine"],
        "before_training": {
            name: {"counts": one["counts"], **{way: one[way]["all"] for way in ("utility", "in_taught_form") if way in one}}
            for name, one in (results["scored"] | {f"own data, {kind}": one for kind, one in results["own"].items()}).items()
        },
        "training": {
            arm: {mode: [one["summary"][mode]["accuracy"] for one in of] for mode in MODES}
            for arm, of in results["arms"].items()
        },
        "base": {mode: results["base"][mode]["accuracy"] for mode in MODES},
        "leads": leads,
        "seconds": {arm: [sum(line["seconds/total"] for line in run) for run in of] for arm, of in logs.items()},
    }
    (out / "hints.json").write_text(json.dumps(kept, indent=1) + "\n")
    (out / "hints.md").write_text(page(results, kept))
    print(f"wrote {out / 'hints.md'}")


def page(results: dict, kept: dict) -> str:
    arms = results["arms"]
    lines = [
        "# Made hints on digit-grid",
        "",
        f"Made by `make evidence-hints` ({kept['date']}; {kept['machine']}).",
        "",
        "## Before training: does the frozen base answer better with them?",
        "",
        f"{SCORED} training problems with {SAMPLES} samples each, with the hint and without (`ptdpo hints score`); T = 1. Hints are counted over all "
        "training problems.",
        "",
        "| hints | made | refused | question only | with hint | gain (95 % interval) | all-fail recovered | of | KL | ΔNLL |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(scored_row(name, one) for name, one in results["scored"].items()),
        *(
            scored_row(f"{MADE}, own data, {kind}{form}", one, measured)
            for kind, one in results["own"].items()
            for measured, form in (("utility", ""), ("in_taught_form", ", worded by the recipe"))
        ),
        "",
        f"*own data*: {SCORED} problems in a JSONL file as a user has it: pictures, questions, answers and solutions, no regions, no steps. "
        "*short*: solutions as the base writes them (\"top-left 3, center 8 makes 11\"); *prose*: \"The digit in the top-left cell is 3. The digit "
        "in the center cell is 8, so the sum becomes 11.\"; *other prose*: \"At the top-left we see 3. At the center we see 8, which makes "
        "11.\" The base was taught neither. *Worded by the recipe*: `teacher.hint_template` of recipes/tiny.yaml, which puts "
        "where to look into the one form of hint that the base was taught. `steps` on digit-grid itself are the data set's own.",
        "",
        "*all-fail recovered*: of the problems that fail all samples without the hint, those that are right at least once with it. KL is "
        "that of question only ‖ hinted per token, in nats; ΔNLL the change of the negative log-likelihood of the same tokens.",
        "`answer` and `solution` reveal, and are no hints; the base was never taught to read them.",
        "",
        "## In training: three seeds per arm",
        "",
        f"From one base, 150 iterations of 16 problems × 8 rollouts, 4 updates each, lr 5e-5; seeds {', '.join(map(str, SEEDS))}; the same "
        f"problems in the same order. {results['base']['problems']} test problems with handwriting that training does not show.",
        "",
        "| test accuracy | greedy, mean | per seed | sampled, mean | per seed | seconds of training |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| base | {kept['base']['greedy']:.3f} | | {kept['base']['sampled']:.3f} | | |",
    ]
    what = {
        "no hints": "no hints (GRPO)", "annotation": "the data set's regions and steps", "made": f"made: {MADE}",
        "shuffled": "another problem's hint (of the made ones)",
    }
    for arm in arms:
        cells = [
            f"{np.mean(kept['training'][arm][mode]):.3f} | {' '.join(f'{a:.3f}' for a in kept['training'][arm][mode])}"
            for mode in MODES
        ]
        seconds = " ".join(f"{s:.0f}" for s in kept["seconds"][arm])
        lines.append(f"| {what[arm]} | {' | '.join(cells)} | {seconds} |")
    lines += ["", "Differences, mean of seeds, with a 95 % interval that draws seeds and problems anew:", "",
              "| | greedy | sampled |", "| --- | --- | --- |"]
    for name, modes in kept["leads"].items():
        cells = ["{:+.3f} ({:+.3f} – {:+.3f})".format(d["difference"], *d["interval"]) for d in modes.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "![curves](hints-curves.png)", "", "## By kind of question", "",
              "Sampled test accuracy, mean of seeds.", "", "| kind | | base | " + " | ".join(arms) + " |",
              "| --- | --- | --- |" + " --- |" * len(arms)]
    for name in results["base"]["sampled"]["categories"]:
        kind = digit_grid.KINDS[name]
        columns = [[results["base"]], *([one["summary"] for one in of] for of in arms.values())]
        cells = [f"{np.mean([s['sampled']['categories'][name]['accuracy'] for s in of]):.3f}" for of in columns]
        lines.append(f"| {name} | {'taught' if kind.taught else 'untaught'} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + READING


def scored_row(name: str, one: dict, measured: str = "utility") -> str:
    counts, whole = one["counts"], one[measured]["all"]
    failed = whole["all_fail"]
    recovered = f"{failed['recovered']['mean']:.2f}" if failed["recovered"] else "–"
    gain = "{:+.3f} ({:+.3f} – {:+.3f})".format(whole["gain"]["difference"], *whole["gain"]["interval"])
    return (
        f"| `{name}` | {counts['hints']:,} of {counts['problems']:,} | {counts['refused']:,} "
        f"| {whole['plain']['accuracy']['mean']:.3f} | {whole['hinted']['accuracy']['mean']:.3f} | {gain} "
        f"| {recovered} | {failed['problems']} | {whole['kl']['mean']:.3f} | {whole['nll_change']['mean']:+.3f} |"
    )


# What the figures mean, in words that stay true only with these figures: read them again after another run.
READING = """
## What it says

- A policy trained with made hints (where the model looks while it reads the solution, and what the data set says to do) ends
  where one trained with the data set's own regions does. Nobody had to annotate a region; a worked solution was needed.
- Another problem's hint teaches the wrong cells: the policy ends below the base that it started from.
- The base was taught one form of hint and reads hardly any other. Where to look alone, what to do alone, the same words for all, or
  its own data's steps in other words lower its accuracy below that of the question alone. Such rows say something of this base and
  little of the hints. `teacher.hint_template` puts hints into the form that a model reads, as recipes/tiny.yaml does; `ptdpo hints
  score` says whether it does before anything is trained.
- Of solutions in prose, which this base was never taught, its map finds the needed cells nearly as surely as of those in its own
  form, and hints worded by the recipe raise its accuracy nearly as much.
"""


if __name__ == "__main__":
    main()
