"""Memory of 10,000 language-model users with 50 events each: size and speed, without a model.

Usage: python benchmarks/llm_memory.py [--users 10000] [--events 50]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
from _report import write

from recsim_env.agents.memory import Memory, MemoryConfig
from recsim_env.data.movietweetings import load_movietweetings
from recsim_env.registry import embedders


def texts_of(n: int, day: int) -> list[str]:
    """Events as prompts tell them, over the built-in titles."""
    titles = load_movietweetings().catalog.title
    rng = np.random.default_rng(day)
    items, stars = rng.integers(0, len(titles), n), rng.integers(0, 11, n)
    return [f"You watched <data>{titles[i]}</data>, mark {s} of 10" for i, s in zip(items, stars, strict=True)]


def held(memory: Memory) -> tuple[int, int]:
    """Bytes of the arrays, and of the texts that they point to (each once)."""
    arrays = sum(getattr(memory, name).nbytes for name in Memory.ARRAYS)
    words = {id(text): sys.getsizeof(text) for text in memory.text.ravel() if text is not None}
    return arrays, sum(words.values())


def main() -> None:
    """Fills memories event by event, as pages do, and recalls once for everybody."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=50)
    arguments = parser.parse_args()
    n, rows = arguments.users, np.arange(arguments.users)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    memory = Memory(n, MemoryConfig(), embedders.get("hashed-ngrams")())
    load_movietweetings()
    begun = time.perf_counter()
    for event in range(arguments.events):
        for start in range(0, n, 4096):  # the runner's batch size
            some = rows[start : start + 4096]
            texts = texts_of(len(some), event * n + start)
            memory.add(some, texts, np.full(len(some), 0.5, np.float32), np.full(len(some), event // 5))
    adding = time.perf_counter() - begun
    query = memory.embed(["a comedy"] * 4096)
    begun = time.perf_counter()
    for start in range(0, n, 4096):
        some = rows[start : start + 4096]
        memory.recall(some, query[: len(some)], arguments.events // 5)
    recalling = time.perf_counter() - begun
    arrays, words = held(memory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    filled = float((memory.strength > 0).sum(axis=1).mean())
    write(
        "llm_memory",
        "Memory of language-model users",
        f"{n:,} users, {arguments.events} events each, {memory.text.shape[1]} places a user "
        f"({memory.config.short} short-term, {memory.config.long} long-term), embeddings of {memory.vector.shape[2]} "
        f"dimensions in float16; {filled:.1f} places filled on average.\n\n"
        "| what | figure |\n|---|---|\n"
        f"| arrays | {arrays / 2**20:,.0f} MiB |\n"
        f"| texts | {words / 2**20:,.0f} MiB |\n"
        f"| most memory of the process | {peak:.2f} GiB, of which {before:.2f} GiB before |\n"
        f"| taking in an event, embedding included | {1e6 * adding / n / arguments.events:.0f} us |\n"
        f"| recalling, per user | {1e6 * recalling / n:.0f} us |\n",
    )


if __name__ == "__main__":
    main()
