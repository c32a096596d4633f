"""What the overlap audit costs and finds: 40,000 training and 10,000 test problems with planted duplicates.

Two thirds of the pictures are drawings and plots as PNG, the others like photographs as JPEG, 200 to 400 pixels a side;
three in five questions have numbers and about 30 words, the others are a few short and a few long ones that thousands
of problems share. Making the files does not count. Prints JSON and stores it in results/.

    python benchmarks/overlap.py
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont
from record import about, load_now, store

from ptdpo_cli.stages.overlap import audit

RESULTS = Path(__file__).parent / "results" / "overlap.json"
CHUNK = 250             # problems that one process makes at a time, and rows of one row group
PLANTED = 0.15          # of the test problems, an equal part of each kind
KINDS = (
    "same file",                                # question and picture byte for byte
    "reworded, compressed again",               # one or two words of the question, the picture rescaled, as JPEG
    "another question, compressed again",
    "reworded, another picture",
    "one number changed, another picture",      # another problem: must not be found
    "short question, one label changed",        # another problem: must not be found
)
TO_FIND = KINDS[:4]

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Henry", "Ida", "Jonas", "Kira", "Leo", "Mia",
         "Noah", "Olga", "Paul")
THINGS = ("apples", "pencils", "books", "marbles", "tickets", "stamps", "chairs", "bottles", "candles", "cards",
          "shells", "coins")
PLACES = ("market", "school", "station", "library", "harbour", "museum", "garden", "bakery")
SENTENCES = (
    "{name} buys {a} {thing} at the {place} and pays {b} euros for all of them.",
    "The bus from the {place} needs {a} minutes and stops {b} times on its way.",
    "A box holds {a} {thing}, and {name} carries {b} boxes to the {place}.",
    "At the {place} there are {a} rows of {b} {thing} in every hall.",
    "{name} walks {a} metres to the {place} and then {b} metres back.",
    "The rectangle in the figure is {a} cm long and {b} cm wide.",
    "{name} gives {a} of the {thing} to a friend and loses {b} on the way.",
    "In the first week {a} {thing} were sold, in the second one {b}.",
)
ASKS = ("How many {thing} are left in the end?", "What is the total number of {thing} shown?",
        "By how much do the two numbers of {thing} differ?", "How long does {name} need for all of it?")
SHORT = ("Find x.", "What is x?", "Find the area.", "Which one is it?", "Solve for y.")
SHARED = ("How many objects of any colour and any size are there in this picture in total?",
          "Find the area of the shaded region in the figure, rounded to the nearest tenth if necessary.",
          "Which of the following statements about the graph shown above is true for every point of it?")
OTHER_WORDS = {"buys": "gets", "pays": "spends", "needs": "takes", "carries": "brings", "walks": "goes", "long": "wide",
               "first": "earlier", "friend": "neighbour", "left": "remaining", "total": "overall", "all": "each",
               "shown": "seen", "there": "here", "holds": "contains", "the": "that", "and": "then"}


def question(rng: np.random.Generator, style: int) -> str:
    if style == 3:
        return str(rng.choice(SHORT))
    if style == 4:
        return str(rng.choice(SHARED))
    words = {"thing": rng.choice(THINGS), "place": rng.choice(PLACES), "name": rng.choice(NAMES)}
    parts = [*rng.choice(SENTENCES, 2, replace=False), rng.choice(ASKS)]
    return " ".join(part.format(a=rng.integers(2, 500), b=rng.integers(2, 500), **words) for part in parts)


def reworded(text: str, rng: np.random.Generator) -> str:
    """One or two of its words replaced; numbers stay."""
    words = text.split()
    places = [k for k, word in enumerate(words) if word in OTHER_WORDS]
    for k in rng.choice(places, min(len(places), int(rng.integers(1, 3))), replace=False):
        words[k] = OTHER_WORDS[words[k]]
    return " ".join(words)


def one_number_changed(text: str) -> str:
    number = next(word for word in text.split() if word.isdigit())
    return text.replace(number, str(int(number) + 7), 1)


def picture(rng: np.random.Generator, style: int, label: str = "12") -> Image.Image:
    """0: like a photograph, 1: a drawing with labels, 2: bars between two axes."""
    width, height = map(int, rng.integers(200, 401, 2))
    if style == 0:
        noise = rng.integers(0, 256, (int(rng.integers(6, 14)), int(rng.integers(6, 14)), 3), dtype=np.uint8)
        return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    if style == 1:
        corners = [(int(x * width), int(y * height)) for x, y in rng.uniform(0.1, 0.85, (4, 2))]
        draw.polygon(corners, outline="black")
        draw.line((corners[0], corners[2]), fill="black")
        for name, corner in zip("ABCD", corners, strict=True):
            draw.text(corner, name, fill="black", font=FONT)
        middle = tuple(sum(values) // 4 for values in zip(*corners, strict=True))
        draw.text(middle, label, fill="black", font=FONT)
    else:
        draw.line(((30, 10), (30, height - 20), (width - 10, height - 20)), fill="black")
        n = int(rng.integers(4, 9))
        for k, share in enumerate(rng.uniform(0.05, 1, n)):
            left = 40 + k * (width - 60) // n
            top, right = height - 20 - share * (height - 40), left + (width - 60) // n - 8
            draw.rectangle((left, top, right, height - 20), fill="teal")
    return image


FONT = ImageFont.load_default(size=16)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def original(number: int) -> tuple[str, bytes]:
    """Question and picture of problem `number`: its style of question is number % 5, of picture number // 5 % 3."""
    rng = np.random.default_rng([0, number])
    words, style = question(rng, number % 5), number // 5 % 3
    image = picture(rng, style)
    return words, encoded(image, "JPEG", quality=85) if style == 0 else encoded(image, "PNG")


def planted(number: int) -> tuple[str, str, int]:
    """(kind, how the picture looks, the training problem) behind test problem `number`."""
    kind, style = KINDS[number % len(KINDS)], number // len(KINDS) % 3
    if kind == KINDS[5]:
        return kind, "drawing", 15 * number + 5 + 3
    return kind, ("photograph", "drawing", "plot")[style], 15 * number + 5 * style


def test_problem(number: int, total: int) -> tuple[str, bytes]:
    if number >= PLANTED * total:
        return original(10_000_000 + number)
    kind, _, source = planted(number)
    rng = np.random.default_rng([1, number])
    words, data = original(source)
    _, another = original(20_000_000 + number)
    if kind == KINDS[0]:
        return words, data
    if kind == KINDS[3]:
        return reworded(words, rng), another
    if kind == KINDS[4]:
        return one_number_changed(words), another
    if kind == KINDS[5]:
        again = np.random.default_rng([0, source])
        question(again, source % 5)
        return words, encoded(picture(again, 1, label=str(rng.integers(30, 99))), "PNG")
    image = Image.open(io.BytesIO(data)).convert("RGB")
    factor = rng.uniform(0.5, 1.5)
    image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    changed = encoded(image, "JPEG", quality=int(rng.integers(40, 96)))
    return (reworded(words, rng) if kind == KINDS[1] else question(rng, 0)), changed


def rows(side: str, start: int, stop: int, total: int) -> pa.Table:
    made = [original(k) if side == "train" else test_problem(k, total) for k in range(start, stop)]
    return pa.Table.from_pylist([
        {"id": f"{side}-{k}", "problem": words, "answer": "1", "images": [data]}
        for k, (words, data) in enumerate(made, start)])


def write(path: Path, side: str, total: int) -> None:
    starts = range(0, total, CHUNK)
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        tables = pool.map(rows, repeat(side), starts, [min(s + CHUNK, total) for s in starts], repeat(total))
        first = next(tables)
        with pq.ParquetWriter(path, first.schema, compression="none") as file:
            for table in chain([first], tables):
                file.write_table(table)


def found(out: Path, n_test: int) -> dict:
    """Recall by kind and look, and the pairs that were not planted; weak ones do not count as found."""
    pairs = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    strong = {(pair["train_id"], pair["test_id"]) for pair in pairs if pair["weak"] is None}
    listed = {(pair["train_id"], pair["test_id"]) for pair in pairs}
    there, hit, seen = Counter(), Counter(), Counter()
    planted_pairs = set()
    for number in range(int(PLANTED * n_test)):
        kind, look, source = planted(number)
        pair = (f"train-{source}", f"test-{number}")
        planted_pairs.add(pair)
        for name in (kind, f"{kind}: {look}"):
            there[name] += 1
            hit[name] += pair in strong
            seen[name] += pair in listed
    kind_of = {(pair["train_id"], pair["test_id"]): pair["kind"] for pair in pairs}

    def shares(kinds) -> dict:
        return {name: {"planted": there[name], "found": hit[name], "found_or_weak": seen[name]}
                for name in there if name.split(": ")[0] in kinds}
    return {
        "duplicates": shares(TO_FIND), "look_alikes": shares(KINDS[4:]),
        "pairs_not_planted": Counter(kind_of[pair] for pair in strong - planted_pairs),
        "test_problems_with_weak_matches_only": len({pair["test_id"] for pair in pairs if pair["weak"]}
                                                    - {test for _, test in strong}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=40_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, help="where to make the files, and keep them; made ones are used again")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(dir=Path(__file__).parent))  # on a disk, not in memory
    folder.mkdir(exist_ok=True)
    try:
        files = {side: folder / f"{side}.parquet" for side in ("train", "test")}
        for side, path in files.items():
            if not path.exists():
                write(path, side, getattr(options, side))
        marks: dict[str, list[float]] = {}

        def progress(done: int, total: int, what: str) -> None:
            marks.setdefault(Path(what).stem, []).append(time.perf_counter())
        load = load_now()
        start, processor_start = time.perf_counter(), time.process_time()
        summary = audit(str(files["train"]), [str(files["test"])], folder / "out", progress=progress)
        end = time.perf_counter()
        result = {
            **about(load),
            "problems": {"train": options.train, "test": options.test},
            "megabytes": {side: round(path.stat().st_size / 1e6) for side, path in files.items()},
            "seconds": {
                "total": round(end - start, 1),
                "opening both sets": round(marks["test"][0] - start, 1),
                "reading and hashing test": round(marks["test"][-1] - marks["test"][0], 1),
                "reading, hashing and comparing train": round(marks["train"][-1] - marks["test"][-1], 1),
                "comparing questions, matching, writing, 5 sheets": round(end - marks["train"][-1], 1),
                "processor": round(time.process_time() - processor_start, 1),
            },
            "peak_resident_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "excluded": summary["excluded"],
            **found(folder / "out", options.test),
        }
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    store(result, options.out)


if __name__ == "__main__":
    main()
