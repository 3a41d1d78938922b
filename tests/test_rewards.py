import numpy as np
import pytest

from recsim_env.errors import UnknownNameError
from recsim_env.records import (
    Feedback,
    MessageKind,
    NextAction,
    ObservationBatch,
    RatingScale,
    SlateBatch,
)
from recsim_env.rewards import Reward

SCALE = RatingScale(1, 5)


def turn():
    """Two users, three items, numbers chosen so that every reward can be read off."""
    feedback = Feedback(
        clicked=np.array([[True, False, True], [False, False, False]]),
        watched_fraction=np.array([[0.5, 0, 1.0], [0, 0, 0]], np.float32),
        liked=np.array([[False, False, True], [False, False, False]]),
        shared=np.zeros((2, 3), bool),
        rating=np.array([[1.0, np.nan, 5.0], [np.nan] * 3], np.float32),
        next_action=np.array([NextAction.NEXT, NextAction.LEAVE], np.int8),
        message=[None, None],
    )
    zero = np.zeros(2, np.int32)
    obs = ObservationBatch(
        user_index=np.arange(2), day=np.array([3, 3], np.int32), session=zero, turn=np.array([0, 1], np.int32),
        history=np.zeros((2, 5), np.int32), history_rating=np.zeros((2, 5), np.float32),
        seen=np.zeros((2, 1), np.uint8), last_slate=np.zeros((2, 3), np.int32), last_feedback=feedback,
        message=[None, None], message_kind=np.full(2, MessageKind.NONE, np.int8),
        message_vector=np.zeros((2, 1), np.float32),
    )  # fmt: skip
    items = np.zeros((2, 3), np.int32)
    return obs, SlateBatch(items, items.astype(float), items.astype(float), "x"), feedback


@pytest.mark.parametrize(
    ("weights", "total"),
    [
        ({"clicks": 1}, [2, 0]),
        ({"watch": 1}, [1.5, 0]),
        ({"rating": 1}, [-1 + 1, 0]),
        ({"rating": 2, "likes": 3}, [3, 0]),
        ({"stay": 1}, [1, 0]),
        ({"retention": 1}, [1, 0]),
        ({"clicks": 0.5, "retention": 10, "stay": -1}, [1 + 10 - 1, 0]),
    ],
)
def test_hand_computed(weights, total):
    obs, slate, feedback = turn()
    reward, per_item = Reward.from_weights(weights, SCALE)(obs, slate, feedback)
    np.testing.assert_allclose(reward, total, atol=1e-6)
    assert per_item.shape == (2, 3)


def test_item_part_belongs_to_the_items():
    obs, slate, feedback = turn()
    _, per_item = Reward.from_weights({"clicks": 2, "stay": 5}, SCALE)(obs, slate, feedback)
    np.testing.assert_allclose(per_item, [[2, 0, 2], [0, 0, 0]])


def test_unknown_reward_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'clicks'"):
        Reward.from_weights({"click": 1}, SCALE)
