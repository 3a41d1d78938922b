import numpy as np
import pytest

from recsim_env.draws import Draws
from recsim_env.evaluation import bootstrap
from recsim_env.evaluation.beyond_accuracy import coverage


def test_counts_are_resamples():
    counts = bootstrap.resampled_counts(50, 400)
    assert counts.shape == (400, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert counts.mean() == pytest.approx(1)
    assert counts.var() == pytest.approx(1 - 1 / 50, abs=0.05)  # binomial(50, 1/50)
    assert (counts == bootstrap.resampled_counts(50, 400)).all()
    assert (counts != bootstrap.resampled_counts(50, 400, Draws(1))).any()


def test_blocks_do_not_matter(monkeypatch):
    whole = bootstrap.resampled_counts(4000, 20)
    assert (bootstrap.resampled_counts(4000, 1500)[:20] == whole).all()


def test_ratio_is_sum_over_sum():
    numerator, denominator = np.array([[1.0, 0], [5, 0]]), np.array([[2.0, 0], [4, 0]])
    value = bootstrap.ratios(numerator, denominator)
    assert value[0] == 1
    assert np.isnan(value[1])
    found = bootstrap.ratio_intervals(numerator, denominator)
    assert (found.low[0], found.high[0]) == (0.5, 1.25)
    assert np.isnan([found.low[1], found.high[1]]).all()
    assert found.excludes_zero.tolist() == [True, False]


def clustered(rng, n_users):
    """Turns of a user share a rate: rows are far from independent. The true ratio is 0.3 in both columns."""
    turns = rng.integers(1, 20, n_users)
    rate = rng.beta(0.6, 1.4, n_users)
    return rng.binomial(turns, rate).astype(float), turns.astype(float)


def test_coverage_of_clustered_intervals():
    """Known truth: 95 % intervals hold it in about 95 % of 400 repetitions; 3 SD is 3.3 points."""
    rng = np.random.default_rng(0)
    clicks, turns = np.array([clustered(rng, 150) for _ in range(400)]).transpose(1, 2, 0)
    found = bootstrap.ratio_intervals(clicks, turns, bootstrap.resampled_counts(150, 500))
    covered = ((found.low <= 0.3) & (found.high >= 0.3)).mean()
    assert 0.905 <= covered <= 0.985
    # Rows as if independent would be far too sure of themselves.
    error = np.sqrt(found.value * (1 - found.value) / turns.sum(axis=0))
    assert (np.abs(found.value - 0.3) < 1.96 * error).mean() < 0.75


def test_coverage_of_paired_differences():
    rng = np.random.default_rng(1)
    truth, n_users, n_runs = 0.1, 120, 400
    level = rng.normal(0, 1, (n_users, n_runs))
    first = level + truth + rng.normal(0, 0.3, level.shape)
    second = level + rng.normal(0, 0.3, level.shape)
    ones = np.ones_like(level)
    counts = bootstrap.resampled_counts(n_users, 500)
    paired = bootstrap.paired_difference((first, ones), (second, ones), counts)
    covered = ((paired.low <= truth) & (paired.high >= truth)).mean()
    assert 0.905 <= covered <= 0.985
    # Common luck cancels: much narrower than the interval of either mean.
    alone = bootstrap.ratio_intervals(first, ones, counts)
    assert (paired.high - paired.low).mean() < 0.5 * (alone.high - alone.low).mean()


def test_paired_difference_needs_the_same_users():
    a, b = np.ones((3, 1)), np.ones((4, 1))
    with pytest.raises(ValueError, match="same clusters"):
        bootstrap.paired_difference((a, a), (b, b))


def test_jackknife_of_a_mean_is_students_interval():
    values = np.array([1.0, 2, 4, 9])
    left_out = np.array([[(values.sum() - v) / 3] for v in values])
    found = bootstrap.jackknife_intervals(np.array([values.mean()]), left_out)
    half = 3.182446 * values.std(ddof=1) / 2
    assert found.high[0] - found.value[0] == pytest.approx(half, rel=1e-6)
    assert found.value[0] - found.low[0] == pytest.approx(half, rel=1e-6)


def test_jackknife_needs_two_groups():
    found = bootstrap.jackknife_intervals(np.array([1.0]), np.ones((1, 1)))
    assert np.isnan(found.low[0])


def test_jackknife_knows_the_spread_of_coverage():
    """The interval's width is near what repeating the whole experiment shows."""
    rng = np.random.default_rng(2)
    p = 1 / np.arange(1, 201)
    draws = rng.choice(200, (300, 40, 5), p=p / p.sum())  # repetitions, users, items

    def covered(users):
        return coverage(np.bincount(users.ravel(), minlength=200))

    spread = np.std([covered(users) for users in draws])
    widths = []
    for users in draws[:50]:
        left_out = np.array([[covered(np.delete(users, np.arange(g, 40, 20), axis=0))] for g in range(20)])
        found = bootstrap.jackknife_intervals(np.array([covered(users)]), left_out)
        widths.append((found.high[0] - found.low[0]) / 2 / 2.093)
    assert 0.7 < np.mean(widths) / spread < 1.6
