"""The built-in data set, and the script that makes it."""

import importlib.util
from importlib import resources

import numpy as np
import pyarrow.parquet as pa_parquet
import pytest

from recsim_env.data.kcore import k_core
from recsim_env.data.movietweetings import load_movietweetings
from recsim_env.records import RatingScale
from recsim_env.registry import datasets


def test_counts_and_scale():
    data = load_movietweetings()
    assert (len(data.ratings), data.n_users, data.n_items) == (44_613, 2_059, 1_099)
    assert data.catalog.scale == RatingScale(0, 10, 1)
    assert data.catalog.scale.on_scale(data.ratings.rating).all()
    assert set(data.ratings.rating) == set(range(11))


def test_it_is_a_ten_core_without_doubles():
    ratings = load_movietweetings().ratings
    assert k_core(ratings.user_index, ratings.item_index, 10).all()
    pairs = set(zip(ratings.user_index.tolist(), ratings.item_index.tolist(), strict=True))
    assert len(pairs) == len(ratings)


def test_catalog_fields():
    catalog = load_movietweetings().catalog
    row = catalog.title.tolist().index("Citizen Kane")
    assert catalog.item_id[row] == "0033467"
    assert catalog.year[row] == 1941
    assert [c for c, has in zip(catalog.categories, catalog.item_categories[row], strict=True) if has] == [
        "Drama",
        "Mystery",
    ]
    assert ((catalog.year >= 1900) & (catalog.year <= 2013)).all()
    assert not any("(" in title and title.endswith(")") and title[-5:-1].isdigit() for title in catalog.title)
    assert catalog.popularity.sum() == 44_613
    assert len(set(catalog.item_id)) == catalog.n_items
    assert catalog.item_categories.any(axis=0).all()


def test_registered():
    assert datasets.get("movietweetings") is load_movietweetings
    assert datasets.summary("movietweetings").startswith("MovieTweetings")


def test_the_licence_stands_beside_the_data():
    text = (resources.files("recsim_env.data") / "builtin" / "LICENSE-movietweetings").read_text(encoding="utf-8")
    for part in ("The MIT License", "Copyright (c) 2013 Simon Dooms", "sidooms/MovieTweetings", "CrowdRec", "100K"):
        assert part in text


def test_no_twitter_ids():
    ratings = pa_parquet.read_table(resources.files("recsim_env.data") / "builtin" / "ratings.parquet")
    assert ratings.column_names == ["user", "item", "rating", "timestamp"]
    assert max(ratings["user"].to_pylist()) <= 16_554  # the snapshot's own numbers


@pytest.mark.realdata
def test_the_script_makes_these_files(real, tmp_path, request):
    path = request.config.rootpath / "scripts" / "make_builtin_data.py"
    spec = importlib.util.spec_from_file_location("make_builtin_data", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(real("movietweetings-100k"), tmp_path)
    shipped = resources.files("recsim_env.data") / "builtin"
    for name in ("ratings.parquet", "items.parquet"):
        assert pa_parquet.read_table(tmp_path / name).equals(pa_parquet.read_table(shipped / name))
    made = (tmp_path / "LICENSE-movietweetings").read_text(encoding="utf-8")
    assert made == (shipped / "LICENSE-movietweetings").read_text(encoding="utf-8")
    assert len(np.unique(pa_parquet.read_table(tmp_path / "ratings.parquet")["user"].to_numpy())) == 2_059
