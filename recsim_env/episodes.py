"""Who sits in which slot of the environment, and where an episode begins and ends.

Slot i serves the users at places i, i + num_envs, i + 2 num_envs, ... of an order of the population, one per episode,
then from the front again with fresh luck. So no two slots ever share a user.
"""

from __future__ import annotations

import numpy as np

from recsim_env.errors import ScenarioError
from recsim_env.records import BoolArray, IntArray, ObservationBatch
from recsim_env.scenario import Scenario
from recsim_env.simulator import Outcome, Simulator

NO_LIMIT = 2**20 - 1
"""More pages than any session has."""
WEEK = 7
"""Days that are looked ahead at once."""


class Episodes:
    """Episodes of ``num_envs`` slots over one simulator.

    Args:
        scenario: Says what an episode is.
        simulator: At its start.
        num_envs: Number of slots, at most the population.

    Attributes:
        rows: int64 (num_envs,), the user in each slot.
    """

    def __init__(self, scenario: Scenario, simulator: Simulator, num_envs: int) -> None:
        self.scenario, self.simulator, self.num_envs = scenario, simulator, num_envs
        if scenario.episode == "session":
            # The longest session is then the limit of the episode, which the user must not notice: a truncation.
            simulator.max_turns = NO_LIMIT
        self.rows = np.arange(num_envs)
        self._lived = np.zeros(simulator.users.n_users, np.bool_)
        self.line_up(np.zeros(0, np.int64))

    def line_up(self, users: IntArray) -> None:
        """Puts some users to the front of the order in which the population is served."""
        everybody = np.arange(len(self._lived))
        self._order = np.concatenate([users, np.setdiff1d(everybody, users)])
        self._place = np.arange(self.num_envs) - self.num_envs

    def begin(self, slots: IntArray) -> None:
        """Starts the next episode of some slots: their next users open the app for the first time.

        A user who opens the app on none of the days has no episode, and the next one takes the slot.

        Raises:
            ScenarioError: If nobody ever opens the app.
        """
        for _ in range(1000):
            place = self._place[slots] + self.num_envs
            self._place[slots] = np.where(place < len(self._order), place, slots)
            rows = self._order[self._place[slots]]
            again = rows[self._lived[rows]]
            if again.size:
                self.simulator.reset_rows(again)
            self._lived[rows] = True
            self.rows[slots] = rows
            start = np.zeros(len(rows), np.int64)
            if self.scenario.episode == "session":
                self.simulator.open(rows, 0, 0)
                return
            slots = slots[~self._open_next(rows, start, start)]
            if not slots.size:
                return
        raise ScenarioError(
            f"No user opens the app within {self.scenario.days} days. Set calendar.first_day_all, or more days."
        )

    def go_on(self, obs: ObservationBatch, outcome: Outcome) -> tuple[BoolArray, BoolArray]:
        """Ends episodes after a turn, and opens the next session of users whose life goes on.

        Returns:
            Terminated and truncated, each bool (num_envs,).
        """
        if self.scenario.episode == "session":
            return outcome.left, ~outcome.left & (obs.turn + 1 >= self.scenario.max_turns)
        truncated = np.zeros(obs.n, np.bool_)
        away = np.flatnonzero(outcome.left & ~outcome.churned)
        if away.size:
            day, session = obs.day[away].astype(np.int64), obs.session[away].astype(np.int64) + 1
            full = session >= self.scenario.calendar.max_sessions
            truncated[away] = ~self._open_next(self.rows[away], day + full, np.where(full, 0, session))
        return outcome.churned, truncated

    def _open_next(self, rows: IntArray, day: IntArray, session: IntArray) -> BoolArray:
        """Opens each user's next session, asked for from (day, session) on; False where the days are over first."""
        days = self.scenario.days
        opened = np.zeros(len(rows), np.bool_)
        day, session = day.copy(), session.copy()
        asked = np.flatnonzero(day < days)
        while asked.size:  # whole weeks at a time: satisfaction does not change while nobody is there
            ahead = day[asked, None] + np.arange(WEEK)
            number = np.zeros_like(ahead)
            number[:, 0] = session[asked]
            who = np.repeat(rows[asked], WEEK)
            opens = self.simulator.calendar.opens(who, ahead.ravel(), number.ravel()).reshape(ahead.shape)
            opens &= ahead < days
            first, comes = opens.argmax(axis=1), opens.any(axis=1)
            opened[asked] = comes
            day[asked] = np.where(comes, day[asked] + first, day[asked] + WEEK)
            session[asked] = np.where(comes & (first == 0), session[asked], 0)
            asked = asked[~comes & (day[asked] < days)]
        self.simulator.open(rows[opened], day[opened], session[opened])
        return opened
