"""LoRA: an adapter on one copy of the base, the same bits by either road, saved as peft saves it, merged exactly."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import families
from command import done, flip, refused
from families import QWEN, contexts, plain_logprobs, prompts_of, responses
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import ArtifactError, UsageError
from ptdpo_cli.models.load import load_policy, weights_hash
from ptdpo_cli.models.lora import (
    AdapterSettings,
    adapter_off,
    add_adapter,
    load_adapter,
    merge,
    merged_state_dict,
    policy_hash,
    save_adapter,
)
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.merge_adapter import open_adapter
from ptdpo_cli.stages.train import run_loop
from ptdpo_cli.stages.train_state import load_state, new_state
from ptdpo_cli.stages.workspace import Workspace

FOUR = AdapterSettings(4, 8.0)
SETTINGS = (
    "prompt.instruction=''", "rollout.problems_per_iteration=4", "rollout.rollouts_per_problem=2",
    "rollout.problems_per_shard=2", "rollout.max_new_tokens=8", "teacher.top_k=10", "train.iterations=2",
    "train.learning_rate=1e-2", "train.kl_weight=0.01", "train.trackers=[]", "train.checkpoint_every=1",
    "eval.samples=1", "eval.max_new_tokens=8", "eval.bootstrap_resamples=50", "lora.rank=4", "lora.alpha=8",
)  # fmt: skip


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def logprobs(policy) -> torch.Tensor:
    """Of fixed responses to problems with none, one and three pictures."""
    pairs = zip(prompts_of(policy, contexts()), responses(policy, 4), strict=True)
    return torch.cat([plain_logprobs(policy, prompt, answer) for prompt, answer in pairs])


def adapted(family="qwen3_vl", settings=FOUR, *, moved=True, dtype="float32"):
    """A base and an adapter on it; `moved` as training would have moved it."""
    policy = add_adapter(load_policy(families.folder(family), dtype=dtype), settings, seed=1)
    if moved:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            for name, parameter in policy.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
    return policy


@pytest.fixture(scope="module", params=QWEN)
def trained(request, tmp_path_factory):
    """The same two iterations as a loop and as a chain of commands: family, both policies, the options."""
    where = tmp_path_factory.mktemp("lora")
    data, model = families.mixed_data(where), families.folder(request.param)
    options = ["--data", data, *words(*SETTINGS, f"model.path={model}")]
    loop = done("train", *options, "--run", where / "loop").path
    chain, path = [*options, "--run", where / "chain"], model
    done("build-hints", *chain)
    for _ in range(2):
        rollouts = done("rollout", *chain, "--policy", path).path
        scores = done("score-ref", *chain, "--rollouts", rollouts).path
        path = done("train", *chain, "--policy", path, "--rollouts", rollouts, "--scores", scores).path
    return request.param, loop, Path(path), options


def test_loop_and_chain_end_in_equal_bits(trained):
    _, loop, chain, _ = trained
    for name in ("adapter_model.safetensors", "trainer.safetensors", "adapter_config.json", "base.json"):
        assert (loop / name).read_bytes() == (chain / name).read_bytes(), name
    assert not (loop / "model.safetensors").exists()
    extra = [Artifact.open(path, kind="policy").manifest.extra for path in (loop, chain)]
    assert extra[0] == extra[1]


def test_the_policy_on_disk_is_the_one_that_was_in_memory(trained):
    family, loop, _, _ = trained
    base = load_policy(families.folder(family))
    policy = load_adapter(base, loop)
    extra = Artifact.open(loop, kind="policy").manifest.extra
    assert policy.hashes["weights"] == extra["weights"] != extra["base_weights"] == base.hashes["weights"]
    with adapter_off(policy):
        assert torch.equal(logprobs(policy), logprobs(load_policy(families.folder(family))))
    assert float((logprobs(policy) - logprobs(load_policy(families.folder(family)))).abs().max()) > 1e-4


def test_peft_opens_it(trained):
    from peft import PeftModel

    family, loop, _, _ = trained
    base = load_policy(families.folder(family))
    ours = logprobs(load_adapter(load_policy(families.folder(family)), loop))
    PeftModel.from_pretrained(base.model, loop)
    assert torch.equal(logprobs(base), ours)


def test_eval_and_a_longer_run_go_on_from_it(trained, tmp_path):
    """Resumed after two iterations it ends as three at once do, bit for bit."""
    _, loop, _, options = trained
    run = shutil.copytree(loop.parents[1], tmp_path / "run")
    longer = done("train", *options, "--run", run, *words("train.iterations=3")).path
    at_once = done("train", *options, "--run", tmp_path / "once", *words("train.iterations=3")).path
    for name in ("adapter_model.safetensors", "trainer.safetensors"):
        assert (longer / name).read_bytes() == (at_once / name).read_bytes()
    held_out = families.mixed_data(tmp_path, "held")
    evals = done("eval", "--run", run, "--data", held_out, "--policy", longer, "--json").json
    assert evals["counts"]["answers"] == 8


def test_merge_adapter_writes_a_model_that_says_the_same(trained, tmp_path):
    _, loop, _, _ = trained
    merged = done("merge-adapter", loop, "--run", tmp_path).path
    assert done("merge-adapter", loop, "--run", tmp_path).path == merged
    policy = open_adapter(loop)
    assert float((logprobs(load_policy(merged)) - logprobs(policy)).abs().max()) < 1e-5
    done("verify", merged)
    narrow = done("merge-adapter", loop, "--run", tmp_path, "--dtype", "bfloat16").path
    wide, rounded = load_policy(merged).model.state_dict(), load_policy(narrow, dtype="bfloat16").model.state_dict()
    assert wide.keys() == rounded.keys() and all(torch.equal(wide[n].bfloat16(), rounded[n]) for n in wide)
    assert json.loads((narrow / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_adapter_of_another_base_is_refused(trained, tmp_path):
    family, loop, _, options = trained
    other = next(one for one in QWEN if one != family)
    found = load_policy(families.folder(other)).hashes["weights"][:8]
    expected = load_policy(families.folder(family)).hashes["weights"][:8]
    says = ("belongs to another base", f"sha256 {expected}", f"sha256 {found}", "model.path=")
    wrong = words(f"model.path={families.folder(other)}")
    refused(3, "rollout", *options, *wrong, "--run", tmp_path / "run", "--policy", loop, says=says)
    refused(3, "merge-adapter", loop, "--base", families.folder(other), "--run", tmp_path, says=says)
    says = ("in another dtype", "float32", "bfloat16")
    refused(3, "rollout", *options, *words("model.dtype=bfloat16"), "--run", tmp_path, "--policy", loop, says=says)


def test_a_changed_byte_of_an_adapter_is_found(trained, tmp_path):
    _, loop, _, options = trained
    run = shutil.copytree(loop.parents[1], tmp_path / "run")
    policy = run / "policy" / loop.name
    flip(policy / "adapter_model.safetensors", 0.9)
    refused(3, "rollout", *options, "--run", run, "--policy", policy, says=("are damaged",))


# --- the adapter itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_new_adapter_is_its_base(family):
    base, policy = load_policy(families.folder(family)), adapted(family, moved=False)
    assert torch.equal(logprobs(policy), logprobs(base))
    assert policy_hash(policy) == base.hashes["weights"] == policy.base_weights
    moved = adapted(family)
    assert policy_hash(moved) not in (policy_hash(policy), weights_hash(moved.model))
    assert policy_hash(moved) == policy_hash(adapted(family))
    with adapter_off(moved):
        assert torch.equal(logprobs(moved), logprobs(base))


def test_the_seed_decides_a_new_adapter_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first = adapted(moved=False)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    again, other = adapted(moved=False), add_adapter(load_policy(families.folder("qwen3_vl")), FOUR, seed=2)
    name = "model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight"
    weights = [policy.model.get_parameter(name) for policy in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_only_the_adapter_is_trained_and_the_base_is_held_once(small_recipe, tmp_path):
    recipe = small_recipe("lora.rank=4")
    work = Workspace(recipe, tmp_path)
    policy = work.policy("tiny-base")
    state = new_state(recipe, policy)
    assert state.policy.model is work.reference.model
    assert state.masters and all(".lora_" in name and "language_model" in name for name in state.masters)
    n_base = sum(p.numel() for name, p in state.policy.model.named_parameters() if ".lora_" not in name)
    assert n_base == sum(p.numel() for p in load_policy("tiny-base").model.parameters())


def test_which_layers(small_recipe):
    few = adapted(settings=AdapterSettings(2, 4.0, ("q_proj", "v_proj")), moved=False)
    names = {name.partition(".lora_")[0] for name, p in few.model.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in names} == {"q_proj", "v_proj"} and len(names) == 4
    seen = adapted("qwen2_5_vl", AdapterSettings(2, 4.0, vision=True), moved=False)
    names = {name for name, p in seen.model.named_parameters() if p.requires_grad}
    assert any(".visual." in name for name in names) and any(".language_model." in name for name in names)
    assert not any("lm_head" in name for name in names)
    with pytest.raises(UsageError, match="does not have"):
        adapted(settings=AdapterSettings(2, 4.0, ("wq",)))
    with pytest.raises(UsageError, match="exclude each other"):
        new_state(small_recipe("lora.rank=2", "lora.vision=true", "train.freeze_vision=true"), load_policy("tiny-base"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_weights_have_the_base_s_names(dtype):
    policy = adapted("qwen2_5_vl", AdapterSettings(4, 8.0, vision=True), dtype=dtype)
    merged = {name: tensor.clone() for name, tensor in merged_state_dict(policy)}
    base = load_policy(families.folder("qwen2_5_vl"), dtype=dtype)
    plain = dict(merged_state_dict(base))
    assert merged.keys() == plain.keys() and torch.equal(merged["lm_head.weight"], base.model.lm_head.weight)    # tied
    assert all(merged[name].dtype == plain[name].dtype for name in plain)
    changed = {name for name in plain if not torch.equal(merged[name], plain[name])}
    assert any(".visual." in name for name in changed) and all(name.endswith(".weight") for name in changed)
    before = logprobs(policy)
    base.model.load_state_dict(merged, strict=False)
    after = logprobs(base)
    assert float((before - after).abs().max()) < (1e-5 if dtype == "float32" else 0.2)
    assert torch.equal(logprobs(merge(policy)), after)
    assert not any("lora" in name for name, _ in policy.model.named_modules())


def test_saved_and_loaded_it_is_the_same(tmp_path):
    policy = adapted()
    save_adapter(policy, tmp_path, base_path="somewhere")
    again = load_adapter(load_policy(families.folder("qwen3_vl")), tmp_path)
    assert again.hashes["weights"] == policy_hash(policy)
    assert torch.equal(logprobs(again), logprobs(policy))
    # A second adapter on the same base takes the place of the first.
    twice = load_adapter(again, tmp_path)
    assert twice.model is again.model and torch.equal(logprobs(twice), logprobs(policy))


@pytest.mark.parametrize(("change", "says"), [
    (lambda folder: (folder / "base.json").unlink(), "does not say which base"),
    (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "cannot read the adapter"),
    (lambda folder: edit(folder / "adapter_config.json", use_dora=True), "another kind"),
    (lambda folder: edit(folder / "adapter_config.json", r=8), "does not fit the base"),
])  # fmt: skip
def test_a_broken_adapter_is_refused(change, says, tmp_path):
    save_adapter(adapted(), tmp_path, base_path="somewhere")
    change(tmp_path)
    with pytest.raises(ArtifactError, match=says):
        load_adapter(load_policy(families.folder("qwen3_vl")), tmp_path)


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_an_adapter_where_a_model_is_needed(tmp_path):
    save_adapter(adapted(), tmp_path, base_path="somewhere")
    with pytest.raises(UsageError, match="is an adapter") as error:
        load_policy(tmp_path)
    assert "ptdpo merge-adapter" in str(error.value)
    refused(2, "merge-adapter", families.folder("qwen3_vl"), says=("is not an adapter",))
    refused(2, "merge-adapter", tmp_path, "--dtype", "int8", says=("unknown dtype",))


def test_training_goes_on_with_the_same_shape_only(trained):
    family, loop, _, _ = trained
    policy = load_adapter(load_policy(families.folder(family)), loop)
    for lora in ({"rank": 0}, {"rank": 8, "alpha": 8}, {"rank": 4, "alpha": 8, "modules": ["q_proj"]}):
        with pytest.raises(UsageError, match="another shape"):
            new_state(Recipe.model_validate({"lora": lora}), policy)
    state = load_state(Recipe.model_validate({"lora": {"rank": 4, "alpha": 8}}), policy)
    assert state.iteration == 2 and len(state.optimizer.state) == len(state.masters)


def test_a_new_adapter_needs_the_recipe_s_model(small_recipe):
    with pytest.raises(UsageError, match="a new adapter is trained on the recipe's model"):
        new_state(small_recipe("lora.rank=4"), load_policy(families.folder("qwen3_vl")))


def test_without_peft_the_extra_is_named(monkeypatch, small_recipe, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match="needs peft") as error:
        run_loop(Workspace(small_recipe("lora.rank=4"), tmp_path), None, force=False, warn=print, say=print)
    assert "ptdpo[peft]" in str(error.value)


def test_gradient_checkpointing_and_bfloat16_go_with_it(tmp_path):
    """The base in bfloat16, the adapter in float32: it is its own master."""
    data = families.mixed_data(tmp_path)
    settings = words(
        *SETTINGS, f"model.path={families.folder('qwen2_5_vl')}", "model.dtype=bfloat16",
        "train.gradient_checkpointing=true", "train.iterations=1",
    )  # fmt: skip
    path = done("train", "--data", data, "--run", tmp_path / "run", *settings).path
    assert json.loads((path / "base.json").read_text())["dtype"] == "bfloat16"
    from safetensors.torch import load_file

    assert {t.dtype for t in load_file(path / "adapter_model.safetensors").values()} == {torch.float32}
    assert not any(name.endswith(".master") for name in load_file(path / "trainer.safetensors"))
