"""The learning curve of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A", "#D55E00", "#000000")
DASHES: tuple[object, ...] = ("--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)), (0, (1, 1)))


def plot_curve(logs: Sequence[pd.DataFrame], title: str, levels: Mapping[str, float], path: Path) -> None:
    """Reward of an episode while the policy learns, beside policies that do not learn, as PNG.

    Args:
        logs: One log per seed, with columns ``user_turns`` and ``evaluation``; several make a mean with a band from the
            lowest to the highest.
        title: Name of the policy.
        levels: Mean reward of the others, by name.
        path: Where to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    measured = [log.dropna(subset=["evaluation"]).set_index("user_turns")["evaluation"] for log in logs]
    table = pd.concat(measured, axis=1).dropna()
    x = table.index.to_numpy(np.float64) / 1000.0
    axes.plot(x, table.mean(axis=1), color="#0072B2", linewidth=2.2, marker="o", markersize=3.5, label=title, zorder=5)
    if len(logs) > 1:
        axes.fill_between(x, table.min(axis=1), table.max(axis=1), color="#0072B2", alpha=0.2, linewidth=0)
    for i, (name, level) in enumerate(sorted(levels.items(), key=lambda item: -item[1])):
        axes.axhline(
            level, color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i % len(DASHES)], linewidth=1.4, label=name
        )
    axes.set_xlabel("Pages shown to training users (thousands)")
    axes.set_ylabel("Reward of an episode")
    axes.set_ylim(bottom=0.0)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=120)
