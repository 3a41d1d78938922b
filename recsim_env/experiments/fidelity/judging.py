"""One judge under the protocol of one seed: everything that is measured of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsim_env.draws import Draws
from recsim_env.experiments.fidelity.classifier import history_features, told_apart
from recsim_env.experiments.fidelity.judges import Judge
from recsim_env.experiments.fidelity.measures import (
    best_threshold,
    calibration_bins,
    choose,
    group_f1,
    jensen_shannon,
    mark_shares,
    ndcg_ties,
    preference_f1,
    spread_ratio,
    user_means,
    wasserstein,
)
from recsim_env.experiments.fidelity.protocol import Groups, Parts, Protocol, make_groups, rated_rows
from recsim_env.records import BoolArray, FloatArray, IntArray, Ratings

CALIBRATED_M = 3
"""The groups on which the calibration of watching is shown: a quarter of them was watched."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What all judges of one seed are asked.

    Attributes:
        parts: The split.
        validation: Candidate groups of the validation part by m.
        test: Candidate groups of the test part by m.
        rated: A few test ratings of each user.
        rated_validation: As many validation ratings.
        histories: Longer runs of test ratings, by user, then time.
        draws: Of the seed.
    """

    parts: Parts
    validation: dict[int, Groups]
    test: dict[int, Groups]
    rated: Ratings
    rated_validation: Ratings
    histories: Ratings
    draws: Draws

    @classmethod
    def of(cls, parts: Parts, protocol: Protocol, draws: Draws) -> Task:
        """Draws groups and rows."""
        made = {
            purpose: {m: make_groups(parts, held, m, protocol, draws, purpose) for m in protocol.negatives}
            for purpose, held in (("validation", parts.validation), ("test", parts.test))
        }
        return cls(
            parts, made["validation"], made["test"], rated_rows(parts, protocol.rated_rows, draws, "rated"),
            rated_rows(parts, protocol.rated_rows, draws, "rated-validation", parts.validation),
            rated_rows(parts, protocol.history_rows, draws, "histories"), draws,
        )  # fmt: skip

    def only(self, users: IntArray) -> Task:
        """The same for some of the users."""

        def some(groups: dict[int, Groups]) -> dict[int, Groups]:
            kept = {m: np.isin(g.user, users) for m, g in groups.items()}
            return {m: Groups(m, g.user[kept[m]], g.items[kept[m]], g.positive[kept[m]]) for m, g in groups.items()}

        def rows(ratings: Ratings) -> Ratings:
            return ratings.take(np.isin(ratings.user_index, users))

        return Task(
            self.parts, some(self.validation), some(self.test), rows(self.rated), rows(self.rated_validation),
            rows(self.histories), self.draws,
        )  # fmt: skip


@dataclass(slots=True, eq=False)
class Verdict:
    """Figures of one judge and seed.

    Attributes:
        per_user: By measure: users int (n,) and their figures float (n,).
        overall: By measure: one figure.
        shares: float (G,), histogram of the simulated stars.
        watch_bins: Calibration of p(watch): (mean p, share watched, count) in bins; empty where there is no p.
        mark_bins: Calibration of p(the mark is at least "liked").
        thresholds: By m.
    """

    per_user: dict[str, tuple[IntArray, FloatArray]] = field(default_factory=dict)
    overall: dict[str, float] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    watch_bins: list[Any] = field(default_factory=list)
    mark_bins: list[Any] = field(default_factory=list)
    thresholds: dict[int, float] = field(default_factory=dict)


def judge_task(judge: Judge, task: Task) -> Verdict:
    """Asks a judge everything and measures its answers; replies that could not be used count as the worst answer."""
    verdict = Verdict()
    bad = [_interaction(judge, task, m, verdict) for m in task.test]
    bad.append(_rating(judge, task, verdict))
    bad.append(_history(judge, task, verdict))
    verdict.overall["bad"] = float(np.mean(np.concatenate(bad)))
    return verdict


def scored(judge: Judge, groups: Groups) -> tuple[FloatArray, BoolArray]:
    """Scores float (Q, S), NaN where padded, a bad reply at the wrong end; and bad replies bool (n,)."""
    values, bad = judge.watch(*groups.pairs())
    wrong = np.where(groups.positive[groups.shown], -np.inf, np.inf)
    return groups.spread(np.where(bad, wrong, values)), bad


def _interaction(judge: Judge, task: Task, m: int, verdict: Verdict) -> BoolArray:
    known, bad_known = scored(judge, task.validation[m])
    threshold = best_threshold(known, task.validation[m].positive, task.validation[m].user)
    groups = task.test[m]
    scores, bad = scored(judge, groups)
    verdict.thresholds[m] = threshold
    verdict.per_user[f"f1_m{m}"] = user_means(group_f1(choose(scores, threshold), groups.positive), groups.user)
    verdict.per_user[f"ndcg_m{m}"] = user_means(ndcg_ties(scores, groups.positive), groups.user)
    if judge.probabilistic and m == CALIBRATED_M:
        shown = groups.shown
        p = 1.0 / (1.0 + np.exp(-scores[shown].clip(-30, 30)))
        verdict.overall["positive_share"] = float(p[~bad].mean()) if (~bad).any() else float("nan")
        verdict.overall["positive_share_real"] = float(groups.positive[shown].mean())
        verdict.watch_bins = calibration_bins(p[~bad], groups.positive[shown][~bad])
    return np.concatenate([bad_known, bad])


def sampled(marks: FloatArray, bad: BoolArray, rows: Ratings, levels: FloatArray, draws: Draws) -> FloatArray:
    """Stars drawn from distributions with the luck of user and film, float (n,); the worst star for a bad reply."""
    keys = draws.keys("fidelity-stars", rows.user_index)
    luck = draws.uniforms(keys, rows.item_index[:, None].astype(np.int64))[:, 0]
    cumulative = np.cumsum(marks.astype(np.float64), axis=1)
    place = (luck[:, None] * cumulative[:, -1:] > cumulative).sum(axis=1)
    return np.where(bad, _worst(rows.rating, levels), levels[np.minimum(place, len(levels) - 1)]).astype(np.float32)


def _worst(real: FloatArray, levels: FloatArray) -> FloatArray:
    return np.where(real - levels[0] > levels[-1] - real, levels[0], levels[-1])


def _rating(judge: Judge, task: Task, verdict: Verdict) -> BoolArray:
    rows, scale = task.rated, task.parts.whole.catalog.scale
    levels = scale.levels
    marks, bad = judge.marks(rows.user_index.astype(np.int64), rows.item_index.astype(np.int64))
    expected = np.where(bad, _worst(rows.rating, levels), marks @ levels)
    off = expected - rows.rating
    users, absolute = user_means(np.abs(off), rows.user_index)
    verdict.per_user["mae"] = users, absolute
    verdict.per_user["rmse"] = users, np.sqrt(user_means(off**2, rows.user_index)[1])
    likes = marks[:, levels >= scale.liked_from() - 1e-6].sum(axis=1)
    real = rows.rating >= scale.liked_from() - 1e-6
    said = np.where(bad, ~real, likes > 0.5)
    verdict.per_user["preference_f1"] = preference_f1(said, real, rows.user_index)
    stars = sampled(marks, bad, rows, levels, task.draws)
    p, q = mark_shares(stars, levels), mark_shares(rows.rating, levels)
    verdict.shares = p.tolist()
    verdict.overall |= {
        "js": jensen_shannon(p, q),
        "wasserstein": wasserstein(p, q, levels),
        "spread": spread_ratio(stars, rows.rating, rows.user_index),
        "liked_share": float(p[levels >= scale.liked_from() - 1e-6].sum()),
        "liked_share_real": float(real.mean()),
    }
    verdict.mark_bins = calibration_bins(likes[~bad], real[~bad])
    return bad


def _history(judge: Judge, task: Task, verdict: Verdict) -> BoolArray:
    rows, train = task.histories, task.parts.train
    levels = train.catalog.scale.levels
    r = train.ratings
    total = np.bincount(r.item_index, r.rating, train.n_items) + 5.0 * float(r.rating.mean())
    mean = (total / (np.bincount(r.item_index, minlength=train.n_items) + 5.0))[rows.item_index]
    marks, bad = judge.marks(rows.user_index.astype(np.int64), rows.item_index.astype(np.int64))
    stars = sampled(marks, bad, rows, levels, task.draws)
    real = history_features(rows.rating, rows.user_index, mean, levels)
    verdict.overall["auc"] = told_apart(real, history_features(stars, rows.user_index, mean, levels))
    return bad
