"""One user's session told page by page, and how much was said in a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recsim_env.evaluation.tables import RunTables, World, split_by_cell
from recsim_env.records import SEARCH_POLICY, BoolArray, MessageKind, NextAction

_SESSION = ["recommender", "seed", "user", "day", "session"]
_COLUMNS = {
    "turns": [
        "turn", "policy", "message_kind", "message", "answer", "next_action", "next_message", "trace_mood",
        "trace_boredom", "trace_trust", "trace_thoughts",
    ],
    "impressions": [
        "turn", "position", "item", "clicked", "watched_fraction", "rating", "comment", "trace_examined",
    ],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shown:
    """One item of a page and what the user did with it; ``stars`` is None where it was not rated."""

    title: str
    year: int
    categories: tuple[str, ...]
    looked_at: bool
    clicked: bool
    watched_fraction: float
    stars: float | None
    comment: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """One turn. ``message`` came before it, ``next_message`` after it; the mindset is the one after the page."""

    searched: bool
    message: str | None
    message_kind: MessageKind
    answer: str | None
    items: tuple[Shown, ...]
    mood: float
    boredom: float
    trust: float
    thoughts: str | None
    next_action: NextAction
    next_message: str | None


@dataclass(frozen=True, slots=True)
class Story:
    """One session. ``past`` holds the last titles of the user's history with their ratings."""

    recommender: str
    seed: int
    user: int
    user_id: str
    profile: Mapping[str, str]
    past: tuple[tuple[str, float | None], ...]
    day: int
    pages: tuple[Page, ...]
    churned: bool


def tell_session(run: RunTables, world: World) -> Story:
    """Tells the session that shows most of what users can do: some pages, a message, ratings; always the same one."""
    sessions = run.table("sessions", [*_SESSION, "n_turns", "n_ratings", "n_clicks", "churned"])
    sessions = _of_cells(sessions, world)
    turns = _of_cells(run.table("turns", [*_SESSION, "next_action", "answer"]), world)
    names = pd.MultiIndex.from_frame(sessions[_SESSION].astype({"recommender": str}))

    def among(some: pd.DataFrame) -> BoolArray:
        return names.isin(pd.MultiIndex.from_frame(some[_SESSION].astype({"recommender": str})))

    talks = among(turns[turns["next_action"].isin([NextAction.SEARCH, NextAction.INSTRUCT])])
    answered = among(turns[turns["answer"].notna()])
    readable = sessions["n_turns"].between(2, 5).to_numpy()
    worth = 4 * talks + 3 * answered + 4 * readable
    worth = worth + sessions["n_ratings"].clip(upper=2) + 0.5 * sessions["n_clicks"].clip(upper=4)
    chosen = sessions.iloc[int(np.argmax(worth.to_numpy()))]
    pages = _pages(run, chosen)
    user = _row_of_user(run.users, int(chosen["seed"]), int(chosen["user"]))
    hidden = {"seed", "user", "user_id", "data_user", "history", "history_rating"}
    titles = run.items["title"].to_numpy()
    past = zip(user["history"], user["history_rating"], strict=True)
    return Story(
        recommender=str(chosen["recommender"]),
        seed=int(chosen["seed"]),
        user=int(chosen["user"]),
        user_id=str(user["user_id"]),
        profile={str(name): str(user[name]) for name in user.index if name not in hidden},
        past=tuple((str(titles[int(item)]), _number(stars)) for item, stars in list(past)[-5:]),
        day=int(chosen["day"]),
        pages=pages,
        churned=bool(chosen["churned"]),
    )


def _of_cells(frame: pd.DataFrame, world: World) -> pd.DataFrame:
    """The rows of evaluated cells."""
    parts = [frame.iloc[rows] for rows in split_by_cell(frame, world).values()]
    return pd.concat(parts, ignore_index=True)


def _pages(run: RunTables, chosen: pd.Series[Any]) -> tuple[Page, ...]:
    turns = _rows_of(run, "turns", chosen).sort_values("turn")
    shown = _rows_of(run, "impressions", chosen)
    pages = []
    for _, turn in turns.iterrows():
        on_page = shown[shown["turn"] == turn["turn"]].sort_values("position")
        items = [_shown(row, run.items) for _, row in on_page.iterrows() if row["item"] < len(run.items)]
        pages.append(
            Page(
                searched=str(turn["policy"]) == SEARCH_POLICY,
                message=_text(turn["message"]),
                message_kind=MessageKind(int(turn["message_kind"])),
                answer=_text(turn["answer"]),
                items=tuple(items),
                mood=float(turn["trace_mood"]),
                boredom=float(turn["trace_boredom"]),
                trust=float(turn["trace_trust"]),
                thoughts=_text(turn["trace_thoughts"]),
                next_action=NextAction(int(turn["next_action"])),
                next_message=_text(turn["next_message"]),
            )
        )
    return tuple(pages)


def _rows_of(run: RunTables, table: str, chosen: pd.Series[Any]) -> pd.DataFrame:
    """The rows of one session, with the columns that the story needs."""
    frame = run.table(table, _SESSION + _COLUMNS[table])
    here = np.ones(len(frame), bool)
    for name in _SESSION:
        here &= (frame[name] == chosen[name]).to_numpy()
    return frame[here]


def _shown(row: pd.Series[Any], items: pd.DataFrame) -> Shown:
    item = items.iloc[int(row["item"])]
    return Shown(
        title=str(item["title"]),
        year=int(item["year"]),
        categories=tuple(str(name) for name in item["categories"]),
        looked_at=bool(row["trace_examined"]),
        clicked=bool(row["clicked"]),
        watched_fraction=float(row["watched_fraction"]),
        stars=_number(row["rating"]),
        comment=_text(row["comment"]),
    )


def _row_of_user(users: pd.DataFrame, seed: int, user: int) -> pd.Series[Any]:
    block = users[users["seed"] == seed] if "seed" in users else users
    return block.iloc[user]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def message_counts(run: RunTables, world: World) -> pd.DataFrame:
    """How much was said, one row per recommender.

    Returns:
        Columns ``pages``, ``searches`` and ``instructions`` (of users), ``answers`` (of the recommender) and
        ``fallbacks`` (pages on which the user model's reply could not be used).
    """
    turns = run.table("turns", ["recommender", "seed", "next_action", "answer", "trace_fallback"])
    action, names = turns["next_action"].to_numpy(), ["pages", "searches", "instructions", "answers", "fallbacks"]
    what = np.column_stack(
        [
            np.ones(len(turns), bool),
            action == NextAction.SEARCH,
            action == NextAction.INSTRUCT,
            turns["answer"].notna().to_numpy(bool),
            turns["trace_fallback"].to_numpy(bool),
        ]
    )
    counts = pd.DataFrame(0, index=list(world.recommenders), columns=names)
    for (name, _), rows in split_by_cell(turns, world).items():
        counts.loc[name] += what[rows].sum(axis=0)
    return counts
