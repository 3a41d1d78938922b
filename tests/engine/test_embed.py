"""Embedders: unit vectors, the same for the same text wherever it stands."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsim_env.engine.embed import HashedNgrams, HashedNgramsConfig, SentenceTransformerEmbedder
from recsim_env.errors import MissingDependencyError

texts = st.lists(st.text(max_size=30), max_size=8)


@given(texts)
def test_vectors_have_length_one_and_depend_on_their_text_alone(some):
    embedder = HashedNgrams(HashedNgramsConfig(width=64))
    found = embedder.embed(some)
    assert found.shape == (len(some), 64)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for text, vector in zip(some, found, strict=True):
        np.testing.assert_array_equal(embedder.embed([text])[0], vector)


def test_alike_texts_are_near():
    v = HashedNgrams().embed(["Toy Story", "toy  STORY 2", "The Godfather", "Ｔｏｙ Story"])
    likeness = v @ v.T
    assert likeness[0, 1] > 0.7
    assert abs(likeness[0, 2]) < 0.2
    assert likeness[0, 3] == pytest.approx(1, abs=1e-5)


def test_known_answer_is_the_same_on_every_machine():
    vector = HashedNgrams(HashedNgramsConfig(width=8)).embed(["Heat"])[0]
    np.testing.assert_allclose(vector * np.sqrt(8), [-1, -1, 0, 2, 0, -1, 0, 1], atol=1e-6)


def test_speed():
    some = [f"A film number {i} about people who meet by chance" for i in range(5000)]
    HashedNgrams().embed(some[:10])
    start = time.perf_counter()
    HashedNgrams().embed(some)
    assert len(some) / (time.perf_counter() - start) > 2000  # alone on a core about 20,000 texts a second


def test_sentence_transformers_are_optional(monkeypatch):
    monkeypatch.setattr("recsim_env.engine.embed.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"recsim-env\[embed\].*hashed-ngrams"):
        SentenceTransformerEmbedder()
