"""Runs a study: every arm under every seed into a run folder, then measures, intervals, figure and tables.

::

    study.json      what was asked, measured and found      study.png     the figure      study.md     tables
    runs/ARM/seedN  a run folder for every arm and seed: one that is complete is not made again, one that was stopped
                    goes on
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from recsim_env import manifest as facts
from recsim_env.errors import ScenarioError
from recsim_env.experiments.runs import complete, refuse_another
from recsim_env.experiments.studies.base import STUDIES, Arm, Measured, Study, get_study
from recsim_env.experiments.studies.figure import plot
from recsim_env.experiments.studies.results import markdown, plain, summary
from recsim_env.plots import save_in
from recsim_env.registry import user_models
from recsim_env.rundir import RunFolder, load_run, measurement_folder
from recsim_env.runner import Progress
from recsim_env.scenario import Scenario, load_scenario

RESULT = "study.json"


def run_study(
    study: Study,
    seeds: Sequence[int],
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    on_progress: Callable[[Progress], None] = lambda at: None,
) -> Path:
    """Runs and measures all arms.

    Args:
        study: The study.
        seeds: Seeds; the same ones for every arm, so that differences are paired.
        out: Folder; None makes one under ``runs``.
        overrides: ``"key=value"`` strings for all arms; what makes an arm stands above them.
        on_progress: Called after every simulated day.

    Returns:
        The folder, with ``study.json``, ``study.md`` and ``study.png``.

    Raises:
        RunFolderError: If the folder holds something else, or runs of other settings.
    """
    asked = {(arm.name, seed): _scenario(study, arm, seed, overrides) for seed in seeds for arm in study.arms}
    path = measurement_folder(out, RESULT, f"study-{study.name}")
    places = {(arm, seed): path / "runs" / arm / f"seed{seed}" for arm, seed in asked}
    for cell, scenario in asked.items():
        refuse_another(places[cell], scenario)
    clock = _Clock(on_progress, len(asked))
    with RunFolder(path) as folder:
        folder.write_json(RESULT, {"schema": 1, "study": study.name, "status": "running"})
        measured: dict[str, list[Measured]] = {arm.name: [] for arm in study.arms}
        for number, (cell, scenario) in enumerate(asked.items()):
            clock.start(number, f"{cell[0]}, seed {cell[1]}")
            measured[cell[0]].append(study.measure(load_run(complete(scenario, places[cell], clock.tick))))
        record = {
            "schema": 1,
            "study": study.name,
            "status": "complete",
            "question": study.question,
            "scenario": asked[study.arms[0].name, seeds[0]].flat(),
            "seeds": list(seeds),
            "overrides": list(overrides),
            "arms": {arm.name: {"label": arm.label, "overrides": list(arm.overrides)} for arm in study.arms},
            "measured": {name: [plain(one) for one in found] for name, found in measured.items()},
            **summary(study, measured),
            "seconds": round(clock.seconds(), 1),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts.surroundings(),
        }
        folder.write_json(RESULT, record)
        folder.write_text("study.md", markdown(study, record))
        save_in(folder, "study.png", plot(study, record))
    return path


def _scenario(study: Study, arm: Arm, seed: int, overrides: Sequence[str]) -> Scenario:
    """The scenario of one run.

    Raises:
        ScenarioError: If the study cannot measure users of that model.
    """
    last = [*arm.overrides, f"seed={seed}", "replications=1"]
    asked = load_scenario(study.scenario, overrides).users.model
    if not user_models.get(asked, "users.model").needs_engine:
        return load_scenario(study.scenario, [*overrides, *last])
    if study.words is None:
        able = ", ".join(name for name in STUDIES if get_study(name).words is not None)
        raise ScenarioError(
            f"users.model {asked!r}: study {study.name!r} measures opinions or tastes, which only behavioural users "
            f"show. Studies for users with a language model: {able}. Or leave users.model out."
        )
    return load_scenario(study.scenario, [*study.words, *overrides, *last])


class _Clock:
    """Tells the progress of all runs as that of one.

    Args:
        report: Is told.
        n_cells: Runs in all.
    """

    def __init__(self, report: Callable[[Progress], None], n_cells: int) -> None:
        self._report, self._n_cells, self._begun = report, n_cells, time.perf_counter()
        self._cell, self._label, self._before, self._turns = 0, "", 0, 0

    def start(self, cell: int, label: str) -> None:
        """A run starts."""
        self._before, self._turns = self._before + self._turns, 0
        self._cell, self._label = cell, label

    def tick(self, at: Progress) -> None:
        """A day of the run is done."""
        self._turns = at.n_turns
        now = replace(at, cell=self._cell, n_cells=self._n_cells, label=self._label)
        self._report(replace(now, n_turns=self._before + at.n_turns, seconds=self.seconds()))

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._begun
