"""Matrix factorisation for implicit feedback."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse

from recsim_env.data.coratings import interaction_matrix
from recsim_env.draws import Draws
from recsim_env.interfaces import Config
from recsim_env.recommenders.base import ScoringConfig, ScoringRecommender
from recsim_env.recommenders.store import Arrays
from recsim_env.records import Dataset, FloatArray, ObservationBatch


class ALSConfig(ScoringConfig):
    """Settings of :class:`ALS`."""

    factors: int = Field(default=32, ge=1)
    """Length F of the vectors."""
    regularisation: float = Field(default=30.0, ge=1e-6)
    """Penalty on the squared length of the vectors."""
    alpha: float = Field(default=3.0, ge=1)
    """Confidence in an item that the user has, where items that the user does not have count 1."""
    iterations: int = Field(default=15, ge=1)
    """Alternations."""


class ALS(ScoringRecommender):
    """Implicit-feedback matrix factorisation (Hu, Koren and Volinsky, ICDM 2008), with the library ``implicit``.

    Only the item vectors Y are kept. The vector of a user who is served is the least-squares solution for the history
    in the observation, ``(Y'Y + (alpha - 1) Y_h'Y_h + regularisation I)^-1 alpha Y_h'1``. Stars are not used.
    """

    config_class: ClassVar[type[Config]] = ALSConfig
    config: ALSConfig
    name = "als"
    row_wise = True

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Alternates on one thread, so that the same draws give the same vectors."""
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                factors=self.config.factors,
                regularization=self.config.regularisation,
                alpha=self.config.alpha,
                iterations=self.config.iterations,
                num_threads=1,
                random_state=int(draws.keys("als", 0)[0] >> np.uint64(33)),
            )
            model.fit(sparse.csr_matrix(interaction_matrix(dataset)), show_progress=False)
        # The last row is the padding's: a vector of zeros adds nothing to sums over a history.
        self._items = np.vstack([model.item_factors, np.zeros((1, self.config.factors))]).astype(np.float32)

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """Products of the folded-in user vectors with the item vectors, float32 (N, I)."""
        items, config = self._items, self.config
        own = items[obs.history]
        normal = (config.alpha - 1) * (own.transpose(0, 2, 1) @ own)
        normal += items.T @ items + config.regularisation * np.eye(config.factors, dtype=np.float32)
        users = np.linalg.solve(normal, config.alpha * own.sum(axis=1)[:, :, None])[:, :, 0]
        return np.asarray((users[:, None, :] @ items[:-1].T)[:, 0], np.float32)  # one product per user: row-wise

    def arrays(self) -> Arrays:
        """The item vectors."""
        return {"items": self._items}

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave."""
        self._items = arrays["items"]
