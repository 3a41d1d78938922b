"""Which users and sessions are worth telling: those that show most of what users can do, always the same ones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from recsim_env.errors import UnknownNameError
from recsim_env.evaluation.story import Story, population, tell_story
from recsim_env.evaluation.tables import Cell, RunTables, World
from recsim_env.records import BoolArray, NextAction
from recsim_env.rundir import cell_name

_SESSION = ["user", "day", "session"]
_NEAR = 20_000
"""Ids among which a misspelt one is looked for."""


def tell_stories(run: RunTables, world: World, n: int = 3) -> list[Story]:
    """Up to ``n`` sessions of different users, the best one first, under different recommenders while there are any."""
    worth = pd.concat([_worth(run, cell) for cell in world.cells], ignore_index=True)
    seeds = sorted({seed for _, seed in world.cells})
    open_, told, stories = worth, set[str](), list[Story]()
    while len(open_) and len(stories) < n:
        fresh = open_[~open_["recommender"].isin(told)]
        among = fresh if len(fresh) else open_
        best = among.iloc[int(np.argmax(among["worth"].to_numpy()))]
        cell = (str(best["recommender"]), int(best["seed"]))
        stories.append(tell_story(run, cell, int(best["user"]), int(best["day"]), int(best["session"])))
        told.add(cell[0])
        same = find_user(run.users, seeds, f"id:{stories[-1].person.user_id}")  # its row differs between seeds
        open_ = open_[open_["user"] != open_["seed"].map(same)]
    return stories


def best_user(
    run: RunTables, cells: Sequence[Cell], user: Mapping[int, int | None], day: int | None = None
) -> tuple[Cell, int]:
    """The user, and the cell, whose sessions together show most; the first one of equals.

    Args:
        run: The run folder.
        cells: Cells to choose from, at least one.
        user: By seed the row of the user to tell of, None for any; cells of absent seeds are left out.
        day: Look at this day only.
    """
    cells = [cell for cell in cells if cell[1] in user]
    best, found = -1.0, (cells[0], user[cells[0][1]] or 0)
    for cell in cells:
        worth = _worth(run, cell, user[cell[1]])
        total = worth[worth["day"] == day] if day is not None else worth
        sums = total.groupby("user")["worth"].sum()
        if len(sums) and sums.max() > best:
            best, found = float(sums.max()), (cell, int(sums.index[int(np.argmax(sums.to_numpy()))]))
    return found


def find_user(users: pd.DataFrame, seeds: Sequence[int], named: str) -> dict[int, int]:
    """The row of a user in the population of each seed that has it.

    Args:
        users: The populations.
        seeds: Seeds to look at.
        named: A row number, or a ``user_id``; ``id:7`` is the id, whatever it looks like.

    Raises:
        UnknownNameError: If there is no such user.
    """
    wanted, rows, ids = named.removeprefix("id:"), dict[int, int](), list[str]()
    for seed in seeds:
        block = population(users, seed)["user_id"].astype(str).to_numpy()
        if wanted == named and named.isdecimal() and int(named) < len(block):
            rows[seed] = int(named)
        elif (block == wanted).any():
            rows[seed] = int(np.argmax(block == wanted))
        ids += block.tolist()
    if not rows:
        near = difflib.get_close_matches(wanted, ids[:_NEAR], n=1)
        size = max(len(population(users, seed)) for seed in seeds)
        remedy = f"Row numbers from 0 to {size - 1} and the user_id column of users.parquet name users."
        raise UnknownNameError("user", named, near, remedy=remedy)
    return rows


def _worth(run: RunTables, cell: Cell, user: int | None = None) -> pd.DataFrame:
    """The sessions of a cell and how much they show: some pages, a message, ratings."""
    name = cell_name(*cell)
    sessions = run.table("sessions", [*_SESSION, "n_turns", "n_ratings", "n_clicks"], name, user)
    turns = run.table("turns", [*_SESSION, "next_action", "answer"], name, user)
    names = pd.MultiIndex.from_frame(sessions[_SESSION])

    def among(some: pd.DataFrame) -> BoolArray:
        return names.isin(pd.MultiIndex.from_frame(some[_SESSION]))

    talks = among(turns[turns["next_action"].isin([NextAction.SEARCH, NextAction.INSTRUCT])])
    answered = among(turns[turns["answer"].notna()])
    readable = sessions["n_turns"].between(2, 5).to_numpy()
    worth = 4 * talks + 3 * answered + 4 * readable
    worth = worth + sessions["n_ratings"].clip(upper=2) + 0.5 * sessions["n_clicks"].clip(upper=4)
    return sessions[_SESSION].assign(recommender=cell[0], seed=cell[1], worth=worth)
