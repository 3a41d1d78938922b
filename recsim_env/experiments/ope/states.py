"""Logged states of a run, lived again: what any slate would have earned there, as often as one asks.

The run's log is played back to the user model, slate by slate, so that at every logged turn the users stand where they
stood. At picked turns slates are tried out, and the users put back before the log goes on. Another number of the
session gives another luck, since every draw is keyed by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recsim_env.build import World
from recsim_env.draws import Draws
from recsim_env.errors import RecsimError
from recsim_env.experiments.ope.logs import joined, observations
from recsim_env.experiments.ope.policies import BLOCK
from recsim_env.interfaces import UserModel
from recsim_env.rebuild import rebuild
from recsim_env.records import BoolArray, FloatArray, IntArray, ObservationBatch, SlateBatch
from recsim_env.rundir import Run, cell_name

OTHER_LUCK = 1000
"""Added to the number of the session for the first question, one more for each further one."""
AT_ONCE = 4096
"""Rows that behavioural users react to at once."""


def lucky(obs: ObservationBatch, number: IntArray | int) -> ObservationBatch:
    """The observation under whose keys question ``number`` (one, or one a row) draws its luck."""
    return replace(obs, session=(obs.session + (OTHER_LUCK + number)).astype(np.int32))


def picked_states(run: Run, recommender: str, seed: int, rows: IntArray) -> Iterator[tuple[ObservationBatch, slice]]:
    """Observations of some turns of a cell, in blocks, with their place among the picked ones.

    Args:
        run: The run.
        recommender: Whose cell.
        seed: Which of its cells.
        rows: int (M,), ascending: numbers of the turns in the order of time.
    """
    start, held = 0, list[ObservationBatch]()
    for part, obs in observations(run, recommender, [seed]):
        own = rows[(rows >= part.start) & (rows < part.stop)] - part.start
        if held and sum(o.n for o in held) + len(own) > BLOCK:
            block = joined(held)
            yield block, slice(start, start + block.n)
            start, held = start + block.n, []
        held += [obs.take(own)] if own.size else []
    if held:
        block = joined(held)
        yield block, slice(start, start + block.n)


@dataclass(frozen=True, slots=True, eq=False)
class Fork:
    """Some users at one logged turn, who can be asked again and again.

    Attributes:
        obs: What a recommender sees of them.
        place: Their place among the picked states.
        model: The users' model; their state is put back after every question.
        before: Its state at this turn.
    """

    obs: ObservationBatch
    place: slice
    model: UserModel
    before: Mapping[str, Any]

    def ask(self, slates: IntArray, first: int) -> tuple[BoolArray, FloatArray]:
        """What the users do with m slates each, every one from the same state and with a luck of its own.

        A user stands in such a batch several times. That is right for behavioural users alone: they read their state
        before they change it, in blocks of :data:`AT_ONCE` rows, and no batch is larger.

        Args:
            slates: int (m, n, K).
            first: Number of the first question; the others follow.

        Returns:
            Clicked, bool (m, n, K), and the probability of a click before the draw, float32 (m, n, K).
        """
        (m, n, k), clicked, p_click = slates.shape, [], []
        size = max(1, AT_ONCE // n)
        for start in range(0, m, size):
            items = slates[start : start + size].reshape(-1, k).astype(np.int32)
            again = len(items) // n
            obs = lucky(self.obs.take(np.tile(np.arange(n), again)), np.repeat(np.arange(again), n) + (first + start))
            unknown = np.full(items.shape, np.nan, np.float32)
            feedback, trace = self.model.react(obs, SlateBatch(items, unknown, unknown, "fork"))
            self.model.load_state(self.before)
            clicked.append(feedback.clicked)
            p_click.append(trace.p_click)
        return np.concatenate(clicked).reshape(slates.shape), np.concatenate(p_click).reshape(slates.shape)


def forks(world: World, run: Run, recommender: str, seed: int, rows: IntArray) -> Iterator[Fork]:
    """Plays a cell back and stops at the picked turns; arguments as in :func:`picked_states`.

    Raises:
        RecsimError: If the users do not react as they did in the run.
    """
    model, start = world.user_model, 0
    model.reset(world.users(seed), Draws(seed))
    for obs, slate, feedback in rebuild(run, cell_name(recommender, seed)):
        first, last = np.searchsorted(rows, [start, start + obs.n])
        if first < last:
            yield Fork(obs.take(rows[first:last] - start), slice(int(first), int(last)), model, model.state())
        start += obs.n
        again, _ = model.react(obs, slate)
        if not np.array_equal(again.clicked, feedback.clicked):
            raise RecsimError(
                f"{run.path}: the users do not click as they did in the run (day {obs.day[0]}), so its states cannot "
                "be lived again. The run was made with another version or data set; run it again, then calibrate."
            )
