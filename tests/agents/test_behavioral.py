"""Behavioural users: what a page does to them, checked against the model's own formulas and known worlds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from recsim_env.agents.behavioral import BehavioralConfig, BehavioralUsers
from recsim_env.draws import Draws
from recsim_env.records import (
    Catalog,
    Dataset,
    Histories,
    MessageKind,
    NextAction,
    Ratings,
    RatingScale,
    SlateBatch,
    Users,
)
from recsim_env.visible import VisibleState


def dataset(n_users=60, n_items=40, seed=0):
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), 15)
    item = np.concatenate([rng.permutation(n_items)[:15] for _ in range(n_users)])
    rating = np.where(user % 2 == item % 2, 5, 2) - (rng.random(len(user)) < 0.3)
    flags = np.zeros((n_items, 4), bool)
    flags[np.arange(n_items), np.arange(n_items) % 4] = True
    ids = np.array([f"i{i}" for i in range(n_items)], object)
    catalog = Catalog(
        ids, ids, ("Action", "Comedy", "Drama", "Horror"), flags, np.full(n_items, "", object),
        np.full(n_items, 2000, np.int16), np.bincount(item, minlength=n_items), RatingScale(1, 5),
    )  # fmt: skip
    ratings = Ratings(user.astype(np.int32), item.astype(np.int32), rating.astype(np.float32), np.arange(len(user)))
    return Dataset("toy", catalog, np.array([f"u{u}" for u in range(n_users)], object), {}, ratings)


def seat(n=60, history=False, seed=0, **config):
    """A model, its visible state and all rows; users beyond the data set's 60 are new."""
    data = dataset()
    model = BehavioralUsers(BehavioralConfig(n_factors=4, **config))
    model.fit(data, Draws(0))
    row = np.concatenate([np.arange(min(n, 60)), np.full(max(0, n - 60), -1)])
    past = data.histories().take(row) if history else Histories(
        np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
    )  # fmt: skip
    users = Users(np.array([f"u{i}" for i in range(n)], object), row, {}, past)
    model.reset(users, Draws(seed))
    return model, VisibleState(data.catalog, users, 5, 20), np.arange(n)


def slates(items):
    items = np.asarray(items, np.int32)
    nan = np.full(items.shape, np.nan, np.float32)
    return SlateBatch(items, nan, nan, "test")


def random_slates(n, k=5, n_items=40, seed=1):
    rng = np.random.default_rng(seed)
    return slates([rng.permutation(n_items)[:k] for _ in range(n)])


@pytest.mark.parametrize("choice", ["cascade", "logit"])
def test_click_frequency_is_the_stated_probability(choice):
    model, visible, rows = seat(choice=choice)
    slate = random_slates(len(rows))
    total, expected = 0.0, None
    for day in range(400):  # the same page again and again, other luck
        model.reset_rows(rows)
        visible.open(rows, day, 0)
        feedback, trace = model.react(visible.observe(rows), slate)
        total += feedback.clicked
        expected = trace.p_click if expected is None else expected
    error = total / 400 - expected
    sd = np.sqrt(expected * (1 - expected) / 400)
    assert np.abs(error / np.maximum(sd, 1e-3)).max() < 5.5
    assert abs((error / np.maximum(sd, 1e-3)).mean()) < 0.25


def test_cascade_reads_from_the_top_and_logit_clicks_at_most_once():
    model, visible, rows = seat()
    feedback, trace = model.react(visible.observe(rows), random_slates(len(rows)))
    assert trace.examined[:, 0].all()
    assert (np.diff(trace.examined.astype(int), axis=1) <= 0).all()  # nobody looks again after having stopped
    assert not (feedback.clicked & ~trace.examined).any()
    model, visible, rows = seat(choice="logit", appeal=2.0)
    feedback, _ = model.react(visible.observe(rows), random_slates(len(rows)))
    assert feedback.clicked.sum(axis=1).max() == 1
    assert feedback.clicked.sum() > 10


def test_users_click_what_they_like():
    model, visible, rows = seat(appeal=-1.0, taste=1.0, interest=0.0)
    items = np.tile(np.array([0, 1, 2, 3, 4]), (len(rows), 1))
    _, trace = model.react(visible.observe(rows), slates(items))
    same = rows[:, None] % 2 == items % 2
    assert trace.expected_rating[same].mean() > trace.expected_rating[~same].mean() + 1.5
    first = trace.p_click[:, 0]  # position 0 is always examined: a pure click probability
    assert first[rows % 2 == 0].mean() > 1.5 * first[rows % 2 == 1].mean()


def test_feedback_is_consistent():
    model, visible, rows = seat(appeal=1.0, rate=0.5, share=0.5)
    f, _ = model.react(visible.observe(rows), random_slates(len(rows)))
    assert f.clicked.any()
    assert ((f.watched_fraction > 0) == f.clicked).all()
    assert (f.watched_fraction <= 1).all()
    assert not (~np.isnan(f.rating) & ~f.clicked).any()
    assert np.isin(f.rating[~np.isnan(f.rating)], [1, 2, 3, 4, 5]).all()
    assert not (f.liked & ~f.clicked).any()
    assert not (f.shared & ~f.liked).any()
    assert f.shared.any()
    assert (f.rating[f.liked & ~np.isnan(f.rating)] >= 4).all()
    speaks = np.isin(f.next_action, [NextAction.SEARCH, NextAction.INSTRUCT])
    assert [text is not None for text in f.message] == speaks.tolist()


def test_nobody_clicks_padding():
    model, visible, rows = seat(appeal=5.0)
    slate = random_slates(len(rows))
    slate.items[:, 3:] = 40
    feedback, trace = model.react(visible.observe(rows), slate)
    assert feedback.clicked[:, :3].any()
    assert not feedback.clicked[:, 3:].any()
    assert not trace.examined[:, 3:].any()
    assert trace.p_click[:, 3:].max() < 1e-6


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 69), max_size=4, unique=True), choice=st.sampled_from(["cascade", "logit"]))
def test_any_partition_of_the_batch_gives_the_same_choices(cuts, choice):
    whole, visible, rows = seat(70, choice=choice)
    parts, visible2, _ = seat(70, choice=choice)
    for day in range(3):
        visible.open(rows, day, 0)
        visible2.open(rows, day, 0)
        slate = random_slates(70, seed=day)
        f, t = whole.react(visible.observe(rows), slate)
        for some in np.split(rows, sorted(cuts)):
            if some.size:
                g, s = parts.react(visible2.observe(some), slates(slate.items[some]))
                for name in ("clicked", "liked", "shared", "next_action"):
                    np.testing.assert_array_equal(getattr(f, name)[some], getattr(g, name))
                np.testing.assert_allclose(f.rating[some], g.rating)
                np.testing.assert_allclose(f.watched_fraction[some], g.watched_fraction, atol=1e-6)
                np.testing.assert_allclose(t.p_click[some], s.p_click, atol=1e-6)
                assert [f.message[i] for i in some] == g.message


def test_more_than_one_block_equals_one_block(monkeypatch):
    results = []
    for block in (4096, 7):
        monkeypatch.setattr("recsim_env.agents.behavioral.BLOCK", block)
        model, visible, rows = seat(70)
        results.append(model.react(visible.observe(rows), random_slates(70)))
    (f, t), (g, s) = results
    np.testing.assert_array_equal(f.clicked, g.clicked)
    np.testing.assert_allclose(t.mindset_after, s.mindset_after, atol=1e-6)
    assert f.message == g.message


def test_luck_belongs_to_the_item_not_to_its_place():
    """Common random numbers: at equal probability the same item meets the same luck in another slate."""
    model, visible, rows = seat(go_on=1.0, go_on_clicked=1.0)
    slate = random_slates(len(rows))
    f, _ = model.react(visible.observe(rows), slate)
    model2, visible2, _ = seat(go_on=1.0, go_on_clicked=1.0)
    g, _ = model2.react(visible2.observe(rows), slates(slate.items[:, ::-1]))
    np.testing.assert_array_equal(f.clicked, g.clicked[:, ::-1])


def test_satiation_lowers_and_nights_restore_appetite():
    model, visible, rows = seat(appeal=3.0, satiation=1.0, again_penalty=0.0, repeat_penalty=0.0, patience=100.0)
    comedies = slates(np.tile(np.array([1, 5, 9, 13, 17]), (len(rows), 1)))
    visible.open(rows, 0, 0)
    first = last = None
    for _ in range(6):
        obs = visible.observe(rows)
        feedback, trace = model.react(obs, comedies)
        visible.apply(rows, comedies, feedback)
        first = trace.p_click[:, 0].mean() if first is None else first
        last = trace.p_click[:, 0].mean()
    assert last < first - 0.1
    visible.open(rows, 9, 0)
    _, rested = model.react(visible.observe(rows), comedies)
    assert abs(rested.p_click[:, 0].mean() - first) < 0.05


def test_seen_and_repeated_items_are_less_attractive():
    model, visible, rows = seat(history=True)
    seen_item = visible.observe(rows).history[:, -1]
    unseen = np.array([next(i for i in range(40) if i not in set(h)) for h in visible.observe(rows).history])
    items = np.stack([seen_item, unseen, unseen, unseen, unseen], axis=1)  # only the first place matters here
    _, with_seen = model.react(visible.observe(rows), slates(items))
    fresh, visible2, _ = seat(history=False)
    _, without = fresh.react(visible2.observe(rows), slates(items))
    assert (with_seen.p_click[:, 0] < without.p_click[:, 0]).all()


def test_people_leave_and_speak_before_leaving():
    model, visible, rows = seat(appeal=-8.0, patience=3.0, speak=1.0)
    visible.open(rows, 0, 0)
    actions = []
    words = []
    active = rows
    for turn in range(30):
        slate = random_slates(len(active), seed=turn)
        feedback, _ = model.react(visible.observe(active), slate)
        visible.apply(active, slate, feedback)
        actions.append(feedback.next_action)
        words += [m for m in feedback.message if m]
        active = active[feedback.next_action != NextAction.LEAVE]
        if not active.size:
            break
    assert not active.size  # a boring app is left by everybody
    assert (np.concatenate(actions) == NextAction.INSTRUCT).sum() == len(rows)  # once each
    assert any(m.startswith("Show me something else") for m in words)


def test_an_instruction_heeded_raises_trust_and_one_ignored_lowers_it():
    def after(categories_shown):
        model, visible, rows = seat(appeal=-8.0, patience=0.2, speak=1.0)
        visible.open(rows, 0, 0)
        slate = random_slates(len(rows))
        feedback, _ = model.react(visible.observe(rows), slate)
        visible.apply(rows, slate, feedback)
        obs = visible.observe(rows)
        asked = obs.message_kind == MessageKind.INSTRUCT
        assert asked.all()
        wanted = obs.message_vector.argmax(axis=1)
        shown = (wanted + categories_shown) % 4
        items = shown[:, None] + 4 * np.arange(5)
        _, trace = model.react(obs, slates(items))
        return trace.mindset_after[:, 2]

    assert (after(0) > 0.2).all()
    assert after(1).mean() < after(0).mean() - 0.2


def test_words_of_the_recommender_reach_those_who_had_asked():
    def trust(answer):
        model, visible, rows = seat(appeal=-8.0, patience=0.2, speak=1.0, courtesy=0.1)
        visible.open(rows, 0, 0)
        slate = random_slates(len(rows))
        feedback, _ = model.react(visible.observe(rows), slate)
        visible.apply(rows, slate, feedback)
        said = replace(random_slates(len(rows), seed=2), answer=[answer, None] * (len(rows) // 2))
        return model.react(visible.observe(rows), said)[1].mindset_after[:, 2]

    gained = trust("Here is more of it.") - trust(None)
    np.testing.assert_allclose(gained[::2], 0.1, atol=1e-6)
    np.testing.assert_array_equal(gained[1::2], 0)


def test_state_round_trip_continues_identically():
    model, visible, rows = seat()
    visible.open(rows, 0, 0)
    first = random_slates(len(rows), seed=3)
    feedback, _ = model.react(visible.observe(rows), first)
    visible.apply(rows, first, feedback)
    kept = model.state()
    second = random_slates(len(rows), seed=4)
    f, _ = model.react(visible.observe(rows), second)
    model.react(visible.observe(rows), random_slates(len(rows), seed=5))
    model.load_state(kept)
    g, _ = model.react(visible.observe(rows), second)
    np.testing.assert_array_equal(f.clicked, g.clicked)
    np.testing.assert_array_equal(f.next_action, g.next_action)


def test_a_new_life_has_new_luck_and_the_old_state_is_gone():
    model, visible, rows = seat(appeal=0.0)
    visible.open(rows, 0, 0)
    slate = random_slates(len(rows))
    f, _ = model.react(visible.observe(rows), slate)
    model.reset_rows(rows)
    g, trace = model.react(visible.observe(rows), slate)
    assert (f.clicked != g.clicked).any()
    assert (trace.mindset_before == 0).all()


def test_a_catalogue_without_categories_works(monkeypatch):
    multiply = np.einsum

    def among_nans(spec, *arrays):
        """Einsum whose empty operands lie in memory that holds NaN, as it happens when that was in use before."""
        nan = np.full(1, np.nan, np.float32)
        return multiply(spec, *(a if a.size else as_strided(nan, a.shape, a.strides) for a in arrays))

    monkeypatch.setattr(np, "einsum", among_nans)
    data = dataset()
    bare = Catalog(
        data.catalog.item_id, data.catalog.title, (), np.zeros((40, 0), bool), data.catalog.text, data.catalog.year,
        data.catalog.popularity, data.catalog.scale,
    )  # fmt: skip
    data = Dataset("bare", bare, data.user_id, {}, data.ratings)
    model = BehavioralUsers(BehavioralConfig(patience=1.0, appeal=-8.0, speak=1.0))
    model.fit(data, Draws(0))
    users = Users(data.user_id, np.arange(60), {}, data.histories())
    model.reset(users, Draws(0))
    visible = VisibleState(bare, users, 5, 20)
    feedback, trace = model.react(visible.observe(np.arange(60)), random_slates(60))
    assert np.isfinite(trace.p_click).all()
    assert set(feedback.next_action) <= {NextAction.NEXT, NextAction.LEAVE}
