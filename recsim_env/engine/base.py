"""What all engines share: counting, sampling settings, and the way from chat messages to token ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsim_env.errors import EngineError
from recsim_env.records import FloatArray, RequestKey

BUILTIN = "builtin"
"""Name of the user language model that ships with the package; docs/user-lm.md."""


@dataclass(slots=True)
class EngineUsage:
    """What an engine was asked and what it cost.

    Attributes:
        requests: Requests by kind (``choose``, ``generate``), those answered from stored replies left out.
        stored: Requests answered from stored replies.
        prompt_tokens: Tokens of all prompts.
        cached_tokens: Those of them that did not have to be computed, because an earlier prompt began alike.
        generated_tokens: Tokens of written texts; a choice writes none.
        seconds: Time spent in the engine.
        retries: Attempts beyond a request's first.
        failures: Failed attempts and unusable replies, by kind.
    """

    requests: Counter[str] = field(default_factory=Counter)
    stored: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    retries: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: EngineUsage) -> EngineUsage:
        """The sum of two engines, or of two parts of a run."""
        return EngineUsage(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    def since(self, before: EngineUsage) -> EngineUsage:
        """What was added after ``before``, an earlier copy of this usage."""
        plain = ("stored", "prompt_tokens", "cached_tokens", "generated_tokens", "seconds", "retries")
        return EngineUsage(
            requests=self.requests - before.requests,
            failures=self.failures - before.failures,
            **{name: getattr(self, name) - getattr(before, name) for name in plain},
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as it stands in a manifest."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {
            **plain,
            "requests": dict(sorted(self.requests.items())),
            "failures": dict(sorted(self.failures.items())),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> EngineUsage:
        """Reads what :meth:`as_dict` gave."""
        return cls(**{**plain, "requests": Counter(plain["requests"]), "failures": Counter(plain["failures"])})


class InterruptedBatch(EngineError):
    """An engine that stopped in the middle of a batch.

    Attributes:
        answers: One entry per request, in request order; None where there is no answer. They can be stored, so that
            the work is not lost.
    """

    def __init__(self, message: str, answers: Sequence[Any]) -> None:
        self.answers = list(answers)
        super().__init__(message)


class Sampling(BaseModel):
    """How words are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=0.8, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=1)


def sampling_of(values: Mapping[str, Any], key: RequestKey) -> Sampling:
    """The sampling settings of a request, the same defaults for every engine.

    Raises:
        EngineError: If a setting is unknown or out of range.
    """
    try:
        return Sampling.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise EngineError(
            f"Sampling {dict(values)} of {key}: {'.'.join(map(str, first['loc']))}: {first['msg']}. Allowed are "
            "temperature (0 or more; 0 takes the likeliest token), top_p (0 to 1) and max_tokens (1 or more)."
        ) from None


def log_normalise(scores: FloatArray) -> FloatArray:
    """Scores of options (logits or log-probabilities, along the last axis) to normalised log-probabilities, float64."""
    scores = np.asarray(scores, np.float64)
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


class ChatTokenizer:
    """A model's tokenizer, as engines use it: chat messages to token ids, options to single tokens.

    Args:
        tokenizer: A tokenizer of the package transformers.
        model: Name of the model, for messages.

    Raises:
        EngineError: If the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, model: str) -> None:
        self.tokenizer, self.model = tokenizer, model
        self._options: dict[tuple[str, ...], list[int]] = {}
        if not getattr(tokenizer, "chat_template", None):
            raise EngineError(f"The tokenizer of {model!r} has no chat template. Choose an instruction-tuned model.")

    @classmethod
    def load(cls, model: str, revision: str | None = None) -> ChatTokenizer:
        """Loads the tokenizer of a folder or of a name on the Hugging Face hub; runs no code of the model's.

        Raises:
            EngineError: If there is none.
        """
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(local_model(model), revision=revision or None), model)
        except (OSError, ValueError) as error:
            raise cannot_load(model, error) from None

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """All tokens that steer a chat, to be kept out of texts that others wrote."""
        added = (str(token) for token in self.tokenizer.added_tokens_decoder.values())
        return tuple(sorted({*self.tokenizer.all_special_tokens, *added}))

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of one chat; see :meth:`prompts`."""
        return self.prompts([messages])[0]

    def prompts(self, chats: Sequence[Sequence[Mapping[str, str]]]) -> list[list[int]]:
        """Token ids of chats, up to where the assistant's first token stands; thinking is switched off.

        All texts go to the tokenizer in one call, which uses every core.

        Raises:
            EngineError: If the model's template refuses the messages.
        """
        texts = [self._render(messages) for messages in chats]
        if not texts:
            return []
        # The template has put in what begins and ends a chat.
        found = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        return [list(ids) for ids in found["input_ids"]]

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True,
                enable_thinking=False,
            )  # fmt: skip
        except TemplateError as error:
            roles = [message.get("role") for message in messages]
            raise EngineError(f"The chat template of {self.model!r} refuses messages of {roles}: {error}.") from None
        return text

    def options(self, options: Sequence[str]) -> list[int]:
        """The token id of each option.

        Raises:
            EngineError: If an option is not one token, or two options are the same one.
        """
        key = tuple(options)
        if key not in self._options:
            self._options[key] = self._option_ids(key)
        return self._options[key]

    def _option_ids(self, options: tuple[str, ...]) -> list[int]:
        found = [self.tokenizer.encode(option, add_special_tokens=False) for option in options]
        for option, ids in zip(options, found, strict=True):
            if len(ids) != 1:
                raise EngineError(
                    f"Option {option!r} is {len(ids)} tokens for {self.model!r}; an option must be a single token. "
                    "Use letters (A, B, C, ...) and say in the prompt what each stands for."
                )
        if len({ids[0] for ids in found}) < len(found):
            raise EngineError(f"Two of the options {list(options)} are the same token for {self.model!r}.")
        return [int(ids[0]) for ids in found]


def check_length(ids: Sequence[int], room: int, limit: int, key: RequestKey, model: str) -> None:
    """Refuses a prompt that does not fit.

    Raises:
        EngineError: If prompt and reply are longer than the model's limit.
    """
    if len(ids) + room > limit:
        raise EngineError(
            f"The prompt of {key} has {len(ids)} tokens; with {room} for the reply that is more than the {limit} of "
            f"{model!r}. Shorten the prompts (memory, history, slate_size) or raise engine.max_model_len."
        )


def local_model(model: str) -> str:
    """What engines in this process load under a model's name: the package's own user language model for ``builtin``."""
    return str(resources.files("recsim_env.data") / "builtin" / "user_lm") if model == BUILTIN else model


def revision_of(model: str, revision: str) -> str:
    """Revision under which replies are stored: the one that was named; for ``builtin`` a hash of its weights."""
    if revision or model != BUILTIN:
        return revision
    weights = resources.files("recsim_env.data") / "builtin" / "user_lm" / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:12] if weights.is_file() else ""


def cannot_load(model: str, error: Exception) -> EngineError:
    """The error of a model that cannot be loaded."""
    where = "The folder exists but cannot be used" if Path(model).is_dir() else "It is no folder here"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return EngineError(
        f"Cannot load the model {model!r} (engine.model): {reason} {where}. Give the path of a Hugging Face folder, "
        f"the name of a model on the hub that this machine can reach, or {BUILTIN!r}, the package's own."
    )


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a reply of a model of the package transformers."""
    stated = model.generation_config.eos_token_id
    listed = stated if isinstance(stated, list) else [stated]
    return sorted({int(token) for token in [*listed, tokenizer.eos_token_id] if token is not None})
