"""Ratings of your own, in a CSV or Parquet file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsim_env.data.assemble import Items, assemble
from recsim_env.data.reading import Table, read_csv, read_parquet
from recsim_env.errors import DataError, ScenarioError
from recsim_env.records import Dataset, IntArray, RatingScale, TextArray
from recsim_env.scenario import Columns

_READERS = {".csv": read_csv, ".parquet": read_parquet}


def load_table(
    path: Path,
    columns: Columns | None = None,
    items_path: Path | None = None,
    scale: tuple[float, float, float] | None = None,
    name: str | None = None,
) -> Dataset:
    """Ratings from a CSV (UTF-8, comma, header) or Parquet file.

    What is known about items (title, categories separated by ``|``, year, text) is read from ``items_path`` if given,
    else from each item's first row of the ratings. A year in brackets at the end of a title becomes the release year
    unless a column names it.

    Args:
        path: The ratings, one per row.
        columns: Names of the columns; None takes the defaults, where a file without ``timestamp`` must say so.
        items_path: A file with one row per item. Every rated item must stand in it.
        scale: (low, high, step); None guesses it from the ratings.
        name: Name of the data set; None takes the file's.

    Raises:
        DataError: If a file is absent, a line is broken, or a rating is off the scale or stands twice.
        UnknownNameError: If a column does not exist.
        ScenarioError: If ``scale`` is none.
    """
    columns = columns or Columns()
    table = _read(path)
    if items_path is None:
        items = _items(table, columns, _first_rows(table.text(columns.item))) if _describes(columns) else None
    else:
        described = _read(items_path)
        items = _items(described, columns, np.arange(len(described)))
    names = (columns.user, columns.item, columns.rating, columns.timestamp)
    return assemble(name or path.stem, table, names, _checked(scale), items)


def _read(path: Path) -> Table:
    if path.suffix not in _READERS:
        remedy = "Give a .csv or .parquet file."
        raise DataError(f"Files ending in {path.suffix!r} are not read here.", path, remedy=remedy)
    table = _READERS[path.suffix](path)
    if not len(table):
        raise DataError("The file has no rows.", path, remedy="Give a file with one row per rating or item.")
    return table


def _describes(columns: Columns) -> bool:
    return any((columns.title, columns.categories, columns.year, columns.text))


def _first_rows(values: TextArray) -> IntArray:
    return np.sort(np.unique(values.astype(str), return_index=True)[1])


def _items(table: Table, columns: Columns, rows: IntArray) -> Items:
    """Items out of some rows of a table."""
    whole = len(rows) == len(table)
    item_id = table.ids(columns.item) if whole else table.text(columns.item)
    empty = np.full(len(rows), "", object)
    categories = table.text(columns.categories, required=False)[rows] if columns.categories else empty
    year = None
    if columns.year:
        values = np.nan_to_num(table.numbers(columns.year, required=False)[rows])
        bad = np.flatnonzero((values < 0) | (values > 9999) | (values != np.round(values)))
        if bad.size:
            message = f"{columns.year} is {values[bad[0]]:g}, not a year."
            raise table.broken(int(rows[bad[0]]), message, "Correct it; 0 is unknown.")
        year = values.astype(np.int16)
    return Items(
        item_id=item_id[rows],
        title=table.text(columns.title, required=False)[rows] if columns.title else item_id[rows],
        categories=[[name.strip() for name in text.split("|")] for text in categories],
        year=year,
        text=table.text(columns.text, required=False)[rows] if columns.text else None,
        source=table.path,
    )


def _checked(scale: tuple[float, float, float] | None) -> RatingScale | None:
    if scale is None:
        return None
    low, high, step = scale
    steps = (high - low) / step if step > 0 else 0.0
    if not (low < high and steps >= 1 and abs(steps - round(steps)) < 1e-6):
        message = f"data.scale: {list(scale)} is no scale; write [low, high, step], for example [1, 5, 0.5]."
        raise ScenarioError(message)
    return RatingScale(low, high, step)
