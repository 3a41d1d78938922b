"""Splits: nothing lost, nothing twice, the last really last, the luck the user's own."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsim_env.data.movietweetings import load_movietweetings
from recsim_env.data.splits import split_dataset
from recsim_env.draws import Draws
from recsim_env.records import Catalog, Dataset, Ratings, RatingScale
from recsim_env.scenario import Data

SPLITS = ("last-out", "per-user", "by-time")


def make(events, n_users=6, n_items=8):
    """A data set of (user, item, time) events; the rating is the row number modulo 5, plus 1."""
    user, item, time = (np.array([e[axis] for e in events], np.int64) for axis in range(3))
    catalog = Catalog(
        item_id=np.array([f"i{i}" for i in range(n_items)], object),
        title=np.array([f"i{i}" for i in range(n_items)], object),
        categories=(),
        item_categories=np.zeros((n_items, 0), np.bool_),
        text=np.full(n_items, "", object),
        year=np.zeros(n_items, np.int16),
        popularity=np.zeros(n_items, np.int64),
        scale=RatingScale(1, 5),
    )
    ratings = Ratings(
        user.astype(np.int32), item.astype(np.int32), (np.arange(len(user)) % 5 + 1).astype(np.float32), time
    )
    user_id = np.array([f"u{u}" for u in range(n_users)], object)
    return Dataset("made", catalog, user_id, {}, ratings).with_ratings(ratings)


def rows(ratings):
    columns = (ratings.user_index, ratings.item_index, ratings.rating, ratings.timestamp)
    return list(zip(*(c.tolist() for c in columns), strict=True))


events = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 5)),
    min_size=2,
    max_size=40,
    unique_by=lambda e: e[:2],
)


@pytest.mark.parametrize("split", SPLITS)
@settings(deadline=None)
@given(events=events, share=st.floats(0.05, 0.95))
def test_parts_are_disjoint_and_complete(split, events, share):
    data = make(events)
    parts = split_dataset(data, Data(split=split, test_share=share), Draws(3))
    train, test = rows(parts.train.ratings), rows(parts.test)
    assert not set(train) & set(test)
    assert sorted(train + test) == sorted(rows(data.ratings))
    assert train == [r for r in rows(data.ratings) if r in set(train)]  # the order of the rows is kept
    assert parts.train.catalog.popularity.tolist() == np.bincount(parts.train.ratings.item_index, minlength=8).tolist()


@settings(deadline=None)
@given(events=events)
def test_last_out_takes_the_last(events):
    data = make(events)
    parts = split_dataset(data, Data(split="last-out"), Draws(0))
    held_out = {r[0]: r for r in rows(parts.test)}
    assert len(held_out) == len(parts.test)
    for user in range(6):
        own = [(r[3], row, r) for row, r in enumerate(rows(data.ratings)) if r[0] == user]
        assert held_out.get(user) == (max(own)[2] if len(own) > 1 else None)


def test_last_out_known_answer():
    data = make([(0, 1, 5), (0, 2, 9), (0, 3, 9), (1, 1, 1), (2, 4, 7), (2, 5, 6)])
    parts = split_dataset(data, Data(split="last-out"), Draws(0))
    assert parts.test.item_index.tolist() == [3, 4]  # equal times: the later row; user 1 keeps its only rating


@settings(deadline=None)
@given(events=events, share=st.floats(0.05, 0.95))
def test_per_user_counts(events, share):
    data = make(events)
    parts = split_dataset(data, Data(split="per-user", test_share=share), Draws(1))
    whole = np.bincount(data.ratings.user_index, minlength=6)
    test = np.bincount(parts.test.user_index, minlength=6)
    assert test.tolist() == [min(round(n * share), n - 1) if n else 0 for n in whole.tolist()]
    assert ((whole - test > 0) == (whole > 0)).all()


@settings(deadline=None)
@given(events=events, share=st.floats(0.05, 0.95))
def test_by_time_cuts_in_time(events, share):
    data = make(events)
    parts = split_dataset(data, Data(split="by-time", test_share=share), Draws(1))
    assert len(parts.test) == min(max(round(len(events) * share), 1), len(events) - 1)
    assert parts.train.ratings.timestamp.max() <= parts.test.timestamp.min()


@pytest.mark.parametrize("split", ["last-out", "per-user"])
@settings(deadline=None)
@given(events=events, users=st.permutations(range(6)), seed=st.integers(0, 5))
def test_permuted_users_are_split_the_same(split, events, users, seed):
    """User u gets the row number users[u], and the rows are sorted by that; times are made different."""
    events = [(u, i, t) for t, (u, i, _) in enumerate(events)]
    data = make(events)
    place = np.array(users)
    user = place[data.ratings.user_index].astype(np.int32)
    order = np.argsort(user, kind="stable")
    moved = replace(
        data,
        user_id=data.user_id[np.argsort(place)],
        ratings=replace(data.ratings, user_index=user).take(order),
    )
    one, two = (split_dataset(d, Data(split=split, test_share=0.4), Draws(seed)).test for d in (data, moved))
    assert {(f"u{u}", *rest) for u, *rest in rows(one)} == {(moved.user_id[u], *rest) for u, *rest in rows(two)}


def test_per_user_luck_is_keyed_and_fair():
    data = load_movietweetings()

    def test_part(seed, share=0.3):
        return split_dataset(data, Data(split="per-user", test_share=share), Draws(seed)).test

    assert rows(test_part(1)) == rows(test_part(1))
    assert rows(test_part(1)) != rows(test_part(2))
    assert set(rows(test_part(1, 0.2))) < set(rows(test_part(1, 0.4)))  # the same luck, a larger share
    assert abs(len(test_part(1)) / len(data.ratings) - 0.3) < 0.01
    # A random share does not prefer late ratings: the mean rank in time of what is held out is one half.
    rank = np.empty(len(data.ratings))
    order = np.lexsort((data.ratings.timestamp, data.ratings.user_index))
    count = np.bincount(data.ratings.user_index)
    rank[order] = (np.arange(len(rank)) - np.repeat(np.cumsum(count) - count, count) + 0.5) / np.repeat(count, count)
    where = {row: r for row, r in zip(rows(data.ratings), rank, strict=True)}
    assert abs(np.mean([where[row] for row in rows(test_part(1))]) - 0.5) < 0.01


def test_truth_is_not_changed():
    data = load_movietweetings()
    before = data.catalog.popularity.copy()
    parts = split_dataset(data, Data(), Draws(0))
    assert (data.catalog.popularity == before).all()
    assert (len(parts.test), len(parts.train.ratings)) == (2_059, 44_613 - 2_059)
    assert parts.train.catalog.popularity.sum() == 44_613 - 2_059
