"""``recsim-env serve`` and ``recsim-env play``: a run in the browser, and a user's seat there or in the terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.markup import escape

from recsim_env.cli_parts import (
    EngineName,
    Model,
    OutDir,
    Overrides,
    Replies,
    Resume,
    Urls,
    engine_changes,
    err,
    out,
)
from recsim_env.errors import RecsimError, RunFolderError

if TYPE_CHECKING:
    from recsim_env.scenario import Scenario

Only = Annotated[
    str | None, typer.Option("--recommender", metavar="NAME", help="Only this recommender of the scenario.")
]


def serve(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_SCENARIO", help="A run folder, or what 'run' takes.")],
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 is any free one.")] = 8750,
    start: Annotated[
        bool, typer.Option("--start", help="Start at once; default waits for somebody to start it.")
    ] = False,
    pace: Annotated[float, typer.Option("--pace", metavar="S", min=0, help="Seconds that a day lasts at least.")] = 0.5,
    only: Only = None,
    out_dir: OutDir = None,
    overrides: Overrides = None,
    engine: EngineName = None,
    model: Model = None,
    url: Urls = None,
    replies: Replies = None,
    resume: Resume = False,
) -> None:
    """Opens a live page of a run on this machine: curves, users, their days and words, and one user's seat.

    A scenario is simulated while the page looks on; it can be started, paused, and taken day by day. A run folder is
    only looked at, also while another process writes it.

    Examples: `recsim-env serve quickstart` · `recsim-env serve llm_quickstart --recommender popularity --start` ·
    `recsim-env serve runs/quickstart-20260101-120000`
    """
    from recsim_env.serve.server import HOST, listen, need_packages, serving

    need_packages()
    from recsim_env.serve.app import make_app
    from recsim_env.serve.stage import Stage

    with listen(port) as bound:
        address = f"http://{HOST}:{bound.getsockname()[1]}/"
        if Path(source).is_dir():
            if not any((Path(source) / name).exists() for name in ("manifest.json", ".lock")):
                raise RunFolderError(f"{source} is no run folder: it has no manifest.json. 'recsim-env run' makes one.")
            with serving(make_app(Path(source), bound.getsockname()[1]), bound):
                out.print(f"Page: {address} (Ctrl-C ends it)", soft_wrap=True)
                _wait()
            return
        from recsim_env.runner import choose_folder, run_scenario

        changes = [*engine_changes(engine, model, url, replies), *(overrides or [])]
        scenario = _scenario(source, changes, only)
        folder = choose_folder(scenario, out_dir, resume)
        stage = Stage(scenario.cells, scenario.users.count, pace, start)
        with serving(make_app(folder, bound.getsockname()[1], stage), bound):
            out.print(f"Page: {address} (Ctrl-C ends it and the run, which can be resumed)", soft_wrap=True)
            failed = False
            try:
                run_scenario(scenario, folder, (), resume, stage.on_progress, stage)
                out.print(f"The run is complete; the page stays until Ctrl-C. Run folder: {folder}", soft_wrap=True)
            except RecsimError as error:
                err.print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
                err.print("The page stays until Ctrl-C.")
                failed = True
            except KeyboardInterrupt:
                _stopped(folder)
            finally:
                stage.end()
            _wait()
        raise typer.Exit(2 if failed else 0)


def _wait() -> None:
    """Until Ctrl-C."""
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass


def _stopped(folder: Path) -> NoReturn:
    err.print(f"Stopped. Go on with the same command, --resume and --out {folder}.", soft_wrap=True)
    raise typer.Exit(130) from None


def play(
    source: Annotated[str, typer.Argument(metavar="SCENARIO", help="Name of a shipped scenario, or a YAML file.")],
    user: Annotated[int, typer.Option("--user", metavar="N", min=0, help="Row of the user whose seat you take.")] = 0,
    only: Only = None,
    out_dir: OutDir = None,
    overrides: Overrides = None,
    engine: EngineName = None,
    model: Model = None,
    url: Urls = None,
    replies: Replies = None,
    resume: Resume = False,
) -> None:
    """Lets you live a user's days in the terminal: what the recommender shows, you watch, rate, ask for, or leave.

    One recommender (the scenario's first, if none is named) and one seed are simulated; all other users are as ever.

    Examples: `recsim-env play quickstart` · `recsim-env play quickstart --user 7 --recommender ease` ·
    `recsim-env play llm_quickstart --set recommenders=conversational`
    """
    from recsim_env.runner import choose_folder, run_scenario
    from recsim_env.terminal import Terminal

    changes = [*engine_changes(engine, model, url, replies), *(overrides or [])]
    scenario = _scenario(source, changes, only)
    first, count = scenario.recommenders[0], scenario.users.count
    scenario = scenario.model_copy(update={"recommenders": (first,), "replications": 1})
    if user >= count:
        raise RecsimError(f"There is no user {user}: the scenario has users 0 to {count - 1}.")
    folder = choose_folder(scenario, out_dir, resume)
    out.print(
        f"You are user {user} under {escape(first.title)}, for {scenario.days} days. The calendar says when you open "
        "the app. ? helps, Ctrl-C stops; --resume goes on.",
        soft_wrap=True,
    )
    terminal = Terminal(user, out.print)
    try:
        run_scenario(scenario, folder, (), resume, terminal.on_progress, terminal)
    except KeyboardInterrupt:
        _stopped(folder)
    out.print(f"Run folder: {folder} (its manifest says that user {user} was a person)", soft_wrap=True)


def _scenario(source: str, changes: list[str], only: str | None) -> Scenario:
    """The scenario, with one of its recommenders only if one is named.

    Raises:
        UnknownNameError: If it has none of that name.
    """
    from recsim_env.errors import UnknownNameError
    from recsim_env.scenario import load_scenario

    scenario = load_scenario(source, changes)
    if only is None:
        return scenario
    kept = tuple(section for section in scenario.recommenders if section.title == only)
    if not kept:
        raise UnknownNameError(
            "recommender", only, [section.title for section in scenario.recommenders], "--recommender"
        )
    return scenario.model_copy(update={"recommenders": kept})
