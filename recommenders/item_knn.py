"""Nearest neighbours among items."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse

from recsim_env.data.coratings import interaction_matrix
from recsim_env.draws import Draws
from recsim_env.interfaces import Config
from recsim_env.recommenders.base import ScoringConfig, ScoringRecommender
from recsim_env.recommenders.history import history_matrix
from recsim_env.recommenders.sampling import top_k
from recsim_env.recommenders.store import Arrays, sparse_arrays, sparse_from
from recsim_env.records import Dataset, FloatArray, ObservationBatch

ROWS = 1024
"""Items whose similarities to all others are held dense at once."""


class ItemKNNConfig(ScoringConfig):
    """Settings of :class:`ItemKNN`."""

    neighbours: int = Field(default=100, ge=1)
    """How many most similar items each item keeps."""
    shrink: float = Field(default=10.0, ge=0)
    """Added to the cosine's denominator: pulls similarities that rest on few users towards 0."""
    half_life: float | None = Field(default=None, gt=0)
    """History items lose half of their weight every so many items; null weighs all alike."""


class ItemKNN(ScoringRecommender):
    """Items similar to the history, by shrunk cosine over users (Deshpande and Karypis, TOIS 2004).

    ``s_ij = c_ij / (sqrt(c_i c_j) + shrink)``, where ``c_ij`` users have both items and ``c_i`` have item i. An item's
    score is the sum over the history's items i that keep it among their neighbours. Stars are not used.
    """

    config_class: ClassVar[type[Config]] = ItemKNNConfig
    config: ItemKNNConfig
    name = "item-knn"
    row_wise = True

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Counts pairs and keeps the nearest neighbours."""
        matrix = interaction_matrix(dataset)
        by_item, norm = matrix.T.tocsr(), np.sqrt(matrix.sum(axis=0))
        parts = []
        for start in range(0, dataset.n_items, ROWS):
            both = (by_item[start : start + ROWS] @ matrix).toarray()
            stop = start + len(both)
            # An item that nobody has divides by 1 instead of 0; its counts are 0 anyway.
            scale = np.outer(norm[start:stop], norm) + self.config.shrink
            similarity = (both / np.where(scale == 0, 1.0, scale)).astype(np.float32)
            similarity[np.arange(len(both)), np.arange(start, stop)] = 0.0
            parts.append(_keep_largest(similarity, self.config.neighbours))
        self._similarity = sparse.vstack(parts).tocsr()

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """Summed similarity to the history, float32 (N, I)."""
        return (history_matrix(obs, self.n_items, self.config.half_life) @ self._similarity).toarray()

    def arrays(self) -> Arrays:
        """The similarities."""
        return sparse_arrays(self._similarity)

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave."""
        self._similarity = sparse_from(arrays)


def _keep_largest(values: FloatArray, k: int) -> sparse.csr_array:
    """The k largest positive values of each row as a sparse matrix."""
    n, m = values.shape
    best = top_k(np.where(values > 0, values, np.float32(-np.inf)), min(k, m))
    rows, places = np.nonzero(best < m)
    columns = best[rows, places]
    return sparse.coo_array((values[rows, columns], (rows, columns)), shape=(n, m)).tocsr()
