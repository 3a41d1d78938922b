"""TRL's ``GRPOTrainer`` over sessions that were collected by us: a thin shim, the only place that knows TRL.

TRL gets a line of tokens per session by its ``rollout_func`` (experimental; it receives every prompt as often as it is
to be answered). What users did and said is masked out of the loss by ``env_mask``. The probabilities of the policy's
tokens come from the policy itself, page by page, as it serves.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsim_env.records import FloatArray
from recsim_env.training.rollout import Row, Session, TokenPolicy, row_of

datasets: Any = import_module("datasets")
trl: Any = import_module("trl")


class SessionTrainer:
    """Learns from sessions.

    Args:
        policy: Who spoke in them.
        sessions: B, how many there are each time.
        generations: G, sessions of a group.
        minibatches: Gradient steps of a pass.
        passes: Passes over the sessions.
        clip: Ratios past 1 +- clip give no gradient.
    """

    def __init__(
        self, policy: TokenPolicy, *, sessions: int, generations: int, minibatches: int, passes: int, clip: float
    ) -> None:
        self._n, self._steps = sessions, minibatches * passes
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*rollout_func.*")
            settings = trl.GRPOConfig(
                output_dir=scratch, per_device_train_batch_size=sessions // minibatches, num_generations=generations,
                steps_per_generation=minibatches, num_iterations=passes, epsilon=clip, beta=0.0, loss_type="dapo",
                scale_rewards="group", max_completion_length=None, disable_dropout=False, gradient_checkpointing=False,
                bf16=False, use_cpu=policy.model.device.type == "cpu", report_to=[], disable_tqdm=True,
                save_strategy="no",
            )  # fmt: skip
            self._trainer = _Trainer(policy, settings)

    def learn(
        self, sessions: Sequence[Session], returns: FloatArray, places: FloatArray | None, apply: Callable[[], None]
    ) -> dict[str, float]:
        """Some gradient steps.

        Args:
            sessions: B sessions, groups side by side.
            returns: float (B,).
            places: float32 (B, T, K), an advantage for every position of every page; None is one for every session,
                by its return.
            apply: Takes one step with the gradients that are there.

        Returns:
            Figures for the log.
        """
        trainer = self._trainer
        trainer.hand_over(sessions, returns, places)
        asked = [{"prompt": str(number)} for number in range(self._n)]
        losses = []
        for _ in range(self._steps):
            losses.append(float(trainer.training_step(trainer.model, asked, None)))
            apply()
        metrics = trainer.take_metrics()
        return {
            "loss": float(np.mean(losses)),
            "entropy": metrics.get("entropy", np.nan),
            "clipped": metrics.get("clip_ratio/region_mean", np.nan),
        }


class _Trainer(trl.GRPOTrainer):  # type: ignore[misc]
    """``GRPOTrainer`` that asks the policy for probabilities, and takes an advantage for every token."""

    current_gradient_accumulation_steps = 1

    def __init__(self, policy: TokenPolicy, settings: Any) -> None:
        self._policy = policy
        self._sessions: Sequence[Session] = ()
        self._rows: list[Row] = []
        self._returns: FloatArray = np.zeros(0)
        self._places: FloatArray | None = None
        self._batch: Tensor | None = None
        super().__init__(
            model=policy.model, reward_funcs=_handed_over, args=settings, processing_class=policy.tokenizer,
            train_dataset=datasets.Dataset.from_dict({"prompt": ["0"]}), rollout_func=self._roll_out,
        )  # fmt: skip

    def hand_over(self, sessions: Sequence[Session], returns: FloatArray, places: FloatArray | None) -> None:
        """Takes what the next steps learn from."""
        self._sessions, self._returns, self._places = sessions, returns, places
        self._rows = [row_of(session, int(self.processing_class.pad_token_id)) for session in sessions]

    def take_metrics(self) -> dict[str, float]:
        """Means of TRL's figures since the last call."""
        found = {name: float(np.mean(values)) for name, values in self._metrics["train"].items() if values}
        self._metrics["train"].clear()
        return found

    def _roll_out(self, prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        assert len(prompts) == len(self._rows), "TRL asks for every session once"
        return {
            "prompt_ids": [row.prompt for row in self._rows],
            "completion_ids": [row.tokens for row in self._rows],
            "logprobs": [row.log_prob for row in self._rows],
            "env_mask": [row.said for row in self._rows],
            "earned": self._returns.tolist(),
        }

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._batch = torch.arange(len(self._rows))
        made = super()._generate_and_score_completions(inputs)
        made["session"] = self._batch.to(made["completion_ids"].device)
        if self._places is not None:
            made["advantages"] = self._token_advantages(made["completion_ids"])
        return made

    def _token_advantages(self, like: Tensor) -> Tensor:
        """One advantage for every token, float (B, C); 0 where the policy did not speak."""
        assert self._places is not None
        found = np.zeros(like.shape, np.float32)
        for i, (row, session) in enumerate(zip(self._rows, self._sessions, strict=True)):
            for start, (page, words) in zip(row.starts, session.said, strict=True):
                found[i, start : start + len(words.tokens)] = self._places[i, page, words.rank]
        return torch.from_numpy(found).to(like.device)

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        self._batch = inputs["session"]
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor, None]:
        """Log-probabilities and entropies float (B, C) of the tokens after the prompts, 0 where users spoke."""
        assert self._batch is not None
        batch = self._batch.tolist()
        where = [
            (i, start, words)
            for i, number in enumerate(batch)
            for start, (_, words) in zip(self._rows[number].starts, self._sessions[number].said, strict=True)
        ]
        log_prob = torch.zeros(len(batch), logits_to_keep, device=input_ids.device)
        entropy = torch.zeros_like(log_prob)
        if not torch.is_grad_enabled():  # TRL asks how probable they were, which is known
            for i, start, words in where:
                end = start + len(words.tokens)
                log_prob[i, start:end] = torch.from_numpy(np.asarray(words.log_prob, np.float32))
            return log_prob, entropy, None
        if not where:
            return log_prob.requires_grad_(), entropy, None
        told, spread = self._policy.log_probs([words for _, _, words in where])
        lengths = torch.tensor([len(words.tokens) for _, _, words in where], device=told.device)
        number = torch.arange(told.shape[1], device=told.device)
        own = number < lengths[:, None]
        rows = torch.tensor([i for i, _, _ in where], device=told.device)[:, None].expand_as(own)[own]
        places = (torch.tensor([start for _, start, _ in where], device=told.device)[:, None] + number)[own]
        log_prob = log_prob.index_put((rows, places), told[own])
        return log_prob, entropy.index_put((rows, places), spread[own]), None


def _handed_over(earned: list[float], **_: Any) -> list[float]:
    """TRL's reward function: what the sessions earned, as they were handed over."""
    return earned
