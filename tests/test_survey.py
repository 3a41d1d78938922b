"""Surveys of populations: who is asked about what, that asking changes nothing, and users whose answers are known."""

import numpy as np
import pandas as pd
import pytest

from recsim_env.draws import Draws
from recsim_env.experiments.studies.conformity import measure
from recsim_env.graphs import Graph
from recsim_env.interfaces import Opinions
from recsim_env.records import Judgement
from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario
from recsim_env.survey import Survey

SOCIAL = {
    "name": "asked",
    "days": 8,
    "slate_size": 5,
    "history_length": 20,
    "users": {"count": 150, "appeal": -1.0},
    "population": {
        "graph": "watts-strogatz", "degree": 8, "chat": 0.3, "post": 0.7, "conformity": 0.4, "survey": 12,
    },
    "recommenders": ["popularity"],
}  # fmt: skip


class Sayers:
    """Users who give item i the mark 1 + i % 5, all of them 5 once something was heard, and watch it by its number."""

    def __init__(self):
        self.heard = False
        self.asked = []

    def judge(self, rows, items):
        self.asked.append((rows, items))
        marks = np.eye(5)[np.full(len(items), 4) if self.heard else items % 5]
        return Judgement(items.astype(np.float32) + 100 * rows, marks, np.zeros(len(rows), np.bool_))


def survey(make_world, size=6):
    catalog = make_world().dataset.catalog
    minds = Sayers()
    return Survey(minds, 4, catalog, Draws(0), size), minds, catalog


def test_the_panel_is_the_same_for_all_and_little_known(make_world):
    asked, _, catalog = survey(make_world)
    assert len(set(asked.panel.tolist())) == 6
    assert catalog.popularity[asked.panel].max() <= np.median(catalog.popularity)
    tastes, answers = asked.tastes()
    np.testing.assert_allclose(tastes, np.tile(asked.panel - asked.panel.mean(), (4, 1)), atol=1e-4)
    assert len(answers["user"]) == 24
    assert np.isnan(answers["trace_before"]).all()
    np.testing.assert_array_equal(answers["trace_mark"], 1 + answers["item"] % 5)


def told():
    user, to, item = np.array([0, 1, 1]), np.array([-1, 0, 2]), np.array([7, 8, 7])
    return Opinions(user, to, item, np.full(3, 4.0, np.float32), np.full(3, 0.5, np.float32))


def test_those_who_hear_are_asked_before_and_after_of_all_that_is_spoken_of(make_world):
    asked, minds, _ = survey(make_world)
    friends = Graph.of(np.array([0, 0, 1]), np.array([1, 2, 2]), 4)

    def hear():
        minds.heard = True

    answers = asked.opinions(3, told(), friends, hear)
    found = pd.DataFrame(answers).sort_values(["user", "item"])
    assert list(zip(found["user"], found["item"], found["heard"], strict=True)) == [
        (0, 7, 0), (0, 8, 1), (1, 7, 1), (1, 8, 0), (2, 7, 2), (2, 8, 0),
    ]  # fmt: skip
    np.testing.assert_array_equal(found["trace_before"], 1 + found["item"] % 5)
    assert (found["trace_mark"] == 5).all()
    few, _, _ = survey(make_world, size=1)
    found = pd.DataFrame(few.opinions(3, told(), friends, hear))
    assert (found["heard"] > 0).all(), "what a user hears of comes first"
    assert len(found) == 3
    assert few.opinions(4, Opinions.none(), friends, hear) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load_run(run_scenario(load_scenario(SOCIAL), tmp_path_factory.mktemp("runs") / "asked"))


def test_asking_changes_nothing(run, tmp_path):
    quiet = load_run(run_scenario(load_scenario(SOCIAL, ["population.survey=0"]), tmp_path / "quiet"))
    for name in ("impressions", "turns", "sessions", "opinions"):
        pd.testing.assert_frame_equal(run.table(name), quiet.table(name))
    assert not len(quiet.surveys)


def test_the_panel_is_asked_before_the_first_day_and_every_evening(run):
    panel = run.surveys[run.surveys["trace_before"].isna()]
    assert sorted(panel["day"].unique()) == list(range(-1, 8))
    assert (panel.groupby(["day", "user"])["item"].nunique() == 12).all()
    first = panel.pivot(index=["user", "item"], columns="day", values="trace_watch")
    assert first.corr().to_numpy().min() > 0.95  # tastes do not drift here, but users tire of genres
    assert run.population["trace_divide"].std() < 0.05


def test_the_survey_finds_the_conformity_that_is_set(run, tmp_path):
    """Of a film on which users had not thought yet, n opinions close 1 - .6^n of the gap, as stars can show it."""
    found = measure(run)
    closed = found.series["closed"]
    assert closed[:2] == pytest.approx([0.4, 0.64], abs=0.1)
    assert found.series["deviation"][0] < 1e-6 < found.series["deviation"][1]
    own = load_run(run_scenario(load_scenario(SOCIAL, ["population.conformity=0"]), tmp_path / "own"))
    assert measure(own).outcomes["gap closed"] == pytest.approx(0.0, abs=1e-6)
