"""Splits ratings into what recommenders may learn from and what is held out."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from recsim_env.draws import Draws
from recsim_env.records import BoolArray, Dataset, IntArray, Ratings
from recsim_env.scenario import Data


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A data set in two parts that share users and items.

    Attributes:
        train: The training part; its catalogue's popularity counts training ratings only.
        test: The ratings that were held out, in the data set's order.
    """

    train: Dataset
    test: Ratings

    def without(self, items: IntArray) -> Split:
        """The split without any rating of some items, which stay in the catalogue: nobody has heard of them yet."""
        known = np.ones(self.train.n_items, np.bool_)
        known[items] = False
        train = self.train.ratings
        return Split(
            self.train.with_ratings(train.take(known[train.item_index])), self.test.take(known[self.test.item_index])
        )


def split_dataset(dataset: Dataset, data: Data, draws: Draws) -> Split:
    """Holds ratings out.

    - ``last-out``: each user's last rating in time; the only rating of a user stays in training.
    - ``per-user``: a random share of each user's ratings, rounded; at least one stays in training. The luck belongs
      to the user's id and the item, so the order of users and rows does not matter.
    - ``by-time``: the latest share of all ratings; users who came late may have no training part.

    Equal times keep the order of the rows.

    Args:
        dataset: The ratings.
        data: Names the split and the share.
        draws: Draws of the run, used by ``per-user`` alone.
    """
    match data.split:
        case "last-out":
            held_out = last_of_each(dataset)
        case "per-user":
            held_out = share_of_each(dataset, data.test_share, draws)
        case "by-time":
            held_out = latest(dataset.ratings, data.test_share)
    return Split(dataset.with_ratings(dataset.ratings.take(~held_out)), dataset.ratings.take(held_out))


def last_of_each(dataset: Dataset) -> BoolArray:
    """Marks the last rating of every user with two or more, bool (R,)."""
    ratings = dataset.ratings
    order = np.lexsort((np.arange(len(ratings)), ratings.timestamp, ratings.user_index))
    counts = np.bincount(ratings.user_index, minlength=dataset.n_users)
    ends = np.cumsum(counts) - 1
    return _mark(len(ratings), order[ends[counts > 1]])


def share_of_each(dataset: Dataset, share: float, draws: Draws) -> BoolArray:
    """Marks a random share of every user's ratings, but never all of them, bool (R,)."""
    ratings = dataset.ratings
    stable = np.array([zlib.crc32(user.encode()) for user in dataset.user_id], np.int64)
    keys = draws.keys("split", stable)[ratings.user_index]
    luck = draws.uniforms(keys, ratings.item_index[:, None])[:, 0]
    order = np.lexsort((ratings.item_index, luck, ratings.user_index))
    counts = np.bincount(ratings.user_index, minlength=dataset.n_users)
    n_test = np.minimum(np.round(counts * share), counts - 1).astype(np.int64)
    rank = np.arange(len(ratings)) - np.repeat(np.cumsum(counts) - counts, counts)
    return _mark(len(ratings), order[rank < np.repeat(n_test, counts)])


def latest(ratings: Ratings, share: float) -> BoolArray:
    """Marks the latest share of all ratings, at least one and never all, bool (R,)."""
    n = len(ratings)
    n_test = min(max(round(n * share), 1), n - 1)
    order = np.lexsort((np.arange(n), ratings.timestamp))
    return _mark(n, order[n - n_test :])


def _mark(n: int, rows: IntArray) -> BoolArray:
    marked = np.zeros(n, np.bool_)
    marked[rows] = True
    return marked
