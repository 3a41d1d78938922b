"""Intervals that respect users: a user's turns depend on each other, so users are resampled, never rows.

Ratios of sums (clicks per turn, ...) get percentile bootstrap intervals over clusters of users (Cameron, Gelbach and
Miller 2008, pairs cluster bootstrap). Figures of the whole catalogue (coverage, Gini) get delete-a-group jackknife
intervals instead: a resample with repetitions shows fewer different items, so its coverage is biased; so is entropy.

Two recommenders are compared on the same resamples. With common random numbers most of the noise then cancels.

What is one number for a whole run, as the members of a population are, gets intervals over seeds: :func:`over_seeds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from recsim_env.draws import Draws
from recsim_env.records import BoolArray, FloatArray

MAX_CLUSTERS = 1024
"""Users are added up into at most this many clusters; the width of an interval is then known to some 2 %."""

N_GROUPS = 20
"""Groups of users for the jackknife."""

N_REPLICATES = 1000
"""Bootstrap replicates for tables."""


@dataclass(frozen=True, slots=True, eq=False)
class Intervals:
    """Estimates with intervals, each float64 (M,); bounds are NaN where they cannot be had."""

    value: FloatArray
    low: FloatArray
    high: FloatArray

    @property
    def excludes_zero(self) -> BoolArray:
        """Whether 0 lies outside, bool (M,); False where bounds are NaN."""
        return np.asarray((self.low > 0) | (self.high < 0))


def resampled_counts(n_clusters: int, n_replicates: int = N_REPLICATES, draws: Draws | None = None) -> FloatArray:
    """How often each cluster stands in each resample: multinomial counts, float32 (B, Q), rows sum to Q.

    Args:
        n_clusters: Q, at least 1.
        n_replicates: B.
        draws: Source of the resamples; the same draws and Q give the same resamples, which is what pairs them.
    """
    counts = np.empty((n_replicates, n_clusters), np.float32)
    block = max(1, 4_000_000 // n_clusters)
    lanes = np.arange(n_clusters)
    for start in range(0, n_replicates, block):
        rows = np.arange(start, min(start + block, n_replicates))
        picks = Draws.bits((draws or Draws(0)).keys("bootstrap", rows), lanes) % np.uint64(n_clusters)
        flat = (picks.astype(np.int64) + (rows - start)[:, None] * n_clusters).ravel()
        counts[rows] = np.bincount(flat, minlength=len(rows) * n_clusters).reshape(len(rows), n_clusters)
    return counts


def ratios(numerator: FloatArray, denominator: FloatArray, counts: FloatArray | None = None) -> FloatArray:
    """Sum over clusters of the numerator over that of the denominator, NaN where the latter is 0.

    Args:
        numerator: float (Q, M), per cluster.
        denominator: float (Q, M).
        counts: float (B, Q) resamples, or None for the plain estimate.

    Returns:
        float64 (B, M), or (M,) without counts.
    """
    weights = np.ones(len(numerator)) if counts is None else counts.astype(np.float64)
    above, below = weights @ numerator, weights @ denominator
    return np.asarray(np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0))


def percentile_intervals(value: FloatArray, replicates: FloatArray, level: float = 0.95) -> Intervals:
    """Percentile intervals.

    Args:
        value: float (M,), the plain estimates.
        replicates: float (B, M); NaN replicates are left out.
        level: Probability that an interval should cover the truth.
    """
    low, high = np.full(len(value), np.nan), np.full(len(value), np.nan)
    usable = np.isfinite(replicates).any(axis=0) & np.isfinite(value)
    tail = (1.0 - level) / 2.0
    if usable.any():
        low[usable], high[usable] = np.nanquantile(replicates[:, usable], [tail, 1.0 - tail], axis=0)
    return Intervals(np.asarray(value, np.float64), low, high)


def ratio_intervals(numerator: FloatArray, denominator: FloatArray, counts: FloatArray | None = None) -> Intervals:
    """95 % intervals of ratios of sums over clusters; arguments as in :func:`ratios`.

    A mean over users is the ratio whose denominator is 1 for each user.
    """
    counts = resampled_counts(len(numerator)) if counts is None else counts
    return percentile_intervals(ratios(numerator, denominator), ratios(numerator, denominator, counts))


def paired_difference(
    first: tuple[FloatArray, FloatArray], second: tuple[FloatArray, FloatArray], counts: FloatArray | None = None
) -> Intervals:
    """95 % intervals of ``ratio(first) - ratio(second)`` where row q of both speaks of the same users and seeds.

    Args:
        first: Numerator and denominator, each float (Q, M).
        second: The same for the other recommender.
        counts: float (B, Q) resamples.

    Raises:
        ValueError: If the two do not have the same shape.
    """
    if first[0].shape != second[0].shape:
        raise ValueError(
            f"Paired differences need the same clusters on both sides, but the shapes are {first[0].shape} and "
            f"{second[0].shape}. Compare runs of the same users and seeds."
        )
    counts = resampled_counts(len(first[0])) if counts is None else counts
    value = ratios(*first) - ratios(*second)
    return percentile_intervals(value, ratios(*first, counts) - ratios(*second, counts))


def leave_out_sums(per_cluster: FloatArray, n_groups: int = N_GROUPS) -> FloatArray:
    """Sums over clusters without each group in turn; clusters q, q + G, q + 2 G, ... make a group.

    Args:
        per_cluster: float (Q, ...).
        n_groups: G, no more than Q.

    Returns:
        float64 (G, ...).
    """
    group = np.arange(len(per_cluster)) % n_groups
    return np.stack([per_cluster[group != g].sum(axis=0) for g in range(n_groups)])


def jackknife_intervals(value: FloatArray, left_out: FloatArray, level: float = 0.95) -> Intervals:
    """Delete-a-group jackknife intervals with Student's t (Kott 2001).

    Args:
        value: float (M,), estimates from everybody.
        left_out: float (G, M), estimates without group g of users; the difference of two recommenders' arrays gives
            the interval of the difference.
        level: Probability that an interval should cover the truth.
    """
    n_groups = len(left_out)
    value = np.asarray(value, np.float64)
    if n_groups < 2:
        return Intervals(value, np.full(len(value), np.nan), np.full(len(value), np.nan))
    error = np.sqrt((n_groups - 1) / n_groups * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    half = error * special.stdtrit(n_groups - 1, 0.5 + level / 2.0)
    return Intervals(value, value - half, value + half)


def over_seeds(values: Sequence[Any]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean and ends of the 95 % interval over seeds: Student's t, NaN with fewer than two.

    Args:
        values: One float or float array (X,) for each seed; NaN are left out.

    Returns:
        Three float64 arrays of the shape of one value.
    """
    table = np.asarray(values, np.float64)
    known = np.isfinite(table)
    n = known.sum(axis=0)
    mean = np.divide(np.where(known, table, 0.0).sum(axis=0), n, out=np.full(table.shape[1:], np.nan), where=n > 0)
    squares = (np.where(known, table - mean, 0.0) ** 2).sum(axis=0)
    error = np.sqrt(np.divide(squares, n * (n - 1.0), out=np.full(table.shape[1:], np.nan), where=n > 1))
    half = error * special.stdtrit(np.maximum(n - 1, 1), 0.975)
    return mean, mean - half, mean + half
