"""What users tell each other between visits: chats with one friend, posts to all acquaintances (after RecAgent, 2023).

The graph is given (``users.graph``, or the scenario's ``population``); closeness weights who is chatted with. Words are
written in one batch and enter the receivers' memory before the next day, in the order of the speakers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from recsim_env.agents.actions import JSON_SCHEMAS, SocialWords
from recsim_env.agents.asking import Asker
from recsim_env.agents.prompting import LETTERS, WORDS_LENGTH, Prompts, Quoter, messages
from recsim_env.agents.scene import pick
from recsim_env.draws import Draws
from recsim_env.graphs import Graph
from recsim_env.interfaces import Utterance
from recsim_env.records import ChoiceRequest, IntArray, RequestKey, TextArray, TextRequest


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
        quoter: How others' words get into a prompt.
    """

    graph: Graph
    names: TextArray
    asker: Asker
    prompts: Prompts
    draws: Draws
    sampling: Mapping[str, float]
    quoter: Quoter

    def sociable(self, rows: IntArray) -> IntArray:
        """Those of some users who know somebody."""
        return rows[self.graph.degree[rows] > 0]

    def talk(self, day: int, rows: IntArray, who: IntArray, heads: Sequence[str]) -> list[Utterance]:
        """One batch of decisions (nothing, chat, post), one batch of words. Without usable words nothing is said.

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
        for i, kind in speakers:
            body = self.prompts[f"social.{kind}"].render(friend=self.names[friend[i]])
            key = self._key(who[i], day, kind)
            requests.append(TextRequest(self._messages(heads[i], body), key, JSON_SCHEMAS[kind], self.sampling))
        found: list[Utterance] = []
        for (i, kind), words in zip(speakers, self.asker.write(requests), strict=True):
            if isinstance(words, SocialWords):
                to = (int(friend[i]),) if kind == "chat" else tuple(self.graph.known_to(int(rows[i])).tolist())
                found.append(Utterance(int(rows[i]), kind, words.message, to))
        return found

    def heard(self, said: Sequence[Utterance]) -> Iterator[tuple[int, str]]:
        """What enters whose memory, the speakers' first: (row, text)."""
        for words in said:
            text = self.quoter.quote(words.text, WORDS_LENGTH)
            yield words.user, f"You told {'a friend' if words.kind == 'chat' else 'everybody'}: {text}"
            for receiver in words.to:
                yield receiver, f"{self.names[words.user]} told you: {text}"

    def _messages(self, head: str, body: str) -> tuple[Mapping[str, str], ...]:
        return messages(self.prompts.rules, f"{head}\n\n{body}")

    def _key(self, who: int, day: int, purpose: str) -> RequestKey:
        return RequestKey(self.draws.seed, int(who), day, -1, -1, -1, purpose)
