"""Where a hint stands in the teacher's prompt, in which words, and that it stands nowhere else."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import families
from command import done, jsonl, refused
from ptdpo_cli.artifacts.schemas import Hint, Problem, Salient
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import UsageError
from ptdpo_cli.hints.wording import compile_wording, wording_hash
from ptdpo_cli.models.load import load_policy
from ptdpo_cli.recipe import load_recipe
from ptdpo_cli.stages.contexts import PromptBook

HINT = Hint("p", "Look left. Add them.", "Look left.", ("Add them.",), regions=(Salient(0, "left", (0, 0, 0.5, 1)),))


def picture(width: int = 48, height: int = 48) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), (90, 90, 90)).save(data, "PNG")
    return data.getvalue()


PROBLEM = Problem("p", "How many?", (picture(),), "12")


def book(policy, *overrides, hint=HINT, problem=PROBLEM) -> PromptBook:
    recipe = load_recipe(None, ["prompt.instruction=''", "rollout.max_new_tokens=16", *overrides])
    return PromptBook(recipe, policy, [problem], {"p": hint} if hint else {})


def prompts(policy, *overrides, **more):
    one = book(policy, *overrides, **more)
    return one.students(["p"])[0], one.teachers(["p"])[0]


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny-base")


def test_below_the_question_by_default(policy):
    student, teacher = prompts(policy)
    assert teacher.text == student.text.replace("How many?", "How many?\n\nLook left. Add them.")


def test_in_the_system_s_turn(policy):
    student, teacher = prompts(policy, "teacher.hint_place=system")
    assert teacher.text == "<|im_start|>system\nLook left. Add them.<|im_end|>\n" + student.text
    assert teacher.n_image_tokens == student.n_image_tokens == 9


def test_a_template_s_own_system_turn_stays(policy, monkeypatch):
    """As Qwen2.5-VL's template, which writes one where there is none."""
    own = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        + policy.processor.chat_template
    )
    monkeypatch.setattr(policy.processor, "chat_template", own)
    student, teacher = prompts(policy, "teacher.hint_place=system")
    assert student.text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>")
    assert teacher.text.replace("\n\nLook left. Add them.", "") == student.text


def test_as_boxes_on_the_picture(policy):
    student, teacher = prompts(policy, "teacher.draw_regions=true", "teacher.hint_place=nowhere")
    assert teacher.text == student.text
    changed = np.any(np.asarray(teacher.images[0]) != np.asarray(student.images[0]), axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 47, 0, 24)
    assert not changed[1:47, 1:23].any()        # an outline: what it is around stays to be seen
    assert (student.pixel_values != teacher.pixel_values).any()
    both, _ = prompts(policy), prompts(policy, "teacher.draw_regions=true")
    assert both[1].text == prompts(policy, "teacher.draw_regions=true")[1].text


def test_boxes_lie_on_their_own_picture(policy):
    problem = replace(PROBLEM, images=(picture(), picture(96, 48)))
    hint = replace(HINT, regions=(Salient(1, "right", (0.5, 0, 1, 1)),))
    student, teacher = prompts(policy, "teacher.draw_regions=true", problem=problem, hint=hint)
    same = [np.array_equal(a, b) for a, b in zip(student.images, teacher.images, strict=True)]
    assert same == [True, False]
    columns = np.nonzero(np.any(np.asarray(student.images[1]) != np.asarray(teacher.images[1]), axis=(0, 2)))[0]
    assert 47 <= columns.min() <= 49 and columns.max() == 95


def test_a_hint_without_regions_is_none_where_only_boxes_are_read(policy):
    settings = ("teacher.draw_regions=true", "teacher.hint_place=nowhere")
    assert book(policy, *settings).has_teacher("p")
    assert not book(policy, *settings, hint=replace(HINT, regions=())).has_teacher("p")
    with pytest.raises(UsageError, match="hint_place nowhere leaves the teacher without a hint"):
        load_recipe(None, ["teacher.hint_place=nowhere"])


def test_in_words_of_the_recipe(policy):
    template = "{% for step in steps %}{{ loop.index }}. {{ step }} {% endfor %}({{ spatial }})"
    _, teacher = prompts(policy, f"teacher.hint_template={template!r}")
    assert "How many?\n\n1. Add them. (Look left.)<|im_end|>" in teacher.text


@pytest.mark.parametrize("template, says", [
    ("{{ hint", "end of"), ("{{ answer }} {{ hint }}", "it names answer"), ("Look closely.", "nothing of the hint"),
    ("{{ hint.__class__.__mro__ }}", "unsafe"), ("{{ hint }}{{ 1 / 0 }}", "division"),
    ("{% for a in range(99999) %}{{ hint }}{% endfor %}", "more than 20,000 characters"),
    ("{% for a in range(999999) %}{% endfor %}{{ hint }}", "Range too big"), ("{{ steps[9] }}{{ hint }}", "steps"),
    ("{% include '/etc/passwd' %}{{ hint }}", "loader"),
])
def test_a_template_that_cannot_be_used(template, says):
    with pytest.raises(UsageError) as error:
        compile_wording(template)(HINT, "How many?")
    assert "teacher.hint_template cannot be used" in str(error.value) and says in str(error.value)


def test_what_data_holds_is_no_template():
    told = replace(HINT, text="{{ 7 * 7 }}")
    assert compile_wording("{{ hint }}")(told, "?") == "{{ 7 * 7 }}"


def test_a_question_that_holds_its_hint_is_refused(policy):
    for words in (HINT.text, HINT.spatial):
        told = book(policy, problem=replace(PROBLEM, question=f"How many? {words}"))
        with pytest.raises(UsageError, match="1 question holds its own hint"):
            told.students(["p"])
    book(policy, problem=replace(PROBLEM, question="How many? Look left."), hint=None).students(["p"])


def test_a_hint_that_is_too_long_is_refused_and_nothing_is_cut(policy):
    long = replace(HINT, text="Look left. " * 40)
    for settings in ([], ["prompt.too_long=skip"]):
        one = book(policy, "prompt.max_prompt_tokens=60", *settings, hint=long)
        assert one.fitting(["p"]) == ["p"] and one.fitting(["p"], teacher=True) == []


def test_another_wording_is_another_score_and_its_hash_is_kept(tmp_path):
    rows = ({"problem": f"How many {n}?", "images": [], "answer": "4", "steps": ["Look row by row."], "solution": None,
             "regions": None} for n in ("dots", "lines"))
    mine = ["--data", jsonl(tmp_path / "mine.jsonl", *rows), "--run", tmp_path / "run"]
    for setting in (f"model.path={families.folder('qwen3_vl')}", "prompt.instruction=''", "teacher.top_k=10",
                    "rollout.problems_per_iteration=2", "rollout.rollouts_per_problem=2", "rollout.max_new_tokens=4"):
        mine += ["--set", setting]
    done("build-hints", *mine)
    rollouts = done("rollout", *mine).path
    plain = Artifact.open(done("score-ref", *mine, "--rollouts", rollouts).path)
    worded = ["--set", "teacher.hint_template=Hint: {{ hint }}"]
    other = Artifact.open(done("score-ref", *mine, *worded, "--rollouts", rollouts).path)
    assert plain.path != other.path
    assert other.manifest.section["hint_template_sha256"] == wording_hash("Hint: {{ hint }}")
    lengths = [a.table("scores")["teacher_prompt_tokens"].to_pylist() for a in (plain, other)]
    assert all(a < b for a, b in zip(*lengths, strict=True))
    refused(2, "score-ref", *mine, "--set", "teacher.hint_template={{ nope }}", "--rollouts", rollouts,
            says=("it names nope",))
