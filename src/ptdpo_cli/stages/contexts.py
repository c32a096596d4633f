"""Student and teacher prompts of a run's problems, built once and shared by every stage of an iteration."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import islice

import numpy as np

from ptdpo_cli.artifacts.schemas import Hint, Problem
from ptdpo_cli.engines import draw_seed
from ptdpo_cli.errors import UsageError
from ptdpo_cli.hints.wording import compile_wording
from ptdpo_cli.models.inputs import Context, Prompt, PromptsTooLong, build_prompts
from ptdpo_cli.models.load import Policy
from ptdpo_cli.recipe import Recipe

# Prompts kept at once; a prompt holds its picture's patches, so an unbounded cache would hold the whole data set.
_CACHED_PROMPTS = 2048
_SHUFFLE_CANDIDATES = 8
_LISTED = 10        # problems named in a message


def _token_limit(recipe: Recipe, policy: Policy, max_new_tokens: int) -> tuple[int, str]:
    """The longest prompt that is allowed, in tokens, and what sets this limit.

    Errors: UsageError when responses alone fill the model's positions.
    """
    positions = policy.model.config.get_text_config().max_position_embeddings
    room = positions - max_new_tokens
    if room < 1:
        raise UsageError(
            "responses may be longer than the model's positions",
            expected=f"max_new_tokens below {positions} (max_position_embeddings of {policy.path})",
            found=max_new_tokens,
            hint="lower rollout.max_new_tokens (eval.max_new_tokens for an evaluation)",
        )
    if room < recipe.prompt.max_prompt_tokens:
        return room, f"the model's {positions} positions less {max_new_tokens} new tokens"
    return recipe.prompt.max_prompt_tokens, "prompt.max_prompt_tokens"


class PromptBook:
    """problem_id -> Prompt, for the student (question only) and for the teacher (recipe section teacher).

    A teacher's prompt that its hint makes too long refuses the hint, never the run: there is then no teacher for the
    problem. A blind book leaves the pictures out of the student's prompts.
    """

    def __init__(
        self,
        recipe: Recipe,
        policy: Policy,
        problems: Iterable[Problem],
        hints: dict[str, Hint] | None = None,
        *,
        max_new_tokens: int | None = None,
        blind: bool = False,
    ):
        self.recipe = recipe
        self.policy = policy
        self.problems = {problem.problem_id: problem for problem in problems}
        self.hints = hints or {}
        self._wording = compile_wording(recipe.teacher.hint_template)
        self.is_blind = blind
        self.teacher_was_seen_to_see = False    # score-ref looks once
        self._built: dict[tuple[str, bool], Prompt] = {}
        self._too_long: dict[tuple[str, bool], int] = {}  # their tokens
        self._limit = _token_limit(recipe, policy, max_new_tokens or recipe.rollout.max_new_tokens)

    def students(self, problem_ids: Iterable[str]) -> list[Prompt]:
        """Question and pictures; no hint can get in, because none is handed to the template.

        Errors: UsageError when one stands there all the same, because the question itself holds it.
        """
        return self._prompts(problem_ids, teacher=False)

    def teachers(self, problem_ids: Iterable[str]) -> list[Prompt]:
        """The same problems with what `teacher.context` adds or takes away."""
        return self._prompts(problem_ids, teacher=True)

    def fitting(self, problem_ids: Iterable[str], *, teacher: bool = False) -> list[str]:
        """The problems whose prompt is within the limit: of a student's, where the recipe says `prompt.too_long: skip`.

        Errors: PromptsTooLong with all of the student's that are not, where it says `refuse`.
        """
        problem_ids = list(problem_ids)
        self._build([(problem_id, teacher) for problem_id in problem_ids])
        if self.recipe.prompt.too_long == "refuse" and not teacher:
            self._refuse_too_long(problem_ids, teacher)
        return [problem_id for problem_id in problem_ids if (problem_id, teacher) not in self._too_long]

    def has_teacher(self, problem_id: str) -> bool:
        """Whether there is a teacher for this problem: without a hint the problem gets plain GRPO."""
        settings, hint = self.recipe.teacher, self.hints.get(problem_id)
        if settings.context == "none":
            return True
        return hint is not None and (settings.hint_place != "nowhere" or bool(hint.regions))

    def _prompts(self, problem_ids: Iterable[str], *, teacher: bool) -> list[Prompt]:
        keys = [(problem_id, teacher) for problem_id in problem_ids]
        self._build(keys)
        self._refuse_too_long([problem_id for problem_id, _ in keys], teacher)
        return [self._built[key] for key in keys]

    def _build(self, keys: list[tuple[str, bool]]) -> None:
        known = self._built.keys() | self._too_long.keys()
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        if not missing:
            return
        if len(self._built) + len(missing) > _CACHED_PROMPTS:
            self._built = {key: self._built[key] for key in keys if key in self._built}
        max_tokens, limit = self._limit
        settings = self.recipe.prompt
        try:
            built = build_prompts(
                self.policy,
                [self._context(problem_id, teacher=teacher) for problem_id, teacher in missing],
                instruction=settings.instruction,
                max_tokens=max_tokens,
                max_pixels=self.recipe.data.max_image_pixels,
                limit=limit,
            )
        except PromptsTooLong as error:
            self._too_long |= {key: error.tokens[key[0]] for key in missing if key[0] in error.tokens}
            self._build(missing)  # those that are left
        else:
            self._require_hints_apart(p for (_, teacher), p in zip(missing, built, strict=True) if not teacher)
            self._built.update(zip(missing, built, strict=True))

    def _require_hints_apart(self, students: Iterable[Prompt]) -> None:
        told = [
            prompt.problem_id
            for prompt in students
            if (hint := self.hints.get(prompt.problem_id))
            and any(words and words in prompt.text for words in (hint.text, hint.spatial))
        ]
        if told:
            raise UsageError(
                f"{len(told)} {'question holds its' if len(told) == 1 else 'questions hold their'} own hint",
                expected="hints that no student reads",
                found=", ".join(told[:_LISTED]),
                hint="take the hint out of the question, or make hints from another source",
            )

    def _refuse_too_long(self, problem_ids: list[str], teacher: bool) -> None:
        tokens = {p: self._too_long[p, teacher] for p in problem_ids if (p, teacher) in self._too_long}
        if tokens:
            raise PromptsTooLong(tokens, self._limit[0], limit=self._limit[1])

    def _context(self, problem_id: str, *, teacher: bool) -> Context:
        problem = self.problems[problem_id]
        kind = self.recipe.teacher.context
        if not teacher or kind == "none":
            return Context(problem_id, problem.question, () if self.is_blind else problem.images)
        hint = self._other_hint(problem_id) if kind == "shuffled" else self.hints.get(problem_id)
        images = () if kind == "blind" else problem.images
        if hint is None:
            return Context(problem_id, problem.question, images)
        settings = self.recipe.teacher
        return Context(
            problem_id,
            problem.question,
            images,
            self._wording(hint, problem.question) if settings.hint_place != "nowhere" else None,
            in_system=settings.hint_place == "system",
            regions=hint.regions if settings.draw_regions else (),
        )

    @cached_property
    def _hinted(self) -> list[str]:
        return sorted(self.hints)

    def _other_hint(self, problem_id: str) -> Hint | None:
        """Another problem's hint, of like length (a control must not differ in prompt length), drawn by name."""
        own = self.hints.get(problem_id)
        if own is None:
            return None
        random = np.random.default_rng(draw_seed(self.recipe.seed, "shuffled-hint", problem_id))
        shuffled = (self.hints[other] for other in random.permutation(self._hinted).tolist())
        others = islice((hint for hint in shuffled if hint.text != own.text), _SHUFFLE_CANDIDATES)
        return min(others, key=lambda hint: abs(len(hint.text) - len(own.text)), default=None)
