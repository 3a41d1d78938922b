import copy

import numpy as np
import pandas as pd
import pytest

from recsim_env.errors import RunFolderError, UnknownNameError
from recsim_env.evaluation import series
from recsim_env.evaluation.cells import rebuild_slates
from recsim_env.evaluation.summary import METRICS, evaluate, paired_differences, summary_table
from recsim_env.evaluation.tables import read_world, split_by_cell


@pytest.fixture(scope="module")
def table(fake_run):
    return summary_table(fake_run)


def test_every_metric_with_its_interval(table):
    assert table.index.tolist() == ["popularity", "uniform", "ease"]
    for metric in METRICS:
        value, low, high = (table[f"{metric.name}{end}"] for end in ("", "_low", "_high"))
        assert value.notna().all(), metric.name
        assert ((low <= value + 1e-9) & (value <= high + 1e-9)).all(), metric.name
        assert (low < high).all() or metric.name == "coverage", metric.name


def test_session_figures_agree_with_pandas(table, fake_run):
    s = fake_run.tables["sessions"]
    for name, part in s.groupby("recommender", observed=True):
        row = table.loc[name]
        users = 40 * 2
        assert row.clicks_per_turn == pytest.approx(part.n_clicks.sum() / part.n_turns.sum())
        assert row.watched_per_turn == pytest.approx(part.watched.sum() / part.n_turns.sum())
        rated = part[part.n_ratings > 0]
        assert row.mean_rating == pytest.approx((rated.mean_rating * rated.n_ratings).sum() / rated.n_ratings.sum())
        assert row.session_length == pytest.approx(part.n_turns.mean())
        assert row.sessions_per_user == pytest.approx(len(part) / users)
        assert row.reward_per_user == pytest.approx(part.reward.sum() / users)
        late = part[part.day >= 3]
        assert row.retention == pytest.approx(len(late[["seed", "user"]].drop_duplicates()) / users)
        assert row.not_churned == pytest.approx(1 - part.churned.sum() / users)


def test_slate_figures_agree_with_pandas(table, fake_run):
    shown = fake_run.tables["impressions"]
    shown = shown[shown.policy != "catalog-search"]
    items = fake_run.items
    bits = -np.log2(items.popularity / items.popularity.sum())
    for name, part in shown.groupby("recommender", observed=True):
        assert table.novelty[name] == pytest.approx(bits.to_numpy()[part["item"]].mean())
        covered = [len(cell["item"].unique()) / len(items) for _, cell in part.groupby("seed")]
        assert table.coverage[name] == pytest.approx(np.mean(covered))
    assert table.gini["popularity"] > table.gini["ease"] > table.gini["uniform"]
    assert table.novelty["popularity"] < table.novelty["uniform"]
    assert table.ndcg.tolist() == pytest.approx([0.05, 0.07, 0.09])


def test_differences_are_paired(table, fake_run):
    found = paired_differences(fake_run, "uniform")
    assert found.index.tolist() == ["popularity", "ease"]
    assert "ndcg" not in found
    for metric in METRICS:
        if metric.name != "ndcg":
            expected = table.loc["ease", metric.name] - table.loc["uniform", metric.name]
            assert found.loc["ease", metric.name] == pytest.approx(expected), metric.name
    assert found.loc["ease", "not_churned_low"] > 0
    assert found.loc["popularity", "gini_low"] > 0


def test_a_recommender_does_not_differ_from_its_twin(fake_run):
    twin = copy.copy(fake_run)
    twin.tables = {}
    for name, frame in fake_run.tables.items():
        ease = frame[frame.recommender == "ease"]
        frames = [ease.assign(recommender=label) for label in ("one", "two")]
        twin.tables[name] = pd.concat(frames, ignore_index=True)
    twin.manifest = {**fake_run.manifest, "cells": []}
    found = paired_differences(twin)
    assert np.allclose(found.filter(regex="_(low|high)$"), 0)


def test_unknown_baseline(fake_run):
    with pytest.raises(UnknownNameError, match="Did you mean 'popularity'"):
        paired_differences(fake_run, "popularty")


def test_empty_run_is_refused(fake_run):
    empty = copy.copy(fake_run)
    empty.tables = {name: frame.iloc[:0] for name, frame in fake_run.tables.items()}
    with pytest.raises(RunFolderError, match=r"no sessions.*--resume"):
        summary_table(empty)


def test_unfinished_cells_are_left_out(fake_run):
    partial = copy.copy(fake_run)
    partial.manifest = {**fake_run.manifest, "status": "failed", "cells": fake_run.manifest["cells"][:3]}
    world = read_world(partial)
    assert world.cells == (("popularity", 0), ("popularity", 1), ("uniform", 0))
    assert world.n_days == 10
    found = evaluate(partial)
    assert found.table().index.tolist() == ["popularity", "uniform"]
    # Only seed 0 has both.
    rate = {
        name: part.n_clicks.sum() / part.n_turns.sum()
        for name, part in fake_run.tables["sessions"].query("seed == 0").groupby("recommender", observed=True)
    }
    expected = rate["uniform"] - rate["popularity"]
    assert found.differences("popularity").clicks_per_turn["uniform"] == pytest.approx(expected)


def test_a_run_cut_in_its_first_cell_is_read_up_to_its_last_day(fake_run):
    cut = copy.copy(fake_run)
    sessions = fake_run.tables["sessions"].query("recommender == 'popularity' and seed == 0 and day < 4")
    cut.tables = {**fake_run.tables, "sessions": sessions}
    cut.manifest = {**fake_run.manifest, "status": "interrupted", "cells": []}
    world = read_world(cut)
    assert (world.cells, world.n_days) == ((("popularity", 0),), 4)
    assert summary_table(cut).loc["popularity", "retention"] == 1  # all 40 came on day 0


def test_order_of_rows_does_not_matter(table, fake_run):
    shuffled = copy.copy(fake_run)
    rng = np.random.default_rng(0)
    shuffled.tables = {n: f.iloc[rng.permutation(len(f))].reset_index(drop=True) for n, f in fake_run.tables.items()}
    again = summary_table(shuffled)
    np.testing.assert_allclose(again.loc[table.index].to_numpy(), table.to_numpy(), rtol=1e-6)


def test_rebuilt_slates():
    shown = {
        "user": np.array([7, 7, 7, 8, 8]), "day": np.zeros(5, int), "session": np.zeros(5, int),
        "turn": np.array([0, 0, 1, 0, 0]), "position": np.array([1, 0, 0, 0, 1]), "item": np.array([4, 3, 5, 1, 2]),
    }  # fmt: skip
    user, slates = rebuild_slates(shown, 9)
    assert user.tolist() == [7, 7, 8]
    assert slates.tolist() == [[3, 4], [5, 9], [1, 2]]


def test_cells_of_contiguous_and_scattered_rows(fake_run):
    world = read_world(fake_run)
    frame = fake_run.tables["sessions"]
    together = split_by_cell(frame, world)
    assert all(isinstance(rows, slice) for rows in together.values())
    mixed = frame.sample(frac=1, random_state=0).reset_index(drop=True)
    for cell, rows in split_by_cell(mixed, world).items():
        part = mixed.iloc[rows]
        assert set(part.recommender) == {cell[0]}
        assert set(part.seed) == {cell[1]}
        assert len(part) == together[cell].stop - together[cell].start


def test_series_agree_with_pandas_and_the_table(table, fake_run):
    world = read_world(fake_run)
    engagement = series.engagement_by_day(fake_run, world)
    sessions = fake_run.tables["sessions"]
    sums = sessions[sessions.recommender == "ease"].groupby("day")[["n_clicks", "n_turns"]].sum()
    expected = sums.n_clicks / sums.n_turns
    np.testing.assert_allclose(engagement[engagement.recommender == "ease"].value, expected)

    retention = series.retention_by_day(fake_run, world)
    last = retention[retention.day == 9].set_index("recommender").value
    assert last["ease"] == pytest.approx(table.retention["ease"])
    assert (retention[retention.day == 0].value == 1).all()

    mood = series.mindset_by_day(fake_run, world, "trace_boredom")
    turns = fake_run.tables["turns"]
    expected = turns[turns.recommender == "uniform"].groupby("day").trace_boredom.mean()
    np.testing.assert_allclose(mood[mood.recommender == "uniform"].value, expected)

    genres = series.genre_entropy_by_day(fake_run, world)
    assert (genres.value.dropna() <= np.log2(6) + 1e-9).all()
    for frame in (engagement, retention, mood, genres):
        assert list(frame) == ["recommender", "day", "value", "low", "high"]
        known = frame.dropna()
        assert ((known.low <= known.value + 1e-9) & (known.value <= known.high + 1e-9)).all()


def test_rating_shares(fake_run):
    shares = series.rating_shares(fake_run, read_world(fake_run))
    assert shares.index.tolist() == [1, 2, 3, 4, 5]
    assert list(shares) == ["data", "popularity", "uniform", "ease"]
    np.testing.assert_allclose(shares.sum(), 1)
    impressions = fake_run.tables["impressions"]
    given = impressions.loc[impressions.recommender == "ease", "rating"].dropna()
    assert shares.loc[4, "ease"] == pytest.approx((given == 4).mean())
