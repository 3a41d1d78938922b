"""The core: one turn for N users at once. Knows no Gymnasium and no particular plug-in.

obs = simulator.observe(rows)
slate = simulator.serve(recommender, obs)
outcome = simulator.react(obs, slate)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recsim_env.calendar import Calendar
from recsim_env.data.search import CatalogSearch
from recsim_env.data.works import Works, candidates_of
from recsim_env.draws import Draws
from recsim_env.errors import ContractError
from recsim_env.graphs import Graph
from recsim_env.interfaces import Recommender, UserModel
from recsim_env.records import (
    BoolArray,
    Catalog,
    Feedback,
    FloatArray,
    IntArray,
    MessageKind,
    NextAction,
    ObservationBatch,
    SlateBatch,
    Trace,
    Users,
)
from recsim_env.rewards import Reward
from recsim_env.visible import VisibleState


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one turn led to.

    Attributes:
        feedback: Visible reaction; next_action is "leave" where the session's longest length is reached.
        trace: Hidden side of it.
        reward: float32 (N,).
        item_reward: float32 (N, K), the part of the reward that belongs to single items.
        left: bool (N,), the session is over.
        churned: bool (N,), the user stopped for good with this session.
        mood: float32 (N,), mean mood of the session so far.
        p_return: float32 (N,), probability that the user opens the app on the next day, where the session is over,
            else NaN; hidden like ``trace``.
    """

    feedback: Feedback
    trace: Trace
    reward: FloatArray
    item_reward: FloatArray
    left: BoolArray
    churned: BoolArray
    mood: FloatArray
    p_return: FloatArray


class Simulator:
    """Users, their calendar and what is visible of them, behind three calls per turn.

    Args:
        catalog: The items; popularity counts the training part.
        users: The population.
        model: User model, already reset to this population.
        calendar: Return and churn.
        reward: Weighted reward functions.
        draws: Draws of the run.
        slate_size: K.
        history_length: L of the observations.
        max_turns: Longest session in pages.
        retriever: Picks the candidate set of every observation, or None: the whole catalogue.
        n_candidates: Size of the candidate set.
        friends: Who knows whom; None where the users are no population with acquaintances.
        works: Who made which item; None: nobody did, and the whole catalogue is on offer.

    Attributes:
        offered: int32 (I,), everybody's candidate set: what is on offer now, each item at its own place, ``n_items`` at
            the others; None is the whole catalogue. See :meth:`offer`.
    """

    def __init__(
        self,
        catalog: Catalog,
        users: Users,
        model: UserModel,
        calendar: Calendar,
        reward: Reward,
        draws: Draws,
        slate_size: int,
        history_length: int,
        max_turns: int,
        retriever: Recommender | None = None,
        n_candidates: int | None = None,
        friends: Graph | None = None,
        works: Works | None = None,
    ) -> None:
        self.friends, self.works = friends, works
        self.catalog, self.users, self.model = catalog, users, model
        self.calendar, self.reward, self.draws = calendar, reward, draws
        self.slate_size, self.max_turns = slate_size, max_turns
        self.retriever, self.n_candidates = retriever, n_candidates
        self.visible = VisibleState(catalog, users, slate_size, history_length)
        self.search = CatalogSearch(catalog)
        self._mood = np.zeros(users.n_users, np.float32)
        self.offered: IntArray | None = None
        if works is not None:
            self.offer(works.on_offer(works.opening))

    def offer(self, items: IntArray) -> None:
        """From now on these items, int (m,), and no others may be shown, searched and be candidates."""
        self.offered = candidates_of(items, self.catalog.n_items)
        self.search.on_offer = self.offered < self.catalog.n_items

    def open(self, rows: IntArray, day: int | IntArray, session: int | IntArray) -> None:
        """Starts a session of some users."""
        self.visible.open(rows, day, session)
        self._mood[rows] = 0.0

    def reset_rows(self, rows: IntArray) -> None:
        """Puts some users back to the start of a life, with fresh luck."""
        self.visible.reset(rows)
        self.model.reset_rows(rows)
        self.calendar.reset_rows(rows)
        self._mood[rows] = 0.0

    def observe(self, rows: IntArray) -> ObservationBatch:
        """What a recommender may see of some users now."""
        obs = self.visible.observe(rows)
        if self.offered is not None:
            obs = replace(obs, candidates=np.broadcast_to(self.offered, (obs.n, len(self.offered))))
        if self.retriever is None or self.n_candidates is None:
            return obs
        return replace(obs, candidates=self.retriever.recommend(obs, self.n_candidates, self.draws).items)

    def serve(self, recommender: Recommender, obs: ObservationBatch) -> SlateBatch:
        """Slates of a recommender; search queries go to its own search, else to the catalogue's."""
        queries = np.flatnonzero(obs.message_kind == MessageKind.SEARCH)
        if not queries.size:
            return recommender.recommend(obs, self.slate_size, self.draws)
        asked = obs.take(queries)
        found = recommender.search(asked, self.slate_size, self.draws)
        if found is None:
            found = self.search(asked, self.slate_size)
        if len(queries) == obs.n:
            return found
        # Asking for everybody and overwriting the searched rows is cheaper than copying everybody else's observation.
        return _overwrite(recommender.recommend(obs, self.slate_size, self.draws), queries, found)

    def react(self, obs: ObservationBatch, slate: SlateBatch) -> Outcome:
        """The users' reactions; ends sessions and lives where they end.

        Raises:
            ContractError: If the slate has the wrong shape, or holds items outside the catalogue or not on offer.
        """
        items = slate.items
        if items.shape != (obs.n, self.slate_size):
            raise ContractError(f"{slate.policy}: slate has shape {items.shape}, wanted {(obs.n, self.slate_size)}.")
        if items.size and (items.min() < 0 or items.max() > self.catalog.n_items):
            raise ContractError(
                f"{slate.policy}: slate holds item indices from {items.min()} to {items.max()}; allowed are 0 to "
                f"{self.catalog.n_items - 1}, and {self.catalog.n_items} for an empty position."
            )
        if self.search.on_offer is not None:
            held_back = ~np.append(self.search.on_offer, True)[items]
            if held_back.any():
                row, position = np.argwhere(held_back)[0]
                raise ContractError(
                    f"{slate.policy}: item {items[row, position]} (user {obs.user_index[row]}, position {position}) is "
                    f"not on offer on day {obs.day[row]}. Recommend only items of obs.candidates."
                )
        feedback, trace = self.model.react(obs, slate)
        left = (feedback.next_action == NextAction.LEAVE) | (obs.turn + 1 >= self.max_turns)
        if (left & (feedback.next_action != NextAction.LEAVE)).any():
            feedback = replace(
                feedback,
                next_action=np.where(left, np.int8(NextAction.LEAVE), feedback.next_action),
                message=[None if gone else m for gone, m in zip(left, feedback.message, strict=True)],
            )
        rows = obs.user_index
        reward, item_reward = self.reward(obs, slate, feedback)
        self.visible.apply(rows, slate, feedback)
        mood = self._mood[rows]  # mean over the session's pages so far
        mood += np.divide(trace.mindset_after[:, 0] - mood, obs.turn + 1, dtype=np.float32)
        self._mood[rows] = mood
        churned, p_return = np.zeros(obs.n, np.bool_), np.full(obs.n, np.nan, np.float32)
        ends = np.flatnonzero(left)
        if ends.size:
            churned[ends] = self.calendar.close(rows[ends], obs.day[ends], obs.session[ends], mood[ends])
            p_return[ends] = self.calendar.p_return(rows[ends])
        return Outcome(feedback, trace, reward, item_reward, left, churned, mood, p_return)


def _overwrite(slate: SlateBatch, rows: IntArray, found: SlateBatch) -> SlateBatch:
    """The slate batch with some rows replaced by search results."""
    items, propensity, position = slate.items.copy(), slate.propensity.copy(), slate.position_propensity.copy()
    items[rows], propensity[rows], position[rows] = found.items, found.propensity, found.position_propensity
    searched = np.zeros(slate.n, np.bool_)
    searched[rows] = False if found.searched is None else found.searched
    answer = slate.answer
    if answer is not None or found.answer is not None:
        answer = list(answer or [None] * slate.n)
        for i, words in zip(rows, found.answer or [None] * len(rows), strict=True):
            answer[i] = words
    return replace(
        slate, items=items, propensity=propensity, position_propensity=position, answer=answer, searched=searched
    )  # fmt: skip
