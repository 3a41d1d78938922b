"""Training examples of a user language model: prompts with the answers that people gave, or that a teacher states."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from recsim_env.agents.llm import LLMConfig, LLMUsers
from recsim_env.agents.opinions import valence_of
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


def overhear(
    model: LLMUsers, cases: Cases, share: float, spread: float, noise: float, gap: float, draws: Draws
) -> None:
    """Users hear from one to three friends of the films of some pairs: marks that tell of their own, as is stated.

    A friend's mark is the user's own with noise. For a film that was not rated the own mark is drawn: what user and
    film let expect, less ``gap``. So by Bayes' rule a friend who praises makes "watch" likelier and the own mark
    higher, and what users do who have heard nothing stays as the data have it.

    Args:
        model: The users; changed.
        cases: The pairs.
        share: Share of the pairs.
        spread: Standard deviation of own marks around what is expected, in tenths of the scale, as are the next two.
        noise: Standard deviation of a friend's mark around the own.
        gap: How much lower the own mark of an unwatched film would be.
        draws: Luck.
    """
    scale, history = model.catalog.scale, model.users.history
    tenth = (scale.high - scale.low) / 10.0
    owner = np.repeat(np.arange(len(history.lengths)), history.lengths)
    given = np.where(np.isnan(history.ratings), model.norms.mean[0], history.ratings)
    own_mean = np.bincount(owner, given - model.norms.mean[0], len(history.lengths)) / (history.lengths + 2.0)
    luck = draws.keys("overheard", cases.users)
    lanes = cases.items.astype(np.int64)[:, None] * 16 + np.arange(6)
    u = Draws.uniforms(luck, lanes)
    normal = ndtri(np.clip(u[:, 2:6], 1e-6, 1 - 1e-6))
    drawn = model.norms.item_mean[cases.items] + own_mean[cases.users] + tenth * (spread * normal[:, 3] - gap)
    own = np.where(cases.watched, cases.marks, drawn)
    marks = own[:, None] + tenth * noise * normal[:, :3]
    levels = scale.levels[np.abs(marks[:, :, None] - scale.levels).argmin(axis=2)]
    told = (u[:, :1] < share) & (np.arange(3) <= np.floor(3 * u[:, 1:2]))
    pair, _ = np.nonzero(told)
    stars = levels[told].astype(np.float32)
    model.heard.add(cases.users[pair], cases.items[pair], stars, valence_of(stars, model.norms.mean[0], scale))


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
        heard: What friends say of films, see :func:`overhear`: share, spread, noise and gap.
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
    heard: Mapping[str, float]

    def part(self, epoch: int, fold: int) -> list[Example]:
        """The examples of one fold; sampled films and what is drawn of personas change from epoch to epoch."""
        ratings = self.train.ratings
        inside = fold_of(ratings, self.n_folds, self.draws) == fold
        luck = Draws(self.draws.seed + 7919 * (1 + epoch * self.n_folds + fold))
        known = self.train.with_ratings(ratings.take(~inside))
        model = seat(known, self.config, self.embedder, luck, self.special_tokens)
        unsettle(model, self.restless, luck)
        cases = Cases.of(ratings.take(inside), known, self.negatives, luck)
        overhear(model, cases, draws=luck, **self.heard)
        return judged(model, cases, self.no_mark, self.weights)
