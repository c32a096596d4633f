"""From a problem to the tensors of a forward: prompts with image tokens and M-RoPE positions, and padded batches.

Shapes: L prompt tokens, B rows, T response tokens, N packed response tokens.
Positions are computed once per prompt, from its final ids; a response continues from the prompt's largest position + 1.
Image tokens are expanded once, by the processor, and checked here against the image features that the model will make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ptdpo_cli.artifacts.schemas import Salient
from ptdpo_cli.errors import PtdpoError, UsageError
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.prompt import user_message

_LISTED = 10  # problems named in a message
_SOMETHING = "\ue000"  # a system turn that has no character in common with any other


@dataclass(frozen=True, eq=False)
class Prompt:
    """One context as the model reads it; rollouts of one problem share one Prompt object."""

    problem_id: str
    token_ids_L: torch.Tensor
    type_ids_L: torch.Tensor  # 0 text, 1 image
    positions_3L: torch.Tensor  # time, height, width; a single row where the model's positions are plain
    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None  # one row per picture; None where all pictures are scaled to one size
    text: str
    images: tuple[Image.Image, ...]

    @property
    def n_image_tokens(self) -> int:
        return int(self.type_ids_L.eq(1).sum())

    def __len__(self) -> int:
        return len(self.token_ids_L)


@dataclass(frozen=True)
class Context:
    """What a prompt is made of: a problem's question and pictures, and for the teacher a hint.

    The hint stands below the question, or with `in_system` in the system's turn; `regions` are drawn on the pictures.
    """

    problem_id: str
    question: str
    images: Sequence[bytes] = ()
    hint: str | None = None
    in_system: bool = False
    regions: Sequence[Salient] = ()


class PromptsTooLong(UsageError):
    """Prompts over the limit; `tokens` says how long each is, by problem."""

    def __init__(self, tokens: dict[str, int], max_tokens: int, *, limit: str):
        listed = [f"{problem_id}: {n} tokens" for problem_id, n in list(tokens.items())[:_LISTED]]
        more = [f"and {len(tokens) - _LISTED} more"] if len(tokens) > _LISTED else []
        super().__init__(
            f"{len(tokens)} {'prompt is' if len(tokens) == 1 else 'prompts are'} too long",
            expected=f"at most {max_tokens} tokens ({limit})",
            found=", ".join(listed + more),
            hint="raise the limit, or leave them out with `--set prompt.too_long=skip`: prompts are never cut",
        )
        self.tokens = tokens


def build_prompts(
    policy: Policy,
    contexts: Sequence[Context],
    *,
    instruction: str,
    max_tokens: int,
    max_pixels: int,
    limit: str = "prompt.max_prompt_tokens",
) -> list[Prompt]:
    """Prompts of several contexts, in order; `limit` says in an error where `max_tokens` comes from.

    Errors: PromptsTooLong with all that are over `max_tokens`; UsageError for a question or hint that holds media
    tokens; PtdpoError when image tokens and image features differ in number.
    """
    from ptdpo_cli.datasets.images import decode_rgb, with_boxes

    media = [policy.tokenizer.convert_ids_to_tokens(i) for i in policy.media_ids]
    texts, pictures = [], []
    for context in contexts:
        for token in media:
            if token in context.question or token in (context.hint or ""):
                raise UsageError(
                    f"problem {context.problem_id} holds the media token {token} in its text",
                    hint="remove it: pictures go into the images column, and the template places them",
                )
        texts.append(_text(policy, context, instruction))
        decoded = (
            decode_rgb(data, where=f"problem {context.problem_id}", max_pixels=max_pixels) for data in context.images
        )
        boxes = [[one.box for one in context.regions if one.image == number] for number in range(len(context.images))]
        pictures.append([with_boxes(image, of_it) for image, of_it in zip(decoded, boxes, strict=True)])
    prompts = [
        _build(policy, context, text, images) for context, text, images in zip(contexts, texts, pictures, strict=True)
    ]
    too_long = {prompt.problem_id: len(prompt) for prompt in prompts if len(prompt) > max_tokens}
    if too_long:
        raise PromptsTooLong(too_long, max_tokens, limit=limit)
    return prompts


def _text(policy: Policy, context: Context, instruction: str) -> str:
    """The prompt as the chat template writes it, one placeholder per picture."""

    def render(**hint: str | None) -> str:
        messages = user_message(context.question, len(context.images), instruction=instruction, **hint)
        return policy.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    if not (context.hint and context.in_system):
        return render(hint=context.hint)
    # Some templates write a system turn of their own where there is none. The hint goes below it, lest the teacher's
    # prompt differ in more than the hint: what differs between the two renderings, on the student's side, is that turn.
    student, teacher = render(), render(system=_SOMETHING)
    start = _n_common(student, teacher)
    end = _n_common(student[start:][::-1], teacher[start:][::-1])
    own = student[start : len(student) - end]
    return render(system=f"{own}\n\n{context.hint}" if own else context.hint)


def _n_common(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _build(policy: Policy, context: Context, text: str, images: list[Image.Image]) -> Prompt:
    features = policy.processor(text=[text], images=images or None, return_tensors="pt")
    token_ids_L = features["input_ids"][0]
    grid, pixels = features.get("image_grid_thw"), features.get("pixel_values")
    type_ids_L = token_ids_L.eq(policy.model.config.image_token_id).long()
    _require_image_tokens(policy, context, int(type_ids_L.sum()), grid)
    positions_3L = _positions(policy.model, token_ids_L, type_ids_L, grid)
    return Prompt(context.problem_id, token_ids_L, type_ids_L, positions_3L, pixels, grid, text, tuple(images))


def _require_image_tokens(policy: Policy, context: Context, n_tokens: int, grid: torch.Tensor | None) -> None:
    """As many image tokens as the vision tower will make features; where no grid says how many, at least some."""
    if grid is not None:
        n_features = int(grid.prod(-1).sum()) // policy.processor.image_processor.merge_size**2
        is_right, expected = n_tokens == n_features, n_features
    else:
        is_right, expected = bool(n_tokens) == bool(context.images), "some" if context.images else "no"
    if not is_right:
        raise PtdpoError(
            f"problem {context.problem_id}: image tokens and image features differ in number",
            expected=f"{expected} image tokens for {len(context.images)} pictures",
            found=n_tokens,
            hint="the model's processor and chat template do not belong together",
        )


def has_mrope(model) -> bool:
    """Whether positions have three rows (time, height, width); `models/support.py` refuses what is neither."""
    return hasattr(model.model, "get_rope_index")


def _positions(model, token_ids_L, type_ids_L, grid) -> torch.Tensor:
    if not has_mrope(model):
        return torch.arange(len(token_ids_L))[None]
    device = model.device
    # By name: the families order these arguments differently, and only videos need the others.
    positions_31L, _ = model.model.get_rope_index(
        input_ids=token_ids_L[None].to(device),
        mm_token_type_ids=type_ids_L[None].to(device),
        image_grid_thw=None if grid is None else grid.to(device),
    )
    return positions_31L[:, 0].cpu()


@dataclass(frozen=True)
class SharedPrompts:
    """The distinct prompts of some rows, right-padded: what rows have in common goes through the model once.

    Shapes: P distinct prompts of padded length L, B rows, T tokens of a response.
    """

    distinct: tuple[Prompt, ...]
    inputs: dict[str, torch.Tensor]
    last_P: torch.Tensor  # position of each prompt's last token
    prompt_of_B: torch.Tensor
    next_position_B: torch.Tensor  # where a row's response goes on: the prompt's largest position + 1

    def response_positions(self, first: int, stop: int) -> torch.Tensor:
        """Positions of response tokens `first` … `stop` − 1 of every row, as the model reads them."""
        positions_BT = self.next_position_B[:, None] + torch.arange(first, stop, device=self.next_position_B.device)
        return positions_BT if self.inputs["position_ids"].ndim == 2 else positions_BT.expand(3, -1, -1)


def share_prompts(prompts: Sequence[Prompt], pad_id: int, device) -> SharedPrompts:
    """Rows whose prompt is the same object share it."""
    distinct = tuple({id(prompt): prompt for prompt in prompts}.values())
    index = {id(prompt): i for i, prompt in enumerate(distinct)}
    return SharedPrompts(
        distinct,
        {name: tensor.to(device) for name, tensor in _prompt_inputs(distinct, pad_id).items()},
        torch.tensor([len(prompt) - 1 for prompt in distinct], device=device),
        torch.tensor([index[id(prompt)] for prompt in prompts], device=device),
        torch.tensor([int(prompt.positions_3L.max()) + 1 for prompt in prompts], device=device),
    )


@dataclass(frozen=True)
class Batch:
    """Responses to score, right-padded, and their prompts. Shapes: B rows, T padded response length."""

    prompts: SharedPrompts
    response_ids_BT: torch.Tensor
    mask_BT: torch.Tensor  # True: a response token

    @property
    def response_ids_N(self) -> torch.Tensor:
        """The response tokens packed in row order."""
        return self.response_ids_BT[self.mask_BT]


def build_batch(model, prompts: Sequence[Prompt], responses: Sequence[np.ndarray], *, pad_id: int) -> Batch:
    """Rows of prompt and response."""
    lengths_B1 = torch.tensor([len(response) for response in responses])[:, None]
    # Never one column alone: there is then always something to read after the prompts, and every micro-batch goes
    # through the layers equally often, for which the ranks of a distributed run wait.
    mask_BT = torch.arange(max(2, int(lengths_B1.max()))) < lengths_B1
    response_ids_BT = torch.full(mask_BT.shape, pad_id)
    response_ids_BT[mask_BT] = torch.from_numpy(np.concatenate(responses)).long()
    shared = share_prompts(prompts, pad_id, model.device)
    return Batch(shared, response_ids_BT.to(model.device), mask_BT.to(model.device))


def _prompt_inputs(prompts: Sequence[Prompt], pad_id: int) -> dict[str, torch.Tensor]:
    shape, rows = (len(prompts), max(map(len, prompts))), len(prompts[0].positions_3L)
    inputs = {
        "input_ids": torch.full(shape, pad_id),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "mm_token_type_ids": torch.zeros(shape, dtype=torch.long),
        "position_ids": torch.zeros((rows, *shape), dtype=torch.long),
    }
    for row, prompt in enumerate(prompts):
        inputs["input_ids"][row, : len(prompt)] = prompt.token_ids_L
        inputs["attention_mask"][row, : len(prompt)] = 1
        inputs["mm_token_type_ids"][row, : len(prompt)] = prompt.type_ids_L
        inputs["position_ids"][:, row, : len(prompt)] = prompt.positions_3L
    if rows == 1:
        inputs["position_ids"] = inputs["position_ids"][0]
        del inputs["mm_token_type_ids"]  # only models with M-RoPE read them
    return inputs | picture_inputs(prompts)


def picture_inputs(prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
    """The pictures of some prompts one after the other; nothing where there is none."""
    pictured = [prompt for prompt in prompts if prompt.pixel_values is not None]
    inputs = {}
    if pictured:
        inputs["pixel_values"] = torch.cat([prompt.pixel_values for prompt in pictured])
    if pictured and pictured[0].image_grid_thw is not None:
        inputs["image_grid_thw"] = torch.cat([prompt.image_grid_thw for prompt in pictured])
    return inputs
