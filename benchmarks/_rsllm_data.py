"""LLaRA's LastFM and MovieLens windows and the fixed candidates, as data sets and cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recsim_env.data.movielens import load_ml_100k
from recsim_env.draws import Draws
from recsim_env.records import Catalog, Dataset, IntArray, Ratings, RatingScale

LENGTH = 10
"""Items of a history."""
OTHER_NAMES = {"Florence and the Machine": "Florence + the Machine", "Plus 44": "+44"}
"""Names of the fixed candidates that the list of names writes otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """Questions of what comes next.

    Attributes:
        history: int64 (N, 10), padded in front with the number of items.
        target: int64 (N,).
        candidates: int64 (N, 20), the target among them, or None where they are drawn.
        user: int64 (N,), whose case it is, or None where every case is another user's.
    """

    history: IntArray
    target: IntArray
    candidates: IntArray | None = None
    user: IntArray | None = None

    @property
    def place(self) -> IntArray:
        """Where the target stands among the candidates, int64 (N,)."""
        assert self.candidates is not None
        return (self.candidates == self.target[:, None]).argmax(axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """A data set to train on and what is asked.

    Attributes:
        name: Of the data set.
        train: The training users.
        last_only: LLaRA's windows by part, ``val`` and ``test``.
        fixed: The cases with fixed candidates, or None.
    """

    name: str
    train: Dataset
    last_only: dict[str, Cases]
    fixed: Cases | None = None

    def few(self, users: int, cases: int) -> World:
        """A small part, for tests."""
        ratings = self.train.ratings.take(self.train.ratings.user_index < users)
        fixed = self.fixed
        if fixed is not None:
            rows = np.linspace(0, len(fixed.target) - 1, cases).astype(int)
            fixed = Cases(*(getattr(fixed, name)[rows] for name in fixed.__slots__))
        return replace(self, train=self.train.with_ratings(ratings), fixed=fixed)


def lastfm(folder: Path) -> World:
    """LastFM: 976 users in 50,800 training windows, 4,606 artists."""
    lines = (folder / "lastfm_id2name.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split("::", 1)[1] for line in lines]
    n = len(names)
    sequences: list[list[int]] = []
    for window in _lines(folder / "lastfm_train.jsonl"):
        if window["seq"][0] == n:  # a window without a history begins a user
            sequences.append([])
        sequences[-1].append(window["next"])
    catalog = Catalog(
        item_id=np.array([str(i) for i in range(n)], object), title=np.array(names, object), categories=(),
        item_categories=np.zeros((n, 0), np.bool_), text=np.full(n, "", object), year=np.zeros(n, np.int16),
        popularity=np.zeros(n, np.int64), scale=RatingScale(1.0, 5.0),
    )  # fmt: skip
    parts = {
        part: _cases(
            [(w["seq"][: w["len_seq"]], w["next"]) for w in _lines(folder / f"lastfm_{part}.jsonl")], n
        )
        for part in ("val", "test")
    }  # fmt: skip
    return World("LastFM", dataset_of("lastfm", catalog, sequences), parts, _fixed(folder, names))


def movielens(folder: Path, ratings: Path) -> World:
    """MovieLens 100K: the 754 users of whom LLaRA keeps no window, ratings of 3 and more; 1,682 films.

    Args:
        folder: LLaRA's validation and test windows.
        ratings: The folder of MovieLens 100K.
    """
    data = load_ml_100k(ratings)
    index = {int(name): i for i, name in enumerate(data.catalog.item_id)}  # LLaRA counts the ids from 0
    r = data.ratings
    own = [set(zip(r.item_index[r.user_index == u].tolist(), r.rating[r.user_index == u].tolist(), strict=True))
           for u in range(data.n_users)]  # fmt: skip
    parts, kept = {}, np.ones(data.n_users, np.bool_)
    for part in ("val", "test"):
        windows = []
        for window in _lines(folder / f"movielens_{part}.jsonl"):
            rated = [*window["seq"][: window["len_seq"]], window["next"]]
            pairs = [(index[item + 1], float(stars)) for item, stars in rated]
            (user,) = (u for u in range(data.n_users) if own[u].issuperset(pairs))
            kept[user] = False
            windows.append(([item for item, _ in pairs[:-1]], pairs[-1][0]))
        parts[part] = _cases(windows, data.n_items)
    return World("MovieLens", data.with_ratings(r.take(kept[r.user_index] & (r.rating >= 3))), parts)


def dataset_of(name: str, catalog: Catalog, sequences: Sequence[Sequence[int]]) -> Dataset:
    """A data set out of each user's items in order."""
    users = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences]).astype(np.int32)
    items = np.concatenate([np.asarray(s, np.int32) for s in sequences])
    ratings = Ratings(users, items, np.full(len(items), 5, np.float32), np.arange(len(items), dtype=np.int64))
    names = np.array([str(u) for u in range(len(sequences))], object)
    return Dataset(name, catalog, names, {}, ratings).with_ratings(ratings)


def drawn_candidates(cases: Cases, n_items: int, draws: Draws, size: int = 20) -> Cases:
    """The target and 19 random items that are not in the history, in an order that says nothing."""
    luck = draws.uniforms(draws.keys("candidates", np.arange(len(cases.target))), np.arange(n_items)).astype(np.float64)
    real = cases.history < n_items
    luck[np.nonzero(real)[0], cases.history[real]] = 2.0
    luck[np.arange(len(luck)), cases.target] = -1.0
    picked = np.argsort(luck, axis=1, kind="stable")[:, :size]
    return replace(cases, candidates=np.sort(picked, axis=1))


def _fixed(folder: Path, names: Sequence[str]) -> Cases:
    index = {name: i for i, name in enumerate(names)}
    index |= {other: index[name] for other, name in OTHER_NAMES.items()}
    found: list[Any] = json.loads((folder / "candidates20_val.json").read_text(encoding="utf-8"))
    asked = [([index[t] for t in case["historyList"].split("::")], index[case["trueSelection"]]) for case in found]
    candidates = np.array([[index[title] for title in case["itemList"]] for case in found])
    user = np.cumsum([len(history) == 3 for history, _ in asked])  # a user's first case has three items
    return replace(_cases(asked, len(names)), candidates=candidates, user=user)


def _cases(windows: Sequence[tuple[Sequence[int], int]], n_items: int) -> Cases:
    history = np.full((len(windows), LENGTH), n_items)
    for row, (items, _) in zip(history, windows, strict=True):
        row[LENGTH - len(items) :] = items
    return Cases(history, np.array([target for _, target in windows]))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
