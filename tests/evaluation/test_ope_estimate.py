"""Intervals over users, diagnostics, the reward model, and turns put into episodes."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from recsim_env.draws import Draws
from recsim_env.evaluation.ope import estimators as by
from recsim_env.evaluation.ope import reward_model
from recsim_env.evaluation.ope.estimate import Clusters, Diagnostics, Estimate, diagnose, estimate_all
from recsim_env.evaluation.ope.reward_model import ItemFacts
from recsim_env.evaluation.ope.turns import Episodes, Turns, episode_terms, turn_terms


def uniforms(purpose, n):
    return Draws.uniforms(Draws(3).keys(purpose, 0), np.arange(n))[0].astype(float)


def test_intervals_take_a_users_turns_together():
    """Ten identical turns of each user tell no more than one: the interval must be as wide."""
    values = uniforms("reward", 200)
    once = by.ips(values, np.ones(200))
    often = by.ips(np.repeat(values, 10), np.ones(2000))
    ((low, high),) = Clusters.of(np.arange(200)).intervals([once])
    ((low_often, high_often),) = Clusters.of(np.repeat(np.arange(200), 10)).intervals([often])
    assert (low, high) == pytest.approx((low_often, high_often))
    ((low_rows, high_rows),) = Clusters.of(np.arange(2000)).intervals([often])
    assert high_rows - low_rows < 0.5 * (high - low)
    assert low < once.value < high


def test_intervals_of_sums_of_ratios_and_of_many_users():
    weight, reward = 2.0 * uniforms("w", 3000), uniforms("r", 3000)
    clusters = Clusters.of(np.arange(3000))
    assert clusters.count == 1024
    terms = [by.sndr(reward, weight, 0.5 * reward, 0.3 + 0 * reward), by.snips(reward, weight)]
    ends = clusters.intervals(terms)
    for (low, high), term in zip(ends, terms, strict=True):
        assert low < term.value < high
    assert ends == clusters.intervals(terms)


def test_one_user_has_no_interval():
    (estimate,) = estimate_all(
        {"IPS": (by.ips(np.ones(4), np.ones(4)), np.ones(4))}, Clusters.of(np.zeros(4)), np.zeros(4, bool)
    )
    assert np.isnan(estimate.low)
    assert estimate.row()["low"] is None


@pytest.mark.parametrize(
    ("weight", "effective", "largest", "mean"),
    [
        ([1.0, 1.0, 1.0, 1.0], 4.0, 1.0, 1.0),
        ([4.0, 0.0, 0.0, 0.0], 1.0, 4.0, 1.0),
        ([3.0, 1.0, 0.0, 0.0], 1.6, 3.0, 1.0),
        ([0.0, 0.0, 0.0, 0.0], 0.0, 0.0, 0.0),
        ([1e200, 0.0, 0.0, 0.0], 1.0, 1e200, 2.5e199),
    ],
)
def test_diagnostics_of_weights(weight, effective, largest, mean):
    told = diagnose(np.array(weight), np.array([True, False, False, False]), 0.25)
    assert told.effective == pytest.approx(effective)
    assert told.effective_share == pytest.approx(effective / 4)
    assert told.largest == largest
    assert told.mean_weight == pytest.approx(mean)
    assert (told.unsupported, told.unexplored) == (0.25, 0.25)


def test_weights_per_position_are_averaged():
    told = diagnose(np.array([[1.0, 4.0], [1.0, 0.0]]), np.zeros(2, bool))
    assert told.effective == pytest.approx(1.5)


def test_few_effective_turns_are_marked():
    assert Estimate("IPS", 1.0, 0.0, 2.0, 1000, Diagnostics(9.0, 0.009, 5.0, 1.0, 0.0, 0.0)).few
    assert not Estimate("IPS", 1.0, 0.0, 2.0, 1000, Diagnostics(10.0, 0.010, 5.0, 1.0, 0.0, 0.0)).few
    assert Estimate("IPS", 1.0, 0.0, 2.0, 50, Diagnostics(9.0, 0.18, 5.0, 1.0, 0.0, 0.0)).few
    assert not Estimate("DM", 1.0, 0.0, 2.0, 1000, None).few


def facts(n_items=6):
    return ItemFacts.of(np.arange(n_items) ** 2, np.eye(n_items, 3, dtype=bool) | (np.arange(n_items) == 5)[:, None])


def test_item_facts_and_leanings():
    known = facts()
    assert known.popularity[-1] == 0.0
    assert known.popularity[:-1].mean() == pytest.approx(0.0)
    leaning = known.leaning(np.array([[6, 6, 0], [0, 1, 5], [6, 6, 6]]))
    np.testing.assert_allclose(leaning, [[1, 0, 0], [4 / 9, 4 / 9, 1 / 9], [0, 0, 0]])


def test_the_reward_model_finds_a_linear_truth_and_never_uses_a_users_own_rewards():
    known, n = facts(), 4000
    items = (uniforms("items", 2 * n).reshape(n, 2) * 6).astype(int)
    leaning = np.zeros((n, 3))
    half = reward_model.halves(np.arange(n))
    reward = 0.2 + 0.1 * known.popularity[items] * np.array([1.0, 0.5])
    model = reward_model.fit(known, half, items, reward, leaning)
    q = model.predict(half, model.features(half, model.item_table()[items], leaning))
    np.testing.assert_allclose(q, reward, atol=0.02)
    changed = reward.copy()
    changed[half == 0] = 9.0
    other = reward_model.fit(known, half, items, changed, leaning)
    again = other.predict(half, other.features(half, other.item_table()[items], leaning))
    np.testing.assert_allclose(again[half == 0], q[half == 0])
    assert (again[half == 1] > 5.0).all()


def test_mean_features_give_the_mean_prediction():
    known = facts()
    half, leaning = np.array([0, 1]), np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    items = np.array([[0, 1], [2, 3], [4, 5], [1, 0]])
    model = reward_model.fit(
        known, np.array([0, 1, 0, 1]), items, uniforms("r", 8).reshape(4, 2), np.repeat(leaning, 2, axis=0)
    )
    chance = np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.1])
    table = model.item_table()
    mean = np.broadcast_to(chance @ table[:-1], (2, 2, table.shape[1]))
    every = np.stack(
        [model.predict(half, model.features(half, table[np.full((2, 2), i)], leaning)) for i in range(6)], axis=-1
    )
    np.testing.assert_allclose(model.predict(half, model.features(half, mean, leaning)), every @ chance)
    assert model.later(half, 2)[:, 1].tolist() == [0.0, 0.0]
    assert model.later(half, 3).shape == (2, 3)


def test_the_reward_model_does_without_categories():
    known = ItemFacts.of(np.arange(6), np.zeros((6, 0), bool))
    nowhere = as_strided(np.full(1, np.nan), (2, 0), (0, 0))  # empty, in memory that holds NaN
    half, items = np.array([0, 1]), np.array([[0, 1], [2, 3]])
    model = reward_model.fit(known, half, items, np.eye(2), nowhere)
    assert (model.features(half, model.item_table()[items], nowhere)[:, :, 3] == 0.0).all()


def test_turns_become_episodes_in_the_order_of_time():
    episodes = Episodes.of(np.array([7, 3, 7, 7, 3]))
    np.testing.assert_array_equal(episodes.place, [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(episodes.step, [0, 0, 1, 2, 1])
    padded = episodes.padded(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), -1.0)
    np.testing.assert_array_equal(padded, [[2.0, 5.0, -1.0], [1.0, 3.0, 4.0]])


def test_the_estimators_follow_the_slate_size_and_what_is_known():
    one = Turns(np.ones((4, 1)), np.ones((4, 1)))
    assert set(turn_terms(one)) == {"IPS", "SNIPS", "clipped IPS"}
    q = np.zeros((4, 1))
    assert set(turn_terms(Turns(one.reward, one.ratio, None, q, q))) == {
        "IPS", "SNIPS", "clipped IPS", "DM", "DR", "SNDR",
    }  # fmt: skip
    wide = np.ones((4, 3))
    assert set(turn_terms(Turns(wide, wide))) == {"SIPS", "SNSIPS", "RIPS", "SNRIPS"}
    assert set(turn_terms(Turns(wide, wide, wide, wide, wide, wide, wide))) == {
        "SIPS", "SNSIPS", "IIPS", "RIPS", "SNRIPS", "DM", "Cascade-DR",
    }  # fmt: skip


def test_turns_of_the_catalogues_search_weigh_one():
    turns = Turns(np.array([[1.0], [1.0], [1.0]]), np.array([[2.0], [np.nan], [3.0]]))
    forced = np.array([False, True, False])
    terms = episode_terms(turns, Episodes.of(np.zeros(3, int)), np.zeros(3, int), forced)
    assert terms["PDIS"][0].value == pytest.approx(2.0 + 2.0 + 6.0)
