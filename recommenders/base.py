"""The base of recommenders that score items: everything but the scores.

A subclass says how it learns (:meth:`ScoringRecommender.learn`) and how it scores the catalogue for a block of users
(:meth:`ScoringRecommender.scores`). Candidates, seen items, users' wishes, exploration, propensities, saving and
training again are done here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, field_validator

from recsim_env.draws import Draws, Keys
from recsim_env.errors import ContractError, RecsimError
from recsim_env.interfaces import Config, Recommender
from recsim_env.manifest import hash_of_items
from recsim_env.recommenders.candidates import allowed_slots, items_of, slots_of
from recsim_env.recommenders.observed import ObservedClicks
from recsim_env.recommenders.sampling import SlatePolicy, standardise
from recsim_env.recommenders.store import Arrays, read_state, write_state
from recsim_env.records import (
    BoolArray,
    Dataset,
    Feedback,
    FloatArray,
    IntArray,
    MessageKind,
    ObservationBatch,
    SlateBatch,
    Texts,
)
from recsim_env.scenario import validate_config

BLOCK = 256
"""Users who are scored at once: keeps the (block, I) matrices small."""


class ScoringConfig(Config):
    """Settings of every recommender that scores items."""

    temperature: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Chance in the slate, in standard deviations of the user's scores: 0 shows the best items in order, large
    values show anything."""
    epsilon: float = Field(default=0.0, ge=0, le=1)
    """Probability that a position is filled uniformly from the remaining items."""
    exclude_seen: bool = True
    """Never show what the user has clicked or rated before."""
    heed: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """How many standard deviations a category that the user asks for moves a score; 0 is deaf."""

    @field_validator("temperature")
    @classmethod
    def _no_overflow(cls, value: float) -> float:
        if 0 < value < 1e-6:
            raise ValueError("must be 0 or at least 1e-6")
        return value


class ScoringRecommender(Recommender):
    """Slates by Plackett-Luce over standardised scores.

    A user's scores are shifted and scaled to mean 0 and standard deviation 1 over the items that may be shown, so
    that one temperature means the same for every recommender. Where they are all equal, as with an empty history,
    the logarithm of the items' popularity in the training data stands in.
    """

    config_class: ClassVar[type[Config]] = ScoringConfig
    config: ScoringConfig

    name: ClassVar[str] = ""
    """Name of the policy in logs; the class's name where empty."""

    row_wise: ClassVar[bool] = False
    """True if :meth:`scores` computes a user's scores by themselves. A matrix product rounds differently for another
    number of rows, so otherwise scores are computed in blocks of one fixed shape."""

    standardised: ClassVar[bool] = True
    """False if scores are log-odds that must reach the soft-max as they are."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._observed = ObservedClicks()
        self._training: Dataset | None = None
        self.n_items = 0
        self.categories: tuple[str, ...] = ()
        self._item_categories = np.zeros((0, 0), np.float32)
        self._log_popularity = np.zeros(0, np.float32)

    @property
    def _policy(self) -> SlatePolicy:
        return SlatePolicy(self.config.temperature, self.config.epsilon)

    @property
    def deterministic(self) -> bool:
        """Whether the slate is a function of the observation."""
        return self._policy.deterministic

    @property
    def hears(self) -> str:
        """Names of genres, where wishes move scores."""
        return "genres" if self.config.heed else "nothing"

    @abstractmethod
    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Trains from scratch on a data set."""

    @abstractmethod
    def scores(self, obs: ObservationBatch) -> FloatArray:
        """Scores of all items for N users, float32 (N, I), finite, higher is better."""

    def arrays(self) -> Arrays:
        """What was learned, as arrays by name, for :meth:`save`."""
        return {}

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave."""
        return None

    def fit(self, dataset: Dataset, draws: Draws) -> None:
        """Trains from scratch and forgets what was observed."""
        self.n_items, self.categories = dataset.n_items, dataset.catalog.categories
        self._item_categories = dataset.catalog.item_categories.astype(np.float32)
        self._log_popularity = np.log1p(dataset.catalog.popularity).astype(np.float32)
        self._training, self._observed, self.version = dataset, ObservedClicks(), "0"
        self.catalog_hash = hash_of_items(dataset.catalog)
        self.learn(dataset, draws)

    def observe(self, obs: ObservationBatch, slate: SlateBatch, feedback: Feedback) -> None:
        """Keeps the clicks for :meth:`retrain`."""
        self._observed.add(obs, slate, feedback)

    def retrain(self, draws: Draws) -> None:
        """Trains again on the training data and all clicks observed since; see :meth:`ObservedClicks.extend`.

        Raises:
            RecsimError: If the recommender was loaded, because a saved one carries no training data.
        """
        if self._training is None:
            raise RecsimError(f"{self._name} has no training data. Call fit(dataset, draws) before retrain(draws).")
        self.learn(self._observed.extend(self._training), draws)
        self.version = str(int(self.version) + 1)

    def recommend(self, obs: ObservationBatch, slate_size: int, draws: Draws) -> SlateBatch:
        """Slates for N users, with propensities.

        The marginal is known at the first position, and everywhere of uniform (epsilon 1) and deterministic slates.
        """
        items = np.empty((obs.n, slate_size), np.int32)
        propensity = np.empty((obs.n, slate_size), np.float32)
        marginal = np.empty((obs.n, slate_size), np.float32)
        for rows, part in blocks(obs):

            def key(purpose: str, part: ObservationBatch = part) -> Keys:
                return draws.keys(purpose, part.user_index, part.day, part.session, part.turn)

            scores, lanes = self.allowed_scores(part)
            slots = self._policy.sample(scores, lanes, slate_size, key)
            empty = slots == scores.shape[1]
            if self.deterministic:
                chances = np.ones(slots.shape)
            else:
                chances = np.where(empty, 1.0, np.exp(self._policy.log_prob(scores, slots)))
            items[rows] = items_of(slots, lanes, self.n_items)
            propensity[rows] = chances
            marginal[rows] = np.where(empty, 1.0, self._marginal(chances, scores))
        return SlateBatch(items, propensity, marginal, self._name, self.version, self._answers(obs))

    def log_prob(self, obs: ObservationBatch, items: IntArray) -> FloatArray:
        """Log-probability of given slates, float64 (N, K); see :meth:`Recommender.log_prob`."""
        result = np.zeros(items.shape)
        for rows, part in blocks(obs):
            scores, _ = self.allowed_scores(part)
            chances = self._policy.log_prob(scores, slots_of(items[rows], part))
            result[rows] = np.where(items[rows] == self.n_items, 0.0, chances)
        return result

    def save(self, folder: Path) -> None:
        """Writes configuration and learned arrays; not the training data."""
        meta = {
            "config": self.config.model_dump(mode="json"), "version": self.version,
            "n_items": self.n_items, "categories": list(self.categories), "catalog": self.catalog_hash,
        }  # fmt: skip
        arrays = {f"learned.{name}": array for name, array in self.arrays().items()}
        arrays |= {"item_categories": self._item_categories, "log_popularity": self._log_popularity}
        write_state(folder, type(self).__name__, meta, arrays)

    @classmethod
    def load(cls, folder: Path, changes: Mapping[str, Any] | None = None) -> Self:
        """Reads what :meth:`save` wrote; ``changes`` replace saved settings."""
        meta, arrays = read_state(folder, cls.__name__)
        made = cls(validate_config(cls.config_class, {**meta["config"], **(changes or {})}, str(folder)))
        made.catalog_hash = meta["catalog"]
        made.version, made.n_items, made.categories = meta["version"], meta["n_items"], tuple(meta["categories"])
        made._item_categories, made._log_popularity = arrays.pop("item_categories"), arrays.pop("log_popularity")
        made.set_arrays({name.removeprefix("learned."): array for name, array in arrays.items()})
        return made

    @property
    def _name(self) -> str:
        return self.name or type(self).__name__

    def allowed_scores(self, obs: ObservationBatch) -> tuple[FloatArray, IntArray]:
        """Scores to draw by float32 (N, M), -inf where not allowed, and the slots' items (M,) or (N, M)."""
        lanes, allowed = allowed_slots(obs, self.n_items, self.config.exclude_seen)
        raw = self._fixed_shape_scores(obs)
        if not np.isfinite(raw).all():
            raise ContractError(f"{self._name}.scores gave NaN or infinity; scores must be finite, float32 (N, I).")
        scores = self._at(lanes, raw)
        if self.standardised:
            scores = self._comparable(scores, lanes, allowed)
        return np.where(allowed, scores + self.wished(obs, lanes), np.float32(-np.inf)), lanes

    def _comparable(self, scores: FloatArray, lanes: IntArray, allowed: BoolArray) -> FloatArray:
        """Standardised scores, of log popularity where all are equal."""
        scores = standardise(scores, allowed)
        flat = np.flatnonzero(~scores.any(axis=1))
        if flat.size:
            popularity = np.broadcast_to(self._log_popularity, (len(flat), self.n_items))
            own = lanes if lanes.ndim == 1 else lanes[flat]
            scores[flat] = standardise(self._at(own, popularity), allowed[flat])
        return scores

    def _fixed_shape_scores(self, obs: ObservationBatch) -> FloatArray:
        if self.row_wise:
            return self.scores(obs)
        return self.scores(obs.take(np.arange(BLOCK) % obs.n))[: obs.n]

    def wished(self, obs: ObservationBatch, lanes: IntArray) -> FloatArray:
        """What the users' messages add to the scores, float32, broadcastable to (N, M)."""
        asking = np.flatnonzero(obs.message_vector.any(axis=1))
        if self.config.heed == 0 or not asking.size:
            return np.zeros((1, 1), np.float32)
        bonus = np.zeros((obs.n, self.n_items), np.float32)
        bonus[asking] = self.config.heed * (obs.message_vector[asking] @ self._item_categories.T)
        return self._at(lanes, bonus)

    def _at(self, lanes: IntArray, values: FloatArray) -> FloatArray:
        """Values (N, I) at the candidates, (N, M)."""
        return values if lanes.ndim == 1 else np.take_along_axis(values, np.minimum(lanes, self.n_items - 1), axis=1)

    def _marginal(self, chances: FloatArray, scores: FloatArray) -> FloatArray:
        """Marginal probability at each position, float (N, K), NaN where it is not cheap."""
        if self.deterministic:
            return np.ones_like(chances)
        if self.config.epsilon == 1:
            return np.broadcast_to(chances[:, :1], chances.shape)  # one over the number of allowed items
        known = np.full_like(chances, np.nan)
        known[:, 0] = chances[:, 0]
        return known

    def _answers(self, obs: ObservationBatch) -> Texts | None:
        """What is said to those who gave an instruction."""
        asking = np.flatnonzero(obs.message_kind == MessageKind.INSTRUCT)
        if self.config.heed == 0 or not asking.size:
            return None
        answers: Texts = [None] * obs.n
        for i in asking:
            answers[i] = promise(obs.message_vector[i], self.categories)
        return answers


def promise(wish: FloatArray, categories: tuple[str, ...]) -> str:
    """The recommender's words on a wish, such as "More Comedy, less Drama."."""
    parts = [f"more {categories[c]}" for c in np.flatnonzero(wish > 0)]
    parts += [f"less {categories[c]}" for c in np.flatnonzero(wish < 0)]
    text = ", ".join(parts) or "I did not find a category in that"
    return f"{text[0].upper()}{text[1:]}."


def blocks(obs: ObservationBatch) -> Iterator[tuple[slice, ObservationBatch]]:
    """The observation in blocks of at most BLOCK users."""
    for start in range(0, obs.n, BLOCK):
        rows = slice(start, min(start + BLOCK, obs.n))
        yield rows, obs if obs.n <= BLOCK else obs.take(rows)
