"""Language-model users in whole runs: rows, replay, kill and resume, failures, social life, the report."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from recsim_env.build import World
from recsim_env.errors import EngineError, RecsimError, ScenarioError
from recsim_env.evaluation.story import tell_days, tell_person
from recsim_env.experiments.studies.conformity import measure as measure_conformity
from recsim_env.interfaces import Config
from recsim_env.registry import embedders, engines
from recsim_env.report import write_report
from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario

SMALL = {
    "name": "talk",
    "days": 2,
    "slate_size": 4,
    "history_length": 10,
    "max_turns": 4,
    "users": {"model": "llm", "count": 8},
    "recommenders": ["popularity", "uniform"],
    "engine": {"name": "scripted", "embedder": "letters"},
}
TABLES = ("impressions", "turns", "sessions")
CALLS = {"n": 0, "kill_after": None, "bad": False}


@pytest.fixture(autouse=True)
def scripted(world, monkeypatch):
    """The scripted engine under a name, counting its calls; it can be killed and can turn bad."""

    class Named(world.ScriptedEngine):
        config_class = Config

        def __init__(self, config):
            super().__init__(writes=lambda r: "no JSON" if CALLS["bad"] else None)

        def choose(self, requests):
            CALLS["n"] += 1
            if CALLS["kill_after"] is not None and CALLS["n"] > CALLS["kill_after"]:
                raise KeyboardInterrupt
            return super().choose(requests)

    CALLS.update(n=0, kill_after=None, bad=False)
    monkeypatch.setitem(engines._entries, "scripted", Named)
    monkeypatch.setitem(embedders._entries, "letters", world.LetterEmbedder)


def tables(path):
    run, found = load_run(path), {}
    keys = ["recommender", "seed", "day", "session", "turn", "user", "position"]
    for name in TABLES:
        frame = run.table(name)
        for column in frame.select_dtypes("category"):
            frame[column] = frame[column].astype(str)
        found[name] = frame.sort_values([k for k in keys if k in frame], kind="stable").reset_index(drop=True)
    found["messages"] = pd.DataFrame(run.messages)
    return found


def assert_same(a, b):
    for name in a:
        pd.testing.assert_frame_equal(a[name], b[name])


@pytest.fixture
def run(tmp_path):
    return run_scenario(load_scenario(SMALL), tmp_path / "first")


def test_a_run_logs_words_thoughts_and_what_the_engine_did(run):
    found, manifest = tables(run), load_run(run).manifest
    assert manifest["status"] == "complete"
    engine = manifest["engine"]
    assert engine["name"] == "scripted"
    assert engine["model"] == "scripted"
    assert engine["calls"] > 0
    assert engine["failures"] == 0
    assert engine["users"]["asked"]["watch"] == len(found["impressions"])
    assert engine["users"]["prompts"]["watch"].startswith("1-")
    turns = found["turns"]
    assert turns["trace_thoughts"].notna().any()
    assert not turns["trace_fallback"].any()
    assert found["impressions"]["comment"].notna().any()
    assert set(found["messages"]["kind"]) >= {"search", "instruct"}
    heard = turns["message"].notna()
    assert heard.any()
    page = write_report([load_run(run)], None)
    assert "popularity" in page.read_text()


def test_a_replay_gives_identical_rows_without_the_model(run, tmp_path):
    n = CALLS["n"]
    again = run_scenario(
        load_scenario(SMALL, ["engine.name=replay", f"engine.replies={run}", "engine.model=scripted"]), tmp_path / "b"
    )
    assert CALLS["n"] == n
    assert_same(tables(run), tables(again))
    with pytest.raises(EngineError, match="holds no reply"):
        run_scenario(
            load_scenario(SMALL, ["seed=5", "engine.name=replay", f"engine.replies={run}", "engine.model=scripted"]),
            tmp_path / "c",
        )


@pytest.mark.parametrize("kill_after", [1, 17, 60])
def test_a_killed_run_goes_on_from_its_stored_replies(run, tmp_path, kill_after):
    total = CALLS["n"]
    CALLS.update(n=0, kill_after=kill_after)
    with pytest.raises(KeyboardInterrupt):
        run_scenario(load_scenario(SMALL), tmp_path / "killed")
    assert load_run(tmp_path / "killed").manifest["status"] == "interrupted"
    CALLS.update(n=0, kill_after=None)
    run_scenario(load_scenario(SMALL), tmp_path / "killed", resume=True)
    assert CALLS["n"] <= total - kill_after  # only what was never answered is asked
    assert_same(tables(run), tables(tmp_path / "killed"))


def test_too_many_failures_fail_the_run_and_it_can_go_on(tmp_path):
    CALLS["bad"] = True
    with pytest.raises(EngineError, match="max_failure_share"):
        run_scenario(load_scenario(SMALL), tmp_path / "bad")
    manifest = load_run(tmp_path / "bad").manifest
    assert manifest["status"] == "failed"
    assert manifest["engine"]["users"]["failed"]["words"] > 0
    with pytest.raises(EngineError, match="max_failure_share"):  # the stored bad replies are no way round the limit
        run_scenario(load_scenario(SMALL), tmp_path / "bad", resume=True)
    run_scenario(load_scenario(SMALL, ["engine.max_failure_share=1"]), tmp_path / "bad", resume=True)
    found = tables(tmp_path / "bad")
    assert found["turns"]["trace_fallback"].any()
    assert not found["turns"]["next_message"].notna().any()
    assert load_run(tmp_path / "bad").manifest["status"] == "complete"


def test_batch_size_changes_nothing(run, tmp_path):
    other = run_scenario(load_scenario(SMALL, ["batch_size=3"]), tmp_path / "other")
    assert_same(
        {k: v for k, v in tables(run).items() if k != "messages"},
        {k: v for k, v in tables(other).items() if k != "messages"},
    )


def test_friends_talk_between_visits_and_remember_it(tmp_path):
    graph = tmp_path / "graph.csv"
    graph.write_text("user_1,user_2,closeness\n0,1,0.9\n0,2,0.1\n3,4,1\n")
    path = run_scenario(load_scenario(SMALL, [f"users.graph={graph}", "days=4"]), tmp_path / "social")
    said = [m for m in load_run(path).messages if m["kind"] in ("chat", "post")]
    assert {m["kind"] for m in said} == {"chat", "post"}
    assert {m["user"] for m in said} <= {0, 1, 2, 3, 4}
    assert all(m["turn"] == -1 and m["text"] == "You must see this one." for m in said)
    plain = run_scenario(load_scenario(SMALL, ["days=4"]), tmp_path / "alone")
    assert not [m for m in load_run(plain).messages if m["kind"] in ("chat", "post")]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (["engine.name=null"], ScenarioError, "needs a language model"),
        (["engine.name=scriptd"], RecsimError, "Did you mean 'scripted'"),
        (["engine.colour=1"], RecsimError, "setting 'colour'"),
        (["engine.embedder=leters"], RecsimError, "Did you mean 'letters'"),
        (["engine.embedder={name: letters, colour: 1}"], RecsimError, "setting 'colour'"),
        (["users.decide=pairwise"], ScenarioError, "decide"),
        (["engine.max_failure_share=2"], ScenarioError, "max_failure_share"),
    ],
)
def test_mistakes_are_refused_before_anything_is_loaded(change, error, message):
    with pytest.raises(error, match=message):
        World(load_scenario(SMALL, change))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\n1\n", "two columns"), ("a,b\nx,y\n", "joins no two"), ("a,b,closeness\n0,1,-1\n", "above 0")],
)
def test_bad_graphs_are_refused(tmp_path, text, message):
    graph = tmp_path / "graph.csv"
    graph.write_text(text)
    with pytest.raises(ScenarioError, match=message):
        World(load_scenario(SMALL, [f"users.graph={graph}"])).simulator(0)


def test_the_only_difference_to_behavioural_users_is_the_model(run, tmp_path):
    other = run_scenario(load_scenario(SMALL, ["users.model=behavioral", "engine={}"]), tmp_path / "behavioural")
    assert json.loads((other / "manifest.json").read_text())["engine"]["calls"] == 0
    for name in TABLES:
        assert list(tables(run)[name].columns) == list(tables(other)[name].columns)
    page = write_report([load_run(run), load_run(other)], tmp_path / "both.html")
    assert page.exists()
    assert np.isfinite(tables(run)["turns"]["reward"]).all()


def test_every_recommender_serves_them(tmp_path):
    from recsim_env.registry import recommenders

    names = [name for name in recommenders.names() if recommenders.get(name).__module__.startswith("recsim_env.")]
    assert len(names) >= 6
    quick = {"dim": 8, "epochs": 1, "max_length": 10}
    settings = {
        "sasrec": quick,
        "rsllm": {"size": "tiny", "epochs": 1, "stage1_epochs": 1, "history": 4, "sasrec": quick},
    }
    sections = [{"name": name, **settings.get(name, {})} for name in names]
    changes = ["users.count=3", "days=1", "max_turns=2", "data.min_ratings=20"]
    found = tables(run_scenario(load_scenario({**SMALL, "recommenders": sections}, changes), tmp_path / "all"))
    assert set(found["turns"]["recommender"]) == set(names)
    assert (found["turns"].groupby("recommender")["user"].nunique() == 3).all()


def test_a_population_of_users_with_a_language_model(tmp_path):
    social = {"graph": "homophilous", "degree": 4, "members": 0.5, "arrivals": 2}
    path = run_scenario(load_scenario({**SMALL, "population": social}), tmp_path / "run")
    run = load_run(path)
    assert (run.sessions[run.sessions["day"] == 0].groupby("recommender", observed=True)["user"].nunique() == 4).all()
    said = [m for m in run.messages if m["kind"] in ("chat", "post")]
    days = run.population
    assert days["chats"].sum() + days["posts"].sum() == len(said) > 0
    assert days["heard"].sum() == sum(len(m["to"]) for m in said)
    assert days.groupby("recommender", observed=True)["new"].sum().tolist() == [2, 2]
    ties = set(run.friends[["user", "friend"]].itertuples(index=False, name=None))
    assert all((m["user"], to) in ties for m in said for to in m["to"])
    assert not len(run.surveys)
    spoken_of = {(m["recommender"], m["day"], m["user"], m["item"], m["stars"]) for m in said if "item" in m}
    columns = ["recommender", "day", "user", "item", "stars"]
    assert set(run.opinions[columns].itertuples(index=False, name=None)) == spoken_of
    marked = run.impressions.rename(columns={"rating": "stars"})
    assert spoken_of <= set(marked[columns].itertuples(index=False, name=None))


SOCIAL = {
    **SMALL,
    "days": 4,
    "users": {"model": "llm", "count": 10},
    "population": {"graph": "watts-strogatz", "degree": 4, "survey": 6},
    "recommenders": ["popularity"],
}


def conforming(request):
    """Marks are the friends' mean as far as one was heard, else 1; everybody posts, and watches every other film."""
    text = request.messages[-1]["content"].rpartition("\n\n")[2]
    told = re.search(r"\(You heard of it from (?:a friend|\d friends): mark ([\d.]+) on average\.\)", text)
    marks = np.eye(12)[1 + (round(float(told[1])) if told else 1 + request.key.user % 3)]
    watch = (request.key.item % 2, 1 - request.key.item % 2)
    return {"stars": marks, "watch": watch, "social": (0, 0, 1)}.get(request.key.purpose.partition("~")[0])


@pytest.fixture
def followers(world, monkeypatch):
    """The scripted engine with users who give the marks that friends gave."""

    class Conforming(world.ScriptedEngine):
        config_class = Config

        def __init__(self, config):
            super().__init__(conforming)

        def choose(self, requests):
            CALLS["n"] += 1
            if CALLS["kill_after"] is not None and CALLS["n"] > CALLS["kill_after"]:
                raise KeyboardInterrupt
            return super().choose(requests)

    monkeypatch.setitem(engines._entries, "scripted", Conforming)


def test_conformity_of_users_with_a_language_model_is_found(followers, tmp_path):
    found = measure_conformity(load_run(run_scenario(load_scenario(SOCIAL), tmp_path / "run")))
    assert found.outcomes["gap closed"] == pytest.approx(1.0, abs=0.1)  # marks are whole, means are not
    deaf = load_run(run_scenario(load_scenario(SOCIAL, ["users.hears=false"]), tmp_path / "deaf"))
    assert len(deaf.opinions) > 10
    assert measure_conformity(deaf).outcomes["gap closed"] == 0.0


def test_a_killed_population_of_users_with_a_language_model_goes_on(followers, tmp_path, assert_same_runs):
    whole = run_scenario(load_scenario(SOCIAL), tmp_path / "whole")
    CALLS.update(n=0, kill_after=60)
    with pytest.raises(KeyboardInterrupt):
        run_scenario(load_scenario(SOCIAL), tmp_path / "killed")
    CALLS.update(n=0, kill_after=None)
    killed = run_scenario(load_scenario(SOCIAL), tmp_path / "killed", resume=True)
    others = run_scenario(load_scenario(SOCIAL, ["batch_size=3"]), tmp_path / "batches")
    assert len(load_run(whole).surveys)
    assert_same_runs(whole, killed)
    assert_same_runs(whole, others)


def test_words_are_shown_once_with_the_film_that_they_are_about(followers, tmp_path):
    run = load_run(run_scenario(load_scenario(SOCIAL), tmp_path / "run"))
    told = run.opinions.iloc[0]
    day = tell_days(run, tell_person(run, ("popularity", 0), int(told["user"])), range(4))[int(told["day"])]
    (own,) = [talk for talk in day.talks if talk.own]
    title = run.items["title"].iloc[int(told["item"])]
    assert own.text == f"You must see this one. ({title}: {told['stars']:g})"
