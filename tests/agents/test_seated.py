"""Persons among language-model users: rows stand where they stood, words and comments of both kinds side by side."""

from dataclasses import fields

import numpy as np
import pytest

from recsim_env.engine.replies import ReplyStore
from recsim_env.records import NextAction
from recsim_env.seat import Done, Reaction
from recsim_env.seated import SeatedUsers

SAID = Reaction(
    done=(Done(position=4, watched=0.25, rating=2, comment="mine"),), next_action=NextAction.SEARCH, message="cats"
)  # fmt: skip


class Persons:
    """Sit in some seats and say the same."""

    def __init__(self, *users):
        self.users = users

    def meet(self, cell, users):
        pass

    def seats(self, cell):
        return self.users

    def react(self, served):
        return SAID


def one_page(world, tmp_path, persons=()):
    w = world.seat(12)
    w.visible.open(w.rows, 0, 0)
    store = ReplyStore(tmp_path / f"{len(persons)}.sqlite")
    model = SeatedUsers(w.model, w.data.catalog, Persons(*persons), store, lambda: None) if persons else w.model
    if persons:
        model.begin("test", 0, "words")
    return model.react(w.visible.observe(w.rows), world.random_slates(12))


@pytest.mark.parametrize("persons", [(0,), (11,), (3, 4), (0, 5, 11), tuple(range(12))])
def test_persons_stand_where_they_stood(world, tmp_path, persons):
    alone, seated = one_page(world, tmp_path), one_page(world, tmp_path, persons)
    others = [i for i in range(12) if i not in persons]
    assert alone[0].comments is not None
    assert alone[1].thoughts is not None
    for then, now in zip(alone, seated, strict=True):
        for field in fields(then):
            a, b = getattr(then, field.name), getattr(now, field.name)
            if b is None:
                assert field.name == "thoughts"
                assert not others  # nobody asks a person what it thinks
            elif isinstance(b, list):
                assert [b[i] for i in others] == [a[i] for i in others]
            else:
                np.testing.assert_array_equal(b[others], a[others], field.name)
    feedback, trace = seated
    for i in persons:
        assert feedback.clicked[i].tolist() == [False, False, False, False, True]
        assert (feedback.next_action[i], feedback.message[i]) == (NextAction.SEARCH, "cats")
        assert feedback.comments[i].tolist() == [None] * 4 + ["mine"]
        assert trace.examined[i].all()
        assert np.isnan(trace.p_click[i]).all()
        assert trace.thoughts is None or trace.thoughts[i] is None
