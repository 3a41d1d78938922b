"""Texts to unit vectors: hashed n-grams (the default, no model), sentence-transformers, or an endpoint."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from recsim_env.draws import Draws
from recsim_env.engine.base import EngineUsage
from recsim_env.engine.endpoint import Endpoint, EndpointConfig
from recsim_env.engine.faults import Fault
from recsim_env.errors import EngineError, MissingDependencyError
from recsim_env.interfaces import Config, Embedder
from recsim_env.records import FloatArray

_BASE = np.uint64(0x100000001B3)
_BLOCK = 4096


class HashedNgramsConfig(Config):
    """Settings of the hashed n-grams."""

    width: int = Field(default=512, ge=8)
    """Numbers per vector."""
    character_ngrams: tuple[int, ...] = (3, 4)
    """Lengths of character n-grams, within and across words."""
    word_ngrams: tuple[int, ...] = (1, 2)
    """Lengths of word n-grams."""


class HashedNgrams(Embedder):
    """Counts character and word n-grams in hashed places with hashed signs (Weinberger et al., ICML 2009).

    A stateless function of the text: nothing is learned, nothing is loaded, the same on every machine. It sees shared
    words and spellings, not meanings. Letter case and Unicode variants (NFKC) do not matter. A text without a single
    n-gram gets a place of its own, so that every vector has length 1.
    """

    config_class: ClassVar[type[Config]] = HashedNgramsConfig

    def __init__(self, config: HashedNgramsConfig | None = None) -> None:
        self.config = config if config is not None else HashedNgramsConfig()

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """One unit vector per text, float32 (n, width)."""
        found = np.empty((len(texts), self.config.width), np.float32)
        for start in range(0, len(texts), _BLOCK):
            found[start : start + _BLOCK] = self._block(texts[start : start + _BLOCK])
        return found

    def _block(self, texts: Sequence[str]) -> FloatArray:
        words = [unicodedata.normalize("NFKC", text).casefold().split() for text in texts]
        grams = [_ngrams(*_characters(words), n, 0) for n in self.config.character_ngrams]
        grams += [_ngrams(*_word_hashes(words), n, 1) for n in self.config.word_ngrams]
        rows = np.concatenate([np.arange(len(texts)), *(rows for rows, _ in grams)])
        hashes = np.concatenate([np.full(len(texts), 0, np.uint64), *(hashes for _, hashes in grams)])
        has_grams = np.bincount(rows, minlength=len(texts)) > 1
        weights = np.where(hashes >> np.uint64(63), 1.0, -1.0)
        weights[: len(texts)] = ~has_grams  # the place of texts without n-grams
        places = rows * self.config.width + (hashes % np.uint64(self.config.width)).astype(np.int64)
        vectors: Any = np.bincount(places, weights, minlength=len(texts) * self.config.width)
        vectors = vectors.reshape(len(texts), self.config.width)
        # Signs can cancel all counts of a short text; its own place stands in for them as well.
        vectors[~vectors.any(axis=1), 0] = 1.0
        return _unit(vectors)


def _characters(words: Sequence[list[str]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Row and code point of each character, words joined by blanks and blanks around them."""
    joined = [f" {' '.join(some)} " if some else "" for some in words]
    codes = np.frombuffer("".join(joined).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    return np.repeat(np.arange(len(joined)), [len(text) for text in joined]), codes


def _word_hashes(words: Sequence[list[str]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Row and hash of each word: a polynomial in its code points."""
    flat = [word for some in words for word in some]
    rows = np.repeat(np.arange(len(words)), [len(some) for some in words])
    if not flat:
        return rows, np.zeros(0, np.uint64)
    lengths = np.array([len(word) for word in flat])
    codes = np.frombuffer("".join(flat).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    powers = np.cumprod(np.full(int(lengths.max()), _BASE, np.uint64), dtype=np.uint64)
    return rows, np.add.reduceat(codes * powers[place], starts)


def _ngrams(rows: np.ndarray[Any, Any], parts: np.ndarray[Any, Any], n: int, kind: int) -> Any:
    """Row and hash of every run of n parts that stays in one row."""
    count = max(len(parts) - n + 1, 0)
    hashes = np.full(count, 1 + 2 * n + kind, np.uint64)
    for i in range(n):
        hashes = hashes * _BASE + parts[i : i + count]
    whole = rows[:count] == rows[n - 1 : n - 1 + count]
    mixed = Draws.bits(hashes[whole], [kind])[:, 0]
    return rows[:count][whole], mixed


def _unit(vectors: FloatArray) -> FloatArray:
    """Rows of length 1, float32; a row of zeros stays so."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


class SentenceTransformerConfig(Config):
    """Settings of sentence-transformers."""

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Folder or name on the Hugging Face hub."""
    device: str | None = None
    """``cpu``, ``cuda``, ...; null takes a GPU where there is one."""
    batch_size: int = Field(default=256, ge=1)
    """Texts per pass."""


class SentenceTransformerEmbedder(Embedder):
    """A model of the package sentence-transformers (Reimers and Gurevych, EMNLP 2019).

    Raises:
        MissingDependencyError: If the package is absent.
    """

    config_class: ClassVar[type[Config]] = SentenceTransformerConfig

    def __init__(self, config: SentenceTransformerConfig | None = None) -> None:
        self.config = config if config is not None else SentenceTransformerConfig()
        if find_spec("sentence_transformers") is None:
            raise MissingDependencyError(
                "embedder 'sentence-transformers'", "sentence-transformers", "pip install 'recsim-env[embed]'",
                "choose embedder 'hashed-ngrams'",
            )  # fmt: skip
        from sentence_transformers import SentenceTransformer

        self._model: Any = SentenceTransformer(self.config.model, device=self.config.device)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """One unit vector per text, float32 (n, d)."""
        found = self._model.encode(list(texts), batch_size=self.config.batch_size, show_progress_bar=False)
        return _unit(np.asarray(found))


class EndpointEmbedderConfig(EndpointConfig):
    """Settings of the endpoint embedder."""

    batch_size: int = Field(default=128, ge=1)
    """Texts per request."""


class EndpointEmbedder(Embedder):
    """An OpenAI-compatible endpoint's ``/embeddings``; retries and faults as for engine ``openai``."""

    config_class: ClassVar[type[Config]] = EndpointEmbedderConfig

    def __init__(self, config: EndpointEmbedderConfig) -> None:
        self.config = config
        self.usage = EngineUsage()
        self._endpoint = Endpoint(config, self.usage)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """One unit vector per text, float32 (n, d).

        Raises:
            EngineError: If the endpoint does not answer, or not with one vector per text.
        """
        size = self.config.batch_size
        parts = [list(texts[start : start + size]) for start in range(0, len(texts), size)]
        bodies = [{"model": self.config.model, "input": part} for part in parts]
        readers = [partial(_read_vectors, len(part)) for part in parts]
        places = [i % len(self.config.base_urls) for i in range(len(parts))]
        found = self._endpoint.post_all("/embeddings", bodies, places, readers)
        vectors = [part for part in found if part is not None]
        if len(vectors) < len(parts) or len({part.shape[1] for part in vectors}) > 1:
            raise EngineError(
                f"{self.config.model!r} does not answer with one vector per text, all of one length (failures: "
                f"{dict(self.usage.failures)}). Choose a model that embeds."
            )
        return np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32)

    def close(self) -> None:
        """Closes the connections."""
        self._endpoint.close()


def _read_vectors(count: int, reply: dict[str, Any]) -> FloatArray:
    try:
        entries = sorted(reply["data"], key=lambda entry: entry["index"])
        vectors = np.array([entry["embedding"] for entry in entries], np.float64)
    except (KeyError, TypeError, ValueError):
        raise Fault("garbage", f"a reply without embeddings: {str(reply)[:200]}", bad_reply=True) from None
    if vectors.ndim != 2 or len(vectors) != count or not np.isfinite(vectors).all():
        raise Fault("bad_vectors", f"{vectors.shape} numbers for {count} texts", bad_reply=True)
    return _unit(vectors)
