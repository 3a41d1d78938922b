# ruff: noqa: E402 (threads are set before NumPy is loaded)
"""RecoWorld's question: do users stay longer if the recommender hears what they ask for?

    python benchmarks/retention.py [--seeds 5] [--iterations N] [--keep <folder>]

`recsim-env train policy rl_retention`, three times a seed: **heard** (the policy reads the users' instructions),
**ignored** (the same users speak, the policy does not read them) and **absent** (users say nothing). Each is then
played with held-out users, who have the same luck in all three; differences are paired by user.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "2")

import argparse
import json
import tempfile
from pathlib import Path

import _report
import numpy as np
from _training import over_seeds, parser, train_once

from recsim_env.build import World
from recsim_env.evaluation.bootstrap import Intervals, paired_difference, ratio_intervals
from recsim_env.experiments.tables import markdown_table
from recsim_env.records import FloatArray
from recsim_env.scenario import Scenario, load_scenario
from recsim_env.training.experience import of, play
from recsim_env.training.policy import held_out_users
from recsim_env.vector_env import RecSimVectorEnv

WAYS = {
    "heard": ["recommenders=[{name: slate-pg, epochs: 4}, popularity]"],
    "ignored": ["recommenders=[{name: slate-pg, epochs: 4, hears: false}, popularity]"],
    "absent": ["recommenders=[{name: slate-pg, epochs: 4}, popularity]", "users.speak=0"],
}
MEASURES = {
    "days with a visit": "visits on different days, of the scenario's days",
    "visits": "sessions of a user",
    "stayed": "share who had not stopped for good by the last day",
    "clicks": "of a user's life",
}
PAIRS = (("heard", "ignored"), ("heard", "absent"), ("ignored", "absent"))


def scenario_of(way: str, seed: int, args: argparse.Namespace) -> Scenario:
    """`rl_retention` with one way of hearing."""
    changes = [*WAYS[way], f"seed={seed}"]
    if args.iterations:
        changes += [f"training.iterations={args.iterations}"]
    if args.quick:
        changes = [change.replace("epochs: 4", "epochs: 1") for change in changes]
        changes += ["training.num_envs=16", "training.turns=8", "training.evaluate_users=10", "training.held_out=0.02"]
    return load_scenario("rl_retention", changes)


def lives(way: str, seed: int, keep: Path, args: argparse.Namespace) -> dict[str, FloatArray]:
    """Lives of the held-out users under the policy that was trained this way, by measure, float (U,)."""
    folder, scenario = keep / f"{way}-{seed}", scenario_of(way, seed, args)
    train_once(scenario, folder)
    world = World(scenario)
    held, _ = held_out_users(world)
    policy = world.recommender(scenario.recommenders[0].model_copy(update={"path": folder, "config": {}}))
    found = [play(RecSimVectorEnv(world=world.of(held), num_envs=len(held)), of(policy), luck) for luck in range(3)]
    return {
        "days with a visit": np.concatenate([one.days for one in found]).astype(np.float64),
        "visits": np.concatenate([one.sessions for one in found]).astype(np.float64),
        "stayed": np.concatenate([~one.churned for one in found]).astype(np.float64),
        "clicks": np.concatenate([one.clicks for one in found]).astype(np.float64),
    }


def others(keep: Path, seeds: int) -> list[list[str]]:
    """What the trainings with users who are heard tell of every policy on held-out users."""
    told = [json.loads((keep / f"heard-{seed}" / "training.json").read_text())["held_out"] for seed in range(seeds)]
    measures = ("days", "stayed", "clicks")
    return [[name, *(over_seeds([one[name][m]["mean"] for one in told]) for m in measures)] for name in told[0]]


def told(interval: Intervals, sign: str = "") -> str:
    """Mean and interval."""
    value, low, high = (float(part[0]) for part in (interval.value, interval.low, interval.high))
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def main() -> None:
    """Trains, plays and writes ``results/retention.md``."""
    args = parser(__doc__).parse_args()
    if args.quick:
        args.seeds, args.iterations = 1, 1
    with tempfile.TemporaryDirectory() as scratch:
        keep = args.keep or Path(scratch)
        runs = {way: [lives(way, seed, keep, args) for seed in range(args.seeds)] for way in WAYS}
        beside = [["", "days with a visit", "stayed", "clicks"], *others(keep, args.seeds)]
    joined = {way: {m: np.concatenate([run[m] for run in found]) for m in MEASURES} for way, found in runs.items()}
    one = np.ones((len(joined["heard"]["visits"]), 1))
    head = ["", *MEASURES]
    means = [head, *([way, *(told(ratio_intervals(joined[way][m][:, None], one)) for m in MEASURES)] for way in WAYS)]
    more = [
        [
            f"{a} minus {b}",
            *(
                told(paired_difference((joined[a][m][:, None], one), (joined[b][m][:, None], one)), "+")
                for m in MEASURES
            ),
        ]
        for a, b in PAIRS
    ]
    trainings = [
        [
            f"{a} minus {b}",
            *(
                over_seeds([float(x[m].mean() - y[m].mean()) for x, y in zip(runs[a], runs[b], strict=True)])
                for m in MEASURES
            ),
        ]
        for a, b in PAIRS
    ]
    args.results.mkdir(parents=True, exist_ok=True)
    plot(runs, args.results / "retention.png")
    body = [
        f"Scenario `rl_retention`, seeds 0 to {args.seeds - 1}, a policy of its own for each; {len(one):,} lives of "
        "users who were held out of training, three each. In brackets 95 % intervals by bootstrap over lives.",
        "",
        *(f"- {name}: {about}" for name, about in MEASURES.items()),
        "",
        *markdown_table(means),
        "",
        "## Paired differences",
        "",
        "Intervals over lives: of these very policies.",
        "",
        *markdown_table([head, *more]),
        "",
        "± over seeds: of policies that are trained anew, users and luck anew too.",
        "",
        *markdown_table([head, *trainings]),
        "",
        "## Beside policies that do not learn",
        "",
        "One life of every held-out user who speaks; means over seeds.",
        "",
        *markdown_table(beside),
        "",
        "![Days with a visit](retention.png)",
    ]
    _report.write("retention", "Instructions heard, ignored, absent", "\n".join(body), args.results)


def plot(runs: dict[str, list[dict[str, FloatArray]]], path: Path) -> None:
    """Mean of each seed's policy by way, and over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    shown = (("days with a visit", "Days with a visit"), ("stayed", "Still a user at the end (share)"))
    for axes, (measure, label) in zip(figure.subplots(1, 2), shown, strict=True):
        for x, (way, colour) in enumerate(zip(runs, ("#0072B2", "#D55E00", "#8A8A8A"), strict=True)):
            means = [run[measure].mean() for run in runs[way]]
            axes.scatter(np.full(len(means), x), means, color=colour, s=28, alpha=0.7)
            axes.hlines(np.mean(means), x - 0.25, x + 0.25, color=colour, linewidth=2.5)
        axes.set_xticks(range(len(runs)), list(runs))
        axes.set_xlim(-0.6, len(runs) - 0.4)
        axes.set_ylabel(label)
        axes.grid(alpha=0.25, axis="y")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.supxlabel("Instructions of the users (points: seeds; bars: their mean)")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
