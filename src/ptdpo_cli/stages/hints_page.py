"""hints show: hints as one HTML file to look at, each beside its picture, and the first ones as a sheet (PNG).

The page is `pages/hints.html` with data put in, JSON that no markup can end: what a data set holds is never HTML. It
loads nothing, and its Content-Security-Policy says so. Pictures are written as they are read, never all in memory.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

from ptdpo_cli.artifacts.hints import hint_from_row, read_maps
from ptdpo_cli.artifacts.images import ImageReader
from ptdpo_cli.artifacts.problems import problem_from_row
from ptdpo_cli.artifacts.schemas import Hint, Problem
from ptdpo_cli.artifacts.store import Artifact, artifact_paths
from ptdpo_cli.datasets.images import decode_rgb
from ptdpo_cli.errors import ArtifactError, UsageError
from ptdpo_cli.stages.plan import Progress, no_progress
from ptdpo_cli.stages.show import HEAT, draw_cell, map_shares, problems_of, run_of, tile

_SIDE = 512             # pixels: longer sides are scaled down
_TINY = 128             # pixels: up to here a picture stays as it is, pixel for pixel
_QUALITY = 80           # of WebP
_BATCH, _THREADS = 64, 4    # pictures in memory at once, and of these decoded
_SHEET = 24             # hints on a sheet
_MARK = re.compile(r"<!-- (data|pictures) -->|\{\{(style|script)\}\}")


def write_page(
    hints: Artifact,
    out: Path | None = None,
    *,
    sheet: Path | None = None,
    limit: int = 1000,
    progress: Progress = no_progress,
) -> dict:
    """Writes the first `limit` hints to `out` (default: RUN/hints-<hash>.html), and the first 24 to `sheet`.

    Errors: ArtifactError when the problems that they were made of are not in their run, or lack one of them.
    """
    out = Path(out) if out is not None else run_of(hints) / f"hints-{hints.content_hash[:8]}.html"
    for path, mend in ((out, f"--out {out}/hints.html"), (sheet, f"--sheet {sheet}/hints.png")):
        if path is not None and Path(path).is_dir():
            raise UsageError(f"{path} is a folder", expected="the name of a file", hint=f"`{mend}`")
    problems, utility = problems_of(hints), utility_of(hints)
    effects = {row["problem_id"]: row for row in utility.table("utility").to_pylist()} if utility else {}
    total = sum(hints.shard_table("hints", shard).num_rows for shard in range(hints.shards()))
    about = {
        "run": run_of(hints).resolve().name, "hash": hints.content_hash[:8], "total": total,
        "created": hints.manifest.created_utc, "heat": HEAT,
    }
    partial = out.with_name(out.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as page:
            shown = _write(page, about, hints, problems, effects, limit, progress)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    if sheet is not None:
        draw_hints(islice(_hints_of(hints, problems), min(limit, _SHEET)), _is_audited(hints)).save(sheet, format="PNG")
    return {
        "page": str(out), "hints": shown["hints"], "of": total, "pictures": shown["pictures"],
        "bytes": out.stat().st_size, "utility": str(utility.path) if utility else None,
        "sheet": str(sheet) if sheet is not None else None,
    }


def utility_of(hints: Artifact) -> Artifact | None:
    """The measurement in the run of whether these hints help, of most answers, else the newest; None without any."""
    found = []
    for path in artifact_paths(run_of(hints) / "utility"):
        try:
            one = Artifact.open(path, kind="utility")
        except ArtifactError:       # unfinished, damaged or newer: the page does without
            continue
        if hints.content_hash in one.manifest.inputs.values():
            found.append(one)
    return max(found, key=lambda one: (one.manifest.counts.get("answers", 0), one.manifest.created_utc), default=None)


def verdict_of(hint: Hint, *, audited: bool) -> str:
    """passed, flagged, refused, no hint, or, of a hint that no audit has seen, not audited."""
    if hint.refusal is not None:
        return "refused"
    if hint.text is None:
        return "no hint"
    if not audited or hint.role == "revealing":
        return "not audited"
    return "flagged" if hint.flags else "passed"


def draw_hints(shown: Iterable[tuple[Problem, Hint]], audited: bool) -> Image.Image:
    """A grid of hints: pictures with maps and boxes over them, question, answer, hint and verdict."""
    cells = [
        draw_cell(
            problem, hint.text or hint.refused, maps=hint.maps, regions=hint.regions,
            verdict=": ".join(filter(None, [verdict_of(hint, audited=audited), hint.refusal or hint.fault])),
        )
        for problem, hint in shown
    ]
    if not cells:
        raise UsageError("there are no hints to draw")
    return tile(cells, min(4, len(cells)))


def _is_audited(hints: Artifact) -> bool:
    return bool(hints.manifest.section.get("audit", True))


def _hints_of(hints: Artifact, problems: Artifact) -> Iterator[tuple[Problem, Hint]]:
    """Each hint with its maps and its problem, in the order of the hints; a shard in memory at a time."""
    rows = {row["problem_id"]: row for row in problems.table("problems").to_pylist()}
    images = ImageReader(problems)
    for shard in range(hints.shards()):
        maps = read_maps(hints, shards=[shard])
        for row in hints.shard_table("hints", shard).to_pylist():
            hint = hint_from_row(row, maps=maps.get(row["problem_id"], ()))
            if hint.problem_id not in rows:
                raise ArtifactError(
                    f"{hints.path} has a hint for a problem that {problems.path} lacks", found=hint.problem_id,
                    hint="make the hints again with --force",
                )
            yield problem_from_row(rows[hint.problem_id], images), hint


# ---- the page --------------------------------------------------------------------------------------------------------


def _write(
    page: TextIO,
    about: dict,
    hints: Artifact,
    problems: Artifact,
    effects: Mapping[str, Mapping],
    limit: int,
    progress: Progress,
) -> dict[str, int]:
    """The template with its places filled in, in two passes over the hints: first their words, then their pictures.

    The words come first so that a browser shows hints before it has read megabytes of pictures.
    """
    template = files("ptdpo_cli").joinpath("pages/hints.html").read_text(encoding="utf-8")
    numbers: dict[str, int] = {}        # sha256 of a picture -> its number on the page
    written, end = 0, 0
    for mark in _MARK.finditer(template):
        page.write(template[end : mark.start()])
        end = mark.end()
        if mark[2]:
            page.write(_digest(template, mark[2]))
        elif mark[1] == "data":
            page.write(f'<script type="application/json" id="data">{{"about":{_json(about)},"hints":[')
            for problem, hint in islice(_hints_of(hints, problems), limit):
                card = _card(problem, hint, numbers, effects.get(hint.problem_id), audited=_is_audited(hints))
                page.write(("," if written else "") + "\n" + _json(card))
                written += 1
            page.write("]}</script>\n")
        else:
            for number, picture in enumerate(_pictures(problems, list(numbers))):
                progress(number, len(numbers), "pictures")
                page.write(f'<script type="application/json" id="picture-{number}">{_json(picture)}</script>\n')
    page.write(template[end:])
    return {"hints": written, "pictures": len(numbers)}


def _digest(template: str, tag: str) -> str:
    """What a Content-Security-Policy calls the page's own script or style by."""
    text = template.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    """JSON in ASCII that ends no script element: <, > and & are written as escapes.

    nan and infinity, which JSON lacks, are an error: `_number` keeps them out.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _card(
    problem: Problem, hint: Hint, numbers: dict[str, int], effect: Mapping | None, *, audited: bool
) -> dict[str, object]:
    """What the page says of one hint; what is empty is left out."""
    start, stop = hint.span or (0, 0)
    refused = hint.refused or ""
    card = {
        "id": hint.problem_id,
        "question": problem.question,
        "choices": problem.choices,
        "answer": problem.answer,
        "solution": problem.solution,
        "category": problem.category,
        "pictures": [numbers.setdefault(name, len(numbers)) for name in problem.images.names],
        "maps": _maps(hint.maps),
        "regions": [
            {"image": one.image, "label": one.label, "box": [_number(x) for x in one.box], "score": _number(one.score)}
            for one in hint.regions
        ],
        "spatial": hint.spatial,
        "steps": hint.steps,
        "text": _beside_parts(hint),
        "source": hint.source,
        "role": hint.role,
        "verdict": verdict_of(hint, audited=audited),
        "refusal": hint.refusal,
        # Cut here: JavaScript counts the characters of a string in another way.
        "refused": [refused[:start], refused[start:stop], refused[stop:]] if refused else None,
        "flags": hint.flags,
        "fault": hint.fault,
        "expert": hint.cost.expert,
        "requests": hint.cost.requests,
        "promptTokens": hint.cost.prompt_tokens,
        "completionTokens": hint.cost.completion_tokens,
    }
    if effect is not None:
        card |= {"samples": effect["samples"], "plain": effect["plain_correct"], "hinted": effect["hinted_correct"]}
        return {name: value for name, value in card.items() if value or name in ("plain", "hinted")}
    return {name: value for name, value in card.items() if value}


def _beside_parts(hint: Hint) -> str:
    """What the teacher reads beside the spatial guidance and the steps."""
    parts = " ".join(filter(None, [hint.spatial, *hint.steps]))
    text = hint.text or ""
    return text[len(parts) :].strip() if text.startswith(parts) else text


def _maps(maps: Sequence[np.ndarray]) -> list[dict[str, object]]:
    """Each map in bytes, 255 where the maps of this hint are highest, and the mean of its cells in these terms."""
    return [
        {
            "rows": share_HW.shape[0], "columns": share_HW.shape[1], "mean": round(float(255 * share_HW.mean()), 2),
            "cells": base64.b64encode(np.round(255 * share_HW).astype(np.uint8).tobytes()).decode(),
        }
        for share_HW in map_shares(maps)
    ]


def _number(value: float) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None


def _pictures(problems: Artifact, names: list[str]) -> Iterator[dict[str, object]]:
    """What the page shows of these pictures, in their order; a few at a time, since Pillow lets threads run beside."""
    images = ImageReader(problems)
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(names), _BATCH):
            yield from pool.map(_picture, [images[name] for name in names[start : start + _BATCH]])


def _picture(data: bytes) -> dict[str, object]:
    """A picture as a data URL, at most 512 pixels a side, or why it cannot be shown."""
    try:
        picture = decode_rgb(data, least=_SIDE)
    except UsageError as error:
        return {"fault": f"{error.what}: {error.found}"}
    file = io.BytesIO()
    if is_tiny := max(picture.size) <= _TINY:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        picture.save(file, "WEBP", quality=_QUALITY, method=2)
    kind = "png" if is_tiny else "webp"
    url = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"width": picture.width, "height": picture.height, "tiny": is_tiny, "url": url}
