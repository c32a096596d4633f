import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from ptdpo_cli.datasets import digit_grid
from ptdpo_cli.errors import UsageError
from ptdpo_cli.models.load import load_policy
from ptdpo_cli.models.processor import load_processor
from ptdpo_cli.models.tiny import build_tiny
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages import sft
from ptdpo_cli.stages.sft import Phase, SftSettings, Share, Warmup, collate, make_base, run_sft, sft_examples


def drawn(count=60, **kwargs):
    pairs = digit_grid.load_with_grids("train", count=count, **kwargs)
    return [problem for problem, _ in pairs], {problem.problem_id: grid for problem, grid in pairs}


def take(n, problems, mix, grids=None):
    return list(itertools.islice(sft_examples(problems, mix, np.random.default_rng(0), instruction="", grids=grids), n))


def text(example):
    return example.messages[0]["content"][-1]["text"]


def test_shares_are_drawn_by_weight_and_the_hint_goes_where_it_is_asked_for():
    problems, _ = drawn()
    examples = take(600, problems, [Share(weight=3, hint=True), Share(weight=1)])
    hinted = sum("Look only at" in text(example) for example in examples)
    assert 0.70 < hinted / 600 < 0.80


def test_kinds_choose_the_problems_and_the_solution_is_the_response():
    problems, _ = drawn()
    solutions = {problem.images: problem for problem in problems}
    for example in take(50, problems, [Share(weight=1, kinds="untaught")]):
        problem = solutions[example.images]
        assert not digit_grid.KINDS[problem.category].taught
        assert example.response == problem.solution and text(example) == problem.question
    only = take(20, problems, [Share(weight=1, kinds=("vee",))])
    assert {solutions[example.images].category for example in only} == {"vee"}


def test_random_cells_change_hint_and_response_together_and_leave_the_question():
    problems, grids = drawn(count=1)
    examples = take(40, problems, [Share(weight=1, hint=True, cells="random")], grids)
    assert len({example.response for example in examples}) > 30
    for example in examples:
        question, hint = text(example).split("\n\n")
        assert question == problems[0].question
        first = hint.removeprefix("Look only at ").split(",")[0]
        assert example.response.startswith(f"<think> {first} ")


def test_labels_cover_the_response_and_nothing_else():
    model, processor = build_tiny(0, ["user assistant"], layers=1, hidden_size=48, vision_size=32, intermediate_size=32)
    problems, _ = drawn(count=6)
    examples = take(6, problems, [Share(weight=1, hint=True), Share(weight=1)])
    inputs, labels = collate(processor, examples)
    for row, example in zip(range(6), examples, strict=True):
        learned = labels[row][labels[row] != -100]
        assert processor.tokenizer.decode(learned) == example.response + "<|im_end|>"
        kept = inputs["input_ids"][row][inputs["attention_mask"][row] == 1]
        rendered = processor.apply_chat_template(example.messages, add_generation_prompt=True, tokenize=False)
        assert processor.tokenizer.decode(kept) == rendered.replace("<|image_pad|>", 9 * "<|image_pad|>") + (
            example.response + "<|im_end|>"
        )
    alone = [collate(processor, [example]) for example in examples]
    with torch.no_grad():    # padding changes no prediction
        together = model(**inputs).logits[:, -labels.shape[1] - 1:-1].log_softmax(-1)
        for row, (one, one_labels) in enumerate(alone):
            n = one_labels.shape[1]
            expected = model(**one).logits[0, -n - 1:-1].log_softmax(-1)
            torch.testing.assert_close(together[row, :n], expected, rtol=1e-4, atol=1e-5)


def tiny_settings(**changes):
    return SftSettings(**{
        "problems": 64, "instruction": "", "warmup": Warmup(steps=2, batch_size=4), "phases": [Phase(steps=3)],
        "batch_size": 8, "micro_batch_size": 4, "bf16": False, **changes,
    })


def test_the_same_seed_saves_the_same_weights_in_a_folder_that_opens(tmp_path):
    from transformers import AutoModelForImageTextToText

    steps = []
    settings = tiny_settings(phases=[Phase(steps=1, mix=[Share(weight=1, cells="all")]), Phase(steps=2)])
    metrics = run_sft(settings, tmp_path / "a", seed=5, progress=lambda step, m: steps.append((m["part"], step)))
    run_sft(settings, tmp_path / "b", seed=5)
    assert steps == [("warmup", 1), ("warmup", 2), ("sft", 1), ("sft", 2), ("sft", 3)]
    assert metrics["loss"] > 0 and 0 <= metrics["token_accuracy"] <= 1 and metrics["steps"] == 3
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert '"padding":null' in (tmp_path / "a" / "tokenizer.json").read_text().replace(" ", "")
    AutoModelForImageTextToText.from_pretrained(tmp_path / "a")
    assert load_processor(tmp_path / "a").tokenizer.eos_token == "<|im_end|>"


def test_a_frozen_vision_tower_stays_as_it_was(tmp_path):
    from transformers import AutoModelForImageTextToText

    run_sft(tiny_settings(), tmp_path / "start", seed=0)
    settings = tiny_settings(model=str(tmp_path / "start"), warmup=Warmup(), freeze_vision=True)
    run_sft(settings, tmp_path / "end", seed=0)
    folders = [tmp_path / name for name in ("start", "end")]
    start, end = (AutoModelForImageTextToText.from_pretrained(folder).state_dict() for folder in folders)
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved and not any("visual" in name for name in moved)


def test_a_user_s_problems_are_learned_from_a_given_checkpoint(tmp_path):
    run_sft(tiny_settings(), tmp_path / "start", seed=0)
    problems = [
        dataclasses.replace(problem, solution="<think>easy</think>\\boxed{7}", source="mine", category="")
        for problem in digit_grid.load("train", count=4)
    ]
    losses = []
    settings = tiny_settings(
        model=str(tmp_path / "start"), warmup=Warmup(), phases=[Phase(steps=15)], warmup_steps=2, learning_rate=3e-3,
    )
    run_sft(settings, tmp_path / "end", seed=0, problems=problems, progress=lambda _, m: losses.append(m["loss"]))
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("micro_batch_size", [3, 8])
def test_micro_batches_give_the_same_loss_and_step_as_one_batch(micro_batch_size):
    problems, _ = drawn(count=8)
    examples = take(8, problems, [Share(weight=1, hint=True), Share(weight=1)])

    def stepped(size):
        model, processor = build_tiny(0, ["user assistant"], layers=1, hidden_size=48, intermediate_size=32)
        settings = tiny_settings(optimizer="adamw", micro_batch_size=size)
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1)]
        metrics = sft._update(model, processor, examples, optimizers, settings)
        return metrics["loss"], torch.cat([parameter.flatten() for parameter in model.parameters()])

    (loss, weights), (whole_loss, whole_weights) = stepped(micro_batch_size), stepped(100)
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    torch.testing.assert_close(weights, whole_weights, rtol=1e-4, atol=1e-5)


def test_the_kinds_of_shares_drawn_follow_the_weights():
    problems, grids = drawn()
    mix = [Share(weight=0.2, kinds="taught"), Share(weight=0.8, kinds="untaught", cells="random")]
    kind_of = {problem.images: problem.category for problem in problems}
    counts = Counter(digit_grid.KINDS[kind_of[e.images]].taught for e in take(500, problems, mix, grids))
    assert 0.15 < counts[True] / 500 < 0.25


def test_the_stage_makes_a_policy_artifact_once(tmp_path):
    section = tiny_settings().model_dump(mode="json", exclude={"instruction"})
    recipe = Recipe.model_validate({"prompt": {"instruction": "Think."}, "sft": section})
    policy, was_there = make_base(recipe, tmp_path)
    assert not was_there and policy.manifest.kind == "policy" and policy.manifest.stage == "sft"
    assert policy.manifest.section["instruction"] == "Think."
    assert policy.manifest.extra["weights"] == load_policy(policy.path).hashes["weights"]
    again, was_there = make_base(recipe, tmp_path)
    assert was_there and again.path == policy.path
    with pytest.raises(UsageError, match=r"sft\.phases\.0\.mix\.0\.wieght"):
        make_base(Recipe(sft={"phases": [{"steps": 1, "mix": [{"weight": 1, "wieght": 1}]}]}), tmp_path)


def test_what_cannot_be_trained_on_is_refused_before_anything_starts(tmp_path):
    problems = [dataclasses.replace(problem, solution=None) for problem in digit_grid.load("train", count=3)]
    with pytest.raises(UsageError, match="worked solution"):
        run_sft(tiny_settings(), tmp_path, seed=0, problems=problems)
    problems = digit_grid.load("train", count=3)
    with pytest.raises(UsageError, match="only for digit-grid"):
        run_sft(
            tiny_settings(phases=[Phase(steps=1, mix=[Share(weight=1, cells="random")])]),
            tmp_path, seed=0, problems=problems,
        )
    with pytest.raises(UsageError, match="no problems"):
        run_sft(
            tiny_settings(phases=[Phase(steps=1, mix=[Share(weight=1, kinds=("vee",))])]),
            tmp_path, seed=0, problems=problems,
        )
    assert not list(tmp_path.iterdir())
