"""How good the off-policy estimators are, measured against the simulator's truth.

    python benchmarks/ope.py
    python benchmarks/ope.py --run FOLDER     # a run of the same scenario that is there already

Simulates 2,000 users for 30 days under a logging policy with much chance (some 87,000 logged pages of 10 items) and
two targets: one near to it, one farther away. Then ``recsim-env ope --calibrate`` measures bias, error and interval
coverage of every estimator, for slates of 1, 5 and 10 items and for sessions. The tables go to results/ope.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _report

from recsim_env.experiments.ope.report import notes, tables
from recsim_env.experiments.ope.study import Plan, run_ope
from recsim_env.experiments.tables import markdown_table
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario

SCENARIO = {
    "name": "overlap",
    "days": 30,
    "slate_size": 10,
    "users": {"model": "behavioral", "count": 2000},
    "recommenders": [
        {"name": "ease", "label": "logged", "temperature": 1.0, "epsilon": 0.2},
        {"name": "ease", "label": "sharper", "temperature": 0.7},
        {"name": "popularity", "label": "popular", "temperature": 1.0},
    ],
}


def body(record: Mapping[str, Any], seconds: float) -> str:
    """The page: every table of the evaluation."""
    lines = [
        "Scenario: behavioural users on the built-in data; `logged` is EASE with temperature 1 and epsilon 0.2, "
        "`sharper` EASE with temperature 0.7, `popular` popularity with temperature 1.",
        "",
        f"`recsim-env ope RUN --calibrate`, simulation not included: {seconds:.0f} s of processor time on one core.",
        "",
        *(f"- {text}" for text in notes(record)),
        "",
        "![Estimates and intervals](ope.png)",
        "",
    ]
    for title, table in tables(record):
        lines += [f"## {title}", "", *markdown_table(table), ""]
    told = record["calibration"]
    lines += [
        f"{told['n_states']:,} logged states, {told['replicates']} replicates ({2 * told['replicates']} for one item, "
        "40 for sessions): a coverage of 95 % is known to about 3 points for one item, 4 for slates, 7 for "
        "sessions. "
        "*fails*: outside 90 to 99 %.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Writes results/ope.md and results/ope.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run folder of this scenario")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    parser.add_argument("--results", type=Path, default=_report.RESULTS)
    arguments = parser.parse_args()
    changes = ["users.count=100", "days=3", "slate_size=2"] if arguments.quick else []
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or run_scenario(load_scenario(SCENARIO, changes), Path(folder) / "run")
        begun = time.process_time()
        out = run_ope(run, Path(folder) / "ope", Plan(calibrate=True, replicates=10 if arguments.quick else 100))
        seconds = time.process_time() - begun
        record = json.loads((out / "ope.json").read_text())
        arguments.results.mkdir(parents=True, exist_ok=True)
        shutil.copy(out / "ope.png", arguments.results / "ope.png")
    _report.write("ope", "Off-policy estimators against the truth", body(record, seconds), arguments.results)


if __name__ == "__main__":
    main()
