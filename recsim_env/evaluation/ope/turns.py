"""From the arrays of a logged policy and a target policy to all estimators of one estimand.

``ONE_TURN`` is the expected reward of the next slate in the logged states. ``SESSION`` and ``LIFE`` are the expected
return of a session or of a user's whole life in the log, that starts as those in the log started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from recsim_env.evaluation.ope import estimators as by
from recsim_env.evaluation.ope.estimators import Terms, prefix_weights
from recsim_env.records import BoolArray, FloatArray, IntArray

ONE_TURN = "one-turn value"
SESSION = "session return"
LIFE = "life return"

AllTerms: TypeAlias = dict[str, tuple[Terms, FloatArray | None]]
"""By estimator: its terms, and the weights that it rests on."""


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """n logged slates of K positions beside a target policy; everything that estimators read.

    Attributes:
        reward: float (n, K).
        ratio: float (n, K), target over logging probability of each item given the earlier positions.
        position_ratio: float (n, K), the same of the marginals, or None.
        q: float (n, K), the reward model at the shown items, or None without a model.
        q_next: float (n, K), its mean over the target policy's item at k given the shown items above, or None.
        q_drawn: float (n, K), the model at a slate that was drawn from the target policy, or None.
        later: float (n, K), constant guess of the reward of later positions.
    """

    reward: FloatArray
    ratio: FloatArray
    position_ratio: FloatArray | None = None
    q: FloatArray | None = None
    q_next: FloatArray | None = None
    q_drawn: FloatArray | None = None
    later: FloatArray | None = None

    def take(self, rows: IntArray | BoolArray) -> Turns:
        """Some rows."""
        parts = (getattr(self, name) for name in self.__slots__)
        return Turns(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]


def turn_terms(turns: Turns) -> AllTerms:
    """All estimators of the one-turn value: those of one item if K is 1, else those of slates."""
    return _one_item(turns) if turns.reward.shape[1] == 1 else _slate(turns)


def _one_item(turns: Turns) -> AllTerms:
    reward, weight = turns.reward[:, 0], turns.ratio[:, 0]
    found: AllTerms = {
        "IPS": (by.ips(reward, weight), weight),
        "SNIPS": (by.snips(reward, weight), weight),
        "clipped IPS": (by.clipped_ips(reward, weight), np.minimum(weight, np.sqrt(len(weight)))),
    }
    expected = turns.q_drawn if turns.q_next is None else turns.q_next
    if turns.q is not None and expected is not None:
        q, q_target = turns.q[:, 0], expected[:, 0]
        found["DM"] = by.dm(q_target), None
        found["DR"] = by.dr(reward, weight, q, q_target), weight
        found["SNDR"] = by.sndr(reward, weight, q, q_target), weight
    return found


def _slate(turns: Turns) -> AllTerms:
    reward, ratio, prefix = turns.reward, turns.ratio, prefix_weights(turns.ratio)
    found: AllTerms = {
        "SIPS": (by.sips(reward, ratio), prefix[:, -1]),
        "SNSIPS": (by.snsips(reward, ratio), prefix[:, -1]),
    }
    if turns.position_ratio is not None:
        found["IIPS"] = by.iips(reward, turns.position_ratio), turns.position_ratio
    found["RIPS"] = by.rips(reward, ratio), prefix
    found["SNRIPS"] = by.snrips(reward, ratio), prefix
    if turns.q_drawn is not None:
        found["DM"] = by.dm(turns.q_drawn.sum(axis=1)), None
    if turns.q is not None and turns.q_next is not None and turns.later is not None:
        found["Cascade-DR"] = by.cascade_dr(reward, ratio, turns.q + turns.later, turns.q_next + turns.later), prefix
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """Logged turns put into episodes.

    Attributes:
        place: int64 (n,), episode of each turn.
        step: int64 (n,), number of the turn in its episode.
        first: int64 (E,), a turn of each episode.
    """

    place: IntArray
    step: IntArray
    first: IntArray

    @classmethod
    def of(cls, episode: IntArray) -> Episodes:
        """Episodes of turns that stand in the order of time; ``episode`` int (n,) numbers them in any way."""
        _, first, place = np.unique(episode, return_index=True, return_inverse=True)
        order = np.argsort(place, kind="stable")
        starts = np.flatnonzero(np.diff(place[order], prepend=-1))
        step = np.empty(len(place), np.int64)
        step[order] = np.arange(len(place)) - np.repeat(starts, np.diff(starts, append=len(place)))
        return cls(place, step, first)

    def padded(self, values: FloatArray, fill: float) -> FloatArray:
        """Values (n,) as a row per episode, float64 (E, T), padded behind."""
        wide = np.full((len(self.first), int(self.step.max(initial=0)) + 1), fill)
        wide[self.place, self.step] = values
        return wide


def episode_terms(turns: Turns, episodes: Episodes, half: IntArray, forced: BoolArray) -> AllTerms:
    """All estimators of the return of an episode.

    Args:
        turns: The n turns.
        episodes: Theirs.
        half: int (n,), the half of the users that a turn does not belong to.
        forced: bool (n,), turns that no policy decided, such as a catalogue's search: their ratio is 1.
    """
    weight = np.where(forced, 1.0, prefix_weights(turns.ratio)[:, -1])
    reward, ratio = episodes.padded(turns.reward.sum(axis=1), 0.0), episodes.padded(weight, 1.0)
    prefix = prefix_weights(ratio)
    found: AllTerms = {
        "PDIS": (by.per_decision(reward, ratio), prefix[:, -1]),
        "SNPDIS": (by.sn_per_decision(reward, ratio), prefix[:, -1]),
    }
    if turns.q is not None and turns.q_drawn is not None:
        still = _still_to_come(reward, episodes, half)
        q, drawn = (np.where(forced, 0.0, part.sum(axis=1)) for part in (turns.q, turns.q_drawn))
        q, drawn = (episodes.padded(part + still, 0.0) for part in (q, drawn))
        found["sequential DR"] = by.sequential_dr(reward, ratio, q, drawn), prefix[:, -1]
    return found


def _still_to_come(reward: FloatArray, episodes: Episodes, half: IntArray) -> FloatArray:
    """Mean reward after each step in the other half's episodes that reached it, float64 (n,)."""
    later = reward.sum(axis=1, keepdims=True) - np.cumsum(reward, axis=1)
    found = np.zeros(len(half))
    for f in (0, 1):
        fitted, used = half != f, half == f
        count = np.bincount(episodes.step[fitted], minlength=reward.shape[1])
        values = later[episodes.place[fitted], episodes.step[fitted]]
        total = np.bincount(episodes.step[fitted], values, minlength=reward.shape[1])
        found[used] = (total / np.maximum(count, 1))[episodes.step[used]]
    return found
