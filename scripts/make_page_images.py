"""Makes docs/images/page.png and docs/images/seat.png: a run is served, looked at and sat in, in headless Chromium.

python scripts/make_page_images.py [FOLDER]    needs the extra dev, chromium and chromedriver; takes a minute
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import Select

SETS = ("users.count=200", "days=20", "slate_size=4", "replications=1", "population.graph=homophilous",
        "recommenders=uniform,popularity,ease")  # fmt: skip
SIZE = (1180, 860)


def chromium() -> webdriver.Chrome:
    """A headless browser with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for name in ("headless", "no-sandbox", "disable-gpu", "no-first-run", f"user-data-dir={tempfile.mkdtemp()}"):
        options.add_argument(f"--{name}")
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    browser.set_window_size(*SIZE)
    return browser


def wait(browser: webdriver.Chrome, selector: str, words: str) -> None:
    """Until an element holds some words, given as a regular expression."""
    script = "return RegExp(arguments[1]).test(document.querySelector(arguments[0])?.textContent ?? '')"
    end = time.monotonic() + 120
    while not browser.execute_script(script, selector, words):
        assert time.monotonic() < end, f"{selector} never held {words!r}"
        time.sleep(0.1)


def press(browser: webdriver.Chrome, selector: str) -> None:
    """Clicks."""
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def main(folder: Path) -> None:
    """Serves, looks, sits, takes both pictures."""
    command = [sys.executable, "-m", "recsim_env.cli", "serve", "quickstart", "--port", "0", "--pace", "0.2"]
    command += [f"--set={change}" for change in SETS] + ["--out", str(Path(tempfile.mkdtemp()) / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        browser = chromium()
        try:
            address = re.search(r"http://\S+:\d+", process.stdout.readline()).group()
            browser.get(address)
            wait(browser, "#status", "paused")
            press(browser, "#go-start")
            wait(browser, "#status", "ease, seed 0")
            wait(browser, "#day", "^1[0-9]$")
            press(browser, "#go-pause")
            wait(browser, "#curves", "ease")
            time.sleep(8)  # the curves take their time
            browser.save_screenshot(str(folder / "page.png"))
            browser.get(f"{address}/users/6")
            press(browser, "#take")
            wait(browser, "#waiting", "paused")
            press(browser, "#go-start")
            wait(browser, "#answer-form", "Next page")
            Select(browser.find_element("name", "watched-1")).select_by_value("1")
            Select(browser.find_element("name", "rating-1")).select_by_value("8")
            browser.find_element("id", "words").send_keys("Enough of that, more Comedy please, no Horror")
            press(browser, "#instruct")
            wait(browser, "#answer", "More Comedy")
            browser.execute_script("window.scrollTo(0, 0)")
            time.sleep(1)
            browser.save_screenshot(str(folder / "seat.png"))
        finally:
            browser.quit()
            process.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
