"""One small adapter per data set, each to the same list of `Problem`."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets.images import MAX_PIXELS
from ptdpo_cli.errors import UsageError

KNOWN = ("digit-grid",)


def load_problems(name_or_path: str, *, split: str | None, seed: int, count: int | None = None,
                  kinds: list[str] | None = None, columns: dict | None = None, image_root=None,
                  max_pixels: int = MAX_PIXELS) -> list[Problem]:
    """The problems of a data set by name ("digit-grid") or of the user's own file or folder.

    `seed` and `kinds` are for data sets that are drawn, `columns`, `image_root` and `max_pixels` for files; of a file,
    `count` takes the first rows. Errors: UsageError for an unknown name and for any fault in the data.
    """
    file_options = [name for name, value in (("columns", columns), ("image_root", image_root)) if value is not None]
    if name_or_path == "digit-grid":
        if file_options:
            raise UsageError(f"digit-grid takes no {' or '.join(file_options)}", hint="these are for data files")
        from ptdpo_cli.datasets.digit_grid import load

        problems = load(split, seed=seed, count=count, kinds=kinds)
    elif Path(name_or_path).exists():
        if kinds is not None:
            raise UsageError("a data file takes no kinds", hint="kinds choose among the problems of digit-grid")
        from ptdpo_cli.datasets.local import load_path

        problems = load_path(name_or_path, split=split, columns=columns, image_root=image_root, limit=count,
                             max_pixels=max_pixels)
    else:
        raise _unknown(name_or_path)
    check_problems(problems)
    return problems


def check_problems(problems: list[Problem]) -> None:
    """What every adapter owes its readers: at least one problem, different ids, no empty question or answer."""
    if not problems:
        raise UsageError("the data set is empty", expected="at least one problem")
    if repeated := [i for i, n in Counter(p.problem_id for p in problems).items() if n > 1]:
        raise UsageError(f"{len(repeated)} problem ids occur more than once", found=", ".join(repeated[:10]))
    for field in ("problem_id", "question", "answer"):
        if empty := [p.problem_id for p in problems if not getattr(p, field).strip()]:
            raise UsageError(f"{len(empty)} problems have an empty {field}", found=", ".join(empty[:10]))


def _unknown(name_or_path: str) -> UsageError:
    path = Path(name_or_path)
    beside = [str(path.parent / p.name) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(name_or_path, [*KNOWN, *beside], n=1)
    return UsageError(f"no data set or file called {name_or_path}",
                      expected=f"{', '.join(KNOWN)}, or a path to a .jsonl/.json/.parquet file or folder",
                      hint=f"did you mean {near[0]}?" if near else
                      "nothing is downloaded: fetch a data set with `datasets`, save_to_disk it, and give that folder")
