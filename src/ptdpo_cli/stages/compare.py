"""compare: evaluations of the same problems, each against the first, paired problem by problem."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import ArtifactError, UsageError
from ptdpo_cli.stages.report import COLOURS, load_pyplot
from ptdpo_cli.stages.summary import MODES, Answered, averages_of, by_problem
from ptdpo_cli.stages.summary_tables import new_table, short_average, short_names
from ptdpo_cli.statistics import (
    deviation_per_problem,
    holm,
    mean_over_strata,
    paired_difference,
    problems_needed,
    visible_difference,
)

# What changes a verdict or a prompt and yet leaves the problems the same, with what an evaluation that lacks it had.
_SETTINGS = {"extraction": ["boxed"], "reads": "answer", "reader": None, "judge": None, "blind": False}

_READ = {"answer": "what follows the thought", "text": "the whole text"}


def compare(
    evals: Sequence[Artifact], *, difference: float | None = None, resamples: int = 10_000, seed: int = 0
) -> dict:
    """Each evaluation minus the first on the same problems: difference, 95 % interval, p-value, greedy and sampled.

    Over all problems, per benchmark, and for means of benchmarks; with the number of problems that would show
    `difference` (None: the observed one) with power 0.8, and the smallest difference that these problems show.
    With more than two evaluations `p_holm` is the p-value adjusted for their number, row by row.
    Errors: UsageError for fewer than two; ArtifactError when they were not made from the same problems.
    """
    if len(evals) < 2:
        raise UsageError("there is nothing to compare", expected="two evaluations or more", found=len(evals))
    for other in evals[1:]:
        _require_same_problems(evals[0], other)
    tables = [artifact.table("evals").to_pylist() for artifact in evals]
    answered = [{mode: by_problem(table, mode) for mode in MODES} for table in tables]
    comparisons = []
    for other, its in zip(evals[1:], answered[1:], strict=True):
        comparison = {"a": str(evals[0].path), "b": str(other.path), "differs": _other_settings(evals[0], other)}
        for mode in MODES:
            if found := _compare_mode(answered[0][mode], its[mode], difference, resamples=resamples, seed=seed):
                comparison[mode] = found
        comparisons.append(comparison)
    for rows in _alike(comparisons):
        for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
            row["p_holm"] = p
    return {"baseline": str(evals[0].path), "wanted_difference": difference, "comparisons": comparisons}


def _require_same_problems(a: Artifact, b: Artifact) -> None:
    expected, found = (one.manifest.inputs.get("problems", "") for one in (a, b))
    if expected != found:
        raise ArtifactError(
            "these evaluations are of different problems, so no answer of one pairs with an answer of the other",
            expected=f"problems {expected[:8]}",
            found=f"problems {found[:8]} in {b.path}",
            hint="evaluate both policies on the same split, count and seed",
        )


def _other_settings(a: Artifact, b: Artifact) -> dict:
    """Settings of verdicts and prompts in which two evaluations differ, as name -> [A's, B's]."""
    made_with = [artifact.manifest.section for artifact in (a, b)]
    models = ("judge", "reader")
    sections = [
        _SETTINGS | section.get("eval", {}) | {name: section.get(name) for name in models} for section in made_with
    ]
    pairs = {name: [section[name] for section in sections] for name in _SETTINGS}
    readers = [reader and reader["model"] for reader in pairs["reader"]]
    if None in readers or readers[0] == readers[1]:     # with one alone the extraction differs
        del pairs["reader"]
    judges = [judge and (judge["model"], judge["answer_types"]) for judge in pairs["judge"]]    # not where it runs
    if judges[0] == judges[1]:
        del pairs["judge"]
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _compare_mode(a: dict[str, Answered], b: dict[str, Answered], wanted: float | None, **draws) -> dict | None:
    """All rows of one mode, and how many problems are in none of them; None where no problem is in both."""
    both = [problem_id for problem_id in a if problem_id in b]
    pairs = [(a[name], b[name]) for name in both if a[name].judged and b[name].judged]
    if not pairs:
        return None
    sources = list(dict.fromkeys(one.source for one, _ in pairs))
    benchmarks = {source: [pair for pair in pairs if pair[0].source == source] for source in sources}
    averages = {
        name: [pair for source in members for pair in benchmarks[source]]
        for name, members in averages_of(sources).items()
    }
    return _row(pairs, wanted, **draws) | {
        "only_a": len(a) - len(both),
        "only_b": len(b) - len(both),
        "unjudged": len(both) - len(pairs),
        "benchmarks": {source: _row(part, wanted, **draws) for source, part in benchmarks.items()},
        "averages": {name: _row(part, wanted, by_benchmark=True, **draws) for name, part in averages.items()},
    }


def _row(pairs: Sequence[tuple[Answered, Answered]], wanted: float | None, *, by_benchmark=False, **draws) -> dict:
    """B minus A over these problems; `by_benchmark`: every benchmark counts the same."""
    a_P, b_P = ([pair[side].accuracy for pair in pairs] for side in (0, 1))
    groups = {
        "clusters": [one.cluster for one, _ in pairs],
        "strata": [one.source for one, _ in pairs] if by_benchmark else None,
    }
    found = paired_difference(a_P, b_P, **groups, **draws)
    deviation = deviation_per_problem([b - a for a, b in zip(a_P, b_P, strict=True)], **groups)
    target = found["difference"] if wanted is None else wanted
    return {
        "problems": len(pairs),
        "accuracy_a": mean_over_strata(a_P, groups["strata"]),
        "accuracy_b": mean_over_strata(b_P, groups["strata"]),
        **found,
        "deviation": deviation,
        "problems_needed": None if deviation is None else problems_needed(target, deviation),
        "visible_difference": None if deviation is None else visible_difference(len(pairs), deviation),
    }


def _alike(comparisons: Sequence[dict]) -> list[list[dict]]:
    """The rows that ask the same question of different evaluations; none where there is one comparison."""
    groups: dict[tuple, list[dict]] = {}
    for comparison in comparisons if len(comparisons) > 1 else ():
        for key, row in _rows(comparison):
            groups.setdefault(key, []).append(row)
    return list(groups.values())


def _rows(comparison: dict) -> list[tuple[tuple[str, str], dict]]:
    """((mode, name), row) in the order in which a table shows them; the row of all problems has an empty name."""
    rows = []
    for mode in (mode for mode in MODES if mode in comparison):
        rows.append(((mode, ""), comparison[mode]))
        if len(comparison[mode]["benchmarks"]) > 1:
            names = short_names(comparison[mode]["benchmarks"])
            rows += [((mode, names[source]), row) for source, row in comparison[mode]["benchmarks"].items()]
            rows += [((mode, short_average(name)), row) for name, row in comparison[mode]["averages"].items()]
    return rows


def render_comparison(result: dict, console: Console) -> None:
    """The evaluations by letter, a table for each against the first, and what to make of the figures."""
    comparisons = result["comparisons"]
    console.print(Text(f"A  {result['baseline']}"))
    for number, comparison in enumerate(comparisons):
        console.print(Text(f"{_letter(number)}  {comparison['b']}"))
    for number, comparison in enumerate(comparisons):
        letter = _letter(number)
        adjusted = ["Holm"] if len(comparisons) > 1 else []
        table = new_table("", "problems", "A", letter, f"{letter} − A", "95 % interval", "p", *adjusted)
        for (mode, name), r in _rows(comparison):
            if not name and table.row_count:
                table.add_section()
            table.add_row(
                Text(f"  {name}" if name else mode),
                str(r["problems"]),
                f"{r['accuracy_a']:.3f}",
                f"{r['accuracy_b']:.3f}",
                f"{r['difference']:+.3f}",
                "{:+.3f} – {:+.3f}".format(*r["interval"]),
                f"{r['p_value']:.2g}",
                *([f"{r['p_holm']:.2g}"] if adjusted else []),
            )
        console.print(table)
        for line in [*_power_lines(comparison, result["wanted_difference"]), *_left_out(comparison, letter)]:
            console.print(line, highlight=False)
        for name, (of_a, of_b) in comparison["differs"].items():
            console.print(Text.assemble(("warning: ", "yellow"), _difference_in(name, of_a, of_b, letter)))


def _letter(number: int) -> str:
    """B, C, … for the evaluations beside the first; after Z numbers."""
    return (string.ascii_uppercase[1:] + " ")[min(number, 25)].strip() or str(number + 2)


def _power_lines(comparison: dict, wanted: float | None) -> list[str]:
    """Whether there are enough problems to see what there is to see."""
    lines = []
    for mode in (mode for mode in MODES if mode in comparison):
        r = comparison[mode]
        if r["deviation"] is None:
            continue
        target = r["difference"] if wanted is None else wanted
        needed = "no number of problems" if r["problems_needed"] is None else f"{r['problems_needed']:,} problems"
        lines.append(
            f"{mode}: {needed} show a difference of {abs(target):.3f} with power 0.8; "
            f"these {r['problems']:,} show one of {r['visible_difference']:.3f}"
        )
    return lines


def _left_out(comparison: dict, letter: str) -> list[str]:
    lines = []
    for mode in (mode for mode in MODES if mode in comparison):
        r = comparison[mode]
        reasons = {
            "answered by A alone": r["only_a"],
            f"answered by {letter} alone": r["only_b"],
            "without a verdict on one side": r["unjudged"],
        }
        if said := [f"{count} {reason}" for reason, count in reasons.items() if count]:
            lines.append(f"{mode}: left out {', '.join(said)}")
    return lines


def _difference_in(name: str, of_a: object, of_b: object, letter: str) -> str:
    if name == "blind":
        return f"{'A' if of_a else letter} is blind, the other is not: the difference is what the pictures are worth"
    if name == "judge":
        models = [judge["model"] if judge else "rules alone" for judge in (of_a, of_b)]
        return f"A and {letter} have different judges ({', '.join(models)}): part of the difference may be theirs"
    if name == "reader":
        models = [reader["model"] for reader in (of_a, of_b)]
        return f"A and {letter} have different readers ({', '.join(models)}): part of the difference may be theirs"
    if name == "reads":
        return f"answers are read from {_READ[of_a]} in A, from {_READ[of_b]} in {letter}"
    orders = [", ".join(order) for order in (of_a, of_b)]
    return f"answers are looked for in different ways in A ({orders[0]}) and {letter} ({orders[1]})"


def draw_comparison(result: dict, out: Path) -> Path:
    """A forest plot: one line per row of the tables, the difference and its interval; right of 0 is better than A.

    Errors: UsageError where matplotlib is missing or the file's ending names no picture.
    """
    pyplot = load_pyplot("pictures of comparisons", out)
    comparisons = [dict(_rows(comparison)) for comparison in result["comparisons"]]
    keys = list(dict.fromkeys(key for rows in comparisons for key in rows))
    height = 0.9 + 0.3 * len(keys) * max(1, len(comparisons) / 2)
    figure, axis = pyplot.subplots(figsize=(8, max(2.2, height)), layout="constrained")
    for number, (rows, comparison) in enumerate(zip(comparisons, result["comparisons"], strict=True)):
        shift = (number - (len(comparisons) - 1) / 2) * 0.7 / len(comparisons)
        label = f"{_letter(number)}  {comparison['b']}"
        for place, key in enumerate(keys):
            if key not in rows:
                continue
            low, high = rows[key]["interval"]
            colour = COLOURS[number % len(COLOURS)]
            axis.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.8)
            axis.plot(rows[key]["difference"], place + shift, "o" if key[1] else "s", color=colour, label=label)
            label = None
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(keys)), [f"{mode}: {name or 'all problems'}" for mode, name in keys], fontsize=9)
    axis.set_ylim(len(keys) - 0.5, -0.5)
    axis.set_xlabel("difference in accuracy to A, 95 % interval")
    axis.grid(axis="x", alpha=0.25)
    figure.legend(frameon=False, loc="outside upper left", fontsize=8, title=f"A  {result['baseline']}",
                  title_fontsize=8, alignment="left")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    pyplot.close(figure)
    return out
