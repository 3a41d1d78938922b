"""A server that answers every chat completion alike, at once: what is measured against it is the client.

Usage: python benchmarks/_canned_server.py CORE  (prints its port; ends when its standard input is closed)

The reply has the shape of a vLLM server's with the log-probabilities of 20 letters. No request is looked at.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys

from aiohttp import web

MODEL = "canned"
LETTERS = "ABCDEFGHIJKLMNOPQRST"


def reply() -> bytes:
    """The body of every answer."""
    listed = [
        {"token": letter, "logprob": -math.log(2) * (i + 1), "bytes": [ord(letter)]}
        for i, letter in enumerate(LETTERS)
    ]  # fmt: skip
    first = {**listed[0], "top_logprobs": listed}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "A", "refusal": None, "tool_calls": []},
        "logprobs": {"content": [first]},
        "finish_reason": "length",
    }
    usage = {
        "prompt_tokens": 700, "completion_tokens": 1, "total_tokens": 701,
        "prompt_tokens_details": {"cached_tokens": 640},
    }  # fmt: skip
    body = {
        "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice],
        "usage": usage,
    }  # fmt: skip
    return json.dumps(body).encode()


async def serve() -> None:
    """Serves on a free port of the loopback address until the standard input ends."""
    body = reply()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(serve())
