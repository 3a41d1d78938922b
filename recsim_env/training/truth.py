"""The best page that could be shown now: what a policy would do that knew its users' minds."""

from __future__ import annotations

from typing import Any

import numpy as np

from recsim_env.draws import Draws
from recsim_env.errors import ContractError
from recsim_env.records import FloatArray, IntArray, ObservationBatch, is_seen
from recsim_env.vector_env import RecSimVectorEnv

BLOCK = 128
"""Users whose whole catalogues are judged at once."""


def knows_truth(env: RecSimVectorEnv) -> bool:
    """Whether the environment's users can be asked for their log-odds of a click."""
    return hasattr(env.simulator.model, "appraise")


def greedy_on_truth(env: RecSimVectorEnv, obs: ObservationBatch, draws: Draws) -> tuple[IntArray, FloatArray]:
    """The items with the highest true log-odds of a click as the user is now, best first: greedy, so no upper bound.

    It reads hidden state (tastes, satiation), which no recommender sees. Arguments and result as
    :data:`recsim_env.training.experience.Shows`.

    Raises:
        ContractError: If the users cannot tell; see :func:`knows_truth`.
    """
    if not knows_truth(env):
        raise ContractError("Only behavioural users can be asked for the truth.")
    model: Any = env.simulator.model
    n_items, k = env.catalog.n_items, env.scenario.slate_size
    items = np.empty((obs.n, k), np.int32)
    for start in range(0, obs.n, BLOCK):
        part = obs.take(slice(start, start + BLOCK))
        lanes = part.candidates
        if lanes is None:
            lanes = np.broadcast_to(np.arange(n_items, dtype=np.int32), (part.n, n_items))
        wish = part.message_vector.astype(np.float32)
        _, odds = model.appraise(part.user_index, lanes, wish, is_seen(part.seen, lanes), part.last_slate)
        odds = np.where(lanes < n_items, odds, -np.inf)
        best = np.argsort(-odds, axis=1, kind="stable")[:, :k]
        items[start : start + BLOCK] = np.take_along_axis(lanes, best, axis=1)
    return items, np.ones(items.shape, np.float32)
