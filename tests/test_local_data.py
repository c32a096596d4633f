"""The user's own files, small and real, in every format; and every way they can be wrong."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ptdpo_cli.artifacts.schemas import Problem, Region
from ptdpo_cli.datasets import digit_grid, load_problems, look_at, reading
from ptdpo_cli.datasets.reading import faults_of
from ptdpo_cli.errors import UsageError


def png(colour="red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, "PNG")
    return out.getvalue()


RED, BLUE = png(), png("blue")
ROW = {"problem": "How many?", "answer": "3"}


def jsonl(folder, *rows, name="mine.jsonl"):
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def load_path(path, *, split=None, limit=None, **options) -> list[Problem]:
    return list(load_problems(str(path), split=split, count=limit, **options))


def failure(function, *args, **kwargs) -> str:
    with pytest.raises(UsageError) as caught:
        function(*args, **kwargs)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_jsonl_with_relative_paths(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(RED)
    (tmp_path / "b.png").write_bytes(BLUE)
    path = jsonl(
        tmp_path,
        {"problem": "<image>How many <image> dots?", "images": ["pictures/a.png", "b.png"], "answer": 3, "id": "x-1",
         "category": "count", "solution": "Count them.", "steps": ["Look.", "Count."], "extra": [1],
         "regions": [{"label": "left", "box": [0, 0.25, 0.5, 1]}]},
        "",
        {"problem": "Text only", "images": [], "answer": -0.5},
        {"problem": "No pictures either", "images": None, "answer": "a cat", "id": None},
        {"problem": "Which?", "images": "b.png", "answer": "12", "id": 7},
    )
    first, second, third, fourth = load_path(path)
    assert first == Problem(
        "x-1", "How many dots?", (RED, BLUE), "3", "count", "Count them.",
        (Region("left", (0.0, 0.25, 0.5, 1.0)),), ("Look.", "Count."), "integer", source="mine.jsonl")
    assert (second.problem_id, second.answer, second.answer_type, second.images) == ("mine/000002", "-0.5", "float", ())
    assert (third.problem_id, third.answer_type, third.solution) == ("mine/000003", "expression", None)
    assert (fourth.problem_id, fourth.images, fourth.answer_type) == ("7", (BLUE,), "integer")
    assert [p.problem_id for p in load_path(path, limit=2)] == ["x-1", "mine/000002"]


def test_image_root_and_windows_byte_order_mark(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(RED)
    path = jsonl(tmp_path, "\ufeff" + json.dumps({**ROW, "images": ["a.png"]}))
    assert "no such image file" in failure(load_path, path)
    assert load_path(path, image_root=tmp_path / "elsewhere")[0].images == (RED,)
    assert "image_root is not a folder" in failure(load_path, path, image_root=tmp_path / "nowhere")


def test_json_list(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps([{**ROW, "answer": "1"}, {**ROW, "answer": 2}]))
    assert [(p.problem_id, p.answer) for p in load_path(tmp_path / "mine.json")] == [
        ("mine/000001", "1"), ("mine/000002", "2")]


@pytest.mark.parametrize("images", [
    [[RED, BLUE], [], None],
    [[{"bytes": RED, "path": None}, {"bytes": BLUE, "path": "b.png"}], [], None],
])
def test_parquet_with_bytes(tmp_path, images):
    table = pa.table({"question": ["a", "b", "c"], "images": images, "ground_truth": [1.5, 2.0, 3.0],
                      "pid": [10, 11, 12], "unused": [b"x" * 1000] * 3})
    pq.write_table(table, tmp_path / "mine.parquet")
    problems = load_path(tmp_path / "mine.parquet", split="train")
    assert [p.images for p in problems] == [(RED, BLUE), (), ()]
    assert [(p.problem_id, p.answer, p.answer_type, p.split) for p in problems] == [
        ("10", "1.5", "float", "train"), ("11", "2.0", "float", "train"), ("12", "3.0", "float", "train")]


def answers(path) -> list[tuple[str, str, str]]:
    return [(p.problem_id, p.answer, p.answer_type) for p in load_path(path)]


def saved(kind: str, table: pa.Table, folder: Path) -> Path:
    """The same table as a Parquet file, or as `datasets` saves it."""
    if kind == "parquet":
        pq.write_table(table, folder / "mine.parquet")
        return folder / "mine.parquet"
    import datasets

    datasets.Dataset(table).save_to_disk(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_narrow_floats_are_the_decimals_that_were_meant(tmp_path, kind):
    """3.14 as float32 is 3.140000104904175 as a double; in lists and structs too."""
    table = pa.table({
        "problem": ["a", "b", "c"], "id": ["x", "y", "z"], "answer": pa.array([3.14, 0.1, 1e-8], pa.float32()),
        "choices": pa.array([[2.71, 3.14], None, []], pa.list_(pa.float32())),
        "regions": pa.array([[{"label": "left", "box": [0.1, 0.2, 0.3, 0.7]}], None, None],
                            pa.list_(pa.struct([("label", pa.string()), ("box", pa.list_(pa.float32(), 4))]))),
    })
    first, second, third = load_path(saved(kind, table, tmp_path))
    assert (first.answer, first.choices, first.regions[0].box) == ("B", ("2.71", "3.14"), (0.1, 0.2, 0.3, 0.7))
    assert [(p.answer, p.answer_type) for p in (second, third)] == [("0.1", "float"), ("1e-08", "float")]
    half = pa.table({"problem": ["a"], "answer": pa.array([np.float16(0.2)], pa.float16())})
    pq.write_table(half, tmp_path / "half.parquet")
    assert load_path(tmp_path / "half.parquet")[0].answer == "0.2"


@pytest.mark.parametrize("kind", ["parquet", "saved"])
@pytest.mark.parametrize("gap", [None, float("nan")])
def test_an_integer_column_with_a_gap_holds_integers(tmp_path, kind, gap):
    """pandas keeps it as floating-point numbers; a gap in the answers is a missing answer."""
    ids = pa.array([7.0, gap, 9.0], pa.float64())
    table = pa.table({"problem": ["a", "b", "c"], "id": ids, "answer": pa.array([12.0, 3.0, -4.0], pa.float64())})
    found = answers(saved(kind, table, tmp_path))
    assert [one[1:] for one in found] == [("12", "integer"), ("3", "integer"), ("-4", "integer")]
    assert (found[0][0], found[1][0].rpartition("/")[2], found[2][0]) == ("7", "000002", "9")
    pq.write_table(pa.table({"problem": ["a", "b"], "answer": ids.slice(0, 2)}), tmp_path / "gap.parquet")
    assert "gap.parquet, row 2: the answer is empty" in failure(load_path, tmp_path / "gap.parquet")


def test_numbers_stay_as_they_are_where_one_has_decimals_or_a_user_wrote_them(tmp_path):
    pq.write_table(pa.table({"problem": ["a", "b"], "answer": [12.0, 0.5]}), tmp_path / "a.parquet")
    assert [one[1:] for one in answers(tmp_path / "a.parquet")] == [("12.0", "float"), ("0.5", "float")]
    pq.write_table(pa.table({"problem": ["a", "b"], "answer": [1e300, 2.0]}), tmp_path / "b.parquet")
    assert [one[1] for one in answers(tmp_path / "b.parquet")] == ["1e+300", "2.0"]
    assert [one[1:] for one in answers(jsonl(tmp_path, {**ROW, "answer": 12.0}, {**ROW, "answer": 12}))] == [
        ("12.0", "float"), ("12", "integer")]


def test_no_picture_in_its_several_forms(tmp_path):
    (tmp_path / "a.png").write_bytes(RED)
    values = ["", " ", None, [], [""], [None], {"bytes": None, "path": None}, ["a.png", ""]]
    found = load_path(jsonl(tmp_path, *({**ROW, "image": value} for value in values)))
    assert [p.images for p in found] == [()] * 7 + [(RED,)]
    assert "differ in number" in failure(load_path, jsonl(tmp_path, {**ROW, "problem": "<image>Which?", "image": ""}))


def test_the_options_of_a_set_reach_the_prompt(tmp_path):
    asked = {"problem": "Which two?", "answer": "A, C", "choices": ["one", "two", "three"], "answer_type": "set"}
    named, = load_path(jsonl(tmp_path, asked))
    assert named.question == "Which two?\nChoices:\n(A) one\n(B) two\n(C) three"
    assert (named.answer, named.answer_type, named.choices) == ("A, C", "set", ("one", "two", "three"))
    stays, = load_path(jsonl(tmp_path, asked | {"problem": "Which two of one, two and three?"}))
    assert stays.question == "Which two of one, two and three?"


def test_a_latex_command_that_json_took_for_an_escape(tmp_path):
    found, = load_path(jsonl(tmp_path, r'{"problem": "Half of \frac{1}{2}?", "answer": "\frac{1}{4}"}'))
    assert (found.question, found.answer) == (r"Half of \frac{1}{2}?", r"\frac{1}{4}")


def test_saved_to_disk_with_the_image_feature(tmp_path):
    import datasets

    features = datasets.Features({"problem": datasets.Value("string"), "answer": datasets.Value("string"),
                                  "images": datasets.List(datasets.Image())})
    rows = {"problem": ["<image>a", "b"], "answer": ["1", "2"], "images": [[{"bytes": RED, "path": None}], []]}
    train = datasets.Dataset.from_dict(rows, features=features)
    train.save_to_disk(tmp_path / "one")
    assert [p.images for p in load_path(tmp_path / "one")] == [(RED,), ()]

    datasets.DatasetDict({"train": train, "test": train.select([1])}).save_to_disk(tmp_path / "two")
    assert "train" in failure(load_path, tmp_path / "two")
    assert [p.question for p in load_path(tmp_path / "two", split="test")] == ["b"]


def test_folders_of_shards_and_of_splits(tmp_path):
    shards, splits = tmp_path / "shards", tmp_path / "splits"
    shards.mkdir()
    splits.mkdir()
    jsonl(shards, ROW, name="part-00000-of-00002.jsonl")
    jsonl(shards, ROW, ROW, name="part-00001-of-00002.jsonl")
    assert [p.problem_id for p in load_path(shards)] == [
        "part-00000-of-00002/000001", "part-00001-of-00002/000001", "part-00001-of-00002/000002"]
    assert len(load_path(shards, limit=2)) == 2

    jsonl(splits, ROW, name="train.jsonl")
    jsonl(splits, {**ROW, "answer": "4"}, name="test.jsonl")
    assert "holds several sets" in failure(load_path, splits)          # never both at once
    assert [p.answer for p in load_path(splits, split="test")] == ["4"]
    assert "no split 'dev'" in failure(load_path, splits, split="dev")
    (splits / "test.jsonl").unlink()
    assert "no split 'test'" in failure(load_path, splits, split="test")

    (splits / "other.json").write_text("[]")
    assert "data files of one kind" in failure(load_path, splits)
    assert "holds several sets" in failure(load_path, tmp_path)
    (tmp_path / "nothing").mkdir()
    assert "no data file" in failure(load_path, tmp_path / "nothing")


@pytest.mark.parametrize(("question", "n_images", "expected"), [
    ("<image>How many?", 1, "How many?"),
    ("<image_4>How many?", 1, "How many?"),
    ("See <image 1> and <image 2>, then <image 1> again", 2, "See and, then again"),
    ("No placeholder", 2, "No placeholder"),
    ("<image>\n<image>\nWhich?", 2, "Which?"),
    ("<image><image>Which?", 1, None),
    ("A literal <image> in the text", 0, None),
    ("<image_1> <image_2> Which?", 1, None),
])
def test_placeholders(tmp_path, question, n_images, expected):
    (tmp_path / "a.png").write_bytes(RED)
    path = jsonl(tmp_path, {**ROW, "problem": question, "images": ["a.png"] * n_images})
    if expected is None:
        message = failure(load_path, path)
        assert "mine.jsonl, line 1: image placeholders and images differ in number" in message
    else:
        assert load_path(path)[0].question == expected


BAD_ROWS = [
    ({**ROW, "problem": "<|image_pad|> How many?"}, "control token", "<|image_pad|>"),
    ({**ROW, "solution": "<|vision_start|>"}, "control token", "solution"),
    ({**ROW, "problem": " "}, "question is empty", ""),
    ({**ROW, "problem": "<image>", "images": ["a.png"]}, "only a placeholder", ""),
    ({**ROW, "problem": ["How", "many"]}, "wrong type", "list"),
    ({**ROW, "problem": "\ud800"}, "not valid Unicode", ""),
    ({**ROW, "answer": ""}, "answer is empty", ""),
    ({"problem": "How many?"}, "answer is empty", ""),
    ({**ROW, "answer": True}, "wrong type", "bool True"),
    ('{"problem": "How many?", "answer": NaN}', "not finite", ""),
    ({**ROW, "images": ["none.png"]}, "no such image file", "image 1"),
    ({**ROW, "images": ["a.png", "broken.jpg"]}, "cannot be read", "image 2 (broken.jpg)"),
    ({**ROW, "images": ["large.png"]}, "too large", "100,000,000 pixels"),
    ({**ROW, "images": ["../x.png"]}, "outside the image folder", ""),
    ({**ROW, "images": ["http://example.org/a.png"]}, "nothing is fetched", ""),
    ({**ROW, "images": [3]}, "image has the wrong type", "3"),
    ({**ROW, "images": [{"bytes": "aGVsbG8="}]}, "image has the wrong type", "aGVsbG8="),
    ({**ROW, "regions": [{"label": "left", "box": [10, 20, 30, 40]}]}, "not inside the image", "fractions"),
    ({**ROW, "regions": [{"label": "left", "box": [0.5, 0, 0.5, 1]}]}, "not inside the image", ""),
    ({**ROW, "regions": ["left"]}, "region has the wrong form", ""),
    ({**ROW, "steps": "Look."}, "steps has the wrong type", ""),
    ("[1, 2]", "a row is a JSON object", "list"),
    ('{"problem": "How many?"', "invalid JSON", "one JSON object per line"),
]


@pytest.mark.parametrize(("row", "message", "detail"), BAD_ROWS)
def test_a_bad_row_is_named(tmp_path, row, message, detail):
    (tmp_path / "a.png").write_bytes(RED)
    broken = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(broken, "JPEG")
    (tmp_path / "broken.jpg").write_bytes(broken.getvalue()[:900])
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    text = failure(load_path, jsonl(tmp_path, {**ROW, "images": None}, row))
    assert text.startswith("mine.jsonl, line 2") and message in text and detail in text


def test_the_pixel_limit_is_an_argument(tmp_path):
    (tmp_path / "a.png").write_bytes(RED)
    path = jsonl(tmp_path, {**ROW, "images": ["a.png"]})
    assert "at most 47 pixels" in failure(load_path, path, max_pixels=47)
    assert load_path(path, max_pixels=48)


def test_all_faults_come_together(tmp_path):
    text = failure(load_path, jsonl(tmp_path, ROW, {"problem": "", "answer": ""}, "{", {**ROW, "id": "x"},
                                    {**ROW, "id": "x"}))
    assert text.startswith("4 faults in ")
    for line in ("line 2: the question is empty", "line 2: the answer is empty", "line 3: invalid JSON",
                 "line 5 (x): the problem id is taken", "'x', already in mine.jsonl, line 4 (x)"):
        assert line in text
    text = failure(load_path, jsonl(tmp_path, *[{**ROW, "answer": ""}] * 25))
    assert text.startswith("25 faults") and "line 10:" in text and "line 11:" not in text and "and 15 more" in text


def test_parquet_faults_name_the_row(tmp_path):
    pq.write_table(pa.table({"problem": ["a", "b"], "answer": ["1", ""], "image": [RED, b"junk"]}),
                   tmp_path / "mine.parquet")
    text = failure(load_path, tmp_path / "mine.parquet")
    assert "mine.parquet, row 2: the answer is empty" in text
    assert "mine.parquet, row 2: image 1: the image cannot" in text


def test_columns(tmp_path):
    path = jsonl(tmp_path, {"text": "How many?", "anwser": "3", "file": "a.png"})
    (tmp_path / "a.png").write_bytes(RED)
    text = failure(load_path, path)
    assert "no column for question and answer" in text and "columns text, anwser, file" in text
    assert "`--columns question=COLUMN,answer=anwser`" in text
    mapped = {"problem": "text", "answer": "anwser", "images": "file"}
    assert load_path(path, columns=mapped)[0].images == (RED,)
    assert "did you mean anwser?" in failure(load_path, path, columns={**mapped, "answer": "answer"})
    assert "did you mean question?" in failure(load_path, path, columns={"questoin": "text"})

    path = jsonl(tmp_path, {**ROW, "image_path": "a.png"})             # would otherwise be read as text only
    assert "image_path" in failure(load_path, path)
    assert load_path(path, columns={"images": "image_path"})[0].images == (RED,)
    assert load_path(path, columns={"images": None})[0].images == ()


def test_bad_files(tmp_path):
    jsonl(tmp_path, ROW)
    assert "did you mean" in failure(load_path, tmp_path / "mine.json")
    assert "no rows" in failure(load_path, jsonl(tmp_path, "", name="empty.jsonl"))
    pq.write_table(pa.table({"problem": pa.array([], pa.string()), "answer": pa.array([], pa.string())}),
                   tmp_path / "empty.parquet")
    assert "no rows" in failure(load_path, tmp_path / "empty.parquet")
    for name, content, message in (("bad.parquet", "PAR1junk", "cannot be read as .parquet"),
                                   ("bad.json", "[1,", "invalid JSON"), ("object.json", "{}", "one list of rows"),
                                   ("mine.csv", "a,b", "not read")):
        (tmp_path / name).write_text(content)
        assert message in failure(load_path, tmp_path / name)
    (tmp_path / "latin.jsonl").write_bytes('{"problem": "é", "answer": "1"}'.encode("latin-1"))
    assert "line 1: invalid JSON" in failure(load_path, tmp_path / "latin.jsonl")
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    assert "line 1: invalid JSON" in failure(load_path, tmp_path / "deep.jsonl")
    assert "line 1: the question is empty" in failure(load_path, jsonl(tmp_path, {}, name="none.jsonl"))
    assert "must be positive" in failure(load_path, tmp_path / "mine.jsonl", limit=0)


def test_damage_inside_a_parquet_file(tmp_path):
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"problem": [f"question {i}" for i in range(2000)], "answer": ["1"] * 2000}), path,
                   compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[200:600] = bytes(400)
    path.write_bytes(data)
    assert "mine.parquet" in failure(load_path, path)


def test_load_problems_by_name_or_path(tmp_path, monkeypatch):
    path = jsonl(tmp_path, ROW, {**ROW, "answer": "4"})
    assert [p.answer for p in load_problems(str(path), split=None, seed=0, count=1)] == ["3"]
    text = failure(load_problems, "digit-gird", split="train", seed=0)
    assert "did you mean digit-grid?" in text and ".jsonl/.json/.parquet file or folder" in text
    assert f"did you mean {path}?" in failure(load_problems, str(path)[:-1], split=None, seed=0)
    assert "hf download some/thing --repo-type dataset" in failure(load_problems, "some/thing", split="train")
    assert "takes no kinds" in failure(load_problems, str(path), split=None, seed=0, kinds=["x"])
    assert "takes no columns" in failure(load_problems, "digit-grid", split="train", seed=0, columns={})

    asked = {}

    def load(split, **options):
        asked.update(options, split=split)
        return [Problem("1", "q", (), "2")]

    monkeypatch.setattr(digit_grid, "load", load)
    assert len(load_problems("digit-grid", split="test", seed=5, count=1, kinds=["row"])) == 1
    assert asked == {"split": "test", "seed": 5, "count": 1, "kinds": ["row"]}


def test_what_every_problem_is_checked_for():
    def whats(problem):
        return [fault.what for fault in faults_of(problem)]

    assert whats(Problem("1", "q", (), "2", choices=("a", "b"))) == []
    assert whats(Problem("1", "q", (), " ")) == ["the answer is empty"]
    assert whats(Problem(" ", "", (), "2")) == ["the problem id is empty", "the question is empty"]
    assert whats(Problem("1", "q", (), "2", answer_type="number")) == ["unknown answer type"]
    assert whats(Problem("1", "q", (), "2", steps=("<|im_end|>",))) == [
        "the step holds a control token of the model"]


def test_answers_are_checked_together_and_their_faults_stand_with_their_rows(tmp_path, monkeypatch):
    """Batches of two; the check sees no questions, and a row that is bad anyway is one bad row with both faults."""
    monkeypatch.setattr(reading, "_CHECKED_TOGETHER", 2)
    batches = []

    def check(problems):
        batches.append([(p.problem_id, p.question, p.answer) for p in problems])
        return [(p, UsageError(f"{p.answer} is odd")) for p in problems if int(p.answer) % 2]

    rows = [{"id": i, "problem": "" if i == 3 else "q", "answer": i} for i in range(1, 6)] + [{"problem": "q"}]
    loaded = look_at(str(jsonl(tmp_path, *rows)), split="train", check=check)
    assert [problem.answer for problem in loaded] == ["2", "4"] and len(loaded) == 2
    assert [(bad.row, [fault.what for fault in bad.faults]) for bad in loaded.bad_rows] == [
        (1, ["1 is odd"]), (3, ["the question is empty", "3 is odd"]), (5, ["5 is odd"]), (6, ["the answer is empty"])]
    assert batches == [[("1", "", "1"), ("2", "", "2")], [("3", "", "3"), ("4", "", "4")], [("5", "", "5")]]


def test_the_example_and_the_faults_in_the_documentation(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    line = text.split("```json\n")[1].split("\n```")[0]
    shown = text.split("## Errors")[1].split("```\n")[1].strip()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "till-1.png").write_bytes(RED)
    problem, = load_path(jsonl(tmp_path, line, name="my.jsonl"))
    assert (problem.answer, problem.answer_type, len(problem.steps), len(problem.regions)) == ("3.20", "float", 2, 1)

    jsonl(tmp_path, line, {"problem": "How much?", "answer": ""}, {**ROW, "images": ["pictures/till-3.png"]},
          '{"problem": "How much?" ', json.loads(line), name="my.jsonl")
    assert failure(load_path, "my.jsonl").replace(str(tmp_path.resolve()), "/data") == shown
