"""Do offline figures, off-policy estimates and simulated users order recommenders alike?

    python benchmarks/agreement.py [--users behavioral,llm] [--count 1000] [--days 14] [--llm-users 48] [--llm-days 3]

Nine recommenders on the built-in data. Language-model users, with the package's small model, are few and stay for a few
days, since they are slow: their intervals are wide, and the page says how wide.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import _report

from recsim_env.experiments.agreement import DEFAULT, RESULT, Plan, markdown, run_agreement
from recsim_env.rundir import load_measurement
from recsim_env.scenario import load_scenario

LLM_USERS = {"averages": True, "remembered": 16, "watch_bias": -1.5, "temperature": 0.5}
"""Settings that the built-in model was trained for, as in llm_quickstart."""


def main() -> None:
    """Measures, prints and keeps the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", default="behavioral,llm")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--llm-users", type=int, default=48)
    parser.add_argument("--llm-days", type=int, default=3)
    arguments = parser.parse_args()
    asked = {
        "name": "agreement", "users": {"count": arguments.count, **LLM_USERS}, "days": arguments.days,
        "recommenders": [dict(section) for section in DEFAULT], "engine": {"name": "transformers", "model": "builtin"},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        plan = Plan(tuple(arguments.users.split(",")), n_llm_users=arguments.llm_users, llm_days=arguments.llm_days)
        folder = run_agreement(load_scenario(asked), Path(place) / "agreement", plan, tell)
        record = load_measurement(folder, RESULT)
        body = markdown(record).split("\n", 2)[2]
        _report.write("agreement", "Agreement of orders", f"{body}\nTook {record['seconds']:,.0f} s.\n")
        shutil.copy(folder / "agreement.png", _report.RESULTS / "agreement.png")


def tell(at: object) -> None:
    """Progress on the error stream."""
    print(getattr(at, "label", ""), getattr(at, "day", ""), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
