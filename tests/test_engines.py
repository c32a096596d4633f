"""What can be said of engines where vLLM is not installed; the engine itself is tested in tests/with_vllm."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from command import TINY, refused
from ptdpo_cli import recipe as recipes_module
from ptdpo_cli.engines import Request, Sampling
from ptdpo_cli.engines.draw import choose, uniforms
from ptdpo_cli.engines.vllm import require_same_prompt
from ptdpo_cli.errors import PtdpoError
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.evaluate import plan_eval
from ptdpo_cli.stages.rollout import plan_rollout
from ptdpo_cli.stages.train import train_section
from ptdpo_cli.stages.workspace import Workspace


@pytest.fixture
def without_vllm(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else found(name, *rest))


@pytest.mark.parametrize("command", [("rollout",), ("train",), ("eval", "--policy", "tiny-base")])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_an_engine_that_is_not_installed_is_named_with_its_extra(without_vllm, tmp_path, command, dry):
    says = ("the engine vllm is not installed", "pip install 'ptdpo[vllm]'")
    refused(2, *command, *TINY, "--set", "rollout.engine=vllm", "--run", tmp_path / "run", *dry, says=says)


@pytest.mark.parametrize(("installed", "gpu", "engine"), [(1, 1, "vllm"), (1, 0, "hf"), (0, 1, "hf"), (0, 0, "hf")])
def test_auto_is_decided_when_the_recipe_is_read(monkeypatch, recipes, installed, gpu, engine):
    found = importlib.util.find_spec
    spec = SimpleNamespace() if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: spec if name == "vllm" else found(name, *rest))
    monkeypatch.setattr(recipes_module, "_has_gpu", lambda: bool(gpu))
    loaded = load_recipe(recipes / "tiny.yaml", ["rollout.engine=auto"])
    assert loaded.rollout.engine == engine


def test_the_engine_is_part_of_keys_and_its_placement_is_not(small_recipe, tmp_path):
    def keys(*overrides):
        recipe = small_recipe(*overrides)
        work = Workspace(recipe, tmp_path)
        hashes = {"weights": "0" * 64}
        return (
            plan_rollout(recipe, tmp_path, work.problems, hashes).directory,
            plan_eval(recipe, tmp_path, work.problems, hashes).directory,
            str(train_section(recipe)),
        )

    hf, vllm = keys(), keys("rollout.engine=vllm")
    assert all(a != b for a, b in zip(hf, vllm, strict=True))
    placed = keys("rollout.engine=vllm", "vllm.tensor_parallel=2", "vllm.gpu_memory_utilization=0.9")
    assert placed == vllm


def test_a_prompt_that_the_engine_reads_otherwise_is_refused():
    prompt = SimpleNamespace(problem_id="p", token_ids_L=torch.tensor([1, 7, 7, 2]))
    require_same_prompt(Request(prompt, 0), [1, 7, 7, 2])
    for other in ([1, 7, 7, 7, 7, 2], [1, 7, 7], [1, 7, 8, 2], []):
        with pytest.raises(PtdpoError, match="problem p: vLLM reads another prompt"):
            require_same_prompt(Request(prompt, 0), other)


def test_draws_follow_the_distribution_and_the_nucleus():
    probabilities_V = torch.tensor([0.5, 0.3, 0.0, 0.15, 0.05])
    logprobs_BV = probabilities_V.log().expand(20_000, -1)
    uniforms_B = torch.from_numpy(uniforms(7, 20_000))
    counts_V = np.bincount(choose(logprobs_BV, uniforms_B, Sampling(1)), minlength=5) / 20_000
    assert np.abs(counts_V - probabilities_V.numpy()).max() < 0.015 and counts_V[2] == 0
    kept = choose(logprobs_BV, uniforms_B, Sampling(1, top_p=0.9))
    assert set(kept.tolist()) == {0, 1, 3}
    assert set(choose(logprobs_BV, uniforms_B, Sampling(1, temperature=0)).tolist()) == {0}
