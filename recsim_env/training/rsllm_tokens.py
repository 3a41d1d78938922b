"""RSLLM as a policy over tokens: every item of a slate is one token, its own behaviour token.

What is trained is the policy as it serves: Plackett-Luce over SASRec's log-probabilities fused with those of the two
towers. SASRec and the items' vectors stay as they are; the user's vector, and with it the language model (or its LoRA)
and the projector, learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.interfaces import Recommender
from recsim_env.lm.backbone import trainable
from recsim_env.recommenders.rsllm import rank
from recsim_env.recommenders.rsllm.prompts import history_rows, scratch_tokenizer
from recsim_env.recommenders.rsllm.recommender import RSLLM
from recsim_env.recommenders.slate_policy import slate_log_prob
from recsim_env.records import BoolArray, Catalog, FloatArray, IntArray, ObservationBatch, SlateBatch
from recsim_env.training.rollout import TokenPolicy, Utterance
from recsim_env.training.rows import allowed_items


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What the probabilities of a slate depend on, beside the weights.

    Attributes:
        history: int (n,), items of the prompt.
        conventional: float32 (I,), SASRec's log-probabilities.
        wish: float32 (I,), what the user's words add to the standardised scores.
        allowed: bool (I,), what may be shown.
        items: int64 (K,), what was shown, ``I`` where nothing was left.
    """

    history: IntArray
    conventional: FloatArray
    wish: FloatArray
    allowed: BoolArray
    items: IntArray


class RSLLMTokens(TokenPolicy):
    """See the module. Users without a history see popular items, which no weight decides: nothing is said to them.

    Raises:
        ScenarioError: If the slate does not depend on the language model, or not by chance.
    """

    ranks = True

    def __init__(self, policy: Recommender, catalog: Catalog) -> None:
        assert isinstance(policy, RSLLM)
        self.recommender, self._policy, c = policy, policy, policy.config
        if policy.fusion_weight == 0:
            raise ScenarioError(
                "rsllm: fusion_weight is 0, so its language model decides nothing that could be trained. Set it, for "
                "example to 1: {name: rsllm, fusion_weight: 1}."
            )
        if c.temperature == 0 or c.epsilon > 0:
            raise ScenarioError("rsllm: to be trained it draws slates with a temperature above 0 and epsilon 0.")
        policy.model.eval()  # no dropout: a policy whose odds change between two looks has no ratios
        self.model = policy.model.language
        unread = {"log_tau"} if c.channels == "text" else {"log_tau", "placeholder"}
        self.weights = {name: weight for name, weight in trainable(policy.model) if name not in unread}
        names = [f"{number:07d} {title}" for number, title in enumerate(catalog.title)]
        self.tokenizer = scratch_tokenizer(names, spelled=False, pieces=0)
        self._tokens = np.array([self.tokenizer.encode(name, add_special_tokens=False)[0] for name in names])
        self._vectors = torch.from_numpy(policy.item_vectors).to(policy.model.device)

    def speak(self, obs: ObservationBatch, slate_size: int, draws: Draws) -> tuple[SlateBatch, list[Utterance | None]]:
        """Slates as the recommender serves them; the tokens are its items, the prompt those of the history."""
        policy = self._policy
        slate = policy.recommend(obs, slate_size, draws)
        rows = history_rows(obs.history, policy.n_items, policy.config.history)
        conventional, allowed = policy.conventional(obs.history), allowed_items(obs, policy)
        wish = np.broadcast_to(policy.wished(obs, np.arange(policy.n_items)), conventional.shape)
        said: list[Utterance | None] = []
        for i, history in enumerate(rows):
            shown = np.flatnonzero(slate.items[i] < policy.n_items)
            if not len(history) or not shown.size:
                said.append(None)
                continue
            seen = _Seen(history, conventional[i], wish[i], allowed[i], slate.items[i].astype(np.int64))
            items, chances = slate.items[i, shown], np.log(slate.propensity[i, shown])
            said.append(Utterance(self._tokens[history].tolist(), self._tokens[items].tolist(), chances, shown, seen))
        return slate, said

    def log_probs(self, said: Sequence[Utterance]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of each slate's items given the earlier ones; entropies are of the first position."""
        policy, device = self._policy, self._vectors.device
        c, seen = policy.config, [words.source for words in said]

        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(one, name) for one in seen])).to(device)

        conventional, wish, allowed, items = map(stacked, ("conventional", "wish", "allowed", "items"))
        users = rank.user_states(policy.model, policy.lexicon, [s.history for s in seen], c.channels != "id", c.pooling)
        towers = (users @ self._vectors.T / policy.model.tau.detach()).log_softmax(dim=1)
        scores = standardised(conventional + policy.fusion_weight * towers, allowed) + wish
        logits = scores.masked_fill(~allowed, -torch.inf) / c.temperature
        first = logits.log_softmax(dim=1)
        entropy = -(first.exp() * first.masked_fill(~allowed, 0.0)).sum(dim=1)
        found = slate_log_prob(logits, items)
        return found, entropy.detach()[:, None].expand_as(found)


def standardised(scores: Tensor, allowed: Tensor) -> Tensor:
    """:func:`recsim_env.recommenders.sampling.standardise` with gradients."""
    count = allowed.sum(dim=1, keepdim=True).clamp(min=1)
    mean = scores.masked_fill(~allowed, 0.0).sum(dim=1, keepdim=True) / count
    kept = (scores - mean).masked_fill(~allowed, 0.0)
    return kept / (kept.square().sum(dim=1, keepdim=True) / count).sqrt().clamp(min=1e-12)
