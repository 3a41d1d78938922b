"""What engines share: counting, normalisation, sampling settings, missing packages."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsim_env.engine import vllm
from recsim_env.engine.base import ChatTokenizer, EngineUsage, log_normalise, sampling_of
from recsim_env.errors import EngineError, MissingDependencyError
from recsim_env.records import RequestKey
from recsim_env.registry import embedders, engines

KEY = RequestKey(0, 1, 2, 3, 4)


def test_usage_adds_up_and_survives_json():
    first, second = EngineUsage(stored=1, seconds=0.5), EngineUsage(prompt_tokens=3, seconds=1.0)
    first.requests["choose"] += 2
    second.requests["choose"] += 1
    second.failures["timeout"] += 4
    both = first + second
    assert both.requests == {"choose": 3}
    assert (both.stored, both.prompt_tokens, both.seconds) == (1, 3, 1.5)
    assert first.requests == {"choose": 2}, "adding changes neither part"
    assert EngineUsage.from_dict(json.loads(json.dumps(both.as_dict()))) == both


@given(hnp.arrays(np.float32, st.integers(1, 9), elements=st.floats(-1e4, 1e4, width=32)))
def test_log_normalise(scores):
    found = log_normalise(scores)
    assert found.dtype == np.float64
    assert np.exp(found).sum() == pytest.approx(1)
    np.testing.assert_allclose(found - found[0], scores.astype(np.float64) - scores[0].astype(np.float64), atol=1e-6)


def test_sampling_has_defaults_and_bounds():
    assert sampling_of({}, KEY).max_tokens == 256
    assert sampling_of({"temperature": 0, "top_p": 0.5}, KEY).top_p == 0.5
    for bad in ({"temperature": -1}, {"top_p": 0}, {"max_tokens": 0}, {"top_k": 5}):
        with pytest.raises(EngineError, match="Allowed are temperature"):
            sampling_of(bad, KEY)


def test_a_tokenizer_without_template_is_refused(tiny_model):
    chat = ChatTokenizer.load(tiny_model)
    chat.tokenizer.chat_template = None
    with pytest.raises(EngineError, match="no chat template"):
        ChatTokenizer(chat.tokenizer, "m")


def test_thinking_is_switched_off_and_refusals_are_explained(tiny_model):
    chat = ChatTokenizer.load(tiny_model)
    messages = ({"role": "user", "content": "hi"},)
    assert chat.tokenizer.decode(chat.prompt(messages)).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    chat.tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(EngineError, match=r"refuses messages of .*no system role"):
        chat.prompt(messages)


def test_chats_are_tokenised_together_as_one_by_one(tiny_model):
    chat = ChatTokenizer.load(tiny_model)
    chats = [
        ({"role": "system", "content": "Rules."}, {"role": "user", "content": f"Film {i}: Amélie <|x|> 愛 {'la ' * i}"})
        for i in range(20)
    ]
    expected = [
        chat.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, enable_thinking=False, return_dict=False
        )
        for messages in chats
    ]
    assert chat.prompts(chats) == [chat.prompt(messages) for messages in chats] == expected
    assert chat.prompts([]) == []


def test_without_vllm_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"recsim-env\[vllm\].*make vllm-cpu.*engine 'transformers'"):
        vllm.VllmEngine(vllm.VllmConfig(model="m"))


def test_an_old_vllm_is_refused(monkeypatch):
    monkeypatch.setattr(vllm, "find_spec", lambda name: object())
    monkeypatch.setattr(vllm, "version", lambda name: "0.28.1+cpu")
    with pytest.raises(MissingDependencyError, match=r"vllm>=0.29 \(found 0.28.1"):
        vllm.require_vllm()


def test_data_parallel_is_refused_with_a_remedy():
    with pytest.raises(EngineError, match=r"data_parallel_size 2.*engine 'openai'"):
        vllm.VllmEngine(vllm.VllmConfig(model="m", data_parallel_size=2))


def test_every_plug_in_can_be_imported_and_has_a_config():
    for registry in (engines, embedders):
        for name in registry.names():
            assert registry.get(name).config_class.model_fields
            assert registry.summary(name)
