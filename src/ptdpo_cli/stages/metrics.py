"""What a run's iterations measured: `logs/metrics.jsonl`, and trackers through accelerate."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

from ptdpo_cli.errors import UsageError
from ptdpo_cli.recipe import Recipe, Train


class MetricsLog:
    """`logs/metrics.jsonl`, one line per iteration, and the trackers of the recipe (through accelerate)."""

    def __init__(self, run: Path, recipe: Recipe, *, done: int):
        self.path = metrics_file(run)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [line for line in read_metrics(self.path) if line["iteration"] <= done]
        # Those of all iterations that are still there: a kill may have come between a line and its cleaning up.
        made = [line["artifacts"] for line in lines]
        self.artifacts = [names for names in made if any((run / name).exists() for name in names)]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        os.replace(temporary, self.path)
        self.file = self.path.open("a")
        self.accelerator = _trackers(self.path.parent, recipe)

    def write(self, iteration: int, metrics: dict[str, float], artifacts: list[str]) -> None:
        self.file.write(json.dumps({"iteration": iteration, **metrics, "artifacts": artifacts}) + "\n")
        self.file.flush()
        if self.accelerator:
            self.accelerator.log(metrics, step=iteration)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception) -> None:
        self.file.close()
        if self.accelerator:
            self.accelerator.end_training()


def require_trackers(train: Train) -> None:
    """Refuse a tracker that is not installed, before the first iteration rather than by silence after the last."""
    for name in train.trackers:
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"the tracker {name} is not installed",
                hint=f"pip install 'ptdpo[{name}]', or leave it out: `--set train.trackers=[]`",
            )


def _trackers(folder: Path, recipe: Recipe):
    if not recipe.train.trackers:
        return None
    from accelerate import Accelerator

    accelerator = Accelerator(log_with=list(recipe.train.trackers), project_dir=folder)
    accelerator.init_trackers("ptdpo")
    return accelerator


def metrics_file(run: Path) -> Path:
    return run / "logs" / "metrics.jsonl"


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl; a last line torn by a kill is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines
