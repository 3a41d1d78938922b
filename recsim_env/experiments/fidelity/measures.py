"""Measures of fidelity. Each gives one figure a user, so that intervals can resample users.

Definitions: F1 within a candidate group, averaged over a user's groups; nDCG@5 with ties averaged (McSherry and
Najork, "Computing information retrieval performance measures efficiently in the presence of tied scores", ECIR 2008);
errors within a user; Jensen-Shannon divergence in bits (Lin 1991).
"""

from __future__ import annotations

import numpy as np

from recsim_env.records import BoolArray, FloatArray, IntArray

N_THRESHOLDS = 400
"""Thresholds that are tried: quantiles of the validation scores."""


def group_f1(chosen: BoolArray, positive: BoolArray) -> FloatArray:
    """F1 of each group, float64 (Q,); 0 where nothing is chosen.

    Args:
        chosen: bool (Q, S), candidates that the user model would watch.
        positive: bool (Q, S), candidates that the person did watch; at least one in each group.
    """
    hits = (chosen & positive).sum(axis=1)
    return np.asarray(2.0 * hits / np.maximum(chosen.sum(axis=1) + positive.sum(axis=1), 1))


def user_means(values: FloatArray, user: IntArray) -> tuple[IntArray, FloatArray]:
    """Mean of the values of each user: users ascending int (N,), means float64 (N,)."""
    users, row = np.unique(user, return_inverse=True)
    return users, np.bincount(row, values) / np.bincount(row)


def choose(scores: FloatArray, threshold: float) -> BoolArray:
    """Candidates above a threshold; NaN (padding, or a reply that could not be used) is never chosen."""
    with np.errstate(invalid="ignore"):
        return np.asarray(scores > threshold)


def best_threshold(scores: FloatArray, positive: BoolArray, user: IntArray) -> float:
    """The threshold with the highest F1 (mean over users of the mean over their groups); the lowest among equals.

    Args:
        scores: float (Q, S), NaN where padded.
        positive: bool (Q, S).
        user: int (Q,).
    """
    known = np.unique(scores[np.isfinite(scores)])
    if not len(known):
        return 0.0
    tried = np.unique(np.quantile(known, np.linspace(0, 1, N_THRESHOLDS))) if len(known) > N_THRESHOLDS else known
    # Between neighbours, so that equal scores fall on one side whatever the last bit; below the lowest too.
    middles = np.concatenate([[tried[0] - 1.0], 0.5 * (tried[1:] + tried[:-1])])
    weight = 1.0 / np.bincount(np.unique(user, return_inverse=True)[1])[np.unique(user, return_inverse=True)[1]]
    found = [float(group_f1(choose(scores, t), positive) @ weight) for t in middles]
    return float(middles[int(np.argmax(found))])


def ndcg_ties(scores: FloatArray, positive: BoolArray, k: int = 5) -> FloatArray:
    """nDCG@k of each group, the mean over all orders of tied candidates, float64 (Q,).

    Args:
        scores: float (Q, S), NaN where padded or unusable: these stand last, tied.
        positive: bool (Q, S).
        k: Length of the list.
    """
    size = scores.shape[1]
    ranked = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-ranked, axis=1, kind="stable")
    ranked, gain = np.take_along_axis(ranked, order, axis=1), np.take_along_axis(positive, order, axis=1)
    discount = np.where(np.arange(size) < k, 1.0 / np.log2(np.arange(size) + 2.0), 0.0)
    new = np.ones(ranked.shape, np.bool_)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    tie = np.cumsum(new, axis=1) - 1 + size * np.arange(len(ranked))[:, None]
    total = np.bincount(tie.ravel(), np.broadcast_to(discount, tie.shape).ravel(), len(ranked) * size)
    count = np.bincount(tie.ravel(), minlength=len(ranked) * size)
    shared = total[tie] / count[tie]
    ideal = np.cumsum(discount)[np.minimum(positive.sum(axis=1), size) - 1]
    return np.asarray((gain * shared).sum(axis=1) / ideal)


def mark_shares(stars: FloatArray, levels: FloatArray) -> FloatArray:
    """Share of each level among stars, float64 (G,)."""
    nearest = np.abs(stars[:, None] - levels).argmin(axis=1)
    return np.asarray(np.bincount(nearest, minlength=len(levels)) / max(len(stars), 1))


def jensen_shannon(p: FloatArray, q: FloatArray) -> float:
    """Jensen-Shannon divergence of two distributions, bits."""
    m = 0.5 * (p + q)
    halves = [float((a[a > 0] * np.log2(a[a > 0] / m[a > 0])).sum()) for a in (p, q)]
    return 0.5 * sum(halves)


def wasserstein(p: FloatArray, q: FloatArray, levels: FloatArray) -> float:
    """Wasserstein distance of two distributions over ascending levels, in stars."""
    return float((np.abs(np.cumsum(p - q))[:-1] * np.diff(levels)).sum())


def spread_ratio(stars: FloatArray, real: FloatArray, user: IntArray) -> float:
    """Standard deviation over users of the mean simulated star, over the same of the real stars."""
    own, people = user_means(stars, user)[1].std(), user_means(real, user)[1].std()
    return float(own / people) if people > 0 else float("nan")


def preference_f1(liked: BoolArray, real: BoolArray, user: IntArray) -> tuple[IntArray, FloatArray]:
    """F1 of "would like it" within each user; users with nothing liked, said or real, are left out."""
    users, row = np.unique(user, return_inverse=True)
    hits, said, true = (np.bincount(row, x.astype(float)) for x in (liked & real, liked, real))
    some = said + true > 0
    return users[some], 2.0 * hits[some] / (said + true)[some]


def area_under_curve(scores: FloatArray, positive: BoolArray) -> float:
    """AUC: probability that a positive has a higher score than a negative; ties count half."""
    from scipy.stats import rankdata

    n, total = int(positive.sum()), len(positive)
    if n in (0, total):
        return float("nan")
    rank = rankdata(scores)
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (total - n)))


def calibration_bins(p: FloatArray, happened: BoolArray, n_bins: int = 10) -> list[tuple[float, float, int]]:
    """Reliability: mean probability, share that happened and count, in bins of equal count."""
    order = np.argsort(p, kind="stable")
    bins = [b for b in np.array_split(order, n_bins) if len(b)]
    return [(float(p[b].mean()), float(happened[b].mean()), len(b)) for b in bins]
