"""The fidelity suite: protocol, measures by hand, worlds with known answers, interventions, the command."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsim_env.draws import Draws
from recsim_env.errors import DataError, RunFolderError, ScenarioError, UnknownNameError
from recsim_env.experiments.fidelity.classifier import history_features, told_apart
from recsim_env.experiments.fidelity.interventions import Finding, SwappedLetters
from recsim_env.experiments.fidelity.judges import Baseline, Judge, baselines
from recsim_env.experiments.fidelity.judging import Task, judge_task
from recsim_env.experiments.fidelity.measures import (
    area_under_curve,
    best_threshold,
    calibration_bins,
    choose,
    group_f1,
    jensen_shannon,
    mark_shares,
    ndcg_ties,
    preference_f1,
    spread_ratio,
    user_means,
    wasserstein,
)
from recsim_env.experiments.fidelity.protocol import Protocol, make_groups, rated_rows, split_parts
from recsim_env.experiments.fidelity.published import missed
from recsim_env.experiments.fidelity.suite import Plan, choose_folder
from recsim_env.interfaces import Engine
from recsim_env.records import Catalog, ChoiceRequest, Dataset, Ratings, RatingScale, RequestKey

LEVELS = np.arange(1.0, 6.0)


def toy(n_users=20, n_items=120, n_ratings=30, seed=0, rating=None):
    """Users who rated ``n_ratings`` films each; ``rating(user, item)`` gives the stars."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), n_ratings)
    item = np.concatenate([rng.permutation(n_items)[:n_ratings] for _ in range(n_users)])
    stars = rng.integers(1, 6, len(user)) if rating is None else rating(user, item)
    names = np.array([f"i{i}" for i in range(n_items)], object)
    flags = np.zeros((n_items, 2), bool)
    flags[np.arange(n_items), np.arange(n_items) % 2] = True
    catalog = Catalog(
        names, names, ("A", "B"), flags, np.full(n_items, "", object), np.zeros(n_items, np.int16),
        np.bincount(item, minlength=n_items), RatingScale(1, 5),
    )  # fmt: skip
    ratings = Ratings(user.astype(np.int32), item.astype(np.int32), stars.astype(np.float32), np.arange(len(user)))
    return Dataset("toy", catalog, np.array([f"u{u}" for u in range(n_users)], object), {}, ratings)


def pairs(ratings):
    return {*zip(ratings.user_index.tolist(), ratings.item_index.tolist(), strict=True)}


@settings(max_examples=25, deadline=None)
@given(
    n_users=st.integers(1, 12), n_ratings=st.integers(10, 70), n_items=st.integers(90, 130),  # 19 unseen at least
    m=st.sampled_from([1, 3, 9, 19]), seed=st.integers(0, 5),
)  # fmt: skip
def test_the_protocol_keeps_its_promises(n_users, n_ratings, n_items, m, seed):
    data, protocol, draws = toy(n_users, n_items, n_ratings, seed), Protocol(n_users=8), Draws(seed)
    parts = split_parts(data, protocol, draws)
    sets = [pairs(parts.train.ratings), pairs(parts.validation), pairs(parts.test)]
    assert sum(map(len, sets)) == len(data.ratings)
    assert set.union(*sets) == pairs(data.ratings)  # so no rating is in two parts
    counts = np.bincount(parts.test.user_index, minlength=n_users)
    assert (counts == round(0.2 * n_ratings)).all()
    assert (np.bincount(parts.validation.user_index, minlength=n_users) == round(0.1 * n_ratings)).all()
    assert (parts.train.catalog.popularity == np.bincount(parts.train.ratings.item_index, minlength=n_items)).all()
    assert len(parts.users) == min(8, n_users)
    groups = make_groups(parts, parts.test, m, protocol, draws, "test")
    size = 20 // (1 + m)
    rated, held = pairs(data.ratings), pairs(parts.test)
    for user, items, positive, shown in zip(groups.user, groups.items, groups.positive, groups.shown, strict=True):
        assert shown.sum() == positive.sum() * (1 + m) <= 20
        assert len(set(items[shown].tolist())) == shown.sum()
        assert (items[~shown] == n_items).all()
        assert all((user, i) in held for i in items[positive].tolist())
        assert not any((user, i) in rated for i in items[shown & ~positive].tolist())
    per_user = np.bincount(groups.user, minlength=n_users)[parts.users]
    assert (per_user == min(5, max(counts[0] // size, 1))).all()
    assert (groups.positive.sum(axis=1) == min(size, counts[0])).all()
    rows = rated_rows(parts, 5, draws, "rated")
    assert pairs(rows) <= held
    assert (np.bincount(rows.user_index, minlength=n_users)[parts.users] == min(5, counts[0])).all()


def test_the_order_of_users_and_rows_changes_nothing():
    data, draws = toy(), Draws(3)
    order = np.random.default_rng(0).permutation(len(data.ratings))
    one, two = (split_parts(d, Protocol(), draws) for d in (data, data.with_ratings(data.ratings.take(order))))
    assert pairs(one.test) == pairs(two.test)
    for held in ("test", "validation"):
        a, b = (make_groups(p, getattr(p, held), 3, Protocol(), draws, held) for p in (one, two))
        np.testing.assert_array_equal(a.items, b.items)
    assert pairs(split_parts(data, Protocol(), Draws(4)).test) != pairs(one.test)


def test_nobody_to_judge_is_an_error():
    with pytest.raises(DataError, match="no user has 10 ratings"):
        split_parts(toy(n_ratings=5), Protocol(), Draws(0))


def test_f1_and_thresholds_by_hand():
    positive = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
    scores = np.array([[3.0, 1.0, 2.0, 0.0], [5.0, 4.0, 0.0, np.nan]])
    np.testing.assert_allclose(group_f1(choose(scores, 1.5), positive), [0.5, 2 / 3])
    np.testing.assert_allclose(group_f1(choose(scores, 0.5), positive), [0.8, 2 / 3])
    assert (group_f1(choose(scores, 9.0), positive) == 0).all()
    t = best_threshold(scores, positive, np.array([0, 1]))
    assert 0.0 < t < 1.0
    assert best_threshold(np.full((1, 4), 7.0), positive[:1], np.zeros(1)) < 7.0  # a constant: all are chosen
    users, means = user_means(np.array([1.0, 0.0, 5.0]), np.array([7, 7, 9]))
    assert (users.tolist(), means.tolist()) == ([7, 9], [0.5, 5.0])


def test_ndcg_averages_over_ties():
    one = np.array([[True, False, False]])
    assert ndcg_ties(np.array([[3.0, 2.0, 1.0]]), one)[0] == pytest.approx(1.0)
    assert ndcg_ties(np.array([[1.0, 2.0, 3.0]]), one)[0] == pytest.approx(1 / np.log2(4))
    expected = np.mean([1.0, 1 / np.log2(3), 1 / np.log2(4)])
    assert ndcg_ties(np.zeros((1, 3)), one)[0] == pytest.approx(expected)
    assert ndcg_ties(np.zeros((1, 3)), one, k=1)[0] == pytest.approx(1 / 3)
    padded = np.array([[1.0, 2.0, np.nan, np.nan]])
    assert ndcg_ties(padded, np.array([[True, True, False, False]]))[0] == pytest.approx(1.0)


def test_distributions_by_hand():
    p, q = np.array([1.0, 0, 0, 0, 0]), np.array([0, 0, 0, 0, 1.0])
    assert jensen_shannon(p, q) == pytest.approx(1.0)
    assert jensen_shannon(p, p) == 0.0
    assert wasserstein(p, q, LEVELS) == pytest.approx(4.0)
    assert mark_shares(np.array([1.0, 1.0, 5.0, 3.0]), LEVELS).tolist() == [0.5, 0, 0.25, 0, 0.25]
    user = np.array([0, 0, 1, 1])
    assert spread_ratio(np.array([1.0, 1, 3, 3]), np.array([1.0, 1, 5, 5]), user) == pytest.approx(0.5)
    users, f1 = preference_f1(np.array([1, 0, 0, 0], bool), np.array([1, 1, 0, 0], bool), user)
    assert users.tolist() == [0]
    assert f1[0] == pytest.approx(2 / 3)


def test_auc_by_hand_and_reliability():
    positive = np.array([True, False, True, False])
    assert area_under_curve(np.array([4.0, 3, 2, 1]), positive) == pytest.approx(0.75)
    assert area_under_curve(np.ones(4), positive) == pytest.approx(0.5)
    assert np.isnan(area_under_curve(np.ones(2), np.ones(2, bool)))
    bins = calibration_bins(np.array([0.1, 0.9, 0.1, 0.9]), np.array([0, 1, 0, 1], bool), 2)
    assert [(round(p, 6), share, n) for p, share, n in bins] == [(0.1, 0.0, 2), (0.9, 1.0, 2)]


def histories(sigma, seed, n=200, length=20):
    rng = np.random.default_rng(seed)
    mean = rng.uniform(2, 4.5, n * length)
    stars = np.clip(np.round(mean + sigma * rng.normal(size=n * length)), 1, 5)
    return history_features(stars, np.repeat(np.arange(n), length), mean, LEVELS)


def test_the_classifier_tells_what_differs_and_nothing_else():
    real = histories(0.8, 0)
    assert told_apart(real, histories(0.8, 1)) == pytest.approx(0.5, abs=0.08)
    assert told_apart(real, histories(0.05, 1)) > 0.95
    assert told_apart(histories(0.05, 1), real) > 0.95
    constant = history_features(np.full(20, 4.0), np.repeat([0, 1], 10), np.full(20, 3.0), LEVELS)
    assert np.isfinite(constant).all()


class Perfect(Judge):
    """Knows everything."""

    probabilistic = True

    def __init__(self, data, broken=False):
        self.stars = np.zeros((data.n_users, data.n_items))
        self.stars[data.ratings.user_index, data.ratings.item_index] = data.ratings.rating
        self.broken = broken

    def watch(self, users, items):
        return np.where(self.stars[users, items] > 0, 9.0, -9.0), np.full(len(users), self.broken)

    def marks(self, users, items):
        return (self.stars[users, items][:, None] == LEVELS).astype(float), np.full(len(users), self.broken)


@pytest.fixture(scope="module")
def task():
    data, protocol = toy(40), Protocol()
    return Task.of(split_parts(data, protocol, Draws(0)), protocol, Draws(0))


def mean(verdict, name):
    return float(verdict.per_user[name][1].mean())


def test_a_perfect_judge_is_perfect(task):
    verdict = judge_task(Perfect(task.parts.whole), task)
    for m in (1, 3, 9, 19):
        assert mean(verdict, f"f1_m{m}") == mean(verdict, f"ndcg_m{m}") == 1.0
    assert mean(verdict, "mae") == mean(verdict, "rmse") == 0.0
    assert mean(verdict, "preference_f1") == 1.0
    assert verdict.overall["js"] == verdict.overall["wasserstein"] == verdict.overall["bad"] == 0.0
    assert verdict.overall["spread"] == 1.0
    assert verdict.overall["positive_share"] == pytest.approx(0.25, abs=0.01)
    assert verdict.overall["auc"] == pytest.approx(0.5, abs=0.05)


def test_a_constant_judge_gets_the_base_rate(task):
    flat = Baseline(lambda u, i: np.zeros(len(u)), lambda u, i: np.full((len(u), 5), 0.2))
    verdict = judge_task(flat, task)
    for m in (1, 3, 9, 19):
        assert mean(verdict, f"f1_m{m}") == pytest.approx(2 / (2 + m))  # all are chosen
    rows = task.rated
    by_user = [np.abs(3.0 - rows.rating[rows.user_index == u]).mean() for u in np.unique(rows.user_index)]
    assert mean(verdict, "mae") == pytest.approx(np.mean(by_user))
    assert "positive_share" not in verdict.overall


def test_bad_replies_count_as_the_worst_answer(task):
    verdict = judge_task(Perfect(task.parts.whole, broken=True), task)
    assert verdict.overall["bad"] == 1.0
    for m in (1, 3, 9, 19):
        assert mean(verdict, f"f1_m{m}") == 0.0
    assert mean(verdict, "preference_f1") == 0.0
    rows = task.rated
    worst = np.maximum(rows.rating - 1, 5 - rows.rating)
    by_user = [worst[rows.user_index == u].mean() for u in np.unique(rows.user_index)]
    assert mean(verdict, "mae") == pytest.approx(np.mean(by_user))


def test_baselines_see_the_training_part_alone(task):
    parts = task.parts
    other = replace(parts, test=parts.test.take(np.arange(0)))
    users, items = np.repeat(parts.users, 3), np.tile([0, 5, 9], len(parts.users))
    for name, made in baselines(parts, Draws(0)).items():
        one, two = made(), baselines(other, Draws(0))[name]()
        np.testing.assert_array_equal(one.watch(users, items)[0], two.watch(users, items)[0])
        marks, bad = one.marks(users, items)
        np.testing.assert_allclose(marks.sum(axis=1), 1.0)
        assert not bad.any()
    seen = parts.train.ratings.rating[parts.train.ratings.item_index == 5]
    overall = parts.train.ratings.rating.mean()
    expected = (seen.sum() + 5 * overall) / (len(seen) + 5)
    assert baselines(parts, Draws(0))["item mean"]().watch(users[:1], np.array([5]))[0][0] == pytest.approx(expected)


class Loves(Engine):
    """Prefers a letter, or a meaning."""

    def __init__(self, letter=None, meaning=None):
        self.letter, self.meaning = letter, meaning

    def choose(self, requests):
        found = []
        for r in requests:
            lines = r.messages[-1]["content"].split("\n")[-1 - len(r.options) : -1]
            hit = [
                o == self.letter or line.endswith(f": {self.meaning}") for o, line in zip(r.options, lines, strict=True)
            ]
            found.append(np.log(np.where(hit, 0.9, 0.1 / (len(hit) - 1))))
        return found

    def generate(self, requests):
        return []

    def close(self):
        return None


def test_swapped_letters_change_a_model_that_loves_a_letter_only():
    text = "# The app shows you\nA: strange title\nDo you watch it now?\nA: no\nB: yes\nYour answer, one letter:"
    request = ChoiceRequest(({"role": "user", "content": text},), ("A", "B"), RequestKey(0, 0, 0, 0, 0, 1, "watch"))
    for engine, same in ((Loves(meaning="yes"), True), (Loves(letter="A"), False)):
        (plain,), (swapped,) = engine.choose([request]), SwappedLetters(engine).choose([request])
        assert np.allclose(plain, swapped) is same


def test_findings_hold_by_their_interval():
    luck = np.random.default_rng(0).normal(size=100)
    assert Finding.of("a", "b", "falls", luck - 3).holds == "yes"
    assert Finding.of("a", "b", "falls", luck + 3).holds == "no"
    assert Finding.of("a", "b", "rises", luck - luck.mean()).holds == "unclear"
    assert Finding.of("a", "b", "none", np.full(5, 0.01)).holds == "yes"
    assert Finding.of("a", "b", "none", np.full(5, 0.1)).holds == "no"


def test_missed_goals_are_named():
    good = {"f1_m1": 0.9, "mae": 0.6, "spread": 1.0}
    assert missed(good) == []
    assert missed({**good, "mae": 0.7, "spread": 0.5}) == [
        "mae is 0.700, goal at most 0.69",
        "spread is 0.500, goal at least 0.85",
    ]


def test_plans_and_folders_are_checked(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'hybrid'"):
        Plan(users=("hibrid",))
    with pytest.raises(ScenarioError, match="each once"):
        Plan(users=("llm", "llm"))
    (tmp_path / "other.txt").write_text("x")
    with pytest.raises(RunFolderError, match="Choose another folder"):
        choose_folder(tmp_path)


def cli(*words, cwd):
    command = [sys.executable, "-m", "recsim_env.cli", "fidelity", *words]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=variables)


def test_the_command_writes_table_and_plots(tmp_path):
    done = cli("--n-users", "60", "--seeds", "1", "--out", "here", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "behavioural users" in done.stdout
    assert "people" in done.stdout
    here = tmp_path / "here"
    record = json.loads((here / "fidelity.json").read_text())
    assert record["status"] == "complete"
    rows = {row["name"]: row for row in record["rows"]}
    assert set(rows) == {
        "popularity", "item mean", "user mean", "biases", "factors", "EASE", "behavioral", "prior alone"
    }  # fmt: skip
    assert rows["user mean"]["f1_m19"] == pytest.approx(2 / 21, abs=1e-6)
    assert rows["behavioral"]["low"]["f1_m1"] < rows["behavioral"]["f1_m1"] < rows["behavioral"]["high"]["f1_m1"]
    found = {f["name"]: f for f in record["interventions"]["behavioral"]["findings"]}
    assert found["item repeated"]["holds"] == "yes"
    assert found["positions shuffled, item by item"]["value"] == 0.0
    assert {p.name for p in here.glob("*.png")} == {
        "stars.png", "calibration.png", "interaction.png", "positions.png"
    }  # fmt: skip
    assert "goal for hybrid users" not in (here / "fidelity.md").read_text()  # goals speak of MovieLens-1M


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--users", "llm"), "needs a language model"),
        (("--users", "behavioural"), "Did you mean 'behavioral'"),
        (("--data", "nowhere"), "Or give the path"),
        (("--set", "users.appeel=1"), "Did you mean 'appeal'"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, words, said):
    done = cli(*words, "-q", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


FOLDER = Path(os.environ.get("RECSIM_DATA", "../shared/data")) / "ml-1m"


@pytest.mark.slow
@pytest.mark.realdata
def test_known_figures_of_movielens():
    if not FOLDER.is_dir():
        if "RECSIM_DATA" in os.environ:
            pytest.fail(f"RECSIM_DATA is set, but {FOLDER} is absent")
        pytest.skip(f"{FOLDER} is absent; set RECSIM_DATA")
    from recsim_env.data.load import load_dataset
    from recsim_env.scenario import Data

    data, protocol = load_dataset(Data(path=FOLDER)), Protocol()
    found = {"popularity": [], "EASE": []}
    for seed in range(3):
        draws = Draws(seed)
        parts = split_parts(data, protocol, draws)
        task = Task.of(parts, protocol, draws)
        for name in found:
            verdict = judge_task(baselines(parts, draws)[name](), task)
            found[name].append([mean(verdict, f"f1_m{m}") for m in (1, 3, 9, 19)])
    np.testing.assert_allclose(np.mean(found["popularity"], axis=0), [0.787, 0.630, 0.452, 0.319], atol=0.01)
    np.testing.assert_allclose(np.mean(found["EASE"], axis=0), [0.832, 0.729, 0.591, 0.469], atol=0.01)


KNOWS = {"calls": 0, "kill_after": None}


@pytest.fixture
def scripted(agents_helpers, monkeypatch):
    """Engine ``scripted``: watches even titles, loves the letter B a little, breaks where the item ends in 7."""
    from recsim_env.interfaces import Config
    from recsim_env.registry import embedders, engines

    class Scripted(agents_helpers.ScriptedEngine):
        config_class = Config

        def __init__(self, config=None):
            super().__init__()

        def choose(self, requests):
            KNOWS["calls"] += len(requests)
            if KNOWS["kill_after"] is not None and KNOWS["calls"] > KNOWS["kill_after"]:
                raise KeyboardInterrupt
            return super().choose(requests)

        def _choose(self, request):
            if request.key.purpose.startswith("watch") and request.key.item % 10 == 7:
                return np.full(2, np.nan)
            if "watched it before" in request.messages[-1]["content"]:
                return np.log([0.99, 0.01])
            return super()._choose(request)

    class Letters(agents_helpers.LetterEmbedder):
        pass

    monkeypatch.setitem(engines._entries, "scripted", Scripted)
    monkeypatch.setitem(embedders._entries, "letters", Letters)
    KNOWS.update(calls=0, kill_after=None)


def test_language_model_users_go_through_all_of_it_and_a_stopped_measurement_goes_on(scripted, tmp_path):
    from recsim_env.experiments.fidelity.suite import run_fidelity

    plan = Plan(("llm", "hybrid"), 1, 0, Protocol(n_users=12), n_llm_users=6, n_intervened=5)
    few = {"name": "movietweetings", "min_ratings": 20}
    overrides = ["engine={name: scripted, embedder: letters}", "users.calibration_pairs=60"]
    KNOWS["kill_after"] = 800
    with pytest.raises(KeyboardInterrupt):
        run_fidelity(few, tmp_path / "a", plan, overrides)
    assert json.loads((tmp_path / "a" / "fidelity.json").read_text())["status"] == "interrupted"
    first = KNOWS["calls"]
    KNOWS.update(calls=0, kill_after=None)
    run_fidelity(few, tmp_path / "a", plan, overrides)
    resumed = KNOWS["calls"]
    KNOWS["calls"] = 0
    run_fidelity(few, tmp_path / "a", plan, overrides)
    # Only what stayed bad is asked again: a bad reply is stored too, so nothing is.
    assert KNOWS["calls"] == 0
    assert resumed > 0
    record = json.loads((tmp_path / "a" / "fidelity.json").read_text())
    rows = {row["name"]: row for row in record["rows"]}
    assert first > 800
    assert (rows["llm"]["n_users"], rows["prior alone, same users"]["n_users"]) == (6, 6)
    assert 0.03 < rows["llm"]["bad"] < 0.2
    assert (tmp_path / "a" / "calibration-hybrid-0.npz").exists()
    told = record["interventions"]["llm"]
    found = {f["name"]: f for f in told["findings"]}
    assert found["item repeated"]["holds"] == "yes"
    assert found["positions shuffled, item by item"]["value"] == 0.0
    assert found["letters swapped"]["holds"] == "no"  # its answers are a hash of the prompt
    assert set(found) == {
        "persona removed", "item repeated", "positions shuffled, item by item", "letters swapped",
        "positions shuffled, page as a list", "average displayed",
    }  # fmt: skip
    corrected = {c["option"].partition(":")[0]: c for c in told["corrections"]}
    assert set(corrected) == {"watch_bias", "mark_temperature", "list_orders", "no average on cards (always)"}
