"""What a prompt of ``agents/prompts`` says of its user and of the page before it, read back for the teacher."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from recsim_env.agents.mindset import BOREDOM_WORDS, MOOD_WORDS, TRUST_WORDS

QUOTED = re.compile(r"<data>(.*?)</data>")
"""Quoted material."""
_TOLD = re.compile(r"\(You heard of it from (?:a friend|(\d+) friends): mark (-?[\d.]+) on average\.\)")
_ABOUT = re.compile(r"a film that you watched today: <data>(.*?)</data>, your mark (-?[\d.]+) of")
_YEAR = re.compile(r" \(\d{4}\)$")
TITLE = 48
"""Longest title, in characters, that templated words name."""
HABITS = {
    "watch rather than talk": "watcher", "search for yourself": "explorer", "like to judge": "critic",
    "like to chat": "chatter", "like to post": "poster", "few genres": "narrow", "all kinds of things": "varied",
    "watch a lot": "active", "now and then": "seldom", "harsh judge": "harsh", "generous judge": "generous",
}  # fmt: skip
"""Clauses of a persona that are features."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a prompt says of its user and of what stands on the page.

    Attributes:
        features: Numbers by name, see the table.
        words: What fills the places of templates.
        mean: The user's mean mark, NaN where the persona tells none.
        heard: Mean mark of the friends who spoke of the film, NaN where none did.
        mark: The user's mark of the film that it is to speak of, NaN where it is to speak of none.
    """

    features: dict[str, float]
    words: dict[str, list[str]]
    mean: float
    heard: float
    mark: float

    @classmethod
    def of(cls, content: str, categories: Sequence[str]) -> Facts:
        """Reads a prompt of ``agents/prompts``."""
        persona, _, rest = content.partition("\n\n")
        liked, avoided = _tastes(persona)
        features = {name: 1.0 for clause, name in HABITS.items() if clause in persona}
        features["mood"] = _level(rest, "Your mood is ", MOOD_WORDS) / 2.0 - 1.0
        features["bored"] = float(_level(rest, "; you are ", BOREDOM_WORDS))
        features["trust"] = _level(rest, "; ", TRUST_WORDS) - 1.0
        loved = re.search(r"You loved <data>(.*?)</data>", persona)
        mean = re.search(r"mean mark: (-?[\d.]+)\)", persona)
        question = content.rpartition("\n\n")[2]
        watched, skipped = _page(question, features)
        card = QUOTED.search(question) if "# The page" not in question else None
        genres = [
            name for name in categories if card and name in card[1].partition("). ")[2].partition(". ")[0].split(", ")
        ]
        features["liked"] = float(sum(name in liked for name in genres))
        features["avoided"] = float(any(name in avoided for name in genres))
        features["seen"] = float("(You have watched it before.)" in question)
        told = _TOLD.search(question)
        features["told"] = 0.0 if told is None else float(told[1] or 1)
        about = _ABOUT.search(question)
        words = {
            "liked": liked[:1], "other": liked[1:], "avoided": avoided, "watched": watched, "skipped": skipped,
            "loved": loved[1].split("; ") if loved else [], "genre": genres,
            "title": [card[1].partition("). ")[0] + ")"] if card and "). " in card[1] else [],
            "film": [about[1]] if about else [],
        }  # fmt: skip
        for name in ("watched", "skipped", "loved", "title"):
            words[name] = [t for t in (_YEAR.sub("", title) for title in words[name]) if len(t) <= TITLE]
        return cls(features, words, _number(mean), _number(told, 2), _number(about, 2))


def _number(found: re.Match[str] | None, group: int = 1) -> float:
    return float("nan") if found is None else float(found[group])


def _tastes(persona: str) -> tuple[list[str], list[str]]:
    found = re.search(r"^You like (.*?)\.$", persona, re.MULTILINE)
    if not found:
        return [], []
    liked, _, avoided = found[1].partition(", and seldom ")
    return liked.split(", "), [avoided] if avoided else []


def _level(text: str, before: str, table: Sequence[tuple[float, str]]) -> int:
    """Number of the word of a mindset that a prompt holds, the middle one where it holds none."""
    for level, (_, word) in enumerate(table):
        if f"{before}{word};" in text or f"{before}{word}." in text:
            return level
    return 0 if len(table) == 4 else len(table) // 2


def _page(question: str, features: dict[str, float]) -> tuple[list[str], list[str]]:
    """Titles watched and skipped on the page that a question tells; counts become features."""
    lines = re.findall(r"^- <data>(.*?)</data>: (.*)$", question, re.MULTILINE)
    watched = [title for title, done in lines if done.startswith("watched")]
    features["nothing"] = float(bool(lines) and not watched)
    features["watched"] = min(len(watched), 3) / 3.0
    features["enjoyed"] = float(any("liked" in done for _, done in lines))
    return watched, [title for title, done in lines if done == "skipped"]
