"""Cold start: do new items get seen, and do their creators go on, under recommenders that learn from clicks?

Items that nobody has rated compete with known ones (Schein et al., "Methods and metrics for cold-start
recommendations", SIGIR 2002); creators whose items nobody sees stop, and then there is less to recommend (Mladenov et
al., "Optimizing long-term social welfare in recommender systems", ICML 2020). Exposure is told in equal shares: the
impressions of an item on a day over those that it would have if all that is out were shown alike. Items that come out
in the first half of the days are followed for half of the days, so that every age is measured on the same items.
"""

from __future__ import annotations

import numpy as np

from recsim_env.evaluation.beyond_accuracy import gini
from recsim_env.experiments.studies.base import WORDS, Arm, Claim, Measured, Panel, Study
from recsim_env.records import FloatArray
from recsim_env.rundir import Run

SPAN = 5
"""Days that are averaged where an outcome speaks of the last ones."""


def measure(run: Run) -> Measured:
    """Exposure of new items by age; creators and clicks by day."""
    days, n_items = int(run.manifest["scenario"]["days"]), len(run.items)
    rows = run.table("impressions", ["day", "item", "clicked"])
    pages = np.bincount(rows["day"], minlength=days) / int(run.manifest["scenario"]["slate_size"])
    clicks = np.bincount(rows["day"], rows["clicked"], days) / np.where(pages > 0, pages, np.nan)
    rows = rows[rows["item"] < n_items]
    shown = np.bincount(rows["item"] * days + rows["day"], minlength=n_items * days).reshape(n_items, days)
    released = np.full(n_items, days)
    released[run.releases["item"]] = run.releases["day"]
    by_age = exposure_by_age(shown, released)
    people = run.creators
    active = people.groupby("day")["active"].mean().to_numpy(np.float64)
    followed = by_age[: max(days // 2, 1)]  # NaN where a run of a day follows nobody
    return Measured(
        {"age": by_age.tolist(), "active": active.tolist(), "clicks": clicks.tolist()},
        {
            "new items": float(followed.mean()),
            "new items, later": float(followed[-SPAN:].mean()),
            "creators": float(active[-1]),
            "gini": gini(people.groupby("creator")["shown"].sum().to_numpy()),
            "new items out": float(((released > 0) & (released < days)).sum()),
            "clicks": float(rows["clicked"].sum() / pages.sum()),
            "clicks, at the end": float(np.nanmean(clicks[-SPAN:])),
        },
    )


def exposure_by_age(shown: np.ndarray, released: np.ndarray) -> FloatArray:
    """Mean exposure of new items by days since they came out, float64 (D,), in equal shares.

    Args:
        shown: int (I, D), impressions of each item on each day.
        released: int (I,), day on which it came out, D or more for never; 0 is not new.

    Returns:
        NaN from half of the days on, where not all new items are that old, and where there are none.
    """
    n_days = shown.shape[1]
    out = (released[:, None] <= np.arange(n_days)).sum(axis=0)
    fair = shown.sum(axis=0) / np.maximum(out, 1)
    share = shown / np.where(fair > 0, fair, np.nan)
    half = n_days // 2
    found = np.full(n_days, np.nan)
    new = np.flatnonzero((released > 0) & (released <= n_days - half))
    if new.size:
        found[:half] = np.nanmean(share[new[:, None], released[new, None] + np.arange(half)], axis=0)
    return found


STUDY = Study(
    name="cold_start",
    question="Do new items get seen, and do their creators go on, under recommenders that learn from clicks?",
    scenario="study_cold_start",
    arms=(
        Arm("collaborative", "EASE, trained again every day"),
        Arm("popular", "popularity, counted again every day", ("recommenders=popularity",)),
        Arm("exploring", "EASE, every fifth place at random", ("recommenders=[{name: ease, epsilon: 0.2}]",)),
        Arm("content", "similar texts", ("recommenders=text-similarity",)),
        Arm("random", "random", ("recommenders=uniform",)),
    ),
    panels=(
        Panel("age", "New items", "Days since it came out", "Impressions of an item (equal shares)"),
        Panel("active", "Creators", "Day", "Share still active"),
        Panel("clicks", "Users", "Day", "Clicks per page"),
    ),
    outcomes={
        "new items": "mean impressions of an item in the first half of the days after it came out; 1 is an equal share",
        "new items, later": f"the same, in the last {SPAN} days of that time",
        "creators": "share of the creators who are active on the last evening",
        "gini": "Gini coefficient of the impressions of creators, 0 where all have as many",
        "new items out": "items that came out after day 0",
        "clicks": "per page of ten",
        "clicks, at the end": f"the same, last {SPAN} days",
    },
    claims=(
        Claim("new items", "collaborative", "random", -1),
        Claim("new items", "popular", "random", -1),
        Claim("new items", "content", "collaborative", +1),
        Claim("new items", "exploring", "collaborative", +1),
        Claim("creators", "collaborative", "random", -1),
        Claim("creators", "content", "collaborative", +1),
        Claim("creators", "exploring", "collaborative", +1),
        Claim("gini", "collaborative", "random", +1),
        Claim("clicks", "collaborative", "random", +1),
        Claim("clicks", "exploring", "collaborative", -1),
        Claim("clicks", "content", "collaborative", -1),
        Claim("clicks, at the end", "exploring", "collaborative", +1),
    ),
    measure=measure,
    words=(*WORDS, "creators.least=3"),  # as many impressions a user as with 300 users
)
