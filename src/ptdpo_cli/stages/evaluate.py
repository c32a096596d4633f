"""eval: how good a policy is on problems it has not seen, question only; and the paired comparison of two such runs.

Reads problems and a policy; writes every prediction, and in the manifest the summary that the tables show.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from ptdpo_cli.artifacts.parts import Part
from ptdpo_cli.artifacts.schemas import EVALS, Problem
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.engines import Engine, Request, Sampling, draw_seed
from ptdpo_cli.errors import ArtifactError, UsageError
from ptdpo_cli.models.load import Policy
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.contexts import PromptBook
from ptdpo_cli.stages.grading import graded
from ptdpo_cli.stages.judging import judge_identity, judge_section, judged
from ptdpo_cli.stages.memory import sample_within_memory
from ptdpo_cli.stages.plan import Plan, Progress, no_progress
from ptdpo_cli.statistics import bootstrap_interval, majority_baseline, paired_difference, pass_at_k

_MEMORY_KEYS = "eval.problems_per_shard, eval.samples or eval.max_new_tokens"
GREEDY = -1  # the sample number of the greedy answer


def plan_eval(
    recipe: Recipe, run: Path, problems: Artifact, policy_hashes: dict[str, str], *, limit: int | None = None
) -> Plan:
    section = {
        "eval": recipe.eval.model_dump(exclude={"judge"}),
        "judge": judge_section(recipe.eval.judge),
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
                rows = [row for greedy in (True, False) for row in _answers(recipe, book, engine, policy, ids, greedy)]
                rows, costs = judged(rows, book.problems, settings.judge, plan.run)
                writer.write_shard(
                    shard,
                    tables={"evals": pa.Table.from_pylist(rows, schema=EVALS)},
                    counts={"problems": len(ids), "answers": len(rows), "skipped": len(asked) - len(ids), **costs},
                )
        progress(len(chosen), len(chosen), "evaluating")
        if part is not None:
            return writer.finish()
        return writer.finish(extra=eval_extra(writer.read_table("evals").to_pylist(), recipe, plan.section))


def eval_extra(rows: list[dict], recipe: Recipe, section: Mapping) -> dict:
    """What the manifest of a whole evaluation says beside its rows: the summary, and who judged."""
    return {"summary": summarise(rows, recipe), **judge_identity(section, rows)}


def _answers(recipe: Recipe, book: PromptBook, engine: Engine, policy: Policy, problem_ids: list[str], greedy: bool):
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
    verdicts = graded(samples, problems, policy, recipe.reward, extraction=settings.extraction)
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


def summarise(rows: list[dict], recipe: Recipe) -> dict:
    """The figures of one evaluation: accuracy with its 95 % interval, pass@k, categories, and what could void them."""
    if not rows:
        raise UsageError(
            "there is no answer to evaluate: every prompt was too long", hint="raise prompt.max_prompt_tokens"
        )
    answers = {row["problem_id"]: row["answer"] for row in rows}
    majority, share = majority_baseline(list(answers.values()))
    summary = {
        "problems": len(answers),
        "majority_answer": majority,
        "majority_share": share,
        "extraction_failures": float(np.mean([row["extracted"] is None for row in rows])),
        "truncated": float(np.mean([row["finish_reason"] == "length" for row in rows])),
        "response_tokens": float(np.mean([row["response_tokens"] for row in rows])),
    }
    for name, is_greedy in (("greedy", True), ("sampled", False)):
        part = [row for row in rows if (row["sample"] == GREEDY) == is_greedy and row["accuracy"] is not None]
        if part:
            summary[name] = _accuracy(part, recipe) | {"categories": _categories(part)}
    return summary


def _accuracy(rows: list[dict], recipe: Recipe) -> dict:
    by_problem = accuracies_by_problem(rows)
    n = min(map(len, by_problem.values()))
    means = [float(np.mean(values)) for values in by_problem.values()]
    low, high = bootstrap_interval(means, resamples=recipe.eval.bootstrap_resamples, seed=recipe.seed)
    counts = [int(sum(values)) for values in by_problem.values()]
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= n] if n > 1 else []
    return {
        "samples_per_problem": n,
        "accuracy": float(np.mean(means)),
        "interval": [low, high],
        "pass_at_k": {str(k): float(np.mean([pass_at_k(n, c, k) for c in counts])) for k in ks},
    }


def _categories(rows: list[dict]) -> dict[str, dict]:
    groups = defaultdict(list)
    for row in rows:
        groups[row["category"]].append(row)
    return {
        name: {
            "problems": len({r["problem_id"] for r in part}),
            "accuracy": float(np.mean([r["accuracy"] for r in part])),
        }
        for name, part in sorted(groups.items())
    }


def accuracies_by_problem(rows: list[dict]) -> dict[str, list[float]]:
    by_problem: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_problem[row["problem_id"]].append(row["accuracy"])
    return by_problem


def compare(a: Artifact, b: Artifact, *, seed: int = 0) -> dict:
    """B minus A on the same problems, paired: difference, 95 % interval and p-value, greedy and sampled.

    Errors: ArtifactError when the two were not made from the same problems.
    """
    if a.manifest.inputs.get("problems") != b.manifest.inputs.get("problems"):
        raise ArtifactError(
            "these evaluations are of different problems, so no answer of one pairs with an answer of the other",
            expected=f"problems {a.manifest.inputs.get('problems', '')[:8]}",
            found=f"problems {b.manifest.inputs.get('problems', '')[:8]} in {b.path}",
            hint="evaluate both policies on the same split, count and seed",
        )
    tables = [artifact.table("evals").to_pylist() for artifact in (a, b)]
    result = {"a": str(a.path), "b": str(b.path)}
    for name, is_greedy in (("greedy", True), ("sampled", False)):
        parts = [accuracies_by_problem([r for r in t if (r["sample"] == GREEDY) == is_greedy]) for t in tables]
        shared = [problem_id for problem_id in parts[0] if problem_id in parts[1]]
        if shared:
            means = [[float(np.mean(part[problem_id])) for problem_id in shared] for part in parts]
            result[name] = {
                "problems": len(shared),
                "accuracy_a": float(np.mean(means[0])),
                "accuracy_b": float(np.mean(means[1])),
                **paired_difference(means[0], means[1], seed=seed),
            }
    return result


def render_summary(summary: dict, console: Console) -> None:
    """Accuracy per category and overall, greedy and sampled, and beside it what the score hangs on."""
    modes = [mode for mode in ("greedy", "sampled") if mode in summary]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("category")
    table.add_column("problems", justify="right")
    for mode in modes:
        table.add_column(_mode_title(summary, mode), justify="right")
    for category, first in summary[modes[0]]["categories"].items() if modes else ():
        accuracies = [f"{summary[mode]['categories'][category]['accuracy']:.3f}" for mode in modes]
        table.add_row(category or "(none)", str(first["problems"]), *accuracies)
    table.add_section()
    table.add_row("all", str(summary["problems"]), *(f"{summary[mode]['accuracy']:.3f}" for mode in modes))
    table.add_row("95 % interval", "", *("{:.3f} – {:.3f}".format(*summary[mode]["interval"]) for mode in modes))
    console.print(table)
    for mode in modes:
        if summary[mode]["pass_at_k"]:
            figures = ", ".join(f"{k}: {value:.3f}" for k, value in summary[mode]["pass_at_k"].items())
            console.print(f"pass@k, {mode}: {figures}")
    console.print(
        f"always answering {summary['majority_answer']!r} would score {summary['majority_share']:.3f}; "
        f"no answer read in {summary['extraction_failures']:.1%}, truncated {summary['truncated']:.1%}"
    )


def _mode_title(summary: dict, mode: str) -> str:
    return "greedy" if mode == "greedy" else f"mean of {summary[mode]['samples_per_problem']}"


def render_comparison(result: dict, console: Console) -> None:
    """B minus A, paired by problem."""
    console.print(f"A  {result['a']}\nB  {result['b']}")
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("", "problems", "A", "B", "B − A", "95 % interval", "p"):
        table.add_column(title, justify="right" if title else "left")
    for mode in ("greedy", "sampled"):
        if mode in result:
            r = result[mode]
            table.add_row(
                mode,
                str(r["problems"]),
                f"{r['accuracy_a']:.3f}",
                f"{r['accuracy_b']:.3f}",
                f"{r['difference']:+.3f}",
                "{:+.3f} – {:+.3f}".format(*r["interval"]),
                f"{r['p_value']:.2g}",
            )
    console.print(table)
