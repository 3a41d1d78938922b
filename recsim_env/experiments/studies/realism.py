"""Realism: what do users with a language model cost, and do they change what a study finds?

One small question, whether a personalised recommender serves users better and more narrowly than random pages, is asked
of three kinds of users: behavioural, with a language model, and hybrid (a collaborative prior and a language model
decide together). Each run serves the same users by both recommenders, so that their difference is one of the same
people. Prices are those of the days themselves, without fitting users and recommenders: seconds of processor time, and
tokens that the model read and wrote.
"""

from __future__ import annotations

import numpy as np

from recsim_env.evaluation.beyond_accuracy import category_mass, entropy
from recsim_env.evaluation.tables import category_matrix
from recsim_env.experiments.studies.base import Arm, Claim, Measured, Panel, Study
from recsim_env.rundir import Run

RECOMMENDERS = ("uniform", "ease")
"""The recommenders of the scenario, the control first."""


def measure(run: Run) -> Measured:
    """Films watched, genres shown and prices, under both recommenders."""
    _, genres = category_matrix(run.items["categories"])
    n_users = len(run.users)
    shown = run.table("impressions", ["recommender", "user", "position", "item", "clicked", "rating"])
    films, variety = [], []
    for name in RECOMMENDERS:
        rows = shown[shown["recommender"] == name]
        films.append(float(rows["clicked"].sum() / (rows["position"] == 0).sum()))
        mass = category_mass(rows["user"].to_numpy(np.int64), rows["item"].to_numpy(np.int64), genres, n_users)
        variety.append(float(np.nanmean(entropy(mass))))
    cells = {cell["recommender"]: cell for cell in run.manifest["cells"]}
    seconds = [cells[name]["cpu_seconds"] / cells[name]["n_turns"] for name in RECOMMENDERS]
    n_turns = sum(cell["n_turns"] for cell in cells.values())

    def tokens(kind: str) -> float:
        return float(sum(cell.get("engine", {}).get(kind, 0) for cell in cells.values()) / n_turns)

    return Measured(
        {"films": films, "variety": variety, "seconds": seconds},
        {
            "films, EASE less random": films[1] - films[0],
            "genres, EASE less random": variety[1] - variety[0],
            "films": films[1],
            "mark": float(shown["rating"].mean()),
            "seconds": float(sum(cell["cpu_seconds"] for cell in cells.values()) / n_turns),
            "tokens read": tokens("prompt_tokens"),
            "tokens computed": tokens("prompt_tokens") - tokens("cached_tokens"),
            "tokens written": tokens("generated_tokens"),
        },
    )


LANGUAGE = ("users.averages=true", "engine.name=transformers", "engine.model=builtin")

STUDY = Study(
    name="realism",
    question="What do users with a language model cost, and do they change what a study finds?",
    scenario="study_realism",
    arms=(
        Arm("llm", "language model", ("users.model=llm", "users.watch_bias=-1.5", *LANGUAGE)),
        Arm("hybrid", "collaborative prior and language model",
            ("users.model=hybrid", "users.calibration_pairs=200", *LANGUAGE)),
        Arm("behavioural", "behavioural", ("users.model=behavioral",)),
    ),
    panels=(
        Panel("films", "Served better?", "Recommender", "Films watched on a page", ("random", "EASE")),
        Panel("variety", "Served more narrowly?", "Recommender", "Entropy of genres shown to a user (bits)",
              ("random", "EASE")),
        Panel("seconds", "The price", "Recommender", "Processor time of a page (s)", ("random", "EASE"), log=True),
    ),
    outcomes={
        "films, EASE less random": "films watched on a page",
        "genres, EASE less random": "bits; entropy of the genres shown to a user over all days",
        "films": "films watched on a page of EASE",
        "mark": "mean mark given, both recommenders",
        "seconds": "seconds of processor time a page, without fitting",
        "tokens read": "tokens of prompts a page",
        "tokens computed": "those of them that no earlier prompt began with",
        "tokens written": "tokens a page",
    },
    claims=(
        Claim("films, EASE less random", "llm", "behavioural", -1),
        Claim("genres, EASE less random", "llm", "behavioural", +1),
        Claim("films, EASE less random", "hybrid", "behavioural", -1),
        Claim("films, EASE less random", "hybrid", "llm", +1),
        Claim("seconds", "llm", "behavioural", +1),
        Claim("seconds", "hybrid", "llm", +1),
    ),
    measure=measure,
    words=(),
)  # fmt: skip
