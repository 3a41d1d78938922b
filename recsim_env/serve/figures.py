"""Figures by day of a run that is being written: read once part by part, added up, drawn."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recsim_env import plots
from recsim_env.evaluation.beyond_accuracy import category_mass, entropy
from recsim_env.evaluation.cells import WEEK
from recsim_env.evaluation.tables import Cell, category_matrix
from recsim_env.evaluation.trends import Trends, tell_trends
from recsim_env.records import BoolArray
from recsim_env.rundir import Run, cell_name

PANELS = {
    "came": "Users who came",
    "clicks_per_visit": "Clicks per visit",
    "satisfaction": "Satisfaction (−1 to 1)",
    "active": "Here within 7 days (share)",
    "stopped": "Stopped for good (users)",
    "entropy": "Genre entropy, clicks (bits)",
}
"""What is drawn by day: column and label. Satisfaction is the mean mood of the day's visits."""
POPULATION = {
    "members": "Members at night",
    "heard": "Opinions heard",
    "trace_divide": "Distance of two camps (SD)",
}
"""What is drawn besides where the users are a population: columns of ``population.parquet``."""


@dataclass(slots=True)
class Sums:
    """What is known of one cell: sums over D days and over U users; everything can be added to part by part."""

    days: int
    parts: int
    visits: np.ndarray[tuple[int, int], np.dtype[np.int32]]  # (U, D)
    clicks: np.ndarray[tuple[int], np.dtype[np.int64]]  # (D,)
    mood: np.ndarray[tuple[int], np.dtype[np.float64]]  # (D,), sum over visits
    stopped: np.ndarray[tuple[int], np.dtype[np.int64]]  # (D,)
    genres: np.ndarray[tuple[int, int], np.dtype[np.float64]]  # (D, C)
    society: np.ndarray[tuple[int, int], np.dtype[np.float64]]  # (D, columns of POPULATION), NaN without a population
    user_clicks: np.ndarray[tuple[int], np.dtype[np.int64]]  # (U,)
    user_mood: np.ndarray[tuple[int], np.dtype[np.float32]]  # (U,), of the latest visit
    user_stopped: np.ndarray[tuple[int], np.dtype[np.int32]]  # (U,), day, -1 where it has not
    trending: np.ndarray[tuple[int, int], np.dtype[np.int64]]  # (n, 2), items and how often, of the last evening's list

    @classmethod
    def empty(cls, n_users: int, n_days: int, n_genres: int) -> Sums:
        """Nothing read yet."""
        return cls(
            0, 0, np.zeros((n_users, n_days), np.int32), np.zeros(n_days, np.int64), np.zeros(n_days),
            np.zeros(n_days, np.int64), np.zeros((n_days, n_genres)),
            np.full((n_days, len(POPULATION)), np.nan),
            np.zeros(n_users, np.int64), np.full(n_users, np.nan, np.float32), np.full(n_users, -1, np.int32),
            np.zeros((0, 2), np.int64),
        )  # fmt: skip


class Figures:
    """Figures of all cells of a run folder, as far as they are committed.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.n_days = int(run.manifest["scenario"]["days"])
        self.n_users = int((run.users["seed"] == run.users["seed"].iloc[0]).sum())
        _, self._genres = category_matrix(run.items["categories"])
        self._sums: dict[Cell, Sums] = {}
        self._lock, self._pen = threading.Lock(), threading.Lock()  # reading need not wait for drawing
        self._drawn: dict[int, tuple[object, str]] = {}

    def sums(self, cell: Cell) -> Sums:
        """A cell's sums, with all that is committed now."""
        with self._lock:
            return self._updated(cell, self.run.progress())

    def _updated(self, cell: Cell, progress: dict[str, dict[str, int]]) -> Sums:
        name = cell_name(*cell)
        sums = self._sums.get(cell) or Sums.empty(self.n_users, self.n_days, self._genres.shape[1])
        state = progress.get(name)
        if state is not None and state["days"] > sums.days:
            self._read(sums, name, state["days"])
            sums.days, sums.parts = state["days"], state["parts"]
        self._sums[cell] = sums
        return sums

    def _read(self, sums: Sums, name: str, days: int) -> None:
        """Adds the days of a cell that have not been read, and no day that is committed in this very moment."""

        def rows(table: str, columns: list[str]) -> pd.DataFrame:
            frame = self.run.table(table, ["day", *columns], name, first_part=sums.parts)
            return frame[frame["day"].between(sums.days, days - 1)]

        s = rows("sessions", ["session", "user", "n_clicks", "satisfaction", "churned"])
        s = s.sort_values(["day", "session"], kind="stable")
        day, user, clicks = (s[c].to_numpy(np.int64) for c in ("day", "user", "n_clicks"))
        mood, gone = s["satisfaction"].to_numpy(np.float32), s["churned"].to_numpy(np.bool_)
        np.add.at(sums.visits, (user, day), 1)
        np.add.at(sums.clicks, day, clicks)
        np.add.at(sums.mood, day, mood)
        np.add.at(sums.stopped, day[gone], 1)
        np.add.at(sums.user_clicks, user, clicks)
        sums.user_mood[user] = mood  # of one user's visits the latest stands last
        sums.user_stopped[user[gone]] = day[gone]
        shown = rows("impressions", ["item", "clicked"])
        hits: BoolArray = shown["clicked"].to_numpy(np.bool_)
        shown_on, items = (shown[c].to_numpy(np.int64)[hits] for c in ("day", "item"))
        sums.genres += category_mass(shown_on, items, self._genres, self.n_days)
        society = rows("population", [*POPULATION])
        sums.society[society["day"].to_numpy(np.int64)] = society[[*POPULATION]].to_numpy(np.float64)
        listed = rows("trends", ["rank", "item", "watched"])
        listed = listed[listed["day"] == days - 1].sort_values("rank")
        sums.trending = listed[["item", "watched"]].to_numpy(np.int64)

    def trends(self, cell: Cell) -> Trends:
        """What was watched most of late in a cell, on its last committed evening."""
        sums = self.sums(cell)
        return tell_trends(self.run, cell, sums.days - 1, sums.trending)

    def by_day(self, seed: int) -> pd.DataFrame:
        """What :data:`PANELS` name, for every committed day of every recommender under a seed.

        Returns:
            ``recommender, day``, the columns of :data:`PANELS` and :data:`POPULATION`.
        """
        with self._lock:
            progress = self.run.progress()
            cells = [cell for cell in self.run.cells if cell[1] == seed]
            frames = [self._frame(cell[0], self._updated(cell, progress)) for cell in cells]
        return pd.concat(frames, ignore_index=True)

    def _frame(self, name: str, sums: Sums) -> pd.DataFrame:
        days = slice(0, sums.days)
        there = sums.visits > 0
        week = there.copy()
        for back in range(1, min(WEEK, self.n_days)):
            week[:, back:] |= there[:, :-back]
        visits = sums.visits.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns = {
                "came": there.sum(axis=0),
                "clicks_per_visit": sums.clicks / visits,
                "satisfaction": sums.mood / visits,
                "active": week.mean(axis=0),
                "stopped": np.cumsum(sums.stopped),
                "entropy": entropy(sums.genres),
                **dict(zip(POPULATION, sums.society.T, strict=True)),
            }
        return pd.DataFrame(
            {"recommender": name, "day": np.arange(sums.days)} | {key: value[days] for key, value in columns.items()}
        )

    def svg(self, seed: int) -> str:
        """The curves of a seed as an SVG element; drawn anew only when there is something new."""
        series = self.by_day(seed)
        shape = tuple(series["recommender"].value_counts(sort=False).items())
        with self._pen:  # matplotlib's settings are global
            if seed not in self._drawn or self._drawn[seed][0] != shape:
                panels = PANELS | (POPULATION if series["members"].notna().any() else {})
                self._drawn[seed] = (shape, plots.svg(plots.panels_by_day(series, panels)))
            return self._drawn[seed][1]

    def mindset_svg(self, pages: pd.DataFrame) -> str:
        """Mood, boredom and trust of one user after each page, as an SVG element."""
        with self._pen:
            return plots.svg(plots.mindset_by_page(pages))
