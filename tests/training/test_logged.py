"""Learning from run folders: returns by a loop, what is refused, and a policy that gets better than its log."""

import pandas as pd
import pytest

from recsim_env.build import World
from recsim_env.errors import ScenarioError
from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario
from recsim_env.training.logged import read_log
from recsim_env.training.policy import START, train_policy
from recsim_env.vector_env import RecSimVectorEnv

POLICY = "recommenders=[{name: slate-pg, epochs: 0, dim: 8, max_length: 8}, uniform]"
LEARNING = [
    POLICY, "users.count=64", "training.num_envs=64", "training.turns=20", "training.evaluate_every=30",
    "training.evaluate_users=100", "training.second_users=null", "training.held_out=0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    changes = ["recommenders=[uniform, {name: popularity, temperature: 0}]", "users.count=400", "days=3"]
    return run_scenario("rl_quickstart", tmp_path_factory.mktemp("log") / "run", changes)


def environment(*changes):
    return RecSimVectorEnv(world=World(load_scenario("rl_quickstart", [POLICY, *changes])), num_envs=8)


@pytest.mark.parametrize("episode", ["session", "life"])
def test_returns_against_a_loop(log, episode):
    pages = read_log(log, "uniform", environment(f"episode={episode}", "reward={clicks: 1, stay: 0.5}"), 0.8)
    turns = load_run(log).table("turns", cell="uniform-seed0").sort_values(["user", "day", "session", "turn"])
    shown = load_run(log).table("impressions", cell="uniform-seed0")
    clicks = shown.groupby(["user", "day", "session", "turn"], observed=True)["clicked"].sum()
    expected, following = {}, {}
    for row in turns.iloc[::-1].itertuples():
        when = (row.user, row.day, row.session, row.turn)
        visit = (row.user, row.day, row.session) if episode == "session" else row.user
        expected[when] = following.get(visit, 0.0)
        stays = 0.5 * (row.next_action != 3)
        following[visit] = 0.8 * (clicks[when] + stays + expected[when])
    n = 0
    for page in pages:
        for i in range(page.obs.n):
            when = tuple(int(getattr(page.obs, name)[i]) for name in ("user_index", "day", "session", "turn"))
            assert page.later[i] == pytest.approx(expected[when], abs=1e-3)
            n += 1
    assert 1000 < n <= len(turns)


@pytest.mark.parametrize("correct", ["position", "top-k"])
def test_it_gets_better_than_the_policy_that_logged(log, tmp_path, correct):
    told = train_policy(
        load_scenario(
            "rl_quickstart",
            [
                *LEARNING, "training.iterations=30", f"training.log={log}", "training.logged_policy=uniform",
                f"training.correct={correct}", "training.discount=0.3", "training.log_kl_limit=5",
            ],
        ),
        tmp_path / "out",
    )  # fmt: skip
    rows = told["held_out"]
    assert rows["slate-pg"]["reward"]["low"] > 1.5 * rows["uniform"]["reward"]["high"]
    assert rows["slate-pg"]["reward"]["mean"] > rows[START]["reward"]["mean"]


def test_it_stays_near_the_log(log, tmp_path):
    settings = [*LEARNING, f"training.log={log}", "training.logged_policy=uniform", "training.iterations=30"]
    apart = []
    for limit in (0.05, 5.0):
        out = tmp_path / str(limit)
        train_policy(load_scenario("rl_quickstart", [*settings, f"training.log_kl_limit={limit}"]), out)
        apart.append(pd.read_parquet(out / "log.parquet")["kl"].iloc[-10:].mean())
    assert apart[0] < 0.1 < apart[1]


def test_what_is_refused(log):
    with pytest.raises(ScenarioError, match=r"name one of the recommenders of .*: uniform, popularity"):
        read_log(log, None, environment(), 0.9)
    with pytest.raises(ScenarioError, match="leaves nothing to chance"):
        read_log(log, "popularity", environment(), 0.9)
    with pytest.raises(ScenarioError, match="Set slate_size: 10"):
        read_log(log, "uniform", environment("slate_size=5"), 0.9)
