"""An HTTP client for endpoints that fail: deadlines, retries within a budget, adaptive concurrency, a circuit breaker.

Back-off with full jitter after Brooker, "Exponential Backoff and Jitter" (AWS, 2015); concurrency by additive increase
and multiplicative decrease. The jitter changes times only, never a result.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from recsim_env.engine.base import EngineUsage, InterruptedBatch
from recsim_env.engine.faults import Fault, Refused, fault_of_exception, read_body
from recsim_env.errors import EngineError
from recsim_env.interfaces import Config

T = TypeVar("T")
_LARGEST_BODY = 64 * 2**20


class EndpointConfig(Config):
    """Settings of everything that speaks to an OpenAI-compatible endpoint."""

    model: str
    """Name of the model, as the endpoint calls it."""
    revision: str = ""
    """Revision, part of the key of stored replies; the endpoint does not tell it."""
    base_urls: tuple[str, ...] = Field(default=("http://127.0.0.1:8000/v1",), min_length=1)
    """Addresses up to ``/v1``. With several, each user keeps to one of them, so that its prefix stays cached there."""
    api_key_env: str = ""
    """Name of the environment variable that holds the API key; the key itself is never written anywhere."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Longest time of one attempt, seconds, from connecting to the last byte."""
    deadline_s: float = Field(default=600.0, gt=0)
    """Longest time of one request with all its attempts, seconds."""
    attempts: int = Field(default=6, ge=1)
    """Attempts of one request at most."""
    backoff_s: float = Field(default=0.5, gt=0)
    """Upper end of the first pause before another attempt, seconds; it doubles up to a minute."""
    retry_budget: int = Field(default=1000, ge=0)
    """Attempts beyond the first in a whole run; a server that is down must fail fast."""
    concurrency: int = Field(default=64, ge=1)
    """Requests under way at once and per address at most; it halves on 429 and timeouts, and grows back."""
    breaker_failures: int = Field(default=20, ge=1)
    """The run stops after so many failed attempts without a success between them,"""
    breaker_s: float = Field(default=60.0, ge=0)
    """... once they last for so many seconds."""

    @field_validator("base_urls", mode="before")
    @classmethod
    def _addresses(cls, value: Any) -> Any:
        urls = [value] if isinstance(value, str) else value
        for url in urls:
            parts = urlsplit(str(url))
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url!r} is no http address")
            if parts.username or parts.password:
                raise ValueError("an address must not hold a user name or password; name a variable in api_key_env")
        return tuple(str(url).rstrip("/") for url in urls)


class Throttle:
    """How many requests may be under way at one address (additive increase, multiplicative decrease)."""

    def __init__(self, most: int) -> None:
        self.most, self.limit, self.under_way = most, float(most), 0
        self._halved_at = -1.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> Throttle:
        if self.under_way < int(self.limit) and not self._waiting:
            self.under_way += 1
            return self
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn came while it was being cancelled
                self._give_back()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    def _give_back(self) -> None:
        """One less under way; the first that wait take its place."""
        self.under_way -= 1  # waking all that wait would cost the square of a batch
        while self._waiting and self.under_way < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self.under_way += 1
                turn.set_result(None)

    def succeeded(self) -> None:
        """One more success: about one more request at once per round of successes."""
        self.limit = min(float(self.most), self.limit + 1.0 / self.limit)

    def overloaded(self, sent_at: float) -> None:
        """Halves the limit; requests that were sent before the last halving do not count again."""
        if sent_at > self._halved_at:
            self.limit = max(1.0, self.limit / 2)
            self._halved_at = time.monotonic()


class Endpoint:
    """Posts JSON to one of several addresses and gives back what a reader makes of the replies.

    Runs its own event loop in a thread of its own, so that connections outlive a batch and that it works inside a
    notebook, whose loop is running already.

    Args:
        config: Settings.
        usage: Counts retries and failures.
    """

    def __init__(self, config: EndpointConfig, usage: EngineUsage) -> None:
        self.config, self.usage = config, usage
        self._key = _api_key(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()
        self._session: Any = None
        self.throttles = [Throttle(config.concurrency) for _ in config.base_urls]
        self._jitter = secrets.SystemRandom()
        self._failures_in_a_row = 0
        self._failing_since: float | None = None

    def place_of(self, user: int) -> int:
        """Index of the address that serves a user."""
        return zlib.crc32(str(user).encode()) % len(self.config.base_urls)

    def post_all(
        self, path: str, bodies: Sequence[Any], places: Sequence[int], readers: Sequence[Callable[[Any], T]]
    ) -> list[T | None]:
        """Posts all bodies at once and waits.

        Args:
            path: Path behind the base address, such as ``/chat/completions``.
            bodies: JSON bodies.
            places: Index of each body's address.
            readers: Each makes an answer of a reply's JSON object, or raises :class:`Fault`.

        Returns:
            Answers in the order of the bodies; None where every attempt brought a reply that could not be read.

        Raises:
            InterruptedBatch: If the run cannot go on; it carries the answers that did come.
        """
        answers: list[T | None] = [None] * len(bodies)

        async def one(i: int) -> None:
            answers[i] = await self._ask(path, bodies[i], places[i], readers[i])

        try:
            self._wait(_all(one, len(bodies)))
        except EngineError as error:
            raise InterruptedBatch(self._hide(str(error)), answers) from None
        return answers

    def close(self) -> None:
        """Closes connections and ends the thread."""
        if self._loop.is_closed():
            return
        if self._session is not None:
            self._wait(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C reaches this thread; the requests must not go on in the other
            raise

    async def _ask(self, path: str, body: dict[str, Any], place: int, read: Callable[[Any], T]) -> T | None:
        """One request with all its attempts."""
        throttle, deadline = self.throttles[place], 0.0
        for attempt in range(1, self.config.attempts + 1):
            async with throttle:
                sent_at = time.monotonic()
                deadline = deadline or sent_at + self.config.deadline_s  # waiting for its turn does not count
                try:
                    answer = await self._attempt(self.config.base_urls[place] + path, body, read)
                except Fault as found:
                    fault = found
                else:
                    throttle.succeeded()
                    self._failures_in_a_row, self._failing_since = 0, None
                    return answer
            self._count(fault, throttle, sent_at)
            pause = self._pause(attempt, fault)
            if attempt == self.config.attempts or time.monotonic() + pause > deadline:
                break
            self._spend_retry(fault)
            await asyncio.sleep(pause)
        if fault.bad_reply:
            return None
        raise EngineError(
            f"{self.config.base_urls[place]} did not answer after {attempt} attempts: {fault}. Every stored reply is "
            "kept: start the run again with --resume once the endpoint answers, or with other addresses (--url)."
        )

    async def _attempt(self, url: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self.config.timeout_s),
                connector=aiohttp.TCPConnector(limit=0),
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            )
        try:
            async with self._session.post(url, json=body) as response:
                raw = bytearray()
                async for part in response.content.iter_any():
                    raw += part
                    if len(raw) > _LARGEST_BODY:
                        raise Fault("garbage", f"a reply of more than {_LARGEST_BODY} bytes")
                return read(read_body(response.status, response.headers, bytes(raw)))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise fault_of_exception(error, self.config.timeout_s) from None

    def _count(self, fault: Fault, throttle: Throttle, sent_at: float) -> None:
        self.usage.failures[fault.kind] += 1
        if isinstance(fault, Refused):
            raise EngineError(str(fault))
        if fault.overload:
            throttle.overloaded(sent_at)
        self._failures_in_a_row += 1
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        lasted = now - self._failing_since
        if self._failures_in_a_row >= self.config.breaker_failures and lasted >= self.config.breaker_s:
            raise EngineError(
                f"The endpoint failed {self._failures_in_a_row} times in a row over {lasted:.0f} s (last: {fault}); "
                "the run stops. Every stored reply is kept: start it again with --resume once the endpoint answers."
            )

    def _spend_retry(self, fault: Fault) -> None:
        if self.usage.retries >= self.config.retry_budget:
            raise EngineError(
                f"The run's {self.config.retry_budget} retries are spent (engine.retry_budget; last: {fault}; failures "
                f"so far: {dict(self.usage.failures)}). Every stored reply is kept: mend the endpoint and start the "
                "run again with --resume."
            )
        self.usage.retries += 1

    def _pause(self, attempt: int, fault: Fault) -> float:
        most = min(60.0, self.config.backoff_s * 2 ** (attempt - 1))
        share = int.from_bytes(os.urandom(4), "big") / 2**32  # changes when, never what
        return max(share * most, fault.retry_after_s)

    def _hide(self, text: str) -> str:
        """The text without the API key, which some servers repeat in their messages."""
        return text.replace(self._key, "***") if self._key else text


async def _all(one: Callable[[int], Awaitable[None]], count: int) -> None:
    """Runs all; the first error stops the rest and is raised."""
    tasks = [asyncio.ensure_future(one(i)) for i in range(count)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _api_key(config: EndpointConfig) -> str:
    if not config.api_key_env:
        return ""
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise EngineError(
            f"engine.api_key_env names {config.api_key_env!r}, and the environment has no such variable. Set it to the "
            "API key before the run; the key is never written to the run folder."
        )
    return key
