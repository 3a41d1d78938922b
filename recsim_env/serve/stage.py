"""Where the simulation and the page meet: start, pause, step, and one seat.

The simulation runs in its own thread and calls :meth:`Stage.on_progress` and, for a person, :meth:`Stage.react`; both
wait here. The page's threads call everything else. Nothing is shared but what stands in this class, under one lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recsim_env.errors import SeatError
from recsim_env.evaluation.tables import Cell
from recsim_env.interfaces import UserModel
from recsim_env.runner import Progress
from recsim_env.seat import Moment, Reaction, Served

Going = Literal["on", "paused", "step"]


@dataclass(frozen=True, slots=True)
class State:
    """The stage at one moment.

    Attributes:
        going: ``on``, ``paused``, or ``step``: to the end of this day.
        at: How far the run is; None while data and users are prepared.
        cell: The cell that is simulated, None before the first.
        seat: Cell and user of the seat that is taken, or None.
        served: The page that waits for the person, or None.
        ended: Whether the simulation is over, however it ended.
        freed: Why the last seat was given up without the person's doing, "" where it was not.
    """

    going: Going
    at: Progress | None
    cell: Cell | None
    seat: tuple[Cell, int] | None
    served: Served | None
    ended: bool
    freed: str


class Stage:
    """Start, pause, step, and one seat; a :class:`recsim_env.seat.Person` for the runner.

    Args:
        cells: The run's cells in their order.
        n_users: Users of every cell.
        pace: Seconds that a day lasts at least.
        begin: Start at once instead of waiting for somebody to start it.
    """

    def __init__(self, cells: Sequence[Cell], n_users: int, pace: float = 0.0, begin: bool = False) -> None:
        self.cells, self.n_users, self.pace = list(cells), n_users, pace
        self._turn = threading.Condition()
        self._going: Going = "on" if begin else "paused"
        self._at: Progress | None = None
        self._seat: tuple[Cell, int] | None = None
        self._served: Served | None = None
        self._answer: Reaction | None = None
        self._ended, self._freed = False, ""
        self._users: tuple[Cell, UserModel] | None = None

    # What the simulation calls.

    def on_progress(self, at: Progress) -> None:
        """Takes note; waits while the run is paused, and lets no day be shorter than the pace."""
        with self._turn:
            before, self._at = self._at, at
            fresh = before is None or (before.cell, before.day) != (at.cell, at.day)
            if self._seat is not None and self._seat[0] != self.cells[at.cell]:
                self._free(f"The days under {self._seat[0][0]}, seed {self._seat[0][1]}, are over.")
            if at.day == at.days:
                return  # the last day is committed after this call, and the next cell begins with another
            if fresh and before is not None and self._going == "step":
                self._going = "paused"
            until = time.monotonic() + self.pace
            while self._going == "paused" or (fresh and self._going == "on" and time.monotonic() < until):
                self._turn.wait(None if self._going == "paused" else until - time.monotonic())

    def meet(self, cell: Cell, users: UserModel) -> None:
        """A cell begins with these users."""
        self._users = (cell, users)

    def seats(self, cell: Cell) -> Sequence[int]:
        """The user whose seat is taken, if it is one of this cell."""
        seat = self._seat
        return () if seat is None or seat[0] != cell else (seat[1],)

    def react(self, served: Served) -> Reaction | None:
        """Puts a page before the person and waits; None where it gives the seat back."""
        with self._turn:
            seat = (served.moment.cell, served.moment.user)
            self._served, self._answer = served, None
            try:
                while self._answer is None and self._seat == seat:
                    self._turn.wait()
                return self._answer
            finally:
                self._served = self._answer = None

    def end(self) -> None:
        """The simulation is over."""
        with self._turn:
            self._ended = True
            if self._seat is not None:
                self._free("The run is over.")

    def _free(self, why: str) -> None:
        self._seat, self._freed = None, why
        self._turn.notify_all()

    # What the page calls.

    def state(self) -> State:
        """What there is to show."""
        with self._turn:
            cell = None if self._at is None else self.cells[self._at.cell]
            return State(self._going, self._at, cell, self._seat, self._served, self._ended, self._freed)

    def users(self, cell: Cell) -> UserModel | None:
        """The minds of a cell's users, until another cell's days begin; None before and after.

        The simulation may be at work on them: what is read of them is as it stood at some moment of this turn.
        """
        users = self._users
        return None if users is None or users[0] != cell else users[1]

    def go(self, going: Going) -> None:
        """Starts, pauses, or goes on to the end of the day."""
        with self._turn:
            self._going = going
            self._turn.notify_all()

    def take(self, cell: Cell, user: int) -> None:
        """Takes a user's seat: from its next visit on a person decides.

        Raises:
            SeatError: If the seat cannot be taken now.
        """
        with self._turn:
            now = self.cells[0] if self._at is None else self.cells[self._at.cell]
            if self._ended:
                raise SeatError("The run is over: its seats cannot be taken any more.")
            if self._seat is not None and self._seat != (cell, user):
                raise SeatError(f"User {self._seat[1]}'s seat is taken. Give it back before you take another.")
            if cell != now:
                raise SeatError(
                    f"{cell[0]}, seed {cell[1]}, is not being simulated. Take a seat under {now[0]}, seed {now[1]}."
                )
            if not 0 <= user < self.n_users:
                raise SeatError(f"There is no user {user}. Users are numbered from 0 to {self.n_users - 1}.")
            self._seat, self._freed = (cell, user), ""
            self._turn.notify_all()

    def leave(self) -> None:
        """Gives the seat back: the user leaves the app, and from its next visit on the user model decides."""
        with self._turn:
            self._seat, self._freed = None, ""
            self._turn.notify_all()

    def answer(self, moment: Moment, reaction: Reaction) -> None:
        """The person's reaction to the page that waits.

        Raises:
            SeatError: If another page waits, or none, or the reaction does not fit it.
        """
        with self._turn:
            if self._served is None or self._served.moment != moment or self._answer is not None:
                raise SeatError("This page has been answered already, perhaps in another tab, or its visit is over.")
            self._served.check(reaction)
            self._answer = reaction
            self._turn.notify_all()
