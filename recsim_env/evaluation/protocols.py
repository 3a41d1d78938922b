"""Offline protocols: what is ranked for whom, and how lists are scored.

Rankings are of a recommender's bare preferences: without chance (temperature and exploration are set to 0 where a
recommender has them) and without what users say. Users are known by their history alone, as in a simulation.

- ``last-out``: each user's last rating, ranked among all items that the user has not rated in training.
- ``per-user``: a random share of each user's ratings, all of them relevant, ranked likewise.
- ``sampled``: the target among some drawn items (LLaRA, Liao et al., SIGIR 2024: 19, drawn 100 times): only comparable
  with figures of the same kind (Krichene and Rendle, KDD 2020).
- ``fixed``: candidate lists from a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsim_env.data.splits import Split
from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.evaluation.ranking import RankingScores, score_rankings
from recsim_env.interfaces import Recommender
from recsim_env.records import (
    Catalog,
    Dataset,
    FloatArray,
    Histories,
    IntArray,
    ObservationBatch,
    Ratings,
    Users,
)
from recsim_env.visible import VisibleState

BLOCK = 1024
"""Users who are served at once."""
HISTORY = 200
"""Latest items that a recommender sees."""


def greedy(recommender: Recommender) -> Recommender:
    """The recommender without chance: the same weights, temperature and exploration 0."""
    return _changed(recommender, temperature=0.0, epsilon=0.0)


def _changed(recommender: Recommender, **changes: Any) -> Recommender:
    made = copy(recommender)
    known = {name: value for name, value in changes.items() if name in type(made.config).model_fields}
    made.config = made.config.model_copy(update=known)
    return made


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """Ranked lists of users.

    Attributes:
        users: int64 (N,), rows of the data set.
        top: int32 (N, k), best first, ``n_items`` pads.
        relevant: What is relevant to each of them.
    """

    users: IntArray
    top: IntArray
    relevant: Histories

    def scores(self) -> RankingScores:
        """Ranking figures."""
        return score_rankings(self.top, self.relevant)


def observations(
    catalog: Catalog, histories: Histories, rows: IntArray | None = None, slate_size: int = 1, length: int = HISTORY
) -> Iterator[tuple[IntArray, ObservationBatch]]:
    """What a recommender sees of users who open the app for the first time, some at a time.

    Args:
        catalog: The items.
        histories: What the users have rated.
        rows: int (N,), some of the histories' users; None is all.
        slate_size: Places of the page before, which is empty; at most ``length``.
        length: Latest items that are seen.

    Yields:
        Rows of the histories int64 (n,), and their observation; ``user_index`` is the row.
    """
    asked = np.arange(histories.n_users) if rows is None else rows
    for start in range(0, len(asked), BLOCK):
        some = asked[start : start + BLOCK]
        names = np.array([str(row) for row in some], object)
        state = VisibleState(catalog, Users(names, some, {}, histories.take(some)), slate_size, length)
        yield some, replace(state.observe(np.arange(len(some))), user_index=some)


def ranked(recommender: Recommender, catalog: Catalog, histories: Histories, k: int) -> IntArray:
    """Each user's first ``k`` items of the whole catalogue, int32 (N, k); rated ones are left out."""
    served = greedy(recommender)
    parts = [served.recommend(obs, k, Draws(0)).items for _, obs in observations(catalog, histories)]
    return np.concatenate(parts)


def full_ranking(recommender: Recommender, split: Split, k: int = 10) -> Lists:
    """Lists over the whole catalogue for all users with held-out ratings."""
    data = split.train
    relevant = Histories.from_ratings(split.test, data.n_users)
    users = np.flatnonzero(relevant.lengths > 0)
    top = ranked(recommender, data.catalog, data.histories().take(users), k)
    return Lists(users, top, relevant.take(users))


def candidates_ranked(
    recommender: Recommender, catalog: Catalog, histories: Histories, candidates: IntArray, k: int
) -> IntArray:
    """Each user's best ``k`` of given candidates.

    Args:
        recommender: Fitted.
        catalog: The items.
        histories: Of N users.
        candidates: int (N, M), ``n_items`` pads.
        k: Length of the list.

    Returns:
        int32 (N, k), ``n_items`` pads.
    """
    served = _changed(greedy(recommender), exclude_seen=False)  # candidates are what the protocol says they are
    some = candidates.astype(np.int32)
    parts = [
        served.recommend(replace(obs, candidates=some[rows]), k, Draws(0)).items
        for rows, obs in observations(catalog, histories)
    ]
    return np.concatenate(parts)


def sampled_hits(
    recommender: Recommender, split: Split, size: int, n_draws: int, k: int, draws: Draws
) -> dict[str, FloatArray]:
    """Figures of each user's last rating among drawn items that the user has not rated.

    Args:
        recommender: Fitted on ``split.train``.
        split: One held-out rating per user.
        size: Candidates in all, the target among them.
        n_draws: How often they are drawn.
        k: Length of the lists.
        draws: Luck, by user and number of the draw.

    Returns:
        ``hr``, ``recall``, ``mrr`` and ``ndcg``, each float64 (n_draws, N).
    """
    data = split.train
    held = Histories.from_ratings(split.test, data.n_users)
    users = np.flatnonzero(held.lengths > 0)
    targets = held.items[held.offsets[users]]
    histories = data.histories().take(users)
    served = _changed(greedy(recommender), exclude_seen=False)
    rank = np.empty((n_draws, len(users)), np.int64)
    for rows, obs in observations(data.catalog, histories):
        # One ranking of everything serves all draws: who stands before whom does not depend on the candidates.
        order = served.recommend(obs, data.n_items, Draws(0)).items
        place = np.empty(order.shape, np.int32)
        np.put_along_axis(place, order, np.arange(data.n_items, dtype=np.int32)[None], axis=1)
        own = histories.take(rows)
        for number in range(n_draws):
            others = _others(own, targets[rows], data.n_items, size - 1, draws, users[rows], number)
            beaten = np.take_along_axis(place, others, axis=1) < place[np.arange(len(rows)), targets[rows]][:, None]
            rank[number, rows] = beaten.sum(axis=1)
    listed = rank < k
    hit = listed.astype(np.float64)
    return {
        "hr": hit, "recall": hit, "mrr": np.where(listed, 1.0 / (rank + 1.0), 0.0),
        "ndcg": np.where(listed, 1.0 / np.log2(rank + 2.0), 0.0),
    }  # fmt: skip


def _others(
    histories: Histories, targets: IntArray, n_items: int, count: int, draws: Draws, users: IntArray, number: int
) -> IntArray:
    """Random items that are neither the target nor in the history, all different, int64 (N, count)."""
    luck = draws.uniforms(draws.keys(f"candidates-{number}", users), np.arange(n_items))
    rows = np.arange(len(targets))
    luck[np.repeat(rows, histories.lengths), histories.items] = np.inf
    luck[rows, targets] = np.inf
    return np.argpartition(luck, count - 1, axis=1)[:, :count]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Fixed candidate lists.

    Attributes:
        users: int64 (N,), rows of the data set.
        candidates: int32 (N, M), ``n_items`` pads.
        relevant: The target of each.
    """

    users: IntArray
    candidates: IntArray
    relevant: Histories


def read_candidates(path: Path, data: Dataset, held_out: Ratings) -> Asked:
    """Reads candidate lists from CSV or Parquet.

    Columns: ``user`` (id), ``candidates`` (item ids joined by ``|``) and, if others than the held-out ratings are
    meant, ``target`` (item id).

    Raises:
        ScenarioError: If the file cannot be read, a column is missing, or an id is unknown; says in which row.
    """
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        raise ScenarioError(f"Cannot read the candidate lists {path}: {error}.") from None
    missing = [name for name in ("user", "candidates") if name not in frame]
    if missing:
        raise ScenarioError(f"{path} has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}.")
    user_row = {name: row for row, name in enumerate(data.user_id)}
    item_row = {name: row for row, name in enumerate(data.catalog.item_id)}

    def known(index: dict[str, int], name: Any, what: str, row: int) -> int:
        if str(name) not in index:
            raise ScenarioError(f"{path}, row {row + 1}: the data set has no {what} {str(name)!r}.")
        return index[str(name)]

    users = np.array([known(user_row, name, "user", row) for row, name in enumerate(frame["user"])], np.int64)
    lists = [
        [known(item_row, name, "item", row) for name in str(cell).split("|")]
        for row, cell in enumerate(frame["candidates"])
    ]
    candidates = np.full((len(lists), max(map(len, lists), default=1)), data.n_items, np.int32)
    for row, some in enumerate(lists):
        candidates[row, : len(some)] = some
    if "target" in frame:
        targets = [known(item_row, name, "item", row) for row, name in enumerate(frame["target"])]
        one = np.arange(len(users) + 1, dtype=np.int64)
        relevant = Histories(one, np.array(targets, np.int32), np.full(len(users), np.nan, np.float32))
    else:
        relevant = Histories.from_ratings(held_out, data.n_users).take(users)
    return Asked(users, candidates, relevant)
