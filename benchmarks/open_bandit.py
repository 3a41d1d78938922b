"""One policy's value from the other's log, on the Open Bandit data: estimates beside what the policy really earned.

    RECSIM_DATA=FOLDER python benchmarks/open_bandit.py

FOLDER holds ``open-bandit-small``, the sample that ships with zr-obp (Saito, Aihara, Matsutani and Narita, "Open
Bandit Dataset and Pipeline", 2020): two policies, ``random`` and ``bts``, on the same campaigns in the same week,
10,000 rounds each with propensities and clicks. Nothing of it is copied.

The log gives the propensity of the item that was shown, not those of all others, so the target's probabilities are
taken as follows: ``random`` shows all items alike; ``bts`` changed from day to day, so it is taken as its mean over the
week, the share of the rounds at a position in which it showed the item. (The mean of its logged propensities would be
too large: they are logged more often when they are large.)
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import _report
import numpy as np
import pandas as pd

from recsim_env.evaluation.ope.estimate import Clusters, Estimate, estimate_all
from recsim_env.evaluation.ope.estimators import Terms
from recsim_env.evaluation.ope.turns import Turns, turn_terms
from recsim_env.records import FloatArray, IntArray

POLICIES = ("random", "bts")
CAMPAIGNS = ("men", "women")
COLUMNS = ["item_id", "position", "click", "propensity_score"]
HEADER = (
    "estimator", "clicks per 1,000 rounds", "95 % interval", "error", "effective", "largest weight", "mean weight",
)  # fmt: skip
SHRINK = 100.0
"""Rounds of average clicks that are added to each item's own in the reward model."""


def read(folder: Path, policy: str, campaign: str) -> pd.DataFrame:
    """The log of a policy: item and position from 0, click, propensity."""
    frame = pd.read_csv(folder / policy / campaign / f"{campaign}.csv", usecols=COLUMNS)
    return frame.assign(position=frame["position"] - 1)


def probabilities(policy: str, log: pd.DataFrame, n_items: int) -> FloatArray:
    """Probability of each item at each position, float64 (3, I)."""
    if policy == "random":
        return np.full((3, n_items), 1.0 / n_items)
    counts = np.zeros((3, n_items))
    np.add.at(counts, (log["position"], log["item_id"]), 1.0)
    return counts / counts.sum(axis=1, keepdims=True)


def click_rates(log: pd.DataFrame, half: IntArray, n_items: int) -> FloatArray:
    """Shrunken click rate of each item in the other half of the rounds, float64 (2, I)."""
    found = []
    for f in (0, 1):
        part = log[half != f]
        shown = np.bincount(part["item_id"], minlength=n_items)
        clicked = np.bincount(part["item_id"], part["click"], minlength=n_items)
        found.append((clicked + SHRINK * part["click"].mean()) / (shown + SHRINK))
    return np.stack(found)


def estimate(log: pd.DataFrame, target: FloatArray) -> list[Estimate]:
    """All estimators of one item; every round is taken for a user of its own, since the log names none."""
    item, position = log["item_id"].to_numpy(), log["position"].to_numpy()
    half = np.arange(len(log)) % 2
    rates = click_rates(log, half, target.shape[1])
    q_target = np.einsum("ni,ni->n", target[position], rates[half])
    ratio = target[position, item] / log["propensity_score"].to_numpy()
    reward = log["click"].to_numpy(np.float64)
    turns = Turns(reward[:, None], ratio[:, None], None, rates[half, item][:, None], q_target[:, None])
    return estimate_all(turn_terms(turns), Clusters.of(np.arange(len(log))), np.zeros(len(log), np.bool_))


def on_policy(log: pd.DataFrame) -> Estimate:
    """Clicks per round of a policy on its own log."""
    clicks = log["click"].to_numpy(np.float64)[:, None]
    (found,) = estimate_all(
        {"on-policy": (Terms(clicks, np.ones(clicks.shape)), None)}, Clusters.of(np.arange(len(log))),
        np.zeros(len(log), np.bool_),
    )  # fmt: skip
    return found


def lines(folder: Path) -> Iterator[str]:
    """The tables, one per campaign and direction."""
    for campaign in CAMPAIGNS:
        logs = {policy: read(folder, policy, campaign) for policy in POLICIES}
        n_items = 1 + max(int(log["item_id"].max()) for log in logs.values())
        for target, logged in (POLICIES, POLICIES[::-1]):
            truth = on_policy(logs[target])
            yield f"## {campaign}: the value of {target} from the log of {logged}\n"
            yield f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}"
            yield f"| **{target} itself** | {1000 * truth.value:.2f} | {interval(truth)} | | | | |"
            for found in estimate(logs[logged], probabilities(target, logs[target], n_items)):
                yield line(found, truth)
            yield ""


def line(found: Estimate, truth: Estimate) -> str:
    """A row of a table."""
    told = found.diagnostics
    weights = "- | - | -"
    if told is not None:
        weights = f"{told.effective:,.0f} ({told.effective_share:.1%}) | {told.largest:.1f} | {told.mean_weight:.2f}"
    error = f"{found.value / truth.value - 1.0:+.0%}"
    return f"| {found.estimator} | {1000 * found.value:.2f} | {interval(found)} | {error} | {weights} |"


def interval(found: Estimate) -> str:
    """An interval in clicks per 1,000 rounds."""
    return f"{1000 * found.low:.2f} to {1000 * found.high:.2f}"


NOTES = """
Data: the sample of the Open Bandit Dataset that ships with zr-obp, 10,000 rounds of each policy and campaign in one
week. *Error* is the estimate against the policy's own mean, which is itself uncertain: with some 50 clicks in 10,000
rounds an on-policy mean is known to about 30 %. So this table shows whether estimates are of the right size, not which
estimator is best.

`random` shows all items alike. `bts` is taken as its mean over the week: the share of the rounds at a position in which
it showed an item; its propensities changed from day to day. The reward model is each item's click rate in the other
half of the rounds, shrunken. The log names no users, so every round is a user of its own and intervals are, if
anything, too narrow.
"""


def main() -> None:
    """Writes results/open_bandit.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("RECSIM_DATA"), help="default: RECSIM_DATA")
    parser.add_argument("--results", type=Path, default=_report.RESULTS)
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("set RECSIM_DATA or --data to the folder that holds open-bandit-small")
    body = "\n".join(lines(Path(arguments.data) / "open-bandit-small")) + NOTES
    _report.write("open_bandit", "Open Bandit: one policy's value from the other's log", body, arguments.results)


if __name__ == "__main__":
    main()
