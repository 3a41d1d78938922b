"""The behavioural user once more, written the plain way: one Python object per user, one item at a time.

It is what the vectorised model is measured against, and a second implementation to check it with: for the same draws
it makes the same choices. Only the ``cascade`` choice is here.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recsim_env.agents.behavioral import BehavioralUsers
from recsim_env.records import NextAction

GOLDEN, MASK = 0x9E3779B97F4A7C15, 0xFFFFFFFFFFFFFFFF


def finalise(x: int) -> int:
    """SplitMix64's finaliser, as in ``recsim_env.draws``."""
    x &= MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def uniform(bits: int) -> float:
    """32 bits to (0, 1)."""
    return ((bits >> 9) + 0.5) * 2.0**-23


def uniform_pair(key: int, lane: int) -> tuple[float, float]:
    """Two draws of one lane."""
    bits = finalise(key + (lane + 1) * GOLDEN)
    return uniform(bits >> 32), uniform(bits & 0xFFFFFFFF)


def sigmoid(x: float) -> float:
    """Logistic function."""
    return 1.0 / (1.0 + math.exp(-x))


@dataclass
class Item:
    """What a user knows of an item."""

    index: int
    factors: list[float]
    interest: list[float]
    shares: list[float]
    bias: float
    appeal: float


@dataclass
class Reaction:
    """What a user did with a page, item by item, and what it does next."""

    clicked: list[bool]
    watched: list[float]
    liked: list[bool]
    shared: list[bool]
    rating: list[float | None]
    p_click: list[float]
    expected: list[float]
    action: int
    wanted: int | None = None


class World:
    """Items and settings that all users share, taken from a fitted :class:`BehavioralUsers`."""

    def __init__(self, model: BehavioralUsers, seed: int) -> None:
        p, n_items = model.preferences, model.catalog.n_items
        vectors = model.item_vectors.tolist()
        self.items = [
            Item(
                i, vectors[i][model._factors], vectors[i][model._interests], vectors[i][model._categories],
                float(model.item_bias[i]), float(model.item_appeal[i]),
            )
            for i in range(n_items + 1)
        ]  # fmt: skip
        self.config, self.n_items = model.config, n_items
        self.mean, self.score_mean, self.score_sd = p.mean, p.score_mean, p.score_sd
        self.cuts, self.levels, self.noise_levels = p.cuts.tolist(), p.levels.tolist(), p.noise_levels.tolist()
        self.liked_from = model.catalog.scale.liked_from()
        self.page_base = finalise(finalise(seed * GOLDEN) + zlib.crc32(b"page"))


class User:
    """One user: taste, mindset, and the reaction to a page."""

    def __init__(self, world: World, model: BehavioralUsers, row: int) -> None:
        t = model.tastes
        self.world, self.row = world, row
        self.bias, self.factors = float(t.bias[row]), t.factors[row].tolist()
        self.interest, self.affinity = t.interest[row].tolist(), t.affinity[row].tolist()
        self.sigma = world.noise_levels[int(t.noise[row])]
        self.patience = float(model.patience[row])
        self.satiation = [0.0] * len(self.affinity)
        self.mood = self.boredom = self.trust = 0.0
        self.left, self.spoke, self.last_day = self.patience, False, 0

    def react(
        self, day: int, session: int, turn: int, page: Sequence[int], last: Sequence[int], seen: set[int],
        wish: Sequence[float], asked: bool,
    ) -> Reaction:  # fmt: skip
        """Reads a page from the top; clicks, watches and rates; then feels and decides."""
        w, c = self.world, self.world.config
        if turn == 0:
            self.wake(day)
        key = finalise(finalise(self.row * GOLDEN + w.page_base) + ((day << 40) + (session << 20) + turn) * GOLDEN)
        reaction = Reaction([], [], [], [], [], [], [], NextAction.NEXT)
        examined, reach = True, 1.0
        for index in page:
            item = w.items[index]
            score, log_odds = self.appraise(item, wish, index in seen, index in last)
            attraction = sigmoid(log_odds)
            luck, luck_on = uniform_pair(key, index)
            attracted = luck < attraction
            reaction.clicked.append(attracted and examined and index < w.n_items)
            reaction.p_click.append(attraction * reach)
            examined = examined and luck_on < (c.go_on_clicked if attracted else c.go_on)
            reach *= c.go_on + (c.go_on_clicked - c.go_on) * attraction
            reaction.expected.append(self.expected(score))
            self.enjoy(reaction, key, index, score)
        self.feel(reaction, page, wish, asked)
        self.decide(reaction, key)
        return reaction

    def wake(self, day: int) -> None:
        """A session starts."""
        fade = self.world.config.overnight ** (day - self.last_day)
        self.satiation = [s * fade for s in self.satiation]
        self.mood, self.boredom = 0.5 * self.mood, 0.3 * self.boredom
        self.left, self.spoke, self.last_day = self.patience, False, day

    def appraise(self, item: Item, wish: Sequence[float], seen: bool, repeated: bool) -> tuple[float, float]:
        """Latent score and log-odds of a click if examined."""
        w, c = self.world, self.world.config
        taste = sum(a * b for a, b in zip(item.factors, self.factors, strict=True))
        interest = sum(a * b for a, b in zip(item.interest, self.interest, strict=True))
        genre = 0.0
        for share, affinity, tired, wanted in zip(item.shares, self.affinity, self.satiation, wish, strict=True):
            genre += share * (c.genre * affinity - c.satiation * tired + c.wish * wanted)
        log_odds = genre + c.interest * min(max(interest, -1.0), c.interest_cap)
        log_odds += taste * c.taste / w.score_sd + item.appeal
        log_odds -= c.again_penalty * seen + c.repeat_penalty * repeated
        return taste + item.bias + w.mean + self.bias, log_odds

    def expected(self, score: float) -> float:
        """Expected star."""
        w, star = self.world, self.world.levels[0]
        for cut, low, high in zip(w.cuts, w.levels, w.levels[1:], strict=False):
            star += (high - low) * 0.5 * math.erfc((cut - score) / self.sigma / math.sqrt(2.0))
        return star

    def enjoy(self, reaction: Reaction, key: int, index: int, score: float) -> None:
        """What follows a click."""
        w, c = self.world, self.world.config
        if not reaction.clicked[-1]:
            reaction.watched.append(0.0)
            reaction.liked.append(False)
            reaction.shared.append(False)
            reaction.rating.append(None)
            return
        width = w.n_items + 1
        one, rate, share = (uniform_pair(key, index + width * i) for i in (1, 2, 3))
        noise = math.sqrt(-2.0 * math.log(one[0])) * math.cos(2.0 * math.pi * one[1])
        watched = sigmoid(0.4 + 0.8 * (score - w.score_mean) / w.score_sd + 0.8 * noise)
        stars = None
        if rate[0] < c.rate:
            below = [0.5 * math.erfc(-(cut - score) / self.sigma / math.sqrt(2.0)) for cut in w.cuts]
            stars = w.levels[sum(rate[1] > p for p in below)]
            liked = stars >= w.liked_from
        else:
            liked = watched > 0.75 and share[1] < 0.5
        reaction.watched.append(watched)
        reaction.liked.append(liked)
        reaction.shared.append(liked and share[0] < c.share)
        reaction.rating.append(stars)

    def feel(self, reaction: Reaction, page: Sequence[int], wish: Sequence[float], asked: bool) -> None:
        """The page moves the mindset."""
        w, c = self.world, self.world.config
        self.satiation = [s * c.satiation_decay for s in self.satiation]
        for index, watched in zip(page, reaction.watched, strict=True):
            if watched:
                self.satiation = [s + x * watched for s, x in zip(self.satiation, w.items[index].shares, strict=True)]
        joy = self.joy = 2.0 * min(sum(reaction.watched) / c.target_clicks, 1.0) - 1.0
        tired = math.tanh(max(self.satiation, default=0.0) / 3.0)
        self.mood += 0.3 * (joy - self.mood)
        self.boredom += 0.4 * (0.3 * (1.0 - joy) + 0.4 * tired - self.boredom)
        if asked:
            match = sum(x * y for index in page for x, y in zip(w.items[index].shares, wish, strict=True)) / len(page)
            answered = min(max(2.0 * match, -1.0), 1.0)
            self.trust += 0.3 * (answered - self.trust)
            self.mood = min(max(self.mood + 0.15 * answered, -1.0), 1.0)

    def decide(self, reaction: Reaction, key: int) -> None:
        """Next page, search, words, or leaving."""
        c, lane = self.world.config, 4 * (self.world.n_items + 1)
        self.left -= 1.0 + self.boredom - 0.5 * max(self.joy, 0.0)
        leaves = self.left <= 0
        if leaves:
            reaction.action = NextAction.LEAVE
            if not self.spoke and uniform_pair(key, lane)[0] < c.speak * (1.0 + 0.5 * self.trust):
                reaction.action, self.left, self.spoke = NextAction.INSTRUCT, 2.0, True
        elif uniform_pair(key, lane + 1)[0] < c.search * self.boredom:
            reaction.action = NextAction.SEARCH
        if reaction.action in (NextAction.INSTRUCT, NextAction.SEARCH):
            reaction.wanted = self.wanted(key)

    def wanted(self, key: int) -> int:
        """The category that the user asks for."""
        lane, best, most = 5 * (self.world.n_items + 1), 0, -math.inf
        for i, (affinity, tired) in enumerate(zip(self.affinity, self.satiation, strict=True)):
            gumbel = -math.log(-math.log(uniform_pair(key, lane + i)[0]))
            if affinity - tired + gumbel > most:
                best, most = i, affinity - tired + gumbel
        return best


def users_of(model: BehavioralUsers, seed: int, n: int) -> list[User]:
    """The first users of a population that was just reset, as objects."""
    world: Any = World(model, seed)
    return [User(world, model, row) for row in range(n)]
