"""Fixtures of the experiments' tests."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def agents_helpers():
    """The scripted engine and the letter embedder of the language-model users' tests."""
    path = Path(__file__).parents[1] / "agents" / "conftest.py"
    spec = importlib.util.spec_from_file_location("agents_helpers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
