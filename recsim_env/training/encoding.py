"""From examples to trees of tokens, exactly the tokens that the engines would give the same prompts."""

from __future__ import annotations

import os.path
from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np

from recsim_env.engine.base import ChatTokenizer
from recsim_env.engine.prefixes import common_prefix
from recsim_env.records import IntArray
from recsim_env.training.examples import Example
from recsim_env.training.packing import Branch, Tree

CHECKED = 24
"""Prompts on which it is checked whether a tokenizer may be given a prompt in two parts."""


class Encoder:
    """Turns examples into trees.

    Prompts of one group begin alike, so their beginning is tokenized once, cut at a blank line; and ends of prompts
    (an item with its question) come again for many users and are kept. That is exact for tokenizers that never join
    tokens over a blank line; the first prompts are checked, and where a tokenizer does, prompts are tokenized whole.

    Args:
        chat: The tokenizer.
        limit: Longest prompt with its answer, in tokens; a longer one is an error of the settings.
    """

    def __init__(self, chat: ChatTokenizer, limit: int) -> None:
        self.chat, self.limit = chat, limit
        self._in_parts, self._checked = True, 0
        self._cached = lru_cache(maxsize=65536)(self._tokens)
        self._end = [int(chat.tokenizer.eos_token_id)]

    def trees(self, examples: Sequence[Example]) -> list[Tree]:
        """Trees of all examples, in the order of their groups' first members."""
        groups: dict[Hashable, list[Example]] = {}
        for example in examples:
            groups.setdefault(example.group, []).append(example)
        return [self._tree(members) for members in groups.values()]

    def _tree(self, members: list[Example]) -> Tree:
        texts = [self._text(example) for example in members]
        common = os.path.commonprefix(texts)  # noqa: RUF071 - strings, not paths
        cut = common.rfind("\n\n", 0, min(map(len, texts)) - 1) + 2 if self._in_parts else 0
        if self._in_parts and self._checked < CHECKED:
            self._check(texts[:2], cut if cut > 1 else 0)
        if not self._in_parts or cut < 2:
            whole = [self._tokens(text) for text in texts]
            stem = common_prefix(whole) if len(whole) > 1 else 0
            ends = [ids[stem:] for ids in whole]
            first = whole[0][:stem]
        else:
            first = self._tokens(texts[0][:cut])
            ends = [self._cached(text[cut:]) for text in texts]
        tree = Tree(np.array(first, np.int64), tuple(map(self._branch, members, ends)))
        longest = len(tree.stem) + max(len(branch.ids) for branch in tree.branches)
        if longest > self.limit:
            raise ValueError(f"a prompt with its answer has {longest} tokens, the model's limit is {self.limit}")
        return tree

    def _check(self, texts: list[str], cut: int) -> None:
        self._checked += len(texts)
        for text in texts:
            if self._tokens(text[:cut]) + self._tokens(text[cut:]) != self._tokens(text):
                self._in_parts = False

    def _text(self, example: Example) -> str:
        text: str = self.chat.tokenizer.apply_chat_template(
            [dict(message) for message in example.messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        return text

    def _tokens(self, text: str) -> list[int]:
        return list(self.chat.tokenizer.encode(text, add_special_tokens=False))

    def _branch(self, example: Example, end: list[int]) -> Branch:
        none: IntArray = np.empty(0, np.int64)
        if isinstance(example.target, str):
            written = np.array(self._cached(example.target) + self._end, np.int64)
            ids = np.concatenate([np.array(end, np.int64), written[:-1]])
            return Branch(ids, example.purpose, none, np.empty(0), written, example.weight)
        options = np.array(self.chat.options(example.options), np.int64)
        return Branch(np.array(end, np.int64), example.purpose, options, example.target, none, example.weight)
