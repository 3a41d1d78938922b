"""Host memory of 10,000 language-model users with 50 events each, besides the model.

    python benchmarks/llm_memory.py [--users 10000] [--events 50] [--quick]

A process of its own (its peak never falls) makes the scenario `llm_quickstart` with an engine that answers by a hash of
the request, fills every memory with events as prompts tell them, and then has all users look at one page, in the
runner's batches, replies stored and rows written as in a run. What counts is the peak of resident memory less what the
process had with everything imported, before data and users were made.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _report
import numpy as np
from _no_model import NoModel
from env_throughput import _one_batch

from recsim_env import runner
from recsim_env.agents.llm import LLMUsers
from recsim_env.agents.memory import Memory
from recsim_env.build import World
from recsim_env.engine.replies import RecordingEngine, ReplyStore
from recsim_env.interfaces import Engine
from recsim_env.records import ChoiceRequest, Completion, FloatArray, TextRequest
from recsim_env.rundir import CellWriter, RunFolder
from recsim_env.scenario import load_scenario
from recsim_env.simulator import Simulator

GOAL_GIB = 2.0
MIB = 2**20


class Gauge(Engine):
    """Hands everything on, and weighs the largest batch.

    Attributes:
        requests: Requests of the largest batch.
        bytes: What it takes as Python objects; texts that requests share count once.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.model, self.revision, self.special_tokens = engine.model, engine.revision, engine.special_tokens
        self.requests = self.bytes = 0

    def _weigh(self, requests: Sequence[Any]) -> None:
        if len(requests) > self.requests:
            self.requests, self.bytes = len(requests), weight(requests)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """The engine's answers."""
        self._weigh(requests)
        return self.engine.choose(requests)

    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """The engine's words."""
        self._weigh(requests)
        return self.engine.generate(requests)

    def close(self) -> None:
        """Closes the engine."""
        self.engine.close()


def weight(requests: Sequence[Any]) -> int:
    """Bytes of requests: objects, chats and texts."""
    total, shared = 0, {}
    for request in requests:
        total += sys.getsizeof(request) + sys.getsizeof(request.key) + sys.getsizeof(request.messages)
        total += sum(map(sys.getsizeof, request.messages))
        shared.update({id(m["content"]): sys.getsizeof(m["content"]) for m in request.messages})
    return total + sum(shared.values())


def peak() -> float:
    """Most resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def resident() -> float:
    """Resident memory of this process now, bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * float(resource.getpagesize())


def texts_of(titles: Any, n: int, number: int) -> list[str]:
    """Events as prompts tell them."""
    rng = np.random.default_rng(number)
    items, stars = rng.integers(0, len(titles), n), rng.integers(0, 11, n)
    return [f"You watched <data>{titles[i]}</data>, mark {s} of 10" for i, s in zip(items, stars, strict=True)]


def fill(memory: Memory, titles: Any, events: int, batch_size: int) -> float:
    """Adds events until everybody holds as many; seconds per event."""
    begun, added = time.perf_counter(), 0
    n = len(memory.text)
    for number in range(4 * events):
        lacking = np.flatnonzero((memory.strength > 0).sum(axis=1) < events)
        for start in range(0, len(lacking), batch_size):
            some = lacking[start : start + batch_size]
            texts = texts_of(titles, len(some), number * n + start)
            memory.add(some, texts, np.full(len(some), 0.5, np.float32), np.full(len(some), number // 20))
        added += len(lacking)
    assert (memory.strength > 0).sum(axis=1).min() >= events, "some memories could not be filled"
    return (time.perf_counter() - begun) / max(added, 1)


def parts(world: World, simulator: Simulator, gauge: Gauge) -> dict[str, float]:
    """Bytes of what can be weighed one by one."""
    model: LLMUsers = world.user_model  # type: ignore[assignment]
    visible = sum(array.nbytes for array in vars(simulator.visible).values() if isinstance(array, np.ndarray))
    ratings = (r for data in (world.dataset, world.split.train) for r in vars_of(data.ratings))
    return {
        "memory: vectors (float16)": model.memory.vector.nbytes,
        "memory: other arrays": sum(getattr(model.memory, name).nbytes for name in Memory.ARRAYS if name != "vector"),
        "memory: texts": text_bytes(model.memory.text.ravel()),
        "personas: texts": text_bytes(model.personas.text) + text_bytes(model.personas.name),
        "what recommenders see of users": visible + sum(a.nbytes for a in vars_of(simulator.users.history)),
        "ratings of the data": sum(array.nbytes for array in ratings),
        f"prompts in flight ({gauge.requests:,} requests of one phase)": gauge.bytes,
    }


def vars_of(record: Any) -> list[Any]:
    """Arrays of a record with slots."""
    values = [getattr(record, name) for name in record.__slots__]
    return [value for value in values if isinstance(value, np.ndarray)]


def text_bytes(texts: Any) -> int:
    """Bytes of texts, each once."""
    return sum({id(text): sys.getsizeof(text) for text in texts if text is not None}.values())


def measure(users: int, events: int) -> dict[str, Any]:
    """Runs in a process of its own."""
    before, peak_before = resident(), peak()
    world = World(load_scenario("llm_quickstart", [f"users.count={users}", "engine.model=none"]))
    with tempfile.TemporaryDirectory() as place, RunFolder(Path(place) / "run") as folder:
        folder.write_json("progress.json", {})
        store = ReplyStore(Path(place) / "replies.sqlite")
        gauge = world.__dict__["engine"] = Gauge(RecordingEngine(NoModel(), store))
        simulator = world.simulator(0)
        recommender = world.recommender(world.scenario.recommenders[0])
        memory: Memory = world.user_model.memory  # type: ignore[attr-defined]
        made = peak()
        size = world.scenario.batch_size
        event_s = fill(memory, world.dataset.catalog.title, events, size)
        filled, places = peak(), (memory.strength > 0).sum(axis=1)
        writer, sessions, rows = CellWriter(folder, "uniform", 0), runner._Sessions(users), np.arange(users)
        simulator.open(rows, 3, 0)
        begun = time.perf_counter()
        for start in range(0, users, size):
            _one_batch(simulator, recommender, rows[start : start + size], sessions, writer)
        page_s = time.perf_counter() - begun
        writer.commit(4, done=True)
        after = peak()
        found = {
            "before": before, "peak_before": peak_before, "made": made, "filled": filled, "peak": after,
            "left": resident(), "parts": parts(world, simulator, gauge), "event_s": event_s, "page_s": page_s,
            "events": [int(places.min()), float(places.mean()), int(places.max())],
            "places": [memory.config.short, memory.config.long], "width": memory.vector.shape[2], "batch": size,
        }  # fmt: skip
        store.close()
    return found


def report(found: dict[str, Any], users: int, folder: Path) -> None:
    """Writes the table."""
    used = found["peak"] - found["before"]
    low, mean, high = found["events"]
    verdict = "met" if used <= GOAL_GIB * 2**30 else "missed"
    lines = [
        f"{users:,} users of `llm_quickstart` with {low} to {high} events in memory ({mean:.1f} on average; places: "
        f"{found['places'][0]} short-term, {found['places'][1]} long-term), vectors of {found['width']} dimensions; "
        f"then one page of 5 titles for everybody in batches of {found['batch']:,}, replies stored, rows written. No "
        "model.\n",
        "| what | figure |\n|---|---:|",
        f"| **peak of the process, less what it had before data and users** | **{used / 2**30:.2f} GiB** |",
        f"| *goal for 10,000 users* | *{GOAL_GIB:g} GiB: {verdict}* |",
        f"| before (Python and all imports) | {found['before'] / 2**30:.2f} GiB |",
        f"| peak once data, users and personas are made | {(found['made'] - found['before']) / 2**30:.2f} GiB |",
        f"| peak once memories are full | {(found['filled'] - found['before']) / 2**30:.2f} GiB |",
        f"| left after the page | {(found['left'] - found['before']) / 2**30:.2f} GiB |",
        *(f"| {name} | {size / MIB:,.0f} MiB |" for name, size in found["parts"].items()),
        f"| taking in an event, embedding included | {1e6 * found['event_s']:.0f} us |",
        f"| a user's page without a model, replies stored | {1e3 * found['page_s'] / users:.1f} ms |",
    ]
    _report.write("llm_memory", "Memory of language-model users", "\n".join(lines), folder)


def main() -> None:
    """Measures in a fresh process and writes ``results/llm_memory.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="hardly any users: for tests")
    parser.add_argument("--results", type=Path, default=_report.RESULTS, help="folder of the result")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    users = 40 if args.quick else args.users
    if args.measure:
        print(json.dumps(measure(users, args.events)))
        return
    command = [sys.executable, __file__, "--measure", "--users", str(users), "--events", str(args.events)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report(json.loads(done.stdout.splitlines()[-1]), users, args.results)


if __name__ == "__main__":
    main()
