"""score-ref: what the frozen teacher, who reads the hint, thinks of every step of the failed attempts.

Reads rollouts, hints and the reference model; writes, for gated rollouts, the support (top-K of the sampler ∪ top-K of
the teacher) with the teacher's exact log-probs on it, and, where the KL term is on, the reference's log-probs (question
only) of all sampled tokens.

Shapes: N packed tokens, K top ids, S support ids (padded with −1), C = S + 1, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ptdpo_cli.artifacts.parts import Part
from ptdpo_cli.artifacts.schemas import SCORES
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.artifacts.tensors import offsets_of
from ptdpo_cli.errors import ArtifactError, PtdpoError
from ptdpo_cli.hints.wording import wording_hash
from ptdpo_cli.models.checks import require, sees_pictures
from ptdpo_cli.models.inputs import Prompt
from ptdpo_cli.models.load import Policy, require_same_interface
from ptdpo_cli.models.logprobs import require_finite, response_logprobs, score_responses, token_logprobs
from ptdpo_cli.objectives import coarse_logprobs, distill_mask
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.contexts import PromptBook
from ptdpo_cli.stages.memory import memory_for
from ptdpo_cli.stages.plan import Plan, Progress, no_progress
from ptdpo_cli.stages.rollout import Rollout, indices_by_problem, read_shard

# A teacher whose best token is nowhere likelier than this above 1/V has lost its weights or its input.
_UNIFORM_NATS = 0.01
_MEMORY_KEYS = "train.tokens_per_micro_batch or train.logits_per_chunk"


@dataclass(frozen=True)
class Score:
    """The teacher's view of one gated rollout (None when not gated), and the reference's of any rollout."""

    rollout_id: str
    support_TS: np.ndarray | None  # int32, −1 pads
    teacher_logprobs_TC: np.ndarray | None  # float32, −inf pads, the last column is the tail
    reference_logprobs_T: np.ndarray | None


def plan_score_ref(
    recipe: Recipe,
    run: Path,
    rollouts: Artifact,
    hints: Artifact | None,
    reference: Policy,
    *,
    limit: int | None = None,
) -> Plan:
    """What to score, and with whom.

    Errors: ArtifactError when the rollouts come from another tokenizer, or hold no sampler top-K where it is needed.
    """
    require_same_interface(reference, rollouts.manifest.model, what=f"rollouts {rollouts.path}")
    if recipe.needs_teacher and rollouts.manifest.section["top_ids"] != recipe.teacher.top_k:
        raise ArtifactError(
            "these rollouts hold another sampler top-K than the teacher's",
            expected=f"teacher.top_k = {recipe.teacher.top_k}",
            found=f"{rollouts.manifest.section['top_ids']} ids per token in {rollouts.path}",
            hint="sample again with `ptdpo rollout` and the same recipe (one with train.distill_weight=0 records none)",
        )
    if recipe.needs_teacher and hints is None and recipe.teacher.context != "none":
        raise ArtifactError("score-ref needs hints", hint="make them with `ptdpo build-hints`, or give `--hints DIR`")
    section = {
        "teacher": recipe.teacher.model_dump() if recipe.needs_teacher else None,
        "hint_template_sha256": wording_hash(recipe.teacher.hint_template) if recipe.needs_teacher else None,
        "prompt": recipe.prompt.model_dump(),
        "temperature": rollouts.manifest.section["rollout"]["temperature"],
        "reference_logprobs": recipe.needs_reference,
        "limit": limit,
    }
    inputs = {"rollouts": rollouts.manifest.content_hash}
    if hints is not None:
        inputs["hints"] = hints.manifest.content_hash
    return Plan(
        run,
        "scores",
        "score-ref",
        section,
        inputs=inputs,
        seed=recipe.seed,
        model=reference.hashes,
        hint_hash=inputs.get("hints"),
        policy_hash=rollouts.manifest.policy_hash,
    )


def make_scores(
    recipe: Recipe,
    plan: Plan,
    book: PromptBook,
    reference: Policy,
    rollouts: Artifact,
    *,
    force: bool = False,
    part: Part | None = None,
    progress: Progress = no_progress,
) -> Artifact:
    """Score the rollouts shard by shard; gated ones by the teacher, all of them by the reference where it is asked for.

    Errors: PtdpoError when the teacher is uniform or blind, or its logits hold NaN or inf.
    """
    if not force and (done := plan.finished(part)):
        return done
    chosen = _first_problems(rollouts, plan.section["limit"])
    with plan.writer(force=force, part=part) as writer:
        for shard in range(rollouts.shards()):
            progress(shard, rollouts.shards(), "scoring")
            if not writer.needs_shard(shard):
                continue
            sampled = read_shard(rollouts, shard)
            group = [r for r in sampled if chosen is None or r.problem_id in chosen]
            if sampled and not group:       # beyond the limit; a shard that has no rollouts stays one
                continue
            picked = gate(recipe, book, group) if recipe.needs_teacher and group else [False] * len(group)
            gated = _fitting(book, group, picked)
            rows, tensors = _score_shard(recipe, plan, book, reference, group, gated)
            writer.write_shard(
                shard,
                tables={"scores": pa.Table.from_pylist(rows, schema=SCORES)},
                tensors={"scores": tensors},
                counts={
                    "rollouts": len(rows),
                    "gated": sum(gated),
                    "gated_tokens": sum(len(r.token_ids_T) for r, g in zip(group, gated, strict=True) if g),
                    "skipped": sum(picked) - sum(gated),
                },
            )
        progress(rollouts.shards(), rollouts.shards(), "scoring")
        return writer.finish()


def _first_problems(rollouts: Artifact, limit: int | None) -> set[str] | None:
    """The first `limit` problems of these rollouts; None without a limit."""
    if limit is None:
        return None
    return set(list(dict.fromkeys(rollouts.table("rollouts")["problem_id"].to_pylist()))[:limit])


def gate(recipe: Recipe, book: PromptBook, rollouts: list[Rollout]) -> list[bool]:
    """Which rollouts the teacher reads: those the gate picks, of problems that have a teacher."""
    groups = indices_by_problem(rollouts)
    mask_PG = distill_mask(
        torch.tensor([[rollouts[i].accuracy for i in members] for members in groups.values()]),
        max_group_accuracy=recipe.teacher.max_group_accuracy,
        rollouts=recipe.teacher.rollouts,
    )
    picked = {
        i
        for members, mask_G in zip(groups.values(), mask_PG.tolist(), strict=True)
        for i, is_picked in zip(members, mask_G, strict=True)
        if is_picked
    }
    return [i in picked and book.has_teacher(rollout.problem_id) for i, rollout in enumerate(rollouts)]


def _fitting(book: PromptBook, rollouts: list[Rollout], gated: list[bool]) -> list[bool]:
    """The gated rollouts whose teacher's prompt, hint and all, is not too long."""
    fits = set(book.fitting([r.problem_id for r, g in zip(rollouts, gated, strict=True) if g], teacher=True))
    return [is_gated and r.problem_id in fits for r, is_gated in zip(rollouts, gated, strict=True)]


def _score_shard(recipe, plan, book, reference, rollouts: list[Rollout], gated: list[bool]):
    chosen = [r for r, is_gated in zip(rollouts, gated, strict=True) if is_gated]
    prompts = book.teachers(r.problem_id for r in chosen)
    temperature = plan.section["temperature"]
    teacher = teacher_scores(recipe, reference, prompts, chosen, temperature=temperature)
    _require_sight(recipe, book, reference, prompts, chosen)
    by_id = {r.rollout_id: (p, t) for r, p, t in zip(chosen, prompts, teacher, strict=True)}
    rows = [_row(r, *by_id.get(r.rollout_id, (None, None))) for r in rollouts]
    tensors = _teacher_tensors(teacher)
    if plan.section["reference_logprobs"]:
        students = book.students(r.problem_id for r in rollouts)
        responses = [rollout.token_ids_T for rollout in rollouts]
        logprobs = response_logprobs(
            reference, students, responses, who="reference", **_settings(recipe, temperature)
        )
        tensors["reference_logprobs"] = np.concatenate(logprobs or [np.zeros(0, np.float32)])
    return rows, tensors


@dataclass(frozen=True)
class TeacherScore:
    """One gated rollout under the teacher, with its support padded to the batch's width."""

    support_TS: np.ndarray
    logprobs_TC: np.ndarray
    sampled_logprobs_T: np.ndarray


def teacher_scores(
    recipe: Recipe, reference: Policy, prompts: list[Prompt], rollouts: list[Rollout], *, temperature: float
) -> list[TeacherScore]:
    """The teacher's exact log-probs on the support, for rollouts under their teacher prompts, in order."""
    k = recipe.teacher.top_k

    def score(logits_nV, ids_n, sampler_top_nK):
        require_finite(logits_nV, reference.media_ids, who="teacher")
        require_informed(logits_nV, reference.media_ids)
        top_nK = logits_nV.topk(min(k, logits_nV.shape[1] - len(reference.media_ids)), 1).indices
        support_nS = union(sampler_top_nK, top_nK)
        return support_nS.int(), coarse_logprobs(logits_nV, support_nS), token_logprobs(logits_nV, ids_n)

    found = score_responses(
        reference,
        prompts,
        [rollout.token_ids_T for rollout in rollouts],
        score,
        beside=[rollout.sampler_top_ids_TK for rollout in rollouts],
        **_settings(recipe, temperature),
    )
    return [TeacherScore(*parts) for parts in found]


def _settings(recipe: Recipe, temperature: float) -> dict:
    """How the reference reads responses, with a hint or without."""
    return {
        "temperature": temperature,
        "tokens_per_batch": recipe.train.tokens_per_micro_batch,
        "logits_per_chunk": recipe.train.logits_per_chunk,
        "guard": lambda rows, tokens: memory_for("score-ref", rows=rows, tokens=tokens, keys=_MEMORY_KEYS),
    }


def union(first_NK: torch.Tensor, second_NK: torch.Tensor) -> torch.Tensor:
    """Sorted union of two id sets per row, padded on the right with −1 -> support_NS, S ≤ 2K."""
    ids_NS = torch.cat([first_NK, second_NK], 1).sort(1).values
    repeated_NS = torch.zeros_like(ids_NS, dtype=torch.bool)
    repeated_NS[:, 1:] = ids_NS[:, 1:] == ids_NS[:, :-1]
    largest = torch.iinfo(ids_NS.dtype).max
    ids_NS = ids_NS.masked_fill(repeated_NS, largest).sort(1).values
    width = int((~repeated_NS).sum(1).max()) if len(ids_NS) else 0
    return ids_NS[:, :width].masked_fill(ids_NS[:, :width] == largest, -1)


def _require_sight(recipe, book, reference, prompts: list[Prompt], rollouts: list[Rollout]) -> None:
    """Refuse a blind teacher, at the first gated rollout with a picture: once per command, and per loop."""
    pictured = next((i for i, prompt in enumerate(prompts) if prompt.images), None)
    if book.teacher_was_seen_to_see or pictured is None or recipe.teacher.context == "blind":
        return
    require(sees_pictures(reference, prompts[pictured], rollouts[pictured].token_ids_T))
    book.teacher_was_seen_to_see = True


def require_informed(logits_NV: torch.Tensor, media_ids: list[int]) -> None:
    """Refuse a teacher that prefers no token anywhere: its weights or its input are lost."""
    uniform = -math.log(logits_NV.shape[1] - len(media_ids))
    best = float((logits_NV.amax(1) - logits_NV.logsumexp(1)).max())
    if best < uniform + _UNIFORM_NATS:
        raise PtdpoError(
            "the teacher is uniform: it prefers no token anywhere",
            expected=f"log-probs of the best token well above −ln V = {uniform:.2f}",
            found=f"{best:.2f} at best",
            hint="the reference's weights are missing or empty; check model.path",
        )


def _row(rollout: Rollout, prompt: Prompt | None, score: TeacherScore | None) -> dict:
    return {
        "rollout_id": rollout.rollout_id,
        "is_gated": score is not None,
        "teacher_prompt_tokens": None if prompt is None else len(prompt),
        "image_tokens": None if prompt is None else prompt.n_image_tokens,
        "mean_teacher_logprob": None if score is None else float(score.sampled_logprobs_T.mean()),
        "retained_mass": None if score is None else float(1 - np.exp(score.logprobs_TC[:, -1]).mean()),
    }


def _teacher_tensors(scores: list[TeacherScore]) -> dict[str, np.ndarray]:
    """Ragged over gated rollouts and, within a token, over its support; pads are dropped."""
    kept = [score.support_TS >= 0 for score in scores]
    empty_i, empty_f = np.zeros(0, np.int32), np.zeros(0, np.float32)
    return {
        "token_offsets": offsets_of([len(score.support_TS) for score in scores]),
        "support_offsets": offsets_of(np.concatenate([k.sum(1) for k in kept] or [empty_i])),
        "support_ids": np.concatenate([s.support_TS[k] for s, k in zip(scores, kept, strict=True)] or [empty_i]),
        "teacher_logprobs": np.concatenate(
            [s.logprobs_TC[:, :-1][k] for s, k in zip(scores, kept, strict=True)] or [empty_f]
        ),
        "teacher_tail_logprobs": np.concatenate([s.logprobs_TC[:, -1] for s in scores] or [empty_f]),
    }


def read_scores(artifact: Artifact, rollouts: list[list[Rollout]]) -> Iterator[list[Score]]:
    """Scores per shard, beside the rollouts they were made from.

    Errors: ArtifactError when a shard's rows are not the rollouts' rows.
    """
    for shard, group in enumerate(rollouts):
        rows = artifact.shard_table("scores", shard).to_pylist()
        if [row["rollout_id"] for row in rows] != [r.rollout_id for r in group]:
            raise ArtifactError(
                f"scores {artifact.path} belong to other rollouts", hint="make them again with `ptdpo score-ref`"
            )
        tensors = artifact.tensors("scores", shard)
        reference = _split_reference(tensors, group)
        supports = _supports(tensors)
        gated = (i for i, row in enumerate(rows) if row["is_gated"])
        position = {row: n for n, row in enumerate(gated)}
        yield [
            Score(r.rollout_id, *(supports[position[i]] if i in position else (None, None)), reference[i])
            for i, r in enumerate(group)
        ]


def _split_reference(tensors: dict[str, np.ndarray], group: list[Rollout]) -> list[np.ndarray | None]:
    if "reference_logprobs" not in tensors:
        return [None] * len(group)
    return np.split(tensors["reference_logprobs"], np.cumsum([len(r.token_ids_T) for r in group])[:-1])


def _supports(tensors: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Back from ragged to one padded (support_TS, teacher_logprobs_TC) per gated rollout."""
    sizes_N = np.diff(tensors["support_offsets"])
    width = int(sizes_N.max(initial=0))
    filled_NS = np.arange(width) < sizes_N[:, None]
    support_NS = np.full((len(sizes_N), width), -1, np.int32)
    support_NS[filled_NS] = tensors["support_ids"]
    logprobs_NC = np.full((len(sizes_N), width + 1), -np.inf, np.float32)
    logprobs_NC[:, :-1][filled_NS] = tensors["teacher_logprobs"]
    logprobs_NC[:, -1] = tensors["teacher_tail_logprobs"]
    ends = tensors["token_offsets"][1:-1]
    if len(tensors["token_offsets"]) == 1:
        return []
    return list(zip(np.split(support_NS, ends), np.split(logprobs_NC, ends), strict=True))
