# ruff: noqa: E402 (threads are set before NumPy is loaded)
"""Language-model recommenders before and after GRPO and Rank-GRPO, on users that none of them has met.

    python benchmarks/rl_llm.py [--seeds 5] [--iterations N] [--keep <folder>] [--dialogue-seeds 3] [--backbone <name>]

RSLLM (a decoder from scratch, or `--backbone` with LoRA) is fitted once a seed, then trained by `recsim-env train
policy` on the scenario `rl_llm` twice, by either algorithm. The conversational recommender, with the package's small
language model, is trained by GRPO on users who all say what they want. `--keep` lets a stopped run go on.
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
import pandas as pd
from _training import over_seeds, parser, train_once

from recsim_env.experiments.tables import markdown_table
from recsim_env.scenario import Scenario, load_scenario
from recsim_env.training.curve import plot_curve
from recsim_env.training.policy import GREEDY, START
from recsim_env.training.recommender import train_recommender

ALGORITHMS = ("rank-grpo", "grpo")
DIALOGUE = [
    "name=rl_dialogue",
    "recommenders=[{name: conversational, ranker: popularity, heed: 0, words_temperature: 1.0, shown: 3, "
    "max_tokens: 80}, popularity, uniform]",
    "engine.name=transformers", "engine.model=builtin", "engine.max_failure_share=1.0",
    "users.speak=1.0", "users.wish=2.0", "users.patience=1.5",
    "training.second_users.speak=1.0", "training.second_users.wish=2.0", "training.second_users.patience=1.5",
    "training.algorithm=grpo", "training.num_envs=16", "training.generations=4", "training.turns=6",
    "training.iterations=25", "training.learning_rate=0.0003", "training.minibatches=2", "training.passes=1",
    "training.temperatures=[]", "training.held_out=0.1", "training.evaluate_every=25", "training.evaluate_users=60",
    "training.second_users.count=200",
]  # fmt: skip
QUICK = [
    "training.num_envs=4", "training.generations=2", "training.turns=2", "training.minibatches=1",
    "training.held_out=0.01", "training.evaluate_users=10", "training.second_users.count=10", "max_turns=4",
]  # fmt: skip


def small(args: argparse.Namespace) -> list[str]:
    """Changes that the options ask for."""
    return [*([f"training.iterations={args.iterations}"] if args.iterations else []), *(QUICK if args.quick else [])]


def rsllm_scenario(algorithm: str, seed: int, fitted: Path, args: argparse.Namespace) -> Scenario:
    """`rl_llm` with an RSLLM that was fitted before."""
    recommenders = f"[{{name: rsllm, path: {fitted}, temperature: 0.3}}, popularity, ease, uniform]"
    changes = [f"recommenders={recommenders}", f"seed={seed}", f"training.algorithm={algorithm}"]
    if args.backbone:
        changes += ["training.learning_rate=2e-5"]
    return load_scenario("rl_llm", [*changes, *small(args)])


def fit(seed: int, folder: Path, args: argparse.Namespace) -> None:
    """RSLLM on the ratings; does nothing where it is done."""
    if (folder / "training.json").exists():
        return
    settings: dict[str, Any] = {"fusion_weight": 1.0}
    if args.backbone:
        settings |= {"backbone": args.backbone, "learning_rate": 1e-4}
    if args.quick:
        settings |= {"epochs": 1, "stage1_epochs": 1, "sasrec": {"epochs": 1}}
    scenario = load_scenario({"seed": seed, "recommenders": [{"name": "rsllm", **settings}]})
    train_recommender(scenario, folder, (folder / "checkpoint").exists())
    print(f"{folder.name}: fitted", flush=True)


def told_of(folder: Path) -> dict[str, Any]:
    """What a training told."""
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return found


def table(found: dict[str, list[dict[str, Any]]], part: str, names: dict[str, str]) -> list[str]:
    """Rewards of an episode: trained, before, and the others; trained minus before, paired by seed.

    Args:
        found: What the trainings told, by algorithm.
        part: ``held_out`` or ``second_users``.
        names: Rows of the comparison that stand once, with their labels.
    """
    first = next(iter(found.values()))
    lines = []
    for algorithm, runs in found.items():
        title = runs[0]["policy"]
        rows = [(told[part][title], told[part][START]) for told in runs]
        after = [row["reward"]["mean"] for row, _ in rows]
        more = [row["reward"]["mean"] - before["reward"]["mean"] for row, before in rows]
        shown = [over_seeds([row[name] for row, _ in rows]) for name in ("coverage", "gini")]
        pages = over_seeds([row["pages"]["mean"] for row, _ in rows])
        lines.append([f"**{title}, {algorithm}**", over_seeds(after), over_seeds(more), pages, *shown])
    for name, label in names.items():
        rows = [told[part][name] for told in first if name in told[part]]
        if rows:
            shown = [over_seeds([row[figure] for row in rows]) for figure in ("coverage", "gini")]
            pages = over_seeds([row["pages"]["mean"] for row in rows])
            lines.append([label, over_seeds([row["reward"]["mean"] for row in rows]), "", pages, *shown])
    lines.sort(key=lambda line: -float(line[1].split(" ")[0]))
    return markdown_table([["policy", "clicks of a visit", "more than before", "pages", "coverage", "Gini"], *lines])


def section(found: dict[str, list[dict[str, Any]]], names: dict[str, str]) -> list[str]:
    """Costs and both tables."""
    return [
        *[
            f"- {algorithm}: {runs[0]['iterations']} iterations, {runs[0]['user_turns']:,} pages at most, "
            f"{sum(told['seconds'] for told in runs) / len(runs):.0f} s a training."
            for algorithm, runs in found.items()
        ],
        "", "Users never met in training:", "", *table(found, "held_out", names),
        "", "Users of another model (logit choice, other tastes), never trained on:", "",
        *table(found, "second_users", names), "",
    ]  # fmt: skip


def main() -> None:
    """Trains, measures and writes ``results/rl_llm.md``."""
    options = parser(__doc__)
    options.add_argument("--dialogue-seeds", type=int, default=3)
    options.add_argument("--backbone", help="a Hugging Face model, by LoRA; wants a GPU")
    args = options.parse_args()
    if args.quick:
        args.seeds, args.dialogue_seeds, args.iterations = 1, 1, 1
    others = {
        START: "before training",
        GREEDY: GREEDY,
        "ease": "EASE",
        "popularity": "popularity",
        "uniform": "uniform",
    }
    args.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        keep = args.keep or Path(scratch)
        found: dict[str, list[dict[str, Any]]] = {}
        for algorithm in ALGORITHMS:
            folders = [keep / f"{algorithm}-{seed}" for seed in range(args.seeds)]
            for seed, folder in enumerate(folders):
                fitted = keep / f"fitted-{seed}"
                fit(seed, fitted, args)
                train_once(rsllm_scenario(algorithm, seed, fitted, args), folder)
            found[algorithm] = [told_of(folder) for folder in folders]
            held = [told["held_out"] for told in found[algorithm]]
            levels = {
                label: sum(one[name]["reward"]["mean"] for one in held) / len(held) for name, label in others.items()
            }
            logs = [pd.read_parquet(folder / "log.parquet") for folder in folders]
            plot_curve(logs, f"rsllm, {algorithm}", levels, args.results / f"rl_llm-{algorithm}.png")
        folders = [keep / f"dialogue-{seed}" for seed in range(args.dialogue_seeds)]
        for seed, folder in enumerate(folders):
            train_once(load_scenario("rl_llm", [*DIALOGUE, f"seed={seed}", *small(args)]), folder)
        talked = {"grpo": [told_of(folder) for folder in folders]}
    backbone = args.backbone or "a decoder from scratch"
    body = [
        "± is a 95 % interval over seeds (users, luck and weights of each seed its own), *more than before* is paired "
        "by seed. Training sees the probability of a click as the simulator knows it; what stands here are clicks. "
        "The policies were chosen, and their temperatures, on training users.",
        "",
        f"## RSLLM ({backbone}), seeds 0 to {args.seeds - 1}",
        "",
        *section(found, others),
        *[line for name in ALGORITHMS for line in (f"![Learning curve, {name}](rl_llm-{name}.png)", "")],
        f"## The conversational recommender (the package's language model), seeds 0 to {args.dialogue_seeds - 1}",
        "",
        "All users say what they want instead before they leave. The ranker behind it is popularity, and is deaf "
        "(`heed: 0`): only what the model writes makes a wish count. *popularity* in the table hears wishes by rule.",
        "",
        *section(talked, others),
    ]
    _report.write("rl_llm", "Language-model recommenders trained on simulated users", "\n".join(body), args.results)


if __name__ == "__main__":
    main()
