"""MathVerse: 788 problems in versions that move what they say from text into picture (arXiv 2403.14624)."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import valued
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, accuracy_by, mean_accuracy
from ptdpo_cli.datasets.options import LETTERS, lettered, options_in
from ptdpo_cli.errors import UsageError

CARD = Card(
    name="mathverse",
    hub="AI4Math/MathVerse",
    splits={
        "testmini": Split(3940, (Table("testmini", "testmini"),)),
        "text-only": Split(788, (Table("testmini_text_only", "testmini_text_only"),)),
    },
    license="MIT",
    purpose="test",
    scoring="letter; free form by its type",
    test="testmini",
    notes="testmini has five versions of each problem: intervals go by problem. text-only has no pictures. "
          "The authors let a language model judge; PAPO leaves the free-form rows out.",
)


def problem(row: Mapping, place: Place) -> Problem:
    """Of the version "Vision Only" the question is in the picture, and of "Text Only" there is no picture."""
    version = fields.text(row, "problem_version")
    is_text_only = version.lower().replace("_", " ") == "text only"
    images = () if is_text_only else fields.picture(row, "image")
    asked = fields.text(row, "question", "")
    if asked:
        question = fields.question(asked, range(1, len(images) + 1))
    elif version.lower().replace("_", " ") == "vision only":
        question = fields.READ_THE_PICTURE
    else:
        raise UsageError("the question is empty", expected=f"text, for the version is {version!r}")
    gold = fields.text(row, "answer")
    choices: tuple[str, ...] = ()
    if fields.text(row, "question_type") == "multi-choice":
        choices = options_in(question)
        answer, answer_type = lettered(gold, ()), "choice"
        choices = choices if answer in LETTERS[:len(choices)] else ()
    else:
        answer, answer_type = valued(gold)
    about = row["metadata"]
    index = fields.text(row, "sample_index")
    return Problem(
        problem_id=f"mathverse/text-only/{index}" if is_text_only else f"mathverse/{index}",
        question=question,
        images=images,
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        family=f"mathverse/{fields.text(row, 'problem_index')}",
        category=fields.text(about, "subject", ""),
        metadata={"problem_version": version, "subject": fields.text(about, "subject", ""),
                  "subfield": fields.text(about, "subfield", "")},
        **fields.origin(CARD, place),
    )


def scores(rows: Rows) -> dict:
    """Accuracy over all rows and by version, subject and subfield.

    Source: arXiv 2403.14624, whose verdicts are a language model's.
    """
    return {"average": mean_accuracy(rows)} | {
        key: accuracy_by(rows, lambda row, key=key: row["metadata"][key])
        for key in ("problem_version", "subject", "subfield")
    }
