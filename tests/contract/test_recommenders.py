"""Every shipped recommender keeps the contract, as shipped, greedy, exploring and uniform."""

import json
import zlib

import numpy as np
import pytest

from recsim_env.draws import Draws
from recsim_env.engine.embed import HashedNgrams
from recsim_env.interfaces import Engine
from recsim_env.recommenders.als import ALS, ALSConfig
from recsim_env.recommenders.conversational import Conversational, ConversationalConfig
from recsim_env.recommenders.cooccurrence import Cooccurrence, CooccurrenceConfig
from recsim_env.recommenders.ease import EASE, EASEConfig
from recsim_env.recommenders.gym_policy import A2CPolicy, DQNPolicy, GymPolicyConfig, MaskablePPOPolicy, PPOPolicy
from recsim_env.recommenders.item_knn import ItemKNN, ItemKNNConfig
from recsim_env.recommenders.llm_ranker import LLMRanker, LLMRankerConfig
from recsim_env.recommenders.popularity import Popularity, PopularityConfig
from recsim_env.recommenders.rsllm.config import RSLLMConfig
from recsim_env.recommenders.rsllm.recommender import RSLLM
from recsim_env.recommenders.sasrec import SASRec, SASRecConfig
from recsim_env.recommenders.slate_policy import SlatePolicyConfig, SlatePolicyNetwork
from recsim_env.recommenders.slate_q import SlateQ, SlateQConfig
from recsim_env.recommenders.text_similarity import TextSimilarity, TextSimilarityConfig
from recsim_env.recommenders.uniform import Uniform
from recsim_env.records import Completion
from recsim_env.registry import recommenders
from recsim_env.testing import RecommenderContract


class TestUniform(RecommenderContract):
    learns = False

    def make(self):
        return Uniform()


SETTINGS = (
    {},
    {"temperature": 0},
    {"temperature": 0.7, "epsilon": 0.3},
    {"temperature": 0, "epsilon": 0.2},
    {"epsilon": 1},
    {"temperature": 1e-3, "heed": 0},
)


@pytest.fixture(params=SETTINGS, ids=str)
def settings(request):
    return request.param


class ScoringContract(RecommenderContract):
    kind, config, fixed = None, None, {}

    @pytest.fixture(autouse=True)
    def _choose(self, settings):
        self.chosen = settings

    def make(self):
        return self.kind(self.config(**self.fixed, **self.chosen))


class TestPopularity(ScoringContract):
    kind, config = Popularity, PopularityConfig


class TestItemKNN(ScoringContract):
    kind, config = ItemKNN, ItemKNNConfig


class TestEASE(ScoringContract):
    kind, config, fixed = EASE, EASEConfig, {"regularisation": 5, "half_life": 3}


class TestALS(ScoringContract):
    kind, config, fixed = ALS, ALSConfig, {"factors": 4, "regularisation": 1, "iterations": 5}


class TestCooccurrence(ScoringContract):
    kind, config = Cooccurrence, CooccurrenceConfig


class TestTextSimilarity(ScoringContract):
    kind, config, fixed = TextSimilarity, TextSimilarityConfig, {"embedder_settings": {"width": 64}}


class TestSASRec(ScoringContract):
    kind, config, fixed = SASRec, SASRecConfig, {"dim": 8, "heads": 1, "epochs": 6, "max_length": 8}


class TestSlatePolicy(ScoringContract):
    kind, config, fixed = SlatePolicyNetwork, SlatePolicyConfig, {"dim": 8, "heads": 1, "epochs": 3, "max_length": 8}


class TestGymPolicy(ScoringContract):
    """The four differ in how they are trained alone."""

    kind, config, fixed, learns = PPOPolicy, GymPolicyConfig, {"dim": 8, "hidden": 8, "positions": 2}, False


class TestSlateQ(ScoringContract):
    kind, config, fixed = SlateQ, SlateQConfig, {"dim": 8, "heads": 1, "epochs": 3, "max_length": 8, "taken": "one"}


class Unsure(Engine):
    """Gives letters probabilities that depend on the prompt, and one plan."""

    def choose(self, requests):
        seeds = [zlib.crc32(request.messages[-1]["content"].encode()) for request in requests]
        logits = [
            Draws(s).uniforms(Draws(s).keys("x", 0), np.arange(len(r.options)))[0]
            for s, r in zip(seeds, requests, strict=True)
        ]
        return [np.log(x / x.sum()) for x in logits]

    def generate(self, requests):
        plan = {"more": ["Even"], "answer": "Here."}
        return [Completion(json.dumps(plan), plan) for _ in requests]

    def close(self):
        return None


class AskingContract(ScoringContract):
    def ready(self, made):
        made.attach(Unsure(), HashedNgrams())
        return made


class TestLLMRanker(AskingContract):
    kind, config, fixed = LLMRanker, LLMRankerConfig, {"candidates": 6}


class TestConversational(AskingContract):
    kind, config = Conversational, ConversationalConfig


SMALL_RSLLM = {
    "size": "tiny", "epochs": 1, "stage1_epochs": 1, "history": 4,
    "sasrec": SASRecConfig(dim=8, epochs=1, max_length=8),
}  # fmt: skip


class TestRSLLM(ScoringContract):
    kind, config, fixed = RSLLM, RSLLMConfig, SMALL_RSLLM


CHECKED = {
    "uniform": Uniform, "popularity": Popularity, "item-knn": ItemKNN, "ease": EASE, "als": ALS,
    "cooccurrence": Cooccurrence, "text-similarity": TextSimilarity, "sasrec": SASRec, "llm-ranker": LLMRanker,
    "conversational": Conversational, "rsllm": RSLLM, "slate-pg": SlatePolicyNetwork, "slateq": SlateQ,
    "ppo": PPOPolicy, "a2c": A2CPolicy, "dqn": DQNPolicy, "maskable-ppo": MaskablePPOPolicy,
}  # fmt: skip


def test_every_shipped_recommender_is_checked_here():
    assert {name: recommenders.get(name) for name in CHECKED} == CHECKED
    assert all("(" in recommenders.summary(name) for name in CHECKED)


def test_policy_names_are_the_registry_names():
    for name in set(CHECKED) - {"uniform"}:
        assert recommenders.get(name).name == name
