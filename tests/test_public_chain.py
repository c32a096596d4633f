"""Each public data set's fixture, in its public layout, goes through every stage with the tiny model."""

from __future__ import annotations

import pytest

from command import RECIPES, done
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.datasets.catalog import ADAPTERS
from public import write_mirror

STAGES = (
    "rollout.problems_per_iteration=2", "rollout.rollouts_per_problem=2", "rollout.max_new_tokens=8",
    "prompt.max_prompt_tokens=2048", "teacher.context=none", "teacher.top_k=8", "train.updates_per_iteration=1",
    "train.trackers=[]", "eval.samples=1", "eval.max_new_tokens=8", "eval.bootstrap_resamples=50",
)    # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_stage(name, tmp_path):
    card = ADAPTERS[name].CARD
    write_mirror(tmp_path / "mirror", name)
    settings = [word for setting in STAGES for word in ("--set", setting)]
    places = ("--run", tmp_path / "run", "--data-root", tmp_path / "mirror")
    recipe = ("--recipe", RECIPES / "tiny.yaml", *settings, *places, "-q")
    split = card.train or card.test
    training = (*recipe, "--data", name, "--set", f"data.split={split}")

    done("build-hints", *training)
    problems = Artifact.open(tmp_path / "run" / "problems")
    assert problems.manifest.counts["problems"] >= 2
    assert {row["source"] for row in problems.table("problems").to_pylist()}
    rollouts = done("rollout", *training).path
    scores = done("score-ref", *training).path
    policy = done("train", *training, "--rollouts", rollouts, "--scores", scores).path
    held_out = (*recipe, "--data", name, "--split", card.test or card.train)
    evals = Artifact.open(done("eval", *held_out, "--policy", policy).path)
    rows = evals.table("evals").to_pylist()
    assert len(rows) == 2 * evals.manifest.extra["summary"]["problems"]
    assert all(row["outcome"] in ("right", "wrong", "no_answer", "truncated") for row in rows)
