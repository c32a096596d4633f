"""Prompts that are too long: listed together and refused, or left out and counted; never cut."""

from __future__ import annotations

import pytest

import families
from command import done, jsonl, ptdpo, refused
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import UsageError
from ptdpo_cli.models.inputs import PromptsTooLong
from ptdpo_cli.models.load import load_policy
from ptdpo_cli.stages.contexts import PromptBook
from ptdpo_cli.stages.workspace import Workspace

SETTINGS = [word for setting in (
    "prompt.instruction=''", "prompt.max_prompt_tokens=150", "rollout.problems_per_iteration=6",
    "rollout.rollouts_per_problem=2", "rollout.problems_per_shard=2", "rollout.max_new_tokens=4", "teacher.top_k=10",
    "train.iterations=1", "train.kl_weight=0.01", "train.trackers=[]", "eval.samples=1", "eval.max_new_tokens=4",
    "eval.bootstrap_resamples=50",
) for word in ("--set", setting)]  # fmt: skip
SKIP = ["--set", "prompt.too_long=skip"]
FITS, LONG = "How many dots?", "How many " + "very " * 80 + "small dots?"
STEP = ["Look at the picture row by row."]


def data(where, name="mine", questions=(FITS, LONG, FITS, FITS, LONG, FITS), steps=None):
    steps = steps or [STEP] * len(questions)
    plain = {"images": [], "answer": "4", "solution": None, "regions": None}
    rows = ({"problem": q, "steps": s, **plain} for q, s in zip(questions, steps, strict=True))
    return jsonl(where / f"{name}.jsonl", *rows)


def options(where, *more) -> list:
    model = f"model.path={families.folder('qwen3_vl')}"
    return ["--data", data(where), "--run", where / "run", "--set", model, *SETTINGS, *more]


def test_refused_with_all_of_a_shard_listed(tmp_path):
    mine = options(tmp_path, "--set", "rollout.problems_per_shard=6")
    says = ("2 prompts are too long", "at most 150 tokens (prompt.max_prompt_tokens)", "mine/000002: ", "mine/000005: ",
            "prompt.too_long=skip", "never cut")  # fmt: skip
    refused(2, "rollout", *mine, says=says)
    refused(2, "rollout", *mine, "--dry-run", says=says)
    refused(2, "train", *mine, says=says)


def test_left_out_and_counted_in_every_stage(tmp_path):
    mine = options(tmp_path, *SKIP)
    done("build-hints", *mine)
    ended = ptdpo("rollout", *mine)
    assert ended.code == 0 and "2 problems left out: their prompts are too long" in ended.err
    rollouts = Artifact.open(ended.path, kind="rollouts")
    assert {name: rollouts.manifest.counts[name] for name in ("problems", "rollouts", "skipped")} == {
        "problems": 4, "rollouts": 8, "skipped": 2,
    }  # fmt: skip
    assert not {"mine/000002", "mine/000005"} & set(rollouts.table("rollouts").column("problem_id").to_pylist())
    scores = done("score-ref", *mine, "--rollouts", rollouts.path).path
    update = done("train", *mine, "--rollouts", rollouts.path, "--scores", scores, "--json").json
    assert update["metrics"]["prompts_skipped"] == 2
    policy = done("train", *mine).path
    evals = done("eval", *mine, "--data", data(tmp_path, "held"), "--policy", policy, "--json").json
    assert evals["counts"] == {"problems": 4, "answers": 8, "skipped": 2} and evals["summary"]["problems"] == 4
    done("rollout", *mine, "--dry-run")


def test_a_whole_shard_may_be_too_long(tmp_path):
    mine = options(tmp_path, *SKIP, "--set", "rollout.problems_per_shard=1")
    done("build-hints", *mine)
    rollouts = done("rollout", *mine).path
    assert Artifact.open(rollouts, kind="rollouts").shards() == 6
    done("verify", rollouts)
    scores = done("score-ref", *mine, "--rollouts", rollouts).path
    done("verify", scores)
    assert done("train", *mine, "--rollouts", rollouts, "--scores", scores, "--json").json["counts"]["updates"] == 1


def test_a_teacher_s_prompt_may_be_too_long_where_the_student_s_is_not(tmp_path):
    """With its hint it is over the limit: these rollouts get plain GRPO, and are counted."""
    places = ", ".join(f"{a}{b}" for a in "bdfgklm" for b in "aeiou")
    steps = [STEP, [f"Look beside {places}, then at the top."]]
    mine = options(tmp_path, *SKIP, "--set", "rollout.problems_per_iteration=2")
    mine[1] = data(tmp_path, "hinted", [FITS, FITS + " Say."], steps)
    done("build-hints", *mine)
    rollouts = done("rollout", *mine, "--json").json
    assert rollouts["counts"]["skipped"] == 0
    ended = ptdpo("score-ref", *mine, "--rollouts", rollouts["path"])
    assert "2 rollouts left out" in ended.err
    counts = Artifact.open(ended.path, kind="scores").manifest.counts
    assert (counts["rollouts"], counts["gated"], counts["skipped"]) == (4, 2, 2)
    mine[mine.index("prompt.too_long=skip")] = "prompt.too_long=refuse"     # the hint is, whatever the recipe says
    refusing = done("rollout", *mine).path
    scores = Artifact.open(done("score-ref", *mine, "--rollouts", refusing).path, kind="scores")
    assert scores.manifest.counts["skipped"] == 2


def test_nothing_left_is_an_error(tmp_path):
    mine = options(tmp_path, *SKIP)
    mine[1] = data(tmp_path, "long", [LONG] * 6)
    rollouts = done("rollout", *mine, "--set", "train.distill_weight=0", "--set", "train.kl_weight=0").path
    refused(2, "train", *mine, "--set", "train.distill_weight=0", "--set", "train.kl_weight=0", "--rollouts", rollouts,
            says=("nothing to train on",))  # fmt: skip
    held_out = data(tmp_path, "held", [LONG] * 2)
    refused(2, "eval", *mine, "--data", held_out, "--policy", families.folder("qwen3_vl"), says=("no answer",))


def test_room_for_the_response_within_the_model_s_positions(tmp_path, small_recipe):
    """2048 positions: the prompt and the longest response must fit together, whatever max_prompt_tokens says."""
    policy = load_policy("tiny-base")
    recipe = small_recipe("prompt.max_prompt_tokens=4096")
    problems = Workspace(recipe, tmp_path).problems
    from ptdpo_cli.artifacts.problems import read_problems

    rows = read_problems(problems)[:3]
    ids = [problem.problem_id for problem in rows]
    longest = max(len(prompt) for prompt in PromptBook(recipe, policy, rows).students(ids))
    PromptBook(recipe, policy, rows, max_new_tokens=2048 - longest).students(ids)
    with pytest.raises(PromptsTooLong) as error:
        PromptBook(recipe, policy, rows, max_new_tokens=2049 - longest).students(ids)
    assert f"the model's 2048 positions less {2049 - longest} new tokens" in str(error.value)
    with pytest.raises(UsageError, match="longer than the model's positions"):
        PromptBook(recipe, policy, rows, max_new_tokens=2048)


def test_a_long_list_is_cut_but_counted():
    error = PromptsTooLong({f"p{i}": 1000 + i for i in range(25)}, 100, limit="prompt.max_prompt_tokens")
    assert "25 prompts are too long" in str(error) and "p9: 1009 tokens, and 15 more" in str(error)
    assert "p10" not in str(error) and len(error.tokens) == 25
