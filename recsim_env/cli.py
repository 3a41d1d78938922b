"""The command line: ``recsim-env``. The only place that prints."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsim_env.errors import RecsimError, UnknownNameError

app = typer.Typer(
    name="recsim-env",
    help="Simulated users for recommender systems.\n\nStart with: recsim-env run quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
data_app = typer.Typer(help="Look at data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
out, err = Console(), Console(stderr=True)

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the scenario; repeatable.")
]


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(help="Name of a shipped scenario, or a YAML file.")],
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run folder; default runs/NAME-TIME.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of the run.")] = None,
    overrides: Overrides = None,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="NAME", help="Language-model engine, with its own defaults.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Model of the engine.")] = None,
    url: Annotated[list[str] | None, typer.Option("--url", help="Address of an endpoint; repeatable.")] = None,
    replies: Annotated[
        Path | None, typer.Option("--replies", metavar="RUN", help="Replay the stored replies of a run: no model.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the report at the end.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Simulates a scenario and writes a run folder and its report.

    Examples: `recsim-env run quickstart` · `recsim-env run quickstart --seed 7 --set users.count=100 --set days=5` ·
    `recsim-env run quickstart --set recommenders=popularity,ease` ·
    `recsim-env run quickstart --set data.path=ml-1m --set data.format=ml-1m` ·
    `recsim-env run quickstart --resume --out runs/quickstart-20260101-120000` ·
    `recsim-env run llm_quickstart --engine vllm --model Qwen/Qwen3-8B` ·
    `recsim-env run llm_quickstart --replies runs/llm_quickstart-20260101-120000`
    """
    from recsim_env.runner import run_scenario

    changes = [*_engine_changes(engine, model, url, replies), *(overrides or [])]
    changes += [] if seed is None else [f"seed={seed}"]
    with _progress_bar(quiet) as on_progress:
        folder = run_scenario(scenario, out_dir, changes, resume, on_progress)
    out.print(f"Run folder: {folder}", soft_wrap=True)
    if report:
        _write_report([folder], None)


def _engine_changes(engine: str | None, model: str | None, url: list[str] | None, replies: Path | None) -> list[str]:
    """The engine's options as ``--set`` overrides; a new engine starts from its own defaults, not another's."""
    import json

    from recsim_env.rundir import load_run

    changes = {"engine.model": model, "engine.base_urls": url}
    if replies is not None:
        told = load_run(replies).manifest["engine"]
        changes = {"engine.model": model or told.get("model", ""), "engine.revision": told.get("revision", "")}
        changes["engine.replies"] = str(replies)
        engine = "replay"
    named = [] if engine is None else [f"engine={{name: {engine}}}"]
    return named + [f"{key}={json.dumps(value)}" for key, value in changes.items() if value]


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="One or more run folders.")],
    out_file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The HTML file; default RUN/report.html.")
    ] = None,
) -> None:
    """Writes the report of one run, or compares several: one HTML page and PNG plots.

    Examples: `recsim-env report runs/quickstart-1` · `recsim-env report runs/a runs/b --out compare.html`
    """
    _write_report(runs, out_file)


def _write_report(folders: list[Path], out_file: Path | None) -> None:
    from recsim_env.report import write_report
    from recsim_env.rundir import load_run

    with err.status("Writing the report ..."):
        page = write_report([load_run(folder) for folder in folders], out_file)
    out.print(f"Report: {page}", soft_wrap=True)


KINDS = {
    "users": "user_models",
    "recommenders": "recommenders",
    "datasets": "datasets",
    "rewards": "rewards",
    "engines": "engines",
}


@app.command("list")
def list_plugins(
    kind: Annotated[str, typer.Argument(help="users, recommenders, scenarios, datasets, rewards or engines.")],
) -> None:
    """Lists plug-ins and scenarios, each with one line.

    Examples: `recsim-env list recommenders` · `recsim-env list scenarios`
    """
    from recsim_env import registry
    from recsim_env.scenario import load_scenario, scenario_names

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    if kind == "scenarios":
        for name in scenario_names():
            table.add_row(name, load_scenario(name).description)
    elif kind in KINDS:
        entries: registry.Registry[Any] = getattr(registry, KINDS[kind])
        for name in entries.names():
            table.add_row(name, entries.summary(name))
    else:
        raise UnknownNameError("kind", kind, [*KINDS, "scenarios"])
    out.print(table)


@data_app.command()
def describe(
    source: Annotated[str, typer.Argument(help="Name of a built-in data set, or a path.")],
    format_: Annotated[
        str | None, typer.Option("--format", help="ml-100k, ml-1m, csv or parquet; guessed if left out.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Shows what a data set holds.

    Examples: `recsim-env data describe movietweetings` · `recsim-env data describe ml-1m/` ·
    `recsim-env data describe ratings.csv --set columns.user=who --set columns.item=what`
    """
    from recsim_env.data.describe import describe as describe_dataset
    from recsim_env.data.describe import render
    from recsim_env.data.load import load_dataset
    from recsim_env.registry import datasets
    from recsim_env.scenario import load_scenario

    known = source in datasets.names()
    if not known and not Path(source).exists():
        raise UnknownNameError("dataset", source, datasets.names(), remedy="Or give the path of a folder or file.")
    data: dict[str, Any] = {"name": source} if known else {"path": source, "format": format_}
    scenario = load_scenario({"data": data}, [f"data.{o}" for o in overrides or []])
    out.print(render(describe_dataset(load_dataset(scenario.data))), markup=False, highlight=False, soft_wrap=True)


@app.command()
def doctor() -> None:
    """Shows what is installed, what is missing and how to get it.

    Example: `recsim-env doctor`
    """
    from recsim_env.doctor import check

    table = Table("", "what", "found", "what for, and how to get it", box=None, padding=(0, 2, 0, 0))
    for line in check():
        table.add_row("[green]ok[/]" if line.ok else "[yellow]--[/]", line.what, escape(line.found), escape(line.note))
    out.print(table)


class _progress_bar:
    """A progress bar over all cells, with user-turns a second and the time left."""

    def __init__(self, quiet: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rate]} user-turns/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
            disable=quiet,
        )
        self._task = self._bar.add_task("Preparing data and users", total=None, rate="-")

    def __enter__(self) -> Any:
        self._bar.start()
        return self._update

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _update(self, at: Any) -> None:
        rate = f"{at.n_turns / at.seconds:,.0f}" if at.n_turns else "-"
        self._bar.update(
            self._task,
            total=at.n_cells * at.days,
            completed=at.cell * at.days + at.day,
            description=at.label,
            rate=rate,
        )


def main() -> None:
    """Entry point: our own errors are printed without a traceback and end with exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except RecsimError as error:
        err.print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Stopped. Go on with --resume.")
        sys.exit(130)


if __name__ == "__main__":
    main()
