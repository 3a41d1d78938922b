"""Run folders that an experiment makes, goes on with, or takes as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from recsim_env.errors import RunFolderError
from recsim_env.rundir import load_run
from recsim_env.runner import Progress, run_scenario
from recsim_env.scenario import Scenario


def complete(scenario: Scenario, path: Path, on_progress: Callable[[Progress], None]) -> Path:
    """One run; it goes on where it was stopped, and what is complete is not made again."""
    begun = (path / "manifest.json").exists()
    if path.exists() and not begun:  # killed before it had written its head: nothing is committed
        shutil.rmtree(path)
    if begun and load_run(path).manifest["status"] == "complete":
        return path
    return run_scenario(scenario, path, (), begun, on_progress)


def refuse_another(path: Path, scenario: Scenario) -> None:
    """Refuses the run of another scenario, whose figures would be told as this one's.

    Raises:
        RunFolderError: If the folder holds one.
    """
    known = (path / "manifest.json").exists()
    if known and load_run(path).manifest["fingerprint"]["scenario"] != scenario.fingerprint():
        raise RunFolderError(
            f"{path} holds a run of another scenario (see {path / 'scenario.yaml'}). Ask for the same users, days, "
            "recommenders and settings as then, or choose another folder with --out."
        )
