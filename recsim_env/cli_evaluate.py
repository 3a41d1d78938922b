"""``recsim-env evaluate``, ``ope`` and ``agreement``: recommenders on held-out ratings, on logs, beside simulations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from recsim_env.cli_parts import (
    Bar,
    DataName,
    EngineName,
    Model,
    Overrides,
    Quiet,
    TurnsBar,
    data_source,
    engine_changes,
    names_of,
    out,
    show_table,
)


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
    engine: EngineName = None,
    model: Model = None,
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
    `recsim-env evaluate ease --protocol fixed --candidates lists.csv` ·
    `recsim-env evaluate llm-ranker --engine transformers --model builtin`
    """
    from recsim_env.experiments.offline import BASELINES, RESULT, Plan, run_evaluation, table
    from recsim_env.rundir import load_measurement
    from recsim_env.scenario import load_scenario

    plan = Plan(protocol, k, n_candidates, n_draws, candidates, BASELINES if baselines else ())
    named: list[dict[str, Any]] = [_section(name) for name in names or BASELINES]
    plain = {"name": "evaluate", "data": data_source(data), "seed": seed, "recommenders": named}
    scenario = load_scenario(plain, [*engine_changes(engine, model, None, None), *(overrides or [])])
    with _NamesBar(quiet) as on_progress:
        folder = run_evaluation(scenario, out_dir, plan, on_progress)
    show_table(table(load_measurement(folder, RESULT)))
    out.print(f"Evaluation folder: {folder}", soft_wrap=True)


def agreement(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME|NAME=DIR]...", help="At least 8 recommenders; default: nine.")
    ] = None,
    users: Annotated[str, typer.Option("--users", metavar="A,B", help="User models.")] = "behavioral",
    data: DataName = "movietweetings",
    ope: Annotated[str, typer.Option("--ope", help="Estimator of the one-turn value; 'none' leaves it out.")] = (
        "Cascade-DR"
    ),
    logged: Annotated[str, typer.Option("--logged", help="Recommender whose turns are the log.")] = "uniform",
    n_llm_users: Annotated[
        int, typer.Option("--n-llm-users", metavar="N", min=2, help="Most users where a language model decides.")
    ] = 40,
    llm_days: Annotated[
        int | None, typer.Option("--llm-days", metavar="N", min=1, help="Days of theirs; default as of all.")
    ] = None,
    engine: EngineName = None,
    model: Model = None,
    overrides: Overrides = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder; default runs/agreement-TIME.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Whether offline figures, off-policy estimates and simulations put recommenders into the same order.

    Examples: `recsim-env agreement` · `recsim-env agreement --set users.count=1000 --set days=20` ·
    `recsim-env agreement --users behavioral,llm --engine transformers --model builtin --n-llm-users 16 --llm-days 3
    --set users.averages=true --set users.remembered=16 --set users.watch_bias=-1.5`
    """
    from recsim_env.experiments.agreement import DEFAULT, RESULT, Plan, run_agreement, told
    from recsim_env.rundir import load_measurement
    from recsim_env.scenario import load_scenario

    wanted = [_section(name) for name in names] if names else [dict(section) for section in DEFAULT]
    plain = {
        "name": "agreement", "data": data_source(data), "users": {"count": 500}, "days": 10, "recommenders": wanted,
    }  # fmt: skip
    changes = engine_changes(engine, model, None, None)
    plan = Plan(names_of(users), None if ope == "none" else ope, logged, n_llm_users, llm_days)
    with TurnsBar(quiet) as on_progress:
        folder = run_agreement(load_scenario(plain, [*changes, *(overrides or [])]), out_dir, plan, on_progress)
    orders = load_measurement(folder, RESULT)["tau"]
    header = ("first order", "second order", "Kendall's tau", "95 %")
    show_table([header, *((t["first"], t["second"], *told(t)[:2]) for t in orders)])
    out.print(f"Agreement folder: {folder}", soft_wrap=True)


def ope(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_LOG", help="A run folder, or a CSV or Parquet log.")],
    logged: Annotated[
        str | None,
        typer.Option("--logged", metavar="NAME", help="Whose turns are the log; default the first with chance."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="NAME_OR_SETTINGS", help="Whom to evaluate; repeatable; default all others."),
    ] = None,
    reward: Annotated[
        str, typer.Option("--reward", metavar="NAME", help="'recsim-env list rewards' shows all.")
    ] = "clicks",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure the estimators against the simulator's truth.")
    ] = False,
    replicates: Annotated[
        int, typer.Option("--replicates", metavar="N", min=2, help="Logs that the calibration draws.")
    ] = 100,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder; default runs/ope-NAME-TIME.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Estimates what a recommender would have earned from another one's log (off-policy evaluation).

    Examples: `recsim-env ope runs/quickstart-1` · `recsim-env ope runs/quickstart-1 --logged uniform --target ease` ·
    `recsim-env ope runs/quickstart-1 --target "{name: ease, temperature: 0.5}" --calibrate` · `recsim-env ope log.csv`
    """
    from recsim_env.experiments.ope.study import Plan, run_ope

    plan = Plan(logged, tuple(target or ()), reward, calibrate, replicates)
    with TurnsBar(quiet) as on_progress:
        folder = run_ope(source, out_dir, plan, on_progress)
    _print_ope(folder)


def _print_ope(folder: Path) -> None:
    """All estimates of an evaluation, and where everything else stands."""
    from recsim_env.experiments.ope.report import RESULT, notes, tables
    from recsim_env.rundir import load_measurement

    record = load_measurement(folder, RESULT)
    for title, lines in tables(record):
        show_table(lines, title)
    for text in notes(record):
        out.print(escape(text), soft_wrap=True, highlight=False)
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
