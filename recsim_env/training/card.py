"""The result of a training run: an ordinary Hugging Face folder, its model card, log and loss curve."""

from __future__ import annotations

import json
import platform
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from recsim_env.lm.backbone import Backbone
from recsim_env.training.config import UserLMConfig
from recsim_env.training.material import BESIDE, Material

LIMITS = """\
- It is a user of **this** data set: it knows its films by their titles and its people by their marks. On other films it
  has little to go by (see the row "titles spelled"), on other scales or languages nothing.
- What no data shows (goals, how much of a film is watched, likes, shares, comments, when to leave, moods, boredom,
  chats, what friends' marks do) and every sentence it writes come from **stated templates**, not from people:
  user_lm_teacher.yaml. Conclusions about these are conclusions about the assumptions.
- "Watch" means: one of the films that this person rated, against films drawn at random. It is not a click on a page.
- It follows no instructions beyond the prompts it was trained on, and has no knowledge of the world."""


def write_result(
    out: Path,
    backbone: Backbone,
    config: UserLMConfig,
    material: Material,
    state: dict[str, Any],
    figures: dict[str, Any],
) -> dict[str, Any]:
    """Writes model, tokenizer, card, log and plot.

    Returns:
        What ``training.json`` holds.
    """
    model = backbone.merged()
    n_weights = sum(weight.numel() for weight in model.parameters())
    # A copy: casting and casting back would round the tables of positions, which are no weights.
    saved = model if model.dtype == torch.bfloat16 else deepcopy(model).to(torch.bfloat16)
    saved.save_pretrained(out)
    backbone.chat.tokenizer.save_pretrained(out)
    told = {
        "settings": config.as_dict(),
        "backbone": backbone.name,
        "parameters": n_weights,
        "steps": state["step"],
        "planned_steps": state["total"],
        "tokens": state["tokens"],
        "seconds": round(state["seconds"], 1),
        "ratings": {
            "training": len(material.parts.train.ratings),
            "validation": len(material.parts.validation),
            "test": len(material.parts.test),
        },
        "data": material.dataset.name,
        "figures": figures,
        "validations": state["validations"],
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
        "machine": f"{platform.machine()}, {model.device.type}, {torch.get_num_threads()} threads",
    }
    (out / "training.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "README.md").write_text(card(told), encoding="utf-8")
    log = pd.DataFrame(state["log"]).merge(pd.DataFrame(state["validations"]), on="step", how="outer")
    log.to_parquet(out / "log.parquet")
    _plot(log, figures, out / "loss.png")
    return told


def card(told: dict[str, Any]) -> str:
    """The model card."""
    c, r = told["settings"], told["ratings"]
    rows = [("this model", told["figures"]["test"])]
    if "test, titles spelled" in told["figures"]:
        rows.append(("this model, titles spelled instead of one token each", told["figures"]["test, titles spelled"]))
    rows += list(told["figures"]["baselines"].items())
    table = "\n".join(
        f"| {name} | {f['rmse']:.3f} | {f['mae']:.3f} | {f['auc_liked']:.3f} | {f['auc_watch']:.3f} |"
        for name, f in rows
    )  # fmt: skip
    return f"""\
---
library_name: transformers
tags: [user-simulation, recommender-systems]
---
# User language model

A small causal language model that answers as a user of a recommender does: whether it watches a film, which mark it
gives, what it does next, and short sentences as JSON. Made by `recsim-env train user-lm` for recsim-env's users
(`users: {{model: llm}}`); docs/user-lm.md tells how.

- **Backbone**: {told["backbone"]}, {told["parameters"]:,} parameters, saved in bfloat16.
- **Data**: {told["data"]}: {r["training"]:,} ratings for training, {r["validation"]:,} for early stopping,
  {r["test"]:,} for the figures below (every user's last {c["holdout"]}).
- **Prompts**: rendered by recsim-env's users; a rating that is asked about is in no persona, memory or average of its
  prompt ({c["folds"]} folds). {c["negatives"]} sampled films for each rated one.
- **Training**: {told["steps"]:,} steps, {told["tokens"]:,} tokens, {told["seconds"] / 60:.0f} minutes on
  {told["machine"]}, seed {c["seed"]}; dropout {c["dropout"]:g}, weight decay {c["weight_decay"]:g}.

## Figures on the test part

Expected marks against real ones (RMSE, MAE on the data's scale), and two areas under the curve: marks that the scale
calls liked against others, by the expected mark; rated films against {BESIDE} random unrated ones beside each, by the
wish to watch (for baselines: by the number of ratings in training).

| | RMSE | MAE | AUC liked | AUC watch |
|---|---|---|---|---|
{table}

## Limits

{LIMITS}
"""


def _plot(log: pd.DataFrame, figures: dict[str, Any], path: Path) -> None:
    """Loss curves and validation figures as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, errors, areas = figure.subplots(1, 3)
    for name in ("train_watch", "train_stars", "train_comment", "train_instruct", "train_search"):
        if name in log:
            losses.plot(log["step"], log[name], marker=".", label=name.removeprefix("train_"))
    losses.plot(log["step"], log["loss"], marker=".", color="black", label="validation (watch + stars)")
    errors.plot(log["step"], log["rmse"], marker=".", label="validation")
    base = figures["baselines"]["user and item biases"]["rmse"]
    errors.axhline(base, linestyle="--", color="grey", label="biases (test part)")
    for name in ("auc_watch", "auc_liked"):
        areas.plot(log["step"], log[name], marker=".", label=name)
    for axes, title in ((losses, "cross-entropy"), (errors, "RMSE of the expected mark"), (areas, "area under curve")):
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
