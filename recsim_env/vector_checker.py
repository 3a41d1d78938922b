"""Checks of a vector environment, beside Gymnasium's ``check_env`` for the single one.

check_vector_env(RecSimVectorEnv(scenario="quickstart", num_envs=8))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.utils.passive_env_checker import data_shares_objects
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from recsim_env.errors import ContractError
from recsim_env.records import Trace

HIDDEN = (*Trace.__slots__, "mindset", "mood", "boredom", "trust", "satisfaction", "patience", "churn", "trace")
"""Names that speak of what happens inside a user."""


def check_vector_env(env: VectorEnv[Any, Any, Any], steps: int = 60, seed: int = 7) -> None:
    """Drives a vector environment with random actions and checks everything that Gymnasium promises of it.

    Spaces and dtypes, the contract of reset and step, autoreset, masks of the info, sameness under a seed, fresh
    arrays at every call, no hidden state by name, and NumPy's global generator untouched.

    Args:
        env: The environment; it is reset and stepped.
        steps: Number of steps, enough for some episodes to end.
        seed: Seed of the environment and the actions.

    Raises:
        ContractError: At the first broken promise; says which.
    """
    _check_spaces(env)
    before = np.random.get_state()  # noqa: NPY002 (only looks at it)
    first = list(_roll(env, steps, seed))
    second = list(_roll(env, steps, seed))
    after = np.random.get_state()  # noqa: NPY002
    _demand(_same(before, after), "The environment draws from NumPy's global generator.")
    for step, (one, other) in enumerate(zip(first, second, strict=True)):
        _demand(
            _same(one, other),
            f"Step {step} differs between two roll-outs with reset(seed={seed}) and the same actions.",
        )
    for step in range(len(first) - 1):
        shared = any(data_shares_objects(a, b) for a, b in zip(first[step], first[step + 1], strict=True))
        _demand(not shared, f"Steps {step} and {step + 1} returned the same arrays; every call must return fresh ones.")
    _demand(
        not data_equivalence(first[0][0], next(iter(_roll(env, 0, seed + 1)))[0], exact=True),
        f"reset(seed={seed}) and reset(seed={seed + 1}) start with the same observations.",
    )
    over = [result[2] | result[3] for result in first[1:]]
    _demand(
        any(mask.any() for mask in over),
        f"No episode ended in {steps} steps, so autoreset was not checked. Give more steps or shorter episodes.",
    )


def _roll(env: VectorEnv[Any, Any, Any], steps: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """The results of reset and of some steps, each checked by itself: (obs, reward, terminated, truncated, info)."""
    env.action_space.seed(seed)
    result = env.reset(seed=seed)
    _demand(isinstance(result, tuple) and len(result) == 2, "reset() must return (observations, info).")
    nothing = np.zeros(env.num_envs, np.bool_)
    _check_observation(env, result[0], "reset()")
    _check_info(env, result[1], nothing)
    yield result[0], np.zeros(env.num_envs), nothing, nothing, result[1]
    over = nothing
    for _ in range(steps):
        step = env.step(env.action_space.sample())
        _demand(isinstance(step, tuple) and len(step) == 5, "step() must return five things.")
        observation, reward, terminated, truncated, info = step
        _check_observation(env, observation, "step()")
        _check_outcome(env, reward, terminated, truncated)
        _check_autoreset(env, over, step)
        over = terminated | truncated
        _check_info(env, info, over)
        yield observation, reward, terminated, truncated, info


def _check_spaces(env: VectorEnv[Any, Any, Any]) -> None:
    mode = env.metadata.get("autoreset_mode")
    allowed = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)
    _demand(
        mode in allowed, f"metadata['autoreset_mode'] is {mode!r}; it must be AutoresetMode.SAME_STEP or NEXT_STEP."
    )
    for name in ("observation_space", "action_space"):
        single = getattr(env, f"single_{name}")
        fits = getattr(env, name) == batch_space(single, env.num_envs)
        _demand(fits, f"{name} is not single_{name} batched {env.num_envs} times.")


def _check_observation(env: VectorEnv[Any, Any, Any], observation: Any, call: str) -> None:
    for path, space, value in _leaves(env.observation_space, observation, "observation"):
        _demand(isinstance(value, np.ndarray), f"{call}: {path} is {type(value).__name__}, not an array.")
        _demand(value.dtype == space.dtype, f"{call}: {path} has dtype {value.dtype}, its space says {space.dtype}.")
        _demand(value.shape == space.shape, f"{call}: {path} has shape {value.shape}, its space says {space.shape}.")
        _demand(not np.isnan(value).any(), f"{call}: {path} holds NaN.")
        _demand(space.contains(value), f"{call}: {path} leaves its space ({value.min()} to {value.max()}).")


def _leaves(space: spaces.Space[Any], value: Any, path: str) -> Iterator[tuple[str, spaces.Space[Any], Any]]:
    if isinstance(space, spaces.Dict):
        names = sorted(value) if isinstance(value, Mapping) else type(value).__name__
        _demand(names == sorted(space), f"{path} has keys {names}, its space has {sorted(space)}.")
        for name, part in space.items():
            _check_name(name, path)
            yield from _leaves(part, value[name], f"{path}[{name!r}]")
    else:
        yield path, space, value


def _check_outcome(env: VectorEnv[Any, Any, Any], reward: Any, terminated: Any, truncated: Any) -> None:
    shape = (env.num_envs,)
    for name, value, kinds in (("reward", reward, "f"), ("terminated", terminated, "b"), ("truncated", truncated, "b")):
        fits = isinstance(value, np.ndarray) and value.shape == shape and value.dtype.kind in kinds
        wanted = "floats" if kinds == "f" else "booleans"
        _demand(fits, f"step(): {name} is not an array of {wanted} of shape {shape}.")
    _demand(bool(np.isfinite(reward).all()), "step(): a reward is not finite.")


def _check_autoreset(env: VectorEnv[Any, Any, Any], was_over: Any, step: tuple[Any, ...]) -> None:
    """What a step says of the episodes that ended with it (same step), or with the one before (next step)."""
    _, reward, terminated, truncated, info = step
    over = terminated | truncated
    if env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP:
        quiet = not (over & was_over).any() and not np.any(reward[was_over])
        _demand(quiet, "NEXT_STEP: the step after an episode's end must only reset: reward 0, not over.")
        return
    for name in ("final_obs", "final_info"):
        present = info.get(f"_{name}", np.zeros_like(over))
        _demand(np.array_equal(present, over), f"SAME_STEP: info['_{name}'] marks other slots than those that ended.")
    for slot in np.flatnonzero(over):
        last = info["final_obs"][slot]
        fits = env.single_observation_space.contains(last)
        _demand(fits, f"SAME_STEP: info['final_obs'][{slot}] is not in single_observation_space.")


def _check_info(env: VectorEnv[Any, Any, Any], info: Any, over: Any, path: str = "info") -> None:
    _demand(isinstance(info, dict), f"{path} is {type(info).__name__}, not a dict.")
    for name in info:
        if name.startswith("_"):
            _demand(name[1:] in info, f"{path} has a mask {name!r} without its value.")
            continue
        _check_name(name, path)
        mask = info.get(f"_{name}")
        fits = isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (env.num_envs,)
        _demand(fits, f"{path}['_{name}'] is not a mask of shape {(env.num_envs,)}.")
        value = info[name]
        if isinstance(value, dict):
            _check_info(env, value, over, f"{path}[{name!r}]")
            continue
        _demand(len(value) == env.num_envs, f"{path}[{name!r}] has length {len(value)}, wanted {env.num_envs}.")
        _demand(value.dtype.kind != "f" or not np.isnan(value).any(), f"{path}[{name!r}] holds NaN.")


def _check_name(name: str, path: str) -> None:
    _demand(not any(word in name for word in HIDDEN), f"{path} shows {name!r}: hidden state, which no policy may see.")


def _same(one: Any, other: Any) -> bool:
    """Exact sameness of nested results; Gymnasium's own test does not know None."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray) and one.dtype == object:
        return one.shape == other.shape and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one == other)


def _demand(fine: bool, message: str) -> None:
    if not fine:
        raise ContractError(message)
