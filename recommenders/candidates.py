"""Candidate slots: what may be shown to whom, and the way from slots to items and back.

A slot m of user n is the item ``lanes[m]``, or ``lanes[n, m]`` where every user has candidates of its own; slot M, the
number of slots, means "nothing".
"""

from __future__ import annotations

import numpy as np

from recsim_env.records import BoolArray, IntArray, ObservationBatch, is_seen, unpack_seen


def allowed_slots(obs: ObservationBatch, n_items: int, exclude_seen: bool) -> tuple[IntArray, BoolArray]:
    """The items of the slots, int (M,) or (N, M), and which of them may be shown, bool (N, M)."""
    if obs.candidates is not None:
        allowed = obs.candidates < n_items
        return obs.candidates, allowed & ~is_seen(obs.seen, obs.candidates) if exclude_seen else allowed
    if not exclude_seen:
        return np.arange(n_items), np.ones((obs.n, n_items), np.bool_)
    return np.arange(n_items), ~unpack_seen(obs.seen, n_items)


def items_of(slots: IntArray, lanes: IntArray, n_items: int) -> IntArray:
    """Items of slots (N, K), with ``n_items`` where there is nothing."""
    n_slots = lanes.shape[-1]
    inside = np.minimum(slots, n_slots - 1)
    picked = lanes[inside] if lanes.ndim == 1 else np.take_along_axis(lanes, inside, axis=1)
    return np.where(slots < n_slots, picked, n_items)


def slots_of(items: IntArray, obs: ObservationBatch) -> IntArray:
    """Slots of items (N, K), with M where an item is no candidate (or no item)."""
    if obs.candidates is None:
        return items.astype(np.int64)
    same = items[:, :, None] == obs.candidates[:, None, :]
    return np.where(same.any(axis=2), same.argmax(axis=2), obs.candidates.shape[1])
