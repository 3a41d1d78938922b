"""What users tell each other between visits: chats with one friend, posts to all acquaintances (after RecAgent, 2023).

The graph is given (``users.graph``, or the scenario's ``population``); closeness weights who is chatted with. Whoever
gave marks today speaks of the film on which its opinion is strongest. Words are written in one batch and enter the
receivers' memory before the next day, in the order of the speakers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsim_env.agents.actions import JSON_SCHEMAS, SocialWords
from recsim_env.agents.asking import Asker
from recsim_env.agents.opinions import Topics, valence_of
from recsim_env.agents.prompting import LETTERS, WORDS_LENGTH, Cards, Prompts, messages
from recsim_env.agents.scene import pick
from recsim_env.draws import Draws
from recsim_env.graphs import Graph
from recsim_env.interfaces import Opinions, Utterance
from recsim_env.records import ChoiceRequest, FloatArray, IntArray, RequestKey, TextArray, TextRequest


@dataclass(frozen=True, slots=True, eq=False)
class Social:
    """Evenings: who speaks, to whom, and what.

    Attributes:
        graph: Who knows whom.
        names: The users' names, str objects (U,).
        asker: The way to the engine.
        prompts: The templates.
        draws: Draws of the run.
        sampling: Sampling parameters for words.
        cards: What an item looks like, and how others' words get into a prompt.
        mean: Mark that neither praises nor blames.
        topics: What each user would speak of tonight.
    """

    graph: Graph
    names: TextArray
    asker: Asker
    prompts: Prompts
    draws: Draws
    sampling: Mapping[str, float]
    cards: Cards
    mean: float
    topics: Topics

    def note(self, rows: IntArray, items: IntArray, stars: FloatArray) -> None:
        """Takes in marks that users gave, NaN where they gave none; one user's rows stand together."""
        given = ~np.isnan(stars)
        marks = stars[given]
        self.topics.note(rows[given], items[given], marks, valence_of(marks, self.mean, self.cards.catalog.scale))

    def sociable(self, rows: IntArray) -> IntArray:
        """Those of some users who know somebody."""
        return rows[self.graph.degree[rows] > 0]

    def talk(self, day: int, rows: IntArray, who: IntArray, heads: Sequence[str]) -> list[Utterance]:
        """One batch of decisions (nothing, chat, post), one batch of words. Without usable words nothing is said.

        A day's topics are over with it, told or not.

        Args:
            day: The day that ends.
            rows: int (n,), users with friends.
            who: int (n,), their rows and lives, for keys.
            heads: Start of each one's prompt.
        """
        if not rows.size:
            return []
        question = self.prompts["social.social"]
        body, letters = question.render(day=day + 1), LETTERS[: len(question.options)]
        replies, _ = self.asker.choose(
            [
                ChoiceRequest(self._messages(head, body), letters, self._key(w, day, "social"))
                for head, w in zip(heads, who, strict=True)
            ]
        )
        luck = self.draws.uniform("social", who, day)
        picked = [pick(reply, float(u)) for reply, u in zip(replies, luck, strict=True)]
        friend = self.graph.friend(rows, self.draws, who, day)
        speakers = [(i, "chat" if option == 1 else "post") for i, option in enumerate(picked) if option]
        requests = []
        topic = self.topics.item[rows].tolist()
        stars = self.topics.stars[rows].tolist()
        self.topics.clear(rows)
        for i, kind in speakers:
            about = {"film": self.cards.titles([topic[i]]), "mark": self.cards.mark(stars[i])} if topic[i] >= 0 else {}
            question = self.prompts[f"social.{kind}_about" if about else f"social.{kind}"]
            body = question.render(friend=self.names[friend[i]], **about)
            key = self._key(who[i], day, kind)
            requests.append(TextRequest(self._messages(heads[i], body), key, JSON_SCHEMAS[kind], self.sampling))
        found: list[Utterance] = []
        for (i, kind), words in zip(speakers, self.asker.write(requests), strict=True):
            if isinstance(words, SocialWords):
                to = (int(friend[i]),) if kind == "chat" else tuple(self.graph.known_to(int(rows[i])).tolist())
                mark = stars[i] if topic[i] >= 0 else float("nan")
                found.append(Utterance(int(rows[i]), kind, words.message, to, topic[i], mark))
        return found

    def events(self, said: Sequence[Utterance], hears: bool) -> Iterator[tuple[int, str]]:
        """What enters whose memory, the speakers' first: (row, text); if nobody hears, that of the speakers only."""
        for words in said:
            text = self.cards.quoter.quote(words.text, WORDS_LENGTH)
            film = f" about {self.cards.titles([words.item])}" if words.item >= 0 else ""
            mark = f", mark {self.cards.mark(words.stars)}" if film else ""
            yield words.user, f"You told {'a friend' if words.kind == 'chat' else 'everybody'}{film}: {text}"
            for receiver in words.to if hears else ():
                yield receiver, f"{self.names[words.user]} told you{film}{mark}: {text}"

    def opinions(self, said: Sequence[Utterance]) -> Opinions:
        """What is said of films."""
        about = [words for words in said if words.item >= 0]
        told = [(words.user, words.to[0] if words.kind == "chat" else -1, words.item) for words in about]
        user, to, item = np.array(told, np.int64).reshape(-1, 3).T
        stars = np.array([words.stars for words in about], np.float32)
        return Opinions(user, to, item, stars, valence_of(stars, self.mean, self.cards.catalog.scale))

    def _messages(self, head: str, body: str) -> tuple[Mapping[str, str], ...]:
        return messages(self.prompts.rules, f"{head}\n\n{body}")

    def _key(self, who: int, day: int, purpose: str) -> RequestKey:
        return RequestKey(self.draws.seed, int(who), day, -1, -1, -1, purpose)
