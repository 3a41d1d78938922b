"""Settings of ``recsim-env train user-lm``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from recsim_env.agents.llm import LLMConfig
from recsim_env.errors import ScenarioError
from recsim_env.interfaces import Config
from recsim_env.scenario import Data, load_scenario, validate_config


class UserLMConfig(Config):
    """Settings of the training of a user language model."""

    data: Data = Data()
    """The ratings."""
    users: LLMConfig = LLMConfig()
    """Users whose prompts the model learns: their memory, their own prompts, the cards they see."""
    backbone: str = "scratch"
    """``scratch``, or the folder or hub name of a causal language model."""
    revision: str = ""
    """Revision of the model on the hub."""
    size: str = "small"
    """scratch: tiny, small, medium or large."""
    vocabulary: int = Field(default=1800, ge=300)
    """scratch: pieces of words; phrases and titles come on top."""
    title_tokens: int = Field(default=6000, ge=0)
    """scratch: films, the most rated first, whose title is one token."""
    full: bool = False
    """Trains all weights of a given model; otherwise LoRA (scratch is always trained whole)."""
    lora_rank: int = Field(default=16, ge=1)
    """Rank of LoRA."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the real ratings."""
    minutes: float | None = Field(default=None, gt=0)
    """Time for training: steps are set by the speed so far (again at every validation), if that ends it sooner."""
    steps: int | None = Field(default=None, ge=1)
    """Steps of the optimiser, before ``epochs`` and ``minutes``; a run with ``minutes`` tells its number."""
    seed: int = 0
    """Everything random depends on it."""
    holdout: int = Field(default=2, ge=1)
    """Last ratings of every user that are held out: the test part, never seen."""
    validation: float = Field(default=0.15, gt=0, le=1)
    """Share of users whose last rating of the rest is left out of training, for early stopping."""
    folds: int = Field(default=5, ge=2)
    """Folds of every user's ratings; what is asked about is not in the prompt's persona or memory."""
    negatives: int = Field(default=2, ge=1)
    """Sampled films that nobody rated, for each that its user did: 2 make a third of all shown films watched."""
    restless: float = Field(default=0.3, ge=0, le=1)
    """Share of users that are asked about real ratings in a drawn mood."""
    plain: float = Field(default=0.1, ge=0, le=1)
    """With ``users.averages``: share of parts of training in which cards tell none, so that the model knows both."""
    watch_weight: float = Field(default=0.5, ge=0)
    """Weight of a "watch or skip" from real ratings; a mark has 1."""
    teacher: Path | None = None
    """Table of stated answers; null is the package's."""
    taught_users: int = Field(default=90, ge=0)
    """Users of the teacher's society in every epoch; 0 trains on real ratings alone: the model then cannot write."""
    taught_days: int = Field(default=4, ge=1)
    """Their days."""
    taught_share: float = Field(default=0.35, gt=0, le=1)
    """Share of that society's decisions that become examples; all its words do."""
    explore: float = Field(default=0.4, ge=0, lt=1)
    """Share of even probabilities in what that society does."""
    decision_weight: float = Field(default=0.15, ge=0)
    """Weight of a stated decision."""
    page_weight: float = Field(default=0.05, ge=0)
    """Weight of the teacher's own "watch" and "stars" on simulated pages."""
    words_weight: float = Field(default=8.0, ge=0)
    """Weight of a text, all its tokens together."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Highest learning rate; null is 2e-3 from scratch, 2e-4 with LoRA, 2e-5 for all weights."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's, of matrices."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of embeddings and of what layers add."""
    title_dropout: float = Field(default=0.05, ge=0, le=1)
    """scratch: share of prompts whose titles are spelled instead of being one token."""
    outside: float = Field(default=0.05, ge=0)
    """Weight of keeping the probability of all tokens on a decision's options."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of steps in which the learning rate rises."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of a gradient."""
    batch_tokens: int = Field(default=1024, ge=64)
    """Tokens of a step."""
    row_tokens: int = Field(default=384, ge=32)
    """Tokens of a packed row; attention costs their square. Longer prompts have rows of their own."""
    evaluations: int = Field(default=6, ge=1)
    """Validations in a run."""
    patience: int = Field(default=3, ge=1)
    """Validations without a better loss after which training stops."""
    device: str = "auto"
    """``cpu``, ``cuda``, ...; auto takes a GPU where there is one."""

    @model_validator(mode="after")
    def _agree(self) -> UserLMConfig:
        if self.backbone != "scratch" and self.title_dropout and "title_dropout" in self.model_fields_set:
            raise ValueError("title_dropout is for backbone 'scratch', whose tokenizer knows titles")
        return self

    @property
    def scratch(self) -> bool:
        """Whether the model is made here."""
        return self.backbone == "scratch"

    @property
    def rate(self) -> float:
        """Highest learning rate."""
        return self.learning_rate or (2e-3 if self.scratch else 2e-5 if self.full else 2e-4)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        return self.model_dump(mode="json")


def user_lm_config(data: dict[str, Any], options: dict[str, Any], overrides: list[str]) -> UserLMConfig:
    """Settings out of the command line's.

    Args:
        data: The ``data`` section: ``name`` or ``path``.
        options: Settings by name; None leaves the default.
        overrides: ``"key=value"``: keys of ``users`` and ``data`` as in a scenario, else any setting.

    Raises:
        ScenarioError: If a value is not allowed.
        UnknownNameError: If a key does not exist.
    """
    own = [o for o in overrides if not o.startswith(("users.", "data."))]
    rest = [o for o in overrides if o.startswith(("users.", "data."))]
    scenario = load_scenario({"data": data, "users": {"model": "llm"}}, rest)
    users = validate_config(LLMConfig, scenario.users.config, "users")
    values = {name: value for name, value in options.items() if value is not None}
    for override in own:
        key, equals, raw = override.partition("=")
        if not equals:
            raise ScenarioError(f"--set {override!r}: write KEY=VALUE, for example --set dropout=0.2.")
        values[key] = yaml.safe_load(raw)
    made: UserLMConfig = validate_config(UserLMConfig, {**values, "data": scenario.data, "users": users}, "user-lm")
    return made
