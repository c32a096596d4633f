"""Public data sets by name: from a local copy in any layout, or the cache of `datasets`; offline, an error."""

import io
import json
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from command import done, refused
from ptdpo_cli.artifacts.problems import read_problems
from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.datasets import catalog, default_split, hub, load_problems
from ptdpo_cli.datasets.cards import Card, Split, Table
from ptdpo_cli.datasets.reading import LeftOut
from ptdpo_cli.errors import UsageError


def png(colour="red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, "PNG")
    return out.getvalue()


RED, BLUE = png(), png("blue")
CARD = Card(
    name="test-set", hub="Some/TestSet", license="MIT", purpose="train and test", scoring="integer",
    splits={
        "train": Split(2, (Table(split="train"),)),
        "testmini": Split(2, (Table(split="testmini"),)),
        "both": Split(3, (Table(config="one", split="test"), Table(config="two", split="test", source="second"))),
        "lines": Split(2, (Table(files="lines/*.jsonl", archive="pictures.zip"),)),
    },
    train="train", test="testmini", key="number",
)


def problem(row, place):
    if row["answer"] == "withheld":
        raise UsageError("the label is withheld")
    if row["answer"] == "lost":
        raise LeftOut("the reference is lost", found=row["answer"])
    picture = row["picture"]
    return Problem(f"test-set/{row['number']}", row["query"], () if picture is None else (picture,), row["answer"],
                   source=place.table.source or CARD.name, split=place.split)


@pytest.fixture(autouse=True)
def test_set(monkeypatch):
    module = SimpleNamespace(CARD=CARD, problem=problem)
    monkeypatch.setitem(catalog.ADAPTERS, CARD.name, module)
    return module


def rows(*answers, picture=RED, first=1):
    return [{"number": n, "query": "How many?", "answer": answer, "picture": {"bytes": picture, "path": None}}
            for n, answer in enumerate(answers, first)]


def parquet(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(found), path)


def load(split, **options):
    return list(load_problems("test-set", split=split, **options))


def failure(split, **options) -> str:
    with pytest.raises(UsageError) as caught:
        load(split, **options)
    assert caught.value.exit_code == 2 and caught.value.hint
    return str(caught.value)


@pytest.fixture
def root(tmp_path):
    """A local copy as `hf download` makes it."""
    folder = tmp_path / "root" / "Some" / "TestSet"
    parquet(folder / "data" / "train-00000-of-00001.parquet", rows("1", "2"))
    parquet(folder / "data" / "testmini-00000-of-00001.parquet", rows("3", "4", picture=BLUE))
    parquet(folder / "one" / "test-00000-of-00001.parquet", rows("5"))
    parquet(folder / "two" / "test-00000-of-00001.parquet", rows("6", "7", first=2))
    return tmp_path / "root"


# --- a local copy -----------------------------------------------------------------------------------------------------


def test_splits_configs_and_tables_of_a_mirror(root):
    assert [(p.problem_id, p.answer, p.images, p.split) for p in load("testmini", root=root)] == [
        ("test-set/1", "3", (BLUE,), "testmini"), ("test-set/2", "4", (BLUE,), "testmini")]
    assert [(p.answer, p.source) for p in load("both", root=root)] == [
        ("5", "test-set"), ("6", "second"), ("7", "second")]
    assert [p.answer for p in load("train", root=root, count=1)] == ["1"]


def test_a_mirror_by_name_and_as_a_saved_folder(tmp_path):
    import datasets

    features = datasets.Features({"number": datasets.Value("int64"), "query": datasets.Value("string"),
                                  "answer": datasets.Value("string"), "picture": datasets.Image()})
    saved = datasets.Dataset.from_list(rows("1", "2"), features=features)
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "test-set")
    assert [(p.answer, p.images) for p in load("train", root=tmp_path)] == [("1", (RED,)), ("2", (RED,))]
    assert "one of: train" in failure("testmini", root=tmp_path)


def lines(folder, *paths):
    (folder / "lines").mkdir(parents=True, exist_ok=True)
    (folder / "lines" / "all.jsonl").write_text("".join(
        json.dumps({"number": n, "query": "How many?", "answer": "1", "picture": path}) + "\n"
        for n, path in enumerate(paths)))


def test_pictures_in_an_archive_or_unpacked(tmp_path, monkeypatch):
    folder = tmp_path / "test-set"
    lines(folder, "images/a.png", "file:///data/somewhere/images/sub/b.png", None)
    with zipfile.ZipFile(folder / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/a.png", RED)
        archive.writestr("images/sub/b.png", BLUE)
    zipped = load("lines", root=tmp_path)
    several = replace(CARD, splits={"lines": Split(3, (Table(files="lines/all.jsonl", archive="*.zip"),))})
    monkeypatch.setitem(catalog.ADAPTERS, CARD.name, SimpleNamespace(CARD=several, problem=problem))
    assert load("lines", root=tmp_path) == zipped
    assert [p.images for p in zipped] == [(RED,), (BLUE,), ()]

    with zipfile.ZipFile(folder / "pictures.zip") as archive:
        archive.extractall(folder)
    (folder / "pictures.zip").unlink()
    assert load("lines", root=tmp_path) == zipped
    (folder / "images" / "a.png").unlink()
    message = failure("lines", root=tmp_path)
    assert "test-set, lines, row 1 (test-set/0): image 1: no such image file" in message and "*.zip" in message


def test_unpacked_pictures_stay_inside(tmp_path):
    folder = tmp_path / "test-set"
    (tmp_path / "secret.png").write_bytes(RED)
    lines(folder, "../secret.png", "link.png", "https://example.org/a.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    message = failure("lines", root=tmp_path)
    assert message.count("row") >= 3 and "3 faults" in message
    assert "outside the image folder" in message and "nothing is fetched" in message
    assert "leave such rows out" in message and "image_root" not in message


def test_what_a_zip_may_not_do(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/a.png", RED)
        archive.writestr("y/a.png", BLUE)
        archive.writestr("bomb.png", bytes(5_000_000))
        archive.writestr("broken.png", RED * 50)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    info = zipfile.ZipFile(tmp_path / "a.zip").getinfo("broken.png")
    data[info.header_offset + 60] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    read = hub.zip_reader([tmp_path / "a.zip"], max_bytes=1_000_000)
    assert read("x/a.png") == read("./x/a.png") == read("/root/x/a.png") == RED
    assert read("../x/a.png") == RED        # a name within the archive opens no file
    for path, says in (("a.png", "several images"), ("none.png", "no such image"), ("bomb.png", "too large"),
                       ("broken.png", "cannot be read from the archive")):
        with pytest.raises(UsageError, match=says):
            read(path)
    # An archive may lie about the size of a member: no more than it says comes out.
    directory = data.rindex(b"bomb.png") - 46 + 24
    data[directory : directory + 4] = (1000).to_bytes(4, "little")
    (tmp_path / "b.zip").write_bytes(data)
    assert zipfile.ZipFile(tmp_path / "b.zip").getinfo("bomb.png").file_size == 1000
    with pytest.raises(UsageError, match="cannot be read from the archive"):
        hub.zip_reader([tmp_path / "b.zip"], max_bytes=1_000_000)("bomb.png")
    (tmp_path / "c.zip").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UsageError, match="cannot be read as a zip"):
        hub.zip_reader([tmp_path / "c.zip"])


def test_faults_of_rows_are_named_and_skipped(root, test_set):
    parquet(root / "Some" / "TestSet" / "data" / "train-00000-of-00001.parquet",
            rows("1", "withheld", "3") + rows("4", picture=b"junk", first=4) + rows("", first=5))
    message = failure("train", root=root)
    assert "3 faults in test-set" in message
    assert "test-set, train, row 2 (2): the label is withheld" in message
    assert "leave such rows out with `--on-bad-row skip`" in message and "another revision of Some/TestSet" in message
    assert "mend" not in message and "replace the file" not in message and "drop the row" not in message
    assert "row 4 (test-set/4): image 1: the image cannot be read" in message
    assert "row 5 (test-set/5): the answer is empty" in message
    kept = load_problems("test-set", split="train", root=root, on_bad_row="skip")
    assert [p.answer for p in kept] == ["1", "3"] and [bad.row for bad in kept.bad_rows] == [2, 4, 5]


def test_rows_whose_source_is_broken_are_left_out_by_name(root, tmp_path):
    """By the adapter, or by the check of answers; they stop nothing, and each is told."""
    parquet(root / "Some" / "TestSet" / "data" / "train-00000-of-00001.parquet", rows("1", "lost", "3", "4"))
    assert [p.answer for p in load("train", root=root)] == ["1", "3", "4"]

    def check(problems):
        return [(p, UsageError("the answer is odd", hint="mend it")) for p in problems if p.answer == "3"]

    loaded = load_problems("test-set", split="train", root=root, check=check)
    assert [p.answer for p in loaded] == ["1", "4"] == [p.answer for p in loaded] and loaded.bad_rows == []
    assert len(loaded) == 2 and [row.to_dict() for row in loaded.left_out] == [
        {"row": 2, "where": "test-set, train, row 2 (2)", "problem_id": "",
         "reasons": ["the reference is lost (found lost)"]},
        {"row": 3, "where": "test-set, train, row 3 (test-set/3)", "problem_id": "test-set/3",
         "reasons": ["the answer is odd"]}]

    found = done("data", "check", "test-set", "--data-root", root, "--split", "train")
    assert "left out: test-set, train, row 2 (2): the reference is lost (found lost)" in found.out
    assert "1 of 4 rows are left out, for their source is broken" in found.out and "3 problems" in found.out
    said = done("build-hints", "--data", "test-set", "--data-root", root, "--run", tmp_path / "run")
    assert "1 rows of test-set left out, for their source is broken, the first: test-set, train, row 2 (2)" in said.err
    artifact = Artifact.open(tmp_path / "run", kind="problems")
    assert artifact.manifest.counts == {"problems": 3, "left_out": 1}
    stored = json.loads(artifact.file("left_out.jsonl").read_text())
    assert stored["where"] == "test-set, train, row 2 (2)"
    assert stored["reasons"] == ["the reference is lost (found lost)"]

    parquet(root / "Some" / "TestSet" / "data" / "train-00000-of-00001.parquet", rows("lost", "lost"))
    message = failure("train", root=root)
    assert "every row of test-set is left out" in message and "row 1 (1): the reference is lost" in message


def test_another_revision_of_the_set(root):
    path = root / "Some" / "TestSet" / "data" / "train-00000-of-00001.parquet"
    parquet(path, [{"number": 1, "query": "q", "answr": "1", "picture": None}])
    message = failure("train", root=root)
    assert "no column 'answer'" in message and "did you mean answr?" in message
    parquet(path, [{"number": 1, "query": 3, "answer": "1", "picture": None}])
    assert "is not laid out as" in failure("train", root=root)


def test_the_only_split_there_is_not_taken_for_another(root):
    folder = root / "Some" / "TestSet"
    (folder / "data" / "train-00000-of-00001.parquet").unlink()
    assert "no split 'train'" in failure("train", root=root)
    (folder / "data" / "testmini-00000-of-00001.parquet").rename(folder / "data" / "all.parquet")
    assert [p.answer for p in load("train", root=root)] == ["3", "4"]     # shards of one set under any name
    (folder / "one" / "test-00000-of-00001.parquet").unlink()
    (folder / "one").rmdir()
    (folder / "data" / "all.parquet").unlink()
    assert "no split 'test'" in failure("both", root=root)                # two/ is not one/


def test_wrong_names(root, tmp_path):
    message = failure("testmin", root=root)
    assert "one of: train, testmini, both, lines" in message and "did you mean testmini?" in message
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (empty, tmp_path / "nowhere"):
        message = failure("train", root=folder)
        assert f"hf download Some/TestSet --repo-type dataset --local-dir {folder}/Some/TestSet" in message
    with pytest.raises(UsageError, match="it is called test-set here"):
        load_problems("some/testset", split="train")
    with pytest.raises(UsageError, match="takes no columns"):
        load_problems("test-set", split="train", columns={"problem": "x"})


# --- the cache and the Hub --------------------------------------------------------------------------------------------

OFFLINE = """
import sys, time
from types import SimpleNamespace
from ptdpo_cli.datasets import catalog, load_problems
from ptdpo_cli.datasets.cards import Card, Split, Table
import test_hub
catalog.ADAPTERS["test-set"] = SimpleNamespace(CARD=test_hub.CARD, problem=test_hub.problem)
import datasets, huggingface_hub
start = time.monotonic()
try:
    print([p.answer for p in load_problems("test-set", split=sys.argv[1])])
except Exception as error:
    print(type(error).__name__, error)
print(time.monotonic() - start, file=sys.stderr)
"""


def in_a_process(split: str, **environment) -> tuple[str, float]:
    ended = subprocess.run([sys.executable, "-c", OFFLINE, split], cwd=os.path.dirname(__file__), text=True,
                           env=os.environ | environment, capture_output=True, check=True, timeout=120)
    return ended.stdout, float(ended.stderr.splitlines()[-1])


@pytest.mark.parametrize("environment", [
    {"HF_HUB_OFFLINE": "1"},
    {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_secretSECRETsecret"},
])
def test_offline_is_said_clearly_and_at_once(environment, tmp_path):
    for split in ("train", "lines"):
        said, seconds = in_a_process(split, HF_HOME=str(tmp_path), **environment)
        assert said.startswith("UsageError test-set is not on this machine, and it is offline")
        assert "hf download Some/TestSet --repo-type dataset --local-dir ROOT/Some/TestSet" in said
        assert "--data-root ROOT" in said and "hf_secret" not in said
        assert ("HF_HUB_OFFLINE is set" in said) == (environment["HF_HUB_OFFLINE"] == "1")
        assert seconds < 15


def test_the_cache_serves_without_a_network(tmp_path):
    """Laid out as `datasets` leaves a set from the Hub in its cache."""
    import datasets

    features = datasets.Features({"number": datasets.Value("int64"), "query": datasets.Value("string"),
                                  "answer": datasets.Value("string"), "picture": datasets.Image()})
    source = tmp_path / "source" / "train.parquet"
    source.parent.mkdir()
    datasets.Dataset.from_list(rows("1", "2"), features=features).to_parquet(source)
    cache = tmp_path / "home" / "datasets"
    datasets.load_dataset("parquet", data_files={"train": str(source)}, cache_dir=str(tmp_path / "made"))
    made, = (folder for folder in (tmp_path / "made" / "parquet").glob("*/*/*") if folder.is_dir())
    place = cache / "Some___test_set" / "default" / "0.0.0" / made.name
    place.parent.mkdir(parents=True)
    made.rename(place)
    info = json.loads((place / "dataset_info.json").read_text())
    (place / "dataset_info.json").write_text(json.dumps(
        info | {"builder_name": "parquet", "dataset_name": "test_set", "config_name": "default"}))
    for file in place.glob("parquet-*"):
        file.rename(file.with_name(file.name.replace("parquet-", "test_set-")))
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        said, _ = in_a_process("train", HF_HOME=str(tmp_path / "home"), HF_DATASETS_CACHE=str(cache), **environment)
        assert said == "['1', '2']\n"


def test_a_gated_set_and_the_token(monkeypatch):
    from huggingface_hub.errors import GatedRepoError

    monkeypatch.setenv("HF_TOKEN", "not-of-the-usual-form")
    gated = GatedRepoError.__new__(GatedRepoError)
    Exception.__init__(gated, "403 for hf_abcdefghijkl with not-of-the-usual-form, Bearer zzz: gated repo")
    fault = hub._fault(CARD, gated)
    assert "gated" in fault.what and "https://huggingface.co/datasets/Some/TestSet" in fault.hint
    other = hub._fault(CARD, ValueError("403 for hf_abcdefghijkl with not-of-the-usual-form, Bearer zzz"))
    for secret in ("hf_abc", "not-of-the-usual-form", "zzz"):
        assert secret not in str(fault) and secret not in str(other)
    assert "***" in str(other)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_default_splits(monkeypatch):
    assert (default_split("test-set", "train"), default_split("test-set", "test")) == ("train", "testmini")
    assert (default_split("my.jsonl", "train"), default_split("my.jsonl", "test")) == ("train", "test")
    assert (default_split("digit-grid", "train"), default_split("digit-grid", "test")) == ("train", "test")
    card = Card("only-train", "a/b", {"train": Split(1, (Table(),))}, "MIT", "train", "integer", train="train")
    monkeypatch.setitem(catalog.ADAPTERS, "only-train", SimpleNamespace(CARD=card))
    with pytest.raises(UsageError, match="no split for evaluation") as caught:
        default_split("only-train", "test")
    assert caught.value.expected == "a split, one of: train"


def test_a_public_set_through_the_commands(root, tmp_path):
    run = tmp_path / "run"
    settings = ("--run", run, "--data-root", root)
    ended = done("build-hints", "--data", "test-set", *settings)
    problems = Artifact.open(run, kind="problems")
    assert [p.answer for p in read_problems(problems)] == ["1", "2"] and "warning" not in ended.err
    assert set(problems.manifest.inputs) == {"Some/TestSet/data/train-00000-of-00001.parquet"}
    before = problems.path

    moved = tmp_path / "elsewhere"
    root.rename(moved)              # where it lies is no part of what it is
    done("build-hints", "--data", "test-set", "--run", run, "--data-root", moved)
    assert Artifact.open(run, kind="problems").path == before
    parquet(moved / "Some" / "TestSet" / "data" / "train-00000-of-00001.parquet", rows("8"))
    done("build-hints", "--data", "test-set", "--run", run, "--data-root", moved)
    assert len(list((run / "problems").glob("v*"))) == 2

    told = done("build-hints", "--data", "test-set", "--run", tmp_path / "b", "--data-root", moved,
                "--set", "data.split=testmini")
    assert "warning: test-set testmini is for evaluation" in told.err
    said = refused(2, "build-hints", "--data", "test-set", *settings, says=("hf download Some/TestSet",))
    assert str(root) in said


def test_listing(root):
    listed = {one["name"]: one for one in done("data", "--json").json["data_sets"]}
    assert listed["test-set"] == {
        "name": "test-set", "hub": "Some/TestSet", "splits": {"train": 2, "testmini": 2, "both": 3, "lines": 2},
        "license": "MIT", "purpose": "train and test", "train": "train", "test": "testmini", "scoring": "integer",
        "notes": ""}
    assert listed["digit-grid"]["splits"]["test"] == 1024
    out = done("data").out
    assert "test-set" in out and "MIT" in out and "testmini† 2" in out


def test_time_to_import():
    """Naming a data set does not pay for `datasets`."""
    start = time.monotonic()
    code = ("import sys, ptdpo_cli.datasets.hub; "
            "sys.exit(bool({'datasets', 'torch', 'huggingface_hub'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert time.monotonic() - start < 10
