"""Language-model users over HTTP, killed with SIGKILL: nothing lost, nothing doubled, at most one batch paid twice.

Several servers, and one that dies: the same rows.
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
import zlib

import pandas as pd
import pytest
import yaml

from recsim_env.engine.replies import ReplyStore
from recsim_env.errors import EngineError
from recsim_env.rundir import load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario

SCENARIO = {
    "name": "killed",
    "days": 2,
    "slate_size": 3,
    "history_length": 10,
    "max_turns": 3,
    "users": {"model": "llm", "count": 5},
    "recommenders": ["popularity"],
    "engine": {"name": "openai", "model": "canned", "backoff_s": 0.01},
}
LARGEST_BATCH = 5 * 3 * 5
"""Five users watch three items each, with five questions about each: no phase of this scenario asks more at once."""
TABLES = ("impressions", "turns", "sessions")


class Canned:
    """Replies that depend on the request alone; kills a process when its number of the day has come."""

    def __init__(self, world, faults):
        self.texts, self.faults, self.served, self.kill_at, self.victim = world.TEXTS, faults, 0, None, None

    def __call__(self, body):
        self.served += 1
        if self.served == self.kill_at:
            os.kill(self.victim.pid, signal.SIGKILL)
        told = body["messages"][-1]["content"]
        if "structured_outputs" in body:
            weights = [1 + zlib.crc32(f"{told}{o}".encode()) % 97 for o in body["structured_outputs"]["choice"]]
            options = zip(body["structured_outputs"]["choice"], weights, strict=True)
            return self.faults.completion(body, logprobs={o: math.log(w / sum(weights)) for o, w in options})
        title = body["response_format"]["json_schema"]["schema"]["title"]
        return self.faults.completion(body, content=json.dumps(self.texts[title]))


def command(folder, *words):
    return [
        sys.executable, "-m", "recsim_env.cli", "run", "killed.yaml", "-q", "--no-report", "--out", str(folder), *words
    ]  # fmt: skip


def tables(path):
    run = load_run(path)
    found = {name: run.table(name) for name in TABLES}
    return {**found, "messages": pd.DataFrame(run.messages)}


def assert_same(one, other):
    for name in one:
        pd.testing.assert_frame_equal(one[name], other[name], check_categorical=False)


def kill_and_resume(world, faults, server, tmp_path, kills, seed):
    """Kills a run ``kills`` times, each time after a random number of served requests, then lets it end.

    Gives the number of requests of an unbroken run, and of the killed one in all its processes.
    """
    scenario = {**SCENARIO, "engine": {**SCENARIO["engine"], "base_urls": [server.url]}}
    (tmp_path / "killed.yaml").write_text(yaml.safe_dump(scenario))
    canned = server.always = Canned(world, faults)
    subprocess.run(command("whole"), cwd=tmp_path, check=True)
    total, luck = canned.served, random.Random(seed)
    canned.served = 0
    for number in range(kills):
        resume = ["--resume"] if (tmp_path / "run" / "manifest.json").exists() else []
        canned.kill_at = canned.served + luck.randint(1, max(1, total // kills - 1))
        canned.victim = subprocess.Popen(command("run", *resume), cwd=tmp_path)
        assert canned.victim.wait() == -signal.SIGKILL, number
        assert load_run(tmp_path / "run").manifest["status"] == "running"
    canned.kill_at = None
    subprocess.run(command("run", "--resume"), cwd=tmp_path, check=True)
    return total, canned.served


def check(world, faults, server, tmp_path, kills, seed):
    total, served = kill_and_resume(world, faults, server, tmp_path, kills, seed)
    assert total <= served <= total + kills * LARGEST_BATCH, "a kill costs one batch of calls at most"
    run = load_run(tmp_path / "run")
    assert run.manifest["status"] == "complete"
    assert run.manifest["resumed"] == kills
    before = server.always.served
    subprocess.run(command("replay", "--replies", "run"), cwd=tmp_path, check=True)
    assert server.always.served == before, "a replay asks nobody"
    assert_same(tables(tmp_path / "run"), tables(tmp_path / "replay"))
    assert_same(tables(tmp_path / "run"), tables(tmp_path / "whole"))
    # The account: what is stored was paid and counted once, in whatever process; each count stands in the manifest.
    store = ReplyStore(tmp_path / "run" / "replies.sqlite")
    engine, unbroken = run.manifest["engine"], load_run(tmp_path / "whole").manifest["engine"]
    assert engine["calls"] == len(store) == total
    for name in ("calls", "tokens", "failures", "users"):
        assert engine[name] == unbroken[name], name
    for name in ("requests", "prompt_tokens", "cached_tokens", "generated_tokens"):
        assert engine["usage"][name] == unbroken["usage"][name], name
    store.close()


def test_five_kills(world, faults, server, tmp_path):
    check(world, faults, server, tmp_path, 5, seed=1)


@pytest.mark.slow
def test_twenty_kills(world, faults, server, tmp_path):
    check(world, faults, server, tmp_path, 20, seed=2)


class Mortal(Canned):
    """Breaks every connection after so many replies."""

    def __init__(self, world, faults, life):
        super().__init__(world, faults)
        self.life = life

    async def __call__(self, request, body):
        if self.served == self.life:
            return await self.faults.slam(request, body)
        return self.faults.web.json_response(super().__call__(body))


def test_several_servers_and_one_that_dies(world, faults, server, tmp_path):
    def run(name, *urls, resume=False):
        scenario = {**SCENARIO, "engine": {**SCENARIO["engine"], "base_urls": list(urls)}}
        return run_scenario(load_scenario(scenario), tmp_path / name, (), resume)

    second = faults.FaultServer()
    try:
        server.always, second.always = Canned(world, faults), Canned(world, faults)
        run("one", server.url)
        total, server.always.served = server.always.served, 0
        run("two", server.url, second.url)
        assert server.always.served + second.always.served == total
        assert min(server.always.served, second.always.served) > total / 10
        assert_same(tables(tmp_path / "one"), tables(tmp_path / "two"))

        second.always = Mortal(world, faults, life=second.always.served // 2).__call__
        with pytest.raises(EngineError, match=rf"{second.url} did not answer.*--resume.*--url"):
            run("lost", server.url, second.url)
        manifest = load_run(tmp_path / "lost").manifest
        assert manifest["status"] == "failed"
        assert set(manifest["engine"]["usage"]["failures"]) == {"connection"}
        run("lost", server.url, resume=True)
        assert load_run(tmp_path / "lost").manifest["resumed"] == 1
        assert_same(tables(tmp_path / "one"), tables(tmp_path / "lost"))
    finally:
        second.close()
