"""The test split of MMK12 as PAPO validates on it (arXiv 2507.06448)."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import easyr1
from ptdpo_cli.datasets.cards import Card, Place, Split, Table

CARD = Card(
    name="papo-mmk12",
    hub="PAPOGalaxy/PAPO_MMK12_test",
    splits={"test": Split(2000, (Table(split="train"),))},
    license="unknown",
    purpose="test",
    scoring="letter",
    test="test",
    notes="The licence is unconfirmed. The repository calls its split train. Rows have no id but their number.",
)


def problem(row: Mapping, place: Place) -> Problem:
    """The options stand inside the question."""
    return easyr1.problem(row, place, CARD, f"papo-mmk12/{place.number}")
