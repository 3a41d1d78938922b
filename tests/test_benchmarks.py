"""Benchmarks run, in a small way; their figures are not looked at here."""

import subprocess
import sys
from pathlib import Path

import pytest

from recsim_env.registry import recommenders

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(name, folder, *arguments):
    """The table that a quick run writes."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--results", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return (folder / f"{name}.md").read_text()


def assert_all_ways(text, engine):
    assert f"Engine `{engine}`" in text
    for way in ("JSON per title, one at a time, no shared prefix", "JSON per page, batched", "our users, listwise"):
        assert f"| {way} |" in text
    assert "| **our users as they run** (pointwise) |" in text
    assert "## HTTP client" in text


@pytest.mark.slow
@pytest.mark.vllm
def test_throughput_with_vllm(tmp_path, tiny_model, needs_vllm):
    settings = ("--set", "enforce_eager=true", "cpu_cache_gib=1")
    assert_all_ways(run("llm_throughput", tmp_path, "--model", tiny_model, *settings), "vllm")


@pytest.mark.slow
def test_memory_in_a_process_of_its_own(tmp_path):
    text = run("llm_memory", tmp_path)
    assert "| memory: vectors (float16) |" in text
    assert "40 users" in text
    assert "GiB: met" in text


@pytest.mark.slow
def test_recommend_throughput_has_every_recommender(tmp_path):
    text = run("recommend_throughput", tmp_path)
    for name in recommenders.names():
        asks = recommenders.get(name).needs_engine
        assert (f"| {name}, all have spoken | 1 |" if asks else f"| {name} | 40 |") in text
    assert "took 2 passes of its decoder over 64 prompts in all" in text


@pytest.mark.slow
def test_a_user_language_model_in_the_simulation(tmp_path):
    text = run("user_lm", tmp_path)
    assert "| 3 | " in text
    assert "| `watch_bias` -1.5 |" in text
    assert "| 0.8 | " in text


@pytest.mark.slow
def test_policies_trained_on_users(tmp_path):
    text = run("rl", tmp_path)
    assert "| **slate-pg** |" in text
    assert "| `DummyVecEnv` |" in text
    assert (tmp_path / "rl-slate-pg.png").exists()


@pytest.mark.slow
def test_instructions_heard_ignored_absent(tmp_path):
    assert "| heard minus ignored |" in run("retention", tmp_path)
    assert (tmp_path / "retention.png").exists()


@pytest.mark.slow
def test_populations(tmp_path):
    text = run("population", tmp_path)
    assert "| 60 |" in text
    assert "in the Mesa layer, at most" in text
