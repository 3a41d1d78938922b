"""Ways to rank: the catalogue by two towers, candidates by their titles' likelihoods, one title by greedy writing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from recsim_env.recommenders.rsllm.model import UnifiedModel, pool
from recsim_env.recommenders.rsllm.prompts import Lexicon, Prompts, lay_out
from recsim_env.recommenders.rsllm.train import item_states
from recsim_env.records import FloatArray, IntArray

ROWS, STEP = 32, 32
"""Passes have so many rows and a multiple of so many tokens, whoever is served: a matrix product of another shape
rounds differently, and a user's scores must not depend on who is served beside."""
ITEMS = 512
"""Items whose vectors are computed at once."""
USERS = 8
"""Users whose candidates are scored at once."""
Form = Literal["sum", "mean", "pmi"]


@torch.no_grad()
def item_vectors(model: UnifiedModel, lexicon: Lexicon, text: bool) -> NDArray[np.float32]:
    """Unit vectors of all items, v_T, float32 (I, d). They depend on nothing but the model: compute them once."""
    parts = [
        functional.normalize(item_states(model, lexicon, items, text), dim=-1).cpu().numpy()
        for items in np.array_split(np.arange(len(lexicon.titles)), max(1, -(-len(lexicon.titles) // ITEMS)))
    ]
    return np.concatenate(parts).astype(np.float32)


@torch.no_grad()
def user_vectors(
    model: UnifiedModel, lexicon: Lexicon, rows: Sequence[IntArray], text: bool, pooling: str
) -> NDArray[np.float32]:
    """Unit vectors of users by their histories, v_U, float32 (N, d); one pass each, zeros without a history."""
    found = np.zeros((len(rows), model.placeholder.shape[0]), np.float32)
    for part, width in _alike(lexicon, rows, text):
        found[part] = user_states(model, lexicon, [rows[i] for i in part], text, pooling, width).cpu().numpy()
    return found


def user_states(
    model: UnifiedModel, lexicon: Lexicon, rows: Sequence[IntArray], text: bool, pooling: str, width: int = 0
) -> Tensor:
    """Unit vectors of users who have a history, float (N, d), with gradients; one pass for all."""
    prompts = lay_out(lexicon, rows, lexicon.user, text, width).to(model.device)
    pooled = pool(model(prompts), prompts, pooling).history
    return functional.normalize(pooled[torch.arange(len(rows)), prompts.n_items - 1], dim=-1)


def _alike(lexicon: Lexicon, rows: Sequence[IntArray], text: bool) -> Iterator[tuple[IntArray, int]]:
    """Rows that have items, ROWS at a time (some repeated, to make them so many), and a width that fits them."""
    title = lexicon.lengths + 1 if text else np.ones(len(lexicon.titles), np.int64)
    lengths = np.array([len(lexicon.user) + int(title[row].sum()) if len(row) else 0 for row in rows])
    widths = -(-lengths // STEP) * STEP
    for width in np.unique(widths[widths > 0]):
        alike = np.flatnonzero(widths == width)
        for start in range(0, len(alike), ROWS):
            yield alike[(start + np.arange(ROWS)) % len(alike)], int(width)


@torch.no_grad()
def log_likelihoods(
    model: UnifiedModel, lexicon: Lexicon, rows: Sequence[IntArray], candidates: IntArray
) -> NDArray[np.float32]:
    """Log-likelihoods of candidates' titles after the users' prompts, with their ends where titles need one.

    A prompt is computed once; its keys and values are repeated for all of its candidates.

    Args:
        model: The model; it must have learned titles.
        lexicon: The catalogue in tokens.
        rows: Histories of N users.
        candidates: int (N, M), items.

    Returns:
        float32 (N, M), nats.
    """
    m = candidates.shape[1]
    prompts, hidden, cache = _prefill(model, lexicon, rows)
    titles = torch.from_numpy(lexicon.titles[candidates].astype(np.int64)).to(model.device)  # (N, M, W)
    if not lexicon.ends:  # one token: the prompt's own prediction says all
        return model.logits(hidden).log_softmax(dim=1).gather(1, titles[:, :, 0]).cpu().numpy()
    titles = titles.flatten(0, 1)
    lengths = (titles >= 0).sum(dim=1)
    titles = titles[:, : max(1, int(lengths.max()))]
    cache.batch_repeat_interleave(m)
    states = _continue(model, prompts, cache, m, titles.clamp(min=0), titles >= 0)
    states = torch.cat([hidden.repeat_interleave(m, dim=0)[:, None], states], dim=1)
    wanted = torch.cat([titles, titles.new_full((len(titles), 1), -1)], dim=1)
    wanted[torch.arange(len(wanted)), lengths] = lexicon.end
    counted = wanted >= 0
    scores = torch.zeros(wanted.shape, device=model.device)
    scores[counted] = -functional.cross_entropy(model.logits(states[counted]), wanted[counted], reduction="none")
    return scores.sum(dim=1).view(len(rows), m).cpu().numpy()


def candidate_scores(
    model: UnifiedModel, lexicon: Lexicon, rows: Sequence[IntArray], candidates: IntArray, form: Form = "pmi",
    prior: FloatArray | None = None,
) -> NDArray[np.float32]:  # fmt: skip
    """Scores of candidates by likelihood, float32 (N, M); every answer is one of them.

    Args:
        model: The model.
        lexicon: The catalogue in tokens.
        rows: Histories of N users.
        candidates: int (N, M), items.
        form: ``sum`` of the tokens' log-probabilities, ``mean`` over them, or ``pmi``: the sum less ``prior``, what the
            title has without a history (pointwise mutual information, up to a constant of the user).
        prior: float32 (I,), see :func:`prior_log_likelihoods`; needed for ``pmi``.
    """
    parts = [
        log_likelihoods(model, lexicon, rows[i : i + USERS], candidates[i : i + USERS])
        for i in range(0, len(rows), USERS)
    ]
    found = np.concatenate(parts)
    if form == "mean":
        tokens = lexicon.lengths[candidates] + int(lexicon.ends)
        return np.asarray(found / tokens, np.float32)
    if form == "pmi":
        assert prior is not None, "pmi needs the titles' prior log-likelihoods"
        return np.asarray(found - prior[candidates], np.float32)
    return found


def prior_log_likelihoods(model: UnifiedModel, lexicon: Lexicon) -> NDArray[np.float32]:
    """Log-likelihood of every title after the bare instruction, float32 (I,)."""
    everything = np.arange(len(lexicon.titles))
    nobody = [np.zeros(0, np.int64)]
    parts = [
        log_likelihoods(model, lexicon, nobody, everything[None, i : i + ITEMS])[0]
        for i in range(0, len(everything), ITEMS)
    ]
    return np.concatenate(parts)


class Trie:
    """Titles as paths of tokens.

    Args:
        lexicon: The catalogue in tokens.
        items: Items that may be written. Of equal titles the first is meant.
    """

    def __init__(self, lexicon: Lexicon, items: IntArray) -> None:
        self._next: list[dict[int, int]] = [{}]
        self._item: dict[int, int] = {}
        for item in np.asarray(items).tolist():
            node = 0
            for token in [*lexicon.titles[item][lexicon.titles[item] >= 0].tolist(), lexicon.end]:
                if token not in self._next[node]:
                    self._next[node][token] = len(self._next)
                    self._next.append({})
                node = self._next[node][token]
            self._item.setdefault(node, item)

    def options(self, node: int) -> list[int]:
        """Tokens that may follow at a node; the root is 0."""
        return list(self._next[node])

    def step(self, node: int, token: int) -> int:
        """The node behind a token that may follow."""
        return self._next[node][token]

    def item(self, node: int) -> int | None:
        """The item that is written out at a node, or None."""
        return self._item.get(node)


@torch.no_grad()
def write_titles(model: UnifiedModel, lexicon: Lexicon, rows: Sequence[IntArray], tries: Sequence[Trie]) -> IntArray:
    """Greedy writing of one title per user, confined to a trie.

    Fails closed: where the trie has nothing to write, or the model's numbers are none, there is no item.

    Args:
        model: The model.
        lexicon: The catalogue in tokens.
        rows: Histories of N users.
        tries: What each may be told.

    Returns:
        Items int64 (N,), ``I`` where there is none.
    """
    nothing = len(lexicon.titles)
    found = np.full(len(rows), nothing, np.int64)
    prompts, hidden, cache = _prefill(model, lexicon, rows)
    nodes, alive = [0] * len(rows), np.ones(len(rows), np.bool_)
    there = torch.zeros(len(rows), 0, dtype=torch.bool, device=model.device)
    while True:
        logits = model.logits(hidden).cpu().numpy()
        chosen = np.full(len(rows), lexicon.end, np.int64)
        for i in np.flatnonzero(alive):
            options = tries[i].options(nodes[i])
            scores = logits[i, options]
            if not options or not np.isfinite(scores).any():
                alive[i] = False
                continue
            chosen[i] = options[int(np.nanargmax(scores))]
            nodes[i] = tries[i].step(nodes[i], int(chosen[i]))
            item = tries[i].item(nodes[i])
            if item is not None:
                found[i], alive[i] = item, False
        if not alive.any():
            return found
        there = torch.cat([there, torch.from_numpy(alive).to(model.device)[:, None]], dim=1)
        hidden = _continue(model, prompts, cache, 1, torch.from_numpy(chosen).to(model.device)[:, None], there)[:, -1]


def _prefill(model: UnifiedModel, lexicon: Lexicon, rows: Sequence[IntArray]) -> tuple[Prompts, Tensor, Any]:
    """Prompts of histories, the state of each one's last token (N, d), and keys and values."""
    prompts = lay_out(lexicon, rows, lexicon.user).to(model.device)
    out = model.language.get_decoder()(inputs_embeds=model.embed(prompts), use_cache=True)
    last = prompts.mask.sum(dim=1) - 1
    return prompts, out.last_hidden_state[torch.arange(len(rows)), last], out.past_key_values


def _continue(model: UnifiedModel, prompts: Prompts, cache: Any, times: int, ids: Tensor, there: Tensor) -> Tensor:
    """States of tokens ids (R, w) after prompts that were repeated ``times``, and after earlier pieces.

    ``there`` bool (R, W) says which of all tokens after the prompts are real; the last w are ``ids``.
    """
    before = prompts.mask.repeat_interleave(times, dim=0)
    mask = torch.cat([before, there.long()], dim=1)
    # Padding stands between a prompt and its continuation: the mask hides it, and positions pass over it.
    start = before.sum(dim=1, keepdim=True) + there.shape[1] - ids.shape[1]
    positions = start + torch.arange(ids.shape[1], device=ids.device)
    states: Tensor = model.language.get_decoder()(
        inputs_embeds=model.language.get_input_embeddings()(ids), attention_mask=mask, position_ids=positions,
        past_key_values=cache, use_cache=True,
    ).last_hidden_state  # fmt: skip
    return states
