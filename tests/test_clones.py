"""A clone of a data set's own repository, laid out as its authors publish it, serves as `--data-root`.

The layouts are those of the repositories; rows and pictures are made.
"""

import json

import pytest

from command import done
from ptdpo_cli.datasets import load_problems
from ptdpo_cli.datasets.catalog import ADAPTERS
from ptdpo_cli.datasets.hub import mirror_files
from ptdpo_cli.errors import UsageError
from public import png


def write(folder, path, rows) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows) if path.endswith(".jsonl") else json.dumps(rows, indent=4)
    file.write_text(lines)


def pictures(folder, *names) -> None:
    for seed, name in enumerate(names, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(seed))


def mathvista(folder):
    """An object of rows by id beside other tables; the pictures are unpacked next to it."""
    def row(pid, question, answer, **more):
        about = {"split": "testmini", "language": "english", "source": "CLEVR-Math", "category": "math-targeted-vqa",
                 "task": "math word problem", "context": "synthetic scene", "grade": "elementary school",
                 "skills": ["arithmetic reasoning"], "img_width": 64, "img_height": 48}
        return {"question": question, "image": f"images/{pid}.jpg", "choices": None, "unit": None, "precision": None,
                "answer": answer, "question_type": "free_form", "answer_type": "integer", "pid": pid,
                "metadata": about} | more
    write(folder, "data/testmini.json", {
        "1": row("1", "How many are left?", "9"),
        "2": row("2", "How long is it?", "1.2", answer_type="float", precision=1),
        "3": row("3", "Which is it?", "No", question_type="multi_choice", answer_type="text", choices=["Yes", "No"])})
    write(folder, "data/query.json", {"1": "Question: How many are left?"})
    write(folder, "data/source.json", [])
    pictures(folder, "data/images/1.jpg", "data/images/2.jpg", "data/images/3.jpg")
    (folder / "README.md").write_text("# MathVista\n")
    return "testmini", [("mathvista/1", "9", "integer", 1), ("mathvista/2", "1.2", "float", 2),
                        ("mathvista/3", "B", "choice", 3)]


def logicvista(folder):
    """The key is the id, and `imagename` a file in the folder images."""
    def row(name, answer, **more):
        return {"imagename": f"{name}.png", "question": "Which one follows? Select from A-D", "answer": answer,
                "reasoning": "It turns.", "skill": ["inductive"], "capability": ["diagram"], "imagesource": "made",
                "sourcelink": ""} | more
    write(folder, "data/dataset.json", {"v1_0": row("v1_0", "C"), "v1_1": row("v1_1", "A, D", skill=["spatial", "x"])})
    write(folder, "eval/answers/BLIP2-answers.json", {"v1_0": "C"})
    pictures(folder, "data/images/v1_0.png", "data/images/v1_1.png")
    return "test", [("logicvista/v1_0", "C", "choice", 1), ("logicvista/v1_1", "A, D", "set", 2)]


def mathvision(folder):
    """Lines without pictures in them, which are in a folder beside `data`."""
    def row(id_, options, answer):
        return {"id": id_, "question": "Which?\n<image1>", "options": options, "answer": answer, "solution": None,
                "level": 2, "subject": "logic", "image": f"images/{id_}.jpg"}
    write(folder, "data/test.jsonl", [row("5", ["A", "B"], "B"), row("6", [], "7")])
    write(folder, "data/testmini.jsonl", [row("6", [], "7")])
    pictures(folder, "images/5.jpg", "images/6.jpg", "assets/examples/1.jpg")
    return "test", [("mathvision/5", "B", "choice", 1), ("mathvision/6", "7", "integer", 2)]


def dynamath_rows(answer):
    return {"1": {"question": "What is its degree?", "answer": answer, "image": "image/image1.png",
                  "answer_type": "float", "subject": "algebra", "level": "high school"},
            "2": {"question": "Which sign? Choices: (A) + (B) - (C) *", "answer": "B", "image": "image/image2.png",
                  "answer_type": "multiple choice", "subject": "algebra", "level": "elementary school"}}


def dynamath(folder):
    """Ten trials, whose pictures have the same names: those beside the trial's own table are meant."""
    write(folder, "dataset/dataset.json", dynamath_rows("0"))
    pictures(folder, "dataset/image/image1.png", "dataset/image/image2.png")
    for k in range(1, 11):
        trial = f"samples and result/10trials/trial{k}"
        write(folder, f"{trial}/dataset.json", dynamath_rows(str(k)))
        (folder / trial / "image").mkdir()
        for n in (1, 2):
            (folder / trial / "image" / f"image{n}.png").write_bytes(png(10 * k + n))
    return "variant10", [("dynamath/variant10/1", "10", "float", 101), ("dynamath/variant10/2", "B", "choice", 102)]


def we_math(folder):
    write(folder, "data/testmini.json", [{
        "ID": "2steps_1", "split": "testmini", "knowledge concept": "Area", "question": "How large is it?",
        "option": "A. 3; B. 4", "answer": "B", "image_path": "2steps/image/1-1.png", "key": "2steps_1"}])
    write(folder, "data/knowledge_structure_nodes.json", {"name": "root"})
    pictures(folder, "data/2steps/image/1-1.png")
    return "testmini", [("we-math/2steps_1/2steps_1", "B", "choice", 1)]


CLONES = {"mathvista": mathvista, "logicvista": logicvista, "mathvision": mathvision, "dynamath": dynamath,
          "we-math": we_math}


@pytest.mark.parametrize("name", CLONES)
@pytest.mark.parametrize("place", ["hub", "name", "repository", "root"])
def test_a_clone_is_a_data_root(tmp_path, name, place):
    """Below the root by any of its names, or the root itself."""
    card = ADAPTERS[name].CARD
    folder = tmp_path / {"hub": card.hub, "name": name, "repository": card.repository.split("/")[1], "root": ""}[place]
    split, expected = CLONES[name](folder)
    found = [(p.problem_id, p.answer, p.answer_type, p.images) for p in
             load_problems(name, split=split, root=tmp_path)]
    assert found == [(*shown, (png(seed),)) for *shown, seed in expected]
    assert mirror_files(card, split, tmp_path)


def test_the_ten_variants_of_a_clone(tmp_path):
    dynamath(tmp_path / "dynamath")
    found = list(load_problems("dynamath", split="all", root=tmp_path))
    assert [p.answer for p in found if p.family == "dynamath/1"] == [str(k) for k in range(1, 11)]
    assert found[0].metadata == {"variant": "variant1", "subject": "algebra", "knowledge_level": "high school"}


def test_a_clone_with_one_table_for_all_variants_has_each_question_once(tmp_path):
    write(tmp_path / "dynamath", "dataset/dataset.json", dynamath_rows("4"))
    pictures(tmp_path / "dynamath", "dataset/image/image1.png", "dataset/image/image2.png")
    assert [(p.problem_id, p.answer) for p in load_problems("dynamath", split="all", root=tmp_path)] == [
        ("dynamath/variant1/1", "4"), ("dynamath/variant1/2", "B")]


def test_a_picture_that_a_clone_lacks(tmp_path):
    """No hint speaks of the user's own files."""
    mathvision(tmp_path / "MATH-V")
    (tmp_path / "MATH-V" / "images" / "6.jpg").unlink()
    with pytest.raises(UsageError) as caught:
        load_problems("mathvision", split="test", root=tmp_path)
    assert "mathvision, test, row 2 (mathvision/6): image 1: no such image file" in str(caught.value)
    assert "--on-bad-row skip" in caught.value.hint and "image_root" not in caught.value.hint


def test_a_clone_goes_through_a_command(tmp_path):
    logicvista(tmp_path / "LogicVista")
    found = done("data", "check", "logicvista", "--data-root", tmp_path, "--json").json
    assert (found["problems"], found["answer_types"], found["left_out"]) == (2, {"choice": 1, "set": 1}, [])


def test_an_object_of_rows_by_id_is_a_file_of_ones_own(tmp_path):
    write(tmp_path, "mine.json", {"first": {"problem": "How many?", "answer": "3"},
                                  "second": {"problem": "How few?", "answer": "1", "id": "own"}})
    assert [p.problem_id for p in load_problems(str(tmp_path / "mine.json"), split=None)] == ["first", "own"]
    write(tmp_path, "mine.json", {"first": {"problem": "How many?", "answer": "3"}, "more": 3})
    with pytest.raises(UsageError, match="one list of rows, or an object of rows by their ids"):
        load_problems(str(tmp_path / "mine.json"), split=None)
