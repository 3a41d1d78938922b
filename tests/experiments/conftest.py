"""Fixtures of the experiments' tests."""

import importlib.util
from pathlib import Path

import pytest

from recsim_env.build import World
from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario


@pytest.fixture(scope="session")
def agents_helpers():
    """The scripted engine and the letter embedder of the language-model users' tests."""
    path = Path(__file__).parents[1] / "agents" / "conftest.py"
    spec = importlib.util.spec_from_file_location("agents_helpers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(request, tmp_path_factory):
    """A run of the scenario ``SMALL`` of the test's module."""
    return load_run(run_scenario(load_scenario(request.module.SMALL), tmp_path_factory.mktemp("small") / "run"))


@pytest.fixture(scope="module")
def world(run):
    """What that run was made from."""
    return World(load_scenario(run.manifest["scenario"]))
