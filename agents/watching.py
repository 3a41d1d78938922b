"""Phase 1 of a page: what is watched. Three ways to ask.

- ``pointwise``: every item on its own, all users and items in one batch; nothing on the page influences it.
- ``listwise``: one choice among the page's items and "none", by letters. The order that the model sees is drawn by
  item, not by place, and averaged over several orders: position bias of the model cannot favour a place of the slate.
- ``sequential``: down the page, each item conditioned on what was done above it; K engine calls.

Each gives clicked bool (N, K) and the probability of a click before the draw float32 (N, K).
"""

from __future__ import annotations

import numpy as np

from recsim_env.agents.prompting import LETTERS
from recsim_env.agents.scene import Ask, Scene
from recsim_env.draws import Draws
from recsim_env.errors import ContractError
from recsim_env.records import BoolArray, FloatArray


def pointwise(scene: Scene, bias: float) -> tuple[BoolArray, FloatArray]:
    """Every item on its own; ``bias`` is added to the log-odds of watching."""
    question = scene.prompts["watch.item"]
    asks = [
        Ask(i, "watch", question.render(item=scene.card(i, k)), len(question.options), int(scene.items[i, k]))
        for i, k in np.argwhere(scene.shown).tolist()
    ]
    found = scene.decide(asks)
    p = np.zeros(scene.items.shape, np.float32)
    for i, k in np.argwhere(scene.shown).tolist():
        p[i, k] = shifted(float(found[i, "watch", int(scene.items[i, k])][-1]), bias)
    return drawn(scene, p), p


def sequential(scene: Scene, bias: float) -> tuple[BoolArray, FloatArray]:
    """Down the page: what was done above stands in the prompt."""
    question = scene.prompts["watch.next_item"]
    luck, _ = scene.item_luck(0)
    p, clicked = np.zeros(scene.items.shape, np.float32), np.zeros(scene.items.shape, np.bool_)
    above = [["Nothing above."] for _ in range(scene.n)]
    for k in range(scene.items.shape[1]):
        users = np.flatnonzero(scene.shown[:, k]).tolist()
        asks = [
            Ask(
                i, "watch", question.render(above="\n".join(above[i]), item=scene.card(i, k)), len(question.options),
                int(scene.items[i, k]),
            )
            for i in users
        ]  # fmt: skip
        found = scene.decide(asks)
        for i in users:
            p[i, k] = shifted(float(found[i, "watch", int(scene.items[i, k])][-1]), bias)
            clicked[i, k] = luck[i, k] < p[i, k]
            above[i] = [line for line in above[i] if line != "Nothing above."]
            above[i].append(f"- {'watched' if clicked[i, k] else 'skipped'}: {scene.card(i, k)}")
    return clicked, p


def listwise(scene: Scene, bias: float, n_orders: int) -> tuple[BoolArray, FloatArray]:
    """At most one item of the page.

    Raises:
        ContractError: If the page has more items than there are letters.
    """
    n, size = scene.items.shape
    if size >= len(LETTERS):
        raise ContractError(
            f"users.decide 'listwise' has letters for {len(LETTERS) - 1} items, the page has {size}. Use a smaller "
            "slate_size or decide: pointwise."
        )
    question = scene.prompts["watch.list"]
    orders: dict[tuple[int, int], list[int]] = {}
    asks = []
    # Lanes 20 + o: the order depends on the items alone, so a slate in another order meets the same prompt.
    lanes = scene.items.astype(np.int64) + (scene.cards.catalog.n_items + 1) * (20 + np.arange(n_orders))[:, None, None]
    for i in range(n):
        places = np.flatnonzero(scene.shown[i])
        for o in range(n_orders):
            noise = Draws.bits(scene.keys[i : i + 1], lanes[o, i, places])[0]
            order = orders[i, o] = places[np.argsort(noise)].tolist()
            cards = [scene.card(i, k).replace("\n", " ") for k in order]
            body = question.render([*cards, "none of them"], items="The titles stand below.")
            asks.append(Ask(i, "list", body, len(order) + 1, o))
    found = scene.decide(asks)
    p = np.zeros((n, size), np.float32)
    for (i, o), order in orders.items():
        reply = found[i, "list", o]
        p[i, order] += (reply[:-1] / n_orders).astype(np.float32)
    total = np.clip(p.sum(axis=1, keepdims=True), 1e-9, 1.0)
    wanted = np.array([[shifted(float(t), bias)] for t in total[:, 0]], np.float32)
    p *= wanted / total
    utility = np.log(np.maximum(np.concatenate([p, 1.0 - p.sum(axis=1, keepdims=True)], axis=1), 1e-12))
    padded = np.concatenate([scene.items, np.full((n, 1), scene.cards.catalog.n_items, scene.items.dtype)], axis=1)
    chosen = np.argmax(utility + Draws.gumbels(scene.keys, padded), axis=1)
    return (chosen[:, None] == np.arange(size)) & scene.shown, p


def drawn(scene: Scene, p: FloatArray) -> BoolArray:
    """What is watched, with the luck of each item, bool (N, K), of probabilities float (N, K)."""
    luck, _ = scene.item_luck(0)
    return np.asarray((luck < p) & scene.shown)


def shifted(p: float, bias: float) -> float:
    """A probability whose log-odds are moved by ``bias``."""
    if not bias or p in (0.0, 1.0):
        return p
    odds = p / (1.0 - p) * float(np.exp(bias))
    return odds / (1.0 + odds)
