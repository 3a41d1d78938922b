"""Polarisation: do like-minded friends and recommenders drive the tastes of two camps apart?

The camps are the halves of the population on either side of the main axis of tastes on day 0; they stay as they are.
Their distance, and how alike friends are, stand in ``population.parquet``. Tastes drift towards what users like and
what they hear praised; what they like depends on what they are shown, and whom they hear on homophily (Dandekar, Goel
and Lee, "Biased assimilation, homophily, and the dynamics of polarization", 2013). Chaney, Stewart and Engelhardt ("How
algorithmic confounding in recommendation systems increases homogeneity", RecSys 2018) found that recommenders make
users alike, so two kinds of them stand here.
"""

from __future__ import annotations

import numpy as np

from recsim_env.experiments.studies.base import DEAF, FRIENDLY_WORDS, Arm, Claim, Measured, Panel, Study
from recsim_env.rundir import Run


def measure(run: Run) -> Measured:
    """Distance of the camps and likeness of friends by day."""
    days = run.population.sort_values("day")
    divide, likeness = (days[name].to_numpy(np.float64) for name in ("trace_divide", "trace_likeness"))
    return Measured(
        {"divide": divide.tolist(), "likeness": likeness.tolist()},
        {
            "distance, change": float(divide[-1] - divide[0]),
            "distance, at the end": float(divide[-1]),
            "likeness, change": float(likeness[-1] - likeness[0]),
        },
    )


STUDY = Study(
    name="polarisation",
    question="Do like-minded friends and recommenders drive the tastes of two camps apart?",
    scenario="study_polarisation",
    arms=(
        Arm("content", "similar texts, like-minded friends"),
        Arm("collaborative", "EASE, like-minded friends", ("recommenders=ease",)),
        Arm("shuffled", "similar texts, friends at random", ("population.shuffled=true",)),
        Arm("silent", "similar texts, friends say nothing", ("population.chat=0", "population.post=0"), DEAF),
        Arm("random", "random recommender, like-minded friends", ("recommenders=uniform",)),
    ),
    panels=(
        Panel("divide", "Two camps", "Day", "Distance of mean tastes (SD of day 0)"),
        Panel("likeness", "Friends", "Day", "Mean cosine of friends' tastes"),
    ),
    outcomes={
        "distance, change": "standard deviations, last day less the first",
        "distance, at the end": "standard deviations of day 0",
        "likeness, change": "mean cosine of friends' tastes, last day less the first",
    },
    claims=(
        Claim("distance, change", "content", "random", +1),
        Claim("distance, change", "collaborative", "random", +1),
        Claim("distance, change", "content", "shuffled", +1),
        Claim("distance, change", "content", "silent", +1),
        Claim("likeness, change", "content", "silent", +1),
    ),
    measure=measure,
    words=FRIENDLY_WORDS,
)
