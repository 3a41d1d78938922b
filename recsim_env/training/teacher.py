"""A teacher for what no data shows: it answers users' requests with stated probabilities and templated words.

The real users (``agents/llm.py``) play a few days with this engine, and every request with its stated answer becomes an
example. Numbers and sentences stand in ``user_lm_teacher.yaml``; they are assumptions, and the docs quote them.

The society explores: it acts on the stated probabilities mixed with even ones, so that rare decisions and their words
are met often enough. What is recorded is the stated answer, never the mixture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recsim_env.agents.actions import SCHEMAS
from recsim_env.agents.persona import NAMES
from recsim_env.agents.prompting import Prompts, Question
from recsim_env.draws import Draws
from recsim_env.engine.base import log_normalise
from recsim_env.errors import ScenarioError
from recsim_env.interfaces import Engine
from recsim_env.records import ChoiceRequest, Completion, Dataset, FloatArray, RequestKey, TextRequest
from recsim_env.training.examples import Example
from recsim_env.training.facts import QUOTED, Facts

_PLACES = re.compile(r"\{(\w+)\}")
_MARKED = re.compile(r"^- You watched (<data>[^;]*?</data>), mark (-?[\d.]+ of -?[\d.]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The stated answers, as they stand in the YAML file."""

    plain: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path | None) -> Table:
        """Reads the package's table, or one of your own.

        Raises:
            ScenarioError: If it cannot be read or lacks a part.
        """
        where: Any = resources.files("recsim_env.training") / "user_lm_teacher.yaml" if path is None else path
        try:
            plain = yaml.safe_load(where.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ScenarioError(f"--teacher: cannot read {where}: {error}.") from None
        wanted = ("decisions", "watch", "stars", "heard", "words", "importance", "answers")
        absent = [name for name in wanted if not isinstance(plain, dict) or name not in plain]
        if absent:
            raise ScenarioError(f"--teacher: {where} lacks {', '.join(absent)}. Copy the package's file and change it.")
        return cls(plain)

    def heed(self, friends: float) -> float:
        """Share of the gap between its own mark and the mean of so many friends' that a user closes."""
        spread, noise = (self.plain["heard"][name] for name in ("spread", "noise"))
        return float(friends * spread**2 / (friends * spread**2 + noise**2))

    @property
    def urge(self) -> float:
        """Log-odds of watching for each tenth of the scale by which friends raise the expected mark."""
        return float(self.plain["heard"]["gap"] / self.plain["heard"]["spread"] ** 2)

    def decide(self, purpose: str, n_options: int, features: Mapping[str, float]) -> FloatArray:
        """Stated probabilities of a decision, float64 (n_options,)."""
        rules: Mapping[str, Any] = self.plain["decisions"].get(purpose, {})
        base = np.array(rules.get("base", np.full(n_options, 1.0 / n_options)), np.float64)
        scores = np.log(base)
        rank = np.linspace(0.0, 1.0, n_options)
        for name, move in rules.items():
            if name != "base" and features.get(name):
                scores = scores + features[name] * (np.array(move) if isinstance(move, list) else move * rank)
        return np.exp(log_normalise(scores))


@dataclass(frozen=True, slots=True, eq=False)
class Usual:
    """What is usual of films in the training part, for the simulated pages.

    Attributes:
        popularity: By title, logarithm of the number of ratings, standardised.
        deviation: By title, mean rating less the overall mean, shrunk.
        mean: Overall mean.
        levels: float32 (G,), of the scale.
    """

    popularity: dict[str, float]
    deviation: dict[str, float]
    mean: float
    levels: FloatArray

    @classmethod
    def of(cls, train: Dataset, titles: Sequence[str]) -> Usual:
        """Measures a data set; ``titles`` are as prompts tell them."""
        r, n = train.ratings, train.n_items
        mean = float(r.rating.mean())
        counts = np.bincount(r.item_index, minlength=n)
        off = np.bincount(r.item_index, r.rating - mean, n) / (counts + 5.0)
        log = np.log1p(counts)
        log = (log - log.mean()) / max(float(log.std()), 1e-9)
        return cls(
            dict(zip(titles, log.tolist(), strict=True)), dict(zip(titles, off.tolist(), strict=True)), mean,
            train.catalog.scale.levels,
        )  # fmt: skip


@dataclass(eq=False)
class TeacherEngine(Engine):
    """Answers by the table and keeps requests with their answers as examples.

    Words are rare on a page, so for every page, title and evening some are kept that nobody asked for: what the user
    would have written.

    Args:
        table: The stated answers.
        usual: What is usual of films.
        categories: Names of the catalogue's categories.
        draws: Luck of words.
        explore: Share of even probabilities in what the society acts on.
        weights: Weight of a decision, of a "watch" or "stars", and of a text.
        special: Control tokens of the model that is to be trained.
        prompts: The users' prompts.
        kept: Share of decisions that are kept as examples; all words are.
    """

    table: Table
    usual: Usual
    categories: Sequence[str]
    draws: Draws
    explore: float
    weights: tuple[float, float, float]
    special: tuple[str, ...]
    prompts: Prompts
    kept: float = 1.0
    examples: list[Example] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Names the model."""
        self.model, self.special_tokens = "teacher", self.special

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """The stated answers, recorded; what comes back is mixed with even probabilities."""
        replies = []
        for request in requests:
            purpose, n = request.key.purpose, len(request.options)
            p = self._stated(str(request.messages[-1]["content"]), purpose, n)
            weight = self.weights[1] if purpose in ("watch", "stars", "list") else self.weights[0]
            self._keep(request, request.options, p, weight)
            self._words_beside(request)
            even = 0.0 if purpose in ("watch", "stars", "list") else self.explore
            replies.append(np.log((1 - even) * p + even / n))
        return replies

    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """Words out of templates, recorded."""
        replies = []
        for request in requests:
            facts = Facts.of(str(request.messages[-1]["content"]), self.categories)
            text = self._words(request.key, facts)
            self._keep(request, (), text, self.weights[2])
            replies.append(Completion(text, json.loads(text), "stop", 0, len(text) // 4, None))
        return replies

    def close(self) -> None:
        """Nothing is open."""

    def _keep(
        self, request: ChoiceRequest | TextRequest, options: tuple[str, ...], target: FloatArray | str, weight: float
    ) -> None:
        k = request.key
        if options and self._luck(k, "kept")[0] >= self.kept:
            return
        group = ("taught", k.seed, k.user, k.day, k.session, k.turn)
        self.examples.append(Example(group, request.messages, k.purpose, options, target, weight))

    def _stated(self, content: str, purpose: str, n: int) -> FloatArray:
        facts = Facts.of(content, self.categories)
        if purpose == "watch":
            yes = 1.0 / (1.0 + np.exp(-self._wish(content.rpartition("\n\n")[2], facts)))
            return np.array([1.0 - yes, yes])
        if purpose == "stars":
            return self._marks(content.rpartition("\n\n")[2], facts)
        if purpose == "list":
            lines = re.findall(r"^[A-Z]: <data>(.*?)</data>", content.rpartition("\n\n")[2], re.MULTILINE)
            wishes = [self.table.plain["watch"]["base"] + self._popular(line) for line in lines]
            return np.exp(log_normalise(np.array([*wishes, 0.7])))
        return self.table.decide(purpose, n, facts.features)

    def _popular(self, card: str) -> float:
        return self.table.plain["watch"]["popularity"] * self.usual.popularity.get(_title(card), 0.0)

    def _wish(self, question: str, facts: Facts) -> float:
        """Log-odds of watching the last title of a question."""
        cards = QUOTED.findall(question)
        rules = self.table.plain["watch"]
        moved = sum(rules[name] * facts.features[name] for name in ("liked", "avoided", "seen", "bored"))
        moved += self.table.urge * self._heeded(question, facts, self.table.plain["heard"]["gap"] / 2.0)
        return float(rules["base"] + moved + (self._popular(cards[-1]) if cards else 0.0))

    def _mean(self, question: str, facts: Facts) -> float:
        """Expected mark of the last title of a question by the user's mean and the film's."""
        cards = QUOTED.findall(question)
        mean = self.usual.mean if np.isnan(facts.mean) else facts.mean
        return mean + (self.usual.deviation.get(_title(cards[-1]), 0.0) if cards else 0.0)

    def _heeded(self, question: str, facts: Facts, more: float = 0.0) -> float:
        """How far what friends said (and ``more``) moves the expected mark, in tenths of the scale; 0 in silence."""
        if np.isnan(facts.heard):
            return 0.0
        tenth = float(self.usual.levels[-1] - self.usual.levels[0]) / 10.0
        return self.table.heed(facts.features["told"]) * ((facts.heard - self._mean(question, facts)) / tenth + more)

    def _marks(self, question: str, facts: Facts) -> FloatArray:
        rules, levels = self.table.plain["stars"], self.usual.levels
        tenth = float(levels[-1] - levels[0]) / 10.0
        mean = self._mean(question, facts) + tenth * self._heeded(question, facts)
        mean += tenth * sum(rules[name] * facts.features[name] for name in ("liked", "avoided"))
        density = np.exp(log_normalise(-0.5 * ((levels - mean) / (rules["spread"] * tenth)) ** 2))
        return np.append(rules["no_mark"], (1.0 - rules["no_mark"]) * density)

    def _lines(self, purpose: str, name: str, facts: Facts) -> Sequence[str]:
        """Templates of a field; of a film that is spoken of they say whether it was good."""
        words = self.table.plain["words"]
        if np.isnan(facts.mark):
            lines: Sequence[str] = words[purpose][name]
            return lines
        mean = self.usual.mean if np.isnan(facts.mean) else facts.mean
        better = (facts.mark - mean) / float(self.usual.levels[-1] - self.usual.levels[0])
        about: Sequence[str] = words["about"]["praise" if better > 0.05 else "blame" if better < -0.05 else "neither"]
        return about

    def _words_beside(self, request: ChoiceRequest) -> None:
        """Words that go with a decision, whatever was decided, kept as an example."""
        head, _, question = str(request.messages[-1]["content"]).rpartition("\n\n")
        luck = self._luck(request.key, "beside")
        match request.key.purpose:
            case "next":
                kind = ("search", "instruct", "insight")[int(3 * luck[0])]
                body = self.prompts[f"words.{kind}"].render(page=_inside(self.prompts["next.next"], "page", question))
            case "comment" if luck[0] < 0.25:
                kind, item = "comment", _inside(self.prompts["enjoy.comment"], "item", question)
                body = self.prompts["words.comment"].render(item=item)
            case "social":
                kind = "chat" if luck[0] < 0.5 else "post"
                names = [name for some in NAMES.values() for name in some]
                marked = _MARKED.findall(head)
                about = dict(zip(("film", "mark"), marked[int(luck[2] * len(marked))], strict=True)) if marked else {}
                question_name = f"social.{kind}_about" if about and luck[3] < 0.7 else f"social.{kind}"
                body = self.prompts[question_name].render(friend=names[int(luck[1] * len(names))], **about)
            case _:
                return
        content = f"{head}\n\n{body}"
        messages = (request.messages[0], {"role": "user", "content": content})
        text = self.write(kind, Facts.of(content, self.categories), luck[4:])
        self._keep(TextRequest(messages, replace(request.key, purpose=kind)), (), text, self.weights[2])

    def _luck(self, key: RequestKey, kind: str) -> list[float]:
        keys = self.draws.keys(f"{kind} {key.purpose} {key.item}", key.user, key.day, key.session, key.turn)
        return [float(x) for x in Draws.uniforms(keys, np.arange(64))[0]]

    def _words(self, key: RequestKey, facts: Facts) -> str:
        return self.write(key.purpose, facts, self._luck(key, "words"))

    def write(self, purpose: str, facts: Facts, luck: Sequence[float]) -> str:
        """One reply as JSON: templates whose places the facts fill, drawn with some uniform numbers."""
        at = iter(luck)
        known = {name: some for name, some in facts.words.items() if some}
        told = {name: some[int(next(at) * len(some))] for name, some in known.items()}
        reply: dict[str, Any] = {}
        for name in SCHEMAS[purpose].model_fields:
            if name == "importance":
                low, high = self.table.plain["importance"]
                reply[name] = low + int(next(at) * (high - low + 1))
                continue
            stated = self._lines(purpose, name, facts)
            lines = [line for line in stated if set(_PLACES.findall(line)) <= set(told)]
            reply[name] = lines[int(next(at) * len(lines))].format(**told)
        return json.dumps(reply, ensure_ascii=False)


def _inside(question: Question, place: str, text: str) -> str:
    """What stands at the place of a rendered question."""
    before, _, after = question.template.template.partition(f"${place}")
    return text.removeprefix(before).partition(after + "\n" if after else "\nA: ")[0]


def _title(card: str) -> str:
    """The title of a card: what stands before the genres."""
    head, mark, _ = card.partition("). ")
    return head + ")" if mark else card.partition(". ")[0]
