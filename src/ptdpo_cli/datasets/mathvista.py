"""MathVista: mathematics in pictures of every kind (arXiv 2310.02255)."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import valued
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, accuracy_by, grouped, mean_accuracy
from ptdpo_cli.datasets.options import letter_of, listed
from ptdpo_cli.datasets.reading import LeftOut, short
from ptdpo_cli.errors import UsageError

CARD = Card(
    name="mathvista",
    hub="AI4Math/MathVista",
    splits={
        "testmini": Split(1000, (Table(split="testmini", clone="data/testmini.json"),)),
        "test": Split(5141, (Table(split="test"),)),
    },
    license="cc-by-sa-4.0",
    purpose="test",
    scoring="letter; integer; float to the precision of the row; list",
    test="testmini",
    notes="The answers of test are withheld: its rows cannot be used.",
    key="pid",
    repository="lupantech/MathVista",
)
# Of a row and of its metadata: what the authors' table breaks the accuracy down by.
_OF_ROW = ("question_type", "answer_type")
_OF_METADATA = ("language", "source", "category", "task", "context", "grade")


def problem(row: Mapping, place: Place) -> Problem:
    """The reference of a multiple-choice row is the text of an option in the table, and its letter here."""
    pid = fields.text(row, "pid")
    gold = fields.text(row, "answer", "")
    if not gold:
        raise UsageError("the answer is withheld", expected="a row with an answer",
                         hint="only the split testmini has answers")
    question = fields.question(fields.text(row, "question"), (1,))
    if unit := fields.text(row, "unit", ""):
        question += f" (Unit: {unit})"
    kind, answer_type = fields.text(row, "question_type"), fields.text(row, "answer_type")
    choices, precision = fields.texts(row, "choices"), None
    if kind == "multi_choice":
        answer, answer_type = letter_of(gold, choices), "choice"
        question = listed(question, choices)
    elif answer_type == "float":
        answer, precision = gold, fields.integer(row, "precision")
        if precision is not None:
            question += f"\nGive the number with {precision} decimal place{'s' * (precision != 1)}."
    elif answer_type == "list":
        answer = gold
        if not isinstance(fields.literal(gold), list):
            raise LeftOut("the answer of type list is none", expected="such as [1, 2]", found=short(gold))
        question += "\nGive a list, such as [1, 2, 3]."
    elif answer_type == "integer":
        answer = gold
    else:
        answer, answer_type = fields.reference(valued, gold)
    about = row["metadata"]
    return Problem(
        problem_id=f"mathvista/{pid}",
        question=question,
        images=fields.picture(row, fields.first_of(row, "decoded_image", "image")),
        answer=answer,
        answer_type=answer_type,
        choices=choices if kind == "multi_choice" else (),
        precision=precision,
        category=fields.text(about, "category", ""),
        metadata={name: row[name] for name in _OF_ROW}
        | {name: fields.text(about, name, "") for name in _OF_METADATA}
        | {"skills": list(fields.texts(about, "skills"))},
        **fields.origin(CARD, place),
    )


def scores(rows: Rows) -> dict:
    """Accuracy over all rows and by each of the authors' breakdowns; a row counts once for each of its skills.

    Source: arXiv 2310.02255 and its code.
    """
    tables = {key: accuracy_by(rows, lambda row, key=key: row["metadata"][key]) for key in (*_OF_ROW, *_OF_METADATA)}
    by_skill = grouped([row | {"skill": skill} for row in rows for skill in row["metadata"]["skills"]],
                       lambda row: row["skill"])
    tables["skills"] = {skill: mean_accuracy(by_skill[skill]) for skill in sorted(by_skill)}
    return {"average": mean_accuracy(rows)} | tables
