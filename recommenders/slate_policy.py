"""A policy over slates that reinforcement learning trains: Plackett-Luce over a SASRec tower and the moment's context.

The network is the recommender; :mod:`recsim_env.training.policy_gradient` teaches it on simulated users or on logs.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from recsim_env.data.features import item_features
from recsim_env.draws import Draws
from recsim_env.interfaces import Config
from recsim_env.lm.backbone import device_of
from recsim_env.recommenders.fitting import TrainedRecommender
from recsim_env.recommenders.history import N_CLOCK, clock
from recsim_env.recommenders.sasrec import SASRec, SASRecConfig, SequenceEncoder
from recsim_env.recommenders.store import Arrays
from recsim_env.records import Dataset, FloatArray, MessageKind, ObservationBatch

RECENT = 5
"""Latest items of the history whose categories count apart."""


class SlatePolicyConfig(SASRecConfig):
    """Settings of :class:`SlatePolicyNetwork`; those of SASRec are of the warm start."""

    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Divides the log-odds when slates are drawn; 1 is how the policy was trained, 0 shows the best items in order."""
    heed: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """How far a wished category moves the log-odds beyond what the policy has learned to do with wishes."""
    hears: bool = True
    """Whether the policy reads what users ask for; false is for ablations."""
    dim: int = Field(default=32, ge=1)
    """Width of item vectors and layers."""
    blocks: int = Field(default=1, ge=1)
    """Layers."""
    max_length: int = Field(default=30, ge=1)
    """Latest items that are read."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of the warm start alone; reinforcement learning has none, since the policy that learns must be the one that
    showed."""
    epochs: int = Field(default=8, ge=0)
    """Most passes of the warm start over the data set's histories; 0 begins with random weights."""


class SlatePolicyNetwork(TrainedRecommender):
    """Plackett-Luce slates over SASRec's tower and context, for policy gradients (after Chen et al., WSDM 2019).

    The log-odds of an item are (state of SASRec's tower) . (item vector) + item bias + (context) W (item features) +
    w [stood on the last page]. The context holds category shares of the history, of its latest items and of the last
    page's clicks, the categories that the user asked for, and the clock. ``fit`` warms the tower up on the data set's
    histories (next item); the rest begins at 0. So what is fitted and not trained is SASRec without temperature.
    """

    config_class: ClassVar[type[Config]] = SlatePolicyConfig
    config: SlatePolicyConfig
    name = "slate-pg"
    standardised = False

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """The warm start."""
        self._take_features(item_features(dataset.catalog))
        self.net = self._made(draws).to(device_of(self.config.device)).eval()
        if self.config.epochs:
            warm = SASRec(SASRecConfig(**self.config.model_dump(include=set(SASRecConfig.model_fields))))
            warm.fitting = self.fitting
            warm.fit(dataset, draws)
            self.net.tower.load_state_dict(warm.encoder.state_dict())
            self.log = warm.log

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """Log-odds of all items, float32 (N, I)."""
        with torch.no_grad():
            logits = self.net(*self.inputs(obs))[0]
        return np.asarray(logits.float().cpu().numpy())

    def inputs(self, obs: ObservationBatch) -> tuple[Tensor, Tensor, Tensor]:
        """What the network reads of N users: history int64 (N, T), context float32 (N, P), last page int64 (N, K)."""
        device = self.net.bias.device
        history = obs.history[:, -self.config.max_length :].astype(np.int64)
        return (
            torch.from_numpy(history).to(device),
            torch.from_numpy(self._context(obs)).to(device),
            torch.from_numpy(obs.last_slate.astype(np.int64)).to(device),
        )

    def _context(self, obs: ObservationBatch) -> FloatArray:
        shares, n_items = self._shares, self.n_items
        known = (obs.history < n_items).sum(axis=1)
        recent = obs.history[:, -RECENT:]
        clicked = np.where(obs.last_feedback.clicked, obs.last_slate, n_items)
        clicks = obs.last_feedback.clicked.sum(axis=1)
        k = max(obs.last_slate.shape[1], 1)
        heard = np.float32(self.config.hears)
        return np.column_stack(
            [
                shares.take(obs.history, axis=0).sum(axis=1) / np.maximum(known, 1)[:, None],
                shares.take(recent, axis=0).sum(axis=1) / RECENT,
                shares.take(clicked, axis=0).sum(axis=1) / k,
                heard * obs.message_vector,
                heard * np.eye(len(MessageKind), dtype=np.float32)[obs.message_kind],
                clicks / k,
                clock(obs, n_items),
                np.ones(obs.n),
            ]
        ).astype(np.float32)

    def _take_features(self, features: FloatArray) -> None:
        """Keeps the items' features float32 (I, F), and their category shares with a row of zeros for padding."""
        c = len(self.categories)
        self._features = features
        self._shares = np.vstack([features[:, :c], np.zeros((1, c), np.float32)])

    def _made(self, draws: Draws) -> PolicyNet:
        c = self.config
        n_context = 4 * len(self.categories) + len(MessageKind) + 2 + N_CLOCK
        with torch.random.fork_rng():
            torch.manual_seed(int(draws.keys("policy-weights", 0)[0] >> np.uint64(1)))
            # No dropout: a policy whose odds change between two looks has no propensities.
            tower = SequenceEncoder(self.n_items, c.dim, c.blocks, c.heads, c.max_length, dropout=0.0)
            return PolicyNet(tower, torch.from_numpy(self._features), n_context)

    def arrays(self) -> Arrays:
        """The weights."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.net.state_dict().items()}

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave."""
        self._take_features(arrays["features"])
        self.net = self._made(Draws(0))
        self.net.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        self.net = self.net.to(device_of(self.config.device)).eval()


class PolicyNet(nn.Module):
    """Log-odds of all items.

    Args:
        tower: Reads the history.
        features: float32 (I, F) of the items.
        n_context: P, numbers of the context.
    """

    features: Tensor

    def __init__(self, tower: SequenceEncoder, features: Tensor, n_context: int) -> None:
        super().__init__()
        self.tower = tower
        self.bias = nn.Parameter(torch.zeros(len(features)))
        self.mix = nn.Linear(n_context, features.shape[1], bias=False)
        nn.init.zeros_(self.mix.weight)
        self.again = nn.Parameter(torch.zeros(()))
        self.register_buffer("features", features)

    @property
    def state_size(self) -> int:
        """Width of the states that :meth:`forward` gives beside the log-odds."""
        return self.tower.items.embedding_dim + self.mix.in_features

    def forward(self, history: Tensor, context: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds float (N, I) and states (N, dim + P), for critics."""
        state = self.tower.last(history)
        logits = state @ self.tower.items.weight[:-1].T + self.bias + self.mix(context) @ self.features.T
        shown = torch.zeros(len(last), len(self.bias) + 1, dtype=logits.dtype, device=logits.device)
        logits = logits + self.again * shown.scatter(1, last, 1.0)[:, :-1]
        return logits, torch.cat([state, context], dim=1)


def slate_log_prob(logits: Tensor, slots: Tensor) -> Tensor:
    """Plackett-Luce log-probability of each slot given the earlier ones, float (N, K).

    The same sums as :meth:`recsim_env.recommenders.sampling.SlatePolicy.log_prob`, with gradients.

    Args:
        logits: float (N, M), -inf where an item must not be shown.
        slots: int64 (N, K), different slots of each row; M (nothing was left) gives 0.
    """
    empty = slots >= logits.shape[1]
    inside = slots.clamp(max=logits.shape[1] - 1)
    chosen = logits.gather(1, inside).masked_fill(empty, -torch.inf)
    taken = torch.zeros_like(logits, dtype=torch.bool).scatter(1, inside, ~empty)
    rest = logits.masked_fill(taken, -torch.inf).logsumexp(dim=1, keepdim=True)
    summands = torch.cat([rest, chosen.flip(1)], dim=1)
    remaining = summands.logcumsumexp(dim=1)[:, 1:].flip(1)
    return (chosen - remaining).masked_fill(empty, 0.0)
