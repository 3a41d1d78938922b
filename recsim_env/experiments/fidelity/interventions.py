"""Interventions whose effect should have a known sign, and corrections with and without.

A user model that resembles people loses what it knows of a person when the persona goes, does not care which letter
stands for yes or where a film stands on a page, and is less likely to watch what it has just watched. Each is tried on
the same users and films; every change is a mean over users with a bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recsim_env.agents.behavioral import BehavioralUsers
from recsim_env.agents.judging import quiet_moment
from recsim_env.agents.llm import LLMUsers
from recsim_env.agents.preference import Tastes
from recsim_env.agents.prompting import Cards
from recsim_env.engine.base import EngineUsage
from recsim_env.evaluation.bootstrap import ratio_intervals
from recsim_env.experiments.fidelity.judges import ModelJudge
from recsim_env.experiments.fidelity.judging import Task
from recsim_env.experiments.fidelity.measures import area_under_curve, user_means
from recsim_env.experiments.fidelity.protocol import Groups
from recsim_env.interfaces import Engine, UserModel
from recsim_env.records import (
    ChoiceRequest,
    Completion,
    FloatArray,
    IntArray,
    SlateBatch,
    TextRequest,
)

TOLERANCE = 0.05
"""A change of probability that counts as none."""
NO_PERSONA = "You are a person who watches films."
PAGE = 10
"""Items of a page on which positions are shuffled."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What an intervention did.

    Attributes:
        name: The intervention.
        measure: What changed, in words.
        expected: ``falls``, ``rises`` or ``none``.
        value: The change, mean over users.
        low: Lower end of its 95 % interval.
        high: Upper end.
        holds: ``yes`` or ``no``: for a sign, whether the whole interval is on that side of 0 (``unclear`` where 0 lies
            inside); for no change, whether it is smaller than the tolerance.
    """

    name: str
    measure: str
    expected: str
    value: float
    low: float
    high: float
    holds: str

    @classmethod
    def of(cls, name: str, measure: str, expected: str, per_user: FloatArray, tolerance: float = TOLERANCE) -> Finding:
        """A finding out of one change per user, float (n,)."""
        column = np.asarray(per_user, np.float64)[:, None]
        interval = ratio_intervals(column, np.ones_like(column))
        value, low, high = (float(x[0]) for x in (interval.value, interval.low, interval.high))
        if expected == "none":
            holds = "yes" if abs(value) < tolerance else "no"
        else:
            right, wrong = (high < 0, low > 0) if expected == "falls" else (low > 0, high < 0)
            holds = "yes" if right else "no" if wrong else "unclear"
        return cls(name, measure, expected, value, low, high, holds)


class SwappedLetters(Engine):
    """An engine that sees every decision's options in reverse order: what was A is the last letter.

    Args:
        engine: Answers the reversed requests; its replies are turned round again.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.model, self.revision = engine, engine.model, engine.revision
        self.special_tokens = engine.special_tokens

    @property
    def usage(self) -> EngineUsage:
        """The engine's."""
        return self.engine.usage

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """Log-probabilities in the order of the requests' own options."""
        return [reply[::-1] for reply in self.engine.choose([_reversed(r) for r in requests])]

    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """Words have no options."""
        return self.engine.generate(requests)

    def close(self) -> None:
        """Closes the engine."""
        self.engine.close()


def _reversed(request: ChoiceRequest) -> ChoiceRequest:
    *before, last = request.messages
    lines, n = last["content"].split("\n"), len(request.options)
    block = lines[-1 - n : -1]
    heads = [f"{letter}: " for letter in request.options]
    assert all(line.startswith(head) for line, head in zip(block, heads, strict=True)), "Question.render's last lines"
    meanings = [line.removeprefix(head) for line, head in zip(block, heads, strict=True)][::-1]
    lines[-1 - n : -1] = [head + meaning for head, meaning in zip(heads, meanings, strict=True)]
    key = replace(request.key, purpose=f"{request.key.purpose}-swapped")
    return ChoiceRequest((*before, {**last, "content": "\n".join(lines)}), request.options, key)


@contextmanager
def no_persona(model: UserModel) -> Iterator[bool]:
    """Takes from users what tells them apart: persona and memory, or fitted tastes; gives whether it could."""
    if isinstance(model, LLMUsers):
        personas, state = model.personas, model.state()
        model.personas = replace(personas, text=np.full(len(personas.text), NO_PERSONA, object))
        model.memory.clear(np.arange(model.users.n_users))
        try:
            yield True
        finally:
            model.personas = personas
            model.load_state(state)
    elif isinstance(model, BehavioralUsers):
        tastes = model.tastes
        same = {n: np.broadcast_to(a.mean(axis=0), a.shape).astype(a.dtype) for n, a in _columns(tastes).items()}
        model.tastes = Tastes(**{**same, "noise": tastes.noise})
        try:
            yield True
        finally:
            model.tastes = tastes
    else:
        yield False


def _columns(tastes: Tastes) -> dict[str, Any]:
    return {name: getattr(tastes, name) for name in Tastes.__slots__}


def _p(log_odds: FloatArray) -> FloatArray:
    return 1.0 / (1.0 + np.exp(-np.asarray(log_odds, np.float64).clip(-30, 30)))


def one_group_each(groups: Groups, most: int) -> Groups:
    """The first group of each user, for so many users."""
    _, first = np.unique(groups.user, return_index=True)
    rows = first[:most]
    return Groups(groups.m, groups.user[rows], groups.items[rows], groups.positive[rows])


def intervene(judge: ModelJudge, task: Task, most: int = 100) -> tuple[list[Finding], dict[str, Any]]:
    """Tries every intervention that makes sense for a user model.

    Args:
        judge: The user model.
        task: What it was asked.
        most: Users.

    Returns:
        Findings, and curves and corrections by name: ``position_curve`` float by place, ``copying`` (marks gained
        per mark displayed), ``order_change`` and ``order_change_averaged``.
    """
    groups = one_group_each(task.test[min(task.test)], most)
    users, items = groups.pairs()
    paged = _full_pages(groups)
    base = _p(judge.watch(users, items)[0])
    found: list[Finding] = []
    more: dict[str, Any] = {}

    def auc(p: FloatArray) -> FloatArray:
        spread = groups.spread(p)
        rows = zip(spread, groups.positive, groups.shown, strict=True)
        return np.array([area_under_curve(s[k], y[k]) for s, y, k in rows])

    with no_persona(judge.model) as done:
        if done:
            without = _p(judge.watch(users, items)[0])
            found.append(
                Finding.of("persona removed", "AUC of watched against unseen films", "falls", auc(without) - auc(base))
            )
    again = _watch_again(judge, users, items)
    if again is not None:
        found.append(Finding.of("item repeated", "p(watch)", "falls", user_means(again - base, users)[1]))
    order = task.draws.permutation("fidelity-shuffle", len(users))
    shuffled = np.empty(len(users))
    shuffled[order] = _p(judge.watch(users[order], items[order])[0])
    change = user_means(np.abs(shuffled - base), users)[1]
    found.append(Finding.of("positions shuffled, item by item", "|change of p(watch)|", "none", change))
    if isinstance(judge.model, LLMUsers):
        with _swapped(judge.model):
            swapped = _p(judge.watch(users, items)[0])
        change = user_means(np.abs(swapped - base), users)[1]
        found.append(Finding.of("letters swapped", "|change of p(watch)|", "none", change))
        finding, curve = _listwise(judge.model, judge.rows(paged.user), paged)
        found.append(finding)
        more |= curve
        more["copying"] = _copying(judge, task, most)
        copied = np.array([more["copying"]])
        found.append(Finding.of("average displayed", "marks gained per mark displayed", "none", copied, 0.1))
    elif isinstance(judge.model, BehavioralUsers):
        more["position_curve"] = _cascade_curve(judge.model, judge.rows(paged.user), _pages(paged))
    return found, more


def _watch_again(judge: ModelJudge, users: IntArray, items: IntArray) -> FloatArray | None:
    """p(watch) of films that were watched before, or None where the model cannot be asked."""
    model, rows = judge.model, judge.rows(users)
    if isinstance(model, LLMUsers):
        return _p(model.judge_watch(rows, items.astype(np.int64), again=True)[0])
    if isinstance(model, BehavioralUsers):
        seen, nobody = np.ones((len(rows), 1), np.bool_), np.zeros((len(rows), 0), np.int32)
        wish = np.zeros((len(rows), model.catalog.n_categories), np.float32)
        return _p(model.appraise(rows, items[:, None], wish, seen, nobody)[1][:, 0])
    return None


@contextmanager
def _swapped(model: LLMUsers) -> Iterator[None]:
    engine = model.asker.engine
    model.asker.engine = SwappedLetters(engine)
    try:
        yield
    finally:
        model.asker.engine = engine


def _pages(groups: Groups) -> IntArray:
    """The first candidates of each group, as many as all groups have, int32 (Q, K)."""
    return groups.items[:, : min(PAGE, int(groups.shown.sum(axis=1).min()))]


def _full_pages(groups: Groups) -> Groups:
    """Groups that fill a page, or all where none does."""
    full = groups.shown.sum(axis=1) >= PAGE
    kept = full if full.any() else np.ones(len(full), np.bool_)
    return Groups(groups.m, groups.user[kept], groups.items[kept], groups.positive[kept])


def _listwise(model: LLMUsers, rows: IntArray, groups: Groups) -> tuple[Finding, dict[str, Any]]:
    """How much a place on the page is worth when a page is put as one choice: four orders of each page."""
    pages = _pages(groups)
    k = pages.shape[1]
    orders = [np.arange(k), np.arange(k)[::-1], np.roll(np.arange(k), k // 2), np.roll(np.arange(k)[::-1], k // 2)]
    by_place, by_item = [], []
    for order in orders:
        replies, _ = model.asker.choose(model.listing_requests(rows, pages[:, order]))
        p = np.array([reply[:-1] for reply in replies])
        item = np.empty_like(p)
        item[:, order] = p
        by_place.append(p)
        by_item.append(item)
    place = np.mean(by_place, axis=0)
    change = np.abs(by_item[0] - by_item[1]).mean(axis=1)
    averaged = np.abs(by_item[0] + by_item[1] - by_item[2] - by_item[3]).mean(axis=1) / 2
    first = place[:, 0] - place[:, 1:].mean(axis=1)
    finding = Finding.of("positions shuffled, page as a list", "p(first place) - p(elsewhere)", "none", first)
    return finding, {
        "position_curve": place.mean(axis=0).tolist(),
        "order_change": float(change.mean()),
        "order_change_averaged": float(averaged.mean()),
    }


def _copying(judge: ModelJudge, task: Task, most: int) -> float:
    """Marks gained per mark by which a displayed average is raised."""
    model = judge.model
    assert isinstance(model, LLMUsers)
    rows = task.rated.take(np.isin(task.rated.user_index, np.unique(task.rated.user_index)[:most]))
    users, items = rows.user_index.astype(np.int64), rows.item_index.astype(np.int64)
    catalog, cards, levels = model.catalog, model.cards, model.catalog.scale.levels
    r = task.parts.train.ratings
    count = np.bincount(r.item_index, minlength=catalog.n_items)
    mean = (np.bincount(r.item_index, r.rating, catalog.n_items) + 5 * r.rating.mean()) / (count + 5)
    told, shown = [], []
    step = 0.25 * float(levels[-1] - levels[0])
    try:
        for shift in (-step, step):
            display = np.clip(mean + shift, levels[0], levels[-1])
            text = [f"Average mark {d:.1f} of {levels[-1]:g}. {t}" for d, t in zip(display, catalog.text, strict=True)]
            model.cards = Cards(replace(catalog, text=np.array(text, object)), cards.quoter)
            told.append(judge.marks(users, items)[0] @ levels)
            shown.append(display[items])
    finally:
        model.cards = cards
    return float((told[1] - told[0]).mean() / (shown[1] - shown[0]).mean())


def _cascade_curve(model: BehavioralUsers, rows: IntArray, pages: IntArray) -> list[float]:
    """Mean probability of a click by place, of behavioural users on these pages; their state stays as it is."""
    state, nan = model.state(), np.full(pages.shape, np.nan, np.float32)
    obs = quiet_moment(rows, model.catalog)
    _, trace = model.react(obs, SlateBatch(pages, nan, nan, "fidelity"))
    model.load_state(state)
    return [float(p) for p in trace.p_click.mean(axis=0)]
