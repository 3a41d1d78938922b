"""What language-model users think of items outside any page: the questions of a page, for pairs of user and item.

The prompts are those of a first page, on which the user is as it is now, has asked for nothing and looks around. How
much users resemble people is measured with them, and user language models are trained on them.
"""

from __future__ import annotations

import numpy as np

from recsim_env.agents.scene import Ask, Scene
from recsim_env.agents.watching import shifted
from recsim_env.records import (
    BoolArray,
    Catalog,
    Feedback,
    FloatArray,
    IntArray,
    Judgement,
    ObservationBatch,
)


def pages_of(rows: IntArray, items: IntArray, n_items: int) -> tuple[IntArray, IntArray, list[tuple[int, int]]]:
    """Pairs of user and item as one page per user.

    Args:
        rows: int (n,), users; one may stand there many times.
        items: int (n,), an item for each.
        n_items: Pads the pages.

    Returns:
        The users int64 (N,), ascending; their pages int32 (N, K); row and place of each pair on them.
    """
    users, row = np.unique(np.asarray(rows, np.int64), return_inverse=True)
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=len(users))
    place = np.empty(len(row), np.int64)
    place[order] = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    pages = np.full((len(users), int(counts.max(initial=1))), n_items, np.int32)
    pages[row, place] = items
    return users, pages, list(zip(row.tolist(), place.tolist(), strict=True))


def quiet_moment(users: IntArray, catalog: Catalog, again: bool = False) -> ObservationBatch:
    """The first page of some users' first visit, with nothing behind them that is visible.

    Args:
        users: int (n,), rows.
        catalog: The items.
        again: Everything was watched before, instead of nothing.
    """
    n = len(users)
    zeros = np.zeros(n, np.int32)
    page, flags = np.full((n, 1), catalog.n_items, np.int32), np.zeros((n, 1), np.bool_)
    nan, kind = np.full((n, 1), np.nan, np.float32), np.zeros(n, np.int8)
    silent: list[str | None] = [None] * n
    last = Feedback(flags, np.zeros((n, 1), np.float32), flags, flags, nan, kind, silent)
    seen = np.full((n, (catalog.n_items + 7) // 8), 255 if again else 0, np.uint8)
    wish = np.zeros((n, catalog.n_categories), np.float32)
    return ObservationBatch(users, zeros, zeros, zeros, page, nan, seen, page, last, silent, kind, wish)


def judging_asks(scene: Scene, places: list[tuple[int, int]], stars: tuple[str, ...]) -> list[Ask]:
    """For each pair "watch", then for each "stars"."""
    watch, mark = scene.prompts["watch.item"], scene.prompts["enjoy.stars"]
    found = []
    for purpose, question, options in (("watch", watch, watch.options), ("stars", mark, stars)):
        for i, k in places:
            body = question.render(options, item=scene.card(i, k))
            found.append(Ask(i, purpose, body, len(options), int(scene.items[i, k])))
    return found


def listing_asks(scene: Scene) -> list[Ask]:
    """Each page as one choice among its items, in their order, and none of them."""
    question = scene.prompts["watch.list"]
    asks = []
    for i in range(scene.n):
        cards = [scene.card(i, k).replace("\n", " ") for k in np.flatnonzero(scene.shown[i])]
        body = question.render([*cards, "none of them"], items="The titles stand below.")
        asks.append(Ask(i, "list", body, len(cards) + 1, 0))
    return asks


def read_judgement(replies: list[FloatArray], bad: BoolArray, bias: float, temperature: float = 1.0) -> Judgement:
    """What the replies to :func:`judging_asks` say; ``bias`` is added to the log-odds of watching."""
    n = len(replies) // 2
    marks = tempered(read_marks(replies[n:]), temperature)
    return Judgement(read_watch(replies[:n], bias), marks, bad[:n] | bad[n:])


def read_watch(replies: list[FloatArray], bias: float = 0.0) -> FloatArray:
    """Log-odds of watching out of the replies to "watch", float32 (n,)."""
    p = np.array([shifted(float(reply[-1]), bias) for reply in replies], np.float64).clip(1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)), np.float32)


def read_marks(replies: list[FloatArray]) -> FloatArray:
    """Probability of each level given that there is a mark, out of the replies to "stars", float32 (n, G)."""
    marks = np.array([reply[1:] for reply in replies], np.float64).reshape(len(replies), -1)
    total = marks.sum(axis=1, keepdims=True)
    level = np.divide(marks, total, out=np.full(marks.shape, 1 / max(marks.shape[1], 1)), where=total > 1e-9)
    return np.asarray(level, np.float32)


def tempered(marks: FloatArray, temperature: float) -> FloatArray:
    """Marks with sharper (below 1) or flatter (above 1) probabilities, float (n, G), rows sum to 1."""
    if temperature == 1.0:
        return marks
    logs = np.log(np.maximum(np.asarray(marks, np.float64), 1e-9)) / temperature
    p = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True), np.float32)
