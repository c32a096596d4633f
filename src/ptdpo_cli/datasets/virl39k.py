"""ViRL39K: questions with answers that rules can check, gathered for training (arXiv 2504.08837)."""

from __future__ import annotations

from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import easyr1, fields
from ptdpo_cli.datasets.cards import Card, Place, Split, Table

CARD = Card(
    name="virl39k",
    hub="TIGER-Lab/ViRL39K",
    splits={"train": Split(38870, (Table(files="39Krelease.parquet", archive="images.zip"),))},
    license="MIT",
    purpose="train",
    scoring="letter, number or expression by value, or text, as the form of the answer says",
    train="train",
    key="qid",
    notes="Rows name their pictures by paths in images.zip, so that load_dataset cannot read the repository. "
          "metadata has the pass rates; a rate that is not in 0…1 is one that was not measured.",
)
_PASS_RATES = ("PassRate_32BTrained", "PassRate_7BBase")


def problem(row: Mapping, place: Place) -> Problem:
    r"""The reference is one `\boxed{…}`."""
    return easyr1.asked(
        fields.text(row, "question"), fields.pictures(row, "image"), fields.text(row, "answer"), place, CARD,
        f"virl39k/{fields.text(row, 'qid')}",
        category=fields.text(row, "category", ""),
        metadata={name: _rate(row.get(name)) for name in _PASS_RATES} | {"source": fields.text(row, "source", "")},
    )


def _rate(value) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= 1 else None              # −1 and NaN: not measured
