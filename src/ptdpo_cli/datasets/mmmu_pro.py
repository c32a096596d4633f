"""MMMU-Pro: MMMU without what text alone answers, with up to ten options, or all in one picture (arXiv 2409.02813)."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.mmmu import image_options
from ptdpo_cli.datasets.options import chosen, listed

CARD = Card(
    name="mmmu-pro",
    hub="MMMU/MMMU_Pro",
    splits={
        "standard-10": Split(1730, (Table("standard (10 options)", "test"),)),
        "standard-4": Split(1730, (Table("standard (4 options)", "test"),)),
        "vision": Split(1730, (Table("vision", "test"),)),
    },
    license="Apache-2.0",
    purpose="test",
    scoring="letter, A to J",
    test="standard-10",
    key="id",
    notes="The authors' figure is said to be the mean of standard-10 and vision (unconfirmed).",
)
_ASK = "Answer the multiple-choice question shown in the image with the letter of the right option."


def problem(row: Mapping, place: Place) -> Problem:
    """In the split vision the picture holds question and options; the question does not repeat them."""
    own_id = fields.text(row, "id")
    if place.split == "vision":
        images = fields.picture(row, "image")
        choices = image_options(row, None)
        question = _ASK
    else:
        numbered = fields.numbered_pictures(row)
        choices = image_options(row, tuple(numbered))
        question = listed(fields.question(fields.text(row, "question"), tuple(numbered)), choices)
        images = tuple(numbered.values())
    answer, answer_type = chosen(fields.text(row, "answer"), choices)
    return Problem(
        problem_id=f"mmmu-pro/{place.split}/{own_id}",
        question=question,
        images=images,
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        family=f"mmmu-pro/{own_id}",
        category=fields.text(row, "subject", ""),
        **fields.origin(CARD, place),
    )
