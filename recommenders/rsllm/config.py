"""Settings of RSLLM."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsim_env.recommenders.fitting import TrainedConfig
from recsim_env.recommenders.sasrec import SASRecConfig

SCRATCH = "scratch"


class RSLLMConfig(TrainedConfig):
    """Settings of :class:`RSLLM`.

    The paper gives no constants. LoRA's are those of LLaRA (Liao et al., SIGIR 2024), the weights of the losses lie in
    the range of CALRec (Li et al., RecSys 2024); the rest is ours.
    """

    backbone: str = SCRATCH
    """``scratch`` for a small decoder with random weights, or a Hugging Face folder or hub name."""
    revision: str = ""
    """Revision of a hub name; empty is its main branch."""
    size: Literal["tiny", "small", "medium", "large"] = "tiny"
    """Shape of a decoder from scratch; ``recsim_env.lm.backbone.SIZES``."""
    titles: Literal["token", "spelled"] = "token"
    """From scratch: every title is one token, and so has an embedding of its own, or is spelled in pieces of words."""
    pieces: int = Field(default=1500, ge=256)
    """Pieces of words of a spelled vocabulary."""
    title_tokens: int = Field(default=16, ge=1)
    """Longer titles are cut to so many tokens."""
    lora_rank: int = Field(default=8, ge=0)
    """Rank of LoRA on all linear layers of a Hugging Face model, alpha four times as much; 0 trains all weights."""

    channels: Literal["both", "text", "id"] = "both"
    """What stands for an item: its title and its behaviour token; the title with the placeholder; or the behaviour
    token without the title (then there is no text to predict, and only the contrastive losses remain)."""
    shuffle_ids: bool = False
    """Control: before training, every item gets the behaviour token of another one."""
    history: int = Field(default=10, ge=1)
    """Items of a prompt, the latest ones."""
    pooling: Literal["mean", "last"] = "last"
    """The user's vector: mean of the last states over the tokens of the latest item, or of the whole history. The
    latter is CALRec's; attention is causal, so it drowns the latest item in states that do not know it."""

    stage1_epochs: int = Field(default=4, ge=0)
    """Passes over the data with text-only prompts: every behaviour token is the learned placeholder."""
    epochs: int = Field(default=8, ge=0)
    """Passes with unified prompts, the second stage."""
    learning_rate: float = Field(default=4e-3, gt=0)
    """Highest rate of AdamW; it falls to a tenth along a cosine, in each stage. Large models want 1e-4 or less."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """From scratch: of the inputs and of what the layers add. With LoRA: of its inputs."""
    patience: int = Field(default=4, ge=1)
    """Epochs without a better validation after which a stage ends; the best weights are kept."""
    recompute: bool = False
    """Computes activations again in the backward pass: long prompts of a large model need less memory."""

    weight_tt: float = Field(default=0.05, ge=0, le=1)
    """``a``, weight of the contrast between a target in its context and the target alone."""
    weight_ut: float = Field(default=0.25, ge=0, le=1)
    """``b``, weight of the contrast between user and target."""
    language: bool = True
    """Whether the language modelling, which weighs ``1 - a - b``, is trained."""
    mask_titles: bool = False
    """Whether the soft-max of the language modelling runs over tokens of titles alone."""
    tau: float = Field(default=0.1, ge=0.01, le=1)
    """Temperature of the contrasts at the start; it is learned and stays between 0.01 and 1."""
    negatives: int = Field(default=128, ge=0)
    """Random items that every target is contrasted with, besides the batch's other targets."""

    fusion_weight: float | None = Field(default=None, ge=0)
    """Weight of the towers' log-probabilities beside those of SASRec; null chooses it on the validation users."""
    sasrec: SASRecConfig = SASRecConfig()
    """The conventional recommender that lends its embeddings and is fused. Its validation users and device are ours."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> RSLLMConfig:
        if self.weight_tt + self.weight_ut > 1:
            raise ValueError("weight_tt + weight_ut must be at most 1; the rest is the language modelling's weight")
        words = self.language and self.channels != "id" and self.weight_tt + self.weight_ut < 1
        if not words and self.weight_tt + self.weight_ut == 0:
            raise ValueError("no loss is left: weight_tt or weight_ut must be above 0 where no language is modelled")
        if self.stage1_epochs + self.epochs == 0:
            raise ValueError("stage1_epochs + epochs must be at least 1")
        return self
