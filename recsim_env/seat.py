"""What lies before a person in a user's seat, and what it may do; :mod:`recsim_env.seated` seats it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from recsim_env.errors import SeatError
from recsim_env.evaluation.tables import Cell
from recsim_env.interfaces import UserModel
from recsim_env.records import MessageKind, NextAction

LONGEST = 300
"""Characters of a person's comment or message at most."""


MOODS = {"very bad": -1.0, "bad": -0.5, "neutral": 0.0, "good": 0.5, "very good": 1.0}
"""How a person says it feels."""
HEARS = {
    "words": "This recommender reads your words with a language model.",
    "genres": "This recommender understands names of genres in your words (More Comedy, no Horror) and nothing else; "
    "it obeys on the next page.",
    "nothing": "This recommender does not answer: nobody promises that what you tell it changes anything.",
}
"""What a person is told of :attr:`recsim_env.interfaces.Recommender.hears`."""


class Moment(NamedTuple):
    """Names one page of a run."""

    recommender: str
    seed: int
    user: int
    day: int
    session: int
    turn: int

    @property
    def cell(self) -> Cell:
        """Recommender and seed."""
        return self.recommender, self.seed


class Done(BaseModel):
    """What a person did with an item that it watched; what is not named was skipped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    position: int = Field(ge=0)
    watched: float = Field(default=1.0, gt=0, le=1)
    rating: float | None = None
    liked: bool = False
    shared: bool = False
    comment: str | None = Field(default=None, max_length=LONGEST)


class Reaction(BaseModel):
    """A person's reaction to a page. ``mood``, from -1 to 1, is how it says it feels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    done: tuple[Done, ...] = ()
    next_action: NextAction = NextAction.NEXT
    message: str | None = Field(default=None, max_length=LONGEST)
    mood: float = Field(default=0.0, ge=-1, le=1)

    @field_validator("message")
    @classmethod
    def _no_blank(cls, value: str | None) -> str | None:
        return (value or "").strip() or None

    @model_validator(mode="after")
    def _hang_together(self) -> Reaction:
        speaks = self.next_action in (NextAction.SEARCH, NextAction.INSTRUCT)
        if speaks and self.message is None:
            raise ValueError("a search or an instruction needs words; or choose another way to go on")
        if not speaks and self.message is not None:
            raise ValueError("words go with a search or an instruction only")
        if len({one.position for one in self.done}) < len(self.done):
            raise ValueError("an item stands there twice")
        return self


@dataclass(frozen=True, slots=True)
class Card:
    """One item as a person sees it; ``seen`` says that the user has watched it before."""

    title: str
    categories: tuple[str, ...]
    text: str
    seen: bool


@dataclass(frozen=True, slots=True)
class Served:
    """A page that lies before a person.

    Attributes:
        moment: Which page of the run it is.
        cards: The items from the top; None where a place stayed empty.
        levels: Marks that may be given.
        message: What the person said before.
        kind: Whether that was a search or an instruction.
        answer: The recommender's words.
        searched: The catalogue's search made the page.
        hears: What the recommender understands of an instruction: ``nothing``, ``genres`` or ``words``.
    """

    moment: Moment
    cards: tuple[Card | None, ...]
    levels: tuple[float, ...]
    message: str | None
    kind: MessageKind
    answer: str | None
    searched: bool
    hears: str

    def check(self, reaction: Reaction) -> None:
        """Refuses what cannot be done on this page.

        Raises:
            SeatError: If it is about a place without an item, or a mark is not on the scale.
        """
        for one in reaction.done:
            if one.position >= len(self.cards) or self.cards[one.position] is None:
                raise SeatError(f"There is no item {one.position + 1} on this page.")
            if one.rating is not None and one.rating not in self.levels:
                allowed = ", ".join(f"{level:g}" for level in self.levels)
                raise SeatError(f"Item {one.position + 1}: {one.rating:g} is no mark here. Allowed: {allowed}.")


class Person(Protocol):
    """Somebody who may sit in a seat; asked in the simulation's own thread."""

    def meet(self, cell: Cell, users: UserModel) -> None:
        """Is told that a cell begins, and who its users are: whoever looks on may ask what they remember."""

    def seats(self, cell: Cell) -> Sequence[int]:
        """Users of a cell whose seats it has taken; looked at as a visit begins."""

    def react(self, served: Served) -> Reaction | None:
        """Waits for its reaction to a page; None gives the seat back."""


class Nobody:
    """Takes no seat: for runs that are only repeated."""

    def meet(self, cell: Cell, users: UserModel) -> None:
        """Does not care."""

    def seats(self, cell: Cell) -> Sequence[int]:
        """None."""
        return ()

    def react(self, served: Served) -> Reaction | None:
        """Is not there."""
        return None
