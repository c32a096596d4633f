"""show: the first rows of an artifact as text, and the problems behind them as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ptdpo_cli.artifacts.images import ImageReader
from ptdpo_cli.artifacts.manifest import MANIFEST
from ptdpo_cli.artifacts.problems import problem_from_row
from ptdpo_cli.artifacts.schemas import SCHEMA_VERSIONS, TABLES, Problem, Salient
from ptdpo_cli.artifacts.store import Artifact, artifact_paths
from ptdpo_cli.datasets.images import decode_rgb, in_pixels
from ptdpo_cli.errors import ArtifactError, UsageError

_CELL, _MARGIN, _TEXT_SIZE, _LINE = 320, 12, 14, 18        # pixels of the picture sheet
_MAX_LINES = 8                                              # of one question, answer or hint
# How a map is laid over a picture, from none of it to its highest cell: red, green, blue, opacity in evenly spaced
# steps. What was not looked at lies in the dark.
HEAT = (
    (18, 10, 50, 0.58), (96, 20, 110, 0.55), (188, 55, 84, 0.52), (245, 125, 21, 0.46), (252, 235, 120, 0.36),
)
_BOX = (0, 200, 255)


def show(path: Path | str, *, limit: int = 8, out: Path | str | None = None, kind: str | None = None) -> dict:
    """The first `limit` rows of an artifact; with `out` also a PNG of their problems: picture, question, answer, hint.

    Problems and hints are found through the artifact's inputs, in the same run.
    Errors: ArtifactError for the artifact; UsageError when a sheet is asked for and no problems lead to it.
    """
    artifact = Artifact.open(path, kind=kind)
    manifest = artifact.manifest
    rows = list(islice(_rows(artifact), limit))
    if out is not None:
        draw_sheet(*_problems_of(artifact, rows, limit)).save(out, format="PNG")
    return {
        "path": str(artifact.path), "kind": manifest.kind, "stage": manifest.stage, "inputs": manifest.inputs,
        "content_hash": manifest.content_hash, "counts": manifest.counts, "created_utc": manifest.created_utc,
        "rows": rows, "sheet": str(out) if out is not None else None,
    }


def render_show(result: dict, console: Console) -> None:
    """A headline, then one block of named values per row; what is empty is left out."""
    counts = ", ".join(f"{value:,} {name}" for name, value in result["counts"].items())
    console.print(Text(f"{result['kind']} {result['content_hash'][:8]}  {counts}  {result['path']}", style="bold"))
    for row in result["rows"]:
        block = Table.grid(padding=(0, 2))
        block.add_column(style="dim", no_wrap=True)
        block.add_column(overflow="fold")
        for name, value in row.items():
            if value not in (None, "", []):
                block.add_row(Text(name), Text(_readable(value)))
        console.print(Padding(block, (1, 0, 0, 0)))


def draw_sheet(problems: list[Problem], hints: dict[str, str]) -> Image.Image:
    """A grid of problems: pictures enlarged without smoothing, so that every pixel shows, and the words below."""
    return tile([draw_cell(problem, hints.get(problem.problem_id)) for problem in problems], min(4, len(problems)))


def tile(cells: list[Image.Image], columns: int) -> Image.Image:
    """Cells of one width in rows; a row is as high as its highest cell."""
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = cells[0].width
    sheet = Image.new("RGB", (columns * width, sum(heights)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * width, top))
        top += height
    return sheet


def _rows(artifact: Artifact):
    """The rows of an artifact's main table, shard by shard; the files of one that has no table."""
    kind = artifact.manifest.kind
    if kind not in TABLES:
        yield from ({"file": record.path, "bytes": record.bytes, "sha256": record.sha256}
                    for record in artifact.manifest.files)
        return
    for shard in range(artifact.shards()):
        yield from artifact.shard_table(kind, shard).to_pylist()


def _problems_of(artifact: Artifact, rows: list[dict], limit: int) -> tuple[list[Problem], dict[str, str]]:
    """The problems that these rows are about (the first ones, where rows name none), and their hints."""
    sources = {found.manifest.kind: found for found in upstream(artifact)}
    if "problems" not in sources:
        raise UsageError(f"no problems lead to {artifact.path}", expected="problems among its inputs, in its run",
                         hint="show it without --out")
    wanted = list(dict.fromkeys(_problem_id(row) for row in rows if "problem_id" in row or "rollout_id" in row))
    images = ImageReader(sources["problems"])
    found = {row["problem_id"]: row for row in sources["problems"].table("problems").to_pylist()}
    hints = sources["hints"].table("hints").to_pylist() if "hints" in sources else []
    ids = [name for name in wanted if name in found] or list(found)[:limit]
    if not ids:
        raise UsageError(f"{artifact.path} has no rows to draw")
    return [problem_from_row(found[name], images) for name in ids], {
        row["problem_id"]: row["hint"] for row in hints if row["hint"]}


def _problem_id(row: dict) -> str:
    return row["problem_id"] if "problem_id" in row else row["rollout_id"].rpartition("/")[0]


def run_of(artifact: Artifact) -> Path:
    """The run that an artifact lies in."""
    path = artifact.path
    return (path if len(path.parts) > 2 else path.absolute()).parent.parent


def problems_of(artifact: Artifact) -> Artifact:
    """The problems that an artifact was made from, found in its run by their hash."""
    wanted = artifact.manifest.inputs.get("problems")
    for found in upstream(artifact):
        if found.content_hash == wanted:
            return Artifact.open(found.path)
    raise ArtifactError(
        f"the problems of {artifact.path} are not in its run",
        expected=f"problems {str(wanted)[:8]} in {run_of(artifact) / 'problems'}",
        hint="copy them there, or make them again with the data and the seed that they were made with",
    )


def upstream(artifact: Artifact) -> list[Artifact]:
    """The artifact's inputs in its run, their inputs, and so on; itself last."""
    run = run_of(artifact)
    paths = [path for kind in SCHEMA_VERSIONS for path in artifact_paths(run / kind) if (path / MANIFEST).is_file()]
    by_hash = {}
    for path in paths:
        try:
            other = Artifact.open(path, check_files=False)
        except ArtifactError:       # damaged or newer: it cannot be shown from, and is not what was asked for
            continue
        by_hash[other.content_hash] = other
    found, waiting = [], [artifact]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.insert(0, one)
            waiting += [by_hash[name] for name in one.manifest.inputs.values() if name in by_hash]
    return found


def draw_cell(
    problem: Problem,
    hint: str | None = None,
    *,
    maps: Sequence[np.ndarray] = (),
    regions: Sequence[Salient] = (),
    verdict: str = "",
) -> Image.Image:
    """One problem: its pictures, with maps (map_HW of each) and regions over them, its question, answer and a hint."""
    font, inner = ImageFont.load_default(size=_TEXT_SIZE), _CELL - 2 * _MARGIN
    parts = [(problem.question, "black"), (f"answer: {problem.answer}", "darkgreen")]
    parts += [(f"hint: {hint}", "mediumblue")] if hint else []
    parts += [(verdict, "darkgreen" if verdict == "passed" else "firebrick")] if verdict else []
    lines = [(line, colour) for text, colour in parts for line in _wrap(text, font, inner)]
    picture = _draw_pictures(problem, inner, maps, regions)
    cell = Image.new("RGB", (_CELL, picture.height + len(lines) * _LINE + 4 * _MARGIN), "white")
    cell.paste(picture, (_MARGIN, _MARGIN))
    draw, top = ImageDraw.Draw(cell), picture.height + 2 * _MARGIN
    for line, colour in lines:
        draw.text((_MARGIN, top), line, fill=colour, font=font)
        top += _LINE
    return cell


def _draw_pictures(
    problem: Problem, side: int, maps: Sequence[np.ndarray] = (), regions: Sequence[Salient] = ()
) -> Image.Image:
    """All pictures of a problem within a square; small ones enlarged by a whole factor."""
    count = len(problem.images)
    if not count:
        return Image.new("RGB", (side, 1), "white")
    across = math.ceil(math.sqrt(count))
    tile = side // across
    tiles = [_fit(decode_rgb(data, where=problem.problem_id), tile - 2) for data in problem.images]
    tiles[: len(maps)] = [lay_over(*both) for both in zip(tiles, map_shares(maps), strict=False)]
    for one in regions:
        if one.image < count:
            _draw_box(tiles[one.image], one.box)
    rows = [tiles[i : i + across] for i in range(0, count, across)]
    sheet = Image.new("RGB", (side, sum(max(t.height for t in row) + 2 for row in rows)), "white")
    top = 0
    for row in rows:
        for column, one in enumerate(row):
            sheet.paste(one, (column * tile, top))
        top += max(t.height for t in row) + 2
    return sheet


def map_shares(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The maps of one hint in 0…1, 1 where they are highest in any picture; negative or no number counts as nothing."""
    maps = [np.nan_to_num(map_HW, nan=0, posinf=0, neginf=0).clip(min=0) for map_HW in maps]
    top = max((map_HW.max(initial=0) for map_HW in maps), default=0)
    return [map_HW / top if top else map_HW for map_HW in maps]


def lay_over(picture: Image.Image, share_HW: np.ndarray) -> Image.Image:
    """The picture under a map in 0…1 of any grid, whose cells stay crisp."""
    steps = np.linspace(0, 1, len(HEAT))
    scales = np.array([1, 1, 1, 255]) * np.array(HEAT)
    heat_HW4 = np.stack([np.interp(share_HW, steps, channel) for channel in scales.T], axis=-1)
    heat = Image.fromarray(np.round(heat_HW4).astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    return Image.alpha_composite(picture.convert("RGBA"), heat).convert("RGB")


def _draw_box(picture: Image.Image, box: Sequence[float]) -> None:
    """A box in 0…1, two pixels wide in a colour that no map has, with a dark rim."""
    x0, y0, x1, y1 = in_pixels(box, picture.size)
    if x0 <= x1 and y0 <= y1:
        draw = ImageDraw.Draw(picture)
        draw.rectangle((x0, y0, x1, y1), outline="black", width=4)
        draw.rectangle((x0 + 1, y0 + 1, max(x0 + 1, x1 - 1), max(y0 + 1, y1 - 1)), outline=_BOX, width=2)


def _fit(picture: Image.Image, side: int) -> Image.Image:
    factor = side // max(picture.size)
    if factor >= 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width` pixels, at most _MAX_LINES; a word wider than a line is broken."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > width:
            fits = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width or n == 1)
            lines += [word[:fits]]
            word = word[fits:]
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = [line for line in lines if line]
    return lines if len(lines) <= _MAX_LINES else [*lines[: _MAX_LINES - 1], lines[_MAX_LINES - 1][:-1] + "…"]


def _readable(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(part, float) for part in value):
        return f"({', '.join(map(_readable, value))})"
    if isinstance(value, list):
        return " · ".join(map(_readable, value))
    if isinstance(value, dict):
        return " ".join(map(_readable, value.values()))
    return str(value)
