"""``recsim-env train``: user models, recommenders and policies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from recsim_env.cli_parts import Bar, DataName, Overrides, Quiet, data_source, err, out, show_table
from recsim_env.errors import ScenarioError

train_app = typer.Typer(help="Train user models, recommenders and policies.", no_args_is_help=True)


@train_app.command("user-lm")
def train_user_lm(
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the model.")],
    data: DataName = "movietweetings",
    backbone: Annotated[
        str, typer.Option("--backbone", help="'scratch', or folder or hub name of a causal language model.")
    ] = "scratch",
    size: Annotated[str | None, typer.Option("--size", help="scratch: tiny, small, medium or large.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Train all weights of a given model, not LoRA.")] = False,
    lora_rank: Annotated[int | None, typer.Option("--lora-rank", help="Rank of LoRA.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over the ratings.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Time for training.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps; repeats a run that had --minutes.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Highest learning rate.")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Trains a language model to answer as the users of a data set do; the result is a Hugging Face folder.

    Examples: `recsim-env train user-lm --out my-users` ·
    `recsim-env train user-lm --data ml-1m --out ml-users --minutes 60 --set users.averages=true` ·
    `recsim-env train user-lm --backbone Qwen/Qwen3-0.6B --out qwen-users` ·
    `recsim-env run llm_quickstart --model my-users`
    """
    from recsim_env.training.config import user_lm_config

    options = {
        "backbone": backbone, "size": size, "full": full or None, "lora_rank": lora_rank, "epochs": epochs,
        "minutes": minutes, "steps": steps, "learning_rate": learning_rate, "seed": seed,
    }  # fmt: skip
    config = user_lm_config(data_source(data), options, overrides or [])
    from recsim_env.training.user_lm import Trainer

    with _UserLMBar(quiet) as on_progress:
        told = Trainer(config, out_dir, resume, on_progress).train()
    test, base = told["figures"]["test"], told["figures"]["baselines"]["user and item biases"]
    out.print(f"Model: {out_dir}", soft_wrap=True)
    out.print(
        f"Test part: RMSE {test['rmse']:.3f} (user and item biases {base['rmse']:.3f}), AUC watch "
        f"{test['auc_watch']:.3f} (popularity {base['auc_watch']:.3f}). See {out_dir / 'README.md'}.",
        soft_wrap=True,
    )


@train_app.command("recommender")
def train_recommender(
    name: Annotated[str, typer.Argument(help="'recsim-env list recommenders' shows all.")],
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the recommender.")],
    data: DataName = "movietweetings",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last epoch.")] = False,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Trains a recommender on the training part of a data set and keeps it; a scenario takes the folder as path.

    Settings are the recommender's own, the data's or the engine's: `--set epochs=20` · `--set data.min_ratings=5` ·
    `--set engine.name=transformers`.

    Examples: `recsim-env train recommender sasrec --out my-sasrec` ·
    `recsim-env train recommender sasrec --data ml-1m/ --set data.min_ratings=5 --set minutes=60 --out ml-sasrec` ·
    `recsim-env run quickstart --set 'recommenders=[popularity, {name: sasrec, path: my-sasrec}]'`
    """
    from recsim_env.scenario import load_scenario
    from recsim_env.training.recommender import train_recommender as train

    whole = [o for o in overrides or [] if o.startswith(("data.", "engine."))]
    own = dict(_setting(o) for o in overrides or [] if o not in whole)
    plain = {"data": data_source(data), "seed": seed, "recommenders": [{"name": name, **own}]}
    scenario = load_scenario(plain, whole)
    with _EpochBar(quiet) as on_progress:
        told = train(scenario, out_dir, resume, on_progress)
    found = told["figures"]
    out.print(f"Recommender: {out_dir}", soft_wrap=True)
    out.print(
        f"Held-out ratings of {found['n_users']:,.0f} users, full ranking: nDCG@10 {found['ndcg']:.4f} "
        f"({found['ndcg_low']:.4f} to {found['ndcg_high']:.4f}), HR@10 {found['hr']:.4f}; {told['seconds']:,.0f} s.",
        soft_wrap=True,
    )


@train_app.command("policy")
def train_policy(
    scenario: Annotated[str, typer.Argument(help="A scenario that ships, or a YAML file.")],
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the policy.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last iteration.")] = False,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Trains a policy on simulated users and compares it with others on users that it has never met.

    Examples: `recsim-env train policy rl_quickstart --out my-policy` ·
    `recsim-env train policy rl_quickstart --out my-policy --resume` ·
    `recsim-env train policy rl_quickstart --set training.iterations=20 --set users.count=100 --out short` ·
    `recsim-env run rl_quickstart --set 'recommenders=[ease, {name: slate-pg, path: my-policy}]'`
    """
    from recsim_env.scenario import load_scenario
    from recsim_env.training.policy import train_policy as train
    from recsim_env.training.policy_table import table

    with _PolicyBar(quiet) as on_progress:
        told = train(load_scenario(scenario, overrides or []), out_dir, resume, on_progress)
    for name, title in (("held_out", "Users never met in training"), ("second_users", "Users of another model")):
        if name in told:
            show_table(table(told[name]), f"{title}, one episode each")
    out.print(f"Policy: {out_dir} ({told['user_turns']:,} pages, {told['seconds']:,.0f} s)", soft_wrap=True)


def _setting(override: str) -> tuple[str, Any]:
    """Name and value of ``KEY=VALUE``, the value as YAML.

    Raises:
        ScenarioError: If there is no ``=``.
    """
    key, equals, raw = override.partition("=")
    if not equals:
        raise ScenarioError(f"--set {override!r}: write KEY=VALUE, for example --set epochs=20.")
    return key, yaml.safe_load(raw)


class _EpochBar(Bar):
    """A progress bar over epochs, with the loss and the validation."""

    def __init__(self, quiet: bool) -> None:
        columns = ("{task.completed}/{task.total}", "{task.fields[fit]}")
        super().__init__(quiet, columns, "Training", fit="")

    def _update(self, at: Any) -> None:
        fit = f"loss {at.loss:.3f}, validation {at.validation:.4f} (best {at.best:.4f})"
        if not err.is_terminal:
            err.print(f"epoch {at.epoch}/{at.epochs}: {fit}", soft_wrap=True)
        self._bar.update(self._task, total=at.epochs, completed=at.epoch, fit=fit)


class _PolicyBar(Bar):
    """A progress bar over iterations, with the rewards."""

    def __init__(self, quiet: bool) -> None:
        columns = ("{task.completed}/{task.total}", "{task.fields[rewards]}")
        super().__init__(quiet, columns, "Preparing data and users", rewards="")

    def _update(self, at: Any) -> None:
        known = at.evaluation == at.evaluation
        rewards = f"episode {at.evaluation:.2f} (best {at.best:.2f})" if known else ""
        if not err.is_terminal and known:
            err.print(f"iteration {at.iteration}/{at.iterations}: {at.label.lower()}, {rewards}", soft_wrap=True)
        self._bar.update(
            self._task, description=at.label, total=at.iterations, completed=at.iteration, rewards=rewards
        )  # fmt: skip


class _UserLMBar(Bar):
    """A progress bar over the steps of a training run, with loss and the last validation."""

    def __init__(self, quiet: bool) -> None:
        columns = ("{task.completed}/{task.total}", "loss {task.fields[loss]}  {task.fields[fit]}")
        super().__init__(quiet, columns, "Starting", loss="-", fit="")

    def _update(self, at: Any) -> None:
        changes: dict[str, Any] = {"description": at.label, "loss": f"{at.loss:.3f}" if at.loss == at.loss else "-"}
        if at.total:
            changes |= {"total": at.total, "completed": at.step}
        if at.fit is not None:
            changes["fit"] = f"RMSE {at.fit.rmse:.3f}, AUC watch {at.fit.auc_watch:.3f}"
            if not err.is_terminal:
                err.print(f"step {at.step}/{at.total}: {changes['fit']}, loss {at.loss:.3f}", soft_wrap=True)
        self._bar.update(self._task, **changes)
