"""The command line: ``recsim-env``. The only place that prints."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsim_env.cli_evaluate import agreement, evaluate, ope
from recsim_env.cli_parts import (
    EngineName,
    Model,
    OutDir,
    Overrides,
    Quiet,
    Replies,
    Resume,
    TurnsBar,
    Urls,
    data_source,
    engine_changes,
    err,
    names_of,
    out,
    show_table,
)
from recsim_env.cli_serve import play, serve
from recsim_env.cli_study import study
from recsim_env.cli_sweep import sweep
from recsim_env.cli_train import train_app
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
app.add_typer(train_app, name="train")
app.command()(evaluate)
app.command()(agreement)
app.command()(ope)
app.command()(study)
app.command()(sweep)
app.command()(serve)
app.command()(play)


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(help="Name of a shipped scenario, or a YAML file.")],
    out_dir: OutDir = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of the run.")] = None,
    overrides: Overrides = None,
    engine: EngineName = None,
    model: Model = None,
    url: Urls = None,
    replies: Replies = None,
    resume: Resume = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the report at the end.")] = True,
    quiet: Quiet = False,
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

    changes = [*engine_changes(engine, model, url, replies), *(overrides or [])]
    changes += [] if seed is None else [f"seed={seed}"]
    with TurnsBar(quiet) as on_progress:
        folder = run_scenario(scenario, out_dir, changes, resume, on_progress)
    out.print(f"Run folder: {folder}", soft_wrap=True)
    if report:
        _write_report([folder], None)


@app.command()
def attack(
    scenario: Annotated[str, typer.Argument(help="Name of a shipped scenario, or a YAML file.")] = "llm_quickstart",
    engine: EngineName = None,
    model: Model = None,
    url: Urls = None,
    replies: Replies = None,
    overrides: Overrides = None,
    users: Annotated[
        int | None, typer.Option("--users", metavar="N", min=1, help="Number of users; the scenario's if left out.")
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option("--templates", metavar="A,B", help="Some of docs/hostile-text.md's; default all."),
    ] = None,
    positions: Annotated[
        str, typer.Option("--positions", metavar="A,B", help="Where on the page the attacked item stands.")
    ] = "first,middle,last",
    fields: Annotated[
        str, typer.Option("--fields", metavar="A,B", help="Where in the item the attack is written.")
    ] = "title,text",
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder; default runs/attack-NAME-TIME.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measures what hostile item texts do to language-model users, with their defences off and on.

    A measurement that was stopped goes on when the same command is given the same folder with --out.

    Examples: `recsim-env attack --engine transformers --model FOLDER` ·
    `recsim-env attack llm_quickstart --engine vllm --model Qwen/Qwen3-8B --users 100 --set users.decide=listwise` ·
    `recsim-env attack --templates control-tokens,praise --positions first --fields title --out runs/tokens` ·
    `recsim-env attack --replies runs/tokens --templates control-tokens,praise --positions first --fields title`
    """
    from recsim_env.experiments.attack import Plan, choose_folder, run_attack
    from recsim_env.scenario import load_scenario

    changes = [*engine_changes(engine, model, url, replies), *(overrides or [])]
    changes += [] if users is None else [f"users.count={users}"]
    plan = Plan(positions=names_of(positions), fields=names_of(fields))
    plan = plan if templates is None else replace(plan, templates=names_of(templates))
    asked = load_scenario(scenario, changes)
    folder = choose_folder(asked, out_dir)
    try:
        with TurnsBar(quiet) as on_progress:
            run_attack(asked, folder, (), plan, on_progress)
    except KeyboardInterrupt:
        err.print(f"Stopped. Go on with the same command and --out {folder}.", soft_wrap=True)
        raise typer.Exit(130) from None
    _print_attack(folder)


def _print_attack(folder: Path) -> None:
    """The lifts of a measurement, and where everything else stands."""
    from recsim_env.experiments.attack_report import lift_table
    from recsim_env.rundir import load_measurement

    header, *lines = lift_table(load_measurement(folder, "attack.json")["rows"])
    table = Table(*header, box=None, padding=(0, 2, 0, 0), title_justify="left")
    table.title = "Lift of the attacked item's click probability, with 95 % intervals"
    for line in lines:
        table.add_row(*map(escape, line))
    out.print(table)
    out.print(f"Attack folder: {folder}", soft_wrap=True)


@app.command()
def fidelity(
    users: Annotated[
        str, typer.Option("--users", metavar="A,B", help="User models; 'recsim-env list users' shows all.")
    ] = "behavioral",
    data: Annotated[
        str, typer.Option("--data", metavar="NAME_OR_PATH", help="A built-in data set, or a path.")
    ] = "movietweetings",
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Number of splits.")] = 3,
    first_seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the first split.")] = 0,
    n_users: Annotated[int, typer.Option("--n-users", metavar="N", min=2, help="Users who are judged.")] = 1000,
    n_llm_users: Annotated[
        int | None, typer.Option("--n-llm-users", metavar="N", min=2, help="Fewer of them for language models.")
    ] = None,
    interventions: Annotated[
        bool, typer.Option("--interventions/--no-interventions", help="Try interventions and corrections.")
    ] = True,
    engine: EngineName = None,
    model: Model = None,
    url: Urls = None,
    replies: Replies = None,
    overrides: Overrides = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder; default runs/fidelity-TIME.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measures how much simulated users resemble the people of a data set, beside baselines without any language model.

    A measurement that was stopped goes on when the same command is given the same folder with --out: a language model
    is not asked again what it has answered.

    Examples: `recsim-env fidelity` · `recsim-env fidelity --data ml-1m/ --seeds 3` ·
    `recsim-env fidelity --users llm,hybrid --engine transformers --model FOLDER --n-llm-users 100` ·
    `recsim-env fidelity --users llm --engine vllm --model Qwen/Qwen3-8B --set users.watch_bias=-1.5`
    """
    from recsim_env.experiments.fidelity.protocol import Protocol
    from recsim_env.experiments.fidelity.suite import Plan, choose_folder, run_fidelity

    plan = Plan(names_of(users), seeds, first_seed, Protocol(n_users=n_users), n_llm_users, interventions)
    folder = choose_folder(out_dir)
    changes = [*engine_changes(engine, model, url, replies), *(overrides or [])]
    try:
        with TurnsBar(quiet) as on_progress:
            run_fidelity(data_source(data), folder, plan, changes, on_progress)
    except KeyboardInterrupt:
        err.print(f"Stopped. Go on with the same command and --out {folder}.", soft_wrap=True)
        raise typer.Exit(130) from None
    _print_fidelity(folder)


def _print_fidelity(folder: Path) -> None:
    """The main figures of a measurement, and where everything else stands."""
    from recsim_env.experiments.fidelity.results import goal_lines, intervention_rows, table
    from recsim_env.rundir import load_measurement

    record = load_measurement(folder, "fidelity.json")
    for title, rows in (("Fidelity", table(record)), ("Interventions", intervention_rows(record))):
        if len(rows) > 1:
            show_table([[cell.replace("**", "") for cell in row] for row in rows], title)
    for line in goal_lines(record):
        out.print(escape(line), soft_wrap=True)
    out.print(f"Fidelity folder: {folder}", soft_wrap=True)


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


@app.command()
def watch(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, also one that is being written.")],
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="N_OR_ID", help="Row number or user_id; default: whose days show most."),
    ] = None,
    recommender: Annotated[
        str | None, typer.Option("--recommender", metavar="NAME", help="Under which recommender.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Under which seed.")] = None,
    day: Annotated[int | None, typer.Option("--day", metavar="N", help="Only this day; default all.")] = None,
    live: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new days until the run ends.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="S", min=0.1, help="Seconds between two looks with --follow.")
    ] = 2.0,
) -> None:
    """Shows what a user saw, did, thought and said, page by page.

    Examples: `recsim-env watch runs/quickstart-1` · `recsim-env watch runs/quickstart-1 --user 7 --recommender ease` ·
    `recsim-env watch runs/llm_quickstart-1 --follow`
    """
    from recsim_env.watch import Wish, follow, tell

    wish = Wish(recommender, seed, user, day)
    _show(follow(run_folder, wish, interval) if live else tell(run_folder, wish))


def _show(events: Iterator[Any]) -> None:
    """Prints what is watched; while it waits, a line on the error stream says for what. Ctrl-C ends it."""
    from recsim_env import watch_page
    from recsim_env.watch import Note

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # titles know more letters than some terminals
    fixed = out.is_terminal or "COLUMNS" in os.environ
    screen = out if fixed else Console(width=watch_page.WIDTH)
    waiting, told = err.status(""), False
    try:
        for event in events:
            if isinstance(event, Note) and event.waiting:
                text = watch_page.plain(event.text)
                waiting.update(escape(text))
                waiting.start()
                if not err.is_terminal and not told:
                    # Not through rich: Ctrl-C between its write and the end of its call would print the line twice.
                    print(text, file=sys.stderr, flush=True)
                told = True
            else:
                waiting.stop()
                screen.print(watch_page.render(event))
    except KeyboardInterrupt:
        pass
    finally:
        waiting.stop()


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
    kind: Annotated[str, typer.Argument(help="users, recommenders, scenarios, studies, datasets, rewards or engines.")],
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
    elif kind == "studies":
        from recsim_env.experiments.studies.base import STUDIES, get_study

        for name in STUDIES:
            table.add_row(name, get_study(name).question)
    elif kind in KINDS:
        entries: registry.Registry[Any] = getattr(registry, KINDS[kind])
        for name in entries.names():
            table.add_row(name, entries.summary(name))
    else:
        raise UnknownNameError("kind", kind, [*KINDS, "scenarios", "studies"])
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
