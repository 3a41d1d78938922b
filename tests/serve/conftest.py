"""A run and its page in this process, on a free port of loopback."""

import contextlib
import http.client
import threading
import time
from urllib.parse import urlencode

import pytest

from recsim_env.errors import RecsimError
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario
from recsim_env.serve.app import make_app
from recsim_env.serve.server import listen, serving
from recsim_env.serve.stage import Stage


class Browser:
    """Asks like a browser, without being one."""

    def __init__(self, port):
        self.port, self.host = port, f"127.0.0.1:{port}"

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Host": self.host, "Accept": "text/html", **{k.replace("_", "-"): v for k, v in headers.items()}}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text, answer

    def get(self, path, **headers):
        return self.ask("GET", path, **headers)

    def post(self, path, **fields):
        return self.ask("POST", path, urlencode(fields), Origin=f"http://{self.host}")

    def until(self, path, words, longest_s=60):
        """Looks at a page until it holds some words."""
        end = time.monotonic() + longest_s
        while words not in (text := self.get(path)[1]):
            assert time.monotonic() < end, f"{words!r} is not in {path}:\n{text}"
            time.sleep(0.05)
        return text


@pytest.fixture(scope="session")
def serve_run():
    """Serves a run folder and, where a scenario is given, simulates it there; a context."""

    @contextlib.contextmanager
    def serve(folder, scenario=None):
        stage, thread = None, None
        if scenario is not None:
            stage = Stage(scenario.cells, scenario.users.count)

            def simulate():
                with contextlib.suppress(RecsimError):
                    run_scenario(scenario, folder, on_progress=stage.on_progress, person=stage)
                stage.end()

            thread = threading.Thread(target=simulate, daemon=True)
        with listen(0) as bound, serving(make_app(folder, bound.getsockname()[1], stage), bound):
            if thread is not None:
                thread.start()
            yield Browser(bound.getsockname()[1])
            if thread is not None:
                stage.leave()
                stage.go("on")
                thread.join(60)

    return serve


@pytest.fixture(scope="session")
def social():
    """A small scenario with friends."""
    return load_scenario(
        {
            "name": "small", "days": 4, "slate_size": 4, "history_length": 20, "recommenders": ["popularity", "ease"],
            "users": {"count": 20, "appeal": -1.5},
            "population": {"graph": "watts-strogatz", "degree": 4, "chat": 0.4, "post": 0.3, "sway": 1.0,
                           "trends": 6},
        }
    )  # fmt: skip
