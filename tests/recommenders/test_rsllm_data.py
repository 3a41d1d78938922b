"""LLaRA's data as the benchmark reads them: baselines come out as they were measured elsewhere, and it runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recsim_env.draws import Draws
from recsim_env.recommenders.cooccurrence import Cooccurrence, CooccurrenceConfig
from recsim_env.testing import observations

pytestmark = pytest.mark.realdata
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DATA = Path(os.environ.get("RECSIM_DATA", "../shared/data"))


@pytest.fixture(scope="module")
def folder():
    if not (DATA / "llara-lastfm").is_dir():
        if "RECSIM_DATA" in os.environ:
            pytest.fail(f"RECSIM_DATA is set, but {DATA / 'llara-lastfm'} is absent")
        pytest.skip(f"{DATA / 'llara-lastfm'} is absent; set RECSIM_DATA")
    return DATA


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _rsllm_data
    import _rsllm_measure

    return _rsllm_data, _rsllm_measure


def test_fixed_candidates(folder, parts):
    data, measure = parts
    world = data.lastfm(folder / "llara-lastfm")
    assert (world.train.n_users, world.train.n_items, len(world.train.ratings)) == (976, 4606, 50_800)
    cases = world.fixed
    assert cases.candidates.shape == (2767, 20)
    assert (cases.candidates == cases.target[:, None]).sum(axis=1).tolist() == [1] * 2767
    assert len(np.unique(cases.user)) == 122
    popular = world.train.catalog.popularity[cases.candidates]
    assert measure.hits(popular, cases.place).mean() == pytest.approx(0.231, abs=0.01)
    made = Cooccurrence(CooccurrenceConfig(window=10))
    made.fit(world.train, Draws(0))
    rows = [row[row < 4606].tolist() for row in cases.history]
    scores = made.scores(observations(world.train, rows, history_length=10))
    found = measure.hits(np.take_along_axis(scores, cases.candidates, axis=1), cases.place)
    assert found.mean() == pytest.approx(0.713, abs=0.01)


def test_movielens_users_are_told_apart(folder, parts):
    data, _ = parts
    world = data.movielens(folder / "llara-movielens", folder / "ml-100k")
    assert {name: len(cases.target) for name, cases in world.last_only.items()} == {"val": 94, "test": 95}
    assert len(np.unique(world.train.ratings.user_index)) == 754
    assert world.train.ratings.rating.min() == 3


def test_drawn_candidates(parts):
    data, measure = parts
    history = np.array([[60, 60, 3, 4], [60, 1, 2, 3]])
    cases = data.Cases(history, np.array([5, 0]))
    drawn = data.drawn_candidates(cases, 60, Draws(1), size=40)
    for row, past, target in zip(drawn.candidates, history, cases.target, strict=True):
        assert target in row
        assert len(set(row)) == 40
        assert not set(row) & set(past)
    scores = np.eye(60)[[5, 1]]
    mean, deviation = measure.last_only({"made up": scores}, cases, 5)["made up"]
    assert mean == pytest.approx(0.5 + 0.5 * 0.05)  # the second row's are all equal: a chance of one in twenty
    assert deviation == pytest.approx(0, abs=0.02)


def test_cross_fitted_weights_find_the_better_part(parts):
    data, measure = parts
    rng = np.random.default_rng(0)
    place = rng.integers(0, 5, 400)
    good = rng.normal(size=(400, 5))
    good[np.arange(400), place] += 2.0
    cases = data.Cases(np.zeros((400, 1), int), place, np.tile(np.arange(5), (400, 1)), np.arange(400) // 4)
    scores, weights = measure.fused({"good": good, "noise": rng.normal(size=(400, 5))}, ["good", "noise"], cases)
    assert weights[0] > 1
    assert abs(weights[1]) < 0.3
    assert measure.hits(scores, place).mean() > 0.7
    assert measure.hits(np.zeros((400, 5)), place).mean() == pytest.approx(0.2)


@pytest.mark.slow
def test_the_benchmark_runs(folder, tmp_path):
    command = [sys.executable, str(BENCHMARKS / "rsllm.py"), "--quick", "--results", str(tmp_path)]
    command += ["--lastfm", str(folder / "llara-lastfm"), "--movielens", str(folder / "llara-movielens")]
    command += ["--keep", str(tmp_path / "kept")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "rsllm.md").read_text()
    assert "ValidRatio 1.000" in text
    assert "| MovieLens val | MovieLens test | LastFM val | LastFM test |" in text
    again = subprocess.run([*command, "--ablations"], capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "main row" not in again.stdout  # what was kept is not trained again
    assert "| shuffled IDs |" in (tmp_path / "rsllm.md").read_text()
