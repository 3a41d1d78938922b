"""Runs a study: every arm under every seed into a run folder, then measures, intervals, figure and tables.

::

    study.json      what was asked, measured and found      study.png     the figure      study.md     tables
    runs/ARM/seedN  a run folder for every arm and seed: one that is complete is not made again, one that was stopped
                    goes on
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from recsim_env import manifest as facts
from recsim_env.experiments.jobs import Job
from recsim_env.experiments.runs import refuse_another
from recsim_env.experiments.studies.base import Measured, Study
from recsim_env.experiments.studies.figure import plot
from recsim_env.experiments.studies.results import markdown, plain, summary
from recsim_env.experiments.workers import measured_by, workers_for
from recsim_env.plots import save_in
from recsim_env.registry import user_models
from recsim_env.rundir import RunFolder, measurement_folder
from recsim_env.runner import Progress
from recsim_env.scenario import load_scenario

RESULT = "study.json"


def run_study(
    study: Study,
    seeds: Sequence[int],
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    on_progress: Callable[[Progress], None] = lambda at: None,
    workers: int = 1,
) -> Path:
    """Runs and measures all arms.

    Args:
        study: The study.
        seeds: Seeds; the same ones for every arm, so that differences are paired.
        out: Folder; None makes one under ``runs``.
        overrides: ``"key=value"`` strings for all arms; what makes an arm stands above them.
        on_progress: Called after every simulated day.
        workers: Runs at once, each in a process of its own; one are in this process.

    Returns:
        The folder, with ``study.json``, ``study.md`` and ``study.png``.

    Raises:
        RunFolderError: If the folder holds something else, or runs of other settings.
        ScenarioError: If several runs at once would load a language model each.
        RecsimError: If a run fails; the others are made all the same, and kept.
    """
    settled, arms = _settled(study, overrides)
    asked = {
        (name, seed): load_scenario(study.scenario, [*settled, *arm, f"seed={seed}", "replications=1"])
        for seed in seeds
        for name, arm in arms.items()
    }
    path = measurement_folder(out, RESULT, f"study-{study.name}")
    jobs = [
        Job(f"{arm}, seed {seed}", scenario, path / "runs" / arm / f"seed{seed}", study.measure)
        for (arm, seed), scenario in asked.items()
    ]
    for job in jobs:
        refuse_another(job.path, job.scenario)
    workers = workers_for(list(asked.values()), workers)
    begun = time.perf_counter()
    with RunFolder(path) as folder:
        folder.write_json(RESULT, {"schema": 1, "study": study.name, "status": "running"})
        measured: dict[str, list[Measured]] = {arm.name: [] for arm in study.arms}
        for (arm, _), found in zip(asked, measured_by(jobs, workers, on_progress), strict=True):
            measured[arm].append(found)
        record = {
            "schema": 1,
            "study": study.name,
            "status": "complete",
            "question": study.question,
            "scenario": asked[study.arms[0].name, seeds[0]].flat(),
            "seeds": list(seeds),
            "overrides": list(overrides),
            "arms": {arm.name: {"label": arm.label, "overrides": list(arms[arm.name])} for arm in study.arms},
            "measured": {name: [plain(one) for one in found] for name, found in measured.items()},
            **summary(study, measured),
            "seconds": round(time.perf_counter() - begun, 1),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts.surroundings(),
        }
        folder.write_json(RESULT, record)
        folder.write_text("study.md", markdown(study, record))
        save_in(folder, "study.png", plot(study, record))
    return path


def _settled(study: Study, overrides: Sequence[str]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Overrides for all arms (those asked for, above those by which the study takes such users), and of each arm."""
    words = user_models.get(load_scenario(study.scenario, overrides).users.model, "users.model").needs_engine
    arms = {arm.name: arm.words if words and arm.words is not None else arm.overrides for arm in study.arms}
    return [*study.words, *overrides] if words else list(overrides), arms
