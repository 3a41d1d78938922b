"""Stars from factors that know who their users and items are: Bayesian matrix factorisation with side information.

``r_ui = mean + b_u + b_i + p_u . q_i + noise``, where ``(p_u, b_u)`` is normal around a linear function of what is
known of the user (profile, genres, what it rated at all) and ``(q_i, b_i)`` around one of what is known of the item
(genres, year, popularity, who rated it). Mean-field variational inference after Lim and Teh ("Variational
Bayesian approach to movie rating prediction", KDD Cup 2007); the regressions after Agarwal and Chen ("Regression-based
latent factor models", KDD 2009). That what was rated at all tells about stars is SVD++'s lesson (Koren 2008).

Simplifications: a point estimate of the regressions (ridge), one noise for all ratings, no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsim_env.draws import Draws
from recsim_env.records import Catalog, Dataset, FloatArray, IntArray

RIDGE = 5.0
"""Penalty of the regressions on side information."""
SAMPLED = 20_000
"""Ratings on which the noise's share of the posterior's own variance is estimated."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Fitted scores.

    Attributes:
        mean: Mean rating.
        users: float32 (U, F + 1), p_u and, in the last column, b_u.
        items: float32 (I, F + 1), q_i and, in the last column, b_i.
    """

    mean: float
    users: FloatArray
    items: FloatArray

    def scores(self, users: FloatArray, items: IntArray) -> FloatArray:
        """Scores of rows of users' factors, float32 (n, F + 1), for items int (n,): float32 (n,)."""
        own = self.items[items]
        dot = np.einsum("nf,nf->n", users[:, :-1], own[:, :-1])
        return np.asarray(self.mean + dot + users[:, -1] + own[:, -1], np.float32)


@dataclass(slots=True, eq=False)
class _Side:
    """Users or items: posterior means and covariances of their vectors, and the prior around side information."""

    known: sparse.csr_array
    values: sparse.csr_array
    facts: FloatArray
    mean: FloatArray
    covariance: FloatArray
    prior: FloatArray
    variance: FloatArray

    @classmethod
    def start(cls, known: sparse.csr_array, values: sparse.csr_array, facts: FloatArray, mean: FloatArray) -> _Side:
        n, f = mean.shape
        return cls(
            known, values, facts, mean, np.zeros((n, f, f), np.float32), np.zeros((n, f), np.float32), np.full(f, 0.1)
        )

    def update(self, other: _Side, noise: float) -> None:
        """Posterior of all rows given the other side, then the prior around side information."""
        n, f = self.mean.shape
        design = np.concatenate([other.mean[:, :-1], np.ones((len(other.mean), 1), np.float32)], axis=1)
        upper = np.triu_indices(f)
        outer = design[:, upper[0]] * design[:, upper[1]]
        factors = upper[1] < f - 1  # the design's last column is certain
        outer[:, factors] += other.covariance[:, upper[0][factors], upper[1][factors]]
        packed = (self.known @ outer) / np.float32(noise)
        precision = np.empty((n, f, f), np.float32)
        precision[:, upper[0], upper[1]] = precision[:, upper[1], upper[0]] = packed
        precision[:, np.arange(f), np.arange(f)] += 1.0 / self.variance
        wanted = self.values @ design - self.known @ (other.mean[:, -1:] * design)
        self.covariance = np.linalg.inv(precision).astype(np.float32)
        target = wanted / noise + self.prior / self.variance
        self.mean = np.einsum("nij,nj->ni", self.covariance, target).astype(np.float32)
        gram = self.facts.T @ self.facts + RIDGE * np.eye(self.facts.shape[1], dtype=np.float32)
        self.prior = (self.facts @ np.linalg.solve(gram, self.facts.T @ self.mean)).astype(np.float32)
        own = self.covariance[:, np.arange(f), np.arange(f)]
        self.variance = np.maximum(((self.mean - self.prior) ** 2 + own).mean(axis=0), 1e-4)


def fit_factors(
    dataset: Dataset, user_facts: FloatArray, item_facts: FloatArray, draws: Draws, n_factors: int, iterations: int = 10
) -> Factors:
    """Alternates between users and items.

    Args:
        dataset: The ratings.
        user_facts: float32 (U, D), side information, standardised.
        item_facts: float32 (I, E).
        draws: For the start.
        n_factors: F.
        iterations: Alternations.
    """
    r, shape = dataset.ratings, (dataset.n_users, dataset.n_items)
    mean = float(r.rating.mean(dtype=np.float64))
    values = sparse.coo_array((r.rating - np.float32(mean), (r.user_index, r.item_index)), shape=shape).tocsr()
    known = sparse.coo_array((np.ones(len(r), np.float32), (r.user_index, r.item_index)), shape=shape).tocsr()
    start = 0.1 * draws.normals(draws.keys("factors", np.arange(shape[1])), np.arange(n_factors + 1))
    users = _Side.start(known, values, _with_one(user_facts), np.zeros((shape[0], n_factors + 1), np.float32))
    items = _Side.start(known.T.tocsr(), values.T.tocsr(), _with_one(item_facts), start.astype(np.float32))
    some = draws.uniforms(draws.keys("noise-sample", 0), np.arange(SAMPLED))[0] * len(r)
    sample = r.take(np.minimum(some.astype(np.int64), len(r) - 1))
    noise = max(float(r.rating.var()), 1e-3)
    for _ in range(iterations):
        users.update(items, noise)
        items.update(users, noise)
        fitted = Factors(mean, users.mean, items.mean)
        noise = max(_noise(fitted, users.covariance, items.covariance, sample.user_index, sample.item_index,
                           sample.rating), 1e-3)  # fmt: skip
    return Factors(mean, users.mean, items.mean)


def _noise(
    fitted: Factors, users: FloatArray, items: FloatArray, u: IntArray, i: IntArray, rating: FloatArray
) -> float:
    """Expected squared residual under the posterior, on a sample of ratings."""
    p, q, c, d = fitted.users[u, :-1], fitted.items[i, :-1], users[u], items[i]
    spread = np.einsum("nij,ni,nj->n", c[:, :-1, :-1], q, q) + np.einsum("nij,ni,nj->n", d[:, :-1, :-1], p, p)
    spread += np.einsum("nij,nij->n", c[:, :-1, :-1], d[:, :-1, :-1]) + c[:, -1, -1] + d[:, -1, -1]
    return float(((rating - fitted.scores(fitted.users[u], i)) ** 2 + spread).mean())


def user_facts(dataset: Dataset, interest: FloatArray, affinity: FloatArray) -> FloatArray:
    """What is known of users beside their stars, float32 (U, D): profile, genres, interest, activity.

    Args:
        dataset: The ratings.
        interest: float32 (U, H), what they rate at all, from correspondence analysis.
        affinity: float32 (U, C), their genres.
    """
    n = np.bincount(dataset.ratings.user_index, minlength=dataset.n_users)
    parts = [interest, affinity, np.log1p(n)[:, None]]
    for values in dataset.profile.values():
        kinds, code = np.unique(np.asarray(values, str), return_inverse=True)
        if len(kinds) <= 64:  # more are names or postcodes, not groups
            parts.append(np.eye(len(kinds))[code])
    return _standardised(np.concatenate(parts, axis=1))


def item_facts(catalog: Catalog, interest: FloatArray) -> FloatArray:
    """What is known of items beside their stars, float32 (I, E): categories, interest, year, popularity."""
    year = catalog.year.astype(np.float64)
    year = np.where(year > 0, year, np.median(year[year > 0]) if (year > 0).any() else 0.0)
    numbers = _standardised(np.stack([year, np.log1p(catalog.popularity)], axis=1))
    return np.concatenate(
        [_standardised(interest), _standardised(catalog.item_categories.astype(np.float64)), numbers, numbers**2], 1
    )


def _standardised(x: FloatArray) -> FloatArray:
    x = np.asarray(x, np.float64)
    return np.asarray((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6), np.float32)


def _with_one(x: FloatArray) -> FloatArray:
    return np.concatenate([np.ones((len(x), 1), np.float32), x], axis=1)
