"""Training of recommenders by gradients: epochs, validation, early stopping, checkpoints.

A checkpoint is written after every epoch where :class:`Fitting` names a folder; on a processor a resumed training ends
with the weights of an unbroken one. Luck (dropout) is set anew for every step, and torch's global generators are left
as they were found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from recsim_env.draws import Draws
from recsim_env.errors import RecsimError
from recsim_env.interfaces import Config
from recsim_env.lm.checkpoint import Checkpoint
from recsim_env.lm.schedule import cosine
from recsim_env.recommenders.base import ScoringConfig, ScoringRecommender

LEAST_RATE = 0.1
"""Share of the learning rate at the last epoch."""


class TrainedConfig(ScoringConfig):
    """Settings of every recommender that is trained by gradients."""

    epochs: int = Field(default=30, ge=1)
    """Most passes over the training data."""
    patience: int = Field(default=8, ge=1)
    """Epochs without a better validation after which training stops; the best weights are kept."""
    minutes: float | None = Field(default=None, gt=0)
    """No new epoch begins after so long; null is no limit. With a limit, results depend on the machine's speed."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate; it falls to a tenth by a cosine over ``epochs``."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's, of matrices."""
    batch_size: int = Field(default=64, ge=1)
    """Sequences of a step."""
    validation_users: int = Field(default=1000, ge=1)
    """Users, at most, whose last item is left out of training for early stopping; a tenth of all where that is less."""
    device: str = "auto"
    """``cpu``, ``cuda``, ...; auto takes a GPU where there is one."""


@dataclass(frozen=True, slots=True)
class FitProgress:
    """How far training is.

    Attributes:
        epoch: Epochs done.
        epochs: Most epochs.
        loss: Mean training loss of the last epoch.
        validation: Its validation figure, higher is better.
        best: The best so far.
    """

    epoch: int
    epochs: int
    loss: float
    validation: float
    best: float


@dataclass(slots=True)
class Fitting:
    """How a training is kept and watched.

    Attributes:
        folder: Where checkpoints go (in ``checkpoint``); None keeps none.
        resume: Goes on from the folder's checkpoint.
        tell: Called after every epoch.
    """

    folder: Path | None = None
    resume: bool = False
    tell: Callable[[FitProgress], None] = lambda progress: None


class TrainedRecommender(ScoringRecommender):
    """A recommender with a torch module that is trained by :func:`train`."""

    config_class: ClassVar[type[Config]] = TrainedConfig
    config: TrainedConfig
    measure: ClassVar[str] = "nDCG@10"
    """What validation measures."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.fitting = Fitting()
        self.log: list[dict[str, float]] = []
        """One entry per epoch: epoch, loss, validation, seconds."""


def train(
    model: nn.Module,
    config: TrainedConfig,
    fitting: Fitting,
    batches: Callable[[int], Iterable[Any]],
    loss_of: Callable[[Any], Tensor],
    validate: Callable[[], float],
    draws: Draws,
) -> list[dict[str, float]]:
    """Trains a module in place; it ends with the weights of its best epoch.

    Args:
        model: The module.
        config: Rates and limits.
        fitting: Checkpoints and progress.
        batches: The batches of an epoch, by its number; the same number must give the same batches.
        loss_of: Mean loss of a batch, with its gradient.
        validate: A figure, higher is better; called in evaluation mode without gradients.
        draws: Luck of the training.

    Returns:
        One entry per epoch.

    Raises:
        RecsimError: If the loss is no number.
        RunFolderError: If there is nothing to resume, or it was made with other settings.
    """
    optimizer = _optimizer(model, config)
    state: dict[str, Any] = {
        "epoch": 0, "best": -math.inf, "bad": 0, "seconds": 0.0, "log": [], "settings": config.model_dump(mode="json"),
    }  # fmt: skip
    best = _weights(model)
    checkpoint = None if fitting.folder is None else Checkpoint(fitting.folder)
    if checkpoint is not None and fitting.resume:
        weights, best, optimizer_state, state = checkpoint.load(state["settings"])
        model.load_state_dict(weights)
        optimizer.load_state_dict(optimizer_state)
    started = time.perf_counter() - state["seconds"]
    while not _over(state, config):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * cosine(state["epoch"] / config.epochs, LEAST_RATE)
        loss = _epoch(model, optimizer, batches(state["epoch"]), loss_of, draws, state["epoch"])
        model.eval()
        with torch.no_grad():
            found = validate()
        state["epoch"] += 1
        state["seconds"] = time.perf_counter() - started
        state["log"].append(
            {"epoch": state["epoch"], "loss": loss, "validation": found, "seconds": round(state["seconds"], 1)}
        )
        if found > state["best"]:
            state["best"], state["bad"], best = found, 0, _weights(model)
        else:
            state["bad"] += 1
        if checkpoint is not None:
            checkpoint.save(_weights(model), best, optimizer, state)
        fitting.tell(FitProgress(state["epoch"], config.epochs, loss, found, state["best"]))
    model.load_state_dict(best)
    model.eval()
    if checkpoint is not None:
        checkpoint.remove()
    log: list[dict[str, float]] = state["log"]
    return log


def _over(state: dict[str, Any], config: TrainedConfig) -> bool:
    late = config.minutes is not None and state["seconds"] > 60 * config.minutes
    return state["epoch"] >= config.epochs or state["bad"] >= config.patience or late


def _optimizer(model: nn.Module, config: TrainedConfig) -> torch.optim.AdamW:
    named = [(name, weight) for name, weight in sorted(model.named_parameters()) if weight.requires_grad]
    groups = [
        {"params": [w for _, w in named if w.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [w for _, w in named if w.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=(0.9, 0.98))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Any],
    loss_of: Callable[[Any], Tensor],
    draws: Draws,
    epoch: int,
) -> float:
    model.train()
    on_gpu = next(model.parameters()).device.type == "cuda"
    total, n = 0.0, 0
    with torch.random.fork_rng():
        for step, batch in enumerate(batches):
            torch.manual_seed(int(draws.keys("train-step", epoch, step)[0] >> 1))
            with torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext():
                loss = loss_of(batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise RecsimError(
                    f"The training loss is {value} in epoch {epoch + 1}, step {step + 1}. Train with a lower "
                    "learning_rate."
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            total, n = total + value, n + 1
    return total / max(n, 1)
