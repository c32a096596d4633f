"""Every model family through the same doors: equal scores however rows are batched, every stage, clear refusals."""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import is_flash_attn_2_available

import families
from command import done, refused
from families import FAMILIES, QWEN, contexts, plain_logprobs, prompts_of, responses
from ptdpo_cli.engines import Request, Sampling
from ptdpo_cli.engines.hf import HfEngine
from ptdpo_cli.errors import PtdpoError, UsageError
from ptdpo_cli.models import support
from ptdpo_cli.models.inputs import build_batch
from ptdpo_cli.models.load import load_policy
from ptdpo_cli.models.logprobs import in_token_batches, response_hidden, response_logits, token_logprobs
from ptdpo_cli.stages.train_state import new_state

EQUAL = 1e-5


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request):
    return load_policy(families.folder(request.param))


def scores(policy, prompts, answers) -> list[torch.Tensor]:
    """Log-probs of each response, all rows in one padded batch."""
    batch = build_batch(policy.model, prompts, answers, pad_id=policy.tokenizer.pad_token_id)
    with torch.no_grad():
        hidden = response_hidden(policy.model, batch)
        logits = response_logits(policy.model, hidden, media_ids=policy.media_ids, temperature=1.0)
    return list(token_logprobs(logits, batch.response_ids_N).split([len(answer) for answer in answers]))


def apart(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def test_none_one_and_three_pictures_score_as_in_a_plain_forward_however_they_are_batched(policy):
    prompts, answers = prompts_of(policy, contexts()), responses(policy, 4)
    assert [p.n_image_tokens > 0 for p in prompts] == [False, True, True, True]
    plain = [plain_logprobs(policy, p, a) for p, a in zip(prompts, answers, strict=True)]
    assert apart(scores(policy, prompts, answers), plain) < EQUAL
    alone = [scores(policy, [p], [a])[0] for p, a in zip(prompts, answers, strict=True)]
    assert apart(alone, plain) < EQUAL
    order = [2, 0, 3, 1]
    permuted = scores(policy, [prompts[i] for i in order], [answers[i] for i in order])
    assert apart(permuted, [plain[i] for i in order]) < EQUAL
    # Two rows on one prompt share it, and are padded by a longer one between them.
    shared = scores(policy, [prompts[2], prompts[1], prompts[2]], [answers[0], answers[3], answers[1]])
    other = [plain_logprobs(policy, prompts[i], answers[j]) for i, j in ((2, 0), (1, 3), (2, 1))]
    assert apart(shared, other) < EQUAL


def test_every_picture_counts(policy):
    """Another picture in any of the three places gives other scores; so do the same pictures in another order."""
    answer, three = responses(policy, 2)[1], contexts()[2]
    (before,) = scores(policy, prompts_of(policy, [three]), [answer])
    for place in range(3):
        with Image.open(io.BytesIO(three.images[place])) as picture:
            changed = list(three.images)
            changed[place] = families.noise(picture.size, 99)
        (after,) = scores(policy, prompts_of(policy, [replace(three, images=tuple(changed))]), [answer])
        assert float((after - before).abs().max()) > 1e-4
    (turned,) = scores(policy, prompts_of(policy, [replace(three, images=three.images[::-1])]), [answer])
    assert float((turned - before).abs().max()) > 1e-4


def test_sampled_log_probs_are_those_of_a_plain_forward(policy):
    prompts = prompts_of(policy, contexts())
    samples = HfEngine(policy).sample([Request(p, i) for i, p in enumerate(prompts)], Sampling(9))
    for prompt, sample in zip(prompts, samples, strict=True):
        plain = plain_logprobs(policy, prompt, sample.token_ids_T)
        assert np.abs(plain.numpy() - sample.logprobs_T).max() < EQUAL
        assert not np.isin(sample.token_ids_T, policy.media_ids).any()


def test_eager_and_sdpa_agree(policy):
    eager = load_policy(policy.path, attention="eager")
    prompts, answers = prompts_of(policy, contexts()), responses(policy, 4)
    assert apart(scores(eager, prompts, answers), scores(policy, prompts, answers)) < EQUAL
    assert eager.hashes == policy.hashes


# --- gradient checkpointing -------------------------------------------------------------------------------------------


class Saved:
    """Counts what autograd keeps for the backward pass, in bytes."""

    def __init__(self):
        self.bytes = 0

    def keep(self, tensor):
        self.bytes += tensor.numel() * tensor.element_size()
        return tensor


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_gives_the_same_and_keeps_less(family):
    policy = load_policy(families.folder(family))
    prompts, answers = prompts_of(policy, contexts()), responses(policy, 4)
    rows = [0, 1, 1, 2, 3]
    batch = build_batch(
        policy.model, [prompts[i] for i in rows], [answers[i] for i in rows], pad_id=policy.tokenizer.pad_token_id
    )
    weights = torch.linspace(-1, 1, policy.model.config.get_text_config().hidden_size)
    found = {}
    for checkpointed in (False, True):
        policy.model.train()
        if checkpointed:
            policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.model.zero_grad()
        saved = Saved()
        with torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor):
            hidden = response_hidden(policy.model, batch)
        (hidden @ weights).mean().backward()
        gradients = {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
        found[checkpointed] = hidden.detach(), gradients, saved.bytes
    assert float((found[True][0] - found[False][0]).abs().max()) < 2e-6
    assert found[True][1].keys() == found[False][1].keys()
    for name, gradient in found[False][1].items():
        assert torch.allclose(found[True][1][name], gradient, rtol=1e-4, atol=1e-6), name
    print(f"{family}: kept {found[False][2] / 1e6:.1f} MB, with checkpointing {found[True][2] / 1e6:.1f} MB")
    assert found[True][2] < found[False][2] / 2


def test_rows_of_their_own_count_their_own_prompts():
    policy = load_policy(families.folder("qwen3_vl"))
    (prompt,) = prompts_of(policy, contexts()[1:2])
    n, rows = len(prompt), [prompt] * 4
    assert in_token_batches(rows, [5] * 4, n + 20) == [[0, 1, 2, 3]]
    assert in_token_batches(rows, [5] * 4, 2 * n + 10, shared=False) == [[0, 1], [2, 3]]


# --- every stage ------------------------------------------------------------------------------------------------------

SETTINGS = (
    "prompt.instruction=''", "rollout.problems_per_iteration=4", "rollout.rollouts_per_problem=2",
    "rollout.problems_per_shard=2", "rollout.max_new_tokens=8", "teacher.top_k=10", "train.iterations=2",
    "train.learning_rate=1e-3", "train.kl_weight=0.01", "train.trackers=[]", "eval.samples=1", "eval.max_new_tokens=8",
    "eval.bootstrap_resamples=50",
)  # fmt: skip


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_problems_through_every_stage(family, tmp_path):
    """Problems without a picture, with one and with three, each family; the loop ends in the chain's bits."""
    data, held_out = families.mixed_data(tmp_path), families.mixed_data(tmp_path, "held")
    model = families.folder(family)
    settings = words(*SETTINGS, f"model.path={model}", "train.checkpoint_every=1")
    policies = {}
    for road in ("chain", "loop"):
        mine = ("--data", data, "--run", tmp_path / road, *settings)
        if road == "loop":
            policies[road] = done("train", *mine).path
            continue
        path = model
        assert done("build-hints", *mine, "--json").json["counts"]["hints"] == 2
        for _ in range(2):
            rollouts = done("rollout", *mine, "--policy", path, "--json").json
            assert rollouts["counts"]["rollouts"] == 8 and rollouts["counts"]["skipped"] == 0
            scores = done("score-ref", *mine, "--rollouts", rollouts["path"], "--json").json
            assert scores["counts"]["gated"] == 4
            given = ("--rollouts", rollouts["path"], "--scores", scores["path"])
            update = done("train", *mine, "--policy", path, *given, "--json").json
            assert math.isfinite(update["metrics"]["loss"]) and update["metrics"]["grad_norm/distill"] > 0
            assert update["metrics"]["sampler_mismatch"] < EQUAL
            path = update["path"]
        policies[road] = Path(path)
    weights = {road: (path / "model.safetensors").read_bytes() for road, path in policies.items()}
    assert weights["chain"] == weights["loop"]
    evals = done("eval", "--run", tmp_path / "loop", "--data", held_out, "--json").json
    assert evals["counts"] == {"problems": 4, "answers": 8, "skipped": 0}
    config = json.loads((policies["loop"] / "processor_config.json").read_text())
    assert config["processor_class"] == {
        "qwen3_vl": "Qwen3VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor", "llava": "LlavaProcessor",
    }[family]  # fmt: skip


def test_the_saved_qwen2_5_processor_describes_itself_to_stock_autoprocessor_and_vllm():
    config = json.loads((Path(families.folder("qwen2_5_vl")) / "processor_config.json").read_text())
    assert config["processor_class"] == "Qwen2_5_VLProcessor"
    assert config["video_processor"]["video_processor_type"] == "Qwen2VLVideoProcessor"
    assert config["image_processor"]["image_processor_type"] == "Qwen2VLImageProcessor"


def test_windows_matter_in_the_qwen2_5_vision_tower():
    """The tiny one has ragged windows: with one window over everything its features are others."""
    policy = load_policy(families.folder("qwen2_5_vl"))
    prompts, answers = prompts_of(policy, contexts()[1:2]), responses(policy, 2)[:1]
    before = scores(policy, prompts, answers)
    policy.model.model.visual.window_size = 1024
    assert apart(scores(policy, prompts, answers), before) > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_vision_tower_has_no_gradient_and_no_optimizer_state(family, small_recipe):
    path = families.folder(family)
    recipe = small_recipe(f"model.path={path}", "train.freeze_vision=true", "train.max_grad_norm=1e9")
    state = new_state(recipe, load_policy(path))
    model, name = state.policy.model, support.vision_name(state.policy.model)
    tower = {f"model.{name}.{n}" for n, _ in getattr(model.model, name).named_parameters()}
    assert tower and not tower & state.masters.keys() and state.masters
    prompts, answers = prompts_of(state.policy, contexts()), responses(state.policy, 4)
    batch = build_batch(model, prompts, answers, pad_id=state.policy.tokenizer.pad_token_id)
    response_hidden(model, batch).sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == state.masters.keys() - _after_body(model)
    state.optimizer.step()
    assert sum(len(state.optimizer.state[p]) > 0 for p in state.masters.values()) == len(state.masters) - len(
        _after_body(model)
    )


def _after_body(model) -> set[str]:
    """Parameters that only the head uses: none where it is tied to the embedding."""
    return {name for name, _ in model.named_parameters() if name.startswith("lm_head")}


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_folder_without_processor_is_refused(tmp_path):
    shutil.copytree(families.folder("qwen3_vl"), tmp_path / "model")
    (tmp_path / "model" / "processor_config.json").unlink()
    says = ("has no processor", "processor_config.json", "AutoProcessor.from_pretrained")
    refused(2, "rollout", "--run", tmp_path / "run", *words(*SETTINGS, f"model.path={tmp_path / 'model'}"), says=says)
    shutil.copy(Path(families.folder("qwen3_vl")) / "processor_config.json", tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match="has no processor") as error:
        load_policy(tmp_path / "model")
    assert "chat template" in str(error.value)


def test_an_attention_that_is_not_there_names_what_to_install(tmp_path):
    if is_flash_attn_2_available():
        pytest.skip("flash-attn is installed here")
    says = ("flash-attn", "pip install flash-attn", "model.attention=sdpa")
    refused(2, "rollout", "--run", tmp_path, *words("model.attention=flash_attention_2"), says=says)
    refused(2, "rollout", "--run", tmp_path, *words("model.attention=flash"), says=("model.attention",))


def test_a_model_with_m_rope_but_no_positions_is_refused(monkeypatch):
    """Plain positions would run, and be wrong."""
    from transformers import Qwen3VLModel

    monkeypatch.delattr(Qwen3VLModel, "get_rope_index")
    with pytest.raises(UsageError, match="qwen3_vl are not supported") as error:
        load_policy(families.folder("qwen3_vl"))
    assert "silently wrong" in str(error.value)


def test_a_sliding_window_is_refused(tmp_path):
    folder = shutil.copytree(families.folder("llava"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    config["text_config"].pop("layer_types")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="llava are not supported") as error:
        load_policy(folder)
    assert "DynamicSlidingWindowLayer" in str(error.value)


def test_an_untested_model_must_agree_with_its_own_plain_forward(monkeypatch):
    """A head that does more than multiply is found at load, in float32 and in bfloat16."""
    from transformers import LlavaForConditionalGeneration

    forward = LlavaForConditionalGeneration.forward

    def scaled(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = 30 * torch.tanh(3 * output.logits / 30)
        return output

    load_policy(families.folder("llava"), dtype="bfloat16")
    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", scaled)
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(UsageError, match="llava are not supported") as error:
            load_policy(families.folder("llava"), dtype=dtype)
        assert "the same logits" in str(error.value)


@pytest.mark.parametrize("family", QWEN)
def test_the_tested_families_pass_the_probe_too(family, monkeypatch):
    monkeypatch.setattr(support, "TESTED", ())
    load_policy(families.folder(family))


def test_ddp_is_refused_where_parameters_may_lie_idle():
    """CLIP's last norm is used by no forward: DDP would leave the gradients in its bucket unsent, and say nothing."""
    from ptdpo_cli.models.parallel import Ranks, share

    policy = load_policy(families.folder("llava"))
    with pytest.raises(UsageError, match="llava are not supported with DDP") as error:
        share(policy, Ranks(0, 2), "ddp", lambda model, **_: model, master_weights=False)
    assert "distributed.strategy=fsdp2" in str(error.value)


# --- out of memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["rollout", "score-ref", "train", "eval"])
def test_running_out_of_memory_names_stage_batch_and_keys(stage, tmp_path, monkeypatch):
    """The second forward of the stage fails; the first shard stays."""
    mine = ("--data", families.mixed_data(tmp_path), "--run", tmp_path / "run", *words(*SETTINGS), *words(
        f"model.path={families.folder('qwen3_vl')}", "train.tokens_per_micro_batch=80", "eval.problems_per_shard=2",
        "rollout.problems_per_shard=1",
    ))  # fmt: skip
    given = {"rollout": [], "eval": ["--data", families.mixed_data(tmp_path, "held"), "--policy", families.folder(
        "qwen3_vl")]}  # fmt: skip
    if stage in ("score-ref", "train"):
        done("build-hints", *mine)
        given["score-ref"] = ["--rollouts", done("rollout", *mine).path]
    if stage == "train":
        given["train"] = [*given["score-ref"], "--scores", done("score-ref", *mine, *given["score-ref"]).path]
    import ptdpo_cli.engines.hf as hf
    import ptdpo_cli.models.logprobs as logprobs
    import ptdpo_cli.stages.update as update

    calls = []

    def fails_later(function):
        def forward(*args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return function(*args, **kwargs)

        return forward

    monkeypatch.setattr(hf, "read_prompts", fails_later(hf.read_prompts))
    monkeypatch.setattr(logprobs, "response_hidden", fails_later(logprobs.response_hidden))
    monkeypatch.setattr(update, "response_hidden", fails_later(update.response_hidden))
    keys = {
        "rollout": "rollout.problems_per_shard", "eval": "eval.problems_per_shard",
        "score-ref": "train.logits_per_chunk", "train": "train.tokens_per_micro_batch",
    }[stage]  # fmt: skip
    name = "the update" if stage == "train" else stage
    says = (f"out of memory in {name}", "rows ×", "padded tokens", "Tried to allocate 2.00 GiB", keys)
    refused(1, stage, *mine, *given[stage], says=says)
    if stage == "rollout":
        (unfinished,) = (tmp_path / "run" / "rollouts").glob("*.partial")
        assert len(list(unfinished.glob("shard-*.json"))) == 2
        monkeypatch.undo()
        done(stage, *mine)


def test_other_runtime_errors_are_left_alone():
    from ptdpo_cli.stages.memory import memory_for

    with pytest.raises(RuntimeError, match="shape"), memory_for("rollout", rows=1, tokens=2, keys="x"):
        raise RuntimeError("shape mismatch")
    with pytest.raises(PtdpoError, match="out of memory in rollout"), memory_for("rollout", rows=1, tokens=2, keys="x"):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")


def test_the_hub_s_older_layout_opens_as_well(tmp_path):
    """Published Qwen2.5-VL folders have preprocessor_config.json and the template in chat_template.json."""
    new, old = Path(families.folder("qwen2_5_vl")), tmp_path / "old"
    shutil.copytree(new, old)
    config = json.loads((old / "processor_config.json").read_text())
    (old / "processor_config.json").unlink()
    (old / "preprocessor_config.json").write_text(
        json.dumps(config["image_processor"] | {"processor_class": "Qwen2_5_VLProcessor"})
    )
    template = (old / "chat_template.jinja").read_text()
    (old / "chat_template.jinja").unlink()
    (old / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_policy(old).hashes == load_policy(new).hashes
