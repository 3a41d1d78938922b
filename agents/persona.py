"""Who the users are: profile, taste and traits, rendered in about a hundred tokens.

From the data set where it has something: gender, age and occupation of its users; taste from the training part of
their history; and the traits of Agent4Rec (Zhang et al., "On Generative Agents in Recommendation", SIGIR 2024):
activity (number of ratings), conformity (squared distance of the user's ratings from the items' means; small is
conforming) and diversity (entropy of the categories), each as a third of the data set's users. A table of personas
(RecAgent's columns: name, gender, age, traits, status, interest, feature) goes before the data; what neither knows is
drawn from the tables below, with keyed draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsim_env.agents.preference import category_weights
from recsim_env.agents.prompting import Cards
from recsim_env.draws import Draws
from recsim_env.engine.untrusted import clean
from recsim_env.errors import ScenarioError
from recsim_env.records import Catalog, Dataset, FloatArray, Histories, Users

NAMES = {
    "female": ("Anna", "Maria", "Mei", "Fatima", "Sofia", "Priya", "Grace", "Elena", "Yuki", "Amara"),
    "male": ("David", "José", "Wei", "Omar", "Lukas", "Arjun", "James", "Ivan", "Kenji", "Kofi"),
}
AGES = ("18-24", "25-34", "35-44", "45-54", "55-64", "65 or more")
AGE_SHARES = (0.15, 0.3, 0.22, 0.15, 0.1, 0.08)
OCCUPATIONS = (
    "student", "teacher", "engineer", "nurse", "salesperson", "office worker", "artist", "cook", "driver", "retired",
)  # fmt: skip
TEMPERS = ("curious", "impatient", "easy-going", "picky", "warm-hearted", "ironic", "anxious", "ambitious")
FEATURES = ("watcher", "explorer", "critic", "chatter", "poster")
"""Behaviour features of RecAgent."""

_LEVELS = {
    "activity": ("you watch now and then", "you watch regularly", "you watch a lot"),
    "conformity": ("your marks go against the crowd", "your marks are now with, now against the crowd",
                   "your marks mostly agree with the crowd"),
    "diversity": ("you stay with few genres", "you like some variety", "you try all kinds of things"),
}  # fmt: skip
_HABITS = {
    "watcher": "you watch rather than talk", "explorer": "you like to search for yourself",
    "critic": "you like to judge what you watch", "chatter": "you like to chat about it with friends",
    "poster": "you like to post about it",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Norms:
    """What is usual in a data set: the yardstick of traits.

    Attributes:
        item_mean: float32 (I,), mean rating of each item, shrunk to the overall mean.
        thirds: By trait, the two cut points between low, middle and high.
        mean: Mean and standard deviation of the users' mean ratings.
        log_count: Mean and standard deviation of the logarithm of the users' numbers of ratings.
        category_share: float64 (C,), share of each category in all ratings.
    """

    item_mean: FloatArray
    thirds: Mapping[str, tuple[float, float]]
    mean: tuple[float, float]
    log_count: tuple[float, float]
    category_share: FloatArray

    @classmethod
    def of(cls, dataset: Dataset) -> Norms:
        """Measures a data set."""
        r = dataset.ratings
        overall = float(r.rating.mean())
        total = np.bincount(r.item_index, r.rating - overall, dataset.n_items)
        count = np.bincount(r.item_index, minlength=dataset.n_items)
        item_mean = (overall + total / (count + 5.0)).astype(np.float32)
        share = category_weights(dataset.catalog)[r.item_index].sum(axis=0).astype(np.float64)
        share /= max(float(share.sum()), 1e-9)
        traits = _traits(dataset.histories(), dataset.catalog, item_mean)
        thirds = {}
        for name in _LEVELS:
            low, high = np.nanquantile(traits[name], [1 / 3, 2 / 3])
            thirds[name] = (float(low), float(high))
        means, log_counts = traits["mean"], np.log(np.maximum(traits["activity"], 1.0))
        return cls(
            item_mean, thirds, (float(np.nanmean(means)), float(np.nanstd(means)) or 1.0),
            (float(log_counts.mean()), float(log_counts.std()) or 1.0), share,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Personas:
    """The population's personas.

    Attributes:
        name: First names or names, str objects (U,).
        text: Rendered personas, str objects (U,).
        feature: RecAgent's behaviour features, U sets.
        level: int8 (U, 3), thirds of activity, conformity, diversity: 0, 1, 2.
    """

    name: NDArray[np.object_]
    text: NDArray[np.object_]
    feature: list[frozenset[str]]
    level: NDArray[np.int8]


def _traits(history: Histories, catalog: Catalog, item_mean: FloatArray) -> dict[str, FloatArray]:
    """Mean rating, activity, conformity (minus the mean squared distance) and diversity of users, float64 (U,)."""
    n, owner = history.n_users, np.repeat(np.arange(history.n_users), history.lengths)
    rated = ~np.isnan(history.ratings)
    count = np.bincount(owner[rated], minlength=n).astype(np.float64)
    few = np.where(count > 0, count, np.nan)
    off = (history.ratings - item_mean[history.items])[rated].astype(np.float64)
    share = category_shares(history, catalog)
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(axis=1)
    return {
        "mean": np.bincount(owner[rated], history.ratings[rated], n) / few,
        "activity": history.lengths.astype(np.float64),
        "conformity": -np.bincount(owner[rated], off * off, n) / few,
        "diversity": np.where(history.lengths > 0, entropy, np.nan),
    }


def category_shares(history: Histories, catalog: Catalog) -> FloatArray:
    """Share of each category in each user's history, float64 (U, C); zero for an empty one."""
    owner = np.repeat(np.arange(history.n_users), history.lengths)
    weights = category_weights(catalog)
    shares = np.zeros((history.n_users, catalog.n_categories))
    np.add.at(shares, owner, weights[history.items])
    return shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-9)


def read_table(path: Path) -> pd.DataFrame:
    """A table of personas, CSV or Parquet; its row i (modulo its length) describes user i.

    Raises:
        ScenarioError: If it cannot be read or has none of the columns.
    """
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        raise ScenarioError(f"users.personas: cannot read {path}: {error}.") from None
    known = ("name", "gender", "age", "occupation", "traits", "status", "interest", "feature")
    frame = frame.rename(columns=str.strip)
    if not len(frame) or not set(known) & set(frame.columns):
        raise ScenarioError(f"users.personas: {path} needs rows and at least one of the columns {', '.join(known)}.")
    return frame[[c for c in known if c in frame.columns]].fillna("").astype(str)


def make_personas(
    users: Users, norms: Norms, catalog: Catalog, cards: Cards, draws: Draws, table: pd.DataFrame | None = None
) -> Personas:
    """Personas of a population.

    Args:
        users: The population; its history is the training part.
        norms: Yardstick.
        catalog: The items.
        cards: Their cleaned titles.
        draws: Draws of the run, for what is not known.
        table: Rows that go before the data.
    """
    n = users.n_users
    luck = draws.uniforms(draws.keys("persona", np.arange(n)), np.arange(16))
    fields = _fields(users, table, luck, cards.quoter.special_tokens)
    traits = _traits(users.history, catalog, norms.item_mean)
    level = np.empty((n, len(_LEVELS)), np.int8)
    for j, name in enumerate(_LEVELS):
        values = np.where(users.history.lengths > 0, traits[name], np.nan)
        third = np.searchsorted(norms.thirds[name], values, side="right").astype(np.int8)
        level[:, j] = np.where(np.isnan(values), np.minimum(3 * luck[:, 8 + j], 2).astype(np.int8), third)
    tastes = _tastes(users.history, catalog, norms, luck[:, 11:15])
    texts = np.empty(n, object)
    for u in range(n):
        loved = "" if fields["interest"][u] else _favourites(users.history, u, cards)
        texts[u] = _render(fields, u, level[u], tastes[u], _strictness(traits["mean"][u], norms), loved)
    return Personas(fields["name"], texts, [_features(fields["feature"][u]) for u in range(n)], level)


def _fields(
    users: Users, table: pd.DataFrame | None, luck: FloatArray, special_tokens: tuple[str, ...]
) -> dict[str, NDArray[np.object_]]:
    """Profile fields, each str objects (U,): from the table, else from the data, else drawn."""
    n = users.n_users

    def known(name: str) -> NDArray[np.object_]:
        values = np.array(users.profile.get(name, np.full(n, "", object)), object)
        if table is not None and name in table.columns:
            column = table[name].to_numpy(object)[np.arange(n) % len(table)]
            values = np.where(column != "", column, values)
        return np.array([" ".join(str(v).split()) for v in values], object)

    def filled(name: str, lane: int, options: tuple[str, ...], cuts: FloatArray | None = None) -> NDArray[np.object_]:
        values = known(name)
        edges = np.arange(1, len(options)) / len(options) if cuts is None else cuts
        drawn = np.array(options, object)[np.searchsorted(edges, luck[:, lane], side="right")]
        return np.where(values != "", values, drawn)

    gender = filled("gender", 0, ("female", "male"))
    status = known("status")
    occupation = np.where(known("occupation") != "", known("occupation"), status)
    drawn = np.array(OCCUPATIONS, object)[np.minimum(len(OCCUPATIONS) * luck[:, 2], len(OCCUPATIONS) - 1).astype(int)]
    first_names = [NAMES.get(str(g).lower(), (*NAMES["female"], *NAMES["male"])) for g in gender]
    names = known("name")
    for u in np.flatnonzero(names == ""):
        names[u] = first_names[u][min(int(luck[u, 3] * len(first_names[u])), len(first_names[u]) - 1)]
    fields = {
        "name": names,
        "gender": gender,
        "age": filled("age", 1, AGES, np.cumsum(AGE_SHARES)[:-1]),
        "occupation": np.where(occupation != "", occupation, drawn),
        "traits": filled("traits", 4, TEMPERS),
        "interest": known("interest"),
        "feature": filled("feature", 5, FEATURES),
    }
    for name in ("name", "gender", "age", "occupation", "traits", "interest", "feature"):
        fields[name] = np.array([_plain(v, special_tokens) for v in fields[name]], object)
    return fields


def _plain(text: str, special_tokens: tuple[str, ...]) -> str:
    """Cleaned text of a profile, without brackets that could pass for a fence."""
    return clean(text, 160, special_tokens).replace("<", "‹").replace(">", "›")


def _features(text: str) -> frozenset[str]:
    """RecAgent's features out of a cell such as ``Watcher;Critic;``."""
    return frozenset(part.strip().lower() for part in text.split(";")) & frozenset(FEATURES)


def _tastes(history: Histories, catalog: Catalog, norms: Norms, luck: FloatArray) -> list[tuple[list[str], list[str]]]:
    """Up to three liked and one avoided category of each user, by name; for empty histories two are drawn."""
    names = np.array(catalog.categories, object)
    if not len(names):
        return [([], []) for _ in range(history.n_users)]
    share = category_shares(history, catalog)
    # Shrunk lift of the user's share over everybody's, weighted by the share itself: likes that are real and marked.
    n = history.lengths[:, None]
    lift = np.log((share * n + 5.0 * norms.category_share) / ((n + 5.0) * np.maximum(norms.category_share, 1e-9)))
    liked = np.argsort(-(share + 0.1) * lift, axis=1, kind="stable")[:, :3]
    avoided = np.argmin(lift - 5.0 * (norms.category_share < 0.02), axis=1)
    cumulative = np.cumsum(norms.category_share)
    drawn = np.minimum(np.searchsorted(cumulative, luck[:, :2]), len(names) - 1)
    found: list[tuple[list[str], list[str]]] = []
    for u in range(history.n_users):
        if history.lengths[u]:
            some = [str(names[c]) for c in liked[u] if lift[u, c] > 0]
            found.append((some, [str(names[avoided[u]])] if lift[u, avoided[u]] < -0.5 else []))
        else:
            found.append((list(dict.fromkeys(str(names[c]) for c in drawn[u])), []))
    return found


def _favourites(history: Histories, user: int, cards: Cards) -> str:
    """Up to four best-rated titles, the latest first among equals, in one fence; "" for an empty history."""
    part = slice(int(history.offsets[user]), int(history.offsets[user + 1]))
    items, ratings = history.items[part], np.nan_to_num(history.ratings[part], nan=-1.0)
    best = np.lexsort((-np.arange(len(items)), -ratings))[:4]
    return cards.titles(items[best].tolist()) if len(best) else ""


def _strictness(mean: float, norms: Norms) -> str:
    if np.isnan(mean):
        return "your marks use the whole scale"
    z = (mean - norms.mean[0]) / norms.mean[1]
    kind = "a harsh judge" if z < -0.7 else "a generous judge" if z > 0.7 else "a fair judge"
    return f"you are {kind} (your mean mark: {mean:.1f})"


def _render(
    fields: Mapping[str, NDArray[np.object_]],
    user: int,
    level: NDArray[np.int8],
    taste: tuple[list[str], list[str]],
    strictness: str,
    loved: str,
) -> str:
    """One persona: profile, taste, habits."""
    f = {name: str(values[user]) for name, values in fields.items()}
    lines = [f"You are {f['name']}, {f['gender']}, aged {f['age']}, {f['occupation']}; {f['traits']}."]
    if f["interest"]:
        lines.append(f"You like {f['interest']}.")
    else:
        liked, avoided = taste
        if liked:
            lines.append(f"You like {', '.join(liked)}{', and seldom ' + avoided[0] if avoided else ''}.")
        if loved:
            lines.append(f"You loved {loved}")
    habits = [_LEVELS[name][level[j]] for j, name in enumerate(_LEVELS)]
    habits += [_HABITS[name] for name in FEATURES if name in _features(f["feature"])]
    habits.append(strictness)
    text = "; ".join(habits)
    lines.append(f"{text[0].upper()}{text[1:]}.")
    return "\n".join(lines)


def activity_scores(users: Users, norms: Norms, draws: Draws) -> FloatArray:
    """(Log) activity in standard deviations of the data set's users, float32 (U,); drawn where nothing is known."""
    mean, sd = norms.log_count
    known = (np.log(np.maximum(users.history.lengths, 1)) - mean) / sd
    drawn = draws.normals(draws.keys("activity", np.arange(users.n_users)), np.zeros(1, np.int64))[:, 0]
    return np.where(users.data_user >= 0, known, drawn).astype(np.float32)
