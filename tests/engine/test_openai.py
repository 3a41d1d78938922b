"""The openai engine against a server that fails in every known way."""

import asyncio
import json
import logging
import math
import time

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from recsim_env.engine.base import InterruptedBatch
from recsim_env.engine.embed import EndpointEmbedder, EndpointEmbedderConfig
from recsim_env.engine.endpoint import Throttle
from recsim_env.engine.openai import OpenAIConfig, OpenAIEngine
from recsim_env.errors import EngineError
from recsim_env.records import ChoiceRequest, RequestKey, TextRequest

QUICK = {"model": "m", "timeout_s": 0.5, "backoff_s": 0.01, "attempts": 3, "deadline_s": 20}
RAW = {"dialect": "openai"}


class Words(BaseModel):
    query: str


@pytest.fixture
def make(server):
    made = []

    def make(**settings):
        made.append(OpenAIEngine(OpenAIConfig(**{**QUICK, "base_urls": server.url, **settings})))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def choice(user=0, options=("A", "B", "C"), item=0):
    return ChoiceRequest(({"role": "user", "content": f"{user}/{item}"},), options, RequestKey(0, user, 0, 0, 0, item))


def words(user=0, schema=None, **sampling):
    return TextRequest(({"role": "user", "content": f"{user}"},), RequestKey(0, user, 0, 0, 0), schema, sampling)


def test_options_are_renormalised_and_tokens_counted(make, server):
    engine = make()
    found = engine.choose([choice(), choice(options=("B", "A"))])
    np.testing.assert_allclose(np.exp(found[0]), [4 / 7, 2 / 7, 1 / 7])
    np.testing.assert_allclose(np.exp(found[1]), [1 / 3, 2 / 3])
    usage = engine.usage.as_dict()
    assert (usage["requests"], usage["prompt_tokens"], usage["cached_tokens"]) == ({"choose": 2}, 14, 10)
    assert usage["generated_tokens"] == 0
    body = next(b for b in server.bodies if b["structured_outputs"] == {"choice": ["A", "B", "C"]})
    assert (body["max_tokens"], body["logprobs"], body["temperature"]) == (1, True, 0)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_plain_endpoints_are_asked_plainly(make, server):
    make(**RAW, extra_body={"service_tier": "flex"}).generate([words(schema=Words.model_json_schema(), max_tokens=9)])
    body = server.bodies[0]
    assert body["max_completion_tokens"] == 9
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["query"]
    assert body["service_tier"] == "flex"
    assert not {"chat_template_kwargs", "structured_outputs", "max_tokens", "seed"} & set(body)


def test_an_absent_option_counts_as_half_the_least_likely_and_is_counted(make):
    engine = make(**RAW)
    found = np.exp(engine.choose([choice(options=("A", "Z"))])[0])
    assert found[1] / found[0] == pytest.approx(0.0625 / 2 / 0.5)
    assert engine.usage.failures == {"option_absent": 1}


def transient(faults):
    return {
        "rate_limited": faults.status(429),
        "server_error": faults.status(500),
        "timeout": faults.hang,
        "timeout (drip)": faults.slow_drip,
        "cut_body": faults.cut_short,
        "cut_body (json)": faults.text('{"model": "m", "choices": [{"mess'),
        "html": faults.text("<!DOCTYPE html><html>Welcome</html>", "text/html"),
        "html (unlabelled)": faults.text("<html>proxy</html>"),
        "garbage": faults.text("\x07\x00 \xff nonsense"),
        "garbage (list)": faults.text("[1, 2]"),
        "garbage (shape)": {"model": "m", "choices": [None]},
        "empty_choices": {"model": "m", "choices": []},
        "connection": faults.slam,
        "nan_logprobs": lambda body: faults.completion(body, logprobs={"A": math.nan, "B": -1.0}),
    }


FAULTS = [
    "rate_limited", "server_error", "timeout", "timeout (drip)", "cut_body", "cut_body (json)", "html",
    "html (unlabelled)", "garbage", "garbage (list)", "garbage (shape)", "empty_choices", "connection", "nan_logprobs",
]  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_passing_fault_is_counted_and_tried_again(name, make, server, faults):
    server.plan = [transient(faults)[name]]
    engine = make()
    found = engine.choose([choice()])
    np.testing.assert_allclose(np.exp(found[0]), [4 / 7, 2 / 7, 1 / 7])
    assert engine.usage.failures == {name.split()[0]: 1}
    assert engine.usage.retries == 1
    assert len(server.bodies) == 2


@pytest.mark.parametrize("name", ["server_error", "timeout", "html", "cut_body", "connection"])
def test_a_lasting_fault_ends_the_run_resumably(name, make, server, faults):
    server.always = transient(faults)[name]
    with pytest.raises(InterruptedBatch, match=r"after 3 attempts.*--resume"):
        make(timeout_s=0.2).choose([choice()])
    assert len(server.bodies) == 3


@pytest.mark.parametrize("name", ["nan_logprobs", "empty_choices", "garbage (shape)"])
def test_a_lasting_bad_reply_is_one_bad_reply(name, make, server, faults):
    server.always = transient(faults)[name]
    engine = make()
    assert np.isnan(engine.choose([choice()])[0]).all()
    assert engine.usage.failures == {name.split()[0]: 3}
    if name != "nan_logprobs":
        assert engine.generate([words()])[0].error == "no usable reply in 3 attempts"


@pytest.mark.parametrize(
    ("behaviour", "message", "kind"),
    [
        (lambda f: f.status(400, "context too long"), r"refuses the request \(400\): context too long", "refused"),
        (lambda f: f.status(401, "bad key"), r"\(401\): bad key.*api_key_env", "refused"),
        (lambda f: f.status(404, "no model m"), r"\(404\): no model m.*engine.model", "refused"),
        (lambda f: lambda body: f.completion(body, model="other"), "model 'other', not 'm'", "wrong_model"),
        (lambda f: lambda body: f.completion(body, logprobs={}), "returns no log-probabilities", "no_logprobs"),
    ],
)
def test_what_no_attempt_can_mend_is_not_tried_again(behaviour, message, kind, make, server, faults):
    server.always = behaviour(faults)
    engine = make()
    with pytest.raises(EngineError, match=message):
        engine.choose([choice()])
    assert engine.usage.failures == {kind: 1}
    assert len(server.bodies) == 1


def test_a_dated_name_is_the_same_model(make, server, faults):
    server.always = lambda body: faults.completion(body, model="m-2026-01-01")
    assert make().generate([words()])[0].text == "hello"


@pytest.mark.parametrize(
    ("content", "reason", "kind"),
    [
        ('{"query": "a', "length", "length"),
        ("Sure! Films.", "stop", "invalid_json"),
        ('{"quarry": 1}', "stop", "invalid_schema"),
        ("", "stop", "empty_text"),
        (None, "stop", "empty_text"),
    ],
)
def test_unusable_words_are_errors_that_keep_their_text(content, reason, kind, make, server, faults):
    server.always = lambda body: faults.completion(body, content=content, finish_reason=reason)
    engine = make()
    reply = engine.generate([words(schema=Words.model_json_schema())])[0]
    assert reply.error is not None
    assert reply.text == (content or "")
    assert reply.parsed is None
    assert engine.usage.failures == {kind: 1}
    assert engine.usage.generated_tokens == 2


def test_good_words_are_parsed(make, server, faults):
    server.always = lambda body: faults.completion(body, content='{"query": "heat"}')
    reply = make().generate([words(schema=Words.model_json_schema())])[0]
    assert (reply.parsed, reply.error, reply.finish_reason, reply.tokens) == ({"query": "heat"}, None, "stop", 2)


def test_retry_after_is_waited_for(make, server, faults):
    server.plan = [faults.status(429, headers={"Retry-After": "0.7"})]
    start = time.perf_counter()
    make().choose([choice()])
    assert 0.7 <= time.perf_counter() - start < 3


def test_a_wait_beyond_the_deadline_is_not_begun(make, server, faults):
    server.plan = [faults.status(503, headers={"Retry-After": "60"})]
    with pytest.raises(EngineError, match="did not answer after 1 attempts"):
        make(deadline_s=1).choose([choice()])


def test_answers_keep_the_order_of_the_requests(make, server, faults):
    async def late_first(request, body):
        await asyncio.sleep(0.3 - 0.01 * int(body["messages"][0]["content"]))
        return faults.web.json_response(faults.completion(body, content=body["messages"][0]["content"]))

    server.always = late_first
    found = make().generate([words(user) for user in range(30)])
    assert [reply.text for reply in found] == [str(user) for user in range(30)]


def test_a_user_keeps_to_one_address(make, server, faults):
    second = faults.FaultServer()
    try:
        engine = make(base_urls=[server.url, second.url])
        engine.choose([choice(user, item=item) for item in range(3) for user in range(20)])
        served = [{b["messages"][0]["content"].split("/")[0] for b in s.bodies} for s in (server, second)]
        assert not served[0] & served[1]
        assert min(map(len, served)) > 3
    finally:
        second.close()


def test_the_retry_budget_fails_a_dead_server_fast_and_keeps_what_came(make, server, faults):
    async def odd_users_fail(request, body):
        user = int(body["messages"][0]["content"].split("/")[0])
        return (
            await faults.status(500)(request, body) if user % 2 else faults.web.json_response(faults.completion(body))
        )

    server.always = odd_users_fail
    engine = make(retry_budget=5, attempts=9, backoff_s=5, concurrency=1)
    with pytest.raises(InterruptedBatch, match=r"5 retries are spent.*--resume") as caught:
        engine.choose([choice(user) for user in range(20)])
    assert engine.usage.retries == 5
    assert engine.usage.failures == {"server_error": 6}
    assert [answer is not None for answer in caught.value.answers] == [
        user < 11 and user % 2 == 0 for user in range(20)
    ]


def test_the_circuit_breaker_ends_the_run(make, server, faults):
    server.always = faults.status(500)
    engine = make(breaker_failures=4, breaker_s=0, attempts=50)
    with pytest.raises(EngineError, match=r"failed 4 times in a row.*the run stops"):
        engine.choose([choice(user) for user in range(3)])
    assert len(server.bodies) <= 6


def test_the_circuit_breaker_waits_for_a_restarting_server(make, server, faults):
    server.plan = [faults.status(503)] * 8
    assert len(make(breaker_failures=4, breaker_s=30, attempts=50).choose([choice(user) for user in range(4)])) == 4


def test_nobody_listens(make):
    engine = make(base_urls="http://127.0.0.1:9/v1")
    with pytest.raises(EngineError, match=r"127.0.0.1:9/v1 did not answer"):
        engine.choose([choice()])
    assert engine.usage.failures == {"connection": 3}


def test_concurrency_halves_on_overload_and_grows_back(make, server, faults):
    server.delay_s = 0.02
    engine = make(concurrency=16, attempts=20)
    engine.choose([choice(user) for user in range(40)])
    assert 8 < server.most <= 16
    throttle = engine.endpoint.throttles[0]
    assert throttle.limit == 16
    server.plan = [faults.status(429)] * 16
    engine.choose([choice(user) for user in range(16)])
    assert throttle.limit < 12
    engine.choose([choice(user) for user in range(400)])
    assert throttle.limit == 16


def test_one_wave_of_overload_halves_once():
    throttle = Throttle(64)
    now = time.monotonic()
    for _ in range(10):
        throttle.overloaded(now)
    assert throttle.limit == 32
    for _ in range(20):
        throttle.overloaded(time.monotonic() + 1)
    assert throttle.limit >= 1


def test_turns_come_in_order_and_none_is_lost():
    """3,000 wait for 4 places; some give up while they wait, or just as their turn comes."""

    async def scene():
        throttle, order, most = Throttle(4), [], 0

        async def one(i):
            nonlocal most
            async with throttle:
                order.append(i)
                most = max(most, throttle.under_way)
                await asyncio.sleep(0)

        tasks = [asyncio.ensure_future(one(i)) for i in range(3000)]
        await asyncio.sleep(0)
        for task in tasks[10:3000:7]:
            task.cancel()
        for i in range(1, 200):  # cancelled at any moment
            await asyncio.sleep(0)
            tasks[7 * i].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with throttle:
            assert throttle.under_way == 1, "every place was given back"
        return order, most

    order, most = asyncio.run(scene())
    assert order == sorted(order)
    assert most == 4
    assert len(order) > 2000


def test_the_key_comes_from_the_environment_and_is_told_nobody(make, server, faults, monkeypatch, caplog):
    secret = "sk-very-secret"
    with pytest.raises(EngineError, match=r"'NO_SUCH_KEY'.*no such variable"):
        make(api_key_env="NO_SUCH_KEY")
    monkeypatch.setenv("MY_KEY", secret)
    engine = make(api_key_env="MY_KEY")
    with caplog.at_level(logging.DEBUG):
        engine.choose([choice()])
        server.always = faults.status(401, f"Incorrect key {secret}")
        with pytest.raises(EngineError, match=r"Incorrect key \*\*\*"):
            engine.choose([choice()])
    assert server.headers[0]["Authorization"] == f"Bearer {secret}"
    assert secret not in caplog.text
    assert secret not in engine.config.model_dump_json()


@pytest.mark.parametrize(
    "urls", ["ftp://host/v1", "http://me:secret@host/v1", "localhost:8000", []], ids=["ftp", "password", "bare", "none"]
)
def test_bad_addresses_are_refused(urls):
    with pytest.raises(ValidationError):
        OpenAIConfig(model="m", base_urls=urls)


def test_too_many_options_are_refused_before_anything_is_sent(make, server):
    with pytest.raises(EngineError, match="21 options"):
        make().choose([choice(options=tuple("ABCDEFGHIJKLMNOPQRSTU"))])
    assert not server.bodies


def test_it_works_inside_a_running_loop_and_closes_twice(make):
    async def notebook():
        return make().choose([choice()])

    assert len(asyncio.run(notebook())) == 1
    engine = make()
    engine.close()
    engine.close()


def test_endpoint_embedder(server):
    server.plan = [
        {"data": []},
        lambda body: {"data": [{"index": i, "embedding": [3.0, 4.0 * i]} for i in range(len(body["input"]))][::-1]},
        lambda body: {"data": [{"index": 0, "embedding": [0.0, -2.0]}]},
    ]
    config = EndpointEmbedderConfig(**QUICK, base_urls=server.url, batch_size=2, concurrency=1)
    embedder = EndpointEmbedder(config)
    first = embedder.embed(["a", "b"])
    np.testing.assert_allclose(first, [[1, 0], [0.6, 0.8]], atol=1e-6)
    np.testing.assert_allclose(embedder.embed(["c"]), [[0, -1]], atol=1e-6)
    assert embedder.usage.failures == {"bad_vectors": 1}
    server.always = {"data": "none"}
    with pytest.raises(EngineError, match="Choose a model that embeds"):
        embedder.embed(["d"])
    assert json.dumps(server.bodies[0]["input"]) == '["a", "b"]'
    embedder.close()
