"""The layouts that data comes in: chat turns, options, folders as the Hub has them, and columns of any name."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets import load_problems
from ptdpo_cli.errors import UsageError
from ptdpo_cli.rewards import check_answers


def png(colour="red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, "PNG")
    return out.getvalue()


RED, BLUE = png(), png("blue")
ROW = {"problem": "How many?", "answer": "3"}


def jsonl(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path, split=None, **options) -> list[Problem]:
    return list(load_problems(str(path), split=split, check=check_answers, **options))


def failure(*args, **kwargs) -> str:
    with pytest.raises(UsageError) as caught:
        load(*args, **kwargs)
    return str(caught.value)


# --- chat turns -------------------------------------------------------------------------------------------------------


def sharegpt(question="<image>How many?", said="3", **more):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": said}], **more}


def test_sharegpt_turns(tmp_path):
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "b.png").write_bytes(BLUE)
    path = jsonl(tmp_path / "mine.jsonl",
                 sharegpt(images=["a.png"]),
                 sharegpt("<image>\nWhich of <image> is red?", "the first", images=["a.png", "b.png"]),
                 sharegpt("No picture", "12", images=[], answer="0.5"))
    first, second, third = load(path)
    asked = {"problem": "Which?", "answer": "blue", "messages": [{"role": "user", "content": text} for text in "ab"]}
    assert load(jsonl(tmp_path / "more.jsonl", asked))[0].question == "Which?"     # so does a question column
    assert (first.question, first.answer, first.answer_type, first.images) == ("How many?", "3", "integer", (RED,))
    assert (second.question, second.images) == ("Which of is red?", (RED, BLUE))
    assert (third.answer, third.answer_type) == ("0.5", "float")            # an answer column comes before the turn


def test_chat_messages_with_parts(tmp_path):
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "b.png").write_bytes(BLUE)

    def row(*parts, **more):
        return {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": list(parts)},
                             {"role": "assistant", "content": [{"type": "text", "text": "3"}]}], **more}

    text, blank = {"type": "text", "text": "How many?"}, {"type": "image"}
    path = jsonl(tmp_path / "mine.jsonl",
                 row({"type": "image", "image": "file://" + str(tmp_path / "a.png")}, text),
                 row({"type": "image_url", "image_url": {"url": "b.png"}}, text),
                 row(blank, blank, text, images=["a.png", "b.png"]),
                 row(text))
    assert [(p.question, p.answer, p.images) for p in load(path)] == [
        ("How many?", "3", (RED,)), ("How many?", "3", (BLUE,)), ("How many?", "3", (RED, BLUE)),
        ("How many?", "3", ())]
    message = failure(jsonl(tmp_path / "more.jsonl", row(blank, text)))
    assert "line 1: image placeholders and images differ in number" in message


@pytest.mark.parametrize(("turns", "says"), [
    ("How many?", "wrong type"),
    ([{"from": "human", "value": "One?"}, {"from": "gpt", "value": "1"}, {"from": "human", "value": "Two?"},
      {"from": "gpt", "value": "2"}], "not one question and its answer"),
    ([{"from": "somebody", "value": "One?"}], "nobody we know"),
    ([{"from": "human", "value": "One?"}], "the answer is empty"),
    ([{"from": "gpt", "value": "1"}], "found     0 of them"),
    ([{"role": "user", "content": 3}, {"role": "assistant", "content": "1"}], "turn of the conversation has the wrong"),
])
def test_turns_that_are_no_problem(tmp_path, turns, says):
    assert says in failure(jsonl(tmp_path / "mine.jsonl", {"conversations": turns}))


# --- our optional columns ---------------------------------------------------------------------------------------------


def test_every_optional_column(tmp_path):
    row = {**ROW, "choices": ["2", "3"], "answer_type": "integer", "precision": 1.0, "family": "f", "source": "s",
           "license": "MIT", "split": "dev", "metadata": {"skill": ["count"], "n": 1}}
    for path in (jsonl(tmp_path / "mine.jsonl", row), tmp_path / "mine.parquet"):
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist([row]), path)
        problem, = load(path, split="train")
        assert (problem.choices, problem.answer, problem.answer_type) == (("2", "3"), "3", "integer")
        assert (problem.precision, problem.family, problem.source, problem.license, problem.split) == (
            1, "f", "s", "MIT", "dev")
        assert problem.metadata == {"skill": ["count"], "n": 1}


@pytest.mark.parametrize(("answer", "choices", "expected"), [
    ("B", ["red", "blue"], "B"),
    ("b", ["red", "blue"], "B"),
    ("(B)", ["red", "blue"], "B"),
    ("B.", ["red", "blue"], "B"),
    ("blue", ["red", "blue"], "B"),
    ("Blue", "['red', 'blue']", "B"),               # a string that holds a list
    ("12", ["A. 10", "B. 12"], "B"),                # options that begin with their letter
    ("12", [10, 12], "B"),
    ("J", [str(i) for i in range(10)], "J"),
    ("\\boxed{B}", ["red", "blue"], "B"),
    ("C", ["red", "blue"], None),
    ("green", ["red", "blue"], None),
    ("A", ["B", "A"], None),                        # the first option, or the text of the second?
    ("red", ["red", "red"], None),
    ("red", "['red', __import__('os')]", None),     # read as a literal, never run
    ("red", "{'a': 1}", None),
    ("red", 3, None),
])
def test_choices(tmp_path, answer, choices, expected):
    path = jsonl(tmp_path / "mine.jsonl", {"problem": "Which?", "answer": answer, "choices": choices})
    if expected is None:
        assert failure(path).startswith("mine.jsonl, line 1: ")
        return
    problem, = load(path)
    assert (problem.answer, problem.answer_type) == (expected, "choice")
    assert len(problem.choices) in (2, 10) and all(isinstance(choice, str) for choice in problem.choices)


def test_a_question_names_its_options_once(tmp_path):
    path = jsonl(tmp_path / "mine.jsonl", {"problem": "Which?", "answer": "A", "choices": ["red", "blue"]},
                 {"problem": "Which? A: red B: blue", "answer": "A", "choices": ["red", "blue"]},
                 {"problem": "Which?", "answer": "A", "choices": ["A. red", "B. blue"]},
                 {"problem": "How long?", "answer": "2", "choices": ["2", "3"], "answer_type": "float"})
    assert [p.question for p in load(path)] == [
        "Which?\nChoices:\n(A) red\n(B) blue", "Which? A: red B: blue", "Which?\nChoices:\nA. red\nB. blue",
        "How long?"]


@pytest.mark.parametrize(("more", "says"), [
    ({"answer_type": "number"}, "unknown answer type"),
    ({"answer_type": "intger"}, "did you mean integer?"),
    ({"answer_type": "integer", "answer": "three"}, "not a number"),        # a gold answer that fits nothing
    ({"precision": "two"}, "precision"),
    ({"precision": -1}, "precision"),
    ({"metadata": [1]}, "metadata"),
    ({"answer": [1, 2]}, "the answer has the wrong type"),
    ({"answer": None}, "the answer is empty"),
])
def test_unfit_values(tmp_path, more, says):
    message = failure(jsonl(tmp_path / "mine.jsonl", ROW, {**ROW, **more}))
    assert message.startswith("mine.jsonl, line 2: ") and says in message


def test_an_answer_is_typed_by_its_form_unless_the_file_says_how(tmp_path):
    rows = [{"problem": "?", "answer": "\\boxed{\\frac{1}{2}}"}, {"problem": "?", "answer": "#### 12"},
            {"problem": "?", "answer": "5 cm"}, {"problem": "?", "answer": "$3$ $4$"}, {"problem": "?", "answer": "A"},
            {"problem": "?", "answer": "\\frac{1}{2}", "answer_type": "text"}]
    assert [(p.answer, p.answer_type) for p in load(jsonl(tmp_path / "mine.jsonl", *rows))] == [
        ("\\frac{1}{2}", "expression"), ("12", "integer"), ("5 cm", "quantity"), ("$3$ $4$", "blanks"), ("A", "choice"),
        ("\\frac{1}{2}", "text")]


def test_a_worked_solution_is_no_answer(tmp_path):
    row = {"problem": "?", "answer": "Both sides are equal, therefore the triangle is isosceles and the angle is 40."}
    with pytest.raises(UsageError, match="worked solution"):
        load(jsonl(tmp_path / "mine.jsonl", row))


# --- folders as the Hub has them --------------------------------------------------------------------------------------


def parquet(path, *answers, name="problem"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: ["q"] * len(answers), "answer": list(answers)}), path)


def answers(path, split, **options):
    return [p.answer for p in load(path, split, **options)]


def test_data_folder_with_splits(tmp_path):
    parquet(tmp_path / "data" / "train-00000-of-00002.parquet", "1", "2")
    parquet(tmp_path / "data" / "train-00001-of-00002.parquet", "3")
    parquet(tmp_path / "data" / "test-00000-of-00001-0123456789abcdef.parquet", "4")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "README.md").write_text("# Just words\n")
    assert answers(tmp_path, "train") == ["1", "2", "3"] and answers(tmp_path, "test") == ["4"]
    assert "one of: test, train" in failure(tmp_path, "validation")
    assert "did you mean test?" in failure(tmp_path, "tset")


def test_splits_as_folders_and_splits_that_end_in_a_number(tmp_path):
    parquet(tmp_path / "a" / "train" / "0000.parquet", "1")
    parquet(tmp_path / "a" / "test" / "0000.parquet", "2")
    assert answers(tmp_path / "a", "test") == ["2"]
    parquet(tmp_path / "b" / "variant1.parquet", "1")
    parquet(tmp_path / "b" / "variant2.parquet", "2")
    assert answers(tmp_path / "b", "variant2") == ["2"]


def test_the_readme_says_which_files_are_a_split(tmp_path):
    parquet(tmp_path / "x" / "one.parquet", "1")
    parquet(tmp_path / "x" / "two.parquet", "2")
    parquet(tmp_path / "train.parquet", "9")                # not what the README says
    (tmp_path / "README.md").write_text("""---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: x/one.parquet
  - split: test
    path: [x/two.*]
  - split: lost
    path: x/three.parquet
---
# A data set
""")
    assert answers(tmp_path, "train") == ["1"] and answers(tmp_path, "test") == ["2"]
    assert "one of: lost, test, train" in failure(tmp_path, "dev")
    assert "not in" in failure(tmp_path, "lost")


def test_a_readme_cannot_lead_outside(tmp_path):
    parquet(tmp_path / "secret.parquet", "1")
    folder = tmp_path / "set"
    for pattern in ("../secret.parquet", "/etc/*.json"):
        parquet(folder / "train.parquet", "2")
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {pattern}\n---\n")
        assert "outside of it" in failure(folder, "train")


def test_several_parts_need_a_choice(tmp_path):
    parquet(tmp_path / "one" / "train-00000-of-00001.parquet", "1")
    parquet(tmp_path / "two" / "train-00000-of-00001.parquet", "2")
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: one\n  data_files: one/train-*\n"
                                        "- config_name: two\n  data_files: two/train-*\n---\n")
    message = failure(tmp_path, "train")
    assert "several data sets" in message and "one, two" in message
    assert answers(tmp_path / "two", "train") == ["2"]


def test_columns_by_role_or_by_any_of_its_names(tmp_path):
    parquet(tmp_path / "mine.parquet", "1", name="text")
    for role in ("problem", "question", "prompt"):
        assert answers(tmp_path / "mine.parquet", None, columns={role: "text"}) == ["1"]
    message = failure(tmp_path / "mine.parquet", columns={"problem": "txt"})
    assert "no column 'txt' for question" in message and "did you mean text?" in message
