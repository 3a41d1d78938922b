"""Stable-Baselines3's policy classes around the network of :mod:`recsim_env.recommenders.gym_policy`.

Needs Stable-Baselines3 and sb3-contrib (``pip install "recsim-env[rl]"``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy
from stable_baselines3 import DQN
from stable_baselines3.common.policies import BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor, nn

from recsim_env.recommenders.gym_policy import GymNet

FORBIDDEN = -1e9
"""Log-odds of what must not be shown."""

TensorDict = Mapping[str, Tensor]


class UserFeatures(BaseFeaturesExtractor):
    """The user and the moment, as the network embeds them, float (N, user_size)."""

    def __init__(self, observation_space: Any, net: GymNet) -> None:
        super().__init__(observation_space, net.user_size)
        self.net = net

    def forward(self, observations: TensorDict) -> Tensor:
        """Embeds histories, clicks and context."""
        return self.net.user(observations)


def allowed(obs: TensorDict, n_items: int, exclude_seen: bool) -> Tensor:
    """Which slots may be shown, bool (N, M); all of them where there would be none."""
    fine = obs["candidates"] < n_items if "candidates" in obs else torch.ones_like(obs["seen"], dtype=torch.bool)
    if exclude_seen:
        fine = fine & (obs["seen"] == 0)
    return fine | ~fine.any(dim=1, keepdim=True)


class SlateDistribution:
    """Slates without repetition: each position a soft-max over what the earlier ones left.

    Args:
        logits: float (N, K, M).
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def sample(self, deterministic: bool) -> Tensor:
        """Slots int64 (N, K)."""
        left, chosen = self.logits.clone(), []
        for k in range(left.shape[1]):
            row = left[:, k]
            slot = row.argmax(dim=1) if deterministic else torch.multinomial(row.softmax(dim=1), 1)[:, 0]
            chosen.append(slot)
            left[:, k + 1 :].scatter_(2, _repeated(slot, left.shape[1] - k - 1), 2 * FORBIDDEN)
        return torch.stack(chosen, dim=1)

    def log_prob(self, slots: Tensor) -> Tensor:
        """Log-probability of whole slates int64 (N, K), float (N,)."""
        taken = torch.zeros_like(self.logits, dtype=torch.bool)
        for k in range(slots.shape[1]):
            taken[:, k + 1 :].scatter_(2, _repeated(slots[:, k], slots.shape[1] - k - 1), True)
        left = self.logits.masked_fill(taken, 2 * FORBIDDEN).logsumexp(dim=2)
        return (self.logits.gather(2, slots[:, :, None])[:, :, 0] - left).sum(dim=1)

    def entropy(self) -> Tensor:
        """Entropy of the first position, float (N,): the bonus against settling too early."""
        odds = self.logits[:, 0].log_softmax(dim=1)
        return -(odds.exp() * odds).sum(dim=1)


def _repeated(slot: Tensor, times: int) -> Tensor:
    """Slots (N,) as an index of so many positions, (N, times, 1)."""
    return slot[:, None, None].expand(-1, times, 1)


class _Slots(BasePolicy):
    """What both actor-critic bases need.

    The actor is the recommender's network itself; the critic reads the user as the network embeds it, but does not
    shape it.

    Arguments beside Stable-Baselines3's own:
        net: The network.
        exclude_seen: Whether known items are never shown.
        critic: Width of the critic's layer.
    """

    optimizer: torch.optim.Optimizer
    critic: nn.Sequential

    def __init__(self, *args: Any, net: GymNet, exclude_seen: bool = True, critic: int = 64, **settings: Any) -> None:
        self._width, self.exclude_seen = critic, exclude_seen
        features = {"features_extractor_class": UserFeatures, "features_extractor_kwargs": {"net": net}}
        super().__init__(*args, **{**settings, **features})

    def _build(self, lr_schedule: Any) -> None:
        """Makes the critic and the optimiser; the actor exists."""
        self.critic = _critic(self.net.user_size, self._width)
        kind: Any = self.optimizer_class
        self.optimizer = kind(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    @property
    def net(self) -> GymNet:
        """The actor."""
        net: Any = self.features_extractor.net
        return net

    def forward(self, obs: Any, deterministic: bool = False, action_masks: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Actions int64 (N, K) or (N,), values (N, 1), log-probabilities (N,)."""
        distribution, user = self._distribution(obs, action_masks)
        slots = distribution.sample(deterministic)
        return self._as_action(slots), self.critic(user.detach()), distribution.log_prob(slots)

    def evaluate_actions(
        self, obs: Any, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (N, 1), log-probabilities (N,) and entropies (N,) of actions."""
        distribution, user = self._distribution(obs, action_masks)
        log_prob = distribution.log_prob(actions.long().reshape(len(actions), -1))
        return self.critic(user.detach()), log_prob, distribution.entropy()

    def predict_values(self, obs: Any) -> Tensor:
        """Values (N, 1)."""
        return self.critic(self._user(obs).detach())

    def _predict(self, observation: Any, deterministic: bool = False, action_masks: Any = None) -> Tensor:
        return self._as_action(self._distribution(observation, action_masks)[0].sample(deterministic))

    def _user(self, obs: Any) -> Tensor:
        extractor: Any = self.features_extractor
        return extractor(obs)

    def _as_action(self, slots: Tensor) -> Tensor:
        return slots.reshape((-1, *(self.action_space.shape or ())))

    def _distribution(self, obs: TensorDict, action_masks: Any = None) -> tuple[SlateDistribution, Tensor]:
        user, shape = self._user(obs), self.action_space.shape
        logits = self.net(obs, shape[0] if shape else 1, user)
        fine = allowed(obs, self.net.n_items, self.exclude_seen)
        if action_masks is not None:
            fine = fine & torch.as_tensor(action_masks, device=fine.device).bool().reshape(fine.shape)
        return SlateDistribution(logits.masked_fill(~fine[:, None], FORBIDDEN)), user


class SlotActorCritic(_Slots, MultiInputActorCriticPolicy):
    """Actor and critic for PPO and A2C; arguments as for :class:`_Slots`."""


class MaskableSlotActorCritic(_Slots, MaskableMultiInputActorCriticPolicy):
    """Actor and critic for MaskablePPO, which asks the environment for masks; arguments as for :class:`_Slots`."""


class SlotQNetwork(BasePolicy):
    """Values of slots: value of the user + log-odds of the slot, float (N, M); what must not be shown has -1e9."""

    def __init__(self, observation_space: Any, action_space: Any, net: GymNet, exclude_seen: bool, critic: int) -> None:
        super().__init__(observation_space, action_space)
        self.net, self.exclude_seen = net, exclude_seen
        self.critic = _critic(net.user_size, critic)

    def forward(self, obs: TensorDict) -> Tensor:
        """Values of all slots."""
        user = self.net.user(obs)
        values = self.critic(user) + self.net(obs, 1, user)[:, 0]
        return values.masked_fill(~allowed(obs, self.net.n_items, self.exclude_seen), FORBIDDEN)

    def _predict(self, observation: Any, deterministic: bool = True) -> Tensor:
        return self(observation).argmax(dim=1)


class SlotDQNPolicy(DQNPolicy):
    """Such a network and its target; arguments as for :class:`_Slots`."""

    def __init__(self, *args: Any, net: GymNet, exclude_seen: bool = True, critic: int = 64, **settings: Any) -> None:
        self._made = (net, exclude_seen, critic)
        super().__init__(*args, **settings)

    def _build(self, lr_schedule: Any) -> None:
        self.q_net = SlotQNetwork(self.observation_space, self.action_space, *self._made)  # type: ignore[assignment]
        self.q_net_target = copy.deepcopy(self.q_net)
        self.q_net_target.set_training_mode(False)
        self.optimizer = self.optimizer_class(self.q_net.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]


class SlotDQN(DQN):
    """DQN that explores with a coin for each user, among what may be shown."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Best slots int64 (N,); some of them random, unless ``deterministic``."""
        read = {name: torch.as_tensor(array, device=self.device) for name, array in observation.items()}
        with torch.no_grad():
            values = self.q_net(read)
        best = values.argmax(dim=1)
        if not deterministic:
            luck = torch.rand(values.shape, device=values.device).masked_fill(values <= FORBIDDEN, -1.0)
            coin = torch.rand(len(values), device=values.device) < self.exploration_rate
            best = torch.where(coin, luck.argmax(dim=1), best)
        return best.cpu().numpy(), state


def _critic(size: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, 1))
