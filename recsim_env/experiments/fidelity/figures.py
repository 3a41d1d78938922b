"""Plots of a fidelity result: star histograms, calibration, positions, F1 beside the published figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recsim_env.experiments.fidelity.published import PUBLISHED, is_movielens
from recsim_env.experiments.fidelity.results import TITLES
from recsim_env.plots import GREY, LINES, MARKERS, PALETTE, _dress, _figure, _legend, save, star_histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("popularity", "EASE", "behavioral", "prior alone", "llm", "hybrid")
"""Rows that plots show; the table has all."""


def write_figures(folder: Path, record: dict[str, Any]) -> list[Path]:
    """Writes all plots as PNG."""
    made = {
        "stars": stars(record),
        "calibration": calibration(record),
        "interaction": interaction(record),
        "positions": positions(record),
    }
    return [save(figure, folder / f"{name}.png") for name, figure in made.items() if figure is not None]


def _rows(record: dict[str, Any], key: str = "name") -> list[dict[str, Any]]:
    """Rows that plots show, and any user model that somebody added."""
    baselines = ("item mean", "user mean", "biases", "factors", "prior alone, same users")
    return [row for row in record["rows"] if row["name"] not in baselines and row.get(key)]


def stars(record: dict[str, Any]) -> Figure:
    """Histogram of sampled stars beside the real one."""
    columns = {"data": record["real_shares"]}
    users = [row for row in _rows(record, "shares") if row["name"] not in ("EASE", "popularity")]
    columns |= {_title(row): row["shares"] for row in users}
    figure = star_histogram(pd.DataFrame(columns, index=record["levels"]))
    figure.axes[0].set_title("Stars given to the same held-out films", loc="left")
    return figure


def calibration(record: dict[str, Any]) -> Figure:
    """Reliability of p(watch) and of p(the mark says "liked")."""
    figure = _figure(height=4.0)
    axes = figure.subplots(1, 2)
    panels = (
        ("watch_bins", "p(watch) said by the model", "Share that was watched (m = 3)"),
        ("mark_bins", "p(liked) said by the model", "Share that was liked"),
    )
    for ax, (key, across, up) in zip(axes, panels, strict=True):
        ax.plot([0, 1], [0, 1], color=GREY, lw=1, label="as said")
        for row in _rows(record, key):
            i = _number(record, row)
            bins = np.array(row[key])
            ax.plot(bins[:, 0], bins[:, 1], label=_title(row), color=PALETTE[i % len(PALETTE)], lw=1.4,
                    linestyle=LINES[i % len(LINES)], marker=MARKERS[i % len(MARKERS)], ms=4.5)  # fmt: skip
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        _dress(ax, across, up)
    axes[0].set_title("Calibration", loc="left")
    _legend(figure, axes[1])  # it shows all judges; only some say p(watch)
    return figure


def interaction(record: dict[str, Any]) -> Figure:
    """F1 by number of unseen films, beside the published figures."""
    figure = _figure()
    ax = figure.subplots()
    ms = record["protocol"]["negatives"]
    for row in _rows(record):
        i = _number(record, row)
        values = [row[f"f1_m{m}"] for m in ms]
        low, high = ([row[end][f"f1_m{m}"] for m in ms] for end in ("low", "high"))
        errors = [np.subtract(values, low), np.subtract(high, values)]
        ax.errorbar(range(len(ms)), values, yerr=errors, label=_title(row), color=PALETTE[i % len(PALETTE)],
                    linestyle=LINES[i % len(LINES)], marker=MARKERS[i % len(MARKERS)], ms=5, capsize=2)  # fmt: skip
    if is_movielens(record["data"]):
        for j, (name, figures) in enumerate(PUBLISHED.items()):
            if "popularity" not in name and all(f"f1_m{m}" in figures for m in ms):
                ax.plot(range(len(ms)), [figures[f"f1_m{m}"] for m in ms], label=name, color=GREY, lw=1,
                        marker=("o", "x", "+", "1")[j % 4], linestyle=LINES[j % len(LINES)])  # fmt: skip
    ax.set_xticks(range(len(ms)), [str(m) for m in ms])
    ax.set_ylim(0, 1)
    _dress(ax, "Unseen films for every watched one, m", "F1 of watching (0 to 1)")
    ax.set_title("Which films would this person watch?", loc="left")
    _legend(figure, ax)
    return figure


def positions(record: dict[str, Any]) -> Figure | None:
    """Mean probability by place on a page of shuffled items."""
    curves = {n: t["position_curve"] for n, t in record["interventions"].items() if "position_curve" in t}
    if not curves:
        return None
    figure = _figure(height=3.8)
    ax = figure.subplots()
    for i, (name, curve) in enumerate(curves.items()):
        how = "page as a list" if name != "behavioral" else "reads from the top (assumed)"
        relative = np.array(curve) / max(float(np.mean(curve)), 1e-12)
        ax.plot(np.arange(1, len(curve) + 1), relative, label=f"{TITLES.get(name, name)}: {how}",
                color=PALETTE[i % len(PALETTE)], linestyle=LINES[i % len(LINES)], marker=MARKERS[i % len(MARKERS)],
                ms=5)  # fmt: skip
    ax.axhline(1.0, color=GREY, lw=1, label="item by item (no place)")
    ax.set_ylim(bottom=0)
    ax.set_xticks(range(1, max(map(len, curves.values())) + 1))
    _dress(ax, "Place on the page, 1 is the top", "Probability, relative to the page's mean")
    ax.set_title("Does the place matter?", loc="left")
    _legend(figure, ax)
    return figure


def _title(row: dict[str, Any]) -> str:
    return TITLES.get(row["name"], row["name"])


def _number(record: dict[str, Any], row: dict[str, Any]) -> int:
    """A colour that a judge keeps in all plots."""
    return SHOWN.index(row["name"]) if row["name"] in SHOWN else len(SHOWN)
