"""Slates by the long-term values of single items: SlateQ's decomposition and its best slate.

A page's value is the sum over its items of (probability that the item is taken) x (value of taking it), plus the same
of taking nothing (Ie et al., "SlateQ", IJCAI 2019). :mod:`recsim_env.training.slateq` teaches both factors.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from recsim_env.draws import Draws
from recsim_env.interfaces import Config
from recsim_env.lm.backbone import device_of
from recsim_env.recommenders.slate_policy import PolicyNet, SlatePolicyConfig, SlatePolicyNetwork
from recsim_env.recommenders.store import Arrays
from recsim_env.records import Dataset, FloatArray, ObservationBatch

ROUNDS = 6
"""Steps towards the best slate; two or three are mostly enough."""


class SlateQConfig(SlatePolicyConfig):
    """Settings of :class:`SlateQ`; those of SASRec are of the warm start."""

    taken: Literal["several", "one"] = "several"
    """How many items of a page may be taken: ``several``, each by itself, or at most ``one`` (multinomial logit)."""
    temperature: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Chance in the slate, in standard deviations of the user's scores, as for every scoring recommender."""


class SlateQ(SlatePolicyNetwork):
    """Slates by probability of a click times the item's long-term value (SlateQ: Ie et al., IJCAI 2019).

    Two networks of the form of ``slate-pg``, one for the log-odds that an item is taken, one for its value. Where at
    most one item is taken, the slate is the exact maximum of the expected value (fractional programming, Dinkelbach
    1967) under the learned factors; where several may be, it is the K largest products. Until it is trained, the
    values are all 1 and the log-odds are SASRec's.
    """

    config_class: ClassVar[type[Config]] = SlateQConfig
    config: SlateQConfig
    name = "slateq"
    standardised = True

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """The warm start of the log-odds."""
        super().learn(dataset, draws)
        self.q = self._pair(self.net, draws)

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """What each item adds to the page's value, float32 (N, I)."""
        with torch.no_grad():
            odds, value, nothing = self.q(*self.inputs(obs))
            found = gains(odds, value, nothing, obs.last_slate.shape[1], self.config.taken)
        return np.asarray(found.float().cpu().numpy())

    def _pair(self, choice: PolicyNet, draws: Draws) -> SlateQNet:
        return SlateQNet(choice, self._made(draws)).to(device_of(self.config.device)).eval()

    def arrays(self) -> Arrays:
        """The weights."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.q.state_dict().items()}

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave."""
        self._take_features(arrays["choice.features"])
        self.net = self._made(Draws(0))
        self.q = self._pair(self.net, Draws(0))
        self.q.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


class SlateQNet(nn.Module):
    """Log-odds of being taken and value of taking, of all items, and the value of taking nothing.

    Args:
        choice: Gives the log-odds.
        worth: Gives the values, plus 1: its output begins near 0.
    """

    def __init__(self, choice: PolicyNet, worth: PolicyNet) -> None:
        super().__init__()
        self.choice, self.worth = choice, worth
        nn.init.zeros_(worth.tower.norm.weight)  # no item is worth more than another until something is known
        self.nothing = nn.Linear(worth.state_size, 1)
        nn.init.zeros_(self.nothing.weight)
        nn.init.zeros_(self.nothing.bias)

    def forward(self, history: Tensor, context: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-odds float (N, I), values float (N, I), value of nothing float (N,)."""
        odds, _ = self.choice(history, context, last)
        value, state = self.worth(history, context, last)
        return odds, value + 1.0, self.nothing(state)[:, 0]


def page_value(odds: Tensor, value: Tensor, nothing: Tensor, taken: str) -> Tensor:
    """Expected value of a page, float (N,).

    Args:
        odds: float (N, K), log-odds of its items; ``-inf`` for an empty place.
        value: float (N, K).
        nothing: float (N,), value of taking nothing.
        taken: See :class:`SlateQConfig`.
    """
    value = value.masked_fill(odds == -torch.inf, 0.0)
    if taken == "one":
        shares = torch.cat([odds, torch.zeros_like(odds[:, :1])], dim=1).softmax(dim=1)
        return (shares[:, :-1] * value).sum(dim=1) + shares[:, -1] * nothing
    share = odds.sigmoid()
    return (share * value).sum(dim=1) + (1.0 - share).prod(dim=1) * nothing


def gains(odds: Tensor, value: Tensor, nothing: Tensor, k: int, taken: str) -> Tensor:
    """What each item adds to the value of a page, float (N, M): the K largest make the best page.

    For ``one`` the value is a quotient, (sum of w v + v0) / (sum of w + 1) with w = exp(odds). Its maximum L has
    the items with the largest w (v - L), and each step from a page to the L of the best page for the last L rises
    (Dinkelbach, "On nonlinear fractional programming", 1967).

    Args:
        odds: float (N, M), ``-inf`` where an item must not be shown.
        value: float (N, M).
        nothing: float (N,).
        k: K.
        taken: See :class:`SlateQConfig`.
    """
    if taken != "one":
        return odds.sigmoid() * value
    level, weight = nothing, odds.clamp(max=30.0).exp()
    for _ in range(ROUNDS):
        gain = (weight * (value - level[:, None])).masked_fill(odds == -torch.inf, -torch.inf)
        best = gain.topk(min(k, gain.shape[1]), dim=1).indices
        level = page_value(odds.gather(1, best), value.gather(1, best), nothing, taken)
    return weight * (value - level[:, None])
