"""From a scenario's ``data`` section to a data set."""

from __future__ import annotations

from pathlib import Path

from recsim_env.data.kcore import keep_core
from recsim_env.data.movielens import load_ml_1m, load_ml_100k
from recsim_env.data.tabular import load_table
from recsim_env.errors import DataError
from recsim_env.records import Dataset
from recsim_env.registry import datasets
from recsim_env.scenario import Data

_KNOWN = "Known are folders with u.data (ml-100k) or ratings.dat and movies.dat (ml-1m), and .csv and .parquet files."


def load_dataset(data: Data) -> Dataset:
    """The data set that a scenario names, cut to its k-core if it says so.

    Args:
        data: The section; ``path`` goes before ``name``.

    Raises:
        UnknownNameError: If no data set has that name.
        DataError: If the path is absent, its format is unknown, or its files are broken.
    """
    if data.path is None:
        loaded: Dataset = datasets.get(data.name, "data.name")()
    else:
        loaded = _load_path(data.path, data)
    return keep_core(loaded, data.min_ratings) if data.min_ratings else loaded


def guess_format(path: Path) -> str:
    """Format of a path, told by the names of its files: ml-100k, ml-1m, csv or parquet.

    Raises:
        DataError: If the path is absent or looks like none of them.
    """
    if not path.exists():
        raise DataError("There is no such file or folder.", path, remedy="Check data.path.")
    if (path / "u.data").is_file():
        return "ml-100k"
    if (path / "ratings.dat").is_file() and (path / "movies.dat").is_file():
        return "ml-1m"
    if path.is_file() and path.suffix in (".csv", ".parquet"):
        return path.suffix.removeprefix(".")
    raise DataError("The format cannot be told from the files.", path, remedy=_KNOWN)


def _load_path(path: Path, data: Data) -> Dataset:
    guessed = guess_format(path) if data.format is None else data.format
    if not path.exists():
        raise DataError("There is no such file or folder.", path, remedy="Check data.path.")
    if path.is_dir() != guessed.startswith("ml-"):
        found, needed = ("folder", "file") if path.is_dir() else ("file", "folder")
        raise DataError(f"Format {guessed!r} needs a {needed}, this is a {found}.", path, remedy=_KNOWN)
    if guessed == "ml-100k":
        return load_ml_100k(path)
    if guessed == "ml-1m":
        return load_ml_1m(path)
    return load_table(path, data.columns, data.items_path, data.scale)
