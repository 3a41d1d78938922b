"""Preferences: learned structure on known worlds, and on real data."""

import numpy as np
import pytest

from recsim_env.agents.preference import category_weights, fit_biases, fit_preferences, interests
from recsim_env.draws import Draws
from recsim_env.records import Catalog, Dataset, Ratings, RatingScale


def world(n_users=200, n_items=60, seed=0, per_user=30):
    """Two camps of users and items; users of a camp rate its items 5 or 4, the others 1 or 2."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), per_user)
    item = np.concatenate([rng.permutation(n_items)[:per_user] for _ in range(n_users)])
    same = user % 2 == item % 2
    rating = np.where(same, 5, 1) + np.where(rng.random(len(user)) < 0.3, np.where(same, -1, 1), 0)
    flags = np.zeros((n_items, 2), bool)
    flags[np.arange(n_items), np.arange(n_items) % 2] = True
    text = np.full(n_items, "", object)
    ids = np.array([f"i{i}" for i in range(n_items)], object)
    catalog = Catalog(
        ids, ids, ("Even", "Odd"), flags, text, np.zeros(n_items, np.int16), np.bincount(item, minlength=n_items),
        RatingScale(1, 5),
    )  # fmt: skip
    ratings = Ratings(user.astype(np.int32), item.astype(np.int32), rating.astype(np.float32), np.arange(len(user)))
    return Dataset("camps", catalog, np.array([f"u{u}" for u in range(n_users)], object), {}, ratings)


def test_factors_learn_the_two_camps():
    data = world()
    fitted = fit_preferences(data, Draws(0), n_factors=4)
    users = np.repeat(np.arange(200), 60)
    items = np.tile(np.arange(60), 200)
    scores = fitted.scores(fitted.tastes, users, items)
    same = users % 2 == items % 2
    assert scores[same].mean() > 4.2
    assert scores[~same].mean() < 1.8
    mean, user_bias, item_bias = fit_biases(data.ratings, 200, 60)
    assert abs(mean - 3.0) < 0.1  # biases alone cannot tell the camps apart
    assert np.ptp(item_bias) < 1.0
    assert np.ptp(user_bias) < 1.5


def test_stars_match_the_histogram_and_expected_matches_the_stars():
    data = world()
    fitted = fit_preferences(data, Draws(0), n_factors=4)
    r = data.ratings
    scores = fitted.scores(fitted.tastes, r.user_index, r.item_index)
    noise = fitted.tastes.noise[r.user_index]
    luck = Draws(1).uniforms(Draws(1).keys("stars", np.arange(50)), np.arange(len(r)))
    stars = np.stack([fitted.stars(scores, noise, row) for row in luck])
    assert set(np.unique(stars)) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    simulated = np.array([(stars == level).mean() for level in fitted.levels])
    real = np.array([(r.rating == level).mean() for level in fitted.levels])
    assert np.abs(simulated - real).max() < 0.04
    assert np.abs(stars.mean(axis=0) - fitted.expected(scores, noise)).mean() < 0.08


def test_affinity_is_the_log_ratio_of_shares():
    data = world(per_user=20)
    fitted = fit_preferences(data, Draws(0), n_factors=2)
    u, i = data.ratings.user_index, data.ratings.item_index
    even = np.bincount(u[i % 2 == 0], minlength=data.n_users)
    assert np.corrcoef(even, fitted.tastes.affinity[:, 0])[0, 1] > 0.95
    assert np.corrcoef(even, fitted.tastes.affinity[:, 1])[0, 1] < -0.95


def test_new_people_come_from_the_distribution_and_are_nobody():
    fitted = fit_preferences(world(), Draws(0), n_factors=4)
    many = fitted.draw_tastes(2000, Draws(5))
    few = fitted.draw_tastes(10, Draws(5))
    np.testing.assert_array_equal(many.factors[:10], few.factors)  # the t-th is the same however many are drawn
    known = fitted.tastes
    np.testing.assert_allclose(many.bias.mean(), known.bias.mean(), atol=4 * known.bias.std() / 2000**0.5 + 1e-3)
    np.testing.assert_allclose(many.bias.std(), known.bias.std(), rtol=0.1)
    np.testing.assert_allclose(np.cov(many.factors.T), np.cov(known.factors.T), atol=0.2)
    distance = np.linalg.norm(many.factors[:200, None] - known.factors[None], axis=2)
    assert distance.min() > 0


def test_item_without_category_has_no_weight():
    catalog = world().catalog
    catalog.item_categories[3] = False
    weights = category_weights(catalog)
    assert weights[3].sum() == 0
    np.testing.assert_allclose(np.delete(weights.sum(axis=1), 3), 1.0)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_ratings_does_not_matter_to_biases(reverse):
    data = world()
    ratings = data.ratings.take(np.arange(len(data.ratings))[::-1]) if reverse else data.ratings
    mean, user_bias, _ = fit_biases(ratings, data.n_users, data.n_items)
    base_mean, base_bias, _ = fit_biases(data.ratings, data.n_users, data.n_items)
    assert mean == pytest.approx(base_mean)
    np.testing.assert_allclose(user_bias, base_bias, atol=1e-6)


def test_interests_are_the_same_twice_where_there_are_few_kinds_of_users():
    """Three groups without an item in common: ARPACK runs out of directions and takes random ones."""
    data = world()
    user, item = np.divmod(np.arange(200 * 60), 60)
    of_the_group = user % 3 == item % 3
    user, item = user[of_the_group].astype(np.int32), item[of_the_group].astype(np.int32)
    ratings = Ratings(user, item, np.ones(len(user), np.float32), np.arange(len(user)))
    first, second = (interests(ratings, data, Draws(0), 8) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
