"""estimate: from config.json alone, within 20 % of what real runs of small models used; and every shipped recipe."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from command import TINY, done, refused
from ptdpo_cli.engines.hf import HfEngine
from ptdpo_cli.models.load import TINY_BASE
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.estimate import estimate, geometry, lengths_of, worst_lengths
from ptdpo_cli.stages.rollout import make_rollouts, plan_rollout
from ptdpo_cli.stages.score_ref import make_scores, plan_score_ref
from ptdpo_cli.stages.train import plan_policy, train_iteration
from ptdpo_cli.stages.train_state import load_state, save_policy
from ptdpo_cli.stages.workspace import Workspace
from public import write_mirror

CONFIGS = Path(__file__).parent / "configs"     # nothing but the published architectures, as config.json
SIZES = {"qwen3-vl-2b": 2.13, "qwen3-vl-4b": 4.44, "qwen3-vl-8b": 8.77}     # billions, as published
SHIPPED = {
    "tiny.yaml": None, "baselines/tiny-grpo.yaml": None,
    "2b.yaml": "qwen3-vl-2b", "4b.yaml": "qwen3-vl-4b", "8b.yaml": "qwen3-vl-8b", "lora-2b-1gpu.yaml": "qwen3-vl-2b",
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_those_of_the_published_models(name):
    found = geometry(str(CONFIGS / name))
    assert found.parameters / 1e9 == pytest.approx(SIZES[name], abs=0.005)
    assert found.parameters == found.text_parameters + found.vision_parameters + found.embedding_parameters


# --- against what runs use --------------------------------------------------------------------------------------------


class PeakBytes(TorchDispatchMode):
    """The most bytes of tensors that lived at once: those held all the time, and every result of an operation."""

    def __init__(self, held):
        super().__init__()
        self.live: set[int] = set()
        self.now = self.peak = 0
        for tensor in held:
            self.see(tensor)

    def see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.live:
            self.live.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())

    def forget(self, storage: int, n_bytes: int) -> None:
        self.live.discard(storage)
        self.now -= n_bytes

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        return result


def random_model(folder: Path, text: dict, vision: dict) -> Path:
    """A model of other sizes than the shipped one, with random weights and the shipped tokenizer and processor."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    shutil.copytree(TINY_BASE, folder, ignore=shutil.ignore_patterns("manifest.json", "model.safetensors"))
    tree = json.loads((folder / "config.json").read_text())
    tree["text_config"].update(text)
    tree["vision_config"].update(vision)
    (folder / "config.json").write_text(json.dumps(tree))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


WIDE = {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 8, "num_key_value_heads": 4}
MEASURED = {
    # several micro-batches, keys and values shared by heads
    "wide": (WIDE, {"out_hidden_size": 256}, ["train.tokens_per_micro_batch=2000"]),
    "bfloat16": (WIDE, {"out_hidden_size": 256}, ["train.tokens_per_micro_batch=2000", "model.dtype=bfloat16"]),
    # logits in several chunks, the KL term, frozen vision
    "vocabulary": ({"vocab_size": 8192}, {}, [
        "train.tokens_per_micro_batch=2000", "train.logits_per_chunk=1000000", "train.kl_weight=0.01"]),
    # a prompt per row and layers computed again; an adapter, and one copy of the model
    "checkpointing": (WIDE, {"out_hidden_size": 256}, [
        "train.tokens_per_micro_batch=2000", "train.gradient_checkpointing=true"]),
    "lora": (WIDE, {"out_hidden_size": 256}, ["train.tokens_per_micro_batch=2000", "lora.rank=8"]),
    # all in one micro-batch, a step after the other
    "frozen vision": ({}, {}, ["train.updates_per_iteration=2", "train.freeze_vision=true"]),
}


@pytest.fixture(scope="module", params=MEASURED)
def measured(request, tmp_path_factory, recipes):
    """(recipe, what an iteration of it used, its run): peak bytes, FLOPs and bytes on disk by phase or kind."""
    text, vision, settings = MEASURED[request.param]
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    model = random_model(folder / "model", text, vision)
    small = ["data.count=40", "teacher.top_k=20", "rollout.problems_per_iteration=8", "train.updates_per_iteration=1",
             "rollout.max_new_tokens=48", "train.trackers=[]", f"model.path={model}"]
    recipe = load_recipe(recipes / "tiny.yaml", [*small, *settings])
    work = Workspace(recipe, folder / "run")
    policy, reference = work.policy(model), work.reference
    hints = work.hints(make=True)
    book = work.book(policy, work.problems, hints)
    peaks, flops = {}, {}

    def run(phase: str, held, function):
        """Twice, for the counter holds on to tensors. It sees nothing of sdpa's kernels for CPUs."""
        with PeakBytes(held) as memory:
            function()
        with FlopCounterMode(display=False) as counter:
            result = function()
        peaks[phase], flops[phase] = memory.peak, counter.get_total_flops()
        return result

    plan = plan_rollout(recipe, work.run, work.problems, policy.hashes)
    held = list(policy.model.parameters())
    rollouts = run("rollout", held, lambda: make_rollouts(recipe, plan, book, HfEngine(policy), policy, force=True))
    plan = plan_score_ref(recipe, work.run, rollouts, hints, reference)
    held = list(reference.model.parameters())
    scores = run("score_ref", held, lambda: make_scores(recipe, plan, book, reference, rollouts, force=True))
    state = load_state(recipe, policy)
    train_iteration(recipe, state, book, rollouts, scores)  # the optimizer's moments are there from the second one on
    moments = (value for parts in state.optimizer.state.values() for value in parts.values())
    held = [*state.policy.model.parameters(), *state.masters.values(), *moments]
    run("update", held, lambda: train_iteration(recipe, state, book, rollouts, scores))
    saved = save_policy(plan_policy(recipe, work.run, policy.hashes, work.problems, hints, 1), state)
    kinds = {"rollouts": rollouts, "scores": scores, "policy": saved, "problems": work.problems}
    disk = {kind: sum(file.stat().st_size for file in one.path.iterdir()) for kind, one in kinds.items()}
    return recipe, {"peaks": peaks, "flops": flops, "disk": disk}, work.run


def test_within_a_fifth_of_what_a_run_used(measured):
    recipe, used, run = measured
    found = estimate(recipe, lengths=lengths_of(run, recipe))
    memory = found["memory_bytes"]
    expected = {
        "memory of rollout": (memory["weights"] + memory["in_rollout"], used["peaks"]["rollout"]),
        "memory of score-ref": (memory["weights"] + memory["in_score_ref"], used["peaks"]["score_ref"]),
        "memory of update": (
            memory["always"] - memory["reference"] + memory["in_update"],
            used["peaks"]["update"],
        ),
        **{f"FLOPs of {phase}": (found["flops"][phase], n) for phase, n in used["flops"].items()},
        **{f"bytes of {kind}": (found["disk_bytes"][kind], n) for kind, n in used["disk"].items()},
    }
    ratios = {name: round(ours / theirs, 2) for name, (ours, theirs) in expected.items()}
    print(ratios)
    assert all(0.8 < ratio < 1.2 for ratio in ratios.values()), ratios


def test_the_worst_is_worse_than_what_a_run_used(measured):
    recipe, used, _ = measured
    found = estimate(recipe)
    memory = found["memory_bytes"]
    assert 1.2 * (memory["always"] + memory["in_update"]) > used["peaks"]["update"]
    assert all(found["flops"][phase] > n for phase, n in used["flops"].items())
    assert all(found["disk_bytes"][kind] > n for kind, n in used["disk"].items() if kind in ("rollouts", "scores"))


def test_attention_counts(tmp_path, recipes):
    """With eager attention nothing escapes the counter: long prompts against short ones, FLOPs to 2 %."""
    from ptdpo_cli.models.inputs import Context, build_batch, build_prompts
    from ptdpo_cli.models.load import load_policy
    from ptdpo_cli.models.logprobs import response_hidden
    from ptdpo_cli.stages.estimate import _prompt_flops, _response_flops

    policy = load_policy("tiny-base", attention="eager")
    sizes = geometry("tiny-base")
    response = torch.arange(70, 170).int().numpy()
    contexts = [Context("p", "Where is it? " * 40)]
    (prompt,) = build_prompts(policy, contexts, instruction="", max_tokens=2000, max_pixels=10**6)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        response_hidden(policy.model, build_batch(policy.model, [prompt], [response], pad_id=0))
    ours = _prompt_flops(sizes, len(prompt), 0) + _response_flops(sizes, len(prompt), len(response))
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


# --- recipes and the command ------------------------------------------------------------------------------------------


def test_every_shipped_recipe_is_here(recipes):
    assert {str(p.relative_to(recipes)) for p in recipes.rglob("*.yaml")} - {"tiny-base.yaml"} == set(SHIPPED)


def shipped(name: str, recipes: Path):
    """A recipe with its model's config in place of its model."""
    overrides = [f"model.path={CONFIGS / SHIPPED[name]}"] if SHIPPED[name] else []
    return load_recipe(recipes / name, overrides)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_can_be_estimated(name, recipes):
    recipe = shipped(name, recipes)
    one, eight = estimate(recipe, gpus=1), estimate(recipe, gpus=8)
    for found in (one, eight):
        memory = found["memory_bytes"]
        assert 0 < memory["always"] < memory["peak"] and found["disk_bytes"]["total"] > 0
        assert memory["peak"] - memory["always"] == max(memory[f"in_{p}"] for p in ("rollout", "score_ref", "update"))
    assert eight["flops"] == one["flops"] and one["strategy"] == "none" != eight["strategy"]
    if eight["strategy"] == "fsdp2":
        assert eight["memory_bytes"]["optimizer"] == pytest.approx(one["memory_bytes"]["optimizer"] / 8, abs=1)


def test_the_larger_recipes_train_where_they_say(recipes):
    """On GPUs of 80 GB and of 24 GB, with a tenth to spare for what is not estimated; vLLM sleeps during the update."""
    for name in ("2b.yaml", "4b.yaml", "8b.yaml"):
        memory = estimate(shipped(name, recipes))["memory_bytes"]
        assert memory["peak"] < 0.9 * 80e9 and memory["vllm_sleeps"], name
        assert memory["always"] + memory["vllm_share"] * 80e9 < 80e9, name
    assert estimate(shipped("lora-2b-1gpu.yaml", recipes))["memory_bytes"]["peak"] < 0.9 * 24e9


def test_what_the_paper_says_is_what_the_recipes_say(recipes):
    for name, weight in (("2b.yaml", 0.05), ("4b.yaml", 0.5), ("8b.yaml", 0.05)):
        recipe = load_recipe(recipes / name)
        train, rollout = recipe.train, recipe.rollout
        assert train.distill_weight == weight and train.kl_weight == 0.01 and train.learning_rate == 1e-6
        assert rollout.problems_per_iteration // train.updates_per_iteration == 128
        assert train.iterations * rollout.problems_per_iteration == pytest.approx(2 * 38_870, rel=0.01)
        assert (rollout.rollouts_per_problem, rollout.max_new_tokens, rollout.top_p) == (8, 4096, 0.99)
        assert recipe.teacher.top_k == 100 and recipe.teacher.max_group_accuracy == 1.0


def test_the_command(tmp_path):
    tiny = ("estimate", *TINY)
    told = done(*tiny, "--gpus", 8, "--tflops", 0.2).out
    assert "1.24 M parameters" in told and "8 GPUs" in told and "peak, in update" in told
    found = done(*tiny, "--json", "--tflops", 2).json
    assert found["seconds"] == pytest.approx(found["flops"]["total"] / 2e12)
    assert found["lengths"]["source"] == worst_lengths(load_recipe(None)).source
    done("rollout", *TINY, "--run", tmp_path / "run", "-q")
    shorter = done(*tiny, "--json", "--lengths", tmp_path / "run").json
    assert shorter["tokens"]["response"] < found["tokens"]["response"]


def test_what_it_refuses(tmp_path):
    unknown = ("estimate", *TINY, "--set", "model.path=nobody/nothing")
    refused(2, *unknown, says=("no config of a vision-language model at nobody/nothing", "config.json --local-dir"))
    refused(2, "estimate", *TINY, "--lengths", tmp_path, says=("no rollouts", "ptdpo rollout --limit 16"))


def test_the_larger_recipes_name_data_that_has_to_be_fetched(recipes, tmp_path):
    """The error for it is the ordinary one, and it comes before any model is loaded; a local copy is counted."""
    command = ("build-hints", "--recipe", recipes / "2b.yaml", "--dry-run")
    refused(2, *command, says=("virl39k is not on this machine", "hf download TIGER-Lab/ViRL39K"))
    copy = write_mirror(tmp_path, "virl39k")
    recipe = load_recipe(recipes / "2b.yaml", [f"data.root={tmp_path}", "model.path=tiny-base"])
    counted = estimate(recipe, lengths=worst_lengths(recipe, 100))["disk_bytes"]["problems"]
    assert counted == sum(file.stat().st_size for file in copy.rglob("*") if file.is_file()) > 0
