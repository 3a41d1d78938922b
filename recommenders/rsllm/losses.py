"""The three losses: language modelling, user against target, target in context against target alone.

The contrasts are InfoNCE (van den Oord et al., arXiv 1807.03748) on cosines. Two ways in which a batch misleads them
are mended: the same target twice in a batch would be its own negative, so every item is one key; and popular items,
which come up as negatives more often, would be pushed down, so the logarithm of how often an item is expected among
the keys is taken off (Yi et al., RecSys 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Losses of one batch, each a scalar tensor; what is not computed is 0.

    Attributes:
        language: ``L_LM``, nats per token.
        user_target: ``L_UT``, nats per target.
        target_target: ``L_TT``, nats per target.
        total: ``(1 - a - b) L_LM + a L_TT + b L_UT``.
    """

    language: Tensor
    user_target: Tensor
    target_target: Tensor
    total: Tensor


def info_nce(
    queries: Tensor, keys: Tensor, positive: Tensor, temperature: Tensor, log_expected: Tensor | None = None
) -> Tensor:
    """Mean negative log-probability of each query's key among all keys, a scalar.

    Args:
        queries: float (M, d), of any length.
        keys: float (J, d), one per distinct item, so that no query meets its own target as a negative.
        positive: int64 (M,), the right key of each query.
        temperature: Scalar that divides the cosines.
        log_expected: float (J,), logarithm of how often each item is expected among the keys, or None.
    """
    logits = functional.normalize(queries, dim=-1) @ functional.normalize(keys, dim=-1).T / temperature
    if log_expected is not None:
        logits = logits - log_expected
    return functional.cross_entropy(logits.float(), positive)


def language_loss(logits: Tensor, targets: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Mean negative log-probability of the tokens, a scalar.

    Args:
        logits: float (m, V).
        targets: int64 (m,), tokens.
        tokens: int64 (t,) ascending, the tokens that the soft-max is over and that hold all targets; None is all V.
    """
    if tokens is not None:
        logits, targets = logits[:, tokens], torch.searchsorted(tokens, targets)
    return functional.cross_entropy(logits.float(), targets)


def combine(language: Tensor, user_target: Tensor, target_target: Tensor, a: float, b: float) -> Losses:
    """The weighted sum; see :class:`Losses`."""
    total = (1 - a - b) * language + a * target_target + b * user_target
    return Losses(language, user_target, target_target, total)
