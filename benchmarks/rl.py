# ruff: noqa: E402 (threads are set before NumPy is loaded)
"""Policies that learn on simulated users, beside recommenders that do not, on users that none of them has met.

    python benchmarks/rl.py [--seeds 5] [--policies slate-pg,ppo,a2c] [--iterations N] [--keep <folder>]

Every policy is trained by `recsim-env train policy` on the scenario `rl_quickstart`, once per seed; the intervals are
Student's over seeds. `--keep` is a folder for trainings that are done, so that a stopped run goes on.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "2")

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import _report
import numpy as np
import pandas as pd
from _dummy import compare
from _training import over_seeds, parser, train_once

from recsim_env.build import World
from recsim_env.experiments.tables import markdown_table
from recsim_env.recommenders.gym_policy import GymPolicy
from recsim_env.scenario import Scenario, load_scenario
from recsim_env.training.curve import plot_curve
from recsim_env.training.policy import GREEDY

BASELINES = ["uniform", "popularity", "ease", "{name: sasrec, dim: 32, blocks: 1, epochs: 8}"]
COLUMNS = ("reward", "pages", "coverage", "gini")


def scenario_of(policy: str, seed: int, args: argparse.Namespace) -> Scenario:
    """`rl_quickstart` with one policy to train; those of Stable-Baselines3 choose among the 100 most popular items."""
    whole = policy in ("slate-pg", "slateq")
    own = f"{{name: {policy}, epochs: 4}}" if whole else policy
    changes = [f"recommenders=[{own}, {', '.join(BASELINES)}]", f"seed={seed}"]
    if not whole:
        changes += ["candidates=100"]
    if args.iterations:
        changes += [f"training.iterations={args.iterations}"]
    if args.quick:
        changes += [
            "training.num_envs=16", "training.turns=4", "training.evaluate_every=2", "training.second_users.count=20",
            "training.held_out=0.02", "training.evaluate_users=10",
        ]  # fmt: skip
    return load_scenario("rl_quickstart", changes)


def trained(policy: str, seed: int, keep: Path, args: argparse.Namespace) -> tuple[dict[str, Any], pd.DataFrame]:
    """What `training.json` tells, and the log."""
    folder = keep / f"{policy}-{seed}"
    train_once(scenario_of(policy, seed, args), folder)
    return json.loads((folder / "training.json").read_text()), pd.read_parquet(folder / "log.parquet")


def figure(row: dict[str, Any], column: str) -> float:
    """One figure of a policy on some users."""
    return float(row[column]["mean"] if isinstance(row[column], dict) else row[column])


def tables(found: dict[str, list[dict[str, Any]]], part: str) -> list[str]:
    """One table per policy's setting: policies that chose among the same items stand together."""
    lines = [["policy", "reward of an episode", "of the way to greedy on truth", "pages", "coverage", "Gini"]]
    for policy, runs in found.items():
        names = [*runs[0][part]] if policy == next(iter(found)) else [policy]
        for name in names:
            rows = [told[part][name] for told in runs]
            way = [
                (figure(row, "reward") - figure(told[part]["uniform"], "reward"))
                / (figure(told[part][GREEDY], "reward") - figure(told[part]["uniform"], "reward"))
                for row, told in zip(rows, runs, strict=True)
            ]
            shown = [over_seeds([figure(row, column) for row in rows]) for column in COLUMNS]
            label = f"**{name}**" if name == policy else name
            lines.append([label, shown[0], over_seeds([100 * share for share in way]) + " %", *shown[1:]])
    head, *rest = lines
    return markdown_table([head, *sorted(rest, key=lambda line: -float(line[1].split(" ")[0]))])


def speed(args: argparse.Namespace) -> list[str]:
    """Pages a second of the batched adapter and of `DummyVecEnv`, one after the other in this process."""
    scenario = scenario_of("ppo", 0, args)
    world = World(scenario)
    policy = world.recommender(scenario.recommenders[0])
    assert isinstance(policy, GymPolicy)
    n_users, rounds = (8, 1) if args.quick else (64, 3)
    lines = compare(world, policy, n_users, 20, rounds)
    return [f"{n_users} users, 100 candidates, the same observation and network.", "", *markdown_table(lines), ""]


def main() -> None:
    """Trains, measures and writes ``results/rl.md``."""
    options = parser(__doc__)
    options.add_argument("--policies", default="slate-pg")
    args = options.parse_args()
    if args.quick:
        args.seeds, args.iterations = 2, 2
    with tempfile.TemporaryDirectory() as scratch:
        keep, found = args.keep or Path(scratch), {}
        args.results.mkdir(parents=True, exist_ok=True)
        for policy in args.policies.split(","):
            runs = [trained(policy, seed, keep, args) for seed in range(args.seeds)]
            found[policy] = [told for told, _ in runs]
            levels = {
                name: float(np.mean([figure(told["held_out"][name], "reward") for told, _ in runs]))
                for name in runs[0][0]["held_out"]
                if name != policy
            }
            plot_curve([log for _, log in runs], policy, levels, args.results / f"rl-{policy}.png")
    one = next(iter(found.values()))[0]
    body = [
        f"Scenario `rl_quickstart`, seeds 0 to {args.seeds - 1}; ± is a 95 % interval over seeds (users, luck and "
        "weights of each seed its own). An episode is one visit, the reward a click. "
        f"{one['users']['held out']} of the data set's users are held out of training: those of the first table.",
        "",
        *[
            f"- `{policy}`: {runs[0]['iterations']} iterations, {runs[0]['user_turns']:,} pages, "
            f"{np.mean([told['seconds'] for told in runs]):.0f} s, that is "
            f"{np.mean([told['user_turns'] / told['seconds'] for told in runs]):,.0f} pages a second with learning."
            for policy, runs in found.items()
        ],
        "",
        "## Users never met in training",
        "",
        *tables(found, "held_out"),
        "",
        "## Users of another model (logit choice, other tastes), never trained on",
        "",
        *tables(found, "second_users"),
        "",
        "## Stable-Baselines3: batched or one environment per user",
        "",
        *speed(args),
        *[line for policy in found for line in (f"![Learning curve of {policy}](rl-{policy}.png)", "")],
    ]
    _report.write("rl", "Policies trained on simulated users", "\n".join(body), args.results)


if __name__ == "__main__":
    main()
