"""Stable-Baselines3 as a learner: its PPO, A2C and DQN, and the maskable PPO of sb3-contrib.

They train the recommenders of :mod:`recsim_env.recommenders.gym_policy`. An iteration is one of theirs: ``num_envs``
users are served ``turns`` pages, then it learns. Pages are drawn without repetition, position after position, with the
very probabilities that the recommender logs when it serves at temperature 1 (DQN: the best slot, or with some chance a
random one). DQN's replay buffer holds the pages of one iteration and is filled anew in the next; its target is the
network as the iteration began.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import nn

from recsim_env.draws import Draws
from recsim_env.errors import MissingDependencyError, ScenarioError
from recsim_env.interfaces import Recommender
from recsim_env.recommenders.gym_policy import GymPolicy
from recsim_env.scenario import TrainingSection
from recsim_env.training.experience import seed_of
from recsim_env.training.learner import Learner, LearnerConfig
from recsim_env.training.luck import seeded
from recsim_env.vector_env import RecSimVectorEnv

INSTALL = 'pip install "recsim-env[rl]"'


class SB3Config(LearnerConfig):
    """Settings of every learner of Stable-Baselines3."""

    learning_rate: float = Field(default=3e-3, gt=0)
    """Adam's."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are cut to this norm."""
    critic: int = Field(default=64, ge=1)
    """Width of the critic's layer."""
    temperatures: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Temperatures of serving to choose from."""


class ActorCriticConfig(SB3Config):
    """Settings of PPO and A2C."""

    gae_lambda: float = Field(default=0.9, ge=0, le=1)
    """Lambda of generalised advantage estimation (Schulman et al. 2016), over pages."""
    ent_coef: float = Field(default=0.001, ge=0)
    """Weight of the entropy of the first position, against settling too early."""
    vf_coef: float = Field(default=0.5, ge=0)
    """Weight of the critic's error."""


class PPOConfig(ActorCriticConfig):
    """Settings of PPO and maskable PPO."""

    n_epochs: int = Field(default=4, ge=1)
    """Passes over the pages of an iteration."""
    batch_size: int = Field(default=512, ge=2)
    """Pages of a gradient step, at most."""
    clip_range: float = Field(default=0.2, gt=0)
    """Ratios of probabilities of whole pages past 1 +- this give no gradient."""
    target_kl: float | None = Field(default=0.1, gt=0)
    """No further pass when the policy is farther from the one that showed the pages; null is no limit."""


class A2CConfig(ActorCriticConfig):
    """Settings of A2C, which takes one gradient step in an iteration."""

    learning_rate: float = Field(default=1e-2, gt=0)
    """Adam's."""
    normalize_advantage: bool = True
    """Brings advantages to mean 0 and standard deviation 1."""


class DQNConfig(SB3Config):
    """Settings of DQN."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Adam's."""
    max_grad_norm: float = Field(default=10.0, gt=0)
    """Gradients are cut to this norm."""
    gradient_steps: int = Field(default=64, ge=1)
    """Gradient steps of an iteration."""
    batch_size: int = Field(default=256, ge=1)
    """Pages of a gradient step, drawn with replacement from those of the iteration."""
    exploration_initial: float = Field(default=0.5, ge=0, le=1)
    """Chance of a random slot at first."""
    exploration_final: float = Field(default=0.05, ge=0, le=1)
    """The same in the end."""
    exploration_fraction: float = Field(default=0.5, gt=0, le=1)
    """Share of the iterations over which it falls from one to the other."""
    temperatures: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01)
    """Temperatures of serving to choose from."""


class SB3Learner(Learner):
    """What the four learners share.

    The recommender's network is the one that is trained: nothing is copied between training and serving. The global
    generators, which Stable-Baselines3 draws from, are seeded for each iteration and put back as they were.

    Raises:
        MissingDependencyError: If Stable-Baselines3 or sb3-contrib is not installed.
        ScenarioError: If the algorithm cannot learn pages of that many items.
    """

    config_class: ClassVar[type[LearnerConfig]] = SB3Config
    config: SB3Config
    policy: GymPolicy

    name: ClassVar[str]
    """Name of the algorithm."""

    single: ClassVar[bool] = False
    """Whether pages must have one item."""

    def __init__(
        self, policy: Recommender, env: RecSimVectorEnv, training: TrainingSection, config: LearnerConfig, draws: Draws
    ) -> None:
        super().__init__(policy, env, training, config, draws)
        assert isinstance(policy, GymPolicy)
        _require(self.name)
        if self.single and env.scenario.slate_size > 1:
            raise ScenarioError(
                f"Learner {self.name!r} chooses one item a page, and slate_size is {env.scenario.slate_size}. Set "
                "slate_size=1, or train 'ppo' or 'a2c', which choose whole pages."
            )
        from stable_baselines3.common.logger import Logger

        from recsim_env.training.sb3_env import BatchedVecEnv

        self.venv = BatchedVecEnv(env, policy.inputs, policy.config.exclude_seen)
        with seeded(seed_of(draws, "critic", 0)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="stable_baselines3")
            warnings.filterwarnings("ignore", category=UserWarning, module="sb3_contrib")
            self.model = self._made()
        self.model.set_logger(Logger(None, []))
        self.module, self.optimizer = self._weights(), self.model.policy.optimizer

    @abstractmethod
    def _made(self) -> Any:
        """The algorithm."""

    def iterate(self, iteration: int) -> dict[str, float]:
        """Serves ``num_envs`` users for ``turns`` pages and learns from them."""
        seed = seed_of(self.draws, "iteration", iteration)
        self.venv.seed(seed)
        with seeded(seed):
            self._prepare(iteration)
            self.model.learn(self.pages, log_interval=None)
        told = {name.removeprefix("train/"): float(v) for name, v in self.model.logger.name_to_value.items()}
        ended = [episode["r"] for episode in self.model.ep_info_buffer]
        return {
            "reward_per_page": self.venv.earned / self.pages,
            "episode_reward": float(np.mean(ended)) if ended else np.nan,
            **told,
        }

    def _weights(self) -> nn.Module:
        """The recommender's network and the critic's."""
        return nn.ModuleDict({"policy": self.policy.net, "critic": self.model.policy.critic})

    def _prepare(self, iteration: int) -> None:
        """Called before each iteration."""
        return None

    def _common(self) -> dict[str, Any]:
        """Arguments of all algorithms."""
        network = {
            "net": self.policy.net,
            "exclude_seen": self.policy.config.exclude_seen,
            "critic": self.config.critic,
        }
        return {
            "env": self.venv, "learning_rate": self.config.learning_rate, "gamma": self.training.discount,
            "max_grad_norm": self.config.max_grad_norm, "device": "cpu", "policy_kwargs": network,
        }  # fmt: skip


class PPOLearner(SB3Learner):
    """Stable-Baselines3's PPO (Schulman et al. 2017)."""

    config_class = PPOConfig
    config: PPOConfig
    name = "ppo"

    def _made(self) -> Any:
        from stable_baselines3 import PPO

        from recsim_env.training.sb3_policy import SlotActorCritic

        return PPO(SlotActorCritic, **self._arguments())

    def _arguments(self) -> dict[str, Any]:
        c = self.config
        parts = -(-self.pages // c.batch_size)
        return {
            **self._common(), "n_steps": self.training.turns, "batch_size": max(-(-self.pages // parts), 2),
            "n_epochs": c.n_epochs, "clip_range": c.clip_range, "target_kl": c.target_kl, "gae_lambda": c.gae_lambda,
            "ent_coef": c.ent_coef, "vf_coef": c.vf_coef,
        }  # fmt: skip


class MaskablePPOLearner(PPOLearner):
    """PPO of sb3-contrib with masks of what may be shown (Huang and Ontanon 2022), for pages of one item."""

    name = "maskable-ppo"
    single = True

    def _made(self) -> Any:
        from sb3_contrib import MaskablePPO

        from recsim_env.training.sb3_policy import MaskableSlotActorCritic

        return MaskablePPO(MaskableSlotActorCritic, **self._arguments())


class A2CLearner(SB3Learner):
    """Stable-Baselines3's A2C (Mnih et al. 2016), with Adam."""

    config_class = A2CConfig
    config: A2CConfig
    name = "a2c"

    def _made(self) -> Any:
        from stable_baselines3 import A2C

        from recsim_env.training.sb3_policy import SlotActorCritic

        c = self.config
        return A2C(
            SlotActorCritic, **self._common(), n_steps=self.training.turns, gae_lambda=c.gae_lambda,
            ent_coef=c.ent_coef, vf_coef=c.vf_coef, use_rms_prop=False, normalize_advantage=c.normalize_advantage,
        )  # fmt: skip


class DQNLearner(SB3Learner):
    """Stable-Baselines3's DQN (Mnih et al. 2015), for pages of one item."""

    config_class = DQNConfig
    config: DQNConfig
    name = "dqn"
    single = True

    def _made(self) -> Any:
        from recsim_env.training.sb3_policy import SlotDQN, SlotDQNPolicy

        c = self.config
        return SlotDQN(
            SlotDQNPolicy, **self._common(), buffer_size=self.pages, learning_starts=0, batch_size=c.batch_size,
            train_freq=(self.training.turns, "step"), gradient_steps=c.gradient_steps, tau=1.0,
            # Once an iteration, after its pages and before it learns.
            target_update_interval=self.pages,
        )  # fmt: skip

    def _prepare(self, iteration: int) -> None:
        """Empties the replay buffer and sets the chance of random slots."""
        c = self.config
        done = min(iteration / max(c.exploration_fraction * self.training.iterations, 1.0), 1.0)
        rate = c.exploration_initial + done * (c.exploration_final - c.exploration_initial)
        self.model.replay_buffer.reset()
        self.model.exploration_rate = rate
        self.model.exploration_schedule = lambda _: rate

    def _weights(self) -> nn.Module:
        policy = self.model.policy
        return nn.ModuleDict({"policy": self.policy.net, "critic": policy.q_net.critic, "target": policy.q_net_target})


def _require(name: str) -> None:
    for module, package in (("stable_baselines3", "stable-baselines3"), ("sb3_contrib", "sb3-contrib")):
        if find_spec(module) is None:
            raise MissingDependencyError(f"learner {name!r}", package, INSTALL)
