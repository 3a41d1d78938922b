"""Estimators of a policy's value from another policy's log.

Notation: n logged units (turns, or episodes), K positions of a slate (or steps of an episode), reward ``r``, and
``ratio``: probability under the target policy over probability under the logging policy, of the shown item at its
position given the earlier positions. Products of ratios are importance weights ``w``. ``q`` is a reward model.

Every function gives :class:`Terms`: one or more ratios of sums over units, added up. The sums over a user's units are
then all that an interval needs.

Unless told otherwise an estimator is unbiased if the logging policy can show whatever the target policy can, and
propensities are right. Not modelled: rewards that depend on later positions (all but SIPS assume none).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsim_env.records import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """An estimate before its sums are taken: the sum over p of ``sum(numerator[:, p]) / sum(denominator[:, p])``.

    Attributes:
        numerator: float64 (n, P).
        denominator: float64 (n, P).
    """

    numerator: FloatArray
    denominator: FloatArray

    @property
    def value(self) -> float:
        """The estimate; NaN if a denominator is 0."""
        above, below = self.numerator.sum(axis=0), self.denominator.sum(axis=0)
        return float(np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0).sum())


def _mean(values: FloatArray) -> Terms:
    """A plain mean of float (n,)."""
    return Terms(np.asarray(values, np.float64)[:, None], np.ones((len(values), 1)))


# One item: reward, weight, q, q_target are float (n,).


def ips(reward: FloatArray, weight: FloatArray) -> Terms:
    """Inverse propensity scoring (Horvitz and Thompson 1952): the mean of ``w r``."""
    return _mean(weight * reward)


def snips(reward: FloatArray, weight: FloatArray) -> Terms:
    """Self-normalised IPS (Swaminathan and Joachims, NeurIPS 2015): ``sum(w r) / sum(w)``; bias of order 1/n."""
    return Terms((weight * reward)[:, None], np.asarray(weight, np.float64)[:, None])


def clipped_ips(reward: FloatArray, weight: FloatArray, limit: float | None = None) -> Terms:
    """IPS with weights cut at a limit (Ionides, 2008): biased towards 0 where rewards are positive.

    Args:
        reward: float (n,).
        weight: float (n,).
        limit: Largest weight; None is the square root of n, as Ionides proposes.
    """
    return _mean(np.minimum(weight, np.sqrt(len(weight)) if limit is None else limit) * reward)


def dm(q_target: FloatArray) -> Terms:
    """Direct method: the mean of what a reward model expects under the target policy. As biased as the model is."""
    return _mean(q_target)


def dr(reward: FloatArray, weight: FloatArray, q: FloatArray, q_target: FloatArray) -> Terms:
    """Doubly robust (Dudik, Langford and Li, ICML 2011): the mean of ``q_target + w (r - q)``.

    Args:
        reward: float (n,).
        weight: float (n,).
        q: float (n,), the model's expectation for the shown item; it must not be fitted on the user's own rewards.
        q_target: float (n,), its expectation under the target policy in the same state.
    """
    return _mean(q_target + weight * (reward - q))


def sndr(reward: FloatArray, weight: FloatArray, q: FloatArray, q_target: FloatArray) -> Terms:
    """DR with a self-normalised correction (Robins et al. 2007): ``mean(q_target) + sum(w (r - q)) / sum(w)``."""
    numerator = np.stack([q_target, weight * (reward - q)], axis=1).astype(np.float64)
    return Terms(numerator, np.stack([np.ones(len(weight)), weight], axis=1).astype(np.float64))


# Slates: reward, ratio, q, q_target are float (n, K).


def prefix_weights(ratio: FloatArray) -> FloatArray:
    """Products of the ratios up to each position, float64 (n, K); very large ones are cut at exp(700)."""
    with np.errstate(divide="ignore"):
        logs = np.cumsum(np.log(np.asarray(ratio, np.float64)), axis=1)
    return np.exp(np.minimum(logs, 700.0))


def sips(reward: FloatArray, ratio: FloatArray) -> Terms:
    """Standard IPS over whole slates: the reward of the page times the joint weight. Its variance is the largest."""
    return ips(reward.sum(axis=1), prefix_weights(ratio)[:, -1])


def snsips(reward: FloatArray, ratio: FloatArray) -> Terms:
    """SIPS, self-normalised."""
    return snips(reward.sum(axis=1), prefix_weights(ratio)[:, -1])


def iips(reward: FloatArray, position_ratio: FloatArray) -> Terms:
    """Independent IPS (Li et al., KDD 2018): each position weighted by the ratio of its marginals.

    Biased if the reward of a position depends on what stands elsewhere on the page.

    Args:
        reward: float (n, K).
        position_ratio: float (n, K), ratio of the probabilities of the item at the position, whatever stands above.
    """
    return ips((reward * position_ratio).sum(axis=1), np.ones(len(reward)))


def rips(reward: FloatArray, ratio: FloatArray) -> Terms:
    """Reward-interaction IPS (McInerney et al., KDD 2020): each position weighted by the product of ratios down to it.

    Unbiased if users read from the top: a reward depends on its own position and those above.
    """
    return _mean((reward * prefix_weights(ratio)).sum(axis=1))


def snrips(reward: FloatArray, ratio: FloatArray) -> Terms:
    """RIPS with each position's weights normalised by their own sum; a small bias of order 1/n."""
    weight = prefix_weights(ratio)
    return Terms(weight * reward, weight)


def cascade_dr(reward: FloatArray, ratio: FloatArray, q: FloatArray, q_target: FloatArray) -> Terms:
    """Cascade doubly robust (Kiyohara et al., WSDM 2022): RIPS with a reward model to take variance away.

    Args:
        reward: float (n, K).
        ratio: float (n, K).
        q: float (n, K), expected reward from position k on, given the shown items down to k.
        q_target: float (n, K), mean of ``q`` over the target policy's item at k, given the shown items above k.
    """
    weight = prefix_weights(ratio)
    above = np.concatenate([np.ones((len(weight), 1)), weight[:, :-1]], axis=1)
    return _mean((weight * (reward - q) + above * q_target).sum(axis=1))


# Episodes: a row is an episode, a column a step, padded with reward 0, ratio 1 and q 0.


def per_decision(reward: FloatArray, ratio: FloatArray, discount: float = 1.0) -> Terms:
    """Per-decision importance sampling (Precup, Sutton and Singh, ICML 2000) of the return of an episode.

    Args:
        reward: float (n, T).
        ratio: float (n, T), of the whole slate of each step.
        discount: Of rewards, per step.
    """
    return rips(reward * discount ** np.arange(reward.shape[1]), ratio)


def sn_per_decision(reward: FloatArray, ratio: FloatArray, discount: float = 1.0) -> Terms:
    """Per-decision importance sampling with each step's weights normalised by their own sum (weighted PDIS)."""
    return snrips(reward * discount ** np.arange(reward.shape[1]), ratio)


def sequential_dr(
    reward: FloatArray, ratio: FloatArray, q: FloatArray, q_target: FloatArray, discount: float = 1.0
) -> Terms:
    """Sequential doubly robust (Jiang and Li, ICML 2016) of the return of an episode.

    Args:
        reward: float (n, T).
        ratio: float (n, T), of the whole slate of each step.
        q: float (n, T), expected return from the step on, given what was shown at it.
        q_target: float (n, T), mean of ``q`` over the target policy's slate at the step.
        discount: Of rewards, per step.
    """
    factors = discount ** np.arange(reward.shape[1])
    return cascade_dr(reward * factors, ratio, q * factors, q_target * factors)
