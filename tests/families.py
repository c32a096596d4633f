"""Tiny random models of each family in folders of their own, and problems with no, one and several pictures."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch

from command import jsonl, png
from ptdpo_cli.models.inputs import Context, Prompt, build_prompts
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.tiny import build_tiny

QWEN = ("qwen3_vl", "qwen2_5_vl")
FAMILIES = (*QWEN, "llava")
TEXTS = ["user\nHow many red shapes are in the picture?\n\nassistant\n<think> three of them</think>\\boxed{3}"] * 4
SIZES = [(48, 48), (150, 100), (64, 90), (100, 37), (8, 8), (400, 300)]
STEPS = ["Look at the picture row by row.", "Count the shapes, then compare."]


@functools.cache
def folder(family: str) -> str:
    """The model's folder, made once per test session."""
    path = Path(_kept().name) / family
    for part in build_tiny(0, TEXTS, family=family, layers=2, hidden_size=64, intermediate_size=96):
        part.save_pretrained(path)
    return str(path)


@functools.cache
def _kept() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="ptdpo-tiny-")


def noise(size: tuple[int, int], seed: int) -> bytes:
    """A picture whose every patch differs."""
    import io

    from PIL import Image

    data = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def contexts() -> list[Context]:
    """No picture, one, and three of different sizes."""
    pictures = [noise(size, seed) for seed, size in enumerate(SIZES)]
    return [
        Context("none", "What is two and two?"),
        Context("one", "How many red shapes?", (pictures[0],)),
        Context("three", "Which of these is the brightest?", (pictures[1], pictures[2], pictures[3])),
        Context("largest", "How many?", (pictures[5],)),
    ]


def prompts_of(policy: Policy, some: list[Context]) -> list[Prompt]:
    return build_prompts(policy, some, instruction="", max_tokens=2000, max_pixels=10**7)


def responses(policy: Policy, n: int) -> list[np.ndarray]:
    """Of different lengths, free of media tokens."""
    random = np.random.default_rng(0)
    allowed = np.setdiff1d(np.arange(len(policy.tokenizer)), policy.media_ids)
    return [random.choice(allowed, 3 + 4 * i).astype(np.int32) for i in range(n)]


@torch.no_grad()
def plain_logprobs(policy: Policy, prompt: Prompt, response: np.ndarray) -> torch.Tensor:
    """Log-probs of a response from one ordinary call of the whole model on what its processor gives."""
    features = policy.processor(text=[prompt.text], images=list(prompt.images) or None, return_tensors="pt")
    ids = torch.from_numpy(response).long()[None]
    features["input_ids"] = torch.cat([features["input_ids"], ids], 1)
    features["attention_mask"] = torch.ones_like(features["input_ids"])
    if "mm_token_type_ids" in features:
        types = features["mm_token_type_ids"]
        features["mm_token_type_ids"] = torch.cat([types, types.new_zeros(ids.shape)], 1)
    logits = policy.model(**features, use_cache=False).logits[0, -ids.shape[1] - 1 : -1].float()
    logits[:, policy.media_ids] = -torch.inf
    return logits.log_softmax(1).gather(1, ids[0, :, None])[:, 0]


def mixed_data(where: Path, name: str = "mixed") -> Path:
    """Four problems: without a picture, with one (hinted), with three (hinted), and with one without a hint."""
    (where / "pictures").mkdir(parents=True, exist_ok=True)
    for i, size in enumerate(SIZES):
        (where / "pictures" / f"{i}.png").write_bytes(png(*size, ["red", "green", "blue", "white", "black", "gray"][i]))
    plain = {"solution": None, "regions": None, "steps": None}
    return jsonl(
        where / f"{name}.jsonl",
        {"problem": "What is two and two?", "images": [], "answer": "4", **plain},
        {"problem": "How many red shapes?", "images": ["pictures/0.png"], "answer": "3", **plain, "steps": STEPS},
        {"problem": "Which is brightest?", "images": [f"pictures/{i}.png" for i in (1, 2, 3)], "answer": "second",
         **plain, "steps": STEPS},
        {"problem": "Is it large?", "images": ["pictures/5.png"], "answer": "yes", **plain},
    )
