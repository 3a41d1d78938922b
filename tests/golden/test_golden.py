"""A small run of every shipped scenario without a language model, compared field by field with what it was before.

A difference is a changed behaviour: intended ones are taken over with RECSIM_UPDATE_GOLDEN=1 and named in the
changelog.
"""

import os
from pathlib import Path

import pandas as pd
import pytest

from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario, scenario_names

HERE = Path(__file__).parent
SMALL = ["users.count=25", "days=4", "replications=1"]
NAMES = [name for name in scenario_names() if load_scenario(name).users.model == "behavioral"]
SOCIAL = [name for name in NAMES if load_scenario(name).population.active]
MADE = [name for name in NAMES if load_scenario(name).creators.count]
KEYS = ["recommender", "seed", "day", "session", "turn", "user", "position"]


@pytest.mark.parametrize(
    ("name", "table"),
    [(name, table) for table in ("impressions", "turns", "sessions") for name in NAMES]
    + [(name, table) for table in ("population", "opinions") for name in SOCIAL]
    + [(name, table) for table in ("creators", "releases") for name in MADE],
)
def test_golden(name, table, runs):
    frame = load_run(runs(name)).table(table)
    for column in frame.columns[frame.dtypes == "category"]:
        frame[column] = frame[column].astype(str)
    frame = frame.sort_values([k for k in KEYS if k in frame], kind="stable").reset_index(drop=True)
    if table == "impressions":  # 100 pages of each recommender tell as much as all
        frame = frame.groupby("recommender").head(1000).reset_index(drop=True)
    file = HERE / f"{name}-{table}.parquet"
    if os.environ.get("RECSIM_UPDATE_GOLDEN"):
        frame.to_parquet(file, compression="zstd", index=False)
    expected = pd.read_parquet(file)
    pd.testing.assert_frame_equal(frame, expected, check_dtype=False, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    done = {}

    def run(name):
        if name not in done:
            scenario = load_scenario(name, [*SMALL, "recommenders=uniform,popularity,item-knn,ease,cooccurrence"])
            done[name] = run_scenario(scenario, tmp_path_factory.mktemp("golden") / name)
        return done[name]

    return run
