"""MMK12: school problems of mathematics, physics, chemistry and biology with pictures (arXiv 2503.07365)."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import easyr1, fields
from ptdpo_cli.datasets.cards import Card, Place, Split, Table

CARD = Card(
    name="mmk12",
    hub="FanqingM/MMK12",
    splits={"train": Split(15616, (Table(split="train"),)), "test": Split(2000, (Table(split="test"),))},
    license="Apache-2.0",
    purpose="train and test",
    scoring="train: number or expression by value; test: letter",
    train="train",
    test="test",
    key="id",
    notes="The licence is unconfirmed. test has 500 rows of each subject, its options inside the question. "
          "lmms-lab-encoder/k12 is another set, of 500 rows.",
)


def problem(row: Mapping, place: Place) -> Problem:
    """The kind of answer is told by its form: free in train, a letter in test."""
    return easyr1.asked(
        fields.text(row, "question"), fields.pictures(row, "image"), fields.text(row, "answer"), place, CARD,
        f"mmk12/{place.split}/{fields.text(row, 'id')}",
        category=fields.text(row, "subject", ""),
    )
