import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsim_env.draws import Draws
from recsim_env.evaluation import beyond_accuracy as metrics

CATEGORIES = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]], bool)
counts = hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 1000))


def test_exposure_and_coverage():
    shown = np.array([[0, 1], [0, 4], [-1, 0]])
    exposure = metrics.exposure_counts(shown, 4)
    assert exposure.tolist() == [3, 1, 0, 0]
    assert metrics.coverage(exposure) == 0.5


@pytest.mark.parametrize(
    ("exposure", "expected"),
    [([5, 5, 5, 5], 0.0), ([0, 0, 0, 8], 0.75), ([1, 3], 0.25), ([0, 0], np.nan), ([7], 0.0)],
)
def test_gini_by_hand(exposure, expected):
    assert metrics.gini(np.array(exposure)) == pytest.approx(expected, nan_ok=True)


@given(counts, st.integers(1, 9), st.randoms())
def test_gini_bounds_and_invariances(exposure, factor, random):
    value = metrics.gini(exposure)
    if exposure.sum() == 0:
        assert np.isnan(value)
        return
    assert 0 <= value <= 1 - 1 / len(exposure) + 1e-12
    shuffled = exposure.copy()
    random.shuffle(shuffled)
    assert metrics.gini(shuffled * factor) == pytest.approx(value)
    assert metrics.gini(np.tile(exposure, 2)) == pytest.approx(value)


@given(counts)
def test_lorenz_runs_below_the_diagonal(exposure):
    x, y = metrics.lorenz(exposure)
    assert len(x) == len(y) == len(exposure) + 1
    if exposure.sum():
        assert y[0] == 0
        assert y[-1] == pytest.approx(1)
        assert (y <= x + 1e-12).all()
        assert (np.diff(y) >= 0).all()


def test_novelty_by_hand():
    popularity = np.array([4, 2, 2])
    assert metrics.self_information(popularity).tolist() == [1, 2, 2]
    assert metrics.novelty(np.array([[0, 1], [0, 3]]), popularity) == pytest.approx((1 + 2 + 1) / 3)
    assert np.isnan(metrics.novelty(np.array([[3]]), popularity))


def test_items_without_ratings_are_as_novel_as_the_rarest():
    bits = metrics.self_information(np.array([0, 1, 6]))
    assert bits[0] == bits[1] == 3


@pytest.mark.parametrize(
    ("slate", "similarity", "expected"),
    [
        ([0, 1], "jaccard", 0.5),
        ([0, 1], "cosine", 1 - 1 / np.sqrt(2)),
        ([0, 2], "jaccard", 1.0),
        ([0, 0], "cosine", 0.0),
        ([0, 1, 2], "jaccard", (0.5 + 1 + 1) / 3),
        ([0, 1, 3], "jaccard", 0.5),  # pairs with an item without categories are left out
        ([0, 1, 4], "jaccard", 0.5),  # and so is padding
        ([0, 4], "jaccard", np.nan),
    ],
)
def test_intra_list_diversity_by_hand(slate, similarity, expected):
    found = metrics.intra_list_diversity(np.array([slate]), CATEGORIES, similarity)
    assert found == pytest.approx([expected], nan_ok=True)


@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(2, 5)), elements=st.integers(-1, 4)))
def test_intra_list_diversity_bounds_and_order(slates):
    for similarity in ("jaccard", "cosine"):
        found = metrics.intra_list_diversity(slates, CATEGORIES, similarity)
        known = found[~np.isnan(found)]
        assert ((known >= 0) & (known <= 1)).all()
        np.testing.assert_allclose(found, metrics.intra_list_diversity(slates[:, ::-1], CATEGORIES, similarity))


def test_category_mass_and_entropy_by_hand():
    owner, items = np.array([0, 0, 1, 2]), np.array([0, 1, 3, 4])
    mass = metrics.category_mass(owner, items, CATEGORIES, 3)
    np.testing.assert_allclose(mass, [[1.5, 0.5, 0], [0, 0, 0], [0, 0, 0]])
    bits = metrics.entropy(mass)
    assert bits[0] == pytest.approx(0.75 * np.log2(4 / 3) + 0.25 * 2)
    assert np.isnan(bits[1])
    assert metrics.entropy(np.ones(8)) == pytest.approx(3)
    assert metrics.entropy(np.array([2.0, 0])) == 0


def test_weights_count():
    mass = metrics.category_mass(np.array([0, 0]), np.array([0, 2]), CATEGORIES, 1, np.array([3.0, 1.0]))
    np.testing.assert_allclose(mass, [[3, 0, 1]])


def test_calibration_by_hand():
    past = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    shown = np.array([[2.0, 2.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = metrics.calibration(past, shown)
    one_sided = 0.5 * np.log(0.5 / 0.995) + 0.5 * np.log(0.5 / 0.005)
    np.testing.assert_allclose(found[:3], [0, one_sided, -np.log(0.01)])
    assert np.isnan(found[3])


mass = hnp.arrays(np.float64, (3, 4), elements=st.integers(0, 9).map(float))


@given(mass, mass)
def test_calibration_bounds(past, shown):
    found = metrics.calibration(past, shown)
    known = found[~np.isnan(found)]
    assert ((known >= 0) & (known <= -np.log(0.01) + 1e-9)).all()
    assert (np.isnan(found) == ((past.sum(1) == 0) | (shown.sum(1) == 0))).all()


def test_homogenisation_by_hand():
    user, item = np.array([0, 0, 1, 1, 1, 2]), np.array([1, 2, 2, 3, 2, 9])
    # Pairs: {1,2} with {2,3} is 1/3, the others share nothing; user 3 consumed nothing.
    assert metrics.homogenisation(user, item, 4, Draws(0)) == pytest.approx(1 / 9)
    assert np.isnan(metrics.homogenisation(user[:0], item[:0], 4, Draws(0)))


def test_jaccard_of_given_pairs():
    user, item = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 2, 2, 2, 3, 7])
    found = metrics.jaccard(user, item, 4, np.array([0, 1, 2, 0]), np.array([1, 0, 2, 3]))
    np.testing.assert_allclose(found, [1 / 3, 1 / 3, 1.0, np.nan])


def test_sampled_pairs_estimate_all_pairs():
    rng = np.random.default_rng(1)
    user, item = rng.integers(0, 300, 6000), (rng.random(6000) ** 2 * 100).astype(int)
    exact = metrics.homogenisation(user, item, 300, Draws(0), n_pairs=300 * 299 // 2)
    first, second, values = metrics.pairwise_jaccard(user, item, 300, Draws(0), n_pairs=20_000)
    assert (first != second).all()
    assert ((values >= 0) & (values <= 1)).all()
    assert values.mean() == pytest.approx(exact, abs=4 * values.std() / 20_000**0.5)


def test_sampled_pairs_are_keyed():
    user, item = np.arange(500), np.zeros(500, int)
    once = metrics.pairwise_jaccard(user, item, 500, Draws(3), n_pairs=100)
    again = metrics.pairwise_jaccard(user, item, 500, Draws(3), n_pairs=100)
    other = metrics.pairwise_jaccard(user, item, 500, Draws(4), n_pairs=100)
    assert (once[0] == again[0]).all()
    assert (once[0] != other[0]).any()
    assert (once[2] == 1).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=30))
def test_homogenisation_bounds(events):
    user, item = np.array(events).T
    value = metrics.homogenisation(user, item, 5, Draws(0))
    assert np.isnan(value) or 0 <= value <= 1
