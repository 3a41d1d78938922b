"""Many logs like the one at hand, and what an estimator makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsim_env.draws import Draws
from recsim_env.evaluation.bootstrap import MAX_CLUSTERS, resampled_counts
from recsim_env.evaluation.ope.estimate import Clusters, estimate_all
from recsim_env.evaluation.ope.turns import AllTerms
from recsim_env.records import BoolArray, IntArray

STRIDE = 37
"""Between the fresh draws that two appearances of a user in one replicate take."""
N_RESAMPLES = 400
"""Bootstrap resamples for the intervals of a replicate."""


@dataclass(frozen=True, slots=True, eq=False)
class Replicate:
    """The rows of one replicate.

    Attributes:
        unit: int64 (n,), row of the pool.
        fresh: int64 (n,), which of the pool's fresh draws.
        cluster: int64 (n,), number of the drawn user; a user drawn twice makes two clusters.
    """

    unit: IntArray
    fresh: IntArray
    cluster: IntArray


def replicate(owner: IntArray, number: int, n_users: int, n_fresh: int, draws: Draws, times: int = 1) -> Replicate:
    """Draws users with replacement and takes all their units, each with a draw of its own.

    Args:
        owner: int (M,), the user of each unit of the pool.
        number: Of the replicate.
        n_users: Users to draw.
        n_fresh: Fresh draws R of each unit that the pool holds.
        draws: Luck of the calibration.
        times: How often a drawn user's units are taken.
    """
    users, place = np.unique(owner, return_inverse=True)
    order = np.argsort(place, kind="stable")
    counts = np.bincount(place)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    luck = Draws.bits(draws.keys("ope-users", number), np.arange(n_users))[0]
    chosen = np.repeat((luck % np.uint64(len(users))).astype(np.int64), times)
    cluster = np.repeat(np.arange(n_users), times)
    sizes = counts[chosen]
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    unit = order[np.repeat(starts[chosen], sizes) + within]
    fresh = (number + STRIDE * np.repeat(_appearance(chosen), sizes)) % n_fresh
    return Replicate(unit, fresh, np.repeat(cluster, sizes))


def _appearance(chosen: IntArray) -> IntArray:
    """How often each entry stood there before, int64 of the same length."""
    order = np.argsort(chosen, kind="stable")
    starts = np.flatnonzero(np.diff(chosen[order], prepend=-1))
    before = np.empty(len(chosen), np.int64)
    before[order] = np.arange(len(chosen)) - np.repeat(starts, np.diff(starts, append=len(chosen)))
    return before


class Score:
    """Collects the estimates of one target over replicates.

    Args:
        truth: What they should be.
        n_users: Clusters of a replicate.
    """

    def __init__(self, truth: float, n_users: int) -> None:
        self.truth = truth
        self._resamples = resampled_counts(min(n_users, MAX_CLUSTERS), N_RESAMPLES)
        self._found: dict[str, list[tuple[float, float, float, float, int]]] = {}

    def add(self, terms: AllTerms, cluster: IntArray, unexplored: BoolArray) -> None:
        """Takes down the estimates of one replicate."""
        count = self._resamples.shape[1]
        for found in estimate_all(terms, Clusters(cluster % count, count, self._resamples), unexplored):
            share = float("nan") if found.diagnostics is None else found.diagnostics.effective_share
            self._found.setdefault(found.estimator, []).append((found.value, found.low, found.high, share, found.n))

    def rows(self, about: dict[str, Any]) -> list[dict[str, Any]]:
        """A row per estimator: truth, bias, spread, error, coverage."""
        return [{**about, "estimator": name, **self._row(values)} for name, values in self._found.items()]

    def _row(self, values: Sequence[tuple[float, float, float, float, int]]) -> dict[str, Any]:
        value, low, high, share, n = np.array(values).T
        error = value - self.truth
        return {
            "n": round(float(n.mean())),
            "replicates": len(value),
            "truth": self.truth,
            "bias": float(error.mean()),
            "sd": float(value.std()),
            "rmse": float(np.sqrt((error**2).mean())),
            "coverage": float(((low <= self.truth) & (self.truth <= high)).mean()),
            "width": float((high - low).mean()),
            "effective_share": None if np.isnan(share).all() else float(share.mean()),
        }
