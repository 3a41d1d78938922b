"""The requests of other simulators, made from the prompts of ours: the same users, the same pages, decisions as JSON.

What our users asked is recorded (:class:`Tap`) and cut into the user's own start of the prompt, the titles of the page,
and the page with what was done on it. Around these stand questions that are answered in JSON, in three ways:

- ``per_item``: one JSON per title with a short reason, and one for what comes next, as SUBER asks (Corecco et al.,
  "SUBER: An RL Environment with Simulated Human Behavior for Recommender Systems", 2024).
- ``per_decision``: one JSON with a short reason for every decision that our users make, step by step as RecAgent.
- ``per_page``: a single JSON for the whole page: the least that can be asked.

Their own prompts are longer and their models write more; the JSON comes by grammar here, so that it always fits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from _no_model import words_for
from pydantic import BaseModel, ConfigDict, Field

from recsim_env.agents.prompting import Prompts
from recsim_env.engine.base import EngineUsage
from recsim_env.interfaces import Engine
from recsim_env.records import ChoiceRequest, Completion, FloatArray, TextRequest

SAMPLING = {"temperature": 0.8, "max_tokens": 320}
"""As our users write."""
Next = Literal["leave", "next page", "search", "tell the app"]


class Reply(BaseModel):
    """Base of the JSON objects; nothing but the stated fields."""

    model_config = ConfigDict(extra="forbid")


class ItemReply(Reply):
    """One title."""

    reason: str = Field(max_length=60)
    watch: bool
    mark: int = Field(ge=0, le=10)


class NextReply(Reply):
    """What comes after the page."""

    thought: str = Field(max_length=100)
    next: Next
    mood: int = Field(ge=1, le=5)


class DecisionReply(Reply):
    """One of our users' decisions, its option as a letter."""

    reason: str = Field(max_length=60)
    answer: Literal["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L"]


class Verdict(Reply):
    """One title of a whole page."""

    watch: bool
    mark: int = Field(ge=0, le=10)


class PageReply(Reply):
    """A whole page."""

    titles: list[Verdict]
    next: Next
    mood: int = Field(ge=1, le=5)
    thought: str = Field(max_length=100)


@dataclass(frozen=True, slots=True)
class Page:
    """One user's page, cut out of recorded requests.

    Attributes:
        number: Number of the page among the user's.
        request: The request about its first title; names user and moment.
        start: The user's prompt up to the page.
        cards: The titles as the user sees them.
        after: The user's prompt with the page and what was done on it, up to the question.
        decisions: All decisions that our user made on it.
    """

    number: int
    request: ChoiceRequest
    start: str
    cards: tuple[str, ...]
    after: str
    decisions: tuple[ChoiceRequest, ...]


class Tap(Engine):
    """Hands everything to an engine, and keeps the decisions that were asked.

    Args:
        engine: Answers.
        words: False answers requests for words with a fixed text, so that only decisions cost something.
    """

    def __init__(self, engine: Engine, words: bool = True) -> None:
        super().__init__()
        self.engine, self.words = engine, words
        self.model, self.revision, self.special_tokens = engine.model, engine.revision, engine.special_tokens
        self.kept: list[ChoiceRequest] = []

    @property
    def usage(self) -> EngineUsage:  # type: ignore[override]
        """The engine's."""
        return self.engine.usage

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """The engine's answers."""
        self.kept += requests
        return self.engine.choose(requests)

    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """The engine's words, or fixed ones."""
        return self.engine.generate(requests) if self.words else [words_for(request) for request in requests]

    def close(self) -> None:
        """The engine belongs to somebody else."""


def pages_of(kept: Iterable[ChoiceRequest]) -> list[Page]:
    """The pages behind recorded decisions (asked item by item): everybody's first, then everybody's second, ..."""
    item, last = (Prompts()[name].template.template for name in ("watch.item", "next.next"))
    before, behind = item.split("$item")
    question = last.split("$page")[1]
    moments: dict[tuple[int, int, int, int], list[ChoiceRequest]] = {}
    for request in kept:
        key = request.key
        if "~" not in key.purpose:
            moments.setdefault((key.user, key.day, key.session, key.turn), []).append(request)
    found: list[Page] = []
    numbers: Counter[int] = Counter()
    for (user, *_), decisions in sorted(moments.items()):
        watched = [d for d in decisions if d.key.purpose == "watch"]
        if not watched:  # an empty page: a search that found nothing
            continue
        texts = [d.messages[-1]["content"] for d in watched]
        cards = tuple(text.rpartition(before)[2].partition(behind)[0] for text in texts)
        start = texts[0].rpartition(before)[0]
        assert all(text.startswith(start) for text in texts)
        done = next(d.messages[-1]["content"] for d in decisions if d.key.purpose == "next")
        after = done.rpartition(question)[0]
        found.append(Page(numbers[user], watched[0], start, cards, after, tuple(decisions)))
        numbers[user] += 1
    return sorted(found, key=lambda page: page.number)


def _ask(request: ChoiceRequest, content: str, schema: type[Reply], purpose: str) -> TextRequest:
    messages = (request.messages[0], {**request.messages[-1], "content": content})
    key = replace(request.key, purpose=purpose)
    return TextRequest(messages, key, schema.model_json_schema(), SAMPLING)


def per_item(page: Page) -> list[list[TextRequest]]:
    """One request per title, then one for what comes next."""
    ask = (
        "Do you watch it, and which mark from 0 to 10 do you give it? Write JSON: "
        '{"reason": a few words, "watch": true or false, "mark": 0 to 10}'
    )
    titles = [
        _ask(page.request, f"{page.start}# The app shows you\n{card}\n{ask}", ItemReply, f"json item {i}")
        for i, card in enumerate(page.cards)
    ]
    ask = (
        "\nWhat do you do next, and how do you feel? Write JSON: "
        '{"thought": one short sentence, "next": "leave", "next page", "search" or "tell the app", "mood": 1 to 5}'
    )
    return [titles, [_ask(page.request, page.after + ask, NextReply, "json next")]]


def per_decision(page: Page) -> list[list[TextRequest]]:
    """One request for every decision of ours: the same question, answered by a letter in JSON."""
    ask = 'in JSON: {"reason": a few words, "answer": the letter}'
    return [
        [_ask(d, f"{d.messages[-1]['content']} {ask}", DecisionReply, f"one {d.key.purpose}") for d in page.decisions]
    ]


def per_page(page: Page) -> list[list[TextRequest]]:
    """A single request."""
    cards = "\n".join(f"{i}. {card}" for i, card in enumerate(page.cards, 1))
    ask = (
        "For each title: do you watch it, and which mark from 0 to 10 do you give it? What do you do next, and how do "
        'you feel? Write JSON: {"titles": [{"watch": true or false, "mark": 0 to 10}, ...], "next": "leave", '
        '"next page", "search" or "tell the app", "mood": 1 to 5, "thought": one short sentence}'
    )
    request = _ask(page.request, f"{page.start}# The app shows you a page\n{cards}\n{ask}", PageReply, "json page")
    schema: Any = dict(request.schema or {})
    count = {"minItems": len(page.cards), "maxItems": len(page.cards)}
    schema["properties"] = {**schema["properties"], "titles": {**schema["properties"]["titles"], **count}}
    return [[replace(request, schema=schema)]]


def unshared(request: TextRequest, number: int) -> TextRequest:
    """The request with a beginning of its own, so that no prefix cache knows any of it."""
    first = {**request.messages[0], "content": f"Request {number}. {request.messages[0]['content']}"}
    return replace(request, messages=(first, *request.messages[1:]))


def n_decisions(request: Any) -> int:
    """How many decisions a request for JSON holds."""
    if request.key.purpose == "json page":
        return int(2 * request.schema["properties"]["titles"]["minItems"] + 2)
    return 2 if request.key.purpose.startswith("json") else 1
