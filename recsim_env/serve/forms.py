"""From a posted form to a person's reaction."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from pydantic import ValidationError

from recsim_env.errors import SeatError
from recsim_env.records import NextAction
from recsim_env.seat import Done, Moment, Reaction

LARGEST = 64 * 1024
"""Bytes of a form at most."""


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of a posted form.

    Raises:
        SeatError: If it is no form, or too large.
    """
    if len(body) > LARGEST:
        raise SeatError(f"The form is longer than {LARGEST} bytes.")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=1000))
    except ValueError:
        raise SeatError("The form cannot be read.") from None


def number(fields: Mapping[str, str], name: str) -> int:
    """A whole number.

    Raises:
        SeatError: If there is none.
    """
    try:
        return int(fields.get(name, ""))
    except ValueError:
        raise SeatError(f"{name}: a whole number is needed, not {fields.get(name, '')!r}.") from None


def moment(fields: Mapping[str, str]) -> Moment:
    """Which page the form is about."""
    numbers = (number(fields, name) for name in Moment._fields[1:])
    return Moment(fields.get("recommender", ""), *numbers)


def reaction(fields: Mapping[str, str]) -> Reaction:
    """What the person did, said and feels.

    Raises:
        SeatError: If it does not hang together; the text is for the person.
    """
    positions = sorted({int(name.partition("-")[2]) for name in fields if name.partition("-")[2].isdecimal()})
    try:
        done = [one for position in positions if (one := _done(fields, position)) is not None]
        action = NextAction[fields.get("next", "").upper()]
        speaks = action in (NextAction.SEARCH, NextAction.INSTRUCT)
        words = fields.get("message", "").strip()
        if words and not speaks:
            raise SeatError("You wrote words: search with them, or tell them to the recommender; or delete them.")
        return Reaction(done=tuple(done), next_action=action, message=words or None, mood=float(fields.get("mood", 0)))
    except (KeyError, ValidationError, ValueError) as error:
        raise SeatError(explained(error)) from None


def explained(error: Exception) -> str:
    """What was wrong with a reaction, for the person."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}." if where else f"{first['msg'].removeprefix('Value error, ').capitalize()}."
    return f"The form cannot be used: {error}."


def _done(fields: Mapping[str, str], position: int) -> Done | None:
    """What was done with one item; None where it was skipped."""

    def given(name: str) -> str:
        return fields.get(f"{name}-{position}", "").strip()

    said = [name for name in ("rating", "liked", "shared", "comment") if given(name)]
    if not given("watched"):
        if said:
            raise SeatError(f"Item {position + 1}: say how much of it you watched, or leave out the rest.")
        return None
    return Done(
        position=position,
        watched=float(given("watched")),
        rating=float(given("rating")) if given("rating") else None,
        liked=bool(given("liked")),
        shared=bool(given("shared")),
        comment=given("comment") or None,
    )
