"""We-Math: composite problems and the single steps that they consist of (arXiv 2407.01284)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import fields
from ptdpo_cli.datasets.cards import Card, Place, Split, Table
from ptdpo_cli.datasets.metrics import Rows, grouped, mean_accuracy
from ptdpo_cli.datasets.options import chosen, listed, options_of
from ptdpo_cli.errors import UsageError

CARD = Card(
    name="we-math",
    hub="We-Math/We-Math",
    splits={"testmini": Split(1740, (Table(split="testmini", clone="data/testmini.json"),))},
    license="cc-by-nc-4.0",
    purpose="test",
    scoring="letter; four metrics over 525 composite problems",
    test="testmini",
    notes="1,215 steps, 360 problems of two steps and 165 of three. A sample of the rows has no composites.",
    key="ID",
    repository="We-Math/We-Math",
)
_KEY = re.compile(r"([23])steps_([1-3]|multi)")


def problem(row: Mapping, place: Place) -> Problem:
    """One step, or one whole problem ("multi"); ID and the number of steps join them."""
    own_id, key = fields.text(row, "ID"), fields.text(row, "key")
    match = _KEY.fullmatch(key)
    if match is None or (match[2] == "3" and match[1] == "2"):
        raise UsageError("the key is none of We-Math's", expected="2steps_1, 2steps_2, 2steps_multi, 3steps_1, …",
                         found=key)
    choices = options_of(fields.text(row, "option"))
    question = fields.question(fields.text(row, "question"), (1,))
    answer, answer_type = chosen(fields.text(row, "answer"), choices)
    return Problem(
        problem_id=f"we-math/{own_id}/{key}",
        question=listed(question, choices),
        images=fields.picture(row, "image_path"),
        answer=answer,
        answer_type=answer_type,
        choices=choices,
        family=f"we-math/{match[1]}steps/{own_id}",
        category=fields.text(row, "knowledge concept", ""),
        metadata={"steps": int(match[1]), "step": match[2]},
        **fields.origin(CARD, place),
    )


def scores(rows: Rows) -> dict:
    """The four metrics over composite problems, strict and loose, and the accuracy by number of steps.

        composite right   CM CompleteMastery, or RM RoteMemorization: strict if any step is wrong, loose if all are
        composite wrong   IG InadequateGeneralization if all steps are right, else IK InsufficientKnowledge
        Score = (N − 0.5 IG − RM − IK) / N        RM rate = RM / (CM + RM)        CM, IG, IK rate = count / N

    N is 525 for the whole set. A composite of which a row is missing or unjudged is left out and counted as
    `incomplete`; the authors' code divides by 525 in any case. None where a share has nothing to be a share of.
    Source: arXiv 2407.01284 and its code.
    """
    composites = list(filter(None, map(_judged, grouped(rows, lambda row: row["family"]).values())))
    table = {name: _table(composites, is_strict) for name, is_strict in (("strict", True), ("loose", False))}
    return table | {
        "accuracy": {
            "one-step": mean_accuracy([row for row in rows if row["metadata"]["step"] != "multi"]),
            "two-step": mean_accuracy(_whole(rows, 2)),
            "three-step": mean_accuracy(_whole(rows, 3)),
        },
        "composites": len(composites),
        "incomplete": len({row["family"] for row in rows}) - len(composites),
    }


def _judged(rows: Rows) -> tuple[bool, list[bool]] | None:
    """Whether a composite and each of its steps is right; None if one of them is missing or unjudged."""
    verdicts = {row["metadata"]["step"]: row["accuracy"] for row in rows}
    steps = [verdicts.get(str(k)) for k in range(1, rows[0]["metadata"]["steps"] + 1)]
    if verdicts.get("multi") is None or None in steps:
        return None
    return verdicts["multi"] == 1, [verdict == 1 for verdict in steps]


def _table(composites: list[tuple[bool, list[bool]]], is_strict: bool) -> dict[str, float | int | None]:
    counts = dict.fromkeys(("CM", "RM", "IG", "IK"), 0)
    for is_right, steps in composites:
        if is_right:
            is_rote = not all(steps) if is_strict else not any(steps)
            counts["RM" if is_rote else "CM"] += 1
        else:
            counts["IG" if all(steps) else "IK"] += 1
    total, right = len(composites), counts["CM"] + counts["RM"]
    lost = 0.5 * counts["IG"] + counts["RM"] + counts["IK"]
    rates = {f"{name} rate": _share(counts[name], right if name == "RM" else total) for name in counts}
    return {"Score": _share(total - lost, total)} | counts | rates


def _whole(rows: Rows, steps: int) -> list[Mapping]:
    return [row for row in rows if row["metadata"]["step"] == "multi" and row["metadata"]["steps"] == steps]


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
