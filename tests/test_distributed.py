"""Several processes train what one process trains: real gloo ranks under torchrun, on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

import families
import ranks as worker
from command import jsonl, png
from conftest import SMALL
from ptdpo_cli.artifacts.manifest import read_manifest
from ptdpo_cli.errors import UsageError
from ptdpo_cli.models.parallel import ALONE, Ranks, strategy_of
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.metrics import read_metrics
from ptdpo_cli.stages.train import problem_shares, run_loop
from ptdpo_cli.stages.workspace import Workspace

# Adam divides by the root of the second moment, so a gradient that is nothing but rounding moves a weight all the same.
TOLERANCE = 1e-6
WORKER = Path(__file__).parent / "ranks.py"
FSDP2 = "distributed.strategy=fsdp2"


def torchrun(n: int, *arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", n, *arguments]
    return subprocess.Popen([str(word) for word in command], env=os.environ | {"OMP_NUM_THREADS": "1"}, **options)


def alone(recipe, run: Path, *overrides: str):
    work = Workspace(recipe, run)
    artifact, _ = run_loop(work, None, force=False, warn=print, say=print)
    return artifact


def weights(path: Path) -> dict:
    return safetensors.torch.load_file(path / "model.safetensors")


def difference(a: dict, b: dict) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def final(run: Path) -> Path:
    """The furthest policy of a run."""
    return max(run.glob("policy/v1-*/trainer.json"), key=lambda file: json.loads(file.read_text())["updates"]).parent


def mixed_problems(path: Path) -> Path:
    """Pictures of two sizes, and none; the long questions, which a rank gets to itself, are those without."""
    rows = [
        {"problem_id": f"p{i}", "question": "What is the sum? " * (1 + 4 * (i % 2)), "answer": "3",
         "split": "train", "steps": ["Look at the first row.", "Then look at the last."]}
        for i in range(4)
    ]
    for i in (0, 2):
        picture = path.with_name(f"{i}.png")
        picture.write_bytes(png(48 + 16 * i, 48))
        rows[i]["images"] = [picture.name]
    return jsonl(path, *rows)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The same loops in this process."""
    folder = tmp_path_factory.mktemp("one")
    mixed_problems(folder / "mixed.jsonl")
    loops = {"three": worker.THREE_UPDATES, "few": worker.FEW_PROBLEMS, "mixed": worker.mixed(folder)}
    for name, overrides in loops.items():
        alone(load_recipe(worker.RECIPE, list(overrides)), folder / name)
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_end_in_the_weights_of_one(one_process, tmp_path, strategy):
    mixed_problems(tmp_path / "mixed.jsonl")
    assert torchrun(2, WORKER, "train", strategy, tmp_path).wait(timeout=240) == 0
    ranks = [json.loads((tmp_path / f"rank-{i}.json").read_text()) for i in (0, 1)]
    for module in (module for rank in ranks for module in rank["modules"]):
        assert module["is_ddp"] == (strategy == "ddp") and module["is_fsdp2"] == (strategy == "fsdp2")
        if strategy == "fsdp2":
            assert module["sharded_layers"] == 6 and module["sharded_parameters"] == module["parameters"]
    # One rank with gated rollouts while the other has none, and a rank without any row: neither may wait for ever.
    gated = [[update[0] for update in rank["rows"]] for rank in ranks]
    assert any(bool(a) != bool(b) for a, b in zip(*gated, strict=True))
    assert [0, 0] in ranks[1]["rows"]
    for name in ("three", "few", "mixed"):
        assert difference(weights(final(one_process / name)), weights(final(tmp_path / name))) < TOLERANCE, name
    for kind in ("rollouts", "scores"):     # made in parts, joined, and the same
        made = [read_manifest(next((folder / "few" / kind).glob("v1-*"))) for folder in (one_process, tmp_path)]
        assert made[0].content_hash == made[1].content_hash
    lines = [read_metrics(folder / "three" / "logs" / "metrics.jsonl") for folder in (one_process, tmp_path)]
    for one, two in zip(*lines, strict=True):
        for key in one.keys() - {"artifacts"}:
            if not key.startswith("seconds") and key != "tokens_per_s":
                assert two[key] == pytest.approx(one[key], rel=2e-4, abs=1e-6), key


def test_terminated_among_ranks_it_saves_and_goes_on_with_another_number_of_them(tmp_path, small_recipe):
    run, n = tmp_path / "run", 6
    settings = (*SMALL, f"train.iterations={n}", "train.checkpoint_every=100", "train.updates_per_iteration=1")
    words = [word for override in (*settings, FSDP2) for word in ("--set", override)]
    # Behind the `--`, for torchrun takes `--run` for an abbreviation of its own `--run-path`.
    command = ("-m", "--", "ptdpo_cli", "train", "--recipe", worker.RECIPE, "--run", run, *words)
    job = torchrun(2, *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(read_metrics(run / "logs" / "metrics.jsonl")) >= 1, job)
    job.send_signal(signal.SIGTERM)
    out, error = job.communicate(timeout=60)
    assert job.returncode != 0 and out == "" and "terminated; what was finished is saved" in error
    saved = final(run)
    done = json.loads((saved / "trainer.json").read_text())["iteration"]
    assert 1 <= done < n and len(list((saved / "trainer").glob("*.safetensors"))) == 2
    wait_for(lambda: not list(run.glob("**/*.lock")), None)
    job = torchrun(3, *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, error = job.communicate(timeout=120)
    assert job.returncode == 0 and f"going on after iteration {done}" in error, error
    assert out.count("\n") == 1 and len(list((final(run) / "trainer").glob("*.safetensors"))) == 3
    recipe = small_recipe(*settings)
    assert difference(weights(alone(recipe, tmp_path / "alone").path), weights(final(run))) < TOLERANCE
    # And one process alone goes on from what three left in parts.
    longer = small_recipe(*settings, f"train.iterations={n + 1}")
    together = alone(longer, run)
    assert difference(weights(together.path), weights(alone(longer, tmp_path / "alone").path)) < TOLERANCE


def test_a_rank_that_hangs_is_named(tmp_path):
    torchrun(2, WORKER, "hang", "ddp", tmp_path).wait(timeout=60)
    seen = json.loads((tmp_path / "rank-0.json").read_text())
    assert seen["code"] == 1
    for words in ("looking out for the others", "within 3 s (distributed.timeout", "1 failed to pass", "hint:"):
        assert words in seen["error"], seen["error"]


def test_a_strategy_that_the_processes_do_not_fit():
    assert strategy_of("auto", ALONE) == "auto" and strategy_of("auto", Ranks(0, 2)) == "ddp"
    with pytest.raises(UsageError, match="fsdp2 needs several processes"):
        strategy_of("fsdp2", ALONE)
    with pytest.raises(UsageError, match="none, but 2 processes"):
        strategy_of("none", Ranks(1, 2))


def test_shares_are_whole_groups_of_about_equal_length():
    import pyarrow as pa

    tokens = {"a": 90, "b": 10, "c": 40, "d": 60, "e": 5, "f": 5}
    rows = [{"problem_id": name, "response_tokens": n // 5} for name, n in tokens.items() for _ in range(5)]
    table = pa.Table.from_pylist(rows)
    assert problem_shares(table, 2, 1) == [[["a", "b", "c"]], [["d", "e", "f"]]]
    assert problem_shares(table, 1, 2) == [[["a", "b", "e"], ["d", "c", "f"]]]
    assert problem_shares(table, 6, 2)[0] == [["a"], []]


def wait_for(condition, job) -> None:
    give_up = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < give_up and (job is None or job.poll() is None)
        time.sleep(0.1)


def master_weights(policy: Path) -> dict:
    """The float32 weights by name, in one file or in parts; of an adapter its own."""
    if (policy / "adapter_model.safetensors").is_file():
        return safetensors.torch.load_file(policy / "adapter_model.safetensors")
    if (policy / "trainer.safetensors").is_file():
        found = safetensors.torch.load_file(policy / "trainer.safetensors")
        return {name: tensor for name, tensor in found.items() if name.endswith(".master")}
    parts = [safetensors.torch.load_file(file) for file in sorted((policy / "trainer").glob("*.safetensors"))]
    names = {name for part in parts for name in part if name.endswith(".master")}
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}


def distance(a: dict, b: dict) -> float:
    assert a.keys() == b.keys() and a
    return sum(float((a[name] - b[name]).double().square().sum()) for name in a) ** 0.5


@pytest.mark.parametrize(("strategy", "setting", "tolerance"), [
    ("fsdp2", "lora.rank=4", 1e-3),
    ("ddp", "model.dtype=bfloat16", 0.5),     # other directions would be 1.4 apart; bfloat16 turns small gradients
    ("fsdp2", "model.dtype=bfloat16", 0.2),
])  # fmt: skip
def test_lora_and_bfloat16_with_master_weights_among_ranks(tmp_path, strategy, setting, tolerance):
    """What one process trains, with problems without, with one and with several pictures; and it resumes.

    The tolerance is a share of the way that the weights went.
    """
    settings = (
        "prompt.instruction=''", f"model.path={families.folder('qwen2_5_vl')}", setting,
        "rollout.problems_per_iteration=4", "rollout.rollouts_per_problem=2", "rollout.problems_per_shard=2",
        "rollout.max_new_tokens=8", "teacher.top_k=10", "train.iterations=2", "train.checkpoint_every=1",
        "train.learning_rate=1e-4", "train.kl_weight=0.01", "train.trackers=[]",
        f"data.name={families.mixed_data(tmp_path)}",
    )  # fmt: skip
    words = [word for one in (*settings, f"distributed.strategy={strategy}") for word in ("--set", one)]
    command = ("-m", "--", "ptdpo_cli", "train", "--run", tmp_path / "two", *words)
    assert torchrun(2, *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait(timeout=120) == 0
    recipe = load_recipe(None, list(settings))
    one, two = alone(recipe, tmp_path / "one").path, final(tmp_path / "two")
    assert json.loads((two / "trainer.json").read_text())["updates"] == 2
    first = alone(load_recipe(None, [*settings, "train.iterations=1"]), tmp_path / "first").path
    share = distance(master_weights(one), master_weights(two)) / distance(master_weights(one), master_weights(first))
    print(share)
    assert share < tolerance
    longer = alone(load_recipe(None, [*settings, "train.iterations=3"]), tmp_path / "two")
    assert longer.manifest.counts["iteration"] == 3
