"""Estimators: exact expectations over enumerated policies, golden values by plain loops, invariances."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsim_env.evaluation.ope import estimators as by

ITEMS = 3


def slates(k):
    return list(itertools.permutations(range(ITEMS), k))


def chances(slate, strength):
    """Plackett-Luce propensities of a slate, position by position."""
    left, found = list(range(ITEMS)), []
    for item in slate:
        found.append(strength[item] / sum(strength[i] for i in left))
        left.remove(item)
    return found


LOGGER, TARGET = (1.0, 2.0, 3.0), (4.0, 1.0, 0.5)


def world(k, reward):
    """Every slate once: probability under the logger, ratios, rewards; and the target's true value."""
    every = slates(k)
    logged = np.array([chances(s, LOGGER) for s in every])
    ratio = np.array([chances(s, TARGET) for s in every]) / logged
    rewards = np.array([reward(s) for s in every], float)
    truth = sum(math.prod(chances(s, TARGET)) * sum(reward(s)) for s in every)
    return logged.prod(axis=1), ratio, rewards, truth


def expected(terms, p):
    """Expectation of a mean over units that are drawn with probabilities p."""
    assert (terms.denominator == 1).all()
    return float((p[:, None] * terms.numerator).sum())


def cascade(slate):
    """Reward of a position that depends on it and on those above."""
    return [(i + 1) * 0.3 / (1 + sum(slate[:k])) for k, i in enumerate(slate)]


def independent(slate):
    return [(i + 1) * 0.3 / (k + 1) for k, i in enumerate(slate)]


def everything(slate):
    """Reward of a position that depends on the whole page."""
    return [0.1 * i + 0.2 * slate[-1] for i in slate]


def test_one_item_estimators_are_unbiased_over_all_items():
    p, ratio, reward, truth = world(1, cascade)
    weight, r = ratio[:, 0], reward[:, 0]
    wrong = np.array([5.0, -2.0, 0.3])
    target = p * weight
    q_target = np.full(ITEMS, float((target * wrong).sum()))
    assert expected(by.ips(r, weight), p) == pytest.approx(truth, abs=1e-12)
    assert expected(by.dr(r, weight, wrong, q_target), p) == pytest.approx(truth, abs=1e-12)
    assert expected(by.clipped_ips(r, weight, 1.0), p) < truth
    assert expected(by.clipped_ips(r, weight, 1e9), p) == pytest.approx(truth, abs=1e-12)
    assert expected(by.dm(np.full(ITEMS, float((target * r).sum()))), p) == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(
    ("estimator", "reward", "unbiased"),
    [
        (by.sips, cascade, True), (by.sips, independent, True), (by.sips, everything, True),
        (by.rips, cascade, True), (by.rips, independent, True), (by.rips, everything, False),
    ],
)  # fmt: skip
def test_slate_weights_are_unbiased_where_their_assumption_holds(k, estimator, reward, unbiased):
    p, ratio, rewards, truth = world(k, reward)
    found = expected(estimator(rewards, ratio), p)
    assert (abs(found - truth) < 1e-12) == (unbiased or k == 1)


@pytest.mark.parametrize(("reward", "unbiased"), [(independent, True), (cascade, False)])
def test_independent_ips_needs_independent_rewards(reward, unbiased):
    p, _, rewards, truth = world(2, reward)
    every = slates(2)

    def marginal(strength):
        found = np.zeros((2, ITEMS))
        for s in every:
            for k, item in enumerate(s):
                found[k, item] += math.prod(chances(s, strength))
        return np.array([[found[k, item] for k, item in enumerate(s)] for s in every])

    found = expected(by.iips(rewards, marginal(TARGET) / marginal(LOGGER)), p)
    assert (abs(found - truth) < 1e-12) == unbiased


def arbitrary_q(k):
    """A model without sense, and its mean over the target's item at each position given the shown ones above."""

    def q_of(prefix):
        return math.sin(7.0 * sum((i + 1) * 3.0**n for n, i in enumerate(prefix))) + len(prefix)

    every = slates(k)
    q = np.array([[q_of(s[: n + 1]) for n in range(k)] for s in every])
    mean = np.zeros(q.shape)
    for row, s in enumerate(every):
        for n in range(k):
            left = [i for i in range(ITEMS) if i not in s[:n]]
            total = sum(TARGET[i] for i in left)
            mean[row, n] = sum(TARGET[i] / total * q_of((*s[:n], i)) for i in left)
    return q, mean


@pytest.mark.parametrize("k", [1, 2, 3])
def test_cascade_dr_is_unbiased_whatever_the_model(k):
    p, ratio, rewards, truth = world(k, cascade)
    q, q_target = arbitrary_q(k)
    assert expected(by.cascade_dr(rewards, ratio, q, q_target), p) == pytest.approx(truth, abs=1e-12)
    assert expected(by.cascade_dr(rewards, ratio, 0 * q, 0 * q), p) == pytest.approx(
        expected(by.rips(rewards, ratio), p), abs=1e-12
    )


def test_episode_estimators_are_unbiased_over_all_episodes():
    """Two steps of one item each; what is shown first may not be shown again, and changes the second reward."""
    p, ratio, rewards, _ = world(2, cascade)
    truth = sum(math.prod(chances(s, TARGET)) * (cascade(s)[0] + 0.9 * cascade(s)[1]) for s in slates(2))
    q, q_target = arbitrary_q(2)
    assert expected(by.per_decision(rewards, ratio, 0.9), p) == pytest.approx(truth, abs=1e-12)
    assert expected(by.sequential_dr(rewards, ratio, q, q_target, 0.9), p) == pytest.approx(truth, abs=1e-12)


def test_a_perfect_model_takes_all_variance_away():
    _, ratio, rewards, truth = world(2, cascade)
    every = slates(2)
    second = {}  # expected reward of position 2 under the target, given the first item
    for i in range(ITEMS):
        left = [j for j in range(ITEMS) if j != i]
        second[i] = sum(TARGET[j] / sum(TARGET[x] for x in left) * cascade((i, j))[1] for j in left)
    q = np.array([[cascade(s)[0] + second[s[0]], cascade(s)[1]] for s in every])
    top = sum(TARGET[i] / sum(TARGET) * (cascade((i,))[0] + second[i]) for i in range(ITEMS))
    q_target = np.array([[top, second[s[0]]] for s in every])
    rows = by.cascade_dr(rewards, ratio, q, q_target).numerator
    np.testing.assert_allclose(rows, truth, atol=1e-12)
    assert np.ptp(by.rips(rewards, ratio).numerator) > 0.1


# A fixed data set, and every formula once more as it stands in the papers, in plain loops.
REWARD = [[1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.0], [1.0, 1.0, 1.0]]
RATIO = [[0.5, 2.0, 1.0], [1.5, 0.25, 4.0], [0.0, 1.0, 2.0], [3.0, 0.5, 0.8]]
Q = [[0.2, 0.1, 0.4], [0.6, 0.3, 0.2], [0.1, 0.9, 0.5], [0.7, 0.2, 0.3]]
Q_TARGET = [[0.3, 0.2, 0.5], [0.4, 0.1, 0.3], [0.2, 0.6, 0.4], [0.5, 0.3, 0.1]]


def by_loops():
    n, first, w = 4, [r[0] for r in REWARD], [r[0] for r in RATIO]
    q, t = [r[0] for r in Q], [r[0] for r in Q_TARGET]
    found = {"ips": 0.0, "clipped": 0.0, "dr": 0.0, "sips": 0.0, "rips": 0.0, "cascade_dr": 0.0}
    above, below, correction, joint = 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        found["ips"] += w[i] * first[i] / n
        found["clipped"] += min(w[i], 1.5) * first[i] / n
        found["dr"] += (t[i] + w[i] * (first[i] - q[i])) / n
        above, below, correction = above + w[i] * first[i], below + w[i], correction + w[i] * (first[i] - q[i])
        product = 1.0
        for k in range(3):
            before, product = product, product * RATIO[i][k]
            found["rips"] += product * REWARD[i][k] / n
            found["cascade_dr"] += (product * (REWARD[i][k] - Q[i][k]) + before * Q_TARGET[i][k]) / n
        found["sips"] += product * sum(REWARD[i]) / n
        joint += product
    found["snips"] = above / below
    found["sndr"] = sum(t) / n + correction / below
    found["snsips"] = found["sips"] * n / joint
    return found


def test_golden_values_by_plain_loops():
    reward, ratio, q, q_target = (np.array(x) for x in (REWARD, RATIO, Q, Q_TARGET))
    r, w, m, t = reward[:, 0], ratio[:, 0], q[:, 0], q_target[:, 0]
    terms = {
        "ips": by.ips(r, w), "snips": by.snips(r, w), "clipped": by.clipped_ips(r, w, 1.5), "dr": by.dr(r, w, m, t),
        "sndr": by.sndr(r, w, m, t), "sips": by.sips(reward, ratio), "snsips": by.snsips(reward, ratio),
        "rips": by.rips(reward, ratio), "cascade_dr": by.cascade_dr(reward, ratio, q, q_target),
    }  # fmt: skip
    loops = by_loops()
    for name, term in terms.items():
        assert term.value == pytest.approx(loops[name], rel=1e-12), name
    assert by.ips(r, w).value == pytest.approx((0.5 * 1 + 1.5 * 0 + 0 * 0.5 + 3 * 1) / 4)
    assert by.snips(r, w).value == pytest.approx(3.5 / 5)
    assert by.sips(reward, ratio).value == pytest.approx((1.0 * 3 + 1.5 * 1 + 0.0 + 1.2 * 3) / 4)


numbers = st.floats(0.0, 5.0, allow_subnormal=False)


@st.composite
def logs(draw):
    n, k = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    matrix = st.lists(st.lists(numbers, min_size=k, max_size=k), min_size=n, max_size=n)
    return np.array(draw(matrix)), np.array(draw(matrix))


@given(logs())
@settings(max_examples=60, deadline=None)
def test_shapes_and_invariances(log):
    reward, ratio = log
    n, k = reward.shape
    order = np.arange(n)[::-1]
    for estimator in (by.sips, by.snsips, by.rips, by.snrips, by.per_decision):
        terms = estimator(reward, ratio)
        assert terms.numerator.shape == terms.denominator.shape
        assert len(terms.numerator) == n
        value = terms.value
        shuffled = estimator(reward[order], ratio[order]).value
        assert value == pytest.approx(shuffled, rel=1e-9, nan_ok=True)
        assert estimator(2.0 * reward, ratio).value == pytest.approx(2.0 * value, rel=1e-9, nan_ok=True)
        assert estimator(reward, np.ones((n, k))).value == pytest.approx(reward.sum(axis=1).mean(), rel=1e-9)
    weight, r = ratio[:, 0], reward[:, 0]
    assert by.ips(r, weight).value == pytest.approx(by.rips(reward[:, :1], ratio[:, :1]).value)
    if weight.sum() > 0:
        assert r.min() - 1e-9 <= by.snips(r, weight).value <= r.max() + 1e-9
        constant = np.full(n, 3.0)
        assert by.sndr(constant, weight, 0 * r, 0 * r).value == pytest.approx(3.0)
    assert by.clipped_ips(r, weight, 1.0).value <= by.ips(r, weight).value + 1e-9


def test_weights_that_overflow_stay_finite():
    weight = by.prefix_weights(np.full((2, 500), 1e6))
    assert np.isfinite(weight).all()
    assert by.prefix_weights(np.array([[0.0, 5.0]])).tolist() == [[0.0, 0.0]]


def test_no_weight_at_all_is_no_number():
    assert math.isnan(by.snips(np.ones(3), np.zeros(3)).value)
