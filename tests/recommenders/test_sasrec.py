"""SASRec: windows, masks, what it learns, and training that can be stopped."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from recsim_env.cli import app
from recsim_env.draws import Draws
from recsim_env.errors import RecsimError, RunFolderError, ScenarioError
from recsim_env.evaluation.protocols import ranked
from recsim_env.recommenders.fitting import Fitting
from recsim_env.recommenders.sasrec import (
    SASRec,
    SASRecConfig,
    SequenceEncoder,
    held_out_last,
    mean_ndcg,
    windows,
)
from recsim_env.records import Histories
from recsim_env.testing import tiny_dataset

SMALL = {"dim": 16, "heads": 2, "max_length": 10, "batch_size": 16, "learning_rate": 0.01}


def histories_of(*lists):
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype(np.int64)
    items = np.array([i for x in lists for i in x], np.int32)
    return Histories(offsets, items, np.ones(len(items), np.float32))


def cyclic(n_users=120, n_items=12, length=9):
    """Every user goes through the items in a circle, so that the next item follows from the last one."""
    data = tiny_dataset(n_users, n_items)
    r = data.ratings
    users = np.repeat(np.arange(n_users), length).astype(np.int32)
    items = ((users * 5 + np.tile(np.arange(length), n_users)) % n_items).astype(np.int32)
    times = np.tile(np.arange(length), n_users)
    made = replace(r, user_index=users, item_index=items, rating=np.full(len(users), 5, np.float32), timestamp=times)
    return data.with_ratings(made)


def test_windows_cover_every_step_once_and_never_mix_users():
    held = histories_of(range(10), [7], range(20, 23), [], range(30, 57))
    pairs = []
    for inputs, targets in windows(held, 4, 3, 99, Draws(0), 0):
        assert inputs.shape == targets.shape
        assert inputs.shape[1] <= 4
        pairs += [(a, b) for a, b in zip(inputs.ravel().tolist(), targets.ravel().tolist(), strict=True) if a != 99]
        assert not ((targets == 99) & (inputs != 99)).any()
    steps = [(a, a + 1) for first, n in ((0, 10), (20, 3), (30, 27)) for a in range(first, first + n - 1)]
    assert sorted(pairs) == sorted(steps)


def test_an_item_sees_neither_later_items_nor_padding():
    torch.manual_seed(0)
    model = SequenceEncoder(20, 8, 2, 2, 6, 0.0).eval()
    row = torch.tensor([[3, 5, 7, 9]])
    changed = torch.tensor([[3, 5, 7, 11]])
    with torch.no_grad():
        assert torch.allclose(model(row)[:, :3], model(changed)[:, :3], atol=1e-6)
        assert not torch.allclose(model(row)[:, 3], model(changed)[:, 3], atol=1e-3)
        padded = torch.tensor([[20, 20, 3, 5, 7, 9]])
        assert torch.allclose(model(padded)[:, 2:], model(row), atol=1e-6)


def test_last_items_of_some_users_are_held_out():
    held = histories_of(*[range(u, u + 4) for u in range(50)], [1, 2])
    known, users, items = held_out_last(held, 3, Draws(0))
    assert len(users) == 3
    assert (items == users + 3).all()
    assert known.lengths.sum() == held.lengths.sum() - 3
    assert (known.lengths[users] == 3).all()
    assert 50 not in users


def test_ndcg_of_one_target():
    scores = np.array([[5.0, 4, 3, 2, 1]] * 2, np.float32)
    past = histories_of([0], [0, 1])
    assert mean_ndcg(scores, past, np.array([2, 2])) == pytest.approx((1 / np.log2(3) + 1) / 2)
    assert mean_ndcg(np.zeros((1, 5), np.float32), histories_of([]), np.array([3]), k=2) == 0  # ties count against it


def test_learns_what_follows_from_the_last_item():
    data = cyclic()
    made = SASRec(SASRecConfig(**SMALL, epochs=12, dropout=0.0))
    made.fit(data, Draws(0))
    assert made.log[-1]["loss"] < made.log[0]["loss"] / 3
    top = ranked(made, data.catalog, histories_of([1, 2, 3], [8, 9], [11]), 1)[:, 0]
    assert top.tolist() == [4, 10, 0]
    assert made.item_embeddings.shape == (12, 16)


class Killed(Exception):
    pass


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    data, config = cyclic(60), SASRecConfig(**SMALL, epochs=5, patience=9)

    def fitted(fitting):
        made = SASRec(config)
        made.fitting = fitting
        made.fit(data, Draws(3))
        return made.arrays()

    def kill(progress):
        if progress.epoch == 2:
            raise Killed

    state = torch.get_rng_state()
    whole = fitted(Fitting())
    assert torch.equal(state, torch.get_rng_state()), "no global generator is touched"
    with pytest.raises(Killed):
        fitted(Fitting(tmp_path, False, kill))
    resumed = fitted(Fitting(tmp_path, True))
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(RunFolderError, match="Cannot resume"):
        fitted(Fitting(tmp_path, True))


def test_bad_settings_and_losses():
    with pytest.raises(ValueError, match="must divide dim"):
        SASRecConfig(dim=10, heads=4)
    with pytest.raises(RecsimError, match="lower learning_rate"):
        SASRec(SASRecConfig(**{**SMALL, "learning_rate": 1e30}, epochs=3)).fit(cyclic(40), Draws(0))


def test_large_catalogues_are_computed_in_parts(monkeypatch):
    data = cyclic(40)

    def weights():
        made = SASRec(SASRecConfig(**SMALL, epochs=1, dropout=0.0))
        made.fit(data, Draws(0))
        return made.item_embeddings

    whole = weights()
    monkeypatch.setattr("recsim_env.recommenders.sasrec.LOGITS", 12 * 7)
    assert np.allclose(whole, weights(), atol=1e-5)


def run(*arguments):
    command = [sys.executable, "-m", "recsim_env.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_line_trains_evaluates_and_runs_it(tmp_path):
    model = tmp_path / "model"
    fewer = ["--set", "data.min_ratings=20"]
    options = [*fewer, *(p for name, value in {**SMALL, "epochs": 2}.items() for p in ("--set", f"{name}={value}"))]
    done = run("train", "recommender", "sasrec", "--out", model, *options)
    assert done.returncode == 0, done.stderr
    assert "nDCG@10" in done.stdout
    told = json.loads((model / "training.json").read_text())
    assert told["epochs"] == 2
    assert told["settings"]["dim"] == 16
    assert (model / "curve.png").stat().st_size > 5000
    again = run("train", "recommender", "sasrec", "--out", model)
    assert again.returncode == 2
    assert "not empty" in again.stderr
    words = ["evaluate", f"sasrec={model}", "--no-baselines", *fewer, "--out", str(tmp_path / "evaluation")]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    row = json.loads((tmp_path / "evaluation/evaluation.json").read_text())["rows"][0]
    assert row["ndcg"] == pytest.approx(told["figures"]["ndcg"], abs=1e-5)
    setting = f"recommenders=[{{name: sasrec, path: '{model}', temperature: 0.5}}]"
    small = ["--set", "users.count=20", "--set", "days=1", "--set", "replications=1", "--no-report", "--quiet", *fewer]
    ran = CliRunner().invoke(app, ["run", "quickstart", "--set", setting, *small, "--out", str(tmp_path / "run")])
    assert ran.exit_code == 0, ran.output
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["cells"][0]["recommender"] == "sasrec"


def test_a_recommender_of_other_items_is_refused(tmp_path):
    from recsim_env.build import World
    from recsim_env.scenario import load_scenario

    made = SASRec(SASRecConfig(**SMALL, epochs=1))
    made.fit(cyclic(40), Draws(0))
    made.save(tmp_path)
    section = {"name": "sasrec", "path": str(tmp_path)}
    world = World(load_scenario({"recommenders": [section]}))
    with pytest.raises(ScenarioError, match="other items"):
        world.recommender(world.scenario.recommenders[0])
    with pytest.raises(ScenarioError, match="retrain_every"):
        World(load_scenario({"recommenders": [section], "retrain_every": 2}))
