"""Opinions of items: how far a mark praises, what each user would speak of tonight, and what it has heard of others."""

from __future__ import annotations

import numpy as np

from recsim_env.agents.arrays import StateArrays
from recsim_env.records import FloatArray, IntArray, RatingScale


def valence_of(stars: FloatArray, mean: float, scale: RatingScale) -> FloatArray:
    """How far marks lie from the average towards an end of the scale, float32 in [-1, 1]."""
    reach = np.where(stars >= mean, scale.high - mean, mean - scale.low)
    return np.clip((stars - mean) / np.maximum(reach, 1e-6), -1.0, 1.0).astype(np.float32)


class Topics(StateArrays):
    """What each of U users would speak of tonight: the item on which its opinion of today is strongest.

    Args:
        n_users: U.
    """

    ARRAYS = ("item", "stars", "valence")

    def __init__(self, n_users: int) -> None:
        self.item = np.full(n_users, -1, np.int64)  # -1: nothing to tell
        self.stars, self.valence = np.zeros(n_users, np.float32), np.zeros(n_users, np.float32)

    def note(self, rows: IntArray, items: IntArray, stars: FloatArray, valence: FloatArray) -> None:
        """Takes in marks of today; a stronger one takes the place of a weaker, an equal one does not.

        Args:
            rows: int (n,), users; one user's rows stand together.
            items: int (n,), what they marked.
            stars: float (n,), the marks.
            valence: float (n,) in [-1, 1], for or against it.
        """
        if not len(rows):
            return
        order = np.lexsort((-np.abs(valence), rows))
        best = order[np.flatnonzero(np.diff(rows[order], prepend=-1))]
        who = rows[best]
        best = best[(self.item[who] < 0) | (np.abs(valence[best]) > np.abs(self.valence[who]))]
        who = rows[best]
        self.item[who], self.stars[who], self.valence[who] = items[best], stars[best], valence[best]

    def clear(self, rows: IntArray) -> None:
        """Some users have nothing more to tell."""
        self.item[rows] = -1


class OpinionStore(StateArrays):
    """Sums of the opinions that U users have heard of I items; only pairs of which something was heard take space.

    Args:
        n_users: U.
        n_items: I.
    """

    ARRAYS = ("keys", "count", "stars", "valence")

    def __init__(self, n_users: int, n_items: int) -> None:
        self.n_users, self._width = n_users, n_items + 1  # the padding item, of which nobody speaks
        self.keys = np.empty(0, np.int64)  # receiver * width + item, ascending, each once
        self.count = np.empty(0, np.int64)
        self.stars = np.empty(0, np.float64)
        self.valence = np.empty(0, np.float64)

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, receiver: IntArray, item: IntArray, stars: FloatArray, valence: FloatArray) -> None:
        """Takes in opinions; a pair may occur many times.

        Args:
            receiver: int (n,), who hears.
            item: int (n,), of what.
            stars: float (n,), the speaker's mark.
            valence: float (n,) in [-1, 1], for or against it.
        """
        if not len(receiver):
            return
        new, which = np.unique(receiver.astype(np.int64) * self._width + item, return_inverse=True)
        place = np.asarray(np.searchsorted(self.keys, new))
        fresh = np.append(self.keys, -1)[np.minimum(place, len(self.keys))] != new
        place = place[fresh]
        self.keys = np.insert(self.keys, place, new[fresh])
        for name, values in (("count", None), ("stars", stars), ("valence", valence)):
            known = np.insert(getattr(self, name), place, 0)
            known[np.searchsorted(self.keys, new)] += np.bincount(which, values, len(new)).astype(known.dtype)
            setattr(self, name, known)

    def heard(self, rows: IntArray, items: IntArray) -> tuple[IntArray, IntArray]:
        """Which of some pairs were spoken of.

        Args:
            rows: int (n,), receivers.
            items: int (n,), an item for each.

        Returns:
            Numbers of the pairs that were, and their places in the store's arrays, each int64 (m,).
        """
        keys = rows * self._width + items
        place = np.searchsorted(self.keys, keys)
        hit = np.flatnonzero(np.append(self.keys, -1)[np.minimum(place, len(self.keys))] == keys)
        return hit, place[hit]

    def remark(self, row: int, item: int) -> str:
        """What comes to a user's mind at an item of which others have spoken, as a line of a prompt; or nothing."""
        if not len(self):  # asked for every item of every question
            return ""
        hit, place = self.heard(np.array([row]), np.array([item]))
        if not len(hit):
            return ""
        count, stars = int(self.count[place[0]]), float(self.stars[place[0]])
        friends = "a friend" if count == 1 else f"{count} friends"
        return f"(You heard of it from {friends}: mark {stars / count:.1f} on average.)"

    def forget(self, rows: IntArray) -> None:
        """Drops what some users have heard."""
        gone = np.zeros(self.n_users, np.bool_)
        gone[rows] = True
        keep = ~gone[self.keys // self._width]
        for name in self.ARRAYS:
            setattr(self, name, getattr(self, name)[keep])
