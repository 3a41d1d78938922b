"""The reward model of the doubly robust estimators: ridge regression on a handful of features, cross-fitted by user.

The expected reward at position k is linear in four features: a constant, the item's popularity, the item's own mean
reward in the log (shrunken), and how far its categories match the user's visible history. Each position has its own
coefficients. The users are put into two halves; a user's rewards are predicted by the model of the other half, so
that the estimators stay unbiased however poor the model is.

Kept simple on purpose: because the model is linear, its mean over a policy needs only the policy's mean features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsim_env.records import BoolArray, FloatArray, IntArray

N_FEATURES = 4
SHRINK = 10.0
"""Impressions of an average item that are added to each item's own."""
PENALTY = 1.0
"""Ridge penalty, on all coefficients but the constant."""


@dataclass(frozen=True, slots=True, eq=False)
class ItemFacts:
    """What the model knows of items without any reward; row I stands for an empty position.

    Attributes:
        popularity: float64 (I + 1,), standardised logarithm.
        categories: float64 (I + 1, C), 1 where the item belongs to a category, rows divided by their sum.
    """

    popularity: FloatArray
    categories: FloatArray

    @classmethod
    def of(cls, popularity: IntArray, item_categories: BoolArray) -> ItemFacts:
        """Facts of a catalogue: popularity int (I,), categories bool (I, C)."""
        logs = np.log1p(np.append(popularity, 0).astype(np.float64))
        logs = (logs - logs[:-1].mean()) / max(float(logs[:-1].std()), 1e-9)
        shares = np.vstack([item_categories, np.zeros((1, item_categories.shape[1]))]).astype(np.float64)
        logs[-1] = 0.0
        return cls(logs, shares / np.maximum(shares.sum(axis=1, keepdims=True), 1.0))

    def leaning(self, history: IntArray) -> FloatArray:
        """Category shares of users' visible histories, float64 (n, C) of int (n, L) padded with I."""
        total = np.zeros((len(history), self.categories.shape[1]))
        for column in history.T:  # one event at a time: (n, L, C) at once would be large
            total += self.categories[column]
        return total / np.maximum((history < len(self.popularity) - 1).sum(axis=1, keepdims=True), 1)


@dataclass(frozen=True, slots=True, eq=False)
class RewardModel:
    """Two ridge regressions, one per half of the users.

    Attributes:
        facts: Of the items.
        item_means: float64 (2, I + 1), shrunken mean reward of each item in the rewards that model f was fitted on.
        coefficients: float64 (2, K, 4).
        position_means: float64 (2, K), mean reward of each position there.
    """

    facts: ItemFacts
    item_means: FloatArray
    coefficients: FloatArray
    position_means: FloatArray

    def item_table(self) -> FloatArray:
        """What mean features are made of, float64 (I + 1, 3 + C): popularity, both item means, categories."""
        return np.hstack([self.facts.popularity[:, None], self.item_means.T, self.facts.categories])

    def features(self, half: IntArray, means: FloatArray, leaning: FloatArray) -> FloatArray:
        """Features out of rows of :meth:`item_table` or means of them.

        Args:
            half: int (n,), 0 or 1: the half whose model is used, which is the one that the user is not in.
            means: float (n, K, 3 + C).
            leaning: float (n, C), category shares of the users' histories.

        Returns:
            float64 (n, K, 4).
        """
        own = np.take_along_axis(means[:, :, 1:3], half[:, None, None], axis=2)[:, :, 0]
        # A product, not einsum, which reads foreign memory where there are no categories.
        match = (means[:, :, 3:] @ leaning[:, :, None])[:, :, 0]
        return np.stack([np.ones(own.shape), means[:, :, 0], own, match], axis=2)

    def predict(self, half: IntArray, features: FloatArray) -> FloatArray:
        """Expected rewards, float64 (n, K); positions beyond those of the fit are taken as its last one."""
        return np.einsum("nkf,nkf->nk", features, self.coefficients[:, self._positions(features.shape[1])][half])

    def later(self, half: IntArray, slate_size: int) -> FloatArray:
        """Mean reward of all later positions, float64 (n, K): a constant guess of what is still to come."""
        means = self.position_means[:, self._positions(slate_size)]
        return (means.sum(axis=1, keepdims=True) - np.cumsum(means, axis=1))[half]

    def _positions(self, slate_size: int) -> IntArray:
        return np.minimum(np.arange(slate_size), self.coefficients.shape[1] - 1)


def halves(user: IntArray) -> IntArray:
    """The half whose model predicts each user's rewards, int64 (n,): every second user, by number."""
    return np.asarray(user, np.int64) % 2


def fit(facts: ItemFacts, half: IntArray, items: IntArray, reward: FloatArray, leaning: FloatArray) -> RewardModel:
    """Fits the two models, each on the users whose rewards the other predicts.

    Args:
        facts: Of the items.
        half: int (n,), as :func:`halves` gives it.
        items: int (n, K), the shown slates, padded with I.
        reward: float (n, K).
        leaning: float (n, C).
    """
    k, n_rows = items.shape[1], len(facts.popularity)
    item_means = np.stack([_item_means(items[half != f], reward[half != f], n_rows) for f in (0, 1)])
    position_means = np.stack([reward[half != f].mean(axis=0) if (half != f).any() else np.zeros(k) for f in (0, 1)])
    blank = RewardModel(facts, item_means, np.zeros((2, k, N_FEATURES)), position_means)
    table = blank.item_table()
    coefficients = np.zeros((2, k, N_FEATURES))
    for f in (0, 1):
        rows = np.flatnonzero(half != f)
        gram, moment = np.zeros((k, N_FEATURES, N_FEATURES)), np.zeros((k, N_FEATURES))
        for start in range(0, len(rows), 8192):
            part = rows[start : start + 8192]
            x = blank.features(np.full(len(part), f), table[items[part]], leaning[part])
            gram += np.einsum("nkf,nkg->kfg", x, x)
            moment += np.einsum("nkf,nk->kf", x, reward[part])
        gram[:, range(1, N_FEATURES), range(1, N_FEATURES)] += PENALTY
        gram[:, 0, 0] += 1e-9
        coefficients[f] = np.linalg.solve(gram, moment[:, :, None])[:, :, 0]
    return RewardModel(facts, item_means, coefficients, position_means)


def _item_means(items: IntArray, reward: FloatArray, n_rows: int) -> FloatArray:
    """Shrunken mean reward of each item, float64 (I + 1,)."""
    count = np.bincount(items.ravel(), minlength=n_rows)
    total = np.bincount(items.ravel(), np.asarray(reward, np.float64).ravel(), minlength=n_rows)
    overall = total.sum() / max(count.sum(), 1)
    return np.asarray((total + SHRINK * overall) / (count + SHRINK))
