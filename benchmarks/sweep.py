# ruff: noqa: E402 (threads are set before NumPy is loaded)
"""How much faster a sweep of 8 runs is with 2 workers than with 1.

    python benchmarks/sweep.py [--users 500] [--days 30]

The scenario `quickstart` with two recommenders under four seeds. One worker is this process; two are processes beside
it, or tasks of Ray; their start, fits, run folders and the table are in the time. Every process has one thread for
linear algebra, so that what is compared is the work of one core with that of two.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import resource
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _report

from recsim_env.experiments.sweep import Plan, load_table, run_sweep
from recsim_env.experiments.tables import markdown_table

RECOMMENDERS, SEEDS = "popularity,ease", (0, 1, 2, 3)
WAYS = (("1 worker", 1, "processes"), ("2 processes", 2, "processes"), ("2 workers by Ray", 2, "ray"))


def processor_s() -> float:
    """Processor seconds of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure(workers: int, place: Any, plan: Plan) -> dict[str, Any]:
    """One sweep in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        load, begun, used = os.getloadavg()[0], time.perf_counter(), processor_s()
        table = load_table(run_sweep(plan, Path(folder) / "sweep", workers, place))
        seconds = time.perf_counter() - begun
        assert (table["error"] == "").all()
        who = resource.RUSAGE_SELF if workers == 1 else resource.RUSAGE_CHILDREN
        return {
            "seconds": seconds, "processor": processor_s() - used, "turns": int(table["n_turns"].sum()), "load": load,
            "table": table, "peak": resource.getrusage(who).ru_maxrss / 2**20,
        }  # fmt: skip


def main() -> None:
    """Measures all ways and writes ``results/sweep.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="hardly any users: for tests")
    parser.add_argument("--results", type=Path, default=_report.RESULTS, help="folder of the result")
    args = parser.parse_args()
    if args.quick:
        args.users, args.days = 12, 2
    plan = Plan(
        ["quickstart"], SEEDS, [f"users.count={args.users}", f"days={args.days}", f"recommenders={RECOMMENDERS}"]
    )
    ways = [way for way in WAYS if way[2] != "ray" or find_spec("ray")]
    found = {label: measure(workers, place, plan) for label, workers, place in ways}
    one = found["1 worker"]
    lines = [
        ["way", "wall time", "speed-up", "user-turns/s", "processor time", "peak memory of a worker", "load before"]
    ]
    for label, f in found.items():
        assert f["table"].drop(columns="seconds").equals(one["table"].drop(columns="seconds"))
        told = ["-", "-"] if "Ray" in label else [f"{f['processor']:.1f} s", f"{f['peak']:.2f} GiB"]
        lines.append(
            [label, f"{f['seconds']:.1f} s", f"{one['seconds'] / f['seconds']:.2f}",
             f"{f['turns'] / f['seconds']:,.0f}", *told, f"{f['load']:.1f}"]
        )  # fmt: skip
    body = [
        f"8 runs of `quickstart` ({RECOMMENDERS.replace(',', ', ')}; seeds 0 to 3), {args.users} users, "
        f"{args.days} days, {one['turns']:,} user-turns in all; each way once. The three tables are "
        "equal but for the seconds.",
        "",
        *markdown_table(lines),
        "",
        "*Load before* is the machine's load average over the last minute: of everything else that ran when the "
        "measurement began, and of the measurement before it. Where processor time is far below wall time times "
        "workers, other work had the cores. What Ray's processes used is not known here.",
    ]
    _report.write("sweep", "Sweeps", "\n".join(body), args.results)


if __name__ == "__main__":
    main()
