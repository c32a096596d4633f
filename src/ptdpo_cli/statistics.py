"""The statistics of an evaluation: pass@k, intervals and comparisons over problems, and the score of not looking.

The unit is the problem, not the answer: several answers to one problem are not independent, so they are averaged first.
Nothing here touches global random state; the same seed gives the same number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

_VALUES_PER_CHUNK = 1 << 20     # resampled values held at once: 8 MiB, whatever the number of problems


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k answers is right, estimated without bias from c right ones among n.

        pass@k = 1 − C(n − c, k) / C(n, k)

    Source: Codex, arXiv 2107.03374, eq. 1.  Errors: ValueError unless 0 <= c <= n and 1 <= k <= n.
    By hand: n = 4, c = 1, k = 2: of the 6 pairs 3 hold no right answer -> 0.5.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"expected 0 <= c <= n and 1 <= k <= n, found n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def bootstrap_interval(
    values_by_problem: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over problems: problems are drawn with replacement.

    `values_by_problem` has one value per problem, such as the mean accuracy of its answers.
    Errors: ValueError for no problems, values that are not finite, level outside (0, 1) or resamples < 1.
    """
    values_P = _one_per_problem(values_by_problem)
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), found {level}")
    rng = np.random.default_rng(seed)
    means_R = np.concatenate([
        values_P[rng.integers(len(values_P), size=(rows, len(values_P)))].mean(axis=1)
        for rows in _chunks(resamples, len(values_P))
    ])
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    a_by_problem: Sequence[float],
    b_by_problem: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int,
) -> dict[str, float | list[float]]:
    """How much better b is than a on the same problems, in the same order: `difference`, `interval` and `p_value`.

    The difference is mean(b − a); its interval is bootstrapped over problems. The p-value is two-sided, from a paired
    sign-flip test: if a and b were exchangeable, each problem's difference could as well have had the other sign.

        p = (1 + #{r : |mean ±d| >= |mean d|}) / (1 + resamples)

    so it is never 0, and at least 1 / (1 + resamples).
    Errors: ValueError as `bootstrap_interval`, or if the two differ in length.
    """
    a_P, b_P = _one_per_problem(a_by_problem), _one_per_problem(b_by_problem)
    if len(a_P) != len(b_P):
        raise ValueError(f"a and b must have the same problems, found {len(a_P)} and {len(b_P)}")
    difference_P = b_P - a_P
    observed = abs(difference_P.sum())
    rounding = 1e-12 * np.abs(difference_P).sum()      # another order of summation is no smaller difference
    rng = np.random.default_rng([seed, 1])             # apart from the draws of the interval
    as_large = sum(
        np.count_nonzero(np.abs(rng.choice([-1.0, 1.0], size=(rows, len(a_P))) @ difference_P) >= observed - rounding)
        for rows in _chunks(resamples, len(a_P))
    )
    return {
        "difference": float(difference_P.mean()),
        "interval": list(bootstrap_interval(difference_P, level=level, resamples=resamples, seed=seed)),
        "p_value": float((1 + as_large) / (1 + resamples)),
    }


def majority_baseline(answers: Sequence[str]) -> tuple[str, float]:
    """The most frequent answer and its share: the accuracy of always saying it; of several, the first by spelling.

    Errors: ValueError for no answers.
    """
    if not answers:
        raise ValueError("there are no answers")
    answer, count = min(Counter(answers).items(), key=lambda item: (-item[1], item[0]))
    return answer, count / len(answers)


def _one_per_problem(values: Sequence[float]) -> np.ndarray:
    values_P = np.asarray(values, dtype=np.float64)
    if values_P.ndim != 1 or not len(values_P) or not np.isfinite(values_P).all():
        raise ValueError(f"expected one finite value per problem, found shape {values_P.shape}")
    return values_P


def _chunks(resamples: int, problems: int) -> Iterator[int]:
    """How many resamples to draw at a time, so that memory does not grow with their number."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, found {resamples}")
    rows = max(1, _VALUES_PER_CHUNK // problems)
    yield from (min(rows, resamples - start) for start in range(0, resamples, rows))
