"""Offline protocols: who is ranked, what is left out, how candidates are drawn."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from recsim_env.data.splits import split_dataset
from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.evaluation.protocols import (
    candidates_ranked,
    full_ranking,
    greedy,
    ranked,
    read_candidates,
    sampled_hits,
)
from recsim_env.experiments.offline import Plan
from recsim_env.recommenders.ease import EASE, EASEConfig
from recsim_env.recommenders.popularity import Popularity
from recsim_env.recommenders.uniform import Uniform
from recsim_env.scenario import Data
from recsim_env.testing import tiny_dataset


@pytest.fixture(scope="module")
def split():
    return split_dataset(tiny_dataset(60, 20), Data(split="last-out"), Draws(0))


@pytest.fixture(scope="module")
def ease(split):
    made = EASE(EASEConfig(regularisation=5))
    made.fit(split.train, Draws(0))
    return made


def test_lists_are_the_best_scores_without_chance(split, ease):
    lists = full_ranking(ease, split, 5)
    assert len(lists.users) == 60
    scores = interaction = np.zeros((60, 20), np.float32)
    r = split.train.ratings
    interaction[r.user_index, r.item_index] = 1
    scores = interaction @ ease.arrays()["weights"]
    scores[interaction > 0] = -np.inf
    assert np.array_equal(lists.top, np.argsort(-scores, axis=1, kind="stable")[:, :5])
    assert ease.config.temperature > 0, "the recommender itself keeps its temperature"
    assert greedy(ease).deterministic


def test_a_checkerboard_is_solved(split, ease):
    assert full_ranking(ease, split, 10).scores().means()["hr"] > 0.95
    uniform = Uniform()
    uniform.fit(split.train, Draws(0))
    assert full_ranking(uniform, split, 2).scores().means()["hr"] < 0.35


def test_sampled_candidates_agree_with_a_loop(split):
    made = Popularity()
    made.fit(split.train, Draws(0))
    hits = sampled_hits(made, split, 4, 50, 1, Draws(1))
    assert hits["hr"].shape == (50, 60)
    counts = split.train.catalog.popularity
    r, held = split.train.ratings, split.test
    chances = []
    for user, target in zip(held.user_index.tolist(), held.item_index.tolist(), strict=True):
        seen = set(r.item_index[r.user_index == user].tolist()) | {target}
        free = [i for i in range(20) if i not in seen]
        # Equal counts: the earlier item stands before.
        lower = sum((counts[i], -i) < (counts[target], -target) for i in free)
        p = 1.0
        for drawn in range(3):
            p *= max(lower - drawn, 0) / (len(free) - drawn)
        chances.append(p)
    assert hits["hr"].mean() == pytest.approx(np.mean(chances), abs=0.03)


def test_drawn_candidates_are_the_same_in_any_order_of_recommenders(split, ease):
    one, two = (sampled_hits(ease, split, 6, 3, 1, Draws(5)) for _ in range(2))
    assert np.array_equal(one["hr"], two["hr"])
    assert not np.array_equal(one["hr"], sampled_hits(ease, split, 6, 3, 1, Draws(6))["hr"])


def test_candidates_may_hold_what_was_seen(split, ease):
    histories = split.train.histories().take(np.array([0, 1]))
    seen = histories.items[histories.offsets[:-1]]
    lists = candidates_ranked(ease, split.train.catalog, histories, seen[:, None], 2)
    assert lists[:, 0].tolist() == seen.tolist()
    assert (lists[:, 1] == 20).all()


def test_blocks_of_users_have_luck_of_their_own(split, monkeypatch):
    uniform = Uniform()
    uniform.fit(split.train, Draws(0))
    whole = full_ranking(uniform, split, 3).top
    monkeypatch.setattr("recsim_env.evaluation.protocols.BLOCK", 7)
    assert np.array_equal(full_ranking(uniform, split, 3).top, whole)


def test_a_newcomer_is_served(split, ease):
    empty = split.train.histories().take(np.array([-1]))
    assert (ranked(ease, split.train.catalog, empty, 3) < 20).all()


def test_fixed_lists_from_a_file(split, ease, tmp_path):
    data = split.train
    rows = [{"user": data.user_id[0], "candidates": "item-0|item-1|item-2", "target": "item-1"}]
    path = tmp_path / "lists.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    asked = read_candidates(path, data, split.test)
    assert asked.candidates.tolist() == [[0, 1, 2]]
    assert asked.relevant.items.tolist() == [1]
    without = pd.DataFrame(rows).drop(columns="target")
    without.to_csv(path, index=False)
    assert read_candidates(path, data, split.test).relevant.lengths.tolist() == [1]
    for change, message in (
        ({"user": "nobody"}, "row 1: the data set has no user 'nobody'"),
        ({"candidates": "item-0|item-99"}, "no item 'item-99'"),
    ):
        pd.DataFrame([{**rows[0], **change}]).to_csv(path, index=False)
        with pytest.raises(ScenarioError, match=message):
            read_candidates(path, data, split.test)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ScenarioError, match="no column 'user'; it has a, b"):
        read_candidates(path, data, split.test)
    with pytest.raises(ScenarioError, match="Cannot read"):
        read_candidates(tmp_path / "absent.csv", data, split.test)


def test_plans():
    with pytest.raises(ScenarioError, match="Choose one of last-out"):
        Plan("leave-one-out")
    with pytest.raises(ScenarioError, match="needs the lists"):
        Plan("fixed")


@pytest.mark.parametrize("protocol", ["last-out", "per-user", "sampled"])
def test_command_line(protocol, tmp_path):
    command = [sys.executable, "-m", "recsim_env.cli", "evaluate", "als", "--protocol", protocol, "--draws", "3"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "evaluation.json").read_text())
    rows = {row["recommender"]: row for row in record["rows"]}
    assert set(rows) == {"uniform", "popularity", "item-knn", "ease", "cooccurrence", "als"}
    assert rows["ease"]["ndcg"] > rows["uniform"]["ndcg_high"]
    assert rows["als"]["ndcg_low"] <= rows["als"]["ndcg"] <= rows["als"]["ndcg_high"]
    assert all(row["against"] in rows for row in rows.values())
    assert "| als |" in (tmp_path / "evaluation.md").read_text()
    assert (tmp_path / "evaluation.png").stat().st_size > 5000
    if protocol != "sampled":
        assert 0 < rows["popularity"]["coverage"] < rows["uniform"]["coverage"] <= 1
