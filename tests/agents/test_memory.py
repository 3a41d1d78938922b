"""Memory: known answers for strengthening, forgetting and recall, and what holds for any stream of events."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsim_env.agents.memory import Memory, MemoryConfig


class OneHot:
    """Every text its own direction (by its first letter), except that "a" and "ab" are alike by a cosine of .8."""

    def embed(self, texts):
        vectors = np.zeros((len(texts), 27), np.float32)
        for i, text in enumerate(texts):
            vectors[i, (ord(text[0]) - 97) % 26] = 1.0
            if text.startswith("ab"):
                vectors[i, 0], vectors[i, 26] = 0.8, 0.6
        return vectors


def memory(n=2, **config):
    return Memory(n, MemoryConfig(**{"short": 4, "long": 4, "recalled": 2, **config}), OneHot())


def add(m, row, texts, day=0, importance=0.5):
    n = len(texts)
    m.add(np.full(n, row), list(texts), np.full(n, importance, np.float32), np.full(n, day, np.int32))


def long_term(m, row=0):
    s = m.config.short
    return {t: (x, int(d)) for t, x, d in zip(m.text[row, s:], m.strength[row, s:], m.day[row, s:], strict=True) if t}


def test_an_event_met_again_is_strengthened_not_told_twice():
    m = memory()
    add(m, 0, "abca", day=1)
    add(m, 0, "a", day=3, importance=0.9)
    assert m.recent(0) == ["a", "b", "c"]
    assert m.recent(1) == []
    np.testing.assert_allclose(m.strength[0, :3], [3, 1, 1])
    np.testing.assert_array_equal(m.day[0, :3], [3, 1, 1])
    np.testing.assert_allclose(m.importance[0, 0], 0.9)


def test_the_older_half_moves_on_when_short_term_is_full():
    m = memory()
    add(m, 0, "abcda")
    add(m, 0, "e")
    assert m.recent(0) == ["c", "d", "e"]
    assert long_term(m) == {"a": (2.0, 0), "b": (1.0, 0)}


def test_what_moves_on_strengthens_its_like_in_long_term_memory():
    m = memory(long=8)
    add(m, 0, "abcde", day=1)  # a, b moved on
    add(m, 0, "fab", day=2)  # c, d moved on when a arrived
    add(m, 0, "gh", day=2)
    assert long_term(m)["a"] == (1.0, 1)
    add(m, 0, "ij", day=4)
    assert long_term(m)["a"] == (2.0, 2)


def test_a_newcomer_takes_the_place_of_what_is_retained_least():
    m = memory(long=2)
    add(m, 0, "a", importance=0.1)
    add(m, 0, "b", importance=0.9)
    add(m, 0, "cdefg", importance=0.5)
    assert set(long_term(m)) == {"b", "d"}  # a went for c, c for d


def test_forgetting_is_decay_to_the_floor():
    m = memory(decay=0.5, floor=0.1)
    add(m, 0, "a", importance=0.8)  # .8, .4, .2, .1, .05
    add(m, 0, "b", importance=0.2)
    add(m, 0, "cdef", importance=0.8)
    rows = np.array([0])
    m.forget(rows, 1)
    assert set(long_term(m)) == {"a", "b"}
    m.forget(rows, 2)  # .2 and .05
    assert "b" not in long_term(m)
    m.forget(rows, 3)
    assert "a" in long_term(m)
    m.forget(rows, 4)
    assert long_term(m) == {}
    assert m.recent(0) == ["c", "d", "e", "f"]  # short-term memory is not forgotten, it moves on


def test_recall_orders_by_relevance_recency_and_importance():
    m = memory(decay=0.5, recalled=3)
    add(m, 0, ["a", "ab", "b"], day=0, importance=0.5)
    add(m, 0, "cdefg", day=0)
    query = m.embed(["a"])
    assert m.recall(np.array([0]), query, 0) == [["a", "ab", "b"]]  # relevance 1, .9, .5
    m.day[0, 4 + [*m.text[0, 4:]].index("b")] = 2
    assert m.recall(np.array([0]), query, 2)[0] == ["b", "a", "ab"]  # .5 against .25 and .225
    m.importance[0, 4 + [*m.text[0, 4:]].index("ab")] = 1.0
    assert m.recall(np.array([0]), query, 2)[0] == ["b", "ab", "a"]  # .25, .225, .125
    assert m.recall(np.array([1]), query, 2) == [[]]


def test_users_do_not_mix_and_batches_do_not_matter():
    whole, single = memory(3), memory(3)
    rows = np.array([0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 2])
    texts = list("abcdefghija")
    weights = np.linspace(0.1, 0.9, len(rows)).astype(np.float32)
    whole.add(rows, texts, weights, np.zeros(len(rows), np.int32))
    for i in range(len(rows)):
        single.add(rows[i : i + 1], texts[i : i + 1], weights[i : i + 1], np.zeros(1, np.int32))
    for name in Memory.ARRAYS:
        np.testing.assert_array_equal(getattr(whole, name), getattr(single, name))


@settings(max_examples=40, deadline=None)
@given(events=st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcdefghijklmnop")), max_size=60))
def test_whatever_happens_memory_keeps_its_shape(events):
    m = memory(3)
    for day, (row, text) in enumerate(events):
        add(m, row, text, day=day)
        if day % 5 == 0:
            m.forget(np.arange(3), day)
    for row in range(3):
        told = m.recent(row)
        own = [text for r, text in events if r == row]
        assert len(told) <= 4
        assert len(set(told)) == len(told)
        assert set(told) <= set(own)
        if own:
            assert own[-1] in told  # the last event is always there
        filled = m.strength[row] > 0
        np.testing.assert_array_equal(filled, [t is not None for t in m.text[row]])
        assert m.strength[row].sum() <= len(own)
        recalled = m.recall(np.array([row]), m.embed(["a"]), len(events))[0]
        assert set(recalled) <= set(own)


def test_state_round_trip_and_clearing():
    m, other = memory(), memory()
    add(m, 0, "abcdef")
    other.load_state(m.state())
    for name in Memory.ARRAYS:
        np.testing.assert_array_equal(getattr(m, name), getattr(other, name))
    add(m, 0, "g")
    assert "g" not in other.recent(0)
    m.clear(np.array([0]))
    assert m.recent(0) == []
    assert m.recall(np.array([0]), m.embed(["a"]), 0) == [[]]


@pytest.mark.parametrize("bad", [{"short": 1}, {"decay": 0.0}, {"same": 2.0}, {"colour": 1}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        MemoryConfig(**bad)
