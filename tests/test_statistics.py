"""pass@k, maj@n, bootstrap, sign flips, power and majority baseline, each against all cases by hand or by loop."""

import itertools
import tracemalloc

import numpy as np
import pytest

from ptdpo_cli import statistics
from ptdpo_cli.statistics import (
    bootstrap_interval,
    deviation_per_problem,
    holm,
    majority_baseline,
    majority_vote,
    mean_over_strata,
    paired_difference,
    pass_at_k,
    problems_needed,
    visible_difference,
)


def test_pass_at_k_counts_every_subset():
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(itertools.combinations([i < c for i in range(n)], k))
                assert pass_at_k(n, c, k) == pytest.approx(np.mean([any(s) for s in subsets]), abs=1e-12)
    assert pass_at_k(4, 1, 2) == 0.5


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5), (0, 0, 1)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="expected 0 <= c <= n"):
        pass_at_k(n, c, k)


def test_bootstrap_interval_matches_all_resamples():
    """Four problems have 4^4 = 256 equally likely resamples; the quantiles of their means are the interval."""
    values = [0.0, 0.25, 0.5, 1.0]
    means = [np.mean(draw) for draw in itertools.product(values, repeat=4)]
    low, high = bootstrap_interval(values, resamples=200_000, seed=3)
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-9)
    low, high = bootstrap_interval(values, level=0.5, resamples=200_000, seed=3)
    assert (low, high) == pytest.approx(np.quantile(means, [0.25, 0.75]), abs=1e-9)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.random(60) < 0.3, resamples=400, seed=i) for i in range(300)]
    assert 0.90 <= np.mean([low <= 0.3 <= high for low, high in intervals]) <= 0.98


def test_bootstrap_interval_is_seeded_bounded_and_leaves_global_state_alone():
    values = np.random.default_rng(1).random(3000)
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    tracemalloc.start()
    first = bootstrap_interval(values, resamples=2000, seed=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert first == bootstrap_interval(values, resamples=2000, seed=5)
    assert first != bootstrap_interval(values, resamples=2000, seed=6)
    assert peak < 32 * 2**20 < 3000 * 2000 * 8 and (np.random.get_state()[1] == before).all()
    assert bootstrap_interval([0.5] * 7, seed=0) == (0.5, 0.5)


def test_paired_difference_matches_all_sign_flips():
    """Five problems have 32 sign patterns: p is the share whose |sum| is at least the observed one."""
    a, b = [0.0, 0.25, 0.5, 0.0, 0.75], [0.5, 0.5, 0.25, 0.25, 1.0]
    d = np.subtract(b, a)
    sums = [abs(np.dot(signs, d)) for signs in itertools.product([-1, 1], repeat=5)]
    result = paired_difference(a, b, resamples=100_000, seed=0)
    assert result["difference"] == pytest.approx(0.2)
    assert result["p_value"] == pytest.approx(np.mean([s >= abs(d.sum()) - 1e-9 for s in sums]), abs=0.005)
    assert tuple(result["interval"]) == bootstrap_interval(d, resamples=100_000, seed=0)


def test_paired_difference_at_its_ends():
    same = paired_difference([0.1, 0.7, 0.3], [0.1, 0.7, 0.3], resamples=500, seed=0)
    assert same == {"difference": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    sure = paired_difference([0.0] * 200, [1.0] * 200, resamples=999, seed=0)
    assert sure == {"difference": 1.0, "interval": [1.0, 1.0], "p_value": 1 / 1000}
    assert paired_difference([1.0] * 200, [0.0] * 200, resamples=999, seed=0)["difference"] == -1.0


# Six problems in three clusters of unlike sizes, not side by side.
VALUES = [0.0, 1.0, 0.25, 1.0, 0.5, 0.0]
FAMILIES = ["a", "b", "c", "a", "b", "b"]


def members(families):
    return [[i for i, family in enumerate(families) if family == name] for name in dict.fromkeys(families)]


def test_clusters_are_drawn_whole():
    """Three clusters have 27 equally likely draws; a problem in a cluster that is drawn twice counts twice."""
    means = [np.mean([VALUES[i] for cluster in draw for i in cluster])
             for draw in itertools.product(members(FAMILIES), repeat=3)]
    for level in (0.95, 0.5):
        found = bootstrap_interval(VALUES, clusters=FAMILIES, level=level, resamples=200_000, seed=3)
        # Inside an atom of 1/27, so that the draws settle the quantiles to the last bits.
        exact = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        assert found == pytest.approx(exact, abs=1e-9)


def test_clusters_of_one_are_problems_bit_for_bit():
    """The interval and p-value before there were clusters, written out: one row of indices per resample."""
    a, b = np.random.default_rng(4).random((2, 40))
    draws = np.random.default_rng(9).integers(40, size=(500, 40))
    expected = np.quantile((b - a)[draws].mean(axis=1), [0.025, 0.975])
    signs = np.random.default_rng([9, 1]).choice([-1.0, 1.0], size=(500, 40))
    p = (1 + sum(abs(signs @ (b - a)) >= abs((b - a).sum()))) / 501
    for clusters, strata in ((None, None), (list("clusters of one, each a letter of itself"), ["s"] * 40)):
        clusters = clusters and [f"{i}{name}" for i, name in enumerate(clusters)]
        result = paired_difference(a, b, clusters=clusters, strata=strata, resamples=500, seed=9)
        assert result == {"difference": (b - a).mean(), "interval": list(expected), "p_value": p}
        assert bootstrap_interval(b - a, clusters=clusters, strata=strata, resamples=500, seed=9) == tuple(expected)


def test_clusters_widen_the_interval_as_much_as_their_problems_are_alike():
    """Ten copies of each problem are no more evidence than one: the interval of one, not a third of it."""
    rng = np.random.default_rng(0)
    one = (rng.random(200) < 0.4).astype(float)
    ten, families = np.repeat(one, 10), np.repeat(np.arange(200), 10)
    alone = bootstrap_interval(one, resamples=4000, seed=1)
    assert bootstrap_interval(ten, clusters=families, resamples=4000, seed=1) == pytest.approx(alone, abs=1e-12)
    low, high = bootstrap_interval(ten, resamples=4000, seed=1)
    assert (high - low) < 0.4 * (alone[1] - alone[0])


def test_clustered_intervals_cover_the_truth_and_others_do_not():
    rng = np.random.default_rng(5)
    covered = {True: 0, False: 0}
    for seed in range(200):
        chances = rng.beta(1, 1, size=40)
        values, families = np.concatenate([rng.random(5) < p for p in chances]), np.repeat(np.arange(40), 5)
        for clustered in covered:
            low, high = bootstrap_interval(values, clusters=families if clustered else None, resamples=300, seed=seed)
            covered[clustered] += low <= 0.5 <= high
    assert covered[True] >= 180 > 176 > covered[False]


def test_strata_count_the_same_whatever_their_size():
    """Two problems in x and three in y: 4 · 27 joint draws, the mean of the two means of each."""
    values, strata = [0.0, 1.0, 0.0, 0.5, 1.0], ["x", "x", "y", "y", "y"]
    means = [(np.mean(x) + np.mean(y)) / 2 for x in itertools.product(values[:2], repeat=2)
             for y in itertools.product(values[2:], repeat=3)]
    found = bootstrap_interval(values, strata=strata, level=0.8, resamples=200_000, seed=0)
    assert found == pytest.approx(np.quantile(means, [0.1, 0.9]), abs=1e-9)
    assert mean_over_strata([1.0, 0.0, 0.0, 0.0], ["x", "y", "y", "y"]) == 0.5
    assert mean_over_strata([1.0, 0.0, 0.0, 0.0]) == 0.25


def test_whole_clusters_change_their_sign():
    d = np.array([0.5, 0.25, -0.25, 0.5, 0.0, 1.0, -0.5, 0.25])
    families, strata = [0, 0, 1, 1, 2, 3, 4, 4], ["x"] * 4 + ["y"] * 2
    groups = members(families)

    def expected(weights):
        sums = [abs(sum(s * (weights[g] * d[g]).sum() for s, g in zip(signs, groups, strict=True)))
                for signs in itertools.product([-1, 1], repeat=len(groups))]
        return np.mean([s >= abs((weights * d).sum()) - 1e-9 for s in sums])

    plain = paired_difference(np.zeros(8), d, clusters=families, resamples=100_000, seed=0)
    assert plain["p_value"] == pytest.approx(expected(np.ones(8)), abs=0.006)
    d = np.array([0.5, 0.25, -0.25, -0.5, 0.5, -0.25])      # strata of 4 and 2: p is 14/16, without weights 1
    families, groups = families[:6], members(families[:6])
    weighed = paired_difference(np.zeros(6), d, clusters=families, strata=strata, resamples=100_000, seed=0)
    assert weighed["difference"] == pytest.approx((0.0 + 0.125) / 2)
    assert weighed["p_value"] == pytest.approx(expected(np.array([1, 1, 1, 1, 2, 2])), abs=0.006)


def test_deviation_is_what_the_bootstrap_spreads():
    rng = np.random.default_rng(2)
    values = rng.normal(size=90)
    assert deviation_per_problem(values) == pytest.approx(np.std(values, ddof=1))
    assert deviation_per_problem([0.0, 0.0, 1.0, 1.0], clusters=["x", "x", "y", "y"]) == pytest.approx(1)
    assert deviation_per_problem([1.0, 2.0], clusters=["x", "x"]) is None
    # With clusters and strata: against the spread of the mean over data made anew.
    families, strata = np.repeat(np.arange(30), 3), ["x"] * 30 + ["y"] * 60
    made = [np.repeat(rng.normal(size=30), 3) + rng.normal(size=90) for _ in range(2000)]
    spread = np.std([mean_over_strata(one, strata) for one in made])
    found = np.sqrt(np.mean([deviation_per_problem(one, clusters=families, strata=strata) ** 2 for one in made[:300]]))
    assert found / np.sqrt(90) == pytest.approx(spread, rel=0.07)


def test_as_many_problems_as_needed_show_the_difference_in_four_of_five():
    assert problems_needed(0.1, 0.5) == problems_needed(-0.1, 0.5) == 197        # (2.8016 · 5)² = 196.2
    assert visible_difference(197, 0.5) == pytest.approx(0.0998, abs=5e-5)
    assert problems_needed(0.1, 0.5, power=0.9, level=0.01) == 372               # (2.5758 + 1.2816)² · 25 = 371.98
    assert problems_needed(0.0, 0.5) is None and problems_needed(0.1, 0.0) == 1
    rng = np.random.default_rng(0)
    draws = rng.normal(0.1, 0.5, size=(4000, 197))
    z = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / np.sqrt(197))
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.03)
    for wrong in ({"deviation": -1.0}, {"deviation": 1.0, "power": 1.0}, {"deviation": 1.0, "level": 0.0}):
        with pytest.raises(ValueError, match="power and level"):
            problems_needed(0.1, **wrong)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2] and holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.001, 0.02, 0.9, 0.3]) == pytest.approx([0.004, 0.06, 0.9, 0.6])


@pytest.mark.parametrize(("answers", "right", "expected"), [
    (["1/2", "0.5", "3", "3", None], [1, 1, 0, 0, 0], 0.5),         # right ones are one class, whatever their spelling
    (["7", "3", "3"], [1, 0, 0], 0.0),
    (["7", "3", "4"], [1, 0, 0], 1 / 3),
    (["7", "3", "4", "7"], [1, 0, 0, 1], 1.0),
    ([None, None, "7"], [0, 0, 1], 1.0),                            # no answer is no vote
    ([None, None], [0, 0], 0.0),
    ([None, "3"], [1, 0], 0.5),                                     # a right one votes even if it was not read
    (["3", "3", "7"], [0, 1, 0], 1 / 3),                            # one text, two verdicts: two classes
])
def test_majority_vote(answers, right, expected):
    assert majority_vote(answers, right) == pytest.approx(expected)
    assert majority_vote(answers[::-1], right[::-1]) == pytest.approx(expected)


def test_the_p_value_is_uniform_when_nothing_differs():
    rng = np.random.default_rng(0)
    p_values = [
        paired_difference(rng.normal(size=30), rng.normal(size=30), resamples=200, seed=i)["p_value"]
        for i in range(300)
    ]
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.09
    assert 0.42 <= np.mean(np.array(p_values) <= 0.5) <= 0.58


def test_chunks_add_up(monkeypatch):
    assert sum(statistics._chunks(10_000, 777)) == 10_000
    monkeypatch.setattr(statistics, "_VALUES_PER_CHUNK", 8)
    assert list(statistics._chunks(5, 4)) == [2, 2, 1]
    assert list(statistics._chunks(2, 100)) == [1, 1]


def test_majority_baseline():
    assert majority_baseline(["12", "7", "7", "12", "3"]) == ("12", 0.4)
    assert majority_baseline(["7"]) == ("7", 1.0)


def test_wrong_input_is_refused():
    for values in ([], [[0.1], [0.2]], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="one finite value per problem"):
            bootstrap_interval(values, seed=0)
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([1.0], level=1.0, seed=0)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval([1.0], resamples=0, seed=0)
    with pytest.raises(ValueError, match="same problems"):
        paired_difference([1.0], [1.0, 2.0], seed=0)
    with pytest.raises(ValueError, match="no answers"):
        majority_baseline([])
    with pytest.raises(ValueError, match="a cluster per problem"):
        bootstrap_interval([1.0, 0.0], clusters=["x"], seed=0)
    with pytest.raises(ValueError, match="a stratum per problem"):
        bootstrap_interval([1.0, 0.0], strata=["x"], seed=0)
    for answers, right in (([], []), (["7"], [1, 0])):
        with pytest.raises(ValueError, match="a verdict per answer"):
            majority_vote(answers, right)
