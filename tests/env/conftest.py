"""A small invented data set behind a whole world, so that the environment's tests take milliseconds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from recsim_env.build import World
from recsim_env.records import Catalog, Dataset, Ratings, RatingScale
from recsim_env.registration import register
from recsim_env.scenario import load_scenario

N_USERS, N_ITEMS, N_CATEGORIES = 30, 60, 4

register()


def texts(values: Any) -> Any:
    return np.array(list(values), object)


def small_dataset() -> Dataset:
    rng = np.random.default_rng(7)
    pairs = np.argwhere(rng.random((N_USERS, N_ITEMS)) < 0.25)
    order = rng.permutation(len(pairs))
    ratings = Ratings(
        pairs[order, 0].astype(np.int32),
        pairs[order, 1].astype(np.int32),
        rng.integers(1, 6, len(pairs)).astype(np.float32),
        np.arange(len(pairs)),
    )
    catalog = Catalog(
        item_id=texts(f"i{i}" for i in range(N_ITEMS)),
        title=texts(f"Film {i}" for i in range(N_ITEMS)),
        categories=("Action", "Comedy", "Drama", "Horror"),
        item_categories=rng.random((N_ITEMS, N_CATEGORIES)) < 0.4,
        text=texts([""] * N_ITEMS),
        year=rng.integers(1950, 2024, N_ITEMS).astype(np.int16),
        popularity=np.zeros(N_ITEMS, np.int64),
        scale=RatingScale(1.0, 5.0),
    )
    plain = Dataset("small", catalog, texts(f"u{u}" for u in range(N_USERS)), {}, ratings)
    return plain.with_ratings(ratings)


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """Makes a world of the small data set; keywords are scenario keys."""
    dataset = small_dataset()
    fitted: dict[str, Any] = {}

    def make(**changes: Any) -> World:
        scenario = {
            "name": "small",
            "days": 5,
            "slate_size": 3,
            "history_length": 8,
            "max_turns": 6,
            "users": {"count": 12, "patience": 3.0, "appeal": -1.0},
            "reward": {"clicks": 1.0, "retention": 2.0, "stay": 0.5},
        }
        world = World(load_scenario({**scenario, **changes}))
        world.dataset = dataset
        key = str(world.scenario.users)
        world.user_model = fitted.setdefault(key, world.user_model)
        return world

    return make
