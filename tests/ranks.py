"""One rank of test_distributed.py: `torchrun … tests/ranks.py TASK STRATEGY FOLDER` writes FOLDER/rank-N.json."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from conftest import SMALL
from ptdpo_cli.errors import PtdpoError
from ptdpo_cli.models import parallel
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages import train, train_state, update
from ptdpo_cli.stages.workspace import Workspace

RECIPE = Path(__file__).parents[1] / "recipes" / "tiny.yaml"
THREE_UPDATES = (*SMALL, "train.kl_weight=0.01")
# One problem per update, so that the second rank never has any of its own; and logits in several chunks.
FEW_PROBLEMS = (*THREE_UPDATES, "train.iterations=1", "train.updates_per_iteration=4", "train.logits_per_chunk=20000")


def main(task: str, strategy: str, folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = parallel.join(timeout_minutes=0.05 if task == "hang" else 2)
    seen = {"hang": hang, "train": train_and_look}[task](ranks, strategy, folder)
    (folder / f"rank-{ranks.rank}.json").write_text(json.dumps(seen))
    parallel.leave(0)


def train_and_look(ranks: parallel.Ranks, strategy: str, folder: Path) -> dict:
    """Two loops; which modules they trained, and how many gated and other rows this rank had at each update."""
    seen: dict = {"modules": [], "rows": []}

    def share(*arguments, **options):
        trained, module = parallel.share(*arguments, **options)
        seen["modules"].append(describe(trained, module))
        return trained, module

    def accumulate_gradients(policy, rows, *arguments, **options):
        seen["rows"].append([sum(row.is_gated for row in rows), len(rows)])
        return update.accumulate_gradients(policy, rows, *arguments, **options)

    train_state.share, train.accumulate_gradients = share, accumulate_gradients
    for name, overrides in (("three", THREE_UPDATES), ("few", FEW_PROBLEMS), ("mixed", mixed(folder))):
        recipe = load_recipe(RECIPE, [*overrides, f"distributed.strategy={strategy}"])
        work = Workspace(recipe, folder / name, ranks=ranks)
        train.run_loop(work, None, force=False, warn=print, say=print)
    return seen


def mixed(folder: Path) -> tuple[str, ...]:
    """The recipe keys of the problems in FOLDER/mixed.jsonl, some of which have pictures and some none."""
    return (
        *(key for key in THREE_UPDATES if not key.startswith("data.")),
        f"data.name={folder / 'mixed.jsonl'}",
        "train.iterations=1",
    )


def describe(trained: torch.nn.Module, module: torch.nn.Module) -> dict:
    parameters = dict(trained.named_parameters())
    return {
        "is_ddp": isinstance(module, DistributedDataParallel),
        "is_fsdp2": isinstance(module, FSDPModule),
        "sharded_layers": sum(isinstance(part, FSDPModule) for part in trained.modules()),
        "sharded_parameters": sum(isinstance(p, DTensor) and p.placements[0].is_shard() for p in parameters.values()),
        "parameters": len(parameters),
    }


def hang(ranks: parallel.Ranks, strategy: str, folder: Path) -> dict:
    """The second rank does not come; what the first one says."""
    if ranks.rank == 1:
        time.sleep(6)
        return {}
    try:
        ranks.wait("looking out for the others")
    except PtdpoError as error:
        return {"error": str(error), "code": error.exit_code}
    return {}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
