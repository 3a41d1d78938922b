"""What trains a policy on simulated users, iteration by iteration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from recsim_env.draws import Draws
from recsim_env.interfaces import Config, Recommender
from recsim_env.lm.schedule import cosine
from recsim_env.scenario import TrainingSection
from recsim_env.vector_env import RecSimVectorEnv

LEAST_RATE = 0.1
"""Share of the learning rates at the last iteration."""


class LearnerConfig(Config):
    """Settings of every learner; in a scenario they stand beside those of ``training``."""

    temperatures: tuple[float, ...] = ()
    """Of these the trained policy serves at the one that earns most from training users; empty leaves it as it is."""


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

    Attributes:
        module: All weights that training changes, those of the policy among them; a subclass makes it.
        optimizer: The optimiser; a subclass makes it.
    """

    config_class: ClassVar[type[LearnerConfig]] = LearnerConfig
    module: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(
        self, policy: Recommender, env: RecSimVectorEnv, training: TrainingSection, config: LearnerConfig, draws: Draws
    ) -> None:
        self.policy, self.env, self.training, self.config, self.draws = policy, env, training, config, draws

    @abstractmethod
    def iterate(self, iteration: int) -> dict[str, float]:
        """One iteration: serve users, learn. Figures for the log, by name."""

    @property
    def pages(self) -> int:
        """Pages that an iteration serves, at most."""
        return self.training.num_envs * self.training.turns

    def restored(self) -> None:
        """Called when :attr:`module` was given other weights: for learners that keep copies elsewhere."""
        return None

    @property
    def offline(self) -> bool:
        """Whether it serves nobody while it learns; then its last weights are kept, and measurements only shown."""
        return False

    def settle(self, measure: Callable[[], float]) -> None:
        """Chooses the temperature of serving, after training: learning needs chance, serving needs less of it.

        Args:
            measure: What the policy earns from training users as it is now.
        """
        if self.config.temperatures and not self.offline:
            found = {}
            for temperature in self.config.temperatures:
                self._serve_at(temperature)
                found[temperature] = measure()
            self._serve_at(max(found, key=lambda t: found[t]))

    def _serve_at(self, temperature: float) -> None:
        self.policy.config = self.policy.config.model_copy(update={"temperature": temperature})

    def _lower(self, iteration: int, *rates: float) -> None:
        """Sets the learning rates of the optimiser's groups to what is left of them in an iteration."""
        share = cosine(iteration / self.training.iterations, LEAST_RATE)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share

    def _step(self, loss: Tensor) -> None:
        """One gradient step."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
