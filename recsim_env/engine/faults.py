"""What can be wrong with an HTTP reply, and how it is told: also by replies that claim success."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

_SHOWN = 300
_LONGEST_WAIT_S = 300.0


class Fault(Exception):
    """One failed attempt, worth another.

    Attributes:
        kind: Word for counting.
        retry_after_s: Seconds that the server asks to wait.
        overload: The server has too much to do (429, 503, timeouts).
        bad_reply: The server is there and what it says cannot be used; after the last attempt that is one bad reply,
            and no reason to end the run.
    """

    def __init__(
        self, kind: str, message: str, *, retry_after_s: float = 0.0, overload: bool = False, bad_reply: bool = False
    ) -> None:
        self.kind, self.retry_after_s, self.overload, self.bad_reply = kind, retry_after_s, overload, bad_reply
        super().__init__(message)


class Refused(Fault):
    """A failed attempt that no other attempt can mend: it ends the run."""


def read_body(status: int, headers: Mapping[str, str], raw: bytes) -> dict[str, Any]:
    """The JSON object of a reply.

    Args:
        status: HTTP status.
        headers: HTTP headers.
        raw: The whole body.

    Raises:
        Fault: If it is an error, or no JSON object.
        Refused: If the endpoint will never answer this request.
    """
    text = raw.decode("utf-8", errors="replace").strip()
    if status == 429:
        raise Fault("rate_limited", f"429: {_message(text)}", retry_after_s=_retry_after(headers), overload=True)
    if status >= 500 or status == 408:
        wait = _retry_after(headers)
        raise Fault("server_error", f"{status}: {_message(text)}", retry_after_s=wait, overload=status in (408, 503))
    if status >= 400:
        raise Refused(
            "refused",
            f"The endpoint refuses the request ({status}): {_message(text)}. Look at engine.model, engine.base_urls, "
            "engine.api_key_env and the length of the prompts.",
        )
    if text[:1] == "<" or "text/html" in headers.get("Content-Type", ""):
        raise Fault("html", f"{status} with an HTML page instead of JSON: {text[:80]!r}")
    try:
        value = json.loads(text)
    except ValueError:
        cut = text[:1] == "{"
        raise Fault("cut_body" if cut else "garbage", f"{status} with a body that is no JSON: {text[:80]!r}") from None
    if not isinstance(value, dict):
        raise Fault("garbage", f"{status} with a body that is no JSON object: {text[:80]!r}", bad_reply=True)
    return value


def fault_of_exception(error: Exception, timeout_s: float) -> Fault:
    """The fault behind an exception of the HTTP client."""
    import aiohttp

    if isinstance(error, asyncio.TimeoutError):
        return Fault("timeout", f"no whole reply within {timeout_s:g} s (engine.timeout_s)", overload=True)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Fault("cut_body", "the reply broke off")
    return Fault("connection", f"{type(error).__name__}: {error}")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that ``Retry-After`` asks for (a number or a date), 0 without one."""
    stated = headers.get("Retry-After", "").strip()
    try:
        seconds = float(stated)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(stated).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_S) if seconds == seconds else 0.0


def _message(text: str) -> str:
    """What an error's body says."""
    try:
        body = json.loads(text)
        inner = body.get("error", body)
        said = inner.get("message", inner) if isinstance(inner, dict) else inner
        return str(said)[:_SHOWN]
    except (ValueError, AttributeError):
        return text[:_SHOWN] or "no message"
