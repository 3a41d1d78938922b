"""Pages as tensors, one row each, for learners with a network of ``slate-pg``'s form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from recsim_env.draws import Draws
from recsim_env.recommenders.base import ScoringRecommender
from recsim_env.recommenders.candidates import allowed_slots
from recsim_env.recommenders.slate_policy import SlatePolicyNetwork
from recsim_env.records import BoolArray, ObservationBatch
from recsim_env.training.experience import Page
from recsim_env.training.logged import LoggedPages


@dataclass(frozen=True, eq=False)
class Rows:
    """What the network reads of P pages; subclasses add what came of them.

    Attributes:
        history: int64 (P, T).
        context: float (P, ...).
        last: int64 (P, K), the last page.
    """

    history: Tensor
    context: Tensor
    last: Tensor

    def shuffled(self, size: int, draws: Draws, number: int) -> Iterator[Self]:
        """Its rows in random order, in parts of at most ``size``."""
        order = draws.permutation(f"minibatches-{number}", len(self.history))
        for start in range(0, len(order), size):
            rows = torch.from_numpy(order[start : start + size]).to(self.history.device)
            yield type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


def read(policy: SlatePolicyNetwork, pages: Sequence[Page | LoggedPages]) -> tuple[Tensor, Tensor, Tensor]:
    """History, context and last page of all pages, one after another."""
    parts = zip(*(policy.inputs(page.obs) for page in pages), strict=True)
    history, context, last = (torch.cat(part) for part in parts)
    return history, context, last


def allowed_items(obs: ObservationBatch, policy: ScoringRecommender) -> BoolArray:
    """Which items the policy may show, bool (N, I)."""
    lanes, allowed = allowed_slots(obs, policy.n_items, policy.config.exclude_seen)
    if lanes.ndim == 1:
        return allowed
    found = np.zeros((obs.n, policy.n_items), np.bool_)
    rows, places = np.nonzero(allowed)
    found[rows, lanes[rows, places]] = True
    return found
