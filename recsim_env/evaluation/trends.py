"""What was watched most of late, where a population keeps a list of it (``population.trends``).

Titles stand here as the catalogue has them, untrusted: whoever shows them escapes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from recsim_env.evaluation.story import full_title
from recsim_env.evaluation.tables import Cell, RunTables, World, split_by_cell
from recsim_env.records import IntArray

TOP = 10
"""Titles of a list that are shown."""


@dataclass(frozen=True, slots=True)
class Trends:
    """The list of one evening.

    Attributes:
        cell: Recommender and seed.
        day: The evening.
        counted: Days that the list counts, this one the last.
        titles: The first :data:`TOP` titles, each with how often it was watched in the days that count; empty where
            nobody watched anything.
    """

    cell: Cell
    day: int
    counted: int
    titles: tuple[tuple[str, int], ...]


def tell_trends(run: RunTables, cell: Cell, day: int, rows: IntArray) -> Trends:
    """An evening's list with its titles.

    Args:
        run: The run folder.
        cell: Recommender and seed.
        day: The evening.
        rows: int64 (n, 2), item and how often it was watched, in the list's order.
    """
    counted = int(run.manifest["scenario"].get("population", {}).get("trend_days", 1))
    listed = run.items.iloc[rows[:TOP, 0]]
    names = [full_title(str(title), int(year)) for title, year in zip(listed["title"], listed["year"], strict=True)]
    return Trends(cell, day, counted, tuple(zip(names, rows[:TOP, 1].tolist(), strict=True)))


def last_trends(run: RunTables, world: World) -> list[Trends]:
    """The last evening's list of each recommender, under its first seed; none where the run keeps no lists."""
    rows = run.table("trends")
    if not len(rows):
        return []
    last = world.n_days - 1
    rows = rows[rows["day"] == last].sort_values("rank", kind="stable")
    at = split_by_cell(rows, world)
    told = []
    for name in world.recommenders:
        cell = next(cell for cell in world.cells if cell[0] == name)
        own = rows.iloc[at.get(cell, slice(0))][["item", "watched"]].to_numpy("int64")
        told.append(tell_trends(run, cell, last, own))
    return told


def kept_share(rows: pd.DataFrame, n_days: int) -> float:
    """Share of an evening's list that stood on the list of the evening before, mean over the evenings that have both.

    Args:
        rows: The lists of one cell: ``day, item``.
        n_days: Days D.

    Returns:
        In [0, 1]; NaN where no two evenings in a row have a list.
    """
    lists = rows[["day", "item"]]
    length = lists["day"].value_counts().reindex(range(n_days))
    both = lists.merge(lists.assign(day=lists["day"] + 1))["day"].value_counts().reindex(range(n_days), fill_value=0)
    return float((both / length).where(length.shift().notna()).mean())
