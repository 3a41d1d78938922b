"""How well a user language model knows people: error of marks, and who would watch what, on held-out ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata

from recsim_env.records import BoolArray, Dataset, FloatArray
from recsim_env.training.examples import Cases
from recsim_env.training.losses import Packed
from recsim_env.training.packing import Branch, Tree, batches_of, lay_out, rows_of


def auc(scores: FloatArray, positive: BoolArray) -> float:
    """Probability that a positive has the higher score, ties counted half; NaN without positives or negatives."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def answers(packed: Packed, trees: Sequence[Tree], width: int, tokens: int, pad: int) -> list[FloatArray]:
    """Probabilities over the options of every decision, in the order of the trees and their branches."""
    found: dict[int, FloatArray] = {}
    packed.model.eval()
    with torch.no_grad():
        for rows in batches_of(rows_of(trees, width), tokens):
            batch = lay_out(rows, pad).to(packed.model.device)
            _, scores = packed.option_scores(batch, packed.hidden(batch))
            decided = [b for row in rows for tree in row for b in tree.branches if len(b.options)]
            for branch, p in zip(decided, torch.softmax(scores, dim=1).double().cpu().numpy(), strict=True):
                found[id(branch)] = p[: len(branch.options)]
    return [found[id(branch)] for tree in trees for branch in tree.branches if len(branch.options)]


@dataclass(frozen=True, slots=True)
class Fit:
    """Figures of a model or a baseline.

    Attributes:
        rmse: Of the expected mark, on the scale.
        mae: Likewise.
        auc_liked: Whether marks that the scale calls liked are told from others by the expected mark.
        auc_watch: Whether rated films are told from sampled ones.
        loss: Mean cross-entropy of marks and of watching; NaN for baselines.
        n: Number of marks.
    """

    rmse: float
    mae: float
    auc_liked: float
    auc_watch: float
    loss: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """Plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


def fit_of(expected: FloatArray, real: FloatArray, wish: FloatArray, watched: BoolArray, liked_from: float) -> Fit:
    """Figures out of expected and real marks, and of wishes for rated and sampled films."""
    off = np.asarray(expected, np.float64) - real
    return Fit(
        float(np.sqrt(np.mean(off**2))), float(np.abs(off).mean()), auc(expected, real >= liked_from),
        auc(wish, watched), float("nan"), len(real),
    )  # fmt: skip


def measure(
    packed: Packed,
    trees: Sequence[Tree],
    levels: FloatArray,
    liked_from: float,
    batch: tuple[int, int, int],
    share: float = 0.5,
) -> Fit:
    """Figures of a model on the trees of held-out pairs.

    Args:
        packed: The model.
        trees: Of :func:`~recsim_env.training.examples.judged`.
        levels: float (G,), of the scale.
        liked_from: Mark from which a film is liked.
        batch: Width of rows, tokens of a batch, padding token.
        share: Share of rated films among those asked about in training: the loss of "watch" is weighted so that it is
            the same here, or a model would be judged by its base rate.
    """
    branches: list[Branch] = [b for tree in trees for b in tree.branches]
    replies = answers(packed, trees, *batch)
    both = list(zip(branches, replies, strict=True))
    wish = np.array([p[1] for b, p in both if b.purpose == "watch"])
    watched = np.array([b.target[1] > 0.5 for b, p in both if b.purpose == "watch"], np.bool_)
    marks = np.array([p[1:] / p[1:].sum() for b, p in both if b.purpose == "stars"])
    place = np.array([int(b.target[1:].argmax()) for b, p in both if b.purpose == "stars"])
    found = fit_of(marks @ levels, levels[place], wish, watched, liked_from)
    surprise = -np.log(np.maximum(marks[np.arange(len(place)), place], 1e-12)).mean()
    missed = -np.log(np.maximum(np.where(watched, wish, 1 - wish), 1e-12))
    surprise += share * missed[watched].mean() + (1 - share) * missed[~watched].mean()
    return Fit(**{**found.as_dict(), "loss": float(surprise)})  # type: ignore[arg-type]


def baselines(train: Dataset, cases: Cases) -> dict[str, Fit]:
    """What no language model reaches: overall mean, user and item biases (shrunk by 5 ratings), popularity."""
    r = train.ratings
    mean = float(r.rating.mean())
    user, item = np.zeros(train.n_users), np.zeros(train.n_items)
    n_user = np.bincount(r.user_index, minlength=train.n_users) + 5.0
    n_item = np.bincount(r.item_index, minlength=train.n_items) + 5.0
    for _ in range(20):
        item = np.bincount(r.item_index, r.rating - mean - user[r.user_index], train.n_items) / n_item
        user = np.bincount(r.user_index, r.rating - mean - item[r.item_index], train.n_users) / n_user
    real = cases.watched
    users, items, marks = cases.users[real], cases.items[real], cases.marks[real]
    popularity = train.catalog.popularity[cases.items].astype(np.float64)
    expected = {
        "overall mean": np.full(len(marks), mean),
        "item mean": mean + np.bincount(r.item_index, r.rating - mean, train.n_items)[items] / n_item[items],
        "user and item biases": mean + user[users] + item[items],
    }
    liked = train.catalog.scale.liked_from()
    return {name: fit_of(values, marks, popularity, real, liked) for name, values in expected.items()}
