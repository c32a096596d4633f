"""A user's own problems through every stage: JSONL with picture files, Parquet with picture bytes, any sizes."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import done, jsonl, png, refused
from ptdpo_cli.artifacts.problems import read_problems
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.stages.metrics import read_metrics

SETTINGS = tuple(word for override in (
    "prompt.instruction=''", "rollout.problems_per_iteration=8", "rollout.rollouts_per_problem=2",
    "rollout.problems_per_shard=4", "rollout.max_new_tokens=12", "teacher.top_k=10", "train.iterations=1",
    "train.trackers=[]", "eval.samples=2", "eval.max_new_tokens=12", "eval.bootstrap_resamples=50",
) for word in ("--set", override))
SIZES = [(48, 48), (150, 100), (64, 90), (100, 37), (49, 130), (33, 33)]
STEPS = ["Look at the picture row by row.", "Count the shapes, then compare."]
REGION = [{"label": "the upper half", "box": [0.0, 0.0, 1.0, 0.5]}]
# Problems 1 and 2 may have hints, from regions alone and from both; the others get none and so plain GRPO.
HINTED = {"mine/000001", "mine/000002", "mine/000003"}


def rows(image) -> list[dict]:
    """Seven problems; `image` says how a picture of this size and colour is given."""
    colours = ["red", "green", "blue", "white", "black", "orange"]
    pictures = [image(size, colour) for size, colour in zip(SIZES, colours, strict=True)]
    plain = {"solution": None, "regions": None, "steps": None}
    return [
        {"problem": "How many red shapes?", "images": pictures[:1], "answer": "3", **plain, "steps": STEPS},
        {"problem": "How many green ones?", "images": pictures[1:2], "answer": "12", **plain, "regions": REGION},
        {"problem": "<image>What colour?", "images": pictures[2:3], "answer": "blue", "solution": "It is blue.",
         "regions": REGION, "steps": STEPS},
        {"problem": "Is it empty?", "images": pictures[3:4], "answer": "yes", **plain},
        {"problem": "What is two and two?", "images": [], "answer": "4", **plain},
        {"problem": "Which picture is brighter, the first or the second?", "images": pictures[4:], "answer": "second",
         **plain},
        {"problem": "How wide, in metres?", "images": pictures[1:2], "answer": "0.5", **plain, "steps": []},
    ]


def as_jsonl(folder, name):
    (folder / "pictures").mkdir(exist_ok=True)

    def image(size, colour):
        path = f"pictures/{colour}.png"
        (folder / path).write_bytes(png(*size, colour))
        return path

    return jsonl(folder / f"{name}.jsonl", *rows(image))


def as_parquet(folder, name):
    table = pa.Table.from_pylist(rows(lambda size, colour: {"bytes": png(*size, colour), "path": None}))
    pq.write_table(table, folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


@pytest.mark.parametrize("write", [as_jsonl, as_parquet])
def test_own_data_through_every_stage(write, tmp_path):
    file, held_out, run = write(tmp_path, "mine"), write(tmp_path, "held"), tmp_path / "run"
    mine = ("--data", file, "--run", run, *SETTINGS)

    hints = Artifact.open(done("build-hints", *mine).path)
    assert hints.manifest.counts == {"problems": 7, "hints": 3, "refused": 0}
    texts = {row["problem_id"]: row["hint"] for row in hints.table("hints").to_pylist() if row["hint"]}
    assert set(texts) == HINTED
    assert texts["mine/000003"] == " ".join(["Look only at the upper half.", *STEPS])

    rollouts = Artifact.open(done("rollout", *mine).path)
    table = rollouts.table("rollouts").to_pylist()
    assert rollouts.manifest.counts["rollouts"] == 14 and {r["problem_id"] for r in table} == {
        f"mine/{n:06d}" for n in range(1, 8)}
    image_tokens = {row["problem_id"]: row["image_tokens"] for row in table}
    assert image_tokens["mine/000005"] == 0
    assert image_tokens["mine/000001"] == 9                                  # 48 × 48 pixels, 16 × 16 each
    assert image_tokens["mine/000002"] == image_tokens["mine/000007"] > 9
    assert image_tokens["mine/000006"] > max(image_tokens[f"mine/{n:06d}"] for n in (1, 3))     # two pictures

    scores = Artifact.open(done("score-ref", *mine).path)
    gated = {row["rollout_id"].rpartition("/")[0] for row in scores.table("scores").to_pylist() if row["is_gated"]}
    failed = {row["problem_id"] for row in table if row["accuracy"] == 0}
    assert gated == HINTED & failed and gated

    update = done("train", *mine, "--rollouts", rollouts.path, "--scores", scores.path, "--json").json
    assert update["counts"] == {"iteration": 1, "updates": 1}
    assert math.isfinite(update["metrics"]["loss"]) and update["metrics"]["grad_norm/distill"] > 0

    policy = done("train", *mine, "--set", "train.iterations=2").path
    assert Artifact.open(policy).manifest.counts["iteration"] == 2
    metrics = read_metrics(run / "logs" / "metrics.jsonl")
    assert len(metrics) == 2 and all(math.isfinite(line["loss"]) for line in metrics)
    weights = [Artifact.open(path).manifest.extra["weights"] for path in (update["path"], policy)]
    assert weights[0] != weights[1]

    # The run knows its recipe; only the held-out file is new.
    evals = done("eval", "--run", run, "--data", held_out, "--json").json
    assert evals["counts"] == {"problems": 7, "answers": 21, "skipped": 0}
    assert {row["problem_id"] for row in Artifact.open(evals["path"]).table("evals").to_pylist()} == {
        f"held/{n:06d}" for n in range(1, 8)}

    sheet = tmp_path / "sheet.png"
    shown = done("show", hints.path, "--out", sheet, "--limit", 7)
    assert "upper half" in shown.out and sheet.stat().st_size > 1000
    states = done("status", run, "--json").json["artifacts"]
    assert {row["kind"] for row in states} == {"problems", "hints", "rollouts", "scores", "policy", "evals"}
    assert {row["state"] for row in states} == {"finished"}
    assert done("verify", run, "--json").json["files"] > 20


def test_both_formats_are_the_same_problems(tmp_path):
    (tmp_path / "j").mkdir()
    (tmp_path / "p").mkdir()
    found = []
    for folder, write in (("j", as_jsonl), ("p", as_parquet)):
        file = write(tmp_path / folder, "mine")
        done("build-hints", "--data", file, "--run", tmp_path / folder / "run", *SETTINGS)
        found.append(read_problems(Artifact.open(tmp_path / folder / "run", kind="problems")))
    assert [[p.problem_id, p.question, p.images, p.answer, p.regions, p.steps] for p in found[0]] == [
        [p.problem_id, p.question, p.images, p.answer, p.regions, p.steps] for p in found[1]]
    assert [p.answer_type for p in found[0]] == ["integer", "integer", "text", "text", "integer", "text", "float"]


def test_an_edited_file_is_another_data_set(tmp_path):
    file, run = as_jsonl(tmp_path, "mine"), tmp_path / "run"
    mine = ("--data", file, "--run", run, *SETTINGS)
    before = done("build-hints", *mine).path
    assert done("build-hints", *mine).path == before
    lines = file.read_text().splitlines()
    jsonl(file, *map(json.loads, lines[:-1]))
    after = done("build-hints", *mine).path
    assert after != before and Artifact.open(after).manifest.counts["problems"] == 6
    assert before.is_dir()


def test_a_picture_changed_on_disk_comes_in_with_force(tmp_path):
    """Pictures named by path are stored with the problems: later stages read those, whatever becomes of the file."""
    file, run = as_jsonl(tmp_path, "mine"), tmp_path / "run"
    mine = ("--data", file, "--run", run, *SETTINGS)
    done("build-hints", *mine)
    before = read_problems(Artifact.open(run, kind="problems"))[0].images
    changed = png(60, 60, "purple")
    (tmp_path / "pictures" / "red.png").write_bytes(changed)
    done("build-hints", *mine)
    assert read_problems(Artifact.open(run, kind="problems"))[0].images == before
    done("build-hints", *mine, "--force")
    assert read_problems(Artifact.open(run, kind="problems"))[0].images == (changed,)


def test_one_file_has_no_splits(tmp_path):
    file, run = as_jsonl(tmp_path, "mine"), tmp_path / "run"
    mine = ("--run", run, *SETTINGS, "--set", f"data.name={file}", "--policy", "tiny-base")
    for dry in ((), ("--dry-run",)):
        refused(2, "eval", *mine, *dry, says=("evaluate on the training file", "ptdpo eval --data HELD_OUT_FILE"))
    done("eval", *mine, "--split", "train", "--limit", 2)
