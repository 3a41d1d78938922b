"""What everybody may know of the items, as numbers."""

from __future__ import annotations

import numpy as np

from recsim_env.records import Catalog, FloatArray


def item_features(catalog: Catalog) -> FloatArray:
    """What everybody may know of the items, float32 (I, C + 2) in [-1, 1].

    Columns: share of each category (rows sum to 1, or 0 without category); logarithm of the popularity, in standard
    deviations over items, clipped at 3 and divided by 3; ``(year - 1970) / 60``, 0 where unknown.
    """
    flags = catalog.item_categories.astype(np.float32)
    shares = flags / np.maximum(flags.sum(axis=1, keepdims=True), 1.0)
    log_count = np.log1p(catalog.popularity.astype(np.float64))
    popular = (log_count - log_count.mean()) / max(float(log_count.std()), 1e-9)
    year = np.where(catalog.year > 0, (catalog.year.astype(np.float64) - 1970.0) / 60.0, 0.0)
    return np.column_stack([shares, np.clip(popular / 3.0, -1.0, 1.0), np.clip(year, -1.0, 1.0)]).astype(np.float32)
