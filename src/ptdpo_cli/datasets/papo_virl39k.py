"""ViRL39K as PAPO trains on it (arXiv 2507.06448): the pictures in the table, the answers without their boxes."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import easyr1
from ptdpo_cli.datasets.cards import Card, Place, Split, Table

CARD = Card(
    name="papo-virl39k",
    hub="PAPOGalaxy/PAPO_ViRL39K_train",
    splits={"train": Split(38870, (Table(split="train"),))},
    license="unknown",
    purpose="train",
    scoring="letter, number or expression by value, or text, as the form of the answer says",
    train="train",
    notes="The licence is unconfirmed. Rows have no id but their number. Some have their options in the picture, or on "
          "lines without letters.",
)


def problem(row: Mapping, place: Place) -> Problem:
    """Marks may be `<image>` or numbered, as `<image_4>`."""
    return easyr1.problem(row, place, CARD, f"papo-virl39k/{place.number}")
