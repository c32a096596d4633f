"""Curves of one or several runs as a picture, from their metrics.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ptdpo_cli.errors import UsageError

PANELS = (
    ("accuracy", "accuracy of rollouts"),
    ("groups/all_fail", "share of all-fail groups"),
    ("entropy", "entropy, nats per token"),
)
# Colour-blind safe (Okabe-Ito), in the order in which methods are handed in.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def load_pyplot(what: str, out: Path | None = None):
    """matplotlib's pyplot, drawing into files alone, for `what` needs it.

    Errors: UsageError where it is not installed, or where the name of `out`, given by a user, is none of a picture.
    """
    try:
        import matplotlib
    except ImportError:
        raise UsageError(f"{what} need matplotlib", hint="pip install 'ptdpo[demo]'") from None
    if out is not None and out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UsageError(
            f"{out} is no name for a picture", expected=".png, .pdf or .svg", hint=f"`--out {out.with_suffix('.png')}`"
        )
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_curves(runs: dict[str, Sequence[list[dict]]], out: Path, *, title: str, smooth: int = 9) -> Path:
    """One line per method: the mean of its seeds, each smoothed over `smooth` iterations, and their range as a band."""
    pyplot = load_pyplot("pictures of curves")
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(12, 3.6), layout="constrained")
    for (key, label), axis in zip(PANELS, axes, strict=True):
        for (name, seeds), colour in zip(runs.items(), COLOURS, strict=False):
            n_iterations = min(len(lines) for lines in seeds)
            curves = np.array([_smoothed([line[key] for line in lines[:n_iterations]], smooth) for lines in seeds])
            iterations = np.arange(1, n_iterations + 1)
            axis.plot(iterations, curves.mean(0), label=name, color=colour, linewidth=1.8)
            if len(seeds) > 1:
                axis.fill_between(iterations, curves.min(0), curves.max(0), color=colour, alpha=0.18, linewidth=0)
        axis.set_xlabel("iteration")
        axis.set_title(label, fontsize=10)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    axes[0].set_ylim(0, 1)
    axes[1].set_ylim(0, 1)
    axes[0].legend(frameon=False, loc="lower right")
    figure.suptitle(title, fontsize=11)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    pyplot.close(figure)
    return out


def _smoothed(values: Sequence[float], width: int) -> np.ndarray:
    """Centred running mean; at the ends over what there is."""
    values = np.asarray(values, dtype=float)
    width = min(width, len(values))
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
