"""bfloat16 training: what is lost without float32 master weights, what is kept with them, and exact resumption."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import families
from command import done
from ptdpo_cli.models.load import load_policy
from ptdpo_cli.stages import train, train_state
from ptdpo_cli.stages.train import learning_rate, run_loop, train_iteration
from ptdpo_cli.stages.train_state import new_state
from ptdpo_cli.stages.workspace import Workspace

RATE = 1e-4     # far below what bfloat16 can add to a norm's weight of 1, whose neighbours are 4e-3 away
STEPS = 40


def weight_after(recipe, monkeypatch) -> torch.Tensor:
    """A norm's weight after many equal tiny steps."""
    state = new_state(recipe, load_policy(families.folder("qwen3_vl"), dtype=recipe.model.dtype))
    parameters = train_state.trainable(state.policy.model)

    def push(*_, **__):
        for parameter in parameters.values():
            (parameter.sum() * 1e-3).backward()
        return {}

    monkeypatch.setattr(train, "accumulate_gradients", push)
    for _ in range(STEPS):
        train._step(recipe, state, [], 1.0, None)
    assert learning_rate(recipe.train, state.updates) == RATE
    return parameters["model.language_model.norm.weight"].detach()


def test_tiny_steps_vanish_in_bfloat16_and_add_up_with_masters(small_recipe, monkeypatch):
    steps = [f"train.learning_rate={RATE}", "train.weight_decay=0.0"]
    bare = weight_after(small_recipe("model.dtype=bfloat16", "train.master_weights=false", *steps), monkeypatch)
    kept = weight_after(small_recipe("model.dtype=bfloat16", *steps), monkeypatch)
    exact = weight_after(small_recipe(*steps), monkeypatch)
    assert kept.dtype == bare.dtype == torch.bfloat16 and exact.dtype == torch.float32
    assert torch.all(bare == 1)
    assert torch.allclose(exact, torch.tensor(1 - STEPS * RATE), atol=1e-5)
    assert torch.equal(kept, exact.bfloat16()) and torch.all(kept < 1)


def test_gradients_of_many_micro_batches_are_summed_in_float32(small_recipe):
    """256 + 1 + … + 1: in bfloat16 the ones are lost."""
    for masters, expected in ((True, 264.0), (False, 256.0)):
        recipe = small_recipe("model.dtype=bfloat16", f"train.master_weights={str(masters).lower()}")
        state = new_state(recipe, load_policy(families.folder("qwen3_vl"), dtype="bfloat16"))
        parameter = train_state.trainable(state.policy.model)["model.language_model.norm.weight"]
        for scale in (256, *[1] * 8):
            (parameter.sum() * scale).backward()
        assert float(parameter.grad[0]) == expected


def test_in_float32_the_masters_are_the_model_s_own_weights(small_recipe):
    state = new_state(small_recipe(), load_policy("tiny-base"))
    parameters = train_state.trainable(state.policy.model)
    assert state.masters.keys() == parameters.keys()
    assert all(state.masters[name] is parameters[name] for name in parameters)


@pytest.mark.parametrize("masters", ["true", "false"])
def test_a_bfloat16_run_resumes_exactly(masters, tmp_path, small_recipe):
    def loop(run, iterations):
        recipe = small_recipe(
            "model.dtype=bfloat16", f"train.master_weights={masters}", f"train.iterations={iterations}",
            "train.learning_rate=1e-5", "rollout.max_new_tokens=6", f"model.path={families.folder('qwen2_5_vl')}",
        )  # fmt: skip
        work = Workspace(recipe, tmp_path / run)
        return run_loop(work, None, force=False, warn=print, say=lambda text: None)[0]

    loop("run", 2)
    longer, at_once = loop("run", 4), loop("once", 4)
    assert longer.manifest.content_hash == at_once.manifest.content_hash
    assert {t.dtype for t in load_file(longer.path / "model.safetensors").values()} == {torch.bfloat16}
    trainer = load_file(longer.path / "trainer.safetensors")
    weights = load_policy(longer.path, dtype="bfloat16").model.state_dict()    # the files have the hub's older names
    stored = {name for name in trainer if name.endswith(".master")}
    if masters == "false":
        assert not stored
        return
    assert {name.removesuffix(".master") for name in stored} >= weights.keys() - {"lm_head.weight"}
    for name in stored:
        assert trainer[name].dtype == torch.float32
        assert torch.equal(trainer[name].bfloat16(), weights[name.removesuffix(".master")])
    assert any(not torch.equal(trainer[name], trainer[name].bfloat16().float()) for name in stored)


@pytest.mark.parametrize("family", families.QWEN)
def test_bfloat16_goes_through_every_stage(family, tmp_path):
    data, held_out = families.mixed_data(tmp_path), families.mixed_data(tmp_path, "held")
    mine = ["--data", data, "--run", tmp_path / "run"]
    for setting in (
        f"model.path={families.folder(family)}", "model.dtype=bfloat16", "train.gradient_checkpointing=true",
        "prompt.instruction=''", "rollout.problems_per_iteration=4", "rollout.rollouts_per_problem=2",
        "rollout.max_new_tokens=8", "teacher.top_k=10", "train.iterations=1", "train.kl_weight=0.01",
        "train.trackers=[]", "eval.samples=1", "eval.max_new_tokens=8", "eval.bootstrap_resamples=50",
    ):  # fmt: skip
        mine += ["--set", setting]
    policy = done("train", *mine).path
    assert done("eval", "--run", tmp_path / "run", "--data", held_out, "--policy", policy, "--json").json


def test_checkpointing_trains_as_without(tmp_path, small_recipe):
    """One iteration from the same rollouts: the same loss, the same weights but for rounding."""
    from test_update import VARIED, Setting

    found = {}
    for is_on in ("false", "true"):
        overrides = (f"train.gradient_checkpointing={is_on}", "train.kl_weight=0.01", "train.learning_rate=1e-6")
        made = Setting(small_recipe(*overrides, *VARIED), tmp_path / is_on, "float32")
        state = new_state(made.recipe, made.policy)
        metrics = train_iteration(made.recipe, state, made.book, made.rollouts, made.scores)
        found[is_on] = metrics, {n: p.detach().clone() for n, p in made.policy.model.named_parameters()}
    assert found["true"][0]["loss"] == pytest.approx(found["false"][0]["loss"], abs=1e-6)
    assert found["true"][0]["grad_norm/total"] == pytest.approx(found["false"][0]["grad_norm/total"], rel=1e-4)
    for name, weight in found["false"][1].items():
        assert float((found["true"][1][name] - weight).abs().max()) < 3e-6, name
