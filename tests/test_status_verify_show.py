"""status, verify and show on a small run: problems → hints → rollouts."""

import io
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from ptdpo_cli.artifacts import manifest as manifests
from ptdpo_cli.artifacts.manifest import input_key
from ptdpo_cli.artifacts.problems import problems_table
from ptdpo_cli.artifacts.schemas import HINTS, ROLLOUTS, Problem
from ptdpo_cli.artifacts.store import Writer
from ptdpo_cli.errors import ArtifactError, UsageError
from ptdpo_cli.stages.show import draw_sheet, render_show, show
from ptdpo_cli.stages.status import readable_size, render_status, status
from ptdpo_cli.stages.verify import render_verify, verify


def png(red: int) -> bytes:
    data = io.BytesIO()
    image = Image.new("RGB", (6, 4), (red, 0, 0))
    image.paste((0, 0, 255), (3, 0, 6, 4))
    image.save(data, "PNG")
    return data.getvalue()


PROBLEMS = [Problem(f"p{i}", f"Add up row {i} [of] them.", (png(50 * i),), str(i)) for i in range(4)]


def make(run, kind, inputs, write, *, section=None, force=False):
    section = section or {}
    key = input_key(stage=kind, schema_version=1, section=section, inputs=inputs)
    with Writer(run, kind, key=key, stage=kind, section=section, inputs=inputs, force=force,
                command=f"ptdpo {kind}") as writer:
        write(writer)
        return writer.finish()


def write_problems(writer):
    rows, images = problems_table(PROBLEMS)
    writer.write_shard(0, tables={"problems": rows, "images": images}, counts={"problems": 4})


def write_hints(writer):
    rows = [{"problem_id": p.problem_id, "hint": f"Look at {p.answer}.", "steps": []} for p in PROBLEMS[:3]]
    writer.write_shard(0, tables={"hints": pa.Table.from_pylist(rows, HINTS)}, counts={"hints": 3})


def write_rollouts(writer):
    for shard, problem in enumerate(PROBLEMS[:2]):
        rows = [{"rollout_id": f"{problem.problem_id}/{i}", "problem_id": problem.problem_id, "rollout": i,
                 "text": f"[bold]{i}[/bold]", "accuracy": 0.5} for i in range(3)]
        tensors = {"offsets": np.arange(4), "token_ids": np.arange(3, dtype=np.int32),
                   "sampler_logprobs": np.zeros(3, np.float32), "sampler_top_ids": np.zeros((3, 0), np.int32)}
        writer.write_shard(shard, tables={"rollouts": pa.Table.from_pylist(rows, ROLLOUTS)},
                           tensors={"rollouts": tensors}, counts={"rollouts": 3})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run = tmp_path_factory.mktemp("made") / "run"
    problems = make(run, "problems", {"train.jsonl": "0" * 64}, write_problems)
    hints = make(run, "hints", {"problems": problems.content_hash}, write_hints)
    rollouts = make(run, "rollouts", {"hints": hints.content_hash, "problems": problems.content_hash}, write_rollouts)
    return run, problems, hints, rollouts


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "run")


def printed(render, result) -> str:
    console = Console(file=io.StringIO(), width=120)
    render(result, console)
    return console.file.getvalue()


def test_status_lists_every_artifact_in_the_order_of_the_stages(made):
    run, problems, hints, rollouts = made
    rows = status(run)
    assert [row["kind"] for row in rows] == ["problems", "hints", "rollouts"]
    assert [row["content_hash"] for row in rows] == [a.content_hash for a in (problems, hints, rollouts)]
    assert [(row["state"], row["is_stale"], row["fault"]) for row in rows] == [("finished", False, None)] * 3
    assert rows[2]["counts"] == {"rollouts": 6} and rows[2]["shards"] == 2 and rows[2]["files"] == 4
    assert rows[0]["bytes"] == sum(path.stat().st_size for path in problems.path.glob("*.parquet"))
    json.dumps(rows)
    text = printed(render_status, rows)
    assert "6 rollouts" in text and rollouts.content_hash[:8] in text and "stale" not in text


def test_status_of_what_is_unfinished_locked_stale_or_damaged(run):
    before = status(run)
    with pytest.raises(KeyboardInterrupt):
        def write(writer):
            write_problems(writer)
            assert f"pid {os.getpid()} on" in status(run)[1]["locked_by"]
            lock = next((run / "problems").glob("*.lock"))
            lock.write_text(json.dumps(json.loads(lock.read_text()) | {"process_start": 1}))     # as of a dead process
            raise KeyboardInterrupt
        make(run, "problems", {"train.jsonl": "0" * 64}, write, force=True)
    assert list((run / "problems").glob("*.lock"))
    rows = status(run)
    assert [(row["state"], row["shards"], row["locked_by"]) for row in rows[:2]] == [("finished", 1, None),
                                                                                     ("unfinished", 1, None)]
    assert "1 shards done" in printed(render_status, rows)

    shutil.rmtree(before[0]["path"])
    manifest = os.path.join(before[1]["path"], "manifest.json")
    os.truncate(manifest, 40)
    rows = {row["kind"]: row for row in status(run)}
    assert rows["hints"]["state"] == "unreadable" and "not a readable manifest" in rows["hints"]["fault"]
    assert rows["rollouts"]["missing_inputs"] == ["hints", "problems"] and rows["rollouts"]["is_stale"]
    assert "made from hints, problems that are no longer here" in printed(render_status, list(rows.values()))


def test_status_needs_a_run(tmp_path):
    with pytest.raises(ArtifactError):
        status(tmp_path / "nowhere")
    assert status(tmp_path) == [] and printed(render_status, []) == "no artifacts yet\n"
    assert [readable_size(n) for n in (0, 999, 1000, 123_456, 4e9, 5e12)] == ["0 B", "999 B", "1.0 kB", "123 kB",
                                                                             "4.0 GB", "5.0 TB"]


def test_verify_reads_a_run_a_kind_or_one_artifact(made):
    run, _, _, rollouts = made
    assert [len(verify(path)["artifacts"]) for path in (run, run / "rollouts", rollouts.path)] == [3, 1, 1]
    result = verify(rollouts.path)
    assert (result["files"], result["bytes"]) == (4, sum(f.bytes for f in rollouts.manifest.files))
    assert "1 artifact whole: 4 files" in printed(render_verify, result)
    with pytest.raises(ArtifactError, match="there is no artifact"):
        verify(run / "nowhere")


def test_verify_sees_a_flipped_bit_in_any_file_and_says_which(made, tmp_path):
    run = made[0]
    for path in sorted(run.glob("*/*/*")):
        data = path.read_bytes()
        for at in (0, len(data) // 3, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
            try:
                with pytest.raises(ArtifactError) as error:
                    verify(run)
                assert path.name in str(error.value), (path.name, at)
            finally:
                path.write_bytes(data)
    verify(run)


def test_verify_sees_every_flipped_bit_of_a_manifest(run):
    """Every tenth byte, all eight bits: JSON that says the same in other letters does not occur in a manifest."""
    path = next(run.glob("hints/*/manifest.json"))
    data = path.read_bytes()
    for at in range(0, len(data), 10):
        for bit in range(8):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1:])
            with pytest.raises(ArtifactError):
                verify(path.parent)


def test_verify_reports_all_faults_together(run):
    rollouts = next((run / "rollouts").iterdir())
    (rollouts / "rollouts-00000.parquet").unlink()
    os.truncate(rollouts / "rollouts-00001.safetensors", 9)
    (rollouts / "notes").mkdir()
    (rollouts / "notes" / "mine.txt").write_text("x")
    with pytest.raises(ArtifactError) as error:
        verify(run)
    assert error.value.what.endswith("is damaged: 3 faults") and error.value.exit_code == 3
    for line in ("00000.parquet: missing", "00001.safetensors: 9 bytes, not", "notes/mine.txt: not in the manifest"):
        assert line in error.value.found
    assert error.value.hint == "make it again with `ptdpo rollouts --force`"


def reseal(path, table=None, tensors=None) -> None:
    """Puts other files into an artifact, with a manifest that vouches for them."""
    import pyarrow.parquet as pq
    import safetensors.numpy
    if table is not None:
        pq.write_table(table, path / "rollouts-00000.parquet")
    if tensors is not None:
        safetensors.numpy.save_file(tensors, path / "rollouts-00000.safetensors")
    fields = json.loads((path / "manifest.json").read_text())
    for record in fields["files"]:
        data = (path / record["path"]).read_bytes()
        record |= {"bytes": len(data), "sha256": manifests.sha256(data)}
    fields = {k: v for k, v in fields.items() if k not in manifests.HASHES}
    (path / "manifest.json").write_bytes(manifests.seal(**fields).to_bytes())


def test_verify_checks_columns_and_tensor_names(run):
    path = next((run / "rollouts").iterdir())
    table = ROLLOUTS.empty_table()
    reseal(path, table.append_column("added_later", pa.array([], pa.int8())))
    verify(path)
    reseal(path, table.drop_columns("reward").set_column(2, "rollout", pa.array([], pa.int64())))
    with pytest.raises(ArtifactError, match="columns missing or of another type: rollout, reward"):
        verify(path)
    reseal(path, table, {"offsets": np.arange(1)})
    with pytest.raises(ArtifactError, match="missing tensors"):
        verify(path)


def test_verify_recomputes_the_content_hash(run):
    path = next((run / "hints").iterdir()) / "manifest.json"
    fields = json.loads(path.read_text()) | {"content_hash": "1" * 64}
    path.write_text(json.dumps(fields | {"checksum": manifests.checksum(fields)}))
    with pytest.raises(ArtifactError, match="content hash"):
        verify(run)


def test_show_gives_rows_and_leaves_markup_alone(made):
    rollouts = made[3]
    result = show(rollouts.path, limit=4)
    assert [row["rollout_id"] for row in result["rows"]] == ["p0/0", "p0/1", "p0/2", "p1/0"]
    json.dumps(result)
    text = printed(render_show, result)
    assert "[bold]0[/bold]" in text and "6 rollouts" in text and "extracted" not in text


def test_show_lists_the_files_of_an_artifact_without_a_table(tmp_path):
    def write(writer):
        (writer.path / "weights").write_bytes(b"x")
        writer.add_file("weights")
    policy = make(tmp_path, "policy", {}, write)
    assert show(policy.path)["rows"][0]["file"] == "weights"
    with pytest.raises(UsageError, match="no problems lead to"):
        show(policy.path, out=tmp_path / "sheet.png")


def test_a_sheet_shows_the_problems_behind_rollouts_enlarged_pixel_by_pixel(made, tmp_path):
    run = made[0]
    for kind in ("problems", "hints", "rollouts"):
        out = tmp_path / f"{kind}.png"
        assert show(run, kind=kind, limit=4, out=out)["sheet"] == str(out)
    with Image.open(tmp_path / "rollouts.png") as image:
        assert image.size[0] == 2 * 320             # two problems have rollouts among the first four rows
        colours = {colour for _, colour in image.crop((0, 0, 640, 100)).getcolors(1 << 16)}
    assert colours == {(0, 0, 0), (50, 0, 0), (0, 0, 255), (255, 255, 255)}       # no smoothed pixel in between
    with Image.open(tmp_path / "hints.png") as hints, Image.open(tmp_path / "problems.png") as problems:
        blue, is_blue = (0, 0, 205), []
        for image in (hints, problems):
            is_blue.append(blue in {colour for _, colour in image.getcolors(1 << 16)})
    assert is_blue == [True, False]                 # the hint's colour


def test_a_sheet_takes_long_words_many_large_and_no_pictures():
    large = io.BytesIO()
    Image.new("RGB", (900, 300), "red").save(large, "PNG")
    sheet = draw_sheet([
        Problem("a", "W" * 200 + " " + "word " * 300, (large.getvalue(), png(9), png(8)), "1"),
        Problem("b", "", (), "2"),
    ], {})
    assert sheet.size[0] == 640 and 200 < sheet.size[1] < 700


def test_status_fits_a_terminal_of_80_columns(made):
    """Counts have a line of their own: no cell is folded, however many there are."""
    rows = status(made[0])
    rows[2]["counts"] = {name: 1_234_567 for name in ("rollouts", "problems", "correct", "skipped", "truncated")}
    console = Console(file=io.StringIO(), width=80)
    render_status(rows, console)
    lines = console.file.getvalue().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    for row in rows:
        assert any(line.startswith(f"{row['kind']}/") and line.endswith(row["created_utc"][:16].replace("T", " "))
                   for line in lines)
    assert "1,234,567 rollouts, 1,234,567 problems" in " ".join(console.file.getvalue().split())
