"""From measured runs to means, paired differences and tables; intervals are over seeds.

A seed is a draw of users, luck and split; the same seed in two arms is the same users with the same luck, so
differences are taken seed by seed. 95 % intervals are Student's t over seeds, NaN with fewer than two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsim_env.evaluation.bootstrap import over_seeds
from recsim_env.experiments.studies.base import Claim, Measured, Study
from recsim_env.experiments.tables import markdown_table

AS_EXPECTED, UNCLEAR, OPPOSITE = "as expected", "not told apart from 0", "the opposite"
UNKNOWN, NOTHING = "needs more seeds", "nothing to measure"


def summary(study: Study, measured: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    """Means of every arm and differences of every claim, as plain data: ``series``, ``outcomes``, ``claims``."""
    series = {
        panel.series: {name: interval([m.series[panel.series] for m in found]) for name, found in measured.items()}
        for panel in study.panels
    }
    outcomes = {
        outcome: {name: interval([m.outcomes[outcome] for m in found]) for name, found in measured.items()}
        for outcome in study.outcomes
    }
    return {"series": series, "outcomes": outcomes, "claims": [_tested(c, measured) for c in study.claims]}


def _tested(claim: Claim, measured: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    """The paired difference that a claim speaks of, and whether it came out."""
    pairs = zip(measured[claim.arm], measured[claim.control], strict=True)
    found = interval([a.outcomes[claim.outcome] - b.outcomes[claim.outcome] for a, b in pairs])
    low, high = found["low"], found["high"]
    if found["mean"] is None:
        verdict = NOTHING
    elif low is None:
        verdict = UNKNOWN
    elif low <= 0 <= high:
        verdict = UNCLEAR
    else:
        verdict = AS_EXPECTED if (low > 0) == (claim.sign > 0) else OPPOSITE
    told = {"outcome": claim.outcome, "arm": claim.arm, "control": claim.control, "expected": claim.sign}
    return {**told, **found, "verdict": verdict}


def interval(values: Sequence[Any]) -> dict[str, Any]:
    """``mean``, ``low`` and ``high`` over seeds as JSON has them; arguments as :func:`over_seeds` takes."""
    return {name: _json(v) for name, v in zip(("mean", "low", "high"), over_seeds(values), strict=True)}


def _json(value: Any) -> Any:
    """A float or a list of them; NaN is null."""
    if np.ndim(value):
        return [_json(v) for v in value]
    return round(float(value), 6) if math.isfinite(value) else None


def plain(measured: Measured) -> dict[str, Any]:
    """One run's figures as JSON has them."""
    return {
        "series": {name: _json(np.asarray(values)) for name, values in measured.series.items()},
        "outcomes": {name: _json(value) for name, value in measured.outcomes.items()},
    }


def told(found: Mapping[str, Any], sign: str = "", digits: int = 3) -> str:
    """A mean with its interval in words."""
    form = f"{sign}.{digits}f"
    if found["mean"] is None:
        return "-"
    if found["low"] is None:
        return f"{found['mean']:{form}}"
    return f"{found['mean']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


def tables(study: Study, record: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Titles and tables, header first: what each arm came to, and what was expected of it."""
    names = list(record["arms"])
    arms = [["", *names]]
    arms += [[o, *(told(record["outcomes"][o][name]) for name in names)] for o in study.outcomes]
    claims = [["figure", "difference", "mean (95 %)", "expected", "found"]]
    for claim in record["claims"]:
        pair = f"{claim['arm']} minus {claim['control']}"
        sign = "above 0" if claim["expected"] > 0 else "below 0"
        claims.append([claim["outcome"], pair, told(claim, "+"), sign, claim["verdict"]])
    n = len(record["seeds"])
    return [(f"Means over {n} seeds (95 %)", arms), ("Paired differences", claims)]


def markdown(study: Study, record: Mapping[str, Any]) -> str:
    """The page ``study.md``."""
    body = [f"# {study.name}", "", study.question, ""]
    body += [f"- **{name}**: {arm['label']} (`{' '.join(arm['overrides'])}`)" for name, arm in record["arms"].items()]
    body += ["", *(f"- *{name}*: {about}" for name, about in study.outcomes.items()), ""]
    for title, lines in tables(study, record):
        body += [f"## {title}", "", *markdown_table(lines), ""]
    return "\n".join([*body, "![The study](study.png)", ""])
