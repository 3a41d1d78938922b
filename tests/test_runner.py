"""Runs end to end on the built-in data: rows, promises about sameness, resume, errors."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from recsim_env.errors import RecsimError, RunFolderError, UnknownNameError
from recsim_env.rebuild import rebuild
from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario

SMALL = {
    "name": "small",
    "days": 6,
    "slate_size": 5,
    "history_length": 20,
    "users": {"count": 40},
    "recommenders": ["uniform", "popularity"],
    "reward": {"clicks": 1.0, "retention": 2.0},
    "retrain_every": 2,
}
TABLES = ("impressions", "turns", "sessions")
KEYS = ["recommender", "seed", "day", "session", "turn", "user", "position"]


def tables(path):
    """All rows of a run in a fixed order, whatever parts they were written in."""
    run = load_run(path)
    found = {}
    for name in TABLES:
        frame = run.table(name)
        for column in frame.select_dtypes("category"):
            frame[column] = frame[column].astype(str)
        found[name] = frame.sort_values([k for k in KEYS if k in frame], kind="stable").reset_index(drop=True)
    found["messages"] = pd.DataFrame(run.messages)
    return found


def assert_same(a, b, **tolerance):
    for name in a:
        pd.testing.assert_frame_equal(a[name], b[name], **tolerance)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return run_scenario(load_scenario(SMALL), tmp_path_factory.mktemp("runs") / "small")


def test_the_rows_hang_together(small):
    run = load_run(small)
    impressions, turns, sessions = (tables(small)[name] for name in TABLES)
    assert run.manifest["status"] == "complete"
    assert len(impressions) == 5 * len(turns)
    assert sessions["n_turns"].sum() == len(turns)
    assert sessions["n_clicks"].sum() == impressions["clicked"].sum()
    np.testing.assert_allclose(sessions["reward"].sum(), turns["reward"].sum(), rtol=1e-5)
    np.testing.assert_allclose(impressions["reward"].sum(), impressions["clicked"].sum())
    assert turns.groupby(["recommender", "user", "day", "session"])["next_action"].last().eq(3).all()
    assert (turns["turn"] < 20).all()
    stopped = sessions[sessions["churned"]].set_index(["recommender", "user"])["day"]
    last = sessions.groupby(["recommender", "user"])["day"].max()
    assert len(stopped) > 0
    assert (last.loc[stopped.index] == stopped).all()  # nobody comes back after having stopped for good
    served = impressions[impressions["policy"] != "catalog-search"]
    assert served["propensity"].between(0, 1, inclusive="right").all()
    assert impressions.loc[impressions["policy"] == "catalog-search", "propensity"].isna().all()
    said = turns["next_action"].isin([1, 2])
    assert (turns["next_message"].notna() == said).all()
    assert len([m for m in run.messages if m["speaker"] == "user"]) == said.sum() > 0
    cells = {(c["recommender"], c["seed"]): c for c in run.manifest["cells"]}
    assert set(cells) == {("uniform", 0), ("popularity", 0)}
    assert sum(c["n_turns"] for c in cells.values()) == len(turns)


def test_users_words_reach_the_next_page(small):
    turns = tables(small)["turns"]
    asked = turns[turns["next_action"].isin([1, 2])]
    keys = ["recommender", "user", "day", "session"]
    following = asked.assign(turn=asked["turn"] + 1).merge(turns, on=[*keys, "turn"], suffixes=("_before", ""))
    assert len(following) == len(asked)
    assert (following["message"] == following["next_message_before"]).all()
    assert (following["message_kind"] == following["next_action_before"]).all()
    searched = following["message_kind"] == 1
    assert (following.loc[searched, "policy"] == "catalog-search").all()
    assert (following.loc[~searched, "policy"] != "catalog-search").all()


def test_same_scenario_same_rows_other_seed_other_rows(small, tmp_path):
    again = run_scenario(load_scenario(SMALL), tmp_path / "again")
    assert_same(tables(small), tables(again))
    other = run_scenario(load_scenario(SMALL, ["seed=1"]), tmp_path / "other")
    assert len(tables(other)["turns"]) != len(tables(small)["turns"])


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_changes_nothing(small, tmp_path, batch_size):
    path = run_scenario(load_scenario(SMALL, [f"batch_size={batch_size}"]), tmp_path / "run")
    a, b = tables(small), tables(path)
    assert_same({n: a[n] for n in TABLES}, {n: b[n] for n in TABLES}, rtol=0, atol=1e-6)
    order = ["recommender", "day", "session", "turn", "user", "speaker"]
    a, b = (t["messages"].sort_values(order).reset_index(drop=True) for t in (a, b))
    pd.testing.assert_frame_equal(a, b)


def test_recommenders_meet_the_same_users_with_the_same_luck(small):
    sessions = tables(small)["sessions"]
    first = sessions[(sessions["day"] == 0) & (sessions["session"] == 0)]
    by_policy = [part["user"].tolist() for _, part in first.groupby("recommender")]
    assert by_policy[0] == by_policy[1] == list(range(40))
    shown = tables(small)["impressions"]
    opening = shown[(shown["day"] == 0) & (shown["session"] == 0) & (shown["turn"] == 0) & (shown["position"] == 0)]
    by_policy = [part.set_index(["user", "item"]) for _, part in opening.groupby("recommender")]
    both = by_policy[0].merge(by_policy[1], left_index=True, right_index=True, suffixes=("_a", "_b"))
    assert (both["clicked_a"] == both["clicked_b"]).all()  # the same item first: the same click


def test_every_observation_can_be_rebuilt(tmp_path, monkeypatch):
    scenario = load_scenario(SMALL, ["candidates=30", "recommenders=[{name: popularity, heed: 1.0}]"])
    seen = {}
    from recsim_env.simulator import Simulator

    original = Simulator.react

    def spy(self, obs, slate):
        for i, user in enumerate(obs.user_index):
            seen[int(user), int(obs.day[i]), int(obs.session[i]), int(obs.turn[i])] = obs.take(np.array([i]))
        return original(self, obs, slate)

    monkeypatch.setattr(Simulator, "react", spy)
    path = run_scenario(scenario, tmp_path / "run")
    count = 0
    for obs, _, _ in rebuild(load_run(path), "popularity-seed0"):
        for i, user in enumerate(obs.user_index):
            live = seen[int(user), int(obs.day[i]), int(obs.session[i]), int(obs.turn[i])]
            mine = obs.take(np.array([i]))
            for name in ("history", "history_rating", "seen", "last_slate", "message_kind", "message_vector"):
                np.testing.assert_array_equal(getattr(mine, name), getattr(live, name), err_msg=name)
            np.testing.assert_array_equal(mine.candidates, live.candidates)
            assert mine.message == live.message
            for name in ("clicked", "watched_fraction", "liked", "shared", "rating", "next_action"):
                np.testing.assert_array_equal(
                    getattr(mine.last_feedback, name), getattr(live.last_feedback, name), err_msg=name
                )
            count += 1
    assert count == len(seen) > 300


def test_global_generators_stay_untouched(tmp_path):
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    run_scenario(load_scenario(SMALL, ["recommenders=uniform,ease,als", "days=2"]), tmp_path / "run")
    assert random.getstate() == python
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy, strict=True))  # noqa: NPY002


def test_retraining_changes_the_policy_version(tmp_path):
    path = run_scenario(load_scenario(SMALL, ["recommenders=popularity"]), tmp_path / "run")
    turns = tables(path)["turns"]
    assert (turns.loc[turns["policy"] == "catalog-search", "version"] == "").all()
    turns = turns[turns["policy"] != "catalog-search"]
    assert turns.groupby(turns["day"] // 2)["version"].nunique().eq(1).all()
    assert turns["version"].nunique() == 3


# --- interruption ----------------------------------------------------------------------------------------------------

RUN = """
import sys
import recsim_env.runner as runner
from recsim_env.scenario import load_scenario
runner.COMMIT_SECONDS = 0.0
runner.run_scenario(load_scenario(sys.argv[1]), sys.argv[2], resume=sys.argv[3] == "resume")
"""


def start(scenario_file, out, resume):
    command = [sys.executable, "-c", RUN, str(scenario_file), str(out), "resume" if resume else "new"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def kill_and_resume(tmp_path, overrides, kills, seed):
    """Kills a run at random moments until it has been killed often enough, then lets it end."""
    scenario = load_scenario(SMALL, overrides)
    file = tmp_path / "small.yaml"
    file.write_text(scenario.to_yaml())
    begun = time.perf_counter()
    whole = start(file, tmp_path / "whole", False)
    assert whole.wait() == 0, whole.stderr.read()
    length = time.perf_counter() - begun
    luck = random.Random(seed)
    out, killed = tmp_path / "killed", 0
    while killed < kills:
        resume = (out / "manifest.json").exists()
        if not resume and out.exists():  # killed before anything was written down
            subprocess.run(["rm", "-r", str(out)], check=True)
        process = start(file, out, resume)
        try:
            process.wait(timeout=luck.uniform(0.3, 1.0) * length)
            if json.loads((out / "manifest.json").read_text())["status"] == "complete":
                assert process.returncode == 0, process.stderr.read()
                out = tmp_path / f"killed-{killed}"  # ended first: go on with a fresh one
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    if (out / "manifest.json").exists():
        last = start(file, out, True)
        assert last.wait() == 0, last.stderr.read()
    else:
        out = tmp_path / "whole"
    return tables(tmp_path / "whole"), [
        tables(path) for path in tmp_path.glob("killed*") if (path / "manifest.json").exists()
    ]


def test_three_kills(tmp_path):
    whole, resumed = kill_and_resume(tmp_path, ["days=12"], kills=3, seed=1)
    assert resumed
    for tables_ in resumed:
        assert_same(whole, tables_)


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    overrides = ["days=16", "users.count=60", "recommenders=popularity,ease"]
    whole, resumed = kill_and_resume(tmp_path, overrides, kills=20, seed=2)
    assert resumed
    for tables_ in resumed:
        assert_same(whole, tables_)


def test_a_policy_that_cannot_be_repeated_is_replayed_from_its_stored_slates(tmp_path, monkeypatch):
    from recsim_env.recommenders.popularity import Popularity

    scenario = load_scenario(SMALL, ["recommenders=popularity"])
    monkeypatch.setattr(Popularity, "repeatable", False)
    monkeypatch.setattr("recsim_env.runner.COMMIT_SECONDS", 0.0)
    whole = run_scenario(scenario, tmp_path / "whole")

    class Halt(Exception):
        pass

    def stop(progress):
        if progress.day == 3:
            raise Halt

    with pytest.raises(Halt):
        run_scenario(scenario, tmp_path / "stopped", on_progress=stop)
    assert load_run(tmp_path / "stopped").manifest["status"] == "failed"
    kept = tables(tmp_path / "stopped")["turns"]["day"].max()
    asked = []
    original = Popularity.recommend

    def count(self, obs, slate_size, draws):
        asked.append(obs.day.min())
        return original(self, obs, slate_size, draws)

    monkeypatch.setattr(Popularity, "recommend", count)
    run_scenario(scenario, tmp_path / "stopped", resume=True)
    assert_same(tables(whole), tables(tmp_path / "stopped"))
    assert kept >= 1
    assert min(day for day in asked[3:]) > kept  # days that were stored are not asked for again


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_a_changed_scenario_is_refused_and_batch_size_is_no_change(small, tmp_path):
    with pytest.raises(RunFolderError, match=r"another scenario.*scenario\.yaml"):
        run_scenario(load_scenario(SMALL, ["days=7"]), small, resume=True)
    before = tables(small)
    run_scenario(load_scenario(SMALL, ["batch_size=9"]), small, resume=True)
    assert_same(before, tables(small))
    assert load_run(small).manifest["resumed"] == 1


def test_a_folder_in_use_or_not_a_run_is_refused(small, tmp_path):
    with pytest.raises(RunFolderError, match="not empty"):
        run_scenario(load_scenario(SMALL), small)
    with pytest.raises(RunFolderError, match="no run to resume"):
        run_scenario(load_scenario(SMALL), tmp_path, resume=True)


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("recommenders=popularty", UnknownNameError, "Did you mean 'popularity'"),
        ("users.model=behavoral", UnknownNameError, "Did you mean 'behavioral'"),
        ("reward={click: 1}", UnknownNameError, "Did you mean 'clicks'"),
        ("recommenders=[{name: ease, lamda: 3}]", UnknownNameError, "setting 'lamda'"),
        ("users.patience=-1", RecsimError, "users.patience"),
        ("data.name=movietweeting", UnknownNameError, "Did you mean 'movietweetings'"),
        ("data.path=/nowhere", RecsimError, "/nowhere"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(tmp_path, override, error, words):
    with pytest.raises(error, match=words):
        run_scenario(load_scenario(SMALL, [override]), tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.json").exists()


LIMITED = """
import resource, signal, sys
import recsim_env.runner as runner
from recsim_env.errors import RunFolderError
from recsim_env.scenario import load_scenario
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
runner.COMMIT_SECONDS = 0.0

def limit(progress):
    if progress.day == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

try:
    runner.run_scenario(load_scenario(sys.argv[1]), sys.argv[2], on_progress=limit)
except RunFolderError as error:
    print(error)
    sys.exit(2)
"""


def test_a_full_disk_keeps_the_rows_and_can_be_resumed(tmp_path):
    scenario = load_scenario(SMALL, ["recommenders=popularity"])
    (tmp_path / "small.yaml").write_text(scenario.to_yaml())
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "small.yaml"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "disk is full" in done.stdout
    assert "--resume" in done.stdout
    rows = tables(tmp_path / "run")["turns"]
    assert 0 < rows["day"].max() < 5
    run_scenario(scenario, tmp_path / "run", resume=True)
    whole = run_scenario(scenario, tmp_path / "whole")
    assert_same(tables(whole), tables(tmp_path / "run"))
