"""Leave-one-out on MovieLens 1M, full ranking, against figures measured elsewhere with the same protocol."""

import os
from pathlib import Path

import pytest

from recsim_env.data.load import load_dataset
from recsim_env.data.splits import split_dataset
from recsim_env.draws import Draws
from recsim_env.evaluation.offline import offline_metrics
from recsim_env.recommenders.cooccurrence import Cooccurrence, CooccurrenceConfig
from recsim_env.recommenders.ease import EASE, EASEConfig
from recsim_env.recommenders.popularity import Popularity, PopularityConfig
from recsim_env.scenario import Data

pytestmark = [pytest.mark.slow, pytest.mark.realdata]
FOLDER = Path(os.environ.get("RECSIM_DATA", "../shared/data")) / "ml-1m"


@pytest.fixture(scope="module")
def split():
    if not FOLDER.is_dir():
        if "RECSIM_DATA" in os.environ:
            pytest.fail(f"RECSIM_DATA is set, but {FOLDER} is absent")
        pytest.skip(f"{FOLDER} is absent; set RECSIM_DATA")
    section = Data(path=FOLDER, format="ml-1m", min_ratings=5, split="last-out")
    return split_dataset(load_dataset(section), section, Draws(0))


@pytest.mark.parametrize(
    ("made", "hit_rate", "ndcg"),
    [
        (Popularity(PopularityConfig(temperature=0)), 0.035, 0.017),
        (EASE(EASEConfig(temperature=0)), 0.099, 0.049),
        (EASE(EASEConfig(temperature=0, half_life=5)), 0.218, 0.120),
        (Cooccurrence(CooccurrenceConfig(temperature=0)), 0.266, 0.160),
    ],
    ids=["popularity", "ease", "ease-decayed", "cooccurrence"],
)
def test_at_least_the_known_figures(split, made, hit_rate, ndcg):
    assert (split.train.n_users, split.train.n_items) == (6040, 3416)
    made.fit(split.train, Draws(0))
    found = offline_metrics(made, split, 10, 200, Draws(0))
    assert hit_rate - 0.002 < found["hr"] < hit_rate + 0.03  # far above would be a leak
    assert ndcg - 0.002 < found["ndcg"] < ndcg + 0.03
