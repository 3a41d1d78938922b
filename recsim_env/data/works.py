"""Who made which item, and in which order each creator publishes its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.records import Dataset, FloatArray, IntArray
from recsim_env.scenario import CreatorsSection


@dataclass(frozen=True, slots=True, eq=False)
class Works:
    """The catalogue, dealt out to C creators: a ragged array in compressed rows.

    Attributes:
        offsets: int64 (C + 1,); creator c makes ``items[offsets[c]:offsets[c + 1]]``.
        items: int32 (I,), item indices by creator, in the order in which each publishes them.
        opening: int64 (C,), how many of each creator's items are on offer on day 0.
    """

    offsets: IntArray
    items: IntArray
    opening: IntArray

    @property
    def n_creators(self) -> int:
        """Number of creators C."""
        return len(self.opening)

    @property
    def lengths(self) -> IntArray:
        """Number of items of each creator, published or not, int64 (C,)."""
        return np.diff(self.offsets)

    @property
    def creator(self) -> IntArray:
        """Creator of each item of the catalogue, int32 (I,)."""
        made = np.empty(len(self.items), np.int32)
        made[self.items] = np.repeat(np.arange(self.n_creators), self.lengths)
        return made

    def on_offer(self, published: IntArray) -> IntArray:
        """Items on offer when each creator has published its first so many, int (C,); ascending, int32 (m,)."""
        place = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], self.lengths)
        return np.sort(self.items[place < np.repeat(published, self.lengths)])


def deal(section: CreatorsSection, dataset: Dataset, draws: Draws) -> Works:
    """Deals the catalogue out in equal shares.

    In which order a creator publishes is luck, so that items of day 0 and later ones are alike.

    Args:
        section: How many creators, how the items are dealt, and which share is on offer on day 0.
        dataset: The items, and all ratings: those are the truth about them.
        draws: Luck.

    Raises:
        ScenarioError: If there are more creators than items.
    """
    n = dataset.n_items
    if section.count > n:
        raise ScenarioError(
            f"creators.count: {section.count} creators cannot share the {n} items of {dataset.name}. Set {n} or fewer."
        )
    luck, turn = (lots[0] for lots in draws.uniform_pairs(draws.keys("works", 0), np.arange(n)))
    line = np.lexsort((luck, _likeness(section, dataset)))
    shares = [share[np.argsort(turn[share], kind="stable")] for share in np.array_split(line, section.count)]
    lengths = np.array([len(share) for share in shares])
    opening = np.maximum(np.round(section.opening * lengths), 1).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Works(offsets, np.concatenate(shares).astype(np.int32), opening)


def candidates_of(items: IntArray, n_items: int) -> NDArray[np.int32]:
    """The candidate set of those items, int32 (I,): each at its own place, ``n_items`` at the others.

    Its width never changes, whatever comes out, and a slot is an item, as with the whole catalogue.
    """
    row = np.full(n_items, n_items, np.int32)
    row[items] = items
    return row


def _likeness(section: CreatorsSection, dataset: Dataset) -> FloatArray:
    """What items of one creator have in common, float64 (I,)."""
    match section.deal:
        case "random":
            return np.zeros(dataset.n_items)
        case "category":
            return dataset.catalog.item_categories.argmax(axis=1).astype(np.float64)
        case "rating":
            ratings = dataset.ratings
            counts = np.bincount(ratings.item_index, minlength=dataset.n_items)
            sums = np.bincount(ratings.item_index, ratings.rating, dataset.n_items)
            return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), ratings.rating.mean()))
