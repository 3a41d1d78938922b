"""A person in one user's seat (RecAgent's human role): for one row a person decides, for all others the user model.

Everything else is as without the seat: the calendar says when the user opens the app, draws are keyed by user, so that
nobody else's luck changes, and the person's reactions are ordinary rows of the run folder. Their users stand in the
manifest (``people``), because they are not simulated. Every reaction is stored as it is given: a resumed run asks
nobody twice.

A seat is held for whole visits. Who gives it back on a page leaves the app there; from the next visit on the user
model decides again, and knows nothing of what the person did. While a person visits, the model speaks to no friend in
its name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from recsim_env.draws import Draws
from recsim_env.engine.replies import ReplyStore
from recsim_env.evaluation.story import full_title
from recsim_env.evaluation.tables import Cell
from recsim_env.graphs import Graph
from recsim_env.interfaces import Opinions, UserModel, Utterance
from recsim_env.records import (
    Catalog,
    Dataset,
    Feedback,
    FloatArray,
    IntArray,
    Judgement,
    MessageKind,
    NextAction,
    ObservationBatch,
    SlateBatch,
    TextArray,
    Trace,
    Users,
    is_seen,
)
from recsim_env.scenario import PopulationSection
from recsim_env.seat import Card, Moment, Person, Reaction, Served

SEATED = "person/"
"""How the keys of stored reactions begin."""


class SeatedUsers(UserModel):
    """Another user model, but for rows in whose seat a person is.

    Args:
        model: Decides for all others; fitted already.
        catalog: The items.
        person: May sit.
        store: Where its reactions are kept; those that it holds are not asked for again.
        on_person: Called when a person has reacted to a page.
    """

    def __init__(
        self, model: UserModel, catalog: Catalog, person: Person, store: ReplyStore, on_person: Callable[[], None]
    ) -> None:
        self.model, self.catalog, self.person, self.store, self.on_person = model, catalog, person, store, on_person
        self._given = {
            Moment(*json.loads(key.removeprefix(SEATED))): Reaction.model_validate(value)
            for key, value in store.starting(SEATED).items()
        }
        self._cell: Cell = ("", 0)
        self._hears = "nothing"
        self._sitting: set[int] = set()  # users whose running visit is a person's
        self._visited: dict[int, int] = {}  # user to the last day on which a person visited for it

    def begin(self, recommender: str, seed: int, hears: str) -> None:
        """A cell begins, under a recommender that understands so much (:attr:`Recommender.hears`)."""
        self._cell, self._hears, self._sitting, self._visited = (recommender, seed), hears, set(), {}
        self.person.meet(self._cell, self.model)

    def people(self) -> list[dict[str, Any]]:
        """For the manifest: users who were persons, and for how many pages."""
        pages = Counter((moment.recommender, moment.seed, moment.user) for moment in self._given)
        return [
            {"recommender": name, "seed": seed, "user": user, "pages": n}
            for (name, seed, user), n in sorted(pages.items())
        ]

    def react(self, obs: ObservationBatch, slate: SlateBatch) -> tuple[Feedback, Trace]:
        """Reactions of N users: a person's where one sits, the model's elsewhere."""
        maybe = {moment.user for moment in self._given if moment.cell == self._cell}
        maybe |= {*self.person.seats(self._cell), *self._sitting}
        rows = [i for i in np.flatnonzero(np.isin(obs.user_index, list(maybe))).tolist() if self._decides(obs, i)]
        if not rows:
            return self.model.react(obs, slate)
        persons = _as_batch([self._react(obs, slate, i) for i in rows], slate, rows, self.catalog.n_items)
        others = np.delete(np.arange(obs.n), rows)
        if not others.size:
            return persons
        feedback, trace = self.model.react(obs.take(others), slate.take(others))
        return _woven(feedback, persons[0], rows), _woven(trace, persons[1], rows)

    def _moment(self, obs: ObservationBatch, i: int) -> Moment:
        return Moment(*self._cell, int(obs.user_index[i]), int(obs.day[i]), int(obs.session[i]), int(obs.turn[i]))

    def _decides(self, obs: ObservationBatch, i: int) -> bool:
        """Whether a person decides this page: it sat down before the visit, or did so when the run was first made."""
        moment = self._moment(obs, i)
        known = moment in self._given
        if known or (moment.turn == 0 and moment.user in self.person.seats(self._cell)):
            self._sitting.add(moment.user)
        elif moment.turn == 0:
            self._sitting.discard(moment.user)
        return moment.user in self._sitting

    def _react(self, obs: ObservationBatch, slate: SlateBatch, i: int) -> Reaction:
        moment = self._moment(obs, i)
        self._visited[moment.user] = moment.day
        if moment not in self._given:
            reaction = self.person.react(self._serve(moment, obs, slate, i)) or Reaction(next_action=NextAction.LEAVE)
            self.store.put([(SEATED + json.dumps(moment), reaction.model_dump(mode="json"))])
            self._given[moment] = reaction
            self.on_person()
        return self._given[moment]

    def _serve(self, moment: Moment, obs: ObservationBatch, slate: SlateBatch, i: int) -> Served:
        c, items = self.catalog, slate.items[i]
        seen = is_seen(obs.seen[i : i + 1], slate.items[i : i + 1])[0]
        names = np.array(c.categories, object)
        cards = tuple(
            Card(
                full_title(str(c.title[item]), int(c.year[item])), tuple(names[c.item_categories[item]].tolist()),
                str(c.text[item]), bool(seen[k]),
            )
            if item < c.n_items else None
            for k, item in enumerate(items)
        )  # fmt: skip
        return Served(
            moment, cards, tuple(float(level) for level in c.scale.levels), obs.message[i],
            MessageKind(int(obs.message_kind[i])), None if slate.answer is None else slate.answer[i],
            slate.searched is not None and bool(slate.searched[i]), self._hears,
        )  # fmt: skip

    def end_of_day(self, day: int, rows: IntArray) -> list[Utterance]:
        """Words of those who came today as simulated users."""
        return self.model.end_of_day(day, self._simulated(day, rows))

    def exchange(self, day: int, rows: IntArray, said: Sequence[Utterance]) -> Opinions:
        """Opinions of those who came today as simulated users."""
        return self.model.exchange(day, self._simulated(day, rows), said)

    def notice(self, day: int, items: IntArray) -> None:
        """Everybody hears what most users watch."""
        self.model.notice(day, items)

    def hear(self, day: int, said: Sequence[Utterance], told: Opinions) -> None:
        """Everybody hears what is for it."""
        self.model.hear(day, said, told)

    def _simulated(self, day: int, rows: IntArray) -> IntArray:
        persons = [user for user, visited in self._visited.items() if visited == day]
        return rows[~np.isin(rows, persons)]

    # What has nothing to do with pages is the model's own.

    def fit(self, dataset: Dataset, draws: Draws) -> None:
        """Fits the model."""
        self.model.fit(dataset, draws)

    def reset(self, users: Users, draws: Draws) -> None:
        """Seats the population."""
        self.model.reset(users, draws)

    def reset_rows(self, rows: IntArray) -> None:
        """Puts some users back."""
        self.model.reset_rows(rows)

    @property
    def activity(self) -> FloatArray:
        """The model's."""
        return self.model.activity

    def state(self) -> dict[str, Any]:
        """The model's."""
        return self.model.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes what :meth:`state` gave."""
        self.model.load_state(state)

    def judge(self, rows: IntArray, items: IntArray) -> Judgement:
        """The model's."""
        return self.model.judge(rows, items)

    def memories(self, row: int) -> list[str]:
        """The model's."""
        return self.model.memories(row)

    def portrait(self, row: int) -> str:
        """The model's."""
        return self.model.portrait(row)

    @property
    def names(self) -> TextArray | None:
        """The model's."""
        return self.model.names

    @property
    def leanings(self) -> FloatArray | None:
        """The model's."""
        return self.model.leanings

    def join(self, section: PopulationSection, friends: Graph | None) -> None:
        """Makes the users a population."""
        self.model.join(section, friends)

    def engine_report(self) -> dict[str, Any]:
        """The model's."""
        return self.model.engine_report()


def _as_batch(
    reactions: Sequence[Reaction], slate: SlateBatch, rows: Sequence[int], n_items: int
) -> tuple[Feedback, Trace]:
    """Reactions as a batch of their own; what nobody asked a person is NaN."""
    items = slate.items[rows]
    n, k = items.shape
    done = [(i, one) for i, reaction in enumerate(reactions) for one in reaction.done]
    at = tuple(np.array([(i, one.position) for i, one in done], np.int64).reshape(-1, 2).T)

    def filled(empty: Any, dtype: Any, name: str) -> Any:
        column = np.full((n, k), empty, dtype)
        column[at] = [empty if (value := getattr(one, name)) is None else value for _, one in done]
        return column

    watched = filled(0.0, np.float32, "watched")
    comments = filled(None, object, "comment")
    feedback = Feedback(
        watched > 0, watched, filled(False, np.bool_, "liked"), filled(False, np.bool_, "shared"),
        filled(np.nan, np.float32, "rating"), np.array([r.next_action for r in reactions], np.int8),
        [r.message for r in reactions], comments if any(one.comment for _, one in done) else None,
    )  # fmt: skip
    mood = np.array([[r.mood, np.nan, np.nan] for r in reactions], np.float32)
    unknown = np.full((n, k), np.nan, np.float32)
    return feedback, Trace(
        items < n_items, unknown, unknown, np.full((n, 3), np.nan, np.float32), mood, np.zeros(n, np.bool_)
    )


def _woven(theirs: Any, persons: Any, rows: Sequence[int]) -> Any:
    """A batch in which the persons' rows stand at their places; both are Feedback, or both Trace."""
    places = np.array(rows) - np.arange(len(rows))  # counted among the others, as numpy.insert wants it
    woven: dict[str, Any] = {}
    for field in fields(theirs):
        a, b = getattr(theirs, field.name), getattr(persons, field.name)
        if a is None and b is None:
            woven[field.name] = None
        elif isinstance(a, list) or isinstance(b, list):  # texts
            texts = list(a if a is not None else [None] * (len(theirs.mindset_after)))
            for i, row in enumerate(rows):
                texts.insert(row, None if b is None else b[i])
            woven[field.name] = texts
        else:  # comments may be None on one side
            a = np.full((len(theirs.clicked), b.shape[1]), None, object) if a is None else a
            b = np.full((len(rows), a.shape[1]), None, object) if b is None else b
            woven[field.name] = np.insert(a, places, b, axis=0)
    return type(theirs)(**woven)
