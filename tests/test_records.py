"""The batch types: histories, seen bits, rating scales, data sets with other ratings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsim_env.data.movietweetings import load_movietweetings
from recsim_env.records import (
    Feedback,
    Histories,
    Ratings,
    RatingScale,
    is_seen,
    take_feedback,
    unpack_seen,
)

N_ITEMS = 20
events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, N_ITEMS - 1), st.integers(0, 3)), max_size=40)


def ratings_of(rows) -> Ratings:
    user, item, time = (np.array([r[axis] for r in rows], np.int64) for axis in range(3))
    return Ratings(user.astype(np.int32), item.astype(np.int32), np.arange(len(rows), dtype=np.float32), time)


def as_lists(histories: Histories) -> list[list[tuple[int, float]]]:
    ends = zip(histories.offsets[:-1], histories.offsets[1:], strict=True)
    return [list(zip(histories.items[a:b].tolist(), histories.ratings[a:b].tolist(), strict=True)) for a, b in ends]


def test_histories_known_answer():
    ratings = ratings_of([(1, 7, 2), (0, 3, 9), (1, 8, 1), (1, 9, 2)])
    histories = Histories.from_ratings(ratings, 3)
    assert as_lists(histories) == [[(3, 1)], [(8, 2), (7, 0), (9, 3)], []]  # equal times keep the order of rows
    assert histories.lengths.tolist() == [1, 3, 0]
    items, stars = histories.last(2, N_ITEMS)
    assert items.tolist() == [[20, 3], [7, 9], [20, 20]]
    np.testing.assert_array_equal(stars, np.array([[np.nan, 1], [0, 3], [np.nan, np.nan]], np.float32))
    assert (items.dtype, stars.dtype) == (np.int32, np.float32)


@settings(deadline=None)
@given(rows=events)
def test_from_ratings_sorts_by_time_then_row(rows):
    expected = [
        [(item, float(row)) for time, row, item in sorted((t, r, i) for r, (u, i, t) in enumerate(rows) if u == user)]
        for user in range(5)
    ]
    assert as_lists(Histories.from_ratings(ratings_of(rows), 5)) == expected


@settings(deadline=None)
@given(rows=events, users=st.lists(st.integers(-1, 4), max_size=8))
def test_take_picks_repeats_and_empties(rows, users):
    histories = Histories.from_ratings(ratings_of(rows), 5)
    whole = as_lists(histories)
    picked = histories.take(np.array(users, np.int64))
    assert as_lists(picked) == [whole[u] if u >= 0 else [] for u in users]
    assert picked.lengths.tolist() == [len(whole[u]) if u >= 0 else 0 for u in users]


@settings(deadline=None)
@given(rows=events, length=st.integers(1, 12))
def test_last_pads_in_front(rows, length):
    histories = Histories.from_ratings(ratings_of(rows), 5)
    items, stars = histories.last(length, N_ITEMS)
    for user, history in enumerate(as_lists(histories)):
        kept = history[-length:]
        assert items[user].tolist() == [N_ITEMS] * (length - len(kept)) + [i for i, _ in kept]
        assert stars[user, length - len(kept) :].tolist() == [r for _, r in kept]
        assert np.isnan(stars[user, : length - len(kept)]).all()


@settings(deadline=None)
@given(data=st.data(), n_items=st.integers(1, 40), n=st.integers(1, 5), k=st.integers(1, 6))
def test_unpack_seen_and_is_seen_agree(data, n_items, n, k):
    bits = data.draw(st.lists(st.booleans(), min_size=n * n_items, max_size=n * n_items))
    mask = np.array(bits, np.bool_).reshape(n, n_items)
    packed = np.packbits(mask, axis=1, bitorder="little")
    assert (unpack_seen(packed, n_items) == mask).all()
    shown = data.draw(st.lists(st.integers(0, n_items), min_size=n * k, max_size=n * k))
    items = np.array(shown, np.int32).reshape(n, k)
    answer = is_seen(packed, items)
    assert (answer.dtype, answer.shape) == (np.bool_, (n, k))
    real = items < n_items
    assert (answer[real] == np.take_along_axis(mask, np.minimum(items, n_items - 1), 1)[real]).all()
    assert (packed == np.packbits(mask, axis=1, bitorder="little")).all()  # nothing is changed in place


def test_is_seen_takes_views():
    mask = np.arange(6 * 30).reshape(6, 30) % 7 == 0
    packed = np.packbits(mask, axis=1, bitorder="little")
    items = np.tile(np.arange(30, dtype=np.int64), (3, 1))
    assert (is_seen(packed[::2], items) == mask[::2]).all()
    assert (is_seen(packed[::-2], items) == mask[::-2]).all()


@pytest.mark.parametrize(
    ("scale", "levels", "liked_from"),
    [
        (RatingScale(1, 5), [1, 2, 3, 4, 5], 4),
        (RatingScale(0, 10), list(range(11)), 8),
        (RatingScale(0.5, 5, 0.5), [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5], 4),
        (RatingScale(0, 1), [0, 1], 1),
        (RatingScale(-1, 1, 0.5), [-1, -0.5, 0, 0.5, 1], 0.5),
    ],
)
def test_rating_scale(scale, levels, liked_from):
    assert scale.levels.tolist() == levels
    assert scale.levels.dtype == np.float32
    assert scale.liked_from() == liked_from
    assert scale.on_scale(scale.levels).all()
    off = np.array([scale.low - scale.step, scale.high + scale.step, scale.low + scale.step / 2, np.nan])
    assert not scale.on_scale(off).any()


@settings(deadline=None)
@given(low=st.integers(-10, 10), n=st.integers(1, 20), step=st.sampled_from([0.1, 0.25, 0.5, 1, 2]))
def test_levels_are_on_their_scale(low, n, step):
    scale = RatingScale(low, low + n * step, step)
    assert len(scale.levels) == n + 1
    assert scale.on_scale(scale.levels).all()
    assert not scale.on_scale(scale.levels + np.float32(step / 3)).any()
    assert scale.liked_from() in scale.levels
    # At most the top quarter of the steps is liked, and never nothing.
    assert 1 <= (scale.levels >= scale.liked_from()).sum() <= n / 4 + 1


def test_with_ratings_counts_popularity_again():
    data = load_movietweetings()
    part = data.with_ratings(data.ratings.take(data.ratings.user_index < 100))
    assert part.catalog.popularity.sum() == len(part.ratings) < len(data.ratings)
    assert part.catalog.popularity.dtype == np.int64
    assert data.catalog.popularity.sum() == len(data.ratings)
    assert (part.n_users, part.n_items) == (data.n_users, data.n_items)


def test_take_feedback_keeps_rows_together():
    k = np.arange(6).reshape(3, 2)
    feedback = Feedback(
        k > 2,
        k / 6,
        k > 3,
        k > 4,
        k.astype(np.float32),
        np.arange(3, dtype=np.int8),
        ["a", None, "c"],
        k.astype(object),
    )
    taken = take_feedback(feedback, np.array([2, 0]))
    assert taken.rating.tolist() == [[4, 5], [0, 1]]
    assert taken.clicked.tolist() == [[True, True], [False, False]]
    assert taken.next_action.tolist() == [2, 0]
    assert taken.message == ["c", "a"]
    assert taken.comments.tolist() == [[4, 5], [0, 1]]
    assert take_feedback(taken, np.array([], np.int64)).message == []
