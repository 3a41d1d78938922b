"""What a study is: a scenario, arms that change it, what is measured in each run folder, and what is expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from recsim_env.errors import UnknownNameError
from recsim_env.rundir import Run

WORDS = (
    "users={model: llm, count: 20, averages: true, watch_bias: -1.5, remembered: 16, memory: {short: 32}}",
    "population={}",
    "engine={name: transformers, model: builtin}",
)
"""A scenario for users with a language model, the built-in one as it was trained: strangers, as few as take minutes."""
FRIENDLY_WORDS = (
    *WORDS,
    "population={graph: homophilous, degree: 6, survey: 24}",
    "days=8",
    "slate_size=5",
    "max_turns=5",
)
"""The same with friends, who are asked every evening what they think."""
DEAF = ("users.hears=false",)
"""Friends who speak, and reach nobody."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to run the scenario.

    Attributes:
        name: Short name, for folders and tables.
        label: What figures call it.
        overrides: ``"key=value"`` strings that make it.
        words: The same for users with a language model; None where it makes no difference.
    """

    name: str
    label: str
    overrides: tuple[str, ...] = ()
    words: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of the figure: a series of every arm.

    Attributes:
        series: Its name in :class:`Measured`.
        title: What it shows.
        x: Label of the horizontal axis, with its unit.
        y: Label of the vertical axis, with its unit.
        ticks: Names of the places on the horizontal axis; none are days, counted from ``first``.
        first: First place.
        log: Whether the vertical axis is logarithmic; zeros are left out.
    """

    series: str
    title: str
    x: str
    y: str
    ticks: tuple[str, ...] = ()
    first: int = 0
    log: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A difference that is expected.

    Attributes:
        outcome: Name of the figure in :class:`Measured`.
        arm: Name of the arm.
        control: Name of the arm that it is compared with, seed by seed.
        sign: +1 if the figure should be larger in the arm, -1 if smaller.
    """

    outcome: str
    arm: str
    control: str
    sign: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run folder shows.

    Attributes:
        series: Values along the horizontal axis of each panel, by name; NaN where there is nothing to measure.
        outcomes: Figures by name.
    """

    series: Mapping[str, Sequence[float]]
    outcomes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Study:
    """A study.

    Attributes:
        name: Name on the command line.
        question: One sentence.
        scenario: Name of the shipped scenario.
        arms: The arms; what is studied first, controls last.
        panels: Panels of the figure.
        outcomes: Names of the figures, with what they mean and their unit.
        claims: What is expected.
        measure: Reads one run folder (one seed), and nothing else.
        words: ``"key=value"`` strings that make the scenario one for users with a language model, below those that the
            caller gives.
    """

    name: str
    question: str
    scenario: str
    arms: tuple[Arm, ...]
    panels: tuple[Panel, ...]
    outcomes: Mapping[str, str]
    claims: tuple[Claim, ...]
    measure: Callable[[Run], Measured]
    words: tuple[str, ...] = WORDS


STUDIES = ("filter_bubble", "popularity_loop", "conformity", "polarisation", "diffusion", "cold_start", "realism")
"""Studies by name; each is a module of this folder with a ``STUDY``."""


def get_study(name: str) -> Study:
    """A study.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    if name not in STUDIES:
        raise UnknownNameError("study", name, STUDIES, remedy="'recsim-env list studies' shows all.")
    study: Study = import_module(f"recsim_env.experiments.studies.{name}").STUDY
    return study
