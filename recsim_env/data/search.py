"""The catalogue's own search, for recommenders that do not search themselves.

An item matches by the share of the query's words found in its title and categories; among equals the more popular
comes first, and items the user has seen come last.
"""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

from recsim_env.records import (
    SEARCH_POLICY,
    BoolArray,
    ByteArray,
    Catalog,
    IntArray,
    ObservationBatch,
    SlateBatch,
    is_seen,
)

_WORD = re.compile(r"\w+")


class CatalogSearch:
    """Search by words over titles and categories.

    Args:
        catalog: The items.

    Attributes:
        on_offer: bool (I,), what may be found now; None is everything.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.on_offer: BoolArray | None = None
        self._items: dict[str, set[int]] = defaultdict(set)
        for i, title in enumerate(catalog.title):
            for word in _WORD.findall(str(title).lower()):
                self._items[word].add(i)
        for c, name in enumerate(catalog.categories):
            for word in _WORD.findall(name.lower()):
                self._items[word].update(np.flatnonzero(catalog.item_categories[:, c]).tolist())
        self._known: dict[str, IntArray] = {}

    def ranking(self, query: str) -> IntArray:
        """Matching items, best first, int32 (m,); empty where no word is known."""
        known = self._known.get(query)
        if known is None:
            hits = np.zeros(self.catalog.n_items, np.int64)
            for word in set(_WORD.findall(query.lower())):
                hits[list(self._items.get(word, ()))] += 1
            order = np.lexsort((-self.catalog.popularity, -hits))
            known = order[: int((hits > 0).sum())].astype(np.int32)
            if len(self._known) < 10_000:
                self._known[query] = known
        return known

    def __call__(self, obs: ObservationBatch, slate_size: int) -> SlateBatch:
        """Answers the queries in ``obs.message``; positions without a match are empty."""
        items = np.full((obs.n, slate_size), self.catalog.n_items, np.int32)
        by_query: dict[str, list[int]] = defaultdict(list)
        for i, text in enumerate(obs.message):
            by_query[text or ""].append(i)
        for text, rows in by_query.items():
            ranking = self.ranking(text)
            if self.on_offer is not None:
                ranking = ranking[self.on_offer[ranking]]
            if ranking.size:
                self._fill(items, np.array(rows), obs.seen, ranking)
        unknown = np.full(items.shape, np.nan, np.float32)
        return SlateBatch(items, unknown, unknown, SEARCH_POLICY, searched=np.ones(obs.n, np.bool_))

    @staticmethod
    def _fill(items: IntArray, rows: IntArray, seen: ByteArray, ranking: IntArray) -> None:
        """Puts the best unseen matches into some rows of ``items``, seen ones behind them where need be.

        Mostly the head of the ranking has enough unseen items; only rows that lack some look further.
        """
        k = items.shape[1]
        head = ranking[: 4 * k]
        old = is_seen(seen[rows], np.broadcast_to(head, (len(rows), len(head))))
        best = np.argsort(old, axis=1, kind="stable")[:, :k]
        items[rows, : best.shape[1]] = head[best]
        lacking = rows[(~old).sum(axis=1) < k]
        if lacking.size and len(ranking) > len(head):
            old = is_seen(seen[lacking], np.broadcast_to(ranking, (len(lacking), len(ranking))))
            items[lacking] = ranking[np.argsort(old, axis=1, kind="stable")[:, :k]]
