"""What changes when an assumption about sessions changes: one setting at a time, low and high.

    python benchmarks/assumptions.py

No rating data shows sessions, leaving or return, so those numbers are assumed. For each of them this runs 300 users
for 15 days under popularity and EASE, with the setting lowered and raised, and writes the change of session length,
retention and EASE's advantage in clicks per page to a table and a plot.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import _report
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario

BASE = [
    "name=assumptions", "days=15", "users.count=300", "replications=3", "recommenders=popularity,ease",
]  # fmt: skip
SETTINGS: dict[str, tuple[float, float]] = {
    "users.appeal": (-3.5, -2.5), "users.familiarity": (0.4, 1.2), "users.interest": (0.4, 1.2),
    "users.genre": (0.45, 1.35), "users.taste": (0.0, 0.6), "users.satiation": (0.25, 1.0),
    "users.again_penalty": (1.5, 6.0), "users.repeat_penalty": (0.0, 2.0), "users.go_on": (0.8, 0.95),
    "users.patience": (2.5, 6.0), "users.target_clicks": (0.8, 1.8), "users.speak": (0.0, 1.0),
    "users.search": (0.0, 0.5), "users.open_rate": (0.2, 0.5), "calendar.churn": (0.02, 0.08),
    "calendar.churn_slope": (1.0, 4.0), "calendar.loyalty": (0.5, 3.0), "calendar.memory": (0.4, 0.9),
    "calendar.again": (0.0, 0.3),
}  # fmt: skip
MEASURES = {
    "session": "pages per session",
    "retention": "users who come back\nin the last 5 days, %",
    "advantage": "clicks per page, EASE\nminus popularity",
}


def measure(overrides: list[str]) -> dict[str, float]:
    """Session length and retention over both recommenders, and EASE's advantage in clicks per page."""
    with tempfile.TemporaryDirectory() as folder:
        run = load_run(run_scenario(load_scenario("quickstart", [*BASE, *overrides]), Path(folder) / "run"))
        sessions = run.sessions
        n = run.manifest["scenario"]["users"]["count"] * 3 * 2
        late = sessions[sessions["day"] >= 10].groupby(["recommender", "seed"], observed=True)["user"].nunique().sum()
        sums = sessions.groupby("recommender", observed=True)[["n_clicks", "n_turns"]].sum()
    rate = sums["n_clicks"] / sums["n_turns"]
    return {
        "session": float(sessions["n_turns"].mean()),
        "retention": 100.0 * late / n,
        "advantage": float(rate["ease"] - rate["popularity"]),
    }


def plot(base: dict[str, float], rows: pd.DataFrame, path: Path) -> None:
    """One panel a measure: a bar from the low to the high setting, a line at the default."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    for ax, (key, title) in zip(figure.subplots(1, 3, sharey=True), MEASURES.items(), strict=True):
        y = np.arange(len(rows))
        for end, colour, marker in (("low", "#0072B2", "o"), ("high", "#D55E00", "s")):
            ax.plot(rows[f"{key}_{end}"], y, marker, color=colour, label=f"{end} setting")
        ax.hlines(y, rows[f"{key}_low"], rows[f"{key}_high"], color="#999999", zorder=0)
        ax.axvline(base[key], color="black", linewidth=1, linestyle="--", label="default")
        ax.set_xlabel(title)
        ax.set_yticks(y, [f"{r.setting.partition('.')[2]} ({r.low:g}, {r.high:g})" for r in rows.itertuples()])
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.grid(axis="x", alpha=0.3)
    figure.axes[0].invert_yaxis()
    figure.axes[0].set_ylabel("setting (low, high)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs everything and writes table and plot."""
    base = measure([])
    found = []
    for setting, (low, high) in SETTINGS.items():
        row: dict[str, float | str] = {"setting": setting, "low": low, "high": high}
        for end, value in (("low", low), ("high", high)):
            row |= {f"{key}_{end}": v for key, v in measure([f"{setting}={value}"]).items()}
        found.append(row)
        print(row)
    rows = pd.DataFrame(found)
    plot(base, rows, _report.RESULTS / "assumptions.png")
    lines = [
        "300 users of the built-in data, 15 days, seeds 0 to 2, popularity and EASE. Each cell: low, high setting.\n",
        f"Default: {base['session']:.2f} pages per session, {base['retention']:.1f} % of the users come in the "
        f"last five days, EASE minus popularity {base['advantage']:+.3f} clicks per page.\n",
        "| setting | low, high | pages per session | come in the last 5 days, % | EASE minus popularity |",
        "|---|---|---|---|---|",
    ]
    for r in rows.itertuples():
        lines.append(
            f"| `{r.setting}` | {r.low:g}, {r.high:g} | {r.session_low:.2f}, {r.session_high:.2f} | "
            f"{r.retention_low:.1f}, {r.retention_high:.1f} | {r.advantage_low:+.3f}, {r.advantage_high:+.3f} |"
        )
    _report.write("assumptions", "What the assumptions about sessions do", "\n".join(lines))


if __name__ == "__main__":
    main()
