"""The forest plot of an evaluation: every estimate with its interval, beside what the target earned itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recsim_env.evaluation.ope.turns import ONE_TURN, SESSION
from recsim_env.plots import GREY, MARKERS, PALETTE, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
UNITS = {ONE_TURN: "per page", SESSION: "per session"}
TITLES = {ONE_TURN: "One-turn value", SESSION: "Session return"}
FEW_COLOUR = "#B0B0B0"


def forest(record: Row) -> Figure:
    """A panel per estimand, a group of lines per target.

    Filled markers rest on at least 1 % of the log, grey ones on less. A dashed line is what the target earned in its
    own cell of the run, a solid one the truth in the logged states, where it is known. Intervals that leave the panel
    end in an arrow.

    Args:
        record: As in ``ope.json``.
    """
    from matplotlib.figure import Figure

    panels = [e for e in (ONE_TURN, SESSION) if any(r["estimand"] == e for r in record["estimates"])]
    panels = panels or [ONE_TURN]
    heights = [len(_lines(record, e)) for e in panels]
    size = (1.25 * WIDTH if len(panels) > 1 else WIDTH, 1.9 + 0.2 * max(heights))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, estimand in zip(axes, panels, strict=True):
        _draw(ax, record, estimand)
        ax.set_title(TITLES[estimand], loc="left", fontsize=10)
        ax.set_xlabel(f"{record['reward'].capitalize()} {UNITS[estimand]}")
    figure.suptitle(
        f"Estimates from the log of {_safe(record['logged'])}, with 95 % intervals", x=0.02, ha="left", fontsize=11
    )
    _legend(figure, record)
    return figure


def _safe(text: str) -> str:
    return text.replace("$", r"\$")


def _lines(record: Row, estimand: str) -> list[Row | str]:
    """What stands on the lines of a panel from the top: names of targets, each followed by its estimates."""
    rows = [r for r in record["estimates"] if r["estimand"] == estimand]
    lines: list[Row | str] = []
    for target in dict.fromkeys(r["target"] for r in rows):
        lines += [target, *(r for r in rows if r["target"] == target)]
    return lines


def _draw(ax: Axes, record: Row, estimand: str) -> None:
    lines = _lines(record, estimand)
    marks = _marks(record, estimand)
    low, high = _limits([r for r in lines if not isinstance(r, str)], marks)
    colour, number, labels = PALETTE[0], -1, []
    for y, line in enumerate(lines):
        if isinstance(line, str):
            number += 1
            colour = PALETTE[number % len(PALETTE)]
            labels.append(_safe(line))
            bottom = next((i for i in range(y + 1, len(lines)) if isinstance(lines[i], str)), len(lines))
            for value, style in marks.get(line, []):
                ax.plot([value, value], [-y - 0.3, -bottom + 0.5], color=colour, lw=1.4, ls=style, zorder=1)
            if y:
                ax.axhline(-y + 0.5, color="#E4E4E4", lw=0.7)
        else:
            labels.append(line["estimator"])
            if line["value"] is not None:
                _point(ax, line, -y, FEW_COLOUR if line["few"] else colour, MARKERS[number % len(MARKERS)], (low, high))
    ax.set_yticks(-np.arange(len(lines)), labels, fontsize=8)
    for tick, line in zip(ax.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("bold" if isinstance(line, str) else "normal")
    ax.set_xlim(low, high)
    ax.set_ylim(-len(lines) + 0.4, 0.7)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=True, axis="x", color="#E4E4E4", lw=0.7)
    ax.set_axisbelow(True)


def _point(ax: Axes, row: Row, y: int, colour: str, marker: str, limits: tuple[float, float]) -> None:
    """An estimate with its interval, cut at the panel's edges."""
    low, high = limits
    value = float(np.clip(row["value"], low, high))
    ends = [row["value"] if row[name] is None else row[name] for name in ("low", "high")]
    left, right = (float(np.clip(end, low, high)) for end in ends)
    ax.plot([left, right], [y, y], color=colour, lw=1.3, zorder=2)
    if low <= row["value"] <= high:
        face = "white" if row["few"] else colour
        ax.plot([value], [y], marker=marker, color=colour, markerfacecolor=face, ms=5, lw=0, zorder=3)
    for end, at, arrow in ((ends[0], low, "<"), (ends[1], high, ">")):
        if end < low or end > high:
            ax.plot([at], [y], marker=arrow, color=colour, ms=5, clip_on=False, zorder=4)


def _marks(record: Row, estimand: str) -> dict[str, list[tuple[float, str]]]:
    """By target: what it earned itself (dashed), and the truth in the logged states (solid)."""
    found: dict[str, list[tuple[float, str]]] = {}
    for row in record["on_policy"]:
        if row["estimand"] == estimand and row["value"] is not None:
            found.setdefault(row["target"], []).append((row["value"], "--"))
    if estimand == ONE_TURN and record.get("calibration"):
        for row in record["calibration"]["rows"]:
            if row["estimand"] == estimand and row["slate_size"] == record["slate_size"]:
                marks = found.setdefault(row["target"], [])
                if (row["truth"], "-") not in marks:
                    marks.append((row["truth"], "-"))
    return found


def _limits(rows: Sequence[Row], marks: Mapping[str, list[tuple[float, str]]]) -> tuple[float, float]:
    """An axis on which trustworthy estimates and known values can be told apart."""
    values = [value for pairs in marks.values() for value, _ in pairs]
    values += [r["value"] for r in rows if r["estimator"] == "DM" and r["value"] is not None]
    trusted = [r for r in rows if not r["few"] and r["low"] is not None] or [r for r in rows if r["low"] is not None]
    anchor = max((abs(v) for v in values), default=max((abs(r["value"]) for r in trusted), default=1.0)) or 1.0
    ends = [r[name] for r in trusted for name in ("low", "high") if abs(r[name]) <= 3.0 * anchor]
    low, high = min([*values, *ends, 0.0]), max([*values, *ends, 1e-9])
    return low - 0.04 * (high - low), high + 0.06 * (high - low)


def _legend(figure: Figure, record: Row) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=FEW_COLOUR,
            marker="o",
            markerfacecolor="white",
            lw=1.3,
            ms=5,
            label="effective sample below 1 %",
        )
    ]
    if record["on_policy"]:
        handles.append(Line2D([], [], color=GREY, ls="--", lw=1.4, label="the target's own cell of the run"))
    if record.get("calibration"):
        handles.append(Line2D([], [], color=GREY, ls="-", lw=1.4, label="truth in the logged states"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
