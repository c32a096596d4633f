"""Verdicts on samples as the columns of an artifact; rollout, eval and regrade take them from here."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.engines import Sample
from ptdpo_cli.models.load import Policy
from ptdpo_cli.recipe import Reward
from ptdpo_cli.rewards import Response, grade_all


def graded(
    samples: Sequence[Sample], problems: Sequence[Problem], policy: Policy, reward: Reward, *, extraction: Sequence[str]
) -> list[dict]:
    """Each sample's text and the verdict on it; `problems` has the problem of each sample."""
    texts = [policy.tokenizer.decode(sample.token_ids_T, skip_special_tokens=True) for sample in samples]
    responses = [
        Response(problem, text, sample.finish_reason == "length", len(sample.token_ids_T))
        for sample, problem, text in zip(samples, problems, texts, strict=True)
    ]
    grades = grade_all(
        responses,
        extraction=extraction,
        accuracy_weight=reward.accuracy_weight,
        format_weight=reward.format_weight,
    )
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
            "terms": json.dumps(grade.terms) if grade.terms else None,
            "reward": grade.reward,
        }
        for response, grade in zip(responses, grades, strict=True)
    ]
