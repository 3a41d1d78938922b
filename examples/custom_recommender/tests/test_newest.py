"""The contract, and one known answer."""

from dataclasses import replace

import numpy as np
from recsim_env_newest import Newest, NewestConfig

from recsim_env.draws import Draws
from recsim_env.testing import RecommenderContract, observations, tiny_dataset


class TestNewest(RecommenderContract):
    def make(self):
        return Newest(NewestConfig(temperature=0.5))


def test_newest_unseen_first():
    data = tiny_dataset(n_items=4)
    years = np.array([1990, 2020, 0, 2005], np.int16)
    made = Newest(NewestConfig(temperature=0))
    made.fit(replace(data, catalog=replace(data.catalog, year=years)), Draws(0))
    assert made.recommend(observations(data, [[], [1]]), 3, Draws(0)).items.tolist() == [[1, 3, 0], [3, 0, 2]]
