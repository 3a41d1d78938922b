"""The Open Bandit benchmark: the value of one real policy from the other's log."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(os.environ.get("RECSIM_DATA", "../shared/data"))
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if not (DATA / "open-bandit-small").exists():
        if "RECSIM_DATA" in os.environ:
            pytest.fail(f"RECSIM_DATA is set, but {DATA / 'open-bandit-small'} is absent")
        pytest.skip(f"{DATA / 'open-bandit-small'} is absent; set RECSIM_DATA")
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(BENCHMARKS / "open_bandit.py"), "--data", str(DATA), "--results", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return (folder / "open_bandit.md").read_text()


@pytest.mark.realdata
def test_every_campaign_and_direction_has_its_table(page):
    for campaign in ("men", "women"):
        for target, logged in (("random", "bts"), ("bts", "random")):
            assert f"## {campaign}: the value of {target} from the log of {logged}" in page
    for name in ("IPS", "SNIPS", "clipped IPS", "DM", "DR", "SNDR"):
        assert page.count(f"\n| {name} |") == 4


@pytest.mark.realdata
def test_on_policy_means_are_those_of_the_data(page):
    """69, 46, 46 and 46 clicks in 10,000 rounds of bts and random on men and women."""
    own = [line.split("|")[2].strip() for line in page.splitlines() if line.startswith("| **")]
    assert own == ["4.60", "6.90", "4.60", "4.60"]


@pytest.mark.realdata
def test_intervals_of_snips_overlap_the_on_policy_intervals(page):
    def ends(line):
        low, high = line.split("|")[3].split(" to ")
        return float(low), float(high)

    lines = page.splitlines()
    own = [ends(line) for line in lines if line.startswith("| **")]
    snips = [ends(line) for line in lines if line.startswith("| SNIPS")]
    for (low, high), (own_low, own_high) in zip(snips, own, strict=True):
        assert low < own_high
        assert own_low < high
