"""Verdicts on the table of tests/answers/pairs.tsv, each of which was given by reading the answer, not by a rule."""

from pathlib import Path

import pytest

from ptdpo_cli.artifacts.schemas import ANSWER_TYPES, Problem
from ptdpo_cli.rewards import Response, check_answers, grade_all, verify

WAYS = {"box": ("boxed",), "all": ("boxed", "tag", "phrase", "letter")}


def table() -> list[dict]:
    names = ("verdict", "format", "answer_type", "choices", "precision", "answer", "ways", "response", "why")
    lines = (Path(__file__).parent / "answers" / "pairs.tsv").read_text(encoding="utf-8").splitlines()
    rows = [
        dict(zip(names, line.split("\t"), strict=True)) | {"line": number}
        for number, line in enumerate(lines, 1)
        if not line.startswith("#")
    ]
    for row in rows:
        row["choices"] = tuple(row["choices"].split("|")) if row["choices"] else ()
        row["precision"] = int(row["precision"]) if row["precision"] else None
        row["is_truncated"] = row["response"].endswith("[cut]")
        row["response"] = row["response"].removesuffix("[cut]").replace("⏎", "\n")
    return rows


def problem(row: dict) -> Problem:
    return Problem(f"line {row['line']}", "", (), row["answer"], answer_type=row["answer_type"], choices=row["choices"],
                   precision=row["precision"], source=row["format"])


def test_the_table_is_large_and_of_both_kinds():
    rows = table()
    assert len(rows) >= 320 and sum(row["verdict"] == "wrong" for row in rows) >= 110
    assert {row["verdict"] for row in rows} == {"right", "wrong"}
    assert {row["answer_type"] for row in rows} == set(ANSWER_TYPES)
    for answer_type in ANSWER_TYPES:
        of_type = [row for row in rows if row["answer_type"] == answer_type]
        assert {row["verdict"] for row in of_type} == {"right", "wrong"}


def test_every_verdict_is_as_read():
    rows = table()
    said: dict[int, str] = {}
    for name, ways in WAYS.items():
        part = [row for row in rows if row["ways"] == name]
        grades = grade_all(
            [Response(problem(row), row["response"], row["is_truncated"], 0) for row in part], extraction=ways
        )
        for row, grade in zip(part, grades, strict=True):
            assert (grade.outcome == "right") == (grade.accuracy == 1.0)
            said[row["line"]] = f"{'right' if grade.accuracy else 'wrong'} (read {grade.extracted!r})"
    for row in rows:
        if row["ways"] == "-":
            right = verify(row["response"], row["answer"], row["answer_type"], row["choices"], row["precision"])
            said[row["line"]] = "right" if right else "wrong"
    assert len(said) == len(rows)
    differing = [
        f"line {row['line']}: {row['response']!r} to {row['answer']!r} is {row['verdict']}: {row['why']}; "
        f"the code says {said[row['line']]}"
        for row in rows
        if not said[row["line"]].startswith(row["verdict"])
    ]
    assert not differing, "\n".join(differing)


def test_every_answer_of_the_table_is_fit():
    assert check_answers([problem(row) for row in table()]) == []


@pytest.mark.parametrize("answer_type", ["integer", "float"])
def test_the_second_check_disagrees_where_the_number_types_are_stricter(answer_type):
    """A sum and π are numbers to math-verify and none to the exact rule: the rows that say so, and no others."""
    rows = [row for row in table() if row["answer_type"] == answer_type and row["ways"] == "box"]
    grades = grade_all([Response(problem(row), row["response"], row["is_truncated"], 0) for row in rows])
    checked = [grade for grade in grades if grade.agreed is not None]
    assert len(checked) > 20 and sum(grade.agreed for grade in checked) / len(checked) > 0.8
