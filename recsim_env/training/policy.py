"""Trains a policy on simulated users and keeps it: ``recsim-env train policy``.

The folder holds the policy (``recommender.json``, ``arrays.npz``; scenarios take it as ``path``), ``start`` (the policy
before), ``scenario.yaml``, ``log.parquet``, ``curve.png`` and ``training.json`` with the comparison on held-out users.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsim_env import manifest as facts
from recsim_env.build import World
from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.evaluation.beyond_accuracy import gini
from recsim_env.evaluation.bootstrap import Intervals, paired_difference, ratio_intervals
from recsim_env.interfaces import Recommender
from recsim_env.lm.checkpoint import Checkpoint
from recsim_env.records import IntArray
from recsim_env.registry import learners
from recsim_env.scenario import RecommenderSection, Scenario, validate_config
from recsim_env.training.board import Board
from recsim_env.training.curve import plot_curve
from recsim_env.training.experience import Episodes, Shows, of, play, seed_of
from recsim_env.training.learner import Learner
from recsim_env.training.truth import greedy_on_truth, knows_truth
from recsim_env.vector_env import RecSimVectorEnv

GREEDY, START = "greedy on truth", "before training"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is.

    Attributes:
        label: What is done now.
        iteration: Iterations done, of ``iterations``.
        iterations: Most iterations.
        evaluation: Mean reward of an episode at the last measurement, on training users.
        best: The best so far.
    """

    label: str
    iteration: int
    iterations: int
    evaluation: float
    best: float


def train_policy(
    scenario: Scenario, out: Path, resume: bool = False, on_progress: Callable[[Progress], None] = lambda _: None
) -> dict[str, Any]:
    """Trains one of the scenario's recommenders on its users, and compares it with the others on held-out users.

    Args:
        scenario: The scenario; ``training`` says how.
        out: Folder of the result.
        resume: Goes on from the folder's checkpoint.
        on_progress: Called after every iteration.

    Returns:
        What ``training.json`` holds.

    Raises:
        RunFolderError: If the folder is not empty, or there is nothing to resume.
        ScenarioError: If the scenario trains nothing.
    """
    section = trained_section(scenario)
    kind: Any = learners.get(section.name)
    config = validate_config(kind.config_class, scenario.training.config, "training")
    checkpoint = Checkpoint(out)
    checkpoint.claim(resume)
    world = World(scenario)
    try:
        held, known = held_out_users(world)
        start = out / "start"
        if (start / "recommender.json").exists():
            policy = _saved(world, section, start)
        else:
            on_progress(Progress("Warm start", 0, scenario.training.iterations, np.nan, np.nan))
            policy = world.recommender(section)
        users = world.of(known)
        env = RecSimVectorEnv(world=users, num_envs=scenario.training.num_envs)
        learner: Learner = kind(policy, env, scenario.training, config, Draws(scenario.seed))
        board = Board(out / "tensorboard") if scenario.training.tensorboard else None
        if not start.exists():  # only now: whoever cannot learn leaves no folder behind
            start.mkdir(parents=True)
            policy.save(start)
        loop = _Loop(learner, users, scenario, checkpoint, on_progress, board)
        log, seconds = loop.run(resume)
        policy.version = str(int(policy.version) + 1)
        on_progress(loop.progress("Comparing on held-out users"))
        told = {
            "policy": section.title,
            "learner": config.model_dump(mode="json"),
            "settings": policy.config.model_dump(mode="json"),
            "scenario": scenario.flat(),
            "iterations": len(log) - 1,
            "user_turns": (len(log) - 1) * learner.pages,
            "seconds": round(seconds, 1),
            "users": {"training": len(known), "held out": len(held)},
            **compare(world, section, policy, _saved(world, section, start), held),
            **facts.surroundings(),
        }
    finally:
        world.close()
    policy.save(out)
    (out / "scenario.yaml").write_text(scenario.to_yaml(), encoding="utf-8")
    frame = pd.DataFrame(log)
    frame.to_parquet(out / "log.parquet")
    levels = {name: row["reward"]["mean"] for name, row in told["held_out"].items() if name != section.title}
    plot_curve([frame], section.title, levels, out / "curve.png")
    (out / "training.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    checkpoint.remove()
    return told


def trained_section(scenario: Scenario) -> RecommenderSection:
    """The recommender that the scenario trains.

    Raises:
        ScenarioError: If it names none, or one that cannot be trained.
    """
    wanted, can = scenario.training.policy, learners.names()
    known = {s.title: s for s in scenario.recommenders}
    if wanted is not None and wanted not in known:
        raise ScenarioError(f"training.policy: {wanted!r} is none of the recommenders; there are {', '.join(known)}.")
    sections = [s for s in known.values() if s.name in can and wanted in (None, s.title)]
    if not sections:
        what = wanted or ", ".join(known)
        raise ScenarioError(
            f"Nothing to train: {what} cannot learn from simulated users. Those that can: {', '.join(can)}; for "
            f"example --set 'recommenders=[slate-pg, popularity]'."
        )
    return sections[0]


def held_out_users(world: World) -> tuple[IntArray, IntArray]:
    """The data set's users whom training never meets, and the others, each int64, ascending."""
    n = world.dataset.n_users
    order = world.draws.permutation("held-out-users", n)
    cut = min(max(1, round(world.scenario.training.held_out * n)), n - 1)
    return np.sort(order[:cut]), np.sort(order[cut:])


def _saved(world: World, section: RecommenderSection, folder: Path) -> Recommender:
    return world.recommender(section.model_copy(update={"path": folder, "config": {}}))


class _Loop:
    """Iterations, measurements, checkpoints."""

    def __init__(
        self, learner: Learner, world: World, scenario: Scenario, checkpoint: Checkpoint,
        on_progress: Callable[[Progress], None], board: Board | None = None,
    ) -> None:  # fmt: skip
        self._board = board
        self.learner, self.training, self.checkpoint, self.tell = learner, scenario.training, checkpoint, on_progress
        people = world.dataset.n_users if world.pool is None else len(world.pool)
        self._env = RecSimVectorEnv(world=world, num_envs=min(self.training.evaluate_users, people))
        settings = {"scenario": scenario.flat()}
        self._state: dict[str, Any] = {"log": [], "best": -np.inf, "seconds": 0.0, "settings": settings}

    def run(self, resume: bool) -> tuple[list[dict[str, float]], float]:
        """Trains; the module ends with its best weights. The log and the seconds that it took."""
        learner, state, module = self.learner, self._state, self.learner.module
        best = _copied(module.state_dict())
        if resume:
            weights, best, optimizer, self._state = self.checkpoint.load(state["settings"])
            state = self._state
            module.load_state_dict(weights)
            learner.restored()
            learner.optimizer.load_state_dict(optimizer)
        begun = time.perf_counter() - state["seconds"]
        if not state["log"]:
            self.tell(self.progress("Measuring the start"))
            state["best"] = state["start"] = self._measure()
            self._save(best)
        while len(state["log"]) < self.training.iterations and not self._late():
            number = len(state["log"])
            told = learner.iterate(number)
            evaluation = np.nan
            if (number + 1) % self.training.evaluate_every == 0 or number + 1 == self.training.iterations:
                evaluation = self._measure()
                if evaluation > state["best"] or learner.offline:
                    state["best"], best = evaluation, _copied(module.state_dict())
            state["seconds"] = time.perf_counter() - begun
            state["log"].append(
                {
                    "iteration": number + 1,
                    "user_turns": (number + 1) * learner.pages,
                    "seconds": round(state["seconds"], 2),
                    "evaluation": evaluation,
                    **told,
                }
            )
            if self._board is not None:
                self._board.add(state["log"][-1])
            self._save(best)
            self.tell(self.progress("Training"))
        module.load_state_dict(best)
        learner.restored()
        learner.settle(self._measure)
        return [{"iteration": 0, "user_turns": 0, "evaluation": state["start"]}, *state["log"]], state["seconds"]

    def progress(self, label: str) -> Progress:
        """How far it is."""
        log, s = self._state["log"], self._state
        measured = [row["evaluation"] for row in log if not np.isnan(row["evaluation"])]
        evaluation = measured[-1] if measured else s.get("start", np.nan)
        return Progress(label, len(log), self.training.iterations, evaluation, s["best"])

    def _late(self) -> bool:
        minutes = self.training.minutes
        return minutes is not None and self._state["seconds"] > 60 * minutes

    def _measure(self) -> float:
        """Mean reward of an episode of training users, with luck of its own."""
        seed = seed_of(self.learner.draws, "measure", 0)
        return float(play(self._env, of(self.learner.policy), seed).reward.mean())

    def _save(self, best: Mapping[str, Any]) -> None:
        weights = _copied(self.learner.module.state_dict())
        self.checkpoint.save(weights, dict(best), self.learner.optimizer, self._state)


def _copied(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Copies; safetensors too refuses tensors that share memory."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def compare(
    world: World, section: RecommenderSection, policy: Recommender, start: Recommender, held: IntArray
) -> dict[str, Any]:
    """Episodes of held-out users under every policy, with common users and luck; then of the second user model."""
    shows: dict[str, Shows] = {}
    for other in world.scenario.recommenders:
        if other.title != section.title:
            shows[other.title] = of(world.recommender(other))
    shows |= {START: of(start), section.title: of(policy)}
    found = {"held_out": _rows(world.of(held), shows, section.title, len(held))}
    second = world.scenario.training.second_users
    if second is not None:
        there = World(world.scenario.model_copy(update={"users": second}))
        try:
            found["second_users"] = _rows(there.of(held), shows, section.title, min(len(held), second.count))
        finally:
            there.close()
    return found


def _rows(world: World, shows: Mapping[str, Shows], trained: str, n_users: int) -> dict[str, Any]:
    env = RecSimVectorEnv(world=world, num_envs=n_users)
    seed = seed_of(Draws(world.scenario.seed), "comparison", 0)
    episodes = {name: play(env, show, seed) for name, show in shows.items()}
    if knows_truth(env):
        episodes[GREEDY] = play(env, greedy_on_truth, seed)
    ours = episodes[trained]
    return {name: _figures(one, ours, world.scenario) for name, one in episodes.items()}


def _figures(one: Episodes, ours: Episodes, scenario: Scenario) -> dict[str, Any]:
    """Means over users with 95 % intervals, and what the trained policy has over this one."""
    each = np.ones((len(one.reward), 1))

    def told(i: Intervals) -> dict[str, float]:
        return {"mean": float(i.value[0]), "low": float(i.low[0]), "high": float(i.high[0])}

    def mean(values: Any) -> dict[str, float]:
        return told(ratio_intervals(np.asarray(values, np.float64)[:, None], each))

    share = one.shown[one.shown > 0]
    return {
        "n_users": len(one.reward),
        "reward": mean(one.reward),
        "trained_minus_this": told(paired_difference((ours.reward[:, None], each), (one.reward[:, None], each))),
        "clicks": mean(one.clicks),
        "pages": mean(one.pages),
        "sessions": mean(one.sessions),
        "days": mean(one.days),
        "stayed": mean(~one.churned) if scenario.episode == "life" else None,
        "coverage": len(share) / len(one.shown),
        "gini": float(gini(one.shown)),
    }
