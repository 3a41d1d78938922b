"""One row of figures per recommender, each with an interval, and paired differences between recommenders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from recsim_env.errors import UnknownNameError
from recsim_env.evaluation.beyond_accuracy import entropy
from recsim_env.evaluation.bootstrap import (
    Intervals,
    jackknife_intervals,
    leave_out_sums,
    percentile_intervals,
    ratios,
    resampled_counts,
)
from recsim_env.evaluation.cells import CATALOGUE, RATIOS, CellSums, read_cells
from recsim_env.evaluation.tables import Cell, RunTables, World, read_world
from recsim_env.records import FloatArray


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is shown.

    Attributes:
        name: Column of the tables.
        title: Words for people.
        unit: Unit, "" for pure numbers.
        digits: Digits behind the point.
        better: +1 if more is better, -1 if less is, 0 if that depends.
    """

    name: str
    title: str
    unit: str
    digits: int
    better: int


METRICS = (
    Metric("clicks_per_turn", "Clicks per page", "clicks", 3, 1),
    Metric("watched_per_turn", "Watched per page", "items", 3, 1),
    Metric("mean_rating", "Mean rating given", "stars", 2, 1),
    Metric("session_length", "Session length", "pages", 2, 1),
    Metric("sessions_per_user", "Sessions per user", "sessions", 2, 1),
    Metric("retention", "Here in the last week", "share of users", 3, 1),
    Metric("not_churned", "Not left for good", "share of users", 3, 1),
    Metric("reward_per_user", "Reward per user", "reward", 2, 1),
    Metric("ndcg", "nDCG offline", "", 4, 1),
    Metric("coverage", "Catalogue coverage", "share of items", 3, 0),
    Metric("gini", "Gini of exposure", "", 3, 0),
    Metric("novelty", "Novelty", "bits", 2, 0),
    Metric("intra_list_diversity", "Diversity within a page", "", 3, 0),
    Metric("genre_entropy", "Genre entropy, all clicks", "bits", 3, 0),
    Metric("user_genre_entropy", "Genre entropy, per user", "bits", 3, 0),
    Metric("calibration", "Miscalibration", "nats", 3, -1),
    Metric("homogenisation", "Homogenisation", "", 4, 0),
)
"""All columns of :func:`summary_table`, in order; docs/metrics.md defines them."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A run, added up: everything that tables and differences need.

    Attributes:
        world: What all cells share.
        cells: Sums of each cell.
        offline: Ranking metrics of each cell on held-out ratings, from the manifest.
    """

    world: World
    cells: Mapping[Cell, CellSums]
    offline: Mapping[Cell, Mapping[str, Any]]

    @cached_property
    def counts(self) -> FloatArray:
        """The resamples that all figures of the run share, float32 (B, Q)."""
        return resampled_counts(self.world.n_clusters)

    def table(self) -> pd.DataFrame:
        """One row per recommender; for each metric a column of its name, ``<name>_low`` and ``<name>_high``."""
        rows = {}
        for name in self.world.recommenders:
            figures = self._figures(self._of(name))
            figures["ndcg"] = self._ndcg(name)
            rows[name] = _flat(figures)
        return _frame(rows)

    def differences(self, baseline: str | None = None) -> pd.DataFrame:
        """Every other recommender minus the baseline, paired by (seed, user); columns as in :meth:`table`, no nDCG.

        Args:
            baseline: Name of a recommender; the first when None.

        Raises:
            UnknownNameError: If the run has no such recommender.
        """
        base = self.world.recommenders[0] if baseline is None else baseline
        if base not in self.world.recommenders:
            raise UnknownNameError("recommender", base, self.world.recommenders, "baseline of paired differences")
        return _frame({r: _flat(self.difference(r, base)) for r in self.world.recommenders if r != base})

    def difference(self, first: str, second: str) -> dict[str, Intervals]:
        """``first - second`` of all metrics but nDCG, each with M = 1; seeds that only one of them has are left out."""
        here, there = self._of(first), self._of(second)
        seeds = here.keys() & there.keys()
        return self._figures({s: here[s] for s in seeds}, {s: there[s] for s in seeds})

    def exposure(self, recommender: str) -> FloatArray:
        """Lorenz-ready exposure of each item by rank, ascending, mean over seeds of its share, float64 (I,)."""
        shares = [np.sort(c.exposure) / max(c.exposure.sum(), 1) for c in self._of(recommender).values()]
        return np.asarray(np.mean(shares, axis=0))

    def _of(self, recommender: str) -> dict[int, CellSums]:
        return {seed: sums for (name, seed), sums in self.cells.items() if name == recommender}

    def _figures(
        self, cells: Mapping[int, CellSums], minus: Mapping[int, CellSums] | None = None
    ) -> dict[str, Intervals]:
        """Intervals of all metrics of some cells pooled over seeds, or of their difference from other cells."""
        if not cells:
            nothing = np.full(1, np.nan)
            return {name: Intervals(nothing, nothing, nothing) for name in (*RATIOS, *CATALOGUE, "genre_entropy")}
        value, replicates, whole, left_out = self._estimates(cells)
        if minus is not None:
            other = self._estimates(minus)
            value, replicates = value - other[0], replicates - other[1]
            whole, left_out = whole - other[2], left_out - other[3]
        single = jackknife_intervals(whole, left_out)
        if minus is None:  # none of these can leave [0, log2 C] or [0, 1]
            tops = np.append(np.ones(len(CATALOGUE)), np.log2(max(len(self.world.categories), 1)))
            single = Intervals(whole, np.maximum(single.low, 0.0), np.minimum(single.high, tops))
        return _named(RATIOS, percentile_intervals(value, replicates)) | _named((*CATALOGUE, "genre_entropy"), single)

    def _estimates(self, cells: Mapping[int, CellSums]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Ratios (M,) and replicates (B, M); figures of whole cells (4,) and without each group of users (G, 4)."""
        numerator = np.sum([c.numerator for c in cells.values()], axis=0)
        denominator = np.sum([c.denominator for c in cells.values()], axis=0)
        genres = np.sum([c.genres for c in cells.values()], axis=0)
        left_out = np.mean([c.catalogue_left_out for c in cells.values()], axis=0)
        whole = np.mean([c.catalogue for c in cells.values()], axis=0)
        return (
            ratios(numerator, denominator),
            ratios(numerator, denominator, self.counts),
            np.append(whole, entropy(genres.sum(axis=0))),
            np.column_stack([left_out, entropy(leave_out_sums(genres, len(left_out)))]),
        )

    def _ndcg(self, recommender: str) -> Intervals:
        found = [scores for (name, _), scores in self.offline.items() if name == recommender]

        def mean(key: str) -> FloatArray:
            values = [float(scores.get(key, np.nan)) for scores in found]
            return np.array([np.mean(values) if values else np.nan])

        return Intervals(mean("ndcg"), mean("ndcg_low"), mean("ndcg_high"))


def evaluate(run: RunTables) -> Evaluation:
    """Reads a run once and adds up all that its figures need.

    Raises:
        RunFolderError: If the run holds no session.
    """
    world = read_world(run)
    offline = {
        (str(cell["recommender"]), int(cell["seed"])): cell.get("offline") or {}
        for cell in run.manifest.get("cells", ())
    }
    return Evaluation(world, read_cells(run, world), offline)


def summary_table(run: RunTables) -> pd.DataFrame:
    """One row per recommender with all :data:`METRICS` and 95 % intervals over users; see :meth:`Evaluation.table`."""
    return evaluate(run).table()


def paired_differences(run: RunTables, baseline: str | None = None) -> pd.DataFrame:
    """Differences from a baseline with paired 95 % intervals; see :meth:`Evaluation.differences`."""
    return evaluate(run).differences(baseline)


def _named(names: tuple[str, ...], intervals: Intervals) -> dict[str, Intervals]:
    parts = zip(intervals.value, intervals.low, intervals.high, strict=True)
    return {
        name: Intervals(np.array([v]), np.array([lo]), np.array([hi]))
        for name, (v, lo, hi) in zip(names, parts, strict=True)
    }


def _flat(figures: Mapping[str, Intervals]) -> dict[str, float]:
    row = {}
    for metric in METRICS:
        if metric.name in figures:
            found = figures[metric.name]
            row[metric.name] = float(found.value[0])
            row[f"{metric.name}_low"], row[f"{metric.name}_high"] = float(found.low[0]), float(found.high[0])
    return row


def _frame(rows: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    frame = pd.DataFrame.from_dict(dict(rows), orient="index")
    frame.index.name = "recommender"
    return frame
