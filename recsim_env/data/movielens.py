"""MovieLens 100K and 1M (Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 2015).

The folders are downloaded from https://grouplens.org/datasets/movielens and read as they are; GroupLens does not
allow them to be passed on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsim_env.data.assemble import Items, People, assemble
from recsim_env.data.reading import Table, read_delimited
from recsim_env.errors import DataError
from recsim_env.records import Dataset, RatingScale, TextArray

_STARS = RatingScale(1.0, 5.0, 1.0)
_RATING = ("user", "item", "rating", "timestamp")
_GENDER = {"F": "female", "M": "male"}
_AGE = {
    "1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55", "56": "56 or older",
}  # fmt: skip
_OCCUPATION = dict(
    enumerate(
        (
            "other or not specified", "academic/educator", "artist", "clerical/admin", "college/grad student",
            "customer service", "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student",
            "lawyer", "programmer", "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer",
            "tradesman/craftsman", "unemployed", "writer",
        )
    )
)  # fmt: skip


def load_ml_100k(folder: Path) -> Dataset:
    """MovieLens 100K: 100,000 ratings of 1-5, 943 users, 1,682 films.

    Args:
        folder: Holds ``u.data``, ``u.item``, ``u.user`` and ``u.genre``.

    Returns:
        The data set with the profile features gender, age (years, as text) and occupation.

    Raises:
        DataError: If a file is absent or a line is broken.
    """
    genres = list(read_delimited(folder / "u.genre", "|", ("name", "number"), "latin-1").text("name"))
    about = ("item", "title", "release", "video", "url")
    films = read_delimited(folder / "u.item", "|", (*about, *genres), "latin-1")
    member = np.column_stack([_flags(films, genre) for genre in genres])
    items = Items(
        item_id=films.ids("item"),
        title=films.text("title"),
        categories=[[genres[c] for c in np.flatnonzero(row)] for row in member],
        category_order=genres,
        source=films.path,
    )
    users = read_delimited(folder / "u.user", "|", ("user", "age", "gender", "occupation", "zip"), "latin-1")
    profile = {
        "gender": _decoded(users, "gender", _GENDER),
        "age": users.text("age"),
        "occupation": users.text("occupation"),
    }
    people = People(users.ids("user"), profile, users.path)
    return assemble("ml-100k", read_delimited(folder / "u.data", "\t", _RATING), _RATING, _STARS, items, people)


def load_ml_1m(folder: Path) -> Dataset:
    """MovieLens 1M: 1,000,209 ratings of 1-5, 6,040 users, 3,706 rated films.

    Args:
        folder: Holds ``ratings.dat``, ``movies.dat`` and ``users.dat``, and may hold ``movies_extrainfos.dat`` with
            directors, casts and plots (UTF-8, 11 fields): these become ``Catalog.text``.

    Returns:
        The data set with the profile features gender, age (a range of years) and occupation.

    Raises:
        DataError: If a file is absent or a line is broken.
    """
    films = read_delimited(folder / "movies.dat", "::", ("item", "title", "genres"), "latin-1")
    item_id = films.ids("item")
    items = Items(
        item_id=item_id,
        title=films.text("title"),
        categories=[row.split("|") for row in films.text("genres", required=False)],
        text=_plots(folder / "movies_extrainfos.dat", item_id),
        source=films.path,
    )
    users = read_delimited(folder / "users.dat", "::", ("user", "gender", "age", "occupation", "zip"), "latin-1")
    profile = {
        "gender": _decoded(users, "gender", _GENDER),
        "age": _decoded(users, "age", _AGE),
        "occupation": _decoded(users, "occupation", {str(code): name for code, name in _OCCUPATION.items()}),
    }
    people = People(users.ids("user"), profile, users.path)
    return assemble("ml-1m", read_delimited(folder / "ratings.dat", "::", _RATING), _RATING, _STARS, items, people)


def _flags(films: Table, genre: str) -> TextArray:
    return np.asarray(films.text(genre) == "1")


def _decoded(table: Table, name: str, meaning: dict[str, str]) -> TextArray:
    values = table.text(name)
    unknown = [i for i, value in enumerate(values) if value not in meaning]
    if unknown:
        allowed = ", ".join(meaning)
        raise table.broken(unknown[0], f"{name} is {values[unknown[0]]!r}; allowed: {allowed}.")
    return np.array([meaning[value] for value in values], object)


def _plots(path: Path, item_id: TextArray) -> TextArray | None:
    """One text per item, "" where the file has none; None without the file."""
    if not path.is_file():
        return None
    names = (
        "item", "title", "year", "rated", "released", "genres", "director", "writer", "cast", "plot", "poster",
    )  # fmt: skip
    table = read_delimited(path, "::", names)
    text = {}
    parts = (table.text(column, required=False) for column in ("director", "cast", "plot"))
    for item, director, cast, plot in zip(table.text("item"), *parts, strict=True):
        text[item] = " ".join(
            words.format(value)
            for words, value in (("Directed by {}.", director), ("With {}.", cast), ("{}", plot))
            if value not in ("", "N/A")
        )
    if not text.keys() & set(item_id):
        raise DataError("No film of movies.dat is described here.", path, remedy="Remove the file or correct its ids.")
    return np.array([text.get(item, "") for item in item_id], object)
