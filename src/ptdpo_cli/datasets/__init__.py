"""One small adapter per data set, each to the same `Problem`s; by name, or from the user's own files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from ptdpo_cli.datasets import catalog
from ptdpo_cli.datasets.cards import Card
from ptdpo_cli.datasets.images import MAX_PIXELS
from ptdpo_cli.datasets.reading import Check, Loaded, describe, did_you_mean, examine, rows_of, together
from ptdpo_cli.errors import UsageError


def load_problems(name_or_path: str, *, on_bad_row: Literal["error", "skip"] = "error", **options) -> Loaded:
    """The problems of a data set by name, or of the user's own file or folder; `options` are those of `look_at`.

    Rows that a public set's adapter leaves out are not among them, and no error.
    Errors: UsageError for what is not there, for bad rows (all of them together) unless they are to be skipped, and
    where no problem is left.
    """
    loaded = look_at(name_or_path, **options)
    if loaded.bad_rows and (on_bad_row == "error" or not len(loaded)):
        raise together(loaded.bad_rows, name_or_path)
    if not len(loaded) and loaded.left_out:
        raise UsageError(f"every row of {name_or_path} is left out", expected="at least one problem",
                         found=f"{loaded.left_out[0].where}: {describe(loaded.left_out[0].faults[0])}",
                         hint="take another split, or another revision of the set")
    if not len(loaded):
        raise UsageError(f"no rows in {name_or_path}" + (" but excluded ones" if loaded.excluded else ""),
                         hint="give a file or a data set with at least one problem")
    return loaded


def look_at(name_or_path: str, *, split: str | None, seed: int = 0, count: int | None = None,
            kinds: list[str] | None = None, columns: dict | None = None, image_root=None, max_pixels: int = MAX_PIXELS,
            root: str | None = None, exclude: Collection[str] = (), fetch_urls: bool = False,
            check: Check | None = None, decode: bool = True) -> Loaded:
    """All rows read and every picture decoded once: the problems, and which rows are none.

    `seed` and `kinds` are for data sets that are drawn, `columns` and `image_root` for files, `root` (a folder of local
    copies) for public sets; `count` takes the first rows. `exclude` are ids to leave out. `check` finds the gold
    answers that nothing could be compared with; of a public set such rows are left out. Without `decode` pictures are
    left to who uses them.
    """
    public_hint = None
    for_files = [name for name, value in (("columns", columns), ("image_root", image_root)) if value is not None]
    is_file = name_or_path not in cards()
    if for_files and not is_file:
        raise UsageError(f"{name_or_path} takes no {' or '.join(for_files)}", hint="these are for data files")
    if kinds is not None and name_or_path != "digit-grid":
        raise UsageError(f"{'a data file' if is_file else name_or_path} takes no kinds",
                         hint="kinds choose among the problems of digit-grid")
    if count is not None and count < 1:
        raise UsageError("the number of rows to load must be positive", found=count)
    if name_or_path == "digit-grid":
        from ptdpo_cli.datasets.digit_grid import load

        reader = rows_of(load(split, seed=seed, count=count, kinds=kinds))
    elif name_or_path in catalog.ADAPTERS:
        from ptdpo_cli.datasets.hub import public_hint_of, read_set

        public_hint = public_hint_of(catalog.ADAPTERS[name_or_path].CARD)
        reader = read_set(catalog.ADAPTERS[name_or_path], split, root=root, fetch_urls=fetch_urls)
    elif Path(name_or_path).exists():
        from ptdpo_cli.datasets.local import read_path

        reader = read_path(name_or_path, split=split, columns=columns, image_root=image_root, fetch_urls=fetch_urls)
    else:
        raise _unknown(name_or_path)
    decode = decode and name_or_path != "digit-grid"        # its pictures are our own
    return examine(reader, count=count, check=check, exclude=exclude, max_pixels=max_pixels, decode=decode,
                   public_hint=public_hint)


def cards() -> dict[str, Card]:
    """Every data set that has a name, by its name."""
    from ptdpo_cli.datasets.digit_grid import CARD

    return {CARD.name: CARD} | {name: adapter.CARD for name, adapter in catalog.ADAPTERS.items()}


def default_split(name_or_path: str, purpose: Literal["train", "test"]) -> str:
    """The split that is meant where none is named: a set's own for this purpose; of a file "train" or "test".

    Errors: UsageError for a set without a split to evaluate on. One without a split to train on gives the other.
    """
    card = cards().get(name_or_path)
    if card is None:
        return purpose
    split = card.test if purpose == "test" else card.train or card.test
    if split is None:
        raise UsageError(f"{card.name} has no split for evaluation",
                         expected=f"a split, one of: {', '.join(card.splits)}",
                         hint="name one with `--split`, or another data set with `ptdpo eval --data NAME`")
    return split


def is_for_test(name: str, split: str) -> bool:
    """Whether a split of a public set is one to evaluate on, so that scores on it are void after training on it."""
    card = cards().get(name)
    return card is not None and (card.train is None or (split == card.test != card.train))


def _unknown(name_or_path: str) -> UsageError:
    path = Path(name_or_path)
    beside = [str(path.parent / p.name) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    known = cards()
    by_hub = next((card.name for card in known.values() if card.hub.lower() == name_or_path.lower()), None)
    near = f"it is called {by_hub} here" if by_hub else did_you_mean(name_or_path, [*known, *beside])
    return UsageError(f"no data set or file called {name_or_path}",
                      expected=f"{', '.join(known)}, or a path to a .jsonl/.json/.parquet file or folder",
                      hint=near or f"`ptdpo data` lists the known ones; fetch another with `hf download {name_or_path} "
                      "--repo-type dataset --local-dir FOLDER`, and give that folder")
