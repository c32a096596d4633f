"""export: every field as lmms-eval 0.7.3 and VLMEvalKit (ms-vlmeval 0.0.20) write and read it, from their sources.

lmms-eval: `loggers/evaluation_tracker.py` (what a line holds, which lists are unwrapped), `evaluator.py` (where it
comes from), `baselines/loader.py` and `tui/server.py` (what is read, and by which file names), `api/reasoning.py`.
VLMEvalKit: `smp/file.py` (file name, suffix, how pandas reads it), `inference.py` (the columns), `dataset/image_mcq.py`
and `dataset/utils/` (what the scoring asks of them).
"""

import ast
import hashlib
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from command import TINY, done, refused
from ptdpo_cli.artifacts.problems import problems_table
from ptdpo_cli.artifacts.schemas import EVALS, Problem
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.stages.export import _without_thought
from test_regrade import made

VISTA = {"question_type": "multi_choice", "answer_type": "text", "task": "t", "skills": ["a", "b"]}
STAR = {"category": "math", "l2_category": "geometry"}
PROBLEMS = [
    Problem("mv/1", 'Which\tone\nis "it"?', (), "B", "x", answer_type="choice", choices=("a cat", "ein Hund, größer"),
            source="mathvista", split="testmini", metadata=VISTA),
    Problem("mv/skipped", "Too long a prompt?", (), "1", source="mathvista", split="testmini"),
    Problem("mv/2", "How many?", (), "7", "y", source="mathvista", split="testmini",
            metadata={"answer_type": "integer"}),
    Problem("ms/1", "A: x B: y C: z", (), "C", answer_type="choice", choices=("x", "y", "z"), source="mmstar",
            metadata=STAR),
    Problem("ms/2", "A: x B: y", (), "A", answer_type="choice", choices=("x", "y"), source="mmstar", metadata=STAR),
    Problem("own/1", "Own?", (), "yes", answer_type="text", source="my data/set"),
]
# problem, sample, text, extracted, accuracy, outcome
ANSWERS = [
    ("mv/1", -1, '<think>hm\t"x"\n</think>\nB', "B", 1.0, "right"),
    ("mv/2", -1, "7", "7", 1.0, "right"),
    ("ms/1", -1, "The answer is C", "C", 1.0, "right"),
    ("ms/2", -1, "B", "B", 0.0, "wrong"),
    ("own/1", -1, "perhaps", None, None, "unjudged"),
    ("mv/1", 0, "A", "A", 0.0, "wrong"), ("mv/1", 1, "It is B", "B", 1.0, "right"),
    ("mv/2", 0, "I say \\boxed{7}", "7", 1.0, "right"), ("mv/2", 1, "?", None, None, "unjudged"),
    ("ms/1", 0, "C\rD", None, 0.0, "no_answer"), ("ms/1", 1, "x</think>C", "C", 1.0, "right"),
    ("ms/2", 0, "<think>A", None, 0.0, "no_answer"), ("ms/2", 1, "A", "A", 1.0, "right"),
    ("own/1", 0, "no", None, None, "unjudged"), ("own/1", 1, "yes", "yes", 1.0, "right"),
]


@pytest.fixture(scope="module")
def evals(tmp_path_factory) -> Artifact:
    run = tmp_path_factory.mktemp("export") / "run"
    run.mkdir()
    table, images = problems_table(PROBLEMS)
    problems = made(run, "problems", [{"problems": table, "images": images}], inputs={}, section={})
    rows = [
        {"problem_id": problem, "sample": sample, "text": text, "finish_reason": "stop", "response_tokens": len(text),
         "extracted": extracted, "accuracy": accuracy, "format": 0.0, "outcome": outcome}
        for problem, sample, text, extracted, accuracy, outcome in ANSWERS
    ]
    section = {"eval": {}, "prompt": {"instruction": "Think first."}}
    tables = [{"evals": pa.Table.from_pylist(rows, schema=EVALS)}]
    return made(run, "evals", tables, inputs={"problems": problems.content_hash}, section=section)


@pytest.fixture(scope="module")
def files(evals, tmp_path_factory) -> dict[str, Path]:
    """Path below OUT -> file."""
    out = tmp_path_factory.mktemp("out")
    formats = ("--format", "lmms-eval", "--format", "vlmevalkit")
    ended = done("export", evals.path, *formats, "--out", out, "--name", "org/model", "--json")
    written = [Path(path) for path in ended.json["files"]]
    assert sorted(written) == sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path for path in written}


def the(files: dict[str, Path], ending: str) -> Path:
    (found,) = [path for name, path in files.items() if name.endswith(ending)]
    return found


def samples(files: dict[str, Path], task: str) -> list[dict]:
    return [json.loads(line) for line in the(files, f"_samples_{task}.jsonl").read_text().splitlines()]


# --- lmms-eval --------------------------------------------------------------------------------------------------------


def test_lmms_eval_finds_its_files_by_name(files, evals):
    """`MODEL/DATE_results.json` with `MODEL/DATE_samples_TASK.jsonl` beside it; DATE as `20261128_094500`."""
    created = evals.manifest.created_utc
    date = created[:10].replace("-", "") + "_" + created[11:19].replace(":", "")
    tasks = ["mathvista", "mathvista_sampled", "mmstar", "mmstar_sampled", "my_data_set", "my_data_set_sampled"]
    expected = {f"lmms-eval/org_model/{date}_samples_{task}.jsonl" for task in tasks}
    expected |= {f"lmms-eval/org_model/{date}_results.json"}
    assert {name for name in files if name.startswith("lmms-eval")} == expected
    results = json.loads(the(files, "_results.json").read_text())
    assert list(results["results"]) == tasks and results["date"] == date and results["model_name"] == "org_model"
    assert results["results"]["mathvista_sampled"]["accuracy,none"] == pytest.approx((0.5 + 1.0) / 2)
    assert results["results"]["my_data_set"]["accuracy,none"] is None
    assert results["n-samples"]["mathvista"] == {"original": 2, "effective": 2}
    assert results["n-samples"]["my_data_set"] == {"original": 1, "effective": 0}


def test_a_greedy_line_has_what_lmms_eval_writes(files):
    """One response: `resps` and `filtered_resps` are unwrapped, and equal ones are written once."""
    first, second = samples(files, "mathvista")
    assert first["doc_id"] == 0 and second["doc_id"] == 2       # places in the data set; one problem had no answer
    assert first["target"] == "B" and first["resps"] == ['<think>hm\t"x"\n</think>\nB']
    assert first["filtered_resps"] == "B" and first["token_counts"] == [{"output_tokens": 24}]
    assert first["input"] == 'Which\tone\nis "it"?\n\nThink first.'
    assert "resps" not in second and second["filtered_resps"] == "7"
    assert (first["score"], first["extracted"], first["outcome"]) == (1.0, ["B"], ["right"])
    assert first["problem_id"] == "mv/1"
    assert "arguments" not in first and "doc" not in first      # lmms-eval drops both before it writes
    for line in (first, second):
        assert len(bytes.fromhex(line["doc_hash"])) == 32
    assert first["doc_hash"] != second["doc_hash"]


def test_a_line_of_several_samples_nests_them_as_repeats(files):
    first, second = samples(files, "mmstar_sampled")
    assert first["resps"] == [["C\rD"], ["x</think>C"]] and first["filtered_resps"] == ["C\rD", "C"]
    assert first["outcome"] == ["no_answer", "right"] and first["score"] == 0.5
    assert second["resps"] == [["<think>A"], ["A"]] and second["filtered_resps"] == ["<think>A", "A"]
    assert [len(line["token_counts"]) for line in (first, second)] == [2, 2]


def baseline_scores(lines: list[dict]) -> dict:
    """How `baselines/loader.py` reads a score: the first numeric field with "score" in its name, else by comparing."""
    scores = {}
    for line in lines:
        named = [value for name, value in line.items() if "score" in name.lower() and isinstance(value, int | float)]
        compared = float(str(line["filtered_resps"]).strip().upper() == line["target"].strip().upper())
        scores[line["doc_id"]] = float(named[0]) if named else compared
    return scores


def test_lmms_eval_reads_our_scores_and_makes_none_of_its_own(files):
    assert baseline_scores(samples(files, "mathvista")) == {0: 1.0, 2: 1.0}
    assert baseline_scores(samples(files, "mathvista_sampled")) == {0: 0.5, 2: 1.0}     # of the one that has a verdict
    assert baseline_scores(samples(files, "mmstar_sampled")) == {0: 0.5, 1: 0.5}
    assert baseline_scores(samples(files, "my_data_set")) == {}
    assert baseline_scores(samples(files, "my_data_set_sampled")) == {0: 1.0}


def test_task_hashes_are_over_the_documents(files):
    """`evaluation_tracker.py`: sha256 of `sample_0<doc_hash>sample_1<doc_hash>…`."""
    results = json.loads(the(files, "_results.json").read_text())
    joined = "".join(f"sample_{i}{line['doc_hash']}" for i, line in enumerate(samples(files, "mmstar")))
    assert results["task_hashes"]["mmstar"] == hashlib.sha256(joined.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "kept"),
    [   # what `strip_reasoning_tags` of lmms-eval 0.7.3 returned for these, stripped
        ("a", "a"), ("<think>x</think>a", "a"), ("x</think>a", "a"), ("<think>a", "<think>a"), ("", ""),
        ("<think>a</think>b<think>c</think>d", "bd"), ("<think>a</think>b<think>c", "b<think>c"),
        ("a</think>b</think>c", "c"), ("</think>", ""), ("x</think><think>a</think> b", "b"),
        ("<think>a<think>b</think>c</think>d", "d"), ("x</think>y<think>z", "x</think>y<think>z"),
    ],
)
def test_thoughts_are_cut_off_as_lmms_eval_does(text, kept):
    assert _without_thought(text) == kept


# --- VLMEvalKit -------------------------------------------------------------------------------------------------------


def load(path: Path) -> pd.DataFrame:
    """VLMEvalKit's reader of this suffix, in full."""
    return pd.read_csv(path, sep="\t")


def test_vlmevalkit_finds_its_files_by_name(files):
    """`MODEL_DATASET.tsv`, with VLMEvalKit's name of the data set; one file per sample."""
    assert {name for name in files if name.startswith("vlmevalkit")} == {
        f"vlmevalkit/org_model/{folder}/org_model_{dataset}.tsv"
        for folder in ("greedy", "sample-0", "sample-1")
        for dataset in ("MathVista_MINI", "MMStar", "my_data_set")
    }


def test_a_prediction_file_reads_back_cell_by_cell(files):
    table = load(the(files, "greedy/org_model_MathVista_MINI.tsv"))
    first, second = table.to_dict("records")
    assert first["question"] == 'Which\tone\nis "it"?' and first["prediction"] == '<think>hm\t"x"\n</think>\nB'
    assert (first["index"], second["index"]) == (0, 2) and table["index"].dtype == "int64"
    assert (first["A"], first["B"], first["answer"]) == ("a cat", "ein Hund, größer", "B")
    assert pd.isna(second["A"]) and str(second["prediction"]) == "7"
    assert (first["category"], first["split"], first["id"]) == ("x", "testmini", "mv/1")
    assert "image" not in table and list(table)[:2] == ["index", "question"] and list(table)[-1] == "prediction"


def test_the_columns_that_scoring_of_mathvista_asks_for(files):
    """`utils/mathvista.py`: question_type, answer_type, answer_option, and choices that read as a Python list."""
    first = load(the(files, "greedy/org_model_MathVista_MINI.tsv")).to_dict("records")[0]
    assert (first["question_type"], first["answer_type"], first["answer_option"]) == ("multi_choice", "text", "B")
    assert ast.literal_eval(first["choices"]) == ["a cat", "ein Hund, größer"]
    assert ast.literal_eval(first["skills"]) == ["a", "b"]


def test_the_columns_that_scoring_of_choices_asks_for(files):
    """`report_acc` groups by split where there is one: a column of empty cells would put every row in none."""
    table = load(the(files, "greedy/org_model_MMStar.tsv"))
    assert "split" not in table
    assert table["l2-category"].tolist() == ["geometry"] * 2 and table["category"].tolist() == ["math"] * 2
    assert [list(row) for row in table[["A", "B", "C"]].fillna("").to_numpy()] == [["x", "y", "z"], ["x", "y", ""]]
    assert table["answer"].tolist() == ["C", "A"]


def test_every_sample_has_its_file_with_line_breaks_as_they_were(files):
    assert load(the(files, "sample-0/org_model_MMStar.tsv"))["prediction"].tolist() == ["C\rD", "<think>A"]
    assert load(the(files, "sample-1/org_model_MMStar.tsv"))["prediction"].tolist() == ["x</think>C", "A"]
    assert load(the(files, "sample-1/org_model_my_data_set.tsv"))["prediction"].tolist() == ["yes"]


# --- the commands -----------------------------------------------------------------------------------------------------


def test_the_same_evaluation_gives_the_same_bytes_and_one_format_alone(evals, files, tmp_path):
    ended = done("export", evals.path, "--format", "vlmevalkit", "--out", tmp_path, "--name", "org/model")
    for path in map(Path, ended.out.splitlines()):
        assert path.read_bytes() == files[str(path.relative_to(tmp_path))].read_bytes()
    assert not (tmp_path / "lmms-eval").exists()


def test_without_a_folder_or_a_name(evals):
    """Below RUN/exports, named after the hash of the weights."""
    ended = done("export", evals.path, "--format", "lmms-eval")
    folder = evals.path.parents[1] / "exports" / evals.path.name / "lmms-eval" / "ptdpo-00000000"
    assert {Path(line).parent for line in ended.out.splitlines()} == {folder}


@pytest.mark.parametrize(
    ("name", "folder"), [("../../out", "out"), ("/abs", "abs"), ("a b:c", "a_b_c"), ("..", "model")]
)
def test_a_name_cannot_lead_out_of_the_folder(evals, tmp_path, name, folder):
    done("export", evals.path, "--format", "vlmevalkit", "--out", tmp_path / "out", "--name", name)
    assert [path.name for path in (tmp_path / "out" / "vlmevalkit").iterdir()] == [folder]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_eval_exports_when_it_is_done_and_again_without_the_model(tmp_path):
    run = tmp_path / "run"
    here = (*TINY, "--run", run, "--policy", "tiny-base")
    ended = done("eval", *here, "--export", "lmms-eval", "--export", "vlmevalkit", "--json")
    exported = [Path(path) for path in ended.json["exported"]]
    assert len(exported) == 3 + 3 and all(path.is_file() and run in path.parents for path in exported)
    before = {path: path.read_bytes() for path in exported}
    again = done("export", run / "evals", "--format", "lmms-eval", "--format", "vlmevalkit", "--json").json["files"]
    assert {Path(path): Path(path).read_bytes() for path in again} == before
    assert done("eval", *here, "--json").json["exported"] == []


def test_a_copy_of_an_engine_leaves_the_export_to_its_parent(tmp_path, monkeypatch):
    """Copies run the parent's command for a part each."""
    monkeypatch.setenv("PTDPO_COPY", "1")
    done("eval", *TINY, "--run", tmp_path, "--policy", "tiny-base", "--shard", "0/2", "--export", "lmms-eval")
    assert not (tmp_path / "exports").exists()


def test_unknown_formats_and_other_artifacts_are_refused(evals, tmp_path):
    refused(2, "eval", *TINY, "--run", tmp_path, "--export", "csv", says=("csv", "lmms-eval | vlmevalkit"))
    refused(2, "export", evals.path, "--format", "csv", says=("csv",))
    refused(2, "eval", *TINY, "--run", tmp_path, "--shard", "0/2", "--export", "lmms-eval", says=("part",))
    assert not list(tmp_path.iterdir())
    problems = next((evals.path.parents[1] / "problems").iterdir())
    refused(3, "export", problems, "--format", "lmms-eval", says=("another kind",))
