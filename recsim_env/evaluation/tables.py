"""What evaluation reads of a run: its tables, split into cells, and the arrays that all metrics share.

A cell is one (recommender, seed). The users are the same ones in every cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsim_env.errors import RunFolderError
from recsim_env.evaluation.beyond_accuracy import category_mass
from recsim_env.evaluation.bootstrap import MAX_CLUSTERS
from recsim_env.records import BoolArray, FloatArray

Cell: TypeAlias = tuple[str, int]
Rows: TypeAlias = slice | NDArray[np.int64]


class RunTables(Protocol):
    """A run folder as tables; ``recsim_env.rundir.load_run`` gives one."""

    path: Path
    manifest: dict[str, Any]

    @property
    def users(self) -> pd.DataFrame:
        """One row per user, in the order of their indices; with a column ``seed``, one block per seed."""

    @property
    def items(self) -> pd.DataFrame:
        """One row per item, in the order of their indices."""

    def table(
        self,
        name: str,
        columns: list[str] | None = None,
        cell: str | None = None,
        user: int | None = None,
        first_part: int = 0,
    ) -> pd.DataFrame:
        """A table of the run folder, empty where it has none, or some columns; of one cell, one user, new parts."""

    def talks(self, start: int = 0) -> list[dict[str, Any]]:
        """Chats and posts between visits, as they stand in ``messages.jsonl``."""


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """What every cell of a run has in common.

    Attributes:
        cells: The cells that are evaluated, in the run's order.
        n_users: U.
        n_items: I.
        n_days: Simulated days D.
        cluster: int64 (U,), bootstrap cluster of each user, below ``n_clusters``.
        n_clusters: Q.
        categories: Names of the C categories.
        item_categories: bool (I, C).
        popularity: int64 (I,), training ratings of each item.
        history_mass: By seed float64 (U, C), category mass of the users' past.
    """

    cells: tuple[Cell, ...]
    n_users: int
    n_items: int
    n_days: int
    cluster: NDArray[np.int64]
    n_clusters: int
    categories: tuple[str, ...]
    item_categories: BoolArray
    popularity: NDArray[np.int64]
    history_mass: Mapping[int, FloatArray]

    @property
    def recommenders(self) -> tuple[str, ...]:
        """Names of the recommenders, in the run's order."""
        return tuple(dict.fromkeys(name for name, _ in self.cells))

    def cluster_sums(self, per_user: FloatArray) -> FloatArray:
        """Sums of (U, ...) over the users of each cluster, float64 (Q, ...)."""
        out = np.zeros((self.n_clusters, *per_user.shape[1:]))
        for start in range(0, self.n_users, self.n_clusters):  # users u, u + Q, u + 2 Q, ... make one cluster
            block = per_user[start : start + self.n_clusters]
            out[: len(block)] += block
        return out


def read_world(run: RunTables) -> World:
    """Reads what all cells share.

    Only cells that reached the last day are evaluated; if there is none, all are, up to the last day that any saw.

    Raises:
        RunFolderError: If the run holds no session.
    """
    sessions = run.table("sessions", ["recommender", "seed", "day"])
    if not len(sessions):
        raise RunFolderError(
            f"{run.path}: the run holds no sessions (status {run.manifest.get('status', 'unknown')!r}), so there is "
            "nothing to evaluate. Go on with it by --resume, or run its scenario again."
        )
    cells, finished = _present_cells(run, sessions)
    n_days = int(run.manifest["scenario"]["days"]) if finished else int(sessions["day"].max()) + 1
    categories, matrix = category_matrix(run.items["categories"])
    histories = _histories(run.users, sorted({seed for _, seed in cells}))
    n_users = max(len(history) for history in histories.values())
    n_clusters = min(n_users, MAX_CLUSTERS)
    return World(
        cells=cells,
        n_users=n_users,
        n_items=len(run.items),
        n_days=n_days,
        cluster=np.arange(n_users) % n_clusters,
        n_clusters=n_clusters,
        categories=categories,
        item_categories=matrix,
        popularity=run.items["popularity"].to_numpy(np.int64),
        history_mass={seed: _mass(history, matrix) for seed, history in histories.items()},
    )


def _present_cells(run: RunTables, sessions: pd.DataFrame) -> tuple[tuple[Cell, ...], bool]:
    """The cells to evaluate, and whether they reached their end."""
    pairs = sessions[["recommender", "seed"]].drop_duplicates()
    present = [(str(name), int(seed)) for name, seed in zip(pairs["recommender"], pairs["seed"], strict=True)]
    listed = [(str(cell["recommender"]), int(cell["seed"])) for cell in run.manifest.get("cells", ())]
    done = [cell for cell in listed if cell in present]
    return tuple(done or present), bool(done)


def category_matrix(lists: Sequence[Sequence[str]] | pd.Series[Any]) -> tuple[tuple[str, ...], BoolArray]:
    """Names of all categories, sorted, and which item has which, bool (I, C)."""
    names = tuple(sorted({str(name) for row in lists for name in row}))
    column = {name: c for c, name in enumerate(names)}
    matrix = np.zeros((len(lists), len(names)), bool)
    for i, row in enumerate(lists):
        for name in row:
            matrix[i, column[str(name)]] = True
    return names, matrix


def _histories(users: pd.DataFrame, seeds: Sequence[int]) -> dict[int, pd.Series[Any]]:
    """The users' pasts by seed, each one list of item indices per user."""
    if "seed" not in users:
        return dict.fromkeys(seeds, users["history"])
    return {seed: users.loc[users["seed"] == seed, "history"] for seed in seeds}


def _mass(history: pd.Series[Any], item_categories: BoolArray) -> FloatArray:
    lengths = np.array([len(past) for past in history], np.int64)
    parts = [np.asarray(past, np.int64) for past in history if len(past)]
    items = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    return category_mass(np.repeat(np.arange(len(lengths)), lengths), items, item_categories, len(lengths))


def split_by_cell(frame: pd.DataFrame, world: World) -> dict[Cell, Rows]:
    """The rows of each evaluated cell that has any, in their order; slices where a cell's rows stand together."""
    if not len(frame):
        return {}
    column = pd.Categorical(frame["recommender"])
    names, seeds = list(world.recommenders), sorted({seed for _, seed in world.cells})
    rank = {name: i for i, name in enumerate(names)}
    rank_of = np.array([rank.get(str(name), -1) for name in column.categories], np.int64)
    seed = frame["seed"].to_numpy()
    place = np.minimum(np.searchsorted(seeds, seed), len(seeds) - 1)
    wanted = (rank_of[column.codes] >= 0) & (np.array(seeds)[place] == seed)
    code = np.where(wanted, rank_of[column.codes] * len(seeds) + place, -1)
    starts = np.flatnonzero(np.diff(code, prepend=-2))
    order: NDArray[np.int64] | None = None
    if len(np.unique(code[starts])) < len(starts):
        order = np.argsort(code, kind="stable")
        starts = np.flatnonzero(np.diff(code[order], prepend=-2))
    rows: dict[Cell, Rows] = {}
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(code)], strict=True):
        found = int(code[start if order is None else order[start]])
        cell = (names[found // len(seeds)], seeds[found % len(seeds)])
        if found >= 0 and cell in world.cells:
            rows[cell] = slice(start, end) if order is None else order[start:end]
    return rows


def columns(frame: pd.DataFrame, names: Sequence[str], rows: Rows) -> dict[str, NDArray[Any]]:
    """Some columns of some rows as arrays."""
    return {name: frame[name].to_numpy()[rows] for name in names}
