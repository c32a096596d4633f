"""What a user can get wrong, and what machines do to runs: the exit code, one message with its remedy, and then the
same command, the fault gone, completes the work."""

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command import TINY, done, flip, jsonl, png, ptdpo, refused
from ptdpo_cli.artifacts import manifest as manifests
from ptdpo_cli.artifacts import store
from ptdpo_cli.artifacts.lock import Lock
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.engines.hf import HfEngine
from ptdpo_cli.models.load import TINY_BASE
from ptdpo_cli.stages import train
from ptdpo_cli.stages.metrics import read_metrics

GOOD = {"problem": "How many dots?", "images": ["a.png"], "answer": "3",
        "steps": ["Look at every corner of the picture.", "Count what you see there."]}
# Two rows of the user's own, and small settings for them.
OWN = ("-q", *(word for override in (
    "rollout.problems_per_iteration=2", "rollout.rollouts_per_problem=2", "rollout.max_new_tokens=8", "teacher.top_k=8",
    "train.iterations=1", "train.trackers=[]", "train.kl_weight=0", "prompt.instruction=''",
) for word in ("--set", override)))


def data(folder: Path, *rows: dict) -> Path:
    (folder / "a.png").write_bytes(png(48, 48))
    return jsonl(folder / "mine.jsonl", *(rows or (GOOD, {**GOOD, "problem": "How many lines?", "answer": "5"})))


# --- data -------------------------------------------------------------------------------------------------------------


def _missing(folder):
    (folder / "mine.jsonl").unlink()


def _row(**changes):
    return lambda folder: data(folder, GOOD, {**GOOD, **changes})


def _picture(content: bytes):
    return lambda folder: (folder / "a.png").write_bytes(content)


BAD_DATA = {
    "missing file": (_missing, ("mine.jsonl",)),
    "empty file": (lambda folder: (folder / "mine.jsonl").write_text("\n"), ("no rows in", "hint: give a file")),
    "no JSON": (lambda folder: (folder / "mine.jsonl").write_text("problem: x\n"), ("line 1", "invalid JSON")),
    "missing picture": (lambda folder: (folder / "a.png").unlink(), ("line 1: image 1 (a.png)", "no such image file")),
    "unreadable picture": (_picture(b"no picture"), ("line 1: image 1 (a.png)", "cannot be read", "10 bytes")),
    "truncated picture": (_picture(png(64, 64)[:-30]), ("line 1: image 1 (a.png)", "cannot be read")),
    "huge picture": (_picture(png(10_000, 10_000, 1, mode="1")),
                     ("line 1: image 1 (a.png)", "50,000,000 pixels", "10,000 x 10,000", "data.max_image_pixels")),
    "repeated id": (lambda folder: data(folder, {**GOOD, "id": "x"}, {**GOOD, "id": "x"}), ("line 2", "'x'", "line 1")),
    "empty answer": (_row(answer=" "), ("line 2", "the answer is empty")),
    "no answer column": (lambda folder: data(folder, {"problem": "How?", "anwser": "3"}),
                         ("anwser", "--columns answer=anwser")),
    "control token": (_row(problem="<|image_pad|>?"), ("line 2", "<|image_pad|>")),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(case, tmp_path):
    file, run = data(tmp_path), tmp_path / "run"
    spoil, says = BAD_DATA[case]
    spoil(tmp_path)
    said = refused(2, "build-hints", "--data", file, "--run", run, *OWN, "--dry-run", says=says)
    for command in ("build-hints", "rollout", "train"):
        assert refused(2, command, "--data", file, "--run", run, *OWN) == said
    assert not run.exists()         # nor is a faulty recipe kept as the run's
    if case == "huge picture":
        done("build-hints", "--data", file, "--run", run, *OWN, "--dry-run", "--set", "data.max_image_pixels=100000000")
    data(tmp_path)
    assert done("build-hints", "--data", file, "--run", run, *OWN).path.is_dir()


LEAKING = {**GOOD, "answer": "7", "steps": ["There are 7 dots."]}


def test_a_hint_with_the_answer_in_it_is_refused_and_its_problem_goes_without(tmp_path):
    file, run = data(tmp_path, LEAKING, GOOD), tmp_path / "run"
    hints = done("build-hints", "--data", file, "--run", run, *OWN, "--json").json
    assert hints["counts"] == {"problems": 2, "hints": 1, "refused": 1}
    rows = Artifact.open(hints["path"]).table("hints").to_pylist()
    assert [row["hint"] is None for row in rows] == [True, False]
    assert "contains the answer: '7'" in rows[0]["refusal"] and rows[0]["refusal"] in done("show", hints["path"]).out
    rollouts = done("rollout", "--data", file, "--run", run, *OWN).path
    scores = done("score-ref", "--data", file, "--run", run, *OWN).path
    assert not any(row["is_gated"] for row in Artifact.open(scores).table("scores").to_pylist()
                   if row["rollout_id"].startswith("mine/000001/"))
    assert done("train", "--data", file, "--run", run, *OWN, "--rollouts", rollouts, "--scores", scores).path.is_dir()


def test_without_a_single_hint_nothing_is_tutored(tmp_path):
    file, run = data(tmp_path, LEAKING, {**GOOD, "steps": []}), tmp_path / "run"
    mine = ("--data", file, "--run", run, *OWN)
    says = ("no problem has a hint", "0 hints for 2 problems, 1 refused", "train.distill_weight=0")
    refused(2, "train", *mine, "--dry-run", says=says)
    assert not run.exists()
    too_many = ("1 of 1 hints were refused", "at most 50% (hints.max_refused)", "hints audit")
    refused(1, "build-hints", *mine, says=too_many)
    assert done("build-hints", *mine, "--set", "hints.max_refused=1", "--json").json["counts"]["hints"] == 0
    done("rollout", *mine)
    for command in ("score-ref", "train"):
        refused(2, command, *mine, says=says)
        refused(2, command, *mine, "--dry-run", says=says)
    assert done("train", *mine, "--set", "train.distill_weight=0").path.is_dir()


def test_a_prompt_over_the_limit_is_refused_by_name(tmp_path):
    file, run = data(tmp_path, GOOD, {**GOOD, "problem": "How many " + "very " * 200 + "small dots?"}), tmp_path / "run"
    mine = ("--data", file, "--run", run, *OWN, "--set", "prompt.max_prompt_tokens=128")
    says = ("1 prompt is too long", "mine/000002: ", "at most 128 tokens", "prompt.max_prompt_tokens")
    refused(2, "rollout", *mine, "--dry-run", says=says)
    refused(2, "rollout", *mine, says=says)
    done("rollout", *mine, "--set", "prompt.max_prompt_tokens=4096", "--set", "rollout.max_new_tokens=2")


# --- artifacts --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run with every kind of artifact: two iterations' rollouts, the scores and update of the first."""
    run = tmp_path_factory.mktemp("finished") / "run"
    here = (*TINY, "--run", run, "-q")
    done("build-hints", *here)
    rollouts = done("rollout", *here).path
    scores = done("score-ref", *here, "--rollouts", rollouts).path
    policy = done("train", *here, "--rollouts", rollouts, "--scores", scores).path
    done("rollout", *here, "--policy", policy)
    done("eval", *here, "--policy", policy, "--limit", 4)
    return run


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def here(run: Path) -> tuple:
    return (*TINY, "--run", run, "-q")


def of(run: Path, kind: str, **section) -> Path:
    """The artifact of a kind, of those whose recipe section says so."""
    found = [Artifact.open(path, check_files=False) for path in store.artifact_paths(run / kind)]
    (path,) = [a.path for a in found if all(a.manifest.section.get(k) == v for k, v in section.items())]
    return path


def one_update(run: Path) -> tuple:
    rollouts, scores = of(run, "rollouts", iteration=0), of(run, "scores")
    return ("train", *here(run), "--rollouts", rollouts, "--scores", scores, "--force")


# What is damaged, which command reads it, and which one makes it again.
READERS = {
    "problems/problems-00000.parquet": lambda run: ("rollout", *here(run), "--policy", "tiny-base", "--iteration", 7),
    "problems/images-00000.parquet": lambda run: ("rollout", *here(run), "--policy", "tiny-base", "--iteration", 7),
    "hints/hints-00000.parquet": lambda run: (
        "score-ref", *here(run), "--rollouts", of(run, "rollouts", iteration=0), "--force"),
    "rollouts/rollouts-00001.parquet": one_update,
    "rollouts/rollouts-00001.safetensors": one_update,
    "scores/scores-00000.parquet": one_update,
    "scores/scores-00001.safetensors": one_update,
    "policy/model.safetensors": lambda run: ("rollout", *here(run), "--policy", of(run, "policy"), "--force"),
    "evals/evals-00000.parquet": lambda run: ("compare", run / "evals", run / "evals"),
}


def named(run: Path, name: str) -> Path:
    kind, _, file = name.partition("/")
    if kind == "problems":      # the training problems; those of the evaluation lie beside them
        (path,) = [p for p in (run / kind).iterdir() if Artifact.open(p).manifest.section["split"] == "train"]
        return path / file
    return of(run, kind, **({"iteration": 0} if kind == "rollouts" else {})) / file


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_seen_and_the_hint_mends_it(name, run, finished):
    file = named(run, name)
    flip(file)
    refused(3, "verify", file.parent, says=(file.name,))
    refused(3, *READERS[name](run), says=(str(file.parent),))
    said = refused(3, "verify", run, says=("damaged: 1 fault", f"{file.name}: its content has changed"))
    remedy = said.partition("make it again with `ptdpo ")[2].partition("`")[0]
    done(*shlex.split(remedy.replace(str(finished), str(run))))
    done("verify", run)
    done(*READERS[name](run))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "trainer.safetensors", "trainer.json"])
def test_verify_sees_a_flipped_bit_in_any_file_of_a_policy(file, run):
    flip(of(run, "policy") / file)
    refused(3, "verify", run / "policy", says=(f"{file}: its content has changed",))


@pytest.mark.parametrize("kind", ["hints", "rollouts", "scores", "policy"])
def test_a_missing_file_is_seen_on_opening(kind, run):
    path = of(run, kind, **({"iteration": 0} if kind == "rollouts" else {}))
    victim = next(p for p in path.iterdir() if p.suffix in (".parquet", ".safetensors"))
    victim.unlink()
    command = {"hints": "score-ref", "rollouts": "score-ref", "scores": "train", "policy": "rollout"}[kind]
    rollouts = ("--rollouts", of(run, "rollouts", iteration=0)) if command != "rollout" else ()
    more = {"scores": ("--scores", of(run, "scores")), "policy": ("--policy", path)}.get(kind, ())
    for dry in ((), ("--dry-run",)):
        refused(3, command, *here(run), *rollouts, *more, *dry, says=("is damaged", f"{victim.name}: missing"))


def edited(path: Path, **fields) -> None:
    """A manifest with other fields, its hashes made anew: what another version of ptdpo would have written."""
    file = path / "manifest.json"
    changed = json.loads(file.read_text()) | fields
    changed["content_hash"] = manifests.content_hash(changed)
    file.write_text(json.dumps(changed | {"checksum": manifests.checksum(changed)}))


def test_a_newer_schema_is_refused_and_left_alone(run):
    path = of(run, "hints")
    edited(path, schema_version=9)
    says = ("written by a newer ptdpo", "hints schema 1 or older", "hints schema 9", "pip install -U ptdpo")
    command = ("score-ref", *here(run), "--rollouts", of(run, "rollouts", iteration=0))
    for words in (command, (*command, "--dry-run"), ("verify", path), ("show", path), ("build-hints", *here(run))):
        refused(3, *words, says=says if words[0] != "verify" else says[:1])
    assert json.loads((path / "manifest.json").read_text())["schema_version"] == 9
    done("build-hints", *here(run), "--force")
    done(*command, "--force")


def test_an_edited_manifest_is_refused(run):
    manifest = of(run, "rollouts", iteration=0) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"temperature": 1.0', '"temperature": 0.5'))
    refused(3, "score-ref", *here(run), "--rollouts", manifest.parent, says=("is damaged or was edited", "checksum"))


def test_scores_of_other_rollouts(run):
    first, second, scores = of(run, "rollouts", iteration=0), of(run, "rollouts", iteration=1), of(run, "scores")
    command = ("train", *here(run), "--policy", of(run, "policy"), "--rollouts", second, "--scores")
    says = ("made from other rollouts", "score-ref --rollouts", Artifact.open(first).content_hash[:8])
    refused(3, *command, scores, "--dry-run", says=says)
    refused(3, *command, scores, says=says)
    right = done("score-ref", *here(run), "--rollouts", second).path
    assert Artifact.open(done(*command, right).path).manifest.counts["iteration"] == 2


def test_rollouts_of_another_policy(run):
    command = ("train", *here(run), "--rollouts", of(run, "rollouts", iteration=0), "--scores", of(run, "scores"))
    wrong = ("--policy", of(run, "policy"))
    for dry in ((), ("--dry-run",)):
        refused(3, *command, *wrong, *dry, says=("come from another policy", "ptdpo rollout --policy"))
    assert ptdpo(*command).code == 0


def test_rollouts_of_other_problems(run):
    rollouts, scores = of(run, "rollouts", iteration=0), of(run, "scores")
    for command in (("score-ref",), ("train", "--scores", scores)):
        refused(3, *command, *here(run), "--rollouts", rollouts, "--set", "seed=5", says=("made from other problems",))


def test_another_run_scores_what_lies_here(run, tmp_path):
    """The problems are made anew there, and are the same; a dry run cannot say so without making them."""
    rollouts, hints = of(run, "rollouts", iteration=0), of(run, "hints")
    command = ("score-ref", *here(tmp_path / "other"), "--rollouts", rollouts, "--hints")
    done(*command, hints, "--dry-run")
    assert not (tmp_path / "other").exists()
    refused(3, *command[:-1], "--dry-run", says=("no hints for these problems", "--hints DIR"))
    assert Artifact.open(done(*command, hints).path).content_hash == Artifact.open(of(run, "scores")).content_hash
    refused(3, *command[:-1], says=("no hints for these problems", "--hints DIR"))


def test_scores_are_needed_and_of_this_temperature_and_teacher(run):
    rollouts, scores = of(run, "rollouts", iteration=0), of(run, "scores")
    command = ("train", *here(run), "--rollouts", rollouts)
    for dry in ((), ("--dry-run",)):
        refused(3, *command, *dry, says=("this recipe needs scores", "ptdpo score-ref"))
        refused(3, *command, "--scores", scores, "--set", "teacher.top_k=5", *dry, says=("with another teacher",))
        refused(3, *command, "--scores", scores, "--set", "train.kl_weight=0.1", *dry, says=("no reference log-probs",))
        refused(3, *command, "--scores", rollouts, *dry, says=("another kind of artifact",))
        refused(2, "train", *here(run), "--scores", scores, *dry, says=("--scores needs --rollouts",))


def test_a_policy_of_another_tokenizer(run, tmp_path):
    other = shutil.copytree(TINY_BASE, tmp_path / "other")
    (other / "manifest.json").unlink()      # no artifact any more, just a model in a folder
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    merges = tokenizer["model"]["merges"]
    merges[-1], merges[-2] = merges[-2], merges[-1]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    rollouts, scores = of(run, "rollouts", iteration=0), of(run, "scores")
    for dry in ((), ("--dry-run",)):
        refused(3, "score-ref", *here(run), "--rollouts", rollouts, "--set", f"model.path={other}", *dry,
                says=("made with another tokenizer", "expected", "found"))
        refused(3, "train", *here(run), "--rollouts", rollouts, "--scores", scores, "--policy", other, *dry,
                says=("made with another tokenizer",))


def test_a_model_that_is_none(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for dry in ((), ("--dry-run",)):
        refused(2, "rollout", *here(run), "--policy", tmp_path / "empty", *dry, says=("is not a model", "config.json"))
        refused(2, "rollout", *here(run), "--policy", tmp_path / "none", *dry, says=("cannot load", "tiny-base"))


def test_what_is_not_there(run, tmp_path):
    for command in (("status", tmp_path / "none"), ("verify", tmp_path / "none"), ("show", tmp_path / "none"),
                    ("compare", tmp_path / "none", run / "evals"), ("show", run),
                    ("train", *here(run), "--rollouts", tmp_path / "none", "--scores", of(run, "scores")),
                    ("score-ref", *TINY, "--run", tmp_path / "new"), ("score-ref", *here(run)),     # two: which one?
                    ("score-ref", *here(run), "--rollouts", tmp_path / "none")):
        refused(3, *command)
        if command[0] in ("train", "score-ref"):
            refused(3, *command, "--dry-run")
    assert not (tmp_path / "new" / "rollouts").exists()


def test_eval_before_training_finished(tmp_path):
    run = tmp_path / "run"
    for dry in ((), ("--dry-run",), ()):
        refused(3, "eval", *here(run), *dry, says=("the policy of this recipe is not finished", "ptdpo train"))
    done("train", *here(run), "--set", "train.iterations=1")
    refused(3, "eval", *here(run), says=("v1-", "--policy"))
    refused(3, "eval", *here(run), "--dry-run", says=("v1-", "--policy"))
    done("eval", *here(run), "--set", "train.iterations=1", "--dry-run")
    done("eval", *here(run), "--set", "train.iterations=1")


def test_evals_of_different_problems_are_not_compared(run):
    done("eval", *here(run), "--policy", "tiny-base", "--set", "eval.count=3")
    one, other = store.artifact_paths(run / "evals")
    refused(3, "compare", one, other, says=("different problems", "same split, count and seed"))
    refused(3, "compare", run / "evals", one, says=("several artifacts", "name one of them"))


# --- places, disks, other writers, signals ----------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for dry in ((), ("--dry-run",)):
        refused(1, "build-hints", *TINY, "--run", tmp_path / "file" / "run", *dry, says=("is in the way", "--run"))
        refused(1, "build-hints", *TINY, "--run", tmp_path / "file", *dry, says=("is in the way", "--run"))
    refused(1, "build-hints", *TINY, "--run", "/proc/none", says=("/proc/none",))


def test_a_full_disk_keeps_what_is_finished(run, monkeypatch):
    """ENOSPC once the first shard is on disk, then room again: the second shard alone is sampled."""
    rollouts = Artifact.open(of(run, "rollouts", iteration=0))
    sampled, write = count_samples(monkeypatch), store._write_synced

    def full(path, content):
        if "-00001." in path.name:
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(store, "_write_synced", full)
    refused(1, "rollout", *here(run), "--force", says=("the disk is full", "make room"))
    done("verify", run)
    assert Artifact.open(rollouts.path).content_hash == rollouts.content_hash     # the old one, untouched
    shutil.rmtree(rollouts.path)
    refused(1, "rollout", *here(run), says=("the disk is full",))
    refused(3, "score-ref", *here(run), "--rollouts", rollouts.path, says=("is not finished", "1 finished shards"))
    monkeypatch.setattr(store, "_write_synced", write)
    before = len(sampled)
    assert Artifact.open(done("rollout", *here(run)).path).content_hash == rollouts.content_hash
    assert len(sampled) == before + 1


def test_a_full_disk_under_the_weights(run):
    """The kernel refuses bytes beyond a limit; safetensors, in Rust, reports it in a class of its own."""
    command = one_update(run)
    policy = Artifact.open(of(run, "policy"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        refused(1, *command, says=("the disk is full",))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    done("verify", run)
    assert Artifact.open(done(*command).path).content_hash == policy.content_hash


def test_a_second_writer_waits_its_turn(run):
    path = of(run, "hints")
    with Lock(store.lock_file(path)):
        says = ("another process is writing", f"pid {os.getpid()}", "kill")
        refused(4, "build-hints", *here(run), "--force", says=says)
        assert "is being written" not in done("verify", run).err
    done("build-hints", *here(run), "--force")


def count_samples(monkeypatch) -> list:
    """Grows by one with every call of the engine."""
    calls, sample = [], HfEngine.sample

    def counted(self, *arguments):
        calls.append(1)
        return sample(self, *arguments)

    monkeypatch.setattr(HfEngine, "sample", counted)
    return calls


@pytest.mark.parametrize(("number", "code", "says"), [
    (signal.SIGINT, 130, "interrupted; run the same command again"),
    (signal.SIGTERM, 143, "terminated; what was finished is saved"),
])
def test_a_signal_ends_a_stage_between_shards_and_it_goes_on_from_there(number, code, says, run, monkeypatch):
    whole = Artifact.open(of(run, "rollouts", iteration=0))
    shutil.rmtree(whole.path)
    sample, calls = HfEngine.sample, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return sample(self, *arguments)

    monkeypatch.setattr(HfEngine, "sample", interrupted)
    ended = ptdpo("rollout", *here(run))
    assert (ended.code, ended.out) == (code, "") and says in ended.err and "Traceback" not in ended.err
    for command in (("verify", whole.path), ("show", whole.path),
                    ("score-ref", *here(run), "--rollouts", whole.path), ("eval", *here(run), "--policy", whole.path)):
        assert ptdpo(*command).code in (2, 3)
    assert Artifact.open(done("rollout", *here(run)).path).content_hash == whole.content_hash
    assert len(calls) == 3


@pytest.mark.parametrize("moment", ["_step", "save_policy"])
def test_a_signal_in_an_update_or_a_checkpoint_waits_for_its_end(moment, tmp_path, monkeypatch):
    """The policy on disk, its metrics line and the exit code agree, and the run ends as an unbroken one."""
    whole = done("train", *here(tmp_path / "whole")).path
    work, calls = getattr(train, moment), []

    def interrupted(*arguments, **named):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return work(*arguments, **named)

    monkeypatch.setattr(train, moment, interrupted)
    ended = ptdpo("train", *here(tmp_path / "run"))
    assert ended.code == 143, ended.err
    saved = Artifact.open(tmp_path / "run", kind="policy").manifest.counts["iteration"]
    assert len(read_metrics(tmp_path / "run" / "logs" / "metrics.jsonl")) == saved > 0
    again = done("train", *here(tmp_path / "run")).path
    assert Artifact.open(again).content_hash == Artifact.open(whole).content_hash
    assert len(read_metrics(tmp_path / "run" / "logs" / "metrics.jsonl")) == 3


def test_ctrl_c_in_a_shell(tmp_path):
    """The real thing: a process of its own, in its third iteration or so, and the work goes on where it was."""
    rarely = ("--set", "train.checkpoint_every=1000")
    long = [str(word).replace("iterations=3", "iterations=500") for word in (*here(tmp_path / "run"), *rarely)]
    process = subprocess.Popen([sys.executable, "-m", "ptdpo_cli", "train", *long],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "logs" / "metrics.jsonl"
    try:
        while process.poll() is None and (not metrics.is_file() or len(metrics.read_text().splitlines()) < 2):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err == "interrupted; run the same command again to go on from what is finished\n"
    n_done = Artifact.open(tmp_path / "run", kind="policy").manifest.counts["iteration"]
    ended = done("train", *TINY, "--run", tmp_path / "run", *rarely, "--set", f"train.iterations={n_done + 1}")
    assert f"going on after iteration {n_done}" in ended.err
    done("verify", tmp_path / "run")


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "says"), [
    ("frobnicate", ("No such command 'frobnicate'", "`ptdpo --help`")),
    ("train --nope", ("No such option: --nope", "`ptdpo train --help`")),
    ("train --set", ("--set", "requires an argument")),
    ("train --set x", ("--set takes section.key=value", "found     x")),
    ("train --set trian.iterations=1", ("the nearest key of the top level is train",)),
    ("train --recipe nope.yaml", ("no recipe at nope.yaml", "tiny.yaml")),
    ("verify", ("Missing argument",)),
    ("compare one", ("Missing argument",)),
    ("build-hints --limit 0", ("--limit", "greater than or equal to 1")),
    ("build-hints --limit many", ("--limit", "valid integer")),
    ("eval --n -1", ("--n",)),
    ("eval --temperature 0", ("eval.temperature", "greater than 0")),
    ("build-hints --data nope.jsonl", ("no data set or file called nope.jsonl",)),
    ("build-hints --data digit-gird", ("did you mean digit-grid?",)),
    ("build-hints extra", ("unexpected extra argument",)),
])
def test_usage(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = ptdpo(*words.split())
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ") and "\nhint: " in ended.err and "Traceback" not in ended.err
    assert all(part in ended.err for part in says), ended.err
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_foresaw_is_one_message_and_a_traceback_on_demand(tmp_path, monkeypatch):
    def bug(*arguments, **named):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("ptdpo_cli.stages.workspace.plan_build_hints", bug)
    ended = ptdpo("build-hints", *TINY, "--run", tmp_path)
    assert ended.code == 1 and "unexpected ZeroDivisionError: a fault of ours" in ended.err
    assert "--debug" in ended.err and "Traceback" not in ended.err
    for debug in ("--debug",), ():
        if not debug:
            monkeypatch.setenv("PTDPO_DEBUG", "1")
        with pytest.raises(ZeroDivisionError):
            ptdpo("build-hints", *TINY, "--run", tmp_path, *debug)


@pytest.mark.parametrize(("error", "says"), [
    (MemoryError(), "out of memory"),
    (OSError(28, "No space left on device"), "the disk is full"),
    (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
    (PermissionError(13, "Permission denied", "/x.jsonl"), "cannot read or write /x.jsonl: Permission denied"),
    (OSError(30, "Read-only file system", "/mnt/x"), "cannot read or write /mnt/x: Read-only file system"),
    (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "tokens_per_micro_batch"),
])
def test_what_the_system_reports_is_said_in_our_words(error, says, tmp_path, monkeypatch):
    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr("ptdpo_cli.stages.workspace.plan_build_hints", fail)
    refused(1, "build-hints", *TINY, "--run", tmp_path, says=(says,))
