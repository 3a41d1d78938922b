"""The k-core of ratings: users and items with at least k ratings each, among themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recsim_env.errors import DataError
from recsim_env.records import BoolArray, Dataset, IntArray, Ratings


def k_core(user_index: IntArray, item_index: IntArray, k: int) -> BoolArray:
    """Which ratings belong to the k-core (Seidman, "Network structure and minimum degree", Social Networks 1983).

    Leaving out a user's ratings takes ratings from items and the other way round, so it is repeated until nothing
    changes; the result does not depend on the order.

    Args:
        user_index: int (R,).
        item_index: int (R,).
        k: Least number of ratings.

    Returns:
        bool (R,).
    """
    keep = np.ones(len(user_index), np.bool_)
    while True:
        by_user = np.bincount(user_index[keep], minlength=1 + int(user_index.max(initial=0)))
        by_item = np.bincount(item_index[keep], minlength=1 + int(item_index.max(initial=0)))
        smaller = keep & (by_user[user_index] >= k) & (by_item[item_index] >= k)
        if smaller.sum() == keep.sum():
            return keep
        keep = smaller


def keep_core(dataset: Dataset, k: int) -> Dataset:
    """The data set of the k-core; users, items and categories that are left without ratings leave it too.

    Raises:
        DataError: If nothing is left.
    """
    ratings = dataset.ratings.take(k_core(dataset.ratings.user_index, dataset.ratings.item_index, k))
    if not len(ratings):
        message = f"No user and item of {dataset.name!r} have {k} ratings each among themselves."
        raise DataError(message, remedy="Lower data.min_ratings.")
    users, user_index = np.unique(ratings.user_index, return_inverse=True)
    items, item_index = np.unique(ratings.item_index, return_inverse=True)
    old = dataset.catalog
    used = np.flatnonzero(old.item_categories[items].any(axis=0))
    catalog = replace(
        old,
        item_id=old.item_id[items],
        title=old.title[items],
        categories=tuple(old.categories[c] for c in used),
        item_categories=old.item_categories[np.ix_(items, used)],
        text=old.text[items],
        year=old.year[items],
    )
    smaller = replace(
        dataset,
        catalog=catalog,
        user_id=dataset.user_id[users],
        profile={name: values[users] for name, values in dataset.profile.items()},
    )
    renumbered = Ratings(user_index.astype(np.int32), item_index.astype(np.int32), ratings.rating, ratings.timestamp)
    return smaller.with_ratings(renumbered)
