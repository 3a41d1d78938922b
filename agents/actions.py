"""What users can do and say, typed: the meanings of option letters, and the schemas of words.

On a page, per item: skip, watch a fraction, give a mark on the catalogue's own scale, like, share, comment. After a
page: leave, next page, search, tell the recommender something. Between visits: chat with one friend, post to all
acquaintances, nothing. After RecAgent (Wang et al., "User Behavior Simulation with Large Language Model based
Agents", 2023) and RecoWorld (Liu et al., 2025); the schema is theirs put together, the wording ours.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from recsim_env.agents.prompting import LETTERS
from recsim_env.errors import ScenarioError
from recsim_env.records import NextAction, RatingScale

FRACTIONS = (0.1, 0.35, 0.7, 1.0)
"""Watched fractions behind the options of ``enjoy.fraction``."""
MOODS = (-1.0, -0.5, 0.0, 0.5, 1.0)
BOREDOMS = (0.0, 0.33, 0.67, 1.0)
ANSWERED = (-1.0, 0.0, 1.0)
"""Values behind the options of ``next.mood``, ``next.boredom`` and ``next.answered``."""
NEXT_ACTIONS = (NextAction.LEAVE, NextAction.NEXT, NextAction.SEARCH, NextAction.INSTRUCT)
"""Actions behind the options of ``next.next``."""

SUBSTITUTES = {"mood": 2, "answered": 1, "list": -1}
"""Option taken where the engine gave no usable reply, by purpose; 0 elsewhere: skip, no mark, no, leave, nothing.
For ``list`` it is the last one: none of the page."""


class Words(BaseModel):
    """Base of everything that users write; lengths are capped by the schema itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchWords(Words):
    """A search query."""

    query: str = Field(min_length=1, max_length=80)
    thought: str = Field(max_length=100)


class InstructWords(Words):
    """An instruction to the recommender: what the user has had enough of, and what it wants instead."""

    instruction: str = Field(min_length=1, max_length=160)
    thought: str = Field(max_length=100)


class CommentWords(Words):
    """A public comment."""

    comment: str = Field(min_length=1, max_length=160)
    thought: str = Field(max_length=100)


class InsightWords(Words):
    """What a reflection at the end of a visit leaves in memory."""

    insight: str = Field(min_length=1, max_length=160)
    importance: int = Field(ge=1, le=10)


class SocialWords(Words):
    """A chat message or a post."""

    message: str = Field(min_length=1, max_length=160)


SCHEMAS: dict[str, type[Words]] = {
    "search": SearchWords,
    "instruct": InstructWords,
    "comment": CommentWords,
    "insight": InsightWords,
    "chat": SocialWords,
    "post": SocialWords,
}
"""Class of each purpose's words."""
JSON_SCHEMAS: dict[str, dict[str, Any]] = {purpose: kind.model_json_schema() for purpose, kind in SCHEMAS.items()}
"""JSON schema of each purpose, one for a whole run."""


def star_options(scale: RatingScale) -> tuple[str, ...]:
    """Options of a mark: none at all, then every level of the scale.

    Raises:
        ScenarioError: If the scale has more levels than there are letters.
    """
    levels = scale.levels
    if len(levels) + 1 > len(LETTERS):
        raise ScenarioError(
            f"users.model 'llm': the rating scale has {len(levels)} levels, at most {len(LETTERS) - 1} fit on letters. "
            "Use a coarser scale (data.scale)."
        )
    return ("no mark", *(f"{level:g} of {scale.high:g}" for level in levels))
