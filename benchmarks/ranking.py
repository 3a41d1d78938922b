"""MovieLens-1M, leave-one-out, full ranking: our recommenders beside published rows.

    python benchmarks/ranking.py --data FOLDER_OF_ML_1M [--sasrec FOLDER | --epochs N] [--rsllm FOLDER]

5-core, each user's last rating held out, all items that the user has not rated in training ranked. ``--sasrec`` takes a
model of ``recsim-env train recommender sasrec --data FOLDER --set data.min_ratings=5``; without it one is trained
here. Published rows were measured by others with other code; they are quoted, not measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import _report
import pandas as pd

from recsim_env.experiments.offline import RESULT, Plan, run_evaluation, table
from recsim_env.experiments.tables import markdown_table
from recsim_env.rundir import load_measurement
from recsim_env.scenario import load_scenario
from recsim_env.training.recommender import train_recommender

PUBLISHED = {
    "popularity": (0.035, 0.017),
    "EASE, whole history": (0.099, 0.049),
    "EASE, recency-decayed": (0.218, 0.120),
    "decayed sequence co-occurrence, window 50": (0.266, 0.160),
    "SASRec, BCE with one negative": (0.250, 0.134),
    "gSASRec": (0.300, 0.173),
    "SASRec, full cross-entropy": (0.315, 0.182),
    "HSTU-large": (0.329, 0.189),
}
"""HR@10 and nDCG@10 of others on this protocol."""
GOAL = {"hr": 0.315, "ndcg": 0.182}
SETTINGS = ("dim", "blocks", "heads", "max_length", "dropout", "batch_size", "learning_rate")


def main() -> None:
    """Measures, prints and keeps the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MovieLens-1M")
    parser.add_argument("--sasrec", type=Path, help="a trained SASRec")
    parser.add_argument("--rsllm", type=Path, help="a trained RSLLM")
    parser.add_argument("--epochs", type=int, default=45, help="of the SASRec that is trained here")
    arguments = parser.parse_args()
    data = {"path": str(arguments.data), "min_ratings": 5}
    with tempfile.TemporaryDirectory() as place:
        sasrec = arguments.sasrec or train_here(data, arguments.epochs, Path(place) / "sasrec")
        sections: list[dict[str, Any]] = [
            {"name": "ease", "label": "ease, half-life 5", "half_life": 5},
            {"name": "als"},
            {"name": "text-similarity"},
            {"name": "sasrec", "path": str(sasrec)},
        ]
        if arguments.rsllm:
            sections.append({"name": "rsllm", "path": str(arguments.rsllm)})
        scenario = load_scenario({"name": "ranking", "data": data, "recommenders": sections})
        folder = run_evaluation(scenario, Path(place) / "evaluation", Plan(), lambda at: tell(at.label))
        record = load_measurement(folder, RESULT)
        _report.write("ranking", "Full ranking on MovieLens-1M", body(record, sasrec))
        shutil.copy(folder / "evaluation.png", _report.RESULTS / "ranking.png")
        if (sasrec / "curve.png").exists():
            shutil.copy(sasrec / "curve.png", _report.RESULTS / "ranking-sasrec-curve.png")


def train_here(data: dict[str, Any], epochs: int, out: Path) -> Path:
    """Trains SASRec with the settings of the table."""
    section = {"name": "sasrec", "epochs": epochs, "batch_size": 32, "patience": 12}
    train_recommender(
        load_scenario({"data": data, "recommenders": [section]}), out, False,
        lambda at: tell(f"epoch {at.epoch}: validation {at.validation:.4f}"),
    )  # fmt: skip
    return out


def body(record: dict[str, Any], sasrec: Path) -> str:
    """The page."""
    told = json.loads((sasrec / "training.json").read_text())
    log = pd.read_parquet(sasrec / "log.parquet")
    ours = next(row for row in record["rows"] if row["recommender"] == "sasrec")
    missed = [f"{name} {ours[name]:.4f} (goal {goal})" for name, goal in GOAL.items() if ours[name] < goal]
    gain = log["validation"].iloc[-5:].max() - log["validation"].iloc[:-5].max() if len(log) > 5 else float("nan")
    verdict = f"SASRec misses its goal: {', '.join(missed)}." if missed else "SASRec reaches its goal."
    rows = [f"| {name} | {hr:.3f} | {ndcg:.3f} |" for name, (hr, ndcg) in PUBLISHED.items()]
    settings = {name: told["settings"][name] for name in SETTINGS}
    return "\n".join(
        [
            f"{record['n_users']:,} users, {record['n_items']:,} items, seed {record['seed']}; one held-out rating "
            "each; 95 % intervals by bootstrap over users.",
            "",
            *markdown_table(table(record)),
            "",
            f"{verdict} It was trained for {told['epochs']} epochs in {told['seconds'] / 60:.0f} minutes ({settings}); "
            f"validation rose by {gain:+.4f} in the last five epochs.",
            "",
            "![nDCG](ranking.png)", "", "![SASRec's training](ranking-sasrec-curve.png)", "",
            "Published by others on this protocol, not measured here:", "",
            "| | HR@10 | nDCG@10 |", "|---|---|---|", *rows,
        ]
    )  # fmt: skip


def tell(text: str) -> None:
    """Progress on the error stream."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
