"""Can a simulated rating history be told from a person's? The same films in the same order, other stars.

Simple, fixed features of each history, and a logistic regression over them and their squares, trained on some users and
tried on others. An AUC near .5 says that these features cannot tell; a better classifier might.
"""

from __future__ import annotations

import numpy as np

from recsim_env.agents.calibration import logistic
from recsim_env.experiments.fidelity.measures import area_under_curve
from recsim_env.records import FloatArray, IntArray

N_FOLDS = 5


def history_features(stars: FloatArray, user: IntArray, item_mean: FloatArray, levels: FloatArray) -> FloatArray:
    """Features of each user's stars, float64 (U, 6 + G): mean, standard deviation, correlation with the items' means,
    mean distance from them, autocorrelation at lag 1, share of extremes, and the histogram.

    Args:
        stars: float (n,), in the order in which they were given.
        user: int (n,), ascending.
        item_mean: float (n,), mean training star of each film.
        levels: float (G,).
    """  # noqa: D205
    starts = np.flatnonzero(np.diff(user, prepend=user[0] - 1))
    rows = []
    for own, mean in zip(np.split(stars, starts[1:]), np.split(item_mean, starts[1:]), strict=True):
        histogram = (np.abs(own[:, None] - levels) < 1e-4).mean(axis=0)
        extremes = histogram[0] + histogram[-1]
        off = np.abs(own - mean).mean()
        rows.append(
            [own.mean(), own.std(), _correlation(own, mean), off, _correlation(own[1:], own[:-1]), extremes, *histogram]
        )
    return np.asarray(rows, np.float64)


def _correlation(a: FloatArray, b: FloatArray) -> float:
    if len(a) < 2 or a.std() < 1e-6 or b.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def told_apart(real: FloatArray, simulated: FloatArray) -> float:
    """AUC of telling simulated from real histories, cross-validated by user.

    Both histories of a user are in the same fold, and every other history of a fold is compared with those of that
    fold alone, so that scores of different fits are never mixed.

    Args:
        real: float (U, D), features of people.
        simulated: float (U, D), of the same users, simulated.
    """
    fold = np.arange(len(real)) % N_FOLDS
    found = []
    for f in range(N_FOLDS):
        inside = fold != f
        if not inside.any() or inside.all():
            continue
        x = np.concatenate([real[inside], simulated[inside]])
        centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
        y = np.repeat([False, True], int(inside.sum()))
        # The weight of a row sets the penalty: strong enough for the few hundred users of a fold.
        w = logistic(_with_squares((x - centre) / scale), y, np.ones(len(y)), penalty=1e-2)
        tried = np.concatenate([real[~inside], simulated[~inside]])
        scores = _with_squares((tried - centre) / scale) @ w
        found.append(area_under_curve(scores, np.repeat([False, True], int((~inside).sum()))))
    return float(np.mean(found)) if found else float("nan")


def _with_squares(x: FloatArray) -> FloatArray:
    x = np.clip(x, -4.0, 4.0)
    return np.column_stack([x, x**2 - 1.0, np.ones(len(x))])
