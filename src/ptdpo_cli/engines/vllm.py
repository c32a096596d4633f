"""The vLLM engine: samples with an offline `LLM` in this process, on the weights of a policy held by the trainer.

It starts with the first request, from the policy's folder. What it samples from are the weights in memory: they are
loaded in place before the first request and before the first one after each `release()`, and then checked: a few
responses are sampled and their log-probs compared with the trainer's own forward. Prompts are handed over as text and
pictures; the token ids that vLLM made of them are read back and must be the prompt's. How a token is drawn and
recorded: `engines/vllm_worker.py`.

Shapes: T response tokens, C candidates of a token (itself, then the best ones), K top ids.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch

from ptdpo_cli.engines import Request, Sample, Sampling
from ptdpo_cli.errors import PtdpoError, UsageError
from ptdpo_cli.models.load import Policy, resolve
from ptdpo_cli.models.logprobs import response_logprobs
from ptdpo_cli.models.lora import merged_state_dict

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput

    from ptdpo_cli.recipe import Recipe

_PROBE_PROMPTS, _PROBE_TOKENS = 4, 16
# A model sure of its tokens gives them log-probs near 0 before an update and after it; at this temperature it is not.
_PROBE_TEMPERATURE = 3.0
# Mean |Δ log p| that two right implementations may differ by: rounding of their arithmetic, and some.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: it reads the policy's tensors directly
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # its logits processors have another interface
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # this process has threads and perhaps CUDA: a fork of it could hang
}
_NO_MEMORY = ("out of memory", "memory utilization", "cache blocks", "KV cache")
_LOWER = (
    "lower vllm.gpu_memory_utilization (what vLLM takes) or vllm.max_num_seqs, "
    "or raise vllm.tensor_parallel; finished shards stay"
)


class VllmEngine:
    """Samples from a policy's weights with vLLM."""

    def __init__(self, recipe: Recipe, policy: Policy):
        self.policy = policy
        # An adapter's folder holds no model; its base's does, and the weights come from memory anyway.
        self.folder = policy.path if policy.adapter is None else recipe.model.path
        self.settings = recipe.vllm
        self._n_peers = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's
        if self._n_peers > 1 and self.settings.tensor_parallel > 1:
            raise UsageError(
                "vllm.tensor_parallel above 1 among several processes: each would want the others' cards",
                hint="`--set vllm.tensor_parallel=1`, or a single process",
            )
        # In processes of its own: several workers, or one beside a process group of the trainer's.
        self._is_apart = self.settings.tensor_parallel > 1 or self._n_peers > 1
        self.trust_remote_code = recipe.model.trust_remote_code
        self.max_logprobs = recipe.teacher.top_k + 1
        longest = max(recipe.rollout.max_new_tokens, recipe.eval.max_new_tokens)
        self.max_model_len = min(recipe.prompt.max_prompt_tokens + longest, _limit(policy))
        self.tokens_per_batch = recipe.train.tokens_per_micro_batch
        self.logits_per_chunk = recipe.train.logits_per_chunk
        self._llm: LLM | None = None
        self._links: tempfile.TemporaryDirectory | None = None
        self._has_weights = False
        self._is_asleep = False

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        """One sample per request, in order.

        Errors: UsageError for a prompt that leaves no room or holds too many pictures; PtdpoError when vLLM reads
        another prompt than the trainer, when the log-probs of the probe differ, and when vLLM fails.
        """
        self._refuse_too_large(requests, sampling)
        if self._llm is None:
            with _explained("could not start"):
                self._llm = self._start()
        if not self._has_weights:
            with _explained("could not take the policy's weights"):
                self._load_weights()
            self._probe(requests)
            self._has_weights = True
        return self._generate(requests, sampling)

    def release(self) -> None:
        """The policy may change now: give GPU memory back, and load the weights again before the next request."""
        self._has_weights = False
        if self._llm is not None and self._sleeps and not self._is_asleep:
            self._llm.sleep(level=2)  # weights and cache are dropped: both are made anew
            self._is_asleep = True

    @property
    def _sleeps(self) -> bool:
        return self.settings.sleep and torch.cuda.is_available()

    def _start(self) -> LLM:
        require_vllm()
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import LLM

        settings = self.settings
        cache_gib = settings.kv_cache_gib or (None if torch.cuda.is_available() else 1.0)
        with _own_card(self._n_peers):
            return LLM(
                model=self._model_folder(),
                dtype=_dtype(self.policy),
                trust_remote_code=self.trust_remote_code,
                generation_config="vllm",
                seed=0,
                max_model_len=self.max_model_len,
                max_num_seqs=settings.max_num_seqs,
                max_num_batched_tokens=max(settings.max_num_batched_tokens, self.max_model_len),
                limit_mm_per_prompt={"image": settings.max_images, "video": 0},
                tensor_parallel_size=settings.tensor_parallel,
                distributed_executor_backend="mp" if self._is_apart else None,
                gpu_memory_utilization=settings.gpu_memory_utilization,
                kv_cache_memory_bytes=None if cache_gib is None else int(cache_gib * 2**30),
                enforce_eager=settings.enforce_eager,
                # A prompt read from the cache is rounded otherwise than one read whole: off, order changes nothing.
                enable_prefix_caching=settings.prefix_caching,
                enable_sleep_mode=self._sleeps,
                max_logprobs=self.max_logprobs,
                logprobs_mode="processed_logits",
                logits_processors=["ptdpo_cli.engines.vllm_worker:DrawToken"],
                worker_extension_cls="ptdpo_cli.engines.vllm_worker.FolderWeights",
                disable_log_stats=True,
                use_tqdm_on_load=False,
            )

    def _model_folder(self) -> str:
        """The policy's folder or hub id; vLLM reads every .safetensors there is, so the trainer's is left out."""
        path = resolve(self.folder)
        if not (Path(path) / "trainer.safetensors").is_file():
            return path
        self._links = tempfile.TemporaryDirectory(prefix="ptdpo-vllm-")
        for file in Path(path).resolve().iterdir():
            if file.name != "trainer.safetensors":
                (Path(self._links.name) / file.name).symlink_to(file)
        return self._links.name

    def _load_weights(self) -> None:
        llm = self._llm
        if self._is_asleep:
            llm.wake_up()
            self._is_asleep = False
        # With a tied head under both its names: reloading, vLLM keeps the old one where it is not named.
        weights = dict(merged_state_dict(self.policy))
        if not self._is_apart:
            llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        else:  # the workers are other processes
            shared_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
            with tempfile.TemporaryDirectory(dir=shared_memory, prefix="ptdpo-vllm-") as folder:
                copies = {name: tensor.cpu().clone() for name, tensor in weights.items()}
                safetensors.torch.save_file(copies, Path(folder) / "model.safetensors")
                llm.collective_rpc("reload_from", args=(folder,))
        # What it remembers of pictures and prompts was made with the old weights, and its halves must forget together.
        llm.llm_engine.reset_encoder_cache()
        llm.reset_mm_cache()
        llm.reset_prefix_cache()

    def _probe(self, requests: Sequence[Request]) -> None:
        """Sample a few short responses and let the trainer score them: do both have the same weights and read alike?"""
        distinct = {id(r.prompt): r for r in requests}
        chosen = list(distinct.values())[:_PROBE_PROMPTS]
        samples = self._generate(chosen, Sampling(_PROBE_TOKENS, _PROBE_TEMPERATURE))
        trainer = response_logprobs(
            self.policy,
            [r.prompt for r in chosen],
            [s.token_ids_T for s in samples],
            temperature=_PROBE_TEMPERATURE,
            tokens_per_batch=self.tokens_per_batch,
            logits_per_chunk=self.logits_per_chunk,
        )
        sampler = [s.logprobs_T for s in samples]
        difference = float(np.abs(np.concatenate(sampler) - np.concatenate(trainer)).mean())
        tolerance = self.settings.probe_tolerance or _TOLERANCE.get(_dtype(self.policy), 0.05)
        if not difference <= tolerance:
            raise PtdpoError(
                "vLLM and the trainer give one response different log-probs: the policy's weights did not arrive in "
                "vLLM, or it computes this model otherwise",
                expected=f"a mean difference of at most {tolerance:g} nats over {sum(map(len, sampler))} tokens "
                "(vllm.probe_tolerance)",
                found=f"{difference:.3g}",
                hint="`ptdpo doctor` compares the two in detail; sample without vLLM with `--set rollout.engine=hf`",
            )

    def _generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        from vllm import SamplingParams

        from ptdpo_cli.engines.vllm_worker import request_settings

        media_ids, vocabulary = self.policy.media_ids, self.policy.model.config.get_text_config().vocab_size
        k = min(sampling.top_ids, vocabulary - len(media_ids))
        prompts = [_handed_over(request) for request in requests]
        params = [
            SamplingParams(
                temperature=0,  # the token is drawn in the logits processor
                max_tokens=sampling.max_new_tokens,
                logprobs=k + 1 if k else 0,  # the drawn token stands before the best one
                flat_logprobs=True,
                stop_token_ids=self.policy.eos_ids,
                ignore_eos=True,
                detokenize=False,
                extra_args=request_settings(sampling, request.seed, media_ids),
            )
            for request in requests
        ]
        with _explained(f"failed while sampling {len(requests)} responses"):
            outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return [self._read(request, output, k, sampling) for request, output in zip(requests, outputs, strict=True)]

    def _read(self, request: Request, output: RequestOutput, k: int, sampling: Sampling) -> Sample:
        require_same_prompt(request, output.prompt_token_ids)
        answer = output.outputs[0]
        token_ids_T = np.array(answer.token_ids, np.int32)
        ids_TC, marked_TC = (
            np.array(values).reshape(len(token_ids_T), -1)
            for values in (answer.logprobs.token_ids, answer.logprobs.logprobs)
        )
        logprobs_TC = -np.abs(marked_TC.astype(np.float32))
        is_marked = (ids_TC[:, 0] == token_ids_T) & (marked_TC[:, 0] >= 0) & np.isfinite(marked_TC[:, 0])
        if not is_marked.all():
            raise PtdpoError(
                f"problem {request.prompt.problem_id}: vLLM returned a token that was not drawn as asked",
                expected="finite log-probs of the tokens drawn by ptdpo_cli.engines.vllm_worker",
                found=f"{marked_TC[~is_marked][0, 0]} for token {token_ids_T[~is_marked][0]}",
                hint="the weights hold NaN or inf, or this vLLM handles logits processors otherwise; "
                "sample without it with `--set rollout.engine=hf`",
            )
        best_TK = np.argsort(-logprobs_TC[:, 1:], 1, kind="stable")[:, :k]
        top_ids_TK = np.take_along_axis(ids_TC[:, 1:], best_TK, 1).astype(np.int32)
        ended = int(token_ids_T[-1]) in self.policy.eos_ids
        if not ended and len(token_ids_T) < sampling.max_new_tokens:
            raise PtdpoError(
                f"problem {request.prompt.problem_id}: vLLM cut a response short",
                expected=f"an end token or {sampling.max_new_tokens} tokens",
                found=f"{len(token_ids_T)} tokens ({answer.finish_reason})",
                hint="sample without vLLM with `--set rollout.engine=hf`",
            )
        return Sample(token_ids_T, logprobs_TC[:, 0], top_ids_TK, "stop" if ended else "length")

    def _refuse_too_large(self, requests: Sequence[Request], sampling: Sampling) -> None:
        for prompt in (r.prompt for r in requests):
            if len(prompt) + sampling.max_new_tokens > self.max_model_len:
                raise UsageError(
                    f"problem {prompt.problem_id}: prompt and response do not fit into the model",
                    expected=f"at most {self.max_model_len} tokens",
                    found=f"{len(prompt)} + {sampling.max_new_tokens}",
                    hint="lower rollout.max_new_tokens (and eval.max_new_tokens), or leave the problem out",
                )
            if len(prompt.images) > self.settings.max_images:
                raise UsageError(
                    f"problem {prompt.problem_id} has more pictures than vLLM was started for",
                    expected=f"at most {self.settings.max_images} (vllm.max_images)",
                    found=len(prompt.images),
                    hint=f"`--set vllm.max_images={len(prompt.images)}`",
                )
        if sampling.top_ids >= self.max_logprobs:
            raise UsageError(
                "more top ids than vLLM was started for",
                expected=f"at most {self.max_logprobs - 1} (teacher.top_k)",
                found=sampling.top_ids,
                hint="raise teacher.top_k",
            )


def require_vllm() -> None:
    """Refuse an engine that is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "the engine vllm is not installed",
            hint="pip install 'ptdpo[vllm]', or sample without it: `--set rollout.engine=hf`",
        )


def require_same_prompt(request: Request, token_ids: Sequence[int]) -> None:
    """Refuse a sample whose prompt vLLM read otherwise than the trainer will."""
    wanted = request.prompt.token_ids_L.tolist()
    if list(token_ids) != wanted:
        first = next((i for i, (a, b) in enumerate(zip(wanted, token_ids, strict=False)) if a != b), len(wanted))
        raise PtdpoError(
            f"problem {request.prompt.problem_id}: vLLM reads another prompt than the trainer",
            expected=f"{len(wanted)} tokens",
            found=f"{len(token_ids)} tokens, different from token {first} on",
            hint="the processor in the model's folder differs from the one in use (pixel limits, chat template, "
            "tokenizer), or vLLM expands image tokens otherwise; `ptdpo doctor` looks closer",
        )


def _handed_over(request: Request) -> dict:
    prompt = request.prompt
    pictures = {"multi_modal_data": {"image": list(prompt.images)}} if prompt.images else {}
    return {"prompt": prompt.text, **pictures}


def _dtype(policy: Policy) -> str:
    return str(policy.model.dtype).removeprefix("torch.")


def _limit(policy: Policy) -> int:
    return policy.model.config.get_text_config().max_position_embeddings


@contextlib.contextmanager
def _own_card(n_peers: int) -> Iterator[None]:
    """Among several processes, each with a card, the worker that is started here sees this one's alone."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if n_peers > 1 and torch.cuda.is_available():
        cards = before.split(",") if before else [str(n) for n in range(torch.cuda.device_count())]
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[torch.cuda.current_device()]
    try:
        yield
    finally:
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        else:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """vLLM's own errors in our words; a worker that died and a GPU that is full are told apart."""
    try:
        yield
    except PtdpoError:
        raise
    except Exception as error:
        name, message = type(error).__name__, " ".join(str(error).split())[:300]
        hint = "vLLM's own messages: `VLLM_LOGGING_LEVEL=INFO`; sample without it: `--set rollout.engine=hf`"
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_MEMORY):
            what, hint = f"{what}: out of memory", _LOWER
        elif name == "EngineDeadError" or "Executor failed" in message:
            hint = f"a worker process died; run the same command again, finished shards stay. {hint}"
        raise PtdpoError(f"vLLM {what}", found=f"{name}: {message}", hint=hint) from error
