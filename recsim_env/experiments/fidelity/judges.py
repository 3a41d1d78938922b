"""Who is judged: user models and baselines without a language model, behind one small interface.

Every judge gives, for pairs of user and film, log-odds of watching (for baselines: any score) and a distribution over
marks. Everything is fitted on the training part; the cut points of ``biases`` and the weights of the prior on the
validation part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from recsim_env.agents.calibration import Calibration, calibrate_prior
from recsim_env.agents.llm import LLMUsers
from recsim_env.agents.preference import Preferences, cut_points, fit_biases
from recsim_env.agents.prior import Prior, SeatedPrior
from recsim_env.data.coratings import ease_weights, interaction_matrix
from recsim_env.draws import Draws
from recsim_env.experiments.fidelity.protocol import Parts
from recsim_env.interfaces import UserModel
from recsim_env.records import BoolArray, FloatArray, IntArray, Users

SMOOTHING = 5.0
"""Ratings whose weight pulls an item's or a user's histogram of stars towards everybody's."""
PAIRS_AT_ONCE = 4096
"""Pairs that a user model judges in one call."""


class Judge(ABC):
    """Says what users would do. Users are rows of the data set.

    Attributes:
        probabilistic: Its scores are log-odds of watching; for others they only rank.
    """

    probabilistic: bool = False

    @abstractmethod
    def watch(self, users: IntArray, items: IntArray) -> tuple[FloatArray, BoolArray]:
        """Scores or log-odds of watching float (n,), and where there was no usable reply bool (n,)."""

    @abstractmethod
    def marks(self, users: IntArray, items: IntArray) -> tuple[FloatArray, BoolArray]:
        """Probability of each level float (n, G), and where there was no usable reply bool (n,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Baseline(Judge):
    """A judge out of two functions of (users, items)."""

    score: Callable[[IntArray, IntArray], FloatArray]
    shares: Callable[[IntArray, IntArray], FloatArray]
    probabilistic: bool = False

    def watch(self, users: IntArray, items: IntArray) -> tuple[FloatArray, BoolArray]:
        """The score."""
        return self.score(users, items), np.zeros(len(users), np.bool_)

    def marks(self, users: IntArray, items: IntArray) -> tuple[FloatArray, BoolArray]:
        """The shares."""
        return self.shares(users, items), np.zeros(len(users), np.bool_)


class ModelJudge(Judge):
    """A user model in whose population sit the users who are judged.

    Args:
        model: Fitted and seated.
        users: int (P,), rows of the data set in the order of the population.
        on_pairs: Called with the number of pairs judged so far.
    """

    probabilistic = True

    def __init__(self, model: UserModel, users: IntArray, on_pairs: Callable[[int], None] = lambda _: None) -> None:
        self.model, self.users, self.on_pairs, self._done = model, users, on_pairs, 0

    def watch(self, users: IntArray, items: IntArray) -> tuple[FloatArray, BoolArray]:
        """Log-odds of watching; language models are not asked for marks."""
        if isinstance(self.model, LLMUsers):
            return self._in_blocks(self.model.judge_watch, users, items)
        return self._in_blocks(lambda r, i: ((j := self.model.judge(r, i)).log_odds, j.bad), users, items)

    def marks(self, users: IntArray, items: IntArray) -> tuple[FloatArray, BoolArray]:
        """Probabilities of marks; language models are not asked whether they watch."""
        if isinstance(self.model, LLMUsers):
            return self._in_blocks(self.model.judge_marks, users, items)
        return self._in_blocks(lambda r, i: ((j := self.model.judge(r, i)).marks, j.bad), users, items)

    def rows(self, users: IntArray) -> IntArray:
        """Rows of the population."""
        return np.searchsorted(self.users, users)

    def _in_blocks(self, ask: Any, users: IntArray, items: IntArray) -> tuple[FloatArray, BoolArray]:
        rows, items = self.rows(users), items.astype(np.int64)
        found = []
        for start in range(0, max(len(rows), 1), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            found.append(ask(rows[part], items[part]))
            self._done += len(rows[part])
            self.on_pairs(self._done)
        values, bad = (np.concatenate(part) for part in zip(*found, strict=True))
        return values, bad


def population(parts: Parts, users: IntArray) -> Users:
    """Some of the data set's users, who remember their training part."""
    data = parts.train
    profile = {name: values[users] for name, values in data.profile.items()}
    return Users(data.user_id[users], users.astype(np.int64), profile, data.histories().take(users))


def seat(model: UserModel, parts: Parts, users: IntArray, draws: Draws) -> UserModel:
    """Fits a user model on the training part and seats the users who are judged; weights come from validation."""
    fit_parts = getattr(model, "fit_parts", None)
    if fit_parts is None:
        model.fit(parts.train, draws)
    else:
        fit_parts(parts.train, parts.validation, draws)
    model.reset(population(parts, users), draws)
    return model


def baselines(parts: Parts, draws: Draws) -> dict[str, Callable[[], Judge]]:
    """All judges without a user model, by name, made when they are called."""
    train, levels = parts.train, parts.train.catalog.scale.levels
    r = train.ratings
    level = np.abs(r.rating[:, None] - levels).argmin(axis=1)
    overall = np.bincount(level, minlength=len(levels)) / len(r)

    def histogram(index: IntArray, n: int) -> FloatArray:
        counts = np.zeros((n, len(levels)))
        np.add.at(counts, (index, level), 1.0)
        counts += SMOOTHING * overall
        return counts / counts.sum(axis=1, keepdims=True)

    by_item, by_user = histogram(r.item_index, train.n_items), histogram(r.user_index, train.n_users)
    popularity = train.catalog.popularity.astype(np.float64)

    def item_marks(users: IntArray, items: IntArray) -> FloatArray:
        return by_item[items]

    def user_marks(users: IntArray, items: IntArray) -> FloatArray:
        return by_user[users]

    def bias_judge(score: Callable[[IntArray, IntArray], FloatArray] | None = None) -> Judge:
        mean, user_bias, item_bias = fit_biases(r, train.n_users, train.n_items)

        def latent(users: IntArray, items: IntArray) -> FloatArray:
            return np.asarray(mean + user_bias[users] + item_bias[items], np.float64)

        held = parts.validation
        scores = latent(held.user_index, held.item_index)
        sigma = np.full(len(held), float((held.rating - scores).std()))
        cuts = cut_points(scores, sigma, held.rating, levels)

        def shares(users: IntArray, items: IntArray) -> FloatArray:
            at_most = ndtr((cuts - latent(users, items)[:, None]) / sigma[0])
            return np.diff(at_most, axis=1, prepend=0.0, append=1.0)

        return Baseline(latent if score is None else score, shares)

    def ease() -> Judge:
        matrix = interaction_matrix(train)
        scores = matrix[parts.users] @ ease_weights(matrix, 500.0)
        return bias_judge(lambda users, items: scores[np.searchsorted(parts.users, users), items])

    return {
        "popularity": lambda: Baseline(lambda users, items: popularity[items], item_marks),
        "item mean": lambda: Baseline(lambda users, items: by_item[items] @ levels, item_marks),
        "user mean": lambda: Baseline(lambda users, items: by_user[users] @ levels, user_marks),
        "biases": bias_judge,
        "EASE": ease,
    }


def factors_judge(preferences: Preferences) -> Judge:
    """Biases and factors, as behavioural users have them; the score of a film is its latent star."""

    def score(users: IntArray, items: IntArray) -> FloatArray:
        return preferences.scores(preferences.tastes, users, items)

    def shares(users: IntArray, items: IntArray) -> FloatArray:
        return preferences.star_shares(score(users, items), preferences.tastes.noise[users])

    return Baseline(score, shares)


def prior_judge(parts: Parts, draws: Draws, per_positive: int = 3) -> tuple[Judge, Calibration]:
    """The hybrid users' prior alone, and its weights."""
    prior = Prior.fit(parts.train, draws)
    weights = calibrate_prior(prior, parts.train, parts.validation, draws, per_positive)
    seated = SeatedPrior(prior, prior.tastes, np.arange(parts.train.n_users))

    def score(users: IntArray, items: IntArray) -> FloatArray:
        return weights.watch_log_odds(seated.features(users, items))

    def shares(users: IntArray, items: IntArray) -> FloatArray:
        return weights.marks(seated.scores(users, items), weights.noise[users])

    return Baseline(score, shares, probabilistic=True), weights
