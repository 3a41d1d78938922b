"""Sweeps: the grid, what fails, what goes on, and the same rows however many run at once."""

import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from recsim_env.errors import MissingDependencyError, RunFolderError, ScenarioError, UnknownNameError
from recsim_env.evaluation.bootstrap import over_seeds
from recsim_env.experiments.jobs import Job
from recsim_env.experiments.sweep import Plan, grid, load_table, measure, run_sweep, summary
from recsim_env.experiments.workers import carry_out, workers_for
from recsim_env.rundir import RunFolder, load_measurement, load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """Few ratings, so that a run takes a fraction of a second."""
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame(list(itertools.product(range(40), range(25))), columns=["user_id", "item_id"])
    pairs = pairs.sample(500, random_state=0)
    genres = np.where(pairs["item_id"] % 3, "comedy|drama", "horror")
    pairs = pairs.assign(rating=rng.integers(1, 6, len(pairs)), timestamp=np.arange(len(pairs)), genres=genres)
    path = tmp_path_factory.mktemp("data") / "ratings.csv"
    pairs.to_csv(path, index=False)
    return path


@pytest.fixture
def tiny(ratings):
    small = ["users.count=12", "days=3", "slate_size=3", "data.columns.categories=genres"]
    return [f"data.path={ratings}", *small, "recommenders=uniform,popularity"]


def test_the_grid_has_every_combination_once(tiny):
    plan = Plan(["quickstart"], [4, 5], tiny, ["calendar.churn=0.1,0.5", "reward={clicks: 1},{watch: 2}"])
    points = grid(plan)
    assert len(points) == 2 * 2 * 2 * 2
    assert len({point.name for point in points}) == len({point.scenario.fingerprint() for point in points}) == 16
    last = points[-1]
    assert last.name == "quickstart/calendar.churn=0.5,reward=__watch___2_/popularity-seed5"
    assert last.keys == {
        "scenario": "quickstart", "calendar.churn": 0.5, "reward": {"watch": 2}, "recommender": "popularity",
        "seed": 5,
    }  # fmt: skip
    asked = [*tiny, "calendar.churn=0.5", "reward={watch: 2}", "recommenders=popularity", "seed=5", "replications=1"]
    assert last.scenario == load_scenario("quickstart", asked)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"axes": ["days"]}, ScenarioError, "write KEY=A,B"),
        ({"axes": ["days=[1"]}, ScenarioError, "write KEY=A,B"),
        ({"axes": ["days="]}, ScenarioError, "write KEY=A,B"),
        ({"axes": ["seed=1,2"]}, ScenarioError, "--seeds N"),
        ({"axes": ["days=2,2"]}, ScenarioError, "would be called"),
        ({"axes": ["calender.churn=1"]}, UnknownNameError, "Did you mean 'calendar'"),
        ({"scenarios": ["quickstart", "quickstart"]}, ScenarioError, "would be called"),
        ({"scenarios": ["quikstart"]}, UnknownNameError, "Did you mean 'quickstart'"),
        ({"overrides": ["recommenders=popularty"]}, UnknownNameError, "Did you mean 'popularity'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_anything_is_made(change, error, message, tmp_path):
    plan = {"scenarios": ["quickstart"], "seeds": [0], **change}
    with pytest.raises(error, match=message):
        run_sweep(Plan(**plan), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_long_names_are_cut_and_stay_apart(tiny):
    values = [f"{{clicks: 1, watch: {'0' * 200}{i}}}" for i in (1, 2)]
    names = [point.name for point in grid(Plan(["quickstart"], [0], tiny, [f"reward={','.join(values)}"]))]
    assert len(set(names)) == 4
    assert max(len(part) for name in names for part in name.split("/")) <= 120


def test_one_failure_stops_no_other_and_what_is_complete_is_not_made_again(tiny, ratings, tmp_path):
    late = tmp_path / "late.csv"
    plan = Plan(["quickstart"], [0, 1], tiny[1:], [f"data.path={ratings},{late}"])
    told = []
    folder = run_sweep(plan, tmp_path / "sweep", workers=1, on_progress=told.append)
    record, table = load_measurement(folder, "sweep.json"), load_table(folder)
    assert (record["status"], len(record["failed"])) == ("failed", 4)
    assert all(str(late) in failed["error"] for failed in record["failed"].values())
    assert (table["error"] == "").tolist() == [True] * 4 + [False] * 4
    assert table["clicks_per_turn"].notna().tolist() == [True] * 4 + [False] * 4
    assert [line[-1] == "-" for line in summary(table)[1:]] == [False, False, True, True]
    assert (told[-1].day, told[-1].days) == (24, 24)

    first = folder / "runs" / table["run"][0] / "progress.json"
    before = first.stat().st_mtime_ns
    late.write_text(ratings.read_text())
    run_sweep(plan, folder, workers=1)
    again = load_table(folder)
    assert load_measurement(folder, "sweep.json")["status"] == "complete"
    assert first.stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(again[:4], table[:4].astype(again.dtypes))
    same = ["clicks_per_turn", "retention", "n_turns"]
    assert again[same][:4].to_numpy().tolist() == again[same][4:].to_numpy().tolist()  # of the same ratings

    mean, low, high = over_seeds(again["clicks_per_turn"][:2])
    assert summary(again)[1][:4] == ["quickstart", str(ratings), "uniform", "2"]
    assert summary(again)[1][4] == f"{mean:.3f} ({low:.3f} to {high:.3f})"
    with pytest.raises(RunFolderError, match="another scenario"):
        run_sweep(Plan(["quickstart"], [0], [*tiny[1:], "days=4"], plan.axes), folder)


def test_a_second_writer_and_other_folders_are_refused(tiny, tmp_path):
    plan = Plan(["quickstart"], [0], tiny)
    with RunFolder(tmp_path / "sweep"), pytest.raises(RunFolderError, match="being written by another process"):
        run_sweep(plan, tmp_path / "sweep")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds no sweep\.json"):
        run_sweep(plan, tmp_path)


@pytest.mark.parametrize(
    ("settings", "asked", "workers"),
    [
        (["engine={name: transformers, model: builtin}"], None, 1),
        (["engine={name: transformers, model: builtin}"], 1, 1),
        (["engine={name: openai, model: m}"], 3, 3),
        (["users.model=behavioral", "users.config={}"], 3, 3),
    ],
)
def test_language_models_in_the_process_are_loaded_once(settings, asked, workers):
    scenario = load_scenario("llm_quickstart" if "engine" in settings[0] else "quickstart", settings)
    assert workers_for([scenario], asked) == workers


def test_several_copies_of_a_language_model_are_refused():
    with pytest.raises(ScenarioError, match=r"loads the model in every process, 2 times.*--engine openai"):
        workers_for([load_scenario("llm_quickstart")], 2)


def test_a_process_that_dies_is_one_failure(tiny, tmp_path, monkeypatch):
    module = tmp_path / "dying.py"
    module.write_text(
        "import os\n\n\ndef die(run):\n    os.kill(os.getpid(), 9)\n\n\ndef fail(run):\n    return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import dying

    points = grid(Plan(["quickstart"], [0, 1], tiny))
    measures = [dying.die, measure, dying.fail, measure]
    jobs = [
        Job(point.name, point.scenario, tmp_path / point.name, kind)
        for point, kind in zip(points, measures, strict=True)
    ]
    told = []
    outcomes = carry_out(jobs, 2, "processes", told.append)
    assert outcomes[0].error == "its process ended with exit code -9; memory may have run out"
    assert outcomes[2].error == "ZeroDivisionError: division by zero"
    assert "dying.py" in outcomes[2].trace
    assert [outcome.error for outcome in outcomes[1::2]] == ["", ""]
    assert outcomes[1].measured["n_turns"] > 0
    assert (told[-1].day, told[-1].days) == (12, 12)
    assert told[-1].n_turns == sum(load_run(job.path).manifest["cells"][0]["n_turns"] for job in jobs)


def test_ray_that_is_not_there_is_told(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"--on ray needs the package ray.*recsim-env\[ray\].*processes"):
        run_sweep(Plan(["quickstart"], [0], tiny), tmp_path / "sweep", workers=2, place="ray")


def command(*words, start=subprocess.run, **more):
    """The command line in a process of its own."""
    asked = [sys.executable, "-m", "recsim_env.cli", "sweep", *map(str, words)]
    return start(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def test_the_command_from_end_to_end(tiny, ratings, tmp_path):
    words = ["quickstart", "--seeds", "2", "--on", "processes", "--workers", "1", "-q", "--out", tmp_path / "s"]
    words += [f"--set={o}" for o in tiny[1:]] + [f"--vary=data.path={ratings},{tmp_path / 'no.csv'}"]
    done = command(*words, timeout=120)
    assert done.returncode == 1
    assert "Means over seeds" in done.stdout
    assert f"recsim-env report {tmp_path / 's' / 'runs' / 'quickstart'}" in done.stdout.replace("\n", "")
    assert "4 of 8 runs failed; the same command" in done.stderr.replace("\n", " ")
    assert "no.csv" in done.stderr
    assert len(pd.read_csv(tmp_path / "s" / "table.csv")) == 8
    assert f"| quickstart | {ratings} | popularity | 2 |" in (tmp_path / "s" / "sweep.md").read_text()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the workers in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_goes_on(how, tiny, tmp_path):
    words = ["quickstart", "--seeds", "2", "--on", "processes", "--workers", "2", "-q", "--out", tmp_path / "s"]
    words += [f"--set={o}" for o in tiny] + ["--set=days=150"]
    process = command(*words, start=subprocess.Popen)
    end = time.monotonic() + 120
    while time.monotonic() < end and len(list((tmp_path / "s").glob("runs/*/*/progress.json"))) < 2:
        time.sleep(0.02)
    workers = children(process.pid)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "Go on with the same command" in said
        statuses = {load_run(p.parent).manifest["status"] for p in (tmp_path / "s").glob("runs/*/*/manifest.json")}
        assert "interrupted" in statuses
    while time.monotonic() < end and any(os.path.exists(f"/proc/{pid}") for pid in workers):
        time.sleep(0.02)
    assert load_measurement(tmp_path / "s", "sweep.json")["status"] == "running"
    done = command(*words, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (load_table(tmp_path / "s")["error"] == "").all()


SCENARIOS, CHURN = ("quickstart", "rl_quickstart"), (0.1, 0.5)
RECOMMENDERS, SEEDS = ("uniform", "popularity", "ease"), (0, 1)


@pytest.fixture(scope="module")
def singles(ratings, tmp_path_factory):
    """24 runs, one after another, by what was asked for."""
    runs = {}
    for asked in itertools.product(SCENARIOS, CHURN, RECOMMENDERS, SEEDS):
        scenario, churn, recommender, seed = asked
        changes = [f"data.path={ratings}", "users.count=12", "days=3", "slate_size=3", "replications=1"]
        changes += [
            "data.columns.categories=genres",
            f"calendar.churn={churn}",
            f"recommenders={recommender}",
            f"seed={seed}",
        ]
        runs[asked] = load_run(run_scenario(scenario, tmp_path_factory.mktemp("single") / "run", changes))
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("place", ["processes", "ray"])
def test_24_runs_at_once_have_the_rows_of_24_single_runs(place, singles, tiny, tmp_path):
    if place == "ray":
        pytest.importorskip("ray")
    plan = Plan(SCENARIOS, SEEDS, [*tiny[:-1], f"recommenders={','.join(RECOMMENDERS)}"], ["calendar.churn=0.1,0.5"])
    folder = run_sweep(plan, tmp_path / "sweep", workers=2, place=place)
    table = load_table(folder)
    assert len(table) == len(singles) == 24
    for (_, row), (asked, single) in zip(table.iterrows(), singles.items(), strict=True):
        assert tuple(row[["scenario", "calendar.churn", "recommender", "seed"]]) == asked
        many = load_run(folder / "runs" / row["run"])
        assert len(many.impressions) > 0
        for name in ("impressions", "turns", "sessions"):
            pd.testing.assert_frame_equal(many.table(name), single.table(name), check_exact=True)
        figures = {**measure(single), "seconds": row["seconds"]}
        pd.testing.assert_series_equal(row[list(figures)].astype(float), pd.Series(figures), check_names=False)
