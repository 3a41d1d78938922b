"""Conformity: do stars move towards what friends have said, the more so the more of them spoke?

RecAgent's user conformity (Wang et al., 2023). A user's own opinion is the expectation of its star by its own taste,
which the run folder keeps as ``trace_expected_rating``; what it had heard of a film before the day of its star follows
from ``opinions`` and ``friends``. Two figures by the number of opinions heard: which share of the gap between own
opinion and friends' mean the star closed (a regression through the origin), and how far it lies from the own opinion.

Users with a language model have no own taste beside what they have heard: where the run has a survey, own opinion is
the expected star on the evening on which they first hear of a film, before they hear, and the star is the one after.
What that evening does to films of which they hear nothing is taken away: it is no conformity.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsim_env.experiments.studies.base import DEAF, FRIENDLY_WORDS, Arm, Claim, Measured, Panel, Study
from recsim_env.experiments.studies.heard import opinions_heard
from recsim_env.records import FloatArray
from recsim_env.rundir import Run

MOST = 3
"""Opinions heard of a film, from which on they count as one class: more are rare."""
LEAST = 20
"""Stars below which a class tells nothing."""


def measure(run: Run) -> Measured:
    """Figures by the number of opinions heard."""
    given = stars_and_opinions(run)
    rated = asked_before_and_after(run) if len(run.surveys) else given
    own, star, n = rated["own"].to_numpy(), rated["star"].to_numpy(), rated["n"].to_numpy()
    gap, far = rated["friends"].to_numpy() - own, np.abs(star - own)
    classes = np.minimum(n, MOST)
    enough = [c for c in range(MOST + 1) if (classes == c).sum() >= LEAST]
    deviation = [float(far[classes == c].mean()) if c in enough else float("nan") for c in range(MOST + 1)]
    closed = [_closed(gap[classes == c], (star - own)[classes == c]) if c in enough else float("nan")
              for c in range(1, MOST + 1)]  # fmt: skip
    heard = n > 0
    slope = np.polyfit(classes, far, 1)[0] if len(enough) > 1 else float("nan")
    return Measured(
        {"closed": closed, "deviation": deviation},
        {
            "gap closed": _closed(gap[heard], (star - own)[heard]),
            "gap closed, three against one": closed[-1] - closed[0],
            "deviation per opinion": float(slope),
            "share heard of": float((given["n"] > 0).mean()),
        },
    )


def stars_and_opinions(run: Run) -> pd.DataFrame:
    """Every star given, with what its giver had heard of the film before that day.

    Returns:
        Columns ``own`` (expected star by own taste), ``star``, ``n`` (opinions heard) and ``friends`` (their mean, NaN
        where n is 0).
    """
    heard = opinions_heard(run)[["day", "receiver", "item", "stars"]]
    shown = run.table("impressions", ["user", "day", "item", "rating", "trace_expected_rating"])
    rated = shown[shown["rating"].notna()].reset_index(drop=True)
    pairs = rated.reset_index().merge(heard, left_on=["user", "item"], right_on=["receiver", "item"])
    before = pairs[pairs["day_y"] < pairs["day_x"]].groupby("index")["stars"].agg(["size", "mean"])
    before = before.reindex(rated.index)
    return pd.DataFrame(
        {
            "own": rated["trace_expected_rating"].astype(float),
            "star": rated["rating"].astype(float),
            "n": before["size"].fillna(0).astype(int),
            "friends": before["mean"].astype(float),
        }
    )


def asked_before_and_after(run: Run) -> pd.DataFrame:
    """Expected stars before and after the evening on which users first heard of films, and films not heard of.

    Returns:
        Columns as those of :func:`stars_and_opinions`; ``star`` is the expected one after the evening, less what the
        evening did on average to the films that the user did not hear of.
    """
    pair = ["receiver", "item"]
    heard = opinions_heard(run)
    tonight = heard.groupby(["day", *pair])["stars"].mean().rename("friends").reset_index()
    first = heard.groupby(pair)["day"].min().rename("first").reset_index()
    said = run.surveys.rename(columns={"user": "receiver"})
    said = (
        said[said["trace_before"].notna()].merge(first, on=pair, how="left").merge(tonight, "left", on=["day", *pair])
    )
    said = said[(said["heard"] == 0) & ~(said["first"] <= said["day"]) | (said["day"] == said["first"])]
    moved = (said["trace_mark"] - said["trace_before"]).astype(float)
    by_itself = moved.where(said["heard"] == 0).groupby([said["day"], said["receiver"]]).transform("mean")
    known = by_itself.notna()
    own = said["trace_before"].astype(float)
    columns = {"own": own, "star": own + moved - by_itself, "n": said["heard"].astype(int), "friends": said["friends"]}
    return pd.DataFrame(columns)[known].reset_index(drop=True)


def _closed(gap: FloatArray, moved: FloatArray) -> float:
    """Slope through the origin of how far stars moved on how far they could have; NaN without a gap."""
    return float(gap @ moved / (gap @ gap)) if gap.any() else float("nan")


STUDY = Study(
    name="conformity",
    question="Do stars move towards what friends have said, the more so the more of them spoke?",
    scenario="study_conformity",
    arms=(
        Arm("friends", "like-minded friends"),
        Arm("shuffled", "the same graph, users seated at random", ("population.shuffled=true",)),
        Arm("no sway", "friends who move nobody", ("population.conformity=0", "population.sway=0"), DEAF),
    ),
    panels=(
        Panel("closed", "Towards the friends", "Opinions heard of the film", "Share of the gap closed by the star",
              ("1", "2", "3+"), 1),
        Panel("deviation", "Away from oneself", "Opinions heard of the film", "Distance from own opinion (stars)",
              ("0", "1", "2", "3+")),
    ),
    outcomes={
        "gap closed": "share of the gap between own opinion and friends' mean",
        "gap closed, three against one": "the same, three or more opinions heard less one",
        "deviation per opinion": "stars; slope of the distance from the own opinion on the opinions heard (0 to 3)",
        "share heard of": "share of the stars before which something had been heard of the film",
    },
    claims=(
        Claim("gap closed", "friends", "no sway", +1),
        Claim("gap closed, three against one", "friends", "no sway", +1),
        Claim("deviation per opinion", "friends", "no sway", +1),
        Claim("gap closed", "friends", "shuffled", +1),
        Claim("share heard of", "friends", "shuffled", +1),
    ),
    measure=measure,
    words=FRIENDLY_WORDS,
)  # fmt: skip
