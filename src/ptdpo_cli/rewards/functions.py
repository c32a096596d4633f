"""Reward functions of the user, by `module:function`; they run in worker processes, never in this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.errors import PtdpoError, UsageError
from ptdpo_cli.rewards.workers import pool


@dataclass(frozen=True, slots=True)
class Call:
    """One response as a function sees it; `row` names it in errors."""

    row: str
    response: str
    problem: Problem
    extracted: str | None
    accuracy: float
    tokens: int


def check_functions(names: Sequence[str]) -> None:
    """Import the modules, in a worker. Errors: UsageError for a name, module or function that is not there."""
    for name in names:
        module, colon, function = name.partition(":")
        if not (colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise UsageError(
                "a reward function is named by module and function",
                expected="module:function, such as my_rewards:brevity",
                found=name,
                hint="see reward.functions in docs/rewards.md",
            )
    if names:
        pool(_key(names)).run([], time_limit_s=0)


def call_functions(names: Sequence[str], calls: Sequence[Call], *, time_limit_s: float) -> list[dict[str, float]]:
    """What each function returns for each call.

    Errors: PtdpoError that names function and row when one raises, returns no finite number, or takes too long: a term
    that silently counted 0 would train something else than what was asked for.
    """
    check_functions(names)
    tasks = [(name, call.response, _plain(call)) for call in calls for name in names]
    results = pool(_key(names)).run(tasks, time_limit_s=time_limit_s) if tasks else []
    rows = [(call, name) for call in calls for name in names]
    for (call, name), result in zip(rows, results, strict=True):
        if result.status == "timeout":
            raise PtdpoError(
                f"the reward function {name} takes too long on {call.row}",
                expected=f"a number within {time_limit_s:g} s",
                hint="make it faster, or raise reward.time_limit_s",
            )
        if result.status == "error":
            raise PtdpoError(
                f"the reward function {name} fails on {call.row}",
                expected="a finite number",
                found=result.error,
                hint="what it printed stands above; its signature: docs/rewards.md",
            )
    values = [result.value for result in results]
    return [dict(zip(names, values[at : at + len(names)], strict=True)) for at in range(0, len(values), len(names))]


def _key(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _plain(call: Call) -> dict:
    problem = call.problem
    return {
        "problem_id": problem.problem_id,
        "question": problem.question,
        "answer": problem.answer,
        "answer_type": problem.answer_type,
        "choices": list(problem.choices),
        "category": problem.category,
        "source": problem.source,
        "metadata": dict(problem.metadata),
        "extracted": call.extracted,
        "accuracy": call.accuracy,
        "tokens": call.tokens,
    }
