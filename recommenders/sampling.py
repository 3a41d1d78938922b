"""Slates out of scores: Plackett-Luce with a share of uniform exploration, drawn and scored exactly.

The item at a position is drawn among the items that remain, with probability

    (1 - epsilon) * softmax(score / temperature) + epsilon / n_remaining

(Plackett, "The analysis of permutations", 1975; Luce, "Individual choice behavior", 1959). The soft-max part takes
the next item of a ranking by ``score / temperature + Gumbel`` (Yellott, 1977), the uniform part the next one of a
random ranking; a coin per position says which. That is the mixture above without drawing anew at each position: what
is left of either ranking, once its first item is known, is again such a ranking of the other items.

Axes: N users, M candidate slots, K positions. Slot M means "nothing left".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsim_env.draws import Draws, Keys
from recsim_env.records import BoolArray, FloatArray, IntArray

KeyOf = Callable[[str], Keys]
"""Purpose to one key per user, uint64 (N,)."""


@dataclass(frozen=True, slots=True)
class SlatePolicy:
    """How scores become slates.

    Attributes:
        temperature: Divides the scores; 0 takes the best remaining item.
        epsilon: Probability that a position is filled uniformly from the remaining items.
    """

    temperature: float
    epsilon: float

    @property
    def deterministic(self) -> bool:
        """Whether the scores alone fix the slate."""
        return self.temperature == 0 and self.epsilon == 0

    def sample(self, scores: FloatArray, lanes: IntArray, slate_size: int, key: KeyOf) -> IntArray:
        """Draws slates.

        Args:
            scores: float32 (N, M), -inf where an item must not be shown.
            lanes: int (M,) or (N, M), lane of each slot's luck: its item index.
            slate_size: K.
            key: Keys of the draws by purpose.

        Returns:
            Slots int64 (N, K), M where nothing was left.
        """
        if self.epsilon == 1:
            return _random_ranking(scores, lanes, slate_size, key)
        noisy = scores
        if self.temperature > 0:
            noisy = scores / np.float32(self.temperature) + Draws.gumbels(key("slate"), lanes)
        ranking = top_k(noisy, slate_size)
        if self.epsilon == 0:
            return ranking
        explore = Draws.uniforms(key("slate-coin"), np.arange(slate_size)) < self.epsilon
        return _interleave(ranking, _random_ranking(scores, lanes, slate_size, key), explore)

    def log_prob(self, scores: FloatArray, slots: IntArray) -> FloatArray:
        """Log-probability of each slot at its position given the earlier ones, float64 (N, K).

        Args:
            scores: float32 (N, M), as in :meth:`sample`.
            slots: int (N, K); ``-inf`` is given for M, for items that must not be shown, and for repetitions.
        """
        n, m = scores.shape
        rows = np.arange(n)[:, None]
        inside = np.minimum(slots, m - 1)
        possible = (slots < m) & (scores[rows, inside] > -np.inf) & ~repeated(slots)
        soft = self._soft_log_prob(scores, slots, inside, possible)
        if self.epsilon == 0:
            return soft
        n_allowed = (scores > -np.inf).sum(axis=1)
        left = n_allowed[:, None] - (np.cumsum(possible, axis=1) - possible)
        mixed = (1 - self.epsilon) * np.exp(soft) + self.epsilon / np.maximum(left, 1)
        return np.where(possible, np.log(mixed), -np.inf)

    def _soft_log_prob(self, scores: FloatArray, slots: IntArray, inside: IntArray, possible: BoolArray) -> FloatArray:
        """The same without exploration."""
        if self.temperature == 0:
            ranking = top_k(scores, slots.shape[1])
            best = np.stack([_first_free(ranking, slots[:, :k]) for k in range(slots.shape[1])], axis=1)
            return np.where(possible & (slots == best), 0.0, -np.inf)
        logits = scores / np.float32(self.temperature)
        rows = np.arange(len(logits))[:, None]
        chosen = np.where(possible, logits[rows, inside], -np.inf).astype(np.float64)
        who, where = np.nonzero(possible)
        logits[who, slots[who, where]] = -np.inf
        # What remains at a position is what nobody took plus what later positions take: only additions, so that
        # nothing cancels when the first items hold nearly all of the mass.
        summands = np.concatenate([_log_sum_exp(logits)[:, None], chosen[:, ::-1]], axis=1)
        remaining = np.logaddexp.accumulate(summands, axis=1)[:, :0:-1]
        return np.where(possible, chosen - np.where(possible, remaining, 0.0), -np.inf)


def top_k(values: FloatArray, k: int) -> IntArray:
    """Slots of the k largest values of each row, largest first, the earlier slot first among equals.

    Args:
        values: float32 (N, M) without NaN; -inf is never taken.
        k: How many.

    Returns:
        int64 (N, k), M where fewer than k are above -inf.
    """
    n, m = values.shape
    # Value and slot in one integer that sorts like the value: one partition, and ties have a definite order.
    bits = (values.astype(np.float32) + np.float32(0.0)).view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    packed = bits.astype(np.int64) << 32
    packed |= np.arange(m - 1, -1, -1)
    kept = min(k, m)
    if kept < m:
        packed = np.partition(packed, m - kept, axis=1)[:, m - kept :]
    best = np.sort(packed, axis=1)[:, ::-1]
    slots = np.full((n, k), m, np.int64)
    slots[:, :kept] = m - 1 - (best & 0xFFFFFFFF)
    slots[:, :kept][(best >> 32) == _LOWEST] = m
    return slots


_LOWEST = int(np.float32(-np.inf).view(np.int32) ^ np.int32(0x7FFFFFFF))


def standardise(scores: FloatArray, allowed: BoolArray) -> FloatArray:
    """Scores with mean 0 and standard deviation 1 over each row's allowed items, float32 (N, M).

    Items that are not allowed get 0; so does a whole row whose allowed scores are all equal.
    """
    count = np.maximum(allowed.sum(axis=1), 1)
    kept = np.where(allowed, scores, np.float32(0.0))
    mean = kept.sum(axis=1, dtype=np.float64) / count
    kept = np.where(allowed, scores - mean[:, None].astype(np.float32), np.float32(0.0))
    spread = np.sqrt(np.square(kept).sum(axis=1, dtype=np.float64) / count)
    # Equal scores differ from their mean by rounding alone, and rounding must not be blown up to a preference.
    flat = spread <= 1e-6 * np.abs(mean)
    kept *= np.where(flat, 0.0, 1.0 / np.where(flat | (spread == 0), 1.0, spread)).astype(np.float32)[:, None]
    return kept


def _random_ranking(scores: FloatArray, lanes: IntArray, slate_size: int, key: KeyOf) -> IntArray:
    luck = Draws.uniforms(key("slate-explore"), lanes)
    return top_k(np.where(scores > -np.inf, luck, np.float32(-np.inf)), slate_size)


def _interleave(first: IntArray, second: IntArray, use_second: BoolArray) -> IntArray:
    """Each position takes the next untaken slot of ``second`` where told so, else of ``first``; all (N, K)."""
    slate = np.empty_like(first)
    for k in range(first.shape[1]):
        slate[:, k] = _first_free(np.where(use_second[:, k, None], second, first), slate[:, :k])
    return slate


def _first_free(ranking: IntArray, taken: IntArray) -> IntArray:
    """First slot of each row's ranking (N, K) that is not among ``taken`` (N, k), int64 (N,)."""
    free = ~(ranking[:, :, None] == taken[:, None, :]).any(axis=2)
    free[:, -1] |= ~free.any(axis=1)  # a ranking that ran out ends in padding, which may be taken again
    return np.asarray(np.take_along_axis(ranking, free.argmax(axis=1)[:, None], axis=1)[:, 0])


def repeated(slots: IntArray) -> BoolArray:
    """Which slots stand earlier in the same slate, bool (N, K)."""
    same = slots[:, :, None] == slots[:, None, :]
    return np.asarray((same & np.tri(slots.shape[1], k=-1, dtype=np.bool_)).any(axis=2))


def _log_sum_exp(logits: FloatArray) -> NDArray[np.float64]:
    """Logarithm of the summed exponentials of each row, float64 (N,); -inf for a row without any."""
    highest = logits.max(axis=1, keepdims=True)
    highest = np.where(highest > -np.inf, highest, np.float32(0.0))
    total = np.exp(logits - highest).sum(axis=1, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(total) + highest[:, 0])
