# ruff: noqa: E402 (threads are set before NumPy is loaded)
"""How many user-turns a second one core simulates, from the bare user model to the Gymnasium environment.

    python benchmarks/env_throughput.py [--sizes 1 64 1024 16384 262144] [--repeats 5]

Invented data (seed 0): 10,000 items, 18 categories, 2,000 people with 100 ratings each, on whom the user model is
fitted; further users are drawn. Pages of 10 items, histories of 50, the whole catalogue as candidates. A user-turn is
one page shown to one user. Measured are whole turns with everybody in a session, after two turns to warm up; a figure
is the median over the repeats. The process is pinned to one core, numerical libraries to one thread.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import _report
import numpy as np
import pyarrow as pa
from python_loop import users_of

from recsim_env import runner
from recsim_env.build import World
from recsim_env.env import RecSimVectorEnv
from recsim_env.interfaces import Recommender
from recsim_env.records import Catalog, Dataset, MessageKind, Ratings, RatingScale, SlateBatch, unpack_seen
from recsim_env.rundir import CellWriter, RunFolder
from recsim_env.scenario import RecommenderSection, load_scenario
from recsim_env.simulator import Simulator

SEED, N_ITEMS, N_CATEGORIES, N_PEOPLE, K = 0, 10_000, 18, 2_000, 10
GOALS = {"user model": 1_000_000, "simulator": 300_000, "with run folder": 200_000, "vector environment": 300_000}
SECONDS = 0.4
"""A repeat lasts at least this long."""
Turn = Callable[[], None]


def invented_dataset() -> Dataset:
    """Ratings without taste: speed does not depend on it."""
    rng = np.random.default_rng(SEED)
    chance = np.arange(1, N_ITEMS + 1) ** -0.6
    pairs = np.unique(
        rng.integers(0, N_PEOPLE, 200_000) * N_ITEMS + rng.choice(N_ITEMS, 200_000, p=chance / chance.sum())
    )
    ratings = Ratings(
        (pairs // N_ITEMS).astype(np.int32), (pairs % N_ITEMS).astype(np.int32),
        rng.integers(1, 6, len(pairs)).astype(np.float32), rng.permutation(len(pairs)),
    )  # fmt: skip
    catalog = Catalog(
        item_id=np.array([str(i) for i in range(N_ITEMS)], object),
        title=np.array([f"Item {i}" for i in range(N_ITEMS)], object),
        categories=tuple(f"Genre{chr(65 + i)}" for i in range(N_CATEGORIES)),
        item_categories=rng.random((N_ITEMS, N_CATEGORIES)) < 0.12,
        text=np.full(N_ITEMS, "", object),
        year=rng.integers(1930, 2024, N_ITEMS).astype(np.int16),
        popularity=np.zeros(N_ITEMS, np.int64),
        scale=RatingScale(1.0, 5.0),
    )
    people = np.array([str(u) for u in range(N_PEOPLE)], object)
    return Dataset("invented", catalog, people, {}, ratings).with_ratings(ratings)


def invented_world() -> World:
    """A world around the invented data, fitted."""
    world = World(load_scenario({"name": "throughput", "slate_size": K, "seed": SEED, "recommenders": ["uniform"]}))
    world.dataset = invented_dataset()
    world.user_model  # noqa: B018 (fits)
    return world


def measure(turn: Turn, n: int, repeats: int) -> float:
    """Median user-turns per second."""
    turn()
    begun = time.perf_counter()
    turn()
    times = max(1, int(SECONDS / (time.perf_counter() - begun)))
    rates = []
    for _ in range(repeats):
        begun = time.perf_counter()
        for _ in range(times):
            turn()
        rates.append(n * times / (time.perf_counter() - begun))
    return float(np.median(rates))


def user_model_turn(world: World, n: int) -> Turn:
    """Only reactions, to random pages that lie ready."""
    simulator, rng = world.simulator(SEED, n), np.random.default_rng(SEED)
    obs = simulator.observe(np.arange(n))
    unknown = np.full((n, K), np.nan, np.float32)
    pages = [
        SlateBatch(rng.integers(0, N_ITEMS, (n, K)).astype(np.int32), unknown, unknown, "random") for _ in range(4)
    ]
    state = {"turn": 0}

    def turn() -> None:
        t = state["turn"] = state["turn"] + 1
        simulator.model.react(replace(obs, turn=np.full(n, t % 8, np.int32)), pages[t % 4])

    return turn


def simulator_turn(world: World, n: int, writer: CellWriter | None = None) -> Turn:
    """Observe, serve, react in the runner's batches, and write if there is a writer; who leaves comes back."""
    simulator, recommender = world.simulator(SEED, n), world.recommender(RecommenderSection(name="uniform"))
    sessions, size = runner._Sessions(n), world.scenario.batch_size
    batches = [np.arange(start, min(start + size, n)) for start in range(0, n, size)]

    def turn() -> None:
        for batch in batches:
            _one_batch(simulator, recommender, batch, sessions, writer)

    return turn


def _one_batch(
    simulator: Simulator,
    recommender: Recommender,
    batch: np.ndarray,
    sessions: runner._Sessions,
    writer: CellWriter | None,
) -> None:
    obs = simulator.observe(batch)
    slate = simulator.serve(recommender, obs)
    outcome = simulator.react(obs, slate)
    recommender.observe(obs, slate, outcome.feedback)
    sessions.add(obs, outcome)
    if writer is not None:
        runner._write_turn(writer, obs, slate, outcome, obs.candidates)
        sessions.write(writer, obs, outcome)
    if outcome.left.any():
        simulator.open(batch[outcome.left], obs.day[outcome.left] + 1, 0)


def environment_turn(world: World, n: int) -> Turn:
    """``step`` with random actions that lie ready; episodes are lives."""
    env, rng = RecSimVectorEnv(world=world, num_envs=n), np.random.default_rng(SEED)
    actions = [rng.integers(0, N_ITEMS, (n, K)) for _ in range(4)]
    env.reset(seed=SEED)
    state = {"turn": 0}

    def turn() -> None:
        t = state["turn"] = state["turn"] + 1
        env.step(actions[t % 4])

    return turn


def measure_with_folder(world: World, n: int, repeats: int) -> float:
    """The simulator's turn with every row written and committed to a temporary run folder."""
    with tempfile.TemporaryDirectory() as place, RunFolder(Path(place)) as folder:
        folder.write_json("progress.json", {})
        writer = CellWriter(folder, "uniform", SEED)
        inner = simulator_turn(world, n, writer)
        days = iter(range(1, 10**9))

        def turn() -> None:
            inner()
            if writer.pending_rows >= runner.COMMIT_ROWS:
                writer.commit(next(days))

        rate = measure(turn, n, repeats)
        writer.commit(next(days), done=True)
    return rate


def python_loop(world: World, n: int = 100, turns: int = 8) -> tuple[float, int]:
    """User-turns per second of the plain loop, and how many were compared; all choices must equal the vectorised."""
    simulator, recommender = world.simulator(SEED, n), world.recommender(RecommenderSection(name="uniform"))
    people = users_of(simulator.model, SEED, n)  # type: ignore[arg-type]
    seconds, compared = 0.0, 0
    for _ in range(turns):
        obs = simulator.observe(np.arange(n))
        slate = simulator.serve(recommender, obs)
        seen = [set(np.flatnonzero(row).tolist()) for row in unpack_seen(obs.seen, N_ITEMS)]
        pages, last = slate.items.tolist(), obs.last_slate.tolist()
        wishes, asked = obs.message_vector.tolist(), (obs.message_kind != MessageKind.NONE).tolist()
        when = list(zip(obs.day.tolist(), obs.session.tolist(), obs.turn.tolist(), strict=True))
        begun = time.perf_counter()
        reactions = [u.react(*when[i], pages[i], last[i], seen[i], wishes[i], asked[i]) for i, u in enumerate(people)]
        seconds += time.perf_counter() - begun
        assert (obs.turn + 1 < simulator.max_turns).all(), "the simulator would end a session by itself"
        outcome = simulator.react(obs, slate)
        check_same(reactions, outcome.feedback, outcome.trace, world)
        compared += n
        if outcome.left.any():
            simulator.open(np.flatnonzero(outcome.left), obs.day[outcome.left] + 1, 0)
    return n * turns / seconds, compared


def check_same(reactions, feedback, trace, world: World) -> None:  # type: ignore[no-untyped-def]
    """Choices are equal, probabilities and watched shares within rounding."""
    for name in ("clicked", "liked", "shared"):
        np.testing.assert_array_equal([getattr(r, name) for r in reactions], getattr(feedback, name))
    stars = np.array([[np.nan if x is None else x for x in r.rating] for r in reactions], np.float32)
    np.testing.assert_array_equal(stars, feedback.rating)
    np.testing.assert_array_equal([r.action for r in reactions], feedback.next_action)
    np.testing.assert_allclose([r.watched for r in reactions], feedback.watched_fraction, atol=1e-4)
    np.testing.assert_allclose([r.p_click for r in reactions], trace.p_click, atol=1e-4)
    np.testing.assert_allclose([r.expected for r in reactions], trace.expected_rating, atol=1e-2)
    for reaction, words in zip(reactions, feedback.message, strict=True):
        assert (reaction.wanted is None) == (words is None)
        assert words is None or words.rstrip(".").endswith(world.dataset.catalog.categories[reaction.wanted])


def main() -> None:
    """Measures and writes ``results/env_throughput.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 64, 1024, 16384, 262144])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    world = invented_world()
    plain, compared = python_loop(world)
    rows = []
    for n in args.sizes:
        rows.append(
            {
                "user model": measure(user_model_turn(world, n), n, args.repeats),
                "simulator": measure(simulator_turn(world, n), n, args.repeats),
                "with run folder": measure_with_folder(world, n, args.repeats),
                "vector environment": measure(environment_turn(world, n), n, args.repeats),
            }
        )
    os.sched_setaffinity(0, allowed)
    best = rows[args.sizes.index(16384)] if 16384 in args.sizes else rows[-1]
    lines = [
        f"User-turns per second on one core; {K} items a page, {N_ITEMS:,} items, histories of "
        f"{world.scenario.history_length}; medians of {args.repeats} repeats, seed {SEED}.\n",
        "| users at once | " + " | ".join(GOALS) + " |",
        "|---:|" + "---:|" * len(GOALS),
        *(
            f"| {n:,} | " + " | ".join(f"{row[g]:,.0f}" for g in GOALS) + " |"
            for n, row in zip(args.sizes, rows, strict=True)
        ),
        "| *goal at 16,384* | " + " | ".join(f"*{goal:,}*" for goal in GOALS.values()) + " |\n",
        "- *user model*: reactions alone. *simulator*: observation, slates of the uniform recommender, reactions, "
        "reward, calendar. *with run folder*: the same, every row on disk. *vector environment*: Gymnasium's `step`.",
        f"- The same behavioural model as one Python object per user, in the same process: {plain:,.0f} user-turns per "
        f"second; the vectorised one is {best['user model'] / plain:,.0f} times as fast (goal: 50). On {compared} "
        "compared user-turns every choice of the two was equal.",
    ]
    _report.write("env_throughput", "Throughput", "\n".join(lines))


if __name__ == "__main__":
    main()
