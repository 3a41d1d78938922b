"""The users as a population of Mesa agents: who is a member, who comes, who stops, what they tell each other.

An agent is a handle on one row: its numbers live in the arrays of the calendar and the user model, so that a day of
100,000 users costs array operations, not 100,000 calls. Mesa (Kazil, Masad and Crooks, 2020) holds who is there, and
its DataCollector gathers the rows of ``population.parquet``. Nothing here draws from Mesa's generators: all luck is
keyed, so a population that was killed goes on as one that was not.

population = Population(simulator, scenario.population)
rows = population.morning(day)         # newcomers join; who may open the app today
population.evening(came, said, writer) # talk, leave, count; one row
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mesa
import numpy as np

from recsim_env.interfaces import Opinions, Utterance
from recsim_env.records import BoolArray, Feedback, FloatArray, IntArray, SlateBatch
from recsim_env.rundir import CellWriter
from recsim_env.scenario import PopulationSection
from recsim_env.simulator import Simulator
from recsim_env.survey import Survey

COLUMNS = (
    "members", "new", "came", "churned", "chats", "posts", "heard", "satisfaction", "trace_likeness", "trace_divide",
)  # fmt: skip
"""What is collected every evening: columns of ``population.parquet`` beside the day."""


class User(mesa.Agent):  # type: ignore[misc]
    """A member: a handle on one row of the population's arrays.

    Attributes:
        row: Row in the population.
    """

    def __init__(self, model: Population, row: int) -> None:
        super().__init__(model)
        self.row = row

    @property
    def satisfaction(self) -> float:
        """In [-1, 1]; a moving average of the mood in which sessions were spent."""
        return float(self.model.calendar.satisfaction[self.row])

    @property
    def joined(self) -> int:
        """Day on which it became a member."""
        return int(self.model.calendar.joined[self.row])

    @property
    def friends(self) -> list[int]:
        """Rows of those whom it knows, members or not."""
        graph = self.model.friends
        return [] if graph is None else graph.known_to(self.row).tolist()


class Population(mesa.Model):  # type: ignore[misc]
    """Members, their acquaintances, and their days.

    Args:
        simulator: At its start; its users, calendar and user model are the population's.
        section: Settings.

    Attributes:
        day: The day that is lived, -1 before the first; counted here, not by Mesa.
        member: bool (U,), is a user of the service now.
        collector: Mesa's data collector, one entry per day.
        trending: int64 (n, 2), items that were watched most of late and how often, the most watched first.
    """

    def __init__(self, simulator: Simulator, section: PopulationSection) -> None:
        super().__init__(rng=np.random.default_rng(abs(simulator.draws.seed)))
        self.section, self.draws = section, simulator.draws
        self.calendar, self.minds, self.friends = simulator.calendar, simulator.model, simulator.friends
        n = simulator.users.n_users
        self.day = -1
        self.member = np.zeros(n, np.bool_)
        self._handles: dict[int, User] = {}
        self._praising = np.zeros(n, np.bool_)
        self._watched = np.zeros((section.trend_days, simulator.catalog.n_items), np.int64)
        self.trending = np.empty((0, 2), np.int64)
        order = self.draws.permutation("members", n)
        first = max(1, round(section.members * n))
        self._waiting = order[first:]  # in the order in which they would arrive
        self._join(np.sort(order[:first]))
        self.survey: Survey | None = None
        self._first: list[Mapping[str, Any]] = []
        if section.survey:
            self.survey = Survey(self.minds, n, simulator.catalog, self.draws, section.survey)
            self._asked, tastes = self.survey.tastes()
            self._first = [tastes]
        self._axis, self._camp, self._unit = _camps(self._tastes)
        self.collector = mesa.DataCollector(model_reporters={name: name for name in COLUMNS})
        self.new = self.came = self.churned = self.chats = self.posts = self.heard = 0

    @property
    def members(self) -> int:
        """How many members there are."""
        return len(self.agents)

    @property
    def satisfaction(self) -> float:
        """Mean over members; NaN without any."""
        return float(self.calendar.satisfaction[self.member].mean()) if self.members else float("nan")

    def step(self) -> None:
        """A morning: the day counter moves on, and newcomers join."""
        self.day += 1
        self.new = 0
        if self.section.trends:
            self.minds.notice(self.day, self.trending[:, 0])
        if self.day:
            newcomers = self._newcomers()
            self.calendar.joined[newcomers] = self.day
            self._join(newcomers)
            self.new = len(newcomers)

    def morning(self, day: int) -> IntArray:
        """Begins a day: rows of all members, newcomers included, int64 (m,), ascending."""
        assert day == self.day + 1, "days are lived one after another"
        self.step()
        return np.flatnonzero(self.member)

    def see(self, slate: SlateBatch, feedback: Feedback) -> None:
        """Counts what was watched on one page of some users."""
        if self.section.trends:
            watched = np.bincount(slate.items[feedback.clicked], minlength=self._watched.shape[1])
            self._watched[self.day % self.section.trend_days] += watched

    def _count_trends(self) -> None:
        """The list of what was watched most in the last ``trend_days`` days; of equals the first in the catalogue."""
        total = self._watched.sum(axis=0)
        top = np.argsort(-total, kind="stable")[: self.section.trends]
        top = top[total[top] > 0]
        self.trending = np.column_stack([top, total[top]])
        self._watched[(self.day + 1) % self.section.trend_days] = 0  # tomorrow's

    def evening(
        self, came: IntArray, said: Sequence[Utterance] = (), writer: CellWriter | None = None
    ) -> Opinions:  # fmt: skip
        """Ends a day: users talk, some have stopped for good, and the day is counted.

        Args:
            came: int (n,), users who opened the app today, ascending.
            said: What users with words have said already; counted only.
            writer: Gets the day's rows, unless it has them already.

        Returns:
            What users told each other.
        """
        told = self.minds.exchange(self.day, came, said)
        self.came = len(came)
        if said:
            self.posts = sum(words.kind == "post" for words in said)
            self.chats, self.heard = len(said) - self.posts, sum(len(words.to) for words in said)
        else:
            public = told.user[told.to < 0]
            self.posts, self.chats = len(public), len(told.user) - len(public)
            self.heard = self.chats + (0 if self.friends is None else int(self.friends.degree[public].sum()))
        answers = self._hear(said, told)
        self._leave(np.flatnonzero(self.member & self.calendar.churned))
        self._praising[:] = False
        self._praising[came] = (self.calendar.satisfaction[came] > 0) & self.member[came]
        if self.section.trends:
            self._count_trends()
        self.collector.collect(self)
        if writer is not None and self.day >= writer.committed_days:
            counts = {name: values[-1] for name, values in self.collector.model_vars.items()}
            writer.add("population", 1, {"day": self.day, **counts})
            if len(told.user):
                columns = {name: getattr(told, name) for name in ("user", "to", "item", "stars", "valence")}
                writer.add("opinions", len(told.user), {"day": self.day, **columns})
            if len(self.trending):
                columns = {"rank": np.arange(1, len(self.trending) + 1), "item": self.trending[:, 0]}
                writer.add("trends", len(self.trending), {"day": self.day, **columns, "watched": self.trending[:, 1]})
            self._write_answers(writer, answers)
        return told

    def _hear(self, said: Sequence[Utterance], told: Opinions) -> list[Mapping[str, Any]]:
        """Users hear what was told; what they answer where they are asked."""

        def hear() -> None:
            self.minds.hear(self.day, said, told)

        if self.survey is None:
            hear()
            return []
        opinions = self.survey.opinions(self.day, told, self.friends, hear)
        self._asked, tastes = self.survey.tastes()
        return [tastes] if opinions is None else [opinions, tastes]

    def _write_answers(self, writer: CellWriter, answers: Sequence[Mapping[str, Any]]) -> None:
        for columns in answers:
            writer.add("surveys", len(columns["user"]), {"day": self.day, **columns})

    def write_start(self, writer: CellWriter) -> None:
        """Writes who knows whom, every tie twice, and the tastes before the first day."""
        self._write_answers(writer, self._first)
        if self.friends is not None:
            columns = {"user": self.friends.owner, "friend": self.friends.friends, "closeness": self.friends.closeness}
            writer.add("friends", len(self.friends.friends), columns)

    def close(self) -> None:
        """Lets go of the agents: Mesa keeps every model that ever numbered an agent."""
        getattr(mesa.Agent, "_ids", {}).pop(self, None)
        self._handles.clear()

    def _newcomers(self) -> IntArray:
        """Who joins this morning: brought by content friends, or come from elsewhere."""
        waiting = self._waiting
        brought = np.zeros(len(waiting), np.bool_)
        if self.friends is not None and self.section.word_of_mouth and len(waiting):
            number, place = self.friends.entries(waiting)
            voices = np.bincount(number, self._praising[self.friends.friends[place]], len(waiting))
            chance = 1.0 - (1.0 - self.section.word_of_mouth) ** voices
            brought = self.draws.uniform("word-of-mouth", waiting, self.day) < chance
        rate = self.section.arrivals
        from_elsewhere = int(rate * self.day) - int(rate * (self.day - 1))
        brought[np.flatnonzero(~brought)[:from_elsewhere]] = True
        self._waiting = waiting[~brought]
        return np.sort(waiting[brought])

    def _join(self, rows: IntArray) -> None:
        self.member[rows] = True
        self._handles.update((row, User(self, row)) for row in rows.tolist())

    def _leave(self, rows: IntArray) -> None:
        self.member[rows] = False
        for row in rows.tolist():
            self._handles.pop(row).remove()
        self.churned = len(rows)

    @property
    def _tastes(self) -> FloatArray | None:
        """What users like, float (U, C): as they say where they are asked, else as the model knows."""
        return self.minds.leanings if self.survey is None else self._asked

    @property
    def trace_likeness(self) -> float:
        """Mean cosine of friends' leanings, each less everybody's mean: 0 for strangers, 1 for copies."""
        x = self._tastes
        if x is None or self.friends is None or not len(self.friends.friends):
            return float("nan")
        x = x - x.mean(axis=0)
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        known = self.friends.owner < self.friends.friends  # each tie once
        return float(np.einsum("ec,ec->e", x[self.friends.owner[known]], x[self.friends.friends[known]]).mean())

    @property
    def trace_divide(self) -> float:
        """Distance between the mean leanings of the two camps, in standard deviations of everybody's on day 0.

        The camps are the halves of the population on either side of the median of the leanings' main axis on day 0;
        they and the axis stay as they were, whoever moves.
        """
        x = self._tastes
        if x is None or not 0 < self._camp.sum() < len(x):
            return float("nan")
        place = x @ self._axis
        return float((place[self._camp].mean() - place[~self._camp].mean()) / self._unit)


def _camps(leanings: FloatArray | None) -> tuple[FloatArray, BoolArray, float]:
    """Main axis of leanings float (C,), which users lie beyond its median bool (U,), and their standard deviation."""
    if leanings is None or not leanings.size:
        return np.empty(0), np.empty(0, np.bool_), float("nan")
    x = leanings.astype(np.float64)
    _, axes = np.linalg.eigh(np.cov(x, rowvar=False, ddof=0).reshape(x.shape[1], -1))
    axis = axes[:, -1] * np.sign(axes[np.argmax(np.abs(axes[:, -1])), -1])
    place = x @ axis
    return axis.astype(leanings.dtype), place > np.median(place), max(float(place.std()), 1e-12)
