"""Sampling behind one small protocol: an engine turns requests into samples.

Every request carries its own seed, so that a sample depends on what it is for and never on its neighbours' draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ptdpo_cli.models.inputs import Prompt

if TYPE_CHECKING:
    from ptdpo_cli.models.load import Policy
    from ptdpo_cli.recipe import Recipe


@dataclass(frozen=True)
class Request:
    """One response wanted for one prompt."""

    prompt: Prompt
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; temperature 0 is greedy. `top_ids` is K of the recorded top-K ids (0: none)."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_ids: int = 0


@dataclass(frozen=True)
class Sample:
    """A response of T tokens, its end token included when it ended by itself."""

    token_ids_T: np.ndarray  # int32
    logprobs_T: np.ndarray  # float32, of the full softmax at the temperature, vision tokens masked
    top_ids_TK: np.ndarray  # int32, best first
    finish_reason: str  # "stop" or "length"


class Engine(Protocol):
    """Draws one sample per request, in order, from a policy in memory."""

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]: ...

    def release(self) -> None:
        """Sampling is over for now and the policy may change; the next sample is from the policy as it is then."""
        ...


def open_engine(recipe: Recipe, policy: Policy) -> Engine:
    """The engine that `rollout.engine` names, sampling from this policy.

    Errors: UsageError when it is not installed.
    """
    if recipe.rollout.engine == "vllm":
        from ptdpo_cli.engines.vllm import VllmEngine

        return VllmEngine(recipe, policy)
    from ptdpo_cli.engines.hf import HfEngine

    return HfEngine(policy)


def draw_seed(*purpose: object) -> int:
    """A 63-bit seed named by what it is for, such as (seed, "rollout", iteration, problem_id, rollout)."""
    digest = hashlib.sha256("\x1f".join(map(str, purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
