"""Populations and creators by day, and what came of them, where a run has any; 95 % intervals are over seeds.

A day of a population is one row of the run folder, so there are no users left to resample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recsim_env.evaluation.beyond_accuracy import gini
from recsim_env.evaluation.bootstrap import over_seeds
from recsim_env.evaluation.summary import Metric
from recsim_env.evaluation.tables import Cell, RunTables, World, split_by_cell
from recsim_env.evaluation.trends import kept_share
from recsim_env.records import FloatArray


@dataclass(frozen=True, slots=True)
class Topic:
    """What the report shows of a table that only some runs hold.

    Attributes:
        read: From a run, for each cell that has such rows, the panels' values by day, float64 (D,) with NaN where a day
            is not stored, and the totals' values, float64 ().
        panels: By column, the title of a panel by day and its unit.
        totals: Figures of whole cells.
    """

    read: Callable[[RunTables, World], dict[Cell, dict[str, FloatArray]]]
    panels: Mapping[str, tuple[str, str]]
    totals: tuple[Metric, ...]

    def tables(self, run: RunTables, world: World) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The panels by day and the totals of each recommender, both empty where the run has no such rows.

        Totals that are unknown throughout are left out.

        Returns:
            ``recommender, day``, and for each panel and total respectively a column of its name, ``<name>_low`` and
            ``<name>_high``: means over seeds with intervals, which are NaN with one seed. The second frame's index is
            the recommender.
        """
        found = self.read(run, world)
        names = [total.name for total in self.totals]
        known = [name for name in names if any(np.isfinite(values[name]) for values in found.values())]
        days, totals = [], {}
        for name in world.recommenders:
            cells = [values for (recommender, _), values in found.items() if recommender == name]
            if cells:
                by_day = {"recommender": name, "day": np.arange(world.n_days)}
                days.append(pd.DataFrame(by_day | _intervals(cells, self.panels, world)))
                whole = _intervals(cells, known, world)
                totals[name] = {key: float(value) for key, value in whole.items()}
        frame = pd.concat(days, ignore_index=True) if days else pd.DataFrame(columns=["recommender", "day"])
        return frame, pd.DataFrame.from_dict(totals, orient="index")

    def panels_of(self, by_day: pd.DataFrame) -> dict[str, tuple[str, str]]:
        """The panels that have something to show: what is unknown or 0 throughout was never there."""
        return {name: label for name, label in self.panels.items() if by_day[name].fillna(0.0).any()}


def _limits(world: World) -> dict[str, tuple[float, float]]:
    """Least and most that a figure can be, where it is more than not negative; intervals end there."""
    users, items = float(world.n_users), float(world.n_items)
    return {
        **dict.fromkeys(("came", "active", "active at the end", "gini", "kept"), (0.0, 1.0)),
        **dict.fromkeys(("members", "members at the end", "newcomers", "stopped"), (0.0, users)),
        **dict.fromkeys(("items", "new"), (0.0, items)),
        "divide": (-np.inf, np.inf),
        "likeness": (-1.0, 1.0),
    }


def _intervals(cells: list[dict[str, FloatArray]], names: Iterable[str], world: World) -> dict[str, FloatArray]:
    columns: dict[str, FloatArray] = {}
    limits = _limits(world)
    for name in names:
        mean, low, high = over_seeds([values[name] for values in cells])
        least, most = limits.get(name, (0.0, np.inf))
        columns |= {name: mean, f"{name}_low": np.maximum(low, least), f"{name}_high": np.minimum(high, most)}
    return columns


def _population(run: RunTables, world: World) -> dict[Cell, dict[str, FloatArray]]:
    rows, lists = run.table("population"), run.table("trends")
    listed = split_by_cell(lists, world)
    return {
        cell: _of_population(rows.iloc[at], lists.iloc[listed.get(cell, slice(0))], world.n_days)
        for cell, at in split_by_cell(rows, world).items()
    }


def _of_population(rows: pd.DataFrame, lists: pd.DataFrame, n_days: int) -> dict[str, FloatArray]:
    day = rows.set_index("day").drop(columns=["recommender", "seed"]).reindex(range(n_days)).astype(np.float64)
    by_day = day["members"] + day["churned"]  # `members` are those of the night, without who stopped that day
    by_day = by_day.where(by_day > 0)
    values = {
        "members": day["members"],
        "came": day["came"] / by_day,
        "heard": day["heard"] / by_day,
        "divide": day["trace_divide"],
        "likeness": day["trace_likeness"],
        "members at the end": day["members"].iloc[-1],
        "newcomers": day["new"].sum(),
        "stopped": day["churned"].sum(),
        "talks": (day["chats"] + day["posts"]).mean(),
        "heard a day": day["heard"].mean(),
        "kept": kept_share(lists, n_days),
    }
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


POPULATION = Topic(
    _population,
    {
        "members": ("Members at night", "Users"),
        "came": ("Who came", "Share of members"),
        "heard": ("Opinions heard", "Opinions per member"),
        "divide": ("Distance of the camps", "SD of day 0"),
        "likeness": ("Likeness of friends", "Mean cosine (−1 to 1)"),
    },
    (
        Metric("members at the end", "Members at the end", "users", 1, 1),
        Metric("newcomers", "Newcomers in all", "users", 1, 1),
        Metric("stopped", "Stopped for good in all", "users", 1, -1),
        Metric("talks", "Chats and posts", "a day", 1, 0),
        Metric("heard a day", "Opinions heard", "a day", 1, 0),
        Metric("kept", "Watched most: listed the evening before, too", "share of titles", 3, 0),
    ),
)


def _creators(run: RunTables, world: World) -> dict[Cell, dict[str, FloatArray]]:
    rows, out = run.table("creators"), run.table("releases")
    new = {cell: int((out["day"].to_numpy()[at] > 0).sum()) for cell, at in split_by_cell(out, world).items()}
    return {
        cell: _of_creators(rows.iloc[at], world.n_days, new.get(cell, 0))
        for cell, at in split_by_cell(rows, world).items()
    }


def _of_creators(rows: pd.DataFrame, n_days: int, n_new: int) -> dict[str, FloatArray]:
    day = rows.groupby("day").agg({"active": "mean", "items": "sum"}).reindex(range(n_days)).astype(np.float64)
    values = {
        "active": day["active"],
        "items": day["items"],
        "active at the end": day["active"].iloc[-1],
        "gini": gini(rows.groupby("creator")["shown"].sum().to_numpy()),
        "new": n_new,
    }
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


CREATORS = Topic(
    _creators,
    {"active": ("Still active", "Share of creators"), "items": ("Items that are out", "Items")},
    (
        Metric("active at the end", "Still active at the end", "share of creators", 3, 1),
        Metric("gini", "Gini of creators' impressions", "", 3, 0),
        Metric("new", "New items that came out", "items", 1, 1),
    ),
)
