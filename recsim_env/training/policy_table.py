"""The comparison of a trained policy with others, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Header and lines, the best reward first.

    Args:
        rows: Figures by policy, as ``training.json`` holds them under ``held_out``.
    """
    life = any(row["stayed"] is not None for row in rows.values())
    header = ["policy", "reward of an episode", "95 %", "trained minus this", "95 %", "pages"]
    header += ["days", "stayed"] if life else []
    lines = [[*header, "coverage", "Gini"]]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["reward"]["mean"]):
        reward, more = row["reward"], row["trained_minus_this"]
        same = more["low"] == more["high"] == 0.0
        line = [
            name, f"{reward['mean']:.2f}", f"{reward['low']:.2f} to {reward['high']:.2f}",
            "-" if same else f"{more['mean']:+.2f}", "-" if same else f"{more['low']:+.2f} to {more['high']:+.2f}",
            f"{row['pages']['mean']:.2f}",
        ]  # fmt: skip
        if life:
            line += [f"{row['days']['mean']:.1f}", f"{row['stayed']['mean']:.3f}"]
        lines.append([*line, f"{row['coverage']:.3f}", f"{row['gini']:.3f}"])
    return lines
