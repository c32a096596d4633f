"""Shared fixtures: small recipes, and one thread, because runs must repeat bit for bit."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest

SMALL = (
    "rollout.problems_per_iteration=4",
    "rollout.rollouts_per_problem=4",
    "rollout.problems_per_shard=2",
    "data.count=40",
    "train.iterations=3",
    "train.checkpoint_every=2",
    "train.trackers=[]",
    "teacher.top_k=20",
    "eval.count=12",
    "eval.samples=2",
    "eval.problems_per_shard=8",
    "eval.bootstrap_resamples=200",
)


@pytest.fixture(scope="session")
def recipes() -> Path:
    return Path(__file__).parents[1] / "recipes"


@pytest.fixture
def small_recipe(recipes):
    """tiny.yaml cut down to fractions of a second; `small_recipe("train.kl_weight=0.01")` changes more."""
    from ptdpo_cli.recipe import load_recipe

    def make(*overrides: str, name: str = "tiny.yaml"):
        return load_recipe(recipes / name, [*SMALL, *overrides])

    return make


@pytest.fixture(scope="session", autouse=True)
def single_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_progress_bars():
    """A signal that a test sends to its own process may cut a bar's lock in two; the next bar would wait for ever."""
    from transformers.utils import logging

    logging.disable_progress_bar()
