"""Language-model users end to end on a real, tiny model with random weights: it decides, stores, replays, reports."""

import os
import subprocess
import sys

import pytest

from recsim_env.records import NextAction
from recsim_env.rundir import load_run

TINY = [
    "days=1",
    "slate_size=3",
    "max_turns=2",
    "users.watch_bias=-2",
    "users.max_tokens=16",
    "recommenders=popularity",
]
# Random weights write no sentences; what is under test is that this is counted and flagged, not that it reads well.
TINY += ["engine.max_failure_share=1", "engine.retries=0"]


def recsim(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "recsim_env.cli", *words], capture_output=True, text=True, cwd=cwd, timeout=550,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def settings(changes):
    return [word for change in changes for word in ("--set", change)]


def check(path, users):
    run = load_run(path)
    engine = run.manifest["engine"]
    assert run.manifest["status"] == "complete"
    assert engine["calls"] == engine["users"]["asked"]["decisions"] + engine["users"]["asked"].get("words", 0)
    assert engine["usage"]["cached_tokens"] > 0.5 * engine["usage"]["prompt_tokens"]
    assert run.turns["user"].nunique() == users
    assert run.impressions["trace_p_click"].between(0, 1).all()
    assert (path / "report.html").exists()
    return run


def test_the_quickstart_runs_on_a_model_in_this_process_and_replays(tiny_model, tmp_path):
    few = settings([*TINY, "users.count=2"])
    engine = ("--engine", "transformers", "--model", tiny_model)
    recsim("run", "llm_quickstart", "--out", "a", "-q", *engine, *few, cwd=tmp_path)
    run = check(tmp_path / "a", 2)
    recsim("run", "llm_quickstart", "--out", "b", "-q", "--replies", "a", *few, cwd=tmp_path)
    again = load_run(tmp_path / "b")
    assert again.manifest["engine"]["calls"] == 0
    assert run.impressions.equals(again.impressions)
    assert run.turns.equals(again.turns)


@pytest.mark.slow
def test_eight_users_for_two_days_decide_in_every_way(tiny_model, tmp_path):
    engine = ("--engine", "transformers", "--model", tiny_model)
    for decide in ("pointwise", "listwise", "sequential"):
        many = settings([*TINY, "users.count=8", "days=2", f"users.decide={decide}"])
        recsim("run", "llm_quickstart", "--out", decide, "-q", *engine, *many, cwd=tmp_path)
        check(tmp_path / decide, 8)


def actions(path):
    """Which kinds of action a run has logged."""
    run = load_run(path)
    shown, turns = run.impressions, run.turns
    happened = {name for name in ("clicked", "liked", "shared") if shown[name].any()}
    happened |= {"skipped"} if (~shown["clicked"]).any() else set()
    happened |= {name for name in ("rating", "comment") if shown[name].notna().any()}
    happened |= {NextAction(a).name.lower() for a in turns["next_action"].unique()}
    happened |= {message["kind"] for message in run.messages}
    return happened | ({"thoughts"} if turns["trace_thoughts"].notna().any() else set())


ALL = {
    "skipped", "clicked", "rating", "liked", "shared", "comment", "next", "search", "instruct", "leave", "answer",
    "chat", "post", "thoughts",
}  # fmt: skip


@pytest.mark.vllm
def test_every_kind_of_action_happens_on_vllm_and_is_logged(needs_vllm, tmp_path):
    (tmp_path / "graph.csv").write_text("a,b\n" + "".join(f"{u},{(u + 1) % 16}\n" for u in range(16)))
    few = settings([
        "days=2", "slate_size=3", "max_turns=6", "users.count=16", "users.watch_bias=0", "users.graph=graph.csv",
        "recommenders=item-knn",
    ])  # fmt: skip
    engine = (
        "--engine",
        "vllm",
        "--model",
        "builtin",
        *settings(["engine.dtype=float32", "engine.enforce_eager=true"]),
    )
    recsim("run", "llm_quickstart", "--out", "v", "-q", *engine, *few, cwd=tmp_path)
    one = check(tmp_path / "v", 16)
    assert actions(tmp_path / "v") >= ALL
    assert not one.manifest["engine"]["users"]["failed"]
    recsim("run", "llm_quickstart", "--out", "r", "-q", "--engine", "replay", "--replies", "v", *few, cwd=tmp_path)
    other = load_run(tmp_path / "r")
    assert one.impressions.equals(other.impressions)
    assert one.turns.equals(other.turns)
    assert one.messages == other.messages


@pytest.mark.vllm
def test_users_think_on_a_vllm_server(vllm_server, tmp_path):
    few = settings([*TINY, "users.count=4", "users.max_tokens=320"])
    engine = ("--engine", "openai", "--model", "tiny", "--url", vllm_server, "--url", f"{vllm_server}/")
    recsim("run", "llm_quickstart", "--out", "s", "-q", *engine, *few, cwd=tmp_path)
    run = check(tmp_path / "s", 4)
    assert run.manifest["engine"]["usage"]["retries"] == 0
    assert run.manifest["engine"]["users"]["asked"]["words"] > 0
