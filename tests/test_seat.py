"""A person in a user's seat: its rows, nobody else's luck, what is stored, resuming, the terminal."""

import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from recsim_env.cli import app
from recsim_env.errors import RecsimError, SeatError
from recsim_env.evaluation.story import tell_days, tell_person
from recsim_env.records import MessageKind, NextAction
from recsim_env.rundir import Run, load_run
from recsim_env.runner import run_scenario
from recsim_env.scenario import load_scenario
from recsim_env.seat import Card, Done, Moment, Nobody, Reaction, Served
from recsim_env.terminal import Draft, Terminal

SETS = ["users.count=12", "days=4", "slate_size=4", "recommenders=popularity,uniform", "replications=1"]
USER = 3
FIRST = Reaction(
    done=(Done(position=1, watched=0.5, rating=8, comment="so-so"), Done(position=2, liked=True)),
    next_action=NextAction.INSTRUCT, message="More Horror, please", mood=0.5,
)  # fmt: skip


class Visitor:
    """Sits in one seat of one recommender, reacts as it is told, and keeps what it was shown."""

    def __init__(self, *reactions, user=USER, stop=None):
        self.reactions, self.user, self.stop, self.shown = reactions, user, stop, []

    def meet(self, cell, users):
        self.users = users

    def seats(self, cell):
        return (self.user,) if cell == ("popularity", 0) else ()

    def react(self, served):
        self.shown.append(served)
        if self.stop is not None and len(self.shown) > self.stop:
            raise KeyboardInterrupt
        turn = served.moment.turn
        return self.reactions[turn] if turn < len(self.reactions) else None


def rows(path, table="impressions"):
    frame = load_run(path).table(table)
    for column in frame.select_dtypes("category"):
        frame[column] = frame[column].astype(str)
    keys = ["recommender", "day", "session", "turn", "user", "position"]
    return frame.sort_values([k for k in keys if k in frame], kind="stable").reset_index(drop=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run_scenario("quickstart", tmp_path_factory.mktemp("alone") / "run", SETS)


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    person = Visitor(FIRST)
    return run_scenario("quickstart", tmp_path_factory.mktemp("visited") / "run", SETS, person=person), person


def test_a_person_decides_for_one_row_and_nobody_else_notices(alone, visited):
    path, person = visited
    ours, theirs = rows(path), rows(alone)
    mine = (ours["user"] == USER) & (ours["recommender"] == "popularity")
    others = (theirs["user"] != USER) | (theirs["recommender"] != "popularity")
    pd.testing.assert_frame_equal(ours[~mine].reset_index(drop=True), theirs[others].reset_index(drop=True))
    page = ours[mine & (ours["day"] == 0) & (ours["turn"] == 0)]
    assert page["clicked"].tolist() == [False, True, True, False]
    np.testing.assert_allclose(page["watched_fraction"], [0, 0.5, 1, 0])
    assert page["rating"].fillna(-1).tolist() == [-1, 8, -1, -1]
    assert page["liked"].tolist() == [False, False, True, False]
    assert page["comment"].tolist()[1] == "so-so"
    assert page["trace_p_click"].isna().all()  # nobody knows a person's probabilities
    first, second = person.shown[:2]
    assert second.moment == first.moment._replace(turn=1)
    assert (second.message, second.kind, second.answer) == (FIRST.message, MessageKind.INSTRUCT, "More Horror.")
    assert second.hears == "genres"
    assert all("Horror" in card.categories for card in second.cards)


def test_the_manifest_tells_persons_from_simulated_users(visited, alone):
    path, person = visited
    told = load_run(path).manifest["people"]
    assert told == [{"recommender": "popularity", "seed": 0, "user": USER, "pages": len(person.shown)}]
    assert load_run(path).people == {("popularity", 0): (USER,)}
    assert "people" not in load_run(alone).manifest
    assert load_run(alone).people == {}


def test_who_gives_the_seat_back_leaves_there(visited):
    turns = rows(visited[0], "turns")
    mine = turns[(turns["user"] == USER) & (turns["recommender"] == "popularity")]
    visit = mine[(mine["day"] == 0) & (mine["session"] == 0)]
    assert visit["next_action"].tolist() == [NextAction.INSTRUCT, NextAction.LEAVE]
    np.testing.assert_allclose(visit["trace_mood"], [0.5, 0.0])
    assert visit["trace_boredom"].isna().all()


def test_a_persons_days_can_be_told(visited):
    run = load_run(visited[0])
    person = tell_person(run, ("popularity", 0), USER)
    (page, *_), *_ = (visit.pages for visit in tell_days(run, person, range(1))[0].visits)
    assert [item.stars for item in page.items] == [None, 8.0, None, None]
    assert np.isnan(page.trust)


def test_every_day_is_committed_so_that_it_can_be_looked_at(tmp_path):
    seen = []

    def look(at):
        if at.label.startswith("popularity"):
            seen.append(Run(tmp_path / "run").progress().get("popularity-seed0", {}).get("days", 0))

    run_scenario("quickstart", tmp_path / "run", SETS, on_progress=look, person=Nobody())
    assert seen == [0, 1, 2, 3, 3]  # the last day is committed when its cell is complete


def test_a_resumed_run_asks_nobody_twice(visited, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_scenario("quickstart", tmp_path / "run", SETS, person=Visitor(FIRST, FIRST, stop=1))
    assert load_run(tmp_path / "run").manifest["people"][0]["pages"] == 1
    again = Visitor(FIRST)
    run_scenario("quickstart", tmp_path / "run", SETS, resume=True, person=again)
    assert again.shown[0].moment.turn == 1  # the first page of the first visit was answered before
    pd.testing.assert_frame_equal(rows(tmp_path / "run"), rows(visited[0]))


def test_a_run_that_is_resumed_without_its_person_ends_the_visit(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_scenario("quickstart", tmp_path / "run", SETS, person=Visitor(FIRST, FIRST, stop=1))
    run_scenario("quickstart", tmp_path / "run", SETS, resume=True)
    turns = rows(tmp_path / "run", "turns")
    visit = turns[(turns["user"] == USER) & (turns["recommender"] == "popularity") & (turns["day"] == 0)]
    assert visit["next_action"].tolist()[:2] == [NextAction.INSTRUCT, NextAction.LEAVE]
    assert load_run(tmp_path / "run").manifest["people"][0]["pages"] == 2


def test_the_model_speaks_to_no_friend_in_a_persons_name(tmp_path):
    scenario = load_scenario(
        {
            "name": "small", "days": 3, "slate_size": 5, "history_length": 20, "recommenders": ["popularity"],
            "users": {"count": 20, "appeal": -1.0},
            "population": {"graph": "watts-strogatz", "degree": 4, "chat": 0.0, "post": 1.0, "sway": 1.0},
        }
    )  # fmt: skip
    free = run_scenario(scenario, tmp_path / "free")
    assert USER in set(load_run(free).opinions["user"])
    path = run_scenario(scenario, tmp_path / "sat", person=Visitor(FIRST))
    assert USER not in set(load_run(path).opinions["user"])
    assert len(load_run(path).opinions)


def served(**changes):
    cards = (Card("A", (), "", False), None, Card("B", ("Drama",), "", True))
    values = {"cards": cards, "levels": (0.0, 1.0, 2.0), "message": None, "kind": MessageKind.NONE, "answer": None}
    values |= {"moment": Moment("popularity", 0, 3, 1, 0, 0), "searched": False, "hears": "nothing"}
    return Served(**{**values, **changes})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"next_action": NextAction.INSTRUCT}, "needs words"),
        ({"next_action": NextAction.SEARCH, "message": "  "}, "needs words"),
        ({"message": "hello"}, "words go with"),
        ({"done": (Done(position=1), Done(position=1))}, "twice"),
        ({"mood": 2.0}, "less than or equal to 1"),
        ({"done": ({"position": 0, "watched": 0.0},)}, "greater than 0"),
        ({"done": ({"position": 0, "comment": "x" * 301},)}, "at most 300"),
        ({"anything": 1}, "not permitted"),
    ],
)
def test_reactions_that_do_not_hang_together(values, words):
    with pytest.raises(ValidationError, match=words):
        Reaction(**values)


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (Done(position=1), "no item 2"),
        (Done(position=9), "no item 10"),
        (Done(position=0, rating=7), "7 is no mark here. Allowed: 0, 1, 2"),
        (Done(position=0, rating=1.5), "1.5 is no mark"),
    ],
)
def test_reactions_that_do_not_fit_the_page(done, words):
    with pytest.raises(SeatError, match=words):
        served().check(Reaction(done=(done,)))


def test_commands_of_the_terminal_make_a_reaction():
    draft = Draft(served())
    assert [draft.take(line) for line in ("m 3 2", "w 3 40", "c 3 not bad", "l 1", "f very good")] == [None] * 5
    made = draft.take("t something new")
    assert made == Reaction(
        done=(Done(position=0, liked=True), Done(position=2, watched=0.4, rating=2, comment="not bad")),
        next_action=NextAction.INSTRUCT, message="something new", mood=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [("w 2", "no item 2"), ("w", "by its number"), ("m 1 x", "number, not 'x'"), ("m 1 9", "Allowed"),
     ("s", "needs words"), ("n now", "words go with"), ("w 1 200", "less than or equal"), ("f so", "You feel"),
     ("z", "no command")],
)  # fmt: skip
def test_commands_of_the_terminal_that_cannot_be(line, words):
    with pytest.raises(SeatError, match=words):
        Draft(served()).take(line)


def test_the_terminal_shows_no_control_characters():
    from rich.console import Console

    console = Console(width=100, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    lines = iter(["", "?", "z", "x"])
    terminal = Terminal(3, console.print, lambda _: next(lines))
    hostile = served(cards=(Card("\x1b[2JEvil [red]title[/]", (), "", False),), answer="\x1b]0;x\x07yes", message="hm")
    assert terminal.react(hostile) is None
    assert terminal.seats(("popularity", 0)) == ()
    text = console.export_text()
    assert "Evil [red]title[/]" in text
    assert "\x1b" not in text


def play(folder, lines, *options):
    command = [sys.executable, "-m", "recsim_env.cli", "play", "quickstart", *(f"--set={s}" for s in SETS)]
    command += [f"--user={USER}", "--out", str(folder), *options]
    return subprocess.run(command, input=lines, capture_output=True, text=True, check=False)


def test_playing_in_the_terminal(tmp_path):
    done = play(tmp_path / "run", "w 2 50\nm 2 8\nt More Horror, please\nw 1\nq\n")
    assert done.returncode == 0, done.stderr
    assert "More Horror." in done.stdout
    assert "You gave the seat back" in done.stdout  # the input ended
    run = load_run(tmp_path / "run")
    assert run.manifest["status"] == "complete"
    assert run.manifest["people"] == [{"recommender": "popularity", "seed": 0, "user": USER, "pages": 3}]
    assert run.cells == [("popularity", 0)]


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--user=999"], "There is no user 999"), (["--recommender=popularty"], "Did you mean 'popularity'")],
)
def test_what_cannot_be_played(tmp_path, options, words):
    told = CliRunner().invoke(app, ["play", "quickstart", "--out", str(tmp_path / "run"), *options]).exception
    assert isinstance(told, RecsimError)  # which the command line prints without a traceback
    assert words in str(told)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_can_be_resumed(tmp_path):
    command = [sys.executable, "-m", "recsim_env.cli", "play", "quickstart", *(f"--set={s}" for s in SETS)]
    command += ["--out", str(tmp_path / "run")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, text=True, **pipes)
    while "page 1" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in error
    assert "Traceback" not in error
    assert load_run(tmp_path / "run").manifest["status"] == "interrupted"
