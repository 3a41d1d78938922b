"""Actions as slots of the candidate set: from slots to a slate and back."""

from __future__ import annotations

import numpy as np

from recsim_env.errors import ContractError
from recsim_env.records import BoolArray, IntArray, ObservationBatch


def choose_items(slots: IntArray, candidates: IntArray | None, n_items: int) -> tuple[IntArray, BoolArray]:
    """The slate that slots stand for; a slot that cannot be shown gives way to the next free one.

    A slot cannot be shown if an earlier position holds the same one, or if its candidate is padding. Its replacement
    is the next slot, counted upwards and around, that nobody else on the page holds.

    Args:
        slots: int (N, K), each in ``range(C)``.
        candidates: int (N, C), item indices padded with ``n_items``; None is the whole catalogue, slot = item.
        n_items: Size of the catalogue.

    Returns:
        Item indices int32 (N, K), ``n_items`` where the candidates ran out, and which positions were replaced,
        bool (N, K).
    """
    replaced = _repeats(slots)
    if candidates is not None:
        replaced |= np.take_along_axis(candidates, slots, axis=1) >= n_items
    rows = np.flatnonzero(replaced.any(axis=1))
    if rows.size:
        slots = slots.copy()
        slots[rows] = _replace(
            slots[rows], replaced[rows], None if candidates is None else candidates[rows] >= n_items, n_items
        )
    shown = slots if candidates is None else np.take_along_axis(candidates, np.maximum(slots, 0), axis=1)
    return np.where(slots < 0, n_items, shown).astype(np.int32), replaced


def slots_of(obs: ObservationBatch, items: IntArray) -> IntArray:
    """The action that shows given items: the way for a recommender's slate into the environment.

    Args:
        obs: What the slate answers to.
        items: int (N, K), item indices.

    Returns:
        int64 (N, K), slots.

    Raises:
        ContractError: If an item is no candidate.
    """
    if obs.candidates is None:
        return items.astype(np.int64)
    match = items[:, :, None] == obs.candidates[:, None, :]
    if not match.any(axis=2).all():
        row, position = np.argwhere(~match.any(axis=2))[0]
        raise ContractError(
            f"Item {items[row, position]} (row {row}, position {position}) is not among the candidates of user "
            f"{obs.user_index[row]}. Recommend only items of obs.candidates[{row}]."
        )
    return np.argmax(match, axis=2)


def _repeats(slots: IntArray) -> BoolArray:
    """Which positions hold a slot that an earlier position holds, bool (N, K)."""
    columns = np.ascontiguousarray(slots.T)
    repeats = np.zeros(columns.shape, np.bool_)
    for position in range(1, len(columns)):
        repeats[position] = (columns[:position] == columns[position]).any(axis=0)
    return repeats.T


def _replace(slots: IntArray, replaced: BoolArray, padding: BoolArray | None, n_items: int) -> IntArray:
    """Slots with the replaced positions filled, -1 where no slot is free."""
    n_slots = n_items if padding is None else padding.shape[1]
    held = np.where(replaced, -1, slots)
    for position in range(slots.shape[1]):
        rows = np.flatnonzero(replaced[:, position])
        slot = slots[rows, position].copy()
        for _ in range(n_slots):
            busy = (held[rows] == slot[:, None]).any(axis=1)
            if padding is not None:
                busy |= padding[rows, slot]
            if not busy.any():
                break
            slot[busy] = (slot[busy] + 1) % n_slots
        else:
            slot[busy] = -1
        held[rows, position] = slot
    return held
