"""A sweep: scenarios, settings, recommenders and seeds, every combination a run folder of its own, and one table.

::

    sweep.json               what was asked, what failed and why, where it was made
    runs/SCENARIO/...        a run folder for every combination, as ``recsim-env run`` would write it
    table.parquet, table.csv a row for every run
    sweep.md                 means over seeds

A combination has one recommender and one seed, and everything in it (users, luck, split, fits) comes from that seed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml

from recsim_env import manifest as facts
from recsim_env.build import World
from recsim_env.errors import ScenarioError
from recsim_env.evaluation.summary import METRICS, summary_table
from recsim_env.experiments.jobs import Job, Outcome
from recsim_env.experiments.runs import refuse_another
from recsim_env.experiments.studies.results import interval, told
from recsim_env.experiments.tables import markdown_table
from recsim_env.experiments.workers import Place, carry_out, workers_for
from recsim_env.rundir import Run, RunFolder, cell_name, measurement_folder
from recsim_env.runner import Progress
from recsim_env.scenario import Scenario, load_scenario

RESULT = "sweep.json"
SHOWN = ("clicks_per_turn", "session_length", "retention", "reward_per_user", "ndcg", "coverage")
"""Metrics of the printed table; ``table.parquet`` has all."""
_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class Plan:
    """What is combined.

    Attributes:
        scenarios: Names or YAML files.
        seeds: Seeds.
        overrides: ``"key=value"`` strings for all runs; ``recommenders`` is among them or the scenario's own.
        axes: ``"key=a,b"`` strings; every value with every other axis's.
    """

    scenarios: Sequence[str]
    seeds: Sequence[int]
    overrides: Sequence[str] = ()
    axes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """One combination.

    Attributes:
        name: Its folder, such as ``quickstart/calendar.churn=0.02/ease-seed0``.
        keys: ``scenario``, the axes, ``recommender`` and ``seed``: the first columns of its row.
        scenario: What is run.
    """

    name: str
    keys: dict[str, Any]
    scenario: Scenario


def grid(plan: Plan) -> list[Point]:
    """All combinations, in the order in which they are named; the seed turns fastest.

    Raises:
        ScenarioError: If a scenario, an axis or one of its values cannot be used, or two runs would be the same.
        UnknownNameError: If something that a scenario names does not exist.
    """
    axes = [_axis(text) for text in plan.axes]
    points = []
    for source in plan.scenarios:
        for values in itertools.product(*(values for _, values in axes)):
            varied = {key: value for (key, _), value in zip(axes, values, strict=True)}
            changes = [*plan.overrides, *(f"{key}={json.dumps(value)}" for key, value in varied.items())]
            whole = load_scenario(source, [*changes, "replications=1"])
            World(whole)  # refuses names and settings that do not exist before the first run begins
            for section, seed in itertools.product(whole.recommenders, plan.seeds):
                keys = {"scenario": whole.name, **varied, "recommender": section.title, "seed": seed}
                points.append(
                    Point(_name(keys), keys, whole.model_copy(update={"recommenders": (section,), "seed": seed}))
                )
    names = [point.name for point in points]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ScenarioError(
            f"Two runs would be called {twice[0]!r}. Give scenario files different names, and every axis each of its "
            "values once."
        )
    return points


def _axis(text: str) -> tuple[str, list[Any]]:
    """Key and values of ``KEY=A,B``; each value is YAML.

    Raises:
        ScenarioError: If it is no such text, or names what has an option of its own.
    """
    key, equals, raw = text.partition("=")
    key = key.strip()
    try:
        values = yaml.safe_load(f"[{raw}]")
    except yaml.YAMLError:
        values = []
    if not equals or not key or not values:
        raise ScenarioError(f"--vary {text!r}: write KEY=A,B, for example --vary calendar.churn=0.02,0.08.")
    if key in ("seed", "replications", "recommenders"):
        raise ScenarioError(
            f"--vary {key}: seeds are varied by --seeds N, recommenders by --set recommenders=A,B; each has a run "
            "of its own."
        )
    return key, values


def _name(keys: dict[str, Any]) -> str:
    """Folder of a combination: scenario, what is varied, recommender and seed."""
    varied = ",".join(f"{k}={v}" for k, v in keys.items() if k not in ("scenario", "recommender", "seed"))
    parts = [_safe(str(keys["scenario"])), *([_safe(varied)] if varied else [])]
    return "/".join([*parts, cell_name(str(keys["recommender"]), keys["seed"])])


def _safe(text: str) -> str:
    """A text as the name of a folder: readable, and no longer than file systems allow."""
    safe = "".join(c if c.isalnum() or c in "-_.,=" else "_" for c in text)
    if len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[: _LONGEST_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def measure(run: Run) -> dict[str, float]:
    """Figures of a run of one recommender under one seed: the report's, with their intervals over users."""
    (cell,) = run.manifest["cells"]
    figures = summary_table(run).iloc[0]
    return {"n_turns": cell["n_turns"], "seconds": cell["seconds"], **{str(k): float(v) for k, v in figures.items()}}


def run_sweep(
    plan: Plan,
    out: str | Path | None = None,
    workers: int | None = None,
    place: Place = "processes",
    on_progress: Callable[[Progress], None] = lambda at: None,
) -> Path:
    """Runs every combination and puts their figures into one table.

    Args:
        plan: What is combined. In a folder that exists, runs that are complete are taken as they are: a plan may grow.
        out: Folder; None makes one under ``runs``.
        workers: Runs at once; None is a number that suits the machine, see :func:`workers_for`.
        place: Where several at once are made.
        on_progress: Called after every simulated day, by Ray after every run.

    Returns:
        The folder. Runs that failed are told in ``sweep.json`` and in the table, and are tried again next time.

    Raises:
        RunFolderError: If the folder holds something else, runs of other settings, or has another writer.
        ScenarioError: If the plan cannot be carried out.
    """
    points = grid(plan)
    workers = workers_for([point.scenario for point in points], workers)
    path = measurement_folder(out, RESULT, "sweep")
    jobs = [Job(point.name, point.scenario, path / "runs" / point.name, measure) for point in points]
    for job in jobs:
        refuse_another(job.path, job.scenario)
    begun, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    with RunFolder(path) as folder:
        record: dict[str, Any] = {
            "schema": 1,
            "status": "running",
            "scenarios": list(plan.scenarios),
            "vary": list(plan.axes),
            "overrides": list(plan.overrides),
            "seeds": list(plan.seeds),
            "n_runs": len(points),
            "workers": workers,
            "place": place,
            "started": started,
        }
        folder.write_json(RESULT, record)
        outcomes = carry_out(jobs, workers, place, on_progress)
        table = _table(points, outcomes)
        folder.write_frame("table.parquet", pa.Table.from_pandas(table, preserve_index=False))
        folder.write_text("table.csv", table.to_csv(index=False))
        failed = {
            point.name: {"error": outcome.error, "trace": outcome.trace}
            for point, outcome in zip(points, outcomes, strict=True)
            if outcome.error
        }
        record |= {"status": "failed" if failed else "complete", "failed": failed}
        record |= {"seconds": round(time.perf_counter() - begun, 1), **facts.surroundings()}
        folder.write_text("sweep.md", _markdown(record, table))
        folder.write_json(RESULT, record)
    return path


def _table(points: Sequence[Point], outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """A row for every run: what was combined, what became of it, all figures."""
    rows = [
        {**point.keys, "run": point.name, "error": outcome.error, **(outcome.measured or {})}
        for point, outcome in zip(points, outcomes, strict=True)
    ]
    table = pd.DataFrame(rows)
    for key in _grouping(table):
        if table[key].dtype == object:  # values of several kinds, lists and sections are told as texts
            table[key] = table[key].map(str)
    return table


def _grouping(table: pd.DataFrame) -> list[str]:
    """Columns of what was combined, but for the seed."""
    return list(table.columns[: list(table.columns).index("seed")])


def load_table(path: Path) -> pd.DataFrame:
    """The table of a sweep."""
    return pd.read_parquet(path / "table.parquet")


def summary(table: pd.DataFrame, metrics: Sequence[str] = SHOWN) -> list[list[str]]:
    """A line for every combination but the seed, header first: means with 95 % intervals over seeds (Student's t)."""
    keys = _grouping(table)
    shown = [metric for metric in METRICS if metric.name in metrics and metric.name in table]
    lines = [[*keys, "seeds", *(metric.title for metric in shown)]]
    for values, rows in table.groupby(keys, sort=False):
        good = rows[rows["error"] == ""]
        cells = [told(interval(good[m.name].tolist()), digits=m.digits) for m in shown]
        lines.append([*map(str, values), f"{len(good)}", *cells])
    return lines


def _markdown(record: dict[str, Any], table: pd.DataFrame) -> str:
    """The page ``sweep.md``."""
    body = [
        f"# Sweep of {', '.join(record['scenarios'])}",
        "",
        f"{record['n_runs']} runs, {len(record['failed'])} of them failed. Means over seeds with 95 % intervals "
        "(Student's t); `table.parquet` and `table.csv` have every run and all metrics, with intervals over users.",
        "",
        *markdown_table(summary(table)),
        "",
    ]
    body += [f"- **{name}** failed: {told['error']}" for name, told in record["failed"].items()]
    return "\n".join(body) + "\n"
