"""eval: how good a policy is on problems it has not seen, question only.

Reads problems and a policy; writes every prediction, and in the manifest the summary that the tables show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from ptdpo_cli.artifacts.parts import Part
from ptdpo_cli.artifacts.schemas import EVALS, Problem
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.engines import Engine, Request, Sampling, draw_seed
from ptdpo_cli.models.load import Policy
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.contexts import PromptBook
from ptdpo_cli.stages.grading import graded
from ptdpo_cli.stages.judging import judge_identity, judge_section, judged
from ptdpo_cli.stages.memory import sample_within_memory
from ptdpo_cli.stages.plan import Plan, Progress, no_progress
from ptdpo_cli.stages.quoting import Quoting, costs_of, open_quoting, reader_identity, reader_section
from ptdpo_cli.stages.summary import GREEDY, summarise

_MEMORY_KEYS = "eval.problems_per_shard, eval.samples or eval.max_new_tokens"


def plan_eval(
    recipe: Recipe, run: Path, problems: Artifact, policy_hashes: dict[str, str], *, limit: int | None = None
) -> Plan:
    section = {
        "eval": recipe.eval.model_dump(exclude={"judge"}),
        "judge": judge_section(recipe.eval.judge),
        "reader": reader_section(recipe.reward, recipe.eval.extraction),
        "engine": recipe.rollout.engine,
        "prompt": recipe.prompt.model_dump(),
        "limit": limit,
    }
    return Plan(
        run,
        "evals",
        "eval",
        section,
        inputs={"problems": problems.manifest.content_hash},
        seed=recipe.seed,
        model=policy_hashes,
        policy_hash=policy_hashes["weights"],
    )


def make_eval(
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
    """One greedy answer and n samples per problem, graded; the summary goes into the manifest as `extra.summary`.

    A part has no summary: an interval over some of the problems says nothing of the whole.
    """
    if not force and (done := plan.finished(part)):
        return done
    settings, chosen = recipe.eval, list(book.problems)[: plan.section["limit"]]
    with plan.writer(force=force, part=part) as writer:
        for shard, start in enumerate(range(0, len(chosen), settings.problems_per_shard)):
            progress(start, len(chosen), "evaluating")
            if writer.needs_shard(shard):
                asked = chosen[start : start + settings.problems_per_shard]
                ids = book.fitting(asked)
                quoting = open_quoting(recipe.reward, settings.extraction, plan.run)
                rows = [
                    row for greedy in (True, False)
                    for row in _answers(recipe, book, engine, policy, ids, quoting, greedy=greedy)
                ]
                rows, costs = judged(rows, book.problems, settings.judge, plan.run)
                costs |= costs_of(quoting)
                writer.write_shard(
                    shard,
                    tables={"evals": pa.Table.from_pylist(rows, schema=EVALS)},
                    counts={"problems": len(ids), "answers": len(rows), "skipped": len(asked) - len(ids), **costs},
                )
        progress(len(chosen), len(chosen), "evaluating")
        if part is not None:
            return writer.finish()
        rows = writer.read_table("evals").to_pylist()
        who = judge_identity(plan.section, rows) | reader_identity(plan.section, rows)
        return writer.finish(extra={"summary": summarise(rows, recipe), **who})


def _answers(
    recipe: Recipe, book: PromptBook, engine: Engine, policy: Policy, problem_ids: list[str],
    quoting: Quoting | None, *, greedy: bool,
) -> Iterator[dict]:
    settings = recipe.eval
    numbers = ([GREEDY] if settings.greedy else []) if greedy else list(range(settings.samples))
    requests = [
        Request(prompt, draw_seed(recipe.seed, "eval", prompt.problem_id, number))
        for prompt in book.students(problem_ids)
        for number in numbers
    ]
    if not requests:
        return
    temperature = 0.0 if greedy else settings.temperature
    sampling = Sampling(settings.max_new_tokens, temperature, settings.top_p)
    samples = sample_within_memory(engine, requests, sampling, stage="eval", keys=_MEMORY_KEYS)
    problems = [book.problems[request.prompt.problem_id] for request in requests]
    verdicts = graded(samples, problems, policy, recipe.reward, extraction=settings.extraction, reads=settings.reads,
                      quoting=quoting)
    for index, (problem, verdict) in enumerate(zip(problems, verdicts, strict=True)):
        yield {**problem_columns(problem), "sample": numbers[index % len(numbers)], **verdict}


def problem_columns(problem: Problem) -> dict:
    """What an evaluation's rows say of their problem."""
    return {
        "problem_id": problem.problem_id,
        "category": problem.category,
        "source": problem.source,
        "family": problem.family,
        "answer": problem.answer,
        "answer_type": problem.answer_type,
        "metadata": json.dumps(dict(problem.metadata)),
    }
