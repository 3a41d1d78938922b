"""A run folder as a log: slates, propensities and rewards, and what a target policy makes of them, in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from recsim_env.draws import Draws
from recsim_env.errors import RecsimError
from recsim_env.evaluation.ope.reward_model import ItemFacts, RewardModel, halves
from recsim_env.evaluation.ope.turns import Turns
from recsim_env.experiments.ope.policies import BLOCK, NextItem, next_item
from recsim_env.interfaces import Recommender
from recsim_env.rebuild import rebuild
from recsim_env.records import SEARCH_POLICY, BoolArray, Feedback, FloatArray, IntArray, ObservationBatch
from recsim_env.rewards import Reward
from recsim_env.rundir import Run, cell_name

CERTAIN = 1.0 - 1e-6
"""A propensity from which a slate counts as certain."""
IMPOSSIBLE = 1e-12
"""A probability below which the logging policy is said never to show an item."""
PREFIXES = 2
"""Slates that are drawn from a target policy for its marginals at a position (IIPS)."""


COLUMNS = {"clicks": "clicked", "watch": "watched_fraction", "likes": "liked"}
"""Rewards that are a column of the impressions."""


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """The logged turns of one recommender, in the order of seed and time.

    Attributes:
        user: int64 (n,), number of the user: another one for another seed.
        session: int64 (n,), number of the session, over all users.
        items: int32 (n, K).
        propensity: float32 (n, K).
        position_propensity: float32 (n, K), NaN where unknown.
        reward: float32 (n, K); a reward that belongs to the page as a whole stands at its last position.
        searched: bool (n,), turns that the catalogue's search served.
        leaning: float32 (n, C), category shares of the visible history.
    """

    user: IntArray
    session: IntArray
    items: IntArray
    propensity: FloatArray
    position_propensity: FloatArray
    reward: FloatArray
    searched: BoolArray
    leaning: FloatArray

    @property
    def n(self) -> int:
        """Number of turns."""
        return len(self.user)

    @property
    def unexplored(self) -> BoolArray:
        """Which slates were certain, bool (n,)."""
        return np.asarray((self.propensity >= CERTAIN).all(axis=1))

    @property
    def own(self) -> IntArray:
        """Rows that the policy served itself and whose propensities are known, int64."""
        return np.flatnonzero(~self.searched & np.isfinite(self.propensity).all(axis=1))


def read_log(run: Run, recommender: str, seeds: Sequence[int], facts: ItemFacts, reward: Reward) -> Log:
    """Reads the cells of one recommender.

    Raises:
        RecsimError: If it never served.
    """
    parts = []
    for number, seed in enumerate(seeds):
        for obs, slate, feedback in rebuild(run, cell_name(recommender, seed)):
            whole, per_item = reward(obs, slate, feedback)
            per_item[:, -1] += whole - per_item.sum(axis=1)
            person = obs.user_index + (number << 32)
            visit = (obs.day.astype(np.int64) << 20) + obs.session
            searched = np.zeros(obs.n, np.bool_) if slate.searched is None else slate.searched
            leaning = facts.leaning(obs.history).astype(np.float32)
            parts.append(
                (person, visit, slate.items, slate.propensity, slate.position_propensity, per_item, searched, leaning)
            )
    if not parts:
        raise RecsimError(f"{run.path}: {recommender!r} has not served a single turn yet. Wait until the run has days.")
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Log(columns[0], _visits(columns[0], columns[1]), *columns[2:])


@dataclass(frozen=True, slots=True, eq=False)
class Earned:
    """What a policy earned on its own turns.

    Attributes:
        user: int64 (n,).
        session: int64 (n,).
        reward: float64 (n,), of the whole page.
        searched: bool (n,).
    """

    user: IntArray
    session: IntArray
    reward: FloatArray
    searched: BoolArray


def read_earned(
    run: Run, recommender: str, seeds: Sequence[int], facts: ItemFacts, reward: Reward, name: str
) -> Earned:
    """Rewards of a recommender's turns; without living the run again where the reward is a column."""
    if name not in COLUMNS:
        log = read_log(run, recommender, seeds, facts, reward)
        return Earned(log.user, log.session, log.reward.sum(axis=1, dtype=np.float64), log.searched)
    parts = []
    for number, seed in enumerate(seeds):
        wanted = ["user", "day", "session", "turn", "policy", COLUMNS[name]]
        shown = run.table("impressions", wanted, cell=cell_name(recommender, seed))
        user, day, session, turn = (shown[column].to_numpy(np.int64) for column in wanted[:4])
        page = np.stack([user + (number << 32), (day << 20) + session, turn])
        _, first, place = np.unique(page, axis=1, return_index=True, return_inverse=True)
        total = np.bincount(place, shown[COLUMNS[name]].to_numpy(np.float64))
        searched = (shown["policy"] == SEARCH_POLICY).to_numpy()[first]
        parts.append((page[0, first], page[1, first], total, searched))
    person, visit, total, searched = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Earned(person, _visits(person, visit), total, searched)


def _visits(person: IntArray, visit: IntArray) -> IntArray:
    """One number for each session of each user, int64 (n,)."""
    found: IntArray = np.unique(np.stack([person, visit]), axis=1, return_inverse=True)[1]
    return found


def observations(run: Run, recommender: str, seeds: Sequence[int]) -> Iterator[tuple[slice, ObservationBatch]]:
    """The observations of a log in its order, in blocks of :data:`BLOCK` rows or a little fewer, with their rows."""
    start, held = 0, list[ObservationBatch]()
    for seed in seeds:
        for obs, _, _ in rebuild(run, cell_name(recommender, seed)):
            for first in range(0, obs.n, BLOCK):
                part = obs if obs.n <= BLOCK else obs.take(slice(first, first + BLOCK))
                if held and sum(o.n for o in held) + part.n > BLOCK:
                    yield _block(start, held)
                    start, held = start + sum(o.n for o in held), []
                held.append(part)
    if held:
        yield _block(start, held)


def _block(start: int, held: list[ObservationBatch]) -> tuple[slice, ObservationBatch]:
    block = joined(held)
    return slice(start, start + block.n), block


def joined(parts: Sequence[Any]) -> Any:
    """Batches of one kind one after another."""
    if len(parts) == 1:
        return parts[0]
    columns = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], Feedback):
            columns[field.name] = joined(values)
        elif isinstance(values[0], list):
            columns[field.name] = [text for value in values for text in value]
        else:
            columns[field.name] = None if values[0] is None else np.concatenate(values)
    return type(parts[0])(**columns)


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """A target policy beside a log: the estimators' arrays, and the share of its items that are never shown."""

    turns: Turns
    unsupported: float


class Logger:
    """The logging policy, fitted again, to see what it never shows."""

    def __init__(self, policy: Recommender, n_items: int) -> None:
        self._policy, self._n_items = policy, n_items
        self._obs: ObservationBatch | None = None
        self._next: NextItem | None = None

    def chance(self, obs: ObservationBatch, slates: IntArray) -> FloatArray:
        """Probability of slates, float64 (N, K); asked about one block by every target, it scores it once."""
        if self._obs is not obs:
            self._obs, self._next = obs, next_item(self._policy, obs, self._n_items)
        if self._next is None:
            return np.asarray(np.exp(self._policy.log_prob(obs, slates)))
        return self._next.propensity(slates)


class Follower:
    """Takes down what a target policy makes of logged turns, block by block.

    Args:
        target: The policy.
        logger: The logging policy.
        model: The reward model.
        log: The logged turns.
        n_items: I.
        draws: Of the slates that are drawn from the target policy.
    """

    def __init__(
        self, target: Recommender, logger: Logger, model: RewardModel, log: Log, n_items: int, draws: Draws
    ) -> None:
        self.target, self.logger, self.model, self.log = target, logger, model, log
        self.n_items, self.draws = n_items, draws
        self._marginals = bool(np.isfinite(log.position_propensity[log.own]).all())
        self._parts: list[list[FloatArray | None]] = []
        self._impossible, self._drawn = 0, 0

    def add(self, obs: ObservationBatch, rows: slice) -> None:
        """Takes down a block; ``obs`` belongs to the given rows of the log."""
        log = self.log
        items, half, leaning = log.items[rows], halves(log.user[rows]), log.leaning[rows]
        policy = next_item(self.target, obs, self.n_items)
        expected = marginal = None
        if policy is None:
            chance = np.exp(self.target.log_prob(obs, items))
            slates = self.target.recommend(obs, items.shape[1], self.draws).items
        else:
            given = policy.given(items)
            chance, slates = given.probability(items), policy.draw(items.shape[1], obs, self.draws)
            expected = self._predict(half, given.mean(self.model.item_table()), leaning)
            if self._marginals:
                marginal = self._marginal(policy, obs, items)
        with np.errstate(invalid="ignore"):  # turns of the catalogue's search have no propensity
            ratio = chance / log.propensity[rows]
            marginal = None if marginal is None else marginal / log.position_propensity[rows]
        drawn = self._predict(half, self.model.item_table()[slates], leaning)
        parts = (ratio, marginal, expected, drawn)
        self._parts.append([None if part is None else part.astype(np.float32) for part in parts])
        self._count(obs, slates, log.searched[rows])

    def result(self, q: FloatArray) -> Beside:
        """Everything, once all blocks were added; ``q`` float (n, K) is the reward model at the shown items."""
        ratio, marginal, expected, drawn = (
            None if column[0] is None else np.concatenate([part for part in column if part is not None])
            for column in zip(*self._parts, strict=True)
        )
        assert ratio is not None, "every policy has probabilities"
        later = self.model.later(halves(self.log.user), ratio.shape[1])
        turns = Turns(self.log.reward, ratio, marginal, q, expected, drawn, later)
        return Beside(turns, self._impossible / max(self._drawn, 1))

    def _predict(self, half: IntArray, means: FloatArray, leaning: FloatArray) -> FloatArray:
        return self.model.predict(half, self.model.features(half, means, leaning))

    def _marginal(self, policy: NextItem, obs: ObservationBatch, items: IntArray) -> FloatArray:
        """Marginal probability of the shown items, (N, K): exact at the top, below a mean over drawn items above.

        The mean is unbiased and stands in the numerator, so IIPS stays what it is, with a little more noise.
        """
        if items.shape[1] == 1:
            return policy.propensity(items)
        found = np.zeros(items.shape)
        for number in range(PREFIXES):
            draws = Draws(self.draws.seed + 1 + number)
            found += policy.given(policy.draw(items.shape[1], obs, draws)).probability(items)
        return found / PREFIXES

    def _count(self, obs: ObservationBatch, slates: IntArray, searched: BoolArray) -> None:
        """Counts the target policy's items that the logging policy never shows."""
        chance = self.logger.chance(obs, slates)[~searched]
        self._impossible += int((chance < IMPOSSIBLE).sum())
        self._drawn += int(chance.size)
