"""The words around a hint: a template of the recipe, filled in for one hint and its question."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ptdpo_cli.artifacts.schemas import Hint
from ptdpo_cli.errors import UsageError

_PARTS = ("hint", "spatial", "steps")
_MAX_CHARACTERS = 20_000        # a template's loops could otherwise fill the memory


def compile_wording(template: str) -> Callable[[Hint, str], str]:
    """What fills the template in: wording(hint, question) -> the text that the teacher reads.

    The template knows `hint` (all of it), `spatial`, `steps` (a list) and `question`, and runs in Jinja's sandbox.
    Errors: UsageError when it is no template, names anything else or nothing of the hint; wording: when it fails.
    """
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
    try:
        named = meta.find_undeclared_variables(environment.parse(template))
        compiled = environment.from_string(template)
    except TemplateError as error:
        raise _faulty(str(error)) from None
    if unknown := sorted(named - {*_PARTS, "question"}):
        raise _faulty(f"it names {', '.join(unknown)}")
    if not named & set(_PARTS):
        raise _faulty("it holds nothing of the hint")

    def wording(hint: Hint, question: str) -> str:
        try:
            text, size = [], 0
            for piece in compiled.generate(hint=hint.text, spatial=hint.spatial, steps=hint.steps, question=question):
                text.append(piece)
                size += len(piece)
                if size > _MAX_CHARACTERS:
                    raise _faulty(f"it makes more than {_MAX_CHARACTERS:,} characters of a hint")
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise _faulty(f"{error} (problem {hint.problem_id})") from None
        return "".join(text).strip()

    return wording


def wording_hash(template: str) -> str:
    """sha256 of a template, as the artifacts record it that were made with it."""
    return hashlib.sha256(template.encode()).hexdigest()


def _faulty(found: str) -> UsageError:
    return UsageError(
        "teacher.hint_template cannot be used", expected="a Jinja template of hint, spatial, steps and question",
        found=found, hint="`--set 'teacher.hint_template=Hint: {{ hint }}'`",
    )
