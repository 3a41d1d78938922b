"""Every shipped recommender keeps the contract, as shipped, greedy, exploring and uniform."""

import pytest

from recsim_env.recommenders.als import ALS, ALSConfig
from recsim_env.recommenders.cooccurrence import Cooccurrence, CooccurrenceConfig
from recsim_env.recommenders.ease import EASE, EASEConfig
from recsim_env.recommenders.item_knn import ItemKNN, ItemKNNConfig
from recsim_env.recommenders.popularity import Popularity, PopularityConfig
from recsim_env.recommenders.uniform import Uniform
from recsim_env.registry import recommenders
from recsim_env.testing import RecommenderContract


class TestUniform(RecommenderContract):
    learns = False

    def make(self):
        return Uniform()


SETTINGS = (
    {},
    {"temperature": 0},
    {"temperature": 0.7, "epsilon": 0.3},
    {"temperature": 0, "epsilon": 0.2},
    {"epsilon": 1},
    {"temperature": 1e-3, "heed": 0},
)


@pytest.fixture(params=SETTINGS, ids=str)
def settings(request):
    return request.param


class ScoringContract(RecommenderContract):
    kind, config, fixed = None, None, {}

    @pytest.fixture(autouse=True)
    def _choose(self, settings):
        self.chosen = settings

    def make(self):
        return self.kind(self.config(**self.fixed, **self.chosen))


class TestPopularity(ScoringContract):
    kind, config = Popularity, PopularityConfig


class TestItemKNN(ScoringContract):
    kind, config = ItemKNN, ItemKNNConfig


class TestEASE(ScoringContract):
    kind, config, fixed = EASE, EASEConfig, {"regularisation": 5, "half_life": 3}


class TestALS(ScoringContract):
    kind, config, fixed = ALS, ALSConfig, {"factors": 4, "regularisation": 1, "iterations": 5}


class TestCooccurrence(ScoringContract):
    kind, config = Cooccurrence, CooccurrenceConfig


def test_every_shipped_recommender_is_checked_here():
    checked = {Uniform, Popularity, ItemKNN, EASE, ALS, Cooccurrence}
    names = ("uniform", "popularity", "item-knn", "ease", "als", "cooccurrence")
    assert {recommenders.get(name) for name in names} == checked
    assert all("(" in recommenders.summary(name) for name in names)


def test_policy_names_are_the_registry_names():
    for name in ("popularity", "item-knn", "ease", "als", "cooccurrence"):
        assert recommenders.get(name).name == name
