"""The page in headless Chromium: a curve that grows, a user, a seat, an answer; and a process that ends well."""

import re
import select
import signal
import subprocess
import sys
import time

import pytest

from recsim_env.rundir import load_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SCENARIO = """
name: live
days: 4
slate_size: 4
history_length: 20
recommenders: [popularity]
users: {count: 20, appeal: -1.5}
population: {graph: watts-strogatz, degree: 4}
"""


OPEN_A_USER = """
const rows = [...document.querySelectorAll("#people tbody tr")];
const row = rows.find((row) => !row.innerText.includes("stopped"));
row.querySelector("a").click();
return row.cells[0].innerText;
"""


class Served:
    """``recsim-env serve`` as a process of its own."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "recsim_env.cli", "serve", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert select.select([self.process.stdout], [], [], 120)[0], "no address was printed"
        line = self.process.stdout.readline()
        self.address = re.search(r"http://127\.0\.0\.1:\d+", line).group()

    def stop(self):
        """Ctrl-C; gives the exit status and what was printed."""
        self.process.send_signal(signal.SIGINT)
        out, error = self.process.communicate(timeout=60)
        return self.process.returncode, out, error


@pytest.fixture
def served():
    started = []

    def serve(*arguments):
        started.append(Served(*arguments))
        return started[-1]

    yield serve
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


@pytest.fixture
def look(browser):
    """Waits until an element is there, or holds some words, and gives it."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    def look(selector, words="", longest_s=90):
        end = time.monotonic() + longest_s
        while time.monotonic() < end:
            try:
                found = browser.find_element("css selector", selector)
                if words in found.text:
                    return found
            except (NoSuchElementException, StaleElementReferenceException):
                pass
            time.sleep(0.1)
        raise AssertionError(f"{selector} never held {words!r}:\n{browser.page_source[-3000:]}")

    return look


def test_a_person_watches_sits_down_and_is_answered(browser, served, look, tmp_path):
    (tmp_path / "live.yaml").write_text(SCENARIO)
    page = served(tmp_path / "live.yaml", "--out", tmp_path / "run", "--pace", "0.1")
    browser.get(page.address)
    look("#status", "paused")
    look("#go-step").click()
    look("#day", "1")
    look("#curves svg")
    assert days_drawn(browser) == 1
    look("#go-step").click()
    look("#day", "2")
    end = time.monotonic() + 60
    while days_drawn(browser) != 2:
        assert time.monotonic() < end
        time.sleep(0.2)

    look("#people tbody tr")
    user = browser.execute_script(OPEN_A_USER)
    look("h1", f"User {user}")
    assert len(browser.find_elements("css selector", "svg.friends circle")) > 1
    look("article.page")
    look("#take").click()

    look("#waiting", "paused")
    look("#go-start").click()
    look("#answer-form")
    choose(browser, "watched-1", "1")
    choose(browser, "rating-1", "8")
    look("[name=comment-1]").send_keys("<b>quite</b> good")
    look("#words").send_keys("More Horror, please")
    look("#next-page").click()
    look("#told", "You wrote words")  # refused, and nothing of the form is lost
    assert look("[name=comment-1]").get_attribute("value") == "<b>quite</b> good"
    look("#instruct").click()
    look("#answer", "More Horror.")
    genres = [one.text for one in browser.find_elements("css selector", "legend .soft")]
    assert all("Horror" in text for text in genres)
    assert len(genres) == 4
    look("#leave-seat").click()
    look("#seat", "Nobody sits")
    look("#status", "complete")

    browser.get(f"{page.address}/users/{user}")
    look("main", "a person sat in this seat")
    errors = [
        line for line in browser.get_log("browser") if line["level"] == "SEVERE" and " 400 " not in line["message"]
    ]
    assert not errors
    status, out, error = page.stop()
    assert (status, error) == (0, "")
    assert "The run is complete" in out
    run = load_run(tmp_path / "run")
    assert run.manifest["people"] == [{"recommender": "popularity", "seed": 0, "user": int(user), "pages": 2}]
    rated = run.impressions.query("user == @user and comment.notna()", local_dict={"user": int(user)})
    assert rated[["rating", "comment"]].to_numpy().tolist() == [[8.0, "<b>quite</b> good"]]


def days_drawn(browser):
    """Points of the first curve."""
    return browser.execute_script(
        """const line = document.querySelector('#curves svg path[clip-path][style*="#0072b2"]');
        return line ? line.getAttribute("d").match(/[ML]/g).length : 0;"""
    )


def choose(browser, name, value):
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("name", name)).select_by_value(value)


def test_an_engine_that_fails_is_told_without_a_traceback(browser, served, look, tmp_path):
    (tmp_path / "live.yaml").write_text(SCENARIO.replace("{count: 20, appeal: -1.5}", "{model: llm, count: 6}"))
    page = served(
        tmp_path / "live.yaml", "--out", tmp_path / "run", "--start", "--engine", "openai", "--model", "nobody",
        "--url", "http://127.0.0.1:9/v1", "--set", "engine.deadline_s=1",
    )  # fmt: skip
    browser.get(page.address)
    text = look("#status", "The run failed").text
    assert "127.0.0.1:9" in text
    assert "--resume" in text
    status, _, error = page.stop()
    assert status == 2
    assert "Traceback" not in error
    assert "127.0.0.1:9" in error


def test_a_process_that_is_stopped_is_told(browser, served, look, tmp_path):
    (tmp_path / "live.yaml").write_text(SCENARIO)
    page = served(tmp_path / "live.yaml", "--out", tmp_path / "run")
    browser.get(page.address)
    look("#status", "paused")
    status, _, error = page.stop()
    assert status == 130
    assert f"--resume and --out {tmp_path / 'run'}" in error
    assert "Traceback" not in error
    look("#told", "does not answer")
    assert load_run(tmp_path / "run").manifest["status"] == "interrupted"
