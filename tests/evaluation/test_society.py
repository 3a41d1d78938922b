"""Populations and creators in the evaluation: known answers on tables made by hand, and a real run's report."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from recsim_env.evaluation.beyond_accuracy import gini
from recsim_env.evaluation.society import CREATORS, POPULATION
from recsim_env.evaluation.tables import read_world
from recsim_env.evaluation.trends import last_trends
from recsim_env.report import write_report
from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario

SMALL = {
    "name": "small",
    "days": 5,
    "slate_size": 5,
    "history_length": 20,
    "replications": 2,
    "users": {"count": 30},
    "recommenders": [{"name": "popularity"}, {"name": "uniform"}],
    "population": {"graph": "homophilous", "members": 0.6, "arrivals": 1, "chat": 0.9},
    "creators": {"count": 12, "publish": 0.5, "patience": 2, "least": 40},
}


@pytest.fixture(scope="module")
def village(tmp_path_factory):
    return load_run(run_scenario(load_scenario(SMALL), tmp_path_factory.mktemp("runs") / "village"))


@pytest.fixture
def made(run_maker, tmp_path):
    """Two seeds and three days of 'ease'; 'uniform' has one seed."""
    run = run_maker(tmp_path, recommenders=("ease", "uniform"), seeds=(0, 1), n_users=50, days=3)
    run.manifest["cells"] = [c for c in run.manifest["cells"] if (c["recommender"], c["seed"]) != ("uniform", 1)]
    days = [(name, seed, day) for name, seed in (("ease", 0), ("ease", 1), ("uniform", 0)) for day in range(3)]
    run.tables["population"] = pd.DataFrame(days, columns=["recommender", "seed", "day"]).assign(
        members=[8, 9, 10, 8, 10, 14, 3, 2, 0], new=[0, 2, 1, 0, 3, 4, 0, 0, 0], came=[10, 5, 2, 4, 4, 7, 4, 1, 2],
        churned=[2, 1, 0, 0, 1, 0, 1, 1, 2], chats=[1, 2, 3, 0, 0, 3, 0, 0, 0], posts=[0, 0, 0, 0, 3, 0, 0, 0, 0],
        heard=[5, 4, 3, 0, 11, 7, 0, 0, 0], satisfaction=0.1, trace_likeness=np.nan,
        trace_divide=[1.0, 1.1, 1.2, 1.0, 1.3, 1.6, 1.0, 1.0, 1.0],
    )  # fmt: skip
    made = [(*where, creator) for where in days for creator in (0, 1)]
    creators = pd.DataFrame(made, columns=["recommender", "seed", "day", "creator"])
    run.tables["creators"] = creators.assign(
        active=(creators.recommender == "uniform") | (creators.creator == 0) | (creators.day < 1 + creators.seed),
        items=3 + creators.day, shown=np.where(creators.recommender == "uniform", 4, 6 * creators.creator),
        clicked=0,
    )  # fmt: skip
    run.tables["releases"] = pd.DataFrame(
        [("ease", 0, 0, 0, 1), ("ease", 0, 1, 0, 2), ("ease", 0, 2, 1, 3), ("ease", 1, 0, 1, 9),
         ("uniform", 0, 0, 1, 9)],
        columns=["recommender", "seed", "day", "creator", "item"],
    )  # fmt: skip
    return run


def test_days_of_a_population(made):
    days, _ = POPULATION.tables(made, read_world(made))
    ease, uniform = (days[days.recommender == name] for name in ("ease", "uniform"))
    assert ease.day.tolist() == [0, 1, 2]
    np.testing.assert_allclose(ease.members, [8, 9.5, 12])
    np.testing.assert_allclose(ease.came, [(10 / 10 + 4 / 8) / 2, (5 / 10 + 4 / 11) / 2, (2 / 10 + 7 / 14) / 2])
    np.testing.assert_allclose(ease.heard, [(5 / 10 + 0) / 2, (4 / 10 + 11 / 11) / 2, (3 / 10 + 7 / 14) / 2])
    np.testing.assert_allclose(ease["divide"], [1.0, 1.2, 1.4])
    assert ease.likeness.isna().all()
    np.testing.assert_allclose(uniform.came, [1.0, 1 / 3, 1.0])
    assert uniform.filter(regex="_low|_high").isna().all(axis=None)  # one seed


def test_intervals_are_over_seeds_and_end_where_the_figure_does(made):
    days, _ = POPULATION.tables(made, read_world(made))
    second = days[(days.recommender == "ease") & (days.day == 1)].iloc[0]
    low, high = stats.t.interval(0.95, 1, 1.2, 0.1)
    assert (second.divide_low, second.divide_high) == pytest.approx((low, high))  # below 0 as well
    assert (second.heard_low, second.came_high) == (0.0, 1.0)
    assert stats.t.interval(0.95, 1, 12, 2)[0] < 0
    last = days[(days.recommender == "ease") & (days.day == 2)].iloc[0]
    assert (last.members_low, last.members_high) == (0.0, pytest.approx(stats.t.interval(0.95, 1, 12, 2)[1]))


def test_totals_of_a_population(made):
    _, table = POPULATION.tables(made, read_world(made))
    names = [metric.name for metric in POPULATION.totals if metric.name != "kept"]
    assert "kept" not in table  # without trends
    assert table.loc["ease", names].tolist() == pytest.approx([12, 5, 2, 2, 5])
    assert table.loc["uniform", names].tolist() == pytest.approx([0, 0, 4, 0, 0])


def test_creators(made):
    days, table = CREATORS.tables(made, read_world(made))
    ease = days[days.recommender == "ease"]
    np.testing.assert_allclose(ease.active, [1.0, 0.75, 0.5])
    np.testing.assert_allclose(ease["items"], [6, 8, 10])
    assert table.loc["ease", ["active at the end", "gini", "new"]].tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert table.loc["uniform", ["active at the end", "gini", "new"]].tolist() == [1.0, 0.0, 0.0]


def test_a_run_without_them_has_neither(fake_run):
    for topic in (POPULATION, CREATORS):
        assert all(len(frame) == 0 for frame in topic.tables(fake_run, read_world(fake_run)))


def test_days_that_are_not_stored_are_unknown(made):
    made.manifest["cells"] = []
    made.tables["population"] = made.tables["population"].query("recommender != 'ease' or day < 2")
    days, table = POPULATION.tables(made, read_world(made))
    assert days[days.recommender == "ease"].members.isna().tolist() == [False, False, True]
    assert np.isnan(table.loc["ease", "members at the end"])


def section(page, heading):
    """Words of a section of a page, and how many pictures it has."""
    part = page[page.index(f"<h2>{heading}</h2>") :]
    part = part[: part.index("<h2>", 4)]
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", part)), part.count("<img ")


def test_a_real_run_shows_both(village, tmp_path):
    page = write_report([village], tmp_path).read_text(encoding="utf-8")
    words, n_pictures = section(page, "Population")
    assert n_pictures == 1
    last = village.population[village.population.day == 4]
    means = last.groupby("recommender", observed=True).members.mean()
    shown = re.search(r"Members at the end users ([\d.]+) [\d.]+ to [\d.]+ ([\d.]+) [\d.]+ to [\d.]+", words)
    assert [float(v) for v in shown.groups()] == pytest.approx([means["popularity"], means["uniform"]], abs=0.051)
    words, n_pictures = section(page, "Creators")
    assert n_pictures == 1
    seeds = village.creators.query("recommender == 'popularity'").groupby("seed")
    unequal = [gini(rows.groupby("creator").shown.sum().to_numpy()) for _, rows in seeds]
    assert np.mean(unequal) > 0.1
    assert f"Gini of creators' impressions {np.mean(unequal):.3f}" in words.replace("&#x27;", "'")
    assert (tmp_path / "plots" / "population.png").stat().st_size > 10_000
    assert (tmp_path / "plots" / "creators.png").stat().st_size > 10_000


def test_runs_with_and_without_on_one_page(village, fake_run, tmp_path):
    page = write_report([fake_run, village], tmp_path).read_text(encoding="utf-8")
    for heading in ("Population", "Creators"):
        words, _ = section(page, heading)
        assert "village/popularity village/uniform" in words
        assert f"{fake_run.path.name}/" not in words


def test_a_run_without_them_has_no_section(fake_run, tmp_path):
    page = write_report([fake_run], tmp_path).read_text(encoding="utf-8")
    assert "<h2>Population" not in page
    assert "<h2>Creators" not in page


def test_panels_of_what_was_never_there_are_left_out(made):
    days, _ = POPULATION.tables(made, read_world(made))
    assert list(POPULATION.panels_of(days)) == ["members", "came", "heard", "divide"]
    made.tables["population"] = made.tables["population"].assign(heard=0, trace_divide=np.nan)
    days, _ = POPULATION.tables(made, read_world(made))
    assert list(POPULATION.panels_of(days)) == ["members", "came"]


@pytest.fixture
def listed(made):
    """What was watched most of late, in cells of 'ease' alone; on days 0 and 2 of seed 1 nobody watched anything."""
    made.manifest["scenario"]["population"] = {"trend_days": 2}
    lists = {(0, 0): [0, 1, 2, 3], (0, 1): [1, 0, 9, 8], (0, 2): [8, 0], (1, 1): [5]}
    rows = [
        ("ease", seed, day, rank + 1, item, 10 - rank)
        for (seed, day), items in lists.items()
        for rank, item in enumerate(items)
    ]
    columns = ["recommender", "seed", "day", "rank", "item", "watched"]
    made.tables["trends"] = pd.DataFrame(rows[::-1], columns=columns)
    return made


def test_how_much_of_a_list_stays_overnight(listed):
    world = read_world(listed)
    _, table = POPULATION.tables(listed, world)
    assert table.loc["ease", "kept"] == pytest.approx((2 / 4 + 2 / 2) / 2)  # seed 1 has no two evenings in a row
    assert np.isnan(table.loc["uniform", "kept"])
    last = [(5, 0), (8, 1), (0, 2)]
    more = pd.DataFrame(last, columns=["item", "rank"]).assign(recommender="ease", seed=1, day=2, watched=1)
    listed.tables["trends"] = pd.concat([listed.tables["trends"], more])
    row = POPULATION.tables(listed, world)[1].loc["ease"]
    assert row["kept"] == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert (row["kept_low"], row["kept_high"]) == (0.0, 1.0)  # Student's t with two seeds is wider


def test_the_last_list_is_told_under_the_first_seed(listed):
    ease, uniform = last_trends(listed, read_world(listed))
    names = [f"{title} ({year})" for title, year in zip(listed.items.title, listed.items.year, strict=True)]
    assert (ease.cell, ease.day, ease.counted) == (("ease", 0), 2, 2)
    assert ease.titles == ((names[8], 10), (names[0], 9))
    assert (uniform.cell, uniform.titles) == (("uniform", 0), ())
    many = pd.DataFrame({"recommender": "ease", "seed": 0, "day": 2, "rank": range(1, 31), "item": range(30)})
    listed.tables["trends"] = many.assign(watched=7)
    assert [title for title, _ in last_trends(listed, read_world(listed))[0].titles] == names[:10]


def test_the_report_shows_trends_where_there_are_any(listed, village, tmp_path):
    page = write_report([listed, village], tmp_path).read_text(encoding="utf-8")
    words, _ = section(page, "Population")
    assert "Watched most: listed the evening before, too share of titles 0.750 – – –" in words
    assert words.count("Watched most of late") == 1
    assert (
        f"Watched most of late of {listed.path.name} Rank ease seed 0 uniform seed 0 1 Film 8 (1958) watched 10 × –"
        in words
    )
    assert "2 &lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; Co (1950) watched 9 ×" in words
    assert "evening of day 2" in words
    assert "Watched most" not in write_report([village], tmp_path).read_text(encoding="utf-8")
