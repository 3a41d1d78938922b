"""Many runs at once: in this process, in processes beside it, or by Ray; each is made, then measured where it was made.

A run that fails is told and stops no other. What is complete is only measured, what was stopped goes on.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from recsim_env.build import World
from recsim_env.errors import MissingDependencyError, RecsimError, ScenarioError
from recsim_env.experiments.jobs import Board, Job, Outcome, attempt
from recsim_env.manifest import hardware
from recsim_env.registry import engines
from recsim_env.runner import Progress
from recsim_env.scenario import Scenario

_log = logging.getLogger(__name__)
Place = Literal["processes", "ray"]
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_GRACE_S = 30.0
"""Seconds that a worker has to close its run when it is stopped."""


def _silent(at: Progress) -> None:
    """Progress that nobody hears; a lambda could not be pickled."""


def carry_out(
    jobs: Sequence[Job], workers: int = 1, place: Place = "processes", on_progress: Callable[[Progress], None] = _silent
) -> list[Outcome]:
    """Makes and measures all runs.

    Args:
        jobs: The jobs; their folders differ.
        workers: Jobs at once. One worker is this process itself.
        place: Where several are: processes of this machine, or a Ray of its own on this machine.
        on_progress: Told after every day, by Ray after every run; all jobs count as one run.

    Returns:
        Outcomes in the order of the jobs.

    Raises:
        MissingDependencyError: If Ray is asked for and absent.
        KeyboardInterrupt: When it is stopped; the workers are stopped first, and their runs can go on.
    """
    board = Board(jobs, on_progress)
    workers = max(1, min(workers, len(jobs)))
    if workers == 1:
        return _here(jobs, board)
    return _by_ray(jobs, workers, board) if place == "ray" else _beside(jobs, workers, board)


def measured_by(jobs: Sequence[Job], workers: int, on_progress: Callable[[Progress], None]) -> list[Any]:
    """What was measured in all runs, as :func:`carry_out` makes them, where nothing can be said without one of them.

    Raises:
        RecsimError: If a run fails; those that did not are kept.
    """
    outcomes = carry_out(jobs, workers, on_progress=on_progress)
    failed = [(job.name, outcome) for job, outcome in zip(jobs, outcomes, strict=True) if outcome.error]
    for name, outcome in failed:
        if outcome.trace:
            _log.error("%s failed:\n%s", name, outcome.trace)
    if failed:
        name, outcome = failed[0]
        raise RecsimError(
            f"{len(failed)} of {len(jobs)} runs failed; {name}: {outcome.error.rstrip('.')}. The others are kept: the "
            "same command with the same --out goes on."
        )
    return [outcome.measured for outcome in outcomes]


def workers_for(scenarios: Sequence[Scenario], asked: int | None) -> int:
    """Jobs at once: what was asked for, or as many as there are cores; one where a model is loaded for each.

    Raises:
        ScenarioError: If several were asked for and each would load a language model of its own.
    """
    heavy = [
        s.engine.name for s in scenarios if World(s).needs_engine and engines.get(str(s.engine.name)).takes_weights
    ]
    if heavy and (asked or 1) > 1:
        raise ScenarioError(
            f"--workers {asked}: engine {heavy[0]!r} loads the model in every process, {asked} times. Leave --workers "
            "out (one run after another), or start a server and take --engine openai --url ...: one server answers all."
        )
    return 1 if heavy else (asked or int(hardware()["cores"]))


def _here(jobs: Sequence[Job], board: Board) -> list[Outcome]:
    outcomes = []
    for i, job in enumerate(jobs):
        outcomes.append(attempt(job, partial(board.tick, i)))
        board.done(i)
    return outcomes


class _Worker:
    """A process that does one job after another; it ends with this process.

    Attributes:
        job: Number of its job, None when it has nothing more to do.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy threads and locks in any state
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far,))
        self.process.start()
        far.close()  # so that its end is seen here
        self.job: int | None = None

    def give(self, number: int | None, jobs: Sequence[Job]) -> None:
        """Hands it a job, or tells it to go home."""
        self.job = number
        with contextlib.suppress(OSError):  # it died at once: reading says so
            self.pipe.send(None if number is None else jobs[number])

    def hear(self) -> Progress | Outcome:
        """What it says next; its death is an outcome too."""
        try:
            said: Progress | Outcome = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            cause = "; memory may have run out" if code == -signal.SIGKILL else ""
            return Outcome(error=f"its process ended with exit code {code}{cause}")
        return said


def _beside(jobs: Sequence[Job], workers: int, board: Board) -> list[Outcome]:
    """All jobs in processes of their own, one of each at a time."""
    outcomes = [Outcome()] * len(jobs)
    todo = iter(range(len(jobs)))
    crew: dict[Connection, _Worker] = {}
    with _threads_for(workers):
        try:
            for _ in range(workers):
                worker = _Worker()
                crew[worker.pipe] = worker
                worker.give(next(todo, None), jobs)
            while busy := [pipe for pipe, worker in crew.items() if worker.job is not None]:
                for pipe in wait(busy):
                    worker = crew[pipe]  # type: ignore[index]
                    said, number = worker.hear(), worker.job
                    assert number is not None
                    if isinstance(said, Progress):
                        board.tick(number, said)
                        continue
                    outcomes[number] = said
                    board.done(number)
                    if worker.process.exitcode is not None:
                        del crew[worker.pipe]
                        worker = _Worker()
                        crew[worker.pipe] = worker
                    worker.give(next(todo, None), jobs)
        finally:
            for worker in crew.values():
                if worker.job is not None:
                    worker.process.terminate()
            for worker in crew.values():
                worker.process.join(_GRACE_S)
                worker.process.kill()
    return outcomes


def _serve(pipe: Connection) -> None:
    """The life of a worker. Ctrl-C reaches it through its parent alone, which ends it with SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, EOFError, OSError):
        while (job := pipe.recv()) is not None:
            pipe.send(attempt(job, pipe.send))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _threads_for(workers: int) -> Iterator[None]:
    """Processes that start here share the cores; numbers of threads that the environment sets stand."""
    ours = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, str(max(1, int(hardware()["cores"]) // workers))))
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _by_ray(jobs: Sequence[Job], workers: int, board: Board) -> list[Outcome]:
    """All jobs as tasks of a Ray of our own."""
    try:
        import ray
    except ImportError:
        raise MissingDependencyError(
            "--on ray", "ray", "pip install 'recsim-env[ray]'", "take --on processes"
        ) from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or a GPU would be hidden from the runs
    outcomes = [Outcome()] * len(jobs)
    with _threads_for(workers):
        # The smallest store that Ray allows: nothing but figures passes through it.
        ray.init(
            address="local", num_cpus=workers, object_store_memory=80 * 2**20,
            include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        )  # fmt: skip
        try:
            task = ray.remote(num_cpus=1, max_retries=0)(attempt)
            waiting = {task.remote(job, _silent): i for i, job in enumerate(jobs)}
            while waiting:
                (reply,), _ = ray.wait(list(waiting))
                number = waiting.pop(reply)
                try:
                    outcomes[number] = ray.get(reply)
                except ray.exceptions.RayError as error:
                    outcomes[number] = Outcome(error=f"Ray: {str(error).splitlines()[0]}")
                board.done(number)
        finally:
            ray.shutdown()
    return outcomes
