"""The fidelity suite: user models and baselines under the published protocol, written to a folder.

run_fidelity({"path": "ml-1m"}, users=("behavioral",), out="runs/fidelity")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from recsim_env import manifest as facts
from recsim_env.agents.behavioral import BehavioralUsers
from recsim_env.agents.hybrid import HybridUsers
from recsim_env.build import World
from recsim_env.draws import Draws
from recsim_env.engine.replies import ReplyStore
from recsim_env.errors import ScenarioError
from recsim_env.experiments.fidelity.corrections import correct
from recsim_env.experiments.fidelity.interventions import intervene
from recsim_env.experiments.fidelity.judges import Judge, ModelJudge, baselines, factors_judge, prior_judge, seat
from recsim_env.experiments.fidelity.judging import Task, Verdict, judge_task
from recsim_env.experiments.fidelity.protocol import Parts, Protocol, split_parts, stable_ids
from recsim_env.experiments.fidelity.results import summarise, write_results
from recsim_env.interfaces import UserModel
from recsim_env.records import IntArray
from recsim_env.registry import user_models
from recsim_env.rundir import RunFolder, measurement_folder
from recsim_env.runner import Progress
from recsim_env.scenario import Scenario, load_scenario, validate_config

RESULT = "fidelity.json"
ALWAYS = ("popularity", "item mean", "user mean", "biases", "factors", "EASE", "behavioral", "prior alone")
"""Rows of every table."""
SAME_USERS = "prior alone, same users"
"""A row to compare language-model users with where they stand for fewer users than the others."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        users: User models beside those of :data:`ALWAYS`.
        seeds: Splits.
        first_seed: Seed of the first one. A language model that was trained on one split's training part may only be
            judged on that split.
        protocol: Sizes.
        n_llm_users: Users whom language-model users stand for; None is all who are judged.
        interventions: Whether interventions and corrections are tried, on the first seed.
        n_intervened: Users on whom.
    """

    users: tuple[str, ...] = ("behavioral",)
    seeds: int = 3
    first_seed: int = 0
    protocol: Protocol = field(default_factory=Protocol)
    n_llm_users: int | None = None
    interventions: bool = True
    n_intervened: int = 100

    @property
    def all_seeds(self) -> list[int]:
        """Seeds of the splits."""
        return list(range(self.first_seed, self.first_seed + self.seeds))

    def __post_init__(self) -> None:
        """Checks the names and numbers."""
        for name in self.users:
            user_models.get(name, "--users")
        if len(set(self.users)) < len(self.users) or not self.users:
            raise ScenarioError(f"--users {','.join(self.users)!r}: name at least one user model, each once.")
        if self.seeds < 1:
            raise ScenarioError(f"--seeds {self.seeds}: at least 1 is needed.")


def run_fidelity(
    data: Mapping[str, Any],
    out: str | Path | None = None,
    plan: Plan | None = None,
    overrides: Sequence[str] = (),
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Measures how much users resemble the people of a data set.

    Args:
        data: A scenario's ``data`` section.
        out: The folder; None makes ``runs/fidelity-TIME``. Replies of a language model that stand in it already are
            not asked again, so a measurement that was stopped goes on.
        plan: What is measured.
        overrides: ``"key=value"`` strings; a ``users.*`` key counts for those user models that know it.
        on_progress: Called before every judge, and while a language model answers.

    Returns:
        The folder, with ``fidelity.json``, ``fidelity.md``, plots, ``calibration.npz`` of hybrid users, and
        ``replies.sqlite``.

    Raises:
        ScenarioError: If a user model or setting does not exist, or needs an engine and none is named.
        DataError: If the data cannot be loaded or nobody has enough ratings.
        RunFolderError: If the folder holds something else.
    """
    plan = plan or Plan()
    scenarios = {name: _scenario(data, name, overrides, plan.users) for name in ("behavioral", *plan.users)}
    worlds = {name: World(scenario) for name, scenario in scenarios.items()}
    path = choose_folder(out)
    with RunFolder(path) as folder:
        store = ReplyStore(path / "replies.sqlite") if any(w.needs_engine for w in worlds.values()) else None
        study = _Study(plan, worlds, store, on_progress, path)
        record = _head(plan, scenarios, worlds)
        try:
            folder.write_json(RESULT, {**record, "rows": []})
            record |= study.measure()
            record["status"] = "complete"
        except BaseException as error:
            record["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            record["error"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            record["seconds"] = round(time.perf_counter() - study.begun, 1)
            record["engine"] = study.engine_report()
            study.close()
            folder.write_json(RESULT, record)
        write_results(folder, record)
    return path


def choose_folder(out: str | Path | None) -> Path:
    """The folder to write: the given one if it is empty or holds a measurement of this kind, or a new one.

    Raises:
        RunFolderError: If it holds something else.
    """
    return measurement_folder(out, RESULT, "fidelity")


def _scenario(data: Mapping[str, Any], model: str, overrides: Sequence[str], all_models: Sequence[str]) -> Scenario:
    """The scenario of one user model; ``users.*`` settings that only another model has are left out."""
    own = set(user_models.get(model, "--users").config_class.model_fields)
    others = {key for name in all_models for key in user_models.get(name, "--users").config_class.model_fields}
    kept = []
    for override in overrides:
        key = override.partition("=")[0].strip()
        field = key.removeprefix("users.").partition(".")[0]
        if not (key.startswith("users.") and field not in own and field in others):
            kept.append(override)
    return load_scenario({"name": "fidelity", "data": dict(data), "users": {"model": model}}, kept)


def _head(plan: Plan, scenarios: Mapping[str, Scenario], worlds: Mapping[str, World]) -> dict[str, Any]:
    first = next(iter(worlds.values()))
    return {
        "schema": 1,
        "status": "running",
        "data": first.dataset.name,
        "n_ratings": len(first.dataset.ratings),
        "users": {name: scenario.users.flat() for name, scenario in scenarios.items()},
        "seeds": plan.all_seeds,
        "protocol": plan.protocol.model_dump(mode="json"),
        "n_llm_users": plan.n_llm_users,
        "levels": first.dataset.catalog.scale.levels.tolist(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts.surroundings(),
    }


class _Study:
    """Goes through seeds and judges."""

    def __init__(
        self, plan: Plan, worlds: Mapping[str, World], store: ReplyStore | None,
        on_progress: Callable[[Progress], None], path: Path,
    ) -> None:  # fmt: skip
        self.plan, self.worlds, self.store, self.on_progress, self.path = plan, worlds, store, on_progress, path
        self.begun, self._done, self._label, self._pairs = time.perf_counter(), 0, "data", 0
        self.names = [*ALWAYS, *(name for name in plan.users if name not in ALWAYS)]
        self._engine_world = next((w for w in worlds.values() if w.needs_engine), None)
        if self._engine_world is not None:
            self._engine_world.store, self._engine_world.on_commit = store, self.tell
        self.interventions: dict[str, Any] = {}
        self._prior: Judge

    def tell(self) -> None:
        """Tells how far the study is."""
        usage = None if self._engine_world is None else self._engine_world.engine_usage()
        n_cells = len(self.names) * self.plan.seeds
        seconds = time.perf_counter() - self.begun
        self.on_progress(Progress(self._done, n_cells, self._label, 0, 1, 0, seconds, usage))

    def engine_report(self) -> dict[str, Any] | None:
        """Who the language model was and what it was asked."""
        return None if self._engine_world is None else self._engine_world.engine_report()

    def close(self) -> None:
        """Frees the engine and the store."""
        if self._engine_world is not None:
            self._engine_world.close()
        if self.store is not None:
            self.store.close()

    def measure(self) -> dict[str, Any]:
        """All seeds: rows of the table, the real histogram, interventions."""
        dataset = next(iter(self.worlds.values())).dataset
        verdicts: dict[str, list[Verdict]] = {name: [] for name in (*self.names, SAME_USERS)}
        real = []
        for seed in self.plan.all_seeds:
            draws = Draws(seed)
            parts = split_parts(dataset, self.plan.protocol, draws)
            task = Task.of(parts, self.plan.protocol, draws)
            real.append(task.rated.rating)
            for name, judge, users in self._judges(parts, draws, seed):
                asked = task if len(users) == len(parts.users) else task.only(users)
                verdicts[name].append(judge_task(judge, asked))
                if asked is not task and len(verdicts[SAME_USERS]) < len(real):
                    verdicts[SAME_USERS].append(judge_task(self._prior, asked))
                if seed == self.plan.first_seed and self.plan.interventions and isinstance(judge, ModelJudge):
                    self._intervene(name, judge, asked)
                self._done += 1
        levels = dataset.catalog.scale.levels
        stars = np.concatenate(real)
        return {
            "rows": [summarise(name, found) for name, found in verdicts.items() if found],
            "real_shares": [float((np.abs(stars - g) < 1e-4).mean()) for g in levels],
            "interventions": self.interventions,
        }

    def _judges(self, parts: Parts, draws: Draws, seed: int) -> Iterator[tuple[str, Judge, IntArray]]:
        """Judges one after another, so that only one is in memory, in the order of the rows."""

        def begin(name: str) -> None:
            self._label = f"{name}, seed {seed}"
            self.tell()

        behavioral: BehavioralUsers | None = None
        made = baselines(parts, draws)
        for name in self.names:
            begin(name)
            users = parts.users
            if name in made:
                judge = made[name]()
            elif name in ("factors", "behavioral"):
                if behavioral is None:
                    model = self._seated("behavioral", parts, users, draws)
                    assert isinstance(model, BehavioralUsers)
                    behavioral = model
                judge = factors_judge(behavioral.preferences) if name == "factors" else ModelJudge(behavioral, users)
            elif name == "prior alone":
                judge, weights = prior_judge(parts, draws)
                self._prior = judge
                weights.save(self.path / f"calibration-prior-{seed}.npz")
            else:
                users = self._users_of(name, parts, draws)
                judge = ModelJudge(self._seated(name, parts, users, draws), users)
            yield name, judge, users

    def _users_of(self, name: str, parts: Parts, draws: Draws) -> IntArray:
        """Users whom a model stands for: fewer for language models, if the plan says so."""
        n = self.plan.n_llm_users
        if not self.worlds[name].needs_engine or n is None or n >= len(parts.users):
            return parts.users
        luck = draws.uniform("fidelity-llm-users", stable_ids(parts.whole)[parts.users])
        return np.sort(parts.users[np.argsort(luck, kind="stable")[:n]])

    def _seated(self, name: str, parts: Parts, users: IntArray, draws: Draws) -> UserModel:
        scenario = self.worlds[name].scenario
        kind = user_models.get(scenario.users.model)
        model: UserModel = kind(validate_config(kind.config_class, scenario.users.config, "users"))
        if kind.needs_engine:
            world = self._engine_world
            assert world is not None, "a world that needs an engine was found"
            model.attach(world.engine, world.embedder, scenario.engine.retries, max_failure_share=1.0)
        seat(model, parts, users, draws)
        if isinstance(model, HybridUsers):
            model.save_calibration(self.path / f"calibration-{name}-{draws.seed}.npz")
        return model

    def _intervene(self, name: str, judge: ModelJudge, task: Task) -> None:
        self._label = f"{name}, interventions"
        self.tell()
        findings, more = intervene(judge, task, self.plan.n_intervened)
        told: dict[str, Any] = {"findings": [asdict(finding) for finding in findings], **more}
        if self.worlds[name].needs_engine:
            told["corrections"] = correct(judge, task, more)
        self.interventions[name] = told
