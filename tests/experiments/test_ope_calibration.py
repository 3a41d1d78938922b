"""The calibration: states lived again, replicates of users, and coverage where the truth is known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recsim_env.build import World
from recsim_env.draws import Draws
from recsim_env.errors import RecsimError, ScenarioError
from recsim_env.evaluation.ope import estimators as by
from recsim_env.evaluation.ope.turns import ONE_TURN, SESSION
from recsim_env.experiments.ope import calibrate as calibrate_module
from recsim_env.experiments.ope import sessions
from recsim_env.experiments.ope.replicates import Score, replicate
from recsim_env.experiments.ope.states import forks, lucky, picked_states
from recsim_env.experiments.ope.study import Plan, run_ope
from recsim_env.recommenders.base import ScoringRecommender
from recsim_env.records import SlateBatch
from recsim_env.registry import recommenders
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = {
    "name": "small",
    "days": 4,
    "slate_size": 2,
    "history_length": 20,
    "users": {"model": "behavioral", "count": 80},
    "recommenders": [
        {"name": "popularity", "label": "log", "temperature": 1.0, "epsilon": 0.3},
        {"name": "popularity", "label": "near", "temperature": 0.8},
    ],
}


def picked(run, n):
    turns = len(run.turns[run.turns["recommender"] == "log"])
    return np.sort(Draws(1).permutation("rows", turns)[:n])


def test_picked_states_come_in_order_and_are_the_forks_own(run, world):
    rows = picked(run, 150)
    blocks = list(picked_states(run, "log", 0, rows))
    assert sum(obs.n for obs, _ in blocks) == 150
    seen = np.concatenate([obs.user_index for obs, _ in blocks])
    histories = np.concatenate([obs.history for obs, _ in blocks])
    for fork in forks(world, run, "log", 0, rows):
        np.testing.assert_array_equal(fork.obs.user_index, seen[fork.place])
        np.testing.assert_array_equal(fork.obs.history, histories[fork.place])
    assert fork.place.stop == 150


def test_asking_often_at_once_is_asking_one_after_another(run, world):
    """And leaves the users as they stood: else the play-back would find other clicks and refuse to go on."""
    rows = picked(run, 60)
    for number, fork in enumerate(forks(world, run, "log", 0, rows)):
        slates = (np.arange(9 * fork.obs.n * 4) * 7 % 500).reshape(9, fork.obs.n, 4)
        clicked, p_click = fork.ask(slates, 5)
        assert clicked.shape == p_click.shape == slates.shape
        for i in range(0, 9, 4):
            unknown = np.full(slates[i].shape, np.nan, np.float32)
            single = SlateBatch(slates[i].astype(np.int32), unknown, unknown, "fork")
            feedback, trace = fork.model.react(lucky(fork.obs, 5 + i), single)
            fork.model.load_state(fork.before)
            np.testing.assert_array_equal(clicked[i], feedback.clicked)
            np.testing.assert_allclose(p_click[i], trace.p_click, rtol=1e-5)
        if number > 8:
            fork.ask(np.zeros((3, fork.obs.n, 1), int), 0)


def test_clicks_happen_as_often_as_their_probability_says(run, world):
    fork = next(forks(world, run, "log", 0, picked(run, 200)))
    slates = np.broadcast_to(np.arange(5), (2000, fork.obs.n, 5))
    clicked, p_click = fork.ask(slates, 0)
    np.testing.assert_array_equal(p_click[0], p_click[-1])
    error = np.abs(clicked.mean(axis=0) - p_click[0])
    assert (error < 5.0 * np.sqrt(p_click[0] * (1 - p_click[0]) / 2000) + 1e-3).all()


def test_another_world_is_noticed(run, tmp_path, monkeypatch):
    original = World.users
    monkeypatch.setattr(World, "users", lambda self, seed, count=None: original(self, seed + 1, count))
    with pytest.raises(RecsimError, match="do not click as they did"):
        run_ope(run.path, tmp_path / "out", Plan(calibrate=True, replicates=2))


def test_replicates_draw_users_with_all_their_units_and_luck_of_their_own():
    owner = np.array([4, 4, 9, 1, 4, 9])
    found = replicate(owner, 3, n_users=50, n_fresh=100, draws=Draws(0), times=2)
    assert len(np.unique(found.cluster)) == 50
    for cluster in range(50):
        units = found.unit[found.cluster == cluster]
        (user,) = set(owner[units].tolist())
        assert sorted(units.tolist()) == sorted(2 * np.flatnonzero(owner == user).tolist())
    pairs = set(zip(found.unit.tolist(), found.fresh.tolist(), strict=True))
    assert len(pairs) == len(found.unit)  # nothing stands twice in a replicate
    other = replicate(owner, 4, 50, 100, Draws(0), 2)
    assert len(other.unit) != len(found.unit) or (other.unit != found.unit).any()


def test_a_score_is_right_about_a_mean():
    """Means of uniform draws: no bias, and 95 % intervals that hold the truth in about 95 % of the replicates."""
    score, n = Score(0.5, 200), 200
    for number in range(400):
        values = Draws.uniforms(Draws(7).keys("score", number), np.arange(n))[0].astype(float)
        score.add({"IPS": (by.ips(values, np.ones(n)), np.ones(n))}, np.arange(n), np.zeros(n, bool))
    (row,) = score.rows({"target": "x"})
    assert abs(row["bias"]) < 0.005
    assert row["sd"] == pytest.approx(np.sqrt(1 / 12 / n), rel=0.12)
    assert 0.91 <= row["coverage"] <= 0.98
    assert (row["n"], row["replicates"], row["effective_share"]) == (200, 400, 1.0)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(calibrate_module, "WORK", 600)
    monkeypatch.setattr(sessions, "ROUNDS", 4)
    monkeypatch.setattr(sessions, "TRUTH_ROUNDS", 2)


def test_smoke(run, tmp_path, short):
    folder = run_ope(run.path, tmp_path / "out", Plan(calibrate=True, replicates=6))
    told = json.loads((folder / "ope.json").read_text())["calibration"]
    assert told["n_states"] == 300
    assert told["replicates"] == 6
    by_place = {(r["estimand"], r["slate_size"]): set() for r in told["rows"]}
    for row in told["rows"]:
        by_place[row["estimand"], row["slate_size"]].add(row["estimator"])
        assert np.isfinite([row["truth"], row["bias"], row["rmse"], row["coverage"], row["width"]]).all()
        assert row["rmse"] ** 2 == pytest.approx(row["bias"] ** 2 + row["sd"] ** 2)
    slates = {"SIPS", "SNSIPS", "RIPS", "SNRIPS", "DM", "Cascade-DR"}
    episodes = {"PDIS", "SNPDIS", "sequential DR"}
    assert by_place == {
        (ONE_TURN, 1): {"IPS", "SNIPS", "clipped IPS", "DM", "DR", "SNDR"},
        (ONE_TURN, 2): slates, (ONE_TURN, 5): slates, (SESSION, 1): episodes, (SESSION, 2): episodes,
    }  # fmt: skip
    text = (folder / "ope.md").read_text()
    assert "## Calibration" in text
    assert "300 logged states" in text
    again = run_ope(run.path, tmp_path / "again", Plan(calibrate=True, replicates=6))
    assert json.loads((again / "ope.json").read_text())["calibration"] == told


def test_a_uniform_log_is_calibrated_with_its_marginals(run, tmp_path, short):
    scenario = {**SMALL, "days": 2, "recommenders": ["uniform", {"name": "popularity", "temperature": 3.0}]}
    source = run_scenario(load_scenario(scenario), tmp_path / "run")
    folder = run_ope(source, tmp_path / "out", Plan(calibrate=True, replicates=4))
    rows = json.loads((folder / "ope.json").read_text())["calibration"]["rows"]
    (row,) = [r for r in rows if r["estimator"] == "IIPS" and r["slate_size"] == 5]
    assert abs(row["bias"]) < 0.5 * row["truth"]


def test_a_recommender_that_ranks_by_no_scores_is_refused(run, tmp_path, monkeypatch):
    class Own(recommenders.get("popularity")):
        def log_prob(self, obs, items):
            return ScoringRecommender.log_prob(self, obs, items)

    monkeypatch.setitem(recommenders._entries, "own", Own)
    with pytest.raises(ScenarioError, match=r"recommenders that rank by scores; own does not"):
        run_ope(run.path, tmp_path / "out", Plan(targets=("own",), calibrate=True, replicates=2))


@pytest.mark.slow
def test_coverage_is_right_where_the_policies_are_near(run, tmp_path):
    """The promise of docs/ope.md: one-item IPS and DR, and RIPS or Cascade-DR at K = 5, cover between 90 and 99 %."""
    folder = run_ope(run.path, tmp_path / "out", Plan(calibrate=True, replicates=150))
    rows = json.loads((folder / "ope.json").read_text())["calibration"]["rows"]
    covered = {(r["slate_size"], r["estimator"]): r["coverage"] for r in rows if r["estimand"] == ONE_TURN}
    for estimator in ("IPS", "DR"):
        assert 0.90 <= covered[1, estimator] <= 0.99, estimator
    assert any(0.90 <= covered[5, name] <= 0.99 for name in ("RIPS", "SNRIPS", "Cascade-DR"))
    unbiased = [r for r in rows if r["estimator"] in ("IPS", "DR", "RIPS", "Cascade-DR") and r["estimand"] == ONE_TURN]
    for row in unbiased:
        assert abs(row["bias"]) < 4.0 * row["sd"] / np.sqrt(row["replicates"]) + 0.01 * row["truth"], row["estimator"]


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "ope.py"), "--quick", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "## Calibration" in (tmp_path / "ope.md").read_text()
    assert (tmp_path / "ope.png").exists()
