"""Verdicts on samples as the columns of an artifact; rollout, eval and regrade take them from here."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.engines import Sample
from ptdpo_cli.models.load import Policy
from ptdpo_cli.recipe import Recipe, Reward
from ptdpo_cli.rewards import Grade, Response, check_functions, grade_all
from ptdpo_cli.stages.quoting import Quoting


def graded(
    samples: Sequence[Sample],
    problems: Sequence[Problem],
    policy: Policy,
    reward: Reward,
    *,
    extraction: Sequence[str],
    reads: str,
    quoting: Quoting | None,
    max_new_tokens: int | None = None,
) -> list[dict]:
    """Each sample's text and the verdict on it; `problems` has the problem of each sample.

    In a rollout `max_new_tokens` is its limit; without it, as in an evaluation, accuracy and format alone count.
    Without `quoting` the way `model` reads nothing.
    """
    texts = [policy.tokenizer.decode(sample.token_ids_T, skip_special_tokens=True) for sample in samples]
    responses = [
        Response(problem, text, sample.finish_reason == "length", len(sample.token_ids_T))
        for sample, problem, text in zip(samples, problems, texts, strict=True)
    ]
    grades = grade_by(reward, responses, extraction=extraction, reads=reads, quoting=quoting,
                      max_new_tokens=max_new_tokens)
    return columns(responses, grades, quoting)


def grade_by(
    reward: Reward,
    responses: Sequence[Response],
    *,
    extraction: Sequence[str],
    reads: str = "answer",
    quoting: Quoting | None = None,
    max_new_tokens: int | None = None,
) -> list[Grade]:
    """Verdicts by a recipe's reward: its terms too if the rollouts' token limit is given, else the published rule's."""
    terms = {}
    if max_new_tokens is not None:
        overlong = reward.overlong
        if overlong is not None and overlong.max_tokens is None:
            overlong = overlong.model_copy(update={"max_tokens": max_new_tokens})
        terms = {"overlong": overlong, "repetition": reward.repetition, "functions": reward.functions}
    return grade_all(
        responses,
        extraction=[way for way in extraction if way != "model"],
        reads=reads,
        quote=quoting,
        accuracy_weight=reward.accuracy_weight,
        format_weight=reward.format_weight,
        time_limit_s=reward.time_limit_s,
        by_published=max_new_tokens is None,
        **terms,
    )


def require_functions(recipe: Recipe) -> None:
    """Refuse reward functions that cannot be imported, before any model is loaded."""
    check_functions([one.function for one in recipe.reward.functions])


def columns(responses: Sequence[Response], grades: Sequence[Grade], quoting: Quoting | None) -> list[dict]:
    return [
        {
            "text": response.text,
            "finish_reason": "length" if response.is_truncated else "stop",
            "response_tokens": response.tokens,
            "extracted": grade.extracted,
            "extracted_by": grade.extracted_by,
            "outcome": grade.outcome,
            "accuracy": grade.accuracy,
            "agreed": grade.agreed,
            "published": grade.published,
            "format": grade.format,
            "reader": quoting and quoting.said(response, grade),
            "terms": json.dumps(grade.terms) if grade.terms else None,
            "reward": grade.reward,
        }
        for response, grade in zip(responses, grades, strict=True)
    ]
