"""Training of user language models: leakage, learning, resuming, the result, the command line, mistakes."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recsim_env.agents.llm import LLMConfig
from recsim_env.agents.opinions import OpinionStore
from recsim_env.data.movietweetings import load_movietweetings
from recsim_env.draws import Draws
from recsim_env.engine.embed import HashedNgrams
from recsim_env.engine.transformers import TransformersConfig, TransformersEngine
from recsim_env.errors import MissingDependencyError, RunFolderError, ScenarioError, UnknownNameError
from recsim_env.lm.tokenizer import SPECIAL_TOKENS
from recsim_env.records import ChoiceRequest, RatingScale, RequestKey, TextRequest
from recsim_env.training import material as material_module
from recsim_env.training.config import UserLMConfig, user_lm_config
from recsim_env.training.examples import Cases, RealExamples, fold_of, overhear, seat
from recsim_env.training.material import Parts
from recsim_env.training.measure import answers
from recsim_env.training.user_lm import Trainer

SMALL = {
    "size": "tiny", "taught_users": 5, "taught_days": 1, "holdout": 2, "validation": 0.5, "folds": 3, "evaluations": 3,
    "vocabulary": 600, "device": "cpu",
}  # fmt: skip


@pytest.fixture
def toy_data(toys, monkeypatch):
    """Makes every data set the toy one."""
    data = toys.toy()
    monkeypatch.setattr(material_module, "load_dataset", lambda section: data)
    return data


def config(**more):
    return UserLMConfig(**{**SMALL, "users": LLMConfig(remembered=6), **more})


# ---------------------------------------------------------------- leakage


def test_folds_are_even_for_every_user_and_keyed_by_item():
    r = load_movietweetings().ratings
    folds = fold_of(r, 5, Draws(0))
    counts = np.zeros((2059, 5), int)
    np.add.at(counts, (r.user_index, folds), 1)
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()
    order = Draws(9).permutation("rows", len(r))
    assert (fold_of(r.take(order), 5, Draws(0)) == folds[order]).all()


HEARD = {"share": 0.3, "spread": 1.4, "noise": 2.0, "gap": 1.5}
"""What friends say, as the package's table states it."""


def test_no_prompt_tells_the_film_that_it_asks_about(toys):
    data = toys.toy()
    made = RealExamples(
        data,
        LLMConfig(remembered=16, averages=True),
        HashedNgrams(),
        Draws(0),
        SPECIAL_TOKENS,
        3,
        2,
        0.15,
        0.5,
        (1, 1),
        HEARD,
    )
    asked = 0
    for example in made.part(0, 1):
        start, _, question = example.messages[-1]["content"].rpartition("\n\n")
        title = re.search(r"Title \d+ of all", question)[0]
        known = example.target[1] if example.purpose == "watch" else 1
        assert title not in start or not known, (title, start)
        asked += 1
    assert asked > 500


def test_averages_and_personas_are_made_without_the_fold(toys):
    data = toys.toy()
    made = RealExamples(
        data, LLMConfig(averages=True), HashedNgrams(), Draws(0), SPECIAL_TOKENS, 3, 1, 0.15, 0.0, (1, 1), HEARD
    )
    inside = fold_of(data.ratings, 3, Draws(0)) == 0
    left = np.bincount(data.ratings.item_index[~inside], minlength=60)
    for example in made.part(0, 0):
        card = re.search(r"Title (\d+) of all .*?(\d+) ratings", example.messages[-1]["content"].rpartition("\n\n")[2])
        assert int(card[2]) == left[int(card[1])]


def test_changing_a_held_out_mark_changes_no_prompt(toys):
    data = toys.toy()
    r = data.ratings
    inside = fold_of(r, 3, Draws(0)) == 2
    other = data.with_ratings(
        dataclasses.replace(r, rating=np.where(inside, 7 - r.rating, r.rating).astype(np.float32))
    )
    users = LLMConfig(averages=True)
    prompts = [
        [
            e.messages
            for e in RealExamples(
                d, users, HashedNgrams(), Draws(0), SPECIAL_TOKENS, 3, 1, 0.1, 0.3, (1, 1), {**HEARD, "share": 0.0}
            ).part(0, 2)
        ]
        for d in (data, other)
    ]
    assert prompts[0] == prompts[1]


def test_friends_tell_of_ones_own_mark_as_stated(toys):
    """What is drawn obeys the two laws that the table states, by Bayes' rule, wherever the scale does not cut it."""
    model = seat(toys.toy(), toys.users, HashedNgrams(), Draws(0), SPECIAL_TOKENS)
    n, expected = 60_000, 50.0
    model.catalog = dataclasses.replace(model.catalog, scale=RatingScale(0, 100))
    model.norms = dataclasses.replace(
        model.norms, item_mean=np.full(1 + n, expected, np.float32), mean=(expected, 10.0)
    )
    model.heard = OpinionStore(60, n)
    history = model.users.history
    history.ratings[:] = expected
    rng = np.random.default_rng(0)
    own = np.clip(expected + 7.0 * rng.normal(size=n), 0, 100).astype(np.float32)
    cases = Cases(np.arange(n) % 60, np.arange(n, dtype=np.int32), np.where(np.arange(n) % 2, own, np.nan))
    overhear(model, cases, 1.0, 0.7, 1.0, 0.75, Draws(1))
    for friends in (1, 2, 3):
        number, place = model.heard.heard(cases.users, cases.items)
        told = model.heard.count[place] == friends
        number, mean = number[told], model.heard.stars[place[told]] / friends
        assert len(number) == pytest.approx(n / 3, rel=0.05)
        share = friends * 0.7**2 / (friends * 0.7**2 + 1.0**2)
        watched, gap = cases.watched[number], mean - expected
        slope = np.polyfit(gap[watched], cases.marks[number[watched]] - expected, 1)[0]
        assert slope == pytest.approx(share, abs=0.03)
        apart, variance = gap[watched].mean() - gap[~watched].mean(), 0.5 * (gap[watched].var() + gap[~watched].var())
        assert 10.0 * apart / variance == pytest.approx(0.75 / 0.7**2 * share, rel=0.05)  # log-odds for a tenth


def test_parts_are_each_users_last_ratings(toys):
    data = toys.toy(per_user=9)
    parts = Parts.of(data, 2, 0.5, Draws(0))
    assert len(parts.train.ratings) + len(parts.validation) == len(parts.known.ratings)
    assert len(parts.known.ratings) + len(parts.test) == len(data.ratings)
    for user in range(data.n_users):
        times = [p.timestamp[p.user_index == user] for p in (parts.train.ratings, parts.validation, parts.test)]
        assert len(times[2]) == 2
        assert times[0].max() < min([*times[1], *times[2]])


# ---------------------------------------------------------------- training


@pytest.mark.slow
def test_the_model_learns_who_watches_what(toy_data, tmp_path):
    settings = config(
        steps=600, taught_users=0, learning_rate=4e-3, dropout=0.0, weight_decay=0.01, restless=0.0, title_dropout=0,
        evaluations=4,
    )  # fmt: skip
    told = Trainer(settings, tmp_path / "out").train()
    test, base = told["figures"]["test"], told["figures"]["baselines"]
    assert test["auc_watch"] > 0.9 > base["overall mean"]["auc_watch"]
    first, last = told["validations"][0], told["validations"][-1]
    assert last["loss"] < first["loss"]


def test_the_loss_falls_and_the_result_is_an_ordinary_folder(toy_data, tmp_path):
    seen = []
    told = Trainer(config(steps=30), tmp_path / "out", on_progress=seen.append).train()
    losses = [p.loss for p in seen if p.label == "Training"]
    assert losses[-1] < losses[0]
    assert told["steps"] == 30
    assert [v["step"] for v in told["validations"]] == [10, 20, 30]
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "README.md",
            "training.json", "log.parquet", "loss.png"} <= names  # fmt: skip
    assert "checkpoint" not in names
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| this model | " in card
    assert "stated templates" in card
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert (tmp_path / "out" / "loss.png").read_bytes()[:4] == b"\x89PNG"


class Killed(Exception):
    """Somebody pulled the plug."""


def test_a_resumed_run_has_the_weights_of_an_unbroken_one(toy_data, tmp_path):
    settings = config(steps=18, taught_users=3, evaluations=3)

    def kill(progress):
        if progress.step == 14:
            raise Killed

    before = torch.get_rng_state()
    Trainer(settings, tmp_path / "whole").train()
    with pytest.raises(Killed):
        Trainer(settings, tmp_path / "broken", on_progress=kill).train()
    seen = []
    Trainer(settings, tmp_path / "broken", resume=True, on_progress=seen.append).train()
    assert [p.step for p in seen if p.label == "Training"] == list(range(13, 19))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    figures = [json.loads((tmp_path / name / "training.json").read_text())["figures"] for name in ("whole", "broken")]
    assert figures[0] == figures[1]
    assert torch.equal(before, torch.get_rng_state()), "the global generator was touched"


# ---------------------------------------------------------------- the result in the engines


@pytest.fixture(scope="module")
def trained(toys, tmp_path_factory):
    """A small trained folder with the decisions of its packed model."""
    data = toys.toy()
    patch = pytest.MonkeyPatch()
    patch.setattr(material_module, "load_dataset", lambda section: data)
    folder = tmp_path_factory.mktemp("user-lm") / "out"
    trainer = Trainer(config(steps=25), folder)
    trainer.train()
    examples = trainer.material.real(0, 0)[:40] + [e for e in trainer.material.stated(0, 0, 3) if e.options][:40]
    trees = trainer.encoder.trees(examples)
    branches = [b for t in trees for b in t.branches if len(b.options)]
    order = dict(zip(map(id, branches), answers(trainer.packed, trees, 256, 4096, 0), strict=True))
    groups = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    pairs = [
        (e, order[id(b)]) for tree, members in zip(trees, groups.values(), strict=True)
        for b, e in zip(tree.branches, members, strict=True)
    ]  # fmt: skip
    patch.undo()
    return folder, pairs


def requests_of(pairs):
    return [
        ChoiceRequest(tuple(e.messages), e.options, RequestKey(0, i % 7, 0, 0, 0, -1, e.purpose))
        for i, (e, _) in enumerate(pairs)
    ]


def test_the_transformers_engine_gives_the_same_probabilities(trained):
    folder, pairs = trained
    engine = TransformersEngine(TransformersConfig(model=str(folder), device="cpu"))
    for reply, (_, p) in zip(engine.choose(requests_of(pairs)), pairs, strict=True):
        np.testing.assert_allclose(np.exp(reply), p, atol=2e-5)
    assert set(SPECIAL_TOKENS) <= set(engine.special_tokens)
    engine.close()


@pytest.mark.vllm
def test_vllm_gives_the_same_probabilities(trained):
    pytest.importorskip("vllm")
    from recsim_env.engine.vllm import VllmConfig, VllmEngine

    folder, pairs = trained
    engine = VllmEngine(
        VllmConfig(model=str(folder), dtype="float32", enforce_eager=True, cpu_cache_gib=1, max_model_len=2048)
    )
    for reply, (_, p) in zip(engine.choose(requests_of(pairs)), pairs, strict=True):
        np.testing.assert_allclose(np.exp(reply), p, atol=2e-3)
    schema = {"type": "object", "properties": {"message": {"type": "string", "maxLength": 40}}, "required": ["message"]}
    words = engine.generate(
        [TextRequest(tuple(pairs[0][0].messages), RequestKey(0, 0, 0, 0, 0, -1, "chat"), schema, {"max_tokens": 200})]
    )
    assert isinstance(words[0].parsed, dict) or words[0].error
    engine.close()


@pytest.fixture
def few_data(toys, monkeypatch):
    """A toy of eight users."""
    data = toys.toy(8, 20, 5)
    monkeypatch.setattr(material_module, "load_dataset", lambda section: data)
    return data


def test_a_given_model_can_be_trained_whole(few_data, tiny_model, tmp_path):
    told = Trainer(
        config(backbone=tiny_model, full=True, steps=2, evaluations=1, row_tokens=1024, taught_users=0),
        tmp_path / "out",
    ).train()
    assert told["backbone"] == tiny_model
    was, now = load_file(Path(tiny_model) / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert was.keys() == now.keys()
    assert any(not torch.equal(was[name], now[name]) for name in was)


def test_lora_is_merged_into_an_ordinary_folder(few_data, tiny_model, tmp_path):
    pytest.importorskip("peft", reason="peft is not installed (pip install 'recsim-env[llm-rl]')")
    settings = config(backbone=tiny_model, steps=2, evaluations=1, row_tokens=1024, taught_users=0)
    Trainer(settings, tmp_path / "out").train()
    was, now = load_file(Path(tiny_model) / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert was.keys() == now.keys()
    assert any(not torch.equal(was[name], now[name]) for name in was)


@pytest.mark.skipif(find_spec("peft") is not None, reason="peft is installed")
def test_without_peft_lora_says_what_to_do(toy_data, tiny_model, tmp_path):
    with pytest.raises(MissingDependencyError, match=r"recsim-env\[llm-rl\].*--full"):
        Trainer(config(backbone=tiny_model, steps=4), tmp_path / "out")


# ---------------------------------------------------------------- command line and mistakes


def cli(*arguments):
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", "recsim_env.cli", "train", "user-lm", *arguments],
        capture_output=True, text=True, timeout=300, env=variables, check=False,
    )  # fmt: skip


def test_the_command_line_trains(toys, tmp_path):
    ratings = toys.write_csv(tmp_path, toys.toy(12, 20, 5))
    small = [
        part
        for s in ("taught_users=0", "evaluations=1", "folds=2", "vocabulary=400", "holdout=1")
        for part in ("--set", s)
    ]
    done = cli("--data", str(ratings), "--out", str(tmp_path / "m"), "--size", "tiny", "--steps", "3", "-q", *small)
    assert done.returncode == 0, done.stderr
    assert "Test part: RMSE" in done.stdout
    assert (tmp_path / "m" / "model.safetensors").is_file()


def test_mistakes_on_the_command_line_are_explained(tmp_path):
    done = cli("--data", "movietweetingz", "--out", str(tmp_path / "m"))
    assert done.returncode == 2
    assert "Did you mean 'movietweetings'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "overrides", "error", "message"),
    [
        ({"size": "huge"}, [], None, None),
        ({"epochs": 0.0}, [], ScenarioError, "epochs"),
        ({"backbone": "x"}, ["title_dropout=0.1"], ScenarioError, "backbone 'scratch'"),
        ({}, ["dropuot=0.1"], UnknownNameError, "Did you mean 'dropout'"),
        ({}, ["users.rememberd=4"], UnknownNameError, "Did you mean 'remembered'"),
        ({}, ["dropout"], ScenarioError, "KEY=VALUE"),
        ({}, ["dropout=2"], ScenarioError, "dropout"),
        ({}, ["data.min_ratings=-1"], ScenarioError, "min_ratings"),
    ],
)
def test_bad_settings(options, overrides, error, message):
    if error is None:
        assert user_lm_config({"name": "movietweetings"}, options, overrides).size == "huge"
        return
    with pytest.raises(error, match=message):
        user_lm_config({"name": "movietweetings"}, options, overrides)


def test_a_size_that_does_not_exist_is_refused(toy_data, tmp_path):
    with pytest.raises(UnknownNameError, match=r"size 'smal'.*Did you mean 'small'"):
        Trainer(config(size="smal"), tmp_path / "out")


def test_folders_that_cannot_be_used(toy_data, tmp_path):
    with pytest.raises(RunFolderError, match="no folder"):
        Trainer(config(), tmp_path / "absent", resume=True)
    (tmp_path / "full").mkdir()
    with pytest.raises(RunFolderError, match="no checkpoint yet"):
        Trainer(config(), tmp_path / "full", resume=True)
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(RunFolderError, match="not empty"):
        Trainer(config(), tmp_path / "full")
    (tmp_path / "full" / "training.json").write_text("{}")
    with pytest.raises(RunFolderError, match="complete"):
        Trainer(config(), tmp_path / "full", resume=True)


def test_resuming_with_other_settings_is_refused(toy_data, tmp_path):
    def kill(progress):
        if progress.step == 3:
            raise Killed

    with pytest.raises(Killed):
        Trainer(config(steps=4, evaluations=2, taught_users=0), tmp_path / "out", on_progress=kill).train()
    with pytest.raises(RunFolderError, match=r"dropout: 0.1 there, 0.2 now"):
        Trainer(config(steps=4, evaluations=2, taught_users=0, dropout=0.2), tmp_path / "out", resume=True)


def test_users_with_too_few_ratings_cannot_be_held_out(toys, monkeypatch, tmp_path):
    data = toys.toy(per_user=2)
    monkeypatch.setattr(material_module, "load_dataset", lambda section: data)
    with pytest.raises(Exception, match=r"too few ratings"):
        Trainer(config(), tmp_path / "out")


def test_a_table_of_answers_without_a_part_is_refused(toy_data, tmp_path):
    (tmp_path / "t.yaml").write_text("decisions: {}\n")
    with pytest.raises(ScenarioError, match="lacks watch, stars, heard, words"):
        Trainer(config(teacher=tmp_path / "t.yaml"), tmp_path / "out")
