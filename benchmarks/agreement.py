r"""How far our verdicts agree with those that others published: writes benchmarks/results/agreement.json.

    python benchmarks/agreement.py [--data ../shared/realdata] [--out runs/agreement]

The folder may hold any of these files:

    responses_*.jsonl         judged responses: set, model, id, type, gold, choices, response, official (true or false),
                              official_extraction
    *.tsv                     cases: what, gold, type, choices ("a|b|c"), response, expected outcome; in gold and
                              response "\n" is a line break where no small letter follows it
    math_verify_pairs.jsonl   gold, pred, expected (true or false), from a verifier's own tests; a gold gets its type
                              by its form
    *rows*.jsonl, k12.jsonl, mathverse*.jsonl
                              rows of public sets without their pictures, each file named after its set

What disagrees is written for reading into --out; the results hold numbers alone, for the data are others'.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from record import about, load_now, store

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets.answers import valued
from ptdpo_cli.datasets.cards import Place
from ptdpo_cli.datasets.catalog import ADAPTERS
from ptdpo_cli.errors import UsageError
from ptdpo_cli.mathtext.parts import parts
from ptdpo_cli.rewards import Grade, Response, check_answer, check_answers, grade_all
from ptdpo_cli.rewards.extract import WAYS

ROOT = Path(__file__).parents[1]
PAIRS = "math_verify_pairs.jsonl"
JUDGED = {"set": str, "model": str, "id": str, "type": str, "gold": str, "choices": list, "response": str,
          "official": bool, "official_extraction": object}
CASE = ("what", "gold", "type", "choices", "response", "expected")
PAIR = {"gold": str, "pred": str, "expected": bool}
# Columns of public rows that a copy of their text may lack, and on which no reference depends.
_PICTURE = {"bytes": b"a picture", "path": None}
_BESIDE = {"image": _PICTURE, "decoded_image": _PICTURE, **{f"image_{k}": _PICTURE for k in range(1, 8)},
           "solution": None, "reasoning": None, "subject": None}

Table = list[dict]          # what disagrees, a row each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "realdata", metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "agreement", metavar="FOLDER",
                        help="where the disagreements are written")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "agreement.json")
    args = parser.parse_args()
    load = load_now()
    try:
        numbers, tables, skipped = measured(args.data)
    except UsageError as error:
        raise SystemExit(f"error: {error}") from None
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        write_table(rows, args.out / f"{name}.tsv")
    store(numbers | about(load), args.results)
    print(f"\n{as_text(numbers)}\ndisagreements: {args.out}")


def measured(folder: Path) -> tuple[dict, dict[str, Table], list[str]]:
    """The numbers, what disagrees, and the rows that were skipped with the reason.

    Errors: UsageError for a folder that is missing, or has none of the files.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", expected="a folder of judged responses or public rows",
                         hint="give it with --data FOLDER")
    skipped: list[str] = []
    found = {"responses": judged_responses(folder, skipped), "cases": cases(folder, skipped),
             "pairs": pairs(folder, skipped), "references": references(folder, skipped)}
    numbers = {name: part for name, (part, _) in found.items() if part}
    if not numbers:
        raise UsageError(f"the folder {folder} has nothing that can be graded",
                         expected=f"responses_*.jsonl, *.tsv, {PAIRS}, *rows*.jsonl, k12.jsonl or mathverse*.jsonl",
                         found=f"rows that are skipped, such as {skipped[0]}" if skipped else "none of these",
                         hint="give another one with --data FOLDER")
    return numbers | {"skipped_rows": len(skipped)}, {name: table for name, (_, table) in found.items()}, skipped


# Judged responses

def judged_responses(folder: Path, skipped: list[str]) -> tuple[dict, Table]:
    """By public set: n, agreement with the publisher, false positives and negatives."""
    rows, said = [], []
    for file in sorted(folder.glob("responses_*.jsonl")):
        for where, row in objects(file, JUDGED, skipped):
            problem = Problem(row["id"], "", (), row["gold"], answer_type=row["type"],
                              choices=tuple(map(str, row["choices"])), source=row["set"])
            if (fault := unfit(problem)) is not None:
                skipped.append(f"{where}: {fault}")
                continue
            rows.append(row)
            said.append(Response(problem, row["response"], False, 0))
    by_set: dict[str, list[tuple[dict, Grade]]] = defaultdict(list)
    for row, grade in zip(rows, grade_all(said, extraction=WAYS, by_published=True), strict=True):
        by_set[row["set"]].append((row, grade))
    table = [
        {"kind": "false positive" if grade.accuracy else "false negative"} | row | about_grade(grade)
        for judged in by_set.values() for row, grade in judged if bool(grade.accuracy) != row["official"]
    ]
    return {name: against_the_publisher(judged) for name, judged in sorted(by_set.items())}, table


def against_the_publisher(judged: Sequence[tuple[dict, Grade]]) -> dict:
    """A false positive is right by us alone, a false negative by the publisher alone; unread: no rule found an answer.

    The last is how often the set's published rule, as `rewards.published` has it, says what the publisher says.
    """
    counts = Counter((bool(grade.accuracy), row["official"]) for row, grade in judged)
    missed = [grade for row, grade in judged if row["official"] and not grade.accuracy]
    by_rule = [bool(grade.published) == row["official"] for row, grade in judged if grade.published is not None]
    return {
        "n": len(judged),
        "agreement": round((counts[True, True] + counts[False, False]) / len(judged), 4),
        "false_positives": counts[True, False],
        "false_negatives": counts[False, True],
        "false_negatives_unread": sum(grade.extracted is None for grade in missed),
        "published_rule_agreement": round(sum(by_rule) / len(by_rule), 4) if by_rule else None,
    }


# Cases and pairs

def cases(folder: Path, skipped: list[str]) -> tuple[dict, Table]:
    """By file: n, how many differ, how many of these are right though another verdict was expected."""
    numbers, table = {}, []
    for file in sorted(folder.glob("*.tsv")):
        if not (rows := list(case_rows(file, skipped))):
            continue
        problems = [Problem(row["what"], "", (), row["gold"], answer_type=row["type"],
                            choices=tuple(filter(None, row["choices"].split("|")))) for row in rows]
        said = [(problem, row["response"]) for problem, row in zip(problems, rows, strict=True)]
        found = list(zip(rows, verdicts(said), strict=True))
        differ = [(row, got) for row, got in found if row["expected"] not in names_of(got)]
        numbers[file.name] = {
            "n": len(rows),
            "differ": len(differ),
            "right_though_wrong": sum("right" in names_of(got) for _, got in differ),
        }
        table += [{"file": file.name} | row | about_grade(got) for row, got in differ]
    return numbers, table


def case_rows(file: Path, skipped: list[str]) -> Iterator[dict]:
    for where, line in lines_of(file):
        fields = line.split("\t")
        if line.startswith("#"):
            continue
        if len(fields) < len(CASE):
            skipped.append(f"{where}: no {CASE[len(fields)]}")
            continue
        row = dict(zip(CASE, fields, strict=False))
        yield row | {name: re.sub(r"\\n(?![a-z])", "\n", row[name]) for name in ("gold", "response")}


def pairs(folder: Path, skipped: list[str]) -> tuple[dict, Table]:
    """As `cases`; a gold that is no reference, such as a worked solution, is refused, and nothing is right by it."""
    rows = [row for _, row in objects(folder / PAIRS, PAIR, skipped)] if (folder / PAIRS).is_file() else []
    if not rows:
        return {}, []
    said = [(typed(row["gold"]), row["pred"]) for row in rows]
    found = list(zip(rows, said, verdicts(said), strict=True))
    differ = [(row, problem, got) for row, (problem, _), got in found
              if row["expected"] != ("right" in names_of(got))]
    return {
        PAIRS: {
            "n": len(rows),
            "differ": len(differ),
            "right_though_wrong": sum(not row["expected"] for row, _, _ in differ),
            "refused": sum(got is None for *_, got in found),
        }
    }, [row | {"type": problem.answer_type} | about_grade(got) for row, problem, got in differ]


def typed(gold: str) -> Problem:
    """A problem of which only the reference is known; without one where it cannot be read."""
    try:
        answer, answer_type = valued(gold)
    except UsageError:
        answer, answer_type = "", "text"
    return Problem("", "", (), answer, answer_type=answer_type)


def verdicts(said: Sequence[tuple[Problem, str]]) -> list[Grade | None]:
    """The grade of each response; None where the reference is refused."""
    fit = [unfit(problem) is None for problem, _ in said]
    responses = [Response(problem, text, False, 0) for (problem, text), is_fit in zip(said, fit, strict=True) if is_fit]
    grades = iter(grade_all(responses, extraction=WAYS))
    return [next(grades) if is_fit else None for is_fit in fit]


def names_of(grade: Grade | None) -> tuple[str, ...]:
    """What a verdict is called: a contradiction is also wrong."""
    if grade is None:
        return ("refused",)
    return (grade.outcome, "wrong") if grade.outcome == "contradiction" else (grade.outcome,)


# References

def references(folder: Path, skipped: list[str]) -> tuple[dict, Table]:
    """By file: rows, those left out, references that fail their proof, and those of which a part is right.

    The last is not asked of the proof but of a response that boxes the part, algebra included.
    """
    files = {file for pattern in ("*rows*.jsonl", "k12.jsonl", "mathverse*.jsonl") for file in folder.glob(pattern)}
    numbers, table = {}, []
    for file in sorted(files):
        if (adapter := adapter_of(file.stem)) is None:
            skipped.append(f"{file.name}: the file is named after no public set")
            continue
        problems, left_out = problems_of(file, adapter, skipped)
        failing = check_answers(problems)
        fit = [problem for problem in problems if unfit(problem) is None and problem.answer_type != "choice"]
        boxed = [Response(problem, f"\\boxed{{{part}}}", False, 0) for problem in fit for part in parts(problem.answer)]
        right = [one for one, grade in zip(boxed, grade_all(boxed), strict=True) if grade.accuracy]
        numbers[file.name] = {
            "n": len(problems) + left_out,
            "left_out": left_out,
            "fail_their_proof": len(failing),
            "part_is_right": len({one.problem.problem_id for one in right}),
        }
        table += [_reference(file, problem) | {"what": str(fault)} for problem, fault in failing]
        table += [_reference(file, one.problem) | {"what": f"right, though a part: {one.text}"} for one in right]
    return numbers, table


def adapter_of(stem: str) -> ModuleType | None:
    """The adapter after whose set a file is named, the longest name first; K12 is laid out as MMK12."""
    plain = "mm" + stem if stem == "k12" else re.sub("[-_]", "", stem)
    names = sorted(ADAPTERS, key=len, reverse=True)
    return next((ADAPTERS[name] for name in names if plain.startswith(re.sub("[-_]", "", name))), None)


def problems_of(file: Path, adapter: ModuleType, skipped: list[str]) -> tuple[list[Problem], int]:
    """The problems of a file's rows, and how many rows are left out because the source is broken."""
    splits = adapter.CARD.splits
    split = next((name for name in splits if name.replace("-", "_") in file.stem), next(iter(splits)))
    problems, left_out = [], 0
    for number, (where, row) in enumerate(objects(file, {}, skipped), 1):
        try:
            problems.append(adapter.problem(_BESIDE | row, Place(split, splits[split].tables[0], number)))
        except KeyError as error:
            skipped.append(f"{where}: no {error.args[0]}")
        except UsageError:
            left_out += 1
    return problems, left_out


def _reference(file: Path, problem: Problem) -> dict:
    return {"file": file.name, "id": problem.problem_id, "type": problem.answer_type, "gold": problem.answer}


# Reading and writing

def lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a file that are not blank, with where each stands. Errors: UsageError where it is no text."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read", expected="text in UTF-8", found=str(error)) from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{file.name}, line {number}", line.rstrip("\r")


def objects(file: Path, fields: dict[str, type], skipped: list[str]) -> Iterator[tuple[str, dict]]:
    """The objects of a JSONL file with where each stands; one without a field, or of another type, is skipped."""
    for where, line in lines_of(file):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            skipped.append(f"{where}: no JSON object")
        elif missing := [name for name, type_ in fields.items() if not (name in row and isinstance(row[name], type_))]:
            skipped.append(f"{where}: no {', no '.join(missing)}")
        else:
            yield where, row


def unfit(problem: Problem) -> str | None:
    """Why nothing can be compared with a reference; None where something can."""
    try:
        check_answer(problem.answer, problem.answer_type, problem.choices)
    except UsageError as error:
        return error.what
    return None


def about_grade(grade: Grade | None) -> dict:
    if grade is None:
        return {"outcome": "refused", "extracted": "", "extracted_by": ""}
    return {"outcome": grade.outcome, "extracted": grade.extracted, "extracted_by": grade.extracted_by}


def write_table(rows: Table, path: Path) -> None:
    """A line each, what is long last; line breaks and tabs as \\n and \\t."""
    names = sorted(dict.fromkeys(name for row in rows for name in row), key=lambda name: name in ("response", "what"))
    lines = ["\t".join(names), *("\t".join(_one_line(row.get(name)) for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _one_line(value) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("\r", "").replace("\n", "\\n").replace("\t", "\\t")


def as_text(numbers: dict) -> str:
    """The numbers as tables in Markdown, one of each kind."""
    lines = []
    for kind, by_name in numbers.items():
        if isinstance(by_name, dict):
            heads = [name.replace("_", " ") for name in next(iter(by_name.values()))]
            lines += [f"| {kind} | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
            lines += [f"| {name} | {' | '.join(map(_cell, row.values()))} |" for name, row in by_name.items()]
            lines.append("")
    return "\n".join([*lines, f"skipped rows: {numbers['skipped_rows']}"])


def _cell(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    main()
