"""``recsim-env evaluate``: recommenders on held-out ratings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsim_env.cli_parts import Bar, DataName, Overrides, Quiet, data_source, out


def evaluate(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME|NAME=DIR]...", help="Recommenders; DIR holds a trained one.")
    ] = None,
    data: DataName = "movietweetings",
    protocol: Annotated[
        str, typer.Option("--protocol", help="last-out, per-user, sampled (drawn candidates) or fixed (from a file).")
    ] = "last-out",
    k: Annotated[int, typer.Option("--k", metavar="N", min=1, help="Length of the lists.")] = 10,
    n_candidates: Annotated[int, typer.Option("--n-candidates", min=2, help="sampled: candidates in all.")] = 20,
    n_draws: Annotated[int, typer.Option("--draws", min=1, help="sampled: how often they are drawn.")] = 100,
    candidates: Annotated[Path | None, typer.Option("--candidates", metavar="FILE", help="fixed: the lists.")] = None,
    baselines: Annotated[bool, typer.Option("--baselines/--no-baselines", help="The counting baselines too.")] = True,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of split and fits.")] = 0,
    overrides: Overrides = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder; default runs/evaluate-TIME.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Ranks held-out ratings by any recommender, always beside the counting baselines.

    Examples: `recsim-env evaluate` ·
    `recsim-env evaluate als sasrec=my-sasrec --data ml-1m/ --set data.min_ratings=5` ·
    `recsim-env evaluate sasrec=my-sasrec --protocol sampled --k 1` ·
    `recsim-env evaluate ease --protocol fixed --candidates lists.csv`
    """
    from recsim_env.experiments.offline import BASELINES, Plan, read, run_evaluation, table
    from recsim_env.scenario import load_scenario

    plan = Plan(protocol, k, n_candidates, n_draws, candidates, BASELINES if baselines else ())
    asked = [_section(name) for name in names or ()]
    plain = {"name": "evaluate", "data": data_source(data), "seed": seed}
    plain["recommenders"] = asked or list(BASELINES)
    scenario = load_scenario(plain, overrides or [])
    with _NamesBar(quiet) as on_progress:
        folder = run_evaluation(scenario, out_dir, plan, on_progress)
    header, *lines = table(read(folder))
    shown = Table(*header, box=None, padding=(0, 1, 0, 0))
    for line in lines:
        shown.add_row(*map(escape, line))
    # A table wider than the terminal would lose columns; a pipe gets the width that it needs.
    (out if out.is_terminal else Console(width=250)).print(shown)
    out.print(f"Evaluation folder: {folder}", soft_wrap=True)


def _section(name: str) -> dict[str, Any]:
    """A recommender's section out of ``NAME`` or ``NAME=DIR``."""
    kind, equals, path = name.partition("=")
    return {"name": kind, "path": path} if equals else {"name": kind}


class _NamesBar(Bar):
    """A progress bar over recommenders."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet, ("{task.completed}/{task.total}",), "Reading data")

    def _update(self, at: Any) -> None:
        self._bar.update(self._task, total=at.n_cells, completed=at.cell, description=at.label)
