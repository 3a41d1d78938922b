"""Self-attention over the sequence of what a user took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from recsim_env.draws import Draws
from recsim_env.interfaces import Config
from recsim_env.lm.backbone import device_of
from recsim_env.recommenders.fitting import TrainedConfig, TrainedRecommender, train
from recsim_env.recommenders.store import Arrays
from recsim_env.records import BoolArray, Dataset, FloatArray, Histories, IntArray, ObservationBatch

LOGITS = 1 << 26
"""Numbers of positions' logits over the whole catalogue that are held at once; a larger batch is computed in parts."""
AT_ONCE = 256
"""Users who are validated at once."""


class SASRecConfig(TrainedConfig):
    """Settings of :class:`SASRec`."""

    dim: int = Field(default=64, ge=1)
    """Width of item vectors and layers."""
    blocks: int = Field(default=2, ge=1)
    """Layers."""
    heads: int = Field(default=2, ge=1)
    """Attention heads; they divide ``dim``."""
    max_length: int = Field(default=200, ge=1)
    """Latest items that are read."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Of embeddings and of what layers add."""

    @model_validator(mode="after")
    def _heads_divide(self) -> SASRecConfig:
        if self.dim % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide dim ({self.dim})")
        return self


class SASRec(TrainedRecommender):
    """Causal self-attention (Kang and McAuley, ICDM 2018), full cross-entropy (Klenitskiy and Vasilev, RecSys 2023).

    Every position predicts the next item among the whole catalogue. Scores are products of the last state with the
    item vectors, which are also the input's. Differences to the paper: layers normalise before attention (pre-norm) and
    are four times as wide inside, positions are counted from the latest item, and all windows of a longer history are
    trained on. Stars are not used.
    """

    config_class: ClassVar[type[Config]] = SASRecConfig
    config: SASRecConfig
    name = "sasrec"

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Trains until validation (nDCG@10 of the last items of some users) no longer gets better."""
        c = self.config
        self._model = self._made(draws).to(device_of(c.device))
        histories = dataset.histories()
        known, users, targets = held_out_last(histories, c.validation_users, draws)
        past = known.take(users)
        items, _ = past.last(c.max_length, self.n_items)

        def validate() -> float:
            scores = [self._scores(items[i : i + AT_ONCE]) for i in range(0, len(users), AT_ONCE)]
            return mean_ndcg(np.concatenate(scores), past, targets) if len(users) else 0.0

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            return windows(known, c.max_length, c.batch_size, self.n_items, draws, epoch)

        self.log = train(self._model, c, self.fitting, batches, self._loss, validate, draws)

    @property
    def encoder(self) -> SequenceEncoder:
        """The network."""
        return self._model

    @property
    def item_embeddings(self) -> FloatArray:
        """The item vectors, float32 (I, dim)."""
        return np.asarray(self._model.items.weight.detach().float().cpu().numpy()[:-1])

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """Logits of the next item, float32 (N, I); their soft-max is the model's probability."""
        return self._scores(obs.history[:, -self.config.max_length :])

    def _scores(self, items: IntArray) -> FloatArray:
        device = self._model.items.weight.device
        with torch.no_grad():
            state = self._model.last(torch.from_numpy(items.astype(np.int64)).to(device))
            return np.asarray((state @ self._model.items.weight[:-1].T).float().cpu().numpy())

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy of all real positions."""
        device = self._model.items.weight.device
        inputs, targets = (part.to(device) for part in batch)
        real = targets < self.n_items
        states, wanted = self._model(inputs)[real], targets[real]
        size = max(1, LOGITS // self.n_items)
        if len(wanted) <= size:
            return self._part(states, wanted) / max(len(wanted), 1)
        parts = [
            checkpoint(self._part, states[i : i + size], wanted[i : i + size], use_reentrant=False)
            for i in range(0, len(wanted), size)
        ]
        found: Tensor = torch.stack(parts).sum() / len(wanted)
        return found

    def _part(self, states: Tensor, wanted: Tensor) -> Tensor:
        return functional.cross_entropy((states @ self._model.items.weight[:-1].T).float(), wanted, reduction="sum")

    def _made(self, draws: Draws) -> SequenceEncoder:
        c = self.config
        with torch.random.fork_rng():
            torch.manual_seed(int(draws.keys("sasrec-weights", 0)[0] >> np.uint64(1)))
            return SequenceEncoder(self.n_items, c.dim, c.blocks, c.heads, c.max_length, c.dropout)

    def arrays(self) -> Arrays:
        """The weights."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self._model.state_dict().items()}

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave."""
        model = self._made(Draws(0))
        model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        self._model = model.to(device_of(self.config.device)).eval()


class SequenceEncoder(nn.Module):
    """A causal transformer over item sequences that are padded in front.

    Args:
        n_items: I, which also pads.
        dim: Width.
        blocks: Layers.
        heads: Attention heads.
        length: Longest sequence.
        dropout: Share of numbers set to zero in training.
    """

    def __init__(self, n_items: int, dim: int, blocks: int, heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.n_items = n_items
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=n_items)
        self.places = nn.Embedding(length, dim)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=dim**-0.5 / 2)
        with torch.no_grad():
            self.items.weight[n_items] = 0.0
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dim, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, items: Tensor) -> Tensor:
        """States after each item, float (B, T, dim), of items int64 (B, T)."""
        x, seen = self._read(items)
        for block in self.blocks:
            x = block(x, seen)
        found: Tensor = self.norm(x)
        return found

    def last(self, items: Tensor) -> Tensor:
        """The state after the last item alone, float (B, dim): the last layer is computed for one place only."""
        x, seen = self._read(items)
        for block in self.blocks[:-1]:
            x = block(x, seen)
        top = self.blocks[-1]
        assert isinstance(top, _Block)
        found: Tensor = self.norm(top.last(x, seen[:, :, -1:]))[:, 0]
        return found

    def _read(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer's input, and what each place may look at, bool (B, 1, T, T)."""
        length = items.shape[1]
        back = torch.arange(length - 1, -1, -1, device=items.device)  # 0 is the latest item
        x = self.drop(self.items(items) + self.places(back))
        before = torch.ones(length, length, dtype=torch.bool, device=items.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=items.device)  # padding sees itself: no row is empty
        seen = (before & (items < self.n_items)[:, None, :]) | itself
        return x, seen[:, None]


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.norm_inside = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mix, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.inside = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        query, key, value = self.mix(self.norm(x)).chunk(3, dim=2)
        return self._added(x, query, key, value, seen)

    def last(self, x: Tensor, seen: Tensor) -> Tensor:
        """The output at the last place alone, float (B, 1, dim); seen is bool (B, 1, 1, T)."""
        dim, normed = x.shape[2], self.norm(x)
        query = functional.linear(normed[:, -1:], self.mix.weight[:dim], self.mix.bias[:dim])
        key, value = functional.linear(normed, self.mix.weight[dim:], self.mix.bias[dim:]).chunk(2, dim=2)
        return self._added(x[:, -1:], query, key, value, seen)

    def _added(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        n, width = len(x), x.shape[2] // self.heads
        heads = [part.reshape(n, -1, self.heads, width).transpose(1, 2) for part in (query, key, value)]
        mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=seen)
        x = x + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        added: Tensor = x + self.drop(self.inside(self.norm_inside(x)))
        return added


def held_out_last(histories: Histories, most: int, draws: Draws) -> tuple[Histories, IntArray, IntArray]:
    """Leaves the last item of some users out.

    Args:
        histories: All users.
        most: Users, at most; also at most a tenth of those with three items or more.
        draws: Says whom.

    Returns:
        The histories without these items, the users int64 (V,), ascending, and their items int32 (V,).
    """
    enough = np.flatnonzero(histories.lengths >= 3)
    luck = draws.uniform("validation-users", enough)
    users = np.sort(enough[np.argsort(luck, kind="stable")[: min(most, len(enough) // 10)]])
    last = histories.offsets[users + 1] - 1
    keep: BoolArray = np.ones(len(histories.items), np.bool_)
    keep[last] = False
    lengths = histories.lengths
    lengths[users] -= 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(offsets, histories.items[keep], histories.ratings[keep]), users, histories.items[last]


def mean_ndcg(scores: FloatArray, past: Histories, targets: IntArray, k: int = 10) -> float:
    """Mean nDCG@k of one target per user among all items that the user has not taken.

    Args:
        scores: float (V, I).
        past: Histories of the V users.
        targets: int (V,).
        k: Length of the list.
    """
    rows = np.arange(len(targets))
    own = scores[rows, targets].copy()
    scores = scores.copy()
    scores[np.repeat(rows, past.lengths), past.items] = -np.inf
    scores[rows, targets] = -np.inf
    rank = (scores >= own[:, None]).sum(axis=1)
    return float(np.where(rank < k, 1.0 / np.log2(rank + 2.0), 0.0).mean())


def windows(
    histories: Histories, length: int, batch_size: int, pad: int, draws: Draws, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of an epoch: every history in windows, in random order, windows of about one length together.

    Args:
        histories: The users.
        length: Longest window.
        batch_size: Windows in a batch.
        pad: Fills the front.
        draws: Says their order.
        epoch: Number of the epoch.

    Yields:
        Inputs and next items, each int64 (B, T).
    """
    # Windows end at the latest item, then at every earlier ``length``-th; neighbours share one item.
    n_windows = np.maximum(-(-(histories.lengths - 1) // length), 0)
    user = np.repeat(np.arange(histories.n_users), n_windows)
    number = np.arange(len(user)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    end = histories.offsets[user + 1] - number * length
    begin = np.maximum(end - length - 1, histories.offsets[user])
    order = draws.permutation(f"windows-{epoch}", len(begin))
    group = 16 * batch_size  # sorted by length inside groups: little padding, and the order stays random
    lots = [order[i : i + group] for i in range(0, len(order), group)]
    parts = []
    for lot in lots:
        lot = lot[np.argsort((end - begin)[lot], kind="stable")]
        parts += [lot[i : i + batch_size] for i in range(0, len(lot), batch_size)]
    for place in draws.permutation(f"batches-{epoch}", len(parts)):
        yield _laid_out(histories.items, begin[parts[place]], end[parts[place]], pad)


def _laid_out(items: Any, begin: IntArray, end: IntArray, pad: int) -> tuple[Tensor, Tensor]:
    width = int((end - begin).max())
    at = end[:, None] - width + np.arange(width)
    rows = np.where(at >= begin[:, None], items[np.maximum(at, 0)], pad).astype(np.int64)
    return torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())
