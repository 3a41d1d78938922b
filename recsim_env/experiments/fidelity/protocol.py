"""The published protocol: who is judged, on which ratings, against which films (docs/fidelity.md).

Every user's ratings are split 70/10/20 at random. Item statistics, models and personas are fitted on everybody's
training part; thresholds and weights are chosen on the validation part; figures are of the test part, for users drawn
from those with enough ratings. After "beyond-click-sim" (agafonovartem, 2026); users.md's section 3 in our words.

All luck is keyed by the user's id and the item, so that the order of users and rows changes nothing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from recsim_env.draws import Draws
from recsim_env.errors import DataError
from recsim_env.interfaces import Config
from recsim_env.records import BoolArray, Dataset, FloatArray, IntArray, Ratings


class Protocol(Config):
    """Sizes of the protocol; the defaults are the published ones."""

    n_users: int = 1000
    """Users who are judged, drawn anew for each seed; fewer where the data has fewer."""
    min_ratings: int = 10
    """Only users with at least so many ratings are drawn."""
    validation_share: float = 0.1
    """Share of each user's ratings on which thresholds and weights are chosen."""
    test_share: float = 0.2
    """Share of each user's ratings that is judged."""
    negatives: tuple[int, ...] = (1, 3, 9, 19)
    """m: unseen films for every held-out one."""
    group_size: int = 20
    """Largest candidate group."""
    max_groups: int = 5
    """Most groups of a user for each m."""
    rated_rows: int = 5
    """Test ratings of a user whose stars are predicted."""
    history_rows: int = 20
    """Longest rating history that the classifier sees."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """A data set under the protocol.

    Attributes:
        whole: All ratings.
        train: Everybody's training part; its catalogue counts training ratings only.
        validation: Held out, for thresholds and weights.
        test: Held out, for figures.
        users: int64 (N,), rows of the data set that are judged, ascending.
    """

    whole: Dataset
    train: Dataset
    validation: Ratings
    test: Ratings
    users: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Candidate groups of one m.

    Attributes:
        m: Unseen films for every held-out one.
        user: int64 (Q,), row of the data set.
        items: int32 (Q, S), candidates; ``n_items`` pads. The order is drawn and tells nothing.
        positive: bool (Q, S), held-out films.
    """

    m: int
    user: IntArray
    items: IntArray
    positive: BoolArray

    @property
    def shown(self) -> BoolArray:
        """Not padding, bool (Q, S): a group holds ``1 + m`` candidates for each positive, and these come first."""
        size = self.positive.sum(axis=1) * (1 + self.m)
        return np.arange(self.items.shape[1]) < size[:, None]

    def pairs(self) -> tuple[IntArray, IntArray]:
        """Users and items of all candidates, each (n,), group by group."""
        shown = self.shown
        return np.repeat(self.user, shown.sum(axis=1)), self.items[shown]

    def spread(self, values: FloatArray) -> FloatArray:
        """Values of :meth:`pairs` back in groups, float64 (Q, S), NaN where padded."""
        found = np.full(self.items.shape, np.nan)
        found[self.shown] = values
        return found


def stable_ids(dataset: Dataset) -> IntArray:
    """A number for each user that depends on its id alone, int64 (U,)."""
    return np.array([zlib.crc32(str(user).encode()) for user in dataset.user_id], np.int64)


def split_parts(dataset: Dataset, protocol: Protocol, draws: Draws) -> Parts:
    """Splits every user's ratings at random and draws who is judged.

    Of n ratings ``round(n * test_share)`` are test and ``round(n * validation_share)`` validation; at least one stays
    in training.

    Raises:
        DataError: If nobody has enough ratings.
    """
    ratings, n_users = dataset.ratings, dataset.n_users
    ids = stable_ids(dataset)
    luck = draws.uniforms(draws.keys("fidelity-split", ids)[ratings.user_index], ratings.item_index[:, None])[:, 0]
    order = np.lexsort((ratings.item_index, luck, ratings.user_index))
    counts = np.bincount(ratings.user_index, minlength=n_users)
    n_test = np.minimum(np.round(counts * protocol.test_share), np.maximum(counts - 1, 0)).astype(np.int64)
    n_held = np.minimum(n_test + np.round(counts * protocol.validation_share), np.maximum(counts - 1, 0))
    rank = np.empty(len(ratings), np.int64)
    rank[order] = np.arange(len(ratings)) - np.repeat(np.cumsum(counts) - counts, counts)
    test = rank < n_test[ratings.user_index]
    held = rank < n_held[ratings.user_index]
    enough = np.flatnonzero((counts >= protocol.min_ratings) & (n_held > n_test) & (n_test > 0))
    if not len(enough):
        raise DataError(
            f"{dataset.name}: no user has {protocol.min_ratings} ratings, so there is nobody to judge. Take a data set "
            "with longer histories."
        )
    picked = np.argsort(draws.uniform("fidelity-users", ids[enough]), kind="stable")[: protocol.n_users]
    train = dataset.with_ratings(ratings.take(~held))
    return Parts(dataset, train, ratings.take(held & ~test), ratings.take(test), np.sort(enough[picked]))


def make_groups(parts: Parts, held_out: Ratings, m: int, protocol: Protocol, draws: Draws, purpose: str) -> Groups:
    """Candidate groups of the users who are judged.

    A user's held-out films, in random order, fill groups of at most ``floor(group_size / (1 + m))``; each gets ``m``
    random films that the user never rated, in any part. A user who has rated nearly everything gets smaller groups.

    Args:
        parts: Data set and users.
        held_out: Its validation or test part.
        m: Unseen films for every held-out one.
        protocol: Sizes.
        draws: Draws of the seed.
        purpose: Name of the part, so that two parts do not share luck.
    """
    size = max(protocol.group_size // (1 + m), 1)
    n_items = parts.whole.n_items
    ids = stable_ids(parts.whole)
    held, whole = _by_user(held_out, parts.whole.n_users), _by_user(parts.whole.ratings, parts.whole.n_users)
    everything = np.arange(n_items)
    users, rows, flags = [], [], []
    for user in parts.users.tolist():
        own = held(user)
        own = own[np.argsort(_luck(draws, f"{purpose}-order", ids[user], m, 0, own), kind="stable")]
        unseen = np.ones(n_items, np.bool_)
        unseen[whole(user)] = False
        free = everything[unseen]
        for g in range(min(max(len(own) // size, 1), protocol.max_groups)):
            some = own[g * size : (g + 1) * size][: len(free) // m]
            if not len(some):
                continue
            luck = _luck(draws, f"{purpose}-unseen", ids[user], m, g, free)
            others = free[np.argpartition(luck, m * len(some) - 1)[: m * len(some)]]
            items = np.concatenate([some, others])
            order = np.argsort(_luck(draws, f"{purpose}-place", ids[user], m, g, items), kind="stable")
            row, flag = np.full(protocol.group_size, n_items, np.int32), np.zeros(protocol.group_size, np.bool_)
            row[: len(items)], flag[: len(items)] = items[order], order < len(some)
            users.append(user)
            rows.append(row)
            flags.append(flag)
    shape = (len(rows), protocol.group_size)
    return Groups(
        m, np.array(users, np.int64), np.array(rows, np.int32).reshape(shape), np.array(flags, bool).reshape(shape)
    )


def rated_rows(parts: Parts, most: int, draws: Draws, purpose: str, ratings: Ratings | None = None) -> Ratings:
    """At most so many held-out ratings of each user who is judged, by user, then time.

    Args:
        parts: Data set and users.
        most: Rows a user.
        draws: Draws of the seed.
        purpose: Name of the sample.
        ratings: Where they are taken from; None is the test part.
    """
    held = parts.test if ratings is None else ratings
    held = held.take(np.isin(held.user_index, parts.users))
    keys = draws.keys(f"fidelity-{purpose}", stable_ids(parts.whole))[held.user_index]
    luck = draws.uniforms(keys, held.item_index[:, None])[:, 0]
    order = np.lexsort((held.item_index, luck, held.user_index))
    counts = np.bincount(held.user_index, minlength=parts.whole.n_users)
    rank = np.arange(len(held)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = held.take(order[rank < most])
    return kept.take(np.lexsort((np.arange(len(kept)), kept.timestamp, kept.user_index)))


def _luck(draws: Draws, purpose: str, user: int, m: int, group: int, items: IntArray) -> FloatArray:
    return draws.uniforms(draws.keys(f"fidelity-{purpose}", user, m, group), items)[0]


class _by_user:
    """Item indices of each user's ratings, ascending."""

    def __init__(self, ratings: Ratings, n_users: int) -> None:
        self._items = ratings.item_index[np.lexsort((ratings.item_index, ratings.user_index))]
        self._ends = np.cumsum(np.bincount(ratings.user_index, minlength=n_users))

    def __call__(self, user: int) -> IntArray:
        return self._items[self._ends[user - 1] if user else 0 : self._ends[user]]
