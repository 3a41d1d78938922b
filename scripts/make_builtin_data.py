"""Makes the built-in data set out of the 100K snapshot of MovieTweetings.

Usage: python scripts/make_builtin_data.py SNAPSHOT_FOLDER [OUTPUT_FOLDER]

The folder holds ratings.dat, movies.dat and LICENSE of https://github.com/sidooms/MovieTweetings (snapshots/100K).
The file of users, which links them to Twitter accounts, is neither needed nor read. The output is a function of the
input alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pa_parquet

from recsim_env.data.assemble import Items, assemble
from recsim_env.data.kcore import keep_core
from recsim_env.data.movietweetings import SCALE
from recsim_env.data.reading import read_delimited
from recsim_env.records import Dataset

BUILTIN = Path(__file__).resolve().parent.parent / "recsim_env" / "data" / "builtin"
CORE = 10
COLUMNS = ("user", "item", "rating", "timestamp")
NOTICE = """\
ratings.parquet and items.parquet hold the 10-core (users and films with at least 10 ratings each) of the 100K
snapshot of MovieTweetings, https://github.com/sidooms/MovieTweetings, changed in form only: users keep the
snapshot's anonymous numbers. Please cite:

Simon Dooms, Toon De Pessemier and Luc Martens. MovieTweetings: a movie rating dataset collected from Twitter.
Workshop on Crowdsourcing and Human Computation for Recommender Systems, CrowdRec at RecSys 2013.

"""


def read_snapshot(folder: Path) -> Dataset:
    """The whole snapshot as a data set."""
    films = read_delimited(folder / "movies.dat", "::", ("item", "title", "genres"))
    items = Items(
        item_id=films.ids("item"),
        title=films.text("title"),
        categories=[row.split("|") for row in films.text("genres", required=False)],
    )
    return assemble("movietweetings", read_delimited(folder / "ratings.dat", "::", COLUMNS), COLUMNS, SCALE, items)


def tables(core: Dataset) -> tuple[pa.Table, pa.Table]:
    """Ratings (item is a row of the items, in the snapshot's order) and items."""
    events, catalog = core.ratings, core.catalog
    ratings = pa.table(
        {
            "user": pa.array([int(u) for u in core.user_id], pa.int32()).take(pa.array(events.user_index)),
            "item": pa.array(events.item_index, pa.int16()),
            "rating": pa.array(events.rating.astype("int8"), pa.int8()),
            "timestamp": pa.array(events.timestamp, pa.int64()),
        }
    )
    names = [[c for c, has in zip(catalog.categories, row, strict=True) if has] for row in catalog.item_categories]
    items = pa.table(
        {
            "item_id": pa.array(catalog.item_id, pa.string()),
            "title": pa.array(catalog.title, pa.string()),
            "year": pa.array(catalog.year, pa.int16()),
            "categories": pa.array(names, pa.list_(pa.string())),
        }
    )
    return ratings, items


def main(snapshot: Path, output: Path = BUILTIN) -> None:
    """Writes the two Parquet files and the licence."""
    core = keep_core(read_snapshot(snapshot), CORE)
    output.mkdir(parents=True, exist_ok=True)
    for name, table in zip(("ratings", "items"), tables(core), strict=True):
        pa_parquet.write_table(table, output / f"{name}.parquet", compression="zstd", compression_level=19)
    notice = NOTICE + (snapshot / "LICENSE").read_text(encoding="utf-8")
    (output / "LICENSE-movietweetings").write_text(notice, encoding="utf-8")
    print(f"{output}: {len(core.ratings)} ratings, {core.n_users} users, {core.n_items} films")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*(Path(argument) for argument in sys.argv[1:]))
