"""What a user language model is trained and measured on: the data set's parts, their prompts, and the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsim_env.agents.llm import LLMConfig
from recsim_env.agents.prompting import Cards, Prompts, Quoter
from recsim_env.data.load import load_dataset
from recsim_env.draws import Draws
from recsim_env.engine.base import ChatTokenizer
from recsim_env.engine.embed import HashedNgrams
from recsim_env.errors import DataError
from recsim_env.lm.tokenizer import SPECIAL_TOKENS, make_tokenizer, phrases, word_pieces
from recsim_env.records import BoolArray, Dataset, Ratings
from recsim_env.training.config import UserLMConfig
from recsim_env.training.encoding import Encoder
from recsim_env.training.examples import Cases, Example, RealExamples, judged, seat
from recsim_env.training.packing import Tree, pieces
from recsim_env.training.society import taught
from recsim_env.training.teacher import Table, TeacherEngine, Usual

LEFT = 2
"""Ratings that stay in training, at least, of a user from whom some are held out."""
MEASURED_USERS = 3000
"""Users that the final figures are measured on, at most."""
SPELLED_USERS = 300
"""Users that are measured with titles spelled."""
MEANS = 200
"""Means of marks that are one token each, at most."""
BESIDE = 10
"""Sampled films beside each held-out one, in validation and test."""
SAMPLE = 4000
"""Prompts that a tokenizer is made from."""
PHRASE_SHARE, PHRASES = 0.003, 900
"""A phrase is fixed that stands in this share of the sampled prompts; and phrases at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The data set's three parts, all of the same users and films.

    Attributes:
        train: What the model learns from.
        known: Training and validation part: what is known of users when the test part is asked about.
        validation: Ratings for early stopping.
        test: Ratings for the final figures.
    """

    train: Dataset
    known: Dataset
    validation: Ratings
    test: Ratings

    @classmethod
    def of(cls, dataset: Dataset, holdout: int, share: float, draws: Draws) -> Parts:
        """Holds out every user's last ratings, and of a share of users the last of the rest.

        Raises:
            DataError: If users have too few ratings.
        """
        last = _last(dataset, np.full(dataset.n_users, holdout))
        known = dataset.with_ratings(dataset.ratings.take(~last))
        some = draws.uniform("validation", np.arange(dataset.n_users)) < share
        before = _last(known, some.astype(np.int64))
        if not last.any() or not before.any():
            raise DataError(
                f"Nothing can be held out of {dataset.name}: users have too few ratings.",
                remedy=f"Keep users with more of them (data.min_ratings), or lower --holdout ({holdout}).",
            )
        r = known.ratings
        return cls(known.with_ratings(r.take(~before)), known, r.take(before), dataset.ratings.take(last))


def _last(dataset: Dataset, counts: Any) -> BoolArray:
    """Marks each user's last ratings, as many as told, where enough others stay, bool (R,)."""
    r = dataset.ratings
    order = np.lexsort((np.arange(len(r)), r.timestamp, r.user_index))
    total = np.bincount(r.user_index, minlength=dataset.n_users)
    back = np.empty(len(r), np.int64)  # 1 is the last
    back[order] = np.repeat(np.cumsum(total), total) - np.arange(len(r))
    enough = total >= counts + LEFT
    return (back <= counts[r.user_index]) & enough[r.user_index]


class Material:
    """Everything that training needs, made when it is first asked for.

    Args:
        config: The settings.
    """

    def __init__(self, config: UserLMConfig) -> None:
        self.config, self.draws = config, Draws(config.seed)
        self.dataset = load_dataset(config.data)
        self.parts = Parts.of(self.dataset, config.holdout, config.validation, self.draws)
        self.embedder = HashedNgrams()
        self.special: tuple[str, ...] = SPECIAL_TOKENS
        self.table = Table.load(config.teacher)

    @property
    def titles(self) -> list[str]:
        """Titles as prompts tell them."""
        cards = Cards(self.dataset.catalog, Quoter(self.special, self.config.users.defences))
        return [cards.title(item) for item in range(self.dataset.n_items)]

    def real(self, epoch: int, fold: int, users: LLMConfig | None = None) -> list[Example]:
        """Real ratings of one fold."""
        c = self.config
        people = users or self._users("real", epoch, fold)
        made = RealExamples(
            self.parts.train, people, self.embedder, self.draws, self.special, c.folds, c.negatives,
            float(self.table.plain["stars"]["no_mark"]), c.restless, (c.watch_weight, 1.0), self.table.plain["heard"],
        )  # fmt: skip
        return made.part(epoch, fold)

    def stated(self, epoch: int, fold: int, count: int, users: LLMConfig | None = None) -> list[Example]:
        """Stated answers of one fold's share of an epoch; every fold has a society of its own."""
        c = self.config
        n = count // c.folds + (fold < count % c.folds)
        if not n:
            return []
        seed = c.seed + 104_729 * (1 + epoch * c.folds + fold)
        usual = Usual.of(self.parts.train, self.titles)
        weights = (c.decision_weight, c.page_weight, c.words_weight)
        categories = self.dataset.catalog.categories
        prompts = Prompts(c.users.prompts)
        teacher = TeacherEngine(
            self.table, usual, categories, Draws(seed), c.explore, weights, self.special, prompts, c.taught_share
        )  # fmt: skip
        people = users or self._users("stated", epoch, fold)
        return taught(teacher, self.parts.train, people, self.embedder, Draws(seed), n, c.taught_days)

    def _users(self, kind: str, epoch: int, fold: int) -> LLMConfig:
        """Settings of the users of one part; in some parts cards tell no averages."""
        c = self.config
        without = self.draws.uniform(f"plain {kind}", epoch * c.folds + fold)[0] < c.plain
        return c.users.model_copy(update={"averages": False}) if without else c.users

    def tokenizers(self) -> tuple[Any, Any]:
        """A tokenizer out of a sample of prompts, and its twin that spells titles."""
        from recsim_env.lm.backbone import MAX_LENGTH

        c = self.config
        real, stated = self.real(0, 0, c.users), self.stated(0, 0, min(c.taught_users, 60) or 30, c.users)
        sample = [*_some(real, SAMPLE // 2, self.draws), *_some(stated, SAMPLE // 2, self.draws)]
        words = [e for e in stated if isinstance(e.target, str)]
        sample += words
        texts = [str(e.messages[-1]["content"]) for e in sample]
        rules = str(sample[0].messages[0]["content"])
        least = max(8, int(PHRASE_SHARE * len(sample)))
        fixed = phrases([*_sections(texts), *[rules] * least], least, PHRASES) + _means(self.dataset)
        popular = np.argsort(-self.parts.train.catalog.popularity, kind="stable")[: c.title_tokens]
        titles = [self.titles[int(item)] for item in popular]
        corpus = [*texts[::8], *self.titles, *(str(e.target) for e in words), *self.dataset.catalog.categories]
        pieces = word_pieces(corpus, c.vocabulary)
        plain, spelled = (make_tokenizer(fixed, titles, pieces, MAX_LENGTH, spelled) for spelled in (False, True))
        return plain, spelled

    def trees(self, examples: list[Example], encoder: Encoder, spelled: Encoder | None, luck: Draws) -> list[Tree]:
        """Trees in random order, a share of them with titles spelled.

        A tree that fills more than a row comes in parts, its branches mixed before: neighbouring steps would otherwise
        see one user with a long history, first all the films that it watched and then all others.
        """
        plain, other = examples, list[Example]()
        if spelled is not None and self.config.title_dropout:
            groups = list(dict.fromkeys(e.group for e in examples))
            drawn = luck.uniforms(luck.keys("spelled", 0), np.arange(len(groups)))[0]
            chosen = {g for g, u in zip(groups, drawn, strict=True) if u < self.config.title_dropout}
            plain = [e for e in examples if e.group not in chosen]
            other = [e for e in examples if e.group in chosen]
        found = encoder.trees(plain) + (spelled.trees(other) if spelled is not None and other else [])
        mixed = [
            Tree(tree.stem, tuple(tree.branches[b] for b in luck.permutation(f"branches {t}", len(tree.branches))))
            for t, tree in enumerate(found)
        ]
        parts = [part for tree in mixed for part in pieces(tree, self.config.row_tokens)]
        return [parts[i] for i in luck.permutation("trees", len(parts))]

    def held_out(self, encoder: Encoder, test: bool, users: int = MEASURED_USERS) -> tuple[list[Tree], Cases]:
        """Trees and pairs of the validation or test part, of at most so many users."""
        known = self.parts.known if test else self.parts.train
        found = self.parts.test if test else self.parts.validation
        luck = Draws(self.config.seed + (1 if test else 2) * 15_485_863)
        if test:
            kept = luck.permutation("measured", known.n_users)[:users]
            found = found.take(np.isin(found.user_index, kept))
        cases = Cases.of(found, known, BESIDE, luck)
        model = seat(known, self.config.users, self.embedder, luck, self.special)
        return encoder.trees(judged(model, cases, 0.0, (1.0, 1.0))), cases

    def chats(self, tokenizer: tuple[Any, Any | None], name: str) -> tuple[ChatTokenizer, ChatTokenizer | None]:
        """Tokenizers as engines use them; the control tokens are kept out of prompts from here on."""
        chat = ChatTokenizer(tokenizer[0], name)
        self.special = chat.special_tokens
        return chat, None if tokenizer[1] is None else ChatTokenizer(tokenizer[1], name)


def _some(examples: list[Example], n: int, draws: Draws) -> list[Example]:
    return [examples[i] for i in draws.permutation("sample", len(examples))[:n]]


def _means(dataset: Dataset) -> list[str]:
    """Means of marks as prompts write them, with one decimal: each is one token, if there are not too many."""
    scale = dataset.catalog.scale
    low, high = round(10 * scale.low), round(10 * scale.high)
    return [f"{tenth / 10:.1f}" for tenth in range(low, high + 1)] if high - low <= MEANS else []


def _sections(texts: list[str]) -> Iterator[str]:
    for text in texts:
        *first, last = text.split("\n\n")
        yield from (f"{part}\n\n" for part in first)
        yield last
