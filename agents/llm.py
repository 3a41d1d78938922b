"""Language-model users: personas that decide by scored options and write under schemas.

A page goes through phases; in each, all users' requests go to the engine as one ordered batch, and the replies are
applied in user order: (0) the goal of the visit, on its first page; (1) watch or skip; (2) for what was watched:
fraction, mark, like, share, comment; (3) what next, mood, boredom; (4) words, at most one generation per user and page.
A decision is the engine's log-probability of each option, drawn with keyed draws. docs/llm-users.md tells it in full.

Simplifications against RecAgent and RecoWorld: importance of memories is given by kind, not asked; the marks for one
title share one draw (a high mark comes with a like); who opens the app is the calendar's, as for behavioural users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from recsim_env.agents.actions import star_options
from recsim_env.agents.asking import Asker
from recsim_env.agents.events import HEARD, SPOKEN, VISIT, page_events, past_events
from recsim_env.agents.judging import (
    judging_asks,
    listing_asks,
    pages_of,
    quiet_moment,
    read_judgement,
    read_marks,
    read_watch,
    tempered,
)
from recsim_env.agents.memory import Memory, MemoryConfig
from recsim_env.agents.mindset import OVERNIGHT, mindset_words, shift_words
from recsim_env.agents.opinions import OpinionStore, Topics
from recsim_env.agents.page import Enjoyed, Said, enjoy, next_step, page_lines, say
from recsim_env.agents.persona import Norms, activity_scores, category_shares, make_personas, read_table
from recsim_env.agents.prompting import WORDS_LENGTH, Cards, Prompts, Quoter
from recsim_env.agents.scene import Ask, Scene, pick
from recsim_env.agents.social import Social
from recsim_env.agents.watching import listwise, pointwise, sequential
from recsim_env.draws import Draws
from recsim_env.engine.untrusted import unfenced
from recsim_env.errors import EngineError, ScenarioError
from recsim_env.graphs import Graph, read_graph, rows_by_name
from recsim_env.interfaces import Config, Embedder, Engine, Opinions, UserModel, Utterance
from recsim_env.records import (
    BoolArray,
    ChoiceRequest,
    Dataset,
    Feedback,
    FloatArray,
    IntArray,
    Judgement,
    NextAction,
    ObservationBatch,
    SlateBatch,
    TextArray,
    Texts,
    Trace,
    Users,
    is_seen,
)
from recsim_env.scenario import PopulationSection


class LLMConfig(Config):
    """Settings of language-model users."""

    decide: Literal["pointwise", "listwise", "sequential"] = "pointwise"
    """How a page is decided: every item on its own, one choice among them, or one item after another."""
    list_orders: int = Field(default=2, ge=1)
    """listwise: orders of the page that are averaged."""
    watch_bias: float = 0.0
    """Added to the log-odds of watching; language models say yes too often, so a negative number mends them."""
    mark_temperature: float = Field(default=1.0, gt=0)
    """Below 1 makes the probabilities of marks sharper, which sets users apart where a model gives everybody the same;
    'recsim-env fidelity' fits it."""
    remembered: int = Field(default=8, ge=0)
    """Latest ratings of a user's past (training part) that stand in its memory when the simulation begins."""
    goals: bool = True
    """Ask for the goal of every visit."""
    comments: bool = True
    """Ask whether what was watched is commented on."""
    reflect: bool = True
    """Have an insight written at the end of a visit with enough news; off, only the visit's summary is remembered."""
    reflect_after: float = Field(default=2.0, gt=0)
    """Importance of new events that makes a user reflect."""
    memory: MemoryConfig = MemoryConfig()
    """Sizes and rates of memory."""
    averages: bool = False
    """Cards tell how many ratings an item has and their mean, as apps do; a prompted model copies such a number."""
    personas: Path | None = None
    """CSV or Parquet table of personas (name, gender, age, occupation, traits, status, interest, feature)."""
    graph: Path | None = None
    """CSV of pairs of users that know each other; null is no social life."""
    hears: bool = True
    """Whether what friends say reaches anybody; off, words are spoken and lost, which is a control for studies."""
    prompts: Path | None = None
    """Folder of your own prompts; null is the package's agents/prompts."""
    defences: bool = True
    """Clean and fence item texts, other users' words and the recommender's answers before they enter a prompt; off,
    they enter raw but for the caps on their length. Off is only for measuring attacks (docs/hostile-text.md)."""
    temperature: float = Field(default=0.8, ge=0)
    """Temperature of words."""
    max_tokens: int = Field(default=320, ge=8)
    """Longest words, in tokens; the schemas cap their characters, so this only stops what goes wrong."""
    open_rate: float = Field(default=0.35, gt=0, lt=1)
    """Probability that a user of average activity and neutral satisfaction opens the app on a day."""
    open_spread: float = Field(default=0.6, ge=0)
    """Change of its log-odds per standard deviation of (log) activity."""


NOTICED = 5
"""Titles of the list of what most users watch that one remembers."""
_STATE = ("life", "mindset", "start", "spoke", "goal", "open", "day", "pages", "watched", "news")


class LLMUsers(UserModel):
    """Personas with memory, moods and words, decided and written by a language model (after RecAgent and RecoWorld)."""

    config_class: ClassVar[type[Config]] = LLMConfig
    config: LLMConfig
    needs_engine = True

    @classmethod
    def inputs(cls, config: Config) -> dict[str, str]:
        """Hashes of the files that shape these users, the prompts in any case."""
        assert isinstance(config, LLMConfig)
        return {**super().inputs(config), **Prompts(config.prompts).versions}

    def attach(self, engine: Engine, embedder: Embedder, retries: int = 1, max_failure_share: float = 0.05) -> None:
        """Gives the users their language model."""
        self.asker, self.embedder = Asker(engine, retries, max_failure_share), embedder
        self.quoter = Quoter(tuple(getattr(engine, "special_tokens", ())), self.config.defences)

    def fit(self, dataset: Dataset, draws: Draws) -> None:
        """Measures what is usual in the data; nothing else is learned."""
        self.catalog, self.norms = dataset.catalog, Norms.of(dataset)
        self.stars, self.prompts = star_options(dataset.catalog.scale), Prompts(self.config.prompts)

    def reset(self, users: Users, draws: Draws) -> None:
        """Seats a population.

        Raises:
            EngineError: If no engine was attached.
        """
        if not hasattr(self, "asker"):
            raise EngineError("users.model 'llm' needs an engine: name one in the scenario (engine.name).")
        c = self.config
        self.asker.begin()
        self.users, self.draws = users, draws
        self.cards = Cards(self.catalog, self.quoter, self.norms.item_mean if c.averages else None)
        table = None if c.personas is None else read_table(c.personas)
        self.personas = make_personas(users, self.norms, self.catalog, self.cards, draws, table)
        self._scores = activity_scores(users, self.norms, draws)
        self.social: Social | None = None
        if c.graph is not None:
            rows = rows_by_name(users.user_id, self.personas.name)
            self._befriend(read_graph(c.graph, rows, users.n_users))
        n = users.n_users
        self.memory = Memory(n, c.memory, self.embedder)
        self.heard = OpinionStore(n, self.catalog.n_items)
        self._talk_of_the_day = ""
        self._life = np.zeros(n, np.int64)
        self._mindset, self._start = np.empty((n, 3), np.float32), np.empty((n, 3), np.float32)
        self._spoke, self._open = np.empty(n, np.bool_), np.empty(n, np.bool_)
        self._goal = np.empty(n, np.int8)
        self._day, self._pages, self._watched = (np.empty(n, np.int32) for _ in range(3))
        self._news = np.empty(n, np.float32)
        self.reset_rows(np.arange(n))
        self._life[:] = 0

    def _befriend(self, graph: Graph) -> None:
        self.social = Social(
            graph, self.personas.name, self.asker, self.prompts, self.draws, self._sampling(), self.cards,
            self.norms.mean[0], Topics(graph.n_users),
        )  # fmt: skip

    def join(self, section: PopulationSection, friends: Graph | None) -> None:
        """Gives the users acquaintances to talk with in the evening; what they make of it is the model's business.

        Raises:
            ScenarioError: If two graphs are named, or influences that are behavioural users' alone.
        """
        if section.influences:
            raise ScenarioError(
                f"population.{section.influences[0]}: is for behavioural users. Users with a language model decide by "
                "themselves what they make of what they hear; leave it out."
            )
        if friends is not None:
            if self.config.graph is not None:
                raise ScenarioError("users.graph and population.graph both say who knows whom. Name one of them.")
            self._befriend(friends)

    @property
    def names(self) -> TextArray:
        """The personas' names, str objects (U,)."""
        return self.personas.name

    @property
    def leanings(self) -> FloatArray:
        """Shares of the categories in the users' past, less those in the data, float32 (U, C)."""
        shares = category_shares(self.users.history, self.catalog) - self.norms.category_share
        return np.where(self.users.history.lengths[:, None] > 0, shares, 0.0).astype(np.float32)

    def memories(self, row: int) -> list[str]:
        """Latest events, the newest first, then long-term memories."""
        recent, kept = reversed(self.memory.recent(row)), self.memory.kept(row)
        return [unfenced(text) for text in (*recent, *(f"Long ago: {text}" for text in kept)) if text]

    def portrait(self, row: int) -> str:
        """The persona, as the language model is told."""
        return unfenced(str(self.personas.text[row]))

    def reset_rows(self, rows: IntArray) -> None:
        """Puts some users back into their initial state, with fresh luck."""
        self._life[rows] += 1
        self._mindset[rows] = self._start[rows] = 0.0
        self._spoke[rows] = self._open[rows] = False
        self._goal[rows] = self._day[rows] = self._pages[rows] = self._watched[rows] = 0
        self._news[rows] = 0.0
        self.memory.clear(rows)
        self.heard.forget(rows)
        if self.social is not None:
            self.social.topics.clear(rows)
        self._remember_past(rows)

    def _remember_past(self, rows: IntArray) -> None:
        """The latest ratings of the users' past enter memory, oldest first, dated the day before the first."""
        who, texts, weight = past_events(self.users.history, rows, self.config.remembered, self.cards)
        self.memory.add(who, texts, weight, np.full(len(who), -1))

    @property
    def activity(self) -> FloatArray:
        """Probability that a content user opens the app on a day, float32 (U,)."""
        rate = self.config.open_rate
        log_odds = np.log(rate / (1 - rate)) + self.config.open_spread * self._scores
        return (1.0 / (1.0 + np.exp(-log_odds))).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Copies of the changing arrays; memory's have names that start with ``memory_``, and so on."""
        own = {name: getattr(self, f"_{name}").copy() for name in _STATE}
        return own | {
            f"{part}_{name}": array for part, arrays in self._parts() for name, array in arrays.state().items()
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes what :meth:`state` gave."""
        for name in _STATE:
            getattr(self, f"_{name}")[:] = state[name]
        for part, arrays in self._parts():
            arrays.load_state({name: state[f"{part}_{name}"] for name in arrays.ARRAYS})

    def _parts(self) -> list[tuple[str, Memory | Topics | OpinionStore]]:
        """What changes beside the arrays of :data:`_STATE`, by the start of its names in a state."""
        topics = [] if self.social is None else [("topic", self.social.topics)]
        return [("memory", self.memory), ("heard", self.heard), *topics]

    def _sampling(self) -> dict[str, float]:
        return {"temperature": self.config.temperature, "max_tokens": self.config.max_tokens}

    def engine_report(self) -> dict[str, Any]:
        """What the manifest tells of the users' requests: counts by purpose, bad replies, prompt versions."""
        return {**self.asker.report(), "prompts": self.prompts.versions}

    def react(self, obs: ObservationBatch, slate: SlateBatch) -> tuple[Feedback, Trace]:
        """Reactions of N users to their slates."""
        self._wake(obs)
        before = self._mindset[obs.user_index]
        scene = self._scene(obs, slate)
        clicked, p_click = self._watch(scene)
        enjoyed = self._enjoy(scene, clicked)
        lines = page_lines(scene, clicked, enjoyed)
        step = next_step(scene, lines, before, self._spoke[obs.user_index])
        reflects = self._news[obs.user_index] >= self.config.reflect_after
        said = say(scene, lines, step, enjoyed, reflects & self.config.reflect)
        self._mindset[obs.user_index] = step.mindset
        self._spoke[obs.user_index] |= step.tells
        self._remember(scene, slate, clicked, enjoyed, said)
        feedback = Feedback(
            clicked, enjoyed.fraction, enjoyed.liked, enjoyed.shared, enjoyed.rating, said.action, said.message,
            said.comments,
        )  # fmt: skip
        trace = Trace(
            scene.shown, p_click, enjoyed.expected, before, step.mindset, scene.fallback, said.thoughts
        )  # fmt: skip
        return feedback, trace

    def _watch(self, scene: Scene) -> tuple[Any, FloatArray]:
        c = self.config
        if c.decide == "listwise":
            return listwise(scene, c.watch_bias, c.list_orders)
        return (pointwise if c.decide == "pointwise" else sequential)(scene, c.watch_bias)

    def _enjoy(self, scene: Scene, clicked: Any) -> Enjoyed:
        """Phase 2; whether there is a mark at all is not tempered."""

        def changed(users: IntArray, items: IntArray, said: FloatArray) -> FloatArray:
            given = 1.0 - said[:, :1]
            return np.concatenate([said[:, :1], given * tempered(read_marks(list(said)), temperature)], axis=1)

        temperature = self.config.mark_temperature
        return enjoy(scene, clicked, self.stars, self.config.comments, None if temperature == 1.0 else changed)

    def _wake(self, obs: ObservationBatch) -> None:
        """A visit starts: the last one is summed up, weak memories go, moods calm down."""
        fresh = obs.turn == 0
        rows, day = obs.user_index[fresh], obs.day[fresh]
        if not rows.size:
            return
        self._close(rows[self._open[rows]])  # cut off by the longest session
        if self._talk_of_the_day:
            first = obs.session[fresh] == 0
            news = [self._talk_of_the_day] * int(first.sum())
            self.memory.add(rows[first], news, np.full(len(news), HEARD, np.float32), day[first])
        self.memory.forget(rows, day)
        self._mindset[rows] *= np.array(OVERNIGHT, np.float32)
        self._start[rows] = self._mindset[rows]
        self._spoke[rows], self._open[rows], self._day[rows] = False, True, day
        self._pages[rows] = self._watched[rows] = self._goal[rows] = 0

    def _close(self, rows: IntArray) -> None:
        """The visit as a whole enters memory, with its shift of mindset."""
        texts = [
            f"On day {self._day[u] + 1} you looked at {self._pages[u]} pages and watched {self._watched[u]} titles; "
            + shift_words(self._start[u], self._mindset[u])
            for u in rows
        ]
        self.memory.add(rows, texts, np.full(len(rows), VISIT, np.float32), self._day[rows])
        self._open[rows] = False

    def judge(self, rows: IntArray, items: IntArray) -> Judgement:
        """What the users, as they are now, think of items: phases 1 (each item on its own) and 2 of a page."""
        replies, bad = self.asker.choose(self.judging_requests(rows, items))
        return read_judgement(replies, bad, self.config.watch_bias, self.config.mark_temperature)

    def judge_watch(self, rows: IntArray, items: IntArray, again: bool = False) -> tuple[FloatArray, BoolArray]:
        """The first half of :meth:`judge` alone: log-odds of watching float32 (n,), bad replies bool (n,)."""
        replies, bad = self.asker.choose(self.judging_requests(rows, items, again)[: len(rows)])
        return read_watch(replies, self.config.watch_bias), bad

    def judge_marks(self, rows: IntArray, items: IntArray) -> tuple[FloatArray, BoolArray]:
        """The second half of :meth:`judge` alone: probabilities of marks float32 (n, G), bad replies bool (n,)."""
        replies, bad = self.asker.choose(self.judging_requests(rows, items)[len(rows) :])
        return tempered(read_marks(replies), self.config.mark_temperature), bad

    def judging_requests(self, rows: IntArray, items: IntArray, again: bool = False) -> list[ChoiceRequest]:
        """The requests behind :meth:`judge`: for each of n pairs "watch", then for each of them "stars".

        Args:
            rows: int (n,), users.
            items: int (n,), items.
            again: Whether the users have watched these items before.
        """
        users, pages, places = pages_of(rows, items, self.catalog.n_items)
        scene = self._quiet(users, pages, again)
        return scene.requests(judging_asks(scene, places, self.stars))

    def listing_requests(self, users: IntArray, pages: IntArray) -> list[ChoiceRequest]:
        """Pages put as one choice in exactly their order: letters for the items, the last for none of them.

        Args:
            users: int (n,), users, each once.
            pages: int (n, K), their pages.
        """
        scene = self._quiet(users, pages)
        return scene.requests(listing_asks(scene))

    def _quiet(self, users: IntArray, pages: IntArray, again: bool = False) -> Scene:
        obs = quiet_moment(users, self.catalog, again)
        scene = self._stage(obs, pages)
        self._say_now(scene, self._now(obs, None, [[] for _ in users]))
        return scene

    def _scene(self, obs: ObservationBatch, slate: SlateBatch) -> Scene:
        """The users before their pages, the goal of a new visit chosen."""
        scene = self._stage(obs, slate.items)
        if self.config.goals:
            self._set_goals(scene)
        topics = [self._topic(obs.message[i], slate.items[i]) for i in range(obs.n)]
        come_to_mind = self.memory.recall(obs.user_index, self.memory.embed(topics), obs.day)
        self._say_now(scene, self._now(obs, slate.answer, come_to_mind))
        return scene

    def _stage(self, obs: ObservationBatch, items: IntArray) -> Scene:
        """The users before pages; ``starts`` tell who they are and what happened, not yet what is now."""
        rows, shown = obs.user_index, items < self.catalog.n_items
        who = rows + (self._life[rows] << 40)
        keys = self.draws.keys("page", who, obs.day, obs.session, obs.turn)
        return Scene(
            obs, items, shown, is_seen(obs.seen, items) & shown, [self._head(int(u)) for u in rows], keys, who,
            self.draws.seed, self.asker, self.prompts, self.cards, self._sampling(), np.zeros(obs.n, np.bool_),
            self.heard.remark,
        )  # fmt: skip

    @staticmethod
    def _say_now(scene: Scene, now: list[str]) -> None:
        scene.starts = [f"{head}\n\n{words}" for head, words in zip(scene.starts, now, strict=True)]

    def _set_goals(self, scene: Scene) -> None:
        question = self.prompts["goal.goal"]
        users = np.flatnonzero(scene.obs.turn == 0).tolist()
        found = scene.decide([Ask(i, "goal", question.render(), len(question.options)) for i in users])
        luck = scene.luck(3)[:, 0]
        for i in users:
            self._goal[scene.obs.user_index[i]] = pick(found[i, "goal", -1], float(luck[i]))

    def _head(self, row: int) -> str:
        """What changes least of a user's prompt: persona, then what happened lately, which grows at its end."""
        events = "\n".join(f"- {text}" for text in self.memory.recent(row)) or "- You are new here."
        persona = self.prompts["common.persona"].render(persona=self.personas.text[row])
        return f"{persona}\n\n{self.prompts['common.past'].render(events=events)}"

    def _now(self, obs: ObservationBatch, answer: Texts | None, come_to_mind: list[list[str]]) -> list[str]:
        """What changes with every page: day, goal, mindset, what was asked and answered, what comes to mind."""
        goals = self.prompts["goal.goal"].options
        now = self.prompts["common.now"]
        texts = []
        for i, row in enumerate(obs.user_index.tolist()):
            memories = "".join(f"\n- {text}" for text in come_to_mind[i])
            texts.append(
                now.render(
                    day=int(obs.day[i]) + 1, visit=int(obs.session[i]) + 1, page=int(obs.turn[i]) + 1,
                    goal=goals[self._goal[row]], **mindset_words(self._mindset[row]),
                    heard=self._heard(obs.message[i], None if answer is None else answer[i]),
                    memories=f"\nThis comes to your mind:{memories}" if memories else "",
                )
            )  # fmt: skip
        return texts

    def _topic(self, message: str | None, items: IntArray) -> str:
        titles = [self.cards.title(int(item)) for item in items[:5] if item < self.catalog.n_items]
        return " ".join([message or "", *titles])

    def _heard(self, message: str | None, answer: str | None) -> str:
        lines = []
        if message is not None:
            lines.append(f"You had asked the app: {self.quoter.quote(message, WORDS_LENGTH)}")
        if answer is not None:
            lines.append(f"The app says: {self.quoter.quote(answer, WORDS_LENGTH)}")
        return "".join(f"\n{line}" for line in lines)

    def _remember(self, scene: Scene, slate: SlateBatch, clicked: Any, enjoyed: Enjoyed, said: Said) -> None:
        """The page enters short-term memory, event by event; a visit that ends is summed up."""
        obs = scene.obs
        events = list(page_events(scene, slate.answer, clicked, enjoyed, said))
        rows = obs.user_index[[i for i, _, _ in events]] if events else np.empty(0, np.int64)
        news = np.array([weight for _, _, weight in events], np.float32)
        self.memory.add(rows, [text for _, text, _ in events], news, self._day[rows])
        np.add.at(self._news, rows, news)
        if self.social is not None:
            users, places = np.nonzero(clicked)
            self.social.note(obs.user_index[users], scene.items[users, places], enjoyed.rating[users, places])
        self._pages[obs.user_index] += 1
        self._watched[obs.user_index] += clicked.sum(axis=1)
        thought = [i for i in range(obs.n) if said.insight[i] is not None]
        self._news[obs.user_index[thought]] = 0.0
        self._close(obs.user_index[said.action == NextAction.LEAVE])

    def end_of_day(self, day: int, rows: IntArray) -> list[Utterance]:
        """Chats and posts of those who used the app today.

        Args:
            day: The day that ends.
            rows: int (n,), users who opened the app on it, ascending.
        """
        if self.social is None:
            return []
        rows = self.social.sociable(rows)
        who = rows + (self._life[rows] << 40)
        return self.social.talk(day, rows, who, [self._head(int(u)) for u in rows])

    def exchange(self, day: int, rows: IntArray, said: Sequence[Utterance]) -> Opinions:
        """What is said of films."""
        return Opinions.none() if self.social is None else self.social.opinions(said)

    def notice(self, day: int, items: IntArray) -> None:
        """What most users watch stands in the memory of whoever opens the app, once a day."""
        self._talk_of_the_day = f"Many people watch {self.cards.titles(items[:NOTICED].tolist())}" if len(items) else ""

    def hear(self, day: int, said: Sequence[Utterance], told: Opinions) -> None:
        """Words enter memory, the speakers' too; what is said of films comes to mind where they are seen."""
        if self.social is None:
            return
        if events := list(self.social.events(said, self.config.hears)):
            rows = np.array([row for row, _ in events], np.int64)
            weight = np.full(len(events), SPOKEN, np.float32)
            self.memory.add(rows, [text for _, text in events], weight, np.full(len(events), day))
        if self.config.hears:
            receiver, number = told.heard_by(self.social.graph)
            self.heard.add(receiver, told.item[number], told.stars[number], told.valence[number])
