"""`recsim-env train policy`: the loop, its folder, kills, and what is compared."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recsim_env.build import World
from recsim_env.errors import MissingDependencyError, RunFolderError, ScenarioError, UnknownNameError
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario
from recsim_env.training.policy import GREEDY, START, held_out_users, train_policy

SMALL = [
    "users.count=30", "recommenders=[{name: slate-pg, epochs: 1, dim: 8, max_length: 8}, uniform]",
    "training.num_envs=16", "training.turns=4", "training.iterations=4", "training.evaluate_every=2",
    "training.evaluate_users=20", "training.second_users.count=20", "training.held_out=0.02", "max_turns=6",
]  # fmt: skip


def small(*more):
    return load_scenario("rl_quickstart", [*SMALL, *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("policy") / "out"
    seen = []
    told = train_policy(small(), out, on_progress=seen.append)
    return out, told, seen


def weights(folder):
    with np.load(folder / "arrays.npz") as stored:
        return {name: stored[name] for name in stored.files}


def test_the_folder_and_the_comparison(trained):
    out, told, seen = trained
    assert json.loads((out / "training.json").read_text()) == told
    assert set(told["held_out"]) == {"slate-pg", "uniform", START, GREEDY}
    assert set(told["second_users"]) == set(told["held_out"])
    rewards = {name: row["reward"]["mean"] for name, row in told["held_out"].items()}
    assert rewards[GREEDY] > rewards["uniform"]
    assert told["held_out"]["slate-pg"]["trained_minus_this"]["mean"] == 0.0
    log = pd.read_parquet(out / "log.parquet")
    assert log["iteration"].tolist() == [0, 1, 2, 3, 4]
    assert log["evaluation"].notna().tolist() == [True, False, True, False, True]
    assert (out / "curve.png").stat().st_size > 10_000
    assert not (out / "checkpoint").exists()
    assert [p.iteration for p in seen if p.label == "Training"] == [1, 2, 3, 4]


def test_the_log_as_events(trained, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, _, _ = trained
    train_policy(small("training.tensorboard=true"), tmp_path / "out")
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    log = pd.read_parquet(out / "log.parquet").iloc[1:]
    for name in ("reward_per_page", "evaluation"):
        known = log[log[name].notna()]
        shown = events.Scalars(name)
        assert [e.step for e in shown] == known["iteration"].tolist()
        np.testing.assert_allclose([e.value for e in shown], known[name], rtol=1e-5)
    monkeypatch.setattr("recsim_env.training.board.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="tensorboard"):
        train_policy(small("training.tensorboard=true"), tmp_path / "other")


def test_it_serves_like_any_recommender(trained, tmp_path):
    out, _, _ = trained
    section = f"recommenders=[{{name: slate-pg, path: {out}}}]"
    run = run_scenario("rl_quickstart", tmp_path / "run", [section, "users.count=20", "days=2", "max_turns=4"])
    turns = pd.read_parquet(next(run.rglob("turns*.parquet")))
    assert "slate-pg" in set(turns["policy"])
    assert set(turns.loc[turns["policy"] == "slate-pg", "version"]) == {"1"}


def test_training_never_meets_held_out_users():
    scenario = small("training.held_out=0.3")
    world = World(scenario)
    held, known = held_out_users(world)
    assert len(held) == round(0.3 * world.dataset.n_users)
    assert sorted([*held, *known]) == list(range(world.dataset.n_users))
    for seed in range(3):
        assert not set(world.of(known).users(seed, 500).data_user) & set(held)
        assert set(world.of(held).users(seed, 100).data_user) <= set(held)


def test_a_killed_training_ends_with_the_weights_of_an_unbroken_one(trained, tmp_path):
    """Killed by SIGKILL after some iteration, then resumed: equal within 1e-6, the log too."""
    out, told, _ = trained
    other = tmp_path / "killed"
    command = [sys.executable, "-m", "recsim_env.cli", "train", "policy", "rl_quickstart", "--out", str(other)]
    for change in SMALL:
        command += ["--set", change]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    state = other / "checkpoint" / "state.json"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if len(json.loads(state.read_text())["log"]) >= 1:
                break
        except (OSError, ValueError):
            time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if (other / "training.json").exists():
        pytest.fail("it was done before it could be killed: give the test more iterations")
    again = train_policy(small(), other, resume=True)
    first, second = weights(out), weights(other)
    for name, array in first.items():
        np.testing.assert_allclose(second[name], array, atol=1e-6, err_msg=name)
    drop = ["seconds"]
    pd.testing.assert_frame_equal(
        pd.read_parquet(out / "log.parquet").drop(columns=drop),
        pd.read_parquet(other / "log.parquet").drop(columns=drop),
    )
    assert again["held_out"] == told["held_out"]


def test_what_is_refused(trained, tmp_path):
    out, _, _ = trained
    with pytest.raises(RunFolderError, match="is not empty"):
        train_policy(small(), out)
    with pytest.raises(RunFolderError, match="complete"):
        train_policy(small(), out, resume=True)
    with pytest.raises(ScenarioError, match=r"Nothing to train: .*ease cannot learn .* slate-pg"):
        train_policy(small("recommenders=[ease]"), tmp_path / "a")
    with pytest.raises(ScenarioError, match="'mine' is none of the recommenders"):
        train_policy(small("training.policy=mine"), tmp_path / "a")
    with pytest.raises(UnknownNameError, match="learning_rat"):
        train_policy(small("training.learning_rat=1"), tmp_path / "a")
    with pytest.raises(RunFolderError, match="nowhere"):
        train_policy(small("training.log=nowhere"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_life_is_learned_too(tmp_path):
    told = train_policy(
        small("episode=life", "days=3", "reward={retention: 1.0}", "training.second_users=null", "training.turns=12"),
        tmp_path / "out",
    )
    row = told["held_out"]["slate-pg"]
    assert 0.0 <= row["stayed"]["mean"] <= 1.0
    assert row["sessions"]["mean"] >= 1.0


def test_a_policy_that_does_not_hear_is_deaf():
    world = World(small("recommenders=[{name: slate-pg, epochs: 0, dim: 8, max_length: 8}]", "users.count=20"))
    section = world.scenario.recommenders[0]
    contexts = []
    for hears in (True, False):
        policy = world.recommender(section.model_copy(update={"config": {**section.config, "hears": hears}}))
        obs = world.simulator(0).observe(np.arange(20))
        spoken = replace(obs, message_vector=np.ones_like(obs.message_vector))
        contexts.append([policy.inputs(o)[1].numpy() for o in (obs, spoken)])
    assert not np.array_equal(*contexts[0])
    np.testing.assert_array_equal(*contexts[1])


@pytest.mark.slow
def test_language_model_users_teach_too(tmp_path):
    changes = [
        "recommenders=[{name: slate-pg, epochs: 0, dim: 8}, popularity]", "training.num_envs=3", "training.turns=2",
        "training.iterations=1", "training.evaluate_users=2", "training.held_out=0.001", "episode=session",
    ]  # fmt: skip
    told = train_policy(load_scenario("llm_quickstart", changes), tmp_path / "out")
    assert set(told["held_out"]) == {"slate-pg", "popularity", START}, "nobody can ask them for the truth"
