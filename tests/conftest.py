"""Fixtures of many tests."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def make_test_model():
    """The script that makes small language models."""
    script = Path(__file__).resolve().parents[1] / "scripts" / "make_test_model.py"
    spec = importlib.util.spec_from_file_location("make_test_model", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_model(make_test_model, tmp_path_factory):
    """Folder of a language model with 0.9 million random weights, made from scratch."""
    return str(make_test_model.make_test_model(tmp_path_factory.mktemp("model") / "tiny"))
