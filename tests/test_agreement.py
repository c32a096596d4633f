"""The agreement with published verdicts, on a small folder whose counts are worked out by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptdpo_cli.errors import UsageError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COLOURS = ["red", "green", "blue"]


@pytest.fixture
def agreement(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import agreement

    return agreement


def judged(gold, response, official, **more):
    return {"set": "mmmu", "model": "made", "id": "mmmu/made_1", "type": "choice", "gold": gold, "choices": COLOURS,
            "response": response, "official": official, "official_extraction": None} | more


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


def write(folder, name, rows):
    """Rows as JSON lines; a text stands there as it is."""
    (folder / name).write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")


@pytest.fixture
def folder(tmp_path):
    """Every kind of file, with rows that agree, that differ in each way, and that are skipped."""
    folder = tmp_path / "made"
    folder.mkdir()
    write(folder, "responses_made.jsonl", [
        judged("B", "The answer is (B).", True),                        # both right
        judged("B", "The answer is (C).", True),                        # false negative
        judged("C", "Nobody can tell that\tfrom this drawing,\nsadly.", True),      # false negative, and unread
        judged("C", "The answer is (C).", False),                       # false positive
        judged("C", "The answer is (B).", False),                       # both wrong
        judged("yes", "No, it is not.", False, set="hallusionbench", type="text", choices=[]),
        judged("yes", "Yes, it is.", True, set="of-my-own", type="text", choices=[]),       # has no published rule
        without(judged("C", "The answer is (C).", True), "official"),
        judged("C", "The answer is (C).", "yes"),                       # neither true nor false
        judged("E", "The answer is (E).", True),                        # a letter that no option has
        '{"set": "mmmu"',
    ])
    write(folder, "made.tsv", [
        "# what\tgold\ttype\tchoices\tresponse\texpected\tgot",
        "as expected\t7\tinteger\t\t\\boxed{7}\tright\twhatever",
        "too strict\t7\tinteger\t\t\\boxed{8}\tright",
        "too lax\t7\tinteger\t\t\\boxed{7}\twrong",
        "another outcome\tB\tchoice\tred|green\tLet me think.\twrong",
        "a contradiction is wrong\tA\tchoice\tred|green\t\\boxed{A. green}\twrong",
        "no reference\tseven\tinteger\t\t\\boxed{7}\trefused",
        "too few\t7\tinteger",
        "",
    ])
    write(folder, "math_verify_pairs.jsonl", [
        {"gold": "$7$", "pred": "7", "expected": True},
        {"gold": "7", "pred": "8", "expected": True},
        {"gold": "7", "pred": "7", "expected": False},                  # right though wrong
        {"gold": "Because both sides are equal, we find that the angle has 60 degrees", "pred": "60", "expected": True},
        {"gold": "Because both sides are equal, we find that the angle has 60 degrees", "pred": "7", "expected": False},
        {"gold": "7", "pred": "7"},
    ])
    write(folder, "k12.jsonl", [
        {"id": "1", "question": "How long is the fence?", "answer": "12 + 2\\sqrt{3}"},
        {"id": "2", "question": "How long is the hedge?", "answer": "7"},
        {"id": "3", "question": "How long is the wall?", "answer": " "},            # left out
        {"id": "4", "answer": "7"},
    ])
    write(folder, "weather_rows.jsonl", [{"answer": "rain"}])
    return folder


def test_counts_by_hand(agreement, folder):
    numbers, tables, skipped = agreement.measured(folder)
    # MMMU's rule: B, C, nothing, C, B; against the publisher's right, right, right, wrong, wrong.
    assert numbers == {
        "responses": {
            "hallusionbench": {"n": 1, "agreement": 1.0, "false_positives": 0, "false_negatives": 0,
                               "false_negatives_unread": 0, "published_rule_agreement": 1.0},
            "mmmu": {"n": 5, "agreement": 0.4, "false_positives": 1, "false_negatives": 2,
                     "false_negatives_unread": 1, "published_rule_agreement": 0.4},
            "of-my-own": {"n": 1, "agreement": 1.0, "false_positives": 0, "false_negatives": 0,
                          "false_negatives_unread": 0, "published_rule_agreement": None},
        },
        "cases": {"made.tsv": {"n": 6, "differ": 3, "right_though_wrong": 1}},
        "pairs": {"math_verify_pairs.jsonl": {"n": 5, "differ": 3, "right_though_wrong": 1, "refused": 2}},
        "references": {"k12.jsonl": {"n": 3, "left_out": 1, "fail_their_proof": 0, "part_is_right": 0}},
        "skipped_rows": 8,
    }
    assert [(row["kind"], row["response"][:18], row["extracted_by"]) for row in tables["responses"]] == [
        ("false negative", "The answer is (C).", "phrase"), ("false negative", "Nobody can tell th", None),
        ("false positive", "The answer is (C).", "phrase")]
    assert [row["what"] for row in tables["cases"]] == ["too strict", "too lax", "another outcome"]
    assert [(row["pred"], row["outcome"]) for row in tables["pairs"]] == [
        ("8", "wrong"), ("7", "right"), ("60", "refused")]
    assert skipped == [
        "responses_made.jsonl, line 8: no official",
        "responses_made.jsonl, line 9: no official",
        "responses_made.jsonl, line 10: the answer of a multiple-choice problem is no letter of an option",
        "responses_made.jsonl, line 11: no JSON object",
        "made.tsv, line 8: no choices",
        "math_verify_pairs.jsonl, line 6: no expected",
        "k12.jsonl, line 4: no question",
        "weather_rows.jsonl: the file is named after no public set",
    ]


def test_a_part_that_is_right_is_counted_once(agreement, folder, monkeypatch):
    """With parts that are wholes: every reference has two that are right."""
    monkeypatch.setattr(agreement, "parts", lambda text: [text, f"{text} + 0", "1000"])
    numbers, tables, _ = agreement.measured(folder)
    assert numbers["references"]["k12.jsonl"]["part_is_right"] == 2
    assert tables["references"][0] | {"id": ""} == {
        "file": "k12.jsonl", "id": "", "type": "expression", "gold": "12 + 2\\sqrt{3}",
        "what": "right, though a part: \\boxed{12 + 2\\sqrt{3}}"}


def test_references_that_fail_their_proof(agreement, folder, monkeypatch):
    monkeypatch.setattr("ptdpo_cli.rewards.proof.failures", lambda problem: ["made up"] * (problem.answer == "7"))
    numbers, tables, _ = agreement.measured(folder)
    assert numbers["references"]["k12.jsonl"]["fail_their_proof"] == 1
    assert [row["gold"] for row in tables["references"]] == ["7"] and "made up" in tables["references"][0]["what"]


def test_line_breaks_of_cases(agreement, tmp_path):
    write(tmp_path, "made.tsv", ["one\t8\\n4\tblanks\t\tSo \\neq 3:\\n\\boxed{8}\tright"])
    (row,) = agreement.case_rows(tmp_path / "made.tsv", [])
    assert (row["gold"], row["response"]) == ("8\n4", "So \\neq 3:\n\\boxed{8}")


@pytest.mark.parametrize(("stem", "name"), [
    ("k12", "mmk12"), ("mathverse_text_only", "mathverse"), ("mathvision_rows", "mathvision"),
    ("mmmu_pro_rows", "mmmu-pro"), ("mmmu-pro_rows", "mmmu-pro"), ("mmmu_rows_2", "mmmu"), ("other_rows", None)])
def test_files_are_named_after_sets(agreement, stem, name):
    adapter = agreement.adapter_of(stem)
    assert (adapter and adapter.CARD.name) == name


def test_folders_with_nothing_to_grade(agreement, tmp_path):
    with pytest.raises(UsageError, match=r"there is no folder .*elsewhere"):
        agreement.measured(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="has nothing that can be graded") as empty:
        agreement.measured(tmp_path)
    assert empty.value.found == "none of these"
    write(tmp_path, "responses_made.jsonl", ["[]"])
    with pytest.raises(UsageError) as skipped:
        agreement.measured(tmp_path)
    assert skipped.value.found == "rows that are skipped, such as responses_made.jsonl, line 1: no JSON object"
    (tmp_path / "made.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"made\.tsv cannot be read"):
        agreement.measured(tmp_path)


def run(*arguments):
    path = os.pathsep.join([str(BENCHMARKS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, BENCHMARKS / "agreement.py", *map(str, arguments)],
                          env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)


def test_the_command(folder, tmp_path):
    """Results hold numbers and names alone; what is written for reading has a line a disagreement."""
    out, results = tmp_path / "out", tmp_path / "agreement.json"
    ended = run("--data", folder, "--out", out, "--results", results)
    assert ended.returncode == 0, ended.stderr
    assert "skipped: responses_made.jsonl, line 8: no official\n" in ended.stderr
    assert "| mmmu | 5 | 40.0% | 1 | 2 | 1 | 40.0% |\n" in ended.stdout
    found = json.loads(results.read_text())
    assert found["responses"]["mmmu"]["n"] == 5 and {"date", "machine", "versions"} < found.keys()
    assert not any(text in results.read_text() for text in ("answer", "drawing", "blue", "fence", "too lax"))
    lines = (out / "responses.tsv").read_text().splitlines()
    assert len(lines) == 4 and lines[2].endswith("\tNobody can tell that\\tfrom this drawing,\\nsadly.")
    assert len((out / "cases.tsv").read_text().splitlines()) == len((out / "pairs.tsv").read_text().splitlines()) == 4
    assert (out / "references.tsv").read_text().strip() == ""


def test_the_command_without_data(tmp_path):
    results = tmp_path / "agreement.json"
    ended = run("--data", tmp_path / "elsewhere", "--out", tmp_path / "out", "--results", results)
    assert ended.returncode == 1 and ended.stderr.startswith("error: there is no folder")
    assert "--data FOLDER" in ended.stderr and not results.exists() and not (tmp_path / "out").exists()
