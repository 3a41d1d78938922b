"""The description of a data set, by hand and on the built-in one."""

import json

import pytest

from recsim_env.data.describe import describe, render
from recsim_env.data.movielens import load_ml_1m, load_ml_100k
from recsim_env.data.movietweetings import load_movietweetings


def test_known_answer(ml_100k):
    data = load_ml_100k(ml_100k)
    assert describe(data) == {
        "name": "ml-100k",
        "users": 2,
        "items": 3,
        "ratings": 4,
        "density": pytest.approx(4 / 6),
        "scale": [1, 5, 1],
        "mean_rating": 3.25,
        "rating_shares": {"1": 0.25, "2": 0, "3": 0.25, "4": 0.25, "5": 0.25},
        "ratings_per_user": {"min": 1, "median": 2, "mean": 2, "max": 3},
        "ratings_per_item": {"min": 1, "median": 1, "mean": pytest.approx(4 / 3), "max": 2},
        "categories": {"unknown": 1, "Action": 1, "Drama": 2},
        "years": [1995, 2001],
        "times": ["1970-01-01", "1970-01-01"],
        "text_share": 0,
        "profile": {"gender": 2, "age": 2, "occupation": 2},
    }


def test_built_in_is_json_and_text():
    description = describe(load_movietweetings())
    assert json.loads(json.dumps(description)) == description
    assert description["times"] == ["2013-02-28", "2013-09-01"]
    assert sum(description["rating_shares"].values()) == pytest.approx(1)
    text = render(description)
    assert text.startswith("movietweetings: 44,613 ratings by 2,059 users of 1,099 items (1.97%)")
    assert "10 to 214, median 16, mean 21.7" in text
    assert "Drama               533" in text
    assert text.isascii()


def test_text_and_profile_are_counted(ml_1m):
    description = describe(load_ml_1m(ml_1m))
    assert description["text_share"] == 0.5
    assert "gender (2 values), age (2 values)" in render(description)


def test_no_ratings_at_all(ml_100k):
    data = load_ml_100k(ml_100k)
    description = describe(data.with_ratings(data.ratings.take(data.ratings.rating > 9)))
    assert (description["ratings"], description["mean_rating"], description["times"]) == (0, None, None)
    assert "unknown" in render(description)
