"""Asks an engine in ordered batches; bad replies are asked again, then counted, and never become words.

A retry is a request of its own (its purpose ends in ``~1``), so a stored bad reply does not answer it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from recsim_env.agents.actions import SCHEMAS, SUBSTITUTES, Words
from recsim_env.engine.structured import validated
from recsim_env.engine.untrusted import clean
from recsim_env.errors import EngineError
from recsim_env.interfaces import Engine
from recsim_env.records import BoolArray, ChoiceRequest, Completion, FloatArray, TextRequest

GRACE = 20
"""The share of failures counts from so many requests on; one bad reply among three is no verdict."""


@dataclass(slots=True)
class Asker:
    """The users' side of an engine.

    Attributes:
        engine: Answers.
        retries: How often a bad reply is asked for again.
        max_failure_share: Share of bad replies, after retries and for decisions and words apart, past which the run
            fails.
        asked: Requests by purpose.
        failed: Replies that stayed bad, by purpose.
        errors: The start of the last three bad replies; the whole of all of them stands among the stored replies.
    """

    engine: Engine
    retries: int = 1
    max_failure_share: float = 0.05
    asked: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """A new population: counts start again, so that a resumed run judges its failures as an unbroken one does."""
        self.asked, self.failed, self.errors = Counter(), Counter(), []

    def choose(self, requests: Sequence[ChoiceRequest]) -> tuple[list[FloatArray], BoolArray]:
        """Probabilities over each request's options.

        Returns:
            float64 (n_options,) per request, and bool (n,): no usable reply came, and the option in
            :data:`~recsim_env.agents.actions.SUBSTITUTES` has probability 1.

        Raises:
            EngineError: If the engine cannot answer, or too many replies are bad.
        """
        found: list[FloatArray | None] = [None] * len(requests)
        open_ = list(range(len(requests)))
        for attempt in range(self.retries + 1):
            if not open_:
                break
            replies = self.engine.choose([_again(requests[i], attempt) for i in open_])
            for i, reply in zip(open_, replies, strict=True):
                found[i] = _probabilities(reply, len(requests[i].options))
                if found[i] is None:
                    self._keep(requests[i].key.purpose, repr(reply))
            open_ = [i for i in open_ if found[i] is None]
        bad = np.zeros(len(requests), np.bool_)
        bad[open_] = True
        self._count("decisions", requests, bad)
        return [p if p is not None else _substitute(r) for p, r in zip(found, requests, strict=True)], bad

    def write(self, requests: Sequence[TextRequest]) -> list[Words | None]:
        """Words under the schema of each request's purpose, None where no usable reply came.

        Raises:
            EngineError: If the engine cannot answer, or too many replies are bad.
        """
        found: list[Words | None] = [None] * len(requests)
        open_ = list(range(len(requests)))
        tokens = tuple(getattr(self.engine, "special_tokens", ()))
        for attempt in range(self.retries + 1):
            if not open_:
                break
            replies = self.engine.generate([_again(requests[i], attempt) for i in open_])
            for i, reply in zip(open_, replies, strict=True):
                purpose = requests[i].key.purpose
                found[i] = _words(reply, SCHEMAS[purpose], tokens)
                if found[i] is None:
                    self._keep(purpose, reply.text)
            open_ = [i for i in open_ if found[i] is None]
        bad = np.zeros(len(requests), np.bool_)
        bad[open_] = True
        self._count("words", requests, bad)
        return found

    def _keep(self, purpose: str, raw: str) -> None:
        self.errors = [*self.errors[-2:], f"{purpose}: {raw[:160]}"]

    def _count(self, kind: str, requests: Sequence[Any], bad: BoolArray) -> None:
        for request, failed in zip(requests, bad, strict=True):
            for name in (kind, request.key.purpose):
                self.asked[name] += 1
                self.failed[name] += int(failed)
        if self.failed[kind] > self.max_failure_share * max(self.asked[kind], GRACE):
            raise EngineError(
                f"{self.failed[kind]} of {self.asked[kind]} {kind} of the users' model could not be used, more than "
                f"engine.max_failure_share = {self.max_failure_share:g} allows. Last reply: {self.errors[-1]!r}. "
                "Every reply is kept; go on with --resume and a larger engine.max_failure_share, or choose a better "
                "model."
            )

    def report(self) -> dict[str, Any]:
        """Counts for the manifest."""
        return {
            "asked": dict(sorted(self.asked.items())),
            "failed": {name: n for name, n in sorted(self.failed.items()) if n},
            "last_bad_replies": self.errors,
        }


def _again(request: Any, attempt: int) -> Any:
    """The request under the name of its attempt."""
    if not attempt:
        return request
    return replace(request, key=replace(request.key, purpose=f"{request.key.purpose}~{attempt}"))


def _probabilities(reply: Any, n_options: int) -> FloatArray | None:
    """Probabilities out of log-probabilities, None where they are none."""
    logs = np.asarray(reply, np.float64)
    if logs.shape != (n_options,) or np.isnan(logs).any() or logs.max() > 1e-6:
        return None
    p = np.exp(logs)
    total = float(p.sum())
    return p / total if abs(total - 1.0) < 1e-3 else None


def _substitute(request: ChoiceRequest) -> FloatArray:
    p = np.zeros(len(request.options))
    p[SUBSTITUTES.get(request.key.purpose, 0)] = 1.0
    return p


def _words(reply: Completion, schema: type[Words], special_tokens: tuple[str, ...]) -> Words | None:
    """The reply as its schema's class, its texts cleaned; None if anything is wrong with it."""
    words, _ = validated(reply, schema)
    if words is None:
        return None
    try:
        plain = {
            name: clean(value, 1000, special_tokens) if isinstance(value, str) else value
            for name, value in words.model_dump().items()
        }
        return schema.model_validate(plain)
    except ValidationError:  # nothing was left of a text
        return None
