import numpy as np
import pytest

from recsim_env.calendar import Calendar
from recsim_env.draws import Draws
from recsim_env.scenario import CalendarSection

ROWS = np.arange(4000)


def calendar(activity=0.4, **settings):
    return Calendar(CalendarSection(**settings), np.full(len(ROWS), activity, np.float32), Draws(0))


def test_neutral_users_open_at_their_activity():
    c = calendar(0.3)
    shares = [c.opens(ROWS, day, 0).mean() for day in range(1, 30)]
    assert np.mean(shares) == pytest.approx(0.3, abs=0.01)


def test_everybody_comes_on_the_first_day_unless_told_otherwise():
    assert calendar(0.3).opens(ROWS, 0, 0).all()
    assert calendar(0.3, first_day_all=False).opens(ROWS, 0, 0).mean() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(("mood", "more"), [(0.8, True), (-0.8, False)])
def test_satisfaction_moves_return_and_churn(mood, more):
    c = calendar(churn=0.2)
    stops = c.close(ROWS, 0, 0, np.full(len(ROWS), mood, np.float32))
    np.testing.assert_allclose(c.satisfaction, 0.3 * mood, rtol=1e-5)
    chance = 1 / (1 + np.exp(-(np.log(0.25) - 2.5 * 0.3 * mood)))
    assert stops.mean() == pytest.approx(chance, abs=0.03)
    stay = ROWS[~stops]
    assert (c.opens(stay, 1, 0).mean() > 0.4) == more


def test_the_churned_never_open_again():
    c = calendar(churn=1.0)
    assert c.close(ROWS, 0, 0, np.ones(len(ROWS))).all()
    assert not any(c.opens(ROWS, day, 0).any() for day in range(1, 20))
    assert calendar(churn=0.0).close(ROWS, 0, 0, -np.ones(len(ROWS))).sum() == 0


def test_luck_is_the_users_own_and_a_new_life_has_new_luck():
    c = calendar()
    some = np.array([7, 99, 1234])
    np.testing.assert_array_equal(c.opens(ROWS, 3, 0)[some], c.opens(some, 3, 0))
    before = c.opens(ROWS, 3, 0)
    c.reset_rows(ROWS)
    assert (before != c.opens(ROWS, 3, 0)).mean() > 0.2


def test_second_sessions_need_a_content_user():
    c = calendar(again=0.5)
    assert c.opens(ROWS, 0, 1).mean() == pytest.approx(0.5, abs=0.03)
    c.satisfaction[:] = -1.0
    assert c.opens(ROWS, 0, 1).sum() == 0
