"""Which files of a folder are the data, and which of them a split: folders of files, of the Hub, of `save_to_disk`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

import yaml

from ptdpo_cli.datasets.reading import did_you_mean, short
from ptdpo_cli.errors import UsageError

SUFFIXES = (".jsonl", ".json", ".parquet")
SPLITS = ("train", "validation", "valid", "val", "dev", "test")

_SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?(-[0-9a-f]{16})?$")
_NO_DATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")


def data_files(path: Path, split: str | None, config: str | None = None, *,
               known: Collection[str] = SPLITS) -> list[Path]:
    """The data files of one split, in name order; a folder made by `save_to_disk` counts as one file.

    In a folder as the Hub has it the README's `configs` say which files are a split; else their names do, in the
    folder itself, in `data/`, in a folder named after the config, or in folders named after the splits. A single set of
    shards is taken whatever it is called, unless its name is that of another split (one of `known`).
    Errors: UsageError that names the splits there are.
    """
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in _children(path.parent)])
        raise UsageError(f"no such file or folder: {path}", hint=near)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UsageError("this data format is not read", expected=", ".join(SUFFIXES), found=path.name)
        return [path]
    if (declared := _declared(path, config)) is not None:
        chosen = _choose(declared, split, path)
        if not declared[chosen]:
            raise UsageError(f"the files of split {chosen!r} are not in {path}, though its README names them",
                             hint="fetch them: `hf download NAME --repo-type dataset --local-dir FOLDER`")
        return declared[chosen]
    is_part_of_more = config is not None and not (path / config).is_dir()
    if config is not None and not is_part_of_more:
        path = path / config
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        return [path / _choose(splits, split, path)]
    if (path / "state.json").is_file():
        return [path]
    sets = _sets(path, split)
    if len(sets) == 1 and not is_part_of_more and not (split and next(iter(sets)) in known):
        chosen = next(iter(sets))                           # shards of one set under any name
    else:
        chosen = _choose(sets, split, path)
    return _of_one_kind(sets[chosen], path)


def _sets(folder: Path, split: str | None) -> dict[str, list[Path]]:
    """Data files by the set that their names say they are shards of."""
    files = _files(folder) or _files(folder / "data")
    folders = {child.name: _files(child) for child in _children(folder) if child.is_dir()}
    if not files and any(folders.values()):
        return {name: files for name, files in folders.items() if files}
    files = _of_one_kind(files, folder)
    sets: dict[str, list[Path]] = {}
    for file in files:
        # A split may itself end in a number: `sample_variant1.parquet`.
        sets.setdefault(file.stem if file.stem == split else _SHARD.sub("", file.stem), []).append(file)
    return sets


def _files(folder: Path) -> list[Path]:
    return [p for p in _children(folder) if p.suffix in SUFFIXES and p.name not in _NO_DATA and p.is_file()]


def _of_one_kind(files: list[Path], folder: Path) -> list[Path]:
    kinds = sorted({file.suffix for file in files})
    if len(kinds) != 1:
        raise UsageError(f"{folder} must hold data files of one kind", expected=f"only one of {', '.join(SUFFIXES)}",
                         found=", ".join(kinds) or "no data file", hint="give the path of the data file itself")
    return files


def _children(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []


def _choose(names: Iterable[str], split: str | None, path: Path) -> str:
    names = sorted(names)
    if split is None and len(names) == 1:
        return names[0]
    if split not in names:      # never load them all: train and test would be mixed without a word
        what = f"{path} holds several sets" if split is None else f"{path} has no split {split!r}"
        near = did_you_mean(split, names) if split else None
        raise UsageError(what, expected=f"a split, one of: {', '.join(names)}", found=split,
                         hint=near or "choose with `--set data.split=NAME`, for evaluation with `--split NAME`")
    return split


# The front matter of a README on the Hub

def _declared(folder: Path, config: str | None) -> dict[str, list[Path]] | None:
    """split -> files of the config that is meant, as the README says; None where it says nothing."""
    configs = {str(entry.get("config_name", "default")): entry for entry in _configs(folder / "README.md")
               if isinstance(entry, dict) and entry.get("data_files")}
    if not configs:
        return None
    if config is None:
        marked = [name for name, entry in configs.items() if entry.get("default") is True or name == "default"]
        config = (marked or list(configs))[0]
        if not marked and len(configs) > 1:
            raise UsageError(f"{folder} holds several data sets", expected="the folder or the file of one",
                             found=", ".join(configs), hint=f"for example --data {folder}/{config}")
    if config not in configs:
        raise UsageError(f"{folder} has no part {config!r}", expected=f"one of: {', '.join(sorted(configs))}",
                         hint=did_you_mean(config, configs) or f"fetch {folder.name} again: it is another revision")
    found: dict[str, list[Path]] = {}
    for split, patterns in _patterns(configs[config]["data_files"]):
        found.setdefault(split, []).extend(file for pattern in patterns for file in _matching(folder, pattern))
    return found


def _configs(readme: Path) -> list:
    if not readme.is_file():
        return []
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    try:
        front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        front = None                                        # a page for people, no description of files
    configs = front.get("configs") if isinstance(front, dict) else None
    return configs if isinstance(configs, list) else []


def _patterns(data_files) -> list[tuple[str, list[str]]]:
    """(split, patterns) of `data_files`: one pattern, a list of them, or a list of {split, path}."""
    entries = data_files if isinstance(data_files, list) else [data_files]
    pairs = [(str(e.get("split", "train")), e.get("path")) if isinstance(e, dict) else ("train", e) for e in entries]
    return [(split, [str(p) for p in (path if isinstance(path, list) else [path])]) for split, path in pairs]


def _matching(folder: Path, pattern: str) -> list[Path]:
    return [file for file in files_like(folder, pattern) if file.suffix in SUFFIXES]


def files_like(folder: Path, pattern: str) -> list[Path]:
    """The files of a repository that match a pattern which the repository itself, or a card, gives.

    Errors: UsageError for a pattern that leads out of the folder.
    """
    parts = PurePosixPath(pattern).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise UsageError(f"{folder} names files outside of it", found=short(pattern))
    return sorted(file for file in folder.glob(pattern) if file.is_file())
