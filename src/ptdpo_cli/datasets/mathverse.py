"""MathVerse: 788 problems in versions that move what they say from text into picture (arXiv 2403.14624)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import choice_or_value
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, accuracy_by, mean_accuracy
from ptdpo_cli.datasets.options import chosen_inside, options_in
from ptdpo_cli.datasets.reading import LeftOut, short

CARD = Card(
    name="mathverse",
    hub="AI4Math/MathVerse",
    splits={
        "testmini": Split(3940, (Table("testmini", "testmini"),)),
        "text-only": Split(788, (
            Table("testmini_text_only", "testmini_text_only", clone="data/testmini_text_only.json"),)),
    },
    license="MIT",
    purpose="test",
    scoring="letter; free form by its type",
    test="testmini",
    notes="testmini has five versions of each problem: intervals go by problem. text-only has no pictures. "
          "The authors let a language model judge; PAPO leaves the free-form rows out.",
    key="sample_index",
    repository="ZrrSkywalker/MathVerse",
)
# Problems whose reference is broken in every version, and how.
BROKEN = {
    "629": "the reference is a name, and the question asks for an amount",
}
_LOST_COMMAND = re.compile(r"^\{[^{}]+\}\s*\{[^{}]+\}")       # "{8}{5}" was a fraction, or a binomial


def problem(row: Mapping, place: Place) -> Problem:
    """Of the version "Vision Only" the question is in the picture, and of "Text Only" there is no picture.

    `question_for_eval`, where a revision has it, is the question that the picture shows, with its options.
    """
    version = fields.text(row, "problem_version")
    is_text_only = version.lower().replace("_", " ") == "text only"
    images = () if is_text_only else fields.picture(row, "image")
    asked = fields.text(row, "question", "")
    if asked:
        question = fields.question(asked, range(1, len(images) + 1))
    elif version.lower().replace("_", " ") == "vision only":
        question = fields.READ_THE_PICTURE
    else:
        raise LeftOut("the question is empty", expected=f"text, for the version is {version!r}")
    of = fields.text(row, "problem_index")
    gold = fields.text(row, "answer")
    if of in BROKEN or _LOST_COMMAND.match(gold):
        raise LeftOut(BROKEN.get(of, "the reference has lost a LaTeX command"), found=short(gold))
    shown = asked or (fields.text(row, "question_for_eval", "") if "question_for_eval" in row else "")
    answer, answer_type, choices = _reference(gold, shown, fields.text(row, "question_type") == "multi-choice")
    about = row["metadata"]
    index = fields.text(row, "sample_index")
    return Problem(
        problem_id=f"mathverse/text-only/{index}" if is_text_only else f"mathverse/{index}",
        question=question,
        images=images,
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        family=f"mathverse/{of}",
        category=fields.text(about, "subject", ""),
        metadata={"problem_version": version, "subject": fields.text(about, "subject", ""),
                  "subfield": fields.text(about, "subfield", "")},
        **fields.origin(CARD, place),
    )


def _reference(gold: str, question: str, is_choice: bool) -> tuple[str, str, tuple[str, ...]]:
    """(answer, type, choices): a free-form question may list options, and a multi-choice one have them in the picture.

    In the picture the options cannot be read, and so a reference that is no letter is taken by its value.
    """
    choices = options_in(question)
    if is_choice or choices:
        try:
            return chosen_inside(gold, question)
        except LeftOut:
            if is_choice and choices:
                raise
    return fields.reference(lambda text: choice_or_value(text, question), gold)


def scores(rows: Rows) -> dict:
    """Accuracy over all rows and by version, subject and subfield.

    Source: arXiv 2403.14624, whose verdicts are a language model's.
    """
    return {"average": mean_accuracy(rows)} | {
        key: accuracy_by(rows, lambda row, key=key: row["metadata"][key])
        for key in ("problem_version", "subject", "subfield")
    }
