"""The scenario: one frozen description of a run, read from YAML, changed with ``--set KEY=VALUE``."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recsim_env.errors import ScenarioError, UnknownNameError


class Section(BaseModel):
    """Base of all parts of a scenario: frozen, unknown keys refused, docstrings under the fields are the help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class OpenSection(Section):
    """A part that carries a plug-in's own settings: keys that are not fields here go to ``config``.

    The plug-in's config class checks them when the run is built, with the same "did you mean".
    """

    config: dict[str, Any] = Field(default_factory=dict)
    """Settings of the plug-in itself."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        known = {k: v for k, v in value.items() if k in cls.model_fields}
        rest = {k: v for k, v in value.items() if k not in cls.model_fields}
        return {**known, "config": {**known.get("config", {}), **rest}} if rest else known

    def flat(self) -> dict[str, Any]:
        """The section as it is written in YAML, the plug-in's settings beside the fields."""
        own = self.model_dump(mode="json")
        return {**{k: v for k, v in own.items() if k != "config" and v is not None}, **own["config"]}


class Columns(Section):
    """Names of the columns of a CSV or Parquet file of ratings."""

    user: str = "user_id"
    """Column of user ids."""
    item: str = "item_id"
    """Column of item ids."""
    rating: str = "rating"
    """Column of ratings."""
    timestamp: str | None = "timestamp"
    """Column of times in seconds, or null: then the order of the rows is the order in time."""
    title: str | None = None
    """Column of titles (in the ratings file or in ``items_path``)."""
    categories: str | None = None
    """Column of categories, separated by ``|``."""
    year: str | None = None
    """Column of release years."""
    text: str | None = None
    """Column of longer descriptions."""


class Data(Section):
    """Which ratings, and how they are split."""

    name: str = "movietweetings"
    """A built-in data set; 'recsim-env list datasets' shows all."""
    path: Path | None = None
    """A folder or file of your own; overrides ``name``."""
    format: Literal["ml-100k", "ml-1m", "csv", "parquet"] | None = None
    """Format of ``path``; guessed from its files when null."""
    columns: Columns = Columns()
    """Column names, for csv and parquet."""
    items_path: Path | None = None
    """CSV or Parquet file with one row per item, for csv and parquet."""
    scale: tuple[float, float, float] | None = None
    """Rating scale (low, high, step) for csv and parquet; guessed from the ratings when null."""
    min_ratings: int = Field(default=0, ge=0)
    """Keep the k-core: users and items with at least this many ratings; 0 keeps all."""
    split: Literal["last-out", "per-user", "by-time"] = "last-out"
    """How ratings are held out from recommenders: each user's last, a random share per user, the latest overall."""
    test_share: float = Field(default=0.2, gt=0, lt=1)
    """Share that is held out by per-user and by-time."""


class UsersSection(OpenSection):
    """Who is simulated, and by which model."""

    model: str = "behavioral"
    """The user model; 'recsim-env list users' shows all."""
    count: int = Field(default=500, ge=1)
    """Number of users. Beyond the data set's own, users are drawn from a fitted distribution."""


class RecommenderSection(OpenSection):
    """One recommender of the comparison."""

    name: str
    """The recommender; 'recsim-env list recommenders' shows all."""
    label: str | None = None
    """How it is called in tables and plots; the name when null."""
    path: Path | None = None
    """Folder of a trained one ('recsim-env train recommender'); when null it is fitted as the run begins."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def title(self) -> str:
        """Label, or name."""
        return self.label or self.name


class CalendarSection(Section):
    """Days and sessions: assumptions, since no rating data shows them; see docs/behavioral-users.md."""

    first_day_all: bool = True
    """Every user opens the app on day 0 (in a population that grows: on the day it arrives); otherwise by activity."""
    max_sessions: int = Field(default=2, ge=1)
    """Most sessions of a user on one day."""
    again: float = Field(default=0.15, ge=0, le=1)
    """Probability that a content user comes back on the same day after a session."""
    loyalty: float = Field(default=1.5, ge=0)
    """How strongly satisfaction moves the log-odds of opening the app."""
    churn: float = Field(default=0.04, ge=0, le=1)
    """Probability that a user of neutral satisfaction stops for good after a session."""
    churn_slope: float = Field(default=2.5, ge=0)
    """How strongly dissatisfaction raises the log-odds of stopping."""
    memory: float = Field(default=0.7, ge=0, lt=1)
    """Weight of the past in the moving average of satisfaction, per session."""


GRAPHS = ("none", "watts-strogatz", "barabasi-albert", "homophilous")
"""Graphs of acquaintances by name; anything else is the path of a file of pairs."""


class PopulationSection(Section):
    """Users as a population: who is there, who knows whom, what they tell each other; docs/population.md.

    With all settings at their defaults there is no population: everybody is a user from day 0, nobody knows anybody.
    """

    graph: str = "none"
    """Who knows whom: none, watts-strogatz, barabasi-albert, homophilous, or the path of a CSV file of pairs."""
    match: Literal["names", "order"] = "names"
    """A file's people are users of that row, id or persona's name (names), or take the rows 0, 1, ... as they occur
    (order): for a graph of other people than the data's."""
    degree: int = Field(default=10, ge=2)
    """Mean number of acquaintances of a generated graph."""
    rewiring: float = Field(default=0.1, ge=0, le=1)
    """watts-strogatz: probability that a tie is rewired to anybody."""
    homophily: float = Field(default=6.0, ge=0)
    """homophilous: how much likeness of tastes counts when ties are made; 0 is a random graph."""
    shuffled: bool = False
    """Seat the users at random in the same graph: a control, in which ties have nothing to do with tastes."""
    members: float = Field(default=1.0, gt=0, le=1)
    """Share of the users who are members on day 0; the others may arrive later."""
    arrivals: float = Field(default=0.0, ge=0)
    """Users who arrive on each day from elsewhere."""
    word_of_mouth: float = Field(default=0.0, ge=0, le=1)
    """Probability that a content friend who came today brings somebody who is no member yet, each friend and day."""
    chat: float = Field(default=0.3, ge=0, le=1)
    """Probability that a user who watched something today tells one friend of it (behavioural users)."""
    post: float = Field(default=0.1, ge=0, le=1)
    """Probability that it tells all acquaintances (behavioural users); chat and post may add up to 1."""
    sway: float = Field(default=0.0, ge=0)
    """Log-odds of a click on an item that one friend has praised to the utmost (behavioural users)."""
    conformity: float = Field(default=0.0, ge=0, le=1)
    """Share of the gap between a user's own mark and its friends' mean that each opinion heard closes (behavioural)."""
    curiosity: float = Field(default=0.0, ge=0, le=1)
    """Probability that a user searches, on its next visit, for the item that it heard praised most, if the praise was
    to the utmost (behavioural users)."""
    drift: float = Field(default=0.0, ge=0)
    """How far one liked item, or one opinion heard, moves a user's genre affinity (behavioural users)."""

    trends: int = Field(default=0, ge=0)
    """Items of the list of what most users watched of late, which everybody hears of in the morning; 0 is no list."""
    trend_days: int = Field(default=3, ge=1)
    """Days before the morning that the list counts."""
    buzz: float = Field(default=0.0, ge=0)
    """Log-odds of a click on an item of that list (behavioural users)."""
    survey: int = Field(default=0, ge=0)
    """Films that every user is asked about in the evening, hidden from recommenders, to see tastes and opinions of
    users with a language model; and as many of those spoken of, before it hears and after. 0 asks nobody."""

    @field_validator("graph")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in GRAPHS and not Path(value).suffix:
            near = difflib.get_close_matches(value, GRAPHS, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(GRAPHS)}"
            raise ValueError(f"there is no graph {value!r}; {meant} A file of pairs needs its ending, such as .csv")
        return value

    @model_validator(mode="after")
    def _agree(self) -> PopulationSection:
        if self.chat + self.post > 1:
            raise ValueError(f"chat ({self.chat}) and post ({self.post}) must not add up to more than 1")
        if self.graph == "none" and (self.word_of_mouth or self.shuffled):
            raise ValueError("word_of_mouth and shuffled need a graph of acquaintances (population.graph)")
        if self.buzz and not self.trends:
            raise ValueError("buzz needs a list of what most users watch: set trends to its length, such as 10")
        return self

    @property
    def active(self) -> bool:
        """Whether there is anything to simulate."""
        return self != PopulationSection()

    @property
    def file(self) -> Path | None:
        """The graph's file, None for a generated graph."""
        return None if self.graph in GRAPHS else Path(self.graph)

    @property
    def influences(self) -> list[str]:
        """Settings by which users move each other or themselves, as far as they are set."""
        return [name for name in ("sway", "conformity", "curiosity", "drift", "buzz") if getattr(self, name)]


class CreatorsSection(Section):
    """Who makes the items: creators publish over the days and stop when nobody sees them; docs/population.md.

    With ``count`` 0 there are none, and the whole catalogue is on offer from day 0.
    """

    count: int = Field(default=0, ge=0)
    """Creators, among whom the catalogue is dealt out in equal shares; 0 is none."""
    deal: Literal["random", "category", "rating"] = "random"
    """How: at random, by first category (creators have a style), or by mean mark (some are better than others)."""
    opening: float = Field(default=0.5, gt=0, le=1)
    """Share of a creator's items that are on offer on day 0, at least one. The others have no ratings yet."""
    publish: float = Field(default=0.2, ge=0, le=1)
    """Probability that a creator publishes its next item on a day."""
    patience: int = Field(default=7, ge=1)
    """Days that a creator looks back on in the evening, when it decides whether to go on."""
    least: int = Field(default=1, ge=0)
    """Impressions of its items in these days below which it stops for good; 0 is never."""


class EmbedderSection(OpenSection):
    """What turns texts into vectors, for memory."""

    name: str = "hashed-ngrams"
    """The embedder; the default needs no model. A bare name will do: ``embedder: hashed-ngrams``."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class EngineSection(OpenSection):
    """The language-model engine, for user models and recommenders that speak."""

    name: str | None = None
    """The engine; 'recsim-env list engines' shows all."""
    retries: int = Field(default=1, ge=0)
    """How often a bad reply (no JSON, not the schema, no probabilities) is asked for again."""
    max_failure_share: float = Field(default=0.05, ge=0, le=1)
    """Share of replies that stay bad past which the run fails, resumably; they are never passed over silently."""
    embedder: EmbedderSection = EmbedderSection()
    """What turns texts into vectors for memory."""

    def flat(self) -> dict[str, Any]:
        """The section as it is written in YAML, the plug-ins' settings beside the fields."""
        return {**super().flat(), "embedder": self.embedder.flat()}


class TrainingSection(OpenSection):
    """How a policy learns from the simulated users ('recsim-env train policy'); runs do not read it.

    An iteration serves fresh users, then the policy learns from their reactions. Settings of the learner itself, such
    as ``learning_rate``, stand beside these keys.
    """

    policy: str | None = None
    """Name or label of the recommender that is trained; the first that can be when null. The others are baselines."""
    iterations: int = Field(default=100, ge=1)
    """Most iterations."""
    minutes: float | None = Field(default=None, gt=0)
    """No new iteration begins after so long; null is no limit. With a limit, results depend on the machine's speed."""
    num_envs: int = Field(default=256, ge=1)
    """Users who are served at once."""
    turns: int = Field(default=20, ge=1)
    """Pages of each in an iteration. An episode that is longer is cut, and its rest is estimated."""
    discount: float = Field(default=0.9, ge=0, le=1)
    """Worth of the next page's reward, relative to this page's; less of it learns faster, and looks less far ahead."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the data set's users whom training never meets: on them policies are compared."""
    evaluate_every: int = Field(default=10, ge=1)
    """Iterations between two measurements on training users; the best weights are kept."""
    evaluate_users: int = Field(default=200, ge=1)
    """Users of such a measurement."""
    tensorboard: bool = False
    """Writes the log as TensorBoard's events too, into the folder ``tensorboard`` beside it."""
    second_users: UsersSection | None = None
    """Other users, never trained on, on whom the policies are compared too: what was learned of the simulator's
    mathematics instead of people shows there."""

    def flat(self) -> dict[str, Any]:
        """The section as it is written in YAML, the plug-ins' settings beside the fields."""
        plain = super().flat()
        return plain if self.second_users is None else {**plain, "second_users": self.second_users.flat()}


class Scenario(Section):
    """A whole run: who, with what, for how long, compared with whom."""

    name: str = "scenario"
    """Name of the run; also the start of its folder's name."""
    description: str = ""
    """One sentence for lists and reports."""
    seed: int = 0
    """Every random draw depends on it and on nothing else."""
    replications: int = Field(default=1, ge=1)
    """How often the comparison is repeated with seeds seed, seed + 1, ..."""
    days: int = Field(default=30, ge=1, lt=2**20)
    """Simulated days."""
    slate_size: int = Field(default=10, ge=1)
    """Items per page, K."""
    history_length: int = Field(default=50, ge=1)
    """Events of a user that a recommender sees, L."""
    max_turns: int = Field(default=20, ge=1, lt=2**20)
    """Longest session, in pages."""
    episode: Literal["session", "life"] = "life"
    """What one Gymnasium episode is: one session, or a user's ``days`` days."""
    candidates: int | None = Field(default=None, ge=1)
    """Size of the candidate set that actions choose from; null is the whole catalogue."""
    retriever: str = "popularity"
    """Recommender that picks the candidates when ``candidates`` is set."""
    retrain_every: int = Field(default=0, ge=0)
    """Recommenders are trained again every so many days on what the users did; 0 is never."""
    batch_size: int = Field(default=4096, ge=1)
    """Users per batch of the runner; changes speed, never results."""
    reward: dict[str, float] = Field(default_factory=lambda: {"clicks": 1.0})
    """Weights of named reward functions; 'recsim-env list rewards' shows all."""
    data: Data = Data()
    """The data set."""
    users: UsersSection = UsersSection()
    """The simulated users."""
    recommenders: tuple[RecommenderSection, ...] = (RecommenderSection(name="popularity"),)
    """The recommenders to compare, under common random numbers."""
    calendar: CalendarSection = CalendarSection()
    """Days, sessions, return and churn."""
    population: PopulationSection = PopulationSection()
    """Members, acquaintances and what they do to each other."""
    creators: CreatorsSection = CreatorsSection()
    """Who makes the items, and when they come out."""
    engine: EngineSection = EngineSection()
    """The language-model engine; not needed by behavioural users."""
    training: TrainingSection = TrainingSection()
    """How a policy is trained on the scenario's users."""

    @field_validator("recommenders", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return [value] if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _agree(self) -> Scenario:
        titles = [r.title for r in self.recommenders]
        twice = sorted({t for t in titles if titles.count(t) > 1})
        if twice:
            raise ValueError(f"recommenders: {twice[0]!r} stands there twice; give one of them a 'label'")
        if not titles:
            raise ValueError("recommenders: name at least one")
        if self.history_length < self.slate_size:
            raise ValueError(f"history_length ({self.history_length}) must be at least slate_size ({self.slate_size})")
        if self.candidates is not None and self.candidates < self.slate_size:
            raise ValueError(f"candidates ({self.candidates}) must be at least slate_size ({self.slate_size})")
        return self

    @property
    def seeds(self) -> list[int]:
        """Seeds of the replications."""
        return list(range(self.seed, self.seed + self.replications))

    @property
    def cells(self) -> list[tuple[str, int]]:
        """Recommender and seed of everything that is run, in its order."""
        return [(section.title, seed) for section in self.recommenders for seed in self.seeds]

    def flat(self) -> dict[str, Any]:
        """The scenario as plain data, as it would be written in YAML."""
        plain = self.model_dump(mode="json", exclude={"users", "recommenders", "engine", "training"})
        plain["users"], plain["engine"], plain["training"] = self.users.flat(), self.engine.flat(), self.training.flat()
        plain["recommenders"] = [r.flat() for r in self.recommenders]
        return plain

    def to_yaml(self) -> str:
        """YAML that :func:`load_scenario` reads back to an equal scenario."""
        return yaml.safe_dump(self.flat(), sort_keys=False, allow_unicode=True)

    def fingerprint(self) -> str:
        """Hash of everything that can change a result (the batch size cannot, nor where a model is served)."""
        plain = self.flat()
        del plain["batch_size"], plain["description"], plain["training"]
        if not self.population.active:
            del plain["population"]
        if not self.creators.count:
            del plain["creators"]
        del plain["engine"]["max_failure_share"]  # so that a run that failed by it can go on with a larger one
        plain["engine"].pop("base_urls", None)  # likewise with other servers, when one of them is lost
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def scenario_names() -> list[str]:
    """Names of the scenarios that ship with the package."""
    folder = resources.files("recsim_env.scenarios")
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_scenario(source: str | Path | Mapping[str, Any] | Scenario, overrides: Sequence[str] = ()) -> Scenario:
    """Reads a scenario.

    Args:
        source: A shipped scenario's name, a YAML file, plain data, or a Scenario.
        overrides: Strings ``"key=value"`` with dotted keys and YAML values, such as ``"users.count=100"``.

    Raises:
        ScenarioError: If the file is absent or is no YAML, a value is not allowed, or an override has no ``=``.
        UnknownNameError: If a scenario or key does not exist; the nearest is suggested.
    """
    if isinstance(source, Scenario):
        plain, where = source.flat(), f"scenario {source.name}"
    elif isinstance(source, Mapping):
        plain, where = dict(source), "scenario"
    else:
        plain, where = _read(source)
    for override in overrides:
        _override(plain, override)
    try:
        return Scenario.model_validate(plain)
    except ValidationError as error:
        raise _explain(error, where) from None


def _read(source: str | Path) -> tuple[dict[str, Any], str]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ScenarioError(f"Cannot read the scenario {path}: {error.strerror or error}.") from None
    else:
        names = scenario_names()
        if str(source) not in names:
            remedy = "Give a name from 'recsim-env list scenarios' or the path of a .yaml file."
            raise UnknownNameError("scenario", str(source), names, remedy=remedy)
        path = Path(f"{source}.yaml")
        text = (resources.files("recsim_env.scenarios") / path.name).read_text(encoding="utf-8")
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(plain, dict):
        raise ScenarioError(f"{path} must hold 'key: value' lines, not {type(plain).__name__}.")
    plain.setdefault("name", path.stem)
    return plain, str(path)


def _override(plain: dict[str, Any], override: str) -> None:
    key, equals, raw = override.partition("=")
    if not equals or not key:
        raise ScenarioError(f"--set {override!r}: write KEY=VALUE, for example --set users.count=100.")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        value = raw
    *parents, last = key.strip().split(".")
    node = plain
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ScenarioError(f"--set {key}: {parent!r} has no parts; set it as a whole.")
        node[parent] = node = dict(child)
    node[last] = value


def _explain(error: ValidationError, where: str) -> ScenarioError | UnknownNameError:
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section: type[BaseModel] = Scenario
        for part in first["loc"][:-1]:
            annotation = section.model_fields[str(part)].annotation if str(part) in section.model_fields else None
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                section = annotation
        remedy = "docs/scenarios.md lists all keys."
        return UnknownNameError("key", location, _dotted(section, first["loc"][:-1]), where, remedy)
    message = str(first["msg"]).removeprefix("Value error, ")
    given = first.get("input")
    shown = "" if isinstance(given, (Mapping, Scenario)) else f" (given: {given!r})"
    return ScenarioError(f"{where}: {location + ': ' if location else ''}{message}{shown}.")


def _dotted(section: type[BaseModel], parents: tuple[int | str, ...]) -> list[str]:
    prefix = "".join(f"{p}." for p in parents)
    return [prefix + name for name in section.model_fields]


def validate_config(config_class: type[BaseModel], values: Mapping[str, Any], where: str) -> Any:
    """Builds a plug-in's configuration out of a scenario's settings.

    Raises:
        UnknownNameError: For a setting that the plug-in does not have.
        ScenarioError: For a value that it does not allow.
    """
    try:
        return config_class.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UnknownNameError("setting", location, config_class.model_fields, where) from None
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ScenarioError(f"{where}.{location}: {message} (given: {first.get('input')!r}).") from None
