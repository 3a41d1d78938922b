"""The most popular items, for everybody the same."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from recsim_env.draws import Draws
from recsim_env.interfaces import Config
from recsim_env.recommenders.base import ScoringConfig, ScoringRecommender
from recsim_env.recommenders.store import Arrays
from recsim_env.records import Dataset, FloatArray, ObservationBatch


class PopularityConfig(ScoringConfig):
    """Settings of :class:`Popularity`."""


class Popularity(ScoringRecommender):
    """Most rated items first; not personal (the baseline of Cremonesi, Koren and Turrin, RecSys 2010).

    The score of an item is ``log(1 + number of ratings)``.
    """

    config_class: ClassVar[type[Config]] = PopularityConfig
    config: PopularityConfig
    name = "popularity"
    row_wise = True

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Counts."""
        self._scores = np.log1p(dataset.catalog.popularity).astype(np.float32)

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """The same row for every user."""
        return np.broadcast_to(self._scores, (obs.n, self.n_items))

    def arrays(self) -> Arrays:
        """The scores."""
        return {"scores": self._scores}

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave."""
        self._scores = arrays["scores"]
