"""Runs with hints of every kind to look at: of digit-grid, of drawn scenes, of problems without a picture.

The maps are made up, hot where the problem says. What the model really looks at is measured elsewhere; a page must show
a map where it belongs.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from ptdpo_cli.artifacts.hints import hint_row, map_tensors
from ptdpo_cli.artifacts.manifest import input_key
from ptdpo_cli.artifacts.problems import problems_table
from ptdpo_cli.artifacts.schemas import HINTS, UTILITY, Cost, Hint, Problem, Salient
from ptdpo_cli.artifacts.store import Artifact, Writer
from ptdpo_cli.datasets import digit_grid
from ptdpo_cli.stages.build_hints import _counts, checked

SAMPLES = 8
Example = tuple[Problem, Hint]


def examples(count: int, *, seed: int = 0) -> Iterator[Example]:
    """Of eight, five are of digit-grid, two have one to three drawn scenes, one has no picture; a function of both."""
    grids = iter(digit_grid.load("train", seed=seed, count=count))
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        match i % 8:
            case 1 | 4:
                problem = scene_problem(i, rng)
            case 6:
                problem = text_problem(i, rng)
            case _:
                problem = next(grids)
        yield problem, hint_for(problem, i, rng)


def scene_problem(i: int, rng: np.random.Generator) -> Problem:
    count = 1 + i // 8 % 3
    boats = int(rng.integers(3, 8))
    sizes = [(300, 520), (640, 400), (900, 300)]
    pictures = [scene(rng, *sizes[(i + k) % 3], boats if k == 0 else 2) for k in range(count)]
    where = "the picture" if count == 1 else "the first picture"
    is_choice = i % 16 > 8
    return Problem(
        f"harbour/{i:06d}", f"How many boats lie on the water in {where}? Do not count what stands on the shore.",
        pictures, "BCDEFGH"[boats - 3] if is_choice else str(boats), category="counting",
        choices=tuple(f"{n} boats" for n in range(2, 10)) if is_choice else (),
        answer_type="choice" if is_choice else "integer",
        solution=f"The sails stand in one row. Counting them from left to right gives {boats}.",
    )


def text_problem(i: int, rng: np.random.Generator) -> Problem:
    a, b = map(int, rng.integers(12, 90, 2))
    question = f"A rectangle is {a} cm long and {b} cm wide. What is its perimeter in cm?"
    return Problem(f"words/{i:06d}", question, (), str(2 * (a + b)), category="geometry")


def scene(rng: np.random.Generator, width: int, height: int, boats: int) -> bytes:
    """A bay with `boats` sails on it, as JPEG."""
    rows = np.linspace(0, 1, height)[:, None]
    sky, sea = np.array([150, 195, 235]), np.array([30, 95, 130])
    ground = np.where(rows < 0.45, sky + 60 * rows, sea + 90 * (rows - 0.45))[:, None, :]
    noise = rng.normal(0, 5, (height, width, 1))
    image = Image.fromarray(np.clip(ground + noise, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    hills = [(0, 0.45)] + [(x, 0.45 - 0.14 * rng.random()) for x in np.linspace(0.05, 0.95, 9)] + [(1, 0.45)]
    draw.polygon([(x * width, y * height) for x, y in hills], fill=(70, 110, 80))
    for x in np.linspace(0.12, 0.88, boats):
        left, base, size = x * width, (0.6 + 0.2 * rng.random()) * height, 0.11 * height
        draw.polygon([(left, base), (left, base - size), (left + 0.6 * size, base)], fill=(250, 248, 240))
        draw.rectangle((left - 0.4 * size, base, left + 0.7 * size, base + 0.14 * size), fill=(120, 50, 40))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=88)
    return data.getvalue()


def hint_for(problem: Problem, i: int, rng: np.random.Generator) -> Hint:
    """A hint with maps and regions; of 20 two are refused, one each is flagged, faulty, revealing, a control."""
    steps = problem.steps or (
        "Go from one side to the other, so that nothing counts twice.", "Leave out what is not asked for.",
    )
    names = [region.label for region in problem.regions] or ["the water below the hills"]
    maps = tuple(map_of(problem, k, rng) for k in range(len(problem.images)))
    regions = tuple(
        Salient(0, region.label, region.box, float(0.95 - 0.08 * k)) for k, region in enumerate(problem.regions)
    ) or tuple(Salient(k, names[0], (0.08, 0.5, 0.92, 0.85), 0.8 - 0.2 * k) for k in range(len(problem.images)))
    spatial = f"Look only at {', '.join(names)}." if problem.images else ""
    cost = Cost("tutor-235b", 1 + i % 3 // 2, 900 + 7 * (i % 50), 120 + i % 90) if i % 4 == 3 else Cost()
    full = Hint(
        problem.problem_id, " ".join(filter(None, [spatial, *steps])), spatial, steps,
        source="expert" if cost.expert else "attention+steps", regions=regions, maps=maps, cost=cost,
    )
    match i % 20:
        case 2 | 13:
            said = f"{full.text} Together they make {problem.answer}, which is the result."
            return checked(Hint(problem.problem_id, said, source=full.source, maps=maps, cost=cost), problem)
        case 6:
            return Hint(problem.problem_id, None, source="expert", fault="expert: the answer was cut at 512 tokens",
                        cost=Cost("tutor-235b", 3, 2700, 1536))
        case 9:
            return Hint(*(getattr(full, name) for name in ("problem_id", "text", "spatial", "steps", "source")),
                        flags=("names no place in the picture",), regions=regions, maps=maps, cost=cost)
        case 11:
            return Hint(problem.problem_id, problem.solution or problem.answer, source="solution", role="revealing")
        case 16:
            return Hint(problem.problem_id, "Look closely at what the question names in the picture.", source="generic",
                        role="control")
    return full


def map_of(problem: Problem, image: int, rng: np.random.Generator) -> np.ndarray:
    """map_HW: for digit-grid 3 × 3 or 6 × 6, hot in the cells that are needed; for a scene along the water."""
    if problem.regions:
        grid = 3 if rng.random() < 0.5 else 6
        map_HW = rng.uniform(0.002, 0.02, (grid, grid))
        for k, region in enumerate(problem.regions):
            x0, y0, x1, y1 = (round(grid * x) for x in region.box)
            map_HW[y0:y1, x0:x1] = (0.3 - 0.04 * k) * rng.uniform(0.8, 1, (y1 - y0, x1 - x0))
        return map_HW.astype(np.float32)
    with Image.open(io.BytesIO(problem.images[image])) as picture:
        columns, rows = (max(1, side // 32) for side in picture.size)
    y, x = np.mgrid[0:rows, 0:columns]
    waves = np.exp(-((y / rows - 0.68) ** 2) / 0.02) * (1.2 + np.cos(6 * np.pi * x / columns))
    return (waves * rng.uniform(0.6, 1, waves.shape) / 100).astype(np.float32)


def utility_row(problem: Problem, hint: Hint, rng: np.random.Generator) -> dict:
    plain = int(rng.binomial(SAMPLES, 0.35))
    hinted = int(rng.binomial(SAMPLES, 0.75 if hint.role != "control" else 0.3))
    return {
        "problem_id": problem.problem_id, "category": problem.category, "data_source": "", "hint_source": hint.source,
        "family": "", "samples": SAMPLES, "plain_correct": plain, "hinted_correct": hinted,
    }


def write_run(
    run: Path, made: Iterable[Example], *, measured: bool = True, seed: int = 0, shard_rows: int = 256
) -> Artifact:
    """RUN with problems, hints and, when measured, their utility; the hints come back."""
    made = list(made)
    parts = [made[start : start + shard_rows] for start in range(0, len(made), shard_rows)]

    def problems(shard: int) -> dict:
        rows, images = problems_table([problem for problem, _ in parts[shard]], known)
        known.update(images.column("sha256").to_pylist())
        return {"tables": {"problems": rows, "images": images}, "counts": {"problems": len(rows)}}

    def hints(shard: int) -> dict:
        found = [hint for _, hint in parts[shard]]
        return {"tables": {"hints": pa.Table.from_pylist([hint_row(hint) for hint in found], schema=HINTS)},
                "tensors": {"hints": map_tensors(found)} if any(hint.maps for hint in found) else None,
                "counts": _counts(found)}

    def utility(shard: int) -> dict:
        rng = np.random.default_rng([seed, shard])
        rows = [utility_row(problem, hint, rng) for problem, hint in parts[shard] if hint.text is not None]
        return {"tables": {"utility": pa.Table.from_pylist(rows, schema=UTILITY)}}

    known: set[str] = set()
    first = write(run, "problems", {"train.jsonl": "0" * 64}, problems, len(parts))
    second = write(run, "hints", {"problems": first.content_hash}, hints, len(parts))
    if measured:
        write(run, "utility", {"hints": second.content_hash, "problems": first.content_hash}, utility, len(parts))
    return second


def write(run: Path, kind: str, inputs: dict[str, str], shard_of, shards: int) -> Artifact:
    key = input_key(stage=kind, schema_version=1, section={}, inputs=inputs)
    with Writer(run, kind, key=key, stage=kind, section={}, inputs=inputs, command=f"ptdpo {kind}") as writer:
        for shard in range(shards):
            writer.write_shard(shard, **shard_of(shard))
        return writer.finish()
