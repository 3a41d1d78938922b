"""What people take soon after what: counting, with the order kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse

from recsim_env.draws import Draws
from recsim_env.interfaces import Config
from recsim_env.recommenders.base import ScoringConfig, ScoringRecommender
from recsim_env.recommenders.store import Arrays, sparse_arrays, sparse_from
from recsim_env.records import Dataset, FloatArray, Histories, IntArray, ObservationBatch

CHUNK = 100_000
"""Events whose pairs are counted at once."""


class CooccurrenceConfig(ScoringConfig):
    """Settings of :class:`Cooccurrence`."""

    window: int = Field(default=50, ge=1)
    """How many items after an item count as following it."""
    decay: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """An item d places later counts ``1 / d ** decay``, when pairs are counted and when users are served."""
    popularity_power: float = Field(default=0.2, ge=0, le=1)
    """How far the follower's own popularity is divided out: 0 not at all, 1 fully (lift)."""


class Cooccurrence(ScoringRecommender):
    """Items that soon follow the history's latest: decayed sequential counts (after Garcin et al., RecSys 2013).

    ``W_ij = sum over users of 1 / d ** decay``, whenever j comes d <= window places after i, divided by
    ``(1 + n_i) (1 + n_j) ** popularity_power``. A user's score for j is the sum of ``W_ij / d ** decay`` over the
    history, whose latest item stands at d = 1. First-order counts of pairs instead of that paper's context trees;
    the decays and the popularity power are ours.
    """

    config_class: ClassVar[type[Config]] = CooccurrenceConfig
    config: CooccurrenceConfig
    name = "cooccurrence"
    row_wise = True

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Counts pairs."""
        shape = (dataset.n_items, dataset.n_items)
        weights = (np.arange(1, self.config.window + 1) ** -self.config.decay).astype(np.float32)
        counts: Any = sparse.csr_array(shape, dtype=np.float32)  # the type stubs lose the two dimensions of sums
        for first, then, distance in _pairs(dataset.histories(), self.config.window):
            counts = counts + sparse.coo_array((weights[distance - 1], (first, then)), shape=shape).tocsr()
        popularity = 1.0 + dataset.catalog.popularity
        rows = np.repeat(np.arange(dataset.n_items), np.diff(counts.indptr))
        scale = popularity[rows] * popularity[counts.indices] ** self.config.popularity_power
        counts.data = (counts.data / scale).astype(np.float32)
        self._follows: sparse.csr_array[Any, tuple[int, int]] = counts

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """Decayed counts of what follows the history, float32 (N, I)."""
        n, length = obs.history.shape
        weights = (np.arange(length, 0, -1) ** -self.config.decay).astype(np.float32)
        rows, places = np.nonzero(obs.history < self.n_items)
        shape = (n, self.n_items)
        history = sparse.coo_array((weights[places], (rows, obs.history[rows, places])), shape=shape).tocsr()
        return (history @ self._follows).toarray()

    def arrays(self) -> Arrays:
        """The matrix W."""
        return sparse_arrays(self._follows)

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave."""
        self._follows = sparse_from(arrays)


def _pairs(histories: Histories, window: int) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """All ordered pairs of a user's items at most ``window`` places apart, some users at a time.

    Yields:
        Earlier item, later item and their distance, each int (P,).
    """
    bounds, last = histories.offsets, 0
    while last < histories.n_users:
        start = bounds[last]
        last = max(last + 1, int(np.searchsorted(bounds, start + CHUNK, side="right")) - 1)
        stop = bounds[last]
        items = histories.items[start:stop]
        user = np.searchsorted(bounds, np.arange(start, stop), side="right")
        found = []
        for d in range(1, min(window, len(items) - 1) + 1):
            place = np.flatnonzero(user[d:] == user[:-d])
            found.append((items[place], items[place + d], np.full(len(place), d)))
        if found:
            first, then, distance = (np.concatenate(part) for part in zip(*found, strict=True))
            yield first, then, distance
