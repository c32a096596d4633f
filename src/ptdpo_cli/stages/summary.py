"""The figures of one evaluation, as plain data: `extra.summary` of its manifest. docs/evaluation.md explains each."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ptdpo_cli.datasets.catalog import ADAPTERS
from ptdpo_cli.errors import UsageError
from ptdpo_cli.mathtext import words
from ptdpo_cli.recipe import Recipe
from ptdpo_cli.stages.quoting import has_failed
from ptdpo_cli.statistics import bootstrap_interval, majority_baseline, majority_vote, mean_over_strata, pass_at_k

GREEDY = -1                     # the sample number of the greedy answer
MODES = ("greedy", "sampled")
DOUBTFUL = 0.1                  # share of unscored answers above which a score says more about them than about skill

# The nine benchmarks of the paper's Table 1 as they are headed there, and its two halves (arXiv 2606.07000).
_GENERAL = {
    "papo-eval/mmk12": "MMK12",
    "papo-eval/geometry3k": "Geo3K",
    "papo-eval/mathverse": "MathVerse",
    "papo-eval/mathvista": "MathVista",
    "papo-eval/we-math": "We-Math",
}
_VISION = {
    "papo-eval/mmmu-pro": "MMMU-Pro",
    "papo-eval/counting": "Counting",
    "papo-eval/mathverse-v": "MathVerse-V",
    "papo-eval/logicvista": "LogicVista",
}
SUITE = {"general": _GENERAL, "vision-dependent": _VISION, "overall": _GENERAL | _VISION}


def averages_of(sources: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Which means of benchmarks there are among these, as name -> members.

    Of the paper's nine those groups that are complete; of other benchmarks all of them together.
    """
    sources = list(dict.fromkeys(sources))
    if not set(sources) & set(SUITE["overall"]):
        return {"overall": tuple(sources)} if len(sources) > 1 else {}
    return {name: tuple(members) for name, members in SUITE.items() if set(members) <= set(sources)}


@dataclass(frozen=True, slots=True)
class Answered:
    """A problem and the answers to it of one mode; those without a verdict count in nothing but the rates."""

    source: str
    cluster: Hashable
    answers: Sequence[dict]

    @property
    def judged(self) -> list[dict]:
        return [row for row in self.answers if row["accuracy"] is not None]

    @property
    def accuracy(self) -> float | None:
        """Mean over the answers that have a verdict; None where none has."""
        values = [row["accuracy"] for row in self.judged]
        return float(np.mean(values)) if values else None


def by_problem(rows: Iterable[Mapping], mode: str) -> dict[str, Answered]:
    """The problems of an `evals` table with their greedy answer, or with their samples, in the order of the table."""
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        if (row["sample"] == GREEDY) == (mode == "greedy"):
            groups[row["problem_id"]].append(row)
    return {problem_id: Answered(_source(part[0]), _cluster(part[0]), part) for problem_id, part in groups.items()}


def _source(row: Mapping) -> str:
    return row.get("source") or ""      # an older evaluation lacks the column


def _cluster(row: Mapping) -> Hashable:
    """What a problem's verdict hangs together with: the variants of one problem, or itself alone."""
    family = row.get("family")
    return (_source(row), "family", family) if family else (_source(row), "problem", row["problem_id"])


def summarise(rows: list[dict], recipe: Recipe) -> dict:
    """The figures of one evaluation: overall, per benchmark and category, with intervals and with what could void them.

    `rows` are those of `evals`; from the recipe come seed, resamples and whether it was blind.
    Errors: UsageError where there is no answer at all.
    """
    if not rows:
        raise UsageError(
            "there is no answer to evaluate: every prompt was too long", hint="raise prompt.max_prompt_tokens"
        )
    parts = _split(rows, _source)
    benchmarks = {source: _figures(part, recipe, source) for source, part in parts}
    whole = benchmarks[parts[0][0]] if len(parts) == 1 else _figures(rows, recipe)
    averages = {
        name: {"benchmarks": list(members)}
        | {mode: _average(rows, mode, members, recipe) for mode in MODES if mode in whole}
        for name, members in averages_of(benchmarks).items()
    }
    return {"blind": recipe.eval.blind} | whole | {"benchmarks": benchmarks, "averages": averages}


def _figures(rows: list[dict], recipe: Recipe, source: str | None = None) -> dict:
    """Greedy and sampled; of one benchmark also its categories and its authors' own metrics."""
    gold = {row["problem_id"]: str(row["answer"]) for row in rows}
    majority, share = majority_baseline(list(gold.values()))
    result = {"problems": len(gold), "majority_answer": majority, "majority_share": share, **_rates(rows)}
    for mode in MODES:
        if problems := list(by_problem(rows, mode).values()):
            result[mode] = _score(problems, recipe) | _repeated(problems)
            if source is not None:
                categories = _split(problems, lambda problem: problem.answers[0]["category"] or "")
                result[mode]["categories"] = {name: _score(part, recipe) for name, part in sorted(categories)}
                result[mode]["own"] = _own(source, problems)
    return result


def _score(problems: Sequence[Answered], recipe: Recipe) -> dict:
    """Mean accuracy with its interval, the published rule's beside it, and the rates."""
    judged = [problem for problem in problems if problem.judged]
    published = [[row["published"] for row in p.answers if row.get("published") is not None] for p in problems]
    published = [float(np.mean(values)) for values in published if values]
    rows = [row for problem in problems for row in problem.answers]
    return {
        "problems": len(problems),
        **_mean(judged, recipe),
        "published": float(np.mean(published)) if published else None,
        **_rates(rows),
    }


def _mean(judged: Sequence[Answered], recipe: Recipe, strata: Sequence[str] | None = None) -> dict:
    if not judged:
        return {"accuracy": None, "interval": None}
    values = [problem.accuracy for problem in judged]
    interval = bootstrap_interval(
        values,
        clusters=[problem.cluster for problem in judged],
        strata=strata,
        resamples=recipe.eval.bootstrap_resamples,
        seed=recipe.seed,
    )
    return {"accuracy": mean_over_strata(values, strata), "interval": list(interval)}


def _repeated(problems: Sequence[Answered]) -> dict:
    """What several samples of a problem say together; a problem counts for pass@k if it has k verdicts."""
    judged = [problem.judged for problem in problems if problem.judged]
    n = max(len(problem.answers) for problem in problems)
    has_several = n > 1 and bool(judged)
    pass_at, k = {}, 1
    while has_several and k <= n:
        chances = [pass_at_k(len(rows), sum(map(_is_right, rows)), k) for rows in judged if len(rows) >= k]
        if chances:
            pass_at[str(k)] = float(np.mean(chances))
        k *= 2
    return {
        "samples_per_problem": n,
        "pass_at_k": pass_at,
        "maj_at_n": float(np.mean([_vote(rows) for rows in judged])) if has_several else None,
        "best_at_n": float(np.mean([any(map(_is_right, rows)) for rows in judged])) if has_several else None,
    }


def _is_right(row: Mapping) -> bool:
    return row["accuracy"] == 1


def _is_unscored(row: Mapping) -> bool:
    """Whether there was no answer to score, or no score for it: it may have been right for all we know."""
    is_failed = row["accuracy"] is None or row.get("outcome") in ("timeout", "error")
    return not _is_right(row) and (row["extracted"] is None or is_failed)


def _vote(rows: Sequence[Mapping]) -> float:
    answers = [None if row["extracted"] is None else words(row["extracted"]) for row in rows]
    return majority_vote(answers, [_is_right(row) for row in rows])


def _rates(rows: Sequence[Mapping]) -> dict:
    """Shares of all answers that say what a score hangs on; `agreement` is of those that a second check looked at."""
    outcomes = Counter(row.get("outcome") for row in rows)
    checked = [row["agreed"] for row in rows if row.get("agreed") is not None]
    ways = Counter(row["extracted_by"] for row in rows if row.get("extracted_by"))
    n = len(rows)
    return {
        "answers": n,
        "extraction_failures": sum(row["extracted"] is None for row in rows) / n,
        "truncated": sum(row["finish_reason"] == "length" for row in rows) / n,
        "contradiction": outcomes["contradiction"] / n,
        "refused": outcomes["refused"] / n,
        "timeout": outcomes["timeout"] / n,
        "error": outcomes["error"] / n,
        "unjudged": sum(row["accuracy"] is None for row in rows) / n,
        "reader_failed": sum(has_failed(row.get("reader")) for row in rows) / n,
        "unscored": sum(map(_is_unscored, rows)) / n,
        "unjudged_answers": sum(row["accuracy"] is None for row in rows),
        "checked_twice": len(checked),
        "agreement": sum(checked) / len(checked) if checked else None,
        "extracted_by": {way: count / n for way, count in sorted(ways.items())},
        "response_tokens": sum(row["response_tokens"] for row in rows) / n,
    }


def _average(rows: Sequence[dict], mode: str, members: Sequence[str], recipe: Recipe) -> dict:
    """The plain mean of benchmarks' accuracies; None where one of them has no verdict."""
    judged = [problem for problem in by_problem(rows, mode).values() if problem.source in members and problem.judged]
    strata = [problem.source for problem in judged]
    return _mean(judged if set(strata) == set(members) else [], recipe, strata)


def _own(source: str, problems: Sequence[Answered]) -> dict | None:
    """The metrics of the data set's authors, of each set of answers, averaged over the sets; None where it has none.

    An answer without a verdict goes to them with accuracy None: what it takes with it is theirs to say.
    """
    scores = getattr(ADAPTERS.get(source), "scores", None)
    sets: dict[int, list[dict]] = defaultdict(list)
    for problem in problems:
        for row in problem.answers:
            sets[row["sample"]].append(_for_own(row))
    try:
        return _mean_of_trees([scores(rows) for rows in sets.values()]) if scores else None
    except KeyError:        # a file of the user's that names this benchmark has not what its metrics read
        return None


def _for_own(row: Mapping) -> dict:
    names = ("problem_id", "family", "category", "accuracy")
    return {name: row.get(name) for name in names} | {"metadata": json.loads(row.get("metadata") or "{}")}


def _mean_of_trees(trees: Sequence[Mapping]) -> dict:
    """Numbers of the same name averaged, at any depth; what is not a finite number is left out of the mean.

    Counts stay whole numbers where their mean is one.
    """
    result: dict = {}
    for name in dict.fromkeys(name for tree in trees for name in tree):
        values = [tree[name] for tree in trees if name in tree]
        if isinstance(values[0], Mapping):
            result[str(name)] = _mean_of_trees(values)
        else:
            numbers = [value for value in values if value is not None and math.isfinite(value)]
            mean = float(np.mean(numbers)) if numbers else None
            is_count = mean is not None and mean.is_integer() and all(isinstance(value, int) for value in numbers)
            result[str(name)] = int(mean) if is_count else mean
    return result


def _split(items: Sequence, key: Callable) -> list[tuple[str, list]]:
    groups: dict[str, list] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.items())
