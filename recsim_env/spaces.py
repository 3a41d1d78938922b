"""What an agent sees, as fixed-shape arrays: the observation and action spaces and the features in them.

Everything here is made of observations, slates and feedback, the visible side of a turn.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from scipy import sparse

from recsim_env.data.features import item_features
from recsim_env.records import (
    BoolArray,
    Catalog,
    Feedback,
    FloatArray,
    IntArray,
    MessageKind,
    ObservationBatch,
    SlateBatch,
    Users,
    is_seen,
)
from recsim_env.scenario import Scenario

Observation: TypeAlias = dict[str, NDArray[Any]]

_KINDS = np.eye(len(MessageKind), dtype=np.float32)


def action_space(scenario: Scenario, n_items: int) -> spaces.Space[Any]:
    """Slots of the candidate set: one per position, or a single number where a page has one position."""
    n_slots = scenario.candidates or n_items
    if scenario.slate_size == 1:
        return spaces.Discrete(n_slots)
    return spaces.MultiDiscrete(np.full(scenario.slate_size, n_slots))


class Observer:
    """Writes observations of N users as the arrays of the observation space.

    What a user has rated or clicked so far enters as sums that are carried along, not gathered anew each turn.

    Args:
        scenario: Gives the shapes.
        catalog: The items.
        item_ids: Whether item indices are part of the observation.

    Attributes:
        space: Observation space of one user; the class docstring of :class:`recsim_env.env.RecSimEnv` explains it.
        item_features: float32 (I, C + 2), see :func:`recsim_env.data.features.item_features`.
    """

    def __init__(self, scenario: Scenario, catalog: Catalog, item_ids: bool = False) -> None:
        self.scenario, self.n_items, self.item_ids = scenario, catalog.n_items, item_ids
        self.n_categories, self._scale = catalog.n_categories, catalog.scale
        self.item_features = item_features(catalog)
        self._items = np.vstack([self.item_features, np.zeros((1, self.item_features.shape[1]), np.float32)])
        self._shares = np.ascontiguousarray(self._items[:, : self.n_categories])
        self.space = self._space()

    def _space(self) -> spaces.Dict:
        c, s, n_items = self.n_categories, self.scenario, self.n_items
        parts: dict[str, spaces.Space[Any]] = {
            "user": spaces.Box(np.array([0.0] * c + [-1.0, 0.0], np.float32), np.ones(c + 2, np.float32)),
            "page": spaces.Box(0.0, 1.0, (c + 2,), np.float32),
            "clock": spaces.Box(0.0, 1.0, (4,), np.float32),
            "message": spaces.Box(-1.0, 1.0, (c,), np.float32),
            "message_kind": spaces.Box(0.0, 1.0, (3,), np.float32),
        }
        if s.candidates is not None:
            parts["candidate_features"] = spaces.Box(-1.0, 1.0, (s.candidates, c + 3), np.float32)
        if self.item_ids:
            parts["history"] = spaces.Box(0, n_items, (s.history_length,), np.int32)
            if s.candidates is not None:
                parts["candidates"] = spaces.Box(0, n_items, (s.candidates,), np.int32)
        return spaces.Dict(parts)

    def seat(self, users: Users) -> None:
        """Takes a population with its past."""
        past = users.history
        seen = sparse.csr_array(
            (np.ones(len(past.items), np.float32), past.items, past.offsets), (users.n_users, self.n_items)
        )
        rated = ~np.isnan(past.ratings)
        stars = np.where(rated, self._scale.centred(past.ratings), 0.0)
        owner = np.repeat(np.arange(users.n_users), past.lengths)
        sums = [np.bincount(owner, weights, users.n_users) for weights in (rated, stars)]
        # Columns: sum of category shares, events, ratings, sum of ratings in [-1, 1].
        self._past = np.column_stack([seen @ self._shares[:-1], past.lengths, *sums]).astype(np.float32)
        self._sums = self._past.copy()

    def reset(self, rows: IntArray) -> None:
        """Puts some users back to their past."""
        self._sums[rows] = self._past[rows]

    def add(self, rows: IntArray, slate: SlateBatch, feedback: Feedback) -> None:
        """Takes over one turn of some users: clicked items become part of what is known of them."""
        hits, starts, who = _hits(feedback.clicked)
        if not hits.size:
            return
        rating = feedback.rating.ravel()[hits]
        rated = ~np.isnan(rating)
        stars = np.where(rated, self._scale.centred(rating), 0.0)
        gain = np.empty((len(hits), self._sums.shape[1]), np.float32)
        gain[:, : self.n_categories] = self._shares.take(slate.items.ravel()[hits], axis=0)
        gain[:, -3], gain[:, -2], gain[:, -1] = 1.0, rated, stars
        self._sums[rows[who]] += np.add.reduceat(gain, starts, axis=0)

    def encode(self, obs: ObservationBatch) -> Observation:
        """Observations of N users, fresh arrays by name, each (N, ...)."""
        parts: Observation = {
            "user": self._user(obs.user_index),
            "page": self._page(obs),
            "clock": self._clock(obs),
            "message": obs.message_vector.astype(np.float32),
            "message_kind": _KINDS.take(obs.message_kind, axis=0),
        }
        if obs.candidates is not None:
            shown = self._items.take(obs.candidates, axis=0)
            seen = is_seen(obs.seen, obs.candidates) & (obs.candidates < self.n_items)
            parts["candidate_features"] = np.concatenate([shown, seen[:, :, None].astype(np.float32)], axis=2)
        if self.item_ids:
            parts["history"] = obs.history.astype(np.int32)
            if obs.candidates is not None:
                parts["candidates"] = obs.candidates.astype(np.int32)
        return parts

    def _user(self, rows: IntArray) -> FloatArray:
        sums, c = self._sums.take(rows, axis=0), self.n_categories
        user = np.empty((len(rows), c + 2), np.float32)
        np.divide(sums[:, :c], np.maximum(sums[:, c : c + 1], 1.0), out=user[:, :c])
        user[:, c] = sums[:, c + 2] / np.maximum(sums[:, c + 1], 1.0)
        user[:, c + 1] = np.log1p(sums[:, c]) * np.float32(1.0 / np.log1p(self.n_items))
        np.maximum(user, np.float32(-1.0), out=user)  # sums of float32 may be off in the last bit
        return np.minimum(user, np.float32(1.0), out=user)

    def _page(self, obs: ObservationBatch) -> FloatArray:
        k, c, last = obs.last_slate.shape[1], self.n_categories, obs.last_feedback
        page = np.zeros((obs.n, c + 2), np.float32)
        hits, starts, who = _hits(last.clicked)
        if hits.size:
            page[who, :c] = np.add.reduceat(self._shares.take(obs.last_slate.ravel()[hits], axis=0), starts, axis=0)
            page[who, c] = np.diff(starts, append=len(hits))
            page[who, c + 1] = np.add.reduceat(last.watched_fraction.ravel()[hits], starts)
        page /= np.float32(k)
        return np.minimum(page, np.float32(1.0), out=page)

    def _clock(self, obs: ObservationBatch) -> FloatArray:
        s = self.scenario
        clock = np.empty((obs.n, 4), np.float32)
        clock[:, 0], clock[:, 1] = obs.day / np.float32(s.days), obs.session / np.float32(s.calendar.max_sessions)
        clock[:, 2], clock[:, 3] = obs.turn / np.float32(s.max_turns), obs.turn == 0
        return clock


def _hits(clicked: BoolArray) -> tuple[IntArray, IntArray, IntArray]:
    """Flat places of clicks, where each clicking row's begin among them, and those rows."""
    hits = np.flatnonzero(clicked)
    rows = hits // clicked.shape[1]
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    return hits, starts, rows[starts]
