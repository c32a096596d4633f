"""The statistics of an evaluation: pass@k, maj@n, intervals, comparisons, power, and the score of not looking.

The unit is the problem, not the answer: several answers to one problem are not independent, so they are averaged first.
Problems that are variants of one another are not independent either: they form a cluster, and clusters are what is
drawn or flipped. Strata are benchmarks whose means are averaged, each counting the same whatever its size.
Nothing here touches global random state; the same seed gives the same number.

P problems, C clusters, R resamples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from statistics import NormalDist

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


def majority_vote(answers: Sequence[str | None], is_right: Sequence[bool]) -> float:
    """maj@n: the accuracy of the answer that most of n samples give.

        maj@n = [right ones are among the most frequent] / (number of answers that are equally most frequent)

    which is the expected accuracy when a tie is broken by lot. All right answers are one class, however they are
    spelt; wrong ones are as many classes as texts, so the caller normalises them. None is no vote; a right sample votes
    even so. Without any vote the result is 0.

    Source: self-consistency, arXiv 2203.11171; the tie is left open there.  Range: 0 … 1.
    Errors: ValueError if the two differ in length, or there are none.
    By hand: "1/2" and "0.5" right, "3" and "3" wrong, one None: 2 votes each -> 0.5.
    """
    if len(answers) != len(is_right) or not answers:
        raise ValueError(f"expected a verdict per answer, found {len(answers)} answers and {len(is_right)} verdicts")
    votes = Counter(
        (bool(right), None if right else answer)
        for answer, right in zip(answers, is_right, strict=True)
        if right or answer is not None
    )
    most = max(votes.values(), default=0)
    tied = [kind for kind, count in votes.items() if count == most]
    return 1 / len(tied) if (True, None) in tied else 0.0


def bootstrap_interval(
    values_by_problem: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over problems: clusters of problems are drawn with replacement.

        mean_r = Σ_{c drawn} sum_c / Σ_{c drawn} size_c       C clusters are drawn of C
        with strata: mean_r = (1/S) Σ_s mean_{r,s}            each stratum's clusters drawn within it

    `values_by_problem` has one value per problem, such as the mean accuracy of its answers; `clusters` and `strata`
    name the cluster and the stratum of each. Without clusters each problem is one, without strata there is one.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
    Errors: ValueError for no problems, values that are not finite, names that are too few, level outside (0, 1) or
    resamples < 1.
    By hand: values 0, 1, 1 in clusters a, a, b: the draws aa, ab, ba, bb have the means 1/2, 2/3, 2/3, 1.
    """
    values_P = _one_per_problem(values_by_problem)
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), found {level}")
    rng = np.random.default_rng(seed)
    means_R = np.mean([
        _resampled_means(rng, sums_C, sizes_C, resamples) for sums_C, sizes_C in _grouped(values_P, clusters, strata)
    ], axis=0)
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_over_strata(values_by_problem: Sequence[float], strata: Sequence[Hashable] | None = None) -> float:
    """The plain mean of the strata's means; without strata the mean over problems."""
    values_P = _one_per_problem(values_by_problem)
    return float(np.mean([values_P[rows].mean() for rows in _rows_by_name(values_P, strata)]))


def paired_difference(
    a_by_problem: Sequence[float],
    b_by_problem: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int,
) -> dict[str, float | list[float]]:
    """How much better b is than a on the same problems, in the same order: `difference`, `interval` and `p_value`.

    The difference is mean(b − a), with strata the mean of their means; its interval is that of `bootstrap_interval`.
    The p-value is two-sided, from a paired sign-flip test: if a and b were exchangeable, each cluster's differences
    could as well have had the other sign, all of them together.

        p = (1 + #{r : |mean ±d| >= |mean d|}) / (1 + resamples)

    so it is never 0, and at least 1 / (1 + resamples).
    Errors: ValueError as `bootstrap_interval`, or if the two differ in length.
    By hand: d = 1, 1, −1 in clusters x, x, y: sums 2 and −1; of the four patterns 2 + 1 and −2 − 1 are larger than the
    observed 1, the other two equal: p -> 1.
    """
    a_P, b_P = _one_per_problem(a_by_problem), _one_per_problem(b_by_problem)
    if len(a_P) != len(b_P):
        raise ValueError(f"a and b must have the same problems, found {len(a_P)} and {len(b_P)}")
    difference_P = b_P - a_P
    groups = _grouped(difference_P, clusters, strata)
    weights = [len(difference_P) / (len(groups) * sizes_C.sum()) for _, sizes_C in groups]     # 1 where there is one
    sums_C = np.concatenate([weight * sums_C for weight, (sums_C, _) in zip(weights, groups, strict=True)])
    observed = abs(sums_C.sum())
    rounding = 1e-12 * np.abs(sums_C).sum()            # another order of summation is no smaller difference
    rng = np.random.default_rng([seed, 1])             # apart from the draws of the interval
    as_large = sum(
        np.count_nonzero(np.abs(rng.choice([-1.0, 1.0], size=(rows, len(sums_C))) @ sums_C) >= observed - rounding)
        for rows in _chunks(resamples, len(sums_C))
    )
    interval = bootstrap_interval(
        difference_P, clusters=clusters, strata=strata, level=level, resamples=resamples, seed=seed
    )
    return {
        "difference": mean_over_strata(difference_P, strata),
        "interval": list(interval),
        "p_value": float((1 + as_large) / (1 + resamples)),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family of tests, adjusted so that the chance of any false alarm stays below the level.

        p'_(i) = max_{j <= i} min(1, (m − j + 1) p_(j))       p_(1) <= … <= p_(m)

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6 (1979).
    By hand: 0.01, 0.04, 0.03 -> 0.03, 0.06, 0.06.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def deviation_per_problem(
    values_by_problem: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> float | None:
    """The standard deviation that P independent problems would need for the mean to be as uncertain as it is.

        deviation² = P · Var(mean),   Var(mean) = (1/S²) Σ_s C_s / (C_s − 1) · Σ_c (sum_c − size_c · mean_s)² / P_s²

    Without clusters and strata it is the sample's standard deviation. None where a stratum has a single cluster, which
    says nothing of how much others differ.

    Source: the linearised variance of a ratio of cluster totals (Cochran, Sampling Techniques, 1977, chapter 6).
    By hand: 0, 0, 1, 1 in clusters of equals: C = 2, each (0 − 1)² = 1: Var = 2 · 2 / 16, deviation = 1, where
    independent problems have 0.58.
    """
    values_P = _one_per_problem(values_by_problem)
    variances = []
    for sums_C, sizes_C in _grouped(values_P, clusters, strata):
        if len(sums_C) < 2:
            return None
        residuals_C = sums_C - sizes_C * (sums_C.sum() / sizes_C.sum())
        variances.append(len(sums_C) / (len(sums_C) - 1) * (residuals_C**2).sum() / sizes_C.sum() ** 2)
    return float(np.sqrt(len(values_P) * sum(variances)) / len(variances))


def problems_needed(difference: float, deviation: float, *, power: float = 0.8, level: float = 0.05) -> int | None:
    """How many problems a paired, two-sided test at `level` needs to see `difference` with probability `power`.

        n = ((z_{1 − level/2} + z_power) · deviation / difference)²,   rounded up; None for a difference of 0

    `deviation` is that of the paired differences, as `deviation_per_problem` gives it: n is then of problems that are
    clustered as those were.

    Source: the normal approximation, as in Miller, Adding Error Bars to Evals, arXiv 2411.00640.
    Errors: ValueError for a negative deviation, or power or level outside (0, 1).
    By hand: difference 0.1, deviation 0.5: ((1.960 + 0.842) · 5)² = 196.2 -> 197.
    Differs from the source in: the deviation is measured, not split into the parts of problems and of samples.
    """
    if difference == 0:
        return None
    return max(1, math.ceil((_quantiles(deviation, power, level) * deviation / difference) ** 2))


def visible_difference(problems: int, deviation: float, *, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest difference that so many problems show with probability `power`: `problems_needed` turned round.

    By hand: 197 problems, deviation 0.5: 2.802 · 0.5 / √197 = 0.0998.
    """
    return _quantiles(deviation, power, level) * deviation / math.sqrt(problems)


def majority_baseline(answers: Sequence[str]) -> tuple[str, float]:
    """The most frequent answer and its share: the accuracy of always saying it; of several, the first by spelling.

    Errors: ValueError for no answers.
    """
    if not answers:
        raise ValueError("there are no answers")
    answer, count = min(Counter(answers).items(), key=lambda item: (-item[1], item[0]))
    return answer, count / len(answers)


def _quantiles(deviation: float, power: float, level: float) -> float:
    if deviation < 0 or not 0 < power < 1 or not 0 < level < 1:
        raise ValueError(f"expected deviation >= 0, power and level in (0, 1), found {deviation}, {power}, {level}")
    return NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)


def _grouped(values_P: np.ndarray, clusters, strata) -> list[tuple[np.ndarray, np.ndarray]]:
    """(sums_C, sizes_C) of each stratum's clusters, strata and clusters in the order in which they first occur."""
    names = range(len(values_P)) if clusters is None else clusters
    if len(names) != len(values_P):
        raise ValueError(f"expected a cluster per problem, found {len(names)} for {len(values_P)} problems")
    groups = []
    for rows in _rows_by_name(values_P, strata):
        numbers: dict[Hashable, int] = {}
        cluster_P = [numbers.setdefault(names[row], len(numbers)) for row in rows]
        groups.append((np.bincount(cluster_P, values_P[rows]), np.bincount(cluster_P)))
    return groups


def _rows_by_name(values_P: np.ndarray, names: Sequence[Hashable] | None) -> list[list[int]]:
    if names is None:
        return [list(range(len(values_P)))]
    if len(names) != len(values_P):
        raise ValueError(f"expected a stratum per problem, found {len(names)} for {len(values_P)} problems")
    rows: dict[Hashable, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return list(rows.values())


def _resampled_means(rng: np.random.Generator, sums_C: np.ndarray, sizes_C: np.ndarray, resamples: int) -> np.ndarray:
    """means_R of problems in clusters that are drawn with replacement."""
    means = []
    for rows in _chunks(resamples, len(sums_C)):
        drawn_RC = rng.integers(len(sums_C), size=(rows, len(sums_C)))
        means.append(sums_C[drawn_RC].sum(axis=1) / sizes_C[drawn_RC].sum(axis=1))
    return np.concatenate(means)


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
