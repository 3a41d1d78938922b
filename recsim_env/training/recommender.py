"""Trains a recommender on the training part of a data set and keeps it: ``recsim-env train recommender``.

The folder holds the recommender (``recommender.json``, ``arrays.npz``; scenarios take it as ``path``),
``training.json`` (settings, figures, versions) and, for those that learn by epochs, ``log.parquet`` and ``curve.png``.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsim_env.build import World
from recsim_env.evaluation.protocols import full_ranking
from recsim_env.lm.checkpoint import Checkpoint
from recsim_env.scenario import Scenario


def train_recommender(
    scenario: Scenario, out: Path, resume: bool = False, on_progress: Callable[[Any], None] | None = None
) -> dict[str, Any]:
    """Trains the scenario's only recommender on its data and writes the folder.

    Args:
        scenario: Names data, split, seed and one recommender.
        out: Folder of the result.
        resume: Goes on from the folder's checkpoint.
        on_progress: Called after every epoch of those that learn by epochs.

    Returns:
        What ``training.json`` holds.

    Raises:
        RunFolderError: If the folder is not empty, or there is nothing to resume.
        ScenarioError: If the recommender asks a language model and the scenario names no engine.
    """
    world, section = World(scenario), scenario.recommenders[0]
    recommender = world.new_recommender(section)
    fitting: Any = getattr(recommender, "fitting", None)
    checkpoint = Checkpoint(out)
    checkpoint.claim(resume and fitting is not None)
    if fitting is not None:
        fitting.folder, fitting.resume = out, resume
        fitting.tell = on_progress or fitting.tell
    begun = time.perf_counter()
    recommender.fit(world.split.train, world.draws)
    seconds = time.perf_counter() - begun
    world.equip(recommender)
    out.mkdir(parents=True, exist_ok=True)
    recommender.save(out)
    log: list[dict[str, float]] = getattr(recommender, "log", [])
    if log:
        frame = pd.DataFrame(log)
        frame.to_parquet(out / "log.parquet")
        _plot(frame, str(getattr(recommender, "measure", "validation")), out / "curve.png")
    figures = full_ranking(recommender, world.split).scores().means()
    told = {
        "recommender": section.name,
        "settings": recommender.config.model_dump(mode="json"),
        "data": scenario.data.model_dump(mode="json"),
        "seed": scenario.seed,
        "ratings": {"training": len(world.split.train.ratings), "test": len(world.split.test)},
        "figures": {name: float(np.round(value, 6)) for name, value in figures.items()},
        "epochs": len(log),
        "seconds": round(log[-1]["seconds"] if log else seconds, 1),
        "versions": {name: version(name) for name in ("numpy", "torch")},
        "machine": platform.machine(),
    }
    (out / "training.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return told


def _plot(log: pd.DataFrame, measure: str, path: Path) -> None:
    """Loss and validation by epoch as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    losses, figures = figure.subplots(1, 2)
    losses.plot(log["epoch"], log["loss"], color="#0072b2")
    losses.set_title("training loss")
    figures.plot(log["epoch"], log["validation"], color="#d55e00")
    best = int(np.argmax(log["validation"].to_numpy()))
    figures.plot(log["epoch"][best], log["validation"][best], "o", color="#d55e00", label="kept")
    figures.set_title(f"validation {measure}")
    figures.legend()
    for axes in (losses, figures):
        axes.set_xlabel("epoch")
    figure.savefig(path, dpi=110)
