"""Loading at size: bad rows among many, ids to exclude, memory that does not grow, pictures fetched, a killed write."""

import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from command import done, jsonl, png, refused
from ptdpo_cli.artifacts.images import image_hash
from ptdpo_cli.artifacts.problems import read_problems
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.datasets import images, load_problems, reading
from ptdpo_cli.errors import UsageError
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages import problems as stage

RED, BLUE = png(8, 6, "red"), png(8, 6, "blue")
MANY = 40_000
BAD = {9_000: "the answer is empty", 20_500: "image placeholders and images differ", 31_207: "the image cannot be read"}


def failure(function, *args, **kwargs) -> str:
    with pytest.raises(UsageError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """40,000 rows with pictures, of which three are bad, one of them a PNG that breaks off."""
    folder = tmp_path_factory.mktemp("many")
    rows = [{"id": f"row-{n}", "problem": f"<image>How many, {n}?", "answer": str(n), "image": RED}
            for n in range(1, MANY + 1)]
    rows[9_000 - 1]["answer"] = ""
    rows[20_500 - 1]["problem"] = "<image><image>Which?"
    rows[31_207 - 1]["image"] = BLUE[:50]
    path = folder / "many.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_three_bad_rows_in_forty_thousand_are_all_named(many, tmp_path):
    start = time.monotonic()
    said = refused(2, "build-hints", "--data", many, "--run", tmp_path / "run", says=("3 faults in",))
    assert time.monotonic() - start < 40
    for row, what in BAD.items():
        assert f"many.parquet, row {row} (row-{row}): " in said and what in said
    assert not (tmp_path / "run").exists()


def test_three_bad_rows_in_forty_thousand_can_be_skipped(many):
    loaded = load_problems(str(many), split="train", on_bad_row="skip")
    assert len(loaded) == MANY - 3 and {bad.row for bad in loaded.bad_rows} == set(BAD)
    ids = [p.problem_id for p in loaded]
    assert len(ids) == len(set(ids)) == MANY - 3 and not {f"row-{n}" for n in BAD} & set(ids)
    assert loaded[8_999].problem_id == "row-9001" and [p.answer for p in loaded[5:9:2]] == ["6", "8"]


def test_text_rows_load_in_seconds(tmp_path):
    text = "A train leaves the station at nine and is never late. " * 8
    path = jsonl(tmp_path / "text.jsonl", *({"problem": f"{text}{n}?", "answer": n} for n in range(39_000)))
    start = time.monotonic()
    loaded = load_problems(str(path), split="train")
    assert len(loaded) == 39_000 and sum(1 for _ in loaded) == 39_000
    assert time.monotonic() - start < 15


# --- skipped and excluded in the artifact -----------------------------------------------------------------------------

ROWS = [{"id": "a", "problem": "1?", "answer": "1"}, {"id": "b", "problem": "2?", "answer": ""},
        {"id": "c", "problem": "3?", "answer": "3"}, {"id": "a", "problem": "4?", "answer": "4"},
        {"id": "e", "problem": "5?", "answer": "5"}]


def test_skipped_rows_are_counted_stored_and_said(tmp_path):
    file, run = jsonl(tmp_path / "mine.jsonl", *ROWS), tmp_path / "run"
    refused(2, "build-hints", "--data", file, "--run", run, says=("2 faults in",))
    dry = done("build-hints", "--data", file, "--run", run, "--on-bad-row", "skip", "--dry-run")
    assert "2 bad rows" in dry.err and "3 problems" in dry.out and not run.exists()
    said = done("build-hints", "--data", file, "--run", run, "--on-bad-row", "skip")
    assert "2 bad rows" in said.err and "mine.jsonl, line 2 (b): the answer is empty" in said.err
    artifact = Artifact.open(run, kind="problems")
    assert artifact.manifest.counts == {"problems": 3, "skipped": 2}
    assert [p.problem_id for p in read_problems(artifact)] == ["a", "c", "e"]
    stored = [json.loads(line) for line in artifact.file("bad_rows.jsonl").read_text().splitlines()]
    assert [(bad["row"], bad["problem_id"], bad["where"]) for bad in stored] == [
        (2, "b", "mine.jsonl, line 2 (b)"), (4, "a", "mine.jsonl, line 4 (a)")]
    assert stored[0]["reasons"] == ["the answer is empty (expected text or a number)"]
    assert "the problem id is taken" in stored[1]["reasons"][0]
    assert done("verify", run).code == 0
    jsonl(file, *[row | {"answer": ""} for row in ROWS])
    refused(2, "build-hints", "--data", file, "--run", run, "--on-bad-row", "skip", says=("6 faults in",))


@pytest.mark.parametrize("lines", ['{"problem_id": "b", "score": 0.9}\n{"problem_id": "c"}\n\n{"problem_id": "x"}\n',
                                   "\ufeffb\nc\nx\n"])
def test_excluded_problems_are_left_out_of_training_alone(tmp_path, lines):
    file, run, ids = jsonl(tmp_path / "mine.jsonl", *ROWS[:3]), tmp_path / "run", tmp_path / "ids"
    ids.write_text(lines)
    said = done("build-hints", "--data", file, "--run", run, "--exclude", ids)     # whatever is wrong with those
    assert "2 problems left out" in said.err and "1 ids" in said.err and "the first: x" in said.err
    artifact = Artifact.open(run, kind="problems")
    assert artifact.manifest.counts == {"problems": 1, "excluded": 2} and set(artifact.manifest.inputs) == {
        "mine.jsonl", "exclude"}
    jsonl(file, *[row | {"answer": "2"} for row in ROWS[:3]])
    recipe = load_recipe(None, [f"data.name={file}", f"data.exclude={ids}", "eval.split=train"])
    plan = stage.plan_eval_problems(recipe, run)
    assert "exclude" not in plan.inputs and len(stage.load(recipe, plan)) == 3
    before = stage.plan_problems(recipe, run).key
    ids.write_text(lines + "a\n")
    assert stage.plan_problems(recipe, run).key != before
    ids.write_text(lines + "a\nb\n")
    refused(2, "build-hints", "--data", file, "--run", run, "--exclude", ids, says=("but excluded ones",))


def test_a_list_of_ids_that_is_none(tmp_path):
    file, ids = jsonl(tmp_path / "mine.jsonl", ROWS[0]), tmp_path / "ids.jsonl"
    refused(2, "build-hints", "--data", file, "--run", tmp_path / "r", "--exclude", ids, says=("cannot be read",))
    ids.write_text('a\n{"id": "b"}\n')
    refused(2, "build-hints", "--data", file, "--run", tmp_path / "r", "--exclude", ids, says=("ids.jsonl, line 2",))


# --- pictures: once, and not kept -------------------------------------------------------------------------------------


def test_no_picture_is_decoded_twice_and_each_is_stored_once(tmp_path, monkeypatch):
    decoded = Counter()
    lock = threading.Lock()

    def count(data, **options):
        with lock:
            decoded[image_hash(data)] += 1
        return images.decode_rgb(data, **options)

    monkeypatch.setattr(reading, "decode_rgb", count)
    monkeypatch.setattr(stage, "_SHARD_ROWS", 3)
    for name, data in (("a", RED), ("b", BLUE), ("c", RED)):        # c is a copy of a
        (tmp_path / f"{name}.png").write_bytes(data)
    rows = [{"problem": f"{n}?", "answer": n, "images": [f"{'abc'[n % 3]}.png"]} for n in range(20)]
    recipe = load_recipe(None, [f"data.name={jsonl(tmp_path / 'mine.jsonl', *rows)}"])
    artifact = stage.make_problems(recipe, stage.plan_problems(recipe, tmp_path / "run"))
    assert decoded == {image_hash(RED): 1, image_hash(BLUE): 1}
    assert artifact.shards() == 7 and artifact.table("images").column("sha256").to_pylist() == [
        image_hash(RED), image_hash(BLUE)]
    assert [p.images for p in read_problems(artifact)] == [((RED, BLUE, RED)[n % 3],) for n in range(20)]


def test_a_bad_picture_of_many_rows_is_a_fault_of_each(tmp_path):
    (tmp_path / "bad.png").write_bytes(RED[:50])
    rows = [{"problem": f"{n}?", "answer": n, "image": "bad.png"} for n in range(30)]
    loaded = load_problems(str(jsonl(tmp_path / "mine.jsonl", *rows, ROWS[0])), split=None, on_bad_row="skip")
    assert len(loaded) == 1 and len(loaded.bad_rows) == 30
    assert reading.describe(loaded.bad_rows[29].faults[0]).startswith("image 1 (bad.png): the image cannot be read")


def test_a_killed_write_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_SHARD_ROWS", 4)
    rows = [{"problem": f"{n}?", "answer": n, "image": ("a.png", "b.png")[n % 7 == 5]} for n in range(18)]
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "b.png").write_bytes(BLUE)
    file = jsonl(tmp_path / "mine.jsonl", *rows)
    recipe = load_recipe(None, [f"data.name={file}"])
    whole = stage.make_problems(recipe, stage.plan_problems(recipe, tmp_path / "whole"))

    def dying(problems, known):
        if problems[0].problem_id.endswith("13"):
            raise KeyboardInterrupt
        return made(problems, known)

    made = stage.problems_table
    monkeypatch.setattr(stage, "problems_table", dying)
    plan = stage.plan_problems(recipe, tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        stage.make_problems(recipe, plan)
    assert plan.finished() is None
    monkeypatch.setattr(stage, "problems_table", made)
    assert stage.make_problems(recipe, plan).content_hash == whole.content_hash


def test_a_shard_holds_so_many_bytes_of_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(stage, "_SHARD_BYTES", 3 * len(RED))
    rows = [{"problem": f"{n}?", "answer": n, "image": RED} for n in range(8)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    loaded = load_problems(str(tmp_path / "mine.parquet"), split=None)
    assert [len(part) for part in stage._shards(loaded)] == [3, 3, 2]


MEASURE = """
import sys
from pathlib import Path
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages import problems

def high_water():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

recipe = load_recipe(None, [f"data.name={sys.argv[1]}"])
plan = problems.plan_problems(recipe, Path(sys.argv[2]))
loaded = problems.load(recipe, plan)
print(len(loaded), high_water(), end=" ")
problems.make_problems(recipe, plan)
print(high_water())
"""


@pytest.mark.parametrize("form", ["paths", "one row group"])
def test_memory_does_not_grow_with_the_data(form, tmp_path):
    """2,000 pictures of 100 KB, 200 MB in all; what is measured is the peak of a process of its own."""
    def picture(n):
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (185, 185, 3), dtype=np.uint8)).save(out, "BMP")
        return out.getvalue()

    def write(name, count):
        if form == "paths":
            (tmp_path / "pictures").mkdir(exist_ok=True)
            for n in range(count):
                (tmp_path / "pictures" / f"{n}.bmp").write_bytes(picture(n))
            return jsonl(tmp_path / f"{name}.jsonl", *({"problem": f"{n}?", "answer": n, "image": f"pictures/{n}.bmp"}
                                                       for n in range(count)))
        rows = [{"problem": f"{n}?", "answer": n, "image": picture(n)} for n in range(count)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet", row_group_size=count,
                       use_dictionary=False, write_batch_size=16)
        return tmp_path / f"{name}.parquet"

    def peaks(file):
        ended = subprocess.run([sys.executable, "-c", MEASURE, str(file), str(tmp_path / f"run-{file.stem}")],
                               capture_output=True, text=True, check=True)
        return [float(number) for number in ended.stdout.split()]

    count, read, written = peaks(write("many", 2000))
    _, read_some, written_some = peaks(write("some", 700))          # two shards are full
    assert count == 2000
    assert read - read_some < 50 and written - written_some < 50, (read, read_some, written, written_some)
    assert read < 250


# --- fetched pictures -------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """Pictures over HTTP, and what a hostile server may answer; `asked` counts the requests."""
    asked = Counter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked[self.path] += 1
            if self.path == "/moved.png":
                self.send_response(302)
                self.send_header("Location", "/a.png")
            elif self.path == "/file":
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd")
            else:
                self.send_response(404 if self.path == "/none.png" else 200)
            self.end_headers()
            if self.path == "/long":
                try:
                    while True:
                        self.wfile.write(bytes(100_000))
                except OSError:
                    return
            if self.path == "/slow":
                for _ in range(50):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.1)
            self.wfile.write({"/a.png": RED, "/page": b"<html>"}.get(self.path, b""))

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()


def test_addresses_are_fetched_only_when_allowed(tmp_path, server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    base, asked = server
    file = jsonl(tmp_path / "mine.jsonl", {"problem": "1?", "answer": 1, "image": f"{base}/a.png"},
                 {"problem": "2?", "answer": 2, "image": f"{base}/moved.png"},
                 {"problem": "3?", "answer": 3, "image": f"{base}/a.png"})
    refused(2, "build-hints", "--data", file, "--run", tmp_path / "run", says=("data.fetch_urls=true",))
    assert not asked
    done("build-hints", "--data", file, "--run", tmp_path / "run", "--set", "data.fetch_urls=true")
    assert [p.images for p in read_problems(Artifact.open(tmp_path / "run", kind="problems"))] == [(RED,)] * 3
    assert asked == {"/a.png": 2, "/moved.png": 1}                 # by its own name, and where the other was moved to

    for name, says in (("none.png", "404"), ("page", "the image cannot be read"), ("file", "could not be fetched")):
        file = jsonl(tmp_path / "bad.jsonl", {"problem": "1?", "answer": 1, "image": f"{base}/{name}"})
        assert says in failure(load_problems, str(file), split=None, fetch_urls=True), name
    with pytest.raises(UsageError, match="too large"):
        images.fetch_image(f"{base}/long", max_bytes=1_000_000)
    start = time.monotonic()
    with pytest.raises(UsageError, match="not done after"):
        images.fetch_image(f"{base}/slow", seconds=0.5)
    assert time.monotonic() - start < 3
    for url in ("ftp://127.0.0.1/a.png", "http://127.0.0.1:9/a.png", "http://[bad"):
        with pytest.raises(UsageError):
            images.fetch_image(url)


# --- ptdpo data check -------------------------------------------------------------------------------------------------


def test_check_says_what_is_in_a_file(tmp_path):
    (tmp_path / "a.png").write_bytes(RED)
    rows = [{"q": "How many?", "label": 3, "images": ["a.png"], "category": "count", "steps": ["Look."]},
            {"q": "how  MANY?", "label": 4, "images": ["a.png"], "category": "count"},
            {"q": "Which?", "label": "B", "choices": ["red", "blue"], "solution": "It is blue."},
            {"q": "Which?", "label": "3", "regions": [{"label": "left", "box": [0, 0, 0.5, 1]}]}]
    file = jsonl(tmp_path / "mine.jsonl", *rows)
    found = done("data", "check", file, "--columns", "problem=q,answer=label", "--json").json
    assert found["rows"] == found["problems"] == 4 and found["bad_rows"] == []
    assert (found["pictures"], found["different_pictures"], found["with_pictures"]) == (2, 1, 2)
    assert found["answer_types"] == {"integer": 3, "choice": 1} and found["categories"] == {"count": 2}
    assert [found[f"with_{name}"] for name in ("choices", "solutions", "regions", "steps")] == [1, 1, 1, 1]
    assert found["duplicates"] == [["mine/000001", "mine/000002"]]
    assert found["most_frequent_answer"] == {"answer": "3", "share": 0.5}
    shown = done("data", "check", file, "--columns", "problem=q,answer=label").out
    assert "4 problems" in shown and "mine/000001 = mine/000002" in shown and "50.0%" in shown
    refused(2, "data", "check", file, says=("--columns question=COLUMN,answer=COLUMN",))
    refused(2, "data", "check", file, "--columns", "problem", says=("--columns takes",))
    refused(2, "data", "check", tmp_path / "none.jsonl", says=("no data set or file",))


def test_check_says_what_is_wrong_row_by_row(many, tmp_path):
    from command import ptdpo

    file = jsonl(tmp_path / "mine.jsonl", *ROWS, *[{"problem": "?", "answer": ""}] * 20)
    ended = ptdpo("data", "check", file)
    assert ended.code == 2 and "22 of 25 rows are bad" in ended.out and "3 problems" in ended.out
    assert "mine.jsonl, line 25: the answer is empty" in ended.out
    ended = ptdpo("data", "check", many, "--json")
    assert ended.code == 2 and [bad["row"] for bad in ended.json["bad_rows"]] == list(BAD)
    assert os.listdir(tmp_path) == ["mine.jsonl"]
