"""What one step of RSLLM learns from: windows of histories, every prefix of which is a prompt.

Causal attention makes each place of a prompt blind to what follows, so the state after the k-th item of a window is
what the prompt of its first k items alone would give. One pass over a window of n items thus trains n - 1 prompts,
each with its next title (language modelling), its user vector against the next item alone (``L_UT``), and the next
item in its place against the next item alone (``L_TT``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsim_env.draws import Draws
from recsim_env.recommenders.rsllm.config import RSLLMConfig
from recsim_env.recommenders.rsllm.losses import Losses, combine, info_nce, language_loss
from recsim_env.recommenders.rsllm.model import UnifiedModel, pool
from recsim_env.recommenders.rsllm.prompts import Lexicon, lay_out
from recsim_env.records import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Windows of a step, with its negatives.

    Attributes:
        rows: Items of each window, int (n,) with n >= 2, oldest first.
        keys: int64 (J,), ascending: the distinct targets and the random negatives.
        positive: int64 (M,), place among the keys of every row's second, third, ... item, row by row.
        log_expected: float32 (J,), logarithm of how often each key is expected.
    """

    rows: list[IntArray]
    keys: IntArray
    positive: Tensor
    log_expected: Tensor


def make_batch(rows: list[IntArray], popularity: IntArray, negatives: int, draws: Draws, number: int) -> Batch:
    """A batch of windows.

    Args:
        rows: Items of each window.
        popularity: int (I,), how often each item occurs in training.
        negatives: Random items of the catalogue.
        draws: Their luck.
        number: Of the step, so that each has luck of its own.
    """
    targets = np.concatenate([row[1:] for row in rows])
    n_items = len(popularity)
    luck = draws.uniforms(draws.keys("rsllm-negatives", number), np.arange(negatives))[0]
    keys, place = np.unique(np.concatenate([targets, (luck * n_items).astype(np.int64)]), return_inverse=True)
    share = popularity[keys] / max(1, int(popularity.sum()))
    expected = len(targets) * share + negatives / n_items
    log_expected = np.log(np.maximum(expected, 1e-9)).astype(np.float32)
    return Batch(rows, keys, torch.from_numpy(place[: len(targets)]), torch.from_numpy(log_expected))


def losses_of(model: UnifiedModel, lexicon: Lexicon, config: RSLLMConfig, batch: Batch) -> Losses:
    """The losses of a batch; what has no weight is not computed and is 0."""
    text, device = config.channels != "id", model.device
    prompts = lay_out(lexicon, batch.rows, lexicon.user, text).to(device)
    states = model(prompts)
    nothing = states.new_zeros((), dtype=torch.float32)
    language = user_target = target_target = nothing
    if config.language and text and config.weight_tt + config.weight_ut < 1:
        row, place = torch.nonzero((prompts.owner > 0) & ((prompts.item < 0) | lexicon.ends), as_tuple=True)
        language = language_loss(model.logits(states[row, place - 1]), prompts.ids[row, place])
    if config.weight_ut or config.weight_tt:
        pooled = pool(states, prompts, config.pooling)
        row, number = torch.nonzero(
            torch.arange(pooled.item.shape[1], device=device)[1:] < prompts.n_items[:, None], as_tuple=True
        )
        keys = item_states(model, lexicon, batch.keys, text)
        positive, expected = batch.positive.to(device), batch.log_expected.to(device)
        if config.weight_ut:
            user_target = info_nce(pooled.history[row, number], keys, positive, model.tau, expected)
        if config.weight_tt:
            target_target = info_nce(pooled.item[row, number + 1], keys, positive, model.tau, expected)
    return combine(language, user_target, target_target, config.weight_tt, config.weight_ut)


def item_states(model: UnifiedModel, lexicon: Lexicon, items: IntArray, text: bool) -> Tensor:
    """Vectors of items that stand alone, float (n, d): means of their tokens' last states."""
    prompts = lay_out(lexicon, list(items[:, None]), lexicon.item, text).to(model.device)
    return pool(model(prompts), prompts, "last").item[:, 0]


def rows_of(inputs: Tensor, targets: Tensor, n_items: int) -> list[IntArray]:
    """Windows as item rows, out of inputs and next items (B, T) that are padded in front with ``n_items``."""
    windows = torch.cat([inputs, targets[:, -1:]], dim=1).numpy()
    return [row[row < n_items] for row in windows]


def shuffled(embeddings: FloatArray, draws: Draws) -> FloatArray:
    """The embeddings, each with another item: a control that keeps their distribution."""
    return embeddings[draws.permutation("rsllm-shuffle", len(embeddings))]
