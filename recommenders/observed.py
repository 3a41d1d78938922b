"""What simulated users clicked, kept until a recommender is trained again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recsim_env.records import Dataset, Feedback, ObservationBatch, Ratings, SlateBatch, TextArray

DAY_S = 86_400


class ObservedClicks:
    """Clicks in the order of the turns, as plain arrays."""

    def __init__(self) -> None:
        self._user: list[np.ndarray[tuple[int], np.dtype[np.int32]]] = []
        self._item: list[np.ndarray[tuple[int], np.dtype[np.int32]]] = []
        self._rating: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
        self._day: list[np.ndarray[tuple[int], np.dtype[np.int32]]] = []

    def __len__(self) -> int:
        return sum(map(len, self._user))

    def add(self, obs: ObservationBatch, slate: SlateBatch, feedback: Feedback) -> None:
        """Appends the clicks of one turn."""
        who, where = np.nonzero(feedback.clicked)
        if who.size:
            self._user.append(obs.user_index[who].astype(np.int32))
            self._item.append(slate.items[who, where])
            self._rating.append(feedback.rating[who, where].astype(np.float32))
            self._day.append(obs.day[who].astype(np.int32))

    def extend(self, dataset: Dataset) -> Dataset:
        """The data set with the clicks added as those of further users.

        Simulated user i becomes row ``dataset.n_users + i`` and holds its clicks alone: its past, if it is a real
        person, stands in the data set already. Ratings are NaN where a click was not rated; times are seconds after
        the data set's last rating, one day apart.
        """
        if not self._user:
            return dataset
        user, item = np.concatenate(self._user), np.concatenate(self._item)
        rating, day = np.concatenate(self._rating), np.concatenate(self._day)
        old, n_new = dataset.ratings, int(user.max()) + 1
        start = int(old.timestamp.max()) + 1 if len(old) else 0
        names = np.array([f"simulated-{i}" for i in range(n_new)], object)
        unknown = np.full(n_new, "", object)
        ratings = Ratings(
            user_index=np.concatenate([old.user_index, user + np.int32(dataset.n_users)]),
            item_index=np.concatenate([old.item_index, item]),
            rating=np.concatenate([old.rating, rating]),
            timestamp=np.concatenate([old.timestamp, start + day.astype(np.int64) * DAY_S]),
        )
        profile: dict[str, TextArray] = {k: np.concatenate([v, unknown]) for k, v in dataset.profile.items()}
        grown = replace(dataset, user_id=np.concatenate([dataset.user_id, names]), profile=profile)
        return grown.with_ratings(ratings)
