"""Slate policy gradient: its sums against slow ones, and worlds whose best page is known."""

import numpy as np
import pytest
import torch

from recsim_env.draws import Draws
from recsim_env.recommenders.sampling import SlatePolicy
from recsim_env.recommenders.slate_policy import slate_log_prob
from recsim_env.training.experience import collect, of, play
from recsim_env.training.policy_gradient import (
    Batch,
    PolicyGradientConfig,
    SlatePolicyGradient,
    advantages,
    allowed_items,
)
from recsim_env.vector_env import RecSimVectorEnv

PLAIN = {"name": "slate-pg", "epochs": 0, "dim": 8, "max_length": 6}
SMALL = {"slate_size": 3, "recommenders": [PLAIN], "episode": "session", "users": {"count": 12}}


def test_log_probabilities_are_those_of_the_sampler():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(7, 9)).astype(np.float32) * 3
    scores[:, 4] = -np.inf
    slots = np.stack([rng.permutation([0, 1, 2, 3, 5, 6, 7, 8])[:4] for _ in range(7)])
    slots[2, 3] = 9  # nothing was left
    expected = SlatePolicy(1.0, 0.0).log_prob(scores, slots)
    expected[2, 3] = 0.0
    found = slate_log_prob(torch.from_numpy(scores), torch.from_numpy(slots))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("credit", ["item", "position", "page"])
@pytest.mark.parametrize("trace", [0.0, 0.7, 1.0])
def test_advantages_against_a_loop(credit, trace):
    rng = np.random.default_rng(1)
    n_turns, n, k, discount = 5, 3, 2, 0.9
    items = rng.normal(size=(n_turns, n, k)).astype(np.float32)
    reward = items.sum(axis=2) + 0.5
    values = rng.normal(size=(n_turns, n, k + 1)).astype(np.float32)
    following = rng.normal(size=(n_turns, n)).astype(np.float32)
    terminated = rng.random((n_turns, n)) < 0.2
    over = terminated | (rng.random((n_turns, n)) < 0.2)
    found = advantages(reward, items, values, following, terminated, over, discount, trace, credit)
    for u in range(n):
        later = 0.0
        for t in reversed(range(n_turns)):
            ahead = 0.0 if terminated[t, u] else following[t, u] + (0.0 if over[t, u] else trace * later)
            for j in range(k):
                own = {"item": items[t, u, j], "position": items[t, u, j:].sum(), "page": items[t, u].sum()}[credit]
                assert found[t, u, j] == pytest.approx(own + 0.5 + discount * ahead - values[t, u, j], abs=1e-5)
            later = reward[t, u] + discount * ahead - values[t, u, k]
            assert found[t, u, k] == pytest.approx(later, abs=1e-5)


@pytest.fixture
def learner(make_world):
    def make(config=None, **changes):
        world = make_world(**{**SMALL, **changes})
        env = RecSimVectorEnv(world=world, num_envs=12)
        policy = world.recommender(world.scenario.recommenders[0])
        settings = PolicyGradientConfig(**(config or {}))
        return SlatePolicyGradient(policy, env, world.scenario.training, settings, Draws(5))

    return make


@pytest.mark.parametrize("candidates", [None, 10])
def test_ratios_begin_at_one(learner, candidates):
    made = learner(candidates=candidates)
    pages, _ = collect(made.env, of(made.policy), 3, 4)
    shape = (4, 12, 3)
    batch = Batch.of(made.policy, pages, np.ones(shape, np.float32), np.ones((4, 12, 4), np.float32))
    logits, _ = made.policy.net(batch.history, batch.context, batch.last)
    log_prob = slate_log_prob(logits.masked_fill(~batch.allowed, -torch.inf), batch.slots)
    np.testing.assert_allclose(log_prob.detach().numpy(), batch.log_prob.numpy(), atol=1e-4)


def test_what_may_be_shown(learner):
    made = learner(candidates=10)
    made.env.reset(seed=1)
    obs = made.env.observation_batch
    allowed = allowed_items(obs, made.policy)
    scores, lanes = made.policy.allowed_scores(obs)
    for row in range(obs.n):
        assert set(np.flatnonzero(allowed[row])) == set(lanes[row][np.isfinite(scores[row])])


@pytest.mark.parametrize("config", [{}, {"algorithm": "reinforce", "credit": "page"}, {"credit": "position"}])
def test_it_learns_what_everybody_likes(learner, config):
    """Users who only care for popular items: a policy that knows nothing at first must find them."""
    users = {"count": 12, "familiarity": 3.0, "genre": 0.0, "interest": 0.0, "taste": 0.0, "appeal": -2.0}
    made = learner(config, users=users, training={"num_envs": 12, "turns": 20, "discount": 0.3})
    env = RecSimVectorEnv(world=made.env._world, num_envs=12)
    before = np.mean([play(env, of(made.policy), seed).reward.mean() for seed in range(8)])
    for iteration in range(40):
        told = made.iterate(iteration)
    assert np.isfinite(list(told.values())).all()
    after = np.mean([play(env, of(made.policy), seed).reward.mean() for seed in range(8)])
    assert after > 1.3 * before


def test_global_generators_stay(learner):
    before = torch.get_rng_state()
    np.random.seed(3)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    learner().iterate(0)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_settling_takes_the_better_temperature(learner):
    made = learner()
    made.settle(lambda: {1.0: 1.0, 0.5: 3.0, 0.25: 2.0}[made.policy.config.temperature])
    assert made.policy.config.temperature == 0.5
