"""Keeps the page to this machine's own browser: Host, Origin, and headers that allow nothing from elsewhere.

A page of another site can make a browser send requests to loopback. If that site's name was rebound to 127.0.0.1, the
request carries its name as Host and is refused; if not, a form that it posts carries its Origin and is refused.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    # matplotlib's SVG and the bars of the page carry style attributes; there is no script but the page's own file.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses what does not come from this machine's page.

    Args:
        app: The page.
        port: Where it listens.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        self.hosts = {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == 80 else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        foreign = scope["method"] not in ("GET", "HEAD") and headers.get("origin") != f"http://{host}"
        if host not in self.hosts or foreign:
            refused = PlainTextResponse("This page answers its own machine's browser only.\n", status_code=403)
            await refused(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, guarded)
