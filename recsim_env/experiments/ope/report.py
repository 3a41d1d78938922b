"""An evaluation as tables and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsim_env.evaluation.ope.estimate import FEW_UNITS
from recsim_env.evaluation.ope.turns import LIFE, ONE_TURN, SESSION
from recsim_env.experiments.ope.plot import forest
from recsim_env.experiments.tables import markdown_table
from recsim_env.plots import save_in
from recsim_env.rundir import RunFolder

Row = Mapping[str, Any]
RESULT = "ope.json"
UNSUPPORTED = 0.01
"""Share of a target's items that the log cannot hold from which on it is warned of."""
ESTIMANDS = (ONE_TURN, SESSION, LIFE)
GOOD = (0.90, 0.99)
"""Coverage that a 95 % interval may have to count as right."""

HEADER = (
    "target", "estimator", "value", "95 % interval", "effective", "largest w", "mean w", "unsupported", "unexplored",
    "",
)  # fmt: skip
CALIBRATION_HEADER = (
    "estimand", "K", "target", "estimator", "n", "truth", "bias", "RMSE", "coverage", "width", "effective", "",
)  # fmt: skip


def write_report(folder: RunFolder, record: Row) -> None:
    """Writes ``ope.md`` and ``ope.png`` out of what ``ope.json`` holds."""
    folder.write_text("ope.md", markdown(record))
    save_in(folder, "ope.png", forest(record))


def tables(record: Row) -> list[tuple[str, list[tuple[str, ...]]]]:
    """For people: title, then header and lines, of every estimand and of the calibration."""
    found: list[tuple[str, list[tuple[str, ...]]]] = []
    for estimand in ESTIMANDS:
        rows = [r for r in record["estimates"] if r["estimand"] == estimand]
        if rows:
            lines: list[tuple[str, ...]] = [HEADER]
            for target in dict.fromkeys(r["target"] for r in rows):
                lines += [_line(r) for r in rows if r["target"] == target]
                lines += [
                    _on_policy(r) for r in record["on_policy"] if (r["target"], r["estimand"]) == (target, estimand)
                ]
            found.append((estimand_title(record, estimand), lines))
    if record.get("calibration"):
        title = "Calibration: replicates against the truth; coverage of the 95 % intervals"
        found.append((title, [CALIBRATION_HEADER, *map(_calibration_line, record["calibration"]["rows"])]))
    return found


def estimand_title(record: Row, estimand: str) -> str:
    """What an estimand is, in words with its unit."""
    reward = record["reward"]
    return {
        ONE_TURN: f"One-turn value: expected {reward} of the next page in the logged states ({reward} per page)",
        SESSION: f"Session return: {reward} of a session that starts as the logged ones did ({reward} per session)",
        LIFE: f"Life return: {reward} of a user over all logged days ({reward} per user)",
    }[estimand]


def notes(record: Row) -> list[str]:
    """What a reader must know: where the log is from, what was left out, and warnings."""
    said = [
        f"Log: {record['n_turns']:,} turns of {record['n_users']:,} users under {record['logged']!r}, slates of "
        f"{record['slate_size']}; it earned {_own_value(record)}."
    ]
    if record["n_searched"]:
        said.append(
            f"{record['n_searched']:,} turns were served by the catalogue's search: left out of the one-turn value; in "
            "a session they weigh the same under every policy."
        )
    if record.get("retrained"):
        said.append("The run trains its recommenders again; targets are judged as they were on the first day.")
    if not record["estimates"]:
        said.append("Nothing to estimate: add a column target_propensity, as docs/ope.md tells.")
    few = [r for r in record["estimates"] if r["few"]]
    if few:
        said.append(
            f"Warning: {len(few)} estimates rest on an effective sample below 1 % of the log or below {FEW_UNITS} "
            "(marked 'few'). Do not believe them or their intervals: log more turns or with more chance, or evaluate "
            "targets nearer to the logging policy."
        )
    unsupported = {r["target"]: r["unsupported"] for r in record["estimates"] if r["unsupported"]}
    for target, share in unsupported.items():
        if share >= UNSUPPORTED:
            said.append(
                f"Warning: {share:.0%} of what {target!r} shows is never shown by the logging policy, so no estimator "
                "but DM can see it; the others are about something else, mostly too low. Log with some epsilon."
            )
    return said


def _own_value(record: Row) -> str:
    row = next(r for r in record["logged_value"] if r["estimand"] == ONE_TURN)
    return f"{_figure(row['value'])} {record['reward']} per page ({_interval(row)})"


def _line(row: Row) -> tuple[str, ...]:
    share, effective = row["effective_share"], row["effective"]
    told = "-" if effective is None else f"{effective:,.0f} ({share:.1%})"
    return (
        row["target"], row["estimator"], _figure(row["value"]), _interval(row), told, _figure(row["largest"], 3),
        _figure(row["mean_weight"], 3), _share(row["unsupported"]), _share(row["unexplored"]),
        "few" if row["few"] else "",
    )  # fmt: skip


def _on_policy(row: Row) -> tuple[str, ...]:
    return (row["target"], "own cell of the run", _figure(row["value"]), _interval(row), *("",) * 6)


def _calibration_line(row: Row) -> tuple[str, ...]:
    right = GOOD[0] <= row["coverage"] <= GOOD[1]
    return (
        row["estimand"], str(row["slate_size"]), row["target"], row["estimator"], f"{row['n']:,}",
        _figure(row["truth"]), _figure(row["bias"]), _figure(row["rmse"]), f"{row['coverage']:.0%}",
        _figure(row["width"]), _share(row["effective_share"]), "" if right else "fails",
    )  # fmt: skip


def _figure(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.2e}"


def _interval(row: Row) -> str:
    return "-" if row["low"] is None else f"{_figure(row['low'])} to {_figure(row['high'])}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def markdown(record: Row) -> str:
    """The page ``ope.md``."""
    lines = ["# Off-policy evaluation", "", *(f"- {text}" for text in notes(record)), ""]
    for title, table in tables(record):
        lines += [f"## {title}", "", *markdown_table(table), ""]
    if record.get("calibration"):
        told = record["calibration"]
        lines += [
            f"One turn: {told['n_states']:,} logged states lived again, {told['replicates']} replicate logs of n pages "
            f"({2 * told['replicates']} for one item). 'fails': coverage outside {GOOD[0]:.0%} to {GOOD[1]:.0%}.",
            "",
        ]
    return "\n".join([*lines, "docs/ope.md tells what to believe of this.", ""])
