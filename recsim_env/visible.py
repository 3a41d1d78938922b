"""What a recommender may see, kept for all users: histories, seen items, last page, messages.

The simulator holds one to make observations; the run folder's reader holds another and feeds it the logged rows, so
every observation of a run can be rebuilt by the very same code.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from recsim_env.records import (
    Catalog,
    Feedback,
    IntArray,
    MessageKind,
    NextAction,
    ObservationBatch,
    SlateBatch,
    Texts,
    Users,
)


class VisibleState:
    """The visible side of U users.

    Args:
        catalog: The items.
        users: The population with its past.
        slate_size: K.
        history_length: L, how many events an observation shows; at least K.
    """

    def __init__(self, catalog: Catalog, users: Users, slate_size: int, history_length: int) -> None:
        assert history_length >= slate_size, "a page may hold more clicks than the history"
        self.catalog, self.users = catalog, users
        self.slate_size, self.history_length = slate_size, history_length
        self.wishes = WishReader(catalog.categories)
        n, k = users.n_users, slate_size
        self._items = np.empty((n, 2 * history_length), np.int32)  # written forwards, moved back when full
        self._ratings = np.empty((n, 2 * history_length), np.float32)
        self._end = np.empty(n, np.int64)
        self._seen = np.empty((n, (catalog.n_items + 7) // 8), np.uint8)
        self._turn = np.zeros(n, np.int32)
        self._day = np.zeros(n, np.int32)
        self._session = np.zeros(n, np.int32)
        self._slate = np.empty((n, k), np.int32)
        self._clicked = np.empty((n, k), np.bool_)
        self._watched = np.empty((n, k), np.float32)
        self._liked = np.empty((n, k), np.bool_)
        self._shared = np.empty((n, k), np.bool_)
        self._rating = np.empty((n, k), np.float32)
        self._action = np.empty(n, np.int8)
        self._message = np.empty(n, object)
        self._kind = np.empty(n, np.int8)
        self._wish = np.empty((n, catalog.n_categories), np.float32)
        self.reset(np.arange(n))

    def reset(self, rows: IntArray) -> None:
        """Puts some users back to what was known before the simulation."""
        past = self.users.history.take(rows)
        length = self.history_length
        self._items[rows, :length], self._ratings[rows, :length] = past.last(length, self.catalog.n_items)
        self._end[rows] = length
        self._seen[rows] = 0
        owner = np.repeat(rows, past.lengths)
        np.bitwise_or.at(self._seen, (owner, past.items >> 3), (1 << (past.items & 7)).astype(np.uint8))
        self.open(rows, 0, 0)

    def open(self, rows: IntArray, day: int | IntArray, session: int | IntArray) -> None:
        """Starts a session of some users: turn 0, no last page, no message."""
        self._day[rows], self._session[rows], self._turn[rows] = day, session, 0
        self._slate[rows] = self.catalog.n_items
        self._clicked[rows] = self._liked[rows] = self._shared[rows] = False
        self._watched[rows] = 0.0
        self._rating[rows] = np.nan
        self._action[rows] = NextAction.NEXT
        self._message[rows] = None
        self._kind[rows] = MessageKind.NONE
        self._wish[rows] = 0.0

    def observe(self, rows: IntArray) -> ObservationBatch:
        """The observation of some users (rows of the population), in that order."""
        window = (rows, self._end[rows] - self.history_length)
        last = Feedback(
            self._clicked[rows], self._watched[rows], self._liked[rows], self._shared[rows], self._rating[rows],
            self._action[rows], self._message[rows].tolist(),
        )  # fmt: skip
        return ObservationBatch(
            user_index=rows.astype(np.int64),
            day=self._day[rows],
            session=self._session[rows],
            turn=self._turn[rows],
            history=sliding_window_view(self._items, self.history_length, axis=1)[window],
            history_rating=sliding_window_view(self._ratings, self.history_length, axis=1)[window],
            seen=self._seen.take(rows, axis=0),
            last_slate=self._slate[rows],
            last_feedback=last,
            message=last.message,
            message_kind=self._kind[rows],
            message_vector=self._wish[rows],
        )

    def apply(self, rows: IntArray, slate: SlateBatch, feedback: Feedback) -> None:
        """Takes over one turn of some users: clicked items enter the history in slate order."""
        self._slate[rows] = slate.items
        self._clicked[rows], self._watched[rows] = feedback.clicked, feedback.watched_fraction
        self._liked[rows], self._shared[rows], self._rating[rows] = feedback.liked, feedback.shared, feedback.rating
        self._action[rows] = feedback.next_action
        self._turn[rows] += 1
        self._append(rows, slate, feedback)
        self._hear(rows, feedback.next_action, feedback.message)

    def _append(self, rows: IntArray, slate: SlateBatch, feedback: Feedback) -> None:
        clicked = feedback.clicked
        counts = clicked.sum(axis=1)
        full = rows[self._end[rows] + counts > 2 * self.history_length]
        if full.size:
            length = self.history_length
            window = (self._end[full] - length)[:, None] + np.arange(length)
            self._items[full, :length] = self._items[full[:, None], window]
            self._ratings[full, :length] = self._ratings[full[:, None], window]
            self._end[full] = length
        who, where = np.nonzero(clicked)
        owner, items = rows[who], slate.items[who, where]
        # A click's place behind the user's end: its rank among the user's clicks of this page.
        place = self._end[owner] + (np.cumsum(clicked, axis=1) - 1)[who, where]
        self._items[owner, place] = items
        self._ratings[owner, place] = feedback.rating[who, where]
        self._end[rows] += counts
        np.bitwise_or.at(self._seen, (owner, items >> 3), (1 << (items & 7)).astype(np.uint8))

    def _hear(self, rows: IntArray, action: IntArray, message: Texts) -> None:
        kind = _KIND_OF_ACTION[action]
        self._kind[rows] = kind
        self._message[rows] = None
        self._wish[rows] = 0.0
        talks = np.flatnonzero(kind)
        if talks.size:
            texts = [message[i] for i in talks]
            self._message[rows[talks]] = texts
            number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
            wishes = np.stack([self.wishes.read(text or "") for text in number])
            self._wish[rows[talks]] = wishes[[number[text] for text in texts]]


_KIND_OF_ACTION = np.zeros(len(NextAction), np.int8)
_KIND_OF_ACTION[NextAction.SEARCH] = MessageKind.SEARCH
_KIND_OF_ACTION[NextAction.INSTRUCT] = MessageKind.INSTRUCT

_NEGATION = re.compile(
    r"\b(?:no|not|never|nothing|less|fewer|without|except|stop|skip|avoid|drop|leave out|enough|instead of|rather than|"
    r"dislike|hate|(?:tired|bored|sick) of)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[.;,!?]|\bbut\b|\band(?= (?:more|try|show|give|bring|rather|want|like|love)\b)", re.IGNORECASE)


class WishReader:
    """Reads wishes over categories out of plain words.

    A category that is named gets +1, after a negation in the same clause -1. It understands nothing else: a
    recommender that wants more reads the text.
    """

    def __init__(self, categories: tuple[str, ...]) -> None:
        self._names = [re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE) for name in categories]
        self._known: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}

    def read(self, text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Wish vector float32 (C,) in {-1, 0, +1}."""
        known = self._known.get(text)
        if known is None:
            known = np.zeros(len(self._names), np.float32)
            for clause in _CLAUSE.split(text):
                negation = _NEGATION.search(clause)
                for c, name in enumerate(self._names):
                    found = name.search(clause)
                    if found:
                        known[c] = -1.0 if negation and negation.start() < found.start() else 1.0
            if len(self._known) < 100_000:
                self._known[text] = known
        return known
