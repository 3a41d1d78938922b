"""A user's days in the terminal, page by page; also while the run is being written.

:func:`tell` and :func:`follow` give events; ``recsim_env.watch_page`` makes of them what rich can print.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from recsim_env.errors import RunFolderError, UnknownNameError
from recsim_env.evaluation.choice import best_user, find_user
from recsim_env.evaluation.story import Day, Person, tell_days, tell_person
from recsim_env.evaluation.tables import Cell
from recsim_env.rundir import Run, cell_name, is_written


@dataclass(frozen=True, slots=True)
class Wish:
    """What to watch; None leaves the choice to :func:`recsim_env.evaluation.choice.best_user`.

    Attributes:
        recommender: Label of a recommender.
        seed: Seed of a replication.
        user: A row number, a ``user_id``, or ``id:`` and a ``user_id``.
        day: The only day to tell.
    """

    recommender: str | None = None
    seed: int | None = None
    user: str | None = None
    day: int | None = None


@dataclass(frozen=True, slots=True)
class Quiet:
    """Days, from the first to the last, on which the user did not open the app and heard nothing."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Note:
    """A line about the run; ``waiting`` where more days will come."""

    text: str
    waiting: bool = False


Event: TypeAlias = Person | Day | Quiet | Note


def tell(path: Path, wish: Wish) -> Iterator[Event]:
    """What is committed of a user's days: who it is, then its days, then how the run stands if it is not complete.

    Raises:
        RunFolderError: If the folder is no run, or nothing that was wished for is committed yet.
        UnknownNameError: If the run has no such recommender, seed or user.
    """
    status = run_status(path)
    if status == "preparing":
        raise RunFolderError(f"{path}: the run is being prepared. --follow waits for its days.")
    run = Run(path)
    cells, users = _asked(run, wish)
    progress = run.progress()
    found = _choose(run, wish, cells, users, progress)
    if found is None:
        raise RunFolderError(_nothing_yet(run, wish, cells, progress, status))
    person = tell_person(run, *found)
    yield person
    state = progress[cell_name(*person.cell)]
    days = range(state["days"]) if wish.day is None else range(wish.day, wish.day + 1)
    yield from _Diary(person).events(tell_days(run, person, days))
    if status != "complete":
        yield Note(_end(run, status))


def follow(
    path: Path, wish: Wish, interval: float = 2.0, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Event]:
    """A user's days as they are committed, until the run, or this part of it, has ended.

    Where no recommender or seed is wished for, it looks at the combination that is being simulated.

    Args:
        path: The run folder.
        wish: What to watch.
        interval: Seconds between two looks.
        sleep: Waits so many seconds.

    Raises:
        RunFolderError: If the folder is no run.
        UnknownNameError: If the run has no such recommender, seed or user.
    """
    said = ""
    while (status := run_status(path)) == "preparing":
        if not said:
            yield Note(said := "The run is being prepared ...", waiting=True)
        sleep(interval)
    run, diary = Run(path), None
    cells, users = _asked(run, wish)
    free = wish.recommender is None and wish.seed is None
    while True:
        progress = run.progress()  # after the status: what ended before this look is read whole
        if diary is None:
            open_ = _unfinished(cells, progress) if status == "running" and free else cells
            if (found := _choose(run, wish, open_, users, progress)) is not None:
                diary = _Diary(tell_person(run, *found))
                yield diary.person
        if diary is not None:
            yield from diary.news(run, progress, wish.day)
        if status != "running":
            yield Note(_end(Run(path), status))
            return
        if diary is not None and diary.is_full(progress, wish.day, _unfinished(run.cells, progress)):
            yield Note(f"{diary.whole(wish.day)}; the run goes on.")
            return
        if (text := _waiting_for(diary, cells, progress)) != said:
            yield Note(said := text, waiting=True)
        sleep(interval)
        status = run_status(path)


class _Diary:
    """How far a user's days have been told."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self._days = self._parts = self._bytes = 0
        self._gone = False

    def news(self, run: Run, progress: Mapping[str, Any], only: int | None) -> Iterator[Event]:
        """The days that were committed since the last call."""
        state = progress.get(cell_name(*self.person.cell))
        if state is None or state["days"] <= self._days:
            return
        days = range(self._days, state["days"])
        if only is not None:
            days = range(only, only + 1) if only in days else range(0)
        if days:
            yield from self.events(tell_days(run, self.person, days, self._parts, self._bytes))
        self._days, self._parts = state["days"], state["parts"]
        self._bytes = max(s["messages"] for s in progress.values())

    def is_full(self, progress: Mapping[str, Any], only: int | None, unfinished: list[Cell]) -> bool:
        """Whether nothing more will come, although others are not finished."""
        if only is not None:
            return self._days > only
        return _is_done(self.person.cell, progress) and bool(unfinished)

    def whole(self, only: int | None) -> str:
        """That everything of this user has been told."""
        days = f"all {self._days} days" if only is None else f"day {only}"
        return f"That was {days} under {self.person.recommender}, seed {self.person.seed}"

    def events(self, days: Iterable[Day]) -> Iterator[Event]:
        """Days one by one, empty ones drawn together; none after the user stopped for good, unless it heard things."""
        quiet: list[int] = []
        for day in days:
            if day.visits or day.talks:
                yield from _quiet(quiet)
                quiet = []
                yield day
            elif not self._gone:
                quiet.append(day.day)
            self._gone |= day.churned
        yield from _quiet(quiet)


def _quiet(days: list[int]) -> Iterator[Quiet]:
    if days:
        yield Quiet(days[0], days[-1])


def run_status(path: Path) -> str:
    """The manifest's status; ``preparing`` before there is one, ``killed`` where it says running and nobody writes."""
    if not (path / "manifest.json").exists() and is_written(path):
        return "preparing"
    status = str(Run(path).manifest.get("status", "unknown"))
    if status == "running" and not is_written(path):
        status = str(Run(path).manifest.get("status", "unknown"))  # it may have ended between the two looks
        status = "killed" if status == "running" else status
    return status


def _asked(run: Run, wish: Wish) -> tuple[list[Cell], dict[int, int | None]]:
    """The cells that a wish allows, and by seed the row of its user, None for any.

    Raises:
        RunFolderError: If the run has no such day.
        UnknownNameError: If the run has no such recommender, seed or user.
    """
    cells, where = run.cells, str(run.path)
    for kind, wanted, place in (("recommender", wish.recommender, 0), ("seed", wish.seed, 1)):
        if wanted is not None:
            if wanted not in {cell[place] for cell in cells}:
                raise UnknownNameError(kind, str(wanted), {str(cell[place]) for cell in cells}, where)
            cells = [cell for cell in cells if cell[place] == wanted]
    n_days = int(run.manifest["scenario"]["days"])
    if wish.day is not None and not 0 <= wish.day < n_days:
        raise RunFolderError(f"{run.path} has no day {wish.day}: its days are 0 to {n_days - 1}.")
    seeds = list(dict.fromkeys(seed for _, seed in cells))
    if wish.user is None:
        return cells, dict.fromkeys(seeds)
    rows = find_user(run.users, seeds, wish.user)
    return [cell for cell in cells if cell[1] in rows], {**rows}


def _choose(
    run: Run, wish: Wish, cells: list[Cell], users: Mapping[int, int | None], progress: Mapping[str, Any]
) -> tuple[Cell, int] | None:
    """The cell and the user to tell of; None while nothing that was wished for is committed."""
    least = 1 if wish.day is None else wish.day + 1
    ready = [cell for cell in cells if progress.get(cell_name(*cell), {}).get("days", 0) >= least]
    return best_user(run, ready, users, wish.day) if ready else None


def _is_done(cell: Cell, progress: Mapping[str, Any]) -> bool:
    return bool(progress.get(cell_name(*cell), {}).get("done", False))


def _unfinished(cells: list[Cell], progress: Mapping[str, Any]) -> list[Cell]:
    return [cell for cell in cells if not _is_done(cell, progress)]


def _waiting_for(diary: _Diary | None, cells: list[Cell], progress: Mapping[str, Any]) -> str:
    """What has to be committed next."""
    if diary is not None and _is_done(diary.person.cell, progress):
        return "Waiting for the run to end ..."
    cell = diary.person.cell if diary is not None else (_unfinished(cells, progress) or cells)[0]
    day = progress.get(cell_name(*cell), {}).get("days", 0)
    return f"Waiting for day {day} of {cell[0]}, seed {cell[1]} ..."


def _nothing_yet(run: Run, wish: Wish, cells: list[Cell], progress: Mapping[str, Any], status: str) -> str:
    """Why there is nothing to tell, and what to do."""
    what = "no day" if wish.day is None else f"day {wish.day}"
    whose = " or ".join(f"{name}, seed {seed}" for name, seed in cells[:3]) + (" ..." if len(cells) > 3 else "")
    most = max((progress.get(cell_name(*cell), {}).get("days", 0) for cell in cells), default=0)
    has = f" (stored: days 0 to {most - 1})" if most else ""
    is_ = "is committed yet" if wish.day is None else "is not committed yet"
    todo = "--follow waits for it." if status == "running" else _end(run, status)
    return f"{run.path}: {what} of {whose} {is_}{has}. {todo}"


def _end(run: Run, status: str) -> str:
    """How a run stands."""
    planned, progress = run.cells, run.progress()
    n_done = len(planned) - len(_unfinished(planned, progress))
    parts = f"{n_done} of {len(planned)} combinations of recommender and seed are done"
    resume = f"go on with --resume --out {run.path}"
    if status == "complete":
        return f"The run is complete: {parts}."
    if status == "running":
        return f"The run is going on: {parts}; --follow waits for more."
    if status == "killed":
        return f"The run was stopped: {parts}, and nobody writes it; {resume}."
    error = f" ({run.manifest['error']})" if run.manifest.get("error") else ""
    return f"The run is {status}{error}: {parts}; {resume}."
