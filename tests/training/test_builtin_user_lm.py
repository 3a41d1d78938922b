"""The user language model that ships with the package."""

import json
from importlib import resources

import pytest
from safetensors.torch import load_file

from recsim_env.engine import constrain
from recsim_env.engine.base import local_model, revision_of
from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario

FOLDER = resources.files("recsim_env.data") / "builtin" / "user_lm"


def test_it_is_small_and_tells_what_it_is():
    assert (FOLDER / "model.safetensors").stat().st_size <= 12 * 2**20
    weights = load_file(FOLDER / "model.safetensors")
    assert {str(t.dtype) for t in weights.values()} == {"torch.bfloat16"}
    card = (FOLDER / "README.md").read_text()
    for word in ("## Limits", "stated templates", "RMSE", "seed"):
        assert word in card
    told = json.loads((FOLDER / "training.json").read_text())
    test = told["figures"]["test"]
    assert f"| {test['rmse']:.3f} | {test['mae']:.3f} |" in card
    assert test["rmse"] < told["figures"]["baselines"]["overall mean"]["rmse"]


def test_its_name_leads_to_its_folder_and_its_weights_are_its_revision():
    assert local_model("builtin") == str(FOLDER)
    assert local_model("some/model") == "some/model"
    assert len(revision_of("builtin", "")) == 12
    assert revision_of("builtin", "mine") == "mine"
    assert revision_of("some/model", "") == ""


@pytest.mark.parametrize("grammar", [True, False])
def test_six_users_live_a_day_without_a_bad_reply(grammar, tmp_path, monkeypatch):
    if grammar and not constrain.available():
        pytest.skip("xgrammar is not installed")
    if not grammar:
        monkeypatch.setattr(constrain, "available", lambda: False)
    folder = run_scenario(
        "llm_quickstart",
        tmp_path / "run",
        ["users.count=6", "days=1", "recommenders=popularity", "users.open_rate=0.9"],
    )
    run = load_run(folder)
    engine = run.manifest["engine"]
    assert engine["model"] == "builtin"
    assert engine["revision"] == revision_of("builtin", "")
    assert engine["users"]["failed"] == {}
    assert engine["users"]["asked"]["words"] > 0
    assert not run.turns["trace_fallback"].any()


@pytest.mark.slow  # tests/agents/test_llm_tiny.py runs it in vLLM too
@pytest.mark.vllm
def test_it_runs_in_vllm_by_its_name(tmp_path):
    pytest.importorskip("vllm")
    engine = "engine={name: vllm, model: builtin, dtype: float32, enforce_eager: true, cpu_cache_gib: 1}"
    folder = run_scenario(
        "llm_quickstart", tmp_path / "run", ["users.count=4", "days=1", "recommenders=popularity", engine]
    )  # fmt: skip
    engine = load_run(folder).manifest["engine"]
    assert engine["revision"] == revision_of("builtin", "")
    assert engine["users"]["failed"] == {}
