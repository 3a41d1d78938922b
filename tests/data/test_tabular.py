"""Ratings from CSV and Parquet: columns, guessed scales, and a table of bad inputs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsim_env.data.tabular import load_table
from recsim_env.errors import DataError, ScenarioError, UnknownNameError
from recsim_env.records import RatingScale
from recsim_env.scenario import Columns

HEAD = "user_id,item_id,rating,timestamp\n"
GOOD = HEAD + "b,10,4,3\na,9,1,2\na,10,5,1\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_defaults(tmp_path):
    data = load_table(write(tmp_path / "mine.csv", GOOD))
    assert data.name == "mine"
    assert data.user_id.tolist() == ["a", "b"]
    assert data.catalog.item_id.tolist() == ["9", "10"]  # numbers sort as numbers
    assert data.catalog.title.tolist() == ["9", "10"]
    assert data.ratings.user_index.tolist() == [1, 0, 0]
    assert data.ratings.item_index.tolist() == [1, 0, 1]
    assert data.ratings.rating.tolist() == [4, 1, 5]
    assert data.ratings.timestamp.tolist() == [3, 2, 1]
    assert data.catalog.popularity.tolist() == [1, 2]
    assert data.catalog.scale == RatingScale(1, 5, 1)
    assert data.catalog.item_categories.shape == (2, 0)


def test_columns_beside_the_ratings(tmp_path):
    text = 'who,what,stars,name,genre,plot\n1,x,0.5,"A, or B (1999)",Drama | War,"Two\nlines"\n1,y,3,C,,\n2,x,2.5,,,\n'
    columns = Columns(
        user="who", item="what", rating="stars", timestamp=None, title="name", categories="genre", text="plot"
    )
    data = load_table(write(tmp_path / "r.csv", text), columns)
    assert data.catalog.title.tolist() == ["A, or B", "C"]
    assert data.catalog.year.tolist() == [1999, 0]
    assert data.catalog.categories == ("Drama", "War")
    assert data.catalog.item_categories.tolist() == [[True, True], [False, False]]
    assert data.catalog.text.tolist() == ["Two\nlines", ""]
    assert data.ratings.timestamp.tolist() == [0, 1, 2]
    assert data.catalog.scale == RatingScale(0.5, 3, 0.5)


def test_items_file_gives_order_and_drops_the_unrated(tmp_path):
    items = write(tmp_path / "items.csv", "item_id,t,y\n10,Ten,2010\n7,Seven,\n9,Nine (1999),\n")
    data = load_table(write(tmp_path / "r.csv", GOOD), Columns(title="t", year="y"), items)
    assert data.catalog.item_id.tolist() == ["10", "9"]
    assert data.catalog.year.tolist() == [2010, 0]
    assert data.catalog.title.tolist() == ["Ten", "Nine (1999)"]  # the year has its own column


def test_parquet_equals_csv(tmp_path):
    csv = write(tmp_path / "r.csv", GOOD)
    frame = pd.read_csv(csv)
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], unit="s")
    frame["genre"] = [["War"], ["Drama", "War"], ["War"]]
    frame.to_parquet(tmp_path / "r.parquet")
    one, two = load_table(csv), load_table(tmp_path / "r.parquet", Columns(categories="genre"))
    assert two.user_id.tolist() == one.user_id.tolist()
    assert set(two.catalog.item_id) == set(one.catalog.item_id)
    assert two.ratings.rating.tolist() == one.ratings.rating.tolist()
    assert two.ratings.timestamp.tolist() == one.ratings.timestamp.tolist()
    assert two.catalog.categories == ("Drama", "War")


@pytest.mark.parametrize(
    ("text", "row", "message"),
    [
        (HEAD + "a,1,5,1\na,2,5\n", 3, "3 fields instead of 4"),
        (HEAD + "a,1,5,1\na,2,5,1,7\n", 3, "5 fields instead of 4"),
        (HEAD + "a,1,5,1\n\n\na,2,5\n", 5, "3 fields instead of 4"),
        (HEAD + "a,1,5,1\na,2,many,1\n", 3, "rating is 'many', not a number"),
        (HEAD + "a,1,5,1\na,2,,1\n", 3, "rating is '', not a number"),
        (HEAD + "a,1,5,1\n\na,2,nan,1\n", 4, "rating is 'nan', not a number"),
        (HEAD + 'a,1,5,1\n"a\nb",2,4,1\na,2,x,1\n', 5, "rating is 'x'"),
        (HEAD + "a,1,5,1\na,2,4,later\n", 3, "timestamp is 'later', not a number"),
        (HEAD + "a,1,5,1\na,2,4,inf\n", 3, "timestamp is inf, not a time"),
        (HEAD + "a,1,5,1\na,,4,1\n", 3, "item_id is empty"),
        (HEAD + "a,1,5,1\na,2,4,1\n\na,1,4,2\n", 5, "User 'a' rates item '1' again, after line 2"),
        (HEAD + "a,1,5,1\na,2,5,1\n", None, "Fewer than two different ratings"),
        (HEAD + "a,1,5,1\na,2,1,1\na,3,2.7,1\n", None, "do not lie on equal steps"),
        (HEAD, None, "no rows"),
        ("", None, "The file is empty"),
        ("user_id,item_id,rating,timestamp,rating\na,1,5,1,5\n", 1, "Column 'rating' stands there twice"),
    ],
)
def test_bad_csv_is_told_by_line(tmp_path, text, row, message):
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(DataError, match=message) as caught:
        load_table(path)
    assert caught.value.row == row
    assert caught.value.path == path


def test_given_scale_is_kept_and_enforced(tmp_path):
    path = write(tmp_path / "r.csv", GOOD)
    assert load_table(path, scale=(0, 10, 0.5)).catalog.scale == RatingScale(0, 10, 0.5)
    with pytest.raises(DataError, match="Rating 5 is off the scale 1 to 4 in steps of 1") as caught:
        load_table(path, scale=(1, 4, 1))
    assert caught.value.row == 4


@pytest.mark.parametrize("scale", [(5, 1, 1), (1, 5, 0), (1, 5, -1), (1, 5, 3), (1, 1, 1)])
def test_no_scale(tmp_path, scale):
    with pytest.raises(ScenarioError, match="is no scale"):
        load_table(write(tmp_path / "r.csv", GOOD), scale=scale)


def test_unknown_column_suggests(tmp_path):
    path = write(tmp_path / "r.csv", GOOD)
    with pytest.raises(UnknownNameError, match=r"r.csv has no column 'ratings'.*Did you mean 'rating'") as caught:
        load_table(path, Columns(rating="ratings"))
    assert caught.value.allowed == ["item_id", "rating", "timestamp", "user_id"]


def test_item_absent_from_the_items_file(tmp_path):
    items = write(tmp_path / "items.csv", "item_id\n10\n")
    with pytest.raises(DataError, match=r"Item '9' is not in .*items.csv") as caught:
        load_table(write(tmp_path / "r.csv", GOOD), items_path=items)
    assert caught.value.row == 3


def test_item_twice_in_the_items_file(tmp_path):
    items = write(tmp_path / "items.csv", "item_id\n10\n9\n10\n")
    with pytest.raises(DataError, match="item_id '10' stands there twice") as caught:
        load_table(write(tmp_path / "r.csv", GOOD), items_path=items)
    assert (caught.value.row, caught.value.path) == (4, items)


def test_bad_year(tmp_path):
    items = write(tmp_path / "items.csv", "item_id,y\n10,2010\n9,20105\n")
    with pytest.raises(DataError, match="y is 20105, not a year") as caught:
        load_table(write(tmp_path / "r.csv", GOOD), Columns(year="y"), items)
    assert caught.value.row == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "r.csv",
            "user_id,item_id,rating,timestamp\né,1,1,1\n".encode("latin-1"),
            "line 2: The file is not utf-8 text",
        ),
        ("r.parquet", b"nothing", "no readable Parquet file"),
        ("r.xlsx", b"", "Files ending in '.xlsx' are not read"),
    ],
)
def test_wrong_kind_of_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_table(tmp_path / name)


def test_absent_file(tmp_path):
    for name in ("r.csv", "r.parquet"):
        with pytest.raises(DataError, match="no such file"):
            load_table(tmp_path / name)


@st.composite
def events(draw):
    pairs = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=40, unique=True))
    return [(u, i, draw(st.integers(2, 10)) / 2, t) for t, (u, i) in enumerate(pairs)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=events(), order=st.randoms(use_true_random=False))
def test_indices_do_not_depend_on_the_order_of_rows(tmp_path, rows, order):
    def load(rows):
        text = HEAD + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in rows)
        data = load_table(write(tmp_path / "r.csv", text), scale=(1, 5, 0.5))
        columns = (data.ratings.user_index, data.ratings.item_index, data.ratings.rating, data.ratings.timestamp)
        return data, sorted(zip(*(c.tolist() for c in columns), strict=True))

    shuffled = list(rows)
    order.shuffle(shuffled)
    (one, events_one), (two, events_two) = load(rows), load(shuffled)
    assert one.user_id.tolist() == two.user_id.tolist() == [str(u) for u in sorted({r[0] for r in rows})]
    assert one.catalog.item_id.tolist() == two.catalog.item_id.tolist()
    assert events_one == events_two
    back = {(one.user_id[u], one.catalog.item_id[i], r, t) for u, i, r, t in events_one}
    assert back == {(str(u), str(i), r, t) for u, i, r, t in rows}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet='a1,.-"\n\r\x00é ', max_size=60))
def test_any_text_loads_or_is_refused_by_name(tmp_path, text):
    path = tmp_path / "r.csv"
    path.write_bytes((HEAD + text).encode())
    refused_at, data = None, None
    try:
        data = load_table(path, scale=(0, 10, 0.5))
    except DataError as error:
        refused_at = error.path
    assert refused_at == path if data is None else len(data.ratings) == np.sum(data.catalog.popularity) > 0
