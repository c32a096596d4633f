"""The layout that EasyR1 trains on, `problem`, `images`, `answer`, which several data sets have.

A row does not say of which kind its answer is, nor which options a question has: both are read from the texts.
"""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import choice_or_value, unboxed
from ptdpo_cli.datasets.cards import Card, Place


def problem(row: Mapping, place: Place, card: Card, problem_id: str, **more) -> Problem:
    """One row, whose pictures are in `images` (or `image`), as a problem with the fields `more` besides."""
    images = fields.pictures(row, "images" if "images" in row else "image")
    return asked(fields.text(row, "problem"), images, fields.text(row, "answer"), place, card, problem_id, **more)


def asked(question: str, images: tuple, reference: str, place: Place, card: Card, problem_id: str, **more) -> Problem:
    """A question with marks for its pictures, and a reference that may stand in a box."""
    question = fields.question(question, range(1, len(images) + 1))
    answer, answer_type, choices = fields.reference(
        lambda text: choice_or_value(unboxed(text), question), reference)
    return Problem(problem_id, question, images, answer, answer_type=answer_type,
                   **{"choices": choices} | fields.origin(card, place) | more)
