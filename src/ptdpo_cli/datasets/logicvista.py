"""LogicVista: tests of reasoning about figures, some with several right options (arXiv 2407.04973)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import valued
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, mean_accuracy
from ptdpo_cli.datasets.options import chosen_inside
from ptdpo_cli.datasets.reading import LeftOut

CARD = Card(
    name="logicvista",
    hub="lscpku/LogicVista",
    splits={"test": Split(448, (Table(split="test", clone="data/dataset.json"),))},
    license="unknown",
    purpose="test",
    scoring="letter; several letters as a set",
    test="test",
    notes="The licence is unconfirmed. Options stand in the question, or only in the picture. The authors let a "
          "language model extract the letters.",
    key="id",
    repository="Yijia-Xiao/LogicVista",
)
SKILLS = ("inductive", "deductive", "numerical", "spatial", "mechanical")


def problem(row: Mapping, place: Place) -> Problem:
    """A reference of several letters, "A, C", is a set; its letters are put in order."""
    question = fields.question(fields.text(row, "question"), (1,))
    answer, answer_type, choices = _reference(fields.text(row, "answer"), question)
    skill = ", ".join(fields.texts(row, "skill")) if isinstance(row["skill"], list) else fields.text(row, "skill", "")
    return Problem(
        problem_id=f"logicvista/{fields.text(row, 'id')}",
        question=question,
        images=_named_picture(row) if "imagename" in row else fields.picture(row, "image"),
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        solution=fields.text(row, "reasoning", "") or None,
        category=skill,
        metadata={"skill": skill},
        **fields.origin(CARD, place),
    )


def _reference(gold: str, question: str) -> tuple[str, str, tuple[str, ...]]:
    """One letter, a set of letters ("A, C" or "AC"), or (options may be numbered) a value."""
    letters = ", ".join(gold) if re.fullmatch(r"[A-Z]{2,}", gold) else gold
    try:
        return chosen_inside(letters, question)
    except LeftOut:
        return *fields.reference(valued, gold), ()


def _named_picture(row: Mapping) -> tuple[str, ...]:
    """In the authors' repository a row names its file in the folder `images`."""
    return tuple(f"images/{name}" for name in fields.picture(row, "imagename"))


def scores(rows: Rows) -> dict:
    """Accuracy over all rows and by skill; a row with two skills counts for both.

    Source: arXiv 2407.04973; verdicts there are on letters that a language model extracts.
    """
    by_skill = {skill: [row for row in rows if skill in row["metadata"]["skill"].lower()] for skill in SKILLS}
    return {"Overall": mean_accuracy(rows)} | {skill: mean_accuracy(part) for skill, part in by_skill.items()}
