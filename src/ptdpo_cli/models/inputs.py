"""From a problem to the tensors of a forward: prompts with image tokens and M-RoPE positions, and padded batches.

Shapes: B sequences, L padded length, T response tokens, N packed response tokens.
Positions are computed once per prompt, from its final ids; a response continues from the prompt's largest position + 1.
Image tokens are expanded once, by the processor, and checked here against the image features that the model will make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from ptdpo_cli.errors import PtdpoError, UsageError
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.prompt import user_message


@dataclass(frozen=True, eq=False)
class Prompt:
    """One context as the model reads it; rollouts of one problem share one Prompt object."""

    problem_id: str
    token_ids_L: torch.Tensor
    type_ids_L: torch.Tensor                # 0 text, 1 image
    positions_3L: torch.Tensor              # time, height, width
    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None     # one row per picture
    text: str
    images: tuple[Image.Image, ...]

    @property
    def n_image_tokens(self) -> int:
        return int(self.type_ids_L.eq(1).sum())

    def __len__(self) -> int:
        return len(self.token_ids_L)


@dataclass(frozen=True)
class Context:
    """What a prompt is made of: a problem's question and pictures, and for the teacher a hint."""

    problem_id: str
    question: str
    images: tuple[bytes, ...] = ()
    hint: str | None = None


def build_prompts(policy: Policy, contexts: Sequence[Context], *, instruction: str, max_tokens: int, max_pixels: int) -> list[Prompt]:
    """Prompts of several contexts, in order.

    Errors: UsageError for a prompt over `max_tokens` and for a question or hint that holds media tokens;
    PtdpoError when image tokens and image features differ in number.
    """
    from ptdpo_cli.datasets.images import decode_rgb

    media = [policy.tokenizer.convert_ids_to_tokens(i) for i in policy.media_ids]
    texts, pictures = [], []
    for context in contexts:
        for token in media:
            if token in context.question or token in (context.hint or ""):
                raise UsageError(
                    f"problem {context.problem_id} holds the media token {token} in its text",
                    hint="remove it: pictures go into the images column, and the template places them",
                )
        messages = user_message(context.question, len(context.images), hint=context.hint, instruction=instruction)
        texts.append(policy.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        pictures.append([decode_rgb(data, where=f"problem {context.problem_id}", max_pixels=max_pixels) for data in context.images])
    return [
        _build(policy, context, text, images, max_tokens)
        for context, text, images in zip(contexts, texts, pictures, strict=True)
    ]


def _build(policy: Policy, context: Context, text: str, images: list[Image.Image], max_tokens: int) -> Prompt:
    features = policy.processor(text=[text], images=images or None, return_tensors="pt")
    token_ids_L = features["input_ids"][0]
    if len(token_ids_L) > max_tokens:
        raise UsageError(
            f"the prompt of problem {context.problem_id} is too long",
            expected=f"at most {max_tokens} tokens (prompt.max_prompt_tokens)",
            found=f"{len(token_ids_L)} tokens",
            hint="raise prompt.max_prompt_tokens, or leave the problem out: prompts are never cut",
        )
    grid = features.get("image_grid_thw")
    image_id = policy.model.config.image_token_id
    type_ids_L = token_ids_L.eq(image_id).long()
    merge = policy.processor.image_processor.merge_size**2
    n_features = int(grid.prod(-1).sum()) // merge if grid is not None else 0
    if int(type_ids_L.sum()) != n_features:
        raise PtdpoError(
            f"problem {context.problem_id}: image tokens and image features differ in number",
            expected=f"{n_features} image tokens for {len(images)} pictures",
            found=int(type_ids_L.sum()),
            hint="the model's processor and chat template do not belong together",
        )
    return Prompt(
        context.problem_id,
        token_ids_L,
        type_ids_L,
        _rope_positions(policy.model, token_ids_L, type_ids_L, grid),
        features.get("pixel_values"),
        grid,
        text,
        tuple(images),
    )


def _rope_positions(model, token_ids_L, type_ids_L, grid) -> torch.Tensor:
    device = model.device
    positions_31L, _ = model.model.get_rope_index(
        token_ids_L[None].to(device), type_ids_L[None].to(device), image_grid_thw=None if grid is None else grid.to(device)
    )
    return positions_31L[:, 0].cpu()


@dataclass(frozen=True)
class Batch:
    """Prompts with their responses, right-padded, and where the response tokens are predicted."""

    model_inputs: dict[str, object]
    predicts_BL: torch.Tensor       # True at the positions whose logits predict a response token
    response_ids_N: torch.Tensor    # the tokens predicted there, packed in row order


def build_batch(model, prompts: Sequence[Prompt], responses: Sequence[torch.Tensor], *, pad_id: int) -> Batch:
    """One right-padded batch; pictures of a prompt that several rows share go through the vision tower once.

    Logits at positions L−1 … L+T−2 predict response tokens 1 … T; the last response token predicts nothing we need and
    is not fed.
    """
    lengths = [len(p) + len(r) - 1 for p, r in zip(prompts, responses, strict=True)]
    n_rows, width = len(prompts), max(lengths)
    input_ids_BL = torch.full((n_rows, width), pad_id)
    type_ids_BL = torch.zeros((n_rows, width), dtype=torch.long)
    mask_BL = torch.zeros((n_rows, width), dtype=torch.long)
    predicts_BL = torch.zeros((n_rows, width), dtype=torch.bool)
    positions_3BL = torch.zeros((3, n_rows, width), dtype=torch.long)
    for row, (prompt, response, length) in enumerate(zip(prompts, responses, lengths, strict=True)):
        start = len(prompt)
        input_ids_BL[row, :start] = prompt.token_ids_L
        input_ids_BL[row, start:length] = response[:-1]
        type_ids_BL[row, :start] = prompt.type_ids_L
        mask_BL[row, :length] = 1
        predicts_BL[row, start - 1 : length] = True
        positions_3BL[:, row, :start] = prompt.positions_3L
        positions_3BL[:, row, start:length] = prompt.positions_3L.max() + 1 + torch.arange(length - start)
    device = model.device
    inputs = {
        "input_ids": input_ids_BL.to(device),
        "attention_mask": mask_BL.to(device),
        "position_ids": positions_3BL.to(device),
        "mm_token_type_ids": type_ids_BL.to(device),
    }
    if any(prompt.pixel_values is not None for prompt in prompts):
        inputs["mm_encoder_outputs"] = {"image": _image_features(model, prompts)}
    return Batch(inputs, predicts_BL.to(device), torch.cat(list(responses)).long().to(device))


def _image_features(model, prompts: Sequence[Prompt]):
    """The vision tower's output for the distinct prompts, laid out again for every row that uses them."""
    distinct = list({id(p): p for p in prompts if p.pixel_values is not None}.values())
    grid = torch.cat([p.image_grid_thw for p in distinct]).to(model.device)
    pixels = torch.cat([p.pixel_values for p in distinct]).to(model.device)
    features = model.model.get_image_features(pixels, grid, return_dict=True)
    first, total = {}, 0
    for prompt in distinct:
        first[id(prompt)] = total
        total += len(prompt.image_grid_thw)
    order = [
        first[id(p)] + picture for p in prompts if p.pixel_values is not None for picture in range(len(p.image_grid_thw))
    ]
    features.pooler_output = [features.pooler_output[i] for i in order]
    if getattr(features, "deepstack_features", None) is not None:
        features.deepstack_features = [[level[i] for i in order] for level in features.deepstack_features]
    return features


