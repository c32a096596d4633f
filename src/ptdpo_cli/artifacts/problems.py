"""Problems as a table, and back: the rows in `problems-*.parquet`, their pictures in `images-*.parquet`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import pyarrow as pa

from ptdpo_cli.artifacts.images import ImageReader, StoredImages, image_hash, images_table
from ptdpo_cli.artifacts.schemas import PROBLEMS, Problem, Region
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import UsageError


def problems_table(problems: Iterable[Problem], known: Collection[str] = ()) -> tuple[pa.Table, pa.Table]:
    """(problems, images) of these problems; pictures whose sha256 is `known` lie in an earlier shard and are left out.

    Errors: UsageError for two problems of one id, and for a picture that cannot be read.
    """
    problems = list(problems)
    rows = {problem.problem_id: _row(problem) for problem in problems}
    if len(rows) != len(problems):
        ids = [problem.problem_id for problem in problems]
        raise UsageError("two problems have one id", found=next(name for name in ids if ids.count(name) > 1))
    images = images_table((data for problem in problems for data in problem.images), known)
    return pa.Table.from_pylist(list(rows.values()), schema=PROBLEMS), images


def problem_from_row(row: Mapping, images: Mapping[str, bytes] | ImageReader) -> Problem:
    """The Problem of one row of the table; `images` gives the bytes for a sha256."""
    return Problem(
        **{name: row[name] for name in ("problem_id", "question", "answer", "category", "solution", "answer_type",
                                        "source", "split", "license")},
        images=StoredImages(row["images"], images),
        regions=tuple(Region(region["label"], tuple(region["box"])) for region in row["regions"]),
        steps=tuple(row["steps"]), choices=tuple(row["choices"]),
        # Columns that came later: an older artifact lacks them.
        precision=row.get("precision"), family=row.get("family") or "",
        metadata=json.loads(row.get("metadata") or "{}"),
    )


def read_problems(artifact: Artifact) -> Problems:
    """The problems of an artifact in their order; pictures are fetched when a problem is."""
    return Problems(artifact)


class Problems(Sequence[Problem]):
    """A `problems` artifact as a sequence: rows in memory, pictures on disk."""

    def __init__(self, artifact: Artifact):
        self._rows = artifact.table("problems").to_pylist()
        self._images = ImageReader(artifact)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [problem_from_row(row, self._images) for row in self._rows[index]]
        return problem_from_row(self._rows[index], self._images)

    def __iter__(self) -> Iterator[Problem]:
        return (problem_from_row(row, self._images) for row in self._rows)


def _row(problem: Problem) -> dict:
    return {
        "problem_id": problem.problem_id, "question": problem.question, "answer": problem.answer,
        "images": [image_hash(data) for data in problem.images], "answer_type": problem.answer_type,
        "choices": problem.choices, "solution": problem.solution, "category": problem.category,
        "regions": [{"label": region.label, "box": region.box} for region in problem.regions], "steps": problem.steps,
        "source": problem.source, "split": problem.split, "license": problem.license,
        "precision": problem.precision, "family": problem.family, "metadata": json.dumps(dict(problem.metadata)),
    }
