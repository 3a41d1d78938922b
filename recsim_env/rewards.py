"""Rewards: pure named functions of one turn, freely weighted in the scenario.

Each takes the observation before the page, the slate, the reaction and the rating scale, and gives either a value per
shown item, float32 (N, K), or one per user, float32 (N,). Only visible things enter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from recsim_env.records import Feedback, FloatArray, NextAction, ObservationBatch, RatingScale, SlateBatch
from recsim_env.registry import rewards

RewardFunction: TypeAlias = Callable[[ObservationBatch, SlateBatch, Feedback, RatingScale], FloatArray]


def clicks(obs: ObservationBatch, slate: SlateBatch, feedback: Feedback, scale: RatingScale) -> FloatArray:
    """1 for every clicked item."""
    return feedback.clicked.astype(np.float32)


def watch(obs: ObservationBatch, slate: SlateBatch, feedback: Feedback, scale: RatingScale) -> FloatArray:
    """Watched fraction of every item."""
    return feedback.watched_fraction


def rating(obs: ObservationBatch, slate: SlateBatch, feedback: Feedback, scale: RatingScale) -> FloatArray:
    """Stars, from -1 (lowest) to +1 (highest) of the scale; 0 where unrated."""
    return np.nan_to_num(scale.centred(feedback.rating), nan=0.0)


def likes(obs: ObservationBatch, slate: SlateBatch, feedback: Feedback, scale: RatingScale) -> FloatArray:
    """1 for every liked item."""
    return feedback.liked.astype(np.float32)


def stay(obs: ObservationBatch, slate: SlateBatch, feedback: Feedback, scale: RatingScale) -> FloatArray:
    """1 if the user does not leave after this page: summed up, the length of the session."""
    return (feedback.next_action != NextAction.LEAVE).astype(np.float32)


def retention(obs: ObservationBatch, slate: SlateBatch, feedback: Feedback, scale: RatingScale) -> FloatArray:
    """1 on the first page of a day after the first: summed up, the number of days on which the user came back.

    It is paid on the turn at which the return shows, so a policy must look ahead to earn it.
    """
    return ((obs.turn == 0) & (obs.session == 0) & (obs.day > 0)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Reward:
    """A weighted sum of reward functions.

    Attributes:
        parts: (weight, function) pairs.
        scale: The data set's rating scale.
    """

    parts: tuple[tuple[float, RewardFunction], ...]
    scale: RatingScale

    @classmethod
    def from_weights(cls, weights: Mapping[str, float], scale: RatingScale) -> Reward:
        """Looks the functions up by name.

        Raises:
            UnknownNameError: If one does not exist.
        """
        return cls(tuple((w, rewards.get(name, "reward")) for name, w in weights.items()), scale)

    def __call__(self, obs: ObservationBatch, slate: SlateBatch, feedback: Feedback) -> tuple[FloatArray, FloatArray]:
        """Reward of the turn float32 (N,), and the part of it that belongs to single items float32 (N, K)."""
        per_item = np.zeros(slate.items.shape, np.float32)
        per_turn = np.zeros(slate.n, np.float32)
        for weight, function in self.parts:
            value = np.float32(weight) * function(obs, slate, feedback, self.scale)
            if value.ndim == 2:
                per_item += value
            else:
                per_turn += value
        return per_turn + per_item.sum(axis=1), per_item
