"""Hit ratios with their errors, and the fusion of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from _rsllm_data import Cases, drawn_candidates
from scipy.optimize import minimize

from recsim_env.draws import Draws
from recsim_env.records import FloatArray, IntArray

RIDGE = 1e-3


def hits(scores: FloatArray, place: IntArray) -> FloatArray:
    """Whether the target has the highest score, float64 (N,); among equals with their chance.

    Args:
        scores: float (N, M) of the candidates.
        place: int (N,), where the target stands.
    """
    best = scores == scores.max(axis=1, keepdims=True)
    return np.where(best[np.arange(len(place)), place], 1.0 / best.sum(axis=1), 0.0)


def with_error(values: FloatArray, user: IntArray | None) -> tuple[float, float]:
    """Mean and standard error; cases of one user count as one cluster."""
    mean = float(values.mean())
    groups = np.arange(len(values)) if user is None else np.unique(user, return_inverse=True)[1]
    return mean, float(np.sqrt(np.square(np.bincount(groups, values - mean)).sum()) / len(values))


def told(values: FloatArray, user: IntArray | None) -> str:
    """Mean and standard error as they stand in a table."""
    mean, error = with_error(values, user)
    return f"{mean:.3f} ± {error:.3f}"


def logit_weights(features: FloatArray, place: IntArray) -> FloatArray:
    """Weights of features by conditional logit (McFadden, 1974), float64 (F,).

    Args:
        features: float (N, M, F) of the candidates.
        place: int (N,), where the target stands.
    """
    rows = np.arange(len(place))

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        scores = features @ weights
        scores -= scores.max(axis=1, keepdims=True)
        chances = np.exp(scores)
        chances /= chances.sum(axis=1, keepdims=True)
        value = -np.log(chances[rows, place]).mean() + RIDGE * float(weights @ weights)
        expected = (chances[:, :, None] * features).sum(axis=1)
        return value, (expected - features[rows, place]).mean(axis=0) + 2 * RIDGE * weights

    start = np.full(features.shape[2], 1.0 / features.shape[2])
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B").x)


def fused(parts: Mapping[str, FloatArray], names: Sequence[str], cases: Cases) -> tuple[FloatArray, FloatArray]:
    """Scores of several parts together, float64 (N, M), and their mean weights (F,).

    Weights are cross-fitted: those of one half of the users are chosen on the other half.
    """
    features = np.stack([parts[name] for name in names], axis=2).astype(np.float64)
    half = (cases.user if cases.user is not None else np.arange(len(cases.target))) % 2
    scores, weights = np.empty(features.shape[:2]), []
    for side in (0, 1):
        weights.append(logit_weights(features[half != side], cases.place[half != side]))
        scores[half == side] = features[half == side] @ weights[-1]
    return scores, np.mean(weights, axis=0)


def last_only(scores: Mapping[str, FloatArray], cases: Cases, times: int) -> dict[str, tuple[float, float]]:
    """LLaRA's protocol: mean and standard deviation of HR@1 over draws of the 19 other candidates, by method.

    Args:
        scores: float (N, I) of the whole catalogue, by method.
        cases: Histories and targets.
        times: Draws; the seeds are 0, 1, ...
    """
    found: dict[str, list[float]] = {name: [] for name in scores}
    for seed in range(times):
        drawn = drawn_candidates(cases, next(iter(scores.values())).shape[1], Draws(seed))
        for name, values in scores.items():
            own = np.take_along_axis(values, drawn.candidates, axis=1)
            found[name].append(float(hits(own, drawn.place).mean()))
    return {name: (float(np.mean(values)), float(np.std(values))) for name, values in found.items()}
