"""Policy gradients for slates: REINFORCE with a baseline, or PPO.

The probability of a slate is the product over its positions of the item's probability given the earlier ones
(Plackett-Luce), so every position is an action of its own, with its own advantage, ratio and clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from recsim_env.draws import Draws
from recsim_env.interfaces import Recommender
from recsim_env.recommenders.slate_policy import SlatePolicyNetwork, slate_log_prob
from recsim_env.records import BoolArray, FloatArray, ObservationBatch
from recsim_env.scenario import TrainingSection
from recsim_env.training.experience import Page, collect, of, seed_of
from recsim_env.training.learner import Learner, LearnerConfig
from recsim_env.training.logged import LoggedPages, read_log
from recsim_env.training.rows import Rows, allowed_items, read
from recsim_env.vector_env import RecSimVectorEnv


class PolicyGradientConfig(LearnerConfig):
    """Settings of :class:`SlatePolicyGradient`."""

    algorithm: Literal["ppo", "reinforce"] = "ppo"
    """``ppo`` uses each page several times with clipped ratios (Schulman et al. 2017); ``reinforce`` once (Williams
    1992)."""
    credit: Literal["item", "position", "page"] = "item"
    """What an item answers for, beside the pages to come: ``item`` its own reward, which leaves out what it does to its
    neighbours and has by far the least noise; ``position`` the rewards from its position downwards, which is right for
    users who read from the top; ``page`` those of the whole page."""
    learning_rate: float = Field(default=6e-3, gt=0)
    """Adam's, of the policy; it falls to a tenth by a cosine over the iterations."""
    critic_rate: float = Field(default=2e-3, gt=0)
    """Adam's, of the critic; it falls likewise."""
    passes: int = Field(default=3, ge=1)
    """ppo: passes over the pages of an iteration."""
    minibatch: int = Field(default=512, ge=1)
    """Pages of a gradient step."""
    clip: float = Field(default=0.2, gt=0)
    """ppo: ratios past 1 +- clip give no gradient."""
    kl_limit: float = Field(default=0.05, gt=0)
    """ppo: no further pass after the mean divergence per position from the policy that showed the pages passes this."""
    trace: float = Field(default=0.9, ge=0, le=1)
    """Lambda of generalised advantage estimation (Schulman et al. 2016), over pages."""
    temperatures: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Temperatures of serving to choose from."""
    entropy: float = Field(default=0.001, ge=0)
    """Weight of the entropy of the first position, against settling too early."""
    log: Path | None = None
    """Learns from this run folder instead of serving anybody, by corrected REINFORCE (Chen et al., WSDM 2019)."""
    logged_policy: str | None = None
    """The recommender of that run, as it calls it; its only one when null."""
    correct: Literal["position", "top-k", "none"] = "position"
    """How the log is corrected for having been made by another policy: ``position`` by the ratio of each position's
    probabilities; ``top-k`` by the ratio of an item's probability at the top and Chen et al.'s factor K (1 - p)^(K-1);
    ``none`` not at all."""
    cap: float = Field(default=10.0, gt=0)
    """Largest ratio."""
    clone: float = Field(default=0.0, ge=0)
    """Weight of imitating what was logged (behaviour cloning), beside earning more."""
    log_kl_limit: float = Field(default=1.0, gt=0)
    """Where the policy's mean divergence per position from the logging policy is past this, it only imitates: farther
    away the log knows nothing of what it would do."""


class SlatePolicyGradient(Learner):
    """REINFORCE or PPO over slates with one advantage per position, and a critic per position as baseline."""

    config_class = PolicyGradientConfig
    config: PolicyGradientConfig
    policy: SlatePolicyNetwork

    def __init__(
        self, policy: Recommender, env: RecSimVectorEnv, training: TrainingSection, config: LearnerConfig, draws: Draws
    ) -> None:
        super().__init__(policy, env, training, config, draws)
        self._log: list[LoggedPages] = []
        if self.config.log is not None:  # a log that cannot be used is refused at once
            self._log = read_log(self.config.log, self.config.logged_policy, env, training.discount)
        net = self.policy.net
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(draws, "critic", 0))
            critic = nn.Sequential(nn.Linear(net.state_size, 64), nn.ReLU(), nn.Linear(64, env.scenario.slate_size + 1))
        self._critic = critic.to(net.bias.device)
        self.module = nn.ModuleDict({"policy": net, "critic": self._critic})
        self.optimizer = torch.optim.Adam([{"params": list(part.parameters())} for part in (net, self._critic)])

    def iterate(self, iteration: int) -> dict[str, float]:
        """Serves ``num_envs`` users for ``turns`` pages and learns from them."""
        seed = seed_of(self.draws, "iteration", iteration)
        self._lower(iteration, self.config.learning_rate, self.config.critic_rate)
        if self.offline:
            return self._learn_from_log(iteration)
        pages, after = collect(self.env, of(self.policy), seed, self.training.turns)
        batch = self._batch(pages, after)
        told = self._learn(batch, Draws(seed))
        return {"reward_per_page": float(np.mean([page.reward for page in pages])), **told}

    @property
    def offline(self) -> bool:
        """Whether it learns from a log."""
        return self.config.log is not None

    def _learn_from_log(self, iteration: int) -> dict[str, float]:
        """One look at ``num_envs * turns`` logged pages or so: whole blocks in random order, as the iteration says."""
        order = self.draws.permutation(f"log-{iteration}", len(self._log))
        sizes = np.cumsum([len(self._log[i].items) for i in order])
        most = int(np.searchsorted(sizes, self.training.num_envs * self.training.turns)) + 1
        pages = [self._log[i] for i in order[:most]]
        values = np.concatenate([self._values(page.obs) for page in pages])
        reward, item_reward = (np.concatenate([getattr(p, n) for p in pages]) for n in ("reward", "item_reward"))
        own = answered_for(reward, item_reward, self.config.credit)
        target = own + np.concatenate([page.later for page in pages])[:, None]
        batch = Batch.of(self.policy, pages, (target - values)[:, :-1], target)
        losses, divergence = [], []
        for part in batch.shuffled(self.config.minibatch, self.draws, iteration):
            loss, apart = self._logged_loss(part)
            self._step(loss)
            divergence.append(apart)
            losses.append(float(loss.detach()))
        return {"loss": float(np.mean(losses)), "kl": float(np.mean(divergence)), "passes": 1.0}

    def _logged_loss(self, b: Batch) -> tuple[Tensor, float]:
        """Corrected REINFORCE with a baseline, cloning, and how far the policy is from the log."""
        c, logits, state = self.config, *self._logits(b)
        log_prob = slate_log_prob(logits, b.slots)
        shown = (b.slots < logits.shape[1]) & torch.isfinite(log_prob)
        if c.correct == "top-k":
            top = logits.log_softmax(dim=1).gather(1, b.slots.clamp(max=logits.shape[1] - 1))
            chance = top.detach().exp()
            k = b.slots.shape[1]
            factor = (top.detach() - b.log_prob).exp().clamp(max=c.cap) * k * (1.0 - chance) ** (k - 1)
            gain = factor * b.advantage * top
        else:
            ratio = (log_prob.detach() - b.log_prob).exp().clamp(max=c.cap)
            gain = (ratio if c.correct == "position" else 1.0) * b.advantage * log_prob
        error = nn.functional.smooth_l1_loss(self._critic(state.detach()), b.target)
        apart = float((b.log_prob - log_prob)[shown].mean().detach())
        if apart > c.log_kl_limit:
            return error - log_prob[shown].mean(), apart
        earned = gain[shown].mean() / (b.advantage[shown].std() + 1e-6)
        return error - earned - c.clone * log_prob[shown].mean(), apart

    def _batch(self, pages: Sequence[Page], after: ObservationBatch) -> Batch:
        values = np.stack([self._values(page.obs) for page in pages])
        following = np.concatenate([values[1:, :, -1], self._values(after)[None, :, -1]])
        for t, page in enumerate(pages):
            if page.final is not None:
                rows, obs = page.final
                following[t, rows] = self._values(obs)[:, -1]
        advantage = advantages(
            np.stack([page.reward for page in pages]), np.stack([page.item_reward for page in pages]), values,
            following, np.stack([page.terminated for page in pages]), np.stack([page.over for page in pages]),
            self.training.discount, self.config.trace, self.config.credit,
        )  # fmt: skip
        return Batch.of(self.policy, pages, advantage[:, :, :-1], advantage + values)

    def _values(self, obs: ObservationBatch) -> FloatArray:
        """The critic's values, float32 (N, K + 1), see :func:`advantages`."""
        with torch.no_grad():
            _, state = self.policy.net(*self.policy.inputs(obs))
            return np.asarray(self._critic(state).cpu().numpy())

    def _learn(self, batch: Batch, draws: Draws) -> dict[str, float]:
        c = self.config
        kl = losses = steps = 0.0
        passes = c.passes if c.algorithm == "ppo" else 1
        for number in range(passes):
            divergence = []
            for part in batch.shuffled(c.minibatch, draws, number):
                loss, part_kl = self._loss(part)
                self._step(loss)
                divergence.append(part_kl)
                losses, steps = losses + float(loss.detach()), steps + 1
            kl = float(np.mean(divergence))
            if kl > c.kl_limit:
                break
        return {"loss": losses / max(steps, 1), "kl": kl, "passes": number + 1.0}

    def _logits(self, b: Batch) -> tuple[Tensor, Tensor]:
        """Log-odds as slates are drawn from them, and the critic's input."""
        logits, state = self.policy.net(b.history, b.context, b.last)
        return logits.masked_fill(~b.allowed, -torch.inf) / self.policy.config.temperature, state

    def _loss(self, b: Batch) -> tuple[Tensor, float]:
        c, logits, state = self.config, *self._logits(b)
        log_prob = slate_log_prob(logits, b.slots)
        shown = (b.slots < logits.shape[1]) & torch.isfinite(b.log_prob)
        change = (log_prob - b.log_prob).masked_fill(~shown, 0.0)
        ratio = change.exp()
        advantage = b.advantage / (b.advantage[shown].std() + 1e-6)
        gain = ratio * advantage
        if c.algorithm == "ppo":
            gain = torch.minimum(gain, ratio.clamp(1 - c.clip, 1 + c.clip) * advantage)
        first = logits.log_softmax(dim=1)
        entropy = -(first.exp() * first.masked_fill(~b.allowed, 0.0)).sum(dim=1).mean()
        # The critic reads the policy's state but does not shape it.
        error = nn.functional.smooth_l1_loss(self._critic(state.detach()), b.target)
        loss = -gain[shown].mean() - c.entropy * entropy + error
        kl = float((ratio - 1 - change)[shown].mean().detach())
        return loss, kl


def advantages(
    reward: FloatArray, item_reward: FloatArray, values: FloatArray, following: FloatArray, terminated: BoolArray,
    over: BoolArray, discount: float, trace: float, credit: str,
) -> FloatArray:  # fmt: skip
    """Generalised advantage estimation over pages (Schulman et al. 2016), with a baseline for each position.

    Args:
        reward: float (T, N), of pages.
        item_reward: float (T, N, K), the part of it that belongs to items.
        values: float (T, N, K + 1): for each position what is expected of the rewards that an item there answers for
            and of the pages to come, discounted; last the same for the whole page.
        following: float (T, N), the last such value of what is seen after each page.
        terminated: bool (T, N), nothing comes after.
        over: bool (T, N), the next row is of another episode.
        discount: Gamma.
        trace: Lambda.
        credit: See :class:`PolicyGradientConfig`.

    Returns:
        float32 (T, N, K + 1), of the positions, last of the page.
    """
    n_turns, n, _ = values.shape
    own = answered_for(reward, item_reward, credit)
    found = np.empty(values.shape, np.float32)
    later = np.zeros(n, np.float32)
    for t in reversed(range(n_turns)):
        ahead = discount * np.where(terminated[t], 0.0, following[t] + trace * np.where(over[t], 0.0, later))
        found[t] = own[t] + ahead[:, None] - values[t]
        later = found[t, :, -1]
    return found


def answered_for(reward: FloatArray, item_reward: FloatArray, credit: str) -> FloatArray:
    """Rewards of a page that each position answers for, float (..., K + 1), last those of the whole page.

    Args:
        reward: float (...), of pages.
        item_reward: float (..., K), the part of it that belongs to items.
        credit: See :class:`PolicyGradientConfig`.
    """
    own = np.repeat(reward[..., None], item_reward.shape[-1] + 1, axis=-1)
    if credit == "position":
        own[..., :-1] -= np.cumsum(item_reward, axis=-1) - item_reward
    if credit == "item":
        own[..., :-1] = (reward - item_reward.sum(axis=-1))[..., None] + item_reward
    return own


@dataclass(frozen=True, eq=False)
class Batch(Rows):
    """Pages: what the network reads, what was shown, what it was worth."""

    allowed: Tensor
    slots: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor

    @classmethod
    def of(
        cls, policy: SlatePolicyNetwork, pages: Sequence[Page | LoggedPages], advantage: FloatArray, target: FloatArray
    ) -> Batch:
        """Pages of a policy; advantage is float32 (..., K), target (..., K + 1), one row per page."""
        history, context, last = read(policy, pages)
        device = history.device
        with np.errstate(divide="ignore"):
            log_prob = np.log(np.concatenate([page.propensity for page in pages]).astype(np.float32))
        flat = (log_prob, *(a.reshape(-1, a.shape[-1]) for a in (advantage, target)))
        numbers = [torch.from_numpy(a.astype(np.float32)) for a in flat]
        allowed = np.concatenate([allowed_items(page.obs, policy) for page in pages])
        items = np.concatenate([page.items for page in pages]).astype(np.int64)
        rest = [torch.from_numpy(allowed), torch.from_numpy(items), *numbers]
        return cls(history, context, last, *(tensor.to(device) for tensor in rest))
