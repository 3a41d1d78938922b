"""Phases 2 to 4 of a page: how what was watched pleases, what comes next, and the words that go with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from recsim_env.agents.actions import (
    ANSWERED,
    BOREDOMS,
    FRACTIONS,
    MOODS,
    NEXT_ACTIONS,
    CommentWords,
    InsightWords,
    InstructWords,
    SearchWords,
)
from recsim_env.agents.scene import Ask, Scene, pick
from recsim_env.records import (
    BoolArray,
    FloatArray,
    IntArray,
    MessageKind,
    NextAction,
    TextArray,
    Texts,
)

TRUST_RATE = 0.3
"""Share of the way that trust moves towards how well the last wish was answered."""
_FRACTION_WORDS = ("only the beginning", "about a third", "most of it", "all of it")


def mark_weight(mark: float, low: float, high: float) -> float:
    """Importance of a watched title in memory: .3 without a mark (NaN), up to .8 for the ends of the scale."""
    return 0.3 if np.isnan(mark) else 0.3 + 0.5 * abs(2.0 * (mark - low) / (high - low) - 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Enjoyed:
    """What followed for what was watched, each (N, K).

    Attributes:
        fraction: float32 in [0, 1].
        rating: float32 on the scale, NaN without a mark.
        expected: float32, expected mark were one given; NaN where nothing was watched, since nothing was asked there.
        liked: bool.
        shared: bool.
        comments: bool, the user wants to comment.
        marks: str or None objects, the mark in words.
        span: Lowest and highest mark of the scale.
    """

    fraction: FloatArray
    rating: FloatArray
    expected: FloatArray
    liked: BoolArray
    shared: BoolArray
    comments: BoolArray
    marks: TextArray
    span: tuple[float, float]

    def weight(self, i: int, k: int) -> float:
        """Importance of a watched title in memory."""
        return mark_weight(float(self.rating[i, k]), *self.span)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What users decided after the page.

    Attributes:
        action: int8 (N,), before words are known.
        tells: bool (N,), about to leave, the user tells the recommender what it wants instead.
        mindset: float32 (N, 3), after the page.
    """

    action: IntArray
    tells: BoolArray
    mindset: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """Words of the page, N entries each, and the action that stands once it is known whether there are words.

    Attributes:
        action: int8 (N,).
        message: For the recommender.
        thoughts: Hidden.
        comments: str or None objects (N, K), or None when nobody comments.
        words: Whatever was said, for memory; ``verb`` tells how.
        verb: "searched for", "told the app" or "commented".
        insight: (text, importance in (0, 1]) of a reflection.
    """

    action: Any
    message: Texts
    thoughts: Texts | None
    comments: TextArray | None
    words: Texts
    verb: Texts
    insight: list[tuple[str, float] | None]


Marks: TypeAlias = Callable[[IntArray, IntArray, FloatArray], FloatArray]
"""Changes marks: rows of the batch int (n,), items int (n,), probabilities float64 (n, 1 + G), "no mark" first."""


def enjoy(
    scene: Scene, clicked: BoolArray, stars: tuple[str, ...], comments: bool, changed: Marks | None = None
) -> Enjoyed:
    """Phase 2, one batch: fraction, mark, like, share and comment of everything that was watched.

    One draw serves all of an item's questions, whose options run from low to high: what pleases, pleases throughout.

    Args:
        scene: The users before their pages.
        clicked: bool (N, K), what is watched.
        stars: Options of the mark.
        comments: Whether comments are asked for.
        changed: What becomes of the model's probabilities of the marks; None leaves them.
    """
    scale = scene.cards.catalog.scale
    levels, shape = scale.levels, clicked.shape
    hits = np.argwhere(clicked).tolist()
    purposes = ["fraction", "stars", "like", "share", *(["comment"] if comments else [])]
    asks = []
    for i, k in hits:
        card, item = scene.card(i, k), int(scene.items[i, k])
        for purpose in purposes:
            question = scene.prompts[f"enjoy.{purpose}"]
            options = stars if purpose == "stars" else question.options
            asks.append(Ask(i, purpose, question.render(options, item=card), len(options), item))
    found = scene.decide(asks)
    pleased, rates = scene.item_luck(1)
    talks, _ = scene.item_luck(2)
    fraction, rating = np.zeros(shape, np.float32), np.full(shape, np.nan, np.float32)
    expected, marks = rating.copy(), np.full(shape, None, object)
    liked, shared, comment = (np.zeros(shape, np.bool_) for _ in range(3))
    given_marks = _marks(scene, hits, found, changed)
    for i, k in hits:
        item, joy = int(scene.items[i, k]), float(pleased[i, k])
        fraction[i, k] = FRACTIONS[pick(found[i, "fraction", item], joy)]
        mark = given_marks[i, k]
        given = 1.0 - mark[0]
        if given > 1e-12:
            expected[i, k] = float(mark[1:] @ levels) / given
            if rates[i, k] < given:
                rating[i, k] = levels[pick(mark[1:] / given, joy)]
                marks[i, k] = scene.cards.mark(rating[i, k])
        liked[i, k] = joy > 1.0 - found[i, "like", item][1]
        shared[i, k] = liked[i, k] and joy > 1.0 - found[i, "share", item][1]
        comment[i, k] = comments and talks[i, k] < found[i, "comment", item][1]
    return Enjoyed(fraction, rating, expected, liked, shared, comment, marks, (scale.low, scale.high))


def _marks(
    scene: Scene, hits: list[list[int]], found: Mapping[tuple[int, str, int], FloatArray], changed: Marks | None
) -> dict[tuple[int, int], FloatArray]:
    """Probabilities of the marks by place, float64 (1 + G,)."""
    rows = [found[i, "stars", int(scene.items[i, k])] for i, k in hits]
    if changed is not None and hits:
        places = np.array(hits)
        rows = list(changed(places[:, 0], scene.items[places[:, 0], places[:, 1]], np.array(rows)))
    return {(i, k): row for (i, k), row in zip(hits, rows, strict=True)}


def page_lines(scene: Scene, clicked: BoolArray, enjoyed: Enjoyed) -> list[str]:
    """The page and what each user did on it, as text."""
    texts = []
    for i in range(scene.n):
        lines = []
        for k in np.flatnonzero(scene.shown[i]):
            done = "skipped"
            if clicked[i, k]:
                done = f"watched {_FRACTION_WORDS[FRACTIONS.index(round(float(enjoyed.fraction[i, k]), 2))]}"
                done += f", mark {enjoyed.marks[i, k]}" if enjoyed.marks[i, k] else ""
                done += ", liked" if enjoyed.liked[i, k] else ""
            lines.append(f"- {scene.cards.titles([int(scene.items[i, k])])}: {done}")
        texts.append("\n".join(lines) or "The page was empty.")
    return texts


def next_step(scene: Scene, pages: list[str], before: FloatArray, spoke: BoolArray) -> Step:
    """Phase 3, one batch: what next, a last word before leaving, mood, boredom, and whether a wish was answered."""
    asked = scene.obs.message_kind != MessageKind.NONE
    asks = []
    for i in range(scene.n):
        purposes = ["next", *([] if spoke[i] else ["tell"]), "mood", "boredom", *(["answered"] if asked[i] else [])]
        for purpose in purposes:
            question = scene.prompts[f"next.{purpose}"]
            asks.append(Ask(i, purpose, question.render(page=pages[i]), len(question.options)))
    found = scene.decide(asks)
    luck = scene.luck(0, 2)
    action, tells = np.empty(scene.n, np.int8), np.zeros(scene.n, np.bool_)
    after = before.copy()
    for i in range(scene.n):
        action[i] = NEXT_ACTIONS[pick(found[i, "next", -1], float(luck[i, 0]))]
        if action[i] == NextAction.LEAVE and not spoke[i]:
            tells[i] = luck[i, 1] > 1.0 - found[i, "tell", -1][1]
        after[i, 0] = found[i, "mood", -1] @ MOODS
        after[i, 1] = found[i, "boredom", -1] @ BOREDOMS
        if asked[i]:
            after[i, 2] += TRUST_RATE * (float(found[i, "answered", -1] @ ANSWERED) - before[i, 2])
    return Step(action, tells, after)


def say(scene: Scene, pages: list[str], step: Step, enjoyed: Enjoyed, reflects: BoolArray) -> Said:
    """Phase 4, one batch: at most one generation per user, for those who have something to say.

    Where no usable words come, the substitute is: no search or instruction, but the next page; no last word, but
    leaving; no comment; no insight. The row is flagged by the scene.
    """
    n = scene.n
    wanted = [_wish(scene, pages, step, enjoyed, reflects, i) for i in range(n)]
    speakers = [i for i in range(n) if wanted[i] is not None]
    replies = scene.write([w for w in wanted if w is not None])
    action = np.where(step.tells, np.int8(NextAction.INSTRUCT), step.action).astype(np.int8)
    message: Texts = [None] * n
    thoughts, words, verb = list(message), list(message), list(message)
    insight: list[tuple[str, float] | None] = [None] * n
    comments = np.full(enjoyed.comments.shape, None, object)
    for i, reply in zip(speakers, replies, strict=True):
        if isinstance(reply, SearchWords):
            message[i], thoughts[i], verb[i] = reply.query, reply.thought, "searched for"
        elif isinstance(reply, InstructWords):
            message[i], thoughts[i], verb[i] = reply.instruction, reply.thought, "told the app"
        elif isinstance(reply, CommentWords):
            thoughts[i], verb[i] = reply.thought, "commented"
            comments[i, int(np.argmax(enjoyed.comments[i]))] = words[i] = reply.comment
        elif isinstance(reply, InsightWords):
            insight[i] = (reply.insight, reply.importance / 10.0)
            thoughts[i] = reply.insight
        elif action[i] in (NextAction.SEARCH, NextAction.INSTRUCT):
            action[i] = NextAction.LEAVE if step.tells[i] else NextAction.NEXT
        words[i] = message[i] or words[i]
    any_thought = any(text is not None for text in thoughts)
    said_comments = comments if (comments != np.array(None)).any() else None
    return Said(action, message, thoughts if any_thought else None, said_comments, words, verb, insight)


def _wish(
    scene: Scene, pages: list[str], step: Step, enjoyed: Enjoyed, reflects: BoolArray, i: int
) -> tuple[int, str, str] | None:
    """What one user has to say: (row, purpose, body), or None. A message goes before a comment, that before insight."""
    if step.tells[i] or step.action[i] == NextAction.INSTRUCT:
        return i, "instruct", scene.prompts["words.instruct"].render(page=pages[i])
    if step.action[i] == NextAction.SEARCH:
        return i, "search", scene.prompts["words.search"].render(page=pages[i])
    if enjoyed.comments[i].any():
        k = int(np.argmax(enjoyed.comments[i]))
        return i, "comment", scene.prompts["words.comment"].render(item=scene.card(i, k))
    if step.action[i] == NextAction.LEAVE and reflects[i]:
        return i, "insight", scene.prompts["words.insight"].render(page=pages[i])
    return None
