"""Verdicts on the tables of tests/answers, each of which was given by reading the answer, not by a rule."""

from collections import Counter
from pathlib import Path

import pytest

from ptdpo_cli.artifacts.schemas import ANSWER_TYPES, Problem
from ptdpo_cli.rewards import Response, check_answers, grade_all, verify
from ptdpo_cli.rewards.extract import WAYS as ALL_WAYS

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


# Kinds of rows of cases.tsv that no rule reads: a number among others, or in words, in prose; a formula in a macro; a
# yes behind other sentences, which HallusionBench's authors do not count.
NOT_READ = Counter([
    "chemistry", "option-reworded", "several-numbers", "conclusion-end", "conclusion-first", "conclusion-first",
    "conclusion-first", "conclusion-last", "approx", "leading-yes",
])


def cases() -> list[dict]:
    names = ("kind", "answer", "answer_type", "choices", "response", "expected", "why")
    lines = (Path(__file__).parent / "answers" / "cases.tsv").read_text(encoding="utf-8").splitlines()
    rows = [
        dict(zip(names, line.split("\t"), strict=True)) | {"line": number, "format": "", "precision": None}
        for number, line in enumerate(lines, 1)
        if not line.startswith("#")
    ]
    for row in rows:
        row["choices"] = tuple(row["choices"].split("|")) if row["choices"] else ()
        row["answer"], row["response"] = (row[name].replace("⏎", "\n") for name in ("answer", "response"))
    return rows


def test_the_cases_are_many_and_of_both_kinds():
    rows = cases()
    counts = Counter(row["expected"] for row in rows)
    assert len(rows) > 4000 and set(counts) == {"right", "wrong", "no_answer"} and counts["wrong"] > 1100
    assert len({(row["answer"], row["answer_type"], row["choices"], row["response"]) for row in rows}) == len(rows)


def test_every_case_is_graded_as_judged():
    rows = cases()
    grades = grade_all([Response(problem(row), row["response"], False, 0) for row in rows], extraction=ALL_WAYS)
    said = [f"line {row['line']} [{row['kind']}]: {row['response']!r} to {row['answer']!r} is {row['expected']}: "
            f"{row['why']}; the code says {grade.outcome} (read {grade.extracted!r} by {grade.extracted_by})"
            for row, grade in zip(rows, grades, strict=True)]
    judged = [(row["kind"], row["expected"] == "right", grade.accuracy == 1.0, text)
              for row, grade, text in zip(rows, grades, said, strict=True)]
    rewarded = [text for _, is_right, is_rewarded, text in judged if is_rewarded and not is_right]
    missed = [(kind, text) for kind, is_right, is_rewarded, text in judged if is_right and not is_rewarded]
    assert not rewarded, "\n".join(rewarded)
    assert Counter(kind for kind, _ in missed) == NOT_READ, "\n".join(text for _, text in missed)
    assert sum(NOT_READ.values()) <= 10
