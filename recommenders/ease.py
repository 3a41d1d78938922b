"""A linear autoencoder with a closed-form solution."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from recsim_env.data.coratings import ease_weights, interaction_matrix
from recsim_env.draws import Draws
from recsim_env.interfaces import Config
from recsim_env.recommenders.base import ScoringConfig, ScoringRecommender
from recsim_env.recommenders.history import history_matrix
from recsim_env.recommenders.store import Arrays
from recsim_env.records import Dataset, FloatArray, ObservationBatch


class EASEConfig(ScoringConfig):
    """Settings of :class:`EASE`."""

    regularisation: float = Field(default=500.0, gt=0)
    """Lambda, added to the diagonal of the Gram matrix."""
    half_life: float | None = Field(default=None, gt=0)
    """History items lose half of their weight every so many items when users are served; null weighs all alike."""


class EASE(ScoringRecommender):
    """Linear item-to-item model in closed form (Steck, "Embarrassingly shallow autoencoders", WWW 2019).

    ``P = (X'X + lambda I)^-1``, ``B_ij = -P_ij / P_jj`` off the diagonal and 0 on it; scores are ``history @ B``. X is
    0 or 1, stars are not used. Costs I * I floats of memory and I ** 3 multiplications.
    """

    config_class: ClassVar[type[Config]] = EASEConfig
    config: EASEConfig
    name = "ease"
    row_wise = True

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Inverts the regularised Gram matrix in float64."""
        self._weights = ease_weights(interaction_matrix(dataset), self.config.regularisation)

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """Rows of B summed over the history, float32 (N, I)."""
        return np.asarray(history_matrix(obs, self.n_items, self.config.half_life) @ self._weights, np.float32)

    def arrays(self) -> Arrays:
        """The weights B."""
        return {"weights": self._weights}

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave."""
        self._weights = arrays["weights"]
