"""The native vector environment: the simulator behind Gymnasium's interface, for N users at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from recsim_env.build import World
from recsim_env.episodes import Episodes
from recsim_env.errors import ContractError, ScenarioError
from recsim_env.page import page_text
from recsim_env.records import BoolArray, Feedback, FloatArray, IntArray, ObservationBatch, SlateBatch
from recsim_env.scenario import Scenario, load_scenario
from recsim_env.simulator import Outcome, Simulator
from recsim_env.slots import choose_items
from recsim_env.spaces import Observation, Observer, action_space

Info: TypeAlias = dict[str, Any]
Source: TypeAlias = str | Path | Mapping[str, Any] | Scenario


class RecSimVectorEnv(VectorEnv[Observation, IntArray, NDArray[Any]]):
    """``num_envs`` users at once: one simulator, no Python object per user.

    Spaces, rewards, episodes and arguments are those of :class:`recsim_env.env.RecSimEnv`, with a leading axis
    N = ``num_envs``.

    Slot i serves users i, i + N, i + 2 N, ... of the population, one per episode, then the first of them again with
    fresh luck. The population is as large as the scenario says, or N if that is more.

    **Autoreset** is ``AutoresetMode.SAME_STEP``: a step that ends an episode returns the first observation of the next
    one; the last of the old is in ``info["final_obs"]`` (objects (N,), a dict where an episode ended, else None) and
    its info in ``info["final_info"]``.

    **Info** holds arrays (N, ...) with masks ``_<name>``: ``user``, ``day``, ``session`` of the observation; and of
    the page just shown ``items``, ``clicked``, ``replaced`` (N, K), ``clicks`` and ``watched`` (N,).

    Attributes:
        observation_batch: What a recommender may see now, in the order of the slots. With
            :func:`recsim_env.slots.slots_of` a recommender's slate becomes an action.
        last_page: Observation, slate and feedback of the last step, for ``Recommender.observe``; None after a reset.
        last_outcome: All that the last step led to, hidden things too: for rewards of a training and for analysis,
            never for a policy. None after a reset.
        final_batch: The slots whose episodes the last step ended, int (E,), and what a recommender would have seen next
            of their users; None where none ended.
        item_features: float32 (I, C + 2), see :func:`recsim_env.data.features.item_features`.
        catalog: The items.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["ansi"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        *,
        scenario: Source | None = None,
        num_envs: int = 1,
        overrides: Sequence[str] = (),
        world: World | None = None,
        item_ids: bool = False,
        render_mode: str | None = None,
    ) -> None:
        world = _world(scenario, overrides, world)
        self.scenario, self.num_envs, self.render_mode = world.scenario, num_envs, render_mode
        self.catalog = world.split.train.catalog
        # Environments that share a world share what was fitted, not the users' state.
        self._world = copy.copy(world)
        self._world.user_model = copy.copy(world.user_model)
        self._observer = Observer(self.scenario, self.catalog, item_ids)
        self.item_features = self._observer.item_features
        self.single_observation_space = self._observer.space
        self.single_action_space = action_space(self.scenario, self.catalog.n_items)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.last_page: tuple[ObservationBatch, SlateBatch, Feedback] | None = None
        self.last_outcome: Outcome | None = None
        self.final_batch: tuple[IntArray, ObservationBatch] | None = None
        self._propensity: FloatArray | None = None
        self._episodes: Episodes | None = None

    @property
    def simulator(self) -> Simulator:
        """The simulator behind the environment; holds hidden state, so it is for tests and analysis.

        Raises:
            ResetNeeded: Before the first reset.
        """
        return self._seated.simulator

    @property
    def _seated(self) -> Episodes:
        if self._episodes is None:
            raise ResetNeeded("Call reset() before step().")
        return self._episodes

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Starts new episodes in all slots.

        Args:
            seed: Makes the population and all luck anew. Without it the first reset takes the scenario's seed, and
                later ones go on with the next users.
            options: ``users``: int array of at least N different rows of the population, to be served first; slot i
                gets users[i], users[i + N], and so on.

        Raises:
            ContractError: If the users are too few, unknown, or named twice; or for other options.
        """
        super().reset(seed=seed)
        if seed is not None or self._episodes is None:
            simulator = self._world.simulator(
                self.scenario.seed if seed is None else seed, max(self.scenario.users.count, self.num_envs)
            )
            self._episodes = Episodes(self.scenario, simulator, self.num_envs)
            self._observer.seat(simulator.users)
        users = self._first_users(options or {})
        if users is not None:
            self._episodes.line_up(users)
        self._begin(np.arange(self.num_envs))
        self.last_page = self.last_outcome = self.final_batch = self._propensity = None
        self.observation_batch = self.simulator.observe(self._episodes.rows)
        return self._observer.encode(self.observation_batch), self._who(self.observation_batch)

    def step(self, actions: IntArray) -> tuple[Observation, FloatArray, BoolArray, BoolArray, Info]:
        """Shows one page to each user.

        Args:
            actions: int (N, K), slots, or (N,) where ``slate_size`` is 1.

        Raises:
            ContractError: If the actions have the wrong shape or name a slot that does not exist.
            ResetNeeded: Before the first reset.
        """
        episodes, obs = self._seated, self.observation_batch
        slots = self._slots(actions)
        items, replaced = choose_items(slots, obs.candidates, self.catalog.n_items)
        slate = self._slate(items, replaced)
        outcome = episodes.simulator.react(obs, slate)
        self.last_page, self.last_outcome = (obs, slate, outcome.feedback), outcome
        self._observer.add(obs.user_index, slate, outcome.feedback)
        terminated, truncated = episodes.go_on(obs, outcome)
        page = {
            "items": items,
            "clicked": outcome.feedback.clicked.copy(),
            "replaced": replaced,
            "clicks": outcome.feedback.clicked.sum(axis=1),
            "watched": np.einsum("nk->n", outcome.feedback.watched_fraction),
        }
        final = self._turn_over(np.flatnonzero(terminated | truncated), page)
        self.observation_batch = episodes.simulator.observe(episodes.rows)
        info = {**self._who(self.observation_batch), **self._masked(page, ~(terminated | truncated)), **final}
        observation = self._observer.encode(self.observation_batch)
        return observation, outcome.reward.astype(np.float64), terminated.copy(), truncated, info

    def set_propensity(self, propensity: FloatArray) -> None:
        """Tells with what probability the next step's actions were drawn, for logs; without it they are NaN.

        Args:
            propensity: float (N, K), probability of each slot given the earlier positions.

        Raises:
            ContractError: If the shape is wrong.
        """
        wanted = (self.num_envs, self.scenario.slate_size)
        if np.shape(propensity) != wanted:
            raise ContractError(f"The propensity has shape {np.shape(propensity)}, wanted {wanted}.")
        self._propensity = np.asarray(propensity, np.float32)

    def render(self) -> tuple[str, ...] | None:
        """The last page of every slot as text, in render mode "ansi"."""
        if self.render_mode != "ansi":
            return None
        if self.last_page is None:
            return ("No page was shown yet.",) * self.num_envs
        return tuple(page_text(self.catalog, *self.last_page, row) for row in range(self.num_envs))

    def _begin(self, slots: IntArray) -> None:
        episodes = self._seated
        episodes.begin(slots)
        self._observer.reset(episodes.rows[slots])

    def _turn_over(self, ended: IntArray, page: Mapping[str, NDArray[Any]]) -> Info:
        """Closes episodes and begins the next in their slots; the info entries that tell of the old ones."""
        self.final_batch = None
        if not ended.size:
            return {}
        episodes = self._seated
        last = episodes.simulator.observe(episodes.rows[ended])
        self.final_batch = ended, last
        arrays = self._observer.encode(last)
        done = np.zeros(self.num_envs, np.bool_)
        done[ended] = True
        final_obs = np.full(self.num_envs, None, object)
        for i, slot in enumerate(ended):
            final_obs[slot] = {name: array[i] for name, array in arrays.items()}
        who = {name: np.zeros(self.num_envs, value.dtype) for name, value in self._of(last).items()}
        for name, value in self._of(last).items():
            who[name][ended] = value
        self._begin(ended)
        final_info = self._masked({**who, **page}, done)
        return {"final_obs": final_obs, "_final_obs": done, "final_info": final_info, "_final_info": done.copy()}

    @staticmethod
    def _of(obs: ObservationBatch) -> dict[str, NDArray[Any]]:
        return {"user": obs.user_index, "day": obs.day, "session": obs.session}

    def _who(self, obs: ObservationBatch) -> Info:
        return self._masked(self._of(obs), np.ones(self.num_envs, np.bool_))

    @staticmethod
    def _masked(values: Mapping[str, NDArray[Any]], mask: BoolArray) -> Info:
        """Gymnasium's info: each array, zero outside the mask, beside its own copy of the mask."""
        info: Info = {}
        for name, value in values.items():
            info[name] = np.where(mask.reshape(-1, *[1] * (value.ndim - 1)), value, value.dtype.type(0))
            info[f"_{name}"] = mask.copy()
        return info

    def _slots(self, actions: IntArray) -> IntArray:
        k, n_slots = self.scenario.slate_size, self.scenario.candidates or self.catalog.n_items
        slots = np.asarray(actions)
        wanted = (self.num_envs,) if k == 1 else (self.num_envs, k)
        if slots.shape != wanted or slots.dtype.kind not in "iu":
            raise ContractError(f"Actions are {slots.dtype} {slots.shape}; wanted integers of shape {wanted}.")
        if slots.min() < 0 or slots.max() >= n_slots:
            raise ContractError(
                f"Actions name slots {slots.min()} to {slots.max()}; there are slots 0 to {n_slots - 1}."
            )
        return slots.reshape(self.num_envs, k)

    def _slate(self, items: IntArray, replaced: BoolArray) -> SlateBatch:
        unknown = np.full(items.shape, np.nan, np.float32)
        propensity = unknown if self._propensity is None else np.where(replaced, np.float32(np.nan), self._propensity)
        self._propensity = None
        return SlateBatch(items, propensity, unknown, "gymnasium")

    def _first_users(self, options: Mapping[str, Any]) -> IntArray | None:
        unknown = set(options) - {"users"}
        if unknown:
            raise ContractError(f"Unknown reset option {sorted(unknown)[0]!r}. Allowed: 'users'.")
        if "users" not in options:
            return None
        users = np.asarray(options["users"], np.int64)
        n_users = self.simulator.users.n_users
        fine = users.ndim == 1 and len(users) >= self.num_envs and len(np.unique(users)) == len(users)
        if not fine or users.min() < 0 or users.max() >= n_users:
            raise ContractError(
                f"options['users'] must be at least {self.num_envs} different users of 0 to {n_users - 1}, in one "
                f"dimension; given: {np.array2string(users, threshold=8)}."
            )
        return users


def _world(source: Source | None, overrides: Sequence[str], world: World | None) -> World:
    if world is None:
        world = World(load_scenario("quickstart" if source is None else source, overrides))
    elif source is not None or overrides:
        raise ScenarioError("Give either a world, which has its scenario, or a scenario with its overrides.")
    if world.scenario.creators.count:
        raise ScenarioError(
            "creators: the Gymnasium environment has no creators, whose items come out over the days of all users "
            "together. Set creators.count=0, or run the scenario with 'recsim-env run'."
        )
    return world
