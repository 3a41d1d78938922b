"""Off-policy evaluation of run folders: the policies' tables, the study, its refusals, the command."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from recsim_env.build import World
from recsim_env.errors import RecsimError, RunFolderError, ScenarioError, UnknownNameError
from recsim_env.evaluation.ope.turns import LIFE, ONE_TURN, SESSION
from recsim_env.experiments.ope import study as study_module
from recsim_env.experiments.ope.choose import parse_target
from recsim_env.experiments.ope.logs import observations, read_earned, read_log
from recsim_env.experiments.ope.plot import forest
from recsim_env.experiments.ope.policies import BLOCK, next_item
from recsim_env.experiments.ope.report import markdown, notes, tables
from recsim_env.experiments.ope.study import Plan, Study, run_ope
from recsim_env.rebuild import rebuild
from recsim_env.recommenders.base import ScoringRecommender
from recsim_env.registry import recommenders
from recsim_env.rewards import Reward
from recsim_env.scenario import RecommenderSection

SMALL = {
    "name": "small",
    "days": 3,
    "slate_size": 3,
    "history_length": 20,
    "replications": 2,
    "users": {"model": "behavioral", "count": 60, "search": 0.5},
    "recommenders": [
        {"name": "popularity", "label": "soft", "temperature": 1.0, "epsilon": 0.2},
        {"name": "popularity", "label": "greedy", "temperature": 0.0},
        {"name": "uniform"},
    ],
}
KINDS = [
    {"name": "uniform"},
    {"name": "uniform", "exclude_seen": False},
    {"name": "popularity", "temperature": 0.1},
    {"name": "ease", "temperature": 0.5, "epsilon": 0.3},
    {"name": "popularity", "temperature": 0.0, "epsilon": 0.2},
    {"name": "popularity", "temperature": 0.0},
    {"name": "popularity", "epsilon": 1.0},
]


@pytest.fixture(scope="module")
def told(run, tmp_path_factory):
    folder = run_ope(run.path, tmp_path_factory.mktemp("told") / "out")
    return json.loads((folder / "ope.json").read_text()), folder


def section(settings):
    return RecommenderSection.model_validate(settings)


def turns_of(run, cell, n):
    """The first turns of a cell with their slates."""
    obs, slate, _ = next(rebuild(run, cell))
    return obs.take(np.arange(n)), slate.items[:n]


@pytest.mark.parametrize("candidates", [False, True])
@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_the_table_of_a_policy_agrees_with_its_log_prob(run, world, settings, candidates):
    made, n_items = world.recommender(section(settings)), world.dataset.n_items
    obs, logged = turns_of(run, "soft-seed0", 12)
    if candidates:
        some = np.tile(np.arange(40, dtype=np.int32), (12, 1))
        some[:, 35:] = n_items  # padding
        obs, logged = replace(obs, candidates=some), np.tile(np.array([1, 7, 30], np.int32), (12, 1))
    policy = next_item(made, obs, n_items)
    for items in (logged, made.recommend(obs, 3, world.draws).items, np.array([[5, 5, n_items]] * 12)):
        np.testing.assert_allclose(policy.propensity(items), np.exp(made.log_prob(obs, items)), rtol=1e-5, atol=1e-12)
    first = policy.first()
    np.testing.assert_allclose(first.sum(axis=1), 1.0, rtol=1e-5)
    items = np.arange(30)
    single = np.exp(made.log_prob(obs.take(np.zeros(30, int)), items[:, None]))[:, 0]
    np.testing.assert_allclose(first[0, :30], single, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_means_over_the_next_item_are_sums_over_all_items(run, world, settings):
    made, n_items = world.recommender(section(settings)), world.dataset.n_items
    obs, logged = turns_of(run, "soft-seed0", 2)
    table = np.cos(np.arange((n_items + 1) * 2)).reshape(n_items + 1, 2)
    found = next_item(made, obs, n_items).given(logged).mean(table)
    every = np.repeat(logged[:1], n_items, axis=0)
    for k in range(3):
        slates = every.copy()
        slates[:, k] = np.arange(n_items)
        chance = np.exp(made.log_prob(obs.take(np.zeros(n_items, int)), slates))[:, k]
        assert chance.sum() == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(found[0, k], chance @ table[:-1], atol=1e-5)


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_drawn_slates_are_those_of_the_policy(run, world, settings):
    made, n_items = world.recommender(section(settings)), world.dataset.n_items
    obs, _ = turns_of(run, "soft-seed0", 1)
    many = obs.take(np.zeros(3000, int))
    many = replace(many, session=np.arange(3000, dtype=np.int32))
    policy = next_item(made, obs, n_items).take(np.zeros(3000, int))
    items = policy.draw(3, many, world.draws)
    assert all(len(set(row)) == 3 for row in items.tolist())
    assert (np.exp(made.log_prob(many.take(np.arange(BLOCK)), items[:BLOCK])) > 0).all()
    top = np.argsort(policy.first()[0])[-3:]
    share = (items[:, :1] == top).mean(axis=0)
    np.testing.assert_allclose(share, policy.first()[0, top], atol=4 * np.sqrt(0.25 / 3000))


def test_the_blocks_of_a_log_hold_its_turns_in_order(run, world):
    facts, reward = (
        Study(run, Plan(), lambda _: None).facts,
        Reward.from_weights({"clicks": 1.0}, world.dataset.catalog.scale),
    )
    log = read_log(run, "soft", [0, 1], facts, reward)
    turns = run.turns[run.turns["recommender"] == "soft"]
    assert log.n == len(turns)
    assert log.searched.sum() == (turns["policy"] == "catalog-search").sum() > 0
    seen = 0
    for rows, obs in observations(run, "soft", [0, 1]):
        assert rows.start == seen
        assert obs.n == rows.stop - rows.start <= BLOCK
        np.testing.assert_array_equal(log.user[rows] & 0xFFFFFFFF, obs.user_index)
        seen = rows.stop
    assert seen == log.n
    assert len(np.unique(log.user)) == 120


@pytest.mark.parametrize("name", ["clicks", "watch", "stay"])
def test_earnings_are_those_of_the_log(run, world, name):
    facts, reward = (
        Study(run, Plan(), lambda _: None).facts,
        Reward.from_weights({name: 1.0}, world.dataset.catalog.scale),
    )
    log = read_log(run, "uniform", [0, 1], facts, reward)
    earned = read_earned(run, "uniform", [0, 1], facts, reward, name)
    assert earned.reward.sum() == pytest.approx(log.reward.sum(), rel=1e-5)
    assert earned.searched.sum() == log.searched.sum()
    assert len(np.unique(earned.session)) == len(np.unique(log.session))
    turns = run.turns[(run.turns["recommender"] == "uniform")]
    sessions = turns.groupby(["seed", "user", "day", "session"]).ngroups
    assert len(np.unique(log.session)) == sessions


def test_a_policy_on_its_own_log_earns_what_it_earned(run, tmp_path):
    folder = run_ope(run.path, tmp_path / "out", Plan(logged="soft", targets=("soft",)))
    record = json.loads((folder / "ope.json").read_text())
    own = {row["estimand"]: row["value"] for row in record["logged_value"]}
    for row in record["estimates"]:
        if row["estimator"] in ("SIPS", "SNSIPS", "RIPS", "SNRIPS", "PDIS", "SNPDIS"):
            assert row["value"] == pytest.approx(own[row["estimand"]], rel=1e-4), row["estimator"]
            assert row["mean_weight"] == pytest.approx(1.0, rel=1e-4)
            assert row["effective_share"] == pytest.approx(1.0, rel=1e-3)
            assert row["low"] < row["value"] < row["high"]
        assert row["unsupported"] in (0.0, None)


def test_what_the_folder_holds(told):
    record, folder = told
    assert {f.name for f in folder.iterdir()} >= {"ope.json", "ope.md", "ope.png"}
    assert record["logged"] == "soft"
    assert {r["target"] for r in record["estimates"]} == {"greedy", "uniform"}
    assert {r["estimand"] for r in record["estimates"]} == {ONE_TURN, SESSION, LIFE}
    assert {r["estimand"] for r in record["on_policy"]} == {ONE_TURN, SESSION, LIFE}
    for row in record["estimates"]:
        assert {"value", "low", "high", "effective", "largest", "mean_weight", "unsupported", "unexplored"} <= set(row)
        assert row["estimator"] != "IIPS"  # this log does not know its marginals below the top
    text = (folder / "ope.md").read_text()
    assert "served by the catalogue's search" in text
    assert "## One-turn value" in text
    assert "own cell of the run" in text


def test_a_uniform_log_knows_its_marginals(run, tmp_path):
    folder = run_ope(
        run.path, tmp_path / "out", Plan(logged="uniform", targets=("{name: popularity, temperature: 3}",))
    )
    record = json.loads((folder / "ope.json").read_text())
    rows = {r["estimator"]: r for r in record["estimates"] if r["estimand"] == ONE_TURN}
    assert "IIPS" in rows
    assert rows["IIPS"]["mean_weight"] == pytest.approx(1.0, abs=0.15)
    assert rows["IIPS"]["target"] == "popularity (temperature 3)"
    assert not record["on_policy"]


def test_items_that_the_log_never_shows_are_told(run, tmp_path):
    """The logging policy shows nothing twice, the target does not care."""
    plan = Plan(targets=("{name: popularity, temperature: 0.3, exclude_seen: false, label: again}",))
    record = json.loads((run_ope(run.path, tmp_path / "out", plan) / "ope.json").read_text())
    row = next(r for r in record["estimates"] if r["estimator"] == "SNSIPS")
    assert 0.05 < row["unsupported"] < 1.0
    assert row["mean_weight"] < 1.0


def test_a_deterministic_log_is_refused_with_the_remedy(run, tmp_path):
    with pytest.raises(RecsimError, match=r"(?s)'greedy' is deterministic.*epsilon"):
        run_ope(run.path, tmp_path / "out", Plan(logged="greedy"))


def test_the_default_log_has_chance(run):
    assert Study(run, Plan(), lambda _: None).logged.title == "soft"


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        (Plan(logged="sfot"), UnknownNameError, "Did you mean 'soft'"),
        (Plan(targets=("esae",)), UnknownNameError, "Did you mean 'ease'"),
        (Plan(targets=("[1, 2]",)), ScenarioError, "write a name, or settings"),
        (Plan(targets=("{name: [",)), ScenarioError, "write a name, or settings"),
        (Plan(targets=("uniform", "uniform")), ScenarioError, "'uniform' stands there twice"),
        (Plan(targets=("{name: ease, temprature: 1}",)), UnknownNameError, "Did you mean 'temperature'"),
        (Plan(reward="click"), UnknownNameError, "Did you mean 'clicks'"),
        (Plan(reward="watch", calibrate=True), ScenarioError, "needs --reward clicks"),
    ],
)
def test_bad_plans(run, tmp_path, plan, error, message):
    with pytest.raises(error, match=message):
        run_ope(run.path, tmp_path / "out", plan)


def test_language_model_users_cannot_be_calibrated(run, tmp_path, monkeypatch):
    monkeypatch.setattr(World, "needs_engine", False)
    scenario = {**run.manifest["scenario"], "users": {"model": "llm", "count": 60}}
    monkeypatch.setitem(run.manifest, "scenario", scenario)
    monkeypatch.setattr(study_module, "load_run", lambda _: run)
    with pytest.raises(ScenarioError, match=r"needs behavioral users.*users.model=behavioral"):
        run_ope(run.path, tmp_path / "out", Plan(calibrate=True))


def test_other_data_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(World, "data_fingerprint", lambda _: "other")
    with pytest.raises(RecsimError, match="another data set"):
        run_ope(run.path, tmp_path / "out")


def test_a_folder_with_something_else_is_refused(run, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunFolderError, match=r"holds no ope\.json"):
        run_ope(run.path, tmp_path)


def test_a_recommender_that_ranks_by_no_scores_is_asked_for_slates(run, tmp_path, monkeypatch):
    """Everything but Cascade-DR and IIPS needs ``log_prob`` and ``recommend`` alone."""

    class Own(recommenders.get("popularity")):
        def log_prob(self, obs, items):
            return ScoringRecommender.log_prob(self, obs, items)

    monkeypatch.setitem(recommenders._entries, "own", Own)
    settings = "name: {}, temperature: 1.0, epsilon: 0.5, label: it"
    found = []
    for number, name in enumerate(("own", "popularity")):
        plan = Plan(targets=("{" + settings.format(name) + "}",))
        record = json.loads((run_ope(run.path, tmp_path / str(number), plan) / "ope.json").read_text())
        found.append({(r["estimand"], r["estimator"]): r["value"] for r in record["estimates"]})
    own, table = found
    assert set(table) - set(own) == {(ONE_TURN, "Cascade-DR")}
    for estimator in ("SIPS", "RIPS", "SNRIPS"):
        assert own[ONE_TURN, estimator] == pytest.approx(table[ONE_TURN, estimator], rel=1e-4)
    assert own[ONE_TURN, "DM"] == pytest.approx(table[ONE_TURN, "DM"], rel=0.05)


def test_parse_target_names_what_it_was_given():
    assert parse_target("ease", {}).title == "ease"
    assert parse_target("{name: ease, temperature: 0.5}", {}).title == "ease (temperature 0.5)"
    assert parse_target("{name: ease, label: mine}", {}).title == "mine"


def test_the_plot_has_a_unit_and_nothing_overlaps(told):
    record, _ = told
    figure = forest(record)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    one, session = figure.axes
    assert one.get_xlabel() == "Clicks per page"
    assert session.get_xlabel() == "Clicks per session"
    for ax in figure.axes:
        boxes = [t.get_window_extent() for t in ax.get_yticklabels()]
        for above, below in pairwise(boxes):
            assert above.y0 >= below.y1 - 1.0
        assert min(box.x0 for box in boxes) >= -1.0
    assert one.get_yticklabels()[0].get_window_extent().x0 < session.get_yticklabels()[0].get_window_extent().x0
    assert one.get_tightbbox().x1 <= session.get_tightbbox().x0 + 1.0


def test_tables_and_notes_have_a_line_for_everything(told):
    record, _ = told
    lines = [line for _, table in tables(record) for line in table[1:]]
    assert len(lines) == len(record["estimates"]) + len(record["on_policy"])
    assert all(len(line) == len(table[0]) for _, table in tables(record) for line in table)
    said = " ".join(notes(record))
    assert "turns of 120 users" in said
    assert ("marked 'few'" in said) == any(r["few"] for r in record["estimates"])
    assert ("never shown" in said) == any((r["unsupported"] or 0) >= 0.01 for r in record["estimates"])
    first = record["estimates"][0]
    worse = {**record, "estimates": [{**first, "unsupported": 0.767, "low": None, "high": None}]}
    assert f"77% of what {first['target']!r} shows is never shown" in " ".join(notes(worse))
    assert tables(worse)[0][1][1][3] == "-"
    assert "docs/ope.md" in markdown(record)


def test_the_command(run, tmp_path):
    command = [sys.executable, "-m", "recsim_env.cli", "ope"]
    arguments = [str(run.path), "--target", "uniform", "--out", str(tmp_path / "out"), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "One-turn value" in done.stdout
    assert "Cascade-DR" in done.stdout
    assert "Session return" in done.stdout
    assert f"Evaluation folder: {tmp_path / 'out'}" in done.stdout
    assert (tmp_path / "out" / "ope.png").stat().st_size > 10_000
    refused = [str(run.path), "--logged", "greedy", "--out", str(tmp_path / "b")]
    done = subprocess.run([*command, *refused], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 2
    assert "Error: 'greedy' is deterministic" in done.stderr
    assert "Traceback" not in done.stderr
