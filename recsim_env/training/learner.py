"""What trains a policy on simulated users, iteration by iteration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from recsim_env.draws import Draws
from recsim_env.interfaces import Config, Recommender
from recsim_env.scenario import TrainingSection
from recsim_env.vector_env import RecSimVectorEnv


class Learner(ABC):
    """Trains one recommender in one environment.

    An iteration depends on the weights, the optimiser's state and its own number alone (the environment is reset with a
    seed of its own), so a training that was killed goes on as if it had not been.

    Args:
        policy: The recommender, fitted; trained in place.
        env: Its users.
        training: The scenario's section.
        config: Settings of this learner.
        draws: Luck of the training.
    """

    config_class: ClassVar[type[Config]] = Config
    """Settings of the learner, given beside the recommender's own in the scenario under ``learner``."""

    def __init__(
        self, policy: Recommender, env: RecSimVectorEnv, training: TrainingSection, config: Config, draws: Draws
    ) -> None:
        self.policy, self.env, self.training, self.draws = policy, env, training, draws

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """All weights that training changes, those of the policy among them."""

    @property
    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser."""

    @abstractmethod
    def iterate(self, iteration: int) -> dict[str, float]:
        """One iteration: serve users, learn. Figures for the log, by name."""

    def extra_state(self) -> dict[str, Any]:
        """What else an unbroken training would carry on, as tensors by name."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`extra_state` gave."""
        return None

    @property
    def offline(self) -> bool:
        """Whether it serves nobody while it learns; then its last weights are kept, and measurements only shown."""
        return False

    def settle(self, measure: Callable[[], float]) -> None:
        """Called when training is over; may choose how the policy serves by measuring it on training users."""
        return None

    def sync(self) -> None:
        """Called after the module's weights were replaced, before the policy serves."""
        return None
