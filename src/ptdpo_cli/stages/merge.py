"""merge: the parts that an array of tasks made become the artifact that one task would have made, file by file."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ptdpo_cli.artifacts.lock import Lock
from ptdpo_cli.artifacts.manifest import MANIFEST, Manifest, read_manifest
from ptdpo_cli.artifacts.parts import Part, describe_parts, is_finished, part_dir, parts_begun, parts_dir
from ptdpo_cli.artifacts.schemas import SCHEMA_VERSIONS
from ptdpo_cli.artifacts.store import (
    Artifact,
    Writer,
    again,
    artifact_paths,
    complete_swap,
    file_faults,
    indented,
    lock_file,
    open_part,
    sum_counts,
)
from ptdpo_cli.errors import ArtifactError
from ptdpo_cli.stages.plan import Plan

# What all parts of one artifact have in common, besides their schema and stage, which the input key covers.
_ORIGIN = ("inputs", "section", "seed", "model", "hint_hash", "policy_hash")
_SHARED = ("input_key", *_ORIGIN)


def merge(path: Path | str) -> list[dict]:
    """Joins the parts of every artifact in a run, or in RUN/<kind>; one row per artifact, those joined before included.

    What is whole is joined even where something else is not: the error comes afterwards.
    Errors: ArtifactError for missing parts, parts of other inputs, damaged files, or where there is nothing to join;
    LockedError while another process joins them.
    """
    path = Path(path)
    there = _artifacts_below(path)
    rows, faults = [], []
    for one in there:
        try:
            has_parts = parts_dir(one).is_dir()
            rows.append(_merge_one(one) if has_parts else _row(Artifact.open(one, check_files=False)))
        except ArtifactError as fault:
            faults.append(fault)
    if faults:
        raise faults[0]
    if not rows:
        raise ArtifactError(
            f"nothing to join in {path}",
            expected="parts that a stage made with `--shard I/N`",
            hint="make all N of them first: `ptdpo rollout --shard 0/N …`; `ptdpo status RUN` lists what is there",
        )
    return rows


def render_merge(rows: list[dict], console: Console) -> None:
    """One line per artifact that was joined, or how many were whole already."""
    joined = [row for row in rows if row["parts"]]
    for row in joined:
        console.print(Text(f"{row['path']}  {row['content_hash'][:8]}  joined {row['parts']} parts"))
    if not joined:
        console.print(f"nothing to join; whole already: {len(rows)}")


def _artifacts_below(path: Path) -> list[Path]:
    """What is finished or has parts: in a run, in one kind of it, or the artifact itself."""
    if SCHEMA_VERSIONS.keys() & {path.parent.name}:
        folder, name = path.parent, path.name.removesuffix(".parts")
        found = [one for one in artifact_paths(folder) if one.name == name]
    else:
        folders = [path] if path.name in SCHEMA_VERSIONS else [path / kind for kind in SCHEMA_VERSIONS]
        found = [one for folder in folders for one in artifact_paths(folder)]
    return [one for one in found if parts_dir(one).is_dir() or (one / MANIFEST).is_file()]


def _merge_one(path: Path) -> dict:
    complete_swap(path)
    whole = Artifact.open(path) if (path / MANIFEST).is_file() else None
    begun = parts_begun(path)
    with contextlib.ExitStack() as locks:       # a part that is being made again is not to be joined, nor removed
        for part in (part for parts in begun.values() for part in parts):
            complete_swap(part_dir(path, part))
            locks.enter_context(Lock(lock_file(part_dir(path, part))))
        if complete := [count for count in begun if not _missing(path, count)]:
            return _row(_join(path, complete[-1], is_forced=whole is not None), parts=complete[-1])
        if whole is None or not _says_nothing_new(path, begun, whole):
            raise _incomplete(path, begun, is_forced=whole is not None)
        _remove_parts(path)
        return _row(whole)


def _join(path: Path, count: int, *, is_forced: bool) -> Artifact:
    parts = [open_part(part_dir(path, Part(count, index))) for index in range(count)]
    _require_same_origin(path, parts)
    for part in parts:
        if faults := file_faults(part.path, part.manifest.files):
            raise ArtifactError(f"{part.path} is damaged", found=indented(faults), hint=again(part.manifest))
    first = parts[0].manifest
    plan = Plan(path.parent.parent, first.kind, first.stage, **{field: getattr(first, field) for field in _ORIGIN})
    with plan.writer(force=is_forced, command=_command(first.command, None)) as writer:
        for part in parts:
            writer.take_shards(part)
        counts = sum_counts(part.manifest.counts for part in parts)
        artifact = writer.finish(counts=counts, extra=_extra(writer, first))
        _remove_parts(path)
        return artifact


def _extra(writer: Writer, first: Manifest) -> dict:
    """What only the whole can say, besides what every part says."""
    extra = {name: value for name, value in first.extra.items() if name != "part"}
    if first.kind == "evals":
        from ptdpo_cli.recipe import Recipe
        from ptdpo_cli.stages.judging import judge_identity
        from ptdpo_cli.stages.quoting import reader_identity
        from ptdpo_cli.stages.summary import summarise

        recipe = Recipe.model_validate({"seed": first.seed, "eval": first.section["eval"]})
        rows = writer.read_table("evals").to_pylist()
        who = judge_identity(first.section, rows) | reader_identity(first.section, rows)
        extra |= {"summary": summarise(rows, recipe), **who}
    if first.kind == "utility":
        from ptdpo_cli.stages.utility_summary import summarise_utility

        extra["summary"] = summarise_utility(writer.read_table("utility").to_pylist(), seed=first.seed)
    return extra


def _missing(path: Path, count: int) -> list[Part]:
    parts = (Part(count, index) for index in range(count))
    return [part for part in parts if not is_finished(path, part)]


def _says_nothing_new(path: Path, begun: dict[int, list[Part]], whole: Artifact) -> bool:
    """Whether the finished parts hold the whole's own files: what a kill left after they were joined."""
    known = {(record.path, record.sha256) for record in whole.manifest.files}
    finished = (part for parts in begun.values() for part in parts if is_finished(path, part))
    files = (record for part in finished for record in read_manifest(part_dir(path, part)).files)
    return all((record.path, record.sha256) in known for record in files)


def _incomplete(path: Path, begun: dict[int, list[Part]], *, is_forced: bool) -> ArtifactError:
    """Which parts are missing, and the commands that make them."""
    if not begun:
        return ArtifactError(f"{parts_dir(path)} holds no parts", hint=f"run `rm -r {parts_dir(path)}`")
    count = min(begun, key=lambda count: len(_missing(path, count)))
    missing = _missing(path, count)
    finished = [part for part in begun[count] if part not in missing]
    command = read_manifest(part_dir(path, finished[0])).command if finished else f"ptdpo {_stage(path)} …"
    commands = [f"`{_command(command, part, is_forced=is_forced)}`" for part in missing]
    shown = commands[:4] + ([f"and so on for {len(commands) - 4} more"] if len(commands) > 4 else [])
    numbers = ",".join(str(part.index) for part in missing)
    return ArtifactError(
        f"{path} cannot be joined: parts are missing",
        expected=f"{count} parts" if len(begun) == 1 else "all parts of one N",
        found=f"{describe_parts(path)}; of {count} are missing {', '.join(map(str, missing))}",
        hint=f"make them with {indented(shown)}\nin a job array: `SHARDS={count} sbatch --array={numbers} …`",
    )


def _command(command: str, part: Part | None, *, is_forced: bool = False) -> str:
    """A part's command as it would be for another part, or for the whole."""
    command = re.sub(r" --shard[ =]\S+| --force\b", "", command)
    return command + (f" --shard {part}" if part else "") + (" --force" if is_forced else "")


def _stage(path: Path) -> str:
    stages = {
        "hints": "build-hints", "rollouts": "rollout", "scores": "score-ref", "evals": "eval", "utility": "hints score",
    }
    return stages[path.parent.name]


def _require_same_origin(path: Path, parts: list[Artifact]) -> None:
    """Refuse a part that was copied from elsewhere, or renamed."""
    first = parts[0].manifest
    for index, part in enumerate(parts):
        name = str(Part(len(parts), index))
        if part.manifest.extra["part"] != name:
            raise ArtifactError(f"{part.path} is another part than its name says", expected=name,
                                found=part.manifest.extra["part"], hint=f"remove it: `rm -r {part.path}`")
        for field in _SHARED:
            expected, found = getattr(first, field), getattr(part.manifest, field)
            if expected != found or not path.name.endswith(part.manifest.input_key[:8]):
                raise ArtifactError(
                    f"{part.path} was made from other inputs than the other parts",
                    expected=f"{field} {expected}",
                    found=f"{field} {found}",
                    hint=f"remove it with `rm -r {part.path}` and make it again",
                )


def _remove_parts(path: Path) -> None:
    """Manifests first: what a kill leaves is then unfinished, not damaged."""
    folder = parts_dir(path)
    for manifest in folder.glob(f"*/{MANIFEST}"):
        manifest.unlink()
    shutil.rmtree(folder)


def _row(artifact: Artifact, *, parts: int = 0) -> dict:
    manifest = artifact.manifest
    return {
        "path": str(artifact.path),
        "kind": manifest.kind,
        "content_hash": manifest.content_hash,
        "counts": manifest.counts,
        "parts": parts,
        "already_done": parts == 0,
    }
