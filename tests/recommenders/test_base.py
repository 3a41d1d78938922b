"""What all scoring recommenders share: wishes, seen items, candidates, learning from clicks, saving."""

from dataclasses import replace

import numpy as np
import pytest

from recsim_env.draws import Draws
from recsim_env.errors import ContractError, RecsimError, ScenarioError, UnknownNameError
from recsim_env.recommenders.base import BLOCK, ScoringConfig, ScoringRecommender, promise
from recsim_env.recommenders.ease import EASE
from recsim_env.recommenders.popularity import Popularity, PopularityConfig
from recsim_env.records import MessageKind
from recsim_env.scenario import validate_config
from recsim_env.testing import observations, reaction, tiny_dataset


class Given(ScoringRecommender):
    """Scores written down by the test; remembers the shapes that it was asked for."""

    def __init__(self, config=None, scores=None):
        super().__init__(config)
        self.given, self.asked = scores, []

    def learn(self, dataset, draws):
        self.learned_from = dataset

    def scores(self, obs):
        self.asked.append(obs.n)
        return np.broadcast_to(np.asarray(self.given, np.float32), (obs.n, self.n_items))


def given_scores(scores, **settings):
    made = Given(ScoringConfig(**settings), scores)
    made.fit(tiny_dataset(n_items=len(scores)), Draws(0))
    return made


def asking(obs, wish, text="words"):
    vector = np.tile(np.asarray(wish, np.float32), (obs.n, 1))
    kind = np.full(obs.n, MessageKind.INSTRUCT, np.int8)
    return replace(obs, message=[text] * obs.n, message_kind=kind, message_vector=vector)


def test_greedy_slate_is_the_best_unseen_in_order():
    made = given_scores([5, 4, 3, 2, 1, 0], temperature=0)
    data = tiny_dataset(n_items=6)
    slate = made.recommend(observations(data, [[0, 2], []]), 3, Draws(0))
    assert slate.items.tolist() == [[1, 3, 4], [0, 1, 2]]
    assert (slate.propensity == 1).all()
    assert (slate.position_propensity == 1).all()
    assert made.deterministic
    assert not given_scores([1, 0], temperature=0, epsilon=0.1).deterministic


def test_marginals_are_given_where_they_are_cheap():
    data = tiny_dataset(n_items=6)
    obs = observations(data, [[0, 2]])
    soft = given_scores([5, 4, 3, 2, 1, 0]).recommend(obs, 3, Draws(0))
    assert soft.position_propensity[0, 0] == soft.propensity[0, 0]
    assert np.isnan(soft.position_propensity[0, 1:]).all()
    uniform = given_scores([5, 4, 3, 2, 1, 0], epsilon=1).recommend(obs, 5, Draws(0))
    np.testing.assert_allclose(uniform.propensity, [[1 / 4, 1 / 3, 1 / 2, 1, 1]])
    np.testing.assert_allclose(uniform.position_propensity, [[1 / 4, 1 / 4, 1 / 4, 1 / 4, 1]])


def test_one_temperature_means_the_same_at_any_scale():
    obs = observations(tiny_dataset(n_items=6), [[]])
    slates = [given_scores(scale * np.arange(6.0) + shift).recommend(obs, 3, Draws(5)) for scale, shift in ((1, 0), (1e4, -7))]  # fmt: skip  # noqa: E501
    np.testing.assert_array_equal(slates[0].items, slates[1].items)
    np.testing.assert_allclose(slates[0].propensity, slates[1].propensity, rtol=1e-4)


def test_wishes_move_the_slate_and_are_answered():
    obs = asking(observations(tiny_dataset(n_items=6), [[]]), [-1.0, 1.0])
    slate = given_scores([5, 4, 3, 2, 1, 0], temperature=0, heed=10).recommend(obs, 3, Draws(0))
    assert slate.items.tolist() == [[1, 3, 5]]
    assert slate.answer == ["More Odd, less Even."]
    deaf = given_scores([5, 4, 3, 2, 1, 0], temperature=0, heed=0).recommend(obs, 3, Draws(0))
    assert deaf.items.tolist() == [[0, 1, 2]]
    assert deaf.answer is None


def test_wishes_move_candidates_alike():
    obs = asking(observations(tiny_dataset(n_items=6), [[]]), [0.0, 1.0])
    obs = replace(obs, candidates=np.array([[4, 0, 5, 6]], np.int32))
    slate = given_scores([5, 4, 3, 2, 1, 0], temperature=0, heed=10).recommend(obs, 3, Draws(0))
    assert slate.items.tolist() == [[5, 0, 4]]


def test_only_those_who_instruct_are_answered():
    obs = observations(tiny_dataset(), [[], []])
    assert given_scores(np.arange(12)).recommend(obs, 3, Draws(0)).answer is None
    kind = np.array([MessageKind.INSTRUCT, MessageKind.NONE], np.int8)
    answer = given_scores(np.arange(12)).recommend(replace(obs, message_kind=kind), 3, Draws(0)).answer
    assert answer == ["I did not find a category in that.", None]


def test_promise():
    categories = ("Comedy", "Drama", "Film-Noir")
    assert promise(np.array([1, -1, 0]), categories) == "More Comedy, less Drama."
    assert promise(np.array([0, 0, -1]), categories) == "Less Film-Noir."


def test_equal_scores_give_way_to_popularity():
    data = tiny_dataset(n_items=6)
    counts = np.array([1, 9, 2, 8, 3, 7])
    made = given_scores(np.full(6, 0.3), temperature=0)
    made.fit(replace(data, catalog=replace(data.catalog, popularity=counts)), Draws(0))
    assert made.recommend(observations(data, [[]]), 3, Draws(0)).items.tolist() == [[1, 3, 5]]


def test_blocks_have_one_shape_and_any_batch_gives_the_same():
    data = tiny_dataset()
    made = given_scores(np.arange(12.0))
    obs = observations(data, [[u % 12] for u in range(BLOCK + 5)])
    whole = made.recommend(obs, 3, Draws(0))
    tail = made.recommend(obs.take(np.arange(BLOCK - 3, BLOCK + 5)), 3, Draws(0))
    np.testing.assert_array_equal(whole.items[BLOCK - 3 :], tail.items)
    np.testing.assert_array_equal(made.log_prob(obs, whole.items)[BLOCK - 3 :], made.log_prob(obs.take(np.arange(BLOCK - 3, BLOCK + 5)), tail.items))  # fmt: skip  # noqa: E501
    assert set(made.asked) == {BLOCK}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    made = given_scores([1.0, bad, 0.0])
    with pytest.raises(ContractError, match="finite"):
        made.recommend(observations(tiny_dataset(n_items=3), [[]]), 2, Draws(0))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"temperature": -1}, ScenarioError, "temperature"),
        ({"temperature": 1e-9}, ScenarioError, "0 or at least 1e-6"),
        ({"temperature": float("inf")}, ScenarioError, "temperature"),
        ({"epsilon": 1.5}, ScenarioError, "epsilon"),
        ({"heed": -0.1}, ScenarioError, "heed"),
        ({"temprature": 1}, UnknownNameError, "Did you mean 'temperature'"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        validate_config(PopularityConfig, settings, "recommenders.popularity")


def test_retraining_adds_clicks_as_new_users():
    data = tiny_dataset()
    made = Given(scores=np.arange(12))
    made.fit(data, Draws(0))
    obs = observations(data, [[], [], []])
    obs = replace(obs, user_index=np.array([4, 0, 2]), day=np.array([3, 3, 3], np.int32))
    slate = made.recommend(obs, 3, Draws(0))
    clicked = np.array([[True, False, True], [False, False, False], [False, True, False]])
    made.observe(obs, slate, reaction(slate, clicked, data.n_items))
    later = replace(obs, day=obs.day + 1).take(np.array([0]))
    made.observe(later, slate, reaction(slate, False, data.n_items))
    made.retrain(Draws(0))
    grown = made.learned_from
    assert grown.n_users == data.n_users + 5
    assert grown.user_id[-1] == "simulated-4"
    new = grown.ratings.take(np.arange(len(data.ratings), len(grown.ratings)))
    assert new.user_index.tolist() == [44, 44, 42]
    assert new.item_index.tolist() == slate.items[clicked].tolist()
    assert np.isnan(new.rating).all()
    assert new.timestamp.min() > data.ratings.timestamp.max()
    assert grown.catalog.popularity.sum() == data.catalog.popularity.sum() + 3
    assert made.version == "1"
    made.fit(data, Draws(0))
    assert made.version == "0"
    made.retrain(Draws(0))
    assert made.learned_from is data


def test_popularity_follows_the_clicks_after_retraining():
    data = tiny_dataset()
    made = Popularity(PopularityConfig(temperature=0))
    made.fit(data, Draws(0))
    obs = replace(observations(data, [[]]), candidates=np.array([[7, 12, 12]], np.int32))
    slate = made.recommend(obs, 3, Draws(0))
    for _ in range(100):
        made.observe(obs, slate, reaction(slate, True, data.n_items))
    made.retrain(Draws(0))
    assert made.recommend(observations(data, [[]]), 1, Draws(0)).items.tolist() == [[7]]


def test_a_loaded_recommender_cannot_be_retrained(tmp_path):
    made = EASE()
    made.fit(tiny_dataset(), Draws(0))
    made.save(tmp_path)
    with pytest.raises(RecsimError, match=r"Call fit\(dataset, draws\) before"):
        EASE.load(tmp_path).retrain(Draws(0))


def test_loading_the_wrong_folder_is_explained(tmp_path):
    with pytest.raises(RecsimError, match="holds no saved recommender"):
        Popularity.load(tmp_path)
    made = Popularity()
    made.fit(tiny_dataset(), Draws(0))
    made.save(tmp_path)
    with pytest.raises(RecsimError, match="holds a Popularity, not a EASE"):
        EASE.load(tmp_path)
