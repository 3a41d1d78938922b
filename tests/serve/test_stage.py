"""Start, pause, step, and the seat, between the simulation's thread and the page's."""

import threading
import time

import pytest

from recsim_env.errors import SeatError
from recsim_env.records import MessageKind
from recsim_env.runner import Progress
from recsim_env.seat import Card, Done, Moment, Reaction, Served
from recsim_env.serve.stage import Stage

CELLS = [("popularity", 0), ("ease", 0)]
DAYS = 3


def served(user=3, day=0, turn=0):
    moment = Moment("popularity", 0, user, day, 0, turn)
    return Served(moment, (Card("A", (), "", False),), (1.0, 2.0), None, MessageKind.NONE, None, False, "nothing")


def wait_for(what, longest_s=10):
    end = time.monotonic() + longest_s
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


class Simulation(threading.Thread):
    """Lives the days of both cells as the runner does: a tick when a cell begins, one after each day."""

    def __init__(self, stage):
        super().__init__(daemon=True)
        self.stage, self.ticks = stage, []
        self.start()

    def run(self):
        for number in range(len(CELLS)):
            for day in range(DAYS + 1):
                self.ticks.append((number, day))
                self.stage.on_progress(Progress(number, len(CELLS), "", day, DAYS, 0, 0.0))
        self.stage.end()


def test_it_waits_for_the_start_and_goes_day_by_day():
    stage = Stage(CELLS, 10)
    simulation = Simulation(stage)
    wait_for(lambda: simulation.ticks)
    time.sleep(0.05)
    assert simulation.ticks == [(0, 0)]
    stage.go("step")
    wait_for(lambda: len(simulation.ticks) == 2)
    time.sleep(0.05)
    assert simulation.ticks == [(0, 0), (0, 1)]
    assert stage.state().going == "paused"
    stage.go("step")
    wait_for(lambda: len(simulation.ticks) == 3)
    stage.go("step")  # the last day of a cell: the next one's beginning is where it stops
    wait_for(lambda: len(simulation.ticks) == 5)
    time.sleep(0.05)
    assert simulation.ticks[-2:] == [(0, 3), (1, 0)]
    assert stage.state().cell == ("ease", 0)
    stage.go("on")
    simulation.join(5)
    assert simulation.ticks[-1] == (1, 3)
    assert stage.state().ended


def test_no_day_is_shorter_than_the_pace():
    begun = time.monotonic()
    Simulation(Stage(CELLS, 10, pace=0.05, begin=True)).join(10)
    assert time.monotonic() - begun >= 6 * 0.05  # three days of each cell, whose last one need not wait


def test_a_person_is_asked_and_answers_once():
    stage, given = Stage(CELLS, 10), []
    stage.take(CELLS[0], 3)
    assert stage.seats(CELLS[0]) == (3,)
    assert stage.seats(CELLS[1]) == ()
    thread = threading.Thread(target=lambda: given.append(stage.react(served())), daemon=True)
    thread.start()
    wait_for(lambda: stage.state().served)
    with pytest.raises(SeatError, match="another tab"):
        stage.answer(served(turn=1).moment, Reaction())
    with pytest.raises(SeatError, match="no item 2"):
        stage.answer(served().moment, Reaction(done=(Done(position=1),)))
    wanted = Reaction(done=(Done(position=0, rating=2),))
    stage.answer(served().moment, wanted)
    thread.join(5)
    assert given == [wanted]
    assert stage.state().served is None
    with pytest.raises(SeatError, match="another tab"):
        stage.answer(served().moment, wanted)


def test_who_took_another_seat_is_not_asked_for_the_first():
    stage = Stage(CELLS, 10)
    stage.take(CELLS[0], 4)
    assert stage.react(served(user=3)) is None
    assert stage.state().seat == (CELLS[0], 4)


def test_giving_the_seat_back_ends_the_waiting():
    stage, given = Stage(CELLS, 10), []
    stage.take(CELLS[0], 3)
    thread = threading.Thread(target=lambda: given.append(stage.react(served())), daemon=True)
    thread.start()
    wait_for(lambda: stage.state().served)
    stage.leave()
    thread.join(5)
    assert given == [None]
    assert stage.state().seat is None


@pytest.mark.parametrize(
    ("cell", "user", "words"),
    [
        (CELLS[1], 3, "is not being simulated"),
        (CELLS[0], 10, "no user 10"),
        (("nobody", 0), 1, "is not being simulated"),
    ],
)
def test_seats_that_cannot_be_taken(cell, user, words):
    with pytest.raises(SeatError, match=words):
        Stage(CELLS, 10).take(cell, user)


def test_one_seat_at_a_time_in_all_tabs():
    stage = Stage(CELLS, 10)
    stage.take(CELLS[0], 3)
    stage.take(CELLS[0], 3)
    with pytest.raises(SeatError, match="User 3's seat is taken"):
        stage.take(CELLS[0], 4)


def test_the_seat_is_free_when_its_recommenders_days_or_the_run_are_over():
    stage = Stage(CELLS, 10, begin=True)
    stage.take(CELLS[0], 3)
    Simulation(stage).join(5)
    assert stage.state().seat is None
    assert stage.state().freed == "The days under popularity, seed 0, are over."
    with pytest.raises(SeatError, match="run is over"):
        stage.take(CELLS[1], 3)
