"""What several processes cost: seconds of an update alone, under DDP and under FSDP2: benchmarks/results/ranks.json.

python benchmarks/ranks.py

Two gloo processes of one thread on the CPU against one process of one thread, the same recipe, one after the other and
three times over; medians, as ratios to the process alone. Two cores can at best halve the seconds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch

from ptdpo_cli.stages.metrics import metrics_file, read_metrics

OUT = Path(__file__).parent / "results" / "ranks.json"
RECIPE = Path(__file__).parents[1] / "recipes" / "tiny.yaml"
SETTINGS = (
    "data.count=256", "train.iterations=4", "train.trackers=[]", "train.checkpoint_every=100",
    "rollout.problems_per_shard=8", "train.updates_per_iteration=1",
)  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "ptdpo_cli")
WAYS = {"alone": ("-m", "ptdpo_cli"), "ddp": TORCHRUN, "fsdp2": TORCHRUN}
PARTS = ("rollout", "score_ref", "update")


def seconds(way: str, run: Path) -> dict[str, float]:
    """Median seconds per iteration of each part, without the first, which warms up."""
    strategy = () if way == "alone" else ("--set", f"distributed.strategy={way}")
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, *WAYS[way], "train", "--recipe", str(RECIPE), "--run", str(run), *words, *strategy]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    lines = read_metrics(metrics_file(run))[1:]
    return {part: statistics.median(line[f"seconds/{part}"] for line in lines) for part in PARTS}


def main() -> None:
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    for _ in range(3):
        for way in WAYS:
            with tempfile.TemporaryDirectory() as folder:
                found[way].append(seconds(way, Path(folder) / "run"))
    medians = {way: {p: statistics.median(one[p] for one in runs) for p in PARTS} for way, runs in found.items()}
    ratios = {
        way: {part: round(medians[way][part] / medians["alone"][part], 2) for part in PARTS} for way in ("ddp", "fsdp2")
    }
    result = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "seconds_alone": {part: round(value, 3) for part, value in medians["alone"].items()},
        "ratio_of_two_processes": ratios,
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
