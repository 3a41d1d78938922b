"""Prompts of the language-model users: read from files, rendered so that neighbouring requests share long prefixes.

A prompt is laid out from what changes least to what changes most: rules (all users) -> persona (one user) -> events,
append-only -> now -> the page or the item -> the question with its options. The files in ``agents/prompts`` are one
family per purpose, each with a version; :attr:`Prompts.versions` goes into the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
import yaml

from recsim_env.engine.untrusted import clean, fence
from recsim_env.errors import ScenarioError
from recsim_env.records import Catalog, FloatArray

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""Options are letters whatever they stand for, so that a scale of eleven levels works like five stars."""

FAMILIES = ("common", "goal", "watch", "enjoy", "next", "words", "social")
TITLE_LENGTH, TEXT_LENGTH, WORDS_LENGTH = 100, 240, 300
"""Characters of untrusted text that enter a prompt: a title, a description, somebody's words."""


@dataclass(frozen=True, slots=True)
class Question:
    """One template with its options.

    Attributes:
        template: Text with ``$name`` places.
        options: Meanings of the options, low to high where they have an order; empty for words.
    """

    template: Template
    options: tuple[str, ...]

    def render(self, options: Sequence[str] | None = None, **values: object) -> str:
        """The text, and one line per option. Values are put in once: what stands in them is never a template."""
        text = self.template.substitute(values)
        meanings = self.options if options is None else options
        lines = [f"{letter}: {meaning}" for letter, meaning in zip(LETTERS, meanings, strict=False)]
        return "\n".join([text, *lines, "Your answer, one letter:"]) if lines else text


class Prompts:
    """All prompt families of a folder.

    Args:
        folder: Folder of your own with the same file names; None is the package's.

    Raises:
        ScenarioError: If a file is missing or has another form.
    """

    def __init__(self, folder: Path | None = None) -> None:
        base = resources.files("recsim_env.agents") / "prompts" if folder is None else folder
        self.versions: dict[str, str] = {}
        self._questions: dict[str, Question] = {}
        for family in FAMILIES:
            path = base / f"{family}.yaml"
            try:
                text = path.read_text(encoding="utf-8")
                plain = yaml.safe_load(text)
                version = plain.pop("version")
                for name, part in plain.items():
                    options = tuple(str(option) for option in part.get("options", ()))
                    self._questions[f"{family}.{name}"] = Question(Template(part["text"]), options)
            except (OSError, yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
                raise ScenarioError(
                    f"Cannot use the prompts {path}: {error}. Copy the package's agents/prompts and change the copy."
                ) from None
            self.versions[family] = f"{version}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        self.rules = self["common.rules"].render()

    def __getitem__(self, name: str) -> Question:
        """A question by ``family.name``."""
        if name not in self._questions:
            raise ScenarioError(f"The prompts have no {name!r}: {name.partition('.')[0]}.yaml must define it.")
        return self._questions[name]


@dataclass(frozen=True, slots=True)
class Quoter:
    """How words that others wrote get into a prompt.

    Attributes:
        special_tokens: The engine's control tokens.
        defences: False lets the words in as they are, only capped. It is there to measure what the defences are worth.
    """

    special_tokens: tuple[str, ...] = ()
    defences: bool = True

    def clean(self, text: str, limit: int) -> str:
        """One line of visible text without control tokens, at most ``limit`` characters."""
        return clean(text, limit, self.special_tokens) if self.defences else text[:limit]

    def fence(self, text: str) -> str:
        """The text marked as data."""
        return fence(text) if self.defences else text

    def quote(self, text: str, limit: int) -> str:
        """The text cleaned, capped and marked as data."""
        return self.fence(self.clean(text, limit))


class Cards:
    """What a user reads about an item: title, year, categories and the start of its description; made when first asked.

    Args:
        catalog: The items.
        quoter: How their words get into a card.
        averages: float (I,), mean rating of each item, to be told with the number of ratings; None tells neither.
    """

    def __init__(self, catalog: Catalog, quoter: Quoter, averages: FloatArray | None = None) -> None:
        self.catalog, self.quoter, self.averages = catalog, quoter, averages
        self._titles: dict[int, str] = {}
        self._cards: dict[int, str] = {}

    def title(self, item: int) -> str:
        """Cleaned title with the year, not fenced: for joining several inside one fence, see :meth:`titles`."""
        if item not in self._titles:
            year = int(self.catalog.year[item])
            name = self.quoter.clean(str(self.catalog.title[item]), TITLE_LENGTH)
            self._titles[item] = f"{name} ({year})" if year else name
        return self._titles[item]

    def titles(self, items: Sequence[int]) -> str:
        """Several titles in one fence."""
        return self.quoter.fence("; ".join(self.title(int(item)) for item in items))

    def mark(self, stars: float) -> str:
        """A mark on the catalogue's scale, such as "4 of 5"."""
        return f"{stars:g} of {self.catalog.scale.high:g}"

    def card(self, item: int) -> str:
        """One line, fenced."""
        if item not in self._cards:
            c = self.catalog
            names = [c.categories[j] for j in np.flatnonzero(c.item_categories[item])]
            parts = [self.title(item), ", ".join(names), str(c.text[item])]
            if self.averages is not None:
                parts.insert(2, f"{c.popularity[item]} ratings, {self.averages[item]:.1f} on average")
            text = ". ".join(part for part in parts if part)
            self._cards[item] = self.quoter.quote(text, TITLE_LENGTH + TEXT_LENGTH)
        return self._cards[item]


def shared_prefix(first: str, second: str) -> int:
    """Number of characters that two prompts share from the start."""
    limit = min(len(first), len(second))
    if first[:limit] == second[:limit]:
        return limit
    low, high = 0, limit  # binary search: prefixes are long
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if first[:middle] == second[:middle] else (low, middle)
    return low


def messages(rules: str, content: str) -> tuple[Mapping[str, str], ...]:
    """The chat of one request."""
    return ({"role": "system", "content": rules}, {"role": "user", "content": content})
