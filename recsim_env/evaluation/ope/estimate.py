"""An estimate with its interval and with what tells whether to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recsim_env.draws import Draws
from recsim_env.evaluation.bootstrap import MAX_CLUSTERS, N_REPLICATES, ratios, resampled_counts
from recsim_env.evaluation.ope.estimators import Terms
from recsim_env.records import BoolArray, FloatArray, IntArray

FEW = 0.01
"""Share of effective units below which an estimate comes with a warning."""
FEW_UNITS = 10
"""Number of effective units below which it does so too."""


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What the weights of an estimate look like.

    Attributes:
        effective: Effective sample size ``sum(w)^2 / sum(w^2)``; for weights per position the mean over positions.
        effective_share: The same over the number of units.
        largest: Largest weight.
        mean_weight: Mean weight: about 1 if the logging policy covers the target policy, less if it does not.
        unsupported: Share of the target policy's items that the logging policy never shows; None where unknown.
        unexplored: Share of units whose slate was certain under the logging policy.
    """

    effective: float
    effective_share: float
    largest: float
    mean_weight: float
    unsupported: float | None
    unexplored: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """One row of the table.

    Attributes:
        estimator: Its short name.
        value: The estimate, in units of the reward per turn or per episode.
        low: Lower end of the 95 % interval; NaN where it cannot be had.
        high: Upper end.
        n: Number of logged units.
        diagnostics: Of its weights; None for the direct method, which has none.
    """

    estimator: str
    value: float
    low: float
    high: float
    n: int
    diagnostics: Diagnostics | None

    @property
    def few(self) -> bool:
        """Whether fewer than 1 % of the units count, or fewer than ten."""
        told = self.diagnostics
        return told is not None and (told.effective_share < FEW or told.effective < FEW_UNITS)

    def row(self) -> dict[str, Any]:
        """The estimate as plain data, None for what is no number."""
        told = asdict(self)
        diagnostics = told.pop("diagnostics") or dict.fromkeys(Diagnostics.__slots__)
        told = {**told, **diagnostics, "few": self.few}
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in told.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Who a logged unit belongs to: a user's units depend on each other, so users are resampled.

    Attributes:
        index: int64 (n,), cluster of each unit, below ``count``.
        count: Number of clusters Q.
        resamples: float32 (B, Q), how often each cluster stands in each resample.
    """

    index: IntArray
    count: int
    resamples: FloatArray

    @classmethod
    def of(cls, user: IntArray, n_replicates: int = N_REPLICATES, draws: Draws | None = None) -> Clusters:
        """At most 1,024 clusters of users; users of one cluster are added up.

        Args:
            user: int (n,), any numbering of users.
            n_replicates: Resamples B.
            draws: Source of the resamples.
        """
        _, index = np.unique(user, return_inverse=True)
        count = min(MAX_CLUSTERS, int(index.max(initial=0)) + 1)
        return cls(index % count, count, resampled_counts(count, n_replicates, draws))

    def sums(self, values: FloatArray) -> FloatArray:
        """Sums over the units of each cluster, float64 (Q, P) of (n, P)."""
        columns = [np.bincount(self.index, column, minlength=self.count) for column in np.asarray(values).T]
        return np.stack(columns, axis=1)

    def intervals(self, terms: Sequence[Terms], level: float = 0.95) -> list[tuple[float, float]]:
        """Percentile bootstrap intervals over users, one of each estimate; NaN with fewer than two users."""
        if self.count < 2:
            return [(float("nan"), float("nan"))] * len(terms)
        stacked = [np.concatenate([getattr(t, side) for t in terms], axis=1) for side in ("numerator", "denominator")]
        replicates = ratios(self.sums(stacked[0]), self.sums(stacked[1]), self.resamples)
        tail, found, start = (1.0 - level) / 2.0, [], 0
        for term in terms:
            stop = start + term.numerator.shape[1]
            values = replicates[:, start:stop].sum(axis=1)
            values, start = values[np.isfinite(values)], stop
            ends = np.quantile(values, [tail, 1.0 - tail]) if values.size else np.full(2, np.nan)
            found.append((float(ends[0]), float(ends[1])))
        return found


def diagnose(weight: FloatArray, unexplored: BoolArray, unsupported: float | None = None) -> Diagnostics:
    """Diagnostics of weights.

    Args:
        weight: float (n,), or (n, K) for weights per position.
        unexplored: bool (n,), the slate was certain under the logging policy.
        unsupported: Share of the target policy's items that the logging policy never shows.
    """
    columns = np.asarray(weight, np.float64).reshape(len(weight), -1)
    scaled = columns / np.maximum(columns.max(axis=0, initial=0.0), 1e-300)  # squares of large weights overflow
    square = (scaled**2).sum(axis=0)
    effective = np.divide(scaled.sum(axis=0) ** 2, square, out=np.zeros(square.shape), where=square > 0).mean()
    return Diagnostics(
        float(effective), float(effective / max(len(columns), 1)), float(columns.max(initial=0.0)),
        float(columns.mean()), unsupported, float(np.mean(unexplored)),
    )  # fmt: skip


def estimate_all(
    terms: Mapping[str, tuple[Terms, FloatArray | None]],
    clusters: Clusters,
    unexplored: BoolArray,
    unsupported: float | None = None,
) -> list[Estimate]:
    """Values, intervals and diagnostics.

    Args:
        terms: By estimator, its terms and the weights that it rests on, (n,) or (n, K), or None.
        clusters: Of the n units.
        unexplored: bool (n,).
        unsupported: As in :func:`diagnose`.
    """
    ends = clusters.intervals([term for term, _ in terms.values()])
    found = []
    for (name, (term, weight)), (low, high) in zip(terms.items(), ends, strict=True):
        told = None if weight is None else diagnose(weight, unexplored, unsupported)
        found.append(Estimate(name, term.value, low, high, len(term.numerator), told))
    return found
