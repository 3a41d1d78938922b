"""Pages a second of Stable-Baselines3's PPO, through the batched adapter and through `DummyVecEnv`."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from recsim_env.build import World
from recsim_env.recommenders.gym_policy import GymPolicy
from recsim_env.training.sb3_env import BatchedVecEnv
from recsim_env.training.sb3_policy import SlotActorCritic
from recsim_env.vector_env import RecSimVectorEnv


class OneUser(gym.Env[Any, Any]):
    """The same environment and the same observation, for one user: what `DummyVecEnv` makes many of."""

    def __init__(self, world: World, policy: GymPolicy) -> None:
        self._batched = BatchedVecEnv(RecSimVectorEnv(world=world, num_envs=1), policy.inputs)
        self.observation_space, self.action_space = self._batched.observation_space, self._batched.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The next user."""
        super().reset(seed=seed)
        return {name: array[0] for name, array in self._batched.reset().items()}, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One page."""
        self._batched.step_async(action[None])
        found, reward, done, infos = self._batched.step_wait()
        cut = bool(infos[0].get("TimeLimit.truncated", False))
        seen = infos[0]["terminal_observation"] if done[0] else {name: array[0] for name, array in found.items()}
        return seen, float(reward[0]), bool(done[0]) and not cut, cut, {}


def pages_a_second(env: VecEnv, policy: GymPolicy, turns: int, rounds: int) -> tuple[float, float]:
    """Of acting at random, and of PPO with its learning; the first round of either is not counted."""
    env.reset()
    acted = 0.0
    for number in range(rounds + 1):
        begun = time.perf_counter()
        for _ in range(turns):
            env.step_async(_random(env))
            env.step_wait()
        acted += (time.perf_counter() - begun) * (number > 0)
    model = PPO(
        SlotActorCritic, env, n_steps=turns, batch_size=turns * env.num_envs // 2, n_epochs=4, device="cpu",
        policy_kwargs={"net": policy.net, "exclude_seen": policy.config.exclude_seen, "critic": 64},
    )  # fmt: skip
    model.learn(turns * env.num_envs)
    pages = rounds * turns * env.num_envs
    begun = time.perf_counter()
    model.learn(pages)
    return pages / acted, pages / (time.perf_counter() - begun)


def _random(env: VecEnv) -> Any:
    return np.stack([env.action_space.sample() for _ in range(env.num_envs)])


def compare(world: World, policy: GymPolicy, n_users: int, turns: int, rounds: int) -> list[list[str]]:
    """Header and lines of the comparison, both with the same world, observation and network."""
    lines = [["", "pages a second, random", "PPO with learning"]]
    ways = {
        "`BatchedVecEnv`": BatchedVecEnv(RecSimVectorEnv(world=world, num_envs=n_users), policy.inputs),
        "`DummyVecEnv`": DummyVecEnv([lambda: OneUser(world, policy)] * n_users),
    }
    found = {name: pages_a_second(env, policy, turns, rounds) for name, env in ways.items()}
    lines += [[name, *(f"{value:,.0f}" for value in values)] for name, values in found.items()]
    first, second = found.values()
    return [*lines, ["ratio", *(f"{a / b:.1f}" for a, b in zip(first, second, strict=True))]]
