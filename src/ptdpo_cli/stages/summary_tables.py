"""The summary of an evaluation as tables, the paper's Table 1 among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptdpo_cli.stages.summary import DOUBTFUL, MODES, SUITE

_WIDE_COLUMNS = 126     # Table 1 in one piece; in a narrower terminal its halves stand one under the other

# Rates of `extra.summary` as tables name them; those that several stand for are added up.
_RATES = {
    "no answer read": ("extraction_failures",),
    "truncated": ("truncated",),
    "letter against text": ("contradiction",),
    "refused": ("refused",),
    "verdict failed": ("timeout", "error"),
    "unjudged": ("unjudged",),
    "reader failed": ("reader_failed",),
    "second check agrees": ("agreement",),
}
# Left out where they are 0 everywhere.
_UNUSUAL = ("letter against text", "refused", "verdict failed", "unjudged", "reader failed")


def render_summary(summary: dict, console: Console) -> None:
    """Accuracy per category, benchmark and overall, greedy and sampled, and beside it what the score hangs on."""
    if summary["blind"]:
        console.print("blind: the pictures were left out of the prompts")
    benchmarks = summary["benchmarks"]
    modes = [mode for mode in MODES if mode in summary]
    names = short_names(benchmarks)
    for source, one in benchmarks.items():
        if len(benchmarks) == 1 or any(len(one[mode]["categories"]) > 1 for mode in modes):
            console.print(_categories_table(names[source] if len(benchmarks) > 1 else "", one, modes))
        if any(one[mode]["own"] for mode in modes):
            console.print(_own_table(names[source] or "data set", one, modes))
    if len(benchmarks) > 1:
        console.print(_benchmarks_table(summary, names, modes))
        if (table := _repeated_table(summary, names, modes)).columns[1:]:
            console.print(table)
        console.print(_rates_table(summary, names))
        if set(benchmarks) & set(SUITE["overall"]):
            for table in _suite_tables(summary, modes, console.width):
                console.print(table)
    for mode in modes:
        if figures := summary[mode]["pass_at_k"]:
            console.print(f"pass@k, {mode}: {said_by_k(figures)}")
    if ways := summary["extracted_by"]:
        console.print("answers read by " + ", ".join(f"{way} {share:.1%}" for way, share in ways.items()))
    if unjudged := summary["unjudged_answers"]:
        console.print(f"answers without a verdict, which count in no score: {unjudged}", style="yellow")
    for mode in modes:
        shares = {names[source]: one[mode]["unscored"] for source, one in benchmarks.items()}
        if doubtful := [f"{name} {share:.1%}".strip() for name, share in shares.items() if share > DOUBTFUL]:
            said = f"doubtful, {mode}: answers that could not be read or judged: {', '.join(doubtful)}"
            console.print(Text(said, style="yellow"))
    if len(benchmarks) == 1:
        majority = Text(f"always answering {summary['majority_answer']!r} would score {summary['majority_share']:.3f}")
        console.print(majority)


def short_names(sources: Iterable[str]) -> dict[str, str]:
    """Benchmarks as a table names them: without the suite that all of them are parts of."""
    sources = list(sources)
    are_parts_of_one = len({source.rpartition("/")[0] for source in sources}) == 1 < len(sources)
    return {source: source.rpartition("/")[2] if are_parts_of_one else source for source in sources}


def short_average(name: str) -> str:
    """A mean of benchmarks as a table names it."""
    return name.removesuffix("-dependent")


def said_by_k(chances: Mapping[str, float]) -> str:
    """"1: 0.250, 2: 0.444" in the order of k: a manifest sorts its keys by spelling."""
    return ", ".join(f"{k}: {chances[k]:.3f}" for k in sorted(chances, key=int))


def new_table(*titles: str, title: str | None = None) -> Table:
    """The first column holds names, the others figures; narrow enough for nine of them in 80 columns."""
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left", title_style="bold"
    )
    for number, heading in enumerate(titles):
        table.add_column(heading, justify="right" if number else "left", overflow="fold", vertical="bottom")
    return table


def _categories_table(name: str, figures: dict, modes: Sequence[str]) -> Table:
    titles = [_mode_title(figures, mode) for mode in modes]
    table = new_table("category", "problems", *titles, title=name or None)
    of_mode = [figures[mode] for mode in modes]
    for category, first in of_mode[0]["categories"].items() if modes else ():
        cells = [_figure(one["categories"].get(category, {}).get("accuracy")) for one in of_mode]
        table.add_row(Text(category or "(none)"), str(first["problems"]), *cells)
    table.add_section()
    table.add_row("all", str(figures["problems"]), *(_figure(one["accuracy"]) for one in of_mode))
    table.add_row("95 % interval", "", *(_interval(one["interval"]) for one in of_mode))
    if name:        # the other figures stand in tables of all benchmarks
        return table
    scores = {"by the published rule": "published", "majority of n": "maj_at_n", "best of n": "best_at_n"}
    for title, key in scores.items():
        if any(one[key] is not None for one in of_mode):
            table.add_row(title, "", *(_figure(one[key]) for one in of_mode))
    for title in _rates_to_show(of_mode):
        table.add_row(title, "", *(_share(_rate(one, title)) for one in of_mode))
    table.add_row("response tokens", "", *(f"{one['response_tokens']:,.0f}" for one in of_mode))
    return table


def _rates_to_show(figures: Sequence[dict]) -> list[str]:
    titles = []
    for title in _RATES:
        rates = [_rate(one, title) for one in figures]
        if any(rates) or (title not in _UNUSUAL and any(rate is not None for rate in rates)):
            titles.append(title)
    return titles


def _rate(figures: dict, title: str) -> float | None:
    rates = [figures.get(name) for name in _RATES[title]]     # an older summary lacks some
    return None if None in rates else sum(rates)


def _own_table(name: str, figures: dict, modes: Sequence[str]) -> Table:
    table = new_table(f"{name}: published metrics", *(_mode_title(figures, mode) for mode in modes))
    of_mode = [dict(_leaves(figures[mode]["own"] or {})) for mode in modes]
    for metric in dict.fromkeys(metric for one in of_mode for metric in one):
        table.add_row(Text(metric), *(_share_or_count(one.get(metric)) for one in of_mode))
    return table


def _share_or_count(value: float | None) -> str:
    """A count is an int; the mean of several sets' counts is known by its size alone."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if value is not None and value > 1 else _figure(value)


def _leaves(tree: Mapping, path: str = "") -> Iterable[tuple[str, float | None]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}: ")
        else:
            yield f"{path}{name}", value


def _benchmarks_table(summary: dict, names: dict[str, str], modes: Sequence[str]) -> Table:
    titles = [title for mode in modes for title in (_mode_title(summary, mode), "95 % interval")]
    table = new_table("benchmark", "problems", *titles, "majority")
    for source, one in summary["benchmarks"].items():
        cells = [cell for mode in modes for cell in _with_interval(one.get(mode))]
        table.add_row(Text(names[source] or "(none)"), str(one["problems"]), *cells, _figure(one["majority_share"]))
    table.add_section()
    for name, average in sorted(summary["averages"].items(), key=lambda item: list(SUITE).index(item[0])):
        shares = [summary["benchmarks"][source]["majority_share"] for source in average["benchmarks"]]
        cells = [cell for mode in modes for cell in _with_interval(average.get(mode))]
        table.add_row(short_average(name), "", *cells, _figure(float(np.mean(shares))))
    return table


def _repeated_table(summary: dict, names: dict[str, str], modes: Sequence[str]) -> Table:
    """What n samples say together, and the scores by published rules, where there are such."""
    published = [mode for mode in modes if any(one[mode]["published"] is not None for _, one in _rows(summary, names))]
    columns = [
        *(("majority of n", mode, "maj_at_n") for mode in modes if summary[mode]["samples_per_problem"] > 1),
        *(("best of n", mode, "best_at_n") for mode in modes if summary[mode]["samples_per_problem"] > 1),
        *((f"{_mode_title(summary, mode)}, published rule", mode, "published") for mode in published),
    ]
    table = new_table("benchmark", *(title for title, *_ in columns))
    for name, one in _rows(summary, names):
        shown = [None if one is summary and key == "published" else one[mode][key] for _, mode, key in columns]
        table.add_row(name, *map(_figure, shown))       # not every benchmark has a published rule
    return table


def _rates_table(summary: dict, names: dict[str, str]) -> Table:
    """Of all answers of a benchmark, greedy and sampled."""
    rows = _rows(summary, names)
    titles = _rates_to_show([one for _, one in rows])
    # Words one below the other: where all rates are there, 80 columns have no room for more.
    table = new_table("benchmark", *(title.replace(" ", "\n") for title in titles), "tokens")
    for name, one in rows:
        table.add_row(name, *(_share(_rate(one, title)) for title in titles), f"{one['response_tokens']:,.0f}")
    return table


def _rows(summary: dict, names: dict[str, str]) -> list[tuple[Text, dict]]:
    """The benchmarks by name, then all their problems together."""
    benchmarks = [(Text(names[source] or "(none)"), one) for source, one in summary["benchmarks"].items()]
    return [*benchmarks, (Text("all"), summary)]


def _suite_tables(summary: dict, modes: Sequence[str], width: int) -> list[Table]:
    """The paper's Table 1, in percent: general, vision-dependent, overall."""
    halves = [(name, members) for name, members in SUITE.items() if name != "overall"]
    if width >= _WIDE_COLUMNS:
        return [_suite_table(summary, modes, halves)]
    return [_suite_table(summary, modes, [half], has_overall=half is halves[-1]) for half in halves]


def _suite_table(summary: dict, modes: Sequence[str], halves, *, has_overall: bool = True) -> Table:
    benchmarks, averages = summary["benchmarks"], summary["averages"]
    columns = []        # (heading, {mode: score}, the majority's share)
    for name, members in halves:
        group = name.capitalize().replace("-", "-\n") + "\n"      # above the first of its benchmarks
        for source, heading in members.items():
            figures = benchmarks.get(source, {})
            columns.append((group + heading, figures, figures.get("majority_share")))
            group = ""
        columns.append(("Avg", averages.get(name, {}), _mean_majority(summary, name)))
    if has_overall:
        columns.append(("Overall", averages.get("overall", {}), _mean_majority(summary, "overall")))
    table = new_table("", *(heading for heading, *_ in columns), title="accuracy, %")
    for mode in modes:
        cells = (_percent((figures.get(mode) or {}).get("accuracy")) for _, figures, _ in columns)
        table.add_row(_mode_title(summary, mode), *cells)
    table.add_row("majority", *(_percent(share) for *_, share in columns))
    return table


def _mean_majority(summary: dict, name: str) -> float | None:
    members = summary["averages"].get(name, {}).get("benchmarks", ())
    return float(np.mean([summary["benchmarks"][source]["majority_share"] for source in members])) if members else None


def _with_interval(score: dict | None) -> tuple[str, str]:
    score = score or {"accuracy": None, "interval": None}
    return _figure(score["accuracy"]), _interval(score["interval"]).replace(" ", "")


def _mode_title(figures: dict, mode: str) -> str:
    return "greedy" if mode == "greedy" else f"mean of {figures[mode]['samples_per_problem']}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else "{:.3f} – {:.3f}".format(*interval)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
