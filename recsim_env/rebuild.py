"""Observations of a finished run, rebuilt from its folder alone.

The folder holds the catalogue, the population's past and every logged turn; :class:`recsim_env.visible.VisibleState`
turns them back into what the recommender saw, by the code that the simulator itself runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from recsim_env.data.works import candidates_of
from recsim_env.records import (
    SEARCH_POLICY,
    Catalog,
    Feedback,
    Histories,
    ObservationBatch,
    RatingScale,
    SlateBatch,
    Users,
)
from recsim_env.rundir import Run
from recsim_env.visible import VisibleState


def catalog_of(run: Run) -> Catalog:
    """The catalogue of a run (without the items' longer texts, which are not kept in the folder)."""
    table = pq.read_table(run.path / "items.parquet")
    names = tuple(json.loads(table.schema.metadata[b"recsim_env.categories"]))
    frame = table.to_pandas()
    flags = np.array([[name in row for name in names] for row in frame["categories"]], np.bool_)
    return Catalog(
        item_id=frame["item_id"].to_numpy(object),
        title=frame["title"].to_numpy(object),
        categories=names,
        item_categories=flags.reshape(len(frame), len(names)),
        text=np.full(len(frame), "", object),
        year=frame["year"].to_numpy(np.int16),
        popularity=frame["popularity"].to_numpy(np.int64),
        scale=RatingScale(*run.manifest["data"]["scale"]),
    )


def users_of(run: Run, seed: int) -> Users:
    """The population of one replication with its past."""
    frame = run.users[run.users["seed"] == seed]
    lengths = frame["history"].map(len).to_numpy(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def flat(column: str, kind: type) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
        return np.concatenate([*frame[column].tolist(), np.empty(0)]).astype(kind)

    history = Histories(offsets, flat("history", np.int32), flat("history_rating", np.float32))  # type: ignore[arg-type]
    return Users(frame["user_id"].to_numpy(object), frame["data_user"].to_numpy(np.int64), {}, history)


def rebuild(run: Run, cell: str) -> Iterator[tuple[ObservationBatch, SlateBatch, Feedback]]:
    """Every turn of a cell as the recommender lived it, in the order of (day, session, turn).

    Args:
        run: The run.
        cell: Name of the cell as in ``progress.json``, for example ``"ease-seed0"``.

    Yields:
        Observation, slate and reaction of all users at that (day, session, turn), users in ascending order.
    """
    scenario = run.manifest["scenario"]
    when = ["day", "session", "turn", "user"]
    turns = run.table("turns", cell=cell).sort_values(when, kind="stable")
    shown = run.table("impressions", cell=cell).sort_values([*when, "position"], kind="stable")
    k = int(scenario["slate_size"])
    users = users_of(run, int(turns["seed"].iloc[0]))
    catalog = catalog_of(run)
    state = VisibleState(catalog, users, k, int(scenario["history_length"]))
    grid = {name: shown[name].to_numpy().reshape(-1, k) for name in _GRID}
    releases = run.table("releases", cell=cell)
    policies = turns["policy"].to_numpy(object)
    bounds = np.flatnonzero(np.diff(_clock(turns), prepend=-1, append=-1))
    for start, stop in pairwise(bounds.tolist()):
        part = turns.iloc[start:stop]
        rows = part["user"].to_numpy(np.int64)
        first = part["turn"].to_numpy() == 0
        if first.any():
            state.open(rows[first], int(part["day"].iloc[0]), int(part["session"].iloc[0]))
        obs = replace(state.observe(rows), candidates=_candidates(part, releases, catalog.n_items))
        block = {name: values[start:stop] for name, values in grid.items()}
        searched = policies[start:stop] == SEARCH_POLICY
        named, versions = policies[start:stop][~searched], part["version"].to_numpy(object)[~searched]
        slate = SlateBatch(
            block["item"].astype(np.int32), block["propensity"], block["position_propensity"],
            str(named[0]) if len(named) else SEARCH_POLICY, str(versions[0]) if len(versions) else "",
            _texts(part["answer"]), searched,
        )  # fmt: skip
        feedback = Feedback(
            block["clicked"].astype(np.bool_), block["watched_fraction"], block["liked"].astype(np.bool_),
            block["shared"].astype(np.bool_), block["rating"], part["next_action"].to_numpy(np.int8),
            _texts(part["next_message"]),
        )  # fmt: skip
        yield obs, slate, feedback
        state.apply(rows, slate, feedback)


_GRID = ("item", "propensity", "position_propensity", "clicked", "watched_fraction", "liked", "shared", "rating")


def _clock(turns: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """One integer per (day, session, turn)."""
    day, session, turn = (turns[name].to_numpy(np.int64) for name in ("day", "session", "turn"))
    return (day << 40) + (session << 20) + turn


def _texts(column: pd.Series) -> list[str | None]:
    return [text if isinstance(text, str) else None for text in column]


def _candidates(
    part: pd.DataFrame, releases: pd.DataFrame, n_items: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int32]] | None:
    """A retriever's candidates, or what creators had on offer that day; None is the whole catalogue."""
    lists = part["candidates"]
    if not lists.isna().all():
        return np.stack(lists.to_list()).astype(np.int32)
    if releases.empty:
        return None
    out = releases.loc[releases["day"] <= part["day"].iloc[0], "item"]
    return np.broadcast_to(candidates_of(out.to_numpy(), n_items), (len(part), n_items))
