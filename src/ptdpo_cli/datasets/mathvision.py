"""MATH-Vision: problems of mathematics competitions with pictures (arXiv 2402.14804)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import valued
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, accuracy_by, mean_accuracy
from ptdpo_cli.datasets.options import letter_of, lettered, listed, one_letter

CARD = Card(
    name="mathvision",
    hub="MathLLMs/MathVision",
    splits={"test": Split(3040, (Table(split="test"),)), "testmini": Split(304, (Table(split="testmini"),))},
    license="MIT",
    purpose="test",
    scoring="letter where there are options, else the value by its type",
    test="test",
    notes="testmini is part of test.",
)
_NUMBERED = re.compile(r"<image[_ ]?([0-9]+)>")


def problem(row: Mapping, place: Place) -> Problem:
    """One picture shows whatever the question calls `<image1>`, `<image2>`, …"""
    asked = fields.text(row, "question")
    shown = max((int(number) for number in _NUMBERED.findall(asked)), default=1)
    question = fields.question(asked, range(1, shown + 1))
    gold = fields.text(row, "answer")
    choices = fields.texts(row, "options")
    if choices:
        answer_type = "choice"
        answer = lettered(gold, choices) if one_letter(gold) else letter_of(gold, choices)
    else:
        answer, answer_type = valued(gold)
    subject = fields.text(row, "subject", "")
    return Problem(
        problem_id=f"mathvision/{fields.text(row, 'id')}",
        question=listed(question, choices),
        images=fields.picture(row, "decoded_image"),
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
