"""The figure of a study: a panel per series, a line per arm, bands over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from recsim_env.experiments.studies.base import Panel, Study
from recsim_env.plots import LINES, MARKERS, PALETTE, WIDTH, _dress, _figure, _legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTROL = "#555555"


def plot(study: Study, record: Mapping[str, Any]) -> Figure:
    """Means of all arms with 95 % bands over seeds; the last arm, the plainest control, is grey."""
    n = len(study.panels)
    figure = _figure(height=3.8)
    figure.set_figwidth(WIDTH if n == 1 else 4.4 * n)
    axes = figure.subplots(1, n, squeeze=False)[0]
    for ax, panel in zip(axes, study.panels, strict=True):
        _draw(ax, panel, study, record["series"][panel.series])
    _legend(figure, axes[0])
    return figure


def _draw(ax: Axes, panel: Panel, study: Study, series: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    if panel.log:
        ax.set_yscale("log")
    for i, arm in enumerate(study.arms):
        mean, low, high = (np.array(series[arm.name][end], np.float64) for end in ("mean", "low", "high"))
        x = panel.first + np.arange(len(mean))
        if panel.log:  # what is 0 has no place; a band that reaches below 0 ends at a tenth of its mean
            mean, low, high = (np.where(mean > 0, end, np.nan) for end in (mean, np.maximum(low, mean / 10), high))
        colour = CONTROL if i == len(study.arms) - 1 else PALETTE[i % len(PALETTE)]
        ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        every = 1 if panel.ticks else max(1, len(mean) // 6)
        ax.plot(
            x, mean, color=colour, linestyle=LINES[i % len(LINES)], lw=1.8, label=arm.label,
            marker=MARKERS[i % len(MARKERS)], markersize=4.5, markevery=(0 if panel.ticks else i % every, every),
        )  # fmt: skip
    _dress(ax, panel.x, panel.y)
    ax.set_title(panel.title, loc="left", fontsize=11)
    if panel.ticks:
        ax.set_xticks(panel.first + np.arange(len(panel.ticks)), panel.ticks)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
