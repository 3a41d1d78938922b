"""Unified prompts: a history as a line of items, each its title's tokens and one behaviour token.

    <instruction> title_1 [b_1] title_2 [b_2] ... title_n [b_n]

The behaviour token stands where the vocabulary's end-of-title token stands: as something to predict it is that token,
so that the likelihood of a title includes where it ends; as an input it is the projected embedding of the item, or the
placeholder (model.py). A prompt goes on with the next title, so every place of it is also the prompt of a shorter
history: one pass trains them all. Titles are cut out of their vocabulary once, when the recommender is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsim_env.engine.base import cannot_load, local_model
from recsim_env.lm.tokenizer import make_tokenizer, word_pieces
from recsim_env.records import IntArray

HUB_WORDS = ("What a person chose, oldest first:\n", "An item:\n", "\n")
"""Instruction before a history, instruction before an item alone, and end of a title, for a model that knows text."""
SCRATCH_WORDS = ("<|user|>", "<|assistant|>", "<|end|>")
"""The same for a decoder from scratch."""
MAX_LENGTH = 4096
NOTHING = -1


@dataclass(frozen=True, slots=True, eq=False)
class Lexicon:
    """The catalogue in tokens.

    Attributes:
        titles: int32 (I, W), tokens of each title, padded with -1 at the end; without the end-of-title token.
        user: int32 (p,), the instruction before a history.
        item: int32 (q,), the instruction before an item that stands alone.
        end: The end-of-title token.
    """

    titles: IntArray
    user: IntArray
    item: IntArray
    end: int

    @property
    def lengths(self) -> IntArray:
        """Tokens of each title, int64 (I,)."""
        return (self.titles >= 0).sum(axis=1)

    @property
    def ends(self) -> bool:
        """Whether the end of a title is something to predict; not where every title is one token."""
        return bool((self.lengths != 1).any())

    def title_tokens(self) -> IntArray:
        """Tokens that occur in titles, and the end of a title, int64 (t,), ascending."""
        return np.union1d(self.titles[self.titles >= 0], [self.end]).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Prompts as tensors; B rows of T tokens, padded at the end.

    Attributes:
        ids: int64 (B, T), tokens; the end-of-title token where a behaviour token stands.
        item: int64 (B, T), the item whose behaviour token stands here, else -1.
        owner: int64 (B, T), number in the row of the item that a token belongs to, from 0; -1 for instructions and
            padding.
        mask: int64 (B, T), 1 where a token stands.
        n_items: int64 (B,), items of each row.
    """

    ids: Tensor
    item: Tensor
    owner: Tensor
    mask: Tensor
    n_items: Tensor

    def to(self, device: torch.device) -> Prompts:
        """The prompts on a device."""
        return Prompts(*(getattr(self, name).to(device) for name in self.__slots__))


def lay_out(
    lexicon: Lexicon, rows: Sequence[IntArray], instruction: IntArray, text: bool = True, width: int = 0
) -> Prompts:
    """Prompts of item rows.

    Args:
        lexicon: The catalogue in tokens.
        rows: Items of each prompt, int (n,), oldest first.
        instruction: Tokens in front.
        text: Whether titles are written; otherwise an item is its behaviour token alone.
        width: T at least.
    """
    counts = np.array([len(row) for row in rows], np.int64)
    items = np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64)
    # Each item's tokens side by side, (items, W + 1): the title, then the end, then holes.
    title = lexicon.titles[items] if text else np.full((len(items), 1), NOTHING, np.int32)
    tokens = np.concatenate([title, np.full((len(items), 1), NOTHING, np.int32)], axis=1)
    last = (title >= 0).sum(axis=1)
    tokens[np.arange(len(items)), last] = lexicon.end
    sizes = last + 1
    starts = np.concatenate([[0], np.cumsum(sizes)])
    row_of = np.repeat(np.arange(len(rows)), counts)
    first = np.concatenate([[0], np.cumsum(counts)])
    head = len(instruction)
    place = np.arange(starts[-1]) - np.repeat(starts[first[:-1]][row_of], sizes) + head
    row_of_token = np.repeat(row_of, sizes)
    lengths = head + starts[first[1:]] - starts[first[:-1]]
    width = max(int(lengths.max(initial=1)), width)

    ids = np.full((len(rows), width), lexicon.end, np.int64)
    item, owner = np.full_like(ids, NOTHING), np.full_like(ids, NOTHING)
    ids[:, :head] = instruction
    ids[row_of_token, place] = tokens[tokens >= 0]
    owner[row_of_token, place] = np.repeat(np.arange(len(items)) - first[:-1][row_of], sizes)
    slots = starts[1:] - 1
    item[row_of, place[slots]] = items
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    return Prompts(*(torch.from_numpy(array) for array in (ids, item, owner, mask, counts)))


def history_rows(history: IntArray, n_items: int, length: int) -> list[IntArray]:
    """The latest items of each history (N, L), which is padded with ``n_items``."""
    return [row[row < n_items][-length:] for row in history]


def scratch_tokenizer(titles: Sequence[str], spelled: bool, pieces: int) -> Any:
    """A vocabulary for a decoder from scratch: each title is one token, or only pieces of words are."""
    corpus = sorted(set(titles))
    if spelled:
        return make_tokenizer((), (), word_pieces(corpus, pieces), MAX_LENGTH)
    return make_tokenizer((), corpus, word_pieces((), 0), MAX_LENGTH)


def hub_tokenizer(name: str, revision: str) -> Any:
    """The tokenizer of a Hugging Face folder or hub name.

    Raises:
        EngineError: If there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(local_model(name), revision=revision or None)
    except (OSError, ValueError) as error:
        raise cannot_load(name, error) from None


def make_lexicon(tokenizer: Any, titles: Sequence[str], limit: int, scratch: bool) -> Lexicon:
    """The catalogue in tokens.

    Args:
        tokenizer: A tokenizer of the package transformers.
        titles: Titles (I,); equal ones share their tokens. Line breaks in them become blanks.
        limit: Tokens of a title at most.
        scratch: Instructions are one token each and titles end with a token of their own; otherwise instructions are
            words, and titles end with their line.

    Raises:
        EngineError: If the tokenizer has no single token for the end of a line.
    """

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    start = [] if scratch or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    user, item, end = (encode(text) for text in (SCRATCH_WORDS if scratch else HUB_WORDS))
    if len(end) != 1:
        raise cannot_load(tokenizer.name_or_path, ValueError("Its tokenizer has no token for the end of a line."))
    cut = [encode(" ".join(title.split()))[:limit] for title in titles]
    width = max([1, *map(len, cut)])
    padded = np.array([tokens + [NOTHING] * (width - len(tokens)) for tokens in cut], np.int32).reshape(-1, width)
    return Lexicon(padded, np.array(start + user, np.int32), np.array(start + item, np.int32), end[0])
