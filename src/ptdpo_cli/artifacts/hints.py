"""Hints as rows of a table and their maps as tensors, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptdpo_cli.artifacts.schemas import Cost, Hint, Salient
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.artifacts.tensors import join, split


def read_hints(artifact: Artifact) -> dict[str, Hint]:
    """problem_id -> hint, for the problems that have one; without maps."""
    table = artifact.table("hints")
    return {row["problem_id"]: hint_from_row(row) for row in table.to_pylist() if row["hint"] is not None}


def hint_from_row(row: dict, maps: Sequence[np.ndarray] = ()) -> Hint:
    """The hint of a row of its table."""
    return Hint(
        row["problem_id"],
        row["hint"],
        row["spatial"] or "",
        tuple(row["steps"] or ()),
        row["source"],
        row["refusal"],
        role=row["role"],
        refused=row["refused"],
        span=row["span"] and tuple(row["span"]),
        flags=tuple(row["flags"] or ()),
        fault=row["fault"],
        regions=tuple(
            Salient(one["image"], one["label"], tuple(one["box"]), one["score"]) for one in row["regions"] or ()
        ),
        cost=Cost(row["expert"] or "", row["requests"], row["prompt_tokens"], row["completion_tokens"]),
        maps=tuple(maps),
    )


def read_maps(artifact: Artifact, *, shards: Sequence[int] | None = None) -> dict[str, list[np.ndarray]]:
    """problem_id -> map_HW of each picture, for the problems whose hints have maps; of all shards, or of some."""
    found: dict[str, list[np.ndarray]] = {}
    for shard in range(artifact.shards()) if shards is None else shards:
        if not any(file.path == f"hints-{shard:05d}.safetensors" for file in artifact.manifest.files):
            continue
        ids = artifact.shard_table("hints", shard)["problem_id"].to_pylist()
        tensors = artifact.tensors("hints", shard)
        maps = split(tensors["map_values"], tensors["map_offsets"])
        for values, shape, (row, _) in zip(maps, tensors["map_shapes"], tensors["map_of"], strict=True):
            found.setdefault(ids[row], []).append(values.reshape(shape))
    return found


def hint_row(hint: Hint) -> dict:
    """A hint as a row of its table; its maps are tensors."""
    return {
        "problem_id": hint.problem_id,
        "hint": hint.text,
        "spatial": hint.spatial,
        "steps": list(hint.steps),
        "source": hint.source,
        "refusal": hint.refusal,
        "role": hint.role,
        "refused": hint.refused,
        "span": hint.span and list(hint.span),
        "flags": list(hint.flags),
        "fault": hint.fault,
        "regions": [
            {"image": one.image, "label": one.label, "box": list(one.box), "score": one.score} for one in hint.regions
        ],
        "expert": hint.cost.expert or None,
        "requests": hint.cost.requests,
        "prompt_tokens": hint.cost.prompt_tokens,
        "completion_tokens": hint.cost.completion_tokens,
    }


def map_tensors(hints: Sequence[Hint]) -> dict[str, np.ndarray]:
    """The maps of a shard's hints, as schemas.py describes them."""
    placed = [(row, image, map_HW) for row, hint in enumerate(hints) for image, map_HW in enumerate(hint.maps)]
    values, offsets = join([map_HW.ravel() for *_, map_HW in placed], dtype=np.float32)
    return {
        "map_values": values,
        "map_offsets": offsets,
        "map_shapes": np.array([map_HW.shape for *_, map_HW in placed], np.int32).reshape(-1, 2),
        "map_of": np.array([(row, image) for row, image, _ in placed], np.int32).reshape(-1, 2),
    }
