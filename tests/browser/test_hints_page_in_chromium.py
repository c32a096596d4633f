"""The page of `hints show` in a headless Chromium: what one sees, and that what data holds stays words."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("selenium", reason="needs `pip install 'ptdpo[browser]'`")

from chromium import browser, requests_of
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from hint_examples import examples, write_run
from ptdpo_cli.artifacts.schemas import Cost, Hint, Problem, Salient
from ptdpo_cli.stages.hints_page import verdict_of, write_page
from ptdpo_cli.stages.show import lay_over, map_shares
from test_hints_page import HOSTILE

pytestmark = pytest.mark.browser

# WCAG 2: contrast of an element's text against what lies behind it.
CONTRAST = """
const channel = (c) => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
const colour = (text) => text.match(/[\\d.]+/g).map(Number);
const behind = (one) => { for (; one; one = one.parentElement) {
  const found = colour(getComputedStyle(one).backgroundColor);
  if (found.length === 3 || found[3] === 1) return found;
} return [255, 255, 255]; };
return [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() && !one.matches(":disabled")
  && [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())).map((one) => {
    const [high, low] = [light(colour(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
    return [(high + .05) / (low + .05), one.tagName + "." + one.className];
  }).sort((a, b) => a[0] - b[0])[0];
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("browser") / "run"
    hints = write_run(run, examples(60))
    return hints, write_page(hints)["page"]


@pytest.fixture(scope="module")
def desktop(run, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        driver.get("about:blank")
        requests_of(driver)
        yield driver


@pytest.fixture
def page(desktop, run):
    desktop.get(f"file://{run[1]}")
    return desktop


def cards(driver) -> list[str]:
    """The problems that are shown, after all cards were made."""
    driver.execute_script("while (made < shown.length) more();")
    return driver.execute_script("return [...document.querySelectorAll('article h2')].map((one) => one.textContent)")


def facet(driver, title: str) -> dict:
    """Value -> its checkbox and the count beside it."""
    fieldset = next(
        one for one in driver.find_elements(By.CSS_SELECTOR, "#facets fieldset")
        if one.find_element(By.TAG_NAME, "legend").text == title
    )
    return {
        label.find_element(By.TAG_NAME, "span").text: (
            label.find_element(By.TAG_NAME, "input"), int(label.find_element(By.TAG_NAME, "output").text))
        for label in fieldset.find_elements(By.TAG_NAME, "label")
    }


def faults(driver) -> list[dict]:
    return driver.get_log("browser")


def picture_on_screen(driver, selector: str) -> np.ndarray:
    """The pixels (H, W, 3) of an element as the browser draws it."""
    image = Image.open(io.BytesIO(driver.find_element(By.CSS_SELECTOR, selector).screenshot_as_png))
    return np.asarray(image.convert("RGB")).astype(float)


def test_it_opens_from_a_file_and_asks_for_nothing_else(page, run):
    assert [url for url in requests_of(page) if not url.startswith("data:")] == [f"file://{run[1]}"]
    assert page.title == "Hints of run"
    assert len(cards(page)) == 60
    loaded = "return [...document.images].map((one) => one.complete && one.naturalWidth)"
    assert len(page.execute_script(loaded)) > 60 and all(page.execute_script(loaded))
    assert faults(page) == []


def test_the_policy_keeps_out_what_is_not_the_pages_own(page):
    page.execute_script(
        "window.ran = false; document.body.append(make('script', { textContent: 'window.ran = true' }), "
        "make('img', { src: 'https://example.org/a.png' }))")
    assert page.execute_script("return window.ran") is False
    assert len([one for one in faults(page) if "Content Security Policy" in one["message"]]) == 2


def test_filters_show_what_they_say_and_count_it(page):
    made = list(examples(60))
    verdicts = Counter(verdict_of(hint, audited=True) for _, hint in made)
    assert {name: count for name, (_, count) in facet(page, "Verdict").items()} == verdicts
    assert {name: count for name, (_, count) in facet(page, "Source").items()} == Counter(h.source for _, h in made)
    assert {name: count for name, (_, count) in facet(page, "Category").items()} == Counter(p.category for p, _ in made)

    facet(page, "Verdict")["refused"][0].click()
    refused = [problem.problem_id for problem, hint in made if hint.refusal]
    assert cards(page) == refused
    assert page.find_element(By.ID, "summary").text.startswith(f"{len(refused)} of the 60 hints")
    by_source = Counter(hint.source for _, hint in made if hint.refusal)
    assert {name: count for name, (_, count) in facet(page, "Source").items() if count} == by_source
    assert {name: count for name, (_, count) in facet(page, "Verdict").items()} == verdicts     # heeds not itself

    facet(page, "Source")["expert"][0].click()
    assert len(cards(page)) == by_source["expert"]
    page.find_element(By.ID, "clear").click()
    page.find_element(By.ID, "search").send_keys("perimeter RECTANGLE")
    assert cards(page) == [problem.problem_id for problem, _ in made if "perimeter" in problem.question]
    page.find_element(By.ID, "search").send_keys(" zebra")
    assert cards(page) == [] and "No hint is like that." in page.find_element(By.ID, "hints").text


def test_effects_and_orders(page):
    said = page.execute_script("return hints.map((hint) => [hint.id, hint.samples ? hint.hinted - hint.plain : null])")
    gains = {name: gain for name, gain in said if gain is not None}
    counts = {name: count for name, (_, count) in facet(page, "Effect").items()}
    assert counts["helps"] == sum(gain > 0 for gain in gains.values())
    assert counts["hurts"] == sum(gain < 0 for gain in gains.values())
    assert counts["not measured"] == len(said) - len(gains)
    for order, sign in (("most gain first", -1), ("least gain first", 1)):
        Select(page.find_element(By.ID, "order")).select_by_visible_text(order)
        found = [gains[name] for name in cards(page) if name in gains]
        assert found == sorted(gains.values(), key=lambda gain: sign * gain)
        assert set(cards(page)[len(gains) :]).isdisjoint(gains)
    Select(page.find_element(By.ID, "order")).select_by_visible_text("refused first, by reason")
    refused = {problem.problem_id for problem, hint in examples(60) if hint.refusal}
    assert set(cards(page)[: len(refused)]) == refused


def test_a_map_lies_over_the_right_cells(page):
    """What the browser draws of the first card against what the toolkit draws, pixel by pixel."""
    problem, hint = next(examples(1))
    page.find_element(By.CSS_SELECTOR, "input[value=Map]").find_element(By.XPATH, "..").click()
    drawn = picture_on_screen(page, "article .frame")
    assert drawn.shape == (336, 336, 3)         # 48 pixels seven times
    plain = Image.open(io.BytesIO(problem.images[0])).convert("RGB").resize((336, 336), Image.Resampling.NEAREST)
    expected = np.asarray(lay_over(plain, map_shares(hint.maps)[0])).astype(float)
    assert np.abs(drawn - expected).mean() < 1.5
    page.find_element(By.CSS_SELECTOR, "input[value=Plain]").find_element(By.XPATH, "..").click()
    assert np.abs(picture_on_screen(page, "article .frame") - np.asarray(plain)).max() <= 1


def test_boxes_and_maps_have_the_place_of_their_picture(page):
    cards(page)
    places = page.execute_script("""
      const of = (one) => { const at = one.getBoundingClientRect(); return [at.x, at.y, at.width, at.height]; };
      return [...document.querySelectorAll("article")].map((card, i) => ({ hint: shown[i], frames:
        [...card.querySelectorAll(".frame")].map((frame) => ({ picture: of(frame.querySelector("img")),
          map: [...frame.querySelectorAll("canvas")].map(of),
          boxes: [...frame.querySelectorAll(".box")].map(of) })) }))""")
    compared = Counter()
    for card in places:
        for index, frame in enumerate(card["frames"]):
            x, y, width, height = frame["picture"]
            for place in frame["map"]:
                assert place == pytest.approx(frame["picture"], abs=0.5)
                compared["maps"] += 1
            regions = [one for one in card["hint"].get("regions", []) if one["image"] == index]
            assert len(frame["boxes"]) == len(regions)
            for place, region in zip(frame["boxes"], regions, strict=True):
                x0, y0, x1, y1 = region["box"]
                expected = (x + x0 * width, y + y0 * height, (x1 - x0) * width, (y1 - y0) * height)
                assert place == pytest.approx(expected, abs=0.5)
                compared["boxes"] += 1
    assert compared["maps"] > 40 and compared["boxes"] > 100


def test_the_switch_shows_map_boxes_both_or_neither(page):
    visible = "return ['canvas', '.box'].map((name) => document.querySelector('article ' + name).checkVisibility())"
    modes = {"Map": [True, False], "Boxes": [False, True], "Plain": [False, False], "Both": [True, True]}
    for mode, expected in modes.items():
        page.find_element(By.CSS_SELECTOR, f"input[value={mode}]").find_element(By.XPATH, "..").click()
        assert page.execute_script(visible) == expected, mode


def test_answers_can_be_hidden_until_asked_for(page):
    opened = "return [...document.querySelectorAll('.answer')].filter((one) => one.open).length"
    assert page.execute_script(opened) > 0
    page.find_element(By.ID, "answers").click()
    cards(page)
    assert page.execute_script(opened) == 0         # also those made since
    page.find_element(By.CSS_SELECTOR, ".answer summary").click()
    assert page.execute_script(opened) == 1


def test_keys_move_from_hint_to_hint(page):
    body = page.find_element(By.TAG_NAME, "body")
    at = "return document.activeElement.querySelector('h2')?.textContent"
    body.send_keys("j")
    first = page.execute_script(at)
    page.switch_to.active_element.send_keys("j" * 30)
    wanted = [problem.problem_id for problem, _ in examples(60)]
    assert first == wanted[0] and page.execute_script(at) == wanted[30]     # further than the first batch
    page.switch_to.active_element.send_keys("k" + Keys.ARROW_LEFT + Keys.ARROW_RIGHT)
    assert page.execute_script(at) == wanted[29]
    top = page.execute_script("return document.activeElement.getBoundingClientRect().top")
    assert 0 <= top < 40
    page.switch_to.active_element.send_keys("/")
    page.switch_to.active_element.send_keys("jam")
    assert page.find_element(By.ID, "search").get_attribute("value") == "jam"       # letters are letters there


def test_cards_come_as_one_scrolls(page):
    count = "return document.querySelectorAll('article').length"
    assert page.execute_script(count) < 60
    for _ in range(20):
        page.execute_script("scrollTo(0, document.body.scrollHeight)")
        page.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 50))")
    assert page.execute_script(count) == 60


def test_what_data_holds_stays_words(tmp_path):
    image = Image.new("RGB", (8, 8), "teal")
    data = io.BytesIO()
    image.save(data, "PNG")
    texts = [HOSTILE, "<img src=x onerror=alert(3)>", "javascript:alert(4)", "<svg onload=alert(5)>", "{{constructor}}"]
    made = []
    for i, text in enumerate(texts):
        problem = Problem(f"{i}{text}", text, (data.getvalue(),), text, text, text, choices=(text,))
        region, cost = Salient(0, text, (0, 0, 1, 1)), Cost(text, 1, 2, 3)
        made.append((problem, Hint(problem.problem_id, text, text, (text,), source=text, flags=(text,), fault=text,
                                   regions=(region,), cost=cost)))
        other = Problem(f"r{i}{text}", text, (), text, text, text)
        made.append((other, Hint(other.problem_id, None, source=text, refusal=text, refused=text, span=(0, len(text)))))
    result = write_page(write_run(tmp_path / "<img src=x onerror=alert(6)>", made), tmp_path / "hints.html")
    with browser(tmp_path / "profile") as driver:
        driver.get("about:blank")
        requests_of(driver)
        driver.get(f"file://{result['page']}")
        assert len(cards(driver)) == 10         # an alert would be an error here
        assert [url for url in requests_of(driver) if not url.startswith("data:")] == [f"file://{result['page']}"]
        assert faults(driver) == []
        assert driver.execute_script("return document.querySelectorAll('main img').length") == 5
        found = "return document.querySelectorAll('svg, iframe, [onerror], [onload], main a, main script').length"
        assert driver.execute_script(found) == 0
        asked = "return [...document.querySelectorAll('.question')].map((one) => one.textContent)"
        assert driver.execute_script(asked) == [text for text in texts for _ in range(2)]
        assert driver.execute_script("return document.querySelector('mark').textContent") == HOSTILE


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone_nothing_scrolls_sideways_and_all_can_be_read(run, tmp_path, dark):
    with browser(tmp_path / "profile", width=360, height=740, dark=dark) as driver:
        driver.get(f"file://{run[1]}")
        cards(driver)
        widths = "return [document.documentElement.scrollWidth, innerWidth]"
        assert driver.execute_script(widths) == [360, 360]
        ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) == dark
        assert not driver.find_element(By.ID, "search").is_displayed()
        driver.find_element(By.CSS_SELECTOR, "#controls summary").click()
        assert driver.find_element(By.ID, "search").is_displayed()
        assert driver.execute_script(widths) == [360, 360]
        contrast, where = driver.execute_script(CONTRAST)
        assert contrast >= 4.5, where


def test_everything_has_a_name(page):
    cards(page)
    unnamed = page.execute_script("""
      return [...document.querySelectorAll("input, select, button, img, article, fieldset")]
        .filter((one) => !(one.alt || one.labels?.length || one.textContent.trim() || one.ariaLabel))
        .map((one) => one.outerHTML)""")
    assert unnamed == []
    assert "highest in row" in page.find_element(By.CSS_SELECTOR, "article img").get_attribute("alt")
