"""verify: read every byte of an artifact, or of all in a run, and compare it with the manifest."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.text import Text
from safetensors import SafetensorError, safe_open

from ptdpo_cli.artifacts.manifest import MANIFEST, Manifest, content_hash, read_manifest
from ptdpo_cli.artifacts.schemas import SCHEMA_VERSIONS, TABLES
from ptdpo_cli.artifacts.store import (
    SHARD_FILE,
    Artifact,
    again,
    artifact_paths,
    file_faults,
    indented,
    tensor_faults,
)
from ptdpo_cli.errors import ArtifactError
from ptdpo_cli.stages.status import readable_size


def verify(path: Path | str) -> dict:
    """Hashes every file of an artifact (or of all finished ones in a run), checks columns and tensor names.

    Gives the artifacts, their files, bytes and the seconds it took.
    Errors: ArtifactError that lists every file that is missing, changed or extra, and every wrong hash or schema.
    """
    path, start = Path(path), time.perf_counter()
    paths = _finished_below(path) or [Artifact.open(path, check_files=False).path]
    faults, rows, hint = [], [], None
    for one in paths:
        try:
            manifest = read_manifest(one)
        except ArtifactError as error:
            faults.append(f"{error.what}: {error.found}")
            continue
        found = artifact_faults(one, manifest)
        faults += [f"{one.parent.name}/{one.name}: {fault}" for fault in found]
        hint = again(manifest) if found else hint
        rows.append({"path": str(one), "kind": manifest.kind, "content_hash": manifest.content_hash,
                     "files": len(manifest.files), "bytes": sum(record.bytes for record in manifest.files)})
    if faults:
        raise ArtifactError(
            f"{path} is damaged: {len(faults)} {'fault' if len(faults) == 1 else 'faults'}", found=indented(faults),
            hint=hint or "restore it from a copy, or make it again with --force",
        )
    return {"path": str(path), "artifacts": rows, "files": sum(row["files"] for row in rows),
            "bytes": sum(row["bytes"] for row in rows), "wall_s": time.perf_counter() - start}


def render_verify(result: dict, console: Console) -> None:
    """One line per artifact, then the sum."""
    for row in result["artifacts"]:
        name = "/".join(Path(row["path"]).parts[-2:])
        console.print(Text(f"{name}  {row['content_hash'][:8]}  {row['files']} files, {readable_size(row['bytes'])}"))
    count = len(result["artifacts"])
    console.print(Text(f"{count} {'artifact' if count == 1 else 'artifacts'} whole: {result['files']} files, "
                       f"{readable_size(result['bytes'])} read in {result['wall_s']:.1f} s"))


def artifact_faults(path: Path, manifest: Manifest) -> list[str]:
    """Everything that is wrong with one artifact, one line each."""
    faults = file_faults(path, manifest.files)
    damaged = {fault.partition(":")[0] for fault in faults}
    named = {record.path for record in manifest.files} | {MANIFEST}
    present = {found.relative_to(path).as_posix() for found in path.rglob("*") if not found.is_dir()}
    faults += [f"{name}: not in the manifest" for name in sorted(present - named)]
    found = content_hash(manifest.model_dump())
    if found != manifest.content_hash:
        faults.append(f"{MANIFEST}: content hash {found[:8]}, not {manifest.content_hash[:8]}")
    for record in manifest.files:
        fault = _schema_fault(path / record.path) if record.path not in damaged else None
        if fault:
            faults.append(f"{record.path}: {fault}")
    return faults


def _finished_below(path: Path) -> list[Path]:
    """The finished artifacts of a run, or of one kind in it; none when `path` is neither."""
    folders = [path] if path.name in SCHEMA_VERSIONS else [path / kind for kind in SCHEMA_VERSIONS]
    return [one for folder in folders for one in artifact_paths(folder) if (one / MANIFEST).is_file()]


def _schema_fault(path: Path) -> str | None:
    """How the columns or tensors of a shard differ from schemas.py; columns added by a later version are fine."""
    match = SHARD_FILE.fullmatch(path.name)
    if not match:
        return None
    try:
        if match["type"] == "safetensors":
            with safe_open(path, framework="numpy") as file:
                return tensor_faults(match["name"], file.keys())
        schema = pq.read_schema(path)
    except (SafetensorError, pa.ArrowException, OSError) as error:
        return f"cannot be read: {error}"
    expected = TABLES.get(match["name"], pa.schema([]))
    wrong = [field.name for field in expected if field.name not in schema.names or schema.field(field.name) != field]
    return f"columns missing or of another type: {', '.join(wrong)}" if wrong else None
