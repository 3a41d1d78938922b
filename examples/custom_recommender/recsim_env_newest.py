"""Newest items first: a complete recommender of a third party."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from recsim_env.draws import Draws
from recsim_env.interfaces import Config
from recsim_env.recommenders.base import ScoringConfig, ScoringRecommender
from recsim_env.recommenders.store import Arrays
from recsim_env.records import Dataset, FloatArray, ObservationBatch


class NewestConfig(ScoringConfig):
    """Settings of :class:`Newest`; temperature, epsilon, exclude_seen and heed are inherited."""

    popularity: float = Field(default=0.5, ge=0)
    """Years that an item gains for each tenfold number of ratings, to order the items of one year."""


class Newest(ScoringRecommender):
    """Newest items first, the more popular before the less among items of one year (not personal)."""

    config_class: ClassVar[type[Config]] = NewestConfig
    config: NewestConfig
    name = "newest"
    row_wise = True

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Looks the years up; an unknown year counts as the oldest known one."""
        year = dataset.catalog.year.astype(np.float32)
        known = year > 0
        year[~known] = year[known].min() if known.any() else 0.0
        bonus = self.config.popularity * np.log10(1.0 + dataset.catalog.popularity)
        self._scores = (year + bonus).astype(np.float32)

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """The same row for every user, float32 (N, I)."""
        return np.broadcast_to(self._scores, (obs.n, self.n_items))

    def arrays(self) -> Arrays:
        """What is saved."""
        return {"scores": self._scores}

    def set_arrays(self, arrays: Arrays) -> None:
        """What is read back."""
        self._scores = arrays["scores"]
