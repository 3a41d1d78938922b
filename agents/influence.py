"""What behavioural users do to each other, and what they like does to them: talk, sway, conformity, curiosity, drift.

All of it is assumed, and all of it is off until a scenario's ``population`` says otherwise; docs/population.md has the
equations. Opinions are signals (speaker, item, mark), not words: chats with one friend and posts to all acquaintances,
after RecAgent (Wang et al., "User behavior simulation with large language model based agents", 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recsim_env.agents.opinions import OpinionStore, Topics, valence_of
from recsim_env.agents.preference import Preferences, category_weights, usual_categories
from recsim_env.draws import Draws
from recsim_env.graphs import Graph
from recsim_env.interfaces import Opinions
from recsim_env.records import BoolArray, Catalog, FloatArray, IntArray
from recsim_env.scenario import PopulationSection

MOST = 3.0
"""Praise of an item counts up to so many friends' utmost."""
FARTHEST = 2.0
"""Most that a genre affinity can drift from where it began."""


class Influence:
    """Acquaintances and leanings of U behavioural users.

    Args:
        section: Settings.
        friends: Who knows whom; None is nobody.
        catalog: The items.
        preferences: The fitted world.
        affinity: float32 (U, C), genre affinity of the users; moved in place.
        draws: Draws of the run.
    """

    def __init__(
        self,
        section: PopulationSection,
        friends: Graph | None,
        catalog: Catalog,
        preferences: Preferences,
        affinity: FloatArray,
        draws: Draws,
    ) -> None:
        self.section, self.friends, self.draws = section, friends, draws
        self.affinity, self._first = affinity, affinity.copy()
        self._mean = preferences.score_mean
        self._scale = catalog.scale
        # What is special about an item: usual ones move nobody.
        self._pull = (category_weights(catalog) - usual_categories(catalog)).astype(np.float32)
        n = len(affinity)
        self.opinions = OpinionStore(n, catalog.n_items)
        self._talked_of = np.zeros(catalog.n_items + 1, np.bool_)  # the list of what most users watch
        self.topics = Topics(n)
        self._tip = np.full(n, -1, np.int64)  # what each user has heard praised most since it last took a tip
        self._praise = np.zeros(n, np.float32)

    def clear(self, rows: IntArray) -> None:
        """A new life of some users: nothing heard, tastes as they were."""
        self.affinity[rows] = self._first[rows]
        self.topics.clear(rows)
        self._tip[rows], self._praise[rows] = -1, 0.0
        self.opinions.forget(rows)

    def valence(self, stars: FloatArray) -> FloatArray:
        """How far marks lie from the average towards an end of the scale, float32 in [-1, 1]."""
        return valence_of(stars, self._mean, self._scale)

    def sway(self, rows: IntArray, items: IntArray, log_odds: FloatArray) -> None:
        """Moves the log-odds of clicks by what users have heard of the items from friends and everybody, in place.

        Args:
            rows: int (n,), users.
            items: int (n, K), item indices.
            log_odds: float32 (n, K).
        """
        if self.section.buzz:
            log_odds += np.float32(self.section.buzz) * self._talked_of.take(items)
        if self.section.sway and len(self.opinions):
            hit, place = self.opinions.heard(np.repeat(rows, items.shape[1]), items.ravel())
            praise = np.clip(self.opinions.valence[place], -MOST, MOST)
            log_odds.reshape(-1)[hit] += (self.section.sway * praise).astype(np.float32)

    def notice(self, items: IntArray) -> None:
        """Takes in what most users watched of late, int (n,)."""
        self._talked_of[:] = False
        self._talked_of[items] = True

    def conform(self, rows: IntArray, items: IntArray, score: FloatArray) -> FloatArray:
        """Latent scores as marks are given by: each opinion heard closes a share of the gap to the friends' mean.

        Args:
            rows: int (n,), users.
            items: int (n,), an item for each.
            score: float32 (n,), their own scores; stay as they are.
        """
        share = self.section.conformity
        if not share or not len(self.opinions):
            return score
        hit, place = self.opinions.heard(rows, items)
        count = self.opinions.count[place]
        moved = score.copy()
        moved[hit] += (1.0 - (1.0 - share) ** count) * (self.opinions.stars[place] / count - score[hit])
        return moved

    def take_tips(self, rows: IntArray, luck: FloatArray) -> IntArray:
        """What users look up because a friend praised it; a tip is taken, or forgotten, once.

        Args:
            rows: int (n,), users, each once.
            luck: float (n,) in (0, 1).

        Returns:
            Item indices, int64 (n,); -1 where a user looks nothing up.
        """
        taken = luck < self.section.curiosity * self._praise[rows]
        tips = np.where(taken, self._tip[rows], -1)
        self._tip[rows], self._praise[rows] = -1, 0.0
        return tips

    def live(self, rows: IntArray, items: IntArray, stars: FloatArray, liked: BoolArray) -> None:
        """What users watched moves their tastes, and is what they may speak of tonight: their strongest opinion.

        Args:
            rows: int (n,), users; one user's rows stand together.
            items: int (n,), what they watched.
            stars: float32 (n,), their marks, given or not.
            liked: bool (n,).
        """
        if self.section.drift:
            self._drift(rows[liked], items[liked], np.ones(int(liked.sum()), np.float32))
        if self.friends is not None:
            self.topics.note(rows, items, stars, self.valence(stars))

    def _drift(self, rows: IntArray, items: IntArray, force: FloatArray) -> None:
        """Genre affinities move towards what is special about items (away from them where the force is negative)."""
        np.add.at(self.affinity, rows, np.float32(self.section.drift) * force[:, None] * self._pull[items])
        who = np.unique(rows)
        first = self._first[who]
        self.affinity[who] = np.clip(self.affinity[who], first - FARTHEST, first + FARTHEST)

    def exchange(self, day: int, rows: IntArray, who: IntArray) -> Opinions:
        """What some of those who came today tell one friend, or all they know: of one thing that they watched.

        Args:
            day: The day that ends.
            rows: int (n,), users who came today, ascending.
            who: int (n,), the same users and their lives, for keys.
        """
        if self.friends is None:
            return Opinions.none()
        topics = self.topics
        talks = (topics.item[rows] >= 0) & (self.friends.degree[rows] > 0)
        luck = self.draws.uniform("talk", who, day)
        posts = talks & (luck < self.section.post)
        chats = talks & ~posts & (luck < self.section.post + self.section.chat)
        to = np.full(len(rows), -1, np.int64)
        to[chats] = self.friends.friend(rows[chats], self.draws, who[chats], day)
        said = posts | chats
        speaker = rows[said]
        told = Opinions(speaker, to[said], topics.item[speaker], topics.stars[speaker], topics.valence[speaker])
        topics.clear(rows)
        return told

    def hear(self, told: Opinions) -> None:
        """Opinions reach those who hear them, in the order of the speakers."""
        receiver, utterance = told.heard_by(self.friends)
        item, valence = told.item[utterance], told.valence[utterance]
        if self.section.sway or self.section.conformity:
            self.opinions.add(receiver, item, told.stars[utterance], valence)
        if self.section.drift:
            self._drift(receiver, item, valence)
        if self.section.curiosity:
            order = np.lexsort((-valence, receiver))
            best = order[np.flatnonzero(np.diff(receiver[order], prepend=-1))]
            best = best[valence[best] > self._praise[receiver[best]]]
            self._tip[receiver[best]], self._praise[receiver[best]] = item[best], valence[best]

    def state(self) -> dict[str, Any]:
        """Copies of the changing arrays, by names that start with ``influence_``."""
        own = {"affinity": self.affinity.copy(), "tip": self._tip.copy(), "praise": self._praise.copy()}
        own |= {f"topic_{name}": array for name, array in self.topics.state().items()}
        own |= {f"heard_{name}": array for name, array in self.opinions.state().items()}
        return {f"influence_{name}": array for name, array in own.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes what :meth:`state` gave."""
        self.affinity[:] = state["influence_affinity"]
        for name in ("tip", "praise"):
            getattr(self, f"_{name}")[:] = state[f"influence_{name}"]
        self.topics.load_state({name: state[f"influence_topic_{name}"] for name in Topics.ARRAYS})
        self.opinions.load_state({name: state[f"influence_heard_{name}"] for name in OpinionStore.ARRAYS})
