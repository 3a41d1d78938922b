"""The ways that `llm_throughput.py` compares, each run and timed."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from _llm_requests import Page, Tap, n_decisions, pages_of, per_decision, per_item, per_page, unshared
from _no_model import NoModel

from recsim_env.build import World
from recsim_env.engine.base import EngineUsage
from recsim_env.engine.replies import RecordingEngine, ReplyStore
from recsim_env.interfaces import Engine
from recsim_env.records import ChoiceRequest, TextRequest
from recsim_env.scenario import load_scenario

PAGES = 2
"""Pages that every user looks at: of one visit, or of two, if it leaves after the first."""
OURS = "**our users as they run** (pointwise)"
NO_WORDS = "our users, decisions only, no words"
Build = Callable[[Page], list[list[TextRequest]]]
"""The requests of a page, phase by phase."""
BASELINES: dict[str, Build] = {"JSON per title": per_item, "JSON per decision": per_decision, "JSON per page": per_page}
ALONE, ALONE_SHARED, TOGETHER = "one at a time, no shared prefix", "one at a time", "batched"


@dataclass(slots=True)
class Part:
    """What one way did in one repeat, or in several.

    Attributes:
        turns: User-turns.
        decisions: Decisions that were made.
        bad: Replies that could not be used.
        seconds: By the clock of the stand.
        usage: What the engine was asked in it.
    """

    turns: int = 0
    decisions: int = 0
    bad: int = 0
    seconds: float = 0.0
    usage: EngineUsage = field(default_factory=EngineUsage)

    def __add__(self, other: Part) -> Part:
        """Both together."""
        return Part(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def rate(self) -> float:
        """User-turns per second."""
        return self.turns / self.seconds

    @property
    def requests(self) -> int:
        """Requests that the engine answered."""
        return sum(self.usage.requests.values())

    @property
    def uncached(self) -> int:
        """Prompt tokens that were computed."""
        return self.usage.prompt_tokens - self.usage.cached_tokens

    @property
    def hit_share(self) -> float:
        """Share of prompt tokens that came from the prefix cache."""
        return self.usage.cached_tokens / max(self.usage.prompt_tokens, 1)


@dataclass(frozen=True, slots=True)
class Stand:
    """Where ways are measured.

    Attributes:
        engine: The engine.
        clock: Gives seconds: wall time, or this process's CPU time where others use the machine as well.
    """

    engine: Engine
    clock: Callable[[], float] = time.perf_counter


def timed(name: str, stand: Stand, work: Callable[[], Part]) -> Part:
    """Runs one way from an empty prefix cache; ``work`` gives counts, and time and usage are put in."""
    empty_cache(stand.engine)
    before = stand.engine.usage + EngineUsage()
    begun = stand.clock()
    part = work()
    part.seconds, part.usage = stand.clock() - begun, stand.engine.usage.since(before)
    print(f"{name}: {part.turns} user-turns in {part.seconds:.1f} s", file=sys.stderr, flush=True)
    return part


def empty_cache(engine: Any) -> None:
    """The engine forgets all prompts."""
    if hasattr(engine, "_llm"):
        assert engine._llm.reset_prefix_cache()
    engine._root = None


def seated(engine: Engine, seed: int, users: int, decide: str = "pointwise") -> tuple[Any, Callable[[Any], Any]]:
    """A simulator whose users ask ``engine``, and what serves them."""
    settings = [f"users.count={users}", f"seed={seed}", f"users.decide={decide}", "engine.model=none"]
    world = World(load_scenario("llm_quickstart", settings))
    world.__dict__["engine"] = engine
    simulator = world.simulator(seed)
    recommender = world.recommender(world.scenario.recommenders[0])
    return simulator, lambda obs: simulator.serve(recommender, obs)


def recorded(seed: int, users: int) -> list[ChoiceRequest]:
    """Decisions of first pages, asked of an engine without a model."""
    asked = NoModel(keep=True)
    simulator, serve = seated(asked, seed, users)
    simulator.open(np.arange(users), 0, 0)
    obs = simulator.observe(np.arange(users))
    simulator.react(obs, serve(obs))
    return [request for request in asked.kept if isinstance(request, ChoiceRequest)]


def simulate(
    name: str, stand: Stand, seed: int, users: int, decide: str, words: bool = True
) -> tuple[Part, list[ChoiceRequest]]:
    """Our users' first pages as a run makes them, every reply stored; also the decisions that were asked."""
    with tempfile.TemporaryDirectory() as place:
        tap, store = Tap(stand.engine, words), ReplyStore(Path(place) / "replies.sqlite")
        simulator, serve = seated(RecordingEngine(tap, store), seed, users, decide)

        def work() -> Part:
            rows, part = np.arange(users), Part()
            simulator.open(rows, 0, 0)
            for _ in range(PAGES):
                obs = simulator.observe(rows)
                outcome = simulator.react(obs, serve(obs))
                part += Part(len(rows), 0, int(outcome.trace.fallback.sum()))
                simulator.open(rows[outcome.left], obs.day[outcome.left] + 1, 0)  # who leaves comes back the next day
            part.decisions = sum("~" not in request.key.purpose for request in tap.kept)
            return part

        part = timed(name, stand, work)
        store.close()
    return part, tap.kept


def one_by_one(name: str, stand: Stand, pages: Sequence[Page], build: Build, shared: bool) -> Part:
    """Every request on its own, in the order in which a loop over users makes them."""
    numbers = count()

    def work() -> Part:
        requests = [r for page in pages for phase in build(page) for r in phase]
        if not shared:
            requests = [unshared(r, next(numbers)) for r in requests]
        bad = sum(stand.engine.generate([request])[0].error is not None for request in requests)
        return Part(len(pages), sum(map(n_decisions, requests)), bad)

    return timed(name, stand, work)


def batched(name: str, stand: Stand, pages: Sequence[Page], build: Build) -> Part:
    """The same requests of all users at once, phase after phase and page after page."""

    def work() -> Part:
        part = Part(len(pages))
        for number in range(PAGES):
            built = [build(page) for page in pages if page.number == number]
            for phase in zip(*built, strict=True):
                requests = [r for some in phase for r in some]
                bad = sum(reply.error is not None for reply in stand.engine.generate(requests))
                part += Part(0, sum(map(n_decisions, requests)), bad)
        return part

    return timed(name, stand, work)


def measure(stand: Stand, seed: int, users: int, serial: int) -> dict[str, Part]:
    """All ways once. The first ``serial`` users are those that are asked one request at a time."""
    found: dict[str, Part] = {}

    def ours(name: str, decide: str, words: bool = True) -> list[ChoiceRequest]:
        found[name], kept = simulate(name, stand, seed, users, decide, words)
        return kept

    kept = ours(OURS, "pointwise")
    ours("our users, listwise", "listwise")
    ours(NO_WORDS, "pointwise", words=False)
    ours("our users, listwise, decisions only, no words", "listwise", words=False)
    pages = pages_of(kept)
    few = pages_of_first(pages, serial)
    for way, build in BASELINES.items():
        for kind, shared in ((ALONE, False), (ALONE_SHARED, True)):
            name = f"{way}, {kind}"
            found[name] = one_by_one(name, stand, few, build, shared)
        found[f"{way}, {TOGETHER}"] = batched(f"{way}, {TOGETHER}", stand, pages, build)
    return found


def pages_of_first(pages: Iterable[Page], n: int) -> list[Page]:
    """The pages of the first n users."""
    users = list(dict.fromkeys(page.request.key.user for page in pages))[:n]
    return [page for page in pages if page.request.key.user in users]
