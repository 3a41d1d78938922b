# ruff: noqa: E402 (threads are set before NumPy is loaded)
"""How many slates a second every registered recommender makes out of the whole catalogue.

    python benchmarks/recommend_throughput.py [--users 10000] [--llm-users 8] [--repeats 5] [--quick]

One turn is `recommend` for all users, 10 items each, in blocks of 1,024, without candidate sets. The users are those
of the data's training part, drawn with replacement; 50 events of their histories are seen. Two data sets: the built-in
one, and that of env_throughput.py (10,000 items, invented). What is computed once for all turns (fitting, item vectors)
is timed apart. Recommenders that learn by epochs get one epoch: how long they train does not change what a turn costs,
and their time of fitting is that of the one epoch. Those that ask a language model get the package's small one in the
transformers engine and fewer users, on the built-in data alone. Memory is the peak of a turn above what was resident
before it (Linux). The process is pinned to one core, numerical libraries to one thread.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import _report
import numpy as np
from env_throughput import invented_dataset

from recsim_env.build import World
from recsim_env.draws import Draws
from recsim_env.evaluation.protocols import observations
from recsim_env.experiments.tables import markdown_table
from recsim_env.interfaces import Recommender
from recsim_env.recommenders.rsllm.recommender import RSLLM
from recsim_env.records import Dataset, MessageKind, ObservationBatch, Texts
from recsim_env.registry import recommenders
from recsim_env.scenario import RecommenderSection, load_scenario
from recsim_env.visible import WishReader

SEED, K, HISTORY = 0, 10, 50
BRIEF: dict[str, Any] = {"epochs": 1, "stage1_epochs": 0, "sasrec": {"epochs": 1}}
"""Settings that shorten training, for recommenders that have them."""
BASELINE = "uniform"
ENGINE = {"name": "transformers", "model": "builtin", "max_failure_share": 1.0}
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one recommender.

    Attributes:
        name: Its name, and what its users do where that matters.
        users: Users of a turn.
        seconds: Median of the repeats' turns.
        alone: Median milliseconds of a turn of one user by itself.
        fit: Seconds of fitting.
        memory: Most bytes above what was resident before a turn, NaN where it is not known.
    """

    name: str
    users: int
    seconds: float
    alone: float
    fit: float
    memory: float


def world_of(dataset: Dataset | None, engine: bool) -> World:
    """The built-in data, or other ones; with the language model if it is asked for."""
    plain: dict[str, Any] = {"name": "recommend-throughput", "seed": SEED, "recommenders": [BASELINE]}
    world = World(load_scenario(plain | ({"engine": ENGINE} if engine else {})))
    if dataset is not None:
        world.dataset = dataset
    return world


def turn_of(data: Dataset, n: int, spoken: bool = False) -> list[ObservationBatch]:
    """One turn of ``n`` users of the data, drawn with replacement, in blocks; ``spoken``: all have just said a wish."""
    people = np.random.default_rng(SEED).integers(0, data.n_users, n)
    histories = data.histories().take(people)
    blocks = [obs for _, obs in observations(data.catalog, histories, slate_size=K, length=HISTORY)]
    return [wishing(obs, data.catalog.categories) for obs in blocks] if spoken else blocks


def wishing(obs: ObservationBatch, categories: tuple[str, ...]) -> ObservationBatch:
    """The same users, each of whom asks for a category."""
    reader = WishReader(categories)
    words: Texts = [f"I would like more {categories[i % len(categories)]}." for i in range(obs.n)]
    return replace(
        obs,
        message=words,
        message_kind=np.full(obs.n, MessageKind.INSTRUCT, np.int8),
        message_vector=np.stack([reader.read(text or "") for text in words]),
    )


def fitted(world: World, name: str) -> tuple[Recommender, float]:
    """A recommender with its defaults, trained briefly, and the seconds it took."""
    known = recommenders.get(name).config_class.model_fields
    section = RecommenderSection(name=name, config={k: v for k, v in BRIEF.items() if k in known})
    begun = time.perf_counter()
    return world.recommender(section), time.perf_counter() - begun


def serve(recommender: Recommender, turn: Sequence[ObservationBatch], number: int = 0) -> float:
    """Seconds of one turn; another number is another turn of the session, with other luck."""
    asked = [replace(obs, turn=np.full(obs.n, number, np.int32)) for obs in turn]
    begun = time.perf_counter()
    for obs in asked:
        recommender.recommend(obs, K, Draws(SEED))
    return time.perf_counter() - begun


def measure(recommender: Recommender, name: str, turn: Sequence[ObservationBatch], fit: float, repeats: int) -> Row:
    """Warms up with one user, then times whole turns and turns of one user."""
    one = [turn[0].take(np.array([0]))]
    serve(recommender, one)
    before = start_of_peak()
    seconds = [serve(recommender, turn, number) for number in range(repeats)]
    memory = peak() - before
    alone = [serve(recommender, one, number) for number in range(3 * repeats)]
    n = sum(obs.n for obs in turn)
    return Row(name, n, float(np.median(seconds)), 1e3 * float(np.median(alone)), fit, memory)


def start_of_peak() -> float:
    """Resident bytes now, from which on the peak counts; NaN where the system cannot say."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was freed would be taken again unseen
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return float("nan")
    return int(Path("/proc/self/statm").read_text().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))


def peak() -> float:
    """Most resident bytes since :func:`start_of_peak`, NaN where the system cannot say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("VmHWM")), float("nan"))


def passes(rsllm: RSLLM, turn: Sequence[ObservationBatch]) -> str:
    """What RSLLM computes in a turn and what it does not, counted and timed."""
    rows: list[int] = []
    hook = rsllm.model.register_forward_pre_hook(lambda _, given: rows.append(len(given[0].ids)))
    serve(rsllm, turn)
    hook.remove()
    begun = time.perf_counter()
    rsllm.read_items()
    items = time.perf_counter() - begun
    known = sum(int((obs.history < rsllm.n_items).any(axis=1).sum()) for obs in turn)
    return (
        f"RSLLM reads the {rsllm.n_items:,} items once ({items:.2f} s) and keeps their vectors. A turn of "
        f"{sum(obs.n for obs in turn):,} users, {known:,} of them with a history, took {len(rows):,} passes of its "
        f"decoder over {sum(rows):,} prompts in all, of users alone: one each, and {sum(rows) - known:,} to fill "
        "passes of a fixed shape."
    )


def plain_rows(world: World, users: int, repeats: int) -> tuple[list[Row], str]:
    """All recommenders that need no language model, the baseline first, and what RSLLM computes."""
    turn, rows, note = turn_of(world.split.train, users), [], ""
    names = [name for name in recommenders.names() if not recommenders.get(name).needs_engine]
    for name in sorted(names, key=lambda name: name != BASELINE):
        recommender, fit = fitted(world, name)
        rows.append(measure(recommender, name, turn, fit, repeats))
        print(rows[-1], flush=True)
        if isinstance(recommender, RSLLM):
            note = passes(recommender, turn)
    return rows, note


def asking_rows(world: World, users: int, repeats: int) -> tuple[list[Row], str]:
    """Recommenders that ask a language model, for users who are silent and users who have just spoken; bad replies."""
    rows, bad = [], []
    for name in recommenders.names():
        if not recommenders.get(name).needs_engine:
            continue
        recommender, fit = fitted(world, name)
        for told, spoken in (("silent users", False), ("all have spoken", True)):
            turn = turn_of(world.split.train, users, spoken)
            rows.append(measure(recommender, f"{name}, {told}", turn, fit, repeats))
            print(rows[-1], flush=True)
        bad.append(f"`{name}` {sum(recommender.failed.values())} of {sum(recommender.asked.values())}")
    return rows, f"Replies that could not be used: {', '.join(bad)}."


def table(rows: Sequence[Row], baseline: Row) -> list[str]:
    """The rows beside the baseline, as Markdown."""
    header = (
        "recommender", "users", "user-turns/s", "ms a turn", f"time a user, {BASELINE} = 1", "ms, one user alone",
        "fit once, s", "memory of a turn, MiB",
    )  # fmt: skip
    lines = [header]
    for row in rows:
        each = row.seconds / row.users
        figures = (1 / each, 1e3 * row.seconds, each * baseline.users / baseline.seconds, row.alone, row.fit)
        memory = "-" if np.isnan(row.memory) else f"{row.memory / MIB:,.0f}"
        lines.append((row.name, f"{row.users:,}", *map(short, figures), memory))
    return markdown_table(lines)


def short(value: float) -> str:
    """A figure with about two digits."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def described(data: Dataset) -> str:
    """Size of the data that recommenders are fitted on."""
    return f"{data.n_items:,} items, fitted on {len(data.ratings):,} ratings of {data.n_users:,} people"


def main() -> None:
    """Measures and writes ``results/recommend_throughput.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--llm-users", type=int, default=8, help="users of recommenders that ask a language model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few users, the built-in data alone: for tests")
    parser.add_argument("--results", type=Path, default=_report.RESULTS, help="folder of the result")
    args = parser.parse_args()
    if args.quick:
        args.users, args.llm_users, args.repeats = 40, 1, 1
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    world = world_of(None, engine=True)
    rows, note = plain_rows(world, args.users, args.repeats)
    asking, bad = asking_rows(world, args.llm_users, args.repeats)
    lines = [
        f"`recommend` over the whole catalogue, {K} items a slate, {HISTORY} events seen, default settings, one core; "
        f"median of the turns ({args.repeats}), seed {SEED}. *Fit once* is one epoch for what learns by epochs "
        "(RSLLM's contains one of its SASRec). *One user alone*: recommenders whose scores come from a matrix product "
        "compute a block of 256 also for one. Users are people of the training part, drawn with replacement.\n",
        f"## Built-in data: {described(world.split.train)}\n",
        *table([*rows, *asking], rows[0]),
        "",
        "- The last rows ask the package's small model through `transformers`; `conversational` asks it about users "
        f"who have just spoken alone, and once more where a reply is of no use. {bad}",
        f"- {note}",
    ]
    world.close()
    if not args.quick:
        large = world_of(invented_dataset(), engine=False)
        rows, note = plain_rows(large, args.users, args.repeats)
        lines += [f"\n## Invented data: {described(large.split.train)}\n", *table(rows, rows[0]), "", f"- {note}"]
    os.sched_setaffinity(0, allowed)
    _report.write("recommend_throughput", "Throughput of recommenders", "\n".join(lines), args.results)


if __name__ == "__main__":
    main()
