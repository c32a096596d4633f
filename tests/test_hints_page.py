"""hints show: what the page and the sheet hold. How the page behaves in a browser: tests/browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from command import done, refused
from hint_examples import examples, write, write_run
from ptdpo_cli.artifacts import store
from ptdpo_cli.artifacts.schemas import UTILITY, Cost, Hint, Problem, Salient
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import ArtifactError, UsageError
from ptdpo_cli.stages.hints_page import utility_of, verdict_of, write_page
from ptdpo_cli.stages.show import HEAT, lay_over, map_shares

HOSTILE = (
    "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> \"'&amp;&#60; "
    "\u2028\u2029 \x00 \U0001f9ea ${x} ` </style></title>"
)


class Page(HTMLParser):
    """The elements of a page as a browser would find them, and what its scripts hold by their id."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=False)
        self.tags: list[tuple[str, dict]] = []
        self.scripts: dict[str | None, str] = {}
        self._id: str | None = None
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag in ("script", "style")
        if self._inside:
            self._id = dict(attrs).get("id", tag)
            self.scripts[self._id] = ""

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts[self._id] += data

    @property
    def data(self) -> dict:
        return json.loads(self.scripts["data"])


def page_of(hints: Artifact, out, **options) -> tuple[dict, Page]:
    result = write_page(hints, out, **options)
    return result, Page(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("page") / "run"
    write_run(run, examples(40), shard_rows=16)
    return run


@pytest.fixture(scope="module")
def shown(run, tmp_path_factory):
    return page_of(Artifact.open(run / "hints"), tmp_path_factory.mktemp("out") / "hints.html")


def png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def problem(**changes) -> Problem:
    image = png(Image.new("RGB", (6, 4), "red"))
    return replace(Problem("p", "How many?", (image,), "3", category="counting"), **changes)


def test_every_hint_is_there_with_its_problem_its_verdict_and_its_maps(shown):
    result, page = shown
    cards = page.data["hints"]
    assert result["hints"] == result["of"] == len(cards) == 40
    made = {p.problem_id: (p, h) for p, h in examples(40)}
    assert [card["id"] for card in cards] == list(made)
    for card in cards:
        problem, hint = made[card["id"]]
        assert (card["question"], card["answer"], card.get("category")) == (
            problem.question, problem.answer, problem.category)
        assert card["verdict"] == verdict_of(hint, audited=True)
        assert len(card.get("pictures", [])) == len(problem.images)
        assert [(m["rows"], m["columns"]) for m in card.get("maps", [])] == [m.shape for m in hint.maps]
        assert [r["label"] for r in card.get("regions", [])] == [r.label for r in hint.regions]
        assert card.get("steps", []) == list(hint.steps) and card.get("spatial", "") == hint.spatial
    assert {card["verdict"] for card in cards} == {"passed", "flagged", "refused", "no hint", "not audited"}
    assert {card["role"] for card in cards} == {"hint", "revealing", "control"}


def test_what_data_holds_ends_no_element_and_comes_back_as_it_was(tmp_path):
    made = problem(problem_id=f"p{HOSTILE}", question=HOSTILE, choices=(HOSTILE,), solution=HOSTILE, category=HOSTILE)
    hint = Hint(
        made.problem_id, HOSTILE, HOSTILE, (HOSTILE,), source=HOSTILE, flags=(HOSTILE,), fault=HOSTILE,
        regions=(Salient(0, HOSTILE, (0, 0, 1, 1)),), cost=Cost(HOSTILE, 1, 2, 3),
    )
    run = tmp_path / "<b>run"
    hints = write_run(run, [(made, hint)])
    out = tmp_path / "hints.html"
    _, page = page_of(hints, out)
    card = page.data["hints"][0]
    assert card["question"] == card["spatial"] == card["steps"][0] == card["regions"][0]["label"] == HOSTILE
    assert page.data["about"]["run"] == "<b>run"
    assert sorted(page.scripts) == ["data", "picture-0", "script", "style"]
    assert not re.search("[<>&\u2028\u2029]", page.scripts["data"])
    assert sum(tag == "script" for tag, _ in page.tags) == 3 and not [tag for tag, _ in page.tags if tag == "img"]


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(shown):
    _, page = shown
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.scripts[tag].encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    assert [attrs for _, attrs in page.tags if "src" in attrs] == []
    assert [attrs["href"] for _, attrs in page.tags if "href" in attrs] == ["data:,", "#hints"]
    assert not re.search(r"https?://|//[a-z]+\.|url\(|@import", page.scripts["script"] + page.scripts["style"])
    code = re.sub(r"//.*", "", page.scripts["script"])
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", code)


def test_pictures_are_there_once_the_large_ones_small_the_tiny_ones_exact(tmp_path):
    rng = np.random.default_rng(0)
    tiny = png(Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)))
    large = png(Image.new("RGB", (1000, 250), "navy"))
    broken = png(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)))[:400]
    pictures = [(tiny, large), (large, tiny), (broken,)]
    made = [problem(problem_id=f"p{i}", images=images) for i, images in enumerate(pictures)]
    hints = write_run(tmp_path / "run", [(one, Hint(one.problem_id, "Look.")) for one in made])
    result, page = page_of(hints, tmp_path / "hints.html")
    assert [card["pictures"] for card in page.data["hints"]] == [[0, 1], [1, 0], [2]] and result["pictures"] == 3
    first, second, third = (json.loads(page.scripts[f"picture-{i}"]) for i in range(3))
    opened = [Image.open(io.BytesIO(base64.b64decode(one["url"].split(",")[1]))) for one in (first, second)]
    assert [(one.format, one.size) for one in opened] == [("PNG", (6, 4)), ("WEBP", (512, 128))]
    assert (second["width"], second["height"], first["tiny"], second["tiny"]) == (512, 128, True, False)
    assert opened[0].convert("RGB").tobytes() == Image.open(io.BytesIO(tiny)).tobytes()
    assert third["fault"].startswith("the image cannot be read")


def test_maps_share_one_scale_and_what_is_no_number_counts_as_nothing(tmp_path):
    maps = (np.array([[0.5, np.nan], [-1, 0.25]], np.float32), np.array([[1.0, np.inf, 0]], np.float32))
    image = png(Image.new("RGB", (6, 4), "red"))
    hints = write_run(tmp_path / "run", [(problem(images=(image, image)), Hint("p", "Look.", maps=maps))])
    _, page = page_of(hints, tmp_path / "hints.html")
    cells = [list(base64.b64decode(one["cells"])) for one in page.data["hints"][0]["maps"]]
    assert cells == [[128, 0, 0, 64], [255, 0, 0]]
    assert [share_HW.tolist() for share_HW in map_shares([np.zeros((1, 2))])] == [[[0, 0]]]


def test_a_score_that_is_no_number_does_not_break_the_page(tmp_path):
    hint = Hint("p", "Look.", regions=(Salient(0, "here", (0, 0, float("nan"), 1), float("nan")),))
    _, page = page_of(write_run(tmp_path / "run", [(problem(), hint)]), tmp_path / "hints.html")
    assert page.data["hints"][0]["regions"] == [{"image": 0, "label": "here", "box": [0, 0, None, 1], "score": None}]


def test_the_span_of_a_refusal_is_cut_by_characters(tmp_path):
    hint = Hint("p", None, refusal="the hint contains the answer: '3'", refused="🧪🧪 it is 3.", span=(9, 10))
    _, page = page_of(write_run(tmp_path / "run", [(problem(), hint)]), tmp_path / "hints.html")
    assert page.data["hints"][0]["refused"] == ["🧪🧪 it is ", "3", "."]


def test_what_a_hint_brings_comes_from_the_newest_measurement_of_these_hints(tmp_path, monkeypatch):
    made = [(problem(), Hint("p", "Look."))]
    hints = write_run(tmp_path / "run", made, measured=False)
    _, page = page_of(hints, tmp_path / "none.html")
    assert utility_of(hints) is None and "samples" not in page.data["hints"][0]
    row = {"problem_id": "p", "samples": 8, "plain_correct": 0}
    for day, (content, right) in enumerate([(hints.content_hash, 1), (hints.content_hash, 7), ("1" * 64, 3)], 1):
        monkeypatch.setattr(store, "datetime", Mock(now=lambda zone, day=day: datetime(2026, 1, day, tzinfo=zone)))
        table = pa.Table.from_pylist([row | {"hinted_correct": right}], schema=UTILITY)
        inputs = {"hints": content, "reference": str(day) * 64}
        write(tmp_path / "run", "utility", inputs, lambda shard, table=table: {"tables": {"utility": table}}, 1)
    _, page = page_of(hints, tmp_path / "hints.html")
    assert {name: page.data["hints"][0][name] for name in ("samples", "plain", "hinted")} == {
        "samples": 8, "plain": 0, "hinted": 7}


def test_a_measurement_of_more_answers_counts_before_a_newer_one(tmp_path):
    """A look at four problems after all of them were measured must not hide what was found."""
    hints = write_run(tmp_path / "run", [(problem(), Hint("p", "Look."))], measured=False)
    for answers, right in ((16, 7), (2, 0)):
        row = {"problem_id": "p", "samples": answers // 2, "plain_correct": 0, "hinted_correct": right}
        table = pa.Table.from_pylist([row], schema=UTILITY)
        write(tmp_path / "run", "utility", {"hints": hints.content_hash, "reference": str(answers) * 32},
              lambda shard, table=table, n=answers: {"tables": {"utility": table}, "counts": {"answers": n}}, 1)
    assert utility_of(hints).table("utility")["hinted_correct"].to_pylist() == [7]


def test_only_the_first_are_shown_and_the_page_knows_of_how_many(run, tmp_path):
    result, page = page_of(Artifact.open(run / "hints"), tmp_path / "hints.html", limit=17)
    assert (result["hints"], result["of"], page.data["about"]["total"]) == (17, 40, 40)
    assert len(page.data["hints"]) == 17
    last = max(number for card in page.data["hints"] for number in card.get("pictures", []))
    assert result["pictures"] == last + 1 and f"picture-{last + 1}" not in page.scripts


def test_hints_without_pictures(tmp_path):
    hints = write_run(tmp_path / "run", [(problem(images=()), Hint("p", "Look."))])
    result, page = page_of(hints, tmp_path / "hints.html", sheet=tmp_path / "sheet.png")
    assert result["pictures"] == 0 and "pictures" not in page.data["hints"][0]
    assert Image.open(tmp_path / "sheet.png").width == 320


def test_hints_whose_problems_are_not_there(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copied / "problems")
    with pytest.raises(ArtifactError, match="are not in its run"):
        write_page(Artifact.open(copied / "hints"), tmp_path / "hints.html")
    assert list(tmp_path.iterdir()) == [copied]


def test_a_hint_for_a_problem_that_there_is_not_leaves_no_half_page(tmp_path):
    hints = write_run(tmp_path / "run", [(problem(), Hint("another", "Look."))])
    with pytest.raises(ArtifactError, match="has a hint for a problem that"):
        write_page(hints, tmp_path / "hints.html")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_verdicts():
    hint = Hint("p", "Look.")
    assert verdict_of(hint, audited=True) == "passed" and verdict_of(hint, audited=False) == "not audited"
    assert verdict_of(replace(hint, flags=("short",)), audited=True) == "flagged"
    assert verdict_of(replace(hint, role="revealing"), audited=True) == "not audited"
    assert verdict_of(Hint("p", None, refusal="it leaks", fault="attention: no map"), audited=True) == "refused"
    assert verdict_of(Hint("p", None, fault="no steps"), audited=True) == "no hint"


def test_a_map_lies_on_the_picture_cell_by_cell():
    white = Image.new("RGB", (60, 40), "white")
    laid = np.asarray(lay_over(white, np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])))
    for share, colour in ((0.0, HEAT[0]), (1.0, HEAT[-1])):
        expected = 255 + colour[3] * (np.array(colour[:3]) - 255)
        cell = laid[:20, 20:40] if share else np.concatenate([laid[:20, :20], laid[:20, 40:], laid[20:, :20]])
        assert np.abs(cell - expected).max() <= 2


def test_the_sheet_shows_pictures_under_their_maps(run, tmp_path):
    result = write_page(Artifact.open(run / "hints"), tmp_path / "hints.html", sheet=tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(result["sheet"]).convert("L")).astype(float)
    made, _ = next(examples(1))
    assert [region.label for region in made.regions] == ["top-left", "top", "top-right"]
    third = 288 // 3        # of the first picture, which starts 12 pixels from the corner
    rows = [sheet[12 + k * third : 12 + (k + 1) * third, 12 : 12 + 288].mean() for k in range(3)]
    assert rows[0] > 1.4 * max(rows[1:])


def test_on_the_command_line(run, tmp_path):
    out = tmp_path / "hints.html"
    assert done("hints", "show", run / "hints", "--out", out, "--limit", 3).path == out
    result = done("hints", "show", run / "hints", "--json", "--sheet", tmp_path / "sheet.png").json
    assert result["page"] == str(run / f"hints-{Artifact.open(run / 'hints').content_hash[:8]}.html")
    assert result["hints"] == 40 and result["bytes"] > 100_000 and (tmp_path / "sheet.png").stat().st_size > 10_000
    refused(2, "hints", "show", run / "hints", "--out", tmp_path, says=("is a folder", "--out"))
    refused(2, "hints", "show", run / "hints", "--sheet", tmp_path, says=("is a folder", "--sheet"))
    refused(3, "hints", "show", run / "problems")


def test_nothing_to_draw(tmp_path):
    hints = write_run(tmp_path / "run", [])
    result, page = page_of(hints, tmp_path / "hints.html")
    assert result["hints"] == 0 and page.data["hints"] == []
    with pytest.raises(UsageError, match="no hints to draw"):
        write_page(hints, tmp_path / "hints.html", sheet=tmp_path / "sheet.png")
