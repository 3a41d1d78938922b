"""Graphs of acquaintances: degree, symmetry, sameness, homophily that is measured, and files."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.graph_makers import barabasi_albert, homophilous, make_graph, watts_strogatz
from recsim_env.graphs import Graph, read_graph
from recsim_env.scenario import PopulationSection

N, DEGREE = 500, 10


def leanings(n=N, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)


MAKERS = {
    "watts-strogatz": lambda seed=0: watts_strogatz(N, DEGREE, 0.2, Draws(seed)),
    "barabasi-albert": lambda seed=0: barabasi_albert(N, DEGREE, Draws(seed)),
    "homophilous": lambda seed=0: homophilous(leanings(), DEGREE, 6.0, Draws(seed)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_ties_count_both_ways_once_and_to_others(name):
    graph = MAKERS[name]()
    ties = set(zip(graph.owner.tolist(), graph.friends.tolist(), strict=True))
    assert len(ties) == len(graph.friends)
    assert ties == {(b, a) for a, b in ties}
    assert not any(a == b for a, b in ties)
    assert (np.diff(graph.friends)[np.diff(graph.owner) == 0] > 0).all()
    assert 0.85 * DEGREE < graph.degree.mean() <= DEGREE
    assert graph.degree.min() >= 1


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_seed_gives_the_same_graph(name):
    a, b, other = MAKERS[name](), MAKERS[name](), MAKERS[name](1)
    assert np.array_equal(a.friends, b.friends)
    assert not np.array_equal(a.friends[:1000], other.friends[:1000])


def test_without_rewiring_the_small_world_is_a_ring():
    graph = watts_strogatz(20, 4, 0.0, Draws(0))
    assert [graph.known_to(row).tolist() for row in (0, 7)] == [[1, 2, 18, 19], [5, 6, 8, 9]]


def test_preferential_attachment_has_hubs():
    assert MAKERS["barabasi-albert"]().degree.max() > 5 * DEGREE
    assert MAKERS["watts-strogatz"]().degree.max() < 2.5 * DEGREE


def likeness(graph, x):
    x = x - x.mean(axis=0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (x[graph.owner] * x[graph.friends]).sum(axis=1).mean()


def test_the_like_minded_know_each_other():
    x = leanings()
    found = [likeness(homophilous(x, DEGREE, strength, Draws(0)), x) for strength in (0.0, 2.0, 6.0)]
    assert abs(found[0]) < 0.03
    assert found[1] > 0.2
    assert found[2] > found[1] + 0.1


def test_a_shuffled_graph_has_the_same_degrees_and_no_homophily():
    x, ids = leanings(), np.array([f"u{i}" for i in range(N)], object)
    plain = make_graph(PopulationSection(graph="homophilous"), ids, Draws(0), x)
    mixed = make_graph(PopulationSection(graph="homophilous", shuffled=True), ids, Draws(0), x)
    assert sorted(plain.degree) == sorted(mixed.degree)
    assert likeness(plain, x) > 0.3
    assert abs(likeness(mixed, x)) < 0.03


def test_friends_of_some_users_in_their_order():
    graph = Graph.of(np.array([0, 0, 2]), np.array([1, 2, 3]), 5)
    number, place = graph.entries(np.array([2, 4, 0]))
    assert number.tolist() == [0, 0, 2, 2]
    assert graph.friends[place].tolist() == [0, 3, 1, 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.floats(0.1, 5)), max_size=30))
def test_pairs_become_what_a_dict_says(pairs):
    known = {}
    for a, b, w in pairs:
        if a != b:
            known[a, b] = known[b, a] = w
    first, second, weight = (np.array(c) for c in zip(*pairs, strict=True)) if pairs else (np.empty(0, int),) * 3
    graph = Graph.of(first, second, 8, weight)
    found = dict(zip(zip(graph.owner.tolist(), graph.friends.tolist(), strict=True), graph.closeness, strict=True))
    assert found == known


def test_a_friend_is_drawn_as_one_user_at_a_time_would():
    graph = MAKERS["barabasi-albert"]()
    rows = np.arange(0, N, 7)
    together = graph.friend(rows, Draws(3), rows, 4)
    alone = [graph.friend(rows[i : i + 1], Draws(3), rows[i : i + 1], 4)[0] for i in range(len(rows))]
    assert together.tolist() == alone
    noise = Draws.gumbels(Draws(3).keys("friend", rows[:1], 4), graph.known_to(0))[0]
    assert together[0] == graph.known_to(0)[np.argmax(noise)]


def test_people_of_another_graph_take_seats_in_their_order(tmp_path):
    path = tmp_path / "friends.dat"
    path.write_text("userID\tfriendID\n900\t17\n17\t5\n5\t33\n")
    graph = read_graph(path, None, 3)
    assert [graph.known_to(row).tolist() for row in range(3)] == [[1], [0, 2], [1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read"),
        ("a\n1\n", "needs two columns"),
        ("a,b\n77,78\n", "joins no two of the 5 users"),
        ("a,b,closeness\n0,1,-1\n", "closeness that is no number above 0"),
        ("a,b,closeness\n0,1,near\n", "closeness that is no number above 0"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    path = tmp_path / "graph.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ScenarioError, match=message):
        make_graph(PopulationSection(graph=str(path)), np.array(list("vwxyz"), object), Draws(0))


def test_too_few_users_and_users_without_tastes_are_refused():
    ids = np.array(list("vwxyz"), object)
    with pytest.raises(ScenarioError, match="5 users cannot have 10 acquaintances"):
        make_graph(PopulationSection(graph="watts-strogatz"), ids, Draws(0))
    with pytest.raises(ScenarioError, match="do not say what they like"):
        make_graph(PopulationSection(graph="homophilous", degree=2), ids, Draws(0))


def real(name):
    folder = Path(os.environ.get("RECSIM_DATA", "../shared/data"))
    if not (folder / name).exists():
        assert "RECSIM_DATA" not in os.environ, f"RECSIM_DATA is set, but {folder / name} is absent"
        pytest.skip(f"{folder / name} is absent; set RECSIM_DATA")
    return folder / name


@pytest.mark.realdata
def test_the_friends_of_lastfm_load():
    graph = read_graph(real("lastfm-hetrec2k/user_friends.dat"), None, 2000)
    assert len(graph.friends) == 25_434  # both ways, as the file has them
    assert (graph.degree > 0).sum() == 1892


@pytest.mark.realdata
def test_the_relationships_of_recagent_load():
    path = real("recagent/relationship_1000.csv")
    graph = read_graph(path, {str(i): i for i in range(1000)}, 1000)
    assert graph.closeness.min() > 0
    assert graph.closeness.max() <= 1
    assert len(np.unique(graph.closeness)) > 100
    assert (graph.degree > 0).mean() > 0.9
