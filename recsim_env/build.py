"""From a scenario to everything that it names: data, users, recommenders, simulator.

world = World(load_scenario("quickstart"))
simulator = world.simulator(seed=0)
recommender = world.recommender(world.scenario.recommenders[0])
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recsim_env.calendar import Calendar
from recsim_env.data.load import load_dataset
from recsim_env.data.splits import Split, split_dataset
from recsim_env.data.works import Works, deal
from recsim_env.draws import Draws
from recsim_env.engine.base import EngineUsage
from recsim_env.engine.replies import RecordingEngine, ReplyStore
from recsim_env.errors import ScenarioError
from recsim_env.graph_makers import make_graph
from recsim_env.graphs import Graph
from recsim_env.interfaces import Embedder, Engine, Recommender, UserModel
from recsim_env.manifest import content_hash, hash_of_items
from recsim_env.records import Dataset, Histories, IntArray, Users
from recsim_env.registry import embedders, engines, recommenders, rewards, user_models
from recsim_env.rewards import Reward
from recsim_env.scenario import RecommenderSection, Scenario, validate_config
from recsim_env.simulator import Simulator


def _nothing() -> None:
    """What is called where nobody wants to know; a lambda could not be pickled."""


class World:
    """A scenario's data, split, and fitted user model; makes simulators and recommenders.

    What does not change between replications (split, fits) depends on the scenario's own seed alone.

    Args:
        scenario: The scenario. Unknown plug-ins and settings are refused here, before anything is loaded.

    Attributes:
        store: Where the engine's replies are kept; set it before the user model is first asked for.
        on_commit: Called whenever replies were stored; to be set likewise.
        pool: int (P,), the data set's users of whom populations are made; None is all. See :meth:`of`.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.store: ReplyStore | None = None
        self.on_commit: Callable[[], None] = _nothing
        self.pool: IntArray | None = None
        self._more_engines: list[Engine] = []
        self._user_class = user_models.get(scenario.users.model, "users.model")
        self._user_config = validate_config(self._user_class.config_class, scenario.users.config, "users")
        if self.needs_engine:
            self._engine_class_and_config()
            self._embedder_class_and_config()
        for section in scenario.recommenders:
            self.new_recommender(section)
            if section.path is not None and scenario.retrain_every:
                raise ScenarioError(
                    f"recommenders.{section.title}: a saved recommender (path) carries no training data and cannot be "
                    "trained again. Set retrain_every: 0, or leave path out."
                )
            if section.path is not None and scenario.creators.count:
                raise ScenarioError(
                    f"recommenders.{section.title}: a saved recommender (path) may have learned from ratings of items "
                    "that creators hold back. Leave path out, so that it is fitted without them, or set "
                    "creators.count: 0."
                )
        if scenario.candidates is not None:
            self.new_recommender(self._retriever_section())
        for name in scenario.reward:
            rewards.get(name, "reward")

    def of(self, pool: IntArray) -> World:
        """The same world, whose populations are made of some of the data set's users only; what is loaded is shared."""
        if self.needs_engine:
            _ = self.engine, self.embedder
        _ = self.user_model, self.histories
        other = copy.copy(self)
        other.pool = pool
        return other

    @cached_property
    def draws(self) -> Draws:
        """Draws for what all replications share."""
        return Draws(self.scenario.seed)

    @cached_property
    def dataset(self) -> Dataset:
        """All ratings."""
        return load_dataset(self.scenario.data)

    @cached_property
    def split(self) -> Split:
        """Training and test part; what creators hold back at the start is in neither."""
        split = split_dataset(self.dataset, self.scenario.data, self.draws)
        if self.works is None:
            return split
        return split.without(np.setdiff1d(self.works.items, self.works.on_offer(self.works.opening)))

    @cached_property
    def works(self) -> Works | None:
        """Who made which item; None where the scenario has no creators."""
        section = self.scenario.creators
        return deal(section, self.dataset, self.draws) if section.count else None

    @cached_property
    def histories(self) -> Histories:
        """The training part as one history per user of the data set."""
        return self.split.train.histories()

    @cached_property
    def user_model(self) -> UserModel:
        """The user model, fitted on all ratings; shared by the simulators, one at a time."""
        model: UserModel = self._user_class(self._user_config)
        self.equip(model)
        model.fit(self.dataset, self.draws)
        return model

    @property
    def needs_engine(self) -> bool:
        """Whether anything in the scenario thinks with a language model."""
        return bool(self._thinking())

    def _thinking(self) -> list[str]:
        """Settings that name something which needs a language model, with what they name."""
        named = [("users.model", self.scenario.users.model, self._user_class)]
        named += [
            ("recommenders", s.name, recommenders.get(s.name, "recommender.name")) for s in self.scenario.recommenders
        ]
        return [f"{key} {name!r}" for key, name, kind in named if kind.needs_engine]

    @cached_property
    def engine(self) -> Engine:
        """The language model; its replies are kept where there is a store."""
        kind, config = self._engine_class_and_config()
        engine: Engine = kind(config)
        if self.store is None:
            return engine
        return RecordingEngine(engine, self.store, on_commit=self.on_commit)

    def _own_engine(self, folder: Path) -> Engine:
        """An engine of the scenario's kind with another model; its replies are kept likewise.

        Raises:
            ScenarioError: If the scenario's engine cannot load models from folders.
        """
        kind, config = self._engine_class_and_config()
        if not kind.takes_weights:
            raise ScenarioError(
                f"{folder} holds a language model of the recommender's own, and engine {self.scenario.engine.name!r} "
                "loads none. Take --engine transformers or --engine vllm."
            )
        engine: Engine = kind(config.model_copy(update={"model": str(folder), "revision": ""}))
        self._more_engines.append(engine)
        return engine if self.store is None else RecordingEngine(engine, self.store, on_commit=self.on_commit)

    @cached_property
    def embedder(self) -> Embedder:
        """What turns texts into vectors."""
        kind, config = self._embedder_class_and_config()
        made: Embedder = kind(config)
        return made

    def _engine_class_and_config(self) -> tuple[Any, Any]:
        section = self.scenario.engine
        if section.name is None:
            raise ScenarioError(
                f"{self._thinking()[0]} needs a language model: name an engine, for example --engine transformers "
                "--model builtin (the package's small one) or --model FOLDER. 'recsim-env list engines' shows all."
            )
        kind: Any = engines.get(section.name, "engine.name")
        model = kind.config_class.model_fields.get("model")
        if model is not None and model.is_required() and "model" not in section.config:
            raise ScenarioError(
                f"engine {section.name!r} needs a model (engine.model): name one with --model. docs/engines.md says "
                "which; 'builtin', the package's small one, is for transformers and vllm."
            )
        return kind, validate_config(kind.config_class, section.config, "engine")

    def _embedder_class_and_config(self) -> tuple[Any, Any]:
        section = self.scenario.engine.embedder
        kind: Any = embedders.get(section.name, "engine.embedder.name")
        return kind, validate_config(kind.config_class, section.config, "engine.embedder")

    def engine_usage(self) -> EngineUsage | None:
        """What the engine was asked so far, None where there is none yet."""
        return self.engine.usage if "engine" in self.__dict__ else None

    def engine_report(self) -> dict[str, Any]:
        """What the manifest tells of the engine: who it is, what the run asked it in all processes, what it cost.

        ``calls`` counts requests that reached the model, ``tokens`` those that it wrote.
        """
        usage = self.engine_usage()
        if usage is None:
            return {"name": self.scenario.engine.name, "calls": 0, "tokens": 0, "failures": 0}
        return {
            "name": self.scenario.engine.name,
            "model": self.engine.model,
            "revision": self.engine.revision,
            "embedder": self.scenario.engine.embedder.flat(),
            "calls": sum(usage.requests.values()),
            "tokens": usage.generated_tokens,
            "failures": sum(usage.failures.values()),
            "usage": usage.as_dict(),
        }

    def close(self) -> None:
        """Frees the engines that were made."""
        if "engine" in self.__dict__:
            self.engine.close()
        for engine in self._more_engines:
            engine.close()

    @cached_property
    def retriever(self) -> Recommender:
        """The recommender that picks candidate sets."""
        return self.recommender(self._retriever_section())

    def data_fingerprint(self) -> str:
        """Hash of the ratings and the split, so that a resumed run can tell that its data changed."""
        digest = hashlib.sha256()
        for ratings in (self.dataset.ratings, self.split.test):
            for column in (ratings.user_index, ratings.item_index, ratings.rating, ratings.timestamp):
                digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:16]

    def inputs_fingerprint(self) -> str:
        """Hash of the files that users and recommenders are made from: a resumed run can tell that they changed."""
        inputs = dict(self._user_class.inputs(self._user_config))
        for section in self.scenario.recommenders:
            if section.path is not None:
                inputs[section.title] = content_hash(section.path, f"recommenders.{section.title}.path")
        if self.scenario.population.file is not None:
            inputs["population"] = content_hash(self.scenario.population.file, "population.graph")
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]

    def users(self, seed: int, count: int | None = None) -> Users:
        """The population of one replication: real users in random order, then new ones.

        Args:
            seed: Seed of the replication.
            count: Number of users; None is the scenario's.
        """
        count = self.scenario.users.count if count is None else count
        data = self.split.train
        pool = np.arange(data.n_users) if self.pool is None else self.pool
        order = pool[Draws(seed).permutation("population", len(pool))[:count]]
        row = np.concatenate([order, np.full(count - len(order), -1)]).astype(np.int64)
        names = [f"synthetic-{i}" for i in range(count - len(order))]
        return Users(
            user_id=np.concatenate([data.user_id[order], np.array(names, object)]),
            data_user=row,
            profile={
                name: np.concatenate([values[order], np.full(len(names), "", object)])
                for name, values in data.profile.items()
            },
            history=self.histories.take(row),
        )

    def simulator(self, seed: int, n_users: int | None = None) -> Simulator:
        """A simulator at its start. The user model is shared: a new simulator ends the life of the one before."""
        scenario, draws, users = self.scenario, Draws(seed), self.users(seed, n_users)
        self.user_model.reset(users, draws)
        friends = self._populate(users, draws) if scenario.population.active else None
        return Simulator(
            catalog=self.split.train.catalog,
            users=users,
            model=self.user_model,
            calendar=Calendar(scenario.calendar, self.user_model.activity, draws),
            reward=Reward.from_weights(scenario.reward, self.dataset.catalog.scale),
            draws=draws,
            slate_size=scenario.slate_size,
            history_length=scenario.history_length,
            max_turns=scenario.max_turns,
            retriever=None if scenario.candidates is None else self.retriever,
            n_candidates=scenario.candidates,
            friends=friends,
            works=self.works,
        )

    def _populate(self, users: Users, draws: Draws) -> Graph | None:
        """Makes the seated users a population; gives their graph."""
        section, model = self.scenario.population, self.user_model
        friends = make_graph(section, users.user_id, draws, model.leanings, model.names)
        model.join(section, friends)
        return friends

    def _retriever_section(self) -> RecommenderSection:
        """The retriever, without chance where it can do without."""
        name = self.scenario.retriever
        fields = recommenders.get(name, "retriever").config_class.model_fields
        return RecommenderSection(name=name, config={"temperature": 0.0} if "temperature" in fields else {})

    def recommender(self, section: RecommenderSection) -> Recommender:
        """A recommender: fitted on the training part, or read from its folder.

        Raises:
            ScenarioError: If a saved one was trained on other items.
        """
        if section.path is not None:
            recommender = self._saved_recommender(section, section.path)
        else:
            recommender = self.new_recommender(section)
            recommender.fit(self.split.train, self.draws)
        self.equip(recommender)
        return recommender

    def equip(self, plugin: UserModel | Recommender) -> None:
        """Gives users or a recommender the scenario's engine, if they need one."""
        if plugin.needs_engine:
            section, own = self.scenario.engine, plugin.language if isinstance(plugin, Recommender) else None
            engine = self.engine if own is None else self._own_engine(own)
            plugin.attach(engine, self.embedder, section.retries, section.max_failure_share)

    def _saved_recommender(self, section: RecommenderSection, path: Path) -> Recommender:
        kind: Any = recommenders.get(section.name, "recommender.name")
        saved: Recommender = kind.load(path, section.config)
        if saved.catalog_hash not in ("", hash_of_items(self.dataset.catalog)):
            raise ScenarioError(
                f"recommenders.{section.title}: the recommender in {path} was trained on other items than those of "
                f"{self.dataset.name}. Train it with the scenario's data: recsim-env train recommender {section.name} "
                "--data ..., with the same data.min_ratings."
            )
        return saved

    @staticmethod
    def new_recommender(section: RecommenderSection) -> Recommender:
        """A recommender that has learned nothing yet.

        Raises:
            UnknownNameError: If there is none of that name.
            ScenarioError: If a setting is not allowed.
        """
        kind: Any = recommenders.get(section.name, "recommender.name")
        config = validate_config(kind.config_class, section.config, f"recommenders.{section.title}")
        made: Recommender = kind(config)
        return made
