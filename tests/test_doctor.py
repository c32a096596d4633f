"""doctor: a sound model passes every line, and each fault, planted in a copy of the model, fails its own line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from command import TINY, done, jsonl, png, ptdpo, refused
from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.models import checks
from ptdpo_cli.models.inputs import Context, build_prompts
from ptdpo_cli.models.load import TINY_BASE, load_policy
from ptdpo_cli.stages import doctor
from ptdpo_cli.stages.workspace import Workspace


@pytest.fixture
def base(tmp_path) -> Path:
    """The shipped model as a folder of one's own, to plant a fault in."""
    folder = shutil.copytree(TINY_BASE, tmp_path / "base")
    (folder / "manifest.json").unlink()
    return folder


def edit(file: Path, change) -> None:
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))


def weights(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def examine(run: Path, *arguments: object) -> tuple[int, dict[str, dict]]:
    """Exit code and lines by name of `ptdpo doctor --json`; RUN/doctor.json says the same."""
    ended = ptdpo("doctor", *TINY, "--run", run, "--json", *arguments)
    assert ended.json == json.loads((run / "doctor.json").read_text())
    assert "Traceback" not in ended.err
    return ended.code, {line["name"]: line for line in ended.json["checks"]}


def failing(lines: dict[str, dict]) -> set[str]:
    return {name for name, line in lines.items() if line["verdict"] == "fail"}


def test_the_shipped_model_passes_every_line(tmp_path):
    code, lines = examine(tmp_path / "run")
    assert code == 0
    assert {line["verdict"] for name, line in lines.items() if name not in ("vllm", "peft")} == {"ok"}
    numbers = lines["sampler and trainer"]["numbers"]
    assert numbers["mean_nats"] <= numbers["max_nats"] < 1e-4 and numbers["tokens"] > 20
    assert numbers["max_nats_1_pictures"] == numbers["max_nats"]


def test_the_table_has_a_row_per_check_and_says_where_the_result_is(tmp_path):
    ended = done("doctor", *TINY, "--run", tmp_path / "run")
    assert str(tmp_path / "run" / "doctor.json") in ended.err
    for words in ("ok       vocabulary", "ok       blind teacher", "ok       memory"):
        assert words in ended.out


# --- planted faults ---------------------------------------------------------------------------------------------------


def blind(base: Path) -> None:
    """A vision tower that says the same of every picture."""
    weights(base, lambda t: [t[n].zero_() for n in t if "visual" in n and "merger" in n and "linear_fc2" in n])


def uniform(base: Path) -> None:
    """Weights that were never loaded: every token is as likely as any other."""
    weights(base, lambda t: [tensor.zero_() for tensor in t.values()])


def template(base: Path, old: str, new: str) -> None:
    file = base / "chat_template.jinja"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def without_pictures(base: Path) -> None:
    template(base, "<|vision_start|><|image_pad|><|vision_end|>", "")


def without_generation_prompt(base: Path) -> None:
    template(base, "add_generation_prompt", "false")


def with_two_placeholders(base: Path) -> None:
    """Image tokens expanded by the template and again by the processor."""
    template(base, "<|image_pad|>", "<|image_pad|><|image_pad|>")


def more_tokens(base: Path) -> None:
    """A tokenizer with tokens that have no embedding."""

    def add(tree: dict) -> None:
        last = dict(tree["added_tokens"][-1])
        tree["added_tokens"] += [last | {"id": 464 + i, "content": f"<new{i}>"} for i in range(3)]

    edit(base / "tokenizer.json", add)


def unmerged_patches(base: Path) -> None:
    """The processor hands out four times the tokens that the vision tower makes."""
    edit(base / "processor_config.json", lambda tree: tree["image_processor"].update(merge_size=1))


def other_image_token(base: Path) -> None:
    edit(base / "config.json", lambda tree: tree.update(image_token_id=461))


PLANTED = {
    "blind teacher": blind,
    "uniform teacher": uniform,
    "chat template: no picture": without_pictures,
    "chat template: no generation prompt": without_generation_prompt,
    "chat template: two placeholders": with_two_placeholders,
    "vocabulary": more_tokens,
    "picture geometry": unmerged_patches,
    "special tokens": other_image_token,
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_fails_its_own_line(fault, base, tmp_path):
    PLANTED[fault](base)
    code, lines = examine(tmp_path / "run", "--set", f"model.path={base}")
    name = fault.partition(":")[0]
    assert code == 1
    assert lines[name]["verdict"] == "fail" and lines[name]["hint"] and lines[name]["expected"]
    assert list(lines)[-1] == "memory"      # all lines are there, whatever failed above them
    unharmed = {"python", "torch", "model", "data", "grader", "disk", "memory"}
    assert not failing(lines) & unharmed


def test_the_sound_lines_of_a_blind_model_stay_ok(base, tmp_path):
    blind(base)
    _, lines = examine(tmp_path / "run", "--set", f"model.path={base}")
    assert failing(lines) == {"blind teacher"}


def test_other_pixel_limits_than_those_of_the_model_that_a_policy_comes_from(base, tmp_path):
    edit(base / "processor_config.json", lambda t: t["image_processor"].update(size={
        "shortest_edge": 1024, "longest_edge": 1024}))
    code, lines = examine(tmp_path / "run", "--policy", base)
    assert code == 1 and failing(lines) == {"pixel limits"}
    assert "1024 to 36864" in lines["pixel limits"]["expected"] and "1024 to 1024" in lines["pixel limits"]["found"]


def test_other_pixel_limits_than_those_of_the_rollouts_in_the_run(base, tmp_path):
    done("rollout", *TINY, "--run", tmp_path / "run")
    edit(base / "processor_config.json", lambda t: t["image_processor"].update(size={
        "shortest_edge": 1024, "longest_edge": 1024}))
    code, lines = examine(tmp_path / "run", "--set", f"model.path={base}")
    assert code == 1 and "processor" in lines["artifacts in the run"]["found"]


class Doubling:
    """A processor around another one, which puts every image token twice."""

    def __init__(self, processor):
        self.processor = processor

    def __getattr__(self, name):
        return getattr(self.processor, name)

    def __call__(self, **arguments):
        features = self.processor(**arguments)
        ids = features["input_ids"][0]
        is_image = ids.eq(self.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>"))
        features["input_ids"] = ids.repeat_interleave(1 + is_image.long())[None]
        return features


def test_doubled_image_tokens(tmp_path, small_recipe, monkeypatch):
    """The fault of a processor that is fed text in which the placeholders are expanded already.

    They are counted against what the vision tower returns; and no prompt is built of them.
    """
    policy = load_policy("tiny-base")
    doubled = replace(policy, processor=Doubling(policy.processor))
    monkeypatch.setattr(Workspace, "policy", lambda self, path: doubled)
    result = doctor.diagnose(small_recipe(), tmp_path)
    lines = {line["name"]: line for line in result["checks"]}
    assert result["verdict"] == "fail" and failing(lines) == {"image tokens", "prompts"}
    assert "48×48: 18 tokens, 9 features" in lines["image tokens"]["found"]
    assert "image tokens and image features differ" in lines["prompts"]["found"]


def test_positions_that_count_the_picture_as_text():
    """The fault of packed data: one-dimensional positions."""
    policy = load_policy("tiny-base")
    (prompt,) = build_prompts(
        policy, [Context("p", "What?", (png(64, 48),))], instruction="", max_tokens=99, max_pixels=10**6
    )
    response = torch.tensor([70, 71, 72]).int().numpy()
    assert checks.positions(policy, prompt, response, tolerance=1e-4).verdict == "ok"
    flat = replace(prompt, positions_3L=torch.arange(len(prompt)).expand(3, -1).clone())
    assert checks.positions(policy, flat, response, tolerance=1e-4).verdict == "fail"


# --- data, machine, recipe --------------------------------------------------------------------------------------------


def mixed(folder: Path) -> Path:
    """Problems without a picture, with one and with three, of several sizes."""
    for name, size in {"a": (40, 40), "b": (160, 96), "c": (48, 64)}.items():
        (folder / f"{name}.png").write_bytes(png(*size))
    step = {"steps": ["Read the number in the corner."]}
    return jsonl(
        folder / "mixed.jsonl",
        {"problem": "What is 1 + 1?", "images": [], "answer": "2", **step},
        {"problem": "How wide?", "images": ["a.png"], "answer": "40", **step},
        {"problem": "How wide is this one?", "images": ["b.png"], "answer": "160", **step},
        {"problem": "Compare.", "images": ["a.png", "b.png", "c.png"], "answer": "3", **step},
    )


def test_agreement_is_given_by_number_of_pictures(tmp_path):
    code, lines = examine(tmp_path / "run", "--data", mixed(tmp_path))
    assert code == 0, failing(lines)
    numbers = lines["sampler and trainer"]["numbers"]
    assert all(numbers[f"max_nats_{n}_pictures"] < 1e-4 for n in (0, 1, 3))
    assert "160×96: 60 tokens, 60 features" in lines["image tokens"]["found"]


def test_data_that_is_not_there_leaves_the_other_lines(tmp_path):
    code, lines = examine(tmp_path / "run", "--data", tmp_path / "nowhere.jsonl")
    assert code == 1 and failing(lines) == {"data"}
    assert lines["blind teacher"]["verdict"] == lines["image tokens"]["verdict"] == "skipped"
    assert lines["chat template"]["verdict"] == lines["disk"]["verdict"] == "ok"


def test_a_model_that_is_not_there_leaves_the_other_lines(tmp_path):
    code, lines = examine(tmp_path / "run", "--set", "model.path=nobody/nothing")
    assert code == 1 and failing(lines) == {"model", "estimate"}
    assert lines["grader"]["verdict"] == "ok" and lines["sampler and trainer"]["verdict"] == "skipped"


def test_a_question_with_a_media_token():
    """The loader of files refuses one already; a data set by name goes through no loader of ours."""
    check = checks.media_tokens_in_text(load_policy("tiny-base"), {"a": "Compare.", "b": "Compare <|image_pad|>."})
    assert check.verdict == "fail" and check.found == "1 of 2 questions hold one: b"


def test_an_answer_that_cannot_be_graded(tmp_path):
    data = mixed(tmp_path)
    data.write_text(data.read_text().replace('"answer": "3"', r'"answer": "}3{", "answer_type": "text"'))
    code, lines = examine(tmp_path / "run", "--data", data)
    assert code == 1 and failing(lines) == {"grader"} and "}3{" in lines["grader"]["found"]


def test_an_adapter_and_its_base_as_teacher(tmp_path):
    """One model in memory: the policy with its adapter on, the teacher with it off."""
    settings = ("--set", "lora.rank=4", "--set", "train.iterations=1", "--set", "train.learning_rate=0.01")
    policy = done("train", *TINY, "--run", tmp_path / "run", *settings, "-q").path
    code, lines = examine(tmp_path / "run", *settings, "--policy", policy)
    assert code == 0, failing(lines)
    assert lines["teacher = student"]["numbers"]["jsd_nats"] < 1e-6 and lines["artifacts in the run"]["verdict"] == "ok"


def test_plain_grpo_has_no_teacher_to_look_at(tmp_path):
    _, lines = examine(tmp_path / "run", "--set", "train.distill_weight=0")
    assert lines["teacher"]["verdict"] == "skipped" and "blind teacher" not in lines


def test_a_package_outside_its_range_and_one_that_is_missing(small_recipe, monkeypatch):
    installed = {"torch": "2.99.0", "transformers": "5.19.0", "peft": None, "vllm": "0.30.0"}
    monkeypatch.setattr(doctor, "_installed", installed.get)
    verdicts = {line.name: line.verdict for line in doctor.versions(small_recipe())}
    assert verdicts == {"python": "ok", "torch": "fail", "transformers": "ok", "peft": "skipped", "vllm": "ok"}


def test_a_sampler_that_disagrees(tmp_path, small_recipe, monkeypatch):
    """An engine whose log-probs are a hundredth of a nat off."""
    from ptdpo_cli.engines import Sample
    from ptdpo_cli.engines.hf import HfEngine

    class Forgetful(HfEngine):
        def sample(self, requests, sampling):
            return [Sample(s.token_ids_T, s.logprobs_T - 0.01, s.top_ids_TK, s.finish_reason)
                    for s in super().sample(requests, sampling)]

    monkeypatch.setattr(doctor, "open_engine", lambda recipe, policy: Forgetful(policy))
    lines = {line["name"]: line for line in doctor.diagnose(small_recipe(), tmp_path)["checks"]}
    assert lines["sampler and trainer"]["verdict"] == "fail"
    assert "train.mismatch_correction" in lines["sampler and trainer"]["hint"]


# --- the same checks in the stages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["vocabulary", "chat template: no generation prompt", "special tokens"])
def test_stages_refuse_such_a_model_before_any_work(fault, base, tmp_path):
    PLANTED[fault](base)
    says = (f"the check `{fault.partition(':')[0]}`",)
    refused(1, "rollout", *TINY, "--run", tmp_path / "run", "--set", f"model.path={base}", says=says)
    assert not (tmp_path / "run" / "rollouts").exists()


def test_score_ref_refuses_a_blind_teacher_and_a_blind_control_does_not_mind(base, tmp_path):
    blind(base)
    here = (*TINY, "--run", tmp_path / "run", "--set", f"model.path={base}", "-q")
    done("build-hints", *here)
    done("rollout", *here)
    refused(1, "score-ref", *here, says=("the check `blind teacher`",))
    refused(1, "train", *here, "--force", says=("the check `blind teacher`",))
    done("score-ref", *here, "--set", "teacher.context=blind")


def test_the_data_is_gone_through_once_and_few_pictures_are_kept():
    """Four problems and the part of each: no picture, the smallest, the largest and longest question, most pictures."""
    small, large = png(8, 8), png(64, 64)
    made = [
        Problem("bare", "?", (), "1"), Problem("small", "?", (small,), "1"), Problem("plain", "?", (png(16, 16),), "1"),
        Problem("large", "the longest question", (large,), "1"), Problem("two", "?", (png(9, 9), png(9, 9)), "1"),
    ]
    passes = []

    class Data(list):
        def __iter__(self):
            passes.append(1)
            return super().__iter__()

    seen = doctor.look_over(Data(made))
    assert len(passes) == 1
    assert [problem.problem_id for problem in seen.chosen] == ["large", "small", "two", "bare"]
    assert [problem.images for problem in seen.chosen] == [(large,), (small,), (png(9, 9), png(9, 9)), ()]
    assert seen.n_pictures == [0, 1, 1, 1, 2] and seen.rows == [replace(problem, images=()) for problem in made]
