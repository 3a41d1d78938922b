"""What the fidelity suite writes: one row per judge with intervals, a Markdown page, plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recsim_env.evaluation.bootstrap import ratio_intervals
from recsim_env.experiments.fidelity.judging import Verdict
from recsim_env.experiments.fidelity.published import GOALS, PUBLISHED, is_movielens, missed
from recsim_env.records import FloatArray
from recsim_env.rundir import RunFolder

COLUMNS = {
    "f1_m1": ("F1 m=1", 3), "f1_m3": ("m=3", 3), "f1_m9": ("m=9", 3), "f1_m19": ("m=19", 3),
    "ndcg_m19": ("nDCG@5 m=19", 3), "mae": ("MAE", 3), "rmse": ("RMSE", 3), "preference_f1": ("liked F1", 3),
    "js": ("JS bits", 4), "wasserstein": ("Wasserst.", 3), "spread": ("spread", 2), "liked_share": ("liked", 3),
    "positive_share": ("p(watch)", 3), "auc": ("AUC told", 2), "bad": ("bad", 3),
}  # fmt: skip
"""Columns of the table: heading and digits."""
TITLES = {"behavioral": "behavioural users", "prior alone": "hybrid's prior alone", "llm": "LLM users",
          "hybrid": "hybrid users", "prior alone, same users": "prior alone, on the LLM users"}  # fmt: skip


def summarise(name: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """One judge over all seeds.

    Figures of users are means over users and seeds, with a 95 % bootstrap interval over users (one user's figures of
    several seeds stay together); figures of the whole are means over seeds, with their range.
    """
    row: dict[str, Any] = {"name": name, "n_users": 0, "low": {}, "high": {}}
    for measure in verdicts[0].per_user:
        users = np.concatenate([v.per_user[measure][0] for v in verdicts])
        values: FloatArray = np.concatenate([v.per_user[measure][1] for v in verdicts])
        _, cluster = np.unique(users, return_inverse=True)
        sums = [np.asarray(np.bincount(cluster, x), np.float64)[:, None] for x in (values, np.ones(len(values)))]
        interval = ratio_intervals(*sums)
        row[measure] = float(interval.value[0])
        row["low"][measure], row["high"][measure] = float(interval.low[0]), float(interval.high[0])
        row["n_users"] = max(row["n_users"], round(len(users) / len(verdicts)))
    for measure in verdicts[0].overall:
        values = np.array([v.overall[measure] for v in verdicts])
        row[measure] = float(values.mean())
        row["low"][measure], row["high"][measure] = float(values.min()), float(values.max())
    row["shares"] = np.mean([v.shares for v in verdicts], axis=0).tolist()
    row["watch_bins"], row["mark_bins"] = verdicts[0].watch_bins, verdicts[0].mark_bins
    row["thresholds"] = [v.thresholds for v in verdicts]
    return row


def table(record: dict[str, Any]) -> list[list[str]]:
    """Heading and rows as text: judges, then goals and published figures where they speak of this data set."""
    rows = [["", "users", *(heading for heading, _ in COLUMNS.values())]]
    for row in record["rows"]:
        rows.append([TITLES.get(row["name"], row["name"]), f"{row['n_users']:,}", *_cells(row)])
    if record["rows"]:
        first = record["rows"][0]
        real = {"liked_share": first["liked_share_real"], "js": 0.0, "wasserstein": 0.0, "spread": 1.0, "auc": 0.5}
        shares = [row["positive_share_real"] for row in record["rows"] if "positive_share_real" in row]
        real |= {"positive_share": shares[0]} if shares else {}
        rows.append(["people", "", *_cells(real)])
    if is_movielens(record["data"]):
        rows.append(["goal for hybrid users", "", *(_goal(name) for name in COLUMNS)])
        rows += [[name, "", *_cells(figures)] for name, figures in PUBLISHED.items()]
    return rows


def _cells(row: dict[str, Any]) -> list[str]:
    return [_number(row[name], digits) if name in row else "" for name, (_, digits) in COLUMNS.items()]


def _number(value: float, digits: int) -> str:
    if np.isnan(value):
        return ""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) and value != 0 else text


def _goal(name: str) -> str:
    low, high = GOALS.get(name, (None, None))
    if low is not None and high is not None:
        return f"{low:g}-{high:g}"
    return f"≥ {low:g}" if low is not None else f"≤ {high:g}" if high is not None else ""


def goal_lines(record: dict[str, Any]) -> list[str]:
    """Goals that the best hybrid row misses, named; nothing off MovieLens-1M."""
    if not is_movielens(record["data"]):
        return []
    lines = []
    for row in record["rows"]:
        if row["name"] in ("hybrid", "prior alone"):
            wrong = missed(row)
            title = TITLES[row["name"]]
            lines.append(f"{title}: {'misses: ' + '; '.join(wrong) if wrong else 'reaches every goal'}.")
    return lines


def interval_rows(record: dict[str, Any]) -> list[list[str]]:
    """The main figures with their intervals."""
    names = [name for name in ("f1_m1", "f1_m3", "f1_m9", "f1_m19", "mae", "rmse", "js", "spread", "auc")]
    rows = [["", *(COLUMNS[name][0] for name in names)]]
    for row in record["rows"]:
        cells = []
        for name in names:
            digits = COLUMNS[name][1]
            low, high = row["low"].get(name), row["high"].get(name)
            cells.append("" if low is None else f"{_number(low, digits)} to {_number(high, digits)}")
        rows.append([TITLES.get(row["name"], row["name"]), *cells])
    return rows


def intervention_rows(record: dict[str, Any]) -> list[list[str]]:
    """Every intervention: what changed, what was expected, whether it holds."""
    rows = [["users", "intervention", "measure", "expected", "change", "95 % interval", "holds"]]
    for name, told in record["interventions"].items():
        for f in told["findings"]:
            ends = "" if f["low"] is None or np.isnan(f["low"]) else f"{f['low']:+.3f} to {f['high']:+.3f}"
            rows.append(
                [TITLES.get(name, name), f["name"], f["measure"], f["expected"], f"{f['value']:+.3f}", ends,
                 "**no**" if f["holds"] == "no" else f["holds"]]
            )  # fmt: skip
    return rows


def correction_rows(record: dict[str, Any]) -> list[list[str]]:
    """Corrections off and on."""
    rows = [["users", "against", "option", "measure", "off", "on", "people"]]
    for name, told in record["interventions"].items():
        for c in told.get("corrections", ()):
            figures = [f"{c[key]:.3f}" for key in ("off", "on", "real")]
            rows.append([TITLES.get(name, name), c["bias"], c["option"], c["measure"], *figures])
    return rows


def markdown(record: dict[str, Any]) -> str:
    """The whole result as a page."""
    sizes = record["protocol"]
    parts = [
        f"# Fidelity on {record['data']}",
        f"Seeds {record['seeds'][0]} to {record['seeds'][-1]}, {record['n_ratings']:,} ratings, at most "
        f"{sizes['n_users']:,} users with at least {sizes['min_ratings']} ratings. "
        "docs/fidelity.md explains the columns.",
        _render(table(record)),
        *goal_lines(record),
        "## Intervals",
        "95 % bootstrap over users for F1, MAE and RMSE; range over seeds for JS, spread and AUC.",
        _render(interval_rows(record)),
    ]
    if len(intervention_rows(record)) > 1:
        parts += ["## Interventions", _render(intervention_rows(record))]
    if len(correction_rows(record)) > 1:
        parts += ["## Corrections, off and on", _render(correction_rows(record))]
    return "\n\n".join(parts) + "\n"


def _render(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', '∣') for cell in row)} |" for row in body)])


def write_results(folder: RunFolder, record: dict[str, Any]) -> None:
    """Writes the page and the plots into the folder."""
    from recsim_env.experiments.fidelity.figures import write_figures

    folder.write_text("fidelity.md", markdown(record))
    write_figures(folder.path, record)
