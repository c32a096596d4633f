"""Geometry3K: school geometry with diagrams (arXiv 2105.04165), in the layout of EasyR1."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import unboxed, valued
from ptdpo_cli.datasets.cards import Card, Place, Split, Table

CARD = Card(
    name="geometry3k",
    hub="hiyouga/geometry3k",
    splits={
        "train": Split(2101, (Table(split="train"),)),
        "validation": Split(300, (Table(split="validation"),)),
        "test": Split(601, (Table(split="test"),)),
    },
    license="MIT",
    purpose="train and test",
    scoring="number or expression by value",
    train="train",
    test="test",
    notes="Two revisions: images, problem, answer; the later also id, choices and ground_truth, a letter. Both give "
          "the value, and it is asked for. MathVista contains problems of it.",
)


def problem(row: Mapping, place: Place) -> Problem:
    """The reference is the value; the letters of the newer revision are not shown to the model."""
    own_id = fields.text(row, "id", "") if "id" in row else ""
    answer, answer_type = fields.reference(lambda text: valued(unboxed(text)), fields.text(row, "answer"))
    images = fields.pictures(row, "images")
    return Problem(
        problem_id=f"geometry3k/{place.split}/{own_id or place.number}",
        question=fields.question(fields.text(row, "problem"), range(1, len(images) + 1)),
        images=images,
        answer=answer,
        answer_type=answer_type,
        choices=fields.texts(row, "choices") if "choices" in row else (),
        **fields.origin(CARD, place),
    )
