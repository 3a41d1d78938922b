"""The uniform policy: every slate of allowed items alike, by rejection or by ranking."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsim_env.draws import Draws
from recsim_env.recommenders.uniform import Uniform, UniformConfig, count_bits
from recsim_env.records import is_seen
from recsim_env.testing import observations, tiny_dataset


def fitted(n_items, **config):
    made = Uniform(UniformConfig(**config))
    made.fit(tiny_dataset(n_users=4, n_items=n_items), Draws(0))
    return made


def many(n_items, history, n):
    """The observation of n users with the same history."""
    obs = observations(tiny_dataset(n_users=4, n_items=n_items), [history], slate_size=2)
    return replace(obs.take(np.zeros(n, np.int64)), user_index=np.arange(n))


@pytest.mark.parametrize("n_items", [5, 40])
def test_all_slates_are_alike(n_items):
    # Five items: mostly ranked. Forty: mostly drawn with rejection.
    n, history = 40_000, [1] if n_items == 5 else list(range(35))
    allowed = sorted(set(range(n_items)) - set(history))
    slates = fitted(n_items).recommend(many(n_items, history, n), 2, Draws(3)).items
    found, counts = np.unique(slates, axis=0, return_counts=True)
    expected = list(permutations(allowed, 2))
    assert found.tolist() == sorted(map(list, expected))
    share = n / len(expected)
    assert ((counts - share) ** 2 / share).sum() < 60  # 11 or 19 degrees of freedom


def test_propensities_are_exact():
    slate = fitted(10).recommend(many(10, [1, 2, 3, 4, 5], 3), 7, Draws(0))
    np.testing.assert_allclose(slate.propensity, np.tile([1 / 5, 1 / 4, 1 / 3, 1 / 2, 1, 1, 1], (3, 1)), rtol=1e-6)
    np.testing.assert_allclose(slate.position_propensity, np.tile([1 / 5] * 5 + [1, 1], (3, 1)), rtol=1e-6)
    assert (slate.items[:, 5:] == 10).all()


def test_seen_items_may_be_shown_when_allowed():
    slate = fitted(10, exclude_seen=False).recommend(many(10, list(range(10)), 3), 4, Draws(0))
    np.testing.assert_allclose(slate.propensity, np.tile(1 / np.array([10, 9, 8, 7]), (3, 1)), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 12), st.integers(0, 2**32 - 1), st.data())
def test_slates_are_allowed_and_distinct(n_items, k, seed, data):
    history = data.draw(st.lists(st.integers(0, n_items - 1), unique=True))
    obs, made = many(n_items, history, 6), fitted(n_items)
    slate = made.recommend(obs, k, Draws(seed))
    shown = slate.items < n_items
    assert (shown.sum(axis=1) == min(k, n_items - len(history))).all()
    assert not (is_seen(obs.seen, slate.items) & shown).any()
    for row in slate.items:
        assert len(set(row[row < n_items].tolist())) == (row < n_items).sum()
    np.testing.assert_allclose(made.log_prob(obs, slate.items), np.log(slate.propensity), atol=1e-5)


def test_blocks_change_nothing(monkeypatch):
    obs, made = many(30, list(range(12)), 50), fitted(30)
    whole = made.recommend(obs, 6, Draws(0)).items
    for name in ("BLOCK", "RANKED"):
        monkeypatch.setattr(f"recsim_env.recommenders.uniform.{name}", 7)
    np.testing.assert_array_equal(made.recommend(obs, 6, Draws(0)).items, whole)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 1000))
def test_count_bits(width, n, seed):
    packed = (Draws.bits(Draws(seed).keys("bits", np.arange(n)), np.arange(width)) & np.uint64(255)).astype(np.uint8)
    np.testing.assert_array_equal(count_bits(packed), np.unpackbits(packed, axis=1).sum(axis=1))
