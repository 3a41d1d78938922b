"""The run folder that the page shows, and the simulation that writes it, if that is this process's."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request

from recsim_env.errors import RecsimError
from recsim_env.evaluation.story import names_of, population
from recsim_env.evaluation.tables import Cell
from recsim_env.interfaces import UserModel
from recsim_env.rundir import Run, cell_name, is_written
from recsim_env.serve.figures import Figures
from recsim_env.serve.stage import Stage, State
from recsim_env.watch import run_status


@dataclass(frozen=True, slots=True)
class Now:
    """How things stand, for templates.

    Attributes:
        path: The run folder.
        name: The scenario's name.
        description: What the scenario says of itself.
        status: The manifest's status, or ``preparing``, ``killed``.
        error: Why the run ended, "" where it did not fail.
        done: Cells that are complete.
        cells: All cells.
        day: Committed days of the cell that is simulated.
        days: Days of a cell.
        cell: The cell that is simulated, or was last; None before the first.
        stage: Controls and seat, None where this process simulates nothing.
        people: By cell, users in whose seats a person sat.
        engine: What the language model was asked, in words; "" without one.
    """

    path: Path
    name: str
    description: str
    status: str
    error: str
    done: int
    cells: list[Cell]
    day: int
    days: int
    cell: Cell | None
    stage: State | None
    people: dict[Cell, tuple[int, ...]]
    engine: str


@dataclass(frozen=True, slots=True)
class Row:
    """One user in a list."""

    user: int
    user_id: str
    name: str
    visits: int
    clicks: int
    last_day: int | None
    mood: float | None
    stopped: int | None
    person: bool


class Site:
    """A run folder that is read again and again.

    Args:
        path: The folder.
        stage: Where the simulation is controlled, None where others write the folder, or nobody.
    """

    def __init__(self, path: Path, stage: Stage | None) -> None:
        self.path, self.stage = path, stage
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._figures: Figures | None = None

    def run(self) -> Run | None:
        """The run with its latest manifest; None while it is being prepared."""
        with self._lock:
            if self._run is None:
                if not (self.path / "progress.json").exists():  # written after items and users
                    return None
                self._run = Run(self.path)
            self._run.manifest = json.loads((self.path / "manifest.json").read_text())
            return self._run

    def figures(self) -> Figures | None:
        """The run's figures; None while it is being prepared."""
        run = self.run()
        with self._lock:
            if self._figures is None and run is not None:
                self._figures = Figures(run)
            return self._figures

    def now(self) -> Now:
        """How things stand."""
        run, state = self.run(), None if self.stage is None else self.stage.state()
        if run is None:
            preparing = self.stage is not None and state is not None and not state.ended
            status = "preparing" if preparing or is_written(self.path) else "unknown"
            return Now(self.path, self.path.name, "", status, "", 0, [], 0, 0, None, state, {}, "")
        scenario, progress = run.manifest["scenario"], run.progress()
        cell = self._latest(run, progress)
        states = [progress.get(cell_name(*one), {}) for one in run.cells]
        day = 0 if cell is None else int(progress.get(cell_name(*cell), {}).get("days", 0))
        status = run_status(self.path)
        return Now(
            self.path, str(scenario["name"]), str(scenario.get("description", "")), status,
            str(run.manifest.get("error", "")) if status in ("failed", "interrupted") else "",
            sum(bool(one.get("done")) for one in states), run.cells, day, int(scenario["days"]), cell, state,
            run.people, _engine(state),
        )  # fmt: skip

    @staticmethod
    def _latest(run: Run, progress: dict[str, Any]) -> Cell | None:
        """The first cell that is not complete, the last one where all are."""
        left = [cell for cell in run.cells if not progress.get(cell_name(*cell), {}).get("done")]
        begun = [cell for cell in left if cell_name(*cell) in progress]
        return (begun or left or run.cells)[0 if left else -1]

    def cell_of(self, request: Request) -> Cell | None:
        """The cell that a request is about: ``cell`` of its query, or the one that is simulated.

        Raises:
            RecsimError: If there is no such cell.
        """
        run = self.run()
        if run is None:
            return None
        asked = request.query_params.get("cell", "")
        if not asked:
            return self._latest(run, run.progress())
        if not asked.isdecimal() or int(asked) >= len(run.cells):
            raise RecsimError(f"There is no combination {asked!r} of recommender and seed in this run.")
        return run.cells[int(asked)]

    def rows(self, cell: Cell, users: range) -> list[Row]:
        """Some users as lines of a list."""
        run, figures = self.run(), self.figures()
        assert run is not None, "a run that has users is there"
        assert figures is not None, "a run that has users is there"
        sums, ids = figures.sums(cell), population(run.users, cell[1])["user_id"].to_numpy()
        persons, rows = run.people.get(cell, ()), []
        for user, name in zip(users, names_of(run.users, cell[1], list(users)), strict=True):
            days = sums.visits[user].nonzero()[0]
            rows.append(
                Row(
                    user, str(ids[user]), name, int(sums.visits[user].sum()), int(sums.user_clicks[user]),
                    int(days[-1]) if len(days) else None, float(sums.user_mood[user]) if len(days) else None,
                    int(sums.user_stopped[user]) if sums.user_stopped[user] >= 0 else None, user in persons,
                )
            )  # fmt: skip
        return rows

    def minds(self, cell: Cell) -> UserModel | None:
        """What run folders do not keep of a cell's users; None where this process does not simulate them."""
        return None if self.stage is None else self.stage.users(cell)


def _engine(state: State | None) -> str:
    if state is None or state.at is None or state.at.engine is None:
        return ""
    usage = state.at.engine
    failures = sum(usage.failures.values())
    return f"{sum(usage.requests.values()):,} requests to the language model" + (
        f", {failures:,} of them failed" if failures else ""
    )
