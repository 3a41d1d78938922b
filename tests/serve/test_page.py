"""The page over HTTP: what it shows while a run grows, the seat, hostile texts, requests from elsewhere."""

import html
import json
import re
import shutil
import socket
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recsim_env.cli import app
from recsim_env.errors import MissingDependencyError, RecsimError, RunFolderError
from recsim_env.rundir import Run, RunFolder, load_run
from recsim_env.runner import run_scenario
from recsim_env.serve import server
from recsim_env.serve.figures import Figures

SEATED = {"recommender": "popularity", "seed": 0, "user": 3}


@pytest.fixture(scope="module")
def finished(social, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsim_env.runner.COMMIT_SECONDS", 0.0)  # a part for every day
        return run_scenario(social, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="module")
def page(serve_run, finished):
    with serve_run(finished) as browser:
        yield browser


def test_a_run_grows_under_the_eyes_of_who_looks_on(serve_run, social, tmp_path):
    with serve_run(tmp_path / "run", social) as browser:
        browser.until("/status", "paused")
        assert "No day is committed yet" in browser.get("/curves")[1]
        assert browser.post("/go", go="step")[0] == 303
        browser.until("/status", '<b id="day">1</b> of 4')
        first = browser.until("/curves", "<svg")
        status, _, answer = browser.get("/curves", If_None_Match=browser.get("/curves")[2].headers["ETag"])
        assert (status, answer.headers["Cache-Control"]) == (304, "no-store")
        browser.post("/go", go="step")
        browser.until("/status", '<b id="day">2</b> of 4')
        assert browser.get("/curves")[1] != first
        browser.post("/go", go="start")
        text = browser.until("/status", "complete")
        assert "2 of 2 recommenders" in text
        assert browser.post("/seat/take", **SEATED)[0] == 400


def test_a_person_takes_a_seat_rates_instructs_and_is_answered(serve_run, social, tmp_path):
    with serve_run(tmp_path / "run", social) as browser:
        browser.until("/status", "paused")
        assert browser.post("/seat/take", **SEATED)[0] == 303
        assert "The simulation is paused" in browser.get("/seat/now")[1]
        browser.post("/go", go="start")
        text = browser.until("/seat/now", "answer-form")
        assert "page 1" in text
        assert "understands names of genres" in text
        when = {**SEATED, "day": 0, "session": 0, "turn": 0}
        status, text, _ = browser.post("/seat/answer", **when, **{"rating-1": "8", "next": "next"})
        assert status == 400
        assert "Item 2: say how much of it you watched" in text
        status, text, _ = browser.post("/seat/answer", **when, **{"message": "hm", "next": "next"})
        assert status == 400
        assert "You wrote words" in text
        reacted = {"watched-1": "0.5", "rating-1": "8", "comment-1": "<script>alert(1)</script>", "mood": "0.5"}
        asked = {"next": "instruct", "message": "More Horror <b>please</b>"}
        assert browser.post("/seat/answer", **when, **reacted, **asked)[0] == 303
        text = browser.until("/seat/now", 'id="answer"')
        assert "More Horror." in text
        assert "More Horror &lt;b&gt;please&lt;/b&gt;" in text
        assert browser.post("/seat/answer", **when, **reacted, **asked)[0] == 400  # another tab, a second time
        assert browser.post("/seat/leave")[0] == 303
        browser.until("/status", "complete")
        told = browser.get("/users/3?cell=0&day=0")[1]
        assert "a person sat in this seat" in told
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in told
        assert "<script>alert" not in told
    run = load_run(tmp_path / "run")
    assert run.manifest["people"] == [{**SEATED, "pages": 2}]
    assert run.turns.query("user == 3 and recommender == 'popularity'")["message"].iloc[1] == asked["message"]


def test_a_finished_run_has_no_controls(page, finished):
    text = page.get("/")[1]
    assert 'action="/go"' not in text
    assert page.get("/seat")[0] == 404
    assert page.post("/go", go="start")[0] in (404, 405)
    assert "<svg" in page.until("/curves", "ease")
    user = page.get("/users/3")[1]
    assert "not kept in a run folder" in user
    n = len(load_run(finished).friends.query("user == 3 and recommender == 'ease'"))
    assert f"{n} friends" in user
    assert user.count("<circle") == n + 1


def test_every_day_of_a_user_can_be_looked_at(page, finished):
    run = load_run(finished)
    for number, (name, _) in enumerate(run.cells):
        mine = run.sessions[(run.sessions["user"] == 3) & (run.sessions["recommender"] == name)]
        for day in range(4):
            status, text, _ = page.get(f"/users/3?cell={number}&day={day}")
            assert status == 200
            assert text.count('<article class="page">') == mine.loc[mine["day"] == day, "n_turns"].sum()
    assert page.get("/find?user=7")[2].headers["Location"] == "/users/7?cell=1"


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/users/20", 404, "numbered from 0 to 19"),
        ("/users/x", 404, "no such page"),
        ("/users/3?cell=9", 400, "no combination"),
        ("/users/3?day=x", 404, "whole number"),
        ("/find?user=nobody", 400, "Unknown user"),
        ("/nothing", 404, "no such page"),
        ("/static/../app.py", 404, "no such page"),
    ],
)
def test_what_is_not_there(page, path, status, words):
    found, text, _ = page.get(path)
    assert found == status
    assert words in text


def test_the_curves_are_the_figures_of_the_run(finished):
    run = load_run(finished)
    figures = Figures(run)
    found = figures.by_day(0).set_index(["recommender", "day"]).sort_index()
    sessions = run.sessions.assign(recommender=run.sessions["recommender"].astype(str))
    by_day = sessions.groupby(["recommender", "day"])
    np.testing.assert_allclose(found["clicks_per_visit"], by_day["n_clicks"].mean())
    np.testing.assert_allclose(found["came"], by_day["user"].nunique())
    np.testing.assert_allclose(found["satisfaction"], by_day["satisfaction"].mean(), rtol=1e-5)
    ends = sessions.groupby("recommender")["churned"].sum()
    assert found["stopped"].groupby("recommender").max().to_dict() == ends.to_dict()
    assert found.loc[("ease", 3), "active"] == sessions.query("recommender == 'ease'")["user"].nunique() / 20
    heard = run.population.assign(recommender=run.population["recommender"].astype(str))
    assert found["heard"].tolist() == heard.sort_values(["recommender", "day"])["heard"].tolist()


def test_what_is_watched_most_of_late_is_the_chosen_cells(page, finished):
    run = load_run(finished)
    titles = run.items["title"].to_numpy()
    for number, (name, _) in enumerate(run.cells):
        rows = run.trends.query("recommender == @name and day == 3").sort_values("rank")
        text = html.unescape(page.get(f"/curves?cell={number}")[1])
        text = text[text.index("<h2>Watched most of late") :]
        assert f"Under {name}, seed 0, on the evening of day 3: what was watched most in the last 3 days" in text
        told = re.findall(r"<li>(.*) \(\d{4}\) <span.*>watched (\d+) ×", text)
        assert told == [(titles[item], str(n)) for item, n in zip(rows["item"], rows["watched"], strict=True)]
        assert len(told) == 6


def test_no_list_is_shown_where_the_last_evening_has_none(finished, serve_run, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "trends.parquet" / "popularity-seed0-00003.parquet").unlink()
    with serve_run(tmp_path / "run") as browser:
        assert "Watched most" not in browser.get("/curves?cell=0")[1]
        assert "Watched most" in browser.get("/curves?cell=1")[1]


def test_days_that_come_later_count_once(finished, monkeypatch):
    cell, run = ("popularity", 0), load_run(finished)
    whole, wanted = run.progress(), Figures(run).sums(cell)
    half = {"popularity-seed0": {**whole["popularity-seed0"], "days": 2, "parts": 2, "done": False}}
    looks = [half]  # more is committed as soon as somebody has looked
    monkeypatch.setattr(Run, "progress", lambda self: looks.pop() if looks else whole)
    figures = Figures(run)
    first = figures.sums(cell)
    assert first.days == 2
    first_list = first.trending.tolist()
    assert not first.visits[:, 2:].any()
    later = figures.sums(cell)
    assert later.trending.tolist() != first_list
    for field in fields(wanted):
        np.testing.assert_array_equal(getattr(later, field.name), getattr(wanted, field.name), field.name)


def test_hostile_titles_names_and_labels_stay_texts(finished, serve_run, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    evil = "<img src=x onerror=alert(1)>\x1b[2J\u202e"
    items = pd.read_parquet(tmp_path / "run" / "items.parquet")
    pd.DataFrame(items.assign(title=evil)).to_parquet(tmp_path / "run" / "items.parquet")
    users = pd.read_parquet(tmp_path / "run" / "users.parquet")
    users.assign(name=evil, user_id=evil).to_parquet(tmp_path / "run" / "users.parquet")
    manifest = json.loads((finished / "manifest.json").read_text())
    manifest["scenario"]["name"] = manifest["scenario"]["description"] = evil
    manifest |= {"status": "failed", "error": evil}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with serve_run(tmp_path / "run") as browser:
        for path in ("/", "/status", "/curves", "/people", "/users/3", "/users/3?day=0", f"/find?user={'%3Cimg'}"):
            text = browser.get(path)[1]
            assert "<img" not in text
            assert not re.search("[\x1b\u202e]", text)
        assert "&lt;img src=x" in browser.get("/users/3")[1]
        assert browser.get("/curves?cell=0")[1].count("<li>&lt;img src=x") == 6


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "", "127.0.0.1.evil:PORT"]
)
def test_a_rebound_name_is_refused(page, host):
    assert page.get("/", Host=host.replace("PORT", str(page.port)))[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_this_machine_is_answered(page, host):
    status, _, answer = page.get("/", Host=f"{host}:{page.port}")
    assert status == 200
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://127.0.0.1", "https://127.0.0.1:PORT"])
def test_forms_of_other_sites_are_refused(page, origin):
    headers = {"Origin": origin.replace("PORT", str(page.port))} if origin else {}
    assert page.ask("POST", "/go", "go=start", **headers)[0] == 403


def test_nothing_comes_from_elsewhere():
    here = server.__file__.removesuffix("server.py")
    files = [file for folder in ("templates", "static") for file in (Path(here) / folder).iterdir()]
    assert len(files) > 10
    for file in files:
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", file.read_text()), file


def test_a_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(RecsimError, match=r"Port \d+ is taken. Choose another with --port"):
            server.listen(other.getsockname()[1])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(MissingDependencyError, match=r"needs the package uvicorn.*recsim-env\[serve\]"):
        server.need_packages()


def test_a_folder_that_another_process_prepares(serve_run, tmp_path):
    with RunFolder(tmp_path / "run"), serve_run(tmp_path / "run") as browser:
        assert "preparing" in browser.get("/")[1]
        assert "No day is committed yet" in browser.get("/curves")[1]
        assert "Users are being prepared" in browser.get("/people")[1]
        assert browser.get("/users/0")[0] == 400


def test_a_run_that_another_process_writes_is_followed(serve_run, social, tmp_path, monkeypatch):
    monkeypatch.setattr("recsim_env.runner.COMMIT_SECONDS", 0.0)
    go_on = threading.Event()

    def on_progress(at):
        if (at.cell, at.day) == (0, 2):
            assert go_on.wait(120)

    writer = threading.Thread(target=run_scenario, args=(social, tmp_path / "run", (), False, on_progress), daemon=True)
    (tmp_path / "run").mkdir()
    with serve_run(tmp_path / "run") as browser:
        writer.start()
        text = browser.until("/status", '<b id="day">2</b> of 4')
        assert "running" in text
        assert 'action="/go"' not in browser.get("/")[1]
        assert browser.get("/users/3?day=1")[0] == 200
        go_on.set()
        browser.until("/status", "complete")
        writer.join(30)


def test_what_is_no_run_folder(tmp_path):
    told = CliRunner().invoke(app, ["serve", str(tmp_path), "--port", "0"]).exception
    assert isinstance(told, RunFolderError)  # which the command line prints without a traceback
    assert "is no run folder" in str(told)
