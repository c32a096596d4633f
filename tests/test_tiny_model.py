import io
import json
import time

import pytest
import torch
from PIL import Image

from ptdpo_cli.datasets import digit_grid
from ptdpo_cli.models.processor import load_processor
from ptdpo_cli.models.prompt import user_message
from ptdpo_cli.models.tiny import build_tiny

TEXTS = ["user\nAdd up the digits in the top-left block.\n\nassistant\n<think> top-left 3</think>\\boxed{13}"] * 4


@pytest.fixture(scope="module")
def tiny():
    return build_tiny(0, TEXTS)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    for part in tiny:
        part.save_pretrained(path)
    return path


def one_input(processor, size=(48, 48)):
    problem = digit_grid.load("test", count=1)[0]
    text = processor.apply_chat_template(
        user_message(problem.question, 1, instruction=""), add_generation_prompt=True, tokenize=False,
    )
    picture = Image.open(io.BytesIO(problem.images[0])).resize(size)
    return text, processor(text=[text], images=[[picture]], return_tensors="pt")


def test_it_is_small_and_quickly_built(tiny):
    started = time.monotonic()
    model, processor = build_tiny(1, TEXTS, layers=2, hidden_size=64, intermediate_size=64, vision_size=32)
    assert time.monotonic() - started < 1
    assert 1_000_000 < tiny[0].num_parameters() < 1_500_000
    assert model(**one_input(processor)[1]).logits.shape[-1] == len(processor.tokenizer) <= 480


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone(tiny):
    state = torch.get_rng_state()
    again, other = build_tiny(0, TEXTS)[0], build_tiny(1, TEXTS)[0]
    assert torch.equal(state, torch.get_rng_state())
    pairs = zip(tiny[0].parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(again.lm_head.weight, other.lm_head.weight)


def test_any_text_can_be_encoded_and_digits_stay_single(tiny):
    tokenizer = tiny[1].tokenizer
    text = "naïve Größe 漢字 🎲 1234\n\n\t<think> x</think>\\boxed{13}"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text    # <think> is not special
    assert not any(len(token.strip("Ġ")) > 1 and any(map(str.isdecimal, token)) for token in tokenizer.get_vocab())
    assert tokenizer.convert_tokens_to_ids("<think>") in ids


def test_the_prompt_is_qwens(tiny):
    text, inputs = one_input(tiny[1])
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        f"{digit_grid.load('test', count=1)[0].question}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert int((inputs["input_ids"] == tiny[0].config.image_token_id).sum()) == 9
    several = [{"role": "system", "content": "Be brief."}, *user_message("Hello", 2)]
    rendered = tiny[1].apply_chat_template(several, tokenize=False)
    assert rendered.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|>")
    assert rendered.count("<|image_pad|>") == 2


@pytest.mark.parametrize("size, tokens", [((48, 48), 9), ((8, 8), 4), ((800, 400), 128)])
def test_pictures_of_any_size_are_brought_within_bounds(tiny, size, tokens):
    _, inputs = one_input(tiny[1], size)
    assert int((inputs["input_ids"] == tiny[0].config.image_token_id).sum()) == tokens
    assert tiny[0](**inputs).logits.isfinite().all()


def test_saved_and_opened_by_stock_classes_it_is_the_same(tiny, folder):
    from transformers import AutoModelForImageTextToText

    model, processor = AutoModelForImageTextToText.from_pretrained(folder), load_processor(folder)
    _, before = one_input(tiny[1])
    _, after = one_input(processor)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(tiny[0](**before).logits, model(**after).logits)
    ids = {token: processor.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")}
    assert model.generation_config.eos_token_id == list(ids.values())
    assert model.generation_config.pad_token_id == ids["<|endoftext|>"]


def test_the_saved_processor_describes_itself_to_stock_autoprocessor_and_vllm(folder):
    config = json.loads((folder / "processor_config.json").read_text())
    assert config["processor_class"] == "Qwen3VLProcessor"
    assert config["video_processor"]["video_processor_type"] == "Qwen3VLVideoProcessor"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6_000_000
