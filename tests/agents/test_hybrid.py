"""Hybrid users: the prior, its calibration, the blend, and what every user model promises."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsim_env.agents.calibration import (
    Calibration,
    blend_marks,
    blend_watch,
    calibrate_prior,
    held_out_pairs,
    logistic,
)
from recsim_env.agents.hybrid import HybridConfig, HybridUsers
from recsim_env.agents.prior import Prior, SeatedPrior
from recsim_env.data.splits import share_of_each
from recsim_env.draws import Draws
from recsim_env.errors import EngineError, ScenarioError
from recsim_env.records import Users
from recsim_env.registry import user_models
from recsim_env.visible import VisibleState


def seat(world, n=12, engine=None, fitted=None, **config):
    """Hybrid users with a scripted engine; rows beyond the data set's are new people."""
    data, engine = world.dataset(), engine or world.ScriptedEngine()
    model = HybridUsers(HybridConfig(**{"remembered": 0, "calibration_pairs": 50, "n_factors": 2, **config}))
    model.attach(engine, world.LetterEmbedder(), 1, 1.0)
    model.fit(data, Draws(0))
    row = np.where(np.arange(n) < data.n_users, np.arange(n), -1)
    profile = {name: np.append(values, "")[row] for name, values in data.profile.items()}
    users = Users(np.array([f"u{i}" for i in range(n)], object), row, profile, data.histories().take(row))
    model.reset(users, Draws(0))
    visible = VisibleState(data.catalog, users, 5, 20)
    return SimpleNamespace(model=model, visible=visible, rows=np.arange(n), engine=engine, data=data)


@pytest.fixture(scope="module")
def fitted(request):
    """A prior on a part of the toy data, with its calibration."""
    from importlib import util
    from pathlib import Path

    spec = util.spec_from_file_location("toy", Path(__file__).parent / "conftest.py")
    toy = util.module_from_spec(spec)
    spec.loader.exec_module(toy)
    data = toy.dataset(60, 50)
    held = share_of_each(data, 0.3, Draws(0))
    train, test = data.with_ratings(data.ratings.take(~held)), data.ratings.take(held)
    prior = Prior.fit(train, Draws(0), n_factors=2, n_interests=4, regularisation=5.0)
    return train, test, prior, calibrate_prior(prior, train, test, Draws(0), 3)


def test_it_is_a_user_model_by_name():
    assert user_models.get("hybrid") is HybridUsers
    assert "prior" in user_models.summary("hybrid")


def test_without_an_engine_they_say_so():
    from recsim_env.build import World
    from recsim_env.scenario import load_scenario

    with pytest.raises(ScenarioError, match="needs a language model"):
        World(load_scenario({"users": {"model": "hybrid"}}))
    with pytest.raises(EngineError, match="needs an engine"):
        HybridUsers().reset(None, Draws(0))


def test_random_pairs_were_rated_in_no_part(fitted):
    train, held, _, _ = fitted
    pairs = held_out_pairs(train, held, 5, Draws(3))
    known = {*zip(train.ratings.user_index.tolist(), train.ratings.item_index.tolist(), strict=True)}
    own = {*zip(held.user_index.tolist(), held.item_index.tolist(), strict=True)}
    found = list(zip(pairs.user.tolist(), pairs.item.tolist(), pairs.picked.tolist(), strict=True))
    assert {(u, i) for u, i, picked in found if picked} == own
    assert not {(u, i) for u, i, picked in found if not picked} & (known | own)


def test_features_know_the_history_alone(fitted):
    _, _, prior, _ = fitted
    everybody = SeatedPrior(prior, prior.tastes, np.arange(60))
    rows, items = np.repeat(np.arange(60), 50), np.tile(np.arange(50), 60)
    features = everybody.features(rows, items)
    ease = (prior.history.toarray() @ prior.weights)[rows, items]
    np.testing.assert_allclose(features[:, 0], ease, atol=1e-6)
    for u in (0, 41):
        own = features[rows == u, 1]
        assert abs(own.mean()) < 1e-4
        assert own.std() == pytest.approx(1.0, abs=1e-4)
    shuffled = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_allclose(everybody.features(rows[shuffled], items[shuffled]), features[shuffled], atol=1e-9)


def test_new_people_have_no_history_but_tastes(fitted):
    train, _, prior, c = fitted
    rows = np.array([3, -1, -1])
    users = Users(np.array(list("abc"), object), rows, {}, train.histories().take(rows))
    seated = prior.seat(users, c.noise_levels, c.noise, Draws(5))
    features = seated.features(np.repeat(np.arange(3), 50), np.tile(np.arange(50), 3))
    assert np.isfinite(features).all()
    first, second = features[50:100], features[100:]
    assert (first[:, 2] == second[:, 2]).all()
    assert (first[:, 3] != second[:, 3]).any()
    np.testing.assert_allclose(first[:, :2], np.column_stack([first[:, 2:], np.ones(50)]) @ prior.imputed)


def test_marks_are_distributions_and_calibrated_on_average(fitted):
    train, held, prior, c = fitted
    everybody = SeatedPrior(prior, prior.tastes, np.arange(60))
    marks = c.marks(everybody.scores(held.user_index, held.item_index), c.noise[held.user_index])
    np.testing.assert_allclose(marks.sum(axis=1), 1.0)
    real = [(held.rating == level).mean() for level in train.catalog.scale.levels]
    np.testing.assert_allclose(marks.mean(axis=0), real, atol=0.01)


def test_logistic_regression_finds_the_weights():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(20_000, 2)), np.ones(20_000)])
    y = rng.random(20_000) < 1 / (1 + np.exp(-(x @ [1.0, -2.0, 0.5])))
    np.testing.assert_allclose(logistic(x, y, np.ones(len(y))), [1.0, -2.0, 0.5], atol=0.1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), helps=st.floats(0, 3))
def test_the_blend_is_never_worse_than_the_prior_where_it_is_fitted(seed, helps):
    rng = np.random.default_rng(seed)
    prior, y = rng.normal(size=300), rng.random(300) < 0.4
    model = helps * y + rng.normal(size=300)

    def loss(z):
        return np.mean(np.logaddexp(0, z) - y * z)

    a, b, c = blend_watch(prior, model, y)
    assert loss(a * prior + b * model + c) <= loss(prior) + 1e-9
    shares, said = rng.dirichlet(np.ones(5), 300), rng.dirichlet(np.ones(5), 300)
    mark = rng.integers(0, 5, 300)
    w = blend_marks(shares, said, mark)
    logs = w[0] * np.log(np.maximum(shares, 1e-4)) + w[1] * np.log(np.maximum(said, 1e-4)) + w[2:]
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    start = np.maximum(shares, 1e-4)
    start /= start.sum(axis=1, keepdims=True)
    rows = np.arange(300)
    assert -logs[rows, mark].mean() <= -np.log(start[rows, mark]).mean() + 1e-9


def test_a_model_that_knows_gets_weight_and_noise_gets_none():
    rng = np.random.default_rng(0)
    prior, y = rng.normal(size=4000), rng.random(4000) < 0.5
    assert blend_watch(prior, 2.0 * y - 1 + rng.normal(size=4000), y)[1] > 1.0
    assert abs(blend_watch(prior, rng.normal(size=4000), y)[1]) < 0.1


def test_calibration_is_saved_and_loaded_without_pickle(world, tmp_path):
    w = seat(world)
    path = tmp_path / "calibration.npz"
    w.model.save_calibration(path)
    again = seat(world, calibration=path)
    assert not [r for r in again.engine.requests("watch")]  # nothing was fitted anew
    items = np.arange(12)
    for one, two in zip(w.model.judge_watch(w.rows, items), again.model.judge_watch(w.rows, items), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)
    for bad, said in ((tmp_path / "none.npz", "cannot read"), (path, "was fitted on 30 users")):
        with pytest.raises(ScenarioError, match=said):
            Calibration.load(bad, world.dataset(40))
    prior_alone = seat(world, use_llm=False)
    prior_alone.model.save_calibration(path)
    with pytest.raises(ScenarioError, match="without a language model"):
        seat(world, calibration=path)


def test_the_prior_alone_asks_nothing_for_what_it_decides(world):
    w = seat(world, use_llm=False)
    judged = w.model.judge(w.rows, np.arange(12))
    assert not w.engine.requests()
    assert judged.marks.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert not judged.bad.any()
    w.visible.open(w.rows, 0, 0)
    w.model.react(w.visible.observe(w.rows), world.random_slates(12))
    assert not w.engine.requests("watch")
    assert w.engine.requests("next")  # the model still decides what comes next and speaks


def test_a_page_uses_the_judged_probabilities(world):
    w = seat(world, goals=False)
    slate = world.random_slates(12)
    w.visible.open(w.rows, 0, 0)
    obs = w.visible.observe(w.rows)
    seen = np.unpackbits(obs.seen, axis=1, bitorder="little")[np.arange(12)[:, None], slate.items].astype(bool)
    _, trace = w.model.react(obs, slate)
    alone = seat(world, use_llm=False, again_penalty=0.0)
    alone.visible.open(alone.rows, 0, 0)
    _, plain = alone.model.react(alone.visible.observe(alone.rows), slate)
    rows, items = np.repeat(np.arange(12), 5), slate.items.ravel().astype(np.int64)
    log_odds, _ = alone.model.judge_watch(rows, items)
    np.testing.assert_allclose(plain.p_click.ravel(), 1 / (1 + np.exp(-log_odds)), rtol=1e-4)
    assert seen.any()
    assert trace.p_click[seen].mean() < trace.p_click[~seen].mean()


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 33), max_size=2, unique=True))
def test_any_partition_of_the_batch_gives_the_same_choices(request, cuts):
    world = request.getfixturevalue("world")
    whole, parts = (seat(world, 34) for _ in range(2))  # 30 of the data set, 4 new
    whole.visible.open(whole.rows, 0, 0)
    parts.visible.open(parts.rows, 0, 0)
    slate = world.random_slates(34)
    f, t = whole.model.react(whole.visible.observe(whole.rows), slate)
    for some in np.split(parts.rows, sorted(cuts)):
        g, s = parts.model.react(parts.visible.observe(some), world.slates(slate.items[some]))
        for name in ("clicked", "liked", "next_action", "rating"):
            np.testing.assert_array_equal(getattr(f, name)[some], getattr(g, name))
        np.testing.assert_allclose(t.p_click[some], s.p_click, atol=1e-6)


def test_state_round_trip_continues_identically(world):
    w = seat(world, 10)
    w.visible.open(w.rows, 0, 0)
    obs, slate, kept = w.visible.observe(w.rows), world.random_slates(10), w.model.state()
    f, _ = w.model.react(obs, slate)
    w.model.react(obs, world.random_slates(10, seed=10))
    w.model.load_state(kept)
    g, _ = w.model.react(obs, slate)
    np.testing.assert_array_equal(f.clicked, g.clicked)
    np.testing.assert_array_equal(f.next_action, g.next_action)


def test_bad_replies_are_told_and_not_fitted_on(world):
    class Broken(world.ScriptedEngine):
        def _choose(self, request):
            if request.key.purpose.startswith("watch") and request.key.item % 5 == 0:
                return np.array([np.nan, np.nan])
            return super()._choose(request)

    w = seat(world, engine=Broken())
    log_odds, bad = w.model.judge_watch(w.rows, np.arange(12))
    np.testing.assert_array_equal(bad, np.arange(12) % 5 == 0)
    assert np.isfinite(log_odds).all()
