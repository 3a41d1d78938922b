"""vLLM for real, in process and as a server: the same probabilities as the transformers engine, and JSON that fits."""

import json
import random

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field

from recsim_env.engine.openai import OpenAIConfig, OpenAIEngine
from recsim_env.engine.structured import plain, validated
from recsim_env.engine.transformers import TransformersConfig, TransformersEngine
from recsim_env.errors import EngineError
from recsim_env.records import ChoiceRequest, RequestKey, TextRequest

pytestmark = pytest.mark.vllm

RULES = "You are a film fan. " + "You have seen many films and you rate them with letters. " * 55
LETTERS = ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K")


class Words(BaseModel):
    model_config = ConfigDict(extra="forbid")
    query: str = Field(max_length=12)
    mood: int = Field(ge=0, le=9)


@pytest.fixture(scope="module")
def reference(tiny_model):
    engine = TransformersEngine(TransformersConfig(model=tiny_model))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def over_http(vllm_server):
    engine = OpenAIEngine(OpenAIConfig(model="tiny", base_urls=vllm_server))
    yield engine
    engine.close()


def choices(users=4, items=5):
    return [
        ChoiceRequest(
            ({"role": "system", "content": RULES}, {"role": "user", "content": f"You are user {u}. Film {i * 37}?"}),
            LETTERS[: 2 + i * 2],
            RequestKey(0, u, 1, 0, 0, i, "watch"),
        )
        for u in range(users)
        for i in range(items)
    ]


def texts(schema=None, count=6, **sampling):
    return [
        TextRequest(
            ({"role": "system", "content": RULES}, {"role": "user", "content": f"What do you search for, user {u}?"}),
            RequestKey(0, u, 1, 0, 0, -1, "search"),
            schema,
            {"max_tokens": 120, **sampling},
        )
        for u in range(count)
    ]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert np.exp(one).sum() == pytest.approx(1)
        np.testing.assert_allclose(np.exp(one), np.exp(other), atol=2e-3)


def test_in_process_gives_the_probabilities_of_transformers(vllm_engine, reference):
    expected = reference.choose(choices())
    assert max(np.ptp(np.exp(p)) for p in expected) > 0.2, "probabilities that are all alike would prove nothing"
    assert_same(vllm_engine.choose(choices()), expected)


def test_other_weights(vllm_engine, tiny_model):
    """A model that learns hands its weights over; what the engine had computed with the old ones is forgotten."""
    other = TransformersEngine(TransformersConfig(model=tiny_model))
    before = {name: weight.clone() for name, weight in other._loaded().model.state_dict().items()}
    luck = torch.Generator().manual_seed(0)
    changed = {
        name: weight + 0.05 * torch.randn(weight.shape, generator=luck) if "layers" in name else weight
        for name, weight in before.items()
    }
    asked = choices()
    old = vllm_engine.choose(asked)
    other.set_weights(changed)
    vllm_engine.set_weights(changed)
    try:
        found, expected = vllm_engine.choose(asked), other.choose(asked)
    finally:
        vllm_engine.set_weights(before)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert max(np.abs(a - b).max() for a, b in zip(found, old, strict=True)) > 0.05
    for ours, theirs in zip(vllm_engine.choose(asked), old, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_the_server_gives_them_too(over_http, reference):
    assert_same(over_http.choose(choices()), reference.choose(choices()))
    assert not over_http.usage.failures


def test_a_rare_option_is_never_missing(vllm_engine, over_http, reference):
    """Raw log-probabilities hold the 20 likeliest tokens only; the least likely letters are not among them."""
    chat = reference.chat
    prompt = choices(1, 1)[0]
    everything = tuple(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" if len(chat.tokenizer.encode(c)) == 1)
    wide = ChoiceRequest(prompt.messages, everything, prompt.key)
    scores = dict(zip(everything, reference.choose([wide])[0], strict=True))
    rare = tuple(sorted(everything, key=scores.get)[:2])
    request = ChoiceRequest(prompt.messages, rare, prompt.key)
    expected = reference.choose([request])
    assert_same(vllm_engine.choose([request]), expected)
    assert_same(over_http.choose([request]), expected)
    assert_same(vllm_engine.choose([wide]), reference.choose([wide]))


def test_parts_of_a_batch_change_no_answer(vllm_engine, monkeypatch):
    expected = vllm_engine.choose(choices())
    monkeypatch.setattr("recsim_env.engine.vllm.MOST_AT_ONCE", 7)
    asked = vllm_engine.usage.requests["choose"]
    assert_same(vllm_engine.choose(choices()), expected)
    assert vllm_engine.usage.requests["choose"] - asked == 20
    assert len(vllm_engine.generate(texts(Words.model_json_schema(), count=9, max_tokens=4))) == 9


def test_the_prefix_cache_is_used_and_counted(vllm_engine, over_http):
    """The rules are 800 tokens long; vLLM caches whole blocks, on a CPU of 128 tokens."""
    for engine in (vllm_engine, over_http):
        engine.choose(choices())
        before = engine.usage
        prompt, cached = before.prompt_tokens, before.cached_tokens
        engine.choose(choices(users=6))
        assert engine.usage.cached_tokens - cached > 0.8 * (engine.usage.prompt_tokens - prompt)


def test_bfloat16_is_near(tiny_model, vllm_engine):
    rough = TransformersEngine(TransformersConfig(model=tiny_model, dtype="bfloat16"))
    for one, other in zip(rough.choose(choices()), vllm_engine.choose(choices()), strict=True):
        np.testing.assert_allclose(np.exp(one), np.exp(other), atol=0.05)


def test_json_fits_its_schema(vllm_engine, over_http):
    for engine in (vllm_engine, over_http):
        for completion in engine.generate(texts(Words.model_json_schema(), count=200)):
            words, checked = validated(completion, Words)
            assert words is not None, checked.error
            assert completion.parsed == json.loads(plain(completion.text)) == words.model_dump()
            assert completion.tokens > 0
            assert completion.prompt_tokens > 100
        assert not set(engine.usage.failures) - {"length"}


def test_cut_words_are_errors(vllm_engine, over_http):
    for engine in (vllm_engine, over_http):
        before = engine.usage.failures["length"]
        replies = engine.generate(texts(Words.model_json_schema(), count=2, max_tokens=3))
        assert [reply.error for reply in replies] == ["the reply was cut at max_tokens"] * 2
        assert engine.usage.failures["length"] == before + 2


def test_greedy_words_agree(vllm_engine, over_http, reference):
    requests = texts(count=3, temperature=0, max_tokens=8)
    expected = [reply.text for reply in reference.generate(requests)]
    assert [reply.text for reply in vllm_engine.generate(requests)] == expected
    assert [reply.text for reply in over_http.generate(requests)] == expected


def test_words_differ_between_users_and_the_global_generators_do_not_move(vllm_engine):
    import torch

    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())  # noqa: NPY002
    first = [reply.text for reply in vllm_engine.generate(texts(count=4, max_tokens=10))]
    assert len(set(first)) > 1
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_bad_requests(vllm_engine, over_http):
    long = ChoiceRequest(({"role": "user", "content": "long " * 9000},), ("A", "B"), RequestKey(0, 0, 0, 0, 0))
    with pytest.raises(EngineError, match="more than the 4096 of"):
        vllm_engine.choose([long])
    with pytest.raises(EngineError, match=r"refuses the request \(400\)"):
        over_http.choose([long])
    assert vllm_engine.choose([]) == []


def test_a_wrong_model_name_is_told(vllm_server):
    engine = OpenAIEngine(OpenAIConfig(model="large", base_urls=vllm_server))
    with pytest.raises(EngineError, match=r"\(404\): .*large"):
        engine.choose(choices(1, 1))
    engine.close()


def test_a_second_engine_after_the_first_was_closed(needs_vllm, vllm_engine, tiny_model):
    """Last in this file: it closes the shared engine."""
    from recsim_env.engine.vllm import VllmConfig, VllmEngine

    expected = vllm_engine.choose(choices(1))
    vllm_engine.close()
    vllm_engine.close()
    second = VllmEngine(VllmConfig(model=tiny_model, dtype="float32", enforce_eager=True, max_model_len=1024))
    assert_same(second.choose(choices(1)), expected)
    with pytest.raises(EngineError, match="more than the 1024 of"):
        second.generate(texts(count=1, max_tokens=1000))
    second.close()
