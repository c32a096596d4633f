"""The judge's verdicts on answers that no rule can compare, as columns of an evaluation; eval and regrade take them.

    asked       answers to problems of the types in eval.judge.answer_types, with what was extracted or, where nothing
                was, the end of the response
    not asked   a truncated response, a thought that never ends, a refusal, an empty end: their outcome stays
    unjudged    the judge failed: no accuracy, and `judge` says why; no other rule takes its place
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ptdpo_cli.artifacts.schemas import ANSWER_TYPES, Problem
from ptdpo_cli.errors import UsageError
from ptdpo_cli.recipe import Judge
from ptdpo_cli.rewards.judge import PROMPT_HASH, Endpoint, Question, Verdict, ending, judge_all, spelt_out

# How a judge is asked changes no verdict, so it is no part of an evaluation's key.
_NOT_IN_KEY = {"key_variable", "concurrency", "retries", "timeout_s"}
_OUTCOME_STAYS = ("truncated", "refused")
_SAYS = ", says "


def judge_section(judge: Judge | None) -> dict | None:
    """The part of an evaluation's key that the judge is: who, where, of which answers, and the prompt.

    Errors: UsageError for an answer type that there is not: a judge of none would look like one that was asked.
    """
    if judge is not None and (unknown := set(judge.answer_types) - set(ANSWER_TYPES)):
        raise UsageError(f"eval.judge.answer_types: there are no answers of type {', '.join(sorted(unknown))}",
                         expected=" | ".join(ANSWER_TYPES), hint="`--set 'eval.judge.answer_types=[text]'`")
    return judge and judge.model_dump(exclude=_NOT_IN_KEY) | {"prompt_sha256": PROMPT_HASH}


def judge_cache(run: Path) -> Path:
    """Where a run keeps the verdicts that it has paid for."""
    return run / "judge" / "verdicts.sqlite3"


def judged(
    rows: Sequence[dict], problems: Mapping[str, Problem], judge: Judge | None, run: Path
) -> tuple[list[dict], dict[str, int]]:
    """Rows of an evaluation with the judge's verdicts in place of the rules', and what these cost, as counts.

    Errors: PtdpoError when nobody answers, or the key or the model is refused.
    """
    if judge is None:
        return list(rows), {}
    questions = {
        index: _question(row, problems[row["problem_id"]]) for index, row in enumerate(rows)
        if problems[row["problem_id"]].answer_type in judge.answer_types and row["outcome"] not in _OUTCOME_STAYS
    }
    questions = {index: question for index, question in questions.items() if question.answer}
    endpoint = Endpoint(
        judge.model, judge.url, (os.environ.get(judge.key_variable) or "").strip() or None, judge.key_variable,
        judge.concurrency, judge.retries, judge.timeout_s,
    )
    verdicts = judge_all(list(questions.values()), endpoint, cache=judge_cache(run))
    verdict_of = dict(zip(questions, verdicts, strict=True))
    changed = [row | _columns(verdict_of[index]) if index in verdict_of else row for index, row in enumerate(rows)]
    return changed, _costs(verdicts, dict(zip(questions.values(), verdicts, strict=True)).values())


def judge_identity(section: Mapping, rows: Iterable[Mapping]) -> dict:
    """Who judged, for the manifest's `extra`: as asked for, and as the server named itself. Empty: nobody."""
    asked = section.get("judge")
    if not asked:
        return {}
    names = {row["judge"].partition(_SAYS)[2] for row in rows if row["judge"] and row["outcome"] != "unjudged"}
    return {"judge": asked | {"reported_models": sorted(names)}}


def _question(row: Mapping, problem: Problem) -> Question:
    """Choices and their letters are spelt out on both sides."""
    options = {chr(ord("A") + index): text for index, text in enumerate(problem.choices)}
    meant = [f"{letter}: {options[letter]}" for letter in re.findall(r"\b[A-Z]\b", problem.answer) if letter in options]
    reference = problem.answer + (f" ({'; '.join(meant)})" if meant else "")
    answer = row["extracted"] if row["extracted"] is not None else ending(row["text"])
    return Question(spelt_out(problem), reference, answer)


def _columns(verdict: Verdict) -> dict:
    if verdict.is_right is None:
        said = f"{verdict.fault} ({verdict.requests} {'attempt' if verdict.requests == 1 else 'attempts'})"
        return {"accuracy": None, "outcome": "unjudged", "judge": said}
    outcome = "right" if verdict.is_right else "wrong"
    return {"accuracy": float(verdict.is_right), "outcome": outcome, "judge": outcome + _SAYS + verdict.model}


def former_judge(section: Mapping) -> Judge | None:
    """The judge of an evaluation that was made with one."""
    asked = section.get("judge")
    return Judge(**{name: value for name, value in asked.items() if name in Judge.model_fields}) if asked else None


def _costs(verdicts: Iterable[Verdict], asked: Iterable[Verdict]) -> dict[str, int]:
    """Counts of answers, and what their verdicts cost when they were asked for; `asked` has each question once.

    A verdict from the disk counts with what it once cost: an evaluation says the same, interrupted or not.
    """
    verdicts, asked = list(verdicts), list(asked)
    n_judged = sum(verdict.is_right is not None for verdict in verdicts)
    return {
        "judged": n_judged,
        "unjudged": len(verdicts) - n_judged,
        "judge_questions": len(asked),
        "judge_requests": sum(one.requests for one in asked),
        "judge_failures": sum(one.requests - (one.is_right is not None) for one in asked),
        "judge_prompt_tokens": sum(one.prompt_tokens for one in asked),
        "judge_completion_tokens": sum(one.completion_tokens for one in asked),
    }


# The counts that a judge adds, before it is asked anything.
NO_COSTS = _costs((), ())
