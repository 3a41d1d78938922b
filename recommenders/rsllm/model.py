"""The language model that reads titles and behaviour tokens, as both towers and as a writer of titles."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recsim_env.errors import MissingDependencyError
from recsim_env.lm.backbone import load_model, scratch_model
from recsim_env.recommenders.rsllm.config import SCRATCH, RSLLMConfig
from recsim_env.recommenders.rsllm.prompts import Prompts
from recsim_env.records import FloatArray, IntArray

LOWEST_TAU, HIGHEST_TAU = 0.01, 1.0


class UnifiedModel(nn.Module):
    """A causal language model with a projector for items' embeddings.

    ``Linear(e, d) -> GELU -> Linear(d, d)`` takes an item's embedding e_i, which is frozen, to the width d of the
    language model; the result gets the root mean square of the model's own token embeddings, so that it looks like a
    word. While :attr:`unified` is False (stage 1) a learned placeholder stands in every behaviour token's place.

    Args:
        language: A causal language model of the package transformers.
        embeddings: float32 (I, e), the items' embeddings.
        end: The end-of-title token, where the placeholder starts from.
        tau: Temperature at the start.
        dropout: Of the inputs and of what the layers add.
        tokens: int64 (t,), the tokens that the language modelling's soft-max is over; None is all.
    """

    def __init__(
        self, language: Any, embeddings: FloatArray, end: int, tau: float, dropout: float, tokens: IntArray | None
    ) -> None:
        super().__init__()
        self.language = language
        self.dropout, self.unified = dropout, False
        words = language.get_input_embeddings().weight
        width = words.shape[1]
        self.projector = nn.Sequential(nn.Linear(embeddings.shape[1], width), nn.GELU(), nn.Linear(width, width))
        self.placeholder = nn.Parameter(words[end].detach().float().clone())
        self.log_tau = nn.Parameter(torch.tensor(float(np.log(tau))))
        spread = float(np.sqrt(np.mean(np.square(embeddings)))) or 1.0
        self.items: Tensor
        self.scale: Tensor
        self.outside: Tensor
        self.confined = tokens is not None
        self.register_buffer("items", torch.from_numpy(np.asarray(embeddings / spread, np.float32)))
        self.register_buffer("scale", words.detach().float().square().mean().sqrt())
        outside = torch.full((words.shape[0],), tokens is not None)
        if tokens is not None:
            outside[torch.from_numpy(tokens)] = False
        self.register_buffer("outside", outside)
        for layer in getattr(language.get_decoder(), "layers", ()) if dropout else ():
            for name in ("self_attn", "mlp"):
                getattr(layer, name).register_forward_hook(self._drop_output)

    @property
    def tau(self) -> Tensor:
        """The contrasts' temperature, a scalar in [0.01, 1]."""
        return self.log_tau.exp().clamp(LOWEST_TAU, HIGHEST_TAU)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.placeholder.device

    def unify(self) -> None:
        """Begins stage 2: behaviour tokens are the projected embeddings, as large as words are by now."""
        self.unified = True
        self.scale.copy_(self.language.get_input_embeddings().weight.detach().float().square().mean().sqrt())

    def behaviour(self, items: Tensor) -> Tensor:
        """Behaviour tokens float (n, d) of items int64 (n,)."""
        if not self.unified:
            return self.placeholder.expand(len(items), -1)
        projected: Tensor = self.projector(self.items[items])
        return functional.rms_norm(projected.float(), projected.shape[-1:]) * self.scale

    def embed(self, prompts: Prompts) -> Tensor:
        """Input embeddings, float (B, T, d): words, with the behaviour tokens scattered into their places."""
        words: Tensor = self.language.get_input_embeddings()(prompts.ids)
        slots = torch.nonzero(prompts.item >= 0, as_tuple=True)
        placed = words.index_put(slots, self.behaviour(prompts.item[slots]).to(words.dtype))
        return functional.dropout(placed, self.dropout, self.training)

    def forward(self, prompts: Prompts) -> Tensor:
        """Last states, float (B, T, d). Rows are padded at the end, where causal attention does not look."""
        states: Tensor = self.language.get_decoder()(
            inputs_embeds=self.embed(prompts), use_cache=False
        ).last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Logits of the next token, float32 (..., V), of states (..., d)."""
        found: Tensor = self.language.get_output_embeddings()(states).float()
        return found.masked_fill(self.outside, -torch.inf) if self.confined else found

    def _drop_output(self, module: Any, inputs: Any, output: Any) -> Any:
        if not self.training:
            return None
        if isinstance(output, tuple):
            return (functional.dropout(output[0], self.dropout), *output[1:])
        return functional.dropout(output, self.dropout)


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """States of the items of each row; B rows of n items.

    Attributes:
        item: float (B, n, d), mean of the states of the item's own tokens, which know what stands before.
        history: float (B, n, d), the user's vector after this item.
    """

    item: Tensor
    history: Tensor


def pool(states: Tensor, prompts: Prompts, pooling: str) -> Pooled:
    """Means of states (B, T, d) over the tokens of each item, and over those of all items up to it."""
    n = max(1, int(prompts.n_items.max()))
    own = (prompts.owner[:, None, :] == torch.arange(n, device=states.device)[:, None]).float()
    sums, counts = own @ states.float(), own.sum(dim=2, keepdim=True)
    item = sums / counts.clamp(min=1)
    if pooling == "last":
        return Pooled(item, item)
    return Pooled(item, sums.cumsum(dim=1) / counts.cumsum(dim=1).clamp(min=1))


def make_model(
    config: RSLLMConfig, vocabulary: Any, embeddings: FloatArray, end: int, tokens: IntArray, seed: int
) -> UnifiedModel:
    """The model, before it is trained.

    Args:
        config: The settings.
        vocabulary: What has ``eos_token_id``, ``pad_token_id`` and a length; used from scratch only.
        embeddings: float32 (I, e), the items' embeddings.
        end: The end-of-title token.
        tokens: int64 (t,), the tokens that occur in titles.
        seed: Of the random weights.

    Raises:
        EngineError: If the backbone cannot be loaded.
        MissingDependencyError: If LoRA is wanted and peft is not installed.
    """
    scratch = config.backbone == SCRATCH
    only = tokens if config.mask_titles else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if scratch:
            language = scratch_model(config.size, vocabulary, seed)
        else:
            small = torch.cuda.is_available() and config.lora_rank > 0 and config.device != "cpu"
            language = load_model(config.backbone, config.revision, torch.bfloat16 if small else torch.float32)
        if not scratch and config.lora_rank:
            add_lora(language, config.lora_rank, config.dropout)
        if config.recompute:
            language.gradient_checkpointing_enable({"use_reentrant": False})
        return UnifiedModel(language, embeddings, end, config.tau, config.dropout if scratch else 0.0, only)


def add_lora(language: Any, rank: int, dropout: float) -> None:
    """LoRA (Hu et al., ICLR 2022) on all linear layers, in place, with LLaRA's alpha of four times the rank.

    Raises:
        MissingDependencyError: If peft is not installed.
    """
    if find_spec("peft") is None:
        raise MissingDependencyError(
            f"LoRA (lora_rank {rank})", "peft", "pip install 'recsim-env[llm-rl]'", "train all weights: lora_rank 0"
        )
    peft: Any = import_module("peft")
    peft.get_peft_model(
        language,
        peft.LoraConfig(
            r=rank, lora_alpha=4 * rank, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
