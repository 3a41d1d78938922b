"""Ranking metrics of top-k lists: hit rate, recall, reciprocal rank, nDCG.

Lists rank the full catalogue unless the caller ranked a sample. The definitions are those of trec_eval as wrapped by
``ir_measures``: the ideal list of nDCG holds min(k, number of relevant items) items, so a perfect list of any k
scores 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsim_env.records import BoolArray, FloatArray, Histories, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class RankingScores:
    """Scores per user; NaN for users without a relevant item, who are left out of every mean.

    Attributes:
        k: Length of the lists.
        hit: float64 (N,), 1 if a relevant item is in the list, else 0.
        recall: float64 (N,) in [0, 1], share of the relevant items that are in the list.
        reciprocal_rank: float64 (N,) in [0, 1], 1 / rank of the first relevant item, 0 where none is in the list.
        ndcg: float64 (N,) in [0, 1], binary gains.
    """

    k: int
    hit: FloatArray
    recall: FloatArray
    reciprocal_rank: FloatArray
    ndcg: FloatArray

    def means(self) -> dict[str, float]:
        """Means over users, with a normal 95 % interval for nDCG: ready for a run's manifest.

        Returns:
            ``ndcg``, ``ndcg_low``, ``ndcg_high``, ``hr``, ``recall``, ``mrr`` (NaN if nobody has a relevant item),
            ``n_users`` (users that count) and ``k``.
        """
        scored = ~np.isnan(self.ndcg)
        n = int(scored.sum())

        def mean(values: FloatArray) -> float:
            return float(values[scored].mean()) if n else float("nan")

        ndcg = mean(self.ndcg)
        half = 1.96 * float(self.ndcg[scored].std(ddof=1)) / n**0.5 if n > 1 else float("nan")
        return {
            "ndcg": ndcg, "ndcg_low": max(0.0, ndcg - half), "ndcg_high": min(1.0, ndcg + half),
            "hr": mean(self.hit), "recall": mean(self.recall), "mrr": mean(self.reciprocal_rank), "n_users": n,
            "k": self.k,
        }  # fmt: skip


def score_rankings(top: IntArray, relevant: Histories) -> RankingScores:
    """All binary ranking metrics of N top-k lists.

    Args:
        top: int (N, k), item indices, best first. A negative index or one that is no item pads; an item listed
            twice counts at its first place only.
        relevant: The relevant items of the N users; its ratings are ignored.

    Raises:
        ValueError: If ``top`` is not two-dimensional or has another number of users than ``relevant``.
    """
    found = _listed_gains(top, relevant, graded=False)[0] > 0
    n_relevant = _n_relevant(relevant)
    known = n_relevant > 0
    k = top.shape[1]
    ranks = np.where(found, np.arange(1, k + 1), np.inf)
    first = ranks.min(axis=1, initial=np.inf)
    n_found = found.sum(axis=1)
    return RankingScores(
        k=k,
        hit=np.where(known, n_found > 0, np.nan),
        recall=np.where(known, n_found / np.maximum(n_relevant, 1), np.nan),
        reciprocal_rank=np.where(known, 1.0 / first, np.nan),
        ndcg=ndcg(top, relevant),
    )


def ndcg(top: IntArray, relevant: Histories, graded: bool = False) -> FloatArray:
    """Normalised discounted cumulative gain of N top-k lists (Järvelin and Kekäläinen 2002, log2 discount).

    Args:
        top: int (N, k), as in :func:`score_rankings`.
        relevant: The relevant items. With ``graded``, its ratings are the gains (take ``2 ** r - 1`` beforehand for
            exponential gains) and items of gain 0 are not relevant.
        graded: Gains from the ratings instead of 1 for every relevant item.

    Returns:
        float64 (N,) in [0, 1], NaN for users without a relevant item.

    Raises:
        ValueError: If shapes disagree, or a gain is negative or NaN.
    """
    gains, owner, ideal_gains = _listed_gains(top, relevant, graded)
    n, k = top.shape
    discount = 1.0 / np.log2(np.arange(k) + 2.0)
    # Rank of each relevant item in its user's ideal list: by falling gain.
    order = np.lexsort((-ideal_gains, owner))
    owner, ideal_gains = owner[order], ideal_gains[order]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner, side="left")
    kept = rank < k
    ideal = np.bincount(owner[kept], ideal_gains[kept] * discount[rank[kept]], minlength=n)
    scores = np.full(n, np.nan)
    np.divide(gains @ discount, ideal, out=scores, where=ideal > 0)
    return np.asarray(np.minimum(scores, 1.0))  # sums in two orders may differ in the last bit


def _listed_gains(top: IntArray, relevant: Histories, graded: bool) -> tuple[FloatArray, NDArray[np.int64], FloatArray]:
    """Gain of every listed item (N, k), and of every distinct relevant item with its user."""
    if top.ndim != 2 or len(top) != relevant.n_users:
        raise ValueError(
            f"top has shape {top.shape}, but the relevant items are of {relevant.n_users} users. "
            "Give one row of k item indices per user."
        )
    owner = np.repeat(np.arange(relevant.n_users), relevant.lengths)
    gain = relevant.ratings.astype(np.float64) if graded else np.ones(len(owner))
    if not np.all(gain >= 0):
        raise ValueError("Graded gains must be 0 or more and known. Map the ratings to gains first.")
    stride = int(max(relevant.items.max(initial=0), top.max(initial=0))) + 1
    keys = owner * stride + relevant.items
    order = np.lexsort((gain, keys))
    keys, gain = keys[order], gain[order]
    last = np.append(keys[1:] != keys[:-1], True) if keys.size else np.zeros(0, bool)
    keys, gain = keys[last], gain[last]  # an item rated twice counts once, with its larger gain

    wanted = np.arange(len(top))[:, None] * stride + top
    place = np.searchsorted(keys, wanted)
    hit = (top >= 0) & ~_repeated(top)
    if keys.size:
        place = np.minimum(place, keys.size - 1)
        hit &= keys[place] == wanted
        listed = np.where(hit, gain[place], 0.0)
    else:
        listed = np.zeros(top.shape)
    return listed, keys // stride, gain


def _n_relevant(relevant: Histories) -> NDArray[np.int64]:
    """Distinct relevant items of each user, int64 (N,)."""
    stride = int(relevant.items.max(initial=0)) + 1
    keys = np.unique(np.repeat(np.arange(relevant.n_users), relevant.lengths) * stride + relevant.items)
    return np.bincount(keys // stride, minlength=relevant.n_users).astype(np.int64)


def _repeated(top: IntArray) -> BoolArray:
    """Which entries stand earlier in their row already, bool (N, k)."""
    order = np.argsort(top, axis=1, kind="stable")
    ordered = np.take_along_axis(top, order, axis=1)
    repeated = np.zeros(top.shape, bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return repeated
