"""Runs a scenario into a run folder: every recommender, every seed, day by day.

The flow of one cell, in :func:`_run_cell`, is the whole simulation: who opens the app, slates, reactions, rows.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsim_env import manifest as facts
from recsim_env.build import World
from recsim_env.engine.base import EngineUsage
from recsim_env.engine.replies import ReplyStore, stored_slate
from recsim_env.errors import RunFolderError
from recsim_env.evaluation.offline import offline_metrics
from recsim_env.interfaces import Recommender
from recsim_env.records import SEARCH_POLICY, IntArray, NextAction, ObservationBatch, SlateBatch
from recsim_env.registry import recommenders
from recsim_env.rundir import SCHEMA_VERSION, CellWriter, RunFolder, new_folder, write_items, write_users
from recsim_env.scenario import RecommenderSection, Scenario, load_scenario
from recsim_env.seat import Nobody, Person
from recsim_env.seated import SEATED, SeatedUsers
from recsim_env.simulator import Outcome, Simulator

if TYPE_CHECKING:
    from recsim_env.creators import Creators
    from recsim_env.population import Population

COMMIT_ROWS = 1_000_000
"""Impressions after which the day's end commits a part."""
COMMIT_SECONDS = 20.0
"""Seconds after which the day's end commits a part all the same, so that a kill costs little."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: for progress bars.

    Attributes:
        cell: Number of the cell, from 0; ``n_cells`` in all.
        n_cells: Recommenders times seeds.
        label: Recommender and seed in words.
        day: Days done of this cell, of ``days``.
        days: Days of a cell.
        n_turns: User-turns done in this process.
        seconds: Seconds since it started.
        engine: What the language model was asked in the whole run so far; None without one.
    """

    cell: int
    n_cells: int
    label: str
    day: int
    days: int
    n_turns: int
    seconds: float
    engine: EngineUsage | None = None


def run_scenario(
    source: str | Path | Scenario,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    person: Person | None = None,
) -> Path:
    """Runs a scenario.

    Args:
        source: A shipped scenario's name, a YAML file or a Scenario.
        out: The run folder; None makes ``runs/<name>-<time>``.
        overrides: ``"key=value"`` strings.
        resume: Go on with the run in ``out`` (None: the latest of that name) instead of starting one.
        on_progress: Called after every simulated day, and while a language model answers; the run waits for it.
        person: May take users' seats; every day is committed then, so that it can be looked at.

    Returns:
        The run folder.

    Raises:
        RunFolderError: If the folder holds another run, another scenario or another writer, or the disk refuses.
        ScenarioError: If the scenario is not usable; :class:`UnknownNameError` for names in it.
    """
    scenario = load_scenario(source, overrides)
    path = choose_folder(scenario, out, resume)
    world = World(scenario)
    with RunFolder(path) as folder:
        record = _open(folder, world, resume)
        replies = path / "replies.sqlite"
        stores = person is not None or world.needs_engine or any(not r.repeatable for r in _made(world))
        world.store = store = ReplyStore(replies) if stores or replies.exists() else None
        clock = _Clock(on_progress, len(_cells(scenario)), scenario.days, world.engine_usage)
        world.on_commit = clock.beat
        try:
            if store is not None:
                _offer_seats(folder, world, record, store, person)
            _run_cells(folder, world, record, store, clock)
            record["status"] = "complete"
        except BaseException as error:
            record["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            record["error"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            record["seconds"] = round(record["seconds"] + clock.seconds(), 3)
            record["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
            _tell_engine(record, world)
            world.close()
            if store is not None:
                store.close()
            folder.write_json("manifest.json", record)
    return path


def choose_folder(scenario: Scenario, out: str | Path | None, resume: bool) -> Path:
    """The folder that a run goes into; arguments as in :func:`run_scenario`."""
    if out is not None:
        path = Path(out)
        if resume and not (path / "manifest.json").exists():
            raise RunFolderError(f"{path} holds no run to resume. Leave --resume out to start one.")
        if not resume and path.exists() and any(path.iterdir()):
            raise RunFolderError(
                f"{path} is not empty. Go on with it by --resume, or choose another folder with --out."
            )
        return path
    runs = Path("runs")
    if resume:
        known = sorted(runs.glob(f"{scenario.name}-*/manifest.json"))
        if not known:
            raise RunFolderError(f"No run of {scenario.name!r} in {runs}/ to resume. Name its folder with --out.")
        return known[-1].parent
    return new_folder(scenario.name)


def _cells(scenario: Scenario) -> list[tuple[RecommenderSection, int]]:
    return [(section, seed) for section in scenario.recommenders for seed in scenario.seeds]


def _tell_engine(record: dict[str, Any], world: World) -> None:
    """Puts into the manifest what the run has asked its language model so far, in all processes and cells."""
    if world.engine_usage() is None:
        return  # nothing was asked in this process: what stands there is still true
    cells = [*record["cells"], *([record["unfinished"]] if "unfinished" in record else [])]
    record["engine"] = {**world.engine_report(), "users": facts.added_up([cell["users"] for cell in cells])}


def _made(world: World) -> list[type[Recommender]]:
    return [recommenders.get(section.name) for section in world.scenario.recommenders]


def _open(folder: RunFolder, world: World, resume: bool) -> dict[str, Any]:
    """Writes or checks what stands at the head of a run folder; returns the manifest."""
    scenario = world.scenario
    identity = {
        "scenario": scenario.fingerprint(),
        "data": world.data_fingerprint(),
        "persona, graph or prompt file": world.inputs_fingerprint(),
    }
    if resume:
        record: dict[str, Any] = json.loads((folder.path / "manifest.json").read_text())
        for what, now in identity.items():
            then = record["fingerprint"].get(what)
            if then != now:
                raise RunFolderError(
                    f"{folder.path} was made with another {what} (fingerprint {then}, now {now}). Resume with the "
                    f"scenario in {folder.path / 'scenario.yaml'} and the files of that time, or start a new run "
                    "with --out."
                )
        folder.drop_uncommitted()
        for name in ("error", "unfinished"):
            record.pop(name, None)
        record["resumed"] += 1
        record["versions"] = facts.versions()
    else:
        data = world.dataset
        levels = data.catalog.scale.levels
        counts = [(np.abs(data.ratings.rating - level) < 1e-4).sum() for level in levels]
        record = {
            "schema": SCHEMA_VERSION,
            "status": "running",
            "scenario": scenario.flat(),
            "fingerprint": identity,
            "seeds": scenario.seeds,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "finished": None,
            "seconds": 0.0,
            "resumed": 0,
            **facts.surroundings(),
            "data": {
                "name": data.name,
                "scale": [data.catalog.scale.low, data.catalog.scale.high, data.catalog.scale.step],
                "n_users": data.n_users,
                "n_items": data.n_items,
                "n_ratings": len(data.ratings),
                "rating_histogram": {f"{x:g}": c / len(data.ratings) for x, c in zip(levels, counts, strict=True)},
            },
            "engine": {"calls": 0, "tokens": 0, "failures": 0},
            "cells": [],
        }
        folder.write_text("scenario.yaml", scenario.to_yaml())
        write_items(folder, world.split.train.catalog, None if world.works is None else world.works.creator)
        write_users(folder, {seed: world.users(seed) for seed in record["seeds"]})
        folder.write_json("progress.json", {})
    record["status"] = "running"
    folder.write_json("manifest.json", record)
    return record


def _offer_seats(
    folder: RunFolder, world: World, record: dict[str, Any], store: ReplyStore, person: Person | None
) -> None:
    """Puts seats around the user model, if a person may sit there, or did before the run was stopped."""
    if person is None and not store.starting(SEATED):
        return

    def tell() -> None:
        record["people"] = seated.people()
        folder.write_json("manifest.json", record)

    seated = SeatedUsers(world.user_model, world.dataset.catalog, person or Nobody(), store, tell)
    world.user_model = seated
    record["people"] = seated.people()


def _run_cells(
    folder: RunFolder, world: World, record: dict[str, Any], store: ReplyStore | None, clock: _Clock
) -> None:
    scenario = world.scenario
    fitted: dict[str, tuple[Recommender, dict[str, float]]] = {}
    for number, (section, seed) in enumerate(_cells(scenario)):
        writer = CellWriter(folder, section.title, seed)
        clock.start(number, f"{section.title}, seed {seed}")
        if writer.done:
            continue
        begun, cell = time.perf_counter(), {"recommender": section.title, "seed": seed}
        if section.title not in fitted:
            fresh = world.recommender(section)
            offline = offline_metrics(fresh, world.split, scenario.slate_size, scenario.history_length, world.draws)
            fitted = {section.title: (fresh, offline)}  # one at a time: some are large
        recommender, offline = copy.deepcopy(fitted[section.title])
        simulator = world.simulator(seed)
        if isinstance(simulator.model, SeatedUsers):
            simulator.model.begin(section.title, seed, recommender.hears)
        fitted_at, asked = time.process_time(), copy.deepcopy(world.engine_usage())
        try:
            n_turns = _run_cell(scenario, simulator, recommender, section.title, seed, writer, store, clock)
        except BaseException:
            writer.abandon()
            record["unfinished"] = {**cell, "users": simulator.model.engine_report()}
            raise
        seconds = round(time.perf_counter() - begun, 3)
        told = {"offline": offline, "n_turns": n_turns, "seconds": seconds, "users": simulator.model.engine_report()}
        told["cpu_seconds"] = round(time.process_time() - fitted_at, 3)
        if (usage := world.engine_usage()) is not None:
            told["engine"] = (usage if asked is None else usage.since(asked)).as_dict()
        record["cells"] = [c for c in record["cells"] if (c["recommender"], c["seed"]) != (section.title, seed)]
        record["cells"].append({**cell, **told})
        _tell_engine(record, world)
        folder.write_json("manifest.json", record)
        writer.commit(scenario.days, done=True)


def _run_cell(
    scenario: Scenario,
    simulator: Simulator,
    recommender: Recommender,
    label: str,
    seed: int,
    writer: CellWriter,
    store: ReplyStore | None,
    clock: _Clock,
) -> int:
    """Simulates one recommender under one seed; returns the number of user-turns."""
    everybody = np.arange(simulator.users.n_users)
    sessions = _Sessions(len(everybody))
    population = _population(scenario, simulator, writer)
    creators = _creators(scenario, simulator)
    n_turns = 0
    for day in range(scenario.days):
        if scenario.retrain_every and day and day % scenario.retrain_every == 0:
            recommender.retrain(simulator.draws)
        if creators is not None:
            creators.morning(day)
        rows = everybody if population is None else population.morning(day)
        came = np.zeros(len(everybody), np.bool_)
        for session in range(scenario.calendar.max_sessions):
            rows = rows[simulator.calendar.opens(rows, day, session)]
            simulator.open(rows, day, session)
            came[rows] = True
            active = rows
            while active.size:
                staying = []
                for start in range(0, len(active), scenario.batch_size):
                    batch = active[start : start + scenario.batch_size]
                    obs = simulator.observe(batch)
                    if recommender.repeatable or store is None:
                        slate = simulator.serve(recommender, obs)
                    else:
                        slate = stored_slate(store, label, seed, obs, lambda o: simulator.serve(recommender, o))
                    outcome = simulator.react(obs, slate)
                    recommender.observe(obs, slate, outcome.feedback)
                    for society in (population, creators):
                        if society is not None:
                            society.see(slate, outcome.feedback)
                    sessions.add(obs, outcome)
                    if day >= writer.committed_days:
                        _write_turn(writer, obs, slate, outcome, obs.candidates if scenario.candidates else None)
                        sessions.write(writer, obs, outcome)
                    staying.append(batch[~outcome.left])
                    n_turns += len(batch)
                active = np.concatenate(staying)
        said = simulator.model.end_of_day(day, np.flatnonzero(came))
        if day >= writer.committed_days:
            for words in said:
                writer.say(day, -1, -1, words.user, "user", words.kind, words.text, words.to, words.item, words.stars)
        if population is not None:
            population.evening(np.flatnonzero(came), said, writer)
        else:
            simulator.model.hear(day, said, simulator.model.exchange(day, np.flatnonzero(came), said))
        if creators is not None:
            creators.evening(writer)
        # Days of language-model users, and of persons, take long and hold few rows: whoever watches should see each.
        due = writer.pending_rows >= COMMIT_ROWS or clock.since_commit() >= COMMIT_SECONDS or store is not None
        if day >= writer.committed_days and due and day + 1 < scenario.days:
            writer.commit(day + 1)
            clock.committed()
        clock.tick(day + 1, n_turns)
    for society in (population, creators):
        if society is not None:
            society.close()
    return n_turns


def _population(scenario: Scenario, simulator: Simulator, writer: CellWriter) -> Population | None:
    """The users as a population, where the scenario has one; its acquaintances are written first."""
    if not scenario.population.active:
        return None
    from recsim_env.population import Population  # Mesa takes its time to load

    population = Population(simulator, scenario.population)
    if not writer.committed_days:
        population.write_start(writer)
    return population


def _creators(scenario: Scenario, simulator: Simulator) -> Creators | None:
    """Those who make the items, where the scenario has any."""
    if not scenario.creators.count:
        return None
    from recsim_env.creators import Creators

    return Creators(simulator, scenario.creators)


class _Sessions:
    """Sums over the pages of each user's running session."""

    def __init__(self, n_users: int) -> None:
        self._sums = np.zeros((n_users, 5), np.float64)  # clicks, watched, ratings, sum of ratings, reward

    def add(self, obs: ObservationBatch, outcome: Outcome) -> None:
        """Adds one page of some users."""
        rows, f = obs.user_index, outcome.feedback
        self._sums[rows[obs.turn == 0]] = 0.0
        rated = ~np.isnan(f.rating)
        page = [f.clicked.sum(1), f.watched_fraction.sum(1), rated.sum(1), np.nansum(f.rating, axis=1), outcome.reward]
        self._sums[rows] += np.column_stack(page)

    def write(self, writer: CellWriter, obs: ObservationBatch, outcome: Outcome) -> None:
        """Writes the sessions that this page ended."""
        ends = np.flatnonzero(outcome.left)
        if not ends.size:
            return
        rows = obs.user_index[ends]
        clicks, watched, ratings, stars, reward = self._sums[rows].T
        columns = {
            "day": obs.day[ends],
            "session": obs.session[ends],
            "user": rows,
            "n_turns": obs.turn[ends] + 1,
            "n_clicks": clicks.astype(np.int32),
            "watched": watched.astype(np.float32),
            "n_ratings": ratings.astype(np.int32),
            "mean_rating": np.divide(stars, ratings, out=np.full(len(ends), np.nan), where=ratings > 0),
            "reward": reward.astype(np.float32),
            "satisfaction": outcome.mood[ends],
            "churned": outcome.churned[ends],
        }
        writer.add("sessions", len(ends), columns)


def _write_turn(
    writer: CellWriter, obs: ObservationBatch, slate: SlateBatch, outcome: Outcome, candidates: IntArray | None
) -> None:
    """Writes one page of N users: N turns, N x K impressions, and what was said.

    ``candidates`` are those that a retriever picked; what else is on offer follows from ``releases``.
    """
    n, k = slate.items.shape
    f, t = outcome.feedback, outcome.trace
    codes = np.zeros(n, np.int32) if slate.searched is None else slate.searched.astype(np.int32)
    when: dict[str, IntArray] = {"day": obs.day, "session": obs.session, "turn": obs.turn, "user": obs.user_index}
    impressions = {
        **{name: np.repeat(values, k) for name, values in when.items()},
        "item": slate.items.ravel(),
        "position": np.tile(np.arange(k, dtype=np.int16), n),
        "propensity": slate.propensity.ravel(),
        "position_propensity": slate.position_propensity.ravel(),
        "policy": (np.repeat(codes, k), [slate.policy, SEARCH_POLICY]),
        "clicked": f.clicked.ravel(),
        "watched_fraction": f.watched_fraction.ravel(),
        "liked": f.liked.ravel(),
        "shared": f.shared.ravel(),
        "rating": f.rating.ravel(),
        "comment": None if f.comments is None else f.comments.ravel(),
        "reward": outcome.item_reward.ravel(),
        "trace_examined": t.examined.ravel(),
        "trace_p_click": t.p_click.ravel(),
        "trace_expected_rating": t.expected_rating.ravel(),
    }
    writer.add("impressions", n * k, impressions)
    mood, boredom, trust = t.mindset_after.T
    turns = {
        **when,
        "policy": (codes, [slate.policy, SEARCH_POLICY]),
        "version": (codes, [slate.version, ""]),
        "message_kind": obs.message_kind,
        "message": _column(obs.message),
        "candidates": candidates,
        "answer": None if slate.answer is None else _column(slate.answer),
        "next_action": f.next_action,
        "next_message": _column(f.message),
        "reward": outcome.reward,
        "trace_mood": mood,
        "trace_boredom": boredom,
        "trace_trust": trust,
        "trace_thoughts": None if t.thoughts is None else _column(t.thoughts),
        "trace_fallback": t.fallback,
    }
    writer.add("turns", n, turns)
    _write_words(writer, obs, slate, f.message, f.next_action)


def _column(texts: Sequence[str | None]) -> Any:
    """A text column; None, which writes nulls quickly, where nobody says a word."""
    return texts if any(text is not None for text in texts) else None


def _write_words(
    writer: CellWriter, obs: ObservationBatch, slate: SlateBatch, message: Sequence[str | None], action: IntArray
) -> None:
    """Writes the recommender's answers, then the users' messages, of one page."""
    who = np.column_stack([obs.day, obs.session, obs.turn, obs.user_index])
    for (day, session, turn, user), text in zip(who.tolist(), slate.answer or (), strict=False):
        if text is not None:
            writer.say(day, session, turn, user, "recommender", "answer", text)
    for kind, code in (("search", NextAction.SEARCH), ("instruct", NextAction.INSTRUCT)):
        rows = np.flatnonzero(action == code)
        for i, (day, session, turn, user) in zip(rows.tolist(), who[rows].tolist(), strict=True):
            text = message[i]
            if text is not None:
                writer.say(day, session, turn, user, "user", kind, text)


class _Clock:
    """Times the run and reports progress.

    Args:
        report: Is told.
        n_cells: Recommenders times seeds.
        days: Days of a cell.
        usage: What the language model was asked so far.
    """

    def __init__(
        self, report: Callable[[Progress], None], n_cells: int, days: int, usage: Callable[[], EngineUsage | None]
    ) -> None:
        self._report, self._n_cells, self._days, self._usage = report, n_cells, days, usage
        self._begun = self._commit = time.perf_counter()
        self._cell, self._label, self._before, self._turns, self._day = 0, "", 0, 0, 0

    def start(self, cell: int, label: str) -> None:
        """A cell starts."""
        self._before += self._turns
        self._cell, self._label, self._turns = cell, label, 0
        self.tick(0, 0)
        self.committed()

    def tick(self, day: int, n_turns: int) -> None:
        """A day is done."""
        self._turns, self._day = n_turns, day
        self.beat()

    def beat(self) -> None:
        """Tells how far the run is: after each day, and whenever a language model has answered."""
        total = self._before + self._turns
        self._report(
            Progress(
                self._cell, self._n_cells, self._label, self._day, self._days, total, self.seconds(), self._usage()
            )
        )

    def committed(self) -> None:
        """A part is safe."""
        self._commit = time.perf_counter()

    def since_commit(self) -> float:
        """Seconds since the last commit."""
        return time.perf_counter() - self._commit

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._begun
