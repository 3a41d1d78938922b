"""Token by token under a JSON schema, with the optional package xgrammar; a thin wrapper.

Source: Dong et al., "XGrammar: Flexible and Efficient Structured Generation Engine for Large Language Models", 2024.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor


def available() -> bool:
    """Whether xgrammar is installed."""
    return find_spec("xgrammar") is not None


class Grammars:
    """Compiled schemas of one tokenizer.

    Args:
        tokenizer: A tokenizer of the package transformers.
        vocabulary: Number of logits, which may be more than the tokenizer's tokens.
        stop: Token ids that end a reply.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, stop: list[int]) -> None:
        xgrammar: Any = import_module("xgrammar")
        self._xgrammar, self.vocabulary = xgrammar, vocabulary
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary, stop_token_ids=stop)
        self._compiler = xgrammar.GrammarCompiler(info)
        self._compiled: dict[str, Any] = {}

    def matcher(self, schema: Mapping[str, Any]) -> Any:
        """The state of one reply; white space is fixed, or a model may fill its budget with line breaks."""
        text = json.dumps(schema)
        if text not in self._compiled:
            self._compiled[text] = self._compiler.compile_json_schema(text, any_whitespace=False)
        return self._xgrammar.GrammarMatcher(self._compiled[text])

    def allowed(self, schema: Mapping[str, Any], tokens: Sequence[int]) -> Tensor:
        """Which tokens could have come at each place of a reply, bool (w, vocabulary).

        Args:
            schema: What the reply fits.
            tokens: The w tokens of the reply.
        """
        matcher = self.matcher(schema)
        mask = self._xgrammar.allocate_token_bitmask(len(tokens), self.vocabulary)
        for place, token in enumerate(tokens):
            matcher.fill_next_token_bitmask(mask, place)
            matcher.accept_token(token)
        bits = (mask[:, :, None] >> torch.arange(32, dtype=torch.int32)) & 1
        return bits.flatten(1)[:, : self.vocabulary].bool()

    def restrict(self, logits: Tensor, matchers: list[Any]) -> None:
        """Sets the logits of tokens that cannot come next to minus infinity, in place.

        Args:
            logits: float32 (B, vocabulary).
            matchers: The B replies' states, None where anything goes.
        """
        mask = self._xgrammar.allocate_token_bitmask(len(matchers), self.vocabulary)
        rows = [i for i, m in enumerate(matchers) if m is not None and not m.is_terminated()]
        for i in rows:
            matchers[i].fill_next_token_bitmask(mask, i)
        if rows:
            self._xgrammar.apply_token_bitmask_inplace(logits, mask.to(logits.device), indices=rows)
