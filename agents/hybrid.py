"""Hybrid users: a collaborative prior and a language model decide together; the model speaks.

Language-model users (:mod:`recsim_env.agents.llm`) whose first two decisions are mended: whether an item is watched,
and which mark it gets, are drawn from the prior's probabilities (:mod:`recsim_env.agents.prior`) combined with the
model's by weights fitted on held-out ratings (:mod:`recsim_env.agents.calibration`). Fractions, likes, mood, what next
and all words are the model's. With ``use_llm: false`` its word does not count in the two decisions; it still speaks.

Not modelled: what the prior cannot know (mood, wishes, what stands on the page) moves the two decisions only through
the model's part, so not at all with ``use_llm: false``, but for ``again_penalty``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy.special import expit

from recsim_env.agents.calibration import Calibration, blend_marks, blend_watch, calibrate_prior, held_out_pairs
from recsim_env.agents.judging import read_marks, tempered
from recsim_env.agents.llm import LLMConfig, LLMUsers
from recsim_env.agents.page import Enjoyed, enjoy
from recsim_env.agents.prior import Prior
from recsim_env.agents.scene import Scene
from recsim_env.agents.watching import drawn, pointwise
from recsim_env.data.splits import share_of_each
from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.records import BoolArray, Dataset, FloatArray, IntArray, Judgement, Ratings, Users


class HybridConfig(LLMConfig):
    """Settings of hybrid users: those of language-model users, and the prior's."""

    decide: Literal["pointwise"] = "pointwise"
    """Every item on its own: the only way that has a probability to combine with."""
    use_llm: bool = True
    """Combine the prior with the language model's log-probabilities; false is the prior alone."""
    calibration: Path | None = None
    """Weights that were fitted before (``calibration.npz``); null fits them on a held-out part of the ratings."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of each user's ratings on which the weights are fitted."""
    per_positive: int = Field(default=3, ge=1)
    """Random unrated items for each held-out one: how often people watch what they are shown, on such pages."""
    calibration_pairs: int = Field(default=2000, ge=50)
    """Pairs that the language model judges for the fit of its weights, once for watching and once for marks."""
    n_factors: int = Field(default=16, ge=1)
    """Factors of the prior's stars."""
    n_interests: int = Field(default=32, ge=1)
    """Dimensions of the prior's interest."""
    regularisation: float = Field(default=500.0, gt=0)
    """EASE's lambda."""
    again_penalty: float = Field(default=3.0, ge=0)
    """Taken from the log-odds of items watched before; an assumption, as for behavioural users."""


class HybridUsers(LLMUsers):
    """Language-model users whose watching and marks lean on a collaborative prior fitted on real ratings."""

    config_class = HybridConfig
    config: HybridConfig

    def fit(self, dataset: Dataset, draws: Draws) -> None:
        """Fits the weights on a held-out part of the ratings (or loads them), then the prior on all ratings."""
        c = self.config
        if c.calibration is None:
            held = share_of_each(dataset, c.held_out, draws)
            train = dataset.with_ratings(dataset.ratings.take(~held))
            self.fit_parts(train, dataset.ratings.take(held), draws)
        else:
            self.calibration = Calibration.load(c.calibration, dataset)
        if c.use_llm and not self.calibration.with_model:
            raise ScenarioError(
                f"users.calibration: {c.calibration} was fitted without a language model. Set users.use_llm=false, or "
                "users.calibration to null to fit it anew."
            )
        super().fit(dataset, draws)
        self.prior = self._fit_prior(dataset, draws)

    def fit_parts(self, train: Dataset, held_out: Ratings, draws: Draws) -> None:
        """Fits the prior on one part and the weights on the other; nothing else is looked at.

        Args:
            train: The ratings that the users may know.
            held_out: Ratings of the same users and items for the weights.
            draws: Of the run.
        """
        c = self.config
        super().fit(train, draws)
        self.prior = self._fit_prior(train, draws)
        self.calibration = calibrate_prior(self.prior, train, held_out, draws, c.per_positive)
        if c.use_llm:
            self._blend(train, held_out, draws)

    def _fit_prior(self, dataset: Dataset, draws: Draws) -> Prior:
        c = self.config
        return Prior.fit(dataset, draws, c.n_factors, c.n_interests, c.regularisation)

    def _blend(self, train: Dataset, held_out: Ratings, draws: Draws) -> None:
        """Asks the language model about some held-out pairs and fits the weights of its word."""
        c = self.config
        pairs = held_out_pairs(train, held_out, c.per_positive, draws)
        some = draws.permutation("blend-watch", len(pairs.user))[: c.calibration_pairs]
        rated = draws.permutation("blend-marks", len(held_out))[: c.calibration_pairs]
        rows = np.unique(np.concatenate([pairs.user[some], held_out.user_index[rated]]))
        profile = {name: values[rows] for name, values in train.profile.items()}
        self.reset(Users(train.user_id[rows], rows, profile, train.histories().take(rows)), draws)
        own = np.searchsorted(rows, pairs.user[some])
        model, bad = super().judge_watch(own, pairs.item[some])
        good = ~bad
        prior = self.calibration.watch_log_odds(self.seat.features(own, pairs.item[some]))
        watch = blend_watch(prior[good], model[good], pairs.picked[some][good])
        own, items = np.searchsorted(rows, held_out.user_index[rated]), held_out.item_index[rated].astype(np.int64)
        marks, bad = super().judge_marks(own, items)
        good = ~bad
        level = np.abs(held_out.rating[rated][:, None] - train.catalog.scale.levels).argmin(axis=1)
        pooled = blend_marks(self._prior_marks(own, items)[good], marks[good], level[good])
        self.calibration = replace(self.calibration, blend_watch=watch, blend_marks=pooled, with_model=True)

    def save_calibration(self, path: Path) -> None:
        """Writes the weights, for ``users.calibration``."""
        self.calibration.save(path)

    def reset(self, users: Users, draws: Draws) -> None:
        """Seats a population."""
        super().reset(users, draws)
        c = self.calibration
        self.seat = self.prior.seat(users, c.noise_levels, c.noise, draws)

    def judge(self, rows: IntArray, items: IntArray) -> Judgement:
        """The combined probabilities of watching (each item on its own) and of marks."""
        log_odds, bad = self.judge_watch(rows, items)
        marks, bad_marks = self.judge_marks(rows, items)
        return Judgement(log_odds, marks, bad | bad_marks)

    def judge_watch(self, rows: IntArray, items: IntArray, again: bool = False) -> tuple[FloatArray, BoolArray]:
        """Combined log-odds of watching float32 (n,), and where the model's reply could not be used."""
        model, bad = None, np.zeros(len(rows), np.bool_)
        if self.config.use_llm:
            model, bad = super().judge_watch(rows, items, again)
        log_odds = self._log_odds(rows, items, model) - self.config.again_penalty * again
        return log_odds.astype(np.float32), bad

    def judge_marks(self, rows: IntArray, items: IntArray) -> tuple[FloatArray, BoolArray]:
        """Combined probabilities of marks float32 (n, G), and where the model's reply could not be used."""
        model, bad = None, np.zeros(len(rows), np.bool_)
        if self.config.use_llm:
            model, bad = super().judge_marks(rows, items)
        return self._prior_marks(rows, items, model).astype(np.float32), bad

    def _log_odds(self, rows: IntArray, items: IntArray, model: FloatArray | None) -> FloatArray:
        """``model`` holds the language model's log-odds, ``watch_bias`` included."""
        bias = self.config.watch_bias
        if model is None:
            return self.calibration.watch_log_odds(self.seat.features(rows, items)) + bias
        return self.calibration.watch_log_odds(self.seat.features(rows, items), model - bias) + bias

    def _prior_marks(self, rows: IntArray, items: IntArray, model: FloatArray | None = None) -> FloatArray:
        return self.calibration.marks(self.seat.scores(rows, items), self.seat.tastes.noise[rows], model)

    def _watch(self, scene: Scene) -> tuple[Any, FloatArray]:
        """Phase 1 with the combined probability."""
        users, places = np.nonzero(scene.shown)
        rows, items = scene.obs.user_index[users], scene.items[users, places].astype(np.int64)
        model = None
        if self.config.use_llm:
            _, said = pointwise(scene, self.config.watch_bias)
            p = said[users, places].astype(np.float64).clip(1e-6, 1 - 1e-6)
            model = np.log(p / (1 - p))
        log_odds = self._log_odds(rows, items, model) - self.config.again_penalty * scene.seen[users, places]
        combined = np.zeros(scene.items.shape, np.float32)
        combined[users, places] = expit(log_odds)
        return drawn(scene, combined), combined

    def _enjoy(self, scene: Scene, clicked: Any) -> Enjoyed:
        """Phase 2 with the combined marks; whether a mark is given at all stays the model's decision."""

        def changed(users: IntArray, items: IntArray, said: FloatArray) -> FloatArray:
            rows, model = scene.obs.user_index[users], None
            if self.config.use_llm:
                model = tempered(read_marks(list(said)), self.config.mark_temperature)
            marks = self._prior_marks(rows, items.astype(np.int64), model)
            return np.concatenate([said[:, :1], (1.0 - said[:, :1]) * marks], axis=1)

        return enjoy(scene, clicked, self.stars, self.config.comments, changed)
