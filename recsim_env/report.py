"""The report: one HTML page that needs nothing else, and its plots as PNG files beside it.

Titles, messages and names are untrusted: every text passes :func:`escape` on its way into the page.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import pandas as pd

from recsim_env import plots
from recsim_env.errors import RunFolderError
from recsim_env.evaluation import series
from recsim_env.evaluation.choice import tell_stories
from recsim_env.evaluation.reading import read_off
from recsim_env.evaluation.said import message_counts, sample_messages
from recsim_env.evaluation.society import CREATORS, POPULATION, Topic
from recsim_env.evaluation.summary import METRICS, Evaluation, evaluate
from recsim_env.evaluation.tables import RunTables
from recsim_env.evaluation.trends import last_trends
from recsim_env.report_engine import language_model
from recsim_env.report_parts import banner, facts, messages, metric_table, said, sessions, trend_table

CAPTIONS = {
    "engagement": "Clicks per page on that day, of the users who came, with a 95 % band over users. A line that falls "
    "shows users who find less and less.",
    "retention": "Share of all users with a session on that day or the six before; up to day 6 the window reaches "
    "back to the start, so the line begins flat. The higher it ends, the more users were kept.",
    "ndcg_retention": "Each point is a recommender: to the right, better on held-out ratings; upwards, more users "
    "kept. Where bars overlap, look at the paired differences before ordering two points.",
    "coverage": "Share of the catalogue that was shown to anybody at least once; catalogue search is left out.",
    "lorenz": "How impressions are spread over items: the further a curve sags below the diagonal, the fewer items "
    "get most of the exposure.",
    "genre_entropy": "Variety of the genres that all users together clicked on a day; a falling line means that "
    "consumption narrows. Bands widen as users leave.",
    "stars": "Ratings that simulated users gave to what they were shown, beside those that people gave to what they "
    "chose to rate: the two need not agree, but a wholly other shape deserves a question.",
    "mindset": "Means over the pages of those who are still there: unhappy users who left no longer count.",
    "population": "Members at night: without those who stopped for good that day. Who came: share of those who were "
    "members by day. Opinions heard: chats and posts once for each user whom they reached, member or not, per member. "
    "Distance of the camps: the camps are the halves of all users on either side of the main axis of tastes on day 0; "
    "how far apart their mean tastes lie along it, in standard deviations of day 0. Likeness of friends: mean cosine "
    "of friends' tastes, each less everybody's mean; 0 for strangers, 1 for copies. Both are hidden from recommenders. "
    "What was never there is left out.",
    "creators": "Active: those who have not stopped for good. Items that are out can be shown and "
    "found; those of creators who stopped stay.",
}
TOPICS = {"population": POPULATION, "creators": CREATORS}
ABOUT = {
    "population": "Users join over the days, tell each other of what they watched, and stop. All other figures of this "
    "page count all users of the scenario, also those who never became members. Members of day 0 are no newcomers.",
    "creators": "The catalogue is dealt out to creators, who publish what is held back item by item; a creator whose "
    "items are shown too rarely stops for good. New items came out after day 0. Gini: how unequally impressions of "
    "the whole run fall on creators, 0 where all have as many.",
}
OVER_SEEDS = (
    "Means over seeds. Bands, and the intervals under the figures, are 95 % intervals over seeds (Student's t), not "
    "over users: with one seed there are none, and with two or three they are wide. docs/metrics.md defines all."
)
LIMITS = (
    "Sessions, coming back and leaving for good are declared assumptions of the simulation (the scenario's calendar "
    "and the user model's settings): no rating data show them. Read differences between recommenders, not levels, "
    "and see whether an order survives other settings.",
    "EASE, ALS and other models of ratings are judged by a world that was built from ratings with related mathematics, "
    "which favours them. An order of recommenders counts for more when a second user model confirms it.",
    "The intervals speak of the luck of simulated users. They know nothing of other data, of another user model, of "
    "another training of the recommender, or of how many comparisons were made.",
    "Offline nDCG counts what people happened to rate after the split; what they never met counts as a miss.",
    "Genres are the data set's own labels; novelty is measured against ratings, not against what a user knows.",
)


@dataclass(frozen=True)
class _View:
    """One run, ready to be shown; ``prefix`` stands before its recommenders when several runs are compared."""

    run: RunTables
    prefix: str
    evaluation: Evaluation
    table: pd.DataFrame

    @property
    def of_run(self) -> str:
        """Which run a heading speaks of, as HTML; "" where there is one only."""
        return f" of {escape(self.prefix.rstrip('/'))}" if self.prefix else ""

    def named(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Puts the prefix before the recommenders' names."""
        if "recommender" in frame:
            return frame.assign(recommender=self.prefix + frame["recommender"].astype(str))
        return frame.set_axis([self.prefix + str(name) for name in frame.index])


def write_report(runs: Sequence[RunTables], out: Path | None = None) -> Path:
    """Writes the report of one run, or one page that compares several.

    Args:
        runs: What :func:`recsim_env.rundir.load_run` gives.
        out: The HTML file, or a folder for ``report.html``; None is the first run's folder. Plots go to ``plots/``
            beside it.

    Returns:
        The HTML file.

    Raises:
        RunFolderError: If there is no run, a run holds no rows, or the page cannot be written.
    """
    if not runs:
        raise RunFolderError("No run to report on. Name at least one run folder.")
    page = runs[0].path / "report.html" if out is None else out
    page = page if page.suffix in (".html", ".htm") else page / "report.html"
    views = _views(runs)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        plots_folder = page.parent / "plots"
        figures = _figures(views, plots_folder)
        template = resources.files("recsim_env").joinpath("report_template.html").read_text(encoding="utf-8")
        title = " and ".join(dict.fromkeys(str(v.run.manifest["scenario"].get("name", "run")) for v in views))
        body = "\n".join(_sections(views, figures, title, plots_folder))
        page.write_text(Template(template).substitute(title=escape(f"{title} · recsim-env"), body=body), "utf-8")
    except OSError as error:
        raise RunFolderError(f"Cannot write the report {page}: {error.strerror or error}.") from error
    return page


def _views(runs: Sequence[RunTables]) -> list[_View]:
    names = [run.path.name for run in runs]
    views = []
    for i, run in enumerate(runs):
        name = names[i] if names.count(names[i]) == 1 else f"{names[i]} ({i + 1})"
        evaluation = evaluate(run)
        views.append(_View(run, f"{name}/" if len(runs) > 1 else "", evaluation, evaluation.table()))
    return views


def _sections(views: list[_View], figures: Mapping[str, Path], title: str, plots_folder: Path) -> Iterable[str]:
    yield f"<h1>{escape(title)}</h1>"
    for view in views:
        yield f"<h3>Run {escape(view.prefix.rstrip('/'))}</h3>" if view.prefix else ""
        yield banner(view.run.manifest)
        yield facts(view.run.manifest, len(view.evaluation.cells))
    yield "<h2>What to read off</h2>"
    for view in views:
        start = f"<b>{escape(view.prefix.rstrip('/'))}:</b> " if view.prefix else ""
        yield f"<p>{start}{escape(' '.join(read_off(view.evaluation, view.table)))}</p>"
    if len(views) > 1:
        yield "<p>Different runs are not paired: compare their intervals.</p>"
    yield "<h2>Figures per recommender</h2>"
    yield metric_table(pd.concat([view.named(view.table) for view in views]), METRICS)
    yield '<p class="soft">Under each figure its 95 % interval over users. docs/metrics.md defines every row.</p>'
    for view in views:
        yield _difference_section(view)
    yield '<h2>Plots</h2>\n<div class="figures">'
    for name, path in figures.items():
        yield _figure(name, path)
    yield "</div>"
    for name, topic in TOPICS.items():
        yield _topic_section(views, name, topic, plots_folder)
        if topic is POPULATION:
            for view in views:
                yield trend_table(last_trends(view.run, view.evaluation.world), view.of_run)
    for view in views:
        yield f"<h2>Sessions{view.of_run}, page by page</h2>"
        yield sessions(tell_stories(view.run, view.evaluation.world))
    yield "<h2>What was said</h2>"
    yield said(pd.concat([view.named(message_counts(view.run, view.evaluation.world)) for view in views]))
    for view in views:
        yield messages(sample_messages(view.run, view.evaluation.world), view.of_run)
    for view in views:
        parts = language_model(view.run.manifest, len(view.run.table("turns", ["seed"])))
        yield f"<h2>The language model{view.of_run}</h2>\n{parts}" if parts else ""
    yield "<h2>Honest limits</h2>\n<ul>" + "".join(f"<li>{escape(limit)}</li>" for limit in LIMITS) + "</ul>"


def _figure(name: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(CAPTIONS[name])}</figcaption></figure>"


def _topic_section(views: list[_View], name: str, topic: Topic, folder: Path) -> str:
    """Populations or creators of the runs that have any; "" where none has."""
    found = [(view, *topic.tables(view.run, view.evaluation.world)) for view in views]
    found = [one for one in found if len(one[1])]
    if not found:
        return ""
    days = pd.concat([view.named(by_day) for view, by_day, _ in found], ignore_index=True)
    totals = metric_table(pd.concat([view.named(table) for view, _, table in found]), topic.totals)
    names = [view.prefix + recommender for view in views for recommender in view.evaluation.world.recommenders]
    path = plots.save(plots.bands_by_day(days, topic.panels_of(days), names), folder / f"{name}.png")
    return (
        f"<h2>{name.capitalize()}</h2>\n<p>{escape(ABOUT[name])}</p>\n{_figure(name, path)}\n{totals}\n"
        f'<p class="soft">{escape(OVER_SEEDS)}</p>'
    )


def _difference_section(view: _View) -> str:
    names = view.evaluation.world.recommenders
    if len(names) < 2:
        return ""
    base = next((name for name in ("popularity", "uniform") if name in names), names[0])
    table = metric_table(view.named(view.evaluation.differences(base)), METRICS, differences=True)
    return (
        f"<h2>Differences from {escape(view.prefix + base)}</h2>\n{table}\n"
        '<p class="soft">Paired by user and seed: under common random numbers each user has the same luck with every '
        "recommender. In bold: the 95 % interval does not hold 0. ▲ more, ▼ less than the baseline.</p>"
    )


def _figures(views: list[_View], folder: Path) -> dict[str, Path]:
    """Draws all plots; gives their files by name, in the page's order."""

    def days(make: Callable[..., pd.DataFrame], *more: str) -> pd.DataFrame:
        return pd.concat(
            [view.named(make(view.run, view.evaluation.world, *more)) for view in views], ignore_index=True
        )

    table = pd.concat([view.named(view.table) for view in views])
    exposure = {v.prefix + r: v.evaluation.exposure(r) for v in views for r in v.evaluation.world.recommenders}
    k = int(views[0].run.manifest["scenario"].get("slate_size", 10))
    drawn = {
        "engagement": plots.engagement_by_day(days(series.engagement_by_day)),
        "retention": plots.retention_curve(days(series.retention_by_day)),
        **({"ndcg_retention": plots.ndcg_against_retention(table, k)} if table["ndcg"].notna().any() else {}),
        "coverage": plots.coverage_bars(table),
        "lorenz": plots.lorenz_curves(exposure),
        "genre_entropy": plots.genre_entropy_by_day(days(series.genre_entropy_by_day)),
        "stars": plots.star_histogram(_all_shares(views)),
        "mindset": plots.mindset_by_day(
            days(series.mindset_by_day, "trace_mood"), days(series.mindset_by_day, "trace_boredom")
        ),
    }
    return {name: plots.save(figure, folder / f"{name}.png") for name, figure in drawn.items()}


def _all_shares(views: list[_View]) -> pd.DataFrame:
    """Shares of rating levels of all runs side by side; the data's column is the first run's."""
    frames = []
    for i, view in enumerate(views):
        shares = series.rating_shares(view.run, view.evaluation.world)
        kept = shares if i == 0 else shares.drop(columns="data", errors="ignore")
        frames.append(kept.rename(columns={name: view.prefix + str(name) for name in kept if name != "data"}))
    return pd.concat(frames, axis=1).sort_index().fillna(0.0)
