"""Creators as Mesa agents: they publish items over the days, and stop when nobody sees them.

As users are (:mod:`recsim_env.population`), an agent is a handle on one row of arrays; Mesa holds who is still active.
All items exist from the start, but those that are not published yet are held back: recommenders have no ratings of
them, and they are neither shown nor found. What was published stays when its creator has stopped.

creators = Creators(simulator, scenario.creators)
creators.morning(day)     # some publish their next item
creators.see(slate, feedback)
creators.evening(writer)  # those whom too few saw stop
"""

from __future__ import annotations

import mesa
import numpy as np

from recsim_env.records import Feedback, IntArray, SlateBatch
from recsim_env.rundir import CellWriter
from recsim_env.scenario import CreatorsSection
from recsim_env.simulator import Simulator


class Creator(mesa.Agent):  # type: ignore[misc]
    """An active creator: a handle on one row.

    Attributes:
        row: Number of the creator.
    """

    def __init__(self, model: Creators, row: int) -> None:
        super().__init__(model)
        self.row = row

    @property
    def items(self) -> list[int]:
        """Item indices that it has published, in that order."""
        start = self.model.works.offsets[self.row]
        return self.model.works.items[start : start + self.model.published[self.row]].tolist()

    @property
    def exposure(self) -> int:
        """Impressions of its items in the last ``patience`` days, today included."""
        return int(self.model.exposure[self.row])


class Creators(mesa.Model):  # type: ignore[misc]
    """The creators of a catalogue, and their days.

    Args:
        simulator: At its start; it knows who made what, and is told what is on offer.
        section: Settings.

    Attributes:
        day: The day that is lived, -1 before the first.
        works: Who made which item.
        active: bool (C,), publishes still.
        published: int64 (C,), how many of its items are on offer.
    """

    def __init__(self, simulator: Simulator, section: CreatorsSection) -> None:
        super().__init__(rng=np.random.default_rng(abs(simulator.draws.seed)))
        assert simulator.works is not None, "somebody must have made the items"
        self.section, self.draws, self.works, self._simulator = section, simulator.draws, simulator.works, simulator
        n = self.works.n_creators
        self.day = -1
        self.active = np.ones(n, np.bool_)
        self.published = self.works.opening.copy()
        self._maker = np.append(self.works.creator, n)  # padding of a slate is nobody's
        self._shown = np.zeros((section.patience, n), np.int64)  # by day, the oldest is overwritten
        self._clicked = np.zeros(n, np.int64)
        self._told = np.zeros(n, np.int64)  # publications whose rows stand in the run folder
        self._handles = [Creator(self, row) for row in range(n)]

    @property
    def exposure(self) -> IntArray:
        """Impressions of each creator's items in the last ``patience`` days, int64 (C,)."""
        return self._shown.sum(axis=0)

    def morning(self, day: int) -> None:
        """Begins a day: from the second on, active creators publish their next item with some probability."""
        assert day == self.day + 1, "days are lived one after another"
        self.day = day
        self._shown[day % self.section.patience] = 0
        self._clicked[:] = 0
        if day:
            luck = self.draws.uniform("publish", np.arange(len(self.active)), day)
            ready = self.active & (luck < self.section.publish) & (self.published < self.works.lengths)
            self.published = self.published + ready
            if ready.any():
                self._simulator.offer(self.works.on_offer(self.published))

    def see(self, slate: SlateBatch, feedback: Feedback) -> None:
        """Counts what was shown and clicked on one page of some users."""
        n = len(self.active)
        makers = self._maker[slate.items]
        self._shown[self.day % self.section.patience] += np.bincount(makers.ravel(), minlength=n + 1)[:n]
        self._clicked += np.bincount(makers[feedback.clicked], minlength=n + 1)[:n]

    def evening(self, writer: CellWriter | None = None) -> None:
        """Ends a day: who was shown too little in the last ``patience`` days stops for good.

        Args:
            writer: Gets the day's rows, unless it has them already.
        """
        if self.day + 1 >= self.section.patience:
            self._stop(np.flatnonzero(self.active & (self.exposure < self.section.least)))
        if writer is not None and self.day >= writer.committed_days:
            self._write(writer)
        self._told = self.published

    def close(self) -> None:
        """Lets go of the agents: Mesa keeps every model that ever numbered an agent."""
        getattr(mesa.Agent, "_ids", {}).pop(self, None)
        self._handles.clear()

    def _stop(self, rows: IntArray) -> None:
        self.active[rows] = False
        for row in rows.tolist():
            self._handles[row].remove()

    def _write(self, writer: CellWriter) -> None:
        n = len(self.active)
        columns = {
            "creator": np.arange(n), "active": self.active.copy(), "items": self.published,
            "shown": self._shown[self.day % self.section.patience].copy(), "clicked": self._clicked.copy(),
        }  # fmt: skip
        writer.add("creators", n, {"day": self.day, **columns})
        new = np.setdiff1d(self.works.on_offer(self.published), self.works.on_offer(self._told))
        if new.size:
            writer.add("releases", len(new), {"day": self.day, "creator": self._maker[new], "item": new})
