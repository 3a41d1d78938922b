"""What ratings alone say about a user and an item: the collaborative prior of hybrid users.

Whether somebody would pick an item is told by six features: EASE's score (Steck 2019), the same in standard deviations
of the user's scores over the catalogue, popularity, lift (correspondence analysis, see :mod:`.preference`),
genre affinity, and activity. Which star it would get is told by factors with side information
(:mod:`recsim_env.agents.factors`). :mod:`recsim_env.agents.calibration` turns both into probabilities.

People beyond the data set have drawn tastes; they have no history, so their two EASE features are predicted linearly
from the other four.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from recsim_env.agents.factors import Factors, fit_factors, item_facts, user_facts
from recsim_env.agents.preference import (
    Tastes,
    activities,
    affinities,
    category_weights,
    draw_tastes,
    interests,
)
from recsim_env.data.coratings import ease_weights, interaction_matrix
from recsim_env.draws import Draws
from recsim_env.records import Dataset, FloatArray, IntArray, Users

FEATURES = ("ease", "ease_z", "popularity", "interest", "genre", "activity")
"""Columns of :meth:`SeatedPrior.features`."""
BLOCK = 512
"""Users whose scores of the whole catalogue are held at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """Fitted on ratings.

    Attributes:
        history: float32 (U, I), who rated what.
        weights: float32 (I, I), EASE's.
        popularity: float64 (I,), logarithm of the number of ratings, standardised.
        item_interest: float32 (I, H).
        item_categories: float32 (I, C), shares that sum to 1.
        factors: Scores of stars.
        tastes: The data set's users; ``noise`` is unknown before calibration and 0.
        imputed: float64 (5, 2), EASE's two features from popularity, interest, genre, activity and 1.
    """

    history: sparse.csr_array
    weights: FloatArray
    popularity: FloatArray
    item_interest: FloatArray
    item_categories: FloatArray
    factors: Factors
    tastes: Tastes
    imputed: FloatArray

    @classmethod
    def fit(
        cls, dataset: Dataset, draws: Draws, n_factors: int = 16, n_interests: int = 32, regularisation: float = 500.0
    ) -> Prior:
        """Fits everything on the ratings of a data set.

        Args:
            dataset: The ratings.
            draws: For the factors' start.
            n_factors: F.
            n_interests: H; fewer where the data set is smaller.
            regularisation: EASE's lambda.
        """
        history = interaction_matrix(dataset)
        interest, item_interest = interests(dataset.ratings, dataset, draws, n_interests)
        affinity = affinities(dataset)
        users, items = user_facts(dataset, interest, affinity), item_facts(dataset.catalog, item_interest)
        factors = fit_factors(dataset, users, items, draws, n_factors)
        log_count = np.log1p(dataset.catalog.popularity.astype(np.float64))
        own, bias = np.ascontiguousarray(factors.users[:, :-1]), factors.users[:, -1]
        noise = np.zeros(dataset.n_users, np.int64)
        prior = cls(
            history, ease_weights(history, regularisation),
            (log_count - log_count.mean()) / max(float(log_count.std()), 1e-9), item_interest,
            category_weights(dataset.catalog), factors,
            Tastes(bias, own, interest, affinity, activities(dataset.ratings, dataset.n_users), noise),
            np.zeros((5, 2)),
        )  # fmt: skip
        prior.imputed[:] = prior._impute(draws)
        return prior

    def _impute(self, draws: Draws, n: int = 20_000) -> FloatArray:
        """Least squares of EASE's features on the others, over random pairs."""
        luck = draws.uniforms(draws.keys("prior-impute", 0), np.arange(2 * n))[0].reshape(2, n)
        few = np.arange(min(self.history.shape[0], 2000))  # whole rows of scores are computed, so not of everybody
        rows = few[(luck[0] * len(few)).astype(np.int64)]
        items = (luck[1] * self.history.shape[1]).astype(np.int64)
        features = SeatedPrior(self, self.tastes, np.arange(self.history.shape[0])).features(rows, items)
        known = np.column_stack([features[:, 2:], np.ones(n)])
        return np.asarray(np.linalg.lstsq(known, features[:, :2], rcond=None)[0])

    def seat(self, users: Users, noise_levels: FloatArray, noise: IntArray, draws: Draws) -> SeatedPrior:
        """The prior of a population.

        Args:
            users: Its users; those with ``data_user`` -1 get drawn tastes.
            noise_levels: float32 (8,), values of the rating noise.
            noise: int (U,), index of each of the data set's users.
            draws: For those who are drawn.
        """
        everybody = replace(self.tastes, noise=noise)
        new = users.data_user < 0
        known = everybody.take(np.maximum(users.data_user, 0))
        fresh = draw_tastes(everybody, noise_levels, int(new.sum()), draws)
        for name in Tastes.__slots__:
            getattr(known, name)[new] = getattr(fresh, name)
        return SeatedPrior(self, known, users.data_user)


@dataclass(frozen=True, slots=True, eq=False)
class SeatedPrior:
    """The prior of a population of P users.

    Attributes:
        prior: What was fitted.
        tastes: Their tastes.
        data_user: int64 (P,), rows of the data set, -1 for new people.
    """

    prior: Prior
    tastes: Tastes
    data_user: IntArray

    def features(self, rows: IntArray, items: IntArray) -> FloatArray:
        """What tells whether users pick items, float64 (n, 6), columns as in :data:`FEATURES`.

        Args:
            rows: int (n,), rows of the population.
            items: int (n,), item indices.
        """
        p, t = self.prior, self.tastes
        found = np.empty((len(rows), len(FEATURES)))
        found[:, 2] = p.popularity[items]
        lift = np.einsum("nh,nh->n", t.interest[rows], p.item_interest[items])
        found[:, 3] = np.clip(lift, -1.0, 3.0)
        found[:, 4] = np.einsum("nc,nc->n", t.affinity[rows], p.item_categories[items])
        found[:, 5] = t.activity[rows]
        found[:, :2] = self._ease(rows, items)
        new = self.data_user[rows] < 0
        found[new, :2] = np.column_stack([found[new, 2:], np.ones(int(new.sum()))]) @ p.imputed
        return found

    def _ease(self, rows: IntArray, items: IntArray) -> FloatArray:
        """EASE's score and its place among the user's scores, float64 (n, 2); any values for new people."""
        found = np.zeros((len(rows), 2))
        users, row = np.unique(rows, return_inverse=True)
        order = np.argsort(row, kind="stable")
        ends = np.searchsorted(row[order], np.arange(0, len(users) + BLOCK, BLOCK))
        for b, start in enumerate(range(0, len(users), BLOCK)):
            some = users[start : start + BLOCK]
            scores = self.prior.history[np.maximum(self.data_user[some], 0)] @ self.prior.weights
            mean, sd = scores.mean(axis=1), np.maximum(scores.std(axis=1), 1e-9)
            pairs = order[ends[b] : ends[b + 1]]
            own = row[pairs] - start
            found[pairs, 0] = scores[own, items[pairs]]
            found[pairs, 1] = (found[pairs, 0] - mean[own]) / sd[own]
        return found

    def scores(self, rows: IntArray, items: IntArray) -> FloatArray:
        """Latent scores of stars, float32 (n,)."""
        t = self.tastes
        own = np.concatenate([t.factors[rows], t.bias[rows, None]], axis=1)
        return self.prior.factors.scores(own, items)
