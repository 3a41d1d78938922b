"""Contracts of plug-ins as test classes: inherit one and pytest checks yours.

    from recsim_env.testing import RecommenderContract

    class TestMine(RecommenderContract):
        def make(self):
            return Mine(MineConfig(temperature=0.5))

Every test says in its docstring what the rest of the package relies on.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recsim_env.draws import Draws
from recsim_env.interfaces import Recommender
from recsim_env.records import (
    Catalog,
    Dataset,
    Feedback,
    Histories,
    MessageKind,
    ObservationBatch,
    Ratings,
    RatingScale,
    SlateBatch,
    Users,
    is_seen,
)
from recsim_env.vector_checker import check_vector_env as check_vector_env
from recsim_env.visible import VisibleState

K = 3
"""Slate size of the contract's tests."""


def tiny_dataset(n_users: int = 40, n_items: int = 12, seed: int = 0) -> Dataset:
    """A checkerboard: even users rate even items, odd users odd ones, two thirds of them each, in random order.

    The right recommendation is the rest of the user's own colour. Categories are "Even" and "Odd".
    """
    item = np.arange(n_items)
    names = np.array([f"item-{i}" for i in item], object)
    flags = np.stack([item % 2 == 0, item % 2 == 1], axis=1)
    catalog = Catalog(
        names, names, ("Even", "Odd"), flags, np.full(n_items, "", object), np.full(n_items, 2000, np.int16),
        np.zeros(n_items, np.int64), RatingScale(1, 5),
    )  # fmt: skip
    luck = Draws(seed).uniforms(Draws(seed).keys("tiny", np.arange(n_users)), item)
    rated = []
    for user in range(n_users):
        own = item[item % 2 == user % 2]
        rated.append(own[np.argsort(luck[user, own])][: max(1, 2 * len(own) // 3)])
    users = np.repeat(np.arange(n_users), [len(items) for items in rated]).astype(np.int32)
    items = np.concatenate(rated).astype(np.int32)
    ratings = Ratings(users, items, np.full(len(items), 5, np.float32), np.arange(len(items), dtype=np.int64))
    user_id = np.array([f"user-{u}" for u in range(n_users)], object)
    return Dataset("tiny", catalog, user_id, {}, ratings).with_ratings(ratings)


def visible_state(
    dataset: Dataset, histories: Sequence[Sequence[int]], slate_size: int = K, history_length: int = 8
) -> VisibleState:
    """The visible side of made-up users.

    Args:
        dataset: Where the items come from.
        histories: One list of item indices per user, oldest first; empty for a newcomer.
        slate_size: K of the observations.
        history_length: L of the observations.
    """
    lengths = [len(history) for history in histories]
    items = np.array([i for history in histories for i in history], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n = len(histories)
    names = np.array([f"user-{u}" for u in range(n)], object)
    past = Histories(offsets, items, np.full(len(items), 5, np.float32))
    users = Users(names, np.full(n, -1, np.int64), {}, past)
    return VisibleState(dataset.catalog, users, slate_size, history_length)


def observations(
    dataset: Dataset, histories: Sequence[Sequence[int]], slate_size: int = K, history_length: int = 8
) -> ObservationBatch:
    """First observations of made-up users; see :func:`visible_state`."""
    return visible_state(dataset, histories, slate_size, history_length).observe(np.arange(len(histories)))


def reaction(slate: SlateBatch, clicked: Any, n_items: int) -> Feedback:
    """A reaction with these clicks, bool broadcastable to (N, K), full watches and no ratings."""
    clicks = np.broadcast_to(clicked, slate.items.shape) & (slate.items < n_items)
    nothing = np.zeros(slate.items.shape, np.bool_)
    unrated = np.full(slate.items.shape, np.nan, np.float32)
    action = np.zeros(slate.n, np.int8)
    return Feedback(clicks, clicks.astype(np.float32), nothing, nothing, unrated, action, [None] * slate.n)


class RecommenderContract:
    """What every recommender must keep; subclasses say how one is made."""

    learns: ClassVar[bool] = True
    """False for a recommender that never changes: its version then stays when it is trained again."""

    def make(self) -> Recommender:
        """A fresh, unfitted recommender; override it."""
        raise NotImplementedError("RecommenderContract: override make() so that it returns your recommender")

    def ready(self, made: Recommender) -> Recommender:
        """A new or loaded recommender with what it needs beside its settings, such as an engine; override it then."""
        return made

    def fitted(self, dataset: Dataset, **settings: Any) -> Recommender:
        """A recommender trained on a data set, with some settings changed."""
        made = self.make()
        if settings:
            made = type(made)(made.config.model_copy(update=settings))
        made = self.ready(made)
        made.fit(dataset, Draws(1))
        return made

    def users(self, dataset: Dataset) -> ObservationBatch:
        """Observations of some users: with long, short and no history, and with a category asked for."""
        histories: list[list[int]] = [[0, 2, 4, 6], [1, 3], [], [5], [0, 1, 2, 3, 4, 5, 6, 7, 8], [11, 9, 7]]
        obs = observations(dataset, histories)
        wish, kind = obs.message_vector.copy(), obs.message_kind.copy()
        wish[3, 0], kind[3] = 1.0, MessageKind.INSTRUCT
        message = [None, None, None, "Even, please", None, None]
        return replace(obs, message=message, message_vector=wish, message_kind=kind, day=obs.day + 2)

    def test_config_round_trip(self) -> None:
        """A configuration survives JSON and refuses what it does not know."""
        made = self.make()
        config = made.config
        assert isinstance(config, made.config_class)
        assert type(config).model_validate_json(config.model_dump_json()) == config
        try:
            type(config).model_validate({"no_such_setting": 1})
        except ValueError:
            return
        raise AssertionError(f"{type(config).__name__} accepts unknown settings; extend recsim_env.interfaces.Config")

    def test_shapes_and_ranges(self) -> None:
        """Slates are int32 (N, K) without repetition; probabilities are in (0, 1], only the marginal may be NaN."""
        data = tiny_dataset()
        slate = self.fitted(data).recommend(self.users(data), K, Draws(2))
        assert slate.items.shape == slate.propensity.shape == slate.position_propensity.shape == (6, K)
        assert slate.items.dtype == np.int32
        assert slate.items.min() >= 0
        assert slate.items.max() <= data.n_items
        for row in slate.items:
            shown = row[row < data.n_items]
            assert len(set(shown.tolist())) == len(shown), f"an item twice in {row}"
        assert (slate.propensity > 0).all()
        assert (slate.propensity <= 1 + 1e-6).all()
        known = slate.position_propensity[~np.isnan(slate.position_propensity)]
        assert ((known > 0) & (known <= 1 + 1e-6)).all()
        first = slate.position_propensity[:, 0]
        np.testing.assert_allclose(first[~np.isnan(first)], slate.propensity[:, 0][~np.isnan(first)], atol=1e-5)
        assert slate.answer is None or len(slate.answer) == slate.n

    def test_save_and_load(self, tmp_path: Path) -> None:
        """A saved recommender gives the same slates."""
        data = tiny_dataset()
        made, obs = self.fitted(data), self.users(data)
        made.save(tmp_path)
        read = self.ready(type(made).load(tmp_path))
        assert type(read) is type(made)
        assert (read.config, read.version) == (made.config, made.version)
        _same(made.recommend(obs, K, Draws(3)), read.recommend(obs, K, Draws(3)))

    def test_copy(self) -> None:
        """A deep copy serves alike, and learning leaves the original alone."""
        data = tiny_dataset()
        made, obs = self.fitted(data), self.users(data)
        before = made.recommend(obs, K, Draws(3))
        twin = copy.deepcopy(made)
        _same(before, twin.recommend(obs, K, Draws(3)))
        twin.observe(obs, before, reaction(before, True, data.n_items))
        twin.retrain(Draws(4))
        _same(before, made.recommend(obs, K, Draws(3)))

    def test_newcomers(self) -> None:
        """Users without history and users that were never heard of are served full slates."""
        data = tiny_dataset()
        obs = observations(data, [[], []])
        obs = replace(obs, user_index=np.array([0, 1_000_000]))
        slate = self.fitted(data).recommend(obs, K, Draws(5))
        assert (slate.items < data.n_items).all()

    def test_candidates(self) -> None:
        """Only candidates are shown, and found by a recommender that searches; what is not out yet is none."""
        data = tiny_dataset()
        obs = self.users(data)
        wanted = np.array([11, 3, 10, 2, 9, data.n_items], np.int32)
        obs = replace(obs, candidates=np.broadcast_to(wanted, (obs.n, len(wanted))))  # one row for all, not to write to
        made = self.fitted(data)
        slate = made.recommend(obs, K, Draws(6))
        assert np.isin(slate.items, wanted).all()
        kind = np.full(obs.n, MessageKind.SEARCH, np.int8)
        found = made.search(replace(obs, message=["item-4 Even"] * obs.n, message_kind=kind), K, Draws(6))
        assert found is None or np.isin(found.items, wanted).all()
        np.testing.assert_allclose(made.log_prob(obs, slate.items), np.log(slate.propensity), atol=1e-4)
        outside = np.tile(np.array([0, 4, 6]), (obs.n, 1))
        assert (made.log_prob(obs, outside) == -np.inf).all()

    def test_padding(self) -> None:
        """Where the candidates run out, the slate ends in n_items with propensity 1."""
        data = tiny_dataset()
        obs = observations(data, [[], []])
        obs = replace(obs, candidates=np.array([[7, 2, data.n_items], [data.n_items, data.n_items, 4]], np.int32))
        slate = self.fitted(data).recommend(obs, K, Draws(7))
        assert set(slate.items[0, :2].tolist()) == {2, 7}
        assert slate.items[1, 0] == 4
        empty = np.array([[False, False, True], [False, True, True]])
        assert ((slate.items == data.n_items) == empty).all()
        np.testing.assert_allclose(slate.propensity[empty], 1.0)
        np.testing.assert_allclose(np.exp(self.fitted(data).log_prob(obs, slate.items))[empty], 1.0)

    def test_exclude_seen(self) -> None:
        """Where a setting ``exclude_seen`` exists, it is kept, and slates with seen items have no probability."""
        if "exclude_seen" not in type(self.make().config).model_fields:
            return
        data = tiny_dataset()
        made, obs = self.fitted(data, exclude_seen=True), self.users(data)
        for seed in range(10):
            slate = made.recommend(obs, K, Draws(seed))
            assert not (is_seen(obs.seen, slate.items) & (slate.items < data.n_items)).any()
        seen = np.array([[0, 2, 4]])
        assert (made.log_prob(obs.take(np.array([0])), seen) == -np.inf).all()
        everything = observations(data, [list(range(data.n_items))])
        assert (made.recommend(everything, K, Draws(0)).items == data.n_items).all()
        assert (self.fitted(data, exclude_seen=False).recommend(everything, K, Draws(0)).items < data.n_items).all()

    def test_log_prob_agrees_with_propensity(self) -> None:
        """``log_prob`` of a slate is the logarithm of the propensities that were logged with it."""
        data = tiny_dataset()
        made, obs = self.fitted(data), self.users(data)
        for seed in range(5):
            slate = made.recommend(obs, K, Draws(seed))
            np.testing.assert_allclose(made.log_prob(obs, slate.items), np.log(slate.propensity), atol=1e-4)

    def test_probabilities_sum_to_one(self) -> None:
        """Over all slates of two out of three items the probabilities sum to one."""
        data = tiny_dataset(n_items=3)
        made = self.fitted(data)
        slates = np.array(list(permutations(range(3), 2)), np.int32)
        for history in ([], [1]):
            obs = observations(data, [history], slate_size=2).take(np.zeros(len(slates), np.int64))
            log_prob = made.log_prob(obs, slates)
            assert not np.isnan(log_prob).any()
            assert (log_prob <= 1e-6).all()
            np.testing.assert_allclose(np.exp(log_prob.sum(axis=1)).sum(), 1.0, atol=1e-4)

    def test_same_seed_same_slates(self) -> None:
        """Two recommenders with the same data and draws give the same slates."""
        data = tiny_dataset()
        if self.make().repeatable:
            obs = self.users(data)
            first, second = (self.fitted(data).recommend(obs, K, Draws(8)) for _ in range(2))
            _same(first, second)

    def test_batch_equals_singles(self) -> None:
        """A user is served alike alone and in a batch: same items, same probabilities."""
        data = tiny_dataset()
        made = self.make()
        if not made.repeatable:
            return
        made, obs = self.fitted(data), self.users(data)
        whole = made.recommend(obs, K, Draws(9))
        log_prob = made.log_prob(obs, whole.items)
        for i in range(obs.n):
            row = np.array([i])
            single = made.recommend(obs.take(row), K, Draws(9))
            np.testing.assert_array_equal(single.items[0], whole.items[i])
            np.testing.assert_allclose(single.propensity[0], whole.propensity[i], atol=1e-6)
            np.testing.assert_allclose(made.log_prob(obs.take(row), single.items)[0], log_prob[i], atol=1e-5)

    def test_global_generators_untouched(self) -> None:
        """Neither NumPy's global generator nor Python's is drawn from or seeded."""
        data = tiny_dataset()
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
        made, obs = self.fitted(data), self.users(data)
        slate = made.recommend(obs, K, Draws(0))
        made.observe(obs, slate, reaction(slate, True, data.n_items))
        made.retrain(Draws(1))
        assert random.getstate() == python_state
        for before, after in zip(numpy_state, np.random.get_state(), strict=True):  # noqa: NPY002
            assert np.array_equal(before, after)

    def test_retrain(self) -> None:
        """Training again on observed clicks gives a new version that still serves."""
        data = tiny_dataset()
        made, obs = self.fitted(data), self.users(data)
        slate = made.recommend(obs, K, Draws(0))
        version = made.version
        assert slate.version == version
        made.observe(obs, slate, reaction(slate, True, data.n_items))
        made.retrain(Draws(1))
        assert (made.version != version) == self.learns
        assert (made.recommend(obs, K, Draws(0)).items <= data.n_items).all()


def _same(first: SlateBatch, second: SlateBatch) -> None:
    np.testing.assert_array_equal(first.items, second.items)
    np.testing.assert_allclose(first.propensity, second.propensity, atol=1e-6)
    np.testing.assert_allclose(first.position_propensity, second.position_propensity, atol=1e-6)
    assert first.answer == second.answer
