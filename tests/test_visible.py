"""What a recommender sees: a session by hand, the same by brute force, and wishes read out of words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsim_env.records import (
    Catalog,
    Feedback,
    Histories,
    MessageKind,
    NextAction,
    RatingScale,
    SlateBatch,
    Users,
    unpack_seen,
)
from recsim_env.visible import VisibleState, WishReader

N_ITEMS, K, L = 12, 2, 3  # items, slate positions, history length
PAD, NAN = N_ITEMS, float("nan")
CATEGORIES = ("Comedy", "Drama", "Sci-Fi")


def catalog() -> Catalog:
    return Catalog(
        item_id=np.array([str(i) for i in range(N_ITEMS)], object),
        title=np.array([f"Film {i}" for i in range(N_ITEMS)], object),
        categories=CATEGORIES,
        item_categories=np.zeros((N_ITEMS, 3), np.bool_),
        text=np.full(N_ITEMS, "", object),
        year=np.zeros(N_ITEMS, np.int16),
        popularity=np.zeros(N_ITEMS, np.int64),
        scale=RatingScale(1, 5),
    )


def state(pasts: list[list[tuple[int, float]]]) -> VisibleState:
    flat = [event for past in pasts for event in past]
    history = Histories(
        np.cumsum([0, *map(len, pasts)]).astype(np.int64),
        np.array([item for item, _ in flat], np.int32),
        np.array([stars for _, stars in flat], np.float32),
    )
    n = len(pasts)
    users = Users(np.array([str(u) for u in range(n)], object), np.arange(n), {}, history)
    return VisibleState(catalog(), users, K, L)


def slate(items) -> SlateBatch:
    unknown = np.full(np.shape(items), np.nan, np.float32)
    return SlateBatch(np.array(items, np.int32), unknown, unknown, "p")


def reaction(clicked, rating=None, action=None, message=None) -> Feedback:
    clicked = np.array(clicked, np.bool_)
    n = len(clicked)
    return Feedback(
        clicked=clicked,
        watched_fraction=np.where(clicked, 0.5, 0).astype(np.float32),
        liked=clicked,
        shared=np.zeros_like(clicked),
        rating=np.full(clicked.shape, np.nan, np.float32) if rating is None else np.array(rating, np.float32),
        next_action=np.array([NextAction.NEXT] * n if action is None else action, np.int8),
        message=[None] * n if message is None else message,
    )


def seen(obs) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in unpack_seen(obs.seen, N_ITEMS)]


def test_a_session_by_hand():
    visible = state([[(0, 5), (1, 4), (2, 3), (9, 2)], []])
    rows = np.array([1, 0])

    obs = visible.observe(rows)
    assert obs.user_index.tolist() == [1, 0]
    assert obs.history.tolist() == [[PAD, PAD, PAD], [1, 2, 9]]
    np.testing.assert_array_equal(obs.history_rating, [[NAN] * 3, [4, 3, 2]])
    assert seen(obs) == [[], [0, 1, 2, 9]]  # also beyond the history's length
    assert obs.last_slate.tolist() == [[PAD, PAD]] * 2
    assert (obs.turn.tolist(), obs.message, obs.message_kind.tolist()) == ([0, 0], [None, None], [0, 0])

    visible.open(rows, np.array([4, 6]), np.array([1, 0]))
    feedback = reaction(
        [[True, True], [False, True]],
        [[5, NAN], [NAN, 1]],
        [NextAction.SEARCH, NextAction.INSTRUCT],
        ["Sci-Fi please", "no Drama"],
    )
    visible.apply(rows, slate([[7, 3], [4, 11]]), feedback)
    obs = visible.observe(rows)
    assert (obs.day.tolist(), obs.session.tolist(), obs.turn.tolist()) == ([4, 6], [1, 0], [1, 1])
    assert obs.history.tolist() == [[PAD, 7, 3], [2, 9, 11]]
    np.testing.assert_array_equal(obs.history_rating, [[NAN, 5, NAN], [3, 2, 1]])
    assert seen(obs) == [[3, 7], [0, 1, 2, 9, 11]]
    assert obs.last_slate.tolist() == [[7, 3], [4, 11]]
    assert obs.last_feedback.clicked.tolist() == [[True, True], [False, True]]
    assert obs.last_feedback.watched_fraction.tolist() == [[0.5, 0.5], [0, 0.5]]
    assert obs.message == ["Sci-Fi please", "no Drama"]
    assert obs.message_kind.tolist() == [MessageKind.SEARCH, MessageKind.INSTRUCT]
    assert obs.message_vector.tolist() == [[0, 0, 1], [0, -1, 0]]

    visible.apply(rows[:1], slate([[1, PAD]]), reaction([[True, False]], action=[NextAction.LEAVE]))
    obs = visible.observe(rows)
    assert obs.turn.tolist() == [2, 1]
    assert obs.message == [None, "no Drama"]  # a message is heard once; the other user stays as it was
    assert obs.message_kind.tolist() == [MessageKind.NONE, MessageKind.INSTRUCT]
    assert obs.message_vector.tolist() == [[0, 0, 0], [0, -1, 0]]
    assert obs.history.tolist() == [[7, 3, 1], [2, 9, 11]]

    visible.open(rows, 5, 0)
    obs = visible.observe(rows)
    assert (obs.turn.tolist(), obs.message) == ([0, 0], [None, None])
    assert obs.last_slate.tolist() == [[PAD, PAD]] * 2
    assert not obs.last_feedback.clicked.any()
    assert np.isnan(obs.last_feedback.rating).all()
    assert obs.history.tolist() == [[7, 3, 1], [2, 9, 11]]  # the past stays

    visible.reset(np.array([0]))
    obs = visible.observe(rows)
    assert obs.history.tolist() == [[7, 3, 1], [1, 2, 9]]
    assert seen(obs) == [[1, 3, 7], [0, 1, 2, 9]]
    assert (obs.day.tolist(), obs.session.tolist()) == ([5, 0], [0, 0])


def test_an_observation_is_not_changed_by_later_turns():
    visible = state([[(1, 5)]])
    rows = np.array([0])
    obs = visible.observe(rows)
    before = [np.array(a, copy=True) for a in (obs.history, obs.seen, obs.last_slate, obs.last_feedback.clicked)]
    visible.apply(rows, slate([[2, 3]]), reaction([[True, True]]))
    after = (obs.history, obs.seen, obs.last_slate, obs.last_feedback.clicked)
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


items = st.lists(st.integers(0, N_ITEMS - 1), min_size=K, max_size=K, unique=True)
page = st.tuples(st.integers(0, 2), items, st.lists(st.booleans(), min_size=K, max_size=K))


@settings(max_examples=50, deadline=None)
@given(
    pasts=st.lists(st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.just(3.0)), max_size=6), min_size=3, max_size=3),
    pages=st.lists(page, max_size=25),
)
def test_history_and_seen_equal_plain_lists(pasts, pages):
    visible = state(pasts)
    plain = [[item for item, _ in past] for past in pasts]
    for user, shown, clicked in pages:
        visible.apply(np.array([user]), slate([shown]), reaction([clicked]))
        plain[user] += [item for item, click in zip(shown, clicked, strict=True) if click]
    obs = visible.observe(np.arange(3))
    assert obs.history.tolist() == [([PAD] * L + history)[-L:] for history in plain]
    assert seen(obs) == [sorted(set(history)) for history in plain]


def test_many_users_at_once_equal_one_by_one():
    pasts = [[(u, 3.0)] for u in range(6)]
    together, apart = state(pasts), state(pasts)
    shown = [[(u + 1) % N_ITEMS, (u + 5) % N_ITEMS] for u in range(6)]
    clicked = [[u % 2 == 0, u % 3 == 0] for u in range(6)]
    order = np.array([3, 0, 5, 1, 4, 2])
    for _ in range(7):  # long enough for the store of events to be moved back
        together.apply(order, slate([shown[u] for u in order]), reaction([clicked[u] for u in order]))
        for u in range(6):
            apart.apply(np.array([u]), slate([shown[u]]), reaction([clicked[u]]))
    one, two = together.observe(np.arange(6)), apart.observe(np.arange(6))
    for name in ("history", "seen", "last_slate", "turn"):
        assert (getattr(one, name) == getattr(two, name)).all()


def test_history_must_hold_a_page():
    users = state([[]]).users
    with pytest.raises(AssertionError, match="a page may hold more clicks"):
        VisibleState(catalog(), users, slate_size=5, history_length=4)


@pytest.mark.parametrize(
    ("text", "wishes"),
    [
        ("Comedy", [1, 0, 0]),
        ("more comedy, please", [1, 0, 0]),
        ("No more Drama, show me Comedy", [1, -1, 0]),
        ("Show me Comedy, no Drama", [1, -1, 0]),
        ("I am tired of Drama and Comedy but Sci-Fi is fine", [-1, -1, 1]),
        ("Comedy not Drama", [1, -1, 0]),
        ("less sci-fi. more drama!", [0, 1, -1]),
        ("Comedy instead of Drama", [1, -1, 0]),
        ("Melodrama", [0, 0, 0]),
        ("nothing of the kind", [0, 0, 0]),
        ("notable Drama", [0, 1, 0]),
        ("Sci Fi", [0, 0, 0]),
        ("", [0, 0, 0]),
        ("DRAMA; without COMEDY", [-1, 1, 0]),
        ("Please try Drama, and leave out Comedy.", [-1, 1, 0]),
        ("try Drama and leave out Comedy", [-1, 1, 0]),
        ("less Comedy and more Drama", [-1, 1, 0]),
        ("I don't like Comedy", [-1, 0, 0]),
        ("Drama rather than Comedy", [-1, 1, 0]),
    ],
)
def test_wishes(text, wishes):
    reader = WishReader(CATEGORIES)
    for _ in range(2):  # the second answer is remembered
        assert reader.read(text).tolist() == wishes
    assert reader.read(text).dtype == np.float32


def test_category_names_are_plain_text():
    reader = WishReader(("Children's", "(no genres listed)", "R&B"))
    assert reader.read("children's films, R&B").tolist() == [1, 0, 1]
    assert reader.read("R&B (no genres listed)").tolist()[2] == 1


@settings(deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_gives_wishes(text):
    wishes = WishReader(CATEGORIES).read(text)
    assert wishes.shape == (3,)
    assert set(wishes.tolist()) <= {-1.0, 0.0, 1.0}
