"""Runs to be made and measured: what is asked, what became of it, how far all of them are."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsim_env.errors import RecsimError
from recsim_env.experiments.runs import complete
from recsim_env.rundir import Run, load_run
from recsim_env.runner import Progress
from recsim_env.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Job:
    """A run, and what is measured in its folder.

    Attributes:
        name: What progress and errors call it.
        scenario: The scenario.
        path: The run folder.
        measure: Reads the run folder; a function of a module, for it travels to workers by its name.
    """

    name: str
    scenario: Scenario
    path: Path
    measure: Callable[[Run], Any]

    @property
    def n_days(self) -> int:
        """Days of all cells together."""
        return self.scenario.days * len(self.scenario.recommenders) * self.scenario.replications


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job.

    Attributes:
        measured: What was measured, None if the job failed.
        error: What went wrong, in one line; "" if nothing did.
        trace: Where it went wrong, "" if our own errors say all that there is to say.
    """

    measured: Any = None
    error: str = ""
    trace: str = ""


def attempt(job: Job, report: Callable[[Progress], None]) -> Outcome:
    """Makes and measures a run; ``report`` is told after every day. No mistake in it reaches the caller."""
    try:
        return Outcome(job.measure(load_run(complete(job.scenario, job.path, report))))
    except RecsimError as error:
        return Outcome(error=str(error))
    except Exception as error:  # a plug-in's mistake, a full memory: other runs may still succeed
        return Outcome(error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())


class Board:
    """Tells the progress of all jobs as that of one run with as many days as they have together."""

    def __init__(self, jobs: Sequence[Job], report: Callable[[Progress], None]) -> None:
        self._jobs, self._report, self._begun = jobs, report, time.perf_counter()
        self._total = sum(job.n_days for job in jobs)
        self._days, self._turns = [0] * len(jobs), [0] * len(jobs)

    def tick(self, i: int, at: Progress) -> None:
        """Job ``i`` has come so far."""
        self._days[i], self._turns[i] = at.cell * at.days + at.day, at.n_turns
        self._tell(i, at)

    def done(self, i: int) -> None:
        """Job ``i`` is over, well or not."""
        self._days[i] = self._jobs[i].n_days
        self._tell(i)

    def _tell(self, i: int, at: Progress | None = None) -> None:
        seconds = time.perf_counter() - self._begun
        usage = None if at is None else at.engine
        self._report(Progress(0, 1, self._jobs[i].name, sum(self._days), self._total, sum(self._turns), seconds, usage))
