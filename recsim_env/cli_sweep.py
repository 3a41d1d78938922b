"""``recsim-env sweep``: a grid of runs, several at once, and one table."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from recsim_env.cli_parts import (
    EngineName,
    Model,
    Overrides,
    Quiet,
    TurnsBar,
    Urls,
    Workers,
    engine_changes,
    err,
    out,
    show_table,
)


def sweep(
    scenarios: Annotated[list[str], typer.Argument(metavar="SCENARIO...", help="Shipped scenarios, or YAML files.")],
    vary: Annotated[
        list[str] | None,
        typer.Option("--vary", metavar="KEY=A,B", help="Try several values of one key of the scenario; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Number of seeds.")] = 3,
    first_seed: Annotated[int, typer.Option("--seed", metavar="N", help="The first of them.")] = 0,
    overrides: Overrides = None,
    engine: EngineName = None,
    model: Model = None,
    url: Urls = None,
    workers: Workers = None,
    on: Annotated[
        Literal["ray", "processes"] | None,
        typer.Option("--on", help="Where several at once are made; Ray (on this machine) if installed."),
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder; default runs/sweep-TIME.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Runs every combination of scenarios, settings, recommenders and seeds, and tells them in one table.

    Each is an ordinary run folder. A sweep that was stopped, or in which runs failed, goes on when the same command is
    given the same folder with --out; what is complete is not made again.

    Examples: `recsim-env sweep quickstart --seeds 5 --workers 8` ·
    `recsim-env sweep quickstart rl_quickstart --set recommenders=popularity,ease --set users.count=200` ·
    `recsim-env sweep quickstart --vary calendar.churn=0.02,0.08 --vary users.patience=1,2 --out my-sweep` ·
    `recsim-env sweep llm_quickstart --engine openai --model Qwen/Qwen3-8B --url http://gpu1:8000/v1 --workers 4`
    """
    from recsim_env.experiments.sweep import RESULT, Plan, load_table, run_sweep, summary
    from recsim_env.rundir import load_measurement, measurement_folder

    changes = [*engine_changes(engine, model, url, None), *(overrides or [])]
    plan = Plan(scenarios, range(first_seed, first_seed + seeds), changes, vary or [])
    folder = measurement_folder(out_dir, RESULT, "sweep")
    place = on or ("ray" if find_spec("ray") else "processes")
    try:
        with TurnsBar(quiet) as on_progress:
            run_sweep(plan, folder, workers, place, on_progress)
    except KeyboardInterrupt:
        err.print(f"Stopped. Go on with the same command and --out {folder}.", soft_wrap=True)
        raise typer.Exit(130) from None
    record = load_measurement(folder, RESULT)
    table = load_table(folder)
    show_table(summary(table), "Means over seeds (95 %)")
    out.print(f"Sweep folder: {folder} (table.parquet, table.csv, sweep.md)", soft_wrap=True)
    some = (folder / "runs" / table["run"][0]).parent / f"*-seed{first_seed}"
    out.print(f"A report of some of them: recsim-env report {some} --out {folder}/report.html", soft_wrap=True)
    for name, told in record["failed"].items():
        err.print(f"[red]Failed:[/] {escape(name)}: {escape(told['error'])}", soft_wrap=True, highlight=False)
    if record["failed"]:
        err.print(
            f"{len(record['failed'])} of {record['n_runs']} runs failed; the same command with --out {folder} tries "
            f"them again. {RESULT} tells where they failed.",
            soft_wrap=True,
        )  # fmt: skip
        raise typer.Exit(1)
