"""MMStar: questions that need their picture, chosen from other benchmarks (arXiv 2403.20330)."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, accuracy_by, mean_accuracy
from ptdpo_cli.datasets.options import chosen_inside

CARD = Card(
    name="mmstar",
    hub="Lin-Chen/MMStar",
    splits={"val": Split(1500, (Table(split="val"),))},
    license="unknown",
    purpose="test",
    scoring="letter",
    test="val",
    key="index",
    notes="No licence is given. Options stand inside the question.",
)


def problem(row: Mapping, place: Place) -> Problem:
    """`choices` are read from the question where they can be told for certain."""
    question = fields.question(fields.text(row, "question"), (1,))
    answer, answer_type, choices = chosen_inside(fields.text(row, "answer"), question)
    category, part = fields.text(row, "category", ""), fields.text(row, "l2_category", "")
    return Problem(
        problem_id=f"mmstar/{fields.text(row, 'index')}",
        question=question,
        images=fields.picture(row, "image"),
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        category=category,
        metadata={"category": category, "l2_category": part},
        **fields.origin(CARD, place),
    )


def scores(rows: Rows) -> dict:
    """The mean over the six core capabilities, which have 250 rows each, and accuracy by each and by its three parts.

    Source: arXiv 2403.20330.
    """
    by_category = accuracy_by(rows, lambda row: row["metadata"]["category"])
    known = [value for value in by_category.values() if value is not None]
    return {
        "average": sum(known) / len(known) if known else None,
        "accuracy": mean_accuracy(rows),
        "category": by_category,
        "l2_category": accuracy_by(rows, lambda row: row["metadata"]["l2_category"]),
    }
