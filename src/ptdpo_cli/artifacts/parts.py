"""Parts: an artifact made by n tasks at once, each of which makes the shards whose number is i modulo n.

    RUN/<kind>/v1-0123abcd.parts/0-of-4/        part 0 of 4, a finished directory with a manifest of its own
    RUN/<kind>/v1-0123abcd/                     the whole, which `ptdpo merge` makes of them

Parts have the input key of the whole, which therefore does not depend on n; `extra.part` says which one each is. Every
part has its own lock: tasks of one array never wait for each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ptdpo_cli.artifacts.manifest import MANIFEST
from ptdpo_cli.errors import UsageError

_PART_NAME = re.compile(r"(\d+)-of-(\d+)(\.partial|\.old|\.lock)?")


@dataclass(frozen=True, order=True)
class Part:
    """Part `index` (from 0) of `count`."""

    count: int
    index: int

    @staticmethod
    def parse(text: str) -> Part:
        """`0/4` is the first of four; UsageError when it is none of them."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        part = Part(int(match[2]), int(match[1])) if match else None
        if part is None or part.index >= part.count:
            raise UsageError(
                "--shard takes I/N with I from 0 to N − 1",
                found=text,
                hint="for four parts `--shard 0/4` to `--shard 3/4`, in a job array `--shard $SLURM_ARRAY_TASK_ID/4`",
            )
        return part

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, shard: int) -> bool:
        """Whether this part makes the shard of that number."""
        return shard % self.count == self.index


def parts_dir(path: Path) -> Path:
    """Where the parts of the artifact at `path` lie."""
    return path.with_name(path.name + ".parts")


def part_dir(path: Path, part: Part) -> Path:
    return parts_dir(path) / f"{part.index}-of-{part.count}"


def parts_begun(path: Path) -> dict[int, list[Part]]:
    """The parts of the artifact at `path`, finished or not, by how many there are to be."""
    found: dict[int, set[Part]] = {}
    for entry in parts_dir(path).glob("*-of-*"):
        if match := _PART_NAME.fullmatch(entry.name):
            part = Part(int(match[2]), int(match[1]))
            found.setdefault(part.count, set()).add(part)
    return {count: sorted(found[count]) for count in sorted(found)}


def is_finished(path: Path, part: Part) -> bool:
    return (part_dir(path, part) / MANIFEST).is_file()


def parts_finished(path: Path) -> dict[int, int]:
    """How many are to be -> how many of them are finished."""
    return {count: sum(is_finished(path, part) for part in parts) for count, parts in parts_begun(path).items()}


def describe_parts(path: Path) -> str:
    """For example `3 of 4 parts`."""
    return ", ".join(f"{done} of {count} parts" for count, done in parts_finished(path).items())
