"""Slates out of scores, against brute force and against counted frequencies."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsim_env.draws import Draws
from recsim_env.recommenders.sampling import SlatePolicy, standardise, top_k

KINDS = [(1.0, 0.0), (0.3, 0.0), (0.0, 0.0), (0.5, 0.4), (0.0, 0.3), (1.0, 1.0)]


def brute_force(scores, slate, temperature, epsilon):
    """Probabilities of a slate's positions, by the definition."""
    left, result = [i for i in range(len(scores)) if scores[i] > -np.inf], []
    for item in slate:
        if item not in left:
            return [*result, 0.0]
        if temperature == 0:
            soft = float(item == max(left, key=lambda i: (scores[i], -i)))
        else:
            weights = {i: np.exp((scores[i] - max(scores)) / temperature) for i in left}
            soft = weights[item] / sum(weights.values())
        result.append((1 - epsilon) * soft + epsilon / len(left))
        left.remove(item)
    return result


def sample(policy, scores, k, n, seed=0):
    """Slates of n users with the same scores."""
    draws = Draws(seed)
    lanes = np.arange(len(scores))
    tiled = np.tile(np.asarray(scores, np.float32), (n, 1))
    return policy.sample(tiled, lanes, k, lambda purpose: draws.keys(purpose, np.arange(n))), tiled


@pytest.mark.parametrize(("temperature", "epsilon"), KINDS)
def test_log_prob_is_the_definition(temperature, epsilon):
    scores = np.array([0.5, -np.inf, 1.2, 1.2, -0.7], np.float32)
    policy = SlatePolicy(temperature, epsilon)
    for slate in permutations(range(5), 3):
        want = brute_force(scores, slate, temperature, epsilon)
        got = np.exp(policy.log_prob(scores[None], np.array([slate]))[0])
        np.testing.assert_allclose(got[: len(want)], want, rtol=1e-5)


@pytest.mark.parametrize(("temperature", "epsilon"), KINDS)
def test_frequencies_are_the_probabilities(temperature, epsilon):
    scores, n = [0.4, -np.inf, 1.0, 0.1], 60_000
    policy = SlatePolicy(temperature, epsilon)
    slates, tiled = sample(policy, scores, 2, n)
    found, counts = np.unique(slates, axis=0, return_counts=True)
    chances = np.exp(policy.log_prob(tiled[: len(found)], found).sum(axis=1))
    assert chances.sum() == pytest.approx(1.0, abs=1e-5)  # nothing possible is missing, nothing impossible there
    chi_square = ((counts - n * chances) ** 2 / (n * chances)).sum()
    assert chi_square < 25  # 5 degrees of freedom at most: exceeded once in 7,000


def test_third_position_after_exploration_is_still_the_mixture():
    policy, n = SlatePolicy(0.5, 0.5), 80_000
    slates, tiled = sample(policy, [0.0, 0.5, 1.0, 1.5], 3, n)
    found, counts = np.unique(slates, axis=0, return_counts=True)
    chances = np.exp(policy.log_prob(tiled[: len(found)], found).sum(axis=1))
    assert len(found) == 24
    assert ((counts - n * chances) ** 2 / (n * chances)).sum() < 56  # 23 degrees of freedom


def test_tiny_remaining_mass_keeps_its_proportions():
    scores = np.array([[100.0, 1.0, 1.0, 0.0]], np.float32)
    got = np.exp(SlatePolicy(0.5, 0.0).log_prob(scores, np.array([[0, 1, 2, 3]])))
    want = [1.0, 1 / (2 + np.exp(-2)), 1 / (1 + np.exp(-2)), 1.0]
    np.testing.assert_allclose(got[0], want, rtol=1e-6)
    got = np.exp(SlatePolicy(1e-5, 0.0).log_prob(scores, np.array([[0, 1, 2, 3]])))
    np.testing.assert_allclose(got[0], [1.0, 0.5, 1.0, 1.0], rtol=1e-6)


def test_impossible_slates():
    scores = np.array([[1.0, -np.inf, 0.0]], np.float32)
    for epsilon in (0.0, 0.5):
        got = SlatePolicy(1.0, epsilon).log_prob(scores, np.array([[1, 0, 0]]))[0]
        assert got[0] == -np.inf  # must not be shown
        assert np.isfinite(got[1])  # and takes nothing away from the later positions
        assert got[2] == -np.inf  # shown before


def test_slates_end_where_nothing_is_left():
    for temperature, epsilon in KINDS:
        slates, _ = sample(SlatePolicy(temperature, epsilon), [0.0, -np.inf, 1.0], 5, 50)
        assert (np.sort(slates[:, :2], axis=1) == [0, 2]).all()
        assert (slates[:, 2:] == 3).all()


def test_luck_belongs_to_the_item():
    draws = Draws(1)
    scores = np.zeros((1, 6), np.float32)
    lanes = np.array([9, 4, 7, 1, 8, 2])
    policy = SlatePolicy(1.0, 0.0)
    first = policy.sample(scores, lanes, 3, lambda p: draws.keys(p, 0))
    shuffled = lanes[::-1].copy()
    second = policy.sample(scores, shuffled, 3, lambda p: draws.keys(p, 0))
    assert lanes[first[0]].tolist() == shuffled[second[0]].tolist()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        elements=st.sampled_from([-np.inf, -2.0, -1e-30, -0.0, 0.0, 1.5, 3e38]),
    ),
    st.integers(1, 11),
)
def test_top_k_is_a_stable_sort(values, k):
    slots = top_k(values, k)
    for row, got in zip(values, slots, strict=True):
        order = [i for i in np.argsort(-row, kind="stable") if row[i] > -np.inf][:k]
        assert got.tolist() == order + [len(row)] * (k - len(order))


def test_standardise():
    scores = np.array([[1.0, 2.0, 3.0, 99.0], [7.3, 7.3, 7.3, 0.0]], np.float32)
    allowed = np.array([[True, True, True, False]] * 2)
    got = standardise(scores, allowed)
    root = np.sqrt(1.5)
    np.testing.assert_allclose(got, [[-root, 0, root, 0], [0, 0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(standardise(1e4 * scores - 5, allowed)[0], got[0], atol=1e-5)
