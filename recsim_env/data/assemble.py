"""Puts a data set together from raw columns, and refuses ratings that cannot be right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsim_env.data.reading import Table
from recsim_env.errors import DataError
from recsim_env.records import Catalog, Dataset, IntArray, Ratings, RatingScale, TextArray

_YEAR = re.compile(r"\s*\((\d{4})\)(?=\s*(?:\([^)]*\)\s*)?$)")


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """What a file says about items.

    Attributes:
        item_id: str objects (I,), each once.
        title: str objects (I,), with or without the year in brackets.
        categories: Category names of each item, I entries.
        year: int (I,), 0 where unknown; None reads it from the titles.
        text: str objects (I,), or None.
        category_order: All category names in their order; None sorts those that occur.
        source: The file that holds them, for error messages.
    """

    item_id: TextArray
    title: TextArray
    categories: Sequence[Sequence[str]]
    year: NDArray[np.int16] | None = None
    text: TextArray | None = None
    category_order: Sequence[str] | None = None
    source: object = None

    def catalog(self, kept: IntArray, scale: RatingScale, popularity: NDArray[np.int64]) -> Catalog:
        """The catalogue of some items, in that order; the year moves from the title to its own field."""
        year, title = self.year, self.title
        if year is None:
            title, year = split_years(title)
        names = [[c for c in self.categories[i] if c] for i in kept]
        order = list(self.category_order or sorted({c for row in names for c in row}))
        column = {name: c for c, name in enumerate(order)}
        member = np.zeros((len(kept), len(order)), np.bool_)
        for i, row in enumerate(names):
            member[i, [column[c] for c in row]] = True
        used = np.flatnonzero(member.any(axis=0))
        return Catalog(
            item_id=self.item_id[kept],
            title=title[kept],
            categories=tuple(order[c] for c in used),
            item_categories=member[:, used],
            text=np.full(len(kept), "", object) if self.text is None else self.text[kept],
            year=year[kept],
            popularity=popularity,
            scale=scale,
        )


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """What a file says about users: ids str objects (U,), each once, and features by name, str objects (U,)."""

    user_id: TextArray
    profile: Mapping[str, TextArray] = field(default_factory=dict)
    source: object = None


def split_years(titles: TextArray) -> tuple[TextArray, NDArray[np.int16]]:
    """Takes the year out of titles such as ``"Toy Story (1995)"``; where there is none it is 0."""
    years = np.zeros(len(titles), np.int16)
    plain = titles.copy()
    for i, title in enumerate(titles):
        if found := _YEAR.search(title):
            years[i] = int(found[1])
            plain[i] = (title[: found.start()] + title[found.end() :]).strip()
    return plain, years


def assemble(
    name: str,
    table: Table,
    columns: tuple[str, str, str, str | None],
    scale: RatingScale | None,
    items: Items | None = None,
    people: People | None = None,
) -> Dataset:
    """A data set out of a table of ratings and what is known about items and users.

    Items and users without a rating are left out. The order is that of ``items`` and ``people``; where these are
    not given, ids are sorted (as numbers if all are).

    Args:
        name: Name of the data set.
        table: The ratings.
        columns: Its columns of users, items, ratings and times; without times the order of rows is the time.
        scale: The rating scale; None guesses it.
        items: The items.
        people: The users.

    Raises:
        DataError: If a rating is off the scale, stands twice, or speaks of an unknown item or user.
    """
    user, item, rating, time = columns
    values = table.numbers(rating)
    if scale is None:
        scale = guess_scale(table, values)
    _refuse_off_scale(table, values, scale)
    if people is None:
        user_index, user_id = _sorted_index(table.text(user))
        people = People(user_id)
    else:
        user_index = _known_index(table, table.text(user), "User", people.user_id, people.source)
    if items is None:
        item_index, item_id = _sorted_index(table.text(item))
        items = Items(item_id, item_id, [()] * len(item_id), np.zeros(len(item_id), np.int16))
    else:
        item_index = _known_index(table, table.text(item), "Item", items.item_id, items.source)
    _refuse_twice(table, user_index, item_index, people, items)
    seconds = np.arange(len(table), dtype=np.int64) if time is None else _seconds(table, time)
    # Users and items without a rating leave, the others close ranks.
    users, user_index = np.unique(user_index, return_inverse=True)
    kept, item_index = np.unique(item_index, return_inverse=True)
    ratings = Ratings(
        user_index.astype(np.int32), item_index.astype(np.int32), values.astype(np.float32), seconds
    )  # fmt: skip
    return Dataset(
        name=name,
        catalog=items.catalog(kept, scale, np.bincount(item_index, minlength=len(kept)).astype(np.int64)),
        user_id=people.user_id[users],
        profile={feature: values[users] for feature, values in people.profile.items()},
        ratings=ratings,
    )


def guess_scale(table: Table, values: NDArray[np.float64]) -> RatingScale:
    """Smallest and largest rating and the smallest step between two.

    Raises:
        DataError: If that is no scale: one level only, more than 101, or levels that do not lie on equal steps.
    """
    levels = np.unique(values[np.isfinite(values)])
    remedy = "Give data.scale as [low, high, step], for example [1, 5, 0.5]."
    if len(levels) < 2:
        raise DataError("Fewer than two different ratings: the scale cannot be guessed.", table.path, remedy=remedy)
    low, high, step = float(levels[0]), float(levels[-1]), float(np.diff(levels).min())
    scale = RatingScale(low, high, round(step, 6))
    if (high - low) / step > 100.5 or not scale.on_scale(levels).all():
        message = f"Ratings from {low:g} to {high:g} do not lie on equal steps: the scale cannot be guessed."
        raise DataError(message, table.path, remedy=remedy)
    return scale


def _refuse_off_scale(table: Table, values: NDArray[np.float64], scale: RatingScale) -> None:
    on_scale = scale.on_scale(np.where(np.isfinite(values), values, scale.low - scale.step))
    if not on_scale.all():
        row = int(np.argmin(on_scale))
        allowed = f"{scale.low:g} to {scale.high:g} in steps of {scale.step:g}"
        raise table.broken(row, f"Rating {values[row]:g} is off the scale {allowed}.", "Correct it, or data.scale.")


def _refuse_twice(table: Table, user: IntArray, item: IntArray, people: People, items: Items) -> None:
    pair = pd.Series(user * len(items.item_id) + item)
    again = pair.duplicated().to_numpy()
    if again.any():
        row = int(np.argmax(again))
        first = table.line(int(np.argmax(pair.to_numpy() == pair.iloc[row])))
        who, what = people.user_id[user[row]], items.item_id[item[row]]
        message = f"User {who!r} rates item {what!r} again, after line {first}."
        raise table.broken(row, message, "Keep one rating of each user and item.")


def _sorted_index(values: TextArray) -> tuple[IntArray, TextArray]:
    """Row number of each value among the sorted values, and these; numbers sort as numbers if all are."""
    codes, found = pd.factorize(values)
    numeric = all(value.isdecimal() for value in found)
    order = sorted(range(len(found)), key=lambda i: (int(found[i]) if numeric else 0, found[i]))
    place = np.empty(len(found), np.int64)
    place[order] = np.arange(len(found))
    return place[codes], np.asarray(found, object)[order]


def _known_index(table: Table, values: TextArray, kind: str, known: TextArray, source: object) -> IntArray:
    """Row number of each value in the known ids."""
    codes, found = pd.factorize(values)
    row_of = {name: i for i, name in enumerate(known)}
    index = np.array([row_of.get(value, -1) for value in found], np.int64)[codes]
    if (index < 0).any():
        row = int(np.argmin(index))
        raise table.broken(row, f"{kind} {values[row]!r} is not in {source}.", "Add it there, or remove the line.")
    return index


def _seconds(table: Table, column: str) -> NDArray[np.int64]:
    seconds = table.numbers(column)
    if not np.isfinite(seconds).all():
        row = int(np.argmin(np.isfinite(seconds)))
        raise table.broken(row, f"{column} is {seconds[row]}, not a time in seconds.")
    return np.round(seconds).astype(np.int64)
