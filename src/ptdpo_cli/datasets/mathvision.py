"""MATH-Vision: problems of mathematics competitions with pictures (arXiv 2402.14804)."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import choice_or_value, unboxed
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, accuracy_by, mean_accuracy
from ptdpo_cli.datasets.options import chosen, listed, unlabelled

CARD = Card(
    name="mathvision",
    hub="MathLLMs/MathVision",
    splits={
        "test": Split(3040, (Table(split="test", clone="data/test.jsonl"),)),
        "testmini": Split(304, (Table(split="testmini", clone="data/testmini.jsonl"),)),
    },
    license="MIT",
    purpose="test",
    scoring="letter where there are options, else the value by its type",
    test="test",
    notes="testmini is part of test.",
    key="id",
    repository="mathllm/MATH-V",
)


def problem(row: Mapping, place: Place) -> Problem:
    """One picture shows whatever the question, and the options, call `<image1>`, `<image2>`, …"""
    question = fields.question(fields.text(row, "question"), (1,))
    gold = fields.text(row, "answer")
    choices = unlabelled([fields.naming(option, None) for option in fields.texts(row, "options")])
    if choices:
        asked = listed(question, choices)
        answer, answer_type = chosen(gold, choices)
    else:                                                   # a letter where the options are in the picture alone
        asked = question
        answer, answer_type, choices = fields.reference(lambda text: choice_or_value(unboxed(text), question), gold)
    subject = fields.text(row, "subject", "")
    return Problem(
        problem_id=f"mathvision/{fields.text(row, 'id')}",
        question=asked,
        images=fields.picture(row, fields.first_of(row, "decoded_image", "image")),
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        solution=fields.text(row, "solution", "") or None,
        category=subject,
        metadata={"subject": subject, "level": fields.integer(row, "level")},
        **fields.origin(CARD, place),
    )


def scores(rows: Rows) -> dict:
    """Accuracy over all rows, by subject and by level. Source: arXiv 2402.14804."""
    return {"average": mean_accuracy(rows)} | {
        key: accuracy_by(rows, lambda row, key=key: row["metadata"][key]) for key in ("subject", "level")
    }
