"""Creators: how items are dealt, what is held back, who stops, and the promises about sameness, end to end."""

import numpy as np
import pandas as pd
import pytest

import recsim_env.runner as runner
from recsim_env.build import World
from recsim_env.creators import Creator, Creators
from recsim_env.data.works import Works, deal
from recsim_env.draws import Draws
from recsim_env.errors import ContractError, RecsimError, ScenarioError
from recsim_env.experiments.ope.logs import observations
from recsim_env.rebuild import rebuild
from recsim_env.records import MessageKind, SlateBatch
from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import CreatorsSection, load_scenario
from recsim_env.simulator import Simulator
from recsim_env.testing import reaction, tiny_dataset
from recsim_env.vector_env import RecSimVectorEnv

SMALL = {
    "name": "small",
    "days": 8,
    "slate_size": 5,
    "history_length": 20,
    "users": {"count": 40},
    "recommenders": [{"name": "popularity", "epsilon": 0.5}],
    "retrain_every": 3,
    "creators": {"count": 50, "publish": 0.4, "patience": 3, "least": 8},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return run_scenario(load_scenario(SMALL), tmp_path_factory.mktemp("runs") / "run")


def test_equal_shares_of_which_some_are_out():
    works = deal(CreatorsSection(count=5, opening=0.4), tiny_dataset(), Draws(0))
    assert sorted(works.lengths) == [2, 2, 2, 3, 3]
    assert (works.opening == 1).all()
    assert sorted(works.items) == list(range(12))
    for c in range(5):
        assert (works.creator[works.items[works.offsets[c] : works.offsets[c + 1]]] == c).all()
    assert deal(CreatorsSection(count=5), tiny_dataset(), Draws(1)).items.tolist() != works.items.tolist()


def test_creators_by_category_and_by_rating_differ():
    data = tiny_dataset()
    creator = deal(CreatorsSection(count=2, deal="category"), data, Draws(0)).creator
    assert len(set(creator[::2])) == len(set(creator[1::2])) == 1  # even items are one creator's, odd ones the other's
    stars = (data.ratings.item_index >= 6) + 1.0
    rated = data.with_ratings(type(data.ratings)(
        data.ratings.user_index, data.ratings.item_index, stars.astype(np.float32), data.ratings.timestamp
    ))  # fmt: skip
    creator = deal(CreatorsSection(count=2, deal="rating"), rated, Draws(0)).creator
    assert creator.tolist() == [0] * 6 + [1] * 6


def test_what_is_on_offer_by_hand():
    works = Works(np.array([0, 3, 5]), np.array([4, 0, 2, 3, 1], np.int32), np.array([1, 1]))
    assert works.creator.tolist() == [0, 1, 0, 1, 0]
    assert works.on_offer(works.opening).tolist() == [3, 4]
    assert works.on_offer(np.array([2, 0])).tolist() == [0, 4]
    assert works.on_offer(np.array([3, 2])).tolist() == [0, 1, 2, 3, 4]


def page(items, n_items):
    items = np.array([items], np.int32)
    unknown = np.full(items.shape, np.nan, np.float32)
    slate = SlateBatch(items, unknown, unknown, "mine")
    return slate, reaction(slate, True, n_items)


def test_who_is_not_seen_stops_and_its_items_stay(make_world):
    creators = {"count": 2, "publish": 1.0, "opening": 0.3, "patience": 2, "least": 1}
    world = make_world(creators=creators)
    simulator = world.simulator(0)
    n = simulator.catalog.n_items
    society = Creators(simulator, world.scenario.creators)
    seen, unseen = (int(society.works.items[start]) for start in society.works.offsets[:-1])
    out = society.works.opening.copy()
    for day in range(3):
        society.morning(day)
        society.see(*page([seen, n], n))
        society.evening()
        if day == 0:
            assert society.active.all()  # patience is two days
            assert [agent.exposure for agent in society.agents] == [1, 0]
    assert society.active.tolist() == [True, False]
    assert [agent.row for agent in society.agents] == [0]
    assert isinstance(society.agents[0], Creator)
    assert society.agents[0].exposure == 2
    assert (society.published - out).tolist() == [2, 1]
    assert len(society.agents[0].items) == out[0] + 2
    assert {seen, unseen} < set(simulator.offered.tolist())
    assert (simulator.offered < n).sum() == society.published.sum() < n
    society.close()


def test_recommenders_know_nothing_of_what_is_held_back(make_world):
    world = make_world(creators={"count": 3, "opening": 0.3})
    out = world.works.on_offer(world.works.opening)
    assert 0 < len(out) < world.dataset.n_items
    train, whole = world.split.train, make_world().split.train
    assert set(train.ratings.item_index) | set(world.split.test.item_index) <= set(out.tolist())
    assert len(train.ratings) == np.isin(whole.ratings.item_index, out).sum()
    assert (np.flatnonzero(train.catalog.popularity) == np.intersect1d(out, whole.ratings.item_index)).all()
    assert set(world.users(0).history.items) <= set(out.tolist())
    assert train.n_items == whole.n_items


def test_what_is_held_back_is_not_found_and_not_shown(make_world):
    world = make_world(creators={"count": 3, "opening": 0.3})
    simulator, everything = world.simulator(0), make_world().simulator(0)
    rows = np.arange(4)
    query = {"message": [str(simulator.catalog.categories[0])] * 4, "message_kind": np.full(4, MessageKind.SEARCH)}
    asked = simulator.observe(rows)
    for name, value in query.items():
        object.__setattr__(asked, name, value)
    out = world.works.on_offer(world.works.opening)
    held_back = np.setdiff1d(world.works.items, out)
    assert np.isin(everything.search(asked, 30).items, held_back).any()
    found = simulator.search(asked, 30).items
    assert not np.isin(found, held_back).any()
    assert (found < simulator.catalog.n_items).any()
    simulator.open(rows[:1], 0, 0)
    slate, _ = page([*out[:2], held_back[0]], simulator.catalog.n_items)
    with pytest.raises(ContractError, match=rf"item {held_back[0]} \(user 0, position 2\) is not on offer on day 0"):
        simulator.react(simulator.observe(rows[:1]), slate)
    simulator.offer(np.append(out, held_back[0]))
    simulator.react(simulator.observe(rows[:1]), slate)


def test_rows_add_up(path):
    run = load_run(path)
    shown, days, out = run.impressions, run.creators, run.releases
    assert len(days) == 8 * 50
    assert out["item"].is_unique
    maker = run.items["creator"].to_numpy()
    assert (maker[out["item"]] == out["creator"]).all()
    counts = out.groupby(["creator", "day"]).size().unstack(fill_value=0).cumsum(axis=1)
    items = days.pivot(index="creator", columns="day", values="items")
    assert counts.reindex(columns=items.columns, method="ffill").to_numpy().tolist() == items.to_numpy().tolist()
    shown = shown[shown["item"] < len(maker)]
    first = shown["item"].map(out.set_index("item")["day"])
    assert (first <= shown["day"]).all()  # NaN, of an item that never came out, would fail too
    assert (shown.loc[first > 0, "day"] == first[first > 0]).any()  # new items are shown on their first day already
    for column, rows in (("shown", shown), ("clicked", shown[shown["clicked"]])):
        by_maker = rows.groupby([maker[rows["item"]], "day"]).size().reindex(
            pd.MultiIndex.from_product([range(50), range(8)]), fill_value=0
        )  # fmt: skip
        table = days.sort_values(["creator", "day"])
        assert by_maker.to_numpy().tolist() == table[column].tolist()
    active = days.pivot(index="day", columns="creator", values="active").to_numpy()
    seen = days.pivot(index="day", columns="creator", values="shown").rolling(3).sum().to_numpy()
    assert active[:2].all()
    assert 0 < active[-1].sum() < 50
    for day in range(2, 8):
        assert (active[day] == (active[day - 1] & (seen[day] >= 8))).all()
        new = out.loc[out["day"] == day, "creator"]
        assert active[day - 1][new].all()  # who has stopped publishes nothing


def test_observations_of_several_days_stand_in_one_batch(path):
    """The candidate set has one width whatever comes out: what reads logs in blocks relies on it."""
    run = load_run(path)
    blocks = list(observations(run, "popularity", [0]))
    assert sum(obs.n for _, obs in blocks) == len(run.turns)
    out = run.releases.set_index("item")["day"]
    for _, obs in blocks:
        assert len(np.unique(obs.day)) > 1
        for day, row in zip(obs.day, obs.candidates, strict=True):
            assert row[row < 1099].tolist() == sorted(out.index[out <= day])


@pytest.mark.parametrize("recommender", ["uniform", "popularity"])
def test_observations_can_be_rebuilt(tmp_path, monkeypatch, recommender):
    live, react = {}, Simulator.react

    def spy(self, obs, slate):
        live.update({(int(u), int(obs.day[i]), int(obs.session[i]), int(obs.turn[i])): obs.candidates[i]
                     for i, u in enumerate(obs.user_index)})  # fmt: skip
        return react(self, obs, slate)

    monkeypatch.setattr(Simulator, "react", spy)
    run = load_run(run_scenario(load_scenario(SMALL, ["days=4", f"recommenders={recommender}"]), tmp_path / "run"))
    assert run.turns["candidates"].isna().all()  # what is on offer is told once, not with every page
    count = 0
    for obs, _, _ in rebuild(run, f"{recommender}-seed0"):
        for i, user in enumerate(obs.user_index):
            expected = live[int(user), int(obs.day[i]), int(obs.session[i]), int(obs.turn[i])]
            np.testing.assert_array_equal(obs.candidates[i], expected)
            count += 1
    assert count == len(live) > 100


def test_a_retriever_picks_from_what_is_on_offer(tmp_path):
    run = load_run(run_scenario(load_scenario(SMALL, ["days=2", "candidates=20"]), tmp_path / "run"))
    first = run.turns[run.turns["day"] == 0]
    out = run.releases.loc[run.releases["day"] == 0, "item"]
    assert np.isin(np.stack(first["candidates"].to_list()), out).all()


def test_batch_size_changes_nothing(path, tmp_path, assert_same_runs):
    assert_same_runs(path, run_scenario(load_scenario(SMALL, ["batch_size=7"]), tmp_path / "run"))


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(path, tmp_path, monkeypatch, assert_same_runs):
    monkeypatch.setattr(runner, "COMMIT_SECONDS", 0.0)

    def stop(at):
        if at.day == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_scenario(load_scenario(SMALL), tmp_path / "run", on_progress=stop)
    assert load_run(tmp_path / "run").creators["day"].max() == 4
    run_scenario(load_scenario(SMALL), tmp_path / "run", resume=True)
    assert_same_runs(path, tmp_path / "run")


def test_creators_who_hold_nothing_back_change_no_choice(tmp_path, assert_same_runs):
    """With everything out from day 0 users are shown, and do, what they do without creators."""
    alone = run_scenario(load_scenario({**SMALL, "creators": {}}), tmp_path / "alone")
    made = run_scenario(load_scenario(SMALL, ["creators.opening=1"]), tmp_path / "made")
    assert not len(load_run(alone).creators) + len(load_run(alone).releases)
    assert len(load_run(made).releases) == 1099
    assert_same_runs(alone, made, ("impressions", "turns", "sessions"))


def test_no_creators_leave_the_fingerprint_as_it_was():
    plain = load_scenario({**SMALL, "creators": {}})
    assert plain.fingerprint() == load_scenario({k: v for k, v in SMALL.items() if k != "creators"}).fingerprint()
    assert plain.fingerprint() != load_scenario(SMALL).fingerprint()
    assert load_scenario(load_scenario(SMALL).flat()) == load_scenario(SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": -1}, r"creators\.count"),
        ({"deal": "luck"}, r"creators\.deal"),
        ({"opening": 0}, r"creators\.opening"),
        ({"patients": 3}, r"Did you mean 'creators\.patience'"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(RecsimError, match=message):
        load_scenario({**SMALL, "creators": changes})


def test_more_creators_than_items_are_refused(make_world):
    with pytest.raises(ScenarioError, match=r"500 creators cannot share the \d+ items"):
        _ = make_world(creators={"count": 500}).works


def test_a_saved_recommender_is_refused():
    """It may have been trained on what is held back."""
    saved = [{"name": "popularity", "path": "somewhere"}]
    with pytest.raises(ScenarioError, match=r"popularity: a saved recommender \(path\) may have learned"):
        World(load_scenario({**SMALL, "recommenders": saved, "retrain_every": 0}))


def test_the_environment_refuses_creators():
    with pytest.raises(ScenarioError, match=r"creators\.count=0"):
        RecSimVectorEnv(world=World(load_scenario(SMALL)))
