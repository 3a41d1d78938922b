"""What users tell each other between visits: chats with one friend, posts to all acquaintances (after RecAgent, 2023).

The graph is given, as pairs; closeness, where a third or fourth column gives it, weights who is chatted with. Words
are written in one batch and enter the receivers' memory before the next day, in the order of the speakers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recsim_env.agents.actions import JSON_SCHEMAS, SocialWords
from recsim_env.agents.asking import Asker
from recsim_env.agents.prompting import LETTERS, WORDS_LENGTH, Prompts, Quoter, messages
from recsim_env.agents.scene import pick
from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.interfaces import Utterance
from recsim_env.records import ChoiceRequest, FloatArray, IntArray, RequestKey, TextArray, TextRequest


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Who knows whom.

    Attributes:
        friends: For every user, int64 rows of those it can speak to, ascending.
        closeness: For every user, float64 weights of the same length.
    """

    friends: list[IntArray]
    closeness: list[FloatArray]

    def friend(self, rows: IntArray, draws: Draws, who: IntArray, day: int) -> IntArray:
        """One friend of each user, drawn by closeness, int64 (n,); -1 for users without."""
        keys = draws.keys("friend", who, day)
        found = np.full(len(rows), -1, np.int64)
        for i, row in enumerate(rows):
            if self.friends[row].size:
                noise = Draws.gumbels(keys[i : i + 1], self.friends[row])[0]
                found[i] = self.friends[row][np.argmax(np.log(self.closeness[row]) + noise)]
        return found


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
        return rows[np.array([self.graph.friends[row].size > 0 for row in rows], np.bool_)]

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
                to = (int(friend[i]),) if kind == "chat" else tuple(self.graph.friends[rows[i]].tolist())
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


def read_graph(path: Path, rows: Mapping[str, int], n_users: int) -> Graph:
    """A graph out of a CSV file of pairs; a pair counts both ways.

    Args:
        path: The file; its first two columns name users, a column ``closeness`` (above 0) may stand beside them.
        rows: Names, ids and row numbers of users to their rows.
        n_users: U.

    Raises:
        ScenarioError: If the file cannot be read, or none of its users is in the population.
    """
    try:
        frame = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        raise ScenarioError(f"users.graph: cannot read {path}: {error}.") from None
    if frame.shape[1] < 2:
        raise ScenarioError(f"users.graph: {path} needs two columns that name users.")
    weight = pd.to_numeric(frame.get("closeness", pd.Series(1.0, frame.index)), errors="coerce").to_numpy(np.float64)
    if not (weight > 0).all():
        raise ScenarioError(f"users.graph: {path} holds a closeness that is no number above 0.")
    edges: list[dict[int, float]] = [{} for _ in range(n_users)]
    for a, b, w in zip(frame.iloc[:, 0], frame.iloc[:, 1], weight, strict=True):
        first, second = rows.get(str(a)), rows.get(str(b))
        if first is not None and second is not None and first != second:
            edges[first][second] = edges[second][first] = float(w)
    if not any(edges):
        raise ScenarioError(
            f"users.graph: {path} joins no two of the {n_users} users. Name users by row number, persona name or id."
        )
    friends = [np.array(sorted(known), np.int64) for known in edges]
    return Graph(friends, [np.array([known[f] for f in sorted(known)]) for known in edges])
