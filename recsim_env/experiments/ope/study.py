"""What a recommender would have earned, from another one's log: ``recsim-env ope RUN``.

The log is one recommender's cells of a run folder. Targets are recommenders that are built and fitted again from the
run's scenario, as the runner did, and asked for the probability of every logged slate. A recommender that learns while
it serves, or is trained again during the run, is judged as it was on the first day.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from recsim_env import manifest as facts_of
from recsim_env.build import World
from recsim_env.errors import RecsimError, RunFolderError, ScenarioError
from recsim_env.evaluation.ope import reward_model
from recsim_env.evaluation.ope.estimate import Clusters, Estimate, estimate_all
from recsim_env.evaluation.ope.estimators import Terms
from recsim_env.evaluation.ope.reward_model import ItemFacts, RewardModel, halves
from recsim_env.evaluation.ope.turns import LIFE, ONE_TURN, SESSION, AllTerms, Episodes, episode_terms, turn_terms
from recsim_env.experiments.ope.choose import choose_logged, choose_targets, refuse_certain
from recsim_env.experiments.ope.logs import Beside, Earned, Follower, Log, Logger, observations, read_earned, read_log
from recsim_env.experiments.ope.report import RESULT, write_report
from recsim_env.experiments.ope.table import READERS, evaluate_table, is_table
from recsim_env.interfaces import Recommender
from recsim_env.rebuild import catalog_of
from recsim_env.records import FloatArray, IntArray
from recsim_env.rewards import Reward
from recsim_env.rundir import Run, RunFolder, cell_name, load_run, measurement_folder
from recsim_env.runner import Progress
from recsim_env.scenario import RecommenderSection, Scenario, load_scenario


@dataclass(frozen=True, slots=True)
class Plan:
    """What is evaluated.

    Attributes:
        logged: Recommender of the run whose turns are the log; None is the first with chance in its slates.
        targets: Recommenders of the run's scenario, registered names, or settings as in a scenario's YAML; none is all
            other recommenders of the scenario.
        reward: Name of a reward function.
        calibrate: Whether the estimators are measured against the simulator's truth.
        replicates: Logs that the calibration draws.
    """

    logged: str | None = None
    targets: tuple[str, ...] = ()
    reward: str = "clicks"
    calibrate: bool = False
    replicates: int = 100


def run_ope(
    source: str | Path,
    out: str | Path | None = None,
    plan: Plan | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Evaluates target policies on a log.

    Args:
        source: A run folder, or a CSV or Parquet file (:mod:`recsim_env.experiments.ope.table`).
        out: The folder of the results; None makes ``runs/ope-<name>-<time>``.
        plan: What is evaluated.
        on_progress: Called as the work goes on.

    Returns:
        The folder, with ``ope.json``, ``ope.md`` and ``ope.png``.

    Raises:
        RunFolderError: If the source is no run or the folder holds something else.
        UnknownNameError: If a recommender or reward does not exist.
        DataError: If a table holds a value that cannot be.
        RecsimError: If the log has no chance in it, or the data is not that of the run.
    """
    begun, plan = time.perf_counter(), plan or Plan()
    if Path(source).is_file() and not is_table(source):
        raise RunFolderError(
            f"{source} is neither a run folder nor a log. The name of a log ends in {' or '.join(READERS)}; "
            "docs/ope.md tells its columns."
        )
    if is_table(source):
        _check_table_options(plan)
        path = measurement_folder(out, RESULT, f"ope-{Path(source).stem}")
        record = evaluate_table(Path(source))
    else:
        study = Study(load_run(source), plan, on_progress)
        path = measurement_folder(out, RESULT, f"ope-{study.scenario.name}")
        study.check_calibration()
        try:
            record = study.evaluate()
        finally:
            study.world.close()  # a recommender that asks a language model has started one
    record |= {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begun, 3),
        **facts_of.surroundings(),
    }
    with RunFolder(path) as folder:
        folder.write_json(RESULT, record)
        write_report(folder, record)
    return path


def _check_table_options(plan: Plan) -> None:
    """Refuses options that need a run.

    Raises:
        ScenarioError: If one is given.
    """
    if plan.logged or plan.targets or plan.calibrate or plan.reward != Plan().reward:
        raise ScenarioError(
            "--logged, --target, --reward and --calibrate are for run folders. A table names its target policy by the "
            "column target_propensity and its reward by the column reward."
        )


class Study:
    """One evaluation.

    Args:
        run: The run.
        plan: What is evaluated.
        on_progress: Called as the work goes on.

    Attributes:
        scenario: The run's.
        world: Built from it.
        logged: The logging recommender's section.
        targets: Sections of the target policies.
    """

    def __init__(self, run: Run, plan: Plan, on_progress: Callable[[Progress], None]) -> None:
        self.run, self.plan, self.on_progress = run, plan, on_progress
        self.scenario: Scenario = load_scenario(run.manifest["scenario"])
        self.world = World(self.scenario)
        self._same_data()
        self.reward = Reward.from_weights({plan.reward: 1.0}, self.world.dataset.catalog.scale)
        self.logged = choose_logged(self.scenario, plan.logged, self.seeds)
        self.targets = choose_targets(self.scenario, self.logged, plan.targets)
        catalog = catalog_of(run)
        self.n_items = catalog.n_items
        self.facts = ItemFacts.of(catalog.popularity, catalog.item_categories)
        self._begun = time.perf_counter()

    def seeds(self, title: str) -> list[int]:
        """Seeds under which a recommender has committed turns."""
        progress = self.run.progress()
        return [s for s in self.scenario.seeds if progress.get(cell_name(title, s), {}).get("parts", 0) > 0]

    def evaluate(self) -> dict[str, Any]:
        """Estimates of every target, as plain data."""
        self.tell(0, "Reading the log")
        log = read_log(self.run, self.logged.title, self.seeds(self.logged.title), self.facts, self.reward)
        refuse_certain(log, self.logged.title)
        model, q = self._fit(log)
        estimates = self._on_log(log, model, q)
        calibration = None
        if self.plan.calibrate:
            from recsim_env.experiments.ope.calibrate import calibrate

            calibration = calibrate(self, log, model)
        return {
            "source": str(self.run.path),
            "scenario": self.scenario.flat(),
            "seeds": self.seeds(self.logged.title),
            "logged": self.logged.title,
            "reward": self.plan.reward,
            "slate_size": self.scenario.slate_size,
            "n_turns": log.n,
            "n_searched": int(log.searched.sum()),
            "n_users": len(np.unique(log.user)),
            "retrained": self.scenario.retrain_every > 0,
            "logged_value": mean_rows(
                Earned(log.user, log.session, log.reward.sum(axis=1, dtype=np.float64), log.searched), self.logged.title
            ),
            "on_policy": [row for section in self.targets for row in self._on_policy(section)],
            "estimates": estimates,
            "calibration": calibration,
        }

    def check_calibration(self) -> None:
        """Refuses, before any work, what cannot be calibrated.

        Raises:
            ScenarioError: If the users think with a language model, or the reward is not clicks.
        """
        if not self.plan.calibrate:
            return
        if self.scenario.users.model != "behavioral":
            raise ScenarioError(
                f"--calibrate asks users thousands of times in the same state, which needs behavioral users; this run "
                f"has users.model {self.scenario.users.model!r}. Leave --calibrate out, or calibrate on a run of the "
                "same recommenders with --set users.model=behavioral."
            )
        if self.plan.reward != "clicks":
            raise ScenarioError(
                f"--calibrate needs --reward clicks, whose probability is known before the draw; "
                f"{self.plan.reward!r} has none. Leave one of the two out."
            )

    def tell(self, number: float, label: str) -> None:
        """Tells how far the work is: targets first, then the calibration's parts."""
        n_cells = len(self.targets) + (4 if self.plan.calibrate else 0)
        at = round(1000 * number)
        self.on_progress(Progress(0, n_cells, label, at, 1000, 0, time.perf_counter() - self._begun))

    def recommender(self, section: RecommenderSection) -> Recommender:
        """A recommender, fitted as the runner fits it."""
        return self.world.recommender(section)

    def _fit(self, log: Log) -> tuple[RewardModel, FloatArray]:
        """The reward model and its values at the shown items, (n, K)."""
        half, own = halves(log.user), log.own
        model = reward_model.fit(self.facts, half[own], log.items[own], log.reward[own], log.leaning[own])
        table = model.item_table()
        q = np.empty(log.items.shape)
        for start in range(0, log.n, 8192):
            rows = slice(start, start + 8192)
            features = model.features(half[rows], table[log.items[rows]], log.leaning[rows])
            q[rows] = model.predict(half[rows], features)
        return model, q

    def _on_log(self, log: Log, model: RewardModel, q: FloatArray) -> list[dict[str, Any]]:
        """Rows of all estimators of all targets."""
        logger = Logger(self.recommender(self.logged), self.n_items)
        followers = [
            Follower(self.recommender(section), logger, model, log, self.n_items, self.world.draws)
            for section in self.targets
        ]
        for part, obs in observations(self.run, self.logged.title, self.seeds(self.logged.title)):
            for follower in followers:
                follower.add(obs, part)
            self.tell(len(self.targets) * part.stop / log.n, "Targets on the log")
        clusters, rows = Clusters.of(log.user[log.own]), []
        for section, follower in zip(self.targets, followers, strict=True):
            for estimand, estimates in all_estimates(follower.result(q), log, clusters).items():
                rows += [{"target": section.title, "estimand": estimand, **e.row()} for e in estimates]
        return rows

    def _on_policy(self, section: RecommenderSection) -> list[dict[str, Any]]:
        """What the target earned in its own cells of the run, if it has any."""
        titles = {s.title: s for s in self.scenario.recommenders}
        seeds = self.seeds(section.title) if titles.get(section.title) == section else []
        if not seeds:
            return []
        earned = read_earned(self.run, section.title, seeds, self.facts, self.reward, self.plan.reward)
        return mean_rows(earned, section.title)

    def _same_data(self) -> None:
        then, now = self.run.manifest["fingerprint"].get("data"), self.world.data_fingerprint()
        if then != now:
            raise RecsimError(
                f"{self.run.path} was made with another data set (fingerprint {then}, now {now}), so its recommenders "
                "cannot be fitted again. Put the data of that time where the scenario names it."
            )


def all_estimates(beside: Beside, log: Log, clusters: Clusters) -> dict[str, list[Estimate]]:
    """Every estimator of every estimand.

    Args:
        beside: The target policy beside the log.
        log: The log.
        clusters: Of the rows ``log.own``.
    """
    own, certain = log.own, log.unexplored
    found = {ONE_TURN: estimate_all(turn_terms(beside.turns.take(own)), clusters, certain[own], beside.unsupported)}
    forced = np.ones(log.n, np.bool_)
    forced[own] = False
    for estimand, number in ((SESSION, log.session), (LIFE, log.user)):
        episodes = Episodes.of(number)
        terms = episode_terms(beside.turns, episodes, halves(log.user), forced)
        whole = Clusters.of(log.user[episodes.first])
        certain_all = np.ones(len(episodes.first), np.bool_)
        np.logical_and.at(certain_all, episodes.place, certain)
        found[estimand] = estimate_all(terms, whole, certain_all, beside.unsupported)
    return found


def mean_rows(earned: Earned, title: str) -> list[dict[str, Any]]:
    """What a policy earned on its own turns: a row per estimand, with intervals over users."""
    own = ~earned.searched
    sums: dict[str, tuple[IntArray, FloatArray]] = {ONE_TURN: (earned.user[own], earned.reward[own])}
    for estimand, number in ((SESSION, earned.session), (LIFE, earned.user)):
        episodes = Episodes.of(number)
        total = np.bincount(episodes.place, earned.reward).astype(np.float64)
        sums[estimand] = earned.user[episodes.first], total
    rows = []
    for estimand, (user, values) in sums.items():
        terms: AllTerms = {"mean": (Terms(values[:, None], np.ones((len(values), 1))), None)}
        (estimate,) = estimate_all(terms, Clusters.of(user), np.zeros(len(user), np.bool_))
        rows.append({"target": title, "estimand": estimand, **{k: estimate.row()[k] for k in _MEAN}})
    return rows


_MEAN = ("value", "low", "high", "n")
