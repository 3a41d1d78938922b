"""The user's changing state of mind in words: mood, boredom and trust (after RecoWorld, 2025)."""

from __future__ import annotations

from collections.abc import Sequence

from recsim_env.records import FloatArray

MOOD_WORDS = ((-0.6, "very bad"), (-0.2, "bad"), (0.2, "neither good nor bad"), (0.6, "good"), (9.0, "very good"))
BOREDOM_WORDS = ((0.2, "not bored"), (0.5, "a little bored"), (0.8, "quite bored"), (9.0, "very bored"))
TRUST_WORDS = (
    (-0.3, "you no longer trust the app to listen"),
    (0.3, "you neither trust nor distrust the app"),
    (9.0, "you trust the app to listen"),
)
"""Words of each state of mind: (upper limit, words), ascending."""


def _word(value: float, table: Sequence[tuple[float, str]]) -> str:
    return next(word for limit, word in table if value < limit)


def mindset_words(mindset: FloatArray) -> dict[str, str]:
    """Words for one user's mood, boredom and trust, float32 (3,)."""
    mood, boredom, trust = (float(x) for x in mindset)
    return {
        "mood": _word(mood, MOOD_WORDS),
        "boredom": _word(boredom, BOREDOM_WORDS),
        "trust": _word(trust, TRUST_WORDS),
    }


def shift_words(before: FloatArray, after: FloatArray) -> str:
    """The shift of a visit in one clause: what the session-wise memory keeps."""
    was, now = mindset_words(before), mindset_words(after)
    return f"your mood went from {was['mood']} to {now['mood']}, in the end you were {now['boredom']}"


OVERNIGHT = (0.5, 0.3, 1.0)
"""Shares of mood, boredom and trust that a new visit starts with; the same assumption as behavioural users make."""
