"""Group-relative policy optimisation of language-model recommenders on simulated users: GRPO and Rank-GRPO.

The sessions are collected here (:mod:`recsim_env.training.rollout`); groups, clipping and the loss are those of TRL's
``GRPOTrainer``, to which they are handed by its ``rollout_func`` (:mod:`recsim_env.training.grpo_trainer`).

- ``grpo`` (Shao et al., "DeepSeekMath", arXiv 2402.03300): all tokens of a session share one advantage, the session's
  return less the mean of its group, in standard deviations of the group.
- ``rank-grpo`` (after Zhu et al., "Rank-GRPO", arXiv 2510.20150): every position of every page has an advantage of its
  own, out of what an item there answers for, compared with the same place in the group's other sessions. An item is one
  token here, so the token's ratio of probabilities is the rank's.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from recsim_env.draws import Draws
from recsim_env.errors import MissingDependencyError, ScenarioError
from recsim_env.interfaces import Recommender
from recsim_env.recommenders.rsllm.recommender import RSLLM
from recsim_env.records import FloatArray
from recsim_env.scenario import TrainingSection
from recsim_env.training.dialogue_tokens import DialogueTokens
from recsim_env.training.experience import seed_of
from recsim_env.training.learner import Learner, LearnerConfig
from recsim_env.training.luck import seeded
from recsim_env.training.policy_gradient import answered_for
from recsim_env.training.rollout import DenseReward, Session, TokenPolicy, collect_sessions
from recsim_env.training.rsllm_tokens import RSLLMTokens
from recsim_env.vector_env import RecSimVectorEnv

INSTALL = "pip install 'recsim-env[llm-rl]'"


class GRPOConfig(LearnerConfig):
    """Settings of :class:`GRPO`."""

    algorithm: Literal["grpo", "rank-grpo"] = "rank-grpo"
    """One advantage per session, or one per position of each page."""
    generations: int = Field(default=8, ge=2)
    """Sessions of a group: how often each user is served, with the same luck of its own."""
    rewards: dict[str, float] = Field(default_factory=lambda: {"p_click": 1.0})
    """Weights of rewards without luck: ``p_click``, ``expected_rating`` (the probability of a click times the expected
    stars, from -1 to 1), ``p_return`` (at the session's end, of the next day); ``scenario`` is the scenario's own, as
    users pay it."""
    credit: Literal["item", "position", "page"] = "item"
    """rank-grpo: what an item answers for, beside the pages to come: its own reward, those from its position downwards,
    or those of the whole page."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """AdamW's; it falls to a tenth by a cosine over the iterations. Large models want 1e-5 or less."""
    lora_rank: int = Field(default=0, ge=0)
    """Conversational: rank of LoRA on all linear layers; 0 trains all weights. RSLLM has its own setting."""
    passes: int = Field(default=2, ge=1)
    """Passes over the sessions of an iteration."""
    minibatches: int = Field(default=4, ge=1)
    """Gradient steps of a pass; they divide the sessions."""
    clip: float = Field(default=0.2, gt=0)
    """Ratios past 1 +- clip give no gradient."""


class GRPO(Learner):
    """Trains RSLLM, or the conversational recommender, by comparing sessions of the same user.

    Raises:
        MissingDependencyError: If TRL is not installed.
        ScenarioError: If the recommender has nothing to train, or the sessions cannot be divided as asked.
    """

    config_class = GRPOConfig
    config: GRPOConfig

    def __init__(
        self, policy: Recommender, env: RecSimVectorEnv, training: TrainingSection, config: LearnerConfig, draws: Draws
    ) -> None:
        super().__init__(policy, env, training, config, draws)
        if find_spec("trl") is None:
            raise MissingDependencyError("learner 'grpo'", "trl", INSTALL)
        c = self.config
        if training.num_envs * c.generations % c.minibatches:
            raise ScenarioError(
                f"training.minibatches ({c.minibatches}) must divide the sessions of an iteration (num_envs "
                f"{training.num_envs} times generations {c.generations})."
            )
        self.tokens = token_policy(policy, env, c.lora_rank, seed_of(draws, "lora", 0))
        if c.algorithm == "rank-grpo" and not self.tokens.ranks:
            raise ScenarioError(
                f"rank-grpo compares positions of slates, and {type(policy).__name__} writes words that decide all of "
                "them. Set training.algorithm: grpo."
            )
        self._reward = DenseReward(c.rewards, env.catalog.scale)
        self.module = nn.ParameterDict({name.replace(".", "/"): weight for name, weight in self.tokens.weights.items()})
        self.optimizer = torch.optim.AdamW(self.module.parameters(), weight_decay=0.0)
        self.optimizer.zero_grad()  # what the fitting on ratings left
        from recsim_env.training.grpo_trainer import SessionTrainer

        with seeded(seed_of(draws, "trainer", 0)):
            self._trainer = SessionTrainer(
                self.tokens, sessions=training.num_envs * c.generations, generations=c.generations,
                minibatches=c.minibatches, passes=c.passes, clip=c.clip,
            )  # fmt: skip

    @property
    def pages(self) -> int:
        """Pages that an iteration serves, at most."""
        return super().pages * self.config.generations

    def iterate(self, iteration: int) -> dict[str, float]:
        """Serves ``num_envs`` users ``generations`` times, for a session of at most ``turns`` pages, and learns."""
        c = self.config
        self._lower(iteration, c.learning_rate)
        sessions = collect_sessions(
            self.tokens, self.env, self._reward, self.draws, iteration, self.training.turns, c.generations
        )
        returns = np.array([discounted(session, self.training.discount) for session in sessions])
        places = None
        if c.algorithm == "rank-grpo":
            slate_size, discount = self.env.scenario.slate_size, self.training.discount
            places = rank_advantages(sessions, c.generations, slate_size, discount, c.credit)
        with seeded(seed_of(self.draws, "minibatches", iteration)):
            told = self._trainer.learn(sessions, returns, places, self._apply)
        self.tokens.settle()
        pages = sum(len(session.reward) for session in sessions)
        spread = returns.reshape(-1, c.generations).std(axis=1).mean()
        return {
            "reward_per_page": sum(sum(session.reward) for session in sessions) / pages,
            "return": float(returns.mean()), "spread": float(spread), **told,
        }  # fmt: skip

    def restored(self) -> None:
        """Whoever serves gets the weights."""
        self.tokens.settle()

    def _apply(self) -> None:
        """One step with the gradients that are there."""
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def token_policy(policy: Recommender, env: RecSimVectorEnv, lora_rank: int, seed: int) -> TokenPolicy:
    """A recommender as a policy over tokens; the last two are of LoRA where the learner brings it."""
    if isinstance(policy, RSLLM):
        return RSLLMTokens(policy, env.catalog)
    return DialogueTokens(policy, lora_rank, seed)


def discounted(session: Session, discount: float) -> float:
    """Return of a session."""
    return float(np.dot(session.reward, discount ** np.arange(len(session.reward))))


def rank_advantages(
    sessions: Sequence[Session], generations: int, slate_size: int, discount: float, credit: str
) -> FloatArray:
    """One advantage for every position of every page.

    Args:
        sessions: B sessions, groups of ``generations`` side by side.
        generations: G.
        slate_size: K.
        discount: Gamma.
        credit: See :class:`GRPOConfig`.

    Returns:
        float32 (B, T, K): what an item there answered for and the discounted pages to come, less the mean of the same
        place over those of the group whose session had come so far, in their standard deviations; 0 where no session
        was, or only one.
    """
    turns = max(len(session.reward) for session in sessions)
    reward, items = np.zeros((len(sessions), turns)), np.zeros((len(sessions), turns, slate_size))
    there = np.zeros((len(sessions), turns), np.bool_)
    for row, session in enumerate(sessions):
        n = len(session.reward)
        reward[row, :n], there[row, :n] = session.reward, True
        items[row, :n] = session.item_reward
    own = answered_for(reward, items, credit)
    later: FloatArray = np.zeros(len(sessions))
    for turn in reversed(range(turns)):
        own[:, turn] += discount * later[:, None]
        later = own[:, turn, -1].copy()
    worth = own[..., :-1].reshape(-1, generations, turns, slate_size)
    counted = np.broadcast_to(there.reshape(-1, generations, turns, 1), worth.shape)
    number = np.maximum(counted.sum(axis=1, keepdims=True), 1)
    apart = np.where(counted, worth - np.where(counted, worth, 0.0).sum(axis=1, keepdims=True) / number, 0.0)
    spread = np.sqrt(np.square(apart).sum(axis=1, keepdims=True) / number)
    return np.asarray(apart / (spread + 1e-4), np.float32).reshape(len(sessions), turns, slate_size)
