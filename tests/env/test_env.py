"""The single environment: Gymnasium's contract, episodes, observations by hand, nothing hidden."""

import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from recsim_env.env import RecSimEnv
from recsim_env.errors import ContractError, ScenarioError
from recsim_env.records import unpack_seen
from recsim_env.registration import ENV_ID, register

SHAPES = [
    {},
    {"candidates": 10},
    {"slate_size": 1},
    {"episode": "session"},
    {"slate_size": 1, "candidates": 7, "episode": "session"},
]


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def roll(env, steps, seed=3):
    """Observations, rewards, ends and infos of a random policy, episode after episode."""
    env.action_space.seed(seed)
    results = [env.reset(seed=seed)]
    for _ in range(steps):
        results.append(env.step(env.action_space.sample()))
        if results[-1][2] or results[-1][3]:
            results.append(env.reset())
    return results


@pytest.mark.parametrize("item_ids", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_check_env_has_nothing_to_say(make_world, shape, item_ids):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(ENV_ID, world=make_world(**shape), item_ids=item_ids)
        check_env(env.unwrapped)


def test_make_takes_a_scenario():
    env = gymnasium.make(ENV_ID, scenario="quickstart", overrides=("users.count=3", "slate_size=2", "days=2"))
    observation, info = env.reset(seed=1)
    assert observation in env.observation_space
    assert info["day"] == 0
    assert env.action_space.nvec.tolist() == [env.unwrapped.vector.catalog.n_items] * 2


def test_registering_twice_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_two_copies_roll_out_alike(make_world, shape):
    world = make_world(**shape)
    one, other = RecSimEnv(world=world), RecSimEnv(world=world)
    for a, b in zip(roll(one, 60), roll(other, 60), strict=True):
        same(a[0], b[0])
        assert a[1:-1] == b[1:-1]
        same(a[-1], b[-1])


def test_environments_of_one_world_do_not_meet(make_world):
    world = make_world()
    alone = roll(RecSimEnv(world=world), 30)
    one, other = RecSimEnv(world=world), RecSimEnv(world=world)
    other.reset(seed=9)
    one.action_space.seed(3)
    mixed = [one.reset(seed=3)]
    while len(mixed) < len(alone):
        mixed.append(one.step(one.action_space.sample()))
        if other.step(other.action_space.sample())[2:4] != (False, False):
            other.reset()
        if mixed[-1][2] or mixed[-1][3]:
            mixed.append(one.reset())
    for a, b in zip(alone, mixed, strict=False):
        same(a[0], b[0])


def test_a_session_is_truncated_only_if_the_user_wants_to_stay(make_world):
    patient = make_world(episode="session", max_turns=2, users={"count": 12, "patience": 40.0})
    env = RecSimEnv(world=patient)
    env.reset(seed=1)
    assert env.step(np.array([0, 1, 2]))[2:4] == (False, False)
    observation, _, terminated, truncated, _ = env.step(np.array([3, 4, 5]))
    assert (terminated, truncated) == (False, True)
    assert observation["clock"].tolist() == [0.0, 0.0, 1.0, 0.0]
    hasty = make_world(episode="session", max_turns=2, users={"count": 12, "patience": 1e-3, "speak": 0.0})
    env = RecSimEnv(world=hasty)
    env.reset(seed=1)
    assert env.step(np.array([0, 1, 2]))[2:4] == (True, False)


def test_a_life_ends_by_churn_or_by_days(make_world):
    calendar = {"churn": 1.0}
    env = RecSimEnv(world=make_world(calendar=calendar))
    ends = [r[2:4] for r in roll(env, 40) if len(r) == 5]
    assert (True, False) in ends
    assert (False, True) not in ends
    calendar = {"churn": 0.0}
    env = RecSimEnv(world=make_world(calendar=calendar, days=2))
    ends = [r[2:4] for r in roll(env, 60) if len(r) == 5]
    assert (False, True) in ends
    assert (True, False) not in ends


def test_sessions_of_a_life_follow_the_calendar(make_world):
    env = RecSimEnv(world=make_world(calendar={"churn": 0.0, "again": 0.5, "max_sessions": 3}, days=9))
    when, first_pages = None, 0
    for result in roll(env, 200):
        observation, info, over = result[0], result[-1], len(result) == 5 and (result[2] or result[3])
        first = bool(observation["clock"][3])
        now = (int(info["day"]), int(info["session"]))
        if over:
            when = None
            continue
        if len(result) == 5 and first:
            assert now > when
            assert now[1] in (0, when[1] + 1)
            first_pages += 1
        elif len(result) == 5:
            assert now == when
        else:
            assert first
        when = now
    assert first_pages > 10


def test_nobody_ever_comes(make_world):
    empty = make_world(calendar={"first_day_all": False}, days=1, users={"count": 4, "open_rate": 1e-9})
    with pytest.raises(ScenarioError, match="No user opens the app"):
        RecSimEnv(world=empty).reset(seed=1)


def test_lives_start_late_where_not_everybody_comes_first(make_world):
    env = RecSimEnv(world=make_world(calendar={"first_day_all": False}))
    days = [env.reset()[1]["day"] for _ in range(24)]
    assert 0 < max(days) < 5


def test_after_the_end_comes_the_next_user(make_world):
    env = RecSimEnv(world=make_world(calendar={"churn": 1.0}))
    _, info = env.reset(seed=2)
    assert info["user"] == 0
    over = False
    while not over:
        _, _, terminated, truncated, info = env.step(np.array([1, 2, 3]))
        over = terminated or truncated
    assert info["user"] == 0
    with pytest.raises(ResetNeeded):
        env.step(np.array([1, 2, 3]))
    assert env.reset()[1]["user"] == 1
    assert env.reset()[1]["user"] == 2
    assert env.reset(options={"users": [7]})[1]["user"] == 7
    assert env.reset()[1]["user"] == 0


def test_a_second_life_has_other_luck_but_the_same_past(make_world):
    env = RecSimEnv(world=make_world(users={"count": 1, "appeal": -0.5}), item_ids=True)
    lives = []
    for _ in range(2):
        observation, _ = env.reset(options={"users": [0]})
        lives.append((observation, [env.step(np.arange(3) + 3 * i)[-1]["clicked"] for i in range(3)]))
    same(lives[0][0], lives[1][0])
    assert not np.array_equal(lives[0][1], lives[1][1])


def test_observations_by_hand(make_world):
    world = make_world(candidates=10, users={"count": 12, "appeal": 0.5, "patience": 20.0})
    env = RecSimEnv(world=world, item_ids=True)
    env.reset(seed=4, options={"users": [5]})
    catalog, users = env.vector.catalog, env.vector.simulator.users
    flags = catalog.item_categories.astype(float)
    shares = flags / np.maximum(flags.sum(axis=1, keepdims=True), 1)
    past = users.history.take(np.array([5]))
    items, ratings = list(past.items), [r for r in past.ratings if not np.isnan(r)]
    for turn in range(1, 4):
        candidates = env.observation_batch.candidates[0]
        observation, _, _, _, info = env.step(np.array([0, 3, 6]))
        shown = candidates[[0, 3, 6]]
        np.testing.assert_array_equal(info["items"], shown)
        clicked = shown[info["clicked"]]
        feedback = env.vector.last_page[2]
        items += list(clicked)
        ratings += [r for r in feedback.rating[0] if not np.isnan(r)]
        expected = [*shares[items].mean(axis=0), np.mean(ratings) / 2 - 1.5, np.log1p(len(items)) / np.log1p(60)]
        np.testing.assert_allclose(observation["user"], expected, atol=1e-6)
        page = [*shares[clicked].sum(axis=0), len(clicked), feedback.watched_fraction.sum()]
        np.testing.assert_allclose(observation["page"], np.array(page) / 3, atol=1e-6)
        np.testing.assert_allclose(observation["clock"], [0.0, 0.0, turn / 6, 0.0])
        np.testing.assert_array_equal(observation["history"], ([60] * 8 + items)[-8:])
        now = env.observation_batch
        np.testing.assert_array_equal(observation["candidates"], now.candidates[0])
        np.testing.assert_allclose(observation["candidate_features"][:, :6], env.item_features[now.candidates[0]])
        seen = unpack_seen(now.seen, 60)[0, now.candidates[0]]
        np.testing.assert_array_equal(observation["candidate_features"][:, 6], seen)


def test_what_the_user_says_is_seen(make_world):
    env = RecSimEnv(world=make_world(users={"count": 12, "patience": 1.0, "speak": 1.0}))
    spoken = [r[0] for r in roll(env, 60) if r[0]["message_kind"][2] == 1]
    assert spoken
    assert all((observation["message"] == 1).sum() == 1 for observation in spoken)


def test_hidden_state_does_not_show(make_world):
    env = RecSimEnv(world=make_world(candidates=10), item_ids=True)
    roll(env, 7)
    vector, simulator = env.vector, env.vector.simulator
    before = vector._observer.encode(simulator.observe(vector._episodes.rows))
    state = simulator.model.state()
    simulator.model.load_state({name: value[::-1] if name != "life" else value + 1 for name, value in state.items()})
    simulator.calendar.satisfaction[:] = 0.77
    simulator._mood[:] = -0.5
    same(before, vector._observer.encode(simulator.observe(vector._episodes.rows)))


def test_pickled_in_the_middle_it_goes_on_alike(make_world):
    env = RecSimEnv(world=make_world())
    env.reset(seed=5)
    env.step(np.array([0, 1, 2]))
    twin = pickle.loads(pickle.dumps(env))
    for _ in range(3):
        one, other = env.step(np.array([7, 8, 9])), twin.step(np.array([7, 8, 9]))
        same(one[0], other[0])
        assert one[1:4] == other[1:4]
        if one[2] or one[3]:
            break
    env.close()
    env.close()


def test_propensities_reach_the_slate_once(make_world):
    env = RecSimEnv(world=make_world())
    env.reset(seed=5)
    env.set_propensity(np.array([0.5, 0.25, 0.125]))
    env.step(np.array([4, 4, 6]))
    np.testing.assert_array_equal(env.vector.last_page[1].propensity, [[0.5, np.nan, np.float32(0.125)]])
    assert env.vector.last_page[1].items.tolist() == [[4, 5, 6]]
    env.reset(seed=5)
    env.step(np.array([4, 5, 6]))
    assert np.isnan(env.vector.last_page[1].propensity).all()
    with pytest.raises(ContractError, match=r"shape \(1, 2\), wanted \(1, 3\)"):
        env.set_propensity(np.array([0.5, 0.5]))


def test_a_page_as_text(make_world):
    env = RecSimEnv(world=make_world(users={"count": 12, "appeal": 5.0}), render_mode="ansi")
    env.reset(seed=1)
    assert env.render() == "No page was shown yet."
    env.step(np.array([3, 1, 59]))
    lines = env.render().splitlines()
    assert lines[0] == "user 0, day 0, session 0, page 0"
    assert [line.split()[:3] for line in lines[1:4]] == [["1.", "Film", "3"], ["2.", "Film", "1"], ["3.", "Film", "59"]]
    assert "clicked, watched" in lines[1]
    assert lines[4].startswith("  then: ")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.array([0, 1]), "wanted integers of shape"),
        (np.array([0.0, 1.0, 2.0]), "wanted integers of shape"),
        (np.array([0, 1, 60]), "there are slots 0 to 59"),
        (np.array([-1, 1, 6]), "there are slots 0 to 59"),
    ],
)
def test_bad_actions(make_world, action, message):
    env = RecSimEnv(world=make_world())
    env.reset(seed=1)
    with pytest.raises(ContractError, match=message):
        env.step(action)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": 3}, "Unknown reset option 'user'"),
        ({"users": []}, "at least 1 different users of 0 to 11"),
        ({"users": [12]}, "of 0 to 11"),
        ({"users": [-1]}, "of 0 to 11"),
        ({"users": [3, 3]}, "different users"),
    ],
)
def test_bad_options(make_world, options, message):
    with pytest.raises(ContractError, match=message):
        RecSimEnv(world=make_world()).reset(options=options)


def test_before_the_first_reset(make_world):
    with pytest.raises(ResetNeeded):
        RecSimEnv(world=make_world()).step(np.array([0, 1, 2]))


def test_world_and_scenario_exclude_each_other(make_world):
    with pytest.raises(ScenarioError, match="either a world"):
        RecSimEnv(world=make_world(), scenario="quickstart")
