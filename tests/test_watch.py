"""Watching users: stories out of real runs, runs that are being written, killed runs, hostile texts."""

import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from recsim_env import runner
from recsim_env.errors import RunFolderError, UnknownNameError
from recsim_env.evaluation.story import Day, Page, Person, Shown, Talk, Visit
from recsim_env.interfaces import Config
from recsim_env.records import MessageKind, NextAction
from recsim_env.registry import embedders, engines
from recsim_env.rundir import Run, RunFolder, is_written, load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario
from recsim_env.watch import Note, Quiet, Wish, follow, tell
from recsim_env.watch_page import WIDTH, plain, render

SETS = ["users.count=12", "days=5", "slate_size=4", "recommenders=popularity,uniform", "replications=1"]
SOCIAL = {
    "name": "talk", "days": 3, "slate_size": 4, "history_length": 10, "max_turns": 4,
    "users": {"model": "llm", "count": 6}, "recommenders": ["popularity"],
    "engine": {"name": "scripted", "embedder": "letters"},
}  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A behavioural run that commits every day, and what ``progress.json`` held after each commit."""
    stages, write = [], RunFolder.write_json

    def noted(self, name, value):
        write(self, name, value)
        if name == "progress.json":
            stages.append(json.loads(json.dumps(value)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "COMMIT_SECONDS", 0.0)
        patch.setattr(RunFolder, "write_json", noted)
        path = run_scenario("quickstart", tmp_path_factory.mktemp("quick") / "run", SETS)
    assert len(stages) == 11
    return path, stages


@pytest.fixture(scope="module")
def social(tmp_path_factory):
    """A run of language-model users with friends, over a scripted engine."""
    file = Path(__file__).parent / "agents" / "conftest.py"
    spec = importlib.util.spec_from_file_location("scripted_users", file)
    helpers = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = helpers
    spec.loader.exec_module(helpers)

    class Named(helpers.ScriptedEngine):
        config_class = Config

        def __init__(self, config):
            super().__init__()

    folder = tmp_path_factory.mktemp("social")
    (folder / "graph.csv").write_text("user_1,user_2\n0,1\n0,2\n3,4\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engines._entries, "scripted", Named)
        patch.setitem(embedders._entries, "letters", helpers.LetterEmbedder)
        yield run_scenario(load_scenario(SOCIAL, [f"users.graph={folder / 'graph.csv'}"]), folder / "run")


class Stage:
    """A run that is being written: it holds the lock and shows one stage after the other."""

    def __init__(self, quick, path):
        self.source, self.stages = quick
        shutil.copytree(self.source, path)
        self.path, self.manifest, self.folder = path, load_run(path).manifest, RunFolder(path)
        self.show(0)
        self.status("running")

    def show(self, n):
        self.folder.write_json("progress.json", self.stages[n])

    def status(self, status, **more):
        self.folder.write_json("manifest.json", {**self.manifest, "status": status, **more})

    def close(self):
        self.folder.__exit__(None, None, None)


@pytest.fixture
def stage(quick, tmp_path):
    made = Stage(quick, tmp_path / "live")
    yield made
    made.close()


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def shown_by(event, width=WIDTH, **settings):
    screen = io.StringIO()
    Console(file=screen, width=width, **settings).print(render(event))
    return screen.getvalue()


# Stories


def test_a_story_is_what_the_tables_say(quick):
    path, _ = quick
    events, run = list(tell(path, Wish())), load_run(path)
    assert events == list(tell(path, Wish()))
    person = events[0]
    where = "recommender == @person.recommender and seed == @person.seed and user == @person.user"
    turns, shown = run.turns.query(where), run.impressions.query(where)
    days = of(events, Day)
    told = [(d.day, v.session, n) for d in days for v in d.visits for n in range(len(v.pages))]
    assert told == list(zip(turns["day"], turns["session"], turns["turn"], strict=True))
    pages = [page for day in days for visit in day.visits for page in visit.pages]
    words = [text if isinstance(text, str) else None for text in turns["next_message"]]
    assert [page.next_message for page in pages] == words
    items = [item for page in pages for item in page.items]
    assert [i.title for i in items] == run.items["title"].iloc[shown["item"]].tolist()
    assert [i.clicked for i in items] == shown["clicked"].tolist()
    assert [i.liked for i in items] == shown["liked"].tolist()
    assert person.user_id == run.users["user_id"].iloc[person.user]
    assert person.top_mark == 10
    quiet = {n for gap in of(events, Quiet) for n in range(gap.first, gap.last + 1)}
    gone = {n for day in days if day.churned for n in range(day.day + 1, 5)}
    assert {d.day for d in days} | quiet | gone == set(range(5))
    assert not quiet & {d.day for d in days}


def test_who_is_watched_can_be_chosen(quick):
    path, _ = quick
    ids = load_run(path).users["user_id"]
    for named in ("7", ids[7], f"id:{ids[7]}"):
        person, *events = tell(path, Wish(user=named, recommender="uniform", seed=0, day=0))
        assert (person.user, person.recommender) == (7, "uniform")
        assert [day.day for day in of(events, Day)] == [0]


@pytest.mark.parametrize(
    ("wish", "error", "message"),
    [
        (Wish(user="99999999"), UnknownNameError, "Row numbers from 0 to 11"),
        (Wish(user="id:7x"), UnknownNameError, "Unknown user 'id:7x'"),
        (Wish(recommender="popularty"), UnknownNameError, "Did you mean 'popularity'"),
        (Wish(seed=3), UnknownNameError, "Unknown seed '3'.*Allowed: 0"),
        (Wish(day=5), RunFolderError, "no day 5: its days are 0 to 4"),
        (Wish(day=-1), RunFolderError, "no day -1"),
    ],
)
def test_mistakes_say_what_is_allowed(quick, wish, error, message):
    path, _ = quick
    for start in (tell, follow):
        with pytest.raises(error, match=message):
            list(start(path, wish))


def test_a_misspelt_id_gets_its_neighbour(quick):
    path, _ = quick
    name = load_run(path).users["user_id"][3]
    with pytest.raises(UnknownNameError, match=f"Did you mean '{name}'"):
        list(tell(path, Wish(user=f"{name}x")))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for start in (tell, follow):
        with pytest.raises(RunFolderError, match="no run folder"):
            list(start(tmp_path / "nowhere", Wish()))


def test_language_model_users_think_comment_and_talk(social):
    run = load_run(social)
    found = {user: list(tell(social, Wish(user=str(user)))) for user in range(6)}
    turns, comments, talks = run.turns, 0, {"own": 0, "heard": 0}
    for user, events in found.items():
        pages = [page for day in of(events, Day) for visit in day.visits for page in visit.pages]
        thoughts = [t for t in turns[turns["user"] == user]["trace_thoughts"] if isinstance(t, str)]
        assert [page.thoughts for page in pages if page.thoughts] == thoughts
        comments += sum(item.comment is not None for page in pages for item in page.items)
        for day in of(events, Day):
            for talk in day.talks:
                talks["own" if talk.own else "heard"] += 1
                assert f"user {user}" == talk.speaker if talk.own else f"user {user}" in talk.to
                assert re.fullmatch(r"You must see this one\.( \(.+: \d+\))?", talk.text)
    said = [m for m in run.messages if m["kind"] in ("chat", "post")]
    assert said == run.talks()
    assert talks == {"own": len(said), "heard": sum(len(m["to"]) for m in said)}
    assert said
    assert comments == run.impressions["comment"].notna().sum() > 0
    text = "".join(shown_by(event) for events in found.values() for event in events)
    for words in ("thinks    “I want to laugh.”", "comments  on Title", "user 0 to user", "searches “Comedy”"):
        assert words in text or words.replace("Title", "") in text


def test_names_of_the_population_are_used(social, tmp_path):
    shutil.copytree(social, tmp_path / "run")
    users = load_run(social).users
    users.assign(name=["Ann", "Bo", "", "Cy", "Di", "Ed"]).to_parquet(tmp_path / "run" / "users.parquet")
    events = list(tell(tmp_path / "run", Wish(user="0")))
    assert events[0].title == f"User 0 (id {users['user_id'][0]}, Ann)"
    talks = [talk for day in of(events, Day) for talk in day.talks]
    assert {name for talk in talks for name in (talk.speaker, *talk.to)} <= {"Ann", "Bo", "user 2"}


def test_only_rows_of_the_cell_are_read(quick, monkeypatch):
    path, _ = quick
    calls, table = [], Run.table

    def noted(self, name, columns=None, cell=None, user=None, first_part=0):
        calls.append((name, columns, cell, user))
        return table(self, name, columns, cell, user, first_part)

    monkeypatch.setattr(Run, "table", noted)
    list(tell(path, Wish(user="3", recommender="uniform")))
    assert {name for name, *_ in calls} == {"sessions", "turns", "impressions"}
    assert all(columns and (cell, user) == ("uniform-seed0", 3) for _, columns, cell, user in calls)
    assert len(calls) == 5


# Runs that are being written


def test_follow_tells_each_day_once_as_it_is_committed(stage):
    seen, looks = [], []

    def sleep(seconds):
        assert seconds == 0.5
        looks.append(len(of(seen, Day)) + sum(q.last - q.first + 1 for q in of(seen, Quiet)))
        stage.show(min(len(looks), 10))
        if len(looks) > 11:
            stage.status("complete")

    for event in follow(stage.path, Wish(recommender="uniform", user="2"), 0.5, sleep):
        seen.append(event)
    whole = list(tell(stage.path, Wish(recommender="uniform", user="2")))
    assert of(seen, Person) == of(whole, Person)
    assert of(seen, Day) == of(whole, Day)
    assert looks[:6] == [0] * 6  # the other recommender comes first
    assert looks == sorted(looks)
    assert len(set(looks)) >= 3
    assert seen[-1] == Note("The run is complete: 2 of 2 combinations of recommender and seed are done.")
    notes = [note.text for note in of(seen, Note) if note.waiting]
    assert notes[0] == "Waiting for day 0 of uniform, seed 0 ..."
    assert notes[-1] == "Waiting for the run to end ..."
    assert len(notes) == len(set(notes))


def test_follow_takes_what_is_being_simulated_and_ends_with_its_part(stage):
    stage.show(3)
    seen = []

    def sleep(_):
        stage.show(3 + len(of(seen, Note)))

    for event in follow(stage.path, Wish(), 1, sleep):
        seen.append(event)
    assert seen[0].recommender == "popularity"
    assert seen[-1] == Note("That was all 5 days under popularity, seed 0; the run goes on.")
    stage.show(7)
    again = follow(stage.path, Wish(), 1)
    assert next(again).recommender == "uniform"


def test_follow_ends_with_the_only_day_it_is_asked_for(stage):
    seen = []

    def sleep(_):
        stage.show(2)

    for event in follow(stage.path, Wish(day=1, user="0"), 1, sleep):
        seen.append(event)
    assert [day.day for day in of(seen, Day)] + [q.first for q in of(seen, Quiet)] == [1]
    assert seen[-1].text == "That was day 1 under popularity, seed 0; the run goes on."


def test_without_follow_nothing_committed_is_an_error(stage):
    with pytest.raises(RunFolderError, match=r"no day of popularity, seed 0 .*committed yet.*--follow waits"):
        list(tell(stage.path, Wish()))
    stage.show(2)
    with pytest.raises(RunFolderError, match=r"day 4 .*not committed yet \(stored: days 0 to 1\).*--follow"):
        list(tell(stage.path, Wish(day=4)))
    with pytest.raises(RunFolderError, match="uniform, seed 0"):
        list(tell(stage.path, Wish(recommender="uniform")))
    events = list(tell(stage.path, Wish()))
    assert events[-1].text.startswith("The run is going on: 0 of 2")
    assert max(day.day for day in of(events, Day)) <= 1


def test_a_run_in_preparation_is_waited_for(quick, tmp_path):
    path, _ = quick
    (tmp_path / "new").mkdir()
    with RunFolder(tmp_path / "new"):
        with pytest.raises(RunFolderError, match="being prepared"):
            list(tell(tmp_path / "new", Wish()))

        def sleep(_):
            shutil.copytree(path, tmp_path / "new", dirs_exist_ok=True)

        first, *_, last = follow(tmp_path / "new", Wish(), 1, sleep)
    assert first == Note("The run is being prepared ...", waiting=True)
    assert "complete" in last.text


@pytest.mark.parametrize("committed", [0, 2])
def test_a_killed_run_is_not_waited_for(stage, committed):
    stage.show(committed)
    stage.close()
    events = list(follow(stage.path, Wish(), 1, lambda _: pytest.fail("waited")))
    assert bool(of(events, Person)) == bool(committed)
    assert re.search(f"was stopped: 0 of 2 .*--resume --out {stage.path}", events[-1].text)
    if committed:
        assert list(tell(stage.path, Wish())) == events
    else:
        with pytest.raises(RunFolderError, match="was stopped"):
            list(tell(stage.path, Wish()))


def test_a_run_that_is_killed_meanwhile_is_noticed(stage):
    events = list(follow(stage.path, Wish(), 1, lambda _: stage.close()))
    assert "was stopped" in events[-1].text


def test_a_failed_run_says_why(stage):
    stage.show(2)
    stage.status("failed", error="EngineError: [red]no[/red]")
    last = list(follow(stage.path, Wish()))[-1]
    assert "The run is failed (EngineError: [red]no[/red]): 0 of 2" in last.text
    assert "[red]no[/red]" in shown_by(last)


def test_looking_on_disturbs_neither_a_writer_nor_another_who_looks_on(tmp_path):
    assert not is_written(tmp_path)  # no lock file yet
    with RunFolder(tmp_path):
        assert is_written(tmp_path)
    stop, answers = threading.Event(), []

    def look():
        while not stop.wait(0.001):
            answers.append(is_written(tmp_path))

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        time.sleep(0.2)
        assert answers
        assert not any(answers)
        for _ in range(50):
            with RunFolder(tmp_path):
                pass
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


# The terminal

HOSTILE = (
    "[red]A[/red] \x1b[2J\x1b[31mB\x1b[0m \x1b]0;title\x07C \x1b]8;;http://x\x1b\\D\x1b]8;;\x1b\\ \x9b5mE \r\n\bF"
    "\u202eG\u200bH \x1bcI :smile: [/] \x1bP1q\x9cJ"
)
CLEAN = "[red]A[/red] B C D E FGH I :smile: [/] J"


def hostile_day():
    item = Shown(HOSTILE, 1999, (HOSTILE,), True, True, 0.5, True, True, 4.0, HOSTILE)
    page = Page(False, HOSTILE, MessageKind.INSTRUCT, HOSTILE, (item,), 0.0, 0.5, 0.0, HOSTILE, True,
                NextAction.LEAVE, HOSTILE)  # fmt: skip
    person = Person(HOSTILE, 0, 3, HOSTILE, HOSTILE, {"mood": HOSTILE}, ((HOSTILE, 4.0),), 5.0)
    talks = (Talk("chat", False, HOSTILE, (HOSTILE,), HOSTILE),)
    return Day(person, 0, (Visit(0, 0, (page,), True),), talks)


def test_hostile_text_is_printed_as_it_is_and_moves_nothing():
    assert plain(HOSTILE) == CLEAN
    day = hostile_day()
    for event in (day.person, day, Note(HOSTILE)):
        text = shown_by(event, width=500)
        assert "[red]A[/red]" in text
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e]", text)
        coloured = shown_by(event, force_terminal=True, color_system="truecolor")
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e]", re.sub(r"\x1b\[[\d;]*m", "", coloured))
    text = shown_by(day, width=500)
    assert text.count("[red]A[/red]") == 11


def test_texts_are_cut():
    assert plain("x" * 1000) == "x" * 599 + "…"
    assert plain("\x1b]0;never ended") == ""
    assert plain("a\u2028b\x85c") == "a b c"
    page = hostile_day().visits[0].pages[0]
    long = replace(page, items=(replace(page.items[0], title="long " * 200, categories=("Genre",) * 50),))
    lines = shown_by(replace(hostile_day(), visits=(Visit(0, 0, (long,), False),))).splitlines()
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_pages_fit_and_are_clear_without_colour(quick, social, width):
    for path in (quick[0], social):
        text = "".join(shown_by(event, width=width, no_color=True) for event in tell(path, Wish()))
        assert max(map(len, text.splitlines())) <= min(width, WIDTH)
        for words in ("Day 0", "Page 1", "watched", "skipped", "feels", "mood", "boredom", "trust", "then", "leaves"):
            assert words in text


# The command


def cli(*words, **settings):
    command = [sys.executable, "-m", "recsim_env.cli", "watch", *map(str, words)]
    # A shell's background job ignores SIGINT, and so would its children.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **settings,
    )  # fmt: skip


def test_the_command_follows_a_run_until_it_ends(stage):
    def write():
        for n in range(1, 11):
            time.sleep(0.2)
            stage.show(n)
        stage.status("complete")

    done = cli(stage.path, "--follow", "--interval", "0.1", "--recommender", "uniform", "--user", 2)
    writer = threading.Thread(target=write)
    assert "Waiting for day 0 of uniform, seed 0" in done.stderr.readline()
    writer.start()
    out, err = done.communicate(timeout=60)
    writer.join()
    assert done.returncode == 0, err
    assert "Waiting" not in err  # once is enough where nobody can see it change
    days = of(tell(stage.path, Wish("uniform", user="2")), Day)
    assert re.findall(r"^Day (\d+)(?:, visit 1 of \d)? ─", out, re.M) == [str(day.day) for day in days]
    assert "The run is complete: 2 of 2" in out


def test_ctrl_c_ends_it_quietly(stage):
    done = cli(stage.path, "-f", "--interval", "0.1")
    assert "Waiting for day 0" in done.stderr.readline()
    done.send_signal(signal.SIGINT)
    assert done.communicate(timeout=30) == ("", "")
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no run folder"),
        (["RUN", "--user", "nobody"], "Unknown user 'nobody'"),
        (["RUN", "--recommender", "eese"], "Unknown recommender 'eese'"),
        (["RUN", "--interval", "0"], "interval"),
    ],
)
def test_mistakes_end_with_2(quick, words, message):
    done = cli(*[quick[0] if word == "RUN" else word for word in words])
    _, err = done.communicate(timeout=60)
    assert done.returncode == 2
    assert message in err
    assert "Traceback" not in err


def test_a_terminal_that_knows_few_letters_does_not_end_it(quick):
    done = cli(quick[0], "--day", "0", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    assert "Day 0" in out
