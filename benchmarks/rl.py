# ruff: noqa: E402 (threads are set before NumPy is loaded)
"""Policies that learn on simulated users, beside recommenders that do not, on users that none of them has met.

    python benchmarks/rl.py [--seeds 5] [--policies slate-pg,slateq,ppo,a2c] [--iterations N] [--keep <folder>]

Every policy is trained by `recsim-env train policy` on the scenario `rl_quickstart`, once per seed, where an episode is
one visit; retention is of the same policies in whole lives of the same held-out users. Intervals are Student's over
seeds. `--keep` is a folder for trainings that are done, so that a stopped run goes on.
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
from recsim_env.training.policy import GREEDY, START, held_out_users
from recsim_env.training.policy import compare as compare_policies

COLUMNS = ("reward", "pages", "days", "coverage", "gini")
HEAD = ("reward of an episode", "of the way to greedy on truth", "pages", "days with a visit", "coverage", "Gini")
WHOLE = ("slate-pg", "slateq")
"""Policies that choose among the whole catalogue; those of Stable-Baselines3 among the 100 most popular items."""


def scenario_of(policy: str, seed: int, args: argparse.Namespace) -> Scenario:
    """`rl_quickstart` with one policy to train."""
    whole, epochs = policy in WHOLE, 1 if args.quick else 4
    own = f"{{name: {policy}, epochs: {epochs}}}" if whole else policy
    sasrec = f"{{name: sasrec, dim: 32, blocks: 1, epochs: {2 * epochs}}}"
    changes = [f"recommenders=[{own}, uniform, popularity, ease, {sasrec}]", f"seed={seed}"]
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
    """What `training.json` tells, with the days of whole lives, and the log."""
    folder, scenario = keep / f"{policy}-{seed}", scenario_of(policy, seed, args)
    train_once(scenario, folder)
    told = json.loads((folder / "training.json").read_text())
    lives = folder / "lives.json"
    if not lives.exists():
        lives.write_text(json.dumps(days_of_lives(scenario, folder)))
    for part, days in json.loads(lives.read_text()).items():
        for name, row in told[part].items():
            row["days"] = days[name]
    return told, pd.read_parquet(folder / "log.parquet")


def days_of_lives(scenario: Scenario, folder: Path) -> dict[str, dict[str, float]]:
    """Mean days with a visit in lives of the held-out users, by part and policy."""
    scenario = scenario.model_copy(update={"episode": "life"})
    world, section = World(scenario), scenario.recommenders[0]
    own, start = (world.recommender(section.model_copy(update={"path": path, "config": {}}))
                  for path in (folder, folder / "start"))  # fmt: skip
    found = compare_policies(world, section, own, start, held_out_users(world)[0])
    return {part: {name: row["days"]["mean"] for name, row in rows.items()} for part, rows in found.items()}


def figure(row: dict[str, Any], column: str) -> float:
    """One figure of a policy on some users."""
    return float(row[column]["mean"] if isinstance(row[column], dict) else row[column])


def table(found: dict[str, list[dict[str, Any]]], part: str) -> list[str]:
    """Policies that were trained in one setting, and beside them, from the first one's runs, those that were not."""
    lines = []
    for number, (policy, runs) in enumerate(found.items()):
        for name in [policy] if number else [*runs[0][part]]:
            rows = [told[part][name] for told in runs]
            way = [
                (figure(row, "reward") - figure(told[part]["uniform"], "reward"))
                / (figure(told[part][GREEDY], "reward") - figure(told[part]["uniform"], "reward"))
                for row, told in zip(rows, runs, strict=True)
            ]
            shown = [over_seeds([figure(row, column) for row in rows]) for column in COLUMNS]
            label = f"**{name}**" if name == policy else f"{name}, {policy}" if name == START else name
            lines.append([label, shown[0], over_seeds([100 * share for share in way]) + " %", *shown[1:]])
    return markdown_table([["policy", *HEAD], *sorted(lines, key=lambda line: -float(line[1].split(" ")[0]))])


def tables(found: dict[str, list[dict[str, Any]]], part: str) -> list[str]:
    """A table for each setting."""
    settings = {
        "Whole catalogue": {name: runs for name, runs in found.items() if name in WHOLE},
        "The 100 most popular items": {name: runs for name, runs in found.items() if name not in WHOLE},
    }
    return [line for about, own in settings.items() if own for line in (f"### {about}", "", *table(own, part), "")]


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
        "weights of each seed its own). An episode is one visit, the reward a click; days with a "
        f"visit are of {load_scenario('rl_quickstart').days}, in lives of the same users under the same policies. "
        f"{one['users']['held out']} of the data set's users are held out of training: those of the first tables. "
        "Seconds of training are wall time: where other work had the cores, compare them with each other only.",
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
        "## Users of another model (logit choice, other tastes), never trained on",
        "",
        *tables(found, "second_users"),
        "## Stable-Baselines3: batched or one environment per user",
        "",
        *speed(args),
        *[line for policy in found for line in (f"![Learning curve of {policy}](rl-{policy}.png)", "")],
    ]
    _report.write("rl", "Policies trained on simulated users", "\n".join(body), args.results)


if __name__ == "__main__":
    main()
