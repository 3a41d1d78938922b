"""Metrics beyond accuracy: coverage, concentration, novelty, diversity, calibration, homogenisation.

Item arrays hold row numbers of the catalogue; negative ones and ``n_items`` or more are padding and never count.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsim_env.draws import Draws
from recsim_env.records import BoolArray, FloatArray, IntArray


def exposure_counts(items: IntArray, n_items: int) -> NDArray[np.int64]:
    """How often each item was shown, int64 (I,), from item indices of any shape."""
    flat = items.ravel()
    return np.bincount(flat[(flat >= 0) & (flat < n_items)], minlength=n_items)


def coverage(exposure: FloatArray | IntArray) -> float:
    """Share of the catalogue that was shown at all, in [0, 1], from counts (I,) (Ge et al. 2010)."""
    return float(np.mean(exposure > 0)) if len(exposure) else float("nan")


def lorenz(exposure: FloatArray | IntArray) -> tuple[FloatArray, FloatArray]:
    """Lorenz curve of exposure.

    Returns:
        Share of items, least shown first, and their share of all impressions; each float64 (I + 1,) from 0 to 1.
        The second is NaN if nothing was shown.
    """
    ordered = np.sort(exposure).astype(np.float64)
    total = ordered.sum()
    shares = np.concatenate([[0.0], np.cumsum(ordered)]) / (total if total > 0 else np.nan)
    return np.linspace(0.0, 1.0, len(ordered) + 1), shares


def gini(exposure: FloatArray | IntArray) -> float:
    """Gini coefficient of exposure over the whole catalogue, 0 (all alike) to 1 - 1/I (one item has all).

    Twice the area between the diagonal and the Lorenz curve; items never shown count as 0. NaN if nothing was shown.
    """
    _, shares = lorenz(exposure)
    n = len(exposure)
    return (
        float(max(0.0, 1.0 - (shares[1:] + shares[:-1]).sum() / n)) if n and np.isfinite(shares[-1]) else float("nan")
    )


def self_information(popularity: IntArray | FloatArray) -> FloatArray:
    """Novelty of each item in bits, float64 (I,): -log2 of its share of the training ratings (Zhou et al. 2010).

    An item without ratings counts as if it had one: it is as novel as the least rated items, not infinitely so.
    """
    counts = np.maximum(np.asarray(popularity, np.float64), 1.0)
    return np.asarray(-np.log2(counts / counts.sum()))


def novelty(items: IntArray, popularity: IntArray | FloatArray) -> float:
    """Mean :func:`self_information` of shown items in bits, NaN if there are none."""
    shown = exposure_counts(items, len(popularity))
    return float(shown @ self_information(popularity) / shown.sum()) if shown.any() else float("nan")


def intra_list_diversity(
    slates: IntArray, item_categories: BoolArray, similarity: Literal["jaccard", "cosine"] = "jaccard"
) -> FloatArray:
    """Mean dissimilarity of the pairs of items in each list (Smyth and McClave 2001, Ziegler et al. 2005).

    Args:
        slates: int (N, K), item indices.
        item_categories: bool (I, C).
        similarity: Of two items' category sets: intersection over union, or over the root of the sizes' product.

    Returns:
        float64 (N,) in [0, 1]; pairs with an item without categories are left out; NaN where no pair is left.
    """
    n_items = len(item_categories)
    if not n_items or not len(slates):
        return np.full(len(slates), np.nan)
    # Few sets of categories occur, so a table over pairs of sets beats computing with items.
    sets, which = np.unique(item_categories, axis=0, return_inverse=True)
    table = np.full((len(sets) + 1, len(sets) + 1), np.nan)
    sizes = sets.sum(axis=1).astype(np.float64)
    both = sets.astype(np.float64) @ sets.T.astype(np.float64)
    known = (sizes[:, None] > 0) & (sizes > 0)
    norm = sizes[:, None] + sizes - both if similarity == "jaccard" else np.sqrt(sizes[:, None] * sizes)
    table[:-1, :-1] = np.where(known, 1.0 - both / np.where(known, norm, 1.0), np.nan)
    set_of = np.append(which.ravel(), len(sets))  # the last one stands for padding
    kinds = set_of[np.where((slates < 0) | (slates > n_items), n_items, slates)]
    total, pairs = np.zeros(len(slates)), np.zeros(len(slates))
    for i in range(1, slates.shape[1]):
        for j in range(i):
            value = table[kinds[:, i], kinds[:, j]]
            there = ~np.isnan(value)
            total += np.where(there, value, 0.0)
            pairs += there
    mean = np.divide(total, pairs, out=np.full(len(slates), np.nan), where=pairs > 0)
    return np.asarray(np.clip(mean, 0.0, 1.0))


def category_mass(
    owner: IntArray, items: IntArray, item_categories: BoolArray, n_owners: int, weights: FloatArray | None = None
) -> FloatArray:
    """How much of each category the items of each owner hold: an item shares its weight equally among its categories.

    Args:
        owner: int (R,) in [0, n_owners): user, day or whatever the items are grouped by.
        items: int (R,), item indices.
        item_categories: bool (I, C).
        n_owners: Number of groups O.
        weights: float (R,), 1 when None.

    Returns:
        float64 (O, C), not normalised; items without categories add nothing.
    """
    n_items = len(item_categories)
    valid = (items >= 0) & (items < n_items)
    owner, items = owner[valid], items[valid]
    mass = np.ones(len(items)) if weights is None else weights[valid].astype(np.float64)
    matrix = sparse.csr_array((mass, (owner, items)), shape=(n_owners, n_items))
    size = item_categories.sum(axis=1, keepdims=True)
    return np.asarray(matrix @ (item_categories / np.maximum(size, 1)))


def entropy(mass: FloatArray) -> FloatArray:
    """Shannon entropy in bits of distributions (..., C) given up to a factor: 0 to log2 C, NaN where all is 0."""
    p = _shares(mass)
    # Adding 0 turns -0 into 0.
    return np.asarray(-np.where(p == 0, 0.0, p * np.log2(np.where(p > 0, p, 1.0))).sum(axis=-1) + 0.0)


def calibration(history: FloatArray, shown: FloatArray, alpha: float = 0.01) -> FloatArray:
    """Miscalibration: KL divergence in nats of shown categories from those of the user's past (Steck 2018).

    KL(p || (1 - alpha) q + alpha p), where p are the shares of categories in the history and q those in what was
    shown. 0 is perfectly calibrated; -ln alpha (4.6 for 0.01) is the most.

    Args:
        history: float (U, C), category mass of the past, in any unit; see :func:`category_mass`.
        shown: float (U, C), category mass of what was shown.
        alpha: Smoothing in (0, 1).

    Returns:
        float64 (U,), NaN for users without a past or without anything shown.
    """
    p = _shares(history)
    mixed = (1.0 - alpha) * _shares(shown) + alpha * p
    ratio = np.divide(p, mixed, out=np.ones(p.shape), where=p > 0)
    divergence = np.where(p > 0, p * np.log(ratio), 0.0).sum(axis=-1)
    unknown = np.isnan(mixed).any(axis=-1)
    return np.where(unknown, np.nan, np.maximum(divergence, 0.0))


def _shares(mass: FloatArray) -> FloatArray:
    total = mass.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(mass, total, out=np.full(mass.shape, np.nan), where=total > 0))


def random_pairs(n_users: int, draws: Draws, n_pairs: int = 20_000) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of users, each int64 (P,): all if there are at most ``n_pairs``, else that many drawn ones.

    They depend on the number of users only, so that two recommenders are compared on the same pairs.
    """
    if n_users * (n_users - 1) // 2 <= n_pairs:
        first, second = np.triu_indices(n_users, 1)
        return first, second
    bits = Draws.bits(draws.keys("pairs", np.arange(n_pairs)), np.arange(2))
    first = (bits[:, 0] % np.uint64(n_users)).astype(np.int64)
    other = (bits[:, 1] % np.uint64(n_users - 1)).astype(np.int64)
    return first, other + (other >= first)


def jaccard(user: IntArray, item: IntArray, n_users: int, first: IntArray, second: IntArray) -> FloatArray:
    """Jaccard similarity of what the users of each pair consumed.

    Args:
        user: int (R,), consumer of each event.
        item: int (R,), item index of each event, 0 or more; repetitions do not matter.
        n_users: U.
        first: int (P,), a user of each pair.
        second: int (P,), the other.

    Returns:
        float64 (P,) in [0, 1]; NaN where one of both consumed nothing.
    """
    sets = sparse.csr_array((np.ones(len(user), np.int32), (user, item)), shape=(n_users, int(item.max(initial=0)) + 1))
    sets.data[:] = 1  # repetitions were summed
    sizes = np.diff(sets.indptr)
    both = np.asarray(sets[first].multiply(sets[second]).sum(axis=1)).ravel()
    there = (sizes[first] > 0) & (sizes[second] > 0)
    return np.divide(both, sizes[first] + sizes[second] - both, out=np.full(len(first), np.nan), where=there)


def pairwise_jaccard(
    user: IntArray, item: IntArray, n_users: int, draws: Draws, n_pairs: int = 20_000
) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """Jaccard similarity of what pairs of users consumed, without pairs of which one consumed nothing.

    Arguments as in :func:`jaccard` and :func:`random_pairs`.

    Returns:
        The two users int64 (P,) and float64 (P,) in [0, 1].
    """
    first, second = random_pairs(n_users, draws, n_pairs)
    values = jaccard(user, item, n_users, first, second)
    there = np.isfinite(values)
    return first[there], second[there], values[there]


def homogenisation(user: IntArray, item: IntArray, n_users: int, draws: Draws, n_pairs: int = 20_000) -> float:
    """Mean Jaccard similarity of pairs of users' consumed sets, in [0, 1] (Chaney, Stewart and Engelhardt 2018).

    Only its difference from a control run says something: the value itself grows with the size of the sets. NaN if
    no pair consumed anything. Arguments as in :func:`pairwise_jaccard`.
    """
    _, _, values = pairwise_jaccard(user, item, n_users, draws, n_pairs)
    return float(values.mean()) if values.size else float("nan")
