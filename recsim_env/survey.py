"""Questions that a population's users are asked in the evening, outside of any page and hidden from every recommender.

Users with a language model have no tastes and no opinions that could be read off: they must be asked, as people are. A
panel of films, the same for all users on all days, shows where tastes stand. And whoever hears of films tonight says
which mark it would give to films that were spoken of, those that it hears of and others, before it hears and after: the
others show what hearing does as such, whatever was said.

Questions are :meth:`~recsim_env.interfaces.UserModel.judge`'s, so that they change nobody and cost no luck.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from recsim_env.draws import Draws
from recsim_env.graphs import Graph
from recsim_env.interfaces import Opinions, UserModel
from recsim_env.records import Catalog, FloatArray, IntArray


class Survey:
    """What U users say when they are asked.

    Args:
        minds: The users, seated.
        n_users: U.
        catalog: The items.
        draws: Draws of the run.
        size: Films of the panel P, and films spoken of that a user is asked about in an evening at most.

    Attributes:
        panel: int64 (P,), items, drawn from the less popular half of the catalogue: hardly anybody meets them on a
            page, and one who has watched a film would not say what it thinks of films like it.
    """

    def __init__(self, minds: UserModel, n_users: int, catalog: Catalog, draws: Draws, size: int) -> None:
        self.minds, self.draws, self.size = minds, draws, size
        self._users, self._levels = np.arange(n_users), catalog.scale.levels
        rare = np.argsort(catalog.popularity, kind="stable")[: max(size, catalog.n_items // 2)]
        self.panel = np.sort(rare[draws.permutation("panel", len(rare))[:size]])

    def tastes(self) -> tuple[FloatArray, dict[str, Any]]:
        """Asks everybody about the panel.

        Returns:
            Tastes float32 (U, P), log-odds of watching less each user's mean (who watches more likes nothing better),
            and the answers as columns of ``surveys.parquet``.
        """
        users, items = np.repeat(self._users, len(self.panel)), np.tile(self.panel, len(self._users))
        said = self.minds.judge(users, items)
        unknown, unheard = np.full(len(users), np.nan), np.zeros(len(users), np.int64)
        answers = _columns(users, items, unheard, unknown, said.log_odds, said.marks @ self._levels)
        log_odds = said.log_odds.reshape(len(self._users), -1)
        return log_odds - log_odds.mean(axis=1, keepdims=True), answers

    def opinions(
        self, day: int, told: Opinions, friends: Graph | None, hear: Callable[[], None]
    ) -> Mapping[str, Any] | None:
        """Asks those who hear something tonight about films that are spoken of, before they hear and after.

        Args:
            day: The day that ends.
            told: What is said tonight.
            friends: Who knows whom.
            hear: Lets them hear it.

        Returns:
            The answers as columns of ``surveys.parquet``, None where nobody hears of a film.
        """
        receiver, opinion = told.heard_by(friends)
        if not len(receiver):
            hear()
            return None
        rows, who = np.unique(receiver, return_inverse=True)
        films, which = np.unique(told.item, return_inverse=True)
        heard = np.zeros((len(rows), len(films)), np.int64)
        np.add.at(heard, (who, which[opinion]), 1)
        luck = self.draws.uniforms(self.draws.keys("survey", rows, day), films)
        # What a user hears of comes first; the others are drawn.
        first = np.argsort(np.where(heard > 0, luck - 1.0, luck), axis=1)[:, : self.size]
        users, items = np.repeat(rows, first.shape[1]), films[first].ravel()
        before = self.minds.judge(users, items).marks @ self._levels
        hear()
        said = self.minds.judge(users, items)
        count = np.take_along_axis(heard, first, axis=1).ravel()
        return _columns(users, items, count, before, said.log_odds, said.marks @ self._levels)


def _columns(
    users: IntArray, items: IntArray, heard: IntArray, before: FloatArray, watch: FloatArray, mark: FloatArray
) -> dict[str, Any]:
    marks = {"trace_before": before.astype(np.float32), "trace_mark": mark.astype(np.float32)}
    return {"user": users, "item": items, "heard": heard, "trace_watch": watch, **marks}
