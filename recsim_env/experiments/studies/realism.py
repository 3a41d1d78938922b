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
    shown = run.table("impressions", ["recommender", "position", "item", "clicked", "rating"])
    films, variety = [], []
    for name in RECOMMENDERS:
        rows = shown[shown["recommender"] == name]
        page = np.cumsum(rows["position"].to_numpy() == 0) - 1  # the rows of a page stand together
        n_pages = int(page[-1]) + 1
        films.append(float(rows["clicked"].sum() / n_pages))
        mass = category_mass(page, rows["item"].to_numpy(np.int64), genres, n_pages)
        variety.append(float(np.nanmean(entropy(mass))))
    cells = {cell["recommender"]: cell for cell in run.manifest["cells"]}
    seconds = [cells[name]["cpu_seconds"] / cells[name]["n_turns"] for name in RECOMMENDERS]
    n_turns = sum(cell["n_turns"] for cell in cells.values())

    def tokens(kind: str) -> float:
        return float(sum(cell.get("engine", {}).get(kind, 0) for cell in cells.values()) / n_turns)

    return Measured(
        {"films": films, "variety": variety, "seconds": seconds},
        {
            "films, EASE over random": films[1] / films[0] if films[0] else float("nan"),
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


LANGUAGE = ("users.averages=true", "users.watch_bias=-1.5", "engine.name=transformers", "engine.model=builtin")

STUDY = Study(
    name="realism",
    question="What do users with a language model cost, and do they change what a study finds?",
    scenario="study_realism",
    arms=(
        Arm("llm", "language model", ("users.model=llm", *LANGUAGE)),
        Arm("hybrid", "collaborative prior and language model",
            ("users.model=hybrid", "users.calibration_pairs=200", *LANGUAGE)),
        Arm("behavioural", "behavioural", ("users.model=behavioral",)),
    ),
    panels=(
        Panel("films", "Served better?", "Recommender", "Films watched on a page", ("random", "EASE")),
        Panel("variety", "Served more narrowly?", "Recommender", "Entropy of genres on a page (bits)",
              ("random", "EASE")),
        Panel("seconds", "The price", "Recommender", "Processor time of a page (s)", ("random", "EASE"), log=True),
    ),
    outcomes={
        "films, EASE over random": "ratio of the films watched on a page, whatever is watched in all",
        "films, EASE less random": "films watched on a page",
        "genres, EASE less random": "bits; entropy of the genres on a page",
        "films": "films watched on a page of EASE",
        "mark": "mean mark given, both recommenders",
        "seconds": "seconds of processor time a page, without fitting",
        "tokens read": "tokens of prompts a page",
        "tokens computed": "those of them that no earlier prompt began with",
        "tokens written": "tokens a page",
    },
    claims=(
        Claim("films, EASE over random", "llm", "behavioural", -1),
        Claim("films, EASE over random", "hybrid", "behavioural", -1),
        Claim("films, EASE over random", "hybrid", "llm", +1),
        Claim("films, EASE less random", "llm", "behavioural", +1),
        Claim("genres, EASE less random", "llm", "behavioural", +1),
        Claim("seconds", "llm", "behavioural", +1),
        Claim("seconds", "hybrid", "llm", +1),
    ),
    measure=measure,
    words=(),
)  # fmt: skip
