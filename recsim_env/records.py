"""The batch types that everything passes around: frozen dataclasses of NumPy arrays.

Axes are named N (users of a batch), U (all users), I (items of the catalogue), K (slate positions), L (history
length), C (categories), G (levels of the rating scale). Item arrays hold row numbers of the catalogue
(``item_index``); the value ``n_items`` pads what is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.signedinteger[Any]]
FloatArray: TypeAlias = NDArray[np.floating[Any]]
BoolArray: TypeAlias = NDArray[np.bool_]
ByteArray: TypeAlias = NDArray[np.uint8]
TextArray: TypeAlias = NDArray[np.object_]
Texts: TypeAlias = list[str | None]


class MessageKind(IntEnum):
    """What the user's message to the recommender is."""

    NONE = 0
    SEARCH = 1
    INSTRUCT = 2


class NextAction(IntEnum):
    """What the user does after a page."""

    NEXT = 0
    SEARCH = 1
    INSTRUCT = 2
    LEAVE = 3


@dataclass(frozen=True, slots=True)
class RatingScale:
    """The ratings that a data set allows: ``low, low + step, ..., high``. Ratings keep this scale everywhere."""

    low: float
    high: float
    step: float = 1.0

    @property
    def levels(self) -> FloatArray:
        """All allowed ratings, float32 (G,), ascending."""
        count = round((self.high - self.low) / self.step) + 1
        return (self.low + self.step * np.arange(count)).astype(np.float32)

    def on_scale(self, ratings: FloatArray) -> BoolArray:
        """Which of the ratings are levels of this scale, bool, same shape."""
        position = (ratings - self.low) / self.step
        return (position >= -1e-6) & (ratings <= self.high + 1e-6) & (np.abs(position - np.round(position)) < 1e-4)

    def centred(self, ratings: FloatArray) -> FloatArray:
        """Ratings float32 from -1 (lowest) to +1 (highest), same shape."""
        middle, half = 0.5 * (self.low + self.high), 0.5 * (self.high - self.low)
        return (ratings - np.float32(middle)) / np.float32(half)

    def liked_from(self) -> float:
        """The rating from which a user is said to like an item: 4 of 1-5, 8 of 0-10; the top quarter in general."""
        levels = self.levels
        return float(levels[int(np.searchsorted(levels, self.low + 0.75 * (self.high - self.low), side="left"))])


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """All items, described once.

    Attributes:
        item_id: str objects (I,), stable ids of the data set.
        title: str objects (I,).
        categories: Names of the C categories (genres).
        item_categories: bool (I, C), which categories an item belongs to.
        text: str objects (I,), longer description such as a plot, "" where there is none. Untrusted input.
        year: int16 (I,), release year, 0 where unknown.
        popularity: int64 (I,), number of ratings of the item in the ratings that the catalogue stands beside.
        scale: The data set's rating scale.
    """

    item_id: TextArray
    title: TextArray
    categories: tuple[str, ...]
    item_categories: BoolArray
    text: TextArray
    year: NDArray[np.int16]
    popularity: NDArray[np.int64]
    scale: RatingScale

    @property
    def n_items(self) -> int:
        """Number of items I; also the index that pads item arrays."""
        return len(self.item_id)

    @property
    def n_categories(self) -> int:
        """Number of categories C."""
        return len(self.categories)


@dataclass(frozen=True, slots=True, eq=False)
class Ratings:
    """Rating events, one per row, in the data set's order.

    Attributes:
        user_index: int32 (R,), row number of the user in the data set.
        item_index: int32 (R,), row number in the catalogue.
        rating: float32 (R,), on the data set's scale.
        timestamp: int64 (R,), seconds; ties keep the row order.
    """

    user_index: NDArray[np.int32]
    item_index: NDArray[np.int32]
    rating: NDArray[np.float32]
    timestamp: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user_index)

    def take(self, rows: IntArray | BoolArray) -> Ratings:
        """The ratings of some rows (indices or mask), in that order."""
        return Ratings(self.user_index[rows], self.item_index[rows], self.rating[rows], self.timestamp[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """What each user has rated or watched, oldest first: a ragged array in compressed rows.

    Attributes:
        offsets: int64 (U + 1,); user u owns ``items[offsets[u]:offsets[u + 1]]``.
        items: int32 (R,), item indices.
        ratings: float32 (R,), NaN where the item was watched without a rating.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    ratings: NDArray[np.float32]

    @property
    def n_users(self) -> int:
        """Number of users U."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of events of each user, int64 (U,)."""
        return np.diff(self.offsets)

    @classmethod
    def from_ratings(cls, ratings: Ratings, n_users: int) -> Histories:
        """Sorts ratings by user, then time, then row."""
        order = np.lexsort((np.arange(len(ratings)), ratings.timestamp, ratings.user_index))
        counts = np.bincount(ratings.user_index, minlength=n_users)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(offsets, ratings.item_index[order], ratings.rating[order])

    def take(self, users: IntArray) -> Histories:
        """Histories of some users, in that order; -1 gives an empty history."""
        lengths = np.where(users >= 0, self.lengths[np.maximum(users, 0)], 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        starts = self.offsets[np.maximum(users, 0)]
        rows = np.repeat(starts - offsets[:-1], lengths) + np.arange(int(offsets[-1]))
        return Histories(offsets, self.items[rows], self.ratings[rows])

    def last(self, length: int, n_items: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The last events as fixed-shape arrays, most recent at the end, padded in front.

        Returns:
            Item indices int32 (U, L) padded with ``n_items`` and ratings float32 (U, L) padded with NaN.
        """
        items = np.full((self.n_users, length), n_items, np.int32)
        ratings = np.full((self.n_users, length), np.nan, np.float32)
        back = np.repeat(self.offsets[1:], self.lengths) - np.arange(len(self.items))  # 1 is the most recent
        keep = back <= length
        users = np.repeat(np.arange(self.n_users), self.lengths)[keep]
        items[users, length - back[keep]] = self.items[keep]
        ratings[users, length - back[keep]] = self.ratings[keep]
        return items, ratings


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A catalogue and the ratings that people gave it.

    Attributes:
        name: Name of the data set.
        catalog: Its items; ``catalog.popularity`` counts exactly the ratings below.
        user_id: str objects (U,), stable ids.
        profile: Static user features by name (gender, age, occupation, ...), each str objects (U,); may be empty.
        ratings: The events.
    """

    name: str
    catalog: Catalog
    user_id: TextArray
    profile: Mapping[str, TextArray]
    ratings: Ratings

    def __deepcopy__(self, memo: dict[int, Any]) -> Dataset:
        """Itself: nothing in it changes, and recommenders that hold it are copied for every seed."""
        return self

    @property
    def n_users(self) -> int:
        """Number of users U."""
        return len(self.user_id)

    @property
    def n_items(self) -> int:
        """Number of items I."""
        return self.catalog.n_items

    def with_ratings(self, ratings: Ratings) -> Dataset:
        """The same users and items with other ratings; the popularity is counted again."""
        counts = np.bincount(ratings.item_index, minlength=self.n_items).astype(np.int64)
        return replace(self, ratings=ratings, catalog=replace(self.catalog, popularity=counts))

    def histories(self) -> Histories:
        """The ratings as one time-ordered history per user."""
        return Histories.from_ratings(self.ratings, self.n_users)


@dataclass(frozen=True, slots=True, eq=False)
class Users:
    """The simulated population.

    Attributes:
        user_id: str objects (U,): the data set's id, or ``synthetic-<number>`` for users beyond it.
        data_user: int64 (U,), row of the data set's user, -1 for users beyond it.
        profile: Static features by name, each str objects (U,).
        history: What each user had rated before the simulation starts (training part only).
    """

    user_id: TextArray
    data_user: NDArray[np.int64]
    profile: Mapping[str, TextArray]
    history: Histories

    @property
    def n_users(self) -> int:
        """Number of users U."""
        return len(self.user_id)


@dataclass(frozen=True, slots=True, eq=False)
class Feedback:
    """What the recommender may see of a reaction.

    Attributes:
        clicked: bool (N, K).
        watched_fraction: float32 (N, K) in [0, 1], 0 where not clicked.
        liked: bool (N, K).
        shared: bool (N, K).
        rating: float32 (N, K) on the data set's scale, NaN where none was given.
        next_action: int8 (N,), see :class:`NextAction`.
        message: The user's words that go with search or instruct, N entries, None elsewhere.
        comments: str or None objects (N, K), or None when nobody comments.
    """

    clicked: BoolArray
    watched_fraction: FloatArray
    liked: BoolArray
    shared: BoolArray
    rating: FloatArray
    next_action: NDArray[np.int8]
    message: Texts
    comments: TextArray | None = None


MINDSET = ("mood", "boredom", "trust")
"""Names of the mindset's columns: mood and trust in [-1, 1], boredom in [0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What happened inside the user. Never shown to a policy.

    Attributes:
        examined: bool (N, K), the user looked at the item.
        p_click: float32 (N, K), probability that the shown item is clicked, before the draw.
        expected_rating: float32 (N, K), expected rating were the item rated.
        mindset_before: float32 (N, 3), columns as in :data:`MINDSET`, at the page's start.
        mindset_after: float32 (N, 3), after the page.
        fallback: bool (N,), a reply of the user's model could not be used and a stated substitute was taken.
        thoughts: N entries or None.
    """

    examined: BoolArray
    p_click: FloatArray
    expected_rating: FloatArray
    mindset_before: FloatArray
    mindset_after: FloatArray
    fallback: BoolArray
    thoughts: Texts | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What users think of items before any luck, for n pairs (user, item).

    Attributes:
        log_odds: float32 (n,), log-odds that the user watches the item when it is shown.
        marks: float32 (n, G), probability of each level of the scale, given that there is a mark; rows sum to 1.
        bad: bool (n,), a reply of the user's model could not be used and a stated substitute was taken.
    """

    log_odds: FloatArray
    marks: FloatArray
    bad: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class ObservationBatch:
    """What a recommender sees of N users when it is asked for slates: visible things only.

    Attributes:
        user_index: int64 (N,), row in the population.
        day: int32 (N,), days since the start of the simulation.
        session: int32 (N,), number of the opening on that day, from 0.
        turn: int32 (N,), number of the page in the session, from 0.
        history: int32 (N, L), item indices, most recent last, padded in front with ``n_items``.
        history_rating: float32 (N, L), NaN where unrated or padded.
        seen: uint8 (N, ceil(I / 8)), packed bits (``numpy.packbits``, little end first) of all items that the
            user has ever clicked or rated, also beyond the L of ``history``; see :func:`unpack_seen`.
        last_slate: int32 (N, K), the previous slate of this session, ``n_items`` on its first turn.
        last_feedback: Reaction to ``last_slate``; all zero on the first turn of a session.
        message: The user's words, N entries, None where silent.
        message_kind: int8 (N,), see :class:`MessageKind`.
        message_vector: float32 (N, C), the message as wishes over categories: +1 wanted, -1 not wanted.
        candidates: int32 (N, M) item indices that may be shown now, padded with ``n_items``; None is the whole
            catalogue.
    """

    user_index: NDArray[np.int64]
    day: NDArray[np.int32]
    session: NDArray[np.int32]
    turn: NDArray[np.int32]
    history: NDArray[np.int32]
    history_rating: NDArray[np.float32]
    seen: ByteArray
    last_slate: NDArray[np.int32]
    last_feedback: Feedback
    message: Texts
    message_kind: NDArray[np.int8]
    message_vector: FloatArray
    candidates: NDArray[np.int32] | None = None

    @property
    def n(self) -> int:
        """Number of users N of the batch."""
        return len(self.user_index)

    def take(self, rows: IntArray | BoolArray | slice) -> ObservationBatch:
        """The observation of some rows (indices, mask or slice), in that order; a slice gives views, not copies."""
        picked: Any = rows
        if isinstance(rows, np.ndarray) and rows.dtype == np.bool_:
            picked = np.flatnonzero(rows)
        return ObservationBatch(
            self.user_index[picked], self.day[picked], self.session[picked], self.turn[picked],
            self.history[picked], self.history_rating[picked], self.seen[picked], self.last_slate[picked],
            take_feedback(self.last_feedback, picked), _pick(self.message, picked),
            self.message_kind[picked], self.message_vector[picked],
            None if self.candidates is None else self.candidates[picked],
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class SlateBatch:
    """What a recommender shows to N users.

    Attributes:
        items: int32 (N, K), item indices, no item twice in a row; ``n_items`` where the candidates ran out.
        propensity: float32 (N, K), probability of this item at this position given the earlier positions, under
            the policy that logs; the product over positions is the slate's. NaN where unknown.
        position_propensity: float32 (N, K), marginal probability of this item at this position, NaN where the
            policy cannot compute it.
        policy: Name of the policy.
        version: Its version: changes when it is trained again.
        answer: The recommender's words to each user, N entries, or None when it says nothing.
        searched: bool (N,), the row was served by the catalogue's search instead of the policy; None is nowhere.
    """

    items: NDArray[np.int32]
    propensity: FloatArray
    position_propensity: FloatArray
    policy: str
    version: str = "0"
    answer: Texts | None = None
    searched: BoolArray | None = None

    @property
    def n(self) -> int:
        """Number of users N of the batch."""
        return len(self.items)

    def take(self, rows: IntArray) -> SlateBatch:
        """The slates of some rows, in that order."""
        return SlateBatch(
            self.items[rows], self.propensity[rows], self.position_propensity[rows], self.policy, self.version,
            None if self.answer is None else _pick(self.answer, rows),
            None if self.searched is None else self.searched[rows],
        )  # fmt: skip


SEARCH_POLICY = "catalog-search"
"""Policy name of turns that the catalogue's own search served; left out of off-policy evaluation."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Names one request to an engine or one stored reply: who asks, when, about what, and why."""

    seed: int
    user: int
    day: int
    session: int
    turn: int
    item: int = -1
    purpose: str = ""


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """A decision among options, to be scored: the engine gives log-probabilities over ``options``.

    Attributes:
        messages: Chat messages, each with ``role`` and ``content``; the option is the assistant's first token.
        options: Single-token options, mostly letters whatever they stand for.
        key: Names the request.
    """

    messages: tuple[Mapping[str, str], ...]
    options: tuple[str, ...]
    key: RequestKey


@dataclass(frozen=True, slots=True)
class TextRequest:
    """Words to be written.

    Attributes:
        messages: Chat messages, each with ``role`` and ``content``.
        schema: JSON schema that the reply must fit, or None for free text.
        sampling: Sampling parameters such as ``temperature`` and ``max_tokens``.
        key: Names the request.
    """

    messages: tuple[Mapping[str, str], ...]
    key: RequestKey
    schema: Mapping[str, Any] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """An engine's reply to a :class:`TextRequest`; ``error`` names what went wrong, the raw text is kept.

    ``token_ids`` is for whoever trains the model that wrote; engines that do not know the tokens, and stored replies,
    have none.
    """

    text: str
    parsed: Any = None
    finish_reason: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    error: str | None = None
    token_ids: tuple[int, ...] = ()


def _pick(texts: Texts, rows: IntArray | slice) -> Texts:
    return texts[rows] if isinstance(rows, slice) else [texts[i] for i in rows]


def take_feedback(feedback: Feedback, rows: IntArray | slice) -> Feedback:
    """The feedback of some rows, in that order."""
    comments = None if feedback.comments is None else feedback.comments[rows]
    return Feedback(
        feedback.clicked[rows], feedback.watched_fraction[rows], feedback.liked[rows], feedback.shared[rows],
        feedback.rating[rows], feedback.next_action[rows], _pick(feedback.message, rows), comments,
    )  # fmt: skip


def unpack_seen(seen: ByteArray, n_items: int) -> BoolArray:
    """Packed bits uint8 (N, ceil(I / 8)) to a mask bool (N, I)."""
    return np.unpackbits(seen, axis=1, count=n_items, bitorder="little").view(np.bool_)


def is_seen(seen: ByteArray, items: IntArray) -> BoolArray:
    """Which shown items were seen before, bool (N, K); padding (``n_items`` or more) may give either answer.

    Args:
        seen: uint8 (N, B), packed bits as in :class:`ObservationBatch`.
        items: int (N, K), item indices.
    """
    width = seen.shape[1]
    byte = np.minimum(items >> 3, width - 1) + (np.arange(len(seen)) * width)[:, None]
    bits = np.ascontiguousarray(seen).ravel().take(byte)
    bits >>= (items & 7).astype(np.uint8)
    bits &= 1
    return bits.view(np.bool_)
