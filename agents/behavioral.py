"""Behavioural users: vectorised choice models over preferences fitted on real ratings. No language model.

Who likes what, and the stars, are learned from ratings (:mod:`recsim_env.agents.preference`). How a page is read,
when somebody tires, leaves, searches or complains is **assumed**, because no rating data shows it: every such number
is a setting below, and docs/behavioral-users.md says what changes when it changes.

Choice on a page, after Ie et al., "RecSim: a configurable simulation platform for recommender systems" (2019):

- ``cascade``: the user reads from the top, may click any number of items, and goes on after each with a probability
  that depends on whether it clicked (Craswell et al., "An experimental comparison of click position-bias models",
  2008, with several clicks as in Guo et al., "Efficient multiple-click models", 2009).
- ``logit``: multinomial logit, at most one click among the slate and "nothing", with a discount by position.

Friends, and tastes that drift, come with a scenario's ``population`` (:mod:`recsim_env.agents.influence`).

Not modelled: price, time of day, devices, and words beyond category names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
from pydantic import Field

from recsim_env.agents.influence import Influence
from recsim_env.agents.preference import Preferences, Tastes, category_spread, category_weights, fit_preferences
from recsim_env.draws import Draws, Keys
from recsim_env.graphs import Graph
from recsim_env.interfaces import Config, Opinions, UserModel, Utterance
from recsim_env.records import (
    BoolArray,
    ByteArray,
    Catalog,
    Dataset,
    Feedback,
    FloatArray,
    IntArray,
    Judgement,
    MessageKind,
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

BLOCK = 4096
"""Users per inner block: temporaries of this size stay in the processor's cache."""


class BehavioralConfig(Config):
    """Settings of behavioural users; all from ``appeal`` on are assumptions."""

    choice: Literal["cascade", "logit"] = "cascade"
    """How a page is read: cascade (any number of clicks) or logit (multinomial logit, at most one)."""
    n_factors: int = Field(default=8, ge=1)
    """Factors of the preference model, for stars."""
    n_interests: int = Field(default=8, ge=1)
    """Dimensions of interest, for what is picked at all."""
    regularisation: float | None = Field(default=None, ge=0)
    """Its penalty, times the number of ratings; null chooses it on held-out ratings."""
    appeal: float = -3.0
    """Log-odds of a click on an examined item of average score, with nothing else speaking for it."""
    taste: float = 0.3
    """Weight of the score, in standard deviations of the data's scores."""
    interest: float = 0.8
    """Weight of interest: the lift minus 1, at most ``interest_cap``."""
    interest_cap: float = Field(default=3.0, gt=0)
    """Interest counts up to here."""
    genre: float = 0.9
    """Weight of genre affinity."""
    familiarity: float = 0.8
    """Weight of the logarithm of the item's popularity, standardised over items."""
    satiation: float = 0.5
    """Weight against genres watched a lot lately."""
    satiation_decay: float = Field(default=0.85, ge=0, le=1)
    """Share of satiation left after a page."""
    overnight: float = Field(default=0.4, ge=0, le=1)
    """Share of satiation left after a night."""
    again_penalty: float = 3.0
    """Weight against items watched before."""
    repeat_penalty: float = 1.0
    """Weight against items of the previous page of the same session."""
    wish: float = 1.0
    """Weight of the categories that the user itself asked for, on the page that answers."""
    courtesy: float = Field(default=0.1, ge=0)
    """Trust gained when the recommender answers a request in words."""
    go_on: float = Field(default=0.9, ge=0, le=1)
    """cascade: probability of reading on after an item that was not clicked."""
    go_on_clicked: float = Field(default=0.8, ge=0, le=1)
    """cascade: probability of reading on after a click."""
    position_discount: float = Field(default=0.12, ge=0)
    """logit: log-odds lost per position."""
    rate: float = Field(default=0.35, ge=0, le=1)
    """Probability of rating a watched item."""
    share: float = Field(default=0.08, ge=0, le=1)
    """Probability of sharing a liked item."""
    target_clicks: float = Field(default=1.2, gt=0)
    """Fully watched items per page that make a user content."""
    patience: float = Field(default=4.0, gt=0)
    """Pages of a typical session; users differ around it (log-normal, spread .4)."""
    speak: float = Field(default=0.5, ge=0, le=1)
    """Probability that a user about to leave tells the recommender what it wants instead, once a session."""
    search: float = Field(default=0.12, ge=0, le=1)
    """Probability of a search after a page, times boredom."""
    open_rate: float = Field(default=0.35, gt=0, lt=1)
    """Probability that a user of average activity and neutral satisfaction opens the app on a day."""
    open_spread: float = Field(default=0.6, ge=0)
    """Change of its log-odds per standard deviation of (log) activity."""


class BehavioralUsers(UserModel):
    """Vectorised users: taste fitted on ratings, cascade or logit choice, satiation, patience (after RecSim, 2019)."""

    config_class = BehavioralConfig
    config: BehavioralConfig

    def fit(self, dataset: Dataset, draws: Draws) -> None:
        """Fits preferences on all ratings."""
        c = self.config
        self._prepare(dataset.catalog, fit_preferences(dataset, draws, c.n_factors, c.n_interests, c.regularisation))

    def _prepare(self, catalog: Catalog, preferences: Preferences) -> None:
        """Lays the items out for one gather per page: factors, interests and category shares side by side."""
        self.catalog, self.preferences = catalog, preferences
        first, second = preferences.item_factors.shape[1], preferences.item_interest.shape[1]
        self._factors = slice(0, first)
        self._interests = slice(first, first + second)
        self._categories = slice(first + second, None)
        c, p = self.config, preferences
        weights = category_weights(catalog)
        self._films = category_spread(catalog)
        self.item_vectors = _padded(np.hstack([p.item_factors, p.item_interest, weights]).astype(np.float32))
        self._gathered = np.empty((0, self.item_vectors.shape[1]), np.float32)
        self.item_bias = _padded(p.item_bias)
        log_count = np.log1p(catalog.popularity.astype(np.float64))
        popular = (log_count - log_count.mean()) / max(float(log_count.std()), 1e-9)
        # What an item brings to the log-odds of a click whoever sees it, its share of the score included.
        appeal = c.appeal + c.familiarity * popular + c.taste * (p.mean + p.item_bias - p.score_mean) / p.score_sd
        self.item_appeal = _padded(appeal, value=-60.0)  # nobody clicks padding
        self._sentences = _sentences(catalog.categories)

    def reset(self, users: Users, draws: Draws) -> None:
        """Seats the population: the data set's users with their fitted tastes, others with drawn ones."""
        p = self.preferences
        self.draws, self.users = draws, users
        new = users.data_user < 0
        fresh = p.draw_tastes(int(new.sum()), draws)
        known = p.tastes.take(np.maximum(users.data_user, 0))
        for name in Tastes.__slots__:
            getattr(known, name)[new] = getattr(fresh, name)
        self.tastes = known
        self.influence: Influence | None = None
        n, c = users.n_users, self.catalog.n_categories
        luck = draws.normals(draws.keys("patience", np.arange(n)), np.zeros(1, np.int64))[:, 0]
        self.patience = (self.config.patience * np.exp(0.4 * luck - 0.08)).astype(np.float32)
        self._life = np.zeros(n, np.int64)
        self._satiation = np.empty((n, c), np.float32)
        self._mindset = np.empty((n, 3), np.float32)
        self._left = np.empty(n, np.float32)
        self._spoke = np.empty(n, np.bool_)
        self._last_day = np.empty(n, np.int32)
        self.reset_rows(np.arange(n))
        self._life[:] = 0

    def reset_rows(self, rows: IntArray) -> None:
        """Puts some users back into their initial state, with fresh luck."""
        self._life[rows] += 1
        self._satiation[rows] = 0.0
        self._mindset[rows] = 0.0
        self._left[rows] = self.patience[rows]
        self._spoke[rows] = False
        self._last_day[rows] = 0
        if self.influence is not None:
            self.influence.clear(rows)

    def join(self, section: PopulationSection, friends: Graph | None) -> None:
        """Gives the users acquaintances, and tastes that can be moved."""
        self.influence = Influence(
            section, friends, self.catalog, self.preferences, self.tastes.affinity, self.draws
        )  # fmt: skip

    @property
    def leanings(self) -> FloatArray:
        """Genre affinity as it is now, float32 (U, C), seen through the films that people watch.

        The distance of two users is the root mean square, over watched films, of the difference of what their
        affinities add to the log-odds of a click: rare genres count little, genres that go together count once.
        """
        return np.asarray(self.tastes.affinity @ self._films, np.float32)

    @property
    def activity(self) -> FloatArray:
        """Probability that a content user opens the app on a day, float32 (U,)."""
        rate = self.config.open_rate
        log_odds = np.log(rate / (1 - rate)) + self.config.open_spread * self.tastes.activity
        return (1.0 / (1.0 + np.exp(-log_odds))).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Copies of the changing arrays."""
        moved = {} if self.influence is None else self.influence.state()
        return {name: getattr(self, f"_{name}").copy() for name in _STATE} | moved

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes what :meth:`state` gave."""
        for name in _STATE:
            getattr(self, f"_{name}")[:] = state[name]
        if self.influence is not None:
            self.influence.load_state(state)

    def exchange(self, day: int, rows: IntArray, said: Sequence[Utterance]) -> Opinions:
        """Chats and posts of those who came today."""
        if self.influence is None:
            return Opinions.none()
        return self.influence.exchange(day, rows, rows + (self._life[rows] << 40))

    def notice(self, day: int, items: IntArray) -> None:
        """What most users watch draws them."""
        if self.influence is not None:
            self.influence.notice(items)

    def hear(self, day: int, said: Sequence[Utterance], told: Opinions) -> None:
        """Opinions move those who hear them."""
        if self.influence is not None:
            self.influence.hear(told)

    def react(self, obs: ObservationBatch, slate: SlateBatch) -> tuple[Feedback, Trace]:
        """Reactions of N users to their slates."""
        blocks = [self._react(obs, slate, slice(start, start + BLOCK)) for start in range(0, max(slate.n, 1), BLOCK)]
        return blocks[0] if len(blocks) == 1 else _join(blocks)

    def _react(self, obs: ObservationBatch, slate: SlateBatch, part: slice) -> tuple[Feedback, Trace]:
        """One page of a block of users: look, choose, enjoy, feel, decide what next."""
        rows, items = obs.user_index[part], slate.items[part]
        self._wake(rows, obs.day[part], obs.turn[part])
        keys = self.draws.keys(
            "page", rows + (self._life[rows] << 40), obs.day[part], obs.session[part], obs.turn[part]
        )  # fmt: skip
        before = self._mindset[rows]
        wish = obs.message_vector[part]
        score, log_odds = self.appraise(rows, items, wish, is_seen(obs.seen[part], items), obs.last_slate[part])
        choose = self._cascade if self.config.choice == "cascade" else self._logit
        clicked, examined, p_click = choose(log_odds, items, keys)
        hits = np.flatnonzero(clicked)
        watched, liked, shared, rating = self._enjoy(rows, items, hits, score, keys)
        after, joy = self._feel(rows, items, hits, watched, before)
        asked = np.flatnonzero(obs.message_kind[part] != MessageKind.NONE)
        self._listen(after, asked, items[asked], wish[asked], None if slate.answer is None else slate.answer[part])
        self._mindset[rows] = after
        action, message = self._decide(rows, keys, after, joy)
        if self.influence is not None and self.influence.section.curiosity:
            self._look_up(rows, keys, action, message, obs.seen[part], np.where(clicked, items, self.catalog.n_items))
        # By the user's own taste, without what friends said: that is what conformity is measured against.
        expected = self.preferences.expected(score, self.tastes.noise[rows][:, None])
        fallback = np.zeros(len(rows), np.bool_)
        return (
            Feedback(clicked, watched, liked, shared, rating, action, message),
            Trace(examined, p_click, expected, before, after, fallback),
        )

    def _wake(self, rows: IntArray, day: IntArray, turn: IntArray) -> None:
        """A session starts: nights have worn satiation off, patience is whole again."""
        fresh = turn == 0
        if not fresh.any():
            return
        rows, day = rows[fresh], day[fresh]
        nights = (day - self._last_day[rows]).astype(np.float32)
        self._satiation[rows] *= (np.float32(self.config.overnight) ** nights)[:, None]
        self._mindset[rows] *= np.array([0.5, 0.3, 1.0], np.float32)
        self._left[rows] = self.patience[rows]
        self._spoke[rows] = False
        self._last_day[rows] = day

    def appraise(
        self, rows: IntArray, items: IntArray, wish: FloatArray, seen: BoolArray, last: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Latent scores and log-odds of a click if examined, each float32 (n, K).

        Args:
            rows: int (n,), rows of the population, at most :data:`BLOCK`.
            items: int (n, K), item indices, padded with ``n_items``.
            wish: float32 (n, C), what the user has just asked for.
            seen: bool (n, K), watched before.
            last: int (n, K'), items of the previous page.
        """
        c, p, t = self.config, self.preferences, self.tastes
        if len(self._gathered) < items.size:  # kept between calls: fresh memory of this size costs more than the gather
            self._gathered = np.empty((items.size, self.item_vectors.shape[1]), np.float32)
        vectors = self._gathered[: items.size].reshape(*items.shape, -1)
        self.item_vectors.take(items, axis=0, out=vectors, mode="clip")
        leaning = (
            c.genre * t.affinity.take(rows, axis=0) - c.satiation * self._satiation.take(rows, axis=0) + c.wish * wish
        )
        taste = _inner(vectors[:, :, self._factors], t.factors.take(rows, axis=0))
        score = taste + self.item_bias.take(items)
        score += (p.mean + t.bias[rows]).astype(np.float32)[:, None]
        interest = _inner(vectors[:, :, self._interests], t.interest.take(rows, axis=0))
        np.clip(interest, -1.0, c.interest_cap, out=interest)
        log_odds = _inner(vectors[:, :, self._categories], leaning)
        log_odds += np.float32(c.interest) * interest
        taste *= np.float32(c.taste / p.score_sd)
        log_odds += taste
        log_odds += self.item_appeal.take(items)
        log_odds -= np.float32(c.again_penalty) * seen
        log_odds -= np.float32(c.repeat_penalty) * self._repeated(items, last)
        if self.influence is not None:
            self.influence.sway(rows, items, log_odds)
        return score, log_odds

    def judge(self, rows: IntArray, items: IntArray) -> Judgement:
        """Log-odds of a click on an item at the top of a page, and the ordered probit's stars."""
        parts = []
        for start in range(0, max(len(rows), 1), BLOCK):
            who, what = rows[start : start + BLOCK], items[start : start + BLOCK, None]
            nothing, nobody = np.zeros(what.shape, np.bool_), np.zeros((len(who), 0), np.int32)
            wish = np.zeros((len(who), self.catalog.n_categories), np.float32)
            score, log_odds = self.appraise(who, what, wish, nothing, nobody)
            felt = self._felt(who, what[:, 0], score[:, 0])
            parts.append((log_odds[:, 0], self.preferences.star_shares(felt, self.tastes.noise[who])))
        log_odds, marks = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Judgement(log_odds, marks, np.zeros(len(rows), np.bool_))

    def _felt(self, rows: IntArray, items: IntArray, own: FloatArray) -> FloatArray:
        """Scores by which marks are given, float32 (n,): the users' own, moved by what friends said of the items."""
        return own if self.influence is None else self.influence.conform(rows, items, own)

    def _repeated(self, items: IntArray, last: IntArray) -> BoolArray:
        """Which items stood on the previous page, bool (n, K); small integers, users innermost, compare fastest."""
        small = np.uint16 if self.catalog.n_items < 2**16 else np.int32
        shown, before = np.ascontiguousarray(items.T, small), np.ascontiguousarray(last.T, small)
        repeated = np.zeros(shown.shape, np.bool_)
        for page in before:
            repeated |= shown == page
        return repeated.T

    def _cascade(self, log_odds: FloatArray, items: IntArray, keys: Keys) -> tuple[BoolArray, BoolArray, FloatArray]:
        """Clicked, examined, and the probability of a click before the draw, each (n, K)."""
        on, on_clicked = np.float32(self.config.go_on), np.float32(self.config.go_on_clicked)
        attraction = _sigmoid(log_odds)
        luck, luck_on = Draws.uniform_pairs(keys, items)
        clicked = luck < attraction
        goes_on = luck_on < np.where(clicked, on_clicked, on)
        p_on = on + (on_clicked - on) * attraction
        examined, reach = np.ones(items.shape, np.bool_), np.ones(items.shape, np.float32)
        for position in range(1, items.shape[1]):
            examined[:, position] = examined[:, position - 1] & goes_on[:, position - 1]
            reach[:, position] = reach[:, position - 1] * p_on[:, position - 1]
        examined &= items < self.catalog.n_items
        clicked &= examined
        return clicked, examined, attraction * reach

    def _logit(self, log_odds: FloatArray, items: IntArray, keys: Keys) -> tuple[BoolArray, BoolArray, FloatArray]:
        """The same for the multinomial logit; log-odds count against "nothing", whose utility is 0."""
        n, k = items.shape
        utility = np.zeros((n, k + 1), np.float32)
        utility[:, :k] = log_odds - np.float32(self.config.position_discount) * np.arange(k, dtype=np.float32)
        lanes = np.concatenate([items, np.full((n, 1), self.catalog.n_items, items.dtype)], axis=1)
        chosen = np.argmax(utility + Draws.gumbels(keys, lanes), axis=1)
        share = np.exp(utility - utility.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        shown = items < self.catalog.n_items
        return (chosen[:, None] == np.arange(k)) & shown, shown, share[:, :k]

    def _enjoy(
        self, rows: IntArray, items: IntArray, hits: IntArray, score: FloatArray, keys: Keys
    ) -> tuple[FloatArray, BoolArray, BoolArray, FloatArray]:
        """What follows a click (``hits``, flat places of the page): watched fraction, like, share, stars, (n, K)."""
        c, p, scale = self.config, self.preferences, self.catalog.scale
        n, k = items.shape
        watched, rating = np.zeros(n * k, np.float32), np.full(n * k, np.nan, np.float32)
        liked, shared = np.zeros(n * k, np.bool_), np.zeros(n * k, np.bool_)
        who = hits // k
        lane = items.ravel()[hits].astype(np.int64)[:, None] + (self.catalog.n_items + 1) * np.arange(1, 4)
        first, second = Draws.uniform_pairs(keys[who], lane)
        noise = np.sqrt(-2.0 * np.log(first[:, 0])) * np.cos(np.float32(2.0 * np.pi) * second[:, 0])
        own = score.ravel()[hits]
        watched[hits] = fraction = _sigmoid(0.4 + 0.8 * (own - p.score_mean) / p.score_sd + 0.8 * noise)
        rates = first[:, 1] < c.rate
        stars = np.full(len(hits), np.nan, np.float32)
        # Whoever has friends thinks of a mark even where it gives none: it may speak of it.
        marks = rates if self.influence is None else np.ones(len(hits), np.bool_)
        felt = self._felt(rows[who[marks]], items.ravel()[hits[marks]], own[marks])
        stars[marks] = p.stars(felt, self.tastes.noise[rows[who[marks]]], second[marks, 1])
        rating[hits] = np.where(rates, stars, np.float32(np.nan))
        likes = np.where(rates, stars >= scale.liked_from(), (fraction > 0.75) & (second[:, 2] < 0.5))
        liked[hits] = likes
        shared[hits] = likes & (first[:, 2] < c.share)
        if self.influence is not None:
            self.influence.live(rows[who], items.ravel()[hits], stars, likes)
        return watched.reshape(n, k), liked.reshape(n, k), shared.reshape(n, k), rating.reshape(n, k)

    def _feel(
        self, rows: IntArray, items: IntArray, hits: IntArray, watched: FloatArray, before: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Mindset after the page float32 (n, 3), trust as before, and the joy it gave float32 (n,) in [-1, 1]."""
        satiation = self._satiation[rows] * np.float32(self.config.satiation_decay)
        if hits.size:
            who = hits // items.shape[1]
            gain = (
                self.item_vectors.take(items.ravel()[hits], axis=0)[:, self._categories]
                * watched.ravel()[hits][:, None]
            )
            starts = np.flatnonzero(np.diff(who, prepend=-1))
            satiation[who[starts]] += np.add.reduceat(gain, starts, axis=0)
        self._satiation[rows] = satiation
        joy = 2.0 * np.minimum(np.einsum("nk->n", watched) / np.float32(self.config.target_clicks), 1.0) - 1.0
        tired = np.tanh(satiation.max(axis=1, initial=0.0) / 3.0)
        after = before.copy()
        after[:, 0] += 0.3 * (joy - before[:, 0])
        after[:, 1] += 0.4 * (0.3 * (1.0 - joy) + 0.4 * tired - before[:, 1])
        return after, joy

    def _listen(
        self, mindset: FloatArray, asked: IntArray, items: IntArray, wish: FloatArray, answers: Texts | None
    ) -> None:
        """Trust and mood of those who had asked for something move with what they got, and with being answered."""
        if not asked.size:
            return
        match = self.item_vectors.take(items, axis=0)[:, :, self._categories].mean(axis=1)
        got = np.clip(2.0 * (match * wish).sum(axis=1), -1.0, 1.0)
        mindset[asked, 2] += 0.3 * (got - mindset[asked, 2])
        mindset[asked, 0] = np.clip(mindset[asked, 0] + 0.15 * got, -1.0, 1.0)
        if answers is not None:
            spoken_to = np.array([answers[i] is not None for i in asked])
            mindset[asked, 2] = np.minimum(mindset[asked, 2] + self.config.courtesy * spoken_to, 1.0)

    def _decide(self, rows: IntArray, keys: Keys, after: FloatArray, joy: FloatArray) -> tuple[Any, Texts]:
        """Next action int8 (n,) and the words that go with it."""
        c = self.config
        boredom, trust = after[:, 1], after[:, 2]
        left = self._left[rows] - (1.0 + boredom - 0.5 * np.maximum(joy, 0.0))
        luck = Draws.uniforms(keys, 4 * (self.catalog.n_items + 1) + np.arange(2))
        leaves = left <= 0
        words = bool(self.catalog.categories)
        speaks = leaves & ~self._spoke[rows] & (luck[:, 0] < c.speak * (1.0 + 0.5 * trust)) & words
        searches = ~leaves & (luck[:, 1] < c.search * boredom) & words
        left[speaks] = 2.0
        self._left[rows] = left
        self._spoke[rows] |= speaks
        action = np.where(leaves, np.int8(NextAction.LEAVE), np.int8(NextAction.NEXT))
        action[speaks], action[searches] = NextAction.INSTRUCT, NextAction.SEARCH
        message = np.full(len(rows), None, object)
        talks = np.flatnonzero(speaks | searches)
        if talks.size:
            message[talks] = self._words(rows[talks], keys[talks], searches[talks])
        return action, message.tolist()

    def _look_up(
        self, rows: IntArray, keys: Keys, action: IntArray, message: Texts, seen: ByteArray, watched: IntArray
    ) -> None:
        """Who would only turn the page may search for a film that a friend praised, unless it has watched it already.

        Args:
            rows: int (n,), users.
            keys: uint64 (n,), their keys.
            action: int8 (n,), what they do next; changed in place.
            message: Their words; changed in place.
            seen: uint8 (n, B), packed, what they had watched before this page.
            watched: int (n, K), what they watched on it, padded with ``n_items``.
        """
        assert self.influence is not None
        free = np.flatnonzero(action == NextAction.NEXT)
        luck = Draws.uniforms(keys[free], 4 * (self.catalog.n_items + 1) + np.array([2]))[:, 0]
        tips = self.influence.take_tips(rows[free], luck)
        known = is_seen(seen[free], np.maximum(tips, 0)[:, None])[:, 0] | (watched[free] == tips[:, None]).any(axis=1)
        for i, tip in zip(free[~known].tolist(), tips[~known].tolist(), strict=True):
            if tip >= 0:
                action[i], message[i] = NextAction.SEARCH, str(self.catalog.title[tip])

    def _words(self, rows: IntArray, keys: Keys, searches: BoolArray) -> TextArray:
        """What users say: a genre to search for, or what they have enough of and what they want instead."""
        satiation = self._satiation[rows]
        n_categories = satiation.shape[1]
        lanes = 5 * (self.catalog.n_items + 1) + np.arange(n_categories)
        wanted = np.argmax(self.tastes.affinity[rows] - satiation + Draws.gumbels(keys, lanes), axis=1)
        tired_of = np.argmax(satiation, axis=1)
        tired_of[(tired_of == wanted) | ~satiation.any(axis=1)] = n_categories
        tired_of[searches] = n_categories + 1
        return np.asarray(self._sentences[tired_of, wanted])


_STATE = ("life", "satiation", "mindset", "left", "spoke", "last_day")


def _padded(array: FloatArray, value: float = 0.0) -> FloatArray:
    """One more row for the padding item, so that gathers need no mask."""
    return np.concatenate([array, np.full((1, *array.shape[1:]), value)]).astype(np.float32)


def _inner(vectors: FloatArray, own: FloatArray) -> FloatArray:
    """Inner products of users' vectors ``own`` (n, F) with their pages' items' (n, K, F), all float32, (n, K).

    Without axes (F is 0: a catalogue without categories) they are 0. There einsum, as of NumPy 2.4, multiplies its
    empty sum by what lies in memory behind the empty array, and now and then that is NaN.
    """
    if not own.shape[1]:
        return np.zeros(vectors.shape[:2], np.float32)
    return np.asarray(np.einsum("nkf,nf->nk", vectors, own))


def _sentences(categories: tuple[str, ...]) -> TextArray:
    """Sentences by [what the user is tired of, what it wants]; the last two rows: tired of nothing, and a search."""
    rows = [[f"No more {tired}, please. Show me {wanted}." for wanted in categories] for tired in categories]
    rows.append([f"Show me something else: {wanted}." for wanted in categories])
    rows.append(list(categories))
    return np.array(rows, object).reshape(len(categories) + 2, len(categories))


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(1.0 / (1.0 + np.exp(np.minimum(-x, np.float32(60.0)))), np.float32)


def _join(blocks: list[tuple[Feedback, Trace]]) -> tuple[Feedback, Trace]:
    """Blocks one after another."""

    def joined(parts: list[Any]) -> dict[str, Any]:
        columns = {name: [getattr(part, name) for part in parts] for name in type(parts[0]).__slots__}
        return {name: _concatenate(column) for name, column in columns.items()}

    return Feedback(**joined([b[0] for b in blocks])), Trace(**joined([b[1] for b in blocks]))


def _concatenate(column: list[Any]) -> Any:
    if column[0] is None:
        return None
    return list(chain.from_iterable(column)) if isinstance(column[0], list) else np.concatenate(column)
