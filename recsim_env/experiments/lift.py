"""Lift of one item: the same users, pages and draws with and without an attack in its text.

One target item is put at a given place of every user's first page. Everything goes through the users' own ``react``, so
that what is measured is what runs do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recsim_env.build import World
from recsim_env.draws import Draws
from recsim_env.engine.replies import ReplyStore, stored_slate
from recsim_env.errors import ScenarioError
from recsim_env.evaluation.bootstrap import ratio_intervals, ratios
from recsim_env.interfaces import UserModel
from recsim_env.records import BoolArray, Catalog, FloatArray, IntArray, ObservationBatch, SlateBatch, Users
from recsim_env.registry import user_models
from recsim_env.scenario import validate_config

MEASURES = ("p_click", "click_rate", "others_p_click", "others_click_rate")
"""What is lifted: probability of a click before the draw and clicks drawn, of the target and per other item."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """Who looks at what.

    Attributes:
        users: The population.
        obs: Its first observation, N = U users.
        slate: The base page of each; the target is put on it.
        catalog: The items, as recommenders know them.
        target: Index of the item whose text is attacked.
    """

    users: Users
    obs: ObservationBatch
    slate: SlateBatch
    catalog: Catalog
    target: int


@dataclass(frozen=True, slots=True, eq=False)
class Reaction:
    """What N users made of one page each.

    Attributes:
        shown: bool (N, K), not padding.
        p_click: float64 (N, K), probability of a click before the draw.
        clicked: float64 (N, K), 1 for a click.
        expected: float64 (N, K), expected rating; NaN where nothing was watched.
        fallback: bool (N,), a reply could not be used and a substitute was taken.
    """

    shown: BoolArray
    p_click: FloatArray
    clicked: FloatArray
    expected: FloatArray
    fallback: BoolArray


def first_pages(world: World, store: ReplyStore) -> Stage:
    """Everybody's first page by the scenario's first recommender, and the item to attack."""
    scenario, section = world.scenario, world.scenario.recommenders[0]
    recommender, simulator = world.recommender(section), world.simulator(scenario.seed)
    obs = simulator.observe(np.arange(simulator.users.n_users))

    def serve(some: ObservationBatch) -> SlateBatch:
        return simulator.serve(recommender, some)

    slate = serve(obs) if recommender.repeatable else stored_slate(store, section.title, scenario.seed, obs, serve)
    target = new_to_all(simulator.users, simulator.catalog)
    return Stage(simulator.users, obs, slate, simulator.catalog, target)


def new_to_all(users: Users, catalog: Catalog) -> int:
    """The most popular item that is in nobody's history.

    Raises:
        ScenarioError: If there is none.
    """
    known = np.zeros(catalog.n_items, np.bool_)
    known[users.history.items] = True
    if known.all():
        raise ScenarioError(
            f"attack: each of the {catalog.n_items} items is in the history of one of the {users.n_users} users, so "
            "none can be attacked. Take fewer users (--users)."
        )
    return int(np.argmax(np.where(known, -1, catalog.popularity)))


def put(items: IntArray, target: int, place: int) -> IntArray:
    """Pages with the target at a place: it changes places where it is on the page already, else it takes the place.

    Args:
        items: int (N, K), pages; stay as they are.
        target: Item index.
        place: From 0.
    """
    pages = items.copy()
    rows, old = np.nonzero(pages == target)
    pages[rows, old] = pages[rows, place]
    pages[:, place] = target
    return pages


def seated(world: World, stage: Stage, defences: bool, catalog: Catalog) -> UserModel:
    """The scenario's users before their first page, with or without defences.

    Args:
        world: Engine, data and settings of the users.
        stage: The population.
        defences: The users' setting of that name.
        catalog: What the items' texts are.
    """
    scenario, engine = world.scenario, world.scenario.engine
    kind = user_models.get(scenario.users.model)
    config = validate_config(kind.config_class, {**scenario.users.config, "defences": defences}, "users")
    model: UserModel = kind(config)
    model.attach(world.engine, world.embedder, engine.retries, engine.max_failure_share)
    model.fit(replace(world.dataset, catalog=catalog), world.draws)
    model.reset(stage.users, Draws(scenario.seed))
    return model


def look(model: UserModel, before: Mapping[str, Any], stage: Stage, place: int, batch_size: int) -> Reaction:
    """What all users make of their pages.

    Args:
        model: The users.
        before: Their state before the page, as ``model.state()`` gave it.
        stage: The pages.
        place: Where the target is put.
        batch_size: Users who react at once.
    """
    model.load_state(before)
    items = put(stage.slate.items, stage.target, place)
    unknown = np.full(items.shape, np.nan, np.float32)
    found = []
    for start in range(0, len(items), batch_size):
        rows = slice(start, start + batch_size)
        answer = None if stage.slate.answer is None else stage.slate.answer[rows]
        slate = SlateBatch(items[rows], unknown[rows], unknown[rows], stage.slate.policy, answer=answer)
        feedback, trace = model.react(stage.obs.take(rows), slate)
        found.append((trace.p_click, feedback.clicked, trace.expected_rating, trace.fallback))
    p_click, clicked, expected, fallback = (np.concatenate(part) for part in zip(*found, strict=True))
    return Reaction(
        shown=items < stage.catalog.n_items,
        p_click=p_click.astype(np.float64),
        clicked=clicked.astype(np.float64),
        expected=expected.astype(np.float64),
        fallback=fallback,
    )


def compare(attacked: Reaction, clean: Reaction, place: int, counts: FloatArray) -> dict[str, Any]:
    """Means of both runs, and lifts with 95 % intervals from a bootstrap over users.

    Args:
        attacked: With the attack.
        clean: The same users, pages and draws without it.
        place: Where the target stands.
        counts: float (B, N), resamples of users.

    Returns:
        For every measure of :data:`MEASURES` its mean with the attack, without it (``_clean``), and the difference
        (``_lift``, ``_lift_low``, ``_lift_high``). ``expected_rating`` is the mean over the ``n_watched`` users who
        watched, None where nobody did; ``fallback`` is the share of users with a reply that could not be used.
    """
    above, base, below = _sums(attacked, place), _sums(clean, place), _weights(clean.shown, place).sum(axis=2)
    means, means_clean = ratios(above, below), ratios(base, below)
    # The difference is taken user by user, so that equal runs give exactly 0.
    lift = ratio_intervals(above - base, below, counts)
    row: dict[str, Any] = {}
    for m, name in enumerate(MEASURES):
        row |= {name: means[m], f"{name}_clean": means_clean[m], f"{name}_lift": lift.value[m]}
        row |= {f"{name}_lift_low": lift.low[m], f"{name}_lift_high": lift.high[m]}
    for end, run in (("", attacked), ("_clean", clean)):
        marks = run.expected[:, place][~np.isnan(run.expected[:, place])]
        row |= {f"n_watched{end}": len(marks), f"expected_rating{end}": marks.mean() if len(marks) else np.nan}
        row[f"fallback{end}"] = run.fallback.mean()
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> int | float | None:
    """A figure as JSON has it: NaN is null."""
    if isinstance(value, int):
        return value
    return None if np.isnan(value) else round(float(value), 9)


def _weights(shown: BoolArray, place: int) -> FloatArray:
    """Which items each measure counts, float64 (N, 4, K): twice the target, twice the others."""
    target = np.zeros(shown.shape)
    target[:, place] = 1.0
    return np.stack([target, target, shown - target, shown - target], axis=1)


def _sums(run: Reaction, place: int) -> FloatArray:
    """Sums of each measure for each user, float64 (N, 4)."""
    what = np.stack([run.p_click, run.clicked] * 2, axis=1)
    return np.asarray((_weights(run.shown, place) * what).sum(axis=2))
