"""Studies: what they measure on tables made by hand, intervals, and the command from end to end."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from recsim_env.errors import RecsimError, RunFolderError, UnknownNameError
from recsim_env.evaluation.bootstrap import over_seeds
from recsim_env.experiments.studies.base import STUDIES, Arm, Claim, Measured, Panel, Study, get_study
from recsim_env.experiments.studies.cold_start import exposure_by_age
from recsim_env.experiments.studies.cold_start import measure as measure_cold_start
from recsim_env.experiments.studies.conformity import asked_before_and_after, stars_and_opinions
from recsim_env.experiments.studies.conformity import measure as measure_conformity
from recsim_env.experiments.studies.diffusion import cascades, steps_and_roots
from recsim_env.experiments.studies.diffusion import measure as measure_diffusion
from recsim_env.experiments.studies.figure import plot
from recsim_env.experiments.studies.filter_bubble import entropy_of_last
from recsim_env.experiments.studies.popularity_loop import last_films
from recsim_env.experiments.studies.popularity_loop import measure as measure_loop
from recsim_env.experiments.studies.realism import measure as measure_realism
from recsim_env.experiments.studies.results import markdown, summary
from recsim_env.experiments.studies.run import run_study
from recsim_env.rundir import load_run
from recsim_env.scenario import load_scenario

TINY = ["users.count=30", "days=6"]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_names_what_exists(name):
    study = get_study(name)
    assert study.name == name
    arms = [arm.name for arm in study.arms]
    assert len(set(arms)) == len(arms) > 1
    for claim in study.claims:
        assert {claim.arm, claim.control} <= set(arms)
        assert claim.arm != claim.control
        assert claim.outcome in study.outcomes
    fingerprints = {load_scenario(study.scenario, arm.overrides).fingerprint() for arm in study.arms}
    assert len(fingerprints) == len(arms)  # every arm changes something


def test_an_unknown_study_is_told_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'polarisation'"):
        get_study("polarization")


def test_entropy_of_the_last_ten_films():
    genres = np.eye(2, dtype=bool)
    item = np.array([0] * 10 + [1] * 10 + [0] * 3)
    user = np.array([0] * 20 + [1] * 3)
    day = np.array([0] * 10 + [2] * 5 + [4] * 5 + [0] * 3)
    found = entropy_of_last(user, day, item, genres, 2, 6)
    assert found[0].tolist() == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]  # ten of one, half and half, ten of the other
    assert np.isnan(found[1]).all()


def test_the_last_ten_films():
    user = np.array([1] * 4 + [0] * 9 + [1] * 7 + [2] * 10)
    who, item = last_films(user, np.arange(30), 4)
    assert who.tolist() == [1] * 10 + [2] * 10  # user 0 has watched nine, user 3 nothing
    assert item.tolist() == [1, 2, 3, *range(13, 20), *range(20, 30)]


@pytest.mark.parametrize(("same", "gini", "overlap"), [(True, 0.75, 1.0), (False, 0.0, 0.0)])
def test_what_all_watch_is_concentrated_and_overlaps(same, gini, overlap):
    """Four users watch ten films a day of forty: all the same ten, or everybody its own."""
    day, user, place = (a.ravel() for a in np.mgrid[0:3, 0:4, 0:10])
    item = place if same else 10 * user + place
    shown = pd.DataFrame({"day": day, "session": 0, "turn": 0, "user": user, "position": place, "item": item})
    shown["clicked"] = True
    found = measure_loop(
        SimpleNamespace(
            manifest={"scenario": {"days": 3}},
            users=[None] * 4,
            items=[None] * 40,
            friends=pd.DataFrame({"user": [0, 1], "friend": [1, 0]}),
            table=lambda name, columns: shown,
        )
    )
    assert found.outcomes["overlap, like-minded"] == found.outcomes["overlap, any two"] == overlap
    assert found.outcomes["clicks per page"] == 10.0
    # The latest clicks, five for each user, are those of users 2 and 3: ten films or twenty.
    assert found.outcomes["Gini of clicks"] == pytest.approx(gini if same else 0.5)


def told_run(conforming):
    """Users 0 and 1 know each other and 2 knows 0; user 0 posts on film 5, then 1 tells 0 of film 6."""
    ties = pd.DataFrame({"user": [0, 0, 1, 2], "friend": [1, 2, 0, 0], "closeness": 1.0})
    said = pd.DataFrame(
        {"day": [1, 1, 3], "user": [0, 1, 2], "to": [-1, 0, -1], "item": [5, 6, 5], "stars": [9.0, 2.0, 1.0]}
    ).assign(valence=1.0)
    own = np.array([5.0, 5.0, 5.0, 5.0])
    star = np.array([7.0, 5.0, 5.0, 5.0]) if conforming else own
    shown = pd.DataFrame(
        {"user": [1, 1, 2, 0], "day": [2, 1, 2, 3], "item": [5, 5, 6, 5], "rating": star, "trace_expected_rating": own}
    )
    return SimpleNamespace(opinions=said, friends=ties, surveys=[], table=lambda name, columns: shown)


def test_opinions_count_when_they_were_heard_before():
    found = stars_and_opinions(told_run(True))
    assert found["n"].tolist() == [1, 0, 0, 0]  # later, of another film, on the same day: not heard
    assert found["friends"].iloc[0] == 9.0
    assert found["star"].tolist() == [7.0, 5.0, 5.0, 5.0]


def test_the_share_of_the_gap_that_is_closed():
    assert measure_conformity(told_run(True)).outcomes["gap closed"] == pytest.approx(0.5)
    assert measure_conformity(told_run(False)).outcomes["gap closed"] == 0.0


def test_exposure_in_equal_shares_by_age():
    """Items 0 to 2 are there from the start; 3 comes out on day 1, 4 on day 3, 5 on day 4, 6 never."""
    released = np.array([0, 0, 0, 1, 3, 4, 6])
    shown = np.ones((7, 6)) * (np.arange(6) >= released[:, None])
    np.testing.assert_allclose(exposure_by_age(shown, released), [1.0] * 3 + [np.nan] * 3)
    shown[3, 1:4] = 0, 4, 10  # of 3, 7 and 14 impressions of four, four and five items
    shown[4, 3:6] = 1, 0, 2  # of 14, 5 and 7 of five, six and six
    expected = [(0 + 1 / 2.8) / 2, (4 / 1.75 + 0) / 2, (10 / 2.8 + 2 / (7 / 6)) / 2]
    np.testing.assert_allclose(exposure_by_age(shown, released)[:3], expected)
    shown[:, 1] = 0  # nobody came on day 1
    np.testing.assert_allclose(exposure_by_age(shown, released)[0], 1 / 2.8)
    assert np.isnan(exposure_by_age(shown, np.zeros(7, int))).all()


def test_creators_and_clicks_are_counted():
    page = pd.DataFrame({"day": [0, 0, 1, 1], "item": [0, 1, 2, 3], "clicked": [True, False, True, False]})
    people = pd.DataFrame(
        {"day": [0, 0, 1, 1], "creator": [0, 1, 0, 1], "active": [True, True, False, True], "shown": [2, 0, 1, 0]}
    )
    run = SimpleNamespace(
        manifest={"scenario": {"days": 2, "slate_size": 2}}, items=range(3), creators=people,
        releases=pd.DataFrame({"day": [0, 0, 1], "item": [0, 1, 2]}), table=lambda name, columns: page,
    )  # fmt: skip
    found = measure_cold_start(run)
    assert found.series["active"] == [1.0, 0.5]
    assert found.series["clicks"] == [1.0, 1.0]
    assert found.series["age"][0] == pytest.approx(1 / (1 / 3))  # one new item, one impression, three items
    assert found.outcomes["creators"] == 0.5
    assert found.outcomes["gini"] == 0.5
    assert found.outcomes["new items out"] == 1
    assert found.outcomes["clicks"] == 1.0


def test_steps_and_roots_of_a_forest():
    depth, root = steps_and_roots(np.array([0, 0, 1, 2, 4, 0]))
    assert depth.tolist() == [0, 1, 2, 3, 0, 1]
    assert root.tolist() == [0, 0, 0, 0, 4, 0]


def spread_run():
    """A chain 0-1-2-3: user 0 watches film 7 and posts, 1 watches, chats with 2, who watches; 3 was blamed to."""
    ties = pd.DataFrame({"user": [0, 1, 1, 2, 2, 3], "friend": [1, 0, 2, 1, 3, 2], "closeness": 1.0})
    said = pd.DataFrame({"day": [0, 2, 4, 6], "user": [0, 1, 2, 1], "to": [-1, 2, 3, 0], "item": 7, "stars": 9.0})
    said["valence"] = [0.8, 0.5, -0.5, 1.0]
    shown = pd.DataFrame({"user": [0, 1, 2, 3, 2, 1], "day": [0, 2, 3, 6, 5, 1], "item": [7, 7, 7, 7, 7, 8]})
    shown["clicked"] = [True] * 5 + [False]
    return SimpleNamespace(opinions=said, friends=ties, table=lambda name, columns: shown)


def test_cascades_follow_praise_heard_before():
    depth, root = cascades(spread_run())
    assert depth.tolist() == [0, 1, 2, 0]  # user 3 heard no praise; watching again counts once
    assert root.tolist() == [0, 0, 0, 3]
    found = measure_diffusion(spread_run())
    assert found.outcomes == {
        "watched after praise": 0.5, "cascade size": 2.0, "largest cascade": 3.0, "deepest cascade": 2.0,
    }  # fmt: skip
    assert found.series["size"][:3] == [0.5, 0.5, 0.0]
    assert found.series["depth"][:3] == [0.5, 0.25, 0.0]


def test_prices_are_those_of_a_page():
    shown = pd.DataFrame(
        {
            "recommender": ["uniform"] * 4 + ["ease"] * 2,
            "position": [0, 1] * 3,
            "item": [0, 1, 2, 2, 0, 0],
            "clicked": [True, False, False, False, True, True],
            "rating": [np.nan] * 5 + [8.0],
        }
    )
    engine = {"prompt_tokens": 600, "cached_tokens": 450, "generated_tokens": 30}
    cells = [
        {"recommender": "uniform", "n_turns": 2, "cpu_seconds": 4.0, "engine": engine},
        {"recommender": "ease", "n_turns": 1, "cpu_seconds": 0.5, "engine": engine},
    ]
    items = pd.DataFrame({"categories": [["A"], ["B"], ["A", "B"]]})
    run = SimpleNamespace(items=items, manifest={"cells": cells}, table=lambda name, columns: shown[columns])
    found = measure_realism(run)
    assert found.series == {"films": [0.5, 2.0], "variety": [1.0, 0.0], "seconds": [2.0, 0.5]}
    assert found.outcomes == {
        "films, EASE over random": 4.0, "films, EASE less random": 1.5, "genres, EASE less random": -1.0, "films": 2.0,
        "mark": 8.0, "seconds": 1.5, "tokens read": 400.0, "tokens computed": 100.0, "tokens written": 20.0,
    }  # fmt: skip


def test_intervals_are_those_of_students_t():
    values = [0.3, 0.1, 0.4, 0.2, 0.6]
    mean, low, high = over_seeds(values)
    t = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([mean, low, high], [np.mean(values), t.low, t.high])
    mean, low, _ = over_seeds([[1.0, np.nan], [3.0, np.nan]])
    assert mean[0] == 2.0
    assert np.isnan(mean[1])
    assert np.isnan(over_seeds([1.0])[1])


def toy(n_arms=3):
    arms = tuple(Arm(f"arm{i}", f"a way that takes some words to tell, number {i}") for i in range(n_arms))
    panels = (Panel("a", "First", "Day", "Share"), Panel("b", "Second", "Heard", "Stars", ("0", "1", "2 or more")))
    claims = tuple(Claim("x", "arm0", f"arm{i}", +1) for i in range(1, n_arms))
    return Study("toy", "Does it?", "quickstart", arms, panels, {"x": "of nothing"}, claims, lambda run: None)


def record(study, noise=0.1):
    rng = np.random.default_rng(0)
    measured = {
        arm.name: [
            Measured({"a": rng.random(30).tolist(), "b": [float("nan"), 1.0, 2.0]}, {"x": noise * rng.random() - i})
            for _ in range(5)
        ]
        for i, arm in enumerate(study.arms)
    }
    told = {"arms": {a.name: {"label": a.label, "overrides": []} for a in study.arms}, "seeds": list(range(5))}
    return {**told, **summary(study, measured)}


def test_verdicts():
    study = toy()
    clear, loud = record(study), record(study, noise=50.0)
    assert [c["verdict"] for c in clear["claims"]] == ["as expected", "as expected"]
    assert {c["verdict"] for c in loud["claims"]} == {"not told apart from 0"}
    turned = Study(**{n: getattr(study, n) for n in study.__slots__} | {"claims": (Claim("x", "arm2", "arm0", +1),)})
    assert record(turned)["claims"][0]["verdict"] == "the opposite"
    assert "the opposite" in markdown(turned, record(turned))
    json.dumps(clear, allow_nan=False)


@pytest.mark.parametrize("n_arms", [2, 5])
def test_the_figure_names_its_axes_and_nothing_overlaps(n_arms):
    figure = plot(toy(n_arms), record(toy(n_arms)))
    figure.canvas.draw()
    boxes = [ax.get_tightbbox() for ax in figure.axes] + [figure.legends[0].get_window_extent()]
    assert [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes] == [("Day", "Share"), ("Heard", "Stars")]
    for i, a in enumerate(boxes):
        assert a.x0 >= 0
        assert a.x1 <= figure.bbox.x1
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])


def command(*words, folder=None, **more):
    asked = [sys.executable, "-m", "recsim_env.cli", *map(str, words)]
    return subprocess.run(asked, capture_output=True, text=True, timeout=300, cwd=folder, check=False, **more)


def test_the_command_from_end_to_end(tmp_path):
    words = ["study", "conformity", "--seeds", "2", "--out", tmp_path / "s", "-q", *(f"--set={o}" for o in TINY)]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert "friends minus no sway" in done.stdout
    assert str(tmp_path / "s") in done.stdout.replace("\n", "")
    found = json.loads((tmp_path / "s" / "study.json").read_text())
    assert found["status"] == "complete"
    assert [len(runs) for runs in found["measured"].values()] == [2, 2, 2]
    assert {p.name for p in (tmp_path / "s").iterdir()} >= {"study.json", "study.md", "study.png", "runs"}
    run = load_run(tmp_path / "s" / "runs" / "shuffled" / "seed1")
    assert run.manifest["status"] == "complete"
    assert len(run.population) == 6
    refused = command(*words, "--set=days=7")
    assert refused.returncode == 2
    assert "another scenario" in refused.stderr


def test_a_study_with_a_failed_run_tells_it(tmp_path):
    with pytest.raises(RecsimError, match=r"3 of 3 runs failed; friends, seed 0.*no\.csv.*with the same --out"):
        run_study(get_study("conformity"), [0], tmp_path / "s", ["data.path=no.csv", "data.format=csv"])
    assert json.loads((tmp_path / "s" / "study.json").read_text())["status"] == "running"


def test_studies_are_listed():
    listed = command("list", "studies")
    assert all(name in listed.stdout for name in STUDIES)
    wrong = command("study", "polarization")
    assert wrong.returncode == 2
    assert "Did you mean 'polarisation'?" in wrong.stderr.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_small(name, tmp_path):
    study = get_study(name)
    small = ["users.count=4", "days=1", "max_turns=2"] if name == "realism" else ["users.count=40", "days=9"]
    path = run_study(study, [0], tmp_path / "s", small, workers=2 if name == "conformity" else 1)
    found = json.loads((path / "study.json").read_text())
    for panel in study.panels:
        for arm in study.arms:
            series = found["series"][panel.series][arm.name]["mean"]
            assert len(series) == (len(panel.ticks) or 9)
    assert all(claim["mean"] is not None for claim in found["claims"] if "three" not in claim["outcome"])


@pytest.mark.slow
def test_a_study_of_users_with_a_language_model(tmp_path):
    words = ["study", "popularity_loop", "--seeds", "1", "--out", tmp_path / "s", "-q"]
    few = ["users.model=llm", "users.count=2", "days=1", "slate_size=4", "max_turns=2"]
    done = command(*words, *(f"--set={o}" for o in few))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "s" / "study.json").read_text())
    assert found["scenario"]["users"]["model"] == "llm"
    assert found["outcomes"]["clicks per page"]["random"]["mean"] is not None
    assert found["claims"][1]["verdict"] == "nothing to measure"  # nobody is known to be like-minded
    run = load_run(tmp_path / "s" / "runs" / "daily" / "seed0")
    assert run.manifest["cells"][0]["engine"]["requests"]["choose"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conformity", "polarisation", "diffusion"])
def test_studies_of_friends_with_a_language_model(name, tmp_path):
    study = get_study(name)
    few = ["users.model=llm", "users.count=10", "days=3", "slate_size=4", "max_turns=2"]
    found = json.loads((run_study(study, [0], tmp_path / "s", few) / "study.json").read_text())
    for arm in study.arms:
        assert found["arms"][arm.name]["overrides"] == list(arm.words or arm.overrides)
    deaf = next(arm.name for arm in study.arms if arm.words)
    run = load_run(tmp_path / "s" / "runs" / deaf / "seed0")
    assert run.manifest["scenario"]["users"]["hears"] is False
    assert len(run.surveys)
    said = [claim for claim in found["claims"] if claim["mean"] is not None]
    assert said, "something was measured"


@pytest.mark.parametrize("name", ["conformity", "polarisation", "diffusion"])
def test_arms_differ_for_users_with_a_language_model_too(name):
    study = get_study(name)
    arms = [arm.words if arm.words is not None else arm.overrides for arm in study.arms]
    asked = [load_scenario(study.scenario, ["users.model=llm", *study.words, *arm]) for arm in arms]
    assert len({scenario.fingerprint() for scenario in asked}) == len(arms)
    assert not any(scenario.population.influences for scenario in asked)


def test_what_is_asked_before_and_after_counts_on_the_first_evening_only():
    """User 1 hears of film 5 on two evenings, of 6 never; user 2 is asked of nothing that it did not hear of."""
    ties = pd.DataFrame({"user": [0, 1, 0, 2], "friend": [1, 0, 2, 0], "closeness": 1.0})
    said = pd.DataFrame({"day": [1, 2], "user": 0, "to": [-1, -1], "item": [5, 5], "stars": [9.0, 3.0], "valence": 1.0})
    asked = pd.DataFrame(
        {
            "day": [-1, 1, 1, 1, 2],
            "user": [1, 1, 1, 2, 1],
            "item": [7, 5, 6, 5, 5],
            "heard": [0, 1, 0, 1, 1],
            "trace_before": [np.nan, 5.0, 4.0, 5.0, 7.0],
            "trace_mark": [3.0, 7.5, 4.5, 6.0, 5.0],
        }
    )
    run = SimpleNamespace(opinions=said, friends=ties, surveys=asked)
    found = asked_before_and_after(run)
    assert found["n"].tolist() == [1, 0]
    assert found["own"].tolist() == [5.0, 4.0]
    assert found["star"].tolist() == [7.0, 4.0]  # half a star came of hearing as such
    assert found["friends"].iloc[0] == 9.0


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path):
    words = ["study", "polarisation", "--seeds", "2", "-q", *(f"--set={o}" for o in ["users.count=40", "days=12"])]
    asked = [sys.executable, "-m", "recsim_env.cli", *words, "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(asked, env={**os.environ, "OMP_NUM_THREADS": "1"})
    runs, end = tmp_path / "killed" / "runs", time.monotonic() + 120
    while time.monotonic() < end and len(list(runs.glob("*/*/progress.json"))) < 4:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "killed" / "study.json").read_text())["status"] == "running"
    first = next(runs.glob("content/seed0/impressions.parquet/*")).stat().st_mtime_ns
    assert command(*words, "--out", tmp_path / "killed").returncode == 0
    assert next(runs.glob("content/seed0/impressions.parquet/*")).stat().st_mtime_ns == first
    assert command(*words, "--out", tmp_path / "whole", "--workers", 2).returncode == 0
    killed, whole = (json.loads((tmp_path / n / "study.json").read_text()) for n in ("killed", "whole"))
    assert killed["measured"] == whole["measured"]
    assert killed["claims"] == whole["claims"]


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds no study\.json"):
        run_study(get_study("conformity"), [0], tmp_path)
