"""What a page leaves in short-term memory: one line per event, with an importance that its kind gives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsim_env.agents.page import Enjoyed, Said, mark_weight
from recsim_env.agents.prompting import WORDS_LENGTH, Cards
from recsim_env.agents.scene import Scene
from recsim_env.records import BoolArray, FloatArray, Histories, IntArray, Texts

HEARD, SKIPPED, SPOKEN, VISIT = 0.4, 0.1, 0.5, 0.6
"""Importance of what the recommender said, of what was skipped, of one's own or friends' words, of a whole visit."""
SKIPPED_TOLD = 3
"""Skipped titles of a page that are told."""


def page_events(
    scene: Scene, answer: Texts | None, clicked: BoolArray, enjoyed: Enjoyed, said: Said
) -> Iterator[tuple[int, str, float]]:
    """The events of a page, in their order: (row of the batch, text, importance in (0, 1])."""

    def quote(text: str) -> str:
        return scene.cards.quoter.quote(text, WORDS_LENGTH)

    for i in range(scene.n):
        heard = None if answer is None else answer[i]
        if heard is not None:
            yield i, f"The app said {quote(heard)}", HEARD
        for k in np.flatnonzero(clicked[i]).tolist():
            title, mark = scene.cards.titles([int(scene.items[i, k])]), enjoyed.marks[i, k]
            yield i, f"You watched {title}{f', mark {mark}' if mark else ''}", enjoyed.weight(i, k)
        skipped = np.flatnonzero(scene.shown[i] & ~clicked[i])[:SKIPPED_TOLD]
        if skipped.size:
            yield i, f"You skipped {scene.cards.titles(scene.items[i, skipped].tolist())}", SKIPPED
        words, insight = said.words[i], said.insight[i]
        if words is not None:
            yield i, f"You {said.verb[i]} {quote(words)}", SPOKEN
        if insight is not None:
            yield i, f"You have come to think: {quote(insight[0])}", insight[1]


def past_events(
    history: Histories, rows: IntArray, length: int, cards: Cards
) -> tuple[IntArray, list[str], FloatArray]:
    """What some users rated last before the simulation, told as the pages of the simulation are.

    Returns:
        Row of the user int64 (E,), text and importance float32 (E,) of each event, oldest first for every user.
    """
    who, texts, weight = [], [], []
    scale = cards.catalog.scale
    for row in rows.tolist():
        end = int(history.offsets[row + 1])
        for e in range(max(int(history.offsets[row]), end - length), end):
            title, mark = cards.titles([int(history.items[e])]), float(history.ratings[e])
            texts.append(f"You watched {title}{'' if np.isnan(mark) else f', mark {cards.mark(mark)}'}")
            weight.append(mark_weight(mark, scale.low, scale.high))
            who.append(row)
    return np.array(who, np.int64), texts, np.array(weight, np.float32)
