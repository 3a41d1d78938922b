"""What users remember, for all of them at once: short-term events, long-term memory, forgetting, recall.

After RecAgent (Wang et al., "User Behavior Simulation with Large Language Model based Agents", 2023) and Generative
Agents (Park et al., 2023), with these simplifications: an event's importance is given by its kind instead of asked of
the model; embeddings are made for all users in one call; time is the simulated day, never the clock.

- *Short-term*: the last events in their order. One that is met again is strengthened instead of told twice. When it
  is full the older half moves on, so that a prompt that lists it grows at its end and is cut rarely.
- *Long-term*: a fixed number of places. Retention = importance x strength x decay^days; what falls below the floor is
  forgotten, and a newcomer takes the place of what is retained least.
- *Recall*: score = relevance x recency x importance, relevance being (1 + cosine) / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recsim_env.agents.arrays import StateArrays
from recsim_env.interfaces import Config, Embedder
from recsim_env.records import FloatArray, IntArray

_BLOCK = 256
"""Users whose vectors are widened to single precision at once: 4,096 would take 0.6 GB."""


class MemoryConfig(Config):
    """Sizes and rates of memory."""

    short: int = Field(default=16, ge=2)
    """Places of short-term memory, S: the events that every prompt tells."""
    long: int = Field(default=48, ge=1)
    """Places of long-term memory."""
    recalled: int = Field(default=3, ge=0)
    """Long-term memories that a page calls up."""
    decay: float = Field(default=0.9, gt=0, le=1)
    """Share of recency and retention left after a day."""
    floor: float = Field(default=0.05, ge=0)
    """Retention under which a memory is forgotten."""
    same: float = Field(default=0.97, gt=0, le=1)
    """Cosine from which two events are the same one met again."""


class Memory(StateArrays):
    """Memory of U users, as arrays over M = short + long places.

    Args:
        n_users: U.
        config: Sizes and rates.
        embedder: Turns texts into unit vectors.

    Attributes:
        text: str or None objects (U, M); short-term places come first.
        vector: float16 (U, M, d), unit vectors.
        importance: float32 (U, M) in (0, 1].
        strength: float32 (U, M), 1 for what was met once; 0 marks an empty place.
        day: int32 (U, M), day of the last meeting.
        n_short: int32 (U,), filled short-term places.
    """

    ARRAYS = ("text", "vector", "importance", "strength", "day", "n_short")

    def __init__(self, n_users: int, config: MemoryConfig, embedder: Embedder) -> None:
        self.config, self.embedder = config, embedder
        n_places = config.short + config.long
        width = embedder.embed(["a memory"]).shape[1]
        self.text = np.full((n_users, n_places), None, object)
        self.vector = np.zeros((n_users, n_places, width), np.float16)
        self.importance = np.zeros((n_users, n_places), np.float32)
        self.strength = np.zeros((n_users, n_places), np.float32)
        self.day = np.zeros((n_users, n_places), np.int32)
        self.n_short = np.zeros(n_users, np.int32)

    def clear(self, rows: IntArray) -> None:
        """Some users remember nothing."""
        self.text[rows] = None
        self.strength[rows] = self.importance[rows] = 0.0
        self.n_short[rows] = 0

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """One unit vector per text, float32 (n, d); equal texts are embedded once."""
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        return self.embedder.embed(list(number))[[number[text] for text in texts]]

    def add(self, rows: IntArray, texts: Sequence[str], importance: FloatArray, day: IntArray) -> None:
        """Takes in events, in their order.

        Args:
            rows: int (E,), whose event it is; a user may stand there several times.
            texts: E texts.
            importance: float (E,) in (0, 1].
            day: int (E,), simulated day.
        """
        if not len(rows):
            return
        vectors = self.embed(texts)
        words = np.array([*texts, None], object)[:-1]
        order = np.argsort(rows, kind="stable")
        starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
        lengths = np.diff(np.append(starts, len(rows)))
        rank = np.empty(len(rows), np.int64)  # an event's number among its user's events of this call
        rank[order] = np.arange(len(rows)) - np.repeat(starts, lengths)
        for r in range(int(lengths.max())):
            e = np.flatnonzero(rank == r)
            self._add(rows[e], words[e], vectors[e], importance[e], day[e])

    def _add(
        self, rows: IntArray, texts: NDArray[np.object_], vectors: FloatArray, importance: FloatArray, day: IntArray
    ) -> None:
        """One event for each of some different users."""
        s = self.config.short
        new = ~self._meet(rows, slice(0, s), vectors, importance, day)
        full = rows[new & (self.n_short[rows] == s)]
        if full.size:
            self._consolidate(full, day[new & np.isin(rows, full)])
        rows, place = rows[new], self.n_short[rows[new]]
        self._put(rows, place, texts[new], vectors[new], importance[new], np.float32(1.0), day[new])
        self.n_short[rows] += 1

    def _put(
        self, rows: IntArray, place: IntArray, texts: Any, vectors: Any, importance: Any, strength: Any, day: Any
    ) -> None:
        self.text[rows, place], self.vector[rows, place] = texts, vectors
        self.importance[rows, place], self.strength[rows, place], self.day[rows, place] = importance, strength, day

    def _meet(
        self, rows: IntArray, places: slice, vectors: FloatArray, importance: FloatArray, day: IntArray, by: Any = 1.0
    ) -> NDArray[np.bool_]:
        """Strengthens what is met again; which events were, bool (n,)."""
        cosine = self._cosine(rows, places, vectors.astype(np.float32))
        cosine[self.strength[rows, places] == 0] = -1.0
        place = cosine.argmax(axis=1)
        met = cosine[np.arange(len(rows)), place] >= self.config.same
        place = place[met] + (places.start or 0)
        self.strength[rows[met], place] += by if np.isscalar(by) else by[met]
        self.importance[rows[met], place] = np.maximum(self.importance[rows[met], place], importance[met])
        self.day[rows[met], place] = day[met]
        return met

    def _cosine(self, rows: IntArray, places: slice, vectors: FloatArray) -> FloatArray:
        """Cosine of each user's vector with its own memories, float32 (n, places); a block of users at a time."""
        parts = [slice(start, start + _BLOCK) for start in range(0, len(rows), _BLOCK)]
        found = [
            np.einsum("nmd,nd->nm", self.vector[rows[part], places].astype(np.float32), vectors[part]) for part in parts
        ]
        return np.concatenate(found) if found else np.zeros((0, self.vector[:0, places].shape[1]), np.float32)

    def _consolidate(self, rows: IntArray, today: IntArray) -> None:
        """The older half of full short-term memories moves to long-term memory, the rest closes up."""
        s = self.config.short
        half, long = s // 2, slice(s, None)
        for j in range(half):
            vectors, importance = self.vector[rows, j], self.importance[rows, j]
            strength, day = self.strength[rows, j], self.day[rows, j]
            new = ~self._meet(rows, long, vectors, importance, day, strength)
            place = s + self.retention(rows, today)[:, s:].argmin(axis=1)
            some = rows[new]
            self._put(some, place[new], self.text[some, j], vectors[new], importance[new], strength[new], day[new])
        for name in ("text", "vector", "importance", "strength", "day"):
            array = getattr(self, name)
            array[rows, : s - half] = array[rows, half:s]
        self.text[rows, s - half : s] = None
        self.strength[rows, s - half : s] = 0.0
        self.n_short[rows] = s - half

    def retention(self, rows: IntArray, today: int | IntArray) -> FloatArray:
        """Importance x strength x decay^days, float32 (n, M); 0 for empty places."""
        age = np.maximum(np.reshape(today, (-1, 1)) - self.day[rows], 0)
        return self.importance[rows] * self.strength[rows] * np.float32(self.config.decay) ** age

    def forget(self, rows: IntArray, today: int | IntArray) -> None:
        """Empties the long-term places whose retention fell below the floor."""
        s = self.config.short
        gone = self.retention(rows, today) < self.config.floor
        gone[:, :s] = False
        who, place = np.nonzero(gone)
        self.text[rows[who], place] = None
        self.strength[rows[who], place] = 0.0

    def recall(self, rows: IntArray, queries: FloatArray, today: int | IntArray) -> list[list[str]]:
        """The long-term memories that come to mind, best first.

        Args:
            rows: int (n,), the users.
            queries: float32 (n, d), unit vectors of what they look at.
            today: The day.
        """
        s, k = self.config.short, self.config.recalled
        kept = self.strength[rows, s:] > 0
        if not k or not kept.any():
            return [[] for _ in rows]
        cosine = self._cosine(rows, slice(s, None), queries)
        age = np.maximum(np.reshape(today, (-1, 1)) - self.day[rows, s:], 0)
        score = 0.5 * (1.0 + cosine) * np.float32(self.config.decay) ** age * self.importance[rows, s:]
        score = np.where(kept, score, -1.0)
        best = np.argsort(-score, axis=1, kind="stable")[:, :k]
        texts = self.text[rows, s:]
        return [
            [texts[i, j] for j in places if kept[i, j]] for i, places in enumerate(best)
        ]  # fmt: skip

    def recent(self, row: int) -> list[str]:
        """Short-term memory of one user, oldest first."""
        return self.text[row, : self.n_short[row]].tolist()

    def kept(self, row: int) -> list[str]:
        """Long-term memories of one user, in no particular order."""
        s = self.config.short
        return [text for text, kept in zip(self.text[row, s:], self.strength[row, s:] > 0, strict=True) if kept]
