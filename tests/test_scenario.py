"""Scenarios: YAML there and back, overrides, and what is said about mistakes."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from recsim_env.errors import ScenarioError, UnknownNameError
from recsim_env.interfaces import Config
from recsim_env.scenario import Data, RecommenderSection, Scenario, load_scenario, scenario_names, validate_config

PLAIN = {
    "name": "trial",
    "seed": 7,
    "days": 3,
    "data": {"name": "movietweetings", "min_ratings": 20, "split": "per-user", "columns": {"user": "who"}},
    "users": {"model": "behavioral", "count": 12, "position_bias": 0.5},
    "recommenders": ["popularity", {"name": "ease", "label": "EASE 10", "l2": 10.0}],
    "reward": {"clicks": 1.0, "stay": 0.5},
    "calendar": {"churn": 0.1},
    "engine": {"name": "replay", "folder": "x"},
}


def test_settings_of_plug_ins_go_to_config():
    scenario = load_scenario(PLAIN)
    assert scenario.users.config == {"position_bias": 0.5}
    assert scenario.recommenders[1] == RecommenderSection(name="ease", label="EASE 10", config={"l2": 10.0})
    assert scenario.recommenders[1].title == "EASE 10"
    assert scenario.recommenders[0].title == "popularity"
    assert scenario.data.columns.user == "who"


def test_flat_is_what_one_would_write():
    flat = load_scenario(PLAIN).flat()
    assert flat["recommenders"] == [{"name": "popularity"}, {"name": "ease", "label": "EASE 10", "l2": 10.0}]
    assert flat["users"] == {"model": "behavioral", "count": 12, "position_bias": 0.5}


def test_yaml_there_and_back(tmp_path):
    scenario = load_scenario(PLAIN)
    path = tmp_path / "x.yaml"
    path.write_text(scenario.to_yaml(), encoding="utf-8")
    assert load_scenario(path) == scenario
    assert load_scenario(str(path)).fingerprint() == scenario.fingerprint()
    assert load_scenario(scenario) == scenario


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(
    name=names,
    seed=st.integers(),
    days=st.integers(1, 2**20 - 1),
    labels=st.lists(names, min_size=1, max_size=3, unique=True),
    setting=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), names),
    share=st.floats(0.01, 0.99),
)
def test_any_scenario_goes_there_and_back(tmp_path_factory, name, seed, days, labels, setting, share):
    scenario = load_scenario(
        {
            "name": name,
            "seed": seed,
            "days": days,
            "recommenders": [{"name": "popularity", "label": label, "setting": setting} for label in labels],
            "data": {"test_share": share},
        }
    )
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(scenario.to_yaml(), encoding="utf-8")
    assert load_scenario(path) == scenario


def test_name_comes_from_the_file(tmp_path):
    (tmp_path / "churn.yaml").write_text("days: 2\n")
    assert load_scenario(tmp_path / "churn.yaml").name == "churn"


@pytest.mark.parametrize("name", scenario_names())
def test_shipped_scenarios_load(name):
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.description


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("days=5", lambda s: s.days == 5),
        ("users.count=100", lambda s: s.users.count == 100),
        ("users.position_bias=0.9", lambda s: s.users.config == {"position_bias": 0.9}),
        ("users.new.part=[1, 2]", lambda s: s.users.config["new"] == {"part": [1, 2]}),
        ("recommenders=ease, popularity", lambda s: [r.name for r in s.recommenders] == ["ease", "popularity"]),
        ("recommenders={name: als, factors: 8}", lambda s: s.recommenders[0].config == {"factors": 8}),
        ("reward={likes: 2}", lambda s: s.reward == {"likes": 2.0}),
        ("reward.likes=2", lambda s: s.reward == {"clicks": 1.0, "stay": 0.5, "likes": 2.0}),
        ("data.columns.item=film", lambda s: (s.data.columns.item, s.data.columns.user) == ("film", "who")),
        ("data.columns.timestamp=null", lambda s: s.data.columns.timestamp is None),
        ("data.scale=[1, 5, 0.5]", lambda s: s.data.scale == (1, 5, 0.5)),
        ("candidates=null", lambda s: s.candidates is None),
        ("description=a=b", lambda s: s.description == "a=b"),
    ],
)
def test_overrides(override, value):
    assert value(load_scenario(PLAIN, [override]))
    assert load_scenario(PLAIN).days == 3


def test_later_overrides_win():
    assert load_scenario(PLAIN, ["days=5", "days=6"]).days == 6


def test_overriding_leaves_the_source_alone():
    source = {"users": {"count": 3}}
    load_scenario(source, ["users.count=9"])
    assert source == {"users": {"count": 3}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dayz": 3}, "Unknown key 'dayz' (scenario). Did you mean 'days'?"),
        ({"data": {"splitt": "x"}}, "Unknown key 'data.splitt' (scenario). Did you mean 'data.split'?"),
        ({"calendar": {"chrun": 0.1}}, "Unknown key 'calendar.chrun' (scenario). Did you mean 'calendar.churn'?"),
        ({"data": {"columns": {"usr": "x"}}}, "Did you mean 'data.columns.user'?"),
    ],
)
def test_unknown_keys_suggest(changes, message):
    with pytest.raises(UnknownNameError, match=re.escape(message)):
        load_scenario(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"days": 0}, "days: Input should be greater than or equal to 1 (given: 0)"),
        ({"days": "many"}, "days: Input should be a valid integer"),
        ({"days": 2**20}, "days: Input should be less than 1048576"),
        ({"users": {"count": 0}}, "users.count: Input should be greater than or equal to 1 (given: 0)"),
        ({"data": {"test_share": 1}}, "data.test_share: Input should be less than 1 (given: 1)"),
        ({"data": {"split": "first-out"}}, "data.split: Input should be 'last-out', 'per-user' or 'by-time'"),
        ({"data": {"format": "xlsx"}}, "data.format: Input should be"),
        ({"data": {"scale": [1, 5]}}, "data.scale"),
        ({"episode": "day"}, "episode: Input should be 'session' or 'life'"),
        ({"recommenders": []}, "recommenders: name at least one"),
        ({"recommenders": "ease,ease"}, "recommenders: 'ease' stands there twice; give one of them a 'label'"),
        ({"recommenders": [{"label": "x"}]}, "recommenders.0.name: Field required"),
        ({"slate_size": 60}, "history_length (50) must be at least slate_size (60)"),
        ({"candidates": 5}, "candidates (5) must be at least slate_size (10)"),
        ({"calendar": {"memory": 1.0}}, "calendar.memory: Input should be less than 1"),
    ],
)
def test_values_that_are_not_allowed(changes, message):
    with pytest.raises(ScenarioError, match=re.escape(message)):
        load_scenario(changes)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("days", "--set 'days': write KEY=VALUE"),
        ("=3", "--set '=3': write KEY=VALUE"),
        ("days.first=3", "--set days.first: 'days' has no parts"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ScenarioError, match=re.escape(message)):
        load_scenario(PLAIN, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("days: [1\n", "is not valid YAML"),
        ("- 1\n- 2\n", "must hold 'key: value' lines, not list"),
        ("", "must hold 'key: value' lines, not NoneType"),
        ("days: -1\n", "x.yaml: days: Input should be greater"),
    ],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ScenarioError, match=re.escape(message)):
        load_scenario(tmp_path / "x.yaml")


def test_absent_file(tmp_path):
    with pytest.raises(ScenarioError, match=r"Cannot read the scenario .*absent\.yaml: No such file"):
        load_scenario(tmp_path / "absent.yaml")


def test_unknown_shipped_scenario():
    with pytest.raises(UnknownNameError, match=r"Unknown scenario 'quickstrat'. Did you mean 'quickstart'\?"):
        load_scenario("quickstrat")


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Scenario().days = 4


def test_fingerprint_ignores_only_what_cannot_change_results():
    base = Scenario()
    assert (
        load_scenario(base, ["batch_size=7", "description=x", "engine.base_urls=[a, b]"]).fingerprint()
        == base.fingerprint()
    )
    others = ["seed=1", "days=2", "users.count=3", "users.x=1", "data.split=by-time", "recommenders=ease", "engine.x=1"]
    prints = {load_scenario(base, [o]).fingerprint() for o in others}
    assert len(prints | {base.fingerprint()}) == len(others) + 1


class Settings(Config):
    strength: float = Field(default=1.0, ge=0)


def test_settings_of_a_plug_in_are_checked():
    assert validate_config(Settings, {"strength": 2}, "users") == Settings(strength=2)
    with pytest.raises(UnknownNameError, match=r"Unknown setting 'strenght' \(users\). Did you mean 'strength'"):
        validate_config(Settings, {"strenght": 2}, "users")
    with pytest.raises(ScenarioError, match=r"users\.strength: .* greater than or equal to 0 \(given: -1\)"):
        validate_config(Settings, {"strength": -1}, "users")


def test_default_data_section():
    assert Scenario().data == Data(name="movietweetings", split="last-out", min_ratings=0)
