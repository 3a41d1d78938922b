"""Trains a user language model on the very prompts of ``agents/``: ``recsim-env train user-lm``.

What people would watch and what marks they would give is learned from real ratings; a rating that is asked about is not
in the prompt's persona, memory or averages (examples.py). What no data shows, and how to write, is learned from stated
answers (teacher.py). Prompts of one user are packed so that their beginning is computed once (packing.py). The loss is
the cross-entropy of answers alone: over the options for a decision, over the tokens for words.

After UserLM (Naous et al., "Flipping the Dialogue", arXiv 2510.06552) and UserMirrorer (Wei et al., arXiv 2508.18142):
a small model trained on real feedback makes a better user than a large prompted one. Simplifications: no reasoning text
is trained; moods do not change real answers.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recsim_env.draws import Draws
from recsim_env.engine.base import ChatTokenizer
from recsim_env.errors import EngineError
from recsim_env.lm.backbone import Backbone, add_lora, device_of, load_model, scratch_model, trainable
from recsim_env.lm.checkpoint import Checkpoint
from recsim_env.lm.schedule import cosine
from recsim_env.training.card import write_result
from recsim_env.training.config import UserLMConfig
from recsim_env.training.encoding import Encoder
from recsim_env.training.losses import Dropout, Losses, Packed
from recsim_env.training.material import SPELLED_USERS, Material
from recsim_env.training.measure import Fit, baselines, measure
from recsim_env.training.packing import Batch, Tree, batches_of, lay_out, rows_of

CALIBRATION = 40
"""Steps after which a run with ``minutes`` sets its number of steps."""
LEAST_RATE = 0.05
"""Share of the learning rate at the end."""
SMOOTHED = 50
"""Steps that a told loss is the mean of."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is.

    Attributes:
        step: Steps done.
        total: Steps in all; 0 while nothing is known.
        loss: Mean loss of the last steps.
        fit: The last validation, or None.
        label: What is being done.
    """

    step: int
    total: int
    loss: float
    fit: Fit | None
    label: str


class Trainer:
    """One training run.

    Args:
        config: The settings.
        out: Folder of the result.
        resume: Goes on from the folder's checkpoint.
        on_progress: Called after every step.

    Raises:
        RunFolderError: If the folder is not empty, or there is nothing to resume.
    """

    def __init__(
        self, config: UserLMConfig, out: Path, resume: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:  # fmt: skip
        self.config, self.out, self.tell = config, out, on_progress or (lambda progress: None)
        self.checkpoint = Checkpoint(out)
        self.checkpoint.claim(resume)
        self.tell(Progress(0, 0, math.nan, None, "Reading data"))
        self.material = Material(config)
        self.tell(Progress(0, 0, math.nan, None, "Making the model"))
        self.backbone = self._backbone()
        self.model = self.backbone.model
        self.packed, self.dropout = Packed(self.model), Dropout(self.model, config.dropout)
        limit = int(getattr(self.model.config, "max_position_embeddings", 4096))
        self.encoder = Encoder(self.backbone.chat, limit)
        self.spelled = Encoder(self.backbone.spelled, limit) if self.backbone.spelled is not None else None
        self.pad = int(self.backbone.chat.tokenizer.pad_token_id or self.backbone.chat.tokenizer.eos_token_id)
        self.optimizer = self._optimizer()
        self.state: dict[str, Any] = {
            "step": 0, "epoch": 0, "fold": 0, "batch": 0, "total": config.steps or 0, "next": 0, "seconds": 0.0,
            "best": math.inf, "bad": 0, "tokens": 0, "log": [], "validations": [], "settings": config.as_dict(),
        }  # fmt: skip
        self.best = self._weights()
        if resume:
            self._load()

    def _backbone(self) -> Backbone:
        c, m = self.config, self.material
        if c.scratch:
            pair = m.tokenizers()
            chat, spelled = m.chats(pair, "scratch")
            model = scratch_model(c.size, pair[0], c.seed).to(device_of(c.device))
            return Backbone(model, chat, spelled, "scratch")
        chat = ChatTokenizer.load(c.backbone, c.revision)
        m.special = chat.special_tokens
        device = device_of(c.device)
        small = device.type == "cuda" and not c.full
        model = load_model(c.backbone, c.revision, torch.bfloat16 if small else torch.float32).to(device)
        adapter = None if c.full else add_lora(model, c.lora_rank, c.seed)
        return Backbone(model, chat, None, c.backbone, adapter)

    def _optimizer(self) -> Any:
        named = trainable(self.model)
        decayed = [w for name, w in named if w.dim() == 2 and "embed" not in name]
        others = [w for name, w in named if w.dim() != 2 or "embed" in name]
        groups = [
            {"params": decayed, "weight_decay": self.config.weight_decay},
            {"params": others, "weight_decay": 0.1 * self.config.weight_decay},
        ]
        return torch.optim.AdamW(groups, lr=self.config.rate, betas=(0.9, 0.98))

    def _weights(self) -> dict[str, Any]:
        return {name: weight.detach().clone() for name, weight in trainable(self.model)}

    def _set_weights(self, weights: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, weight in trainable(self.model):
                weight.copy_(weights[name])

    def _load(self) -> None:
        weights, self.best, optimizer, self.state = self.checkpoint.load(self.config.as_dict())
        self.best = {name: tensor.to(self.model.device) for name, tensor in self.best.items()}
        self._set_weights(weights)
        self.optimizer.load_state_dict(optimizer)

    def train(self) -> dict[str, Any]:
        """Trains to the end and writes the result.

        Returns:
            The figures, as they stand in ``training.json``.
        """
        self._held_out, _ = self.material.held_out(self.encoder, test=False)
        recent: list[float] = []
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        started = time.perf_counter() - self.state["seconds"]
        for batch in self._batches() if not self._over() else ():
            losses = self._step(batch)
            self.state["step"] += 1
            self.state["tokens"] += batch.n_tokens
            self.state["seconds"] = time.perf_counter() - started
            recent = [*recent[1 - SMOOTHED :], float(losses.total.detach())]
            for purpose, (value, weight) in losses.parts.items():
                sums[purpose][0] += value
                sums[purpose][1] += weight
            if self.state["step"] == CALIBRATION:
                self._calibrate()
            done = self.state["step"] >= self.state["total"]
            fit = None
            if done or self.state["step"] >= self.state["next"]:
                fit = self._validate({p: v / max(w, 1e-9) for p, (v, w) in sums.items()})
                sums.clear()
            mean = sum(recent) / len(recent)
            self.tell(Progress(self.state["step"], self.state["total"], mean, fit, "Training"))
            if self._over():
                break
        return self._finish()

    def _over(self) -> bool:
        s = self.state
        return s["step"] >= s["total"] > 0 or s["bad"] >= self.config.patience

    def _batches(self) -> Iterator[Batch]:
        """Batches from where the run stands, without end."""
        s, c = self.state, self.config
        while True:
            epoch, fold = s["epoch"], s["fold"]
            luck = Draws(c.seed + 32_452_843 * (1 + epoch * c.folds + fold))
            m = self.material
            examples = m.real(epoch, fold) + m.stated(epoch, fold, c.taught_users)
            trees: list[Tree] = m.trees(examples, self.encoder, self.spelled, luck)
            del examples
            parts = batches_of(rows_of(trees, c.row_tokens), c.batch_tokens)
            if not s["total"]:
                s["total"] = s["longest"] = max(1, round(c.epochs * c.folds * len(parts)))
            if not s["next"]:
                s["next"] = max(1, s["total"] // c.evaluations)
            for number in range(s["batch"], len(parts)):
                s["batch"] = number + 1
                yield lay_out(parts[number], self.pad).to(self.model.device)
            s["fold"], s["batch"] = (fold + 1) % c.folds, 0
            s["epoch"] = epoch + (fold + 1 == c.folds)

    def _step(self, batch: Batch) -> Losses:
        c, step = self.config, self.state["step"]
        if step == 0:
            self.packed.check(batch)
        progress = step / max(self.state["total"], 1)
        rise = min(1.0, progress / c.warmup) if c.warmup else 1.0
        fall = cosine(progress, LEAST_RATE)
        for group in self.optimizer.param_groups:
            group["lr"] = c.rate * max(rise, 1e-3) * fall
        self.model.train()
        self.dropout.start(c.seed * 1_000_003 + step)
        mixed = self.model.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if mixed else nullcontext():
            losses = self.packed.losses(batch, c.outside, self.dropout)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.dropout.stop()
        if not math.isfinite(float(losses.total.detach())):
            raise EngineError(
                f"The loss is {float(losses.total.detach())} at step {step}. Resume with a lower learning rate "
                f"(--learning-rate, now {c.rate:g}) in another folder."
            )
        torch.nn.utils.clip_grad_norm_([w for _, w in trainable(self.model)], c.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def _calibrate(self) -> None:
        """With ``minutes``: the number of steps that fits, at the speed so far. Also sets the next validation."""
        s, c = self.state, self.config
        if c.minutes is not None and c.steps is None:
            s["total"] = max(s["step"] + 1, min(s["longest"], int(s["step"] * c.minutes * 60 / s["seconds"])))
        s["next"] = s["step"] + max(1, s["total"] // c.evaluations)

    def _validate(self, train: dict[str, float]) -> Fit:
        s = self.state
        fit = self._measure(self._held_out)
        s["log"].append({"step": s["step"], **{f"train_{p}": round(v, 5) for p, v in sorted(train.items())}})
        s["validations"].append({"step": s["step"], **fit.as_dict()})
        if fit.loss < s["best"]:
            s["best"], s["bad"], self.best = fit.loss, 0, self._weights()
        else:
            s["bad"] += 1
        if s["step"] < s["total"]:
            self._calibrate()
        self.checkpoint.save(self._weights(), self.best, self.optimizer, s)
        return fit

    def _measure(self, trees: list[Tree]) -> Fit:
        c, scale = self.config, self.material.dataset.catalog.scale
        sizes = (c.row_tokens, 2 * c.batch_tokens, self.pad)
        return measure(self.packed, trees, scale.levels, scale.liked_from(), sizes, 1 / (1 + c.negatives))

    def _finish(self) -> dict[str, Any]:
        """The best weights are measured on the test part and written."""
        s, m, c = self.state, self.material, self.config
        self.tell(Progress(s["step"], s["total"], math.nan, None, "Measuring"))
        self._set_weights({name: w.bfloat16().to(w.dtype) for name, w in self.best.items()})  # as they are saved
        trees, cases = m.held_out(self.encoder, test=True)
        figures: dict[str, Any] = {"test": self._measure(trees).as_dict()}
        if self.spelled is not None:
            other, _ = m.held_out(self.spelled, test=True, users=SPELLED_USERS)
            figures["test, titles spelled"] = self._measure(other).as_dict()
        figures["baselines"] = {name: fit.as_dict() for name, fit in baselines(m.parts.known, cases).items()}
        told = write_result(self.out, self.backbone, c, m, s, figures)
        self.checkpoint.remove()
        return told
