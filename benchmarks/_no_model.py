"""An engine without a model: it answers by a hash of the request, and can keep the requests."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsim_env.engine.untrusted import COMMON_SPECIAL_TOKENS
from recsim_env.interfaces import Engine
from recsim_env.records import ChoiceRequest, Completion, FloatArray, TextRequest

WORDS = "Less of what I have had enough of, and more of what made me laugh last time, please. "


class NoModel(Engine):
    """Probabilities and words that depend on the end of a request's prompt alone.

    Args:
        keep: Keep every request in ``kept``.

    Attributes:
        kept: Requests in the order in which they came.
        largest: Size of the largest batch so far: requests, and characters of their user messages.
    """

    model = "none"
    special_tokens = COMMON_SPECIAL_TOKENS

    def __init__(self, keep: bool = False) -> None:
        super().__init__()
        self.keep = keep
        self.kept: list[ChoiceRequest | TextRequest] = []
        self.largest = (0, 0)

    def _take(self, kind: str, requests: Sequence[Any]) -> None:
        self.usage.requests[kind] += len(requests)
        size = (len(requests), sum(len(r.messages[-1]["content"]) for r in requests))
        self.largest = max(self.largest, size)
        if self.keep:
            self.kept += requests

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """Log-probabilities, float64 (n_options,) each."""
        self._take("choose", requests)
        return [self._choose(request) for request in requests]

    def _choose(self, request: ChoiceRequest) -> FloatArray:
        n = len(request.options)
        bits = zlib.crc32(f"{request.key.user} {request.messages[-1]['content'][-400:]}".encode())
        p = 1.0 + (bits // 97 ** np.arange(n) % 97)
        return np.log(p / p.sum())

    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """Words that fit the schema."""
        self._take("generate", requests)
        return [words_for(request) for request in requests]

    def close(self) -> None:
        """Nothing to free."""


def words_for(request: TextRequest) -> Completion:
    """Words that fit a request's schema, one of the users' flat ones."""
    text = json.dumps(_words(request.schema or {}, request.key.user))
    return Completion(text, json.loads(text), "stop", 0, len(text) // 4)


def _words(schema: Mapping[str, Any], user: int) -> dict[str, Any]:
    """The object; texts differ between users."""
    found: dict[str, Any] = {}
    for name, part in schema.get("properties", {}).items():
        if part["type"] == "integer":
            found[name] = int(part.get("minimum", 0))
        else:
            found[name] = f"{user}: {WORDS}"[: part.get("maxLength", 80)].strip()
    return found
