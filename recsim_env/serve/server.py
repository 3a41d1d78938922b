"""A socket on loopback and a web server in a thread of its own: the main thread belongs to the simulation."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from recsim_env.errors import MissingDependencyError, RecsimError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HOST = "127.0.0.1"


def need_packages() -> None:
    """Checks that the page's packages are there.

    Raises:
        MissingDependencyError: If one is not.
    """
    for package in ("starlette", "uvicorn", "jinja2"):
        if find_spec(package) is None:
            instead = "look at the run with recsim-env watch, take a seat with recsim-env play"
            raise MissingDependencyError("recsim-env serve", package, "pip install 'recsim-env[serve]'", instead)


def listen(port: int) -> socket.socket:
    """A socket on loopback; port 0 is any free one.

    Raises:
        RecsimError: If the port cannot be had.
    """
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
        bound.listen()
    except OSError as error:
        bound.close()
        what = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise RecsimError(f"Port {port} {what}. Choose another with --port; 0 is any free one.") from None
    return bound


@contextlib.contextmanager
def serving(app: ASGIApp, bound: socket.socket) -> Iterator[None]:
    """Answers requests as long as the context lasts."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(3)
        bound.close()
