"""``recsim-env evaluate``: recommenders on held-out ratings, beside the counting baselines.

Everything is measured on the same users: means with 95 % bootstrap intervals over users, paired differences to the best
baseline on the same resamples. Sampled candidates are drawn many times; mean and spread over the draws are told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsim_env import manifest as facts
from recsim_env.build import World
from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.evaluation import beyond_accuracy as beyond
from recsim_env.evaluation.bootstrap import paired_difference, ratio_intervals, resampled_counts
from recsim_env.evaluation.protocols import (
    Lists,
    candidates_ranked,
    full_ranking,
    read_candidates,
    sampled_hits,
)
from recsim_env.experiments.tables import markdown_table
from recsim_env.interfaces import Recommender
from recsim_env.plots import GREY, PALETTE, save_in
from recsim_env.records import FloatArray
from recsim_env.rundir import RunFolder, measurement_folder
from recsim_env.scenario import RecommenderSection, Scenario

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULT = "evaluation.json"
PROTOCOLS = {"last-out": "last-out", "sampled": "last-out", "fixed": "last-out", "per-user": "per-user"}
"""Protocols and the split of the data that each needs."""
BASELINES = ("uniform", "popularity", "item-knn", "ease", "cooccurrence")
"""Always in the table: none of them costs more than counting and one matrix inversion."""
FIGURES = ("hr", "recall", "mrr", "ndcg")
NAMES = {"hr": "HR", "recall": "Recall", "mrr": "MRR", "ndcg": "nDCG"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        protocol: One of :data:`PROTOCOLS`.
        k: Length of the lists.
        candidates: ``sampled``: candidates in all, the target among them.
        n_draws: ``sampled``: how often they are drawn.
        file: ``fixed``: the candidate lists.
        baselines: Names that are measured whatever else is.
    """

    protocol: str = "last-out"
    k: int = 10
    candidates: int = 20
    n_draws: int = 100
    file: Path | None = None
    baselines: tuple[str, ...] = field(default=BASELINES)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ScenarioError(f"--protocol {self.protocol!r} does not exist. Choose one of {', '.join(PROTOCOLS)}.")
        if self.protocol == "fixed" and self.file is None:
            raise ScenarioError("--protocol fixed needs the lists: --candidates FILE. docs/evaluation.md has the form.")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is; fields as the progress bar reads them."""

    label: str
    cell: int
    n_cells: int


def run_evaluation(
    scenario: Scenario, out: str | Path | None, plan: Plan, on_progress: Callable[[Progress], None] = lambda at: None
) -> Path:
    """Fits (or reads) the scenario's recommenders and the baselines, and measures them.

    Args:
        scenario: Names data, seed and recommenders.
        out: Folder; None makes one under ``runs``.
        plan: What is measured.
        on_progress: Called before every recommender.

    Returns:
        The folder, with ``evaluation.json``, ``evaluation.md`` and ``evaluation.png``.

    Raises:
        ScenarioError: If a recommender, setting or candidate file cannot be used.
        DataError: If nothing is held out.
        RunFolderError: If the folder holds something else.
    """
    scenario = scenario.model_copy(
        update={"data": scenario.data.model_copy(update={"split": PROTOCOLS[plan.protocol]})}
    )
    world = World(scenario)
    named = {section.title for section in scenario.recommenders}
    sections = [RecommenderSection(name=name) for name in plan.baselines if name not in named]
    sections += scenario.recommenders
    path = measurement_folder(out, RESULT, "evaluate")
    with closing(world), RunFolder(path) as folder:
        begun = time.perf_counter()
        per_user: dict[str, dict[str, FloatArray]] = {}
        rows: list[dict[str, Any]] = []
        for number, section in enumerate(sections):
            on_progress(Progress(section.title, number, len(sections)))
            fit_begun = time.perf_counter()
            recommender = world.recommender(section)
            seconds = time.perf_counter() - fit_begun
            values, whole = _measure(recommender, world, plan)
            per_user[section.title] = values
            rows.append(
                {
                    "recommender": section.title,
                    "baseline": section.title in plan.baselines,
                    "fit_seconds": round(seconds, 2),
                    **_means(values),
                    **whole,
                }
            )
        _against_baselines(rows, per_user)
        record = {
            "schema": 1,
            "plan": {**asdict(plan), "file": str(plan.file) if plan.file else None},
            "data": world.dataset.name,
            "seed": scenario.seed,
            "n_users": len(next(iter(per_user.values()))["ndcg"]),
            "n_items": world.dataset.n_items,
            "recommenders": [section.flat() for section in sections],
            "rows": rows,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - begun, 1),
            **facts.surroundings(),
        }
        folder.write_json(RESULT, record)
        folder.write_text("evaluation.md", markdown(record))
        save_in(folder, "evaluation.png", plot(record))
    return path


def _measure(recommender: Recommender, world: World, plan: Plan) -> tuple[dict[str, FloatArray], dict[str, float]]:
    """Figures by user float64 (N,), and figures of the whole."""
    data = world.split.train
    if plan.protocol == "sampled":
        hits = sampled_hits(recommender, world.split, plan.candidates, plan.n_draws, plan.k, Draws(world.scenario.seed))
        spread = {f"{name}_sd": float(hits[name].mean(axis=1).std(ddof=1)) for name in hits} if plan.n_draws > 1 else {}
        return {name: values.mean(axis=0) for name, values in hits.items()}, spread
    if plan.protocol == "fixed":
        assert plan.file is not None
        asked = read_candidates(plan.file, data, world.split.test)
        top = candidates_ranked(recommender, data.catalog, data.histories().take(asked.users), asked.candidates, plan.k)
        lists = Lists(asked.users, top, asked.relevant)
    else:
        lists = full_ranking(recommender, world.split, plan.k)
    found = lists.scores()
    values = {"hr": found.hit, "recall": found.recall, "mrr": found.reciprocal_rank, "ndcg": found.ndcg}
    return values, _beyond(lists, world)


def _beyond(lists: Lists, world: World) -> dict[str, float]:
    """Figures beyond accuracy of the lists."""
    data = world.split.train
    categories, n = data.catalog.item_categories, data.n_items
    exposure = beyond.exposure_counts(lists.top, n)
    past = data.histories().take(lists.users)
    own = np.repeat(np.arange(len(lists.users)), past.lengths)
    rows, places = np.nonzero((lists.top >= 0) & (lists.top < n))
    history = beyond.category_mass(own, past.items, categories, len(lists.users))
    shown = beyond.category_mass(rows, lists.top[rows, places], categories, len(lists.users))
    return {
        "coverage": beyond.coverage(exposure),
        "gini": beyond.gini(exposure),
        "novelty": beyond.novelty(lists.top, data.catalog.popularity),
        "diversity": _mean(beyond.intra_list_diversity(lists.top, categories)),
        "miscalibration": _mean(beyond.calibration(history, shown)),
    }


def _mean(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _means(values: Mapping[str, FloatArray]) -> dict[str, float]:
    """Means over users with 95 % intervals."""
    stacked = np.stack([values[name] for name in FIGURES], axis=1)
    found = ratio_intervals(stacked, np.ones_like(stacked))
    ends = (("", found.value), ("_low", found.low), ("_high", found.high))
    return {f"{name}{end}": float(array[i]) for i, name in enumerate(FIGURES) for end, array in ends}


def _against_baselines(rows: Sequence[dict[str, Any]], per_user: Mapping[str, Mapping[str, FloatArray]]) -> None:
    """Adds each row's difference of nDCG to the best baseline's, with the interval over the same users."""
    base = max((row for row in rows if row["baseline"]), key=lambda row: row["ndcg"], default=None)
    if base is None:
        return
    ours = per_user[base["recommender"]]["ndcg"][:, None]
    ones, counts = np.ones_like(ours), resampled_counts(len(ours))
    for row in rows:
        other = per_user[row["recommender"]]["ndcg"][:, None]
        found = paired_difference((other, ones), (ours, ones), counts)
        row["against"] = base["recommender"]
        row["ndcg_gain"] = [float(found.value[0]), float(found.low[0]), float(found.high[0])]


def table(record: Mapping[str, Any]) -> list[list[str]]:
    """A header and one line per recommender, the best first."""
    k, sampled = record["plan"]["k"], record["plan"]["protocol"] == "sampled"
    whole = [] if sampled else ["coverage", "Gini", "novelty, bits", "diversity", "miscalibration"]
    header = ["recommender", f"nDCG@{k}", "95 %", f"HR@{k}", f"Recall@{k}", f"MRR@{k}", "nDCG against best baseline"]
    lines = [[*header, *(["HR, sd over draws"] if sampled else whole), "fit, s"]]
    for row in sorted(record["rows"], key=lambda row: -row["ndcg"]):
        gain = row.get("ndcg_gain")
        told = "-" if gain is None or row["against"] == row["recommender"] else _gain(gain)
        own = [f"{row['hr_sd']:.4f}" if "hr_sd" in row else "-"] if sampled else [
            f"{row['coverage']:.3f}", f"{row['gini']:.3f}", f"{row['novelty']:.2f}", f"{row['diversity']:.3f}",
            f"{row['miscalibration']:.3f}",
        ]  # fmt: skip
        name = row["recommender"] + (" (baseline)" if row["baseline"] else "")
        lines.append(
            [name, f"{row['ndcg']:.4f}", f"{row['ndcg_low']:.4f} to {row['ndcg_high']:.4f}", f"{row['hr']:.4f}",
             f"{row['recall']:.4f}", f"{row['mrr']:.4f}", told, *own, f"{row['fit_seconds']:.1f}"]
        )  # fmt: skip
    return lines


def _gain(gain: Sequence[float]) -> str:
    return f"{gain[0]:+.4f} ({gain[1]:+.4f} to {gain[2]:+.4f})"


def markdown(record: Mapping[str, Any]) -> str:
    """The page ``evaluation.md``."""
    plan = record["plan"]
    everything = "ranked among all items that the user has not rated in training"
    what = {
        "last-out": f"each user's last rating, {everything}",
        "per-user": f"a random share of each user's ratings, {everything}",
        "sampled": f"each user's last rating among {plan['candidates']} items, {plan['n_draws']} draws",
        "fixed": f"candidate lists of {plan['file']}",
    }[plan["protocol"]]
    return "\n".join(
        [
            "# Offline evaluation", "",
            f"{record['data']}: {record['n_users']:,} users, {record['n_items']:,} items, seed {record['seed']}. "
            f"Relevant is {what}. Intervals: 95 %, bootstrap over users; differences on the same resamples. Lists are "
            "the recommenders' bare preferences, without chance.", "",
            *markdown_table(table(record)), "", "![nDCG](evaluation.png)", "",
        ]
    )  # fmt: skip


def plot(record: Mapping[str, Any]) -> Figure:
    """NDCG with intervals, one line per recommender."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sorted(record["rows"], key=lambda row: row["ndcg"])
    figure = Figure(figsize=(6.8, 1.2 + 0.32 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        colour = GREY if row["baseline"] else PALETTE[0]
        axes.plot([row["ndcg_low"], row["ndcg_high"]], [place, place], color=colour, linewidth=2)
        axes.plot(row["ndcg"], place, "s" if row["baseline"] else "o", color=colour)
    axes.set_yticks(range(len(rows)), [row["recommender"] for row in rows])
    axes.set_xlim(left=0.0)
    axes.set_xlabel(f"nDCG@{record['plan']['k']}, mean over users with 95 % interval (grey squares: baselines)")
    axes.grid(axis="x", alpha=0.3)
    return figure
