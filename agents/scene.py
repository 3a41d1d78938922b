"""One page as its users see it: the shared start of their prompts, their luck, and their questions to the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recsim_env.agents.actions import JSON_SCHEMAS, Words
from recsim_env.agents.asking import Asker
from recsim_env.agents.prompting import LETTERS, Cards, Prompts, messages
from recsim_env.draws import Draws, Keys
from recsim_env.records import (
    BoolArray,
    ChoiceRequest,
    FloatArray,
    IntArray,
    ObservationBatch,
    RequestKey,
    TextRequest,
)


class Ask(NamedTuple):
    """A decision to be put to the engine.

    Attributes:
        user: Row of the batch.
        purpose: What is decided; also part of the request's key.
        body: Question with its options, after the user's own start of the prompt.
        n_options: Number of options.
        item: Item that it is about, or -1. For ``list`` decisions, the number of the order.
    """

    user: int
    purpose: str
    body: str
    n_options: int
    item: int = -1


@dataclass(slots=True, eq=False)
class Scene:
    """N users before their pages.

    Attributes:
        obs: What is visible of them.
        items: int32 (N, K), the pages; ``n_items`` pads.
        shown: bool (N, K), not padding.
        seen: bool (N, K), watched before.
        starts: Start of each user's prompt, N texts.
        keys: uint64 (N,), keys of the page's luck.
        who: int64 (N,), row and life of each user, for request keys.
        seed: Seed of the run.
        asker: The way to the engine.
        prompts: The templates.
        cards: What an item looks like.
        sampling: Sampling parameters for words.
        fallback: bool (N,), set where a reply could not be used.
        remark: What a user (row of the population) has heard of an item, as a line, or nothing.
    """

    obs: ObservationBatch
    items: IntArray
    shown: BoolArray
    seen: BoolArray
    starts: Sequence[str]
    keys: Keys
    who: IntArray
    seed: int
    asker: Asker
    prompts: Prompts
    cards: Cards
    sampling: dict[str, float]
    fallback: BoolArray
    remark: Callable[[int, int], str]

    @property
    def n(self) -> int:
        """Number of users N."""
        return self.obs.n

    def card(self, i: int, k: int) -> str:
        """The item at a place of a page, as this user sees it."""
        card = self.cards.card(int(self.items[i, k]))
        heard = self.remark(int(self.obs.user_index[i]), int(self.items[i, k]))
        card = f"{card}\n{heard}" if heard else card
        return f"{card}\n(You have watched it before.)" if self.seen[i, k] else card

    def luck(self, lane: int, count: int = 1) -> FloatArray:
        """Uniform draws of the users for something that is no item's, float32 (N, count)."""
        # Lanes of items end below 4 times the padded catalogue; see :meth:`item_luck`.
        return Draws.uniforms(self.keys, 4 * (self.cards.catalog.n_items + 1) + lane + np.arange(count))

    def item_luck(self, lane: int) -> tuple[FloatArray, FloatArray]:
        """Two uniform draws per shown item, each float32 (N, K): they belong to the item, not to its place."""
        return Draws.uniform_pairs(self.keys, self.items.astype(np.int64) + lane * (self.cards.catalog.n_items + 1))

    def _key(self, user: int, item: int, purpose: str) -> RequestKey:
        o = self.obs
        return RequestKey(
            self.seed, int(self.who[user]), int(o.day[user]), int(o.session[user]), int(o.turn[user]), item, purpose
        )  # fmt: skip

    def _messages(self, user: int, body: str) -> tuple[dict[str, str], ...]:
        return messages(self.prompts.rules, f"{self.starts[user]}\n\n{body}")  # type: ignore[return-value]

    def requests(self, asks: Sequence[Ask]) -> list[ChoiceRequest]:
        """The decisions as the engine gets them, in the same order."""
        return [
            ChoiceRequest(self._messages(a.user, a.body), LETTERS[: a.n_options], self._key(a.user, a.item, a.purpose))
            for a in asks
        ]

    def decide(self, asks: Sequence[Ask]) -> dict[tuple[int, str, int], FloatArray]:
        """Puts decisions to the engine in one batch.

        Returns:
            Probabilities float64 (n_options,) by (user, purpose, item).
        """
        if not asks:
            return {}
        replies, bad = self.asker.choose(self.requests(asks))
        for a, failed in zip(asks, bad, strict=True):
            self.fallback[a.user] |= failed
        return {(a.user, a.purpose, a.item): p for a, p in zip(asks, replies, strict=True)}

    def write(self, wanted: Sequence[tuple[int, str, str]]) -> list[Words | None]:
        """Has words written in one batch.

        Args:
            wanted: (user, purpose, body) of each.

        Returns:
            The words, None where no usable reply came.
        """
        requests = [
            TextRequest(
                self._messages(user, body), self._key(user, -1, purpose), JSON_SCHEMAS[purpose],
                self.sampling,
            )
            for user, purpose, body in wanted
        ]  # fmt: skip
        if not requests:
            return []
        replies = self.asker.write(requests)
        for (user, _, _), words in zip(wanted, replies, strict=True):
            self.fallback[user] |= words is None
        return replies


def pick(p: FloatArray, luck: float) -> int:
    """Option at a point of the cumulative distribution: the higher the luck, the later the option."""
    return min(int(np.searchsorted(np.cumsum(p), luck, side="right")), len(p) - 1)
