"""Stable-Baselines3 trains on the environment as it is."""

import warnings

import gymnasium
import numpy as np
import pytest

from recsim_env.registration import ENV_ID

sb3 = pytest.importorskip("stable_baselines3")


def weights(model):
    return {name: value.numpy().copy() for name, value in model.policy.state_dict().items()}


def train(algorithm, world, steps, **settings):
    env = gymnasium.make(ENV_ID, world=world)
    model = algorithm("MultiInputPolicy", env, seed=1, device="cpu", policy_kwargs={"net_arch": [16]}, **settings)
    before = weights(model)
    model.learn(steps)
    return model, before


def test_ppo_takes_steps_and_takes_the_same_ones_again(make_world):
    world = make_world(candidates=20, slate_size=3)
    settings = {"n_steps": 64, "batch_size": 32, "n_epochs": 2}
    model, before = train(sb3.PPO, world, 192, **settings)
    after, again = weights(model), weights(train(sb3.PPO, world, 192, **settings)[0])
    assert any(not np.array_equal(after[name], before[name]) for name in after)
    assert all(np.isfinite(value).all() for value in after.values())
    for name in after:
        np.testing.assert_array_equal(after[name], again[name])
    observation, _ = gymnasium.make(ENV_ID, world=world).reset(seed=3)
    action, _ = model.predict(observation, deterministic=True)
    assert model.action_space.contains(action)


def test_dqn_takes_steps(make_world):
    world = make_world(candidates=20, slate_size=1, episode="session")
    model, before = train(sb3.DQN, world, 200, learning_starts=50, buffer_size=200, train_freq=8, batch_size=16)
    after = weights(model)
    assert any(not np.array_equal(after[name], before[name]) for name in after)
    assert all(np.isfinite(value).all() for value in after.values())


def test_its_checker_has_nothing_to_say(make_world):
    from stable_baselines3.common.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Your observation candidate_features has an unconventional shape")
        check_env(gymnasium.make(ENV_ID, world=make_world(candidates=20)).unwrapped)
