"""DynaMath: 501 questions, each in ten variants with other numbers and pictures (arXiv 2411.00836)."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.answers import valued
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, accuracy_by, all_right, grouped, mean_accuracy
from ptdpo_cli.datasets.options import chosen_inside

VARIANTS = 10
_CLONE = "samples and result/10trials/trial{}/dataset.json"
_TABLES = tuple(Table(split=f"sample_variant{k}", clone=_CLONE.format(k)) for k in range(1, VARIANTS + 1))
CARD = Card(
    name="dynamath",
    hub="DynaMath/DynaMath_Sample",
    splits={f"variant{k}": Split(501, (table,)) for k, table in enumerate(_TABLES, 1)}
    | {"all": Split(501 * VARIANTS, _TABLES)},
    license="Apache-2.0",
    purpose="test",
    scoring="float to three decimals; letter; text; the worst case over the ten variants",
    test="all",
    notes="The authors accept a float within 0.001, and a text that occurs inside the reference.",
    key="id",
    repository="DynaMath/DynaMath",
)


def problem(row: Mapping, place: Place) -> Problem:
    """`family` is the question, of which each table has one variant.

    The authors' repository calls some columns otherwise than their table on the Hub.
    """
    variant = place.table.split.removeprefix("sample_")
    own_id = fields.text(row, "id")
    question = fields.question(fields.text(row, "question"), (1,))
    gold = fields.text(row, fields.first_of(row, "ground_truth", "answer"))
    kind = fields.text(row, "answer_type")
    choices: tuple[str, ...] = ()
    precision = None
    if kind == "multiple choice":
        answer, answer_type, choices = chosen_inside(gold, question)
    elif kind == "float":
        answer, answer_type = fields.reference(valued, gold)
        if answer_type in ("integer", "float"):
            answer_type, precision = "float", 3
    else:
        answer, answer_type = gold, "text"
    subject = fields.text(row, "subject", "")
    level = fields.text(row, fields.first_of(row, "knowledge_level", "level"), "")
    return Problem(
        problem_id=f"dynamath/{variant}/{own_id}",
        question=question,
        images=fields.picture(row, fields.first_of(row, "decoded_image", "image")),
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        precision=precision,
        family=f"dynamath/{own_id}",
        category=subject,
        metadata={"variant": variant, "subject": subject, "knowledge_level": level},
        **fields.origin(CARD, place),
    )


def scores(rows: Rows) -> dict:
    """Average and worst case over the questions, and their ratio; both also by subject and level.

        average = mean accuracy        worst case = share of questions with all ten variants right
        reasoning robustness = worst case / average

    A question without ten judged variants is left out of the worst case and counted as `incomplete`. None where there
    is nothing to divide by. Source: arXiv 2411.00836.
    """
    whole = _complete(rows)
    average, worst = mean_accuracy(rows), all_right(whole)
    return {
        "average": average,
        "worst case": worst,
        "reasoning robustness": worst / average if average and worst is not None else None,
        "average by subject": accuracy_by(rows, lambda row: row["metadata"]["subject"]),
        "average by level": accuracy_by(rows, lambda row: row["metadata"]["knowledge_level"]),
        "worst case by subject": _worst_by(whole, "subject"),
        "worst case by level": _worst_by(whole, "knowledge_level"),
        "questions": len(whole),
        "incomplete": len({row["family"] for row in rows}) - len(whole),
    }


def _complete(rows: Rows) -> dict[str, Rows]:
    judged = [row for row in rows if row["accuracy"] is not None]
    families = grouped(judged, lambda row: row["family"])
    return {family: part for family, part in families.items()
            if len({row["metadata"]["variant"] for row in part}) == VARIANTS}


def _worst_by(whole: dict[str, Rows], key: str) -> dict[str, float | None]:
    names = sorted({part[0]["metadata"][key] for part in whole.values()})
    return {name: all_right({f: part for f, part in whole.items() if part[0]["metadata"][key] == name})
            for name in names}
