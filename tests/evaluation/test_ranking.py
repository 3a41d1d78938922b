import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsim_env.evaluation.ranking import ndcg, score_rankings
from recsim_env.records import Histories


def histories(lists, ratings=None):
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64)
    items = np.array([i for x in lists for i in x], np.int32)
    gains = np.array([g for x in ratings for g in x] if ratings else np.ones(len(items)), np.float32)
    return Histories(offsets, items, gains)


def test_hand_computed():
    top = np.array([[3, 1, 2], [4, 5, 6], [7, 8, 9], [1, 2, 3]])
    scores = score_rankings(top, histories([[1, 9], [4, 5, 6, 0], [0], []]))
    assert scores.hit.tolist()[:3] == [1, 1, 0]
    np.testing.assert_allclose(scores.recall[:3], [0.5, 0.75, 0])
    np.testing.assert_allclose(scores.reciprocal_rank[:3], [0.5, 1, 0])
    # One hit at rank 2, the ideal list holds two: (1 / log2 3) / (1 + 1 / log2 3).
    np.testing.assert_allclose(scores.ndcg[:3], [(1 / np.log2(3)) / (1 + 1 / np.log2(3)), 1, 0])
    assert np.isnan(scores.ndcg[3])
    assert np.isnan(scores.hit[3])
    means = scores.means()
    assert means["n_users"] == 3
    assert means["k"] == 3
    assert means["hr"] == pytest.approx(2 / 3)
    assert means["ndcg_low"] <= means["ndcg"] <= means["ndcg_high"]


def test_graded_by_hand():
    found = ndcg(np.array([[2, 1]]), histories([[1, 2, 3]], [[3, 1, 2]]), graded=True)
    np.testing.assert_allclose(found, [(1 + 3 / np.log2(3)) / (3 + 2 / np.log2(3))])


def test_padding_and_repetition_count_for_nothing():
    relevant = histories([[1], [1]])
    scores = score_rankings(np.array([[-1, 99, 1], [1, 1, 1]]), relevant)
    np.testing.assert_allclose(scores.reciprocal_rank, [1 / 3, 1])
    np.testing.assert_allclose(scores.recall, [1, 1])
    np.testing.assert_allclose(scores.ndcg, [0.5, 1])


def test_nobody_with_relevant_items():
    scores = score_rankings(np.array([[0, 1]]), histories([[]]))
    means = scores.means()
    assert means["n_users"] == 0
    assert np.isnan(means["ndcg"])


@pytest.mark.parametrize(
    ("top", "relevant", "message"),
    [
        (np.array([1, 2]), histories([[1], [2]]), r"shape \(2,\)"),
        (np.array([[1, 2]]), histories([[1], [2]]), "of 2 users"),
    ],
)
def test_bad_shapes(top, relevant, message):
    with pytest.raises(ValueError, match=message):
        score_rankings(top, relevant)


@pytest.mark.parametrize("gain", [-1.0, np.nan])
def test_bad_gains(gain):
    with pytest.raises(ValueError, match="0 or more"):
        ndcg(np.array([[1]]), histories([[1]], [[gain]]), graded=True)


@pytest.mark.parametrize("graded", [False, True])
def test_agrees_with_ir_measures(graded):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ir_measures
    rng = np.random.default_rng(0)
    n, n_items, k = 60, 40, 10
    top = np.argsort(rng.random((n, n_items)), axis=1)[:, :k]
    lists = [rng.choice(n_items, rng.integers(1, 20), replace=False).tolist() for _ in range(n)]
    gains = [rng.integers(1, 6, len(x)).tolist() if graded else [1] * len(x) for x in lists]
    qrels = [
        ir_measures.Qrel(str(u), str(i), int(g))
        for u in range(n) for i, g in zip(lists[u], gains[u], strict=True)
    ]  # fmt: skip
    run = [ir_measures.ScoredDoc(str(u), str(i), float(k - r)) for u in range(n) for r, i in enumerate(top[u])]
    measures = {
        "ndcg": ir_measures.nDCG @ k, "recall": ir_measures.R @ k, "reciprocal_rank": ir_measures.RR @ k,
        "hit": ir_measures.Success @ k,
    }  # fmt: skip
    expected = {name: np.full(n, np.nan) for name in measures}
    for metric in ir_measures.iter_calc(list(measures.values()), qrels, run):
        name = next(name for name, measure in measures.items() if measure == metric.measure)
        expected[name][int(metric.query_id)] = metric.value
    relevant = histories(lists, gains)
    np.testing.assert_allclose(ndcg(top, relevant, graded), expected["ndcg"], atol=1e-12)
    scores = score_rankings(top, relevant)
    for name in ("recall", "reciprocal_rank", "hit"):
        np.testing.assert_allclose(getattr(scores, name), expected[name], atol=1e-12)


users = st.lists(st.sets(st.integers(0, 15), max_size=8), min_size=1, max_size=5)


@given(users, st.integers(1, 8), st.integers(0, 2**31), st.permutations(range(16)))
def test_bounds_and_renaming(lists, k, seed, names):
    top = np.argsort(np.random.default_rng(seed).random((len(lists), 16)), axis=1)[:, :k]
    scores = score_rankings(top, histories([sorted(x) for x in lists]))
    renamed = np.array(names)
    again = score_rankings(renamed[top], histories([[names[i] for i in x] for x in lists]))
    for name in ("hit", "recall", "reciprocal_rank", "ndcg"):
        values = getattr(scores, name)
        known = values[~np.isnan(values)]
        assert ((known >= 0) & (known <= 1)).all()
        np.testing.assert_allclose(values, getattr(again, name))
    assert (np.isnan(scores.ndcg) == [not x for x in lists]).all()


@given(users, st.integers(1, 8))
def test_ideal_list_scores_one(lists, k):
    ideal = np.array([(sorted(x) + [99] * k)[:k] for x in lists])
    found = ndcg(ideal, histories([sorted(x) for x in lists]))
    np.testing.assert_allclose(found[~np.isnan(found)], 1.0)


@given(st.integers(0, 7), st.integers(0, 7))
def test_an_earlier_hit_is_never_worse(early, late):
    early, late = sorted((early, late))
    top = np.full((2, 8), 99)
    top[0, early] = top[1, late] = 1
    first, second = ndcg(top, histories([[1], [1]]))
    assert first >= second
