"""regrade: new verdicts on old text, the same tensors, what changed, and rollouts that can still be trained on."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from command import TINY, done, ptdpo, refused
from judges import says, stub_judge
from ptdpo_cli.artifacts import schemas, store
from ptdpo_cli.artifacts.problems import problems_table
from ptdpo_cli.artifacts.schemas import EVALS, ROLLOUTS, Problem
from ptdpo_cli.artifacts.store import Artifact, Writer
from ptdpo_cli.artifacts.tensors import offsets_of

RULES = ("--set", "reward.extraction=[boxed,tag]")

# text, finish_reason, and then by hand: outcome by the box alone, outcome by the box or the tag. The reference is 7.
CASES = [
    (r"So \boxed{7}", "stop", "right", "right"),
    (r"So \boxed{8}", "stop", "wrong", "wrong"),
    ("<answer>7</answer>", "stop", "no_answer", "right"),
    ("<answer>9</answer>", "stop", "no_answer", "wrong"),
    ("<answer>7</answer> so so", "length", "truncated", "truncated"),
    (r"<think>\boxed{7}", "stop", "no_answer", "no_answer"),
]


def made(run: Path, kind: str, tables: dict, *, inputs: dict, section: dict, tensors=None, shards: int = 1) -> Artifact:
    """An artifact as a stage would leave it."""
    key = store.manifests.sha256(json.dumps([kind, section, inputs]).encode())
    given = {"stage": "test", "section": section, "inputs": inputs, "seed": 0, "policy_hash": "0" * 64}
    with Writer(run, kind, key=key, **given) as writer:
        for shard in range(shards):
            writer.write_shard(shard, tables=tables[shard], tensors=tensors and tensors[shard])
        extra = {"summary": {}} if kind == "evals" else {}
        return writer.finish(counts={"problems": shards, "correct": -1, "truncated": shards}, extra=extra)


def problems_in(run: Path, count: int = 2) -> Artifact:
    rows = [Problem(f"set/{n}", "How many?", (), "7", source="set", family=f"f{n}") for n in range(count)]
    problems, images = problems_table(rows)
    return made(run, "problems", [{"problems": problems, "images": images}], inputs={}, section={"n": count})


def case_row(number: int, text: str, reason: str, outcome: str) -> dict:
    """What the box alone gave."""
    extracted = {"right": "7", "wrong": "8"}.get(outcome)
    return {
        "problem_id": f"set/{number}", "text": text, "finish_reason": reason, "response_tokens": len(text),
        "extracted": extracted, "accuracy": float(outcome == "right"), "format": 0.0, "outcome": outcome,
        "extracted_by": extracted and "boxed",
    }


def rollouts_in(run: Path, schema: pa.Schema = ROLLOUTS) -> Artifact:
    """Two shards of one problem each, with every case in both."""
    problems = problems_in(run)
    tables, tensors = [], []
    for number in range(2):
        rows = [
            case_row(number, text, reason, outcome)
            | {"rollout_id": f"set/{number}/{i}", "rollout": i, "prompt_tokens": 5, "image_tokens": 0,
               "reward": 0.9 * (outcome == "right")}
            for i, (text, reason, outcome, _) in enumerate(CASES)
        ]
        lengths = [row["response_tokens"] for row in rows]
        tables.append({"rollouts": pa.Table.from_pylist(rows, schema=schema)})
        tensors.append({"rollouts": {
            "offsets": offsets_of(lengths),
            "token_ids": np.arange(sum(lengths), dtype=np.int32) + number,
            "sampler_logprobs": -np.ones(sum(lengths), np.float32),
            "sampler_top_ids": np.zeros((sum(lengths), 0), np.int32),
        }})
    section = {"rollout": {"max_new_tokens": 64, "temperature": 1.0}, "reward": {}, "iteration": 3, "top_ids": 0}
    inputs = {"problems": problems.content_hash}
    return made(run, "rollouts", tables, inputs=inputs, section=section, tensors=tensors, shards=2)


def evals_in(run: Path, *, judge: dict | None = None, rows=None) -> Artifact:
    problems = problems_in(run)
    rows = rows or [
        case_row(number, text, reason, outcome) | {"sample": i - 1, "answer": "7", "answer_type": "integer"}
        for number in range(2) for i, (text, reason, outcome, _) in enumerate(CASES)
    ]
    section = {"eval": {"samples": 5, "extraction": ["boxed"], "bootstrap_resamples": 100}, "limit": None}
    tables = [{"evals": pa.Table.from_pylist(rows, schema=EVALS)}]
    section |= {"judge": judge} if judge else {}
    return made(run, "evals", tables, inputs={"problems": problems.content_hash}, section=section)


@pytest.fixture
def run(tmp_path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("seed: 0\n")
    return run


def outcomes(artifact: Artifact) -> list[str]:
    return [row["outcome"] for row in artifact.table(artifact.manifest.kind).to_pylist()]


# --- verdicts by hand -------------------------------------------------------------------------------------------------


def test_rollouts_get_the_verdicts_of_the_new_rules_and_keep_the_rest(run):
    old = rollouts_in(run)
    ended = done("regrade", old.path, *RULES, "--set", "reward.accuracy_weight=0.5")
    new = Artifact.open(ended.path)
    assert new.path != old.path and new.path.parent == old.path.parent
    assert outcomes(new) == [after for *_, after in CASES] * 2
    rows, before = (one.table("rollouts").to_pylist() for one in (new, old))
    verdict = {"extracted", "extracted_by", "outcome", "accuracy", "format", "reward", "terms", "agreed"}
    for row, was, (*_, after) in zip(rows, before, CASES * 2, strict=True):
        assert {name: row[name] for name in row.keys() - verdict} == {name: was[name] for name in was.keys() - verdict}
        assert row["accuracy"] == (after == "right")
        assert row["reward"] == pytest.approx(0.5 * row["accuracy"] + 0.1 * row["format"])
    manifest = new.manifest
    assert manifest.inputs == {"rollouts": old.content_hash, "problems": old.manifest.inputs["problems"]}
    assert manifest.stage == "regrade" and manifest.policy_hash == old.manifest.policy_hash
    assert manifest.section["rollout"] == old.manifest.section["rollout"] and manifest.section["iteration"] == 3
    assert manifest.section["reward"]["extraction"] == ["boxed", "tag"]
    assert manifest.counts == {"problems": 2, "truncated": 2, "correct": 4}


def test_the_tensors_are_the_same_files(run):
    old = rollouts_in(run)
    new = Artifact.open(done("regrade", old.path, *RULES).path)
    for shard in range(2):
        name = f"rollouts-{shard:05d}.safetensors"
        assert os.path.samefile(old.path / name, new.path / name)
    assert done("verify", new.path)


def test_what_changed_is_counted_and_listed(run):
    """By hand, per problem: case 2 becomes right, case 3 wrong with an answer, the other four stay."""
    old = rollouts_in(run)
    found = done("regrade", old.path, *RULES, "--json").json
    assert (found["rows"], found["changed"], found["wrong_to_right"], found["right_to_wrong"]) == (12, 4, 2, 0)
    assert found["outcomes"] == {"no_answer → right": 2, "no_answer → wrong": 2}
    assert (found["extracted_otherwise"], found["rewards_changed"]) == (4, 2)
    assert [one["id"] for one in found["changes"]] == ["set/0/2", "set/0/3", "set/1/2", "set/1/3"]
    assert found["changes"][1] == {
        "id": "set/0/3", "answer": "7",
        "old": {"extracted": None, "outcome": "no_answer", "accuracy": 0.0},
        "new": {"extracted": "9", "outcome": "wrong", "accuracy": 0.0},
    }
    back = done("regrade", found["path"], "--json").json
    assert (back["wrong_to_right"], back["right_to_wrong"], back["changed"]) == (0, 2, 4)


def test_the_listing_shows_the_first_rows_and_says_how_many_more(run):
    old = rollouts_in(run)
    ended = done("regrade", old.path, *RULES, "--limit", 1)
    assert "4 verdicts changed of 12: 2 wrong → right, 0 right → wrong" in ended.err
    assert "set/0/2" in ended.err and "set/0/3" not in ended.err and "and 3 more" in ended.err
    assert ended.out == f"{ended.path}\n"
    assert done("regrade", old.path, *RULES, "-q").err == ""


def test_equal_rules_make_an_artifact_too_and_say_that_nothing_changed(run):
    old = rollouts_in(run)
    ended = done("regrade", old.path)
    assert "0 verdicts changed of 12" in ended.err
    new = Artifact.open(ended.path)
    assert new.content_hash != old.content_hash and outcomes(new) == outcomes(old)
    again = done("regrade", old.path)
    assert again.path == ended.path and "already done" in again.err and "0 verdicts changed" in again.err
    assert Artifact.open(done("regrade", old.path, "--force").path).content_hash == new.content_hash


def test_a_dry_run_lists_the_same_and_writes_nothing(run):
    old = rollouts_in(run)
    before = sorted(run.rglob("*"))
    dry = done("regrade", old.path, *RULES, "--dry-run", "--json").json
    assert sorted(run.rglob("*")) == before
    shown = done("regrade", old.path, *RULES, "--dry-run")
    assert "4 verdicts changed of 12" in shown.out and shown.err == ""
    wet = done("regrade", old.path, *RULES, "--json").json
    assert {name: wet[name] for name in dry} == dry


def test_an_evaluation_gets_its_summary_anew(run):
    old = evals_in(run)
    ended = done("regrade", old.path, "--set", "eval.extraction=[boxed,tag]", "--json")
    new = Artifact.open(ended.json["path"])
    assert outcomes(new) == [after for *_, after in CASES] * 2
    summary = new.manifest.extra["summary"]
    assert summary["greedy"]["accuracy"] == 1.0         # the first case of each problem
    assert summary["sampled"]["accuracy"] == pytest.approx(1 / 5)
    assert ended.json["summary"] == summary
    row = new.table("evals").to_pylist()[0]
    assert (row["source"], row["family"], row["answer"], row["sample"]) == ("set", "f0", "7", -1)
    assert ended.json["changes"][0]["id"] == "set/0/1"
    assert done("compare", old.path, new.path)


def test_the_rules_are_those_of_the_stored_recipe_or_of_another(run, tmp_path):
    old = rollouts_in(run)
    (run / "recipe.yaml").write_text("reward: {extraction: [boxed, tag]}\n")
    assert done("regrade", old.path, "--json").json["changed"] == 4
    (tmp_path / "other.yaml").write_text("reward: {extraction: [boxed]}\n")
    assert done("regrade", old.path, "--recipe", tmp_path / "other.yaml", "--json").json["changed"] == 0


def test_artifacts_from_before_outcomes_were_kept(run, monkeypatch):
    """Their rows have the first columns of the schema alone; the outcome before is read off the others."""
    older = pa.schema([field for field in ROLLOUTS if field.name not in ("extracted_by", "outcome", "agreed", "terms")])
    with monkeypatch.context() as patch:
        patch.setitem(schemas.TABLES, "rollouts", older)
        old = rollouts_in(run, older)
    assert "outcome" not in old.table("rollouts").column_names
    found = done("regrade", old.path, *RULES, "--json").json
    assert found["outcomes"] == {"no_answer → right": 2, "no_answer → wrong": 2} and found["changed"] == 4


def test_a_killed_regrade_goes_on(run, monkeypatch):
    old = rollouts_in(run)
    whole = Artifact.open(done("regrade", old.path, *RULES).path)
    shutil.rmtree(whole.path)
    real = Writer.write_shard

    def killed(writer, shard, **given):
        if shard == 1:
            raise KeyboardInterrupt
        real(writer, shard, **given)

    monkeypatch.setattr(Writer, "write_shard", killed)
    assert ptdpo("regrade", old.path, *RULES).code == 130
    monkeypatch.setattr(Writer, "write_shard", real)
    assert Artifact.open(done("regrade", old.path, *RULES).path).content_hash == whole.content_hash


# --- a judged evaluation ----------------------------------------------------------------------------------------------


def judged_row(extracted: str, outcome: str, accuracy: float | None, judge: str | None) -> dict:
    return case_row(0, f"\\boxed{{{extracted}}}", "stop", "wrong") | {
        "extracted": extracted, "outcome": outcome, "accuracy": accuracy, "judge": judge, "sample": -1, "answer": "7",
        "answer_type": "integer",
    }


def test_the_former_judge_is_asked_again_and_no_rule_takes_its_place(run):
    """Seven and VII: a judge found the first right; it failed at the second. The recipe names no judge."""
    rows = [judged_row("seven", "right", 1.0, "right, says x"), judged_row("VII", "unjudged", None, "HTTP 500")]
    with stub_judge(lambda number, body: says("right")) as stub:
        judge = {"model": "m", "url": stub.url, "answer_types": ["integer"], "prompt_sha256": "0" * 64}
        old = evals_in(run, judge=judge, rows=rows)
        refused(2, "regrade", old.path, "--dry-run", says=("asks no judge",))
        assert not stub.bodies
        found = done("regrade", old.path, "--json").json
        assert found["outcomes"] == {"unjudged → right": 1} and (found["changed"], found["wrong_to_right"]) == (1, 0)
        assert len(stub.bodies) == 2
        new = Artifact.open(found["path"])
        assert new.manifest.extra["judge"]["reported_models"] == ["stub-1.2"]
        assert (new.manifest.counts["judged"], new.manifest.counts["unjudged"]) == (2, 0)
        done("regrade", new.path)
        assert len(stub.bodies) == 2        # what was paid for is kept


def test_a_judge_can_be_named_for_answers_that_rules_have_graded(run):
    with stub_judge(lambda number, body: says("wrong")) as stub:
        old = evals_in(run)
        named = ("--judge", "m", "--judge-url", stub.url, "--set", "eval.judge.answer_types=[integer]")
        found = done("regrade", old.path, *named, "--json").json
    assert found["right_to_wrong"] == 2
    assert outcomes(Artifact.open(found["path"]))[:2] == ["wrong", "wrong"]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_what_has_no_verdicts_is_refused(run):
    problems = problems_in(run)
    refused(3, "regrade", problems.path, says=("have no verdicts", "rollouts or evals"))
    refused(3, "regrade", run, says=("is not an artifact",))
    refused(3, "regrade", run / "rollouts" / "v1-00000000")


def test_rollouts_without_their_problems_are_refused(run):
    old = rollouts_in(run)
    shutil.rmtree(run / "problems")
    refused(3, "regrade", old.path, says=("the problems of", "are not in its run"))


def test_a_run_without_a_recipe_needs_one(run):
    old = rollouts_in(run)
    (run / "recipe.yaml").unlink()
    refused(2, "regrade", old.path, says=("recipe.yaml", "--recipe"))


def test_a_changed_tensor_is_not_taken_over(run):
    old = rollouts_in(run)
    path = old.path / "rollouts-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refused(3, "regrade", old.path, *RULES, says=("rollouts-00001.safetensors",))


# --- the stages after it ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("regrade") / "run"
    for stage in ("build-hints", "rollout"):
        done(stage, *TINY, "--run", run)
    return run


def trained(run: Path, rollouts: Path) -> Artifact:
    scores = done("score-ref", *TINY, "--run", run, "--rollouts", rollouts).path
    return Artifact.open(done("train", *TINY, "--run", run, "--rollouts", rollouts, "--scores", scores).path)


def test_regraded_rollouts_are_scored_and_trained_on(sampled):
    """Under equal rules they lead to the same weights; where all are wrong, every one of them is gated."""
    old = Artifact.open(sampled / "rollouts").path
    equal = done("regrade", old).path
    refused(3, "score-ref", *TINY, "--run", sampled, says=("several",))
    assert trained(sampled, equal).manifest.extra["weights"] == trained(sampled, old).manifest.extra["weights"]

    strict = ("--set", "reward.extraction=[tag]")
    changed = done("regrade", old, *strict).path
    scores = Artifact.open(done("score-ref", *TINY, *strict, "--run", sampled, "--rollouts", changed).path)
    counts = Artifact.open(changed).manifest.counts
    assert counts["correct"] == 0 and scores.manifest.counts["gated"] == scores.manifest.counts["rollouts"]
    done("train", *TINY, *strict, "--run", sampled, "--rollouts", changed, "--scores", scores.path)


def test_the_chain_by_iteration_finds_the_rollouts_that_were_sampled(sampled):
    """A regraded copy beside them is named by its path; it never stands in for what a recipe samples."""
    done("regrade", Artifact.open(_sampled(sampled)).path)
    again = done("rollout", *TINY, "--run", sampled)
    assert "already done" in again.err and again.path == _sampled(sampled)
    scores = Artifact.open(done("score-ref", *TINY, "--run", sampled, "--iteration", 0).path)
    assert scores.manifest.inputs["rollouts"] == Artifact.open(_sampled(sampled)).content_hash


def _sampled(run: Path) -> Path:
    found = [path for path in (run / "rollouts").iterdir() if (path / "manifest.json").is_file()]
    return next(path for path in found if Artifact.open(path).manifest.stage == "rollout")


def test_the_other_terms_of_a_reward_count_again(run):
    """The share of words that repeat an earlier one; one case repeats its word."""
    old = rollouts_in(run)
    found = done("regrade", old.path, "--set", "reward.repetition={weight: 0.5, ngram: 1}", "--json").json
    assert found["changed"] == 0
    rows = Artifact.open(found["path"]).table("rollouts").to_pylist()
    for row in rows:
        words = row["text"].split()
        repeated = 1 - len(set(words)) / len(words)
        assert json.loads(row["terms"])["repetition"] == pytest.approx(-repeated)


def test_limit_of_the_overlong_penalty_is_that_of_the_sampling(run):
    """These were sampled with max_new_tokens 64: a buffer of 60 begins at 4 tokens, whatever the recipe says."""
    old = rollouts_in(run)
    rule = ("--set", "reward.overlong={buffer_tokens: 60}", "--set", "rollout.max_new_tokens=4096")
    rows = Artifact.open(done("regrade", old.path, *rule).path).table("rollouts").to_pylist()
    for row in rows:
        assert json.loads(row["terms"])["overlong"] == pytest.approx(-max(0, row["response_tokens"] - 4) / 60)
