"""Filter bubble: does the variety of genres fall under a personalised recommender that learns from clicks?

RecAgent's information cocoon (Wang et al., 2023): the entropy of the genres that users watch, by rounds of a
recommender that is trained again on what they did. What is shown is measured beside (Nguyen et al., "Exploring the
filter bubble", WWW 2014). Entropy grows with the number of films it is taken of, so what is watched is measured over a
fixed number: the ten films that a user watched last, of those users who had watched ten by a third of the days.
"""

from __future__ import annotations

import numpy as np

from recsim_env.evaluation.beyond_accuracy import category_mass, entropy
from recsim_env.evaluation.tables import category_matrix
from recsim_env.experiments.studies.base import Arm, Claim, Measured, Panel, Study
from recsim_env.records import BoolArray, FloatArray, IntArray
from recsim_env.rundir import Run

LAST = 10
"""Films over which the entropy of what is watched is taken."""
SPAN = 5
"""Days that are averaged at both ends to tell how much an entropy fell."""


def measure(run: Run) -> Measured:
    """Entropies by day, means over users, in bits."""
    days, n_users = int(run.manifest["scenario"]["days"]), len(run.users)
    _, genres = category_matrix(run.items["categories"])
    rows = run.table("impressions", ["user", "day", "session", "turn", "position", "item", "clicked"])
    rows = rows[rows["item"] < len(genres)].sort_values(["user", "day", "session", "turn", "position"], kind="stable")
    user, day, item = (rows[name].to_numpy(np.int64) for name in ("user", "day", "item"))
    mass = category_mass(user * days + day, item, genres, n_users * days)
    shown = _mean(entropy(mass).reshape(n_users, days))
    clicked = rows["clicked"].to_numpy(np.bool_)
    last = entropy_of_last(user[clicked], day[clicked], item[clicked], genres, n_users, days)
    third = days // 3
    watched = np.where(np.arange(days) >= third, _mean(last[np.isfinite(last[:, third])]), np.nan)
    return Measured(
        {"watched": watched.tolist(), "shown": shown.tolist()},
        {
            "watched, change": _end(watched) - float(np.mean(watched[third : third + SPAN])),
            "watched, at the end": _end(watched),
            "shown, change": _end(shown) - float(np.nanmean(shown[:SPAN])),
            "shown, at the end": _end(shown),
        },
    )


def entropy_of_last(
    user: IntArray, day: IntArray, item: IntArray, genres: BoolArray, n_users: int, days: int
) -> FloatArray:
    """Entropy of the genres of the ten films that each user watched last, on each day, float64 (U, D), in bits.

    Args:
        user: int (R,), ascending.
        day: int (R,), ascending within a user.
        item: int (R,), what was watched.
        genres: bool (I, C).
        n_users: U.
        days: D.

    Returns:
        NaN before a user's tenth film.
    """
    weights = genres / np.maximum(genres.sum(axis=1, keepdims=True), 1)
    total = np.vstack([np.zeros(genres.shape[1]), np.cumsum(weights[item], axis=0)])
    full = np.flatnonzero(np.arange(len(user)) - np.searchsorted(user, user) >= LAST - 1)
    found = np.full((n_users, days), np.nan)
    # A later film of the same day overwrites an earlier one; sums of thirds leave crumbs, hence the rounding.
    found[user[full], day[full]] = entropy(np.round(total[full + 1] - total[full + 1 - LAST], 9))
    for d in range(1, days):
        found[:, d] = np.where(np.isnan(found[:, d]), found[:, d - 1], found[:, d])
    return found


def _mean(by_user: FloatArray) -> FloatArray:
    """Mean over the users whose value is known, float64 (D,); NaN where there are none."""
    known = np.isfinite(by_user)
    n = known.sum(axis=0)
    return np.asarray(np.where(known, by_user, 0.0).sum(axis=0) / np.where(n > 0, n, np.nan))


def _end(series: FloatArray) -> float:
    tail = series[-SPAN:]
    return float(tail[np.isfinite(tail)].mean()) if np.isfinite(tail).any() else float("nan")


STUDY = Study(
    name="filter_bubble",
    question="Does the variety of genres fall under a personalised recommender that learns from clicks?",
    scenario="study_filter_bubble",
    arms=(
        Arm("collaborative", "EASE, trained again every day"),
        Arm("fixed tastes", "the same, tastes do not drift", ("population.drift=0",)),
        Arm("content", "similar texts", ("recommenders=text-similarity",)),
        Arm("random", "random", ("recommenders=uniform",)),
    ),
    panels=(
        Panel("watched", "Watched: a user's last ten films", "Day", "Entropy of genres (bits)"),
        Panel("shown", "Shown to a user on a day", "Day", "Entropy of genres (bits)"),
    ),
    outcomes={
        "watched, change": f"bits, last {SPAN} days less the first {SPAN} from a third of the days on",
        "watched, at the end": f"bits, last {SPAN} days",
        "shown, change": f"bits, last {SPAN} days less the first {SPAN}",
        "shown, at the end": f"bits, last {SPAN} days",
    },
    claims=(
        Claim("watched, change", "collaborative", "random", -1),
        Claim("watched, at the end", "collaborative", "random", -1),
        Claim("shown, change", "collaborative", "random", -1),
        Claim("shown, at the end", "collaborative", "random", -1),
        Claim("shown, change", "collaborative", "fixed tastes", -1),
        Claim("watched, at the end", "content", "random", -1),
        Claim("shown, at the end", "content", "random", -1),
    ),
    measure=measure,
)
