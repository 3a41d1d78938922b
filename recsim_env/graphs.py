"""Who knows whom: graphs of acquaintances, and files of pairs. :mod:`recsim_env.graph_makers` generates them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.records import FloatArray, IntArray, TextArray


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Acquaintances of U users, in compressed rows; a tie counts both ways.

    Attributes:
        offsets: int64 (U + 1,); user u knows ``friends[offsets[u]:offsets[u + 1]]``.
        friends: int64 (E,), rows of users, ascending within a user; every tie stands there twice.
        closeness: float64 (E,), weight of each tie, above 0.
    """

    offsets: IntArray
    friends: IntArray
    closeness: FloatArray

    @classmethod
    def of(cls, first: IntArray, second: IntArray, n_users: int, closeness: FloatArray | None = None) -> Graph:
        """A graph out of pairs; of a pair that occurs again the last closeness counts, and nobody knows itself.

        Args:
            first: int (P,), rows of users.
            second: int (P,), rows of those whom they know.
            n_users: U.
            closeness: float (P,), 1 when None.
        """
        weight = np.ones(len(first)) if closeness is None else np.asarray(closeness, np.float64)
        keep = first != second
        first, second, weight = first[keep], second[keep], weight[keep]
        pair = np.minimum(first, second).astype(np.int64) * n_users + np.maximum(first, second)
        once, latest = np.unique(pair[::-1], return_index=True)
        weight = weight[::-1][latest]
        a, b = once // n_users, once % n_users
        owner, friend = np.concatenate([a, b]), np.concatenate([b, a])
        order = np.lexsort((friend, owner))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n_users))]).astype(np.int64)
        return cls(offsets, friend[order], np.concatenate([weight, weight])[order])

    @property
    def n_users(self) -> int:
        """Number of users U."""
        return len(self.offsets) - 1

    @property
    def degree(self) -> IntArray:
        """Number of acquaintances of each user, int64 (U,)."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> IntArray:
        """Whose acquaintance each entry of ``friends`` is, int64 (E,)."""
        return np.repeat(np.arange(self.n_users), self.degree)

    def known_to(self, row: int) -> IntArray:
        """Rows of those whom a user knows, int64, ascending."""
        return self.friends[self.offsets[row] : self.offsets[row + 1]]

    def entries(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Places in ``friends`` of all acquaintances of some users, one user after another.

        Args:
            rows: int (n,), users.

        Returns:
            The number of the user in ``rows`` and the place, each int64 (P,).
        """
        degree = self.degree[rows]
        who = np.repeat(np.arange(len(rows)), degree)
        before = np.cumsum(degree) - degree
        return who, np.repeat(self.offsets[rows] - before, degree) + np.arange(len(who))

    def friend(self, rows: IntArray, draws: Draws, who: IntArray, day: int) -> IntArray:
        """One friend of each user, drawn by closeness, int64 (n,); -1 for users without.

        Args:
            rows: int (n,), users.
            draws: Draws of the run.
            who: int (n,), the users and their lives, for keys.
            day: The day, for keys.
        """
        number, place = self.entries(rows)
        found = np.full(len(rows), -1, np.int64)
        if len(place):
            keys = draws.keys("friend", who, day)[number]
            noisy = np.log(self.closeness[place]) + Draws.gumbels(keys, self.friends[place][:, None])[:, 0]
            order = np.lexsort((np.arange(len(place)), -noisy, number))  # the first of equals, as argmax has it
            starts = np.flatnonzero(np.diff(number[order], prepend=-1))
            found[number[order][starts]] = self.friends[place][order][starts]
        return found

    def seated(self, seat: IntArray) -> Graph:
        """The same graph with user u in the place of ``seat[u]``, int (U,), a permutation."""
        return Graph.of(seat[self.owner], seat[self.friends], self.n_users, self.closeness)


def read_graph(path: Path, rows: Mapping[str, int] | None, n_users: int, setting: str = "users.graph") -> Graph:
    """A graph out of a text file of pairs with a header, separated by commas or tabs; a pair counts both ways.

    Args:
        path: The file; its first two columns name users, a column ``closeness`` (above 0) may stand beside them.
        rows: Names, ids and row numbers of users to their rows; None seats the file's people in the order in which
            they first occur, and leaves out those beyond the population.
        n_users: U.
        setting: Who named the file, for error messages.

    Raises:
        ScenarioError: If the file cannot be read, or none of its users is in the population.
    """
    try:
        with path.open(encoding="utf-8") as file:
            tabs = "\t" in file.readline()
        frame = pd.read_csv(path, dtype=str, sep="\t" if tabs else ",", skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{setting}: cannot read {path}: {error}.") from None
    if frame.shape[1] < 2:
        raise ScenarioError(f"{setting}: {path} needs two columns that name users.")
    weight = pd.to_numeric(frame.get("closeness", pd.Series(1.0, frame.index)), errors="coerce").to_numpy(np.float64)
    if not (weight > 0).all():
        raise ScenarioError(f"{setting}: {path} holds a closeness that is no number above 0.")
    names = frame.iloc[:, :2].astype(str).to_numpy(object)
    if rows is None:
        people = pd.unique(names.ravel())[:n_users]
        rows = {str(name): row for row, name in enumerate(people)}
    ends = np.array([[rows.get(str(a), -1), rows.get(str(b), -1)] for a, b in names], np.int64).reshape(-1, 2)
    known = (ends >= 0).all(axis=1)
    graph = Graph.of(ends[known, 0], ends[known, 1], n_users, weight[known])
    if not len(graph.friends):
        raise ScenarioError(
            f"{setting}: {path} joins no two of the {n_users} users. Name users by row number, persona name or id."
        )
    return graph


def rows_by_name(user_id: TextArray, names: TextArray | None = None) -> dict[str, int]:
    """Every way to name a user (row number, its name, its id; later ones win) to its row.

    Args:
        user_id: str objects (U,).
        names: str objects (U,), what users are called; the first of several namesakes is meant.
    """
    found = {str(row): row for row in range(len(user_id))}
    if names is not None:
        found.update({str(names[row]): row for row in reversed(range(len(names)))})
    found.update({str(name): row for row, name in enumerate(user_id)})
    return found
