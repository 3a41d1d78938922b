"""An HTTP server that answers as it is told: well, late, badly, or not at all."""

import asyncio
import json
import math
import socket
import threading

from aiohttp import web

LOGPROBS = {"A": math.log(0.5), "B": math.log(0.25), "C": math.log(0.125), "the": math.log(0.0625)}


def completion(body, content="hello", model=None, finish_reason="stop", logprobs=LOGPROBS):
    """A well-formed chat completion."""
    listed = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    return {
        "model": body.get("model") if model is None else model,
        "choices": [
            {
                "message": {"role": "assistant", "content": content},
                "finish_reason": finish_reason,
                "logprobs": {"content": [{"token": "A", "top_logprobs": listed}]} if body.get("logprobs") else None,
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}},
    }


class FaultServer:
    """Answers each request with the next behaviour of the plan, then well.

    Attributes:
        plan: Behaviours: a dict (JSON reply), a function of the body that gives one, or an async function of request
            and body that gives a response.
        bodies: Bodies that came, in order of arrival.
        most: Requests under way at once, at most, so far.
    """

    def __init__(self):
        self.plan, self.bodies, self.headers, self.always = [], [], [], None
        self.under_way = self.most = 0
        self.delay_s = 0.0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        self.thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self.thread.start()
        assert started.wait(10)

    def _serve(self, started):
        asyncio.set_event_loop(self.loop)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/embeddings", self._answer)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        self.loop.run_until_complete(self.runner.setup())
        self.loop.run_until_complete(web.TCPSite(self.runner, "127.0.0.1", self.port).start())
        started.set()
        self.loop.run_forever()

    async def _answer(self, request):
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            behaviour = self.plan.pop(0) if self.plan else self.always or completion
            if asyncio.iscoroutinefunction(behaviour):
                return await behaviour(request, body)
            await asyncio.sleep(self.delay_s)
            reply = behaviour(body) if callable(behaviour) else behaviour
            return web.Response(text=json.dumps(reply), content_type="application/json")
        finally:
            self.under_way -= 1

    def close(self):
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


def status(code, message="no", headers=None):
    async def answer(request, body):
        return web.json_response({"error": {"message": message}}, status=code, headers=headers)

    return answer


def text(body_text, content_type="application/json"):
    async def answer(request, body):
        return web.Response(text=body_text, content_type=content_type)

    return answer


async def hang(request, body):
    await asyncio.sleep(30)


async def slow_drip(request, body):
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for _ in range(300):
        await response.write(b" ")
        await asyncio.sleep(0.1)
    return response


async def cut_short(request, body):
    """Promises more bytes than it sends."""
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"model": "m", "choi')
    request.transport.close()
    return response


async def slam(request, body):
    request.transport.abort()
    return web.Response()
