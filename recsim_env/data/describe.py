"""Describes a data set in figures: what 'recsim-env data' shows and reports quote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recsim_env.records import Catalog, Dataset, IntArray


def describe(dataset: Dataset) -> dict[str, object]:
    """Figures of a data set, as plain data that JSON can hold.

    Returns:
        ``name``, ``users``, ``items``, ``ratings``, ``density`` (share of all pairs that are rated), ``scale`` (low,
        high, step), ``mean_rating``, ``rating_shares`` (level to share of the ratings), ``ratings_per_user`` and
        ``ratings_per_item`` (min, median, mean, max), ``categories`` (name to number of items), ``years`` (first and
        last, None if unknown), ``times`` (first and last day, ISO), ``text_share`` (items with a longer text) and
        ``profile`` (feature to number of different values).
    """
    ratings, catalog = dataset.ratings, dataset.catalog
    n = max(len(ratings), 1)
    scale = catalog.scale
    level = np.round((ratings.rating - scale.low) / scale.step).astype(np.int64)
    shares = np.bincount(level, minlength=len(scale.levels)) / n
    return {
        "name": dataset.name,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "ratings": len(ratings),
        "density": len(ratings) / max(dataset.n_users * dataset.n_items, 1),
        "scale": [scale.low, scale.high, scale.step],
        "mean_rating": float(ratings.rating.mean(dtype=np.float64)) if len(ratings) else None,
        "rating_shares": {f"{at:g}": float(share) for at, share in zip(scale.levels, shares, strict=True)},
        "ratings_per_user": _spread(np.bincount(ratings.user_index, minlength=dataset.n_users)),
        "ratings_per_item": _spread(np.bincount(ratings.item_index, minlength=dataset.n_items)),
        "categories": dict(zip(catalog.categories, catalog.item_categories.sum(axis=0).tolist(), strict=True)),
        "years": _years(catalog),
        "times": [_day(ratings.timestamp.min()), _day(ratings.timestamp.max())] if len(ratings) else None,
        "text_share": float(np.mean(catalog.text != "")) if catalog.n_items else 0.0,
        "profile": {name: len(set(values)) for name, values in dataset.profile.items()},
    }


def render(description: Mapping[str, Any]) -> str:
    """A description as text for a terminal."""
    d = description
    low, high, step = d["scale"]
    bar = max(d["rating_shares"].values(), default=0.0) or 1.0
    lines = [
        f"{d['name']}: {d['ratings']:,} ratings by {d['users']:,} users of {d['items']:,} items ({d['density']:.2%})",
        "",
        f"Scale             {low:g} to {high:g} in steps of {step:g}"
        + ("" if d["mean_rating"] is None else f", mean {d['mean_rating']:.2f}"),
        *(f"  {at:>6}  {share:6.1%}  {'#' * round(40 * share / bar)}" for at, share in d["rating_shares"].items()),
        f"Ratings per user  {_spread_text(d['ratings_per_user'])}",
        f"Ratings per item  {_spread_text(d['ratings_per_item'])}",
        f"Time              {_range_text(d['times'])}",
        f"Release years     {_range_text(d['years'])}",
        f"Longer texts      {d['text_share']:.1%} of the items",
        f"User profile      {', '.join(f'{name} ({n} values)' for name, n in d['profile'].items()) or 'none'}",
        f"Categories        {len(d['categories'])} (items may have several)",
        *(f"  {name:<16}{n:>7,}" for name, n in sorted(d["categories"].items(), key=lambda pair: -pair[1])),
    ]
    return "\n".join(lines)


def _spread(counts: IntArray) -> dict[str, float] | None:
    if not len(counts):
        return None
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": float(counts.mean()),
        "max": int(counts.max()),
    }


def _years(catalog: Catalog) -> list[int] | None:
    known = catalog.year[catalog.year > 0]
    return [int(known.min()), int(known.max())] if len(known) else None


def _day(seconds: np.int64) -> str:
    return str(np.datetime64(int(seconds), "s").astype("datetime64[D]"))


def _spread_text(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "none"
    return f"{spread['min']:,} to {spread['max']:,}, median {spread['median']:g}, mean {spread['mean']:.1f}"


def _range_text(ends: list[object] | None) -> str:
    return "unknown" if ends is None else f"{ends[0]} to {ends[1]}"
