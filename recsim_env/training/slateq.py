"""SlateQ: learns what users take, and what taking it is worth in the long run, by Q-learning over single items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from recsim_env.draws import Draws
from recsim_env.interfaces import Recommender
from recsim_env.recommenders.slate_q import SlateQ, gains, page_value
from recsim_env.records import ObservationBatch
from recsim_env.scenario import TrainingSection
from recsim_env.training.experience import Page, collect, of, seed_of
from recsim_env.training.learner import Learner, LearnerConfig
from recsim_env.training.rows import Rows, allowed_items, read
from recsim_env.vector_env import RecSimVectorEnv


class SlateQLearningConfig(LearnerConfig):
    """Settings of :class:`SlateQLearner`."""

    learning_rate: float = Field(default=4e-3, gt=0)
    """Adam's; it falls to a tenth by a cosine over the iterations."""
    passes: int = Field(default=2, ge=1)
    """Passes over the pages of an iteration."""
    minibatch: int = Field(default=512, ge=1)
    """Pages of a gradient step."""
    explore: float = Field(default=0.1, ge=0, le=1)
    """Probability that a position is filled by chance while experience is collected; the served policy has its own."""
    temperature: float = Field(default=0.3, ge=0)
    """Chance in the other positions meanwhile."""


class SlateQLearner(Learner):
    """Q-learning over items: the target is the reward and the value of the best next page.

    The networks that give the targets are those of the iteration's beginning. Pages with several clicks share the
    pages to come among the clicked items.
    """

    config_class = SlateQLearningConfig
    config: SlateQLearningConfig
    policy: SlateQ

    def __init__(
        self, policy: Recommender, env: RecSimVectorEnv, training: TrainingSection, config: LearnerConfig, draws: Draws
    ) -> None:
        super().__init__(policy, env, training, config, draws)
        self._places = nn.Parameter(torch.zeros(env.scenario.slate_size, device=self.policy.net.bias.device))
        self.module = nn.ModuleDict({"q": self.policy.q, "places": nn.ParameterList([self._places])})
        self.optimizer = torch.optim.Adam(self.module.parameters())

    def iterate(self, iteration: int) -> dict[str, float]:
        """Serves ``num_envs`` users for ``turns`` pages with more chance than the policy's, and learns from them."""
        seed = seed_of(self.draws, "iteration", iteration)
        served, c = self.policy.config, self.config
        self._lower(iteration, c.learning_rate)
        self.policy.config = served.model_copy(update={"epsilon": c.explore, "temperature": c.temperature})
        pages, after = collect(self.env, of(self.policy), seed, self.training.turns)
        self.policy.config = served
        batch = Transitions.of(self.policy, pages, self._following(pages, after))
        losses = []
        for number in range(c.passes):
            for part in batch.shuffled(c.minibatch, Draws(seed), number):
                loss = self._loss(part)
                self._step(loss)
                losses.append(float(loss.detach()))
        reward = float(np.mean([page.reward for page in pages]))
        return {"reward_per_page": reward, "loss": float(np.mean(losses))}

    def _following(self, pages: Sequence[Page], after: ObservationBatch) -> Tensor:
        """Discounted value of the best next page, float (T * N,), by the networks of now; 0 where nothing comes."""
        places, taken = self._places.detach(), self.policy.config.taken

        def best(obs: ObservationBatch) -> Tensor:
            with torch.no_grad():
                odds, value, nothing = self.policy.q(*self.policy.inputs(obs))
                allowed = torch.from_numpy(allowed_items(obs, self.policy)).to(odds.device)
                return best_value(odds.masked_fill(~allowed, -torch.inf), value, nothing, places, taken)

        found = []
        for page, following in zip(pages, [*(p.obs for p in pages[1:]), after], strict=True):
            value = best(following)
            if page.final is not None:
                rows, obs = page.final
                value[torch.from_numpy(rows)] = best(obs)
            found.append(
                self.training.discount * value.masked_fill(torch.from_numpy(page.terminated).to(value.device), 0.0)
            )
        return torch.cat(found)

    def _loss(self, b: Transitions) -> Tensor:
        odds, value, nothing = self.policy.q(b.history, b.context, b.last)
        shown = b.items < odds.shape[1]
        inside = b.items.clamp(max=odds.shape[1] - 1)
        own = odds.gather(1, inside) + self._places
        return slateq_loss(
            own.masked_fill(~shown, -torch.inf), value.gather(1, inside), nothing, b.clicked, b.item_reward, b.rest,
            self.policy.config.taken,
        )  # fmt: skip


def best_value(odds: Tensor, value: Tensor, nothing: Tensor, places: Tensor, taken: str) -> Tensor:
    """Value of the best page, float (N,); arguments as :func:`recsim_env.recommenders.slate_q.gains`, places (K,)."""
    k = min(len(places), odds.shape[1])
    gain = gains(odds, value, nothing, k, taken).masked_fill(odds == -torch.inf, -torch.inf)
    best = gain.topk(k, dim=1).indices
    return page_value(odds.gather(1, best) + places[:k], value.gather(1, best), nothing, taken)


def slateq_loss(
    odds: Tensor, value: Tensor, nothing: Tensor, clicked: Tensor, item_reward: Tensor, rest: Tensor, taken: str
) -> Tensor:
    """Loss of the choice (cross-entropy) and of the values (smooth L1 to the targets).

    Args:
        odds: float (B, K), log-odds of the shown items at their positions, ``-inf`` for empty ones.
        value: float (B, K), of taking them.
        nothing: float (B,), value of taking nothing.
        clicked: bool (B, K).
        item_reward: float (B, K).
        rest: float (B,), the page's other reward and the discounted value of the next page.
        taken: ``one`` or ``several``.
    """
    count = clicked.sum(dim=1)
    target = item_reward + (rest / count.clamp(min=1))[:, None]
    error = nn.functional.smooth_l1_loss(value, target, reduction="none")[clicked].sum()
    none = count == 0
    error = error + nn.functional.smooth_l1_loss(nothing[none], rest[none], reduction="sum")
    if taken == "one":
        logits = torch.cat([odds, torch.zeros_like(odds[:, :1])], dim=1)
        place = torch.where(none, odds.shape[1], clicked.int().argmax(dim=1))
        choice = nn.functional.cross_entropy(logits, place)
    else:
        shown = odds > -torch.inf
        choice = nn.functional.binary_cross_entropy_with_logits(odds[shown], clicked[shown].float())
    return choice + error / len(odds)


@dataclass(frozen=True, eq=False)
class Transitions(Rows):
    """Pages: what the network reads, what was shown and taken, what it was worth."""

    items: Tensor
    clicked: Tensor
    item_reward: Tensor
    rest: Tensor

    @classmethod
    def of(cls, policy: SlateQ, pages: Sequence[Page], following: Tensor) -> Transitions:
        """Pages of a policy; following float (T * N,) is what comes after each."""
        history, context, last = read(policy, pages)
        items = np.concatenate([page.items for page in pages]).astype(np.int64)
        clicked = np.concatenate([page.clicked for page in pages])
        item_reward = np.concatenate([page.item_reward for page in pages])
        extra = np.concatenate([page.reward for page in pages]) - item_reward.sum(axis=1)
        rest = torch.from_numpy(extra.astype(np.float32)).to(history.device) + following
        shown, taken, paid = (torch.from_numpy(array).to(history.device) for array in (items, clicked, item_reward))
        return cls(history, context, last, shown, taken, paid, rest)
