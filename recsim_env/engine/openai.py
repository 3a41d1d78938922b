"""Any endpoint that speaks OpenAI's chat completions: vLLM servers, other local servers, paid services."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field, JsonValue

from recsim_env.engine.base import log_normalise, sampling_of
from recsim_env.engine.endpoint import Endpoint, EndpointConfig
from recsim_env.engine.faults import Fault, Refused
from recsim_env.engine.structured import read_reply
from recsim_env.engine.untrusted import COMMON_SPECIAL_TOKENS
from recsim_env.errors import EngineError
from recsim_env.interfaces import Engine
from recsim_env.records import ChoiceRequest, Completion, FloatArray, TextRequest

MOST_OPTIONS = 20
"""Log-probabilities that endpoints return per token at most."""


class OpenAIConfig(EndpointConfig):
    """Settings of the openai engine."""

    dialect: Literal["vllm", "openai"] = "vllm"
    """``vllm``: a vLLM server (options by grammar, thinking switched off); ``openai``: plain chat completions."""
    special_tokens: tuple[str, ...] = COMMON_SPECIAL_TOKENS
    """Control tokens of the model, kept out of texts that others wrote; ``<|...|>`` always is."""
    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    """More fields for every request's body, as the endpoint wants them. No secrets: it is stored with the run."""


class OpenAIEngine(Engine):
    """Chat completions over HTTP, many at once, answers in the order of the requests.

    Decisions are scored with the log-probabilities of the first token. A vLLM server gives them over the options
    alone. Other endpoints give the 20 likeliest tokens: they are renormalised over the options among them, and an
    option that is not among them counts as half as likely as the least likely token returned (an upper bound is what
    is known of it); both are counted, as ``option_absent``.

    Raises:
        EngineError: If the variable of the API key is not set.
    """

    config_class = OpenAIConfig
    config: OpenAIConfig

    def __init__(self, config: OpenAIConfig) -> None:
        super().__init__(config)
        self.model, self.revision, self.special_tokens = config.model, config.revision, config.special_tokens
        self.endpoint = Endpoint(config, self.usage)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """Log-probabilities over each request's options, out of one generated token.

        Raises:
            InterruptedBatch: If the endpoint does not answer, refuses, or gives no log-probabilities.
        """
        for request in requests:
            if len(request.options) > MOST_OPTIONS:
                raise EngineError(
                    f"{request.key} has {len(request.options)} options; endpoints return {MOST_OPTIONS} "
                    "log-probabilities at most. Use fewer options (a coarser scale), or engine 'vllm'."
                )
        readers = [partial(self._read_choice, request) for request in requests]
        answers = self._post(requests, [self._choice_body(request) for request in requests], readers, "choose")
        unknown = [np.full(len(request.options), np.nan) for request in requests]
        return [found if found is not None else nan for found, nan in zip(answers, unknown, strict=True)]

    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """Texts; under a schema the endpoint is asked for JSON that fits it, and the reply is checked.

        Raises:
            InterruptedBatch: If the endpoint does not answer or refuses.
        """
        readers = [partial(self._read_text, request) for request in requests]
        answers = self._post(requests, [self._text_body(request) for request in requests], readers, "generate")
        lost = Completion("", error=f"no usable reply in {self.config.attempts} attempts")
        return [found if found is not None else lost for found in answers]

    def close(self) -> None:
        """Closes the connections."""
        self.endpoint.close()

    def _post(self, requests: Sequence[Any], bodies: list[dict[str, Any]], readers: list[Any], kind: str) -> list[Any]:
        start = time.perf_counter()
        places = [self.endpoint.place_of(request.key.user) for request in requests]
        try:
            return self.endpoint.post_all("/chat/completions", bodies, places, readers)
        finally:
            self.usage.requests[kind] += len(requests)
            self.usage.seconds += time.perf_counter() - start

    def _body(self, request: ChoiceRequest | TextRequest, max_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.config.model, "messages": [dict(m) for m in request.messages]}
        if self.config.dialect == "vllm":
            body |= {"max_tokens": max_tokens, "chat_template_kwargs": {"enable_thinking": False}}
        else:
            body["max_completion_tokens"] = max_tokens
        return body | self.config.extra_body

    def _choice_body(self, request: ChoiceRequest) -> dict[str, Any]:
        body = self._body(request, 1) | {"temperature": 0.0, "logprobs": True, "top_logprobs": MOST_OPTIONS}
        if self.config.dialect == "vllm":
            body["structured_outputs"] = {"choice": list(request.options)}
        return body

    def _text_body(self, request: TextRequest) -> dict[str, Any]:
        sampling = sampling_of(request.sampling, request.key)
        body = self._body(request, sampling.max_tokens)
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if request.schema is not None:
            schema = dict(request.schema)
            named = {"name": "reply", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body

    def _read_choice(self, request: ChoiceRequest, reply: dict[str, Any]) -> FloatArray:
        choice = self._first_choice(reply)
        try:
            listed = choice["logprobs"]["content"][0]["top_logprobs"]
            found = {str(entry["token"]): float(entry["logprob"]) for entry in listed}
        except (KeyError, IndexError, TypeError, ValueError):
            found = {}
        if not found:
            raise Refused(
                "no_logprobs",
                f"{self.config.model!r} returns no log-probabilities, and decisions are scored with them. Choose an "
                "endpoint or model that supports 'logprobs' and 'top_logprobs', or engine 'vllm' or 'transformers'.",
            )
        scores = np.array([found.get(option, math.nan) for option in request.options])
        absent = np.array([option not in found for option in request.options])
        if absent.all():
            raise Fault("option_absent", f"none of {list(request.options)} is among {list(found)}", bad_reply=True)
        if not np.isfinite(np.array(list(found.values()))).all():
            raise Fault("nan_logprobs", "log-probabilities that are no numbers", bad_reply=True)
        self.usage.failures["option_absent"] += int(absent.any())
        self.usage.failures = +self.usage.failures
        self._count_tokens(reply)
        return log_normalise(np.where(absent, min(found.values()) - math.log(2), scores))

    def _read_text(self, request: TextRequest, reply: dict[str, Any]) -> Completion:
        choice = self._first_choice(reply)
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        if text is not None and not isinstance(text, str):
            raise Fault("garbage", f"a message that is no text: {text!r}"[:200], bad_reply=True)
        reason = str(choice.get("finish_reason") or "")
        parsed, kind, error = read_reply(text or "", request.schema, reason)
        if kind:
            self.usage.failures[kind] += 1
        prompt, written = self._count_tokens(reply)
        self.usage.generated_tokens += written
        return Completion(text or "", parsed, reason, prompt, written, error)

    def _first_choice(self, reply: dict[str, Any]) -> dict[str, Any]:
        served = reply.get("model")
        # A dated name ("gpt-4o-2024-08-06" for "gpt-4o") is the same model.
        if isinstance(served, str) and not served.startswith(self.config.model):
            raise Refused(
                "wrong_model",
                f"The endpoint answers with the model {served!r}, not {self.config.model!r}. Set engine.model to what "
                "it serves (GET /models lists it).",
            )
        choices = reply.get("choices")
        if isinstance(choices, list) and not choices:
            raise Fault("empty_choices", "a reply without choices", bad_reply=True)
        if not isinstance(choices, list) or not isinstance(choices[0], dict):
            raise Fault("garbage", f"a reply that is no chat completion: {str(reply)[:200]}", bad_reply=True)
        return choices[0]

    def _count_tokens(self, reply: dict[str, Any]) -> tuple[int, int]:
        stated = reply.get("usage")
        stated = stated if isinstance(stated, dict) else {}
        prompt, written = (_count(stated, name) for name in ("prompt_tokens", "completion_tokens"))
        self.usage.prompt_tokens += prompt
        details = stated.get("prompt_tokens_details")
        self.usage.cached_tokens += _count(details if isinstance(details, dict) else {}, "cached_tokens")
        return prompt, written


def _count(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) else 0
