"""Corrections of known biases of language-model users, fitted on the validation part, with and without.

- positivity and activity: ``watch_bias``, added to the log-odds of watching;
- sameness between users: ``mark_temperature``, below 1 where the model hedges and everybody gives the same marks;
- position: ``list_orders``, more orders of a page put as a list (measured by the interventions);
- copying a displayed average: nothing to set; cards display none (the interventions measure what displaying one does).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit

from recsim_env.agents.judging import tempered
from recsim_env.experiments.fidelity.judges import Judge
from recsim_env.experiments.fidelity.judging import Task, sampled, scored
from recsim_env.experiments.fidelity.measures import choose, group_f1, spread_ratio, user_means
from recsim_env.records import FloatArray


@dataclass(frozen=True, slots=True)
class Correction:
    """One option, off and on.

    Attributes:
        bias: What it is against.
        option: Setting with its fitted value.
        measure: What is compared.
        off: The figure without it.
        on: The figure with it.
        real: What people do, NaN where there is no such figure.
    """

    bias: str
    option: str
    measure: str
    off: float
    on: float
    real: float


def correct(judge: Judge, task: Task, more: dict[str, Any]) -> list[dict[str, Any]]:
    """Fits each correction on the validation part and measures it on the test part; rows of plain data.

    Args:
        judge: A user model whose scores are log-odds.
        task: What it was asked.
        more: What :func:`~recsim_env.experiments.fidelity.interventions.intervene` told.
    """
    rows = [*_positivity(judge, task), *_sameness(judge, task)]
    if "order_change" in more:
        measure = "|change of p| when the page is turned round"
        off, on = more["order_change"], more["order_change_averaged"]
        rows.append(Correction("position", "list_orders: 2", measure, off, on, 0.0))
    if "copying" in more:
        measure = "marks gained per mark displayed"
        rows.append(Correction("copying", "no average on cards (always)", measure, more["copying"], 0.0, 0.0))
    return [asdict(row) for row in rows]


def _positivity(judge: Judge, task: Task) -> list[Correction]:
    m = min(task.test)
    known, groups = task.validation[m], task.test[m]
    before, _ = scored(judge, known)
    usable = before[known.shown & np.isfinite(before)]
    target = float(known.positive[known.shown].mean())
    bias = float(brentq(lambda b: expit(usable + b).mean() - target, -40.0, 40.0)) if len(usable) else 0.0
    scores, _ = scored(judge, groups)
    finite = groups.shown & np.isfinite(scores)

    def f1(shift: float) -> float:
        return float(user_means(group_f1(choose(scores, -shift), groups.positive), groups.user)[1].mean())

    option, real = f"watch_bias: {bias:.2f}", float(groups.positive[groups.shown].mean())
    off, on = (float(expit(scores[finite] + b).mean()) for b in (0.0, bias))
    return [
        Correction("positivity", option, f"mean p(watch), m={m}", off, on, real),
        Correction("positivity", option, f"F1 at p > .5, m={m}", f1(0.0), f1(bias), 1.0),
    ]


def _sameness(judge: Judge, task: Task) -> list[Correction]:
    levels, rows, known = task.parts.whole.catalog.scale.levels, task.rated, task.rated_validation
    told, bad = judge.marks(known.user_index.astype(np.int64), known.item_index.astype(np.int64))
    level = np.abs(known.rating[:, None] - levels).argmin(axis=1)

    def loss(log_t: float) -> float:
        p = tempered(told[~bad], float(np.exp(log_t)))
        return -float(np.log(np.maximum(p[np.arange(len(p)), level[~bad]], 1e-6)).mean())

    t = float(np.exp(minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded").x)) if (~bad).any() else 1.0
    marks, bad = judge.marks(rows.user_index.astype(np.int64), rows.item_index.astype(np.int64))

    def figures(p: FloatArray) -> tuple[float, float]:
        stars = sampled(p, bad, rows, levels, task.draws)
        errors = np.sqrt(user_means((p @ levels - rows.rating) ** 2, rows.user_index)[1]).mean()
        return spread_ratio(stars, rows.rating, rows.user_index), float(errors)

    off, on = figures(marks), figures(tempered(marks, t))
    option = f"mark_temperature: {t:.2f}"
    return [
        Correction("sameness", option, "spread of users' mean stars, ratio", off[0], on[0], 1.0),
        Correction("sameness", option, "RMSE", off[1], on[1], 0.0),
    ]
