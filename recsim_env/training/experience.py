"""Experience: what a policy showed to simulated users and what came of it, and the value of whole episodes.

Both go through the vector environment, so that what learns is judged by the rules under which it learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recsim_env.draws import Draws
from recsim_env.interfaces import Recommender
from recsim_env.records import BoolArray, FloatArray, IntArray, ObservationBatch
from recsim_env.slots import slots_of
from recsim_env.vector_env import RecSimVectorEnv

Shows = Callable[[RecSimVectorEnv, ObservationBatch, Draws], tuple[IntArray, FloatArray]]
"""Items (N, K) for the users of an observation, and the probability of each given the earlier ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """One page of N users.

    Attributes:
        obs: What the policy saw.
        items: int32 (N, K), what it showed.
        propensity: float32 (N, K), probability of each item given the earlier ones.
        clicked: bool (N, K).
        reward: float32 (N,).
        item_reward: float32 (N, K), the part of it that belongs to single items.
        terminated: bool (N,), the episode ended with this page.
        truncated: bool (N,), it was cut after this page.
        final: Rows whose episodes ended, int (E,), and what would have been seen next of them; None where none did.
    """

    obs: ObservationBatch
    items: IntArray
    propensity: FloatArray
    clicked: BoolArray
    reward: FloatArray
    item_reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    final: tuple[IntArray, ObservationBatch] | None

    @property
    def over(self) -> BoolArray:
        """Whether the next page belongs to another episode, bool (N,)."""
        return self.terminated | self.truncated


def of(policy: Recommender) -> Shows:
    """A recommender as what shows."""

    def show(env: RecSimVectorEnv, obs: ObservationBatch, draws: Draws) -> tuple[IntArray, FloatArray]:
        slate = policy.recommend(obs, env.scenario.slate_size, draws)
        return slate.items, slate.propensity

    return show


def next_page(env: RecSimVectorEnv, show: Shows, draws: Draws) -> Page:
    """Shows one page to everybody."""
    obs = env.observation_batch
    items, propensity = show(env, obs, draws)
    action = slots_of(obs, items)
    env.set_propensity(propensity)
    _, _, terminated, truncated, _ = env.step(action[:, 0] if env.scenario.slate_size == 1 else action)
    assert env.last_page is not None
    reward, item_reward = env.simulator.reward(*env.last_page)
    clicked = env.last_page[2].clicked
    return Page(obs, items, propensity, clicked, reward, item_reward, terminated, truncated, env.final_batch)


def collect(env: RecSimVectorEnv, show: Shows, seed: int, turns: int) -> tuple[list[Page], ObservationBatch]:
    """Serves a fresh population.

    Args:
        env: Reset with the seed: nothing is carried over from before.
        show: The policy.
        seed: Population and luck.
        turns: T, pages of each user.

    Returns:
        The pages, and what is seen after the last.
    """
    env.reset(seed=seed)
    pages = [next_page(env, show, Draws(seed)) for _ in range(turns)]
    return pages, env.observation_batch


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """One episode of each of N users.

    Attributes:
        reward: float64 (N,), sum of its rewards.
        pages: int64 (N,).
        sessions: int64 (N,).
        clicks: int64 (N,).
        days: int64 (N,), days with a session.
        churned: bool (N,), the user left for good (in an episode of one session: left before it was cut).
        shown: int64 (I,), how often each item was shown.
    """

    reward: FloatArray
    pages: IntArray
    sessions: IntArray
    clicks: IntArray
    days: IntArray
    churned: BoolArray
    shown: IntArray


def play(
    env: RecSimVectorEnv, show: Shows, seed: int, on_page: Callable[[], None] = lambda: None
) -> Episodes:  # fmt: skip
    """Plays one whole episode of every slot, users and luck given by the seed: common for all policies."""
    env.reset(seed=seed)
    n = env.num_envs
    reward = np.zeros(n)
    pages, sessions, clicks, days = (np.zeros(n, np.int64) for _ in range(4))
    churned, going = np.zeros(n, np.bool_), np.ones(n, np.bool_)
    shown = np.zeros(env.catalog.n_items + 1, np.int64)
    while going.any():
        page = next_page(env, show, Draws(seed))
        reward += np.where(going, page.reward, 0.0)
        pages += going
        sessions += going & (page.obs.turn == 0)
        days += going & (page.obs.turn == 0) & (page.obs.session == 0)
        clicks += np.where(going, page.clicked.sum(axis=1), 0)
        shown += np.bincount(page.items[going].ravel(), minlength=len(shown))
        churned |= going & page.terminated
        going &= ~page.over
        on_page()
    return Episodes(reward, pages, sessions, clicks, days, churned, shown[:-1])


def seed_of(draws: Draws, purpose: str, number: int) -> int:
    """The seed of one iteration's or measurement's population and luck."""
    return int(draws.keys(purpose, number)[0] >> np.uint64(2))
