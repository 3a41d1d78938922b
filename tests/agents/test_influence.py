"""Sway, conformity, drift and talk of behavioural users, against their equations."""

import numpy as np
import pytest

from recsim_env.agents.influence import FARTHEST, MOST
from recsim_env.graphs import Graph
from recsim_env.interfaces import Opinions
from recsim_env.scenario import PopulationSection


@pytest.fixture
def seated(make_world):
    """Influence of 12 users of the small world, who form a ring."""

    def seat(friends=True, **section):
        world = make_world()
        simulator = world.simulator(0)
        ring = Graph.of(np.arange(12), (np.arange(12) + 1) % 12, 12) if friends else None
        simulator.model.join(PopulationSection(chat=0.5, post=0.5, **section), ring)
        return simulator.model, simulator.model.influence

    return seat


def told(*rows, stars=None):
    user, to, item, valence = (np.array(c) for c in zip(*rows, strict=True))
    return Opinions(user, to, item, np.full(len(user), 4.0) if stars is None else np.array(stars), valence)


def test_posts_reach_all_acquaintances_and_chats_one(seated):
    _, influence = seated(sway=1.0)
    receiver, utterance = told((3, -1, 7, 1.0), (5, 6, 8, 1.0)).heard_by(influence.friends)
    assert receiver.tolist() == [2, 4, 6]
    assert utterance.tolist() == [0, 0, 1]


def test_sway_adds_to_the_log_odds_up_to_a_limit(seated):
    _, influence = seated(sway=0.5)
    influence.hear(told((0, -1, 7, 0.8), (2, -1, 7, -0.2), *[(4, 5, 9, 1.0)] * 8))
    log_odds = np.zeros((2, 3), np.float32)
    influence.sway(np.array([1, 5]), np.array([[7, 8, 60], [7, 9, 9]]), log_odds)
    np.testing.assert_allclose(log_odds, [[0.5 * 0.6, 0, 0], [0, 0.5 * MOST, 0.5 * MOST]], atol=1e-6)


def test_each_opinion_closes_a_share_of_the_gap(seated):
    _, influence = seated(conformity=0.3)
    influence.hear(told((0, -1, 7, 1.0), (2, -1, 7, 1.0), stars=[5.0, 4.0]))
    own = np.array([2.0, 2.0, 2.0], np.float32)
    felt = influence.conform(np.array([1, 11, 1]), np.array([7, 7, 8]), own)
    np.testing.assert_allclose(felt, [2 + (1 - 0.7**2) * 2.5, 2 + 0.3 * 3.0, 2.0], rtol=1e-6)
    assert own.tolist() == [2.0, 2.0, 2.0]


def test_tastes_drift_towards_what_is_liked_and_not_for_ever(seated):
    model, influence = seated(drift=0.1, friends=False)
    before, pull = influence.affinity.copy(), influence._pull
    influence.live(np.array([3, 3, 4]), np.array([7, 8, 7]), np.full(3, 5.0), np.array([True, True, False]))
    np.testing.assert_allclose(influence.affinity[3], before[3] + 0.1 * (pull[7] + pull[8]), atol=1e-6)
    assert (influence.affinity[4] == before[4]).all()
    gap = (influence.affinity[3] - influence.affinity[4]) @ pull.T
    mean_square = (gap**2 * model.catalog.popularity).sum() / model.catalog.popularity.sum()
    leanings = model.leanings
    assert ((leanings[3] - leanings[4]) ** 2).sum() == pytest.approx(mean_square, rel=1e-3)
    popular = model.catalog.popularity / model.catalog.popularity.sum()
    np.testing.assert_allclose(popular @ pull, 0, atol=1e-6)  # usual items move nobody
    for _ in range(300):
        influence.live(np.array([3]), np.array([7]), np.array([5.0]), np.array([True]))
    assert np.abs(influence.affinity[3] - before[3]).max() == pytest.approx(FARTHEST)


def test_praise_pulls_and_blame_pushes(seated):
    _, influence = seated(drift=0.1)
    before = influence.affinity.copy()
    influence.hear(told((0, 1, 7, 0.5), (4, 5, 7, -0.5)))
    moved = influence.affinity - before
    np.testing.assert_allclose(moved[1], 0.05 * influence._pull[7], atol=1e-6)
    np.testing.assert_allclose(moved[5], -moved[1], atol=1e-6)


def test_users_tell_of_their_strongest_opinion_once(seated):
    _, influence = seated()
    rows, items = np.array([2, 2, 2]), np.array([7, 8, 9])
    influence.live(rows, items, np.array([4.0, 1.0, 5.0], np.float32), np.zeros(3, bool))
    strongest = int(np.argmax(np.abs(influence.valence(np.array([4.0, 1.0, 5.0])))))
    influence.live(np.array([2]), np.array([10]), np.array([3.0], np.float32), np.zeros(1, bool))
    said = influence.exchange(0, np.array([1, 2]), np.array([1, 2]))
    assert said.user.tolist() == [2]
    assert said.item.tolist() == [items[strongest]]
    assert said.to[0] in (-1, 1, 3)
    assert not len(influence.exchange(1, np.array([1, 2]), np.array([1, 2])).user)


def test_valence_reaches_both_ends_of_the_scale(seated):
    _, influence = seated()
    found = influence.valence(np.array([1.0, influence._mean, 5.0], np.float32))
    np.testing.assert_allclose(found, [-1, 0, 1], atol=1e-6)


def test_the_most_praised_item_is_a_tip_once(seated):
    _, influence = seated(curiosity=0.5)
    influence.hear(told((0, 1, 7, 0.4), (2, 1, 8, 0.8), (2, 3, 9, -1.0), (4, 5, 7, 0.8)))
    influence.hear(told((0, 1, 6, 0.7)))  # praised less than what was heard the evening before
    rows = np.array([1, 3, 5])
    luck = np.array([0.39, 0.01, 0.41])  # below and above curiosity times praise, .4
    assert influence.take_tips(rows, luck).tolist() == [8, -1, -1]
    assert influence.take_tips(rows, np.zeros(3)).tolist() == [-1, -1, -1]


def test_a_new_life_has_heard_nothing_and_state_is_whole(seated):
    model, influence = seated(sway=1.0, drift=0.2)
    influence.hear(told((0, -1, 7, 0.8), (2, -1, 7, 1.0)))
    influence.live(np.array([3]), np.array([7]), np.array([5.0], np.float32), np.array([True]))
    state, keys, tastes = model.state(), influence.opinions.keys.copy(), influence.affinity.copy()
    model.reset_rows(np.array([1]))
    assert (influence.affinity[1] == influence._first[1]).all()
    assert len(influence.opinions) == len(keys) - 1
    model.load_state(state)
    assert (influence.opinions.keys == keys).all()
    assert (influence.affinity == tastes).all()
    assert influence.topics.item[3] == 7


def test_judgements_take_friends_into_account(seated):
    model, influence = seated(sway=1.0, conformity=0.5)
    rows, items = np.array([1, 1]), np.array([7, 8])
    before = model.judge(rows, items)
    influence.hear(told((0, 1, 7, 1.0), stars=[5.0]))
    after = model.judge(rows, items)
    assert after.log_odds[0] == pytest.approx(before.log_odds[0] + 1.0, abs=1e-5)
    assert after.log_odds[1] == before.log_odds[1]
    assert after.marks[0, -1] > before.marks[0, -1]
    assert (after.marks[1] == before.marks[1]).all()
