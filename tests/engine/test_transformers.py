"""The transformers engine: shared prefixes change the work and not the answer; words are drawn by key."""

import json
import random

import numpy as np
import pytest
import torch
from pydantic import BaseModel, Field

from recsim_env.engine import constrain
from recsim_env.engine.prefixes import Forward, chunks, common_prefix, groups_of
from recsim_env.engine.structured import plain, validated
from recsim_env.engine.transformers import TransformersConfig, TransformersEngine
from recsim_env.errors import EngineError
from recsim_env.records import ChoiceRequest, RequestKey, TextRequest

RULES = "You are a film fan. " + "You have seen many films and you rate them with letters. " * 8


class Words(BaseModel):
    mood: int = Field(ge=0, le=9)
    liked: bool
    why: str = Field(min_length=1, max_length=12)


@pytest.fixture(scope="module")
def engine(tiny_model):
    engine = TransformersEngine(TransformersConfig(model=tiny_model))
    yield engine
    engine.close()


def choices(users=3, items=4, rules=RULES):
    return [
        ChoiceRequest(
            (
                {"role": "system", "content": rules},
                {"role": "user", "content": f"You are user {u * 7919}, fond of noodles.{' Also tea.' * u} Film {i}?"},
            ),
            ("A", "B", "C") if i % 2 else ("B", "A"),
            RequestKey(0, u, 1, 0, 0, i, "watch"),
        )
        for u in range(users)
        for i in range(items)
    ]


def texts(count=6, purpose="words", schema=None, **sampling):
    return [
        TextRequest(
            ({"role": "system", "content": RULES}, {"role": "user", "content": f"Say something, user {u}."}),
            RequestKey(0, u, 1, 0, 0, -1, purpose),
            schema,
            {"max_tokens": 12, **sampling},
        )
        for u in range(count)
    ]


def plainly(engine, request):
    """Log-probabilities by one forward pass over the whole prompt."""
    ids = engine.chat.prompt(request.messages)
    with torch.inference_mode():
        logits = engine._forward.model(torch.tensor([ids])).logits[0, -1]
    return torch.log_softmax(logits[engine.chat.options(request.options)].double(), 0).numpy()


def test_options_are_scored_as_by_a_plain_pass(engine):
    requests = choices()
    for request, found in zip(requests, engine.choose(requests), strict=True):
        assert found.dtype == np.float64
        assert np.exp(found).sum() == pytest.approx(1)
        np.testing.assert_allclose(found, plainly(engine, request), atol=1e-4)
    spread = [np.ptp(found) for found in engine.choose(requests)]
    assert max(spread) > 0.3, "a model that likes all options alike would pass every test"


@pytest.mark.parametrize("batch_tokens", [1, 700, 10**6])
def test_neither_order_nor_batch_changes_an_answer(engine, tiny_model, batch_tokens):
    requests = choices()
    order = random.Random(1).sample(range(len(requests)), len(requests))
    small = TransformersEngine(TransformersConfig(model=tiny_model, batch_tokens=batch_tokens))
    found = small.choose([requests[i] for i in order])
    for i, answer in zip(order, found, strict=True):
        np.testing.assert_allclose(answer, plainly(engine, requests[i]), atol=1e-4)


def test_shared_beginnings_are_computed_once(tiny_model):
    engine = TransformersEngine(TransformersConfig(model=tiny_model))
    requests = choices(users=5, items=4)
    total = sum(len(engine.chat.prompt(r.messages)) for r in requests)
    engine.choose(requests)
    usage = engine.usage
    assert usage.prompt_tokens == total
    assert usage.cached_tokens > 0.8 * total
    first = usage.cached_tokens
    engine.choose(requests)  # the rules are there already
    assert usage.cached_tokens - first > first
    assert usage.requests == {"choose": 40}
    assert usage.as_dict()["failures"] == {}


def test_prompts_that_share_nothing(engine):
    forward: Forward = engine._forward
    rows = [[5, 6, 7], [9, 8], [11]]
    assert common_prefix(rows) == 0
    logits, _ = forward.run(None, [0, 0, 0], rows)
    for row, found in zip(rows, logits, strict=True):
        alone = forward.model(torch.tensor([row])).logits[0, -1]
        torch.testing.assert_close(found, alone.detach(), atol=1e-4, rtol=0)


def test_prefixes_groups_and_chunks():
    assert common_prefix([[1, 2, 3], [1, 2, 3, 4]]) == 2  # the shorter keeps a token of its own
    assert common_prefix([[1, 2, 3]]) == 2
    rows = [[1, 2, 3, 4], [1, 9, 9], [1, 2, 3, 5], [1, 9, 8]]
    assert groups_of("abab", rows, 1, least=1) == [[0, 2], [1, 3]]
    assert groups_of("abab", rows, 1, least=2) == [[0, 2], [1], [3]]
    assert chunks([3, 3, 9, 1], 9) == [range(2), range(2, 3), range(3, 4)]
    assert chunks([50], 9) == [range(1)]
    assert chunks([], 9) == []


def test_words_depend_on_their_key_alone(engine):
    requests = texts()
    found = [c.text for c in engine.generate(requests)]
    assert len(set(found)) > 1
    assert [c.text for c in engine.generate(requests[::-1])] == found[::-1]
    assert [engine.generate([r])[0].text for r in requests[:2]] == found[:2]
    assert [c.text for c in engine.generate(texts(purpose="words~1"))] != found


def test_greedy_words_equal_those_of_the_library(engine):
    request = texts(1, temperature=0)[0]
    ids = torch.tensor([engine.chat.prompt(request.messages)])
    theirs = engine._forward.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    expected = engine.chat.tokenizer.decode(theirs[0, ids.shape[1] :], skip_special_tokens=True)
    assert engine.generate([request])[0].text == expected


def test_a_small_nucleus_is_greedy(engine):
    greedy, nucleus = engine.generate([*texts(1, temperature=0), *texts(1, top_p=1e-6)])
    assert nucleus.text == greedy.text


def test_global_generators_stay_untouched(engine):
    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())  # noqa: NPY002
    engine.generate(texts(2))
    engine.choose(choices(1))
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_json_fits_its_schema_with_xgrammar(engine):
    pytest.importorskip("xgrammar", reason="xgrammar is not installed")
    requests = texts(schema=Words.model_json_schema(), max_tokens=60)
    for completion in engine.generate([*requests, *texts(1)])[:-1]:
        words, checked = validated(completion, Words)
        assert words is not None, checked.error
        assert completion.parsed == json.loads(plain(completion.text)) == words.model_dump()
        assert completion.finish_reason == "stop"


def test_without_xgrammar_a_misfit_is_an_error_that_keeps_its_text(tiny_model, monkeypatch):
    monkeypatch.setattr(constrain, "available", lambda: False)
    engine = TransformersEngine(TransformersConfig(model=tiny_model))
    for completion in engine.generate(texts(schema=Words.model_json_schema())):
        assert completion.error is not None
        assert completion.text
        assert completion.parsed is None
    assert sum(engine.usage.failures.values()) == 6
    assert set(engine.usage.failures) <= {"length", "invalid_json", "empty_text"}


def test_log_probabilities_that_are_no_numbers_are_counted(tiny_model):
    engine = TransformersEngine(TransformersConfig(model=tiny_model))
    with torch.no_grad():
        engine._forward.model.model.norm.weight[0] = torch.nan
    assert np.isnan(engine.choose(choices(1, 1))[0]).all()
    assert engine.usage.failures == {"nan_logprobs": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": ("A", "yes indeed")}, "'yes indeed' is .* tokens .* Use letters"),
        ({"options": ("A", "A")}, "same token"),
        ({"messages": ({"role": "user", "content": "long " * 5000},)}, "more than the 4096 of"),
    ],
)
def test_requests_that_cannot_be_answered(engine, change, message):
    plain = {"messages": ({"role": "user", "content": "x"},), "options": ("A",), "key": RequestKey(0, 1, 2, 3, 4)}
    request = ChoiceRequest(**{**plain, **change})
    with pytest.raises(EngineError, match=message):
        engine.choose([request])


def test_unknown_sampling_is_refused(engine):
    with pytest.raises(EngineError, match=r"temprature.*Allowed are temperature"):
        engine.generate(texts(1, temprature=1.0))


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(EngineError, match=r"Cannot load the model .* Give the path"):
        TransformersEngine(TransformersConfig(model=str(tmp_path)))


def test_empty_batches(engine):
    assert engine.choose([]) == []
    assert engine.generate([]) == []


def test_special_tokens_are_known(engine):
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(engine.special_tokens)
