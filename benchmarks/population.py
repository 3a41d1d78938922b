# ruff: noqa: E402 (threads are set before NumPy is loaded)
"""Time and memory of a population with a social graph, and how much of it the Mesa layer takes.

    python benchmarks/population.py [--sizes 1000 10000 100000] [--days 30]

Behavioural users on the built-in data, four fifths of them members on day 0, the others arriving; a small world of ten
acquaintances; everything that users can do to each other switched on; random pages of ten films, the cheapest
recommender there is, so that the share of the Mesa layer is not made small by an expensive one. Each size in a
process of its own, pinned to one core, the run folder written.

The Mesa layer is what `recsim_env/population.py` does besides the users' own talk: creating and removing agents,
members, arrivals, counting and collecting. Talk (who tells whom what, the store of opinions, drift) is timed by itself.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _report

from recsim_env import build
from recsim_env.agents.influence import Influence
from recsim_env.build import World
from recsim_env.experiments.tables import markdown_table
from recsim_env.population import Population
from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario

GOAL_SHARE = 0.3
SETTINGS = {
    "graph": "watts-strogatz", "degree": 10, "members": 0.8, "word_of_mouth": 0.01, "chat": 0.3, "post": 0.1,
    "sway": 0.5, "conformity": 0.1, "drift": 0.05,
}  # fmt: skip
MESA = ("__init__", "morning", "evening", "write_start", "close")
TALK = ("exchange", "hear", "sway", "conform", "live")


def timed(owner: Any, name: str, label: str, spent: dict[str, float]) -> None:
    """Adds the time of a function to what was spent under a label."""
    original: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            spent[label] += time.perf_counter() - begun

    setattr(owner, name, wrapped)


def measure(users: int, days: int) -> dict[str, Any]:
    """Runs in a process of its own."""
    spent: dict[str, float] = defaultdict(float)
    for name in MESA:
        timed(Population, name, "population", spent)
    for name in TALK:
        timed(Influence, name, "exchange" if name in ("exchange", "hear") else "page", spent)
    timed(build, "make_graph", "graph", spent)
    population = {**SETTINGS, "arrivals": users / 200}
    scenario = load_scenario(
        {"name": "population", "users": {"count": users}, "days": days, "recommenders": ["uniform"],
         "population": population}
    )  # fmt: skip
    World(scenario).user_model  # noqa: B018 (imports and data are not what is measured)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as place:
        begun, processor = time.perf_counter(), time.process_time()
        run = load_run(run_scenario(scenario, Path(place) / "run"))
        seconds, processor = time.perf_counter() - begun, time.process_time() - processor
        rows = run.population
        cell = run.manifest["cells"][0]
        return {
            "seconds": seconds, "processor": processor, "turns": cell["n_turns"],
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "before": before / 2**20,
            "mesa": spent["population"] - spent["exchange"], "talk": spent["exchange"] + spent["page"],
            "graph": spent["graph"], "members": int(rows["members"].iloc[-1]), "ties": len(run.friends) // 2,
            "heard": int(rows["heard"].sum()),
        }  # fmt: skip


def report(found: dict[int, dict[str, Any]], days: int, folder: Path) -> None:
    """Writes the table."""
    head = [
        "users", "user-turns", "wall time", "processor time", "user-turns/s", "peak memory", "Mesa layer", "talk",
        "graph", "ties", "opinions heard", "members at the end",
    ]  # fmt: skip
    lines = [head]
    for users, f in found.items():
        whole = f["seconds"]
        lines.append(
            [
                f"{users:,}", f"{f['turns']:,}", f"{whole:.1f} s",
                f"{f['processor']:.1f} s", f"{f['turns'] / whole:,.0f}",
                f"{f['peak']:.2f} GiB ({f['before']:.2f} before)", f"{f['mesa'] / whole:.1%}",
                f"{f['talk'] / whole:.1%}", f"{f['graph']:.2f} s", f"{f['ties']:,}", f"{f['heard']:,}",
                f"{f['members']:,}",
            ]
        )  # fmt: skip
    worst = max(f["mesa"] / f["seconds"] for f in found.values())
    verdict = "met" if worst <= GOAL_SHARE else "missed"
    body = [
        f"{days} days; {', '.join(f'{k} {v}' for k, v in SETTINGS.items())}, arrivals a 200th of the users a day. Wall "
        "time includes making users and graph, and writing the run folder; where it is far above the processor's, "
        "other work had the core.",
        "",
        *markdown_table(lines),
        "",
        f"Share of the wall time in the Mesa layer, at most: {worst:.1%} (goal: below {GOAL_SHARE:.0%}, {verdict}).",
    ]
    _report.write("population", "Populations", "\n".join(body), folder)


def main() -> None:
    """Measures every size in a fresh process and writes ``results/population.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="hardly any users: for tests")
    parser.add_argument("--results", type=Path, default=_report.RESULTS, help="folder of the result")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.days = [60], 4
    if args.measure:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(measure(args.measure, args.days)))
        return
    found = {}
    for size in args.sizes:
        command = [sys.executable, __file__, "--measure", str(size), "--days", str(args.days)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[size] = json.loads(done.stdout.splitlines()[-1])
    report(found, args.days, args.results)


if __name__ == "__main__":
    main()
