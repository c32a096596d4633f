"""HallusionBench: yes-or-no questions about figures and their altered versions (arXiv 2310.14566)."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, all_right, grouped, mean_accuracy
from ptdpo_cli.datasets.reading import LeftOut

_IMAGE, _NON_IMAGE = Table(split="image"), Table(split="non_image")
CARD = Card(
    name="hallusionbench",
    hub="lmms-lab/HallusionBench",
    splits={
        "image": Split(951, (_IMAGE,)),
        "non_image": Split(178, (_NON_IMAGE,)),
        "all": Split(1129, (_IMAGE, _NON_IMAGE)),
    },
    license="BSD-3-Clause",
    purpose="test",
    scoring="yes or no; aAcc, fAcc, qAcc",
    test="image",
    notes="The licence is that of the authors' code. The authors let a language model judge all 1,129 rows and count "
          "'cannot tell' as right where there is no figure; lmms-eval takes the 951 rows of image.",
)
_ANSWERS = {"0": "no", "1": "yes"}
_KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id")


def problem(row: Mapping, place: Place) -> Problem:
    """Rows of non_image have no picture. `family` is the set: all questions about a figure and its versions."""
    gold = fields.text(row, "gt_answer")
    if gold not in _ANSWERS:
        raise LeftOut("the answer is neither yes nor no", expected='"0" for no, "1" for yes', found=gold)
    keys = {name: fields.text(row, name) for name in _KEYS}
    images = () if place.table.split == "non_image" else fields.picture(row, "image")
    return Problem(
        problem_id="hallusionbench/" + "/".join(keys.values()),
        question=f"{fields.question(fields.text(row, 'question'), range(1, len(images) + 1))}\nAnswer yes or no.",
        images=images,
        answer=_ANSWERS[gold],
        answer_type="text",
        family="hallusionbench/" + "/".join(list(keys.values())[:3]),
        category=keys["category"],
        metadata=keys,
        **fields.origin(CARD, place),
    )


def scores(rows: Rows) -> dict:
    """aAcc, fAcc and qAcc, of all rows and of each category and subcategory.

        aAcc   share of right answers
        fAcc   share of figures with all questions right: rows of one (category, subcategory, set, figure)
        qAcc   share of questions right for all figures: rows of one (category, subcategory, set, question)

    Rows of category VS with figure 0 have no figure and count in no fAcc. Figures and questions with an unjudged row
    are left out. Source: arXiv 2310.14566 and its code. VLMEvalKit leaves the category out of the keys,
    which joins the sets that are called ocr in both.
    """
    parts = {"all": list(rows)}
    parts |= grouped(rows, lambda row: row["metadata"]["category"])
    parts |= grouped(rows, lambda row: f"{row['metadata']['category']} {row['metadata']['subcategory']}")
    return {name: _accuracies(part) for name, part in parts.items()}


def _accuracies(rows: Rows) -> dict[str, float | None]:
    with_figure = [row for row in rows if not (row["metadata"]["category"] == "VS"
                                               and row["metadata"]["figure_id"] == "0")]
    return {
        "aAcc": mean_accuracy(rows),
        "fAcc": all_right(grouped(with_figure, lambda row: _key(row, "figure_id"))),
        "qAcc": all_right(grouped(rows, lambda row: _key(row, "question_id"))),
    }


def _key(row: Mapping, last: str) -> tuple[str, ...]:
    return tuple(row["metadata"][name] for name in ("category", "subcategory", "set_id", last))
