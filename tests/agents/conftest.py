"""A small world and a scripted engine for the language-model users' tests."""

import json
import zlib
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from recsim_env.agents.llm import LLMConfig, LLMUsers
from recsim_env.draws import Draws
from recsim_env.interfaces import Config, Embedder, Engine
from recsim_env.records import Catalog, Completion, Dataset, Histories, Ratings, RatingScale, SlateBatch, Users
from recsim_env.visible import VisibleState

TEXTS = {
    "SearchWords": {"query": "Comedy", "thought": "I want to laugh."},
    "InstructWords": {"instruction": "No more Drama, please. Show me Comedy.", "thought": "Too much drama."},
    "CommentWords": {"comment": "Quite good.", "thought": "I liked it."},
    "InsightWords": {"insight": "I like short comedies.", "importance": 7},
    "SocialWords": {"message": "You must see this one."},
    "Plan": {"more": ["Comedy"], "less": ["Drama"], "answer": "Here are some comedies."},
}


class LetterEmbedder(Embedder):
    """Counts of letters, normalised: near texts are near."""

    config_class = Config

    def __init__(self, config=None):
        self.config = config

    def embed(self, texts):
        rows = [np.bincount([ord(c) % 64 for c in text] or [0], minlength=64) for text in texts]
        vectors = np.array(rows, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclass(eq=False)
class ScriptedEngine(Engine):
    """Decides by ``likes(request)`` (probabilities, or None for a hash of the prompt), writes from templates."""

    likes: object = None
    writes: object = None
    batches: list = field(default_factory=list)
    special_tokens = ("<|im_start|>", "<|im_end|>")
    model = "scripted"

    def choose(self, requests):
        self.batches.append(list(requests))
        self.usage.requests["choose"] += len(requests)
        return [self._choose(r) for r in requests]

    def _choose(self, request):
        p = self.likes(request) if self.likes else None
        if p is None:
            text = request.messages[-1]["content"]
            p = 1.0 + np.array([zlib.crc32(f"{text}{o}".encode()) % 97 for o in request.options])
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(p, np.float64) / np.sum(p))

    def generate(self, requests):
        self.batches.append(list(requests))
        self.usage.requests["generate"] += len(requests)
        return [self._write(r) for r in requests]

    def _write(self, request):
        text = self.writes(request) if self.writes else None
        if isinstance(text, Completion):
            return text
        text = json.dumps(TEXTS[request.schema["title"]]) if text is None else text
        self.usage.generated_tokens += len(text) // 4
        return Completion(text, finish_reason="stop", tokens=len(text) // 4)

    def requests(self, purpose=None):
        return [r for batch in self.batches for r in batch if purpose in (None, r.key.purpose)]

    def close(self):
        return None


def dataset(n_users=30, n_items=40, scale=(1, 5)):
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(n_users), 10)
    item = np.concatenate([rng.permutation(n_items)[:10] for _ in range(n_users)])
    rating = np.clip(rng.integers(scale[0], scale[1] + 1, len(user)), *scale)
    flags = np.zeros((n_items, 4), bool)
    flags[np.arange(n_items), np.arange(n_items) % 4] = True
    ids = np.array([f"i{i}" for i in range(n_items)], object)
    titles = np.array([f"Title number {i}" for i in range(n_items)], object)
    catalog = Catalog(
        ids, titles, ("Action", "Comedy", "Drama", "Horror"), flags, np.full(n_items, "", object),
        np.full(n_items, 2000, np.int16), np.bincount(item, minlength=n_items), RatingScale(*scale),
    )  # fmt: skip
    ratings = Ratings(user.astype(np.int32), item.astype(np.int32), rating.astype(np.float32), np.arange(len(user)))
    profile = {"gender": np.array(["female", "male"] * (n_users // 2), object)}
    return Dataset("toy", catalog, np.array([f"u{u}" for u in range(n_users)], object), profile, ratings)


def seat(n=12, seed=0, engine=None, data=None, attach=None, retries=1, share=1.0, **config):
    """A model with its engine, its visible state, and all rows; users beyond the data set's are new."""
    data = data or dataset()
    engine = engine or ScriptedEngine()
    model = LLMUsers(LLMConfig(**{"remembered": 0, **config}))
    model.attach(attach or engine, LetterEmbedder(), retries, share)
    model.fit(data, Draws(0))
    row = np.where(np.arange(n) < data.n_users, np.arange(n), -1)
    profile = {name: np.append(values, "")[row] for name, values in data.profile.items()}
    users = Users(np.array([f"u{i}" for i in range(n)], object), row, profile, data.histories().take(row))
    model.reset(users, Draws(seed))
    return SimpleNamespace(
        model=model, visible=VisibleState(data.catalog, users, 5, 20), rows=np.arange(n), engine=engine, data=data
    )


def slates(items, answer=None):
    items = np.asarray(items, np.int32)
    nan = np.full(items.shape, np.nan, np.float32)
    return SlateBatch(items, nan, nan, "test", answer=answer)


def random_slates(n, k=5, n_items=40, seed=1):
    rng = np.random.default_rng(seed)
    return slates([rng.permutation(n_items)[:k] for _ in range(n)])


def say(**by_purpose):
    """A ``likes`` function: probabilities by purpose, the hash elsewhere."""
    return lambda request: by_purpose.get(request.key.purpose.partition("~")[0])


@pytest.fixture
def world():
    """The helpers of this file, for tests."""
    return SimpleNamespace(
        seat=seat, slates=slates, random_slates=random_slates, dataset=dataset, ScriptedEngine=ScriptedEngine, say=say,
        LetterEmbedder=LetterEmbedder, histories=Histories, replace=replace, TEXTS=TEXTS,
    )  # fmt: skip
