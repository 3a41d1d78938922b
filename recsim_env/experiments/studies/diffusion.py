"""Diffusion: how far does praise for a film travel through a graph of friends?

Cascades are rebuilt from the run folder alone, as Goel, Watts and Goldstein did from logs ("The structure of online
diffusion networks", EC 2012): whoever watches a film first and had heard it praised before that day is the child of the
one who praised it last; whoever had heard nothing starts a cascade. That is not yet cause: friends who are shown the
same films, or like the same ones, make cascades too. The controls are friends whose words move nobody: what their
cascades come to is chance, likeness and the recommender.
"""

from __future__ import annotations

import numpy as np

from recsim_env.experiments.studies.base import DEAF, FRIENDLY_WORDS, Arm, Claim, Measured, Panel, Study
from recsim_env.experiments.studies.heard import opinions_heard
from recsim_env.records import IntArray
from recsim_env.rundir import Run

SIZES = (2, 3, 5, 10, 20)
"""Sizes of cascades on the axis of the figure."""
STEPS = (1, 2, 3, 4, 5)
"""Steps from the start of a cascade on the axis of the figure."""


def measure(run: Run) -> Measured:
    """Sizes and depths of the cascades of all films."""
    depth, root = cascades(run)
    size = np.bincount(root, minlength=len(root))[np.unique(root)]
    known = len(depth) > 0
    return Measured(
        {
            "size": [float((size >= s).mean()) if known else float("nan") for s in SIZES],
            "depth": [float((depth >= d).mean()) if known else float("nan") for d in STEPS],
        },
        {
            "watched after praise": float((depth > 0).mean()) if known else float("nan"),
            "cascade size": float(size.mean()) if known else float("nan"),
            "largest cascade": float(size.max(initial=0)),
            "deepest cascade": float(depth.max(initial=0)),
        },
    )


def cascades(run: Run) -> tuple[IntArray, IntArray]:
    """The forest of who watched what after whose praise.

    Returns:
        For each first time that a user watched a film: steps from the start of its cascade, and number of the one that
        started it, each int64 (n,).
    """
    shown = run.table("impressions", ["user", "day", "item", "clicked"])
    watched = shown[shown["clicked"]].groupby(["user", "item"], observed=True)["day"].min().reset_index()
    watched["number"] = np.arange(len(watched))
    heard = opinions_heard(run)
    heard = heard[heard["valence"] > 0].rename(columns={"day": "evening"})
    told = watched.merge(heard, left_on=["user", "item"], right_on=["receiver", "item"])
    told = told[told["evening"] < told["day"]].sort_values(["number", "evening", "speaker"], kind="stable")
    told = told.drop_duplicates("number", keep="last")
    speakers = watched[["user", "item", "number"]].rename(columns={"user": "speaker", "number": "source"})
    told = told.merge(speakers, on=["speaker", "item"])  # who praises a film has watched it before
    parent = np.arange(len(watched))
    parent[told["number"]] = told["source"]
    return steps_and_roots(parent)


def steps_and_roots(parent: IntArray) -> tuple[IntArray, IntArray]:
    """Depth and root of every node of a forest, each int64 (n,).

    Args:
        parent: int64 (n,), a root is its own parent.
    """
    depth, root = np.zeros(len(parent), np.int64), np.arange(len(parent))
    while (root != parent[root]).any():
        depth += root != parent[root]
        root = parent[root]
    return depth, root


UNMOVED = ("population.sway=0", "population.curiosity=0")

STUDY = Study(
    name="diffusion",
    question="How far does praise for a film travel through a graph of friends?",
    scenario="study_diffusion",
    arms=(
        Arm("homophilous", "like-minded friends, random pages"),
        Arm("shuffled", "the same graph, users seated at random", ("population.shuffled=true",)),
        Arm("small world", "Watts-Strogatz graph", ("population.graph=watts-strogatz",)),
        Arm("hubs", "Barabási-Albert graph", ("population.graph=barabasi-albert",)),
        Arm("ease", "like-minded friends, EASE", ("recommenders=ease",)),
        Arm("ease deaf", "the same, words move nobody", ("recommenders=ease", *UNMOVED),
            ("recommenders=ease", *DEAF)),
        Arm("deaf", "like-minded friends, random pages, words move nobody", UNMOVED, DEAF),
    ),
    panels=(
        Panel("size", "How large", "Users in the cascade, at least", "Share of cascades", tuple(map(str, SIZES)),
              log=True),
        Panel("depth", "How deep", "Steps from the start of the cascade, at least", "Share of films watched",
              tuple(map(str, STEPS)), log=True),
    ),
    outcomes={
        "watched after praise": "share of the films watched first by a user of which it had heard praise before",
        "cascade size": "users in a cascade, mean",
        "largest cascade": "users",
        "deepest cascade": "steps",
    },
    claims=(
        Claim("cascade size", "homophilous", "deaf", +1),
        Claim("deepest cascade", "homophilous", "deaf", +1),
        Claim("cascade size", "homophilous", "shuffled", +1),
        Claim("largest cascade", "hubs", "small world", +1),
        Claim("deepest cascade", "small world", "hubs", +1),
        Claim("cascade size", "ease", "ease deaf", +1),
        Claim("cascade size", "ease deaf", "deaf", +1),
    ),
    measure=measure,
    words=FRIENDLY_WORDS,
)  # fmt: skip
