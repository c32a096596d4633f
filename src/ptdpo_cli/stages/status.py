"""status: what a run holds, what is unfinished, who is writing; from manifests and file names alone."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ptdpo_cli.artifacts.lock import describe_holder, is_dead, read_holder
from ptdpo_cli.artifacts.manifest import MANIFEST, Manifest, read_manifest
from ptdpo_cli.artifacts.parts import part_dir, parts_begun, parts_finished
from ptdpo_cli.artifacts.schemas import SCHEMA_VERSIONS
from ptdpo_cli.artifacts.store import SHARD_RECORDS, artifact_paths, lock_file, partial_dir, shard_count
from ptdpo_cli.errors import ArtifactError


def status(run: Path | str) -> list[dict]:
    """One row per artifact, in the order in which stages make them; a forced rebuild has a row beside the old one.

    `state` is finished, unfinished or unreadable; a row is stale when an artifact that it was made from is no longer in
    the run with that content (`missing_inputs`). Times are UTC, sizes bytes.
    Errors: ArtifactError when the run does not exist.
    """
    run = Path(run)
    if not run.is_dir():
        raise ArtifactError(f"there is no run at {run}", hint="a run is the folder given by --run")
    rows = [row for kind in SCHEMA_VERSIONS for path in artifact_paths(run / kind) for row in _rows(kind, path)]
    present = {row["content_hash"] for row in rows}
    for row in rows:
        made_from = {name: found for name, found in row["inputs"].items() if name in SCHEMA_VERSIONS}   # not user files
        row["missing_inputs"] = sorted(name for name, found in made_from.items() if found not in present)
        row["is_stale"] = bool(row["missing_inputs"])
    return rows


def render_status(rows: list[dict], console: Console) -> None:
    """The rows of `status`, each with its counts on a line below it, then what is locked, stale or unreadable."""
    if not rows:
        console.print("no artifacts yet")
        return
    lines = [("artifact", "state", "content", "size", "created (UTC)"), *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line, row in zip(lines, [None, *rows], strict=True):
        artifact, state, content, size, created = line
        fitted = (artifact.ljust(widths[0]), state.ljust(widths[1]), content.ljust(8), size.rjust(widths[3]), created)
        console.print(Text("  ".join(fitted), style="bold" if row is None else ""))
        if row is not None and row["counts"]:
            counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in row["counts"].items())
            console.print(Padding(Text(counts, style="dim"), (0, 0, 0, 2)))
    for row in rows:
        name = f"{row['kind']}/{Path(row['path']).name}"
        if row["locked_by"]:
            console.print(Text(f"{name} is being written by {row['locked_by']}"))
        if row["missing_inputs"]:
            console.print(Text(f"{name} was made from {', '.join(row['missing_inputs'])} that are no longer here"))
        if row["fault"]:
            console.print(Text(row["fault"]))


def _cells(row: dict) -> tuple[str, ...]:
    state = row["state"] if row["state"] != "unfinished" else f"{row['shards']} shards done"
    if row["parts"]:
        state = "parts: " + ", ".join(f"{part['finished']} of {part['of']}" for part in row["parts"])
    return (
        f"{row['kind']}/{Path(row['path']).name}", state + (", stale" if row["is_stale"] else ""),
        (row["content_hash"] or "")[:8], readable_size(row["bytes"]), (row["created_utc"] or "")[:16].replace("T", " "),
    )


def readable_size(size: int) -> str:
    """A size in bytes as people say it, in powers of 1000."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _rows(kind: str, path: Path) -> list[dict]:
    holder = read_holder(lock_file(path))
    locked_by = describe_holder(holder) if holder is not None and not is_dead(holder) else None
    rows = []
    if (path / MANIFEST).is_file():
        try:
            rows.append(_row(kind, path, "finished", manifest=read_manifest(path)))
        except ArtifactError as error:
            rows.append(_row(kind, path, "unreadable", fault=str(error)))
    if parts := [{"of": count, "finished": done} for count, done in parts_finished(path).items()]:
        rows.append(_row(kind, path, "unfinished", parts=parts, locked_by=_writers_of_parts(path)))
    if partial_dir(path).is_dir() or not rows:
        rows.append(_row(kind, path, "unfinished", shards=len(list(partial_dir(path).glob(SHARD_RECORDS))),
                         locked_by=locked_by))
    return rows


def _writers_of_parts(path: Path) -> str | None:
    parts = [part for parts in parts_begun(path).values() for part in parts]
    holders = {part: read_holder(lock_file(part_dir(path, part))) for part in parts}
    alive = [f"{part}: {describe_holder(h)}" for part, h in holders.items() if h is not None and not is_dead(h)]
    return "; ".join(alive) or None


def _row(kind: str, path: Path, state: str, *, manifest: Manifest | None = None, shards: int = 0,
         parts: list[dict] | None = None, locked_by: str | None = None, fault: str | None = None) -> dict:
    return {
        "path": str(path), "kind": kind, "state": state,
        "stage": manifest.stage if manifest else None,
        "schema_version": manifest.schema_version if manifest else int(re.match(r"v(\d+)", path.name)[1]),
        "content_hash": manifest.content_hash if manifest else None,
        "inputs": manifest.inputs if manifest else {},
        "shards": shard_count(manifest.files) if manifest else shards,
        "parts": parts or [],
        "counts": manifest.counts if manifest else {},
        "files": len(manifest.files) if manifest else 0,
        "bytes": sum(record.bytes for record in manifest.files) if manifest else 0,
        "created_utc": manifest.created_utc if manifest else None,
        "wall_s": manifest.wall_s if manifest else None,
        "locked_by": locked_by, "fault": fault,
    }
