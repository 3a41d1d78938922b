"""The vector environment: our own checker, slots, sameness with single environments and with the runner."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from hypothesis import given
from hypothesis import strategies as st

from recsim_env import runner
from recsim_env.env import RecSimEnv, RecSimVectorEnv
from recsim_env.errors import ContractError
from recsim_env.interfaces import Recommender
from recsim_env.records import SlateBatch
from recsim_env.registration import ENV_ID
from recsim_env.slots import choose_items, slots_of
from recsim_env.vector_checker import check_vector_env

SHAPES = [
    {},
    {"candidates": 10},
    {"slate_size": 1},
    {"episode": "session"},
    {"slate_size": 1, "candidates": 7, "episode": "session"},
    {"calendar": {"first_day_all": False, "again": 0.6, "max_sessions": 3}},
]


@pytest.mark.parametrize("item_ids", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_our_checker_has_nothing_to_say(make_world, shape, item_ids):
    check_vector_env(RecSimVectorEnv(world=make_world(**shape), num_envs=5, item_ids=item_ids), steps=40)


def test_make_vec(make_world):
    for mode in (None, "vector_entry_point"):
        env = gymnasium.make_vec(ENV_ID, num_envs=4, vectorization_mode=mode, world=make_world())
        assert isinstance(env, RecSimVectorEnv)
        assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        check_vector_env(env)


class Faulty(VectorWrapper):
    """Breaks one promise of the environment it wraps."""

    def __init__(self, env, fault):
        super().__init__(env)
        self.fault = fault
        self.kept = None
        if fault == "mode":
            self._metadata = {}
        if fault == "space":
            self._observation_space = env.single_observation_space

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=0 if self.fault == "seed" else seed, options=options)
        if self.fault == "hidden":
            info["satisfaction"], info["_satisfaction"] = np.zeros(self.num_envs), np.ones(self.num_envs, bool)
        if self.fault == "mask":
            del info["_user"]
        return observation, info

    def step(self, actions):
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if self.fault == "dtype":
            observation["user"] = observation["user"].astype(np.float64)
        if self.fault == "range":
            observation["clock"] = observation["clock"] + np.float32(2.0)
        if self.fault == "nan":
            observation["page"][0] = np.nan
        if self.fault == "key":
            observation["more"] = observation["user"]
        if self.fault == "reused":
            self.kept = observation["user"] if self.kept is None else self.kept
            observation["user"] = self.kept
        if self.fault == "reward":
            reward = reward[:, None]
        if self.fault == "final":
            info.pop("_final_obs", None)
        if self.fault == "luck":
            reward = reward + np.random.rand()  # noqa: NPY002
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("mode", "autoreset_mode"),
        ("space", "not single_observation_space batched 5 times"),
        ("seed", "reset.seed=7. and reset.seed=8. start with the same"),
        ("hidden", "'satisfaction': hidden state"),
        ("mask", "is not a mask"),
        ("dtype", "'user'.*float64, its space says float32"),
        ("range", "'clock'.*leaves its space"),
        ("nan", "'page'.*holds NaN"),
        ("key", "has keys"),
        ("reused", "returned the same arrays"),
        ("reward", "reward is not an array of floats"),
        ("final", "marks other slots than those that ended"),
        ("luck", "global generator"),
    ],
)
def test_our_checker_finds(make_world, fault, message):
    with pytest.raises(ContractError, match=message):
        check_vector_env(Faulty(RecSimVectorEnv(world=make_world(), num_envs=5), fault))


class ServedFirst(gymnasium.Wrapper):
    """Serves given users first."""

    def __init__(self, env, users):
        super().__init__(env)
        self.users = users

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed, options=None if seed is None else {"users": self.users})


def assert_close(one, other):
    """Equal integers and flags, floats within 1e-6, in nested results."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_close(one[name], other[name])
    elif isinstance(one, np.ndarray) and one.dtype == object:
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, atol=1e-6 if one.dtype.kind == "f" else 0, rtol=0)
    else:
        assert one == other


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_n_slots_are_n_single_environments(make_world, shape):
    world, n, count = make_world(**{**shape, "users": {"count": 60, "patience": 3.0, "appeal": -1.0}}), 4, 60
    vector = RecSimVectorEnv(world=world, num_envs=n)
    singles = SyncVectorEnv(
        [lambda i=i: ServedFirst(RecSimEnv(world=world), np.arange(i, count, n)) for i in range(n)],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    assert vector.observation_space == singles.observation_space
    vector.action_space.seed(1)
    assert_close(singles.reset(seed=[6] * n)[0], vector.reset(seed=6)[0])
    n_over = 0
    for _ in range(40):
        action = vector.action_space.sample()
        one, other = singles.step(action), vector.step(action)
        for a, b in zip(one[:4], other[:4], strict=True):
            assert_close(a, b)
        n_over += int((one[2] | one[3]).sum())
        known = {name: other[4][name] for name in one[4]}  # Gymnasium leaves out keys that no slot has
        if "final_info" in known:
            known["final_info"] = {name: known["final_info"][name] for name in one[4]["final_info"]}
        assert_close(one[4], known)
        rest = [name for name in other[4].keys() - one[4].keys() if name.startswith("_")]
        assert not any(other[4][name].any() for name in rest)
    assert n_over > 4


def test_no_two_slots_share_a_user(make_world):
    env = RecSimVectorEnv(world=make_world(), num_envs=5)
    served = [[] for _ in range(5)]
    env.action_space.seed(0)
    _, info = env.reset(seed=2, options={"users": [11, 3, 0, 4, 9, 10]})
    assert info["user"].tolist() == [11, 3, 0, 4, 9]
    for _ in range(150):
        for slot, user in enumerate(info["user"]):
            if not served[slot] or served[slot][-1] != user:
                served[slot].append(int(user))
        info = env.step(env.action_space.sample())[4]
        assert len(set(info["user"])) == 5
    assert served[0][:4] == [11, 10, 7, 11]
    assert served[1][:3] == [3, 1, 8]
    assert set().union(*map(set, served)) == set(range(12))
    assert not any(set(a) & set(b) for i, a in enumerate(served) for b in served[:i])


def test_more_slots_than_users_in_the_scenario(make_world):
    env = RecSimVectorEnv(world=make_world(), num_envs=50)
    _, info = env.reset(seed=2)
    assert info["user"].tolist() == list(range(50))


class Recorder(Recommender):
    """Shows a page that depends on who and when alone, and writes down what was clicked."""

    def fit(self, dataset, draws):
        self.n_items, self.pages = dataset.n_items, {}

    def recommend(self, obs, slate_size, draws):
        start = obs.user_index * 7 + obs.day * 11 + obs.session * 5 + obs.turn * slate_size
        items = ((start[:, None] + np.arange(slate_size)) % self.n_items).astype(np.int32)
        unknown = np.full(items.shape, np.nan, np.float32)
        return SlateBatch(items, unknown, unknown, "recorder")

    def log_prob(self, obs, items):
        raise NotImplementedError

    def observe(self, obs, slate, feedback):
        for row in range(obs.n):
            key = (obs.user_index[row], obs.day[row], obs.session[row], obs.turn[row])
            seen = (feedback.clicked, feedback.rating, feedback.watched_fraction)
            self.pages[tuple(map(int, key))] = (slate.items[row], *(values[row] for values in seen))

    def save(self, folder):
        raise NotImplementedError

    @classmethod
    def load(cls, folder):
        raise NotImplementedError


@pytest.mark.parametrize("first_day_all", [True, False])
def test_the_runner_and_the_environment_tell_the_same_story(make_world, first_day_all):
    calendar = {"first_day_all": first_day_all, "again": 0.5, "max_sessions": 3}
    users = {"count": 25, "patience": 4.0, "appeal": -1.0, "search": 0.5}
    world = make_world(calendar=calendar, days=8, users=users)
    by_runner, by_env = Recorder(), Recorder()
    by_runner.fit(world.split.train, world.draws)
    by_env.fit(world.split.train, world.draws)

    writer = SimpleNamespace(committed_days=10**9, pending_rows=0)
    clock = SimpleNamespace(tick=lambda *_: None, since_commit=lambda: 0.0)
    runner._run_cell(world.scenario, world.simulator(3), by_runner, "recorder", 3, writer, None, clock)

    env = RecSimVectorEnv(world=world, num_envs=25)
    env.reset(seed=3)
    life = env.simulator.calendar._life
    while (life == 0).any():
        obs = env.observation_batch
        slate = env.simulator.serve(by_env, obs)
        first = life[obs.user_index] == 0
        env.step(slots_of(obs, slate.items))
        obs, slate, feedback = env.last_page
        for row in np.flatnonzero(first):
            one = np.array([row])
            by_env.observe(
                obs.take(one), SlateBatch(slate.items[one], *[slate.propensity[one]] * 2, "x"), _row(feedback, row)
            )

    assert by_env.pages.keys() == by_runner.pages.keys()
    assert len(by_env.pages) > 150
    for key, page in by_runner.pages.items():
        for ours, theirs in zip(by_env.pages[key], page, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)


def _row(feedback, row):
    return SimpleNamespace(
        clicked=feedback.clicked[row : row + 1],
        rating=feedback.rating[row : row + 1],
        watched_fraction=feedback.watched_fraction[row : row + 1],
    )


@pytest.mark.parametrize(
    ("slots", "candidates", "items", "replaced"),
    [
        ([3, 1, 4], None, [3, 1, 4], [0, 0, 0]),
        ([3, 3, 4], None, [3, 5, 4], [0, 1, 0]),
        ([7, 7, 7], None, [7, 0, 1], [0, 1, 1]),
        ([0, 1, 2], [5, 6, 7], [5, 6, 7], [0, 0, 0]),
        ([0, 0, 0], [5, 6, 7], [5, 6, 7], [0, 1, 1]),
        ([1, 2, 3], [5, 8, 8, 6, 7], [7, 5, 6], [1, 1, 0]),
        ([1, 1, 0], [5, 8, 8], [8, 8, 5], [1, 1, 0]),
    ],
)
def test_slots_that_cannot_be_shown_give_way(slots, candidates, items, replaced):
    some = None if candidates is None else np.array([candidates])
    got, flags = choose_items(np.array([slots]), some, 8)
    assert got.tolist() == [items]
    assert flags.tolist() == [[bool(r) for r in replaced]]


@given(st.data())
def test_every_action_gives_a_clean_page(data):
    n_items, k = 9, 4
    n_slots = data.draw(st.integers(k, n_items))
    real = data.draw(st.integers(0, n_slots))
    slots = np.array(
        data.draw(st.lists(st.lists(st.integers(0, n_slots - 1), min_size=k, max_size=k), min_size=1, max_size=5))
    )
    order = np.array(data.draw(st.permutations(range(n_items))))
    candidates = np.tile(np.r_[order[:real], np.full(n_slots - real, n_items)], (len(slots), 1))
    items, replaced = choose_items(slots, candidates, n_items)
    wished = np.take_along_axis(candidates, slots, axis=1)
    assert (items[~replaced] == wished[~replaced]).all()
    for row, wish, flags in zip(items, wished, replaced, strict=True):
        shown = row[row < n_items]
        assert len(set(shown)) == len(shown) == min(k, real)
        assert set(shown) <= set(order[:real])
        fine = [w < n_items and w not in wish[:p] for p, w in enumerate(wish)]
        assert (~flags).tolist() == fine


def test_slots_of_finds_the_way_back(make_world):
    env = RecSimVectorEnv(world=make_world(candidates=10), num_envs=5)
    env.reset(seed=1)
    env.action_space.seed(1)
    for _ in range(5):
        obs = env.observation_batch
        env.step(env.action_space.sample())
        items = env.last_page[1].items
        again, replaced = choose_items(slots_of(obs, items), obs.candidates, 60)
        np.testing.assert_array_equal(again, items)
        assert not replaced.any()
    foreign = np.setdiff1d(np.arange(60), env.observation_batch.candidates[2])[:3]
    with pytest.raises(ContractError, match=r"Item \d+ \(row \d, position \d\) is not among the candidates of user"):
        slots_of(env.observation_batch, np.tile(foreign, (5, 1)))
