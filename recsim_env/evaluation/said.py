"""What was said in a run: how much, and a few messages of every kind. Texts are untrusted, as they were logged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsim_env.evaluation.story import names_of
from recsim_env.evaluation.tables import RunTables, World, split_by_cell
from recsim_env.records import NextAction

KINDS = ("search", "instruct", "answer", "comment", "chat", "post")
"""Kinds of messages: between user and recommender, on an item, between users."""
_COUNTED = ("pages", "searches", "instructions", "answers", "comments", "chats", "posts", "fallbacks")
_WHO = ["recommender", "seed", "day", "session", "turn", "user"]
_TALK = [*_WHO, "kind", "to"]
_GOLDEN = (5**0.5 - 1) / 2
_TRIES = 24


@dataclass(frozen=True, slots=True)
class Said:
    """One message.

    Attributes:
        kind: One of :data:`KINDS`.
        recommender: Whose users these are.
        seed: Seed of the replication.
        day: Day, from 0.
        turn: Page of the session, from 0, or -1 between visits.
        speaker: Who spoke.
        to: Who heard it, or the title that a comment is about.
        text: The words.
    """

    kind: str
    recommender: str
    seed: int
    day: int
    turn: int
    speaker: str
    to: str
    text: str


def message_counts(run: RunTables, world: World) -> pd.DataFrame:
    """How much was said, one row per recommender.

    Returns:
        Columns ``pages``; ``searches``, ``instructions`` and ``comments`` of users, ``answers`` of the recommender,
        ``chats`` and ``posts`` between users; and ``fallbacks``, pages on which a reply of the user model could not
        be used.
    """
    turns = run.table("turns", ["recommender", "seed", "next_action", "answer", "trace_fallback"])
    action = turns["next_action"].to_numpy()
    counts = {name: dict.fromkeys(_COUNTED, 0) for name in world.recommenders}
    what = {
        "pages": np.ones(len(turns), bool),
        "searches": action == NextAction.SEARCH,
        "instructions": action == NextAction.INSTRUCT,
        "answers": turns["answer"].notna().to_numpy(bool),
        "fallbacks": turns["trace_fallback"].to_numpy(bool),
    }
    for (name, _), rows in split_by_cell(turns, world).items():
        for column, flags in what.items():
            counts[name][column] += int(flags[rows].sum())
    written = run.table("impressions", ["recommender", "seed", "comment"])
    has_comment = written["comment"].notna().to_numpy(bool)
    for (name, _), rows in split_by_cell(written, world).items():
        counts[name]["comments"] += int(has_comment[rows].sum())
    for line in run.talks():
        if (line["recommender"], line["seed"]) in world.cells:
            counts[line["recommender"]][f"{line['kind']}s"] += 1
    return pd.DataFrame.from_dict(counts, orient="index", columns=list(_COUNTED))


def sample_messages(run: RunTables, world: World, n: int = 12) -> list[Said]:
    """Up to ``n`` messages, evenly over kinds, and within a kind over recommenders; always the same ones.

    No text comes twice. They are ordered by kind, then as they were said.
    """
    kinds = []
    for kind, frame in _candidates(run).items():
        frame = frame[frame["text"].notna()].reset_index(drop=True)
        rows: dict[str, list[NDArray[np.int64]]] = {}
        for (name, _), found in split_by_cell(frame, world).items():
            rows.setdefault(name, []).append(np.arange(len(frame))[found])
        groups = [np.concatenate(rows[name]) for name in world.recommenders if name in rows]
        walks = [_spread(group, i / len(groups)) for i, group in enumerate(groups)]
        kinds.append(_in_turn([_told(run, kind, frame, walk) for walk in walks]))
    kept: dict[str, Said] = {}
    for said in _in_turn(kinds):
        if len(kept) == n:
            break
        kept.setdefault(said.text, said)
    order = {name: i for i, name in enumerate(world.recommenders)}
    return sorted(kept.values(), key=lambda s: (KINDS.index(s.kind), s.day, s.turn, order[s.recommender]))


def _candidates(run: RunTables) -> dict[str, pd.DataFrame]:
    """All messages by kind, in the order of :data:`KINDS`, with the columns of ``_WHO`` and ``text``."""
    turns = run.table("turns", [*_WHO, "next_action", "next_message", "answer"])
    words, talks = turns.rename(columns={"next_message": "text"}), pd.DataFrame(run.talks(), columns=[*_TALK, "text"])
    return {
        "search": words[words["next_action"] == NextAction.SEARCH],
        "instruct": words[words["next_action"] == NextAction.INSTRUCT],
        "answer": turns.rename(columns={"answer": "text"}),
        "comment": run.table("impressions", [*_WHO, "item", "comment"]).rename(columns={"comment": "text"}),
        "chat": talks[talks["kind"] == "chat"],
        "post": talks[talks["kind"] == "post"],
    }


def _spread(rows: NDArray[np.int64], start: float) -> Iterator[int]:
    """Some of the rows, each once, the first ones far apart: steps of the golden section from a share of them on."""
    places = dict.fromkeys(int((start + i * _GOLDEN) % 1.0 * len(rows)) for i in range(_TRIES))
    return (int(rows[place]) for place in places)


def _in_turn(walks: Sequence[Iterator[Said]]) -> Iterator[Said]:
    """One of each in turn, until all have ended."""
    for round_ in zip_longest(*walks):
        yield from (said for said in round_ if said is not None)


def _told(run: RunTables, kind: str, frame: pd.DataFrame, rows: Iterator[int]) -> Iterator[Said]:
    """The messages of some rows, in words."""
    for row in rows:
        line = frame.iloc[row]
        heard = list(line["to"]) if kind in ("chat", "post") and isinstance(line["to"], list) else []
        user, *names = names_of(run.users, int(line["seed"]), [int(line["user"]), *heard])
        recommender = str(line["recommender"])
        to = {"answer": user, "comment": "", "chat": ", ".join(names), "post": f"{len(names)} friends"}
        if kind == "comment":
            to["comment"] = str(run.items["title"].iloc[int(line["item"])])
        yield Said(
            kind=kind,
            recommender=recommender,
            seed=int(line["seed"]),
            day=int(line["day"]),
            turn=int(line["turn"]),
            speaker=recommender if kind == "answer" else user,
            to=to.get(kind, recommender),
            text=str(line["text"]),
        )
