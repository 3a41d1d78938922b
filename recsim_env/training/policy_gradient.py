"""Policy gradients for slates: REINFORCE with a baseline, or PPO.

The probability of a slate is the product over its positions of the item's probability given the earlier ones
(Plackett-Luce), so every position is an action of its own, with its own advantage, ratio and clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from recsim_env.draws import Draws
from recsim_env.interfaces import Config, Recommender
from recsim_env.recommenders.slate_policy import SlatePolicyNetwork, slate_log_prob
from recsim_env.records import BoolArray, FloatArray, ObservationBatch, is_seen, unpack_seen
from recsim_env.scenario import TrainingSection
from recsim_env.training.experience import Page, collect, of, seed_of
from recsim_env.training.learner import Learner
from recsim_env.vector_env import RecSimVectorEnv


class PolicyGradientConfig(Config):
    """Settings of :class:`SlatePolicyGradient`."""

    algorithm: Literal["ppo", "reinforce"] = "ppo"
    """``ppo`` uses each page several times with clipped ratios (Schulman et al. 2017); ``reinforce`` once (Williams
    1992)."""
    credit: Literal["item", "position", "page"] = "item"
    """What an item answers for, beside the pages to come: ``item`` its own reward, which leaves out what it does to its
    neighbours and has by far the least noise; ``position`` the rewards from its position downwards, which is right for
    users who read from the top; ``page`` those of the whole page."""
    learning_rate: float = Field(default=6e-3, gt=0)
    """Adam's, of the policy."""
    critic_rate: float = Field(default=2e-3, gt=0)
    """Adam's, of the critic."""
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
    """Of these the trained policy serves at the one that earns most from training users; empty leaves it as it is."""
    entropy: float = Field(default=0.001, ge=0)
    """Weight of the entropy of the first position, against settling too early."""


class SlatePolicyGradient(Learner):
    """REINFORCE or PPO over slates with one advantage per position, and a critic per position as baseline."""

    config_class = PolicyGradientConfig
    policy: SlatePolicyNetwork

    def __init__(
        self, policy: Recommender, env: RecSimVectorEnv, training: TrainingSection, config: Config, draws: Draws
    ) -> None:
        super().__init__(policy, env, training, config, draws)
        assert isinstance(config, PolicyGradientConfig)
        self.config = config
        net = self.policy.net
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(draws, "critic", 0))
            critic = nn.Sequential(nn.Linear(net.state_size, 64), nn.ReLU(), nn.Linear(64, env.scenario.slate_size + 1))
        self._critic = critic.to(net.bias.device)
        self._module = nn.ModuleDict({"policy": net, "critic": self._critic})
        self._optimizer = torch.optim.Adam(
            [
                {"params": list(net.parameters()), "lr": config.learning_rate},
                {"params": list(critic.parameters()), "lr": config.critic_rate},
            ]
        )

    @property
    def module(self) -> nn.Module:
        """Policy and critic."""
        return self._module

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        return self._optimizer

    def iterate(self, iteration: int) -> dict[str, float]:
        """Serves ``num_envs`` users for ``turns`` pages and learns from them."""
        seed = seed_of(self.draws, "iteration", iteration)
        pages, after = collect(self.env, of(self.policy), seed, self.training.turns)
        batch = self._batch(pages, after)
        told = self._learn(batch, Draws(seed))
        return {"reward_per_page": float(np.mean([page.reward for page in pages])), **told}

    def settle(self, measure: Callable[[], float]) -> None:
        """Chooses the temperature of serving: learning needs chance, serving needs less of it."""
        if self.config.temperatures:
            found = {}
            for temperature in self.config.temperatures:
                self._serve_at(temperature)
                found[temperature] = measure()
            self._serve_at(max(found, key=lambda t: found[t]))

    def _serve_at(self, temperature: float) -> None:
        self.policy.config = self.policy.config.model_copy(update={"temperature": temperature})

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
                self._optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self._module.parameters(), 1.0)
                self._optimizer.step()
                divergence.append(part_kl)
                losses, steps = losses + float(loss.detach()), steps + 1
            kl = float(np.mean(divergence))
            if kl > c.kl_limit:
                break
        return {"loss": losses / max(steps, 1), "kl": kl, "passes": number + 1.0}

    def _loss(self, b: Batch) -> tuple[Tensor, float]:
        c = self.config
        logits, state = self.policy.net(b.history, b.context, b.last)
        logits = logits.masked_fill(~b.allowed, -torch.inf) / self.policy.config.temperature
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
    own = np.repeat(reward[:, :, None], values.shape[2], axis=2)
    if credit != "page":
        own[:, :, :-1] -= np.cumsum(item_reward, axis=2) - item_reward
    if credit == "item":
        own[:, :, :-1] = (reward - item_reward.sum(axis=2))[:, :, None] + item_reward
    found = np.empty(values.shape, np.float32)
    later = np.zeros(n, np.float32)
    for t in reversed(range(n_turns)):
        ahead = discount * np.where(terminated[t], 0.0, following[t] + trace * np.where(over[t], 0.0, later))
        found[t] = own[t] + ahead[:, None] - values[t]
        later = found[t, :, -1]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pages as tensors, one row each: what the network reads, what was shown, what it was worth."""

    history: Tensor
    context: Tensor
    last: Tensor
    allowed: Tensor
    slots: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor

    @classmethod
    def of(cls, policy: SlatePolicyNetwork, pages: Sequence[Page], advantage: FloatArray, target: FloatArray) -> Batch:
        """Pages of a policy; advantage is float32 (T, N, K), target (T, N, K + 1)."""
        read = [policy.inputs(page.obs) for page in pages]
        history, context, last = (torch.cat([one[i] for one in read]) for i in range(3))
        device = history.device
        with np.errstate(divide="ignore"):
            log_prob = np.log(np.concatenate([page.propensity for page in pages]).astype(np.float32))
        flat = (log_prob, *(a.reshape(-1, a.shape[-1]) for a in (advantage, target)))
        numbers = [torch.from_numpy(a.astype(np.float32)) for a in flat]
        allowed = np.concatenate([allowed_items(page.obs, policy) for page in pages])
        items = np.concatenate([page.items for page in pages]).astype(np.int64)
        rest = [torch.from_numpy(allowed), torch.from_numpy(items), *numbers]
        return cls(history, context, last, *(tensor.to(device) for tensor in rest))

    def shuffled(self, size: int, draws: Draws, number: int) -> Iterator[Batch]:
        """Its rows in random order, in parts."""
        order = draws.permutation(f"minibatches-{number}", len(self.history))
        for start in range(0, len(order), size):
            rows = torch.from_numpy(order[start : start + size]).to(self.history.device)
            yield Batch(*(getattr(self, name)[rows] for name in Batch.__slots__))


def allowed_items(obs: ObservationBatch, policy: Any) -> BoolArray:
    """Which items the policy may show, bool (N, I)."""
    n_items = policy.n_items
    if obs.candidates is None:
        return ~unpack_seen(obs.seen, n_items) if policy.config.exclude_seen else np.ones((obs.n, n_items), np.bool_)
    allowed = np.zeros((obs.n, n_items + 1), np.bool_)
    fine = ~is_seen(obs.seen, obs.candidates) if policy.config.exclude_seen else np.ones(obs.candidates.shape, np.bool_)
    rows, places = np.nonzero(fine)
    allowed[rows, obs.candidates[rows, places]] = True
    return allowed[:, :n_items]
