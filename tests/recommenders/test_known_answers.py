"""Each recommender on catalogues whose right answer is known by hand."""

from dataclasses import replace

import numpy as np
import pytest

from recsim_env.data.coratings import interaction_matrix
from recsim_env.draws import Draws
from recsim_env.recommenders.als import ALS, ALSConfig
from recsim_env.recommenders.cooccurrence import CHUNK, Cooccurrence, CooccurrenceConfig, _pairs
from recsim_env.recommenders.ease import EASE, EASEConfig
from recsim_env.recommenders.history import history_matrix
from recsim_env.recommenders.item_knn import ItemKNN, ItemKNNConfig
from recsim_env.recommenders.popularity import Popularity, PopularityConfig
from recsim_env.recommenders.text_similarity import TextSimilarity, TextSimilarityConfig
from recsim_env.records import Ratings
from recsim_env.testing import observations, tiny_dataset

PERSONAL = [
    ItemKNN(ItemKNNConfig(temperature=0)),
    EASE(EASEConfig(temperature=0, regularisation=10)),
    ALS(ALSConfig(temperature=0, factors=2, regularisation=1)),
    Cooccurrence(CooccurrenceConfig(temperature=0)),
]


def dataset_of(sequences, n_items):
    """A data set in which user u took ``sequences[u]`` in that order."""
    data = tiny_dataset(n_users=len(sequences), n_items=n_items)
    user = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences]).astype(np.int32)
    item = np.concatenate([np.asarray(s, np.int32) for s in sequences])
    n = len(item)
    return data.with_ratings(Ratings(user, item, np.full(n, 3, np.float32), np.arange(n, dtype=np.int64)))


def scores_of(made, data, history):
    made.fit(data, Draws(0))
    return made.scores(observations(data, [history]))[0]


@pytest.mark.parametrize("made", PERSONAL, ids=lambda made: made.name)
def test_checkerboard(made):
    data = tiny_dataset()
    made.fit(data, Draws(0))
    slate = made.recommend(observations(data, [[0, 2, 4], [1, 3], [7]]), 3, Draws(0))
    assert set(slate.items[0].tolist()) == {6, 8, 10}
    assert (slate.items[1] % 2 == 1).all()
    assert (slate.items[2] % 2 == 1).all()


def test_popularity_counts():
    data = dataset_of([[2, 0], [2, 1], [2, 0]], 4)
    made = Popularity(PopularityConfig(temperature=0))
    np.testing.assert_allclose(scores_of(made, data, [3]), np.log([3, 2, 4, 1]), rtol=1e-6)
    slate = made.recommend(observations(data, [[], [2], [0, 1]]), 3, Draws(0))
    assert slate.items.tolist() == [[2, 0, 1], [0, 1, 3], [2, 3, 4]]


def test_item_knn_by_hand():
    data = dataset_of([[0, 1], [0, 1], [0, 2]], 4)
    made = ItemKNN(ItemKNNConfig(shrink=2))
    # Counts 3, 2, 1; items 0 and 1 together twice, 0 and 2 once.
    want = [0, 2 / (np.sqrt(3 * 2) + 2), 1 / (np.sqrt(3 * 1) + 2), 0]
    np.testing.assert_allclose(scores_of(made, data, [0]), want, rtol=1e-6)
    np.testing.assert_allclose(scores_of(made, data, [1, 2]), [want[1] + want[2], 0, 0, 0], rtol=1e-6)
    nearest = ItemKNN(ItemKNNConfig(shrink=0, neighbours=1))
    np.testing.assert_allclose(scores_of(nearest, data, [0]), [0, 2 / np.sqrt(6), 0, 0], rtol=1e-6)


def test_item_knn_in_blocks_is_the_same(monkeypatch):
    data = tiny_dataset()
    whole = scores_of(ItemKNN(), data, [0, 3])
    monkeypatch.setattr("recsim_env.recommenders.item_knn.ROWS", 5)
    np.testing.assert_array_equal(scores_of(ItemKNN(), data, [0, 3]), whole)


def test_ease_by_hand():
    data = dataset_of([[0, 1], [0, 1], [0]], 2)
    made = EASE(EASEConfig(regularisation=2))
    # For two items B_01 = c_01 / (c_00 + lambda) and B_10 = c_01 / (c_11 + lambda).
    np.testing.assert_allclose(scores_of(made, data, [0]), [0, 2 / 5], rtol=1e-6)
    np.testing.assert_allclose(scores_of(made, data, [1]), [2 / 4, 0], rtol=1e-6)


def test_ease_is_the_constrained_least_squares_solution():
    data = tiny_dataset(n_items=7)
    made = EASE(EASEConfig(regularisation=3))
    made.fit(data, Draws(0))
    x = interaction_matrix(data).toarray().astype(float)
    for j in range(7):
        others = np.delete(np.arange(7), j)
        a = x[:, others]
        want = np.linalg.solve(a.T @ a + 3 * np.eye(6), a.T @ x[:, j])
        np.testing.assert_allclose(made._weights[others, j], want, atol=1e-5)
        assert made._weights[j, j] == 0


def test_ease_half_life():
    data = tiny_dataset(n_items=7)
    made = EASE(EASEConfig(half_life=2))
    made.fit(data, Draws(0))
    got = made.scores(observations(data, [[4, 1, 3]]))[0]
    np.testing.assert_allclose(got, np.array([0.5, 2**-0.5, 1.0]) @ made._weights[[4, 1, 3]], rtol=1e-5)


def test_history_matrix_counts_an_item_once_by_its_last_place():
    obs = observations(tiny_dataset(n_items=5), [[1, 2, 1, 3], []], history_length=6)
    np.testing.assert_allclose(history_matrix(obs, 5).toarray(), [[0, 1, 1, 1, 0], [0] * 5])
    np.testing.assert_allclose(history_matrix(obs, 5, half_life=1).toarray()[0], [0, 0.5, 0.25, 1, 0])


def test_als_folds_in_by_least_squares():
    data = tiny_dataset()
    config = ALSConfig(factors=3, regularisation=0.5, alpha=4)
    made = ALS(config)
    got = scores_of(made, data, [2, 5])
    items = made.arrays()["items"][:-1].astype(float)
    confidence = np.ones(12)
    confidence[[2, 5]] = 4
    normal = items.T @ (confidence[:, None] * items) + 0.5 * np.eye(3)
    user = np.linalg.solve(normal, 4 * items[[2, 5]].sum(axis=0))
    np.testing.assert_allclose(got, items @ user, rtol=1e-3, atol=1e-5)


def test_als_vectors_depend_on_the_seed_alone():
    data, models = tiny_dataset(), [ALS() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        model.fit(data, Draws(seed))
    np.testing.assert_array_equal(models[0].arrays()["items"], models[1].arrays()["items"])
    assert not np.array_equal(models[0].arrays()["items"], models[2].arrays()["items"])


def test_cooccurrence_by_hand():
    data = dataset_of([[0, 1, 2], [0, 2], [3]], 4)
    made = Cooccurrence(CooccurrenceConfig(decay=1, popularity_power=0.5))
    follows_0, follows_1 = (1 + 1 / 2) / (3 * np.sqrt(3)), 1 / (2 * np.sqrt(3))
    got = scores_of(made, data, [0])
    np.testing.assert_allclose(got, [0, 1 / (3 * np.sqrt(2)), follows_0, 0], rtol=1e-6)
    assert scores_of(made, data, [0, 1])[2] == pytest.approx(follows_0 / 2 + follows_1)
    assert scores_of(made, data, [2]).tolist() == [0, 0, 0, 0]  # nothing ever followed item 2
    near = Cooccurrence(CooccurrenceConfig(window=1, popularity_power=0))
    np.testing.assert_allclose(scores_of(near, data, [0]), [0, 1 / 3, 1 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 7, CHUNK])
def test_pairs_stay_within_users(monkeypatch, chunk):
    monkeypatch.setattr("recsim_env.recommenders.cooccurrence.CHUNK", chunk)
    histories = dataset_of([[0, 1, 2], [], [3], [4, 5], []], 6).histories()
    found = sorted(pair for part in _pairs(histories, 2) for pair in zip(*(x.tolist() for x in part), strict=True))
    assert found == [(0, 1, 1), (0, 2, 2), (1, 2, 1), (4, 5, 1)]


def test_items_that_nobody_has_are_served_without_warnings():
    data = dataset_of([[0, 1], [1, 0]], 9)
    for made in [*PERSONAL, ItemKNN(ItemKNNConfig(shrink=0))]:
        made.fit(data, Draws(0))
        slate = made.recommend(observations(data, [[8], [0]]), 3, Draws(0))
        assert (slate.items < 9).all()


def test_repeated_ratings_count_once():
    data = dataset_of([[0, 1], [0, 1]], 3)
    twice = replace(data, ratings=data.ratings.take(np.array([0, 0, 1, 2, 3, 3])))
    for kind in (ItemKNN, EASE):
        np.testing.assert_array_equal(scores_of(kind(), data, [0]), scores_of(kind(), twice, [0]))


def test_similar_texts_are_found_without_any_rating():
    data = tiny_dataset(20, 6)
    titles = ["Space War", "Space War Returns", "Love in Paris", "Paris Love Letters", "Space Peace", "Cooking"]
    catalog = replace(data.catalog, title=np.array(titles, object), item_categories=np.zeros((6, 2), bool))
    empty = replace(data, catalog=catalog).with_ratings(data.ratings.take(np.zeros(0, np.int64)))
    made = TextSimilarity(TextSimilarityConfig(half_life=None))
    made.fit(empty, Draws(0))
    scores = scores_of(made, empty, [0])
    assert np.argsort(-scores)[:3].tolist() == [0, 1, 4]
    assert np.argsort(-scores_of(made, empty, [2]))[:2].tolist() == [2, 3]
