"""The nine benchmarks that PAPO (arXiv 2507.06448) and PTD-PO (arXiv 2606.07000) report, as PAPO prepared them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import easyr1, fields
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.errors import UsageError

# Part, the split that it is in the repository, what its zip is called there, its rows.
_PARTS = (
    ("mmk12", "PAPO_MMK12", "PAPO_MMK12_test", 2000),
    ("geometry3k", "hiyouga_geometry3k", "hiyouga_geometry3k", 601),
    ("mathverse", "AI4Math_MathVerse", "AI4Math_MathVerse", 2180),
    ("mathvista", "AI4Math_MathVista", "AI4Math_MathVista", 1000),
    ("we-math", "We_Math", "We-Math_We-Math", 1740),
    ("mmmu-pro", "MMMU_MMMU_Pro", "MMMU_MMMU_Pro", 1730),
    ("counting", "BUAADreamer_clevr_count_70k", "BUAADreamer_clevr_count_70k", 200),
    ("mathverse-v", "AI4Math_MathVerse_vision_dependent", "AI4Math_MathVerse_vision_dependent", 1308),
    ("logicvista", "lscpku_LogicVista", "lscpku_LogicVista", 447),
)
_TABLES = {
    part: Table(split=split, archive=f"{zipped}_images.zip", source=f"papo-eval/{part}")
    for part, split, zipped, _ in _PARTS
}
CARD = Card(
    name="papo-eval",
    hub="PAPO-Galaxy/PAPO_eval",
    splits={part: Split(rows, (_TABLES[part],)) for part, *_, rows in _PARTS}
    | {"all": Split(sum(part[-1] for part in _PARTS), tuple(_TABLES.values()))},
    license="unknown",
    purpose="test",
    scoring="letter, number or expression by value, or text, as the form of the answer says",
    test="all",
    key="id",
    notes="Licences are those of the nine sets. Known from readers of the repository alone: the layout of rows, the "
          "paths of pictures, how many rows a part has. MathVista and MathVerse lack most free-form questions, "
          "MMMU-Pro is its split vision, We-Math has no keys and so none of its four metrics. Rows do not say "
          "which of them are versions of one problem of MathVerse: intervals take them for independent.",
)
# PAPO writes its instruction behind every question; ours comes from the recipe.
_INSTRUCTION = re.compile(r"\s*You first think through the reasoning process as an internal monologue\b.*\Z", re.DOTALL)
_UNPACKED = re.compile(r"(?:\./)*(?:data/)?(?:images/)?")       # where PAPO unpacks the zips
_SPEAKERS = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


def problem(row: Mapping, place: Place) -> Problem:
    """A turn that asks and one that answers, in `messages` or `conversations`; or `problem` and `answer`."""
    part = place.table.source.removeprefix("papo-eval/")
    own_id = fields.text(row, "id", "") if "id" in row else ""
    question, reference = _turns(row)
    question = _INSTRUCTION.sub("", question)
    if not question.replace("<image>", "").strip():             # MMMU-Pro, and MathVerse's version Vision Only
        question = fields.READ_THE_PICTURE
    return easyr1.asked(
        question,
        tuple(_path(value) for value in fields.pictures(row, "images" if "images" in row else "image")),
        reference, place, CARD, f"papo-eval/{part}/{own_id or place.number}",
        category=part,
    )


def _turns(row: Mapping) -> tuple[str, str]:
    name = next((name for name in ("messages", "conversations") if row.get(name) is not None), None)
    if name is None:
        return fields.text(row, "problem"), fields.text(row, "answer")
    said: dict[str, str] = {}
    for turn in fields.turns(row[name], name):
        said.setdefault(_SPEAKERS.get(turn[0], ""), turn[1])
    for speaker in ("user", "assistant"):
        if speaker not in said:
            raise UsageError(f"there is no turn of the {speaker} in {name}", expected="one of user and assistant",
                             found=", ".join(said) or "none")
    return fields.as_text(said["user"], "question"), fields.as_text(said["assistant"], "answer")


def _path(value):
    """A picture's path inside the zip; pictures in the table stay as they are."""
    return value[_UNPACKED.match(value).end():] if isinstance(value, str) else value
