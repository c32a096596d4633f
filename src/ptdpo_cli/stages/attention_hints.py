"""The source `attention`: problems put to the frozen reference, and what it looks at put into words."""

from __future__ import annotations

from collections.abc import Sequence

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.errors import ArtifactError, PtdpoError, UsageError
from ptdpo_cli.hints.attention import draft_from_maps
from ptdpo_cli.hints.sources import Draft, Source
from ptdpo_cli.models.attention import Reading, look, read_with, require_readable
from ptdpo_cli.models.inputs import Context, build_prompts
from ptdpo_cli.models.load import Policy
from ptdpo_cli.recipe import Recipe


def attention_source(recipe: Recipe, reference: Policy) -> Source:
    """Drafts from where the reference looks; a problem that it cannot read has a fault, and the others go on.

    Errors: UsageError for a model whose attention cannot be read.
    """
    require_readable(reference)
    settings = recipe.hints.attention

    def source(problems: Sequence[Problem]) -> list[Draft]:
        drafts: dict[int, Draft] = {}
        readings: dict[int, Reading] = {}
        for i, problem in enumerate(problems):
            try:
                readings[i] = _reading(recipe, reference, problem)
            except ArtifactError:
                raise
            except PtdpoError as error:
                drafts[i] = Draft(fault=error.what)
            except ValueError as error:     # transformers' way of saying that a picture is too narrow, and the like
                drafts[i] = Draft(fault=f"the model's processor refuses it: {error}")
        for rows in _batches({i: len(reading) for i, reading in readings.items()}, settings.tokens_per_batch):
            all_maps = look(reference, [readings[i] for i in rows], gradient=settings.gradient)
            for i, maps in zip(rows, all_maps, strict=True):
                drafts[i] = draft_from_maps(
                    problems[i], maps, max_regions=settings.max_regions, threshold=settings.threshold
                )
        return [drafts[i] for i in range(len(problems))]

    return source


def _reading(recipe: Recipe, reference: Policy, problem: Problem) -> Reading:
    """Errors: UsageError for a problem without a picture, or one that is too long: nothing is ever cut."""
    if not problem.images:
        raise UsageError("the problem has no picture to look at")
    settings = recipe.hints.attention
    [prompt] = build_prompts(
        reference,
        [Context(problem.problem_id, problem.question, problem.images)],
        instruction=recipe.prompt.instruction,
        max_tokens=recipe.prompt.max_prompt_tokens,
        max_pixels=recipe.data.max_image_pixels,
    )
    reads_response = bool({"solution", "answer"} & set(settings.read))
    reading = read_with(
        reference,
        prompt,
        _response(recipe, problem) if reads_response or settings.gradient else "",
        question="question" in settings.read,
        response_counts=reads_response,
        instruction=recipe.prompt.instruction,
    )
    positions = reference.model.config.get_text_config().max_position_embeddings
    if len(reading) > positions:
        raise UsageError(f"question and solution have {len(reading)} tokens, the model {positions} positions")
    return reading


def _response(recipe: Recipe, problem: Problem) -> str:
    """What is read as the response: the solution where it is asked for and there, else the answer as it would stand."""
    reads_solution = "solution" in recipe.hints.attention.read or "answer" not in recipe.hints.attention.read
    return (reads_solution and problem.solution) or f"\\boxed{{{problem.answer}}}"


def _batches(lengths: dict[int, int], tokens_per_batch: int) -> list[list[int]]:
    """Keys in batches of at most that many padded tokens, like lengths together; one over it is a batch of its own."""
    batches: list[list[int]] = []
    for key in sorted(lengths, key=lambda key: (lengths[key], key)):
        if batches and (len(batches[-1]) + 1) * lengths[key] <= tokens_per_batch:
            batches[-1].append(key)
        else:
            batches.append([key])
    return batches
