"""Tables that all measurements write."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Header and lines as a Markdown table."""
    rows = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
    return [rows[0], "|" + "---|" * len(lines[0]), *rows[1:]]
