"""Days and sessions: who opens the app, who comes back, who stops for good.

No rating data shows sessions, so this is a declared assumption, the same for every user model: satisfaction is a
moving average of the mood in which sessions were spent; it moves the log-odds of opening the app and of stopping.
"""

from __future__ import annotations

import numpy as np

from recsim_env.draws import Draws
from recsim_env.records import BoolArray, FloatArray, IntArray
from recsim_env.scenario import CalendarSection


class Calendar:
    """Return and churn of U users.

    Args:
        section: Settings.
        activity: float32 (U,), probability that a neutral user opens the app on a day.
        draws: Draws of the run.

    Attributes:
        satisfaction: float32 (U,) in [-1, 1].
        churned: bool (U,), stopped for good.
        joined: int64 (U,), day on which the user became one, 0 unless a population says otherwise.
    """

    def __init__(self, section: CalendarSection, activity: FloatArray, draws: Draws) -> None:
        self.section, self.draws = section, draws
        self._log_odds = np.log(activity / (1.0 - activity)).astype(np.float32)
        n = len(activity)
        self.satisfaction = np.zeros(n, np.float32)
        self.churned = np.zeros(n, np.bool_)
        self.joined = np.zeros(n, np.int64)
        self._life = np.zeros(n, np.int64)

    def reset_rows(self, rows: IntArray) -> None:
        """Starts a new life of some users, with fresh luck."""
        self._life[rows] += 1
        self.satisfaction[rows] = 0.0
        self.churned[rows] = False

    def _luck(self, purpose: str, rows: IntArray, day: int | IntArray, session: int | IntArray) -> FloatArray:
        return self.draws.uniform(purpose, rows + (self._life[rows] << 40), day, session)

    def opens(self, rows: IntArray, day: int | IntArray, session: int | IntArray) -> BoolArray:
        """Which users open the app on a day for the given time (session 0 is the first), bool (n,).

        For sessions after the first, ask only for users who had the one before.
        """
        s = self.section
        first = self._p_open(rows)
        if s.first_day_all:
            first = np.where(np.asarray(day) == self.joined[rows], 1.0, first)
        later = s.again * np.clip(1.0 + self.satisfaction[rows], 0.0, 1.0)
        chance = np.where(np.asarray(session) == 0, first, later)
        return np.asarray((self._luck("open", rows, day, session) < chance) & ~self.churned[rows])

    def close(
        self, rows: IntArray, day: int | IntArray, session: int | IntArray, mood: FloatArray
    ) -> BoolArray:  # fmt: skip
        """Ends a session: satisfaction moves, and the user may stop for good.

        Args:
            rows: int (n,), the users.
            day: Their day.
            session: Number of the session that ends.
            mood: float (n,), mean mood of the session in [-1, 1].

        Returns:
            Which of them stop now, bool (n,).
        """
        s = self.section
        self.satisfaction[rows] = s.memory * self.satisfaction[rows] + (1.0 - s.memory) * mood
        stops = self._luck("churn", rows, day, session) < self._p_stop(rows)
        self.churned[rows] |= stops
        return np.asarray(stops)

    def p_return(self, rows: IntArray) -> FloatArray:
        """Probability, before any luck, that users whose session has just ended open the app on the next day, (n,)."""
        return (1.0 - self._p_stop(rows)) * self._p_open(rows)

    def _p_open(self, rows: IntArray) -> FloatArray:
        odds = self._log_odds[rows] + self.section.loyalty * self.satisfaction[rows]
        return np.asarray(1.0 / (1.0 + np.exp(-odds)))

    def _p_stop(self, rows: IntArray) -> FloatArray:
        s = self.section
        if s.churn in (0.0, 1.0):
            return np.full(len(rows), s.churn)
        log_odds = np.log(s.churn / (1.0 - s.churn)) - s.churn_slope * self.satisfaction[rows]
        return np.asarray(1.0 / (1.0 + np.exp(-log_odds)))
