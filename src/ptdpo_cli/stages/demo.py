"""demo: PTD-PO against GRPO from one start, with equal rollouts, on a laptop; a table, a picture, where it all lies.

It only runs the commands that a user would run, two at a time with one thread each: at this model's size that is faster
than one after the other with two.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import PtdpoError
from ptdpo_cli.recipe import load_recipe, recipes_folder
from ptdpo_cli.stages.compare import compare
from ptdpo_cli.stages.metrics import metrics_file, read_metrics
from ptdpo_cli.stages.report import draw_curves
from ptdpo_cli.stages.show import show

# Half the test problems: enough for the difference, and a minute less of a newcomer's patience.
_DEMO_SETTINGS = ("eval.count=512",)
METHODS = {"GRPO": "baselines/tiny-grpo.yaml", "PTD-PO": "tiny.yaml"}


def run_demo(run: Path, overrides: Sequence[str], *, say, console: Console) -> dict:
    """Train both methods, evaluate both on handwriting that neither has seen, compare; the result as data.

    Interrupted, the same command goes on from the checkpoints.
    """
    started = time.perf_counter()
    runs = {name: run / name.lower() for name in METHODS}
    recipes = {name: recipes_folder() / file for name, file in METHODS.items()}
    settings = [*_DEMO_SETTINGS, *overrides]
    extra = [word for setting in settings for word in ("--set", setting)]
    total = load_recipe(recipes["PTD-PO"], settings).train.iterations

    say("1/4  problems and hints: grids of real handwriting, and where to look in them")
    _together({"hints": ["build-hints", "--recipe", recipes["PTD-PO"], "--run", runs["PTD-PO"], *extra]}, run, console)
    show(runs["PTD-PO"] / "hints", limit=8, out=run / "samples.png")
    say(f"     a few of them: {run / 'samples.png'}")

    say(f"2/4  training from the same base, {total} iterations of the same number of rollouts each")
    commands = {n: ["train", "--recipe", recipes[n], "--run", runs[n], *extra] for n in METHODS}
    _together(commands, run, console, metrics={n: (metrics_file(runs[n]), total) for n in METHODS})

    say("3/4  evaluating on test problems, made of scans that neither has seen")
    commands = {n: ["eval", "--recipe", recipes[n], "--run", runs[n], *extra] for n in METHODS}
    base = ["eval", "--recipe", recipes["GRPO"], "--run", run / "base", "--policy", "tiny-base", *extra]
    outputs = _together({"base": base, **commands}, run, console)
    evals = {name: Artifact.open(json.loads(text)["path"], kind="evals") for name, text in outputs.items()}

    say("4/4  curves and comparison")
    curves = draw_curves(
        {n: [read_metrics(metrics_file(runs[n]))] for n in METHODS},
        run / "curves.png",
        title="digit-grid, training problems: GRPO and PTD-PO from one base",
    )
    comparison = compare([evals["GRPO"], evals["PTD-PO"]])["comparisons"][0]
    result = {
        "accuracy": {name: e.manifest.extra["summary"] for name, e in evals.items()},
        "comparison": comparison,
        "curves": str(curves),
        "seconds": time.perf_counter() - started,
    }
    (run / "demo.json").write_text(json.dumps(result, indent=1) + "\n")
    _print_table(result, console)
    say(f"\nresults  {run / 'demo.json'}\ncurves   {curves}\npolicy   {runs['PTD-PO'] / 'policy'}")
    say(f"took     {result['seconds']:.0f} s")
    say(
        "\ntry next\n"
        f"  ptdpo status {runs['PTD-PO']}                      what is on disk\n"
        f"  ptdpo show {runs['PTD-PO'] / 'evals'}                  what the policy answers\n"
        f"  ptdpo train --recipe recipes/tiny.yaml --run runs/shuffled --set teacher.context=shuffled\n"
        "                                                 a control: another problem's hint teaches nothing good"
    )
    return result


def _together(commands: dict[str, list], run: Path, console: Console, *, metrics: dict | None = None) -> dict[str, str]:
    """Run ptdpo commands side by side, one thread each, with a bar per training; their stdout.

    Errors: PtdpoError with the last lines of a command's log when it fails.
    """
    run.mkdir(parents=True, exist_ok=True)
    slots = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, slots // len(commands))), "NO_COLOR": "1"}
    processes, logs = {}, {}
    try:
        for name, arguments in commands.items():
            logs[name] = run / f"{arguments[0]}-{name.lower()}.log"
            with logs[name].open("w") as log:
                processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "ptdpo_cli", *map(str, arguments), "--json"],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=environment,
                )
        _watch(processes, metrics or {}, console)
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait()
    for name, process in processes.items():
        if process.returncode:
            tail = "\n".join(logs[name].read_text().splitlines()[-6:])
            raise PtdpoError(
                f"{name} stopped with exit code {process.returncode}", found=f"\n{tail}", hint=f"see {logs[name]}"
            )
    return {name: process.stdout.read() for name, process in processes.items()}


def _watch(processes: dict[str, subprocess.Popen], metrics: dict, console: Console) -> None:
    columns = (
        TextColumn("     {task.description:7}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal or not metrics) as progress:
        tasks = {name: progress.add_task(name, total=total, last="starting") for name, (_, total) in metrics.items()}
        while any(process.poll() is None for process in processes.values()):
            time.sleep(0.25)
            for name, task in tasks.items():
                if lines := read_metrics(metrics[name][0]):
                    last = lines[-1]
                    progress.update(
                        task,
                        completed=last["iteration"],
                        last=f"accuracy {last['accuracy']:.2f}  all-fail groups {last['groups/all_fail']:.2f}",
                    )


def _print_table(result: dict, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="test accuracy (scans not seen in training)", title_justify="left")
    for title in ("", "greedy", "95 % interval", "sampled, T = 1", "95 % interval"):
        table.add_column(title, justify="left" if not title else "right")
    for name, summary in result["accuracy"].items():
        cells = []
        for mode in ("greedy", "sampled"):
            cells += [f"{summary[mode]['accuracy']:.3f}", "{:.3f} – {:.3f}".format(*summary[mode]["interval"])]
        table.add_row(name, *cells)
    console.print(table)
    difference = result["comparison"]["greedy"]
    first = next(iter(result["accuracy"].values()))
    console.print(
        "PTD-PO − GRPO, greedy, paired by problem: {:+.3f} ({:+.3f} – {:+.3f})".format(
            difference["difference"], *difference["interval"]
        )
    )
    console.print(f"always answering {first['majority_answer']!r} would score {first['majority_share']:.3f}")
