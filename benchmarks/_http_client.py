"""The client of engine ``openai`` on one core, against a server in a process of its own that costs almost nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _canned_server import MODEL

from recsim_env.engine.openai import OpenAIConfig, OpenAIEngine
from recsim_env.records import ChoiceRequest

CONCURRENCY = OpenAIConfig(model=MODEL).concurrency
"""Requests under way at once: the engine's default."""


@dataclass(frozen=True, slots=True)
class HttpFigure:
    """One batch through the client.

    Attributes:
        rate: Requests per second.
        cpu_s: CPU seconds of the client's process per 1,000 requests.
        p50_ms: Median time of a request under way, milliseconds.
        p99_ms: 99th percentile of it.
    """

    rate: float
    cpu_s: float
    p50_ms: float
    p99_ms: float


@contextmanager
def canned_server(core: int) -> Iterator[str]:
    """Address of a server in a process of its own, on a core of its own."""
    script = Path(__file__).with_name("_canned_server.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.stdin.close()
        process.wait(10)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This thread, and those that it starts, on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def measure_client(requests: Sequence[ChoiceRequest], count: int, repeats: int) -> list[HttpFigure]:
    """Sends ``count`` decisions per repeat, as many at once as the engine does by default.

    Args:
        requests: Decisions with real prompts; they are sent again and again until there are enough.
        count: Requests of a repeat.
        repeats: Repeats after one to warm up.
    """
    cores = sorted(os.sched_getaffinity(0))
    batch = [requests[i % len(requests)] for i in range(count)]
    found = []
    with canned_server(cores[0]) as url, on_core(cores[-1]):
        engine = OpenAIEngine(OpenAIConfig(model=MODEL, base_urls=(url,)))
        times = _watch(engine)
        for repeat in range(repeats + 1):
            times.clear()
            begun, cpu = time.perf_counter(), time.process_time()
            engine.choose(batch)
            seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
            if repeat:
                p50, p99 = 1e3 * np.quantile(times, [0.5, 0.99])
                found.append(HttpFigure(count / seconds, 1e3 * cpu / count, float(p50), float(p99)))
        assert engine.usage.requests["choose"] == count * (repeats + 1)
        assert not engine.usage.failures, engine.usage.failures
        engine.close()
    return found


def _watch(engine: OpenAIEngine) -> list[float]:
    """A list into which the seconds of every request go, from sending it to having read the answer."""
    times: list[float] = []
    attempt: Any = engine.endpoint._attempt

    async def timed(*args: Any) -> Any:
        begun = time.perf_counter()
        answer = await attempt(*args)
        times.append(time.perf_counter() - begun)
        return answer

    engine.endpoint._attempt = timed  # type: ignore[method-assign]
    return times
