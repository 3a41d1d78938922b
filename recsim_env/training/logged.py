"""Experience out of a run folder: what another policy showed, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsim_env.errors import ScenarioError
from recsim_env.manifest import hash_of_items
from recsim_env.rebuild import catalog_of, rebuild
from recsim_env.records import FloatArray, IntArray, ObservationBatch
from recsim_env.rewards import Reward
from recsim_env.rundir import Run, load_run
from recsim_env.vector_env import RecSimVectorEnv


@dataclass(slots=True, eq=False)
class LoggedPages:
    """Pages of N users at one time, without those that the catalogue's search served.

    Attributes:
        obs: What the logging policy saw.
        items: int32 (N, K), what it showed.
        propensity: float32 (N, K), probability of each item given the earlier ones.
        reward: float32 (N,).
        item_reward: float32 (N, K).
        later: float32 (N,), discounted reward of the episode's later pages, those that the search served included.
    """

    obs: ObservationBatch
    items: IntArray
    propensity: FloatArray
    reward: FloatArray
    item_reward: FloatArray
    later: FloatArray


def read_log(path: Path, label: str | None, env: RecSimVectorEnv, discount: float) -> list[LoggedPages]:
    """The pages of one recommender of a run, of all seeds, in blocks of one (day, session, turn).

    Args:
        path: The run folder.
        label: The recommender as the run calls it; None takes the run's only one.
        env: Whose users, items, page and reward the policy is trained for.
        discount: Of later pages, within the scenario's episode.

    Raises:
        ScenarioError: If the run has other items, other pages, no such recommender, or no propensities to learn from.
        RunFolderError: If the folder is no run.
    """
    run = load_run(path)
    scenario, cells = run.manifest["scenario"], run.manifest["cells"]
    labels = list(dict.fromkeys(cell["recommender"] for cell in cells))
    if label is None and len(labels) == 1:
        label = labels[0]
    if label not in labels:
        raise ScenarioError(
            f"training.logged_policy: name one of the recommenders of {path}: {', '.join(labels)} (given: {label})."
        )
    if hash_of_items(catalog_of(run)) != hash_of_items(env.catalog):
        raise ScenarioError(f"training.log: {path} has other items than the scenario. Give a run of the same data.")
    if int(scenario["slate_size"]) != env.scenario.slate_size:
        raise ScenarioError(
            f"training.log: pages of {path} have {scenario['slate_size']} items, the scenario's have "
            f"{env.scenario.slate_size}. Set slate_size: {scenario['slate_size']}."
        )
    reward = Reward.from_weights(env.scenario.reward, env.catalog.scale)
    pages: list[LoggedPages] = []
    for cell in [c for c in cells if c["recommender"] == label]:
        pages += _pages(run, f"{label}-seed{cell['seed']}", reward, discount, env.scenario.episode)
    chances = [page.propensity for page in pages if len(page.items)]
    if not chances or not np.isfinite(np.concatenate(chances)).all():
        raise ScenarioError(f"training.log: {path} holds no propensities of {label}: nothing can be corrected.")
    if min(chance.min() for chance in chances) == 1.0:
        raise ScenarioError(
            f"training.log: {label} in {path} leaves nothing to chance, so nothing tells what another page would have "
            "done. Log with a temperature or an epsilon above 0."
        )
    return [page for page in pages if len(page.items)]


def _pages(run: Run, cell: str, reward: Reward, discount: float, episode: str) -> list[LoggedPages]:
    blocks = []
    for obs, slate, feedback in rebuild(run, cell):
        whole, single = reward(obs, slate, feedback)
        blocks.append((obs, slate, whole, single))
    later = _later([obs for obs, *_ in blocks], [whole for _, _, whole, _ in blocks], discount, episode)
    found = []
    for (obs, slate, whole, single), rest in zip(blocks, later, strict=True):
        own = np.flatnonzero(~slate.searched) if slate.searched is not None else np.arange(obs.n)
        found.append(
            LoggedPages(obs.take(own), slate.items[own], slate.propensity[own], whole[own], single[own], rest[own])
        )
    return found


def _later(
    observations: Sequence[ObservationBatch], rewards: Sequence[FloatArray], discount: float, episode: str
) -> list[FloatArray]:
    """Discounted reward of each user's later pages in the episode, by block; blocks stand in the order of time."""
    n_users = 1 + max((int(obs.user_index.max()) for obs in observations if obs.n), default=0)
    to_come, visit = np.zeros(n_users), np.full((n_users, 2), -1, np.int64)
    found = []
    for obs, reward in zip(reversed(observations), reversed(rewards), strict=True):
        users = obs.user_index
        now = np.column_stack([obs.day, obs.session]).astype(np.int64)
        same = (visit[users] == now).all(axis=1) if episode == "session" else np.ones(obs.n, np.bool_)
        rest = np.where(same, to_come[users], 0.0)
        found.append(rest.astype(np.float32))
        to_come[users] = discount * (reward + rest)
        visit[users] = now
    return found[::-1]
