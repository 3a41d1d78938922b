"""Keyed draws: the same luck in any batch, fair, and never two purposes with one luck."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsim_env.draws import Draws, to_uniform

DRAWS = Draws(42)
KEYS = DRAWS.keys("test", np.arange(400))
LANES = np.arange(500)
small = st.integers(0, 2**20 - 1)


@pytest.fixture(autouse=True)
def no_floating_point_trouble():
    with np.errstate(all="raise"):
        yield


def test_known_answer():
    """Written down once: a change here changes every run ever made."""
    assert Draws(0).keys("click", [0, 1]).tolist() == [2381933313801839633, 13641750207433631026]
    assert Draws.uniforms(Draws(0).keys("click", [0]), [0, 7]).dtype == np.float32


@settings(deadline=None)
@given(users=st.lists(small, min_size=1, max_size=30), seed=st.integers(), day=small, session=small, turn=small)
def test_luck_does_not_depend_on_the_batch(users, seed, day, session, turn):
    draws, users = Draws(seed), np.array(users)
    whole = draws.keys("p", users, day, session, turn)
    alone = np.array([draws.keys("p", [u], day, session, turn)[0] for u in users])
    assert (whole == alone).all()
    same = np.full(len(users), day)
    assert (whole == draws.keys("p", users, same, np.full(len(users), session), np.full(len(users), turn))).all()
    lanes = np.array([3, 1, 2])
    assert (Draws.bits(whole, lanes)[:, ::-1] == Draws.bits(whole, lanes[::-1])).all()
    assert (Draws.bits(whole, np.tile(lanes, (len(users), 1))) == Draws.bits(whole, lanes)).all()
    assert (draws.uniform("p", users, day, session, turn) == to_uniform(whole >> np.uint64(32))).all()


@settings(deadline=None)
@given(
    one=st.tuples(st.sampled_from("abc"), small, small, small, small),
    two=st.tuples(st.sampled_from("abc"), small, small, small, small),
    seeds=st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1)),
)
def test_different_keys_for_different_moments(one, two, seeds):
    keys = [Draws(s).keys(p, [u], d, n, t)[0] for s, (p, u, d, n, t) in zip(seeds, (one, two), strict=True)]
    assert (keys[0] == keys[1]) == ((seeds[0], one) == (seeds[1], two))


def test_no_collisions_on_a_grid():
    user, day, session, turn = (a.ravel() for a in np.meshgrid(range(30), range(20), range(5), range(10)))
    assert len(np.unique(DRAWS.keys("grid", user, day, session, turn))) == len(user)
    assert len(np.unique(Draws.bits(KEYS, LANES))) == KEYS.size * LANES.size


def test_any_seed_is_allowed():
    for seed in (0, -1, 2**64, 2**200, -(10**30)):
        assert 0 < Draws(seed).uniform("p", [0])[0] < 1


def test_uniforms_are_uniform():
    u = Draws.uniforms(KEYS, LANES)
    assert (u.dtype, u.shape) == (np.float32, (400, 500))
    assert ((u > 0) & (u < 1)).all()
    counts = np.histogram(u, 100, (0, 1))[0]
    chi = ((counts - 2000) ** 2 / 2000).sum()
    assert stats.chi2.ppf(1e-4, 99) < chi < stats.chi2.ppf(1 - 1e-4, 99)
    bound = 5 * np.sqrt(1 / 12 / 400)
    assert np.abs(u.mean(axis=0) - 0.5).max() < bound  # every lane
    assert np.abs(u.mean(axis=1) - 0.5).max() < bound  # every key


def test_extreme_bits_stay_inside():
    ends = to_uniform(np.array([0, 2**32 - 1], np.uint64))
    assert 0 < ends[0] < 1e-6
    assert 1 - 1e-6 < ends[1] < 1


@pytest.mark.parametrize(
    "step", [{"user": 1}, {"day": 1}, {"session": 1}, {"turn": 1}, {"purpose": "other"}, {"seed": 1}]
)
def test_neighbours_are_uncorrelated(step):
    def draw(seed=42, purpose="test", user=0, day=0, session=0, turn=0):
        return Draws.uniforms(Draws(seed).keys(purpose, np.arange(0, 800, 2) + user, day, session, turn), LANES).ravel()

    assert abs(np.corrcoef(draw(), draw(**step))[0, 1]) < 5 / np.sqrt(400 * 500)


def test_neighbouring_lanes_are_uncorrelated():
    u = Draws.uniforms(KEYS, LANES)
    assert abs(np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]) < 5 / np.sqrt(u.size)


def test_pairs_are_independent():
    first, second = Draws.uniform_pairs(KEYS, LANES)
    assert (first == Draws.uniforms(KEYS, LANES)).all()
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / np.sqrt(first.size)
    table = np.histogram2d(first.ravel(), second.ravel(), 20, [[0, 1], [0, 1]])[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-4


def test_normals_are_normal():
    z = Draws.normals(KEYS, LANES)
    assert z.dtype == np.float32
    n = z.size
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs(stats.skew(z.ravel())) < 5 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(z.ravel())) < 5 * np.sqrt(24 / n)
    assert abs((np.abs(z) > 2).mean() - 2 * stats.norm.sf(2)) < 0.002


def test_gumbels_sample_the_soft_max():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    keys = DRAWS.keys("gumbel", np.arange(40_000))
    chosen = (logits + Draws.gumbels(keys, np.arange(4))).argmax(axis=1)
    assert np.bincount(chosen, minlength=4) / 40_000 == pytest.approx(np.exp(logits), abs=0.015)
    g = Draws.gumbels(KEYS, LANES)
    assert g.mean() == pytest.approx(np.euler_gamma, abs=0.02)
    assert g.var() == pytest.approx(np.pi**2 / 6, rel=0.03)


@settings(deadline=None)
@given(n=st.integers(0, 200), seed=st.integers(0, 9))
def test_permutation(n, seed):
    order = Draws(seed).permutation("p", n)
    assert sorted(order) == list(range(n))
    assert (order == Draws(seed).permutation("p", n)).all()


def test_permutations_differ_and_are_fair():
    first = np.array([Draws(seed).permutation("p", 10)[0] for seed in range(2000)])
    assert stats.chisquare(np.bincount(first, minlength=10)).pvalue > 1e-4


def test_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    Draws.normals(KEYS, LANES)
    DRAWS.permutation("p", 10)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
