"""How much users resemble the people of MovieLens-1M: one table on the published protocol.

    python benchmarks/fidelity.py --data FOLDER_OF_ML_1M
    python benchmarks/fidelity.py --data FOLDER_OF_ML_1M --write-training ml-1m-train
    python benchmarks/fidelity.py --data FOLDER_OF_ML_1M --model USER_LM [--llm-users 100]

Baselines, behavioural users and the hybrid users' prior always; LLM users and hybrid users when ``--model`` names a
user language model. It must not have seen what it is judged on: the second command writes the ratings that stand in the
training parts of all the seeds' splits, as a folder in MovieLens-1M's format, so that one model serves all of them.
Goals and published figures stand beside, missed goals are named. Without ``--data``, the built-in data.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import _report
import numpy as np

from recsim_env.data.load import load_dataset
from recsim_env.draws import Draws
from recsim_env.experiments.fidelity.protocol import Protocol, split_parts
from recsim_env.experiments.fidelity.results import markdown
from recsim_env.experiments.fidelity.suite import Plan, run_fidelity
from recsim_env.records import Dataset, IntArray, Ratings
from recsim_env.scenario import Data


def main() -> None:
    """Measures, prints and keeps the table and its plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of MovieLens-1M; the built-in data when left out")
    parser.add_argument("--model", help="folder of a trained user language model")
    parser.add_argument("--engine", default="transformers", help="engine of the model")
    parser.add_argument("--llm-users", type=int, help="users whom the language model stands for; default all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first split")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write-training", type=Path, help="write what all splits train on, and stop")
    parser.add_argument("--n-users", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-fidelity"))
    arguments = parser.parse_args()
    if arguments.write_training:
        seeds = range(arguments.seed, arguments.seed + arguments.seeds)
        write_training(arguments.data, seeds, arguments.write_training)
        return
    users = ("behavioral", "llm", "hybrid") if arguments.model else ("behavioral",)
    sizes = Protocol(n_users=arguments.n_users)
    plan = Plan(users, arguments.seeds, arguments.seed, sizes, arguments.llm_users)
    data = {"path": str(arguments.data)} if arguments.data else {"name": "movietweetings"}
    engine = [f"engine={{name: {arguments.engine}}}", f"engine.model={json.dumps(arguments.model)}"]
    settings = [*engine, *_trained_with(Path(arguments.model))] if arguments.model else []
    folder = run_fidelity(data, arguments.out, plan, settings, _tell)
    record = json.loads((folder / "fidelity.json").read_text())
    name = ("fidelity" if arguments.data else "fidelity-built-in") + ("-llm" if arguments.model else "")
    body = markdown(record).split("\n", 2)[2]
    body += f"\nTook {record['seconds']:,.0f} s. ![Stars]({name}-stars.png) ![F1]({name}-interaction.png) "
    body += f"![Calibration]({name}-calibration.png)\n"
    _report.write(name, f"Fidelity on {record['data']}", body, script="fidelity")
    for plot in ("stars", "interaction", "calibration", "positions"):
        shutil.copy(folder / f"{plot}.png", _report.RESULTS / f"{name}-{plot}.png")


def write_training(data: Path, seeds: Iterable[int], folder: Path) -> None:
    """Writes the ratings that every split trains on, in MovieLens-1M's format, films and users whole."""
    whole = load_dataset(Data(path=data))
    r = whole.ratings
    for seed in seeds:
        r = r.take(np.isin(_pairs(r, whole), _pairs(split_parts(whole, Protocol(), Draws(seed)).train.ratings, whole)))
    print(f"{len(r):,} of {len(whole.ratings):,} ratings", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    columns = (whole.user_id[r.user_index], whole.catalog.item_id[r.item_index], r.rating, r.timestamp)
    lines = [f"{u}::{i}::{stars:g}::{t}" for u, i, stars, t in zip(*columns, strict=True)]
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n", encoding="latin-1")
    for file in ("movies.dat", "users.dat", "movies_extrainfos.dat"):
        if (data / file).exists():
            shutil.copy(data / file, folder / file)


def _trained_with(model: Path) -> list[str]:
    """The settings of users that a model of ``recsim-env train user-lm`` was trained with."""
    path = model / "training.json"
    if not path.exists():
        return []
    users = json.loads(path.read_text(encoding="utf-8"))["settings"]["users"]
    return [f"users.{name}={json.dumps(users[name])}" for name in ("averages", "remembered", "memory")]


def _pairs(ratings: Ratings, dataset: Dataset) -> IntArray:
    return np.asarray(ratings.user_index.astype(np.int64) * dataset.n_items + ratings.item_index)


def _tell(at: object) -> None:
    print(getattr(at, "label", ""), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
