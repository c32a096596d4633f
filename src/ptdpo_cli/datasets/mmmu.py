"""MMMU: college exams of 30 subjects, merged into one table (arXiv 2311.16502)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import choice_or_value
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, accuracy_by, mean_accuracy
from ptdpo_cli.datasets.options import chosen, listed, unlabelled
from ptdpo_cli.datasets.reading import LeftOut, short
from ptdpo_cli.errors import UsageError

CARD = Card(
    name="mmmu",
    hub="lmms-lab/MMMU",
    splits={
        "dev": Split(150, (Table(split="dev"),)),
        "validation": Split(900, (Table(split="validation"),)),
        "test": Split(10500, (Table(split="test"),)),
    },
    license="Apache-2.0",
    purpose="test",
    scoring="letter; of an open question the first of the accepted answers, by its type",
    test="validation",
    key="id",
    notes="The merged copy of MMMU/MMMU, which has a config for each subject. Rows of test whose answer is '?' are "
          "withheld and cannot be used. The authors accept an open answer that occurs inside the response.",
)
DISCIPLINES = {
    "Art & Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health & Medicine": ("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine",
                          "Pharmacy", "Public_Health"),
    "Humanities & Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech & Engineering": ("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics",
                           "Energy_and_Power", "Materials", "Mechanical_Engineering"),
}
_DISCIPLINE_OF = {subject: name for name, subjects in DISCIPLINES.items() for subject in subjects}


def problem(row: Mapping, place: Place) -> Problem:
    """The subject is the middle of the id, as in validation_Art_Theory_3."""
    own_id = fields.text(row, "id")
    subject = own_id.partition("_")[2].rpartition("_")[0]
    if subject not in _DISCIPLINE_OF:
        raise UsageError("the id names no subject of MMMU", expected="such as validation_Art_Theory_3", found=own_id)
    gold = fields.text(row, "answer")
    if gold == "?":
        raise UsageError("the answer is withheld", expected="a row with an answer",
                         hint="the splits dev and validation have answers")
    images = fields.numbered_pictures(row)
    question = fields.question(fields.text(row, "question"), tuple(images))
    choices: tuple[str, ...] = ()
    accepted: list[str] = []
    if fields.text(row, "question_type") == "multiple-choice":
        choices = image_options(row, tuple(images))
        answer, answer_type = chosen(gold, choices)
    else:
        accepted = _accepted(gold)
        answer, answer_type, _ = fields.reference(lambda text: choice_or_value(text, ""), accepted[0])
    return Problem(
        problem_id=f"mmmu/{own_id}",
        question=listed(question, choices),
        images=tuple(images.values()),
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        solution=fields.text(row, "explanation", "") or None,
        category=subject,
        metadata={"subject": subject, "discipline": _DISCIPLINE_OF[subject], "answers": accepted,
                  "topic_difficulty": fields.text(row, "topic_difficulty", "")},
        **fields.origin(CARD, place),
    )


def image_options(row: Mapping, numbers: Sequence[int] | None) -> tuple[str, ...]:
    """The options of a string that holds a list; one that is a picture says which, as in "image 2".

    `numbers` is as for `fields.naming`. Errors: LeftOut if there are fewer than two options.
    """
    choices = unlabelled([fields.naming(option, numbers) for option in fields.written_list(row, "options")])
    if len(choices) < 2:
        raise LeftOut("a multiple-choice question has fewer than two options", found=short(row["options"]))
    return choices


def _accepted(gold: str) -> list[str]:
    """The answers that an open question accepts: one, or those of a string that holds a list."""
    several = fields.literal(gold) if gold.startswith("[") else None
    if isinstance(several, list) and several:
        return [str(answer).strip() for answer in several]
    return [gold]


def scores(rows: Rows) -> dict:
    """Accuracy over all rows, by discipline and by subject: means over questions, not over subjects."""
    return {"Overall": mean_accuracy(rows)} | {
        key: accuracy_by(rows, lambda row, key=key: row["metadata"][key]) for key in ("discipline", "subject")
    }
