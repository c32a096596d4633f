"""Supervised fine-tuning: from worked solutions to a checkpoint. It makes the tiny base, and takes any solved problems.

Two parts. A vision warm-up (digit-grid alone) makes each image token resemble the words for what it shows: its digit,
its colour, its place. Without it, training sits for minutes on a plateau where no digit is read. Then come phases of
ordinary next-token training on the solutions, each with its own mix of examples.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ptdpo_cli.artifacts.problems import read_problems
from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.datasets import digit_grid
from ptdpo_cli.errors import UsageError
from ptdpo_cli.hints.regions import hint_from_regions
from ptdpo_cli.models.prompt import DEFAULT_INSTRUCTION, user_message
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.plan import Plan, Progress, no_progress
from ptdpo_cli.stages.problems import make_problems, plan_problems

RESOLVE = {"random": digit_grid.random_cells, "mistaken": digit_grid.mistaken, "all": digit_grid.read_all}


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Share(Settings):
    """A part of a phase's examples: which problems, with the hint in the prompt or without, solved for which cells."""

    weight: float = Field(gt=0)
    hint: bool = False
    kinds: Literal["all", "taught", "untaught"] | tuple[str, ...] = "all"  # problem categories
    cells: Literal["right", "random", "mistaken", "all"] = "right"  # all but `right` are for digit-grid, see RESOLVE


class Phase(Settings):
    """Some optimizer steps on one mix."""

    steps: int = Field(ge=1)
    mix: tuple[Share, ...] = (Share(weight=1),)


class Warmup(Settings):
    """Vision warm-up: tell each image token's digit, ground colour and place."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(64, ge=1)  # pictures
    learning_rate: float = Field(3e-3, gt=0)


class SftSettings(Settings):
    """The `sft` section of a recipe."""

    problems: int = Field(16384, ge=1)  # how many to draw from digit-grid; unused when problems are handed in
    model: str | None = None  # a checkpoint to start from; none: a new tiny model
    instruction: str = DEFAULT_INSTRUCTION
    warmup: Warmup = Warmup()
    phases: tuple[Phase, ...] = (Phase(steps=1000),)
    batch_size: int = Field(64, ge=1)
    micro_batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1.5e-3, gt=0)
    warmup_steps: int = Field(50, ge=0)  # of the learning rate, linear; a cosine to a hundredth follows
    weight_decay: float = Field(0.01, ge=0)
    optimizer: Literal["muon", "adamw"] = "muon"
    bf16: bool = True
    freeze_vision: bool = False  # keep the vision tower as warm-up or the checkpoint left it


class Example(NamedTuple):
    """One supervised example: the user's turn, its pictures, and the assistant's turn to learn."""

    messages: list[dict]
    images: Sequence[bytes]
    response: str


def sft_examples(
    problems: Sequence[Problem],
    mix: Sequence[Share],
    rng: np.random.Generator,
    *,
    instruction: str = DEFAULT_INSTRUCTION,
    grids: dict[str, digit_grid.Grid] | None = None,
) -> Iterator[Example]:
    """Endless examples: a share drawn by weight, then a problem of its kinds, solved as the share says.

    `grids` says what the pictures of digit-grid show, by problem id; only `cells` other than `right` need it.
    """
    pools = [_pool(problems, share.kinds) for share in mix]
    weights = np.array([share.weight for share in mix]) / sum(share.weight for share in mix)
    while True:
        i = rng.choice(len(mix), p=weights)
        problem = pools[i][rng.integers(len(pools[i]))]
        if mix[i].cells in RESOLVE:
            problem = RESOLVE[mix[i].cells](problem, grids[problem.problem_id], rng)
        hint = hint_from_regions(problem).text if mix[i].hint else None
        messages = user_message(problem.question, len(problem.images), hint=hint, instruction=instruction)
        yield Example(messages, problem.images, problem.solution)


def run_sft(
    settings: SftSettings,
    out_dir: Path,
    *,
    seed: int,
    problems: Sequence[Problem] | None = None,
    progress: Callable[[int, dict], None] | None = None,
) -> dict:
    """Train on `problems` (default: digit-grid's training split) and save a Hugging Face folder to `out_dir`.

    Calls `progress(step, metrics)` after each step: loss in nats per response token, token accuracy in 0…1, learning
    rate, and the step's part (`warmup` or `sft`). Returns the last metrics with the wall time.
    """

    started = time.monotonic()
    report = progress or (lambda step, metrics: None)
    grids = {}
    if problems is None:
        drawn = digit_grid.load_with_grids("train", seed=seed, count=settings.problems, kinds=tuple(digit_grid.KINDS))
        problems, grids = [problem for problem, _ in drawn], {problem.problem_id: grid for problem, grid in drawn}
    check_solutions(problems, settings, grids)

    model, processor = _start_from(settings, problems, seed)
    metrics = {}
    if settings.warmup.steps:
        metrics["digit_accuracy"] = warm_up_vision(model, processor, settings.warmup, seed=seed, progress=report)

    model.model.visual.requires_grad_(not settings.freeze_vision)
    rng = np.random.default_rng([seed, 1])
    streams = []  # one entry per step
    for phase in settings.phases:
        stream = sft_examples(problems, phase.mix, rng, instruction=settings.instruction, grids=grids)
        streams += [stream] * phase.steps
    optimizers = _optimizers(model, settings)
    model.train()
    for step, stream in enumerate(streams, start=1):
        rate = settings.learning_rate * _schedule(step, settings.warmup_steps, len(streams))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        examples = [next(stream) for _ in range(settings.batch_size)]
        metrics |= _update(model, processor, examples, optimizers, settings)
        report(step, {"part": "sft", "steps": len(streams), "learning_rate": rate, **metrics})

    model.eval()
    model.save_pretrained(out_dir)
    processor.tokenizer.backend_tokenizer.no_padding()  # of the last batch; no part of the tokenizer
    processor.save_pretrained(out_dir)
    return metrics | {"steps": len(streams), "seconds": time.monotonic() - started}


def make_base(
    recipe: Recipe,
    run: Path,
    *,
    force: bool = False,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Artifact, bool]:
    """The policy that the recipe's `sft` section describes, and whether it was there already."""
    from ptdpo_cli.models.load import load_policy

    settings = sft_settings(recipe)
    inputs, problems = {}, None
    if recipe.data.name != "digit-grid":
        table = make_problems(recipe, plan_problems(recipe, run), say=say)
        inputs, problems = {"problems": table.manifest.content_hash}, read_problems(table)
    start = load_policy(settings.model).hashes if settings.model else None
    plan = Plan(run, "policy", "sft", settings.model_dump(mode="json"), inputs=inputs, seed=recipe.seed, model=start)
    if not force and (done := plan.finished()):
        return done, True

    def show(step: int, metrics: dict) -> None:
        progress(step, metrics["steps"], f"{metrics['part']}, loss {metrics['loss']:.3f}")

    with plan.writer(force=force) as writer:
        metrics = run_sft(settings, writer.path, seed=recipe.seed, problems=problems, progress=show)
        for file in sorted(path for path in writer.path.iterdir() if path.is_file()):
            writer.add_file(file.name)
        weights = load_policy(writer.path).hashes["weights"]
        return writer.finish(counts={"steps": metrics.pop("steps")}, extra={"weights": weights, **metrics}), False


def warm_up_vision(model, processor, settings: Warmup, *, seed: int, progress: Callable[[int, dict], None]) -> float:
    """Align the vision tower's tokens with the embeddings of the words for digit, colour and place.

    The logit of a word is the inner product of image token and word embedding, with a softmax over the ten digits, one
    over the colours and one over the nine places. Returns the share of digits read off unseen scans.
    """
    import torch
    from torch.nn.functional import cross_entropy

    rng = np.random.default_rng([seed, 0])
    tower, embedding = model.model.visual, model.get_input_embeddings().weight
    optimizer = torch.optim.AdamW([*tower.parameters(), embedding], settings.learning_rate, weight_decay=0.01)
    groups = (range(10), digit_grid.COLOURS, digit_grid.CELLS)
    ids = [[processor.tokenizer(f" {word}").input_ids[-1] for word in group] for group in groups]

    def losses(split: str, pictures: int):
        pixels, digits, colours = digit_grid.random_pictures(split, pictures, rng)
        inputs = processor.image_processor(images=list(pixels), return_tensors="pt")
        tokens = tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
        seen = [torch.from_numpy(x) for x in (digits, colours, np.tile(np.arange(9), pictures))]
        logits = [tokens @ embedding[group].T for group in ids]
        loss = sum(cross_entropy(x, y) for x, y in zip(logits, seen, strict=True))
        return loss, (logits[0].argmax(-1) == seen[0]).float().mean().item()

    model.train()
    for step in range(1, settings.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings.steps // 10, settings.steps)
        loss, accuracy = losses("train", settings.batch_size)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        progress(step, {"part": "warmup", "steps": settings.steps, "loss": loss.item(), "digit_accuracy": accuracy})
    with torch.no_grad():
        return losses("validation", 256)[1]


def _update(model, processor, examples: list[Example], optimizers, settings: SftSettings) -> dict:
    """One optimizer step on the examples, in micro-batches of similar length; loss per response token of the step."""
    import torch
    from torch.nn.functional import cross_entropy

    examples = sorted(examples, key=lambda example: len(str(example.messages)) + len(example.response))
    batches = [
        collate(processor, examples[i : i + settings.micro_batch_size])
        for i in range(0, len(examples), settings.micro_batch_size)
    ]
    n_tokens = sum(int((labels != -100).sum()) for _, labels in batches)
    total, correct = 0.0, 0
    for inputs, labels in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
            logits = model(**inputs, logits_to_keep=labels.shape[1] + 1, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
        (loss / n_tokens).backward()
        total += loss.item()
        correct += int((logits.argmax(-1) == labels).sum())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return {"loss": total / n_tokens, "token_accuracy": correct / n_tokens}


def collate(processor, examples: Sequence[Example]):
    """Model inputs for prompts (padded left) followed by responses (padded right), and the responses' labels.

    The prompt is tokenized on its own, exactly as when sampling; the labels are −100 at padding.
    """
    import torch
    from PIL import Image

    tokenizer = processor.tokenizer
    prompts = [processor.apply_chat_template(e.messages, add_generation_prompt=True, tokenize=False) for e in examples]
    images = [[Image.open(io.BytesIO(image)) for image in e.images] for e in examples]
    inputs = processor(
        text=prompts,
        images=images if any(images) else None,
        return_tensors="pt",
        padding=True,
        padding_side="left",
    )
    responses = tokenizer(
        [example.response + tokenizer.eos_token for example in examples],
        add_special_tokens=False,
        return_tensors="pt",
        padding=True,
        padding_side="right",
    )
    labels = responses["input_ids"].masked_fill(responses["attention_mask"] == 0, -100)
    for key in ("input_ids", "attention_mask"):
        inputs[key] = torch.cat([inputs[key], responses[key]], dim=1)
    if "mm_token_type_ids" in inputs:
        text = torch.zeros_like(labels)
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], text], dim=1)
    return inputs, labels


def _start_from(settings: SftSettings, problems: Sequence[Problem], seed: int):
    """The checkpoint to continue, or a new tiny model whose tokenizer is trained on the problems."""
    if settings.model:
        from transformers import AutoModelForImageTextToText

        from ptdpo_cli.models.processor import load_processor

        model = AutoModelForImageTextToText.from_pretrained(settings.model, dtype="float32")
        return model, load_processor(settings.model)
    from ptdpo_cli.models.tiny import build_tiny

    return build_tiny(seed, [_tokenizer_text(problem, settings.instruction) for problem in problems[:2000]])


def _tokenizer_text(problem: Problem, instruction: str) -> str:
    hint = hint_from_regions(problem).text
    user = "\n\n".join(part for part in (problem.question, hint, instruction) if part)
    return f"user\n{user}\n\nassistant\n {problem.solution}"


def _optimizers(model, settings: SftSettings) -> list:
    """Muon for the blocks' matrices, AdamW for embeddings, norms and biases; or AdamW for all."""
    import torch

    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = ".layers." in name or ".blocks." in name
        (matrices if settings.optimizer == "muon" and inside and parameter.ndim == 2 else others).append(parameter)
    adamw = torch.optim.AdamW(others, weight_decay=settings.weight_decay, betas=(0.9, 0.98))
    if not matrices:
        return [adamw]
    return [torch.optim.Muon(matrices, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"), adamw]


def _schedule(step: int, warmup: int, steps: int) -> float:
    """Factor on the learning rate at `step` (from 1): linear warm-up, then a cosine to 0.01."""
    if step <= warmup:
        return step / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _pool(problems: Sequence[Problem], kinds: str | tuple[str, ...]) -> list[Problem]:
    if kinds == "all":
        return list(problems)
    if isinstance(kinds, str):
        kinds = tuple(kind.name for kind in digit_grid.KINDS.values() if kind.taught == (kinds == "taught"))
    return [problem for problem in problems if problem.category in kinds]


def sft_settings(recipe: Recipe) -> SftSettings:
    """The recipe's `sft` section, typed.

    Errors: UsageError when there is none, or for any fault in it.
    """
    if recipe.sft is None:
        raise UsageError("the recipe has no sft section", hint="an example: `--recipe recipes/tiny-base.yaml`")
    try:
        return SftSettings.model_validate({"instruction": recipe.prompt.instruction} | recipe.sft)
    except ValidationError as error:
        faults = [f"sft.{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise UsageError("\n".join(faults), hint="see docs/recipes.md for the keys of sft") from None


def check_solutions(problems: Sequence[Problem], settings: SftSettings, grids: dict) -> None:
    """Refuse problems without a worked solution, and shares of the mix that no problem fits."""
    unsolved = [problem.problem_id for problem in problems if not problem.solution]
    if unsolved:
        raise UsageError(
            "supervised training needs a worked solution for every problem",
            expected="a `solution` in each row",
            found=f"{len(unsolved)} rows without one, the first {unsolved[0]}",
        )
    for share in (share for phase in settings.phases for share in phase.mix):
        if share.cells != "right" and not grids:
            raise UsageError(f"`cells: {share.cells}` is only for digit-grid", hint="leave `cells` out of the mix")
        if not _pool(problems, share.kinds):
            raise UsageError("a share of the mix has no problems", found=f"kinds: {share.kinds}")
