"""Figures of a run: each function takes data and gives a matplotlib Figure, without pyplot's global state.

Colours are those of Okabe and Ito (2008), told apart with any colour vision; line styles and markers say the same
once more, so that a figure survives a black-and-white printer.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from recsim_env.evaluation.beyond_accuracy import gini, lorenz
from recsim_env.records import FloatArray
from recsim_env.rundir import RunFolder, disk_errors, replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Box: TypeAlias = tuple[float, float, float, float]
"""Left, bottom, right, top in pixels."""

# Okabe and Ito without yellow, which is too light on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")
GREY = "#8A8A8A"
DPI = 120
_PLACES = tuple((far, right, up) for far in (7, 18, 32, 48) for right, up in ((1, 1), (-1, 1), (1, -1), (-1, -1)))
WIDTH, HEIGHT = 6.8, 4.2


def engagement_by_day(series: pd.DataFrame, figure: Figure | None = None) -> Figure:
    """Clicks per page by day; ``series`` as :func:`recsim_env.evaluation.series.engagement_by_day` gives it."""
    return _by_day(series, "Clicks per page", "Engagement", figure, bottom=0.0)


def retention_curve(series: pd.DataFrame, figure: Figure | None = None) -> Figure:
    """Share of users seen within a week, by day, from ``retention_by_day``."""
    figure = _by_day(series, "Users here in the last 7 days (share)", "Retention", figure)
    figure.axes[0].set_ylim(0.0, 1.03)
    return figure


def genre_entropy_by_day(series: pd.DataFrame, figure: Figure | None = None) -> Figure:
    """Entropy of the genres of each day's clicks, from ``genre_entropy_by_day``."""
    return _by_day(series, "Genre entropy of clicks (bits)", "Variety of what is consumed", figure)


def mindset_by_day(mood: pd.DataFrame, boredom: pd.DataFrame, figure: Figure | None = None) -> Figure:
    """Mood and boredom by day, one panel each, from ``mindset_by_day``."""
    figure = figure or _figure(height=HEIGHT * 1.35)
    axes = figure.subplots(2, 1, sharex=True)
    for ax, series, label in ((axes[0], mood, "Mood (−1 to 1)"), (axes[1], boredom, "Boredom (0 to 1)")):
        _draw_days(ax, series)
        _dress(ax, "", label)
    axes[1].set_xlabel("Day")
    axes[0].set_title("State of mind of those who are there", loc="left")
    _legend(figure, axes[0])
    return figure


def panels_by_day(series: pd.DataFrame, panels: Mapping[str, str], columns: int = 3) -> Figure:
    """Many figures by day, a small panel each, without bands: for a run that is being written.

    Args:
        series: ``recommender, day`` and a column for each panel.
        panels: Column to label.
        columns: Panels side by side.
    """
    rows = -(-len(panels) // columns)
    n_lines = series["recommender"].nunique()
    above = 0.2 + 0.2 * -(-n_lines // 6) * (n_lines > 1)  # inches for the legend, six names to a row
    height = 2.6 * rows + above
    figure = _figure(height, width=4.0 * columns)
    figure.set_layout_engine(None)  # the constrained layout would take as long as all the drawing
    figure.subplots_adjust(
        left=0.065, right=0.985, top=1 - above / height, bottom=0.5 / height, wspace=0.28, hspace=0.32
    )
    _draw_panels(figure, series, panels, columns)
    if n_lines > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=6, frameon=False, fontsize=9)
    return figure


def bands_by_day(series: pd.DataFrame, panels: Mapping[str, tuple[str, str]], names: Sequence[str]) -> Figure:
    """Several figures by day, a small panel each, two side by side, with bands.

    Args:
        series: ``recommender, day``, and for each panel a column of its name, ``<name>_low`` and ``<name>_high``.
        panels: Column to title and unit.
        names: Recommenders in the order in which the page's other figures give them colours.
    """
    figure = _figure(height=0.4 + 2.4 * -(-len(panels) // 2), width=8.0)
    _draw_panels(figure, series, {name: unit for name, (_, unit) in panels.items()}, 2, names)
    for ax, (title, _) in zip(figure.axes, panels.values(), strict=True):
        ax.set_title(title, loc="left", fontsize=11)
    _legend(figure, figure.axes[0])
    return figure


def mindset_by_page(pages: pd.DataFrame) -> Figure:
    """One user's mood, boredom and trust after each of its pages; ``pages`` has a column for each."""
    figure = _figure(height=2.4)
    ax = figure.subplots()
    for i, (name, label) in enumerate((("mood", "mood"), ("boredom", "boredom (0 to 1)"), ("trust", "trust"))):
        ax.plot(np.arange(1, len(pages) + 1), pages[name], label=label, marker=MARKERS[i], ms=3, **_style(i))
    ax.set_ylim(-1.05, 1.05)
    _dress(ax, "Page, all visits one after another", "Mindset (−1 to 1)")
    _legend(figure, ax)
    return figure


def ndcg_against_retention(table: pd.DataFrame, k: int, figure: Figure | None = None) -> Figure:
    """Offline quality against retention, a labelled point with 95 % error bars per recommender.

    Args:
        table: As :func:`recsim_env.evaluation.summary.summary_table` gives it.
        k: Length of the offline lists, for the axis.
        figure: Draw here instead of on a new figure.
    """
    figure = figure or _figure()
    ax = figure.subplots()
    known = table[table["ndcg"].notna() & table["retention"].notna()]
    for i, (name, row) in enumerate(table.iterrows()):
        if name in known.index:
            colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
            ax.errorbar(
                row["ndcg"], row["retention"], xerr=_bars(row, "ndcg"), yerr=_bars(row, "retention"), fmt=marker,
                color=colour, ms=7, capsize=3, lw=1.2,
            )  # fmt: skip
    _dress(ax, f"nDCG@{k} on held-out ratings (offline)", "Users here in the last week (share)")
    ax.set_title("Offline quality and retention", loc="left")
    ax.margins(0.15)
    _label_points(figure, ax, known)
    return figure


def coverage_bars(table: pd.DataFrame, figure: Figure | None = None) -> Figure:
    """Share of the catalogue that each recommender showed, with 95 % error bars."""
    figure = figure or _figure(height=1.3 + 0.42 * len(table))
    ax = figure.subplots()
    places = np.arange(len(table))[::-1]
    errors = np.array([_bars(row, "coverage")[:, 0] for _, row in table.iterrows()]).T
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(table))]
    bars = ax.barh(places, table["coverage"], xerr=errors, color=colours, height=0.62, capsize=3, ecolor="#333333")
    # Behind the error bar, where nothing can cover the number.
    ends = np.nan_to_num(table["coverage"].to_numpy() + errors[1])
    for end, bar, value in zip(ends, bars, table["coverage"], strict=True):
        middle = bar.get_y() + bar.get_height() / 2
        ax.annotate(f"{value:.0%}" if value >= 0.1 else f"{value:.1%}", (end, middle), xytext=(5, 0),
                    textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    ax.set_yticks(places, [_short(name) for name in table.index])
    ax.set_xlim(0.0, min(1.12, max(0.05, 1.25 * float(ends.max(initial=0.0)))))
    _dress(ax, "Items shown at least once (share of the catalogue)", "")
    ax.grid(visible=False, axis="y")
    ax.set_title("Catalogue coverage", loc="left")
    return figure


def lorenz_curves(exposure: Mapping[str, FloatArray], figure: Figure | None = None) -> Figure:
    """Lorenz curves of exposure, Gini coefficients in the legend.

    Args:
        exposure: For each recommender, float (I,), how much each item was shown, in any unit and order.
        figure: Draw here instead of on a new figure.
    """
    figure = figure or _figure()
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, label="all items alike (Gini 0)")
    for i, (name, shown) in enumerate(exposure.items()):
        x, y = lorenz(shown)
        ax.plot(x, y, label=f"{_short(name)} (Gini {gini(shown):.2f})", **_style(i))
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    _dress(ax, "Items, least shown first (share)", "Impressions (share)")
    ax.set_title("Concentration of exposure", loc="left")
    _legend(figure, ax)
    return figure


def star_histogram(shares: pd.DataFrame, figure: Figure | None = None) -> Figure:
    """Ratings of simulated users beside the data set's, as ``rating_shares`` gives them."""
    figure = figure or _figure()
    ax = figure.subplots()
    width = 0.84 / max(1, shares.shape[1])
    places = np.arange(len(shares))
    simulated = [name for name in shares if name != "data"]
    for j, name in enumerate(shares.columns):
        offset = (j - (shares.shape[1] - 1) / 2) * width
        colour = "#BBBBBB" if name == "data" else PALETTE[simulated.index(name) % len(PALETTE)]
        label = "people in the data" if name == "data" else f"simulated, {_short(name)}"
        hatch = None if name == "data" else ("", "//", "..", "\\\\", "xx")[simulated.index(name) % 5]
        ax.bar(places + offset, shares[name], width, color=colour, label=label, hatch=hatch, edgecolor="white", lw=0.4)
    ax.set_xticks(places, [f"{level:g}" for level in shares.index])
    _dress(ax, "Rating (stars)", "Share of ratings")
    ax.grid(visible=False, axis="x")
    ax.set_title("Ratings given", loc="left")
    _legend(figure, ax)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG (about 800 pixels wide), making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, format="png", metadata={"Software": ""})
    return path


def save_in(folder: RunFolder, name: str, figure: Figure) -> None:
    """Writes a figure as PNG into a folder that is being written, as a whole and durably."""
    with disk_errors(folder.path):
        replace_file(folder.path / name, lambda file: figure.savefig(file, dpi=DPI, metadata={"Software": ""}))


def svg(figure: Figure) -> str:
    """A figure as an SVG element whose texts are texts, for a page; the same figure gives the same characters."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "recsim-env"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    drawn = file.getvalue()
    # Its own style rules would hold for the whole page.
    return re.sub(r"<style.*?</style>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)


def _figure(height: float = HEIGHT, width: float = WIDTH) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _style(i: int) -> dict[str, Any]:
    return {"color": PALETTE[i % len(PALETTE)], "linestyle": LINES[i % len(LINES)], "linewidth": 1.8}


def _by_day(
    series: pd.DataFrame, ylabel: str, title: str, figure: Figure | None, bottom: float | None = None
) -> Figure:
    figure = figure or _figure()
    ax = figure.subplots()
    _draw_days(ax, series)
    _dress(ax, "Day", ylabel)
    if bottom is not None:
        ax.set_ylim(bottom=bottom)
    ax.set_title(title, loc="left")
    _legend(figure, ax)
    return figure


def _draw_panels(
    figure: Figure, series: pd.DataFrame, panels: Mapping[str, str], columns: int, names: Sequence[str] = ()
) -> None:
    rows = -(-len(panels) // columns)
    for ax, (name, label) in zip(figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False):
        ends = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
        _draw_days(ax, series[["recommender", "day", *(ends.keys() & set(series))]].rename(columns=ends), names)
        _dress(ax, "Day", label)
    for ax in figure.axes[len(panels) :]:
        ax.remove()


def _draw_days(ax: Axes, series: pd.DataFrame, names: Sequence[str] = ()) -> None:
    from matplotlib.ticker import MaxNLocator

    order = list(names or series["recommender"].unique())
    for name, part in series.groupby("recommender", sort=False):
        i = order.index(name)
        every = max(1, len(part) // 8)
        if "low" in part:
            ax.fill_between(part["day"], part["low"], part["high"], color=PALETTE[i % len(PALETTE)], alpha=0.15, lw=0)
        ax.plot(
            part["day"], part["value"], label=_short(name), marker=MARKERS[i % len(MARKERS)],
            markevery=(i % every, every), markersize=4.5, **_style(i),
        )  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _dress(ax: Axes, xlabel: str, ylabel: str) -> None:
    """The style that all figures share."""
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, color="#E4E4E4", lw=0.7)
    ax.set_axisbelow(True)


def _legend(figure: Figure, ax: Axes) -> None:
    """Puts the legend under the axes, where it cannot cover data."""
    handles, labels = ax.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=1)
    if len(labels) > 1:
        n_rows = -(-len(labels) // max(1, 96 // (longest + 7)))
        n_columns = -(-len(labels) // n_rows)
        figure.set_figheight(figure.get_figheight() + 0.19 * (n_rows - 1))  # the axes keep their height
        figure.legend(handles, labels, loc="outside lower center", ncols=n_columns, frameon=False, fontsize=9)


def _bars(row: pd.Series[Any], name: str) -> FloatArray:
    """Lengths of an error bar to the left and right, float (2, 1), 0 where unknown."""
    ends = np.array([[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]], np.float64)
    return np.maximum(np.nan_to_num(ends), 0.0)


def _short(name: Any, length: int = 32) -> str:
    """A label that fits, with dollar signs kept from matplotlib's mathematics."""
    text = str(name)
    return (text if len(text) <= length else text[: length - 1] + "…").replace("$", r"\$")


def _label_points(figure: Figure, ax: Axes, table: pd.DataFrame) -> None:
    """Writes names beside points where they cover neither each other nor error bars, as far as there is room."""
    figure.canvas.draw()  # the layout must stand before anything can be measured
    taken = [box for _, row in table.iterrows() for box in _cross(ax, row)]
    for name, row in table.iterrows():
        best: tuple[float, Any, Box] | None = None
        for far, right, up in _PLACES:
            text = ax.annotate(
                _short(name), (row["ndcg"], row["retention"]), xytext=(far * right, far * up),
                textcoords="offset points", ha="left" if right > 0 else "right", va="bottom" if up > 0 else "top",
                fontsize=9, arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.6} if far > 7 else None,
            )  # fmt: skip
            box = _box(text.get_window_extent().extents)
            covered = sum(_overlap(box, other) for other in taken) + _outside(box, _box(ax.bbox.extents))
            if best is None or covered < best[0]:
                if best is not None:
                    best[1].remove()
                best = (covered, text, box)
            else:
                text.remove()
            if best[0] == 0:
                break
        assert best is not None, "there is at least one place"
        taken.append(best[2])


def _cross(ax: Axes, row: pd.Series[Any]) -> list[Box]:
    """The two error bars of a point as boxes in pixels, at least as large as the marker."""
    x, y = float(row["ndcg"]), float(row["retention"])
    (left, right), (down, up) = _bars(row, "ndcg")[:, 0], _bars(row, "retention")[:, 0]
    ends = ax.transData.transform([(x - left, y), (x + right, y), (x, y - down), (x, y + up)])
    (x0, y0), (x1, _), (x2, y2), (_, y3) = ends.tolist()
    return [(x0 - 7, y0 - 7, x1 + 7, y0 + 7), (x2 - 7, y2 - 7, x2 + 7, y3 + 7)]


def _box(extents: Any) -> Box:
    left, bottom, right, top = (float(v) for v in extents)
    return left, bottom, right, top


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, frame: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
