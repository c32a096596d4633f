"""What hints are worth, as plain data (`extra.summary` of a `utility` artifact), as tables and as a picture.

The unit is the problem: its samples are averaged first, and variants of one problem are drawn together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from ptdpo_cli.errors import UsageError
from ptdpo_cli.stages.report import COLOURS, load_pyplot
from ptdpo_cli.stages.summary_tables import new_table, said_by_k
from ptdpo_cli.statistics import bootstrap_interval, paired_difference, pass_at_k

_RESAMPLES = 10_000
_FEW_ALL_FAIL = 30              # fewer problems say little of shares: an interval of ±0.18 at best
_HARDLY_READ = 1e-3             # nats per token; the paper's hints have 0.05, an answer alone 0.01
_MAX_ROWS = 24                  # of a panel
_NAMED = 5                      # categories in a warning
# Right answers with the hint, of problems that have none without: the paper's Fig. 5 for n = 16.
RECOVERY = ("unrecovered", "below_half", "half_or_more", "all_pass")


def summarise_utility(rows: Sequence[Mapping], *, seed: int, resamples: int = _RESAMPLES) -> dict:
    """The figures of `utility` rows: all, per source of hints, per benchmark and per category, and what to beware of.

    Errors: UsageError where no problem was measured.
    """
    if not rows:
        raise UsageError("no hint could be measured: every prompt was too long", hint="raise prompt.max_prompt_tokens")
    draws = {"seed": seed, "resamples": resamples}
    benchmarks = _split(rows, lambda row: row["data_source"])

    def category(row: Mapping) -> str:
        return row["category"] if len(benchmarks) == 1 else f"{row['data_source']}: {row['category']}"

    summary = {
        "samples": rows[0]["samples"],
        "all": figures(rows, **draws),
        "hint_sources": {name: figures(part, **draws) for name, part in _split(rows, lambda r: r["hint_source"])},
        "benchmarks": {name: figures(part, **draws) for name, part in benchmarks},
        "categories": {name: figures(part, **draws) for name, part in sorted(_split(rows, category))},
    }
    return summary | {"warnings": warnings_of(summary)}


def figures(rows: Sequence[Mapping], **draws) -> dict:
    """Accuracy, gain, recovery, divergence and length of some problems, each mean with its 95 % interval."""
    n = rows[0]["samples"]
    groups = {"clusters": [_cluster(row) for row in rows], **draws}
    plain_P, hinted_P = ([row[f"{side}_correct"] / n for row in rows] for side in ("plain", "hinted"))
    mean = partial(_mean, **groups)
    return {
        "problems": len(rows),
        **{
            side: {
                "accuracy": mean([row[f"{side}_correct"] / n for row in rows]),
                "pass_at_k": _pass_at_k([row[f"{side}_correct"] for row in rows], n),
                "tokens": mean([row[f"{side}_tokens"] for row in rows]),
            }
            for side in ("plain", "hinted")
        },
        "gain": paired_difference(plain_P, hinted_P, **groups)
        | {
            "better": sum(a < b for a, b in zip(plain_P, hinted_P, strict=True)),
            "same": sum(a == b for a, b in zip(plain_P, hinted_P, strict=True)),
            "worse": sum(a > b for a, b in zip(plain_P, hinted_P, strict=True)),
        },
        "all_fail": recovery([row for row in rows if row["plain_correct"] == 0], n, **draws),
        "kl": mean([row["kl"] for row in rows]),
        "nll_change": mean([row["nll_change"] for row in rows]),
        "tokens_change": mean([row["hinted_tokens"] - row["plain_tokens"] for row in rows]),
    }


def recovery(rows: Sequence[Mapping], n: int, **draws) -> dict:
    """What becomes of problems that fail all n times without the hint: how many are right how often with it."""
    right = [row["hinted_correct"] for row in rows]
    counts = {
        "unrecovered": sum(c == 0 for c in right),
        "below_half": sum(0 < c < n / 2 for c in right),
        "half_or_more": sum(n / 2 <= c < n for c in right),
        "all_pass": sum(c == n for c in right),
    }
    recovered = [float(c > 0) for c in right]
    return {
        "problems": len(rows),
        "counts": counts,
        "shares": {name: count / len(rows) for name, count in counts.items()} if rows else None,
        "recovered": _mean(recovered, clusters=[_cluster(row) for row in rows], **draws) if rows else None,
    }


def warnings_of(summary: Mapping) -> list[str]:
    """What a practitioner should know before training with these hints, in sentences."""
    whole, gain, said = summary["all"], summary["all"]["gain"], []
    low, high = gain["interval"]
    if gain["difference"] < 0:
        said.append(f"accuracy is lower with these hints than without, by {-gain['difference']:.3f}")
    if low <= 0 <= high:
        said.append(
            f"the gain's 95 % interval, {low:+.3f} to {high:+.3f}, includes 0: "
            f"{whole['problems']} problems with {summary['samples']} samples do not show that these hints help"
        )
    hurt = [name for name, one in summary["categories"].items() if one["gain"]["interval"][1] < 0]
    if hurt and len(summary["categories"]) > 1:
        names = ", ".join(name or "(none)" for name in hurt[:_NAMED])
        names += f" and {len(hurt) - _NAMED} more" if len(hurt) > _NAMED else ""
        said.append(f"the hints lower accuracy in {names}: there the gain's whole interval is below 0")
    if (failed := whole["all_fail"]["problems"]) < _FEW_ALL_FAIL:
        said.append(
            f"{failed} problems fail all {summary['samples']} samples without a hint: "
            + ("too few for shares of recovery" if failed else "there is nothing to recover")
        )
    if whole["kl"]["mean"] < _HARDLY_READ:
        said.append(
            f"the divergence is {whole['kl']['mean']:.1e} nats per token: the model hardly reads these hints, "
            "and a teacher that thinks as the student does teaches nothing"
        )
    return said


def _mean(values: Sequence[float], **draws) -> dict:
    return {"mean": float(np.mean(values)), "interval": list(bootstrap_interval(values, **draws))}


def _pass_at_k(right: Sequence[int], n: int) -> dict[str, float]:
    """pass@1, 2, 4, … up to n, mean over problems."""
    powers = [1 << i for i in range(n.bit_length()) if 1 << i <= n]
    return {str(k): float(np.mean([pass_at_k(n, c, k) for c in right])) for k in powers}


def _cluster(row: Mapping) -> tuple:
    return (row["data_source"], *(("family", row["family"]) if row["family"] else ("problem", row["problem_id"])))


def _split(rows: Sequence[Mapping], key: Callable) -> list[tuple[str, list[Mapping]]]:
    groups: dict[str, list] = defaultdict(list)
    for row in rows:
        groups[key(row) or ""].append(row)
    return list(groups.items())


# --- for a reader -----------------------------------------------------------------------------------------------------


def groups_of(summary: Mapping) -> list[tuple[str, dict]]:
    """(name, figures) in the order in which tables and pictures show them: sources where several, categories, all."""
    parts = [summary[name] for name in ("hint_sources", "benchmarks", "categories") if len(summary[name]) > 1]
    return [(name or "(none)", one) for part in parts for name, one in part.items()] + [("all", summary["all"])]


def recovery_titles(n: int) -> dict[str, str]:
    """RECOVERY in numbers of right answers; a class that n samples leave empty is left out."""
    half = (n + 1) // 2
    ranges = {"unrecovered": (0, 0), "below_half": (1, half - 1), "half_or_more": (max(1, half), n - 1),
              "all_pass": (n, n)}
    return {
        name: f"{low}" if low == high else f"{low}–{high}" for name, (low, high) in ranges.items() if low <= high
    }


def render_utility(summary: Mapping, console: Console) -> None:
    """Three tables for 80 columns: accuracy, recovery, divergence and length; then pass@k, and what to beware of."""
    n, groups, whole = summary["samples"], groups_of(summary), summary["all"]
    sources = ", ".join(summary["hint_sources"])
    console.print(Text(f"hints from {sources}; {n} samples per problem without a hint, {n} with it"))
    accuracy = new_table("accuracy", "problems", "question only", "hinted", "gain", "95 % interval")
    recovered = new_table(f"right of {n} with the hint", "all-fail", *recovery_titles(n).values())
    reading = new_table("the hint is read", "KL", "ΔNLL", "tokens, question only", "hinted")
    for name, one in groups:
        if name == "all":
            for table in (accuracy, recovered, reading):
                table.add_section()
        accuracy.add_row(
            Text(name), str(one["problems"]), *(f"{one[side]['accuracy']['mean']:.3f}" for side in ("plain", "hinted")),
            f"{one['gain']['difference']:+z.3f}", "{:+z.3f} – {:+z.3f}".format(*one["gain"]["interval"]),
        )
        if failed := one["all_fail"]["problems"]:
            shares = one["all_fail"]["shares"]
            recovered.add_row(Text(name), str(failed), *(f"{shares[key]:.1%}" for key in recovery_titles(n)))
        reading.add_row(
            Text(name), f"{one['kl']['mean']:z.4f}", f"{one['nll_change']['mean']:+z.4f}",
            *(f"{one[side]['tokens']['mean']:,.1f}" for side in ("plain", "hinted")),
        )
    console.print(accuracy)
    gain = whole["gain"]
    console.print(f"the hint raises accuracy of {gain['better']} problems, lowers it of {gain['worse']}, "
                  f"leaves it at {gain['same']}")
    if recovered.row_count:
        console.print(recovered)
    console.print(reading)
    for side, title in (("plain", "question only"), ("hinted", "hinted")):
        console.print(f"pass@k, {title}: {said_by_k(whole[side]['pass_at_k'])}")
    for line in summary["warnings"]:
        console.print(Text.assemble(("warning: ", "yellow"), line))


def open_pyplot(out: Path):
    """What draws the picture, to be asked before anything is measured.

    Errors: UsageError where matplotlib is missing or the file's ending names no picture.
    """
    return load_pyplot("pictures of what hints are worth", out)


def draw_utility(summary: Mapping, out: Path) -> Path:
    """Three panels: accuracy without and with hints, recovery of all-fail problems, divergence and length.

    Errors: as `open_pyplot`.
    """
    pyplot = open_pyplot(out)
    groups = groups_of(summary)
    shown = [*sorted(groups[:-1], key=lambda pair: -pair[1]["problems"])[:_MAX_ROWS], groups[-1]]
    shown = [pair for pair in groups if pair in shown]
    figure = pyplot.figure(figsize=(15, max(5.5, 1.6 + 0.3 * len(shown))), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1.15, 1.15, 0.9))
    _draw_accuracy(left.subplots(), shown)
    _draw_recovery(middle.subplots(), shown, summary["samples"])
    sources = list(summary["hint_sources"].items())
    _draw_reading(right.subplots(2, 1), (sources if len(sources) > 1 else []) + groups[-1:])
    more = f"; {len(groups) - len(shown)} smaller groups not shown" if len(shown) < len(groups) else ""
    figure.suptitle(
        f"Hints from {', '.join(summary['hint_sources'])}: {summary['all']['problems']} problems, {summary['samples']} "
        f"samples each without a hint and with it{more}", fontsize=12,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    pyplot.close(figure)
    return out


_LEGEND = {
    "frameon": False, "fontsize": 9, "loc": "lower center", "ncols": 2, "columnspacing": 1.2, "handlelength": 1.4,
}
_SIDES = (("plain", "question only", COLOURS[1], -0.15), ("hinted", "hinted", COLOURS[0], 0.15))


def _draw_accuracy(axis, groups: Sequence[tuple[str, dict]]) -> None:
    both = [[one[side]["accuracy"]["mean"] for _, one in groups] for side, *_ in _SIDES]
    axis.hlines(_rows_from_the_top(len(groups)), *both, color="#CCCCCC", linewidth=1, zorder=0)
    for side, title, colour, shift in _SIDES:
        places = _rows_from_the_top(len(groups)) + shift
        means = [one[side]["accuracy"]["mean"] for _, one in groups]
        low, high = np.array([one[side]["accuracy"]["interval"] for _, one in groups]).T
        axis.hlines(places, low, high, color=colour, linewidth=2.2, alpha=0.55)
        axis.plot(means, places, "o" if side == "plain" else "s", color=colour, markersize=5, label=title)
    _name_rows(axis, [f"{name}  (n = {one['problems']})" for name, one in groups])
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel("accuracy, 95 % interval over problems")
    axis.set_title("Does the hint help?", fontsize=11)
    axis.grid(axis="x", alpha=0.25)
    axis.legend(**_LEGEND)


_SHADES = ("#BBBBBB", "#FDD49E", "#7FBFE5", "#0072B2")      # grey: still all wrong; the darker blue: all right


def _draw_recovery(axis, groups: Sequence[tuple[str, dict]], n: int) -> None:
    groups = [(name, one["all_fail"]) for name, one in groups if one["all_fail"]["problems"]]
    axis.set_title("What becomes of all-fail problems?", fontsize=11)
    if not groups:
        axis.set_axis_off()
        axis.text(0.5, 0.5, f"no problem fails all {n} samples\nwithout a hint", ha="center", transform=axis.transAxes)
        return
    places, before = _rows_from_the_top(len(groups)), np.zeros(len(groups))
    titles = recovery_titles(n)
    for (key, title), colour in zip(titles.items(), (_SHADES[RECOVERY.index(key)] for key in titles), strict=True):
        shares = np.array([one["shares"][key] for _, one in groups])
        axis.barh(places, shares, left=before, color=colour, height=0.72, label=title)
        for place, start, share in zip(places, before, shares, strict=True):
            if share >= 0.12:
                ink = "white" if key == "all_pass" else "black"
                axis.text(start + share / 2, place, f"{share:.0%}", ha="center", va="center", fontsize=8, color=ink)
        before += shares
    _name_rows(axis, [f"{name}  (n = {one['problems']})" for name, one in groups])
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"share of problems that fail all {n} times without a hint")
    axis.legend(**_LEGEND | {"ncols": 4}, title=f"right answers of {n} with the hint", title_fontsize=9)


def _draw_reading(axes, groups: Sequence[tuple[str, dict]]) -> None:
    """Above KL and ΔNLL, below lengths, each as a pair of bars per source of hints."""
    upper, lower = axes
    bars = (
        (upper, "kl", "KL(question only ‖ hinted)", COLOURS[2], -0.2),
        (upper, "nll_change", "ΔNLL", COLOURS[4], 0.2),
        (lower, "plain", "question only", COLOURS[1], -0.2),
        (lower, "hinted", "hinted", COLOURS[0], 0.2),
    )
    for axis, key, title, colour, shift in bars:
        found = [one[key] if axis is upper else one[key]["tokens"] for _, one in groups]
        means = np.array([one["mean"] for one in found])
        errors = np.abs(np.array([one["interval"] for one in found]).T - means)
        places = _rows_from_the_top(len(groups)) + shift
        axis.barh(places, means, 0.36, xerr=errors, color=colour, label=title, capsize=2, error_kw={"linewidth": 1.2})
        for place, mean, error in zip(places, means, errors[1], strict=True):
            shown = f"{mean:z.3f}" if axis is upper else f"{mean:,.1f}"
            axis.annotate(shown, (mean + error, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    for axis, unit, title in (
        (upper, "nats per token of question-only responses", "Does the model read it?"),
        (lower, "tokens", "How long is a response?"),
    ):
        _name_rows(axis, [name for name, _ in groups])
        axis.set_xlabel(unit)
        axis.set_title(title, fontsize=11)
        axis.set_xmargin(0.25)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.grid(axis="x", alpha=0.25)
        axis.legend(**_LEGEND)


def _name_rows(axis, names: Sequence[str]) -> None:
    """Names of the rows, a line above the last one, which is of all, and room for a legend below."""
    places = _rows_from_the_top(len(names))
    axis.set_yticks(places, names, fontsize=9)
    axis.set_ylim(places[-1] + 2.0, -0.7)
    if len(names) > 1:
        axis.axhline(places[-1] - 0.75, color="black", linewidth=0.6)


def _rows_from_the_top(n: int) -> np.ndarray:
    places = np.arange(n, dtype=float)
    places[-1] += 0.5 * (n > 1)
    return places
