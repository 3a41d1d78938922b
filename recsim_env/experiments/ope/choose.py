"""Whose turns are the log, and who is evaluated on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import yaml
from pydantic import ValidationError

from recsim_env.build import World
from recsim_env.errors import RecsimError, ScenarioError, UnknownNameError
from recsim_env.experiments.ope.logs import Log
from recsim_env.registry import recommenders
from recsim_env.scenario import RecommenderSection, Scenario

REMEDY = (
    "Give the recommender some chance (--set recommenders='[{name: NAME, temperature: 0.5, epsilon: 0.1}]'), "
    "run again and evaluate that log."
)


def choose_logged(scenario: Scenario, title: str | None, seeds: Callable[[str], list[int]]) -> RecommenderSection:
    """The logging recommender: the named one, or the first that has served and has chance in its slates.

    Raises:
        UnknownNameError: If there is no such recommender in the scenario.
        RecsimError: If it is deterministic.
    """
    sections = {section.title: section for section in scenario.recommenders}
    if title is not None and title not in sections:
        raise UnknownNameError("recommender", title, sections, "--logged")
    usable = [s for s in sections.values() if not is_certain(s) and seeds(s.title)]
    chosen = sections[title] if title is not None else (usable or list(sections.values()))[0]
    if is_certain(chosen):
        raise _certain(chosen.title)
    return chosen


def choose_targets(scenario: Scenario, logged: RecommenderSection, texts: Sequence[str]) -> list[RecommenderSection]:
    """The target policies: the named ones, or all other recommenders of the scenario.

    Raises:
        UnknownNameError: If there is no such recommender.
        ScenarioError: If there is none, one stands there twice, or its settings are none.
    """
    known = {section.title: section for section in scenario.recommenders}
    chosen = [known[text] if text in known else parse_target(text, known) for text in texts]
    if not texts:
        chosen = [section for title, section in known.items() if title != logged.title]
    if not chosen:
        raise ScenarioError("The run has one recommender only. Name a target policy with --target NAME.")
    titles = [section.title for section in chosen]
    twice = [title for title in titles if titles.count(title) > 1]
    if twice:
        raise ScenarioError(f"--target: {twice[0]!r} stands there twice. Name it once, or give one of them a 'label'.")
    return chosen


def parse_target(text: str, known: Iterable[str]) -> RecommenderSection:
    """A target that the scenario does not have: a registered name, or settings such as ``{name: ease, epsilon: 0.1}``.

    Raises:
        UnknownNameError: If there is no such recommender or setting.
        ScenarioError: If the settings are none.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        words = ", ".join(f"{k} {v}" for k, v in value.items() if k not in ("name", "label"))
        value = {"label": f"{value['name']} ({words})" if words else value["name"], **value}
    try:
        section = RecommenderSection.model_validate(value)
    except ValidationError:
        message = f"--target {text!r}: write a name, or settings such as '{{name: ease, temperature: 0.5}}'."
        raise ScenarioError(message) from None
    if section.name not in recommenders.names():
        raise UnknownNameError("recommender", section.name, [*known, *recommenders.names()], "--target")
    World.new_recommender(section)  # refuses settings that it does not have
    return section


def is_certain(section: RecommenderSection) -> bool:
    """Whether a recommender shows one slate in every state."""
    return bool(World.new_recommender(section).deterministic)


def refuse_certain(log: Log, title: str) -> None:
    """Refuses a log without chance.

    Raises:
        RecsimError: If every slate was certain, or no propensity is known.
    """
    if not log.own.size:
        raise RecsimError(f"No turn of {title!r} has a propensity, so nothing can be weighted. {REMEDY}")
    if log.unexplored[log.own].all():
        raise _certain(title)


def _certain(title: str) -> RecsimError:
    return RecsimError(
        f"{title!r} is deterministic: it shows one slate in every state, so its log says nothing about any other. "
        f"{REMEDY}"
    )
