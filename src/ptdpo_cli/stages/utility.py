"""hints-score: whether hints help, measured before anything is trained: the frozen reference without them and with.

Reads problems, their hints and the reference; writes one row per problem that has a hint, and in the manifest the
summary that tables and picture show. docs/hints/utility.md explains each figure.

Shapes: P problems, n samples of each with the hint and as many without, T response tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ptdpo_cli.artifacts.parts import Part
from ptdpo_cli.artifacts.schemas import UTILITY
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.engines import Engine, Request, Sample, Sampling, draw_seed
from ptdpo_cli.errors import UsageError
from ptdpo_cli.models.inputs import Prompt
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.logprobs import contrast_responses, require_finite, token_logprobs
from ptdpo_cli.objectives import kl_divergence
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.build_hints import require_hints
from ptdpo_cli.stages.contexts import PromptBook
from ptdpo_cli.stages.grading import graded
from ptdpo_cli.stages.memory import memory_for, sample_within_memory
from ptdpo_cli.stages.plan import Plan, Progress, no_progress
from ptdpo_cli.stages.quoting import Quoting, costs_of, open_quoting, reward_section
from ptdpo_cli.stages.rollout import refuse_media_tokens
from ptdpo_cli.stages.utility_summary import summarise_utility

# How sampling is cut and by what engine: other values give other draws, but measure the same.
PLACEMENT = ("engine", "problems_per_shard")
_SAMPLING = {"temperature", "top_p", "max_new_tokens", *PLACEMENT}
_READING = {"extraction", "reads", "reader", "time_limit_s"}
_NOT_READ = {"top_k", "max_group_accuracy", "rollouts"}     # of the teacher: no matter of what it reads
_SAMPLER_KEYS = "rollout.problems_per_shard, --n or rollout.max_new_tokens"
_SCORING_KEYS = "train.tokens_per_micro_batch or train.logits_per_chunk"


def plan_utility(
    recipe: Recipe,
    run: Path,
    hints: Artifact,
    reference: dict[str, str],
    *,
    samples: int,
    limit: int | None = None,
) -> Plan:
    """What to measure: `samples` answers without the hint and with it, of the first `limit` problems that have one.

    Errors: UsageError when there is no hint, or the recipe's teacher reads none.
    """
    if recipe.teacher.context == "none":
        raise UsageError(
            "this recipe's teacher reads no hints, so there is nothing to measure",
            expected="teacher.context hint, shuffled or blind",
            hint="`--set teacher.context=hint`",
        )
    require_hints(hints.manifest.counts)
    section = {
        "samples": samples,
        "limit": limit,
        "rollout": recipe.rollout.model_dump(include=_SAMPLING),
        "prompt": recipe.prompt.model_dump(),
        "reward": {name: value for name, value in reward_section(recipe.reward).items() if name in _READING},
        "teacher": recipe.teacher.model_dump(exclude=_NOT_READ),
    }
    return Plan(
        run,
        "utility",
        "hints-score",
        section,
        inputs={"problems": hints.manifest.inputs["problems"], "hints": hints.content_hash},
        seed=recipe.seed,
        model=reference,
        hint_hash=hints.content_hash,
        policy_hash=reference["weights"],
    )


def make_utility(
    recipe: Recipe,
    plan: Plan,
    book: PromptBook,
    engine: Engine,
    reference: Policy,
    *,
    force: bool = False,
    part: Part | None = None,
    progress: Progress = no_progress,
) -> Artifact:
    """Measure shard by shard; the summary goes into the manifest as `extra.summary`, of the whole alone.

    Problems of which either prompt is too long are left out and counted, where the recipe says `prompt.too_long: skip`.
    """
    if not force and (done := plan.finished(part)):
        return done
    chosen = [problem_id for problem_id in book.problems if problem_id in book.hints][: plan.section["limit"]]
    size = recipe.rollout.problems_per_shard
    with plan.writer(force=force, part=part) as writer:
        for shard, start in enumerate(range(0, len(chosen), size)):
            progress(start, len(chosen), "measuring")
            if writer.needs_shard(shard):
                asked = chosen[start : start + size]
                ids = book.fitting(book.fitting(asked), teacher=True)
                quoting = open_quoting(recipe.reward, recipe.reward.extraction, plan.run)
                samples = plan.section["samples"]
                rows = measure(recipe, book, engine, reference, ids, quoting, samples=samples) if ids else []
                writer.write_shard(
                    shard,
                    tables={"utility": pa.Table.from_pylist(rows, schema=UTILITY)},
                    counts={
                        "problems": len(rows),
                        "answers": 2 * sum(row["samples"] for row in rows),
                        "plain_correct": sum(row["plain_correct"] for row in rows),
                        "hinted_correct": sum(row["hinted_correct"] for row in rows),
                        "skipped": len(asked) - len(ids),
                        **costs_of(quoting),
                    },
                )
        progress(len(chosen), len(chosen), "measuring")
        if part is not None:
            return writer.finish()
        rows = writer.read_table("utility").to_pylist()
        return writer.finish(extra={"summary": summarise_utility(rows, seed=recipe.seed)})


def measure(
    recipe: Recipe, book: PromptBook, engine: Engine, reference: Policy, problem_ids: Sequence[str],
    quoting: Quoting | None = None, *, samples: int,
) -> list[dict]:
    """The rows of these problems: their answers without the hint and with it, and what it does to the former's tokens.

    Sample i of a problem has the same random numbers with and without: a hint that changes nothing has gain 0 exactly.
    """
    prompts = {
        side: [prompt for prompt in of_all for _ in range(samples)]
        for side, of_all in (("plain", book.students(problem_ids)), ("hinted", book.teachers(problem_ids)))
    }
    found = {
        side: _answers(recipe, book, engine, reference, some, samples, quoting) for side, some in prompts.items()
    }
    plain, _ = found["plain"]
    changes = distribution_changes(recipe, reference, prompts["plain"], prompts["hinted"], plain)
    rows = []
    for start, problem_id in zip(range(0, len(plain), samples), problem_ids, strict=True):
        own = slice(start, start + samples)
        problem, hint = book.problems[problem_id], book.hints[problem_id]
        row = {
            "problem_id": problem_id,
            "category": problem.category,
            "data_source": problem.source,
            "hint_source": hint.source,
            "family": problem.family,
            "samples": samples,
        }
        for side, (answers, is_right) in found.items():
            row[f"{side}_correct"] = sum(is_right[own])
            row[f"{side}_tokens"] = float(np.mean([len(answer.token_ids_T) for answer in answers[own]]))
        kl_N, change_N = (np.concatenate(values) for values in zip(*changes[own], strict=True))
        rows.append(row | {"kl": float(kl_N.mean(dtype=float)), "nll_change": float(change_N.mean(dtype=float))})
    return rows


def _answers(
    recipe: Recipe, book: PromptBook, engine: Engine, reference: Policy, prompts: list[Prompt], n: int,
    quoting: Quoting | None,
) -> tuple[list[Sample], list[bool]]:
    """One answer per prompt, of which each stands there n times, and whether it is right."""
    requests = [
        Request(prompt, draw_seed(recipe.seed, "hints-score", prompt.problem_id, i % n))
        for i, prompt in enumerate(prompts)
    ]
    settings = recipe.rollout
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p)
    samples = sample_within_memory(engine, requests, sampling, stage="hints-score", keys=_SAMPLER_KEYS)
    for prompt, sample in zip(prompts, samples, strict=True):
        refuse_media_tokens(sample.token_ids_T, reference, where=prompt.problem_id)
    problems = [book.problems[prompt.problem_id] for prompt in prompts]
    # Accuracy as in a rollout; the other terms of a reward say nothing of it.
    rules = recipe.reward.model_copy(update={"overlong": None, "repetition": None, "functions": []})
    verdicts = graded(samples, problems, reference, rules, extraction=rules.extraction, reads=rules.reads,
                      quoting=quoting, max_new_tokens=settings.max_new_tokens)
    return samples, [verdict["accuracy"] == 1 for verdict in verdicts]


def distribution_changes(
    recipe: Recipe, reference: Policy, plain: Sequence[Prompt], hinted: Sequence[Prompt], answers: Sequence[Sample]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the hint does to each token of answers that were given without it -> (kl_T, nll_change_T) of each, in nats.

        kl_t         = Σ_v p_t(v) (log p_t(v) − log q_t(v))        over the whole vocabulary
        nll_change_t = log p_t(y_t) − log q_t(y_t)

    p is the reference's distribution after the question and y_<t, q after question, hint and y_<t, at the temperature
    of the samples. Where they are drawn from p itself (top_p = 1) the mean of the second is an estimate of the first's.
    """

    def contrast(plain_nV, hinted_nV, ids_n):
        for logits_nV in (plain_nV, hinted_nV):
            require_finite(logits_nV, reference.media_ids, who="reference")
        change_n = token_logprobs(plain_nV, ids_n) - token_logprobs(hinted_nV, ids_n)
        plain_nV, hinted_nV = plain_nV.log_softmax(1), hinted_nV.log_softmax(1)
        return kl_divergence(p_logprobs_NC=plain_nV, q_logprobs_NC=hinted_nV), change_n

    return contrast_responses(
        reference,
        plain,
        hinted,
        [answer.token_ids_T for answer in answers],
        contrast,
        temperature=recipe.rollout.temperature,
        tokens_per_batch=recipe.train.tokens_per_micro_batch,
        logits_per_chunk=recipe.train.logits_per_chunk,
        guard=lambda rows, tokens: memory_for("hints-score", rows=rows, tokens=tokens, keys=_SCORING_KEYS),
    )
