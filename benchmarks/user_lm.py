"""What a user language model does in the simulation: whom it heeds, how much it watches, what its words are worth.

    python benchmarks/user_lm.py [--model builtin] [--users 200] [--quick]

Figures on held-out ratings stand on the model's card. Here the scenario `llm_quickstart` runs with it, with and without
the correction of its wish to watch; friends of some pairs of user and film are made to have given a mark, and what that
changes stands beside what the teacher states; and its texts are counted that are of no use without a grammar.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import _report
import numpy as np

from recsim_env.agents.llm import LLMUsers
from recsim_env.agents.opinions import OpinionStore
from recsim_env.build import World
from recsim_env.engine import constrain
from recsim_env.experiments.tables import markdown_table
from recsim_env.records import FloatArray
from recsim_env.rundir import Run, load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario
from recsim_env.training.teacher import Table

FRIENDS = (1, 2, 3)


def heeded(model: str, n_users: int) -> list[list[str]]:
    """What friends' marks change, for one popular film a user, beside what is stated."""
    scenario = load_scenario("llm_quickstart", [f"users.count={n_users}", f"engine.model={model}"])
    world = World(scenario)
    users = world.simulator(0).model
    assert isinstance(users, LLMUsers)
    levels, rows = world.dataset.catalog.scale.levels.astype(np.float64), np.arange(n_users)
    popular = np.argsort(-world.dataset.catalog.popularity, kind="stable")[:300]
    items = np.random.default_rng(0).choice(popular, n_users)
    stated, tenth = Table.load(None), float(levels[-1] - levels[0]) / 10.0

    def ask() -> tuple[FloatArray, FloatArray]:
        said = users.judge(rows, items)
        return said.marks @ levels, said.log_odds

    own, _ = ask()
    marks = levels[np.linspace(0, len(levels) - 1, 5).astype(int)]
    lines = [["friends", "gap closed", "stated", "odds of watching, one tenth higher", "stated"]]
    for friends in FRIENDS:
        gaps, moved, wish = [], [], []
        for mark in marks:
            users.heard = OpinionStore(n_users, world.dataset.n_items)
            for _ in range(friends):
                users.heard.add(rows, items, np.full(n_users, mark, np.float32), np.zeros(n_users, np.float32))
            expected, log_odds = ask()
            gaps.append(mark - own)
            moved.append(expected - own)
            wish.append(log_odds)
        gap, move = np.concatenate(gaps), np.concatenate(moved)
        slopes = np.polyfit(marks / tenth, np.array(wish, np.float64), 1)[0]
        share = stated.heed(friends)
        lines.append(
            [str(friends), f"{gap @ move / (gap @ gap):.2f}", f"{share:.2f}", f"{np.exp(slopes.mean()):.2f}",
             f"{np.exp(stated.urge * share):.2f}"]
        )  # fmt: skip
    world.close()
    return lines


def lived(folder: Path, model: str, *overrides: str) -> tuple[Run, float]:
    """A run of `llm_quickstart`, and the seconds that it took."""
    begun = time.perf_counter()
    run = load_run(run_scenario(load_scenario("llm_quickstart", [f"engine.model={model}", *overrides]), folder))
    return run, time.perf_counter() - begun


def named(run: Run) -> list[list[str]]:
    """Which film the words of an evening name, of those that should be about one."""
    titles = run.items["title"].astype(str)
    counts = dict.fromkeys(("their film", "another film", "no film"), 0)
    about = [message for message in run.messages if "item" in message]
    for message in about:
        others = any(title in message["text"] for title in titles if len(title) > 3)
        own = titles.iloc[message["item"]] in message["text"]
        counts["their film" if own else "another film" if others else "no film"] += 1
    return [["texts about a film", *(f"name {what}" for what in counts)], [str(len(about)), *map(str, counts.values())]]


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin", help="a folder of recsim-env train user-lm")
    parser.add_argument("--users", type=int, default=200, help="users whose friends speak")
    parser.add_argument("--quick", action="store_true", help="hardly any users: for tests")
    parser.add_argument("--results", type=Path, default=_report.RESULTS, help="folder of the result")
    args = parser.parse_args()
    small = ["users.count=8", "days=1"] if args.quick else []
    shares = [["watched of what was shown", "uniform", "popularity", "item-knn"]]
    with tempfile.TemporaryDirectory() as folder:
        for bias in ("0", "-1.5"):
            run, seconds = lived(Path(folder) / bias, args.model, f"users.watch_bias={bias}", *small)
            share = run.impressions.groupby("recommender", observed=True)["clicked"].mean()
            shares.append([f"`watch_bias` {bias}", *(f"{share[name]:.0%}" for name in shares[0][1:])])
        asked = run.manifest["engine"]["users"]["asked"]
        speed = f"{seconds:.0f} s, {asked['decisions']:,} decisions, {asked['words']:,} texts"
        society = load_scenario("society", [f"engine.model={args.model}", *small])
        words = named(load_run(run_scenario(society, Path(folder) / "society")))
        constrain.available = lambda: False
        useless = [["temperature", "texts", "of no use"]]
        for temperature in ("0.8", "0.5"):
            free = [f"users.temperature={temperature}", "engine.retries=0", "engine.max_failure_share=1"]
            run, _ = lived(Path(folder) / temperature, args.model, *free, *small)
            told = run.manifest["engine"]["users"]
            useless.append([temperature, f"{told['asked']['words']}", f"{told['failed'].get('words', 0)}"])
    body = [
        f"Model `{args.model}`, engine `transformers`, seed 0. `llm_quickstart` with its three recommenders: {speed}.",
        "",
        "## What friends say",
        "",
        f"{8 if args.quick else args.users} users, for each one of the 300 most popular films; friends gave five marks "
        "from one end of the scale to the other. *Gap closed*: slope through the origin of how far the expected mark "
        "moves on how far the friends' lies from it. *Odds of watching*: factor for friends' marks that are one tenth "
        "of the scale higher, mean over users of the slope of the log-odds.",
        "",
        *markdown_table(heeded(args.model, 8 if args.quick else args.users)),
        "",
        "## How much is watched",
        "",
        *markdown_table(shares),
        "",
        "## Words about films",
        "",
        "In the evenings of `society`, whose users speak of the film on which their opinion of the day is strongest.",
        "",
        *markdown_table(words),
        "",
        "## Words without a grammar",
        "",
        "xgrammar absent, nothing asked again.",
        "",
        *markdown_table(useless),
    ]
    _report.write("user_lm", "A user language model in the simulation", "\n".join(body), args.results)


if __name__ == "__main__":
    main()
