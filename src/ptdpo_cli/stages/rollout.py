"""rollout: G samples per problem from the current policy, which sees the question and the pictures and never a hint.

Reads the problems and a policy; writes token ids, sampler log-probs and top-K ids, text, and a verdict on each sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ptdpo_cli.artifacts.parts import Part
from ptdpo_cli.artifacts.schemas import ROLLOUTS
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.artifacts.tensors import offsets_of, split
from ptdpo_cli.engines import Engine, Request, Sample, Sampling, draw_seed
from ptdpo_cli.errors import PtdpoError
from ptdpo_cli.models.load import Policy
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.contexts import PromptBook
from ptdpo_cli.stages.grading import graded
from ptdpo_cli.stages.memory import sample_within_memory
from ptdpo_cli.stages.plan import Plan, Progress, no_progress
from ptdpo_cli.stages.quoting import Quoting, costs_of, open_quoting, reward_section

_MEMORY_KEYS = "rollout.problems_per_shard, rollout.rollouts_per_problem or rollout.max_new_tokens"


@dataclass(frozen=True)
class Rollout:
    """One sampled response and its verdict."""

    rollout_id: str
    problem_id: str
    token_ids_T: np.ndarray
    sampler_logprobs_T: np.ndarray
    sampler_top_ids_TK: np.ndarray
    accuracy: float
    reward: float
    finish_reason: str
    outcome: str | None = None      # None: an artifact from before outcomes were kept
    agreed: bool | None = None


def indices_by_problem(rollouts: list[Rollout]) -> dict[str, list[int]]:
    """Where each problem's rollouts stand in a list, problems and rollouts in their order."""
    by_problem: dict[str, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        by_problem.setdefault(rollout.problem_id, []).append(index)
    return by_problem


def problems_of_iteration(problem_ids: list[str], iteration: int, *, per_iteration: int, seed: int) -> list[str]:
    """The problems of one iteration: whole epochs of a seeded shuffle, so any iteration can be drawn on its own."""
    per_iteration = min(per_iteration, len(problem_ids))
    epoch, step = divmod(iteration, len(problem_ids) // per_iteration)
    order = np.random.default_rng(draw_seed(seed, "problem-order", epoch)).permutation(len(problem_ids))
    return [problem_ids[i] for i in order[step * per_iteration : (step + 1) * per_iteration]]


def plan_rollout(
    recipe: Recipe,
    run: Path,
    problems: Artifact,
    policy_hashes: dict[str, str],
    *,
    iteration: int = 0,
    limit: int | None = None,
) -> Plan:
    section = {
        "rollout": recipe.rollout.model_dump(),
        "prompt": recipe.prompt.model_dump(),
        "reward": reward_section(recipe.reward),
        "top_ids": recipe.teacher.top_k if recipe.needs_teacher else 0,
        "iteration": iteration,
        "limit": limit,
    }
    return Plan(
        run,
        "rollouts",
        "rollout",
        section,
        inputs={"problems": problems.manifest.content_hash},
        seed=recipe.seed,
        model=policy_hashes,
        policy_hash=policy_hashes["weights"],
    )


def make_rollouts(
    recipe: Recipe,
    plan: Plan,
    book: PromptBook,
    engine: Engine,
    policy: Policy,
    *,
    force: bool = False,
    part: Part | None = None,
    progress: Progress = no_progress,
) -> Artifact:
    """Sample and grade the rollouts of one iteration, shard by shard."""
    if not force and (done := plan.finished(part)):
        return done
    settings = recipe.rollout
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p, plan.section["top_ids"])
    iteration, n_rollouts = plan.section["iteration"], settings.rollouts_per_problem
    chosen = problems_of_iteration(
        list(book.problems), iteration, per_iteration=settings.problems_per_iteration, seed=recipe.seed
    )[: plan.section["limit"]]
    with plan.writer(force=force, part=part) as writer:
        for shard, start in enumerate(range(0, len(chosen), settings.problems_per_shard)):
            progress(start, len(chosen), "sampling")
            if not writer.needs_shard(shard):
                continue
            asked = chosen[start : start + settings.problems_per_shard]
            ids = book.fitting(asked)
            requests = [
                Request(prompt, draw_seed(recipe.seed, "rollout", iteration, prompt.problem_id, g))
                for prompt in book.students(ids)
                for g in range(n_rollouts)
            ]
            samples = sample_within_memory(engine, requests, sampling, stage="rollout", keys=_MEMORY_KEYS)
            quoting = open_quoting(recipe.reward, recipe.reward.extraction, plan.run)
            rows = _rows(recipe, book, requests, samples, policy, quoting)
            writer.write_shard(
                shard,
                tables={"rollouts": pa.Table.from_pylist(rows, schema=ROLLOUTS)},
                tensors={"rollouts": _tensors(samples, sampling.top_ids)},
                counts={
                    "problems": len(ids),
                    "rollouts": len(rows),
                    "tokens": sum(row["response_tokens"] for row in rows),
                    "correct": sum(row["accuracy"] == 1 for row in rows),
                    "truncated": sum(row["finish_reason"] == "length" for row in rows),
                    "skipped": len(asked) - len(ids),
                    **costs_of(quoting),
                },
            )
        progress(len(chosen), len(chosen), "sampling")
        return writer.finish()


def _rows(
    recipe: Recipe, book: PromptBook, requests: list[Request], samples: list[Sample], policy: Policy,
    quoting: Quoting | None,
) -> list[dict]:
    problems = [book.problems[request.prompt.problem_id] for request in requests]
    for problem, sample in zip(problems, samples, strict=True):
        refuse_media_tokens(sample.token_ids_T, policy, where=problem.problem_id)
    verdicts = graded(samples, problems, policy, recipe.reward, extraction=recipe.reward.extraction,
                      reads=recipe.reward.reads, quoting=quoting, max_new_tokens=recipe.rollout.max_new_tokens)
    rows = []
    for index, (request, verdict) in enumerate(zip(requests, verdicts, strict=True)):
        problem_id, rollout = request.prompt.problem_id, index % recipe.rollout.rollouts_per_problem
        rows.append({
            "rollout_id": f"{problem_id}/{rollout}",
            "problem_id": problem_id,
            "rollout": rollout,
            "prompt_tokens": len(request.prompt),
            "image_tokens": request.prompt.n_image_tokens,
            **verdict,
        })
    return rows


def refuse_media_tokens(token_ids_T: np.ndarray, policy: Policy, *, where: str) -> None:
    """A response that holds an image token would be read as one more picture by every later forward."""
    if np.isin(token_ids_T, policy.media_ids).any():
        raise PtdpoError(
            f"problem {where}: the engine sampled a media token",
            hint="the engine must mask the policy's media ids; this is a fault of the engine, not of the data",
        )


def _tensors(samples: list[Sample], k: int) -> dict[str, np.ndarray]:
    """The samples end to end; a shard may be empty, when every prompt of it was too long."""
    none = Sample(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros((0, k), np.int32), "stop")
    return {
        "offsets": offsets_of([len(s.token_ids_T) for s in samples]),
        "token_ids": np.concatenate([s.token_ids_T for s in samples or [none]]),
        "sampler_logprobs": np.concatenate([s.logprobs_T for s in samples or [none]]),
        "sampler_top_ids": np.concatenate([s.top_ids_TK for s in samples or [none]]),
    }


def read_rollouts(artifact: Artifact) -> Iterator[list[Rollout]]:
    """The rollouts of an artifact, one list per shard; a problem's group is never split over shards."""
    for shard in range(artifact.shards()):
        yield read_shard(artifact, shard)


def read_shard(artifact: Artifact, shard: int) -> list[Rollout]:
    rows = artifact.shard_table("rollouts", shard).to_pylist()
    tensors = artifact.tensors("rollouts", shard)
    ragged = [split(tensors[name], tensors["offsets"]) for name in ("token_ids", "sampler_logprobs", "sampler_top_ids")]
    return [
        Rollout(r["rollout_id"], r["problem_id"], ids, logprobs, top, r["accuracy"], r["reward"], r["finish_reason"],
                r.get("outcome"), r.get("agreed"))
        for r, ids, logprobs, top in zip(rows, *ragged, strict=True)
    ]
