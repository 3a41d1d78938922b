"""How good the estimators are, measured where the truth is known: ``recsim-env ope RUN --calibrate``.

One turn: states are picked at random among the logged ones and lived again
(:mod:`recsim_env.experiments.ope.states`). Their users and states are the population. A replicate draws users with
replacement and takes all their states; in each, the logging policy shows a fresh slate and the user reacts afresh. The
truth is the target policy's expected clicks in the population's states: for one item exact, the sum over all items of
probability shown times probability clicked; for slates the mean probability of a click, before the draw, over drawn
slates.

Coverage is the share of replicates whose 95 % interval holds the truth. The reward model is the one of the run's log;
it is not fitted again for every replicate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.evaluation.ope.reward_model import RewardModel, halves
from recsim_env.evaluation.ope.turns import ONE_TURN, Turns, turn_terms
from recsim_env.experiments.ope.policies import NextItem, next_item
from recsim_env.experiments.ope.replicates import Score, replicate
from recsim_env.experiments.ope.states import Fork, forks, lucky, picked_states
from recsim_env.interfaces import Recommender
from recsim_env.records import FloatArray, IntArray, ObservationBatch

if TYPE_CHECKING:
    from recsim_env.experiments.ope.logs import Log
    from recsim_env.experiments.ope.study import Study

SLATES = (1, 5)
"""Slate sizes that are calibrated beside the run's own."""
WORK = 6000
"""Forked states times policies: more states for fewer policies."""
CELLS = 30_000_000
"""Largest number of (state, item, policy) probabilities that are held at once."""
TRUTH_DRAWS = 20
"""Slates that are drawn from a target policy in each state for the truth."""
SEED = 20_000
"""Added to the run's seed: the calibration shares no luck with the run."""


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What all parts of the calibration share.

    Attributes:
        titles: Of the target policies, T.
        logger: The logging policy.
        targets: The T target policies.
        model: The reward model of the run's log.
        log: The run's log.
        n_items: I.
        replicates: R.
        draws: Luck of the calibration.
    """

    titles: tuple[str, ...]
    logger: Recommender
    targets: tuple[Recommender, ...]
    model: RewardModel
    log: Log
    n_items: int
    replicates: int
    draws: Draws

    def policy(self, number: int, obs: ObservationBatch) -> NextItem:
        """The logging policy (0) or a target (from 1).

        Raises:
            ScenarioError: If it does not rank by scores.
        """
        policy = next_item((self.logger, *self.targets)[number], obs, self.n_items)
        if policy is None:
            raise ScenarioError(
                "--calibrate draws thousands of slates in one state, which needs recommenders that rank by scores; "
                f"{('the logging policy', *self.titles)[number]} does not. Name others with --logged and --target."
            )
        return policy

    def policies(self, obs: ObservationBatch) -> list[NextItem]:
        """Logging policy first, then the targets."""
        return [self.policy(number, obs) for number in range(1 + len(self.targets))]


def calibrate(study: Study, log: Log, model: RewardModel) -> dict[str, Any]:
    """Bias, error and coverage of every estimator, as plain data."""
    from recsim_env.experiments.ope.sessions import calibrate_sessions

    setting = Setting(
        tuple(section.title for section in study.targets),
        study.recommender(study.logged),
        tuple(study.recommender(section) for section in study.targets),
        model, log, study.n_items, study.plan.replicates, Draws(study.scenario.seed + SEED),
    )  # fmt: skip
    sizes = sorted({*SLATES, study.scenario.slate_size})
    parts: list[OneItem | SlatePool] = [OneItem(setting), *(SlatePool(setting, k) for k in sizes if k > 1)]
    title, seed = study.logged.title, study.seeds(study.logged.title)[0]
    rows = pick_rows(setting, log.own[log.user[log.own] < 2**32])  # those of the first seed
    study.tell(len(study.targets), "Calibration: slates for logged states")
    for obs, _ in picked_states(study.run, title, seed, rows):
        policies, half = setting.policies(obs), halves(obs.user_index)
        leaning = model.facts.leaning(obs.history)
        for part in parts:
            part.prepare(obs, policies, half, leaning)
    study.tell(len(study.targets) + 1, "Calibration: living logged states again")
    for fork in forks(study.world, study.run, title, seed, rows):
        for part in parts:
            part.ask(fork)
    study.tell(len(study.targets) + 2, "Calibration: one turn")
    told = [row for part in parts for row in part.rows()]
    study.tell(len(study.targets) + 3, "Calibration: sessions")
    for k in sorted({1, study.scenario.slate_size}):
        told += calibrate_sessions(study, setting, k)
    study.tell(len(study.targets) + 4, "Calibrated")
    return {"n_states": len(rows), "replicates": setting.replicates, "rows": told}


def pick_rows(setting: Setting, rows: IntArray) -> IntArray:
    """The population's turns: some of the given ones at random, ascending."""
    n_policies = 1 + len(setting.targets)
    n_states = int(np.clip(min(WORK // n_policies, CELLS // (n_policies * setting.n_items)), 200, 2000))
    return np.sort(rows[setting.draws.permutation("ope-states", len(rows))[:n_states]])


class OneItem:
    """Slates of one item, by tables over all items: exact truth, and replicates as long as the run's log.

    The tables, by state and item: probability under each policy, probability of a click, reward model.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._owner: list[IntArray] = []
        self._chances: list[list[FloatArray]] = []
        self._q: list[FloatArray] = []
        self._clicks: list[FloatArray] = []

    def prepare(self, obs: ObservationBatch, policies: list[NextItem], half: IntArray, leaning: FloatArray) -> None:
        """Fills the policies' and the model's tables for some states."""
        model = self.setting.model
        table = model.item_table()[:-1]
        features = model.features(half, np.broadcast_to(table, (obs.n, *table.shape)), leaning)
        q = np.einsum("nif,nf->ni", features, model.coefficients[half, 0])
        self._owner.append(obs.user_index)
        self._chances.append([policy.first() for policy in policies])
        self._q.append(q.astype(np.float32))

    def ask(self, fork: Fork) -> None:
        """Fills the table of clicks for the states of a fork."""
        every_item = np.broadcast_to(
            np.arange(self.setting.n_items)[:, None, None], (self.setting.n_items, fork.obs.n, 1)
        )
        self._clicks.append(fork.ask(every_item, 0)[1][:, :, 0].T)

    def rows(self) -> list[dict[str, Any]]:
        """A row per target and estimator."""
        owner = np.concatenate(self._owner)
        clicks, q = np.concatenate(self._clicks), np.concatenate(self._q)
        logged, *targets = (np.concatenate(parts) for parts in zip(*self._chances, strict=True))
        n_users, last = len(np.unique(self.setting.log.user)), logged.shape[1] - 1
        times = max(1, round(self.setting.log.n / (n_users * len(owner) / len(np.unique(owner)))))
        scores = [Score(float((t * clicks).sum(axis=1, dtype=np.float64).mean()), n_users) for t in targets]
        expected = [(t * q).sum(axis=1, dtype=np.float64) for t in targets]
        ends = np.cumsum(logged, axis=1, dtype=np.float64)
        ends = (ends / ends[:, -1:] + np.arange(len(ends))[:, None]).ravel()
        for number in range(2 * self.setting.replicates):
            rows = replicate(owner, number, n_users, 1, self.setting.draws, times)
            state, (luck, luck_click) = rows.unit, self._luck(number, len(rows.unit))
            item = np.searchsorted(ends, state + luck, side="right") - state * (last + 1)
            item = np.clip(item, 0, last)
            reward = (luck_click < clicks[state, item]).astype(np.float64)[:, None]
            chance = logged[state, item].astype(np.float64)
            for score, target, mean in zip(scores, targets, expected, strict=True):
                ratio = (target[state, item] / chance)[:, None]
                turns = Turns(reward, ratio, None, q[state, item][:, None].astype(np.float64), mean[state][:, None])
                score.add(turn_terms(turns), rows.cluster, chance >= 1.0)
        about = {"estimand": ONE_TURN, "slate_size": 1}
        return [
            row
            for title, score in zip(self.setting.titles, scores, strict=True)
            for row in score.rows({**about, "target": title})
        ]

    def _luck(self, number: int, n: int) -> tuple[FloatArray, FloatArray]:
        """Two uniform draws a row, float64 (n,)."""
        first, second = Draws.uniform_pairs(self.setting.draws.keys("ope-items", number), np.arange(n))
        return first[0].astype(np.float64), second[0].astype(np.float64)


class SlatePool:
    """Slates of K items: R fresh slates and reactions of every state.

    Args:
        setting: Of the calibration.
        slate_size: K.
    """

    def __init__(self, setting: Setting, slate_size: int) -> None:
        self.setting, self.slate_size = setting, slate_size
        self._owner: list[IntArray] = []
        self._slates: list[IntArray] = []  # (R, n, K)
        self._sure: list[FloatArray] = []  # (R, n)
        self._own: list[IntArray] = []  # (T, D, n, K)
        self._beside: list[list[dict[str, FloatArray]]] = []  # by block and target: (R, n, K)
        self._reward: list[FloatArray] = []
        self._truth: list[FloatArray] = []  # (T, n)

    def prepare(self, obs: ObservationBatch, policies: list[NextItem], half: IntArray, leaning: FloatArray) -> None:
        """Draws all slates of some states, and what the targets make of those of the log."""
        logger, *targets = policies
        r = self.setting.replicates
        slates = self._drawn(logger, obs, range(r))
        own = [self._drawn(target, obs, range(r, r + TRUTH_DRAWS)) for target in targets]
        chance = np.stack([logger.propensity(items) for items in slates])
        q = np.stack([self._predict(half, items, leaning) for items in slates]).astype(np.float32)
        told = []
        for target, its in zip(targets, own, strict=True):
            found = self._target(target, slates, obs, half, leaning, logger.epsilon == 1.0)
            model_at_its = [self._predict(half, items, leaning) for items in its]
            drawn = np.stack([model_at_its[i % TRUTH_DRAWS] for i in range(r)]).astype(np.float32)
            arrays = {"ratio": found.pop("chance") / chance, "q": q, "q_drawn": drawn, "q_next": found["q_next"]}
            if "marginal" in found:
                arrays["position_ratio"] = found["marginal"] / chance[:, :, :1]
            told.append({name: np.asarray(values, np.float32) for name, values in arrays.items()})
        self._owner.append(obs.user_index)
        self._slates.append(slates)
        self._sure.append(chance.min(axis=2))
        self._own.append(np.stack(own))
        self._beside.append(told)

    def ask(self, fork: Fork) -> None:
        """Lets the users of a fork react to their slates."""
        if len(self._slates) > 1:  # all states are prepared: join the blocks once
            self._slates, self._own = [np.concatenate(self._slates, axis=1)], [np.concatenate(self._own, axis=2)]
        clicked, _ = fork.ask(self._slates[0][:, fork.place], 0)
        self._reward.append(clicked.astype(np.float32))
        own = self._own[0][:, :, fork.place]
        first = self.setting.replicates  # other luck than the logs have
        self._truth.append(np.stack([fork.ask(slates, first)[1].sum(axis=2).mean(axis=0) for slates in own]))

    def rows(self) -> list[dict[str, Any]]:
        """A row per target and estimator."""
        owner, reward = np.concatenate(self._owner), np.concatenate(self._reward, axis=1)
        sure, truth = np.concatenate(self._sure, axis=1), np.concatenate(self._truth, axis=1).mean(axis=1)
        later = self.setting.model.later(halves(owner), self.slate_size)
        n_users, found = len(np.unique(owner)), []
        for place, title in enumerate(self.setting.titles):
            score, blocks = Score(float(truth[place]), n_users), [told[place] for told in self._beside]
            arrays = {name: np.concatenate([block[name] for block in blocks], axis=1) for name in blocks[0]}
            for number in range(self.setting.replicates):
                rows = replicate(owner, number, n_users, self.setting.replicates, self.setting.draws)
                at = (rows.fresh, rows.unit)
                parts = {name: values[at].astype(np.float64) for name, values in arrays.items()}
                turns = Turns(reward[at].astype(np.float64), later=later[rows.unit], **parts)
                score.add(turn_terms(turns), rows.cluster, sure[at] >= 1.0)
            found += score.rows({"estimand": ONE_TURN, "slate_size": self.slate_size, "target": title})
        return found

    def _drawn(self, policy: NextItem, obs: ObservationBatch, numbers: range) -> IntArray:
        """A slate for each number, int32 (m, n, K)."""
        return np.stack([policy.draw(self.slate_size, lucky(obs, i), self.setting.draws) for i in numbers])

    def _target(
        self, target: NextItem, slates: IntArray, obs: ObservationBatch, half: IntArray, leaning: FloatArray,
        marginals: bool,
    ) -> dict[str, FloatArray]:  # fmt: skip
        """What a target makes of logged slates (R, n, K): chances, the model's mean over its next item, marginals."""
        model = self.setting.model
        found: dict[str, list[FloatArray]] = {"chance": [], "q_next": []}
        for number, items in enumerate(slates):
            given = target.given(items)
            found["chance"].append(given.probability(items))
            means = given.mean(model.item_table())
            found["q_next"].append(model.predict(half, model.features(half, means, leaning)))
            if marginals:  # by one drawn slate above: unbiased
                above = target.draw(self.slate_size, lucky(obs, number + 5 * len(slates)), self.setting.draws)
                found.setdefault("marginal", []).append(target.given(above).probability(items))
        return {name: np.stack(values) for name, values in found.items()}

    def _predict(self, half: IntArray, items: IntArray, leaning: FloatArray) -> FloatArray:
        """The reward model at slates (n, K)."""
        model = self.setting.model
        return model.predict(half, model.features(half, model.item_table()[items], leaning))
