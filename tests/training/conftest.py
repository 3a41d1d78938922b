"""A toy world for the training of user language models: genres decide who watches what and which mark it gets."""

from types import SimpleNamespace

import numpy as np
import pytest

from recsim_env.agents.llm import LLMConfig
from recsim_env.engine.base import ChatTokenizer
from recsim_env.records import Catalog, Dataset, Ratings, RatingScale

GENRES = ("Action", "Comedy", "Drama", "Horror")


def toy(n_users=60, n_items=60, per_user=14, seed=0):
    """Every user loves one genre and watches films of it alone; every other one is good (5), the rest are bad (2)."""
    rng = np.random.default_rng(seed)
    genre = np.arange(n_items) % len(GENRES)
    users, items, marks = [], [], []
    for user in range(n_users):
        own = rng.permutation(np.flatnonzero(genre == user % len(GENRES)))[:per_user]
        users += [user] * len(own)
        items += own.tolist()
        marks += np.where(own // len(GENRES) % 2 == 1, 5, 2).tolist()
    flags = np.zeros((n_items, len(GENRES)), bool)
    flags[np.arange(n_items), genre] = True
    item = np.array(items, np.int32)
    catalog = Catalog(
        np.array([f"i{i}" for i in range(n_items)], object),
        np.array([f"Title {i} of all" for i in range(n_items)], object),
        GENRES, flags, np.full(n_items, "", object), np.full(n_items, 2000, np.int16),
        np.bincount(item, minlength=n_items), RatingScale(1, 5),
    )  # fmt: skip
    ratings = Ratings(
        np.array(users, np.int32), item, np.array(marks, np.float32), np.arange(len(users), dtype=np.int64)
    )  # fmt: skip
    return Dataset("toy", catalog, np.array([f"u{u}" for u in range(n_users)], object), {}, ratings)


def write_csv(folder, data):
    """The data set as two CSV files; the path of the ratings."""
    r, c = data.ratings, data.catalog
    lines = [f"{data.user_id[u]},{c.item_id[i]},{m:g},{t}" for u, i, m, t in
             zip(r.user_index, r.item_index, r.rating, r.timestamp, strict=True)]  # fmt: skip
    (folder / "ratings.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *lines]) + "\n")
    return folder / "ratings.csv"


@pytest.fixture(scope="session")
def toys():
    """The toy world and its parts."""
    return SimpleNamespace(toy=toy, write_csv=write_csv, users=LLMConfig(remembered=6))


@pytest.fixture(scope="session")
def tiny_chat(tiny_model):
    """Tokenizer of the tiny test model."""
    return ChatTokenizer.load(tiny_model)
