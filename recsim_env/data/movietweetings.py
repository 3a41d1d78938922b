"""The built-in data set: ratings of films that people sent as tweets.

The 10-core of the 100K snapshot of MovieTweetings (Dooms, De Pessemier and Martens, "MovieTweetings: a movie rating
dataset collected from Twitter", CrowdRec 2013; https://github.com/sidooms/MovieTweetings, MIT licence, see
``builtin/LICENSE-movietweetings``): 44,613 ratings of 0-10, 2,059 users, 1,099 films, February to September 2013.
The files are made by ``scripts/make_builtin_data.py``.
"""

from __future__ import annotations

import io
from importlib import resources

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from recsim_env.records import Catalog, Dataset, Ratings, RatingScale

SCALE = RatingScale(0.0, 10.0, 1.0)
"""The snapshot's scale; all eleven levels occur."""


def load_movietweetings() -> Dataset:
    """MovieTweetings, 10-core of the 100K snapshot: 44,613 film ratings (0-10) of 2,059 users."""
    films, events = _table("items.parquet"), _table("ratings.parquet")
    item = events["item"].to_numpy()
    user_id, user = np.unique(events["user"].to_numpy(), return_inverse=True)
    lists = films["categories"].to_pylist()
    categories = sorted({name for names in lists for name in names})
    return Dataset(
        name="movietweetings",
        catalog=Catalog(
            item_id=_objects(films["item_id"]),
            title=_objects(films["title"]),
            categories=tuple(categories),
            item_categories=np.array([[name in names for name in categories] for names in lists], np.bool_),
            text=np.full(len(films), "", object),
            year=films["year"].to_numpy().astype(np.int16),
            popularity=np.bincount(item, minlength=len(films)).astype(np.int64),
            scale=SCALE,
        ),
        user_id=np.array([str(number) for number in user_id], object),
        profile={},
        ratings=Ratings(
            user_index=user.astype(np.int32),
            item_index=item.astype(np.int32),
            rating=events["rating"].to_numpy().astype(np.float32),
            timestamp=events["timestamp"].to_numpy().astype(np.int64),
        ),
    )


def _table(name: str) -> pa.Table:
    # Read through importlib.resources, so that a package inside an archive works too.
    return pa_parquet.read_table(io.BytesIO((resources.files("recsim_env.data") / "builtin" / name).read_bytes()))


def _objects(column: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    return np.array(column.to_pylist(), object)
