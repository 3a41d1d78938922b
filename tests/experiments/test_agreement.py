"""Agreement of orders: tau by hand, too few recommenders, and the command on a small world."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import kendalltau
from typer.testing import CliRunner

from recsim_env.cli import app
from recsim_env.errors import ScenarioError
from recsim_env.experiments.agreement import DEFAULT, Measure, Plan, _tau, _with_users, run_agreement, taus
from recsim_env.scenario import load_scenario


def test_tau_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 4, 9).astype(float), rng.normal(size=9)
        assert _tau(first, second) == pytest.approx(kendalltau(first, second).statistic)


def test_equal_orders_agree_and_reversed_ones_do_not():
    up = np.arange(8.0)
    noise = np.random.default_rng(0).normal(0, 0.1, (200, 8))
    same, reversed_, equal = (
        Measure(name, values, values + scale * noise)
        for name, values, scale in (("up", up, 1), ("down", -up, 1), ("flat", np.zeros(8), 0))
    )
    found = {(t["first"], t["second"]): t for t in taus([same, Measure("again", up, up + noise), reversed_, equal])}
    assert found["up", "again"]["tau"] == 1
    assert found["up", "again"]["low"] > 0.9
    assert found["up", "again"]["p"] < 0.001
    assert found["up", "down"]["tau"] == -1
    assert found["up", "flat"]["tau"] is None


def test_too_few_recommenders_are_refused(tmp_path):
    with pytest.raises(ScenarioError, match="at least 8 recommenders, the scenario has 1"):
        run_agreement(load_scenario({"recommenders": ["popularity"]}), tmp_path / "a", Plan())


def test_the_log_is_of_one_that_is_compared(tmp_path):
    scenario = load_scenario({"recommenders": [dict(section) for section in DEFAULT]})
    with pytest.raises(ScenarioError, match="--logged 'sasrec' is none of the recommenders"):
        run_agreement(scenario, tmp_path / "a", Plan(logged="sasrec"))


def test_those_who_think_are_fewer_and_stay_for_fewer_days():
    scenario = load_scenario({"users": {"count": 500, "averages": True}, "days": 10})
    plan = Plan(n_llm_users=16, llm_days=3)
    found = {model: _with_users(scenario, model, plan) for model in ("behavioral", "llm")}
    assert {model: (s.users.count, s.days) for model, s in found.items()} == {"behavioral": (500, 10), "llm": (16, 3)}
    assert found["llm"].users.config == {"averages": True}
    assert not found["behavioral"].users.config
    assert _with_users(scenario, "llm", Plan()).days == 10


def test_a_short_run_says_nothing_of_the_last_week(tmp_path):
    sections = [{"name": "popularity", "label": f"p{i}", "temperature": 0.1 + i} for i in range(8)]
    scenario = load_scenario(
        {
            "recommenders": sections,
            "users": {"count": 6},
            "days": 2,
            "data": {"name": "movietweetings", "min_ratings": 20},
        }
    )
    folder = run_agreement(scenario, tmp_path / "a", Plan(ope=None))
    record = json.loads((folder / "agreement.json").read_text())
    assert [m["name"] for m in record["measures"]] == ["offline nDCG@10", "behavioral: clicks a page"]


def test_command_line_and_a_second_call_makes_nothing_again(tmp_path):
    small = [w for s in ("users.count=20", "days=8", "data.min_ratings=20") for w in ("--set", s)]
    command = [sys.executable, "-m", "recsim_env.cli", "agreement", *small, "-q", "--out", str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Kendall's tau" in done.stdout
    record = json.loads((tmp_path / "a/agreement.json").read_text())
    assert record["measures"][0]["name"] == "offline nDCG@10"
    assert len(record["measures"]) == 4
    assert len(record["tau"]) == 6
    for measure in record["measures"]:
        assert all(len(measure[part]) == 9 for part in ("values", "low", "high"))
        assert all(np.array(measure["low"]) <= np.array(measure["high"]))
    assert record["simulated"] == {"behavioral": {"users": 20, "days": 8}}
    assert "behavioral: 20 for 8 days" in (tmp_path / "a/agreement.md").read_text()
    assert (tmp_path / "a/agreement.png").stat().st_size > 5000
    written = (tmp_path / "a/behavioral/manifest.json").stat().st_mtime_ns
    again = CliRunner().invoke(app, command[3:])
    assert again.exit_code == 0, again.output
    assert again.output == done.stdout
    assert (tmp_path / "a/behavioral/manifest.json").stat().st_mtime_ns == written
    other = subprocess.run([*command, "--set", "days=3"], capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert "holds a run of another scenario" in other.stderr
    wrong = CliRunner().invoke(app, [*command[3:], "--ope", "nothing"])
    assert isinstance(wrong.exception, ScenarioError)
    assert "Choose one of" in str(wrong.exception)
