"""Histories of the users who are served, as sparse matrices, and where in their time they are."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from recsim_env.records import FloatArray, IntArray, ObservationBatch

N_CLOCK = 5
"""Columns of :func:`clock`."""


def history_matrix(obs: ObservationBatch, n_items: int, half_life: float | None = None) -> sparse.csr_array:
    """The histories of an observation, float32 (N, I).

    Args:
        obs: Observations of N users.
        n_items: I.
        half_life: A history item weighs ``0.5 ** (back / half_life)``, where ``back`` is 0 for the most recent; with
            None all weigh 1. An item that occurs twice counts once, by its last occurrence.
    """
    n, length = obs.history.shape
    weights = np.ones(length, np.float32)
    if half_life is not None:
        weights = np.exp2(-np.arange(length - 1, -1, -1) / half_life).astype(np.float32)
    rows, places = np.nonzero(obs.history < n_items)
    items = obs.history[rows, places]
    last = _last_occurrence(rows, items, n_items)
    rows, places, items = rows[last], places[last], items[last]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
    return sparse.csr_array((weights[places], items, offsets), shape=(n, n_items))


def _last_occurrence(rows: IntArray, items: IntArray, n_items: int) -> IntArray:
    """Positions of the last event of each (row, item), ascending."""
    pairs = rows.astype(np.int64) * n_items + items
    _, from_end = np.unique(pairs[::-1], return_index=True)
    return np.sort(len(pairs) - 1 - from_end)


def clock(obs: ObservationBatch, n_items: int) -> FloatArray:
    """Where N users are in their time, for networks, float64 (N, 5), each column around 1 at most.

    Columns: 1 on a session's first page; logarithms of the page's number and of the day; 1 after a day's first session;
    logarithm of the length of the known history.
    """
    known = (obs.history < n_items).sum(axis=1)
    return np.column_stack(
        [
            obs.turn == 0,
            np.log1p(obs.turn) / 3.0,
            np.log1p(obs.day) / 3.0,
            np.minimum(obs.session, 1),
            np.log1p(known) / 5.0,
        ]
    )
