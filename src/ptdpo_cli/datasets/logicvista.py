"""LogicVista: tests of reasoning about figures, some with several right options (arXiv 2407.04973)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import valued
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, mean_accuracy
from ptdpo_cli.datasets.options import LETTERS, options_in

CARD = Card(
    name="logicvista",
    hub="lscpku/LogicVista",
    splits={"test": Split(448, (Table(split="test"),))},
    license="unknown",
    purpose="test",
    scoring="letter; several letters as a set",
    test="test",
    notes="The licence is unconfirmed. Options stand in the question, or only in the picture. The authors let a "
          "language model extract the letters.",
)
SKILLS = ("inductive", "deductive", "numerical", "spatial", "mechanical")
_SEVERAL = re.compile(r"[A-Z](?:(?:\s*[,;&]\s*|\s+and\s+|\s+)[A-Z])*", re.IGNORECASE)


def problem(row: Mapping, place: Place) -> Problem:
    """A reference of several letters, "A, C", is a set; its letters are put in order."""
    question = fields.question(fields.text(row, "question"), (1,))
    answer, answer_type = _reference(fields.text(row, "answer"))
    choices = options_in(question)
    if answer_type not in ("choice", "set") or not set(answer) - set(", ") <= set(LETTERS[:len(choices)]):
        choices = ()
    skill = ", ".join(fields.texts(row, "skill")) if isinstance(row["skill"], list) else fields.text(row, "skill", "")
    return Problem(
        problem_id=f"logicvista/{fields.text(row, 'id')}",
        question=question,
        images=fields.picture(row, "image"),
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        solution=fields.text(row, "reasoning", "") or None,
        category=skill,
        metadata={"skill": skill},
        **fields.origin(CARD, place),
    )


def _reference(gold: str) -> tuple[str, str]:
    """One letter, a set of letters, or (options may be numbered) a value."""
    compact = re.fullmatch(r"[A-Z]{2,}", gold)
    if compact is None and not _SEVERAL.fullmatch(gold.strip("(). ")):
        return valued(gold)
    letters = sorted(set(gold.upper() if compact else re.findall(r"\b[A-Z]\b", gold.upper())))
    return ", ".join(letters), "choice" if len(letters) == 1 else "set"


def scores(rows: Rows) -> dict:
    """Accuracy over all rows and by skill; a row with two skills counts for both.

    Source: arXiv 2407.04973; verdicts there are on letters that a language model extracts.
    """
    by_skill = {skill: [row for row in rows if skill in row["metadata"]["skill"].lower()] for skill in SKILLS}
    return {"Overall": mean_accuracy(rows)} | {skill: mean_accuracy(part) for skill, part in by_skill.items()}
