"""Prompts that begin alike, packed so that their beginning is computed once (a tree: one stem, many branches).

Prompts of a user share a long beginning (rules, persona, past, now); an item with its question is a few tokens. A tree
is laid out in one row: the stem, then its branches one after another. A branch sees the stem and itself and nothing
else, and its positions go on where the stem ends, as if it stood there alone. So every branch gets exactly the hidden
states that its prompt would get by itself, and the gradients are the same too (a test compares them); the stem is
computed once instead of once a prompt. Several trees share a row; they do not see each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsim_env.records import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """What one prompt adds to its stem, with the answer.

    Attributes:
        ids: int64 (b,), the end of the prompt; for words the written tokens follow, all but the last.
        purpose: What is asked.
        options: int64 (n_options,), token of each option; empty for words.
        target: float64 (n_options,), probability of each option; empty for words.
        written: int64 (w,), tokens of the words with their end; empty for decisions. The last w positions of the branch
            predict them.
        weight: Weight of the loss.
    """

    ids: IntArray
    purpose: str
    options: IntArray
    target: FloatArray
    written: IntArray
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """Prompts that begin alike.

    Attributes:
        stem: int64 (s,), the common beginning; may be empty.
        branches: At least one, each with at least one token.
    """

    stem: IntArray
    branches: tuple[Branch, ...]

    @property
    def size(self) -> int:
        """Tokens of the tree."""
        return len(self.stem) + sum(len(branch.ids) for branch in self.branches)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of trees as tensors; B rows of T tokens.

    Attributes:
        ids: int64 (B, T).
        positions: int64 (B, T).
        mask: bool (B, 1, T, T), which token (third axis) sees which (fourth axis).
        choice_at: int64 (n,), place of each decision's last token in the rows laid end to end.
        options: int64 (n, O), padded with -1.
        target: float32 (n, O), padded with 0.
        choice_weight: float32 (n,).
        word_at: int64 (m,), places that predict a written token.
        word: int64 (m,), these tokens.
        word_weight: float32 (m,); all tokens of one text sum to its weight.
        purposes: Of the decisions, then of the written tokens.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    choice_at: Tensor
    options: Tensor
    target: Tensor
    choice_weight: Tensor
    word_at: Tensor
    word: Tensor
    word_weight: Tensor
    purposes: tuple[str, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens with their padding."""
        return self.ids.numel()

    def to(self, device: Any) -> Batch:
        """The batch on a device."""
        moved = {name: getattr(self, name).to(device) for name in self.__slots__ if name != "purposes"}
        return replace(self, **moved)


def pieces(tree: Tree, width: int) -> Iterator[Tree]:
    """The tree in parts of at most ``width`` tokens, each with the whole stem; a longer branch stands alone."""
    part: list[Branch] = []
    size = len(tree.stem)
    for branch in tree.branches:
        if part and size + len(branch.ids) > width:
            yield Tree(tree.stem, tuple(part))
            part, size = [], len(tree.stem)
        part.append(branch)
        size += len(branch.ids)
    yield Tree(tree.stem, tuple(part))


def rows_of(trees: Sequence[Tree], width: int) -> list[list[Tree]]:
    """Trees (in parts, where they are longer) on rows of at most ``width`` tokens, in their order; first fit."""
    rows: list[list[Tree]] = []
    room: list[int] = []
    for tree in trees:
        for part in pieces(tree, width):
            # Only the latest rows are tried: order and randomness of the trees stay nearly as they are.
            fitting = [r for r in range(max(0, len(rows) - 16), len(rows)) if room[r] >= part.size]
            if not fitting:
                rows.append([])
                room.append(width)
            row = fitting[0] if fitting else len(rows) - 1
            rows[row].append(part)
            room[row] -= part.size
    return rows


def batches_of(rows: Sequence[list[Tree]], tokens: int) -> list[list[list[Tree]]]:
    """Rows in batches of at most ``tokens`` tokens with padding, at least one row each."""
    found: list[list[list[Tree]]] = []
    longest = 0
    for row in rows:
        size = sum(tree.size for tree in row)
        longest = max(longest, size)
        if not found or longest * (len(found[-1]) + 1) > tokens:
            found.append([])
            longest = size
        found[-1].append(row)
    return found


def lay_out(rows: Sequence[Sequence[Tree]], pad: int) -> Batch:
    """A batch out of its rows."""
    width = max(sum(tree.size for tree in row) for row in rows)
    shape = (len(rows), width)
    ids, positions = np.full(shape, pad, np.int64), np.zeros(shape, np.int64)
    tree_of, branch_of = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    ends: list[tuple[int, Branch]] = []
    for r, row in enumerate(rows):
        at = 0
        for t, tree in enumerate(row):
            stem = len(tree.stem)
            for b, part in enumerate((tree.stem, *(branch.ids for branch in tree.branches))):
                here = slice(at, at + len(part))
                ids[r, here], tree_of[r, here], branch_of[r, here] = part, t, b
                positions[r, here] = np.arange(len(part)) + (stem if b else 0)
                at += len(part)
                if b:
                    ends.append((r * width + at - 1, tree.branches[b - 1]))
    one, two = torch.from_numpy(tree_of), torch.from_numpy(branch_of)
    same = (one[:, :, None] == one[:, None, :]) & ((two[:, None, :] == 0) | (two[:, :, None] == two[:, None, :]))
    mask = same & torch.ones(width, width, dtype=torch.bool).tril()  # padding sees padding: no row of it is empty
    return _labelled(torch.from_numpy(ids), torch.from_numpy(positions), mask[:, None], ends)


def _labelled(ids: Tensor, positions: Tensor, mask: Tensor, ends: list[tuple[int, Branch]]) -> Batch:
    choices = [(at, branch) for at, branch in ends if len(branch.options)]
    words = [(at, branch) for at, branch in ends if len(branch.written)]
    most = max((len(branch.options) for _, branch in choices), default=1)
    options, target = np.full((len(choices), most), -1, np.int64), np.zeros((len(choices), most), np.float32)
    for i, (_, branch) in enumerate(choices):
        options[i, : len(branch.options)] = branch.options
        target[i, : len(branch.options)] = branch.target
    word_at = [np.arange(at - len(b.written) + 1, at + 1) for at, b in words]
    weights = [np.full(len(b.written), b.weight / len(b.written), np.float32) for _, b in words]
    empty = np.empty(0, np.int64)
    return Batch(
        ids, positions, mask,
        torch.tensor([at for at, _ in choices], dtype=torch.int64), torch.from_numpy(options), torch.from_numpy(target),
        torch.tensor([branch.weight for _, branch in choices], dtype=torch.float32),
        torch.from_numpy(np.concatenate([empty, *word_at])),
        torch.from_numpy(np.concatenate([empty, *(b.written for _, b in words)])),
        torch.from_numpy(np.concatenate([empty.astype(np.float32), *weights])),
        (*(b.purpose for _, b in choices), *(b.purpose for _, b in words for _ in range(len(b.written)))),
    )  # fmt: skip
