"""Training examples of a user language model: prompts with the answers that people gave, or that a teacher states."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsim_env.agents.llm import LLMConfig, LLMUsers
from recsim_env.draws import Draws
from recsim_env.interfaces import Embedder, Engine
from recsim_env.records import ChoiceRequest, Dataset, FloatArray, IntArray, Ratings, Users


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One prompt with its answer.

    Attributes:
        group: Prompts of one group begin alike: those of a user at one moment.
        messages: The chat.
        purpose: What is asked.
        options: Options of a decision, empty for words.
        target: Probability of each option float64 (n_options,), or the words.
        weight: Weight of its loss.
    """

    group: Hashable
    messages: Sequence[Mapping[str, str]]
    purpose: str
    options: tuple[str, ...]
    target: FloatArray | str
    weight: float = 1.0


def fold_of(ratings: Ratings, n_folds: int, draws: Draws) -> IntArray:
    """A fold for every rating, int64 (R,): each user's ratings are dealt out evenly, in an order drawn by item."""
    keys = draws.keys("fold", ratings.user_index)
    luck = draws.uniforms(keys, ratings.item_index[:, None])[:, 0]
    order = np.lexsort((ratings.item_index, luck, ratings.user_index))
    counts = np.bincount(ratings.user_index)
    rank = np.empty(len(ratings), np.int64)
    rank[order] = np.arange(len(ratings)) - np.repeat(np.cumsum(counts) - counts, counts)
    return (rank + ratings.user_index) % n_folds


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """Pairs of user and film that somebody's prompts are asked about.

    Attributes:
        users: int64 (n,), rows of the population.
        items: int32 (n,).
        marks: float32 (n,), the real mark; NaN for a film that the user never rated (a sampled one).
    """

    users: IntArray
    items: IntArray
    marks: FloatArray

    @property
    def watched(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which films were really rated, bool (n,)."""
        return ~np.isnan(self.marks)

    @classmethod
    def of(cls, found: Ratings, known: Dataset, negatives: int, draws: Draws) -> Cases:
        """Ratings, each with films beside it that its user has not rated in ``known``."""
        n, size = len(found), known.n_items
        seen = np.zeros((known.n_users, size), np.bool_)
        seen[known.ratings.user_index, known.ratings.item_index] = True
        seen[found.user_index, found.item_index] = True
        # Some more are drawn than are needed, for those that the user knows; with very few films a row has fewer.
        luck = draws.bits(draws.keys("negative", np.arange(n)), np.arange(4 * negatives + 8)) % np.uint64(size)
        users, items = [found.user_index.astype(np.int64)], [found.item_index.astype(np.int32)]
        marks = [found.rating.astype(np.float32)]
        for row in range(n if negatives else 0):
            user = int(found.user_index[row])
            drawn = dict.fromkeys(i for i in luck[row].astype(int).tolist() if not seen[user, i])
            some = list(drawn)[:negatives]
            users.append(np.full(len(some), user))
            items.append(np.array(some, np.int32))
            marks.append(np.full(len(some), np.nan, np.float32))
        return cls(np.concatenate(users), np.concatenate(items), np.concatenate(marks))


class _Nobody(Engine):
    """An engine that is never asked: users need one to sit down."""

    def __init__(self, special_tokens: tuple[str, ...]) -> None:
        super().__init__()
        self.special_tokens = special_tokens

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """Nothing asks."""
        raise AssertionError("nobody answers")

    def generate(self, requests: Sequence[object]) -> list[object]:  # type: ignore[override]
        """Nothing asks."""
        raise AssertionError("nobody answers")

    def close(self) -> None:
        """Nothing is open."""


def seat(
    known: Dataset, config: LLMConfig, embedder: Embedder, draws: Draws, special_tokens: tuple[str, ...]
) -> LLMUsers:
    """The data set's users, whose personas and memories are made of ``known`` alone, row by row."""
    model = LLMUsers(config)
    model.attach(_Nobody(special_tokens), embedder)
    model.fit(known, draws)
    rows = np.arange(known.n_users)
    model.reset(Users(known.user_id, rows, known.profile, known.histories()), draws)
    return model


def unsettle(model: LLMUsers, share: float, draws: Draws) -> None:
    """Puts a share of the users into drawn moods and goals.

    What a person would watch and what mark it would give are taken to be the same in any mood: no data says more.
    """
    state = model.state()
    n = len(state["goal"])
    luck = draws.uniforms(draws.keys("unsettled", np.arange(n)), np.arange(5))
    some = luck[:, 0] < share
    mood = np.stack([2 * luck[:, 1] - 1, luck[:, 2], 2 * luck[:, 3] - 1], axis=1)
    state["mindset"][some] = mood[some]
    goals = len(model.prompts["goal.goal"].options)
    state["goal"][some] = np.minimum(goals * luck[some, 4], goals - 1).astype(np.int8)
    model.load_state(state)


def judged(model: LLMUsers, cases: Cases, no_mark: float, weights: tuple[float, float]) -> list[Example]:
    """Examples of pairs: "watch" for each, "stars" for those that were rated.

    Args:
        model: The users, who know nothing of the pairs.
        cases: The pairs.
        no_mark: Share of watched films that get no mark (stated; every rating in the data is one).
        weights: Weight of a "watch" and of a "stars".
    """
    requests = model.judging_requests(cases.users, cases.items)
    n, levels = len(cases.users), model.catalog.scale.levels
    found = []
    for i, request in enumerate(requests):
        pair, mark = i % n, float(cases.marks[i % n])
        if i < n:
            target = np.array([1.0, 0.0]) if np.isnan(mark) else np.array([0.0, 1.0])
        elif np.isnan(mark):
            continue
        else:
            target = np.append(no_mark, (1 - no_mark) * (np.abs(levels - mark) < 1e-4))
        kind = request.key.purpose
        group = ("judged", int(cases.users[pair]))
        found.append(Example(group, request.messages, kind, request.options, target, weights[i >= n]))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class RealExamples:
    """Examples from real ratings, a fold at a time: what is asked about is in nobody's persona, memory or averages.

    Attributes:
        train: The training part.
        config: Settings of the users.
        embedder: For their memory.
        draws: Draws of the training run.
        special_tokens: Of the model's tokenizer.
        n_folds: Folds.
        negatives: Sampled films for each that was rated.
        no_mark: Stated share of watched films without a mark.
        restless: Share of users in drawn moods.
        weights: Weight of a "watch" and of a "stars".
    """

    train: Dataset
    config: LLMConfig
    embedder: Embedder
    draws: Draws
    special_tokens: tuple[str, ...]
    n_folds: int
    negatives: int
    no_mark: float
    restless: float
    weights: tuple[float, float]

    def part(self, epoch: int, fold: int) -> list[Example]:
        """The examples of one fold; sampled films and what is drawn of personas change from epoch to epoch."""
        ratings = self.train.ratings
        inside = fold_of(ratings, self.n_folds, self.draws) == fold
        luck = Draws(self.draws.seed + 7919 * (1 + epoch * self.n_folds + fold))
        known = self.train.with_ratings(ratings.take(~inside))
        model = seat(known, self.config, self.embedder, luck, self.special_tokens)
        unsettle(model, self.restless, luck)
        return judged(model, Cases.of(ratings.take(inside), known, self.negatives, luck), self.no_mark, self.weights)
