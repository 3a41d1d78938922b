"""The Gymnasium environment of one user: the one-slot case of the vector environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from recsim_env.build import World
from recsim_env.records import FloatArray, IntArray, ObservationBatch
from recsim_env.spaces import Observation
from recsim_env.vector_env import Info, RecSimVectorEnv, Source

__all__ = ["RecSimEnv", "RecSimVectorEnv"]


class RecSimEnv(gymnasium.Env[Observation, IntArray]):
    """One simulated user of a recommender system.

    ## Description
    A user opens the app, sees a page of ``slate_size`` items, clicks, watches and rates some of them, grows content or
    bored, may say what it wants, and goes on to the next page or leaves. Some come back on later days, some never.
    The agent chooses the pages. What users want stays hidden; the agent sees what a recommender would.

    ## Action Space
    Slots of the candidate set, one per position: ``MultiDiscrete([C] * K)`` with K = ``slate_size``, or ``Discrete(C)``
    where K is 1. C is the scenario's ``candidates`` (the best C of its ``retriever``), or the whole catalogue: then a
    slot is an item index. A slot that is named twice or is empty gives way to the next free one, flagged in
    ``info["replaced"]``. The agent also serves users who search: the query is in the observation.

    ## Observation Space
    A ``Dict`` of ``Box``; G is the number of categories, I of items, M = C the candidates.

    | Key | Shape | Type | Columns | Range |
    |---|---|---|---|---|
    | `user` | (G + 2,) | float32 | mean category shares of all that the user rated or clicked | [0, 1] |
    | | | | mean rating, from the scale's lowest to its highest | [-1, 1] |
    | | | | log(1 + events) / log(1 + I) | [0, 1] |
    | `page` | (G + 2,) | float32 | category shares of the clicks on the session's previous page / K | [0, 1] |
    | | | | clicks / K; sum of watched fractions / K | [0, 1] |
    | `clock` | (4,) | float32 | day / days, session / max_sessions, turn / max_turns | [0, 1] |
    | | | | 1 on the first page of a session, else 0 | {0, 1} |
    | `message` | (G,) | float32 | categories that the user asked for (+1) or wants no more (-1) | [-1, 1] |
    | `message_kind` | (3,) | float32 | one-hot: silent, search, instruction | {0, 1} |
    | `candidate_features` | (M, G + 3) | float32 | item features as in ``item_features``; 1 if seen | [-1, 1] |
    | `history` | (L,) | int32 | item indices, latest last, padded in front with I | [0, I] |
    | `candidates` | (M,) | int32 | item indices of the slots, padded with I | [0, I] |

    The candidates' keys exist only if the scenario sets ``candidates``; with the whole catalogue the features are the
    same for everybody and stand in the attribute ``item_features``. Item indices only come with ``item_ids=True``:
    they are for policies with an embedding, and useless as plain numbers.

    ## Rewards
    The weighted sum of the scenario's ``reward`` functions (``clicks``: 1 per click). All use visible things only.

    ## Starting State
    The first page of the first session of a user who knows what the data set's history says. ``reset(seed=...)`` makes
    a population; each further episode serves its next user.

    ## Episode End
    ``episode: session``: terminated when the user leaves, truncated after ``max_turns`` pages.
    ``episode: life``: terminated when the user stops for good, truncated when the ``days`` are over. Sessions end and
    begin within the episode: the next observation is the first page of the next session, on the same or a later day.

    ## Arguments
    | Argument | Default | Meaning |
    |---|---|---|
    | `scenario` | `"quickstart"` | a shipped scenario's name, a YAML file, plain data or a ``Scenario`` |
    | `overrides` | `()` | strings such as `"users.count=100"` |
    | `world` | None | a ``World`` with its fitted data, instead of ``scenario`` |
    | `item_ids` | False | whether item indices are part of the observation |
    | `render_mode` | None | `"ansi"`: ``render()`` gives the last page as text |

    ``reset(options={"users": [3]})`` serves user 3 first.

    ## Version History
    * v0: first version.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]

    def __init__(
        self,
        *,
        scenario: Source | None = None,
        overrides: Sequence[str] = (),
        world: World | None = None,
        item_ids: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.vector = RecSimVectorEnv(
            scenario=scenario, overrides=overrides, world=world, item_ids=item_ids, render_mode=render_mode
        )
        self.render_mode = render_mode
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self._next: tuple[Observation, Info] | None = None

    @property
    def observation_batch(self) -> ObservationBatch:
        """What a recommender may see now, a batch of one; see :class:`RecSimVectorEnv`."""
        return self.vector.observation_batch

    @property
    def item_features(self) -> FloatArray:
        """float32 (I, C + 2), see :func:`recsim_env.data.features.item_features`."""
        return self.vector.item_features

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Starts an episode, see :meth:`RecSimVectorEnv.reset`."""
        super().reset(seed=seed)
        begun, self._next = self._next, None
        if begun is not None and seed is None and not options:
            return begun  # the vector environment has gone on to the next user already
        observation, info = self.vector.reset(seed=seed, options=options)
        return _first(observation), _first_info(info)

    def step(self, action: IntArray | int) -> tuple[Observation, float, bool, bool, Info]:
        """Shows one page, see :meth:`RecSimVectorEnv.step`.

        Raises:
            ResetNeeded: After the end of an episode.
        """
        if self._next is not None:
            raise ResetNeeded("The episode is over. Call reset() before step().")
        actions = np.asarray(action)[None]
        observation, reward, terminated, truncated, info = self.vector.step(actions)
        now = _first(observation), _first_info(info)
        if terminated[0] or truncated[0]:
            self._next = now
            now = info["final_obs"][0], _first_info(info["final_info"])
        return now[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), now[1]

    def set_propensity(self, propensity: FloatArray) -> None:
        """Tells with what probability the next action is drawn, float (K,); see :class:`RecSimVectorEnv`."""
        self.vector.set_propensity(np.asarray(propensity)[None])

    def render(self) -> str | None:
        """The last page as text, in render mode "ansi"."""
        pages = self.vector.render()
        return None if pages is None else pages[0]

    def close(self) -> None:
        """Closes the environment."""
        self.vector.close()


def _first(arrays: Mapping[str, NDArray[Any]]) -> Observation:
    return {name: array[0] for name, array in arrays.items()}


def _first_info(info: Info) -> Info:
    """Info of the only slot, without masks and without what is masked out."""
    plain = {name: value for name, value in info.items() if not name.startswith(("_", "final_"))}
    return {name: value[0] for name, value in plain.items() if info[f"_{name}"][0]}
