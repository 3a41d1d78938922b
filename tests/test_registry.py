"""Plug-ins by name: late loading, suggestions, duplicates, base classes, entry points."""

import sys
from importlib.metadata import EntryPoint

import pytest

from recsim_env import registry
from recsim_env.errors import ContractError, DuplicateNameError, RecsimError, UnknownNameError
from recsim_env.interfaces import Recommender
from recsim_env.records import RatingScale
from recsim_env.registry import Registry


@pytest.fixture
def things() -> Registry:
    return Registry("odd thing", "recsim_env.tests", {"scale": "recsim_env.records:RatingScale", "plain": "json:dumps"})


def test_entries_are_loaded_late(things):
    assert things.get("scale") is RatingScale
    assert things.get("scale") is RatingScale  # now kept as the object
    assert things.names() == ["plain", "scale"]


def test_loading_waits_until_asked():
    late = Registry("thing", "recsim_env.tests", {"late": "this_module_does_not_exist:x"})
    assert late.names() == ["late"]
    with pytest.raises(ModuleNotFoundError, match="this_module_does_not_exist"):
        late.get("late")


def test_unknown_name_suggests_the_nearest(things):
    with pytest.raises(UnknownNameError) as caught:
        things.get("scael", "x.yaml: thing.name")
    assert str(caught.value) == (
        "Unknown odd thing 'scael' (x.yaml: thing.name). Did you mean 'scale'? 'recsim-env list odd-things' shows all."
    )
    assert (caught.value.kind, caught.value.name) == ("odd thing", "scael")
    assert caught.value.allowed == ["plain", "scale"]


def test_unknown_name_without_a_near_one_lists_all(things):
    with pytest.raises(UnknownNameError, match="Allowed: plain, scale"):
        things.get("zzz")


def test_duplicates_are_refused_unless_the_same(things):
    things.add("scale", "recsim_env.records:RatingScale")
    with pytest.raises(DuplicateNameError, match="Two odd things are called 'scale'"):
        things.add("scale", "recsim_env.records:Catalog")
    things.add("new", RatingScale)
    assert things.get("new") is RatingScale


def test_wrong_base_class():
    wrong = Registry(
        "recommender", "recsim_env.tests", {"x": "recsim_env.records:Catalog"}, "recsim_env.interfaces:Recommender"
    )
    with pytest.raises(ContractError, match=r"recommender 'x' .* must extend recsim_env\.interfaces\.Recommender"):
        wrong.get("x")


def test_right_base_class():
    right = Registry("recommender", "recsim_env.tests", {}, "recsim_env.interfaces:Recommender")
    right.add("x", Recommender)
    assert right.get("x") is Recommender


def test_summary_is_the_first_line(things):
    assert things.summary("scale").startswith("The ratings that a data set allows")


def test_entry_points_are_found(monkeypatch, things):
    def found(group):
        assert group == "recsim_env.tests"
        return [EntryPoint("theirs", "recsim_env.records:Catalog", group)]

    monkeypatch.setattr(registry, "entry_points", found)
    assert things.names() == ["plain", "scale", "theirs"]
    assert things.get("theirs").__name__ == "Catalog"


def test_an_entry_point_cannot_take_a_name_of_ours(monkeypatch, things):
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [EntryPoint("scale", "recsim_env.records:Catalog", group)]
    )
    with pytest.raises(DuplicateNameError):
        things.get("plain")


def test_an_entry_point_cannot_take_a_name_of_ours_later_either(monkeypatch, things):
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [EntryPoint("scale", "recsim_env.records:Catalog", group)]
    )
    for _ in range(2):
        with pytest.raises(DuplicateNameError):
            things.get("plain")


ALL = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, r in ALL.items() for name in r._entries])
def test_every_entry_of_the_house_loads(kind, name):
    assert "recsim_env" in ALL[kind].get(name).__module__
    assert ALL[kind].summary(name)


def test_errors_are_one_tree():
    for error in (ContractError, DuplicateNameError, UnknownNameError):
        assert issubclass(error, RecsimError)


def test_names_are_listed_without_imports():
    before = set(sys.modules)
    fresh = Registry("thing", "recsim_env.tests", {"antigravity": "antigravity:geohash"})
    assert fresh.names() == ["antigravity"]
    assert "antigravity" not in set(sys.modules) - before
