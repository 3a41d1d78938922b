"""Policies that Stable-Baselines3 trains on the vector environment: PPO, A2C, DQN, maskable PPO.

Here is the network and how it serves, which needs torch alone; :mod:`recsim_env.training.sb3` teaches it. ``fit`` makes
random weights: nothing is learned from a data set but what the items are.

The network is one for all four. An item is z_c = (vector of c) + A (features of c); the user is the mean of the
history's z, recent ones heavier, the mean of the z clicked on the last page, and the moment's context; the log-odds of
item c at position k are q_k(user) . z_c. Parameters are shared among items, so the candidates may be others when it
serves, more or fewer, or the whole catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsim_env.data.features import item_features
from recsim_env.draws import Draws, Keys
from recsim_env.interfaces import Config
from recsim_env.recommenders.base import BLOCK, ScoringConfig, ScoringRecommender, blocks
from recsim_env.recommenders.candidates import allowed_slots, items_of, slots_of
from recsim_env.recommenders.history import N_CLOCK, clock
from recsim_env.recommenders.store import Arrays
from recsim_env.records import (
    Dataset,
    Feedback,
    FloatArray,
    IntArray,
    MessageKind,
    ObservationBatch,
    SlateBatch,
    is_seen,
    unpack_seen,
)

Inputs = dict[str, np.ndarray[Any, Any]]
"""What the network reads, arrays by name, see :meth:`GymPolicy.inputs`."""


class GymPolicyConfig(ScoringConfig):
    """Settings of the policies that Stable-Baselines3 trains."""

    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Divides the log-odds when pages are served; 1 is how the policy was trained, 0 shows the best items in order."""
    heed: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """How far a wished category moves the log-odds beyond what the policy has learned to do with wishes."""
    dim: int = Field(default=32, ge=1)
    """Width of item vectors."""
    hidden: int = Field(default=64, ge=1)
    """Width of the layer that makes queries out of the user."""
    positions: int = Field(default=10, ge=1)
    """Positions of a page with a query of their own; later ones share the last."""
    max_length: int = Field(default=30, ge=1)
    """Latest items of the history that are read."""
    half_life: float = Field(default=10.0, gt=0)
    """An item that many places back in the history counts half."""


class DQNPolicyConfig(GymPolicyConfig):
    """The same for DQN, whose log-odds are values of pages."""

    temperature: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Divides the values when pages are served; 0 shows the best items in order."""


class GymPolicy(ScoringRecommender):
    """What the four policies share: position after position, a soft-max over the items that are left.

    A log-odds is divided by ``temperature`` and mixed with ``epsilon`` of a uniform choice, as in
    :mod:`recsim_env.recommenders.sampling`, but every position has log-odds of its own.
    """

    config_class: ClassVar[type[Config]] = GymPolicyConfig
    config: GymPolicyConfig
    standardised = False

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Random weights; learning needs users."""
        seed = int(draws.keys("policy-weights", 0)[0] >> np.uint64(1))
        self.net = self._made(item_features(dataset.catalog), seed)

    def observe(self, obs: ObservationBatch, slate: SlateBatch, feedback: Feedback) -> None:
        """Does nothing: the policy does not learn while it serves."""
        return None

    def retrain(self, draws: Draws) -> None:
        """Does nothing: ``recsim-env train policy`` trains it."""
        return None

    def inputs(self, obs: ObservationBatch) -> Inputs:
        """What the network reads of N users, for training and serving alike.

        Returns:
            ``history`` int32 (N, L), item indices, latest last, padded with I; ``last`` int32 (N, K), the items clicked
            on the session's last page, else I; ``context`` float32 (N, P): categories wished for, kind of message,
            clicks and watched shares on the last page, clock, length of the history; ``seen`` uint8 (N, M), 1 where the
            user knows the candidate; ``candidates`` int32 (N, M), only where there are any.
        """
        n, k, last = self.n_items, max(obs.last_slate.shape[1], 1), obs.last_feedback
        context = np.column_stack(
            [
                obs.message_vector,
                np.eye(len(MessageKind), dtype=np.float32)[obs.message_kind],
                last.clicked.sum(axis=1) / k,
                last.watched_fraction.sum(axis=1) / k,
                clock(obs, n),
            ]
        ).astype(np.float32)
        found: Inputs = {
            "history": obs.history[:, -self.config.max_length :].astype(np.int32),
            "last": np.where(last.clicked, obs.last_slate, n).astype(np.int32),
            "context": context,
        }
        if obs.candidates is None:
            return {**found, "seen": unpack_seen(obs.seen, n).astype(np.uint8)}
        seen = is_seen(obs.seen, obs.candidates) & (obs.candidates < n)
        return {**found, "seen": seen.astype(np.uint8), "candidates": obs.candidates.astype(np.int32)}

    @property
    def n_context(self) -> int:
        """P, numbers of the context."""
        return len(self.categories) + len(MessageKind) + 2 + N_CLOCK

    def logits(self, obs: ObservationBatch, slate_size: int) -> FloatArray:
        """Log-odds of all candidates at each position, float32 (N, K, M), computed in blocks of one shape."""
        block = obs.take(np.arange(max(BLOCK, obs.n)) % obs.n)
        read = {name: torch.from_numpy(array) for name, array in self.inputs(block).items()}
        with torch.no_grad():
            return np.asarray(self.net(read, slate_size)[: obs.n].numpy())

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """Log-odds of all items at the first position, float32 (N, I)."""
        read = {name: torch.from_numpy(array) for name, array in self.inputs(obs).items() if name != "candidates"}
        with torch.no_grad():
            return np.asarray(self.net(read, 1)[:, 0].numpy())

    def recommend(self, obs: ObservationBatch, slate_size: int, draws: Draws) -> SlateBatch:
        """Slates for N users, with propensities; the marginal is known at the first position."""
        parts = [self._drawn(part, slate_size, draws) for _, part in blocks(obs)]
        items, propensity = (np.concatenate([part[i] for part in parts]) for i in range(2))
        marginal = np.full(propensity.shape, np.nan, np.float32)
        marginal[:, 0] = propensity[:, 0]
        if self.deterministic:
            marginal[:] = 1.0
        return SlateBatch(
            items.astype(np.int32), propensity.astype(np.float32), marginal, self._name, self.version,
            self._answers(obs),
        )  # fmt: skip

    def log_prob(self, obs: ObservationBatch, items: IntArray) -> FloatArray:
        """Log-probability of given slates, float64 (N, K); see :meth:`Recommender.log_prob`."""
        result = np.zeros(items.shape)
        for rows, part in blocks(obs):
            slots = slots_of(items[rows], part)
            odds, _ = self._allowed_logits(part, items.shape[1])
            for k in range(items.shape[1]):
                chances = self._policy.log_prob(odds[:, k], slots[:, k : k + 1])[:, 0]
                result[rows, k] = np.where(items[rows, k] == self.n_items, 0.0, chances)
                _close(odds, slots[:, k])
        return result

    def _drawn(self, obs: ObservationBatch, slate_size: int, draws: Draws) -> tuple[IntArray, FloatArray]:
        """Items and propensities of a block of users, (N, K)."""
        odds, lanes = self._allowed_logits(obs, slate_size)
        slots = np.empty((obs.n, slate_size), np.int64)
        propensity = np.empty((obs.n, slate_size))
        for k in range(slate_size):

            def key(purpose: str, k: int = k) -> Keys:
                return draws.keys(f"{purpose}-{k}", obs.user_index, obs.day, obs.session, obs.turn)

            slots[:, k] = self._policy.sample(odds[:, k], lanes, 1, key)[:, 0]
            chances = np.exp(self._policy.log_prob(odds[:, k], slots[:, k : k + 1])[:, 0])
            propensity[:, k] = np.where(slots[:, k] == odds.shape[2], 1.0, chances)
            _close(odds, slots[:, k])
        return items_of(slots, lanes, self.n_items), propensity

    def _allowed_logits(self, obs: ObservationBatch, slate_size: int) -> tuple[FloatArray, IntArray]:
        """Log-odds float32 (N, K, M), -inf where an item must not be shown, and the slots' items."""
        lanes, allowed = allowed_slots(obs, self.n_items, self.config.exclude_seen)
        odds = self.logits(obs, slate_size) + self.wished(obs, lanes)[:, None, :]
        return np.where(allowed[:, None, :], odds, np.float32(-np.inf)), lanes

    def _made(self, features: FloatArray, seed: int) -> GymNet:
        c = self.config
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return GymNet(torch.from_numpy(features), self.n_context, c.positions, c.dim, c.hidden, c.half_life).eval()

    def arrays(self) -> Arrays:
        """The weights."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.net.state_dict().items()}

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave."""
        self.net = self._made(arrays["features"][:-1], 0)
        self.net.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


class PPOPolicy(GymPolicy):
    """Slates by a policy that Stable-Baselines3's PPO trains on simulated users (Schulman et al. 2017)."""

    name = "ppo"


class A2CPolicy(GymPolicy):
    """Slates by a policy that Stable-Baselines3's A2C trains on simulated users (Mnih et al. 2016)."""

    name = "a2c"


class DQNPolicy(GymPolicy):
    """Single items by values that Stable-Baselines3's DQN learns from simulated users (Mnih et al. 2015)."""

    config_class: ClassVar[type[Config]] = DQNPolicyConfig
    config: DQNPolicyConfig
    name = "dqn"


class MaskablePPOPolicy(GymPolicy):
    """Single items by PPO with masked actions, of sb3-contrib (Huang and Ontanon 2022)."""

    name = "maskable-ppo"


class GymNet(nn.Module):
    """The network of all four.

    Args:
        features: float32 (I, F) of the items, see :func:`recsim_env.data.features.item_features`.
        n_context: P, numbers of the context.
        positions: Positions with a query of their own.
        dim: Width of item vectors.
        hidden: Width of the layer between user and queries.
        half_life: An item that many places back in the history counts half.
    """

    features: Tensor

    def __init__(
        self, features: Tensor, n_context: int, positions: int, dim: int, hidden: int, half_life: float
    ) -> None:
        super().__init__()
        self.positions, self.dim, self.half_life = positions, dim, half_life
        self.n_items, width = features.shape
        self.register_buffer("features", torch.cat([features, torch.zeros(1, width)]))
        self.items = nn.Embedding(self.n_items + 1, dim, padding_idx=self.n_items)
        self.mix = nn.Linear(width, dim, bias=False)
        self._user_size = 2 * dim + n_context
        self.body = nn.Sequential(nn.Linear(self._user_size, hidden), nn.Tanh())
        self.query = nn.Linear(hidden, dim)
        self.shift = nn.Linear(hidden, positions * dim)
        nn.init.normal_(self.items.weight, std=0.1)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)
        with torch.no_grad():
            self.items.weight[-1] = 0.0

    @property
    def user_size(self) -> int:
        """Width of what :meth:`user` gives."""
        return self._user_size

    def vectors(self, items: Tensor) -> Tensor:
        """Vectors of items int (...), float (..., dim); zero for padding."""
        # Made for all items, then looked up: pages and histories of a batch name each item many times.
        return functional.embedding(items.long(), self.table(), self.n_items)

    def table(self) -> Tensor:
        """Vectors of all items and of padding, float (I + 1, dim)."""
        return self.items.weight + self.mix(self.features)

    def user(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The user and the moment, float (N, user_size)."""
        history, last = inputs["history"], inputs["last"]
        back = torch.arange(history.shape[1] - 1, -1, -1, device=history.device)
        weights = torch.exp2(-back / self.half_life) * (history < self.n_items)
        mean = (weights[:, :, None] * self.vectors(history)).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=1)
        clicked = self.vectors(last).sum(dim=1) / max(last.shape[1], 1)
        return torch.cat([mean, clicked, inputs["context"]], dim=1)

    def forward(self, inputs: Mapping[str, Tensor], slate_size: int, user: Tensor | None = None) -> Tensor:
        """Log-odds at each position, float (N, K, M).

        Args:
            inputs: See :meth:`GymPolicy.inputs`.
            slate_size: K.
            user: What :meth:`user` gave, if it is known already.
        """
        hidden = self.body(self.user(inputs) if user is None else user)
        shift = self.shift(hidden).view(len(hidden), self.positions, self.dim)
        which = torch.arange(slate_size, device=hidden.device).clamp(max=self.positions - 1)
        queries = self.query(hidden)[:, None] + shift[:, which]
        if "candidates" in inputs:
            return queries @ self.vectors(inputs["candidates"]).transpose(1, 2)
        return queries @ self.table()[:-1].T


def _close(odds: FloatArray, slots: IntArray) -> None:
    """Takes slots (N,) out of the log-odds (N, K, M) of all positions, in place."""
    rows = np.flatnonzero(slots < odds.shape[2])
    odds[rows, :, slots[rows]] = -np.inf
