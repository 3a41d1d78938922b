"""One user as the page shows it: days, mindset, neighbourhood in the friendship graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from recsim_env.evaluation.story import names_of
from recsim_env.evaluation.tables import Cell
from recsim_env.records import TextArray
from recsim_env.rundir import Run, cell_name

NEAREST = 14
"""Friends that are drawn, the closest ones."""
_WIDTH, _HEIGHT = 560, 400


@dataclass(frozen=True, slots=True)
class Friend:
    """A friend in the drawing.

    Attributes:
        user: Row.
        name: What it is called.
        closeness: As the run folder has it.
        x: Pixels from the left.
        y: Pixels from the top.
        anchor: Where its name begins: ``start``, ``middle`` or ``end`` of the text.
        text_x: Where its name stands.
        text_y: Where its name stands.
    """

    user: int
    name: str
    closeness: float
    x: float
    y: float
    anchor: str
    text_x: float
    text_y: float


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """A user among its friends, the user in the middle.

    Attributes:
        friends: Those who are drawn, clockwise from the top.
        ties: Pairs of places in ``friends`` that know each other.
        n_friends: How many friends there are.
        width: Of the drawing in pixels.
        height: Of the drawing in pixels.
    """

    friends: tuple[Friend, ...]
    ties: tuple[tuple[Friend, Friend], ...]
    n_friends: int
    width: int = _WIDTH
    height: int = _HEIGHT


def neighbourhood(run: Run, cell: Cell, user: int, called: TextArray | None = None) -> Neighbourhood | None:
    """Who a user knows, and who of them know each other; None where the run folder knows no graph.

    Args:
        run: The run folder.
        cell: Recommender and seed.
        user: Row.
        called: Names that the run folder does not keep, str objects (U,).
    """
    known = run.table("friends", ["user", "friend", "closeness"], cell_name(*cell))
    if not len(known):
        return None
    own = known[known["user"] == user].sort_values(["closeness", "friend"], ascending=[False, True])
    near = own.head(NEAREST)
    rows = near["friend"].to_numpy().tolist()
    names = names_of(run.users, cell[1], rows) if called is None else [str(called[row]) for row in rows]
    friends = tuple(
        _placed(row, name, float(closeness), i, len(rows))
        for i, (row, name, closeness) in enumerate(zip(rows, names, near["closeness"], strict=True))
    )
    place = {friend.user: friend for friend in friends}
    among = known[known["user"].isin(rows) & known["friend"].isin(rows) & (known["user"] < known["friend"])]
    ties = tuple((place[a], place[b]) for a, b in zip(among["user"].tolist(), among["friend"].tolist(), strict=True))
    return Neighbourhood(friends, ties, len(own))


def _placed(user: int, name: str, closeness: float, i: int, n: int) -> Friend:
    angle = 2 * math.pi * i / max(n, 1)
    right, down = math.sin(angle), -math.cos(angle)
    x, y = _WIDTH / 2 + 150 * right, _HEIGHT / 2 + 150 * down
    anchor = "middle" if abs(right) < 0.2 else "start" if right > 0 else "end"
    text_x = x if anchor == "middle" else x + (16 if right > 0 else -16)
    text_y = y + (4 if anchor != "middle" else -16 if down < 0 else 26)
    return Friend(user, name, closeness, round(x, 1), round(y, 1), anchor, round(text_x, 1), round(text_y, 1))


def mindset(run: Run, cell: Cell, user: int) -> pd.DataFrame:
    """Mood, boredom and trust after each page of a user, in order; NaN where nobody asked a person."""
    when = ["day", "session", "turn"]
    columns = {f"trace_{name}": name for name in ("mood", "boredom", "trust")}
    turns = run.table("turns", [*when, *columns], cell_name(*cell), user)
    return turns.sort_values(when).rename(columns=columns).reset_index(drop=True)
