"""Figures by day, with 95 % bands over users."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from recsim_env.evaluation.beyond_accuracy import category_mass, entropy
from recsim_env.evaluation.bootstrap import (
    N_GROUPS,
    Intervals,
    jackknife_intervals,
    leave_out_sums,
    ratio_intervals,
    resampled_counts,
)
from recsim_env.evaluation.cells import WEEK, user_sums
from recsim_env.evaluation.tables import Cell, Rows, RunTables, World, columns, split_by_cell
from recsim_env.records import FloatArray, IntArray

N_REPLICATES = 300
"""Bootstrap replicates for bands, which need less care than tables."""


def engagement_by_day(run: RunTables, world: World) -> pd.DataFrame:
    """Clicks per page by day, of those who are there; NaN on a day without a session.

    Returns:
        One row per recommender and day: ``recommender, day, value, low, high``.
    """
    sessions = run.table("sessions", ["recommender", "seed", "user", "day", "n_clicks", "n_turns"])

    def sums(rows: Rows) -> tuple[FloatArray, FloatArray]:
        session = columns(sessions, ["user", "day", "n_clicks", "n_turns"], rows)
        clicks = _cluster_day(world, session["user"], session["day"], session["n_clicks"])
        return clicks, _cluster_day(world, session["user"], session["day"], session["n_turns"])

    return _by_day(sessions, world, sums)


def retention_by_day(run: RunTables, world: World) -> pd.DataFrame:
    """Share of all users with a session on the day or the six days before it: weekly active users.

    On the last day this is the table's retention; on the first six days the window is shorter. Columns as in
    :func:`engagement_by_day`.
    """
    sessions = run.table("sessions", ["recommender", "seed", "user", "day"])

    def sums(rows: Rows) -> tuple[FloatArray, FloatArray]:
        session = columns(sessions, ["user", "day"], rows)
        active = np.zeros((world.n_users, world.n_days), bool)
        active[session["user"], session["day"]] = True
        recent = active.copy()
        for back in range(1, min(WEEK, world.n_days)):
            recent[:, back:] |= active[:, :-back]
        return world.cluster_sums(recent), _users_per_cluster(world)

    return _by_day(sessions, world, sums)


def mindset_by_day(run: RunTables, world: World, which: str) -> pd.DataFrame:
    """Mean of ``trace_mood``, ``trace_boredom`` or ``trace_trust`` over the pages of each day.

    The mean is over those who are there: unhappy users who left pull it no longer. Columns as in
    :func:`engagement_by_day`.
    """
    turns = run.table("turns", ["recommender", "seed", "user", "day", which])

    def sums(rows: Rows) -> tuple[FloatArray, FloatArray]:
        turn = columns(turns, ["user", "day", which], rows)
        values = turn[which].astype(np.float64)
        known = ~np.isnan(values)  # nobody asks a person in a user's seat for all of it
        total = _cluster_day(world, turn["user"], turn["day"], np.where(known, values, 0.0))
        return total, _cluster_day(world, turn["user"], turn["day"], known.astype(np.float64))

    return _by_day(turns, world, sums)


def genre_entropy_by_day(run: RunTables, world: World) -> pd.DataFrame:
    """Entropy in bits of the genres of all clicks of a day, all users together.

    Columns as in :func:`engagement_by_day`; NaN on days without clicks.
    """
    clicks = run.table("impressions", ["recommender", "seed", "day", "user", "item", "clicked"])
    clicks = clicks[clicks["clicked"].to_numpy(bool)]
    n_genres = len(world.categories)
    mass: dict[str, FloatArray] = {}
    for (name, _), rows in split_by_cell(clicks, world).items():
        click = columns(clicks, ["user", "day", "item"], rows)
        owner = world.cluster[click["user"]] * world.n_days + click["day"]
        found = category_mass(owner, click["item"], world.item_categories, world.n_clusters * world.n_days)
        mass[name] = mass.get(name, 0.0) + found.reshape(world.n_clusters, -1)
    frames = []
    for name in (r for r in world.recommenders if r in mass):
        by_cluster = mass[name].reshape(world.n_clusters, world.n_days, n_genres)
        left_out = entropy(leave_out_sums(by_cluster, min(N_GROUPS, world.n_clusters)))
        frames.append(_days(name, jackknife_intervals(entropy(by_cluster.sum(axis=0)), left_out)))
    return _stack(frames)


def _by_day(frame: pd.DataFrame, world: World, sums: Callable[[Rows], tuple[FloatArray, FloatArray]]) -> pd.DataFrame:
    """Ratios by day, seeds pooled, from numerators and denominators (Q, D) of each cell."""
    counts = resampled_counts(world.n_clusters, N_REPLICATES)
    totals: dict[str, tuple[FloatArray, FloatArray]] = {}
    cells: dict[Cell, Rows] = split_by_cell(frame, world)
    for (name, _), rows in cells.items():
        above, below = sums(rows)
        before = totals.get(name, (0.0, 0.0))
        totals[name] = (before[0] + above, before[1] + below)
    frames = [_days(name, ratio_intervals(*totals[name], counts)) for name in world.recommenders if name in totals]
    return _stack(frames)


def _cluster_day(world: World, user: IntArray, day: IntArray, values: FloatArray) -> FloatArray:
    """Sums of values by cluster of users and day, float64 (Q, D)."""
    keys = world.cluster[user] * world.n_days + day
    return user_sums(keys, values, world.n_clusters * world.n_days).reshape(world.n_clusters, -1)


def _users_per_cluster(world: World) -> FloatArray:
    sizes = np.bincount(world.cluster, minlength=world.n_clusters).astype(np.float64)
    return np.repeat(sizes[:, None], world.n_days, axis=1)


def _days(name: str, found: Intervals) -> pd.DataFrame:
    return pd.DataFrame(
        {"recommender": name, "day": np.arange(len(found.value)), "value": found.value, "low": found.low,
         "high": found.high}
    )  # fmt: skip


def _stack(frames: list[pd.DataFrame]) -> pd.DataFrame:
    if not frames:
        return pd.DataFrame(columns=["recommender", "day", "value", "low", "high"])
    return pd.concat(frames, ignore_index=True)


def rating_shares(run: RunTables, world: World) -> pd.DataFrame:
    """Share of each level among the ratings that simulated users gave, and among the data set's.

    Returns:
        Index: levels of the data set's scale, ascending; one column per recommender and first a column
        ``data`` where the manifest has the histogram.
    """
    impressions = run.table("impressions", ["recommender", "rating"])
    rated = impressions["rating"].to_numpy(np.float64)
    histogram = run.manifest.get("data", {}).get("rating_histogram") or {}
    data = {float(level): float(share) for level, share in histogram.items()}
    low, high, step = (float(v) for v in run.manifest.get("data", {}).get("scale") or _scale_of(rated, data))
    levels = low + step * np.arange(round((high - low) / step) + 1)
    shares = {"data": [data.get(float(level), 0.0) for level in levels]} if data else {}
    given = ~np.isnan(rated)
    column = impressions.loc[given, "recommender"].astype(str).to_numpy()
    place = np.clip(np.rint((rated[given] - low) / step).astype(np.int64), 0, len(levels) - 1)
    for name in world.recommenders:
        count = np.bincount(place[column == name], minlength=len(levels))
        shares[name] = (count / max(count.sum(), 1)).tolist()
    return pd.DataFrame(shares, index=pd.Index(levels, name="rating"))


def _scale_of(rated: FloatArray, data: dict[float, float]) -> tuple[float, float, float]:
    known = [*data, *np.unique(rated[~np.isnan(rated)])] or [1.0, 5.0]
    return min(known), max(known), 1.0
