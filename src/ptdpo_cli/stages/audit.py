"""hints audit: which hints give the answer away, by the present rules, and by choice by asking the reference.

Reads hints and their problems; writes the refused ones as JSON lines. Nothing of the hints themselves is changed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from ptdpo_cli.artifacts.hints import hint_from_row
from ptdpo_cli.artifacts.problems import read_problems
from ptdpo_cli.artifacts.schemas import ROLES, Hint, Problem
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.engines import Engine, Request, Sampling, draw_seed, open_engine
from ptdpo_cli.errors import ArtifactError
from ptdpo_cli.hints.leakage import Leak, find_flags, leak_of
from ptdpo_cli.models.inputs import Context, Prompt, PromptsTooLong, build_prompts
from ptdpo_cli.models.load import Policy
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.rewards import verify
from ptdpo_cli.stages.grading import graded
from ptdpo_cli.stages.memory import sample_within_memory
from ptdpo_cli.stages.plan import Progress, no_progress
from ptdpo_cli.stages.show import problems_of, run_of
from ptdpo_cli.stages.summary_tables import new_table
from ptdpo_cli.stages.workspace import Workspace
from ptdpo_cli.statistics import bootstrap_interval

_PROBE_TASK = "Give the final answer."
_MEMORY_KEYS = "eval.problems_per_shard or eval.max_new_tokens"
_MAX_VERDICTS = 50_000      # of answers against other problems' answers, per answer type; beyond, others are drawn
_LISTED = 10                # kinds of fault, and hints that the probe reads, in a table
_EXCERPT = 72               # characters of an example


@dataclass(frozen=True, slots=True)
class Audited:
    """What a source said of a problem, whether it had been refused or not, and what the present rules say to it."""

    hint: Hint
    problem: Problem
    text: str
    leak: Leak | None

    @property
    def is_refused(self) -> bool:
        return self.leak is not None and self.hint.role != "revealing"


def audit(
    recipe: Recipe,
    hints: Artifact,
    *,
    probe: int | None = None,
    out: Path | None = None,
    limit: int | None = None,
    progress: Progress = no_progress,
) -> dict:
    """Rates of what the rules refuse, per reason, source and role; with `probe` also what the reference reads out of
    the hints that pass, from so many answers each. Refused hints go to `out`, by default RUN/audit/.

    Errors: ArtifactError when the hints' problems are not in their run, or are not those that the hints are for.
    """
    problems = _problems_by_id(hints)
    rows = [hint_from_row(row) for row in hints.table("hints").to_pylist()[:limit]]
    _require_problems_of(hints, rows, problems)
    audited = []
    for number, hint in enumerate(rows):
        if not number % 1000:
            progress(number, len(rows), "reading hints")
        text = hint.text or hint.refused
        if text is not None:
            problem = problems[hint.problem_id]
            audited.append(Audited(hint, problem, text, leak_of(text, problem, spatial=hint.spatial)))
    progress(len(rows), len(rows), "reading hints")
    out = out or run_of(hints) / "audit" / f"{hints.path.name}-refused.jsonl"
    _write_refused(out, audited)
    found = summarise(rows, audited) | {"path": str(hints.path), "refused_file": str(out), "probe": None}
    if probe is not None:
        work = Workspace(recipe, run_of(hints))
        engine = open_engine(recipe, work.reference)
        found["probe"] = ask_reference(recipe, work.reference, engine, audited, samples=probe, progress=progress)
    return found


def _problems_by_id(hints: Artifact) -> dict[str, Problem]:
    return {problem.problem_id: problem for problem in read_problems(problems_of(hints))}


def _require_problems_of(hints: Artifact, rows: Sequence[Hint], problems: dict[str, Problem]) -> None:
    strange = [hint.problem_id for hint in rows if hint.problem_id not in problems]
    if strange:
        raise ArtifactError(
            f"{hints.path} has hints for problems that its data set does not have",
            expected=f"the ids of the {len(problems)} problems that it was made from",
            found=", ".join(strange[:5]) + (f", and {len(strange) - 5} more" if len(strange) > 5 else ""),
            hint="make the hints again from this run's data: `ptdpo build-hints`",
        )


def _write_refused(out: Path, audited: Sequence[Audited]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for one in audited:
            if one.is_refused:
                file.write(json.dumps({
                    "problem_id": one.problem.problem_id, "category": one.problem.category, "source": one.hint.source,
                    "reason": one.leak.reason, "span": list(one.leak.span), "text": one.text,
                }, ensure_ascii=False) + "\n")  # fmt: skip
    os.replace(partial, out)


# ---- rates -----------------------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Hint], audited: Sequence[Audited]) -> dict:
    """Counts and shares; every share has its denominator beside it. `rows` are all hints, those without a text too.

    Hints that are meant to reveal are in `roles` and `sources` alone: they leak by design.
    """
    judged = [one for one in audited if one.hint.role != "revealing"]
    refused = [one for one in judged if one.is_refused]
    by_reason: dict[str, list[Audited]] = {}
    for one in refused:
        by_reason.setdefault(one.leak.reason, []).append(one)
    faults = Counter(hint.fault or "no reason given" for hint in rows if hint.text is None and hint.refused is None)
    flags = Counter(
        flag for one in judged if not one.is_refused
        for flag in find_flags(one.text, one.problem.question, one.problem.solution)
    )
    return {
        "problems": len(rows),
        "audited": len(judged),
        "refused": len(refused),
        "refused_now": sum(one.hint.text is not None for one in refused),
        "passed_now": sum(one.hint.text is None and not one.is_refused for one in judged),
        "reasons": [
            {"reason": reason, "hints": len(found), "share": len(found) / len(judged), "example": _example(found[0])}
            for reason, found in sorted(by_reason.items(), key=lambda item: -len(item[1]))
        ],
        "sources": _rates(audited, lambda one: one.hint.source),
        "roles": _rates(audited, lambda one: one.hint.role),
        "faults": [{"fault": fault, "problems": n, "share": n / len(rows)} for fault, n in faults.most_common()],
        "flags": [{"flag": flag, "hints": n, "of": len(judged) - len(refused)} for flag, n in flags.most_common()],
    }


def _rates(audited: Sequence[Audited], name_of: Callable[[Audited], str]) -> list[dict]:
    found: dict[str, list[Audited]] = {}
    for one in audited:
        found.setdefault(name_of(one), []).append(one)
    rows = []
    for name, ones in found.items():
        leaks = sum(one.leak is not None for one in ones)
        rows.append({"name": name, "role": ones[0].hint.role, "hints": len(ones), "leaks": leaks,
                     "share": leaks / len(ones)})
    return rows


def _example(one: Audited) -> dict:
    return {"problem_id": one.problem.problem_id, "text": one.text, "span": list(one.leak.span)}


# ---- the probe -------------------------------------------------------------------------------------------------------


def ask_reference(
    recipe: Recipe,
    policy: Policy,
    engine: Engine,
    audited: Sequence[Audited],
    *,
    samples: int,
    progress: Progress = no_progress,
) -> dict:
    """What the reference answers when it reads a hint without picture and question, per role: see `against_chance`.

    Refused hints are not asked about; those that reveal are, as a check that the probe can read anything at all. Rules
    alone read the answers.
    """
    asked = [one for one in audited if not one.is_refused]
    said: list[list[str | None]] = []
    is_right: list[list[bool]] = []
    fitting: list[Audited] = []
    size = recipe.eval.problems_per_shard
    for start in range(0, len(asked), size):
        progress(start, len(asked), "asking the reference")
        shard, prompts = _prompts(recipe, policy, asked[start : start + size])
        rows = _answers(recipe, policy, engine, shard, prompts, samples)
        fitting += shard
        for first in range(0, len(rows), samples):
            own = rows[first : first + samples]
            said.append([row["extracted"] for row in own])
            is_right.append([row["outcome"] == "right" for row in own])
    progress(len(asked), len(asked), "asking the reference")
    roles = {}
    for role in ROLES:
        chosen = [i for i, one in enumerate(fitting) if one.hint.role == role]
        if chosen:
            roles[role] = against_chance(
                [fitting[i].problem for i in chosen], [said[i] for i in chosen], [is_right[i] for i in chosen],
                seed=recipe.seed, resamples=recipe.eval.bootstrap_resamples, time_limit_s=recipe.reward.time_limit_s,
            ) | {"always_right": [
                {"problem_id": fitting[i].problem.problem_id, "answer": fitting[i].problem.answer,
                 "text": fitting[i].text}
                for i in chosen if all(is_right[i])
            ]}  # fmt: skip
    return {"samples": samples, "too_long": len(asked) - len(fitting), "roles": roles}


def _prompts(recipe: Recipe, policy: Policy, asked: Sequence[Audited]) -> tuple[list[Audited], list[Prompt]]:
    """The hints that are short enough to be read, and their prompts: the hint, then the instruction."""
    if not asked:
        return [], []
    try:
        return list(asked), build_prompts(
            policy,
            [Context(one.problem.problem_id, "", hint=one.text) for one in asked],
            instruction=f"{_PROBE_TASK} {recipe.prompt.instruction}".strip(),
            max_tokens=recipe.prompt.max_prompt_tokens,
            max_pixels=recipe.data.max_image_pixels,
        )
    except PromptsTooLong as error:
        return _prompts(recipe, policy, [one for one in asked if one.problem.problem_id not in error.tokens])


def _answers(
    recipe: Recipe, policy: Policy, engine: Engine, asked: Sequence[Audited], prompts: Sequence[Prompt], samples: int
) -> list[dict]:
    """`samples` graded answers to each prompt, in turn."""
    if not prompts:
        return []
    settings = recipe.eval
    requests = [
        Request(prompt, draw_seed(recipe.seed, "probe", prompt.problem_id, number))
        for prompt in prompts for number in range(samples)
    ]
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p)
    drawn = sample_within_memory(engine, requests, sampling, stage="hints audit --probe", keys=_MEMORY_KEYS)
    problems = [one.problem for one in asked for _ in range(samples)]
    return graded(drawn, problems, policy, recipe.reward, extraction=settings.extraction, reads=settings.reads,
                  quoting=None)


def against_chance(
    problems: Sequence[Problem],
    said: Sequence[Sequence[str | None]],
    is_right: Sequence[Sequence[bool]],
    *,
    seed: int,
    resamples: int = 10_000,
    time_limit_s: float = 5.0,
) -> dict:
    """How often what was `said` (n answers per hint) is the answer to the hint's own problem, against chance.

        says_i = (1/n) Σ_s [a_is answers i],   chance_i = (1/n) Σ_s (1/(P_i − 1)) Σ_{j ≠ i} [a_is answers j]

    with j over the P_i problems whose answers are of one type with i's: the mean over all assignments of hints to other
    problems, so that a model which always says the most frequent answer has no advantage. The interval (95 %) is of the
    mean of says − chance, drawn by families of problems. Where pairs are too many, `is_exact` is false and the j are a
    seeded draw. Problems whose answer type no other one has cannot be compared; they are counted in `alone`.
    """
    says_P, chance_P, compared, is_exact = [], [], [], True
    by_type: dict[str, list[int]] = {}
    for i, problem in enumerate(problems):
        by_type.setdefault(problem.answer_type, []).append(i)

    @cache
    def answers(text: str, answer: str, answer_type: str, choices: tuple[str, ...], precision: int | None) -> bool:
        return verify(text, answer, answer_type, choices, precision, time_limit_s=time_limit_s)

    for answer_type, members in by_type.items():
        if len(members) < 2:
            continue
        texts = {text for i in members for text in said[i] if text is not None}
        keys = Counter((problems[j].answer, tuple(problems[j].choices), problems[j].precision) for j in members)
        if len(texts) * len(keys) > _MAX_VERDICTS:
            is_exact = False
            draw = np.random.default_rng(draw_seed(seed, "probe-chance", answer_type))
            kept = max(2, _MAX_VERDICTS // max(1, len(texts)))
            drawn = [members[k] for k in draw.choice(len(members), min(kept, len(members)), replace=False)]
            keys = Counter((problems[j].answer, tuple(problems[j].choices), problems[j].precision) for j in drawn)
        for i in members:
            own = (problems[i].answer, tuple(problems[i].choices), problems[i].precision)
            others = keys.copy()
            others[own] -= own in keys      # not i itself
            n_others = sum(others.values())
            hits = [
                sum(n for (answer, choices, precision), n in others.items()
                    if n and answers(text, answer, answer_type, choices, precision)) / n_others
                for text in said[i] if text is not None
            ]
            compared.append(i)
            says_P.append(float(np.mean(is_right[i])))
            chance_P.append(sum(hits) / len(said[i]))
    found = {"hints": len(problems), "alone": len(problems) - len(compared), "is_exact": is_exact}
    if not compared:
        return found | {"says": None, "chance": None, "difference": None, "interval": None}
    difference_P = np.subtract(says_P, chance_P)
    interval = bootstrap_interval(
        difference_P, clusters=[problems[i].family or problems[i].problem_id for i in compared], seed=seed,
        resamples=resamples,
    )
    return found | {
        "says": float(np.mean(says_P)), "chance": float(np.mean(chance_P)),
        "difference": float(difference_P.mean()), "interval": list(interval),
    }


# ---- what a person sees ----------------------------------------------------------------------------------------------


def render_audit(result: dict, console: Console) -> None:
    """The rates as tables, an example of each reason with the tell-tale words marked, and the probe."""
    n, refused = result["audited"], result["refused"]
    console.print(Text(f"{refused:,} of {n:,} hints refused{_percent(refused, n)}", style="bold"))
    if result["refused_now"]:
        console.print(f"{result['refused_now']:,} of them had passed when they were made")
    if result["passed_now"]:
        console.print(f"{result['passed_now']:,} pass now that had been refused")
    if result["reasons"]:
        table = new_table("reason", "hints", f"of {n:,}")
        for row in result["reasons"]:
            table.add_row(Text(row["reason"]), f"{row['hints']:,}", f"{row['share']:.1%}")
        console.print(table)
        for row in result["reasons"]:
            console.print(Text(f"{row['reason']} ({row['example']['problem_id']})", style="dim"), soft_wrap=True)
            console.print(Text("  ").append(marked(row["example"]["text"], tuple(row["example"]["span"]))))
        console.print()
    if result["sources"]:
        table = new_table("source", "hints", "leaks", "share")
        for row in result["sources"]:
            table.add_row(Text(row["name"]), f"{row['hints']:,}", f"{row['leaks']:,}", f"{row['share']:.1%}")
        console.print(table)
    for row in result["roles"]:
        if row["role"] == "revealing":
            leaks = f"{row['leaks']:,} of {row['hints']:,}"
            console.print(Text(f"meant to reveal: {leaks} do by these rules; none is refused"))
    if result["faults"]:
        table = new_table("no hint because", "problems", f"of {result['problems']:,}")
        for row in result["faults"][:_LISTED]:
            table.add_row(Text(_short(row["fault"])), f"{row['problems']:,}", f"{row['share']:.1%}")
        if rest := sum(row["problems"] for row in result["faults"][_LISTED:]):
            table.add_row("other reasons", f"{rest:,}", f"{rest / result['problems']:.1%}")
        console.print(table)
    if result["flags"]:
        table = new_table("passed, but", "hints", f"of {result['flags'][0]['of']:,}")
        for row in result["flags"]:
            table.add_row(Text(row["flag"]), f"{row['hints']:,}", f"{row['hints'] / row['of']:.1%}")
        console.print(table)
    if result["probe"] is not None:
        _render_probe(result["probe"], console)
    console.print(Text(f"refused hints: {result['refused_file']}"), soft_wrap=True)


def _render_probe(probe: dict, console: Console) -> None:
    if not probe["roles"]:
        console.print("the probe had no hint to read")
        return
    table = new_table("hint alone", "hints", "says it", "chance", "difference", "95 %")
    for role, one in probe["roles"].items():
        if one["says"] is None:
            table.add_row(role, f"{one['hints']:,}", "-", "-", "-", "-")
        else:
            low, high = one["interval"]
            table.add_row(role, f"{one['hints'] - one['alone']:,}", f"{one['says']:.3f}", f"{one['chance']:.3f}",
                          f"{one['difference']:+.3f}", f"{low:+.3f} … {high:+.3f}")
    console.print(table)
    revealing = probe["roles"].get("revealing")
    if revealing and revealing["interval"] and revealing["interval"][0] <= 0:
        console.print("This reference does not read an answer even where it is given away: its probe shows nothing.")
    for role, one in probe["roles"].items():
        always = one["always_right"]
        if role == "revealing" or not always:
            continue
        console.print(Text(f"{len(always):,} of {one['hints']:,}: the answer in each of {probe['samples']} samples"))
        for row in always[:_LISTED]:
            console.print(Text(f"  {row['problem_id']} ({_short(row['answer'], 16)}): {_short(row['text'], 40)}"))
    left_out = [(sum(one["alone"] for one in probe["roles"].values()), "no other problem has an answer of their type"),
                (probe["too_long"], "their prompts are too long")]
    for count, why in left_out:
        if count:
            console.print(Text(f"{count:,} hints left out of the probe: {why}"))


def marked(text: str, span: tuple[int, int], width: int = _EXCERPT) -> Text:
    """A line of a hint around a span, which is marked with ‹ › and in colour; at most `width` characters."""
    start, end = span
    end = min(end, start + width // 2)
    room = (width - (end - start) - 4) // 2
    before, after = max(0, start - room), min(len(text), end + room)
    line = Text("…" if before else "")
    line.append(_one_line(text[before:start]))
    line.append(f"‹{_one_line(text[start:end])}›", style="bold red")
    return line.append(_one_line(text[end:after]) + ("…" if after < len(text) else ""))


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _short(text: str, width: int = 56) -> str:
    text = _one_line(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def _percent(count: int, of: int) -> str:
    return f" ({count / of:.1%})" if of else ""
