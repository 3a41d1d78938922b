"""The teacher's society: the real users play some days against simple recommenders, and its answers are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from recsim_env.agents.llm import LLMConfig, LLMUsers
from recsim_env.calendar import Calendar
from recsim_env.draws import Draws
from recsim_env.interfaces import Embedder, Recommender
from recsim_env.records import Dataset, IntArray, MessageKind, ObservationBatch, SlateBatch, Users
from recsim_env.registry import recommenders
from recsim_env.rewards import Reward
from recsim_env.scenario import CalendarSection
from recsim_env.simulator import Simulator
from recsim_env.training.examples import Example
from recsim_env.training.facts import Facts
from recsim_env.training.teacher import TeacherEngine

SLATE, TURNS, HISTORY = 5, 5, 20
WAYS = ("pointwise", "pointwise", "sequential", "listwise")
"""Ways to decide a page, in turn from day to day."""


def taught(
    teacher: TeacherEngine, train: Dataset, config: LLMConfig, embedder: Embedder, draws: Draws, users: int, days: int
) -> list[Example]:
    """Examples of some users' days with the teacher.

    Half of them meet random films, the others popular ones; half of those who asked for something are answered.

    Args:
        teacher: The engine.
        train: The training part.
        config: Settings of the users; ``decide`` changes between days, ``graph`` is a random one.
        embedder: For memory.
        draws: Luck of this society.
        users: Number of users.
        days: Days.
    """
    rows = draws.permutation("taught", train.n_users)[:users].astype(np.int64)
    profile = {name: values[rows] for name, values in train.profile.items()}
    people = Users(train.user_id[rows], rows, profile, train.histories().take(rows))
    before = len(teacher.examples)
    with TemporaryDirectory() as folder:
        graph = Path(folder) / "graph.csv"
        graph.write_text("\n".join(["user,friend", *_pairs(len(rows), draws)]) + "\n", encoding="utf-8")
        for day in range(days):
            way: Any = WAYS[day % len(WAYS)]
            model = LLMUsers(config.model_copy(update={"decide": way, "graph": graph if len(rows) > 1 else None}))
            model.attach(teacher, embedder)
            model.fit(train, draws)
            # A new life a day of the list: two simulated days, so that memories of the first stand in the second.
            _live(model, people, train, Draws(draws.seed + day), teacher)
    return teacher.examples[before:]


def _pairs(n: int, draws: Draws) -> Iterator[str]:
    steps = 1 + draws.bits(draws.keys("graph", np.arange(n)), np.arange(3)) % np.uint64(max(n - 1, 1))
    for user in range(n):
        yield from (f"{user},{(user + step) % n}" for step in dict.fromkeys(steps[user].astype(int).tolist()))


def _live(model: LLMUsers, people: Users, train: Dataset, draws: Draws, teacher: TeacherEngine) -> None:
    model.reset(people, draws)
    simulator = Simulator(
        train.catalog, people, model, Calendar(CalendarSection(), model.activity, draws),
        Reward.from_weights({"clicks": 1.0}, train.catalog.scale), draws, SLATE, HISTORY, TURNS,
    )  # fmt: skip
    shown = [_recommender(name, train, draws) for name in ("uniform", "popularity")]
    everybody = np.arange(people.n_users)
    for day in range(2):
        simulator.open(everybody, day, 0)
        active: Sequence[IntArray] = (everybody[::2], everybody[1::2])
        for _ in range(TURNS):
            active = [_page(simulator, r, rows, teacher) for r, rows in zip(shown, active, strict=True)]
        said = model.end_of_day(day, everybody)
        model.hear(day, said, model.exchange(day, everybody, said))


def _recommender(name: str, train: Dataset, draws: Draws) -> Recommender:
    kind: Any = recommenders.get(name)
    made: Recommender = kind()
    made.fit(train, draws)
    return made


def _page(simulator: Simulator, recommender: Recommender, rows: IntArray, teacher: TeacherEngine) -> IntArray:
    """One page of some users; who stays."""
    if not rows.size:
        return rows
    obs = simulator.observe(rows)
    slate = _answered(simulator.serve(recommender, obs), obs, simulator, teacher)
    return rows[~simulator.react(obs, slate).left]


def _answered(slate: SlateBatch, obs: ObservationBatch, simulator: Simulator, teacher: TeacherEngine) -> SlateBatch:
    """The slate with words for every other user who asked for something."""
    lines = teacher.table.plain["answers"]
    luck = simulator.draws.uniforms(
        simulator.draws.keys("answer", obs.user_index, obs.day, obs.session, obs.turn), np.arange(2)
    )
    personas = simulator.model.personas.text  # type: ignore[attr-defined]
    answer: list[str | None] = [None] * obs.n
    for i in np.flatnonzero((obs.message_kind != MessageKind.NONE) & (luck[:, 0] < 0.5)).tolist():
        words = Facts.of(f"{personas[obs.user_index[i]]}\n\n", teacher.categories).words
        answer[i] = lines[int(luck[i, 1] * len(lines))].format(liked=(words["liked"] or ["that"])[0])
    return replace(slate, answer=answer)
