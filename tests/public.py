"""Small made copies of the public data sets, in their exact layout and with the traps that their rows have.

`write_mirror(root, name)` writes ROOT/<hub id>/ as a clone of the repository has it: Parquet with embedded pictures,
JSONL, zips, and a card that says which files are which split. Pictures are noise, and differ from one another.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image as Picture

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.datasets.cards import Place, Table
from ptdpo_cli.datasets.catalog import ADAPTERS
from ptdpo_cli.datasets.reading import LeftOut

PAPO_INSTRUCTION = (
    "\n\nYou first think through the reasoning process as an internal monologue, enclosed within <think> </think> "
    "tags. Then, provide your final answer enclosed within \\boxed{}."
)


@functools.cache
def png(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Picture.fromarray(noise).save(out, "PNG")
    return out.getvalue()


def image(seed: int) -> dict:
    """A picture as the Image feature of `datasets` stores it."""
    return {"bytes": png(seed), "path": f"{seed}.png"}


def write_mirror(root: Path, name: str) -> Path:
    """A mirror of the data set `name` below `root`, and where it is."""
    folder = root / ADAPTERS[name].CARD.hub
    folder.mkdir(parents=True)
    configs: dict[str, list[dict]] = {}
    for table, (path, features, rows) in _TABLES[name]().items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".jsonl"):
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            from datasets import Dataset

            pq.write_table(Dataset.from_list(rows, features=_features(features)).data.table, file)
        configs.setdefault(table.config or "default", []).append({"split": table.split, "path": path})
    for archive, members in _ARCHIVES.get(name, {}).items():
        with zipfile.ZipFile(folder / archive, "w") as zipped:
            for member, seed in members.items():
                zipped.writestr(member, png(seed))
    described = [{"config_name": config, "data_files": files} for config, files in configs.items()]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(described)}\n---\n")      # JSON is YAML
    return folder


def rows(root: Path, name: str, split: str) -> Iterator[tuple[dict, Place]]:
    """The rows of a split of a mirror that `write_mirror` wrote, as pyarrow reads them, and where each stands."""
    card = ADAPTERS[name].CARD
    for table in card.splits[split].tables:
        path = root / card.hub / _TABLES[name]()[_plain(table)][0]
        read = map(json.loads, path.open()) if path.suffix == ".jsonl" else pq.read_table(path).to_pylist()
        for number, row in enumerate(read, 1):
            yield row, Place(split, table, number)


def problems(root: Path, name: str, split: str) -> list[Problem]:
    """The problems of these rows; those that the adapter leaves out are not among them."""
    found = []
    for row, place in rows(root, name, split):
        with contextlib.suppress(LeftOut):
            found.append(ADAPTERS[name].problem(row, place))
    return found


def _plain(table: Table) -> Table:
    return Table(table.config, table.split, table.files)


def _features(described: dict):
    """Features from a short form: a type's name, "image", ["…"] for a list, {…} for a struct."""
    from datasets import Features, Image, List, Value

    def feature(what):
        if isinstance(what, list):
            return List(feature(what[0]))
        if isinstance(what, dict):
            return {key: feature(value) for key, value in what.items()}
        return Image() if what == "image" else Value(what)

    return Features({key: feature(value) for key, value in described.items()})


# --- tables: {Table: (path in the repository, features, rows)} --------------------------------------------------------


def _mathvista() -> dict:
    features = {
        "pid": "string", "question": "string", "image": "string", "decoded_image": "image", "choices": ["string"],
        "unit": "string", "precision": "float64", "answer": "string", "question_type": "string",
        "answer_type": "string",
        "metadata": {"category": "string", "context": "string", "grade": "string", "img_height": "int64",
                     "img_width": "int64", "language": "string", "skills": ["string"], "source": "string",
                     "split": "string", "task": "string"},
        "query": "string",
    }

    def row(pid, question, answer, kind, type_, *, choices=None, unit=None, precision=None, split="testmini",
            skills=("geometry reasoning",), category="math-targeted-vqa"):
        about = {"category": category, "context": "geometry diagram", "grade": "high school", "img_height": 48,
                 "img_width": 64, "language": "english", "skills": list(skills), "source": "Geometry3K",
                 "split": split, "task": "geometry problem solving"}
        return {"pid": pid, "question": question, "image": f"images/{pid}.jpg", "decoded_image": image(int(pid)),
                "choices": choices, "unit": unit, "precision": precision, "answer": answer, "question_type": kind,
                "answer_type": type_, "metadata": about, "query": f"Hint: …\nQuestion: {question}"}

    testmini = [
        row("1", "Find $m\\angle H$", "97", "multi_choice", "text", choices=["82", "83", "97", "98"],
            skills=["geometry reasoning", "algebraic reasoning"]),
        row("2", "Is the sum of smallest two bar larger than the largest?", "No", "multi_choice", "text",
            choices=["Yes", "No"], category="general-vqa", skills=["statistical reasoning"]),
        row("3", "How many sequences have negative impact?", "2", "free_form", "integer", precision=0.0),
        row("4", "How much money does Luca need?", "1.50", "free_form", "float", unit="$", precision=2.0,
            skills=["arithmetic reasoning"]),
        row("5", "Between which two years was the peak?", "[2007, 2008]", "free_form", "list"),
        row("6", "What is the mass of the cube?", "0.6", "free_form", "float", unit="kg", precision=1.0),
    ]
    test = [row("1001", "Which is longer?", "", "multi_choice", "text", choices=["left", "right"], split="test")]
    return {
        Table(split="testmini"): ("data/testmini-00000-of-00001-725687bf7a18d64b.parquet", features, testmini),
        Table(split="test"): ("data/test-00000-of-00001-6b81bd7f7e2065e6.parquet", features, test),
    }


def _mathverse() -> dict:
    features = {
        "sample_index": "string", "problem_index": "string", "problem_version": "string", "question": "string",
        "image": "image", "answer": "string", "question_type": "string",
        "metadata": {"split": "string", "source": "string", "subject": "string", "subfield": "string"},
        "query_wo": "string", "query_cot": "string", "question_for_eval": "string",
    }
    asked = "As shown in the figure, AB ∥ CD, ∠1 = 35°. Find ∠2.\nChoices:\nA:145°\nB:35°\nC:55°\nD:125°"
    short = "Find ∠2.\nChoices:\nA:145°\nB:35°\nC:55°\nD:125°"

    def row(index, of, version, question, answer="B", kind="multi-choice", subfield="Angle"):
        about = {"split": "testmini", "source": "Geometry3K", "subject": "Plane Geometry", "subfield": subfield}
        return {"sample_index": index, "problem_index": of, "problem_version": version, "question": question,
                "image": None if version == "Text Only" else image(int(index) + 100), "answer": answer,
                "question_type": kind, "metadata": about, "query_wo": question, "query_cot": question,
                "question_for_eval": question}

    testmini = [
        row("1", "1", "Text Dominant", asked),
        row("2", "1", "Text Lite", short),
        row("3", "1", "Vision Intensive", short),
        row("4", "1", "Vision Dominant", short),
        row("5", "1", "Vision Only", ""),
        row("6", "2", "Text Dominant", "Find the length of AC.", "2 \\sqrt { 221 }", "free-form", "Length"),
        row("7", "2", "Vision Only", "", "2 \\sqrt { 221 }", "free-form", "Length"),
        row("8", "3", "Vision Only", "", "False"),
        row("9", "4", "Text Lite", "Is it a square?\nChoice:\nA. True\nB. False", "False"),
        row("10", "4", "Text Lite", "Which two are equal?\nChoices:\nA:1\nB:2\nC:1.0", "A\nC"),
        row("11", "5", "Text Lite", "How wide is it?\nChoices:\nA:4cm\nB:5cm", "B. 5cm"),
        row("12", "6", "Text Lite", "How tall is it?\nA. 4cm\nB. 5cm", "5cm", "free-form"),
        row("13", "7", "Text Lite", "Find the angle.", "35掳", "free-form"),
        row("14", "8", "Text Lite", "What is the period?", "{4}{7} \\pi", "free-form"),
        row("15", "629", "Text Lite", "How many litres?", "a hare", "free-form"),
    ]
    testmini[7]["question_for_eval"] = "Is it a circle?\nChoices:\nA:True\nB:False"
    text_only = [row("1", "1", "Text Only", asked), row("2", "2", "Text Only", "AB = 3. Find AC.", "4.5", "free-form")]
    return {
        Table("testmini", "testmini"): ("testmini.parquet", features, testmini),
        Table("testmini_text_only", "testmini_text_only"): ("testmini_text_only.parquet", features, text_only),
    }


def _mathvision() -> dict:
    features = {
        "id": "string", "question": "string", "options": ["string"], "image": "string", "decoded_image": "image",
        "answer": "string", "solution": "string", "level": "int64", "subject": "string",
    }

    def row(id_, question, options, answer, subject, solution=None, level=1):
        return {"id": id_, "question": question, "options": options, "image": f"images/{id_}.jpg",
                "decoded_image": image(int(id_) + 200), "answer": answer, "solution": solution, "level": level,
                "subject": subject}

    test = [
        row("4", "How many different digits can you find in this picture?\n<image1>", [], "6", "counting"),
        row("8", "Which bike is most expensive?\n<image1>", ["A", "B", "C", "D", "E"], "A", "arithmetic", level=2),
        row("9", "Which of <image1> and <image2> is a net?", ["the first", "the second"], "the second", "topology"),
        row("10", "The area is\n<image1>", [], "\\frac{3}{4}", "metric geometry - area", "Half of a square.", 5),
        row("11", "What is $x$?\n<image1>", ["$1$", "$2$", "$3$"], "C", "algebra", level=4),
        row("12", "<image1>", [], "15", "arithmetic"),
        row("13", "Where does it land after\n<image1>\nthat?", ["<image2>", "<image3>", "<image4>"], "B", "counting"),
        row("14", "Which side faces <image2>?\n<image1>", [], "C", "solid geometry"),
        row("15", "What part is grey?\n<image1>", [], "\x0crac{5}{7}", "metric geometry - area"),
        row("16", "What is half of it?\n<image1>", [], "\\boxed{\\frac{1}{8}}", "arithmetic"),
        row("17", "Which is left?\n<image1>", ["(A)", "(B)", "(C)"], "(C)", "logic"),
        row("18", "Find 2x.\n<image1>", ["A. $2$", "B. $4$"], "B. $4$", "algebra"),
    ]
    return {
        Table(split="test"): ("data/test-00000-of-00001-3532b8d3f1b4047a.parquet", features, test),
        Table(split="testmini"): ("data/testmini-00000-of-00001-f8ff70fcb2f29b1d.parquet", features, test[:2]),
    }


_MMMU_IMAGES = {f"image_{k}": "image" for k in range(1, 8)}


def _mmmu_images(*seeds: int, at: tuple[int, ...] = ()) -> dict:
    """The seven columns: pictures from the first on, or at the numbers `at`, the rest null."""
    present = dict(zip(at or range(1, 8), seeds, strict=False))
    return {f"image_{k}": image(present[k]) if k in present else None for k in range(1, 8)}


def _mmmu() -> dict:
    features = {
        "id": "string", "question": "string", "options": "string", "explanation": "string", **_MMMU_IMAGES,
        "img_type": "string", "answer": "string", "topic_difficulty": "string", "question_type": "string",
        "subfield": "string",
    }

    def row(id_, question, options, answer, images, kind="multiple-choice", explanation=""):
        return {"id": id_, "question": question, "options": repr(options), "explanation": explanation, **images,
                "img_type": "['Tables']", "answer": answer, "topic_difficulty": "Easy", "question_type": kind,
                "subfield": "Managerial Accounting"}

    validation = [
        row("validation_Accounting_1", "<image 1> Baxter has a sales budget. Its break-even point is",
            ["$63,020", "$58,410", "$71,320", "it's unknown"], "C", _mmmu_images(301), explanation="Add them."),
        row("validation_Art_Theory_3", "Which one is by <image 1>'s painter?", ["<image 2>", "<image 3>"], "B",
            _mmmu_images(302, 303, 304)),
        row("validation_Energy_and_Power_30", "Compare <image 1> with <image 3>.", ["same", "other"], "A",
            _mmmu_images(305, 306, at=(1, 3))),
        row("validation_Math_2", "What is the mean in <image 1>?", [], "['24/7', '3.429']", _mmmu_images(307), "open"),
        row("validation_Biology_5", "How many cells? <image 1>", [], "12", _mmmu_images(308), "open"),
        row("validation_Pharmacy_7", "Which <image 1> fits?", [["red", "green", "blue", "grey"]], "C",
            _mmmu_images(311)),
        row("validation_Design_8", "<image 1> <image 2> <image 3> Which one is older?", ["<image 2>", "<image 3>"],
            "B", _mmmu_images(312)),
        row("validation_Design_9", "Which is it?", ["<image 1>", "<image 2>", "<image 3>"], "C",
            _mmmu_images(313, 314)),
        row("validation_Physics_4", "Which lamp goes out? <image 1>", [], "B", _mmmu_images(315), "open"),
    ]
    dev = [row("dev_Music_1", "Name the interval. <image 1>", ["third", "fifth"], "A", _mmmu_images(309))]
    test = [row("test_Music_1", "Name the chord. <image 1>", ["minor", "major"], "?", _mmmu_images(310))]
    return {
        Table(split="dev"): ("data/dev-00000-of-00001.parquet", features, dev),
        Table(split="validation"): ("data/validation-00000-of-00001.parquet", features, validation),
        Table(split="test"): ("data/test-00000-of-00001.parquet", features, test),
    }


def _mmmu_pro() -> dict:
    features = {
        "id": "string", "question": "string", "options": "string", "explanation": "string", **_MMMU_IMAGES,
        "img_type": "string", "answer": "string", "topic_difficulty": "string", "subject": "string",
    }
    vision = {"id": "string", "image": "image", "options": "string", "answer": "string", "subject": "string"}
    ten = [f"{k} dollars" for k in range(1, 11)]

    def row(id_, question, options, answer, images, subject="Accounting"):
        return {"id": id_, "question": question, "options": repr(options), "explanation": "", **images,
                "img_type": "['Tables']", "answer": answer, "topic_difficulty": "Medium", "subject": subject}

    def seen(id_, seed, options, answer, subject="Accounting"):
        return {"id": id_, "image": image(seed), "options": repr(options), "answer": answer, "subject": subject}

    standard_10 = [
        row("test_Accounting_42", "<image 1> What is the cost?", ten, "J", _mmmu_images(401)),
        row("test_Design_6", "Which is it?", ["<image 1>", "<image 2>", "neither"], "B", _mmmu_images(402, 403),
            "Design"),
        row("validation_Math_9", "Solve <image 1>.", ["x", "y"], "A", _mmmu_images(404), "Math"),
        row("test_Music_2", "Name it.", ["a", "b", "c"], "C", _mmmu_images(405), "Music"),
    ]
    standard_4 = [row("test_Accounting_42", "<image 1> What is the cost?", ten[6:], "D", _mmmu_images(401))]
    only_vision = [
        seen("test_Accounting_42", 406, ten, "J"),
        seen("test_Design_6", 407, ["<image 1>", "none"], "A", "Design"),
    ]
    return {
        Table("standard (10 options)", "test"):
            ("standard (10 options)/test-00000-of-00001.parquet", features, standard_10),
        Table("standard (4 options)", "test"):
            ("standard (4 options)/test-00000-of-00001.parquet", features, standard_4),
        Table("vision", "test"): ("vision/test-00000-of-00001.parquet", vision, only_vision),
    }


def _we_math() -> dict:
    features = {
        "ID": "string", "split": "string", "knowledge concept": "string", "question": "string", "option": "string",
        "answer": "string", "image_path": "image", "key": "string", "question number": "int64",
        "knowledge concept description": "string",
    }

    def row(number, id_, key, concept="Area of Circles", answer="B",
            option="A. 200.96;B. 3215.36;C. 6280;D. 32; E. No correct answer"):
        return {"ID": id_, "split": "testmini", "knowledge concept": concept,
                "question": f"There is a circular flower bed. Question {number}: its area is (  ) m²?",
                "option": option, "answer": answer, "image_path": image(500 + number), "key": key,
                "question number": number, "knowledge concept description": "Area of …"}

    testmini = [
        row(1, "1", "2steps_1"), row(2, "1", "2steps_2", "Perimeter", "A", "A. 3; B. 4"), row(3, "1", "2steps_multi"),
        row(4, "1", "3steps_1"), row(5, "1", "3steps_2"), row(6, "1", "3steps_3"),
        row(7, "1", "3steps_multi", option="A. (1, 2); B. (2; 1);C. No correct answer", answer="C"),
        row(8, "2", "2steps_1", option="A. A; B. B; C. D; D. No correct answer", answer="C"),
        row(9, "2", "2steps_2", option="A. 30 m B. 40 m;C 50 m; D. No correct answer", answer="B"),
    ]
    return {Table(split="testmini"): ("data/testmini-00000-of-00001.parquet", features, testmini)}


def _logicvista() -> dict:
    features = {
        "id": "string", "question": "string", "answer": "string", "reasoning": "string", "image": "image",
        "skill": "string", "broad_capability": "string", "specific_capability": "string", "imagesource": "string",
        "sourcelink": "string", "liscenced": "string",
    }

    def row(id_, question, answer, skill, reasoning="It turns by 90°."):
        return {"id": id_, "question": question, "answer": answer, "reasoning": reasoning,
                "image": image(600 + int(id_)), "skill": skill, "broad_capability": "patterns",
                "specific_capability": "diagram", "imagesource": "test", "sourcelink": "", "liscenced": "yes"}

    test = [
        row("0", "Which of the boxes comes next in the sequence? Select from A-E. (A) A (B) B (C) C (D) D (E) E", "D",
            "inductive"),
        row("1", "Which two statements follow?\nA. all\nB. some\nC. none", "A, C", "deductive"),
        row("2", "Which gears turn left? Select from A, B, C and D.", "C, A", "mechanical, spatial"),
        row("3", "Which figure completes the series?", "B", "spatial"),
        row("4", "How many orders were there in May?", "12", "numerical", ""),
        row("5", "How much? Select from A, B, C and D. (A) 1,200 (B) 1,400 (C)1,500(D)1,700", "D", "numerical"),
    ]
    return {Table(split="test"): ("data/test-00000-of-00001.parquet", features, test)}


def _dynamath() -> dict:
    features = {
        "id": "string", "question": "string", "image": "string", "decoded_image": "image", "ground_truth": "string",
        "answer_type": "string", "subject": "string", "knowledge_level": "string",
    }

    def row(variant, id_, question, truth, kind, subject, level="high school"):
        return {"id": id_, "question": question, "image": f"image_v{variant}_{id_}.png",
                "decoded_image": image(700 + 10 * variant + int(id_)), "ground_truth": truth, "answer_type": kind,
                "subject": subject, "knowledge_level": level}

    tables = {}
    for variant in range(1, 11):
        table = [
            row(variant, "1", f"The period is {variant}. What is the frequency?", f"{1 / variant:.3f}", "float",
                "analytic geometry"),
            row(variant, "2", f"Is f continuous at x = {variant}? choice: (A) yes (B) no (C) cannot tell", "A",
                "multiple choice", "algebra"),
            row(variant, "3", "Which colour is the line?", "dark red", "text", "statistics", "undergraduate"),
            row(variant, "4", "How many nodes?", f"{variant}", "float", "graph theory"),
        ]
        split = f"sample_variant{variant}"
        tables[Table(split=split)] = (f"data/{split}-00000-of-00001.parquet", features, table)
    return tables


def _mmstar() -> dict:
    features = {
        "index": "int64", "question": "string", "image": "image", "answer": "string", "category": "string",
        "l2_category": "string", "meta_info": {"source": "string", "split": "string", "image_path": "string"},
    }

    def row(index, question, answer, category, part):
        return {"index": index, "question": question, "image": image(800 + index), "answer": answer,
                "category": category, "l2_category": part,
                "meta_info": {"source": "MMBench", "split": "val", "image_path": f"images/{index}.jpg"}}

    val = [
        row(0, "Which option describe the object relationship in the image correctly?\nOptions: A: The suitcase is on "
               "the book., B: The suitcase is beneath the cat., C: The suitcase is beneath the bed., D: none", "A",
            "coarse perception", "image scene and topic"),
        row(1, "Hint: Please answer the question and provide the correct option letter.\nQuestion: Find x.\nChoices:\n"
               "(A) 4.5 cm\n(B) 6 cm\n(C) 7.5 cm\n(D) 8 cm", "D", "math", "geometry"),
        row(2, "<image 1>What does it show?\nA. a cell\nB. a star\nC. a map", "B", "science & technology", "biology"),
        row(3, "Which picture is it?", "C", "math", "numeric commonsense and calculation"),
    ]
    return {Table(split="val"): ("mmstar.parquet", features, val)}


def _hallusionbench() -> dict:
    features = {
        "category": "string", "subcategory": "string", "visual_input": "string", "set_id": "string",
        "figure_id": "string", "sample_note": "string", "question_id": "string", "question": "string",
        "gt_answer_details": "string", "gt_answer": "string", "filename": "string", "image": "image",
    }

    def row(category, part, visual, set_, figure, question_id, question, answer, seed=None):
        return {"category": category, "subcategory": part, "visual_input": visual, "set_id": set_, "figure_id": figure,
                "sample_note": "note", "question_id": question_id, "question": question,
                "gt_answer_details": "It is so.", "gt_answer": answer,
                "filename": None if seed is None else f"./{category}/{part}/{set_}_{figure}.png",
                "image": None if seed is None else image(seed)}

    with_image = [
        row("VD", "ocr", "1", "0", "0", "0", "Does it say 'no'?", "1", 901),
        row("VD", "ocr", "2", "0", "1", "0", "Does it say 'no'?", "0", 902),
        row("VS", "chart", "1", "0", "1", "0", "Is China the first?", "1", 903),
        row("VS", "chart", "1", "0", "1", "1", "Is India the second?", "0", 903),
    ]
    without = [
        row("VS", "chart", "0", "0", "0", "0", "Is China the first?", "1"),
        row("VS", "chart", "0", "0", "0", "1", "Is India the second?", "0"),
    ]
    return {
        Table(split="image"): ("data/image-00000-of-00001.parquet", features, with_image),
        Table(split="non_image"): ("data/non_image-00000-of-00001.parquet", features, without),
    }


def _geometry3k() -> dict:
    old = {"images": ["image"], "problem": "string", "answer": "string"}
    new = old | {"id": "string", "choices": ["string"], "ground_truth": "string"}

    def row(seed, problem, answer, **more):
        return {"images": [image(seed)], "problem": problem, "answer": answer} | more

    train = [
        row(1001, "<image>Find $x$.", "3"), row(1002, "<image>Find the area.", "2 \\sqrt { 221 }"),
        row(1003, "<image>Find y to the nearest tenth.", "4.5"), row(1004, "<image>Find z.", "\\frac { 3 } { 4 }"),
    ]
    test = [
        row(1005, "<image>Find x.", "58", id="2401", choices=["29", "58", "61", "122"], ground_truth="B"),
        row(1006, "<image>Find the perimeter of $ABCD$.", "8 \\sqrt { 2 }", id="2402",
            choices=["8", "8 \\sqrt { 2 }", "16", "32"], ground_truth="B"),
        row(1007, "<image>Find y.", "6.5", id="2403", choices=["5.5", "6", "6.5", "7"], ground_truth="C"),
    ]
    return {
        Table(split="train"): ("data/train-00000-of-00001.parquet", old, train),
        Table(split="validation"): ("data/validation-00000-of-00001.parquet", old, train[:2]),
        Table(split="test"): ("data/test-00000-of-00001.parquet", new, test),
    }


def _mmk12() -> dict:
    features = {"id": "string", "question": "string", "answer": "string", "subject": "string", "image": "image"}

    def row(id_, question, answer, subject, seed):
        return {"id": id_, "question": question, "answer": answer, "subject": subject, "image": image(seed)}

    train = [
        row("a1", "<image>As shown in the figure, find $$AB$$.", "$\\frac{1}{2}$", "math", 1101),
        row("a2", "How many are there?", "12", "math", 1102),
        row("a3", "<image>Give the angle.", "45°", "math", 1103),
        row("a4", "What is the length?", "2.5", "math", 1104),
    ]
    test = [
        row("b1", "<image>Which is right?\nA. the first\nB. the second\nC. both\nD. neither", "C", "physics", 1105),
        row("b2", "<image>Which gas is it? (A) O2 (B) CO2 (C) N2 (D) H2", "B", "chemistry", 1106),
        row("b3", "Which label is the nucleus?", "D", "biology", 1107),
    ]
    return {
        Table(split="train"): ("data/train-00000-of-00001.parquet", features, train),
        Table(split="test"): ("data/test-00000-of-00001.parquet", features, test),
    }


def _virl39k() -> dict:
    features = {
        "question": "string", "answer": "string", "PassRate_32BTrained": "float32", "PassRate_7BBase": "float32",
        "category": "string", "source": "string", "qid": "string", "image": ["string"],
    }

    def row(qid, question, answer, images=1, rates=(0.5, 0.25), category="(GradeSchool) Geometric"):
        return {"question": question, "answer": answer, "PassRate_32BTrained": rates[0], "PassRate_7BBase": rates[1],
                "category": category, "source": "Processed", "qid": qid,
                "image": [f"images/{qid}-{k}.jpg" for k in range(images)]}

    train = [
        row("Processed-1", "<image>Find the ratio.", "\\boxed{\\frac{1}{\\sqrt{2}}}"),
        row("Processed-2", "<image>Find x.\nA. 1\nB. 2\nC. 3", "\\boxed{B}", rates=(1.0, -1.0)),
        row("Processed-3", "<image><image> Which diagram is symmetric? Compare them.", "\\boxed{the first}", 2),
        row("Processed-4", "<image>How many?", "\\boxed{12}", rates=(None, 0.0)),
        row("Processed-5", "<image>Which is longer?\nChoices:\n(A) left\n(B) right", "\\boxed{right}"),
    ]
    return {Table(files="39Krelease.parquet"): ("39Krelease.parquet", features, train)}


def _papo_virl39k() -> dict:
    features = {"images": ["image"], "problem": "string", "answer": "string"}

    def row(problem, answer, *seeds):
        return {"images": [image(seed) for seed in seeds], "problem": problem, "answer": answer}

    train = [
        row("<image>In the figure, find x.\nA. 30°\nB. 45°\nC. 60°\nD. 90°", "C", 1301),
        row("As shown in <image_4>, the area is", "\\frac{25}{2}", 1302),
        row("<image>How many?\nChoices:\n(A) 2\n(B) 3\n(C) 4", "4", 1303),
        row("<image>Select the right one.\nleft\nmiddle\nright\nAnswer the question based on the options mentioned "
            "before.", "B", 1304),
        row("Compare <image_1> with <image_2>. Which is larger?", "the second", 1305, 1306),
        row("Compare <image> and <image>, then add them.", "7", 1307, 1308),
    ]
    return {Table(split="train"): ("data/train-00000-of-00001.parquet", features, train)}


def _papo_mmk12() -> dict:
    features = {"images": ["image"], "problem": "string", "answer": "string"}
    letters = "ABCD"
    train = [
        {"images": [image(1400 + k)], "answer": letters[k],
         "problem": f"<image>Question {k}: which is right?\nA. one\nB. two\nC. three\nD. four"} for k in range(4)
    ]
    return {Table(split="train"): ("data/train-00000-of-00001.parquet", features, train)}


# Of each part: the splits and zips of the repository, and questions with their answers.
_PAPO_EVAL = {
    "PAPO_MMK12": ("PAPO_MMK12_test", [("<image>Which?\nA. one\nB. two\nC. three", "B"), ("<image>Which?", "D")]),
    "hiyouga_geometry3k": ("hiyouga_geometry3k", [("<image>Find $x$.", "3"), ("<image>Find y.", "2 \\sqrt { 5 }")]),
    "AI4Math_MathVerse": ("AI4Math_MathVerse", [("<image>Find ∠2.\nChoices:\nA:145°\nB:35°\nC:55°\nD:125°", "A")]),
    "AI4Math_MathVista": ("AI4Math_MathVista", [
        ("<image>Is it larger?\nChoices:\n(A) Yes\n(B) No", "No"), ("<image>How many bars?", "4")]),
    "We_Math": ("We-Math_We-Math", [("<image>Its area is?\nA. 3;B. 4;C. No correct answer", "C")]),
    "MMMU_MMMU_Pro": ("MMMU_MMMU_Pro", [("<image>", "J")]),
    "BUAADreamer_clevr_count_70k": ("BUAADreamer_clevr_count_70k", [("<image>How many red objects are there?", "3")]),
    "AI4Math_MathVerse_vision_dependent":
        ("AI4Math_MathVerse_vision_dependent", [("<image>Find x.\nChoices:\nA:1\nB:2", "B")]),
    "lscpku_LogicVista": ("lscpku_LogicVista", [("<image>Which comes next? Select from A, B, C.", "A")]),
}


def _papo_eval() -> dict:
    features = {"messages": [{"role": "string", "content": "string"}], "images": ["string"], "id": "string"}
    tables = {}
    for split, (_, asked) in _PAPO_EVAL.items():
        table = [
            {"messages": [{"role": "user", "content": question + PAPO_INSTRUCTION},
                          {"role": "assistant", "content": answer}],
             "images": [f"./data/images/{split}/{split}_{k}_0.png"], "id": f"{split}_{k}"}
            for k, (question, answer) in enumerate(asked)
        ]
        tables[Table(split=split)] = (f"data/{split}-00000-of-00001.parquet", features, table)
    return tables


_EUREKA = "inspire/hdd/global_user/shaowenqi-shaowenqi/mengfanqing/OpenRLHF-InternVL/dataset/report_data"
_EUREKA_INSTRUCTION = (
    "You should first thinks about the reasoning process in the mind and then provides the user with the answer. The "
    "reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> Since $1+1=2$, so the answer is $2$. </think><answer> $2$ </answer>.\nQuestion:\n"
)


def _mm_eureka() -> dict:
    def chat(text, *files):
        parts = [{"type": "image", "image": f"file:///{_EUREKA}/{file}"} for file in files]
        return json.dumps([{"role": "system", "content": "Be brief."},
                           {"role": "user", "content": [*parts, {"type": "text", "text": text}]}])

    train = [
        {"id": "0", "message": chat("How many cats are there?", "K12/cats.png"), "answer": "3"},
        {"id": "1", "message": chat("<image>\nFind $x$.\nA. 1\nB. 2\nC. 3", "MMPR/images/x.png"), "answer": "$B$"},
        {"id": "2", "message": chat("What is 1 + 1?"), "answer": "$2$"},
        {"id": "3", "conversations": [{"role": "user", "content": f"{_EUREKA_INSTRUCTION}Find $$AB$$."}],
         "answer": "$\\frac{1}{2}$", "image_urls": ["K12/ab.png"]},
        {"id": "4", "conversations": [{"role": "user", "content": f"{_EUREKA_INSTRUCTION}What is 2 + 2?"}],
         "answer": "$4$", "image_urls": ["blank_image.jpg"]},
    ]
    return {Table(files="dataset.jsonl"): ("dataset.jsonl", None, train)}


_TABLES = {
    "mathvista": _mathvista, "mathverse": _mathverse, "mathvision": _mathvision, "mmmu": _mmmu, "mmmu-pro": _mmmu_pro,
    "we-math": _we_math, "logicvista": _logicvista, "dynamath": _dynamath, "mmstar": _mmstar,
    "hallusionbench": _hallusionbench, "geometry3k": _geometry3k, "mmk12": _mmk12, "virl39k": _virl39k,
    "papo-virl39k": _papo_virl39k, "papo-mmk12": _papo_mmk12, "papo-eval": _papo_eval, "mm-eureka": _mm_eureka,
}
_ARCHIVES = {
    "virl39k": {"images.zip": {f"images/Processed-{k}-0.jpg": 1200 + k for k in range(1, 6)}
                | {"images/Processed-3-1.jpg": 1299}},
    "papo-eval": {
        f"{zipped}_images.zip": {f"{split}/{split}_{k}_0.png": 1500 + 10 * n + k for k in range(len(asked))}
        for n, (split, (zipped, asked)) in enumerate(_PAPO_EVAL.items())
    },
    "mm-eureka": {
        "K12.zip": {f"{_EUREKA}/K12/cats.png": 1601, f"{_EUREKA}/K12/ab.png": 1602},
        "MMPR.zip": {f"{_EUREKA}/MMPR/images/x.png": 1603},
    },
}
