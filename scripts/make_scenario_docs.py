"""Writes the table of all scenario keys into docs/scenarios.md, out of the docstrings under the fields."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from recsim_env.scenario import Scenario

PAGE = Path(__file__).parents[1] / "docs" / "scenarios.md"
BEGIN, END = "<!-- keys: made by scripts/make_scenario_docs.py -->", "<!-- end of keys -->"


def rows(section: type[BaseModel], prefix: str = "") -> list[str]:
    """One table row per key, nested sections after their own row."""
    found = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += rows(kind, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        shown = "" if isinstance(default, (tuple, dict)) and not default else default
        if name == "recommenders":
            shown = "popularity"
        shown = "null" if shown is None else shown
        about = " ".join((field.description or "").split()).replace("|", "\\|")
        if name == "config":
            about += " They may stand beside the other keys: `users: {model: behavioral, patience: 6}`."
        found.append(f"| `{prefix}{name}` | `{shown}` | {about} |")
    return found


def main() -> None:
    """Replaces the table between the two markers."""
    text = PAGE.read_text(encoding="utf-8")
    table = "\n".join([BEGIN, "", "| key | default | meaning |", "|---|---|---|", *rows(Scenario), "", END])
    text = text.replace("SCHEMA\n", f"{BEGIN}\n{END}\n\n")
    text = re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: table, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
