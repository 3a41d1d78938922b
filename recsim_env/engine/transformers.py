"""The engine that needs nothing beyond the core installation: a model of the package transformers in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recsim_env.draws import Draws
from recsim_env.engine import constrain
from recsim_env.engine.base import (
    ChatTokenizer,
    Sampling,
    cannot_load,
    check_length,
    local_model,
    log_normalise,
    revision_of,
    sampling_of,
    stop_tokens,
)
from recsim_env.engine.prefixes import Forward, Past, chunks, common_prefix, groups_of
from recsim_env.engine.structured import read_reply
from recsim_env.interfaces import Config, Engine
from recsim_env.records import ChoiceRequest, Completion, FloatArray, RequestKey, TextRequest

_LEAST_SHARED = 8
"""A user's own prefix of fewer tokens is not worth a pass of its own."""


class TransformersConfig(Config):
    """Settings of the transformers engine."""

    model: str
    """Folder of a Hugging Face model, its name on the hub, or ``builtin``: the package's own user language model."""
    revision: str = ""
    """Revision on the hub; also part of the key of stored replies."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights; bfloat16 halves the memory and is slow on processors that lack it."""
    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``, ...; auto takes a GPU where there is one."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest prompt and reply in tokens; null is what the model was made for."""
    batch_tokens: int = Field(default=32768, ge=1)
    """Tokens of one forward pass at most (rows times length, shared beginnings counted in every row)."""


class TransformersEngine(Engine):
    """Batched PyTorch inference that computes shared beginnings of prompts once.

    Words are drawn with keyed draws (the Gumbel trick: the largest of logits plus keyed Gumbel noise is a sample),
    so a text depends on its request's key alone, but for the last bits of the logits. With xgrammar installed JSON
    always fits its schema; without it the model writes freely, and what does not fit is an error of that reply.
    """

    config_class = TransformersConfig
    config: TransformersConfig
    takes_weights = True

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__(config)
        from transformers import AutoModelForCausalLM

        self.chat = ChatTokenizer.load(config.model, config.revision)
        self.model, self.special_tokens = config.model, self.chat.special_tokens
        self.revision = revision_of(config.model, config.revision)
        device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                local_model(config.model), revision=config.revision or None, dtype=getattr(torch, config.dtype),
                use_safetensors=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise cannot_load(config.model, error) from None
        self._limit = config.max_model_len or int(getattr(loaded.config, "max_position_embeddings", 4096))
        self._stop = stop_tokens(loaded, self.chat.tokenizer)
        self._vocabulary = int(loaded.get_output_embeddings().weight.shape[0])
        self._forward: Forward | None = Forward(loaded.to(device).eval(), self._stop[0])
        self._root: tuple[tuple[int, ...], Past] | None = None
        self._grammars: constrain.Grammars | None = None

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """Log-probabilities over each request's options, out of the logits of the prompt's last position."""
        start = time.perf_counter()
        options = [self.chat.options(request.options) for request in requests]
        prompts = self._prompts(requests, [1] * len(requests))
        found: dict[int, FloatArray] = {}
        for rows, logits, _ in self._prefill(prompts, [request.key for request in requests]):
            for i, row in zip(rows, logits, strict=True):
                scores = row[options[i]].cpu().numpy()
                found[i] = log_normalise(scores) if np.isfinite(scores).all() else np.full(len(scores), np.nan)
                self.usage.failures["nan_logprobs"] += int(np.isnan(found[i]).any())
        self.usage.failures = +self.usage.failures
        self.usage.requests["choose"] += len(requests)
        self.usage.seconds += time.perf_counter() - start
        return [found[i] for i in range(len(requests))]

    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """Texts, token by token for a whole batch at a time."""
        start = time.perf_counter()
        sampling = [sampling_of(request.sampling, request.key) for request in requests]
        prompts = self._prompts(requests, [s.max_tokens for s in sampling])
        found: dict[int, Completion] = {}
        room = max((s.max_tokens for s in sampling), default=0)
        for rows, logits, past in self._prefill(prompts, [request.key for request in requests], room):
            written = self._write(logits, past, [requests[i] for i in rows], [sampling[i] for i in rows])
            for i, (ids, reason) in zip(rows, written, strict=True):
                found[i] = self._completion(requests[i], len(prompts[i]), ids, reason)
        self.usage.requests["generate"] += len(requests)
        self.usage.seconds += time.perf_counter() - start
        return [found[i] for i in range(len(requests))]

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Gives the model other weights."""
        self._loaded().model.load_state_dict(weights)
        self._root = None  # computed with the old ones

    def close(self) -> None:
        """Frees the model."""
        self._forward = self._root = self._grammars = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _prompts(self, requests: Sequence[ChoiceRequest | TextRequest], room: Sequence[int]) -> list[list[int]]:
        prompts = self.chat.prompts([request.messages for request in requests])
        for request, ids, more in zip(requests, prompts, room, strict=True):
            check_length(ids, more, self._limit, request.key, self.config.model)
        return prompts

    def _prefill(
        self, prompts: Sequence[list[int]], keys: Sequence[RequestKey], room: int = 0
    ) -> Iterator[tuple[list[int], Tensor, Past]]:
        """Passes over all prompts: indices of a part of them, their last logits (B, V), their keys and values.

        Three levels: what the whole batch shares, what the prompts of one user share, the rest.
        """
        if not prompts:
            return
        total = sum(map(len, prompts))
        self.usage.prompt_tokens += total
        self.usage.cached_tokens += total  # less what is computed, see _pass
        shared = common_prefix(prompts)
        root = self._shared_root(prompts[0][:shared])
        shared = int(root.lengths[0]) if root is not None else 0
        groups = groups_of([(k.seed, k.user) for k in keys], prompts, shared, _LEAST_SHARED)
        sizes = [sum(len(prompts[i]) + room for i in group) for group in groups]
        for part in chunks([max(1, size) for size in sizes], self.config.batch_tokens):
            yield from self._continue(root, shared, [groups[g] for g in part], prompts, room)

    def _pass(self, past: Past | None, rows: Sequence[int], pieces: Sequence[list[int]]) -> tuple[Tensor, Past]:
        self.usage.cached_tokens -= sum(map(len, pieces))
        return self._loaded().run(past, rows, pieces)

    def _continue(
        self, root: Past | None, shared: int, groups: list[list[int]], prompts: Sequence[list[int]],
        room: int,
    ) -> Iterator[tuple[list[int], Tensor, Past]]:  # fmt: skip
        many = [group for group in groups if len(group) > 1]
        starts = [common_prefix([prompts[i] for i in group]) for group in many]
        if many:
            pieces = [prompts[group[0]][shared:end] for group, end in zip(many, starts, strict=True)]
            _, past = self._pass(root, [0] * len(pieces), pieces)
            owner = [(i, g) for g, group in enumerate(many) for i in group]
            yield from self._finish(past, owner, starts, prompts, room)
        alone = [(group[0], 0) for group in groups if len(group) == 1]
        yield from self._finish(root, alone, [shared], prompts, room)

    def _finish(
        self, past: Past | None, owner: list[tuple[int, int]], starts: list[int],
        prompts: Sequence[list[int]], room: int,
    ) -> Iterator[tuple[list[int], Tensor, Past]]:  # fmt: skip
        """The last pieces: ``owner`` holds (prompt, row of the past), ``starts`` how long each such row is."""
        for part in chunks([len(prompts[i]) + room for i, _ in owner], self.config.batch_tokens):
            rows = [owner[j] for j in part]
            pieces = [prompts[i][starts[row] :] for i, row in rows]
            logits, longer = self._pass(past, [row for _, row in rows], pieces)
            yield [i for i, _ in rows], logits, longer

    def _shared_root(self, prefix: list[int]) -> Past | None:
        """Keys and values of the batch's common beginning, kept for the next batch."""
        if not prefix:
            return None
        if self._root is not None:
            known = self._root[0]
            # A little more in common than before is no reason to compute it all again.
            if tuple(prefix[: len(known)]) == known and len(prefix) - len(known) < 1 + len(prefix) // 4:
                return self._root[1]
        self._root = (tuple(prefix), self._pass(None, [0], [prefix])[1])
        return self._root[1]

    def _write(
        self, logits: Tensor, past: Past, requests: list[TextRequest], sampling: list[Sampling]
    ) -> list[tuple[list[int], str]]:
        """Token ids and finish reason of each text."""
        forward, matchers = self._loaded(), self._matchers(requests)
        written: list[list[int]] = [[] for _ in requests]
        reasons = [""] * len(requests)
        live = list(range(len(requests)))
        for position in range(max(s.max_tokens for s in sampling)):
            if self._grammars is not None:
                self._grammars.restrict(logits, [matchers[i] for i in live])
            drawn = _draw(logits, [requests[i].key for i in live], [sampling[i] for i in live], position)
            for i, token in zip(live, drawn, strict=True):
                if matchers[i] is not None and not matchers[i].is_terminated():
                    matchers[i].accept_token(token)
                if token in self._stop:
                    reasons[i] = "stop"
                    continue
                written[i].append(token)
                if matchers[i] is not None and matchers[i].is_terminated():
                    reasons[i] = "stop"
                elif len(written[i]) == sampling[i].max_tokens:
                    reasons[i] = "length"
            rows = [row for row, i in enumerate(live) if not reasons[i]]
            live = [live[row] for row in rows]
            if not live:
                break
            logits, past = forward.run(past, rows, [written[i][-1:] for i in live])
        return list(zip(written, reasons, strict=True))

    def _matchers(self, requests: list[TextRequest]) -> list[Any]:
        if all(request.schema is None for request in requests) or not constrain.available():
            return [None] * len(requests)
        if self._grammars is None:
            self._grammars = constrain.Grammars(self.chat.tokenizer, self._vocabulary, self._stop)
        return [None if r.schema is None else self._grammars.matcher(r.schema) for r in requests]

    def _completion(self, request: TextRequest, n_prompt: int, ids: list[int], reason: str) -> Completion:
        text = self.chat.tokenizer.decode(ids, skip_special_tokens=True)
        parsed, kind, error = read_reply(text, request.schema, reason)
        if kind:
            self.usage.failures[kind] += 1
        self.usage.generated_tokens += len(ids)
        return Completion(text, parsed, reason, n_prompt, len(ids), error, tuple(ids))

    def _loaded(self) -> Forward:
        assert self._forward is not None, "the engine is closed"
        return self._forward


def _draw(logits: Tensor, keys: list[RequestKey], sampling: list[Sampling], position: int) -> list[int]:
    """The next token of each row: the likeliest at temperature 0, else a keyed sample."""
    scores = logits.clone()
    for row, settings in enumerate(sampling):
        if settings.temperature > 0:
            scores[row] /= settings.temperature
            if settings.top_p < 1:
                _keep_nucleus(scores[row], settings.top_p)
            scores[row] += _noise(keys[row], position, scores.shape[1]).to(scores.device)
    return [int(token) for token in scores.argmax(dim=1).tolist()]


def _noise(key: RequestKey, position: int, size: int) -> Tensor:
    """Gumbel noise float32 (size,) of one token position."""
    purpose = f"token {position} of {key.purpose} about {key.item}"
    luck = Draws(key.seed).keys(purpose, key.user, key.day, key.session, key.turn)
    return torch.from_numpy(Draws.gumbels(luck, np.arange(size))[0])


def _keep_nucleus(scores: Tensor, top_p: float) -> None:
    """Keeps the fewest likeliest tokens that hold ``top_p`` of the probability, in place (Holtzman et al., 2020)."""
    ordered, order = scores.sort(descending=True)
    before = torch.softmax(ordered, dim=0).cumsum(dim=0) - torch.softmax(ordered, dim=0)
    scores[order[before >= top_p]] = -torch.inf
