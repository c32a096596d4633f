"""The overlap audit: what is planted is found, what only looks alike is not, and the list leaves out what it should."""

from __future__ import annotations

import io
import itertools
import json
import sys
import tracemalloc

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import ptdpo_cli.stages.overlap as stage
from command import done, jsonl, refused
from ptdpo_cli.artifacts.problems import problems_table
from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.artifacts.store import Writer
from ptdpo_cli.datasets.images import decode_rgb
from ptdpo_cli.datasets.similarity import (
    MAX_NEIGHBOURS,
    PictureIndex,
    bands,
    is_near,
    is_same_view,
    jaccard,
    look,
    near_texts,
    normalise,
)

# --- pictures ---------------------------------------------------------------------------------------------------------


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def drawing(seed: int, label: str = "7", size=(360, 280)) -> Image.Image:
    """A triangle as in a geometry book, with one number at a side."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    corners = [tuple(map(int, corner)) for corner in rng.integers(40, 240, (3, 2))]
    draw.polygon(corners, outline="black")
    for name, corner in zip("PQR", corners, strict=True):
        draw.text(corner, name, fill="black", font=ImageFont.load_default(size=16))
    middle = tuple(int(a + b) // 2 for a, b in zip(*corners[:2], strict=True))
    draw.text(middle, label, fill="black", font=ImageFont.load_default(size=22))
    return image


def bars(seed: int) -> Image.Image:
    """Bars between the same two axes, as a plotting library draws them over and over."""
    image = Image.new("RGB", (400, 300), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 20, 380, 270), outline="black")
    for tick in range(20, 270, 25):
        draw.line((34, tick, 40, tick), fill="black")
    for k, height in enumerate(np.random.default_rng(seed).integers(10, 240, 5)):
        draw.rectangle((60 + 60 * k, 270 - int(height), 100 + 60 * k, 270), fill="steelblue")
    return image


def photo(seed: int, size=(400, 300)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


# --- questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [
    ("<image>What is the AREA?", "what is the area"),
    ("Find $x$ in $\\triangle ABC$ if $\\angle A = 30^{\\circ}$.", "Find x in △ABC if ∠A = 30°"),
    ("$\\frac{1}{2}x^{2} \\leq \\sqrt{3}$", "1/2 x² ≤ √3"),
    ("$\\dfrac{\\sqrt{3}}{2}$", "√3 / 2"),
    ("$\\mathrm{AB} = 5 \\text{ cm}$", "AB=5 cm"),
    ("1,000 people × 2", "1000 people \\times 2"),
    ("Which one? A. red B. green C. blue", "Which one?\nChoices:\n(A) red\n(B) green\n(C) blue"),
    ("Which one? （A）red （B）green", "Which one? A: red B: green"),
    ("a right-angled corner", "a right angled corner"),
    ("the angle θ", "the angle $\\theta$"),
    ("What is 25% of it? <image_2>", "what is 25 percent of it"),
    ("−5", "-5"),
])
def test_normalised_the_same(one, other):
    assert normalise(one).words == normalise(other).words != ""


@pytest.mark.parametrize(("one", "other"), [
    ("Find x if AB = 5", "Find x if AB = 7"),
    ("x + 2", "x - 2"),
    ("0.5 m", "5 m"),
    ("1/2 of it", "12 of it"),
    ("2 ≤ x", "2 ≥ x"),
    ("求 3 的平方", "求 3 的立方"),
])
def test_normalised_different(one, other):
    assert normalise(one).words != normalise(other).words


def test_one_letter_with_a_full_stop_is_no_option():
    assert normalise("The line goes through point A. Find it").words == "the line goes through point a find it"
    assert normalise("See point A. Which is it? A. 3 B. 4").words == "see point a which is it 3 4"


def test_numbers_and_names_must_agree():
    """By hand: of n = 40 words one is another, so at most 3 of 2 n - 1 = 79 shingles: Jaccard about 76 / 82 = 0.93."""
    template = ("A train leaves a station at noon and goes at {} km per hour towards a town that lies far to the east "
                "while another one leaves that town at the same time and meets it after two whole hours on the way")
    one, other = normalise(template.format(60)), normalise(template.format(80))
    assert jaccard(one.words, other.words) > 0.9
    assert not is_near(one, other)
    assert list(near_texts([one], [other], 0.8)) == []
    reworded = normalise(template.format(60).replace("far to the east", "far to the west"))
    assert [pair[:2] for pair in near_texts([one], [reworded], 0.8)] == [(0, 0)]
    assert not is_near(normalise("In the figure find the length BC"), normalise("In the figure find the length AC"))
    assert not is_near(normalise("solve the equation for x"), normalise("solve the equation for y"))
    assert is_near(normalise("is it a cat"), normalise("is it the cat"))     # a and I are words


def test_near_texts_are_those_of_a_comparison_of_all_with_all():
    """The reference makes its own shingles and compares every pair."""
    rng = np.random.default_rng(0)
    words = [f"word{chr(97 + k // 26)}{chr(97 + k % 26)}" for k in range(300)]
    base = [list(rng.choice(words, rng.integers(5, 40))) for _ in range(150)]

    def changed(tokens):
        return [str(rng.choice(words)) if rng.random() < 0.06 else token for token in tokens]
    train = [normalise(" ".join(tokens)) for tokens in base]
    test = [normalise(" ".join(changed(tokens))) for tokens in base for _ in range(2)]

    def reference(a, b):
        a, b = a.words.split(), b.words.split()
        a, b = ({*t, *(f"{t[k]} {t[k + 1]}" for k in range(len(t) - 1))} for t in (a, b))
        return len(a & b) / len(a | b)
    expected = {(i, j): value for i, j in itertools.product(range(len(train)), range(len(test)))
                if (value := reference(train[i], test[j])) >= 0.7}
    found = {(i, j): value for i, j, value in near_texts(train, test, 0.7)}
    assert len(expected) > 100 and not found.keys() - expected.keys()
    assert len(found) >= 0.99 * len(expected)
    assert all(found[pair] == pytest.approx(expected[pair]) for pair in found)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95])
def test_bands_find_a_pair_at_the_threshold(threshold):
    b, r = bands(threshold)
    assert b * r <= 128
    assert 1 - (1 - threshold**r) ** b >= 0.995
    assert 1 - (1 - threshold ** (r + 1)) ** (128 // (r + 1)) < 0.995      # more rows would propose fewer pairs


def test_neighbours_of_one_text_are_bounded():
    same = [normalise(f"which of these many things has the colour called {chr(97 + k // 26)}q{chr(97 + k % 26)} here")
            for k in range(MAX_NEIGHBOURS + 50)]
    assert len(list(near_texts(same, [same[0]], 0.5))) == MAX_NEIGHBOURS


# --- looks ------------------------------------------------------------------------------------------------------------


def likeness(one: bytes, other: bytes, distance: int = 4) -> str | None:
    found = PictureIndex([look(one)], distance).find(look(other))
    return found[0][2] if found else None


@pytest.mark.parametrize("make", [drawing, photo, bars])
@pytest.mark.parametrize("change", [
    lambda image: encode(image, "JPEG", quality=40),
    lambda image: encode(scaled(image, 0.5), "JPEG", quality=75),
    lambda image: encode(scaled(image, 2), "JPEG", quality=75),
    lambda image: encode(scaled(image, 1.5), "WEBP", quality=60),
    lambda image: encode(scaled(image, 0.75)),
    lambda image: encode(image.convert("L")),
    lambda image: encode(image.convert("CMYK"), "TIFF"),
])
def test_rescaled_and_compressed_again(make, change):
    image = make(3)
    assert likeness(encode(image), change(image)) == "near"


def test_a_small_picture_is_compared_at_what_it_can_show():
    """A digit of 48 pixels and the same of 32: on 64 x 64 cells the edges of its strokes would differ."""
    def digit(figure: str) -> Image.Image:
        image = Image.new("L", (48, 48), "white")
        ImageDraw.Draw(image).text((10, -4), figure, fill="black", font=ImageFont.load_default(size=46))
        return image
    for figure in "2345":
        assert likeness(encode(digit(figure)), encode(scaled(digit(figure), 0.667))) == "near"
    assert not any(likeness(encode(digit(a)), encode(digit(b))) for a, b in itertools.combinations("2345", 2))


def test_turned_by_exif_and_behind_alpha():
    image = drawing(5)
    exif = Image.Exif()
    exif[0x0112] = 6                    # the first row is the right-hand side: stored turned by 90° to the left
    turned = encode(image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=90)
    assert likeness(encode(image), turned) == "near"
    assert likeness(encode(image), encode(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=90)) is None
    clear = image.convert("RGBA")
    clear.putdata([(0, 0, 0, 0) if pixel == (255, 255, 255, 255) else pixel for pixel in clear.getdata()])
    assert likeness(encode(image), encode(clear)) == "near"


def test_a_large_jpeg_is_decoded_at_a_reduced_size_and_looks_the_same():
    image = scaled(drawing(2), 5)
    data = encode(image, "JPEG", quality=90)
    assert decode_rgb(data, where="").size == (1800, 1400)
    reduced = decode_rgb(data, where="", least=192)
    assert 192 <= min(reduced.size) < 400
    whole = look(encode(image))                     # a PNG is decoded as a whole
    assert (whole.width, whole.height) == (1800, 1400)
    assert (look(data).hash ^ whole.hash).bit_count() <= 2 and is_same_view(look(data), whole)
    assert decode_rgb(encode(drawing(2)), where="", least=192).size == (360, 280)


def test_other_drawings_plots_and_blanks_do_not_match():
    pictures = [encode(drawing(seed)) for seed in range(12)]
    pictures += [encode(bars(seed)) for seed in range(12)]
    assert not any(likeness(a, b) for a, b in itertools.combinations(pictures, 2))
    white, grey = encode(Image.new("RGB", (300, 200), "white")), encode(Image.new("RGB", (90, 90), "lightgrey"))
    noise = np.random.default_rng(0).integers(252, 256, (200, 300, 3), dtype=np.uint8)
    for blank in (white, grey, encode(Image.fromarray(noise))):
        assert look(blank).hash is None
        assert likeness(white, blank) is None


def test_a_drawing_with_another_number_is_only_alike():
    one, other = encode(drawing(1, "3")), encode(drawing(1, "58"))
    assert imagehash.phash(decode_rgb(one, where="")) - imagehash.phash(decode_rgb(other, where="")) <= 4
    assert likeness(one, other) == "alike"
    assert likeness(one, encode(drawing(1, "3"), "JPEG", quality=50)) == "near"


def test_a_stretched_picture_is_not_the_same_view():
    image = drawing(4)
    wide = look(encode(image.resize((image.width, image.height // 2))))
    assert not is_same_view(look(encode(image)), wide)


def test_distances_are_those_of_imagehash():
    pictures = [photo(seed) for seed in range(6)] + [scaled(photo(0), 0.6)]
    looks = [look(encode(picture)) for picture in pictures]
    index = PictureIndex(looks[:-1], 40)
    found = {number: distance for number, distance, _ in index.find(looks[-1])}
    expected = [imagehash.phash(Image.fromarray(one.greys)) - imagehash.phash(Image.fromarray(looks[-1].greys))
                for one in looks[:-1]]
    assert found == {k: d for k, d in enumerate(expected) if d <= 40} and found[0] <= 2 and len(found) > 3


# --- the command ------------------------------------------------------------------------------------------------------

LONG = "The chart shows what {} shops sold in {}. By how much did the first sell more than the third one?"


def write(folder, name: str, *rows: tuple) -> object:
    """A JSONL file of (id, question, picture bytes or None); pictures lie beside it."""
    lines = []
    for problem_id, question, data in rows:
        line = {"id": problem_id, "problem": question, "answer": "3"}
        if data is not None:
            (folder / f"{problem_id}.img").write_bytes(data)
            line["images"] = [f"{problem_id}.img"]
        lines.append(line)
    return jsonl(folder / name, *lines)


def artifact(run, *problems: Problem):
    with Writer(run, "problems", key="0" * 64, stage="problems", section={}, inputs={}) as writer:
        rows, images = problems_table(problems)
        writer.write_shard(0, tables={"problems": rows, "images": images}, counts={"problems": len(rows)})
        return writer.finish().path


def pairs(out) -> dict[tuple[str, str], dict]:
    lines = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    return {(line["train_id"], line["test_id"]): line for line in lines}


def excluded(out) -> set[str]:
    return {json.loads(line)["problem_id"] for line in (out / "exclude.jsonl").read_text().splitlines()}


@pytest.fixture
def planted(tmp_path):
    """A training and a test set with three problems in common, and many that are not."""
    train = write(
        tmp_path, "train.jsonl",
        *[(f"plot-{k}", LONG.format("seven", 1990 + k), encode(bars(k))) for k in range(12)],
        *[(f"x-{k}", "Find x.", encode(drawing(k))) for k in range(12)],
        ("words", "If 3 pens cost 12 coins, how many coins do 7 pens cost in the same shop?", None),
        ("white", "How many things are there?", encode(Image.new("RGB", (80, 80), "white"))),
    )
    test = write(
        tmp_path, "test.jsonl",
        ("same-plot", LONG.format("seven", 1993).replace("the first", "the very first"),
         encode(scaled(bars(3), 0.7), "JPEG", quality=60)),
        ("same-x", "Find $x$", encode(drawing(5), "JPEG", quality=80)),
        ("same-words", "If $3$ pens cost $12$ coins, how many coins do $7$ pens cost in the same shop?", None),
        ("other-picture-question", "Which side is the longest of all sides in this triangle here?", encode(drawing(7))),
        ("other-year", LONG.format("seven", 2050), encode(bars(99))),
        ("other-x", "Find x", encode(drawing(90))),
        ("other-words", "If 3 pens cost 15 coins, how many coins do 7 pens cost in the same shop?", None),
        ("other-label", "Find x", encode(drawing(1, "58"))),
        ("white-too", "What colour is it?", encode(Image.new("RGB", (80, 80), "white"))),
    )
    return train, test


def test_from_two_files_to_the_list_to_exclude(planted, tmp_path):
    train, test = planted
    out = tmp_path / "out"
    ended = done("data", "overlap", train, test, "--out", out)
    assert ended.path == out / "exclude.jsonl"
    assert excluded(out) == {"plot-3", "x-5", "words", "x-7"}
    strong = {ids: line["kind"] for ids, line in pairs(out).items() if line["weak"] is None}
    assert strong == {("plot-3", "same-plot"): "text+image", ("x-5", "same-x"): "text+image",
                      ("words", "same-words"): "text", ("x-7", "other-picture-question"): "image"}
    weak = {ids: line for ids, line in pairs(out).items() if line["weak"]}
    assert {test_id for _, test_id in weak} == {"same-x", "other-x", "other-label"}
    assert weak["x-1", "other-label"] | {"weak": "short question", "image": "alike"} == weak["x-1", "other-label"]
    first = pairs(out)["plot-3", "same-plot"]
    assert (first["text"], first["image"]) == ("near", "near") and 0.8 <= first["jaccard"] < 1
    assert first["hamming"] <= 4 and first["test_question"].startswith("The chart")
    because = [json.loads(line)["because"] for line in (out / "exclude.jsonl").read_text().splitlines()]
    assert because[0].startswith(f"text+image: {test} same-plot, jaccard 0.")

    line = next(line for line in ended.err.splitlines() if line.startswith("│"))
    assert line.split()[3:] == ["9", "│", "2", "│", "1", "│", "1", "│", "4", "│", "44.44%", "│", "2", "│"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["train"] | {"problems": 26, "pictures": 25, "blank": 1, "unreadable": 0} == summary["train"]
    with Image.open(out / "pairs-000.png") as sheet:
        assert sheet.width == 1280 and sheet.height > 1000


def test_the_same_input_gives_the_same_bytes_and_old_sheets_go(planted, tmp_path):
    train, test = planted
    for out in (tmp_path / "a", tmp_path / "b"):
        out.mkdir()
        (out / "pairs-007.png").touch()
        done("data", "overlap", train, test, "--out", out, "-q")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["exclude.jsonl", "pairs-000.png", "pairs.jsonl", "summary.json"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_json_strict_and_several_test_sets(planted, tmp_path):
    train, test = planted
    other = write(tmp_path, "other.jsonl", ("nothing", "Name the capital of the country in the north.", None))
    out = tmp_path / "out"
    ended = done("data", "overlap", train, other, test, "--out", out, "--strict", "--sheets", 0, "--json", "-q")
    assert ended.err == ""
    assert [(t["name"], t["found"]["total"], t["weak"]) for t in ended.json["tests"]] == [
        (str(other), 0, 0), (str(test), 4, 2)]
    assert ended.json["exclude"] == str(out / "exclude.jsonl") and ended.json["sheets"] == []
    assert not list(out.glob("*.png"))
    assert excluded(out) == {"plot-3", "words"} | {f"x-{k}" for k in range(12)}       # "Find x.", whichever the picture


def test_thresholds(planted, tmp_path):
    train, test = planted
    out = tmp_path / "out"
    done("data", "overlap", train, test, "--out", out, "--text", 1, "--image", 0, "-q")
    assert pairs(out)["plot-3", "same-plot"]["kind"] == "image"
    assert "words" in excluded(out)


def test_artifacts_and_a_drawn_set(tmp_path):
    picture = encode(drawing(2))
    train = artifact(tmp_path / "run", Problem("a", "What is it?", (picture,), "1"), Problem("b", "Who?", (), "2"))
    test = write(tmp_path, "test.jsonl", ("t", "Say what you see in this picture.", picture))
    out = tmp_path / "out"
    done("data", "overlap", train, test, "--out", out, "-q")
    assert pairs(out)["a", "t"] | {"kind": "image", "image": "same", "hamming": 0} == pairs(out)["a", "t"]
    done("data", "overlap", tmp_path / "run" / "problems", train, "--out", out, "-q")
    assert excluded(out) == {"a", "b"}
    ended = done("data", "overlap", train, "digit-grid", "--out", out, "--json", "-q")
    assert ended.json["tests"][0]["problems"] > 100 and excluded(out) == set()


def test_columns(tmp_path):
    train = jsonl(tmp_path / "train.jsonl", {"text": "How many are 7 and 12 and 3?", "label": 22})
    test = jsonl(tmp_path / "test.jsonl", {"text": "How many are 7 and 12 and 3?", "label": 22})
    ended = done("data", "overlap", train, test, "--out", tmp_path / "out", "--columns", "problem=text,answer=label",
                 "--json", "-q")
    assert ended.json["excluded"] == 1


# --- how much a match says --------------------------------------------------------------------------------------------


def audit(tmp_path, monkeypatch, train: list[Problem], test: list[Problem], **options) -> dict:
    monkeypatch.setattr(stage, "look_at", lambda name, **_: {"train": train, "test": test}[name])
    return stage.audit("train", ["test"], tmp_path / "out", sheets=0, **options)


def test_a_question_with_three_different_pictures_is_a_template(tmp_path, monkeypatch):
    question = "How many objects of any colour are there in this picture in total?"
    shown = [encode(photo(seed)) for seed in range(9)]
    test = [Problem("t", question, (shown[8],), "4")]
    train = [Problem(f"{k}", question, (shown[k],), "4") for k in range(3)]
    assert audit(tmp_path, monkeypatch, train[:2], test)["excluded"] == 2
    assert audit(tmp_path, monkeypatch, train, test)["excluded"] == 0
    assert {line["weak"] for line in pairs(tmp_path / "out").values()} == {"template"}
    # Variants of one problem are one, and so are several problems of one picture.
    family = [Problem(f"{k}", question, (shown[k],), "4", family="f") for k in range(3)]
    assert audit(tmp_path, monkeypatch, family, test)["excluded"] == 3
    copies = [Problem(f"{k}", question, (shown[0],), "4") for k in range(3)]
    assert audit(tmp_path, monkeypatch, copies, test)["excluded"] == 3
    # Seen from the other side: one training question that many test problems share.
    assert audit(tmp_path, monkeypatch, train[:1], [
        Problem(f"{k}", question, (shown[k + 3],), "4") for k in range(3)])["excluded"] == 0
    # With its own picture it is found all the same.
    again = Problem("again", question, (encode(scaled(photo(8), 0.5), "JPEG"),), "4")
    assert audit(tmp_path, monkeypatch, [*train, again], test)["excluded"] == 1


def test_templates_cost_a_few_lines(tmp_path, monkeypatch):
    question = "How many objects of any colour are there in this picture in total?"
    train = [Problem(f"{k}", question, (encode(photo(k, (24, 18)), "BMP"),), "4") for k in range(400)]
    test = [Problem(f"{k}", question, (encode(photo(1000 + k, (24, 18)), "BMP"),), "4") for k in range(30)]
    assert audit(tmp_path, monkeypatch, train, test)["pairs"] == 30 * stage.LISTED_WEAK
    assert audit(tmp_path, monkeypatch, train, test, is_strict=True)["excluded"] == 400


def test_a_picture_of_many_problems_says_nothing_alone(tmp_path, monkeypatch):
    logo = encode(photo(0))
    train = [Problem(f"{k}", f"What did the company number {k} earn in that year in millions?", (logo,), "4")
             for k in range(stage.STOCK + 1)]
    test = [Problem("same", train[7].question, (logo,), "4"), Problem("other", "Who owns it now?", (logo,), "4")]
    assert audit(tmp_path, monkeypatch, train[:-1], test)["excluded"] == stage.STOCK
    assert audit(tmp_path, monkeypatch, train, test)["excluded"] == 1
    assert excluded(tmp_path / "out") == {"7"}
    assert pairs(tmp_path / "out")["0", "other"]["weak"] == "stock picture"


def test_without_pictures_the_question_is_the_problem(tmp_path, monkeypatch):
    train = [Problem("a", "What is 2 + 2?", (), "4"), Problem("b", "What is 2 + 3?", (), "5")]
    assert audit(tmp_path, monkeypatch, train, [Problem("t", "what is $2+2$", (), "4")])["excluded"] == 1
    assert excluded(tmp_path / "out") == {"a"}
    with_picture = [Problem("t", "what is $2+2$", (encode(photo(1)),), "4")]
    assert audit(tmp_path, monkeypatch, train, with_picture)["excluded"] == 0
    assert pairs(tmp_path / "out")["a", "t"]["weak"] == "short question"


def test_one_of_several_pictures_is_enough(tmp_path, monkeypatch):
    train = [Problem("a", "Compare the two.", (encode(photo(1)), encode(photo(2))), "4")]
    test = [Problem("t", "What is on the right?", (encode(photo(3)), encode(scaled(photo(2), 0.8))), "4")]
    assert audit(tmp_path, monkeypatch, train, test)["excluded"] == 1


def test_pictures_are_not_held(tmp_path, monkeypatch):
    """200 pictures of 190 kB, made when they are asked for: 38 MB pass through, and a few at a time are there."""
    class Made:
        def __init__(self, first: int):
            self.first = first

        def __len__(self) -> int:
            return 200

        def __iter__(self):
            for k in range(self.first, self.first + 200):
                yield Problem(f"{k}", f"What is on picture {k} of the big collection?",
                              (encode(photo(k, (280, 226)), "BMP"),), "1")
    assert len(encode(photo(0, (280, 226)), "BMP")) > 185_000
    monkeypatch.setattr(stage, "look_at", lambda name, **_: Made(int(name)))
    stage.audit("0", ["1000"], tmp_path / "warm", sheets=0)
    tracemalloc.start()
    stage.audit("0", ["150"], tmp_path / "out", sheets=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(excluded(tmp_path / "out")) == 50
    assert peak < 20e6 + 40 * 2 * 190e3, peak       # at most 64 in flight, and the two of each pair of the sheet


# --- bad input --------------------------------------------------------------------------------------------------------


def test_an_unreadable_picture_is_counted_and_said(tmp_path):
    whole = encode(drawing(1))
    long = "In the figure the three corners P, Q and R are given; how long is the side that the number stands at?"
    train = artifact(tmp_path / "run", Problem("cut", long, (whole[: len(whole) // 2],), "1"),
                     Problem("good", "What?", (encode(drawing(2)),), "1"))
    test = write(tmp_path, "test.jsonl", ("t", long, encode(drawing(8))))
    ended = done("data", "overlap", train, test, "--out", tmp_path / "out")
    assert f"{train}: unreadable pictures, not compared: 1" in ended.err.replace("\n", "")
    assert excluded(tmp_path / "out") == {"cut"}            # by its question
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["train"]["unreadable"] == 1
    assert (tmp_path / "out" / "pairs-000.png").is_file()


def test_bad_rows_and_broken_files_are_passed_over_and_said(tmp_path):
    (tmp_path / "broken.img").write_bytes(encode(drawing(1))[:500])
    train = jsonl(tmp_path / "train.jsonl", {"id": "a", "problem": "What is 2 + 2?", "answer": "4"},
                  {"id": "b", "problem": "What is 3 + 3?", "answer": ""},
                  {"id": "c", "problem": "What is it?", "answer": "1", "images": ["broken.img"]})
    ended = done("data", "overlap", train, train, "--out", tmp_path / "out")
    said = " ".join(ended.err.split())
    assert "no problems, passed over: 1" in said and "unreadable pictures, not compared: 1" in said
    assert excluded(tmp_path / "out") == {"a"}             # of c nothing is left but a short question


def test_refusals(tmp_path, monkeypatch):
    good = write(tmp_path, "good.jsonl", ("a", "What?", None))
    (tmp_path / "empty.jsonl").touch()
    out = ("--out", tmp_path / "out")
    refused(2, "data", "overlap", tmp_path / "goof.jsonl", good, *out, says=("goof.jsonl", "good.jsonl"))
    refused(2, "data", "overlap", good, "mathvitsa", *out, says=("mathvitsa",))
    refused(2, "data", "overlap", good, tmp_path / "empty.jsonl", *out)
    refused(2, "data", "overlap", good, good, "--out", good, says=("is a file", "--out"))
    refused(2, "data", "overlap", good, good, *out, "--columns", "problem", says=("--columns",))
    refused(2, "data", "overlap", good, good, *out, "--text", "1.5")
    refused(2, "data", "overlap", good, *out)
    refused(2, "data", "overlap", artifact(tmp_path / "run"), good, *out, says=("no problems",))
    for module in ("imagehash", "datasketch"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            refused(2, "data", "overlap", good, good, *out, says=(module, "pip install 'ptdpo[audit]'"))
    assert not (tmp_path / "out").exists()
