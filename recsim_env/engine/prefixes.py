"""Forward passes that compute what prompts share once.

The prompts of a batch begin alike: all with the rules, those of one user with the same persona and history too. Keys
and values of a shared beginning are computed once and handed to every continuation. Rows are padded in front of each
piece and masked, so that the last position of every row is its last token.

Simplification against a paged cache (vLLM's): shared keys and values are copied for every row of a pass, so memory
grows with rows times length; the caller bounds that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Past:
    """Keys and values of R token rows.

    Attributes:
        layers: Per layer keys and values, each float (R, heads, P, width).
        mask: int64 (R, P), 0 where padded.
        lengths: int64 (R,), tokens of each row, padding left out.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    lengths: Tensor

    def select(self, rows: Tensor) -> Past:
        """Some rows, in that order; nothing is copied where all are wanted, or where the only one is widened."""
        if rows.tolist() == list(range(len(self.lengths))):
            return self
        if len(self.lengths) == 1:
            layers = tuple((k.expand(len(rows), -1, -1, -1), v.expand(len(rows), -1, -1, -1)) for k, v in self.layers)
            return Past(layers, self.mask.expand(len(rows), -1), self.lengths.expand(len(rows)))
        layers = tuple((k[rows], v[rows]) for k, v in self.layers)
        return Past(layers, self.mask[rows], self.lengths[rows])


class Forward:
    """A causal language model that continues rows of tokens.

    Args:
        model: A causal language model of the package transformers.
        pad: Any token id.
    """

    def __init__(self, model: Any, pad: int) -> None:
        self.model, self.pad = model, pad
        self.device = model.device

    @torch.inference_mode()
    def run(self, past: Past | None, rows: Sequence[int], pieces: Sequence[Sequence[int]]) -> tuple[Tensor, Past]:
        """Computes one piece of tokens per row.

        Args:
            past: What stands before, None where nothing does.
            rows: Row of ``past`` that each piece continues.
            pieces: Token ids of each piece, at least one.

        Returns:
            Logits of the last position, float32 (B, vocabulary), and the past with the pieces added.
        """
        width = max(len(piece) for piece in pieces)
        ids = torch.tensor([[self.pad] * (width - len(p)) + list(p) for p in pieces], device=self.device)
        lengths = torch.tensor([len(piece) for piece in pieces], device=self.device)
        mask = (torch.arange(width, device=self.device) >= width - lengths[:, None]).long()
        if past is None:
            cache, before, full = _cache(()), torch.zeros_like(lengths), mask
        else:
            chosen = past.select(torch.tensor(rows, device=self.device))
            cache, before = _cache(chosen.layers), chosen.lengths
            full = torch.cat([chosen.mask, mask], dim=1)
        positions = before[:, None] + (torch.cumsum(mask, dim=1) - 1).clamp(min=0)
        reply = self.model(
            input_ids=ids, attention_mask=full, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        layers = tuple((layer.keys, layer.values) for layer in cache.layers)
        return reply.logits[:, -1].float(), Past(layers, full, before + lengths)


def _cache(layers: Sequence[tuple[Tensor, Tensor]]) -> Any:
    """The cache object of the package transformers, around given keys and values (it would copy them by itself)."""
    kinds: Any = import_module("transformers.cache_utils")
    cache = kinds.DynamicCache()
    for keys, values in layers:
        layer = kinds.DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with alike; at most one less than the shortest row has."""
    ordered = sorted(map(list, rows))
    first, last = ordered[0], ordered[-1]  # in lexicographic order the two that differ most
    limit = min(len(row) for row in rows) - 1
    for i in range(limit):
        if first[i] != last[i]:
            return i
    return limit


def groups_of(keys: Sequence[Any], rows: Sequence[Sequence[int]], shared: int, least: int) -> list[list[int]]:
    """Indices of rows that belong together and share at least ``least`` tokens beyond ``shared``; others stand alone.

    The groups come in the order of their first member.
    """
    together: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        together.setdefault(key, []).append(i)
    groups: list[list[int]] = []
    for members in together.values():
        if len(members) > 1 and common_prefix([rows[i] for i in members]) >= shared + least:
            groups.append(members)
        else:
            groups.extend([i] for i in members)
    return groups


def chunks(sizes: Sequence[int], budget: int) -> list[range]:
    """Cuts a sequence so that the longest size of each part times its count stays within a budget (at least one)."""
    parts: list[range] = []
    start = longest = 0
    for i, size in enumerate(sizes):
        longest = max(longest, size)
        if i > start and longest * (i - start + 1) > budget:
            parts.append(range(start, i))
            start, longest = i, size
    return [*parts, range(start, len(sizes))] if sizes else []
