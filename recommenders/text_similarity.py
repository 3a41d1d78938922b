"""Items whose texts are like those of the history: for items that nobody has rated yet."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from recsim_env.draws import Draws
from recsim_env.interfaces import Config, Embedder
from recsim_env.recommenders.base import ScoringConfig, ScoringRecommender
from recsim_env.recommenders.history import history_matrix
from recsim_env.recommenders.store import Arrays
from recsim_env.records import Catalog, Dataset, FloatArray, ObservationBatch
from recsim_env.registry import embedders
from recsim_env.scenario import validate_config


class TextSimilarityConfig(ScoringConfig):
    """Settings of :class:`TextSimilarity`."""

    embedder: str = "hashed-ngrams"
    """What turns texts into vectors: hashed-ngrams, sentence-transformers or endpoint."""
    embedder_settings: dict[str, Any] = Field(default_factory=dict)
    """Its own settings, such as ``model``."""
    half_life: float | None = Field(default=10.0, gt=0)
    """History items lose half of their weight every so many items; null weighs all alike."""


class TextSimilarity(ScoringRecommender):
    """Cosine of item texts with the history's (content-based filtering; Lops, de Gemmis and Semeraro, 2011).

    A text is title, year, categories and description. What all texts have in common is taken away: vectors are centred
    and made unit length again. Ratings are not used, so an item without any is ranked like every other.
    """

    config_class: ClassVar[type[Config]] = TextSimilarityConfig
    config: TextSimilarityConfig
    name = "text-similarity"
    row_wise = True

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Embeds the catalogue."""
        self.learn_texts(dataset.catalog)

    def learn_texts(self, catalog: Catalog) -> None:
        """Embeds the items' texts."""
        kind: Any = embedders.get(self.config.embedder, "embedder")
        config = validate_config(kind.config_class, self.config.embedder_settings, "embedder_settings")
        embedder: Embedder = kind(config)
        vectors = embedder.embed(item_texts(catalog)).astype(np.float32)
        vectors = vectors - vectors.mean(axis=0)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._vectors = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-9)

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """Sums of cosines over the history, float32 (N, I)."""
        profile = history_matrix(obs, self.n_items, self.config.half_life) @ self._vectors
        return np.asarray((profile[:, None, :] @ self._vectors.T)[:, 0], np.float32)  # one product per user: row-wise

    def similarity(self, item: int) -> FloatArray:
        """Cosine of all items with one, float32 (I,)."""
        return np.asarray(self._vectors @ self._vectors[item], np.float32)

    def arrays(self) -> Arrays:
        """The item vectors."""
        return {"vectors": self._vectors}

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave."""
        self._vectors = arrays["vectors"]


def item_texts(catalog: Catalog) -> list[str]:
    """What each item says of itself."""
    texts = []
    for item in range(catalog.n_items):
        names = [catalog.categories[c] for c in np.flatnonzero(catalog.item_categories[item])]
        year = str(int(catalog.year[item])) if catalog.year[item] else ""
        parts = (str(catalog.title[item]), year, ", ".join(names), str(catalog.text[item]))
        texts.append(". ".join(part for part in parts if part))
    return texts
