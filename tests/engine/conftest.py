"""Fixtures of the engines' tests; those of servers are in tests/conftest.py."""

import pytest


@pytest.fixture(scope="session")
def vllm_engine(needs_vllm, tiny_model):
    """The tiny model in vLLM, in this process."""
    from recsim_env.engine.vllm import VllmConfig, VllmEngine

    # Single precision: processors without bfloat16 instructions are slow in it, and engines can be compared closely.
    engine = VllmEngine(VllmConfig(model=tiny_model, dtype="float32", enforce_eager=True, cpu_cache_gib=1))
    yield engine
    engine.close()
