"""Sessions of language-model policies, in tokens: what they read and said, what it was worth.

Every user is served several times with the same luck of its own, by as many draws of the policy: a group, whose members
are compared with each other (group-relative policy optimisation, Shao et al., "DeepSeekMath", 2024).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from recsim_env.draws import Draws
from recsim_env.errors import UnknownNameError
from recsim_env.interfaces import Recommender
from recsim_env.records import FloatArray, IntArray, ObservationBatch, RatingScale, SlateBatch
from recsim_env.simulator import Outcome
from recsim_env.slots import slots_of
from recsim_env.training.experience import seed_of
from recsim_env.vector_env import RecSimVectorEnv


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """What a policy read and said on one page of one user.

    Attributes:
        prompt: Tokens that it read.
        tokens: Tokens that it said: w of them, at least one.
        log_prob: float (w,), of each token when it was said.
        rank: int (w,), the position of the slate that a token decides; -1 where it decides more than one.
        source: What the policy needs to tell the probabilities again.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    log_prob: FloatArray
    rank: IntArray
    source: Any


@dataclass(slots=True, eq=False)
class Session:
    """One episode of one user, cut after the pages that are asked for.

    Attributes:
        said: Number of the page, and what was said on it; silent pages are left out.
        reward: Of each page.
        item_reward: Of each page float (K,), the part of it that belongs to single items.
    """

    said: list[tuple[int, Utterance]] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    item_reward: list[FloatArray] = field(default_factory=list)


class TokenPolicy(ABC):
    """A recommender that decides by tokens of a language model, and the gradient of their probabilities.

    Attributes:
        recommender: The policy.
        model: The language model, of the package transformers.
        tokenizer: Its tokenizer.
        weights: What is trained, by name.
        ranks: Whether single tokens decide single positions.
    """

    recommender: Recommender
    model: Any
    tokenizer: Any
    weights: Mapping[str, nn.Parameter]
    ranks: bool

    @abstractmethod
    def speak(self, obs: ObservationBatch, slate_size: int, draws: Draws) -> tuple[SlateBatch, list[Utterance | None]]:
        """Slates for N users, and what was said for each; None where the slate does not depend on the weights."""

    @abstractmethod
    def log_probs(self, said: Sequence[Utterance]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the tokens, with gradients, and entropies, both float (n, w), padded with 0."""

    def settle(self) -> None:
        """Called when the weights have changed, before the policy serves."""
        return None


Dense = Callable[[Outcome, RatingScale], FloatArray]


def _p_click(outcome: Outcome, scale: RatingScale) -> FloatArray:
    return outcome.trace.p_click


def _expected_rating(outcome: Outcome, scale: RatingScale) -> FloatArray:
    return outcome.trace.p_click * np.nan_to_num(scale.centred(outcome.trace.expected_rating), nan=0.0)


def _p_return(outcome: Outcome, scale: RatingScale) -> FloatArray:
    return np.nan_to_num(outcome.p_return, nan=0.0)


DENSE: dict[str, Dense] = {"p_click": _p_click, "expected_rating": _expected_rating, "p_return": _p_return}
"""Rewards without luck, out of what is hidden: the probability that an item is clicked; the same times its expected
stars, from -1 to 1; at a session's end the probability that the user opens the app on the next day."""
SCENARIO = "scenario"
"""The scenario's own reward, as users pay it."""


class DenseReward:
    """A weighted sum of rewards without luck.

    Args:
        weights: By name, of :data:`DENSE` or :data:`SCENARIO`.
        scale: The rating scale.

    Raises:
        UnknownNameError: If there is no such reward.
    """

    def __init__(self, weights: Mapping[str, float], scale: RatingScale) -> None:
        for name in weights:
            if name not in DENSE and name != SCENARIO:
                raise UnknownNameError("reward", name, [*DENSE, SCENARIO], "training.rewards")
        self.weights, self.scale = dict(weights), scale

    def __call__(self, outcome: Outcome) -> tuple[FloatArray, FloatArray]:
        """Of a page float32 (N,), and the part of it that belongs to single items float32 (N, K)."""
        page, items = np.zeros_like(outcome.reward), np.zeros_like(outcome.item_reward)
        for name, weight in self.weights.items():
            if name == SCENARIO:
                page += np.float32(weight) * (outcome.reward - outcome.item_reward.sum(axis=1))
                items += np.float32(weight) * outcome.item_reward
                continue
            value = np.float32(weight) * DENSE[name](outcome, self.scale)
            if value.ndim == 2:
                items += value
            else:
                page += value
        return page + items.sum(axis=1), items


def collect_sessions(
    policy: TokenPolicy, env: RecSimVectorEnv, reward: DenseReward, draws: Draws, iteration: int, turns: int,
    generations: int,
) -> list[Session]:  # fmt: skip
    """Serves one session of every slot's user, several times over.

    Args:
        policy: Who serves.
        env: N users.
        reward: What pages are worth.
        draws: Luck of the training.
        iteration: Number of the iteration: each has users and luck of its own.
        turns: T, pages at most.
        generations: G, how often each user is served, with the same luck of its own and another of the policy.

    Returns:
        N * G sessions; those of one user stand side by side.
    """
    k, seed = env.scenario.slate_size, seed_of(draws, "iteration", iteration)
    groups = []
    for number in range(generations):
        env.reset(seed=seed)
        luck = Draws(seed_of(draws, f"generation-{number}", iteration))
        sessions = [Session() for _ in range(env.num_envs)]
        going = np.arange(env.num_envs)
        for turn in range(turns):
            obs = env.observation_batch.take(going)
            slate, said = policy.speak(obs, k, luck)
            # Users whose session is over are shown anything: nobody looks at what comes of it.
            action = np.tile(np.arange(k), (env.num_envs, 1))
            action[going] = slots_of(obs, slate.items)
            _, _, terminated, truncated, _ = env.step(action[:, 0] if k == 1 else action)
            assert env.last_outcome is not None
            page, items = reward(env.last_outcome)
            for row, words in zip(going.tolist(), said, strict=True):
                if words is not None:
                    sessions[row].said.append((turn, words))
                sessions[row].reward.append(float(page[row]))
                sessions[row].item_reward.append(items[row])
            going = going[~(terminated | truncated)[going]]
            if not going.size:
                break
        groups.append(sessions)
    return [groups[g][user] for user in range(env.num_envs) for g in range(generations)]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A session as one line of tokens: the first page's prompt, then what was said and read in turns.

    Attributes:
        prompt: Tokens before the first word of the policy.
        tokens: Tokens after it.
        log_prob: Of each, when it was said; 0 where it was read.
        said: 1 where the policy spoke, 0 for what users did and said, and for what else it read.
        starts: Where each utterance begins in ``tokens``.
    """

    prompt: list[int]
    tokens: list[int]
    log_prob: list[float]
    said: list[int]
    starts: list[int]


def row_of(session: Session, nothing: int) -> Row:
    """A session in tokens; one in which nothing was said has a single token that was only read."""
    if not session.said:
        return Row([nothing], [nothing], [0.0], [0], [])
    row = Row(list(session.said[0][1].prompt), [], [], [], [])
    for number, (_, words) in enumerate(session.said):
        read = list(words.prompt) if number else []
        row.starts.append(len(row.tokens) + len(read))
        row.tokens.extend([*read, *words.tokens])
        row.log_prob.extend([*[0.0] * len(read), *words.log_prob.tolist()])
        row.said.extend([0] * len(read) + [1] * len(words.tokens))
    return row
