"""Saved recommenders: a JSON file with the configuration and one ``.npz`` file with the learned arrays. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsim_env.errors import RecsimError
from recsim_env.records import Catalog, RatingScale

Arrays = dict[str, NDArray[Any]]


def write_state(folder: Path, kind: str, meta: Mapping[str, Any], arrays: Arrays) -> None:
    """Writes a recommender.

    Args:
        folder: An existing folder.
        kind: Name of the recommender's class, checked when it is read.
        meta: Plain data: configuration, version and the like.
        arrays: Learned arrays by name; none may hold objects.
    """
    assert not any(array.dtype.hasobject for array in arrays.values()), "objects would need pickle"
    text = json.dumps({"recommender": kind, **meta}, indent=2, sort_keys=True)
    (folder / "recommender.json").write_text(text + "\n", encoding="utf-8")
    np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]


def read_state(folder: Path, kind: str) -> tuple[dict[str, Any], Arrays]:
    """Reads what :func:`write_state` wrote.

    Raises:
        RecsimError: If the folder holds no saved recommender, or one of another kind.
    """
    try:
        meta = json.loads((folder / "recommender.json").read_text(encoding="utf-8"))
        with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise RecsimError(f"{folder} holds no saved recommender ({error}). Give a folder that save() wrote.") from None
    if meta.get("recommender") != kind:
        raise RecsimError(f"{folder} holds a {meta.get('recommender')}, not a {kind}. Load it with its own class.")
    return meta, arrays


def sparse_arrays(matrix: sparse.csr_array) -> Arrays:
    """A sparse square matrix as arrays for :func:`write_state`."""
    return {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}


def sparse_from(arrays: Mapping[str, NDArray[Any]]) -> sparse.csr_array:
    """The square matrix that :func:`sparse_arrays` took apart."""
    n = len(arrays["indptr"]) - 1
    return sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(n, n))


def write_catalog(path: Path, catalog: Catalog) -> None:
    """Writes a catalogue as arrays without objects."""
    scale = catalog.scale
    np.savez(
        path, item_id=catalog.item_id.astype(str), title=catalog.title.astype(str), text=catalog.text.astype(str),
        categories=np.array(catalog.categories, str), item_categories=catalog.item_categories, year=catalog.year,
        popularity=catalog.popularity, scale=np.array([scale.low, scale.high, scale.step]),
    )  # fmt: skip


def read_catalog(path: Path) -> Catalog:
    """Reads what :func:`write_catalog` wrote.

    Raises:
        RecsimError: If the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            a = {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise RecsimError(f"{path} holds no catalogue ({error}). Give a folder that save() wrote.") from None
    words = {name: a[name].astype(object) for name in ("item_id", "title", "text")}
    return Catalog(
        **words, categories=tuple(a["categories"].tolist()), item_categories=a["item_categories"], year=a["year"],
        popularity=a["popularity"], scale=RatingScale(*map(float, a["scale"])),
    )  # fmt: skip
