"""A log of your own: a CSV or Parquet file with one row per shown item. docs/ope.md lists the columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsim_env.data.reading import Table, read_csv, read_parquet
from recsim_env.errors import DataError, RecsimError
from recsim_env.evaluation.ope.estimate import Clusters, estimate_all
from recsim_env.evaluation.ope.estimators import Terms
from recsim_env.evaluation.ope.turns import ONE_TURN, Turns, turn_terms
from recsim_env.records import BoolArray, FloatArray, IntArray

REQUIRED = ("user", "item", "reward", "propensity")
OPTIONAL = (
    "slate", "position", "position_propensity", "target_propensity", "target_position_propensity", "predicted",
    "predicted_target",
)  # fmt: skip
CHANCES = {"propensity": False, "position_propensity": False, "target_propensity": True,
           "target_position_propensity": True}  # fmt: skip
"""Columns of probabilities, and whether 0 is one that they may hold."""
TARGET = "target_propensity"
READERS = {".csv": read_csv, ".parquet": read_parquet}


@dataclass(frozen=True, slots=True, eq=False)
class TableLog:
    """A logged table as slates.

    Attributes:
        user: int64 (n,), number of the user of each slate.
        reward: float64 (n, K), 0 where there is no position.
        propensity: float64 (n, K), 1 where there is no position.
        turns: Beside the target policy; None without a column ``target_propensity``.
    """

    user: IntArray
    reward: FloatArray
    propensity: FloatArray
    turns: Turns | None

    @property
    def unexplored(self) -> BoolArray:
        """Which slates were certain, bool (n,)."""
        return np.asarray((self.propensity >= 1.0 - 1e-6).all(axis=1))


def is_table(source: str | Path) -> bool:
    """Whether a path names a file that is read here."""
    return Path(source).suffix in READERS and not Path(source).is_dir()


def evaluate_table(path: Path) -> dict[str, Any]:
    """Estimates on a logged table, as plain data of the same form as a run's.

    Raises:
        DataError: If a value cannot be; the row is named.
        MissingColumnError: If a column is missing.
        RecsimError: If the log has no chance in it.
    """
    log = read_table(path)
    if log.unexplored.all():
        raise RecsimError(
            f"{path}: every propensity is 1. The log of a deterministic policy says nothing about any other. Log with "
            "some chance (a share epsilon of random items, or a soft-max with a temperature) and evaluate that log."
        )
    clusters = Clusters.of(log.user)
    own: dict[str, tuple[Terms, FloatArray | None]] = {
        "mean": (Terms(log.reward.sum(axis=1, keepdims=True), np.ones((len(log.user), 1))), None)
    }
    (mean,) = estimate_all(own, clusters, log.unexplored)
    found = [] if log.turns is None else estimate_all(turn_terms(log.turns), clusters, log.unexplored)
    value = {name: mean.row()[name] for name in ("value", "low", "high", "n")}
    return {
        "source": str(path),
        "logged": "the logging policy",
        "reward": "reward",
        "slate_size": log.reward.shape[1],
        "n_turns": len(log.user),
        "n_searched": 0,
        "n_users": len(np.unique(log.user)),
        "logged_value": [{"target": "the logging policy", "estimand": ONE_TURN, **value}],
        "on_policy": [],
        "estimates": [{"target": TARGET, "estimand": ONE_TURN, **e.row()} for e in found],
        "calibration": None,
    }


def read_table(path: Path) -> TableLog:
    """Reads and checks a logged table.

    Raises:
        DataError: If the file cannot be read, or a value cannot be; the row is named.
        MissingColumnError: If a column is missing.
    """
    table = READERS[path.suffix](path)
    names = set(table.columns.column_names)
    for name in REQUIRED:
        if name not in names:
            raise table.lacks(name, f"A log needs {', '.join(REQUIRED)}; docs/ope.md tells what they hold.")
    if not len(table):
        raise DataError("The file has no rows.", path, remedy="Give a file with one row per shown item.")
    columns = {
        name: _numbers(table, name) for name in ("reward", *CHANCES, "predicted", "predicted_target") if name in names
    }
    users = np.unique(table.text("user").astype(str), return_inverse=True)[1]
    table.text("item")  # not used by any estimator, but an empty one is a mistake in the log
    slate, position = _places(table, names)

    def wide(name: str, fill: float) -> FloatArray:
        values = np.full((int(slate.max()) + 1, int(position.max()) + 1), fill)
        values[slate, position] = columns[name]
        return values

    first = np.unique(slate, return_index=True)[1]
    mixed = np.flatnonzero(users != users[first][slate])
    if mixed.size:
        raise table.broken(int(mixed[0]), "A slate has rows of two users.", "Give every page a slate of its own.")
    reward, propensity = wide("reward", 0.0), wide("propensity", 1.0)
    turns = None
    if TARGET in columns:
        ratio, marginal = wide(TARGET, 1.0) / propensity, None
        if {"position_propensity", "target_position_propensity"} <= set(columns):
            marginal = wide("target_position_propensity", 1.0) / wide("position_propensity", 1.0)
        q = wide("predicted", 0.0) if "predicted" in columns else None
        q_next = wide("predicted_target", 0.0) if "predicted_target" in columns else None
        turns = Turns(reward, ratio, marginal, q, q_next, None, np.zeros(reward.shape))
    return TableLog(users[first], reward, propensity, turns)


def _numbers(table: Table, name: str) -> FloatArray:
    """A column of finite numbers; probabilities in their range."""
    values = table.numbers(name)
    infinite = np.flatnonzero(~np.isfinite(values))
    if infinite.size:
        raise table.broken(int(infinite[0]), f"{name} is {values[infinite[0]]}, not a finite number.")
    if name in CHANCES:
        wrong = np.flatnonzero((values > 1.0) | (values < 0.0) | ((values == 0.0) & (not CHANCES[name])))
        if wrong.size:
            allowed = "between 0 and 1" if CHANCES[name] else "above 0 and at most 1"
            raise table.broken(
                int(wrong[0]), f"{name} is {values[wrong[0]]:g}; a probability {allowed} is needed.",
                "A shown item cannot have had the probability 0: log what the policy really drew from."
                if not CHANCES[name] else "Correct it.",
            )  # fmt: skip
    return np.asarray(values)


def _places(table: Table, names: set[str]) -> tuple[IntArray, IntArray]:
    """Number of the slate and position from 0 of each row, each int64 (R,)."""
    n = len(table)
    if "slate" not in names:
        return np.arange(n), np.zeros(n, np.int64)
    if "position" not in names:
        raise table.lacks("position", "A log with a column slate needs the positions too.")
    slate = np.unique(table.text("slate").astype(str), return_inverse=True)[1].astype(np.int64)
    values = table.numbers("position")
    lowest = 1.0 if values.min() >= 1.0 else 0.0
    wrong = np.flatnonzero((values != np.round(values)) | (values < 0) | (values > 1000))
    if wrong.size:
        raise table.broken(int(wrong[0]), f"position is {values[wrong[0]]:g}, not a place on a page from 0 or 1 on.")
    position = (values - lowest).astype(np.int64)
    _, seen = np.unique(slate * 2048 + position, return_index=True)
    twice = np.setdiff1d(np.arange(n), seen)
    if twice.size:
        raise table.broken(int(twice[0]), f"Position {values[twice[0]]:g} stands twice in its slate.")
    return slate, position
