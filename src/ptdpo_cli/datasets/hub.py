"""Public data sets: rows from a local mirror, the cache of `datasets`, or the Hub, made problems by an adapter.

Nothing is fetched by a command that was given `--data-root`, or where HF_HUB_OFFLINE is set.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import ModuleType

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets.cards import Card, Place, Table
from ptdpo_cli.datasets.images import MAX_BYTES, is_address, plain_path, read_image_file
from ptdpo_cli.datasets.layout import SPLITS, data_files, files_like
from ptdpo_cli.datasets.local import fetching, picture_bytes
from ptdpo_cli.datasets.reading import LeftOut, Reader, Row, did_you_mean, hinted, image_name, located, short
from ptdpo_cli.datasets.tables import open_table, saved_table
from ptdpo_cli.errors import UsageError

_PROBE_SECONDS = 10.0
_ANOTHER = "this is another revision of the data set, or another set"
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{4,}|(?<=Bearer )\S+")


def read_set(adapter: ModuleType, split: str, *, root: str | None = None, fetch_urls: bool = False) -> Reader:
    """A reader of one split of a public data set, its tables one after the other.

    Errors: UsageError, at once, for an unknown split, and where neither mirror, cache nor Hub has the set.
    """
    card = adapter.CARD
    folder = mirror(card, root) if root is not None else None
    tables = tables_of(card, split) if folder is None else tuple(_files_of(card, split, folder))
    opened = [(table, *_open(card, table, folder)) for table in tables]
    if fetch_urls:
        opened = [(table, names, read, fetching(read_image)) for table, names, read, read_image in opened]

    def reader():
        for table, names, read, read_image in opened:
            part = f" ({table.source or table.config or table.split})" if len(tables) > 1 else ""
            for number, _, values in read(names):
                where = f"{card.name}, {split}{part}, row {number}"
                yield _row(adapter, values, Place(split, table, number), where, names, read_image)
    return reader


def tables_of(card: Card, split: str) -> tuple[Table, ...]:
    if split not in card.splits:
        raise UsageError(f"{card.name} has no split {split!r}", expected=f"one of: {', '.join(card.splits)}",
                         found=split, hint=did_you_mean(split, card.splits) or "`ptdpo data` lists them")
    return card.splits[split].tables


def public_hint_of(card: Card) -> str:
    """What a user can do about a row of a public set, which is not theirs to mend."""
    return (f"leave such rows out with `--on-bad-row skip`, or by their ids with `--exclude FILE`; or take another "
            f"revision of {card.hub}")


def _row(adapter: ModuleType, values, place: Place, where: str, names: list[str], read_image) -> Row:
    hint = public_hint_of(adapter.CARD)
    if isinstance(values, UsageError):
        return Row(where, "", None, (hinted(values, hint),))
    own_id = values.get(adapter.CARD.key)
    named = f"{where} ({short(own_id, quote=False)})" if own_id not in (None, "") else where
    try:
        problem: Problem = adapter.problem(values, place)
        if not all(isinstance(text, str) for text in (problem.problem_id, problem.question, problem.answer)):
            raise TypeError(f"question {short(problem.question)}, answer {short(problem.answer)}")
    except LeftOut as reason:
        return Row(named, "", None, left_out=reason)
    except UsageError as fault:
        return Row(named, "", None, (hinted(fault, fault.hint or hint),))
    except KeyError as error:
        name = str(error.args[0]) if error.args else ""
        fault = UsageError(f"{adapter.CARD.name} has no column {name!r} here", found=f"columns {', '.join(values)}",
                           hint=did_you_mean(name, values) or _ANOTHER)
        if name not in names and place.table.files is None:     # then no row has it
            raise fault from None
        return Row(named, "", None, (fault,))
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        fault = UsageError("the row is not laid out as the data set's card says", found=str(error)[:160],
                           hint=_ANOTHER)
        return Row(named, "", None, (fault,))
    where = f"{where} ({problem.problem_id})"
    images, faults = [], []
    for k, value in enumerate(problem.images, 1):
        try:
            images.append(picture_bytes(value, read_image))
        except UsageError as fault:
            faults.append(located(hinted(fault, fault.hint or hint), image_name(k)))
    return Row(where, problem.problem_id, None if faults else replace(problem, images=tuple(images)), tuple(faults))


# Where the tables are

def mirror(card: Card, root: str | Path) -> Path:
    """The folder of a data set under `root`, by its id on the Hub or by its name here.

    A clone of the authors' repository may have the repository's name, or be `root` itself.
    """
    root = Path(root)
    names = [card.hub, card.name]
    if card.repository is not None:
        names += [card.repository, card.repository.rpartition("/")[2]]
    for folder in (root / name for name in names):
        if folder.is_dir():
            return folder
    if any(table.clone and (root / table.clone).is_file() for part in card.splits.values() for table in part.tables):
        return root
    found = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "an empty folder" if root.is_dir() else None
    raise UsageError(f"{card.name} is not under {root}", expected=f"a folder {card.hub} or {card.name} in it",
                     found=found or "no such folder", hint=fetch_hint(card, root))


def mirror_files(card: Card, split: str, root: str | Path) -> list[Path]:
    """The data files of a split in a mirror; archives of pictures are not among them."""
    opened = _files_of(card, split, mirror(card, root)).values()
    return sorted({file for files in opened for found in files
                   for file in (sorted(found.rglob("*.arrow")) if found.is_dir() else [found])})


def _files_of(card: Card, split: str, folder: Path) -> dict[Table, list[Path]]:
    """The tables of a split and the files of each in a mirror; tables that would be the same files are one.

    So a clone that has a single file for all variants of a question is not read once for each.
    """
    found: dict[tuple[Path, ...], Table] = {}
    for table in tables_of(card, split):
        found.setdefault(tuple(_table_files(card, table, folder)), table)
    return {table: list(files) for files, table in found.items()}


def fetch_hint(card: Card, root: str | Path = "ROOT") -> str:
    return (f"where there is a network: `hf download {card.hub} --repo-type dataset --local-dir {root}/{card.hub}`; "
            f"then `--data-root {root}`")


def _table_files(card: Card, table: Table, folder: Path) -> list[Path]:
    if table.clone is not None and (folder / table.clone).is_file():
        return [folder / table.clone]
    if table.files is None:
        splits = {other.split for split in card.splits.values() for other in split.tables}
        return data_files(folder, table.split, table.config, known=splits | set(SPLITS))
    if not (found := files_like(folder, table.files)):
        raise UsageError(f"{folder} lacks {table.files}", hint=fetch_hint(card, folder.parent))
    return found


def _open(card: Card, table: Table, folder: Path | None):
    """Names, rows and pictures of a table."""
    is_mirrored = folder is not None
    if not is_mirrored and (table.files or table.archive):
        folder = _snapshot(card, [name for name in (table.files, table.archive) if name])
    files = _table_files(card, table, folder) if is_mirrored or table.files else []
    tables = [open_table(file) for file in files] or [_load(card, table)]
    names = list(dict.fromkeys(name for columns, _ in tables for name in columns))

    def read(wanted):
        rows = (row for columns, read in tables for row in read(columns))
        return ((number, where, values) for number, (_, where, values) in enumerate(rows, 1))
    return names, read, _pictures(card, table, folder, [file.parent for file in files])


def _load(card: Card, table: Table):
    """A table by `datasets`: from the Hub, or from its cache where the Hub cannot be reached."""
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        if _is_reachable(card):
            return saved_table(datasets.load_dataset(card.hub, table.config, split=table.split))
        # `load_dataset` would ask the Hub again, for half a minute, before it looked there.
        cached = Cache(dataset_name=card.hub.rpartition("/")[2], repo_id=card.hub, config_name=table.config,
                       version="auto", hash="auto")
        cached.download_and_prepare()
        return saved_table(cached.as_dataset(split=table.split))
    except UsageError:
        raise
    except Exception as error:      # of `datasets`, huggingface_hub, httpx, fsspec, pyarrow
        raise _fault(card, error) from None     # its own text may hold a token, so no traceback shows it


def _snapshot(card: Card, patterns: list[str]) -> Path:
    """The folder of the Hub's cache with these files of a repository, fetched if need be."""
    import huggingface_hub

    try:
        offline = not _is_reachable(card)
        return Path(huggingface_hub.snapshot_download(card.hub, repo_type="dataset", allow_patterns=patterns,
                                                      local_files_only=offline))
    except UsageError:
        raise
    except Exception as error:
        raise _fault(card, error) from None


def _is_reachable(card: Card) -> bool:
    """Whether the Hub answers, asked once: `datasets` itself tries for half a minute.

    Errors: UsageError for a set that is not there, or that this user may not read.
    """
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    hub = huggingface_hub.HfApi()
    try:
        if hub.dataset_info(card.hub, timeout=_PROBE_SECONDS).gated:
            hub.auth_check(card.hub, repo_type="dataset")
        return True
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise _fault(card, error) from None
    except Exception:
        return False


def _fault(card: Card, error: Exception) -> UsageError:
    """What the Hub or `datasets` said, as a user should read it, without a token."""
    kinds = {cls.__name__ for cls in type(error).__mro__}
    text = scrubbed(" ".join(str(error).split()))[:200]
    if "GatedRepoError" in kinds or "gated" in text.lower():
        return UsageError(f"{card.name} is a gated data set, and this user has no access to it", found=card.hub,
                          hint=f"accept its terms at https://huggingface.co/datasets/{card.hub}, then `hf auth login` "
                          "(or set HF_TOKEN) with a token that may read it")
    if "RepositoryNotFoundError" in kinds:
        return UsageError(f"the Hub has no data set {card.hub}, or this user may not see it", found=text,
                          hint="`hf auth login` if it is private; " + fetch_hint(card))
    if isinstance(error, OSError) or "Couldn't find cache" in text:
        import huggingface_hub

        offline = huggingface_hub.constants.HF_HUB_OFFLINE
        what = "HF_HUB_OFFLINE is set" if offline else "the Hub cannot be reached"
        is_absent = "Couldn't find cache" in text or "cached snapshot" in text      # they say no more than that
        return UsageError(f"{card.name} is not on this machine, and it is offline: {what}",
                          expected=f"{card.hub} in the cache of `datasets`, or in a folder given with --data-root",
                          found="nothing of it" if is_absent else text, hint=fetch_hint(card))
    return UsageError(f"{card.name} cannot be read from the Hub", found=f"{type(error).__name__}: {text}",
                      hint=fetch_hint(card))


def scrubbed(text: str) -> str:
    """The text without anything that is, or looks like, an access token of the Hub."""
    import huggingface_hub

    tokens = {os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"), huggingface_hub.get_token()}
    for token in filter(None, tokens):
        text = text.replace(token, "***")
    return _TOKEN.sub("***", text)


# Pictures that rows name by a path

def _pictures(card: Card, table: Table, folder: Path | None, beside: Sequence[Path]) -> Callable[[str], bytes]:
    """Path as it stands in a row -> encoded bytes: from the table's archive, or from where that was unpacked.

    Paths start at the table's own file, at the folder of the data set, or at one of the folders in it.
    """
    if folder is None:
        return _no_picture
    if table.archive is not None and (archives := files_like(folder, table.archive)):
        return zip_reader(archives)
    roots = [*beside, folder, *(child for child in sorted(folder.iterdir()) if child.is_dir())]

    def read(path: str) -> bytes:
        path = plain_path(path)
        if is_address(path):
            return read_image_file(path, folder)            # says why not
        for tail in _tails(path):
            for root in roots:
                if (root / tail).is_file():
                    try:
                        return read_image_file(str((root / tail).relative_to(folder)), folder)
                    except UsageError as fault:             # its hints are about the user's own files
                        raise hinted(fault, None) from None
        lacks = f"nor is {table.archive} there" if table.archive is not None else f"nothing like it under {folder}"
        raise UsageError("no such image file", expected=short(path, quote=False), found=lacks,
                         hint=fetch_hint(card, folder.parent) if table.archive is not None else None)
    return read


def _no_picture(path: str) -> bytes:
    raise UsageError("an image is given by a path, and there is no folder", found=short(path))


def zip_reader(archives: Sequence[Path], *, max_bytes: int = MAX_BYTES) -> Callable[[str], bytes]:
    """A function from a path to the bytes of the member it means, read without unpacking anything.

    Where the path is no member's whole name, the one member is taken that ends with the path, or that the path ends
    with: rows and archives differ in the folders before.
    Errors: UsageError for a file that is no zip, and for a member that is not there, several, encrypted or too large.
    """
    members: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
    by_name: dict[str, list[str]] = defaultdict(list)
    for archive in archives:
        try:
            opened = zipfile.ZipFile(archive)
        except (OSError, zipfile.BadZipFile) as error:
            raise UsageError(f"{archive} cannot be read as a zip", found=str(error)[:160],
                             hint="fetch it again: it may be a Git LFS pointer, or cut short") from None
        for info in opened.infolist():
            if not info.is_dir() and info.filename not in members:
                members[info.filename] = opened, info
                by_name[PurePosixPath(info.filename).name].append(info.filename)

    def read(path: str) -> bytes:
        path = plain_path(path).removeprefix("./")
        found = [path] if path in members else [
            name for name in by_name.get(PurePosixPath(path).name, ())
            if f"/{name}".endswith(f"/{path.lstrip('/')}") or f"/{path}".endswith(f"/{name}")]
        if len(found) != 1:
            raise UsageError("no such image in the archive" if not found else "several images of the archive are meant",
                             expected=short(path, quote=False),
                             found=", ".join(found[:3]) or ", ".join(archive.name for archive in archives[:3]))
        opened, info = members[found[0]]
        if info.file_size > max_bytes:                      # no more than that comes out, whatever is in it
            raise UsageError("the image file in the archive is too large", expected=f"at most {max_bytes:,} bytes",
                             found=f"{info.file_size:,} bytes")
        try:
            return opened.read(info)
        except MemoryError:
            raise
        except Exception as error:      # zipfile's and the decompressors': BadZipFile, RuntimeError, zlib.error, ...
            raise UsageError("the image cannot be read from the archive", found=f"{found[0]}: {error}"[:160],
                             hint=f"fetch {Path(opened.filename).name} again") from None
    return read


def _tails(path: str) -> Iterator[str]:
    """The path, then what is left without its first folder, and so on."""
    parts = [part for part in PurePosixPath(path).parts if part != "/"]
    if ".." in parts:
        return
    for start in range(len(parts)):
        yield "/".join(parts[start:])
