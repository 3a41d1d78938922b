"""The native vector environment behind Stable-Baselines3's interface: one simulator, no Python object per user.

Needs Stable-Baselines3 (``pip install "recsim-env[rl]"``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from recsim_env.recommenders.candidates import allowed_slots
from recsim_env.records import BoolArray, ObservationBatch
from recsim_env.spaces import Observation
from recsim_env.vector_env import RecSimVectorEnv

Encode = Callable[[ObservationBatch], Observation]
"""Arrays (N, ...) by name of what is seen of N users."""


class BatchedVecEnv(VecEnv):
    """A :class:`RecSimVectorEnv` for Stable-Baselines3's algorithms.

    An episode that ends is followed by the next one in the same step, as they expect: its last observation is
    ``infos[i]["terminal_observation"]``, ``infos[i]["TimeLimit.truncated"]`` says whether it was only cut, and
    ``infos[i]["episode"]`` has its reward ``r``, pages ``l`` and seconds since the start ``t``. Other infos are empty.

    Args:
        env: The environment.
        encode: Writes what the algorithm shall see, from what a recommender may see; None gives the environment's own
            observation. A recommender's own encoding makes training and serving see the same.
        mask_seen: Whether :meth:`action_masks` forbids items that the user knows.

    Attributes:
        earned: Sum of all rewards since the last reset.
    """

    def __init__(self, env: RecSimVectorEnv, encode: Encode | None = None, mask_seen: bool = True) -> None:
        self.env, self._encode, self._mask_seen = env, encode, mask_seen
        space = env.single_observation_space
        if encode is not None:
            if env.last_page is None:
                env.reset()
            space = _space(encode(env.observation_batch), env.catalog.n_items)
        self.earned = 0.0
        self._begun = time.perf_counter()
        self._actions: NDArray[Any] = np.zeros(0, np.int64)
        self._returns, self._lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
        super().__init__(env.num_envs, space, env.single_action_space)

    def reset(self) -> Any:
        """New episodes everywhere, with the seed that :meth:`seed` gave, if any; the observation, (N, ...) by name."""
        found, _ = self.env.reset(seed=self._seeds[0])
        self._reset_seeds()
        self._returns[:], self._lengths[:], self.earned = 0.0, 0, 0.0
        return self._seen(found, self.env.observation_batch)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keeps the actions, int (N, K) or (N,)."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Shows the pages: observation (N, ...) by name, reward float32 (N,), ends bool (N,), N infos."""
        actions = np.asarray(self._actions).astype(np.int64)
        found, reward, terminated, truncated, info = self.env.step(actions)
        done = terminated | truncated
        self._returns += reward
        self.earned += float(reward.sum())
        self._lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if self.env.final_batch is not None:
            rows, last = self.env.final_batch
            final = None if self._encode is None else self._encode(last)
            seconds = round(time.perf_counter() - self._begun, 6)
            for i, row in enumerate(rows):
                infos[row] = {
                    "terminal_observation": (
                        info["final_obs"][row] if final is None else {name: array[i] for name, array in final.items()}
                    ),
                    "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
                    "episode": {"r": float(self._returns[row]), "l": int(self._lengths[row]), "t": seconds},
                }
            self._returns[rows], self._lengths[rows] = 0.0, 0
        return self._seen(found, self.env.observation_batch), reward.astype(np.float32), done, infos

    def action_masks(self) -> BoolArray:
        """Which slots may be shown now, bool (N, M); where there are none at all, all are."""
        allowed = allowed_slots(self.env.observation_batch, self.env.catalog.n_items, self._mask_seen)[1]
        return allowed | ~allowed.any(axis=1, keepdims=True)

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the environment, once for each slot asked for; all slots share it."""
        value = getattr(self if attr_name == "action_masks" else self.env, attr_name)
        return [value for _ in self._asked(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of the environment, for all slots."""
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Calls a method of the environment once; its answer for each slot asked for, a row each for masks."""
        if method_name == "action_masks":
            masks = self.action_masks()
            return [masks[i] for i in self._asked(indices)]
        answer = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [answer for _ in self._asked(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No slot is wrapped."""
        return [False for _ in self._asked(indices)]

    def _asked(self, indices: Any) -> Iterable[int]:
        return self._get_indices(indices)

    def _seen(self, found: Observation, obs: ObservationBatch) -> Observation:
        return found if self._encode is None else self._encode(obs)


def _space(arrays: Observation, n_items: int) -> spaces.Dict:
    """The space of one row of such arrays: integers are item indices, bytes are flags, the rest is unbounded."""

    def box(array: NDArray[Any]) -> spaces.Box:
        if array.dtype == np.float32:
            return spaces.Box(-np.inf, np.inf, array.shape[1:], np.float32)
        return spaces.Box(0, 1 if array.dtype == np.uint8 else n_items, array.shape[1:], array.dtype.type)

    return spaces.Dict({name: box(array) for name, array in arrays.items()})
