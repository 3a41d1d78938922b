"""What users have heard of items from others: a sparse store, sorted by (receiver, item)."""

from __future__ import annotations

import numpy as np

from recsim_env.records import FloatArray, IntArray


class OpinionStore:
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

    def forget(self, rows: IntArray) -> None:
        """Drops what some users have heard."""
        gone = np.zeros(self.n_users, np.bool_)
        gone[rows] = True
        keep = ~gone[self.keys // self._width]
        for name in self.ARRAYS:
            setattr(self, name, getattr(self, name)[keep])
