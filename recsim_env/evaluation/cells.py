"""The sums that all metrics of one cell are made of, added up by clusters of users.

The tables of a run are read once here; intervals, differences and plots need the sums only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsim_env.draws import Draws
from recsim_env.evaluation.beyond_accuracy import (
    calibration,
    category_mass,
    coverage,
    entropy,
    exposure_counts,
    gini,
    intra_list_diversity,
    pairwise_jaccard,
    self_information,
)
from recsim_env.evaluation.bootstrap import N_GROUPS
from recsim_env.evaluation.tables import Cell, RunTables, World, columns, split_by_cell
from recsim_env.records import SEARCH_POLICY, FloatArray, IntArray

SESSION_RATIOS = (
    "clicks_per_turn", "watched_per_turn", "mean_rating", "session_length", "sessions_per_user", "retention",
    "not_churned", "reward_per_user",
)  # fmt: skip
SLATE_RATIOS = ("novelty", "intra_list_diversity", "user_genre_entropy", "calibration")
RATIOS = SESSION_RATIOS + SLATE_RATIOS
"""Metrics that are a sum over users divided by another: they get bootstrap intervals."""

CATALOGUE = ("coverage", "gini", "homogenisation")
"""Metrics of a whole cell: they get jackknife intervals."""

SESSION_COLUMNS = ["user", "day", "n_turns", "n_clicks", "watched", "n_ratings", "mean_rating", "reward", "churned"]
SHOWN_COLUMNS = ["user", "day", "session", "turn", "position", "item", "clicked"]

WEEK = 7
"""Days of the window of retention."""


@dataclass(frozen=True, slots=True, eq=False)
class CellSums:
    """One cell.

    Attributes:
        numerator: float64 (Q, M), per cluster of users and metric of :data:`RATIOS`.
        denominator: float64 (Q, M).
        genres: float64 (Q, C), category mass of the clicked items.
        catalogue: float64 (3,), the metrics of :data:`CATALOGUE`.
        catalogue_left_out: float64 (G, 3), the same without each group of users.
        exposure: int64 (I,), how often the policy showed each item.
    """

    numerator: FloatArray
    denominator: FloatArray
    genres: FloatArray
    catalogue: FloatArray
    catalogue_left_out: FloatArray
    exposure: NDArray[np.int64]


def read_cells(run: RunTables, world: World) -> dict[Cell, CellSums]:
    """Adds up every cell of a run that has sessions."""
    sessions = run.table("sessions", ["recommender", "seed", *SESSION_COLUMNS])
    impressions = run.table("impressions", ["recommender", "seed", "policy", *SHOWN_COLUMNS])
    searched = (impressions["policy"] == SEARCH_POLICY).to_numpy()
    shown_rows = split_by_cell(impressions, world)
    cells = {}
    for cell, rows in split_by_cell(sessions, world).items():
        part = shown_rows.get(cell, slice(0, 0))
        shown = columns(impressions, SHOWN_COLUMNS, part)
        session = columns(sessions, SESSION_COLUMNS, rows)
        cells[cell] = _sum_cell(world, cell[1], session, shown, searched[part])
    return cells


def _sum_cell(
    world: World, seed: int, session: dict[str, Any], shown: dict[str, Any], searched: NDArray[np.bool_]
) -> CellSums:
    clicked = shown["clicked"].astype(bool) & (shown["item"] < world.n_items)
    click_user, click_item = shown["user"][clicked], shown["item"][clicked]
    clicked_genres = category_mass(click_user, click_item, world.item_categories, world.n_users)
    # What the catalogue's search found says nothing about the policy.
    own = shown if not searched.any() else {name: values[~searched] for name, values in shown.items()}
    figures = _session_ratios(world, session) | _slate_ratios(world, seed, own, clicked_genres)
    catalogue, left_out, exposure = _catalogue(world, own, click_user, click_item)
    return CellSums(
        world.cluster_sums(np.stack([figures[name][0] for name in RATIOS], axis=1)),
        world.cluster_sums(np.stack([figures[name][1] for name in RATIOS], axis=1)),
        world.cluster_sums(clicked_genres), catalogue, left_out, exposure,
    )  # fmt: skip


def user_sums(user: IntArray, values: Any, n_users: int) -> FloatArray:
    """Sums of row values by user (or whatever the index stands for), float64 (U,)."""
    weights = np.asarray(values, np.float64)
    return np.bincount(user, weights, minlength=n_users).astype(np.float64, copy=False)


def _session_ratios(world: World, session: dict[str, Any]) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Numerator and denominator per user, each float64 (U,), of :data:`SESSION_RATIOS`."""

    def add(values: Any) -> FloatArray:
        return user_sums(session["user"], values, world.n_users)

    turns, ratings, ones = add(session["n_turns"]), add(session["n_ratings"]), np.ones(world.n_users)
    stars = np.where(session["n_ratings"] > 0, session["n_ratings"] * np.nan_to_num(session["mean_rating"]), 0.0)
    n_sessions = add(np.ones(len(session["user"])))
    last_week = session["day"] >= world.n_days - min(WEEK, world.n_days)
    return {
        "clicks_per_turn": (add(session["n_clicks"]), turns),
        "watched_per_turn": (add(session["watched"]), turns),
        "mean_rating": (add(stars), ratings),
        "session_length": (turns, n_sessions),
        "sessions_per_user": (n_sessions, ones),
        "retention": ((add(last_week) > 0).astype(np.float64), ones),
        "not_churned": ((add(session["churned"]) == 0).astype(np.float64), ones),
        "reward_per_user": (add(session["reward"]), ones),
    }


def _slate_ratios(
    world: World, seed: int, shown: dict[str, Any], clicked_genres: FloatArray
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Numerator and denominator per user, each float64 (U,), of :data:`SLATE_RATIOS`."""
    real = shown["item"] < world.n_items
    user, item = shown["user"][real], shown["item"][real]
    bits = user_sums(user, self_information(world.popularity)[item], world.n_users)
    n_shown = user_sums(user, np.ones(len(user)), world.n_users)
    slate_user, slates = rebuild_slates(shown, world.n_items)
    diversity = intra_list_diversity(slates, world.item_categories)
    known = ~np.isnan(diversity)
    total = user_sums(slate_user[known], diversity[known], world.n_users)
    n_slates = user_sums(slate_user[known], np.ones(int(known.sum())), world.n_users)
    shown_genres = category_mass(user, item, world.item_categories, world.n_users)
    return {
        "novelty": (bits, n_shown),
        "intra_list_diversity": (total, n_slates),
        "user_genre_entropy": _mean_parts(entropy(clicked_genres)),
        "calibration": _mean_parts(calibration(world.history_mass[seed], shown_genres)),
    }


def _mean_parts(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A mean over the users whose value is known, as numerator and denominator."""
    return np.nan_to_num(values), (~np.isnan(values)).astype(np.float64)


def rebuild_slates(shown: dict[str, Any], n_items: int) -> tuple[IntArray, IntArray]:
    """Puts impressions back into slates.

    Args:
        shown: Columns user, day, session, turn, position, item of one cell.
        n_items: I, fills positions without a row.

    Returns:
        The user of each slate int (N,) and the slates int32 (N, K).
    """
    position = shown["position"].astype(np.int64)
    if not len(position):
        return np.zeros(0, np.int64), np.zeros((0, 0), np.int32)
    if not np.all((position[1:] == position[:-1] + 1) | (position[1:] == 0)) or position[0] != 0:
        order = np.lexsort([shown[name] for name in ("position", "turn", "session", "day", "user")])
        shown = {name: values[order] for name, values in shown.items()}
        position = position[order]
    slate = np.cumsum(position == 0) - 1
    slates = np.full((int(slate[-1]) + 1, int(position.max()) + 1), n_items, np.int32)
    slates[slate, position] = shown["item"]
    return shown["user"][position == 0], slates


def _catalogue(
    world: World, shown: dict[str, Any], click_user: IntArray, click_item: IntArray
) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """The metrics of :data:`CATALOGUE`: of everybody (3,), without each group of users (G, 3); and the exposure."""
    n_groups = min(N_GROUPS, world.n_users)
    group = np.arange(world.n_users) % n_groups
    real = shown["item"] < world.n_items
    keys = group[shown["user"][real]] * world.n_items + shown["item"][real]
    by_group = exposure_counts(keys, n_groups * world.n_items).reshape(n_groups, world.n_items)
    total = by_group.sum(axis=0)
    first, second, alike = pairwise_jaccard(click_user, click_item, world.n_users, Draws(0))

    def figures(exposure: NDArray[np.int64], pairs: FloatArray) -> list[float]:
        return [coverage(exposure), gini(exposure), float(pairs.mean()) if pairs.size else float("nan")]

    left_out = [
        figures(total - by_group[g], alike[(group[first] != g) & (group[second] != g)]) for g in range(n_groups)
    ]
    return np.array(figures(total, alike)), np.array(left_out), total
