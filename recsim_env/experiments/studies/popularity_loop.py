"""Popularity loop: does a recommender that learns from the clicks it caused make users watch the same films?

After Chaney, Stewart and Engelhardt ("How algorithmic confounding in recommendation systems increases homogeneity and
decreases utility", RecSys 2018): how unequally clicks fall on films (Gini), and how much the films of two users overlap
(Jaccard), of pairs of like-minded users and of any two. Both depend on the number of films they are taken of, so it is
a fixed one: the latest clicks of all users, and the ten films that a user watched last. Like-minded pairs are the ties
of a homophilous graph in which nobody speaks, and tastes stay as they are: whatever moves is the recommender. Their
ideal platform, which knows what users like, has no counterpart here; the plainest control is a random recommender.
"""

from __future__ import annotations

import numpy as np

from recsim_env.draws import Draws
from recsim_env.evaluation.beyond_accuracy import exposure_counts, gini, jaccard, random_pairs
from recsim_env.experiments.studies.base import Arm, Claim, Measured, Panel, Study
from recsim_env.records import FloatArray, IntArray
from recsim_env.rundir import Run

LAST = 10
"""Films of a user of which overlaps are taken."""
CLICKS = 5
"""Latest clicks, for each user of the population, of which the Gini coefficient is taken."""
SPAN = 5
"""Days at the end that are averaged."""


def measure(run: Run) -> Measured:
    """Concentration and overlaps by day."""
    days, n_users, n_items = int(run.manifest["scenario"]["days"]), len(run.users), len(run.items)
    rows = run.table("impressions", ["day", "session", "turn", "user", "position", "item", "clicked"])
    n_pages = int((rows["position"] == 0).sum())
    rows = rows[rows["clicked"]].sort_values(["day", "session", "turn", "user", "position"], kind="stable")
    user, day, item = (rows[name].to_numpy(np.int64) for name in ("user", "day", "item"))
    ties = run.friends[["user", "friend"]].to_numpy(np.int64).T
    ties = ties[:, ties[0] < ties[1]]  # each tie once
    strangers = random_pairs(n_users, Draws(0))
    concentration, alike, others = (np.full(days, np.nan) for _ in range(3))
    for d in range(days):
        n = int(np.searchsorted(day, d, side="right"))
        if n >= CLICKS * n_users:
            concentration[d] = gini(exposure_counts(item[n - CLICKS * n_users : n], n_items))
        if d >= days // 3:  # before, few have watched ten films
            who, last = last_films(user[:n], item[:n], n_users)
            alike[d], others[d] = (_mean(jaccard(who, last, n_users, *pairs)) for pairs in (ties, strangers))
    return Measured(
        {"gini": concentration.tolist(), "overlap": alike.tolist()},
        {
            "Gini of clicks": _mean(concentration[-SPAN:]),
            "overlap, like-minded": _mean(alike[-SPAN:]),
            "overlap, any two": _mean(others[-SPAN:]),
            "clicks per page": len(rows) / n_pages,
        },
    )


def last_films(user: IntArray, item: IntArray, n_users: int) -> tuple[IntArray, IntArray]:
    """The ten films that each user watched last, of those who have watched ten: users and films, each int64 (10 n,).

    Args:
        user: int (R,), who watched, in the order of time.
        item: int (R,), what.
        n_users: U.
    """
    order = np.argsort(user, kind="stable")
    end = np.cumsum(np.bincount(user, minlength=n_users))
    who = np.flatnonzero(np.diff(end, prepend=0) >= LAST)
    places = (end[who][:, None] - LAST + np.arange(LAST)).ravel()
    return np.repeat(who, LAST), item[order[places]]


def _mean(values: FloatArray) -> float:
    """Mean of what is known; NaN without any."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


STUDY = Study(
    name="popularity_loop",
    question="Does a recommender that learns from the clicks it caused make users watch the same films?",
    scenario="study_popularity_loop",
    arms=(
        Arm("daily", "EASE, trained again every day"),
        Arm("weekly", "EASE, trained again every week", ("retrain_every=7",)),
        Arm("once", "EASE, trained once", ("retrain_every=0",)),
        Arm("random", "random", ("recommenders=uniform", "retrain_every=0")),
    ),
    panels=(
        Panel("gini", "All users: latest clicks, five a user", "Day", "Gini coefficient over films"),
        Panel("overlap", "Like-minded pairs: last ten films", "Day", "Overlap (mean Jaccard)"),
    ),
    outcomes={
        "Gini of clicks": f"0 to 1, over all films, last {SPAN} days",
        "overlap, like-minded": f"mean Jaccard of the last ten films of like-minded pairs, last {SPAN} days",
        "overlap, any two": "the same, pairs drawn at random",
        "clicks per page": "films watched on a page, all days",
    },
    claims=(
        Claim("Gini of clicks", "daily", "once", +1),
        Claim("overlap, like-minded", "daily", "once", +1),
        Claim("overlap, any two", "daily", "once", +1),
        Claim("clicks per page", "daily", "once", -1),
        Claim("overlap, like-minded", "weekly", "once", +1),
        Claim("overlap, like-minded", "daily", "weekly", +1),
        Claim("Gini of clicks", "once", "random", +1),
        Claim("overlap, like-minded", "once", "random", +1),
    ),
    measure=measure,
)
