"""Artifacts on disk: what a kill at any moment leaves, what a damaged byte does, what a reader refuses."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ptdpo_cli.artifacts import images as image_store
from ptdpo_cli.artifacts import store
from ptdpo_cli.artifacts.images import ImageReader, image_hash, images_table
from ptdpo_cli.artifacts.manifest import canonical, checksum, content_hash, input_key, read_manifest
from ptdpo_cli.artifacts.problems import problems_table, read_problems
from ptdpo_cli.artifacts.schemas import HINTS, ROLLOUTS, Problem, Region
from ptdpo_cli.artifacts.store import Artifact, Writer, artifact_dir, find_finished
from ptdpo_cli.artifacts.tensors import join, offsets_of, split
from ptdpo_cli.errors import ArtifactError, UsageError
from ptdpo_cli.stages.verify import verify

KEY = input_key(stage="problems", schema_version=1, section={"count": 6}, inputs={})
# The events at which Python tells an audit hook that the file system is about to change (or a file to be opened).
STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree"}


def png(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, 0, 0)).save(data, "PNG")
    return data.getvalue()


def problems(first: int, count: int, word: str = "sum") -> list[Problem]:
    return [
        Problem(f"p{i}", f"What is the {word} of {i}?", (png(i // 2),), str(i), category="top",
                regions=(Region("left", (0.0, 0.0, 0.5, 1.0)),), steps=("Read it.",), choices=("1", "2"))
        for i in range(first, first + count)
    ]


def write(run, *, word="sum", shards=3, force=False, key=KEY):
    """A `problems` artifact of two problems per shard, made as a stage makes it."""
    if not force and (done := find_finished(run, "problems", key)):
        return done
    with open_writer(run, key, force) as writer:
        for shard in range(shards):
            if not writer.has_shard(shard):
                write_shard(writer, shard, word)
        return writer.finish(extra={"note": "ü"})


def open_writer(run, key=KEY, force=False) -> Writer:
    return Writer(run, "problems", key=key, stage="problems", section={"count": 6}, inputs={}, seed=1, force=force)


def write_shard(writer, shard, word="sum"):
    rows, images = problems_table(problems(2 * shard, 2, word))
    writer.write_shard(shard, tables={"problems": rows, "images": images}, counts={"problems": 2, "mass": 0.1})


def dies_at(step: int, run, work) -> bool:
    """Runs `work` in a child that kills itself before the step-th change below `run`; False: it got through."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event, args):
            nonlocal seen
            is_in_run = bool(args) and str(args[0]).startswith(str(run))
            is_in_rmtree = event in ("os.remove", "os.rmdir") and args[1] != -1        # a bare name in an open folder
            if event in STEPS and (is_in_run or is_in_rmtree):
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        try:
            sys.addaudithook(hook)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(code) or os.WEXITSTATUS(code) == 0
    return os.WIFSIGNALED(code)


def leftovers(run) -> list[str]:
    return sorted(path.name for path in (run / "problems").iterdir() if not path.is_dir() or "." in path.name)


def test_a_kill_before_any_change_on_disk_is_resumed_to_the_same_content(tmp_path):
    unbroken = write(tmp_path / "unbroken")
    resumed, step = 0, 0
    while True:
        run = tmp_path / str(step)
        if not dies_at(step, run, lambda run=run: write(run)):
            break
        done = len(list(run.glob("problems/*.partial/shard-*.json")))
        was_finished = artifact_dir(run, "problems", KEY).is_dir()
        resumed += 0 < done < 3
        artifact = write(run)
        assert artifact.content_hash == unbroken.content_hash, step
        assert artifact.table("problems").equals(unbroken.table("problems"))
        assert not leftovers(run) or was_finished, step         # there a dead lock may stay: nobody needs it
        verify(run)
        step += 1
    assert step > 30 and resumed > 5


def test_a_kill_in_a_forced_rebuild_leaves_the_old_or_the_new_one_whole(tmp_path):
    old = write(tmp_path / "old")
    new = write(tmp_path / "new", word="product")
    third = write(tmp_path / "third", word="quotient")
    assert len({old.content_hash, new.content_hash, third.content_hash}) == 3
    step, seen = 0, set()
    while True:
        run = tmp_path / str(step)
        shutil.copytree(tmp_path / "old", run)
        if not dies_at(step, run, lambda run=run: write(run, word="product", force=True)):
            break
        found = Artifact.open(run, kind="problems")
        assert found.content_hash in (old.content_hash, new.content_hash), step
        verify(found.path)
        seen.add(found.content_hash)
        assert find_finished(run, "problems", KEY) is not None
        assert write(run, word="quotient", force=True).content_hash == third.content_hash    # not resumed from `new`
        assert leftovers(run) == [], step
        step += 1
    assert step > 30 and len(seen) == 2


def test_the_old_one_is_promoted_when_only_it_is_left(tmp_path):
    old = write(tmp_path)
    os.rename(old.path, store.old_dir(old.path))
    assert Artifact.open(old.path).content_hash == old.content_hash
    assert leftovers(tmp_path) == []


def test_sigkill_from_outside_at_any_moment(tmp_path):
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import test_artifacts as t; from pathlib import Path\n"
        "print('ready', flush=True)\n"
        "t.write(Path(sys.argv[2]), shards=60)"
    )
    unbroken = write(tmp_path / "unbroken", shards=60)
    moments = np.random.default_rng(0).uniform(0.0, 0.4, 2)
    for moment in moments:
        process = subprocess.Popen([sys.executable, "-c", script, os.path.dirname(__file__), str(tmp_path / "run")],
                                   stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(moment)
        process.kill()
        process.wait()
        process.stdout.close()
    assert write(tmp_path / "run", shards=60).content_hash == unbroken.content_hash


@pytest.mark.parametrize("damage", ["missing", "short", "flipped", "torn record", "other key", "stray"])
def test_a_resume_redoes_exactly_the_damaged_shards(tmp_path, damage):
    unbroken = write(tmp_path / "unbroken")
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), open_writer(run) as writer:
        for shard in range(2):
            write_shard(writer, shard)
        raise KeyboardInterrupt
    victim, record = writer.path / "problems-00001.parquet", writer.path / "shard-00001.json"
    if damage == "missing":
        victim.unlink()
    elif damage == "short":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "flipped":
        flip(victim, 50)
    elif damage == "torn record":
        record.write_bytes(record.read_bytes()[:40])
    elif damage == "other key":
        record.write_bytes(record.read_bytes().replace(KEY.encode(), b"0" * 64))
    else:
        record.unlink()
        (writer.path / "problems-00009.parquet").write_bytes(b"half a file")
        (writer.path / "state").mkdir()
        (writer.path / "state" / "optimizer.bin").write_bytes(b"x")
    with open_writer(tmp_path / "empty") as writer:
        assert writer.read_table("problems").num_rows == 0
    with open_writer(run) as writer:
        assert (writer.has_shard(0), writer.has_shard(1)) == (True, False)
        assert writer.read_table("problems")["problem_id"].to_pylist() == ["p0", "p1"]
    artifact = write(run)
    assert artifact.content_hash == unbroken.content_hash
    assert artifact.manifest.counts == {"problems": 6, "mass": pytest.approx(0.3)}
    verify(artifact.path)       # no stray file is left


def flip(path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_finished_key_is_not_made_again(tmp_path):
    first = write(tmp_path)
    assert first.path == artifact_dir(tmp_path, "problems", KEY)
    assert write(tmp_path).manifest == first.manifest
    assert write(tmp_path, force=True).content_hash == first.content_hash


def test_the_content_hash_leaves_out_what_is_volatile_and_covers_the_rest(tmp_path):
    fields = write(tmp_path).manifest.model_dump()
    for name in fields:
        changed = fields | {name: "other"}
        is_left_out = name in {"created_utc", "wall_s", "versions", "git_commit", "command", "host", "content_hash",
                               "checksum"}
        assert (content_hash(changed) == fields["content_hash"]) == is_left_out, name
        assert (checksum(changed) == fields["checksum"]) == (name == "checksum"), name


def test_the_input_key_depends_on_all_that_it_is_made_of_and_not_on_order():
    base = {"stage": "s", "schema_version": 1, "section": {"a": 1, "b": [2.5, None]}, "inputs": {"x": "1"}, "model": {}}
    others = [{"stage": "t"}, {"schema_version": 2}, {"section": {"a": 1}}, {"inputs": {}}, {"model": {"weights": "w"}}]
    keys = {input_key(**(base | other)) for other in [{}, *others]}
    assert len(keys) == 6
    assert input_key(**(base | {"section": {"b": (2.5, None), "a": 1}})) == input_key(**base)
    with pytest.raises(ValueError):
        canonical({"x": float("nan")})


def test_a_manifest_with_an_unknown_optional_field_is_read_and_keeps_its_hash(tmp_path):
    artifact = write(tmp_path)
    fields = artifact.manifest.model_dump() | {"added_later": {"x": 1}}
    fields["content_hash"] = content_hash(fields)
    fields["checksum"] = checksum(fields)
    (artifact.path / "manifest.json").write_text(json.dumps(fields))
    assert Artifact.open(artifact.path).content_hash != artifact.content_hash
    verify(artifact.path)


def edited(artifact, **changes) -> None:
    fields = artifact.manifest.model_dump() | changes
    (artifact.path / "manifest.json").write_text(json.dumps(fields | {"checksum": checksum(fields)}))


def test_a_newer_schema_is_refused(tmp_path):
    artifact = write(tmp_path)
    edited(artifact, schema_version=2)
    with pytest.raises(ArtifactError) as error:
        Artifact.open(artifact.path)
    assert (error.value.expected, error.value.found) == ("problems schema 1 or older", "problems schema 2")
    assert "upgrade" in error.value.hint and error.value.exit_code == 3


@pytest.mark.parametrize("path", ["/etc/passwd", "../other/problems-00000.parquet"])
def test_a_manifest_that_names_files_outside_its_directory_is_refused(tmp_path, path):
    artifact = write(tmp_path)
    edited(artifact, files=[artifact.manifest.files[0].model_dump() | {"path": path}])
    with pytest.raises(ArtifactError, match="outside"):
        Artifact.open(artifact.path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"kind": "problems"}',
                                  b'{"kind": [], "schema_version": 1}', b'{"kind": "problems", "schema_version": "1"}',
                                  b'{"kind": "problems", "schema_version": 1}', b"[" * 100_000])
def test_a_damaged_manifest_is_an_artifact_error(tmp_path, text):
    artifact = write(tmp_path)
    (artifact.path / "manifest.json").write_bytes(text)
    with pytest.raises(ArtifactError):
        read_manifest(artifact.path)


def test_opening_names_what_is_wrong(tmp_path):
    with pytest.raises(ArtifactError, match="there is no problems artifact"):
        Artifact.open(tmp_path / "nowhere", kind="problems")
    artifact = write(tmp_path / "run")
    for path, kind in [(artifact.path, None), (tmp_path / "run" / "problems", None), (tmp_path / "run", "problems")]:
        assert Artifact.open(path, kind=kind).path == artifact.path
    with pytest.raises(ArtifactError) as error:
        Artifact.open(artifact.path, kind="hints")
    assert (error.value.expected, error.value.found) == ("hints", "problems")
    with pytest.raises(ArtifactError, match="a run with problems"):
        Artifact.open(tmp_path / "run")
    write(tmp_path / "run", key="1" * 64)
    with pytest.raises(ArtifactError, match="several"):
        Artifact.open(tmp_path / "run", kind="problems")


def test_an_unfinished_artifact_says_how_far_it_is(tmp_path):
    with Writer(tmp_path, "hints", key=KEY, stage="build-hints", section={}, inputs={}) as writer:
        table = pa.Table.from_pylist([{"problem_id": "p0"}], schema=HINTS)
        writer.write_shard(0, tables={"hints": table})
    for path, kind in [(writer.final, None), (writer.path, None), (tmp_path / "hints", None), (tmp_path, "hints")]:
        with pytest.raises(ArtifactError, match="not finished") as error:
            Artifact.open(path, kind=kind)
        assert error.value.hint == "run the same command again; it resumes after 1 finished shards"


def test_a_missing_or_shortened_file_is_seen_on_opening(tmp_path):
    artifact = write(tmp_path)
    (artifact.path / "images-00000.parquet").unlink()
    table = artifact.path / "problems-00001.parquet"
    table.write_bytes(table.read_bytes()[:-4])
    with pytest.raises(ArtifactError) as error:
        Artifact.open(artifact.path)
    assert "images-00000.parquet: missing" in error.value.found
    assert "problems-00001.parquet" in error.value.found
    with pytest.raises(ArtifactError, match="cannot be read"):
        Artifact.open(artifact.path, check_files=False).table("problems")


def rollouts_shard(rows: int):
    table = pa.Table.from_pylist([{"rollout_id": f"p/{i}", "rollout": i} for i in range(rows)], ROLLOUTS)
    values, offsets = join([np.arange(i) for i in range(rows)], dtype=np.int32)
    tensors = {"offsets": offsets, "token_ids": values, "sampler_logprobs": values.astype(np.float32),
               "sampler_top_ids": np.zeros((len(values), 0), np.int32)}
    return table, tensors


def test_tensors_come_back_as_they_were_and_a_damaged_file_is_an_error(tmp_path):
    table, tensors = rollouts_shard(4)
    with Writer(tmp_path, "rollouts", key=KEY, stage="rollout", section={}, inputs={}) as writer:
        writer.write_shard(0, tables={"rollouts": table}, tensors={"rollouts": tensors})
        backwards = {name: array[::-1] for name, array in tensors.items()}          # views that are not contiguous
        writer.write_shard(1, tables={"rollouts": table}, tensors={"rollouts": backwards})
        artifact = writer.finish()
    assert artifact.shards() == 2 and artifact.table("rollouts").num_rows == 8
    found = artifact.tensors("rollouts", 0)
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
    assert np.array_equal(artifact.tensors("rollouts", 1)["token_ids"], tensors["token_ids"][::-1])
    flip(artifact.path / "rollouts-00000.safetensors", 3)
    with pytest.raises(ArtifactError, match="cannot be read"):
        artifact.tensors("rollouts", 0)
    with pytest.raises(ArtifactError, match="has no rollouts-00007"):
        artifact.tensors("rollouts", 7)


def test_columns_and_tensors_must_be_those_of_the_schema(tmp_path):
    table, tensors = rollouts_shard(2)
    with Writer(tmp_path, "rollouts", key=KEY, stage="rollout", section={}, inputs={}) as writer:
        with pytest.raises(ValueError, match=r"missing columns \['reward'\]"):
            writer.write_shard(0, tables={"rollouts": table.drop_columns("reward")})
        with pytest.raises(ValueError, match="unknown columns"):
            writer.write_shard(0, tables={"rollouts": table.append_column("extra", table["reward"])})
        with pytest.raises(ValueError, match="missing tensors"):
            writer.write_shard(0, tables={"rollouts": table}, tensors={"rollouts": {"offsets": tensors["offsets"]}})
        writer.write_shard(1, tables={"rollouts": table}, tensors={"rollouts": tensors})
        with pytest.raises(ValueError, match="shards are missing"):
            writer.finish()
    with pytest.raises(ValueError):
        Writer(tmp_path, "rollouts", key=KEY, stage="rollout", section={"x": float("inf")}, inputs={})


def test_the_same_rows_give_the_same_bytes_however_they_are_chunked():
    rng = np.random.default_rng(0)                      # enough text for several pages, whose cuts follow the chunks
    texts = [rng.bytes(1500).hex() for _ in range(1500)]
    table = rollouts_shard(1500)[0].set_column(3, "text", pa.array(texts))
    chunked = pa.concat_tables([table[:500], table[500:]])
    assert store._parquet("rollouts", chunked) == store._parquet("rollouts", table)
    reordered = table.select(table.column_names[::-1]).replace_schema_metadata({"pandas": "x"})
    assert store._parquet("rollouts", reordered) == store._parquet("rollouts", table)


def test_a_policy_takes_up_files_that_the_caller_wrote(tmp_path):
    with Writer(tmp_path, "policy", key=KEY, stage="train", section={}, inputs={}) as writer:
        (writer.path / "model").mkdir()
        (writer.path / "model" / "weights.safetensors").write_bytes(b"w" * 100)
        (writer.path / "metrics.jsonl").write_text("{}\n")
        (writer.path / "forgotten.tmp").write_text("x")
        writer.add_file("model")
        writer.add_file("metrics.jsonl")
        artifact = writer.finish(counts={"steps": 3})
    assert artifact.shards() == 0
    assert [record.path for record in artifact.manifest.files] == ["metrics.jsonl", "model/weights.safetensors"]
    assert (artifact.path / "model" / "weights.safetensors").read_bytes() == b"w" * 100
    assert not (artifact.path / "forgotten.tmp").exists()
    verify(artifact.path)


def test_a_full_disk_at_any_sync_leaves_nothing_half_done(tmp_path, monkeypatch):
    unbroken, sync = write(tmp_path / "unbroken"), os.fsync
    for fails_at in range(100):
        run, seen = tmp_path / str(fails_at), iter(range(1000))

        def full(descriptor, fails_at=fails_at, seen=seen):
            if next(seen) == fails_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return sync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        try:
            write(run)
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC
        finally:
            monkeypatch.setattr(os, "fsync", sync)
        assert not list(run.glob("problems/*.lock*"))
        assert write(run).content_hash == unbroken.content_hash
        assert leftovers(run) == []
    assert fails_at > 8


def test_a_place_that_cannot_be_written_raises_oserror_and_leaves_no_trace(tmp_path):
    (tmp_path / "run").write_text("a file")
    for run in (tmp_path / "run", "/proc/nowhere"):
        with pytest.raises(OSError):
            write(run)
    assert os.listdir(tmp_path) == ["run"]


def test_problems_come_back_as_they_were(tmp_path):
    made = [*problems(0, 5), Problem("last", "No picture?", (), "no", solution="x", answer_type="choice")]
    rows, images = problems_table(made)
    assert images.num_rows == 3
    with Writer(tmp_path, "problems", key=KEY, stage="problems", section={}, inputs={}) as writer:
        writer.write_shard(0, tables={"problems": rows, "images": images})
        known = images["sha256"].to_pylist()
        rows, images = problems_table([Problem("again", "?", (png(0), png(9)), "1")], known)
        assert images.num_rows == 1
        writer.write_shard(1, tables={"problems": rows, "images": images})
        found = read_problems(writer.finish())
    assert list(found)[:6] == made and found[-1].images == (png(0), png(9)) and len(found) == 7
    assert found[1:3] == made[1:3]
    assert found[0] != Problem("0", "?", (png(9),), "1") and found[-1].images != (png(9), png(0))


def test_problems_hold_no_pictures_until_these_are_looked_at(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(ImageReader, "__getitem__", lambda self, name: read.append(name) or png(0))
    rows, images = problems_table([Problem("two", "?", (png(0), png(1)), "1"), Problem("none", "?", (), "1")])
    with Writer(tmp_path, "problems", key=KEY, stage="problems", section={}, inputs={}) as writer:
        writer.write_shard(0, tables={"problems": rows, "images": images})
        two, none = read_problems(writer.finish())
    assert (len(two.images), len(none.images), bool(none.images), read) == (2, 0, False, [])
    assert two.images[0] == png(0) and read == [image_hash(png(0))]


def test_pictures_are_fetched_by_row_group_and_few_stay_in_memory(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    shades = [bytes(rng.integers(0, 255, 3, dtype=np.uint8)) for _ in range(300)]
    encoded = []
    for shade in shades:
        data = io.BytesIO()
        Image.new("RGB", (2, 2), tuple(shade)).save(data, "PNG")
        encoded.append(data.getvalue())
    table = images_table(encoded)
    with Writer(tmp_path, "problems", key=KEY, stage="problems", section={}, inputs={}) as writer:
        writer.write_shard(0, tables={"problems": problems_table([])[0], "images": table})
        artifact = writer.finish()
    reader = ImageReader(artifact, row_groups=2)
    reads, read = [], reader._column
    monkeypatch.setattr(reader, "_column", lambda *place: reads.append(place) or read(*place))
    order = [0, 1, 299, 0, 128, 1]
    names = table["sha256"].to_pylist()
    assert [reader[names[i]] for i in order] == [table["bytes"][i].as_py() for i in order]
    assert [group for name, _, group in reads if name == "bytes"] == [0, 4, 2]
    assert len(reader) == len(set(encoded)) and names[0] in reader
    with pytest.raises(ArtifactError, match="does not hold the picture"):
        reader["0" * 64]
    flip(artifact.path / "images-00000.parquet", (artifact.path / "images-00000.parquet").stat().st_size - 1)
    with pytest.raises(ArtifactError, match="cannot be read"):
        ImageReader(artifact)[names[0]]


def test_what_is_no_picture_or_no_unique_id_is_the_users_error():
    with pytest.raises(UsageError, match="a picture cannot be read"):
        images_table([b"not a picture"])
    with pytest.raises(UsageError, match="two problems have one id"):
        problems_table([*problems(0, 2), *problems(1, 1)])
    assert image_store.image_hash(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_ragged_tensors():
    values, offsets = join([np.array([1, 2]), np.array([]), np.array([3])], dtype=np.int32)
    assert (values.tolist(), offsets.tolist(), offsets.dtype) == ([1, 2, 3], [0, 2, 2, 3], np.int64)
    assert [row.tolist() for row in split(values, offsets)] == [[1, 2], [], [3]]
    assert join([], dtype=np.float32, width=4)[0].shape == (0, 4) and offsets_of([]).tolist() == [0]
    for wrong in ([0, 2], [1, 2, 3], [0, 3, 2, 3], []):
        with pytest.raises(ValueError):
            split(values, np.array(wrong, np.int64))
