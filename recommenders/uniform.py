"""Random slates with exact propensities, fast enough to log millions of turns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from recsim_env.draws import Draws
from recsim_env.interfaces import Config, Recommender
from recsim_env.recommenders.candidates import allowed_slots, items_of, slots_of
from recsim_env.recommenders.sampling import repeated, top_k
from recsim_env.recommenders.store import read_state, write_state
from recsim_env.records import (
    ByteArray,
    Dataset,
    FloatArray,
    IntArray,
    ObservationBatch,
    SlateBatch,
    is_seen,
)
from recsim_env.scenario import validate_config

BLOCK = 4096
"""Users whose slates are drawn at once; fits a processor's cache."""
SPARE = 8
"""Items drawn beyond the slate's length, to replace those that were seen or drawn twice."""
RANKED = 256
"""Users whose whole catalogue is ranked at once, where drawing with rejection did not fill the slate."""


class UniformConfig(Config):
    """Settings of :class:`Uniform`."""

    exclude_seen: bool = True
    """Never show what the user has clicked or rated before."""


class Uniform(Recommender):
    """Every slate of allowed items alike, so that any policy can be evaluated on its log (Li et al., WSDM 2011).

    Items are drawn with replacement and rejected when seen or drawn twice. All slates are equally likely among those
    that come out, so users who run out of draws can be served by ranking their whole catalogue at random instead.
    """

    config_class: ClassVar[type[Config]] = UniformConfig
    config: UniformConfig
    n_items = 0

    def fit(self, dataset: Dataset, draws: Draws) -> None:
        """Takes the number of items; nothing is learned."""
        self.n_items = dataset.n_items

    def recommend(self, obs: ObservationBatch, slate_size: int, draws: Draws) -> SlateBatch:
        """Random slates."""
        items = np.empty((obs.n, slate_size), np.int32)
        propensity = np.empty((obs.n, slate_size), np.float32)
        marginal = np.empty((obs.n, slate_size), np.float32)
        for start in range(0, obs.n, BLOCK):
            rows = slice(start, min(start + BLOCK, obs.n))
            part = obs if obs.n <= BLOCK else obs.take(rows)
            items[rows] = self._draw(part, slate_size, draws)
            n_allowed = self._n_allowed(part)[:, None]
            # Where nothing is left the position is empty, and that is certain: 1 / max(left, 1) is 1.
            propensity[rows] = 1.0 / np.maximum(n_allowed - np.arange(slate_size), 1)
            marginal[rows] = np.where(items[rows] == self.n_items, 1.0, 1.0 / np.maximum(n_allowed, 1))
        return SlateBatch(items, propensity, marginal, "uniform", self.version)

    def log_prob(self, obs: ObservationBatch, items: IntArray) -> FloatArray:
        """One over the number of items left, float64 (N, K)."""
        shown = items < self.n_items
        possible = shown & ~repeated(items)
        if obs.candidates is not None:
            possible &= slots_of(items, obs) < obs.candidates.shape[1]
        if self.config.exclude_seen:
            possible &= ~is_seen(obs.seen, items)
        earlier: IntArray = np.cumsum(possible, axis=1) - possible
        left = np.maximum(self._n_allowed(obs)[:, None] - earlier, 1)
        return np.where(possible, -np.log(left), np.where(shown, -np.inf, 0.0))

    def save(self, folder: Path) -> None:
        """Writes the configuration and the number of items."""
        meta = {"config": self.config.model_dump(mode="json"), "version": self.version, "n_items": self.n_items}
        write_state(folder, type(self).__name__, meta, {})

    @classmethod
    def load(cls, folder: Path, changes: Mapping[str, Any] | None = None) -> Self:
        """Reads what :meth:`save` wrote."""
        meta, _ = read_state(folder, cls.__name__)
        made = cls(validate_config(cls.config_class, {**meta["config"], **(changes or {})}, str(folder)))
        made.version, made.n_items = meta["version"], meta["n_items"]
        return made

    def _n_allowed(self, obs: ObservationBatch) -> IntArray:
        """Number of items that may be shown, int64 (N,)."""
        if obs.candidates is not None:
            return allowed_slots(obs, self.n_items, self.config.exclude_seen)[1].sum(axis=1)
        if not self.config.exclude_seen:
            return np.full(obs.n, self.n_items)
        return self.n_items - count_bits(obs.seen)

    def _draw(self, obs: ObservationBatch, slate_size: int, draws: Draws) -> IntArray:
        """Slates of a block of users, int (N, K)."""
        if obs.candidates is not None:
            return self._ranked(obs, slate_size, draws)
        bits = draws.bits(
            draws.keys("slate", obs.user_index, obs.day, obs.session, obs.turn), np.arange(slate_size + SPARE)
        )
        bits >>= np.uint64(32)
        bits *= np.uint64(self.n_items)
        bits >>= np.uint64(32)  # from 32 random bits to an item, without a division
        items = bits.astype(np.int32)
        valid = ~is_seen(obs.seen, items) if self.config.exclude_seen else np.ones(items.shape, np.bool_)
        order = np.sort(items, axis=1)
        twice = np.flatnonzero((order[:, 1:] == order[:, :-1]).any(axis=1))
        if twice.size:
            valid[twice] &= ~repeated(items[twice])
        number = np.cumsum(valid, axis=1, dtype=np.int16)
        short = np.flatnonzero(number[:, -1] < slate_size)
        if short.size:
            valid[short], number[short] = True, np.arange(1, items.shape[1] + 1)
        valid &= number <= slate_size
        slates = items[valid].reshape(obs.n, slate_size)
        for start in range(0, len(short), RANKED):
            rows = short[start : start + RANKED]
            slates[rows] = self._ranked(obs.take(rows), slate_size, draws)
        return slates

    def _ranked(self, obs: ObservationBatch, slate_size: int, draws: Draws) -> IntArray:
        """The same by ranking all that is allowed at random: works however little is left."""
        lanes, allowed = allowed_slots(obs, self.n_items, self.config.exclude_seen)
        keys = draws.keys("slate-ranked", obs.user_index, obs.day, obs.session, obs.turn)
        luck = np.where(allowed, draws.uniforms(keys, lanes), np.float32(-np.inf))
        return items_of(top_k(luck, slate_size), lanes, self.n_items)


def count_bits(packed: ByteArray) -> IntArray:
    """Number of set bits of each row, int64 (N,)."""
    n, width = packed.shape
    words = np.zeros((n, -(-width // 8) * 8), np.uint8)  # whole 64-bit words are counted faster
    words[:, :width] = packed
    return np.bitwise_count(words.view(np.uint64)).sum(axis=1, dtype=np.int64)
