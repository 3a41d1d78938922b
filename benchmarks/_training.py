"""What the benchmarks of trained policies share: their options, intervals over seeds, and trainings that are kept."""

from __future__ import annotations

import argparse
from pathlib import Path

import _report

from recsim_env.evaluation.bootstrap import over_seeds as interval_over_seeds
from recsim_env.scenario import Scenario
from recsim_env.training.policy import train_policy


def parser(about: str | None) -> argparse.ArgumentParser:
    """Options of a benchmark that trains policies over seeds."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--iterations", type=int)
    made.add_argument("--keep", type=Path)
    made.add_argument("--results", type=Path, default=_report.RESULTS)
    made.add_argument("--quick", action="store_true")
    return made


def over_seeds(values: list[float]) -> str:
    """Mean, and its 95 % interval over seeds where there are several."""
    mean, _, high = interval_over_seeds(values)
    return f"{mean:.3f}" if len(values) < 2 else f"{mean:.3f} ± {high - mean:.3f}"


def train_once(scenario: Scenario, folder: Path) -> None:
    """Trains into a folder, from its checkpoint if there is one; does nothing where it is done."""
    if not (folder / "training.json").exists():
        told = train_policy(scenario, folder, resume=(folder / "checkpoint").exists())
        print(f"{folder.name}: {told['seconds']:.0f} s", flush=True)
