"""The conversational recommender as a policy over tokens: the plan that it writes when somebody speaks.

The engine of the scenario writes (transformers, or vLLM in batches); a copy of its model learns, whole or by LoRA, and
hands its weights over after every iteration. Tokens have the probabilities with which they were drawn: at the
recommender's ``words_temperature``, among those that fit the JSON schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsim_env.draws import Draws
from recsim_env.engine import constrain
from recsim_env.engine.base import ChatTokenizer, local_model, stop_tokens
from recsim_env.errors import EngineError, ScenarioError
from recsim_env.interfaces import Recommender
from recsim_env.lm.backbone import add_lora, device_of, load_model, merged_weights, trainable, write_model
from recsim_env.recommenders.conversational import Conversational
from recsim_env.records import ObservationBatch, SlateBatch
from recsim_env.training.rollout import TokenPolicy, Utterance

WIDTH = 16
"""Utterances of one forward pass at most."""


class DialogueTokens(TokenPolicy):
    """See the module.

    Args:
        policy: The recommender, with its engine.
        lora_rank: Rank of LoRA; 0 trains all weights.
        seed: Of LoRA's weights.

    Raises:
        EngineError: If the engine cannot be given other weights.
        ScenarioError: If the recommender writes without chance.
    """

    ranks = False

    def __init__(self, policy: Recommender, lora_rank: int, seed: int) -> None:
        assert isinstance(policy, Conversational)
        assert policy.engine is not None
        self.recommender, self._policy = policy, policy
        if policy.config.words_temperature == 0:
            raise ScenarioError("conversational: to be trained it writes with words_temperature above 0.")
        if not policy.engine.takes_weights:
            raise EngineError(
                f"{type(policy.engine).__name__} cannot be given other weights. Set engine.name: transformers, or vllm."
            )
        name, config = policy.engine.model, policy.engine.config
        revision = str(getattr(config, "revision", ""))
        # An engine of its own: whoever else asks the scenario's, users say, goes on with the model as it was.
        policy.engine = type(policy.engine)(config)
        self._engine = policy.engine
        self._chat = ChatTokenizer.load(name, revision)
        self.tokenizer = self._chat.tokenizer
        device = device_of(str(getattr(config, "device", "auto")))
        self.model = load_model(local_model(name), revision, torch.float32).to(device).eval()
        if lora_rank:
            add_lora(self.model, lora_rank, seed)
        self.weights = dict(trainable(self.model))
        self._grammars: Any = None
        if constrain.available():
            size = int(self.model.get_output_embeddings().weight.shape[0])
            self._grammars = constrain.Grammars(self.tokenizer, size, stop_tokens(self.model, self.tokenizer))
        policy.write_language = lambda folder: write_model(self.model, self.tokenizer, folder)

    def speak(self, obs: ObservationBatch, slate_size: int, draws: Draws) -> tuple[SlateBatch, list[Utterance | None]]:
        """Slates, and the plans of those who were answered. Slates have the same luck in all sessions of a group."""
        policy = self._policy
        policy.word_seed = draws.seed
        slate = policy.recommend(obs, slate_size, Draws(0))
        policy.word_seed = None
        users = obs.user_index.tolist()
        asked = [(row, policy.plans[user]) for row, user in enumerate(users) if user in policy.plans]
        prompts = self._chat.prompts([one.request.messages for _, one in asked])
        said: list[Utterance | None] = [None] * obs.n
        spoken = []
        for (row, one), prompt in zip(asked, prompts, strict=True):
            ids = one.reply.token_ids
            words = Utterance(prompt, ids, np.zeros(len(ids)), np.full(len(ids), -1), one.request.schema)
            said[row] = words
            spoken.append(words)
        if spoken:
            with torch.no_grad():
                told, _ = self.log_probs(spoken)
            for words, chances in zip(spoken, told.cpu().numpy(), strict=True):
                words.log_prob[:] = chances[: len(words.tokens)]
        return slate, said

    def log_probs(self, said: Sequence[Utterance]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the plans' tokens among those that fitted, and entropies."""
        width = max(len(words.tokens) for words in said)
        parts = [self._log_probs(said[start : start + WIDTH], width) for start in range(0, len(said), WIDTH)]
        log_prob, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
        return log_prob, entropy

    def _log_probs(self, said: Sequence[Utterance], width: int) -> tuple[Tensor, Tensor]:
        device = self.model.device
        lines = [[*words.prompt, *words.tokens] for words in said]
        longest = max(map(len, lines))
        ids = torch.tensor([line + [line[-1]] * (longest - len(line)) for line in lines], device=device)
        states = self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        rows = torch.tensor([i for i, words in enumerate(said) for _ in words.tokens], device=device)
        place = [len(words.prompt) + j for words in said for j in range(len(words.tokens))]
        places = torch.tensor(place, device=device)
        logits = self.model.get_output_embeddings()(states[rows, places - 1]).float()
        logits = logits / self._policy.config.words_temperature
        if self._grammars is not None:
            allowed = [self._grammars.allowed(words.source, words.tokens) for words in said if words.source is not None]
            if allowed:
                logits = logits.masked_fill(~torch.cat(allowed).to(device), -torch.inf)
        chances = logits.log_softmax(dim=1)
        column = torch.tensor([j for words in said for j in range(len(words.tokens))], device=device)
        log_prob = torch.zeros(len(said), width, device=device)
        log_prob = log_prob.index_put((rows, column), chances.gather(1, ids[rows, places][:, None])[:, 0])
        spread = -(chances.exp() * chances.masked_fill(chances == -torch.inf, 0.0)).sum(dim=1).detach()
        return log_prob, torch.zeros_like(log_prob).index_put((rows, column), spread)

    def settle(self) -> None:
        """Hands the weights over to whoever writes."""
        self._engine.set_weights(merged_weights(self.model))
