"""What a plug-in must be able to do: Recommender, UserModel, Engine, Embedder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from recsim_env.draws import Draws
from recsim_env.engine.base import EngineUsage
from recsim_env.errors import ContractError, EngineError, ScenarioError
from recsim_env.graphs import Graph
from recsim_env.manifest import content_hash
from recsim_env.records import (
    ChoiceRequest,
    Completion,
    Dataset,
    Feedback,
    FloatArray,
    IntArray,
    Judgement,
    ObservationBatch,
    SlateBatch,
    TextArray,
    TextRequest,
    Trace,
    Users,
)
from recsim_env.scenario import PopulationSection


class Config(BaseModel):
    """Base of every plug-in's configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Recommender(ABC):
    """A policy: sees observations, shows slates.

    A recommender knows users by their observation alone (the history in it), so it serves users it was never
    trained on. Subclasses name a pydantic class in ``config_class`` and are built as ``cls(config)``.
    """

    config_class: ClassVar[type[Config]] = Config

    repeatable: ClassVar[bool] = True
    """False if the same call may give another slate (a GPU model, a person): the runner then stores every slate."""

    needs_engine: ClassVar[bool] = False
    """Whether the policy asks a language model; then :meth:`attach` is called before it serves."""

    version: str = "0"
    """Changes whenever the policy is trained again; logged with every turn."""

    language: Path | None = None
    """Folder of a language model of its own, which a training left; None asks the scenario's."""

    catalog_hash: str = ""
    """Hash of the item ids that it was fitted on; "" where it does not keep one. A saved one serves no other items."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config if config is not None else self.config_class()

    def attach(self, engine: Engine, embedder: Embedder, retries: int = 1, max_failure_share: float = 0.05) -> None:
        """Gives the policy its language model; arguments as in :meth:`UserModel.attach`, default does nothing."""
        return None

    @property
    def deterministic(self) -> bool:
        """Whether the slate is a function of the observation; such a log cannot be used for off-policy evaluation."""
        return False

    @property
    def hears(self) -> str:
        """What it understands of a user's instruction: ``nothing``, ``genres`` (their names only) or ``words``."""
        return "nothing"

    @abstractmethod
    def fit(self, dataset: Dataset, draws: Draws) -> None:
        """Trains from scratch on the ratings of a data set (its training part)."""

    @abstractmethod
    def recommend(self, obs: ObservationBatch, slate_size: int, draws: Draws) -> SlateBatch:
        """Slates for N users, with propensities."""

    @abstractmethod
    def log_prob(self, obs: ObservationBatch, items: IntArray) -> FloatArray:
        """Log-probability of given slates under this policy.

        Args:
            obs: Observations of N users.
            items: int (N, K), the slates; padding ``n_items`` counts as log-probability 0.

        Returns:
            float (N, K): log-probability of each item at its position given the earlier positions, ``-inf`` where
            the policy would never show it. It agrees with the propensities that :meth:`recommend` logs.
        """

    def observe(self, obs: ObservationBatch, slate: SlateBatch, feedback: Feedback) -> None:
        """Learns from a reaction, if the policy learns while it serves. Called in the order of the turns."""
        return None

    def retrain(self, draws: Draws) -> None:
        """Trains again on the training data and what was observed since; default does nothing."""
        return None

    def search(self, obs: ObservationBatch, slate_size: int, draws: Draws) -> SlateBatch | None:
        """Answers the search queries in ``obs.message``; None leaves them to the catalogue's own search."""
        return None

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes config and learned state into an existing folder (no pickle)."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, changes: Mapping[str, Any] | None = None) -> Recommender:
        """Reads what :meth:`save` wrote.

        Args:
            folder: The folder.
            changes: Settings that replace the saved ones; those of serving, such as a temperature.
        """


@dataclass(frozen=True, slots=True)
class Utterance:
    """What one user told others between two visits.

    Attributes:
        user: Row of the speaker.
        kind: ``"chat"`` or ``"post"``.
        text: The words.
        to: Rows of those who hear it.
        item: What it is about, -1 where it is about no item in particular.
        stars: The speaker's mark of that item, NaN without one.
    """

    user: int
    kind: str
    text: str
    to: tuple[int, ...]
    item: int = -1
    stars: float = float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class Opinions:
    """What users thought of items and told others after a day, one row per utterance.

    Attributes:
        user: int64 (n,), rows of the speakers, ascending.
        to: int64 (n,), row of the friend who was told, -1 where all acquaintances were.
        item: int64 (n,), what was spoken of.
        stars: float32 (n,), the speaker's mark on the data set's scale, given to the recommender or not.
        valence: float32 (n,) in [-1, 1], how far the mark lies from the average towards an end of the scale.
    """

    user: IntArray
    to: IntArray
    item: IntArray
    stars: FloatArray
    valence: FloatArray

    @classmethod
    def none(cls) -> Opinions:
        """Silence."""
        nobody, nothing = np.empty(0, np.int64), np.empty(0, np.float32)
        return cls(nobody, nobody, nobody, nothing, nothing)

    def heard_by(self, friends: Graph | None) -> tuple[IntArray, IntArray]:
        """Who hears which opinion, in the order of the opinions: rows of users and numbers of opinions, int64 (m,)."""
        if friends is None or not len(self.user):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        public = np.flatnonzero(self.to < 0)
        number, place = friends.entries(self.user[public])
        private = np.flatnonzero(self.to >= 0)
        receiver = np.concatenate([friends.friends[place], self.to[private]])
        opinion = np.concatenate([public[number], private])
        order = np.argsort(opinion, kind="stable")
        return receiver[order], opinion[order]


class UserModel(ABC):
    """The users' mind: reacts to slates for many users at once. Built as ``cls(config)``."""

    config_class: ClassVar[type[Config]] = Config

    needs_engine: ClassVar[bool] = False
    """Whether the users think with a language model; then :meth:`attach` is called before :meth:`reset`."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config if config is not None else self.config_class()

    @classmethod
    def inputs(cls, config: Config) -> dict[str, str]:
        """Hashes of the files that shape these users, by setting; a run is not resumed with other contents.

        Raises:
            ScenarioError: If one is missing.
        """
        paths = {name: getattr(config, name) for name in type(config).model_fields}
        return {name: content_hash(path, f"users.{name}") for name, path in paths.items() if isinstance(path, Path)}

    def attach(self, engine: Engine, embedder: Embedder, retries: int = 1, max_failure_share: float = 0.05) -> None:
        """Gives the users their language model; default does nothing.

        Args:
            engine: Decides and writes.
            embedder: Turns texts into vectors, for memory.
            retries: How often a bad reply is asked for again.
            max_failure_share: Share of bad replies past which the model must raise an EngineError.
        """
        return None

    @abstractmethod
    def fit(self, dataset: Dataset, draws: Draws) -> None:
        """Learns what people are like from **all** ratings of a data set (recommenders get the training part)."""

    @abstractmethod
    def reset(self, users: Users, draws: Draws) -> None:
        """Takes its seat in a population: every user in its initial state."""

    @abstractmethod
    def reset_rows(self, rows: IntArray) -> None:
        """Puts some users (rows of the population) back into their initial state."""

    @abstractmethod
    def react(self, obs: ObservationBatch, slate: SlateBatch) -> tuple[Feedback, Trace]:
        """Reactions of the N users of ``obs`` to their slates. A user stands in a batch at most once."""

    @property
    @abstractmethod
    def activity(self) -> FloatArray:
        """Probability that a content user opens the app on a day, float32 (U,)."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The changing part of all users, as arrays by name: enough to go on from here."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes what :meth:`state` gave."""

    def judge(self, rows: IntArray, items: IntArray) -> Judgement:
        """What users, as they are now, think of items before any luck; changes nothing. Fidelity is measured with it.

        Args:
            rows: int (n,), rows of the population; a user may stand there many times.
            items: int (n,), an item index for each.

        Raises:
            ContractError: If the model cannot say.
        """
        raise ContractError(f"{type(self).__name__} has no judge(): its fidelity cannot be measured.")

    def end_of_day(self, day: int, rows: IntArray) -> list[Utterance]:
        """What users tell each other in words after a day; default is nothing. :meth:`hear` lets it reach them.

        Args:
            day: The day that ends.
            rows: int (n,), users who opened the app on it, ascending.
        """
        return []

    @property
    def names(self) -> TextArray | None:
        """What users are called beside their ids, str objects (U,), for files that name them; default None."""
        return None

    @property
    def leanings(self) -> FloatArray | None:
        """What each user likes of every category now, float32 (U, C), any unit; None where the model cannot say."""
        return None

    def join(self, section: PopulationSection, friends: Graph | None) -> None:
        """Makes the users a population; called after :meth:`reset` where the scenario has one.

        Args:
            section: Settings.
            friends: Who knows whom; None is nobody.

        Raises:
            ScenarioError: If these users have no social life.
        """
        if friends is not None or section.influences:
            raise ScenarioError(
                f"population: users of {type(self).__name__} neither talk nor change. Leave graph, sway, conformity, "
                "curiosity, drift and buzz out, or choose another users.model."
            )

    def exchange(self, day: int, rows: IntArray, said: Sequence[Utterance]) -> Opinions:
        """Opinions of items that users pass on after a day, as signals or within words; default is none.

        Args:
            day: The day that ends.
            rows: int (n,), users who opened the app on it, ascending.
            said: Their words, from :meth:`end_of_day`.
        """
        return Opinions.none()

    def notice(self, day: int, items: IntArray) -> None:
        """Everybody hears in the morning what most users watched of late; default does nothing.

        Args:
            day: The day that begins.
            items: int64 (n,), the most watched first; empty where there is no such list yet.
        """
        return None

    def hear(self, day: int, said: Sequence[Utterance], told: Opinions) -> None:
        """Words and opinions reach those whom they are for, before the next day; default does nothing.

        Args:
            day: The day that ends.
            said: Words, from :meth:`end_of_day`.
            told: Opinions, from :meth:`exchange`.
        """
        return None

    def memories(self, row: int) -> list[str]:
        """What a user remembers now, one line each; default is nothing. For those who look on."""
        return []

    def portrait(self, row: int) -> str:
        """Who a user is, beyond its profile, in words; default is nothing. For those who look on."""
        return ""

    def engine_report(self) -> dict[str, Any]:
        """What a manifest should tell of the users' requests to their engine, beside its usage; default is nothing."""
        return {}


class Engine(ABC):
    """A language model that answers ordered batches: one reply per request, in request order.

    Subclasses name a pydantic class in ``config_class`` and are built as ``cls(config)``.
    """

    config_class: ClassVar[type[Config]] = Config

    takes_weights: ClassVar[bool] = False
    """Whether it loads models from folders, and :meth:`set_weights` gives them other weights."""

    model: str = ""
    """Name of the model; with ``revision`` part of the key under which replies are stored."""

    revision: str = ""
    """Revision of the model."""

    special_tokens: tuple[str, ...] = ()
    """Tokens that steer a chat, to be kept out of texts that others wrote."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config if config is not None else self.config_class()

    @cached_property
    def usage(self) -> EngineUsage:
        """What the engine was asked so far, and what it cost."""
        return EngineUsage()

    @abstractmethod
    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """Log-probabilities over each request's options, float64 (n_options,), normalised.

        A reply that cannot be used (log-probabilities that are no numbers) is all NaN and counted in ``usage``.

        Raises:
            EngineError: If the engine cannot answer, or gives no log-probabilities at all.
        """

    @abstractmethod
    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """One completion per request; an unusable one carries ``error``, keeps its raw text and is counted.

        Raises:
            EngineError: If the engine cannot answer.
        """

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Gives the model other weights, tensors by the names that the package transformers has for them.

        Raises:
            EngineError: If the engine cannot; a model that is trained while it speaks needs one that can.
        """
        raise EngineError(
            f"{type(self).__name__} cannot be given other weights. Train with engine 'transformers' or 'vllm'."
        )

    @abstractmethod
    def close(self) -> None:
        """Frees everything the engine holds."""


class Embedder(ABC):
    """Turns texts into vectors."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> FloatArray:
        """One unit vector per text, float32 (n, d)."""
