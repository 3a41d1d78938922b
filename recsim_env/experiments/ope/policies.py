"""A recommender's probabilities of the next item, for all items at once.

:meth:`Recommender.log_prob` gives the probability of shown slates. Estimators with a reward model also need means over
what a policy would have shown, and the calibration draws many slates in one state: both come from the scores, here.
A recommender that does not rank by scores (one that asks a language model) has no such table; then slates are drawn
from it, and Cascade-DR is left out.

Axes: N users, I items, K positions, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsim_env.draws import Draws, Keys
from recsim_env.interfaces import Recommender
from recsim_env.recommenders.base import BLOCK, ScoringRecommender
from recsim_env.recommenders.candidates import allowed_slots
from recsim_env.recommenders.sampling import SlatePolicy, repeated
from recsim_env.recommenders.uniform import Uniform
from recsim_env.records import FloatArray, IntArray, ObservationBatch

__all__ = ["BLOCK", "Given", "NextItem", "next_item"]

STEP = 200.0
"""Between the logits of one item and the next, where the best remaining item is always taken."""


@dataclass(frozen=True, slots=True, eq=False)
class NextItem:
    """Plackett-Luce with exploration, as :mod:`recsim_env.recommenders.sampling` has it, for N users.

    Attributes:
        logits: float32 (N, I), -inf where an item must not be shown.
        epsilon: Probability that a position is filled uniformly from the remaining items.
    """

    logits: FloatArray
    epsilon: float

    @property
    def n_items(self) -> int:
        """I."""
        return int(self.logits.shape[1])

    def take(self, rows: IntArray) -> NextItem:
        """The policy of some users, in that order."""
        return NextItem(self.logits[rows], self.epsilon)

    def first(self) -> FloatArray:
        """Probability of each item at the first position, float32 (N, I)."""
        given = self.given(np.zeros((len(self.logits), 0), np.int32))
        allowed = np.isfinite(self.logits)
        soft = given.rest / np.maximum(given.rest.sum(axis=1, keepdims=True), np.float32(1e-30))
        flat = allowed / np.maximum(allowed.sum(axis=1, keepdims=True), 1)
        return np.asarray((1.0 - self.epsilon) * soft + self.epsilon * flat, np.float32)

    def draw(self, slate_size: int, obs: ObservationBatch, draws: Draws) -> IntArray:
        """Slates int32 (N, K), ``n_items`` where nothing is left; ``obs`` names the users and the time."""

        def key(purpose: str) -> Keys:
            return draws.keys(f"ope-{purpose}", obs.user_index, obs.day, obs.session, obs.turn)

        lanes = np.arange(self.n_items)
        return SlatePolicy(1.0, self.epsilon).sample(self.logits, lanes, slate_size, key).astype(np.int32)

    def given(self, items: IntArray) -> Given:
        """The next item at each position of slates int (N, K), given what stands above."""
        return Given(self, items)

    def propensity(self, items: IntArray) -> FloatArray:
        """``exp(log_prob)`` of slates, float64 (N, K); 1 where a position is empty."""
        return self.given(items).probability(items)


class Given:
    """The next item's distribution at each position of given slates, given the items above.

    What remains at a position is what no position holds plus what later positions hold. That only adds, so nothing
    cancels when the items above hold nearly all of the mass.

    Args:
        policy: For N users.
        items: int (N, K), padded with I.

    Attributes:
        rest: float32 (N, I), masses of the items that no position holds; the largest is 1.
    """

    def __init__(self, policy: NextItem, items: IntArray) -> None:
        self.policy, self.items = policy, items
        rows, inside = np.arange(len(items))[:, None], np.minimum(items, policy.n_items - 1)
        shown = np.where(items < policy.n_items, policy.logits[rows, inside], -np.inf)
        possible = np.isfinite(shown) & ~repeated(items)
        self._logits = np.where(possible, shown, -np.inf).astype(np.float64)
        self._possible = possible
        rest = policy.logits.copy()
        who, where = np.nonzero(possible)
        rest[who, items[who, where]] = -np.inf
        highest = rest.max(axis=1, keepdims=True)
        self._highest = np.where(np.isfinite(highest), highest, np.float32(0.0)).astype(np.float64)
        self.rest = np.exp(rest - self._highest.astype(np.float32))
        with np.errstate(divide="ignore"):
            of_rest = np.log(self.rest.sum(axis=1, keepdims=True, dtype=np.float64)) + self._highest
        summands = np.concatenate([of_rest, self._logits[:, ::-1]], axis=1)
        self._remaining = np.logaddexp.accumulate(summands, axis=1)[:, :0:-1]  # logarithm of the mass, (N, K)
        n_allowed = np.isfinite(policy.logits).sum(axis=1)
        self._left = np.maximum(n_allowed[:, None] - (np.cumsum(possible, axis=1) - possible), 1)
        self._remaining = np.where(np.isfinite(self._remaining), self._remaining, 0.0)

    def probability(self, items: IntArray) -> FloatArray:
        """Probability of other items at each position after the given ones above, float64 (N, K); 1 for padding."""
        policy, rows = self.policy, np.arange(len(items))[:, None]
        logits = policy.logits[rows, np.minimum(items, policy.n_items - 1)].astype(np.float64)
        above = np.tri(items.shape[1], k=-1, dtype=np.bool_)
        free = np.isfinite(logits) & ~((items[:, :, None] == self.items[:, None, :]) & above).any(axis=2)
        soft = np.exp(np.where(free, logits - self._remaining, -np.inf))
        mixed = (1.0 - policy.epsilon) * soft + policy.epsilon * free / self._left
        return np.where(items < policy.n_items, mixed, 1.0)

    def mean(self, table: FloatArray) -> FloatArray:
        """Mean of item features over the next item, float64 (N, K, F).

        Args:
            table: float (I + 1, F), features by item; the last row is the empty position's.
        """
        policy = self.policy
        own = table[self.items]
        found = np.zeros(own.shape)
        if policy.epsilon < 1:
            of_rest = (self.rest @ table[:-1].astype(np.float32)).astype(np.float64)
            found += np.exp(self._highest - self._remaining)[:, :, None] * of_rest[:, None, :]
            later = np.tri(own.shape[1], dtype=np.bool_).T
            logits = np.where(later, self._logits[:, None, :] - self._remaining[:, :, None], -np.inf)
            shares = np.exp(logits)  # of item j at position k
            found += np.einsum("nkj,njf->nkf", shares, own)
            found *= 1.0 - policy.epsilon
        if policy.epsilon > 0:
            of_all = np.isfinite(policy.logits).astype(np.float32) @ table[:-1].astype(np.float32)
            gone = np.cumsum(own * self._possible[:, :, None], axis=1) - own * self._possible[:, :, None]
            found += policy.epsilon * (of_all[:, None, :] - gone) / self._left[:, :, None]
        return np.where((self.items < policy.n_items)[:, :, None], found, own)


def next_item(recommender: Recommender, obs: ObservationBatch, n_items: int) -> NextItem | None:
    """The policy of a recommender for at most :data:`BLOCK` users, or None if it does not rank by scores."""
    if isinstance(recommender, Uniform):
        lanes, allowed = allowed_slots(obs, n_items, recommender.config.exclude_seen)
        return NextItem(_by_item(np.where(allowed, np.float32(0.0), np.float32(-np.inf)), lanes, n_items), 1.0)
    if not isinstance(recommender, ScoringRecommender) or _own_slates(type(recommender)):
        return None
    config = recommender.config
    scores, lanes = recommender.allowed_scores(obs)
    logits = scores / np.float32(config.temperature) if config.temperature > 0 else _ranked(scores)
    return NextItem(_by_item(logits, lanes, n_items), config.epsilon)


def _own_slates(kind: type[ScoringRecommender]) -> bool:
    """Whether a recommender that scores items makes its slates in a way of its own."""
    return kind.log_prob is not ScoringRecommender.log_prob or kind.recommend is not ScoringRecommender.recommend


def _ranked(scores: FloatArray) -> FloatArray:
    """Logits under which the best item takes all, the earlier slot among equals, float32 (N, M)."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty(order.shape, np.float32)
    np.put_along_axis(ranks, order, np.arange(order.shape[1], dtype=np.float32)[None, :], axis=1)
    return np.where(np.isfinite(scores), np.float32(-STEP) * ranks, np.float32(-np.inf))


def _by_item(values: FloatArray, lanes: IntArray, n_items: int) -> FloatArray:
    """Values of slots (N, M) at their items, float32 (N, I), -inf elsewhere."""
    if lanes.ndim == 1:
        return values
    wide = np.full((len(values), n_items + 1), -np.inf, np.float32)
    np.put_along_axis(wide, lanes.astype(np.int64), values, axis=1)
    return wide[:, :n_items]
