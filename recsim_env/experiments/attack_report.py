"""The measurement of attacks as a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recsim_env.experiments.hostile import CONTROL
from recsim_env.plots import GREY, MARKERS, PALETTE, WIDTH, save_in
from recsim_env.rundir import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

WAYS = ((False, "defences off", PALETTE[1]), (True, "defences on", PALETTE[0]))
"""Setting of the defences, its name and its colour."""

_PLACES = {"first": "first on the page", "middle": "in the middle", "last": "last on the page"}


def write_report(folder: RunFolder, record: Mapping[str, Any]) -> None:
    """Writes ``attack.md`` and ``attack.png`` out of what ``attack.json`` holds."""
    folder.write_text("attack.md", markdown(record))
    save_in(folder, "attack.png", lift_plot(record["rows"]))


def lift_table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """For people: a header, then one line per template, field and position with the lift of the click probability."""
    lines = [("template", "field", "position", *(name for _, name, _ in WAYS))]
    conditions = dict.fromkeys((r["template"], r["field"], r["position"]) for r in rows)
    for condition in conditions:
        both = {r["defences"]: r for r in rows if (r["template"], r["field"], r["position"]) == condition}
        lines.append((*condition, *(_lift(both[way], "p_click", 2) for way, _, _ in WAYS)))
    return lines


def markdown(record: Mapping[str, Any]) -> str:
    """The page ``attack.md``: what was measured, and every row."""
    target, engine, users = record["target"], record["engine"], record["n_users"]
    lines = [
        "# Hostile item text",
        "",
        f"{users} users of `{record['scenario']['name']}` (seed {record['seeds'][0]}), model `{engine['model']}`, "
        f"first pages by `{record['recommender']}`. Attacked: *{_cell(target['title'])}* (item {target['item_id']}). "
        "Lift: attacked minus clean, same pages and draws; brackets: 95 % of a bootstrap over users. "
        "docs/hostile-text.md tells how to read it.",
        "",
        "| template | field | position | defences | p(click) clean | attacked | lift | lift of clicks | rating clean "
        "| attacked | lift of p(click) of others |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        lines.append(
            f"| {row['template']} | {row['field']} | {row['position']} | {'on' if row['defences'] else 'off'} "
            f"| {_number(row['p_click_clean'])} | {_number(row['p_click'])} | {_lift(row, 'p_click')} "
            f"| {_lift(row, 'click_rate')} | {_rating(row, '_clean')} | {_rating(row, '')} "
            f"| {_lift(row, 'others_p_click')} |"
        )
    lines += [
        "",
        "Ratings are expected marks of those who watched, with their number.",
        "",
        "| template | |",
        "|---|---|",
    ]
    lines += [f"| {name} | {told['description']} |" for name, told in record["templates"].items()]
    bad = max((max(row["fallback"], row["fallback_clean"]) for row in record["rows"]), default=0.0)
    lines += ["", f"Users with a reply that could not be used: at most {bad:.1%} in any row."]
    return "\n".join(lines) + "\n"


def _lift(row: Row, measure: str, digits: int = 3) -> str:
    figures = [row[f"{measure}_lift{end}"] for end in ("", "_low", "_high")]
    if None in figures:
        return "-"
    value, low, high = (f"{figure:+.{digits}f}" for figure in figures)
    return f"{value} [{low}, {high}]"


def _rating(row: Row, end: str) -> str:
    return f"{_number(row[f'expected_rating{end}'])} ({row[f'n_watched{end}']})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def lift_plot(rows: Sequence[Row]) -> Figure:
    """Lift of the click probability with 95 % intervals: a panel per field, a line per template.

    Colour tells whether the defences are on, the marker where on the page the item stood.

    Args:
        rows: As in ``attack.json``.
    """
    from matplotlib.figure import Figure

    templates = list(dict.fromkeys(r["template"] for r in rows))
    positions = list(dict.fromkeys(r["position"] for r in rows))
    fields = list(dict.fromkeys(r["field"] for r in rows))
    per_line = 2 * len(positions) + 1
    size = (1.25 * WIDTH, 1.7 + 0.115 * per_line * len(templates))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(fields), sharex=True, sharey=True, squeeze=False)[0]
    for ax, field in zip(axes, fields, strict=True):
        _draw(ax, [r for r in rows if r["field"] == field], templates, positions)
        ax.set_title(f"Attack in the {'description' if field == 'text' else field}", loc="left", fontsize=10)
        names = [f"{name}\n(control)" if name == CONTROL else name for name in templates]
        ax.set_yticks(-np.arange(len(templates)), names)
        ax.set_ylim(-len(templates) + 0.45, 0.55)
        ax.set_xlabel("Lift of click probability, attacked − clean")
    figure.suptitle(
        "What a hostile text does to its item, with 95 % intervals over users", x=0.02, ha="left", fontsize=11
    )
    _legend(figure, positions)
    return figure


def _draw(ax: Axes, rows: Sequence[Row], templates: Sequence[str], positions: Sequence[str]) -> None:
    """The points of one field, and the style of its panel."""
    step = 0.8 / (2 * len(positions) + 1)
    for row in rows:
        if row["p_click_lift"] is None:
            continue
        way = next(i for i, (on, _, _) in enumerate(WAYS) if on == row["defences"])
        place = positions.index(row["position"])
        y = -templates.index(row["template"]) + 0.4 - step * (way * (len(positions) + 1) + place + 0.5)
        value = row["p_click_lift"]
        ends = [[max(value - row["p_click_lift_low"], 0.0)], [max(row["p_click_lift_high"] - value, 0.0)]]
        ax.errorbar(
            value, y, xerr=ends, fmt=MARKERS[place], color=WAYS[way][2], ms=4.5, lw=1.1, capsize=1.8,
            markerfacecolor=WAYS[way][2] if row["defences"] else "white",
        )  # fmt: skip
    for between in range(1, len(templates)):
        ax.axhline(0.5 - between, color="#E4E4E4", lw=0.7)
    ax.axvline(0.0, color=GREY, lw=1.0, zorder=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=True, axis="x", color="#E4E4E4", lw=0.7)
    ax.set_axisbelow(True)


def _legend(figure: Figure, positions: Sequence[str]) -> None:
    """Colours and markers, under the panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="o", lw=1.1, ms=5, label=name, markerfacecolor=colour if on else "white")
        for on, name, colour in WAYS
    ]
    handles += [
        Line2D([], [], color=GREY, marker=MARKERS[i], lw=0, ms=5, label=_PLACES[name])
        for i, name in enumerate(positions)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
