"""From a scenario's data section to a data set: names, paths, formats, k-core."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsim_env.data.kcore import k_core, keep_core
from recsim_env.data.load import guess_format, load_dataset
from recsim_env.data.movietweetings import load_movietweetings
from recsim_env.errors import DataError, UnknownNameError
from recsim_env.scenario import Columns, Data

CSV = "user_id,item_id,rating,timestamp\n1,1,1,1\n1,2,2,2\n2,1,3,3\n2,2,4,4\n3,3,5,5\n"


def test_default_is_the_built_in_data_set():
    assert load_dataset(Data()).name == "movietweetings"


def test_path_goes_before_name(ml_100k, ml_1m, tmp_path):
    (tmp_path / "mine.csv").write_text(CSV)
    assert load_dataset(Data(name="movietweetings", path=ml_100k)).name == "ml-100k"
    assert load_dataset(Data(path=ml_1m)).name == "ml-1m"
    assert load_dataset(Data(path=tmp_path / "mine.csv")).name == "mine"


def test_columns_scale_and_items_reach_the_loader(tmp_path):
    (tmp_path / "mine.csv").write_text(CSV.replace("rating", "stars"))
    (tmp_path / "items.csv").write_text("item_id,t\n1,One\n2,Two\n3,Three\n")
    data = Data(
        path=tmp_path / "mine.csv",
        columns=Columns(rating="stars", title="t"),
        items_path=tmp_path / "items.csv",
        scale=(0, 10, 1),
    )
    loaded = load_dataset(data)
    assert loaded.catalog.title.tolist() == ["One", "Two", "Three"]
    assert loaded.catalog.scale.high == 10


def test_formats_are_guessed(ml_100k, ml_1m, tmp_path):
    for suffix in ("csv", "parquet"):
        (tmp_path / f"r.{suffix}").write_text("x")
        assert guess_format(tmp_path / f"r.{suffix}") == suffix
    assert guess_format(ml_100k) == "ml-100k"
    assert guess_format(ml_1m) == "ml-1m"


def test_unknown_name_suggests():
    with pytest.raises(UnknownNameError, match=r"Unknown dataset 'movietweeting' \(data.name\). Did you mean"):
        load_dataset(Data(name="movietweeting"))


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("absent", None, "no such file or folder. Check data.path"),
        ("absent", "csv", "no such file or folder. Check data.path"),
        ("folder", None, "format cannot be told from the files. Known are folders with u.data (ml-100k)"),
        ("r.txt", None, "format cannot be told from the files"),
        ("folder", "csv", "Format 'csv' needs a file, this is a folder"),
        ("r.txt", "ml-1m", "Format 'ml-1m' needs a folder, this is a file"),
    ],
)
def test_paths_that_cannot_be_loaded(tmp_path, name, form, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "r.txt").write_text("x")
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load_dataset(Data(path=tmp_path / name, format=form))
    assert caught.value.path == tmp_path / name


def test_min_ratings_keeps_the_core(tmp_path):
    (tmp_path / "r.csv").write_text(CSV)
    data = load_dataset(Data(path=tmp_path / "r.csv", min_ratings=2))
    assert (data.user_id.tolist(), data.catalog.item_id.tolist(), len(data.ratings)) == (["1", "2"], ["1", "2"], 4)
    assert data.catalog.popularity.tolist() == [2, 2]
    assert data.catalog.scale.high == 5  # the scale stays the data set's


def test_min_ratings_that_leave_nothing(tmp_path):
    (tmp_path / "r.csv").write_text(CSV)
    with pytest.raises(DataError, match=r"No user and item of 'r' have 3 ratings each.*Lower data\.min_ratings"):
        load_dataset(Data(path=tmp_path / "r.csv", min_ratings=3))


def test_keep_core_keeps_every_row_together():
    data = load_movietweetings()
    core = keep_core(data, 20)
    assert 0 < len(core.ratings) < len(data.ratings)
    titles = dict(zip(data.catalog.item_id, data.catalog.title, strict=True))
    assert all(titles[i] == t for i, t in zip(core.catalog.item_id, core.catalog.title, strict=True))

    def events(d):
        r = d.ratings
        return set(zip(d.user_id[r.user_index], d.catalog.item_id[r.item_index], r.rating, r.timestamp, strict=True))

    def genres(d):
        return {
            i: {c for c, has in zip(d.catalog.categories, row, strict=True) if has}
            for i, row in zip(d.catalog.item_id, d.catalog.item_categories, strict=True)
        }

    assert events(core) <= events(data)
    assert all(genres(core)[i] == genres(data)[i] for i in core.catalog.item_id)
    assert core.catalog.item_categories.any(axis=0).all()
    assert core.catalog.popularity.tolist() == np.bincount(core.ratings.item_index).tolist()


pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=50, unique=True)


@settings(deadline=None)
@given(pairs=pairs, k=st.integers(1, 5))
def test_k_core_is_a_core_and_the_largest(pairs, k):
    user, item = (np.array([p[axis] for p in pairs], np.int64) for axis in (0, 1))
    keep = k_core(user, item, k)
    assert (np.bincount(user[keep])[user[keep]] >= k).all()
    assert (np.bincount(item[keep])[item[keep]] >= k).all()
    # Peeling one node at a time, in another order, ends at the same ratings.
    left = set(pairs)
    while True:
        users = [u for u in range(8) if 0 < sum(p[0] == u for p in left) < k]
        items = [i for i in range(8) if 0 < sum(p[1] == i for p in left) < k]
        if not users and not items:
            break
        left = {p for p in left if (p[0] != users[-1] if users else p[1] != items[-1])}
    assert {p for p, kept in zip(pairs, keep, strict=True) if kept} == left
