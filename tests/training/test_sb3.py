"""Stable-Baselines3 on the vector environment: the adapter, the network, the four learners, kill and resume."""

import copy
import random

import numpy as np
import pytest
import torch

from recsim_env.draws import Draws
from recsim_env.errors import MissingDependencyError, ScenarioError
from recsim_env.lm.checkpoint import Checkpoint
from recsim_env.recommenders.gym_policy import GymNet
from recsim_env.registry import learners, recommenders
from recsim_env.training.experience import of, play
from recsim_env.training.policy import _Loop
from recsim_env.vector_env import RecSimVectorEnv

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

NAMES = ("ppo", "a2c", "dqn", "maskable-ppo")


@pytest.fixture
def make(make_world):
    """Makes a learner; keywords are scenario keys."""

    def make(name="ppo", config=None, **changes):
        single = name in ("dqn", "maskable-ppo")
        scenario = {
            "slate_size": 1 if single else 3,
            "recommenders": [{"name": name, "dim": 8, "hidden": 16, "positions": 3}],
            "episode": "session",
            "training": {"num_envs": 12, "turns": 8, "iterations": 4, "evaluate_every": 2},
            **changes,
        }
        world = make_world(**scenario)
        env = RecSimVectorEnv(world=world, num_envs=12)
        kind = learners.get(name)
        policy = world.recommender(world.scenario.recommenders[0])
        return kind(policy, env, world.scenario.training, kind.config_class(**(config or {})), Draws(5))

    return make


def tensors(inputs):
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def weights(learner):
    return {name: value.clone() for name, value in learner.module.state_dict().items()}


@pytest.mark.parametrize(("candidates", "slate_size"), [(None, 3), (10, 1)])
def test_the_adapter_shows_what_the_environment_shows(make_world, candidates, slate_size):
    from recsim_env.training.sb3_env import BatchedVecEnv

    world = make_world(candidates=candidates, slate_size=slate_size, episode="session")
    plain, env = (RecSimVectorEnv(world=world, num_envs=6, item_ids=True) for _ in range(2))
    adapter = BatchedVecEnv(env)
    assert adapter.observation_space == env.single_observation_space
    adapter.seed(3)
    seen, (expected, _) = adapter.reset(), plain.reset(seed=3)
    returns, lengths, n_ended = np.zeros(6), np.zeros(6), 0
    for step in range(20):
        for name in expected:
            np.testing.assert_array_equal(seen[name], expected[name])
        plain.action_space.seed(step)
        action = plain.action_space.sample()
        seen, reward, done, infos = adapter.step(action)
        expected, wanted, terminated, truncated, info = plain.step(action)
        np.testing.assert_allclose(reward, wanted, rtol=1e-6)
        assert reward.dtype == np.float32
        np.testing.assert_array_equal(done, terminated | truncated)
        returns, lengths = returns + wanted, lengths + 1
        for row in range(6):
            if not done[row]:
                assert infos[row] == {}
                continue
            n_ended += 1
            for name, array in info["final_obs"][row].items():
                np.testing.assert_array_equal(infos[row]["terminal_observation"][name], array)
            assert infos[row]["TimeLimit.truncated"] == (truncated[row] and not terminated[row])
            assert infos[row]["episode"]["r"] == pytest.approx(returns[row])
            assert infos[row]["episode"]["l"] == lengths[row]
            returns[row] = lengths[row] = 0
    assert n_ended
    assert adapter.get_attr("num_envs", [0, 2]) == [6, 6]
    assert not any(adapter.env_is_wrapped(object))


def test_masks_are_what_may_be_shown(make):
    learner = make("maskable-ppo", candidates=10)
    obs = learner.env.observation_batch
    masks = np.stack(learner.venv.env_method("action_masks"))
    scores, _ = learner.policy._allowed_logits(obs, 1)
    np.testing.assert_array_equal(masks, np.isfinite(scores[:, 0]))
    assert learner.venv.has_attr("action_masks")


@pytest.mark.parametrize("candidates", [None, 10])
def test_training_and_serving_give_the_same_probabilities(make, candidates):
    learner = make(candidates=candidates)
    learner.iterate(0)
    env, policy = learner.env, learner.policy
    obs = env.observation_batch
    slate = policy.recommend(obs, 3, Draws(1))
    seen = learner.venv._seen({}, obs)
    with torch.no_grad():
        logits = policy.net(tensors(seen), 3)
        slots = slate.items if candidates is None else np.argmax(slate.items[:, :, None] == obs.candidates[:, None], 2)
        _, log_prob, _ = learner.model.policy.evaluate_actions(tensors(seen), torch.from_numpy(slots))
    np.testing.assert_allclose(logits.numpy(), policy.logits(obs, 3), atol=1e-5)
    np.testing.assert_allclose(log_prob.numpy(), np.log(slate.propensity).sum(axis=1), atol=1e-4)
    np.testing.assert_allclose(log_prob.numpy(), policy.log_prob(obs, slate.items).sum(axis=1), atol=1e-4)


def test_sampling_is_without_repetition_and_masked():
    from recsim_env.training.sb3_policy import FORBIDDEN, SlateDistribution

    logits = torch.zeros(500, 3, 4)
    logits[:, :, 2] = FORBIDDEN
    for deterministic in (True, False):
        slots = SlateDistribution(logits).sample(deterministic)
        assert (slots.sort(dim=1).values == torch.tensor([0, 1, 3])).all()
    slots = SlateDistribution(logits).sample(False)
    np.testing.assert_allclose(SlateDistribution(logits).log_prob(slots), -np.log(6), atol=1e-5)


def test_the_network_takes_any_number_of_candidates():
    net = GymNet(torch.rand(9, 4), 5, positions=2, dim=3, hidden=4, half_life=5.0)
    inputs = {"history": torch.full((2, 6), 9), "last": torch.full((2, 3), 9), "context": torch.rand(2, 5)}
    whole = net(inputs, 4)
    assert whole.shape == (2, 4, 9)
    some = net({**inputs, "candidates": torch.tensor([[3, 9], [8, 0]])}, 4)
    assert torch.equal(some[:, :, 1][0], torch.zeros(4))
    torch.testing.assert_close(some[0, :, 0], whole[0, :, 3])
    torch.testing.assert_close(some[1], whole[1][:, [8, 0]])


@pytest.mark.parametrize("candidates", [None, 10])
@pytest.mark.parametrize("name", NAMES)
def test_an_iteration_and_serving(make, tmp_path, name, candidates):
    learner = make(name, candidates=candidates)
    before = weights(learner)
    told = learner.iterate(0)
    after = weights(learner)
    assert np.isfinite(told["reward_per_page"])
    assert all(torch.isfinite(value).all() for value in after.values())
    changed = {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"policy", "critic"}
    learner.policy.save(tmp_path)
    read = recommenders.get(name).load(tmp_path)
    obs = learner.env.observation_batch
    k = learner.env.scenario.slate_size
    slate, again = learner.policy.recommend(obs, k, Draws(2)), read.recommend(obs, k, Draws(2))
    np.testing.assert_array_equal(slate.items, again.items)
    assert (play(learner.env, of(read), 3).pages > 0).all()


def test_iterations_depend_on_weights_and_number_alone(make):
    first, second = make("dqn"), make("dqn")
    first.iterate(0)
    second.module.load_state_dict(first.module.state_dict())
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    first.iterate(1)
    second.iterate(1)
    for one, other in zip(weights(first).values(), weights(second).values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_killed_and_resumed(make, tmp_path, name):
    class KilledError(Exception):
        pass

    def kill(progress):
        if progress.iteration == 2:
            raise KilledError

    def loop(folder, tell=lambda _: None):
        learner = make(name)
        checkpoint = Checkpoint(tmp_path / folder)
        checkpoint.claim(folder == "killed" and (tmp_path / folder).exists())
        world = learner.env._world.of(np.arange(20))
        return learner, _Loop(learner, world, learner.env.scenario, checkpoint, tell)

    whole, running = loop("whole")
    log, _ = running.run(resume=False)
    _, running = loop("killed", kill)
    with pytest.raises(KilledError):
        running.run(resume=False)
    resumed, running = loop("killed")
    again, _ = running.run(resume=True)
    assert [row["evaluation"] for row in again] == pytest.approx([row["evaluation"] for row in log], nan_ok=True)
    for one, other in zip(weights(whole).values(), weights(resumed).values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


LIKE_ALL = {"count": 12, "familiarity": 3.0, "genre": 0.0, "interest": 0.0, "taste": 0.0, "appeal": -2.0}


@pytest.mark.parametrize(("name", "config"), [("ppo", {}), ("a2c", {}), ("dqn", {"gradient_steps": 24})])
def test_it_learns_what_everybody_likes(make, name, config):
    """Users who only care for popular items: a policy that knows nothing at first must find them."""
    training = {"num_envs": 12, "turns": 20, "discount": 0.3, "iterations": 16}
    learner = make(name, config, users=LIKE_ALL, training=training)
    env = RecSimVectorEnv(world=learner.env._world, num_envs=12)
    uniform = recommenders.get("uniform")()
    uniform.fit(env._world.dataset, Draws(0))

    def worth(policy):
        return np.mean([play(env, of(policy), seed).reward.mean() for seed in range(4)])

    for iteration in range(16):
        learner.iterate(iteration)
    assert worth(learner.policy) > 1.3 * worth(uniform)


def test_global_generators_stay(make):
    np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    make().iterate(0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002


def test_settling_takes_the_better_temperature(make):
    learner = make()
    learner.settle(lambda: {1.0: 1.0, 0.5: 3.0, 0.25: 2.0}[learner.policy.config.temperature])
    assert learner.policy.config.temperature == 0.5


@pytest.mark.parametrize("name", ["dqn", "maskable-ppo"])
def test_pages_of_many_items_are_refused(make, name):
    with pytest.raises(ScenarioError, match=r"one item a page, and slate_size is 3. Set slate_size=1, or train 'ppo'"):
        make(name, slate_size=3)


@pytest.mark.parametrize(("module", "package"), [("stable_baselines3", "stable-baselines3"), ("sb3_contrib", "sb3-c")])
def test_a_missing_package_is_named(make, monkeypatch, module, package):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"'ppo' needs .*{package}.*pip install \"recsim-env\[rl\]\""):
        make()
