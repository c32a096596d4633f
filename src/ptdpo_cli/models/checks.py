"""What a model and its processor owe each other, a function per claim: `ptdpo doctor` prints them, stages require them.

A check measures and gives a `Check`; `require` turns one that failed into the error that stops a stage.

Shapes: L prompt tokens, T response tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image

from ptdpo_cli.errors import PtdpoError
from ptdpo_cli.models.inputs import Prompt, build_batch
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.logprobs import require_finite, response_hidden, response_logits
from ptdpo_cli.models.prompt import user_message
from ptdpo_cli.models.support import plain_logits

Verdict = Literal["ok", "warn", "fail", "skipped"]

# Two forwards of the same inputs give the same bits; any effect of a picture or a hint is orders above this.
_NO_EFFECT_NATS = 1e-5
_LOOKED_AT_TOKENS = 64


@dataclass(frozen=True)
class Check:
    """One claim, what was found, and what to do where it does not hold; `numbers` are for programs."""

    name: str
    verdict: Verdict
    found: str
    expected: str = ""
    hint: str = ""
    numbers: dict[str, float] = field(default_factory=dict)


def judge(name: str, holds: bool, found: str, *, otherwise: Verdict = "fail", expected="", hint="", **numbers) -> Check:
    """A check that is ok where it `holds`; expectation and hint are kept for where it does not."""
    if holds:
        return Check(name, "ok", found, numbers=numbers)
    return Check(name, otherwise, found, expected, hint, numbers)


def require(check: Check) -> None:
    """Stop with what a failed check found."""
    if check.verdict == "fail":
        raise PtdpoError(
            f"the model does not pass the check `{check.name}` of `ptdpo doctor`",
            expected=check.expected or None,
            found=check.found,
            hint=check.hint,
        )


# --- tokens -----------------------------------------------------------------------------------------------------------


def vocabulary(policy: Policy, instruction: str = "") -> Check:
    """Every id that the tokenizer can give has an embedding and a logit."""
    ids = policy.tokenizer.get_vocab().values()
    rows = {
        "config": policy.model.config.get_text_config().vocab_size,
        "embedding": policy.model.get_input_embeddings().weight.shape[0],
        "head": policy.model.get_output_embeddings().weight.shape[0],
    }
    return judge(
        "vocabulary",
        max(ids) < min(rows.values()) and rows["embedding"] == rows["head"],
        f"{len(ids)} tokens, largest id {max(ids)}; rows: " + ", ".join(f"{name} {n}" for name, n in rows.items()),
        expected="every id below the rows of embedding and head, which are equal in number",
        hint="tokenizer and weights are of different models, or tokens were added without `resize_token_embeddings`",
        tokens=len(ids),
        largest_id=max(ids),
        **{f"{name}_rows": n for name, n in rows.items()},
    )


def special_tokens(policy: Policy, instruction: str = "") -> Check:
    """The image token of the config is the processor's; end and padding ids are tokens, and not the image token."""
    tokenizer, image_id = policy.tokenizer, policy.model.config.image_token_id
    known = set(tokenizer.get_vocab().values())
    image_token = getattr(policy.processor, "image_token", None)
    faults = []
    if image_token is None or tokenizer.convert_tokens_to_ids(image_token) != image_id:
        found = None if image_token is None else tokenizer.convert_tokens_to_ids(image_token)
        faults.append(f"the image token {image_token} has id {found}, the config says {image_id}")
    if unknown := [i for i in policy.eos_ids if i not in known]:
        faults.append(f"no token has the end id {', '.join(map(str, unknown))}")
    if tokenizer.pad_token_id is None:
        faults.append("no padding token")
    if {image_id, tokenizer.pad_token_id} & set(policy.media_ids) - {image_id} or image_id in policy.eos_ids:
        faults.append("padding or end token is a media token")
    ends = ", ".join(str(tokenizer.convert_ids_to_tokens(i)) for i in policy.eos_ids if i in known)
    return judge(
        "special tokens",
        not faults,
        "; ".join(faults) or f"image {image_token} = {image_id}, end {ends}, padding {tokenizer.pad_token}",
        expected="config.json, generation_config.json and tokenizer speak of the same tokens",
        hint="copy these three from the model that the weights were trained from",
    )


def media_tokens_in_text(policy: Policy, texts: dict[str, str]) -> Check:
    """No question holds a token that stands for a picture; `texts` is problem_id -> question."""
    media = [policy.tokenizer.convert_ids_to_tokens(i) for i in policy.media_ids]
    guilty = [name for name, text in texts.items() if any(token in text for token in media)]
    return judge(
        "media tokens in text",
        not guilty,
        f"{len(guilty)} of {len(texts)} questions hold one" + (f": {', '.join(guilty[:5])}" if guilty else ""),
        expected="pictures in the images column alone",
        hint="remove <|image_pad|> and its like from these questions: the template places pictures",
    )


# --- the chat template ------------------------------------------------------------------------------------------------


_QUESTION = "What is shown?"


def _render(policy: Policy, *, n_images=1, hint=None, instruction="", generation=True) -> str:
    messages = user_message(_QUESTION, n_images, hint=hint, instruction=instruction)
    return policy.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)


def chat_template(policy: Policy, instruction: str = "") -> Check:
    """Question, instruction and one placeholder per picture are in the text, and a header for the answer ends it."""
    name, hint = "chat template", "take chat_template.jinja from the model that the weights were trained from"
    if not (policy.processor.chat_template or policy.tokenizer.chat_template):
        return Check(name, "fail", "none", "a chat template in the model's folder", hint)
    token = getattr(policy.processor, "image_token", "<|image_pad|>")
    faults = []
    for n_images in (0, 1, 2):
        text = _render(policy, n_images=n_images, instruction=instruction)
        if text.count(token) != n_images:
            faults.append(f"{text.count(token)} {token} for {n_images} pictures")
    with_header, without = _render(policy), _render(policy, generation=False)
    if not (with_header.startswith(without) and len(with_header) > len(without)):
        faults.append("no generation prompt: the text ends the same with it and without")
    if _QUESTION not in text or instruction not in text:
        faults.append("the question or the instruction is not in the text")
    return judge(
        name,
        not faults,
        "; ".join(faults) or f"one {token} per picture, answer header {with_header[len(without) :]!r}",
        expected="one placeholder per picture, question, instruction, and a header for the answer",
        hint=hint,
    )


def hint_in_prompt(policy: Policy, instruction: str = "") -> Check:
    """A hint adds itself to the text and changes nothing else."""
    told = "Look at the upper left corner."
    student, teacher = _render(policy, instruction=instruction), _render(policy, hint=told, instruction=instruction)
    return judge(
        "hint in the prompt",
        teacher.replace(f"\n\n{told}", "", 1) == student and told not in student,
        "with the hint taken out, teacher and student read the same text"
        if teacher.replace(f"\n\n{told}", "", 1) == student
        else "teacher and student read texts that differ in more than the hint",
        expected="texts that differ in the hint alone",
        hint="the chat template rewrites the user's text; use one that leaves it as it is",
    )


def thinking(policy: Policy, instruction: str = "") -> Check:
    """Who opens the thought: the template, or the model's first token."""
    header = _render(policy)[len(_render(policy, generation=False)) :]
    opens, closes = "<think>" in header, "</think>" in header
    who = "the template opens <think>" if opens else "the model opens <think> by itself"
    return judge(
        "thinking",
        not closes,
        f"{who}; the prompt ends in {header!r}" if not closes else f"the template closes the thought: {header!r}",
        otherwise="warn",
        expected="a prompt after which the model thinks",
        hint="this is a template for answers without thought: the format reward will be 0",
    )


def round_trip(policy: Policy, instruction: str = "") -> Check:
    """The ids of a prompt, as text and back, are the same ids: no engine reads another prompt than the trainer."""
    ids = policy.tokenizer(_render(policy, instruction=instruction))["input_ids"]
    again = policy.tokenizer(policy.tokenizer.decode(ids))["input_ids"]
    return judge(
        "decode and encode",
        ids == again,
        f"{len(ids)} ids, the same after decode and encode" if ids == again else "other ids after decode and encode",
        otherwise="warn",
        expected="the same ids",
        hint="the tokenizer rewrites text; an engine that is handed text may read other ids than the trainer",
    )


# --- pictures ---------------------------------------------------------------------------------------------------------


def picture_geometry(policy: Policy, instruction: str = "") -> Check:
    """The processor cuts pictures into the patches that the vision tower expects."""
    vision, images = getattr(policy.model.config, "vision_config", None), policy.processor.image_processor
    pairs = {
        "patch": (getattr(images, "patch_size", None), getattr(vision, "patch_size", None)),
        "merge": (getattr(images, "merge_size", None), getattr(vision, "spatial_merge_size", None)),
        "frames": (getattr(images, "temporal_patch_size", None), getattr(vision, "temporal_patch_size", None)),
    }
    known = {name: pair for name, pair in pairs.items() if None not in pair}
    if not known:
        return Check("picture geometry", "skipped", "neither config nor processor says how pictures are cut")
    return judge(
        "picture geometry",
        all(a == b for a, b in known.values()),
        "processor " + ", ".join(f"{name} {a}" for name, (a, _) in known.items()),
        expected="vision tower " + ", ".join(f"{name} {b}" for name, (_, b) in known.items()),
        hint="take processor_config.json or preprocessor_config.json from the model that the weights were trained from",
    )


@torch.no_grad()
def image_tokens(policy: Policy, pictures: Sequence[Sequence[Image.Image]]) -> Check:
    """As many image tokens in the processor's prompt as the vision tower really returns features, in a forward.

    `pictures` are those of each prompt.
    """
    counts = []
    for images in pictures:
        text = _render(policy, n_images=len(images))
        features = policy.processor(text=[text], images=list(images) or None, return_tensors="pt")
        n_tokens = int(features["input_ids"].eq(policy.model.config.image_token_id).sum())
        counts.append((_sizes(images), n_tokens, _n_features(policy.model, features)))
    wrong = [count for count in counts if count[1] != count[2]]
    return judge(
        "image tokens",
        not wrong,
        "; ".join(f"{sizes}: {tokens} tokens, {features} features" for sizes, tokens, features in wrong or counts),
        expected="one image token per feature of the vision tower",
        hint="placeholders were expanded twice, or processor and vision tower disagree: see `picture geometry`",
        largest=max((tokens for _, tokens, _ in counts), default=0),
    )


def _n_features(model, features) -> int:
    """How many vectors the vision tower returns for the pictures of a prompt."""
    inputs = {name: features[name].to(model.device) for name in ("pixel_values", "image_grid_thw") if name in features}
    if not inputs:
        return 0
    output = model.model.get_image_features(**inputs)
    parts = getattr(output, "pooler_output", output)
    parts = parts if isinstance(parts, (tuple, list)) else [parts]
    return sum(part.numel() // part.shape[-1] for part in parts)


def _sizes(images: Sequence[Image.Image]) -> str:
    return " + ".join(f"{image.width}×{image.height}" for image in images) or "no picture"


def pixel_limits(processor) -> tuple[int, int] | None:
    """(smallest, largest) number of pixels that a picture is scaled to; None where the processor has no such rule."""
    size = getattr(processor.image_processor, "size", None) or {}
    limits = size.get("shortest_edge"), size.get("longest_edge")
    return None if None in limits else limits


def same_pixel_limits(policy: Policy, others: dict[str, object]) -> Check:
    """The processors that a run has seen scale pictures alike; `others` is name -> processor."""
    own = pixel_limits(policy.processor)
    wrong = {name: limits for name, other in others.items() if (limits := pixel_limits(other)) != own}
    return judge(
        "pixel limits",
        not wrong,
        "no limits" if own is None else f"{own[0]} to {own[1]} pixels per picture",
        expected="; ".join(f"{a} to {b} as {name}" for name, (a, b) in wrong.items() if a is not None),
        hint="use one processor for sampling, scoring, training and evaluation: copy its configuration into this model",
    )


def picture_grids(policy: Policy, prompts: Sequence[Prompt]) -> Check:
    """Each picture's grid, computed again from its size by transformers' own rule."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    images, limits = policy.processor.image_processor, pixel_limits(policy.processor)
    pictures = [
        (image, tuple(grid))
        for prompt in prompts if prompt.image_grid_thw is not None
        for image, (_, *grid) in zip(prompt.images, prompt.image_grid_thw.tolist(), strict=True)
    ]
    if limits is None or not pictures or not hasattr(images, "merge_size"):
        return Check("picture grids", "skipped", "no pictures, or a processor without pixel limits")
    patch = images.patch_size
    faults = []
    for image, grid in pictures:
        scaled = smart_resize(image.height, image.width, patch * images.merge_size, *limits)
        expected = tuple(side // patch for side in scaled)
        if grid != expected:
            faults.append(f"{image.width}×{image.height}: grid {grid} instead of {expected}")
    return judge(
        "picture grids",
        not faults,
        "; ".join(faults) or f"{len(pictures)} pictures, up to {max(h * w for _, (h, w) in pictures)} patches each",
        expected=f"the grid of smart_resize between {limits[0]} and {limits[1]} pixels",
        hint="the image processor does not keep to its own configuration",
    )


# What can be said of a model and its processor without a forward, in milliseconds; each takes (policy, instruction).
INTERFACE = {
    "vocabulary": vocabulary,
    "special tokens": special_tokens,
    "picture geometry": picture_geometry,
    "chat template": chat_template,
    "hint in the prompt": hint_in_prompt,
    "thinking": thinking,
    "decode and encode": round_trip,
}


# --- forwards ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def response_distribution(policy: Policy, prompt: Prompt, response_ids_T: np.ndarray) -> torch.Tensor:
    """log p of every token of the vocabulary at the first response positions -> logprobs_TV."""
    response_ids_T = response_ids_T[:_LOOKED_AT_TOKENS]
    batch = build_batch(policy.model, [prompt], [response_ids_T], pad_id=policy.tokenizer.pad_token_id)
    hidden_TH = response_hidden(policy.model, batch)
    logits_TV = response_logits(policy.model, hidden_TH, media_ids=policy.media_ids, temperature=1.0)
    require_finite(logits_TV, policy.media_ids, who="model")
    return logits_TV.log_softmax(1)


def positions(policy: Policy, prompt: Prompt, response_ids_T: np.ndarray, *, tolerance: float) -> Check:
    """The positions we hand over are those that the model computes by itself, and text goes on from the largest one."""
    ours_TV = response_distribution(policy, prompt, response_ids_T)
    theirs_TV = _plain_logprobs(policy, prompt, response_ids_T[:_LOOKED_AT_TOKENS])
    largest = float((ours_TV - theirs_TV).nan_to_num(0.0).abs().max())  # masked tokens are −inf on both sides
    jumps = _jumps(prompt)
    return judge(
        "positions",
        largest <= tolerance and not jumps,
        f"largest difference from the model's own positions {largest:.1e} nats"
        + (f"; text after a picture does not go on from the largest position at token {jumps[0]}" if jumps else ""),
        expected=f"at most {tolerance:.0e} nats",
        hint="this transformers computes M-RoPE in another way; a version in the range of `ptdpo doctor`'s first lines "
        "is known to agree",
        max_difference_nats=largest,
    )


def _jumps(prompt: Prompt) -> list[int]:
    """Where text after a picture does not start at the largest position so far + 1."""
    types, positions_3L = prompt.type_ids_L, prompt.positions_3L
    after = [i for i in range(1, len(types)) if types[i] == 0 and types[i - 1] == 1]
    return [i for i in after if positions_3L[:, i].tolist() != [int(positions_3L[:, :i].max()) + 1] * len(positions_3L)]


@torch.no_grad()
def _plain_logprobs(policy: Policy, prompt: Prompt, response_ids_T: np.ndarray) -> torch.Tensor:
    """One ordinary forward over prompt and response, for which the model finds positions by itself -> logprobs_TV."""
    logits_TV = plain_logits(policy, prompt, response_ids_T)
    logits_TV[:, policy.media_ids] = float("-inf")
    return logits_TV.log_softmax(1)


def sees_pictures(policy: Policy, prompt: Prompt, response_ids_T: np.ndarray) -> Check:
    """Another picture of the same size changes what the model thinks of a response: it is not blind."""
    other = _with_other_pictures(policy, prompt)
    effect = _largest_difference(policy, prompt, other, response_ids_T)
    return judge(
        "blind teacher",
        effect > _NO_EFFECT_NATS,
        f"another picture changes the scores by up to {effect:.2g} nats",
        expected=f"a change above {_NO_EFFECT_NATS:g} nats",
        hint="the picture does not reach the model: look at the vision tower's weights and the chat template",
        effect_nats=effect,
    )


def reads_hint(policy: Policy, with_hint: Prompt, without: Prompt, response_ids_T: np.ndarray) -> Check:
    """The hint changes what the teacher thinks of a response."""
    effect = _largest_difference(policy, with_hint, without, response_ids_T)
    return judge(
        "hint changes the teacher",
        effect > _NO_EFFECT_NATS,
        f"the hint changes the scores by up to {effect:.2g} nats",
        expected=f"a change above {_NO_EFFECT_NATS:g} nats",
        hint="the hint does not reach the model: check the chat template",
        effect_nats=effect,
    )


def _largest_difference(policy: Policy, one: Prompt, other: Prompt, response_ids_T: np.ndarray) -> float:
    """Over all response positions and tokens, in nats; masked tokens have none."""
    difference_TV = response_distribution(policy, one, response_ids_T)
    difference_TV = difference_TV - response_distribution(policy, other, response_ids_T)
    return float(difference_TV.nan_to_num(0.0).abs().max())


def _with_other_pictures(policy: Policy, prompt: Prompt) -> Prompt:
    """The same prompt with noise of the same sizes for pictures, through the same processor."""
    random = np.random.default_rng(0)
    noise = [
        Image.fromarray(random.integers(0, 256, (image.height, image.width, 3), dtype=np.uint8))
        for image in prompt.images
    ]
    features = policy.processor.image_processor(images=noise, return_tensors="pt")
    return replace(prompt, pixel_values=features["pixel_values"])
