"""Calibration of hybrid users: features and log-probabilities to probabilities, weights fitted on held-out ratings.

1. The prior alone. Watching: logistic regression on the prior's features and their products, every user with the same
   total weight. Marks: ordered probit over the prior's score (McCullagh 1980), noise of each user's own.
2. The blend with the language model. Watching: ``a * prior's log-odds + b * model's log-odds + c``. Marks:
   ``log p = a * log p_prior + b * log p_model + c_level``, normalised: a logarithmic opinion pool (Genest and Zidek,
   "Combining probability distributions", 1986) with level intercepts. It starts as the prior alone (a = 1, b = 0), so
   that on the ratings it is fitted on it is never worse.

The intercept of watching belongs to the pairs it was fitted on: so many random unrated items for each that was picked.
What share of a real page people would watch no rating data tells; ``watch_bias`` moves it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, ndtr

from recsim_env.agents.preference import cut_points, rating_noise
from recsim_env.agents.prior import FEATURES, Prior, SeatedPrior
from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.records import Dataset, FloatArray, IntArray, Ratings

RIDGE = 1e-3
"""Penalty on standardised weights, times the mean weight of a pair."""
FLOOR = 1e-4
"""Probabilities of marks are kept above this before logarithms are taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Everything that was fitted on held-out ratings; Q = 27 features and products.

    Attributes:
        centre: float64 (6,), means of the prior's features.
        scale: float64 (6,), their standard deviations.
        watch: float64 (Q + 1,), weights of features and products, intercept last.
        cuts: float32 (G - 1,), cut points of the marks.
        noise_levels: float32 (8,), values of the rating noise.
        noise: int64 (U,), its index for each of the data set's users.
        blend_watch: float64 (3,), weights of the prior's and the model's log-odds, and the intercept.
        blend_marks: float64 (2 + G,), weights of the prior's and the model's log-probabilities, and the levels'
            intercepts.
        per_positive: Random pairs for each picked one in the fit of ``watch``.
        with_model: Whether the blend was fitted with a language model.
    """

    centre: FloatArray
    scale: FloatArray
    watch: FloatArray
    cuts: FloatArray
    noise_levels: FloatArray
    noise: IntArray
    blend_watch: FloatArray
    blend_marks: FloatArray
    per_positive: int
    with_model: bool = False

    def watch_log_odds(self, features: FloatArray, model: FloatArray | None = None) -> FloatArray:
        """Log-odds of watching, float64 (n,).

        Args:
            features: float (n, 6), the prior's.
            model: float (n,), the language model's log-odds; None is the prior alone.
        """
        prior = _products(features, self.centre, self.scale) @ self.watch
        if model is None:
            return np.asarray(prior)
        a, b, c = self.blend_watch
        return np.asarray(a * prior + b * np.clip(model, -8.0, 8.0) + c)

    def marks(self, scores: FloatArray, noise: IntArray, model: FloatArray | None = None) -> FloatArray:
        """Probability of each level, float64 (n, G).

        Args:
            scores: float (n,), latent scores of the prior.
            noise: int (n,), the users' index of noise.
            model: float (n, G), the language model's probabilities; None is the prior alone.
        """
        at_most = ndtr((self.cuts - scores[:, None]) / self.noise_levels[noise][:, None])
        prior = np.diff(at_most, axis=1, prepend=0.0, append=1.0)
        return prior if model is None else np.exp(_pool(self.blend_marks, _log(prior), _log(model)))

    def save(self, path: Path) -> None:
        """Writes one ``.npz`` file."""
        arrays: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        with path.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path, dataset: Dataset) -> Calibration:
        """Reads what :meth:`save` wrote.

        Raises:
            ScenarioError: If there is no such file, it is something else, or it belongs to other data.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                values = {f.name: file[f.name] for f in fields(cls)}
        except (OSError, ValueError, KeyError) as error:
            raise ScenarioError(
                f"users.calibration: cannot read {path}: {error}. Give a file that 'recsim-env fidelity' or "
                "HybridUsers.save_calibration wrote, or null to fit it anew."
            ) from None
        n_users, n_levels = len(values["noise"]), len(values["cuts"]) + 1
        if (n_users, n_levels) != (dataset.n_users, len(dataset.catalog.scale.levels)):
            raise ScenarioError(
                f"users.calibration: {path} was fitted on {n_users} users and {n_levels} levels, {dataset.name} has "
                f"{dataset.n_users} and {len(dataset.catalog.scale.levels)}. Use null to fit it anew."
            )
        values["per_positive"] = int(values["per_positive"])
        values["with_model"] = bool(values["with_model"])
        return cls(**values)


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Held-out pairs for the regression of watching: users of the data set and items, int64 (n,); picked, bool (n,)."""

    user: IntArray
    item: IntArray
    picked: Any


def held_out_pairs(train: Dataset, held_out: Ratings, per_positive: int, draws: Draws) -> Pairs:
    """Held-out ratings and, for each, random items that the user rated neither in training nor in the held-out part."""
    n_items = train.n_items
    user, item = held_out.user_index.astype(np.int64), held_out.item_index.astype(np.int64)
    luck = draws.uniforms(draws.keys("calibration", user), item[:, None] * per_positive + np.arange(per_positive))
    who, other = np.repeat(user, per_positive), (luck * n_items).astype(np.int64).ravel()
    r = train.ratings
    known = np.concatenate([r.user_index.astype(np.int64) * n_items + r.item_index, user * n_items + item])
    free = ~np.isin(who * n_items + other, known)
    picked = np.concatenate([np.ones(len(user), np.bool_), np.zeros(int(free.sum()), np.bool_)])
    return Pairs(np.concatenate([user, who[free]]), np.concatenate([item, other[free]]), picked)


def calibrate_prior(prior: Prior, train: Dataset, held_out: Ratings, draws: Draws, per_positive: int) -> Calibration:
    """Fits the prior's weights, cut points and noise.

    Args:
        prior: Fitted on ``train``.
        train: What it was fitted on.
        held_out: Ratings that it has not seen.
        draws: For the random pairs.
        per_positive: Random pairs for each held-out rating.
    """
    everybody = SeatedPrior(prior, prior.tastes, np.arange(train.n_users))
    pairs = held_out_pairs(train, held_out, per_positive, draws)
    features = everybody.features(pairs.user, pairs.item)
    centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    weight = 1.0 / np.bincount(pairs.user, minlength=train.n_users)[pairs.user]
    watch = logistic(_products(features, centre, scale), pairs.picked, weight)
    scores = everybody.scores(held_out.user_index, held_out.item_index)
    levels = train.catalog.scale.levels
    noise_levels, noise = rating_noise(held_out, scores, train.n_users)
    cuts = cut_points(scores, noise_levels[noise[held_out.user_index]], held_out.rating, levels)
    start = np.concatenate([[1.0, 0.0], np.zeros(len(levels))])
    return Calibration(centre, scale, watch, cuts, noise_levels, noise, np.array([1.0, 0.0, 0.0]), start, per_positive)


def logistic(x: FloatArray, y: Any, weight: FloatArray, penalty: float = RIDGE, iterations: int = 12) -> FloatArray:
    """Weights of a logistic regression by Newton's method with a small ridge, float64 (Q,); the last one is free.

    Args:
        x: float (n, Q), the last column ones.
        y: bool (n,).
        weight: float (n,), of the rows.
        penalty: On squared weights, times the rows' total weight.
        iterations: Most steps.
    """
    w = np.zeros(x.shape[1])
    ridge = np.full(x.shape[1], penalty * weight.sum())
    ridge[-1] = 0.0
    for _ in range(iterations):
        p = expit(x @ w)
        slope = x.T @ (weight * (p - y)) + ridge * w
        bend = (x * (weight * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ x + np.diag(ridge + 1e-9)
        step = np.linalg.solve(bend, slope)
        w -= step
        if np.abs(step).max() < 1e-8:
            break
    return w


def blend_watch(prior: FloatArray, model: FloatArray, picked: Any) -> FloatArray:
    """Weights of the two log-odds and the intercept, float64 (3,); starts as the prior alone."""
    x = np.column_stack([prior, np.clip(model, -8.0, 8.0), np.ones(len(prior))])

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        z = x @ w
        return float(np.mean(np.logaddexp(0.0, z) - picked * z)), x.T @ (expit(z) - picked) / len(z)

    return np.asarray(minimize(loss, [1.0, 0.0, 0.0], jac=True, method="L-BFGS-B").x)


def blend_marks(prior: FloatArray, model: FloatArray, mark: IntArray) -> FloatArray:
    """Weights of the two log-probabilities and the levels' intercepts, float64 (2 + G,); starts as the prior alone.

    Args:
        prior: float (n, G), the prior's probabilities.
        model: float (n, G), the language model's.
        mark: int (n,), the level that was given.
    """
    a, b, n = _log(prior), _log(model), len(mark)
    given = np.eye(a.shape[1])[mark]

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        logs = _pool(w, a, b)
        off = np.exp(logs) - given
        slope = np.concatenate([[(off * a).sum(), (off * b).sum()], off.sum(axis=0)])
        # A weak pull of the intercepts to 0, which also makes them unique.
        return float(-(logs * given).sum() / n + 1e-3 * (w[2:] ** 2).sum()), slope / n + np.concatenate(
            [[0.0, 0.0], 2e-3 * w[2:]]
        )

    start = np.concatenate([[1.0, 0.0], np.zeros(a.shape[1])])
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B").x)


def _pool(w: FloatArray, prior: FloatArray, model: FloatArray) -> FloatArray:
    return np.asarray(log_softmax(w[0] * prior + w[1] * model + w[2:], axis=1))


def _log(p: FloatArray) -> FloatArray:
    return np.log(np.maximum(np.asarray(p, np.float64), FLOOR))


def _products(features: FloatArray, centre: FloatArray, scale: FloatArray) -> FloatArray:
    """Standardised features (cut at 5 standard deviations), their products, and ones, float64 (n, Q + 1)."""
    x = np.clip((features - centre) / scale, -5.0, 5.0)
    upper = np.triu_indices(len(FEATURES))
    return np.column_stack([x, x[:, upper[0]] * x[:, upper[1]], np.ones(len(x))])
