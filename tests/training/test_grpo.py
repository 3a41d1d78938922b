"""GRPO and Rank-GRPO: sessions in tokens, advantages, the loss that TRL makes of them, and what is learned."""

import copy
import random

import numpy as np
import pytest
import torch

from recsim_env.build import World
from recsim_env.draws import Draws
from recsim_env.engine.transformers import TransformersConfig, TransformersEngine
from recsim_env.errors import EngineError, MissingDependencyError, RecsimError, ScenarioError, UnknownNameError
from recsim_env.lm.backbone import add_lora, load_model, merged_weights, write_model
from recsim_env.recommenders.conversational import plan_schema
from recsim_env.recommenders.slate_policy import slate_log_prob
from recsim_env.records import ChoiceRequest, RequestKey
from recsim_env.scenario import load_scenario
from recsim_env.training.grpo import GRPO, GRPOConfig, discounted, rank_advantages
from recsim_env.training.policy import train_policy
from recsim_env.training.rollout import DenseReward, Session, Utterance, collect_sessions, row_of
from recsim_env.vector_env import RecSimVectorEnv

RSLLM = {
    "name": "rsllm", "fusion_weight": 1.0, "temperature": 0.5, "stage1_epochs": 1, "epochs": 1, "negatives": 8,
    "sasrec": {"epochs": 1, "dim": 8, "blocks": 1},
}  # fmt: skip
TALKER = {
    "name": "conversational", "ranker": "popularity", "words_temperature": 1.0, "max_tokens": 220, "shown": 2,
    "heed": 0,
}  # fmt: skip
TALKATIVE = {"count": 12, "patience": 1.0, "speak": 1.0, "appeal": -1.0}


@pytest.fixture
def rsllm(make_world):
    def make(config=None, n=6, **changes):
        own = {**RSLLM, **changes.pop("policy", {})}
        world = make_world(recommenders=[own], episode="session", training={"num_envs": n, "turns": 3}, **changes)
        env = RecSimVectorEnv(world=world, num_envs=n)
        policy = world.recommender(world.scenario.recommenders[0])
        return GRPO(policy, env, world.scenario.training, GRPOConfig(**{"generations": 4} | (config or {})), Draws(5))

    return make


@pytest.fixture
def talker(make_world, tiny_model):
    def make(config=None, engine=None, model=tiny_model, **policy):
        world = make_world(
            recommenders=[{**TALKER, **policy}], episode="session", users=TALKATIVE,
            engine={"name": "transformers", "model": model, "max_failure_share": 1.0},
            training={"num_envs": 4, "turns": 4},
        )  # fmt: skip
        env = RecSimVectorEnv(world=world, num_envs=4)
        made = world.recommender(world.scenario.recommenders[0])
        if engine is not None:
            made.engine = engine
        settings = GRPOConfig(**{"algorithm": "grpo", "generations": 4, "minibatches": 1} | (config or {}))
        return GRPO(made, env, world.scenario.training, settings, Draws(5))

    return make


def collected(learner, iteration=0):
    generations = learner.config.generations
    reward = DenseReward(learner.config.rewards, learner.env.catalog.scale)
    return collect_sessions(learner.tokens, learner.env, reward, learner.draws, iteration, 3, generations)


def gradients(learner):
    """Of the weights that are trained."""
    return {name: None if w.grad is None else w.grad.clone() for name, w in learner.tokens.weights.items()}


# --- sessions


def test_a_session_in_tokens_masks_what_was_read():
    first = Utterance([1, 2], [3, 4], np.array([-0.1, -0.2]), np.array([0, 1]), None)
    second = Utterance([1, 2, 3, 9], [5], np.array([-0.3]), np.array([0]), None)
    row = row_of(Session([(0, first), (2, second)], [0.0] * 3, []), 7)
    assert row.prompt == [1, 2]
    assert row.tokens == [3, 4, 1, 2, 3, 9, 5]
    assert row.said == [1, 1, 0, 0, 0, 0, 1]
    assert row.log_prob == pytest.approx([-0.1, -0.2, 0, 0, 0, 0, -0.3])
    assert row.starts == [0, 6]
    silent = row_of(Session([], [0.0], []), 7)
    assert (silent.tokens, silent.said, silent.starts) == ([7], [0], [])


@pytest.mark.parametrize("credit", ["item", "position", "page"])
def test_rank_advantages_against_a_loop(credit):
    rng = np.random.default_rng(0)
    k, g, discount = 3, 4, 0.7
    sessions = []
    for length in rng.integers(1, 5, 2 * g):
        items = [rng.normal(size=k) for _ in range(length)]
        sessions.append(Session([], [float(own.sum()) + 0.5 for own in items], items))
    found = rank_advantages(sessions, g, k, discount, credit)
    turns = max(len(s.reward) for s in sessions)
    assert found.shape == (2 * g, turns, k)
    for first in (0, g):
        group = sessions[first : first + g]
        for t in range(turns):
            for j in range(k):
                worth = {}
                for i, s in enumerate(group):
                    if t < len(s.reward):
                        own = s.item_reward[t]
                        part = {"item": own[j], "position": own[j:].sum(), "page": own.sum()}[credit]
                        later = sum(discount ** (u - t) * s.reward[u] for u in range(t + 1, len(s.reward)))
                        worth[i] = part + 0.5 + later
                for i in range(g):
                    values = list(worth.values())
                    expected = (worth[i] - np.mean(values)) / (np.std(values) + 1e-4) if i in worth else 0.0
                    assert found[first + i, t, j] == pytest.approx(expected, abs=1e-4)


def test_members_of_a_group_are_one_user_with_the_same_luck(rsllm):
    learner = rsllm()
    sessions = collected(learner)
    assert len(sessions) == 6 * 4
    for first in range(0, 24, 4):
        group = [s for s in sessions[first : first + 4] if s.said and s.said[0][0] == 0]
        prompts = {tuple(s.said[0][1].prompt) for s in group}
        slates = {tuple(s.said[0][1].tokens) for s in group}
        assert len(prompts) == 1
        assert len(slates) > 1  # the policy's luck is another
    again = collected(learner)
    assert [s.reward for s in again] == [s.reward for s in sessions]
    assert [s.reward for s in collected(learner, 1)] != [s.reward for s in sessions]


def test_equal_slates_earn_the_same(rsllm):
    """With a policy that has no choice, all sessions of a group are one."""
    learner = rsllm(policy={"temperature": 1e-4})
    sessions = collected(learner)
    for first in range(0, 24, 4):
        rewards = {tuple(s.reward) for s in sessions[first : first + 4]}
        assert len(rewards) == 1


def test_dense_rewards_come_from_what_is_hidden(make_world):
    world = make_world(episode="session", recommenders=["popularity"])
    env = RecSimVectorEnv(world=world, num_envs=12)
    env.reset(seed=0)
    scale = env.catalog.scale
    left = 0
    for _ in range(6):
        env.step(np.tile(np.arange(3), (12, 1)))
        outcome = env.last_outcome
        page, items = DenseReward({"p_click": 2.0}, scale)(outcome)
        np.testing.assert_allclose(items, 2 * outcome.trace.p_click, rtol=1e-6)
        np.testing.assert_allclose(page, items.sum(axis=1), rtol=1e-5)
        page, items = DenseReward({"p_return": 1.0}, scale)(outcome)
        assert not items.any()
        assert (page[~outcome.left] == 0).all()
        assert ((page[outcome.left] > 0) & (page[outcome.left] < 1)).all()
        left += outcome.left.sum()
        page, items = DenseReward({"expected_rating": 1.0}, scale)(outcome)
        assert (np.abs(items) <= outcome.trace.p_click + 1e-6).all()
        page, items = DenseReward({"scenario": 1.0}, scale)(outcome)
        np.testing.assert_allclose(page, outcome.reward, atol=1e-5)
        np.testing.assert_allclose(items, outcome.item_reward, atol=1e-6)
    assert left
    with pytest.raises(UnknownNameError, match="p_click"):
        DenseReward({"p_clck": 1.0}, scale)


def test_the_return_is_as_likely_as_it_comes_true(make_world):
    """``p_return`` is the chance that the calendar then draws by, stopping and opening together."""
    calendar = make_world().simulator(0, 12).calendar
    rows = np.arange(12)
    promised, came = [], []
    for trial in range(400):
        calendar.satisfaction[:], calendar.churned[:] = np.linspace(-1, 1, 12), False
        calendar.close(rows, trial, 0, np.linspace(-1, 1, 12))
        promised.append(calendar.p_return(rows))
        came.append(calendar.opens(rows, trial + 1, 0))
    np.testing.assert_allclose(np.mean(came), np.mean(promised), atol=0.03)
    assert np.std(promised[0]) > 0.01


# --- RSLLM


@pytest.mark.parametrize("changes", [{}, {"candidates": 8}, {"policy": {"channels": "text"}}], ids=str)
def test_log_probabilities_are_those_of_the_served_policy(rsllm, changes):
    learner = rsllm(**changes)
    said = [words for s in collected(learner) for _, words in s.said]
    found, entropy = learner.tokens.log_probs(said)
    expected = np.stack([words.log_prob for words in said])
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=2e-4)
    assert (entropy > 0).all()
    found.sum().backward()
    moved = [name for name, w in learner.tokens.weights.items() if w.grad is not None and w.grad.abs().sum() > 0]
    assert any(name.startswith("language") for name in moved)


def by_hand(learner, sessions, advantages):
    """Gradients of the papers' loss at the policy that spoke: mean over tokens of -advantage * log pi."""
    said = [(i, page, words) for i, s in enumerate(sessions) for page, words in s.said]
    log_prob, _ = learner.tokens.log_probs([words for _, _, words in said])
    total, n = 0.0, 0
    for row, (i, page, words) in zip(log_prob, said, strict=True):
        own = torch.tensor([float(advantages(i, page, int(r))) for r in words.rank])
        total = total - (own * row[: len(words.tokens)]).sum()
        n += len(words.tokens)
    (total / n).backward()
    return gradients(learner)


@pytest.mark.parametrize("algorithm", ["grpo", "rank-grpo"])
def test_the_gradient_is_the_papers(rsllm, algorithm):
    learner = rsllm({"algorithm": algorithm, "passes": 1, "minibatches": 1})
    assert all(own is None for own in gradients(learner).values())  # none are left of the fitting
    sessions = collected(learner)
    returns = np.array([discounted(s, 0.9) for s in sessions])
    if algorithm == "grpo":
        places = None
        groups = torch.tensor(returns).reshape(-1, 4)
        own = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()
        expected = by_hand(learner, sessions, lambda i, page, rank: own[i])
    else:
        places = rank_advantages(sessions, 4, 3, 0.9, "item")
        expected = by_hand(learner, sessions, lambda i, page, rank: places[i, page, rank])
    for weight in learner.tokens.weights.values():
        weight.grad = None
    found = {}
    told = learner._trainer.learn(sessions, returns, places, lambda: found.update(gradients(learner)))
    assert np.isfinite(told["loss"])
    assert told["clipped"] == 0
    compared = 0
    for name, own in expected.items():
        if own is not None:
            torch.testing.assert_close(found[name], own, atol=1e-5, rtol=1e-3)
            compared += float(own.abs().sum()) > 0
    assert compared > 5


@pytest.mark.parametrize("algorithm", ["grpo", "rank-grpo"])
def test_it_learns_what_pays(rsllm, algorithm):
    """One item is worth something, the others nothing."""
    learner = rsllm(
        {"algorithm": algorithm, "learning_rate": 5e-3, "generations": 8, "minibatches": 2}, n=12, users={"count": 12}
    )
    wanted = 3

    def reward(outcome):
        items = (learner.env.last_page[1].items == wanted).astype(np.float32)
        return items.sum(axis=1), items

    learner._reward = reward
    earned = [learner.iterate(i)["reward_per_page"] for i in range(12)]
    assert np.mean(earned[-3:]) > 1.3 * np.mean(earned[:3])


def test_iterations_touch_no_global_generator(rsllm):
    learner = rsllm()
    python, numpy, own = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    learner.iterate(0)
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), own)


def test_lora_of_a_hugging_face_backbone_is_all_that_learns(rsllm, tiny_model):
    learner = rsllm({"minibatches": 2}, policy={"backbone": tiny_model, "lora_rank": 2, "history": 3})
    assert any("lora" in name for name in learner.tokens.weights)
    assert not any("embed_tokens" in name for name in learner.tokens.weights)
    before = {name: w.detach().clone() for name, w in learner.tokens.weights.items()}
    learner.iterate(0)
    assert any(not torch.equal(before[name], w) for name, w in learner.tokens.weights.items() if "lora" in name)


@pytest.mark.parametrize(
    ("config", "policy", "error", "words"),
    [
        ({}, {"fusion_weight": 0.0}, ScenarioError, "fusion_weight"),
        ({}, {"temperature": 0}, ScenarioError, "temperature above 0"),
        ({}, {"epsilon": 0.1}, ScenarioError, "epsilon 0"),
        ({"minibatches": 5}, {}, ScenarioError, "must divide"),
        ({"rewards": {"clicks": 1.0}}, {}, UnknownNameError, "training.rewards"),
    ],
)
def test_what_cannot_be_trained_is_refused(rsllm, config, policy, error, words):
    with pytest.raises(error, match=words):
        rsllm(config, policy=policy)


def test_a_missing_trl_is_told(rsllm, monkeypatch):
    monkeypatch.setattr("recsim_env.training.grpo.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"recsim-env\[llm-rl\]"):
        rsllm()


# --- the conversational recommender


def test_the_plans_genres_are_the_catalogues():
    schema = plan_schema(["Drama", "War"])
    assert schema["properties"]["more"]["items"]["enum"] == ["Drama", "War"]
    assert "enum" not in plan_schema([])["properties"]["less"]["items"]


def test_plans_are_as_probable_as_they_were_drawn(talker):
    """Among the tokens that fitted; where only one fits it is certain."""
    learner = talker()
    said = [words for s in collected(learner) for _, words in s.said]
    assert said
    found, _ = learner.tokens.log_probs(said)
    assert torch.isfinite(found).all()
    model, temperature = learner.tokens.model, learner.policy.config.words_temperature
    for words, row in zip(said[:3], found.detach(), strict=False):
        allowed = learner.tokens._grammars.allowed(words.source, words.tokens)
        with torch.no_grad():
            logits = model(torch.tensor([[*words.prompt, *words.tokens]])).logits[0, len(words.prompt) - 1 : -1]
        chances = (logits / temperature).masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
        expected = chances[torch.arange(len(words.tokens)), torch.tensor(words.tokens)]
        torch.testing.assert_close(row[: len(words.tokens)], expected, atol=1e-3, rtol=1e-3)
        forced = allowed.sum(dim=1) == 1
        assert forced.any()
        assert (row[: len(words.tokens)][forced] == 0).all()
        np.testing.assert_allclose(words.log_prob, expected.numpy(), atol=1e-3)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_whoever_writes_has_learned_and_nobody_else(talker, lora_rank):
    learner = talker({"lora_rank": lora_rank, "learning_rate": 0.01})
    writer = learner.policy.engine
    before = {k: v.clone() for k, v in writer._forward.model.state_dict().items()}
    world_engine = learner.env._world.engine
    assert world_engine is not writer
    told = learner.iterate(0)
    assert np.isfinite(told["loss"])
    after = writer._forward.model.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    for name, weight in merged_weights(learner.tokens.model).items():
        torch.testing.assert_close(after[name], weight)
    for name, weight in world_engine._forward.model.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_writes_what_has_been_learned(talker, needs_vllm, tmp_path):
    from recsim_env.engine.vllm import VllmConfig, VllmEngine

    config = VllmConfig(model="builtin", dtype="float32", enforce_eager=True, cpu_cache_gib=1)
    first = VllmEngine(config)
    learner = talker({"learning_rate": 0.01}, engine=first, words_temperature=1.5)
    told = learner.iterate(0)
    assert told["spread"] > 0
    learner.policy.write_language(tmp_path / "language")
    learned = TransformersEngine(TransformersConfig(model=str(tmp_path / "language")))
    asked = [
        ChoiceRequest(({"role": "user", "content": f"Film {i}?"},), ("A", "B", "C"), RequestKey(0, i, 0, 0, 0, -1, "x"))
        for i in range(4)
    ]
    ours, theirs, before = learner.policy.engine.choose(asked), learned.choose(asked), first.choose(asked)
    learner.policy.engine.close()
    np.testing.assert_allclose(ours, theirs, atol=5e-3)
    assert np.abs(np.array(ours) - np.array(before)).max() > 1e-3
    first.close()


def test_an_engine_that_cannot_learn_is_refused(talker, make_world):
    from recsim_env.engine.openai import OpenAIConfig, OpenAIEngine

    with pytest.raises(EngineError, match="transformers"):
        talker(engine=OpenAIEngine(OpenAIConfig(base_urls=["http://127.0.0.1:9/v1"], model="x")))


@pytest.mark.parametrize(
    ("config", "policy", "words"),
    [({"algorithm": "rank-grpo"}, {}, "grpo"), ({}, {"words_temperature": 0}, "words_temperature")],
)
def test_what_a_talker_cannot_do_is_refused(talker, config, policy, words):
    with pytest.raises(RecsimError, match=words):
        talker(config, **policy)


def test_merged_weights_compute_the_same(tiny_model, tmp_path):
    model = load_model(tiny_model, "", torch.float32).eval()
    add_lora(model, 2, 0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1), std=0.05)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected = model(ids).logits
    engine = TransformersEngine(TransformersConfig(model=tiny_model))
    write_model(model, engine.chat.tokenizer, tmp_path / "merged")
    plain = load_model(str(tmp_path / "merged"), "", torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, expected, atol=1e-4, rtol=1e-4)
    engine.set_weights(merged_weights(model))
    with torch.no_grad():
        torch.testing.assert_close(engine._forward.model(ids).logits, expected, atol=1e-4, rtol=1e-4)


# --- the command's loop


def resumed_equals_unbroken(make):
    """Two iterations in one go, and the second by another learner that was given the first one's state."""
    whole, first, second = make(), make(), make()
    for iteration in range(2):
        whole.iterate(iteration)
    first.iterate(0)
    moved = any(not torch.equal(w, own) for w, own in zip(first.module.values(), second.module.values(), strict=True))
    second.module.load_state_dict(copy.deepcopy(first.module.state_dict()))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.restored()
    second.iterate(1)
    for name, weight in whole.module.items():
        torch.testing.assert_close(second.module[name], weight, atol=1e-6, rtol=0)
    assert moved


def test_rsllm_goes_on_where_it_was(rsllm):
    resumed_equals_unbroken(lambda: rsllm({"minibatches": 2}))


@pytest.mark.slow
def test_a_talker_goes_on_where_it_was(talker):
    resumed_equals_unbroken(lambda: talker({"learning_rate": 0.01}, model="builtin", words_temperature=1.5))


@pytest.mark.slow
def test_a_trained_talker_brings_its_own_language_model(tmp_path):
    talker = f"{{{', '.join(f'{k}: {v}' for k, v in TALKER.items())}}}"
    scenario = load_scenario("rl_llm", [
        f"recommenders=[{talker}, uniform]", "users.speak=1.0", "users.patience=0.5", "users.count=12", "max_turns=3",
        "training.num_envs=4", "training.turns=3", "training.iterations=1", "training.evaluate_every=1",
        "training.evaluate_users=2", "training.held_out=0.002", "training.algorithm=grpo", "training.generations=2",
        "training.minibatches=1", "training.temperatures=[]", "training.second_users=null",
        "engine.name=transformers", "engine.model=builtin", "engine.max_failure_share=1.0",
    ])  # fmt: skip
    told = train_policy(scenario, tmp_path / "out")
    assert set(told["held_out"]) >= {"conversational", "before training", "uniform"}
    section = scenario.recommenders[0].model_copy(update={"path": tmp_path / "out", "config": {}})
    world = World(scenario)
    policy = world.recommender(section)
    assert policy.engine.model == str(tmp_path / "out" / "language")
    assert copy.deepcopy(policy).engine is policy.engine
    policy.save(tmp_path / "out" / "start")  # a loaded one keeps its model when it is saved elsewhere
    assert (tmp_path / "out" / "start" / "language" / "model.safetensors").exists()
    world.close()
    openai = ["engine.name=openai", "engine.base_urls=[http://127.0.0.1:9/v1]", "engine.model=x"]
    with pytest.raises(ScenarioError, match="language model of the recommender's own"):
        World(load_scenario(scenario, openai)).recommender(section)


def test_one_item_a_page_and_users_without_a_history(rsllm):
    learner = rsllm({"minibatches": 2}, slate_size=1)
    learner.iterate(0)
    obs = learner.env.observation_batch
    nobody = obs.take(np.arange(2))
    nobody.history[:] = learner.policy.n_items
    slate, said = learner.tokens.speak(nobody, 1, Draws(0))
    assert said == [None, None]
    assert slate.items.shape == (2, 1)
    assert slate_log_prob(torch.zeros(1, 3), torch.tensor([[0]])).shape == (1, 1)
