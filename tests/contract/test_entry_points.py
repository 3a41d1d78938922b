"""Recommenders of other distributions are found by name, in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom_recommender"

USE = """
from recsim_env.draws import Draws
from recsim_env.registry import recommenders
from recsim_env.scenario import validate_config
from recsim_env.testing import observations, tiny_dataset

assert "newest" in recommenders.names() and "ease" in recommenders.names()
kind = recommenders.get("newest")
made = kind(validate_config(kind.config_class, {"temperature": 0}, "recommenders.newest"))
made.fit(tiny_dataset(), Draws(0))
print(made.recommend(observations(tiny_dataset(), [[]]), 2, Draws(0)).policy, recommenders.summary("newest"))
"""


def distribution(folder, name, target):
    """A folder that looks like an installed distribution with one recommender."""
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[recsim_env.recommenders]\n{target}\n")


def run(code, *folders):
    paths = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_is_found_and_built(tmp_path):
    distribution(tmp_path, "recsim-env-newest", "newest = recsim_env_newest:Newest")
    done = run(USE, tmp_path, EXAMPLE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("newest Newest items first")


def test_the_example_declares_that_entry_point():
    import tomllib

    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["recsim_env.recommenders"] == {"newest": "recsim_env_newest:Newest"}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ease = recsim_env_newest:Newest", "DuplicateNameError: Two recommenders are called 'ease'"),
        ("newest = recsim_env_newest:NewestConfig", "must extend recsim_env.interfaces.Recommender"),
    ],
)
def test_bad_distributions_are_explained(tmp_path, target, message):
    distribution(tmp_path, "recsim-env-newest", target)
    done = run(USE, tmp_path, EXAMPLE)
    assert done.returncode == 1
    assert message in done.stderr


def test_the_example_keeps_the_contract():
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(EXAMPLE / "tests")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=EXAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
