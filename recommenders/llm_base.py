"""What recommenders share that ask a language model: the engine, a ranker that retrieves, and counted failures."""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field

from recsim_env.draws import Draws
from recsim_env.engine.untrusted import clean, fence
from recsim_env.errors import ContractError, EngineError
from recsim_env.interfaces import Config, Embedder, Engine
from recsim_env.recommenders.base import ScoringConfig, ScoringRecommender
from recsim_env.recommenders.store import read_catalog, write_catalog
from recsim_env.records import Dataset, IntArray, ObservationBatch, RequestKey
from recsim_env.registry import recommenders
from recsim_env.scenario import validate_config

GRACE = 20
"""The share of bad replies counts from so many on."""


TITLE_LENGTH, WORDS_LENGTH = 100, 300
"""Characters of untrusted text that enter a prompt: a title, somebody's words."""


class AskingConfig(ScoringConfig):
    """Settings of recommenders that ask a language model."""

    ranker: str = "cooccurrence"
    """The recommender whose order the language model starts from; any that scores items."""
    ranker_settings: dict[str, Any] = Field(default_factory=dict)
    """Its own settings."""
    shown: int = Field(default=10, ge=1)
    """Latest items of the user that the model is told."""


class AskingRecommender(ScoringRecommender):
    """A recommender with a ranker inside and an engine beside it; subclasses say what is asked.

    Attributes:
        write_language: Writes the language model that a training has changed, into a folder that does not exist yet.
    """

    config_class: ClassVar[type[Config]] = AskingConfig
    config: AskingConfig
    needs_engine = True
    repeatable = False
    row_wise = True

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.engine: Engine | None = None
        self.seed, self.retries, self.limit = 0, 1, 0.05
        self.asked: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.write_language: Callable[[Path], None] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy that asks the same engine."""
        made = type(self).__new__(type(self))
        memo[id(self.engine)] = self.engine
        made.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return made

    @property
    def hears(self) -> str:
        """Its language model reads the words."""
        return "words"

    def attach(self, engine: Engine, embedder: Embedder, retries: int = 1, max_failure_share: float = 0.05) -> None:
        """Gives the recommender its language model."""
        self.engine, self.retries, self.limit = engine, retries, max_failure_share

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Fits the ranker."""
        self.catalog = dataset.catalog
        self.ranker = self._new_ranker()
        self.ranker.fit(dataset, draws)
        self._learned()

    def _learned(self) -> None:
        """Called when catalogue and ranker are there, fitted or loaded."""

    def _new_ranker(self) -> ScoringRecommender:
        kind: Any = recommenders.get(self.config.ranker, "ranker")
        if not issubclass(kind, ScoringRecommender) or issubclass(kind, AskingRecommender):
            raise ContractError(
                f"{self._name}: ranker {self.config.ranker!r} gives no scores. Take one that scores items, such as "
                "cooccurrence, ease or sasrec."
            )
        settings = {**self.config.ranker_settings, "temperature": 0.0, "exclude_seen": self.config.exclude_seen}
        made: ScoringRecommender = kind(validate_config(kind.config_class, settings, "ranker_settings"))
        return made

    def _asked_engine(self) -> Engine:
        if self.engine is None:
            raise EngineError(
                f"{self._name} needs a language model: name an engine in the scenario, for example --engine "
                "transformers --model builtin (or a FOLDER), or call attach(engine, embedder)."
            )
        return self.engine

    def _count(self, purpose: str, n: int, bad: int) -> None:
        """Counts replies; too many bad ones end the run.

        Raises:
            EngineError: If the share of bad replies is past the limit.
        """
        self.asked[purpose] += n
        self.failed[purpose] += bad
        if self.asked[purpose] >= GRACE and self.failed[purpose] > self.limit * self.asked[purpose]:
            raise EngineError(
                f"{self.failed[purpose]} of {self.asked[purpose]} replies to the recommender's {purpose!r} could not "
                f"be used, more than {self.limit:.0%} (engine.max_failure_share). Take another model, or "
                "raise the limit."
            )

    def _key(self, obs: ObservationBatch, row: int, number: int, purpose: str) -> RequestKey:
        return RequestKey(
            self.seed, int(obs.user_index[row]), int(obs.day[row]), int(obs.session[row]), int(obs.turn[row]), number,
            purpose,
        )  # fmt: skip

    def _title(self, item: int) -> str:
        """Title and year as a prompt tells them."""
        special = self._asked_engine().special_tokens
        year = int(self.catalog.year[item])
        return clean(str(self.catalog.title[item]), TITLE_LENGTH, special) + (f" ({year})" if year else "")

    def _card(self, item: int) -> str:
        """Title, year and categories."""
        names = [self.catalog.categories[c] for c in np.flatnonzero(self.catalog.item_categories[item])]
        return ". ".join(part for part in (self._title(item), ", ".join(names)) if part)

    def _words(self, obs: ObservationBatch, row: int) -> str:
        """What the user just said, cleaned, capped and fenced."""
        return fence(clean(str(obs.message[row]), WORDS_LENGTH, self._asked_engine().special_tokens))

    def _past(self, obs: ObservationBatch, row: int) -> str:
        """The user's latest items, oldest first, fenced."""
        items: IntArray = obs.history[row][obs.history[row] < self.n_items][-self.config.shown :]
        return fence("; ".join(self._title(int(item)) for item in items)) if len(items) else "nothing yet"

    def save(self, folder: Path) -> None:
        """Writes configuration, catalogue, ranker, and a language model of its own."""
        super().save(folder)
        write_catalog(folder / "catalog.npz", self.catalog)
        (folder / "ranker").mkdir(exist_ok=True)
        self.ranker.save(folder / "ranker")
        own = folder / "language"
        if self.write_language is not None:
            shutil.rmtree(own, ignore_errors=True)
            self.write_language(own)
        elif self.language is not None and self.language != own:
            shutil.copytree(self.language, own, dirs_exist_ok=True)

    @classmethod
    def load(cls, folder: Path, changes: Mapping[str, Any] | None = None) -> Self:
        """Reads what :meth:`save` wrote."""
        made = super().load(folder, changes)
        made.catalog = read_catalog(folder / "catalog.npz")
        made.ranker = type(made._new_ranker()).load(folder / "ranker")
        made.language = folder / "language" if (folder / "language").is_dir() else None
        made._learned()
        return made
