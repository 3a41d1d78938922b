"""The two MovieLens loaders, on small files and on the real ones."""

import time

import numpy as np
import pytest

from recsim_env.data.movielens import load_ml_1m, load_ml_100k
from recsim_env.errors import DataError
from recsim_env.records import RatingScale


def test_ml_100k_fields(ml_100k):
    data = load_ml_100k(ml_100k)
    assert data.user_id.tolist() == ["1", "2"]  # user 3 and film 4 have no rating
    assert data.catalog.item_id.tolist() == ["1", "2", "3"]
    assert data.catalog.title.tolist() == ["Amélie", "Heat (V)", "unknown"]
    assert data.catalog.year.tolist() == [2001, 1995, 0]
    assert data.catalog.categories == ("unknown", "Action", "Drama")
    assert data.catalog.item_categories.tolist() == [[False, False, True], [False, True, True], [True, False, False]]
    assert data.catalog.popularity.tolist() == [2, 1, 1]
    assert {name: values.tolist() for name, values in data.profile.items()} == {
        "gender": ["male", "female"],
        "age": ["24", "53"],
        "occupation": ["writer", "other"],
    }
    assert data.ratings.user_index.tolist() == [1, 0, 0, 0]
    assert data.ratings.item_index.tolist() == [0, 0, 1, 2]
    assert data.ratings.rating.tolist() == [5, 4, 1, 3]
    assert data.ratings.timestamp.tolist() == [10, 30, 20, 20]
    assert data.histories().items.tolist() == [1, 2, 0, 0]


def test_ml_1m_fields(ml_1m):
    data = load_ml_1m(ml_1m)
    assert data.catalog.title.tolist() == ["Amélie: the film", "Heat"]
    assert data.catalog.year.tolist() == [2001, 1995]
    assert data.catalog.categories == ("Action", "Comedy", "Romance")
    assert data.catalog.text.tolist() == [
        "Directed by J.-P. Jeunet. With A. Tautou, M. Kassovitz. She: a “dreamer”.",
        "",
    ]
    assert {name: values.tolist() for name, values in data.profile.items()} == {
        "gender": ["female", "male"],
        "age": ["under 18", "56 or older"],
        "occupation": ["K-12 student", "self-employed"],
    }
    assert data.catalog.scale == RatingScale(1, 5, 1)


def test_ml_1m_without_plots(ml_1m):
    (ml_1m / "movies_extrainfos.dat").unlink()
    assert load_ml_1m(ml_1m).catalog.text.tolist() == ["", ""]


@pytest.mark.parametrize(
    ("file", "content", "row", "message"),
    [
        ("u.data", "1\t1\t5\t10\n1\t2\t5\n", 2, "3 fields instead of 4: '1 2 5'"),
        ("u.data", "1\t1\t5\t10\n\n1\t2\t5\t1\n", 2, "line 2: rating is '', not a number"),
        ("u.data", "1\t1\t5\t10\n1\t2\tgood\t1\n", 2, "rating is 'good', not a number"),
        ("u.data", "1\t1\t5\t10\n1\t2\tnan\t1\n", 2, "rating is 'nan', not a number"),
        ("u.data", "1\t1\t5\t10\n1\t2\t\t1\n", 2, "rating is '', not a number"),
        ("u.data", "1\t1\t5\t10\n1\t2\t6\t1\n", 2, "Rating 6 is off the scale 1 to 5 in steps of 1"),
        ("u.data", "1\t1\t5\t10\n1\t2\t3.5\t1\n", 2, "Rating 3.5 is off the scale"),
        ("u.data", "1\t1\t5\t10\n1\t2\tinf\t1\n", 2, "Rating inf is off the scale"),
        ("u.data", "1\t1\t5\t10\n1\t2\t5\tnoon\n", 2, "timestamp is 'noon', not a number"),
        ("u.data", "1\t1\t5\t10\n1\t1\t4\t20\n", 2, "User '1' rates item '1' again, after line 1"),
        ("u.data", "1\t1\t5\t10\n1\t9\t4\t20\n", 2, "Item '9' is not in .*u.item"),
        ("u.data", "1\t1\t5\t10\n9\t1\t4\t20\n", 2, "User '9' is not in .*u.user"),
        ("u.data", "1\t1\t5\t10\n\t2\t4\t20\n", 2, "user is empty"),
        ("u.data", "", None, "The file is empty"),
        ("u.user", "1|24|M|writer|1\n2|53|X|other|2\n", 2, "gender is 'X'; allowed: F, M"),
        ("u.user", "1|24|M|writer|1\n1|53|F|other|2\n", 2, "user '1' stands there twice"),
        ("u.item", "1|Heat (1995)|x|||0|1\n", 1, "7 fields instead of 8"),
    ],
)
def test_broken_files_are_told_by_line(ml_100k, file, content, row, message):
    (ml_100k / file).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_ml_100k(ml_100k)
    assert caught.value.row == row
    assert caught.value.path == ml_100k / file
    assert str(ml_100k / file) in str(caught.value)


@pytest.mark.parametrize("file", ["u.data", "u.item", "u.user", "u.genre"])
def test_absent_file(ml_100k, file):
    (ml_100k / file).unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        load_ml_100k(ml_100k)
    assert caught.value.path == ml_100k / file


def test_broken_double_colon_line(ml_1m):
    (ml_1m / "ratings.dat").write_text("1::20::5::300\n1::10::4::100\n2:10::3::200\n")
    with pytest.raises(DataError, match="3 fields instead of 4: '2:10 3 200'") as caught:
        load_ml_1m(ml_1m)
    assert caught.value.row == 3


def test_unknown_code(ml_1m):
    (ml_1m / "users.dat").write_text("1::F::1::10::48067\n2::M::56::99::70072\n")
    with pytest.raises(DataError, match="occupation is '99'; allowed: 0, 1, ") as caught:
        load_ml_1m(ml_1m)
    assert caught.value.row == 2


def test_plots_of_other_films_are_refused(ml_1m):
    (ml_1m / "movies_extrainfos.dat").write_text("::".join(["99", *"abcdefghij"]) + "\n")
    with pytest.raises(DataError, match=r"No film of movies\.dat is described here"):
        load_ml_1m(ml_1m)


def test_plots_in_another_encoding_are_refused(ml_1m):
    text = "::".join(["10", *"abcdefghi", "é"])
    (ml_1m / "movies_extrainfos.dat").write_bytes(b"::".join([b"20", *[b"x"] * 10]) + b"\n" + text.encode("latin-1"))
    with pytest.raises(DataError, match="not utf-8 text") as caught:
        load_ml_1m(ml_1m)
    assert caught.value.row == 2


@pytest.mark.realdata
def test_real_ml_100k(real):
    data = load_ml_100k(real("ml-100k"))
    assert (data.n_users, data.n_items, len(data.ratings)) == (943, 1682, 100_000)
    assert data.catalog.categories[0] == "unknown"
    assert data.catalog.n_categories == 19
    assert np.bincount(data.ratings.rating.astype(int)).tolist() == [0, 6110, 11370, 27145, 34174, 21201]
    assert set(data.profile["gender"]) == {"female", "male"}


@pytest.mark.realdata
def test_real_ml_1m_is_fast_and_whole(real):
    start = time.perf_counter()
    data = load_ml_1m(real("ml-1m"))
    assert time.perf_counter() - start < 20  # about 1.5 s alone
    assert (data.n_users, data.n_items, len(data.ratings)) == (6040, 3706, 1_000_209)
    assert np.bincount(data.ratings.rating.astype(int)).tolist() == [0, 56174, 107557, 261197, 348971, 226310]
    assert data.catalog.n_categories == 18
    assert (data.catalog.text != "").mean() > 0.99
    assert (data.catalog.year >= 1919).all()
    order = np.lexsort((data.ratings.timestamp, data.ratings.user_index))
    assert (order == np.arange(len(order))).all()  # this copy's rows already stand in time order
