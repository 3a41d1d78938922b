"""What users had heard of items from others, from a run folder's ``opinions`` and ``friends``."""

from __future__ import annotations

import pandas as pd

from recsim_env.rundir import Run


def opinions_heard(run: Run) -> pd.DataFrame:
    """Every opinion once for each user whom it reached, on the evening of ``day``.

    Returns:
        Columns ``day``, ``speaker``, ``receiver``, ``item``, ``stars`` and ``valence``.
    """
    told = run.opinions
    ties = run.friends[["user", "friend"]].rename(columns={"friend": "receiver"})
    posts = told[told["to"] < 0].merge(ties, on="user")
    chats = told[told["to"] >= 0].rename(columns={"to": "receiver"})
    heard = pd.concat([posts, chats], ignore_index=True).rename(columns={"user": "speaker"})
    return heard[["day", "speaker", "receiver", "item", "stars", "valence"]]
