"""`ptdpo data`: which data sets are known by name, and what is in a data set or wrong with it."""

from __future__ import annotations

import hashlib
from collections import Counter

from rich.console import Console
from rich.table import Table

from ptdpo_cli.artifacts.images import image_hash
from ptdpo_cli.datasets import cards, default_split, look_at
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.problems import reading_options

_SHOWN_CATEGORIES = 20


def data_sets() -> list[dict]:
    """Every data set with a name: where it lies, rows of each split, licence, purpose, scoring."""
    return [
        {
            "name": card.name, "hub": card.hub or None, "splits": {name: s.rows for name, s in card.splits.items()},
            "license": card.license, "purpose": card.purpose, "train": card.train, "test": card.test,
            "scoring": card.scoring, "notes": card.notes,
        }
        for card in cards().values()
    ]


def render_data_sets(found: list[dict], console: Console) -> None:
    """One line per data set; `*` marks the split for training, `†` the one for evaluation."""
    table = Table("name", "splits (rows)", "licence", "for", "scored by", box=None, pad_edge=False)
    for one in found:
        splits = ", ".join(
            f"{name}{'*' * (name == one['train'])}{'†' * (name == one['test'])} {'?' if rows is None else rows}"
            for name, rows in one["splits"].items()
        )
        table.add_row(one["name"], splits, one["license"], one["purpose"], one["scoring"])
    console.print(table, markup=False, soft_wrap=False)
    console.print("* taken for training, † for evaluation, where no split is named", markup=False)


def check(recipe: Recipe, split: str | None = None) -> dict:
    """What is wrong with a recipe's training data, row by row, and what is in the rows that are good.

    Rows of a public set that are left out, for their source is broken, are no faults.
    Errors: UsageError for what keeps all rows from being read: no such file, split or column.
    """
    data = recipe.data
    name, split = data.name, split or data.split or default_split(data.name, "train")
    problems = look_at(name, split=split, **reading_options(recipe))
    summary = _Summary()
    for problem in problems:
        summary.add(problem)
    return {
        "data": name, "split": split, "rows": len(problems) + len(problems.bad_rows) + len(problems.left_out),
        "bad_rows": [bad.to_dict() for bad in problems.bad_rows],
        "left_out": [row.to_dict() for row in problems.left_out], "problems": len(problems),
        **summary.result(),
    }


class _Summary:
    """What is counted of problems that go by one at a time."""

    def __init__(self):
        self.counts = Counter()
        self.types, self.categories, self.answers = Counter(), Counter(), Counter()
        self.pictures: set[str] = set()
        self.texts: dict[bytes, str] = {}
        self.duplicates: list[list[str]] = []

    def add(self, problem) -> None:
        names = [image_hash(data) for data in problem.images]
        self.pictures.update(names)
        self.counts.update(pictures=len(names), with_pictures=bool(names), with_choices=bool(problem.choices),
                           with_solutions=problem.solution is not None, with_regions=bool(problem.regions),
                           with_steps=bool(problem.steps))
        self.types[problem.answer_type] += 1
        self.categories[problem.category] += 1
        self.answers[problem.answer] += 1
        content = "\n".join([" ".join(problem.question.casefold().split()), *names])
        key = hashlib.sha256(content.encode()).digest()
        if key in self.texts:
            self.duplicates.append([self.texts[key], problem.problem_id])
        else:
            self.texts[key] = problem.problem_id

    def result(self) -> dict:
        (answer, times), = self.answers.most_common(1) or [(None, 0)]
        names = ("pictures", "with_pictures", "with_choices", "with_solutions", "with_regions", "with_steps")
        return {
            **{name: self.counts[name] for name in names}, "different_pictures": len(self.pictures),
            "answer_types": dict(self.types.most_common()),
            "categories": {name: n for name, n in self.categories.most_common() if name},
            "duplicates": self.duplicates,
            "most_frequent_answer": {"answer": answer, "share": times / max(1, self.answers.total())},
        }


def render_check(found: dict, console: Console) -> None:
    """The faults first, each with its row; then what is there."""

    def line(text: str) -> None:
        console.print(text, markup=False)

    for bad in found["bad_rows"]:
        for reason in bad["reasons"]:
            line(f"{bad['where']}: {reason}")
    if found["bad_rows"]:
        line(f"{len(found['bad_rows']):,} of {found['rows']:,} rows are bad")
    for row in found["left_out"]:
        line(f"left out: {row['where']}: {'; '.join(row['reasons'])}")
    if found["left_out"]:
        line(f"{len(found['left_out']):,} of {found['rows']:,} rows are left out, for their source is broken")
    if not found["problems"]:
        return
    types = ", ".join(f"{n:,} {name}" for name, n in found["answer_types"].items())
    frequent = found["most_frequent_answer"]
    line(f"{found['problems']:,} problems, {found['with_pictures']:,} of them with {found['pictures']:,} pictures "
         f"({found['different_pictures']:,} different)")
    line(f"answers: {types}; the most frequent, {frequent['answer']!r}, is {frequent['share']:.1%} of them")
    have = ("choices", "solutions", "regions", "steps")
    line("with " + ", ".join(f"{name} {found[f'with_{name}']:,}" for name in have))
    if categories := list(found["categories"].items()):
        more = f", and {len(categories) - _SHOWN_CATEGORIES} more" if len(categories) > _SHOWN_CATEGORIES else ""
        line("categories: " + ", ".join(f"{name} {n:,}" for name, n in categories[:_SHOWN_CATEGORIES]) + more)
    if twice := found["duplicates"]:
        pairs = ", ".join(" = ".join(pair) for pair in twice[:5])
        line(f"{len(twice):,} problems repeat another's question and pictures: {pairs}"
             + (", …" if len(twice) > 5 else ""))
