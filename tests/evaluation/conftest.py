"""A made-up run with the tables of a run folder: 'popularity' shows few items, 'uniform' all, 'ease' keeps users."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsim_env.rundir import SCHEMAS

GENRES = ["Action", "Comedy", "Drama", "Horror", "Sci-Fi", "Thriller"]
STAY = {"popularity": 0.55, "uniform": 0.4, "ease": 0.8}
STEEP = {"popularity": 3.0, "uniform": 0.0, "ease": 1.0}


@dataclass
class FakeRun:
    """What ``recsim_env.rundir.load_run`` gives, without a folder of tables."""

    path: Path
    manifest: dict
    tables: dict
    users: pd.DataFrame
    items: pd.DataFrame

    said: list

    def table(self, name, columns=None, cell=None, user=None, first_part=0):
        frame = self.tables[name] if name in self.tables else SCHEMAS[name].empty_table().to_pandas()
        if cell is not None:
            frame = frame[frame["recommender"].astype(str) + "-seed" + frame["seed"].astype(str) == cell]
        if user is not None:
            frame = frame[frame["user"] == user]
        return frame if columns is None else frame[columns]

    def talks(self, start=0):
        return self.said


def make_items(n_items, rng):
    popularity = np.sort(rng.zipf(1.7, n_items).clip(max=500))[::-1]
    categories = [sorted(rng.choice(GENRES, rng.integers(1, 4), replace=False).tolist()) for _ in range(n_items)]
    titles = [f"Film {i}" for i in range(n_items)]
    titles[0] = "<script>alert('x')</script> & Co"
    return pd.DataFrame(
        {"item": np.arange(n_items), "item_id": [f"tt{i}" for i in range(n_items)], "title": titles,
         "year": 1950 + np.arange(n_items) % 70, "categories": categories, "popularity": popularity.copy()}
    )  # fmt: skip


def make_users(n_users, n_items, seeds, rng):
    frames = []
    for seed in seeds:
        history = [rng.choice(n_items, rng.integers(0, 8), replace=False).tolist() for _ in range(n_users)]
        frames.append(
            pd.DataFrame(
                {"seed": seed, "user": np.arange(n_users), "user_id": [f"u{i}" for i in range(n_users)],
                 "data_user": np.arange(n_users), "gender": rng.choice(["F", "M"], n_users), "history": history,
                 "history_rating": [[4.0] * len(h) for h in history]}
            )
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def make_cell(name, seed, n_users, items, days, k, rng, blocks):
    n_items = len(items)
    alive = np.arange(n_users)
    logits = STEEP.get(name, 1.0) * np.log(items["popularity"].to_numpy(float))
    for day in range(days):
        active = alive if day == 0 else alive[rng.random(len(alive)) < 0.8]
        n_turns = rng.integers(1, 4, len(active))
        sums = np.zeros((len(active), 4))
        for turn in range(3):
            rows = np.flatnonzero(turn < n_turns)
            if not rows.size:
                continue
            shown = np.argsort(-(logits + rng.gumbel(size=(len(rows), n_items))), axis=1)[:, :k].astype(np.int32)
            clicked = rng.random(shown.shape) < 0.1 + 0.2 * STAY.get(name, 0.5)
            rating = np.where(clicked & (rng.random(shown.shape) < 0.4), rng.integers(1, 6, shown.shape), np.nan)
            watched = np.where(clicked, rng.random(shown.shape), 0.0).astype(np.float32)
            user, n = active[rows], len(rows)
            asks = (rng.random(n) < 0.1) & (turn + 1 < n_turns[rows])
            action = np.where(turn + 1 == n_turns[rows], 3, np.where(asks, 2, 0)).astype(np.int8)
            said = np.where(asks, 'less Horror, more "Comedy" & <b>fun</b>', None)
            when = {"recommender": name, "seed": seed, "day": day, "session": 0, "turn": turn}
            searched = turn == 2
            policy = "catalog-search" if searched else name
            blocks["impressions"].append(
                pd.DataFrame(
                    {**when, "user": np.repeat(user, k), "item": shown.ravel(),
                     "position": np.tile(np.arange(k, dtype=np.int16), n), "propensity": np.nan,
                     "position_propensity": np.nan, "policy": policy, "clicked": clicked.ravel(),
                     "watched_fraction": watched.ravel(), "liked": False, "shared": False, "rating": rating.ravel(),
                     "comment": np.where(rating.ravel() == 5, "So <b>good</b> & true.", None),
                     "reward": clicked.ravel().astype(float),
                     "trace_examined": (clicked | (rng.random(shown.shape) < 0.5)).ravel(), "trace_p_click": 0.1,
                     "trace_expected_rating": 3.5}
                )
            )  # fmt: skip
            blocks["turns"].append(
                pd.DataFrame(
                    {**when, "user": user, "policy": policy, "version": "0", "message_kind": np.int8(2 * (turn == 1)),
                     "message": "more <i>Comedy</i>" if turn == 1 else None, "candidates": None,
                     "answer": "Here you <u>are</u>." if turn == 1 else None, "next_action": action,
                     "next_message": said, "reward": clicked.sum(1).astype(float), "trace_mood": rng.normal(0, 0.2, n),
                     "trace_boredom": rng.random(n) * (day + 1) / days, "trace_trust": 0.1, "trace_thoughts": None,
                     "trace_fallback": False}
                )
            )  # fmt: skip
            sums[rows] += np.column_stack(
                [clicked.sum(1), watched.sum(1), (~np.isnan(rating)).sum(1), np.nansum(rating, 1)]
            )
        churned = rng.random(len(active)) > STAY.get(name, 0.5) ** 0.3
        with np.errstate(invalid="ignore"):
            mean = (sums[:, 3] / sums[:, 2]).astype(np.float32)
        blocks["sessions"].append(
            pd.DataFrame(
                {"recommender": name, "seed": seed, "day": day, "session": 0, "user": active, "n_turns": n_turns,
                 "n_clicks": sums[:, 0].astype(int), "watched": sums[:, 1], "n_ratings": sums[:, 2].astype(int),
                 "mean_rating": mean, "reward": sums[:, 0], "satisfaction": 0.1, "churned": churned}
            )
        )  # fmt: skip
        alive = np.setdiff1d(alive, active[churned])


def make_talks(recommenders, seeds):
    """Two chats and a post on day 1 of every cell."""
    said = []
    for name in recommenders:
        for seed in seeds:
            for kind, user, to in (("chat", 0, [1]), ("chat", 1, [0]), ("post", 0, [1, 2, 3])):
                said.append(
                    {"recommender": name, "seed": seed, "day": 1, "session": -1, "turn": -1, "user": user,
                     "speaker": "user", "kind": kind, "text": f"</div><em>{kind}</em> of {name}, {seed}", "to": to}
                )  # fmt: skip
    return said


def make_run(
    path, recommenders=("popularity", "uniform", "ease"), seeds=(0, 1), n_users=40, n_items=150, days=10, k=5,
    status="complete",
):  # fmt: skip
    rng = np.random.default_rng(5)
    items = make_items(n_items, rng)
    users = make_users(n_users, n_items, seeds, rng)
    blocks = {"impressions": [], "turns": [], "sessions": []}
    for name in recommenders:
        for seed in seeds:
            make_cell(name, seed, n_users, items, days, k, rng, blocks)
    tables = {table: pd.concat(frames, ignore_index=True) for table, frames in blocks.items()}
    for frame in tables.values():
        for column in {"recommender", "policy"} & set(frame):
            frame[column] = frame[column].astype("category")
    offline = {name: {"ndcg": 0.05 + 0.02 * i, "ndcg_low": 0.04 + 0.02 * i, "ndcg_high": 0.06 + 0.02 * i, "hr": 0.2,
                      "n_users": n_users, "k": k} for i, name in enumerate(recommenders)}  # fmt: skip
    manifest = {
        "status": status, "seeds": list(seeds), "started": "2025-01-01T00:00:00+00:00", "seconds": 12.5,
        "scenario": {"name": "fake", "description": "Made-up <users>.", "days": days, "slate_size": k,
                     "seed": seeds[0], "replications": len(seeds), "users": {"count": n_users, "model": "behavioral"},
                     "recommenders": [{"name": name} for name in recommenders]},
        "data": {"name": "made-up", "scale": [1, 5, 1], "n_users": n_users, "n_items": n_items, "n_ratings": 900,
                 "rating_histogram": {"1": 0.05, "2": 0.1, "3": 0.3, "4": 0.35, "5": 0.2}},
        "cells": [{"recommender": name, "seed": seed, "offline": offline[name], "n_turns": 100, "seconds": 1.0}
                  for name in recommenders for seed in seeds],
        "versions": {"python": "3.11", "recsim-env": "0.1"}, "git": {"commit": "abc123", "dirty": False},
        "hardware": {"cpu": "Test <CPU>", "cores": 2, "memory_gib": 8.0},
    }  # fmt: skip
    return FakeRun(path, manifest, tables, users, items, make_talks(recommenders, seeds))


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def run_maker():
    return make_run
