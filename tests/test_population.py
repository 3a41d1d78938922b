"""Populations: who is a member, what is counted, and the promises about sameness, end to end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recsim_env.errors import RunFolderError, ScenarioError
from recsim_env.evaluation.story import tell_days, tell_person
from recsim_env.experiments.studies.heard import opinions_heard
from recsim_env.graphs import Graph
from recsim_env.interfaces import UserModel
from recsim_env.population import COLUMNS, Population, User
from recsim_env.records import SEARCH_POLICY, NextAction
from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import PopulationSection, load_scenario

SMALL = {
    "name": "small",
    "days": 6,
    "slate_size": 5,
    "history_length": 20,
    "users": {"count": 40, "appeal": -2.0},
    "recommenders": ["item-knn"],
    "retrain_every": 2,
}
SOCIAL = {
    "graph": "homophilous", "degree": 6, "members": 0.5, "arrivals": 1.5, "word_of_mouth": 0.05, "chat": 0.5,
    "post": 0.4, "sway": 1.0, "conformity": 0.3, "curiosity": 0.8, "drift": 0.2,
    "trends": 5, "buzz": 0.5, "trend_days": 2,
}  # fmt: skip


def scenario(*overrides, **population):
    return load_scenario({**SMALL, "population": {**SOCIAL, **population}}, overrides)


@pytest.fixture(scope="module")
def social(tmp_path_factory):
    return run_scenario(scenario(), tmp_path_factory.mktemp("runs") / "social")


def test_a_row_a_day_adds_up(social):
    run = load_run(social)
    days, sessions, told = run.population, run.sessions, run.opinions
    assert days["day"].tolist() == list(range(6))
    assert set(COLUMNS) < set(days.columns)
    assert days["members"].iloc[0] == 20 - days["churned"].iloc[0]
    change = days["new"].iloc[1:].to_numpy() - days["churned"].iloc[1:].to_numpy()
    assert (np.diff(days["members"]) == change).all()
    came = sessions.groupby("day")["user"].nunique().reindex(range(6), fill_value=0)
    assert (came.to_numpy() == days["came"]).all()
    churned = sessions.groupby("day")["churned"].sum().reindex(range(6), fill_value=0)
    assert (churned.to_numpy() == days["churned"]).all()
    posts = told[told["to"] < 0].groupby("day").size().reindex(range(6), fill_value=0)
    assert (posts.to_numpy() == days["posts"]).all()
    assert days["chats"].sum() == (told["to"] >= 0).sum() > 0
    degree = run.friends.groupby("user").size()
    heard = degree.reindex(told.loc[told["to"] < 0, "user"]).sum() + days["chats"].sum()
    assert days["heard"].sum() == heard
    assert days["satisfaction"].between(-1, 1).all()
    assert (days["trace_likeness"] > 0.1).all()
    assert days["new"].iloc[1:].sum() >= 7  # one and a half a day from elsewhere


def test_only_members_come_and_newcomers_come_on_the_day_they_arrive(social):
    run = load_run(social)
    first = run.sessions.groupby("user")["day"].min()
    new = run.population["new"].to_numpy()
    assert (first == 0).sum() == 20
    assert [(first == day).sum() for day in range(1, 6)] == new[1:].tolist()


def test_speakers_tell_of_what_they_watched_to_those_they_know(social):
    run = load_run(social)
    told, shown = run.opinions, run.impressions
    watched = set(shown.loc[shown["clicked"], ["user", "day", "item"]].itertuples(index=False, name=None))
    assert set(told[["user", "day", "item"]].itertuples(index=False, name=None)) <= watched
    ties = set(run.friends[["user", "friend"]].itertuples(index=False, name=None))
    assert set(told.loc[told["to"] >= 0, ["user", "to"]].itertuples(index=False, name=None)) <= ties
    rated = shown[shown["rating"].notna()].merge(told, on=["user", "day", "item"])
    assert len(rated) > 0
    assert (rated["rating"] == rated["stars"]).all()
    assert told["valence"].between(-1, 1).all()


def test_trends_are_what_was_watched_most_in_the_last_days(social):
    run = load_run(social)
    shown = run.impressions
    watched = shown[shown["clicked"]]
    for day, told in run.trends.groupby("day"):
        count = watched[watched["day"].between(day - 1, day)].groupby("item").size()
        top = count.sort_index().sort_values(ascending=False, kind="stable").head(5)
        assert told.sort_values("rank")["item"].tolist() == top.index.tolist()
        assert told.sort_values("rank")["watched"].tolist() == top.tolist()
    assert set(run.trends["day"]) == set(range(6))


def test_buzz_draws_to_the_list_of_this_morning(make_world):
    world = make_world(population={"trends": 3, "buzz": 2.0})
    simulator = world.simulator(0)
    minds, rows, items = simulator.model, np.array([0, 1, 1]), np.array([4, 4, 5])
    before = minds.judge(rows, items).log_odds
    minds.notice(0, np.array([4, 7]))
    np.testing.assert_allclose(minds.judge(rows, items).log_odds - before, [2, 2, 0], atol=1e-5)
    minds.notice(1, np.array([7]))
    np.testing.assert_array_equal(minds.judge(rows, items).log_odds, before)
    with pytest.raises(ScenarioError, match="buzz needs a list"):
        load_scenario(SMALL, ["population.buzz=1"])


def test_watching_a_user_shows_what_it_told_and_heard(social):
    run, cell = load_run(social), ("item-knn", 0)
    told, ties = run.opinions, set(run.friends[["user", "friend"]].itertuples(index=False, name=None))
    own = heard = 0
    for user in range(40):
        days = tell_days(run, tell_person(run, cell, user), range(6))
        own += sum(talk.own for day in days for talk in day.talks)
        heard += sum(not talk.own for day in days for talk in day.talks)
        mine = [m for m in told.itertuples() if m.user == user or m.to == user or (m.to < 0 and (user, m.user) in ties)]
        assert sum(len(day.talks) for day in days) == len(mine)
    assert own == len(told)
    assert heard == run.population["heard"].sum()


def test_users_look_up_what_they_heard_praised_and_have_not_watched(tmp_path):
    keen = scenario("days=12", members=1.0, post=0.5, curiosity=1.0)
    run = load_run(run_scenario(keen, tmp_path / "run"))
    title, genres = run.items["title"].astype(str), {name for row in run.items["categories"] for name in row}
    asked = run.turns[(run.turns["next_action"] == NextAction.SEARCH) & ~run.turns["next_message"].isin(genres)]
    assert len(asked) > 5
    heard, shown = opinions_heard(run), run.impressions
    shown["page"] = 10_000 * shown["day"] + 100 * shown["session"] + shown["turn"]
    for turn in asked.itertuples():
        page = 10_000 * turn.day + 100 * turn.session + turn.turn
        item = title.index[title == turn.next_message][0]
        praise = heard[(heard["receiver"] == turn.user) & (heard["item"] == item) & (heard["valence"] > 0)]
        assert praise["day"].min() < turn.day
        mine = shown[shown["user"] == turn.user]
        assert not (mine["clicked"] & (mine["item"] == item) & (mine["page"] <= page)).any()
        answer = mine[mine["page"] == page + 1]
        assert (answer["policy"] == SEARCH_POLICY).all()
        assert item in answer["item"].to_numpy()


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_changes_nothing(social, tmp_path, batch_size, assert_same_runs):
    path = run_scenario(scenario(f"batch_size={batch_size}"), tmp_path / "run")
    assert_same_runs(social, path)


def test_friends_without_sway_are_no_friends(tmp_path, assert_same_runs):
    """Talk that moves nobody leaves every choice as it is, bit by bit."""
    alone = run_scenario(load_scenario(SMALL), tmp_path / "alone")
    talk = {"graph": "watts-strogatz", "degree": 6, "chat": 0.5, "post": 0.5, "trends": 5}
    told = run_scenario(load_scenario({**SMALL, "population": talk}), tmp_path / "told")
    assert len(load_run(told).opinions) > 0
    run = load_run(alone)
    assert not len(run.opinions) + len(run.population) + len(run.friends) + len(run.trends)
    assert_same_runs(alone, told, ("impressions", "turns", "sessions"), atol=0)


@pytest.mark.parametrize("influence", ["sway", "conformity", "drift", "buzz"])
def test_every_influence_changes_something(tmp_path, influence):
    off = {"sway": 0.0, "conformity": 0.0, "drift": 0.0, "buzz": 0.0}
    a = load_run(run_scenario(scenario(**off), tmp_path / "off"))
    b = load_run(run_scenario(scenario(**{**off, influence: 0.9}), tmp_path / "on"))
    assert not a.impressions.equals(b.impressions)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, assert_same_runs):
    code = (
        "import recsim_env.runner as runner, sys\nfrom recsim_env.scenario import load_scenario\n"
        "runner.COMMIT_SECONDS = 0.0\n"
        "runner.run_scenario(load_scenario(sys.argv[1]), sys.argv[2], resume=len(sys.argv) > 3)"
    )
    asked = scenario("days=25")
    (tmp_path / "s.yaml").write_text(asked.to_yaml())
    command = [sys.executable, "-c", code, str(tmp_path / "s.yaml"), str(tmp_path / "killed")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    progress, end = tmp_path / "killed" / "progress.json", time.monotonic() + 60
    while time.monotonic() < end and not (progress.exists() and '"days": ' in progress.read_text()):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    committed = len(load_run(tmp_path / "killed").population)
    assert 0 < committed < 25
    subprocess.run([*command, "resume"], check=True, timeout=120)
    whole = run_scenario(asked, tmp_path / "whole")
    assert_same_runs(tmp_path / "killed", whole)


def test_a_changed_graph_is_refused_on_resume(tmp_path):
    graph = tmp_path / "graph.csv"
    graph.write_text("a,b\n0,1\n1,2\n")
    asked = scenario(graph=str(graph))
    run_scenario(asked, tmp_path / "run")
    graph.write_text("a,b\n0,1\n1,3\n")
    with pytest.raises(RunFolderError, match="graph"):
        run_scenario(asked, tmp_path / "run", resume=True)


def test_agents_are_handles(make_world):
    world = make_world(population={"graph": "watts-strogatz", "degree": 4, "members": 0.5, "arrivals": 2})
    simulator = world.simulator(0)
    population = Population(simulator, world.scenario.population)
    assert population.members == len(population.agents) == 6
    simulator.calendar.satisfaction[:] = np.linspace(-1, 1, 12)
    agent = population.agents.select(lambda user: user.satisfaction > 0)[0]
    assert isinstance(agent, User)
    assert agent.satisfaction == simulator.calendar.satisfaction[agent.row]
    assert agent.friends == simulator.friends.known_to(agent.row).tolist()
    assert population.morning(0).tolist() == sorted(user.row for user in population.agents)
    simulator.calendar.churned[agent.row] = True
    population.evening(np.array([agent.row]))
    assert agent.row not in population.morning(1)
    assert population.new == 2
    assert {user.joined for user in population.agents} == {0, 1}
    frame = population.collector.get_model_vars_dataframe()
    assert frame["churned"].tolist() == [1]
    population.close()


def test_word_of_mouth_needs_a_content_friend(make_world):
    chain = {"graph": "watts-strogatz", "degree": 2, "rewiring": 0, "members": 0.01, "word_of_mouth": 1.0}
    world = make_world(population=chain)
    simulator = world.simulator(0)
    population = Population(simulator, world.scenario.population)
    (first,) = population.morning(0)
    population.evening(np.array([first]))
    assert population.morning(1).tolist() == [first]  # satisfaction 0: nothing to tell
    simulator.calendar.satisfaction[first] = 0.5
    population.evening(np.array([first]))
    assert population.morning(2).tolist() == sorted({first, (first + 1) % 12, (first - 1) % 12})
    population.close()


def test_camps_move_apart_by_as_much_as_they_are_moved(make_world):
    world = make_world(population={"graph": "watts-strogatz", "degree": 4})
    simulator = world.simulator(0)
    population = Population(simulator, world.scenario.population)
    before = population.trace_divide
    leanings = simulator.model.leanings.copy()
    leanings[population._camp] += population._axis * population._unit
    population.minds = SimpleNamespace(leanings=leanings)
    assert population.trace_divide == pytest.approx(before + 1.0, abs=1e-4)
    population.close()


class Silent(UserModel):
    """Users of another distribution, without a social life."""

    fit = reset = reset_rows = react = state = load_state = activity = None


def test_users_without_a_social_life_may_grow_but_not_talk():
    Silent.__abstractmethods__ = frozenset()
    Silent().join(PopulationSection(members=0.5), None)
    with pytest.raises(ScenarioError, match="Silent neither talk nor change"):
        Silent().join(PopulationSection(drift=0.1), None)
    with pytest.raises(ScenarioError, match="Silent neither talk nor change"):
        Silent().join(PopulationSection(), Graph.of(np.array([0]), np.array([1]), 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": "homophilus"}, "did you mean 'homophilous'"),
        ({"graph": "watts-strogatz", "chat": 0.7, "post": 0.4}, "must not add up to more than 1"),
        ({"word_of_mouth": 0.1}, "need a graph"),
        ({"members": 0.0}, "members"),
        ({"conformity": 1.5}, "conformity"),
        ({"swey": 1.0}, "Did you mean 'population.sway'"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    from recsim_env.errors import RecsimError

    with pytest.raises(RecsimError, match=message):
        load_scenario({**SMALL, "population": changes})


def test_no_population_leaves_the_fingerprint_as_it_was():
    plain = load_scenario(SMALL)
    assert not plain.population.active
    assert plain.fingerprint() == load_scenario({**SMALL, "population": {}}).fingerprint()
    assert plain.fingerprint() != load_scenario({**SMALL, "population": {"drift": 0.1}}).fingerprint()
    assert load_scenario(scenario().flat()) == scenario()


@pytest.mark.realdata
def test_friends_of_other_people_take_the_users_seats(tmp_path):
    path = Path(os.environ.get("RECSIM_DATA", "../shared/data")) / "lastfm-hetrec2k" / "user_friends.dat"
    if not path.exists():
        assert "RECSIM_DATA" not in os.environ, f"RECSIM_DATA is set, but {path} is absent"
        pytest.skip(f"{path} is absent; set RECSIM_DATA")
    asked = scenario("users.count=200", graph=str(path), match="order", members=1.0)
    run = load_run(run_scenario(asked, tmp_path / "run"))
    assert run.friends["user"].nunique() > 150
    assert run.population["heard"].sum() > 0
