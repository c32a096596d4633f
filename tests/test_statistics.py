"""pass@k, bootstrap, sign-flip test and majority baseline, each against counting all cases by hand or by loop."""

import itertools
import tracemalloc

import numpy as np
import pytest

from ptdpo_cli import statistics
from ptdpo_cli.statistics import bootstrap_interval, majority_baseline, paired_difference, pass_at_k


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
