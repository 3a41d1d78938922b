"""Models to train: a small decoder from scratch, or any causal language model, whole or with LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recsim_env.engine.base import ChatTokenizer, cannot_load
from recsim_env.errors import MissingDependencyError, UnknownNameError

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 160, "num_attention_heads": 2},
    "small": {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 352, "num_attention_heads": 4},
    "medium": {"hidden_size": 192, "num_hidden_layers": 6, "intermediate_size": 512, "num_attention_heads": 6},
    "large": {"hidden_size": 512, "num_hidden_layers": 10, "intermediate_size": 1408, "num_attention_heads": 16},
}
"""Shapes of decoders from scratch; without embeddings 0.1, 0.7, 2.4 and 28 million parameters."""
MAX_LENGTH = 4096
HEAD = 32


@dataclass(frozen=True, slots=True, eq=False)
class Backbone:
    """A model that is about to be trained.

    Attributes:
        model: What is trained and, at the end, saved; a causal language model of the package transformers.
        chat: Its tokenizer.
        spelled: The tokenizer that spells titles, or None.
        name: ``scratch``, or the model's name or folder.
        adapter: The wrapper that merges LoRA's weights, or None.
    """

    model: Any
    chat: ChatTokenizer
    spelled: ChatTokenizer | None
    name: str
    adapter: Any = None

    def merged(self) -> Any:
        """The model as an ordinary one; LoRA's weights are added to the layers they belong to."""
        return self.model if self.adapter is None else self.adapter.merge_and_unload()


def scratch_model(size: str, tokenizer: Any, seed: int) -> Any:
    """A decoder in the shape of Qwen3 with random weights: one seed, one model.

    Weights are normal with the standard deviation 1 / sqrt(inputs): a narrow decoder learns slowly from 0.02.

    Raises:
        UnknownNameError: If there is no such size.
    """
    parts: Any = import_module("transformers")

    if size not in SIZES:
        raise UnknownNameError("size", size, SIZES, "--size")
    shape = SIZES[size]
    end, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
    heads = shape["num_attention_heads"]
    config = parts.Qwen3Config(
        **shape, vocab_size=len(tokenizer), num_key_value_heads=max(1, heads // 2), head_dim=HEAD,
        max_position_embeddings=MAX_LENGTH, tie_word_embeddings=True, eos_token_id=end, pad_token_id=pad,
        bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = parts.Qwen3ForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    depth = (2.0 * shape["num_hidden_layers"]) ** -0.5
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.dim() == 2:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))  # what adds to the residual stream
                scale = 0.05 if "embed" in name else weight.shape[1] ** -0.5 * (depth if adds else 1.0)
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    model.generation_config = parts.GenerationConfig(eos_token_id=end, pad_token_id=pad)
    return model


def load_model(name: str, revision: str, dtype: torch.dtype) -> Any:
    """A causal language model of a Hugging Face folder or hub name.

    Raises:
        EngineError: If it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, revision=revision or None, dtype=dtype, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise cannot_load(name, error) from None
    return loaded


def add_lora(model: Any, rank: int, seed: int) -> Any:
    """LoRA (Hu et al., ICLR 2022) on all linear layers; the wrapper's base model is changed in place.

    Raises:
        MissingDependencyError: If peft is not installed.
    """
    if find_spec("peft") is None:
        raise MissingDependencyError(
            f"LoRA (--lora-rank {rank})", "peft", "pip install 'recsim-env[llm-rl]'",
            "train all weights with --full",
        )  # fmt: skip
    peft: Any = import_module("peft")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.get_peft_model(
            model, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        )


def merged_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they would be without LoRA, to which LoRA's are added, detached and by their usual names."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    found: dict[str, torch.Tensor] = {}
    for name, weight in model.state_dict().items():
        if ".lora_" in name:
            continue
        own, base, rest = name.partition(".base_layer")
        layer: Any = layers.get(own)
        delta = sum(layer.get_delta_weight(a) for a in layer.active_adapters) if base and rest == ".weight" else 0.0
        found[own + rest] = (weight + delta).detach() if base else weight.detach()
    return found


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a model, LoRA's weights merged, and its tokenizer so that every engine can load them."""
    plain = type(model)(model.config)
    plain.load_state_dict(merged_weights(model))
    plain.to(model.dtype).save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters that are trained, by name, in a fixed order."""
    return [(name, weight) for name, weight in sorted(model.named_parameters()) if weight.requires_grad]


def device_of(name: str) -> torch.device:
    """Where to train; ``auto`` takes a GPU where there is one."""
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
