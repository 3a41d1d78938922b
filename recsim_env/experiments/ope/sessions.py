"""Estimators of the return of a session, measured against on-policy runs.

Every user of a small population opens the app for the first time, with fresh luck in every round: once under the
logging policy, for the logs, and once under each target policy, for the truth. All first sessions start alike whatever
the policy, so the mean return of the target's own sessions is what its estimate should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from recsim_env.draws import Draws
from recsim_env.evaluation.ope.reward_model import halves
from recsim_env.evaluation.ope.turns import SESSION, Episodes, Turns, episode_terms
from recsim_env.experiments.ope.policies import BLOCK
from recsim_env.experiments.ope.replicates import Score, replicate
from recsim_env.records import BoolArray, FloatArray, IntArray, MessageKind, ObservationBatch, SlateBatch
from recsim_env.simulator import Outcome, Simulator
from recsim_env.visible import VisibleState

if TYPE_CHECKING:
    from recsim_env.experiments.ope.calibrate import Setting
    from recsim_env.experiments.ope.study import Study

USERS = BLOCK
"""Users of a round: one block of scores."""
ROUNDS = 40
"""Rounds under the logging policy at most, so that the calibration stays short."""
TRUTH_ROUNDS = 10
"""Rounds under each target policy."""


def calibrate_sessions(study: Study, setting: Setting, slate_size: int) -> list[dict[str, Any]]:
    """A row per target and estimator of the session return, slates of K items."""
    n_users = min(USERS, study.scenario.users.count)
    simulator = _simulator(study, n_users, slate_size)
    rounds = min(ROUNDS, setting.replicates)
    truths = []
    for place in range(len(setting.targets)):
        own = [
            outcome.feedback.clicked.sum()
            for number in range(TRUTH_ROUNDS)
            for _, _, _, outcome, _ in _first_sessions(simulator, setting, place + 1, rounds + number)
        ]
        truths.append(float(np.sum(own)) / (TRUTH_ROUNDS * n_users))
    bank = _Bank(setting, slate_size)
    for number in range(rounds):
        for obs, items, policies, outcome, searched in _first_sessions(simulator, setting, 0, number):
            bank.add(number, obs, items, policies, outcome, searched)
    return bank.rows(truths, n_users, rounds)


def _simulator(study: Study, n_users: int, slate_size: int) -> Simulator:
    """A simulator at its start, for slates of another size than the scenario's."""
    simulator = study.world.simulator(study.scenario.seed, n_users)
    length = max(study.scenario.history_length, slate_size)
    simulator.slate_size = slate_size
    simulator.visible = VisibleState(simulator.catalog, simulator.users, slate_size, length)
    return simulator


def _first_sessions(
    simulator: Simulator, setting: Setting, policy: int, number: int
) -> Iterator[tuple[ObservationBatch, IntArray, list[Any], Outcome, BoolArray]]:
    """First sessions of everybody under a policy, turn by turn, in round ``number``.

    Policy 0 is the logging one; with its turns come all policies, with a target's only itself.
    """
    everybody = np.arange(simulator.users.n_users)
    simulator.reset_rows(everybody)  # a new life has new luck
    simulator.open(everybody, 0, 0)
    draws = Draws(setting.draws.seed + 1 + number + 1000 * policy)
    active = everybody
    while active.size:
        obs = simulator.observe(active)
        policies = [setting.policy(policy, obs)] if policy else setting.policies(obs)
        items = policies[0].draw(simulator.slate_size, obs, draws)
        searched = obs.message_kind == MessageKind.SEARCH
        if searched.any():
            items[searched] = simulator.search(obs.take(searched), simulator.slate_size).items
        unknown = np.full(items.shape, np.nan, np.float32)
        outcome = simulator.react(obs, SlateBatch(items, unknown, unknown, "calibration"))
        yield obs, items, policies, outcome, searched
        active = active[~outcome.left]


class _Bank:
    """All logged turns of all rounds."""

    def __init__(self, setting: Setting, slate_size: int) -> None:
        self.setting, self.slate_size = setting, slate_size
        self._turns: list[tuple[IntArray, FloatArray, BoolArray, FloatArray]] = []
        self._beside: list[list[tuple[FloatArray, FloatArray]]] = []

    def add(
        self,
        number: int,
        obs: ObservationBatch,
        items: IntArray,
        policies: list[Any],
        outcome: Outcome,
        searched: BoolArray,
    ) -> None:
        """One turn of everybody who is still there."""
        model, half = self.setting.model, halves(obs.user_index)
        leaning, table = model.facts.leaning(obs.history), model.item_table()
        logger, *targets = policies
        chance = logger.propensity(items)
        q = model.predict(half, model.features(half, table[items], leaning))
        beside = []
        draws = Draws(self.setting.draws.seed - 1 - number)
        for target in targets:
            slates = target.draw(self.slate_size, obs, draws)
            drawn = model.predict(half, model.features(half, table[slates], leaning))
            beside.append((target.propensity(items) / np.where(searched[:, None], 1.0, chance), drawn))
        unit = obs.user_index + number * 2**32
        self._turns.append((unit, outcome.feedback.clicked.astype(np.float64), searched, q))
        self._beside.append(beside)

    def rows(self, truths: list[float], n_users: int, rounds: int) -> list[dict[str, Any]]:
        """A row per target and estimator."""
        unit, reward, searched, q = (np.concatenate(column) for column in zip(*self._turns, strict=True))
        order = np.argsort(unit, kind="stable")  # session after session, each in the order of time
        starts = np.searchsorted(unit[order], np.arange(n_users)[None, :] + (np.arange(rounds) << 32)[:, None])
        lengths = np.bincount((unit >> 32) * n_users + (unit & 0xFFFFFFFF), minlength=rounds * n_users)
        lengths = lengths.reshape(rounds, n_users)
        found = []
        for place, title in enumerate(self.setting.titles):
            ratio, drawn = (np.concatenate(column) for column in zip(*(b[place] for b in self._beside), strict=True))
            whole = Turns(reward[order], ratio[order], None, q[order], None, drawn[order])
            score = Score(truths[place], n_users)
            for number in range(rounds):
                rows = replicate(np.arange(n_users), number, n_users, rounds, self.setting.draws)
                first, size = starts[rows.fresh, rows.unit], lengths[rows.fresh, rows.unit]
                turn = np.arange(int(size.sum())) + np.repeat(first - (np.cumsum(size) - size), size)
                episodes = Episodes.of(np.repeat(np.arange(len(size)), size))
                half = np.repeat(halves(rows.unit), size)
                terms = episode_terms(whole.take(turn), episodes, half, searched[order][turn])
                score.add(terms, rows.cluster, np.zeros(len(size), np.bool_))
            found += score.rows({"estimand": SESSION, "slate_size": self.slate_size, "target": title})
        return found
