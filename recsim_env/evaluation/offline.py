"""The classical offline figure of a recommender, as served: one slate per real user against its held-out ratings."""

from __future__ import annotations

import numpy as np

from recsim_env.data.splits import Split
from recsim_env.draws import Draws
from recsim_env.evaluation.protocols import observations
from recsim_env.evaluation.ranking import score_rankings
from recsim_env.interfaces import Recommender
from recsim_env.records import Histories

ASKED = 200
"""Users, at most, whose slates a recommender with a language model is asked for."""


def offline_metrics(
    recommender: Recommender, split: Split, slate_size: int, history_length: int, draws: Draws
) -> dict[str, float]:
    """nDCG, hit rate and so on of the slates that the users of the data set would be served first.

    Slates are drawn as the policy draws them, temperature and all, so this is the quality that the simulation runs
    with, not the best that the scores could give.

    Args:
        recommender: Fitted on ``split.train``.
        split: Training and test part.
        slate_size: Length of the ranking, K.
        history_length: L, as in the simulation.
        draws: Draws of the run.

    Returns:
        Means as in :meth:`recsim_env.evaluation.ranking.RankingScores.means`.
    """
    data = split.train
    asked = np.arange(data.n_users)
    if recommender.needs_engine and data.n_users > ASKED:
        asked = np.sort(draws.permutation("offline-users", data.n_users)[:ASKED])
    shown = observations(data.catalog, data.histories(), asked, slate_size, history_length)
    top = [recommender.recommend(obs, slate_size, draws).items for _, obs in shown]
    return score_rankings(np.concatenate(top), Histories.from_ratings(split.test, data.n_users).take(asked)).means()
