"""How well behavioural users resemble the people they were fitted on: stars of held-out ratings.

    python benchmarks/behavioral_fidelity.py --data FOLDER_OF_ML_1M [--seeds 3]

A fifth of each user's ratings is held out. Printed: RMSE of the expected rating beside item mean, user mean and
biases; Jensen-Shannon divergence (bits) and Wasserstein distance of the sampled star histogram; spread ratio: SD over
users of the mean simulated star, over the same of the real stars.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import _report
import numpy as np

from recsim_env.agents.behavioral import BehavioralUsers
from recsim_env.agents.preference import fit_biases, fit_preferences
from recsim_env.data.load import load_dataset
from recsim_env.data.splits import split_dataset
from recsim_env.draws import Draws
from recsim_env.records import Dataset, FloatArray, Ratings, Users
from recsim_env.scenario import Data

GOALS = {"rmse": "at most .90", "js": "at most .01", "spread": ".85 to 1.15"}

NAMES = {
    "item mean": "RMSE, item mean",
    "user mean": "RMSE, user mean",
    "biases": "RMSE, user and item biases",
    "behavioural": "**RMSE, behavioural users (expected star)**",
    "js": "Jensen-Shannon divergence of stars, bits",
    "wasserstein": "Wasserstein distance of stars",
    "spread": "spread ratio between users",
    "popularity auc": "AUC of picking the film at all, popularity",
    "click auc": "**AUC, behavioural log-odds of a click**",
    "fit seconds": "seconds to fit",
}


def rmse(predicted: FloatArray, real: FloatArray) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean((predicted - real) ** 2)))


def shrunk_mean(index: FloatArray, rating: FloatArray, n: int) -> FloatArray:
    """Mean per group, shrunk towards the overall mean with the weight of five ratings."""
    count = np.bincount(index, minlength=n)
    return (np.bincount(index, rating, minlength=n) + 5 * rating.mean()) / (count + 5)


def compare(stars: FloatArray, test: Ratings, levels: FloatArray) -> tuple[float, float, float]:
    """Jensen-Shannon divergence, Wasserstein distance and spread ratio of simulated against real stars."""
    p, q = (np.array([(np.abs(x - g) < 1e-4).mean() for g in levels]) for x in (stars, test.rating))
    m = 0.5 * (p + q)
    js = 0.5 * sum(float((a[a > 0] * np.log2(a[a > 0] / m[a > 0])).sum()) for a in (p, q))
    wasserstein = float(np.abs(np.cumsum(p - q))[:-1].sum() * (levels[1] - levels[0]))
    n = np.bincount(test.user_index)
    means = [np.bincount(test.user_index, x)[n > 0] / n[n > 0] for x in (stars, test.rating)]
    return js, wasserstein, float(means[0].std() / means[1].std())


def pick_auc(dataset: Dataset, train: Dataset, test: Ratings, draws: Draws) -> tuple[float, float]:
    """Would this user have picked the film at all? AUC of a held-out film against a random unrated one.

    Popularity in the training part alone, and the log-odds of a click (first position) of behavioural users who were
    fitted on the training part. Means over test ratings; ties count half.
    """
    model = BehavioralUsers()
    model.fit(train, draws)
    model.reset(Users(train.user_id, np.arange(train.n_users), {}, train.histories()), draws)
    rated = np.zeros((dataset.n_users, dataset.n_items), np.bool_)
    rated[dataset.ratings.user_index, dataset.ratings.item_index] = True
    luck = draws.uniforms(draws.keys("fidelity-unseen", test.user_index), np.arange(20))
    other = (luck * dataset.n_items).astype(np.int64)
    unseen = ~rated[test.user_index[:, None], other]
    keep = unseen.any(axis=1)
    rows = test.user_index[keep].astype(np.int64)
    pairs = np.stack([test.item_index[keep], other[keep, unseen[keep].argmax(axis=1)]], axis=1)
    nobody, nothing = np.zeros((len(rows), 0), np.int32), np.zeros(pairs.shape, np.bool_)
    wish = np.zeros((len(rows), dataset.catalog.n_categories), np.float32)
    parts = np.array_split(np.arange(len(rows)), max(1, len(rows) // 4096))
    log_odds = np.concatenate(
        [model.appraise(rows[p], pairs[p], wish[p], nothing[p], nobody[p])[1] for p in parts]
    )  # fmt: skip

    def auc(scores: FloatArray) -> float:
        return float(np.mean((scores[:, 0] > scores[:, 1]) + 0.5 * (scores[:, 0] == scores[:, 1])))

    return auc(train.catalog.popularity[pairs]), auc(log_odds)


def one_seed(dataset: Dataset, seed: int) -> dict[str, float]:
    """All figures of one split."""
    draws = Draws(seed)
    split = split_dataset(dataset, Data(split="per-user", test_share=0.2), draws)
    train, test = split.train, split.test
    r, u, i = train.ratings, test.user_index, test.item_index
    begun = time.perf_counter()
    fitted = fit_preferences(train, draws)
    seconds = time.perf_counter() - begun
    scores, noise = fitted.scores(fitted.tastes, u, i), fitted.tastes.noise[u]
    luck = draws.uniforms(draws.keys("fidelity-stars", u), np.zeros(1, np.int64) + i[:, None])[:, 0]
    js, wasserstein, spread = compare(fitted.stars(scores, noise, luck), test, fitted.levels)
    mean, user_bias, item_bias = fit_biases(r, train.n_users, train.n_items)
    popularity_auc, click_auc = pick_auc(dataset, train, test, draws)
    return {
        "popularity auc": popularity_auc,
        "click auc": click_auc,
        "item mean": rmse(shrunk_mean(r.item_index, r.rating, train.n_items)[i], test.rating),
        "user mean": rmse(shrunk_mean(r.user_index, r.rating, train.n_users)[u], test.rating),
        "biases": rmse(mean + user_bias[u] + item_bias[i], test.rating),
        "behavioural": rmse(fitted.expected(scores, noise), test.rating),
        "js": js,
        "wasserstein": wasserstein,
        "spread": spread,
        "fit seconds": seconds,
    }


def main() -> None:
    """Runs all seeds and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of MovieLens; the built-in data when left out")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    parts = []
    for data in [Data(), *([Data(path=arguments.data)] if arguments.data else [])]:
        dataset = load_dataset(data)
        figures = [one_seed(dataset, seed) for seed in range(arguments.seeds)]
        size = f"{dataset.n_users:,} users, {dataset.n_items:,} items, {len(dataset.ratings):,} ratings"
        lines = [
            f"## {dataset.name}: {size}",
            f"\nMean over seeds 0 to {arguments.seeds - 1} (range in brackets), a fifth of the ratings held out.\n",
            "| figure | value | goal on ML-1M |",
            "|---|---|---|",
        ]
        for key, name in NAMES.items():
            values = [f[key] for f in figures]
            digits = 1 if key == "fit seconds" else 5 if key in ("js", "wasserstein") else 4
            goal = GOALS.get({"behavioural": "rmse"}.get(key, key), "")
            spread = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
            lines.append(f"| {name} | {np.mean(values):.{digits}f} ({spread}) | {goal} |")
        parts.append("\n".join(lines))
    _report.write("behavioral_fidelity", "Fidelity of behavioural users: stars", "\n\n".join(parts))


if __name__ == "__main__":
    main()
