"""Artifacts on disk: `RUN/<kind>/v<schema>-<first 8 of the input key>/`, read by `Artifact`, written by `Writer`.

    <dir>.lock        while a writer lives
    <dir>.partial/    what it builds: files, and per finished shard a shard-00000.json that vouches for its files
    <dir>/            finished: the same files and manifest.json
    <dir>.old/        the former one, for the moment between two renames of a forced rebuild
    <dir>.parts/      its parts, when several tasks make it (parts.py)

Nothing in .partial counts before a record names it, and nothing outside it is touched before the manifest is on disk.
Whoever takes the lock next completes what a crash left undone.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from pydantic import ValidationError
from safetensors import SafetensorError

from ptdpo_cli.artifacts import manifest as manifests
from ptdpo_cli.artifacts.lock import Lock, command_line, describe_holder, read_holder
from ptdpo_cli.artifacts.manifest import MANIFEST, FileRecord, Manifest, ShardRecord
from ptdpo_cli.artifacts.parts import Part, describe_parts, part_dir, parts_dir
from ptdpo_cli.artifacts.schemas import OPTIONAL_TENSORS, SCHEMA_VERSIONS, TABLES, TENSORS
from ptdpo_cli.errors import ArtifactError, LockedError

SHARD_FILE = re.compile(r"(?P<name>[a-z_]+)-(?P<shard>\d{5,})\.(?P<type>parquet|safetensors)")
ARTIFACT_NAME = re.compile(r"v\d+-[0-9a-f]{8}")
SHARD_RECORDS = "shard-*.json"


def artifact_dir(run: Path | str, kind: str, key: str) -> Path:
    return Path(run) / kind / f"v{SCHEMA_VERSIONS[kind]}-{key[:8]}"


def partial_dir(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def old_dir(path: Path) -> Path:
    return path.with_name(path.name + ".old")


def lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def artifact_paths(folder: Path) -> list[Path]:
    """Where RUN/<kind> holds artifacts, finished or not, in order of their names."""
    names = {re.sub(r"\.(partial|old|lock|parts)$", "", path.name) for path in folder.glob("v*-*")}
    return [folder / name for name in sorted(names) if ARTIFACT_NAME.fullmatch(name)]


def shard_count(files: Iterable[FileRecord]) -> int:
    return len({_shard_of(record) for record in files} - {None})


def _shard_of(record: FileRecord) -> int | None:
    """The number of the shard that a file belongs to; None for a file of no shard."""
    match = SHARD_FILE.fullmatch(record.path)
    return match and int(match["shard"])


def find_finished(run: Path | str, kind: str, key: str, part: Part | None = None) -> Artifact | None:
    """The finished artifact of this input key, or a part of it; None: then a Writer makes it, or resumes it.

    Errors: ArtifactError when it is there but damaged; LockedError while another process moves it into place.
    """
    path = artifact_dir(run, kind, key)
    path = part_dir(path, part) if part else path
    complete_swap(path)
    if not (path / MANIFEST).is_file():
        return None
    artifact = open_part(path) if part else Artifact.open(path, kind=kind)
    if artifact.manifest.input_key != key:
        raise ArtifactError(f"{path} has the name of this artifact but other inputs", expected=f"input key {key}",
                            found=f"input key {artifact.manifest.input_key}", hint="use another --run directory")
    return artifact


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its directory and its manifest."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: Path | str, *, kind: str | None = None, check_files: bool = True) -> Artifact:
        """Opens an artifact's directory, or the only one in RUN/<kind>, or (kind given) RUN with only one of that kind.

        `check_files` looks whether every file is there in its full size; `verify` also hashes them.
        Errors: ArtifactError when it is missing, unfinished, a part, of another kind, of a newer schema, or damaged.
        """
        path = _locate(Path(path), kind)
        manifest = manifests.read_manifest(path)
        if "part" in manifest.extra:
            raise ArtifactError(f"{path} is part {manifest.extra['part']} of an artifact", expected="the whole",
                                hint=f"join the parts with `ptdpo merge {path.parents[1]}`")
        if kind is not None and manifest.kind != kind:
            raise ArtifactError(f"{path} is another kind of artifact", expected=kind, found=manifest.kind,
                                hint=f"`ptdpo status {path.absolute().parent.parent}` lists what is there")
        if check_files:
            _require_files(path, manifest)
        return Artifact(path, manifest)

    @property
    def content_hash(self) -> str:
        return self.manifest.content_hash

    def shards(self) -> int:
        return shard_count(self.manifest.files)

    def table(self, name: str) -> pa.Table:
        """All shards of a table in their order."""
        tables = [self.shard_table(name, shard) for shard in range(self.shards())]
        return pa.concat_tables(tables or [TABLES[name].empty_table()])

    def shard_table(self, name: str, shard: int) -> pa.Table:
        path = self.file(f"{name}-{shard:05d}.parquet")
        try:
            return pq.read_table(path, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise self.unreadable(path, error) from None

    def tensors(self, name: str, shard: int) -> dict[str, np.ndarray]:
        path = self.file(f"{name}-{shard:05d}.safetensors")
        try:
            return safetensors.numpy.load_file(path)
        except (SafetensorError, OSError) as error:
            raise self.unreadable(path, error) from None

    def file(self, name: str) -> Path:
        """The path of a file that the manifest names, hashed when this process first asks for it.

        Parquet pages and safetensors carry no checksum: a changed byte would be read as another number.
        """
        records = {record.path: record for record in self.manifest.files}
        if name not in records:
            raise ArtifactError(f"{self.path} has no {name}", found=", ".join(list(records)[:8]) or "no files")
        path = self.path / name
        modified_ns = path.stat().st_mtime_ns if path.exists() else 0
        if faults := _faults_since(self.path, records[name], modified_ns):
            raise self.unreadable(path, faults[0])
        return path

    def unreadable(self, path: Path, error: Exception) -> ArtifactError:
        return ArtifactError(f"{path} cannot be read", found=error,
                             hint=f"`ptdpo verify {self.path}` lists what is damaged")


def open_part(path: Path) -> Artifact:
    """A finished part by its directory; what it holds is for merging, its shards have gaps between them."""
    manifest = manifests.read_manifest(path)
    _require_files(path, manifest)
    return Artifact(path, manifest)


def _require_files(path: Path, manifest: Manifest) -> None:
    if faults := file_faults(path, manifest.files, is_hashed=False):
        raise ArtifactError(f"{path} is damaged", found=indented(faults), hint=again(manifest))


class Writer:
    """Builds one artifact shard by shard; leaving the `with` block early keeps the finished shards for the next run.

    with Writer(run, "rollouts", key=key, stage="rollout", section=section, inputs=inputs) as writer:
        for shard, problems in enumerate(batches):
            if writer.needs_shard(shard):
                writer.write_shard(shard, tables={"rollouts": table}, tensors={"rollouts": arrays})
        artifact = writer.finish()

    `force` starts empty beside a finished artifact of the same key and takes its place at the end. With a `part` it
    needs the shards of that part alone, and builds a part.
    Errors: LockedError while another process writes the same artifact; OSError from a full or read-only disk.
    """

    def __init__(self, run: Path | str, kind: str, *, key: str, stage: str, section: Mapping, inputs: Mapping[str, str],
                 seed: int | None = None, model: Mapping[str, str] | None = None, hint_hash: str | None = None,
                 policy_hash: str | None = None, force: bool = False, part: Part | None = None,
                 command: str | None = None):
        whole = artifact_dir(run, kind, key)
        self.final = part_dir(whole, part) if part else whole
        self.path = partial_dir(self.final)
        self._is_forced = force
        self._part = part
        self._fields = {
            "kind": kind, "schema_version": SCHEMA_VERSIONS[kind], "stage": stage, "input_key": key,
            "inputs": dict(inputs), "section": dict(section), "seed": seed, "model": dict(model or {}),
            "hint_hash": hint_hash, "policy_hash": policy_hash, "command": command or command_line(),
            "host": os.uname().nodename,
        }
        manifests.canonical(self._fields)               # what JSON cannot hold fails here, not after hours of work
        self._lock = Lock(lock_file(self.final), command)
        self._shards: dict[int, ShardRecord] = {}
        self._added: list[str] = []

    def __enter__(self) -> Writer:
        self._lock.acquire()
        try:
            self._begin()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self._lock.release()

    def _begin(self) -> None:
        _finish_swap(self.final)
        if self._is_forced:
            shutil.rmtree(self.path, ignore_errors=True)
        elif (self.final / MANIFEST).exists():
            raise LockedError(f"another process has just finished {self.final}", hint="run this again to use it")
        self.path.mkdir(exist_ok=True)
        self._shards = self._finished_shards()
        self._since = time.perf_counter()

    def _finished_shards(self) -> dict[int, ShardRecord]:
        """The shards whose record and files are whole; other records are removed, so that their shards are redone."""
        finished = {}
        for path in self.path.glob(SHARD_RECORDS):
            try:
                record = ShardRecord.model_validate_json(path.read_bytes())
            except ValidationError:
                record = None
            if record is None or record.input_key != self._fields["input_key"] or file_faults(self.path, record.files):
                path.unlink()
            else:
                finished[record.shard] = record
        return finished

    def has_shard(self, shard: int) -> bool:
        return shard in self._shards

    def needs_shard(self, shard: int) -> bool:
        """Whether it is this writer's to make, and not yet made."""
        return not self.has_shard(shard) and (self._part is None or self._part.holds(shard))

    def write_shard(self, shard: int, *, tables: Mapping[str, pa.Table],
                    tensors: Mapping[str, Mapping[str, np.ndarray]] | None = None,
                    counts: Mapping[str, int | float] | None = None, same_as: Artifact | None = None) -> None:
        """Writes `<name>-<shard>.parquet` and `.safetensors`; `counts` are summed over shards in the manifest.

        What is not written and `same_as` has in this shard is taken from there, as a second name of the same file.
        Errors: ValueError when columns or tensors are not those of schemas.py.
        """
        files = {f"{name}-{shard:05d}.parquet": _parquet(name, table) for name, table in tables.items()}
        for name, arrays in (tensors or {}).items():
            files[f"{name}-{shard:05d}.safetensors"] = _safetensors(name, arrays)
        for name, data in files.items():
            _write_synced(self.path / name, data)
        taken = [] if same_as is None else [
            one for one in same_as.manifest.files if _shard_of(one) == shard and one.path not in files]
        for one in taken:
            self._link(same_as.file(one.path), one)
        now = time.perf_counter()
        records = [FileRecord(path=n, bytes=len(data), sha256=manifests.sha256(data)) for n, data in files.items()]
        record = ShardRecord(shard=shard, input_key=self._fields["input_key"], counts=dict(counts or {}),
                             wall_s=now - self._since, files=records + taken)
        replace_synced(self.path / f"shard-{shard:05d}.json", record.to_bytes())
        self._since, self._shards[shard] = now, record

    def take_shards(self, part: Artifact) -> None:
        """Takes over the finished shards of a part: the same files under a second name (hard links)."""
        files: dict[int, list[FileRecord]] = {}
        for record in part.manifest.files:
            files.setdefault(_shard_of(record), []).append(record)
        for shard, records in files.items():
            for record in records:
                self._link(part.path / record.path, record)
            self._shards[shard] = ShardRecord(shard=shard, input_key=self._fields["input_key"], files=records,
                                              wall_s=part.manifest.wall_s / len(files))

    def _link(self, path: Path, record: FileRecord) -> None:
        (self.path / record.path).unlink(missing_ok=True)
        os.link(path, self.path / record.path)

    def read_table(self, name: str) -> pa.Table:
        """All finished shards of a table in their order, those of an earlier, interrupted run included."""
        paths = [self.path / f"{name}-{shard:05d}.parquet" for shard in sorted(self._shards)]
        tables = [pq.read_table(path, partitioning=None) for path in paths]
        return pa.concat_tables(tables or [TABLES[name].empty_table()])

    def add_file(self, name: str | Path) -> None:
        """Takes up a file, or all files of a folder, that the caller wrote below `writer.path`.

        Whatever else lies there (say, a training state to resume from) stays between runs and goes with `finish`.
        """
        path = self.path / name
        found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        self._added += [p.relative_to(self.path).as_posix() for p in found]

    def finish(self, *, counts: Mapping[str, int | float] | None = None, extra: Mapping | None = None) -> Artifact:
        """Writes the manifest and moves the artifact into place; `counts` come over the sums of the shards' counts."""
        shards = [self._shards[shard] for shard in sorted(self._shards)]
        first, step = (self._part.index, self._part.count) if self._part else (0, 1)
        if [record.shard for record in shards] != [first + step * i for i in range(len(shards))]:
            raise ValueError(f"shards are missing among {sorted(self._shards)}")
        files = [record for shard in shards for record in shard.files] + _hash_files(self.path, self._added)
        self._remove_all_but({record.path for record in files})
        manifest = manifests.seal(
            **self._fields, files=[record.model_dump() for record in files],
            counts=sum_counts(shard.counts for shard in shards) | dict(counts or {}),
            extra=dict(extra or {}) | ({"part": str(self._part)} if self._part else {}),
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            wall_s=sum(shard.wall_s for shard in shards) + time.perf_counter() - self._since,
            versions=manifests.versions(), git_commit=manifests.git_commit(),
        )
        replace_synced(self.path / MANIFEST, manifest.to_bytes())
        _sync_directory(self.path)
        _finish_swap(self.final)
        return Artifact(self.final, manifest)

    def _remove_all_but(self, names: set[str]) -> None:
        kept = {self.path / name for name in names} | set(self.path.glob(SHARD_RECORDS))
        kept |= {parent for path in kept for parent in path.parents}
        for path in sorted(self.path.rglob("*"), reverse=True):         # a folder's contents before the folder
            if path not in kept:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def file_faults(directory: Path, records: Iterable[FileRecord], *, is_hashed: bool = True) -> list[str]:
    """What is wrong with these files, one line per fault: missing, of another size, or (hashed) of other content."""
    def fault(record: FileRecord) -> str | None:
        path = directory / record.path
        try:
            size = path.stat().st_size
            if size != record.bytes:
                return f"{record.path}: {size} bytes, not {record.bytes}"
            if is_hashed and sha256_of_file(path) != record.sha256:
                return f"{record.path}: its content has changed"
        except FileNotFoundError:
            return f"{record.path}: missing"
        return None

    if not is_hashed:
        return [line for line in map(fault, records) if line]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:       # hashlib releases the GIL
        return [line for line in pool.map(fault, records) if line]


@lru_cache(maxsize=4096)
def _faults_since(directory: Path, record: FileRecord, modified_ns: int) -> list[str]:
    """What is wrong with a file; a file that has not changed since is not hashed again."""
    return file_faults(directory, [record])


def indented(lines: Iterable[str]) -> str:
    """Lines that line up under an error's `found`."""
    return ("\n" + " " * 12).join(lines)


def again(manifest: Manifest) -> str:
    """The hint that makes an artifact again."""
    force = "" if "--force" in manifest.command.split() else " --force"
    return f"make it again with `{manifest.command}{force}`"


def unfinished(path: Path) -> ArtifactError:
    """The error for an artifact that was started but has no manifest."""
    if parts := describe_parts(path):
        return ArtifactError(f"{path} is not finished", found=parts,
                             hint=f"`ptdpo merge {path.parent}` joins them, or says which are missing")
    partial = path if path.name.endswith(".partial") else partial_dir(path)
    shards = len(list(partial.glob(SHARD_RECORDS)))
    holder = read_holder(lock_file(partial.with_name(partial.name.removesuffix(".partial"))))
    return ArtifactError(
        f"{path} is not finished",
        found=f"{shards} finished shards" + (f", written by {describe_holder(holder)}" if holder else ""),
        hint=f"run the same command again; it resumes after {shards} finished shards",
    )


def _locate(path: Path, kind: str | None) -> Path:
    """The directory of the artifact that `path` means."""
    if (path / MANIFEST).is_file() and not path.name.endswith(".partial"):
        return path
    if kind is not None and (path / kind).is_dir():
        path = path / kind
    if path.name in SCHEMA_VERSIONS and path.is_dir():
        return _the_only_one(path)
    if path.name.endswith(".partial"):
        raise unfinished(path)
    if _is_swap_open(path):
        complete_swap(path)
        return path
    if partial_dir(path).is_dir() or parts_dir(path).is_dir():
        raise unfinished(path)
    expected = f"a folder with {MANIFEST}"
    if path.is_dir():
        kinds = [name for name in SCHEMA_VERSIONS if (path / name).is_dir()]
        found = f"a run with {', '.join(kinds)}" if kinds else "a folder without one"
        hint = f"name the artifact; `ptdpo status {path if kinds else 'RUN'}` lists what is there"
        raise ArtifactError(f"{path} is not an artifact", expected=expected, found=found, hint=hint)
    raise ArtifactError(f"there is no {f'{kind} ' if kind else ''}artifact at {path}", expected=expected,
                        hint=made_by(kind) or "`ptdpo status RUN` lists what is there")


def made_by(kind: str | None) -> str | None:
    """The hint for an artifact of a kind that nobody has made yet."""
    stages = {"hints": "build-hints", "rollouts": "rollout", "scores": "score-ref", "policy": "train", "evals": "eval"}
    return f"make it with `ptdpo {stages[kind]} --run RUN`" if kind in stages else None


def _the_only_one(folder: Path) -> Path:
    """The one artifact in RUN/<kind>."""
    paths = artifact_paths(folder)
    finished = [path for path in paths if (path / MANIFEST).is_file() or _is_swap_open(path)]
    if len(finished) == 1:
        return _locate(finished[0], None)
    if finished:
        raise ArtifactError(f"{folder} holds several artifacts", expected="one", found=indented(map(str, finished)),
                            hint="name one of them")
    if paths:
        raise unfinished(paths[0])
    raise ArtifactError(f"{folder} holds no artifact",
                        hint=made_by(folder.name) or f"`ptdpo status {folder.parent}` lists what is there")


def complete_swap(path: Path) -> None:
    """Moves into place what a crash left built beside its place; LockedError while its writer is at it."""
    if _is_swap_open(path):
        with Lock(lock_file(path)):
            _finish_swap(path)


def _is_swap_open(path: Path) -> bool:
    return (partial_dir(path) / MANIFEST).exists() or old_dir(path).exists()


def _finish_swap(path: Path) -> None:
    """Moves a built artifact into place, the former one out of the way; picks up wherever a crash left off.

    Only under the lock. A manifest in .partial means that everything it names is on disk.
    """
    new, old = partial_dir(path), old_dir(path)
    if (new / MANIFEST).exists():
        for record in new.glob(SHARD_RECORDS):
            record.unlink()
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(path, old)
        os.rename(new, path)
        _sync_directory(path.parent)
    elif old.exists() and not path.exists():
        os.rename(old, path)
    shutil.rmtree(old, ignore_errors=True)      # a reader may still hold its files open; the new one is in place


def _parquet(name: str, table: pa.Table) -> bytes:
    schema = TABLES[name]
    if set(table.column_names) != set(schema.names):
        missing, unknown = set(schema.names) - set(table.column_names), set(table.column_names) - set(schema.names)
        raise ValueError(f"{name}: missing columns {sorted(missing)}, unknown columns {sorted(unknown)}")
    table = table.select(schema.names).cast(schema).combine_chunks()    # one layout: the same rows give the same bytes
    sink = pa.BufferOutputStream()
    if name == "images":        # compressed already, and fetched a few at a time
        pq.write_table(table, sink, row_group_size=64, compression="none", use_dictionary=False, write_statistics=False)
    else:
        pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _safetensors(name: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    if faults := tensor_faults(name, arrays):
        raise ValueError(f"{name}: {faults}")
    return safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in arrays.items()})


def tensor_faults(name: str, found: Iterable[str]) -> str | None:
    """What is missing or unknown among the tensors of a shard."""
    missing = set(TENSORS.get(name, ())) - OPTIONAL_TENSORS - set(found)
    unknown = set(found) - set(TENSORS.get(name, ()))
    return f"missing tensors {sorted(missing)}, unknown tensors {sorted(unknown)}" if missing or unknown else None


def sum_counts(counts: Iterable[Mapping[str, int | float]]) -> dict[str, int | float]:
    total: dict[str, int | float] = {}
    for one in counts:
        for name, value in one.items():
            total[name] = total.get(name, 0) + value
    return total


def _hash_files(directory: Path, names: Iterable[str]) -> list[FileRecord]:
    """Records of files that the caller wrote, after making sure that they are on disk."""
    def record(name: str) -> FileRecord:
        path = directory / name
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return FileRecord(path=name, bytes=path.stat().st_size, sha256=sha256_of_file(path))

    names = sorted(set(names))
    if not names:
        return []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(record, names))


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)    # what a killed merge left is the file of a part, too: not to be written into
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(path: Path, data: bytes) -> None:
    """Write a file so that, whatever happens, its old or its new content is there."""
    temporary = path.with_name(path.name + ".tmp")
    _write_synced(temporary, data)
    os.replace(temporary, path)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
