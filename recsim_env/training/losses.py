"""Forward passes over packed prompts, and the loss of their answers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recsim_env.errors import EngineError
from recsim_env.training.packing import Batch


@dataclass(frozen=True, slots=True)
class Losses:
    """Loss of a batch.

    Attributes:
        total: Weighted mean over its answers, float32 (), with its gradient.
        weight: Sum of the weights.
        parts: Weighted sum and weight by purpose.
    """

    total: Tensor
    weight: float
    parts: dict[str, tuple[float, float]]


class Packed:
    """A causal language model of the package transformers that takes packed prompts.

    Args:
        model: The model. Its decoder must take a four-dimensional mask and position ids, as decoders in the shape of
            Llama and Qwen do; the first use compares with the model's own pass and refuses one that does not.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()

    def hidden(self, batch: Batch, dropout: Dropout | None = None) -> Tensor:
        """Last hidden states, float (B * T, width)."""
        embedding = self.model.get_input_embeddings()
        inputs = embedding(batch.ids)
        if dropout is not None:
            inputs = dropout(inputs)
        seen = torch.zeros(batch.mask.shape, dtype=inputs.dtype, device=inputs.device)
        seen.masked_fill_(~batch.mask, torch.finfo(inputs.dtype).min)
        reply = self.decoder(
            inputs_embeds=inputs, attention_mask=seen, position_ids=batch.positions, use_cache=False
        )  # fmt: skip
        return reply.last_hidden_state.flatten(0, 1)

    def option_scores(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of all tokens (n, V) at the decisions, and of the options (n, O), minus infinity where padded."""
        logits = self.head(hidden[batch.choice_at]).float()
        scores = logits.gather(1, batch.options.clamp(min=0)).masked_fill(batch.options < 0, -torch.inf)
        return logits, scores

    def losses(self, batch: Batch, outside: float = 0.0, dropout: Dropout | None = None) -> Losses:
        """Cross-entropy of the answers.

        Args:
            batch: Packed prompts.
            outside: Weight of keeping the probability of all tokens on a decision's options: endpoints without a
                grammar look among the likeliest tokens for them.
            dropout: Of embeddings and layers.
        """
        hidden = self.hidden(batch, dropout)
        logits, scores = self.option_scores(batch, hidden)
        found = torch.log_softmax(scores, dim=1).masked_fill(batch.options < 0, 0.0)
        each = -(batch.target * found).sum(dim=1)
        inside = torch.logsumexp(scores, dim=1) - torch.logsumexp(logits, dim=1)
        words = functional.cross_entropy(self.head(hidden[batch.word_at]).float(), batch.word, reduction="none")
        weights = torch.cat([batch.choice_weight, batch.word_weight])
        everything = torch.cat([each - outside * inside, words]) * weights
        weight = weights.sum().clamp(min=1e-9)
        total = everything.sum() / weight
        return Losses(total, float(weight), _by_purpose(batch, torch.cat([each, words]).detach() * weights, weights))

    def check(self, batch: Batch) -> None:
        """Compares the first prompt with the model's own pass.

        Raises:
            EngineError: If they differ, so that packing would not be exact.
        """
        at = int((batch.choice_at if len(batch.choice_at) else batch.word_at)[0])
        row, place = divmod(at, batch.ids.shape[1])
        with torch.no_grad():
            ours = self.head(self.hidden(batch)[at]).float()
            alone = batch.ids[row, batch.mask[row, 0, place]][None]
            own = self.model(input_ids=alone, use_cache=False).logits[0, -1].float()
        close = 1e-3 if next(self.model.parameters()).dtype == torch.float32 else 5e-2
        if float((own - ours).abs().max()) > close * max(1.0, float(own.abs().max())):
            raise EngineError(
                f"The model {type(self.model).__name__} cannot be trained on packed prompts: its logits for a packed "
                "prompt differ from those for the prompt alone. Choose a decoder in the shape of Llama or Qwen."
            )


class Dropout:
    """Dropout whose luck comes from one generator: of embeddings, and of what the layers' blocks add.

    Args:
        model: Its decoder layers' ``self_attn`` and ``mlp`` get hooks, where it has such.
        rate: Share of numbers set to zero.
    """

    def __init__(self, model: Any, rate: float) -> None:
        self.rate, self.generator = rate, torch.Generator(device=model.device)
        self.active = False
        for layer in getattr(model.get_decoder(), "layers", ()):
            for name in ("self_attn", "mlp"):
                if hasattr(layer, name):
                    getattr(layer, name).register_forward_hook(self._hook)

    def start(self, seed: int) -> None:
        """Begins a step with luck of its own."""
        self.generator.manual_seed(seed)
        self.active = self.rate > 0

    def stop(self) -> None:
        """No dropout until the next step."""
        self.active = False

    def __call__(self, x: Tensor) -> Tensor:
        """The numbers, some of them zero, the others larger."""
        if not self.active:
            return x
        keep = torch.rand(x.shape, generator=self.generator, device=x.device) >= self.rate
        return x * keep / (1.0 - self.rate)

    def _hook(self, module: Any, inputs: Any, output: Any) -> Any:
        if not self.active:
            return None
        return (self(output[0]), *output[1:]) if isinstance(output, tuple) else self(output)


def _by_purpose(batch: Batch, values: Tensor, weights: Tensor) -> dict[str, tuple[float, float]]:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for purpose, value, weight in zip(batch.purposes, values.tolist(), weights.tolist(), strict=True):
        sums[purpose][0] += value
        sums[purpose][1] += weight
    return {purpose: (value, weight) for purpose, (value, weight) in sums.items()}
