"""``recsim-env agreement``: do offline figures, off-policy estimates and simulations order recommenders alike?

The same recommenders are ranked by held-out ratings (nDCG, full ranking), by what an off-policy estimator makes of one
log, and on-policy by each user model; Kendall's tau-b of every two orders (Kendall, 1945) says how far they agree. An
interval comes from resampling users: within a run all recommenders are resampled together. Few recommenders cannot tell
much: below eight the command refuses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import kendalltau

from recsim_env import manifest as facts
from recsim_env.build import World
from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.evaluation.bootstrap import N_REPLICATES, ratios, resampled_counts
from recsim_env.evaluation.cells import RATIOS, WEEK
from recsim_env.evaluation.ope.turns import ONE_TURN
from recsim_env.evaluation.protocols import full_ranking
from recsim_env.evaluation.summary import evaluate
from recsim_env.experiments.ope.report import RESULT as OPE_RESULT
from recsim_env.experiments.ope.study import Plan as OpePlan
from recsim_env.experiments.ope.study import run_ope
from recsim_env.experiments.runs import complete, refuse_another
from recsim_env.experiments.tables import markdown_table
from recsim_env.plots import save_in
from recsim_env.records import FloatArray
from recsim_env.registry import user_models
from recsim_env.rundir import RunFolder, load_measurement, load_run, measurement_folder
from recsim_env.runner import Progress
from recsim_env.scenario import Scenario

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULT = "agreement.json"
LEAST = 8
"""Recommenders: with fewer even a perfect order can come about by chance too easily (5 need tau = 1 for p < .05)."""
ON_POLICY = {"clicks_per_turn": "clicks a page", "retention": "users here in the last week"}
DEFAULT: tuple[dict[str, Any], ...] = (
    {"name": "uniform"},
    {"name": "popularity"},
    {"name": "item-knn"},
    {"name": "item-knn", "label": "item-knn, recent", "half_life": 5},
    {"name": "ease"},
    {"name": "ease", "label": "ease, recent", "half_life": 5},
    {"name": "als"},
    {"name": "cooccurrence"},
    {"name": "text-similarity"},
)
"""Recommenders when none are named."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared.

    Attributes:
        users: User models, each simulated on-policy.
        ope: Estimator of the off-policy value; None leaves it out. The log is that of ``logged`` under the first users.
        logged: Recommender whose turns are the log.
        n_llm_users: Most users where a language model decides.
        llm_days: Days of theirs; None is the scenario's.
    """

    users: tuple[str, ...] = ("behavioral",)
    ope: str | None = "Cascade-DR"
    logged: str = "uniform"
    n_llm_users: int = 40
    llm_days: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """One way to order recommenders.

    Attributes:
        name: Its name.
        values: float64 (R,).
        replicates: float64 (B, R), under resampled users.
    """

    name: str
    values: FloatArray
    replicates: FloatArray

    def as_dict(self) -> dict[str, Any]:
        """Name, values and their 95 % intervals as plain data."""
        low, high = np.nanquantile(self.replicates, [0.025, 0.975], axis=0)
        return {"name": self.name, "values": _rounded(self.values), "low": _rounded(low), "high": _rounded(high)}


def run_agreement(
    scenario: Scenario, out: str | Path | None, plan: Plan, on_progress: Callable[[Progress], None] = lambda at: None
) -> Path:
    """Ranks the scenario's recommenders in all ways and compares the orders.

    Args:
        scenario: Data, recommenders, days and number of users.
        out: Folder; None makes one under ``runs``. Runs and estimates lie in it; a run that is complete is not made
            again, one that was stopped goes on.
        plan: What is compared.
        on_progress: Called as a run goes on.

    Returns:
        The folder, with ``agreement.json``, ``agreement.md`` and ``agreement.png``.

    Raises:
        ScenarioError: If there are fewer than eight recommenders, or the log is of none of them.
        RunFolderError: If the folder holds a run of another scenario.
    """
    titles = [section.title for section in scenario.recommenders]
    if len(titles) < LEAST:
        raise ScenarioError(
            f"agreement compares orders of at least {LEAST} recommenders, the scenario has {len(titles)}. Name "
            "more, or none for the default ones."
        )
    if plan.ope is not None and plan.logged not in titles:
        raise ScenarioError(
            f"--logged {plan.logged!r} is none of the recommenders. Choose one of {', '.join(titles)}, or --ope none."
        )
    asked = {model: _with_users(scenario, model, plan) for model in plan.users}
    path = measurement_folder(out, RESULT, "agreement")
    for model in plan.users:
        refuse_another(path / model, asked[model])
    begun = time.perf_counter()
    with RunFolder(path) as folder:
        folder.write_json(RESULT, {"schema": 1, "status": "running"})
        measures: list[Measure] = [_offline(scenario)]
        estimated: list[Measure] = []
        for model in plan.users:
            measures += _on_policy(complete(asked[model], path / model, on_progress), model, titles)
            if plan.ope is not None and not estimated:  # before slower users are simulated: --ope may be wrong
                estimated = [_off_policy(path, plan, titles, measures[1])]
        measures += estimated
        record = {
            "schema": 1,
            "status": "complete",
            "data": scenario.data.model_dump(mode="json"),
            "recommenders": titles,
            "seed": scenario.seed,
            "simulated": {model: {"users": s.users.count, "days": s.days} for model, s in asked.items()},
            "plan": {"users": list(plan.users), "ope": plan.ope, "logged": plan.logged},
            "measures": [m.as_dict() for m in measures],
            "tau": taus(measures),
            "seconds": round(time.perf_counter() - begun, 1),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts.surroundings(),
        }
        folder.write_json(RESULT, record)
        folder.write_text("agreement.md", markdown(record))
        save_in(folder, "agreement.png", plot(record))
    return path


def _offline(scenario: Scenario) -> Measure:
    """nDCG@10 of the held-out ratings, full ranking."""
    world = World(_with_users(scenario, "behavioral", Plan()))
    values = [full_ranking(world.recommender(section), world.split).scores().ndcg for section in scenario.recommenders]
    table = np.stack(values, axis=1)
    ones = np.ones_like(table)
    return Measure("offline nDCG@10", ratios(table, ones), ratios(table, ones, resampled_counts(len(table))))


def _with_users(scenario: Scenario, model: str, plan: Plan) -> Scenario:
    """The scenario with another user model, and less of it where that thinks; of users' settings those that it has."""
    kind = user_models.get(model, "--users")
    config = {name: v for name, v in scenario.users.config.items() if name in kind.config_class.model_fields}
    count, days = scenario.users.count, scenario.days
    if kind.needs_engine:
        count, days = min(count, plan.n_llm_users), plan.llm_days or days
    users = scenario.users.model_copy(update={"model": model, "count": count, "config": config})
    return scenario.model_copy(update={"users": users, "days": days})


def _on_policy(folder: Path, model: str, titles: Sequence[str]) -> list[Measure]:
    """What each recommender earned from its own users; who is there in the last week, if there is a time before it."""
    run = load_run(folder)
    found = evaluate(run)
    measures = []
    for metric, told in ON_POLICY.items():
        if metric == "retention" and run.manifest["scenario"]["days"] <= WEEK:
            continue
        place = RATIOS.index(metric)
        values, replicates = [], []
        for title in titles:
            cells = [sums for (name, _), sums in found.cells.items() if name == title]
            above = np.sum([c.numerator[:, place] for c in cells], axis=0)[:, None]
            below = np.sum([c.denominator[:, place] for c in cells], axis=0)[:, None]
            values.append(ratios(above, below)[0])
            replicates.append(ratios(above, below, found.counts)[:, 0])
        measures.append(Measure(f"{model}: {told}", np.array(values), np.stack(replicates, axis=1)))
    return measures


def _off_policy(path: Path, plan: Plan, titles: Sequence[str], earned: Measure) -> Measure:
    """What an estimator makes of one recommender's log; the logging policy stands with what it earned itself."""
    others = tuple(title for title in titles if title != plan.logged)
    folder = run_ope(path / plan.users[0], path / "ope", OpePlan(plan.logged, others))
    record = load_measurement(folder, OPE_RESULT)
    rows = {
        row["target"]: row
        for row in record["estimates"]
        if row["estimand"] == ONE_TURN and row["estimator"] == plan.ope
    }
    if not rows:
        known = sorted({row["estimator"] for row in record["estimates"] if row["estimand"] == ONE_TURN})
        raise ScenarioError(f"--ope {plan.ope!r} estimates no one-turn value. Choose one of {', '.join(known)}.")
    place = titles.index(plan.logged)
    values, error = np.empty(len(titles)), np.zeros(len(titles))
    for number, title in enumerate(titles):
        if number == place:
            values[number] = earned.values[number]
        else:
            row = rows[title]
            values[number], error[number] = row["value"], (row["high"] - row["low"]) / (2 * 1.96)
    # The estimator gives intervals, not replicates: normal ones with its standard errors stand in for them.
    luck = Draws(0).uniforms(Draws(0).keys("agreement-ope", np.arange(N_REPLICATES)), np.arange(2 * len(titles)))
    half = len(titles)
    normal = np.sqrt(-2 * np.log(luck[:, :half])) * np.cos(2 * np.pi * luck[:, half:])
    replicates = values + error * normal
    replicates[:, place] = earned.replicates[:, place]
    return Measure(f"{plan.ope} from the log of {plan.logged}: clicks a page", values, replicates)


def taus(measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Kendall's tau-b of every two measures with 95 % intervals."""
    found = []
    for first, second in combinations(measures, 2):
        n = min(len(first.replicates), len(second.replicates))
        drawn = [_tau(a, b) for a, b in zip(first.replicates[:n], second.replicates[:n], strict=True)]
        tau = kendalltau(first.values, second.values)
        row: dict[str, Any] = {"first": first.name, "second": second.name}
        if np.isfinite(tau.statistic) and np.isfinite(drawn).any():
            low, high = np.nanquantile(drawn, [0.025, 0.975])
            figures = {"tau": tau.statistic, "p": tau.pvalue, "low": low, "high": high}
            row |= {name: round(float(value), 4) for name, value in figures.items()}
        else:  # one of them calls all recommenders equal
            row |= dict.fromkeys(("tau", "p", "low", "high"))
        found.append(row)
    return found


def told(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Tau, interval and p as words."""
    if row["tau"] is None:
        return "-", "all equal", "-"
    return f"{row['tau']:+.2f}", f"{row['low']:+.2f} to {row['high']:+.2f}", f"{row['p']:.3f}"


def _tau(first: FloatArray, second: FloatArray) -> float:
    """Tau-b without the cost of a p-value."""
    rows, columns = np.triu_indices(len(first), 1)
    a, b = np.sign(first[rows] - first[columns]), np.sign(second[rows] - second[columns])
    scale = float(np.sqrt((a != 0).sum() * (b != 0).sum()))
    return float(a @ b) / scale if scale else float("nan")


def _rounded(values: FloatArray) -> list[float]:
    return [round(float(value), 5) for value in values]


def markdown(record: Mapping[str, Any]) -> str:
    """The page ``agreement.md``."""
    lines = [["recommender", *(m["name"] for m in record["measures"])]]
    for row, title in enumerate(record["recommenders"]):
        cells = [tuple(m[part][row] for part in ("values", "low", "high")) for m in record["measures"]]
        lines.append([title, *(f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in cells)])
    tau = [("", "", "Kendall's tau", "95 %", "width", "p, if orders were unrelated")]
    for t in record["tau"]:
        value, interval, p = told(t)
        width = "-" if t["tau"] is None else f"{t['high'] - t['low']:.2f}"
        tau.append((t["first"], t["second"], value, interval, width, p))
    who = "; ".join(f"{model}: {s['users']:,} for {s['days']} days" for model, s in record["simulated"].items())
    return "\n".join(
        [
            "# Agreement of orders", "",
            f"{len(record['recommenders'])} recommenders, seed {record['seed']}. Simulated users: {who}. 95 % "
            "intervals resample users; noise pulls resampled taus towards 0, so an interval may lie below its tau. tau "
            "runs from -1 to 1, so a width near 2 says nothing at all. p is that of the orders as they are. Who is "
            f"there in the last week is told of runs of more than {WEEK} days.", "",
            *markdown_table(lines), "", *markdown_table(tau), "", "![Agreement](agreement.png)", "",
        ]
    )  # fmt: skip


def plot(record: Mapping[str, Any]) -> Figure:
    """Kendall's tau of every two orders as a grid of numbers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [m["name"] for m in record["measures"]]
    n = len(names)
    grid = np.full((n, n), np.nan)
    words = [["" for _ in names] for _ in names]
    for t in record["tau"]:
        i, j = sorted((names.index(t["first"]), names.index(t["second"])), reverse=True)
        grid[i, j] = np.nan if t["tau"] is None else t["tau"]
        words[i][j] = "\n".join(told(t)[:2])
    figure = Figure(figsize=(3.4 + 1.15 * n, 1.8 + 0.75 * n), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="PuOr", vmin=-1, vmax=1)
    for i in range(n):
        for j in range(i):
            colour = "white" if abs(grid[i, j]) > 0.5 else "black"
            axes.text(j, i, words[i][j], ha="center", va="center", fontsize=8, color=colour)
    titles = [name.replace(": ", ":\n") for name in names]
    axes.set_yticks(range(n), titles, fontsize=8)
    axes.set_xticks(range(n - 1), titles[:-1], fontsize=8, rotation=25, ha="right")
    axes.set_xlim(-0.5, n - 1.5)
    axes.set_ylim(n - 0.5, 0.5)
    figure.colorbar(image, ax=axes, label="Kendall's tau", shrink=0.8)
    return figure
