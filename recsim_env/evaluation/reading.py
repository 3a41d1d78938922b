"""What the figures of a run say, in sentences that claim no more than the intervals allow."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsim_env.evaluation.summary import METRICS, Evaluation, Metric

_BY_NAME = {metric.name: metric for metric in METRICS}


def read_off(evaluation: Evaluation, table: pd.DataFrame) -> list[str]:
    """A few sentences about a run.

    Args:
        evaluation: The run, added up.
        table: Its :meth:`~recsim_env.evaluation.summary.Evaluation.table`.
    """
    sentences = [_leader(evaluation, table, name) for name in ("retention", "clicks_per_turn")]
    sentences += [_offline(table), _coverage(evaluation, table)]
    sentences.append(
        "Each interval is a 95 % interval over the simulated users of this run, taken for itself: among many "
        "comparisons, some intervals miss 0 by chance."
    )
    return [sentence for sentence in sentences if sentence]


def _leader(evaluation: Evaluation, table: pd.DataFrame, name: str) -> str:
    metric, ranked = _BY_NAME[name], table[name].dropna().sort_values(ascending=False, kind="stable")
    if ranked.empty:
        return ""
    best = ranked.index[0]
    row = table.loc[best]
    value = f"{_figure(metric, row[name])} (95 % {_range(metric, row[f'{name}_low'], row[f'{name}_high'])})"
    what = {"retention": "share of users here in the last week", "clicks_per_turn": "number of clicks per page"}[name]
    if len(ranked) == 1:
        return f"The {what} is {value} under {best}."
    second = ranked.index[1]
    found = evaluation.difference(best, second)[name]
    lead = f"{_figure(metric, found.value[0])} (paired 95 % {_range(metric, found.low[0], found.high[0])})"
    start = f"The {what} is highest under {best}, {value}; its lead over {second}, the next, is {lead}"
    if found.excludes_zero[0]:
        return f"{start}, an interval without 0."
    tied = [other for other in ranked.index[1:] if not evaluation.difference(best, other)[name].excludes_zero[0]]
    return f"{start}. The interval holds 0: this run does not tell {best} from {_list(tied)}."


def _offline(table: pd.DataFrame) -> str:
    known = table[table["ndcg"].notna() & table["retention"].notna()]
    if len(known) < 2:
        return ""
    offline, online = known["ndcg"].idxmax(), known["retention"].idxmax()
    if offline == online:
        start = f"By their point estimates, offline nDCG and retention both put {offline} first"
    else:
        start = f"By their point estimates, offline nDCG puts {offline} first and retention {online}"
    few = (
        " With fewer than eight recommenders, how well the two orders agree cannot be judged." if len(known) < 8 else ""
    )
    return f"{start}.{few}"


def _coverage(evaluation: Evaluation, table: pd.DataFrame) -> str:
    known = table["coverage"].dropna()
    if len(known) < 2 or known.max() == known.min():
        return ""
    most, least = known.idxmax(), known.idxmin()
    found = evaluation.difference(str(most), str(least))["coverage"]
    shares = f"{known.max():.1%} of the catalogue under {most}, {known.min():.1%} under {least}"
    open_end = "" if found.excludes_zero[0] else ", which the intervals do not tell apart"
    return f"Shown at least once: {shares}{open_end}."


def _figure(metric: Metric, value: float) -> str:
    return f"{value:.{metric.digits}f}"


def _range(metric: Metric, low: float, high: float) -> str:
    if np.isnan(low) or np.isnan(high):
        return "unknown"
    return f"{_figure(metric, low)} to {_figure(metric, high)}"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
